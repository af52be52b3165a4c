package service

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/certherd/certherd/api/v1alpha1"
	"github.com/certherd/certherd/carry"
	"github.com/certherd/certherd/config"
	"github.com/certherd/certherd/e2e/envoy"
	"github.com/certherd/certherd/gateway"
)

// counting is a Reading of one gateway that has rejected n updates; of none that
// could be read if n is negative.
func counting(at time.Time, n float64) gateway.Reading {
	if n < 0 {
		return gateway.Reading{Time: at, Unread: []string{"gateway a: no"}}
	}
	return gateway.Reading{Time: at, Envoys: map[string]gateway.Envoy{"a": {Uptime: 1e6 + float64(at.Unix()), Rejected: map[string]float64{"lds": n}}}}
}

// TestRejections: since when gateways reject, from what they have counted every
// ten seconds, with a patience of a minute. The first reading is at 0.
func TestRejections(t *testing.T) {
	begin := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	for _, tc := range []struct {
		name   string
		counts []float64
		limit  int
		since  time.Duration // 0 for never
	}{
		{name: "none", counts: []float64{0, 0, 0}},
		{name: "before the first reading", counts: []float64{9, 9, 9}},
		{name: "goes on", counts: []float64{3, 3, 603, 1203, 1803}, since: 20 * time.Second},
		{name: "one, a while ago", counts: []float64{0, 1, 1, 1}, since: 10 * time.Second},
		{name: "one, forgotten", counts: []float64{0, 1, 1, 1, 1, 1, 1, 1}},
		{name: "one, forgotten, and another", counts: []float64{0, 1, 1, 1, 1, 1, 1, 1, 2}, since: 80 * time.Second},
		{name: "within the limit", counts: []float64{0, 2, 4}, limit: 2},
		{name: "beyond it", counts: []float64{0, 3, 3}, limit: 2, since: 10 * time.Second},
		{name: "started again", counts: []float64{500, 0, 0}},
		{name: "not read in between", counts: []float64{5, -1, 5, 5}},
		{name: "rejects, not read in between", counts: []float64{5, -1, -1, 65}, since: 30 * time.Second},
	} {
		c := config.Default()
		c.Consolidate.Patience, c.Breaker.Rejected = config.Duration(time.Minute), tc.limit
		r := rejections{c: c}
		at := begin
		for i, n := range tc.counts {
			at = begin.Add(time.Duration(i) * 10 * time.Second)
			r.take(counting(at, n))
		}
		want := time.Time{}
		if tc.since > 0 {
			want = begin.Add(tc.since)
		}
		if got, what := r.at(at); !got.Equal(want) || got.IsZero() != (what == "") {
			t.Errorf("%s: since %s, want %s: %q", tc.name, got, want, what)
		}
	}
}

// TestRejectionsHold: nothing is switched before there is something to compare
// with, nor while gateways cannot be read.
func TestRejectionsHold(t *testing.T) {
	r := rejections{c: config.Default()}
	now := time.Now()
	expect := func(what string, switching bool, why string) {
		t.Helper()
		if got := r.hold(switching); why == "" && got != "" || !strings.Contains(got, why) {
			t.Errorf("%s: %q, want %q", what, got, why)
		}
	}
	r.take(counting(now, 0))
	expect("begins", false, "")
	expect("switches after one reading", true, "to be compared with")
	r.take(counting(now.Add(5*time.Second), -1))
	expect("begins unread", false, "cannot be read")
	expect("switches unread", true, "cannot be read")
	r.c.Breaker.Unreadable = config.IgnoreUnreadable
	expect("switches unread, as it may", true, "")
	r.c.Breaker.Unreadable = config.StopUnreadable
	r.take(counting(now.Add(10*time.Second), 0))
	expect("switches", true, "")
	r = rejections{c: config.Default()}
	r.take(gateway.Reading{Time: now})
	r.take(gateway.Reading{Time: now})
	expect("switches where there is no gateway", true, "")
}

// TestEnvoyRejects: what a real Envoy goes on rejecting after the switch makes a
// consolidation go back, and what it rejected once does not.
func TestEnvoyRejects(t *testing.T) {
	e := envoy.Start(t)
	s := idle(t)
	s.o.Cluster = nil // pages alone
	c := config.Default()
	c.Breaker.Pods, c.Breaker.Gateways = nil, []string{e.Page}
	k := &keeper{Service: s}
	r, err := k.watchRejections(c)
	if err != nil {
		t.Fatal(err)
	}
	// look reads now, and says what carry makes of it in the midst of the soak.
	look := func(ahead time.Duration) v1alpha1.Phase {
		t.Helper()
		r.read = time.Time{}
		if r.rejecting(t.Context()); len(r.last.Unread) > 0 {
			t.Fatal(r.last.Unread)
		}
		now := time.Now().Add(ahead)
		x := &v1alpha1.Consolidation{}
		x.Spec.Source.Kind = v1alpha1.SourceCertificate
		x.Status.Phase, x.Status.Execution = v1alpha1.Soaking, &v1alpha1.Execution{Started: metav1.NewTime(now)}
		o := carry.Observation{Source: carry.Source{Exists: true, Ready: true}}
		o.Rejecting, o.RejectingWhat = r.at(now)
		return carry.Next(x, o, c.CarryOptions(), now).Phase
	}
	patience := time.Duration(c.Consolidate.Patience)
	look(0)
	if p := look(0); p != v1alpha1.Soaking {
		t.Fatalf("it is %s before anything was rejected", p)
	}
	e.Reject(t)
	if p := look(0); p != v1alpha1.Soaking || r.since.IsZero() {
		t.Fatalf("it is %s when something was rejected, since %s", p, r.since)
	}
	if p := look(2 * patience); p != v1alpha1.Soaking {
		t.Errorf("it is %s after one rejection and a long time", p)
	}
	r.since = r.since.Add(-2 * patience) // it has gone on for so long
	e.Reject(t)
	if p := look(0); p != v1alpha1.RollingBack {
		t.Errorf("it is %s while everything is rejected", p)
	}

	page := httptest.NewServer(http.NotFoundHandler())
	defer page.Close()
	c.Breaker.Gateways = []string{page.URL}
	if r, err = k.watchRejections(c); err != nil {
		t.Fatal(err)
	}
	r.k.log = zap.NewNop()
	if r.rejecting(t.Context()); r.hold(false) == "" || s.unread.Load() != 1 {
		t.Errorf("a page that is none holds nothing, and %d are unread", s.unread.Load())
	}
}
