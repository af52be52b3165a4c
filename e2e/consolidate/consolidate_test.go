package consolidate_test

import (
	"bytes"
	"context"
	"flag"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/certherd/certherd/api/v1alpha1"
	"github.com/certherd/certherd/e2e/scenario"
	"github.com/certherd/certherd/e2e/stack"
)

var number = flag.Int("services", 40, "how many services TestManyServicesMoveToFourWildcards makes, in 4 namespaces")

const lateService = `
apiVersion: serving.knative.dev/v1
kind: Service
metadata: {name: late, namespace: {{.}} }
spec: {template: {spec: {containers: [{image: dev.local/app}]}}}
`

// Many services with a certificate each move to a wildcard for each of their
// namespaces, and nobody who asks for them sees anything of it.
func TestManyServicesMoveToFourWildcards(t *testing.T) {
	w := setUp(t)
	ctx := context.Background()
	teams := []string{"many-1", "many-2", "many-3", "many-4"}
	must(t, w.c.Namespaces(ctx, teams...))
	var all []scenario.Service
	var hosts, parents []string
	for _, ns := range teams {
		list, h := services(ns, *number/len(teams))
		all, hosts, parents = append(all, list...), append(hosts, h...), append(parents, ns+"."+stack.Domain)
	}
	must(t, w.c.Services(ctx, all))
	w.until(t, "Envoy to have a certificate for each host", nil, nil, func() bool { return w.loaded(t, parents...) == len(hosts) })
	if n := w.chains(t, parents...); n != len(hosts) {
		t.Errorf("Envoy has %d filter chains for %d hosts", n, len(hosts))
	}
	memory := "server.memory_allocated"
	counts := []string{"listener_manager.lds.update_rejected", "listener_manager.lds.update_success", memory}
	before := w.envoy(t, counts...)
	c := w.watch(hosts)
	defer c.end()
	w.proposeAll(t, teams...)
	r, s, err := w.carrier(t.Logf)
	must(t, err)
	begun := time.Now()
	w.until(t, "all four to be done", r, s, func() bool {
		for _, ns := range teams {
			if x := w.get(t, ns); x.Status.Phase == v1alpha1.RollingBack || x.Status.Phase == v1alpha1.RolledBack {
				t.Fatalf("%s went back: %s", ns, x.Status.Execution.Failure)
			} else if x.Status.Phase != v1alpha1.Done {
				return false
			}
		}
		return true
	})
	t.Logf("done after %s", time.Since(begun).Round(time.Second))
	for _, ns := range teams {
		name := w.get(t, ns).Spec.SecretName
		for h, secret := range w.served(t, ns) {
			if strings.HasSuffix(h, stack.Domain) && secret != name {
				t.Errorf("%s is served with %s", h, secret)
			}
		}
		for _, what := range []struct {
			kind string
			left []string
		}{{"KCertificates", w.names(t, kCertificates, ns)}, {"Certificates", w.names(t, certificates, ns)}} {
			if !slices.Equal(what.left, []string{name}) {
				t.Errorf("%s in %s: %v", what.kind, ns, what.left)
			}
		}
	}
	w.until(t, "Envoy to have four certificates", nil, nil, func() bool { return w.loaded(t, parents...) == len(teams) })
	after := w.envoy(t, counts...)
	if n := w.chains(t, parents...); n != len(teams) {
		t.Errorf("Envoy has %d filter chains for %d wildcards", n, len(teams))
	}
	t.Logf("%d hosts: Envoy took %.0f listener updates, rejected %.0f, and has %.1f MiB allocated, before %.1f", len(hosts), after[1]-before[1], after[0]-before[0], after[2]/(1<<20), before[2]/(1<<20))
	if after[0] != before[0] {
		t.Errorf("Envoy rejected %.0f updates", after[0]-before[0])
	}
	// A new service comes up on the wildcard at once, and costs no order.
	must(t, w.c.Apply(ctx, lateService, teams[0]))
	want := w.get(t, teams[0]).Spec.SecretName
	w.until(t, "a new service on the wildcard", nil, nil, func() bool { return w.served(t, teams[0])["late."+parents[0]] == want })
	w.until(t, "the new service to answer", nil, nil, func() bool { return c.ask(ctx, "late."+parents[0]) == nil })
	if got := w.names(t, certificates, teams[0]); len(got) != 1 {
		t.Errorf("a new service made a certificate: %v", got)
	}
	c.stop(t)
}

const serviceConfig = `
apiVersion: v1
kind: ConfigMap
metadata: {name: certherd, namespace: ` + home + `}
data:
  config.yaml: |
    maxShare: 100%
    gc: {minAge: 0s, budget: {count: 1000, share: 100%}}
    batch: {reloads: {updates: 600, gap: 0s}}
    consolidate: {mode: propose, soak: 5s, gateway: "{{.}}"}
`

// The program itself carries out what was approved, sweeps in rounds that it asks
// for, and undoes it; in audit mode it does nothing of all that.
func TestServiceCarriesOut(t *testing.T) {
	w := setUp(t)
	const ns = "served"
	ctx := context.Background()
	hosts := w.team(t, ns, 3)
	b := w.before(t, ns)
	program := filepath.Join(t.TempDir(), "certherd")
	if out, err := exec.Command("go", "build", "-o", program, "github.com/certherd/certherd/cmd/certherd").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	w.approve(t, w.propose(t, ns))
	c := w.watch(hosts)
	defer c.end()
	var log bytes.Buffer
	cmd := exec.Command(program, "run", "--kubeconfig", w.stack.Kubeconfig, "--namespace", home, "--listen", "127.0.0.1:0", "--identity", "a")
	cmd.Stderr = &log
	must(t, cmd.Start())
	defer func() {
		must(t, cmd.Process.Signal(syscall.SIGTERM))
		if err := cmd.Wait(); err != nil || t.Failed() {
			t.Errorf("%v\n%s", err, log.String())
		}
	}()
	w.until(t, "a leader", nil, nil, func() bool {
		_, err := w.c.Typed.CoreV1().ConfigMaps(home).Get(ctx, "certherd-report", metav1.GetOptions{})
		return err == nil
	})
	if p := w.get(t, ns).Status.Phase; p != v1alpha1.Approved {
		t.Fatalf("in audit mode it is %s", p)
	}
	must(t, w.c.Apply(ctx, serviceConfig, w.stack.GatewayTLS))
	w.until(t, "it to be done", nil, nil, func() bool { return w.get(t, ns).Status.Phase == v1alpha1.Done })
	if got := w.names(t, kCertificates, ns); len(got) != 1 {
		t.Errorf("KCertificates: %v", got)
	}
	w.undo(t, ns)
	w.until(t, "it to be undone", nil, nil, func() bool { return w.get(t, ns).Status.Phase == v1alpha1.RolledBack })
	c.stop(t)
	w.restored(t, ns, b, 1)
}
