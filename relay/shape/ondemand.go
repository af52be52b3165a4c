package shape

import (
	"slices"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	sniv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/cert_mappers/sni/v3"
	on_demand_secretv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/cert_selectors/on_demand_secret/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

// OnDemand are the settings of loading certificates when they are first asked
// for. Envoy 1.37 and later have the extension for it, on_demand_secret, and it
// takes a server that says of a name that there is no such secret: delta xDS.
type OnDemand struct {
	// Prefetch are server names whose certificates are loaded at once. Envoy gets
	// at most MaxPrefetch of them, the first in the alphabet.
	Prefetch []string
}

// MaxPrefetch is how many certificates are loaded before they are asked for.
const MaxPrefetch = 100

// nameless is the secret that is asked for by a client that sends no server name.
// There never is one, so the handshake fails, as it does where no chain matches.
const nameless = ours + "no-server-name"

// onDemand makes one chain of all that l has, with a secret for each server name:
// Envoy asks for the name that a client sends, and refuses the client if there is
// none. It leaves l alone where that would change an answer, and returns the
// secrets by name otherwise. taken are the names that mean another certificate.
func (l *listener) onDemand(o *OnDemand, taken map[string]*certificate) map[string]*certificate {
	if l.fixed || l.other != nil || len(l.chains) == 0 {
		return nil
	}
	first := l.chains[0]
	secrets := map[string]*certificate{}
	for _, c := range l.chains {
		if c.tls == nil || tickets(c.tls.context) || len(c.tls.certs) != 1 || len(c.names) == 0 || c.withoutCertificates() != first.withoutCertificates() {
			return nil
		}
		cert := c.tls.certs[0]
		for _, name := range c.names {
			if had, ok := taken[name]; name == "" || strings.Contains(name, "*") || ok && (had == nil || had.content != cert.content) {
				return nil
			}
			secrets[name] = cert
		}
	}
	all := first.with()
	all.tls = &tlsContext{context: selecting(first.tls.context, o), key: first.tls.key}
	all.tls.key = digest(marshal(all.tls.context))
	all.rekey()
	l.chains = []*chain{all}
	return secrets
}

// withoutCertificates is what chains have in common that differ in their names
// and certificates alone.
func (c *chain) withoutCertificates() string {
	d := *c
	d.names, d.tls = nil, &tlsContext{key: c.tls.key}
	d.rekey()
	return d.key
}

// tickets reports whether the controller says how sessions are resumed.
func tickets(m *tlsv3.DownstreamTlsContext) bool {
	_, off := m.GetSessionTicketKeysType().(*tlsv3.DownstreamTlsContext_DisableStatelessSessionResumption)
	return m.GetSessionTicketKeysType() != nil && !off
}

// selecting returns TLS settings that pick the certificate by the server name.
// Envoy refuses them with session resumption.
func selecting(m *tlsv3.DownstreamTlsContext, o *OnDemand) *tlsv3.DownstreamTlsContext {
	prefetch := slices.Compact(slices.Sorted(slices.Values(o.Prefetch)))
	m = proto.Clone(m).(*tlsv3.DownstreamTlsContext)
	if m.CommonTlsContext == nil {
		m.CommonTlsContext = &tlsv3.CommonTlsContext{}
	}
	m.SessionTicketKeysType = &tlsv3.DownstreamTlsContext_DisableStatelessSessionResumption{DisableStatelessSessionResumption: true}
	m.DisableStatefulSessionResumption = true
	m.CommonTlsContext.CustomTlsCertificateSelector = extension("envoy.tls.certificate_selectors.on_demand_secret", &on_demand_secretv3.Config{
		ConfigSource:        overADS(),
		CertificateMapper:   extension("envoy.tls.certificate_mappers.sni", &sniv3.SNI{DefaultValue: nameless}),
		PrefetchSecretNames: prefetch[:min(len(prefetch), MaxPrefetch)],
	})
	return m
}

func extension(name string, settings proto.Message) *corev3.TypedExtensionConfig {
	return &corev3.TypedExtensionConfig{Name: name, TypedConfig: &anypb.Any{
		TypeUrl: "type.googleapis.com/" + string(settings.ProtoReflect().Descriptor().FullName()), Value: marshal(settings),
	}}
}
