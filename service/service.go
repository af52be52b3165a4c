// Package service keeps rounds: it looks at the cluster when the configuration
// says so, decides, has what is cleared carried out while it leads, and tells by
// HTTP, metrics, Events and a ConfigMap what it found.
//
// Every replica looks and serves its newest report. Only the leader writes: to
// Events, to the ConfigMap of the report, and what the gate has cleared; what people
// decide on the page of any replica is written as their own programs would.
package service

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"

	"github.com/certherd/certherd/apply"
	batchlive "github.com/certherd/certherd/batch/live"
	"github.com/certherd/certherd/config"
	"github.com/certherd/certherd/gate"
	"github.com/certherd/certherd/inventory"
	"github.com/certherd/certherd/leader"
	"github.com/certherd/certherd/plan"
	"github.com/certherd/certherd/report"
	"github.com/certherd/certherd/web"
)

// Outcome is what became of one step of a change.
type Outcome struct {
	Action plan.Action
	Object inventory.Ref
	Result string // a word or two, from a small set: it becomes a label
	// Why is what kept the step from being done; empty when it was.
	Why string
	// Planned says that it was not to be done in this round: a Secret that has been
	// retired is deleted in a later one.
	Planned bool
	// Change, Reason and Message are the ID of the change and the finding that led
	// to it; Round names the round in the journal.
	Change, Reason, Message, Round string
}

// Hooks are how a Collector asks and tells while it is at work.
type Hooks struct {
	// Before is asked before each batch of writes. An error puts off all that is
	// left.
	Before func(context.Context) error
	// Pace decides when what gateways see may be written.
	Pace apply.Pacer
	// Tell is told of each step as it ends.
	Tell func(Outcome)
}

// Collector carries out what the gate has cleared, and returns when it is done, or
// soon after ctx has ended.
type Collector interface {
	// Ready says what keeps it from carrying out anything at all, such as rights
	// that the account lacks, nil if nothing does.
	Ready(ctx context.Context) error
	Collect(ctx context.Context, cleared gate.Cleared)
}

// Options say where the service is, and what it works with.
type Options struct {
	// Cluster leads to the API server.
	Cluster *rest.Config
	// Namespace is the service's own; ConfigMap and Report name the ConfigMaps of
	// the configuration and of the newest report in it.
	Namespace, ConfigMap, Report string
	// Leader are the terms of the election; its Namespace may be empty.
	Leader leader.Options
	// Listen is the address of the HTTP server.
	Listen string
	// Page says for whom the page at / is.
	Page web.Mode
	// Pprof adds /debug/pprof, for callers from the Pod itself.
	Pprof bool
	// Namespaces narrow what is reported and carried out, not what is looked at.
	// Empty means all.
	Namespaces []string
	// Look takes a Snapshot of the whole cluster.
	Look func(context.Context) (*inventory.Snapshot, error)
	// Follow tells what has changed since a Snapshot of Look, as it changes, until ctx
	// ends; an error says why it cannot, or not any more. Nil follows nothing.
	Follow func(ctx context.Context, s *inventory.Snapshot, changed func(inventory.Change)) error
	// Collector makes the Collector for a term under a configuration. cluster
	// refuses to write unless the context of the request is that of the term. Nil
	// carries out nothing.
	Collector func(cluster *rest.Config, c config.Config, h Hooks) (Collector, error)
	// Rules describe the reasons, for the HTML page and for what is worth an
	// Event: those of level error.
	Rules []report.Rule
	// Version is that of certherd.
	Version string
	Log     *zap.Logger
	// Level is the level of Log, which /loglevel shows and sets.
	Level zap.AtomicLevel
	// Pause is the least time between the end of a round and the next one that
	// no schedule asked for, and before a failed one is tried again.
	Pause time.Duration
	// RoundTimeout ends a look that takes too long.
	RoundTimeout time.Duration
	// Idle, when set, is called when a round has ended: the time to give memory back.
	Idle func()
	// Ending is how long the end may take once it has begun.
	Ending time.Duration
}

// Defaults are the options that need not be thought about.
func Defaults() Options {
	return Options{
		ConfigMap: config.ConfigMapName, Report: "certherd-report", Leader: leader.Defaults(), Listen: ":8080", Page: web.Open,
		Log: zap.NewNop(), Level: zap.NewAtomicLevel(),
		Pause: 10 * time.Second, RoundTimeout: 30 * time.Minute, Ending: 20 * time.Second,
	}
}

// Service is one replica.
type Service struct {
	o       Options
	log     *zap.Logger
	client  kubernetes.Interface // for what is the service's own
	guarded kubernetes.Interface // writes during a term only
	writer  *rest.Config         // the same, for a Collector
	metrics *metrics

	config  atomic.Pointer[configuration]
	changed chan struct{} // has an element when config was changed
	newest  atomic.Pointer[published]
	since   atomic.Pointer[web.Since] // what has changed since the look of newest
	leading atomic.Bool
	began   atomic.Int64 // when the round that is under way began, Unix time in ns; 0 when none is
	ending  atomic.Bool
	stopped atomic.Bool                                     // by the circuit breaker
	unread  atomic.Int64                                    // gateways, when they were last read
	waiting atomic.Int64                                    // changes that wait for a person
	drains  atomic.Pointer[map[inventory.Ref]time.Duration] // of the gateways of the newest look
	ledger  atomic.Pointer[batchlive.Ledger]                // of the term; nil for a follower
	held    atomic.Int64                                    // requests that wait for their batch

	given   atomic.Int64 // updates of gateways that this replica let go
	samples web.Samples
	seen    seen

	serious map[string]bool

	// What follows belongs to the goroutine that keeps rounds.
	last  map[gate.Rule]time.Time
	heard int64 // the Serial of Consent up to which everything was acted on
}

// New returns a Service that does nothing before Run.
func New(o Options) (*Service, error) {
	if o.Namespace == "" {
		return nil, errors.New("the service needs to know its own namespace: set --namespace or POD_NAMESPACE")
	}
	if o.Cluster == nil || o.Look == nil {
		return nil, errors.New("the service needs a cluster and a way to look at it")
	}
	if o.Leader.Namespace == "" {
		o.Leader.Namespace = o.Namespace
	}
	if err := o.Leader.Check(); err != nil {
		return nil, err
	}
	s := &Service{o: o, log: o.Log, changed: make(chan struct{}, 1), last: map[gate.Rule]time.Time{}, serious: map[string]bool{}}
	for _, r := range o.Rules {
		if r.Level == report.LevelError {
			s.serious[r.Reason] = true
		}
	}
	var err error
	if s.client, err = kubernetes.NewForConfig(o.Cluster); err != nil {
		return nil, fmt.Errorf("cannot talk to the API server: %w", err)
	}
	s.writer = rest.CopyConfig(o.Cluster)
	s.writer.Wrap(leader.Guard)
	if s.guarded, err = kubernetes.NewForConfig(s.writer); err != nil {
		return nil, fmt.Errorf("cannot talk to the API server: %w", err)
	}
	s.metrics = newMetrics(s)
	return s, nil
}

// Run serves until ctx ends. When it returns, nothing of it is running any more,
// unless the error says so. started, if not nil, is told the address of the HTTP
// server.
func (s *Service) Run(ctx context.Context, started func(net.Addr)) error {
	l, err := net.Listen("tcp", s.o.Listen)
	if err != nil {
		return fmt.Errorf("cannot listen: %w; choose another --listen", err)
	}
	if started != nil {
		started(l.Addr())
	}
	s.log.Info("started", zap.Stringer("address", l.Addr()), zap.String("namespace", s.o.Namespace), zap.String("identity", s.o.Leader.Identity), zap.String("version", s.o.Version))

	ctx, stop := context.WithCancel(ctx)
	defer stop()
	errs := make(chan error, 2)
	var parts sync.WaitGroup
	parts.Go(func() {
		if err := s.serve(ctx, l); err != nil {
			errs <- err
			stop()
		}
	})
	parts.Go(func() { s.watch(ctx, s.o.ConfigMap, s.take) })
	parts.Go(func() { s.watch(ctx, ApprovalsName, s.hear()) })
	parts.Go(func() {
		if err := s.lead(ctx); err != nil {
			errs <- err
			stop()
		}
	})
	<-ctx.Done()
	s.ending.Store(true)
	s.log.Info("ending")
	ended := make(chan struct{})
	go func() { parts.Wait(); close(ended) }()
	t := time.NewTimer(s.o.Ending)
	defer t.Stop()
	select {
	case <-ended:
	case <-t.C:
		return fmt.Errorf("something was still going on %s after the end had begun: the lease was not given up and will run out", s.o.Ending)
	}
	s.log.Info("ended")
	select {
	case err := <-errs:
		return err
	default:
		return nil
	}
}

// lead keeps rounds, as a follower until elected, as the leader for each term.
func (s *Service) lead(ctx context.Context) error {
	// A round needs a configuration, if only to know that there is none.
	for s.config.Load() == nil {
		select {
		case <-ctx.Done():
			return nil
		case <-s.changed:
		}
	}
	follow := func() (end func()) {
		following, cancel := context.WithCancel(ctx)
		done := make(chan struct{})
		go func() {
			defer close(done)
			s.keep(following, false)
		}()
		return func() { cancel(); <-done }
	}
	end := follow()
	defer func() { end() }()
	o := s.o.Leader
	o.Seen = func(identity string) {
		s.seen.leads(identity)
		s.log.Info("leader seen", zap.String("leader", identity))
	}
	return leader.Run(ctx, s.o.Cluster, o, func(term context.Context) {
		end()
		s.leading.Store(true)
		s.log.Info("leading")
		s.keep(term, true)
		s.leading.Store(false)
		s.log.Info("leading no more", zap.NamedError("cause", context.Cause(term)))
		end = follow()
	})
}

// hear returns what is called with each version of the ConfigMap of approvals. A
// word of a person wakes whoever keeps rounds.
func (s *Service) hear() func(*corev1.ConfigMap) {
	last, first := "", true
	return func(cm *corev1.ConfigMap) {
		now := ""
		if cm != nil {
			now = cm.Data[keySerial] + cm.Data[keyState]
		}
		if now != last && !first {
			select {
			case s.changed <- struct{}{}:
			default:
			}
		}
		last, first = now, false
	}
}

// watch follows a ConfigMap until ctx ends, and calls take with each version of
// it, nil when there is none.
func (s *Service) watch(ctx context.Context, name string, take func(*corev1.ConfigMap)) {
	lw := cache.NewFilteredListWatchFromClient(s.client.CoreV1().RESTClient(), "configmaps", s.o.Namespace, byName(name))
	var store cache.Store
	update := func() {
		if x, ok, _ := store.GetByKey(s.o.Namespace + "/" + name); ok {
			take(x.(*corev1.ConfigMap))
		} else {
			take(nil)
		}
	}
	synced := make(chan struct{})
	changed := func() {
		select {
		case <-synced:
			update()
		default:
		}
	}
	store, informer := cache.NewInformerWithOptions(cache.InformerOptions{
		ListerWatcher: lw, ObjectType: &corev1.ConfigMap{},
		Handler: cache.ResourceEventHandlerFuncs{
			AddFunc:    func(any) { changed() },
			UpdateFunc: func(any, any) { changed() },
			DeleteFunc: func(any) { changed() },
		},
	})
	done := make(chan struct{})
	go func() { defer close(done); informer.RunWithContext(ctx) }()
	if cache.WaitForCacheSync(ctx.Done(), informer.HasSynced) {
		// Only now is a ConfigMap that was not seen one that is not there.
		close(synced)
		update()
	}
	<-done
}
