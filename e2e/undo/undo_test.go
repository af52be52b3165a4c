// Package undo_test proves on the real stack what docs/undo.md says of
// cert-manager and Knative: neither removal nor marks nor undo make them order a
// certificate.
package undo_test

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"github.com/certherd/certherd/apply"
	"github.com/certherd/certherd/e2e/scenario"
	"github.com/certherd/certherd/e2e/stack"
	"github.com/certherd/certherd/gate"
	"github.com/certherd/certherd/gc"
	"github.com/certherd/certherd/inventory"
	"github.com/certherd/certherd/inventory/live"
	"github.com/certherd/certherd/plan"
)

const (
	team    = "undo-7f3"
	home    = "certherd-7f3"
	orphan  = "orphan-7f3"
	living  = "living-7f3"
	service = "svc-7f3"
)

const certificateManifest = `
apiVersion: cert-manager.io/v1
kind: Certificate
metadata: {name: {{.}}, namespace: ` + team + `}
spec: {secretName: {{.}}, dnsNames: [{{.}}.example.test], issuerRef: {name: ca, kind: ClusterIssuer}}
`

// livingManifest makes somebody use a Certificate's Secret.
const livingManifest = `
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: {{.}}, namespace: ` + team + `}
spec: {tls: [{hosts: [{{.}}.example.test], secretName: {{.}}}], defaultBackend: {service: {name: x, port: {number: 80}}}}
`

var (
	certificates  = schema.GroupVersionResource{Group: "cert-manager.io", Version: "v1", Resource: "certificates"}
	kCertificates = schema.GroupVersionResource{Group: "networking.internal.knative.dev", Version: "v1alpha1", Resource: "certificates"}
)

func TestUndoOrdersNoCertificate(t *testing.T) {
	if testing.Short() {
		t.Skip("starts the whole stack")
	}
	ctx := context.Background()
	s, err := stack.Start(ctx, stack.Options{Level: stack.Full, Out: os.Stderr})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Stop()
	cfg, err := s.RESTConfig()
	if err != nil {
		t.Fatal(err)
	}
	c, err := scenario.Connect(cfg, os.Stderr)
	if err != nil {
		t.Fatal(err)
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(c.Namespaces(ctx, team, home))
	for _, name := range []string{orphan, living} {
		must(c.Apply(ctx, certificateManifest, name))
	}
	must(c.Apply(ctx, livingManifest, living))
	must(c.Services(ctx, []scenario.Service{{Namespace: team, Name: service}}))
	host := service + "." + team + "." + stack.Domain
	kcert, err := c.KCertificateFor(ctx, team, host)
	must(err)
	must(c.MoveToWildcard(ctx, team, "wild-7f3", stack.Domain))

	get := func(resource schema.GroupVersionResource, name string) *unstructured.Unstructured {
		t.Helper()
		o, err := c.Dynamic.Resource(resource).Namespace(team).Get(ctx, name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		must(err)
		return o
	}
	issued := func(name string) bool {
		o := get(certificates, name)
		if o == nil {
			return false
		}
		b, err := json.Marshal(o.Object["status"])
		must(err)
		var status struct {
			Conditions []metav1.Condition `json:"conditions"`
		}
		must(json.Unmarshal(b, &status))
		ready := false
		for _, x := range status.Conditions {
			if x.Type == "Issuing" && x.Status == "True" {
				return false
			}
			ready = ready || x.Type == "Ready" && x.Status == "True"
		}
		return ready
	}
	until := func(what string, done func() bool) {
		t.Helper()
		for end := time.Now().Add(2 * time.Minute); !done(); time.Sleep(200 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("waited in vain for %s", what)
			}
		}
	}
	until("the certificates", func() bool { return issued(orphan) && issued(living) && issued(kcert) })
	secretOf := get(kCertificates, kcert).Object["spec"].(map[string]any)["secretName"].(string)
	pem := func(name string) []byte {
		t.Helper()
		o, err := c.Typed.CoreV1().Secrets(team).Get(ctx, name, metav1.GetOptions{})
		must(err)
		return o.Data["tls.crt"]
	}
	before := map[string][]byte{}
	for _, name := range []string{orphan, living, secretOf} {
		before[name] = pem(name)
	}
	orders := func() int { return created(t, s.AuditLog, "certificaterequests") }
	ordered := orders()
	if ordered < 4 {
		t.Fatalf("the audit log has %d CertificateRequests, and four certificates were issued", ordered)
	}

	// A mark on the Secret of a Certificate that lives.
	now := time.Now().UTC().Format(time.RFC3339)
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"annotations": map[string]string{
		plan.RetiredReason: string(plan.OrphanedSecret), plan.RetiredAt: now, plan.DeleteAfter: now}}})
	must(err)
	_, err = c.Typed.CoreV1().Secrets(team).Patch(ctx, living, types.MergePatchType, patch, metav1.PatchOptions{FieldManager: "certherd"})
	must(err)

	look := func(ctx context.Context) (*inventory.Snapshot, error) {
		s, _, err := live.Look(ctx, cfg, live.Options{Proof: true})
		return s, err
	}
	o := apply.Defaults()
	o.Namespace, o.Look = home, look
	a, err := apply.New(cfg, o)
	must(err)
	round := func() []apply.Outcome {
		t.Helper()
		snapshot, err := look(ctx)
		must(err)
		p := plan.New(snapshot, gc.Checks(gc.Options{RequestAge: 24 * time.Hour}))
		must(p.Verify(snapshot))
		cleared, held := gate.Policy{MaxShare: 1, Terms: map[gate.Rule]gate.Terms{gate.GC: {Mode: gate.Enforce, Budget: gate.Budget{Count: 100, Share: 1}}}}.Decide(p, snapshot, snapshot.Taken)
		for _, h := range held {
			t.Logf("held: %s %s: %s", h.Change.Why.Reason, h.Change.Why.Object, h.Why)
		}
		out := a.Run(ctx, cleared)
		for _, x := range out {
			t.Logf("%s %s: %s %s", x.Action(), x.Object(), x.Status, x.Why)
		}
		return out
	}
	want := map[string]bool{
		"delete Certificate/" + team + "/" + orphan: true, "retire Secret/" + team + "/" + orphan: true,
		"delete KCertificate/" + team + "/" + kcert: true, "retire Secret/" + team + "/" + secretOf: true,
		"unretire Secret/" + team + "/" + living: true,
	}
	id, done := "", 0
	for _, x := range round() {
		what := string(x.Action()) + " " + x.Object().String()
		switch {
		case x.Status == apply.Done && want[what]:
			done++
			id = x.Round
		case x.Status == apply.Done:
			t.Errorf("%s was not to be done", what)
		}
	}
	if done != len(want) {
		t.Fatalf("%d of %d steps were done", done, len(want))
	}
	if get(certificates, orphan) != nil || get(kCertificates, kcert) != nil || get(certificates, kcert) != nil {
		t.Fatal("something that was to go is still there")
	}

	u, err := apply.NewUndoer(cfg, home)
	must(err)
	undone, err := u.Round(ctx, id)
	for _, x := range undone {
		t.Logf("%s: %s", x.Object, x.What)
	}
	must(err)
	if len(undone) != 4 {
		t.Errorf("%d things were undone", len(undone))
	}
	until("what was undone to be Ready", func() bool { return issued(orphan) && issued(kcert) && issued(living) })
	// What cert-manager would do, it would do at once.
	time.Sleep(10 * time.Second)
	if n := orders(); n != ordered {
		t.Errorf("%d new CertificateRequests", n-ordered)
	}
	for name, was := range before {
		if !bytes.Equal(was, pem(name)) {
			t.Errorf("%s has another certificate", name)
		}
	}
	if !issued(orphan) || !issued(kcert) || !issued(living) {
		t.Error("something is not Ready, or being issued")
	}
	for _, x := range round() {
		if x.Status == apply.Done {
			t.Errorf("the next round has done %s %s", x.Action(), x.Object())
		}
	}
}

// created counts the objects of a resource that were made in the team's namespace.
func created(t *testing.T, log, resource string) int {
	t.Helper()
	b, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for line := range bytes.Lines(b) {
		var e struct {
			Verb           string
			ObjectRef      struct{ Resource, Namespace, Subresource string }
			ResponseStatus struct{ Code int }
		}
		if json.Unmarshal(line, &e) == nil && e.Verb == "create" && e.ResponseStatus.Code == 201 && e.ObjectRef.Resource == resource && e.ObjectRef.Namespace == team && e.ObjectRef.Subresource == "" {
			n++
		}
	}
	return n
}
