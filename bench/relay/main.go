// Command relay measures what the events of many services cost a Kourier gateway,
// with certherd-relay and without it, in one run: net-kourier's own generator and
// xDS server, a real Envoy with Kourier's bootstrap configuration, and services
// that are kept in maps instead of an API server. docs/performance.md explains the
// figures.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"

	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/envoyproxy/go-control-plane/pkg/resource/v3"

	"github.com/certherd/certherd/e2e/stack"
)

// settings are what the flags say.
type settings struct {
	Services                  []int
	Events, Renewals          int
	GuardMiB, GuardServices   int
	RequestServices           int
	WildcardServices, Clients int
	Seconds                   int
	Latency                   int
	Only, With                string
	Programs                  programs
}

// inside is the environment variable with the settings of the process that runs
// in a network namespace of its own.
const inside = "CERTHERD_BENCH_RELAY"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var err error
	if text := os.Getenv(inside); text != "" {
		err = measure(ctx, text)
	} else {
		err = outside(ctx)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// outside builds what is needed and starts this program again with a network of
// its own, as Kourier's listeners take fixed ports of all addresses.
func outside(ctx context.Context) error {
	var s settings
	services := flag.String("services", "500,1000", "numbers of services to measure")
	flag.IntVar(&s.Events, "events", 60, "events of each kind, back to back")
	flag.IntVar(&s.Renewals, "renewals", 80, "renewals under the memory guard")
	flag.IntVar(&s.GuardMiB, "guard", 500, "MiB of RssAnon at which the guard kills Envoy")
	flag.IntVar(&s.GuardServices, "guard-services", 1000, "services under the memory guard")
	flag.IntVar(&s.RequestServices, "request-services", 700, "services while 15 s requests are made under the guard")
	flag.IntVar(&s.WildcardServices, "wildcard-services", 100, "services on one wildcard certificate")
	flag.IntVar(&s.Clients, "clients", 20, "clients of each protocol")
	flag.IntVar(&s.Seconds, "seconds", 45, "for how long new requests are begun")
	flag.IntVar(&s.Latency, "latency", 30, "events, each after the last has come to rest, that the latency is taken of")
	flag.StringVar(&s.Only, "only", "events,latency,guard,requests,wildcard", "which parts to run")
	flag.StringVar(&s.With, "with", "stock,relay", "what is measured: the gateway without the relay, with it, or both")
	flag.Parse()
	for n := range strings.SplitSeq(*services, ",") {
		i, err := strconv.Atoi(n)
		if err != nil || i < 1 {
			return fmt.Errorf("cannot use -services: %q is no number of services", n)
		}
		s.Services = append(s.Services, i)
	}
	folder, err := os.MkdirTemp("", "certherd-bench-relay-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(folder)
	s.Programs = programs{Folder: folder, Relay: filepath.Join(folder, "certherd-relay")}
	build := exec.CommandContext(ctx, "go", "build", "-o", s.Programs.Relay, "github.com/certherd/certherd/cmd/certherd-relay")
	build.Stderr = os.Stderr
	if err := build.Run(); err != nil {
		return fmt.Errorf("build certherd-relay: %w", err)
	}
	envoy, err := stack.Built(ctx, os.Stderr, stack.Envoy)
	if err != nil {
		return err
	}
	kourier, err := stack.Built(ctx, os.Stderr, stack.Kourier)
	if err != nil {
		return err
	}
	s.Programs.Envoy, s.Programs.Bootstrap = filepath.Join(envoy, "bin", "envoy"), filepath.Join(kourier, "manifests", "core", "200-bootstrap.yaml")
	text, err := json.Marshal(s)
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, "/proc/self/exe")
	cmd.Env = append(os.Environ(), inside+"="+string(text))
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGTERM}
	if os.Geteuid() != 0 {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}
	}
	return cmd.Run()
}

// arms are what is compared: without the relay, and with it.
func (s settings) arms() (arms []bool) {
	for _, relay := range []bool{false, true} {
		if slices.Contains(strings.Split(s.With, ","), arm(relay)) {
			arms = append(arms, relay)
		}
	}
	return arms
}

func arm(relay bool) string {
	if relay {
		return "relay"
	}
	return "stock"
}

func measure(ctx context.Context, text string) error {
	var s settings
	if err := json.Unmarshal([]byte(text), &s); err != nil {
		return err
	}
	if err := stack.Loopback(); err != nil {
		return err
	}
	if err := serveBackend(ctx); err != nil {
		return err
	}
	failed := make(chan error, 1)
	k, err := newKourier(failed)
	if err != nil {
		return err
	}
	fmt.Printf("stock and relay, %s, %d CPUs\n", time.Now().UTC().Format(time.DateOnly), runtime.NumCPU())
	for _, part := range []struct {
		name string
		run  func(context.Context, settings, *kourier) error
	}{{"events", events}, {"latency", latency}, {"guard", guard}, {"requests", requests}, {"wildcard", wildcard}} {
		if !slices.Contains(strings.Split(s.Only, ","), part.name) {
			continue
		}
		if err := part.run(ctx, s, k); err != nil {
			return fmt.Errorf("%s: %w", part.name, err)
		}
	}
	select {
	case err := <-failed:
		return err
	default:
		return nil
	}
}

// with runs something on a bed that has come to rest.
func with(ctx context.Context, s settings, k *kourier, n int, shared, relay bool, do func(*bed) error) error {
	if err := k.fill(n, shared); err != nil {
		return err
	}
	if _, _, err := k.send(); err != nil {
		return err
	}
	b, err := newBed(ctx, s.Programs, k, relay)
	if err != nil {
		return err
	}
	if err = b.settle(n - 1); err == nil {
		err = do(b)
	}
	return errors.Join(err, b.close())
}

func progress(format string, a ...any) { fmt.Fprintf(os.Stderr, "bench: "+format+"\n", a...) }

// table prints rows as Markdown does.
func table(rows [][]string) {
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 1, ' ', 0)
	for i, r := range rows {
		fmt.Fprintln(w, "| "+strings.Join(r, "\t| ")+"\t|")
		if i == 0 {
			fmt.Fprintln(w, "|"+strings.Repeat("---\t|", len(r)))
		}
	}
	w.Flush()
	fmt.Println()
}

func events(ctx context.Context, s settings, k *kourier) error {
	rows := [][]string{{"services", "event", "events", "with", "listeners changed", "rejected", "settled MiB", "peak MiB", "peak / settled", "Envoy CPU ms/event", "s in all", "relay MiB", "relay CPU ms/event"}}
	for _, n := range s.Services {
		for _, e := range []event{scales, renewal} {
			for _, relay := range s.arms() {
				progress("%d services, %s, %s", n, e, arm(relay))
				err := with(ctx, s, k, n, false, relay, func(b *bed) error {
					before, err := b.stats("^listener_manager")
					if err != nil {
						return err
					}
					b.envoy.fresh()
					settled, cpu, begun := b.envoy.anonymous(), b.envoy.cpu(), time.Now()
					relayCPU := time.Duration(0)
					if b.relay != nil {
						b.relay.fresh()
						relayCPU = b.relay.cpu()
					}
					for i := range s.Events {
						version, at, err := k.push(e, i)
						if err != nil {
							return err
						}
						if _, err := b.await(version, at, b.changes(e)...); err != nil {
							return fmt.Errorf("event %d: %w", i, err)
						}
					}
					took := time.Since(begun)
					perEvent := func(d time.Duration) string {
						return fmt.Sprintf("%.1f", float64(d.Microseconds())/1000/float64(s.Events))
					}
					used := perEvent(b.envoy.cpu() - cpu)
					relayUsed, relayMiB := "", ""
					if b.relay != nil {
						relayUsed, relayMiB = perEvent(b.relay.cpu()-relayCPU), fmt.Sprintf("%.0f", b.relay.highest())
					}
					after, err := b.stats("^listener_manager")
					if err != nil {
						return err
					}
					rows = append(rows, []string{strconv.Itoa(n), string(e), strconv.Itoa(s.Events), arm(relay),
						strconv.Itoa(after["listener_manager.listener_modified"] - before["listener_manager.listener_modified"]),
						strconv.Itoa(after["listener_manager.lds.update_rejected"]), fmt.Sprintf("%.0f", settled), fmt.Sprintf("%.0f", b.envoy.highest()),
						fmt.Sprintf("%.2f", b.envoy.highest()/settled), used, fmt.Sprintf("%.1f", took.Seconds()), relayMiB, relayUsed})
					return nil
				})
				if err != nil {
					return err
				}
			}
		}
	}
	fmt.Printf("\nEvents back to back, a certificate for each service:\n\n")
	table(rows)
	return nil
}

func latency(ctx context.Context, s settings, k *kourier) error {
	rows := [][]string{{"services", "push", "with", "median ms", "90 % ms", "highest ms"}}
	for _, n := range s.Services {
		for _, relay := range s.arms() {
			progress("%d services, latency, %s", n, arm(relay))
			err := with(ctx, s, k, n, false, relay, func(b *bed) error {
				for _, e := range []event{scales, reroutes} {
					typeURL := map[event]string{scales: resource.ClusterType, reroutes: resource.RouteType}[e]
					var took []time.Duration
					for i := range s.Latency {
						version, at, err := k.push(e, i)
						if err != nil {
							return err
						}
						times, err := b.await(version, at, b.changes(e)...)
						if err != nil {
							return err
						}
						took = append(took, times[typeURL])
						// Envoy's rate limit of its own requests lets 10 pass in a second.
						time.Sleep(time.Second)
					}
					slices.Sort(took)
					at := func(share float64) string {
						return fmt.Sprintf("%.1f", float64(took[min(len(took)-1, int(share*float64(len(took))))].Microseconds())/1000)
					}
					rows = append(rows, []string{strconv.Itoa(n), shortNames[typeURL], arm(relay), at(0.5), at(0.9), at(1)})
				}
				return nil
			})
			if err != nil {
				return err
			}
		}
	}
	fmt.Printf("\nFrom the controller's push to Envoy's acknowledgement, one event a second:\n\n")
	table(rows)
	return nil
}

func guard(ctx context.Context, s settings, k *kourier) error {
	rows := [][]string{{"services", "renewals", "with", "guard MiB", "outcome", "peak MiB"}}
	for _, relay := range s.arms() {
		progress("%d services, %d renewals under the guard, %s", s.GuardServices, s.Renewals, arm(relay))
		err := with(ctx, s, k, s.GuardServices, false, relay, func(b *bed) error {
			b.envoy.guard.Store(int64(s.GuardMiB))
			outcome := "lived"
			for i := range s.Renewals {
				version, at, err := k.push(renewal, i)
				if err != nil {
					return err
				}
				if _, err := b.await(version, at, b.changes(renewal)...); errors.Is(err, errEnded) && b.envoy.killed.Load() {
					outcome = fmt.Sprintf("killed at renewal %d", i+1)
					break
				} else if err != nil {
					return err
				}
			}
			rows = append(rows, []string{strconv.Itoa(s.GuardServices), strconv.Itoa(s.Renewals), arm(relay), strconv.Itoa(s.GuardMiB), outcome, fmt.Sprintf("%.0f", b.envoy.highest())})
			return nil
		})
		if err != nil {
			return err
		}
	}
	fmt.Printf("\nRenewals back to back, and Envoy is killed when it has more:\n\n")
	table(rows)
	return nil
}

func requests(ctx context.Context, s settings, k *kourier) error {
	rows := [][]string{{"services", "with", "renewals", "15 s requests", "cut", "peak MiB", "how the first was cut"}}
	for _, relay := range s.arms() {
		progress("%d services, 15 s requests under the guard, %s", s.RequestServices, arm(relay))
		err := with(ctx, s, k, s.RequestServices, false, relay, func(b *bed) error {
			b.envoy.guard.Store(int64(s.GuardMiB))
			var t tally
			end := time.Now().Add(time.Duration(s.Seconds) * time.Second / 2)
			running := repeat(s.Clients, end, &t, func(c int) error { return b.get(c%k.n, "/?ms=15000", 1) })
			renewed := 0
			for time.Now().Before(end) && !b.envoy.killed.Load() {
				version, at, err := k.push(renewal, s.Clients+renewed)
				if err != nil {
					return err
				}
				if _, err := b.await(version, at, b.changes(renewal)...); err != nil && !errors.Is(err, errEnded) {
					return err
				}
				renewed++
			}
			running.Wait()
			rows = append(rows, []string{strconv.Itoa(s.RequestServices), arm(relay), strconv.Itoa(renewed), strconv.Itoa(t.Whole + t.Cut), strconv.Itoa(t.Cut), fmt.Sprintf("%.0f", b.envoy.highest()), t.Example})
			return nil
		})
		if err != nil {
			return err
		}
	}
	fmt.Printf("\nRequests while other services' certificates are renewed back to back, guard at %d MiB:\n\n", s.GuardMiB)
	table(rows)
	return nil
}

func wildcard(ctx context.Context, s settings, k *kourier) error {
	rows := [][]string{{"services", "with", "events", "request of 30 s", "requests", "cut", "how the first was cut"}}
	for _, relay := range s.arms() {
		progress("%d services on one wildcard, 30 s requests, %s", s.WildcardServices, arm(relay))
		err := with(ctx, s, k, s.WildcardServices, true, relay, func(b *bed) error {
			end := time.Now().Add(time.Duration(s.Seconds) * time.Second)
			kinds := []struct {
				name string
				do   func(int) error
			}{
				{"HTTP/1.1", func(c int) error { return b.get(c%k.n, "/?ms=30000", 1) }},
				{"HTTP/2", func(c int) error { return b.get(c%k.n, "/?ms=30000", 2) }},
				{"WebSocket", func(c int) error { return b.talk(c%k.n, 30*time.Second) }},
			}
			tallies := make([]tally, len(kinds))
			var running []*sync.WaitGroup
			for i := range kinds {
				running = append(running, repeat(s.Clients, end, &tallies[i], kinds[i].do))
			}
			stop, pushed := make(chan struct{}), make(chan error, 1)
			n := 0
			go func() {
				// A scaling event every second, of services that nobody asks, until the
				// last request has ended.
				for {
					select {
					case <-stop:
						pushed <- nil
						return
					case <-time.After(time.Second):
					}
					if _, _, err := k.push(scales, s.Clients+n%max(1, k.n-s.Clients)); err != nil {
						pushed <- err
						return
					}
					n++
				}
			}()
			for _, r := range running {
				r.Wait()
			}
			close(stop)
			if err := <-pushed; err != nil {
				return err
			}
			for i := range kinds {
				t := &tallies[i]
				rows = append(rows, []string{strconv.Itoa(s.WildcardServices), arm(relay), strconv.Itoa(n), kinds[i].name, strconv.Itoa(t.Whole + t.Cut), strconv.Itoa(t.Cut), t.Example})
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	fmt.Printf("\nRequests of services that share one wildcard certificate, while others scale once a second:\n\n")
	table(rows)
	return nil
}
