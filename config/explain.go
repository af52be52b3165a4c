package config

import (
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/certherd/certherd/gate"
)

// Outlook is what a rule will do, in words. Times are in the time zone of the schedule
// that they come from.
type Outlook struct {
	Rule gate.Rule
	Mode gate.Mode
	// Means says what the mode does. Schedule, Windows and Budget are those of the rule;
	// there is at least one line of Windows.
	Means, Schedule string
	Windows         []string
	Budget          string
	Rounds          []Coming
}

// Coming is a round that comes, and what it may do.
type Coming struct {
	At      time.Time
	In, May string
}

// String is the time.
func (c Coming) String() string { return c.At.Format(timeFormat) }

// Outlooks are those of each rule from a time on, with so many rounds. last is the
// time of each rule's last round, from which what is "@every" counts; a rule without
// one counts from at.
func (c Config) Outlooks(last map[gate.Rule]time.Time, at time.Time, rounds int) []Outlook {
	var out []Outlook
	for _, name := range gate.Rules() {
		r := c.Rules()[name]
		o := Outlook{Rule: name, Mode: r.Mode, Means: modeWords(name, r.Mode), Schedule: c.scheduleWords(r) + "; " + deadlineWords(r.StartingDeadline),
			Windows: c.windowWords(r, at), Budget: budgetWords(r.Budget)}
		for _, t := range c.upcoming(r, last[name], at, rounds) {
			o.Rounds = append(o.Rounds, Coming{t, spanWords(t.Sub(at)), c.roundWords(name, r, t)})
		}
		out = append(out, o)
	}
	return out
}

// Explain says in words what a Config comes to from a time on: the next rounds
// of each rule, what they may do, and the windows around them. Times are in the
// time zone of the schedule that they come from. rounds is how many of each rule
// are shown.
func (c Config) Explain(at time.Time, rounds int) string {
	var b strings.Builder
	zone, err := location(c.TimeZone)
	if err != nil {
		zone = time.UTC
	}
	fmt.Fprintf(&b, "From %s on:\n", at.In(zone).Format(timeFormat))
	for _, o := range c.Outlooks(nil, at, rounds) {
		fmt.Fprintf(&b, "\n%s: %s\n", o.Rule, o.Means)
		w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
		fmt.Fprintf(w, "  schedule\t%s\n", o.Schedule)
		for i, line := range o.Windows {
			label := "windows"
			if i > 0 {
				label = ""
			}
			fmt.Fprintf(w, "  %s\t%s\n", label, line)
		}
		fmt.Fprintf(w, "  budget\t%s\n", o.Budget)
		w.Flush()
		w = tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
		for _, t := range o.Rounds {
			fmt.Fprintf(w, "  %s\tin %s\t%s\n", t, t.In, t.May)
		}
		w.Flush()
	}
	fmt.Fprintf(&b, "\nNothing is done in a round that could take away more than %s of all certificates.\n", c.MaxShare)
	g := c.GC
	fmt.Fprintf(&b, "Unused Secrets are %s; those that have expired are %s.\n", graceWords(g.GracePeriod), graceWords(g.ExpiredGracePeriod))
	fmt.Fprintf(&b, "%s\n", c.Batch.Reloads.words())
	if i := c.Ignore; len(i.Namespaces)+len(i.Names)+len(i.Labels) > 0 {
		b.WriteString("Never touched:")
		for _, p := range i.Namespaces {
			fmt.Fprintf(&b, " namespace %s;", p)
		}
		for _, p := range i.Names {
			fmt.Fprintf(&b, " name %s;", p)
		}
		for _, s := range i.Labels {
			fmt.Fprintf(&b, " label %s;", s)
		}
		b.WriteString(" and what carries the annotation certherd.dev/ignore.\n")
	}
	return b.String()
}

func (r Reloads) words() string {
	gap := "its drain time apart"
	if r.Gap != DrainTime {
		gap = r.Gap.String() + " apart"
	}
	changes := "of one change each"
	if r.Largest > 1 {
		changes = fmt.Sprintf("of up to %d changes each", r.Largest)
	}
	return fmt.Sprintf("A gateway is given at most %d updates in %s, %s, %s; only what is urgent does not wait.", r.Updates, r.Period, gap, changes)
}

func modeWords(name gate.Rule, m gate.Mode) string {
	switch {
	case m != gate.Audit && name == gate.Batch:
		return string(m) + ", which is audit as long as batch has no changes of its own"
	case m == gate.Propose:
		return "propose, which does what `certherd approve` has approved"
	case m == gate.Enforce:
		return "enforce, which does what windows and budget allow"
	}
	return "audit, which reports and changes nothing"
}

func (c Config) scheduleWords(r Rule) string {
	_, zone, err := c.schedule(r)
	if err != nil {
		return err.Error()
	}
	return words(r.Schedule, zone)
}

// words are a schedule with its time zone, which it may name already, and
// which means nothing to @every.
func words(schedule string, zone *time.Location) string {
	if strings.Contains(schedule, "TZ=") || strings.HasPrefix(schedule, "@every") {
		return schedule
	}
	return schedule + " in " + zone.String()
}

func deadlineWords(d Duration) string {
	if d == Disabled {
		return "a missed round is caught up whenever that is"
	}
	return fmt.Sprintf("a missed round is caught up for %s", d)
}

func (c Config) windowWords(r Rule, at time.Time) []string {
	if len(r.Windows) == 0 {
		return []string{"none: changes may begin at any time"}
	}
	var out []string
	for _, w := range r.Windows {
		_, zone, err := schedule(w.Schedule, w.TimeZone, r.TimeZone, c.TimeZone)
		if err != nil {
			out = append(out, err.Error())
			continue
		}
		g := c.window(r, w)
		line := fmt.Sprintf("%s for %s", words(w.Schedule, zone), w.Duration)
		if until, open := g.Open(at.In(zone)); open {
			line += ": open until " + until.In(zone).Format(timeFormat)
		} else if next := g.Next(at); !next.IsZero() {
			line += fmt.Sprintf(": next from %s to %s", next.In(zone).Format(timeFormat), next.Add(g.Duration).In(zone).Format(timeFormat))
		}
		out = append(out, line)
	}
	return out
}

func budgetWords(b Budget) string {
	switch {
	case b.Count == 0 || b.Share == 0:
		return "nothing"
	case b.Count == gate.NoLimit && b.Share == 1:
		return "no limit"
	case b.Count == gate.NoLimit:
		return fmt.Sprintf("%s of all certificates in a round", b.Share)
	case b.Share == 1:
		return fmt.Sprintf("%s objects in a round", b.Count)
	}
	return fmt.Sprintf("%s objects and %s of all certificates in a round", b.Count, b.Share)
}

// roundWords say what a round at a time may do.
func (c Config) roundWords(name gate.Rule, r Rule, t time.Time) string {
	switch {
	case name == gate.Batch, r.Mode != gate.Propose && r.Mode != gate.Enforce:
		return "reports"
	case r.Budget.Count == 0 || r.Budget.Share == 0:
		return "reports: the budget allows nothing"
	case len(r.Windows) == 0:
		return "may act"
	}
	var until time.Time
	for _, w := range c.terms(r).Windows {
		if u, open := w.Open(t); open && u.After(until) {
			until = u
		}
	}
	if !until.IsZero() {
		return "may act, until " + until.In(t.Location()).Format(timeFormat)
	}
	if next := c.opening(r, t); !next.IsZero() {
		return "reports: no window is open before " + next.In(t.Location()).Format(timeFormat)
	}
	return "reports: no window ever opens"
}

func spanWords(d time.Duration) string {
	d = d.Round(time.Minute)
	if days := d / (24 * time.Hour); days >= 2 {
		return fmt.Sprintf("%d days", days)
	}
	if d < time.Minute {
		return "less than a minute"
	}
	return Duration(d).String()
}

func graceWords(d Duration) string {
	switch d {
	case Disabled:
		return "marked and never deleted"
	case 0:
		return "deleted by the round after the one that marks them"
	}
	return fmt.Sprintf("deleted %s after they were marked", d)
}
