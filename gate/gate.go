// Package gate decides which changes may be carried out. Audit is a gate that
// clears nothing, so that no deciding code has to know of it. It is pure.
package gate

import (
	"github.com/certherd/certherd/plan"
)

// Policy is what an administrator allows. The zero Policy is audit: it clears
// nothing.
type Policy struct{}

// Cleared are the changes that may be carried out. Only Decide makes one.
type Cleared struct{ changes []plan.Change }

// Changes returns what was cleared, in order.
func (c Cleared) Changes() []plan.Change { return c.changes }

// Held is a change that must wait, and why.
type Held struct {
	Change plan.Change
	Why    string
}

// Decide parts a plan's changes into those that may be carried out and those
// that are held. A change is never in both, and never in neither.
func (Policy) Decide(p plan.Plan) (Cleared, []Held) {
	held := make([]Held, 0, len(p.Changes))
	for _, c := range p.Changes {
		why := c.Why.Hold
		if why == "" {
			why = "audit: certherd only reports"
		}
		held = append(held, Held{Change: c, Why: why})
	}
	return Cleared{}, held
}
