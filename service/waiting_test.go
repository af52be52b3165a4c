package service

import (
	"reflect"
	"testing"
	"time"

	"github.com/certherd/certherd/report"
)

// TestNowKeepsWhatWasApproved: a change that only the gateways' budget holds goes at once by a
// word that approves nothing else.
func TestNowKeepsWhatWasApproved(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	r := &report.Report{Changes: []report.Change{
		{ID: "approved", Held: "held until", HeldUntil: &now}, {ID: "enforced", Held: "held until", HeldUntil: &now},
		{ID: "waits", Held: "it waits", Digest: "d3"}, {ID: "free"},
	}}
	hurried, others := Hurry(r, []string{"approved", "enforced", "enforced", "waits", "free", "none"})
	if len(hurried) != 2 || !reflect.DeepEqual(others, []string{"waits", "free", "none"}) {
		t.Fatalf("%v %v", hurried, others)
	}
	c := &Consent{Approvals: []Approval{{ID: "approved", Digest: "d1", By: "a", Given: now, Until: now.Add(time.Hour)}}}
	c.Approve(append(hurried, r.Changes[2]), Approval{By: "b", Now: true, Given: now, Until: now.Add(time.Hour)})
	want := []Approval{
		{ID: "approved", Digest: "d1", By: "a", Now: true, Given: now, Until: now.Add(time.Hour)},
		{ID: "enforced", By: "b", Now: true, Given: now, Until: now.Add(time.Hour)},
		{ID: "waits", Digest: "d3", By: "b", Now: true, Given: now, Until: now.Add(time.Hour)},
	}
	if !reflect.DeepEqual(c.Approvals, want) {
		t.Errorf("got  %+v\nwant %+v", c.Approvals, want)
	}
	if got := c.urgent(now.Add(time.Minute), time.Hour); !reflect.DeepEqual(got, map[string]bool{"approved": true, "enforced": true, "waits": true}) {
		t.Errorf("urgent: %v", got)
	}
	if got := c.urgent(now.Add(2*time.Hour), time.Hour); len(got) != 0 {
		t.Errorf("urgent for ever: %v", got)
	}
}
