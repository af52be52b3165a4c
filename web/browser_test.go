package web

import (
	"context"
	"flag"
	"fmt"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	cdplog "github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"

	"github.com/certherd/certherd/api/v1alpha1"
	"github.com/certherd/certherd/e2e/chromium"
)

var screenshots = flag.String("screenshots", "", "write a screenshot of each page that TestBrowser opens into this directory")

// tab is a page in the browser, and what went wrong on it.
type tab struct {
	t       *testing.T
	ctx     context.Context
	mu      sync.Mutex
	trouble []string
}

func (b *tab) run(actions ...chromedp.Action[chromedp.Void]) {
	b.t.Helper()
	if err := chromedp.Do(b.ctx, actions...); err != nil {
		b.t.Fatal(err)
	}
}

func call[P, R any](command cdp.Command[P, R], params P) chromedp.Action[chromedp.Void] {
	return chromedp.Func(func(ctx context.Context, t *chromedp.Target) error {
		_, err := cdp.Call(ctx, t, command, params)
		return err
	})
}

func eval[T any](b *tab, expression string) T {
	b.t.Helper()
	v, err := chromedp.Run(b.ctx, chromedp.Evaluate[T](expression))
	if err != nil {
		b.t.Fatalf("%s: %v", expression, err)
	}
	return v
}

// open opens a new tab of a width in CSS pixels, without scripts.
func open(t *testing.T, browser context.Context, site, path string, width int, scheme string) *tab {
	t.Helper()
	ctx, cancel := chromedp.NewContext(browser)
	t.Cleanup(cancel)
	ctx, stop := context.WithTimeout(ctx, 5*time.Minute)
	t.Cleanup(stop)
	b := &tab{t: t, ctx: ctx}
	note := func(format string, a ...any) {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.trouble = append(b.trouble, fmt.Sprintf(format, a...))
	}
	if err := chromedp.Listen(ctx, func(event any) {
		switch e := event.(type) {
		case *cdplog.EventEntryAdded:
			if !strings.Contains(e.Entry.Text, "favicon") && !strings.HasSuffix(e.Entry.URL, "/favicon.ico") {
				note("%s: %s", e.Entry.Level, e.Entry.Text)
			}
		case *network.EventRequestWillBeSent:
			if !strings.HasPrefix(e.Request.URL, site) {
				note("it asks for %s", e.Request.URL)
			}
		}
	}); err != nil {
		t.Fatal(err)
	}
	b.run(call(network.Enable, network.EnableParams{}),
		call(emulation.SetDeviceMetricsOverride, emulation.SetDeviceMetricsOverrideParams{Width: int64(width), Height: 800, DeviceScaleFactor: 1, Mobile: width < 600}),
		call(emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}}}),
		chromedp.Navigate(site+path), chromedp.WaitReady(chromedp.CSS("footer")))
	t.Cleanup(func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		if len(b.trouble) > 0 {
			t.Errorf("the browser complains: %q", b.trouble)
		}
	})
	return b
}

func (b *tab) looks(name string, width int) {
	b.t.Helper()
	if w := eval[int](b, `document.documentElement.scrollWidth`); w > width {
		b.t.Errorf("%s: the page is %d px wide on a screen of %d px; first to stick out: %s", name, w, width, eval[string](b,
			fmt.Sprintf(`(() => { const e = Array.from(document.querySelectorAll("body *")).find(e => e.getBoundingClientRect().right > %d); return e ? e.outerHTML.slice(0, 200) : "" })()`, width)))
	}
	if nameless := eval[[]string](b, `Array.from(document.querySelectorAll("input:not([type=hidden]), button:not([hidden]), a, summary, svg[role=img]")).filter(e =>
		!(e.getAttribute("aria-label") || e.textContent.trim() || (e.labels && e.labels.length))).map(e => e.outerHTML)`); len(nameless) > 0 {
		b.t.Errorf("%s: without a name: %q", name, nameless)
	}
	if *screenshots == "" {
		return
	}
	png, err := chromedp.Run(b.ctx, chromedp.FullScreenshot(100))
	if err == nil {
		err = os.WriteFile(filepath.Join(*screenshots, name+".png"), png, 0o644)
	}
	if err != nil {
		b.t.Fatal(err)
	}
}

// focused describes what has the focus.
const focused = `(() => { const e = document.activeElement; return e === document.body ? "" : e.tagName + " " + (e.getAttribute("aria-label") || (e.labels && e.labels.length ? e.labels[0].innerText : e.innerText)).trim().slice(0, 60) })()`

// reach presses Tab until something has the focus that a text is part of, and looks
// that the focus can be seen all the way.
func (b *tab) reach(text string) {
	b.t.Helper()
	var passed []string
	for range 120 {
		b.run(chromedp.KeyEvent(kb.Tab))
		at := eval[string](b, focused)
		if at != "" && !eval[bool](b, `(() => { const e = document.activeElement, s = getComputedStyle(e), r = e.getBoundingClientRect(); return s.outlineStyle !== "none" && parseFloat(s.outlineWidth) >= 2 && r.width > 0 && r.height > 0 })()`) {
			b.t.Errorf("the focus on %s cannot be seen", at)
		}
		if passed = append(passed, at); strings.Contains(at, text) {
			return
		}
	}
	b.t.Fatalf("Tab does not reach %q, but %q", text, passed)
}

// arrives waits until a page that holds a text has been read; while one page gives way
// to the next one, nothing can be asked.
func (b *tab) arrives(text string) {
	b.t.Helper()
	for end := time.Now().Add(2 * time.Minute); ; time.Sleep(50 * time.Millisecond) {
		ok, err := chromedp.Run(b.ctx, chromedp.Evaluate[bool](fmt.Sprintf(`document.readyState === "complete" && document.body.innerText.includes(%q)`, text)))
		if err == nil && ok {
			return
		}
		if time.Now().After(end) {
			b.t.Fatalf("after two minutes the page does not say %q: %v", text, err)
		}
	}
}

func TestBrowser(t *testing.T) {
	if testing.Short() {
		t.Skip("a real browser takes its time")
	}
	browser := chromium.Start(t)
	serve := func(t *testing.T, mode Mode) (*site, string) {
		s := newSite(t, mode)
		c := &v1alpha1.Consolidation{}
		c.Namespace, c.Name, c.Spec.Wildcards, c.Spec.Hosts = "shop", "wildcard-shop-example-com-6e331a74", []string{"*.shop.example.com"}, []string{"a.shop.example.com", "b.shop.example.com"}
		c.Spec.Members = make([]v1alpha1.Member, 2)
		c.Status.Phase, c.Status.Message, c.Status.Digest = v1alpha1.Proposed, "waits for approval", c.Spec.Digest()
		s.objects = []*v1alpha1.Consolidation{c}
		server := httptest.NewServer(s.page)
		t.Cleanup(server.Close)
		return s, server.URL + "/"
	}

	// By the keyboard alone: sign in, give a reason, approve, reject, sign out.
	t.Run("keyboard", func(t *testing.T) {
		s, url := serve(t, SignIn)
		b := open(t, browser, url, "", 1280, "light")
		b.looks("nobody-1280-light", 1280)
		b.reach("Sign in to decide")
		b.run(chromedp.KeyEvent(kb.Enter))
		b.arrives("Token of a Kubernetes account")
		b.looks("sign-in-1280-light", 1280)
		b.reach("Token of a Kubernetes account")
		b.run(chromedp.KeyEvent("token-of-ann" + kb.Enter))
		b.arrives("Signed in as ann")
		b.looks("ann-1280-light", 1280)
		b.reach("Reason")
		b.run(chromedp.KeyEvent("CHG-4711"))
		b.reach("Approve OrphanedSecret")
		b.run(chromedp.KeyEvent(kb.Enter))
		b.arrives("Approved 3fa9c2d0b1@5e8d21c4a0")
		// Enter in a reason decides nothing where there are two decisions.
		b.reach("Approve shop/wildcard")
		b.reach("Reject shop/wildcard")
		b.run(chromedp.KeyEvent(kb.Enter))
		b.arrives("Rejected shop/wildcard-shop-example-com-6e331a74")
		b.run(chromedp.Evaluate[chromedp.Void](`document.querySelector("button[value=approve-consolidation]").form.querySelector("input[name=reason]").focus()`),
			chromedp.KeyEvent("no decision"+kb.Enter))
		b.reach("Sign out")
		b.run(chromedp.KeyEvent(kb.Enter))
		b.arrives("Sign in to decide")
		s.mu.Lock()
		defer s.mu.Unlock()
		if want := "approve 3fa9c2d0b1@5e8d21c4a0 by ann: CHG-4711|reject shop/wildcard-shop-example-com-6e331a74@" + s.objects[0].Status.Digest + " by ann: "; strings.Join(s.done, "|") != want {
			t.Errorf("done: %q, want %s", s.done, want)
		}
	})

	for _, width := range []int{320, 390, 1280} {
		for _, scheme := range []string{"light", "dark"} {
			t.Run(fmt.Sprintf("%d %s", width, scheme), func(t *testing.T) {
				s, url := serve(t, SignIn)
				s.state.Stopped = "everything is stopped since 2026-11-23 11:00 UTC, because after a batch of changes kourier-system/3scale-kourier-gateway-7c5d rejected 4 updates: look at the gateways, then `certherd approve --resume`"
				s.said = Said{Stopped: noon.Add(-time.Hour), Given: []Given{{Token: "3fa9c2d0b1@5e8d21c4a0", By: "system:serviceaccount:platform:a-very-long-name-of-somebody-who-approves", Until: noon.Add(time.Hour), Reason: "CHG-1"}}}
				s.state.Waiting[0].Steps[0].Object.Name = strings.Repeat("long-", 40)
				b := open(t, browser, url, "sign-in", width, scheme)
				b.looks(fmt.Sprintf("sign-in-%d-%s", width, scheme), width)
				b.run(chromedp.SendKeys(chromedp.CSS("#token"), "token-of-ann"+kb.Enter))
				b.arrives("Signed in as ann")
				b.looks(fmt.Sprintf("stopped-%d-%s", width, scheme), width)
				if s := eval[string](b, `getComputedStyle(document.body).backgroundColor`); (s == "rgb(251, 251, 249)") != (scheme == "light") {
					t.Errorf("the %s page has the background %s", scheme, s)
				}
			})
		}
	}
}
