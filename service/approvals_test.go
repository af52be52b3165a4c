package service

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/certherd/certherd/gateway"
)

func TestConsentComesBack(t *testing.T) {
	now := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	c := Consent{
		Approvals: []Approval{{ID: "a", Digest: "d", Whole: true, By: "jane", Reason: "CHG-1 \x1b[2J", Given: now, Until: now.Add(time.Hour)}},
		Stopped:   &Stop{Since: now, Why: []string{"KIngress/team-a/web is not Ready"}},
		Watched:   &gateway.Reading{Time: now, Envoys: map[string]gateway.Envoy{"http://x": {Responses: 3, Rejected: map[string]float64{"lds": 1}}}, Newest: now},
	}
	var ids []string
	for i := range 30 {
		ids = append(ids, fmt.Sprint(i))
	}
	c.Say(Word{Time: now, What: SaidApprove, By: "jane", Changes: ids})
	text, err := encodeConsent(&c)
	if err != nil {
		t.Fatal(err)
	}
	// A single word of base32, in which nothing is a mention.
	if strings.Trim(text, "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567=") != "" {
		t.Errorf("it is kept as %q", text)
	}
	back, err := decodeConsent(text)
	if err != nil {
		t.Fatal(err)
	}
	if fmt.Sprintf("%+v %+v %+v", back.Approvals, *back.Stopped, *back.Watched) != fmt.Sprintf("%+v %+v %+v", c.Approvals, *c.Stopped, *c.Watched) {
		t.Errorf("%+v came back as %+v", c, back)
	}
	if w := back.Words[0]; back.Serial != 1 || w.Serial != 1 || w.Count != 30 || len(w.Changes) != 20 || !strings.HasPrefix(w.String(), "approve by jane: 30 changes (0, 1,") || !strings.HasSuffix(w.String(), "19, ...)") {
		t.Errorf("the word is %s", w)
	}
	if c, err := decodeConsent(""); err != nil || c.Serial != 0 {
		t.Error(c, err)
	}
	for _, nonsense := range []string{"x", "AAAA", text[:len(text)/2]} {
		if _, err := decodeConsent(nonsense); err == nil {
			t.Errorf("%q is understood", nonsense)
		}
	}
}

func TestApprovalsHold(t *testing.T) {
	now := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	const week = 168 * time.Hour
	for name, tc := range map[string]struct {
		given, until time.Duration // from now
		lifetime     time.Duration
		want         bool
	}{
		"it was just given":                           {0, time.Hour, week, true},
		"by a clock that is ahead":                    {time.Minute, time.Hour, week, true},
		"by a clock that is wrong":                    {time.Hour, 2 * time.Hour, week, false},
		"it has ended":                                {-time.Hour, 0, week, false},
		"it is older than the configuration has it":   {-time.Hour, time.Hour, time.Hour, false},
		"it is younger than the configuration has it": {-time.Hour, time.Hour, 2 * time.Hour, true},
	} {
		a := Approval{ID: "a", Given: now.Add(tc.given), Until: now.Add(tc.until)}
		if got := a.Holds(now, tc.lifetime); got != tc.want {
			t.Errorf("%s: %v", name, got)
		}
		c := Consent{Approvals: []Approval{a}}
		if n := len(c.holding(now, tc.lifetime)); (n == 1) != tc.want {
			t.Errorf("%s: %d hold", name, n)
		}
		if pruned := c.prune(now, tc.lifetime, nil); pruned == tc.want {
			t.Errorf("%s: pruned %v", name, pruned)
		}
	}
	// What nobody proposes any more is forgotten only after everything was seen.
	c := Consent{Approvals: []Approval{{ID: "a", Given: now, Until: now.Add(time.Hour)}}}
	if c.prune(now, week, nil) || c.prune(now, week, map[string]bool{"a": true}) || !c.prune(now, week, map[string]bool{}) {
		t.Error("it is pruned at the wrong time")
	}
}

func TestTooManyApprovalsAreRefused(t *testing.T) {
	var c Consent
	for i := range 50_000 {
		digest := sha256.Sum256([]byte{byte(i), byte(i >> 8)})
		c.Approvals = append(c.Approvals, Approval{ID: fmt.Sprint(i), Digest: hex.EncodeToString(digest[:])})
	}
	if text, err := encodeConsent(&c); err == nil {
		t.Errorf("%d bytes were encoded", len(text))
	}
}
