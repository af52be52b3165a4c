package gateway

import (
	"context"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/certherd/certherd/inventory"
)

// kind is one whose objects say whether they are served.
type kind struct {
	resource schema.GroupVersionResource
	name     string
	// unready is what the status says while it does not say that the object is
	// Ready, else empty.
	unready func(*unstructured.Unstructured) string
}

// kinds are those whose status is a gateway's own word. An Ingress without an
// address never had one, so that only one that loses it counts.
var kinds = []kind{
	{schema.GroupVersionResource{Group: inventory.GroupKnativeNet, Version: "v1alpha1", Resource: "ingresses"}, "Ingress", condition("Ready")},
	{schema.GroupVersionResource{Group: inventory.GroupGateway, Version: "v1", Resource: "gateways"}, "Gateway", condition("Programmed")},
	{schema.GroupVersionResource{Group: inventory.GroupNetworking, Version: "v1", Resource: "ingresses"}, "Ingress", address},
}

// readiness visits the objects of a kind; one that is not served has none.
func (r *Reader) readiness(ctx context.Context, k kind, visit func(name, why string, made time.Time)) error {
	options := metav1.ListOptions{Limit: 500}
	for {
		list, err := r.dynamic.Resource(k.resource).List(ctx, options)
		if apierrors.IsNotFound(err) {
			return nil
		}
		if err != nil {
			return err
		}
		for i := range list.Items {
			o := &list.Items[i]
			if o.GetDeletionTimestamp() != nil {
				continue
			}
			ref := inventory.Ref{Group: k.resource.Group, Kind: k.name, Namespace: o.GetNamespace(), Name: o.GetName()}
			visit(ref.String(), k.unready(o), o.GetCreationTimestamp().Time)
		}
		if options.Continue = list.GetContinue(); options.Continue == "" {
			return nil
		}
	}
}

// condition asks for a condition with status True.
func condition(name string) func(*unstructured.Unstructured) string {
	return func(o *unstructured.Unstructured) string {
		list, _, _ := unstructured.NestedSlice(o.Object, "status", "conditions")
		for _, x := range list {
			c, _ := x.(map[string]any)
			if c["type"] != name {
				continue
			}
			if c["status"] == string(metav1.ConditionTrue) {
				return ""
			}
			return fmt.Sprintf("%s is %v: %v", name, c["status"], c["reason"])
		}
		return "it has no condition " + name
	}
}

// address asks for an address in the status.
func address(o *unstructured.Unstructured) string {
	if list, _, _ := unstructured.NestedSlice(o.Object, "status", "loadBalancer", "ingress"); len(list) > 0 {
		return ""
	}
	return "it has no address"
}
