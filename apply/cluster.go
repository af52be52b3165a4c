package apply

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"

	"github.com/certherd/certherd/inventory"
	"github.com/certherd/certherd/inventory/dump"
	"github.com/certherd/certherd/plan"
)

// fieldManager owns what certherd writes (metadata.managedFields).
const fieldManager = "certherd"

// kinds are the kinds that this package writes to, in the version in which it
// does.
var kinds = map[schema.GroupKind]schema.GroupVersionResource{
	secretKind:       {Version: "v1", Resource: "secrets"},
	certificateKind:  {Group: inventory.GroupCertManager, Version: "v1", Resource: "certificates"},
	kCertificateKind: {Group: inventory.GroupKnativeNet, Version: "v1alpha1", Resource: "certificates"},
	kindIn(inventory.GroupCertManager, "CertificateRequest"): {Group: inventory.GroupCertManager, Version: "v1", Resource: "certificaterequests"},
	kindIn(inventory.GroupACME, "Order"):                     {Group: inventory.GroupACME, Version: "v1", Resource: "orders"},
	kindIn(inventory.GroupACME, "Challenge"):                 {Group: inventory.GroupACME, Version: "v1", Resource: "challenges"},
}

var (
	secretKind       = kindIn("", "Secret")
	certificateKind  = kindIn(inventory.GroupCertManager, "Certificate")
	kCertificateKind = kindIn(inventory.GroupKnativeNet, "Certificate")
)

func kindIn(group, kind string) schema.GroupKind { return schema.GroupKind{Group: group, Kind: kind} }

func kindOf(r inventory.Ref) schema.GroupKind { return kindIn(r.Group, r.Kind) }

// restorable reports whether an object of a kind can be made again from its
// manifest.
func restorable(r inventory.Ref) bool {
	return kindOf(r) == certificateKind || kindOf(r) == kCertificateKind
}

// cluster is the API server, as far as objects are changed.
type cluster struct {
	objects  dynamic.Interface
	metadata metadata.Interface
}

func connect(cfg *rest.Config) (*cluster, error) {
	cfg = rest.CopyConfig(cfg)
	cfg.WarningHandler = rest.NoWarnings{}
	if cfg.Timeout == 0 {
		cfg.Timeout = 30 * time.Second // of one request
	}
	objects, err := dynamic.NewForConfig(cfg)
	if err != nil {
		return nil, err
	}
	m, err := metadata.NewForConfig(cfg)
	if err != nil {
		return nil, err
	}
	return &cluster{objects, m}, nil
}

// object is an object as it is now. Of a Secret, only metadata is known.
type object struct {
	ref      inventory.Ref
	version  inventory.Version
	meta     metav1.Object
	deleting bool
	full     *unstructured.Unstructured // nil for a Secret
}

func newObject(ref inventory.Ref, m metav1.Object, full *unstructured.Unstructured) *object {
	return &object{
		ref: ref, meta: m, full: full, deleting: m.GetDeletionTimestamp() != nil,
		version: inventory.Version{UID: string(m.GetUID()), ResourceVersion: m.GetResourceVersion()},
	}
}

func (c *cluster) get(ctx context.Context, ref inventory.Ref) (*object, error) {
	gvr, ok := kinds[kindOf(ref)]
	if !ok {
		return nil, fmt.Errorf("%s is of a kind that certherd does not change", ref)
	}
	if kindOf(ref) == secretKind {
		m, err := c.metadata.Resource(gvr).Namespace(ref.Namespace).Get(ctx, ref.Name, metav1.GetOptions{})
		if err != nil {
			return nil, err
		}
		return newObject(ref, m, nil), nil
	}
	u, err := c.objects.Resource(gvr).Namespace(ref.Namespace).Get(ctx, ref.Name, metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	return newObject(ref, u, u), nil
}

// delete removes an object if it is still the one that it was, in the state
// that it was in. What it owns goes in the background.
func (c *cluster) delete(ctx context.Context, o *object) error {
	background := metav1.DeletePropagationBackground
	uid := types.UID(o.version.UID)
	return c.metadata.Resource(kinds[kindOf(o.ref)]).Namespace(o.ref.Namespace).Delete(ctx, o.ref.Name, metav1.DeleteOptions{
		PropagationPolicy: &background,
		Preconditions:     &metav1.Preconditions{UID: &uid, ResourceVersion: &o.version.ResourceVersion},
	})
}

// annotate sets annotations of an object, and removes those with a nil value,
// if it is still the one that it was, in the state that it was in: a
// patch that has a resourceVersion is a conflict with any other one.
func (c *cluster) annotate(ctx context.Context, o *object, annotations map[string]any) error {
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{
		"uid": o.version.UID, "resourceVersion": o.version.ResourceVersion, "annotations": annotations,
	}})
	if err != nil {
		return err
	}
	_, err = c.metadata.Resource(kinds[kindOf(o.ref)]).Namespace(o.ref.Namespace).
		Patch(ctx, o.ref.Name, types.MergePatchType, patch, metav1.PatchOptions{FieldManager: fieldManager})
	return err
}

func annotationsOf(m plan.Mark) map[string]any {
	return map[string]any{
		plan.RetiredReason: string(m.Reason),
		plan.RetiredAt:     m.RetiredAt.UTC().Format(time.RFC3339),
		plan.DeleteAfter:   m.DeleteAfter.UTC().Format(time.RFC3339),
	}
}

var noMark = map[string]any{plan.RetiredReason: nil, plan.RetiredAt: nil, plan.DeleteAfter: nil}

// metaOf are the annotations of an object as plan.MarkOf takes them.
func metaOf(o metav1.Object) *inventory.Meta {
	m := &inventory.Meta{Created: o.GetCreationTimestamp().Time}
	for k, v := range o.GetAnnotations() {
		m.Annotations = append(m.Annotations, inventory.Pair{Key: k, Value: v})
	}
	return m
}

// follower is a Certificate that goes with a removed object: the one itself,
// until its finalizers are through, or the one that Knative made for it.
type follower struct {
	ref inventory.Ref
	uid types.UID // of the removed object
}

func followerOf(o *object) (follower, bool) {
	if !restorable(o.ref) {
		return follower{}, false
	}
	return follower{inventory.CertificateRef(o.ref.Namespace, o.ref.Name), o.meta.GetUID()}, true
}

func (c *cluster) there(ctx context.Context, f follower) (bool, error) {
	o, err := c.get(ctx, f.ref)
	if err != nil {
		return false, notFoundIsNil(err)
	}
	if o.meta.GetUID() == f.uid {
		return true, nil
	}
	for _, owner := range o.meta.GetOwnerReferences() {
		if owner.UID == f.uid {
			return true, nil
		}
	}
	return false, nil
}

// errSecretive is about a manifest that must not be kept.
var errSecretive = errors.New("its manifest holds a password or a key, which certherd must not keep for undo: delete it yourself")

// manifest is what an object is made again from: without what the API server adds,
// without status, and without annotations that hold a copy of it.
func manifest(u *unstructured.Unstructured) (json.RawMessage, error) {
	metadata := map[string]any{"namespace": u.GetNamespace(), "name": u.GetName()}
	if l := u.GetLabels(); len(l) > 0 {
		metadata["labels"] = l
	}
	annotations := map[string]string{}
	for k, v := range u.GetAnnotations() {
		switch k {
		case "kubectl.kubernetes.io/last-applied-configuration", "objectset.rio.cattle.io/applied":
			continue
		}
		if !dump.HasPrivateKey(v) {
			annotations[k] = v
		}
	}
	if len(annotations) > 0 {
		metadata["annotations"] = annotations
	}
	if owners := u.GetOwnerReferences(); len(owners) > 0 {
		metadata["ownerReferences"] = owners
	}
	spec := u.Object["spec"]
	if secretive(spec) {
		return nil, errSecretive
	}
	return json.Marshal(map[string]any{"apiVersion": u.GetAPIVersion(), "kind": u.GetKind(), "metadata": metadata, "spec": spec})
}

// secretive reports whether a spec holds key material, or a password as such:
// cert-manager takes one for key stores (spec.keystores.jks.password).
func secretive(v any) bool {
	switch v := v.(type) {
	case map[string]any:
		for k, x := range v {
			if s, ok := x.(string); ok && k == "password" && s != "" || secretive(x) {
				return true
			}
		}
	case []any:
		for _, x := range v {
			if secretive(x) {
				return true
			}
		}
	case string:
		return dump.HasPrivateKey(v)
	}
	return false
}
