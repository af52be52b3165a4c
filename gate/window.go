package gate

import (
	"errors"
	"fmt"
	"time"

	"github.com/robfig/cron/v3"
)

// Window is a time in which changes may begin: from each time of Schedule on,
// for Duration. The zero Window, and one that is broken, is never open.
type Window struct {
	// Schedule carries its time zone itself.
	Schedule cron.Schedule
	Duration time.Duration
}

// Open reports whether the window is open at a time, and until when.
func (w Window) Open(at time.Time) (until time.Time, open bool) {
	if !w.ok() {
		return time.Time{}, false
	}
	// The earliest opening that would still last.
	start := w.Schedule.Next(at.Add(-w.Duration))
	if start.IsZero() || start.After(at) {
		return time.Time{}, false
	}
	return start.Add(w.Duration), true
}

// Next is when the window opens next after a time; zero if it never does.
func (w Window) Next(after time.Time) time.Time {
	if !w.ok() {
		return time.Time{}
	}
	return w.Schedule.Next(after)
}

func (w Window) ok() bool {
	// @every counts from the time that it is asked about, and so is no time of
	// day at which anything could open.
	_, every := w.Schedule.(cron.ConstantDelaySchedule)
	return w.Schedule != nil && !every && w.Duration > 0
}

// reference is the time from which schedules are tried out. Its year has a 29th
// of February.
var reference = time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC)

// Check tells what is wrong with a Window, nil if nothing is.
func (w Window) Check() error {
	switch _, every := w.Schedule.(cron.ConstantDelaySchedule); {
	case w.Schedule == nil:
		return errors.New("it has no schedule")
	case every:
		return errors.New("@every has no time of day at which a window could open: use the five fields of cron")
	case w.Duration <= 0:
		return errors.New("it has no duration")
	}
	last := w.Schedule.Next(reference)
	if last.IsZero() {
		return errors.New("it never opens")
	}
	// Two years of a daily window, a week of one that opens every ten minutes, and
	// two leap years of a rare one.
	for range 1000 {
		next := w.Schedule.Next(last)
		if next.IsZero() || next.After(reference.AddDate(9, 0, 0)) {
			break
		}
		if period := next.Sub(last); w.Duration >= period {
			return fmt.Errorf("it lasts %s and opens again after %s, so it would never close: shorten it, or leave windows out", w.Duration, period)
		}
		last = next
	}
	return nil
}

// Closed says that none of the windows is open and when one will be; it is empty
// when one is, or when there are none.
func (t Terms) Closed(now time.Time) string { return closed(t.Windows, now) }

// closed says that no window is open and when one will be; it is empty when
// one is, or when there are none.
func closed(windows []Window, now time.Time) string {
	if len(windows) == 0 {
		return ""
	}
	var next time.Time
	for _, w := range windows {
		if _, open := w.Open(now); open {
			return ""
		}
		if n := w.Next(now); !n.IsZero() && (next.IsZero() || n.Before(next)) {
			next = n
		}
	}
	if next.IsZero() {
		return "it is outside of every window, and none opens again"
	}
	return "it is outside of every window; the next opens at " + next.In(now.Location()).Format(timeFormat)
}
