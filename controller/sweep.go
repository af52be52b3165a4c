package controller

import (
	"slices"

	"github.com/certherd/certherd/gate"
	"github.com/certherd/certherd/gc"
	"github.com/certherd/certherd/inventory"
	"github.com/certherd/certherd/plan"
)

// Sweep is what may be taken away of the objects that an approved consolidation
// has replaced: what gc finds unused among them, and as much of that as gc's budget
// and maxShare let one round take away. The consent to the consolidation stands for
// a mode and a window; opt-outs, GitOps and what could not be read hold it up as
// ever, and so does Stopped.
func Sweep(s *inventory.Snapshot, o Options, objects []inventory.Ref) (gate.Cleared, []gate.Held, error) {
	p := plan.New(s, gc.Checks(o.GC))
	p.Changes = slices.DeleteFunc(p.Changes, func(c plan.Change) bool { return !slices.Contains(objects, c.Why.Object) })
	if err := p.Verify(s); err != nil {
		return gate.Cleared{}, nil, err
	}
	budget := o.Gate.Terms[gate.GC].Budget
	// More than maxShare needs no person, as its heirs were seen to serve for a whole
	// soak, but more than one round.
	budget.Share = min(budget.Share, o.Gate.MaxShare)
	allowed := gate.Policy{
		Terms:    map[gate.Rule]gate.Terms{gate.GC: {Mode: gate.Enforce, Budget: budget}},
		MaxShare: 1, Ignore: o.Gate.Ignore, Stopped: o.Gate.Stopped,
	}
	cleared, held := allowed.Decide(p, s, s.Taken)
	return cleared, held, nil
}
