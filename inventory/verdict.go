package inventory

import (
	"fmt"
	"slices"
)

// Verdict says whether anybody uses an object.
type Verdict string

const (
	// Used: a known reference field of an existing object names it.
	Used Verdict = "used"
	// Unused: nothing could name it, and every list was complete.
	Unused Verdict = "unused"
	// Unknown: something could name it, or something could not be read.
	Unknown Verdict = "unknown"
)

// Judgement is a verdict with what led to it.
type Judgement struct {
	Verdict  Verdict
	Evidence []Edge
	// Why is the reason in words where the evidence alone does not say it.
	Why string
}

// Judge gives the verdict on a Secret, a cert-manager Certificate or a Knative
// Certificate. Any other object is unknown.
//
// A Certificate is used when its Secret is: it exists to renew it. A Secret
// whose Certificate exists is used by that, even where nobody else names it, so
// that nothing is taken from under a Certificate; it is the Certificate that is
// then unused.
func (s *Snapshot) Judge(ref Ref) Judgement {
	switch {
	case ref.Kind == "Secret" && ref.Group == "":
		if x := s.Secret(ref); x != nil {
			return s.optOut(&x.Meta, s.judgeSecret(x))
		}
	case ref.Kind == "Certificate" && ref.Group == GroupCertManager:
		if x := s.Certificate(ref); x != nil {
			return s.optOut(&x.Meta, s.judgeCertificate(x))
		}
	case ref.Kind == "Certificate" && ref.Group == GroupKnativeNet:
		if x := s.KnativeCertificate(ref); x != nil {
			return s.optOut(&x.Meta, s.judgeKnative(x))
		}
	}
	return Judgement{Verdict: Unknown, Why: "no certificate that was looked at"}
}

// optOut keeps what is opted out from being called unused: its owner knows of
// a use that the cluster does not show.
func (s *Snapshot) optOut(m *Meta, j Judgement) Judgement {
	if j.Verdict == Unused && s.Ignored(m) {
		j.Verdict, j.Why = Unknown, "it is opted out by "+IgnoreAnnotation
	}
	return j
}

// Verdict is Judge without the evidence, for counting.
func (s *Snapshot) Verdict(ref Ref) Verdict {
	secret := ref
	if x := s.Certificate(ref); x != nil {
		secret = x.Secret
	} else if s.HasWriter(ref) {
		return Used
	}
	for _, e := range s.To(secret) {
		if e.Via == Field && !s.Writes(e.From, secret) {
			return Used
		}
	}
	return s.Judge(ref).Verdict
}

func (s *Snapshot) judgeSecret(x *Secret) Judgement {
	edges := slices.Clone(s.To(x.Ref))
	for w := range s.EachWriter(x.Ref) {
		edges = append(edges, Edge{From: w, To: x.Ref, Field: "spec.secretName", Via: Field})
	}
	edges = append(edges, s.owners(&x.Meta, func(OwnerRef) bool { return false })...)
	j := s.decide(edges)
	if x.NextPrivateKey && j.Verdict == Unused {
		j.Verdict, j.Why = Unknown, "it is cert-manager's temporary key of an issuance under way"
	}
	return j
}

func (s *Snapshot) judgeCertificate(x *Certificate) Judgement {
	edges := s.appendUsers(slices.Clone(s.To(x.Ref)), x.Secret)
	edges = append(edges, s.owners(&x.Meta, func(o OwnerRef) bool {
		switch o.Ref.Group {
		case GroupNetworking, GroupGateway:
			// ingress-shim and gateway-shim, which name a Certificate like its
			// Secret: the parent names the Secret while it wants the
			// Certificate, which users has seen.
			return o.Controller && x.Ref.Name == x.Secret.Name
		case GroupKnativeNet:
			// Its Certificate wants this one while it is wanted itself: below.
			return o.Ref.Kind == "Certificate"
		}
		return false
	})...)
	for _, o := range x.Owners {
		if k := s.KnativeCertificate(o.Ref); k != nil && s.Lives(o) {
			edges = append(edges, s.To(k.Ref)...)
			edges = append(edges, s.wants(k)...)
		}
	}
	return s.decide(edges)
}

func (s *Snapshot) judgeKnative(x *KnativeCertificate) Judgement {
	edges := s.appendUsers(slices.Clone(s.To(x.Ref)), x.Secret)
	edges = append(edges, s.To(CertificateRef(x.Ref.Namespace, x.Ref.Name))...)
	edges = append(edges, s.wants(x)...)
	return s.decide(edges)
}

// appendUsers adds the edges to a Secret from anything but the Certificates that
// write it.
func (s *Snapshot) appendUsers(edges []Edge, secret Ref) []Edge {
	all := s.To(secret)
	edges = slices.Grow(edges, len(all)) // there may be very many
	for _, e := range all {
		if !s.Writes(e.From, secret) {
			edges = append(edges, e)
		}
	}
	if x := s.Secret(secret); x != nil {
		edges = append(edges, s.owners(&x.Meta, func(o OwnerRef) bool { return s.Writes(o.Ref, secret) })...)
	}
	return edges
}

// wants says whether the owner of a Knative Certificate still wants it. A
// Route, a DomainMapping or a Namespace does as long as it exists, unless
// every host is served with another Secret by a Knative Ingress that is Ready:
// then the Route has moved to a wildcard, or the DomainMapping to a Secret of its
// owner's, and nothing of Knative takes the old Certificate away (knative/serving
// pkg/reconciler/route/route.go, deleteOrphanRouteCerts).
func (s *Snapshot) wants(x *KnativeCertificate) []Edge {
	if s.movedAway(x) {
		return s.owners(&x.Meta, func(o OwnerRef) bool { return o.Ref.Kind == "Route" || s.letGo(o.Ref, x.Secret) })
	}
	return s.owners(&x.Meta, func(OwnerRef) bool { return false })
}

// letGo reports whether a DomainMapping names another Secret itself: then Knative has
// no use for the certificate that it has made for it, and leaves it
// (knative/serving pkg/reconciler/domainmapping/reconciler.go, tls).
func (s *Snapshot) letGo(owner, secret Ref) bool {
	if owner.Kind != "DomainMapping" {
		return false
	}
	x := s.Consumer(owner)
	return x != nil && len(x.TLS) == 1 && x.TLS[0].Secret != secret
}

// movedAway reports whether every host of a per-route certificate is served
// with another Secret that exists and, as far as its names are known, covers the
// host, by Knative Ingresses that are all Ready; and none with its own.
func (s *Snapshot) movedAway(x *KnativeCertificate) bool {
	if len(x.Names.DNS) == 0 {
		return false
	}
	for _, host := range x.Names.DNS {
		served := s.Served(x.Ref.Namespace, host)
		if len(served) == 0 {
			return false
		}
		for _, h := range served {
			if !h.Ready || h.Secret == x.Secret || !s.Exists(h.Secret) {
				return false
			}
			if heir := s.Secret(h.Secret); heir != nil && !heir.Names.Empty() && !CoversAll(heir.Names.DNS, []string{host}) {
				return false
			}
		}
	}
	return true
}

// owners are edges from the owners that exist, without those understood, whose
// existence alone is no use.
func (s *Snapshot) owners(m *Meta, understood func(OwnerRef) bool) []Edge {
	var out []Edge
	for _, o := range m.Owners {
		if !understood(o) && s.Lives(o) {
			out = append(out, Edge{From: o.Ref, To: m.Ref, Field: "metadata.ownerReferences", Via: Owner})
		}
	}
	return out
}

// decide is the conservative mark.
func (s *Snapshot) decide(edges []Edge) Judgement {
	slices.SortFunc(edges, func(a, b Edge) int { return compareStrength(a, b) })
	edges = slices.Compact(edges)
	switch {
	case len(edges) > 0 && edges[0].Via == Field:
		return Judgement{Verdict: Used, Evidence: edges}
	case len(edges) > 0:
		return Judgement{Verdict: Unknown, Evidence: edges}
	case len(s.Gaps) > 0:
		why := fmt.Sprintf("%s was not read in full (%s)", s.Gaps[0].Kind, s.Gaps[0].Reason)
		if n := len(s.Gaps) - 1; n > 0 {
			why += fmt.Sprintf(", nor %d more", n)
		}
		return Judgement{Verdict: Unknown, Why: why}
	}
	return Judgement{Verdict: Unused}
}
