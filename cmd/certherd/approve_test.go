package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"sigs.k8s.io/yaml"

	"github.com/certherd/certherd/api/v1alpha1"
	"github.com/certherd/certherd/consolidate"
	"github.com/certherd/certherd/e2e/envoy"
	"github.com/certherd/certherd/plan"
	"github.com/certherd/certherd/proposal"
	"github.com/certherd/certherd/report"
	"github.com/certherd/certherd/service"
)

// certherd runs a subcommand as the stack's administrator.
func (s *site) certherd(args ...string) (out, failed string) {
	s.Helper()
	root := rootCommand("certherd")
	var stdout, stderr bytes.Buffer
	root.SetOut(&stdout)
	root.SetErr(&stderr)
	root.SetArgs(append(args, "--kubeconfig", s.stack.Kubeconfig))
	if err := root.ExecuteContext(s.Context()); err != nil {
		return stdout.String(), stderr.String() + err.Error()
	}
	return stdout.String() + stderr.String(), ""
}

// approves expects that an approval is given.
func (s *site) approves(args ...string) string {
	s.Helper()
	out, failed := s.certherd(append([]string{"approve"}, args...)...)
	if failed != "" {
		s.Fatalf("approve %q: %s", args, failed)
	}
	return out
}

// refuses expects that one is refused, and why.
func (s *site) refuses(why string, args ...string) string {
	s.Helper()
	out, failed := s.certherd(append([]string{"approve"}, args...)...)
	if !strings.Contains(failed, why) {
		s.Fatalf("approve %q: %q %q, want %q", args, out, failed, why)
	}
	return failed
}

// listed is what approve --list says.
func (s *site) listed() (x listing) {
	s.Helper()
	s.must(json.Unmarshal([]byte(s.approves("--list", "-o", "json")), &x))
	return x
}

// orphans makes Secrets that nobody needs.
func (s *site) orphans(names ...string) {
	s.Helper()
	for _, name := range names {
		x, err := orphan()
		s.must(err)
		x.Name = name
		_, err = s.client.CoreV1().Secrets("team-a").Create(s.Context(), x, metav1.CreateOptions{})
		s.must(err)
	}
}

func (s *site) retired(name string) bool {
	s.Helper()
	x, err := s.client.CoreV1().Secrets("team-a").Get(s.Context(), name, metav1.GetOptions{})
	s.must(err)
	return x.Annotations[plan.RetiredAt] != ""
}

// touch changes a Secret without any effect.
func (s *site) touch(name, value string) {
	s.Helper()
	_, err := s.client.CoreV1().Secrets("team-a").Patch(s.Context(), name, types.MergePatchType, fmt.Appendf(nil, `{"metadata":{"annotations":{"example.com/touched":%q}}}`, value), metav1.PatchOptions{})
	s.must(err)
}

// change is what the newest report says of the change about a Secret; nil if
// nothing.
func (r *process) change(name string) *report.Change {
	r.s.Helper()
	for _, c := range r.report().Changes {
		if c.Steps[0].Object.Name == name {
			return &c
		}
	}
	return nil
}

func (r *process) held(name, by string) bool {
	c := r.change(name)
	return c != nil && strings.Contains(c.Held, by)
}

// seldom is a schedule that no test meets.
const seldom = "schedule: '0 0 1 1 *', startingDeadline: 10s, minAge: 0s"

func (s *site) config(format string, a ...any) {
	s.Helper()
	text := fmt.Sprintf(format, a...)
	if !strings.Contains(text, "batch:") {
		text += "batch: {reloads: {updates: 600, gap: 0s}}\n"
	}
	s.configure(map[string]string{"config.yaml": text})
}

func TestApprove(t *testing.T) {
	s := newSite(t)
	s.config("maxShare: 100%%\nbreaker: {settle: 1s}\ngc: {mode: propose, %s}\n", seldom)
	a := s.start("a")
	s.await("a leads", a.Leads)

	// It proposes, and waits.
	s.await("left-over-tls waits", func() bool { return a.held("left-over-tls", "it waits for `certherd approve ") })
	s.await("it is in the cluster", func() bool { out, _ := s.certherd("approve", "--list"); return strings.Contains(out, "left-over-tls") })
	if n := a.Metric("certherd_changes_waiting"); n != 1 {
		t.Errorf("%v changes wait", n)
	}
	s.config("# Look again.\nmaxShare: 100%%\ngc: {mode: propose, %s}\n", seldom)
	a.rounds(1)
	if s.retired("left-over-tls") {
		t.Fatal("it was retired without an approval")
	}
	first := s.listed()
	if len(first.Waiting) != 1 || len(first.Approvals) != 0 || first.Stopped != "" || first.TooMuch != "" {
		t.Fatalf("it lists %+v", first)
	}
	id, digest := first.Waiting[0].ID, first.Waiting[0].Digest

	// Another state is refused: one that was never there, and one that is gone.
	s.refuses("there is no change", "0123456789")
	s.refuses("not in the state that you looked at", id+"@0123456789")
	s.refuses("what waits is not what you looked at", "--all=0123456789")
	s.touch("left-over-tls", "once")
	s.refuses("was changed after the report", id+"@"+digest[:10])
	s.refuses("was changed after the report", "--all")

	// By the leader, too, who looks again: an approval of the state before.
	old := service.OpenApprovals(s.client.CoreV1(), "certherd")
	s.must(old.Change(t.Context(), func(c *service.Consent) (bool, error) {
		c.Approvals = append(c.Approvals, service.Approval{ID: id, Digest: digest, By: "a test", Given: time.Now(), Until: time.Now().Add(time.Hour)})
		c.Say(service.Word{Time: time.Now(), What: service.SaidApprove, By: "a test", Changes: []string{id}})
		return true, nil
	}))
	s.await("the leader refuses it", func() bool { return a.held("left-over-tls", "what was approved is another state than this one") })
	if s.retired("left-over-tls") {
		t.Fatal("it was retired by an approval of another state")
	}
	s.await("the report in the cluster shows that", func() bool { x := s.listed().Waiting; return len(x) == 1 && x[0].Digest != digest })
	s.refuses("not in the state that you looked at", id+"@"+digest[:10])

	// The right one is acted on without waiting for the schedule.
	token := id + "@" + s.listed().Waiting[0].Digest[:10]
	if out := s.approves(token, "--reason", "CHG-4711"); !strings.Contains(out, "retire Secret/team-a/left-over-tls") {
		t.Errorf("it says %q", out)
	}
	s.await("left-over-tls is retired", func() bool { return s.retired("left-over-tls") })
	s.await("an Event on the Secret", func() bool { return s.event("team-a", "Retired", "Secret") })
	s.await("the approval is gone", func() bool { return len(s.listed().Approvals) == 0 })
	history, failed := s.certherd("history")
	if !strings.Contains(history, "approve by") || !strings.Contains(history, "CHG-4711") || !strings.Contains(history, "Secret/team-a/left-over-tls") {
		t.Errorf("the history is %s %s", history, failed)
	}

	// What is revoked does not happen: in a window that is closed, it waits.
	s.orphans("second-tls")
	s.config("gc: {mode: propose, %s, windows: [{schedule: '0 0 29 2 *', duration: 1m}]}\nmaxShare: 100%%\n", strings.Replace(seldom, "0 0 1 1 *", "0 0 29 2 *", 1))
	s.await("second-tls waits", func() bool { return a.held("second-tls", "it waits for") })
	s.await("second-tls is listed", func() bool { return len(s.listed().Waiting) == 1 })
	s.approves("--all")
	s.await("it waits for the window", func() bool { return a.held("second-tls", "outside of every window") })
	s.approves("--revoke", s.listed().Approvals[0].ID)
	s.await("it waits for a person again", func() bool { return a.held("second-tls", "it waits for") })
	s.refuses("there is no such approval", "--revoke", id)

	// maxShare stops a round that nobody has seen.
	s.orphans("third-tls", "fourth-tls")
	s.config("maxShare: 10%%\nbreaker: {settle: 1s}\ngc: {mode: enforce, %s, budget: {count: 50, share: 100%%}}\n", seldom)
	s.await("the round is stopped", func() bool {
		return a.held("second-tls", "needs a person") && a.held("third-tls", "needs a person") && a.held("fourth-tls", "needs a person")
	})
	s.await("it is listed", func() bool { return s.listed().TooMuch != "" })
	list := s.listed()
	if len(list.Waiting) != 3 || !strings.Contains(list.TooMuch, "3 of 4 certificates (75%)") {
		t.Fatalf("it lists %+v", list)
	}
	s.refuses("alone cannot be approved", list.Waiting[0].ID)
	s.refuses("to approve exactly these: certherd approve --all="+list.All, "--all")
	s.approves("--all=" + list.All)
	for _, name := range []string{"second-tls", "third-tls", "fourth-tls"} {
		s.await(name+" is retired", func() bool { return s.retired(name) })
	}
	s.await("the approvals are gone", func() bool { return len(s.listed().Approvals) == 0 })

	// Whoever approves writes nothing that looks like a use.
	if cm, err := s.client.CoreV1().ConfigMaps("certherd").Get(t.Context(), service.ApprovalsName, metav1.GetOptions{}); err != nil || strings.Contains(fmt.Sprint(cm.Data), "-tls") {
		t.Errorf("%v %v", cm, err)
	}
	s.wroteOnly("a", append(reporting, "selfsubjectaccessreviews", "configmaps/certherd/certherd-approvals", "configmaps/certherd/certherd-batch", "configmaps/certherd/certherd-journal-000001", "secrets/team-a/left-over-tls", "secrets/team-a/second-tls", "secrets/team-a/third-tls", "secrets/team-a/fourth-tls")...)

	s.breaker(a)
}

// breaker: what gateways say after a batch stops everything, over a change of the
// leader, until a person resumes. The Envoy is real; what stands before it makes it
// reject an update just when the first Secret has been retired.
func (s *site) breaker(a *process) {
	e := envoy.Start(s.T)
	var armed, unreadable atomic.Bool
	page := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if unreadable.Load() {
			http.Error(w, "no", http.StatusServiceUnavailable)
			return
		}
		if armed.Load() && (s.retired("fifth-tls") || s.retired("sixth-tls")) && armed.CompareAndSwap(true, false) {
			e.Reject(s.T)
		}
		x, err := http.Get(e.Page + "?" + r.URL.RawQuery)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		defer x.Body.Close()
		_, _ = io.Copy(w, x.Body)
	}))
	defer page.Close()
	unreadable.Store(true)
	s.orphans("fifth-tls", "sixth-tls")
	s.config("maxShare: 100%%\nbreaker: {pods: ['gateways/app=a-gateway:%s/stats/prometheus'], settle: 1s}\ngc: {mode: enforce, schedule: '@every 10s', minAge: 0s, budget: {count: 1, share: 100%%}}\n", s.gatewayPod(page.URL))
	either := func() bool { return s.retired("fifth-tls") || s.retired("sixth-tls") }
	both := func() bool { return s.retired("fifth-tls") && s.retired("sixth-tls") }

	// A gateway that cannot be read keeps anything from beginning.
	s.await("an Event on the gateway", func() bool { return s.event("certherd", "GatewayUnreadable", "ConfigMap") })
	a.rounds(1)
	if either() {
		s.Fatal("something was done that nobody could see the effect of")
	}
	armed.Store(true)
	unreadable.Store(false)
	s.await("a stops", func() bool { return a.Metric("certherd_stopped") == 1 })
	s.await("an Event says so", func() bool { return s.event("certherd", "Stopped", "ConfigMap") })
	s.await("the report says so", func() bool {
		return a.held("fifth-tls", "everything is stopped since") || a.held("sixth-tls", "everything is stopped since")
	})
	if stopped := s.listed().Stopped; !strings.Contains(stopped, "envoy_listener_manager_lds_update_rejected +1") {
		s.Errorf("it is stopped because %q", stopped)
	}

	// The next leader keeps to it.
	a.Kill()
	b := s.start("b")
	s.await("b leads", b.Leads)
	s.await("b knows", func() bool { return b.Metric("certherd_stopped") == 1 })
	b.rounds(2)
	if !either() || both() {
		s.Fatalf("it was not one that was retired: %v, %v", s.retired("fifth-tls"), s.retired("sixth-tls"))
	}
	e.Accept(s.T)
	s.approves("--resume", "--reason", "stale hosts")
	s.await("the other one is retired", both)
	s.await("b is not stopped", func() bool { return b.Metric("certherd_stopped") == 0 })
	s.refuses("nothing is stopped", "--resume")
	history, _ := s.certherd("history")
	for _, part := range []string{"stop by certherd a", "resume by", "stale hosts"} {
		if !strings.Contains(history, part) {
			s.Errorf("%q is not in the history:\n%s", part, history)
		}
	}
	s.ends(b)
}

// gatewayPod makes a Pod that looks as if it ran on this machine, and returns the
// port of a page.
func (s *site) gatewayPod(page string) (port string) {
	s.Helper()
	_, err := s.client.CoreV1().Namespaces().Create(s.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "gateways"}}, metav1.CreateOptions{})
	s.must(err)
	s.await("a ServiceAccount for Pods", func() bool {
		_, err := s.client.CoreV1().ServiceAccounts("gateways").Get(s.Context(), "default", metav1.GetOptions{})
		return err == nil
	})
	pod, err := s.client.CoreV1().Pods("gateways").Create(s.Context(), &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "a-gateway-1", Labels: map[string]string{"app": "a-gateway"}},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "envoy", Image: "envoy"}}, AutomountServiceAccountToken: new(bool)},
	}, metav1.CreateOptions{})
	s.must(err)
	address, err := url.Parse(page)
	s.must(err)
	pod.Status.Phase, pod.Status.PodIP, pod.Status.PodIPs = corev1.PodRunning, address.Hostname(), []corev1.PodIP{{IP: address.Hostname()}}
	_, err = s.client.CoreV1().Pods("gateways").UpdateStatus(s.Context(), pod, metav1.UpdateOptions{})
	s.must(err)
	return address.Port()
}

// ends: a leader that is told to end while it carries changes out ends soon, with
// what it has begun, and gives the lease up.
func (s *site) ends(b *process) {
	names := []string{"seventh-tls", "eighth-tls", "ninth-tls"}
	s.orphans(names...)
	// After the first Secret, the next one is half a minute away, which the metrics say.
	s.config("maxShare: 100%%\nbreaker: {settle: 0s}\ngc: {mode: enforce, schedule: '@every 10s', minAge: 0s, budget: {count: 50, share: 100%%}}\nbatch: {reloads: {updates: 1, period: 30s, gap: 0s}}\n")
	count := func() (n int) {
		for _, name := range names {
			if s.retired(name) {
				n++
			}
		}
		return n
	}
	s.await("the first is retired", func() bool { return count() > 0 })
	s.await("that is told at once", func() bool { return b.Metric(`certherd_actions_total{action="retire",result="done"}`) >= 2 })
	s.await("the others are held", func() bool {
		return b.Metric(`certherd_batch_held{action="retire"}`) > 0 && b.Metric("certherd_batch_next_timestamp_seconds") > float64(time.Now().Unix())
	})
	begin := time.Now()
	s.ended(b)
	if d := time.Since(begin); d > 20*time.Second {
		s.Errorf("the end took %s", d)
	}
	if len(b.Said("ended")) == 0 || len(b.Said("step")) == 0 {
		s.Error("it did not say how it ended")
	}
	lease, err := s.client.CoordinationV1().Leases("certherd").Get(s.Context(), "certherd", metav1.GetOptions{})
	s.must(err)
	if h := lease.Spec.HolderIdentity; h != nil && *h == "b" {
		s.Error("b has kept the lease")
	}
	if n := count(); n == len(names) {
		s.Errorf("%d were retired: it was not ended while it was at work", n)
	}
	// The Collector of b has told of what it did not get to, after it was told to end.
	if n := s.steps(b, "retire", "later"); n != len(names)-1 {
		s.Errorf("%d steps are left for later", n)
	}
}

// steps counts the steps of an action with a result in the log of a replica.
func (s *site) steps(r *process, action, result string) (n int) {
	for _, l := range r.Said("step") {
		if l.Text("action") == action && l.Text("result") == result {
			n++
		}
	}
	return n
}

// TestApproveConsolidation: the same command approves Consolidations, each in the
// state that was looked at.
func TestApproveConsolidation(t *testing.T) {
	s := newSite(t)
	cfg, err := s.stack.RESTConfig()
	s.must(err)
	crds := dynamic.NewForConfigOrDie(cfg).Resource(schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"})
	file, err := os.ReadFile("../../manifests/crd/consolidations.yaml")
	s.must(err)
	var crd unstructured.Unstructured
	s.must(yaml.Unmarshal(file, &crd.Object))
	_, err = crds.Create(t.Context(), &crd, metav1.CreateOptions{})
	s.must(err)
	p, err := proposal.New(cfg, proposal.Options{})
	s.must(err)
	s.await("the custom resource", func() bool { _, err := p.List(t.Context()); return err == nil })

	const name = "team-a/wildcard"
	// propose proposes one wildcard for hosts below example.test.
	propose := func(phase v1alpha1.Phase, hosts ...string) {
		t.Helper()
		c := &v1alpha1.Consolidation{ObjectMeta: metav1.ObjectMeta{Namespace: "team-a", Name: "wildcard"}}
		c.Spec.Proposal = v1alpha1.Proposal{
			Wildcards: []string{"*.example.test"}, SecretName: "wildcard", IssuerRef: v1alpha1.IssuerRef{Group: "cert-manager.io", Kind: "ClusterIssuer", Name: "ca"},
			Source: v1alpha1.Source{Kind: v1alpha1.SourceCertificate, Name: "wildcard", Template: hosts[0]},
		}
		for _, h := range hosts {
			c.Spec.Hosts = append(c.Spec.Hosts, h+".example.test")
			c.Spec.Members = append(c.Spec.Members, v1alpha1.Member{Kind: v1alpha1.SourceCertificate, Name: h, UID: "uid-" + h, SecretName: h, Hosts: []string{h + ".example.test"}, Consumers: []v1alpha1.Consumer{{Kind: v1alpha1.ConsumerIngress, Name: h, UID: "uid-of-" + h}}})
		}
		c.Status.Phase = phase
		if phase == v1alpha1.Held {
			c.Status.Blockers = []string{"the issuer is not Ready"}
		}
		out, err := p.Sync(t.Context(), []consolidate.Proposal{{Consolidation: c}}, nil)
		s.must(err)
		for _, o := range out {
			s.must(o.Err)
		}
	}
	get := func() *v1alpha1.Consolidation {
		t.Helper()
		c, err := p.Get(t.Context(), "team-a", "wildcard")
		s.must(err)
		return c
	}
	propose(v1alpha1.Proposed, "a", "b")
	s.start("a") // for a report in the cluster
	s.await("it is listed", func() bool {
		out, _ := s.certherd("approve", "--list")
		return strings.Contains(out, name+"@") && strings.Contains(out, "*.example.test")
	})
	old := s.listed().Consolidations
	if len(old) != 1 || old[0].Hosts != 2 || old[0].Certificates != 2 {
		t.Fatalf("it lists %+v", old)
	}
	var offered bytes.Buffer
	root := rootCommand("certherd")
	root.SetOut(&offered)
	root.SetErr(io.Discard)
	root.SetArgs([]string{"__complete", "approve", "--kubeconfig", s.stack.Kubeconfig, ""})
	if s.must(root.ExecuteContext(t.Context())); !strings.Contains(offered.String(), old[0].Token) {
		t.Errorf("it offers %q", &offered)
	}

	// What is refused approves nothing of the same call.
	s.refuses("there is no Consolidation nothing", "team-a/nothing", name)
	s.refuses("not in the state that you looked at", name+"@0123456789")
	s.refuses("not in the state that you looked at", name+"@") // the empty digest is the beginning of any
	s.refuses("there is no change", "0123456789", name)
	propose(v1alpha1.Proposed, "a", "b", "c")
	s.refuses("not in the state that you looked at", old[0].Token)
	if get().Spec.ApprovedDigest != "" {
		t.Fatal("it was approved")
	}

	s.approves("consolidation/"+s.listed().Consolidations[0].Token, "--reason", "CHG-4711")
	s.await("it is in the journal", func() bool {
		out, failed := s.certherd("history", "consolidation/"+name)
		return failed == "" && strings.Contains(out, "approve by ") && strings.Contains(out, "("+name+"@") && strings.Contains(out, "; CHG-4711")
	})
	if c := get(); !c.Spec.Approved() {
		t.Errorf("it is not approved: %+v", c.Spec)
	}
	if x := s.listed(); len(x.Consolidations) != 0 || x.Unread != "" {
		t.Errorf("it lists %+v, %s", x.Consolidations, x.Unread)
	}
	// No, and yes after all, while something stops it.
	if _, failed := s.certherd("reject", name, "--reason", "too much on one key"); failed != "" || get().Spec.Approved() {
		t.Errorf("it was not rejected: %s", failed)
	}
	s.await("the rejection is in the journal", func() bool {
		out, _ := s.certherd("history", "consolidation/"+name)
		return strings.Contains(out, "approve by ") && strings.Contains(out, "reject by ") && strings.Contains(out, "; too much on one key")
	})
	propose(v1alpha1.Held, "a", "b", "c")
	s.approves(name)
	propose(v1alpha1.Held, "a", "b", "c")
	if out := s.approves(name); !get().Spec.Approved() || !strings.Contains(out, "the issuer is not Ready") {
		t.Errorf("it says %q", out)
	}
	propose(v1alpha1.Proposed, "a", "b", "c")
	if c := get(); c.Status.Phase != v1alpha1.Approved {
		t.Errorf("it is %s", c.Status.Phase)
	}
}

// TestApprovable: what is under way, over, gone or changed is not approved.
func TestApprovable(t *testing.T) {
	for phase, why := range map[v1alpha1.Phase]string{
		v1alpha1.Proposed: "", v1alpha1.Waiting: "", v1alpha1.Held: "", v1alpha1.Rejected: "", v1alpha1.Approved: "",
		v1alpha1.Switching: "carried out already", v1alpha1.RollingBack: "carried out already",
		v1alpha1.Done: "is over", v1alpha1.RolledBack: "reject --forget", v1alpha1.Withdrawn: "not proposed",
	} {
		c := &v1alpha1.Consolidation{}
		c.Status.Phase, c.Status.Digest = phase, c.Spec.Digest()
		if err := proposal.Approvable(c, "", false); why == "" && err != nil || why != "" && (err == nil || !strings.Contains(err.Error(), why)) {
			t.Errorf("%s: %v, want %q", phase, err, why)
		}
		c.Spec.Hosts = []string{"changed.example.test"}
		if proposal.Approvable(c, "", false) == nil {
			t.Errorf("%s: it is approved unseen", phase)
		}
	}
}

func TestApproveIsExplained(t *testing.T) {
	for _, tc := range []struct {
		args []string
		why  string
	}{
		{nil, "name the changes"},
		{[]string{"--all", "x"}, "name changes, or use --all"},
		{[]string{"--list", "x"}, "name no changes"},
		{[]string{"--list", "--resume"}, "use one of"},
		{[]string{"-o", "json", "x"}, "goes with --list"},
		{[]string{"--list", "-o", "xml"}, "no format"},
		{[]string{"--valid-for", "-1h", "x"}, "longer than nothing"},
		{[]string{"--valid-for", "1h", "x", "a/b"}, "is for changes"},
		{[]string{"--revoke", "a/b"}, "reject --forget"},
		{[]string{"--server", "http://127.0.0.1:1", "a/"}, "NAMESPACE/NAME"},
		{[]string{"--server", "http://127.0.0.1:1", "secret/a/b"}, "NAMESPACE/NAME"},
	} {
		root := rootCommand("certherd")
		root.SetArgs(append([]string{"approve"}, tc.args...))
		root.SetOut(io.Discard)
		root.SetErr(io.Discard)
		if err := root.ExecuteContext(t.Context()); err == nil || !strings.Contains(err.Error(), tc.why) {
			t.Errorf("approve %q: %v, want %q", tc.args, err, tc.why)
		}
	}
}
