package shape

import (
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"google.golang.org/protobuf/proto"
)

// Counts say how much there is in a state.
type Counts struct {
	Listeners    int
	Chains       int // filter chains of all listeners, default ones included
	ServerNames  int // that the chains match
	Inlined      int // certificates within listeners, each copy of them
	Asked        int // certificates that listeners ask for by name, each time
	Secrets      int // secrets with a certificate
	Certificates int // different certificates, inlined or in secrets
	VirtualHosts int
	Clusters     int
	Bytes        int // of all resources, as they are sent
}

// Count counts what is in s.
func Count(s State) Counts {
	c := Counts{Listeners: len(s.Listeners), Clusters: len(s.Clusters)}
	different := map[string]bool{}
	see := func(m *tlsv3.TlsCertificate) {
		chain, _ := inlined(m.GetCertificateChain())
		different[digest(chain)] = true
	}
	for _, l := range s.Listeners {
		chains := l.GetFilterChains()
		if d := l.GetDefaultFilterChain(); d != nil {
			chains = append(chains[:len(chains):len(chains)], d)
		}
		c.Chains += len(chains)
		for _, fc := range chains {
			c.ServerNames += len(fc.GetFilterChainMatch().GetServerNames())
			m := new(tlsv3.DownstreamTlsContext)
			if a := fc.GetTransportSocket().GetTypedConfig(); a == nil || a.UnmarshalTo(m) != nil {
				continue
			}
			c.Inlined += len(m.GetCommonTlsContext().GetTlsCertificates())
			c.Asked += len(m.GetCommonTlsContext().GetTlsCertificateSdsSecretConfigs())
			for _, cert := range m.GetCommonTlsContext().GetTlsCertificates() {
				see(cert)
			}
		}
	}
	for _, m := range s.Secrets {
		if t := m.GetTlsCertificate(); t != nil {
			c.Secrets++
			see(t)
		}
	}
	c.Certificates = len(different)
	for _, rc := range s.Routes {
		c.VirtualHosts += len(rc.GetVirtualHosts())
	}
	for _, t := range s.Types() {
		for _, m := range s.Resources(t) {
			c.Bytes += proto.Size(m)
		}
	}
	return c
}
