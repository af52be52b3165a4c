package proposal

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/yaml"

	"github.com/certherd/certherd/api/v1alpha1"
	"github.com/certherd/certherd/consolidate"
	"github.com/certherd/certherd/e2e/stack"
	"github.com/certherd/certherd/inventory"
	"github.com/certherd/certherd/inventory/live"
)

// cluster is a control plane with the custom resource.
type cluster struct {
	cfg     *rest.Config
	core    *kubernetes.Clientset
	objects dynamic.Interface
	err     error // why there is none
}

var shared cluster

func TestMain(m *testing.M) {
	flag.Parse()
	if testing.Short() {
		os.Exit(m.Run())
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	s, err := stack.Start(ctx, stack.Options{Level: stack.ControlPlane, Out: os.Stderr})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	shared.err = shared.connect(ctx, s)
	code := m.Run()
	s.Stop()
	os.Exit(code)
}

func (c *cluster) connect(ctx context.Context, s *stack.Stack) (err error) {
	if c.cfg, err = s.RESTConfig(); err != nil {
		return err
	}
	c.cfg.QPS, c.cfg.WarningHandler = -1, rest.NoWarnings{}
	if c.core, err = kubernetes.NewForConfig(c.cfg); err != nil {
		return err
	}
	if c.objects, err = dynamic.NewForConfig(c.cfg); err != nil {
		return err
	}
	p, err := New(c.cfg, Options{})
	if err != nil {
		return err
	}
	if _, err := p.Sync(ctx, nil, nil); !errors.Is(err, ErrNotInstalled) {
		return fmt.Errorf("without the custom resource: %w", err)
	}
	return c.install(ctx)
}

// install applies the CRD as strictly as the API server can.
func (c *cluster) install(ctx context.Context) error {
	b, err := os.ReadFile("../manifests/crd/consolidations.yaml")
	if err != nil {
		return err
	}
	js, err := yaml.YAMLToJSONStrict(b)
	if err != nil {
		return err
	}
	crds := c.objects.Resource(schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"})
	force := true
	if _, err := crds.Patch(ctx, "consolidations.certherd.dev", "application/apply-patch+yaml", js, metav1.PatchOptions{FieldManager: "test", Force: &force, FieldValidation: metav1.FieldValidationStrict}); err != nil {
		return err
	}
	for {
		o, err := crds.Get(ctx, "consolidations.certherd.dev", metav1.GetOptions{})
		if err != nil {
			return err
		}
		conditions, _, _ := unstructured.NestedSlice(o.Object, "status", "conditions")
		for _, x := range conditions {
			switch m := x.(map[string]any); {
			case m["type"] == "Established" && m["status"] == "True":
				return nil
			case m["type"] == "NonStructuralSchema" && m["status"] == "True":
				return fmt.Errorf("%v", m["message"])
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// world is a namespace of its own, with what is proposed for it.
type world struct {
	*testing.T
	*cluster
	ns      string
	p       *Proposer
	now     time.Time
	approve func(*consolidate.Proposal) string
}

func newWorld(t *testing.T) *world {
	t.Helper()
	if testing.Short() {
		t.Skip("starts a control plane")
	}
	if shared.err != nil {
		t.Fatal(shared.err)
	}
	w := &world{T: t, cluster: &shared, ns: strings.ToLower(strings.NewReplacer("/", "-", "_", "-").Replace(t.Name())), now: time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)}
	if _, err := w.core.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: w.ns}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	var err error
	if w.p, err = New(w.cfg, Options{Keep: time.Hour, Now: func() time.Time { return w.now }}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		// Of other tests' proposals each Sync would say that they are withdrawn.
		if err := w.objects.Resource(v1alpha1.GroupVersionResource).Namespace(w.ns).DeleteCollection(context.Background(), metav1.DeleteOptions{}, metav1.ListOptions{}); err != nil {
			t.Error(err)
		}
	})
	return w
}

// proposals are those for Ingresses of these names, each with a certificate.
func (w *world) proposals(names ...string) []consolidate.Proposal {
	var o inventory.Objects
	var edges []inventory.Edge
	record := func(group, kind, name string) inventory.Meta {
		ref := inventory.Ref{Group: group, Kind: kind, Namespace: w.ns, Name: name}
		return inventory.Meta{Ref: ref, Version: inventory.Version{UID: "uid-" + name}}
	}
	ca := record(inventory.GroupCertManager, "ClusterIssuer", "ca")
	ca.Ref.Namespace = ""
	o.Issuers = []inventory.Issuer{{Meta: ca, Type: inventory.CA, Ready: true}}
	for _, n := range names {
		c := inventory.Certificate{Meta: record(inventory.GroupCertManager, "Certificate", n+"-tls"), Secret: inventory.SecretRef(w.ns, n+"-tls"), Names: inventory.NewNames("", []string{n + ".example.test"}, nil, nil, nil), Issuer: inventory.IssuerRef(ca.Ref), Ready: true}
		s := inventory.Secret{Meta: record("", "Secret", n+"-tls"), Managed: true, Names: c.Names}
		i := inventory.Consumer{Meta: record(inventory.GroupNetworking, "Ingress", n), TLS: []inventory.TLS{{Hosts: c.Names.DNS, Secret: c.Secret}}}
		o.Certificates, o.Secrets, o.Consumers = append(o.Certificates, c), append(o.Secrets, s), append(o.Consumers, i)
		edges = append(edges, inventory.Edge{From: i.Ref, To: c.Secret, Field: "spec.tls[].secretName", Via: inventory.Field})
	}
	return consolidate.Proposals(inventory.New(w.now, o, edges, nil), consolidate.Options{MinCertificates: 2, MaxHosts: 500})
}

// sync syncs, and says what became of it.
func (w *world) sync(proposals []consolidate.Proposal) string {
	w.Helper()
	out, err := w.p.Sync(w.Context(), proposals, w.approve)
	if err != nil {
		w.Fatal(err)
	}
	var said []string
	for _, o := range out {
		if o.Err != nil {
			w.Fatal(o.Err)
		}
		said = append(said, o.What+" "+string(o.Phase))
	}
	return strings.Join(said, ", ")
}

func (w *world) get() *v1alpha1.Consolidation {
	w.Helper()
	all, err := w.p.List(w.Context())
	if err != nil {
		w.Fatal(err)
	}
	all = slices.DeleteFunc(all, func(c *v1alpha1.Consolidation) bool { return c.Namespace != w.ns })
	if len(all) != 1 {
		w.Fatalf("%d consolidations", len(all))
	}
	return all[0]
}

func (w *world) must(c *v1alpha1.Consolidation, err error) *v1alpha1.Consolidation {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
	return c
}

// executor writes what an executor would.
func (w *world) executor(phase v1alpha1.Phase) {
	w.Helper()
	c := w.get()
	c.Status.Phase = phase
	if c.Status.Execution == nil {
		c.Status.Execution = &v1alpha1.Execution{Digest: c.Status.Digest, Started: metav1.NewTime(w.now)}
	}
	u, err := c.ToUnstructured()
	if err != nil {
		w.Fatal(err)
	}
	if _, err := w.objects.Resource(v1alpha1.GroupVersionResource).Namespace(w.ns).UpdateStatus(w.Context(), u, metav1.UpdateOptions{FieldManager: v1alpha1.ExecutionManager}); err != nil {
		w.Fatal(err)
	}
}

func (w *world) approvedBecause() string {
	w.Helper()
	x := meta.FindStatusCondition(w.get().Status.Conditions, v1alpha1.ConditionApproved)
	if x == nil {
		return ""
	}
	return string(x.Status) + " " + x.Reason
}

func (w *world) want(what, got, want string) {
	w.Helper()
	if got != want {
		w.Errorf("%s: %q, want %q", what, got, want)
	}
}

var alice = Author{By: "alice", Reason: "looked at it"}

// TestDecisionOf: who has decided what, also with other tools than certherd's.
func TestDecisionOf(t *testing.T) {
	w := newWorld(t)
	decision := func() string {
		t.Helper()
		d, ok := DecisionOf(w.get())
		if !ok {
			return "nothing"
		}
		if d.Time.IsZero() {
			t.Errorf("%s at no time", d.What)
		}
		if d.What == DecidedApprove && d.Digest != w.get().Spec.ApprovedDigest {
			t.Errorf("approved %s", d.Digest)
		}
		return d.What + " by " + d.By + ": " + d.Reason
	}
	two := w.proposals("a", "b")
	w.sync(two)
	w.want("nobody", decision(), "nothing")
	w.must(w.p.Approve(t.Context(), w.get(), alice))
	w.want("approved", decision(), "approve by alice: looked at it")
	w.sync(two)
	w.want("kept by the next round", decision(), "approve by alice: looked at it")
	w.must(w.p.Reject(t.Context(), w.get(), Author{By: "bob"}))
	w.want("rejected", decision(), "reject by bob: ")
	w.must(w.p.Forget(t.Context(), w.get(), alice))
	w.want("taken back", decision(), "forget by alice: looked at it")
	with := func(tool, merge string) {
		t.Helper()
		c := w.get()
		_, err := w.objects.Resource(v1alpha1.GroupVersionResource).Namespace(c.Namespace).Patch(t.Context(), c.Name, types.MergePatchType, []byte(merge), metav1.PatchOptions{FieldManager: tool})
		w.must(c, err)
	}
	w.sync(two)
	with("kubectl-patch", `{"spec":{"approvedDigest":"`+w.get().Status.Digest+`"}}`)
	w.want("approved with kubectl", decision(), "approve by somebody with kubectl-patch: ")
	with("kubectl-edit", `{"spec":{"undo":true}}`)
	w.want("undone with kubectl", decision(), "undo by somebody with kubectl-edit: ")
	w.must(w.p.Forget(t.Context(), w.get(), alice))
	with("kubectl-edit", `{"spec":{"rejected":true}}`)
	w.want("rejected with kubectl", decision(), "reject by somebody with kubectl-edit: ")
	w.must(w.p.Forget(t.Context(), w.get(), alice))
	w.approve = func(*consolidate.Proposal) string { return "nothing stops it" }
	w.sync(two)
	w.want("enforced", decision(), "approve by certherd: nothing stops it")
}

// TestApproval: an approval is for one proposal, in one state of the world.
func TestApproval(t *testing.T) {
	w := newWorld(t)
	two, three := w.proposals("a", "b"), w.proposals("a", "b", "c")
	w.want("first", w.sync(two), "created Proposed")
	w.want("why", w.approvedBecause(), "False NotYet")
	before := w.get()
	w.want("again", w.sync(w.proposals("a", "b")), "")
	if after := w.get(); after.ResourceVersion != before.ResourceVersion {
		t.Error("written without need")
	}
	if Undecided(w.get()) {
		t.Error("something is undecided")
	}
	w.must(w.p.Approve(t.Context(), w.get(), alice))
	if !Undecided(w.get()) {
		t.Error("nothing is undecided")
	}
	w.want("approved", w.sync(two), "changed Approved")
	w.want("why", w.approvedBecause(), "True Approved")

	w.want("the world has changed", w.sync(three), "changed Proposed")
	w.want("why", w.approvedBecause(), "False ChangedSince")
	if c := w.get(); c.Spec.ApprovedDigest == c.Status.Digest || c.Spec.Approved() || len(c.Spec.Members) != 3 {
		t.Errorf("%+v", c.Spec)
	}
	w.want("nothing left", w.sync(nil), "withdrawn Withdrawn")
	w.want("again", w.sync(nil), "")
	// What was approved is there again, in just that state.
	w.want("as it was", w.sync(two), "changed Approved")
	w.want("gone again", w.sync(nil), "withdrawn Withdrawn")
	w.now = w.now.Add(2 * time.Hour)
	w.want("kept for long enough", w.sync(nil), "deleted Withdrawn")
}

// TestRejection: what was rejected stays so, whatever changes.
func TestRejection(t *testing.T) {
	w := newWorld(t)
	w.sync(w.proposals("a", "b"))
	w.must(w.p.Approve(t.Context(), w.get(), alice))
	w.must(w.p.Reject(t.Context(), w.get(), alice))
	w.want("rejected", w.sync(w.proposals("a", "b")), "changed Rejected")
	w.want("and changed", w.sync(w.proposals("a", "b", "c")), "changed Rejected")
	w.want("why", w.approvedBecause(), "False Rejected")
	w.must(w.p.Forget(t.Context(), w.get(), alice))
	w.want("taken back", w.sync(w.proposals("a", "b", "c")), "changed Proposed")
}

// TestEnforcing: in mode enforce certherd approves what nothing stops.
func TestEnforcing(t *testing.T) {
	w := newWorld(t)
	w.approve = func(x *consolidate.Proposal) string { return "mode enforce, change " + x.Change.ID }
	held := w.proposals("a", "b")
	held[0].Consolidation.Status.Phase, held[0].Consolidation.Status.Blockers = v1alpha1.Held, []string{"something"}
	w.want("held", w.sync(held), "created Held")
	w.want("message", w.get().Status.Message, "something")
	w.want("free", w.sync(w.proposals("a", "b")), "changed Approved")
	w.want("changed", w.sync(w.proposals("a", "b", "c")), "changed Approved")
	if c := w.get(); !c.Spec.Approved() {
		t.Error("not approved")
	}
}

// TestExecutionIsLeftAlone: what is carried out changes in no way before it is
// over, and then only as the next attempt.
func TestExecutionIsLeftAlone(t *testing.T) {
	w := newWorld(t)
	two, three := w.proposals("a", "b"), w.proposals("a", "b", "c")
	w.sync(two)
	w.must(w.p.Approve(t.Context(), w.get(), alice))
	w.sync(two)
	for _, phase := range []v1alpha1.Phase{v1alpha1.Issuing, v1alpha1.Verifying, v1alpha1.Switching, v1alpha1.Soaking, v1alpha1.Sweeping, v1alpha1.RollingBack, v1alpha1.RolledBack} {
		w.executor(phase)
		before := w.get()
		w.want(string(phase)+", changed", w.sync(w.proposals("a", "b", "c")), "")
		w.want(string(phase)+", not proposed any more", w.sync(nil), "")
		if after := w.get(); after.ResourceVersion != before.ResourceVersion {
			t.Errorf("%s: written", phase)
		}
	}
	w.must(w.p.Forget(t.Context(), w.get(), alice))
	w.want("another attempt", w.sync(three), "changed Proposed")
	c := w.get()
	if c.Spec.Revision != 2 || c.Status.Execution == nil {
		t.Errorf("revision %d, execution %v", c.Spec.Revision, c.Status.Execution)
	}
	w.must(w.p.Approve(t.Context(), c, alice))
	w.sync(three)
	w.executor(v1alpha1.Issuing)
	w.executor(v1alpha1.Done)
	w.want("done, and nothing more", w.sync(nil), "")
	// The approval of what was done is none of what comes next, be it the same.
	w.want("done, and again the same", w.sync(three), "changed Proposed")
	w.want("why", w.approvedBecause(), "False ChangedSince")
}

// TestLateWriteLoses: what somebody has written since the object was read is not
// overwritten.
func TestLateWriteLoses(t *testing.T) {
	w := newWorld(t)
	two := w.proposals("a", "b")
	w.sync(two)
	w.must(w.p.Approve(t.Context(), w.get(), alice))
	stale := w.get()
	w.sync(two)
	w.executor(v1alpha1.Issuing)
	want := *two[0].Consolidation
	want.Spec.Revision = 1
	if _, _, err := w.p.applyStatus(t.Context(), &want, stale); !apierrors.IsConflict(err) {
		t.Error("a late status:", err)
	}
	if _, err := w.p.Reject(t.Context(), stale, alice); !apierrors.IsConflict(err) {
		t.Error("a late rejection:", err)
	}
	w.want("phase", string(w.get().Status.Phase), string(v1alpha1.Issuing))
}

// TestRulesOfTheResource: what the API server does not take.
func TestRulesOfTheResource(t *testing.T) {
	w := newWorld(t)
	w.sync(w.proposals("a", "b"))
	c := w.get()
	objects := w.objects.Resource(v1alpha1.GroupVersionResource).Namespace(w.ns)
	patch := func(spec string) error {
		_, err := objects.Patch(t.Context(), c.Name, "application/merge-patch+json", []byte(`{"spec":`+spec+`}`), metav1.PatchOptions{FieldValidation: metav1.FieldValidationStrict})
		return err
	}
	refused := func(spec, because string) {
		t.Helper()
		if err := patch(spec); err == nil || !strings.Contains(err.Error(), because) {
			t.Errorf("%s: %v, want %q", spec, err, because)
		}
	}
	other := strings.Repeat("0", 64)
	for spec, because := range map[string]string{
		`{"approvedDigest":"` + other + `"}`: "approvedDigest must be status.digest",
		`{"approvedDigest":"yes"}`:           "spec.approvedDigest",
		`{"wildcards":["*.test"]}`:           "spec.wildcards",
		`{"wildcards":["*.*.test.example"]}`: "spec.wildcards",
		`{"wildcards":["*.b\u00fc.test"]}`:   "spec.wildcards",
		`{"wildcards":[]}`:                   "spec.wildcards",
		`{"members":[]}`:                     "spec.members",
		`{"revision":0}`:                     "spec.revision",
		`{"secretName":""}`:                  "spec.secretName",
		`{"source":{"wildcardDomain":"x"}}`:  "only a KCertificate has a wildcardDomain",
		`{"approved":true}`:                  "unknown field",
	} {
		refused(spec, because)
	}
	execute := func(phase string) error {
		_, err := objects.Patch(t.Context(), c.Name, "application/merge-patch+json", []byte(`{"status":{"phase":"`+phase+`"}}`), metav1.PatchOptions{}, "status")
		return err
	}
	if err := execute("Issuing"); err == nil || !strings.Contains(err.Error(), "nobody has approved") {
		t.Error("carried out unapproved:", err)
	}
	if err := execute("Sleeping"); err == nil || !strings.Contains(err.Error(), "status.phase") {
		t.Error("a phase that is none:", err)
	}
	if err := patch(`{"approvedDigest":"` + c.Status.Digest + `"}`); err != nil {
		t.Error("kubectl cannot approve:", err)
	}
	for _, phase := range []string{"Issuing", "Verifying", "Switching", "Soaking", "Sweeping", "RollingBack"} {
		if err := execute(phase); err != nil {
			t.Fatal(err)
		}
		for _, spec := range []string{`{"secretName":"other"}`, `{"wildcards":["*.other.test"]}`, `{"revision":2}`, `{"hosts":["x.example.test"]}`, `{"manual":"x"}`, `{"issuerRef":{"name":"other"}}`, `{"source":{"name":"other"}}`} {
			refused(spec, "cannot be changed while it is carried out")
		}
	}
	if err := patch(`{"undo":true}`); err != nil {
		t.Error("kubectl cannot undo:", err)
	}
	if err := execute("Sweeping"); err != nil {
		t.Fatal(err)
	}
	refused(`{"approvedDigest":null}`, "set spec.undo and leave approvedDigest")
	if err := execute("RolledBack"); err != nil {
		t.Fatal(err)
	}
	if err := patch(`{"approvedDigest":null,"undo":null,"secretName":"other"}`); err != nil {
		t.Error("afterwards:", err)
	}
}

// TestLargest: what maxHosts allows by default fits, and the API server's budget for
// its rules holds.
func TestLargest(t *testing.T) {
	w := newWorld(t)
	var names []string
	for i := range 500 {
		names = append(names, fmt.Sprintf("service-with-quite-a-long-name-%03d", i))
	}
	p := w.proposals(names...)
	w.want("first", w.sync(p), "created Proposed")
	w.must(w.p.Approve(t.Context(), w.get(), alice))
	w.want("approved", w.sync(p), "changed Approved")
	w.executor(v1alpha1.Issuing)
	w.executor(v1alpha1.Switching)
}

// TestKubectlGet: what `kubectl get consolidations` prints, which the API server
// decides.
func TestKubectlGet(t *testing.T) {
	w := newWorld(t)
	w.sync(w.proposals("a", "b", "c"))
	raw, err := w.core.RESTClient().Get().AbsPath("/apis/certherd.dev/v1alpha1/namespaces", w.ns, "consolidations").
		SetHeader("Accept", "application/json;as=Table;v=v1;g=meta.k8s.io").DoRaw(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var table metav1.Table
	if err := json.Unmarshal(raw, &table); err != nil {
		t.Fatal(err)
	}
	var narrow, wide []string
	for i, c := range table.ColumnDefinitions {
		cell := fmt.Sprintf("%s=%v", c.Name, table.Rows[0].Cells[i])
		switch {
		case c.Name == "Age":
		case c.Priority == 0:
			narrow = append(narrow, cell)
		default:
			wide = append(wide, cell)
		}
	}
	c := w.get()
	w.want("columns", strings.Join(narrow, " "), "Name="+c.Name+" Wildcards=*.example.test Hosts=3 Certs=3 MiB=<nil> Phase=Proposed Message=waits for approval")
	w.want("with -o wide", strings.Join(wide, " "), "Issuer=ca Orders=12 Until=<nil> Digest="+c.Status.Digest)

	resources, err := w.core.Discovery().ServerResourcesForGroupVersion("certherd.dev/v1alpha1")
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(resources.APIResources, func(r metav1.APIResource) bool { return r.Name == "consolidations" })
	if r := resources.APIResources[i]; !slices.Equal(r.ShortNames, []string{"cons"}) || !r.Namespaced || r.Kind != v1alpha1.Kind {
		t.Errorf("%+v", r)
	}
}

// TestProposalIsNoUse: a look at a cluster with proposals calls unused what
// only these name.
func TestProposalIsNoUse(t *testing.T) {
	w := newWorld(t)
	for _, name := range []string{"a-tls", "b-tls"} {
		s := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: w.ns, Name: name}, Type: corev1.SecretTypeTLS, Data: map[string][]byte{"tls.crt": {}, "tls.key": {}}}
		if _, err := w.core.CoreV1().Secrets(w.ns).Create(t.Context(), s, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	look := func() inventory.Judgement {
		s, _, err := live.Look(t.Context(), w.cfg, live.Options{Proof: true})
		if err != nil {
			t.Fatal(err)
		}
		return s.Judge(inventory.SecretRef(w.ns, "a-tls"))
	}
	w.sync(w.proposals("a", "b"))
	if j := look(); j.Verdict != inventory.Unused {
		t.Errorf("proposed: %+v", j)
	}
	w.must(w.p.Approve(t.Context(), w.get(), alice))
	w.sync(w.proposals("a", "b"))
	w.executor(v1alpha1.Soaking)
	if j := look(); j.Verdict != inventory.Used {
		t.Errorf("soaking: %+v", j)
	}
	w.executor(v1alpha1.Sweeping)
	if j := look(); j.Verdict != inventory.Unused {
		t.Errorf("sweeping: %+v", j)
	}
}
