package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/certherd/certherd/config"
	"github.com/certherd/certherd/e2e/proc"
	"github.com/certherd/certherd/e2e/scenario"
	"github.com/certherd/certherd/e2e/stack"
	"github.com/certherd/certherd/simulate"
)

const (
	namespace = "renewed"
	home      = "certherd"
)

var (
	certificates = schema.GroupVersionResource{Group: "cert-manager.io", Version: "v1", Resource: "certificates"}
	kIngresses   = schema.GroupVersionResource{Group: "networking.internal.knative.dev", Version: "v1alpha1", Resource: "ingresses"}
)

// bed is a stack with services whose certificates are renewed again and again. Two
// Envoys have their configuration from the same net-kourier: one by itself, and one
// through certherd-relay.
type bed struct {
	settings
	arm      arm
	stack    *stack.Stack
	cluster  *scenario.Cluster
	envoys   [2]envoy // in the order of gateways
	certherd *exec.Cmd
	log      *os.File
}

// envoy is one of the gateways.
type envoy struct {
	pid    int
	client *http.Client
}

// direct is the pod of the Envoy that has no relay, and user what the API server's audit
// log knows certherd by.
const (
	direct = "direct"
	user   = "certherd-bench"
)

// manifest is a service: what Knative makes of one, but for its Certificate, which
// lives for an hour and is due soon.
const manifest = `
apiVersion: v1
kind: Service
metadata: {name: {{.Name}}, namespace: renewed}
spec: {ports: [{name: http, port: 80, targetPort: 8012}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: {{.Name}}, namespace: renewed, labels: {kubernetes.io/service-name: {{.Name}}, endpointslice.kubernetes.io/managed-by: bench} }
addressType: IPv4
endpoints: [{addresses: [10.99.0.1], conditions: {ready: true}}]
ports: [{name: http, port: 8012, protocol: TCP}]
---
apiVersion: cert-manager.io/v1
kind: Certificate
metadata: {name: {{.Name}}, namespace: renewed}
spec:
  secretName: {{.Name}}
  dnsNames: [{{.Name}}.renewed.example.test]
  duration: 1h
  renewBefore: {{.RenewBefore}}
  privateKey: {algorithm: ECDSA, size: 256}
  issuerRef: {name: ca, kind: ClusterIssuer}
---
apiVersion: networking.internal.knative.dev/v1alpha1
kind: Ingress
metadata: {name: {{.Name}}, namespace: renewed, annotations: {networking.knative.dev/ingress.class: kourier.ingress.networking.knative.dev} }
spec:
  httpOption: Enabled
  rules:
  - hosts: [{{.Name}}.renewed.example.test]
    visibility: ExternalIP
    http: {paths: [{splits: [{serviceName: {{.Name}}, serviceNamespace: renewed, servicePort: 80, percent: 100}]}]}
  tls: [{hosts: [{{.Name}}.renewed.example.test], secretName: {{.Name}}, secretNamespace: renewed}]
`

// configuration has certificates renewed together that are due within the hour that
// they live; strict has their requests wait for each other, too.
const (
	configuration = `
batch:
  mode: enforce
  schedule: "@every 10s"
  renewals: {horizon: 1h, early: 95%, largest: 1000}
`
	strict = `  requests: {approve: true, hold: 20s}
`
)

func (a arm) configuration() string {
	if a.strict {
		return configuration + strict
	}
	return configuration
}

func newBed(ctx context.Context, s settings, a arm) (*bed, error) {
	if _, err := config.Parse([]byte(a.configuration())); err != nil {
		return nil, err
	}
	b := &bed{settings: s, arm: a}
	o := stack.Options{Level: stack.Full, Out: os.Stderr, Relay: filepath.Join(s.Programs, "certherd-relay")}
	if a.strict {
		o.ExtraCertManagerArgs = []string{"--controllers=*,-certificaterequests-approver"}
	}
	var err error
	if b.stack, err = stack.Start(ctx, o); err != nil {
		return nil, err
	}
	if err := b.attach(ctx); err != nil {
		return b, err
	}
	admin, err := b.stack.RESTConfig()
	if err != nil {
		return b, err
	}
	if b.cluster, err = scenario.Connect(admin, os.Stderr); err != nil {
		return b, err
	}
	if err := b.cluster.Namespaces(ctx, namespace, home); err != nil {
		return b, err
	}
	if a.strict { // nobody else approves the first certificates
		if err := b.begin(ctx); err != nil {
			return b, err
		}
	}
	return b, b.fill(ctx)
}

// attach starts the Envoy that has no relay, in a pod of its own: with the bootstrap
// configuration of the other one, led to net-kourier.
func (b *bed) attach(ctx context.Context) error {
	text, err := os.ReadFile(filepath.Join(b.stack.Dir, "envoy.yaml"))
	if err != nil {
		return err
	}
	port := func(n int) []byte { return fmt.Appendf(nil, "port_value: %d", n) }
	if !bytes.Contains(text, port(stack.RelayXDS)) {
		return errors.New("the gateway's bootstrap configuration does not lead to the relay")
	}
	file := filepath.Join(b.stack.Dir, direct+".yaml")
	if err := os.WriteFile(file, bytes.ReplaceAll(text, port(stack.RelayXDS), port(stack.ControllerXDS)), 0o644); err != nil {
		return err
	}
	if err := b.stack.RunPod(ctx, stack.Pod{Name: direct, Containers: []stack.Container{{Name: "envoy", Program: "envoy",
		Args: []string{"-c", file, "--log-level", "info", "--drain-time-s", "15", "--drain-strategy", "immediate", "--disable-hot-restart", "--concurrency", "1"}}}}); err != nil {
		return err
	}
	b.envoys[0].client = b.stack.PodClient(direct, 9901)
	b.envoys[1].client = &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", b.stack.EnvoyAdmin)
		}}}
	for end := time.Now().Add(2 * time.Minute); ; {
		if b.envoys[0].pid, b.envoys[1].pid, err = b.processes(file); err == nil {
			_, err = b.envoys[0].counters(ctx)
		}
		if err == nil {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("the second Envoy does not start: %w", err)
		}
		if err := sleep(ctx, 200*time.Millisecond); err != nil {
			return err
		}
	}
}

// processes are the ids of the Envoy with a bootstrap configuration, and of the other.
func (b *bed) processes(file string) (with, other int, err error) {
	pids, err := b.stack.Processes("envoy")
	if err != nil {
		return 0, 0, err
	}
	for _, pid := range pids {
		line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if err != nil {
			return 0, 0, err
		}
		if bytes.Contains(line, []byte(file)) {
			with = pid
		} else {
			other = pid
		}
	}
	if len(pids) != 2 || with == 0 || other == 0 {
		return 0, 0, fmt.Errorf("there are %d Envoys, not two", len(pids))
	}
	return with, other, nil
}

// counters are Envoy's of the updates of its listeners, by their names for Prometheus.
func (e *envoy) counters(ctx context.Context) (map[string]float64, error) {
	const of = "http://envoy/stats/prometheus?filter=" + `lds\.update_(success|rejected)$|listener_manager\.listener_modified$`
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, of, nil)
	if err != nil {
		return nil, err
	}
	answer, err := e.client.Do(request)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		return nil, err
	}
	out := map[string]float64{}
	for line := range strings.Lines(string(text)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		name, _, _ = strings.Cut(name, "{")
		if x, err := strconv.ParseFloat(value, 64); err == nil && !strings.HasPrefix(name, "#") {
			out[name] = x
		}
	}
	if _, ok := out[updated]; !ok {
		return nil, errors.New("no count of listener updates from Envoy")
	}
	return out, nil
}

// The names of counters.
const (
	updated  = "envoy_listener_manager_lds_update_success"
	rejected = "envoy_listener_manager_lds_update_rejected"
	modified = "envoy_listener_manager_listener_modified"
)

// taking is how long an update takes Envoy from when it is sent until the next one can be:
// that with which the model counts as many updates of the Secrets that were written
// as Envoy did. Envoy's own update_duration leaves out what reading, net-kourier and a
// busy machine take.
func taking(written []time.Time, counted int) time.Duration {
	g := simulate.Kourier(0)
	low, high := time.Duration(0), 10*time.Second
	for high-low > time.Millisecond {
		if g.Taking = (low + high) / 2; g.Updates(written) > counted {
			low = g.Taking
		} else {
			high = g.Taking
		}
	}
	return (low + high) / 2
}

func (b *bed) fill(ctx context.Context) error {
	for i := range b.Services {
		// Their phases are those at which they are made: spread over one period.
		if err := b.cluster.Apply(ctx, manifest, struct{ Name, RenewBefore string }{fmt.Sprintf("svc-%03d", i), (time.Hour - b.Every).String()}); err != nil {
			return err
		}
		if err := sleep(ctx, b.Every/time.Duration(b.Services)/2); err != nil {
			return err
		}
	}
	for end := time.Now().Add(5 * time.Minute); ; {
		n, err := b.ready(ctx)
		if err == nil && n == b.Services {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("%d of %d Ingresses are Ready: %w", n, b.Services, err)
		}
		if err := sleep(ctx, time.Second); err != nil {
			return err
		}
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

func (b *bed) ready(ctx context.Context) (n int, err error) {
	list, err := b.cluster.Dynamic.Resource(kIngresses).Namespace(namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return 0, err
	}
	for i := range list.Items {
		conditions, _, _ := unstructured.NestedSlice(list.Items[i].Object, "status", "conditions")
		for _, c := range conditions {
			if m, ok := c.(map[string]any); ok && m["type"] == "Ready" && m["status"] == "True" {
				n++
			}
		}
	}
	return n, nil
}

// begin starts certherd.
func (b *bed) begin(ctx context.Context) error {
	cm := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: config.ConfigMapName}, Data: map[string]string{config.ConfigMapKey: b.arm.configuration()}}
	if _, err := b.cluster.Typed.CoreV1().ConfigMaps(home).Create(ctx, cm, metav1.CreateOptions{}); err != nil {
		return err
	}
	var err error
	if b.log, err = os.Create(filepath.Join(b.LogFolder, strings.ReplaceAll(b.arm.name, " ", "-")+".log")); err != nil {
		return err
	}
	b.certherd = exec.CommandContext(ctx, filepath.Join(b.Programs, "certherd"), "run", "--kubeconfig", b.stack.Kubeconfig, "--namespace", home, "--identity", "bench",
		"--as", user, "--as-group", "system:masters", "--listen", "127.0.0.1:0")
	b.certherd.Stderr = b.log
	b.certherd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return b.certherd.Start()
}

func (b *bed) close() {
	if b.certherd != nil {
		_ = b.certherd.Process.Kill()
		_ = b.certherd.Wait()
	}
	if b.log != nil {
		_ = b.log.Close()
	}
	if b.stack != nil {
		if err := b.stack.Stop(); err != nil {
			progress("%s: %v", b.arm.name, err)
		}
	}
}

// gateway is what one Envoy was put through.
type gateway struct {
	updates, modified, rejected, predicted int
	cpu                                    time.Duration
	peak                                   float64 // MiB of RssAnon
}

// result is what a stack came to.
type result struct {
	gateways         [2]gateway // as envoys
	issued, batches  int
	foreseen         int // as issued
	triggered, twice int
	least            time.Duration
	measured         calibration
	writes           []time.Time // of Secrets
}

// calibration is what the prediction has to know of this machine: how fast
// cert-manager and Envoy are. It is measured before anything is counted.
type calibration struct{ Latency, Apart, Taking time.Duration }

func (b *bed) measure(ctx context.Context) (r result, err error) {
	w, err := b.watch(ctx)
	if err != nil {
		return r, err
	}
	defer w.stop()
	var before, after [2]map[string]float64
	counters := func(of *[2]map[string]float64) error {
		for i := range b.envoys {
			if of[i], err = b.envoys[i].counters(ctx); err != nil {
				return err
			}
		}
		return nil
	}
	if err := counters(&before); err != nil {
		return r, err
	}
	begun := time.Now()
	if b.arm.certherd && !b.arm.strict {
		if err := b.begin(ctx); err != nil {
			return r, err
		}
	}
	// The first batch brings all phases together, and the second is like all after it.
	if err := sleep(ctx, 2*b.Every); err != nil {
		return r, err
	}
	if err := counters(&after); err != nil {
		return r, err
	}
	r.measured.Taking = taking(w.between(begun, time.Now()), int(after[0][updated]-before[0][updated]))
	r.measured.Latency, r.measured.Apart = w.pace()
	if err := b.predict(ctx, &r); err != nil {
		return r, err
	}
	if err := counters(&before); err != nil {
		return r, err
	}
	begun = time.Now()
	var cpu [2]time.Duration
	for i, e := range b.envoys {
		cpu[i] = proc.CPU(e.pid)
	}
	r.least = time.Hour
	for end := begun.Add(b.For); time.Now().Before(end); {
		if err := sleep(ctx, time.Second); err != nil {
			return r, err
		}
		for i, e := range b.envoys {
			r.gateways[i].peak = max(r.gateways[i].peak, proc.Anonymous(e.pid))
		}
		least, err := b.least(ctx)
		if err != nil {
			return r, err
		}
		r.least = min(r.least, least)
	}
	if err := counters(&after); err != nil {
		return r, err
	}
	ended := time.Now()
	for i, e := range b.envoys {
		g := &r.gateways[i]
		g.cpu = proc.CPU(e.pid) - cpu[i]
		difference := func(name string) int { return int(after[i][name] - before[i][name]) }
		g.updates, g.modified, g.rejected = difference(updated), difference(modified), difference(rejected)
	}
	r.writes = w.between(begun, ended)
	r.issued = len(r.writes)
	if b.arm.certherd {
		r.batches, err = b.batches(begun)
		if err == nil {
			r.triggered, r.twice, err = b.triggers()
		}
	}
	return r, err
}

// predict has the program itself simulate the same time from this moment on, for both
// gateways.
func (b *bed) predict(ctx context.Context, r *result) error {
	for i := range b.envoys {
		c := exec.CommandContext(ctx, filepath.Join(b.Programs, "certherd"), "simulate", "--kubeconfig", b.stack.Kubeconfig, "--quiet", "-o", "json",
			"--for", b.For.String(), "--rounds", "10s", "--horizon", "1h", "--early", "0.95", "--size", "1000",
			"--latency", r.measured.Latency.String(), "--apart", r.measured.Apart.String(), "--taking", r.measured.Taking.String(), "--relay="+strconv.FormatBool(i == 1))
		c.Stderr = os.Stderr
		out, err := c.Output()
		if err != nil {
			return fmt.Errorf("certherd simulate: %w", err)
		}
		var s simulate.Result
		if err := json.Unmarshal(out, &s); err != nil {
			return err
		}
		run := s.Without
		if b.arm.certherd {
			run = s.With
		}
		r.gateways[i].predicted, r.foreseen = run.Listeners, run.Renewals
	}
	return nil
}

// least is what the certificate that ends first has left.
func (b *bed) least(ctx context.Context) (least time.Duration, err error) {
	list, err := b.cluster.Dynamic.Resource(certificates).Namespace(namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return 0, err
	}
	least = time.Hour
	for i := range list.Items {
		text, _, _ := unstructured.NestedString(list.Items[i].Object, "status", "notAfter")
		end, err := time.Parse(time.RFC3339, text)
		if err != nil {
			return 0, errors.Join(errors.New("a certificate was not issued yet"), err)
		}
		least = min(least, time.Until(end))
	}
	return least, nil
}

// batches are those that certherd's log tells of from a time on.
func (b *bed) batches(from time.Time) (n int, err error) {
	text, err := os.ReadFile(b.log.Name())
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		var l struct {
			Msg  string
			Time string
		}
		if json.Unmarshal([]byte(line), &l) != nil || l.Msg != "certificates renewed together" {
			continue
		}
		at, err := time.Parse("2006-01-02T15:04:05.000Z0700", l.Time)
		if err != nil {
			return 0, err
		}
		if !at.Before(from) {
			n++
		}
	}
	return n, nil
}
