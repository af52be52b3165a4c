package steady

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/certherd/certherd/inventory"
)

// kind is one whose objects are looked at.
type kind struct {
	part            Part
	group, resource string
	versions        []string // the first that is served is asked for
	name            string
	// unready is what an object's status says while the object is not Ready, else
	// empty.
	unready func(*unstructured.Unstructured) string
	// names are the Secrets that an object serves with, nil for kinds that name none.
	names func(*unstructured.Unstructured) []inventory.Ref
}

var (
	certificates = kind{Certificates, inventory.GroupCertManager, "certificates", []string{"v1"}, "Certificate", certificate, nil}

	kinds = []kind{
		certificates,
		{Certificates, inventory.GroupKnativeNet, "certificates", []string{"v1alpha1"}, "Certificate", ready("Ready"), nil},
		{Routes, inventory.GroupServing, "services", []string{"v1"}, "Service", ready("Ready"), nil},
		{Routes, inventory.GroupServing, "routes", []string{"v1"}, "Route", route, nil},
		{Routes, inventory.GroupServing, "domainmappings", []string{"v1beta1", "v1alpha1"}, "DomainMapping", route, nil},
		{Routes, inventory.GroupKnativeNet, "ingresses", []string{"v1alpha1"}, "Ingress", ready("Ready"), kIngressSecrets},
		// An Ingress says nothing of its own about being Ready, and many controllers
		// give it no address.
		{Routes, inventory.GroupNetworking, "ingresses", []string{"v1"}, "Ingress", func(*unstructured.Unstructured) string { return "" }, ingressSecrets},
		{Routes, inventory.GroupGateway, "gateways", []string{"v1", "v1beta1"}, "Gateway", gatewayUnready, gatewaySecrets},
	}
)

// objects looks at everything but Envoys.
func (s *sight) objects(ctx context.Context, parts []Part) error {
	// The Secrets that are served with, by who does; and what is wrong with the
	// Certificate of a Secret.
	named := map[inventory.Ref][]inventory.Ref{}
	broken := map[inventory.Ref]string{}
	at := len(s.unsteady)
	for _, k := range kinds {
		// What is served is Ready on its certificates, whether or not others count.
		wanted := slices.Contains(parts, k.part)
		if !wanted && k.name != "Certificate" {
			continue
		}
		err := s.each(ctx, k, func(ref inventory.Ref, o *unstructured.Unstructured) {
			why := k.unready(o)
			if o.GetDeletionTimestamp() != nil {
				why = "it is being deleted"
			}
			if why != "" && wanted {
				s.add(k.part, ref.String(), why)
			}
			if k.part == Certificates {
				if name, _, _ := unstructured.NestedString(o.Object, "spec", "secretName"); why != "" && name != "" {
					broken[inventory.SecretRef(ref.Namespace, name)] = ref.String() + ": " + why
				}
			}
			if k.names != nil && o.GetDeletionTimestamp() == nil {
				for _, secret := range k.names(o) {
					named[secret] = append(named[secret], ref)
				}
			}
		})
		switch {
		case refused(err):
			return err
		case ctx.Err() != nil:
			return nil // the caller sees that
		case err != nil:
			s.add(k.part, k.resource+"."+k.group, err.Error())
		}
	}
	s.requests(ctx, at)
	if len(named) == 0 {
		return nil
	}
	there, err := s.secrets(ctx, named)
	switch {
	case refused(err):
		s.notes = append(s.notes, "Secrets may not be listed: whether those exist that are served with was not looked at")
	case ctx.Err() != nil:
		return nil
	case err != nil:
		s.add(Routes, "secrets", "cannot be listed: "+err.Error())
		return nil
	}
	for _, secret := range slices.SortedFunc(maps.Keys(named), inventory.Ref.Compare) {
		why := ""
		switch {
		case broken[secret] != "":
			why = "it serves with " + secret.String() + ", and " + broken[secret]
		case err == nil && !there[secret]:
			why = "it serves with " + secret.String() + ", which does not exist"
		default:
			continue
		}
		for _, by := range named[secret] {
			s.add(Routes, by.String(), why)
		}
	}
	return nil
}

// requests adds to Certificates that are being issued what their newest
// CertificateRequest says. It is read for the words alone: if it cannot be, the
// Certificate is named all the same.
func (s *sight) requests(ctx context.Context, from int) {
	wanted := map[string]int{}
	for i, u := range s.unsteady[from:] {
		if u.Part == Certificates && strings.HasPrefix(u.Object, "Certificate/") {
			wanted[u.Object] = from + i
		}
	}
	if len(wanted) == 0 {
		return
	}
	type word struct {
		made metav1.Time
		says string
	}
	words := map[int]word{}
	_ = s.each(ctx, kind{group: inventory.GroupCertManager, resource: "certificaterequests", versions: []string{"v1"}}, func(ref inventory.Ref, o *unstructured.Unstructured) {
		i, ok := wanted[inventory.CertificateRef(ref.Namespace, o.GetAnnotations()["cert-manager.io/certificate-name"]).String()]
		made := o.GetCreationTimestamp()
		if !ok || words[i].made.After(made.Time) {
			return
		}
		list := conditions(o.Object, "status")
		says := untrue(list, "Ready")
		if condition(list, "Approved") == nil && condition(list, "Denied") == nil {
			says = "it waits for approval"
		}
		words[i] = word{made, says}
	})
	for i, w := range words {
		if w.says != "" {
			s.unsteady[i].Why += "; its CertificateRequest: " + w.says
		}
	}
}

// each visits the objects of a kind in all namespaces that count. One that is not
// served has none.
func (s *sight) each(ctx context.Context, k kind, visit func(inventory.Ref, *unstructured.Unstructured)) error {
	for _, version := range k.versions {
		served := true
		resource := s.w.dynamic.Resource(schema.GroupVersionResource{Group: k.group, Version: version, Resource: k.resource})
		for _, namespace := range s.w.namespaces() {
			options := metav1.ListOptions{Limit: 500}
			for {
				list, err := resource.Namespace(namespace).List(ctx, options)
				if apierrors.IsNotFound(err) {
					served = false
					break
				}
				if err != nil {
					return fmt.Errorf("%s.%s cannot be listed: %w", k.resource, k.group, err)
				}
				for i := range list.Items {
					o := &list.Items[i]
					visit(inventory.Ref{Group: k.group, Kind: k.name, Namespace: o.GetNamespace(), Name: o.GetName()}, o)
				}
				if options.Continue = list.GetContinue(); options.Continue == "" {
					break
				}
			}
		}
		if served {
			return nil
		}
	}
	return nil
}

// namespaces are those to list; the empty one stands for all.
func (w *Watcher) namespaces() []string {
	if len(w.o.Namespaces) == 0 {
		return []string{metav1.NamespaceAll}
	}
	return w.o.Namespaces
}

// secrets tells which of the Secrets exist. No more is asked for than metadata, and
// none of Helm's, which are many and large. Gateways may name one in a namespace
// that does not count otherwise.
func (s *sight) secrets(ctx context.Context, named map[inventory.Ref][]inventory.Ref) (map[inventory.Ref]bool, error) {
	namespaces := s.w.namespaces()
	if len(s.w.o.Namespaces) > 0 {
		namespaces = slices.Clone(namespaces)
		for ref := range named {
			if !slices.Contains(namespaces, ref.Namespace) {
				namespaces = append(namespaces, ref.Namespace)
			}
		}
	}
	there := map[inventory.Ref]bool{}
	for _, namespace := range namespaces {
		options := metav1.ListOptions{Limit: 500, FieldSelector: "type!=helm.sh/release.v1"}
		for {
			list, err := s.w.metadata.Resource(schema.GroupVersionResource{Version: "v1", Resource: "secrets"}).Namespace(namespace).List(ctx, options)
			if err != nil {
				return nil, err
			}
			for i := range list.Items {
				there[inventory.SecretRef(list.Items[i].Namespace, list.Items[i].Name)] = true
			}
			if options.Continue = list.Continue; options.Continue == "" {
				break
			}
		}
	}
	return there, nil
}

const notSeen = "its controller has not looked at its last change"

// condition returns an entry of a list of conditions, nil if there is none.
func condition(list []any, name string) map[string]any {
	for _, x := range list {
		if c, _ := x.(map[string]any); c["type"] == name {
			return c
		}
	}
	return nil
}

func conditions(o map[string]any, path ...string) []any {
	list, _, _ := unstructured.NestedSlice(o, append(path, "conditions")...)
	return list
}

// untrue says what a condition does while it is not True.
func untrue(list []any, name string) string {
	c := condition(list, name)
	if c == nil {
		return "it has no condition " + name + " yet"
	}
	if c["status"] == string(metav1.ConditionTrue) {
		return ""
	}
	return said(fmt.Sprintf("%s is %v", name, c["status"]), c)
}

// said adds a condition's reason and message.
func said(text string, c map[string]any) string {
	for _, field := range []string{"reason", "message"} {
		if x, _ := c[field].(string); x != "" {
			text += ": " + strings.Join(strings.Fields(x), " ")
		}
	}
	return text
}

// ready asks for a condition of Knative's kinds, and that it is about the object as
// it is now (knative.dev/pkg/apis, status.observedGeneration).
func ready(name string) func(*unstructured.Unstructured) string {
	return func(o *unstructured.Unstructured) string {
		if why := untrue(conditions(o.Object, "status"), name); why != "" {
			return why
		}
		if seen, ok, _ := unstructured.NestedInt64(o.Object, "status", "observedGeneration"); ok && seen != o.GetGeneration() {
			return notSeen
		}
		return ""
	}
}

// route is ready, and knows that a Route is called Ready while it serves plain HTTP
// because its certificate is not there yet (knative.dev/serving,
// pkg/apis/serving/v1/route_lifecycle.go, MarkHTTPDowngrade).
func route(o *unstructured.Unstructured) string {
	if why := ready("Ready")(o); why != "" {
		return why
	}
	if c := condition(conditions(o.Object, "status"), "CertificateProvisioned"); c["reason"] == "HTTPDowngrade" {
		return said("it serves plain HTTP", c)
	}
	return ""
}

// certificate asks a Certificate of cert-manager, whose conditions each say which
// generation they are about.
func certificate(o *unstructured.Unstructured) string {
	list := conditions(o.Object, "status")
	why := untrue(list, "Ready")
	if c := condition(list, "Issuing"); c["status"] == string(metav1.ConditionTrue) {
		why = said("it is being issued", c)
	} else if seen, ok := condition(list, "Ready")["observedGeneration"].(int64); why == "" && ok && seen != o.GetGeneration() {
		why = notSeen
	}
	if n, _, _ := unstructured.NestedInt64(o.Object, "status", "failedIssuanceAttempts"); why != "" && n > 0 {
		at, _, _ := unstructured.NestedString(o.Object, "status", "lastFailureTime")
		why += fmt.Sprintf(" (%d attempts have failed, the last at %s)", n, at)
	}
	return why
}

// gatewayUnready asks for Programmed, and for listeners whose certificates could be
// used (sigs.k8s.io/gateway-api, apis/v1/gateway_types.go).
func gatewayUnready(o *unstructured.Unstructured) string {
	list := conditions(o.Object, "status")
	if why := untrue(list, "Programmed"); why != "" {
		return why
	}
	if seen, ok := condition(list, "Programmed")["observedGeneration"].(int64); ok && seen != o.GetGeneration() {
		return notSeen
	}
	listeners, _, _ := unstructured.NestedSlice(o.Object, "status", "listeners")
	for _, x := range listeners {
		l, _ := x.(map[string]any)
		if c := condition(conditions(l), "ResolvedRefs"); c["status"] == string(metav1.ConditionFalse) {
			return said(fmt.Sprintf("listener %v: ResolvedRefs is False", l["name"]), c)
		}
	}
	return ""
}

func text(m map[string]any, name string) string {
	x, _ := m[name].(string)
	return x
}

// kIngressSecrets are spec.tls[].secretName and secretNamespace.
func kIngressSecrets(o *unstructured.Unstructured) (out []inventory.Ref) {
	list, _, _ := unstructured.NestedSlice(o.Object, "spec", "tls")
	for _, x := range list {
		t, _ := x.(map[string]any)
		namespace := text(t, "secretNamespace")
		if namespace == "" {
			namespace = o.GetNamespace()
		}
		if name := text(t, "secretName"); name != "" {
			out = append(out, inventory.SecretRef(namespace, name))
		}
	}
	return out
}

// ingressSecrets are spec.tls[].secretName; one without serves with the
// controller's own certificate.
func ingressSecrets(o *unstructured.Unstructured) (out []inventory.Ref) {
	list, _, _ := unstructured.NestedSlice(o.Object, "spec", "tls")
	for _, x := range list {
		t, _ := x.(map[string]any)
		if name := text(t, "secretName"); name != "" {
			out = append(out, inventory.SecretRef(o.GetNamespace(), name))
		}
	}
	return out
}

// gatewaySecrets are spec.listeners[].tls.certificateRefs[] that are Secrets.
func gatewaySecrets(o *unstructured.Unstructured) (out []inventory.Ref) {
	listeners, _, _ := unstructured.NestedSlice(o.Object, "spec", "listeners")
	for _, x := range listeners {
		l, _ := x.(map[string]any)
		refs, _, _ := unstructured.NestedSlice(l, "tls", "certificateRefs")
		for _, y := range refs {
			r, _ := y.(map[string]any)
			if kind := text(r, "kind"); kind != "" && kind != "Secret" || text(r, "group") != "" {
				continue
			}
			namespace := text(r, "namespace")
			if namespace == "" {
				namespace = o.GetNamespace()
			}
			out = append(out, inventory.SecretRef(namespace, text(r, "name")))
		}
	}
	return out
}
