package live

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"github.com/certherd/certherd/api/v1alpha1"
	"github.com/certherd/certherd/carry"
	"github.com/certherd/certherd/inventory"
)

// named is an object that names Secrets itself, as it was looked at.
type named struct {
	gvr schema.GroupVersionResource
	raw *unstructured.Unstructured
	// at says for each Entry of the Consumer where its Secret is named: the element of
	// spec.tls or spec.listeners, and that of its certificateRefs.
	at [][2]int
}

// own is what is known of a certificate to go back to.
type own struct{ secret, certificate bool }

// observeCertificate looks at a cert-manager Certificate and at all that is to name
// its Secret.
func (l *look) observeCertificate(ctx context.Context) error {
	ns := l.c.Namespace
	u, err := l.objects.Resource(certificates).Namespace(ns).Get(ctx, l.c.Spec.Source.Name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
	case err != nil:
		return fmt.Errorf("cannot read the Certificate: %w", err)
	default:
		crt, err := into[certificate](u)
		if err != nil {
			return err
		}
		l.source = u
		s := carry.Source{Exists: true, UID: string(crt.UID), Since: crt.CreationTimestamp.Time, Ours: crt.Annotations[madeFor] == string(l.c.UID)}
		s.Ready, s.Waits = crt.ready()
		s.Foreign = l.foreign("Certificate", crt.ObjectMeta, s.Ours, crt.Spec.SecretName, crt.Spec.DNSNames)
		l.Source = s
	}
	l.named, l.owns = map[inventory.Ref]*named{}, map[string]own{}
	for _, observe := range []func(context.Context) error{l.observeIngresses, l.observeGateways, l.observeListenerSets, l.observeDomainMappings} {
		if err := observe(ctx); err != nil {
			return err
		}
	}
	return nil
}

// some is list for a kind that a cluster need not have: there are none of it where
// the API server does not know it, unless it was proposed to switch some.
func some[T any](ctx context.Context, l *look, kind v1alpha1.ConsumerKind, gvr schema.GroupVersionResource, ns string) ([]*T, []*unstructured.Unstructured, error) {
	all, raw, err := list[T](ctx, l.Carrier, gvr, ns)
	if apierrors.IsNotFound(err) && !slices.ContainsFunc(l.c.Spec.Members, func(m v1alpha1.Member) bool {
		return slices.ContainsFunc(m.Consumers, func(c v1alpha1.Consumer) bool { return c.Kind == kind })
	}) {
		return nil, nil, nil
	}
	return all, raw, err
}

// consumer keeps what was seen of an object that names Secrets itself, if any of them
// is the wildcard's or a member's.
func (l *look) consumer(c carry.Consumer, n *named) {
	if len(c.Entries) > 0 {
		c.ManagedBy = l.managedBy(c.UID)
		l.Consumers = append(l.Consumers, c)
		l.named[c.Ref] = n
	}
}

// entry is what an object with that metadata, for which cert-manager makes
// Certificates if shim is true, serves hosts with, where it names a Secret. It is
// false where that is of no concern.
func (l *look) entry(ctx context.Context, ref inventory.Ref, m *metav1.ObjectMeta, shim bool, hosts []string, secret string) (carry.Entry, bool, error) {
	e := carry.Entry{Hosts: hosts, Secret: secret, Wildcard: secret == l.c.Spec.SecretName}
	var member *v1alpha1.Member
	if e.Wildcard {
		if !slices.Contains(l.Source.Users, ref) {
			l.Source.Users = append(l.Source.Users, ref)
		}
		if member = l.before(string(m.UID), hosts); member == nil && l.c.Spec.Source.UID != "" {
			return e, false, nil // it used the wildcard before
		}
	} else if member = l.member(secret); member == nil {
		return e, false, nil
	}
	if member == nil {
		e.OwnWaits = "nobody knows what it named before"
		return e, true, nil
	}
	if len(hosts) == 0 {
		e.Hosts = member.Hosts // it serves whatever its certificates are for
	}
	e.Own = member.SecretName
	if member.Kind == v1alpha1.SourceKCertificate {
		return e, true, nil // see observeDomainMappings
	}
	x, err := l.ownOf(ctx, member)
	if err != nil {
		return e, false, err
	}
	switch {
	case !x.secret:
		e.OwnWaits = "Secret " + e.Own + " is gone"
	case x.certificate || shim:
		// As soon as it is named again, ingress-shim makes its Certificate again, which
		// takes the Secret over without an order.
		e.OwnReady = true
	case l.o.Undelete != nil:
		e.OwnMissing, e.OwnWaits = true, "Certificate "+member.Name+" has to be made again"
	default:
		e.OwnWaits = "Certificate " + member.Name + " is gone: certherd undo certificate/" + l.c.Namespace + "/" + member.Name
	}
	return e, true, nil
}

// ownOf looks whether a member's Secret and Certificate are there.
func (l *look) ownOf(ctx context.Context, m *v1alpha1.Member) (own, error) {
	if x, ok := l.owns[m.SecretName]; ok {
		return x, nil
	}
	exists := func(r schema.GroupVersionResource, name string) (bool, error) {
		_, err := l.metadata.Resource(r).Namespace(l.c.Namespace).Get(ctx, name, metav1.GetOptions{})
		if err != nil && !apierrors.IsNotFound(err) {
			return false, fmt.Errorf("cannot read the metadata of %s %s: %w", r.Resource, name, err)
		}
		return err == nil, nil
	}
	var x own
	var err error
	if x.secret, err = exists(secrets, m.SecretName); err != nil {
		return x, err
	}
	if x.certificate, err = exists(certificates, m.Name); err != nil {
		return x, err
	}
	l.owns[m.SecretName] = x
	return x, nil
}

// shimmed reports whether cert-manager makes Certificates for an object (its
// pkg/controller/certificate-shim).
func shimmed(m *metav1.ObjectMeta) bool {
	for _, k := range []string{"cert-manager.io/issuer", "cert-manager.io/cluster-issuer", "kubernetes.io/tls-acme"} {
		if v, ok := m.Annotations[k]; ok && v != "false" {
			return true
		}
	}
	return false
}

// member is the one with a Secret, nil if none is.
func (l *look) member(secret string) *v1alpha1.Member {
	for i := range l.c.Spec.Members {
		if m := &l.c.Spec.Members[i]; m.SecretName == secret {
			return m
		}
	}
	return nil
}

// before is the member whose Secret a consumer named for hosts when it was
// proposed.
func (l *look) before(uid string, hosts []string) *v1alpha1.Member {
	for i := range l.c.Spec.Members {
		for _, c := range l.c.Spec.Members[i].Consumers {
			if c.UID == uid && (len(c.Hosts) == 0 && len(hosts) == 0 || slices.ContainsFunc(hosts, func(h string) bool { return slices.Contains(c.Hosts, h) })) {
				return &l.c.Spec.Members[i]
			}
		}
	}
	return nil
}

func (l *look) managedBy(uid string) string {
	for _, m := range l.c.Spec.Members {
		for _, c := range m.Consumers {
			if c.UID == uid {
				return c.ManagedBy
			}
		}
	}
	return ""
}

// address notes where a gateway serves hosts, if that is not known yet.
func (l *look) address(hosts []string, at string, port int) {
	for _, h := range hosts {
		if at != "" && l.addresses[h] == "" {
			l.addresses[h] = net.JoinHostPort(at, strconv.Itoa(port))
		}
	}
}

type ingress struct {
	object
	Spec struct {
		TLS []struct {
			Hosts      []string `json:"hosts"`
			SecretName string   `json:"secretName"`
		} `json:"tls"`
	} `json:"spec"`
	Status struct {
		LoadBalancer struct {
			Ingress []struct{ IP, Hostname string } `json:"ingress"`
		} `json:"loadBalancer"`
	} `json:"status"`
}

func (l *look) observeIngresses(ctx context.Context) error {
	all, raw, err := list[ingress](ctx, l.Carrier, ingresses, l.c.Namespace)
	if err != nil {
		return err
	}
	for i, x := range all {
		if x.DeletionTimestamp != nil {
			continue
		}
		// The kind has no condition: handshakes tell.
		c := carry.Consumer{Ref: x.ref(inventory.GroupNetworking, "Ingress"), UID: string(x.UID), Created: x.CreationTimestamp.Time, Ready: true, Ignored: x.ignored()}
		n := &named{gvr: ingresses, raw: raw[i]}
		for at, t := range x.Spec.TLS {
			e, ok, err := l.entry(ctx, c.Ref, &x.ObjectMeta, shimmed(&x.ObjectMeta), t.Hosts, t.SecretName)
			if err != nil {
				return err
			}
			if !ok {
				continue
			}
			c.Entries, n.at = append(c.Entries, e), append(n.at, [2]int{at})
			for _, b := range x.Status.LoadBalancer.Ingress {
				l.address(e.Hosts, b.IP+b.Hostname, 443)
			}
		}
		l.consumer(c, n)
	}
	return nil
}

func (o *object) ref(group, kind string) inventory.Ref {
	return inventory.Ref{Group: group, Kind: kind, Namespace: o.Namespace, Name: o.Name}
}

func (o *object) ignored() bool { return o.Annotations[inventory.IgnoreAnnotation] == "true" }

// listening is a Gateway or a ListenerSet.
type listening struct {
	object
	shimmed bool // by its Gateway's annotations
	Spec    struct {
		ParentRef struct{ Name, Namespace string } `json:"parentRef"` // of a ListenerSet
		Listeners []struct {
			Name     string `json:"name"`
			Hostname string `json:"hostname"`
			Port     int    `json:"port"`
			TLS      struct {
				CertificateRefs []struct {
					Group     string  `json:"group"`
					Kind      *string `json:"kind"`
					Namespace string  `json:"namespace"`
					Name      string  `json:"name"`
				} `json:"certificateRefs"`
			} `json:"tls"`
		} `json:"listeners"`
	} `json:"spec"`
	Status struct {
		Conditions []generationCondition    `json:"conditions"`
		Addresses  []struct{ Value string } `json:"addresses"` // of a Gateway
		Listeners  []struct {
			Name       string                `json:"name"`
			Conditions []generationCondition `json:"conditions"`
		} `json:"listeners"`
	} `json:"status"`
}

type generationCondition struct {
	condition
	ObservedGeneration int64 `json:"observedGeneration"`
}

// ready reports whether a Gateway or a ListenerSet is Programmed as it is, and so are
// some of its listeners, whose references are resolved, too
// (sigs.k8s.io/gateway-api apis/v1, GatewayConditionProgrammed and
// ListenerConditionResolvedRefs).
func (x *listening) ready(listeners []string) (bool, string) {
	is := func(where string, all []generationCondition, want string, must bool) (bool, string) {
		for _, c := range all {
			switch {
			case c.Type != want:
			case c.ObservedGeneration != x.Generation:
				return false, where + "its controller has not looked at it yet"
			case c.Status != "True":
				return false, where + want + " is " + c.Status + ": " + words(c.condition)
			default:
				return true, ""
			}
		}
		return !must, where + "its controller has not said whether it is " + want
	}
	if ok, why := is("", x.Status.Conditions, "Programmed", true); !ok {
		return false, why
	}
	for _, n := range listeners {
		var found []generationCondition
		for _, s := range x.Status.Listeners {
			if s.Name == n {
				found = s.Conditions
			}
		}
		where := "listener " + n + ": "
		if ok, why := is(where, found, "ResolvedRefs", true); !ok {
			return false, why
		}
		if ok, why := is(where, found, "Programmed", false); !ok {
			return false, why
		}
	}
	return true, ""
}

func (l *look) observeGateways(ctx context.Context) error {
	all, raw, err := some[listening](ctx, l, v1alpha1.ConsumerGateway, gateways, l.c.Namespace)
	if err != nil {
		return err
	}
	for i, x := range all {
		if err := l.observeListeners(ctx, gateways, "Gateway", x, raw[i], x.addresses()); err != nil {
			return err
		}
	}
	return nil
}

func (l *look) observeListenerSets(ctx context.Context) error {
	all, raw, err := some[listening](ctx, l, v1alpha1.ConsumerListenerSet, listenerSets, l.c.Namespace)
	if err != nil {
		return err
	}
	parents := map[inventory.Ref]*listening{}
	looked := map[string]bool{}
	for i, x := range all {
		at := inventory.Ref{Namespace: cmp.Or(x.Spec.ParentRef.Namespace, x.Namespace), Name: x.Spec.ParentRef.Name}
		if !looked[at.Namespace] {
			looked[at.Namespace] = true
			theirs, _, err := some[listening](ctx, l, v1alpha1.ConsumerGateway, gateways, at.Namespace)
			if err != nil {
				return err
			}
			for _, g := range theirs {
				parents[inventory.Ref{Namespace: g.Namespace, Name: g.Name}] = g
			}
		}
		var addresses []string
		if g := parents[at]; g != nil {
			addresses = g.addresses()
			if shimmed(&g.ObjectMeta) {
				// It has its Gateway's issuer (cert-manager
				// pkg/controller/certificate-shim/listenerset/controller.go, inheritAnnotations).
				x.shimmed = true
			}
		}
		if err := l.observeListeners(ctx, listenerSets, "ListenerSet", x, raw[i], addresses); err != nil {
			return err
		}
	}
	return nil
}

func (x *listening) addresses() (out []string) {
	for _, a := range x.Status.Addresses {
		out = append(out, a.Value)
	}
	return out
}

func (l *look) observeListeners(ctx context.Context, gvr schema.GroupVersionResource, kind string, x *listening, raw *unstructured.Unstructured, addresses []string) error {
	if x.DeletionTimestamp != nil {
		return nil
	}
	c := carry.Consumer{Ref: x.ref(inventory.GroupGateway, kind), UID: string(x.UID), Created: x.CreationTimestamp.Time, Ignored: x.ignored()}
	n := &named{gvr: gvr, raw: raw}
	var names []string
	for at, t := range x.Spec.Listeners {
		var hosts []string
		if t.Hostname != "" {
			hosts = []string{t.Hostname}
		}
		for j, r := range t.TLS.CertificateRefs {
			if r.Group != "" || r.Kind != nil && *r.Kind != "Secret" || r.Namespace != "" && r.Namespace != x.Namespace {
				continue
			}
			e, ok, err := l.entry(ctx, c.Ref, &x.ObjectMeta, x.shimmed || shimmed(&x.ObjectMeta), hosts, r.Name)
			if err != nil {
				return err
			}
			if !ok {
				continue
			}
			c.Entries, n.at, names = append(c.Entries, e), append(n.at, [2]int{at, j}), append(names, t.Name)
			for _, a := range addresses {
				l.address(e.Hosts, a, t.Port)
			}
		}
	}
	c.Ready, c.Why = x.ready(names)
	l.consumer(c, n)
	return nil
}

type domainMapping struct {
	object
	Spec struct {
		TLS *struct {
			SecretName string `json:"secretName"`
		} `json:"tls"`
	} `json:"spec"`
	Status status `json:"status"`
}

// observeDomainMappings looks at DomainMappings. One with spec.tls names a Secret
// itself; for one without, Knative keeps a KCertificate
// (knative.dev/serving pkg/reconciler/domainmapping/reconciler.go, tls).
func (l *look) observeDomainMappings(ctx context.Context) error {
	all, raw, err := some[domainMapping](ctx, l, v1alpha1.ConsumerDomainMapping, domainMappings, l.c.Namespace)
	if err != nil || len(all) == 0 {
		return err
	}
	if l.kcerts, _, err = list[kCertificate](ctx, l.Carrier, kCertificates, l.c.Namespace); err != nil {
		return err
	}
	theirs := map[string]*kCertificate{} // by UID of the DomainMapping
	for _, k := range l.kcerts {
		if o := k.controller(); o.Kind == "DomainMapping" && k.DeletionTimestamp == nil {
			theirs[string(o.UID)] = k
			l.class = k.Annotations[certificateClass]
		}
	}
	ks, _, err := list[kIngress](ctx, l.Carrier, kIngresses, l.c.Namespace)
	if err != nil {
		return err
	}
	l.domainMappings = map[string]*domainMapping{}
	for i, x := range all {
		if x.DeletionTimestamp != nil {
			continue
		}
		c := carry.Consumer{Ref: x.ref(inventory.GroupServing, "DomainMapping"), UID: string(x.UID), Created: x.CreationTimestamp.Time, Ignored: x.ignored()}
		c.Ready, c.Why = x.Status.ready(x.Generation)
		hosts, k := []string{x.Name}, theirs[string(x.UID)]
		before := l.before(string(x.UID), hosts)
		secret := ""
		switch {
		case x.Spec.TLS != nil:
			secret = x.Spec.TLS.SecretName
		case k != nil:
			secret = k.Spec.SecretName
		case before != nil:
			secret = before.SecretName
		}
		e, ok, err := l.entry(ctx, c.Ref, &x.ObjectMeta, false, hosts, secret)
		if err != nil {
			return err
		}
		if !ok {
			continue
		}
		if before != nil && before.Kind == v1alpha1.SourceKCertificate {
			switch {
			case k == nil:
				e.OwnMissing, e.OwnWaits = true, "it has to be made again"
			default:
				e.OwnReady, e.OwnWaits = k.Status.ready(k.Generation)
			}
			if x.Spec.TLS == nil && !e.OwnReady {
				e.Secret = "" // Knative serves the host without TLS
			}
		}
		for _, y := range ks {
			if y.controller().UID != x.UID {
				continue
			}
			for _, b := range y.Status.PublicLoadBalancer.Ingress {
				l.address(hosts, b.IP+b.DomainInternal, 443)
			}
		}
		c.Entries = []carry.Entry{e}
		l.domainMappings[string(x.UID)] = x
		l.consumer(c, &named{gvr: domainMappings, raw: raw[i], at: [][2]int{{}}})
	}
	return nil
}

// point makes consumers name the wildcard's Secret, or their own again, as long as
// they are as they were looked at.
func (l *look) point(ctx context.Context, objects []inventory.Ref, back bool) error {
	var errs []error
	for _, o := range objects {
		n := l.named[o]
		i := slices.IndexFunc(l.Consumers, func(c carry.Consumer) bool { return c.Ref == o })
		if n == nil || i < 0 {
			continue
		}
		err := l.pointOne(ctx, l.Consumers[i], n, back)
		if err != nil && !apierrors.IsNotFound(err) {
			errs = append(errs, fmt.Errorf("%s: %w", o, err))
		}
		l.trace("in the midst of pointing")
	}
	return errors.Join(errs...)
}

func (l *look) pointOne(ctx context.Context, c carry.Consumer, n *named, back bool) error {
	// to is the Secret that an entry is to name, as it is where nothing is to be done.
	to := func(e carry.Entry) string {
		switch {
		case !back:
			return l.c.Spec.SecretName
		case e.Wildcard && e.Own != "":
			return e.Own
		}
		return e.Secret
	}
	if !slices.ContainsFunc(c.Entries, func(e carry.Entry) bool { return to(e) != e.Secret }) {
		return nil
	}
	switch n.gvr {
	case gateways, listenerSets:
		return l.pointListeners(ctx, c, n, to)
	case domainMappings:
		return l.pointDomainMapping(ctx, c, n, to(c.Entries[0]))
	}
	// spec.tls of an Ingress is an atomic list: an apply would take the whole of it
	// over, entries and all that are nobody's business here, and the next apply of its
	// owner would be a conflict, or undo entries that somebody added meanwhile.
	var ops []operation
	for k, e := range c.Entries {
		if s := to(e); s != e.Secret {
			path := fmt.Sprintf("/spec/tls/%d/secretName", n.at[k][0])
			ops = append(ops, operation{"test", path, e.Secret}, operation{"replace", path, s})
		}
	}
	return l.patch(ctx, n, ops)
}

// operation is one of a JSON patch (RFC 6902).
type operation struct {
	Op    string `json:"op"`
	Path  string `json:"path"`
	Value any    `json:"value,omitempty"`
}

// patch changes an object, if it is as it was looked at.
func (l *look) patch(ctx context.Context, n *named, ops []operation) error {
	b, err := json.Marshal(append([]operation{{"test", "/metadata/uid", string(n.raw.GetUID())}, {"test", "/metadata/resourceVersion", n.raw.GetResourceVersion()}}, ops...))
	if err != nil {
		return err
	}
	_, err = l.objects.Resource(n.gvr).Namespace(n.raw.GetNamespace()).Patch(ctx, n.raw.GetName(), types.JSONPatchType, b, metav1.PatchOptions{FieldManager: fieldManager})
	return err
}

// pointListeners applies certificateRefs: listeners are a list by name, so that each
// has an owner of its own. All that this consolidation has ever pointed is in it: what
// an apply leaves out is taken away.
func (l *look) pointListeners(ctx context.Context, c carry.Consumer, n *named, to func(carry.Entry) string) error {
	all, _, err := unstructured.NestedSlice(n.raw.Object, "spec", "listeners")
	if err != nil {
		return err
	}
	var order []int
	refs := map[int][]any{}
	for k, e := range c.Entries {
		at := n.at[k]
		listener, _ := all[at[0]].(map[string]any)
		if refs[at[0]] == nil {
			now, _, err := unstructured.NestedSlice(listener, "tls", "certificateRefs")
			if err != nil {
				return err
			}
			order, refs[at[0]] = append(order, at[0]), now
		}
		refs[at[0]][at[1]].(map[string]any)["name"] = to(e)
	}
	var listeners []any
	for _, at := range order {
		listeners = append(listeners, map[string]any{"name": all[at].(map[string]any)["name"], "tls": map[string]any{"certificateRefs": refs[at]}})
	}
	b, err := json.Marshal(map[string]any{
		"apiVersion": n.raw.GetAPIVersion(), "kind": n.raw.GetKind(),
		"metadata": map[string]any{"name": n.raw.GetName(), "namespace": n.raw.GetNamespace(), "uid": string(n.raw.GetUID()), "resourceVersion": n.raw.GetResourceVersion()},
		"spec":     map[string]any{"listeners": listeners},
	})
	if err != nil {
		return err
	}
	force := true
	_, err = l.objects.Resource(n.gvr).Namespace(n.raw.GetNamespace()).Patch(ctx, n.raw.GetName(), types.ApplyPatchType, b, metav1.PatchOptions{FieldManager: l.manager(), Force: &force})
	return err
}

// manager is the field manager of one consolidation. With one for all, a consolidation
// would take away what another one has applied to the same object.
func (l *look) manager() string {
	id := string(l.c.UID)
	return fieldManager + "-" + id[:min(8, len(id))]
}

func (l *look) pointDomainMapping(ctx context.Context, c carry.Consumer, n *named, to string) error {
	const path = "/spec/tls/secretName"
	m := l.before(c.UID, c.Entries[0].Hosts)
	switch x := l.domainMappings[c.UID]; {
	case x.Spec.TLS == nil:
		return l.patch(ctx, n, []operation{{"add", "/spec/tls", map[string]any{"secretName": to}}})
	case to != l.c.Spec.SecretName && m != nil && m.Kind == v1alpha1.SourceKCertificate:
		// Knative serves it with its KCertificate again.
		return l.patch(ctx, n, []operation{{"test", path, x.Spec.TLS.SecretName}, {"remove", "/spec/tls", nil}})
	default:
		return l.patch(ctx, n, []operation{{"test", path, x.Spec.TLS.SecretName}, {"replace", path, to}})
	}
}
