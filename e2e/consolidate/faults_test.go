package consolidate_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/certherd/certherd/api/v1alpha1"
	carrylive "github.com/certherd/certherd/carry/live"
	"github.com/certherd/certherd/e2e/scenario"
	"github.com/certherd/certherd/e2e/stack"
)

// team makes a namespace with services, and returns their hosts.
func (w *world) team(t *testing.T, ns string, n int) []string {
	t.Helper()
	must(t, w.c.Namespaces(context.Background(), ns))
	list, hosts := services(ns, n)
	must(t, w.c.Services(context.Background(), list))
	w.until(t, "Envoy to have a certificate for each host", nil, nil, func() bool { return w.loaded(t, ns+"."+stack.Domain) == n })
	return hosts
}

// before is what a namespace has to be like again after a roll-back.
type before struct {
	served       map[string]string
	kcerts       []string
	certificates []string
	orders       int
}

func (w *world) before(t *testing.T, ns string) before {
	t.Helper()
	return before{w.served(t, ns), w.names(t, kCertificates, ns), w.names(t, certificates, ns), w.orders(t, ns)}
}

// restored compares a namespace with what it was. orders is how many
// certificates may have been ordered since.
func (w *world) restored(t *testing.T, ns string, b before, orders int) {
	t.Helper()
	w.until(t, "the wildcard's Certificate to go", nil, nil, func() bool { return len(w.names(t, certificates, ns)) == len(b.certificates) })
	a := w.before(t, ns)
	if fmt.Sprint(a.served) != fmt.Sprint(b.served) {
		t.Errorf("served with\n%v, before\n%v", a.served, b.served)
	}
	if !slices.Equal(a.kcerts, b.kcerts) || !slices.Equal(a.certificates, b.certificates) {
		t.Errorf("there are KCertificates %v, Certificates %v; before %v, %v", a.kcerts, a.certificates, b.kcerts, b.certificates)
	}
	if a.orders-b.orders != orders {
		t.Errorf("%d certificates were ordered, want %d", a.orders-b.orders, orders)
	}
}

// orders counts the CertificateRequests that were ever made in a namespace.
func (w *world) orders(t *testing.T, ns string) int {
	t.Helper()
	return w.created(t, ns, "certificaterequests")
}

// created counts the objects of a resource that were ever made in a namespace, by
// the API server's audit log.
func (w *world) created(t *testing.T, ns, resource string) int {
	t.Helper()
	b, err := os.ReadFile(w.stack.AuditLog)
	must(t, err)
	n := 0
	for line := range bytes.Lines(b) {
		if !bytes.Contains(line, []byte(`"`+resource+`"`)) {
			continue
		}
		var e struct {
			Verb           string
			ObjectRef      struct{ Resource, Namespace, Subresource string }
			ResponseStatus struct{ Code int }
		}
		if json.Unmarshal(line, &e) == nil && e.Verb == "create" && e.ResponseStatus.Code == 201 && e.ObjectRef.Resource == resource && e.ObjectRef.Namespace == ns && e.ObjectRef.Subresource == "" {
			n++
		}
	}
	return n
}

func (w *world) undo(t *testing.T, ns string) {
	t.Helper()
	w.patch(t, v1alpha1.GroupVersionResource, ns, w.get(t, ns).Name, `{"spec":{"undo":true}}`)
}

// phase carries on until a consolidation is in a phase, and lets no other phase
// pass unseen.
func (w *world) phase(t *testing.T, ns string, r *carrylive.Carrier, s *sweeper, want v1alpha1.Phase) {
	t.Helper()
	w.until(t, ns+" to be "+string(want), r, s, func() bool { return w.get(t, ns).Status.Phase == want })
}

// Somebody asks for the state before, in every phase there is.
func TestUndoInEveryPhase(t *testing.T) {
	w := setUp(t)
	phases := []v1alpha1.Phase{v1alpha1.Issuing, v1alpha1.Verifying, v1alpha1.Switching, v1alpha1.Soaking, v1alpha1.Sweeping, v1alpha1.Done}
	name := func(p v1alpha1.Phase) string { return "undo-" + strings.ToLower(string(p)) }
	var all []scenario.Service
	var teams, parents []string
	asked := map[string][]string{}
	for _, p := range phases {
		ns := name(p)
		list, hosts := services(ns, 2)
		all, asked[ns], teams, parents = append(all, list...), hosts, append(teams, ns), append(parents, ns+"."+stack.Domain)
	}
	must(t, w.c.Namespaces(context.Background(), teams...))
	must(t, w.c.Services(context.Background(), all))
	w.until(t, "Envoy to have a certificate for each host", nil, nil, func() bool { return w.loaded(t, parents...) == len(all) })
	for _, phase := range phases {
		t.Run(string(phase), func(t *testing.T) {
			ns := name(phase)
			b := w.before(t, ns)
			w.approve(t, w.propose(t, ns))
			c := w.watch(asked[ns])
			defer c.end()
			r, s, err := w.carrier(t.Logf)
			must(t, err)
			w.phase(t, ns, r, s, phase)
			if phase == v1alpha1.Switching {
				// The label is set, and Routes begin to look.
				for range 2 {
					_, err := r.Pass(context.Background())
					must(t, err)
				}
			}
			w.undo(t, ns)
			w.phase(t, ns, r, s, v1alpha1.RolledBack)
			c.stop(t)
			wildcard := 1
			if phase == v1alpha1.Issuing {
				wildcard = 0
			}
			w.restored(t, ns, b, wildcard)
		})
	}
	w.until(t, "Envoy to have the old certificates", nil, nil, func() bool { return w.loaded(t, parents...) == len(all) })
}

// The API server is killed while consumers are being switched, and again on the way
// back.
func TestAPIServerRestartsMeanwhile(t *testing.T) {
	w := setUp(t)
	const ns = "apiserver"
	hosts := w.team(t, ns, 2)
	b := w.before(t, ns)
	w.approve(t, w.propose(t, ns))
	c := w.watch(hosts)
	defer c.end()
	o := w.options(t.Logf)
	o.Soak = time.Hour
	r, err := w.carry(o)
	must(t, err)
	s := &sweeper{w: w, logf: t.Logf}
	restart := func() {
		t.Helper()
		must(t, w.stack.Signal("kube-apiserver", syscall.SIGKILL))
		for range 3 { // it fails, and goes on
			_, _ = r.Pass(context.Background())
		}
		w.until(t, "the API server", nil, nil, func() bool {
			_, err := w.c.Typed.Discovery().RESTClient().Get().AbsPath("/readyz").DoRaw(context.Background())
			return err == nil
		})
	}
	w.phase(t, ns, r, s, v1alpha1.Switching)
	restart()
	w.phase(t, ns, r, s, v1alpha1.Soaking)
	w.undo(t, ns)
	w.phase(t, ns, r, s, v1alpha1.RollingBack)
	restart()
	w.phase(t, ns, r, s, v1alpha1.RolledBack)
	c.stop(t)
	w.restored(t, ns, b, 1)
}

// Nothing moves while cert-manager does not come to issue, and in the end the
// wildcard is taken back.
func TestCertManagerPausedBeforeReady(t *testing.T) {
	w := setUp(t)
	const ns = "paused"
	hosts := w.team(t, ns, 2)
	b := w.before(t, ns)
	w.approve(t, w.propose(t, ns))
	must(t, w.stack.Signal("cert-manager-controller", syscall.SIGSTOP))
	running := false
	goOn := func() {
		if !running {
			running = true
			must(t, w.stack.Signal("cert-manager-controller", syscall.SIGCONT))
		}
	}
	defer goOn()
	c := w.watch(hosts)
	defer c.end()
	o := w.options(t.Logf)
	o.Issue = 5 * time.Second
	r, err := w.carry(o)
	must(t, err)
	s := &sweeper{w: w, logf: t.Logf}
	w.phase(t, ns, r, s, v1alpha1.Issuing)
	w.phase(t, ns, r, s, v1alpha1.RolledBack)
	if got := w.served(t, ns); fmt.Sprint(got) != fmt.Sprint(b.served) {
		t.Errorf("something has moved: %v", got)
	}
	if f := w.get(t, ns).Status.Execution.Failure; !strings.Contains(f, "was not Ready after 5s") {
		t.Errorf("failure: %s", f)
	}
	goOn()
	c.stop(t)
	w.restored(t, ns, b, w.orders(t, ns)-b.orders)
}

// A wildcard that was issued, and has no name for one of the hosts, is never used.
func TestWildcardThatLacksAName(t *testing.T) {
	w := setUp(t)
	const ns = "lacks"
	hosts := w.team(t, ns, 2)
	b := w.before(t, ns)
	x := w.propose(t, ns)
	x.Spec.Hosts = append(x.Spec.Hosts, "deeper.svc-000."+ns+"."+stack.Domain)
	w.approve(t, x)
	c := w.watch(hosts)
	defer c.end()
	r, s, err := w.carrier(t.Logf)
	must(t, err)
	w.phase(t, ns, r, s, v1alpha1.RolledBack)
	c.stop(t)
	if f := w.get(t, ns).Status.Execution.Failure; !strings.Contains(f, "it has no name for deeper.svc-000") {
		t.Errorf("failure: %s", f)
	}
	w.restored(t, ns, b, 1)
}

const mapping = `
apiVersion: networking.internal.knative.dev/v1alpha1
kind: ClusterDomainClaim
metadata: {name: {{.Host}} }
spec: {namespace: {{.Namespace}} }
---
apiVersion: serving.knative.dev/v1beta1
kind: DomainMapping
metadata: {name: {{.Host}}, namespace: {{.Namespace}} }
spec: {ref: {apiVersion: serving.knative.dev/v1, kind: Service, name: {{.Service}} } }
`

// Services, tags and DomainMappings come and go while certificates are being moved,
// and while they move back. Gateways are found by what ingresses say of them.
func TestServicesComeAndGoMeanwhile(t *testing.T) {
	w := setUp(t)
	const ns = "lively"
	ctx := context.Background()
	hosts := w.team(t, ns, 6)
	w.approve(t, w.propose(t, ns))
	c := w.watch(hosts[:4]) // the others go
	defer c.end()
	s := &sweeper{w: w, logf: t.Logf}
	o := w.options(t.Logf)
	o.Gateway, o.Sweep = "", s.want
	const address = "kourier.kourier-system.svc.cluster.local:443"
	var dialled sync.Map
	o.Dial = func(ctx context.Context, network, a string) (net.Conn, error) {
		dialled.Store(a, true)
		if a == address { // as the cluster's DNS would say
			a = w.stack.GatewayTLS
		}
		return new(net.Dialer).DialContext(ctx, network, a)
	}
	r, err := w.carry(o)
	must(t, err)
	drop := func(resource schema.GroupVersionResource, name string) {
		t.Helper()
		must(t, w.c.Dynamic.Resource(resource).Namespace(ns).Delete(ctx, name, metav1.DeleteOptions{}))
	}
	tag := func(service string, names ...string) {
		t.Helper()
		traffic := `{"latestRevision":true,"percent":100}`
		for _, n := range names {
			traffic += `,{"latestRevision":true,"percent":0,"tag":"` + n + `"}`
		}
		w.patch(t, knativeServices, ns, service, `{"spec":{"traffic":[`+traffic+`]}}`)
	}
	mapped := func(host string) {
		t.Helper()
		must(t, w.c.Apply(ctx, mapping, struct{ Host, Namespace, Service string }{host, ns, "svc-000"}))
	}
	below := "." + ns + "." + stack.Domain
	w.phase(t, ns, r, s, v1alpha1.Switching)
	drop(knativeServices, "svc-004")
	must(t, w.c.Apply(ctx, strings.ReplaceAll(lateService, "name: late", "name: during-switch"), ns))
	tag("svc-001", "stays", "goes")
	mapped("goes.example.org")
	mapped("mapped" + below) // the wildcard would do for it, and Knative does not ask for one
	w.phase(t, ns, r, s, v1alpha1.Soaking)
	drop(knativeServices, "svc-005")
	must(t, w.c.Apply(ctx, strings.ReplaceAll(lateService, "name: late", "name: during-soak"), ns))
	tag("svc-001", "stays")
	tag("svc-002", "late")
	drop(domainMappings, "goes.example.org")
	w.phase(t, ns, r, s, v1alpha1.Done)
	name := w.get(t, ns).Spec.SecretName
	want := []string{"during-soak", "during-switch", "late-svc-002", "mapped", "stays-svc-001", "svc-000", "svc-001", "svc-002", "svc-003"}
	all := func(on func(host, secret string) bool) func() bool {
		return func() bool {
			var got []string
			for h, secret := range w.served(t, ns) {
				if host, ok := strings.CutSuffix(h, below); ok && (host == "mapped") != on(host, secret) {
					got = append(got, host)
				}
			}
			slices.Sort(got)
			return slices.Equal(got, want)
		}
	}
	w.until(t, "all but the mapping to be on the wildcard", r, s, all(func(_, secret string) bool { return secret == name }))
	// What is mapped to a service answers with that one's name.
	through := &client{w: w, address: w.stack.GatewayTLS, text: "svc-000"}
	answers := func(h string) func() bool {
		if h == "mapped" {
			return func() bool { return through.ask(ctx, h+below) == nil }
		}
		return func() bool { return c.ask(ctx, h+below) == nil }
	}
	for _, h := range want {
		w.until(t, h+" to answer", r, s, answers(h))
	}
	n := 0
	for a := range dialled.Range {
		if n++; a != address {
			t.Errorf("somebody asked %s", a)
		}
	}
	if n == 0 {
		t.Error("no gateway was asked")
	}
	// One that has never had a certificate of its own gets one before it moves back.
	w.undo(t, ns)
	w.phase(t, ns, r, s, v1alpha1.RolledBack)
	if !all(func(_, secret string) bool { return strings.HasPrefix(secret, "route-") })() {
		t.Errorf("served: %v", w.served(t, ns))
	}
	for _, h := range want {
		w.until(t, h+" to answer", nil, nil, answers(h))
	}
	c.stop(t)
}

// Two wildcards that a Route could choose between are never there together.
func TestAnotherWildcardIsThere(t *testing.T) {
	w := setUp(t)
	const ns = "rival"
	ctx := context.Background()
	hosts := w.team(t, ns, 2)
	// A Route that is looked at once more while theirs is there may take it by itself,
	// and that has no certificate yet.
	w.routesRest(t, ns)
	must(t, w.c.Apply(ctx, rival, ns))
	w.approve(t, w.propose(t, ns))
	c := w.watch(hosts)
	defer c.end()
	var said string
	o := w.options(t.Logf)
	r, err := w.carry(o)
	must(t, err)
	for range 5 {
		_, err := r.Pass(ctx)
		must(t, err)
	}
	x := w.get(t, ns)
	said = x.Status.Message
	if x.Status.Phase != v1alpha1.Approved {
		t.Errorf("it went on to %s: %s", x.Status.Phase, said)
	}
	if got := len(w.names(t, kCertificates, ns)); got != 3 {
		t.Errorf("%d KCertificates", got)
	}
	must(t, w.c.Dynamic.Resource(kCertificates).Namespace(ns).Delete(ctx, "theirs", metav1.DeleteOptions{}))
	w.phase(t, ns, r, &sweeper{w: w, logf: t.Logf}, v1alpha1.Soaking)
	// One comes up when ours is in use: back to the state before, where there is no question.
	must(t, w.c.Apply(ctx, rival, ns))
	w.phase(t, ns, r, &sweeper{w: w, logf: t.Logf}, v1alpha1.RollingBack)
	must(t, w.c.Dynamic.Resource(kCertificates).Namespace(ns).Delete(ctx, "theirs", metav1.DeleteOptions{}))
	w.phase(t, ns, r, &sweeper{w: w, logf: t.Logf}, v1alpha1.RolledBack)
	c.stop(t)
}

const rival = `
apiVersion: networking.internal.knative.dev/v1alpha1
kind: Certificate
metadata:
  name: theirs
  namespace: {{.}}
  labels: {networking.knative.dev/wildcardDomain: ` + stack.Domain + `}
  annotations: {networking.knative.dev/certificate.class: cert-manager.certificate.networking.knative.dev}
spec: {dnsNames: ["*.{{.}}.` + stack.Domain + `"], domain: ` + stack.Domain + `, secretName: theirs}
`

// childEnv makes this test binary a leader: KUBECONFIG|GATEWAY|NAMESPACE|PHASE|WHERE.
// It carries on until the consolidation of the namespace is in the phase, or
// kills itself when it comes by WHERE.
const childEnv = "CERTHERD_CARRY_CHILD"

func child() int {
	f := strings.Split(os.Getenv(childEnv), "|")
	err := lead(f[0], f[1], f[2], v1alpha1.Phase(f[3]), f[4])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func lead(kubeconfig, gateway, ns string, phase v1alpha1.Phase, where string) error {
	cfg, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return err
	}
	w, err := connect(&stack.Stack{GatewayTLS: gateway}, cfg)
	if err != nil {
		return err
	}
	s := &sweeper{w: w, logf: func(f string, a ...any) { fmt.Printf(f+"\n", a...) }}
	o := w.options(s.logf)
	o.Sweep = s.want
	o.Trace = func(at string) {
		fmt.Println("at", at)
		if at == where {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
	}
	r, err := w.carry(o)
	if err != nil {
		return err
	}
	for end := time.Now().Add(2 * time.Minute); ; time.Sleep(100 * time.Millisecond) {
		list, err := w.c.Dynamic.Resource(v1alpha1.GroupVersionResource).Namespace(ns).List(context.Background(), metav1.ListOptions{})
		if err != nil {
			return err
		}
		c, err := v1alpha1.FromUnstructured(&list.Items[0])
		if err != nil || c.Status.Phase == phase && where == "" {
			return err
		}
		if time.Now().After(end) {
			return fmt.Errorf("waited in vain for %s", phase)
		}
		if _, err := r.Pass(context.Background()); err != nil {
			return err
		}
		if err := s.round(context.Background()); err != nil {
			return err
		}
	}
}

// killed runs one leader after the other. Each is killed at one of the places, in
// their order, and the last one gets to the phase.
func (w *world) killed(t *testing.T, ns string, phase v1alpha1.Phase, places ...string) {
	t.Helper()
	for _, where := range append(places, "") {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%s|%s|%s|%s|%s", childEnv, w.stack.Kubeconfig, w.stack.GatewayTLS, ns, phase, where))
		begun := time.Now()
		out, err := cmd.CombinedOutput()
		t.Logf("%s: %s", where, time.Since(begun).Round(100*time.Millisecond))
		status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus)
		switch died := ok && status.Signaled() && status.Signal() == syscall.SIGKILL; {
		case where != "" && !died:
			t.Fatalf("the leader did not come by %q: %v\n%s", where, err, out)
		case where == "" && err != nil:
			t.Fatalf("the last leader: %v\n%s", err, out)
		}
	}
}

// A leader is killed at every step of the way there, and of the way back.
func TestKilledAtEveryStep(t *testing.T) {
	w := setUp(t)
	const ns = "killed"
	hosts := w.team(t, ns, 3)
	b := w.before(t, ns)
	w.approve(t, w.propose(t, ns))
	c := w.watch(hosts)
	defer c.end()
	w.killed(t, ns, v1alpha1.Done,
		"stored Issuing", "about to create", "done: create", "stored Verifying", "stored Switching", "about to label", "done: label",
		"about to touch", "in the midst of touch", "stored Soaking", "stored Sweeping", "stored Done")
	if got := w.get(t, ns).Status.Phase; got != v1alpha1.Done {
		t.Fatalf("it is %s", got)
	}
	w.undo(t, ns)
	w.killed(t, ns, v1alpha1.RolledBack,
		"stored RollingBack", "about to restore", "done: restore", "about to unlabel", "done: unlabel", "about to touch", "in the midst of touch",
		"about to remove", "done: remove", "stored RolledBack")
	c.stop(t)
	w.restored(t, ns, b, 1)
}
