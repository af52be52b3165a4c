package service_test

import (
	"fmt"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/certherd/certherd/e2e/stack"
	"github.com/certherd/certherd/inventory"
	"github.com/certherd/certherd/plan"
	renewlive "github.com/certherd/certherd/renew/live"
)

// TestStrictPacing: where cert-manager runs without its approver, the leader approves:
// first certificates at once, renewals together, and one batch no sooner after another
// than the budget of the gateways says. Without a leader nothing is approved.
func TestStrictPacing(t *testing.T) {
	w := own(t, stack.Options{Level: stack.Full, ExtraCertManagerArgs: []string{"--controllers=*,-certificaterequests-approver"}})
	const (
		home, ns = "strict-certherd", "strict"
		period   = 15 * time.Second
	)
	s := w.site(t, home)
	s.must(s.cluster.Namespaces(t.Context(), ns))
	s.serve(ns, "a", "b", "c", "d")
	s.await("requests that nobody approves", func() bool {
		list, err := s.cluster.Dynamic.Resource(certificateRequests).Namespace(ns).List(t.Context(), metav1.ListOptions{})
		return err == nil && len(list.Items) == 4
	})
	if got := s.approved(ns); len(got) > 0 {
		t.Fatalf("somebody else approves: %v", got)
	}
	s.configure(fmt.Sprintf("batch:\n  reloads: {updates: 1, period: %s, gap: 0s, largest: 100}\n  requests: {approve: true, hold: 2s}\n", period))
	s.args = patient
	a := s.start("strict-0", "")
	issued := func(names ...string) func() bool {
		return func() bool {
			revisions, ok := s.revisions(ns)
			for _, name := range names {
				ok = ok && revisions[name] > 0
			}
			return ok
		}
	}
	s.await("the first certificates", issued("a", "b", "c", "d"))

	renewer, err := renewlive.New(s.admin, time.Now)
	s.must(err)
	trigger := func(names ...string) {
		t.Helper()
		var steps []plan.Step
		for _, name := range names {
			u, err := s.cluster.Dynamic.Resource(certificates).Namespace(ns).Get(t.Context(), name, metav1.GetOptions{})
			s.must(err)
			steps = append(steps, plan.Step{Action: plan.Renew, Object: inventory.CertificateRef(ns, name), If: inventory.Version{UID: string(u.GetUID()), ResourceVersion: u.GetResourceVersion()}})
		}
		renewer.Renew(t.Context(), steps, func(st plan.Step, result renewlive.Result, why string) {
			if result != renewlive.Triggered {
				t.Errorf("%s: %s %s", st.Object.Name, result, why)
			}
		})
	}
	renewed := func(names ...string) func() bool {
		return func() bool {
			revisions, _ := s.revisions(ns)
			for _, name := range names {
				if revisions[name] != 2 {
					return false
				}
			}
			return true
		}
	}
	trigger("a", "b")
	s.await("the first batch", renewed("a", "b"))
	trigger("c", "d")
	s.serve(ns, "new")
	s.await("a first certificate in the midst of it", issued("new"))
	s.await("the second batch", renewed("c", "d"))

	// When the API server has it that each request was approved, and for how long it waited.
	list, err := s.cluster.Dynamic.Resource(certificateRequests).Namespace(ns).List(t.Context(), metav1.ListOptions{})
	s.must(err)
	at := map[string]time.Time{}
	for i := range list.Items {
		u := &list.Items[i]
		conditions, _, _ := unstructured.NestedSlice(u.Object, "status", "conditions")
		for _, c := range conditions {
			if m, _ := c.(map[string]any); m["type"] == "Approved" {
				text, _ := m["lastTransitionTime"].(string)
				when, err := time.Parse(time.RFC3339, text)
				s.must(err)
				at[fmt.Sprint(u.GetAnnotations()["cert-manager.io/certificate-name"], " ", u.GetAnnotations()["cert-manager.io/certificate-revision"])] = when
			}
		}
	}
	t.Logf("approved: %v", at)
	for _, pair := range [][2]string{{"a 2", "b 2"}, {"c 2", "d 2"}} {
		if apart := at[pair[1]].Sub(at[pair[0]]).Abs(); at[pair[0]].IsZero() || apart >= period {
			t.Errorf("%v were not approved together: %v", pair, at)
		}
	}
	// Conditions have whole seconds.
	for _, first := range []string{"a 2", "b 2"} {
		for _, second := range []string{"c 2", "d 2"} {
			if apart := at[second].Sub(at[first]); apart < period-2*time.Second {
				t.Errorf("%s was approved %s after %s, and the gateway takes an update in %s", second, apart, first, period)
			}
		}
	}
	a.Kill()
	s.serve(ns, "late")
	s.await("a request that nobody approves", func() bool {
		list, err := s.cluster.Dynamic.Resource(certificateRequests).Namespace(ns).List(t.Context(), metav1.ListOptions{})
		return err == nil && len(list.Items) > len(at)
	})
	if got := s.approved(ns); len(got) != len(at) {
		t.Errorf("without a leader somebody has approved: %v", got)
	}
	b := s.start("strict-1", "")
	s.await("another leader to approve it", issued("late"))
	s.leader(b)
}
