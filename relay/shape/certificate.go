package shape

import (
	"bytes"
	"cmp"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"google.golang.org/protobuf/proto"
)

// certificate is one certificate with its key, as a listener or a secret held it.
type certificate struct {
	message *tlsv3.TlsCertificate
	content string // digest of the message: what is the same has the same
	// identity is what a renewal keeps: the names, who issued it, the kind of key.
	identity  string
	names     []string // lower case, sorted
	notBefore time.Time
	serial    *big.Int
	wrong     error // why Envoy must not get it
}

// certificate reads a certificate and checks it against its key.
func (s *Shaper) certificate(m *tlsv3.TlsCertificate) *certificate {
	b := marshal(m)
	return cached(&s.cache, "certificate", b, func() *certificate {
		c := &certificate{message: stable(s, m), content: digest(b)}
		c.wrong = c.read()
		return c
	})
}

// read fills in what the leaf says. Its errors quote nothing of what was read.
func (c *certificate) read() error {
	chain, _ := inlined(c.message.GetCertificateChain())
	block, _ := pem.Decode(chain)
	for rest := chain; block != nil && block.Type != "CERTIFICATE"; {
		block, rest = pem.Decode(rest)
	}
	if block == nil {
		return errors.New("there is no certificate in it")
	}
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return errors.New("its certificate cannot be read")
	}
	names := slices.Clone(leaf.DNSNames)
	for _, ip := range leaf.IPAddresses {
		names = append(names, ip.String())
	}
	if len(names) == 0 && leaf.Subject.CommonName != "" {
		names = append(names, leaf.Subject.CommonName) // as Envoy does
	}
	for i := range names {
		names[i] = strings.ToLower(names[i])
	}
	slices.Sort(names)
	c.names = slices.Compact(names)
	c.notBefore, c.serial = leaf.NotBefore, leaf.SerialNumber

	// A CA issues from several intermediates in turn: Let's Encrypt has R12 and
	// R13. What stays is the organization, and the name where there is none.
	issuer := strings.Join(leaf.Issuer.Organization, "\x00")
	if issuer == "" {
		issuer = leaf.Issuer.CommonName
	}
	if bytes.Equal(leaf.RawIssuer, leaf.RawSubject) {
		issuer = "self"
	}
	h := sha256.New()
	fmt.Fprintf(h, "%q %q %d", c.names, issuer, leaf.PublicKeyAlgorithm)
	c.identity = fmt.Sprintf("%x", h.Sum(nil)[:12])

	if key, ok := leaf.PublicKey.(*rsa.PublicKey); ok && key.N.BitLen() < 2048 {
		return errors.New("its RSA key is shorter than the 2048 bits that Envoy takes")
	}
	if c.message.GetPrivateKeyProvider() != nil {
		return nil // the key is the provider's to read
	}
	key, _ := inlined(c.message.GetPrivateKey())
	if len(c.message.GetPassword().GetInlineBytes())+len(c.message.GetPassword().GetInlineString()) > 0 {
		return nil // an encrypted key is Envoy's to read
	}
	if _, err := tls.X509KeyPair(chain, key); err != nil {
		if strings.Contains(err.Error(), "does not match") {
			return errors.New("its key does not belong to its certificate")
		}
		return errors.New("its certificate chain or its key cannot be read")
	}
	return nil
}

// inlined returns what a data source holds in itself, and whether it does.
func inlined(d *corev3.DataSource) ([]byte, bool) {
	switch v := d.GetSpecifier().(type) {
	case *corev3.DataSource_InlineBytes:
		return v.InlineBytes, true
	case *corev3.DataSource_InlineString:
		return []byte(v.InlineString), true
	}
	return nil, false
}

// wildcards returns the names of c that stand for a whole label, sorted.
func (c *certificate) wildcards() []string {
	var out []string
	for _, n := range c.names {
		if strings.HasPrefix(n, "*.") && len(n) > 2 {
			out = append(out, n)
		}
	}
	return out
}

// fit says how well c fits a server name: 2 for the name itself, 1 for a wildcard
// that covers it, 0 for neither.
func (c *certificate) fit(name string) int {
	if _, ok := slices.BinarySearch(c.names, name); ok {
		return 2
	}
	if _, rest, ok := strings.Cut(name, "."); ok {
		if _, ok := slices.BinarySearch(c.names, "*."+rest); ok {
			return 1
		}
	}
	return 0
}

// newer orders certificates by the start of their validity, then by their serial
// numbers, then by what is in them.
func (c *certificate) newer(d *certificate) int {
	if v := c.notBefore.Compare(d.notBefore); v != 0 {
		return v
	}
	if c.serial != nil && d.serial != nil {
		if v := c.serial.Cmp(d.serial); v != 0 {
			return v
		}
	}
	return cmp.Compare(c.content, d.content)
}

// tlsContext is what a filter chain says of TLS, and the certificates apart.
type tlsContext struct {
	context *tlsv3.DownstreamTlsContext // stable, without its certificates
	key     string                      // digest of context
	certs   []*certificate
	wrong   error
}

// movable reports whether the certificates of a context can be taken out of it:
// all of them are there with all that belongs to them.
func movable(c *tlsv3.CommonTlsContext) bool {
	if len(c.GetTlsCertificates()) == 0 || len(c.GetTlsCertificateSdsSecretConfigs()) > 0 || c.GetCustomTlsCertificateSelector() != nil || c.GetTlsCertificateProviderInstance() != nil {
		return false
	}
	for _, m := range c.GetTlsCertificates() {
		_, chain := inlined(m.GetCertificateChain())
		_, key := inlined(m.GetPrivateKey())
		if !chain || !key && m.GetPrivateKeyProvider() == nil || m.GetPkcs12() != nil {
			return false
		}
	}
	return true
}

// downstream reads the TLS context of a filter chain. It returns nil for what is
// not TLS and for what has no certificate in it that could be taken out. Where
// secrets is given, certificates that are asked for by name are looked up there.
func (s *Shaper) downstream(socket *corev3.TransportSocket, secrets map[string]*tlsv3.Secret) *tlsContext {
	a := socket.GetTypedConfig()
	if a == nil || a.MessageName() != (*tlsv3.DownstreamTlsContext)(nil).ProtoReflect().Descriptor().FullName() {
		return nil
	}
	t := cached(&s.cache, "downstream", a.GetValue(), func() *tlsContext {
		m := new(tlsv3.DownstreamTlsContext)
		if err := proto.Unmarshal(a.GetValue(), m); err != nil {
			return &tlsContext{wrong: errors.New("its TLS settings cannot be read")}
		}
		if !movable(m.GetCommonTlsContext()) {
			if len(m.GetCommonTlsContext().GetTlsCertificateSdsSecretConfigs()) == 0 {
				return nil
			}
			return &tlsContext{context: m}
		}
		t := &tlsContext{context: m}
		for _, c := range m.CommonTlsContext.TlsCertificates {
			t.certs = append(t.certs, s.certificate(c))
		}
		m.CommonTlsContext.TlsCertificates = nil
		settle(m.ProtoReflect(), 0)
		t.key = digest(marshal(m))
		return t
	})
	if t == nil || t.wrong != nil || t.certs != nil {
		return t
	}
	if secrets == nil {
		return nil
	}
	m := proto.Clone(t.context).(*tlsv3.DownstreamTlsContext)
	t = &tlsContext{context: m}
	for _, ref := range m.CommonTlsContext.TlsCertificateSdsSecretConfigs {
		c := secrets[ref.GetName()].GetTlsCertificate()
		if c == nil {
			return nil
		}
		t.certs = append(t.certs, s.certificate(c))
	}
	m.CommonTlsContext.TlsCertificateSdsSecretConfigs = nil
	settle(m.ProtoReflect(), 0)
	t.key = digest(marshal(m))
	return t
}

// broken says what is wrong with the certificates of t, nil if nothing is.
func (t *tlsContext) broken() error {
	if t == nil {
		return nil
	}
	if t.wrong != nil {
		return t.wrong
	}
	for _, c := range t.certs {
		if c.wrong != nil {
			return c.wrong
		}
	}
	return nil
}
