package inventory

import (
	"bytes"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	cmacme "github.com/cert-manager/cert-manager/pkg/apis/acme/v1"
	cm "github.com/cert-manager/cert-manager/pkg/apis/certmanager/v1"
	cmmeta "github.com/cert-manager/cert-manager/pkg/apis/meta/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"knative.dev/networking/pkg/apis/networking"
	netv1alpha1 "knative.dev/networking/pkg/apis/networking/v1alpha1"
	servingv1beta1 "knative.dev/serving/pkg/apis/serving/v1beta1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// JudgedKinds are the kinds that get a verdict, and that a source adds before
// Freeze. The Secrets among them are added by AddSecret, so that their data
// need not be read.
var JudgedKinds = []KindName{
	{Group: "", Resource: "secrets", Kind: "Secret"},
	{Group: GroupCertManager, Resource: "certificates", Kind: "Certificate"},
	{Group: GroupKnativeNet, Resource: "certificates", Kind: "Certificate"},
}

// RecordKinds are the other kinds that Add makes records of. A look without
// the conservative scan reads these and the judged kinds only.
var RecordKinds = []KindName{
	{Group: GroupCertManager, Resource: "certificaterequests", Kind: "CertificateRequest"},
	{Group: GroupACME, Resource: "orders", Kind: "Order"},
	{Group: GroupACME, Resource: "challenges", Kind: "Challenge"},
	{Group: GroupCertManager, Resource: "issuers", Kind: "Issuer"},
	{Group: GroupCertManager, Resource: "clusterissuers", Kind: "ClusterIssuer"},
	{Group: GroupKnativeNet, Resource: "ingresses", Kind: "Ingress"},
	{Group: GroupServing, Resource: "routes", Kind: "Route"},
	{Group: GroupServing, Resource: "domainmappings", Kind: "DomainMapping"},
	{Group: GroupNetworking, Resource: "ingresses", Kind: "Ingress"},
	{Group: GroupGateway, Resource: "gateways", Kind: "Gateway"},
	{Group: GroupGateway, Resource: "listenersets", Kind: "ListenerSet"},
	{Group: GroupPolicy, Resource: "certificaterequestpolicies", Kind: "CertificateRequestPolicy"},
	{Group: "", Resource: "namespaces", Kind: "Namespace"},
	{Group: "apps", Resource: "deployments", Kind: "Deployment"},
	{Group: "apps", Resource: "daemonsets", Kind: "DaemonSet"},
	{Group: "", Resource: "configmaps", Kind: "ConfigMap"},
}

// KindName is a kind with the resource by which the API server lists it.
type KindName struct{ Group, Resource, Kind string }

// readKinds are the kinds whose objects become records, so that an owner of
// such a kind is known to exist or not.
var readKinds = func() map[[2]string]bool {
	m := map[[2]string]bool{}
	for _, k := range slices.Concat(JudgedKinds, RecordKinds) {
		// Of these only some objects are kept, so a missing record proves
		// nothing.
		if k.Kind != "ConfigMap" && k.Kind != "Deployment" && k.Kind != "DaemonSet" && k.Kind != "Secret" {
			m[[2]string{k.Group, k.Kind}] = true
		}
	}
	return m
}()

// Judged reports whether objects of a kind get a verdict.
func Judged(group, kind string) bool {
	return slices.ContainsFunc(JudgedKinds, func(k KindName) bool { return k.Group == group && k.Kind == kind })
}

// Records reports whether Add makes a record of objects of a kind.
func Records(group, kind string) bool {
	return Judged(group, kind) ||
		slices.ContainsFunc(RecordKinds, func(k KindName) bool { return k.Group == group && k.Kind == kind })
}

// Add makes a record of one object, given as JSON, if its kind is one that the
// inventory reads, and otherwise does nothing; kept tells which. (Of some kinds,
// such as ConfigMap, only few objects are.) An error says that the JSON is not
// an object of that kind; the record is then missing, and the caller owes a
// Gap.
func (c *Collector) Add(group, kind string, doc []byte) (kept bool, err error) {
	var o any
	switch (Ref{Group: group, Kind: kind}) {
	case Ref{Kind: "Secret"}:
		o = new(corev1.Secret)
	case Ref{Kind: "Namespace"}:
		o = new(corev1.Namespace)
	case Ref{Kind: "ConfigMap"}:
		o = new(corev1.ConfigMap)
	case Ref{Group: "apps", Kind: "Deployment"}:
		o = new(appsv1.Deployment)
	case Ref{Group: "apps", Kind: "DaemonSet"}:
		o = new(appsv1.DaemonSet)
	case Ref{Group: GroupNetworking, Kind: "Ingress"}:
		o = new(networkingv1.Ingress)
	case Ref{Group: GroupCertManager, Kind: "Certificate"}:
		o = new(cm.Certificate)
	case Ref{Group: GroupCertManager, Kind: "CertificateRequest"}:
		o = new(cm.CertificateRequest)
	case Ref{Group: GroupCertManager, Kind: "Issuer"}:
		o = new(cm.Issuer)
	case Ref{Group: GroupCertManager, Kind: "ClusterIssuer"}:
		o = new(cm.ClusterIssuer)
	case Ref{Group: GroupACME, Kind: "Order"}:
		o = new(cmacme.Order)
	case Ref{Group: GroupACME, Kind: "Challenge"}:
		o = new(cmacme.Challenge)
	case Ref{Group: GroupPolicy, Kind: "CertificateRequestPolicy"}:
		o = new(certificateRequestPolicy)
	case Ref{Group: GroupKnativeNet, Kind: "Certificate"}:
		o = new(netv1alpha1.Certificate)
	case Ref{Group: GroupKnativeNet, Kind: "Ingress"}:
		o = new(netv1alpha1.Ingress)
	case Ref{Group: GroupServing, Kind: "Route"}:
		o = new(metav1.PartialObjectMetadata)
	case Ref{Group: GroupServing, Kind: "DomainMapping"}:
		o = new(servingv1beta1.DomainMapping)
	case Ref{Group: GroupGateway, Kind: "Gateway"}:
		o = new(gatewayv1.Gateway)
	case Ref{Group: GroupGateway, Kind: "ListenerSet"}:
		o = new(gatewayv1.ListenerSet)
	default:
		return false, nil
	}
	if err := json.Unmarshal(doc, o); err != nil {
		return false, fmt.Errorf("read %s: %w", kind, err)
	}
	if m, ok := o.(metav1.Object); ok && m.GetName() == "" {
		return false, fmt.Errorf("read %s: the object has no metadata.name", kind)
	}
	return c.AddObject(o), nil
}

// AddObject is Add for an object that is decoded already, by pointer. Kinds that
// the inventory does not read are passed over.
func (c *Collector) AddObject(o any) (kept bool) {
	before := c.kept
	c.addObject(o)
	return c.kept > before
}

func (c *Collector) addObject(o any) {
	switch o := o.(type) {
	case *corev1.Secret:
		var names *Names
		var notAfter time.Time
		if crt := leaf(o.Data[corev1.TLSCertKey]); crt != nil {
			n := NewNames(crt.Subject.CommonName, crt.DNSNames, ipStrings(crt), uriStrings(crt), crt.EmailAddresses)
			names, notAfter = &n, crt.NotAfter
		}
		c.AddSecret(&o.ObjectMeta, string(o.Type), names, notAfter)
	case *corev1.Namespace:
		c.o.Namespaces = append(c.o.Namespaces, Namespace{c.meta("", "Namespace", &o.ObjectMeta)})
	case *corev1.ConfigMap:
		c.configMap(o)
	case *appsv1.Deployment:
		c.workload("Deployment", &o.ObjectMeta, &o.Spec.Template.Spec, o.Spec.Replicas)
	case *appsv1.DaemonSet:
		c.workload("DaemonSet", &o.ObjectMeta, &o.Spec.Template.Spec, nil)
	case *networkingv1.Ingress:
		c.ingress(o)
	case *cm.Certificate:
		c.certificate(o)
	case *cm.CertificateRequest:
		r := Request{Meta: c.meta(GroupCertManager, "CertificateRequest", &o.ObjectMeta), Since: o.CreationTimestamp.Time}
		for _, cond := range o.Status.Conditions {
			final := cond.Type == cm.CertificateRequestConditionReady && (cond.Status == cmmeta.ConditionTrue ||
				cond.Reason == cm.CertificateRequestReasonFailed || cond.Reason == cm.CertificateRequestReasonDenied) ||
				cond.Type == cm.CertificateRequestConditionDenied && cond.Status == cmmeta.ConditionTrue ||
				cond.Type == cm.CertificateRequestConditionInvalidRequest && cond.Status == cmmeta.ConditionTrue
			if final {
				r.Final, r.State = true, c.str(cond.Reason)
				if cond.LastTransitionTime != nil && cond.LastTransitionTime.After(r.Since) {
					r.Since = cond.LastTransitionTime.Time
				}
			}
		}
		c.o.Requests = append(c.o.Requests, r)
		c.seeAuthority(o)
		c.seeChain(o)
	case *cmacme.Order:
		revision := o.Annotations[cm.CertificateRequestRevisionAnnotationKey]
		c.acmeRequest("Order", &o.ObjectMeta, o.Status.State, &Order{
			Issuer:      c.issuerRef(o.Spec.IssuerRef.Group, o.Spec.IssuerRef.Kind, o.Namespace, o.Spec.IssuerRef.Name),
			DNS:         c.names("", o.Spec.DNSNames, nil, nil, nil).DNS,
			Certificate: c.str(o.Annotations[cm.CertificateNameKey]),
			Renewal:     revision != "" && revision != "1",
		})
	case *cmacme.Challenge:
		c.acmeRequest("Challenge", &o.ObjectMeta, o.Status.State, nil)
	case *cm.Issuer:
		c.issuer("Issuer", &o.ObjectMeta, &o.Spec, &o.Status)
	case *cm.ClusterIssuer:
		c.issuer("ClusterIssuer", &o.ObjectMeta, &o.Spec, &o.Status)
	case *netv1alpha1.Certificate:
		k := KnativeCertificate{
			Meta:           c.meta(GroupKnativeNet, "Certificate", &o.ObjectMeta),
			Secret:         SecretRef(c.str(o.Namespace), c.str(o.Spec.SecretName)),
			Names:          c.names("", o.Spec.DNSNames, nil, nil, nil),
			Class:          c.str(o.Annotations[networking.CertificateClassAnnotationKey]),
			Type:           c.str(o.Labels[networking.CertificateTypeLabelKey]),
			Domain:         c.str(o.Spec.Domain),
			WildcardDomain: c.str(o.Labels[networking.WildcardCertDomainLabelKey]),
			Ready:          o.IsReady(),
		}
		if k.Type == "" {
			k.Type = "external-domain"
		}
		c.texts = append(c.texts, c.metaTexts(k.Ref, &o.ObjectMeta)...)
		c.o.KnativeCertificates = append(c.o.KnativeCertificates, k)
	case *certificateRequestPolicy:
		c.policy(o)
	case *netv1alpha1.Ingress:
		c.knativeIngress(o)
	case *metav1.PartialObjectMetadata:
		c.o.Routes = append(c.o.Routes, Route{c.meta(GroupServing, "Route", &o.ObjectMeta)})
	case *servingv1beta1.DomainMapping:
		x := Consumer{Meta: c.meta(GroupServing, "DomainMapping", &o.ObjectMeta), Hosts: []string{c.str(o.Name)}, Ready: o.Status.IsReady()}
		if o.Spec.TLS != nil && o.Spec.TLS.SecretName != "" {
			x.TLS = []TLS{{Hosts: x.Hosts, Secret: SecretRef(x.Ref.Namespace, c.str(o.Spec.TLS.SecretName)), Field: "spec.tls.secretName"}}
		}
		c.consumer(x)
	case *gatewayv1.Gateway:
		x := Consumer{Meta: c.meta(GroupGateway, "Gateway", &o.ObjectMeta), Class: c.str(string(o.Spec.GatewayClassName)), Shim: shimmed(o.Annotations), Ready: conditionTrue(o.Status.Conditions, "Programmed")}
		for i, l := range o.Spec.Listeners {
			c.listener(&x, i, l.Hostname, l.TLS)
		}
		c.consumer(x)
	case *gatewayv1.ListenerSet:
		x := Consumer{Meta: c.meta(GroupGateway, "ListenerSet", &o.ObjectMeta), Shim: shimmed(o.Annotations), Ready: conditionTrue(o.Status.Conditions, "Programmed")}
		parent := Ref{Group: GroupGateway, Kind: "Gateway", Namespace: x.Ref.Namespace, Name: c.str(string(o.Spec.ParentRef.Name))}
		if ns := o.Spec.ParentRef.Namespace; ns != nil && *ns != "" {
			parent.Namespace = c.str(string(*ns))
		}
		if c.parents == nil {
			c.parents = map[Ref]Ref{}
		}
		c.parents[x.Ref] = parent
		for i, l := range o.Spec.Listeners {
			c.listener(&x, i, l.Hostname, l.TLS)
		}
		c.consumer(x)
	}
}

// AddSecret records a Secret from its metadata and type. names and notAfter are
// nil and zero where the certificate itself was not read; cert-manager's
// annotations then tell the names. A Secret that holds no certificate is kept by
// name alone.
func (c *Collector) AddSecret(m *metav1.ObjectMeta, typ string, names *Names, notAfter time.Time) {
	labelled := m.Labels[cm.PartOfCertManagerControllerLabelKey] == "true"
	if typ != string(corev1.SecretTypeTLS) && !labelled && names == nil {
		c.kept++
		ref := SecretRef(c.str(m.Namespace), c.str(m.Name))
		c.o.OtherSecrets = append(c.o.OtherSecrets, ref)
		// It may name one that holds a certificate, be a copy of it, or own it.
		c.texts = append(c.texts, c.metaTexts(ref, m)...)
		c.copy(ref, copyOf(m))
		if m.UID != "" {
			c.texts = append(c.texts, text{from: ref, field: "metadata.uid", value: string(m.UID)})
		}
		return
	}
	a := m.Annotations
	s := Secret{
		Meta:            c.meta("", "Secret", m),
		Type:            c.str(typ),
		CertificateName: c.str(a[cm.CertificateNameKey]),
		NextPrivateKey:  m.Labels[cm.IsNextPrivateKeySecretLabelKey] == "true",
		NotAfter:        notAfter,
	}
	s.Writer = c.writer(m)
	s.Managed = labelled && s.CertificateName != "" && !s.NextPrivateKey
	if names != nil {
		s.Names = c.names("", names.DNS, names.others().IPs, names.others().URIs, names.others().Emails)
	} else {
		s.Names = c.names(a[cm.CommonNameAnnotationKey], list(a[cm.AltNamesAnnotationKey]), list(a[cm.IPSANAnnotationKey]), list(a[cm.URISANAnnotationKey]), list(a[cm.EmailsAnnotationKey]))
	}
	if origin := copyOf(m); !origin.IsZero() {
		origin = SecretRef(c.str(origin.Namespace), c.str(origin.Name))
		s.CopyOf = &origin
		c.copy(s.Ref, origin)
	}
	c.texts = append(c.texts, c.metaTexts(s.Ref, m)...)
	c.o.Secrets = append(c.o.Secrets, s)
}

// writer is who wrote last to an object, other than to its status.
func (c *Collector) writer(m *metav1.ObjectMeta) string {
	var last metav1.ManagedFieldsEntry
	for _, f := range m.ManagedFields {
		if f.Subresource == "" && f.Time != nil && (last.Time == nil || f.Time.After(last.Time.Time)) {
			last = f
		}
	}
	return c.str(last.Manager)
}

// copyOf is the Secret that a copying tool made one from, zero if none did.
func copyOf(m *metav1.ObjectMeta) Ref {
	if name := m.Labels[originSecretLabel]; name != "" {
		// net-istio's copies in the gateway's namespace (its
		// pkg/reconciler/ingress/resources/secret.go).
		return SecretRef(m.Labels[originNamespaceLabel], name)
	}
	for _, key := range []string{"reflector.v1.k8s.emberstack.com/reflects", "replicator.v1.mittwald.de/replicated-from", "replicator.v1.mittwald.de/replicate-from"} {
		if ns, name, ok := strings.Cut(m.Annotations[key], "/"); ok {
			return SecretRef(ns, name)
		}
	}
	return Ref{}
}

// copy makes a copy a use of its origin: the tool takes the copy away, or lets
// it grow old, when the origin is gone.
func (c *Collector) copy(from, origin Ref) {
	if !origin.IsZero() {
		c.texts = append(c.texts, c.knownText(from, "copy of", origin.Namespace+"/"+origin.Name, beside))
	}
}

const (
	originSecretLabel    = "networking.internal.knative.dev/originSecretName"
	originNamespaceLabel = "networking.internal.knative.dev/originSecretNamespace"
)

func (c *Collector) certificate(o *cm.Certificate) {
	x := Certificate{
		Meta:   c.meta(GroupCertManager, "Certificate", &o.ObjectMeta),
		Secret: SecretRef(c.str(o.Namespace), c.str(o.Spec.SecretName)),
		Names:  c.names(o.Spec.CommonName, o.Spec.DNSNames, o.Spec.IPAddresses, o.Spec.URIs, o.Spec.EmailAddresses),
		Issuer: c.issuerRef(o.Spec.IssuerRef.Group, o.Spec.IssuerRef.Kind, o.Namespace, o.Spec.IssuerRef.Name),
	}
	x.Profile = c.str(profile(&o.Spec))
	for _, cond := range o.Status.Conditions {
		switch cond.Type {
		case cm.CertificateConditionReady:
			x.Ready = cond.Status == cmmeta.ConditionTrue
		case cm.CertificateConditionIssuing:
			x.Issuing = cond.Status == cmmeta.ConditionTrue
		}
	}
	for _, t := range []struct {
		from *metav1.Time
		to   *time.Time
	}{{o.Status.NotBefore, &x.NotBefore}, {o.Status.NotAfter, &x.NotAfter}, {o.Status.RenewalTime, &x.Renewal}, {o.Status.LastFailureTime, &x.Failed}} {
		if t.from != nil {
			*t.to = t.from.Time
		}
	}
	if r := o.Status.Revision; r != nil {
		x.Revision = int32(min(max(*r, 0), math.MaxInt32))
	}
	x.Generation = int32(min(max(o.Generation, 0), math.MaxInt32))
	x.Writer = c.writer(&o.ObjectMeta)
	x.Windowed = o.Spec.Renewal != nil && (len(o.Spec.Renewal.Windows) > 0 || o.Spec.Renewal.Policy == cm.CertificateRenewalPolicyDisabled)
	if d := o.Spec.Duration; d != nil {
		x.Lifetime = d.Duration
	}
	if k := o.Spec.Keystores; k != nil {
		if k.JKS != nil && k.JKS.PasswordSecretRef.Name != "" {
			c.texts = append(c.texts, c.knownText(x.Ref, "spec.keystores.jks.passwordSecretRef.name", k.JKS.PasswordSecretRef.Name, own))
		}
		if k.PKCS12 != nil && k.PKCS12.PasswordSecretRef.Name != "" {
			c.texts = append(c.texts, c.knownText(x.Ref, "spec.keystores.pkcs12.passwordSecretRef.name", k.PKCS12.PasswordSecretRef.Name, own))
		}
	}
	if n := o.Status.NextPrivateKeySecretName; n != nil && *n != "" {
		c.texts = append(c.texts, c.knownText(x.Ref, "status.nextPrivateKeySecretName", *n, own))
	}
	c.texts = append(c.texts, c.metaTexts(x.Ref, &o.ObjectMeta)...)
	if t := o.Spec.SecretTemplate; t != nil && x.Secret.Name != "" {
		s := Meta{Ref: x.Secret}
		for k, v := range t.Labels {
			if !managerLabel(k) {
				s.Labels = append(s.Labels, Pair{c.str(k), c.str(v)})
			}
		}
		if len(s.Labels) > 0 {
			c.awaited = append(c.awaited, s)
		}
	}
	c.o.Certificates = append(c.o.Certificates, x)
}

// profile tells certificates of the same names apart where their users could
// not exchange them.
func profile(s *cm.CertificateSpec) string {
	var b strings.Builder
	if k := s.PrivateKey; k != nil {
		fmt.Fprintf(&b, "%s/%d/%s ", k.Algorithm, k.Size, k.Encoding)
	}
	if s.IsCA {
		b.WriteString("CA ")
	}
	usages := make([]string, 0, len(s.Usages))
	for _, u := range s.Usages {
		usages = append(usages, string(u))
	}
	slices.Sort(usages)
	b.WriteString(strings.Join(usages, ","))
	if s.Keystores != nil {
		b.WriteString(" keystores")
	}
	for _, f := range s.AdditionalOutputFormats {
		b.WriteString(" " + string(f.Type))
	}
	if s.LiteralSubject != "" {
		b.WriteString(" " + s.LiteralSubject)
	}
	return b.String()
}

func (c *Collector) acmeRequest(kind string, m *metav1.ObjectMeta, state cmacme.State, order *Order) {
	r := Request{Meta: c.meta(GroupACME, kind, m), State: c.str(string(state)), Since: m.CreationTimestamp.Time, Order: order}
	switch state {
	case cmacme.Valid, cmacme.Invalid, cmacme.Expired, cmacme.Errored:
		r.Final = true
	}
	c.o.Requests = append(c.o.Requests, r)
}

func (c *Collector) issuer(kind string, m *metav1.ObjectMeta, spec *cm.IssuerSpec, status *cm.IssuerStatus) {
	x := Issuer{Meta: c.meta(GroupCertManager, kind, m), Type: OpaqueType}
	switch {
	case spec.ACME != nil:
		x.Type, x.Solvers, x.Server = ACME, spec.ACME.Solvers, c.str(spec.ACME.Server)
		if status.ACME != nil && status.ACME.URI != "" {
			x.Authority = spec.ACME.Server + " " + status.ACME.URI + " " + spec.ACME.PreferredChain + " " + spec.ACME.Profile
		}
	case spec.CA != nil:
		// All ClusterIssuers take their Secrets from one namespace, which is not
		// known here (cert-manager's --cluster-resource-namespace).
		x.Type, x.Authority = CA, kind+" "+m.Namespace+"/"+spec.CA.SecretName
	case spec.SelfSigned != nil:
		x.Type = SelfSigned
	case spec.Vault != nil:
		x.Type = Vault
	case spec.Venafi != nil:
		x.Type = Venafi
	}
	for _, cond := range status.Conditions {
		if cond.Type == cm.IssuerConditionReady {
			x.Ready = cond.Status == cmmeta.ConditionTrue
		}
	}
	c.o.Issuers = append(c.o.Issuers, x)
}

func (c *Collector) ingress(o *networkingv1.Ingress) {
	x := Consumer{Meta: c.meta(GroupNetworking, "Ingress", &o.ObjectMeta), Class: c.str(o.Annotations["kubernetes.io/ingress.class"]), Shim: shimmed(o.Annotations), Ready: len(o.Status.LoadBalancer.Ingress) > 0}
	if o.Spec.IngressClassName != nil {
		x.Class = c.str(*o.Spec.IngressClassName)
	}
	for _, r := range o.Spec.Rules {
		if r.Host != "" {
			x.Hosts = append(x.Hosts, c.str(r.Host))
		}
	}
	for i, t := range o.Spec.TLS {
		if t.SecretName == "" {
			continue
		}
		ns, name := o.Namespace, t.SecretName
		if a, b, ok := strings.Cut(name, "/"); ok {
			ns, name = a, b
		}
		x.TLS = append(x.TLS, TLS{Hosts: c.strs(t.Hosts), Secret: SecretRef(c.str(ns), c.str(name)), Field: "spec.tls[].secretName", At: [2]int16{int16(i)}})
	}
	c.consumer(x)
}

func (c *Collector) knativeIngress(o *netv1alpha1.Ingress) {
	x := Consumer{Meta: c.meta(GroupKnativeNet, "Ingress", &o.ObjectMeta), Class: c.str(o.Annotations[networking.IngressClassAnnotationKey]), Ready: o.IsReady()}
	for _, r := range o.Spec.Rules {
		if r.Visibility == netv1alpha1.IngressVisibilityClusterLocal {
			x.LocalHosts = append(x.LocalHosts, c.strs(r.Hosts)...)
		} else {
			x.Hosts = append(x.Hosts, c.strs(r.Hosts)...)
		}
	}
	for i, t := range o.Spec.TLS {
		if t.SecretName == "" {
			continue
		}
		ns := t.SecretNamespace
		if ns == "" {
			ns = o.Namespace
		}
		x.TLS = append(x.TLS, TLS{Hosts: c.strs(t.Hosts), Secret: SecretRef(c.str(ns), c.str(t.SecretName)), Field: "spec.tls[].secretName", At: [2]int16{int16(i)}})
	}
	c.consumer(x)
}

func (c *Collector) listener(x *Consumer, at int, hostname *gatewayv1.Hostname, tls *gatewayv1.ListenerTLSConfig) {
	var hosts []string
	if hostname != nil && *hostname != "" {
		hosts = []string{c.str(string(*hostname))}
		x.Hosts = append(x.Hosts, hosts...)
	}
	if tls == nil {
		return
	}
	for i, r := range tls.CertificateRefs {
		if r.Kind != nil && *r.Kind != "Secret" || r.Group != nil && *r.Group != "" {
			continue
		}
		ns := x.Ref.Namespace
		if r.Namespace != nil {
			ns = c.str(string(*r.Namespace))
		}
		x.TLS = append(x.TLS, TLS{Hosts: hosts, Secret: SecretRef(ns, c.str(string(r.Name))), Field: "spec.listeners[].tls.certificateRefs[].name", At: [2]int16{int16(at), int16(i)}})
	}
}

// consumer keeps a consumer and its references: that it names a Secret holds
// whether or not the object is scanned, too.
func (c *Collector) consumer(x Consumer) {
	for _, t := range x.TLS {
		c.edge(Edge{From: x.Ref, To: t.Secret, Field: t.Field, Via: Field}, true)
	}
	c.o.Consumers = append(c.o.Consumers, x)
}

// shimmed reports whether cert-manager makes Certificates for an Ingress or a
// Gateway (its pkg/controller/certificate-shim).
func shimmed(annotations map[string]string) bool {
	for _, k := range []string{cm.IngressIssuerNameAnnotationKey, cm.IngressClusterIssuerNameAnnotationKey, "kubernetes.io/tls-acme"} {
		if v, ok := annotations[k]; ok && v != "false" {
			return true
		}
	}
	return false
}

// inherit gives ListenerSets the issuers of their Gateways (cert-manager
// pkg/controller/certificate-shim/listenerset/controller.go, inheritAnnotations).
func (c *Collector) inherit() {
	if len(c.parents) == 0 {
		return
	}
	shim := map[Ref]bool{}
	for i := range c.o.Consumers {
		if x := &c.o.Consumers[i]; x.Ref.Kind == "Gateway" && x.Shim {
			shim[x.Ref] = true
		}
	}
	for i := range c.o.Consumers {
		x := &c.o.Consumers[i]
		x.Shim = x.Shim || shim[c.parents[x.Ref]]
	}
}

func conditionTrue(conditions []metav1.Condition, typ string) bool {
	return slices.ContainsFunc(conditions, func(c metav1.Condition) bool { return c.Type == typ && c.Status == metav1.ConditionTrue })
}

// workload keeps a Deployment or DaemonSet that runs Envoy as a gateway, or the
// relay.
func (c *Collector) workload(kind string, m *metav1.ObjectMeta, spec *corev1.PodSpec, replicas *int32) {
	for _, container := range spec.Containers {
		args := expanded(slices.Concat(container.Command, container.Args), container.Env)
		kourier := m.Labels["networking.knative.dev/ingress-provider"] == "kourier" && strings.HasPrefix(m.Name, "3scale-kourier-gateway")
		envoy := slices.ContainsFunc(args, func(a string) bool { return strings.HasPrefix(a, "--drain-time-s") }) ||
			strings.Contains(container.Image, "envoyproxy/envoy")
		if !kourier && !envoy {
			continue
		}
		w := Workload{Meta: c.meta("apps", kind, m), DrainSeconds: 600, Replicas: 1}
		if kourier {
			w.Controller = "kourier"
		}
		if q, ok := container.Resources.Limits[corev1.ResourceMemory]; ok {
			w.MemoryLimit = q.Value()
		}
		if replicas != nil {
			w.Replicas = int(*replicas)
		}
		w.DrainSeconds = flagValue(args, "--drain-time-s", w.DrainSeconds)
		w.Concurrency = flagValue(args, "--concurrency", 0)
		c.o.Workloads = append(c.o.Workloads, w)
		c.seeMounted(spec)
		return
	}
	c.seeRelay(kind, m, spec)
}

// expanded puts the values of environment variables in place of $(NAME), as a
// kubelet does (core/v1 Container, field args). Kourier gives its drain time so.
func expanded(args []string, env []corev1.EnvVar) []string {
	for i := range args {
		for _, e := range env {
			args[i] = strings.ReplaceAll(args[i], "$("+e.Name+")", e.Value)
		}
	}
	return args
}

// flagValue reads "--flag 15" and "--flag=15", also from a shell line.
func flagValue(args []string, flag string, otherwise int) int {
	fields := strings.Fields(strings.Join(args, " "))
	for i, f := range fields {
		v, ok := strings.CutPrefix(f, flag+"=")
		if !ok && f == flag && i+1 < len(fields) {
			v, ok = fields[i+1], true
		}
		if ok {
			if n, err := strconv.Atoi(v); err == nil {
				return n
			}
		}
	}
	return otherwise
}

// configMap reads Knative's settings from its system namespace, and what Envoys get
// their configuration from.
func (c *Collector) configMap(o *corev1.ConfigMap) {
	s := &c.o.Settings
	if HoldsBootstrap(o.Name) && o.Data[BootstrapKey] != "" {
		c.seeBootstrap(o)
	}
	if o.Namespace != "knative-serving" {
		return
	}
	get := func(dst *string, keys ...string) {
		for _, k := range keys {
			if v := o.Data[k]; v != "" {
				*dst = c.str(v)
				return
			}
		}
	}
	switch o.Name {
	case "config-network":
		c.kept++
		s.Found = true
		get(&s.DomainTemplate, "domain-template", "domainTemplate")
		get(&s.TagTemplate, "tag-template", "tagTemplate")
		get(&s.ExternalDomainTLS, "external-domain-tls", "auto-tls", "autoTLS")
		get(&s.ClusterLocalDomainTLS, "cluster-local-domain-tls")
		get(&s.NamespaceWildcardSelector, "namespace-wildcard-cert-selector")
		get(&s.IngressClass, "ingress-class", "ingress.class")
		get(&s.CertificateClass, "certificate-class", "certificate.class")
	case "config-defaults":
		c.kept++
		s.MaxRevisionTimeoutSeconds = 600
		if n, err := strconv.Atoi(o.Data["max-revision-timeout-seconds"]); err == nil {
			s.MaxRevisionTimeoutSeconds = n
		}
	}
}

// meta keeps what records need of an object's metadata.
func (c *Collector) meta(group, kind string, m *metav1.ObjectMeta) Meta {
	c.kept++
	x := Meta{
		Ref:     Ref{Group: group, Kind: kind, Namespace: c.str(m.Namespace), Name: c.str(m.Name)},
		Version: Version{UID: strings.Clone(string(m.UID)), ResourceVersion: strings.Clone(m.ResourceVersion)},
		Created: m.CreationTimestamp.Time,
		Ignore:  m.Annotations[IgnoreAnnotation] == "true",
	}
	for _, o := range m.OwnerReferences {
		g, _, ok := strings.Cut(o.APIVersion, "/")
		if !ok {
			g = ""
		}
		ns := m.Namespace
		if clusterScoped(g, o.Kind) {
			ns = ""
		}
		x.Owners = append(x.Owners, OwnerRef{Ref: Ref{c.str(g), c.str(o.Kind), c.str(ns), c.str(o.Name)}, UID: c.str(string(o.UID)), Controller: o.Controller != nil && *o.Controller})
	}
	if _, controlled := x.ControlledBy(); !controlled {
		// Knative and cert-manager's shims copy the tools' labels and annotations from
		// what they make an object for; no tool has a manifest of that.
		x.ManagedBy = c.str(managedBy(m))
	}
	for k, v := range m.Labels {
		x.Labels = append(x.Labels, Pair{c.str(k), c.str(v)})
	}
	slices.SortFunc(x.Labels, func(a, b Pair) int { return strings.Compare(a.Key, b.Key) })
	for k, v := range m.Annotations {
		if _, ok := sharingAnnotations[k]; ok || strings.HasPrefix(k, "certherd.dev/") {
			x.Annotations = append(x.Annotations, Pair{c.str(k), c.str(v)})
		}
	}
	slices.SortFunc(x.Annotations, func(a, b Pair) int { return strings.Compare(a.Key, b.Key) })
	return x
}

// IgnoreAnnotation on an object or its namespace opts it out with the value
// "true".
const IgnoreAnnotation = "certherd.dev/ignore"

func clusterScoped(group, kind string) bool {
	return group == "" && (kind == "Namespace" || kind == "Node" || kind == "PersistentVolume") || group == GroupCertManager && kind == "ClusterIssuer"
}

// managedBy names the tool that holds an object's manifest.
func managedBy(m *metav1.ObjectMeta) string {
	l, a := m.Labels, m.Annotations
	switch {
	case a["argocd.argoproj.io/tracking-id"] != "", l["argocd.argoproj.io/instance"] != "":
		return "Argo CD"
	case l["kustomize.toolkit.fluxcd.io/name"] != "":
		return "Flux Kustomization " + l["kustomize.toolkit.fluxcd.io/namespace"] + "/" + l["kustomize.toolkit.fluxcd.io/name"]
	case l["helm.toolkit.fluxcd.io/name"] != "":
		return "Flux HelmRelease " + l["helm.toolkit.fluxcd.io/namespace"] + "/" + l["helm.toolkit.fluxcd.io/name"]
	case a["meta.helm.sh/release-name"] != "":
		return "Helm release " + a["meta.helm.sh/release-namespace"] + "/" + a["meta.helm.sh/release-name"]
	case l["app.kubernetes.io/managed-by"] == "Helm":
		return "Helm"
	case l["applyset.kubernetes.io/part-of"] != "":
		return "applyset " + l["applyset.kubernetes.io/part-of"]
	case l["olm.owner"] != "":
		return "OLM"
	}
	return ""
}

// metaTexts are the strings of a judged object's metadata that could name
// another one.
func (c *Collector) metaTexts(from Ref, m *metav1.ObjectMeta) []text {
	var out []text
	rows := c.rowsOf(from.Group, from.Kind)
	add := func(section, k, v string) {
		path := []string{"metadata", section, k}
		if ignoredPath(path) || v == "" || managerLabel(k) {
			return
		}
		t := text{from: from, field: c.str(fieldPath(path)), value: c.str(v)}
		for _, r := range rows {
			if pathMatches(r.path, path) {
				t.row, t.known = r, true
				break
			}
		}
		out = append(out, t)
	}
	for k, v := range m.Annotations {
		add("annotations", k, v)
	}
	for k, v := range m.Labels {
		add("labels", k, v)
	}
	return out
}

func (c *Collector) knownText(from Ref, field, value string, s scope) text {
	return text{from: from, field: field, value: c.str(value), known: true, row: reference{scope: s}}
}

func (c *Collector) issuerRef(group, kind, namespace, name string) IssuerRef {
	i := NormalIssuer(group, kind, namespace, name)
	return IssuerRef{c.str(i.Group), c.str(i.Kind), c.str(i.Namespace), c.str(i.Name)}
}

func (c *Collector) names(cn string, dns, ips, uris, emails []string) Names {
	n := NewNames(cn, dns, ips, uris, emails)
	o := n.others()
	for _, l := range [][]string{n.DNS, o.IPs, o.URIs, o.Emails} {
		for i := range l {
			l[i] = c.str(l[i])
		}
	}
	return n
}

func (c *Collector) strs(list []string) []string {
	out := make([]string, len(list))
	for i, s := range list {
		out[i] = c.str(s)
	}
	return out
}

func list(s string) []string {
	if s == "" {
		return nil
	}
	return strings.Split(s, ",")
}

// leaf parses the first certificate of a PEM chain, nil if there is none.
func leaf(chain []byte) *x509.Certificate {
	for len(chain) > 0 {
		var block *pem.Block
		block, chain = pem.Decode(chain)
		if block == nil {
			return nil
		}
		if block.Type != "CERTIFICATE" {
			continue
		}
		crt, err := x509.ParseCertificate(bytes.Clone(block.Bytes))
		if err != nil {
			return nil
		}
		return crt
	}
	return nil
}

func ipStrings(c *x509.Certificate) []string {
	var out []string
	for _, ip := range c.IPAddresses {
		out = append(out, ip.String())
	}
	return out
}

func uriStrings(c *x509.Certificate) []string {
	var out []string
	for _, u := range c.URIs {
		out = append(out, u.String())
	}
	return out
}

// grant reads a Gateway API ReferenceGrant: one that names no Secret lets any
// of its namespace be used from elsewhere.
func (c *Collector) grant(from Ref, doc []byte) {
	var g struct {
		Spec struct {
			To []struct{ Group, Kind, Name string }
		}
	}
	if json.Unmarshal(doc, &g) != nil {
		return
	}
	for _, to := range g.Spec.To {
		if to.Kind == "Secret" && to.Group == "" && to.Name == "" {
			for _, n := range c.byNS[from.Namespace] {
				c.edge(Edge{From: from, To: c.sought[n], Field: "spec.to[]", Via: Mention}, false)
			}
		}
	}
}

// Recorded reports whether every object of r's kind becomes a record, so that
// one without a record does not exist (unless its kind is a Gap).
func Recorded(r Ref) bool { return readKinds[[2]string{r.Group, r.Kind}] }
