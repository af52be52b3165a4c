package inventory

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"path"
	"slices"
	"strings"
	"time"

	cm "github.com/cert-manager/cert-manager/pkg/apis/certmanager/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// GroupPolicy is that of approver-policy (cert-manager/approver-policy).
const GroupPolicy = "policy.cert-manager.io"

// Allows reports whether the name constraints let the authority sign a DNS name,
// which may be a wildcard. A wildcard is not allowed where it would stand for an
// excluded name.
func (a *Authority) Allows(name string) bool {
	name = strings.TrimPrefix(CanonicalName(name), "*.")
	within := func(name, domain string) bool {
		domain = strings.TrimPrefix(CanonicalName(domain), ".")
		return domain == "" || name == domain || strings.HasSuffix(name, "."+domain)
	}
	for _, permitted := range a.Permitted {
		if !slices.ContainsFunc(permitted, func(d string) bool { return within(name, d) }) {
			return false
		}
	}
	return !slices.ContainsFunc(a.Excluded, func(d string) bool {
		return within(name, d) || within(strings.TrimPrefix(CanonicalName(d), "."), name)
	})
}

// Constraints are the name constraints in words.
func (a *Authority) Constraints() string {
	var out []string
	for _, p := range a.Permitted {
		out = append(out, "permitted "+strings.Join(p, ", "))
	}
	if len(a.Excluded) > 0 {
		out = append(out, "excluded "+strings.Join(a.Excluded, ", "))
	}
	if len(out) == 0 {
		return "none"
	}
	return strings.Join(out, "; ")
}

// authority is what a Collector knows of an issuer's CA.
type authority struct {
	created time.Time
	name    string // of the CertificateRequest, to choose among equally old ones
	sum     [sha256.Size]byte
	a       Authority
}

// seeAuthority takes what a CertificateRequest shows of the CA that signed it.
func (c *Collector) seeAuthority(o *cm.CertificateRequest) {
	if len(o.Status.CA) == 0 {
		return
	}
	ref := NormalIssuer(o.Spec.IssuerRef.Group, o.Spec.IssuerRef.Kind, o.Namespace, o.Spec.IssuerRef.Name)
	old, name := c.authorities[ref], o.Namespace+"/"+o.Name
	if old != nil && (old.created.After(o.CreationTimestamp.Time) || old.created.Equal(o.CreationTimestamp.Time) && old.name >= name) {
		return
	}
	_, chain, _ := bytes.Cut(o.Status.Certificate, []byte("-----END CERTIFICATE-----"))
	h := sha256.New()
	h.Write(o.Status.CA)
	h.Write(chain)
	x := &authority{created: o.CreationTimestamp.Time, name: name, sum: [sha256.Size]byte(h.Sum(nil))}
	if old != nil && old.sum == x.sum {
		x.a = old.a
	} else {
		x.a = Authority{Issuer: IssuerRef{c.str(ref.Group), c.str(ref.Kind), c.str(ref.Namespace), c.str(ref.Name)}}
		x.a.constrain(o.Status.CA)
		x.a.constrain(chain)
	}
	c.authorities[ref] = x
}

// chain is what a Collector knows of what an issuer sends.
type chain struct {
	created time.Time
	name    string
	bytes   int
}

// seeChain takes how much a CertificateRequest shows to be sent.
func (c *Collector) seeChain(o *cm.CertificateRequest) {
	if len(o.Status.Certificate) == 0 {
		return
	}
	ref := NormalIssuer(o.Spec.IssuerRef.Group, o.Spec.IssuerRef.Kind, o.Namespace, o.Spec.IssuerRef.Name)
	old, name := c.chains[ref], o.Namespace+"/"+o.Name
	if old.created.After(o.CreationTimestamp.Time) || old.created.Equal(o.CreationTimestamp.Time) && old.name >= name {
		return
	}
	c.chains[ref] = chain{o.CreationTimestamp.Time, name, len(o.Status.Certificate)}
}

// ChainBytes is how many bytes of PEM an issuer sends for one certificate, 0 when
// nothing tells.
func (s *Snapshot) ChainBytes(ref IssuerRef) int {
	i, ok := slices.BinarySearchFunc(s.Chains, ref, func(c Chain, r IssuerRef) int { return c.Issuer.Ref().Compare(r.Ref()) })
	if !ok {
		return 0
	}
	return s.Chains[i].Bytes
}

// constrain adds the name constraints of certificates in PEM. What is no
// certificate constrains nothing: cert-manager has verified the chain.
func (a *Authority) constrain(chain []byte) {
	for {
		var block *pem.Block
		if block, chain = pem.Decode(chain); block == nil {
			return
		}
		crt, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			continue
		}
		if p := sorted(crt.PermittedDNSDomains); len(p) > 0 && !slices.ContainsFunc(a.Permitted, func(x []string) bool { return slices.Equal(x, p) }) {
			a.Permitted = append(a.Permitted, p)
		}
		a.Excluded = sorted(append(a.Excluded, crt.ExcludedDNSDomains...))
	}
}

// Authority returns what is known of the CA behind an issuer, nil if nothing is.
func (s *Snapshot) Authority(ref IssuerRef) *Authority {
	i, ok := slices.BinarySearchFunc(s.Authorities, ref, func(a Authority, r IssuerRef) int { return a.Issuer.Ref().Compare(r.Ref()) })
	if !ok {
		return nil
	}
	return &s.Authorities[i]
}

// Namespace returns the record of a namespace, nil if there is none.
func (s *Snapshot) Namespace(name string) *Namespace {
	if i, ok := s.namespaces[name]; ok {
		return &s.Namespaces[i]
	}
	return nil
}

// certificateRequestPolicy is what is read of a CertificateRequestPolicy.
type certificateRequestPolicy struct {
	metav1.ObjectMeta `json:"metadata"`
	Spec              struct {
		Allowed *struct {
			DNSNames *struct {
				Values *[]string `json:"values"`
			} `json:"dnsNames"`
		} `json:"allowed"`
		Selector struct {
			IssuerRef *struct{ Name, Kind, Group *string } `json:"issuerRef"`
			Namespace *struct {
				MatchNames  []string          `json:"matchNames"`
				MatchLabels map[string]string `json:"matchLabels"`
			} `json:"namespace"`
		} `json:"selector"`
	} `json:"spec"`
}

func (c *Collector) policy(o *certificateRequestPolicy) {
	x := Policy{Meta: c.meta(GroupPolicy, "CertificateRequestPolicy", &o.ObjectMeta)}
	if a := o.Spec.Allowed; a != nil && a.DNSNames != nil && a.DNSNames.Values != nil {
		x.DNS = c.strs(*a.DNSNames.Values)
	}
	if r := o.Spec.Selector.IssuerRef; r != nil {
		text := func(s *string) string {
			if s == nil {
				return ""
			}
			return c.str(*s)
		}
		x.Issuer = IssuerRef{Group: text(r.Group), Kind: text(r.Kind), Name: text(r.Name)}
	}
	if n := o.Spec.Selector.Namespace; n != nil {
		x.Namespaces = c.strs(n.MatchNames)
		for k, v := range n.MatchLabels {
			x.NamespaceLabels = append(x.NamespaceLabels, Pair{c.str(k), c.str(v)})
		}
		slices.SortFunc(x.NamespaceLabels, func(a, b Pair) int { return strings.Compare(a.Key, b.Key) })
	}
	c.o.Policies = append(c.o.Policies, x)
}

// For reports whether a policy is for requests to an issuer from a namespace with
// these labels (approver-policy pkg/internal/approver/manager/predicate).
func (p *Policy) For(issuer IssuerRef, namespace string, labels map[string]string) bool {
	if !wildcardMatches(p.Issuer.Name, issuer.Name) || !wildcardMatches(p.Issuer.Kind, issuer.Kind) || !wildcardMatches(p.Issuer.Group, issuer.Group) {
		return false
	}
	if len(p.Namespaces) > 0 && !slices.ContainsFunc(p.Namespaces, func(n string) bool { return wildcardMatches(n, namespace) }) {
		return false
	}
	return !slices.ContainsFunc(p.NamespaceLabels, func(l Pair) bool { return labels[l.Key] != l.Value })
}

// AllowsDNS reports whether every name matches a pattern of allowed.dnsNames.
func (p *Policy) AllowsDNS(names []string) bool {
	for _, n := range names {
		if !slices.ContainsFunc(p.DNS, func(pattern string) bool { return pattern != "" && wildcardMatches(pattern, n) }) {
			return false
		}
	}
	return true
}

// wildcardMatches matches as approver-policy does: * stands for any text, also
// with dots; every other character for itself. An empty pattern matches all.
func wildcardMatches(pattern, s string) bool {
	if pattern == "" {
		return true
	}
	quoted := strings.NewReplacer(`\`, `\\`, `?`, `\?`, `[`, `\[`).Replace(pattern)
	// path.Match lets * stand for anything but a slash, which no name here has.
	ok, err := path.Match(quoted, s)
	return ok && err == nil
}
