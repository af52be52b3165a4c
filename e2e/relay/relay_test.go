package relay

import (
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/websocket"
)

const services = 30

func own(i int) string { return fmt.Sprintf("own-%02d", i) }

// serve makes services, each with its own certificate or all with that of a
// Secret, and waits until they are served.
func (w *world) serve(t *testing.T, names []string, secret string) {
	t.Helper()
	for _, name := range names {
		s := secret
		if s == "" {
			s = name
			w.secret(t, name, host(name))
		}
		w.service(t, name, s)
	}
	w.served(t, names)
}

func (w *world) served(t *testing.T, names []string) {
	t.Helper()
	for _, name := range names {
		until(t, name+" to be served", func() error { _, err := w.answer(name); return err })
	}
}

func named(prefix string, n int) (names []string) {
	for i := range n {
		names = append(names, fmt.Sprintf("%s-%02d", prefix, i))
	}
	return names
}

// metric is a value of the relay's.
func (w *world) metric(t *testing.T, name string) float64 {
	t.Helper()
	answer, err := http.Get("http://" + w.stack.RelayLocal + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if value, found := strings.CutPrefix(line, name+" "); found {
			n, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Fatalf("the relay has no metric %s", name)
	return 0
}

// TestStaleHosts goes through what makes Envoy reject its listeners: a service
// leaves a shared Secret for one of its own, and net-kourier goes on listing its
// host with the shared one (pkg/generator/sni.go, consume).
func TestStaleHosts(t *testing.T) {
	w := stackWithRelay(t)
	shared := named("shared", 8)
	w.secret(t, "shared", "*."+domainOf("shared"))
	w.serve(t, shared, "shared")
	before := w.settle(t)
	for _, leaver := range shared[:3] {
		serial := w.secret(t, leaver, host(leaver))
		w.ingress(t, leaver, leaver)
		until(t, leaver+" to have its own certificate", func() error {
			got, err := w.answer(leaver)
			if err == nil && got != serial {
				err = fmt.Errorf("it has %s, not %s", got, serial)
			}
			return err
		})
	}
	w.served(t, shared)
	after := w.settle(t)
	if after.rejected != before.rejected {
		t.Errorf("Envoy rejected %d updates", after.rejected-before.rejected)
	}
	// The control: the names were contested, so there was something to settle.
	if n := w.metric(t, `certherd_relay_problems{type="listeners"}`); n == 0 {
		t.Error("no name was in two chains: the test would not see a fault")
	} else {
		t.Logf("%.0f problems were settled", n)
	}
	// Without the relay, an Envoy that starts now would get no TLS listener at all.
	// A controller that starts anew has forgotten the stale hosts.
	w.restart(t, "kourier", syscall.SIGKILL)
	until(t, "the controller to have forgotten the stale hosts", func() error {
		if n := w.metric(t, `certherd_relay_problems{type="listeners"}`); n != 0 {
			return fmt.Errorf("%v problems", n)
		}
		return nil
	})
}

// held makes requests of each kind that last for a time, while other services
// scale, and says how they end.
func (w *world) held(t *testing.T, names []string, length time.Duration, meanwhile func()) map[string]error {
	t.Helper()
	kinds := map[string]func(name string) error{
		"HTTP/1.1":  func(name string) error { return w.hold(name, length, 1) },
		"HTTP/2":    func(name string) error { return w.hold(name, length, 2) },
		"WebSocket": func(name string) error { return w.talk(name, length) },
	}
	var mu sync.Mutex
	ends := map[string]error{}
	var running sync.WaitGroup
	for kind, do := range kinds {
		for _, name := range names {
			running.Go(func() {
				err := do(name)
				mu.Lock()
				defer mu.Unlock()
				ends[kind+" "+name] = err
			})
		}
	}
	ended := make(chan struct{})
	go func() { running.Wait(); close(ended) }()
	for {
		select {
		case <-ended:
			return ends
		case <-time.After(time.Second):
			meanwhile()
		}
	}
}

// dial opens a TLS connection to the gateway.
func (w *world) dial(name string, protocols ...string) (*tls.Conn, error) {
	return tls.Dial("tcp", w.stack.GatewayTLS, &tls.Config{RootCAs: w.ca.pool, ServerName: host(name), NextProtos: protocols})
}

func (w *world) hold(name string, length time.Duration, version int) error {
	client := w.client()
	client.Timeout = 0
	transport := client.Transport.(*http.Transport)
	transport.DisableKeepAlives, transport.ForceAttemptHTTP2 = false, version == 2
	defer transport.CloseIdleConnections()
	answer, err := client.Get(fmt.Sprintf("https://%s/?ms=%d", host(name), length.Milliseconds()))
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if answer.ProtoMajor != version || answer.StatusCode != http.StatusOK {
		return fmt.Errorf("%s %s", answer.Proto, answer.Status)
	}
	_, err = io.Copy(io.Discard, answer.Body)
	return err
}

func (w *world) talk(name string, length time.Duration) error {
	config, err := websocket.NewConfig("wss://"+host(name)+"/ws", "https://"+host(name))
	if err != nil {
		return err
	}
	conn, err := w.dial(name)
	if err != nil {
		return err
	}
	defer conn.Close()
	c, err := websocket.NewClient(config, conn)
	if err != nil {
		return err
	}
	for end := time.Now().Add(length); time.Now().Before(end); time.Sleep(500 * time.Millisecond) {
		if _, err := c.Write([]byte("word")); err != nil {
			return err
		}
		if _, err := io.ReadFull(c, make([]byte, 4)); err != nil {
			return err
		}
	}
	return nil
}

// TestNoRequestIsCut holds requests for longer than the drain time on services
// that share a wildcard certificate, while others of them scale.
func TestNoRequestIsCut(t *testing.T) {
	w := stackWithRelay(t)
	names := named("wild", 6)
	w.secret(t, "wild", "*."+domainOf("wild"))
	w.serve(t, names, "wild")
	w.settle(t)
	n := 1
	for name, err := range w.held(t, names[:2], 20*time.Second, func() {
		n++
		for _, other := range names[2:] {
			w.scale(t, other, 1+n%2)
		}
	}) {
		if err != nil {
			t.Errorf("%s was cut: %v", name, err)
		}
	}
}

// TestStartWithoutController starts a gateway while the controller does not answer:
// it gets the last state.
func TestStartWithoutController(t *testing.T) {
	w := stackWithRelay(t)
	names := named("kept", 2)
	w.serve(t, names, "")
	w.settle(t)
	_, deployment, _ := kinds(t)
	if err := w.stack.Signal("kourier", syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	paused := true
	proceed := func() {
		if paused {
			paused = false
			if err := w.stack.Signal("kourier", syscall.SIGCONT); err != nil {
				t.Error(err)
			}
		}
	}
	defer proceed()
	g := w.start(t, "late", deployment)
	for _, name := range names {
		if _, err := w.serialAt(g, name); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	proceed()
	w.renewed(t, names[0], "after the controller's pause", g)
}

// TestEvents counts what reaches a real Envoy when services scale and
// certificates are renewed: with the relay, then without it.
func TestEvents(t *testing.T) {
	w := stackWithRelay(t)
	w.serve(t, named("own", services), "")
	const events = 10
	// Each event is waited for, so that none is merged with another.
	scaling := func(n int, g *gateway) {
		for i := range events {
			before := w.updatesOf(t, g)
			w.scale(t, own(i), n)
			until(t, "the clusters to change", func() error {
				if w.updatesOf(t, g).clusters == before.clusters {
					return errors.New("no update of clusters")
				}
				return nil
			})
		}
	}
	renewing := func() {
		for i := range events {
			serial := w.secret(t, own(i), host(own(i)))
			until(t, "the renewed certificate", func() error {
				got, err := w.answer(own(i))
				if err == nil && got != serial {
					err = fmt.Errorf("it is still %s, not %s", got, serial)
				}
				return err
			})
		}
	}

	before := w.settle(t)
	scaling(2, nil)
	after := w.settle(t)
	t.Logf("relay, %d scaling events: %+v to %+v", events, before, after)
	if after.listeners != before.listeners || after.modified != before.modified {
		t.Errorf("scaling changed listeners: %+v, before %+v", after, before)
	}
	before = after
	renewing()
	after = w.settle(t)
	t.Logf("relay, %d renewals: %+v to %+v", events, before, after)
	if after.listeners != before.listeners || after.modified != before.modified {
		t.Errorf("renewals changed listeners: %+v, before %+v", after, before)
	}

	// The control: an Envoy without the relay, and the same services.
	stock, _, _ := kinds(t)
	g := w.start(t, "stock", stock)
	before = w.settled(t, g)
	scaling(1, g)
	after = w.settled(t, g)
	t.Logf("stock, %d scaling events: %+v to %+v", events, before, after)
	if after.modified-before.modified < events {
		t.Errorf("without the relay, %d scaling events changed listeners %d times only: the test would not see a fault", events, after.modified-before.modified)
	}
}

// TestOnDemand lets an Envoy speak delta, and load certificates when they are first
// asked for. In a pod, so that net-kourier's prober does not ask for any.
func TestOnDemand(t *testing.T) {
	w := stackWithRelay(t)
	names := named("demand", 12)
	w.serve(t, names, "")
	_, delta, _ := kinds(t)
	sotw := delta.bootstrap
	if delta.bootstrap = strings.Replace(sotw, "api_type: GRPC", "api_type: DELTA_GRPC", 1); delta.bootstrap == sotw {
		t.Fatal("the bootstrap configuration has no api_type: GRPC")
	}
	g := w.start(t, "delta", delta)
	for _, name := range names[:2] {
		if _, err := w.serialAt(g, name); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	// Envoy's /certs does not list what is loaded on demand; the relay knows what
	// was asked for.
	if n := w.asked(t); n != 2 {
		t.Errorf("Envoy asks for %d certificates, and two of %d services were used", n, len(names))
	}
	// One that there is none for is refused in the handshake, and not kept waiting.
	conn, err := w.stack.DialPod(t.Context(), g.name, 8443)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := tls.Client(conn, &tls.Config{RootCAs: w.ca.pool, ServerName: host("demand-nobody")}).HandshakeContext(t.Context()); err == nil {
		t.Error("a name that nobody has is served")
	}
	w.renewed(t, names[0], "which has it loaded", g)
}

// asked is how many secrets the gateway subscribes to.
func (w *world) asked(t *testing.T) int {
	t.Helper()
	dump, err := exec.Command(w.program, "dump", "--address", "http://"+w.stack.RelayLocal).Output()
	if err != nil {
		t.Fatal(err)
	}
	var d struct {
		Gateways []struct {
			OnDemand bool
			Types    []struct {
				Type  string
				Asked int
			}
		}
	}
	if err := json.Unmarshal(dump, &d); err != nil {
		t.Fatal(err)
	}
	for _, g := range d.Gateways {
		for _, x := range g.Types {
			if g.OnDemand && x.Type == "secrets" {
				return x.Asked
			}
		}
	}
	t.Fatal("no gateway loads certificates on demand")
	return 0
}
