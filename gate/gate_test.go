package gate_test

import (
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/robfig/cron/v3"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/certherd/certherd/consolidate"
	"github.com/certherd/certherd/cost"
	"github.com/certherd/certherd/gate"
	"github.com/certherd/certherd/gc"
	"github.com/certherd/certherd/inventory"
	"github.com/certherd/certherd/plan"
	"github.com/certherd/certherd/renew"
)

// noon is a Monday.
var noon = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

func schedule(t testing.TB, spec string) cron.Schedule {
	t.Helper()
	s, err := cron.ParseStandard(spec)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// world has orphaned Secrets team/orphan-1 to -10, team/served, which an
// Ingress serves, Certificate team/web with Secret team/web, and a
// CertificateRequest team/old.
func world(gaps ...inventory.Gap) *inventory.Snapshot {
	o := inventory.Objects{
		Certificates: []inventory.Certificate{{Meta: inventory.Meta{Ref: inventory.CertificateRef("team", "web")}, Secret: inventory.SecretRef("team", "web")}},
		Requests:     []inventory.Request{{Meta: inventory.Meta{Ref: request}, Final: true}},
		Namespaces:   []inventory.Namespace{{Meta: inventory.Meta{Ref: inventory.Ref{Kind: "Namespace", Name: "team"}}}, {Meta: inventory.Meta{Ref: inventory.Ref{Kind: "Namespace", Name: "keep"}, Ignore: true}}},
		Consumers:    []inventory.Consumer{{Meta: inventory.Meta{Ref: ingress}, TLS: []inventory.TLS{{Secret: inventory.SecretRef("team", "served")}}}},
	}
	secret := func(ns, name string, edit func(*inventory.Secret)) {
		x := inventory.Secret{Meta: inventory.Meta{Ref: inventory.SecretRef(ns, name), Version: inventory.Version{UID: name, ResourceVersion: "1"}}, Managed: true}
		if edit != nil {
			edit(&x)
		}
		o.Secrets = append(o.Secrets, x)
	}
	for _, n := range orphans {
		secret("team", n, nil)
	}
	secret("team", "served", nil)
	secret("team", "web", nil)
	secret("keep", "orphan", nil)
	secret("team", "marked", func(x *inventory.Secret) { x.Ignore = true })
	secret("team", "gold", func(x *inventory.Secret) { x.Labels = []inventory.Pair{{Key: "tier", Value: "gold"}} })
	secret("team", "helm", func(x *inventory.Secret) { x.ManagedBy = "Helm release web" })
	edges := []inventory.Edge{{From: ingress, To: inventory.SecretRef("team", "served"), Field: "spec.tls[].secretName", Via: inventory.Field}}
	return inventory.New(noon, o, edges, gaps)
}

var (
	orphans = []string{"orphan-01", "orphan-02", "orphan-03", "orphan-04", "orphan-05", "orphan-06", "orphan-07", "orphan-08", "orphan-09", "orphan-10"}
	ingress = inventory.Ref{Group: inventory.GroupNetworking, Kind: "Ingress", Namespace: "team", Name: "web"}
	request = inventory.Ref{Group: inventory.GroupCertManager, Kind: "CertificateRequest", Namespace: "team", Name: "old"}
)

// orphan is the change that takes Secrets of team away, named after the first.
func orphan(names ...string) plan.Change {
	first := inventory.SecretRef("team", names[0])
	c := plan.Change{ID: "id-" + names[0], Why: &plan.Finding{Reason: plan.OrphanedSecret, Object: first, Verdict: inventory.Unused}}
	for _, n := range names {
		ref := inventory.SecretRef("team", n)
		c.Steps = append(c.Steps, plan.Step{Action: plan.Retire, Object: ref}, plan.Step{Action: plan.Delete, Object: ref})
	}
	return c
}

// enforcing lets everything through that nothing speaks against.
func enforcing() gate.Policy {
	t := gate.Terms{Mode: gate.Enforce, Budget: gate.Budget{Count: gate.NoLimit, Share: 1}}
	return gate.Policy{MaxShare: 1, Terms: map[gate.Rule]gate.Terms{gate.GC: t, gate.Consolidate: t, gate.Batch: t}}
}

// with changes the terms of gc.
func with(edit func(*gate.Terms)) gate.Policy {
	g := enforcing()
	t := g.Terms[gate.GC]
	edit(&t)
	g.Terms[gate.GC] = t
	return g
}

func TestDecide(t *testing.T) {
	one := plan.Plan{Changes: []plan.Change{orphan("orphan-01")}}
	three := plan.Plan{Changes: []plan.Change{orphan("orphan-03"), orphan("orphan-01"), orphan("orphan-02")}}
	edited := func(edit func(*plan.Change)) plan.Plan {
		c := orphan("orphan-01")
		edit(&c)
		return plan.Plan{Changes: []plan.Change{c}}
	}
	approve := func(c plan.Change) gate.Approval { return gate.Approval{ID: c.ID, Digest: gate.Digest(c)} }
	whole := func(p plan.Plan) (all []gate.Approval) {
		for _, c := range p.Changes {
			all = append(all, gate.Approval{ID: c.ID, Digest: gate.Digest(c), Whole: true})
		}
		return all
	}
	// How a person is told to approve.
	token := func(p plan.Plan, id string) string {
		i := slices.IndexFunc(p.Changes, func(c plan.Change) bool { return c.ID == id })
		return "`certherd approve " + id + "@" + gate.Digest(p.Changes[i])[:10] + "`"
	}
	all := func(p plan.Plan) string {
		var digests []string
		for _, c := range p.Changes {
			digests = append(digests, gate.Digest(c))
		}
		return "look at what waits (`certherd approve --list`) and approve all of it (`certherd approve --all=" + gate.WholeDigest(digests) + "`), or raise maxShare"
	}
	propose := func(a ...gate.Approval) gate.Policy {
		g := with(func(t *gate.Terms) { t.Mode = gate.Propose })
		g.Approvals = a
		return g
	}
	window := func(spec string, d time.Duration) gate.Policy {
		w := gate.Window{Schedule: schedule(t, spec), Duration: d}
		return with(func(t *gate.Terms) { t.Windows = []gate.Window{w} })
	}
	budget := func(count int, share float64) gate.Policy {
		return with(func(t *gate.Terms) { t.Budget = gate.Budget{Count: count, Share: share} })
	}
	ignore := func(i gate.Ignore) gate.Policy {
		g := enforcing()
		g.Ignore = i
		return g
	}
	share := func(x float64, a ...gate.Approval) gate.Policy {
		g := enforcing()
		g.MaxShare, g.Approvals = x, a
		return g
	}
	next := func(g gate.Policy) gate.Policy {
		t := g.Terms[gate.GC]
		t.Next = noon.Add(time.Hour)
		g.Terms[gate.GC] = t
		return g
	}
	prompt := func(g gate.Policy) gate.Policy { g.Prompt = true; return g }
	// The Secrets of the world: 10 orphans and 6 others.
	for name, tc := range map[string]struct {
		policy gate.Policy
		plan   plan.Plan
		gaps   []inventory.Gap
		// want says what is cleared, by ID, and then why the first one that is
		// not is held.
		want string
	}{
		"the zero policy is audit":          {gate.Policy{}, one, nil, "; audit: certherd only reports"},
		"the defaults are audit":            {gate.Defaults(), one, nil, "; audit: certherd only reports"},
		"a mode that is none is audit":      {with(func(t *gate.Terms) { t.Mode = "Enforce" }), one, nil, "; audit: certherd only reports"},
		"enforce clears what is unused":     {enforcing(), three, nil, "id-orphan-01 id-orphan-02 id-orphan-03"},
		"a rule without terms is audit":     {gate.Policy{MaxShare: 1, Terms: map[gate.Rule]gate.Terms{gate.Consolidate: {Mode: gate.Enforce}}}, one, nil, "; audit: certherd only reports"},
		"what a check holds is held":        {enforcing(), edited(func(c *plan.Change) { c.Why.Hold = "act at Ingress/team/web" }), nil, "; act at Ingress/team/web"},
		"a reason of no rule is held":       {enforcing(), edited(func(c *plan.Change) { c.Why.Reason = "New" }), nil, `; no rule is responsible for "New"`},
		"a change without steps is held":    {enforcing(), edited(func(c *plan.Change) { c.Steps = nil }), nil, "; it has no steps"},
		"two changes of one ID are held":    {enforcing(), plan.Plan{Changes: []plan.Change{orphan("orphan-01"), orphan("orphan-01"), orphan("orphan-02")}}, nil, "id-orphan-02; another change has the same ID"},
		"what may be used is held":          {enforcing(), edited(func(c *plan.Change) { c.Why.Verdict = inventory.Unknown }), nil, "; whether anybody uses it is unknown"},
		"what is used is held":              {enforcing(), edited(func(c *plan.Change) { c.Why.Verdict = inventory.Used }), nil, "; it is used"},
		"a verdict must be given":           {enforcing(), edited(func(c *plan.Change) { c.Why.Verdict = "" }), nil, "; it is used"},
		"the snapshot has the last word":    {enforcing(), plan.Plan{Changes: []plan.Change{orphan("served")}}, nil, "; Secret/team/served is used by now"},
		"what nobody has seen is held":      {enforcing(), plan.Plan{Changes: []plan.Change{orphan("elsewhere")}}, nil, "; Secret/team/elsewhere is not in the snapshot"},
		"requests need no verdict":          {enforcing(), plan.Plan{Changes: []plan.Change{residue()}}, nil, "id-old"},
		"what GitOps manages is held":       {enforcing(), plan.Plan{Changes: []plan.Change{orphan("helm")}}, nil, "; Secret/team/helm is managed by Helm release web: take it out of what that applies"},
		"what is used again loses its mark": {enforcing(), plan.Plan{Changes: []plan.Change{unmark()}}, []inventory.Gap{{Kind: "pod", Reason: "forbidden"}}, "id-unmark"},
		"a gap holds every delete":          {enforcing(), three, []inventory.Gap{{Kind: "pod", Reason: "forbidden"}}, "; pod was not read in full (forbidden): nothing is taken away before everything can be read"},
		"a gap holds requests, too":         {enforcing(), plan.Plan{Changes: []plan.Change{residue()}}, []inventory.Gap{{Kind: "pod", Reason: "forbidden"}, {Kind: "route", Reason: "timeout"}}, "; pod was not read in full (forbidden), nor 1 more: nothing is taken away before everything can be read"},
		"a gap holds a consolidation":       {enforcing(), plan.Plan{Changes: []plan.Change{fold()}}, []inventory.Gap{{Kind: "pod", Reason: "forbidden"}}, "; pod was not read in full (forbidden): nothing is taken away before everything can be read"},
		"a consolidation is of used ones":   {enforcing(), plan.Plan{Changes: []plan.Change{fold()}}, nil, "id-fold"},
		"a stop holds everything": {func() gate.Policy {
			g := enforcing()
			g.Stopped = "gateway rejections rose after the last batch"
			return g
		}(), one, nil,
			"; gateway rejections rose after the last batch"},
		"another rule's round": {with(func(t *gate.Terms) { t.Next = noon.Add(time.Hour) }), one, nil, "; the next round of gc is at 2026-11-23 13:00 UTC"},

		"opted out by its annotation":              {enforcing(), plan.Plan{Changes: []plan.Change{orphan("marked")}}, nil, "; Secret/team/marked is opted out by its annotation certherd.dev/ignore"},
		"opted out by its namespace":               {enforcing(), plan.Plan{Changes: []plan.Change{kept()}}, nil, "; Secret/keep/orphan is opted out by the annotation certherd.dev/ignore of its namespace"},
		"opted out by a later step":                {enforcing(), plan.Plan{Changes: []plan.Change{orphan("orphan-01", "marked")}}, nil, "; Secret/team/marked is opted out by its annotation certherd.dev/ignore"},
		"opted out by a namespace pattern":         {ignore(gate.Ignore{Namespaces: []string{"te*"}}), one, nil, `; Secret/team/orphan-01 is opted out by the namespace pattern "te*"`},
		"opted out by a name":                      {ignore(gate.Ignore{Names: []string{"orphan-?1"}}), three, nil, `id-orphan-02 id-orphan-03; Secret/team/orphan-01 is opted out by the name pattern "orphan-?1"`},
		"opted out by namespace and name":          {ignore(gate.Ignore{Names: []string{"other/*", "team/*1"}}), three, nil, `id-orphan-02 id-orphan-03; Secret/team/orphan-01 is opted out by the name pattern "team/*1"`},
		"a broken pattern opts everything out":     {ignore(gate.Ignore{Names: []string{"["}}), one, nil, `; Secret/team/orphan-01 is opted out by the name pattern "["`},
		"opted out by a label":                     {ignore(gate.Ignore{Selectors: selectors(t, "tier in (gold, silver)")}), plan.Plan{Changes: []plan.Change{orphan("gold"), orphan("orphan-01")}}, nil, `id-orphan-01; Secret/team/gold is opted out by the label selector "tier in (gold,silver)"`},
		"a namespace pattern stops consolidations": {ignore(gate.Ignore{Namespaces: []string{"team"}}), plan.Plan{Changes: []plan.Change{fold()}}, nil, `; Namespace/team is opted out by the namespace pattern "team"`},
		"labels nobody has seen hold": {ignore(gate.Ignore{Selectors: selectors(t, "tier=gold")}), plan.Plan{Changes: []plan.Change{orphan("orphan-01", "elsewhere")}}, nil,
			"; Secret/team/elsewhere is not in the snapshot, so that its labels cannot be looked at for opt-outs"},

		"propose waits":                   {propose(), one, nil, "; it waits for " + token(one, "id-orphan-01")},
		"an approval of the change":       {propose(approve(orphan("orphan-01"))), three, nil, "id-orphan-01; it waits for " + token(three, "id-orphan-02")},
		"an approval of the whole plan":   {propose(whole(three)...), three, nil, "id-orphan-01 id-orphan-02 id-orphan-03"},
		"an approval of another plan":     {propose(whole(one)...), three, nil, "id-orphan-01; it waits for " + token(three, "id-orphan-02")},
		"an approval of another state":    {propose(gate.Approval{ID: "id-orphan-01", Digest: gate.Digest(orphan("orphan-01", "orphan-02"))}), one, nil, "; what was approved is another state than this one: look again, then " + token(one, "id-orphan-01")},
		"an approval of another change":   {propose(gate.Approval{ID: "id-orphan-02", Digest: one.Digest()}), one, nil, "; it waits for " + token(one, "id-orphan-01")},
		"an approval without a digest":    {propose(gate.Approval{ID: "id-orphan-01", Whole: true}), one, nil, "; what was approved is another state than this one: look again, then " + token(one, "id-orphan-01")},
		"the right approval among others": {propose(gate.Approval{ID: "id-orphan-01"}, approve(one.Changes[0])), one, nil, "id-orphan-01"},
		"an approval does not end audit":  {gate.Policy{MaxShare: 1, Approvals: whole(one)}, one, nil, "; audit: certherd only reports"},
		"an approval waits for its round": {next(propose(whole(one)...)), one, nil, "; the next round of gc is at 2026-11-23 13:00 UTC"},
		"unless it is to be prompt":       {prompt(next(propose(whole(one)...))), three, nil, "id-orphan-01; it waits for " + token(three, "id-orphan-02")},
		"prompt is what is approved only": {prompt(next(share(1, whole(one)...))), three, nil, "id-orphan-01; the next round of gc is at 2026-11-23 13:00 UTC"},
		"an approval opens no window": {func() gate.Policy {
			g := window("0 22 * * *", time.Hour)
			g.Approvals, g.Prompt = whole(one), true
			return g
		}(), one, nil, "; it is outside of every window; the next opens at 2026-11-23 22:00 UTC"},
		"inside of a window":               {window("0 11 * * *", 2*time.Hour), one, nil, "id-orphan-01"},
		"as a window opens":                {window("0 12 * * *", time.Hour), one, nil, "id-orphan-01"},
		"as a window closes":               {window("0 11 * * *", time.Hour), one, nil, "; it is outside of every window; the next opens at 2026-11-24 11:00 UTC"},
		"a window in another zone":         {window("CRON_TZ=Asia/Tokyo 0 21 * * *", time.Minute), one, nil, "id-orphan-01"},
		"a window that never opens":        {window("0 0 30 2 *", time.Hour), one, nil, "; it is outside of every window, and none opens again"},
		"a window without a duration":      {window("* * * * *", 0), one, nil, "; it is outside of every window, and none opens again"},
		"a window without a schedule":      {with(func(t *gate.Terms) { t.Windows = make([]gate.Window, 1) }), one, nil, "; it is outside of every window, and none opens again"},
		"a window by @every":               {window("@every 1m", time.Hour), one, nil, "; it is outside of every window, and none opens again"},
		"no budget":                        {with(func(t *gate.Terms) { t.Budget = gate.Budget{} }), one, nil, "; the budget allows nothing"},
		"a budget without a share":         {budget(5, 0), one, nil, "; the budget allows nothing"},
		"a broken count":                   {budget(-1, 1), one, nil, "; the budget allows nothing"},
		"a broken share":                   {budget(5, math.NaN()), one, nil, "; the budget allows nothing"},
		"a share above everything":         {budget(5, 1.01), one, nil, "; the budget allows nothing"},
		"a count that is used up":          {budget(2, 1), three, nil, "id-orphan-01 id-orphan-02; this round's budget of 2 objects is used up: a later round goes on"},
		"a share that is used up":          {budget(99, 0.125), three, nil, "id-orphan-01 id-orphan-02; this round's budget of 2 certificates (12.5% of 16) is used up: a later round goes on"},
		"the smallest share allows one":    {budget(99, 0.0001), three, nil, "id-orphan-01; this round's budget of 1 certificate (0% of 16) is used up: a later round goes on"},
		"a change larger than any budget":  {budget(1, 1), plan.Plan{Changes: []plan.Change{orphan("orphan-01", "orphan-02"), orphan("orphan-03")}}, nil, "id-orphan-03; it takes away 2 objects, more than the 1 of a whole round's budget: raise budget.count, or do it by hand"},
		"a change larger than any share":   {budget(9, 0.07), plan.Plan{Changes: []plan.Change{orphan("orphan-01", "orphan-02"), orphan("orphan-03")}}, nil, "id-orphan-03; it takes away 2 of 16 certificates, more than the 1 (7%) of a whole round's budget: raise budget.share, or do it by hand"},
		"requests count as objects":        {budget(1, 1), plan.Plan{Changes: []plan.Change{residue(), orphan("orphan-01")}}, nil, "id-old; this round's budget of 1 object is used up: a later round goes on"},
		"requests are no share":            {budget(9, 0.0001), plan.Plan{Changes: []plan.Change{residue(), orphan("orphan-01")}}, nil, "id-old id-orphan-01"},
		"a Certificate and Secret are one": {budget(1, 1), plan.Plan{Changes: []plan.Change{certificate()}}, nil, "id-web"},

		"what two take away counts once": {budget(1, 1), plan.Plan{Changes: []plan.Change{orphan("orphan-01"), func() plan.Change { c := orphan("orphan-01"); c.ID = "id-second"; return c }()}}, nil, "id-orphan-01 id-second"},

		"the breaker trips":                {share(0.18), three, nil, "; this round would take away 3 of 16 certificates (18.8%), and more than 18% at once needs a person: " + all(three)},
		"it is known before the round":     {next(share(0.18)), three, nil, "; this round would take away 3 of 16 certificates (18.8%), and more than 18% at once needs a person: " + all(three)},
		"just below the share":             {share(3.0 / 16), three, nil, "id-orphan-01 id-orphan-02 id-orphan-03"},
		"a person has seen it":             {share(0.18, whole(three)...), three, nil, "id-orphan-01 id-orphan-02 id-orphan-03"},
		"a person has seen more":           {share(0.01, whole(three)...), one, nil, "id-orphan-01"},
		"a person has seen part of it":     {share(0.07, whole(one)...), three, nil, "id-orphan-01; this round would take away 2 of 16 certificates (12.5%), and more than 7% at once needs a person: " + all(plan.Plan{Changes: []plan.Change{three.Changes[0], three.Changes[2]}})},
		"a person has seen one by one":     {share(0.18, approve(three.Changes[0]), approve(three.Changes[1]), approve(three.Changes[2])), three, nil, "; this round would take away 3 of 16 certificates (18.8%), and more than 18% at once needs a person: " + all(three)},
		"a person has seen what was there": {share(0.18, gate.Approval{ID: "id-orphan-01", Whole: true}), three, nil, "; this round would take away 3 of 16 certificates (18.8%), and more than 18% at once needs a person: " + all(three)},
		"no share at all":                  {share(0), one, nil, "; this round would take away 1 of 16 certificates (6.3%), and more than 0% at once needs a person: " + all(one)},
		"a share that is none":             {share(math.Inf(1)), one, nil, "; this round would take away 1 of 16 certificates (6.3%), and more than 0% at once needs a person: " + all(one)},
		"requests trip nothing":            {share(0), plan.Plan{Changes: []plan.Change{residue()}}, nil, "id-old"},
		"held ones do not trip":            {func() gate.Policy { g := share(1.0 / 16); g.Ignore.Names = []string{"*-02", "*-03"}; return g }(), three, nil, `id-orphan-01; Secret/team/orphan-02 is opted out by the name pattern "*-02"`},
	} {
		t.Run(name, func(t *testing.T) {
			cleared, held := tc.policy.Decide(tc.plan, world(tc.gaps...), noon)
			var ids []string
			for _, c := range cleared.Changes() {
				ids = append(ids, c.ID)
			}
			got := strings.Join(ids, " ")
			if len(held) > 0 {
				got += "; " + held[0].Why
			}
			if got != tc.want {
				t.Errorf("got\n%s\nwant\n%s", got, tc.want)
			}
		})
	}
}

func selectors(t *testing.T, text ...string) []labels.Selector {
	var out []labels.Selector
	for _, x := range text {
		s, err := labels.Parse(x)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, s)
	}
	return out
}

func residue() plan.Change {
	return plan.Change{ID: "id-old", Why: &plan.Finding{Reason: plan.RequestResidue, Object: request, Verdict: inventory.Unused}, Steps: []plan.Step{{Action: plan.Delete, Object: request}}}
}

func unmark() plan.Change {
	ref := inventory.SecretRef("team", "served")
	return plan.Change{ID: "id-unmark", Why: &plan.Finding{Reason: plan.RetiredInUse, Object: ref, Verdict: inventory.Used}, Steps: []plan.Step{{Action: plan.Unretire, Object: ref}}}
}

// fold makes Ingress team/web serve something else and takes Certificate
// team/web away.
func fold() plan.Change {
	return plan.Change{ID: "id-fold", Why: &plan.Finding{Reason: plan.Consolidatable, Object: inventory.Ref{Kind: "Namespace", Name: "team"}, Verdict: inventory.Used}, Steps: []plan.Step{
		{Action: plan.Issue, Object: inventory.CertificateRef("team", "wild"), Move: &plan.Move{To: inventory.SecretRef("team", "wild")}},
		{Action: plan.Await, Object: inventory.CertificateRef("team", "wild"), Move: &plan.Move{To: inventory.SecretRef("team", "wild")}},
		{Action: plan.Switch, Object: ingress, Move: &plan.Move{From: inventory.SecretRef("team", "web"), To: inventory.SecretRef("team", "wild")}},
		{Action: plan.Delete, Object: inventory.CertificateRef("team", "web")},
	}}
}

func certificate() plan.Change {
	return plan.Change{ID: "id-web", Why: &plan.Finding{Reason: plan.OrphanedCertificate, Object: inventory.CertificateRef("team", "web"), Verdict: inventory.Unused}, Steps: []plan.Step{
		{Action: plan.Delete, Object: inventory.CertificateRef("team", "web")},
		{Action: plan.Retire, Object: inventory.SecretRef("team", "web")},
	}}
}

func kept() plan.Change {
	ref := inventory.SecretRef("keep", "orphan")
	return plan.Change{ID: "id-kept", Why: &plan.Finding{Reason: plan.OrphanedSecret, Object: ref, Verdict: inventory.Unused}, Steps: []plan.Step{{Action: plan.Retire, Object: ref}}}
}

// Every check falls under the terms of a rule: that of its package.
func TestEveryReasonHasARule(t *testing.T) {
	for rule, checks := range map[gate.Rule][]plan.Check{
		gate.GC:          gc.Checks(gc.Options{}),
		gate.Consolidate: consolidate.Checks(consolidate.Options{}),
		gate.Batch:       slices.Concat(renew.Checks(renew.Options{}), cost.Checks(nil, nil)),
	} {
		for _, c := range checks {
			if got, ok := gate.RuleOf(c.Reason); !ok || got != rule {
				t.Errorf("%s falls under %q, want %q", c.Reason, got, rule)
			}
		}
	}
}

func TestWindowCheck(t *testing.T) {
	for name, tc := range map[string]struct {
		spec string
		d    time.Duration
		want string
	}{
		"every night":                   {"0 22 * * *", 6 * time.Hour, ""},
		"all day on one day":            {"0 0 * * sat", 24 * time.Hour, ""},
		"a leap day":                    {"0 0 29 2 *", 24 * time.Hour, ""},
		"as long as its period":         {"0 * * * *", time.Hour, "it lasts 1h0m0s and opens again after 1h0m0s"},
		"two days in a row are a night": {"0 22 * * sat,sun", 30 * time.Hour, "it lasts 30h0m0s and opens again after 24h0m0s"},
		"a day that never comes":        {"0 0 31 6 *", time.Hour, "it never opens"},
		"@every":                        {"@every 24h", time.Hour, "@every has no time of day"},
		"no duration":                   {"@daily", 0, "it has no duration"},
	} {
		t.Run(name, func(t *testing.T) {
			err := gate.Window{Schedule: schedule(t, "CRON_TZ=UTC "+tc.spec), Duration: tc.d}.Check()
			if tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
				t.Errorf("got %v, want %q", err, tc.want)
			}
		})
	}
	if err := (gate.Window{Duration: time.Hour}).Check(); err == nil {
		t.Error("a window without a schedule was taken")
	}
}

// Where clocks change, a window opens once and lasts as long as it says.
func TestWindowsAcrossClockChanges(t *testing.T) {
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	w := gate.Window{Schedule: schedule(t, "CRON_TZ=Europe/Berlin 0 1 * * *"), Duration: 3 * time.Hour}
	for name, tc := range map[string]struct {
		at   time.Time
		open bool
	}{
		"the night without 2 o'clock, 04:30":    {time.Date(2026, 3, 29, 4, 30, 0, 0, berlin), true},
		"the night without 2 o'clock, 05:00":    {time.Date(2026, 3, 29, 5, 0, 0, 0, berlin), false},
		"the night with 2 o'clock twice, 02:30": {time.Date(2026, 10, 25, 2, 30, 0, 0, berlin), true},
		"the night with 2 o'clock twice, 03:00": {time.Date(2026, 10, 25, 3, 0, 0, 0, berlin), false},
	} {
		if _, open := w.Open(tc.at); open != tc.open {
			t.Errorf("%s: open is %v", name, open)
		}
	}
}

// TestOptOutsReachWhatGoesAlong: a change is held, too, by an opt-out of what it
// does not name in a step, but would leave without renewal or take along.
func TestOptOutsReachWhatGoesAlong(t *testing.T) {
	crt, kcert, secret := inventory.CertificateRef("team", "x"), inventory.KnativeCertificateRef("team", "x"), inventory.SecretRef("team", "x")
	remove := func(ref inventory.Ref) plan.Change {
		return plan.Change{ID: "id", Why: &plan.Finding{Reason: plan.OrphanedCertificate, Object: ref, Verdict: inventory.Unused}, Steps: []plan.Step{{Action: plan.Delete, Object: ref}}}
	}
	leave := plan.Change{ID: "id", Why: &plan.Finding{Reason: plan.Consolidatable, Object: inventory.Ref{Kind: "Namespace", Name: "team"}, Verdict: inventory.Used},
		Steps: []plan.Step{{Action: plan.Switch, Object: ingress, Move: &plan.Move{From: secret, To: inventory.SecretRef("team", "wild")}}}}
	for name, tc := range map[string]struct {
		ignored inventory.Ref
		change  plan.Change
	}{
		"the Secret that a Certificate renews":          {secret, remove(crt)},
		"the Certificate that goes with a KCertificate": {crt, remove(kcert)},
		"the Secret that a consumer leaves":             {secret, leave},
	} {
		for _, ignored := range []inventory.Ref{tc.ignored, {}} {
			meta := func(ref inventory.Ref) inventory.Meta { return inventory.Meta{Ref: ref, Ignore: ref == ignored} }
			s := inventory.New(noon, inventory.Objects{
				Secrets:             []inventory.Secret{{Meta: meta(secret), Managed: true}},
				Certificates:        []inventory.Certificate{{Meta: meta(crt), Secret: secret}},
				KnativeCertificates: []inventory.KnativeCertificate{{Meta: meta(kcert), Secret: secret}},
				Consumers:           []inventory.Consumer{{Meta: meta(ingress)}},
			}, nil, nil)
			cleared, held := enforcing().Decide(plan.Plan{Changes: []plan.Change{tc.change}}, s, noon)
			switch {
			case ignored.IsZero() && len(cleared.Changes()) != 1:
				t.Errorf("%s: without the opt-out it is held: %s", name, held[0].Why)
			case !ignored.IsZero() && (len(held) != 1 || held[0].Cause != gate.OptedOut):
				t.Errorf("%s: the opt-out does not hold: %+v", name, held)
			}
		}
	}
}
