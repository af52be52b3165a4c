package dump

import (
	"bytes"
	"compress/gzip"
	"io"
	"testing"

	"github.com/certherd/certherd/inventory"
)

// A gateway may take its drain time from a variable, as Kourier's does; a dump
// has the time, and no variable.
func TestNumbersFromTheEnvironment(t *testing.T) {
	before, after, archive := roundTrip(t, []thing{{"apps", "v1", "Deployment", `{"metadata":{"name":"gateway","namespace":"a"},"spec":{"template":{"spec":{"containers":[{
		"name":"envoy","image":"envoyproxy/envoy:v1.36","args":["--drain-time-s $(DRAIN)","--concurrency $(WORKERS)","--token $(TOKEN)"],
		"env":[{"name":"DRAIN","value":"15"},{"name":"WORKERS","value":"none"},{"name":"TOKEN","value":"hunter2"}]}]}}}}`}}, nil)
	same(t, after, before)
	if n := after.Workloads[0].DrainSeconds; n != 15 {
		t.Errorf("drain time of %d s", n)
	}
	unzipped, err := gzip.NewReader(bytes.NewReader(archive))
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(unzipped)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(text, []byte("--drain-time-s 15")) {
		t.Error("the dump does not have the drain time")
	}
	for _, secret := range []string{"hunter2", "TOKEN"} {
		if bytes.Contains(text, []byte(secret)) {
			t.Errorf("the dump has %s", secret)
		}
	}
}

// A gateway behind the relay is one in the dump, too, which says of the bootstrap
// configuration and of command lines no more than that.
func TestRelay(t *testing.T) {
	before, after, archive := roundTrip(t, []thing{
		{"apps", "v1", "Deployment", `{"metadata":{"name":"gateway","namespace":"a"},"spec":{"template":{"spec":{"volumes":[{"name":"c","configMap":{"name":"bootstrap"}},{"name":"hunter2","emptyDir":{"medium":"hunter2"}}],
			"containers":[{"name":"envoy","image":"envoyproxy/envoy:v1.36"}]}}}}`},
		{"apps", "v1", "Deployment", `{"metadata":{"name":"beside","namespace":"a"},"spec":{"template":{"spec":{"volumes":[{"name":"c","configMap":{"name":"loopback"}}],
			"initContainers":[{"name":"relay","command":["/hunter2/certherd-relay"],"args":["--sds=true","--upstream=hunter2"]}],"containers":[{"name":"envoy","image":"envoyproxy/envoy:v1.36"}]}}}}`},
		{"apps", "v1", "Deployment", `{"metadata":{"name":"relay","namespace":"a"},"spec":{"template":{"spec":{"containers":[{"name":"relay","command":["/certherd-relay","--node-id","hunter2"]}]}}}}`},
		{"", "v1", "ConfigMap", `{"metadata":{"name":"bootstrap","namespace":"a"},"data":{"password":"hunter2","envoy-bootstrap.yaml":"# hunter2\ndynamic_resources: {ads_config: {grpc_services: {envoy_grpc: {cluster_name: x}}}}\n` +
			`static_resources: {clusters: [{name: hunter2}, {name: x, load_assignment: {endpoints: {lb_endpoints: {endpoint: {address: {socket_address: {address: relay}}}}}}}]}"}}`},
		{"", "v1", "ConfigMap", `{"metadata":{"name":"loopback","namespace":"a"},"data":{"envoy-bootstrap.yaml":"dynamic_resources: {ads_config: {grpc_services: {envoy_grpc: {cluster_name: x}}}}\n` +
			`static_resources: {clusters: [{name: x, load_assignment: {endpoints: {lb_endpoints: {endpoint: {address: {socket_address: {address: 127.0.0.1}}}}}}}]}"}}`},
	}, nil)
	same(t, after, before)
	relay := func(name string) inventory.Ref {
		return inventory.Ref{Group: "apps", Kind: "Deployment", Namespace: "a", Name: name}
	}
	if w := after.Workloads; len(w) != 2 || w[0].Relay != relay("beside") || w[1].Relay != relay("relay") {
		t.Errorf("the relays are lost: %+v", w)
	}
	unzipped, err := gzip.NewReader(bytes.NewReader(archive))
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(unzipped)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(text, []byte("hunter2")) {
		t.Errorf("the dump has too much:\n%s", text)
	}
}
