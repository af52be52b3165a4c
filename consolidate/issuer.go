package consolidate

import (
	"context"
	"fmt"
	"slices"
	"strings"

	cmacme "github.com/cert-manager/cert-manager/pkg/apis/acme/v1"
	"github.com/cert-manager/cert-manager/pkg/util/solverpicker"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/certherd/certherd/inventory"
)

// issuerCause is what keeps m's issuer from signing the wildcards that m needs;
// empty when nothing does.
func (l *look) issuerCause(m *member) string {
	for _, w := range m.wildcards {
		if cause := l.signs(m, w); cause != "" {
			return cause
		}
	}
	return l.policyCause(m)
}

func (l *look) signs(m *member, wildcard string) string {
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
		if a := l.s.Authority(ref); a != nil && !a.Allows(wildcard) {
			return fmt.Sprintf("the name constraints of %s, as its newest certificate shows them (%s), do not allow %s", ref, a.Constraints(), wildcard)
		}
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

// policyCause is what approver-policy would say: it denies a request when none of
// the policies that are for it allows all of its names. Without any policy
// nobody asks it. Which of them a requester may use is decided by RBAC, and
// not looked at.
func (l *look) policyCause(m *member) string {
	if len(l.s.Policies) == 0 {
		return ""
	}
	labels := map[string]string{}
	if n := l.s.Namespace(m.secret().Namespace); n != nil {
		for _, p := range n.Labels {
			labels[p.Key] = p.Value
		}
	}
	var selected []string
	for i := range l.s.Policies {
		p := &l.s.Policies[i]
		if !p.For(m.crt.Issuer, m.secret().Namespace, labels) {
			continue
		}
		if p.AllowsDNS(m.wildcards) {
			return ""
		}
		selected = append(selected, p.Ref.Name)
	}
	if len(selected) == 0 {
		return ""
	}
	return fmt.Sprintf("approver-policy would deny %s: allow it in one of the policies for this issuer and namespace (CertificateRequestPolicy %s)", strings.Join(m.wildcards, ", "), strings.Join(selected, ", "))
}

// authority is the first of the issuers that are provably the same certificate
// authority and account as ref.
func (l *look) authority(ref inventory.IssuerRef) inventory.IssuerRef {
	x := l.s.Issuer(ref)
	if x == nil || x.Authority == "" {
		return ref
	}
	return l.authorities[string(x.Type)+" "+x.Authority]
}

// issuerOf is the issuer that most members of a group have.
func (l *look) issuerOf(g *group) inventory.IssuerRef {
	n := map[inventory.IssuerRef]int{}
	var best inventory.IssuerRef
	for _, m := range g.members {
		n[m.crt.Issuer]++
	}
	for _, m := range g.members {
		r := m.crt.Issuer
		if best == (inventory.IssuerRef{}) || n[r] > n[best] || n[r] == n[best] && r.Ref().Compare(best.Ref()) < 0 {
			best = r
		}
	}
	return best
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

// heir is a wildcard that is there already and Ready; the zero heir is none.
type heir struct {
	secret, object inventory.Ref
	uid            string
	hosts          []string // that are served with it now
}

// heirOf looks for a wildcard that can be used as it is.
func (l *look) heirOf(g *group) heir {
	if all := l.heirsOf(g); len(all) > 0 {
		return all[0]
	}
	return heir{}
}

// heirsOf are all of them.
func (l *look) heirsOf(g *group) []heir {
	var out []heir
	for _, ref := range l.wildcards[[2]string{g.ns, g.wildcards[0]}] {
		if g.knative {
			x := l.s.KnativeCertificate(ref)
			if x != nil && x.Ready && x.WildcardDomain != "" && (x.WildcardDomain == g.domain || g.domain == "") {
				out = append(out, heir{x.Secret, ref, x.Version.UID, l.servedWith(x.Secret)})
			}
			continue
		}
		x := l.s.Certificate(ref)
		switch {
		case x == nil || !x.Ready || x.Profile != g.profile || l.authority(x.Issuer) != l.authority(g.issuer):
		case !inventory.CoversAll(x.Names.DNS, g.wildcards):
		case len(x.Owners) > 0: // it goes when its owner does
		case len(l.s.Writers(x.Secret)) > 1:
		case g.shimmed() && x.Ref.Name != x.Secret.Name:
			// For each Secret that a shimmed Ingress names, cert-manager makes a
			// Certificate of its name, unless there is one (its
			// pkg/controller/certificate-shim).
		case g.mapped() && len(l.servedWith(x.Secret)) > 0:
		default:
			out = append(out, heir{x.Secret, ref, x.Version.UID, l.servedWith(x.Secret)})
		}
	}
	return out
}

// shimmed reports whether cert-manager makes Certificates for a consumer.
func (g *group) shimmed() bool {
	return slices.ContainsFunc(g.members, func(m *member) bool {
		return slices.ContainsFunc(m.consumers, func(c *inventory.Consumer) bool { return c.Shim })
	})
}

// servedWith are the hosts that are served with a Secret.
func (l *look) servedWith(secret inventory.Ref) []string {
	var out []string
	for _, e := range l.s.To(secret) {
		x := l.s.Consumer(e.From)
		if x == nil {
			continue
		}
		for _, t := range x.TLS {
			if t.Secret == secret {
				out = append(out, t.Hosts...)
			}
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// rival is a Knative wildcard that Routes would take as soon as they look and
// that is not what a group would use; zero when there is none.
func (l *look) rival(g *group) inventory.Ref {
	if !g.knative {
		return inventory.Ref{}
	}
	for _, ref := range l.wildcards[[2]string{g.ns, g.wildcards[0]}] {
		if x := l.s.KnativeCertificate(ref); x != nil && ref != g.heir.object && x.WildcardDomain != "" && (x.WildcardDomain == g.domain || g.domain == "") {
			return ref
		}
	}
	return inventory.Ref{}
}
