package config

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/tools/txtar"

	"github.com/certherd/certherd/gate"
)

var noon = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC) // a Monday

func at(t testing.TB, text string) time.Time {
	t.Helper()
	x, err := time.Parse("2006-01-02 15:04:05 -07:00", text)
	if err != nil {
		t.Fatal(err)
	}
	return x
}

// onlyGC is a Config in which the rounds of the other rules are far away.
func onlyGC(schedule string, deadline Duration) Config {
	c := Default()
	c.GC.Schedule, c.GC.StartingDeadline = schedule, deadline
	return c
}

func TestDue(t *testing.T) {
	for name, tc := range map[string]struct {
		schedule string
		deadline Duration
		last     time.Duration // before now; now is noon, on the second
		want     string
	}{
		"nothing is due before its time":               {"7 * * * *", Duration(time.Hour), 50 * time.Minute, ""},
		"a round is due at its time":                   {"0 * * * *", Duration(time.Hour), time.Hour, "due the round of gc at Mon 2026-11-23 12:00 UTC"},
		"a round is due once":                          {"0 * * * *", Duration(time.Hour), 0, ""},
		"a round that was begun late is not due again": {"50 11 * * *", Duration(time.Hour), 5 * time.Minute, ""},
		"a missed round is caught up":                  {"50 11 * * *", Duration(time.Hour), 24 * time.Hour, "due the round of gc at Mon 2026-11-23 11:50 UTC"},
		"a missed round is caught up at its deadline":  {"0 11 * * *", Duration(time.Hour), 24 * time.Hour, "due the round of gc at Mon 2026-11-23 11:00 UTC"},
		"a missed round is skipped after its deadline": {"59 10 * * *", Duration(time.Hour), 24 * time.Hour, "skipped the round of gc at Mon 2026-11-23 10:59 UTC"},
		"several missed rounds are caught up by one":   {"0 * * * *", Duration(time.Hour), 5*time.Hour + time.Minute, "due the rounds of gc from Mon 2026-11-23 07:00 UTC to Mon 2026-11-23 12:00 UTC"},
		"several missed rounds are skipped together":   {"0 1,2,3 * * *", Duration(time.Hour), 24 * time.Hour, "skipped the rounds of gc from Mon 2026-11-23 01:00 UTC to Mon 2026-11-23 03:00 UTC"},
		"without a deadline nothing is skipped":        {"0 3 1 * *", Disabled, 60 * 24 * time.Hour, "due the rounds of gc from Thu 2026-10-01 03:00 UTC to Sun 2026-11-01 03:00 UTC"},
		"a rule without a last round is due at once":   {"0 3 1 1 *", Duration(time.Hour), -1, "due the round of gc at Mon 2026-11-23 12:00 UTC"},
		"years without a leader":                       {"* * * * *", Duration(time.Minute), 10 * 365 * 24 * time.Hour, "due the rounds of gc from Fri 2016-11-25 12:01 UTC to Mon 2026-11-23 12:00 UTC"},
		"@every counts from the last round":            {"@every 45m", Duration(time.Hour), 44 * time.Minute, ""},
		"@every is due when its time has passed":       {"@every 45m", Duration(time.Hour), 45 * time.Minute, "due the round of gc at Mon 2026-11-23 12:00 UTC"},
		"@every is caught up":                          {"@every 45m", Duration(time.Hour), 100 * time.Minute, "due the rounds of gc from Mon 2026-11-23 11:05 UTC to Mon 2026-11-23 11:50 UTC"},
		"@every is skipped":                            {"@every 24h", Duration(time.Hour), 26 * time.Hour, "skipped the round of gc at Mon 2026-11-23 10:00 UTC"},
	} {
		t.Run(name, func(t *testing.T) {
			last := map[gate.Rule]time.Time{gate.Consolidate: noon, gate.Batch: noon}
			if tc.last >= 0 {
				last[gate.GC] = noon.Add(-tc.last)
			}
			due, skipped := onlyGC(tc.schedule, tc.deadline).Due(last, noon)
			var got []string
			for _, r := range due {
				got = append(got, "due "+r.String())
			}
			for _, r := range skipped {
				got = append(got, "skipped "+r.String())
			}
			if strings.Join(got, "; ") != tc.want {
				t.Errorf("got  %s\nwant %s", strings.Join(got, "; "), tc.want)
			}
		})
	}
}

func TestClocksThatAreWrong(t *testing.T) {
	c := onlyGC("0 * * * *", Duration(time.Hour))
	last := map[gate.Rule]time.Time{gate.GC: noon.Add(2 * time.Minute), gate.Consolidate: noon, gate.Batch: noon}
	if due, skipped := c.Due(last, noon); len(due)+len(skipped) > 0 {
		t.Errorf("a clock that is a little ahead: due %v, skipped %v", due, skipped)
	}
	last[gate.GC] = noon.Add(365 * 24 * time.Hour)
	if due, _ := c.Due(last, noon); len(due) != 1 || due[0].Rule != gate.GC {
		t.Errorf("after a round that a wrong clock noted for next year: due %v", due)
	}
}

// A night of 23 hours and one of 25, as the documentation says.
func TestRoundsWhereClocksChange(t *testing.T) {
	for name, tc := range map[string]struct {
		schedule, from string
		want           []string
	}{
		"a time that does not exist is left out": {"30 2 * * *", "2026-03-28 12:00:00 +01:00", []string{"Mon 2026-03-30 02:30 CEST", "Tue 2026-03-31 02:30 CEST"}},
		"a time that exists twice comes twice":   {"30 2 * * *", "2026-10-24 12:00:00 +02:00", []string{"Sun 2026-10-25 02:30 CEST", "Sun 2026-10-25 02:30 CET"}},
		"every hour is every hour":               {"0 * * * *", "2026-10-25 00:30:00 +02:00", []string{"Sun 2026-10-25 01:00 CEST", "Sun 2026-10-25 02:00 CEST", "Sun 2026-10-25 02:00 CET", "Sun 2026-10-25 03:00 CET"}},
		"noon stays noon":                        {"0 12 * * *", "2026-10-24 12:00:00 +02:00", []string{"Sun 2026-10-25 12:00 CET"}},
	} {
		t.Run(name, func(t *testing.T) {
			c := onlyGC(tc.schedule, Duration(time.Hour))
			c.TimeZone = "Europe/Berlin"
			var got []string
			for _, x := range c.upcoming(c.GC.Rule, time.Time{}, at(t, tc.from), len(tc.want)) {
				got = append(got, x.Format(timeFormat))
			}
			if !slices.Equal(got, tc.want) {
				t.Errorf("got %v, want %v", got, tc.want)
			}
		})
	}
}

// TestRoundsAreNeitherLostNorDoubled lets a leader look at the clock at random
// times, and counts what it does against the schedule itself, tick by tick.
// Australia/Lord_Howe, whose clocks change by half an hour, is not among the time
// zones: there cron's Next gives 2:45 for 1:45 when it is asked just before.
func TestRoundsAreNeitherLostNorDoubled(t *testing.T) {
	for seed := range uint64(40) {
		r := rand.New(rand.NewPCG(seed, 2))
		schedules := []string{"* * * * *", "*/7 * * * *", "0 * * * *", "30 2 * * *", "15 1,3 * * sun", "CRON_TZ=America/Sao_Paulo 0 0 * * *", "CRON_TZ=America/Santiago 30 23 * * sat", "@hourly", "@daily"}
		c := onlyGC(schedules[r.IntN(len(schedules))], []Duration{Duration(10 * time.Second), Duration(10 * time.Minute), Duration(time.Hour), Disabled}[r.IntN(4)])
		c.TimeZone = []string{"UTC", "Europe/Berlin", "Africa/Casablanca"}[r.IntN(3)]
		s, _, err := c.schedule(c.GC.Rule)
		if err != nil {
			t.Fatal(err)
		}
		start := time.Date(2018, 10, 1+r.IntN(60), r.IntN(24), r.IntN(60), r.IntN(60), 0, time.UTC)
		last := map[gate.Rule]time.Time{gate.GC: start}
		now, end := start, start.Add(6*24*time.Hour)
		for now.Before(end) {
			step := time.Duration(1 + r.Int64N(int64(10*time.Minute)))
			if r.IntN(50) == 0 {
				step = time.Duration(r.Int64N(int64(30 * time.Hour))) // nobody was leader
			}
			before := now
			now = now.Add(step)
			last[gate.Consolidate], last[gate.Batch] = now, now

			// What must come: every time of the schedule in (before, now].
			var first, latest time.Time
			for x := s.Next(before); !x.After(now); x = s.Next(x) {
				if first.IsZero() {
					first = x
				}
				latest = x
			}
			due, skipped := c.Due(last, now)
			var want string
			if !latest.IsZero() {
				round := Round{Rule: gate.GC, At: latest}
				if first.Before(latest) {
					round.First = first
				}
				if c.GC.StartingDeadline == Disabled || now.Sub(latest) <= time.Duration(c.GC.StartingDeadline) {
					want = fmt.Sprint("due ", []Round{round}, []Round(nil))
				} else {
					want = fmt.Sprint("due ", []Round(nil), []Round{round})
				}
			} else {
				want = fmt.Sprint("due ", []Round(nil), []Round(nil))
			}
			if got := fmt.Sprint("due ", due, skipped); got != want {
				t.Fatalf("seed %d, %q in %s, from %s to %s:\ngot  %s\nwant %s", seed, c.GC.Schedule, c.TimeZone, before, now, got, want)
			}
			for _, x := range append(due, skipped...) {
				last[x.Rule] = x.At
			}
			// The next one is where the next look will find it.
			for _, x := range c.Next(last, now) {
				if x.Rule == gate.GC && !x.At.Equal(s.Next(now)) {
					t.Fatalf("seed %d: next is %s, want %s", seed, x.At, s.Next(now))
				}
			}
		}
	}
}

func TestNextIsSoonestFirst(t *testing.T) {
	c := Default()
	c.Batch.Schedule = "@every 45m"
	var got []string
	for _, r := range c.Next(map[gate.Rule]time.Time{gate.Batch: noon.Add(-50 * time.Minute)}, noon) {
		got = append(got, r.String())
	}
	want := []string{"the round of gc at Mon 2026-11-23 12:07 UTC", "the round of batch at Mon 2026-11-23 12:40 UTC", "the round of consolidate at Tue 2026-11-24 03:37 UTC"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q", got)
	}
}

func TestPolicyForHoldsTheRulesThatAreNotDue(t *testing.T) {
	c := Default()
	c.GC.Mode, c.Consolidate.Mode = gate.Enforce, gate.Enforce
	c.Batch.Mode, c.Batch.Schedule = gate.Enforce, "what is this"
	last := map[gate.Rule]time.Time{gate.GC: noon.Add(-time.Hour), gate.Consolidate: noon.Add(-time.Hour)}
	due, _ := c.Due(last, noon)
	p := c.PolicyFor(due, c.Next(last, noon))
	if len(due) != 1 || p.Terms[gate.GC].Mode != gate.Enforce || !p.Terms[gate.GC].Next.IsZero() {
		t.Errorf("due %v; gc has %+v", due, p.Terms[gate.GC])
	}
	if x := p.Terms[gate.Consolidate]; !x.Next.Equal(time.Date(2026, 11, 24, 3, 37, 0, 0, time.UTC)) {
		t.Errorf("consolidate waits for %s", x.Next)
	}
	if x := p.Terms[gate.Batch]; x.Mode != gate.Audit {
		t.Errorf("a rule without rounds is in mode %s", x.Mode)
	}
}

// TestBrokenConfigsAllowNothing: what did not come from Parse may be broken.
func TestBrokenConfigsAllowNothing(t *testing.T) {
	var zero Config
	if p := zero.Policy(); p.Terms[gate.GC].Mode == gate.Enforce || p.MaxShare != 0 {
		t.Errorf("the zero Config allows %+v", p)
	}
	if due, skipped := zero.Due(nil, noon); len(due)+len(skipped) > 0 {
		t.Errorf("the zero Config has rounds: %v %v", due, skipped)
	}
	c := Default()
	c.GC.Windows = []Window{{Schedule: "nonsense", Duration: Duration(time.Hour)}}
	c.Ignore.Labels = []Selector{"a in b"}
	p := c.Policy()
	if _, open := p.Terms[gate.GC].Windows[0].Open(noon); open || len(p.Terms[gate.GC].Windows) != 1 {
		t.Error("a window that cannot be read is open")
	}
	if len(p.Ignore.Selectors) != 1 || !p.Ignore.Selectors[0].Empty() {
		t.Error("a selector that cannot be read opts nothing out")
	}
}

// TestExplain: each file of testdata/explain.txtar, and what Explain says of it.
func TestExplain(t *testing.T) {
	const name = "testdata/explain.txtar"
	a, err := txtar.ParseFile(name)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i+1 < len(a.Files); i += 2 {
		in, want := a.Files[i], &a.Files[i+1]
		t.Run(in.Name, func(t *testing.T) {
			c, err := Parse(in.Data)
			if err != nil {
				t.Fatal(err)
			}
			got := c.Explain(noon, 3)
			if *update {
				want.Data = []byte(got)
			} else if got != string(want.Data) {
				t.Errorf("got\n%s\nwant\n%s", got, want.Data)
			}
		})
	}
	if *update {
		if err := os.WriteFile(name, txtar.Format(a), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}
