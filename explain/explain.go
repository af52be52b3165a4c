// Package explain shows why one object got its verdict: the chain from the
// service to the gateway as a tree, and every piece of evidence. It is pure.
package explain

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/certherd/certherd/cost"
	"github.com/certherd/certherd/inventory"
	"github.com/certherd/certherd/plan"
)

// kinds are the words for the kinds that can be explained: singular, plural
// and short names as kubectl takes them, in lower case.
var kinds = map[string][2]string{
	"secret": {"", "Secret"}, "secrets": {"", "Secret"},
	"certificate": {inventory.GroupCertManager, "Certificate"}, "certificates": {inventory.GroupCertManager, "Certificate"},
	"cert": {inventory.GroupCertManager, "Certificate"}, "certs": {inventory.GroupCertManager, "Certificate"},
	"certificate.cert-manager.io": {inventory.GroupCertManager, "Certificate"}, "certificates.cert-manager.io": {inventory.GroupCertManager, "Certificate"},
	"kcertificate": {inventory.GroupKnativeNet, "Certificate"}, "kcert": {inventory.GroupKnativeNet, "Certificate"},
	"certificate.networking.internal.knative.dev": {inventory.GroupKnativeNet, "Certificate"}, "certificates.networking.internal.knative.dev": {inventory.GroupKnativeNet, "Certificate"},
	"ingress": {inventory.GroupNetworking, "Ingress"}, "ingresses": {inventory.GroupNetworking, "Ingress"}, "ing": {inventory.GroupNetworking, "Ingress"},
	"kingress": {inventory.GroupKnativeNet, "Ingress"}, "ingress.networking.internal.knative.dev": {inventory.GroupKnativeNet, "Ingress"},
	"gateway": {inventory.GroupGateway, "Gateway"}, "gateways": {inventory.GroupGateway, "Gateway"}, "gtw": {inventory.GroupGateway, "Gateway"},
	"listenerset":   {inventory.GroupGateway, "ListenerSet"},
	"domainmapping": {inventory.GroupServing, "DomainMapping"}, "dm": {inventory.GroupServing, "DomainMapping"},
	"route": {inventory.GroupServing, "Route"}, "rt": {inventory.GroupServing, "Route"},
	"ksvc": {inventory.GroupServing, "Route"}, "service.serving.knative.dev": {inventory.GroupServing, "Route"},
}

// ParseRef reads KIND/NAMESPACE/NAME. The error says which forms there are.
func ParseRef(s string) (inventory.Ref, error) {
	parts := strings.Split(s, "/")
	if len(parts) != 3 || parts[1] == "" || parts[2] == "" {
		return inventory.Ref{}, fmt.Errorf("%q is not KIND/NAMESPACE/NAME, for example secret/team-a/web-tls", s)
	}
	k, ok := kinds[strings.ToLower(parts[0])]
	if !ok {
		return inventory.Ref{}, fmt.Errorf("cannot explain a %q: use secret, certificate, kcertificate, ingress, kingress, gateway, listenerset, domainmapping or route", parts[0])
	}
	return inventory.Ref{Group: k[0], Kind: k[1], Namespace: parts[1], Name: parts[2]}, nil
}

// Explanation is what there is to say of one object.
type Explanation struct {
	Object  inventory.Ref
	Verdict inventory.Verdict // empty for objects that get none
	Why     string
	// Chain leads from what the certificate is for, through what makes it, to
	// what serves it.
	Chain    Node
	Evidence []inventory.Edge
	Findings []plan.Finding
	Gaps     []inventory.Gap
}

// Node is an object in the tree, with how it stands to its parent.
type Node struct {
	Relation string
	Object   inventory.Ref
	Note     string
	Children []Node
}

// Object explains one object of a snapshot; ok is false when the snapshot has
// no record of it.
func Object(s *inventory.Snapshot, p plan.Plan, ref inventory.Ref) (e Explanation, ok bool) {
	e, secrets, ok := judged(s, ref)
	// A finding on the object, on its Secrets or on what renews these has to do
	// with it.
	about := []inventory.Ref{ref}
	for _, secret := range secrets {
		about = append(append(about, secret), s.Writers(secret)...)
	}
	for _, f := range p.Findings {
		if slices.ContainsFunc(append([]inventory.Ref{f.Object}, f.Related...), func(x inventory.Ref) bool { return slices.Contains(about, x) }) {
			e.Findings = append(e.Findings, f)
		}
	}
	return e, ok
}

// judged is an Explanation without findings, and the Secrets that it is about.
func judged(s *inventory.Snapshot, ref inventory.Ref) (e Explanation, secrets []inventory.Ref, ok bool) {
	e = Explanation{Object: ref, Gaps: s.Gaps}
	switch {
	case s.Secret(ref) != nil:
		secrets = []inventory.Ref{ref}
	case s.Certificate(ref) != nil:
		secrets = []inventory.Ref{s.Certificate(ref).Secret}
	case s.KnativeCertificate(ref) != nil:
		secrets = []inventory.Ref{s.KnativeCertificate(ref).Secret}
	default:
		// A consumer, or what owns one: the Secrets that it serves.
		found := false
		for i := range s.Consumers {
			x := &s.Consumers[i]
			if x.Ref != ref && !slices.ContainsFunc(x.Owners, func(o inventory.OwnerRef) bool { return o.Ref == ref }) {
				continue
			}
			found = true
			for _, t := range x.TLS {
				if !slices.Contains(secrets, t.Secret) {
					secrets = append(secrets, t.Secret)
				}
			}
		}
		if !found && !slices.ContainsFunc(s.Routes, func(r inventory.Route) bool { return r.Ref == ref }) {
			return e, nil, false
		}
		e.Chain = Node{Object: ref}
		for _, secret := range secrets {
			e.Chain.Children = append(e.Chain.Children, secretNode(s, secret, "serves with"))
		}
		if len(secrets) == 0 {
			e.Why = "it serves no certificate"
		}
		return e, secrets, true
	}
	j := s.Judge(ref)
	e.Verdict, e.Why, e.Evidence = j.Verdict, j.Why, j.Evidence
	e.Chain = secretNode(s, secrets[0], "")
	return e, secrets, true
}

// secretNode is a Secret with what makes it and what serves it.
func secretNode(s *inventory.Snapshot, ref inventory.Ref, relation string) Node {
	n := Node{Relation: relation, Object: ref, Note: secretNote(s, ref)}
	done := map[inventory.Ref]bool{}
	for _, w := range s.Writers(ref) {
		if x := s.Certificate(w); x != nil {
			n.Children = append(n.Children, certificateNode(s, x, done))
		}
	}
	for _, w := range s.Writers(ref) {
		if x := s.KnativeCertificate(w); x != nil && !done[w] {
			n.Children = append(n.Children, knativeNode(s, x))
		}
	}
	for i := range s.Consumers {
		x := &s.Consumers[i]
		for _, t := range x.TLS {
			if t.Secret == ref {
				c := Node{Relation: "served by", Object: x.Ref, Note: strings.Join(t.Hosts, ", ") + " (" + t.Field + ")"}
				if g := gatewayOf(s, x); g != nil {
					note := fmt.Sprintf("drain time %d s", g.DrainSeconds)
					switch {
					case !g.Relay.IsZero():
						note = "once, as a secret of certherd-relay in " + g.Relay.String() + ", " + note
					case g.Controller == "kourier":
						note = "inlined in both TLS listeners, " + note
					}
					c.Children = []Node{{Relation: "loaded by", Object: g.Ref, Note: note}}
				}
				n.Children = append(n.Children, c)
				break
			}
		}
	}
	return n
}

func secretNote(s *inventory.Snapshot, ref inventory.Ref) string {
	x := s.Secret(ref)
	if x == nil {
		if s.HasGap("secret") {
			return "Secrets were not read"
		}
		if s.Exists(ref) {
			return "holds no certificate"
		}
		return "does not exist"
	}
	var notes []string
	if len(x.Names.DNS) > 0 {
		notes = append(notes, strings.Join(x.Names.DNS, ", "))
	}
	if !x.NotAfter.IsZero() {
		notes = append(notes, "until "+x.NotAfter.UTC().Format(time.DateOnly))
	}
	if x.ManagedBy != "" {
		notes = append(notes, "managed by "+x.ManagedBy)
	}
	if x.Managed && len(s.Writers(ref)) == 0 {
		notes = append(notes, "Certificate "+x.CertificateName+", which wrote it, is gone")
	}
	return strings.Join(notes, "; ")
}

func certificateNode(s *inventory.Snapshot, x *inventory.Certificate, done map[inventory.Ref]bool) Node {
	notes := []string{"issuer " + x.Issuer.String()}
	switch {
	case x.Issuing:
		notes = append(notes, "issuing")
	case x.Ready:
		notes = append(notes, "Ready")
	default:
		notes = append(notes, "not Ready")
	}
	if !x.NotAfter.IsZero() {
		notes = append(notes, "until "+x.NotAfter.UTC().Format(time.DateOnly))
	}
	n := Node{Relation: "renewed by", Object: x.Ref, Note: strings.Join(notes, "; ")}
	for _, o := range x.Owners {
		if k := s.KnativeCertificate(o.Ref); k != nil {
			done[k.Ref] = true
			n.Children = append(n.Children, knativeNode(s, k))
			continue
		}
		n.Children = append(n.Children, ownerNode(s, o))
	}
	return n
}

func knativeNode(s *inventory.Snapshot, x *inventory.KnativeCertificate) Node {
	note := x.Type
	if x.WildcardDomain != "" {
		note = "wildcard of " + x.WildcardDomain
	}
	if !x.Ready {
		note += "; not Ready"
	}
	n := Node{Relation: "made for", Object: x.Ref, Note: note}
	for _, o := range x.Owners {
		n.Children = append(n.Children, ownerNode(s, o))
	}
	return n
}

func ownerNode(s *inventory.Snapshot, o inventory.OwnerRef) Node {
	n := Node{Relation: "made for", Object: o.Ref}
	if inventory.Recorded(o.Ref) && !s.Lives(o) {
		n.Note = "gone"
	}
	return n
}

// gatewayOf is the workload that serves a consumer, where that is known.
func gatewayOf(s *inventory.Snapshot, x *inventory.Consumer) *inventory.Workload {
	if x.Ref.Group != inventory.GroupKnativeNet || !strings.HasPrefix(x.Class, "kourier.") {
		return nil
	}
	for i := range s.Workloads {
		if s.Workloads[i].Controller == "kourier" {
			return &s.Workloads[i]
		}
	}
	return nil
}

// Add adds to each Secret of the chain how often gateways have it loaded. loads may
// be nil.
func (e *Explanation) Add(loads *cost.Loads) { e.Chain.add(loads) }

func (n *Node) add(loads *cost.Loads) {
	if l, ok := loads.Of(n.Object); ok {
		if n.Note != "" {
			n.Note += "; "
		}
		n.Note += l.String()
	}
	for i := range n.Children {
		n.Children[i].add(loads)
	}
}

// Text writes an explanation for a person.
func (e Explanation) Text() string {
	var b strings.Builder
	b.WriteString(e.Object.String())
	if e.Verdict != "" {
		b.WriteString(" is " + string(e.Verdict))
	}
	if e.Why != "" {
		b.WriteString(": " + e.Why)
	}
	b.WriteString("\n\n")
	tree(&b, e.Chain, "", "")
	if e.Verdict != "" {
		b.WriteString("\nEvidence\n")
		if len(e.Evidence) == 0 {
			if e.Verdict == inventory.Unused {
				b.WriteString("  nothing names it, and every kind was read in full\n")
			} else {
				b.WriteString("  nothing that was read names it\n")
			}
		}
		for _, x := range e.Evidence {
			from := x.From.String()
			if x.From.IsZero() {
				from = "built in"
			}
			fmt.Fprintf(&b, "  %-8s %s  %s\n", x.Via, from, x.Field)
		}
	}
	if len(e.Findings) > 0 {
		b.WriteString("\nFindings\n")
		for _, f := range e.Findings {
			fmt.Fprintf(&b, "  %s  %s: %s\n", f.Reason, f.Object, f.Message)
		}
	}
	if e.Verdict != "" && len(e.Gaps) > 0 {
		b.WriteString("\nNot read in full, so that nothing can be called unused\n")
		for _, g := range e.Gaps {
			fmt.Fprintf(&b, "  %s: %s\n", g.Kind, g.Reason)
		}
	}
	return b.String()
}

func tree(b *strings.Builder, n Node, first, rest string) {
	b.WriteString(first)
	if n.Relation != "" {
		b.WriteString(n.Relation + " ")
	}
	b.WriteString(n.Object.String())
	if n.Note != "" {
		b.WriteString("  " + n.Note)
	}
	b.WriteString("\n")
	for i, c := range n.Children {
		if i == len(n.Children)-1 {
			tree(b, c, rest+"└─ ", rest+"   ")
		} else {
			tree(b, c, rest+"├─ ", rest+"│  ")
		}
	}
}
