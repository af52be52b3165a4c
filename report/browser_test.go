package report

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/accessibility"
	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	cdplog "github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	cdppage "github.com/chromedp/cdproto/page"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"

	"github.com/certherd/certherd/e2e/chromium"
)

var screenshots = flag.String("screenshots", "", "write a screenshot of each page that TestBrowser opens into this directory")

// tab is one page in the browser, and what went wrong on it.
type tab struct {
	t   *testing.T
	ctx context.Context

	mu       sync.Mutex
	trouble  []string
	requests []string
}

// open shows r in a new tab of the given width in CSS pixels.
func open(t *testing.T, browser context.Context, r *Report, o Options, width int, actions ...chromedp.Action[chromedp.Void]) *tab {
	t.Helper()
	file := filepath.Join(t.TempDir(), "report.html")
	if err := os.WriteFile(file, write(t, "html", r, o), 0o644); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := chromedp.NewContext(browser)
	t.Cleanup(cancel)
	ctx, stop := context.WithTimeout(ctx, 10*time.Minute)
	t.Cleanup(stop)
	b := &tab{t: t, ctx: ctx}
	note := func(list *[]string, format string, a ...any) {
		b.mu.Lock()
		defer b.mu.Unlock()
		*list = append(*list, fmt.Sprintf(format, a...))
	}
	url := "file://" + file
	if err := chromedp.Listen(ctx, func(event any) {
		switch e := event.(type) {
		case *runtime.EventExceptionThrown:
			note(&b.trouble, "exception: %s", e.ExceptionDetails.Text)
		case *runtime.EventConsoleAPICalled:
			note(&b.trouble, "console.%s: %d arguments", e.Type, len(e.Args))
		case *cdplog.EventEntryAdded:
			note(&b.trouble, "%s: %s", e.Entry.Level, e.Entry.Text)
		case *cdppage.EventJavascriptDialogOpening:
			note(&b.trouble, "dialog: %s", e.Message)
		case *network.EventRequestWillBeSent:
			if e.Request.URL != url && !strings.HasPrefix(e.Request.URL, "data:") {
				note(&b.requests, "%s", e.Request.URL)
			}
		}
	}); err != nil {
		t.Fatal(err)
	}
	b.run(call(network.Enable, network.EnableParams{}))
	b.run(call(emulation.SetDeviceMetricsOverride, emulation.SetDeviceMetricsOverrideParams{
		Width: int64(width), Height: 800, DeviceScaleFactor: 1, Mobile: width < 600}))
	b.run(actions...)
	b.run(chromedp.Navigate(url), chromedp.WaitReady(chromedp.CSS("footer")))
	t.Cleanup(func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		if len(b.trouble) > 0 {
			t.Errorf("the browser complains: %q", b.trouble)
		}
		if len(b.requests) > 0 {
			t.Errorf("the page asked the network for %q", b.requests)
		}
	})
	return b
}

func (b *tab) run(actions ...chromedp.Action[chromedp.Void]) {
	b.t.Helper()
	if err := chromedp.Do(b.ctx, actions...); err != nil {
		b.t.Fatal(err)
	}
}

// call makes a step of a command whose result does not matter.
func call[P, R any](command cdp.Command[P, R], params P) chromedp.Action[chromedp.Void] {
	return chromedp.Func(func(ctx context.Context, t *chromedp.Target) error {
		_, err := cdp.Call(ctx, t, command, params)
		return err
	})
}

// poll makes a step that waits until a JavaScript expression is true.
func poll(expression string) chromedp.Action[chromedp.Void] {
	return chromedp.Poll[chromedp.Void](expression)
}

// media makes a step that shows the page on the given medium, "" for the
// screen, in the given colour scheme.
func media(medium, scheme string) chromedp.Action[chromedp.Void] {
	return call(emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Media: medium,
		Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}}})
}

// eval gives the value of a JavaScript expression.
func eval[T any](b *tab, expression string) T {
	b.t.Helper()
	v, err := chromedp.Run(b.ctx, chromedp.Evaluate[T](expression, chromedp.EvalAwaitPromise))
	if err != nil {
		b.t.Fatalf("%s: %v", expression, err)
	}
	return v
}

func (b *tab) screenshot(name string) {
	if *screenshots == "" {
		return
	}
	png, err := chromedp.Run(b.ctx, chromedp.FullScreenshot(100))
	if err != nil {
		b.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(*screenshots, name+".png"), png, 0o644); err != nil {
		b.t.Fatal(err)
	}
}

// column gives the text of the n-th cell of each row that can be seen.
func (b *tab) column(n int) []string {
	b.t.Helper()
	return eval[[]string](b, fmt.Sprintf(`Array.from(document.querySelectorAll("table.findings tbody tr")).filter(tr => tr.checkVisibility()).map(tr => tr.cells[%d].innerText.trim())`, n))
}

func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }

// missing gives the texts of r that the page does not hold.
func missing(r *Report, text string) []string {
	text = oneLine(text)
	var none []string
	look := func(s string) {
		want := ""
		for _, c := range oneLine(s) {
			switch {
			case c == 0: // which no HTML page can hold
				want += "\uFFFD"
			case unseen(c):
				want += fmt.Sprintf("\\u%04x", c)
			default:
				want += string(c)
			}
		}
		if !strings.Contains(text, want) {
			none = append(none, want)
		}
	}
	for _, f := range r.Findings {
		look(f.Reason)
		look(f.Object.Name)
		look(f.Message)
		for _, e := range f.Evidence {
			look(e.From.String())
			look(e.Field)
		}
		for _, o := range f.Related {
			look(o.String())
		}
	}
	for _, c := range r.Changes {
		look(c.ID)
		look(c.Message)
		look(c.Held)
		for _, s := range c.Steps {
			look(s.Object.String())
		}
	}
	for _, g := range r.Gaps {
		look(g.Kind)
		look(g.Reason)
	}
	return none
}

func many(base *Report, n int) *Report {
	r := base.clone()
	r.Findings = nil
	for i := range n {
		f := base.Findings[i%len(base.Findings)]
		f.Object.Name = fmt.Sprintf("%s-%04d", f.Object.Name, i)
		f.Object.Namespace = fmt.Sprintf("team-%d", i%150)
		r.Findings = append(r.Findings, f)
	}
	for i := range 150 {
		r.Namespaces = append(r.Namespaces, Namespace{Name: fmt.Sprintf("team-%d", i), GatewayCertificates: NowAfter{200 - i, 1 + i%3}})
	}
	return r
}

func TestBrowser(t *testing.T) {
	if testing.Short() {
		t.Skip("a real browser takes its time")
	}
	cases := goldens(t)
	browser := chromium.Start(t)

	t.Run("every page fits, says everything and asks for nothing", func(t *testing.T) {
		for name, g := range cases {
			for _, width := range []int{320, 360, 1280} {
				for _, scheme := range []string{"light", "dark"} {
					t.Run(fmt.Sprintf("%s %d %s", name, width, scheme), func(t *testing.T) {
						b := open(t, browser, g.report, Options{Rules: g.rules, Version: "v1"}, width, media("", scheme))
						b.screenshot(fmt.Sprintf("%s-%d-%s", name, width, scheme))
						b.run(chromedp.Evaluate[chromedp.Void](`document.querySelectorAll("details").forEach(d => { d.open = true })`))
						if w := eval[int](b, `document.documentElement.scrollWidth`); w > width {
							t.Errorf("the page is %d px wide on a screen of %d px; first to stick out: %s", w, width, eval[string](b,
								fmt.Sprintf(`(() => { const e = Array.from(document.querySelectorAll("body *")).find(e => e.getBoundingClientRect().right > %d); return e ? e.outerHTML.slice(0, 200) : "" })()`, width)))
						}
						// What the screen shows, details open; not merely what the source holds.
						if none := missing(g.report, eval[string](b, `document.body.innerText`)); len(none) > 0 {
							t.Errorf("not on the page: %q", none)
						}
						if s := eval[string](b, `getComputedStyle(document.body).backgroundColor`); (s == "rgb(251, 251, 249)") != (scheme == "light") {
							t.Errorf("the %s page has the background %s", scheme, s)
						}
					})
				}
			}
		}
	})

	t.Run("without JavaScript", func(t *testing.T) {
		g := cases["typical"]
		b := open(t, browser, g.report, Options{Rules: g.rules}, 1280, call(emulation.SetScriptExecutionDisabled, emulation.SetScriptExecutionDisabledParams{Value: true}))
		if n := len(b.column(0)); n != len(g.report.Findings) {
			t.Errorf("%d of %d findings can be seen", n, len(g.report.Findings))
		}
		if eval[bool](b, `document.getElementById("tools").checkVisibility()`) {
			t.Error("the tools are shown though they can do nothing")
		}
		b.run(chromedp.Click(chromedp.CSS(".findings tbody summary")))
		if !eval[bool](b, `document.querySelector(".findings tbody li").checkVisibility()`) {
			t.Error("evidence does not open")
		}
	})

	t.Run("the policy stops what slips in", func(t *testing.T) {
		g := cases["typical"]
		b := open(t, browser, g.report, Options{}, 1280)
		refused := eval[bool](b, `(() => {
			const s = document.createElement("script"); s.textContent = "window.slipped = 1"; document.body.append(s);
			return window.slipped === undefined })()`)
		if !refused {
			t.Error("a script of somebody else's ran")
		}
		if got := eval[string](b, `fetch("http://127.0.0.1:9/").then(() => "sent", e => e.name)`); got == "sent" {
			t.Error("fetch went through")
		}
		b.mu.Lock()
		defer b.mu.Unlock()
		if len(b.trouble) < 2 {
			t.Errorf("the browser reports %q, want two violations of the policy", b.trouble)
		}
		b.trouble, b.requests = nil, nil
	})

	t.Run("5000 findings", func(t *testing.T) {
		g := cases["typical"]
		r := many(g.report, 5000)
		b := open(t, browser, r, Options{Rules: g.rules}, 1280)
		b.screenshot("many-1280")
		count := func() string { return eval[string](b, `document.getElementById("count").textContent`) }
		if got := count(); got != "5,000 of 5,000 findings, the first 200 shown" {
			t.Errorf("count says %q", got)
		}
		if n := len(b.column(0)); n != 200 {
			t.Errorf("%d rows are drawn", n)
		}
		if none := missing(r, eval[string](b, `document.body.textContent`)); len(none) > 0 {
			t.Errorf("%d texts are not on the page, such as %q", len(none), none[0])
		}
		b.run(chromedp.Click(chromedp.CSS("#more")))
		if n := len(b.column(0)); n != 400 {
			t.Errorf("after \"more\", %d rows are drawn", n)
		}

		want := func(keep func(Finding) bool) int {
			n := 0
			for _, f := range r.Findings {
				if keep(f) {
					n++
				}
			}
			return n
		}
		expect := func(what string, n int) {
			t.Helper()
			if got := count(); !strings.HasPrefix(got, fmt.Sprintf("%s of 5,000 findings", thousands(n))) {
				t.Errorf("%s: count says %q, want %d", what, got, n)
			}
			if rows := len(b.column(0)); rows != min(n, 200) {
				t.Errorf("%s: %d rows are drawn, want %d", what, rows, min(n, 200))
			}
		}
		reset := func() {
			b.run(chromedp.Click(chromedp.CSS("#tools button[type=reset]")))
			b.run(poll(`document.getElementById("count").textContent.startsWith("5,000 of 5,000")`))
		}
		choose := func(id, value string) {
			b.run(chromedp.Evaluate[chromedp.Void](fmt.Sprintf(`(() => { const s = document.getElementById(%q); s.value = %q; s.dispatchEvent(new Event("change")) })()`, id, value)))
		}
		b.run(chromedp.SendKeys(chromedp.CSS("#text"), "CHECKOUT renews"))
		expect("search", want(func(f Finding) bool {
			return strings.Contains(f.Object.Name+f.Message, "checkout") && strings.Contains(f.Message, "renews")
		}))
		choose("namespace", "team-7")
		expect("search in a namespace", want(func(f Finding) bool {
			return strings.Contains(f.Object.Name+f.Message, "checkout") && strings.Contains(f.Message, "renews") && f.Object.Namespace == "team-7"
		}))
		reset()
		choose("verdict", "unknown")
		expect("verdict", want(func(f Finding) bool { return f.Verdict == "unknown" }))
		for _, v := range b.column(1) {
			if v != "unknown" {
				t.Errorf("a row with verdict %q is shown", v)
			}
		}
		choose("verdict", "-")
		expect("no verdict", want(func(f Finding) bool { return f.Verdict == "" }))
		reset()
		choose("reason", "MissingSecret")
		expect("reason", want(func(f Finding) bool { return f.Reason == "MissingSecret" }))
		reset()
		b.run(chromedp.Click(chromedp.CSS(`a[data-reason="UnrenewedSecret"]`)),
			poll(`document.getElementById("reason").value === "UnrenewedSecret"`))
		expect("link of a reason", want(func(f Finding) bool { return f.Reason == "UnrenewedSecret" }))

		// Sorted by the keyboard, as a person without a mouse would.
		head := func(n int) string { return fmt.Sprintf(".findings thead th:nth-child(%d)", n) }
		b.run(chromedp.Focus(chromedp.CSS(head(4)+" button")), chromedp.KeyEvent(kb.Enter))
		up := b.column(3)
		if !slices.IsSorted(up) || len(up) < 50 || eval[string](b, `document.querySelector("`+head(4)+`").getAttribute("aria-sort")`) != "ascending" {
			t.Errorf("sorted by object: %q", up)
		}
		b.run(chromedp.KeyEvent(kb.Enter))
		down := b.column(3)
		slices.Reverse(down)
		if !slices.Equal(up, down) || eval[string](b, `document.querySelector("`+head(4)+`").getAttribute("aria-sort")`) != "descending" {
			t.Errorf("sorted by object, down: %q", down)
		}
		b.run(chromedp.Click(chromedp.CSS(head(3) + " button")))
		places := eval[[]int](b, `Array.from(document.querySelectorAll("table.findings tbody tr")).filter(tr => tr.checkVisibility()).map(tr => Number(tr.cells[2].innerText.slice(5)))`)
		if !slices.IsSorted(places) || places[0] == places[len(places)-1] {
			t.Errorf("sorted by namespace: %v", places)
		}
		reset()
		if first := b.column(0)[0]; first != g.rules[0].Reason {
			t.Errorf("after a reset the first finding is %s", first)
		}
	})

	t.Run("print", func(t *testing.T) {
		g := cases["typical"]
		r := many(g.report, 250)
		b := open(t, browser, r, Options{Rules: g.rules}, 1280, media("print", "light"))
		if n := len(b.column(0)); n != 250 {
			t.Errorf("%d of 250 findings are printed", n)
		}
		pdf, err := chromedp.Run(b.ctx, chromedp.PrintToPDF())
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.HasPrefix(pdf, []byte("%PDF-")) {
			t.Error("no PDF came out")
		}
	})

	// The page tells a screen reader what it shows: names and roles as the
	// browser's own accessibility tree has them.
	t.Run("accessible names", func(t *testing.T) {
		g := cases["typical"]
		b := open(t, browser, g.report, Options{Rules: g.rules}, 360)
		nameless := eval[[]string](b, `Array.from(document.querySelectorAll("input, select, button, a, summary, svg[role=img]")).filter(e =>
			!(e.getAttribute("aria-label") || e.textContent.trim() || (e.labels && e.labels.length))).map(e => e.outerHTML)`)
		if len(nameless) > 0 {
			t.Errorf("without a name: %q", nameless)
		}
		tree, err := chromedp.Call(b.ctx, accessibility.GetFullAXTree, accessibility.GetFullAXTreeParams{})
		if err != nil {
			t.Fatal(err)
		}
		rows := 0
		for _, n := range tree.Nodes {
			if n.Role != nil && string(n.Role.Value) == `"row"` {
				rows++
			}
		}
		if rows < len(g.report.Findings) {
			t.Errorf("on a phone the accessibility tree has %d rows, fewer than the %d findings", rows, len(g.report.Findings))
		}
	})
}
