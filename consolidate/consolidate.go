// Package consolidate groups per-service certificates that one wildcard could
// replace, and proposes how: issue, await, switch, retire, delete. What cannot
// be folded is named with the cause. It is pure.
package consolidate

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"sync"

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
	// AcceptDrains allows shared chains on gateways that drain for a shorter time
	// than the longest request may last.
	AcceptDrains bool
	// DomainMappings allows their spec.tls.secretName to be set.
	DomainMappings bool
	// Quotas are what certificate authorities issue.
	Quotas []Quota
	// CAA are the answers to what was asked for the Domains of a snapshot, by
	// domain; nil where no resolver is configured.
	CAA map[string]CAA
}

// Checks are the checks of this package, in the order of a report.
func Checks(o Options) []plan.Check {
	// Both checks are two sides of one look at the same snapshot.
	var last *look
	var one sync.Mutex
	look := func(s *inventory.Snapshot) *look {
		one.Lock()
		defer one.Unlock()
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
	wildcards []string                      // that its hosts need, sorted; shared by those that need the same
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

// routed reports whether Routes choose the certificate by its label; all else names
// a Secret itself.
func (m *member) routed() bool {
	if m.knative == nil {
		return false
	}
	c, ok := m.knative.ControlledBy()
	return !ok || c.Ref.Kind != "DomainMapping"
}

func (m *member) hosts() []string {
	if m.knative != nil {
		return m.knative.Names.DNS
	}
	return m.crt.Names.DNS
}

// group is what one certificate with wildcards could replace.
type group struct {
	key
	twins     bool     // its members are for just the names of wildcards
	wildcards []string // sorted
	members   []*member
	heir      heir
	// parted is true for one of several wildcards with the same names, over which
	// maxHosts spreads the members, and part counts them from 0.
	parted bool
	part   int
	// blockers are what keeps it from being carried out for now; until, if not
	// zero, is when the last of them will have passed by itself.
	blockers []blocker
}

// key is what certificates must have in common to be replaced by one.
type key struct {
	ns      string
	issuer  inventory.IssuerRef
	profile string
	// knative is true for certificates that Knative makes for Routes; domain is then
	// their base domain, by which they look for a wildcard.
	knative bool
	domain  string
}

// name is what a group's wildcards are called in a sentence.
func (g *group) name() string { return strings.Join(g.wildcards, ", ") }

type look struct {
	o       Options
	s       *inventory.Snapshot
	groups  []*group
	refused []plan.Finding
	// wildcards are the Certificates and Knative Certificates with a wildcard
	// name, by namespace and that name, sorted.
	wildcards map[[2]string][]inventory.Ref
	gateways  []gateway
	// authorities are the first issuers that are an authority, by what proves it.
	authorities map[string]inventory.IssuerRef
	// twins are the certificates that could give way to another one for the same
	// names: all that could be replaced, and have no wildcard to go to.
	twins []*member
}

func (o Options) look(s *inventory.Snapshot) *look {
	l := &look{o: o, s: s, wildcards: map[[2]string][]inventory.Ref{}, authorities: map[string]inventory.IssuerRef{}}
	for i := len(s.Issuers) - 1; i >= 0; i-- {
		if x := &s.Issuers[i]; x.Authority != "" {
			l.authorities[string(x.Type)+" "+x.Authority] = inventory.IssuerRef(x.Ref)
		}
	}
	l.findWildcards()
	l.gateways = gateways(s)
	type place struct {
		key
		wildcards string
	}
	groups := map[place]*group{}
	// siblings are the certificates below one parent whatever else differs, so
	// that only what could have company is worth a word.
	siblings := map[[2]string][]*member{}
	for _, m := range l.candidates() {
		near := [2]string{m.secret().Namespace, strings.Join(m.wildcards, ", ")}
		siblings[near] = append(siblings[near], m)
		if cause := l.issuerCause(m); cause != "" {
			l.refuse(m, cause)
			l.twins = append(l.twins, m)
			continue
		}
		k := key{ns: m.secret().Namespace, profile: m.crt.Profile, issuer: l.authority(m.crt.Issuer), knative: m.routed()}
		if k.knative {
			k.domain = m.knative.Domain
		}
		at := place{k, strings.Join(m.wildcards, " ")}
		g := groups[at]
		if g == nil {
			g = &group{key: k, wildcards: m.wildcards}
			groups[at] = g
			l.groups = append(l.groups, g)
		}
		g.members = append(g.members, m)
	}
	l.merge()
	for _, g := range l.groups {
		g.issuer = l.issuerOf(g)
		g.heir = l.heirOf(g)
	}
	l.named(l.groups...)
	l.split()
	l.groups = slices.DeleteFunc(l.groups, func(g *group) bool {
		switch {
		case len(g.members) == 0:
			return true
		case len(g.members) < o.MinCertificates && g.heir.object.IsZero() && g.parted:
			l.twins = append(l.twins, g.members...)
			for _, m := range g.members {
				l.refuse(m, fmt.Sprintf("the wildcards for the others under %s carry the %s that are allowed on one key, and one more would replace %s, fewer than minCertificates (%d); if they may share a key, raise maxHosts",
					g.name(), count(o.MaxHosts, "host"), count(len(g.members), "certificate"), o.MinCertificates))
			}
			return true
		case len(g.members) < o.MinCertificates && g.heir.object.IsZero():
			l.twins = append(l.twins, g.members...)
			// Alone under its parent is not worth a word; parted from the others is.
			if all := siblings[[2]string{g.ns, strings.Join(g.wildcards, ", ")}]; len(all) >= o.MinCertificates {
				for _, m := range g.members {
					l.refuse(m, "the others under "+g.name()+" have "+l.differs(m, all))
				}
			}
			return true
		}
		return false
	})
	l.duplicates()
	slices.SortFunc(l.groups, func(a, b *group) int {
		return cmp.Or(strings.Compare(a.ns, b.ns), slices.Compare(a.wildcards, b.wildcards), strings.Compare(wildcardName(a), wildcardName(b)))
	})
	for _, g := range l.groups {
		g.blockers = l.blockers(g)
	}
	l.count()
	return l
}

// split spreads a group with more hosts than one key may carry over as few
// wildcards of the same names as will do: those that are there are filled up
// first. The oldest certificates come first, so that a new one moves none of the
// others. Routes cannot be told which of several wildcards to use (knative/serving
// pkg/reconciler/route/route.go, findMatchingWildcardCert), so that a group of
// theirs is refused.
func (l *look) split() {
	var out []*group
	for _, g := range l.groups {
		hosts := len(g.allHosts())
		switch {
		case hosts <= l.o.MaxHosts:
			out = append(out, g)
			continue
		case g.knative:
			for _, m := range g.members {
				l.refuse(m, fmt.Sprintf("%s would carry %d hosts on one key, more than the %d allowed, and Routes choose at random between two wildcards of the same names: "+
					"if they may share a key, raise maxHosts; otherwise spread the services over namespaces, or over domains with a domain-template that puts one more label between", g.name(), hosts, l.o.MaxHosts))
			}
			continue
		}
		out = append(out, l.parts(g)...)
	}
	l.groups = out
}

// parts are the groups that a group is spread over.
func (l *look) parts(g *group) []*group {
	var parts []*group
	room := map[*group]int{}
	for _, h := range l.heirsOf(g) {
		p := &group{key: g.key, wildcards: g.wildcards, heir: h}
		parts, room[p] = append(parts, p), l.o.MaxHosts-len(h.hosts)
	}
	members := slices.Clone(g.members)
	slices.SortStableFunc(members, func(a, b *member) int {
		return cmp.Or(len(b.hosts())-len(a.hosts()), a.meta().Created.Compare(b.meta().Created))
	})
	for _, m := range members {
		if n := len(m.hosts()); n > l.o.MaxHosts {
			l.refuse(m, fmt.Sprintf("it alone has %d hosts, more than the %d allowed on one key of a wildcard (maxHosts)", n, l.o.MaxHosts))
			continue
		}
		i := slices.IndexFunc(parts, func(p *group) bool { return room[p] >= len(m.hosts()) })
		if i < 0 {
			p := &group{key: g.key, wildcards: g.wildcards}
			i, parts, room[p] = len(parts), append(parts, p), l.o.MaxHosts
		}
		parts[i].members = append(parts[i].members, m)
		room[parts[i]] -= len(m.hosts())
	}
	l.number(parts)
	return slices.DeleteFunc(parts, func(p *group) bool { return len(p.members) == 0 })
}

// number gives each part a number that it keeps: a wildcard that was made for a
// part has the name that goes with its number.
func (l *look) number(parts []*group) {
	numbered := map[int]bool{}
	for _, p := range parts {
		p.parted = true
		slices.SortFunc(p.members, func(a, b *member) int { return a.object().Compare(b.object()) })
		if p.heir.object.IsZero() {
			p.issuer = l.issuerOf(p)
			p.part = -1
			continue
		}
		p.part = -1
		for n := range parts {
			if q := (&group{key: p.key, wildcards: p.wildcards, part: n}); wildcardName(q) == p.heir.object.Name {
				p.part, numbered[n] = n, true
			}
		}
	}
	for _, p := range parts {
		for n := 0; p.part < 0; n++ {
			if !numbered[n] {
				p.part, numbered[n] = n, true
			}
		}
	}
}

// findWildcards notes every certificate with a wildcard name.
func (l *look) findWildcards() {
	note := func(ref inventory.Ref, names []string) {
		for _, n := range names {
			if inventory.IsWildcard(n) {
				k := [2]string{ref.Namespace, n}
				l.wildcards[k] = append(l.wildcards[k], ref)
			}
		}
	}
	for i := range l.s.KnativeCertificates {
		note(l.s.KnativeCertificates[i].Ref, l.s.KnativeCertificates[i].Names.DNS)
	}
	for i := range l.s.Certificates {
		note(l.s.Certificates[i].Ref, l.s.Certificates[i].Names.DNS)
	}
}

// candidates are the certificates that a wildcard could replace, whoever issues
// them; the others that somebody serves are refused.
func (l *look) candidates() []*member {
	routeHosts := l.routeHosts()
	same := map[string][]string{}
	var out []*member
	for i := range l.s.Certificates {
		x := &l.s.Certificates[i]
		m := &member{crt: x, consumers: l.consumersOf(x.Secret)}
		if len(m.consumers) == 0 {
			continue // nobody serves it: that is a matter of gc
		}
		if c, ok := x.ControlledBy(); ok && c.Ref.Group == inventory.GroupKnativeNet {
			m.knative = l.s.KnativeCertificate(c.Ref)
		}
		wildcard := slices.ContainsFunc(x.Names.DNS, inventory.IsWildcard)
		if cause := l.cause(m, routeHosts); cause != "" {
			if !wildcard {
				l.refuse(m, cause)
			}
			continue
		}
		if wildcard {
			l.twins = append(l.twins, m)
			continue
		}
		if cause := m.parents(); cause != "" {
			l.refuse(m, cause)
			l.twins = append(l.twins, m)
			continue
		}
		k := strings.Join(m.wildcards, " ")
		if _, ok := same[k]; !ok {
			same[k] = m.wildcards
		}
		m.wildcards = same[k]
		out = append(out, m)
	}
	return out
}

// parents finds the wildcards that the hosts of m need, or says why there are
// none.
func (m *member) parents() (cause string) {
	for _, h := range m.hosts() {
		// *.example.com is not for example.com.
		apex := inventory.CanonicalName(h)
		if i := slices.IndexFunc(m.hosts(), func(o string) bool { return inventory.Covers("*."+apex, o) }); i >= 0 {
			return "it is for " + apex + " and for names below it, and *." + apex + " does not cover " + apex
		}
	}
	for _, h := range m.hosts() {
		w, refusal := inventory.WildcardFor(h)
		if refusal != "" {
			if len(m.hosts()) > 1 && !strings.Contains(refusal, h) {
				refusal = h + ": " + refusal
			}
			return refusal
		}
		m.wildcards = append(m.wildcards, w)
	}
	slices.Sort(m.wildcards)
	m.wildcards = slices.Compact(m.wildcards)
	if m.routed() && len(m.wildcards) > 1 {
		return "its names have no parent domain in common, and Routes look for one domain"
	}
	return ""
}

// merge puts a group into another one that covers all of its names anyway, so
// that there are as few certificates as can be.
func (l *look) merge() {
	slices.SortStableFunc(l.groups, func(a, b *group) int {
		return cmp.Or(len(b.wildcards)-len(a.wildcards), strings.Compare(a.ns, b.ns), slices.Compare(a.wildcards, b.wildcards))
	})
	var kept []*group
	for _, g := range l.groups {
		into := slices.IndexFunc(kept, func(k *group) bool {
			return k.key == g.key && len(k.wildcards) > len(g.wildcards) && inventory.CoversAll(k.wildcards, g.wildcards) &&
				len(k.hosts())+len(g.hosts()) <= l.o.MaxHosts
		})
		if into < 0 {
			kept = append(kept, g)
			continue
		}
		kept[into].members = append(kept[into].members, g.members...)
	}
	for _, g := range kept {
		slices.SortFunc(g.members, func(a, b *member) int { return a.object().Compare(b.object()) })
	}
	l.groups = kept
}

// differs says what keeps a certificate from those beside it.
func (l *look) differs(m *member, all []*member) string {
	for _, o := range all {
		switch {
		case o.object() == m.object():
		case l.authority(o.crt.Issuer) != l.authority(m.crt.Issuer):
			return "a different issuer (" + o.crt.Issuer.String() + ")"
		case o.routed() != m.routed():
			return "a different owner: Knative chooses it for some of them, and not for the others"
		case o.crt.Profile != m.crt.Profile:
			return "a different key or usage"
		case o.routed() && o.knative.Domain != m.knative.Domain:
			return "a different base domain (" + o.knative.Domain + ")"
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

// allHosts are the hosts of g and those that are served with its heir already.
func (g *group) allHosts() []string {
	out := append(g.hosts(), g.heir.hosts...)
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
		case ok && c.Ref.Kind == "DomainMapping" && !l.o.DomainMappings:
			return "DomainMapping: Knative looks for no wildcard for these; with consolidate.domainMappings: true certherd sets spec.tls.secretName of " + c.Ref.String()
		case ok && c.Ref.Kind == "DomainMapping":
			if l.s.Consumer(c.Ref) == nil {
				return c.Ref.String() + " was not read"
			}
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
	for _, edges := range [...][]inventory.Edge{l.s.To(m.secret()), l.s.To(m.object())} {
		for _, e := range edges {
			if e.Via == inventory.Owner || slices.ContainsFunc(m.consumers, func(c *inventory.Consumer) bool { return c.Ref == e.From }) || l.s.Writes(e.From, m.secret()) {
				continue
			}
			if e.Via == inventory.Field {
				return fmt.Sprintf("%s uses it, too, in %s, and would not be switched", e.From, e.Field)
			}
			if e.From.IsZero() {
				return fmt.Sprintf("it may be used otherwise (%s)", e.Field)
			}
			return fmt.Sprintf("%s may use it, too (%s)", e.From, e.Field)
		}
	}
	for w := range l.s.EachWriter(m.secret()) {
		if w.Group == inventory.GroupCertManager && w != m.crt.Ref {
			return w.String() + " writes the same Secret: settle that first (see SharedSecretName)"
		}
	}
	for _, c := range m.consumers {
		if cause := l.consumerCause(m, c); cause != "" {
			return cause
		}
	}
	return ""
}

func (l *look) proposals() []plan.Finding {
	var out []plan.Finding
	for _, g := range l.groups {
		out = append(out, l.finding(g))
	}
	return out
}

// source is the Secret and the object of the wildcard: the heir's, or those that
// would be made.
func (g *group) source() (secret, object inventory.Ref) {
	if !g.heir.object.IsZero() {
		return g.heir.secret, g.heir.object
	}
	name := wildcardName(g)
	if g.knative {
		return inventory.SecretRef(g.ns, name), inventory.KnativeCertificateRef(g.ns, name)
	}
	return inventory.SecretRef(g.ns, name), inventory.CertificateRef(g.ns, name)
}

func (l *look) finding(g *group) plan.Finding {
	hosts := g.hosts()
	secret, object := g.source()
	f := plan.Finding{
		Reason: plan.Consolidatable, Object: inventory.Ref{Kind: "Namespace", Name: g.ns},
		Verdict: inventory.Used, Wildcard: g.name(), Hold: hold(g.blockers),
	}
	// Issue and await, and for each certificate switch, delete, retire, delete.
	f.Fix = make([]plan.Step, 0, 2+4*len(g.members))
	f.Related = make([]inventory.Ref, 0, len(g.members)+1)
	for _, m := range g.members {
		f.Related = append(f.Related, m.object())
	}
	if g.heir.object.IsZero() {
		f.Message = fmt.Sprintf("%s of %s could become one, %s", count(len(g.members), "certificate"), g.issuer, g.name())
		f.Fix = append(f.Fix, plan.Step{Action: plan.Issue, Object: object, Move: &plan.Move{To: secret, Hosts: g.wildcards}})
	} else {
		f.Message = fmt.Sprintf("%s of %s could give way to %s, %s, which is there and Ready", count(len(g.members), "certificate"), g.issuer, object, g.name())
		f.Related = append(f.Related, object)
	}
	f.Fix = append(f.Fix, plan.Step{Action: plan.Await, Object: object, Move: &plan.Move{To: secret, Hosts: hosts}})
	f.Message += fmt.Sprintf("; %s would then be on its key and its filter chain", count(len(g.allHosts()), "host"))
	for _, n := range l.notes(g) {
		f.Message += "; " + n
	}
	if who := g.managed(l.s); who != "" {
		f.Message += "; " + who
	}
	if f.Hold != "" {
		f.Message += "; it waits: " + f.Hold
	}
	for _, m := range g.members {
		move := &plan.Move{From: m.secret(), To: secret}
		for _, c := range m.consumers {
			// Of a DomainMapping that is the step of its own, and its Knative Ingress follows.
			f.Fix = append(f.Fix, plan.Step{Action: plan.Switch, Object: c.Ref, Move: move, If: c.Version})
		}
	}
	for _, m := range g.members {
		if m.meta().ManagedBy == "" {
			f.Fix = append(f.Fix, plan.Step{Action: plan.Delete, Object: m.object(), If: m.meta().Version})
		}
	}
	for _, m := range g.members {
		if x := l.s.Secret(m.secret()); x != nil && x.Managed && m.meta().ManagedBy == "" {
			f.Fix = append(f.Fix, plan.Step{Action: plan.Retire, Object: x.Ref, If: x.Version}, plan.Step{Action: plan.Delete, Object: x.Ref, If: x.Version})
		}
	}
	return f
}

// managed says why a person has to make the switch; empty if nobody has to.
func (g *group) managed(s *inventory.Snapshot) string {
	var tools, ignored, out []string
	for _, m := range g.members {
		tools = append(tools, m.meta().ManagedBy)
		for _, c := range m.consumers {
			if _, follows := mappedBy(c); follows {
				continue
			}
			tools = append(tools, c.ManagedBy)
			if s.Ignored(&c.Meta) && !g.knative {
				ignored = append(ignored, c.Ref.String())
			}
		}
	}
	compact := func(list []string) []string {
		slices.Sort(list)
		return slices.DeleteFunc(slices.Compact(list), func(t string) bool { return t == "" })
	}
	if tools = compact(tools); len(tools) > 0 {
		out = append(out, strings.Join(tools, " and ")+" would undo a change")
	}
	if ignored = compact(ignored); len(ignored) > 0 {
		out = append(out, inventory.IgnoreAnnotation+" keeps certherd from changing "+strings.Join(ignored, " and "))
	}
	if len(out) == 0 {
		return ""
	}
	return strings.Join(out, ", and ") + ": commit what `certherd plan -o patch` says, once the wildcard is Ready"
}

func count(n int, what string) string {
	if n != 1 {
		what += "s"
	}
	return fmt.Sprintf("%d %s", n, what)
}

// wildcardName is the name of the object and the Secret of a new wildcard, and
// of its proposal: readable, and not a name that something else could have.
func wildcardName(g *group) string {
	what := g.name() + " " + g.issuer.String() + " " + g.profile
	if g.knative {
		what += " " + inventory.GroupKnativeNet + " " + g.domain
	}
	if g.part > 0 {
		what += fmt.Sprintf(" %d", g.part+1)
	}
	sum := sha256.Sum256([]byte(what))
	name := strings.NewReplacer("*.", "", ".", "-", "_", "-").Replace(g.wildcards[0])
	if len(name) > 40 {
		name = strings.TrimRight(name[:40], "-")
	}
	kind := "wildcard-"
	if g.twins {
		kind = "shared-"
	}
	return kind + name + "-" + hex.EncodeToString(sum[:4])
}
