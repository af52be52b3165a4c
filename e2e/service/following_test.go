package service_test

import (
	"encoding/json"
	"net/http"
	"slices"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/certherd/certherd/e2e/scenario"
	"github.com/certherd/certherd/plan"
	"github.com/certherd/certherd/report"
	"github.com/certherd/certherd/web"
)

// since is what has changed since the newest look of a replica.
func (p *process) since() (x web.Since) {
	p.s.Helper()
	if code, body := p.Get("/since.json"); code == http.StatusOK {
		p.s.must(json.Unmarshal(body, &x))
	}
	return x
}

// TestFindingsFollow: when a Knative Service is deleted, what is left of it is found before
// anybody looks again, by leader and follower, as unknown; the next look agrees.
func TestFindingsFollow(t *testing.T) {
	s := newSite(t, "follows")
	const ns = "followed"
	ctx := t.Context()
	s.must(s.cluster.Namespaces(ctx, ns))
	stays, goes := scenario.Service{Namespace: ns, Name: "stays"}, scenario.Service{Namespace: ns, Name: "goes"}
	s.must(s.cluster.Services(ctx, []scenario.Service{stays, goes}))
	list, err := s.cluster.Dynamic.Resource(kCertificates).Namespace(ns).List(ctx, metav1.ListOptions{LabelSelector: "serving.knative.dev/route=" + goes.Name})
	s.must(err)
	if len(list.Items) == 0 {
		t.Fatal("the service has no certificate")
	}
	secret := list.Items[0].GetName()
	// No schedule asks for a look while this runs.
	const seldom = "gc: {minAge: 0s, schedule: '0 0 1 1 *', startingDeadline: disabled}\n"
	s.configure(seldom)
	a, b := s.start("follows-a", ""), s.start("follows-b", "")
	s.leader(a, b)
	both := []*process{a, b}
	for _, p := range both {
		s.await(p.Name+" to follow", func() bool { return p.Metric("certherd_last_round_timestamp_seconds") > 0 && p.since().Follows })
	}
	left := func(list []report.Finding) *report.Finding {
		i := slices.IndexFunc(list, func(f report.Finding) bool {
			return f.Reason == string(plan.OrphanedSecret) && f.Object.Namespace == ns && f.Object.Name == secret
		})
		if i < 0 {
			return nil
		}
		return &list[i]
	}
	// Other tests count what is left in the whole cluster.
	defer func() {
		s.must(s.cluster.Dynamic.Resource(services).Namespace(ns).Delete(ctx, stays.Name, metav1.DeleteOptions{}))
		s.await("the certificates to go", func() bool {
			list, err := s.cluster.Dynamic.Resource(certificates).Namespace(ns).List(ctx, metav1.ListOptions{})
			s.must(err)
			return len(list.Items) == 0
		})
		s.must(s.cluster.Typed.CoreV1().Secrets(ns).DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{}))
	}()
	s.must(s.cluster.Dynamic.Resource(services).Namespace(ns).Delete(ctx, goes.Name, metav1.DeleteOptions{}))
	for _, p := range both {
		s.await(p.Name+" to find what is left", func() bool { return left(p.since().Came) != nil })
		x := p.since()
		if f := left(x.Came); f == nil || f.Verdict != "unknown" || x.Looked.IsZero() || x.At.Before(x.Looked) {
			t.Errorf("%s: %+v", p.Name, x)
		}
		if n := p.Metric(`certherd_findings_since_look{change="came"}`); n < 1 {
			t.Errorf("%s counts %v", p.Name, n)
		}
		var r report.Report
		_, body := p.Get("/report.json")
		s.must(json.Unmarshal(body, &r))
		if left(r.Findings) != nil {
			t.Errorf("%s has looked again: this proves nothing", p.Name)
		}
	}
	s.configure("# Look again.\n" + seldom)
	for _, p := range both {
		s.await(p.Name+" to look again", func() bool {
			var r report.Report
			_, body := p.Get("/report.json")
			s.must(json.Unmarshal(body, &r))
			f := left(r.Findings)
			return f != nil && f.Verdict == "unused" && left(p.since().Came) == nil
		})
	}
}
