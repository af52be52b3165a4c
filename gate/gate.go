// Package gate decides which changes may be carried out. Audit is a gate that
// clears nothing, so that no deciding code has to know of it. It is pure.
package gate

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"time"

	"github.com/certherd/certherd/inventory"
	"github.com/certherd/certherd/plan"
)

// Rule is a group of checks that has terms of its own.
type Rule string

// The rules, named like their section of the configuration.
const (
	GC          Rule = "gc"          // what nobody needs any more
	Consolidate Rule = "consolidate" // what one wildcard could replace
	Batch       Rule = "batch"       // what the gateway is put through
)

// Rules are all rules, in the order of a report.
func Rules() []Rule { return []Rule{GC, Consolidate, Batch} }

var ruleOf = map[plan.Reason]Rule{
	plan.MissingSecret:         GC,
	plan.SharedSecretName:      GC,
	plan.UnrenewedSecret:       GC,
	plan.OrphanedSecret:        GC,
	plan.OrphanedCertificate:   GC,
	plan.SupersededCertificate: GC,
	plan.DuplicateCertificate:  GC,
	plan.CoveredCertificate:    GC,
	plan.ExpiredUnused:         GC,
	plan.RequestResidue:        GC,
	plan.RetiredInUse:          GC,
	plan.Consolidatable:        Consolidate,
	plan.NotConsolidatable:     Consolidate,
	plan.RenewalStorm:          Batch,
	plan.ScatteredRenewals:     Batch,
	plan.GatewayMemory:         Batch,
	plan.DrainHazard:           Batch,
}

// RuleOf is the rule whose terms a finding falls under; ok is false for a
// reason that no rule knows, and nothing of such a reason is ever cleared.
func RuleOf(r plan.Reason) (rule Rule, ok bool) {
	rule, ok = ruleOf[r]
	return rule, ok
}

// Mode is how far a rule may go. Any other value, also the zero one, is Audit.
type Mode string

// The modes.
const (
	Audit   Mode = "audit"   // report
	Propose Mode = "propose" // do what a person has approved
	Enforce Mode = "enforce" // do what the terms allow
)

// UnmarshalText takes the three modes and nothing else.
func (m *Mode) UnmarshalText(text []byte) error {
	switch x := Mode(text); x {
	case Audit, Propose, Enforce:
		*m = x
		return nil
	}
	return fmt.Errorf("%q is no mode: use audit, propose or enforce", text)
}

// Policy is what an administrator allows. The zero Policy is audit: it clears
// nothing.
type Policy struct {
	// Terms are those of each rule; a rule without is in audit.
	Terms map[Rule]Terms
	// MaxShare is the circuit breaker: the share (0 to 1) of all certificates
	// that one round may take away before anything of it is trusted. 0 lets none
	// go, and so does a value that is no share.
	MaxShare float64
	// Ignore are the opt-outs by configuration; those by annotation always hold.
	Ignore Ignore
	// Approvals are what persons have approved.
	Approvals []Approval
	// Prompt lets what is approved begin without a round of its rule; windows and
	// budgets hold.
	Prompt bool
	// Stopped, if not empty, holds everything and says why: something that a
	// person has to look at first.
	Stopped string
}

// Terms are how far, when and how much a rule may act.
type Terms struct {
	Mode Mode
	// Windows are when changes may begin: in any of them, or at any time when
	// there are none.
	Windows []Window
	Budget  Budget
	// Next, if not zero, says that this is not a round of the rule: its changes
	// wait for the round at Next.
	Next time.Time
}

// Check tells what is wrong with Terms, field by field, in the words of the
// configuration: mode, windows[0], budget.count.
func (t Terms) Check(bad func(field, why string)) {
	mode := t.Mode
	if err := mode.UnmarshalText([]byte(t.Mode)); err != nil {
		bad("mode", err.Error())
	}
	for i, w := range t.Windows {
		if err := w.Check(); err != nil {
			bad(fmt.Sprintf("windows[%d]", i), err.Error())
		}
	}
	t.Budget.Check(func(field, why string) { bad("budget."+field, why) })
}

// Defaults are the terms of an administrator who has said nothing: audit, and
// limits that are in force as soon as a mode is chosen.
func Defaults() Policy {
	p := Policy{MaxShare: 0.3, Terms: map[Rule]Terms{}}
	for _, r := range Rules() {
		p.Terms[r] = Terms{Mode: Audit, Budget: Budget{Count: 20, Share: 0.1}}
	}
	return p
}

// Approval is a person's consent to a change in the state in which it was
// looked at.
type Approval struct {
	// ID is that of the change.
	ID string
	// Digest pins the state (see Digest).
	Digest string
	// Whole says that it was given in view of the whole plan and of how much that
	// takes away: what was approved so does not count for the circuit breaker.
	Whole bool
}

// Digest is equal for changes that would do the same to the same versions of
// the same objects.
func Digest(c plan.Change) string { return plan.Plan{Changes: []plan.Change{c}}.Digest() }

// Token is what a person approves: the ID of a change, and enough of its digest
// to tell the state that was looked at from others.
func Token(id, digest string) string { return id + "@" + digest[:min(shownDigest, len(digest))] }

// WholeDigest pins a whole plan by the digests of the changes in it that wait for
// a person, in any order.
func WholeDigest(digests []string) string {
	h := sha256.New()
	for _, d := range slices.Sorted(slices.Values(digests)) {
		fmt.Fprintln(h, d)
	}
	return hex.EncodeToString(h.Sum(nil))[:shownDigest]
}

// OptedOut says by what an object is opted out, empty when it is not. s is the
// Snapshot that it is in.
func (i Ignore) OptedOut(s *inventory.Snapshot, ref inventory.Ref) string {
	d := decision{Policy: Policy{Ignore: i}, s: s}
	return d.ignored(ref)
}

// Cleared are the changes that may be carried out. Only Decide makes one.
type Cleared struct{ changes []plan.Change }

// Changes returns what was cleared, in order.
func (c Cleared) Changes() []plan.Change { return slices.Clone(c.changes) }

// Part parts what was cleared into the changes that renew certificates, and all
// others: they are carried out by different hands.
func (c Cleared) Part() (renewals, others Cleared) {
	for _, x := range c.changes {
		if slices.ContainsFunc(x.Steps, func(st plan.Step) bool { return st.Action == plan.Renew }) {
			renewals.changes = append(renewals.changes, x)
		} else {
			others.changes = append(others.changes, x)
		}
	}
	return renewals, others
}

// Cause is why a change is held, as a word for metrics and logs.
type Cause string

// The causes, in the order in which they are looked at.
const (
	HeldByCheck Cause = "check"     // the check itself says that certherd must not do it
	Malformed   Cause = "malformed" // not a change that anybody could carry out
	InAudit     Cause = "audit"
	Unread      Cause = "gap"     // something was not read in full
	NotUnused   Cause = "verdict" // something may use it
	OptedOut    Cause = "opt-out"
	Managed     Cause = "managed" // a GitOps tool would undo it
	Stopped     Cause = "stopped"
	Unapproved  Cause = "approval"
	NotDue      Cause = "schedule"
	TooMuch     Cause = "share" // the circuit breaker
	OutOfWindow Cause = "window"
	OverBudget  Cause = "budget"
)

const (
	timeFormat   = "2006-01-02 15:04 MST"
	auditMessage = "audit: certherd only reports"
	shownDigest  = 10   // characters, enough for a person to tell two apart
	epsilon      = 1e-9 // 0.1 of 30 is 3, whatever floating point makes of it
)

// Held is a change that must wait, and why.
type Held struct {
	Change plan.Change
	Cause  Cause
	// Why says in words what holds it and, where somebody can do something
	// about it, what.
	Why string
	// Digest is what an Approval has to name; empty unless one would help, which
	// it does where Cause is Unapproved or TooMuch.
	Digest string
}

// Decide parts a plan's changes into those that may be carried out and those
// that are held. A change is never in both, and never in neither. s is the
// Snapshot that the plan was made of; now, which may be later, decides about
// windows, and its location is the one that times are told in. The outcome does
// not depend on the order of the plan's changes.
func (g Policy) Decide(p plan.Plan, s *inventory.Snapshot, now time.Time) (Cleared, []Held) {
	d := decision{Policy: g, s: s, ids: map[string]int{}, requests: map[inventory.Ref]*inventory.Meta{}, approvals: map[string][]Approval{}}
	for _, a := range g.Approvals {
		d.approvals[a.ID] = append(d.approvals[a.ID], a)
	}
	for i := range s.Requests {
		d.requests[s.Requests[i].Ref] = &s.Requests[i].Meta
	}
	for _, c := range p.Changes {
		d.ids[c.ID]++
	}
	changes := slices.Clone(p.Changes)
	slices.SortStableFunc(changes, compareChanges)
	held := make([]Held, 0, len(changes))
	hold := func(c plan.Change, cause Cause, why string) {
		h := Held{Change: c, Cause: cause, Why: why}
		if cause == Unapproved || cause == TooMuch {
			h.Digest = Digest(c)
		}
		held = append(held, h)
	}

	// due and later are what may be done in this round, and in the next of each
	// rule; seen is what of it a person has seen as part of the whole.
	var due, seen []plan.Change
	later := map[Rule][]plan.Change{}
	for _, c := range changes {
		rule, _ := RuleOf(c.Why.Reason)
		a := d.approval(c)
		cause, why := d.forbidden(c, a)
		switch {
		case cause != "":
			hold(c, cause, why)
		case g.Terms[rule].Next.IsZero() || g.Prompt && a >= approved:
			if a == approvedWhole {
				seen = append(seen, c)
			} else {
				due = append(due, c)
			}
		case a == approvedWhole:
			hold(c, NotDue, d.notDue(rule, now.Location()))
		default:
			later[rule] = append(later[rule], c)
		}
	}
	if len(held) == len(changes) { // as in every audit
		sayHow(held)
		return Cleared{}, held
	}
	total := certificates(s)
	for _, rule := range Rules() {
		// That a round will be stopped is to be known before it begins.
		cause, why := TooMuch, d.tooMuch(later[rule], total)
		if why == "" {
			cause, why = NotDue, d.notDue(rule, now.Location())
		}
		for _, c := range later[rule] {
			hold(c, cause, why)
		}
	}
	left := seen
	if why := d.tooMuch(due, total); why != "" {
		for _, c := range due {
			hold(c, TooMuch, why)
		}
	} else {
		left = append(left, due...)
		slices.SortStableFunc(left, compareChanges)
	}
	sayHow(held)

	var cleared []plan.Change
	accounts := map[Rule]*account{}
	for rule, t := range g.Terms {
		accounts[rule] = &account{budget: t.Budget, total: total, certificates: map[inventory.Ref]bool{}}
	}
	for _, c := range left {
		rule, _ := RuleOf(c.Why.Reason)
		if why := closed(g.Terms[rule].Windows, now); why != "" {
			hold(c, OutOfWindow, why)
		} else if why := accounts[rule].spend(d.removals(c)); why != "" {
			hold(c, OverBudget, why)
		} else {
			cleared = append(cleared, c)
		}
	}
	return Cleared{cleared}, held
}

func compareChanges(a, b plan.Change) int {
	return cmp.Or(a.Why.Object.Compare(b.Why.Object), cmp.Compare(a.ID, b.ID))
}

// decision is one call of Decide.
type decision struct {
	Policy
	s         *inventory.Snapshot
	ids       map[string]int
	requests  map[inventory.Ref]*inventory.Meta
	approvals map[string][]Approval // by the ID of the change
}

// consent is what persons have said to a change.
type consent int

const (
	notApproved   consent = iota
	approvedOther         // in another state
	approved
	approvedWhole // in view of the whole plan
)

func (d *decision) approval(c plan.Change) consent {
	list := d.approvals[c.ID]
	if len(list) == 0 {
		return notApproved
	}
	found, digest := approvedOther, Digest(c)
	for _, a := range list {
		switch {
		case a.Digest != digest:
		case a.Whole:
			return approvedWhole
		default:
			found = approved
		}
	}
	return found
}

// forbidden says why a change must wait whatever its size and the hour; the
// cause is empty when nothing speaks against it.
func (d *decision) forbidden(c plan.Change, a consent) (Cause, string) {
	rule, ok := RuleOf(c.Why.Reason)
	terms := d.Terms[rule]
	switch {
	case c.Why.Hold != "":
		return HeldByCheck, c.Why.Hold
	case !ok:
		return Malformed, fmt.Sprintf("no rule is responsible for %q", c.Why.Reason)
	case len(c.Steps) == 0:
		return Malformed, "it has no steps"
	case d.ids[c.ID] > 1:
		return Malformed, "another change has the same ID"
	case terms.Mode != Propose && terms.Mode != Enforce:
		return InAudit, auditMessage
	}
	if removes(c) && len(d.s.Gaps) > 0 {
		gap := d.s.Gaps[0]
		why := fmt.Sprintf("%s was not read in full (%s)", gap.Kind, gap.Reason)
		if n := len(d.s.Gaps) - 1; n > 0 {
			why += fmt.Sprintf(", nor %d more", n)
		}
		return Unread, why + ": nothing is taken away before everything can be read"
	}
	if why := d.optedOut(c); why != "" {
		return OptedOut, why
	}
	if why := d.used(rule, c); why != "" {
		return NotUnused, why
	}
	if why := d.managed(c); why != "" {
		return Managed, why
	}
	switch {
	case d.Stopped != "":
		return Stopped, d.Stopped
	case terms.Mode == Propose && a == notApproved:
		return Unapproved, fmt.Sprintf("it waits for `certherd approve %s`", Token(c.ID, Digest(c)))
	case terms.Mode == Propose && a == approvedOther:
		return Unapproved, fmt.Sprintf("what was approved is another state than this one: look again, then `certherd approve %s`", Token(c.ID, Digest(c)))
	}
	return "", ""
}

func (d *decision) notDue(rule Rule, zone *time.Location) string {
	return fmt.Sprintf("the next round of %s is at %s", rule, d.Terms[rule].Next.In(zone).Format(timeFormat))
}

// sayHow tells how to approve what is too much, which needs all that waits.
func sayHow(held []Held) {
	var waiting []string
	for i := range held {
		if held[i].Digest != "" {
			waiting = append(waiting, held[i].Digest)
		}
	}
	how := ""
	for i := range held {
		if held[i].Cause == TooMuch {
			if how == "" {
				how = fmt.Sprintf(": look at what waits (`certherd approve --list`) and approve all of it (`certherd approve --all=%s`), or raise maxShare", WholeDigest(waiting))
			}
			held[i].Why += how
		}
	}
}

// used says why a change would take something away that may be used.
func (d *decision) used(rule Rule, c plan.Change) string {
	v := c.Why.Verdict
	switch {
	case rule == GC && unretires(c):
		return "" // what is used loses its mark: nothing is safer
	case v == inventory.Unknown:
		return "whether anybody uses it is unknown"
	case rule == GC && v != inventory.Unused:
		return "it is used"
	case rule != GC:
		// A consolidation is about what is used: its steps move the users first,
		// which plan.Verify proves and apply sees to.
		return ""
	}
	// A finding is believed only as far as the snapshot bears it out.
	if d.meta(c.Why.Object) == nil {
		return c.Why.Object.String() + " is not in the snapshot"
	}
	if d.requests[c.Why.Object] != nil {
		return "" // requests get no verdict from the snapshot
	}
	if j := d.s.Judge(c.Why.Object); j.Verdict != inventory.Unused {
		return fmt.Sprintf("%s is %s by now", c.Why.Object, j.Verdict)
	}
	return ""
}

// managed says which GitOps tool has what a change takes away.
func (d *decision) managed(c plan.Change) string {
	for _, st := range c.Steps {
		if st.Action != plan.Retire && st.Action != plan.Delete {
			continue
		}
		if m := d.meta(st.Object); m != nil && m.ManagedBy != "" {
			return fmt.Sprintf("%s is managed by %s: take it out of what that applies", st.Object, m.ManagedBy)
		}
	}
	return ""
}

// tooMuch is the circuit breaker, for what nobody has seen as part of a whole.
func (d *decision) tooMuch(changes []plan.Change, total int) string {
	gone := map[inventory.Ref]bool{}
	for _, c := range changes {
		maps.Copy(gone, d.removals(c).certificates)
	}
	limit := d.MaxShare
	if !isShare(limit) {
		limit = 0
	}
	if float64(len(gone)) <= limit*float64(total)+epsilon {
		return ""
	}
	of := 1.0
	if total > 0 {
		of = float64(len(gone)) / float64(total)
	}
	return fmt.Sprintf("this round would take away %d of %d certificates (%s), and more than %s at once needs a person",
		len(gone), total, Percent(of), Percent(limit))
}

// removal is what a change takes away.
type removal struct {
	// certificates are named by their Secrets, so that a Certificate and its
	// Secret are one.
	certificates map[inventory.Ref]bool
	// others are objects that hold no certificate, such as requests.
	others map[inventory.Ref]bool
}

func (d *decision) removals(c plan.Change) removal {
	r := removal{map[inventory.Ref]bool{}, map[inventory.Ref]bool{}}
	for _, st := range c.Steps {
		if st.Action != plan.Retire && st.Action != plan.Delete {
			continue
		}
		switch secret := d.secretOf(st.Object); {
		case !secret.IsZero():
			r.certificates[secret] = true
		default:
			r.others[st.Object] = true
		}
	}
	return r
}

// secretOf is the Secret by which a certificate is known, zero for an object
// that is none.
func (d *decision) secretOf(ref inventory.Ref) inventory.Ref {
	switch {
	case ref.Kind == "Secret" && ref.Group == "":
		return ref
	case d.s.Certificate(ref) != nil:
		return d.s.Certificate(ref).Secret
	case d.s.KnativeCertificate(ref) != nil:
		return d.s.KnativeCertificate(ref).Secret
	case ref.Kind == "Certificate":
		return ref // not in the snapshot, and counted nevertheless
	}
	return inventory.Ref{}
}

// removes reports whether a change takes anything away.
func removes(c plan.Change) bool {
	return slices.ContainsFunc(c.Steps, func(st plan.Step) bool { return st.Action == plan.Retire || st.Action == plan.Delete })
}

// unretires reports whether a change does nothing but take marks back.
func unretires(c plan.Change) bool {
	return !slices.ContainsFunc(c.Steps, func(st plan.Step) bool { return st.Action != plan.Unretire })
}

// meta is what is known of an object, nil when nothing is.
func (d *decision) meta(ref inventory.Ref) *inventory.Meta {
	if m := d.s.Judged(ref); m != nil {
		return m
	}
	if x := d.s.Consumer(ref); x != nil {
		return &x.Meta
	}
	return d.requests[ref]
}

// certificates counts what shares are shares of: the Secrets that hold a
// certificate or will once it is issued.
func certificates(s *inventory.Snapshot) int {
	n := 0
	for i := range s.Secrets {
		again := i+1 < len(s.Secrets) && s.Secrets[i+1].Ref == s.Secrets[i].Ref
		if !again && !s.Secrets[i].NextPrivateKey {
			n++
		}
	}
	more := map[inventory.Ref]struct{}{}
	count := func(ref inventory.Ref) {
		if x := s.Secret(ref); x == nil || x.NextPrivateKey {
			more[ref] = struct{}{}
		}
	}
	for i := range s.Certificates {
		count(s.Certificates[i].Secret)
	}
	for i := range s.KnativeCertificates {
		count(s.KnativeCertificates[i].Secret)
	}
	return n + len(more)
}

func isShare(x float64) bool { return x >= 0 && x <= 1 } // not for NaN

// Percent writes a share (0 to 1) as people read it, for example 12.5%.
func Percent(share float64) string {
	return strconv.FormatFloat(math.Round(share*1000)/10, 'f', -1, 64) + "%"
}
