package gate_test

import (
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/robfig/cron/v3"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/certherd/certherd/gate"
	"github.com/certherd/certherd/inventory"
	"github.com/certherd/certherd/plan"
)

// random makes worlds, plans and policies in which everything that the gate
// looks at happens, sensible or not.
type random struct{ *rand.Rand }

func pick[T any](r random, list ...T) T { return list[r.IntN(len(list))] }

// maybe says yes n times out of ten.
func (r random) maybe(n int) bool { return r.IntN(10) < n }

func (r random) meta(ref inventory.Ref) inventory.Meta {
	m := inventory.Meta{Ref: ref, Version: inventory.Version{UID: ref.String(), ResourceVersion: fmt.Sprint(r.IntN(3))}, Ignore: r.IntN(20) == 0}
	if r.maybe(1) {
		m.ManagedBy = "Argo CD application web"
	}
	if r.maybe(2) {
		m.Labels = []inventory.Pair{{Key: "tier", Value: pick(r, "gold", "silver")}}
	}
	return m
}

func (r random) snapshot() *inventory.Snapshot {
	var o inventory.Objects
	var edges []inventory.Edge
	for _, ns := range []string{"a", "b"} {
		o.Namespaces = append(o.Namespaces, inventory.Namespace{Meta: inventory.Meta{Ref: inventory.Ref{Kind: "Namespace", Name: ns}, Ignore: r.IntN(20) == 0}})
		ing := inventory.Ref{Group: inventory.GroupNetworking, Kind: "Ingress", Namespace: ns, Name: "web"}
		o.Consumers = append(o.Consumers, inventory.Consumer{Meta: r.meta(ing)})
		for i := range r.IntN(8) {
			name := fmt.Sprintf("x%d", i)
			secret := inventory.SecretRef(ns, name)
			if r.maybe(8) {
				o.Secrets = append(o.Secrets, inventory.Secret{Meta: r.meta(secret), Managed: true, NextPrivateKey: r.maybe(1)})
			}
			if r.maybe(3) {
				o.Certificates = append(o.Certificates, inventory.Certificate{Meta: r.meta(inventory.CertificateRef(ns, name)), Secret: secret})
			}
			if r.maybe(2) {
				o.KnativeCertificates = append(o.KnativeCertificates, inventory.KnativeCertificate{Meta: r.meta(inventory.KnativeCertificateRef(ns, name)), Secret: secret})
			}
			if r.maybe(2) {
				o.Requests = append(o.Requests, inventory.Request{Meta: r.meta(inventory.Ref{Group: inventory.GroupCertManager, Kind: "CertificateRequest", Namespace: ns, Name: name}), Final: true})
			}
			if r.maybe(1) {
				edges = append(edges, inventory.Edge{From: ing, To: secret, Field: "spec", Via: pick(r, inventory.Field, inventory.Mention)})
			}
		}
	}
	var gaps []inventory.Gap
	if r.maybe(1) {
		gaps = append(gaps, inventory.Gap{Kind: "pod", Reason: "forbidden"})
	}
	return inventory.New(noon, o, edges, gaps)
}

// object is one of the world, mostly.
func (r random) object(s *inventory.Snapshot) inventory.Ref {
	ns, name := pick(r, "a", "b"), fmt.Sprintf("x%d", r.IntN(8))
	request := inventory.Ref{Group: inventory.GroupCertManager, Kind: "CertificateRequest", Namespace: ns, Name: name}
	switch n := r.IntN(10); {
	case n < 6 && len(s.Secrets) > 0:
		return pick(r, s.Secrets...).Ref
	case n < 7 && len(s.Certificates) > 0:
		return pick(r, s.Certificates...).Ref
	case n < 8 && len(s.Requests) > 0:
		return pick(r, s.Requests...).Ref
	}
	return pick(r, inventory.SecretRef(ns, name), inventory.CertificateRef(ns, name), inventory.KnativeCertificateRef(ns, name), request, s.Consumers[0].Ref)
}

func (r random) plan(s *inventory.Snapshot) plan.Plan {
	var p plan.Plan
	for i := range r.IntN(12) {
		c := plan.Change{ID: fmt.Sprint("id", i), Why: &plan.Finding{
			Reason:  pick(r, plan.OrphanedSecret, plan.OrphanedCertificate, plan.SupersededCertificate, plan.ExpiredUnused, plan.OrphanedSecret, plan.RequestResidue, plan.Consolidatable, plan.GatewayMemory),
			Object:  r.object(s),
			Verdict: pick(r, inventory.Unused, inventory.Unused, inventory.Unused, inventory.Unused, inventory.Unused, inventory.Unknown, inventory.Used),
		}}
		if r.IntN(30) == 0 {
			c.Why.Hold = "act elsewhere"
		}
		switch r.IntN(30) {
		case 0:
			c.ID = "id0"
		case 1:
			c.Why.Reason = "New"
		}
		c.Steps = append(c.Steps, plan.Step{Action: pick(r, plan.Delete, plan.Retire, plan.Delete, plan.Retire, plan.Unretire), Object: c.Why.Object})
		for range max(0, r.IntN(4)-1) {
			c.Steps = append(c.Steps, plan.Step{Action: pick(r, plan.Issue, plan.Await, plan.Switch, plan.Retire, plan.Delete, plan.Unretire), Object: r.object(s), Move: &plan.Move{From: r.object(s), To: r.object(s)}})
		}
		p.Changes = append(p.Changes, c)
	}
	return p
}

func (r random) share() float64 {
	return pick(r, 0, 0.1, 0.3, 0.5, 1, 1, 1, 1, 1, 1, -1, pick(r, 1.5, math.NaN(), math.Inf(1)))
}

func (r random) window(t testing.TB) gate.Window {
	return gate.Window{
		Schedule: pick[cron.Schedule](r, nil, schedule(t, "CRON_TZ=UTC 0 11 * * *"), schedule(t, "0 22 * * *"), schedule(t, "@every 1m"), schedule(t, "0 0 30 2 *")),
		Duration: pick(r, 0, -time.Hour, time.Hour, 2*time.Hour, 12*time.Hour),
	}
}

// policy is one for a plan.
func (r random) policy(t testing.TB, p plan.Plan) gate.Policy {
	g := gate.Policy{MaxShare: r.share(), Terms: map[gate.Rule]gate.Terms{}}
	for _, rule := range append(gate.Rules(), "other") {
		if r.maybe(1) {
			continue
		}
		terms := gate.Terms{
			Mode:   pick(r, gate.Enforce, gate.Enforce, gate.Enforce, gate.Enforce, gate.Enforce, gate.Propose, gate.Propose, gate.Audit, "", "ENFORCE"),
			Budget: gate.Budget{Count: pick(r, -1, 0, 1, 2, 3, 5, gate.NoLimit, gate.NoLimit), Share: r.share()},
		}
		for range max(0, r.IntN(6)-3) {
			terms.Windows = append(terms.Windows, r.window(t))
		}
		if r.maybe(1) {
			terms.Next = noon.Add(time.Hour)
		}
		g.Terms[rule] = terms
	}
	if r.maybe(1) {
		g.Stopped = "stopped"
	}
	for _, c := range p.Changes {
		if r.maybe(3) {
			g.Approvals = append(g.Approvals, gate.Approval{ID: c.ID, Digest: pick(r, gate.Digest(c), "", "another"), Whole: r.maybe(5)})
		}
	}
	g.Prompt = r.maybe(5)
	if r.maybe(2) {
		g.Ignore = gate.Ignore{Namespaces: []string{pick(r, "a", "c", "[")}, Names: []string{pick(r, "x1", "b/*", "nothing")}, Selectors: []labels.Selector{pick(r, labels.SelectorFromSet(labels.Set{"tier": "gold"}), nil)}}
	}
	return g
}

func removes(c plan.Change) bool {
	return slices.ContainsFunc(c.Steps, func(st plan.Step) bool { return st.Action == plan.Delete || st.Action == plan.Retire })
}

// gone counts what changes take away: certificates, each once with its Secret,
// and other objects. It is written anew here, so that it and the gate's own
// count can disagree.
func gone(s *inventory.Snapshot, changes []plan.Change) (certificates, objects int) {
	secrets, others := map[inventory.Ref]bool{}, map[inventory.Ref]bool{}
	for _, c := range changes {
		for _, st := range c.Steps {
			if st.Action != plan.Delete && st.Action != plan.Retire {
				continue
			}
			x, y := s.Certificate(st.Object), s.KnativeCertificate(st.Object)
			switch {
			case x != nil:
				secrets[x.Secret] = true
			case y != nil:
				secrets[y.Secret] = true
			case st.Object.Kind == "Secret" || st.Object.Kind == "Certificate":
				secrets[st.Object] = true
			default:
				others[st.Object] = true
			}
		}
	}
	return len(secrets), len(secrets) + len(others)
}

// all counts the certificates of a world.
func all(s *inventory.Snapshot) int {
	secrets := map[inventory.Ref]bool{}
	for _, x := range s.Secrets {
		if !x.NextPrivateKey {
			secrets[x.Ref] = true
		}
	}
	for _, x := range s.Certificates {
		secrets[x.Secret] = true
	}
	for _, x := range s.KnativeCertificates {
		secrets[x.Secret] = true
	}
	return len(secrets)
}

// TestProperties: what holds whatever the world, the plan and the policy are.
func TestProperties(t *testing.T) {
	seen := map[gate.Cause]int{}
	clearedInAll := 0
	for seed := range uint64(10_000) {
		r := random{rand.New(rand.NewPCG(seed, 1))}
		s := r.snapshot()
		p := r.plan(s)
		g := r.policy(t, p)
		cleared, held := g.Decide(p, s, noon)
		fail := func(format string, a ...any) {
			t.Helper()
			t.Fatalf("seed %d: %s\npolicy %+v\nplan %+v\ncleared %+v", seed, fmt.Sprintf(format, a...), g, p, cleared.Changes())
		}

		// Each change is cleared or held, and never both.
		count := map[string]int{}
		key := func(c plan.Change) string {
			return c.ID + gate.Digest(c) + string(c.Why.Reason) + c.Why.Object.String()
		}
		for _, c := range p.Changes {
			count[key(c)]++
		}
		for _, c := range cleared.Changes() {
			count[key(c)]--
		}
		for _, h := range held {
			count[key(h.Change)]--
			seen[h.Cause]++
			if h.Cause == "" || h.Why == "" {
				fail("%s is held without a word", h.Change.ID)
			}
			if asks := h.Cause == gate.Unapproved || h.Cause == gate.TooMuch; asks != (h.Digest != "") || asks && h.Digest != gate.Digest(h.Change) {
				fail("%s is held by cause %q with digest %q", h.Change.ID, h.Cause, h.Digest)
			}
		}
		for k, n := range count {
			if n != 0 {
				fail("%s: %+d", k, n)
			}
		}
		clearedInAll += len(cleared.Changes())

		byRule := map[gate.Rule][]plan.Change{}
		for _, c := range cleared.Changes() {
			rule, ok := gate.RuleOf(c.Why.Reason)
			byRule[rule] = append(byRule[rule], c)
			mode := g.Terms[rule].Mode
			switch {
			case !ok:
				fail("%s has no rule and was cleared", c.ID)
			case mode != gate.Enforce && mode != gate.Propose:
				fail("%s was cleared in mode %q", c.ID, mode)
			case removes(c) && len(s.Gaps) > 0:
				fail("%s was cleared although there is a gap", c.ID)
			case removes(c) && c.Why.Verdict == inventory.Unknown, removes(c) && rule == gate.GC && c.Why.Verdict != inventory.Unused:
				fail("%s was cleared with verdict %s", c.ID, c.Why.Verdict)
			case removes(c) && rule == gate.GC && c.Why.Object.Kind == "Secret" && s.Judge(c.Why.Object).Verdict != inventory.Unused:
				fail("%s was cleared against the snapshot", c.ID)
			case c.Why.Hold != "":
				fail("%s was cleared although its check holds it", c.ID)
			}
			for _, st := range c.Steps {
				if x := s.Secret(st.Object); x != nil && removes(plan.Change{Steps: []plan.Step{st}}) && (s.Ignored(&x.Meta) || x.ManagedBy != "") {
					fail("%s takes %s away, which is not ours to take", c.ID, st.Object)
				}
			}
			approved := slices.ContainsFunc(g.Approvals, func(a gate.Approval) bool { return a.ID == c.ID && a.Digest == gate.Digest(c) })
			if mode == gate.Propose && !approved {
				fail("%s was cleared without an approval", c.ID)
			}
			if !g.Terms[rule].Next.IsZero() && !(g.Prompt && approved) {
				fail("%s was cleared before its round", c.ID)
			}
		}

		// Never more than a budget, and never more than the circuit breaker
		// lets through without a person.
		for rule, changes := range byRule {
			certificates, objects := gone(s, changes)
			b := g.Terms[rule].Budget
			if b.Count <= 0 || !(b.Share > 0 && b.Share <= 1) {
				fail("%d changes were cleared by a budget of nothing", len(changes))
			}
			if objects > b.Count || certificates > max(1, int(math.Floor(b.Share*float64(all(s))+1e-9))) {
				fail("%d certificates and %d objects in all go beyond %+v of %d", certificates, objects, b, all(s))
			}
		}
		unseen := slices.DeleteFunc(cleared.Changes(), func(c plan.Change) bool {
			return slices.Contains(g.Approvals, gate.Approval{ID: c.ID, Digest: gate.Digest(c), Whole: true})
		})
		if n, _ := gone(s, unseen); n > 0 && !(g.MaxShare <= 1 && float64(n) <= g.MaxShare*float64(all(s))+1e-9) {
			fail("%d of %d certificates go beyond the share of %v", n, all(s), g.MaxShare)
		}

		// The order of the plan decides nothing.
		q := plan.Plan{Changes: slices.Clone(p.Changes)}
		r.Shuffle(len(q.Changes), func(i, j int) { q.Changes[i], q.Changes[j] = q.Changes[j], q.Changes[i] })
		again, heldAgain := g.Decide(q, s, noon)
		ids := func(list []plan.Change) map[string]bool {
			out := map[string]bool{}
			for _, c := range list {
				out[c.ID] = true
			}
			return out
		}
		if !maps.Equal(ids(cleared.Changes()), ids(again.Changes())) || len(held) != len(heldAgain) {
			fail("in another order %+v were cleared", again.Changes())
		}

		// Audit clears nothing, whatever else is set.
		quiet := g
		quiet.Terms = maps.Clone(g.Terms)
		for rule, terms := range quiet.Terms {
			terms.Mode = pick(r, gate.Audit, "", "Enforce", "propose ")
			quiet.Terms[rule] = terms
		}
		if c, h := quiet.Decide(p, s, noon); len(c.Changes()) > 0 || len(h) != len(p.Changes) {
			fail("audit cleared %+v", c.Changes())
		}
		if c, _ := (gate.Policy{}).Decide(p, s, noon); len(c.Changes()) > 0 {
			fail("the zero policy cleared %+v", c.Changes())
		}
	}
	// The random worlds are of use only if everything happens in them.
	if clearedInAll < 1000 {
		t.Errorf("only %d changes were cleared", clearedInAll)
	}
	for _, c := range []gate.Cause{gate.HeldByCheck, gate.Malformed, gate.InAudit, gate.Unread, gate.NotUnused, gate.OptedOut, gate.Managed, gate.Stopped, gate.NotDue, gate.Unapproved, gate.TooMuch, gate.OutOfWindow, gate.OverBudget} {
		if seen[c] < 50 {
			t.Errorf("only %d changes were held by cause %q", seen[c], c)
		}
	}
	t.Log(clearedInAll, "cleared;", seen)
}
