package shape_test

import (
	"crypto/sha256"
	"encoding/pem"
	"fmt"
	"slices"
	"strings"

	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"google.golang.org/protobuf/proto"

	"github.com/certherd/certherd/relay/shape"
)

// This file is a model of how Envoy finds what answers a connection and a request,
// after its documentation of FilterChainMatch and of virtual host matching. It is
// written apart from the code under test, and reads a state from the outside.

// connection is what Envoy knows before it picks a filter chain.
type connection struct {
	port      uint32
	sni       string
	transport string // "tls" or "raw_buffer"
	alpn      string
}

// narrow keeps the chains that match a criterion most specifically. score is
// negative where a chain asks for something else.
func narrow(chains []*listenerv3.FilterChain, score func(*listenerv3.FilterChainMatch) int) []*listenerv3.FilterChain {
	best := -1
	var out []*listenerv3.FilterChain
	for _, c := range chains {
		s := score(c.GetFilterChainMatch())
		if s > best {
			best, out = s, nil
		}
		if s >= 0 && s == best {
			out = append(out, c)
		}
	}
	return out
}

// matches returns the filter chains that a connection ends in. More than one is a
// configuration that Envoy refuses.
func matches(l *listenerv3.Listener, c connection) []*listenerv3.FilterChain {
	chains := narrow(l.GetFilterChains(), func(m *listenerv3.FilterChainMatch) int {
		switch {
		case m.GetDestinationPort() == nil:
			return 0
		case m.GetDestinationPort().GetValue() == c.port:
			return 1
		}
		return -1
	})
	chains = narrow(chains, func(m *listenerv3.FilterChainMatch) int {
		if len(m.GetServerNames()) == 0 {
			return 0
		}
		best := -1
		for _, name := range m.GetServerNames() {
			switch {
			case name == c.sni:
				return 1 << 20
			case strings.HasPrefix(name, "*.") && strings.HasSuffix(c.sni, name[1:]):
				best = max(best, len(name))
			}
		}
		return best
	})
	one := func(want, have string) int {
		switch want {
		case "":
			return 0
		case have:
			return 1
		}
		return -1
	}
	chains = narrow(chains, func(m *listenerv3.FilterChainMatch) int { return one(m.GetTransportProtocol(), c.transport) })
	chains = narrow(chains, func(m *listenerv3.FilterChainMatch) int {
		switch {
		case len(m.GetApplicationProtocols()) == 0:
			return 0
		case slices.Contains(m.GetApplicationProtocols(), c.alpn):
			return 1
		}
		return -1
	})
	if len(chains) == 0 && l.GetDefaultFilterChain() != nil {
		return []*listenerv3.FilterChain{l.GetDefaultFilterChain()}
	}
	return chains
}

// refused is the answer where a certificate that is asked for by name is not there.
const refused = "refused"

// answer is what a client gets in a handshake: the certificates, and the filters
// that its requests go through.
func answer(s shape.State, fc *listenerv3.FilterChain, sni string) string {
	filters := sha256.New()
	for _, f := range fc.GetFilters() {
		b, err := proto.MarshalOptions{Deterministic: true}.Marshal(f)
		filters.Write(b)
		fmt.Fprint(filters, err)
	}
	certs := "plain"
	if a := fc.GetTransportSocket().GetTypedConfig(); a != nil {
		m := new(tlsv3.DownstreamTlsContext)
		if err := a.UnmarshalTo(m); err != nil {
			return err.Error()
		}
		certs = fmt.Sprint(m.GetCommonTlsContext().GetAlpnProtocols(), m.GetCommonTlsContext().GetTlsParams().GetTlsMinimumProtocolVersion())
		for _, c := range m.GetCommonTlsContext().GetTlsCertificates() {
			certs += " " + fingerprint(c)
		}
		var asked []string
		for _, ref := range m.GetCommonTlsContext().GetTlsCertificateSdsSecretConfigs() {
			asked = append(asked, ref.GetName())
		}
		if m.GetCommonTlsContext().GetCustomTlsCertificateSelector() != nil {
			asked = []string{sni}
		}
		for _, name := range asked {
			i := slices.IndexFunc(s.Secrets, func(x *tlsv3.Secret) bool { return x.GetName() == name })
			if i < 0 {
				return refused
			}
			certs += " " + fingerprint(s.Secrets[i].GetTlsCertificate())
		}
	}
	return fmt.Sprintf("%s, filters %x", certs, filters.Sum(nil)[:8])
}

// fingerprint tells certificates apart, with their keys.
func fingerprint(c *tlsv3.TlsCertificate) string {
	chain, _ := pem.Decode(c.GetCertificateChain().GetInlineBytes())
	if chain == nil {
		return "none"
	}
	return fmt.Sprintf("%x/%x", sha256.Sum256(chain.Bytes), sha256.Sum256(c.GetPrivateKey().GetInlineBytes()))[:80]
}

// route is what answers a request: the first route that matches, of the virtual
// host whose domain fits best.
func route(rc *routev3.RouteConfiguration, host, path string, headers map[string]string) string {
	var found *routev3.VirtualHost
	best := -1
	for _, vh := range rc.GetVirtualHosts() {
		for _, d := range vh.GetDomains() {
			score := -1
			switch {
			case d == host:
				score = 4000
			case strings.HasPrefix(d, "*") && d != "*" && strings.HasSuffix(host, d[1:]):
				score = 2000 + len(d)
			case strings.HasSuffix(d, "*") && d != "*" && strings.HasPrefix(host, d[:len(d)-1]):
				score = 1000 + len(d)
			case d == "*":
				score = 0
			}
			if score > best {
				best, found = score, vh
			}
		}
	}
	if found == nil {
		return "404"
	}
	for _, r := range found.GetRoutes() {
		if !strings.HasPrefix(path, r.GetMatch().GetPrefix()) {
			continue
		}
		if slices.ContainsFunc(r.GetMatch().GetHeaders(), func(h *routev3.HeaderMatcher) bool {
			return headers[h.GetName()] != h.GetStringMatch().GetExact()
		}) {
			continue
		}
		var added []string
		add := func(list []string, prefix string) { added = append(added, prefix+strings.Join(list, ",")) }
		for _, h := range r.GetRequestHeadersToAdd() {
			added = append(added, h.GetHeader().GetKey()+"="+h.GetHeader().GetValue())
		}
		for _, w := range r.GetRoute().GetWeightedClusters().GetClusters() {
			var list []string
			for _, h := range w.GetRequestHeadersToAdd() {
				list = append(list, h.GetHeader().GetKey()+"="+h.GetHeader().GetValue())
			}
			slices.Sort(list)
			add(list, fmt.Sprintf("%s %d ", w.GetName(), w.GetWeight().GetValue()))
		}
		slices.Sort(added)
		return fmt.Sprint(r.GetName(), r.GetRedirect().GetHttpsRedirect(), r.GetRoute().GetHostRewriteLiteral(), added)
	}
	return "404 in " + found.GetName()
}
