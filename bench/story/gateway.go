package main

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
	"regexp"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/certherd/certherd/e2e/plot"
	"github.com/certherd/certherd/e2e/proc"
	"github.com/certherd/certherd/e2e/stack"
)

// gateway is the stack's own Envoy, or one in a pod behind the relay. Both are given
// what the same net-kourier has.
type gateway struct {
	w                 *world
	name, pod, config string

	mu     sync.Mutex
	result result
	stop   context.CancelFunc
	ended  sync.WaitGroup
}

// start runs the pod with the relay as a sidecar.
func (g *gateway) start(ctx context.Context) error {
	bootstrap, err := os.ReadFile(g.w.stack.Dir + "/" + stack.BootstrapFile)
	if err != nil {
		return err
	}
	text := regexp.MustCompile(`net-kourier-controller\.knative-serving`).ReplaceAll(bootstrap, []byte("127.0.0.1"))
	text = regexp.MustCompile(`port_value: 18000\b`).ReplaceAll(text, fmt.Appendf(nil, "port_value: %d", sidecar))
	if err := os.WriteFile(g.config, text, 0o644); err != nil {
		return err
	}
	return g.w.stack.RunPod(ctx, stack.Pod{Name: g.pod, Containers: []stack.Container{
		{Name: "relay", Program: g.w.folder + "/certherd-relay", Args: []string{"--upstream", fmt.Sprintf("10.99.0.1:%d", stack.ControllerXDS), "--listen", fmt.Sprintf("127.0.0.1:%d", sidecar), "--local", "127.0.0.1:9105"}},
		{Name: "envoy", Program: "envoy", Args: []string{"-c", g.config, "--log-level", "error", "--drain-time-s", "15", "--drain-strategy", "immediate", "--disable-hot-restart", "--concurrency", "1"}},
	}})
}

// sidecar is the relay's port in the pod.
const sidecar = 18002

func (g *gateway) client() (client *http.Client, admin string) {
	if g.pod != "" {
		return g.w.stack.PodClient(g.pod, 9901), "127.0.0.1:9901"
	}
	return http.DefaultClient, g.w.stack.EnvoyAdmin
}

func (g *gateway) stats(ctx context.Context, pattern string) (map[string]int, error) {
	if g.pod != "" {
		return g.w.stack.PodStats(ctx, g.pod, pattern)
	}
	return stack.EnvoyStats(ctx, g.w.stack.EnvoyAdmin, pattern)
}

// loaded is how many certificates it has.
func (g *gateway) loaded(ctx context.Context) (int, error) {
	client, admin := g.client()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+admin+"/certs", nil)
	if err != nil {
		return 0, err
	}
	answer, err := client.Do(request)
	if err != nil {
		return 0, err
	}
	defer answer.Body.Close()
	var loaded struct{ Certificates []json.RawMessage }
	if err := json.NewDecoder(answer.Body).Decode(&loaded); err != nil {
		return 0, err
	}
	return len(loaded.Certificates), nil
}

// pid is that of its Envoy, 0 if there is none at present.
func (g *gateway) pid() int {
	pids, err := g.w.stack.Processes("envoy")
	if err != nil {
		return 0
	}
	for _, pid := range pids {
		line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if err == nil && strings.Contains(string(line), "\x00"+g.config+"\x00") {
			return pid
		}
	}
	return 0
}

// restart gives it a process that holds no memory of what was before. The stack starts
// it again.
func (g *gateway) restart(ctx context.Context) error {
	pid := g.pid()
	if pid == 0 {
		return nil // it starts at this moment
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		return err
	}
	for proc.Anonymous(pid) > 0 {
		if err := sleep(ctx, 10*time.Millisecond); err != nil {
			return err
		}
	}
	return nil
}

// settle waits until nothing drains and the service that was made last is served.
func (g *gateway) settle(ctx context.Context) error {
	var last error
	for end, quiet := time.Now().Add(10*time.Minute), 0; quiet < 5; {
		s, err := g.stats(ctx, "^listener_manager.(total_|lds)")
		switch {
		case err != nil:
			last = err
		case s["listener_manager.total_listeners_warming"]+s["listener_manager.total_listeners_draining"]+s["listener_manager.total_filter_chains_draining"] != 0:
			last = fmt.Errorf("it still drains: %v", s)
		default:
			last = g.get(ctx, len(g.w.ci.services)-1, "/", 20*time.Second)
		}
		if quiet++; last != nil {
			quiet = 0
		}
		if time.Now().After(end) {
			return fmt.Errorf("the gateway %s does not come to rest: %w", g.name, last)
		}
		if err := sleep(ctx, 500*time.Millisecond); err != nil {
			return err
		}
	}
	return nil
}

// get asks a service over a connection of its own.
func (g *gateway) get(ctx context.Context, i int, path string, patience time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	s := g.w.ci.services[i]
	host := s.Name + "." + s.Namespace + "." + stack.Domain
	transport := &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{RootCAs: g.w.roots, ServerName: host}, DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
		if g.pod != "" {
			return g.w.stack.DialPod(ctx, g.pod, 8443)
		}
		return new(net.Dialer).DialContext(ctx, network, g.w.stack.GatewayTLS)
	}}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+host+path, nil)
	if err != nil {
		return err
	}
	answer, err := transport.RoundTrip(request)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if _, err := io.Copy(io.Discard, answer.Body); err != nil {
		return err
	}
	if answer.StatusCode != http.StatusOK {
		return errors.New(answer.Status)
	}
	return nil
}

// begin watches the gateway, guards it, and asks it all the time until an end; long
// requests that are under way then are waited for.
func (g *gateway) begin(ctx context.Context, loaded int, until time.Time) {
	g.result = result{gateway: g.name, loaded: loaded}
	begun := time.Now()
	watching, stop := context.WithCancel(ctx)
	g.stop = stop
	go g.guard(watching, begun)
	go g.count(watching)
	for c := range g.w.clients {
		g.ended.Go(func() {
			// Services that the CI leaves alone in this time.
			for i := c; time.Now().Before(until) && ctx.Err() == nil; i += g.w.clients {
				err := g.get(ctx, i%(g.w.services/4), fmt.Sprintf("/?ms=%d", g.w.request.Milliseconds()), 2*g.w.request)
				g.tell(&g.result.long, &g.result.longCut, err)
			}
		})
	}
	for c := range 2 {
		g.ended.Go(func() {
			for i := c; time.Now().Before(until) && ctx.Err() == nil; i += 2 {
				g.tell(&g.result.short, &g.result.shortFailed, g.get(ctx, i%(g.w.services/4), "/", 10*time.Second))
				time.Sleep(200 * time.Millisecond)
			}
		})
	}
}

func (g *gateway) tell(all, failed *int, err error) {
	g.mu.Lock()
	*all++
	if err != nil {
		*failed++
		if g.result.example == "" {
			g.result.example = err.Error()
		}
	}
	g.mu.Unlock()
	if err != nil {
		time.Sleep(time.Second) // as a client does that tries again
	}
}

// guard samples the memory, and kills what has too much, as the kernel would for the
// limit of a container. The stack starts it again a second later.
func (g *gateway) guard(ctx context.Context, begun time.Time) {
	pid, drawn := g.pid(), time.Time{}
	g.mu.Lock()
	g.result.rest = proc.Anonymous(pid)
	g.mu.Unlock()
	for highest := 0.0; sleep(ctx, 20*time.Millisecond) == nil; {
		mib := proc.Anonymous(pid)
		if mib == 0 {
			pid = g.pid()
		}
		killed := mib > float64(g.w.guard)
		if killed {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
		highest = max(highest, mib)
		g.mu.Lock()
		g.result.peak = max(g.result.peak, mib)
		if killed {
			g.result.killed++
		}
		if killed || mib == 0 || time.Since(drawn) > time.Second {
			drawn = time.Now()
			if n := len(g.result.memory); mib > 0 || n == 0 || g.result.memory[n-1].Value > 0 {
				g.result.memory = append(g.result.memory, plot.Point{At: time.Since(begun), Value: highest})
			}
			highest = 0
		}
		g.mu.Unlock()
		for killed && proc.Anonymous(pid) > 0 && sleep(ctx, 5*time.Millisecond) == nil {
		}
	}
}

// count adds up the updates of listeners, over the ends of the process.
func (g *gateway) count(ctx context.Context) {
	const name = "listener_manager.lds.update_success"
	last := -1
	for ; ; _ = sleep(ctx, time.Second) {
		if ctx.Err() != nil {
			return
		}
		s, err := g.stats(ctx, `^listener_manager\.lds\.update_success$`)
		if err != nil {
			continue // it starts again
		}
		now := s[name]
		g.mu.Lock()
		switch {
		case last >= 0 && now >= last:
			g.result.updates += now - last
		case last >= 0:
			g.result.updates += now
		}
		g.mu.Unlock()
		last = now
	}
}

// end waits for the requests that are under way.
func (g *gateway) end() result {
	g.ended.Wait()
	g.stop()
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.result
}
