package consolidate_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/rest"

	"github.com/certherd/certherd/api/v1alpha1"
	"github.com/certherd/certherd/consolidate"
	"github.com/certherd/certherd/controller"
	"github.com/certherd/certherd/e2e/stack"
	"github.com/certherd/certherd/inventory/live"
	"github.com/certherd/certherd/plan"
)

var (
	clusterIssuers = schema.GroupVersionResource{Group: "cert-manager.io", Version: "v1", Resource: "clusterissuers"}
	acmeOrders     = schema.GroupVersionResource{Group: "acme.cert-manager.io", Version: "v1", Resource: "orders"}
)

const (
	acmeTeam   = "acme"
	acmeIssuer = "acme-both"
)

// acmeBegins has a wildcard ordered over DNS-01, which takes cert-manager a minute
// (its pkg/controller/acmechallenges waits for the time to live of the record).
func (w *world) acmeBegins(t *testing.T) {
	t.Helper()
	ctx := context.Background()
	if w.find(t, acmeTeam) != nil {
		return
	}
	// An issuer as it should be: HTTP-01 for hosts, DNS-01 for the wildcard alone.
	solver := func(name string) map[string]any {
		o, err := w.c.Dynamic.Resource(clusterIssuers).Get(ctx, name, metav1.GetOptions{})
		must(t, err)
		list, _, err := unstructured.NestedSlice(o.Object, "spec", "acme", "solvers")
		must(t, err)
		return list[0].(map[string]any)
	}
	o, err := w.c.Dynamic.Resource(clusterIssuers).Get(ctx, stack.IssuerDNS01, metav1.GetOptions{})
	must(t, err)
	dns01 := solver(stack.IssuerDNS01)
	dns01["selector"] = map[string]any{"dnsNames": []any{"*." + acmeTeam + ".example.com"}}
	spec := o.Object["spec"].(map[string]any)
	acme := spec["acme"].(map[string]any)
	acme["solvers"] = []any{solver(stack.IssuerHTTP01), dns01}
	acme["privateKeySecretRef"] = map[string]any{"name": acmeIssuer}
	both := &unstructured.Unstructured{Object: map[string]any{"apiVersion": o.GetAPIVersion(), "kind": o.GetKind(), "spec": spec}}
	both.SetName(acmeIssuer)
	_, err = w.c.Dynamic.Resource(clusterIssuers).Create(ctx, both, metav1.CreateOptions{})
	must(t, err)
	w.ingresses(t, acmeTeam, acmeIssuer, 2)
	w.proposeAll(t, acmeTeam)
	r, s, err := w.carrier(t.Logf)
	must(t, err)
	w.phase(t, acmeTeam, r, s, v1alpha1.Issuing)
	w.until(t, "the order for the wildcard", r, s, func() bool { return slices.Contains(w.ordered(t), "*."+acmeTeam+".example.com") })
}

// ordered are the names of the ACME Orders of the team that are there.
func (w *world) ordered(t *testing.T) (names []string) {
	t.Helper()
	list, err := w.c.Dynamic.Resource(acmeOrders).Namespace(acmeTeam).List(context.Background(), metav1.ListOptions{})
	must(t, err)
	for _, o := range list.Items {
		n, _, _ := unstructured.NestedStringSlice(o.Object, "spec", "dnsNames")
		names = append(names, n...)
	}
	return names
}

// pebble asks Pebble's management interface.
func (w *world) pebble(t *testing.T, path string) []byte {
	t.Helper()
	client, err := rest.HTTPClientFor(&rest.Config{TLSClientConfig: rest.TLSClientConfig{CAData: w.cfg.CAData, CAFile: w.cfg.CAFile}})
	must(t, err)
	r, err := client.Get("https://" + w.stack.PebbleManagement + path)
	must(t, err)
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	must(t, err)
	return b
}

// What is under way on a connection of a moved host for longer than the gateway
// drains is cut after just that time, on stock Kourier; what is shorter is not.
func TestRequestsThatOutlastTheDrain(t *testing.T) {
	w := setUp(t)
	w.acmeBegins(t) // its minute passes meanwhile
	const ns, atOnce = "outlast", 5
	hosts := w.team(t, ns, 2)
	w.approve(t, w.propose(t, ns))
	r, s, err := w.carrier(t.Logf)
	must(t, err)
	w.phase(t, ns, r, s, v1alpha1.Verifying)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	type end struct {
		at  time.Time
		err error
	}
	ends := make(chan end)
	for i := range atOnce {
		go func() {
			err := w.long(ctx, hosts[i%len(hosts)], 10*time.Minute)
			ends <- end{time.Now(), err}
		}()
	}
	// All of them are under way when Envoy has that many, and no probe is among them.
	seen := 0
	w.until(t, "the long requests", nil, nil, func() bool {
		if seen++; w.envoy(t, "http.ingress_http.downstream_rq_active")[0] < atOnce {
			seen = 0
		}
		return seen == 5
	})
	short := w.watch(hosts)
	defer short.end()
	begun := time.Now()
	w.phase(t, ns, r, s, v1alpha1.Soaking)
	switched := time.Now()
	const drain = 15 * time.Second
	var after []time.Duration
	for range atOnce {
		select {
		case e := <-ends:
			if e.err == nil {
				t.Error("a request of ten minutes has ended well")
			}
			if e.at.Sub(begun) < drain {
				t.Errorf("a request was cut %s after the switch began: %v", e.at.Sub(begun), e.err)
			}
			after = append(after, e.at.Sub(begun).Round(100*time.Millisecond))
		case <-time.After(3 * time.Minute):
			t.Fatalf("after %s %d of %d requests are still under way", time.Since(switched), atOnce-len(after), atOnce)
		}
	}
	t.Logf("of %d requests that were under way at the switch %d were cut, %v after it began; it took %s", atOnce, len(after), after, switched.Sub(begun).Round(100*time.Millisecond))
	short.stop(t)
	w.undo(t, ns)
	w.phase(t, ns, r, s, v1alpha1.RolledBack)
}

// long asks a host for something that takes a while.
func (w *world) long(ctx context.Context, host string, takes time.Duration) error {
	transport := &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, w.stack.GatewayTLS)
		},
		TLSClientConfig: &tls.Config{RootCAs: w.roots, ServerName: host, MinVersion: tls.VersionTLS12},
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("https://%s/?ms=%d", host, takes.Milliseconds()), nil)
	if err != nil {
		return err
	}
	answer, err := (&http.Client{Transport: transport}).Do(request)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	_, err = io.ReadAll(answer.Body)
	return err
}

// One ACME order is made for the wildcard, and none for who comes to it afterwards.
func TestOneOrderForAWildcard(t *testing.T) {
	w := setUp(t)
	ctx := context.Background()
	w.acmeBegins(t)
	address := w.controller(t, acmeTeam)
	here := *w
	here.roots = x509.NewCertPool()
	if !here.roots.AppendCertsFromPEM(w.pebble(t, "/roots/0")) {
		t.Fatal("Pebble has no root")
	}
	wildcard := "*." + acmeTeam + ".example.com"
	hosts := w.get(t, acmeTeam).Spec.Hosts
	c := here.watchAt(address, hosts)
	defer c.end()
	ordered := w.created(t, acmeTeam, "orders")
	if n := len(slices.DeleteFunc(w.ordered(t), func(n string) bool { return n != wildcard })); n != 1 {
		t.Fatalf("%d orders for the wildcard", n)
	}
	o := w.options(t.Logf)
	s := &sweeper{w: w, logf: t.Logf}
	o.Gateway, o.Sweep, o.Roots = address, s.want, here.roots
	r, err := w.carry(o)
	must(t, err)
	w.phase(t, acmeTeam, r, s, v1alpha1.Done)
	secret := w.get(t, acmeTeam).Spec.SecretName
	late := "late." + acmeTeam + ".example.com"
	must(t, w.c.Apply(ctx, lateIngress, struct{ Namespace, Issuer, Host, Secret string }{acmeTeam, acmeIssuer, late, secret}))
	w.until(t, "the new host on the wildcard", nil, nil, func() bool { return c.ask(ctx, late) == nil })
	c.stop(t)
	if n := w.created(t, acmeTeam, "orders") - ordered; n != 0 {
		t.Errorf("%d more orders were made: %v", n, w.ordered(t))
	}
	if got := w.names(t, certificates, acmeTeam); !slices.Equal(got, []string{"app-0-other", "app-1-other", secret}) {
		t.Errorf("Certificates: %v", got)
	}
}

const lateIngress = `
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: late, namespace: {{.Namespace}}, annotations: {cert-manager.io/cluster-issuer: {{.Issuer}} } }
spec:
  tls:
  - {hosts: [{{.Host}}], secretName: {{.Secret}} }
  defaultBackend: {service: {name: x, port: {number: 80}}}
`

// notConsolidatable is what the report has of that, for a namespace.
func (w *world) notConsolidatable(t *testing.T, ns string) []string {
	t.Helper()
	snapshot, _, err := live.Look(context.Background(), w.cfg, live.Options{Proof: true, Now: time.Now})
	must(t, err)
	var out []string
	for _, f := range plan.New(snapshot, consolidate.Checks(controller.Defaults().Consolidate)).Findings {
		if f.Reason == plan.NotConsolidatable && f.Object.Namespace == ns {
			out = append(out, f.Object.Name+": "+f.Message)
		}
	}
	return out
}
