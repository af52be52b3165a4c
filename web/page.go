package web

import (
	"cmp"
	"context"
	"crypto/sha256"
	"embed"
	"encoding/base64"
	"fmt"
	"html/template"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/certherd/certherd/api/v1alpha1"
	"github.com/certherd/certherd/apply"
	"github.com/certherd/certherd/config"
	"github.com/certherd/certherd/gate"
	"github.com/certherd/certherd/proposal"
	"github.com/certherd/certherd/report"
)

//go:embed html/page.html html/sign-in.html html/page.css
var files embed.FS

var (
	css = func() string {
		b, err := files.ReadFile("html/page.css")
		if err != nil {
			panic(err) // it is embedded: it was there when this was built
		}
		return string(b)
	}()
	// policy allows the page's own style by its hash, forms to itself, and nothing else:
	// no script, no picture, no other origin, no frame around it.
	policy = "default-src 'none'; style-src '" + hashOf(css) + "'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"

	templates = template.Must(template.New("").Funcs(template.FuncMap{
		"stamp":  stamp,
		"minute": func(t time.Time) string { return t.UTC().Format("01-02 15:04") },
		"first":  func(list []report.Finding) []report.Finding { return list[:min(len(list), sinceShown)] },
		"join":   func(list []string) string { return strings.Join(list, ", ") },
	}).ParseFS(files, "html/*.html"))
)

// hashOf is the hash-source of Content Security Policy Level 3 of an inline style.
func hashOf(text string) string {
	sum := sha256.Sum256([]byte(text))
	return "sha256-" + base64.StdEncoding.EncodeToString(sum[:])
}

func stamp(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05 UTC") }

// The most that lists show; the report has all.
const (
	waitingShown = 30
	historyShown = 12
	sinceShown   = 20 // of those that came, and of those that went
	namesShown   = 3
)

// frame is what each page has.
type frame struct {
	CSS template.CSS
}

func newFrame() frame { return frame{template.CSS(css)} }

// content is what the page shows to somebody.
type content struct {
	frame
	State
	Now     time.Time
	Refresh int
	User    string // empty for somebody who has not signed in
	SignIn  bool   // it is possible
	Notice  *notice
	Trouble []string // what could not be asked

	Approver       bool
	Since          string // of the stop
	Said           Said
	Changes        []change
	More           int
	Consolidations []item
	Holds          []hold
	Findings       []tally
	Remembers      bool
	History        []apply.Entry
	Curves         []curve
	Predicted      bool // the curve of memory
	Next           config.Coming
	NextRule       gate.Rule
}

// change is one that waits for a person.
type change struct {
	report.Change
	Object, Token string
	Alone         bool // it can be approved without the others
}

// item is a Consolidation.
type item struct {
	*v1alpha1.Consolidation
	Token                 string
	CanApprove, CanReject bool
}

// hold is why changes are not carried out.
type hold struct {
	Why   string
	Count int
	Names []string
	Until time.Time
}

// tally counts the findings of a reason.
type tally struct {
	report.Rule
	Count int
}

// content gathers what the page shows. Of what somebody may see only if they have
// signed in, nothing is asked for others.
func (p *Page) content(ctx context.Context, who *person) content {
	now := p.o.Now()
	x := content{frame: newFrame(), State: p.o.Backend.State(now), Now: now, SignIn: p.o.Mode != Open}
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	if who != nil {
		x.User = who.user.Username
		if who.session != nil {
			who.session.mu.Lock()
			x.Notice, who.session.notice = who.session.notice, nil
			who.session.mu.Unlock()
		}
		p.forPerson(ctx, who, &x)
	}
	for _, o := range x.Rules {
		if len(o.Rounds) > 0 && (x.NextRule == "" || o.Rounds[0].At.Before(x.Next.At)) {
			x.NextRule, x.Next = o.Rule, o.Rounds[0]
		}
	}
	for _, c := range x.Waiting {
		if c.Wildcard != "" && len(x.Consolidations) > 0 {
			continue // it is among the Consolidations
		}
		if len(x.Changes) == waitingShown {
			x.More++
			continue
		}
		object := c.Wildcard
		if object == "" && len(c.Steps) > 0 {
			object = c.Steps[0].Object.String()
		}
		x.Changes = append(x.Changes, change{c, object, c.ID + "@" + c.Digest, c.WaitsFor != string(gate.TooMuch)})
	}
	x.Holds = holds(x.State)
	x.Findings = tallies(x.State)
	if len(x.Samples) > 0 {
		number := func(v float64) string { return fmt.Sprintf("%.0f", v) }
		x.Curves = []curve{
			newCurve("Certificates that gateways load", x.Samples, func(s Sample) float64 { return s.Certificates }, number),
			newCurve("Memory of gateways", x.Samples, func(s Sample) float64 { return s.MiB }, func(v float64) string { return fmt.Sprintf("%.0f MiB", v) }),
			newCurve("Updates given to gateways", x.Samples, func(s Sample) float64 { return s.Updates }, number),
		}
		x.Predicted = x.Report != nil && slices.ContainsFunc(x.Report.Gateways, func(g report.Gateway) bool { return g.Measured == nil })
	}
	return x
}

// forPerson asks for what the right of somebody is needed for.
func (p *Page) forPerson(ctx context.Context, who *person, x *content) {
	trouble := func(what string, err error) {
		p.o.Log.Warn("page not complete", zap.String("what", what), zap.Error(err))
		x.Trouble = append(x.Trouble, what+": "+err.Error())
	}
	var err error
	if x.Approver, err = p.access.may(ctx, who.user, p.access.approving()...); err != nil {
		trouble("what you may do", err)
		return
	}
	if x.Approver {
		if x.Said, err = p.o.Backend.Said(ctx); err != nil {
			trouble("approvals", err)
		}
		if !x.Said.Stopped.IsZero() {
			x.Since = x.Said.Stopped.UTC().Format(time.RFC3339)
		}
	}
	if x.Remembers, err = p.access.may(ctx, who.user, p.access.remembering()); err != nil {
		trouble("history", err)
	} else if x.Remembers {
		if x.History, err = p.o.Backend.History(ctx); err != nil {
			trouble("history", err)
			x.Remembers = false
		}
		slices.SortStableFunc(x.History, func(a, b apply.Entry) int { return b.Time.Compare(a.Time) })
		x.History = x.History[:min(len(x.History), historyShown)]
	}
	if x.Consolidations, err = p.consolidations(ctx, who); err != nil {
		trouble("Consolidations", err)
	}
}

// namespacesAsked is in how many namespaces it is asked what somebody may do there.
const namespacesAsked = 30

// consolidations are those that somebody may list, with what they may do about them.
func (p *Page) consolidations(ctx context.Context, who *person) ([]item, error) {
	all, err := p.o.Backend.Consolidations(ctx)
	if err != nil || len(all) == 0 {
		return nil, err
	}
	type rights struct{ list, patch bool }
	ask := func(namespace string) (r rights, err error) {
		if r.list, err = p.access.may(ctx, who.user, consolidations("list", namespace, "")); err == nil && r.list {
			r.patch, err = p.access.may(ctx, who.user, consolidations("get", namespace, ""), consolidations("patch", namespace, ""))
		}
		return r, err
	}
	everywhere, err := ask("")
	if err != nil {
		return nil, err
	}
	in := map[string]rights{}
	var out []item
	for _, c := range all {
		r, known := in[c.Namespace]
		switch {
		case everywhere.patch || known:
		case len(in) < namespacesAsked:
			if r, err = ask(c.Namespace); err != nil {
				return nil, err
			}
			in[c.Namespace] = r
		}
		r.list, r.patch = r.list || everywhere.list, r.patch || everywhere.patch
		if !r.list {
			continue
		}
		x := item{Consolidation: c, Token: c.Namespace + "/" + c.Name + "@" + c.Status.Digest}
		x.CanApprove = r.patch && !c.Spec.Approved() && !c.Spec.Rejected && proposal.Approvable(c, "", false) == nil
		x.CanReject = r.patch && !c.Spec.Rejected && c.Status.Digest != "" && !c.Status.Phase.Ended() && c.Status.Phase != v1alpha1.Withdrawn
		out = append(out, x)
	}
	slices.SortStableFunc(out, func(a, b item) int {
		first := func(x item) int {
			if x.CanApprove {
				return 0
			}
			return 1
		}
		return cmp.Or(cmp.Compare(first(a), first(b)), cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	return out[:min(len(out), waitingShown)], nil
}

// holds groups what is held, but not what waits for a person, by why.
func holds(s State) []hold {
	var out []hold
	at := map[string]int{}
	add := func(why, name string, until time.Time) {
		i, ok := at[why]
		if !ok {
			i = len(out)
			at[why] = i
			out = append(out, hold{Why: why})
		}
		h := &out[i]
		if h.Count++; len(h.Names) < namesShown && name != "" {
			h.Names = append(h.Names, name)
		}
		if h.Until.Before(until) {
			h.Until = until
		}
	}
	if s.Report != nil {
		for _, c := range s.Report.Changes {
			if c.Held == "" || c.Digest != "" {
				continue
			}
			name := c.Wildcard
			if name == "" && len(c.Steps) > 0 {
				name = c.Steps[0].Object.String()
			}
			add(c.Held, name, time.Time{})
		}
	}
	for _, h := range s.Held {
		// The name of a Consolidation is not in the report.
		add("gateways: "+h.Why, string(h.Action), h.Until)
	}
	for i := range out {
		slices.Sort(out[i].Names)
		out[i].Names = slices.Compact(out[i].Names)
	}
	slices.SortStableFunc(out, func(a, b hold) int { return cmp.Compare(b.Count, a.Count) })
	return out[:min(len(out), waitingShown)]
}

// tallies counts findings by reason, serious ones first.
func tallies(s State) []tally {
	if s.Report == nil {
		return nil
	}
	counts := map[string]int{}
	for _, f := range s.Report.Findings {
		counts[f.Reason]++
	}
	var out []tally
	for _, r := range s.Reasons {
		if n := counts[r.Reason]; n > 0 {
			out = append(out, tally{r, n})
			delete(counts, r.Reason)
		}
	}
	for reason, n := range counts {
		out = append(out, tally{report.Rule{Reason: reason}, n})
	}
	level := func(t tally) int { return slices.Index([]string{report.LevelError, report.LevelWarning}, t.Level) + 3 }
	slices.SortStableFunc(out, func(a, b tally) int {
		rank := func(t tally) int {
			if l := level(t); l > 2 {
				return l
			}
			return 9
		}
		return cmp.Or(cmp.Compare(rank(a), rank(b)), cmp.Compare(b.Count, a.Count), cmp.Compare(a.Reason, b.Reason))
	})
	return out
}
