package consolidate_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/certherd/certherd/api/v1alpha1"
	"github.com/certherd/certherd/e2e/stack"
)

var ingresses = schema.GroupVersionResource{Group: "networking.k8s.io", Version: "v1", Resource: "ingresses"}

// The Ingress of a service of its own, with a second host that no wildcard is for.
const ingressManifest = `
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: {{.Name}}, namespace: {{.Namespace}}, annotations: {cert-manager.io/cluster-issuer: {{.Issuer}} } }
spec:
  tls:
  - {hosts: [{{.Name}}.other.example], secretName: {{.Name}}-other}
  - {hosts: [{{.Name}}.{{.Namespace}}.example.com], secretName: {{.Name}}-tls}
  defaultBackend: {service: {name: x, port: {number: 80}}}
`

// controller stands in for an ingress controller, of which the stack has none: it
// serves the Ingresses of a namespace with their Secrets.
func (w *world) controller(t *testing.T, ns string) (address string) {
	t.Helper()
	return w.serve(t, ns, func() (map[string]string, error) {
		list, err := w.c.Dynamic.Resource(ingresses).Namespace(ns).List(context.Background(), metav1.ListOptions{})
		if err != nil {
			return nil, err
		}
		out := map[string]string{}
		for _, i := range list.Items {
			entries, _, _ := unstructured.NestedSlice(i.Object, "spec", "tls")
			for _, e := range entries {
				names, _, _ := unstructured.NestedStringSlice(e.(map[string]any), "hosts")
				for _, h := range names {
					out[h], _ = e.(map[string]any)["secretName"].(string)
				}
			}
		}
		return out, nil
	})
}

// serve serves hosts with the Secrets of a namespace that wanted tells for them,
// again and again.
func (w *world) serve(t *testing.T, ns string, wanted func() (map[string]string, error)) (address string) {
	t.Helper()
	var hosts atomic.Pointer[map[string]*tls.Certificate]
	hosts.Store(&map[string]*tls.Certificate{})
	read := func() error {
		next := map[string]*tls.Certificate{}
		names, err := wanted()
		if err != nil {
			return err
		}
		for h, name := range names {
			s, err := w.c.Typed.CoreV1().Secrets(ns).Get(context.Background(), name, metav1.GetOptions{})
			if err != nil {
				continue
			}
			if pair, err := tls.X509KeyPair(s.Data["tls.crt"], s.Data["tls.key"]); err == nil {
				next[h] = &pair
			}
		}
		hosts.Store(&next)
		return nil
	}
	must(t, read())
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) { fmt.Fprintln(rw, "Hello from", r.Host) }))
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: func(h *tls.ClientHelloInfo) (*tls.Certificate, error) {
		if c := (*hosts.Load())[h.ServerName]; c != nil {
			return c, nil
		}
		return nil, errors.New("no certificate")
	}})
	must(t, err)
	s.Listener = l
	s.Start()
	stop := make(chan struct{})
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			select {
			case <-stop:
				return
			case <-time.After(100 * time.Millisecond):
				_ = read()
			}
		}
	}()
	t.Cleanup(func() { close(stop); <-ended; s.Close() })
	return l.Addr().(*net.TCPAddr).String()
}

// web makes a namespace with Ingresses, and returns the hosts that a wildcard is
// for, and the address of its gateway.
func (w *world) web(t *testing.T, ns, issuer string, n int) (hosts []string, address string) {
	t.Helper()
	return w.ingresses(t, ns, issuer, n), w.controller(t, ns)
}

func (w *world) ingresses(t *testing.T, ns, issuer string, n int) (hosts []string) {
	t.Helper()
	ctx := context.Background()
	must(t, w.c.Namespaces(ctx, ns))
	for i := range n {
		name := fmt.Sprintf("app-%d", i)
		must(t, w.c.Apply(ctx, ingressManifest, struct{ Name, Namespace, Issuer string }{name, ns, issuer}))
		hosts = append(hosts, name+"."+ns+".example.com")
	}
	w.until(t, "the certificates", nil, nil, func() bool { return w.ready(t, ns) == 2*n })
	return hosts
}

func (w *world) ready(t *testing.T, ns string) int {
	t.Helper()
	return len(w.readyNames(t, ns))
}

// readyNames are the Certificates of a namespace that are Ready.
func (w *world) readyNames(t *testing.T, ns string) (out []string) {
	t.Helper()
	list, err := w.c.Dynamic.Resource(certificates).Namespace(ns).List(context.Background(), metav1.ListOptions{})
	must(t, err)
	for _, o := range list.Items {
		conditions, _, _ := unstructured.NestedSlice(o.Object, "status", "conditions")
		for _, c := range conditions {
			if m := c.(map[string]any); m["type"] == "Ready" && m["status"] == "True" {
				out = append(out, o.GetName())
			}
		}
	}
	return out
}

// proposeWeb makes the Consolidation of a namespace's Ingresses.
func (w *world) proposeWeb(t *testing.T, ns, issuer string, hosts []string) *v1alpha1.Consolidation {
	t.Helper()
	ctx := context.Background()
	name := "wildcard-" + ns
	c := &v1alpha1.Consolidation{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name}}
	c.Spec.Proposal = v1alpha1.Proposal{
		Revision: 1, Wildcards: []string{"*." + ns + ".example.com"}, Hosts: hosts, SecretName: name,
		IssuerRef: v1alpha1.IssuerRef{Group: "cert-manager.io", Kind: "ClusterIssuer", Name: issuer},
		Source:    v1alpha1.Source{Kind: v1alpha1.SourceCertificate, Name: name, Template: "app-0-tls"},
	}
	for _, h := range hosts {
		app, _, _ := strings.Cut(h, ".")
		crt, err := w.c.Dynamic.Resource(certificates).Namespace(ns).Get(ctx, app+"-tls", metav1.GetOptions{})
		must(t, err)
		secret, err := w.c.Typed.CoreV1().Secrets(ns).Get(ctx, app+"-tls", metav1.GetOptions{})
		must(t, err)
		i, err := w.c.Dynamic.Resource(ingresses).Namespace(ns).Get(ctx, app, metav1.GetOptions{})
		must(t, err)
		c.Spec.Members = append(c.Spec.Members, v1alpha1.Member{
			Kind: v1alpha1.SourceCertificate, Name: crt.GetName(), UID: string(crt.GetUID()), SecretName: secret.Name, SecretUID: string(secret.UID), Hosts: []string{h},
			Consumers: []v1alpha1.Consumer{{Kind: v1alpha1.ConsumerIngress, Name: app, UID: string(i.GetUID()), Hosts: []string{h}}},
		})
	}
	return c
}

// named are the Secrets that the Ingresses of a namespace name, by host.
func (w *world) named(t *testing.T, ns string) string {
	t.Helper()
	list, err := w.c.Dynamic.Resource(ingresses).Namespace(ns).List(context.Background(), metav1.ListOptions{})
	must(t, err)
	out := ""
	for _, i := range list.Items {
		entries, _, _ := unstructured.NestedSlice(i.Object, "spec", "tls")
		out += fmt.Sprintln(i.GetName(), entries)
	}
	return out
}

// Ingresses with cert-manager's annotation move to one wildcard and back, and
// leaders are killed at every step of it. ingress-shim lets go of the old
// Certificates by itself, and makes them again without an order.
func TestIngressesMoveToOneWildcard(t *testing.T) {
	w := setUp(t)
	const ns = "web"
	hosts, address := w.web(t, ns, stack.IssuerCA, 3)
	before, certs := w.named(t, ns), w.names(t, certificates, ns)
	w.approve(t, w.proposeWeb(t, ns, stack.IssuerCA, hosts))
	ordered := w.orders(t, ns)
	c := w.watchAt(address, hosts)
	defer c.end()
	at := *w.stack
	at.GatewayTLS = address
	here := *w
	here.stack = &at
	here.killed(t, ns, v1alpha1.Done,
		"about to create", "done: create", "stored Switching", "about to point", "in the midst of pointing", "done: point", "stored Soaking", "stored Sweeping", "stored Done")
	want := slices.DeleteFunc(slices.Clone(certs), func(n string) bool { return strings.HasSuffix(n, "-tls") })
	want = append(want, "wildcard-"+ns)
	if got := w.names(t, certificates, ns); !slices.Equal(got, want) {
		t.Errorf("Certificates: %v, want %v", got, want)
	}
	if n := w.orders(t, ns) - ordered; n != 1 {
		t.Errorf("%d certificates were ordered, and one wildcard was to be", n)
	}
	w.undo(t, ns)
	here.killed(t, ns, v1alpha1.RolledBack,
		"stored RollingBack", "about to return", "in the midst of pointing", "done: return", "about to remove", "done: remove", "stored RolledBack")
	if got := w.named(t, ns); got != before {
		t.Errorf("they name\n%s, before\n%s", got, before)
	}
	w.until(t, "the old Certificates to be Ready", nil, nil, func() bool {
		return w.ready(t, ns) == len(certs) && slices.Equal(w.names(t, certificates, ns), certs)
	})
	if n := w.orders(t, ns) - ordered; n != 1 {
		t.Errorf("%d certificates were ordered, and going back was to be none", n)
	}
	c.stop(t)
}

// Somebody who changes an Ingress back is not fought with: all of it goes back.
func TestSomebodyChangesAnIngressBack(t *testing.T) {
	w := setUp(t)
	const ns = "fought"
	hosts, address := w.web(t, ns, stack.IssuerCA, 2)
	before := w.named(t, ns)
	w.approve(t, w.proposeWeb(t, ns, stack.IssuerCA, hosts))
	c := w.watchAt(address, hosts)
	defer c.end()
	o := w.options(t.Logf)
	o.Gateway = address
	r, err := w.carry(o)
	must(t, err)
	s := &sweeper{w: w, logf: t.Logf}
	w.phase(t, ns, r, s, v1alpha1.Soaking)
	w.patch(t, ingresses, ns, "app-1", `{"spec":{"tls":[{"hosts":["app-1.other.example"],"secretName":"app-1-other"},{"hosts":["app-1.fought.example.com"],"secretName":"app-1-tls"}]}}`)
	w.phase(t, ns, r, s, v1alpha1.RolledBack)
	c.stop(t)
	if f := w.get(t, ns).Status.Execution.Failure; !strings.Contains(f, "somebody changed Ingress") {
		t.Errorf("failure: %s", f)
	}
	if got := w.named(t, ns); got != before {
		t.Errorf("they name\n%s, before\n%s", got, before)
	}
}

// An ACME issuer that can do HTTP-01 only never answers for a wildcard, and no Order
// ever fails: cert-manager waits for ever, and certherd does not.
func TestIssuerThatNeverIssues(t *testing.T) {
	w := setUp(t)
	const ns = "never"
	hosts, address := w.web(t, ns, stack.IssuerHTTP01, 2)
	before, certs := w.named(t, ns), w.names(t, certificates, ns)
	// It is not proposed, and the report says why; here somebody proposes it all the same.
	refused := w.notConsolidatable(t, ns)
	for i, h := range hosts {
		app, _, _ := strings.Cut(h, ".")
		if !slices.ContainsFunc(refused, func(f string) bool {
			return strings.HasPrefix(f, app+"-tls: "+h) && strings.Contains(f, "HTTP-01 solvers only")
		}) {
			t.Errorf("%d: nothing is said of %s: %v", i, h, refused)
		}
	}
	x := w.proposeWeb(t, ns, stack.IssuerHTTP01, hosts)
	w.approve(t, x)
	o := w.options(t.Logf)
	o.Gateway, o.Issue = address, 5*time.Second
	r, err := w.carry(o)
	must(t, err)
	w.phase(t, ns, r, &sweeper{w: w, logf: t.Logf}, v1alpha1.RolledBack)
	if f := w.get(t, ns).Status.Execution.Failure; !strings.Contains(f, "was not Ready after 5s") {
		t.Errorf("failure: %s", f)
	}
	if got := w.named(t, ns); got != before {
		t.Errorf("they name\n%s, before\n%s", got, before)
	}
	w.until(t, "the wildcard to go", nil, nil, func() bool { return slices.Equal(w.names(t, certificates, ns), certs) })
}
