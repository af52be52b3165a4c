package consolidate_test

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"github.com/certherd/certherd/api/v1alpha1"
	"github.com/certherd/certherd/e2e/stack"
)

var (
	gateways     = schema.GroupVersionResource{Group: "gateway.networking.k8s.io", Version: "v1", Resource: "gateways"}
	listenerSets = schema.GroupVersionResource{Group: "gateway.networking.k8s.io", Version: "v1", Resource: "listenersets"}
)

// Two listeners of an annotated Gateway, one of a ListenerSet of it, and one of
// a Gateway whose certificate somebody made by hand; and one that no wildcard is for.
const gatewayManifest = `
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: edge, namespace: {{.Namespace}}, annotations: {cert-manager.io/cluster-issuer: {{.Issuer}} } }
spec:
  gatewayClassName: none
  allowedListeners: {namespaces: {from: Same} }
  listeners:
  - {name: plain, hostname: app-0.{{.Namespace}}.example.com, port: 80, protocol: HTTP}
  - {name: other, hostname: app.other.example, port: 443, protocol: HTTPS, tls: {certificateRefs: [{name: other-tls}]} }
  - {name: app-0, hostname: app-0.{{.Namespace}}.example.com, port: 443, protocol: HTTPS, tls: {certificateRefs: [{name: app-0-tls}]} }
  - {name: app-1, hostname: app-1.{{.Namespace}}.example.com, port: 443, protocol: HTTPS, tls: {certificateRefs: [{name: app-1-tls}]} }
---
apiVersion: gateway.networking.k8s.io/v1
kind: ListenerSet
metadata: {name: more, namespace: {{.Namespace}} }
spec:
  parentRef: {group: gateway.networking.k8s.io, kind: Gateway, name: edge}
  listeners:
  - {name: app-2, hostname: app-2.{{.Namespace}}.example.com, port: 443, protocol: HTTPS, tls: {certificateRefs: [{name: app-2-tls}]} }
---
apiVersion: cert-manager.io/v1
kind: Certificate
metadata: {name: app-3, namespace: {{.Namespace}} }
spec:
  secretName: app-3-tls
  dnsNames: [app-3.{{.Namespace}}.example.com]
  usages: [digital signature, key encipherment]
  issuerRef: {name: {{.Issuer}}, kind: ClusterIssuer}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: by-hand, namespace: {{.Namespace}} }
spec:
  gatewayClassName: none
  listeners:
  - {name: app-3, hostname: app-3.{{.Namespace}}.example.com, port: 443, protocol: HTTPS, tls: {certificateRefs: [{name: app-3-tls}]} }
`

// listening are the Secrets that Gateways and ListenerSets of a namespace name, by
// host, and a line for each of their listeners.
func (w *world) listening(ctx context.Context, ns string) (map[string]string, string, error) {
	out, text := map[string]string{}, ""
	for _, r := range []schema.GroupVersionResource{gateways, listenerSets} {
		list, err := w.c.Dynamic.Resource(r).Namespace(ns).List(ctx, metav1.ListOptions{})
		if err != nil {
			return nil, "", err
		}
		for _, o := range list.Items {
			listeners, _, _ := unstructured.NestedSlice(o.Object, "spec", "listeners")
			for _, l := range listeners {
				b, err := json.Marshal(l)
				if err != nil {
					return nil, "", err
				}
				text += fmt.Sprintln(o.GetKind(), o.GetName(), string(b))
				host, _, _ := unstructured.NestedString(l.(map[string]any), "hostname")
				refs, ok, _ := unstructured.NestedSlice(l.(map[string]any), "tls", "certificateRefs")
				if ok {
					out[host], _, _ = unstructured.NestedString(refs[0].(map[string]any), "name")
				}
			}
		}
	}
	return out, text, nil
}

// program says of every Gateway and ListenerSet of a namespace that it is Programmed,
// and all of its references resolved, as long as it is; except of one, for why.
func (w *world) program(ctx context.Context, ns, except, why string) error {
	for _, r := range []schema.GroupVersionResource{gateways, listenerSets} {
		list, err := w.c.Dynamic.Resource(r).Namespace(ns).List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		for _, o := range list.Items {
			condition := func(name string, yes bool) map[string]any {
				status, reason := "True", name
				if !yes {
					status, reason = "False", why
				}
				return map[string]any{"type": name, "status": status, "reason": reason, "message": why, "observedGeneration": o.GetGeneration(), "lastTransitionTime": "2026-11-23T12:00:00Z"}
			}
			var listeners []any
			spec, _, _ := unstructured.NestedSlice(o.Object, "spec", "listeners")
			for _, l := range spec {
				listeners = append(listeners, map[string]any{
					"name": l.(map[string]any)["name"], "attachedRoutes": 0, "supportedKinds": []any{},
					"conditions": []any{condition("Accepted", true), condition("ResolvedRefs", o.GetName() != except), condition("Programmed", true)},
				})
			}
			b, err := json.Marshal(map[string]any{"status": map[string]any{"conditions": []any{condition("Accepted", true), condition("Programmed", true)}, "listeners": listeners}})
			if err != nil {
				return err
			}
			if _, err := w.c.Dynamic.Resource(r).Namespace(ns).Patch(ctx, o.GetName(), types.MergePatchType, b, metav1.PatchOptions{FieldManager: "programmer"}, "status"); err != nil {
				return err
			}
		}
	}
	return nil
}

// edge makes a namespace with Gateways, and what stands in for their controller:
// it serves them, and says so unless it is told why it should not of one of them.
func (w *world) edge(t *testing.T, ns string) (here *world, hosts []string, unresolved *atomic.Pointer[[2]string]) {
	t.Helper()
	ctx := context.Background()
	must(t, w.c.Namespaces(ctx, ns))
	must(t, w.c.Apply(ctx, gatewayManifest, struct{ Namespace, Issuer string }{ns, stack.IssuerCA}))
	w.until(t, "the certificates", nil, nil, func() bool { return w.ready(t, ns) == 5 })
	for i := range 4 {
		hosts = append(hosts, fmt.Sprintf("app-%d.%s.example.com", i, ns))
	}
	unresolved = &atomic.Pointer[[2]string]{}
	unresolved.Store(&[2]string{})
	address := w.serve(t, ns, func() (map[string]string, error) {
		out, _, err := w.listening(ctx, ns)
		if err == nil {
			x := unresolved.Load()
			err = w.program(ctx, ns, x[0], x[1])
		}
		return out, err
	})
	at := *w.stack
	at.GatewayTLS = address
	x := *w
	x.stack = &at
	return &x, hosts, unresolved
}

// Gateways and ListenerSets move to one wildcard and back, and leaders are killed at
// every step of it. What gateway-shim has made goes and comes back by itself, what
// was made by hand is swept, and made again.
func TestGatewaysMoveToOneWildcard(t *testing.T) {
	w := setUp(t)
	const ns = "gates"
	ctx := context.Background()
	w, hosts, _ := w.edge(t, ns)
	_, before, err := w.listening(ctx, ns)
	must(t, err)
	certs, ordered := w.names(t, certificates, ns), w.orders(t, ns)
	w.proposeAll(t, ns)
	if x := w.get(t, ns); !slices.Equal(x.Spec.Hosts, hosts) || x.Spec.Manual != "" {
		t.Fatalf("%v %s", x.Spec.Hosts, x.Spec.Manual)
	}
	c := w.watch(hosts)
	defer c.end()
	w.killed(t, ns, v1alpha1.Done,
		"about to create", "done: create", "stored Switching", "about to point", "in the midst of pointing", "done: point", "stored Soaking", "stored Sweeping", "stored Done")
	secret := w.get(t, ns).Spec.SecretName
	named, _, err := w.listening(ctx, ns)
	must(t, err)
	for _, h := range hosts {
		if named[h] != secret {
			t.Errorf("%s is served with %s", h, named[h])
		}
	}
	if got, want := w.names(t, certificates, ns), []string{"other-tls", secret}; !slices.Equal(got, want) {
		t.Errorf("Certificates: %v, want %v", got, want)
	}
	if n := w.orders(t, ns) - ordered; n != 1 {
		t.Errorf("%d certificates were ordered, and one wildcard was to be", n)
	}
	w.undo(t, ns)
	w.killed(t, ns, v1alpha1.RolledBack,
		"stored RollingBack", "about to restore", "done: restore", "about to return", "in the midst of pointing", "done: return", "about to remove", "done: remove", "stored RolledBack")
	if _, got, err := w.listening(ctx, ns); err != nil || got != before {
		t.Errorf("they are\n%s, before\n%s %v", got, before, err)
	}
	w.until(t, "the old Certificates to be Ready", nil, nil, func() bool {
		return w.ready(t, ns) == len(certs) && slices.Equal(w.names(t, certificates, ns), certs)
	})
	if n := w.orders(t, ns) - ordered; n != 1 {
		t.Errorf("%d certificates were ordered, and going back was to be none", n)
	}
	c.stop(t)
}

// A Gateway whose controller cannot resolve the reference to the wildcard makes all go
// back; and one that has not looked yet is waited for.
func TestGatewayThatTurnsUnready(t *testing.T) {
	w := setUp(t)
	const ns = "unresolved"
	ctx := context.Background()
	w, hosts, unresolved := w.edge(t, ns)
	_, before, err := w.listening(ctx, ns)
	must(t, err)
	w.proposeAll(t, ns)
	c := w.watch(hosts)
	defer c.end()
	o := w.options(t.Logf)
	o.Soak, o.Patience = time.Hour, time.Second
	r, err := w.carry(o)
	must(t, err)
	s := &sweeper{w: w, logf: t.Logf}
	w.phase(t, ns, r, s, v1alpha1.Soaking)
	unresolved.Store(&[2]string{"edge", "RefNotPermitted"})
	w.phase(t, ns, r, s, v1alpha1.RollingBack)
	unresolved.Store(&[2]string{})
	w.phase(t, ns, r, s, v1alpha1.RolledBack)
	if f := w.get(t, ns).Status.Execution.Failure; !strings.Contains(f, "ResolvedRefs is False: RefNotPermitted") {
		t.Errorf("failure: %s", f)
	}
	if _, got, err := w.listening(ctx, ns); err != nil || got != before {
		t.Errorf("they are\n%s, before\n%s %v", got, before, err)
	}
	c.stop(t)
}
