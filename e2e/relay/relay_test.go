package relay

import (
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/websocket"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/certherd/certherd/e2e/stack"
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

// ready says why net-kourier does not call an ingress Ready yet.
func (w *world) ready(t *testing.T, name string) error {
	object, err := w.dynamic.Resource(kIngresses).Namespace(namespace).Get(t.Context(), name, metav1.GetOptions{})
	if err != nil {
		return err
	}
	conditions, _, _ := unstructured.NestedSlice(object.Object, "status", "conditions")
	for _, c := range conditions {
		if c, ok := c.(map[string]any); ok && c["type"] == "Ready" && c["status"] == "True" {
			return nil
		}
	}
	return fmt.Errorf("its conditions are %v", conditions)
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

// TestKill kills each part under traffic. A request may fail only while there is
// no gateway, which would be so without the relay.
func TestKill(t *testing.T) {
	w := stackWithRelay(t)
	names := named("kept", 4)
	w.serve(t, names, "")
	w.settle(t)
	// traffic asks all the time, until something is done, and says what failed.
	traffic := func(until func()) (asked int, failed []error) {
		stop, done := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(done)
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				case <-time.After(10 * time.Millisecond):
				}
				asked++
				if _, err := w.answer(names[i%len(names)]); err != nil {
					failed = append(failed, err)
				}
			}
		}()
		until()
		close(stop)
		<-done
		return asked, failed
	}
	// followed waits until an event gets through from the controller to Envoy.
	followed := func(what string) {
		serial := w.secret(t, names[0], host(names[0]))
		until(t, "a renewal to get through after "+what, func() error {
			got, err := w.answer(names[0])
			if err == nil && got != serial {
				err = fmt.Errorf("it is still %s, not %s", got, serial)
			}
			return err
		})
	}
	for _, order := range [][]string{{"certherd-relay"}, {"kourier"}, {"certherd-relay", "kourier"}, {"kourier", "certherd-relay"}} {
		what := strings.Join(order, " and ")
		asked, failed := traffic(func() {
			for _, program := range order {
				w.restart(t, program, syscall.SIGKILL)
			}
			followed("killing " + what)
		})
		t.Logf("%s killed: %d requests", what, asked)
		if len(failed) > 0 {
			t.Errorf("%d of %d requests failed after %s was killed, the first: %v", len(failed), asked, what, failed[0])
		}
	}
	for _, order := range [][]string{{"envoy"}, {"certherd-relay", "envoy"}, {"envoy", "certherd-relay"}, {"kourier", "envoy"}} {
		for _, program := range order {
			w.restart(t, program, syscall.SIGKILL)
		}
		w.served(t, names)
		followed("killing " + strings.Join(order, " and "))
	}
	// A gateway that starts while the controller is away gets the last state.
	if err := w.stack.Signal("kourier", syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	w.restart(t, "envoy", syscall.SIGKILL)
	w.served(t, names)
	if err := w.stack.Signal("kourier", syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	followed("the controller's pause")
}

// TestEvents counts what reaches a real Envoy when services scale and
// certificates are renewed: with the relay, then without it.
func TestEvents(t *testing.T) {
	w := stackWithRelay(t)
	w.serve(t, named("own", services), "")
	const events = 10
	// Each event is waited for, so that none is merged with another.
	scaling := func(n int) {
		for i := range events {
			before := w.updates(t)
			w.scale(t, own(i), n)
			until(t, "the clusters to change", func() error {
				if w.updates(t).clusters == before.clusters {
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
	scaling(2)
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

	// The control: the same Envoy, the same services, without the relay.
	if err := w.stack.PointEnvoy(stack.ControllerXDS); err != nil {
		t.Fatal(err)
	}
	w.restart(t, "envoy", syscall.SIGTERM)
	w.served(t, named("own", services))
	before = w.settle(t)
	scaling(1)
	after = w.settle(t)
	t.Logf("stock, %d scaling events: %+v to %+v", events, before, after)
	if after.modified-before.modified < events {
		t.Errorf("without the relay, %d scaling events changed listeners %d times only: the test would not see a fault", events, after.modified-before.modified)
	}

	// And back to it.
	if err := w.stack.PointEnvoy(stack.RelayXDS); err != nil {
		t.Fatal(err)
	}
	w.restart(t, "envoy", syscall.SIGTERM)
	w.served(t, named("own", services))
	if n := w.metric(t, "certherd_relay_gateways"); n != 1 {
		t.Errorf("the relay has %v gateways", n)
	}
}

// TestOnDemand lets Envoy speak delta, and load certificates when they are first
// asked for.
func TestOnDemand(t *testing.T) {
	w := stackWithRelay(t)
	names := named("demand", 12)
	w.serve(t, names, "")
	// net-kourier probes an ingress until it is Ready, and asks for its certificate
	// each time.
	for _, name := range names {
		until(t, name+" to be ready", func() error { return w.ready(t, name) })
	}
	file := filepath.Join(w.stack.Dir, "envoy.yaml")
	before, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	delta := strings.Replace(string(before), "api_type: GRPC", "api_type: DELTA_GRPC", 1)
	if delta == string(before) {
		t.Fatal("the bootstrap configuration has no api_type: GRPC")
	}
	if err := os.WriteFile(file, []byte(delta), 0o600); err != nil {
		t.Fatal(err)
	}
	w.restart(t, "envoy", syscall.SIGTERM)
	w.served(t, names[:2])
	// Envoy's /certs does not list what is loaded on demand; the relay knows what
	// was asked for. net-kourier's prober may have asked for some, too, on behalf of
	// other tests.
	if n := w.asked(t); n < 2 || n >= len(names) {
		t.Errorf("Envoy asks for %d certificates, and two of %d services were used", n, len(names))
	}
	if conn, err := w.dial("demand-nobody"); err == nil {
		conn.Close()
		t.Error("a name that nobody has is served")
	}
	// A renewal reaches what is loaded.
	serial := w.secret(t, names[0], host(names[0]))
	until(t, "the renewed certificate", func() error {
		got, err := w.answer(names[0])
		if err == nil && got != serial {
			err = fmt.Errorf("it is still %s, not %s", got, serial)
		}
		return err
	})
	if err := os.WriteFile(file, before, 0o600); err != nil {
		t.Fatal(err)
	}
	w.restart(t, "envoy", syscall.SIGTERM)
	w.served(t, names)
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
