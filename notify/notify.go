// Package notify tells people of what happened, by webhooks: one message for all
// that happened within a while, and none when nothing did.
package notify

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/util/wait"
)

// Format is the form of a message.
type Format string

// The formats.
const (
	// Generic is a JSON document of our own: see Message.
	Generic Format = "generic"
	// Slack is what Slack's incoming webhooks take, and others after their model
	// (https://docs.slack.dev/messaging/sending-messages-using-incoming-webhooks).
	Slack Format = "slack"
	// Teams is an Adaptive Card, as webhooks of Microsoft Teams' workflows take it
	// (https://learn.microsoft.com/en-us/connectors/teams).
	Teams Format = "teams"
)

// UnmarshalText takes the formats and nothing else.
func (f *Format) UnmarshalText(text []byte) error {
	switch x := Format(text); x {
	case Generic, Slack, Teams:
		*f = x
		return nil
	}
	return fmt.Errorf("%q is not known: use generic, slack or teams", text)
}

// Webhook is where messages go.
type Webhook struct {
	Format Format
	// URLFile holds the URL, which is a secret with most services. It is read for
	// each message.
	URLFile string
	// Warnings leaves out what is not a warning.
	Warnings bool
}

// Settings are whom to tell, and how.
type Settings struct {
	// Source tells this certherd from others.
	Source string
	// Delay is for how long notes are collected before they are sent.
	Delay    time.Duration
	Webhooks []Webhook
}

// Note is one thing that happened.
type Note struct {
	Time    time.Time `json:"time"`
	Warning bool      `json:"warning"`
	// Reason is a word, such as Stopped; Object is what it is about, such as
	// Secret/shop/web-tls.
	Reason  string `json:"reason"`
	Object  string `json:"object"`
	Message string `json:"message"`
}

// Message is the document of format Generic.
type Message struct {
	// Source tells this certherd from others.
	Source string `json:"source"`
	Notes  []Note `json:"notes"`
	// More is how many further notes there were.
	More int `json:"more"`
}

// limit is the most notes of one message: Teams refuses more than 28 KB.
const limit = 20

// Sender collects notes and sends them. New makes one.
type Sender struct {
	settings func() Settings
	result   func(Webhook, error)
	notes    chan Note
	client   *http.Client
	backoff  wait.Backoff
}

// New returns a Sender that does nothing before Run. settings is asked for each
// message. result is told how each sending ended; its error names no URL.
func New(settings func() Settings, result func(Webhook, error)) *Sender {
	return &Sender{settings: settings, result: result, notes: make(chan Note, 256),
		client: &http.Client{Timeout: 10 * time.Second}, backoff: wait.Backoff{Duration: time.Second, Factor: 3, Jitter: 0.2, Steps: 4}}
}

// Tell adds a note. It never waits: what comes faster than it can be collected is
// lost, as Events have it, too.
func (s *Sender) Tell(n Note) {
	select {
	case s.notes <- n:
	default:
	}
}

// Run sends until ctx ends, and then, for at most last, what has been collected.
func (s *Sender) Run(ctx context.Context, last time.Duration) {
	var collected []Note
	var due <-chan time.Time
	for {
		select {
		case n := <-s.notes:
			if len(collected) == 0 {
				due = time.After(s.settings().Delay)
			}
			collected = append(collected, n)
		case <-due:
			s.send(ctx, collected)
			collected, due = nil, nil
		case <-ctx.Done():
			ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), last)
			defer cancel()
			for {
				select {
				case n := <-s.notes:
					collected = append(collected, n)
					continue
				default:
				}
				break
			}
			s.send(ending, collected)
			return
		}
	}
}

// send tells all webhooks.
func (s *Sender) send(ctx context.Context, notes []Note) {
	o := s.settings()
	for _, w := range o.Webhooks {
		m := Message{Source: o.Source}
		for _, n := range notes {
			switch {
			case w.Warnings && !n.Warning:
			case len(m.Notes) == limit:
				m.More++
			default:
				m.Notes = append(m.Notes, n)
			}
		}
		if len(m.Notes) > 0 {
			s.result(w, s.post(ctx, w, m))
		}
	}
}

// post sends one message, and tries again while that could help.
func (s *Sender) post(ctx context.Context, w Webhook, m Message) error {
	body, err := Body(w.Format, m)
	if err != nil {
		return err
	}
	var why error
	err = wait.ExponentialBackoffWithContext(ctx, s.backoff, func(ctx context.Context) (bool, error) {
		var again bool
		again, why = s.try(ctx, w.URLFile, body)
		if why != nil && !again {
			return false, why
		}
		return why == nil, nil
	})
	if err != nil && why != nil {
		return why
	}
	return err
}

func (s *Sender) try(ctx context.Context, file string, body []byte) (again bool, err error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return false, err
	}
	address := strings.TrimSpace(string(text))
	if u, err := url.Parse(address); err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" {
		return false, fmt.Errorf("%s holds no URL with https:// or http://", file)
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, address, bytes.NewReader(body))
	if err != nil {
		return false, fmt.Errorf("%s holds no URL that can be used", file)
	}
	request.Header.Set("Content-Type", "application/json")
	response, err := s.client.Do(request)
	if err != nil {
		var named *url.Error // its text has the URL, which is a secret
		if errors.As(err, &named) {
			err = named.Err
		}
		return true, err
	}
	defer response.Body.Close()
	if response.StatusCode/100 == 2 {
		return false, nil
	}
	words, _ := io.ReadAll(io.LimitReader(response.Body, 200))
	return response.StatusCode == http.StatusTooManyRequests || response.StatusCode >= 500,
		fmt.Errorf("the webhook answered %s %q", response.Status, words)
}

// Body is a message in a format.
func Body(f Format, m Message) ([]byte, error) {
	switch f {
	case Generic:
		return json.Marshal(m)
	case Slack:
		return json.Marshal(map[string]any{"text": strings.Join(lines(m, "*", escapeSlack), "\n")})
	case Teams:
		var body []any
		for i, line := range lines(m, "**", escapeTeams) {
			block := map[string]any{"type": "TextBlock", "text": line, "wrap": true}
			if i == 0 {
				block["size"] = "Medium"
			}
			body = append(body, block)
		}
		return json.Marshal(map[string]any{"type": "message", "attachments": []any{map[string]any{
			"contentType": "application/vnd.microsoft.card.adaptive",
			"content":     map[string]any{"$schema": "http://adaptivecards.io/schemas/adaptive-card.json", "type": "AdaptiveCard", "version": "1.4", "body": body},
		}}})
	}
	return nil, fmt.Errorf("there is no format %q: use generic, slack or teams", f)
}

// lines are a headline and one line for each note.
func lines(m Message, bold string, escape func(string) string) []string {
	total, warnings := len(m.Notes)+m.More, 0
	for _, n := range m.Notes {
		if n.Warning {
			warnings++
		}
	}
	head := fmt.Sprintf("%s%s%s: %s", bold, escape(m.Source), bold, count(total, "note"))
	if warnings > 0 {
		head += ", " + count(warnings, "warning")
	}
	out := []string{head}
	for _, n := range m.Notes {
		sign := "·"
		if n.Warning {
			sign = "⚠"
		}
		out = append(out, fmt.Sprintf("%s %s%s%s %s: %s", sign, bold, escape(n.Reason), bold, escape(n.Object), escape(cut(n.Message, 500))))
	}
	if m.More > 0 {
		out = append(out, fmt.Sprintf("and %d more: see the Events, or /report", m.More))
	}
	return out
}

func count(n int, what string) string {
	if n != 1 {
		what += "s"
	}
	return fmt.Sprintf("%d %s", n, what)
}

func cut(s string, most int) string {
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "…"
}

// escapeSlack keeps text of a cluster from mentioning people or becoming a link
// (https://docs.slack.dev/messaging/formatting-message-text#escaping).
var escapeSlack = strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;", "\n", " ").Replace

// escapeTeams does the same for the Markdown of cards.
var escapeTeams = strings.NewReplacer("\\", "\\\\", "*", "\\*", "_", "\\_", "[", "\\[", "]", "\\]", "<", "&lt;", "\n", " ").Replace
