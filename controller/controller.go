// Package controller is one round: Snapshot -> Findings -> Plan -> Gate ->
// Report. It wires the steps and decides nothing itself.
package controller

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/labels"

	"github.com/certherd/certherd/consolidate"
	"github.com/certherd/certherd/cost"
	"github.com/certherd/certherd/gate"
	"github.com/certherd/certherd/gc"
	"github.com/certherd/certherd/inventory"
	"github.com/certherd/certherd/plan"
	"github.com/certherd/certherd/renew"
	"github.com/certherd/certherd/report"
)

// Options are those of each step.
type Options struct {
	GC          gc.Options
	Consolidate consolidate.Options
	// Renew needs no Limits and no Skip: they are those of Consolidate and of Gate.
	Renew renew.Options
	Gate  gate.Policy
	// Namespaces narrow what is reported, not what is looked at: a reference
	// may stand anywhere. Empty means all.
	Namespaces []string
	// Selector narrows it to Secrets and Certificates with these labels. Nil
	// means all.
	Selector labels.Selector
	// Measured are gateways whose Envoys were read, by their workload; nil without.
	Measured map[inventory.Ref]cost.Measured
	// Loads is what gateways have loaded; nil where nobody asked them.
	Loads *cost.Loads
}

// reports says whether an object is within what is reported. Objects without a
// record of their labels, such as gateways, are not once a selector is given.
func (o Options) reports(s *inventory.Snapshot, ref inventory.Ref) bool {
	if len(o.Namespaces) > 0 {
		ns := ref.Namespace
		if ns == "" && ref.Kind == "Namespace" {
			ns = ref.Name
		}
		if !slices.Contains(o.Namespaces, ns) {
			return false
		}
	}
	if o.Selector == nil || o.Selector.Empty() {
		return true
	}
	m := s.Judged(ref)
	if m == nil {
		return false
	}
	set := labels.Set{}
	for _, l := range m.Labels {
		set[l.Key] = l.Value
	}
	return o.Selector.Matches(set)
}

// Defaults are the options of an audit that is told nothing.
func Defaults() Options {
	return Options{
		GC:          gc.Options{MinAge: 5 * time.Minute, RequestAge: 24 * time.Hour},
		Consolidate: consolidate.Options{MinCertificates: 2, MaxHosts: 500},
		Renew:       renew.Defaults(),
	}
}

// Checks are all checks, in the order of a report; the catalogue that
// docs/reasons.md explains.
func Checks(o Options) []plan.Check {
	return slices.Concat(o.planning(), cost.Checks(nil, nil))
}

// Reasons are those of all checks, in the order of a report.
func Reasons() []string {
	var out []string
	for _, c := range Checks(Defaults()) {
		out = append(out, string(c.Reason))
	}
	return out
}

// planning are the checks whose changes are proposed, made anew, as they may
// keep what they have seen.
func (o Options) planning() []plan.Check {
	o.Renew.Limits, o.Renew.Skip = o.Consolidate.Renewals, o.Gate.Ignore.OptedOut
	return slices.Concat(gc.Checks(o.GC), consolidate.Checks(o.Consolidate), renew.Checks(o.Renew))
}

// RunOnce makes the plan of a snapshot, asks the gate, and reports both. The
// same snapshot and options give the same Report. An error says that the plan
// would have broken its own promises, which is a defect of certherd; the Report
// then proposes nothing.
func RunOnce(s *inventory.Snapshot, o Options) (report.Report, plan.Plan, error) {
	p := plan.New(s, o.planning())
	err := p.Verify(s)
	if err != nil {
		p.Changes = nil
	}
	p = p.And(s, cost.Checks(cost.MovesOf(s, p.Changes), o.Measured))
	o.narrow(s, &p)
	_, held := o.Gate.Decide(p, s, s.Taken)
	return compose(s, o, p, held), p, err
}

// narrow leaves in a plan what is to be reported. Changes point at findings,
// which therefore stay where they are.
func (o Options) narrow(s *inventory.Snapshot, p *plan.Plan) {
	if len(o.Namespaces) == 0 && (o.Selector == nil || o.Selector.Empty()) {
		return
	}
	var findings []plan.Finding
	for i := range p.Findings {
		if o.reports(s, p.Findings[i].Object) {
			findings = append(findings, p.Findings[i])
		}
	}
	p.Findings = findings
	p.Changes = slices.DeleteFunc(p.Changes, func(c plan.Change) bool { return !o.reports(s, c.Why.Object) })
}

func compose(s *inventory.Snapshot, o Options, p plan.Plan, held []gate.Held) report.Report {
	r := outline(s)
	for i := range p.Findings {
		r.Summary.Findings[string(p.Findings[i].Reason)]++
	}
	r.Findings, r.Changes = reportFindings(p.Findings, s, o.Loads), reportChanges(p.Changes, held)
	count(&r, s, o, p.Changes)
	return r
}

// outline is a report that has nothing counted yet.
func outline(s *inventory.Snapshot) report.Report {
	r := report.Report{
		APIVersion: report.APIVersion, Kind: report.Kind, TakenAt: s.Taken.UTC(),
		Summary: report.Summary{Verdicts: map[string]int{}, Findings: map[string]int{}},
		// Never nil: an empty list and a missing one are different things.
		Namespaces: []report.Namespace{}, Gateways: []report.Gateway{}, Findings: []report.Finding{}, Changes: []report.Change{}, Gaps: []report.Gap{},
	}
	for _, g := range s.Gaps {
		r.Gaps = append(r.Gaps, report.Gap{Kind: g.Kind, Reason: g.Reason})
	}
	return r
}

func reportFindings(findings []plan.Finding, s *inventory.Snapshot, loads *cost.Loads) []report.Finding {
	out := make([]report.Finding, 0, len(findings))
	for i := range findings {
		out = append(out, reportFinding(&findings[i], s, loads))
	}
	return out
}

func reportChanges(changes []plan.Change, held []gate.Held) []report.Change {
	holds := byID(held)
	out := make([]report.Change, 0, len(changes))
	for i := range changes {
		c := &changes[i]
		out = append(out, reportChange(c, holds[c.ID]))
	}
	return out
}

// byID are the changes that are held, by their IDs.
func byID(held []gate.Held) map[string]*gate.Held {
	out := make(map[string]*gate.Held, len(held))
	for i := range held {
		out[held[i].Change.ID] = &held[i]
	}
	return out
}

// reportChange shows a change; held is nil where nothing holds it.
func reportChange(c *plan.Change, held *gate.Held) report.Change {
	x := report.Change{ID: c.ID, Reason: string(c.Why.Reason), Wildcard: c.Why.Wildcard, Message: c.Why.Message, Steps: make([]report.Step, 0, len(c.Steps))}
	if held != nil {
		x.Held, x.Digest = held.Why, held.Digest
		if held.Digest != "" {
			x.WaitsFor = string(held.Cause)
		}
	}
	for i := range c.Steps {
		st := &c.Steps[i]
		y := report.Step{Action: string(st.Action), Object: report.Ref(st.Object)}
		if !st.To().IsZero() {
			to := report.Ref(st.To())
			y.To = &to
		}
		x.Steps = append(x.Steps, y)
	}
	return x
}

// reportFinding shows a finding; loads may be nil.
func reportFinding(f *plan.Finding, s *inventory.Snapshot, loads *cost.Loads) report.Finding {
	x := report.Finding{Reason: string(f.Reason), Object: report.Ref(f.Object), Verdict: string(f.Verdict), Message: f.Message,
		Evidence: make([]report.Evidence, 0, len(f.Evidence)), Related: make([]report.Ref, 0, len(f.Related))}
	for _, e := range f.Evidence {
		x.Evidence = append(x.Evidence, report.Evidence{From: report.Ref(e.From), Field: e.Field, How: string(e.Via)})
	}
	for _, ref := range f.Related {
		if ref != f.Object {
			x.Related = append(x.Related, report.Ref(ref))
		}
	}
	if l, ok := loads.Of(secretOf(s, f.Object)); ok {
		x.Loaded = &l.Copies
	}
	return x
}

// secretOf is the Secret of a Secret, or of a Certificate; the zero Ref for others.
func secretOf(s *inventory.Snapshot, ref inventory.Ref) inventory.Ref {
	switch {
	case s.Secret(ref) != nil:
		return ref
	case s.Certificate(ref) != nil:
		return s.Certificate(ref).Secret
	case s.KnativeCertificate(ref) != nil:
		return s.KnativeCertificate(ref).Secret
	}
	return inventory.Ref{}
}

// reportLoads shows what gateways have loaded, of the Secrets that are reported.
func reportLoads(s *inventory.Snapshot, o Options) *report.Loaded {
	if o.Loads == nil {
		return nil
	}
	out := &report.Loaded{Certificates: o.Loads.Certificates, Copies: o.Loads.Copies, Secrets: []report.LoadedSecret{}, Strays: []report.Stray{}}
	for _, l := range o.Loads.Secrets {
		if o.reports(s, l.Secret) {
			out.Secrets = append(out.Secrets, report.LoadedSecret{Object: report.Ref(l.Secret), Copies: l.Copies, Match: string(l.By), Serial: l.Serial})
		}
	}
	for _, x := range o.Loads.Strays {
		out.Strays = append(out.Strays, report.Stray{Serial: x.Serial, Names: append([]string{}, x.DNS...), NotAfter: x.NotAfter.UTC(), Copies: x.Copies})
	}
	return out
}

// count fills the totals: per namespace, per gateway, and in all.
func count(r *report.Report, s *inventory.Snapshot, o Options, changes []plan.Change) {
	spaces := map[string]*report.Namespace{}
	space := func(name string) *report.Namespace {
		if spaces[name] == nil {
			spaces[name] = &report.Namespace{Name: name}
		}
		return spaces[name]
	}
	judge := func(ref inventory.Ref) {
		n := space(ref.Namespace)
		v := s.Verdict(ref)
		r.Summary.Verdicts[string(v)]++
		switch v {
		case inventory.Unused:
			n.Unused++
		case inventory.Unknown:
			n.Unknown++
		}
	}
	for i := range s.Secrets {
		if ref := s.Secrets[i].Ref; o.reports(s, ref) && !s.Secrets[i].NextPrivateKey {
			space(ref.Namespace).Secrets++
			r.Summary.Secrets++
			judge(ref)
		}
	}
	for i := range s.Certificates {
		if ref := s.Certificates[i].Ref; o.reports(s, ref) {
			space(ref.Namespace).Certificates++
			r.Summary.Certificates++
			judge(ref)
		}
	}
	moves := cost.MovesOf(s, changes)
	var last inventory.Ref
	after := map[inventory.Ref]bool{}
	for x, t := range s.EachServed() {
		if t.Secret.Name == "" || !o.reports(s, t.Secret) {
			continue
		}
		if t.Secret != last {
			last = t.Secret
			r.Summary.GatewayCertificates.Now++
			space(last.Namespace).GatewayCertificates.Now++
		}
		after[moves.Moved(x, t.Secret)] = true
	}
	for ref := range after {
		space(ref.Namespace).GatewayCertificates.After++
	}
	r.Summary.GatewayCertificates.After = len(after)
	for _, n := range spaces {
		r.Namespaces = append(r.Namespaces, *n)
	}
	slices.SortFunc(r.Namespaces, func(a, b report.Namespace) int { return strings.Compare(a.Name, b.Name) })
	r.Loaded = reportLoads(s, o)
	for _, g := range cost.Gateways(s, moves, o.Measured) {
		m := report.Memory{
			Now: g.Model.AtRest(g.Now), After: g.Model.AtRest(g.After),
			ChurnNow: g.Model.UnderChurn(g.Now, cost.EventsPerSecond), ChurnAfter: g.Model.UnderChurn(g.After, cost.EventsPerSecond),
			Limit: cost.MiB(g.Workload.MemoryLimit),
		}
		x := report.Gateway{
			Object: report.Ref(g.Workload.Ref), Controller: g.Workload.Controller, Hosts: g.Hosts,
			Certificates: report.NowAfter{Now: g.CertificatesNow, After: g.CertificatesAfter},
			MemoryMiB:    m, DrainSeconds: g.Workload.DrainSeconds,
			Basis: report.BasisModel, BasisNote: g.Basis(), NeedsLimitMiB: g.NeedsLimit(),
		}
		if g.Now.Relay {
			x.Relay = (*report.Ref)(&g.Workload.Relay)
		}
		if g.Model.Measured {
			x.Basis = report.BasisMeasured
		}
		if y := g.Measured; y.Envoys > 0 {
			x.Measured = &report.Measured{Envoys: y.Envoys, AtRest: y.AtRest, AllocatedMiB: tenth(y.AllocatedMiB), ResidentMiB: tenth(y.ResidentMiB), Certificates: y.Certificates}
		}
		if m.Limit > 0 {
			x.Holds = new(report.Holds)
			x.Holds.AtRest, x.Holds.InChurn = g.Model.Fit(m.Limit, g.Now, cost.EventsPerSecond)
		}
		r.Gateways = append(r.Gateways, x)
		if r.Summary.GatewayMemoryMiB == nil {
			r.Summary.GatewayMemoryMiB = new(report.Memory)
		}
		t := r.Summary.GatewayMemoryMiB
		t.Now, t.After, t.ChurnNow, t.ChurnAfter, t.Limit = t.Now+m.Now, t.After+m.After, t.ChurnNow+m.ChurnNow, t.ChurnAfter+m.ChurnAfter, t.Limit+m.Limit
	}
}

func tenth(x float64) float64 { return math.Round(x*10) / 10 }

// Failed are the findings that --fail-on asks for: reasons, or "any". An
// unknown reason is an error that lists those there are.
func Failed(r report.Report, failOn []string) (int, error) {
	reasons := Reasons()
	n := 0
	for _, want := range failOn {
		if want == "any" {
			all := 0
			for _, found := range r.Summary.Findings {
				all += found
			}
			return all, nil
		}
		if !slices.Contains(reasons, want) {
			return 0, fmt.Errorf("there is no reason %q; there are any, %s", want, strings.Join(reasons, ", "))
		}
		n += r.Summary.Findings[want]
	}
	return n, nil
}
