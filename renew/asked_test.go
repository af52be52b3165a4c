package renew_test

import (
	"errors"
	"testing"
	"time"

	"github.com/certherd/certherd/renew"
)

func TestParseWord(t *testing.T) {
	w, err := renew.ParseWord(" 2026-01-31T12:00:00+01:00   key compromised ")
	if err != nil || !w.Since.Equal(time.Date(2026, 1, 31, 11, 0, 0, 0, time.UTC)) || w.Why != "key compromised" {
		t.Errorf("%+v %v", w, err)
	}
	if got := w.String(); got != "2026-01-31T11:00:00Z key compromised" {
		t.Errorf("%q", got)
	}
	for _, text := range []string{"", "now", "key compromised", "2026-01-31", "true"} {
		if w, err := renew.ParseWord(text); err == nil {
			t.Errorf("%q is taken for %+v", text, w)
		}
	}
}

// TestAWordIsActedUponOnce: in a world where each trigger makes a request, whatever the
// clocks and the times in the certificate say.
func TestAWordIsActedUponOnce(t *testing.T) {
	for _, ahead := range []time.Duration{-time.Hour, 0, 300 * time.Millisecond, 4 * time.Minute} {
		w := renew.Word{Since: noon.Add(ahead), Why: "revoked"}
		x := renew.Standing{Requests: []time.Time{noon.Add(-48 * time.Hour)}}
		triggered := 0
		for now := noon; now.Before(noon.Add(2 * time.Hour)); now = now.Add(250 * time.Millisecond) {
			if w.Due(x, now) == nil {
				triggered++
				x.Requests = []time.Time{now.Truncate(time.Second)} // only the newest stays
			}
		}
		if triggered != 1 {
			t.Errorf("a word of %s ahead: triggered %d times", ahead, triggered)
		}
	}
}

func TestWordsThatWait(t *testing.T) {
	w := renew.Word{Since: noon}
	for _, tc := range []struct {
		x    renew.Standing
		want error
	}{
		{renew.Standing{}, nil},
		{renew.Standing{Ignored: true}, renew.ErrIgnored},
		{renew.Standing{Issuing: true}, renew.ErrIssuing},
		{renew.Standing{Requests: []time.Time{noon}}, renew.ErrKept},
		{renew.Standing{Requests: []time.Time{noon.Add(-time.Second)}, Issuing: true}, renew.ErrIssuing},
	} {
		if got := w.Due(tc.x, noon); !errors.Is(got, tc.want) {
			t.Errorf("%+v: %v, want %v", tc.x, got, tc.want)
		}
	}
	if got := w.Due(renew.Standing{}, noon.Add(-time.Second)); !errors.Is(got, renew.ErrFuture) {
		t.Errorf("too early: %v", got)
	}
}
