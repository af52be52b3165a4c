package consolidate

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/certherd/certherd/api/v1alpha1"
	"github.com/certherd/certherd/cost"
	"github.com/certherd/certherd/inventory"
	"github.com/certherd/certherd/plan"
)

// Proposal is a group that one wildcard could replace.
type Proposal struct {
	// Change is what the plan of a round has for it, with the same ID.
	Change plan.Change
	// Consolidation is the custom resource that proposes it: namespace and name,
	// the proposal with revision 0, and in status what it saves and risks, what
	// stops it, and until when. Its phase is Proposed, Waiting or Held.
	Consolidation *v1alpha1.Consolidation
}

// Proposals are the custom resources for what the checks find Consolidatable,
// sorted by namespace and name. The same snapshot and options give the same
// ones.
func Proposals(s *inventory.Snapshot, o Options) []Proposal {
	l := o.look(s)
	out := make([]Proposal, 0, len(l.groups))
	for _, g := range l.groups {
		f := l.finding(g)
		p := plan.New(s, []plan.Check{{Reason: plan.Consolidatable, Doc: "one", Run: func(*inventory.Snapshot) []plan.Finding { return []plan.Finding{f} }}})
		out = append(out, Proposal{Change: p.Changes[0], Consolidation: l.consolidation(g)})
	}
	slices.SortFunc(out, func(a, b Proposal) int {
		x, y := a.Consolidation, b.Consolidation
		return strings.Compare(x.Namespace+"/"+x.Name, y.Namespace+"/"+y.Name)
	})
	return out
}

func (l *look) consolidation(g *group) *v1alpha1.Consolidation {
	secret, object := g.source()
	p := v1alpha1.Proposal{
		Wildcards:  g.wildcards,
		IssuerRef:  v1alpha1.IssuerRef{Group: g.issuer.Group, Kind: g.issuer.Kind, Name: g.issuer.Name},
		Source:     v1alpha1.Source{Kind: v1alpha1.SourceCertificate, Name: object.Name, UID: g.heir.uid},
		SecretName: secret.Name,
		Hosts:      g.hosts(),
		Manual:     g.managed(l.s),
	}
	if g.knative {
		p.Source.Kind, p.Source.WildcardDomain = v1alpha1.SourceKCertificate, g.domain
		if x := l.s.KnativeCertificate(object); x != nil {
			p.Source.WildcardDomain = x.WildcardDomain
		}
	} else if g.heir.object.IsZero() {
		// Any member of the issuer will do: they have the profile in common.
		i := slices.IndexFunc(g.members, func(m *member) bool { return m.crt.Issuer == g.issuer })
		p.Source.Template = g.members[i].crt.Ref.Name
	}
	for _, m := range g.members {
		p.Members = append(p.Members, l.apiMember(m))
	}
	c := &v1alpha1.Consolidation{
		ObjectMeta: metav1.ObjectMeta{Namespace: g.ns, Name: wildcardName(g)},
		Spec:       v1alpha1.ConsolidationSpec{Proposal: p},
		Status:     v1alpha1.ConsolidationStatus{Phase: v1alpha1.Proposed, Savings: l.savings(g), Risks: l.risks(g)},
	}
	var until time.Time
	for _, b := range g.blockers {
		c.Status.Blockers = append(c.Status.Blockers, b.why)
		if c.Status.Phase == v1alpha1.Proposed {
			c.Status.Phase = v1alpha1.Waiting
		}
		if b.until.IsZero() {
			c.Status.Phase = v1alpha1.Held
		} else if b.until.After(until) {
			until = b.until
		}
	}
	if c.Status.Phase == v1alpha1.Waiting {
		t := metav1.NewTime(until.UTC().Truncate(time.Second))
		c.Status.WaitUntil = &t
	}
	return c
}

func (l *look) apiMember(m *member) v1alpha1.Member {
	x := v1alpha1.Member{Kind: v1alpha1.SourceCertificate, Name: m.object().Name, UID: m.meta().Version.UID, SecretName: m.secret().Name, Hosts: m.hosts(), ManagedBy: m.meta().ManagedBy}
	if m.knative != nil {
		x.Kind = v1alpha1.SourceKCertificate
	}
	if s := l.s.Secret(m.secret()); s != nil && s.Managed {
		x.SecretUID = s.Version.UID
	}
	for _, c := range m.consumers {
		y := v1alpha1.Consumer{Kind: v1alpha1.ConsumerKind(c.Ref.Kind), Name: c.Ref.Name, UID: c.Version.UID, ManagedBy: c.ManagedBy}
		if c.Ref.Group == inventory.GroupKnativeNet {
			y.Kind = v1alpha1.ConsumerKIngress
		}
		if _, follows := mappedBy(c); follows {
			continue
		}
		if y.Kind == v1alpha1.ConsumerDomainMapping {
			y.Hosts = slices.Clone(c.Hosts)
		}
		for _, t := range c.TLS {
			if t.Secret == m.secret() {
				y.Hosts = append(y.Hosts, t.Hosts...)
			}
		}
		slices.Sort(y.Hosts)
		y.Hosts = slices.Compact(y.Hosts)
		x.Consumers = append(x.Consumers, y)
	}
	return x
}

// gateway is a gateway that the model of costs knows.
type gateway struct {
	cost.Gateway
	version string
}

func gateways(s *inventory.Snapshot) []gateway {
	var out []gateway
	for _, g := range cost.Gateways(s, nil, nil) {
		out = append(out, gateway{g, g.Workload.Label("app.kubernetes.io/version")})
	}
	return out
}

// chains is the number of Secrets of a group that a Knative Ingress names, each a
// filter chain of its own, and shared whether more than one Knative Ingress would
// be in the wildcard's.
func (g *group) chains() (chains int, shared bool) {
	ingresses := map[inventory.Ref]bool{}
	for _, m := range g.members {
		n := len(ingresses)
		named := false
		for _, c := range m.consumers {
			if c.Ref.Group == inventory.GroupKnativeNet {
				ingresses[c.Ref], named = true, true
			}
		}
		if named || len(ingresses) > n {
			chains++
		}
	}
	return chains, len(ingresses) > 1 || len(ingresses) == 1 && len(g.heir.hosts) > 0
}

// savings are what is less when a group has become one.
func (l *look) savings(g *group) *v1alpha1.Savings {
	n := int64(len(g.members))
	s := &v1alpha1.Savings{CertificatesNow: n, CertificatesAfter: 1, OrdersPerYear: orders(n - 1)}
	if !g.heir.object.IsZero() {
		s.OrdersPerYear = orders(n)
		if len(g.heir.hosts) > 0 {
			s.CertificatesNow++
		}
	}
	chains, _ := g.chains()
	less := chains - 1
	if len(g.heir.hosts) > 0 {
		less++
	}
	if len(l.gateways) == 0 || less <= 0 {
		return s
	}
	var rest, churn float64
	for _, w := range l.gateways {
		after := w.Now
		after.Chains, after.Shared = after.Chains-less, after.Shared+less
		rest += w.Now.AtRest() - after.AtRest()
		churn += w.Now.UnderChurn(cost.EventsPerSecond) - after.UnderChurn(cost.EventsPerSecond)
	}
	s.MemoryMiB, s.MemoryChurnMiB = mib(rest), mib(churn)
	return s
}

func mib(x float64) string { return strconv.FormatFloat(max(0, x), 'f', 1, 64) }

// orders are those of n certificates in a year, each renewed when two thirds of
// its life are over, as cert-manager does by default.
func orders(n int64) v1alpha1.OrdersPerYear {
	of := func(days int64) int64 { return n * 365 * 3 / (days * 2) }
	return v1alpha1.OrdersPerYear{Days90: of(90), Days64: of(64), Days45: of(45)}
}

// risks are what is at stake with a group.
func (l *look) risks(g *group) *v1alpha1.Risks {
	r := &v1alpha1.Risks{HostsOnKey: int64(len(g.allHosts())), Notes: l.notes(g)}
	chains, shared := g.chains()
	if chains == 0 {
		r.Notes = append(r.Notes, "what its gateways do to connections at a switch is not known")
		return r
	}
	if len(l.gateways) == 0 {
		r.Notes = append(r.Notes, "no Kourier gateway was found, so that drains and memory are not known")
		return r
	}
	var drained, hazard []string
	for _, w := range l.gateways {
		drained = append(drained, fmt.Sprintf("at the switch %s ends the connections of %s that are still open after %d s", w.Workload.Ref, count(len(g.hosts()), "host"), w.Workload.DrainSeconds))
		if shared && !w.Now.Relay && w.Workload.DrainSeconds < longestRequest(l.s) {
			of := "Kourier"
			if w.version != "" {
				of += " " + w.version
			}
			hazard = append(hazard, fmt.Sprintf("%s replaces a shared filter chain at every event of any service, and %s then ends what lasts longer than %d s; Knative allows requests of %d s",
				of, w.Workload.Ref, w.Workload.DrainSeconds, longestRequest(l.s)))
		}
	}
	r.ConnectionsDrained, r.DrainHazard = strings.Join(drained, "; "), strings.Join(hazard, "; ")
	return r
}

// longestRequest is how long Knative lets a request last, in seconds.
func longestRequest(s *inventory.Snapshot) int {
	if n := s.Settings.MaxRevisionTimeoutSeconds; n > 0 {
		return n
	}
	return 600 // config-defaults' default
}

// notes are what could not be looked at.
func (l *look) notes(g *group) []string {
	var out []string
	if x := l.s.Issuer(g.issuer); x != nil && x.Type == inventory.CA && l.s.Authority(g.issuer) == nil {
		out = append(out, "whether the CA's name constraints allow it was not read")
	}
	if len(l.s.Policies) > 0 {
		out = append(out, "approver-policy's policies were read, but not who may use which")
	}
	return out
}

// blocker is something that keeps a group from being carried out. until is when
// it will have passed by itself; zero when somebody has to do something.
type blocker struct {
	why   string
	until time.Time
}

func hold(list []blocker) string {
	var out []string
	for _, b := range list {
		out = append(out, b.why)
	}
	return strings.Join(out, "; ")
}

// Drains says which gateways drain for a shorter time than the longest request may
// last, so that no Knative Ingresses may share a chain on them; none where that is
// accepted.
func Drains(s *inventory.Snapshot, o Options) []string {
	return o.drains(s, gateways(s))
}

func (o Options) drains(s *inventory.Snapshot, all []gateway) []string {
	if o.AcceptDrains {
		return nil
	}
	var out []string
	for _, w := range all {
		if n := longestRequest(s); !w.Now.Relay && w.Workload.DrainSeconds < n {
			out = append(out, fmt.Sprintf("%s drains for %d s, and requests may last %d s: set its DRAIN_TIME_SECONDS to %d, or consolidate.acceptDrains: true in the configuration", w.Workload.Ref, w.Workload.DrainSeconds, n, n))
		}
	}
	return out
}

// blockers are what stops a group, but for quotas.
func (l *look) blockers(g *group) []blocker {
	var out []blocker
	add := func(format string, a ...any) { out = append(out, blocker{why: fmt.Sprintf(format, a...)}) }
	if r := l.rival(g); !r.IsZero() {
		x := l.s.KnativeCertificate(r)
		switch {
		case !x.Ready:
			add("%s has the same names and label and is not Ready: Routes that look now lose TLS; mend or delete it", r)
		default:
			add("Routes could take %s as well: take one of the two away", r)
		}
	}
	if x := l.s.Issuer(g.issuer); x != nil && !x.Ready && g.heir.object.IsZero() {
		add("%s is not Ready", g.issuer)
	}
	if _, shared := g.chains(); shared {
		for _, why := range l.o.drains(l.s, l.gateways) {
			add("%s", why)
		}
	}
	if g.heir.object.IsZero() {
		for _, w := range g.wildcards {
			// For other names, there was one before.
			if why := l.caaCause(g, w); why != "" && inventory.IsWildcard(w) {
				add("%s", why)
			}
		}
	}
	return out
}
