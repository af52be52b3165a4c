package inventory

import (
	"fmt"
	"strings"
	"time"

	cmacme "github.com/cert-manager/cert-manager/pkg/apis/acme/v1"
)

// IssuerRef names an issuer the way cert-manager resolves it: Kind and Group
// have their defaults, Namespace is set for every kind but ClusterIssuer, so
// that equal IssuerRefs are the same issuer.
type IssuerRef struct{ Group, Kind, Namespace, Name string }

// NormalIssuer applies cert-manager's defaults (pkg/api/util/issuers.go there):
// kind Issuer, group cert-manager.io.
func NormalIssuer(group, kind, namespace, name string) IssuerRef {
	if group == "" {
		group = GroupCertManager
	}
	if kind == "" {
		kind = "Issuer"
	}
	if kind == "ClusterIssuer" && group == GroupCertManager {
		namespace = ""
	}
	return IssuerRef{Group: group, Kind: kind, Namespace: namespace, Name: name}
}

// Ref is the issuer as an API object.
func (i IssuerRef) Ref() Ref { return Ref(i) }

func (i IssuerRef) String() string { return Ref(i).String() }

// Secret is a Secret that holds, held or may hold a certificate: its type is
// kubernetes.io/tls, or cert-manager labelled it. Its data is never kept.
type Secret struct {
	Meta
	Type string
	// Managed is true when cert-manager wrote it for a Certificate
	// (internal/controller/certificates/certificates.go there): it carries the
	// label controller.cert-manager.io/fao and names its Certificate.
	Managed bool
	// CertificateName is the Certificate that wrote it, which need not exist.
	CertificateName string
	Names           Names
	// NextPrivateKey marks cert-manager's temporary key of a pending issuance.
	NextPrivateKey bool
	// NotAfter is when the certificate ends, zero when nothing told it.
	NotAfter time.Time
	// CopyOf is the Secret that a copying tool made this one from, nil if none did.
	CopyOf *Ref
	// Writer is who wrote to it last (metadata.managedFields), empty when nothing told it.
	Writer string
}

// Certificate is a cert-manager Certificate.
type Certificate struct {
	Meta
	Secret Ref
	Names  Names
	Issuer IssuerRef
	// Profile is everything else that makes two certificates exchangeable: key
	// algorithm and size, usages, CA flag, extra outputs.
	Profile string
	Ready   bool
	Issuing bool
	// NotBefore and NotAfter are the validity of what was issued last, Renewal is
	// when cert-manager will renew it by itself. Zero when unknown.
	NotBefore, NotAfter time.Time
	Renewal             time.Time
	Lifetime            time.Duration // spec.duration, 0 when not set
	// Revision is how many times it was issued, Generation how many times its spec
	// was written; 0 when unknown.
	Revision, Generation int32
	// Writer is who wrote to its spec last (metadata.managedFields), empty when
	// nothing told it.
	Writer string
	// Failed is when the last attempt to issue it failed: cert-manager waits
	// before the next one. Zero when the last one succeeded.
	Failed time.Time
	// Windowed is true where its owner decides when it is renewed: spec.renewal has
	// windows, or turns renewal off.
	Windowed bool
}

// KnativeCertificate is networking.internal.knative.dev/v1alpha1 Certificate.
type KnativeCertificate struct {
	Meta
	Secret Ref
	Names  Names
	Class  string
	// Type is the label networking.knative.dev/certificate-type:
	// external-domain (also when the label is missing), cluster-local-domain or
	// system-internal.
	Type string
	// Domain is spec.domain, the base domain of the Route that it was made for;
	// empty for a namespace's wildcard.
	Domain string
	// WildcardDomain is the label by which Routes find a wildcard.
	WildcardDomain string
	Ready          bool
}

// Request is a CertificateRequest, Order or Challenge.
type Request struct {
	Meta
	// Final is true when nothing more will happen to it.
	Final bool
	State string // the final state in its own words, for example "Ready"
	Since time.Time
	// Order is what an Order asks for, nil for the other kinds.
	Order *Order
}

// Order is what an ACME Order asks for.
type Order struct {
	Issuer IssuerRef
	DNS    []string // canonical, sorted
	// Certificate is the Certificate that it is for, as its annotation says.
	Certificate string
	// Renewal is true for all but the first order of a Certificate.
	Renewal bool
}

// Policy is a CertificateRequestPolicy of approver-policy: what it allows as
// far as names go (policy.cert-manager.io/v1alpha1).
type Policy struct {
	Meta
	// DNS are the patterns of allowed.dnsNames, in which * stands for any text.
	DNS []string
	// Issuer are the patterns of selector.issuerRef; an empty one matches
	// everything. Namespaces and NamespaceLabels are selector.namespace.
	Issuer          IssuerRef
	Namespaces      []string
	NamespaceLabels []Pair
}

// Authority is what the certificates of a CA that signs for an issuer say of
// it: those that its newest CertificateRequest shows (status.ca and
// status.certificate without the leaf). No Secret is read for it.
type Authority struct {
	Issuer IssuerRef
	// Permitted and Excluded are the name constraints for DNS names of each
	// certificate with any (RFC 5280, 4.2.1.10).
	Permitted [][]string
	Excluded  []string
}

// Chain is how much an issuer sends: the PEM bytes of the newest certificate that a
// CertificateRequest shows, with those above it.
type Chain struct {
	Issuer IssuerRef
	Bytes  int
}

// Issuer is a cert-manager Issuer or ClusterIssuer, or an external issuer's
// object of which nothing but the name is known.
type Issuer struct {
	Meta
	Type    IssuerType
	Solvers []cmacme.ACMEChallengeSolver
	// Authority tells when two issuers are provably the same CA and account:
	// equal and not empty. ACME: server and account URI. CA: the Secret with its
	// key.
	Authority string
	// Server is the URL of an ACME server's directory.
	Server string
	Ready  bool
}

// IssuerType is how an issuer signs.
type IssuerType string

const (
	ACME       IssuerType = "acme"
	CA         IssuerType = "ca"
	SelfSigned IssuerType = "selfSigned"
	Vault      IssuerType = "vault"
	Venafi     IssuerType = "venafi"
	OpaqueType IssuerType = "opaque"
)

// TLS is one entry by which a consumer serves hosts with a Secret.
type TLS struct {
	Hosts  []string
	Secret Ref
	// Field is where the Secret is named, with [] for an element of a list; At are
	// the elements' numbers.
	Field string
	At    [2]int16
}

// Pointer is the JSON pointer (RFC 6901) to the Secret's name.
func (t TLS) Pointer() string {
	var b strings.Builder
	n := 0
	for _, step := range strings.Split(t.Field, ".") {
		name, list := strings.CutSuffix(step, "[]")
		b.WriteString("/" + name)
		if list {
			fmt.Fprintf(&b, "/%d", t.At[n])
			n++
		}
	}
	return b.String()
}

// Consumer is an object that makes an ingress controller serve certificates:
// Knative Ingress, Ingress, Gateway, ListenerSet, DomainMapping.
type Consumer struct {
	Meta
	Class string // ingress class, GatewayClass or KIngress class
	TLS   []TLS
	// Hosts are all hosts that it routes for outside callers, with or without
	// TLS; LocalHosts those for callers inside of the cluster.
	Hosts, LocalHosts []string
	Ready             bool
	// Shim is true while cert-manager's ingress-shim or gateway-shim makes
	// Certificates for it.
	Shim bool
}

// Route is a Knative Route or the like: what a per-service certificate belongs
// to. It is kept because its existence is evidence.
type Route struct{ Meta }

// Namespace is a namespace with its opt-out.
type Namespace struct{ Meta }

// Workload is a Deployment or DaemonSet that runs Envoy as a gateway.
type Workload struct {
	Meta
	Controller   string // "kourier" or empty for another Envoy
	MemoryLimit  int64  // bytes, 0 without a limit
	DrainSeconds int    // --drain-time-s; Envoy's default is 600
	Replicas     int
	Concurrency  int // --concurrency, 0 when not given
	// Relay runs certherd-relay, where the gateway gets its configuration through
	// that: another Deployment, or the gateway's own for a sidecar. Else it is zero.
	Relay Ref
}

// Settings are the parts of Knative's ConfigMaps that decide what a
// certificate is for and what a gateway must survive.
type Settings struct {
	Found                     bool
	DomainTemplate            string
	TagTemplate               string
	ExternalDomainTLS         string
	ClusterLocalDomainTLS     string
	NamespaceWildcardSelector string
	IngressClass              string
	CertificateClass          string
	// MaxRevisionTimeoutSeconds is the longest request that Knative allows
	// (config-defaults, default 600).
	MaxRevisionTimeoutSeconds int
}

// Objects are all records of one look, in any order.
type Objects struct {
	Secrets             []Secret
	Certificates        []Certificate
	KnativeCertificates []KnativeCertificate
	Requests            []Request
	Issuers             []Issuer
	Authorities         []Authority
	Chains              []Chain
	Policies            []Policy
	Consumers           []Consumer
	Routes              []Route
	Namespaces          []Namespace
	Workloads           []Workload
	Settings            Settings
	// OtherSecrets are Secrets without a certificate: known to exist, never
	// judged.
	OtherSecrets []Ref
}
