package service_test

import (
	"fmt"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/certherd/certherd/apply"
	"github.com/certherd/certherd/e2e/stack"
	"github.com/certherd/certherd/plan"
	certherd "github.com/certherd/certherd/service"
)

// abreast is how many worlds have their leader killed at the same time: most of the
// time is spent on waiting for leases and schedules.
const abreast = 9

// bare is a control plane with the CRDs of cert-manager and Knative, and without
// their controllers: nothing is written there but what the test and certherd write.
func bare(t *testing.T) *world {
	t.Helper()
	w := own(t, stack.Options{Level: stack.ControlPlane})
	for _, x := range []struct{ module, pattern string }{
		{"github.com/cert-manager/cert-manager", "deploy/crds/*.yaml"},
		{"knative.dev/networking", "config/certificate.yaml"},
		{"knative.dev/networking", "config/ingress.yaml"},
		{"knative.dev/serving", "config/core/300-resources/route.yaml"},
	} {
		dir, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", x.module).Output()
		if err != nil {
			t.Fatal(err)
		}
		files, err := filepath.Glob(filepath.Join(strings.TrimSpace(string(dir)), x.pattern))
		if err != nil || len(files) == 0 {
			t.Fatalf("module %s has no %s: %v", x.module, x.pattern, err)
		}
		for _, file := range files {
			b, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if err := w.cluster.Apply(t.Context(), string(b), nil); err != nil {
				t.Fatalf("%s: %v", file, err)
			}
		}
	}
	return w
}

// What is left when a Route has moved to a wildcard, and a Certificate and a
// reference that nobody removes.
const (
	movedRoute = `
apiVersion: serving.knative.dev/v1
kind: Route
metadata: {name: svc-7f3, namespace: {{.}} }
spec: {}
---
apiVersion: cert-manager.io/v1
kind: Certificate
metadata: {name: wild, namespace: {{.}} }
spec: {secretName: wild, dnsNames: ["*.example.com"], issuerRef: {name: ca, kind: ClusterIssuer}}
---
apiVersion: cert-manager.io/v1
kind: Certificate
metadata: {name: web-7f3, namespace: {{.}} }
spec: {secretName: web-7f3, dnsNames: [web-7f3.example.com], issuerRef: {name: ca, kind: ClusterIssuer}}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: user, namespace: {{.}} }
spec: {tls: [{hosts: [back-7f3.example.com], secretName: back-7f3}], defaultBackend: {service: {name: x, port: {number: 80}}}}
---
apiVersion: networking.internal.knative.dev/v1alpha1
kind: Ingress
metadata: {name: svc-7f3, namespace: {{.}} }
spec:
  rules: [{hosts: [svc-7f3.example.com], visibility: ExternalIP, http: {paths: [{splits: [{percent: 100, serviceName: x, serviceNamespace: {{.}}, servicePort: 80}]}]}}]
  tls: [{hosts: [svc-7f3.example.com], secretName: wild, secretNamespace: {{.}} }]
`
	movedKCertificate = `
apiVersion: networking.internal.knative.dev/v1alpha1
kind: Certificate
metadata:
  name: svc-7f3
  namespace: {{.Namespace}}
  annotations: {networking.knative.dev/certificate.class: cert-manager.certificate.networking.knative.dev}
  labels: {networking.knative.dev/certificate-type: external-domain}
  ownerReferences: [{apiVersion: serving.knative.dev/v1, kind: Route, name: svc-7f3, uid: {{.Owner}}, controller: true, blockOwnerDeletion: true}]
spec: {dnsNames: [svc-7f3.example.com], domain: example.com, secretName: svc-7f3-tls}
`
	movedCertificate = `
apiVersion: cert-manager.io/v1
kind: Certificate
metadata:
  name: svc-7f3
  namespace: {{.Namespace}}
  ownerReferences: [{apiVersion: networking.internal.knative.dev/v1alpha1, kind: Certificate, name: svc-7f3, uid: {{.Owner}}, controller: true, blockOwnerDeletion: true}]
spec: {secretName: svc-7f3-tls, dnsNames: [svc-7f3.example.com], issuerRef: {name: ca, kind: ClusterIssuer}}
`
)

const collectAll = `
maxShare: 100%
breaker: {settle: 0s, unready: 1000000}
gc: {mode: enforce, schedule: "@every 10s", minAge: 0s, budget: {count: disabled, share: 100%}}
batch: {reloads: {updates: 600, gap: 0s}}
`

// fated is a namespace with one of everything that is collected or put right, and a
// certherd whose leader does not live to see it done.
type fated struct {
	*site
	team string
	nth  int // write at which the leader is killed

	mu      sync.Mutex
	writes  []string // of the first round
	reports int
	killed  bool
}

func (w *world) fate(t *testing.T, nth int) *fated {
	t.Helper()
	d := &fated{nth: nth, team: fmt.Sprintf("killed-%02d", nth)}
	d.site = w.site(t, d.team+"-certherd")
	d.args = append([]string{"--namespaces", d.team, "--pause", "1s"}, patient...)
	ctx := t.Context()
	d.must(w.cluster.Namespaces(ctx, d.team))
	d.must(w.cluster.Apply(ctx, movedRoute, d.team))
	owner := func(resource schema.GroupVersionResource) map[string]string {
		o, err := w.cluster.Dynamic.Resource(resource).Namespace(d.team).Get(ctx, "svc-7f3", metav1.GetOptions{})
		d.must(err)
		return map[string]string{"Namespace": d.team, "Owner": string(o.GetUID())}
	}
	d.must(w.cluster.Apply(ctx, movedKCertificate, owner(schema.GroupVersionResource{Group: "serving.knative.dev", Version: "v1", Resource: "routes"})))
	d.must(w.cluster.Apply(ctx, movedCertificate, owner(kCertificates)))
	served, err := w.cluster.Dynamic.Resource(kIngresses).Namespace(d.team).Get(ctx, "svc-7f3", metav1.GetOptions{})
	d.must(err)
	served.Object["status"] = map[string]any{"observedGeneration": served.GetGeneration(), "conditions": []any{map[string]any{"type": "Ready", "status": "True"}}}
	_, err = w.cluster.Dynamic.Resource(kIngresses).Namespace(d.team).UpdateStatus(ctx, served, metav1.UpdateOptions{})
	d.must(err)
	for name, certificate := range map[string]string{"wild": "wild", "web-7f3": "web-7f3", "svc-7f3-tls": "svc-7f3", "free-7f3": "gone", "left-7f3": "left", "back-7f3": "back"} {
		w.leftOver(t, d.team, name, certificate)
	}
	for _, name := range []string{"left-7f3", "back-7f3"} {
		d.must(w.retireLongAgo(ctx, d.team, name))
	}
	d.configure(collectAll)
	return d
}

// decide kills who makes the nth write of the first round.
func (d *fated) decide(r *http.Request) fault {
	if !writes(r) {
		return none
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	// Each round keeps its report before it does anything.
	if strings.HasSuffix(r.URL.Path, "/configmaps/certherd-report") {
		d.reports++
	}
	if d.killed || d.reports > 1 {
		return none
	}
	d.writes = append(d.writes, r.Method+" "+r.URL.Path[strings.LastIndex(r.URL.Path, "/namespaces/")+len("/namespaces/"):])
	if len(d.writes) < d.nth {
		return none
	}
	d.killed = true
	return killedAfter
}

// wanted is what is left of such a namespace in the end: gone, marked or unmarked.
var wanted = map[string]string{
	"certificates.cert-manager.io web-7f3":                 "gone",
	"certificates.cert-manager.io svc-7f3":                 "gone",
	"certificates.cert-manager.io wild":                    "unmarked",
	"certificates.networking.internal.knative.dev svc-7f3": "gone",
	"ingresses.networking.internal.knative.dev svc-7f3":    "unmarked",
	"secrets left-7f3":                                     "gone",
	"secrets web-7f3":                                      "marked", "secrets svc-7f3-tls": "marked", "secrets free-7f3": "marked",
	"secrets back-7f3": "unmarked", "secrets wild": "unmarked",
}

// left is how it is now.
func (d *fated) left() map[string]string {
	d.Helper()
	out := map[string]string{}
	for what := range wanted {
		out[what] = "gone"
	}
	note := func(resource string, m metav1.Object) {
		state := "unmarked"
		if m.GetAnnotations()[plan.RetiredAt] != "" {
			state = "marked"
		}
		out[resource+" "+m.GetName()] = state
	}
	for _, resource := range []schema.GroupVersionResource{certificates, kCertificates, kIngresses, {Version: "v1", Resource: "secrets"}} {
		list, err := d.cluster.Dynamic.Resource(resource).Namespace(d.team).List(d.Context(), metav1.ListOptions{})
		d.must(err)
		_ = list.EachListItem(func(o runtime.Object) error {
			note(resource.GroupResource().String(), o.(*unstructured.Unstructured))
			return nil
		})
	}
	return out
}

// settled reports whether all is done, and the books of it are closed.
func (d *fated) settled() bool {
	d.Helper()
	if !maps.Equal(d.left(), wanted) {
		return false
	}
	if slices.ContainsFunc(d.journal(), func(e apply.Entry) bool { return e.State == apply.Intended }) {
		return false
	}
	consent, err := certherd.OpenApprovals(d.cluster.Typed.CoreV1(), d.home).Read(d.Context())
	d.must(err)
	return consent.Watched == nil
}

func (d *fated) journal() []apply.Entry {
	d.Helper()
	j, err := apply.OpenJournal(d.admin, d.home)
	d.must(err)
	list, err := j.Entries(d.Context())
	d.must(err)
	return list
}

// once checks that everything was done once, by the journal and by the API server's
// audit log.
func (d *fated) once() {
	d.Helper()
	want := map[string]int{
		"delete certificates.cert-manager.io web-7f3": 1, "delete certificates.networking.internal.knative.dev svc-7f3": 1, "delete secrets left-7f3": 1,
		"patch secrets web-7f3": 1, "patch secrets svc-7f3-tls": 1, "patch secrets free-7f3": 1, "patch secrets back-7f3": 1,
	}
	var users []string
	for _, r := range d.replicas {
		users = append(users, r.Name)
	}
	all, _ := d.audit(users...)
	d.onlyTheHolderWrites(all)
	got := map[string]int{}
	for _, w := range all {
		if !d.own(w) {
			got[w.verb+" "+w.resource+" "+w.name]++
		}
	}
	if !maps.Equal(got, want) {
		d.Errorf("killed at write %d: the API server has carried out %v", d.nth, got)
	}
	done := map[string]int{}
	for _, e := range d.journal() {
		if e.State == apply.Carried {
			done[string(e.Action)+" "+e.Object.Kind+" "+e.Object.Name]++
		}
	}
	if want := map[string]int{
		"delete Certificate web-7f3": 1, "delete Certificate svc-7f3": 1, "delete Secret left-7f3": 1, "unretire Secret back-7f3": 1,
		"retire Secret web-7f3": 1, "retire Secret svc-7f3-tls": 1, "retire Secret free-7f3": 1,
	}; !maps.Equal(done, want) {
		d.Errorf("killed at write %d: the journal says %v", d.nth, done)
	}
}

// TestLeaderKilledAtEveryWrite kills the leader when its first write of a round has
// taken effect, in another world when the second one has, and so on, until there
// is none. What it has noted is only in the cluster, so that a kill at any other
// instruction is the same as the one at the write before. The other replica ends
// in the same state, with everything done once.
func TestLeaderKilledAtEveryWrite(t *testing.T) {
	w := bare(t)
	for nth, last := 1, false; !last; {
		var worlds []*fated
		for range abreast {
			worlds = append(worlds, w.fate(t, nth))
			nth++
		}
		for _, d := range worlds {
			for _, name := range []string{"a", "b"} {
				d.startBehind(d.team+"-"+name, d.decide)
			}
		}
		for _, d := range worlds {
			d.await("the same state as ever after a kill at write "+fmt.Sprint(d.nth), d.settled)
		}
		for _, d := range worlds {
			d.mu.Lock()
			killed, all, reports := d.killed, d.writes, d.reports
			d.mu.Unlock()
			dead := 0
			for _, r := range d.replicas {
				if r.Ended() {
					dead++
				} else {
					r.Kill()
				}
			}
			switch {
			case killed && dead == 1:
				t.Logf("killed at write %d: %s; %d rounds", d.nth, all[d.nth-1], reports)
			case !killed && dead == 0:
				if !last {
					t.Logf("there are %d writes in a round: %q", len(all), all)
				}
				last = true
			default:
				t.Errorf("write %d of %q: killed %v, %d replicas have ended", d.nth, all, killed, dead)
			}
			d.once()
		}
	}
}
