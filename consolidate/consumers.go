package consolidate

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/certherd/certherd/inventory"
	"github.com/certherd/certherd/plan"
)

// consumersOf are all objects that make a gateway serve a Secret, sorted. A Knative
// Ingress says what its DomainMapping says, so that this is one of them whether or
// not it names a Secret itself.
func (l *look) consumersOf(secret inventory.Ref) []*inventory.Consumer {
	out := l.s.Servers(secret)
	for _, c := range out {
		if o, ok := mappedBy(c); ok {
			if x := l.s.Consumer(o); x != nil && !slices.Contains(out, x) {
				out = append(slices.Clip(out), x)
			}
		}
	}
	slices.SortFunc(out, func(a, b *inventory.Consumer) int { return a.Ref.Compare(b.Ref) })
	return out
}

// mappedBy is the DomainMapping that a Knative Ingress was made for.
func mappedBy(c *inventory.Consumer) (inventory.Ref, bool) {
	if c.Ref.Group != inventory.GroupKnativeNet {
		return inventory.Ref{}, false
	}
	o, ok := c.ControlledBy()
	return o.Ref, ok && o.Ref.Kind == "DomainMapping"
}

// consumerCause is what keeps a consumer of m from being switched; empty when
// nothing does.
func (l *look) consumerCause(m *member, c *inventory.Consumer) string {
	mapping, mapped := mappedBy(c)
	switch {
	case c.Ref.Namespace != m.secret().Namespace:
		return l.grantCause(m, c)
	case c.Ref.Kind == "DomainMapping" && !l.o.DomainMappings:
		return c.Ref.String() + " names its Secret; with consolidate.domainMappings: true certherd changes that"
	case c.Ref.Kind == "DomainMapping", mapped && slices.ContainsFunc(m.consumers, func(o *inventory.Consumer) bool { return o.Ref == mapping }):
	case mapped:
		return mapping.String() + " was not read"
	case m.knative != nil && c.Ref.Group != inventory.GroupKnativeNet:
		return c.Ref.String() + " serves it, too, and would not be switched with what Knative makes"
	case m.knative == nil && c.Ref.Group == inventory.GroupKnativeNet:
		return c.Ref.String() + " serves it, whose Secret Knative chooses"
	}
	if m.routed() {
		return ""
	}
	listeners := c.Ref.Group == inventory.GroupGateway
	for i, t := range c.TLS {
		if t.Secret != m.secret() {
			continue
		}
		for _, h := range t.Hosts {
			if !inventory.CoversAll(m.crt.Names.DNS, []string{h}) {
				return fmt.Sprintf("%s serves %s with it, too, which it is not for", c.Ref, h)
			}
		}
		for j, u := range c.TLS {
			switch {
			case i == j || t.Secret == u.Secret:
			case listeners && t.At[0] == u.At[0]:
				return fmt.Sprintf("a listener of %s names %s, too, and a handshake shows only one of the two", c.Ref, u.Secret)
			case len(t.Hosts) == 0 && len(u.Hosts) == 0, slices.ContainsFunc(t.Hosts, func(h string) bool { return slices.Contains(u.Hosts, h) }):
				return fmt.Sprintf("%s serves the same hosts with %s, too", c.Ref, u.Secret)
			}
		}
	}
	return ""
}

// grantCause is why a consumer of another namespace than m's is not switched.
func (l *look) grantCause(_ *member, c *inventory.Consumer) string {
	return c.Ref.String() + " of another namespace serves it, and what grants that names this Secret"
}

// named takes out of groups what an annotated Ingress would name twice: ingress-shim
// looks at none of the entries of an Ingress of which two name the same Secret, and so
// lets go of nothing (cert-manager pkg/controller/certificate-shim/sync.go,
// checkForDuplicateSecretNames).
func (l *look) named(groups ...*group) {
	for _, g := range groups {
		from := map[inventory.Ref]bool{g.heir.secret: true}
		for _, m := range g.members {
			from[m.secret()] = true
		}
		g.members = slices.DeleteFunc(g.members, func(m *member) bool {
			for _, c := range m.consumers {
				n := 0
				for _, t := range c.TLS {
					if from[t.Secret] {
						n++
					}
				}
				if n > 1 && c.Shim && c.Ref.Group == inventory.GroupNetworking {
					l.refuse(m, fmt.Sprintf("%s would name %s in two entries of spec.tls, which cert-manager's ingress-shim does not allow: put their hosts into one entry", c.Ref, g.name()))
					return true
				}
			}
			return false
		})
	}
}

// duplicates are groups of certificates of the same names: those that nobody's
// wildcard is for, and those with wildcards themselves. They give way to the one of
// them that stays; where each goes with the Ingress or Gateway that it was made for, to
// a new one.
func (l *look) duplicates() {
	type place struct {
		key
		names string
	}
	groups := map[place]*group{}
	var order []*group
	for _, m := range l.twins {
		if x := l.s.Issuer(m.crt.Issuer); x != nil && x.Type == inventory.SelfSigned || m.knative != nil {
			continue // each is its own authority, or made again
		}
		at := place{key{ns: m.secret().Namespace, profile: m.crt.Profile, issuer: l.authority(m.crt.Issuer)}, strings.Join(m.crt.Names.DNS, " ")}
		g := groups[at]
		if g == nil {
			g = &group{key: at.key, wildcards: m.crt.Names.DNS, twins: true}
			groups[at] = g
			order = append(order, g)
		}
		g.members = append(g.members, m)
	}
	heirs := map[inventory.Ref]bool{}
	for _, g := range l.groups {
		heirs[g.heir.object] = true
	}
	found := map[inventory.Ref]bool{}
	for _, g := range order {
		if len(g.members) < 2 || g.mapped() {
			continue
		}
		var hosts []string
		for _, m := range g.members {
			hosts = append(hosts, l.servedWith(m.secret())...)
		}
		slices.Sort(hosts)
		if len(slices.Compact(hosts)) > l.o.MaxHosts {
			continue // they were spread over several on purpose
		}
		slices.SortFunc(g.members, func(a, b *member) int {
			if x, y := heirs[a.object()], heirs[b.object()]; x != y {
				// Others go to it.
				if x {
					return -1
				}
				return 1
			}
			return cmp.Or(a.crt.Created.Compare(b.crt.Created), a.object().Compare(b.object()))
		})
		if heirs[g.members[1].object()] {
			continue
		}
		g.issuer = l.issuerOf(g)
		if i := slices.IndexFunc(g.members, func(m *member) bool { return l.stays(g, m) }); i >= 0 {
			m := g.members[i]
			g.heir = heir{m.secret(), m.object(), m.meta().Version.UID, l.servedWith(m.secret())}
			g.members = slices.Delete(g.members, i, i+1)
		}
		l.named(g)
		if len(g.members) == 0 || len(g.members) < 2 && g.heir.object.IsZero() {
			continue
		}
		slices.SortFunc(g.members, func(a, b *member) int { return a.object().Compare(b.object()) })
		for _, m := range g.members {
			found[m.object()] = true
		}
		found[g.heir.object] = true
		l.groups = append(l.groups, g)
	}
	if len(found) > 0 {
		l.refused = slices.DeleteFunc(l.refused, func(f plan.Finding) bool { return found[f.Object] })
	}
}

// stays reports whether a certificate of a group of duplicates can be the one that
// stays.
func (l *look) stays(g *group, m *member) bool {
	return m.crt.Ready && len(m.crt.Owners) == 0 && (!g.shimmed() || m.crt.Ref.Name == m.crt.Secret.Name)
}

// mapped reports whether a DomainMapping is among the consumers. Those of an heir
// that others use stay where they are when all goes back, and stock Kourier then offers
// a host in two chains until somebody touches them (net-kourier
// pkg/generator/sni.go, consume); so they get one that nobody else uses.
func (g *group) mapped() bool {
	return slices.ContainsFunc(g.members, func(m *member) bool {
		return slices.ContainsFunc(m.consumers, func(c *inventory.Consumer) bool { return c.Ref.Kind == "DomainMapping" })
	})
}
