package controller

import (
	"iter"
	"slices"

	"github.com/certherd/certherd/cost"
	"github.com/certherd/certherd/gate"
	"github.com/certherd/certherd/inventory"
	"github.com/certherd/certherd/plan"
	"github.com/certherd/certherd/report"
)

// Audit is RunOnce for a large cluster of which nothing but the report is
// wanted: what a check finds is in memory only while it is being written.
// Checks are pure, so that they can run again for each part of the report.
type Audit struct {
	// Report has everything but Findings and Changes, which are only counted.
	Report report.Report

	s *inventory.Snapshot
	o Options
	// switches are the changes that move a consumer, of which the checks of costs
	// and the totals have to know.
	switches []plan.Change
	changing []plan.Reason // those with changes
	broken   bool          // a change was not safe: none is proposed
}

// NewAudit runs the checks one by one, and keeps nothing but counts. As an audit
// carries nothing out, o.Gate does not count: every change is held. The error is
// that of RunOnce.
func NewAudit(s *inventory.Snapshot, o Options) (*Audit, error) {
	o.Gate = gate.Policy{}
	a := &Audit{Report: outline(s), s: s, o: o}
	var broken error
	for _, c := range a.o.planning() {
		p := plan.New(s, []plan.Check{c})
		if broken == nil {
			broken = p.Verify(s)
		}
		a.switches = append(a.switches, switches(p.Changes)...)
		a.tally(p)
	}
	if broken != nil {
		a.broken, a.switches = true, nil
	}
	a.tally(plan.New(s, cost.Checks(cost.MovesOf(s, a.switches), o.Measured)))
	shown := plan.Plan{Changes: slices.Clone(a.switches)}
	o.narrow(s, &shown)
	count(&a.Report, s, o, shown.Changes)
	return a, broken
}

func (a *Audit) tally(p plan.Plan) {
	a.o.narrow(a.s, &p)
	for i := range p.Findings {
		a.Report.Summary.Findings[string(p.Findings[i].Reason)]++
	}
	for i := range p.Changes {
		if reason := p.Changes[i].Why.Reason; !slices.Contains(a.changing, reason) {
			a.changing = append(a.changing, reason)
		}
	}
}

// found are the reasons with findings.
func (a *Audit) found() []plan.Reason {
	var reasons []plan.Reason
	for reason := range a.Report.Summary.Findings {
		reasons = append(reasons, plan.Reason(reason))
	}
	return reasons
}

func switches(changes []plan.Change) []plan.Change {
	var out []plan.Change
	for _, c := range changes {
		if slices.ContainsFunc(c.Steps, func(st plan.Step) bool { return st.Action == plan.Switch }) {
			out = append(out, c)
		}
	}
	return out
}

// parts plans with the check of one reason after the other, in the order of a
// report, which is that of the reasons' names.
func (a *Audit) parts(reasons []plan.Reason, do func(plan.Plan) bool) {
	reasons = slices.Sorted(slices.Values(reasons))
	for _, reason := range reasons {
		planning := a.o.planning()
		proposed := !a.broken
		i := slices.IndexFunc(planning, func(c plan.Check) bool { return c.Reason == reason })
		if i < 0 {
			planning, proposed = cost.Checks(cost.MovesOf(a.s, a.switches), a.o.Measured), true
			i = slices.IndexFunc(planning, func(c plan.Check) bool { return c.Reason == reason })
		}
		p := plan.New(a.s, planning[i:i+1])
		if !proposed {
			p.Changes = nil
		}
		a.o.narrow(a.s, &p)
		planning = nil
		if !do(p) {
			return
		}
	}
}

// Findings are those of one reason after the other. The caller may do with
// them as it likes.
func (a *Audit) Findings() iter.Seq[[]report.Finding] {
	return func(yield func([]report.Finding) bool) {
		a.parts(a.found(), func(p plan.Plan) bool {
			p.Changes = nil
			part := make([]report.Finding, 0, len(p.Findings))
			for i := range p.Findings {
				part = append(part, reportFinding(&p.Findings[i], a.s, a.o.Loads))
				p.Findings[i] = plan.Finding{} // what is not needed any more makes room
			}
			return yield(part)
		})
	}
}

// Changes are those of one reason after the other, like Findings.
func (a *Audit) Changes() iter.Seq[[]report.Change] {
	return func(yield func([]report.Change) bool) {
		a.parts(a.changing, func(p plan.Plan) bool {
			p.Findings = nil
			_, held := a.o.Gate.Decide(p, a.s, a.s.Taken)
			holds := byID(held)
			part := make([]report.Change, 0, len(p.Changes))
			for i := range p.Changes {
				part = append(part, reportChange(&p.Changes[i], holds[p.Changes[i].ID]))
				*p.Changes[i].Why, p.Changes[i] = plan.Finding{}, plan.Change{}
			}
			return yield(part)
		})
	}
}
