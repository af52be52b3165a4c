package shape_test

import (
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"encoding/pem"
	"fmt"
	"maps"
	mathrand "math/rand/v2"
	"slices"
	"strings"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/wrapperspb"
	kourierconfig "knative.dev/net-kourier/pkg/reconciler/ingress/config"

	"github.com/certherd/certherd/relay/shape"
)

var all = shape.Options{SDS: true, Merge: true}

// render is the whole of a state in bytes.
func render(t testing.TB, s shape.State) []byte {
	t.Helper()
	var out bytes.Buffer
	for _, typ := range s.Types() {
		for _, r := range s.Resources(typ) {
			b, err := proto.MarshalOptions{Deterministic: true}.Marshal(r)
			if err != nil {
				t.Fatal(err)
			}
			fmt.Fprintf(&out, "%s %s %x\n", typ, shape.Name(r), b)
		}
	}
	return out.Bytes()
}

func anys(s shape.State, typ string) (out []*anypb.Any) {
	for _, r := range s.Resources(typ) {
		out = append(out, must(anypb.New(r)))
	}
	return out
}

func find(t testing.TB, s shape.State, name string) *listenerv3.Listener {
	t.Helper()
	for _, l := range s.Listeners {
		if l.GetName() == name {
			return l
		}
	}
	t.Fatalf("there is no listener %s", name)
	return nil
}

func names(l *listenerv3.Listener) (out []string) {
	for _, fc := range l.GetFilterChains() {
		out = append(out, strings.Join(fc.GetFilterChainMatch().GetServerNames(), " "))
	}
	return out
}

// compare checks that a shaped state answers as the original one does, for server
// names and hosts of a world, apart from what docs/relay.md lists.
func compare(t testing.TB, in, out shape.State, snis []string) {
	t.Helper()
	in, _ = shape.Shape(in, nil, shape.Options{}) // the model compares filters by their bytes; order is not its business
	for _, before := range in.Listeners {
		after := find(t, out, before.GetName())
		for _, sni := range snis {
			for _, alpn := range []string{"h2", "http/1.1", ""} {
				for _, port := range []uint32{443, 8443} {
					c := connection{port: port, sni: sni, transport: "tls", alpn: alpn}
					want, got := matches(before, c), matches(after, c)
					if len(got) == 1 && answer(out, got[0], sni) == refused {
						got = nil // the handshake fails, as it does without a filter chain
					}
					if len(got) > 1 {
						t.Fatalf("%s: %+v is in %d filter chains", before.GetName(), c, len(got))
					}
					if len(want) == 0 {
						if len(got) == 0 {
							continue
						}
						// Listed: a name under a wildcard of the certificate is answered.
						if !slices.ContainsFunc(got[0].GetFilterChainMatch().GetServerNames(), func(n string) bool {
							return strings.HasPrefix(n, "*.") && strings.HasSuffix(sni, n[1:])
						}) {
							t.Fatalf("%s: %+v was refused and is answered: %s", before.GetName(), c, answer(out, got[0], sni))
						}
						continue
					}
					if len(got) == 0 {
						t.Fatalf("%s: %+v was answered and is refused", before.GetName(), c)
					}
					if !slices.ContainsFunc(want, func(fc *listenerv3.FilterChain) bool { return answer(in, fc, sni) == answer(out, got[0], sni) }) {
						t.Fatalf("%s: %+v got\n%s, now\n%s", before.GetName(), c, answer(in, want[0], sni), answer(out, got[0], sni))
					}
				}
			}
		}
	}
	for i, before := range in.Routes {
		after := out.Routes[i]
		if before.GetName() != after.GetName() {
			t.Fatalf("route configuration %s became %s", before.GetName(), after.GetName())
		}
		for _, host := range append(slices.Clone(snis), "a.ns1", "a.ns1:80", "nowhere") {
			for _, path := range []string{"/", "/x"} {
				for _, headers := range []map[string]string{nil, {"K-Network-Hash": "override"}, {"K-Network-Hash": "override", "X-Tag": "blue"}} {
					if want, got := route(before, host, path, headers), route(after, host, path, headers); want != got {
						t.Fatalf("%s: %s%s %v went to\n%s, now to\n%s", before.GetName(), host, path, headers, want, got)
					}
				}
			}
		}
	}
	if len(in.Routes) != len(out.Routes) || len(in.Listeners) != len(out.Listeners) || len(in.Clusters) != len(out.Clusters) {
		t.Fatal("there are not as many listeners, routes and clusters as before")
	}
}

// whole checks that everything a listener asks for is there, and only that.
func whole(t testing.TB, s shape.State) {
	t.Helper()
	asked := map[string]bool{}
	for _, l := range s.Listeners {
		for _, fc := range l.GetFilterChains() {
			m := new(tlsv3.DownstreamTlsContext)
			if a := fc.GetTransportSocket().GetTypedConfig(); a != nil {
				if err := a.UnmarshalTo(m); err != nil {
					t.Fatal(err)
				}
			}
			for _, ref := range m.GetCommonTlsContext().GetTlsCertificateSdsSecretConfigs() {
				asked[ref.GetName()] = true
			}
			if len(m.GetCommonTlsContext().GetTlsCertificates()) > 0 {
				t.Errorf("%s: a certificate is inlined", l.GetName())
			}
		}
	}
	for _, m := range s.Secrets {
		if !asked[m.GetName()] {
			t.Errorf("nobody asks for %s", m.GetName())
		}
		delete(asked, m.GetName())
		if _, err := tls.X509KeyPair(m.GetTlsCertificate().GetCertificateChain().GetInlineBytes(), m.GetTlsCertificate().GetPrivateKey().GetInlineBytes()); err != nil {
			t.Errorf("%s: %v", m.GetName(), err)
		}
	}
	for name := range asked {
		t.Errorf("%s is not there", name)
	}
}

// TestWorlds plays random events on net-kourier's generator and compares what
// Envoy would answer with the controller's state and with the shaped one.
func TestWorlds(t *testing.T) {
	for seed := range uint64(8) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			play(t, mathrand.New(mathrand.NewPCG(seed, 7)), 30)
		})
	}
}

func play(t *testing.T, r *mathrand.Rand, events int) {
	k := newKourier(t)
	ca, other := newAuthority("ca"), newAuthority("other")
	snis := []string{"", "unknown.example.org", "new.ns0.example.com", "new.ns1.example.com", "deep.a.ns0.example.com", "ns0.example.com", "ns1.example.com"}
	const services = 6
	for ns := range 2 {
		for svc := range services {
			snis = append(snis, fmt.Sprintf("%c.ns%d.example.com", 'a'+svc, ns))
		}
	}
	day := 0
	renew := func(ns int, secret string) {
		day++
		key := fmt.Sprintf("ns%d/%s", ns, secret)
		switch secret {
		case "wild":
			k.secrets[key] = ca.issue(day, fmt.Sprintf("*.ns%d.example.com", ns), fmt.Sprintf("ns%d.example.com", ns))
		case "copy": // issued again for the same names
			k.secrets[key] = ca.issue(day, fmt.Sprintf("*.ns%d.example.com", ns), fmt.Sprintf("ns%d.example.com", ns))
		case "wide": // of somebody else, for everything
			k.secrets[key] = other.issue(day, "*.ns0.example.com", "*.ns1.example.com")
		default:
			k.secrets[key] = ca.issue(day, fmt.Sprintf("%s.ns%d.example.com", secret, ns))
		}
	}
	address := 1
	put := func(ns int, svc, secret string) {
		if _, ok := k.secrets[fmt.Sprintf("ns%d/%s", ns, secret)]; !ok && secret != "" {
			renew(ns, secret)
		}
		address++
		k.put(t, fmt.Sprintf("ns%d", ns), svc, fmt.Sprintf("%s.ns%d.example.com", svc, ns), secret, fmt.Sprintf("10.1.%d.%d", address/250, address%250))
	}
	shaper := shape.New()
	var before *shape.State
	quiet := false // the last state had no name in two chains
	for range events {
		ns, svc := r.IntN(2), string(rune('a'+r.IntN(services)))
		at := fmt.Sprintf("ns%d/%s", ns, svc)
		what := []string{"put", "put", "scale", "scale", "renew", "remove", "again"}[r.IntN(7)]
		switch what {
		case "put":
			put(ns, svc, []string{svc, svc, "wild", "wild", "copy", "wide", ""}[r.IntN(7)])
		case "scale":
			ing := k.ingresses[at]
			if ing == nil {
				continue
			}
			secret := ""
			if len(ing.Spec.TLS) > 0 {
				secret = ing.Spec.TLS[0].SecretName
			}
			put(ns, svc, secret)
		case "renew":
			ing := k.ingresses[at]
			if ing == nil || len(ing.Spec.TLS) == 0 {
				continue
			}
			secret := ing.Spec.TLS[0].SecretName
			renew(ns, secret)
			for _, other := range k.ingresses {
				if other.Namespace == ing.Namespace && len(other.Spec.TLS) > 0 && other.Spec.TLS[0].SecretName == secret {
					k.reconcile(t, other.Namespace, other.Name)
				}
			}
		case "remove":
			if k.ingresses[at] == nil {
				continue
			}
			k.remove(t, fmt.Sprintf("ns%d", ns), svc)
		}

		in := k.state(t)
		var same shape.State
		for _, typ := range in.Types() {
			if _, err := shaper.Set(&same, typ, anys(in, typ)); err != nil {
				t.Fatal(err)
			}
		}
		if !bytes.Equal(render(t, in), render(t, same)) {
			t.Fatal("what was read before changed what is read")
		}
		out, problems := shaper.Shape(same, before, all)
		for _, typ := range out.Types() {
			if fresh := (shape.State{Listeners: out.Listeners, Routes: out.Routes, Clusters: out.Clusters, Secrets: out.Secrets}); fresh.Version(typ) != out.Version(typ) {
				t.Fatalf("the version of %s depends on what was known", typ)
			}
		}
		compare(t, in, out, snis)
		whole(t, out)
		if alone, p := shape.Shape(k.state(t), before, all); !bytes.Equal(render(t, alone), render(t, out)) || !slices.Equal(p, problems) {
			t.Fatal("the same content gave other bytes")
		}
		if again, p := shape.Shape(out, nil, all); !bytes.Equal(render(t, again), render(t, out)) || len(p) > 0 {
			t.Fatal("what is in shape changes when it is shaped")
		}
		if plain, _ := shape.Shape(in, nil, shape.Options{}); len(plain.Secrets) > 0 {
			t.Fatal("secrets are made that nobody wants")
		} else {
			compare(t, in, plain, snis)
		}
		demand, _ := shape.Shape(in, nil, shape.Options{SDS: true, Merge: true, OnDemand: &shape.OnDemand{}})
		compare(t, in, demand, snis)
		if before != nil && quiet && len(problems) == 0 {
			switch what {
			case "scale", "again":
				if before.Version(shape.ListenerType) != out.Version(shape.ListenerType) || before.Version(shape.SecretType) != out.Version(shape.SecretType) {
					t.Fatalf("%s changed listeners or secrets", what)
				}
			case "renew":
				if before.Version(shape.ListenerType) != out.Version(shape.ListenerType) {
					t.Fatalf("a renewal changed listeners: %v to %v", names(find(t, *before, "listener_8443")), names(find(t, out, "listener_8443")))
				}
				changed := 0
				for name, d := range out.Digests(shape.SecretType) {
					if before.Digests(shape.SecretType)[name] != d {
						changed++
					}
				}
				if changed > 1 {
					t.Fatalf("a renewal changed %d secrets", changed)
				}
			}
		}
		quiet = len(problems) == 0
		before = &out
	}
}

// TestWildcard: services on one certificate come and go without a change of a
// listener.
func TestWildcard(t *testing.T) {
	k := newKourier(t)
	ca := newAuthority("ca")
	k.secrets["ns/wild"] = ca.issue(0, "*.ns.example.com", "ns.example.com")
	k.secrets["ns/own"] = ca.issue(0, "own.ns.example.com")
	k.put(t, "ns", "a", "a.ns.example.com", "wild", "10.0.0.2")
	k.put(t, "ns", "own", "own.ns.example.com", "own", "10.0.0.2")
	one, _ := shape.Shape(k.state(t), nil, all)
	for _, l := range []string{"listener_8443", "listener_9443"} {
		if got := names(find(t, one, l)); !slices.Equal(got, []string{"*.ns.example.com", "own.ns.example.com"}) {
			t.Errorf("%s matches %q", l, got)
		}
	}
	for i := range 20 {
		k.put(t, "ns", fmt.Sprint("b", i), fmt.Sprintf("b%d.ns.example.com", i), "wild", "10.0.0.3")
	}
	k.remove(t, "ns", "a")
	two, _ := shape.Shape(k.state(t), &one, all)
	if one.Version(shape.ListenerType) != two.Version(shape.ListenerType) {
		t.Error("services under a wildcard changed a listener")
	}
	if one.Version(shape.RouteType) == two.Version(shape.RouteType) || one.Version(shape.ClusterType) == two.Version(shape.ClusterType) {
		t.Error("services came without a change of routes and clusters")
	}
	k.secrets["ns/new"] = ca.issue(0, "new.ns.example.com")
	k.put(t, "ns", "new", "new.ns.example.com", "new", "10.0.0.2")
	if three, _ := shape.Shape(k.state(t), &two, all); two.Version(shape.ListenerType) == three.Version(shape.ListenerType) || two.Version(shape.SecretType) == three.Version(shape.SecretType) {
		t.Error("a certificate came without a change of listeners and secrets")
	}
	k.remove(t, "ns", "new")
	if got := shape.Count(two); got.Chains != 3+2*2 || got.Certificates != 2 || got.Secrets != 2 || got.Inlined != 0 || got.Asked != 4 {
		t.Errorf("counted %+v", got)
	}
	if got := shape.Count(k.state(t)); got.Inlined != 4 || got.Certificates != 2 || got.Secrets != 0 {
		t.Errorf("counted %+v at the source", got)
	}
}

// TestDefaultCertificate: a name under a wildcard is left to the default
// certificate where there is one.
func TestDefaultCertificate(t *testing.T) {
	k := newKourier(t)
	k.secrets["ns/wild"] = newAuthority("ca").issue(0, "*.ns.example.com")
	k.put(t, "ns", "a", "a.ns.example.com", "wild", "10.0.0.2")
	in := k.state(t)
	l := find(t, in, "listener_8443")
	rest := proto.Clone(l.GetFilterChains()[0]).(*listenerv3.FilterChain)
	rest.FilterChainMatch = nil
	rest.TransportSocket = inlineSocket(newAuthority("ca").issue(0, "default.example.com"))
	l.FilterChains = append(l.FilterChains, rest)
	out, _ := shape.Shape(in, nil, all)
	compare(t, in, out, []string{"", "a.ns.example.com", "b.ns.example.com"})
	if got := names(find(t, out, "listener_8443")); !slices.Equal(got, []string{"", "a.ns.example.com"}) {
		t.Errorf("listener_8443 matches %q", got)
	}
}

func inlineSocket(pairs ...pair) *corev3.TransportSocket {
	c := &tlsv3.DownstreamTlsContext{CommonTlsContext: &tlsv3.CommonTlsContext{AlpnProtocols: []string{"h2", "http/1.1"}}}
	for _, p := range pairs {
		c.CommonTlsContext.TlsCertificates = append(c.CommonTlsContext.TlsCertificates, &tlsv3.TlsCertificate{
			CertificateChain: &corev3.DataSource{Specifier: &corev3.DataSource_InlineBytes{InlineBytes: p.chain}},
			PrivateKey:       &corev3.DataSource{Specifier: &corev3.DataSource_InlineBytes{InlineBytes: p.key}},
		})
	}
	return &corev3.TransportSocket{Name: "envoy.transport_sockets.tls", ConfigType: &corev3.TransportSocket_TypedConfig{TypedConfig: must(anypb.New(c))}}
}

// ticketSocket is inlineSocket with session ticket keys.
func ticketSocket(p pair) *corev3.TransportSocket {
	socket := inlineSocket(p)
	m := new(tlsv3.DownstreamTlsContext)
	if err := socket.GetTypedConfig().UnmarshalTo(m); err != nil {
		panic(err)
	}
	m.SessionTicketKeysType = &tlsv3.DownstreamTlsContext_SessionTicketKeys{SessionTicketKeys: &tlsv3.TlsSessionTicketKeys{}}
	socket.ConfigType = &corev3.TransportSocket_TypedConfig{TypedConfig: must(anypb.New(m))}
	return socket
}

// TestMatchesBeyondNames: chains that differ in what else they match are kept
// apart, and keep the names that they have.
func TestMatchesBeyondNames(t *testing.T) {
	ca := newAuthority("ca")
	wild := ca.issue(0, "*.example.com")
	certs := []pair{wild, ca.issue(1, "*.example.com"), ca.issue(0, "a.example.com"), ca.issue(0, "*.b.example.com", "*.example.com")}
	servers := []string{"a.example.com", "b.example.com", "c.b.example.com", "*.example.com", "*.b.example.com", "*.com"}
	snis := append([]string{"", "x.example.com", "x.b.example.com", "x.c.b.example.com", "x.com"}, servers[:3]...)
	for seed := range uint64(200) {
		r := mathrand.New(mathrand.NewPCG(seed, 1))
		var in shape.State
		l := &listenerv3.Listener{Name: "l"}
		for i := range 1 + r.IntN(5) {
			m := &listenerv3.FilterChainMatch{}
			for range r.IntN(4) {
				m.ServerNames = append(m.ServerNames, servers[r.IntN(len(servers))])
			}
			if seed%2 == 1 {
				m.ApplicationProtocols = [][]string{nil, nil, {"h2"}, {"http/1.1"}}[r.IntN(4)]
				if r.IntN(4) == 0 {
					m.DestinationPort = wrapperspb.UInt32(443)
				}
				if r.IntN(4) == 0 {
					m.TransportProtocol = "tls"
				}
			}
			fc := &listenerv3.FilterChain{FilterChainMatch: m, TransportSocket: inlineSocket(certs[r.IntN(len(certs))])}
			if r.IntN(4) == 0 {
				fc.Filters = []*listenerv3.Filter{{Name: fmt.Sprint("f", i%2)}}
			}
			l.FilterChains = append(l.FilterChains, fc)
		}
		if r.IntN(4) == 0 {
			l.DefaultFilterChain = &listenerv3.FilterChain{TransportSocket: inlineSocket(certs[r.IntN(len(certs))])}
		}
		in.Listeners = []*listenerv3.Listener{l}
		out, _ := shape.Shape(in, nil, all)
		compare(t, in, out, snis)
		shuffled := proto.Clone(l).(*listenerv3.Listener)
		r.Shuffle(len(shuffled.FilterChains), func(i, j int) {
			shuffled.FilterChains[i], shuffled.FilterChains[j] = shuffled.FilterChains[j], shuffled.FilterChains[i]
		})
		for _, o := range []shape.Options{{}, {SDS: true}, {Merge: true}, all} {
			a, _ := shape.Shape(in, nil, o)
			b, _ := shape.Shape(shape.State{Listeners: []*listenerv3.Listener{shuffled}}, nil, o)
			if !bytes.Equal(render(t, a), render(t, b)) {
				t.Fatalf("seed %d, %+v: another order gave other bytes:\n%v\n%v", seed, o, names(a.Listeners[0]), names(b.Listeners[0]))
			}
		}
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

// TestStaleHosts: a service that leaves a shared Secret leaves its host behind in
// the chain of those that stay, which makes Envoy refuse the listener.
func TestStaleHosts(t *testing.T) {
	k := newKourier(t)
	ca := newAuthority("ca")
	k.secrets["ns/wild"] = ca.issue(5, "*.ns.example.com")
	k.secrets["ns/b"] = ca.issue(0, "b.ns.example.com")
	for _, svc := range []string{"a", "b", "c"} {
		k.put(t, "ns", svc, svc+".ns.example.com", "wild", "10.0.0.2")
	}
	stale := connection{sni: "b.ns.example.com", transport: "tls"}
	for try := 0; ; try++ {
		if try == 200 {
			t.Fatal("net-kourier has no stale hosts any more: this test and the repair can go")
		}
		k.state(t) // who holds the shared chain is chance
		k.put(t, "ns", "b", "b.ns.example.com", "b", "10.0.0.2")
		in := k.state(t)
		if len(matches(find(t, in, "listener_8443"), stale)) < 2 {
			k.put(t, "ns", "b", "b.ns.example.com", "wild", "10.0.0.2")
			continue
		}
		out, problems := shape.Shape(in, nil, all)
		got := matches(find(t, out, "listener_8443"), stale)
		if len(got) != 1 || !slices.Equal(got[0].GetFilterChainMatch().GetServerNames(), []string{"b.ns.example.com"}) {
			t.Errorf("the stale host is answered by %v", got)
		}
		if len(problems) != 2 || problems[0].Resource != "listener_8443" || problems[1].Resource != "listener_9443" || !strings.Contains(problems[0].Why, "b.ns.example.com") {
			t.Errorf("problems: %+v", problems)
		}
		return
	}
}

// TestSettled: of two chains for one name, the fitting certificate wins, then the
// newer one, in whatever order they come.
func TestSettled(t *testing.T) {
	ca := newAuthority("ca")
	exact, wild, newer, none := ca.issue(0, "a.example.com"), ca.issue(5, "*.example.com"), ca.issue(6, "*.example.com", "x.example.com"), ca.issue(9, "b.example.com")
	for _, tc := range []struct{ winner, loser pair }{{exact, wild}, {wild, none}, {newer, wild}, {exact, none}} {
		for _, pairs := range [][]pair{{tc.winner, tc.loser}, {tc.loser, tc.winner}} {
			l := &listenerv3.Listener{Name: "l"}
			for i, p := range pairs {
				l.FilterChains = append(l.FilterChains, &listenerv3.FilterChain{
					FilterChainMatch: &listenerv3.FilterChainMatch{ServerNames: []string{"a.example.com", fmt.Sprintf("%d.example.org", i)}}, TransportSocket: inlineSocket(p)})
			}
			out, problems := shape.Shape(shape.State{Listeners: []*listenerv3.Listener{l}}, nil, shape.Options{SDS: true})
			got := matches(out.Listeners[0], connection{sni: "a.example.com"})
			want := &listenerv3.FilterChain{TransportSocket: inlineSocket(tc.winner)}
			if len(got) != 1 || answer(out, got[0], "") != answer(out, want, "") {
				t.Errorf("the name is answered by %v", got)
			}
			if len(out.Listeners[0].GetFilterChains()) != 2 || len(problems) != 1 {
				t.Errorf("%d chains are left, problems %+v", len(out.Listeners[0].GetFilterChains()), problems)
			}
		}
	}
}

// TestBrokenPair: a certificate that does not fit its key is not sent. What was
// there stays, and others are renewed.
func TestBrokenPair(t *testing.T) {
	ca := newAuthority("ca")
	good, better, broken := ca.issue(0, "a.example.com"), ca.issue(1, "a.example.com"), ca.issue(2, "a.example.com")
	other, renewed := ca.issue(0, "b.example.com"), ca.issue(1, "b.example.com")
	broken.key = []byte("-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n")
	state := func(a, b pair) shape.State {
		return shape.State{Listeners: []*listenerv3.Listener{{Name: "l", FilterChains: []*listenerv3.FilterChain{
			{FilterChainMatch: &listenerv3.FilterChainMatch{ServerNames: []string{"a.example.com"}}, TransportSocket: inlineSocket(a)},
			{FilterChainMatch: &listenerv3.FilterChainMatch{ServerNames: []string{"b.example.com"}}, TransportSocket: inlineSocket(b)},
		}}}}
	}
	undecodable := state(good, renewed)
	undecodable.Listeners[0].FilterChains[0].TransportSocket.GetTypedConfig().Value = []byte{0xff}
	for _, o := range []shape.Options{{}, {SDS: true}, {Merge: true}, all} {
		want, _ := shape.Shape(state(good, renewed), nil, o)
		before, problems := shape.Shape(state(good, other), nil, o)
		if len(problems) > 0 {
			t.Fatal(problems)
		}
		for what, in := range map[string]shape.State{"key": state(broken, renewed), "settings": undecodable} {
			out, problems := shape.Shape(in, &before, o)
			if !bytes.Equal(render(t, out), render(t, want)) {
				t.Errorf("%+v: broken %s: the last good certificate did not stay: %v", o, what, problems)
			}
			if len(problems) != 1 || !strings.Contains(problems[0].Why, "a.example.com") || strings.Contains(problems[0].Why, "c2Vj") {
				t.Errorf("problems: %+v", problems)
			}
			out, problems = shape.Shape(in, nil, o)
			if got := names(out.Listeners[0]); !slices.Equal(got, []string{"b.example.com"}) || len(problems) != 1 {
				t.Errorf("%+v: a broken chain that never was good: %q, %+v", o, got, problems)
			}
			// Twice in a row: what stays is an output as any other.
			kept, _ := shape.Shape(in, &before, o)
			kept, _ = shape.Shape(in, &kept, o)
			if !bytes.Equal(render(t, kept), render(t, want)) {
				t.Errorf("%+v: the good certificate did not outlive a second round", o)
			}
		}
		mended, problems := shape.Shape(state(better, renewed), &before, o)
		if fresh, _ := shape.Shape(state(better, renewed), nil, o); !bytes.Equal(render(t, mended), render(t, fresh)) || len(problems) > 0 {
			t.Error("a mended certificate is not sent")
		}
	}
}

// TestBrokenSharedChain: the names of a broken chain that had different
// certificates before each keep their own.
func TestBrokenSharedChain(t *testing.T) {
	ca := newAuthority("ca")
	a, b, broken := ca.issue(0, "a.example.com"), ca.issue(0, "b.example.com"), ca.issue(1, "*.example.com")
	broken.key = nil
	state := func(chains map[string]pair) (s shape.State) {
		l := &listenerv3.Listener{Name: "l"}
		for _, names := range slices.Sorted(maps.Keys(chains)) {
			l.FilterChains = append(l.FilterChains, &listenerv3.FilterChain{
				FilterChainMatch: &listenerv3.FilterChainMatch{ServerNames: strings.Fields(names)}, TransportSocket: inlineSocket(chains[names])})
		}
		s.Listeners = []*listenerv3.Listener{l}
		return s
	}
	before, _ := shape.Shape(state(map[string]pair{"a.example.com": a, "b.example.com": b}), nil, all)
	out, problems := shape.Shape(state(map[string]pair{"a.example.com b.example.com c.example.com": broken}), &before, all)
	if !bytes.Equal(render(t, out), render(t, before)) {
		t.Errorf("chains are %q", names(out.Listeners[0]))
	}
	if len(problems) != 1 || !strings.Contains(problems[0].Why, "for c.example.com: left out") {
		t.Errorf("problems: %+v", problems)
	}

	// A name that was below a wildcard keeps that certificate.
	wild := ca.issue(0, "*.example.com")
	before, _ = shape.Shape(state(map[string]pair{"a.example.com b.example.com": wild}), nil, all)
	out, _ = shape.Shape(state(map[string]pair{"a.example.com c.example.com": broken}), &before, all)
	if !bytes.Equal(render(t, out), render(t, before)) {
		t.Errorf("chains are %q", names(out.Listeners[0]))
	}
}

// TestTwoCertificates: a chain with two certificates matches a wildcard that both
// have.
func TestTwoCertificates(t *testing.T) {
	ca := newAuthority("ca")
	for want, second := range map[string]pair{
		"*.example.com": ca.issue(1, "*.example.com", "b.example.com"),
		"a.example.com": ca.issue(1, "a.example.com"),
	} {
		in := shape.State{Listeners: []*listenerv3.Listener{{Name: "l", FilterChains: []*listenerv3.FilterChain{{
			FilterChainMatch: &listenerv3.FilterChainMatch{ServerNames: []string{"a.example.com"}}, TransportSocket: inlineSocket(ca.issue(0, "*.example.com"), second)}}}}}
		out, _ := shape.Shape(in, nil, all)
		if got := names(out.Listeners[0]); !slices.Equal(got, []string{want}) || len(out.Secrets) != 2 {
			t.Errorf("%q, want %q; %d secrets", got, want, len(out.Secrets))
		}
		compare(t, in, out, []string{"a.example.com", "b.example.com"})
	}
}

// TestOneIdentityTwice: two certificates for the same names, each for its own
// service, are told apart, and renewals of either keep both secrets' names.
func TestOneIdentityTwice(t *testing.T) {
	ca := newAuthority("ca")
	k := newKourier(t)
	for i, ns := range []string{"x", "y"} {
		k.secrets[ns+"/wild"] = ca.issue(i, "*.example.com")
		k.put(t, ns, "s", ns+".example.com", "wild", "10.0.0.2")
	}
	one, _ := shape.Shape(k.state(t), nil, all)
	if len(one.Secrets) != 2 {
		t.Fatalf("%d secrets, want one for each", len(one.Secrets))
	}
	k.secrets["x/wild"] = ca.issue(9, "*.example.com")
	k.reconcile(t, "x", "s")
	in := k.state(t)
	two, _ := shape.Shape(in, &one, all)
	compare(t, in, two, []string{"x.example.com", "y.example.com", "z.example.com"})
	if one.Version(shape.ListenerType) != two.Version(shape.ListenerType) {
		t.Error("a renewal changed the listeners")
	}
	// Copies of one certificate are one.
	k.secrets["y/wild"] = k.secrets["x/wild"]
	k.reconcile(t, "y", "s")
	three, _ := shape.Shape(k.state(t), &two, all)
	if got := names(find(t, three, "listener_8443")); len(three.Secrets) != 1 || !slices.Equal(got, []string{"*.example.com"}) {
		t.Errorf("copies: %d secrets, chains %q", len(three.Secrets), got)
	}
}

// TestIssuersInTurn: a CA that signs with another intermediate at each renewal
// does not change the name of the secret.
func TestIssuersInTurn(t *testing.T) {
	var versions []string
	for i, name := range []string{"R12", "R13"} {
		ca := newAuthority(name, "Let's Encrypt")
		out, _ := shape.Shape(shape.State{Listeners: []*listenerv3.Listener{{Name: "l", FilterChains: []*listenerv3.FilterChain{
			{FilterChainMatch: &listenerv3.FilterChainMatch{ServerNames: []string{"a.example.com"}}, TransportSocket: inlineSocket(ca.issue(i, "a.example.com"))},
		}}}}, nil, all)
		versions = append(versions, out.Version(shape.ListenerType))
	}
	if versions[0] != versions[1] {
		t.Error("another intermediate of the same CA changed the listener")
	}
}

// TestExternalAuthorization: maps within settings come in another order each time.
func TestExternalAuthorization(t *testing.T) {
	k := newKourier(t, func(c *kourierconfig.Config) {
		c.Kourier.ExternalAuthz = must(kourierconfig.NewKourierConfigFromMap(map[string]string{"extauthz-host": "authz.example.com:80", "extauthz-protocol": "http"})).ExternalAuthz
	})
	k.put(t, "ns", "a", "a.example.com", "", "10.0.0.2")
	versions := map[string]bool{}
	raw := map[string]bool{}
	for range 30 {
		k.put(t, "ns", "a", "a.example.com", "", "10.0.0.2")
		in := k.state(t)
		raw[in.Version(shape.RouteType)] = true
		out, _ := shape.Shape(in, nil, all)
		versions[out.Version(shape.RouteType)] = true
	}
	if len(raw) < 2 {
		t.Error("net-kourier's order is stable now: this test checks nothing")
	}
	if len(versions) != 1 {
		t.Errorf("%d versions of the same routes", len(versions))
	}
}

// TestOnDemand: one chain for all names, whose certificates are asked for by
// name. Services come, go and renew without a change of a listener.
func TestOnDemand(t *testing.T) {
	o := shape.Options{SDS: true, Merge: true, OnDemand: &shape.OnDemand{Prefetch: []string{"b.ns.example.com", "a.ns.example.com"}}}
	k := newKourier(t)
	ca := newAuthority("ca")
	k.secrets["ns/wild"] = ca.issue(0, "*.ns.example.com")
	for _, svc := range []string{"a", "b"} {
		k.secrets["ns/"+svc] = ca.issue(0, svc+".ns.example.com")
		k.put(t, "ns", svc, svc+".ns.example.com", svc, "10.0.0.2")
	}
	one, problems := shape.Shape(k.state(t), nil, o)
	l := find(t, one, "listener_8443")
	if got := names(l); !slices.Equal(got, []string{""}) || len(problems) > 0 || len(one.Secrets) != 2 {
		t.Fatalf("chains %q, %d secrets, %+v", got, len(one.Secrets), problems)
	}
	for _, want := range []string{"a.ns.example.com", "b.ns.example.com", "no-server-name", "on_demand_secret"} {
		if !bytes.Contains(l.GetFilterChains()[0].GetTransportSocket().GetTypedConfig().GetValue(), []byte(want)) {
			t.Errorf("the listener does not say %q", want)
		}
	}
	k.put(t, "ns", "c", "c.ns.example.com", "wild", "10.0.0.2")
	k.secrets["ns/a"] = ca.issue(1, "a.ns.example.com")
	k.put(t, "ns", "a", "a.ns.example.com", "a", "10.0.0.2")
	k.remove(t, "ns", "b")
	in := k.state(t)
	two, _ := shape.Shape(in, &one, o)
	if one.Version(shape.ListenerType) != two.Version(shape.ListenerType) {
		t.Error("services that come, go and renew changed a listener")
	}
	got := map[string]string{}
	for _, m := range two.Secrets {
		got[m.GetName()] = fingerprint(m.GetTlsCertificate())
	}
	for name, secret := range map[string]string{"a.ns.example.com": "ns/a", "c.ns.example.com": "ns/wild"} {
		block, _ := pem.Decode(k.secrets[secret].chain)
		if !strings.HasPrefix(got[name], fmt.Sprintf("%x/", sha256.Sum256(block.Bytes))) {
			t.Errorf("%s is answered by %s", name, got[name])
		}
	}
	if len(got) != 2 {
		t.Errorf("secrets: %v", got)
	}

	// Where a name cannot be a secret's, or means two things, all stays as it is.
	sockets := func(names ...string) *listenerv3.Listener {
		l := &listenerv3.Listener{Name: "l"}
		for i, name := range names {
			l.FilterChains = append(l.FilterChains, &listenerv3.FilterChain{
				FilterChainMatch: &listenerv3.FilterChainMatch{ServerNames: []string{name}}, TransportSocket: inlineSocket(ca.issue(i, name))})
		}
		return l
	}
	other := sockets("a.example.com", "b.example.com")
	other.Name = "m"
	twoCertificates := sockets("a.example.com")
	twoCertificates.FilterChains[0].TransportSocket = inlineSocket(ca.issue(1, "a.example.com"), ca.issue(2, "*.example.com"))
	withDefault := sockets("a.example.com")
	withDefault.DefaultFilterChain = &listenerv3.FilterChain{}
	withTickets := sockets("a.example.com")
	withTickets.FilterChains[0].TransportSocket = ticketSocket(ca.issue(0, "a.example.com"))
	filters := sockets("a.example.com", "b.example.com")
	filters.FilterChains[0].Filters = []*listenerv3.Filter{{Name: "x"}}
	for what, in := range map[string]shape.State{
		"a wildcard":                  {Listeners: []*listenerv3.Listener{sockets("a.example.com", "*.example.com")}},
		"a secret of the controller":  {Listeners: []*listenerv3.Listener{sockets("a.example.com")}, Secrets: []*tlsv3.Secret{{Name: "a.example.com"}}},
		"two certificates for a name": {Listeners: []*listenerv3.Listener{twoCertificates}},
		"a default chain":             {Listeners: []*listenerv3.Listener{withDefault}},
		"session tickets":             {Listeners: []*listenerv3.Listener{withTickets}},
		"other filters":               {Listeners: []*listenerv3.Listener{filters}},
	} {
		with, _ := shape.Shape(in, nil, o)
		if without, _ := shape.Shape(in, nil, all); !bytes.Equal(render(t, with), render(t, without)) {
			t.Errorf("%s: loaded on demand", what)
		}
	}
	both, _ := shape.Shape(shape.State{Listeners: []*listenerv3.Listener{other, sockets("a.example.com", "c.example.com")}}, nil, o)
	if got := names(both.Listeners[0]); len(got) != 1 {
		t.Errorf("the first listener matches %q", got)
	}
	if got := names(both.Listeners[1]); len(got) != 2 {
		t.Errorf("a name means two certificates, and the second listener matches %q", got)
	}
}

// TestRedact: no byte of a key is left, wherever it was.
func TestRedact(t *testing.T) {
	ca := newAuthority("ca")
	k := newKourier(t)
	k.secrets["ns/a"] = ca.issue(0, "a.example.com")
	k.put(t, "ns", "a", "a.example.com", "a", "10.0.0.2")
	in := k.state(t)
	out, _ := shape.Shape(in, nil, all)
	out.Secrets = append(out.Secrets,
		&tlsv3.Secret{Name: "tickets", Type: &tlsv3.Secret_SessionTicketKeys{SessionTicketKeys: &tlsv3.TlsSessionTicketKeys{
			Keys: []*corev3.DataSource{{Specifier: &corev3.DataSource_InlineBytes{InlineBytes: []byte("ticket-secret")}}}}}},
		&tlsv3.Secret{Name: "generic", Type: &tlsv3.Secret_GenericSecret{GenericSecret: &tlsv3.GenericSecret{
			Secret: &corev3.DataSource{Specifier: &corev3.DataSource_InlineString{InlineString: "generic-secret"}}}}},
		&tlsv3.Secret{Name: "provider", Type: &tlsv3.Secret_TlsCertificate{TlsCertificate: &tlsv3.TlsCertificate{
			Password:           &corev3.DataSource{Specifier: &corev3.DataSource_InlineString{InlineString: "password-secret"}},
			PrivateKeyProvider: &tlsv3.PrivateKeyProvider{ProviderName: "cryptomb", ConfigType: &tlsv3.PrivateKeyProvider_TypedConfig{TypedConfig: &anypb.Any{TypeUrl: "type.googleapis.com/not.linked", Value: []byte("provider-secret")}}}}}})
	out.Others = map[string][]*anypb.Any{"type.googleapis.com/not.linked": {{TypeUrl: "type.googleapis.com/not.linked", Value: []byte("other-secret")}}}
	key := bytes.Split(leafKeyDo, []byte("\n"))[1]
	for _, s := range []shape.State{in, out} {
		if b := plain(t, s); !bytes.Contains(b, key) {
			t.Error("there is no key in what is to be redacted")
		}
		b := plain(t, shape.Redact(s))
		for _, bad := range append([][]byte{key}, []byte("-secret"), []byte("PRIVATE")) {
			if bytes.Contains(b, bad) {
				t.Errorf("%q is left", bad)
			}
		}
		if !bytes.Contains(b, []byte("BEGIN CERTIFICATE")) || !bytes.Contains(b, []byte("[redacted]")) || !bytes.Contains(b, []byte("a.example.com")) {
			t.Error("what is no secret is gone as well, or there is no mark")
		}
	}
}

func plain(t testing.TB, s shape.State) []byte {
	var out []byte
	for _, typ := range s.Types() {
		for _, r := range s.Resources(typ) {
			out = append(out, must(proto.Marshal(r))...)
		}
	}
	return out
}

// TestInputIsLeftAlone: the controller's state is what gateways fall back to.
func TestInputIsLeftAlone(t *testing.T) {
	k := newKourier(t)
	ca := newAuthority("ca")
	k.secrets["ns/wild"] = ca.issue(0, "*.ns.example.com")
	for i := range 8 {
		k.put(t, "ns", fmt.Sprint("s", i), fmt.Sprintf("s%d.ns.example.com", i), "wild", "10.0.0.2")
	}
	in := k.state(t)
	want := render(t, in)
	shaper := shape.New()
	out, _ := shaper.Shape(in, nil, all)
	first := render(t, out)
	for _, o := range []shape.Options{{}, {SDS: true}, {Merge: true}, all} {
		shaper.Shape(in, &out, o)
	}
	if !bytes.Equal(render(t, in), want) {
		t.Error("the input was changed")
	}
	if !bytes.Equal(render(t, out), first) {
		t.Error("an earlier output was changed")
	}
}

// TestRoutesKeepTheirOrder: the first route that matches answers, and the first
// value of a header that is added twice comes first.
func TestRoutesKeepTheirOrder(t *testing.T) {
	a := &routev3.Route{Name: "a", Match: &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Prefix{Prefix: "/a"}}}
	b := &routev3.Route{Name: "b", Match: &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Prefix{Prefix: "/"}}}
	one := &corev3.HeaderValueOption{Header: &corev3.HeaderValue{Key: "X", Value: "1"}}
	two := &corev3.HeaderValueOption{Header: &corev3.HeaderValue{Key: "x", Value: "2"}}
	for _, routes := range [][]*routev3.Route{{a, b}, {b, a}} {
		for _, headers := range [][]*corev3.HeaderValueOption{{one, two}, {two, one}} {
			in := shape.State{Routes: []*routev3.RouteConfiguration{{Name: "r", VirtualHosts: []*routev3.VirtualHost{{Name: "v", Domains: []string{"*"}, Routes: routes, RequestHeadersToAdd: headers}}}}}
			out, _ := shape.Shape(in, nil, all)
			if !proto.Equal(in.Routes[0], out.Routes[0]) {
				t.Errorf("the order became %v", out.Routes[0])
			}
		}
	}
}

// TestSet: what comes over the wire is taken whole or not at all.
func TestSet(t *testing.T) {
	var s shape.State
	good := must(anypb.New(&listenerv3.Listener{Name: "l"}))
	if err := s.Set(shape.ListenerType, []*anypb.Any{good}); err != nil || len(s.Listeners) != 1 {
		t.Fatal(err, s)
	}
	for _, bad := range []*anypb.Any{{TypeUrl: shape.RouteType}, {TypeUrl: shape.ListenerType, Value: []byte{0xff}}} {
		if err := s.Set(shape.ListenerType, []*anypb.Any{good, bad}); err == nil || !strings.Contains(err.Error(), "resource 2 of 2") || len(s.Listeners) != 1 {
			t.Errorf("%v, %v", err, s.Listeners)
		}
	}
	if err := s.Set("type.googleapis.com/x", []*anypb.Any{{TypeUrl: "type.googleapis.com/x", Value: []byte{1}}}); err != nil || !slices.Equal(s.Types(), []string{shape.ListenerType, "type.googleapis.com/x"}) {
		t.Errorf("%v, %v", err, s.Types())
	}
	if got := slices.Sorted(maps.Keys(s.Digests(shape.ListenerType))); !slices.Equal(got, []string{"l"}) {
		t.Errorf("digests of %q", got)
	}
}

// TestSetTellsWhatChanged: the controller's order changes nothing, and whatever else
// differs does.
func TestSetTellsWhatChanged(t *testing.T) {
	k := newKourier(t)
	ca := newAuthority("ca")
	for i := range 8 {
		svc := fmt.Sprint("s", i)
		k.secrets["ns/"+svc] = ca.issue(0, svc+".ns.example.com")
		k.put(t, "ns", svc, svc+".ns.example.com", svc, "10.0.0.2")
	}
	shaper := shape.New()
	var s shape.State
	set := func(what string, want ...string) {
		t.Helper()
		in := k.state(t)
		for _, typ := range in.Types() {
			changed, err := shaper.Set(&s, typ, anys(in, typ))
			if err != nil || changed != slices.Contains(want, typ) {
				t.Errorf("%s: changed is %t for %s, %v", what, changed, typ, err)
			}
		}
	}
	set("the first state", shape.ListenerType, shape.RouteType, shape.ClusterType)
	for range 8 {
		k.reconcile(t, "ns", "s1")
		set("the same in another order")
	}
	k.put(t, "ns", "s1", "s1.ns.example.com", "s1", "10.0.0.3")
	set("another address", shape.ClusterType)
	k.secrets["ns/s1"] = ca.issue(1, "s1.ns.example.com")
	k.reconcile(t, "ns", "s1")
	set("a renewal", shape.ListenerType)
	k.remove(t, "ns", "s1")
	set("a service leaves", shape.ListenerType, shape.RouteType) // Kourier keeps its cluster for a while
	if _, err := shaper.Set(&s, shape.ClusterType, []*anypb.Any{{TypeUrl: shape.ClusterType, Value: []byte{0xff}}}); err == nil {
		t.Error("what cannot be read is taken")
	}
	set("after something that could not be read", shape.ClusterType)
}

// FuzzShape: whatever a controller sends, shaping it ends, gives the same twice,
// and gives something that can be sent.
func FuzzShape(f *testing.F) {
	k := newKourier(f)
	ca := newAuthority("ca")
	k.secrets["ns/wild"] = ca.issue(0, "*.ns.example.com")
	k.secrets["ns/b"] = ca.issue(0, "b.ns.example.com")
	k.put(f, "ns", "a", "a.ns.example.com", "wild", "10.0.0.2")
	k.put(f, "ns", "b", "b.ns.example.com", "b", "10.0.0.2")
	in := k.state(f)
	good, _ := shape.Shape(in, nil, all)
	for _, s := range []shape.State{in, good} {
		f.Add(must(proto.Marshal(s.Routes[0])), must(proto.Marshal(s.Routes[len(s.Routes)-1])), uint8(2))
		for i, l := range s.Listeners {
			f.Add(must(proto.Marshal(l)), must(proto.Marshal(s.Listeners[(i+1)%len(s.Listeners)])), uint8(1))
		}
	}
	f.Add(must(proto.Marshal(good.Secrets[0])), must(proto.Marshal(good.Clusters[0])), uint8(16+8))
	types := []string{shape.ListenerType, shape.RouteType, shape.ClusterType, shape.EndpointType, shape.SecretType}
	f.Fuzz(func(t *testing.T, a, b []byte, which uint8) {
		var s shape.State
		shaper := shape.New()
		for i, typ := range types {
			var list []*anypb.Any
			for _, v := range [][]byte{a, b} {
				if which == 0 || which>>i&1 == 1 {
					list = append(list, &anypb.Any{TypeUrl: typ, Value: v})
				}
			}
			var one, two shape.State
			err := one.Set(typ, list)
			_, shared := shaper.Set(&two, typ, list)
			if (err == nil) != (shared == nil) || !bytes.Equal(render(t, one), render(t, two)) {
				t.Fatalf("%v, with what was read before %v", err, shared)
			}
			if s.Set(typ, list) != nil && len(list) > 0 {
				_ = s.Set(typ, list[:1])
			}
		}
		for _, before := range []*shape.State{nil, &good, &s} {
			for _, o := range []shape.Options{{}, all, {SDS: true, Merge: true, OnDemand: &shape.OnDemand{}}} {
				out, problems := shape.Shape(s, before, o)
				again, p := shape.Shape(s, before, o)
				if !bytes.Equal(render(t, out), render(t, again)) || !slices.Equal(p, problems) {
					t.Error("the same content gave other bytes")
				}
				shape.Count(out)
				shape.Redact(out)
			}
		}
	})
}

func BenchmarkShape(b *testing.B) {
	for _, services := range []int{500, 1000} {
		for _, one := range []string{"own", "wild"} {
			b.Run(fmt.Sprintf("%s/%d", one, services), func(b *testing.B) {
				k := newKourier(b)
				ca := newAuthority("ca")
				k.secrets["ns/wild"] = ca.issue(0, "*.ns.example.com")
				for i := range services {
					svc := fmt.Sprint("s", i)
					secret := "wild"
					if one == "own" {
						secret = svc
						k.secrets["ns/"+svc] = ca.issue(0, svc+".ns.example.com")
					}
					k.put(b, "ns", svc, svc+".ns.example.com", secret, "10.0.0.2")
				}
				var pushes []map[string][]*anypb.Any // as they come over the wire
				size := 0
				for i := range 4 {
					k.put(b, "ns", "s1", "s1.ns.example.com", map[string]string{"own": "s1", "wild": "wild"}[one], fmt.Sprint("10.0.1.", i))
					in := k.state(b)
					push := map[string][]*anypb.Any{}
					for _, typ := range in.Types() {
						push[typ] = anys(in, typ)
						for _, a := range push[typ] {
							size += len(a.GetValue())
						}
					}
					pushes = append(pushes, push)
				}
				b.SetBytes(int64(size / len(pushes)))
				shaper := shape.New()
				var in shape.State
				var before *shape.State
				event := func(i int) {
					for typ, list := range pushes[i%len(pushes)] {
						if _, err := shaper.Set(&in, typ, list); err != nil {
							b.Fatal(err)
						}
					}
					out, _ := shaper.Shape(in, before, all)
					before = &out
				}
				event(0)
				i := 0
				for b.Loop() {
					i++
					event(i)
				}
			})
		}
	}
}
