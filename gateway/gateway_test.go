package gateway

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/certherd/certherd/e2e/envoy"
)

func TestWorse(t *testing.T) {
	at := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	before := Reading{
		Envoys:  map[string]Envoy{"Pod/a/x": {Uptime: 100, Rejected: map[string]float64{"lds": 2}, Responses: 1000, Failed: 10}},
		Unready: map[string]string{"KIngress/a/old": "Ready is Unknown: Deploying"}, Newest: at,
	}
	for name, tc := range map[string]struct {
		edit func(*Reading)
		l    Limits
		want []string // beginnings
	}{
		"nothing has changed":            {func(*Reading) {}, Defaults(), nil},
		"an update was rejected":         {func(r *Reading) { r.Envoys["Pod/a/x"].Rejected["lds"] = 3 }, Defaults(), []string{"gateways rejected 1 update of their configuration (Pod/a/x: lds +1)"}},
		"as many as may be":              {func(r *Reading) { r.Envoys["Pod/a/x"].Rejected["lds"] = 3 }, Limits{Rejected: 1, Failed: 1, LeastFailed: 1}, nil},
		"another kind of update":         {func(r *Reading) { r.Envoys["Pod/a/x"].Rejected["cds"] = 2 }, Defaults(), []string{"gateways rejected 2 updates"}},
		"it was started again, and well": {func(r *Reading) { r.Envoys["Pod/a/x"] = Envoy{Uptime: 3} }, Defaults(), nil},
		"it was started again, and has no listener": {func(r *Reading) {
			r.Envoys["Pod/a/x"] = Envoy{Uptime: 3, Rejected: map[string]float64{"lds": 2}}
		}, Defaults(), []string{"gateways rejected 2 updates"}},
		"another one, and well":    {func(r *Reading) { r.Envoys["Pod/a/y"] = Envoy{Uptime: 3, Responses: 5} }, Defaults(), nil},
		"another one that rejects": {func(r *Reading) { r.Envoys["Pod/a/y"] = Envoy{Rejected: map[string]float64{"lds": 1}} }, Defaults(), []string{"gateways rejected 1 update"}},
		"one is gone":              {func(r *Reading) { delete(r.Envoys, "Pod/a/x") }, Defaults(), nil},
		"as many fail as before":   {func(r *Reading) { x := r.Envoys["Pod/a/x"]; x.Responses, x.Failed = 3000, 40; r.Envoys["Pod/a/x"] = x }, Defaults(), nil},
		"more fail": {func(r *Reading) { x := r.Envoys["Pod/a/x"]; x.Responses, x.Failed = 2000, 60; r.Envoys["Pod/a/x"] = x }, Defaults(),
			[]string{"gateways answered 50 of 1000 requests with 5xx (5.0%, and 1.0% before)"}},
		"a few fail of few":      {func(r *Reading) { x := r.Envoys["Pod/a/x"]; x.Responses, x.Failed = 1010, 19; r.Envoys["Pod/a/x"] = x }, Defaults(), nil},
		"one is no longer Ready": {func(r *Reading) { r.Unready["KIngress/a/web"] = "Ready is False: Nacked" }, Defaults(), []string{"1 object no longer Ready: KIngress/a/web (Ready is False: Nacked)"}},
		"one is new, and not yet Ready": {func(r *Reading) {
			r.Unready["KIngress/a/new"] = "Ready is Unknown"
			r.made["KIngress/a/new"] = at.Add(time.Second)
		}, Defaults(), nil},
		"one may be": {func(r *Reading) { r.Unready["KIngress/a/web"] = "x" }, Limits{Unready: 1, Failed: 1, LeastFailed: 1}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			// As it comes back from where it is kept.
			doc, err := json.Marshal(before)
			if err != nil {
				t.Fatal(err)
			}
			var kept, now Reading
			for _, r := range []*Reading{&kept, &now} {
				if err := json.Unmarshal(doc, r); err != nil {
					t.Fatal(err)
				}
			}
			now.made = map[string]time.Time{}
			tc.edit(&now)
			got := now.Worse(kept, tc.l)
			if len(got) != len(tc.want) {
				t.Fatalf("%q, want %q", got, tc.want)
			}
			for i := range got {
				if !strings.HasPrefix(got[i], tc.want[i]) {
					t.Errorf("%q, want %q", got[i], tc.want[i])
				}
			}
		})
	}
}

func TestWhatIsNoPageIsUnread(t *testing.T) {
	page := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/denied":
			http.Error(w, "no", http.StatusForbidden)
		case "/html":
			fmt.Fprint(w, "<html>")
		case "/other":
			fmt.Fprint(w, "# TYPE up gauge\nup 1\n")
		}
	}))
	defer page.Close()
	gone := httptest.NewServer(nil)
	gone.Close()
	pages := []string{gone.URL, page.URL + "/denied", page.URL + "/html", page.URL + "/other", page.URL + "/empty"}
	r, err := New(nil, Options{Pages: pages})
	if err != nil {
		t.Fatal(err)
	}
	now := r.Read(t.Context())
	if len(now.Unread) != len(pages) || len(now.Envoys) != 0 {
		t.Fatalf("%+v", now)
	}
	for i, part := range []string{"refused", "403", "none of Prometheus", "none of an Envoy", "none of an Envoy"} {
		if !slices.ContainsFunc(now.Unread, func(u string) bool {
			return strings.HasPrefix(u, "gateway "+pages[i]+": ") && strings.Contains(u, part)
		}) {
			t.Errorf("%s is not said to be unread by %q: %q", pages[i], part, now.Unread)
		}
	}
	for _, bad := range []string{"", "gateway:9901", "ftp://x/", "http://a:b@x/stats/prometheus"} {
		if _, err := New(nil, Options{Pages: []string{bad}}); err == nil {
			t.Errorf("%q is taken for a page", bad)
		}
	}
}

// TestEnvoy: what a real Envoy counts is what is read.
func TestEnvoy(t *testing.T) {
	e := envoy.Start(t)
	r, err := New(nil, Options{Pages: []string{e.Page}})
	if err != nil {
		t.Fatal(err)
	}
	read := func() Reading {
		t.Helper()
		x := r.Read(t.Context())
		if len(x.Unread) > 0 || len(x.Envoys) != 1 {
			t.Fatalf("it was not read: %+v", x)
		}
		return x
	}
	ask := func(path string, n int) {
		t.Helper()
		for range n {
			x, err := http.Get("http://" + e.Web + path)
			if err != nil {
				t.Fatal(err)
			}
			x.Body.Close()
		}
	}
	ask("/", 50)
	before := read()
	if x := before.Envoys[e.Page]; x.Responses != 50 || x.Failed != 0 || len(x.Rejected) != 0 {
		t.Fatalf("after 50 requests it has %+v", x)
	}
	ask("/", 20)
	if worse := read().Worse(before, Defaults()); worse != nil {
		t.Errorf("answers with 200 are worse: %q", worse)
	}
	ask("/failing", 20)
	if worse := read().Worse(before, Defaults()); len(worse) != 1 || !strings.Contains(worse[0], "20 of 40 requests with 5xx (50.0%, and 0.0% before)") {
		t.Errorf("20 answers with 503 are %q", worse)
	}

	// Two chains with the same name: what Kourier's stale hosts come to.
	before = read()
	e.Reject(t)
	if worse := read().Worse(before, Defaults()); len(worse) != 1 || !strings.Contains(worse[0], "envoy_listener_manager_lds_update_rejected +1") {
		t.Errorf("a rejected listener is %q", worse)
	}
	ask("/", 1) // the old one goes on

	// Await tells the same, and ends with its context.
	_, worse, err := r.Await(t.Context(), before, Defaults(), 10*time.Millisecond)
	if err != nil || len(worse) != 1 {
		t.Errorf("Await: %q, %v", worse, err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(fmt.Errorf("the end"))
	if _, _, err := r.Await(ctx, before, Defaults(), time.Hour); err == nil || err.Error() != "the end" {
		t.Errorf("Await in a context that has ended: %v", err)
	}
	before = read()
	if x := before.Envoys[e.Page]; x.Memory.Allocated < 1<<20 || x.Memory.Physical < x.Memory.Allocated/2 {
		t.Errorf("its memory is %+v", x.Memory)
	}
	e.Accept(t)
	if was, is := before.Envoys[e.Page].Listeners, read().Envoys[e.Page].Listeners; is.Changes <= was.Changes {
		t.Errorf("an accepted listener is no change: %+v, then %+v", was, is)
	}
	if worse := read().Worse(before, Defaults()); worse != nil {
		t.Errorf("an accepted listener is worse: %q", worse)
	}
}
