package carry

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/certherd/certherd/inventory"
)

// Chain reads PEM certificates, leaf first, as cert-manager keeps them in
// CertificateRequest.status.certificate.
func Chain(text []byte) ([]*x509.Certificate, error) {
	var out []*x509.Certificate
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("there is a PEM block %q where only certificates should be", block.Type)
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		out = append(out, c)
	}
	if len(out) == 0 {
		return nil, errors.New("there is no certificate")
	}
	return out, nil
}

// VerifyChain says what keeps a chain, leaf first, from serving hosts from now
// on for the time of last at least. Roots must not be nil.
func VerifyChain(chain []*x509.Certificate, roots *x509.CertPool, hosts []string, now time.Time, last time.Duration) error {
	if len(chain) == 0 {
		return errors.New("there is no certificate")
	}
	leaf := chain[0]
	for _, h := range hosts {
		if !inventory.CoversAll(leaf.DNSNames, []string{h}) {
			return fmt.Errorf("it has no name for %s", h)
		}
	}
	if now.Before(leaf.NotBefore) {
		return fmt.Errorf("it is not valid before %s", leaf.NotBefore.UTC().Format(time.RFC3339))
	}
	if end := now.Add(last); end.After(leaf.NotAfter) {
		return fmt.Errorf("it expires at %s", leaf.NotAfter.UTC().Format(time.RFC3339))
	}
	between := x509.NewCertPool()
	for _, c := range chain[1:] {
		between.AddCert(c)
	}
	o := x509.VerifyOptions{Roots: roots, Intermediates: between, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	if _, err := leaf.Verify(o); err != nil {
		return fmt.Errorf("its chain is not valid: %w", err)
	}
	// Name constraints of the CA are looked at for names that are asked for, and a
	// wildcard name is none that can be.
	for _, h := range slices.Compact(slices.Sorted(slices.Values(hosts))) {
		if inventory.IsWildcard(h) {
			h = "any" + h[1:] // no host has such a name
		}
		o.DNSName = h
		if _, err := leaf.Verify(o); err != nil {
			return fmt.Errorf("it is not valid for %s: %w", h, err)
		}
	}
	return nil
}
