package stack

import (
	"context"
	"fmt"
	"net/http"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
)

// startFull starts everything above the control plane.
func (s *supervisor) startFull(ctx context.Context, authority *authority, cluster *cluster) error {
	s.progress("installing the custom resources of cert-manager, Knative and the Gateway API")
	names, err := serveNames()
	if err != nil {
		return err
	}
	if err := s.takeCommands(ctx, names); err != nil {
		return err
	}
	if err := standInForPods(cluster); err != nil {
		return err
	}
	if err := s.installCRDs(ctx, cluster); err != nil {
		return err
	}
	if err := s.startPebble(ctx, authority); err != nil {
		return err
	}
	if err := s.startCertManager(ctx, cluster); err != nil {
		return err
	}
	if err := s.startKnative(ctx, cluster); err != nil {
		return err
	}
	if err := s.startKourier(ctx, cluster); err != nil {
		return err
	}
	if err := s.makeIssuers(ctx, authority, cluster); err != nil {
		return err
	}
	return s.awaitFull(ctx, cluster)
}

// awaitFull returns when issuers, admission webhooks and Envoy are ready.
func (s *supervisor) awaitFull(ctx context.Context, cluster *cluster) error {
	s.progress("waiting for issuers")
	for _, name := range []string{IssuerSelfSigned, IssuerCA, IssuerHTTP01, IssuerDNS01} {
		if err := s.await(ctx, "ClusterIssuer "+name, "cert-manager", func(ctx context.Context) error {
			if s.withoutApprover() {
				if err := cluster.approveOwn(ctx); err != nil {
					return err
				}
			}
			return cluster.issuerReady(ctx, name)
		}); err != nil {
			return err
		}
	}
	s.progress("waiting for Knative's webhook")
	if err := s.await(ctx, "Knative's webhook", "knative-webhook", cluster.knativeAdmits); err != nil {
		return err
	}
	s.progress("waiting for Envoy")
	if err := s.await(ctx, "Envoy to have its first configuration", "envoy", answers(http.DefaultClient, "http://127.0.0.1:9901/ready")); err != nil {
		return err
	}
	return s.await(ctx, "Envoy's listeners", "envoy", listening(private+":8080"))
}

// installCRDs applies the custom resource definitions and waits until they are served.
func (s *supervisor) installCRDs(ctx context.Context, cluster *cluster) error {
	var objects []*unstructured.Unstructured
	for _, source := range []struct {
		part   Part
		folder string
	}{{CertManager, "crds"}, {CertManager, "gateway-api"}, {Knative, "crds"}} {
		more, err := s.manifests(source.part, source.folder)
		if err != nil {
			return err
		}
		objects = append(objects, more...)
	}
	if err := cluster.apply(ctx, objects...); err != nil {
		return err
	}
	for _, object := range objects {
		if object.GetKind() != "CustomResourceDefinition" {
			continue
		}
		if err := s.await(ctx, object.GetName()+" to be served", "kube-apiserver", func(ctx context.Context) error {
			return cluster.established(ctx, object)
		}); err != nil {
			return err
		}
	}
	return nil
}

func (c *cluster) established(ctx context.Context, object *unstructured.Unstructured) error {
	resource, err := c.resource(object)
	if err != nil {
		return err
	}
	now, err := resource.Get(ctx, object.GetName(), metav1.GetOptions{})
	if err != nil {
		return err
	}
	var crd apiextensionsv1.CustomResourceDefinition
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(now.Object, &crd); err != nil {
		return err
	}
	for _, condition := range crd.Status.Conditions {
		if condition.Type == apiextensionsv1.Established && condition.Status == apiextensionsv1.ConditionTrue {
			return nil
		}
	}
	return fmt.Errorf("%s is not established", object.GetName())
}

// namespace makes a namespace unless it is there.
func (c *cluster) namespace(ctx context.Context, name string) error {
	_, err := c.typed.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		return nil
	}
	return err
}

// backend makes an EndpointSlice that leads a Service to ports of the stack's
// address, in place of the pods that its selector does not find.
func (c *cluster) backend(ctx context.Context, namespace, service string, ports map[string]int32) error {
	slice := &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{
			Name: service + "-stack",
			// The label app is what net-kourier's own informer selects by.
			Labels: map[string]string{
				discoveryv1.LabelServiceName: service,
				discoveryv1.LabelManagedBy:   "certherd-stack",
				"app":                        "3scale-kourier-gateway",
			},
		},
		AddressType: discoveryv1.AddressTypeIPv4,
		Endpoints:   []discoveryv1.Endpoint{{Addresses: []string{private}, Conditions: discoveryv1.EndpointConditions{Ready: new(true)}}},
	}
	for name, port := range ports {
		slice.Ports = append(slice.Ports, discoveryv1.EndpointPort{Name: &name, Port: &port, Protocol: new(corev1.ProtocolTCP)})
	}
	_, err := c.typed.DiscoveryV1().EndpointSlices(namespace).Create(ctx, slice, metav1.CreateOptions{})
	return err
}
