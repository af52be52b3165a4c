package service

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/certherd/certherd/api/v1alpha1"
	"github.com/certherd/certherd/apply"
	"github.com/certherd/certherd/carry"
	"github.com/certherd/certherd/carry/live"
	"github.com/certherd/certherd/consolidate"
	"github.com/certherd/certherd/controller"
	"github.com/certherd/certherd/gate"
	"github.com/certherd/certherd/inventory"
)

// carrying carries approved consolidations out beside the rounds of a term. It is
// nil for a follower.
type carrying struct {
	wake, ask chan struct{}
	stop      context.CancelFunc
	ended     chan struct{}

	mutex   sync.Mutex
	old     []inventory.Ref // what the next round may take away
	round   time.Time       // when a round was asked for last
	cleared map[string]bool // namespace/name of those that mode enforce lets begin
	wanted  time.Time       // when a look was asked for last
	looked  time.Time       // when the gateways' drain times were looked at last
	drains  string          // what is wrong with them
	moved   time.Time       // when consumers were on their way last
}

// sweepEvery is the least time between two rounds that are asked for to take old
// certificates away.
const sweepEvery = time.Minute

// looksEvery is the same for looks at how gateways drain.
const looksEvery = 10 * time.Second

// carry begins to carry out. It goes on until the term ends, or end is called.
func (k *keeper) carry(ctx context.Context) *carrying {
	if k.o.Collector == nil {
		return nil
	}
	ctx, stop := context.WithCancel(ctx)
	x := &carrying{wake: make(chan struct{}, 1), ask: make(chan struct{}, 1), stop: stop, ended: make(chan struct{})}
	go func() {
		defer close(x.ended)
		for ctx.Err() == nil {
			k.carryUnder(ctx, x, k.config.Load())
		}
	}()
	return x
}

// carryUnder carries out under one configuration, until that is another one.
func (k *keeper) carryUnder(ctx context.Context, x *carrying, c *configuration) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	o := live.Defaults()
	o.Options = c.CarryOptions()
	o.Pace, o.Gateway, o.Unprobed = k.paceConsolidation, c.Consolidate.Gateway, !c.Consolidate.Probe
	if c.Batch.Mode == gate.Enforce {
		o.Windows = c.RenewalWindows(time.Now())
	}
	gateways, err := k.watchRejections(c.Config)
	stopped := ""
	o.Hold = func(y *v1alpha1.Consolidation) string {
		return cmp.Or(stopped, k.holdsConsolidation(c, x, y), gateways.hold(y.Status.Phase == v1alpha1.Verifying))
	}
	o.Rejecting = gateways.rejecting
	o.Sweep = func(_ *v1alpha1.Consolidation, old []inventory.Ref) { x.sweep(old) }
	o.Undelete = k.undelete
	o.Tell = func(y *v1alpha1.Consolidation, d carry.Decision, err error) {
		x.moves(y, d)
		k.tellConsolidation(y, d, err)
	}
	var carrier *live.Carrier
	if err == nil {
		carrier, err = live.New(k.writer, o)
	}
	if err != nil {
		k.log.Error("no consolidation is carried out", zap.Error(err))
	}
	for wait := time.Duration(0); k.config.Load().taken == c.taken; {
		t := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			t.Stop()
			return
		case <-x.wake:
		case <-t.C:
		}
		t.Stop()
		wait = live.Slow
		if carrier == nil {
			continue
		}
		stopped = k.stopsConsolidations(ctx)
		hurry, err := carrier.Pass(ctx)
		if err != nil && ctx.Err() == nil {
			k.log.Warn("consolidations not read", zap.Error(err))
		}
		if hurry {
			wait = live.Soon
		}
	}
}

// undelete makes a Certificate again that a sweep has taken away, as the journal has
// it.
func (k *keeper) undelete(ctx context.Context, ref inventory.Ref) error {
	u, err := apply.NewUndoer(k.writer, k.o.Namespace)
	if err != nil {
		return err
	}
	u.OptOut = false
	_, err = u.Object(ctx, ref)
	return err
}

// holdsConsolidations says why none may begin, nor switch.
func (k *keeper) holdsConsolidations(c *configuration) string {
	t := c.Policy().Terms[gate.Consolidate]
	if t.Mode != gate.Propose && t.Mode != gate.Enforce {
		return "consolidate is in mode audit, which carries nothing out"
	}
	return t.Closed(time.Now())
}

// holdsConsolidation says why one may not begin, nor switch. Where nobody is asked,
// the gate has to have cleared it in a round of its rule, whose budget that is.
func (k *keeper) holdsConsolidation(c *configuration, x *carrying, y *v1alpha1.Consolidation) string {
	if n := k.o.Namespaces; len(n) > 0 && !slices.Contains(n, y.Namespace) {
		return "this certherd looks after other namespaces"
	}
	if why := k.holdsConsolidations(c); why != "" {
		return why
	}
	if y.Status.Phase == v1alpha1.Verifying && y.Spec.Source.Kind == v1alpha1.SourceKCertificate {
		return x.drainsShort(y)
	}
	if c.Consolidate.Mode != gate.Enforce || y.Status.Phase.Executing() {
		return ""
	}
	x.mutex.Lock()
	defer x.mutex.Unlock()
	if !x.cleared[y.Namespace+"/"+y.Name] {
		return "it waits for a round of consolidate in which the budget has room for it"
	}
	return ""
}

// drainsShort says which gateway drains for too short a time now: it may do so only
// since the approval. A look from before the wildcard was Ready does not count.
func (x *carrying) drainsShort(y *v1alpha1.Consolidation) string {
	x.mutex.Lock()
	defer x.mutex.Unlock()
	since := y.Status.Execution
	if since != nil && since.PhaseSince != nil && x.looked.Before(since.PhaseSince.Time) {
		x.want(&x.wanted, looksEvery)
		return "how long gateways drain is being looked at again"
	}
	return x.drains
}

// sees notes how gateways drain.
func (x *carrying) sees(taken time.Time, drains []string) {
	if x == nil {
		return
	}
	x.mutex.Lock()
	defer x.mutex.Unlock()
	x.looked, x.drains = taken, strings.Join(drains, "; ")
}

// want asks for a round, unless that was done just now. The mutex is held.
func (x *carrying) want(last *time.Time, every time.Duration) {
	if now := time.Now(); now.Sub(*last) >= every {
		*last = now
		select {
		case x.ask <- struct{}{}:
		default:
		}
	}
}

// clears notes what the gate has cleared in a round of consolidate.
func (x *carrying) clears(proposals []consolidate.Proposal, cleared gate.Cleared) {
	ids := map[string]bool{}
	for _, c := range cleared.Changes() {
		ids[c.ID] = true
	}
	names := map[string]bool{}
	for _, p := range proposals {
		if ids[p.Change.ID] {
			names[p.Consolidation.Namespace+"/"+p.Consolidation.Name] = true
		}
	}
	x.mutex.Lock()
	defer x.mutex.Unlock()
	x.cleared = names
}

func (k *keeper) tellConsolidation(c *v1alpha1.Consolidation, d carry.Decision, err error) {
	fields := []zap.Field{zap.String("consolidation", c.Namespace+"/"+c.Name), zap.String("phase", string(d.Phase)), zap.String("message", d.Message)}
	for _, w := range d.Writes {
		fields = append(fields, zap.Int(string(w.Verb), len(w.Objects)))
	}
	switch {
	case err != nil:
		k.log.Warn("consolidation hindered", append(fields, zap.Error(err))...)
	case d.Failure != "":
		k.log.Error("consolidation going back", fields...)
	default:
		k.log.Info("consolidation", fields...)
	}
}

// moves notes that consumers are, or were until now, on their way from one Secret
// to another.
func (x *carrying) moves(c *v1alpha1.Consolidation, d carry.Decision) {
	for _, p := range []v1alpha1.Phase{c.Status.Phase, d.Phase} {
		switch p {
		case v1alpha1.Switching, v1alpha1.RollingBack, v1alpha1.RolledBack:
			x.mutex.Lock()
			x.moved = time.Now()
			x.mutex.Unlock()
		}
	}
}

// movedSince reports whether consumers were on their way at any time since then.
func (x *carrying) movedSince(then time.Time) bool {
	if x == nil {
		return false
	}
	x.mutex.Lock()
	defer x.mutex.Unlock()
	return x.moved.After(then)
}

// sweep notes what may be taken away, and asks for a round that does it.
func (x *carrying) sweep(old []inventory.Ref) {
	x.mutex.Lock()
	defer x.mutex.Unlock()
	for _, o := range old {
		if !slices.Contains(x.old, o) {
			x.old = append(x.old, o)
		}
	}
	x.want(&x.round, sweepEvery)
}

// asked has an element when a round is wanted.
func (x *carrying) asked() <-chan struct{} {
	if x == nil {
		return nil
	}
	return x.ask
}

// look has it look at once.
func (x *carrying) look() {
	if x == nil {
		return
	}
	select {
	case x.wake <- struct{}{}:
	default:
	}
}

func (x *carrying) end() {
	if x == nil {
		return
	}
	x.stop()
	<-x.ended
}

// sweep takes away what wildcards have replaced for a whole soak.
func (k *keeper) sweep(ctx context.Context, c *configuration, consent *Consent, s *inventory.Snapshot, o controller.Options) {
	if k.carrying == nil || k.holdsConsolidations(c) != "" {
		return
	}
	k.carrying.mutex.Lock()
	old := k.carrying.old
	k.carrying.old = nil
	k.carrying.mutex.Unlock()
	if len(old) == 0 {
		return
	}
	cleared, held, err := controller.Sweep(s, o, old)
	if err != nil {
		k.log.Error("old certificates not taken away", zap.Error(err))
		return
	}
	for _, h := range held {
		k.log.Warn("old certificate stays", zap.Stringer("object", h.Change.Why.Object), zap.String("why", h.Why))
	}
	if len(cleared.Changes()) > 0 {
		k.collect(ctx, c, consent, s, cleared)
	}
	k.log.Info("old certificates", zap.String("of", fmt.Sprintf("%d objects", len(old))), zap.Int("cleared", len(cleared.Changes())))
}
