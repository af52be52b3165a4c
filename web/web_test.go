package web

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/certherd/certherd/api/v1alpha1"
	"github.com/certherd/certherd/apply"
	"github.com/certherd/certherd/config"
	"github.com/certherd/certherd/proposal"
	"github.com/certherd/certherd/report"
)

// site is a page over an API server that knows some tokens, and a certherd that has
// something to show. What the real ones do is tested in e2e/manifests.
type site struct {
	*testing.T
	page *Page
	logs *observer.ObservedLogs
	now  time.Time

	mu      sync.Mutex
	users   map[string]string // by token
	broken  error             // of each review
	state   State
	said    Said
	objects []*v1alpha1.Consolidation
	done    []string
	refuses error
}

var noon = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

func newSite(t *testing.T, mode Mode) *site {
	s := &site{T: t, now: noon, users: map[string]string{"token-of-ann": "ann", "token-of-vic": "vic", "token-of-joe": "joe"}, state: example()}
	client := fake.NewClientset()
	client.PrependReactor("create", "tokenreviews", func(a clienttesting.Action) (bool, runtime.Object, error) {
		s.mu.Lock()
		defer s.mu.Unlock()
		r := a.(clienttesting.CreateAction).GetObject().(*authenticationv1.TokenReview).DeepCopy()
		if name := s.users[r.Spec.Token]; name != "" && len(r.Spec.Audiences) == 0 {
			r.Status = authenticationv1.TokenReviewStatus{Authenticated: true, User: authenticationv1.UserInfo{Username: name, Groups: []string{"system:authenticated"}}}
		}
		return true, r, s.broken
	})
	client.PrependReactor("create", "subjectaccessreviews", func(a clienttesting.Action) (bool, runtime.Object, error) {
		r := a.(clienttesting.CreateAction).GetObject().(*authorizationv1.SubjectAccessReview).DeepCopy()
		x := r.Spec.ResourceAttributes
		view := x.Verb == "get" && x.Name == "certherd-report" || x.Verb == "list"
		r.Status.Allowed = r.Spec.User == "ann" || r.Spec.User == "vic" && view
		return true, r, nil
	})
	core, logs := observer.New(zap.DebugLevel)
	s.logs = logs
	s.page = New(Options{Mode: mode, Namespace: "certherd", Report: "certherd-report", Client: client, Backend: s, Log: zap.New(core), Now: func() time.Time { s.mu.Lock(); defer s.mu.Unlock(); return s.now }})
	return s
}

func example() State {
	steps := []report.Step{{Action: "retire", Object: report.Ref{Kind: "Secret", Namespace: "team-a", Name: "left-tls"}}, {Action: "delete", Object: report.Ref{Kind: "Secret", Namespace: "team-a", Name: "left-tls"}}}
	r := &report.Report{
		TakenAt: noon.Add(-time.Minute),
		Summary: report.Summary{Certificates: 48, Secrets: 61, Verdicts: map[string]int{"unused": 9}, GatewayCertificates: report.NowAfter{Now: 52, After: 14}},
		Findings: []report.Finding{{Reason: "OrphanedSecret", Object: report.Ref{Kind: "Secret", Namespace: "team-a", Name: "left-tls"}, Verdict: "unused"},
			{Reason: "MissingSecret", Object: report.Ref{Kind: "Ingress", Group: "networking.k8s.io", Namespace: "team-a", Name: "web"}}},
		Changes: []report.Change{
			{ID: "3fa9c2d0b1", Reason: "OrphanedSecret", Message: "nothing refers to it since the Ingress was deleted", Steps: steps, Held: "it waits for `certherd approve 3fa9c2d0b1@5e8d21c4a0`", WaitsFor: "approval", Digest: "5e8d21c4a0"},
			{ID: "77aa01ce42", Reason: "SupersededCertificate", Message: "the wildcard *.shop.example.com covers it", Steps: []report.Step{{Action: "delete", Object: report.Ref{Group: "networking.internal.knative.dev", Kind: "Certificate", Namespace: "shop", Name: "route-5d1c"}}}, Held: "it waits", WaitsFor: "approval", Digest: "c01dbeef99"},
			{ID: "11", Reason: "OrphanedSecret", Steps: steps, Held: "outside of every window: the next one opens Tue 2026-11-24 02:00 UTC"},
			{ID: "12", Reason: "OrphanedSecret", Steps: steps, Held: "outside of every window: the next one opens Tue 2026-11-24 02:00 UTC"},
		},
	}
	x := State{Namespace: "certherd", Identity: "certherd-6d9f-x2x", Leader: "certherd-6d9f-x2x", Leads: true, Version: "v0.1.0", Report: r,
		Waiting: r.Changes[:2], Whole: "0b71d2c3e4", Round: &Round{Began: noon.Add(-time.Minute), Took: 840 * time.Millisecond, Rules: []string{"gc"}, Result: "success"},
		Reasons: []report.Rule{{Reason: "OrphanedSecret", Short: "A Secret that nothing refers to.", Level: report.LevelWarning}, {Reason: "MissingSecret", Short: "Something names a Secret that is not there.", Level: report.LevelError}},
		Rules:   config.Default().Outlooks(nil, noon, 3)}
	gone := report.Finding{Reason: "UnrenewedSecret", Object: report.Ref{Kind: "Secret", Namespace: "shop", Name: "cart-tls"}}
	came := gone
	came.Reason, came.Verdict, came.Message = "OrphanedSecret", "unknown", "Certificate cart, which wrote it, is gone; whether anybody uses it is unknown: of other kinds nothing is known since the look at 11:59:00 UTC"
	x.Followed = &Since{Looked: r.TakenAt, At: noon.Add(-time.Second), Objects: 3, Follows: true, Came: []report.Finding{came}, Went: []report.Finding{gone}}
	for i := range 40 {
		x.Samples = append(x.Samples, Sample{Time: noon.Add(time.Duration(i-40) * time.Hour), Certificates: float64(90 - i/4*4), MiB: 210 - 3*float64(i), Updates: float64(i / 3)})
	}
	return x
}

func (s *site) State(time.Time) State { return s.state }
func (s *site) Said(context.Context) (Said, error) {
	return s.said, nil
}
func (s *site) History(context.Context) ([]apply.Entry, error) {
	return []apply.Entry{{ID: "r/1", Round: "r", Time: noon.Add(-time.Hour), Action: apply.Said, State: apply.Carried, Message: "approve by zoe: 1 changes (3fa9c2d0b1)"}}, nil
}
func (s *site) Consolidations(context.Context) ([]*v1alpha1.Consolidation, error) {
	return s.objects, nil
}
func (s *site) note(format string, a ...any) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.refuses == nil {
		s.done = append(s.done, fmt.Sprintf(format, a...))
	}
	return s.refuses
}
func (s *site) Approve(_ context.Context, token string, who proposal.Author) error {
	return s.note("approve %s by %s: %s", token, who.By, who.Reason)
}
func (s *site) ApproveAll(_ context.Context, digest string, who proposal.Author) error {
	return s.note("all %s by %s", digest, who.By)
}
func (s *site) ApproveConsolidation(_ context.Context, namespace, name, digest string, who proposal.Author) error {
	return s.note("consolidation %s/%s@%s by %s", namespace, name, digest, who.By)
}
func (s *site) RejectConsolidation(_ context.Context, namespace, name, digest string, who proposal.Author) error {
	return s.note("reject %s/%s@%s by %s: %s", namespace, name, digest, who.By, who.Reason)
}
func (s *site) Resume(_ context.Context, since time.Time, who proposal.Author) error {
	return s.note("resume %s by %s", since.Format(time.RFC3339), who.By)
}

// asks sends a request; change may change it.
func (s *site) asks(method, path string, form url.Values, change ...func(*http.Request)) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, "http://127.0.0.1:8080"+path, strings.NewReader(form.Encode()))
	r.RemoteAddr = "127.0.0.1:4711"
	if form != nil {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	for _, c := range change {
		c(r)
	}
	w := httptest.NewRecorder()
	s.page.ServeHTTP(w, r)
	return w
}

func bearer(token string) func(*http.Request) {
	return func(r *http.Request) { r.Header.Set("Authorization", "Bearer "+token) }
}

func from(address string) func(*http.Request) {
	return func(r *http.Request) { r.RemoteAddr = address + ":4711" }
}

// signedIn signs in with a token, and returns what a browser sends from then on.
func (s *site) signedIn(token string) func(*http.Request) {
	s.Helper()
	w := s.asks("POST", "/sign-in", url.Values{"token": {token}})
	cookies := w.Result().Cookies()
	if w.Code != 303 || len(cookies) != 1 {
		s.Fatalf("signed in: %d %s", w.Code, w.Body)
	}
	c := cookies[0]
	if !c.HttpOnly || c.SameSite != http.SameSiteStrictMode || c.MaxAge <= 0 || c.MaxAge > 3600 || c.Secure || strings.Contains(c.Value, token) {
		s.Errorf("the cookie is %+v", c)
	}
	return func(r *http.Request) { r.AddCookie(c) }
}

var approves = url.Values{"do": {"approve"}, "what": {"3fa9c2d0b1@5e8d21c4a0"}, "reason": {"CHG-4711"}}

func (s *site) expect(what string, w *httptest.ResponseRecorder, code int, holds string, not ...string) {
	s.Helper()
	text := w.Body.String() + w.Header().Get("Location")
	if w.Code != code || !strings.Contains(text, holds) {
		s.Errorf("%s: %d %.300s; want %d with %q", what, w.Code, text, code, holds)
	}
	for _, n := range not {
		if strings.Contains(text, n) {
			s.Errorf("%s: it shows %q", what, n)
		}
	}
}

func TestOpenShowsAndDecidesNothing(t *testing.T) {
	s := newSite(t, Open)
	w := s.asks("GET", "/", nil, from("10.0.0.7"))
	s.expect("the page", w, 200, "certherd approve 3fa9c2d0b1@5e8d21c4a0", "<button", "zoe", "<form", "<script", "http://", "https://")
	for header, want := range map[string]string{"Content-Security-Policy": "default-src 'none'", "X-Frame-Options": "DENY", "Cache-Control": "no-store", "Referrer-Policy": "same-origin"} {
		if !strings.Contains(w.Header().Get(header), want) {
			t.Errorf("%s: %s", header, w.Header().Get(header))
		}
	}
	for _, path := range []string{"/sign-in", "/decide", "/sign-out"} {
		if w := s.asks("POST", path, approves, bearer("token-of-ann")); w.Code != 404 && w.Code != 405 {
			t.Errorf("POST %s: %d", path, w.Code)
		}
	}
	s.expect("with a token", s.asks("GET", "/", nil, bearer("token-of-ann")), 200, "changes wait for a person", "zoe", "<form")
	if len(s.done) > 0 {
		t.Errorf("done: %q", s.done)
	}
}

// TestSinceThatLook: the page says what has come and gone, what it does not know, and
// nothing where nobody follows.
func TestSinceThatLook(t *testing.T) {
	s := newSite(t, Open)
	get := func() *httptest.ResponseRecorder { return s.asks("GET", "/", nil) }
	for _, text := range []string{"Since that look", `came: <b>OrphanedSecret</b> <bdi class="name">Secret/shop/cart-tls`, "1 came and 1 went, as of 2026-", "only a look can tell"} {
		s.expect("the page", get(), 200, text, "not followed any more")
	}
	x := *s.state.Followed
	x.Came, x.Went, x.Follows, x.Why = nil, nil, false, "the API server was started anew"
	s.state.Followed = &x
	s.expect("nothing came", get(), 200, "3 objects have changed since")
	s.expect("it is not followed", get(), 200, "It is not followed any more: the API server was started anew.")
	s.state.Followed = nil
	s.expect("nobody follows", get(), 200, "changes wait for a person", "Since that look")
}

func TestSignIn(t *testing.T) {
	s := newSite(t, SignIn)
	s.expect("nobody", s.asks("GET", "/", nil), 200, "Sign in to decide", "zoe", `action="decide"`)
	s.expect("nobody decides", s.asks("POST", "/decide", approves), 401, "sign in first")
	s.expect("a wrong token", s.asks("POST", "/sign-in", url.Values{"token": {"wrong"}}), 401, "does not take this token")
	s.expect("no token", s.asks("POST", "/sign-in", url.Values{}), 400, "there is no token")

	ann := s.signedIn("token-of-ann")
	s.expect("ann looks", s.asks("GET", "/", nil, ann), 200, `aria-label="Approve OrphanedSecret Secret/team-a/left-tls"`)
	s.expect("ann sees the history", s.asks("GET", "/", nil, ann), 200, "approve by zoe")
	s.expect("ann approves", s.asks("POST", "/decide", approves, ann), 303, "/")
	s.expect("she is told", s.asks("GET", "/", nil, ann), 200, "Approved 3fa9c2d0b1@5e8d21c4a0")
	s.expect("once", s.asks("GET", "/", nil, ann), 200, "", "Approved 3fa9c2d0b1@5e8d21c4a0")
	s.refuses = errors.New("change 3fa9c2d0b1 is not in the state that you looked at")
	s.expect("a stale one", s.asks("POST", "/decide", approves, ann), 303, "/")
	s.expect("she is told why", s.asks("GET", "/", nil, ann), 200, "not in the state that you looked at")
	s.expect("a stale one by hand", s.asks("POST", "/decide", approves, bearer("token-of-ann")), 409, "not in the state")
	s.refuses = nil

	vic := s.signedIn("token-of-vic")
	s.expect("vic looks", s.asks("GET", "/", nil, vic), 200, "may not approve", `action="decide"`)
	s.expect("vic decides nothing", s.asks("POST", "/decide", approves, vic), 303, "/")
	s.expect("he is told", s.asks("GET", "/", nil, vic), 200, "vic may not: this needs the right to get and update the ConfigMap certherd-approvals")
	s.expect("joe sees no history", s.asks("GET", "/", nil, s.signedIn("token-of-joe")), 200, "may not see it", "zoe")
	for _, do := range []string{"approve-all", "resume", "approve-consolidation", "reject-consolidation"} {
		what := map[string]string{"resume": "2026-11-23T12:00:00Z", "approve-all": "0b71d2c3e4"}[do]
		if what == "" {
			what = "shop/wild@c01dbeef99"
		}
		s.expect("vic: "+do, s.asks("POST", "/decide", url.Values{"do": {do}, "what": {what}}, bearer("token-of-vic")), 403, "may not")
		s.expect("ann: "+do, s.asks("POST", "/decide", url.Values{"do": {do}, "what": {what}, "reason": {"two\nlines"}}, bearer("token-of-ann")), 200, "")
	}
	for do, what := range map[string]string{"": "x", "approve": "3fa9c2d0b1", "reject-consolidation": "shop/wild", "approve-consolidation": "wild@1", "resume": "now"} {
		s.expect("nonsense "+do, s.asks("POST", "/decide", url.Values{"do": {do}, "what": {what}}, bearer("token-of-ann")), 400, "")
	}
	want := "approve 3fa9c2d0b1@5e8d21c4a0 by ann: CHG-4711|all 0b71d2c3e4 by ann|resume 2026-11-23T12:00:00Z by ann|consolidation shop/wild@c01dbeef99 by ann|reject shop/wild@c01dbeef99 by ann: two lines"
	if got := strings.Join(s.done, "|"); got != want {
		t.Errorf("done: %s\nwant: %s", got, want)
	}
	for _, l := range s.logs.All() {
		if text := fmt.Sprint(l.Message, l.ContextMap()); strings.Contains(text, "token-of") {
			t.Errorf("the log has a token: %s", text)
		}
	}

	// What ends a session.
	s.expect("out", s.asks("POST", "/sign-out", url.Values{}, vic), 303, "/")
	s.expect("vic is gone", s.asks("GET", "/", nil, vic), 200, "Sign in to decide")
	s.mu.Lock()
	delete(s.users, "token-of-ann")
	s.mu.Unlock()
	s.expect("a token that was revoked decides nothing", s.asks("POST", "/decide", approves, ann), 401, "sign in first")
	s.expect("and shows nothing", s.asks("GET", "/", nil, ann), 200, "Sign in to decide", "zoe")
	joe := s.signedIn("token-of-joe")
	s.mu.Lock()
	s.broken = errors.New("the API server is away")
	s.now = s.now.Add(time.Minute)
	s.mu.Unlock()
	s.expect("who cannot be asked about", s.asks("GET", "/", nil, joe), 503, "could not be asked")
	s.mu.Lock()
	s.broken = nil
	s.now = s.now.Add(time.Hour)
	s.mu.Unlock()
	s.expect("an hour later", s.asks("GET", "/", nil, joe), 200, "Sign in to decide")
}

func TestOtherSitesAndPlainWays(t *testing.T) {
	s := newSite(t, SignIn)
	ann := s.signedIn("token-of-ann")
	cross := func(r *http.Request) { r.Header.Set("Sec-Fetch-Site", "cross-site") }
	origin := func(r *http.Request) { r.Header.Set("Origin", "https://evil.example.test") }
	for _, other := range []func(*http.Request){cross, origin} {
		s.expect("another site", s.asks("POST", "/decide", approves, ann, other), 403, "cross-origin")
		s.expect("another site signs in", s.asks("POST", "/sign-in", url.Values{"token": {"token-of-ann"}}, other), 403, "cross-origin")
	}
	s.expect("by a link", s.asks("GET", "/decide?"+approves.Encode(), nil, ann), 405, "")
	s.expect("in the address", s.asks("POST", "/decide?"+approves.Encode(), url.Values{}, ann), 303, "/")
	if len(s.done) > 0 {
		t.Errorf("done: %q", s.done)
	}
	// A token is not taken unencrypted, but from within the Pod.
	s.expect("plain", s.asks("POST", "/sign-in", url.Values{"token": {"token-of-ann"}}, from("10.0.0.7")), 403, "unencrypted")
	s.expect("plain, by hand", s.asks("POST", "/decide", approves, bearer("token-of-ann"), from("10.0.0.7")), 403, "unencrypted")
	s.expect("plain, the form", s.asks("GET", "/sign-in", nil, from("10.0.0.7")), 200, "not encrypted", "<input")
	w := s.asks("POST", "/sign-in", url.Values{"token": {"token-of-ann"}}, from("10.0.0.7"), func(r *http.Request) { r.Header.Set("X-Forwarded-Proto", "https") })
	if c := w.Result().Cookies(); w.Code != 303 || len(c) != 1 || !c[0].Secure {
		t.Errorf("behind TLS: %d %v", w.Code, c)
	}
}

func TestFailuresAreLimited(t *testing.T) {
	s := newSite(t, SignIn)
	wrong := func(change ...func(*http.Request)) int {
		return s.asks("POST", "/sign-in", url.Values{"token": {"wrong"}}, change...).Code
	}
	for range 3 * tries { // who is known is not limited
		s.signedIn("token-of-ann")
	}
	for i := range tries {
		if code := wrong(); code != 401 {
			t.Fatalf("try %d: %d", i, code)
		}
	}
	s.expect("one too many", s.asks("POST", "/sign-in", url.Values{"token": {"token-of-ann"}}), 429, "too many")
	s.expect("by hand, too", s.asks("GET", "/", nil, bearer("token-of-ann")), 429, "too many")
	if code := wrong(from("127.0.0.2")); code != 401 {
		t.Errorf("from elsewhere: %d", code)
	}
	s.mu.Lock()
	s.now = s.now.Add(tryAgain)
	s.mu.Unlock()
	if a, b := wrong(), wrong(); a != 401 || b != 429 {
		t.Errorf("after a while: %d, %d", a, b)
	}
	// Many addresses take no more memory.
	f := &failures{}
	for i := range 3 * addresses {
		f.begin(fmt.Sprint(i), noon)
	}
	if len(f.all) != addresses {
		t.Errorf("%d addresses are kept", len(f.all))
	}
	if !f.begin("later", noon.Add(time.Hour)) {
		t.Error("nobody may try again")
	}
}

func TestPrivate(t *testing.T) {
	s := newSite(t, Private)
	next := s.page.Guard(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "the report") }))
	report := func(change func(*http.Request)) *httptest.ResponseRecorder {
		r := httptest.NewRequest("GET", "http://127.0.0.1:8080/report", nil)
		r.RemoteAddr = "127.0.0.1:4711"
		change(r)
		w := httptest.NewRecorder()
		next.ServeHTTP(w, r)
		return w
	}
	s.expect("nobody", s.asks("GET", "/", nil), 303, "sign-in", "left-tls")
	s.expect("nobody's report", report(func(*http.Request) {}), 401, "sign in", "the report")
	s.expect("a wrong token", report(bearer("wrong")), 401, "does not take", "the report")
	s.expect("joe", s.asks("GET", "/", nil, bearer("token-of-joe")), 403, "joe may not get the ConfigMap certherd-report", "left-tls")
	s.expect("joe's report", report(bearer("token-of-joe")), 403, "joe may not", "the report")
	s.expect("vic", s.asks("GET", "/", nil, s.signedIn("token-of-vic")), 200, "left-tls")
	s.expect("vic's report", report(bearer("token-of-vic")), 200, "the report")
}

func TestSamplesAreBounded(t *testing.T) {
	var s Samples
	for i := range 3 * samplesKept {
		s.Add(Sample{Time: noon.Add(time.Duration(i) * time.Second), Certificates: float64(i)})
	}
	all := s.All()
	if len(all) != samplesKept || all[len(all)-1].Certificates != 3*samplesKept-1 {
		t.Errorf("%d samples, the last %v", len(all), all[len(all)-1])
	}
	if c := newCurve("x", all[:1], func(s Sample) float64 { return 0 }, func(v float64) string { return fmt.Sprint(v) }); !strings.HasPrefix(c.Path, "M0 72.0H320.0") {
		t.Errorf("one sample is drawn as %s", c.Path)
	}
}

func TestExpiry(t *testing.T) {
	if e := expiry("e30.eyJleHAiOjE3MDAwMDAwMDB9.x"); e.Unix() != 1700000000 {
		t.Errorf("it ends at %s", e)
	}
	for _, x := range []string{"", "a.b", "a.!.c", "e30.e30.x"} {
		if !expiry(x).IsZero() {
			t.Errorf("%q ends", x)
		}
	}
}
