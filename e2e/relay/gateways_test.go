package relay

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"

	"github.com/certherd/certherd/e2e/stack"
)

// A kind of gateway is what a pod of Kourier's Deployment runs, as the manifests
// have it.
type kind struct {
	name       string
	bootstrap  string
	deployment appsv1.Deployment
}

// kinds are the gateway without the relay, and in both ways of installing it.
func kinds(t *testing.T) (stock, deployment, sidecar kind) {
	t.Helper()
	gateway, configMaps, _ := installed(t, "relay")
	stock = kind{"stock", configMaps["kourier-bootstrap"], gateway}
	// In the stack, every name has one address, and there net-kourier has this port.
	port := strings.Replace(configMaps["kourier-bootstrap-relay"], fmt.Sprintf("port_value: %d", stack.ControllerXDS), fmt.Sprintf("port_value: %d", stack.RelayXDS), 1)
	deployment = kind{"deployment", port, gateway}
	gateway, configMaps, _ = installed(t, "relay-sidecar")
	return stock, deployment, kind{"sidecar", configMaps["kourier-bootstrap-sidecar"], gateway}
}

// gateway is one Envoy in a pod of its own, and the connections of clients to it.
type gateway struct {
	name   string
	client *http.Client
	// held is how many clients may send it requests, passing how many of those have
	// none open that they would stay for.
	held, passing int
}

// start runs a gateway, and waits until it is ready as the kubelet would see it.
func (w *world) start(t *testing.T, name string, k kind) *gateway {
	t.Helper()
	w.run(t, name, k, nil)
	g := &gateway{name: name, client: &http.Client{Timeout: time.Minute, Transport: &http.Transport{MaxIdleConnsPerHost: 10,
		TLSClientConfig: &tls.Config{RootCAs: w.ca.pool},
		DialContext:     func(ctx context.Context, _, _ string) (net.Conn, error) { return w.stack.DialPod(ctx, name, 8443) }}}}
	w.isReady(t, g)
	return g
}

// run runs a gateway's pod, with its containers changed by change, which may be nil.
func (w *world) run(t *testing.T, name string, k kind, change func(*stack.Container)) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "envoy.yaml")
	if err := os.WriteFile(file, []byte(k.bootstrap), 0o644); err != nil {
		t.Fatal(err)
	}
	pod := stack.Pod{Name: name}
	for _, c := range k.deployment.Spec.Template.Spec.InitContainers {
		if k.name == "sidecar" {
			pod.Containers = append(pod.Containers, stack.Container{Name: c.Name, Program: w.program, Args: c.Args})
		}
	}
	pod.Containers = append(pod.Containers, stack.Container{Name: "envoy", Program: "envoy",
		Args: []string{"-c", file, "--log-level", "info", "--drain-time-s", "15", "--drain-strategy", "immediate", "--disable-hot-restart", "--concurrency", "1"}})
	for i := range pod.Containers {
		if change != nil {
			change(&pod.Containers[i])
		}
	}
	if err := w.stack.RunPod(t.Context(), pod); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.stack.StopPod(context.Background(), name) }) // most have been stopped
}

// isReady waits until the readiness probe of Kourier's Deployment passes.
func (w *world) isReady(t *testing.T, g *gateway) {
	t.Helper()
	until(t, g.name+" to be ready", func() error {
		answer, err := w.stack.PodClient(g.name, 8081).Get("http://internalkourier/ready")
		if err != nil {
			return err
		}
		defer answer.Body.Close()
		if answer.StatusCode != http.StatusOK {
			return errors.New(answer.Status)
		}
		return nil
	})
}

// traffic is clients that ask all the time, each at a gateway that a Service would
// lead to: any that is ready, for each connection.
type traffic struct {
	w     *world
	hosts []string
	stop  chan struct{}
	ended sync.WaitGroup

	mu     sync.Mutex
	ready  []*gateway
	turn   int
	asked  int
	failed []failure
}

// failure is a request that failed, of a client that was led to a gateway at a time.
type failure struct {
	gateway string
	led     time.Time
	err     error
}

const clients = 6

// ask begins the traffic. Half of the clients stay with a connection until the
// gateway ends it, the others make one for each request; some requests take a
// while.
func (w *world) ask(names []string, ready ...*gateway) *traffic {
	f := &traffic{w: w, hosts: names, stop: make(chan struct{}), ready: ready}
	for i := range clients {
		f.ended.Go(func() { f.client(i) })
	}
	return f
}

func (f *traffic) client(i int) {
	stays := i%2 == 0
	var g *gateway
	var led time.Time
	for n := 0; ; n++ {
		select {
		case <-f.stop:
			return
		case <-time.After(5 * time.Millisecond):
		}
		if g == nil {
			if g, led = f.take(stays); g == nil {
				continue // none is ready
			}
		}
		last, err := f.once(g, f.hosts[n%len(f.hosts)], map[bool]int{true: 300}[n%4 == 0], stays)
		f.mu.Lock()
		f.asked++
		if err != nil {
			f.failed = append(f.failed, failure{g.name, led, err})
		}
		f.mu.Unlock()
		if last || err != nil || !stays {
			f.leave(g, stays)
			g = nil
		}
	}
}

// once makes a request; last says that the gateway ends the connection.
func (f *traffic) once(g *gateway, name string, ms int, stays bool) (last bool, err error) {
	request, err := http.NewRequest(http.MethodGet, fmt.Sprintf("https://%s/?ms=%d", host(name), ms), nil)
	if err != nil {
		return false, err
	}
	request.Close = !stays
	answer, err := g.client.Do(request)
	if err != nil {
		return false, err
	}
	defer answer.Body.Close()
	if _, err := io.Copy(io.Discard, answer.Body); err != nil {
		return false, err
	}
	if answer.StatusCode != http.StatusOK {
		return false, errors.New(answer.Status)
	}
	return answer.Close, nil
}

func (f *traffic) take(stays bool) (*gateway, time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.ready) == 0 {
		return nil, time.Time{}
	}
	f.turn++
	g := f.ready[f.turn%len(f.ready)]
	g.held++
	if !stays {
		g.passing++
	}
	return g, time.Now()
}

func (f *traffic) leave(g *gateway, stays bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	g.held--
	if !stays {
		g.passing--
	}
}

func (f *traffic) add(g *gateway) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ready = append(f.ready, g)
}

func (f *traffic) remove(g *gateway) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ready = slices.DeleteFunc(slices.Clone(f.ready), func(x *gateway) bool { return x == g })
}

// results are those of all requests since the last call.
func (f *traffic) results() (asked int, failed []failure) {
	f.mu.Lock()
	defer f.mu.Unlock()
	asked, failed = f.asked, f.failed
	f.asked, f.failed = 0, nil
	return asked, failed
}

func (f *traffic) end() { close(f.stop); f.ended.Wait() }

// retire takes a gateway out of service as the kubelet does: no new connections
// once it is not ready, then what the Deployment's preStop hook does, and SIGTERM.
// The hook sleeps for the drain time; here, it is for as long as clients stay.
func (f *traffic) retire(t *testing.T, g *gateway) {
	t.Helper()
	f.remove(g)
	waitFor := func(what string, n *int) {
		until(t, what, func() error {
			f.mu.Lock()
			defer f.mu.Unlock()
			if *n > 0 {
				return fmt.Errorf("%d clients have not", *n)
			}
			return nil
		})
	}
	// What was begun when it was ready has its connection then.
	waitFor("passing clients to leave "+g.name, &g.passing)
	answer, err := f.w.stack.PodClient(g.name, 9901).Post("http://localhost:9901/drain_listeners?graceful", "", nil)
	if err != nil {
		t.Fatal(err)
	}
	answer.Body.Close()
	waitFor("clients to leave "+g.name, &g.held)
	g.client.CloseIdleConnections()
	if err := f.w.stack.StopPod(t.Context(), g.name); err != nil {
		t.Fatal(err)
	}
}

// serial of the certificate that a gateway shows for a service.
func (w *world) serialAt(g *gateway, name string) (string, error) {
	client := &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{RootCAs: w.ca.pool},
		DialContext: g.client.Transport.(*http.Transport).DialContext}}
	answer, err := client.Get("https://" + host(name) + "/")
	if err != nil {
		return "", err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return "", errors.New(answer.Status)
	}
	return answer.TLS.PeerCertificates[0].SerialNumber.String(), nil
}

// renewed renews a certificate, and waits until each gateway shows the new one.
func (w *world) renewed(t *testing.T, name, when string, gateways ...*gateway) {
	t.Helper()
	serial := w.secret(t, name, host(name))
	for _, g := range gateways {
		until(t, fmt.Sprintf("a renewal to get to %s %s", g.name, when), func() error {
			got, err := w.serialAt(g, name)
			if err == nil && got != serial {
				err = fmt.Errorf("it is still %s, not %s", got, serial)
			}
			return err
		})
	}
}

// dumped is what a test reads of a relay's dump.
type dumped struct {
	Gateways []struct {
		Address string
		Types   []struct{ Type, Wanted, Accepted string }
	}
}

func (w *world) dump(client *http.Client, address string) (d dumped, err error) {
	answer, err := client.Get("http://" + address + "/dump")
	if err != nil {
		return d, err
	}
	defer answer.Body.Close()
	return d, json.NewDecoder(answer.Body).Decode(&d)
}

// accepted are the versions that all gateways of relays have accepted, by type; an
// error says that they are not the same.
func (w *world) accepted(relays map[string]func() (dumped, error)) (map[string]string, error) {
	versions := map[string]string{}
	for name, dump := range relays {
		d, err := dump()
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		if len(d.Gateways) == 0 {
			return nil, fmt.Errorf("%s has no gateway", name)
		}
		for _, g := range d.Gateways {
			for _, x := range g.Types {
				if before, ok := versions[x.Type]; ok && before != x.Accepted {
					return nil, fmt.Errorf("the gateways have %s of %s, and %s of %s", x.Type, before, name, x.Accepted)
				}
				versions[x.Type] = x.Accepted
			}
		}
	}
	return versions, nil
}

// TestInstalling puts the relay in and takes it out again, in both ways, while
// clients ask all the time: no request fails.
func TestInstalling(t *testing.T) {
	w := stackWithRelay(t)
	names := named("moved", 4)
	w.serve(t, names, "")
	stock, deployment, sidecar := kinds(t)
	old := []*gateway{w.start(t, "stock-1", stock), w.start(t, "stock-2", stock)}
	f := w.ask(names, old...)
	defer f.end()
	// The rolling update of Kourier's Deployment: a new gateway is ready before an
	// old one leaves.
	for round, to := range []kind{deployment, stock, sidecar, deployment, sidecar, stock} {
		begun := time.Now()
		var fresh []*gateway
		for i, before := range old {
			g := w.start(t, fmt.Sprintf("%s-%d-%d", to.name, round, i+1), to)
			fresh = append(fresh, g)
			f.add(g)
			f.retire(t, before)
			// The controller's events go on.
			w.scale(t, names[i], 1+(round+1)%2)
		}
		w.renewed(t, names[round%len(names)], "after the move to "+to.name, fresh...)
		if round == 2 {
			w.sameEverywhere(t, fresh)
		}
		old = fresh
		asked, failed := f.results()
		t.Logf("to %s: %d requests in %.1f s", to.name, asked, time.Since(begun).Seconds())
		if asked == 0 {
			t.Error("no request was made")
		}
		if len(failed) > 0 {
			t.Errorf("%d of %d requests failed, the first at %s: %v", len(failed), asked, failed[0].gateway, failed[0].err)
		}
	}
	for _, g := range old {
		f.retire(t, g)
	}
}

// sameEverywhere waits until gateways with a relay each, and that of the stack's
// own relay, have accepted the same versions: none of the relays leads.
func (w *world) sameEverywhere(t *testing.T, sidecars []*gateway) {
	t.Helper()
	relays := map[string]func() (dumped, error){"the stack's relay": func() (dumped, error) { return w.dump(http.DefaultClient, w.stack.RelayLocal) }}
	for _, g := range sidecars {
		relays[g.name] = func() (dumped, error) { return w.dump(w.stack.PodClient(g.name, 9105), "relay") }
	}
	until(t, "all relays to say the same", func() error {
		versions, err := w.accepted(relays)
		for _, typ := range []string{"clusters", "secrets", "routes", "listeners"} {
			if err == nil && versions[typ] == "" {
				err = fmt.Errorf("no version of %s: %v", typ, versions)
			}
		}
		return err
	})
}

// TestKillOrders kills gateway, relay and controller, one after the other, in every
// order. With two gateways, no request fails but at most one of each client that had
// been led to the gateway that was killed, with the relay and without.
func TestKillOrders(t *testing.T) {
	w := stackWithRelay(t)
	names := named("killed", 4)
	w.serve(t, names, "")
	stock, deployment, _ := kinds(t)
	cut := 0
	for _, arm := range []struct {
		kind
		orders [][]string
	}{
		{stock, [][]string{{"gateway", "controller"}, {"controller", "gateway"}}},
		{deployment, [][]string{{"relay"}, {"controller"}, {"gateway"},
			{"gateway", "relay", "controller"}, {"gateway", "controller", "relay"}, {"relay", "gateway", "controller"},
			{"relay", "controller", "gateway"}, {"controller", "gateway", "relay"}, {"controller", "relay", "gateway"}}},
	} {
		t.Run(arm.name, func(t *testing.T) {
			two := []*gateway{w.start(t, arm.name+"-1", arm.kind), w.start(t, arm.name+"-2", arm.kind)}
			f := w.ask(names, two...)
			defer f.end()
			for i, order := range arm.orders {
				killed := two[i%2]
				var unready time.Time
				for _, what := range order {
					switch what {
					case "relay":
						w.kill(t, "certherd-relay")
					case "controller":
						w.kill(t, "kourier")
					case "gateway":
						// A Service leads to it for a moment longer: how many requests that
						// costs says how busy the machine is, and nothing of the relay.
						f.remove(killed)
						unready = time.Now()
						until(t, killed.name+" to be killed", func() error {
							return w.stack.SignalPod(t.Context(), killed.name, "envoy", syscall.SIGKILL)
						})
					}
				}
				what := strings.Join(order, ", ")
				if !unready.IsZero() {
					w.restarted(t, killed)
					f.add(killed)
				}
				w.renewed(t, names[0], "after "+what+" were killed", two...)
				asked, failed := f.results()
				var wrong []failure
				for _, x := range failed {
					if x.gateway != killed.name || x.led.After(unready) {
						wrong = append(wrong, x)
					}
				}
				cut += len(failed) - len(wrong)
				t.Logf("%s, %s killed: %d requests, %d were with the gateway that was killed", arm.name, what, asked, len(failed)-len(wrong))
				if len(wrong) > 0 {
					t.Errorf("%s: %d of %d requests failed that would not have without the relay, the first at %s, where %s was killed: %v", what, len(wrong), asked, wrong[0].gateway, killed.name, wrong[0].err)
				}
				if n := len(failed) - len(wrong); n > clients {
					t.Errorf("%s: %d requests of %d clients failed at the gateway that was killed", what, n, clients)
				}
			}
			for _, g := range two {
				f.retire(t, g)
			}
		})
	}
	if cut == 0 {
		t.Error("no request was cut by a gateway's end: the test would not see a fault")
	}
}

// kill kills a program of the stack, which is then started again.
func (w *world) kill(t *testing.T, program string) {
	t.Helper()
	until(t, program+" to be killed", func() error { return w.stack.Signal(program, syscall.SIGKILL) })
}

// restarted waits until a killed gateway has ended, and is ready again.
func (w *world) restarted(t *testing.T, g *gateway) {
	t.Helper()
	g.client.CloseIdleConnections()
	w.isReady(t, g)
}
