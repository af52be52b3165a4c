package service_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"

	carrylive "github.com/certherd/certherd/carry/live"
	"github.com/certherd/certherd/config"
	"github.com/certherd/certherd/e2e/replica"
	"github.com/certherd/certherd/e2e/scenario"
	"github.com/certherd/certherd/inventory"
	"github.com/certherd/certherd/plan"
	"github.com/certherd/certherd/renew"
	renewlive "github.com/certherd/certherd/renew/live"
)

var certificateRequests = schema.GroupVersionResource{Group: "cert-manager.io", Version: "v1", Resource: "certificaterequests"}

// served is a Certificate that an ingress serves.
const served = `
apiVersion: cert-manager.io/v1
kind: Certificate
metadata: {name: {{.Name}}, namespace: {{.Namespace}} }
spec:
  secretName: {{.Name}}
  dnsNames: [{{.Name}}.{{.Namespace}}.example.test]
  privateKey: {algorithm: ECDSA, size: 256}
  issuerRef: {name: ca, kind: ClusterIssuer}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: {{.Name}}, namespace: {{.Namespace}} }
spec:
  ingressClassName: none
  tls: [{hosts: [{{.Name}}.{{.Namespace}}.example.test], secretName: {{.Name}}}]
  rules: [{host: {{.Name}}.{{.Namespace}}.example.test, http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: x, port: {number: 80}}}}]}}]
`

func (s *site) serve(ns string, names ...string) {
	s.Helper()
	for _, n := range names {
		s.must(s.cluster.Apply(s.Context(), served, struct{ Namespace, Name string }{ns, n}))
	}
}

// revisions are how often the Certificates of a namespace were issued, by name; ok is
// false while one is being issued.
func (s *site) revisions(ns string) (revisions map[string]int, ok bool) {
	s.Helper()
	list, err := s.cluster.Dynamic.Resource(certificates).Namespace(ns).List(s.Context(), metav1.ListOptions{})
	s.must(err)
	revisions, ok = map[string]int{}, true
	for i := range list.Items {
		o := list.Items[i].Object
		n, _, _ := unstructured.NestedInt64(o, "status", "revision")
		revisions[list.Items[i].GetName()] = int(n)
		ready := false
		conditions, _, _ := unstructured.NestedSlice(o, "status", "conditions")
		for _, c := range conditions {
			m, _ := c.(map[string]any)
			ready = ready || m["type"] == "Ready" && m["status"] == "True"
			ok = ok && (m["type"] != "Issuing" || m["status"] != "True")
		}
		ok = ok && ready
	}
	return revisions, ok
}

// everybodyElse are all namespaces but one, for ignore.namespaces: the cluster is that
// of other tests, too.
func (s *site) everybodyElse(ns string) string {
	s.Helper()
	list, err := s.cluster.Typed.CoreV1().Namespaces().List(s.Context(), metav1.ListOptions{})
	s.must(err)
	var out []string
	for _, n := range list.Items {
		if n.Name != ns {
			out = append(out, n.Name)
		}
	}
	return strings.Join(out, ", ")
}

// triggers are how often replicas have set the condition of each Certificate.
func (s *site) triggers(replicas ...string) map[string]int {
	writes, _ := s.audit(replicas...)
	n := map[string]int{}
	for _, w := range writes {
		if w.verb == "patch" && w.resource == "certificates.cert-manager.io" {
			n[w.name]++
		}
	}
	return n
}

// TestRenewals: certificates, Knative's own among them, are renewed together, each one
// once, although the leader is killed in the middle of it; in mode propose when a person
// says so. What is urgent waits for none of it.
func TestRenewals(t *testing.T) {
	const home, ns = "renews-5c2", "renewed-5c2"
	s := newSite(t, home)
	s.must(s.cluster.Namespaces(t.Context(), ns))
	s.must(s.cluster.Services(t.Context(), []scenario.Service{{Namespace: ns, Name: "knative"}}))
	var names []string
	for i := range 12 {
		names = append(names, fmt.Sprintf("web-%02d", i))
	}
	s.serve(ns, names...)
	const all = 13
	var before map[string]int
	s.await("all certificates to be issued", func() (ok bool) {
		before, ok = s.revisions(ns)
		return ok && len(before) == all
	})
	configuration := func(mode string) string {
		// The only round is the first one: the next is in half a year, so that what is due
		// before cannot wait for it. Certificates may be renewed as soon as they were issued.
		return fmt.Sprintf("ignore: {namespaces: [%s]}\nbatch:\n  mode: %s\n  schedule: \"0 0 1 %d *\"\n  startingDeadline: disabled\n  renewals: {horizon: 8760h, early: 100%%}\n",
			s.everybodyElse(ns), mode, time.Now().AddDate(0, 6, 0).Month())
	}
	s.configure(configuration("enforce"))
	a := s.start("renews-a", "")
	s.await("the first certificate to be triggered", func() bool { return len(a.Said("step")) > 0 })
	a.Kill()
	b := s.start("renews-b", "")
	s.leader(b)
	b.rounds(1)
	var once map[string]int
	s.await("what was triggered to be issued", func() (ok bool) {
		once, ok = s.revisions(ns)
		return ok
	})
	triggered := s.triggers("renews-a", "renews-b")
	if len(triggered) == 0 {
		t.Error("nothing was triggered")
	}
	for name, n := range triggered {
		if n > 1 {
			t.Errorf("%s was triggered %d times", name, n)
		}
	}
	issued := 0
	for name, n := range before {
		// The audit log may lack the answer to a request whose client was killed.
		if got := once[name]; got > n+1 || got < n+triggered[name] {
			t.Errorf("%s was issued %d times and triggered %d times", name, got-n, triggered[name])
		}
		issued += once[name] - n
	}
	t.Logf("%d of %d were issued again, as the leader was killed in the midst of it", issued, all)

	s.configure(configuration("propose"))
	s.await("a batch to wait for a person", func() bool { return b.Metric("certherd_changes_waiting") == 1 })
	// In the middle of a batch that is held: a first certificate, and one whose Secret is lost.
	s.serve(ns, "new")
	s.must(s.cluster.Typed.CoreV1().Secrets(ns).Delete(t.Context(), "web-00", metav1.DeleteOptions{}))
	if out, err := exec.CommandContext(t.Context(), s.program, "renew", ns+"/web-01", "--reason", "key compromised", "--kubeconfig", s.stack.Kubeconfig).CombinedOutput(); err != nil {
		t.Fatalf("renew: %v\n%s", err, out)
	}
	began := time.Now()
	s.await("what is urgent to be issued", func() bool {
		now, ok := s.revisions(ns)
		return ok && now["new"] == 1 && now["web-00"] == once["web-00"]+1 && now["web-01"] == once["web-01"]+1
	})
	t.Logf("urgent certificates were issued in %s, while a batch was held", time.Since(began).Round(100*time.Millisecond))
	s.await("the update past the budget to be counted", func() bool {
		return slices.ContainsFunc(b.Said("update"), func(l replica.Line) bool { return l.Fields["lane"] == "urgent" })
	})
	asked := map[string]int{"web-01": 1}
	for name, n := range s.triggers("renews-b") {
		if n > asked[name] {
			t.Errorf("%s was triggered %d times, and nobody had approved it", name, n)
		}
	}
	// The batch is one of other objects by now. The next report has it.
	finished := len(b.Said("round finished"))
	s.configure(configuration("propose") + "approvalLifetime: 100h\n")
	s.await("another round", func() bool { return len(b.Said("round finished")) > finished })
	s.await("the batch to wait for a person", func() bool { return b.Metric("certherd_changes_waiting") == 1 })
	held, _ := s.revisions(ns)
	out, err := exec.CommandContext(t.Context(), s.program, "approve", "--all", "--kubeconfig", s.stack.Kubeconfig, "--certherd-namespace", home).CombinedOutput()
	if err != nil {
		t.Fatalf("approve: %v\n%s", err, out)
	}
	s.await("everything to be issued once more", func() bool {
		now, ok := s.revisions(ns)
		for name, n := range held {
			ok = ok && now[name] > n
		}
		return ok
	})
	s.await("the batch to be told", func() bool { return len(b.Said("certificates renewed together")) > 0 })
	last, _ := s.revisions(ns)
	for name, n := range s.triggers("renews-b") {
		if n > 1+asked[name] || last[name] != held[name]+1 {
			t.Errorf("%s was triggered %d times and issued %d times", name, n, last[name]-held[name])
		}
	}
	s.configure("") // others need not wait for it
	if n := len(b.Said("certificates renewed together")); n != 1 {
		t.Errorf("%d batches, want 1", n)
	}
}

// as is a client of a user with the rights of a role of its own, and no others.
func (s *site) as(user string, rights []rbacv1.PolicyRule) *rest.Config {
	s.Helper()
	roles := s.cluster.Typed.RbacV1()
	_, err := roles.ClusterRoles().Create(s.Context(), &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: user}, Rules: rights}, metav1.CreateOptions{})
	s.must(err)
	_, err = roles.ClusterRoleBindings().Create(s.Context(), &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: user}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: user},
		Subjects: []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: "User", Name: user}},
	}, metav1.CreateOptions{})
	s.must(err)
	review := &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{User: user}}
	resource, sub, _ := strings.Cut(rights[0].Resources[0], "/")
	review.Spec.ResourceAttributes = &authorizationv1.ResourceAttributes{Verb: rights[0].Verbs[0], Group: rights[0].APIGroups[0], Resource: resource, Subresource: sub}
	s.await("the authorizer to have heard of the rights of "+user, func() bool {
		r, err := s.cluster.Typed.AuthorizationV1().SubjectAccessReviews().Create(s.Context(), review, metav1.CreateOptions{})
		return err == nil && r.Status.Allowed
	})
	c := rest.CopyConfig(s.admin)
	c.Impersonate = rest.ImpersonationConfig{UserName: user}
	return c
}

// TestRenewerNeedsNoMore: a Renewer does with its own rights what it is for, and what
// has changed since it was looked at is left alone.
func TestRenewerNeedsNoMore(t *testing.T) {
	const home, ns = "renewer-5c2", "renewable-5c2"
	s := newSite(t, home)
	s.must(s.cluster.Namespaces(t.Context(), ns))
	s.serve(ns, "same", "changed", "gone")
	s.await("all certificates to be issued", func() bool {
		r, ok := s.revisions(ns)
		return ok && len(r) == 3
	})
	var steps []plan.Step
	for _, name := range []string{"same", "changed", "gone"} {
		u, err := s.cluster.Dynamic.Resource(certificates).Namespace(ns).Get(t.Context(), name, metav1.GetOptions{})
		s.must(err)
		steps = append(steps, plan.Step{Action: plan.Renew, Object: inventory.CertificateRef(ns, name), If: inventory.Version{UID: string(u.GetUID()), ResourceVersion: u.GetResourceVersion()}})
	}
	steps[1].If.ResourceVersion = "1"
	steps[2].Object.Name = "none"
	r, err := renewlive.New(s.as("renewer-5c2", renewlive.Rights()), time.Now)
	s.must(err)
	run := func(r *renewlive.Renewer) map[string]renewlive.Result {
		got := map[string]renewlive.Result{}
		r.Renew(t.Context(), steps, func(st plan.Step, result renewlive.Result, why string) {
			got[st.Object.Name] = result
			t.Logf("%s: %s %s", st.Object.Name, result, why)
		})
		return got
	}
	wrong, err := renewlive.New(s.as("renewer-late-5c2", renewlive.Rights()), func() time.Time { return time.Now().Add(time.Hour) })
	s.must(err)
	if got := run(wrong); got["same"] != renewlive.Later {
		t.Errorf("with a clock that is wrong by an hour: %v", got)
	}
	if got := run(r); got["same"] != renewlive.Triggered || got["changed"] != renewlive.Dropped || got["none"] != renewlive.Dropped {
		t.Errorf("got %v", got)
	}
	if got := run(r); got["same"] != renewlive.Dropped {
		t.Errorf("once more: %v", got)
	}
	s.await("it to be issued again", func() bool {
		r, ok := s.revisions(ns)
		return ok && r["same"] == 2 && r["changed"] == 1
	})

	// What a person says so of is issued anew once, whoever listens, and how often.
	say := func(name string, annotations map[string]string) {
		patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"annotations": annotations}})
		s.must(err)
		_, err = s.cluster.Dynamic.Resource(certificates).Namespace(ns).Patch(t.Context(), name, types.MergePatchType, patch, metav1.PatchOptions{})
		s.must(err)
	}
	word := renew.Say(time.Now(), "key compromised").String()
	say("same", map[string]string{renew.Annotation: word})
	say("changed", map[string]string{renew.Annotation: "now"})
	say("gone", map[string]string{renew.Annotation: word, inventory.IgnoreAnnotation: "true"})
	for range 2 {
		l, err := renewlive.NewListener(s.as(fmt.Sprintf("listener-5c2-%d", time.Now().UnixNano()), renewlive.Rights()), time.Now)
		s.must(err)
		told := make(chan string, 100)
		l.Tell = func(object inventory.Ref, _ string, _ renew.Word, result renewlive.Result, why string) {
			if object.Namespace == ns {
				t.Logf("%s: %s %s", object.Name, result, why)
				told <- object.Name + " " + string(result)
			}
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); l.Run(ctx) }()
		got := map[string]bool{}
		s.await("all words to be heard", func() bool {
			for len(told) > 0 {
				got[<-told] = true
			}
			r, ok := s.revisions(ns)
			return ok && r["same"] == 3 && got["changed dropped"] && got["gone dropped"]
		})
		cancel()
		<-done
	}
	if r, _ := s.revisions(ns); r["same"] != 3 || r["changed"] != 1 || r["gone"] != 1 {
		t.Errorf("issued: %v", r)
	}
}

// request makes a CertificateRequest; of is the Certificate that it is for, if any.
func (s *site) request(ns, name, of string) {
	s.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	s.must(err)
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{DNSNames: []string{name + ".example.test"}}, key)
	s.must(err)
	csr := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
	u := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "cert-manager.io/v1", "kind": "CertificateRequest", "metadata": map[string]any{"name": name, "namespace": ns},
		"spec": map[string]any{"request": base64.StdEncoding.EncodeToString(csr), "issuerRef": map[string]any{"name": "ca", "kind": "ClusterIssuer"}},
	}}
	if of != "" {
		crt, err := s.cluster.Dynamic.Resource(certificates).Namespace(ns).Get(s.Context(), of, metav1.GetOptions{})
		s.must(err)
		u.SetOwnerReferences([]metav1.OwnerReference{*metav1.NewControllerRef(crt, schema.GroupVersionKind{Group: "cert-manager.io", Version: "v1", Kind: "Certificate"})})
	}
	_, err = s.cluster.Dynamic.Resource(certificateRequests).Namespace(ns).Create(s.Context(), u, metav1.CreateOptions{})
	s.must(err)
}

// approved are the requests of a namespace that were approved, and by whom.
func (s *site) approved(ns string) map[string]string {
	s.Helper()
	list, err := s.cluster.Dynamic.Resource(certificateRequests).Namespace(ns).List(s.Context(), metav1.ListOptions{})
	s.must(err)
	out := map[string]string{}
	for i := range list.Items {
		conditions, _, _ := unstructured.NestedSlice(list.Items[i].Object, "status", "conditions")
		for _, c := range conditions {
			if m, _ := c.(map[string]any); m["type"] == "Approved" && m["status"] == "True" {
				out[list.Items[i].GetName()], _ = m["reason"].(string)
			}
		}
	}
	return out
}

const policyCRD = `{"apiVersion":"apiextensions.k8s.io/v1","kind":"CustomResourceDefinition","metadata":{"name":"certificaterequestpolicies.policy.cert-manager.io","annotations":{"api-approved.kubernetes.io":"unapproved"}},
"spec":{"group":"policy.cert-manager.io","scope":"Cluster","names":{"kind":"CertificateRequestPolicy","listKind":"CertificateRequestPolicyList","plural":"certificaterequestpolicies","singular":"certificaterequestpolicy"},
"versions":[{"name":"v1alpha1","served":true,"storage":true,"schema":{"openAPIV3Schema":{"type":"object","x-kubernetes-preserve-unknown-fields":true}}}]}}`

// TestRequestsAreApprovedInBatches: while cert-manager does not approve, certherd does
// with its own rights: what is urgent at once, the others together; and nothing where
// approver-policy is installed.
func TestRequestsAreApprovedInBatches(t *testing.T) {
	const home, ns = "approves-5c2", "approved-5c2"
	s := newSite(t, home)
	s.must(s.cluster.Namespaces(t.Context(), ns))
	s.serve(ns, "one", "two")
	s.await("all certificates to be issued", func() bool {
		r, ok := s.revisions(ns)
		return ok && len(r) == 2
	})
	// Its own approver is a part of the program. The webhook, which asks for the right to
	// approve, is another one.
	s.must(s.stack.Signal("cert-manager-controller", syscall.SIGSTOP))
	going := false
	goOn := func() {
		if !going {
			going = true
			s.must(s.stack.Signal("cert-manager-controller", syscall.SIGCONT))
		}
	}
	defer goOn()
	s.request(ns, "held-one", "one")
	s.request(ns, "held-two", "two")
	s.request(ns, "urgent", "")
	user := s.as("approver-5c2", renewlive.ApproverRights())
	run := func(p renew.Pacing) (end func() error) {
		a, err := renewlive.NewApprover(user, p)
		s.must(err)
		var mu sync.Mutex
		a.Tell = func(x renew.Approved, err error) {
			mu.Lock()
			defer mu.Unlock()
			t.Logf("%s: %s %v", x.Ref, x.Why, err)
			if err != nil {
				t.Error(err)
			}
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- a.Run(ctx) }()
		return func() error { cancel(); return <-ended }
	}
	end := run(renew.Pacing{Hold: time.Hour, Margin: 0.2})
	began := time.Now()
	s.await("the urgent request to be approved", func() bool { return s.approved(ns)["urgent"] == "certherd.dev" })
	t.Logf("an urgent request was approved after %s", time.Since(began).Round(time.Millisecond))
	s.request(ns, "urgent-too", "")
	s.await("another one", func() bool { return s.approved(ns)["urgent-too"] == "certherd.dev" })
	if got := s.approved(ns); got["held-one"] != "" || got["held-two"] != "" {
		t.Errorf("approved: %v", got)
	}
	s.must(end())
	end = run(renew.Pacing{Hold: time.Second, Margin: 0.2})
	s.await("the batch to be approved", func() bool {
		got := s.approved(ns)
		return got["held-one"] == "certherd.dev" && got["held-two"] == "certherd.dev"
	})
	s.must(end())
	goOn()
	s.await("an approved request to be signed", func() bool {
		u, err := s.cluster.Dynamic.Resource(certificateRequests).Namespace(ns).Get(t.Context(), "urgent", metav1.GetOptions{})
		s.must(err)
		text, _, _ := unstructured.NestedString(u.Object, "status", "certificate")
		return text != ""
	})

	crds := s.cluster.Dynamic.Resource(schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"})
	crd := &unstructured.Unstructured{}
	s.must(json.Unmarshal([]byte(policyCRD), &crd.Object))
	_, err := crds.Create(t.Context(), crd, metav1.CreateOptions{})
	s.must(err)
	checks, err := renewlive.NewApprover(user, renew.Pacing{Hold: time.Second, Margin: 0.2})
	s.must(err)
	s.await("approver-policy to be seen", func() bool { return errors.Is(checks.Check(), renewlive.ErrPolicies) })
	if err := checks.Run(t.Context()); !errors.Is(err, renewlive.ErrPolicies) {
		t.Errorf("with approver-policy: %v", err)
	}
	s.must(crds.Delete(t.Context(), crd.GetName(), metav1.DeleteOptions{}))
	s.await("approver-policy to be gone", func() bool { return checks.Check() == nil })
	if got := slices.Sorted(func(yield func(string) bool) {
		for n := range s.approved(ns) {
			if !yield(n) {
				return
			}
		}
	}); len(got) < 4 {
		t.Errorf("approved: %v", got)
	}
}

// TestRenewalWindowsAreTaken: a Certificate with the windows that wildcards are made
// with is Ready, and is to be renewed inside of one.
func TestRenewalWindowsAreTaken(t *testing.T) {
	const home, ns = "windows-5c2", "windowed-5c2"
	s := newSite(t, home)
	s.must(s.cluster.Namespaces(t.Context(), ns))
	if served, err := carrylive.RenewalWindowsServed(s.admin); err != nil || !served {
		t.Fatalf("spec.renewal.windows is served: %v %v", served, err)
	}
	s.serve(ns, "like")
	var like *unstructured.Unstructured
	s.await("a certificate to be issued", func() (ok bool) {
		_, ok = s.revisions(ns)
		u, err := s.cluster.Dynamic.Resource(certificates).Namespace(ns).Get(t.Context(), "like", metav1.GetOptions{})
		s.must(err)
		like = u
		_, due, _ := unstructured.NestedString(u.Object, "status", "renewalTime")
		return ok && due
	})
	c := config.Default()
	c.Batch.Windows = []config.Window{{Schedule: "0 2 * * tue", Duration: config.Duration(2 * time.Hour), TimeZone: "America/Denver"}}
	windows := c.RenewalWindows(time.Now()).Renewal(like)
	if windows == nil {
		t.Fatal("a weekly window is too seldom for 90 days")
	}
	u := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "cert-manager.io/v1", "kind": "Certificate", "metadata": map[string]any{"name": "windowed", "namespace": ns},
		"spec": map[string]any{"secretName": "windowed", "dnsNames": []any{"*." + ns + ".example.test"}, "issuerRef": map[string]any{"name": "ca", "kind": "ClusterIssuer"}, "renewal": windows},
	}}
	_, err := s.cluster.Dynamic.Resource(certificates).Namespace(ns).Create(t.Context(), u, metav1.CreateOptions{FieldValidation: "Strict"})
	s.must(err)
	var due time.Time
	s.await("it to be issued", func() bool {
		r, ok := s.revisions(ns)
		u, err := s.cluster.Dynamic.Resource(certificates).Namespace(ns).Get(t.Context(), "windowed", metav1.GetOptions{})
		s.must(err)
		text, _, _ := unstructured.NestedString(u.Object, "status", "renewalTime")
		due, err = time.Parse(time.RFC3339, text)
		return err == nil && ok && r["windowed"] == 1
	})
	denver, err := time.LoadLocation("America/Denver")
	s.must(err)
	if at := due.In(denver); at.Weekday() != time.Tuesday || at.Hour() < 2 || at.Hour() >= 4 {
		t.Errorf("it is to be renewed at %s", at)
	}
	c.Batch.Windows[0].Schedule = "0 2 1 * *"
	if got := c.RenewalWindows(time.Now()).Renewal(like); got != nil {
		t.Errorf("a monthly window is said to do for 90 days: %v", got)
	}
	s.drop(ns) // to a certherd of another test, it is garbage
}
