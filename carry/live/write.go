package live

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"github.com/certherd/certherd/api/v1alpha1"
	"github.com/certherd/certherd/carry"
	"github.com/certherd/certherd/inventory"
)

// defaultClass is Knative's own of certificates (knative.dev/networking
// pkg/apis/networking/register.go, CertManagerCertificateClassName).
const defaultClass = "cert-manager.certificate.networking.knative.dev"

// fieldManager owns what is written (metadata.managedFields).
const fieldManager = "certherd"

// write makes the writes of one kind.
func (l *look) write(ctx context.Context, w carry.Write) error {
	switch w.Verb {
	case carry.Create:
		return l.create(ctx)
	case carry.Label:
		clear(l.m.touched) // whoever looked before that has to look again
		return l.patchSource(ctx, map[string]any{
			"labels":      map[string]any{wildcardDomainLabel: l.c.Spec.Source.WildcardDomain},
			"annotations": map[string]any{labelledBy: "true"},
		})
	case carry.Unlabel:
		clear(l.m.touched)
		return l.patchSource(ctx, map[string]any{
			"labels":      map[string]any{wildcardDomainLabel: nil},
			"annotations": map[string]any{labelledBy: nil},
		})
	case carry.Touch:
		return l.touch(ctx, w.Objects)
	case carry.Restore:
		return l.restore(ctx)
	case carry.Remove:
		return l.remove(ctx)
	case carry.Point, carry.Return:
		return l.point(ctx, w.Objects, w.Verb == carry.Return)
	}
	return fmt.Errorf("nobody knows how to %s", w.Verb)
}

func (l *look) sourceResource() schema.GroupVersionResource {
	if l.c.Spec.Source.Kind == v1alpha1.SourceKCertificate {
		return kCertificates
	}
	return certificates
}

// create makes the object that makes the wildcard.
func (l *look) create(ctx context.Context) error {
	var u *unstructured.Unstructured
	if l.c.Spec.Source.Kind == v1alpha1.SourceKCertificate {
		class := l.class
		if class == "" {
			class = defaultClass
		}
		u = &unstructured.Unstructured{Object: map[string]any{
			"apiVersion": inventory.GroupKnativeNet + "/v1alpha1", "kind": "Certificate",
			"metadata": map[string]any{"annotations": map[string]any{certificateClass: class}},
			// Without the label by which Routes find it: they do not ask whether it is Ready
			// (knative.dev/serving pkg/reconciler/route/route.go, externalDomainTLS).
			"spec": map[string]any{"domain": l.c.Spec.Source.WildcardDomain},
		}}
	} else {
		var err error
		if u, err = l.template(ctx); err != nil {
			return err
		}
	}
	u.SetNamespace(l.c.Namespace)
	u.SetName(l.c.Spec.Source.Name)
	annotations := u.GetAnnotations()
	if annotations == nil {
		annotations = map[string]string{}
	}
	annotations[madeFor] = string(l.c.UID)
	u.SetAnnotations(annotations)
	spec := u.Object["spec"].(map[string]any)
	var names []any
	for _, w := range l.c.Spec.Wildcards {
		names = append(names, w)
	}
	spec["dnsNames"], spec["secretName"] = names, l.c.Spec.SecretName
	_, err := l.objects.Resource(l.sourceResource()).Namespace(l.c.Namespace).Create(ctx, u, metav1.CreateOptions{FieldManager: fieldManager})
	if apierrors.IsAlreadyExists(err) {
		return nil // the next look judges it
	}
	return err
}

// copied are the fields of a Certificate's spec that a wildcard takes over from a
// member: what makes two certificates exchangeable, and how they are renewed.
var copied = []string{
	"issuerRef", "duration", "renewBefore", "renewBeforePercentage", "privateKey", "signatureAlgorithm", "usages", "encodeUsagesInRequest",
	"subject", "additionalOutputFormats", "secretTemplate", "revisionHistoryLimit",
}

// template is a Certificate like a member's, without its names.
func (l *look) template(ctx context.Context) (*unstructured.Unstructured, error) {
	like, err := l.objects.Resource(certificates).Namespace(l.c.Namespace).Get(ctx, l.c.Spec.Source.Template, metav1.GetOptions{})
	if err != nil {
		return nil, fmt.Errorf("cannot read the Certificate that the wildcard is to be like: %w", err)
	}
	old, _, err := unstructured.NestedMap(like.Object, "spec")
	if err != nil {
		return nil, err
	}
	spec := map[string]any{}
	for _, k := range copied {
		if v, ok := old[k]; ok {
			spec[k] = v
		}
	}
	if labels, ok, err := unstructured.NestedMap(spec, "secretTemplate", "labels"); err == nil && ok && labels[certificateUID] != nil {
		// net-kourier may look at Secrets with this label only, whatever its value.
		labels[certificateUID] = string(l.c.UID)
		if err := unstructured.SetNestedMap(spec, labels, "secretTemplate", "labels"); err != nil {
			return nil, err
		}
	}
	if renewal := l.renewal(like); renewal != nil {
		spec["renewal"] = renewal
	}
	u := &unstructured.Unstructured{Object: map[string]any{"apiVersion": inventory.GroupCertManager + "/v1", "kind": "Certificate", "spec": spec}}
	// Labels choose the solver (cert-manager pkg/util/solverpicker).
	labels := map[string]string{}
	for k, v := range like.GetLabels() {
		if !owned(k) {
			labels[k] = v
		}
	}
	u.SetLabels(labels)
	return u, nil
}

// owned reports labels by which a tool or Knative knows what belongs to it.
// ingress-shim and Knative copy them from what they make a Certificate for; with
// them, a tool that prunes would take the wildcard away.
func owned(label string) bool {
	switch label {
	case "app.kubernetes.io/instance", "app.kubernetes.io/managed-by", "helm.sh/chart", "olm.owner":
		return true
	}
	prefix, _, ok := strings.Cut(label, "/")
	return ok && slices.Contains([]string{
		"argocd.argoproj.io", "kustomize.toolkit.fluxcd.io", "helm.toolkit.fluxcd.io", "applyset.kubernetes.io",
		"serving.knative.dev", "networking.knative.dev", "networking.internal.knative.dev",
	}, prefix)
}

// patchSource changes metadata of the source, if it is as it was looked at.
func (l *look) patchSource(ctx context.Context, metadata map[string]any) error {
	if l.source == nil {
		return errors.New("it is not there")
	}
	metadata["uid"], metadata["resourceVersion"] = string(l.source.GetUID()), l.source.GetResourceVersion()
	b, err := json.Marshal(map[string]any{"metadata": metadata})
	if err != nil {
		return err
	}
	_, err = l.objects.Resource(l.sourceResource()).Namespace(l.c.Namespace).
		Patch(ctx, l.source.GetName(), types.MergePatchType, b, metav1.PatchOptions{FieldManager: fieldManager})
	return err
}

// remove deletes the source, if it is as it was looked at.
func (l *look) remove(ctx context.Context) error {
	if l.source == nil {
		return nil
	}
	uid, rv, background := l.source.GetUID(), l.source.GetResourceVersion(), metav1.DeletePropagationBackground
	err := l.objects.Resource(l.sourceResource()).Namespace(l.c.Namespace).Delete(ctx, l.source.GetName(), metav1.DeleteOptions{
		PropagationPolicy: &background, Preconditions: &metav1.Preconditions{UID: &uid, ResourceVersion: &rv},
	})
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// touch makes the controller of Routes look at them, which it does for no change of a
// wildcard (knative/serving#12188). The annotation is taken off again at once; the
// controller of Services does so, too.
func (l *look) touch(ctx context.Context, objects []inventory.Ref) error {
	b, err := json.Marshal(map[string]any{"metadata": map[string]any{"annotations": map[string]any{touchedAt: l.now.UTC().Format(time.RFC3339Nano)}}})
	if err != nil {
		return err
	}
	off := []byte(`{"metadata":{"annotations":{"` + touchedAt + `":null}}}`)
	err = each(objects, func(o inventory.Ref) error {
		for _, patch := range [][]byte{b, off} {
			_, err := l.objects.Resource(routes).Namespace(o.Namespace).Patch(ctx, o.Name, types.MergePatchType, patch, metav1.PatchOptions{FieldManager: fieldManager})
			if err != nil && !apierrors.IsNotFound(err) {
				return err
			}
			l.trace("in the midst of touch")
		}
		return nil
	})
	for _, c := range l.Consumers {
		if slices.Contains(objects, c.Touch) {
			l.m.touched[c.UID] = l.now
		}
	}
	return err
}

// atOnce is how many requests of one kind are on their way at a time.
const atOnce = 4

func each[T any](items []T, do func(T) error) error {
	var wg sync.WaitGroup
	errs := make([]error, len(items))
	slots := make(chan struct{}, atOnce)
	for i, x := range items {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			errs[i] = do(x)
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// restore makes the certificates of what uses the wildcard and has none of its own.
func (l *look) restore(ctx context.Context) error {
	var all []func() error
	done := map[inventory.Ref]bool{}
	for _, c := range l.Consumers {
		for _, e := range c.Entries {
			if !e.OwnMissing || !e.Wildcard && e.Secret != "" {
				continue
			}
			m := l.member(e.Own)
			if x := l.domainMappings[c.UID]; x != nil && m != nil && m.Kind == v1alpha1.SourceKCertificate {
				all = append(all, func() error {
					return l.restoreKnative(ctx, &x.object, "serving.knative.dev/v1beta1", "DomainMapping", mappingLabel, x.Name, e)
				})
				continue
			}
			for _, r := range l.routes {
				if r.Name == c.Touch.Name {
					all = append(all, func() error {
						return l.restoreKnative(ctx, &r.object, "serving.knative.dev/v1", "Route", routeLabel, l.c.Spec.Source.WildcardDomain, e)
					})
				}
			}
			if m != nil && c.Touch.IsZero() {
				if ref := inventory.CertificateRef(l.c.Namespace, m.Name); !done[ref] {
					done[ref] = true
					all = append(all, func() error { return l.o.Undelete(ctx, ref) })
				}
			}
		}
	}
	return each(all, func(do func() error) error { return do() })
}

// restoreKnative makes the certificate of a Route or a DomainMapping just as Knative
// would: so it is Ready before its owner looks, where Knative would leave its host
// without TLS until it is (knative.dev/serving
// pkg/reconciler/route/resources/certificate.go, MakeCertificate). A Secret that is
// still there is taken over without an order.
func (l *look) restoreKnative(ctx context.Context, owner *object, apiVersion, kind, label, domain string, e carry.Entry) error {
	class := l.class
	if class == "" && l.source != nil {
		class = l.source.GetAnnotations()[certificateClass]
	}
	if class == "" {
		class = defaultClass
	}
	annotations := map[string]any{certificateClass: class}
	for k, v := range owner.Annotations {
		switch k {
		case "kubectl.kubernetes.io/last-applied-configuration", "networking.knative.dev/certificateClass", "networking.knative.dev/ingressClass", touchedAt:
		default:
			annotations[k] = v
		}
	}
	u := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": inventory.GroupKnativeNet + "/v1alpha1", "kind": "Certificate",
		"metadata": map[string]any{
			"namespace": owner.Namespace, "name": e.Own, "annotations": annotations,
			"labels": map[string]any{label: owner.Name, certificateType: "external-domain"},
			"ownerReferences": []any{map[string]any{
				"apiVersion": apiVersion, "kind": kind, "name": owner.Name, "uid": string(owner.UID), "controller": true,
			}},
		},
		"spec": map[string]any{"dnsNames": []any{e.Hosts[0]}, "domain": domain, "secretName": e.Own},
	}}
	_, err := l.objects.Resource(kCertificates).Namespace(owner.Namespace).Create(ctx, u, metav1.CreateOptions{FieldManager: fieldManager})
	if apierrors.IsAlreadyExists(err) {
		return nil
	}
	return err
}
