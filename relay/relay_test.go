package relay

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/envoyproxy/go-control-plane/pkg/cache/types"
	cachev3 "github.com/envoyproxy/go-control-plane/pkg/cache/v3"
	"github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	serverv3 "github.com/envoyproxy/go-control-plane/pkg/server/v3"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest"
	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/certherd/certherd/relay/pace"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const nodeID = "3scale-kourier-gateway"

// controller is an xDS server as net-kourier's: go-control-plane's snapshot cache,
// with a new version for each snapshot.
type controller struct {
	t       *testing.T
	cache   cachev3.SnapshotCache
	server  *grpc.Server
	address string
	version int
}

func newController(t *testing.T) *controller {
	c := &controller{t: t, cache: cachev3.NewSnapshotCache(true, cachev3.IDHash{}, nil)}
	c.start("127.0.0.1:0")
	return c
}

func (c *controller) start(address string) {
	c.t.Helper()
	listener, err := net.Listen("tcp", address)
	if err != nil {
		c.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	server := grpc.NewServer()
	discovery.RegisterAggregatedDiscoveryServiceServer(server, serverv3.NewServer(ctx, c.cache, nil))
	served := make(chan struct{})
	go func() { defer close(served); _ = server.Serve(listener) }()
	c.server, c.address = server, listener.Addr().String()
	c.t.Cleanup(func() { cancel(); server.Stop(); <-served })
}

// world is what a controller has.
type testWorld struct {
	clusters []string
	// leadsTo has the cluster of each virtual host.
	leadsTo map[string]string
	// pairs are server names with their certificates.
	pairs map[string]pair
	// also is a listener without TLS more.
	also string
}

type pair struct{ chain, key []byte }

func newPair(t *testing.T, name string) pair {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<40))
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: serial, Subject: pkix.Name{CommonName: name}, DNSNames: []string{name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return pair{pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})}
}

func packed(t *testing.T, m proto.Message) *anypb.Any {
	t.Helper()
	a, err := anypb.New(m)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// set makes a world the controller's state, under a version that no other had.
func (c *controller) set(w testWorld) {
	t := c.t
	t.Helper()
	c.version++
	manager := func(routes string) []*listenerv3.Filter {
		return []*listenerv3.Filter{{Name: "envoy.filters.network.http_connection_manager", ConfigType: &listenerv3.Filter_TypedConfig{TypedConfig: packed(t, &hcmv3.HttpConnectionManager{
			StatPrefix: "test", RouteSpecifier: &hcmv3.HttpConnectionManager_Rds{Rds: &hcmv3.Rds{RouteConfigName: routes,
				ConfigSource: &corev3.ConfigSource{ConfigSourceSpecifier: &corev3.ConfigSource_Ads{Ads: &corev3.AggregatedConfigSource{}}, ResourceApiVersion: corev3.ApiVersion_V3}}}})}}}
	}
	at := func(port uint32) *corev3.Address {
		return &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{Address: "127.0.0.1", PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: port}}}}
	}
	var clusters, listeners []types.Resource
	for _, name := range w.clusters {
		clusters = append(clusters, &clusterv3.Cluster{Name: name})
	}
	routes := &routev3.RouteConfiguration{Name: "routes"}
	for host, cluster := range w.leadsTo {
		routes.VirtualHosts = append(routes.VirtualHosts, &routev3.VirtualHost{Name: host, Domains: []string{host}, Routes: []*routev3.Route{{
			Match:  &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Prefix{Prefix: "/"}},
			Action: &routev3.Route_Route{Route: &routev3.RouteAction{ClusterSpecifier: &routev3.RouteAction_Cluster{Cluster: cluster}}}}}})
	}
	listeners = append(listeners, &listenerv3.Listener{Name: "plain", Address: at(8080), FilterChains: []*listenerv3.FilterChain{{Filters: manager("routes")}}})
	if w.also != "" {
		listeners = append(listeners, &listenerv3.Listener{Name: w.also, Address: at(8081), FilterChains: []*listenerv3.FilterChain{{Filters: manager("routes")}}})
	}
	if len(w.pairs) > 0 {
		secure := &listenerv3.Listener{Name: "secure", Address: at(8443)}
		for name, p := range w.pairs {
			secure.FilterChains = append(secure.FilterChains, &listenerv3.FilterChain{FilterChainMatch: &listenerv3.FilterChainMatch{ServerNames: []string{name}}, Filters: manager("routes"),
				TransportSocket: &corev3.TransportSocket{Name: "envoy.transport_sockets.tls", ConfigType: &corev3.TransportSocket_TypedConfig{TypedConfig: packed(t, &tlsv3.DownstreamTlsContext{CommonTlsContext: &tlsv3.CommonTlsContext{
					TlsCertificates: []*tlsv3.TlsCertificate{{CertificateChain: inline(p.chain), PrivateKey: inline(p.key)}}}})}}})
		}
		listeners = append(listeners, secure)
	}
	snapshot, err := cachev3.NewSnapshot(fmt.Sprint("snapshot ", c.version), map[resource.Type][]types.Resource{
		resource.ClusterType: clusters, resource.RouteType: {routes}, resource.ListenerType: listeners})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.cache.SetSnapshot(t.Context(), nodeID, snapshot); err != nil {
		t.Fatal(err)
	}
}

func inline(b []byte) *corev3.DataSource {
	return &corev3.DataSource{Specifier: &corev3.DataSource_InlineBytes{InlineBytes: b}}
}

// eager are limits that hold nothing.
var eager = pace.Limits{Period: time.Millisecond, Updates: 1000}

// run starts a relay and says its address, and that of its local server.
func run(t *testing.T, c *controller, limits pace.Limits, log *zap.Logger) (gateways, local string) {
	t.Helper()
	o := Defaults()
	o.Upstream, o.Listen, o.Local, o.Pace, o.Log, o.Version = c.address, "127.0.0.1:0", "127.0.0.1:0", limits, log, "test"
	return runWith(t, o)
}

// runWith is run with all options.
func runWith(t *testing.T, o Options) (gateways, local string) {
	t.Helper()
	r, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	type addresses struct{ gateways, local string }
	listening, ended := make(chan addresses, 1), make(chan error, 1)
	go func() { ended <- r.Run(ctx, func(g, l net.Addr) { listening <- addresses{g.String(), l.String()} }) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	select {
	case a := <-listening:
		return a.gateways, a.local
	case err := <-ended:
		t.Fatal(err)
	}
	return "", ""
}

// envoy is a gateway that the test plays: it answers only what it is told to.
type envoy struct {
	t      *testing.T
	stream discovery.AggregatedDiscoveryService_StreamAggregatedResourcesClient
	first  bool
}

func newEnvoy(t *testing.T, address string) *envoy {
	t.Helper()
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(func() { cancel(); conn.Close() })
	stream, err := discovery.NewAggregatedDiscoveryServiceClient(conn).StreamAggregatedResources(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return &envoy{t: t, stream: stream, first: true}
}

// ask subscribes to a type.
func (e *envoy) ask(typeURL string, names ...string) {
	e.t.Helper()
	request := &discovery.DiscoveryRequest{TypeUrl: typeURL, ResourceNames: names}
	if e.first {
		request.Node, e.first = &corev3.Node{Id: nodeID, Cluster: "kourier-knative"}, false
	}
	if err := e.stream.Send(request); err != nil {
		e.t.Fatal(err)
	}
}

// next waits for an answer, which must be of a type.
func (e *envoy) next(typeURL string) *discovery.DiscoveryResponse {
	e.t.Helper()
	answer, err := e.stream.Recv()
	if err != nil {
		e.t.Fatal(err)
	}
	if answer.GetTypeUrl() != typeURL {
		e.t.Fatalf("got %s, and not %s", shortNames[answer.GetTypeUrl()], shortNames[typeURL])
	}
	return answer
}

func (e *envoy) accept(answer *discovery.DiscoveryResponse, names ...string) {
	e.t.Helper()
	if err := e.stream.Send(&discovery.DiscoveryRequest{TypeUrl: answer.GetTypeUrl(), VersionInfo: answer.GetVersionInfo(), ResponseNonce: answer.GetNonce(), ResourceNames: names}); err != nil {
		e.t.Fatal(err)
	}
}

func (e *envoy) reject(answer *discovery.DiscoveryResponse, why string, names ...string) {
	e.t.Helper()
	if err := e.stream.Send(&discovery.DiscoveryRequest{TypeUrl: answer.GetTypeUrl(), ResponseNonce: answer.GetNonce(), ResourceNames: names,
		ErrorDetail: &status.Status{Code: 13, Message: why}}); err != nil {
		e.t.Fatal(err)
	}
}

// names are those of the resources in an answer.
func names(t *testing.T, answer *discovery.DiscoveryResponse) []string {
	t.Helper()
	var list []string
	for _, a := range answer.GetResources() {
		m, err := a.UnmarshalNew()
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, cachev3.GetResourceName(m))
	}
	slices.Sort(list)
	return list
}

func wantNames(t *testing.T, answer *discovery.DiscoveryResponse, want ...string) {
	t.Helper()
	if got := names(t, answer); !slices.Equal(got, want) {
		t.Errorf("%s: %v, want %v", shortNames[answer.GetTypeUrl()], got, want)
	}
}

// begin plays an Envoy that starts: clusters, then listeners, then their routes.
func (e *envoy) begin() {
	e.t.Helper()
	e.ask(resource.ClusterType)
	e.accept(e.next(resource.ClusterType))
	e.ask(resource.ListenerType)
	e.accept(e.next(resource.ListenerType))
	e.ask(resource.RouteType, "routes")
	e.accept(e.next(resource.RouteType), "routes")
}

var simple = testWorld{clusters: []string{"a"}, leadsTo: map[string]string{"x": "a"}}

func TestNothingIsSentBeforeTheStateIsComplete(t *testing.T) {
	c := newController(t)
	gateways, local := run(t, c, eager, zaptest.NewLogger(t))
	e := newEnvoy(t, gateways)
	e.ask(resource.ClusterType)
	e.ask(resource.ListenerType)
	// The relay has seen the gateway, and has nothing for it.
	eventually(t, "the gateway to be counted", func() bool { return strings.Contains(get(t, local, "/metrics"), "certherd_relay_gateways 1") })
	if code := statusOf(t, local, "/readyz"); code != http.StatusServiceUnavailable {
		t.Errorf("/readyz answers %d", code)
	}
	if !strings.Contains(get(t, local, "/metrics"), `certherd_relay_pushes_total{type="clusters"} 0`) {
		t.Error("something was sent")
	}
	c.set(simple)
	clusters := e.next(resource.ClusterType)
	wantNames(t, clusters, "a")
	e.accept(clusters)
	wantNames(t, e.next(resource.ListenerType), "plain")
	if code := statusOf(t, local, "/readyz"); code != http.StatusOK {
		t.Errorf("/readyz answers %d", code)
	}
}

func TestTheSameContentIsNotSentAgain(t *testing.T) {
	c := newController(t)
	w := testWorld{clusters: []string{"a", "b"}, leadsTo: map[string]string{"x": "a", "y": "b", "z": "a"}, pairs: map[string]pair{"x": newPair(t, "x"), "y": newPair(t, "y")}}
	c.set(w)
	gateways, local := run(t, c, eager, zaptest.NewLogger(t))
	e := newEnvoy(t, gateways)
	e.begin()
	for range 5 {
		// Chains, hosts and clusters come out of maps: in another order each time.
		snapshot, err := c.cache.GetSnapshot(nodeID)
		if err != nil {
			t.Fatal(err)
		}
		again := *snapshot.(*cachev3.Snapshot)
		c.version++
		for i := range again.Resources {
			if len(again.Resources[i].Items) > 0 {
				again.Resources[i].Version = fmt.Sprint("again ", c.version)
			}
		}
		if err := c.cache.SetSnapshot(t.Context(), nodeID, &again); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "the relay to get it again", func() bool {
		return strings.Contains(get(t, local, "/metrics"), `certherd_relay_coalesced_total{reason="unchanged",type="listeners"}`) &&
			!strings.Contains(get(t, local, "/metrics"), `certherd_relay_coalesced_total{reason="unchanged",type="listeners"} 0`)
	})
	w.clusters = []string{"a", "b", "c"}
	c.set(w)
	// What comes next is what changed, and nothing of what came before.
	wantNames(t, e.next(resource.ClusterType), "a", "b", "c")
}

func TestRoutesWaitForTheirClusters(t *testing.T) {
	c := newController(t)
	c.set(simple)
	gateways, local := run(t, c, eager, zaptest.NewLogger(t))
	e := newEnvoy(t, gateways)
	e.begin()
	c.set(testWorld{clusters: []string{"b"}, leadsTo: map[string]string{"x": "b"}})
	clusters := e.next(resource.ClusterType)
	wantNames(t, clusters, "a", "b")
	eventually(t, "the routes to be there", func() bool {
		return strings.Contains(get(t, local, "/metrics"), `certherd_relay_received_total{type="routes"} 2`)
	})
	if !strings.Contains(get(t, local, "/metrics"), `certherd_relay_pushes_total{type="routes"} 1`) {
		t.Error("routes were sent before the gateway accepted the clusters")
	}
	e.accept(clusters)
	routes := e.next(resource.RouteType)
	e.accept(routes, "routes")
	// And what they no longer lead to goes last.
	wantNames(t, e.next(resource.ClusterType), "b")
}

func TestWhatAHeldListenerUsesStays(t *testing.T) {
	c := newController(t)
	first := simple
	first.also = "second"
	c.set(first)
	// The first listeners use up the budget, and the window is longer than the test.
	gateways, local := run(t, c, pace.Limits{Period: time.Hour, Updates: 1}, zaptest.NewLogger(t))
	e := newEnvoy(t, gateways)
	e.begin()
	c.set(testWorld{clusters: []string{"b"}, leadsTo: map[string]string{"x": "b"}})
	clusters := e.next(resource.ClusterType)
	wantNames(t, clusters, "a", "b")
	e.accept(clusters)
	routes := e.next(resource.RouteType)
	e.accept(routes, "routes")
	// Clusters pass, and those that the held listener may use are among them.
	c.set(testWorld{clusters: []string{"b", "c"}, leadsTo: map[string]string{"x": "b"}})
	wantNames(t, e.next(resource.ClusterType), "a", "b", "c")
	if !strings.Contains(get(t, local, "/metrics"), `certherd_relay_pushes_total{type="listeners"} 1`) {
		t.Error("listeners were sent beyond the budget")
	}
}

func TestRejection(t *testing.T) {
	c := newController(t)
	p := newPair(t, "x")
	c.set(testWorld{clusters: []string{"a"}, leadsTo: map[string]string{"x": "a"}, pairs: map[string]pair{"x": p}})
	var logged writer
	log := zap.New(zapcore.NewCore(zapcore.NewJSONEncoder(zap.NewProductionEncoderConfig()), zapcore.AddSync(&logged), zap.DebugLevel))
	gateways, local := run(t, c, eager, log)
	e := newEnvoy(t, gateways)
	e.ask(resource.ClusterType)
	e.accept(e.next(resource.ClusterType))
	e.ask(resource.ListenerType)
	good := e.next(resource.ListenerType)
	e.accept(good)
	wantNames(t, good, "plain", "secure")

	c.set(testWorld{clusters: []string{"a"}, leadsTo: map[string]string{"x": "a"}, pairs: map[string]pair{"x": p}, also: "broken"})
	for range rejectionsBeforeFallback - 1 {
		bad := e.next(resource.ListenerType)
		wantNames(t, bad, "broken", "plain", "secure")
		e.reject(bad, `Error adding/updating listener(s) broken: no; inline_bytes: "`+string(p.key)+`"`)
		back := e.next(resource.ListenerType)
		wantNames(t, back, "plain", "secure")
		if back.GetVersionInfo() != good.GetVersionInfo() {
			t.Errorf("what was accepted has come back as %s, and was %s", back.GetVersionInfo(), good.GetVersionInfo())
		}
		e.accept(back)
	}
	bad := e.next(resource.ListenerType)
	e.reject(bad, "Error adding/updating listener(s) broken: no")
	// The controller's own form has the certificates in the listeners.
	raw := e.next(resource.ListenerType)
	if !strings.Contains(raw.String(), "BEGIN CERTIFICATE") {
		t.Errorf("after its third rejection, the gateway does not get what the controller sends, but %v", raw)
	}
	metrics := get(t, local, "/metrics")
	for _, want := range []string{fmt.Sprintf(`certherd_relay_rejections_total{resource="broken",type="listeners"} %d`, rejectionsBeforeFallback), "certherd_relay_fallbacks_total 1", "certherd_relay_gateway_fallback{"} {
		if !strings.Contains(metrics, want) {
			t.Errorf("metrics lack %s", want)
		}
	}
	if text := logged.String(); !strings.Contains(text, "Error adding/updating listener(s) broken: no") {
		t.Errorf("the log lacks Envoy's words: %s", text)
	}
	noKeys(t, p, logged.String(), metrics, get(t, local, "/dump"))
}

// TestEventsTellWhatIsWrong: what Events are made of names the gateway, the
// resource and Envoy's words, and no key.
func TestEventsTellWhatIsWrong(t *testing.T) {
	c := newController(t)
	p, broken := newPair(t, "x"), newPair(t, "y")
	broken.key = newPair(t, "z").key
	c.set(testWorld{clusters: []string{"a"}, leadsTo: map[string]string{"x": "a", "y": "a"}, pairs: map[string]pair{"x": p, "y": broken}})
	told := make(chan string, 100)
	o := Defaults()
	o.Upstream, o.Listen, o.Local, o.Pace, o.Log = c.address, "127.0.0.1:0", "127.0.0.1:0", eager, zaptest.NewLogger(t)
	o.Tell = func(reason, message string) { told <- reason + ": " + message }
	gateways, local := runWith(t, o)
	want := func(parts ...string) {
		t.Helper()
		text := <-told
		for _, part := range parts {
			if !strings.Contains(text, part) {
				t.Errorf("%q lacks %q", text, part)
			}
		}
		if len(text) > 1024 {
			t.Errorf("%d bytes were told: an Event has 1024", len(text))
		}
		noKeys(t, p, text)
		noKeys(t, broken, text)
	}
	want("Settled: ", "its key does not belong to its certificate")
	e := newEnvoy(t, gateways)
	e.ask(resource.ListenerType)
	e.reject(e.next(resource.ListenerType), `Error adding/updating listener(s) secure: no, because `+strings.Repeat("of this ", 300)+` inline_bytes: "`+string(p.key)+`"`)
	want("Rejected: ", "127.0.0.1:", "listeners", "Resource: secure", "no, because of this")
	want("FellBack: ", "10 minutes")

	// Another's node id: what the relay has is not for it.
	other := newEnvoy(t, gateways)
	if err := other.stream.Send(&discovery.DiscoveryRequest{TypeUrl: resource.ClusterType, Node: &corev3.Node{Id: "another"}}); err != nil {
		t.Fatal(err)
	}
	if answer, err := other.stream.Recv(); err == nil || !strings.Contains(err.Error(), "another") {
		t.Errorf("a gateway of another node id got %v, %v", answer, err)
	}
	want("Refused: ", `"another"`, nodeID)
	if metrics := get(t, local, "/metrics"); !strings.Contains(metrics, "certherd_relay_gateways_refused_total 1") {
		t.Error("no metric says that a gateway was refused")
	}
}

// noKeys fails if any text holds a key.
func noKeys(t *testing.T, p pair, texts ...string) {
	t.Helper()
	block, _ := pem.Decode(p.key)
	for _, text := range texts {
		if strings.Contains(text, "PRIVATE KEY") {
			t.Error("a key is named in a text")
		}
		body := strings.Split(strings.TrimSpace(string(p.key)), "\n")[1]
		if strings.Contains(text, body[:40]) || strings.Contains(text, string(block.Bytes)) {
			t.Error("a key is in a text")
		}
	}
}

func TestARestoredGatewayIsNotFloodedByRejections(t *testing.T) {
	c := newController(t)
	c.set(simple)
	gateways, local := run(t, c, eager, zaptest.NewLogger(t))
	e := newEnvoy(t, gateways)
	e.ask(resource.ClusterType)
	// It has accepted nothing: there is nothing to go back to, and it gets the
	// controller's form, once.
	e.reject(e.next(resource.ClusterType), "no")
	eventually(t, "the fallback", func() bool { return strings.Contains(get(t, local, "/metrics"), "certherd_relay_fallbacks_total 1") })
	if n := pushes(t, local, "clusters"); n > 2 {
		t.Errorf("%d pushes", n)
	}
}

func TestASlowGatewayDelaysNoOther(t *testing.T) {
	c := newController(t)
	c.set(simple)
	gateways, _ := run(t, c, eager, zaptest.NewLogger(t))
	slow, quick := newEnvoy(t, gateways), newEnvoy(t, gateways)
	slow.ask(resource.ClusterType) // and never reads
	quick.begin()
	want := []string{"a"}
	for i := range 200 {
		want = append(want, fmt.Sprintf("%03d-%s", i, strings.Repeat("long", 500)))
		slices.Sort(want)
		c.set(testWorld{clusters: want, leadsTo: map[string]string{"x": "a"}})
		for {
			answer := quick.next(resource.ClusterType)
			quick.accept(answer)
			if slices.Equal(names(t, answer), want) {
				break
			}
		}
	}
}

func TestWithoutTheControllerTheLastStateIsServed(t *testing.T) {
	c := newController(t)
	c.set(simple)
	gateways, _ := run(t, c, eager, zaptest.NewLogger(t))
	old := newEnvoy(t, gateways)
	old.begin()
	c.server.Stop()
	fresh := newEnvoy(t, gateways)
	fresh.begin()
	// And it is followed again when it comes back.
	c.set(testWorld{clusters: []string{"a", "b"}, leadsTo: map[string]string{"x": "a"}})
	c.start(c.address)
	wantNames(t, old.next(resource.ClusterType), "a", "b")
	wantNames(t, fresh.next(resource.ClusterType), "a", "b")
}

func TestReplicasSayTheSameVersion(t *testing.T) {
	c := newController(t)
	c.set(testWorld{clusters: []string{"a", "b"}, leadsTo: map[string]string{"x": "a", "y": "b"}, pairs: map[string]pair{"x": newPair(t, "x"), "y": newPair(t, "y")}})
	var versions [][]string
	for range 2 {
		gateways, _ := run(t, c, eager, zaptest.NewLogger(t))
		e := newEnvoy(t, gateways)
		e.ask(resource.ClusterType)
		clusters := e.next(resource.ClusterType)
		e.accept(clusters)
		e.ask(resource.ListenerType)
		listeners := e.next(resource.ListenerType)
		versions = append(versions, []string{clusters.GetVersionInfo(), listeners.GetVersionInfo()})
	}
	if !slices.Equal(versions[0], versions[1]) {
		t.Errorf("two relays say %v and %v of the same state", versions[0], versions[1])
	}
}

func TestARenewalIsOneSecret(t *testing.T) {
	c := newController(t)
	w := testWorld{clusters: []string{"a"}, leadsTo: map[string]string{"x": "a"}, pairs: map[string]pair{"x": newPair(t, "x"), "y": newPair(t, "y")}}
	c.set(w)
	gateways, local := run(t, c, eager, zaptest.NewLogger(t))
	e := newEnvoy(t, gateways)
	e.begin()
	var d dumped
	if err := json.Unmarshal([]byte(get(t, local, "/dump")), &d); err != nil {
		t.Fatal(err)
	}
	var wanted []string
	for _, raw := range d.Out.Resources["secrets"] {
		var m tlsv3.Secret
		if err := protojson.Unmarshal(raw, &m); err != nil {
			t.Fatal(err)
		}
		wanted = append(wanted, m.GetName())
	}
	slices.Sort(wanted)
	if len(wanted) != 2 {
		t.Fatalf("secrets %v, want two", wanted)
	}
	e.ask(resource.SecretType, wanted...)
	all := e.next(resource.SecretType)
	wantNames(t, all, wanted...)
	e.accept(all, wanted...)
	w.pairs["x"] = newPair(t, "x")
	c.set(w)
	renewed := e.next(resource.SecretType)
	if n := len(renewed.GetResources()); n != 1 {
		t.Errorf("%d secrets were sent for one renewal", n)
	}
	metrics := get(t, local, "/metrics")
	for _, want := range []string{`certherd_relay_inlined_certificates{side="in"} 2`, `certherd_relay_inlined_certificates{side="out"} 0`, `certherd_relay_certificates{side="out"} 2`} {
		if !strings.Contains(metrics, want) {
			t.Errorf("metrics lack %s", want)
		}
	}
	noKeys(t, w.pairs["x"], get(t, local, "/dump"), metrics)
}

// TestMutualTLS: a gateway without a certificate of the right CA gets nothing, and
// a controller is asked with the relay's own.
func TestMutualTLS(t *testing.T) {
	folder := t.TempDir()
	write := func(name string, p pair) (certificate, key string) {
		t.Helper()
		certificate, key = filepath.Join(folder, name+".crt"), filepath.Join(folder, name+".key")
		for file, content := range map[string][]byte{certificate: p.chain, key: p.key} {
			if err := os.WriteFile(file, content, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		return certificate, key
	}
	serverCert, serverKey := write("server", newPair(t, "localhost"))
	clientCert, clientKey := write("client", newPair(t, "client"))
	otherCert, otherKey := write("other", newPair(t, "other"))
	server, err := ServerTLS{Certificate: serverCert, Key: serverKey, ClientCA: clientCert}.credentials()
	if err != nil {
		t.Fatal(err)
	}
	ask := func(c ClientTLS) error {
		t.Helper()
		client, err := c.credentials()
		if err != nil {
			t.Fatal(err)
		}
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer listener.Close()
		near, err := net.Dial("tcp", listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		far, err := listener.Accept()
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range []net.Conn{near, far} {
			if err := c.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
				t.Fatal(err)
			}
		}
		served := make(chan error, 1)
		go func() {
			defer far.Close()
			conn, _, err := server.ServerHandshake(far)
			if err == nil {
				_, err = conn.Write([]byte("x"))
			}
			served <- err
		}()
		conn, _, err := client.ClientHandshake(t.Context(), "localhost", near)
		if err == nil {
			_, err = conn.Read(make([]byte, 1))
		}
		near.Close()
		return errors.Join(err, <-served)
	}
	if err := ask(ClientTLS{CA: serverCert, Certificate: clientCert, Key: clientKey}); err != nil {
		t.Errorf("the right client is refused: %v", err)
	}
	for name, c := range map[string]ClientTLS{
		"a client without a certificate":      {CA: serverCert},
		"a client with somebody else's":       {CA: serverCert, Certificate: otherCert, Key: otherKey},
		"a server that another CA has signed": {CA: otherCert, Certificate: clientCert, Key: clientKey},
	} {
		if ask(c) == nil {
			t.Errorf("%s is let through", name)
		}
	}
	for name, f := range map[string]func() error{
		"no key":  func() error { _, err := ServerTLS{Certificate: serverCert}.credentials(); return err },
		"no CA":   func() error { _, err := ClientTLS{Certificate: clientCert, Key: clientKey}.credentials(); return err },
		"no file": func() error { _, err := ClientTLS{CA: filepath.Join(folder, "none")}.credentials(); return err },
	} {
		if f() == nil {
			t.Errorf("%s: there is no error", name)
		}
	}
}

func TestDelta(t *testing.T) {
	c := newController(t)
	c.set(simple)
	gateways, _ := run(t, c, eager, zaptest.NewLogger(t))
	conn, err := grpc.NewClient(gateways, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(func() { cancel(); conn.Close() })
	stream, err := discovery.NewAggregatedDiscoveryServiceClient(conn).DeltaAggregatedResources(ctx)
	if err != nil {
		t.Fatal(err)
	}
	send := func(r *discovery.DeltaDiscoveryRequest) {
		t.Helper()
		if err := stream.Send(r); err != nil {
			t.Fatal(err)
		}
	}
	next := func(typeURL string) *discovery.DeltaDiscoveryResponse {
		t.Helper()
		answer, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if answer.GetTypeUrl() != typeURL {
			t.Fatalf("got %s, and not %s", answer.GetTypeUrl(), typeURL)
		}
		send(&discovery.DeltaDiscoveryRequest{TypeUrl: typeURL, ResponseNonce: answer.GetNonce()})
		return answer
	}
	send(&discovery.DeltaDiscoveryRequest{Node: &corev3.Node{Id: nodeID}, TypeUrl: resource.ClusterType})
	if first := next(resource.ClusterType); len(first.GetResources()) != 1 {
		t.Errorf("%v", first)
	}
	send(&discovery.DeltaDiscoveryRequest{TypeUrl: resource.ListenerType})
	next(resource.ListenerType)
	send(&discovery.DeltaDiscoveryRequest{TypeUrl: resource.RouteType, ResourceNamesSubscribe: []string{"routes"}})
	next(resource.RouteType)
	c.set(testWorld{clusters: []string{"b"}, leadsTo: map[string]string{"x": "b"}})
	if added := next(resource.ClusterType); len(added.GetResources()) != 1 || added.GetResources()[0].GetName() != "b" || len(added.GetRemovedResources()) != 0 {
		t.Errorf("%v, want cluster b alone", added)
	}
	next(resource.RouteType)
	if removed := next(resource.ClusterType); len(removed.GetResources()) != 0 || !slices.Equal(removed.GetRemovedResources(), []string{"a"}) {
		t.Errorf("%v, want the removal of cluster a", removed)
	}
	// Who asks for a secret that there is not must learn so, once.
	send(&discovery.DeltaDiscoveryRequest{TypeUrl: resource.SecretType, ResourceNamesSubscribe: []string{"none"}})
	if denied := next(resource.SecretType); !slices.Equal(denied.GetRemovedResources(), []string{"none"}) {
		t.Errorf("%v, want that there is no such secret", denied)
	}
	c.set(testWorld{clusters: []string{"b", "c"}, leadsTo: map[string]string{"x": "b"}})
	next(resource.ClusterType)
}

func TestMetricsAreWellFormed(t *testing.T) {
	c := newController(t)
	c.set(simple)
	gateways, local := run(t, c, eager, zaptest.NewLogger(t))
	newEnvoy(t, gateways).begin()
	problems, err := promlint.New(strings.NewReader(get(t, local, "/metrics"))).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
}

func TestWordsOfEnvoyKeepNoKeys(t *testing.T) {
	for given, want := range map[string]string{
		"listener x: no": "listener x: no",
		`Proto constraint validation failed: tls_certificates { private_key { inline_string: "-----BEGIN`: "Proto constraint validation failed: tls_certificates { (left out)",
		"x: -----BEGIN PRIVATE KEY-----\nabc": "x: (left out)",
	} {
		if got := cleanWords(given); got != want {
			t.Errorf("%q: %q, want %q", given, got, want)
		}
	}
}

// writer keeps a log.
type writer struct {
	mu sync.Mutex
	b  strings.Builder
}

func (w *writer) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.b.Write(p)
}

func (w *writer) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.b.String()
}

func fetch(t *testing.T, local, path string) (int, string) {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	answer, err := client.Get("http://" + local + path)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer.StatusCode, string(text)
}

func get(t *testing.T, local, path string) string {
	t.Helper()
	_, text := fetch(t, local, path)
	return text
}

func statusOf(t *testing.T, local, path string) int {
	t.Helper()
	code, _ := fetch(t, local, path)
	return code
}

func pushes(t *testing.T, local, name string) (n int) {
	t.Helper()
	for line := range strings.Lines(get(t, local, "/metrics")) {
		if rest, ok := strings.CutPrefix(line, `certherd_relay_pushes_total{type="`+name+`"} `); ok {
			if _, err := fmt.Sscan(rest, &n); err != nil {
				t.Fatal(err)
			}
		}
	}
	return n
}

func eventually(t *testing.T, what string, done func() bool) {
	t.Helper()
	for begun := time.Now(); !done(); time.Sleep(10 * time.Millisecond) {
		if time.Since(begun) > 30*time.Second {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}
