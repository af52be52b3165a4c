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

// Approve notes that changes are approved, in the state that they have. like says by
// whom, why, for how long, and whether in view of the whole.
func (c *Consent) Approve(changes []report.Change, like Approval) {
	var ids []string
	for _, x := range changes {
		ids = append(ids, x.ID)
	}
	c.Approvals = slices.DeleteFunc(c.Approvals, func(old Approval) bool { return slices.Contains(ids, old.ID) })
	for _, x := range changes {
		like.ID, like.Digest = x.ID, x.Digest
		c.Approvals = append(c.Approvals, like)
	}
	c.Say(Word{Time: like.Given, What: SaidApprove, By: like.By, Reason: like.Reason, Changes: ids})
}
