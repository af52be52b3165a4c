package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	"sigs.k8s.io/yaml"

	"github.com/certherd/certherd/e2e/proc"
	"github.com/certherd/certherd/e2e/stack"
)

const (
	relayPort = 18001
	drain     = 15 * time.Second
)

// programs are what the bench runs.
type programs struct {
	Envoy, Relay, Bootstrap, Folder string
}

// bootstrap is Kourier's own, led to a port of this host.
func (p programs) bootstrap(port int) (string, error) {
	content, err := os.ReadFile(p.Bootstrap)
	if err != nil {
		return "", err
	}
	var object struct{ Data map[string]string }
	if err := yaml.Unmarshal(content, &object); err != nil {
		return "", err
	}
	text := object.Data["envoy-bootstrap.yaml"]
	text = strings.ReplaceAll(text, "net-kourier-controller.knative-serving", "127.0.0.1")
	text = regexp.MustCompile(`port_value: 18000\b`).ReplaceAllString(text, fmt.Sprintf("port_value: %d", port))
	file := filepath.Join(p.Folder, fmt.Sprintf("envoy-%d.yaml", port))
	return file, os.WriteFile(file, []byte(text), 0o644)
}

// process is a program that was started.
type process struct {
	cmd   *exec.Cmd
	ended chan struct{}
	guard atomic.Int64 // MiB of RssAnon that it must not pass; 0 for none
	// killedAt is when the guard killed it.
	killed atomic.Bool
	mu     sync.Mutex
	peak   float64
}

func start(ctx context.Context, log io.Writer, program string, args ...string) (*process, error) {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	p := &process{cmd: cmd, ended: make(chan struct{})}
	go func() { _ = cmd.Wait(); close(p.ended) }() // it is ended by a signal
	go p.watch()
	return p, nil
}

// watch keeps the peak of the process's anonymous memory, and the guard.
func (p *process) watch() {
	for {
		select {
		case <-p.ended:
			return
		case <-time.After(10 * time.Millisecond):
		}
		mib := p.anonymous()
		p.mu.Lock()
		p.peak = max(p.peak, mib)
		p.mu.Unlock()
		if guard := p.guard.Load(); guard > 0 && mib > float64(guard) && p.killed.CompareAndSwap(false, true) {
			_ = p.cmd.Process.Kill()
		}
	}
}

func (p *process) anonymous() float64 { return proc.Anonymous(p.cmd.Process.Pid) }

// fresh begins a new peak.
func (p *process) fresh() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.peak = p.anonymous()
}

func (p *process) highest() float64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.peak
}

func (p *process) cpu() time.Duration { return proc.CPU(p.cmd.Process.Pid) }

func (p *process) stop() {
	_ = p.cmd.Process.Kill()
	<-p.ended
}

// bed is a controller, an Envoy, and between them a relay or not.
type bed struct {
	ctx     context.Context
	kourier *kourier
	envoy   *process
	relay   *process
	logs    []io.Closer

	mu       sync.Mutex
	accepted map[string]time.Time // by the relay's name of the type
	tell     chan struct{}
}

// shortNames are what the relay's log calls the types.
var shortNames = map[string]string{resource.ClusterType: "clusters", resource.RouteType: "routes", resource.ListenerType: "listeners", resource.SecretType: "secrets"}

func newBed(ctx context.Context, p programs, k *kourier, withRelay bool, relayArgs ...string) (*bed, error) {
	b := &bed{ctx: ctx, kourier: k, accepted: map[string]time.Time{}, tell: make(chan struct{}, 1)}
	port := controllerPort
	if withRelay {
		port = relayPort
		reader, writer := io.Pipe()
		b.logs = append(b.logs, writer)
		go b.follow(reader)
		var err error
		if b.relay, err = start(ctx, writer, p.Relay, append([]string{"--upstream", fmt.Sprintf("127.0.0.1:%d", controllerPort),
			"--listen", fmt.Sprintf("127.0.0.1:%d", relayPort), "--local", "127.0.0.1:9105", "--log-level", "debug"}, relayArgs...)...); err != nil {
			return nil, err
		}
	}
	bootstrap, err := p.bootstrap(port)
	if err != nil {
		return nil, errors.Join(err, b.close())
	}
	log, err := os.Create(filepath.Join(p.Folder, "envoy.log"))
	if err != nil {
		return nil, errors.Join(err, b.close())
	}
	b.logs = append(b.logs, log)
	if b.envoy, err = start(ctx, log, p.Envoy, "-c", bootstrap, "--log-level", "error", "--disable-hot-restart", "--concurrency", "2",
		"--drain-time-s", strconv.Itoa(int(drain.Seconds())), "--drain-strategy", "immediate"); err != nil {
		return nil, errors.Join(err, b.close())
	}
	return b, nil
}

func (b *bed) close() error {
	for _, p := range []*process{b.envoy, b.relay} {
		if p != nil {
			p.stop()
		}
	}
	var errs []error
	for _, l := range b.logs {
		errs = append(errs, l.Close())
	}
	return errors.Join(errs...)
}

// follow reads the relay's log for what the gateway accepted.
func (b *bed) follow(r io.Reader) {
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var line struct{ Msg, Type, Level string }
		if json.Unmarshal(lines.Bytes(), &line) != nil {
			fmt.Fprintln(os.Stderr, "relay:", lines.Text())
			continue
		}
		if line.Level == "warn" || line.Level == "error" {
			fmt.Fprintln(os.Stderr, "relay:", lines.Text())
		}
		if line.Msg != "accepted" {
			continue
		}
		b.mu.Lock()
		b.accepted[line.Type] = time.Now()
		b.mu.Unlock()
		select {
		case b.tell <- struct{}{}:
		default:
		}
	}
}

// await waits until Envoy has acknowledged a type of a version that was pushed at
// a time, and says how long that took. With the relay, only what changed is pushed.
func (b *bed) await(version string, pushed time.Time, types ...string) (map[string]time.Duration, error) {
	took := map[string]time.Duration{}
	deadline := time.After(2 * time.Minute)
	for {
		times := map[string]time.Time{}
		signal := b.kourier.acked
		if b.relay != nil {
			signal = b.tell
			b.mu.Lock()
			for _, t := range types {
				if at := b.accepted[shortNames[t]]; at.After(pushed) {
					times[t] = at
				}
			}
			b.mu.Unlock()
		} else {
			times = b.kourier.ackedAt(version)
		}
		missing := false
		for _, t := range types {
			if at, ok := times[t]; ok {
				took[t] = at.Sub(pushed)
			} else {
				missing = true
			}
		}
		if !missing {
			return took, nil
		}
		select {
		case <-signal:
		case <-b.envoy.ended:
			return nil, errEnded
		case <-b.ctx.Done():
			return nil, b.ctx.Err()
		case <-deadline:
			return nil, fmt.Errorf("no update taken by Envoy for 2 minutes")
		}
	}
}

var errEnded = errors.New("the gateway has ended")

// changes are the types that an event changes, with and without the relay.
func (b *bed) changes(e event) []string {
	if b.relay == nil {
		return []string{resource.ClusterType, resource.RouteType, resource.ListenerType}
	}
	switch e {
	case scales:
		return []string{resource.ClusterType}
	case renewal:
		return []string{resource.SecretType}
	}
	return []string{resource.RouteType}
}

// settle waits until Envoy serves all services and has drained what was replaced.
func (b *bed) settle(last int) error {
	deadline := time.Now().Add(3 * time.Minute)
	for quiet := 0; quiet < 5; {
		s, err := b.stats("^listener_manager.(total_listeners|lds)")
		if err == nil && s["listener_manager.total_listeners_warming"] == 0 && s["listener_manager.total_listeners_draining"] == 0 &&
			s["listener_manager.total_filter_chains_draining"] == 0 && s["listener_manager.total_listeners_active"] >= 6 && b.get(last, "/", 1) == nil {
			quiet++
		} else {
			quiet = 0
		}
		select {
		case <-b.envoy.ended:
			return errEnded
		case <-b.ctx.Done():
			return b.ctx.Err()
		case <-time.After(300 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("the gateway does not come to rest: %v %v", s, err)
		}
	}
	return nil
}

// stats are Envoy's counters whose names a pattern matches.
func (b *bed) stats(pattern string) (map[string]int, error) {
	return stack.EnvoyStats(b.ctx, "127.0.0.1:9901", pattern)
}
