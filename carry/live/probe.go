package live

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/certherd/certherd/api/v1alpha1"
	"github.com/certherd/certherd/carry"
	"github.com/certherd/certherd/inventory"
)

const (
	probeTimeout = 5 * time.Second
	probesAtOnce = 16
)

// probe makes a handshake for every host.
func (l *look) probe(ctx context.Context) {
	if l.o.Unprobed {
		return
	}
	type target struct{ host, address string }
	var targets []target
	for _, c := range l.Consumers {
		for _, e := range c.Entries {
			for _, h := range e.Hosts {
				if strings.HasPrefix(h, "*") {
					continue
				}
				a := l.o.Gateway
				if a == "" {
					a = l.addresses[h]
				}
				if a == "" {
					l.UnprobedReason = fmt.Sprintf("nothing says where %s is served; set consolidate.gateway", h)
					return
				}
				targets = append(targets, target{h, a})
			}
		}
	}
	l.Probes = make([]carry.Probe, len(targets))
	chains := make([][]*x509.Certificate, len(targets))
	l.shown = make([]*x509.Certificate, len(targets))
	var wg sync.WaitGroup
	slots := make(chan struct{}, probesAtOnce)
	for i, t := range targets {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			chain, err := handshake(ctx, l.o.Dial, t.address, t.host)
			p := carry.Probe{Host: t.host}
			if err == nil {
				err = serves(chain[0], t.host, l.now)
			}
			if err != nil {
				p.Why = err.Error()
			} else {
				p.OK, p.Wildcard = true, l.isWildcard(chain[0])
				chains[i], l.shown[i] = chain, chain[0]
			}
			l.Probes[i] = p
		})
	}
	wg.Wait()
	for i := range l.Probes {
		p := &l.Probes[i]
		if p.OK {
			delete(l.m.bad, p.Host)
			if !p.Wildcard {
				l.m.remember(chains[i])
			}
			continue
		}
		if _, ok := l.m.bad[p.Host]; !ok {
			l.m.bad[p.Host] = l.now
		}
		p.Bad = l.m.bad[p.Host]
	}
}

// isWildcard reports whether a leaf is the wildcard's: the one that was verified, or
// one that was issued for the same names since.
func (l *look) isWildcard(leaf *x509.Certificate) bool {
	return !slices.ContainsFunc(l.c.Spec.Wildcards, func(w string) bool { return !slices.Contains(leaf.DNSNames, w) })
}

// tell looks again whether what is served is the wildcard's, where the names do not
// tell: a member has the same ones.
func (l *look) tell() {
	if !slices.ContainsFunc(l.c.Spec.Members, func(m v1alpha1.Member) bool { return inventory.CoversAll(m.Hosts, l.c.Spec.Wildcards) }) {
		return
	}
	for i := range l.Probes {
		l.Probes[i].Wildcard = l.leaf != nil && l.shown[i] != nil && l.shown[i].Equal(l.leaf)
	}
}

// serves says what keeps a leaf from serving a host. Its chain is none of the
// gateway's doing, and was verified before it got there.
func serves(leaf *x509.Certificate, host string, now time.Time) error {
	switch {
	case !inventory.CoversAll(leaf.DNSNames, []string{host}):
		return fmt.Errorf("it is served with a certificate for %s", strings.Join(leaf.DNSNames, ", "))
	case now.After(leaf.NotAfter):
		return fmt.Errorf("its certificate expired at %s", leaf.NotAfter.UTC().Format(time.RFC3339))
	}
	return nil
}

// handshake returns the chain that is served for a host.
func handshake(ctx context.Context, dial func(ctx context.Context, network, address string) (net.Conn, error), address, host string) ([]*x509.Certificate, error) {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	plain, err := dial(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("no handshake: %w", err)
	}
	defer plain.Close()
	// What is served is judged by serves: here is no client who would trust it.
	c := tls.Client(plain, &tls.Config{ServerName: host, InsecureSkipVerify: true, MinVersion: tls.VersionTLS12}) //nolint:gosec
	if err := c.HandshakeContext(ctx); err != nil {
		return nil, fmt.Errorf("no handshake: %w", err)
	}
	chain := c.ConnectionState().PeerCertificates
	if len(chain) == 0 {
		return nil, errors.New("no certificate was served")
	}
	return chain, nil
}
