package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime/debug"
	"strings"
	"sync"
	"time"
	"weak"

	"github.com/go-logr/zapr"
	"github.com/spf13/cobra"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"

	"github.com/certherd/certherd/apply"
	"github.com/certherd/certherd/config"
	"github.com/certherd/certherd/gate"
	"github.com/certherd/certherd/inventory"
	"github.com/certherd/certherd/inventory/live"
	"github.com/certherd/certherd/plan"
	"github.com/certherd/certherd/service"
	"github.com/certherd/certherd/tracing"
	"github.com/certherd/certherd/web"
)

// serviceAccountNamespace is where a Pod finds its own namespace.
const serviceAccountNamespace = "/var/run/secrets/kubernetes.io/serviceaccount/namespace"

func runCommand() *cobra.Command {
	var (
		s      source
		level  string
		page   string
		follow bool
	)
	o := service.Defaults()
	c := &cobra.Command{
		Use:   "run",
		Short: "Keep rounds as a service in the cluster",
		Long: `run looks at the cluster on the schedules of the ConfigMap certherd, serves the newest report, and
carries out what the configuration allows; without a configuration it only reports. Of several
replicas one leads, and only it writes. See docs/running.md.

With --namespaces it reports on those alone, and where it may not list the whole cluster, it reads
them alone. As what it cannot see may refer to a Secret, it then calls nothing unused.

It ends on SIGTERM: what was being carried out ends at its next step, and another replica takes over.`,
		Example: `  # In a Pod: the namespace and the name come from POD_NAMESPACE and POD_NAME
  certherd run

  # From a workstation, against the cluster of the kubeconfig
  certherd run --namespace certherd --listen 127.0.0.1:8080

  # With buttons on its page for people who sign in
  certherd run --page sign-in

  # With Roles in two namespaces only
  certherd run --namespaces team-a,team-b

  # What it says
  curl -s http://127.0.0.1:8080/report.json
  curl -s -X PUT -d '{"level":"debug"}' http://127.0.0.1:8080/loglevel`,
		Args: cobra.NoArgs,
	}
	s.loading = clientcmd.NewDefaultClientConfigLoadingRules()
	f := c.Flags()
	f.StringVar(&s.loading.ExplicitPath, "kubeconfig", "", "path of the kubeconfig file to use; in a Pod none is needed")
	names := clientcmd.RecommendedConfigOverrideFlags("")
	names.ContextOverrideFlags.Namespace.ShortName = "n"
	names.ContextOverrideFlags.Namespace.Description = "namespace of certherd itself (default: POD_NAMESPACE, else that of the Pod's service account)"
	clientcmd.BindOverrideFlags(&s.overrides, f, names)
	f.StringSliceVar(&o.Namespaces, "namespaces", nil, "namespaces to report on, and to read where the whole cluster may not be listed (default: all)")
	f.StringVar(&o.ConfigMap, "config-map", o.ConfigMap, "ConfigMap with the configuration, in the namespace of certherd")
	f.StringVar(&o.Report, "report-config-map", o.Report, "ConfigMap that the newest report is kept in")
	f.StringVar(&o.Leader.Name, "lease", "certherd", "Lease that the replicas elect their leader with")
	f.StringVar(&o.Leader.Identity, "identity", "", "name of this replica, which no other may have (default: POD_NAME, else the name of the host)")
	f.DurationVar(&o.Leader.LeaseDuration, "lease-duration", o.Leader.LeaseDuration, "how long others wait after the leader's last renewal")
	f.DurationVar(&o.Leader.RenewDeadline, "renew-deadline", o.Leader.RenewDeadline, "how long the leader leads after its last renewal")
	f.DurationVar(&o.Leader.RetryPeriod, "retry-period", o.Leader.RetryPeriod, "time between two attempts to get or renew the lease")
	f.StringVar(&o.Listen, "listen", o.Listen, "address of the HTTP server; by default all addresses of the Pod")
	f.DurationVar(&o.Pause, "pause", o.Pause, "least time between two looks that no schedule asks for: after a change of the configuration, or an approval")
	f.BoolVar(&follow, "follow", true, "follow what changes between two looks, and show at /since.json and / which findings come and go; needs the right to watch, and about 2 KiB of memory for each certificate")
	f.StringVar(&page, "page", string(o.Page), "for whom the page at / is: open (all who can reach it look), sign-in (people may sign in, and approve), private (nobody sees anything without signing in, nor the report)")
	_ = c.RegisterFlagCompletionFunc("page", cobra.FixedCompletions([]string{string(web.Open), string(web.SignIn), string(web.Private)}, cobra.ShellCompDirectiveNoFileComp))
	f.BoolVar(&o.Pprof, "pprof", false, "serve /debug/pprof to callers from the Pod itself")
	f.StringVar(&level, "log-level", "info", "debug, info, warn or error; can be changed at /loglevel")
	c.RunE = func(c *cobra.Command, _ []string) error {
		if err := o.Level.UnmarshalText([]byte(level)); err != nil {
			return fmt.Errorf("cannot use --log-level: %w; use debug, info, warn or error", err)
		}
		var err error
		if o.Page, err = web.ParseMode(page); err != nil {
			return fmt.Errorf("cannot use --page: %w", err)
		}
		if o.Namespace, err = ownNamespace(s.overrides.Context.Namespace); err != nil {
			return err
		}
		if o.Leader.Identity == "" {
			if o.Leader.Identity = os.Getenv("POD_NAME"); o.Leader.Identity == "" {
				if o.Leader.Identity, err = os.Hostname(); err != nil {
					return fmt.Errorf("this replica needs a name: %w; set --identity or POD_NAME", err)
				}
			}
		}
		if o.Cluster, err = s.config(); err != nil {
			return err
		}
		// Each part paces what it writes; reading is limited by the API server.
		o.Cluster.QPS = -1
		if o.Log, err = newLog(o.Level); err != nil {
			return err
		}
		defer func() { _ = o.Log.Sync() }()
		klog.SetLogger(zapr.NewLogger(o.Log.Named("client-go")))
		if os.Getenv("GOGC") == "" {
			debug.SetGCPercent(live.GCPercent)
		}
		o.Version, o.Rules = version(), reportOptions(nil).Rules
		look := looker{cluster: o.Cluster, namespaces: o.Namespaces}
		o.Look, o.Idle = look.look, giveBack
		if follow {
			o.Follow = look.follow
		}
		o.Collector = func(cluster *rest.Config, c config.Config, h service.Hooks) (service.Collector, error) {
			return newCollector(cluster, o, c, h)
		}
		traced, err := tracing.Start(c.Context(), o.Version, func(err error) { o.Log.Warn("traces not sent", zap.Error(err)) })
		if err != nil {
			return err
		}
		defer func() {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(c.Context()), 5*time.Second)
			defer cancel()
			_ = traced(ctx) // what could not be sent was told
		}()
		x, err := service.New(o)
		if err != nil {
			return err
		}
		return x.Run(c.Context(), func(net.Addr) {})
	}
	return c
}

// ownNamespace is the namespace that certherd runs in.
func ownNamespace(flag string) (string, error) {
	if flag != "" {
		return flag, nil
	}
	if ns := os.Getenv("POD_NAMESPACE"); ns != "" {
		return ns, nil
	}
	b, err := os.ReadFile(serviceAccountNamespace)
	if err != nil {
		return "", fmt.Errorf("it is not known in which namespace certherd runs: set --namespace or POD_NAMESPACE (%w)", err)
	}
	return strings.TrimSpace(string(b)), nil
}

// newLog logs as JSON to standard error, every line of it.
func newLog(level zap.AtomicLevel) (*zap.Logger, error) {
	c := zap.NewProductionConfig()
	c.Level, c.Sampling, c.DisableStacktrace = level, nil, true
	c.EncoderConfig.TimeKey, c.EncoderConfig.EncodeTime = "time", zapcore.ISO8601TimeEncoder
	c.EncoderConfig.EncodeDuration = zapcore.SecondsDurationEncoder
	log, err := c.Build()
	if err != nil {
		return nil, fmt.Errorf("cannot log: %w", err)
	}
	return log.Named("certherd"), nil
}

// looker looks at the cluster, and knows how far each look reached.
type looker struct {
	cluster    *rest.Config
	namespaces []string

	mu       sync.Mutex
	newest   weak.Pointer[inventory.Snapshot]
	versions live.Versions // of newest
}

func (l *looker) look(ctx context.Context) (*inventory.Snapshot, error) {
	snapshot, stats, err := live.Look(ctx, l.cluster, live.Options{Namespaces: l.namespaces, Proof: true, Now: time.Now})
	giveBack() // what was read makes room for what is decided
	l.mu.Lock()
	defer l.mu.Unlock()
	l.newest, l.versions = weak.Make(snapshot), stats.Versions
	return snapshot, err
}

// follow tells what changes after a look, which has to be the newest one.
func (l *looker) follow(ctx context.Context, s *inventory.Snapshot, changed func(inventory.Change)) error {
	l.mu.Lock()
	newest, versions := l.newest.Value(), l.versions
	l.mu.Unlock()
	if newest != s {
		return errors.New("there was another look since")
	}
	return live.Watch(ctx, l.cluster, versions, changed)
}

// giveBack gives memory back that is not in use, for as long as it is not.
func giveBack() {
	debug.FreeOSMemory()
	forgetPages()
}

// keeps reports whether a step is the deletion of a Secret that the same change
// retires: that is for a later round.
func keeps(x apply.Outcome) bool {
	if x.Status != apply.Later || x.Action() != plan.Delete || x.Step == 0 {
		return false
	}
	before := x.Change.Steps[x.Step-1]
	return before.Action == plan.Retire && before.Object == x.Object()
}

// collector is the Applier of a term.
type collector struct {
	*apply.Applier
	cluster    *rest.Config
	namespaces []string
	ready      bool
}

func newCollector(cluster *rest.Config, s service.Options, c config.Config, h service.Hooks) (service.Collector, error) {
	o := apply.Defaults()
	o.Namespace, o.Look, o.Before, o.Pace = s.Namespace, s.Look, h.Before, h.Pace
	o.Tell = func(x apply.Outcome) {
		h.Tell(service.Outcome{Action: x.Action(), Object: x.Object(), Result: string(x.Status), Why: x.Why,
			Planned: keeps(x), Change: x.Change.ID, Reason: string(x.Change.Why.Reason), Message: x.Change.Why.Message, Round: x.Round})
	}
	o.Grace, o.ExpiredGrace = time.Duration(c.GC.GracePeriod), time.Duration(c.GC.ExpiredGracePeriod)
	// A grace period that never ends must not keep the journal full for ever.
	o.Keep = min(max(o.Keep, o.Grace), 90*24*time.Hour)
	a, err := apply.New(cluster, o)
	if err != nil {
		return nil, err
	}
	return &collector{Applier: a, cluster: cluster, namespaces: s.Namespaces}, nil
}

// Ready asks for rights until it has them all: what is taken away later, each
// step finds out.
func (c *collector) Ready(ctx context.Context) error {
	if c.ready {
		return nil
	}
	namespaces := c.namespaces
	if len(namespaces) == 0 {
		namespaces = []string{""}
	}
	for _, ns := range namespaces {
		missing, err := apply.Missing(ctx, c.cluster, ns)
		if err != nil {
			return err
		}
		if len(missing) == 0 {
			continue
		}
		where := "in all namespaces"
		if ns != "" {
			where = "in namespace " + ns
		}
		var what []string
		for _, r := range missing {
			what = append(what, r.String())
		}
		return fmt.Errorf("the account of certherd lacks the right %s to %s; grant it, as manifests/enforce does, or set every rule to mode: audit", where, strings.Join(what, ", "))
	}
	c.ready = true
	return nil
}

func (c *collector) Collect(ctx context.Context, cleared gate.Cleared) { c.Run(ctx, cleared) }
