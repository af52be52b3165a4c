package notify

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var monday = time.Date(2026, 11, 23, 9, 0, 0, 0, time.UTC)

func TestBody(t *testing.T) {
	m := Message{Source: "prod", More: 2, Notes: []Note{
		{Time: monday, Warning: true, Reason: "Stopped", Object: "ConfigMap/certherd/certherd", Message: "<!channel> & *all*\nis held"},
		{Time: monday, Reason: "Deleted", Object: "Secret/shop/web-tls", Message: "nobody uses it"},
	}}
	for f, want := range map[Format]string{
		Generic: `{"source":"prod","notes":[{"time":"2026-11-23T09:00:00Z","warning":true,"reason":"Stopped","object":"ConfigMap/certherd/certherd","message":"\u003c!channel\u003e \u0026 *all*\nis held"},` +
			`{"time":"2026-11-23T09:00:00Z","warning":false,"reason":"Deleted","object":"Secret/shop/web-tls","message":"nobody uses it"}],"more":2}`,
		Slack: `{"text":"*prod*: 4 notes, 1 warning\n⚠ *Stopped* ConfigMap/certherd/certherd: \u0026lt;!channel\u0026gt; \u0026amp; *all* is held\n· *Deleted* Secret/shop/web-tls: nobody uses it\nand 2 more: see the Events, or /report"}`,
		Teams: `{"attachments":[{"content":{"$schema":"http://adaptivecards.io/schemas/adaptive-card.json","body":[` +
			`{"size":"Medium","text":"**prod**: 4 notes, 1 warning","type":"TextBlock","wrap":true},` +
			`{"text":"⚠ **Stopped** ConfigMap/certherd/certherd: \u0026lt;!channel> \u0026 \\*all\\* is held","type":"TextBlock","wrap":true},` +
			`{"text":"· **Deleted** Secret/shop/web-tls: nobody uses it","type":"TextBlock","wrap":true},` +
			`{"text":"and 2 more: see the Events, or /report","type":"TextBlock","wrap":true}],"type":"AdaptiveCard","version":"1.4"},` +
			`"contentType":"application/vnd.microsoft.card.adaptive"}],"type":"message"}`,
	} {
		got, err := Body(f, m)
		if err != nil {
			t.Fatal(err)
		}
		var a, b any
		if err := json.Unmarshal(got, &a); err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal([]byte(want), &b); err != nil {
			t.Fatalf("%s: %v", f, err)
		}
		if diff := cmp.Diff(b, a); diff != "" {
			t.Errorf("%s (-want +got):\n%s", f, diff)
		}
	}
	if _, err := Body("pager", m); err == nil {
		t.Error("a format that does not exist is taken")
	}
	for range 200 {
		m.Notes = append(m.Notes, Note{Reason: "Deleted", Object: "Secret/shop/web-tls", Message: strings.Repeat("é", 600)})
	}
	m.Notes = m.Notes[:limit]
	if body, _ := Body(Teams, m); len(body) > 28<<10 {
		t.Errorf("the longest message has %d bytes, and Teams takes 28 KiB", len(body))
	}
}

// receiver is a webhook that keeps what it is sent.
type receiver struct {
	*httptest.Server
	file   string
	mu     sync.Mutex
	bodies []Message
	fail   []int // what the next requests are answered
}

func receive(t *testing.T) *receiver {
	r := &receiver{file: filepath.Join(t.TempDir(), "url")}
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		r.mu.Lock()
		defer r.mu.Unlock()
		if len(r.fail) > 0 {
			w.WriteHeader(r.fail[0])
			fmt.Fprint(w, "no")
			r.fail = r.fail[1:]
			return
		}
		body, _ := io.ReadAll(q.Body)
		var m Message
		if err := json.Unmarshal(body, &m); err != nil {
			t.Error(err)
		}
		r.bodies = append(r.bodies, m)
	}))
	t.Cleanup(r.Close)
	if err := os.WriteFile(r.file, []byte(r.URL+"/hook/s3cret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return r
}

// sent runs a Sender that is told notes, until its end, and returns what the
// webhook says of it.
func sent(t *testing.T, w Webhook, notes ...Note) (errs []error) {
	t.Helper()
	results := make(chan error, 10)
	s := New(func() Settings { return Settings{"prod", time.Hour, []Webhook{w}} }, func(_ Webhook, err error) { results <- err })
	s.backoff.Duration = time.Millisecond
	for _, n := range notes {
		s.Tell(n)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	s.Run(ctx, time.Minute)
	close(results)
	for err := range results {
		errs = append(errs, err)
	}
	return errs
}

func TestOneMessageForAll(t *testing.T) {
	r := receive(t)
	notes := []Note{{Time: monday, Reason: "Deleted", Object: "Secret/a/b"}, {Time: monday, Reason: "Stopped", Warning: true}}
	if errs := sent(t, Webhook{Format: Generic, URLFile: r.file}, notes...); len(errs) != 1 || errs[0] != nil {
		t.Fatal(errs)
	}
	if errs := sent(t, Webhook{Format: Generic, URLFile: r.file, Warnings: true}, notes...); len(errs) != 1 || errs[0] != nil {
		t.Fatal(errs)
	}
	if diff := cmp.Diff([]Message{{Source: "prod", Notes: notes}, {Source: "prod", Notes: notes[1:]}}, r.bodies); diff != "" {
		t.Error(diff)
	}
}

func TestNothingToSaySaysNothing(t *testing.T) {
	r := receive(t)
	errs := append(sent(t, Webhook{Format: Generic, URLFile: r.file}), sent(t, Webhook{Format: Generic, URLFile: r.file, Warnings: true}, Note{Reason: "Deleted"})...)
	if len(errs) > 0 || len(r.bodies) > 0 {
		t.Errorf("it was sent: %v, %v", r.bodies, errs)
	}
}

func TestSentAfterTheDelay(t *testing.T) {
	r := receive(t)
	results := make(chan error)
	s := New(func() Settings {
		return Settings{"prod", time.Millisecond, []Webhook{{Format: Generic, URLFile: r.file}}}
	}, func(_ Webhook, err error) { results <- err })
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); s.Run(ctx, time.Minute) }()
	for range 2 {
		s.Tell(Note{Reason: "Deleted"})
		if err := <-results; err != nil {
			t.Error(err)
		}
	}
	cancel()
	<-done
	if len(r.bodies) != 2 {
		t.Errorf("%d messages", len(r.bodies))
	}
}

func TestFailures(t *testing.T) {
	r := receive(t)
	r.fail = []int{500, 429}
	if errs := sent(t, Webhook{Format: Generic, URLFile: r.file}, Note{Reason: "Stopped"}); len(errs) != 1 || errs[0] != nil || len(r.bodies) != 1 {
		t.Errorf("what passes is not tried again: %v", errs)
	}
	r.fail = []int{403, 500}
	if errs := sent(t, Webhook{Format: Generic, URLFile: r.file}, Note{Reason: "Stopped"}); len(errs) != 1 || errs[0] == nil || !strings.Contains(errs[0].Error(), "403 Forbidden") || len(r.fail) != 1 {
		t.Errorf("what does not pass: %v", errs)
	}
	r.Close()
	none := filepath.Join(t.TempDir(), "none")
	if err := os.WriteFile(none, []byte("hooks.example/s3cret"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{r.file, none, none + "2"} {
		errs := sent(t, Webhook{Format: Generic, URLFile: file}, Note{Reason: "Stopped"})
		if len(errs) != 1 || errs[0] == nil || strings.Contains(errs[0].Error(), "s3cret") {
			t.Errorf("%s: %v", file, errs)
		}
	}
}
