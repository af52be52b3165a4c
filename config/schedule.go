package config

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/robfig/cron/v3"

	"github.com/certherd/certherd/gate"
)

// minEvery keeps "@every 1s" from looking at the whole cluster without pause.
const minEvery = 10 * time.Second

// reference is the time from which schedules are tried out: nothing in this
// package reads the clock, so that a file is right or wrong on every day. Its
// year has a 29th of February.
var reference = time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC)

// location loads a time zone. "Local" would be another one on every machine.
func location(name string) (*time.Location, error) {
	if name == "" || name == "Local" {
		return nil, fmt.Errorf("%q is no time zone: write UTC, or a name like Europe/Berlin", name)
	}
	l, err := time.LoadLocation(name)
	if err != nil {
		return nil, fmt.Errorf("%q is no time zone: write UTC, or a name like Europe/Berlin", name)
	}
	return l, nil
}

// schedule reads a schedule. Without a time zone of its own it has the one of
// the first name that is not empty.
func schedule(text string, zones ...string) (cron.Schedule, *time.Location, error) {
	spec := strings.TrimSpace(text)
	zone := ""
	for _, z := range zones {
		if zone = z; zone != "" {
			break
		}
	}
	for _, prefix := range []string{"CRON_TZ=", "TZ="} {
		if rest, ok := strings.CutPrefix(spec, prefix); ok {
			// cron.Parse relies on something standing behind the time zone.
			if zone, spec, ok = strings.Cut(rest, " "); !ok {
				return nil, nil, errors.New("there is a time zone, and no schedule behind it")
			}
			spec = strings.TrimSpace(spec)
			break
		}
	}
	if spec == "" {
		return nil, nil, errors.New("there is no schedule: write one like \"0 3 * * *\"")
	}
	loc, err := location(zone)
	if err != nil {
		return nil, nil, err
	}
	if strings.Contains(spec, "TZ=") {
		return nil, nil, fmt.Errorf("%q is no schedule: there are two time zones", text)
	}
	s, err := cron.ParseStandard("CRON_TZ=" + loc.String() + " " + spec)
	if err != nil {
		return nil, nil, fmt.Errorf("%q is no schedule: %w", text, err)
	}
	if every, ok := s.(cron.ConstantDelaySchedule); ok {
		// cron rounds what is shorter up to a second, also what is negative.
		d, err := time.ParseDuration(strings.TrimSpace(strings.TrimPrefix(spec, "@every")))
		if err != nil || d < minEvery {
			return nil, nil, fmt.Errorf("%q is too often: the least is @every %s", text, Duration(minEvery))
		}
		return every, loc, nil
	}
	if s.Next(reference).IsZero() {
		return nil, nil, fmt.Errorf("%q never comes", text)
	}
	return s, loc, nil
}

func (c Config) schedule(r Rule) (cron.Schedule, *time.Location, error) {
	return schedule(r.Schedule, r.TimeZone, c.TimeZone)
}

// window is the gate's form of a Window; one that cannot be read is never open.
func (c Config) window(r Rule, w Window) gate.Window {
	s, _, err := schedule(w.Schedule, w.TimeZone, r.TimeZone, c.TimeZone)
	if err != nil {
		return gate.Window{}
	}
	return gate.Window{Schedule: s, Duration: time.Duration(w.Duration)}
}

// meets reports whether any round begins inside of any window. It looks at
// twelve years of what is rare, and at less of what is frequent.
func meets(rounds cron.Schedule, windows []gate.Window) bool {
	if _, every := rounds.(cron.ConstantDelaySchedule); every {
		return true
	}
	for _, w := range windows {
		end := reference.AddDate(12, 0, 0)
		for i, t := 0, w.Next(reference); i < 5000 && !t.IsZero() && t.Before(end); i++ {
			at := rounds.Next(t.Add(-time.Second))
			if at.IsZero() {
				break
			}
			if _, open := w.Open(at); open {
				return true
			}
			t = w.Next(at)
		}
	}
	return false
}
