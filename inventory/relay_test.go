package inventory

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// kourierBootstrap is written as Kourier writes it (net-kourier
// config/200-bootstrap.yaml): one endpoint in place of a list of them.
func kourierBootstrap(host string) string {
	return `dynamic_resources:
  ads_config:
    grpc_services:
    - envoy_grpc: {cluster_name: xds_cluster}
static_resources:
  clusters:
  - name: service_stats
    load_assignment: {endpoints: {lb_endpoints: {endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: 9901}}}}}}
  - name: xds_cluster
    load_assignment: {endpoints: {lb_endpoints: {endpoint: {address: {socket_address: {address: ` + host + `, port_value: 18000}}}}}}
`
}

// TestRelay: a gateway is behind the relay only if what it mounts leads to a pod
// that runs it.
func TestRelay(t *testing.T) {
	const (
		program = `"command": ["/certherd-relay"]`
		beside  = `{"name": "relay", "command": ["/certherd-relay"], "args": ["--listen=127.0.0.1:18000"]}`
	)
	other := Ref{Group: "apps", Kind: "Deployment", Namespace: "kourier-system", Name: "certherd-relay"}
	own := Ref{Group: "apps", Kind: "Deployment", Namespace: "kourier-system", Name: "3scale-kourier-gateway"}
	for _, x := range []struct {
		what, host, mounts, relay, sidecar string
		want                               Ref
	}{
		{"the controller", "net-kourier-controller.knative-serving", "b", program, "", Ref{}},
		{"the relay", "certherd-relay.kourier-system", "b", program, "", other},
		{"the relay by its full name", "certherd-relay.kourier-system.svc.cluster.local.", "b", program, "", other},
		{"the relay by its short name", "certherd-relay", "b", program, "", other},
		{"the relay with flags", "certherd-relay", "b", program + `, "args": ["--on-demand", "--sds=true"]`, "", other},
		{"a bootstrap that is not mounted", "certherd-relay", "another", program, "", Ref{}},
		{"a Deployment that runs something else", "certherd-relay", "b", `"command": ["/proxy"]`, "", Ref{}},
		{"a Service of another namespace", "certherd-relay.default", "b", program, "", Ref{}},
		{"a name outside the cluster", "certherd-relay.kourier-system.example.com", "b", program, "", Ref{}},
		{"a relay that merges no chains", "certherd-relay", "b", program + `, "args": ["--merge=false"]`, "", Ref{}},
		{"a relay without secrets", "certherd-relay", "b", program + `, "args": ["--sds=0"]`, "", Ref{}},
		{"the sidecar", "127.0.0.1", "b", program, beside, own},
		{"the sidecar by name", "localhost", "b", program, beside, own},
		{"a sidecar that is not there", "127.0.0.1", "b", program, "", Ref{}},
		{"the controller, beside a sidecar", "net-kourier-controller.knative-serving", "b", program, beside, Ref{}},
	} {
		objects := []struct{ group, kind, doc string }{
			{"", "ConfigMap", fmt.Sprintf(`{"metadata": {"name": "b", "namespace": "kourier-system"}, "data": {"envoy-bootstrap.yaml": %q}}`, kourierBootstrap(x.host))},
			{"apps", "Deployment", fmt.Sprintf(`{"metadata": {"name": "certherd-relay", "namespace": "kourier-system"},
				"spec": {"template": {"spec": {"containers": [{"name": "relay", %s}]}}}}`, x.relay)},
			{"apps", "Deployment", fmt.Sprintf(`{"metadata": {"name": "3scale-kourier-gateway", "namespace": "kourier-system", "labels": {"networking.knative.dev/ingress-provider": "kourier"}},
				"spec": {"template": {"spec": {"initContainers": [%s], "containers": [{"name": "gateway"}], "volumes": [{"name": "c", "configMap": {"name": %q}}]}}}}`, x.sidecar, x.mounts)},
		}
		for range len(objects) { // whichever comes first
			objects = append(objects[1:], objects[0])
			c := NewCollector()
			for _, o := range objects {
				if _, err := c.Add(o.group, o.kind, []byte(o.doc)); err != nil {
					t.Fatal(err)
				}
			}
			s := c.Snapshot(time.Time{})
			if len(s.Workloads) != 1 || s.Workloads[0].Relay != x.want {
				t.Errorf("%s: %+v, want %v", x.what, s.Workloads, x.want)
			}
		}
	}
}

func TestXDSServers(t *testing.T) {
	for _, hosts := range [][]string{nil, {"a"}, {"a.b", "c"}} {
		if got := XDSServers(Bootstrap(hosts)); !slices.Equal(got, hosts) {
			t.Errorf("%v has become %v", hosts, got)
		}
	}
	good := kourierBootstrap("a")
	for what, text := range map[string]string{
		"nothing":                     "",
		"no YAML":                     "{",
		"another text":                "dynamic_resources: all",
		"a cluster of another name":   strings.Replace(good, "cluster_name: xds_cluster", "cluster_name: other", 1),
		"no configuration over gRPC":  strings.Replace(good, "grpc_services", "path", 1),
		"a cluster without a name":    strings.Replace(good, "name: xds_cluster\n", "alt: xds_cluster\n", 1),
		"an address that is a number": strings.Replace(good, "address: a,", "address: 7,", 1),
	} {
		if got := XDSServers(text); len(got) > 0 {
			t.Errorf("%s: %v", what, got)
		}
	}
}
