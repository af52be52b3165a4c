// Package steady waits until a cluster has come to rest: no certificate is being
// issued, whatever is served is Ready on the certificates that it names, and the
// listeners of its gateways are not changed any more. It lists, and nothing else.
package steady

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"

	"github.com/certherd/certherd/batch/live"
	"github.com/certherd/certherd/gateway"
)

// Part is something that can be waited for.
type Part string

// Batch is the Part of what certherd itself holds for a later batch; it counts where
// Certificates do.
const Batch Part = "batch"

// The Parts, as --for takes them.
const (
	// Certificates: those of cert-manager and of Knative are Ready, and none is being
	// issued.
	Certificates Part = "certs"
	// Routes: Knative Services, Routes, DomainMappings, Ingresses of both kinds and
	// Gateways are Ready, and so is each certificate that they name.
	Routes Part = "routes"
	// Gateways: every Envoy can be read, and its listeners are not changed.
	Gateways Part = "gateway"
)

// Parts are all of them, in the order in which people think of them.
var Parts = []Part{Certificates, Routes, Gateways}

// Options say what to wait for.
type Options struct {
	// For are the Parts; without any, Certificates and Routes, and Gateways if Envoys
	// say where one can be read.
	For []Part
	// Namespaces are those whose objects count; all if there are none.
	Namespaces []string
	// Home is the namespace that certherd runs in, if it does.
	Home string
	// Envoys say where gateways can be read.
	Envoys gateway.Options
	// Timeout is how long to wait. With 0 there is one look.
	Timeout time.Duration
	// QuietFor is how long everything has to be steady without a break.
	QuietFor time.Duration
	// Pause is the time between two looks, a second if it is 0. It is longer where a
	// look takes long.
	Pause time.Duration
	// Progress, if set, is told of every look.
	Progress func(Result)
}

// Check says what does not go together, nil if all does.
func (o *Options) Check() error {
	given := len(o.Envoys.Pages)+len(o.Envoys.Pods) > 0
	for _, p := range o.For {
		if !slices.Contains(Parts, p) {
			return fmt.Errorf("nothing called %q can be waited for: use certs, routes or gateway", p)
		}
	}
	switch {
	case o.QuietFor < 0 || o.Timeout < 0:
		return errors.New("a time to wait cannot be less than nothing")
	case o.Timeout > 0 && o.QuietFor >= o.Timeout:
		return fmt.Errorf("being steady for %s cannot be seen within a timeout of %s", o.QuietFor, o.Timeout)
	case o.Timeout == 0 && o.QuietFor > 0:
		return errors.New("a timeout of 0 looks once, and so cannot see that anything is quiet for a while: give --quiet-for 0, or a timeout")
	case slices.Contains(o.For, Gateways) && !given:
		return errors.New("to wait for a gateway, say where it can be read: its page of statistics, or its Pods")
	case len(o.For) > 0 && !slices.Contains(o.For, Gateways) && given:
		return errors.New("a gateway is named, and not waited for")
	}
	return nil
}

// parts are For with its default.
func (o *Options) parts() []Part {
	if len(o.For) > 0 {
		return o.For
	}
	if len(o.Envoys.Pages)+len(o.Envoys.Pods) == 0 {
		return []Part{Certificates, Routes}
	}
	return Parts
}

// Result is how things are after a look.
type Result struct {
	// Steady: they are so since QuietFor at least.
	Steady bool
	// Waited and Quiet are how long was waited, and how long nothing was unsteady at
	// the end of it.
	Waited, Quiet time.Duration
	// Pending: nothing is unsteady, but not yet for QuietFor.
	Pending bool
	// Unsteady is what is not steady, sorted. While Pending, it is what was not before.
	Unsteady []Unsteady
	// Notes say what could not be looked at and does not keep anything from being
	// steady.
	Notes []string
}

// Unsteady is an object, or a gateway, that has not come to rest.
type Unsteady struct {
	Part Part
	// Object is its name as inventory.Ref.String has it, or that of an Envoy:
	// Pod/namespace/name, or the URL of its page.
	Object string
	Why    string
}

// A Watcher looks at one cluster again and again.
type Watcher struct {
	o        Options
	dynamic  dynamic.Interface
	metadata metadata.Interface
	typed    kubernetes.Interface
	envoys   *gateway.Reader
	last     map[string]gateway.Envoy // of the look before
}

// New returns a Watcher.
func New(cfg *rest.Config, o Options) (*Watcher, error) {
	if err := o.Check(); err != nil {
		return nil, err
	}
	if o.Pause <= 0 {
		o.Pause = time.Second
	}
	w := &Watcher{o: o}
	cfg = rest.CopyConfig(cfg)
	cfg.WarningHandler = rest.NoWarnings{} // of versions that are asked for where there is no other
	if cfg.QPS == 0 {
		cfg.QPS, cfg.Burst = 50, 100
	}
	var err error
	if w.dynamic, err = dynamic.NewForConfig(cfg); err != nil {
		return nil, fmt.Errorf("cannot look at the cluster: %w", err)
	}
	if w.metadata, err = metadata.NewForConfig(cfg); err != nil {
		return nil, fmt.Errorf("cannot look at the cluster: %w", err)
	}
	if w.typed, err = kubernetes.NewForConfig(cfg); err != nil {
		return nil, fmt.Errorf("cannot look at the cluster: %w", err)
	}
	envoys := o.Envoys
	envoys.EnvoysOnly = true
	if w.envoys, err = gateway.New(cfg, envoys); err != nil {
		return nil, err
	}
	return w, nil
}

// Wait looks until everything is steady, or the time is over, which is no error.
// It is one that something may not be listed: that does not change by waiting.
func (w *Watcher) Wait(ctx context.Context) (Result, error) { return w.wait(ctx, w.look) }

// look is what waiting is made of: what is not steady, notes, and an error where
// looking again is of no use.
type look func(context.Context) (unsteady []Unsteady, notes []string, err error)

func (w *Watcher) wait(ctx context.Context, look look) (Result, error) {
	begin := time.Now()
	since := begin // nothing has been unsteady
	var before []Unsteady
	for {
		at := time.Now()
		// An API server that does not answer holds nobody up for longer than was asked.
		limited, cancel := context.WithTimeout(ctx, max(w.o.Timeout-at.Sub(begin), leastLook))
		unsteady, notes, err := look(limited)
		late := limited.Err() != nil
		cancel()
		switch {
		case ctx.Err() != nil:
			return Result{}, context.Cause(ctx)
		case late:
			unsteady = append(unsteady, Unsteady{Object: "cluster", Why: "it does not answer in time"})
		case err != nil:
			return Result{}, err
		}
		slices.SortFunc(unsteady, func(a, b Unsteady) int {
			return cmp.Or(cmp.Compare(slices.Index(Parts, a.Part), slices.Index(Parts, b.Part)), strings.Compare(a.Object, b.Object), strings.Compare(a.Why, b.Why))
		})
		now := Result{Unsteady: unsteady, Notes: notes, Waited: time.Since(begin)}
		if len(unsteady) > 0 {
			since = time.Time{}
			before = unsteady
		} else {
			if since.IsZero() {
				since = at
			}
			now.Quiet = at.Sub(since)
			if now.Steady = now.Quiet >= w.o.QuietFor; !now.Steady {
				now.Pending, now.Unsteady = true, before
			}
		}
		if w.o.Progress != nil {
			w.o.Progress(now)
		}
		left := w.o.Timeout - time.Since(begin)
		if now.Steady || left <= 0 {
			if now.Pending {
				now.Unsteady = recent(now)
			}
			return now, nil
		}
		// A look costs the API server something.
		pause := max(w.o.Pause, 3*time.Since(at))
		if need := w.o.QuietFor - now.Quiet; len(unsteady) == 0 {
			pause = min(pause, max(need, time.Millisecond))
		}
		t := time.NewTimer(min(pause, left))
		select {
		case <-ctx.Done():
			t.Stop()
			return Result{}, context.Cause(ctx)
		case <-t.C:
		}
	}
}

// leastLook is how long one look may take, however short the time to wait is.
const leastLook = 10 * time.Second

// recent is what has become steady too late.
func recent(now Result) []Unsteady {
	since := fmt.Sprintf("steady for no more than %s", now.Quiet.Round(time.Second))
	if len(now.Unsteady) == 0 {
		return []Unsteady{{Object: "cluster", Why: since}}
	}
	var out []Unsteady
	for _, u := range now.Unsteady {
		u.Why = since + "; before that: " + u.Why
		out = append(out, u)
	}
	return out
}

// look looks once.
func (w *Watcher) look(ctx context.Context) ([]Unsteady, []string, error) {
	parts := w.o.parts()
	s := &sight{w: w}
	if slices.Contains(parts, Certificates) || slices.Contains(parts, Routes) {
		if err := s.objects(ctx, parts); err != nil {
			return nil, nil, err
		}
	}
	if slices.Contains(parts, Certificates) && w.o.Home != "" {
		s.batches(ctx)
	}
	if slices.Contains(parts, Gateways) {
		s.gateways(w.envoys.Read(ctx))
	}
	return s.unsteady, s.notes, nil
}

// batches looks for changes that certherd holds until a gateway's budget has room.
func (s *sight) batches(ctx context.Context) {
	list, err := s.w.typed.CoreV1().ConfigMaps(s.w.o.Home).List(ctx, metav1.ListOptions{FieldSelector: "metadata.name=" + live.ConfigMapName})
	switch {
	case refused(err):
		s.notes = append(s.notes, "ConfigMaps of namespace "+s.w.o.Home+" may not be listed: whether certherd holds anything for a batch was not looked at")
	case err != nil && ctx.Err() == nil:
		s.add(Batch, "ConfigMap/"+s.w.o.Home+"/"+live.ConfigMapName, "cannot be listed: "+err.Error())
	case err == nil:
		for i := range list.Items {
			waiting, err := live.Waiting(&list.Items[i])
			if err != nil {
				s.add(Batch, "ConfigMap/"+s.w.o.Home+"/"+live.ConfigMapName, "it cannot be understood: "+err.Error())
			}
			for _, x := range waiting {
				if len(s.w.o.Namespaces) == 0 || slices.Contains(s.w.o.Namespaces, x.Object.Namespace) {
					s.add(Batch, x.Object.String(), "certherd holds a change of it for a batch since "+x.Since.UTC().Format(time.RFC3339))
				}
			}
		}
	}
}

// gateways compares what Envoys say with what they said before.
func (s *sight) gateways(now gateway.Reading) {
	for _, text := range now.Unread {
		object, why, _ := strings.Cut(text, ": ")
		s.add(Gateways, strings.TrimPrefix(object, "gateway "), "it cannot be read: "+why)
	}
	if len(now.Envoys) == 0 && len(now.Unread) == 0 {
		s.add(Gateways, "gateway", "no Pod of it runs")
	}
	for name, e := range now.Envoys {
		was, known := s.w.last[name]
		l := e.Listeners
		switch {
		case s.w.last != nil && !known || known && e.Uptime+15 < was.Uptime: // Envoy notes its uptime every few seconds
			s.add(Gateways, name, "it has just been started")
		case known && l.Changes != was.Listeners.Changes:
			s.add(Gateways, name, "its listeners were changed")
		case known && total(e.Rejected) != total(was.Rejected):
			s.add(Gateways, name, "it rejects updates of its configuration")
		case l.Warming > 0:
			s.add(Gateways, name, fmt.Sprintf("%.0f listeners are warming", l.Warming))
		case l.Draining > 0:
			s.add(Gateways, name, fmt.Sprintf("%.0f listeners or filter chains are draining", l.Draining))
		}
	}
	s.w.last = now.Envoys
}

func total(counts map[string]float64) (n float64) {
	for _, x := range counts {
		n += x
	}
	return n
}

// sight is one look.
type sight struct {
	w        *Watcher
	unsteady []Unsteady
	notes    []string
}

func (s *sight) add(p Part, object, why string) {
	s.unsteady = append(s.unsteady, Unsteady{p, object, why})
}

// refused reports whether an error is one that does not go away by waiting.
func refused(err error) bool { return apierrors.IsForbidden(err) || apierrors.IsUnauthorized(err) }
