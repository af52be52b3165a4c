// Package web is the page at / of a certherd that runs: what one replica is doing, and
// the buttons by which people who have signed in approve and reject what waits.
package web

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"
	"unicode"

	"go.uber.org/zap"
	authenticationv1 "k8s.io/api/authentication/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/certherd/certherd/api/v1alpha1"
	"github.com/certherd/certherd/apply"
	"github.com/certherd/certherd/batch"
	"github.com/certherd/certherd/config"
	"github.com/certherd/certherd/proposal"
	"github.com/certherd/certherd/report"
)

// Mode says for whom the page is.
type Mode string

// The modes.
const (
	Open    Mode = "open"    // for all who can reach it, to look at
	SignIn  Mode = "sign-in" // the same, and for people who sign in to decide
	Private Mode = "private" // for people who sign in
)

// ParseMode takes the three modes and nothing else.
func ParseMode(text string) (Mode, error) {
	if m := Mode(text); m == Open || m == SignIn || m == Private {
		return m, nil
	}
	return Open, fmt.Errorf("%q says for nobody what the page is: use open, sign-in or private", text)
}

// State is what a replica knows without asking anybody.
type State struct {
	Namespace, Identity, Version string
	// Leader is the replica that leads as last seen, empty when none was.
	Leader string
	Leads  bool
	// Rules are what the configuration comes to; nil before it is known.
	Rules []config.Outlook
	// Refused is why the newest configuration is not in force.
	Refused error
	// Round is the last one, nil before the first.
	Round *Round
	// UnderWay is when the round began that has not ended, zero when none is.
	UnderWay time.Time
	// Followed is what has changed since the look of Report, nil where nobody follows it.
	Followed *Since
	// Report is the newest one, nil before the first look. It is not to be changed.
	Report *report.Report
	// Waiting are its changes that wait for a person, Whole pins all of them, and
	// TooMuch is why maxShare has stopped them, empty if it has not.
	Waiting []report.Change
	Whole   string
	TooMuch string
	// Stopped is why nothing is carried out until a person says so, empty if nothing
	// stops it.
	Stopped string
	// Unread is what of the gateways could not be read.
	Unread int
	// Held is what gateways' budgets hold, on the leader.
	Held []batch.Held
	// Reasons describe findings, in the order of a report.
	Reasons []report.Rule
	Samples []Sample
}

// Since is what is known to have changed since the newest look. Its JSON is that of
// /since.json.
type Since struct {
	// Looked is when the look was, At when findings were last compared with it; zero
	// before anything has changed.
	Looked time.Time `json:"lookedAt"`
	At     time.Time `json:"comparedAt,omitzero"`
	// Objects is how many objects have changed.
	Objects int `json:"objects"`
	// Came are findings that are new, or not as they were; Went those that are no more.
	Came []report.Finding `json:"came"`
	Went []report.Finding `json:"went"`
	// Follows is false where nothing more is known until the next look; Why says why.
	Follows bool   `json:"follows"`
	Why     string `json:"why,omitempty"`
}

// Round is what became of a round.
type Round struct {
	Began   time.Time
	Took    time.Duration
	Rules   []string // that were due
	Result  string
	Failure string // why it failed, empty if it did not
}

// Given is an approval that holds, or may.
type Given struct {
	Token, By, Reason string
	Until             time.Time
}

// Said is what persons have said.
type Said struct {
	Given []Given
	// Stopped is when everything was stopped, zero if it is not.
	Stopped time.Time
}

// Backend is the certherd that the page is about. All but State asks the API server,
// and what it does, it does with certherd's own account: the page has asked before
// whether the person may.
type Backend interface {
	State(now time.Time) State
	Said(context.Context) (Said, error)
	History(context.Context) ([]apply.Entry, error)
	Consolidations(context.Context) ([]*v1alpha1.Consolidation, error)
	// Approve approves a change, named CHANGE@DIGEST, and ApproveAll all that waits,
	// named by its digest; ApproveConsolidation and RejectConsolidation are about
	// NAMESPACE/NAME in the state of a digest. An error says that another state than
	// the one that was looked at is there, or what else is in the way.
	Approve(ctx context.Context, token string, who proposal.Author) error
	ApproveAll(ctx context.Context, digest string, who proposal.Author) error
	ApproveConsolidation(ctx context.Context, namespace, name, digest string, who proposal.Author) error
	RejectConsolidation(ctx context.Context, namespace, name, digest string, who proposal.Author) error
	// Resume ends the stop that began at a time.
	Resume(ctx context.Context, since time.Time, who proposal.Author) error
}

// Options are those of a Page.
type Options struct {
	Mode      Mode
	Namespace string // of certherd
	Report    string // the ConfigMap of the newest report in it
	Client    kubernetes.Interface
	Backend   Backend
	Log       *zap.Logger
	Now       func() time.Time
}

// Page serves the page.
type Page struct {
	o        Options
	access   access
	sessions *sessions
	failures failures
	handler  http.Handler
}

// New returns a Page.
func New(o Options) *Page {
	if o.Log == nil {
		o.Log = zap.NewNop()
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	p := &Page{o: o, access: access{o.Client, o.Namespace, o.Report}, sessions: newSessions()}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", p.show)
	if o.Mode != Open {
		mux.HandleFunc("GET /sign-in", p.askSignIn)
		mux.HandleFunc("POST /sign-in", p.signIn)
		mux.HandleFunc("POST /sign-out", p.signOut)
		mux.HandleFunc("POST /decide", p.decide)
	}
	p.handler = http.NewCrossOriginProtection().Handler(mux)
	return p
}

// Paths are those that a Page answers.
func Paths() []string { return []string{"/{$}", "/sign-in", "/sign-out", "/decide"} }

// most is the most that a form may have.
const most = 64 << 10

func (p *Page) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Content-Security-Policy", policy)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("X-Frame-Options", "DENY")
	// With no-referrer a browser would not say where a form comes from.
	h.Set("Referrer-Policy", "same-origin")
	h.Set("Cache-Control", "no-store")
	r.Body = http.MaxBytesReader(w, r.Body, most)
	p.handler.ServeHTTP(w, r)
}

// Guard lets those pass who may see the report: everybody, unless the page is private.
func (p *Page) Guard(next http.Handler) http.Handler {
	if p.o.Mode != Private {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, ok := p.viewer(w, r); ok {
			w.Header().Set("Cache-Control", "no-store")
			next.ServeHTTP(w, r)
		}
	})
}

// person is who asks.
type person struct {
	user    authenticationv1.UserInfo
	session *session // nil for one who sends a token with each request
}

// refusal is an error with the status that tells of it.
type refusal struct {
	code int
	why  string
}

func (r refusal) Error() string { return r.why }

var errPlain = refusal{http.StatusForbidden, "a token is not to be sent unencrypted: use kubectl port-forward, or a proxy that speaks TLS and sets X-Forwarded-Proto"}

// person says who asks, nil for somebody who has not said. deciding asks the API
// server in any case.
func (p *Page) person(r *http.Request, deciding bool) (*person, error) {
	if p.o.Mode == Open {
		return nil, nil
	}
	now := p.o.Now()
	if header := r.Header.Get("Authorization"); header != "" {
		scheme, token, _ := strings.Cut(header, " ")
		if !strings.EqualFold(scheme, "Bearer") || token == "" {
			return nil, refusal{http.StatusUnauthorized, "send the token as Authorization: Bearer TOKEN"}
		}
		user, err := p.review(r, token)
		if err != nil {
			return nil, err
		}
		return &person{user: user}, nil
	}
	s := p.sessions.of(r, now)
	if s == nil {
		return nil, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if deciding || now.Sub(s.checked) >= sessionChecked {
		user, err := p.access.who(r.Context(), s.token)
		switch {
		case errors.Is(err, errUnknown) || err == nil && user.Username != s.user.Username:
			p.sessions.forget(s)
			return nil, nil
		case err != nil:
			p.o.Log.Warn("nobody signed in", zap.Error(err))
			return nil, refusal{http.StatusServiceUnavailable, err.Error()}
		}
		s.user, s.checked = user, now
	}
	return &person{user: s.user, session: s}, nil
}

// review asks whom a token is of, unless too many were of nobody.
func (p *Page) review(r *http.Request, token string) (user authenticationv1.UserInfo, err error) {
	if !private(r) {
		return user, errPlain
	}
	from := address(r)
	if !p.failures.begin(from, p.o.Now()) {
		return user, refusal{http.StatusTooManyRequests, "too many tokens were not taken: wait a minute"}
	}
	user, err = p.access.who(r.Context(), token)
	switch {
	case errors.Is(err, errUnknown):
		p.o.Log.Warn("token not taken", zap.String("from", from))
		return user, refusal{http.StatusUnauthorized, err.Error()}
	case err != nil:
		p.o.Log.Warn("nobody signed in", zap.Error(err))
		return user, refusal{http.StatusServiceUnavailable, err.Error()}
	}
	p.failures.well(from)
	return user, nil
}

// viewer says who looks, and answers those who may not.
func (p *Page) viewer(w http.ResponseWriter, r *http.Request) (*person, bool) {
	who, err := p.person(r, false)
	if err == nil && p.o.Mode == Private {
		if who == nil {
			if r.URL.Path == "/" || strings.Contains(r.Header.Get("Accept"), "text/html") {
				http.Redirect(w, r, "sign-in", http.StatusSeeOther)
				return nil, false
			}
			err = refusal{http.StatusUnauthorized, "this certherd shows nothing to those who do not say who they are: sign in at /, or send Authorization: Bearer TOKEN"}
		} else {
			var ok bool
			if ok, err = p.access.may(r.Context(), who.user, p.access.viewing()); err == nil && !ok {
				err = refusal{http.StatusForbidden, fmt.Sprintf("%s may not get the ConfigMap %s in namespace %s, which shows the same", who.user.Username, p.o.Report, p.o.Namespace)}
			}
		}
	}
	if err != nil {
		p.refuse(w, err)
		return nil, false
	}
	return who, true
}

func (p *Page) refuse(w http.ResponseWriter, err error) {
	code := http.StatusServiceUnavailable
	var x refusal
	if errors.As(err, &x) {
		code = x.code
	}
	if code == http.StatusUnauthorized {
		w.Header().Set("WWW-Authenticate", `Bearer realm="certherd"`)
	}
	if code == http.StatusTooManyRequests {
		w.Header().Set("Retry-After", "60")
	}
	http.Error(w, err.Error(), code)
}

func (p *Page) show(w http.ResponseWriter, r *http.Request) {
	who, ok := p.viewer(w, r)
	if !ok {
		return
	}
	x := p.content(r.Context(), who)
	switch r.URL.Query().Get("refresh") {
	case "30":
		x.Refresh = 30
	}
	p.write(w, "page.html", x, http.StatusOK)
}

func (p *Page) write(w http.ResponseWriter, name string, x any, code int) {
	var b, visible bytes.Buffer
	err := templates.ExecuteTemplate(&b, name, x)
	if err == nil {
		err = report.WriteVisible(&visible, b.String())
	}
	if err != nil {
		p.o.Log.Error("page not shown", zap.Error(err))
		http.Error(w, "the page cannot be shown: see the log", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(code)
	_, _ = visible.WriteTo(w)
}

// form is what the page for signing in shows.
type form struct {
	frame
	Namespace, Notice string
	Possible          bool
	Private           bool
}

func (p *Page) askSignIn(w http.ResponseWriter, r *http.Request) {
	p.write(w, "sign-in.html", form{newFrame(), p.o.Namespace, "", private(r), p.o.Mode == Private}, http.StatusOK)
}

func (p *Page) signIn(w http.ResponseWriter, r *http.Request) {
	token := strings.TrimSpace(r.PostFormValue("token"))
	again := func(err error) {
		code := http.StatusServiceUnavailable
		var x refusal
		if errors.As(err, &x) {
			code = x.code
		}
		if code == http.StatusTooManyRequests {
			w.Header().Set("Retry-After", "60")
		}
		p.write(w, "sign-in.html", form{newFrame(), p.o.Namespace, err.Error(), private(r), p.o.Mode == Private}, code)
	}
	if token == "" {
		again(refusal{http.StatusBadRequest, "there is no token"})
		return
	}
	user, err := p.review(r, token)
	if err != nil {
		again(err)
		return
	}
	p.sessions.begin(w, r, user, token, p.o.Now())
	p.o.Log.Info("signed in", zap.String("user", user.Username), zap.String("from", address(r)))
	http.Redirect(w, r, "./", http.StatusSeeOther)
}

func (p *Page) signOut(w http.ResponseWriter, r *http.Request) {
	p.sessions.end(w, r)
	http.Redirect(w, r, "./", http.StatusSeeOther)
}

// decide does what a button says.
func (p *Page) decide(w http.ResponseWriter, r *http.Request) {
	who, err := p.person(r, true)
	if err == nil && who == nil {
		if r.Header.Get("Authorization") == "" && strings.Contains(r.Header.Get("Accept"), "text/html") {
			http.Redirect(w, r, "sign-in", http.StatusSeeOther)
			return
		}
		err = refusal{http.StatusUnauthorized, "sign in first, or send Authorization: Bearer TOKEN"}
	}
	if err != nil {
		p.refuse(w, err)
		return
	}
	do, what := r.PostFormValue("do"), r.PostFormValue("what")
	if len(do)+len(what) > 600 { // two names, a digest, and what is between them
		p.refuse(w, refusal{http.StatusBadRequest, "there is no such decision"})
		return
	}
	done, err := p.carryOut(r.Context(), who.user, do, what, oneLine(r.PostFormValue("reason")))
	if err != nil {
		p.o.Log.Warn("decision refused", zap.String("do", do), zap.String("what", what), zap.String("by", who.user.Username), zap.Error(err))
	} else {
		p.o.Log.Info("decided on the page", zap.String("do", do), zap.String("what", what), zap.String("by", who.user.Username))
	}
	if who.session == nil {
		if err != nil {
			p.refuse(w, err)
			return
		}
		fmt.Fprintln(w, done)
		return
	}
	n := &notice{Text: done}
	if err != nil {
		n = &notice{true, err.Error()}
	}
	who.session.mu.Lock()
	who.session.notice = n
	who.session.mu.Unlock()
	http.Redirect(w, r, "./", http.StatusSeeOther)
}

// oneLine is a reason as the journal takes it.
func oneLine(text string) string {
	text = strings.Join(strings.FieldsFunc(text, func(r rune) bool { return unicode.IsControl(r) || unicode.IsSpace(r) }), " ")
	if r := []rune(text); len(r) > 500 {
		text = string(r[:500])
	}
	return text
}

// carryOut asks whether somebody may, and does it.
func (p *Page) carryOut(ctx context.Context, user authenticationv1.UserInfo, do, what, reason string) (string, error) {
	who, b := proposal.Author{By: user.Username, Reason: reason}, p.o.Backend
	need := p.access.approving()
	missing := fmt.Sprintf("get and update the ConfigMap %s in namespace %s", ApprovalsName, p.o.Namespace)
	object, digest, pinned := strings.Cut(what, "@")
	namespace, name, isObject := strings.Cut(object, "/")
	aboutObject := do == "approve-consolidation" || do == "reject-consolidation"
	if aboutObject {
		if !isObject || namespace == "" || name == "" || !pinned || digest == "" {
			return "", refusal{http.StatusBadRequest, "a Consolidation is named NAMESPACE/NAME@DIGEST"}
		}
		need = append(need[:0], consolidations("get", namespace, name), consolidations("patch", namespace, name))
		missing = fmt.Sprintf("get and patch consolidations.certherd.dev in namespace %s", namespace)
	}
	if !slices.Contains([]string{"approve", "approve-all", "resume", "approve-consolidation", "reject-consolidation"}, do) {
		return "", refusal{http.StatusBadRequest, "there is no such decision"}
	}
	switch ok, err := p.access.may(ctx, user, need...); {
	case err != nil:
		return "", err
	case !ok:
		return "", refusal{http.StatusForbidden, fmt.Sprintf("%s may not: this needs the right to %s", user.Username, missing)}
	}
	const soon = " It is carried out within seconds if windows and budget allow, else in the next round in which they do. The leader compares once more before it acts: what has changed since then waits again."
	var err error
	done := ""
	switch do {
	case "approve":
		if !pinned || digest == "" {
			return "", refusal{http.StatusBadRequest, "a change is named CHANGE@DIGEST"}
		}
		err, done = b.Approve(ctx, what, who), "Approved "+what+"."+soon
	case "approve-all":
		err, done = b.ApproveAll(ctx, what, who), "Approved all that waits."+soon
	case "resume":
		since, bad := time.Parse(time.RFC3339, what)
		if bad != nil {
			return "", refusal{http.StatusBadRequest, "a stop is named by its time"}
		}
		err, done = b.Resume(ctx, since, who), "Resumed: certherd goes on."
	case "approve-consolidation":
		err, done = b.ApproveConsolidation(ctx, namespace, name, digest, who), "Approved "+what+". It begins when mode and windows allow."
	case "reject-consolidation":
		err, done = b.RejectConsolidation(ctx, namespace, name, digest, who), "Rejected "+object+". To have it proposed again: certherd reject --forget "+object
	}
	if err != nil {
		return "", refusal{http.StatusConflict, "Not done: " + err.Error()}
	}
	return done, nil
}
