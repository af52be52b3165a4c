// Package live carries approved consolidations through their phases on a live
// cluster, as package carry decides.
package live

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"
	"k8s.io/utils/clock"

	"github.com/certherd/certherd/api/v1alpha1"
	"github.com/certherd/certherd/carry"
	"github.com/certherd/certherd/inventory"
)

// Options say how careful to be, and what to ask.
type Options struct {
	carry.Options
	// Pace, if set, is asked before a consolidation's consumers are switched, and told
	// before they go back, with how many they are: gateways see each of them. It
	// says why it has to wait, and until when; empty when it need not. Going back
	// never waits.
	Pace func(ctx context.Context, c *v1alpha1.Consolidation, consumers int, back bool) (wait string)
	// Gateway is the address (host:port) at which handshakes are made. If it is
	// empty, it is the one in the status of the consumer, port 443.
	Gateway string
	// Windows are when wildcards of cert-manager's own kind may be renewed; Knative would
	// take them out of its own.
	Windows Windows
	// Dial connects to gateways; nil for the system's way.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// Unprobed goes on without handshakes.
	Unprobed bool
	// Hold says why a consolidation may not begin, nor switch; empty if nothing
	// speaks against it. Nil holds nothing.
	Hold func(*v1alpha1.Consolidation) string
	// Rejecting says since when gateways reject updates, and what they say; the
	// zero time when they do not. Nil where nobody can tell.
	Rejecting func(context.Context) (time.Time, string)
	// Sweep, if set, is told what old certificates may be taken away.
	Sweep func(c *v1alpha1.Consolidation, old []inventory.Ref)
	// Undelete, if set, makes a Certificate again that was taken away after a switch.
	// Without it, going back waits for somebody to do so.
	Undelete func(context.Context, inventory.Ref) error
	// Tell, if set, is called with each decision that changes something, and with the
	// error that kept it from being carried out.
	Tell func(c *v1alpha1.Consolidation, d carry.Decision, err error)
	// Trace, if set, is called before and after each write, and in the midst of those
	// of several objects, with words for a developer.
	Trace func(where string)
	// Roots are authorities to trust besides those of the system.
	Roots *x509.CertPool
	// Clock is the real one when nil.
	Clock clock.WithTicker
}

// Defaults are the options of somebody who says nothing.
func Defaults() Options { return Options{Options: carry.Defaults()} }

// Carrier carries consolidations out. It is for one goroutine, and for one leader.
type Carrier struct {
	o        Options
	cfg      *rest.Config
	objects  dynamic.Interface
	metadata metadata.Interface
	memory   map[string]*memory // by UID of the Consolidation
}

// memory is what is forgotten without harm when a leader ends: it makes somebody
// wait a little longer, or touch something once more.
type memory struct {
	told    string               // the last message
	touched map[string]time.Time // by UID
	unready map[string]time.Time
	bad     map[string]time.Time         // by host
	seen    map[string]*x509.Certificate // authorities that gateways have shown
}

// New returns a Carrier that acts as cfg's user.
func New(cfg *rest.Config, o Options) (*Carrier, error) {
	if o.Clock == nil {
		o.Clock = clock.RealClock{}
	}
	if o.Dial == nil {
		o.Dial = new(net.Dialer).DialContext
	}
	if o.Gateway != "" {
		if _, _, err := net.SplitHostPort(o.Gateway); err != nil {
			return nil, fmt.Errorf("the gateway's address is no host:port: %w", err)
		}
	}
	cfg = rest.CopyConfig(cfg)
	cfg.WarningHandler = rest.NoWarnings{}
	if cfg.Timeout == 0 {
		cfg.Timeout = 30 * time.Second // of one request
	}
	objects, err := dynamic.NewForConfig(cfg)
	if err != nil {
		return nil, err
	}
	m, err := metadata.NewForConfig(cfg)
	if err != nil {
		return nil, err
	}
	return &Carrier{o: o, cfg: cfg, objects: objects, metadata: m, memory: map[string]*memory{}}, nil
}

// The times between two looks.
const (
	Soon = time.Second      // while something is on its way
	Slow = 10 * time.Second // while nothing is
)

// Pass takes every consolidation one decision further, and reports whether
// something is on its way. The error is that of reading them all; what befalls
// one of them is told, and keeps no other one from going on.
func (r *Carrier) Pass(ctx context.Context) (hurry bool, err error) {
	list, err := r.objects.Resource(v1alpha1.GroupVersionResource).List(ctx, metav1.ListOptions{})
	if apierrors.IsNotFound(err) {
		return false, nil // the custom resource is not installed
	}
	if err != nil {
		return false, fmt.Errorf("cannot read the consolidations: %w", err)
	}
	var all []*v1alpha1.Consolidation
	known := map[string]bool{}
	for i := range list.Items {
		c, err := v1alpha1.FromUnstructured(&list.Items[i])
		if err != nil {
			continue // the API server validates them: it is of another version
		}
		known[string(c.UID)] = true
		all = append(all, c)
	}
	for uid := range r.memory {
		if !known[uid] {
			delete(r.memory, uid)
		}
	}
	// What has moved comes first: it may have to go back.
	slices.SortStableFunc(all, func(a, b *v1alpha1.Consolidation) int { return urgency(b) - urgency(a) })
	for _, c := range all {
		if ctx.Err() != nil {
			return false, ctx.Err()
		}
		if !concerns(c) {
			continue
		}
		d, err := r.step(ctx, c, all)
		if err != nil && r.o.Tell != nil {
			r.o.Tell(c, d, err)
		}
		hurry = hurry || d.Soon
	}
	return hurry, nil
}

func urgency(c *v1alpha1.Consolidation) int {
	switch c.Status.Phase {
	case v1alpha1.RollingBack:
		return 3
	case v1alpha1.Switching:
		return 2
	case v1alpha1.Soaking, v1alpha1.Sweeping:
		return 1
	}
	return 0
}

// concerns reports whether a consolidation is to be carried out, or back.
func concerns(c *v1alpha1.Consolidation) bool {
	p := c.Status.Phase
	return p.Executing() || p == v1alpha1.Approved && c.Spec.Approved() || p == v1alpha1.Done && c.Spec.Undo
}

// trace tells where it is.
func (r *Carrier) trace(format string, a ...any) {
	if r.o.Trace != nil {
		r.o.Trace(fmt.Sprintf(format, a...))
	}
}

// step takes one consolidation one decision further. c is changed to what was
// stored.
func (r *Carrier) step(ctx context.Context, c *v1alpha1.Consolidation, all []*v1alpha1.Consolidation) (carry.Decision, error) {
	m := r.memory[string(c.UID)]
	if m == nil {
		m = &memory{
			touched: map[string]time.Time{}, unready: map[string]time.Time{}, bad: map[string]time.Time{},
			seen: map[string]*x509.Certificate{},
		}
		r.memory[string(c.UID)] = m
	}
	look := &look{Carrier: r, c: c, m: m, now: r.o.Clock.Now()}
	if err := look.observe(ctx); err != nil {
		return carry.Decision{}, err
	}
	look.Hold = r.hold(c, all)
	d := carry.Next(c, look.Observation, r.o.Options, look.now)
	r.pace(ctx, c, look, &d)
	moved := d.Phase != c.Status.Phase
	if err := r.store(ctx, c, look, d); err != nil {
		return d, err
	}
	if moved {
		r.trace("stored %s", d.Phase)
	}
	if len(d.Sweep) > 0 && r.o.Sweep != nil {
		r.o.Sweep(c, d.Sweep)
	}
	if moved || len(d.Writes) == 0 {
		// What has not begun has no status of ours to say why.
		if r.o.Tell != nil && (moved || !d.Phase.Executing() && d.Message != m.told) {
			r.o.Tell(c, d, nil)
		}
		m.told = d.Message
		return d, nil
	}
	var errs []error
	for _, w := range d.Writes {
		r.trace("about to %s", w.Verb)
		if err := look.write(ctx, w); err != nil && !apierrors.IsConflict(err) {
			// After a conflict it is looked at again.
			errs = append(errs, fmt.Errorf("%s: %w", w.Verb, err))
		}
		r.trace("done: %s", w.Verb)
	}
	err := errors.Join(errs...)
	if err == nil && r.o.Tell != nil {
		r.o.Tell(c, d, nil)
	}
	return d, err
}

// pace asks before anything moves that gateways see.
func (r *Carrier) pace(ctx context.Context, c *v1alpha1.Consolidation, l *look, d *carry.Decision) {
	back := d.Phase == v1alpha1.RollingBack
	if r.o.Pace == nil || d.Phase == c.Status.Phase || !back && d.Phase != v1alpha1.Switching {
		return
	}
	if wait := r.o.Pace(ctx, c, len(l.Consumers), back); wait != "" && !back {
		*d = carry.Decision{Phase: c.Status.Phase, Message: wait}
	}
}

// hold says why a consolidation has to wait before it begins, or switches.
func (r *Carrier) hold(c *v1alpha1.Consolidation, all []*v1alpha1.Consolidation) string {
	if r.o.Hold != nil {
		if why := r.o.Hold(c); why != "" {
			return why
		}
	}
	if c.Status.Phase != v1alpha1.Verifying {
		return ""
	}
	for _, o := range all {
		if o.UID == c.UID {
			continue
		}
		switch o.Status.Phase {
		case v1alpha1.Switching, v1alpha1.RollingBack:
			return fmt.Sprintf("one is switched at a time, and now it is %s/%s", o.Namespace, o.Name)
		}
	}
	return ""
}

// conditions are those that a phase makes true.
var conditions = []struct {
	of    v1alpha1.Phase // after which it is true
	name  string
	words string
}{
	{v1alpha1.Issuing, v1alpha1.ConditionIssued, "The wildcard is Ready."},
	{v1alpha1.Verifying, v1alpha1.ConditionVerified, "Chain, names and issuer are right for every host."},
	{v1alpha1.Switching, v1alpha1.ConditionSwitched, "Every consumer uses the wildcard."},
	{v1alpha1.Soaking, v1alpha1.ConditionSoaked, "Every consumer has used it for the whole soak."},
	{v1alpha1.Sweeping, v1alpha1.ConditionSwept, "The old certificates are gone."},
}

var order = []v1alpha1.Phase{v1alpha1.Issuing, v1alpha1.Verifying, v1alpha1.Switching, v1alpha1.Soaking, v1alpha1.Sweeping, v1alpha1.Done}

// store writes the state, if it is another one than before.
func (r *Carrier) store(ctx context.Context, c *v1alpha1.Consolidation, l *look, d carry.Decision) error {
	if !d.Phase.Executing() && !d.Phase.Ended() {
		return nil // it has not begun; its status is not ours
	}
	// A phase begins when it is stored: the look may have taken its time.
	now := metav1.NewTime(r.o.Clock.Now().Truncate(time.Second))
	next := v1alpha1.ConsolidationStatus{Phase: d.Phase, Message: d.Message}
	x := v1alpha1.Execution{}
	if c.Status.Execution != nil {
		x = *c.Status.Execution
	}
	if !c.Status.Phase.Executing() && !c.Status.Phase.Ended() {
		x = v1alpha1.Execution{Digest: c.Spec.Digest(), Started: now}
	}
	if d.Phase != c.Status.Phase {
		x.PhaseSince, x.Deadline = &now, nil
		switch d.Phase {
		case v1alpha1.Issuing:
			x.Deadline = &metav1.Time{Time: now.Add(r.o.Issue)}
		case v1alpha1.Switching:
			x.Deadline = &metav1.Time{Time: now.Add(r.o.Switch)}
		}
	}
	if d.Failure != "" {
		x.Failure = d.Failure
	}
	if l.Source.Exists && l.Source.Foreign == "" {
		x.SourceUID, x.Created = l.Source.UID, l.Source.Ours
	}
	x.Members = l.members(d.Phase)
	next.Execution = &x
	at := slices.Index(order, d.Phase)
	for i, k := range conditions {
		n := metav1.Condition{Type: k.name, Status: metav1.ConditionFalse, Reason: string(d.Phase), Message: "Not yet.", LastTransitionTime: now, ObservedGeneration: c.Generation}
		switch {
		case at > i:
			n.Status, n.Reason, n.Message = metav1.ConditionTrue, "Done", k.words
		case at < 0:
			n.Message = "It goes back, or went back, to the state before."
		}
		for _, old := range c.Status.Conditions {
			if old.Type == n.Type && old.Status == n.Status {
				n.LastTransitionTime = old.LastTransitionTime
			}
		}
		next.Conditions = append(next.Conditions, n)
	}
	if same(&c.Status, &next) {
		return nil
	}
	u, err := (&v1alpha1.Consolidation{Status: next}).ToUnstructured()
	if err != nil {
		return err
	}
	delete(u.Object, "spec")
	u.Object["metadata"] = map[string]any{"name": c.Name, "namespace": c.Namespace, "resourceVersion": c.ResourceVersion, "uid": string(c.UID)}
	got, err := r.objects.Resource(v1alpha1.GroupVersionResource).Namespace(c.Namespace).
		Apply(ctx, c.Name, u, metav1.ApplyOptions{FieldManager: v1alpha1.ExecutionManager, Force: true}, "status")
	if err != nil {
		return fmt.Errorf("cannot store the state: %w", err)
	}
	stored, err := v1alpha1.FromUnstructured(got)
	if err != nil {
		return err
	}
	*c = *stored
	return nil
}

func same(a, b *v1alpha1.ConsolidationStatus) bool {
	x, y := a.Execution, b.Execution
	if a.Phase != b.Phase || a.Message != b.Message || x == nil || x.Failure != y.Failure || x.SourceUID != y.SourceUID || x.Created != y.Created {
		return false
	}
	return slices.Equal(x.Members, y.Members)
}

// members say how far each member has come.
func (l *look) members(phase v1alpha1.Phase) []v1alpha1.MemberState {
	on := map[string]bool{}
	for _, c := range l.Consumers {
		for _, e := range c.Entries {
			for _, h := range e.Hosts {
				on[h] = e.Wildcard
			}
		}
	}
	probed := map[string]bool{}
	for _, p := range l.Probes {
		probed[p.Host] = p.OK && p.Wildcard
	}
	left := map[string]bool{}
	for _, o := range l.Old {
		left[o.Object.Name] = left[o.Object.Name] || !o.Swept
	}
	var out []v1alpha1.MemberState
	for _, m := range l.c.Spec.Members {
		s := v1alpha1.MemberState{Name: m.Name, State: v1alpha1.MemberPending}
		all := func(set map[string]bool) bool {
			return !slices.ContainsFunc(m.Hosts, func(h string) bool { return !set[h] })
		}
		switch {
		case phase == v1alpha1.RollingBack || phase == v1alpha1.RolledBack:
			if !slices.ContainsFunc(m.Hosts, func(h string) bool { return on[h] }) {
				s.State = v1alpha1.MemberRestored
			}
		case phase == v1alpha1.Done, phase == v1alpha1.Sweeping && !left[m.Name] && !left[m.SecretName]:
			s.State = v1alpha1.MemberSwept
		case phase == v1alpha1.Issuing, phase == v1alpha1.Verifying:
		case all(on) && all(probed):
			s.State = v1alpha1.MemberProbed
		case all(on):
			s.State = v1alpha1.MemberSwitched
		}
		out = append(out, s)
	}
	return out
}

// covered reports whether the wildcard is for a host.
func covered(c *v1alpha1.Consolidation, host string) bool {
	return inventory.CoversAll(c.Spec.Wildcards, []string{host})
}

// into reads an object into a small struct.
func into[T any](u *unstructured.Unstructured) (*T, error) {
	var x T
	if err := convert(u.Object, &x); err != nil {
		return nil, fmt.Errorf("%s %s/%s is not as expected: %w", u.GetKind(), u.GetNamespace(), u.GetName(), err)
	}
	return &x, nil
}

func parent(host string) string {
	_, p, _ := strings.Cut(host, ".")
	return p
}
