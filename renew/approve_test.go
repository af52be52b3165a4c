package renew_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/certherd/certherd/inventory"
	"github.com/certherd/certherd/renew"
)

func request(name string, age, left time.Duration) renew.Request {
	return renew.Request{Ref: inventory.Ref{Kind: "CertificateRequest", Name: name}, Created: noon.Add(-age), NotBefore: noon.Add(left - 90*24*time.Hour), NotAfter: noon.Add(left)}
}

// TestUrgentRequestsDoNotWait: what is urgent goes at once, in the middle of a batch
// that is held, and takes nothing else with it.
func TestUrgentRequestsDoNotWait(t *testing.T) {
	p := renew.Pacing{Hold: 10 * time.Minute, Margin: 0.2}
	day := 24 * time.Hour
	held := []renew.Request{request("a", 9*time.Minute, 30*day), request("b", time.Minute, 30*day)}
	first := request("first", time.Second, 0)
	first.NotBefore, first.NotAfter = time.Time{}, time.Time{}
	compromised := request("compromised", time.Second, 80*day)
	compromised.Urgent = "its key is known to others"
	for _, tc := range []struct {
		name string
		more []renew.Request
		want string
		next time.Duration
	}{
		{"nothing is urgent", nil, "", time.Minute},
		{"first issue", []renew.Request{first}, "first: there is no certificate yet", time.Minute},
		{"expired", []renew.Request{request("expired", 0, -time.Second)}, "expired: the certificate has expired, or will within the safety margin", time.Minute},
		{"inside the margin", []renew.Request{request("soon", 0, 18*day)}, "soon: the certificate has expired, or will within the safety margin", time.Minute},
		{"a person's word", []renew.Request{compromised}, "compromised: its key is known to others", time.Minute},
		{"the margin comes before the hold ends", []renew.Request{request("near", 0, 18*day+30*time.Second)}, "", 30 * time.Second},
		{"one was held long enough", []renew.Request{request("old", 10*time.Minute, 30*day)}, "old: it was held long enough, or another one of its batch was a: it was held long enough, or another one of its batch was b: it was held long enough, or another one of its batch was", 0},
	} {
		approved, next := p.Due(append(append([]renew.Request{}, held...), tc.more...), noon)
		got := ""
		for i, a := range approved {
			if i > 0 {
				got += " "
			}
			got += fmt.Sprintf("%s: %s", a.Ref.Name, a.Why)
		}
		if got != tc.want {
			t.Errorf("%s: approved %q, want %q", tc.name, got, tc.want)
		}
		if want := noon.Add(tc.next); tc.next > 0 != !next.IsZero() || tc.next > 0 && !next.Equal(want) {
			t.Errorf("%s: next at %s, want %s", tc.name, next, want)
		}
	}
}

// TestNothingIsHeldForEver: whatever the clock says, a request is approved after Hold of
// asking again when told to.
func TestNothingIsHeldForEver(t *testing.T) {
	p := renew.Pacing{Hold: 10 * time.Minute, Margin: 0.2}
	for _, jump := range []time.Duration{0, time.Hour, -time.Hour, 48 * time.Hour, -48 * time.Hour} {
		r := request("a", 0, 60*24*time.Hour)
		now, asked := noon.Add(jump), 0
		for ; asked < 10; asked++ {
			approved, next := p.Due([]renew.Request{r}, now)
			if len(approved) > 0 {
				break
			}
			if !next.After(now) {
				t.Fatalf("clock set by %s: asked at %s to ask again at %s", jump, now, next)
			}
			now = next
		}
		if waited := now.Sub(noon.Add(jump)); asked == 10 || waited > 2*p.Hold {
			t.Errorf("clock set by %s: approved after %s, asked %d times", jump, waited, asked)
		}
	}
}
