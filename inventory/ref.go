// Package inventory is what certherd knows of a cluster at one moment: the
// certificates, who manages them, who uses them, and what could not be read.
// It is pure: it holds no client, reads no clock and writes no log. The
// packages below it (live, dump) fill a Collector with API objects; the
// Collector makes a Snapshot, which answers every question of the checks.
package inventory

import (
	"cmp"
	"slices"
	"strings"
	"time"
)

// Ref names an API object, whatever its version. Group is empty for the core
// group, Namespace for cluster-scoped objects. Refs are comparable.
type Ref struct{ Group, Kind, Namespace, Name string }

// String is Kind/namespace/name, or Kind/name when the object is
// cluster-scoped. Knative's own Ingress and Certificate are called KIngress
// and KCertificate, as its developers do, so that nobody takes them for the
// ones of Kubernetes and cert-manager.
func (r Ref) String() string { return string(r.Append(nil)) }

// Append adds what String returns to b.
func (r Ref) Append(b []byte) []byte {
	b = slices.Grow(b, len("K")+len(r.Kind)+len(r.Namespace)+len(r.Name)+2)
	if r.Group == GroupKnativeNet {
		b = append(b, 'K')
	}
	b = append(append(b, r.Kind...), '/')
	if r.Namespace != "" {
		b = append(append(b, r.Namespace...), '/')
	}
	return append(b, r.Name...)
}

// IsZero reports whether r names nothing.
func (r Ref) IsZero() bool { return r == Ref{} }

// Compare orders Refs by namespace, kind, name and group, the order in which
// people look for things.
func (r Ref) Compare(o Ref) int {
	// cmp.Or would compare all four, and nearly always one or two will do.
	if c := strings.Compare(r.Namespace, o.Namespace); c != 0 {
		return c
	}
	if c := strings.Compare(r.Kind, o.Kind); c != 0 {
		return c
	}
	if c := strings.Compare(r.Name, o.Name); c != 0 {
		return c
	}
	return strings.Compare(r.Group, o.Group)
}

// Version is the precondition of every write: the object as it was looked at.
type Version struct{ UID, ResourceVersion string }

// Groups and kinds that the inventory reads into records.
const (
	GroupCertManager = "cert-manager.io"
	GroupACME        = "acme.cert-manager.io"
	GroupKnativeNet  = "networking.internal.knative.dev"
	GroupServing     = "serving.knative.dev"
	GroupNetworking  = "networking.k8s.io"
	GroupGateway     = "gateway.networking.k8s.io"
)

// SecretRef names a core/v1 Secret.
func SecretRef(namespace, name string) Ref {
	return Ref{Kind: "Secret", Namespace: namespace, Name: name}
}

// CertificateRef names a cert-manager Certificate.
func CertificateRef(namespace, name string) Ref {
	return Ref{Group: GroupCertManager, Kind: "Certificate", Namespace: namespace, Name: name}
}

// KnativeCertificateRef names a Knative Certificate (short name kcert), which
// Knative's certificate controller turns into a cert-manager Certificate.
func KnativeCertificateRef(namespace, name string) Ref {
	return Ref{Group: GroupKnativeNet, Kind: "Certificate", Namespace: namespace, Name: name}
}

// Evidence says how an object came to name another one.
type Evidence string

const (
	// Field is a documented reference field.
	Field Evidence = "field"
	// Mention is any other string that could name the object.
	Mention Evidence = "mention"
	// Label is a selector, or a label that somebody is known to select by.
	Label Evidence = "label"
	// Owner is an owner reference to an object that exists.
	Owner Evidence = "owner"
)

// Edge is one reference: From names To in Field. From is the zero Ref when the
// reference comes from no object, for example from a name that a program has
// built in.
type Edge struct {
	From, To Ref
	Field    string
	Via      Evidence
}

// Compare orders edges by what they point at, then by strength of evidence.
func (e Edge) Compare(o Edge) int {
	if c := e.To.Compare(o.To); c != 0 {
		return c
	}
	return cmp.Or(
		strings.Compare(string(e.Via), string(o.Via)),
		e.From.Compare(o.From),
		strings.Compare(e.Field, o.Field),
	)
}

// Gap is a kind of object that was not read in full. Kind is "kind.group", or
// a plural resource name where the kind is not known; Reason is what stopped
// the reading, in words for a person.
type Gap struct{ Kind, Reason string }

// Compare orders gaps by kind, then reason.
func (g Gap) Compare(o Gap) int {
	return cmp.Or(strings.Compare(g.Kind, o.Kind), strings.Compare(g.Reason, o.Reason))
}

// OwnerRef is an entry of metadata.ownerReferences.
type OwnerRef struct {
	Ref        Ref
	UID        string
	Controller bool
}

// Pair is a label or an annotation.
type Pair struct{ Key, Value string }

// Meta is what every record keeps of its object's metadata.
type Meta struct {
	Ref     Ref
	Version Version
	Created time.Time
	// Owners are the owner references as they stand; an owner need not exist.
	Owners []OwnerRef
	// Labels are all labels; Annotations only those that a check or a verdict
	// looks at (see keepAnnotation), so that no copy of a key can hide in one.
	Labels      []Pair
	Annotations []Pair
	// ManagedBy names the GitOps tool that would undo an edit, empty if none: a
	// controlled object is its controller's.
	ManagedBy string
	// Ignore is true for objects opted out by certherd.dev/ignore: "true".
	Ignore bool
}

// Label returns the value of a label, empty if there is none.
func (m *Meta) Label(key string) string { return lookup(m.Labels, key) }

// Annotation returns the value of a kept annotation, empty if there is none.
func (m *Meta) Annotation(key string) string { return lookup(m.Annotations, key) }

// ControlledBy returns the controller among the owners.
func (m *Meta) ControlledBy() (OwnerRef, bool) {
	for _, o := range m.Owners {
		if o.Controller {
			return o, true
		}
	}
	return OwnerRef{}, false
}

func lookup(pairs []Pair, key string) string {
	for _, p := range pairs {
		if p.Key == key {
			return p.Value
		}
	}
	return ""
}
