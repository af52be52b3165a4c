package config

import (
	"fmt"
	"slices"
	"sort"
	"time"

	"github.com/robfig/cron/v3"

	"github.com/certherd/certherd/gate"
)

// Round is one round of a rule.
type Round struct {
	Rule gate.Rule
	// At is when the schedule has it begin. To keep the books, note At of every
	// round that was begun or skipped, and give it to Due and Next as last.
	At time.Time
	// First, if not zero, is the earliest of several missed rounds that this one
	// stands for.
	First time.Time
}

// skew is how far clocks of two machines are taken to disagree. A last round
// further in the future was noted by a clock that was wrong.
const skew = 5 * time.Minute

// Due are the rounds that have to begin now, and those that were missed for
// longer than the rule's deadline, which are not to be begun, but said. last is
// the time of each rule's last round; a rule without one is due at once. Both
// lists are in the order of gate.Rules.
//
// Where several rounds were missed, the last one stands for all of them.
func (c Config) Due(last map[gate.Rule]time.Time, now time.Time) (due, skipped []Round) {
	for _, name := range gate.Rules() {
		r := c.Rules()[name]
		s, _, err := c.schedule(r)
		if err != nil {
			continue // Parse lets none of these through
		}
		done := last[name]
		if done.IsZero() || done.After(now.Add(skew)) {
			due = append(due, Round{Rule: name, At: now})
			continue
		}
		at := latest(s, done, now)
		if at.IsZero() {
			continue
		}
		round := Round{Rule: name, At: at}
		if first := after(s, done, done); first.Before(at) {
			round.First = first
		}
		if r.StartingDeadline == Disabled || now.Sub(at) <= time.Duration(r.StartingDeadline) {
			due = append(due, round)
		} else {
			skipped = append(skipped, round)
		}
	}
	return due, skipped
}

// Next are the coming rounds of each rule after now, soonest first. What is
// due now is not among them.
func (c Config) Next(last map[gate.Rule]time.Time, now time.Time) []Round {
	var out []Round
	for _, name := range gate.Rules() {
		s, _, err := c.schedule(c.Rules()[name])
		if err != nil {
			continue
		}
		if at := after(s, last[name], now); !at.IsZero() {
			out = append(out, Round{Rule: name, At: at})
		}
	}
	slices.SortStableFunc(out, func(a, b Round) int { return a.At.Compare(b.At) })
	return out
}

// String says in words which rounds these are.
func (r Round) String() string {
	if r.First.IsZero() {
		return fmt.Sprintf("the round of %s at %s", r.Rule, r.At.Format(timeFormat))
	}
	return fmt.Sprintf("the rounds of %s from %s to %s", r.Rule, r.First.Format(timeFormat), r.At.Format(timeFormat))
}

// latest is the last time of a schedule after done and not after now; zero if
// there is none.
func latest(s cron.Schedule, done, now time.Time) time.Time {
	if every, ok := s.(cron.ConstantDelaySchedule); ok {
		if n := now.Sub(done) / every.Delay; n > 0 {
			return done.Add(n * every.Delay)
		}
		return time.Time{}
	}
	comes := func(t time.Time) bool {
		next := s.Next(t)
		return !next.IsZero() && !next.After(now)
	}
	if !comes(done) {
		return time.Time{}
	}
	// A time of the schedule lies between t and now for every t up to the last
	// of them, and for none after it. Schedules know no parts of a second.
	seconds := int(now.Sub(done) / time.Second)
	n := sort.Search(seconds+1, func(i int) bool { return !comes(done.Add(time.Duration(i) * time.Second)) })
	return s.Next(done.Add(time.Duration(n-1) * time.Second))
}

// after is the first time of a schedule after now. What counts from the last
// round counts from now where there was none.
func after(s cron.Schedule, last, now time.Time) time.Time {
	every, ok := s.(cron.ConstantDelaySchedule)
	if !ok {
		return s.Next(now)
	}
	if last.IsZero() || last.After(now) {
		last = now
	}
	return last.Add((now.Sub(last)/every.Delay + 1) * every.Delay)
}

const timeFormat = "Mon 2006-01-02 15:04 MST"

// upcoming are the next n rounds of a rule after a time, in the time zone of
// its schedule. last was its last round, zero for none.
func (c Config) upcoming(r Rule, last, at time.Time, n int) []time.Time {
	s, zone, err := c.schedule(r)
	if err != nil {
		return nil
	}
	var out []time.Time
	for t := at; len(out) < n; out = append(out, t) {
		if t = after(s, last, t); t.IsZero() {
			break
		}
		t = t.In(zone)
		last = t
	}
	return out
}

// opening is when a rule's windows open next after a time, or the zero time.
func (c Config) opening(r Rule, at time.Time) time.Time {
	var next []time.Time
	for _, w := range c.terms(r).Windows {
		if t := w.Next(at); !t.IsZero() {
			next = append(next, t)
		}
	}
	if len(next) == 0 {
		return time.Time{}
	}
	return slices.MinFunc(next, time.Time.Compare)
}

// NextInWindow is the next round of a rule after now that begins inside of a window;
// zero if there is none among the next ones.
func (c Config) NextInWindow(rule gate.Rule, last map[gate.Rule]time.Time, now time.Time) time.Time {
	r := c.Rules()[rule]
	s, _, err := c.schedule(r)
	if err != nil {
		return time.Time{}
	}
	terms := c.terms(r)
	t := after(s, last[rule], now)
	for range 10_000 { // a week of minutes
		if t.IsZero() || terms.Closed(t) == "" {
			return t
		}
		t = after(s, t, t)
	}
	return time.Time{}
}
