package consolidate_test

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"github.com/certherd/certherd/api/v1alpha1"
	"github.com/certherd/certherd/consolidate"
	"github.com/certherd/certherd/controller"
	"github.com/certherd/certherd/e2e/stack"
	"github.com/certherd/certherd/inventory/live"
)

// mapped are the Secrets that the DomainMappings of a namespace name.
func (w *world) mapped(t *testing.T, ns string) string {
	t.Helper()
	list, err := w.c.Dynamic.Resource(domainMappings).Namespace(ns).List(context.Background(), metav1.ListOptions{})
	must(t, err)
	out := ""
	for _, i := range list.Items {
		tls, _, _ := unstructured.NestedMap(i.Object, "spec", "tls")
		out += fmt.Sprintln(i.GetName(), tls)
	}
	return out
}

const certificateManifest = `
apiVersion: cert-manager.io/v1
kind: Certificate
metadata: {name: {{.Name}}, namespace: {{.Namespace}} }
spec:
  secretName: {{.Name}}
  dnsNames: ["{{.Host}}"]
  {{- if .Shim}}
  usages: [digital signature, key encipherment]
  {{- end}}
  issuerRef: {name: {{.Issuer}}, kind: ClusterIssuer}
`

// byHand is what a person makes; Shim, just as cert-manager's shims would.
type byHand struct {
	Namespace, Name, Host, Issuer string
	Shim                          bool
}

// DomainMappings move to one wildcard and back, and leaders are killed at every step
// of it: two that Knative has certificates for, and one whose owner made its own.
func TestDomainMappingsMoveToOneWildcard(t *testing.T) {
	w := setUp(t)
	const ns = "mapped"
	ctx := context.Background()
	w.team(t, ns, 1)
	hosts := []string{"a.mapped.example", "b.mapped.example", "c.mapped.example"}
	must(t, w.c.Apply(ctx, certificateManifest, byHand{ns, "own-c-tls", hosts[2], stack.IssuerCA, false}))
	w.until(t, "the certificate made by hand", nil, nil, func() bool { return w.ready(t, ns) == 2 })
	for i, h := range hosts {
		must(t, w.c.DomainMapping(ctx, ns, "svc-000", h, []string{"", "", "own-c-tls"}[i]))
	}
	w.until(t, "Envoy to have their certificates", nil, nil, func() bool { return w.loaded(t, "mapped.example") == len(hosts) })
	b, before := w.before(t, ns), w.mapped(t, ns)
	w.proposeAll(t, ns)
	if x := w.get(t, ns); !slices.Equal(x.Spec.Hosts, hosts) || x.Spec.Manual != "" {
		t.Fatalf("%v %s", x.Spec.Hosts, x.Spec.Manual)
	}
	c := w.watchFor(w.stack.GatewayTLS, hosts, "svc-000") // which is what they are mapped to
	defer c.end()
	w.killed(t, ns, v1alpha1.Done,
		"about to create", "done: create", "stored Switching", "about to point", "in the midst of pointing", "done: point", "stored Soaking", "stored Sweeping", "stored Done")
	secret := w.get(t, ns).Spec.SecretName
	for _, h := range hosts {
		if got := w.served(t, ns)[h]; got != secret {
			t.Errorf("%s is served with %s", h, got)
		}
	}
	if got := w.names(t, kCertificates, ns); len(got) != 1 || strings.Contains(got[0], "mapped.example") {
		t.Errorf("KCertificates: %v", got)
	}
	if got := w.names(t, certificates, ns); len(got) != 2 || !slices.Contains(got, secret) {
		t.Errorf("Certificates: %v", got)
	}
	w.undo(t, ns)
	w.killed(t, ns, v1alpha1.RolledBack,
		"stored RollingBack", "about to restore", "done: restore", "about to return", "in the midst of pointing", "done: return", "about to remove", "done: remove", "stored RolledBack")
	c.stop(t)
	if got := w.mapped(t, ns); got != before {
		t.Errorf("they name\n%s, before\n%s", got, before)
	}
	w.restored(t, ns, b, 1)
	w.until(t, "Envoy to have the old certificates", nil, nil, func() bool { return w.loaded(t, "mapped.example") == len(hosts) })
}

// Two Certificates for one host, each used by an Ingress: both Ingresses name the one
// that stays, the other is swept, and comes back when it is undone.
func TestDuplicatesBecomeOne(t *testing.T) {
	w := setUp(t)
	const ns, host = "twins", "shop.example"
	ctx := context.Background()
	must(t, w.c.Namespaces(ctx, ns))
	for _, name := range []string{"twin-a-tls", "twin-b-tls"} {
		must(t, w.c.Apply(ctx, certificateManifest, byHand{ns, name, host, stack.IssuerCA, false}))
		w.until(t, name+" to be Ready", nil, nil, func() bool { return slices.Contains(w.readyNames(t, ns), name) })
		must(t, w.c.Apply(ctx, `
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: {{.Name}}, namespace: {{.Namespace}} }
spec:
  tls: [{hosts: [{{.Host}}], secretName: {{.Name}} }]
  defaultBackend: {service: {name: x, port: {number: 80}}}
`, byHand{ns, name, host, "", false}))
	}
	before, certs := w.named(t, ns), w.names(t, certificates, ns)
	ordered := w.orders(t, ns)
	at := *w.stack
	at.GatewayTLS = w.controller(t, ns)
	here := *w
	here.stack = &at
	w = &here
	w.proposeAll(t, ns)
	x := w.get(t, ns)
	if len(x.Spec.Members) != 1 || x.Spec.Source.UID == "" || !slices.Equal(x.Spec.Wildcards, []string{host}) {
		t.Fatalf("%+v", x.Spec.Proposal)
	}
	stays, goes := x.Spec.Source.Name, x.Spec.Members[0].Name
	c := w.watchAt(at.GatewayTLS, []string{host})
	defer c.end()
	w.killed(t, ns, v1alpha1.Done, "stored Switching", "about to point", "done: point", "stored Soaking", "stored Sweeping")
	if got := w.names(t, certificates, ns); !slices.Equal(got, []string{stays}) {
		t.Errorf("Certificates: %v", got)
	}
	if got := w.named(t, ns); strings.Contains(got, "secretName:"+goes) {
		t.Errorf("they name\n%s", got)
	}
	w.undo(t, ns)
	w.killed(t, ns, v1alpha1.RolledBack, "stored RollingBack", "about to restore", "done: restore", "about to return", "done: return")
	if got := w.named(t, ns); got != before {
		t.Errorf("they name\n%s, before\n%s", got, before)
	}
	if got := w.names(t, certificates, ns); !slices.Equal(got, certs) {
		t.Errorf("Certificates: %v, before %v", got, certs)
	}
	if n := w.orders(t, ns) - ordered; n != 0 {
		t.Errorf("%d certificates were ordered", n)
	}
	c.stop(t)
}

// What a tool has the manifest of, or its owner has opted out, is left alone, and
// certherd goes on by itself once somebody has applied its patches.
func TestSomebodyAppliesThePatches(t *testing.T) {
	w := setUp(t)
	const ns = "byhand"
	ctx := context.Background()
	w.team(t, ns, 1)
	must(t, w.c.Apply(ctx, strings.ReplaceAll(gatewayManifest, "metadata: {name: edge,", "metadata: {name: edge, labels: {app.kubernetes.io/managed-by: Helm},"), struct{ Namespace, Issuer string }{ns, stack.IssuerCA}))
	const mapping = "app-4.byhand.example.com"
	must(t, w.c.Apply(ctx, certificateManifest, byHand{ns, "app-4-tls", mapping, stack.IssuerCA, true}))
	must(t, w.c.Apply(ctx, `
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: app-5, namespace: {{.Namespace}}, annotations: {cert-manager.io/cluster-issuer: {{.Issuer}}, certherd.dev/ignore: "true"} }
spec:
  tls: [{hosts: [app-5.byhand.example.com], secretName: app-5-tls}]
  defaultBackend: {service: {name: x, port: {number: 80}}}
`, byHand{ns, "", "", stack.IssuerCA, true}))
	w.until(t, "the certificates", nil, nil, func() bool { return w.ready(t, ns) == 8 })
	must(t, w.c.DomainMapping(ctx, ns, "svc-000", mapping, "app-4-tls"))
	w.patch(t, domainMappings, ns, mapping, `{"metadata":{"annotations":{"argocd.argoproj.io/tracking-id":"x"}}}`)
	must(t, w.program(ctx, ns, "", ""))

	options := controller.Defaults().Consolidate
	options.AcceptDrains, options.DomainMappings = true, true
	w.proposeAll(t, ns)
	if x := w.get(t, ns); len(x.Spec.Hosts) != 6 || !strings.Contains(x.Spec.Manual, "Argo CD and Helm would undo") || !strings.Contains(x.Spec.Manual, "certherd.dev/ignore keeps certherd from changing Ingress/byhand/app-5") {
		t.Fatalf("%v %s", x.Spec.Hosts, x.Spec.Manual)
	}
	var patches, theirs []byte
	for _, all := range []bool{false, true} {
		snapshot, _, err := live.Look(ctx, w.cfg, live.Options{Proof: true, Now: time.Now})
		must(t, err)
		patches, err = consolidate.Patches(snapshot, slices.DeleteFunc(consolidate.Proposals(snapshot, options), func(p consolidate.Proposal) bool { return p.Consolidation.Namespace != ns }), all)
		must(t, err)
		if n := strings.Count(string(patches), "#   kubectl patch "); !all && n != 3 || all && n != 5 {
			t.Errorf("%d patches:\n%s", n, patches)
		}
		if !all {
			theirs = patches
		}
	}
	o := w.options(t.Logf)
	o.Unprobed = true // nothing serves them
	s := &sweeper{w: w, logf: t.Logf}
	o.Sweep = s.want
	r, err := w.carry(o)
	must(t, err)
	w.phase(t, ns, r, s, v1alpha1.Switching)
	for range 5 {
		_, err := r.Pass(ctx)
		must(t, err)
	}
	x := w.get(t, ns)
	if named, _, err := w.listening(ctx, ns); err != nil || named["app-0.byhand.example.com"] != "app-0-tls" || x.Status.Phase != v1alpha1.Switching || !strings.Contains(x.Status.Message, "waiting for somebody to switch") {
		t.Errorf("%v: %s: %s %v", named, x.Status.Phase, x.Status.Message, err)
	}
	must(t, w.apply(ctx, patches, false))
	w.until(t, "it to be done", r, s, func() bool {
		must(t, w.program(ctx, ns, "", ""))
		return w.get(t, ns).Status.Phase == v1alpha1.Done
	})
	// Going back is somebody else's, too.
	w.undo(t, ns)
	w.until(t, "it to wait for somebody", r, s, func() bool {
		must(t, w.program(ctx, ns, "", ""))
		x := w.get(t, ns)
		return x.Status.Phase == v1alpha1.RollingBack && strings.Contains(x.Status.Message, "waiting for somebody")
	})
	named, _, err := w.listening(ctx, ns)
	must(t, err)
	if named["app-0.byhand.example.com"] != x.Spec.SecretName || named["app-3.byhand.example.com"] != "app-3-tls" {
		t.Errorf("%v", named)
	}
	must(t, w.apply(ctx, theirs, true))
	w.until(t, "it to be rolled back", r, s, func() bool {
		must(t, w.program(ctx, ns, "", ""))
		return w.get(t, ns).Status.Phase == v1alpha1.RolledBack
	})
}

// apply does what the comments of patches say for kubectl, or the opposite of it.
func (w *world) apply(ctx context.Context, patches []byte, opposite bool) error {
	for line := range strings.Lines(string(patches)) {
		text, ok := strings.CutPrefix(strings.TrimSpace(line), "#   kubectl patch ")
		if !ok {
			continue
		}
		var resource, name, ns string
		if _, err := fmt.Sscanf(text, "%s %s -n %s --type json -p", &resource, &name, &ns); err != nil {
			return err
		}
		gvr := schema.ParseGroupResource(resource).WithVersion("v1")
		if gvr.Resource == domainMappings.Resource {
			gvr = domainMappings
		}
		var ops []map[string]any
		_, body, _ := strings.Cut(text, "'")
		body = strings.TrimSuffix(body, "'")
		if err := json.Unmarshal([]byte(body), &ops); err != nil {
			return err
		}
		for i := 0; opposite && i+1 < len(ops); i += 2 {
			ops[i]["value"], ops[i+1]["value"] = ops[i+1]["value"], ops[i]["value"]
		}
		b, err := json.Marshal(ops)
		if err != nil {
			return err
		}
		if _, err := w.c.Dynamic.Resource(gvr).Namespace(ns).Patch(ctx, name, types.JSONPatchType, b, metav1.PatchOptions{FieldManager: "somebody"}); err != nil {
			return fmt.Errorf("%s: %w", text, err)
		}
	}
	return nil
}
