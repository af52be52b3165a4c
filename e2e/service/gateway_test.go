package service_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/certherd/certherd/report"
)

// poller makes TLS handshakes with the gateway for hosts all the time, one after
// the other, and verifies chain and name.
type poller struct {
	s     *site
	roots *x509.CertPool

	mu       sync.Mutex
	hosts    []string
	tries    map[string]int
	failures []string

	cancel context.CancelFunc
	done   sync.WaitGroup
}

// poll begins to poll hosts. pause is that after each handshake.
func (s *site) poll(pause time.Duration, hosts ...string) *poller {
	s.Helper()
	secret, err := s.cluster.Typed.CoreV1().Secrets("cert-manager").Get(s.Context(), "stack-ca", metav1.GetOptions{})
	s.must(err)
	p := &poller{s: s, roots: x509.NewCertPool(), hosts: hosts, tries: map[string]int{}}
	if !p.roots.AppendCertsFromPEM(secret.Data["ca.crt"]) {
		s.Fatal("the stack's CA has no certificate")
	}
	ctx, cancel := context.WithCancel(s.Context())
	p.cancel = cancel
	const clients = 2
	for i := range clients {
		p.done.Go(func() {
			for n := i; ctx.Err() == nil; n += clients {
				host := p.hosts[n%len(p.hosts)]
				err := p.shake(ctx, host)
				if ctx.Err() != nil {
					return
				}
				p.mu.Lock()
				p.tries[host]++
				if err != nil {
					p.failures = append(p.failures, fmt.Sprintf("%s %s: %v", time.Now().UTC().Format("15:04:05.000"), host, err))
				}
				p.mu.Unlock()
				time.Sleep(pause)
			}
		})
	}
	s.Cleanup(func() { cancel(); p.done.Wait() })
	return p
}

func (p *poller) shake(ctx context.Context, host string) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	plain, err := new(net.Dialer).DialContext(ctx, "tcp", p.s.stack.GatewayTLS)
	if err != nil {
		return err
	}
	defer plain.Close()
	return tls.Client(plain, &tls.Config{ServerName: host, RootCAs: p.roots}).HandshakeContext(ctx)
}

// everywhere waits until each host has been polled so many times more.
func (p *poller) everywhere(times int) {
	p.s.Helper()
	least := func() int {
		p.mu.Lock()
		defer p.mu.Unlock()
		n := p.tries[p.hosts[0]]
		for _, host := range p.hosts {
			n = min(n, p.tries[host])
		}
		return n
	}
	want := least() + times
	p.s.await("every host to be polled", func() bool { return least() >= want })
}

// end stops polling, and fails the test for each handshake that did not succeed.
func (p *poller) end() {
	p.s.Helper()
	p.cancel()
	p.done.Wait()
	total, least := 0, p.tries[p.hosts[0]]
	for _, host := range p.hosts {
		total += p.tries[host]
		least = min(least, p.tries[host])
	}
	p.s.Logf("%d handshakes with %d hosts, %d at least with each; %d failed", total, len(p.hosts), least, len(p.failures))
	if least == 0 {
		p.s.Error("some host was never polled")
	}
	for i, f := range p.failures {
		if i == 20 {
			break
		}
		p.s.Error("handshake: ", f)
	}
	if len(p.failures) > 0 {
		p.s.Errorf("%d handshakes failed", len(p.failures))
	}
}

// TestGatewayIsMeasured: what the gateway itself says of its memory is what its
// prediction starts from, for as long as it can be asked.
func TestGatewayIsMeasured(t *testing.T) {
	s := newSite(t, "measures-certherd")
	configure := func(page string) {
		s.configure(fmt.Sprintf("gc: {schedule: \"@every 10s\"}\nbreaker: {gateways: [%q], pods: []}\n", page))
	}
	reported := func(a *process, basis string) (g report.Gateway) {
		t.Helper()
		s.await("a report of a gateway with the basis "+basis, func() bool {
			var r report.Report
			code, text := a.Get("/report.json")
			if code != http.StatusOK || json.Unmarshal([]byte(text), &r) != nil || len(r.Gateways) != 1 {
				return false
			}
			g = r.Gateways[0]
			return g.Basis == basis
		})
		return g
	}
	configure("http://" + s.stack.EnvoyAdmin + "/stats/prometheus")
	s.args = patient
	a := s.start("measures-0", "")
	g := reported(a, report.BasisMeasured)
	t.Log(g.BasisNote)
	if g.Measured == nil || g.Measured.Envoys != 1 || g.Measured.AllocatedMiB <= 0 || g.Measured.ResidentMiB <= 0 {
		t.Errorf("measured: %+v", g.Measured)
	}
	configure("http://127.0.0.1:1/stats/prometheus")
	if g := reported(a, report.BasisModel); g.Measured != nil {
		t.Errorf("measured at a port that nobody listens on: %+v", g.Measured)
	}
	s.configure("")
}
