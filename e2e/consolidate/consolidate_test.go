package consolidate_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"flag"
	"maps"
	"math"
	"math/big"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"github.com/certherd/certherd/api/v1alpha1"
	"github.com/certherd/certherd/config"
	"github.com/certherd/certherd/e2e/replica"
	"github.com/certherd/certherd/e2e/scenario"
	"github.com/certherd/certherd/e2e/stack"
	"github.com/certherd/certherd/e2e/suite"
	"github.com/certherd/certherd/proposal"
)

var number = flag.Int("services", 40, "how many services TestManyServicesMoveToFourWildcards makes, in 4 namespaces")

// tolerance is how far off a prediction of memory may be: a tenth, and where little is
// saved, what else Envoy allocates meanwhile counts for more.
func tolerance() float64 { return max(.1, 20/float64(*number)) }

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
	counts := []string{"listener_manager.lds.update_rejected", "listener_manager.lds.update_success"}
	loaded := w.settled(t, hosts)
	before := w.envoy(t, counts...)
	c := w.watch(hosts)
	defer c.end()
	w.proposeAll(t, teams...)
	saves := 0.0
	for _, ns := range teams {
		x, err := strconv.ParseFloat(w.get(t, ns).Status.Savings.MemoryMiB, 64)
		must(t, err)
		saves += x
	}
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
	t.Logf("%d hosts: Envoy took %.0f listener updates, and rejected %.0f", len(hosts), after[1]-before[1], after[0]-before[0])
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
	must(t, w.c.Dynamic.Resource(knativeServices).Namespace(teams[0]).Delete(ctx, "late", metav1.DeleteOptions{}))
	w.until(t, "the new service to go", nil, nil, func() bool { return w.served(t, teams[0])["late."+parents[0]] == "" })
	left := w.settled(t, hosts)
	t.Logf("Envoy has %.1f MiB allocated, before %.1f: %.1f less; %.1f less were proposed", left, loaded, loaded-left, saves)
	if off := math.Abs(loaded-left-saves) / saves; off > tolerance() {
		t.Errorf("what was proposed is %.0f %% off", off*100)
	}
	w.deleteConsolidations(t, teams)
	for _, h := range hosts {
		w.until(t, h+" to answer", nil, nil, func() bool { return c.ask(ctx, h) == nil })
	}
}

// deleteConsolidations deletes the Consolidations of namespaces, as whoever deletes their
// CRD does, and looks that the wildcards stay when what is owned by them is collected.
func (w *world) deleteConsolidations(t *testing.T, namespaces []string) {
	t.Helper()
	ctx := context.Background()
	secrets := schema.GroupVersionResource{Version: "v1", Resource: "secrets"}
	there := func(ns string) map[string]types.UID {
		out := map[string]types.UID{}
		for _, r := range []schema.GroupVersionResource{secrets, certificates, kCertificates} {
			list, err := w.c.Dynamic.Resource(r).Namespace(ns).List(ctx, metav1.ListOptions{})
			must(t, err)
			for _, o := range list.Items {
				out[r.Resource+"."+r.Group+"/"+o.GetName()] = o.GetUID()
			}
		}
		return out
	}
	before := map[string]map[string]types.UID{}
	for _, ns := range namespaces {
		x := w.get(t, ns)
		before[ns] = there(ns)
		if before[ns]["secrets./"+x.Spec.SecretName] == "" {
			t.Fatalf("there is no Secret %s in %s", x.Spec.SecretName, ns)
		}
		if f := x.GetFinalizers(); len(f) > 0 {
			t.Errorf("%s has the finalizers %v", x.Name, f)
		}
		_, err := w.c.Typed.CoreV1().ConfigMaps(ns).Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "owned", OwnerReferences: []metav1.OwnerReference{{
			APIVersion: v1alpha1.GroupVersionResource.GroupVersion().String(), Kind: "Consolidation", Name: x.Name, UID: x.UID,
		}}}}, metav1.CreateOptions{})
		must(t, err)
		foreground := metav1.DeletePropagationForeground
		must(t, w.c.Dynamic.Resource(v1alpha1.GroupVersionResource).Namespace(ns).Delete(ctx, x.Name, metav1.DeleteOptions{PropagationPolicy: &foreground}))
	}
	for _, ns := range namespaces {
		w.until(t, "what the Consolidation of "+ns+" owned to be collected", nil, nil, func() bool {
			_, err := w.c.Typed.CoreV1().ConfigMaps(ns).Get(ctx, "owned", metav1.GetOptions{})
			return apierrors.IsNotFound(err)
		})
		if after := there(ns); !maps.Equal(before[ns], after) {
			t.Errorf("%s had %v\nand has without its Consolidation %v", ns, before[ns], after)
		}
	}
}

// The certificate in it is on a curve that net-kourier takes and Envoy refuses.
const refused = `
apiVersion: v1
kind: Secret
metadata: {name: refused, namespace: {{.Namespace}} }
type: kubernetes.io/tls
data: {tls.crt: {{.Certificate}}, tls.key: {{.Key}} }
`

// refuse has net-kourier send Envoy something that it rejects, until a KIngress of
// that name is deleted.
func (w *world) refuse(t *testing.T, ns, name string) {
	t.Helper()
	ctx := context.Background()
	host := name + "." + ns + "." + stack.Domain
	key, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	must(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{host}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	must(t, err)
	private, err := x509.MarshalECPrivateKey(key)
	must(t, err)
	encode := func(kind string, b []byte) string {
		return base64.StdEncoding.EncodeToString(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: b}))
	}
	must(t, w.c.Apply(ctx, refused, struct{ Namespace, Certificate, Key string }{ns, encode("CERTIFICATE", der), encode("EC PRIVATE KEY", private)}))
	// It is like another one, but for its host.
	list, err := w.c.Dynamic.Resource(kIngresses).Namespace(ns).List(ctx, metav1.ListOptions{})
	must(t, err)
	like := list.Items[0]
	spec := like.Object["spec"].(map[string]any)
	rule := spec["rules"].([]any)[0].(map[string]any)
	rule["hosts"], rule["visibility"] = []any{host}, "ExternalIP"
	spec["rules"] = []any{rule}
	spec["tls"] = []any{map[string]any{"hosts": []any{host}, "secretName": "refused", "secretNamespace": ns}}
	o := &unstructured.Unstructured{Object: map[string]any{"apiVersion": like.GetAPIVersion(), "kind": like.GetKind(), "spec": spec}}
	o.SetNamespace(ns)
	o.SetName(name)
	o.SetAnnotations(map[string]string{"networking.knative.dev/ingress.class": "kourier.ingress.networking.knative.dev"})
	_, err = w.c.Dynamic.Resource(kIngresses).Namespace(ns).Create(ctx, o, metav1.CreateOptions{})
	must(t, err)
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
    consolidate: {mode: propose, soak: {{.Soak}}, patience: 10s, gateway: "{{.Gateway}}", acceptDrains: {{.Accept}} }
    breaker: {pods: [], gateways: ["http://{{.Admin}}/stats/prometheus"]}
`

// The program itself proposes, carries out what was approved, sweeps in rounds that it
// asks for, and undoes it; in audit mode it does nothing of all that. It looks at
// drain times again before the switch, and goes back when the gateway rejects updates
// after it.
func TestServiceCarriesOut(t *testing.T) {
	w := setUp(t)
	const ns, other = "served", "rejected"
	ctx := context.Background()
	hosts := append(w.team(t, ns, 3), w.team(t, other, 3)...)
	b, b2 := w.before(t, ns), w.before(t, other)
	program, err := suite.Program("certherd")
	must(t, err)
	c := w.watch(hosts)
	defer c.end()
	started, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	run, err := replica.Run(started, "a", exec.Command(program, "run", "--kubeconfig", w.stack.Kubeconfig, "--namespace", home, "--listen", "127.0.0.1:0", "--identity", "a"))
	defer func() {
		if err := run.End(); err != nil || run.Crash() != nil {
			t.Errorf("its end: %v", err)
		}
		if t.Failed() {
			for _, l := range run.Lines() {
				t.Log(l.Message, l.Fields)
			}
		}
	}()
	must(t, err)
	w.until(t, "a leader", nil, nil, func() bool {
		_, err := w.c.Typed.CoreV1().ConfigMaps(home).Get(ctx, "certherd-report", metav1.GetOptions{})
		return err == nil
	})
	if x := w.find(t, ns); x != nil {
		t.Fatalf("in audit mode it proposes %s", x.Name)
	}
	configure := func(soak string, accept bool) {
		t.Helper()
		must(t, w.c.Apply(ctx, serviceConfig, struct {
			Soak, Gateway, Admin string
			Accept               bool
		}{soak, w.stack.GatewayTLS, w.stack.EnvoyAdmin, accept}))
		cm, err := w.c.Typed.CoreV1().ConfigMaps(home).Get(ctx, config.ConfigMapName, metav1.GetOptions{})
		must(t, err)
		w.until(t, "the configuration to be taken over", nil, nil, func() bool {
			return slices.ContainsFunc(run.Said("configuration taken over"), func(l replica.Line) bool { return l.Text("resourceVersion") == cm.ResourceVersion })
		})
	}
	is := func(ns string, p v1alpha1.Phase) {
		t.Helper()
		w.until(t, ns+" to be "+string(p), nil, nil, func() bool {
			if len(run.Said("stopped")) > 0 {
				t.Fatalf("everything was stopped while %s was to be %s", ns, p)
			}
			x := w.find(t, ns)
			return x != nil && x.Status.Phase == p
		})
	}
	p, err := proposal.New(w.cfg, proposal.Options{})
	must(t, err)
	approve := func(ns string) {
		t.Helper()
		is(ns, v1alpha1.Proposed)
		// A round may write it at any time, and may propose it anew: then alice looks again.
		w.until(t, ns+" to be approved as it is", nil, nil, func() bool {
			x := w.get(t, ns)
			if x.Spec.ApprovedDigest == x.Status.Digest {
				return true
			}
			if _, err := p.Approve(ctx, x, proposal.Author{By: "alice", Reason: "looked at it"}); !apierrors.IsConflict(err) {
				must(t, err)
			}
			return false
		})
	}
	configure("5s", true)
	must(t, w.stack.Signal("cert-manager-controller", syscall.SIGSTOP))
	issuing := false
	issue := func() {
		if !issuing {
			issuing = true
			must(t, w.stack.Signal("cert-manager-controller", syscall.SIGCONT))
		}
	}
	defer issue()
	approve(ns)
	is(ns, v1alpha1.Issuing)
	configure("5s", false)
	issue()
	w.until(t, "it to wait for drains to be accepted", nil, nil, func() bool {
		x := w.get(t, ns)
		if x.Status.Phase != v1alpha1.Issuing && x.Status.Phase != v1alpha1.Verifying {
			t.Fatalf("it is %s: %s", x.Status.Phase, x.Status.Message)
		}
		return strings.Contains(x.Status.Message, "3scale-kourier-gateway drains for 15 s")
	})
	configure("5s", true)
	is(ns, v1alpha1.Done)
	if got := w.names(t, kCertificates, ns); len(got) != 1 {
		t.Errorf("KCertificates: %v", got)
	}
	w.undo(t, ns)
	is(ns, v1alpha1.RolledBack)

	configure("1h", true)
	approve(other)
	is(other, v1alpha1.Soaking)
	w.refuse(t, other, "refused")
	w.until(t, "it to go back", nil, nil, func() bool { return w.get(t, other).Status.Execution.Failure != "" })
	if f := w.get(t, other).Status.Execution.Failure; !strings.Contains(f, "the gateway has rejected updates") {
		t.Errorf("failure: %s", f)
	}
	// Nothing gets to Envoy before somebody mends what it rejects.
	must(t, w.c.Dynamic.Resource(kIngresses).Namespace(other).Delete(ctx, "refused", metav1.DeleteOptions{}))
	is(other, v1alpha1.RolledBack)
	c.stop(t)
	w.restored(t, ns, b, 1)
	w.restored(t, other, b2, 1)
}
