package stack

import (
	"context"
	"fmt"
	"strconv"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Domain is the domain of Knative Services: <name>.<namespace>.example.test.
const Domain = "example.test"

// knativeConfig is what differs from the defaults of Knative's ConfigMaps.
var knativeConfig = map[string]map[string]string{
	// Without a kubelet, a revision can only be ready with no pods.
	"config-autoscaler": {"allow-zero-initial-scale": "true", "initial-scale": "0"},
	"config-network": {
		"external-domain-tls":              "Enabled",
		"ingress-class":                    "kourier.ingress.networking.knative.dev",
		"certificate-class":                "cert-manager.certificate.networking.knative.dev",
		"autocreate-cluster-domain-claims": "true",
	},
	"config-domain":      {Domain: ""},
	"config-certmanager": {"issuerRef": "kind: ClusterIssuer\nname: " + IssuerCA + "\n"},
	// Images are never pulled, so their digests are not looked up either.
	"config-deployment": {"registries-skipping-tag-resolving": "dev.local", "queue-sidecar-image": "dev.local/queue"},
}

// activator is the Service that requests for revisions without pods go to. The
// reconciler of ServerlessServices copies its Endpoints.
const activator = `
apiVersion: v1
kind: Service
metadata: {name: activator-service, namespace: knative-serving}
spec:
  ports:
  - {name: http, port: 80, targetPort: 8012}
  - {name: http2, port: 81, targetPort: 8013}
---
apiVersion: v1
kind: Endpoints
metadata: {name: activator-service, namespace: knative-serving}
subsets:
- addresses: [{ip: ` + private + `}]
  ports: [{name: http, port: 8012}, {name: http2, port: 8013}]
`

func (s *supervisor) startKnative(ctx context.Context, cluster *cluster) error {
	s.progress("starting Knative Serving")
	core, err := s.manifests(Knative, "core")
	if err != nil {
		return err
	}
	if err := configure(core, knativeConfig); err != nil {
		return err
	}
	webhooks, err := s.manifests(Knative, "webhooks")
	if err != nil {
		return err
	}
	if err := cluster.apply(ctx, append(core, webhooks...)...); err != nil {
		return err
	}
	if err := cluster.applyYAML(ctx, activator); err != nil {
		return err
	}
	if err := cluster.backend(ctx, "knative-serving", "webhook", map[string]int32{"https-webhook": 9444}); err != nil {
		return err
	}
	for i, name := range []string{"controller", "webhook", "autoscaler"} {
		if err := s.run(ctx, &service{
			name: "knative-" + name, part: Knative,
			args: []string{"--kubeconfig=" + s.kubeconfig("knative"), "--disable-ha"},
			// Envoy has 8443, the default port of the webhook.
			env: append(knativeEnv(name, 8100+i), "WEBHOOK_NAME=webhook", "WEBHOOK_PORT=9444"),
		}); err != nil {
			return err
		}
	}
	return nil
}

// knativeEnv is what the Deployments of Knative's programs set, with a port of
// its own for each program's profiling server.
func knativeEnv(name string, profilingPort int) []string {
	return []string{
		"SYSTEM_NAMESPACE=knative-serving", "CONFIG_LOGGING_NAME=config-logging", "CONFIG_OBSERVABILITY_NAME=config-observability",
		"METRICS_DOMAIN=knative.dev/serving", "POD_NAME=" + name, "POD_IP=" + private,
		"KUBE_API_QPS=200", "KUBE_API_BURST=400", "PROFILING_PORT=" + strconv.Itoa(profilingPort),
	}
}

// configure changes data of ConfigMaps among objects. Every ConfigMap named must
// be among them.
func configure(objects []*unstructured.Unstructured, config map[string]map[string]string) error {
	found := 0
	for _, object := range objects {
		data, ok := config[object.GetName()]
		if object.GetKind() != "ConfigMap" || !ok {
			continue
		}
		found++
		for key, value := range data {
			if err := unstructured.SetNestedField(object.Object, value, "data", key); err != nil {
				return fmt.Errorf("ConfigMap %s: %w", object.GetName(), err)
			}
		}
	}
	if found != len(config) {
		return fmt.Errorf("the manifests have %d of the %d ConfigMaps to be changed", found, len(config))
	}
	return nil
}

// knativeAdmits checks that Knative's webhook sets defaults of a Service.
func (c *cluster) knativeAdmits(ctx context.Context) error {
	made, err := c.dynamic.Resource(schema.GroupVersionResource{Group: "serving.knative.dev", Version: "v1", Resource: "services"}).Namespace("default").
		Create(ctx, &unstructured.Unstructured{Object: map[string]any{
			"apiVersion": "serving.knative.dev/v1",
			"kind":       "Service",
			"metadata":   map[string]any{"name": "probe"},
			"spec": map[string]any{"template": map[string]any{"spec": map[string]any{
				"containers": []any{map[string]any{"image": "dev.local/app"}}}}},
		}}, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
	if err != nil {
		return err
	}
	if _, ok := made.GetAnnotations()["serving.knative.dev/creator"]; !ok {
		return fmt.Errorf("the webhook of Knative is not asked yet")
	}
	return nil
}
