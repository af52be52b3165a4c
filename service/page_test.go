package service

import (
	"strings"
	"testing"
	"time"

	"github.com/certherd/certherd/gate"
	"github.com/certherd/certherd/report"
	"github.com/certherd/certherd/web"
)

// TestPageState: the page is told what this replica knows.
func TestPageState(t *testing.T) {
	s := idle(t)
	b := &backend{Service: s}
	if x := b.State(time.Now()); x.Report != nil || x.Rules != nil || x.Round != nil || x.Stopped != "" {
		t.Errorf("before the first look: %+v", x)
	}
	s.take(nil)
	r := example()
	r.Changes = []report.Change{{ID: "a", Digest: "0123456789", WaitsFor: "approval"}, {ID: "b", Held: "elsewhere"}}
	s.sample(&r)
	show(t, s, r)
	s.seen.leads("certherd-1")
	s.seen.ended(web.Round{Result: "success", Rules: []string{"gc"}}, map[gate.Rule]time.Time{gate.GC: r.TakenAt})
	s.stopped.Store(true)
	s.seen.stops("gateways rejected updates")
	x := b.State(time.Now())
	if len(x.Rules) != 3 || x.Leader != "certherd-1" || x.Round.Result != "success" || x.Stopped != "gateways rejected updates" ||
		len(x.Waiting) != 1 || x.Whole != gate.WholeDigest([]string{"0123456789"}) || len(x.Samples) != 1 || x.Samples[0].MiB != 100 {
		t.Errorf("it says %+v", x)
	}
}

// TestResume: only the stop that somebody has looked at is ended.
func TestResume(t *testing.T) {
	c := &Consent{}
	if err := c.Resume(time.Time{}, "ann", "", time.Now()); err == nil || !strings.Contains(err.Error(), "nothing is stopped") {
		t.Error(err)
	}
	since := time.Date(2026, 11, 23, 11, 0, 0, 0, time.UTC)
	c.Stopped = &Stop{Since: since}
	if err := c.Resume(since.Add(time.Second), "ann", "", time.Now()); err == nil || c.Stopped == nil {
		t.Errorf("another stop was ended: %v", err)
	}
	if err := c.Resume(since, "ann", "mended", time.Now()); err != nil || c.Stopped != nil || len(c.Words) != 1 || c.Words[0].What != SaidResume || c.Words[0].By != "ann" {
		t.Errorf("%v: %+v", err, c)
	}
}
