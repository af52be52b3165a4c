// Package consolidate groups per-service certificates that one wildcard could
// replace, and proposes how: issue, await, switch, retire, delete. What cannot
// be folded is named with the cause. It is pure.
package consolidate

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	cmacme "github.com/cert-manager/cert-manager/pkg/apis/acme/v1"
	"github.com/cert-manager/cert-manager/pkg/util/solverpicker"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/certherd/certherd/inventory"
	"github.com/certherd/certherd/plan"
)

// Options are what the grouping can be told.
type Options struct {
	// MinCertificates is how many certificates a wildcard must replace.
	MinCertificates int
	// MaxHosts is how many hosts may share one key and one filter chain.
	MaxHosts int
	// AllowIssuers are the issuers of which nothing tells whether they sign
	// wildcards (Vault, Venafi, external ones) and that are known to:
	// Kind/namespace/name, or Kind/name.
	AllowIssuers []string
}

// Checks are the checks of this package, in the order of a report.
func Checks(o Options) []plan.Check {
	// Both checks are two sides of one look at the same snapshot.
	var last *look
	look := func(s *inventory.Snapshot) *look {
		if last == nil || last.s != s {
			last = o.look(s)
		}
		return last
	}
	return []plan.Check{
		{Reason: plan.Consolidatable, Run: func(s *inventory.Snapshot) []plan.Finding { return look(s).proposals() },
			Doc: "One wildcard certificate could replace a group of per-service certificates."},
		{Reason: plan.NotConsolidatable, Run: func(s *inventory.Snapshot) []plan.Finding { return look(s).refused },
			Doc: "A per-service certificate cannot become part of a wildcard, for the cause that is given."},
	}
}

// member is one certificate that could be folded.
type member struct {
	crt       *inventory.Certificate
	knative   *inventory.KnativeCertificate // nil where Knative has not made it
	consumers []*inventory.Consumer         // those that serve it
}

// meta is that of what would be deleted: the Knative Certificate or the Certificate.
func (m *member) meta() *inventory.Meta {
	if m.knative != nil {
		return &m.knative.Meta
	}
	return &m.crt.Meta
}

func (m *member) object() inventory.Ref { return m.meta().Ref }

func (m *member) secret() inventory.Ref { return m.crt.Secret }

func (m *member) hosts() []string {
	if m.knative != nil {
		return m.knative.Names.DNS
	}
	return m.crt.Names.DNS
}

// group is what one wildcard could replace.
type group struct {
	wildcard string
	issuer   inventory.IssuerRef
	profile  string
	knative  bool
	ns       string
	members  []*member
}

type look struct {
	o       Options
	s       *inventory.Snapshot
	groups  []*group
	refused []plan.Finding
	// wildcards are the Certificates and Knative Certificates that are Ready
	// and have a wildcard name, by namespace and that name.
	wildcards map[[2]string][]inventory.Ref
}

func (o Options) look(s *inventory.Snapshot) *look {
	l := &look{o: o, s: s, wildcards: map[[2]string][]inventory.Ref{}}
	wildcards := func(ref inventory.Ref, names []string) {
		for _, n := range names {
			if inventory.IsWildcard(n) {
				k := [2]string{ref.Namespace, n}
				l.wildcards[k] = append(l.wildcards[k], ref)
			}
		}
	}
	for i := range s.KnativeCertificates {
		if x := &s.KnativeCertificates[i]; x.Ready && x.WildcardDomain != "" {
			wildcards(x.Ref, x.Names.DNS)
		}
	}
	for i := range s.Certificates {
		if x := &s.Certificates[i]; x.Ready {
			wildcards(x.Ref, x.Names.DNS)
		}
	}
	type key struct {
		ns, wildcard, profile string
		issuer                inventory.IssuerRef
		knative               bool
	}
	groups := map[key]*group{}
	// siblings counts certificates below one parent whatever else differs, so
	// that only what could have company is worth a word.
	type place struct{ ns, wildcard string }
	siblings := map[place][]*member{}
	routeHosts := l.routeHosts()
	for i := range s.Certificates {
		x := &s.Certificates[i]
		if slices.ContainsFunc(x.Names.DNS, inventory.IsWildcard) {
			continue
		}
		consumers := s.Servers(x.Secret)
		if len(consumers) == 0 {
			continue // nobody serves it: that is a matter of gc
		}
		m := &member{crt: x, consumers: consumers}
		if c, ok := x.ControlledBy(); ok && c.Ref.Group == inventory.GroupKnativeNet {
			m.knative = s.KnativeCertificate(c.Ref)
		}
		if cause := l.cause(m, routeHosts); cause != "" {
			l.refuse(m, cause)
			continue
		}
		hosts := m.hosts()
		wildcard, refusal := inventory.WildcardFor(hosts[0])
		if refusal != "" {
			l.refuse(m, refusal)
			continue
		}
		if i := slices.IndexFunc(hosts, func(h string) bool { return !inventory.Covers(wildcard, h) }); i >= 0 {
			l.refuse(m, fmt.Sprintf("its names %s and %s have no parent domain in common", hosts[0], hosts[i]))
			continue
		}
		siblings[place{x.Ref.Namespace, wildcard}] = append(siblings[place{x.Ref.Namespace, wildcard}], m)
		if cause := l.issuerCause(m, wildcard); cause != "" {
			l.refuse(m, cause)
			continue
		}
		k := key{x.Ref.Namespace, wildcard, x.Profile, x.Issuer, m.knative != nil}
		g := groups[k]
		if g == nil {
			g = &group{wildcard: wildcard, issuer: x.Issuer, profile: x.Profile, knative: k.knative, ns: k.ns}
			groups[k] = g
			l.groups = append(l.groups, g)
		}
		g.members = append(g.members, m)
	}
	l.groups = slices.DeleteFunc(l.groups, func(g *group) bool {
		heir, _ := l.heir(g)
		switch hosts := len(g.hosts()); {
		case hosts > o.MaxHosts:
			for _, m := range g.members {
				l.refuse(m, fmt.Sprintf("%s would carry %d hosts on one key, more than the %d allowed", g.wildcard, hosts, o.MaxHosts))
			}
			return true
		case len(g.members) < o.MinCertificates && heir.IsZero():
			// Alone under its parent is not worth a word; parted from the others is.
			if all := siblings[place{g.ns, g.wildcard}]; len(all) >= o.MinCertificates {
				for _, m := range g.members {
					l.refuse(m, "the others under "+g.wildcard+" have "+differs(m, all))
				}
			}
			return true
		}
		return false
	})
	return l
}

// differs says what keeps a certificate from those beside it.
func differs(m *member, all []*member) string {
	for _, o := range all {
		switch {
		case o.object() == m.object():
		case o.crt.Issuer != m.crt.Issuer:
			return "a different issuer (" + o.crt.Issuer.String() + ")"
		case (o.knative == nil) != (m.knative == nil):
			return "a different owner: Knative makes some of them, and not the others"
		case o.crt.Profile != m.crt.Profile:
			return "a different key or usage"
		}
	}
	return "something that differs"
}

func (g *group) hosts() []string {
	var out []string
	for _, m := range g.members {
		out = append(out, m.hosts()...)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

func (l *look) refuse(m *member, cause string) {
	j := l.s.Judge(m.object())
	l.refused = append(l.refused, plan.Finding{
		Reason: plan.NotConsolidatable, Object: m.object(), Verdict: j.Verdict, Evidence: j.Evidence,
		Message: strings.Join(m.hosts(), ", ") + ": " + cause,
		Related: []inventory.Ref{m.secret()},
	})
}

// routeHosts are the hosts of each Knative Route's certificates, by which a
// tag's host is told from a service's; only those below which others are.
func (l *look) routeHosts() map[inventory.Ref][]string {
	parents := map[string]bool{}
	for i := range l.s.KnativeCertificates {
		for _, h := range l.s.KnativeCertificates[i].Names.DNS {
			_, parent, _ := strings.Cut(h, ".")
			parents[parent] = true
		}
	}
	out := map[inventory.Ref][]string{}
	for i := range l.s.KnativeCertificates {
		x := &l.s.KnativeCertificates[i]
		if c, ok := x.ControlledBy(); ok && c.Ref.Kind == "Route" && x.Type == "external-domain" {
			for _, h := range x.Names.DNS {
				if parents[h] {
					out[c.Ref] = append(out[c.Ref], h)
				}
			}
		}
	}
	return out
}

// cause is what keeps one certificate from any wildcard, whoever issues it;
// empty when nothing does.
func (l *look) cause(m *member, routeHosts map[inventory.Ref][]string) string {
	if l.s.Ignored(m.meta()) {
		return "opted out by " + inventory.IgnoreAnnotation
	}
	if k := m.knative; k != nil {
		switch k.Type {
		case "cluster-local-domain":
			return "cluster-local: Knative looks for no wildcard for these (knative/serving pkg/reconciler/route/route.go, clusterLocalDomainTLS)"
		case "system-internal":
			return "it secures Knative's own traffic"
		}
		c, ok := k.ControlledBy()
		switch {
		case ok && c.Ref.Kind == "DomainMapping":
			return "DomainMapping: Knative looks for no wildcard for these; set spec.tls.secretName on " + c.Ref.String() + " to share one"
		case ok && c.Ref.Kind != "Route":
			return "it belongs to " + c.Ref.String() + ", not to a Route"
		case !ok:
			return "no Route owns it"
		}
		for _, h := range m.hosts() {
			_, parent, _ := strings.Cut(h, ".")
			if slices.Contains(routeHosts[c.Ref], parent) {
				return "the tag template puts it two labels deep, below " + parent + ", and a wildcard stands for one label"
			}
		}
	}
	if !m.crt.Names.OnlyDNS() && m.knative == nil {
		return "it has names that are no DNS names"
	}
	if len(m.hosts()) == 0 {
		return "it has no DNS name"
	}
	for _, e := range l.s.To(m.secret()) {
		if e.Via == inventory.Field && !slices.ContainsFunc(m.consumers, func(c *inventory.Consumer) bool { return c.Ref == e.From }) && !l.s.Writes(e.From, m.secret()) {
			return fmt.Sprintf("%s uses its Secret, too, in %s, and would not be switched", e.From, e.Field)
		}
	}
	for w := range l.s.EachWriter(m.secret()) {
		if w.Group == inventory.GroupCertManager && w != m.crt.Ref {
			return w.String() + " writes the same Secret: settle that first (see SharedSecretName)"
		}
	}
	if by := m.meta().ManagedBy; by != "" {
		return "managed by " + by + ": make the wildcard there"
	}
	for _, c := range m.consumers {
		if c.ManagedBy != "" && m.knative == nil {
			return c.Ref.String() + ", which serves it, is managed by " + c.ManagedBy + ": switch it there"
		}
		if c.Ref.Group != inventory.GroupKnativeNet && c.Ref.Kind == "DomainMapping" {
			return "DomainMapping " + c.Ref.String() + " names its Secret by hand"
		}
	}
	return ""
}

// issuerCause is what keeps an issuer from signing a wildcard; empty when
// nothing does.
func (l *look) issuerCause(m *member, wildcard string) string {
	ref := m.crt.Issuer
	allowed := slices.Contains(l.o.AllowIssuers, ref.String()) || slices.Contains(l.o.AllowIssuers, ref.Kind+"/"+ref.Name)
	if ref.Group != inventory.GroupCertManager {
		if allowed {
			return ""
		}
		return fmt.Sprintf("nothing tells whether %s signs wildcards; name it in allowIssuers if it does", ref)
	}
	x := l.s.Issuer(ref)
	if x == nil {
		kind := strings.ToLower(ref.Kind) + "." + inventory.GroupCertManager
		if l.s.HasGap(kind) {
			return fmt.Sprintf("%s could not be read", ref)
		}
		return fmt.Sprintf("its issuer %s does not exist", ref)
	}
	switch x.Type {
	case inventory.SelfSigned:
		return fmt.Sprintf("%s is self-signed: each certificate is its own authority, and clients may have pinned it", ref)
	case inventory.CA:
		return ""
	case inventory.ACME:
		if dns01(x.Solvers, wildcard, labels(m.crt)) {
			return ""
		}
		if slices.ContainsFunc(x.Solvers, func(s cmacme.ACMEChallengeSolver) bool { return s.DNS01 != nil }) {
			return fmt.Sprintf("no DNS-01 solver of %s is for %s, and ACME signs wildcards over DNS-01 only (RFC 8555, 7.1.3)", ref, wildcard)
		}
		return fmt.Sprintf("%s has HTTP-01 solvers only, and ACME signs wildcards over DNS-01 only (RFC 8555, 7.1.3)", ref)
	}
	if allowed {
		return ""
	}
	return fmt.Sprintf("nothing in the cluster tells whether %s (%s) signs wildcards; name it in allowIssuers if it does", ref, x.Type)
}

// dns01 asks cert-manager's own solver picker.
func dns01(solvers []cmacme.ACMEChallengeSolver, wildcard string, labels map[string]string) bool {
	solver, _ := solverpicker.Pick(context.Background(), wildcard,
		[]cmacme.ACMEChallenge{{Type: "dns-01"}}, solvers,
		&cmacme.Order{ObjectMeta: metav1.ObjectMeta{Labels: labels}})
	return solver != nil
}

func labels(x *inventory.Certificate) map[string]string {
	out := map[string]string{}
	for _, p := range x.Labels {
		out[p.Key] = p.Value
	}
	return out
}

// heir is a wildcard that is there already and Ready: its Secret and the
// object that makes it.
func (l *look) heir(g *group) (secret, object inventory.Ref) {
	for _, ref := range l.wildcards[[2]string{g.ns, g.wildcard}] {
		if x := l.s.KnativeCertificate(ref); x != nil && g.knative {
			return x.Secret, ref
		}
		if x := l.s.Certificate(ref); x != nil && !g.knative && x.Issuer == g.issuer && x.Profile == g.profile {
			return x.Secret, ref
		}
	}
	return inventory.Ref{}, inventory.Ref{}
}

func (l *look) proposals() []plan.Finding {
	var out []plan.Finding
	for _, g := range l.groups {
		out = append(out, l.proposal(g))
	}
	return out
}

func (l *look) proposal(g *group) plan.Finding {
	hosts := g.hosts()
	secret, object := l.heir(g)
	f := plan.Finding{
		Reason: plan.Consolidatable, Object: inventory.Ref{Kind: "Namespace", Name: g.ns},
		Verdict: inventory.Used, Wildcard: g.wildcard,
	}
	// Issue and await, and for each certificate switch, delete, retire, delete.
	f.Fix = make([]plan.Step, 0, 2+4*len(g.members))
	f.Related = make([]inventory.Ref, 0, len(g.members)+1)
	for _, m := range g.members {
		f.Related = append(f.Related, m.object())
	}
	if secret.IsZero() {
		name := wildcardName(g)
		secret = inventory.SecretRef(g.ns, name)
		object = inventory.CertificateRef(g.ns, name)
		if g.knative {
			object = inventory.KnativeCertificateRef(g.ns, name)
		}
		f.Message = fmt.Sprintf("%s of %s could become one, %s", count(len(g.members), "certificate"), g.issuer, g.wildcard)
		f.Fix = append(f.Fix, plan.Step{Action: plan.Issue, Object: object, Move: &plan.Move{To: secret, Hosts: []string{g.wildcard}}})
		f.Fix = append(f.Fix, plan.Step{Action: plan.Await, Object: object, Move: &plan.Move{To: secret, Hosts: hosts}})
	} else {
		f.Message = fmt.Sprintf("%s of %s could give way to %s, %s, which is there and Ready", count(len(g.members), "certificate"), g.issuer, object, g.wildcard)
		f.Related = append(f.Related, object)
		f.Fix = append(f.Fix, plan.Step{Action: plan.Await, Object: object, Move: &plan.Move{To: secret, Hosts: hosts}})
	}
	f.Message += fmt.Sprintf("; %s would then be on its key and its filter chain", count(len(hosts), "host"))
	if x := l.s.Issuer(g.issuer); x != nil && x.Type == inventory.CA {
		f.Message += "; whether the CA's name constraints allow it was not read"
	}
	for _, m := range g.members {
		move := &plan.Move{From: m.secret(), To: secret}
		for _, c := range m.consumers {
			f.Fix = append(f.Fix, plan.Step{Action: plan.Switch, Object: c.Ref, Move: move, If: c.Version})
		}
	}
	for _, m := range g.members {
		f.Fix = append(f.Fix, plan.Step{Action: plan.Delete, Object: m.object(), If: m.meta().Version})
	}
	for _, m := range g.members {
		if x := l.s.Secret(m.secret()); x != nil && x.Managed {
			f.Fix = append(f.Fix, plan.Step{Action: plan.Retire, Object: x.Ref, If: x.Version}, plan.Step{Action: plan.Delete, Object: x.Ref, If: x.Version})
		}
	}
	return f
}

func count(n int, what string) string {
	if n != 1 {
		what += "s"
	}
	return fmt.Sprintf("%d %s", n, what)
}

// wildcardName is the name of the object and the Secret of a new wildcard:
// readable, and not a name that something else could have.
func wildcardName(g *group) string {
	sum := sha256.Sum256([]byte(g.wildcard + " " + g.issuer.String() + " " + g.profile))
	name := strings.NewReplacer("*.", "", ".", "-").Replace(g.wildcard)
	if len(name) > 40 {
		name = strings.TrimRight(name[:40], "-")
	}
	return "wildcard-" + name + "-" + hex.EncodeToString(sum[:4])
}
