package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/certherd/certherd/api/v1alpha1"
	"github.com/certherd/certherd/e2e/proc"
	"github.com/certherd/certherd/e2e/replica"
	"github.com/certherd/certherd/e2e/scenario"
	"github.com/certherd/certherd/e2e/stack"
)

// configuration does within two minutes what otherwise takes days.
const configuration = `# Nobody waits for days in a demonstration.
maxShare: 100%%               # more than half of this cluster is garbage; by default, 30 %% stop a round
breaker:
  pods: []                     # the stack has no kubelet
  gateways: ["http://%s/stats/prometheus"]
  settle: 1s
  unready: 1000                # services are moved all the time
gc:
  mode: enforce
  schedule: "@every 10s"
  minAge: 0s
  requestAge: 0s
  gracePeriod: 20s             # by default a week
  expiredGracePeriod: 5s
  budget: {count: 15, share: 100%%}
consolidate:
  mode: enforce
  schedule: "@every 10s"
  acceptDrains: true           # Kourier drains for 15 s here; with the relay there is no need
  soak: 10s                    # by default an hour
  budget: {count: disabled, share: 100%%}
  gateway: %s
batch:
  mode: enforce
  schedule: "@every 10s"
  reloads: {updates: 600, gap: 0s, largest: 100}
`

const clearedPage = "before-after.html"

// quiet is for how long nothing may happen before the demo takes certherd to be done:
// longer than the grace period with two rounds.
const (
	quiet    = 40 * time.Second
	patience = 8 * time.Minute
)

// clear has certherd clear the mess up, and writes the page.
func (d *demo) clear(ctx context.Context, s *stack.Stack, account string) (err error) {
	admin, err := s.RESTConfig()
	if err != nil {
		return err
	}
	cluster, err := scenario.Connect(admin, d.progress)
	if err != nil {
		return err
	}
	p := &page{Configuration: fmt.Sprintf(configuration, s.EnvoyAdmin, s.GatewayTLS)}
	fmt.Fprintln(d.progress, "demo: reading the gateway, and a new one that is given the same")
	if p.Before, err = measure(ctx, s, "before"); err != nil {
		return err
	}
	if p.before, err = readReport(d.path("report.json")); err != nil {
		return err
	}
	fmt.Fprintln(d.progress, "demo: starting two replicas of certherd in mode enforce")
	set, err := replica.Start(ctx, s, cluster, replica.Options{Program: d.certherd, Manifests: d.manifests, Folder: d.dir, Configuration: p.Configuration, Replicas: 2})
	if err != nil {
		return err
	}
	begun := time.Now()
	running := true
	stop := func() error {
		if !running {
			return nil
		}
		running = false
		return errors.Join(set.Stop(), os.Remove(set.Kubeconfig))
	}
	defer func() { err = errors.Join(err, stop()) }()
	if err := d.watch(ctx, s, cluster, set, p, begun); err != nil {
		return err
	}
	text, err := set.Leader("/report.json")
	if err != nil {
		return err
	}
	if text == nil {
		return errors.New("no replica of certherd leads")
	}
	if err := json.Unmarshal(text, &p.after); err != nil {
		return err
	}
	if err := stop(); err != nil {
		return err
	}
	if p.After, err = measure(ctx, s, "after"); err != nil {
		return err
	}
	p.Took = time.Since(begun).Round(time.Second)
	p.digest(set.Lines(), begun)
	text, err = p.html()
	if err != nil {
		return err
	}
	fmt.Fprintf(d.out, "\nAt the gateway: %d certificates before, %d after; %.0f MiB before, %.0f after; %d updates rejected.\n",
		p.Before.Certificates, p.After.Certificates, p.Before.MiB, p.After.MiB, p.Rejected())
	return os.WriteFile(d.path(clearedPage), text, 0o644)
}

// watch tells what certherd does until it does nothing more.
func (d *demo) watch(ctx context.Context, s *stack.Stack, cluster *scenario.Cluster, set *replica.Set, p *page, begun time.Time) error {
	last, told, seen := time.Now(), time.Now(), 0
	phases, updates := map[string]v1alpha1.Phase{}, p.Before.Updates
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(500 * time.Millisecond):
		}
		if err := set.Err(); err != nil {
			return err
		}
		lines := set.Lines()
		steps := 0
		for _, l := range lines[seen:] {
			if l.Message == "stopped" {
				return fmt.Errorf("certherd has stopped itself: %v", l.Fields)
			}
			if l.Message == "step" {
				steps++
			}
		}
		if steps > 0 {
			last = time.Now()
		}
		seen = len(lines)
		list, err := cluster.Dynamic.Resource(v1alpha1.GroupVersionResource).List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		busy := false
		p.consolidations = p.consolidations[:0]
		for i := range list.Items {
			c, err := v1alpha1.FromUnstructured(&list.Items[i])
			if err != nil {
				return err
			}
			p.consolidations = append(p.consolidations, c)
			busy = busy || slices.Contains(under, c.Status.Phase)
			if was := phases[c.Namespace+"/"+c.Name]; was != c.Status.Phase {
				phases[c.Namespace+"/"+c.Name], last = c.Status.Phase, time.Now()
				fmt.Fprintf(d.progress, "demo: %4.0f s  %s in %s: %s\n", time.Since(begun).Seconds(), c.Spec.Wildcards[0], c.Namespace, c.Status.Phase)
				if c.Status.Phase == v1alpha1.Done {
					p.done(time.Since(begun), len(c.Spec.Members))
				}
			}
		}
		now, err := stack.EnvoyStats(ctx, s.EnvoyAdmin, listenerUpdates)
		if err != nil {
			return err
		}
		if n := now["listener_manager.lds.update_success"]; n > updates {
			p.updated(time.Since(begun), n-updates)
			updates = n
		}
		if steps > 0 || time.Since(told) > 10*time.Second {
			told = time.Now()
			collected, held := map[string]bool{}, 0
			for _, l := range lines {
				switch {
				case l.Message == "step" && l.Text("action") == "delete" && l.Text("why") == "":
					collected[l.Text("object")] = true
				case l.Message == "round finished":
					if n, ok := l.Fields["held"].(float64); ok {
						held = int(n)
					}
				}
			}
			fmt.Fprintf(d.progress, "demo: %4.0f s  %d deleted, %d changes held\n", time.Since(begun).Seconds(), len(collected), held)
		}
		if !busy && len(phases) > 0 && time.Since(last) > quiet {
			return nil
		}
		if time.Since(begun) > patience {
			p.Unfinished = true
			fmt.Fprintf(d.progress, "demo: certherd is not done after %s; the page shows how far it came\n", patience)
			return nil
		}
	}
}

// under are the phases that end by themselves. Others may wait for what does not come:
// nothing serves the Ingresses of the namespace web, so that their wildcard stays in
// Verifying.
var under = []v1alpha1.Phase{v1alpha1.Issuing, v1alpha1.Switching, v1alpha1.Soaking, v1alpha1.Sweeping, v1alpha1.RollingBack}

const listenerUpdates = `^listener_manager\.lds\.update_(success|rejected)$`

// gateway is what an Envoy says of itself.
type gateway struct {
	Certificates      int     // entries of /certs: one for each filter chain and listener
	MiB               float64 // RssAnon of an Envoy that was just started and given the same
	Allocated         float64 // MiB that the running Envoy has in use (server.memory_allocated)
	Updates, Rejected int     // of listeners, since it started
}

// measure reads the running gateway, and what a new one needs for the same: one that
// has been running keeps memory that it does not use any more.
func measure(ctx context.Context, s *stack.Stack, name string) (g gateway, err error) {
	now, err := stack.EnvoyStats(ctx, s.EnvoyAdmin, listenerUpdates+`|^server\.memory_allocated$`)
	if err != nil {
		return g, err
	}
	g.Updates, g.Rejected = now["listener_manager.lds.update_success"], now["listener_manager.lds.update_rejected"]
	g.Allocated = float64(now["server.memory_allocated"]) / (1 << 20)
	before, err := s.Processes("envoy")
	if err != nil {
		return g, err
	}
	pod := "gateway-" + name
	if err := s.RunPod(ctx, stack.Pod{Name: pod, Containers: []stack.Container{{Name: "envoy", Program: "envoy",
		Args: []string{"-c", filepath.Join(s.Dir, stack.BootstrapFile), "--log-level", "error", "--disable-hot-restart", "--concurrency", "1"}}}}); err != nil {
		return g, err
	}
	defer func() { err = errors.Join(err, s.StopPod(context.WithoutCancel(ctx), pod)) }()
	for end := time.Now().Add(3 * time.Minute); ; {
		// The running one has the certificates of what it drains, too.
		if g.Certificates, err = certificates(ctx, http.DefaultClient, s.EnvoyAdmin); err != nil {
			return g, err
		}
		n, err := certificates(ctx, s.PodClient(pod, 9901), "127.0.0.1:9901")
		if err == nil && n == g.Certificates {
			break
		}
		if time.Now().After(end) {
			return g, errors.Join(fmt.Errorf("a new gateway has %d certificates, not %d", n, g.Certificates), err)
		}
		select {
		case <-ctx.Done():
			return g, ctx.Err()
		case <-time.After(300 * time.Millisecond):
		}
	}
	after, err := s.Processes("envoy")
	if err != nil {
		return g, err
	}
	for _, pid := range after {
		if !slices.Contains(before, pid) {
			g.MiB = proc.Anonymous(pid)
		}
	}
	return g, nil
}

// certificates is how many an Envoy has loaded.
func certificates(ctx context.Context, client *http.Client, admin string) (int, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+admin+"/certs", nil)
	if err != nil {
		return 0, err
	}
	answer, err := client.Do(request)
	if err != nil {
		return 0, err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		return 0, err
	}
	var loaded struct{ Certificates []json.RawMessage }
	if err := json.Unmarshal(text, &loaded); err != nil {
		return 0, err
	}
	return len(loaded.Certificates), nil
}
