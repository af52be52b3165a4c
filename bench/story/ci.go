package main

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"github.com/certherd/certherd/e2e/scenario"
)

var (
	services     = schema.GroupVersionResource{Group: "serving.knative.dev", Version: "v1", Resource: "services"}
	certificates = schema.GroupVersionResource{Group: "cert-manager.io", Version: "v1", Resource: "certificates"}
)

// ci changes services as a busy CI does.
type ci struct {
	w                                          *world
	services                                   []scenario.Service
	n                                          int
	scaled, deployed, previews, ended, renewed int
	made                                       []scenario.Service
}

const slice = "-story"

// endpoints gives the services that are scaled a second EndpointSlice, as there are no
// pods whose number could change.
func (c *ci) endpoints(ctx context.Context) error {
	port := int32(8012)
	for _, s := range c.scales() {
		if _, err := c.w.cluster.Typed.DiscoveryV1().EndpointSlices(s.Namespace).Create(ctx, &discoveryv1.EndpointSlice{
			ObjectMeta:  metav1.ObjectMeta{Name: s.Name + slice, Labels: map[string]string{discoveryv1.LabelServiceName: s.Name + "-00001", discoveryv1.LabelManagedBy: "story"}},
			AddressType: discoveryv1.AddressTypeIPv4, Endpoints: addresses(1),
			Ports: []discoveryv1.EndpointPort{{Name: new("http"), Port: &port, Protocol: new(corev1.ProtocolTCP)}}}, metav1.CreateOptions{}); err != nil {
			return err
		}
	}
	return nil
}

// addresses all lead to what stands in for pods.
func addresses(n int) (list []discoveryv1.Endpoint) {
	for i := range n {
		list = append(list, discoveryv1.Endpoint{Addresses: []string{fmt.Sprintf("10.99.0.%d", i+1)}, Conditions: discoveryv1.EndpointConditions{Ready: new(true)}})
	}
	return list
}

// The first quarter of the services is left alone; the second is scaled, and the rest
// is deployed.
func (c *ci) scales() []scenario.Service  { return c.services[len(c.services)/4 : len(c.services)/2] }
func (c *ci) deploys() []scenario.Service { return c.services[len(c.services)/2:] }

// busy makes, in each second, two services scale and, in turn, one be deployed, a preview come
// up with a certificate of its own, one go, and a certificate be renewed.
func (c *ci) busy(ctx context.Context, until time.Time) (string, error) {
	c.scaled, c.deployed, c.previews, c.ended, c.renewed = 0, 0, 0, 0, 0
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for time.Now().Before(until) {
		select {
		case <-ctx.Done():
			return "", ctx.Err()
		case <-tick.C:
		}
		c.n++
		for range 2 {
			if err := c.scale(ctx); err != nil {
				return "", err
			}
		}
		var err error
		switch c.n % 4 {
		case 0, 2:
			err = c.deploy(ctx)
		case 1:
			err = c.preview(ctx)
		case 3:
			err = c.renew(ctx)
		}
		if err != nil {
			return "", err
		}
	}
	return fmt.Sprintf("%d scaled, %d deployed, %d previews made and %d deleted, %d certificates renewed", c.scaled, c.deployed, c.previews, c.ended, c.renewed), nil
}

func (c *ci) scale(ctx context.Context) error {
	c.scaled++
	list := c.scales()
	s := list[c.scaled%len(list)]
	patch, err := json.Marshal(map[string]any{"endpoints": addresses(1 + (c.n+c.scaled/len(list))%2)})
	if err != nil {
		return err
	}
	_, err = c.w.cluster.Typed.DiscoveryV1().EndpointSlices(s.Namespace).Patch(ctx, s.Name+slice, types.MergePatchType, patch, metav1.PatchOptions{})
	return err
}

func (c *ci) deploy(ctx context.Context) error {
	c.deployed++
	list := c.deploys()
	s := list[c.deployed%len(list)]
	_, err := c.w.cluster.Dynamic.Resource(services).Namespace(s.Namespace).Patch(ctx, s.Name, types.MergePatchType,
		fmt.Appendf(nil, `{"spec":{"template":{"metadata":{"annotations":{"example.com/build":"%d"}}}}}`, c.n), metav1.PatchOptions{})
	return err
}

const previewManifest = `
apiVersion: serving.knative.dev/v1
kind: Service
metadata: {name: {{.Name}}, namespace: {{.Namespace}} }
spec: {template: {spec: {containers: [{image: dev.local/app}]}}}
`

func (c *ci) preview(ctx context.Context) error {
	s := scenario.Service{Namespace: c.services[c.previews%len(c.services)].Namespace, Name: fmt.Sprintf("preview-%d", c.n)}
	c.previews++
	c.made = append(c.made, s)
	if len(c.made) > 8 {
		old := c.made[0]
		c.made = c.made[1:]
		c.ended++
		if err := c.w.cluster.Dynamic.Resource(services).Namespace(old.Namespace).Delete(ctx, old.Name, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
			return err
		}
	}
	return c.w.cluster.Apply(ctx, previewManifest, s)
}

// renew asks cert-manager for a new certificate, as cmctl renew does: by the condition
// Issuing.
func (c *ci) renew(ctx context.Context) error {
	namespace := c.services[c.renewed%len(c.services)].Namespace
	resource := c.w.cluster.Dynamic.Resource(certificates).Namespace(namespace)
	list, err := resource.List(ctx, metav1.ListOptions{})
	if err != nil || len(list.Items) == 0 {
		return err
	}
	o := &list.Items[c.n%len(list.Items)]
	conditions, _, err := unstructured.NestedSlice(o.Object, "status", "conditions")
	if err != nil {
		return err
	}
	conditions = append(conditions, map[string]any{"type": "Issuing", "status": "True", "reason": "ManuallyTriggered", "lastTransitionTime": time.Now().UTC().Format(time.RFC3339)})
	if err := unstructured.SetNestedSlice(o.Object, conditions, "status", "conditions"); err != nil {
		return err
	}
	_, err = resource.UpdateStatus(ctx, o, metav1.UpdateOptions{})
	if apierrors.IsConflict(err) || apierrors.IsNotFound(err) || apierrors.IsInvalid(err) {
		return nil // it is being changed, or renewed, at this moment
	}
	if err == nil {
		c.renewed++
	}
	return err
}
