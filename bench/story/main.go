// Command story is what `make story` runs: a Kourier gateway that is killed when it
// takes more memory than a guard allows, and beside it one behind certherd-relay, in a
// cluster that a busy CI changes all the time; first with a certificate for each
// service, then after certherd's service has folded them into wildcards. It writes
// docs/story.md and its plots.
package main

import (
	"context"
	"crypto/x509"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/certherd/certherd/api/v1alpha1"
	"github.com/certherd/certherd/e2e/plot"
	"github.com/certherd/certherd/e2e/replica"
	"github.com/certherd/certherd/e2e/scenario"
	"github.com/certherd/certherd/e2e/stack"
)

// settings are what the flags say.
type settings struct {
	services, namespaces, guard, clients int
	length, request                      time.Duration
	local                                bool
	docs                                 string
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var s settings
	flag.IntVar(&s.services, "services", 300, "Knative Services")
	flag.IntVar(&s.namespaces, "namespaces", 4, "namespaces that they are in")
	flag.IntVar(&s.guard, "guard", 300, "MiB of RssAnon at which a gateway is killed")
	flag.IntVar(&s.clients, "clients", 10, "clients of each gateway whose requests are long")
	flag.DurationVar(&s.length, "for", 3*time.Minute, "how long the CI is busy, each time")
	flag.DurationVar(&s.request, "request", 30*time.Second, "how long a long request takes")
	flag.BoolVar(&s.local, "local", true, "cluster-local certificates, too")
	flag.StringVar(&s.docs, "docs", "docs", "folder of story.md")
	flag.Parse()
	if err := s.run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "story:", err)
		os.Exit(1)
	}
}

func progress(format string, a ...any) {
	fmt.Fprintf(os.Stderr, "story: %s  %s\n", time.Now().Format("15:04:05"), fmt.Sprintf(format, a...))
}

// world is the cluster and its two gateways.
type world struct {
	settings
	folder  string
	stack   *stack.Stack
	cluster *scenario.Cluster
	roots   *x509.CertPool
	ci      *ci
}

func (s settings) run(ctx context.Context) (err error) {
	begun := time.Now()
	w := &world{settings: s}
	if w.folder, err = os.MkdirTemp("", "certherd-story-"); err != nil {
		return err
	}
	defer os.RemoveAll(w.folder)
	build := exec.CommandContext(ctx, "go", "build", "-o", w.folder, "./cmd/certherd", "./cmd/certherd-relay")
	build.Stderr = os.Stderr
	if err := build.Run(); err != nil {
		return fmt.Errorf("build certherd: %w", err)
	}
	if w.stack, err = stack.Start(ctx, stack.Options{Level: stack.Full, Out: os.Stderr}); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.stack.Stop()) }()
	if err := w.fill(ctx); err != nil {
		return err
	}
	gateways := []*gateway{{w: w, name: "stock", config: filepath.Join(w.stack.Dir, stack.BootstrapFile)}, {w: w, name: "relay", pod: "relayed", config: filepath.Join(w.folder, "relayed.yaml")}}
	if err := gateways[1].start(ctx); err != nil {
		return err
	}
	var results []result
	own, err := w.measure(ctx, gateways, "a certificate each")
	if err != nil {
		return err
	}
	results = append(results, own...)
	progress("starting certherd's service, which folds the certificates")
	set, err := replica.Start(ctx, w.stack, w.cluster, replica.Options{Program: filepath.Join(w.folder, "certherd"), Manifests: "manifests", Folder: w.folder,
		Configuration: fmt.Sprintf(configuration, w.stack.EnvoyAdmin, w.stack.GatewayTLS), Replicas: 2})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, set.Stop()) }()
	folding := time.Now()
	if err := w.folded(ctx, set); err != nil {
		return err
	}
	took := time.Since(folding)
	wildcards, err := w.measure(ctx, gateways, "wildcards")
	if err != nil {
		return err
	}
	results = append(results, wildcards...)
	return w.write(results, took, time.Since(begun))
}

// fill makes the services.
func (w *world) fill(ctx context.Context) error {
	admin, err := w.stack.RESTConfig()
	if err != nil {
		return err
	}
	if w.cluster, err = scenario.Connect(admin, os.Stderr); err != nil {
		return err
	}
	secret, err := w.cluster.Typed.CoreV1().Secrets("cert-manager").Get(ctx, "stack-ca", metav1.GetOptions{})
	if err != nil {
		return err
	}
	w.roots = x509.NewCertPool()
	if !w.roots.AppendCertsFromPEM(secret.Data["ca.crt"]) {
		return errors.New("the stack's CA has no certificate")
	}
	if w.local {
		// As the suites kourier-tls of Knative's CI have it (serving's test/e2e-common.sh).
		if err := w.cluster.Apply(ctx, clusterLocal, nil); err != nil {
			return err
		}
	}
	w.ci = &ci{w: w}
	var names []string
	for n := range w.namespaces {
		names = append(names, fmt.Sprintf("team-%d", n))
	}
	if err := w.cluster.Namespaces(ctx, names...); err != nil {
		return err
	}
	var list []scenario.Service
	for i := range w.services {
		list = append(list, scenario.Service{Namespace: names[i%len(names)], Name: fmt.Sprintf("svc-%03d", i)})
	}
	w.ci.services = list
	if err := w.cluster.Services(ctx, list); err != nil {
		return err
	}
	return w.ci.endpoints(ctx)
}

const clusterLocal = `
apiVersion: v1
kind: ConfigMap
metadata: {name: config-certmanager, namespace: knative-serving}
data: {clusterLocalIssuerRef: "kind: ClusterIssuer\nname: ca\n"}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: config-network, namespace: knative-serving}
data: {cluster-local-domain-tls: Enabled}
`

// configuration folds at once. acceptDrains is what makes certherd do so although
// the stock gateway drains for a shorter time than requests take: by default, it
// proposes this and stops there.
const configuration = `
maxShare: 100%%
breaker: {pods: [], gateways: ["http://%s/stats/prometheus"], settle: 0s, unready: 1000000, rejected: 1000000}
gc: {mode: enforce, schedule: "@every 10s", minAge: 5s, gracePeriod: 10s, budget: {count: disabled, share: 100%%}}
consolidate: {mode: enforce, schedule: "@every 10s", acceptDrains: true, soak: 5s, budget: {count: disabled, share: 100%%}, gateway: %s}
batch: {reloads: {updates: 10000, gap: 0s, largest: 1000}}
`

// folded waits until every namespace's certificates are one wildcard.
func (w *world) folded(ctx context.Context, set *replica.Set) error {
	told := time.Now()
	for end := time.Now().Add(15 * time.Minute); ; {
		list, err := w.cluster.Dynamic.Resource(v1alpha1.GroupVersionResource).List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		done, phases := 0, []string{}
		for i := range list.Items {
			c, err := v1alpha1.FromUnstructured(&list.Items[i])
			if err != nil {
				return err
			}
			phases = append(phases, fmt.Sprintf("%s %s %s", c.Namespace, c.Status.Phase, c.Status.Message))
			if c.Status.Phase == v1alpha1.Done || c.Status.Phase == v1alpha1.Sweeping {
				done++
			}
		}
		if done == w.namespaces {
			return nil
		}
		if time.Since(told) > 15*time.Second {
			told = time.Now()
			progress("%s", strings.Join(phases, "; "))
		}
		if err := set.Err(); err != nil {
			return err
		}
		if time.Now().After(end) {
			return fmt.Errorf("not folded after 15 minutes: %s", strings.Join(phases, "; "))
		}
		if err := sleep(ctx, time.Second); err != nil {
			return err
		}
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// result is what became of one gateway.
type result struct {
	gateway, certificates             string
	loaded, killed, updates           int
	rest, peak                        float64
	short, shortFailed, long, longCut int
	events                            string
	memory                            []plot.Point
	example                           string
}

// measure has the CI be busy, and says what became of each gateway.
func (w *world) measure(ctx context.Context, gateways []*gateway, certificates string) ([]result, error) {
	progress("waiting for both gateways to come to rest")
	loaded := make([]int, len(gateways))
	for i, g := range gateways {
		if err := g.restart(ctx); err != nil {
			return nil, err
		}
		if err := g.settle(ctx); err != nil {
			return nil, err
		}
		var err error
		if loaded[i], err = g.loaded(ctx); err != nil {
			return nil, err
		}
	}
	progress("%s: the CI is busy for %s", certificates, w.length)
	begun := time.Now()
	for i, g := range gateways {
		g.begin(ctx, loaded[i], begun.Add(w.length))
	}
	counts, err := w.ci.busy(ctx, begun.Add(w.length))
	if err != nil {
		return nil, err
	}
	var out []result
	for _, g := range gateways {
		r := g.end()
		r.certificates, r.events = certificates, counts
		progress("%s, %s: %d killed, peak %.0f MiB, %d of %d long requests cut, %d of %d short ones failed", g.name, certificates, r.killed, r.peak, r.longCut, r.long, r.shortFailed, r.short)
		out = append(out, r)
	}
	return out, nil
}

const beginMark, endMark = "<!-- what follows is written by make story -->", "<!-- what make story writes ends here -->"

func (w *world) write(results []result, folding, took time.Duration) error {
	var b strings.Builder
	locals := ""
	if w.local {
		locals = " and a cluster-local one"
	}
	fmt.Fprintf(&b, "%d services in %d namespaces, each with an external certificate%s; the guard at %d MiB; %s of a busy CI each time; %d clients whose requests take %s, and 2 that ask five times a second, at each gateway. %s, %d CPUs, `make story` took %s.\n\n",
		w.services, w.namespaces, locals, w.guard, w.length, w.clients, w.request, time.Now().UTC().Format(time.DateOnly), runtime.NumCPU(), took.Round(time.Second))
	head, rule := "| |", "|---|"
	for _, r := range results {
		head += fmt.Sprintf(" %s, %s |", r.certificates, map[string]string{"stock": "stock Kourier", "relay": "with the relay"}[r.gateway])
		rule += "---|"
	}
	fmt.Fprintf(&b, "%s\n%s\n", head, rule)
	row := func(name string, value func(result) string) {
		fmt.Fprintf(&b, "| %s |", name)
		for _, r := range results {
			fmt.Fprintf(&b, " %s |", value(r))
		}
		b.WriteString("\n")
	}
	row("certificates that Envoy loads", func(r result) string { return fmt.Sprint(r.loaded) })
	row("MiB before the CI begins", func(r result) string { return fmt.Sprintf("%.0f", r.rest) })
	row("highest MiB", func(r result) string { return fmt.Sprintf("%.0f", r.peak) })
	row("killed by the guard", func(r result) string { return fmt.Sprint(r.killed) })
	row("updates of listeners", func(r result) string { return fmt.Sprint(r.updates) })
	row("long requests that ended early", func(r result) string { return fmt.Sprintf("%d of %d", r.longCut, r.long) })
	row("short requests that failed", func(r result) string { return fmt.Sprintf("%d of %d", r.shortFailed, r.short) })
	fmt.Fprintf(&b, "\nEvents with a certificate each: %s. With wildcards: %s. To fold the certificates, certherd's service took %s.\n", results[0].events, results[len(results)-1].events, folding.Round(time.Second))
	for i, r := range results {
		if r.example != "" {
			fmt.Fprintf(&b, "How the first request failed (%s, %s): `%s`.\n", r.certificates, r.gateway, strings.ReplaceAll(r.example, "`", "'"))
		}
		if i%2 == 1 {
			file := fmt.Sprintf("story-%d.svg", i/2+1)
			chart := plot.Lines{Title: "Memory (RssAnon, MiB): " + r.certificates, Limit: float64(w.guard), Limited: "guard",
				Lines: []plot.Line{{Name: "stock Kourier", Points: results[i-1].memory}, {Name: "with the relay", Points: r.memory}}}
			if err := os.WriteFile(filepath.Join(w.docs, file), []byte(chart.SVG()), 0o644); err != nil {
				return err
			}
			fmt.Fprintf(&b, "\n![Memory of both gateways with %s](%s)\n\n", r.certificates, file)
		}
	}
	page := filepath.Join(w.docs, "story.md")
	text, err := os.ReadFile(page)
	if err != nil {
		return err
	}
	before, rest, ok := strings.Cut(string(text), beginMark)
	_, after, ok2 := strings.Cut(rest, endMark)
	if !ok || !ok2 {
		return fmt.Errorf("%s lacks the lines %q and %q", page, beginMark, endMark)
	}
	fmt.Println(b.String())
	return os.WriteFile(page, []byte(before+beginMark+"\n"+strings.TrimRight(b.String(), "\n")+"\n"+endMark+after), 0o644)
}
