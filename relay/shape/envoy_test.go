package shape_test

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/envoyproxy/go-control-plane/pkg/cache/types"
	cachev3 "github.com/envoyproxy/go-control-plane/pkg/cache/v3"
	serverv3 "github.com/envoyproxy/go-control-plane/pkg/server/v3"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/certherd/certherd/e2e/stack"
	"github.com/certherd/certherd/relay/shape"
)

// served serves states to an Envoy over delta ADS.
type served map[string]*cachev3.LinearCache

func (s served) CreateWatch(*cachev3.Request, cachev3.Subscription, chan cachev3.Response) (func(), error) {
	return nil, errors.New("not state of the world")
}

func (s served) CreateDeltaWatch(r *cachev3.DeltaRequest, sub cachev3.Subscription, answers chan cachev3.DeltaResponse) (func(), error) {
	return s[r.GetTypeUrl()].CreateDeltaWatch(r, asked{sub, r.GetResourceNamesSubscribe()}, answers)
}

func (s served) Fetch(context.Context, *cachev3.Request) (cachev3.Response, error) {
	return nil, errors.New("not over REST")
}

// asked is a subscription in which the client knows what it has just asked for, of
// no version: what is not there is then said to be removed, and not kept waiting for.
type asked struct {
	cachev3.Subscription
	names []string
}

func (a asked) ReturnedResources() map[string]string {
	all := map[string]string{}
	for _, name := range a.names {
		all[name] = ""
	}
	for name, version := range a.Subscription.ReturnedResources() {
		all[name] = version
	}
	return all
}

func (s served) set(state shape.State) {
	for _, typ := range []string{shape.ClusterType, shape.EndpointType, shape.SecretType, shape.RouteType, shape.ListenerType} {
		resources := map[string]types.Resource{}
		for _, r := range state.Resources(typ) {
			resources[shape.Name(r)] = r
		}
		s[typ].SetResources(resources)
	}
}

const bootstrap = `
node: {id: a, cluster: a}
admin: {address: {socket_address: {address: 127.0.0.1, port_value: 0}}}
dynamic_resources:
  ads_config: {api_type: DELTA_GRPC, transport_api_version: V3, grpc_services: [{envoy_grpc: {cluster_name: xds}}]}
  cds_config: {ads: {}, resource_api_version: V3}
  lds_config: {ads: {}, resource_api_version: V3}
static_resources:
  clusters:
  - {name: service_stats, type: STATIC}
  - name: xds
    type: STATIC
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {http2_protocol_options: {}}
    load_assignment: {cluster_name: xds, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: %d}}}}]}]}
`

// TestEnvoy: a real Envoy takes what is shaped, and answers handshakes as the
// model says.
func TestEnvoy(t *testing.T) {
	if testing.Short() {
		t.Skip("starts Envoy")
	}
	if err := stack.Build(t.Context(), os.Stderr, stack.Envoy); err != nil {
		t.Fatal(err)
	}
	programs, err := filepath.Glob(filepath.Join(must(stack.CacheDir()), "envoy-*", "bin", "envoy"))
	if err != nil || len(programs) == 0 {
		t.Fatalf("there is no Envoy: %v", err)
	}

	s := served{}
	for _, typ := range []string{shape.ClusterType, shape.EndpointType, shape.SecretType, shape.RouteType, shape.ListenerType} {
		s[typ] = cachev3.NewLinearCache(typ)
	}
	port := must(net.Listen("tcp", "127.0.0.1:0"))
	server := grpc.NewServer()
	discoveryv3.RegisterAggregatedDiscoveryServiceServer(server, serverv3.NewServer(t.Context(), s, nil))
	go func() { _ = server.Serve(port) }()
	t.Cleanup(server.Stop)

	k := newKourier(t)
	ca := newAuthority("ca")
	k.secrets["ns/wild"] = ca.issue(0, "*.ns.example.com", "ns.example.com")
	k.secrets["ns/own"] = ca.issue(0, "own.ns.example.com")
	k.secrets["other/wild"] = ca.issue(0, "*.ns.example.com", "ns.example.com")
	k.put(t, "ns", "a", "a.ns.example.com", "wild", "10.0.0.2")
	k.put(t, "ns", "b", "b.ns.example.com", "wild", "10.0.0.2")
	k.put(t, "ns", "own", "own.ns.example.com", "own", "10.0.0.2")
	k.put(t, "other", "c", "c.ns.example.com", "wild", "10.0.0.2")
	addresses := map[string]string{"listener_8080": "127.0.0.2", "listener_8081": "127.0.0.3", "listener_8090": "127.0.0.4", "listener_8443": "127.0.0.5", "listener_9443": "127.0.0.6"}
	state := func() shape.State {
		in := k.state(t)
		for i, l := range in.Listeners {
			l = proto.Clone(l).(*listenerv3.Listener)
			l.Address = &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
				Address: addresses[l.GetName()], PortSpecifier: &corev3.SocketAddress_PortValue{}}}}
			l.AdditionalAddresses = nil
			in.Listeners[i] = l
		}
		return in
	}
	out, problems := shape.Shape(state(), nil, all)
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	s.set(out)

	dir := t.TempDir()
	config := filepath.Join(dir, "envoy.yaml")
	if err := os.WriteFile(config, fmt.Appendf(nil, bootstrap, port.Addr().(*net.TCPAddr).Port), 0o644); err != nil {
		t.Fatal(err)
	}
	envoy := exec.Command(programs[len(programs)-1], "-c", config, "--admin-address-path", filepath.Join(dir, "admin"), "--disable-hot-restart", "--concurrency", "1", "-l", "warn")
	log := must(os.Create(filepath.Join(dir, "log")))
	envoy.Stderr = log
	if err := envoy.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = envoy.Process.Kill()
		_ = envoy.Wait()
		if t.Failed() {
			t.Logf("%s", must(os.ReadFile(log.Name())))
		}
	})
	admin := func(path string) string {
		address, err := os.ReadFile(filepath.Join(dir, "admin"))
		if err != nil {
			return ""
		}
		r, err := http.Get("http://" + string(address) + path)
		if err != nil {
			return ""
		}
		defer r.Body.Close()
		b, _ := io.ReadAll(r.Body)
		return string(b)
	}
	until := func(what string, holds func() bool) {
		t.Helper()
		for end := time.Now().Add(time.Minute); !holds(); time.Sleep(50 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("after a minute still not: %s\n%s", what, admin("/stats?filter=rejected|secret|modified"))
			}
		}
	}
	address := func(name string) string {
		for line := range strings.Lines(admin("/listeners")) {
			if listener, at, ok := strings.Cut(strings.TrimSpace(line), "::"); ok && listener == name {
				return at
			}
		}
		return ""
	}
	stat := func(name string) int {
		var page struct {
			Stats []struct {
				Name  string
				Value int
			}
		}
		if err := json.Unmarshal([]byte(admin("/stats?format=json&filter=^"+name+"$")), &page); err != nil || len(page.Stats) != 1 {
			return -1
		}
		return page.Stats[0].Value
	}
	// shown is the certificate of a handshake, as answer begins it.
	shown := func(sni string) string {
		c, err := tls.DialWithDialer(&net.Dialer{Timeout: 5 * time.Second}, "tcp", address("listener_8443"), &tls.Config{ServerName: sni, InsecureSkipVerify: true, NextProtos: []string{"h2"}})
		if err != nil {
			var timeout net.Error
			if errors.As(err, &timeout) && timeout.Timeout() {
				return err.Error()
			}
			return refused
		}
		defer c.Close()
		return fmt.Sprintf("%x", sha256.Sum256(c.ConnectionState().PeerCertificates[0].Raw))
	}
	wanted := func(s shape.State, sni string) string {
		got := matches(find(t, s, "listener_8443"), connection{sni: sni, transport: "tls", alpn: "h2"})
		if len(got) == 0 {
			return refused
		}
		answer := answer(s, got[0], sni)
		before, _, _ := strings.Cut(answer, ", filters")
		before, _, _ = strings.Cut(before[strings.LastIndex(before, " ")+1:], "/")
		return before
	}
	// On a busy machine a listener is there a little before its workers answer.
	agree := func(s shape.State) {
		t.Helper()
		for _, sni := range []string{"a.ns.example.com", "b.ns.example.com", "own.ns.example.com", "c.ns.example.com", "new.ns.example.com", "ns.example.com", "unknown.example.org"} {
			want, got := wanted(s, sni), shown(sni)
			for end := time.Now().Add(time.Minute); want != got && time.Now().Before(end); got = shown(sni) {
				time.Sleep(50 * time.Millisecond)
			}
			if want != got {
				t.Errorf("%s: Envoy answers %s, the model %s", sni, got, want)
			}
		}
	}
	until("Envoy listens", func() bool { return address("listener_8443") != "" })
	agree(out)

	// A renewal is a new secret and nothing else.
	k.secrets["ns/wild"] = ca.issue(1, "*.ns.example.com", "ns.example.com")
	for _, svc := range []string{"a", "b"} {
		k.reconcile(t, "ns", svc)
	}
	renewed, _ := shape.Shape(state(), &out, all)
	s.set(renewed)
	until("the renewed certificate is shown", func() bool { return shown("a.ns.example.com") == wanted(renewed, "a.ns.example.com") })
	agree(renewed)
	if n := stat("listener_manager.listener_modified"); n != 0 {
		t.Errorf("%d listeners were modified by a renewal", n)
	}

	demand, _ := shape.Shape(state(), &renewed, shape.Options{SDS: true, Merge: true, OnDemand: &shape.OnDemand{Prefetch: []string{"a.ns.example.com"}}})
	s.set(demand)
	until("certificates are loaded on demand", func() bool {
		return stat("listener_manager.listener_modified") > 0 && stat("listener_manager.total_listeners_warming") == 0
	})
	agree(demand)
	if n := stat("listener_manager.lds.update_rejected"); n != 0 {
		t.Errorf("Envoy refused %d updates of listeners", n)
	}
}
