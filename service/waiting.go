package service

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/certherd/certherd/gate"
	"github.com/certherd/certherd/report"
)

// Waiting are the changes of a report that wait for a person.
func Waiting(r *report.Report) []report.Change {
	var out []report.Change
	for _, x := range r.Changes {
		if x.Digest != "" {
			out = append(out, x)
		}
	}
	return out
}

// WholeDigest pins all that waits at once (see gate.WholeDigest).
func WholeDigest(waiting []report.Change) string {
	var all []string
	for _, x := range waiting {
		all = append(all, x.Digest)
	}
	return gate.WholeDigest(all)
}

// TooMuch is why maxShare has stopped something that waits, empty if it has not.
func TooMuch(waiting []report.Change) string {
	for _, x := range waiting {
		if x.WaitsFor == string(gate.TooMuch) {
			why, _, _ := strings.Cut(x.Held, ": look at")
			return why
		}
	}
	return ""
}

// Choose are the changes of the newest report that somebody wants to approve and
// names as CHANGE or CHANGE@DIGEST. The error has a line for each that cannot be
// approved, or not in the state that its digest, or the beginning of one, is of.
func Choose(newest *report.Report, names []string) ([]report.Change, error) {
	waiting := Waiting(newest)
	taken := newest.TakenAt.Local().Format(time.DateTime)
	var out []report.Change
	var errs []error
	for _, arg := range names {
		id, pin, pinned := strings.Cut(arg, "@")
		named := func(x report.Change) bool { return x.ID == id }
		i, known := slices.IndexFunc(waiting, named), slices.IndexFunc(newest.Changes, named)
		switch {
		case i < 0 && known < 0:
			errs = append(errs, fmt.Errorf("there is no change %s in the report of %s; see `certherd approve --list`", id, taken))
		case i < 0 && newest.Changes[known].Held == "":
			errs = append(errs, fmt.Errorf("change %s needs no approval: nothing holds it", id))
		case i < 0:
			errs = append(errs, fmt.Errorf("change %s does not wait for an approval: %s", id, newest.Changes[known].Held))
		case pinned && (len(pin) < 6 || !strings.HasPrefix(waiting[i].Digest, pin)):
			errs = append(errs, fmt.Errorf("change %s is not in the state that you looked at, %s@%s: by the report of %s it is %s. Look again: certherd approve --list",
				id, id, pin, taken, gate.Token(id, waiting[i].Digest)))
		case waiting[i].WaitsFor == string(gate.TooMuch):
			errs = append(errs, fmt.Errorf("change %s alone cannot be approved: %s", id, waiting[i].Held))
		case !slices.ContainsFunc(out, named):
			out = append(out, waiting[i])
		}
	}
	return out, errors.Join(errs...)
}

// Resume ends the stop that began at since; a zero since is for any. The error says
// that there is none, or another one.
func (c *Consent) Resume(since time.Time, by, reason string, now time.Time) error {
	switch {
	case c.Stopped == nil:
		return errors.New("nothing is stopped")
	case !since.IsZero() && !c.Stopped.Since.Equal(since):
		return fmt.Errorf("this is not the stop that you looked at: everything is stopped since %s now; look again", c.Stopped.Since.UTC().Format(time.RFC3339))
	}
	c.Stopped = nil
	c.Say(Word{Time: now.UTC().Truncate(time.Second), What: SaidResume, By: by, Reason: reason})
	return nil
}

// Hurry are the changes among names that nothing but gateways' budgets holds, without
// digests, as they need no approval but for their time; others are the names left.
func Hurry(newest *report.Report, names []string) (changes []report.Change, others []string) {
	for _, name := range names {
		i := slices.IndexFunc(newest.Changes, func(x report.Change) bool { return x.ID == name && x.HeldUntil != nil && x.Digest == "" })
		switch {
		case i < 0:
			others = append(others, name)
		case !slices.ContainsFunc(changes, func(x report.Change) bool { return x.ID == name }):
			changes = append(changes, newest.Changes[i])
		}
	}
	return changes, others
}

// Approve notes that changes are approved, in the state that they have. like says by
// whom, why, for how long, and whether in view of the whole, or at once. What Hurry has chosen keeps the approval that it
// may have, and only its time is changed.
func (c *Consent) Approve(changes []report.Change, like Approval) {
	var ids []string
	for _, x := range changes {
		ids = append(ids, x.ID)
	}
	changes = slices.DeleteFunc(slices.Clone(changes), func(x report.Change) bool {
		i := slices.IndexFunc(c.Approvals, func(old Approval) bool { return old.ID == x.ID })
		if x.Digest != "" || i < 0 {
			return false
		}
		c.Approvals[i].Now = c.Approvals[i].Now || like.Now
		return true
	})
	c.Approvals = slices.DeleteFunc(c.Approvals, func(old Approval) bool {
		return slices.ContainsFunc(changes, func(x report.Change) bool { return x.ID == old.ID })
	})
	for _, x := range changes {
		like.ID, like.Digest = x.ID, x.Digest
		c.Approvals = append(c.Approvals, like)
	}
	c.Say(Word{Time: like.Given, What: SaidApprove, By: like.By, Reason: like.Reason, Changes: ids})
}
