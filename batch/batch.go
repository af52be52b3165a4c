// Package batch decides when changes that a gateway would see may go: which of
// those that are wanted go now, together, and until when the others are held. It
// is pure: it reads no clock, and keeps nothing between two calls but the State
// that it returns.
//
// # How to use it
//
// Whoever wants to write something that a gateway sees makes an Item of it, and
// asks Next, again and again, with all that is wanted, what may go:
//
//	going, held, next := batch.Next(now, pending, state, budgets)
//
// Then, in this order: keep next in the cluster; write what is going; ask again at
// the earliest Held.Until, or when something new is wanted. State that is kept
// before the writes makes a leader that is killed in between spend budget for
// nothing, and never spend it twice; what it did not write is still wanted by
// what the cluster shows, and so comes back as an Item. In a cluster, package
// service does all of this: see Ask there.
//
// # What an update is
//
// The budget of a gateway counts updates. One update is what goes together: items
// of at most Budget.Largest in weight. That is one push of listeners where what
// configures the gateway makes one push of changes that come together, as
// certherd's relay does. Kourier makes a push of each change of a Secret or Ingress
// (net-kourier pkg/reconciler/ingress/ingress.go), and so Largest should be 1
// there: then one update is one push, too.
//
// # What holds
//
//  1. In any Period there are at most Updates updates of a gateway, and between two of
//     them at least Gap, but for urgent ones. Those are counted, so that others
//     wait for them. An item that is heavier than Largest is several updates, which
//     go together; one that is heavier than the whole budget goes when the
//     gateway has had no update for a Period.
//  2. An item goes at its Deadline at the latest, past the budget if need be. Held.Until
//     is never after it.
//  3. The earliest deadline comes first. What has none is ordered as if it had one
//     Patience after it was first asked for; from then on, urgent updates are not
//     counted against it, so that nothing waits for ever. What comes first keeps
//     its place at each of its gateways.
//  4. A clock that was set back holds nothing longer than a Period, and lets nothing go
//     that it would not have let go. One that was set forward looks like time that
//     has passed: it can let one more budget go, with its Gaps.
package batch

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/certherd/certherd/inventory"
	"github.com/certherd/certherd/plan"
)

// Renew is the action of an Item that has a certificate issued again. The others
// are those of package plan: Issue, Switch, Retire, Unretire and Delete.
const Renew = plan.Renew

// Patience is how long what has no deadline may have to wait for what has one, and
// for what is urgent.
const Patience = 24 * time.Hour

// Budget is how often one gateway may be given something new.
type Budget struct {
	// Updates is how many updates there may be in any Period.
	Updates int
	Period  time.Duration
	// Gap is the least time between two updates. The gateway's drain time is right:
	// until it is over, Envoy keeps a copy of the listener that an update replaced.
	Gap time.Duration
	// Largest is the most weight of one update.
	Largest int
}

// Defaults are for a stock Kourier that drains for 15 s: never more than one copy of
// a listener.
func Defaults() Budget {
	return Budget{Updates: 4, Period: time.Minute, Gap: 15 * time.Second, Largest: 1}
}

// Check tells what is wrong with a budget, field by field, in the words of the
// configuration.
func (b Budget) Check(bad func(field, why string)) {
	if b.Updates < 1 {
		bad("updates", "it has to be 1 at least, or nothing would ever go")
	}
	if b.Period <= 0 {
		bad("period", "it has to be longer than 0s")
	}
	if b.Gap < 0 {
		bad("gap", "it must not be negative")
	}
	if b.Largest < 1 {
		bad("largest", "it has to be 1 at least, or nothing would ever go")
	}
}

// Budgets are those of all gateways. A budget that Check finds something wrong with
// is taken for Defaults.
type Budgets struct {
	// Of are the budgets of gateways that have their own; Else holds for all others,
	// and for the gateway that is not known, which is the zero Ref.
	Of   map[inventory.Ref]Budget
	Else Budget
}

func (b Budgets) of(gateway inventory.Ref) Budget {
	x, ok := b.Of[gateway]
	if !ok {
		x = b.Else
	}
	wrong := false
	x.Check(func(string, string) { wrong = true })
	if wrong {
		return Defaults()
	}
	return x
}

// Urgency is why something goes past the budget; empty if it does not.
type Urgency string

const (
	// FirstIssue: there is no certificate yet.
	FirstIssue Urgency = "first issue"
	// Expiring: it has expired, or will within the safety margin.
	Expiring Urgency = "expired, or inside the safety margin"
	// Revoked: an annotation says that it must not be used any more, because it was
	// revoked, or its key is known to others.
	Revoked Urgency = "revoked, or its key compromised"
	// Asked: a person said so in as many words.
	Asked Urgency = "a person's word"
	// Repair: something is broken, or goes back because it is.
	Repair Urgency = "something is broken without it"
	// Overdue: its Deadline has come. Next sets it.
	Overdue Urgency = "its deadline has come"
)

// Item is one change that is wanted.
type Item struct {
	// Object is what is written to. Two Items of one object become one: the deletion
	// if there is one, else the one that is more urgent, with the earliest
	// deadline of both.
	Object inventory.Ref
	Action plan.Action
	// Gateways are those that see it. What none sees goes at once, and costs nothing.
	Gateways []inventory.Ref
	// Deadline is until when it may be held; zero for ever. A renewal's is the
	// certificate's notAfter less the safety margin.
	Deadline time.Time
	Urgent   Urgency
	// Weight is how many changes the gateways see, 0 for 1: a consolidation switches
	// all of its consumers.
	Weight int
}

// Held is what may not go yet.
type Held struct {
	Item
	// Until is when it may go, if nothing else is asked for that comes first, and
	// callers ask in time.
	Until time.Time
	Why   string
}

// State is what has to be known of the past. The zero State knows of nothing.
// Slices of a State are never written to.
type State struct {
	// Sent are the updates that still count, oldest first.
	Sent []Sent `json:"sent,omitempty"`
	// Waiting are the objects that were held, by name.
	Waiting []Waiting `json:"waiting,omitempty"`
}

// Sent is what one gateway was given at a time.
type Sent struct {
	Gateway inventory.Ref `json:"gateway"`
	At      time.Time     `json:"at"`
	Updates int           `json:"updates"`
	Urgent  bool          `json:"urgent,omitempty"`
}

// Waiting is an object that is held, and since when.
type Waiting struct {
	Object inventory.Ref `json:"object"`
	Since  time.Time     `json:"since"`
}

// Next parts what is wanted into what goes now and what is held, and tells the
// state after that. going and held together are pending with the Items of one
// object made one, in the order in which they go. The outcome does not depend on the
// order of pending.
func Next(now time.Time, pending []Item, state State, budgets Budgets) (going []Item, held []Held, next State) {
	q := newQueue(now, pending, state, budgets)
	going = q.step(now)
	next = q.state()
	return going, q.forecast(now), next
}

// Step is Next for callers that need to know of what is held only when to ask again;
// again is zero when nothing is held.
func Step(now time.Time, pending []Item, state State, budgets Budgets) (going []Item, again time.Time, next State) {
	q := newQueue(now, pending, state, budgets)
	going = q.step(now)
	next = q.state()
	if len(q.waiting) > 0 {
		again = q.soonest(now)
	}
	return going, again, next
}

// Waits reports since when an object is held; zero if it is not.
func (s State) Waits(object inventory.Ref) time.Time {
	for _, w := range s.Waiting {
		if w.Object == object {
			return w.Since
		}
	}
	return time.Time{}
}

// merged are items with those of one object made one.
func merged(items []Item) []Item {
	at := make(map[inventory.Ref]int, len(items))
	out := make([]Item, 0, len(items))
	for _, it := range items {
		it.Weight = max(it.Weight, 1)
		i, again := at[it.Object]
		if !again {
			at[it.Object] = len(out)
			out = append(out, it)
			continue
		}
		a, b := out[i], it
		if weaker(a, b) {
			a, b = b, a
		}
		if a.Deadline.IsZero() || !b.Deadline.IsZero() && b.Deadline.Before(a.Deadline) {
			a.Deadline = b.Deadline
		}
		a.Urgent = cmp.Or(a.Urgent, b.Urgent)
		a.Weight = max(a.Weight, b.Weight)
		a.Gateways = append(slices.Clone(a.Gateways), b.Gateways...)
		slices.SortFunc(a.Gateways, inventory.Ref.Compare)
		a.Gateways = slices.Compact(a.Gateways)
		out[i] = a
	}
	return out
}

// weaker reports whether b is the one of two Items of one object that stays.
func weaker(a, b Item) bool {
	rank := func(it Item) int {
		switch {
		case it.Action == plan.Delete:
			return 0
		case it.Urgent != "":
			return 1
		}
		return 2
	}
	return cmp.Or(cmp.Compare(rank(b), rank(a)), cmp.Compare(b.Action, a.Action), cmp.Compare(b.Urgent, a.Urgent)) < 0
}

// wanted is an Item in a queue.
type wanted struct {
	Item
	since time.Time
	key   time.Time // by which it is ordered; never after its Deadline
}

// free reports whether it goes whatever the budget says.
func (w *wanted) free() bool { return w.Urgent != "" || len(w.Gateways) == 0 }

// before orders what is wanted as it goes.
func (w *wanted) before(o *wanted) int {
	if w.free() != o.free() {
		if w.free() {
			return -1
		}
		return 1
	}
	return cmp.Or(w.key.Compare(o.key), w.since.Compare(o.since), w.Object.Compare(o.Object))
}

// queue is what is wanted, and what gateways have been given.
type queue struct {
	budgets  Budgets
	waiting  []wanted // in the order in which they go
	gateways map[inventory.Ref]*gateway
	asked    int // gateways that anything waits for
}

// gateway is what one gateway has been given.
type gateway struct {
	Budget
	sent []Sent
	// left is the weight that may still join the updates of time at.
	left int
	at   time.Time
	// asked is true if anything waits for it; reserved, in a step, once an item that
	// comes first does.
	asked, reserved bool
}

func newQueue(now time.Time, pending []Item, state State, budgets Budgets) *queue {
	q := &queue{budgets: budgets, gateways: map[inventory.Ref]*gateway{}}
	for _, s := range state.Sent {
		if s.At.After(now) {
			s.At = now // the clock was set back
		}
		g := q.gateway(s.Gateway)
		g.sent = append(g.sent, s)
	}
	for _, g := range q.gateways {
		slices.SortStableFunc(g.sent, func(a, b Sent) int { return a.At.Compare(b.At) })
		g.forget(now)
	}
	since := make(map[inventory.Ref]time.Time, len(state.Waiting))
	for _, w := range state.Waiting {
		since[w.Object] = w.Since
	}
	for _, it := range merged(pending) {
		w := wanted{Item: it, since: now}
		if s, ok := since[it.Object]; ok && s.Before(now) {
			w.since = s
		}
		w.key = w.since.Add(Patience)
		if !it.Deadline.IsZero() && it.Deadline.Before(w.key) {
			w.key = it.Deadline
		}
		for _, r := range it.Gateways {
			if g := q.gateway(r); !g.asked {
				g.asked = true
				q.asked++
			}
		}
		q.waiting = append(q.waiting, w)
	}
	slices.SortFunc(q.waiting, func(a, b wanted) int { return a.before(&b) })
	return q
}

func (q *queue) gateway(r inventory.Ref) *gateway {
	g := q.gateways[r]
	if g == nil {
		g = &gateway{Budget: q.budgets.of(r)}
		q.gateways[r] = g
	}
	return g
}

// state is what has to be known of the past the next time.
func (q *queue) state() State {
	s := State{Sent: q.sent()}
	for _, w := range q.waiting {
		s.Waiting = append(s.Waiting, Waiting{w.Object, w.since})
	}
	slices.SortFunc(s.Waiting, func(a, b Waiting) int { return a.Object.Compare(b.Object) })
	return s
}

// sent are the updates of all gateways that still count.
func (q *queue) sent() []Sent {
	var out []Sent
	for _, g := range q.gateways {
		out = append(out, g.sent...)
	}
	slices.SortStableFunc(out, func(a, b Sent) int { return cmp.Or(a.At.Compare(b.At), a.Gateway.Compare(b.Gateway)) })
	return out
}

// remembered is for how long updates are kept at least: a Period that is made
// longer finds those of before.
const remembered = time.Hour

// forget leaves out the updates that will never count again.
func (g *gateway) forget(now time.Time) {
	keep := max(g.Period, g.Gap, remembered)
	i := 0
	for i < len(g.sent) && now.Sub(g.sent[i].At) >= keep {
		i++
	}
	g.sent = g.sent[i:]
}

// updates is how many updates a weight is.
func (g *gateway) updates(weight int) int { return (weight + g.Largest - 1) / g.Largest }

// room is when new updates for an item may go, not before now. Once the item has
// waited for its Patience, urgent updates of others keep it no longer.
func (g *gateway) room(now time.Time, w *wanted) time.Time {
	at := g.free(now, w.Weight, true)
	if at.After(w.key) {
		if aged := g.free(now, w.Weight, false); aged.Before(w.key) {
			at = w.key
		} else {
			at = aged
		}
	}
	return at
}

// free is when the gateway has room for a weight, not before now, with urgent updates
// counted or not.
func (g *gateway) free(now time.Time, weight int, urgent bool) time.Time {
	at := now
	used, last := 0, true
	need := min(g.updates(weight), g.Updates)
	for i := len(g.sent) - 1; i >= 0; i-- {
		s := &g.sent[i]
		if s.Urgent && !urgent {
			continue
		}
		if t := s.At.Add(g.Gap); last && t.After(at) {
			at = t
		}
		last = false
		out := s.At.Add(g.Period)
		if !out.After(at) {
			break
		}
		if used += s.Updates; used+need > g.Updates {
			return out
		}
	}
	return at
}

// joins reports whether a weight fits into the updates that go now anyway.
func (g *gateway) joins(now time.Time, weight int) bool { return g.left >= weight && g.at.Equal(now) }

// give counts a weight that goes now, as name.
func (g *gateway) give(now time.Time, name inventory.Ref, weight int, urgent bool) {
	if g.joins(now, weight) {
		g.left -= weight
		return
	}
	n := g.updates(weight)
	g.sent = append(g.sent, Sent{Gateway: name, At: now, Updates: n, Urgent: urgent})
	g.left, g.at = n*g.Largest-weight, now
}

// step takes out of the queue what goes at a time.
func (q *queue) step(now time.Time) []Item {
	q.overdue(now)
	for _, g := range q.gateways {
		g.reserved = false
	}
	full := 0 // gateways that can take nothing more
	var going []Item
	var stay []wanted
	i := 0
	for ; i < len(q.waiting); i++ {
		w := &q.waiting[i]
		if !w.free() && full == q.asked {
			break
		}
		if w.free() || q.fits(now, w) {
			for _, r := range w.Gateways {
				q.gateways[r].give(now, r, w.Weight, w.Urgent != "")
			}
			going = append(going, w.Item)
			continue
		}
		for _, r := range w.Gateways {
			if g := q.gateways[r]; !g.reserved {
				g.reserved = true
				if !g.joins(now, 1) {
					full++
				}
			}
		}
		stay = append(stay, *w)
	}
	// What was looked at in vain comes before what was not looked at.
	copy(q.waiting[i-len(stay):i], stay)
	q.waiting = q.waiting[i-len(stay):]
	return going
}

// overdue makes urgent whatever has come to its deadline.
func (q *queue) overdue(now time.Time) {
	found := false
	for i := range q.waiting {
		w := &q.waiting[i]
		if w.free() {
			continue
		}
		if w.key.After(now) {
			break
		}
		if !w.Deadline.IsZero() && !w.Deadline.After(now) {
			w.Urgent, found = Overdue, true
		}
	}
	if found {
		slices.SortStableFunc(q.waiting, func(a, b wanted) int { return a.before(&b) })
	}
}

// fits reports whether an item may go now at all of its gateways.
func (q *queue) fits(now time.Time, w *wanted) bool {
	for _, r := range w.Gateways {
		g := q.gateways[r]
		if !g.joins(now, w.Weight) && (g.reserved || g.room(now, w).After(now)) {
			return false
		}
	}
	return true
}

// forecast tells of all that waits when it goes, if time passes and nothing else
// happens. The queue is empty after that.
func (q *queue) forecast(now time.Time) []Held {
	held := make([]Held, 0, len(q.waiting))
	for t := now; len(q.waiting) > 0; {
		t = q.soonest(t)
		before := len(held)
		going := q.step(t)
		if len(going) == 0 {
			t = t.Add(time.Second) // soonest promises that this does not happen
		}
		for _, it := range going {
			why := q.why(it, before)
			if it.Urgent == Overdue {
				it.Urgent = ""
			}
			held = append(held, Held{Item: it, Until: t, Why: why})
		}
		for _, g := range q.gateways {
			g.forget(t)
		}
	}
	return held
}

// soonest is the next time at which something can go.
func (q *queue) soonest(now time.Time) time.Time {
	var next time.Time
	earlier := func(t time.Time) {
		if next.IsZero() || t.Before(next) {
			next = t
		}
	}
	seen := 0
	for _, g := range q.gateways {
		g.reserved = false
	}
	for i := range q.waiting {
		w := &q.waiting[i]
		if !w.Deadline.IsZero() {
			earlier(w.Deadline)
		}
		if seen == q.asked {
			continue
		}
		at, first := now, true
		for _, r := range w.Gateways {
			g := q.gateways[r]
			if g.reserved {
				first = false
			} else {
				g.reserved = true
				seen++
			}
			if t := g.room(now, w); t.After(at) {
				at = t
			}
		}
		if first {
			earlier(at)
		}
	}
	if next.Before(now) {
		return now
	}
	return next
}

// why says what holds an item that has n others before it.
func (q *queue) why(it Item, n int) string {
	var at inventory.Ref
	var slowest *gateway
	for _, r := range it.Gateways {
		if g := q.gateways[r]; slowest == nil || g.rate() < slowest.rate() {
			slowest, at = g, r
		}
	}
	name := "the gateway"
	if !at.IsZero() {
		name = at.String()
	}
	why := fmt.Sprintf("%s gets %d updates in %s at most, %s apart", name, slowest.Updates, slowest.Period, slowest.Gap)
	switch {
	case it.Urgent == Overdue:
		return why + ", and it goes at its deadline all the same"
	case n == 1:
		return why + ", and one change comes before it"
	case n > 1:
		return fmt.Sprintf("%s, and %d changes come before it", why, n)
	}
	return why
}

// rate is the weight in a second that a budget lets go.
func (b Budget) rate() float64 {
	apart := max(b.Period/time.Duration(b.Updates), b.Gap)
	return float64(b.Largest) / max(apart.Seconds(), 1e-9)
}
