package relay

import (
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/yaml"

	"github.com/certherd/certherd/e2e/scenario"
)

// installed builds net-kourier's gateway with a component, as an operator would.
func installed(t *testing.T, component string) (gateway appsv1.Deployment, configMaps map[string]string, kinds map[string]int) {
	t.Helper()
	var others []unstructured.Unstructured
	gateway, configMaps, others = documents(t, component)
	kinds = map[string]int{}
	for _, o := range others {
		kinds[o.GetKind()]++
	}
	return gateway, configMaps, kinds
}

// documents are what kustomize builds: the gateway's Deployment, ConfigMaps, and
// all of it.
func documents(t *testing.T, component string) (gateway appsv1.Deployment, configMaps map[string]string, all []unstructured.Unstructured) {
	t.Helper()
	dir, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "knative.dev/net-kourier").Output()
	if err != nil {
		t.Fatal(err)
	}
	folder := t.TempDir()
	resources := []string{"200-bootstrap.yaml", "300-gateway.yaml"}
	for _, name := range resources {
		content, err := os.ReadFile(filepath.Join(strings.TrimSpace(string(dir)), "config", name))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(folder, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	path, err := filepath.Abs(filepath.Join("../../manifests/components", component))
	if err != nil {
		t.Fatal(err)
	}
	relative, err := filepath.Rel(folder, path)
	if err != nil {
		t.Fatal(err)
	}
	text, err := yaml.Marshal(map[string]any{"resources": resources, "components": []string{relative}})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(folder, "kustomization.yaml"), text, 0o600); err != nil {
		t.Fatal(err)
	}
	built, err := scenario.Kustomize(folder)
	if err != nil {
		t.Fatal(err)
	}
	configMaps = map[string]string{}
	decoder := utilyaml.NewYAMLOrJSONDecoder(strings.NewReader(string(built)), 4096)
	for {
		var raw map[string]any
		if err := decoder.Decode(&raw); err == io.EOF {
			return gateway, configMaps, all
		} else if err != nil {
			t.Fatal(err)
		}
		text, err := yaml.Marshal(raw)
		if err != nil {
			t.Fatal(err)
		}
		kind, _ := raw["kind"].(string)
		all = append(all, unstructured.Unstructured{Object: raw})
		switch kind {
		case "ConfigMap":
			var c corev1.ConfigMap
			if err := yaml.UnmarshalStrict(text, &c); err != nil {
				t.Fatal(err)
			}
			configMaps[c.Name] = c.Data["envoy-bootstrap.yaml"]
		case "Deployment":
			var d appsv1.Deployment
			if err := yaml.UnmarshalStrict(text, &d); err != nil {
				t.Fatal(err)
			}
			if d.Name == "3scale-kourier-gateway" {
				gateway = d
			}
		}
	}
}

// TestComponents builds both ways of installing on net-kourier's own manifests:
// the gateway mounts a bootstrap configuration that differs from Kourier's in the
// address of the xDS server alone.
func TestComponents(t *testing.T) {
	for component, address := range map[string]string{"relay": "certherd-relay.kourier-system", "relay-sidecar": "127.0.0.1"} {
		gateway, configMaps, kinds := installed(t, component)
		mounted := gateway.Spec.Template.Spec.Volumes[0].ConfigMap.Name
		var ours, theirs map[string]any
		if err := yaml.Unmarshal([]byte(configMaps[mounted]), &ours); err != nil {
			t.Fatal(err)
		}
		kouriers := strings.Replace(configMaps["kourier-bootstrap"], "net-kourier-controller.knative-serving", address, 1)
		if err := yaml.Unmarshal([]byte(kouriers), &theirs); err != nil {
			t.Fatal(err)
		}
		if mounted == "kourier-bootstrap" || configMaps[mounted] == "" {
			t.Fatalf("%s: the gateway mounts %q", component, mounted)
		}
		if a, b := settled(t, ours), settled(t, theirs); a != b {
			t.Errorf("%s: the bootstrap configuration differs from Kourier's:\n%s\nand Kourier's:\n%s", component, a, b)
		}
		sidecars := len(gateway.Spec.Template.Spec.InitContainers)
		if want := map[string]int{"relay": 0, "relay-sidecar": 1}[component]; sidecars != want {
			t.Errorf("%s: %d sidecars, want %d", component, sidecars, want)
		}
		if want := map[string]int{"relay": 2, "relay-sidecar": 1}[component]; kinds["Deployment"] != want {
			t.Errorf("%s: %d Deployments, want %d", component, kinds["Deployment"], want)
		}
	}
}

// TestNetworkPolicy: what the policy lets in is what Kourier's gateways are, at the
// port that their bootstrap configuration has, and it lets out to where net-kourier is.
func TestNetworkPolicy(t *testing.T) {
	gateway, _, all := documents(t, "relay")
	var policy networkingv1.NetworkPolicy
	var relay appsv1.Deployment
	for _, o := range all {
		var into any
		switch {
		case o.GetKind() == "NetworkPolicy":
			into = &policy
		case o.GetKind() == "Deployment" && o.GetName() == "certherd-relay":
			into = &relay
		default:
			continue
		}
		if err := runtime.DefaultUnstructuredConverter.FromUnstructured(o.Object, into); err != nil {
			t.Fatal(err)
		}
	}
	matches := func(s *metav1.LabelSelector, l map[string]string) bool {
		selector, err := metav1.LabelSelectorAsSelector(s)
		return err == nil && selector.Matches(labels.Set(l))
	}
	pods := relay.Spec.Template.Labels
	if !matches(&policy.Spec.PodSelector, pods) || matches(&policy.Spec.PodSelector, gateway.Spec.Template.Labels) {
		t.Error("the policy is not for the relay's pods alone")
	}
	reaches := func(rules []networkingv1.NetworkPolicyIngressRule, from map[string]string, port int32) bool {
		return slices.ContainsFunc(rules, func(r networkingv1.NetworkPolicyIngressRule) bool {
			return slices.ContainsFunc(r.Ports, func(p networkingv1.NetworkPolicyPort) bool { return p.Port.IntVal == port }) &&
				slices.ContainsFunc(r.From, func(p networkingv1.NetworkPolicyPeer) bool {
					return p.NamespaceSelector == nil && p.PodSelector != nil && matches(p.PodSelector, from)
				})
		})
	}
	for _, c := range []struct {
		who  map[string]string
		port int32
		want bool
	}{
		{gateway.Spec.Template.Labels, 18000, true},
		{gateway.Spec.Template.Labels, 9105, false},
		{map[string]string{"app": "any"}, 18000, false},
		{pods, 18000, false},
	} {
		if got := reaches(policy.Spec.Ingress, c.who, c.port); got != c.want {
			t.Errorf("pods with %v may reach port %d: %t", c.who, c.port, got)
		}
	}
	for _, rule := range policy.Spec.Ingress {
		if len(rule.From) == 0 || len(rule.Ports) == 0 {
			t.Errorf("a rule lets in everybody, or to every port: %v", rule)
		}
	}
	var out []int32
	for _, rule := range policy.Spec.Egress {
		for _, p := range rule.Ports {
			out = append(out, p.Port.IntVal)
		}
	}
	if want := []int32{18000, 443, 6443, 53, 53}; !slices.Equal(out, want) {
		t.Errorf("the relay may go to ports %v, want %v", out, want)
	}
}

// settled writes a bootstrap configuration in one form: Kourier's writes a list of
// one endpoint as the endpoint, and a type in another case.
func settled(t *testing.T, bootstrap map[string]any) string {
	t.Helper()
	static := bootstrap["static_resources"].(map[string]any)
	clusters := map[string]any{}
	for _, c := range static["clusters"].([]any) {
		cluster := c.(map[string]any)
		cluster["type"] = strings.ToUpper(cluster["type"].(string))
		delete(cluster, "connect_timeout") // 0.250s and 0.25s
		assignment := cluster["load_assignment"].(map[string]any)
		endpoints := assignment["endpoints"]
		if list, ok := endpoints.([]any); ok {
			endpoints = list[0]
		}
		lb := endpoints.(map[string]any)["lb_endpoints"]
		if list, ok := lb.([]any); ok {
			lb = list[0]
		}
		assignment["endpoints"] = lb
		clusters[cluster["name"].(string)] = cluster
	}
	static["clusters"] = clusters
	text, err := yaml.Marshal(bootstrap)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
