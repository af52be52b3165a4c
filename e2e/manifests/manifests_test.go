package manifests_test

import (
	"bytes"
	"compress/gzip"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base32"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"maps"
	"math/big"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/certherd/certherd/api/v1alpha1"
	"github.com/certherd/certherd/apply"
	carrylive "github.com/certherd/certherd/carry/live"
	"github.com/certherd/certherd/config"
	"github.com/certherd/certherd/inventory"
	"github.com/certherd/certherd/inventory/live"
	"github.com/certherd/certherd/plan"
	renewlive "github.com/certherd/certherd/renew/live"
	"github.com/certherd/certherd/report"
)

// folders are those of manifests/ that one applies.
var folders = []string{"audit", "propose", "enforce", "namespaced", "cli", "cli-no-secrets", "operator", "crd", "carry", "renew", "approve", "example"}

func gvr(group, version, resource string) schema.GroupVersionResource {
	return schema.GroupVersionResource{Group: group, Version: version, Resource: resource}
}

// TestEveryFolderIsKnown: a folder that somebody adds is tested, too.
func TestEveryFolderIsKnown(t *testing.T) {
	dirs, err := os.ReadDir("../../manifests")
	if err != nil {
		t.Fatal(err)
	}
	parts := []string{"base", "list", "components"}
	for _, d := range dirs {
		if !slices.Contains(folders, d.Name()) && !slices.Contains(parts, d.Name()) {
			t.Errorf("manifests/%s: add it to the list of this test", d.Name())
		}
	}
}

func TestTheConfigurationOfBaseIsTheDefault(t *testing.T) {
	b, err := os.ReadFile("../../manifests/base/configmap.yaml")
	if err != nil {
		t.Fatal(err)
	}
	c, err := config.ParseFile(b)
	if err != nil {
		t.Fatal(err)
	}
	got, _ := json.Marshal(c)
	if want, _ := json.Marshal(config.Default()); !bytes.Equal(got, want) {
		t.Errorf("it is %s\nand not %s", got, want)
	}
}

func TestTheConfigurationOfTheExampleIsGood(t *testing.T) {
	b, err := os.ReadFile("../../manifests/example/config.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := config.ParseFile(b); err != nil {
		t.Error(err)
	}
}

// TestEnforceGrantsWhatApplyLists is the quick half of what TestInstalled proves by the
// API server's audit log.
func TestEnforceGrantsWhatApplyLists(t *testing.T) {
	s := &site{T: t}
	var got []apply.Right
	others := grants(s, s.render("propose"), "certherd", "certherd")
	for _, g := range grants(s, s.render("enforce"), "certherd", "certherd") {
		if g.namespace == "" && !slices.Contains(others, g) {
			got = append(got, apply.Right{Verb: g.verb, Group: g.group, Resource: g.resource})
		}
	}
	want := apply.Rights()
	for _, r := range got {
		if !slices.Contains(want, r) {
			t.Errorf("granted, and not used: %s", r)
		}
	}
	for _, r := range want {
		if !slices.Contains(got, r) {
			t.Errorf("used, and not granted: %s", r)
		}
	}
}

// TestFollowGrantsWhatItWatches: TestInstalled runs with just these rights.
func TestFollowGrantsWhatItWatches(t *testing.T) {
	s := &site{T: t}
	want := live.Watched()
	for _, g := range grants(s, s.render("audit"), "certherd", "certherd") {
		if g.verb != "watch" || g.namespace != "" {
			continue
		}
		r := schema.GroupResource{Group: g.group, Resource: g.resource}
		if !slices.Contains(want, r) {
			t.Errorf("granted, and not watched: %s", r)
		}
		want = slices.DeleteFunc(want, func(x schema.GroupResource) bool { return x == r })
	}
	if len(want) > 0 {
		t.Errorf("watched, and not granted: %v", want)
	}
}

// TestCarryGrantsWhatItNeeds: e2e/consolidate runs with just these rights.
func TestCarryGrantsWhatItNeeds(t *testing.T) { grantsExactly(t, "carry", carrylive.Rights()) }

// TestRenewGrantsWhatItNeeds: TestRenewals of e2e/service runs with just these rights.
func TestRenewGrantsWhatItNeeds(t *testing.T) { grantsExactly(t, "renew", renewlive.Rights()) }

// TestApproveGrantsWhatItNeeds: TestRequestsAreApprovedInBatches of e2e/service runs
// with just these rights.
func TestApproveGrantsWhatItNeeds(t *testing.T) {
	grantsExactly(t, "approve", renewlive.ApproverRights())
}

func grantsExactly(t *testing.T, folder string, rights []rbacv1.PolicyRule) {
	s := &site{T: t}
	got := grants(s, s.render(folder), "certherd", "certherd")
	n := 0
	for _, r := range rights {
		for _, v := range r.Verbs {
			n++
			if g := (grant{"", v, r.APIGroups[0], r.Resources[0]}); !slices.Contains(got, g) {
				t.Errorf("used, and not granted: %s", g)
			}
		}
	}
	if n != len(got) {
		t.Errorf("%d rights are granted, and %d are used", len(got), n)
	}
}

// grant is a right that a binding gives, in one namespace, or everywhere when that
// is empty.
type grant struct{ namespace, verb, group, resource string }

func (g grant) String() string {
	where := "everywhere"
	if g.namespace != "" {
		where = "in " + g.namespace
	}
	return fmt.Sprintf("%s %s", apply.Right{Verb: g.verb, Group: g.group, Resource: g.resource}, where)
}

func (g grant) covers(r request) bool {
	o := r.ObjectRef
	if r.Verb == "patch" && r.ResponseStatus.Code == 201 && g.verb == "create" {
		r.Verb = "create" // an apply that makes an object needs the rights to both
	}
	is := func(granted, asked string) bool { return granted == "*" || granted == asked }
	resource := o.Resource
	if o.Subresource != "" {
		resource += "/" + o.Subresource
	}
	return (g.namespace == "" || g.namespace == o.Namespace) && is(g.verb, r.Verb) && is(g.group, o.APIGroup) && is(g.resource, resource)
}

// grants are those of a ServiceAccount among objects.
func grants(s *site, objects []*unstructured.Unstructured, namespace, name string) (out []grant) {
	s.Helper()
	rules := map[string][]rbacv1.PolicyRule{}
	for _, o := range objects {
		var r rbacv1.ClusterRole
		if kind := o.GetKind(); kind == "Role" || kind == "ClusterRole" {
			s.must(runtime.DefaultUnstructuredConverter.FromUnstructured(o.Object, &r))
			rules[kind+"/"+o.GetNamespace()+"/"+o.GetName()] = r.Rules
		}
	}
	for _, o := range objects {
		if kind := o.GetKind(); kind != "RoleBinding" && kind != "ClusterRoleBinding" {
			continue
		}
		var b rbacv1.RoleBinding
		s.must(runtime.DefaultUnstructuredConverter.FromUnstructured(o.Object, &b))
		if !slices.ContainsFunc(b.Subjects, func(x rbacv1.Subject) bool {
			return x.Kind == "ServiceAccount" && x.Namespace == namespace && x.Name == name
		}) {
			continue
		}
		role := b.RoleRef.Kind + "/" + b.Namespace + "/" + b.RoleRef.Name
		if b.RoleRef.Kind == "ClusterRole" {
			role = "ClusterRole//" + b.RoleRef.Name
		}
		if rules[role] == nil {
			s.Fatalf("%s %s binds %s, which is not there", o.GetKind(), o.GetName(), role)
		}
		for _, r := range rules[role] {
			for _, group := range r.APIGroups {
				for _, resource := range r.Resources {
					for _, verb := range r.Verbs {
						if g := (grant{b.Namespace, verb, group, resource}); !slices.Contains(out, g) {
							out = append(out, g)
						}
					}
				}
			}
		}
	}
	return out
}

// asking is what everybody may do who is logged in (ClusterRole
// system:basic-user).
func asking(r request) bool { return r.ObjectRef.Resource == "selfsubjectaccessreviews" }

// compare holds what was granted against what was asked for, both ways. excused
// may ask in vain.
func compare(s *site, granted []grant, asked []request, excused func(request) bool) {
	s.Helper()
	used := map[grant]int{}
	for _, r := range asked {
		if asking(r) || excused != nil && excused(r) {
			continue
		}
		covered := false
		for _, g := range granted {
			if g.covers(r) {
				covered = true
				// What the own namespace's Role allows anyhow is no use of a wider right.
				if g.namespace != "" || r.ObjectRef.Namespace != "certherd" || g.verb == "list" {
					used[g]++
				}
			}
		}
		if !covered || r.ResponseStatus.Code == 403 {
			s.Errorf("used, and not granted: %s %+v: %d", r.Verb, *r.ObjectRef, r.ResponseStatus.Code)
		}
	}
	for _, g := range granted {
		if used[g] == 0 {
			s.Errorf("granted, and not used: %s", g)
		}
	}
	if len(asked) < 100 {
		s.Errorf("the log shows %d requests only", len(asked))
	}
}

// wroteOnly fails for every write to anything but what is certherd's own.
func wroteOnly(s *site, asked []request) {
	s.Helper()
	n := map[string]int{}
	for _, r := range asked {
		o := *r.ObjectRef
		switch {
		case slices.Contains([]string{"get", "list", "watch"}, r.Verb), asking(r):
		case o.Resource == "events",
			o.Namespace == "certherd" && o.Resource == "leases",
			o.Namespace == "certherd" && o.Resource == "configmaps" && o.Name == "certherd-report":
			n[o.Resource]++
		default:
			s.Errorf("it wrote: %s %+v", r.Verb, o)
		}
	}
	for _, resource := range []string{"events", "leases", "configmaps"} {
		if n[resource] == 0 {
			s.Errorf("the log does not show that it wrote %s", resource)
		}
	}
}

// tls makes a Secret as cert-manager leaves it, with a mark that ends at a time
// unless that is zero.
func (s *site) tls(namespace, name string, marked time.Time) {
	s.Helper()
	s.tlsFor(namespace, name, name+".example.test", marked)
}

func (s *site) tlsFor(namespace, name, host string, marked time.Time) {
	s.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	s.must(err)
	c := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{host}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	s.must(err)
	raw, err := x509.MarshalPKCS8PrivateKey(key)
	s.must(err)
	x, err := s.core.CoreV1().Secrets(namespace).Create(s.Context(), &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"controller.cert-manager.io/fao": "true"}, Annotations: map[string]string{
			"cert-manager.io/certificate-name": name, "cert-manager.io/alt-names": host,
			"cert-manager.io/issuer-name": "ca", "cert-manager.io/issuer-kind": "ClusterIssuer", "cert-manager.io/issuer-group": "cert-manager.io",
		}},
		Type: corev1.SecretTypeTLS,
		Data: map[string][]byte{
			"tls.crt": pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
			"tls.key": pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw}),
		},
	}, metav1.CreateOptions{})
	s.must(err)
	if marked.IsZero() {
		return
	}
	if marked.Before(x.CreationTimestamp.Time) {
		marked = x.CreationTimestamp.Time
	}
	s.annotate(namespace, name, map[string]any{
		plan.RetiredReason: string(plan.OrphanedSecret), plan.RetiredAt: x.CreationTimestamp.UTC().Format(time.RFC3339), plan.DeleteAfter: marked.UTC().Format(time.RFC3339),
	})
}

func (s *site) annotate(namespace, name string, annotations map[string]any) {
	s.Helper()
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"annotations": annotations}})
	s.must(err)
	_, err = s.core.CoreV1().Secrets(namespace).Patch(s.Context(), name, types.MergePatchType, patch, metav1.PatchOptions{})
	s.must(err)
}

// mark is a Secret's mark, and whether the Secret is there.
func (s *site) mark(namespace, name string) (marked, there bool) {
	s.Helper()
	x, err := s.core.CoreV1().Secrets(namespace).Get(s.Context(), name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return false, false
	}
	s.must(err)
	return x.Annotations[plan.RetiredAt] != "", true
}

func certificate(name, secret string) string {
	return fmt.Sprintf(`
apiVersion: cert-manager.io/v1
kind: Certificate
metadata: {name: %[1]s}
spec: {secretName: %[2]s, dnsNames: [%[1]s.example.test], issuerRef: {name: ca, kind: ClusterIssuer}}
---`, name, secret)
}

// pair writes one Secret, of which an Event tells.
var pair = certificate("one-4f1", "both-4f1") + certificate("two-4f1", "both-4f1")

// mess is what somebody has left behind in a namespace: one thing of each kind
// that certherd takes away, and one of each that it must not.
func (s *site) mess(namespace string) {
	s.Helper()
	for _, name := range []string{"left-4f1", "gone-4f1", "kept-4f1", "used-4f1", "svc-4f1"} {
		s.tls(namespace, name, time.Time{})
	}
	s.tlsFor(namespace, "wild-4f1", "*.example.test", time.Time{})
	s.tls(namespace, "due-4f1", time.Now())
	s.tls(namespace, "back-4f1", time.Now().Add(time.Hour))
	s.create(namespace, certificate("gone-4f1", "gone-4f1")+certificate("used-4f1", "used-4f1")+strings.ReplaceAll(certificate("wild-4f1", "wild-4f1"), "wild-4f1.example.test", "'*.example.test'")+
		pair+`
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: web-4f1}
spec: {tls: [{hosts: [used-4f1.example.test], secretName: used-4f1}, {hosts: [both-4f1.example.test], secretName: both-4f1}], defaultBackend: {service: {name: x, port: {number: 80}}}}
---
apiVersion: cert-manager.io/v1
kind: CertificateRequest
metadata: {name: request-4f1}
spec: {request: Zm9v, issuerRef: {name: ca, kind: ClusterIssuer}}
status: {conditions: [{type: Ready, status: "True", reason: Issued}]}
---
apiVersion: acme.cert-manager.io/v1
kind: Order
metadata: {name: order-4f1}
spec: {request: Zm9v, dnsNames: [order-4f1.example.test], issuerRef: {name: ca, kind: ClusterIssuer}}
status: {state: valid}
---
apiVersion: acme.cert-manager.io/v1
kind: Challenge
metadata: {name: challenge-4f1}
spec:
  {type: HTTP-01, token: t, key: k, url: "https://ca.example.test/c", authorizationURL: "https://ca.example.test/a", dnsName: order-4f1.example.test,
   issuerRef: {name: ca, kind: ClusterIssuer}, solver: {http01: {ingress: {}}}}
status: {processing: false, presented: false, state: valid}
---
apiVersion: networking.internal.knative.dev/v1alpha1
kind: Ingress
metadata: {name: svc-4f1}
spec:
  rules: [{hosts: [svc-4f1.example.test], visibility: ExternalIP}]
  tls: [{hosts: [svc-4f1.example.test], secretName: wild-4f1, secretNamespace: NS}]
status: {observedGeneration: 1, conditions: [{type: Ready, status: "True"}]}
`)
	// What a Knative Route leaves that has moved to a wildcard.
	route := s.create(namespace, "{apiVersion: serving.knative.dev/v1, kind: Route, metadata: {name: svc-4f1}, spec: {}}")
	kcert := s.create(namespace, fmt.Sprintf(`
apiVersion: networking.internal.knative.dev/v1alpha1
kind: Certificate
metadata:
  name: svc-4f1
  annotations: {networking.knative.dev/certificate.class: cert-manager.certificate.networking.knative.dev}
  labels: {networking.knative.dev/certificate-type: external-domain}
  ownerReferences: [{apiVersion: serving.knative.dev/v1, kind: Route, name: svc-4f1, uid: %s, controller: true, blockOwnerDeletion: true}]
spec: {dnsNames: [svc-4f1.example.test], domain: example.test, secretName: svc-4f1}
`, route[0].GetUID()))
	s.create(namespace, strings.Replace(certificate("svc-4f1", "svc-4f1"), "metadata: {name: svc-4f1}", fmt.Sprintf(
		"metadata: {name: svc-4f1, ownerReferences: [{apiVersion: networking.internal.knative.dev/v1alpha1, kind: Certificate, name: svc-4f1, uid: %s, controller: true}]}", kcert[0].GetUID()), 1))
}

// proposable makes what one wildcard could replace.
func (s *site) proposable(namespace string) {
	s.Helper()
	const ready = "status: {conditions: [{type: Ready, status: 'True', lastTransitionTime: '2026-11-01T00:00:00Z'}]}"
	s.create("", "{apiVersion: cert-manager.io/v1, kind: ClusterIssuer, metadata: {name: ca}, spec: {ca: {secretName: ca-key}}, "+ready+"}")
	for _, name := range []string{"a-4f1", "b-4f1"} {
		s.tls(namespace, name, time.Time{})
		s.create(namespace, strings.Replace(certificate(name, name), "---", ready+"\n---", 1)+fmt.Sprintf(`
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: %[1]s}
spec: {tls: [{hosts: [%[1]s.example.test], secretName: %[1]s}], defaultBackend: {service: {name: x, port: {number: 80}}}}
`, name))
	}
}

// awaitProposal waits for a Consolidation, and until one that was withdrawn long
// ago is gone.
func (s *site) awaitProposal(namespace string) {
	s.Helper()
	api := s.dynamic.Resource(v1alpha1.GroupVersionResource).Namespace(namespace)
	var found *unstructured.Unstructured
	s.await("a Consolidation is proposed", func() bool {
		list, err := api.List(s.Context(), metav1.ListOptions{})
		s.must(err)
		for i := range list.Items {
			if phase, _, _ := unstructured.NestedString(list.Items[i].Object, "status", "phase"); phase == string(v1alpha1.Proposed) {
				found = &list.Items[i]
			}
		}
		return found != nil
	})
	old := &unstructured.Unstructured{Object: map[string]any{"apiVersion": found.GetAPIVersion(), "kind": found.GetKind(), "spec": found.Object["spec"]}}
	old.SetNamespace(namespace)
	old.SetName("long-ago-4f1")
	old, err := api.Create(s.Context(), old, metav1.CreateOptions{})
	s.must(err)
	old.Object["status"] = map[string]any{"phase": string(v1alpha1.Withdrawn), "observedGeneration": old.GetGeneration(), "conditions": []any{map[string]any{
		"type": v1alpha1.ConditionClear, "status": "False", "reason": "Withdrawn", "message": "x", "lastTransitionTime": time.Now().Add(-30 * 24 * time.Hour).UTC().Format(time.RFC3339),
	}}}
	_, err = api.UpdateStatus(s.Context(), old, metav1.UpdateOptions{})
	s.must(err)
	s.await("what was withdrawn long ago is gone", func() bool {
		_, err := api.Get(s.Context(), "long-ago-4f1", metav1.GetOptions{})
		return apierrors.IsNotFound(err)
	})
}

// share makes two Certificates share a Secret, or not.
func (s *site) share(namespace string, both bool) {
	s.Helper()
	secret := "both-4f1"
	if !both {
		secret = "alone-4f1"
	}
	_, err := s.dynamic.Resource(gvr("cert-manager.io", "v1", "certificates")).Namespace(namespace).
		Patch(s.Context(), "two-4f1", types.MergePatchType, []byte(`{"spec":{"secretName":"`+secret+`"}}`), metav1.PatchOptions{})
	s.must(err)
}

// entries writes a part of the journal, as apply.Journal documents it.
func (s *site) entries(number int, entries ...apply.Entry) {
	s.Helper()
	var b bytes.Buffer
	text := base32.NewEncoder(base32.StdEncoding, &b)
	z := gzip.NewWriter(text)
	for _, e := range entries {
		s.must(json.NewEncoder(z).Encode(e))
	}
	s.must(z.Close())
	s.must(text.Close())
	_, err := s.core.CoreV1().ConfigMaps("certherd").Create(s.Context(), &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("certherd-journal-%06d", number), Labels: map[string]string{apply.JournalLabel: "true"}},
		Data:       map[string]string{"entries.jsonl.gz.base32": b.String()},
	}, metav1.CreateOptions{})
	s.must(err)
}

// journal are the names of the journal's ConfigMaps.
func (s *site) journal() (names []string) {
	s.Helper()
	list, err := s.core.CoreV1().ConfigMaps("certherd").List(s.Context(), metav1.ListOptions{LabelSelector: apply.JournalLabel})
	s.must(err)
	for _, m := range list.Items {
		names = append(names, m.Name)
	}
	return names
}

// verdicts are those of OrphanedSecret by name.
func verdicts(r report.Report) map[string]string {
	out := map[string]string{}
	for _, f := range r.Findings {
		if f.Reason == string(plan.OrphanedSecret) {
			out[f.Object.Name] = f.Verdict
		}
	}
	return out
}

const (
	reports  = "maxShare: 100%\ngc: {schedule: '@every 10s', minAge: 0s, requestAge: 0s}\nconsolidate: {schedule: '@every 10s'}\nbatch: {schedule: '@every 10s'}\n"
	enforces = "maxShare: 100%\ngc: {mode: enforce, schedule: '@every 10s', minAge: 0s, requestAge: 0s, budget: {count: 100, share: 100%}, gracePeriod: 168h}\nbatch: {reloads: {updates: 600, gap: 0s}}\n"
)

func TestInstalled(t *testing.T) {
	s := newSite(t)
	const team, shop = "team-a", "shop"
	s.namespace(team, "team-b", "elsewhere", "monitoring", shop)
	s.mess(team)
	s.proposable(shop)

	// All of it is what the API server takes, to the letter.
	s.install("cli") // makes the namespace, in which a dry run could make nothing
	for _, folder := range folders {
		objects := s.render(folder)
		for _, o := range objects {
			if err := s.apply(o, true); err != nil {
				t.Errorf("manifests/%s: %v", folder, err)
			}
		}
		t.Logf("manifests/%s: %d objects", folder, len(objects))
	}
	s.install("operator")
	objects := s.install("audit")
	monitoring := 0
	for _, o := range s.render("example") {
		if o.GroupVersionKind().Group == "monitoring.coreos.com" {
			s.must(s.apply(o, false))
			monitoring++
		}
	}
	if monitoring != 2 {
		t.Errorf("the example has %d objects for the Prometheus operator", monitoring)
	}
	// The Pods are admitted by the namespace's own Pod Security Standard.
	s.await("the Deployment's Pods are there", func() bool {
		list, err := s.core.CoreV1().Pods("certherd").List(t.Context(), metav1.ListOptions{LabelSelector: "app.kubernetes.io/component=service"})
		s.must(err)
		return len(list.Items) == 2
	})

	// audit: it reports, and writes nothing but what is its own.
	kubeconfig := s.account("certherd", "certherd")
	p := s.start("certherd-0", kubeconfig, objects)
	s.await("it leads", func() bool { return p.Metric("certherd_leader") == 1 })
	follower := s.start("certherd-1", kubeconfig, objects)
	s.configure("gc: {mod: enforce}\n")
	s.await("an Event of a bad configuration", func() bool { return s.event("certherd", "ConfigurationRefused") != nil })
	s.configure("gc: {mod: enforce} # still\n") // the same again, which is counted
	s.await("the Event is counted", func() bool { return s.event("certherd", "ConfigurationRefused").Count > 1 })
	s.configure(reports)
	s.await("a Secret is called unused", func() bool { return verdicts(p.report())["left-4f1"] == string(inventory.Unused) })
	if v := verdicts(p.report()); v["used-4f1"] != "" {
		t.Errorf("verdicts %v", v)
	}
	if g := p.report().Gaps; len(g) > 0 {
		t.Errorf("gaps %v", g)
	}
	s.told(1, team)
	s.await("the report in the cluster", func() bool {
		cm, err := s.core.CoreV1().ConfigMaps("certherd").Get(t.Context(), "certherd-report", metav1.GetOptions{})
		s.must(err)
		return strings.Contains(cm.Data["summary.yaml"], "SharedSecretName: 1")
	})

	// enforce without the rights for it: nothing is done, and it is said why.
	s.share(team, false)
	s.configure(enforces)
	s.await("it says that nothing is carried out", func() bool { return p.said("nothing carried out") != nil })
	why, _ := p.said("nothing carried out")["error"].(string)
	for _, r := range apply.Rights() {
		if !strings.Contains(why, r.String()) {
			t.Errorf("it does not say that it lacks %q: %s", r, why)
		}
	}
	if !strings.Contains(why, "manifests/enforce") {
		t.Errorf("it does not say what to do: %s", why)
	}
	s.await("an Event says so", func() bool { return s.event("certherd", "NothingCarriedOut") != nil })
	for _, name := range []string{"left-4f1", "due-4f1", "gone-4f1"} {
		if marked, there := s.mark(team, name); !there || marked != (name == "due-4f1") {
			t.Errorf("%s: there %v, marked %v", name, there, marked)
		}
	}
	if j := s.journal(); len(j) > 0 {
		t.Errorf("the journal has %v", j)
	}
	wroteOnly(s, s.requests("certherd", "certherd"))
	p.seesNoShared()
	s.share(team, true)

	// enforce: the rights alone change nothing; with the mode, it collects.
	objects = s.install("enforce")
	s.await("mode audit holds", func() bool { l := p.said("configuration taken over"); return l != nil && l["gc"] == "audit" })
	s.annotate(team, "kept-4f1", map[string]any{inventory.IgnoreAnnotation: "true"})
	s.configure(enforces)
	s.await("the garbage is gone", func() bool {
		marked := true
		for _, name := range []string{"left-4f1", "gone-4f1", "svc-4f1"} {
			m, _ := s.mark(team, name)
			marked = marked && m
		}
		_, due := s.mark(team, "due-4f1")
		return marked && !due && !s.there("cert-manager.io", "v1", "certificates", team, "gone-4f1") &&
			!s.there("networking.internal.knative.dev", "v1alpha1", "certificates", team, "svc-4f1") &&
			!s.there("cert-manager.io", "v1", "certificaterequests", team, "request-4f1") &&
			!s.there("acme.cert-manager.io", "v1", "orders", team, "order-4f1") && !s.there("acme.cert-manager.io", "v1", "challenges", team, "challenge-4f1")
	})
	for _, name := range []string{"kept-4f1", "used-4f1", "wild-4f1", "back-4f1"} {
		if marked, there := s.mark(team, name); !there || marked != (name == "back-4f1") {
			t.Errorf("%s: there %v, marked %v", name, there, marked)
		}
	}
	s.told(2, team)
	// The other one takes over, with the same rights. It finds an old part of the
	// journal, and a grace period that is over soon.
	s.entries(0, apply.Entry{ID: "old/1", Round: "old", Time: time.Now().Add(-200 * 24 * time.Hour), Action: plan.Delete, State: apply.Carried,
		Object: apply.Object{Kind: "Secret", Namespace: team, Name: "long-ago"}})
	s.tls(team, "late-4f1", time.Time{})
	s.configure(strings.ReplaceAll(enforces, "168h", "1s, expiredGracePeriod: 1s") + "consolidate: {mode: propose, schedule: '@every 10s'}\n")
	p.end()
	s.await("the other one leads", func() bool { return follower.Metric("certherd_leader") == 1 })
	s.await("what came late is gone for good", func() bool { _, there := s.mark(team, "late-4f1"); return !there })
	s.awaitProposal(shop)
	s.await("the journal has forgotten what is old", func() bool { return !slices.Contains(s.journal(), "certherd-journal-000000") })
	compare(s, grants(s, objects, "certherd", "certherd"), s.requests("certherd", "certherd"), nil)
	follower.end()

	persons(s, team)
	signsIn(s, shop)

	// What is not certherd's own stays when it goes.
	all := append(objects, s.render("operator")...)
	s.leavesAlone(team, func() { s.uninstall(all) })

	s.uninstall(namespaced(s, team))
	helmed(s, team)
}

// others are the Secrets and Certificates of a namespace, with their UIDs. None of
// them has an owner that goes with certherd, or waits for it by a finalizer.
func (s *site) others(namespace string) map[string]types.UID {
	s.Helper()
	out := map[string]types.UID{}
	for _, r := range []schema.GroupVersionResource{gvr("", "v1", "secrets"), gvr("cert-manager.io", "v1", "certificates"), gvr("networking.internal.knative.dev", "v1alpha1", "certificates")} {
		list, err := s.dynamic.Resource(r).Namespace(namespace).List(s.Context(), metav1.ListOptions{})
		s.must(err)
		for _, x := range list.Items {
			out[r.Resource+"."+r.Group+"/"+x.GetName()] = x.GetUID()
			for _, o := range x.GetOwnerReferences() {
				if strings.HasPrefix(o.APIVersion, v1alpha1.GroupVersionResource.Group+"/") || strings.HasPrefix(o.Name, "certherd") {
					s.Errorf("%s %s is owned by %s %s", r.Resource, x.GetName(), o.Kind, o.Name)
				}
			}
			for _, f := range x.GetFinalizers() {
				if strings.Contains(f, "certherd") {
					s.Errorf("%s %s has the finalizer %s", r.Resource, x.GetName(), f)
				}
			}
		}
	}
	return out
}

// leavesAlone looks that every Secret and Certificate of a namespace stays while certherd
// is uninstalled, and after kube-controller-manager has collected what went with it.
func (s *site) leavesAlone(namespace string, uninstall func()) {
	s.Helper()
	before := s.others(namespace)
	if len(before) < 8 {
		s.Errorf("only %v is there", slices.Sorted(maps.Keys(before)))
	}
	role, err := s.core.RbacV1().ClusterRoles().Get(s.Context(), "certherd-enforce", metav1.GetOptions{})
	s.must(err)
	// The garbage collector is known to have seen the end of certherd when this is gone.
	_, err = s.core.CoreV1().ConfigMaps(namespace).Create(s.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{
		Name: "owned-4f1", OwnerReferences: []metav1.OwnerReference{{APIVersion: "rbac.authorization.k8s.io/v1", Kind: "ClusterRole", Name: role.Name, UID: role.UID}},
	}}, metav1.CreateOptions{})
	s.must(err)
	uninstall()
	s.await("what certherd owned is collected", func() bool {
		_, err := s.core.CoreV1().ConfigMaps(namespace).Get(s.Context(), "owned-4f1", metav1.GetOptions{})
		if err != nil && !apierrors.IsNotFound(err) {
			s.Fatal(err)
		}
		return err != nil
	})
	if after := s.others(namespace); !maps.Equal(before, after) {
		s.Errorf("there was %v\nand after certherd went %v", before, after)
	}
}

// persons do what docs/rbac.md says that they may with the roles of
// manifests/operator.
func persons(s *site, team string) {
	s.Helper()
	bind := func(namespace, role, person string) {
		s.must(s.apply(s.parse(fmt.Sprintf(`
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: %[2]s-%[3]s, namespace: %[1]s}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: %[2]s}
subjects: [{kind: ServiceAccount, name: %[3]s, namespace: monitoring}]
`, namespace, role, person))[0], false))
	}
	login := func(name string) string {
		s.must(s.apply(s.parse("{apiVersion: v1, kind: ServiceAccount, metadata: {name: " + name + ", namespace: monitoring}}")[0], false))
		return s.account("monitoring", name)
	}
	must := func(kubeconfig string, args ...string) string {
		s.Helper()
		out, err := s.run(kubeconfig, args...)
		s.must(err)
		return out
	}
	viewer := login("viewer")
	bind("certherd", "certherd-viewer", "viewer")
	s.await("the viewer may look", func() bool { _, err := s.run(viewer, "history"); return err == nil })
	if out := must(viewer, "history"); !strings.Contains(out, "late-4f1") {
		s.Errorf("history says\n%s", out)
	}
	// kubectl get configmap certherd-report
	cfg, err := clientcmd.BuildConfigFromFlags("", viewer)
	s.must(err)
	_, err = kubernetes.NewForConfigOrDie(cfg).CoreV1().ConfigMaps("certherd").Get(s.Context(), "certherd-report", metav1.GetOptions{})
	s.must(err)
	if out, err := s.run(viewer, "undo", "certificate/"+team+"/late-4f1"); err == nil {
		s.Errorf("a viewer could undo:\n%s", out)
	}

	// One who may undo, with an object that had an owner of each kind.
	operator := login("operator")
	bind("certherd", "certherd-operator", "operator")
	bind(team, "certherd-undo", "operator")
	s.await("the operator may look", func() bool { _, err := s.run(operator, "history"); return err == nil })
	var owners []map[string]any
	for _, text := range []string{
		"{apiVersion: networking.k8s.io/v1, kind: Ingress, metadata: {name: owner-4f1}, spec: {defaultBackend: {service: {name: x, port: {number: 80}}}}}",
		"{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {name: owner-4f1}, spec: {gatewayClassName: x, listeners: [{name: http, port: 80, protocol: HTTP}]}}",
		"{apiVersion: gateway.networking.k8s.io/v1, kind: ListenerSet, metadata: {name: owner-4f1}, spec: {parentRef: {name: owner-4f1}, listeners: [{name: http, port: 81, protocol: HTTP}]}}",
		"{apiVersion: serving.knative.dev/v1beta1, kind: DomainMapping, metadata: {name: owner-4f1.example.test}, spec: {ref: {kind: Service, name: x, apiVersion: serving.knative.dev/v1}}}",
	} {
		o := s.create(team, text)[0]
		owners = append(owners, map[string]any{"apiVersion": o.GetAPIVersion(), "kind": o.GetKind(), "name": o.GetName(), "uid": string(o.GetUID())})
	}
	ns, err := s.core.CoreV1().Namespaces().Get(s.Context(), team, metav1.GetOptions{})
	s.must(err)
	owners = append(owners, map[string]any{"apiVersion": "v1", "kind": "Namespace", "name": team, "uid": string(ns.UID)})
	manifest, err := json.Marshal(map[string]any{
		"apiVersion": "cert-manager.io/v1", "kind": "Certificate", "metadata": map[string]any{"name": "back-4f1", "namespace": team, "ownerReferences": owners},
		"spec": map[string]any{"secretName": "back-4f1", "dnsNames": []string{"back-4f1.example.test"}, "issuerRef": map[string]any{"name": "ca", "kind": "ClusterIssuer"}},
	})
	s.must(err)
	s.entries(9, apply.Entry{ID: "r/1", Round: "r", Time: time.Now(), Action: plan.Delete, State: apply.Carried, Manifest: manifest,
		Object: apply.Object{Group: "cert-manager.io", Kind: "Certificate", Namespace: team, Name: "back-4f1"}})
	must(operator, "undo", "certificate/"+team+"/back-4f1")
	x, err := s.dynamic.Resource(gvr("cert-manager.io", "v1", "certificates")).Namespace(team).Get(s.Context(), "back-4f1", metav1.GetOptions{})
	s.must(err)
	if n := len(x.GetOwnerReferences()); n != len(owners) {
		s.Errorf("it came back with %d of %d owners", n, len(owners))
	}
	if marked, there := s.mark(team, "back-4f1"); marked || !there {
		s.Errorf("back-4f1: there %v, marked %v", there, marked)
	}
	// One of Knative's, whose Route is still there.
	must(operator, "undo", "kcertificate/"+team+"/svc-4f1")
	if !s.there("networking.internal.knative.dev", "v1alpha1", "certificates", team, "svc-4f1") {
		s.Error("svc-4f1 did not come back")
	}
	// The journal may be new.
	s.must(s.core.CoreV1().ConfigMaps("certherd").DeleteCollection(s.Context(), metav1.DeleteOptions{}, metav1.ListOptions{LabelSelector: apply.JournalLabel}))
	s.tls(team, "again-4f1", time.Now().Add(time.Hour))
	must(operator, "undo", "secret/"+team+"/again-4f1")
	if marked, _ := s.mark(team, "again-4f1"); marked {
		s.Error("again-4f1 is still marked")
	}

	objects := s.render("operator")
	for person, roles := range map[string]map[string]string{
		"viewer":   {"certherd-viewer": "certherd"},
		"operator": {"certherd-operator": "certherd", "certherd-undo": team},
	} {
		var granted []grant
		for role, in := range roles {
			i := slices.IndexFunc(objects, func(o *unstructured.Unstructured) bool { return o.GetName() == role })
			bound := s.parse(fmt.Sprintf("{kind: ClusterRoleBinding, roleRef: {kind: ClusterRole, name: %s}, subjects: [{kind: ServiceAccount, name: x, namespace: x}]}", role))
			for _, g := range grants(s, append(bound, objects[i]), "x", "x") {
				g.namespace = in
				granted = append(granted, g)
			}
		}
		for _, r := range s.requests("monitoring", person) {
			if !slices.ContainsFunc(granted, func(g grant) bool { return g.covers(r) }) && r.ResponseStatus.Code != 403 {
				s.Errorf("%s used, and was not granted: %s %+v", person, r.Verb, *r.ObjectRef)
			}
		}
		for _, g := range granted {
			if !slices.ContainsFunc(s.requests("monitoring", person), g.covers) {
				s.Errorf("granted to %s, and not used: %s", person, g)
			}
		}
	}
}

// told waits until an Event has told of two Certificates with one Secret, so often
// at least.
func (s *site) told(times int32, namespaces ...string) {
	s.Helper()
	for _, ns := range namespaces {
		s.await(fmt.Sprintf("%d times an Event in %s", times, ns), func() bool {
			e := s.event(ns, string(plan.SharedSecretName))
			return e != nil && e.Count >= times
		})
	}
}

// seesNoShared waits until a replica has seen that no Secret is shared.
func (p *pod) seesNoShared() {
	p.s.Helper()
	p.s.await("nothing is shared", func() bool { return p.report().Summary.Findings[string(plan.SharedSecretName)] == 0 })
}

// namespaced runs certherd with Roles alone, in mode enforce, and returns what it
// installed.
func namespaced(s *site, team string) []*unstructured.Unstructured {
	s.Helper()
	// One Secret that nobody needs, and one that only somebody in a namespace
	// needs that certherd cannot see.
	s.tls(team, "lone-4f1", time.Time{})
	s.tls(team, "lent-4f1", time.Time{})
	s.create("elsewhere", `
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: edge-4f1}
spec:
  gatewayClassName: x
  listeners: [{name: https, port: 443, protocol: HTTPS, tls: {certificateRefs: [{name: lent-4f1, namespace: `+team+`}]}}]
`)
	s.create("team-b", pair)
	snapshot, _, err := live.Look(s.Context(), s.admin, live.Options{Proof: true})
	s.must(err)
	for name, want := range map[string]inventory.Verdict{"lone-4f1": inventory.Unused, "lent-4f1": inventory.Used} {
		if v := snapshot.Judge(inventory.SecretRef(team, name)).Verdict; v != want {
			s.Fatalf("who sees everything calls %s %s", name, v)
		}
	}

	objects := s.install("namespaced")
	kubeconfig := s.account("certherd", "certherd")
	seen := len(s.requests("certherd", "certherd"))
	p := s.start("certherd-2", kubeconfig, objects)
	s.await("it leads", func() bool { return p.Metric("certherd_leader") == 1 })
	s.configure("gc: {mod: enforce}\n")
	s.await("an Event of a bad configuration", func() bool { return s.event("certherd", "ConfigurationRefused") != nil })
	s.configure("gc: {mod: enforce} # still\n")
	s.await("the Event is counted", func() bool { return s.event("certherd", "ConfigurationRefused").Count > 1 })
	s.told(1, team, "team-b")
	s.share(team, false)
	s.share("team-b", false)
	s.configure(strings.ReplaceAll(enforces, "168h", "1s, expiredGracePeriod: 1s"))
	s.await("it says why nothing is unused", func() bool { return p.said("nothing is unused, because not everything could be read") != nil })
	s.await("it says that nothing is carried out", func() bool { return p.said("nothing carried out") != nil })
	p.seesNoShared()
	s.share(team, true)
	s.share("team-b", true)
	s.told(2, team, "team-b")
	s.await("the report in the cluster", func() bool {
		cm, err := s.core.CoreV1().ConfigMaps("certherd").Get(s.Context(), "certherd-report", metav1.GetOptions{})
		s.must(err)
		return strings.Contains(cm.Data["summary.yaml"], "SharedSecretName: 2")
	})

	check := func(who string, r report.Report) {
		s.Helper()
		if n := r.Summary.Verdicts[string(inventory.Unused)]; n > 0 {
			s.Errorf("%s calls %d objects unused", who, n)
		}
		for _, f := range r.Findings {
			if f.Verdict == string(inventory.Unused) {
				s.Errorf("%s calls %s unused", who, f.Object)
			}
			if f.Object.Namespace != team && f.Object.Namespace != "team-b" {
				s.Errorf("%s reports %s of %s", who, f.Reason, f.Object)
			}
		}
		why := map[string]string{}
		for _, g := range r.Gaps {
			why[g.Kind] = g.Reason
		}
		if !strings.Contains(why["secret"], "read in team-a, team-b only") || !strings.Contains(why["namespace"], "forbidden") || len(why) < 40 {
			s.Errorf("%s gives as gaps %v", who, why)
		}
		if r.Summary.Secrets < 8 || r.Summary.Findings[string(plan.SharedSecretName)] != 2 {
			s.Errorf("%s has seen %+v", who, r.Summary)
		}
	}
	check("certherd run", p.report())
	out, err := s.run(kubeconfig, "audit", "-n", team+",team-b", "--min-age", "0s", "-o", "json")
	s.must(err)
	var r report.Report
	s.must(json.Unmarshal([]byte(out), &r))
	check("certherd audit", r)
	for _, name := range []string{"lone-4f1", "lent-4f1"} {
		if marked, there := s.mark(team, name); !there || marked {
			s.Errorf("%s: there %v, marked %v", name, there, marked)
		}
	}
	asked := s.requests("certherd", "certherd")[seen:]
	wroteOnly(s, asked)
	// It tries to list everywhere first.
	compare(s, grants(s, objects, "certherd", "certherd"), asked, func(r request) bool {
		return r.Verb == "list" && r.ObjectRef.Namespace == "" && r.ResponseStatus.Code == 403
	})
	p.end()
	return objects
}
