package live

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"hash/adler32"
	"slices"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/certherd/certherd/api/v1alpha1"
	"github.com/certherd/certherd/carry"
	"github.com/certherd/certherd/inventory"
	"github.com/certherd/certherd/plan"
)

// The resources that are read and written.
var (
	kCertificates  = schema.GroupVersionResource{Group: inventory.GroupKnativeNet, Version: "v1alpha1", Resource: "certificates"}
	kIngresses     = schema.GroupVersionResource{Group: inventory.GroupKnativeNet, Version: "v1alpha1", Resource: "ingresses"}
	routes         = schema.GroupVersionResource{Group: "serving.knative.dev", Version: "v1", Resource: "routes"}
	certificates   = schema.GroupVersionResource{Group: inventory.GroupCertManager, Version: "v1", Resource: "certificates"}
	requests       = schema.GroupVersionResource{Group: inventory.GroupCertManager, Version: "v1", Resource: "certificaterequests"}
	ingresses      = schema.GroupVersionResource{Group: "networking.k8s.io", Version: "v1", Resource: "ingresses"}
	gateways       = schema.GroupVersionResource{Group: inventory.GroupGateway, Version: "v1", Resource: "gateways"}
	listenerSets   = schema.GroupVersionResource{Group: inventory.GroupGateway, Version: "v1", Resource: "listenersets"}
	domainMappings = schema.GroupVersionResource{Group: inventory.GroupServing, Version: "v1beta1", Resource: "domainmappings"}
	secrets        = schema.GroupVersionResource{Version: "v1", Resource: "secrets"}
	namespaces     = schema.GroupVersionResource{Version: "v1", Resource: "namespaces"}
)

// What Knative and certherd write on objects.
const (
	wildcardDomainLabel = "networking.knative.dev/wildcardDomain"
	certificateType     = "networking.knative.dev/certificate-type"
	certificateClass    = "networking.knative.dev/certificate.class"
	routeLabel          = "serving.knative.dev/route"
	// mappingLabel has the name of a DomainMapping
	// (knative.dev/serving pkg/reconciler/domainmapping/resources/certificate.go).
	mappingLabel   = "serving.knative.dev/domainMappingUID"
	certificateUID = "networking.internal.knative.dev/certificate-uid"
	// madeFor is on a wildcard that was made for a Consolidation, with its UID: a
	// name in plain text would be a mention of the Secret.
	madeFor = "certherd.dev/consolidation"
	// labelled is on a KCertificate that certherd has labelled.
	labelledBy = "certherd.dev/labelled"
	// touchedAt makes a Route's controller look.
	touchedAt = "certherd.dev/touched"
)

// tlsDisabled are the annotations by which a service says that it wants no TLS
// (knative.dev/networking pkg/apis/networking/register.go).
var tlsDisabled = []string{
	"networking.knative.dev/disable-external-domain-tls", "networking.knative.dev/disableExternalDomainTLS",
	"networking.knative.dev/disable-auto-tls", "networking.knative.dev/disableAutoTLS",
}

func convert(from map[string]any, to any) error {
	b, err := json.Marshal(from)
	if err != nil {
		return err
	}
	return json.Unmarshal(b, to)
}

type condition struct {
	Type, Status, Reason, Message string
}

// object is what all kinds have in common.
type object struct {
	metav1.ObjectMeta `json:"metadata"`
}

func (o *object) controller() metav1.OwnerReference {
	if c := metav1.GetControllerOfNoCopy(o); c != nil {
		return *c
	}
	return metav1.OwnerReference{}
}

type kCertificate struct {
	object
	Spec struct {
		DNSNames   []string `json:"dnsNames"`
		Domain     string   `json:"domain"`
		SecretName string   `json:"secretName"`
	} `json:"spec"`
	Status status `json:"status"`
}

type status struct {
	ObservedGeneration int64       `json:"observedGeneration"`
	Conditions         []condition `json:"conditions"`
}

func (s status) condition(name string) condition {
	for _, c := range s.Conditions {
		if c.Type == name {
			return c
		}
	}
	return condition{}
}

// ready reports whether a Knative object is Ready as it is (knative.dev/networking
// certificate_lifecycle.go and ingress_lifecycle.go, IsReady).
func (s status) ready(generation int64) (bool, string) {
	c := s.condition("Ready")
	switch {
	case s.ObservedGeneration != generation:
		return false, "its controller has not looked at it yet"
	case c.Status != "True":
		return false, words(c)
	}
	return true, ""
}

func words(c condition) string {
	switch {
	case c.Message != "":
		return c.Message
	case c.Reason != "":
		return c.Reason
	}
	return "its controller has said nothing yet"
}

type kIngress struct {
	object
	Spec struct {
		Rules []struct {
			Hosts      []string `json:"hosts"`
			Visibility string   `json:"visibility"`
		} `json:"rules"`
		TLS []struct {
			Hosts      []string `json:"hosts"`
			SecretName string   `json:"secretName"`
		} `json:"tls"`
	} `json:"spec"`
	Status struct {
		status
		PublicLoadBalancer struct {
			Ingress []struct{ IP, Domain, DomainInternal string } `json:"ingress"`
		} `json:"publicLoadBalancer"`
	} `json:"status"`
}

type route struct {
	object
	Status struct {
		URL     string `json:"url"`
		Traffic []struct {
			Tag string `json:"tag"`
			URL string `json:"url"`
		} `json:"traffic"`
	} `json:"status"`
}

type certificate struct {
	object
	Spec struct {
		SecretName string                             `json:"secretName"`
		DNSNames   []string                           `json:"dnsNames"`
		IssuerRef  struct{ Name, Kind, Group string } `json:"issuerRef"`
	} `json:"spec"`
	Status struct {
		Conditions []struct {
			condition
			ObservedGeneration int64 `json:"observedGeneration"`
		} `json:"conditions"`
		Revision int `json:"revision"`
	} `json:"status"`
}

func (c *certificate) ready() (bool, string) {
	waits := "cert-manager has said nothing yet"
	for _, x := range c.Status.Conditions {
		switch {
		case x.Type == "Ready" && x.Status == "True" && x.ObservedGeneration == c.Generation:
			return true, ""
		case x.Type == "Issuing" && x.Message != "":
			return false, x.Message
		case x.Type == "Ready":
			waits = words(x.condition)
		}
	}
	return false, waits
}

type request struct {
	object
	Spec struct {
		IssuerRef struct{ Name, Kind, Group string } `json:"issuerRef"`
	} `json:"spec"`
	Status struct {
		Conditions  []condition `json:"conditions"`
		Certificate []byte      `json:"certificate"`
		CA          []byte      `json:"ca"`
	} `json:"status"`
}

// look is one look at the world of one consolidation.
type look struct {
	*Carrier
	carry.Observation
	c   *v1alpha1.Consolidation
	m   *memory
	now time.Time

	kcerts    []*kCertificate
	source    *unstructured.Unstructured
	routes    map[string]*route // by UID
	class     string            // of the members, for a wildcard of Knative's
	addresses map[string]string // of the gateway, by host

	leaf  *x509.Certificate   // that was issued last
	shown []*x509.Certificate // the leaf of each Probe

	named          map[inventory.Ref]*named
	owns           map[string]own            // by Secret
	domainMappings map[string]*domainMapping // by UID
}

func list[T any](ctx context.Context, r *Carrier, gvr schema.GroupVersionResource, ns string) ([]*T, []*unstructured.Unstructured, error) {
	l, err := r.objects.Resource(gvr).Namespace(ns).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, nil, fmt.Errorf("cannot list %s: %w", gvr.GroupResource(), err)
	}
	var out []*T
	var raw []*unstructured.Unstructured
	for i := range l.Items {
		x, err := into[T](&l.Items[i])
		if err != nil {
			return nil, nil, err
		}
		out, raw = append(out, x), append(raw, &l.Items[i])
	}
	return out, raw, nil
}

// observe looks.
func (l *look) observe(ctx context.Context) error {
	l.addresses = map[string]string{}
	ns, err := l.metadata.Resource(namespaces).Get(ctx, l.c.Namespace, metav1.GetOptions{})
	if err != nil {
		return fmt.Errorf("cannot read the namespace: %w", err)
	}
	ignored := ns.Annotations[inventory.IgnoreAnnotation] == "true"
	switch l.c.Spec.Source.Kind {
	case v1alpha1.SourceKCertificate:
		err = l.observeKnative(ctx)
	case v1alpha1.SourceCertificate:
		err = l.observeCertificate(ctx)
	default:
		err = fmt.Errorf("a source of kind %q is not known", l.c.Spec.Source.Kind)
	}
	if err != nil {
		return err
	}
	for i := range l.Consumers {
		c := &l.Consumers[i]
		c.Ignored = c.Ignored || ignored
		c.Touched = l.m.touched[c.UID]
		if c.Ready {
			delete(l.m.unready, c.UID)
		} else {
			if _, ok := l.m.unready[c.UID]; !ok {
				l.m.unready[c.UID] = l.now
			}
			c.Unready = l.m.unready[c.UID]
		}
	}
	if l.o.Rejecting != nil {
		l.Rejecting, l.RejectingWhat = l.o.Rejecting(ctx)
	}
	// The authorities that gateways show now are known before the wildcard is judged.
	switch l.c.Status.Phase {
	case v1alpha1.Verifying, v1alpha1.Switching, v1alpha1.Soaking, v1alpha1.Sweeping, v1alpha1.RollingBack:
		l.probe(ctx)
		if err := l.verify(ctx); err != nil {
			return err
		}
		l.tell()
	}
	if l.c.Status.Phase == v1alpha1.Sweeping {
		return l.old(ctx)
	}
	return nil
}

func (l *look) observeKnative(ctx context.Context) error {
	kcerts, raw, err := list[kCertificate](ctx, l.Carrier, kCertificates, l.c.Namespace)
	if err != nil {
		return err
	}
	l.kcerts = kcerts
	parents := map[string]bool{}
	for _, w := range l.c.Spec.Wildcards {
		parents[parent(w)] = true
	}
	own := map[string]*kCertificate{} // by Route UID and host
	for i, k := range kcerts {
		if k.Name == l.c.Spec.Source.Name {
			l.source = raw[i]
			l.observeSource(k)
			continue
		}
		if k.DeletionTimestamp != nil {
			continue
		}
		if d, ok := k.Labels[wildcardDomainLabel]; ok && d == l.c.Spec.Source.WildcardDomain &&
			slices.ContainsFunc(k.Spec.DNSNames, func(n string) bool { return parents[parent(n)] }) {
			l.Rivals = append(l.Rivals, inventory.KnativeCertificateRef(k.Namespace, k.Name))
		}
		t := k.Labels[certificateType]
		if o := k.controller(); o.Kind == "Route" && (t == "" || t == "external-domain") {
			for _, h := range k.Spec.DNSNames {
				own[string(o.UID)+" "+h] = k
			}
			if slices.ContainsFunc(l.c.Spec.Members, func(m v1alpha1.Member) bool { return m.Name == k.Name }) {
				l.class = k.Annotations[certificateClass]
			}
		}
	}
	rs, _, err := list[route](ctx, l.Carrier, routes, l.c.Namespace)
	if err != nil {
		return err
	}
	l.routes = map[string]*route{}
	for _, x := range rs {
		l.routes[string(x.UID)] = x
	}
	ks, _, err := list[kIngress](ctx, l.Carrier, kIngresses, l.c.Namespace)
	if err != nil {
		return err
	}
	for _, k := range ks {
		ref := inventory.Ref{Group: inventory.GroupKnativeNet, Kind: "Ingress", Namespace: k.Namespace, Name: k.Name}
		for _, t := range k.Spec.TLS {
			if t.SecretName == l.c.Spec.SecretName && k.DeletionTimestamp == nil && !slices.Contains(l.Source.Users, ref) {
				l.Source.Users = append(l.Source.Users, ref)
			}
		}
		owner := l.routes[string(k.controller().UID)]
		if k.DeletionTimestamp != nil || owner == nil || owner.DeletionTimestamp != nil {
			continue // it goes, or is a DomainMapping's, which looks for no wildcard
		}
		l.observeKIngress(ref, k, owner, own)
	}
	return nil
}

func (l *look) observeSource(k *kCertificate) {
	s := carry.Source{Exists: true, UID: string(k.UID), Since: k.CreationTimestamp.Time}
	s.Users = l.Source.Users
	s.Ours = k.Annotations[madeFor] == string(l.c.UID)
	s.Labelled = k.Labels[wildcardDomainLabel] == l.c.Spec.Source.WildcardDomain
	s.LabelOurs = s.Labelled && k.Annotations[labelledBy] == "true"
	s.Ready, s.Waits = k.Status.ready(k.Generation)
	s.Foreign = l.foreign("KCertificate", k.ObjectMeta, s.Ours, k.Spec.SecretName, k.Spec.DNSNames)
	l.Source = s
}

// foreign says why an object of the source's name is not the source.
func (l *look) foreign(kind string, m metav1.ObjectMeta, ours bool, secret string, names []string) string {
	x := l.c.Spec.Source
	switch {
	case m.DeletionTimestamp != nil:
		return fmt.Sprintf("%s %s is being deleted", kind, m.Name)
	case x.UID != "" && x.UID != string(m.UID):
		return fmt.Sprintf("%s %s is another one than the one that was approved", kind, m.Name)
	case x.UID == "" && !ours:
		return fmt.Sprintf("%s %s was made by somebody else", kind, m.Name)
	case secret != l.c.Spec.SecretName:
		return fmt.Sprintf("%s %s writes Secret %s, and %s was approved", kind, m.Name, secret, l.c.Spec.SecretName)
	case !inventory.CoversAll(names, l.c.Spec.Wildcards):
		return fmt.Sprintf("%s %s is for %s, and %s was approved", kind, m.Name, strings.Join(names, ", "), strings.Join(l.c.Spec.Wildcards, ", "))
	}
	return ""
}

func (l *look) observeKIngress(ref inventory.Ref, k *kIngress, owner *route, own map[string]*kCertificate) {
	secret := map[string]string{}
	for _, t := range k.Spec.TLS {
		for _, h := range t.Hosts {
			secret[h] = t.SecretName
		}
	}
	plain := slices.ContainsFunc(tlsDisabled, func(a string) bool { return owner.Annotations[a] == "true" })
	c := carry.Consumer{
		Ref: ref, UID: string(k.UID), Created: k.CreationTimestamp.Time,
		Ignored: k.Annotations[inventory.IgnoreAnnotation] == "true" || owner.Annotations[inventory.IgnoreAnnotation] == "true",
		Touch:   inventory.Ref{Group: "serving.knative.dev", Kind: "Route", Namespace: owner.Namespace, Name: owner.Name},
	}
	c.Ready, c.Why = k.Status.ready(k.Generation)
	seen := map[string]bool{}
	for _, r := range k.Spec.Rules {
		if r.Visibility == "ClusterLocal" {
			continue
		}
		for _, h := range r.Hosts {
			if seen[h] || !covered(l.c, h) || plain && secret[h] == "" {
				continue
			}
			seen[h] = true
			e := carry.Entry{Hosts: []string{h}, Secret: secret[h], Wildcard: secret[h] == l.c.Spec.SecretName}
			if x := own[string(owner.UID)+" "+h]; x != nil {
				e.Own = x.Spec.SecretName
				e.OwnReady, e.OwnWaits = x.Status.ready(x.Generation)
			} else {
				e.Own, e.OwnMissing = ownName(owner, h), true
				e.OwnWaits = "it has to be made again"
			}
			c.Entries = append(c.Entries, e)
			for _, i := range k.Status.PublicLoadBalancer.Ingress {
				if a := i.IP + i.DomainInternal; a != "" && l.addresses[h] == "" {
					l.addresses[h] = a + ":443"
				}
			}
		}
	}
	if len(c.Entries) > 0 {
		l.Consumers = append(l.Consumers, c)
	}
}

// ownName is the name that Knative gives a Route's certificate for a host
// (knative.dev/serving pkg/reconciler/route/resources/certificate.go,
// certNameFromRouteAndTag).
func ownName(r *route, host string) string {
	name := "route-" + string(r.UID)
	for _, t := range r.Status.Traffic {
		if _, h, _ := strings.Cut(t.URL, "://"); h == host && t.Tag != "" {
			return fmt.Sprintf("%s-%d", name, adler32.Checksum([]byte(t.Tag)))
		}
	}
	return name
}

// verify looks at the certificate that was issued: its public part, which
// cert-manager keeps in the request. The Secret itself is never read.
func (l *look) verify(ctx context.Context) error {
	s := &l.Source
	s.Problem, s.Unverified = "", ""
	if !s.Exists || !s.Ready || s.Foreign != "" {
		return nil
	}
	u, err := l.objects.Resource(certificates).Namespace(l.c.Namespace).Get(ctx, l.c.Spec.Source.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		s.Unverified = "cert-manager has no Certificate of that name"
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot read the Certificate: %w", err)
	}
	crt, err := into[certificate](u)
	if err != nil {
		return err
	}
	if ok, waits := crt.ready(); !ok {
		s.Unverified = "its Certificate is not Ready: " + waits
		return nil
	}
	want := l.c.Spec.IssuerRef
	if got := inventory.NormalIssuer(crt.Spec.IssuerRef.Group, crt.Spec.IssuerRef.Kind, l.c.Namespace, crt.Spec.IssuerRef.Name); got.Group != want.Group || got.Kind != want.Kind || got.Name != want.Name {
		s.Problem = fmt.Sprintf("its issuer is %s, and %s/%s was approved", got, want.Kind, want.Name)
		return nil
	}
	if s.Problem, err = l.verifySecret(ctx, crt); err != nil || s.Problem != "" {
		return err
	}
	all, _, err := list[request](ctx, l.Carrier, requests, l.c.Namespace)
	if err != nil {
		return err
	}
	var req *request
	for _, x := range all {
		if x.controller().UID == crt.UID && x.Annotations["cert-manager.io/certificate-revision"] == fmt.Sprint(crt.Status.Revision) && len(x.Status.Certificate) > 0 {
			req = x
		}
	}
	if req == nil {
		s.Unverified = "the CertificateRequest that it was issued by is gone; renew it once (cmctl renew)"
		return nil
	}
	chain, err := carry.Chain(req.Status.Certificate)
	if err != nil {
		s.Problem = "what was issued cannot be read: " + err.Error()
		return nil
	}
	l.leaf = chain[0]
	hosts := slices.Clone(l.c.Spec.Hosts)
	for _, c := range l.Consumers {
		for _, e := range c.Entries {
			hosts = append(hosts, e.Hosts...)
		}
	}
	if err := carry.VerifyChain(chain, l.roots(req.Status.CA), hosts, l.now, time.Minute); err != nil {
		s.Problem = "what was issued cannot be used: " + err.Error()
		return nil
	}
	return nil
}

// roots are all authorities to trust: those of the system, those that were
// given, what the issuer says, and those that gateways have shown for the same
// hosts before.
func (l *look) roots(ca []byte) *x509.CertPool {
	var pool *x509.CertPool
	if l.o.Roots != nil {
		pool = l.o.Roots.Clone()
	} else if system, err := x509.SystemCertPool(); err == nil {
		pool = system
	} else {
		pool = x509.NewCertPool()
	}
	pool.AppendCertsFromPEM(ca)
	for _, c := range l.m.seen {
		pool.AddCert(c)
	}
	return pool
}

// verifySecret looks at what cert-manager says of the Secret.
func (l *look) verifySecret(ctx context.Context, crt *certificate) (problem string, err error) {
	m, err := l.metadata.Resource(secrets).Namespace(l.c.Namespace).Get(ctx, l.c.Spec.SecretName, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return "its Secret does not exist", nil
	}
	if err != nil {
		return "", fmt.Errorf("cannot read the Secret's metadata: %w", err)
	}
	if n := m.Annotations["cert-manager.io/certificate-name"]; n != "" && n != crt.Name {
		return fmt.Sprintf("its Secret was written by the Certificate %s", n), nil
	}
	names := strings.Split(m.Annotations["cert-manager.io/alt-names"], ",")
	if !inventory.CoversAll(names, l.c.Spec.Wildcards) {
		return fmt.Sprintf("its Secret is for %s, and %s was approved", strings.Join(names, ", "), strings.Join(l.c.Spec.Wildcards, ", ")), nil
	}
	return "", nil
}

// old finds what is left of the certificates that the wildcard replaces.
func (l *look) old(ctx context.Context) error {
	used := map[string]bool{}
	for _, c := range l.Consumers {
		for _, e := range c.Entries {
			used[e.Secret] = true
		}
	}
	names := map[string]string{} // of Secrets, with their UID if that is known
	for _, m := range l.c.Spec.Members {
		if m.SecretUID != "" && m.SecretName != l.c.Spec.SecretName {
			names[m.SecretName] = m.SecretUID
		}
	}
	for _, k := range l.kcerts {
		member := slices.ContainsFunc(l.c.Spec.Members, func(m v1alpha1.Member) bool { return m.Kind == v1alpha1.SourceKCertificate && m.UID == string(k.UID) })
		t := k.Labels[certificateType]
		since := k.controller().Kind == "Route" && (t == "" || t == "external-domain") && len(k.Spec.DNSNames) > 0 && inventory.CoversAll(l.c.Spec.Wildcards, k.Spec.DNSNames)
		if k.Name == l.c.Spec.Source.Name || !member && !since || used[k.Spec.SecretName] {
			continue
		}
		l.Old = append(l.Old, carry.Old{Object: inventory.KnativeCertificateRef(k.Namespace, k.Name)})
	}
	if l.c.Spec.Source.Kind == v1alpha1.SourceCertificate {
		for _, m := range l.c.Spec.Members {
			x, err := l.metadata.Resource(certificates).Namespace(l.c.Namespace).Get(ctx, m.Name, metav1.GetOptions{})
			if err == nil && string(x.UID) == m.UID {
				l.Old = append(l.Old, carry.Old{Object: inventory.CertificateRef(x.Namespace, x.Name)})
			} else if err != nil && !apierrors.IsNotFound(err) {
				return fmt.Errorf("cannot read a Certificate: %w", err)
			}
		}
	}
	all, err := l.metadata.Resource(secrets).Namespace(l.c.Namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("cannot list the Secrets' metadata: %w", err)
	}
	for i := range all.Items {
		m := &all.Items[i]
		if uid, ok := names[m.Name]; ok && uid == string(m.UID) && !used[m.Name] {
			_, retired := m.Annotations[plan.RetiredAt]
			l.Old = append(l.Old, carry.Old{Object: inventory.SecretRef(m.Namespace, m.Name), Swept: retired})
		}
	}
	return nil
}

// remember keeps an authority that a gateway has shown.
func (m *memory) remember(chain []*x509.Certificate) {
	for i, c := range chain {
		if i > 0 && c.IsCA && bytes.Equal(chain[i-1].RawIssuer, c.RawSubject) {
			m.seen[string(c.Raw)] = c
		}
	}
}
