package main

import (
	"context"
	"errors"
	"fmt"
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
	"github.com/certherd/certherd/e2e/scenario"
	"github.com/certherd/certherd/e2e/stack"
)

const (
	namespace = "renewed"
	home      = "certherd"
)

var (
	certificates = schema.GroupVersionResource{Group: "cert-manager.io", Version: "v1", Resource: "certificates"}
	kIngresses   = schema.GroupVersionResource{Group: "networking.internal.knative.dev", Version: "v1alpha1", Resource: "ingresses"}
)

// bed is a stack with services whose certificates are renewed again and again.
type bed struct {
	settings
	arm      arm
	stack    *stack.Stack
	cluster  *scenario.Cluster
	certherd *exec.Cmd
	log      *os.File
}

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
// they live.
const configuration = `
batch:
  mode: enforce
  schedule: "@every 10s"
  renewals: {horizon: 1h, early: 95%, largest: 1000}
`

func newBed(ctx context.Context, s settings, a arm) (*bed, error) {
	if _, err := config.Parse([]byte(configuration)); err != nil {
		return nil, err
	}
	b := &bed{settings: s, arm: a}
	o := stack.Options{Level: stack.Full, Out: os.Stderr}
	if a.relay {
		o.Relay = filepath.Join(s.Programs, "certherd-relay")
	}
	var err error
	if b.stack, err = stack.Start(ctx, o); err != nil {
		return nil, err
	}
	return b, b.fill(ctx)
}

func (b *bed) fill(ctx context.Context) error {
	admin, err := b.stack.RESTConfig()
	if err != nil {
		return err
	}
	if b.cluster, err = scenario.Connect(admin, os.Stderr); err != nil {
		return err
	}
	if err := b.cluster.Namespaces(ctx, namespace, home); err != nil {
		return err
	}
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
	cm := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: config.ConfigMapName}, Data: map[string]string{config.ConfigMapKey: configuration}}
	if _, err := b.cluster.Typed.CoreV1().ConfigMaps(home).Create(ctx, cm, metav1.CreateOptions{}); err != nil {
		return err
	}
	var err error
	if b.log, err = os.Create(filepath.Join(b.LogFolder, strings.ReplaceAll(b.arm.name, " ", "-")+".log")); err != nil {
		return err
	}
	b.certherd = exec.CommandContext(ctx, filepath.Join(b.Programs, "certherd"), "run", "--kubeconfig", b.stack.Kubeconfig, "--namespace", home, "--identity", "bench", "--listen", "127.0.0.1:0")
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

// result is what one arm came to.
type result struct {
	issued, updates, modified, rejected, batches int
	cpu                                          time.Duration
	peak                                         float64 // MiB of RssAnon
	least                                        time.Duration
}

func (b *bed) measure(ctx context.Context) (r result, err error) {
	if b.arm.certherd {
		if err := b.begin(ctx); err != nil {
			return r, err
		}
		// The first batch brings all phases together. It is not counted on either side.
	}
	if err := sleep(ctx, b.Every); err != nil {
		return r, err
	}
	pids, err := b.stack.Processes("envoy")
	if err != nil {
		return r, err
	}
	if len(pids) != 1 {
		return r, fmt.Errorf("there are %d Envoys", len(pids))
	}
	envoy := pids[0]
	const counters = "^listener_manager.(lds.update_success|lds.update_rejected|listener_modified)$"
	before, err := stack.EnvoyStats(ctx, b.stack.EnvoyAdmin, counters)
	if err != nil {
		return r, err
	}
	issued, _, err := b.look(ctx)
	if err != nil {
		return r, err
	}
	cpu := cpuOf(envoy)
	r.least = time.Hour
	for end := time.Now().Add(b.For); time.Now().Before(end); {
		if err := sleep(ctx, time.Second); err != nil {
			return r, err
		}
		r.peak = max(r.peak, anonymousOf(envoy))
		_, least, err := b.look(ctx)
		if err != nil {
			return r, err
		}
		r.least = min(r.least, least)
	}
	after, err := stack.EnvoyStats(ctx, b.stack.EnvoyAdmin, counters)
	if err != nil {
		return r, err
	}
	last, _, err := b.look(ctx)
	if err != nil {
		return r, err
	}
	if b.log != nil {
		text, err := os.ReadFile(b.log.Name())
		if err != nil {
			return r, err
		}
		r.batches = strings.Count(string(text), "certificates renewed together")
	}
	r.issued, r.cpu = last-issued, cpuOf(envoy)-cpu
	r.updates = after["listener_manager.lds.update_success"] - before["listener_manager.lds.update_success"]
	r.rejected = after["listener_manager.lds.update_rejected"] - before["listener_manager.lds.update_rejected"]
	r.modified = after["listener_manager.listener_modified"] - before["listener_manager.listener_modified"]
	return r, nil
}

// look says how many certificates were issued in all, and what the one that ends first
// has left.
func (b *bed) look(ctx context.Context) (issued int, least time.Duration, err error) {
	list, err := b.cluster.Dynamic.Resource(certificates).Namespace(namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return 0, 0, err
	}
	least = time.Hour
	for i := range list.Items {
		o := list.Items[i].Object
		revision, _, _ := unstructured.NestedInt64(o, "status", "revision")
		issued += int(revision)
		text, _, _ := unstructured.NestedString(o, "status", "notAfter")
		end, err := time.Parse(time.RFC3339, text)
		if err != nil {
			return 0, 0, errors.Join(errors.New("a certificate was not issued yet"), err)
		}
		least = min(least, time.Until(end))
	}
	return issued, least, nil
}

// cpuOf is the processor time that a process has used (proc_pid_stat(5), fields 14
// and 15, in ticks of 10 ms).
func cpuOf(pid int) time.Duration {
	content, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	fields := strings.Fields(string(content[strings.LastIndexByte(string(content), ')')+1:]))
	user, err1 := strconv.Atoi(fields[11])
	system, err2 := strconv.Atoi(fields[12])
	if err1 != nil || err2 != nil {
		return 0
	}
	return time.Duration(user+system) * 10 * time.Millisecond
}

// anonymousOf is RssAnon (proc_pid_status(5)) in MiB, 0 for a process that has ended.
func anonymousOf(pid int) float64 {
	content, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(content)) {
		if value, ok := strings.CutPrefix(line, "RssAnon:"); ok {
			if kib, err := strconv.ParseFloat(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 64); err == nil {
				return kib / 1024
			}
		}
	}
	return 0
}
