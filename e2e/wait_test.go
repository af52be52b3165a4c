package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"github.com/certherd/certherd/e2e/scenario"
	"github.com/certherd/certherd/e2e/stack"
	"github.com/certherd/certherd/inventory"
)

// waiting are two things that never get a certificate: an Ingress whose issuer does
// not exist, and a Knative Service whose certificates are nobody's to make.
const waiting = `
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: web, namespace: waiting, annotations: {cert-manager.io/issuer: not-there}}
spec:
  tls: [{hosts: [web.waiting.test], secretName: web-tls}]
  rules: [{host: web.waiting.test, http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: web, port: {number: 80}}}}]}}]
---
apiVersion: serving.knative.dev/v1
kind: Service
metadata: {name: app, namespace: waiting, annotations: {networking.knative.dev/certificate.class: nobody.example.test}}
spec: {template: {spec: {containers: [{image: dev.local/app}]}}}
`

const issuer = `
apiVersion: cert-manager.io/v1
kind: Issuer
metadata: {name: not-there, namespace: waiting}
spec: {selfSigned: {}}
`

// wait runs certherd wait with the rights of account, and returns its exit code and
// what it has written.
func (w *world) wait(t *testing.T, args ...string) (code int, out, log string) {
	t.Helper()
	command := exec.CommandContext(t.Context(), w.certherd, append([]string{"wait", "--kubeconfig", w.kubeconfig}, args...)...)
	var stdout, stderr bytes.Buffer
	command.Stdout, command.Stderr = &stdout, &stderr
	var exit *exec.ExitError
	if err := command.Run(); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return command.ProcessState.ExitCode(), stdout.String(), stderr.String()
}

func (w *world) envoyPage() string { return "http://" + w.stack.EnvoyAdmin + "/stats/prometheus" }

// TestWait is the last one of this package that changes the cluster.
func TestWait(t *testing.T) {
	w := cluster(t)
	t.Run("steady", func(t *testing.T) {
		code, out, log := w.wait(t, "-n", scenario.Shop, "--gateway", w.envoyPage(), "--timeout", "3m", "--quiet-for", "2s", "-o", "json")
		var r struct {
			Steady       bool
			QuietSeconds float64
			Unsteady     []any
		}
		if err := json.Unmarshal([]byte(out), &r); err != nil || code != 0 || !r.Steady || r.QuietSeconds < 2 || r.Unsteady == nil || len(r.Unsteady) > 0 {
			t.Errorf("it ended with %d (%v) and says %s\n%s", code, err, out, log)
		}
		if code, out, log := w.wait(t, "-n", scenario.Shop, "--timeout", "3m", "--quiet-for", "0", "-q"); code != 0 || out+log != "" {
			t.Errorf("it ended with %d and says %s\n%s", code, out, log)
		}
	})
	t.Run("pushes", w.waitsForPushes)
	t.Run("never", w.waitsInVain)
	t.Run("refused", func(t *testing.T) {
		for _, args := range [][]string{{"--for", "gateway"}, {"--timeout", "1s"}, {"--gateway-pods", "x"}, {"--server", "https://127.0.0.1:1", "--timeout", "0", "--quiet-for", "0", "-o", "xml"}} {
			if code, out, _ := w.wait(t, args...); code != 1 || out != "" {
				t.Errorf("%q ends with %d and says %q", args, code, out)
			}
		}
		// What may not be listed is said at once.
		code, _, log := w.wait(t, "--as", "system:serviceaccount:"+scenario.Shop+":default")
		if code != 1 || !strings.Contains(log, "forbidden") {
			t.Errorf("without rights it ends with %d and says %s", code, log)
		}
	})
}

func (w *world) waitsInVain(t *testing.T) {
	if err := w.cluster.Namespaces(t.Context(), "waiting"); err != nil {
		t.Fatal(err)
	}
	if err := w.cluster.Apply(t.Context(), waiting, nil); err != nil {
		t.Fatal(err)
	}
	gone := func(resource schema.GroupVersionResource, name string) {
		background := metav1.DeletePropagationBackground
		if err := w.cluster.Dynamic.Resource(resource).Namespace("waiting").Delete(t.Context(), name, metav1.DeleteOptions{PropagationPolicy: &background}); err != nil {
			t.Error(err)
		}
	}
	// Controllers take their time until everything is there that cannot become Ready.
	named := []string{"Certificate/waiting/web-tls", "Ingress/waiting/web", "KCertificate/waiting/", "Route/waiting/app", "serves plain HTTP", "not-there"}
	last := ""
	defer func() {
		if t.Failed() {
			t.Log(last)
		}
	}()
	until(t, "everything to be named that is not steady", func() bool {
		code, out, log := w.wait(t, "-n", "waiting", "--timeout", "0", "--quiet-for", "0")
		last = out + log
		return code == 3 && !slices.ContainsFunc(named, func(name string) bool { return !strings.Contains(out, name) })
	})
	code, out, log := w.wait(t, "-n", "waiting,"+scenario.Shop, "--timeout", "4s", "--quiet-for", "1s")
	if code != 3 || !strings.Contains(log, "are not steady") || !strings.Contains(log, "not steady: ") || !strings.Contains(out, "which does not exist") && !strings.Contains(out, "and Certificate/waiting/web-tls") {
		t.Errorf("it ended with %d and says %s\n%s", code, out, log)
	}
	if strings.Contains(out, scenario.Shop+"/") {
		t.Errorf("shop is steady, and it says %s", out)
	}
	// It waits for what is mended, and for what ends.
	if err := w.cluster.Apply(t.Context(), issuer, nil); err != nil {
		t.Fatal(err)
	}
	gone(schema.GroupVersionResource{Group: "serving.knative.dev", Version: "v1", Resource: "services"}, "app")
	if code, out, log = w.wait(t, "-n", "waiting", "--timeout", "3m", "--quiet-for", "1s"); code != 0 {
		t.Errorf("it ended with %d and says %s\n%s", code, out, log)
	}
	// As if it had never been there.
	gone(schema.GroupVersionResource{Group: "networking.k8s.io", Version: "v1", Resource: "ingresses"}, "web")
	certificates := schema.GroupVersionResource{Group: "cert-manager.io", Version: "v1", Resource: "certificates"}
	until(t, "the Certificate to be gone with its Ingress", func() bool {
		list, err := w.cluster.Dynamic.Resource(certificates).Namespace("waiting").List(t.Context(), metav1.ListOptions{})
		return err == nil && len(list.Items) == 0
	})
	gone(schema.GroupVersionResource{Version: "v1", Resource: "secrets"}, "web-tls")
	gone(schema.GroupVersionResource{Group: "cert-manager.io", Version: "v1", Resource: "issuers"}, "not-there")
}

// waitsForPushes: while Envoy is given new listeners wait goes on, and it ends when
// there were none for as long as was asked.
func (w *world) waitsForPushes(t *testing.T) {
	const quiet = 4 * time.Second
	command := exec.CommandContext(t.Context(), w.certherd, "wait", "--kubeconfig", w.kubeconfig, "-n", scenario.Shop, "--gateway", w.envoyPage(), "--timeout", "5m", "--quiet-for", quiet.String())
	var log lines
	command.Stderr = &log
	secrets := w.cluster.Dynamic.Resource(schema.GroupVersionResource{Version: "v1", Resource: "secrets"}).Namespace(scenario.Shop)
	i := slices.IndexFunc(w.truth.Used, func(r inventory.Ref) bool { return r.Namespace == scenario.Shop })
	secret := w.truth.Used[i].Name
	touched := 0
	// Whoever touches a Secret makes net-kourier push all listeners, in another order.
	push := func() {
		touched++
		patch := fmt.Sprintf(`{"metadata":{"annotations":{"example.test/touched":%q}}}`, strconv.Itoa(touched))
		if _, err := secrets.Patch(t.Context(), secret, types.MergePatchType, []byte(patch), metav1.PatchOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	push()
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { _ = command.Wait(); close(ended) }()
	// changed is before, or at, the time of Envoy's last change.
	var changed time.Time
	count, polled := -1, time.Now()
	look := func() {
		at := time.Now()
		stats, err := stack.EnvoyStats(t.Context(), w.stack.EnvoyAdmin, `^listener_manager\.listener_(modified|in_place_updated|added|removed)$`)
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		for _, x := range stats {
			n += x
		}
		if n != count {
			count, changed = n, polled
		}
		polled = at
	}
	until(t, "wait to see that listeners change", func() bool {
		push()
		look()
		return strings.Contains(log.String(), "its listeners were changed")
	})
	for open := true; open; {
		select {
		case <-ended:
			open = false
		case <-time.After(100 * time.Millisecond):
			look()
		}
	}
	if code := command.ProcessState.ExitCode(); code != 0 {
		t.Fatalf("it ended with %d:\n%s", code, log.String())
	}
	if d := time.Since(changed); d < quiet {
		t.Errorf("it ended %s after a change at the latest, and was told to wait for %s", d, quiet)
	}
}

// lines is what a program writes while it runs.
type lines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
