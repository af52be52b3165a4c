package batch

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/certherd/certherd/inventory"
	"github.com/certherd/certherd/plan"
)

var (
	start  = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	envoyA = inventory.Ref{Group: "apps", Kind: "Deployment", Namespace: "kourier-system", Name: "a"}
	envoyB = inventory.Ref{Group: "apps", Kind: "Deployment", Namespace: "kourier-system", Name: "b"}
)

func at(d time.Duration) time.Time { return start.Add(d) }

func secret(n int) inventory.Ref { return inventory.SecretRef("ns", fmt.Sprintf("s%03d", n)) }

func deletion(n int) Item {
	return Item{Object: secret(n), Action: plan.Delete, Gateways: []inventory.Ref{envoyA}}
}

func names(items []Item) []string {
	out := []string{}
	for _, it := range items {
		out = append(out, it.Object.Name)
	}
	return out
}

func TestNext(t *testing.T) {
	four := Budget{Updates: 4, Period: time.Minute, Gap: 15 * time.Second, Largest: 1}
	pairs := Budget{Updates: 2, Period: time.Minute, Gap: 10 * time.Second, Largest: 2}
	with := func(it Item, change func(*Item)) Item { change(&it); return it }
	sent := func(d time.Duration, updates int) Sent { return Sent{Gateway: envoyA, At: at(d), Updates: updates} }
	for name, tc := range map[string]struct {
		budget  Budget
		sent    []Sent
		waiting []Waiting
		pending []Item
		now     time.Duration
		going   []string
		held    map[string]time.Duration
	}{
		"nothing is wanted": {budget: four, going: []string{}},
		"one after the other, each one gap after that before": {budget: four, pending: []Item{deletion(1), deletion(2), deletion(3)},
			going: []string{"s001"}, held: map[string]time.Duration{"s002": 15 * time.Second, "s003": 30 * time.Second}},
		"as many together as one update holds, and no more updates than the period allows": {budget: pairs,
			pending: []Item{deletion(1), deletion(2), deletion(3), deletion(4), deletion(5)},
			going:   []string{"s001", "s002"}, held: map[string]time.Duration{"s003": 10 * time.Second, "s004": 10 * time.Second, "s005": time.Minute}},
		"what no gateway sees goes at once": {budget: four, sent: []Sent{sent(0, 4)}, now: time.Second,
			pending: []Item{deletion(1), with(deletion(2), func(it *Item) { it.Gateways = nil })},
			going:   []string{"s002"}, held: map[string]time.Duration{"s001": time.Minute}},
		"what is urgent goes past the budget, and is counted": {budget: four, sent: []Sent{sent(0, 4)}, now: time.Second,
			pending: []Item{deletion(1), with(deletion(2), func(it *Item) { it.Urgent = Revoked })},
			going:   []string{"s002"}, held: map[string]time.Duration{"s001": time.Minute}},
		"what waits joins an urgent update that has room": {budget: pairs, sent: []Sent{sent(0, 2)}, now: time.Second,
			pending: []Item{deletion(1), deletion(2), with(deletion(3), func(it *Item) { it.Urgent = Asked })},
			going:   []string{"s003", "s001"}, held: map[string]time.Duration{"s002": time.Minute}},
		"the earliest deadline comes first": {budget: four, pending: []Item{deletion(1), with(deletion(2), func(it *Item) { it.Deadline = at(time.Hour) })},
			going: []string{"s002"}, held: map[string]time.Duration{"s001": 15 * time.Second}},
		"at its deadline it goes, whatever the budget": {budget: four, sent: []Sent{sent(0, 4)}, now: 5 * time.Second,
			pending: []Item{with(deletion(1), func(it *Item) { it.Deadline = at(5 * time.Second) }), with(deletion(2), func(it *Item) { it.Deadline = at(6 * time.Second) })},
			going:   []string{"s001"}, held: map[string]time.Duration{"s002": 6 * time.Second}},
		"what has waited for long comes before a far deadline": {budget: four, now: 48 * time.Hour, waiting: []Waiting{{secret(1), start}},
			pending: []Item{deletion(1), with(deletion(2), func(it *Item) { it.Deadline = at(49 * time.Hour) })},
			going:   []string{"s001"}, held: map[string]time.Duration{"s002": 48*time.Hour + 15*time.Second}},
		"two changes of one object are one, and that is the deletion": {budget: four, pending: []Item{
			with(deletion(1), func(it *Item) { it.Action, it.Deadline = plan.Renew, at(time.Hour) }), deletion(1), deletion(2)},
			going: []string{"s001"}, held: map[string]time.Duration{"s002": 15 * time.Second}},
		"a heavy item counts for as many updates as it fills": {budget: pairs, pending: []Item{with(deletion(1), func(it *Item) { it.Weight = 4 }), deletion(2)},
			going: []string{"s001"}, held: map[string]time.Duration{"s002": time.Minute}},
		"an item heavier than the budget waits for a quiet gateway": {budget: pairs, sent: []Sent{sent(0, 1)}, now: 20 * time.Second,
			pending: []Item{with(deletion(1), func(it *Item) { it.Weight = 50 })},
			going:   []string{}, held: map[string]time.Duration{"s001": time.Minute}},
		"an item for two gateways keeps its place at both": {budget: four, sent: []Sent{sent(0, 1)}, now: 5 * time.Second,
			pending: []Item{with(deletion(1), func(it *Item) { it.Gateways = []inventory.Ref{envoyA, envoyB} }), with(deletion(2), func(it *Item) { it.Gateways = []inventory.Ref{envoyB} })},
			going:   []string{}, held: map[string]time.Duration{"s001": 15 * time.Second, "s002": 30 * time.Second}},
		"a clock that was set back holds nothing longer than a period": {budget: four, sent: []Sent{sent(5*time.Hour, 4)},
			pending: []Item{deletion(1)}, going: []string{}, held: map[string]time.Duration{"s001": time.Minute}},
		"a budget that cannot work is the default one": {budget: Budget{}, pending: []Item{deletion(1), deletion(2)},
			going: []string{"s001"}, held: map[string]time.Duration{"s002": 15 * time.Second}},
	} {
		t.Run(name, func(t *testing.T) {
			going, held, _ := Next(at(tc.now), tc.pending, State{Sent: tc.sent, Waiting: tc.waiting}, Budgets{Else: tc.budget})
			if got := names(going); !slices.Equal(got, tc.going) {
				t.Errorf("%v go, want %v", got, tc.going)
			}
			until := map[string]time.Duration{}
			for _, h := range held {
				until[h.Object.Name] = h.Until.Sub(start)
				if h.Why == "" || h.Urgent != "" {
					t.Errorf("%s is held because %q, urgent %q", h.Object, h.Why, h.Urgent)
				}
			}
			if len(until)+len(tc.held) > 0 && !reflect.DeepEqual(until, tc.held) {
				t.Errorf("held %v, want %v", until, tc.held)
			}
		})
	}
}

func TestMergedKeepsTheMoreUrgent(t *testing.T) {
	a := Item{Object: secret(1), Action: plan.Switch, Gateways: []inventory.Ref{envoyA}, Deadline: at(time.Hour), Weight: 3}
	b := Item{Object: secret(1), Action: plan.Renew, Gateways: []inventory.Ref{envoyB}, Urgent: Expiring}
	want := Item{Object: secret(1), Action: plan.Renew, Gateways: []inventory.Ref{envoyA, envoyB}, Deadline: at(time.Hour), Urgent: Expiring, Weight: 3}
	for _, items := range [][]Item{{a, b}, {b, a}, {a, b, a}} {
		if got := merged(items); len(got) != 1 || !reflect.DeepEqual(got[0], want) {
			t.Errorf("%+v", got)
		}
	}
}

// A world asks Next as a service does, with time that goes by at random.
type world struct {
	*testing.T
	random  *rand.Rand
	budgets Budgets
	now     time.Time
	state   State
	pending []Item
	since   map[inventory.Ref]time.Time
	went    []Item
	at      []time.Time
	until   map[inventory.Ref]time.Time // as was said first
}

func (w *world) ask() []Held {
	pending := slices.Clone(w.pending)
	w.random.Shuffle(len(pending), func(i, j int) { pending[i], pending[j] = pending[j], pending[i] })
	b, err := json.Marshal(w.state) // as if another leader went on
	if err != nil {
		w.Fatal(err)
	}
	var state State
	if err := json.Unmarshal(b, &state); err != nil {
		w.Fatal(err)
	}
	going, held, next := Next(w.now, pending, state, w.budgets)
	again, _, sameState := Next(w.now, w.pending, state, w.budgets)
	if !reflect.DeepEqual(going, again) || !reflect.DeepEqual(next, sameState) {
		w.Fatal("another order of what is wanted has another outcome")
	}
	if len(going)+len(held) != len(w.pending) {
		w.Fatalf("%d go and %d are held of %d", len(going), len(held), len(w.pending))
	}
	w.state = next
	for _, it := range going {
		w.went, w.at = append(w.went, it), append(w.at, w.now)
		w.pending = slices.DeleteFunc(w.pending, func(p Item) bool { return p.Object == it.Object })
	}
	for _, h := range held {
		if h.Until.Before(w.now) || !h.Deadline.IsZero() && h.Until.After(h.Deadline) {
			w.Fatalf("%s, with deadline %s, is held until %s at %s", h.Object, h.Deadline, h.Until, w.now)
		}
	}
	return held
}

// budget checks that no window of a gateway had more than its budget, urgent
// items apart, and no two updates less than a gap between them. An update is
// found as what went together.
func (w *world) check(gateway inventory.Ref, jumps int) {
	b := w.budgets.of(gateway)
	type update struct {
		at time.Time
		n  int
	}
	var updates []update
	for i := 0; i < len(w.went); {
		weight, urgent, j := 0, 0, i
		heaviest := 0
		for ; j < len(w.went) && w.at[j].Equal(w.at[i]); j++ {
			it := w.went[j]
			if !slices.Contains(it.Gateways, gateway) {
				continue
			}
			if it.Urgent != "" {
				urgent += max(it.Weight, 1)
			} else {
				weight += max(it.Weight, 1)
				heaviest = max(heaviest, max(it.Weight, 1))
			}
		}
		// What joined an urgent update costs nothing.
		rest := weight - (((urgent+b.Largest-1)/b.Largest)*b.Largest - urgent)
		if n := (rest + b.Largest - 1) / b.Largest; rest > 0 {
			if n > b.Updates && heaviest > b.Updates*b.Largest {
				n = b.Updates // what is heavier than the whole budget goes alone
			}
			updates = append(updates, update{w.at[i], n})
		}
		i = j
	}
	for i := range updates {
		used := 0
		for j := i; j < len(updates) && updates[j].at.Sub(updates[i].at) < b.Period; j++ {
			used += updates[j].n
		}
		if used > b.Updates*(1+jumps) {
			w.Errorf("%d updates of %s within %s, and the budget is %+v", used, gateway.Name, b.Period, b)
			return
		}
		if i > 0 && jumps == 0 && updates[i].at.Sub(updates[i-1].at) < b.Gap {
			w.Errorf("two updates of %s within %s, and the gap is %s", gateway.Name, updates[i].at.Sub(updates[i-1].at), b.Gap)
			return
		}
	}
}

func randomBudget(random *rand.Rand) Budget {
	return Budget{
		Updates: 1 + random.IntN(5), Period: time.Duration(1+random.IntN(120)) * time.Second,
		Gap: time.Duration(random.IntN(30)) * time.Second, Largest: 1 + random.IntN(6),
	}
}

func newWorld(t *testing.T, seed uint64) *world {
	random := rand.New(rand.NewPCG(seed, 7))
	return &world{
		T: t, random: random, now: start, since: map[inventory.Ref]time.Time{}, until: map[inventory.Ref]time.Time{},
		budgets: Budgets{Else: randomBudget(random), Of: map[inventory.Ref]Budget{envoyB: randomBudget(random)}},
	}
}

func (w *world) want(n int) {
	it := Item{Object: secret(n), Action: plan.Delete}
	for _, g := range []inventory.Ref{envoyA, envoyB} {
		if w.random.IntN(3) > 0 {
			it.Gateways = append(it.Gateways, g)
		}
	}
	switch w.random.IntN(12) {
	case 0:
		it.Urgent = Expiring
	case 1, 2:
		it.Deadline = w.now.Add(time.Duration(w.random.IntN(600)) * time.Second)
	case 3:
		it.Weight = 1 + w.random.IntN(8)
	}
	w.pending = append(w.pending, it)
	w.since[it.Object] = w.now
}

// TestBudgetsHold: random changes, asked for at random times and at those that were
// promised. No window has more than the budget, urgent ones go at once, whatever
// has a deadline goes before it is over, and all go in the end.
func TestBudgetsHold(t *testing.T) {
	for seed := range uint64(60) {
		w := newWorld(t, seed)
		n := 0
		var next time.Time // that was promised
		for n < 60 || len(w.pending) > 0 {
			if n < 60 && w.random.IntN(2) == 0 {
				for range 1 + w.random.IntN(6) {
					w.want(n)
					n++
				}
			}
			held := w.ask()
			next = time.Time{}
			for _, h := range held {
				if next.IsZero() || h.Until.Before(next) {
					next = h.Until
				}
			}
			step := time.Duration(w.random.IntN(20_000)) * time.Millisecond
			if w.now = w.now.Add(step); !next.IsZero() && next.Before(w.now) {
				w.now = next
			}
			if w.now.Sub(start) > 24*time.Hour {
				t.Fatalf("seed %d: %d changes still wait after a day", seed, len(w.pending))
			}
		}
		for i, it := range w.went {
			switch waited := w.at[i].Sub(w.since[it.Object]); {
			case it.Urgent != "" && it.Urgent != Overdue && waited > 0, len(it.Gateways) == 0 && waited > 0:
				t.Errorf("seed %d: %s waited for %s, urgent %q, %d gateways", seed, it.Object, waited, it.Urgent, len(it.Gateways))
			case !it.Deadline.IsZero() && w.at[i].After(it.Deadline):
				t.Errorf("seed %d: %s went %s after its deadline", seed, it.Object, w.at[i].Sub(it.Deadline))
			}
		}
		w.check(envoyA, 0)
		w.check(envoyB, 0)
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

// TestPromisesAreKept: where nothing new is wanted, and Next is asked when it says, each
// change goes exactly when that was said first.
func TestPromisesAreKept(t *testing.T) {
	for seed := range uint64(60) {
		w := newWorld(t, seed)
		for n := range 40 {
			w.want(n)
		}
		held := w.ask()
		for _, h := range held {
			w.until[h.Object] = h.Until
		}
		for len(held) > 0 {
			w.now = slices.MinFunc(held, func(a, b Held) int { return a.Until.Compare(b.Until) }).Until
			held = w.ask()
		}
		for i, it := range w.went {
			if u, ok := w.until[it.Object]; ok && !u.Equal(w.at[i]) {
				t.Fatalf("seed %d: %s was held until %s, and went at %s", seed, it.Object, u.Sub(start), w.at[i].Sub(start))
			}
		}
	}
}

// TestNothingIsStarved: changes with deadlines that arrive faster than the budget lets
// them go do not keep one without a deadline from going within a Patience and
// what had come before it.
func TestNothingIsStarved(t *testing.T) {
	b := Budgets{Else: Budget{Updates: 1, Period: time.Hour, Gap: time.Minute, Largest: 1}}
	pending, state := []Item{deletion(0)}, State{}
	for n := range 200 {
		now := at(time.Duration(n) * 30 * time.Minute)
		it := deletion(n + 1)
		it.Deadline = now.Add(12 * time.Hour)
		pending = append(pending, it)
		var going []Item
		going, _, state = Next(now, pending, state, b)
		for _, g := range going {
			if g.Object == secret(0) {
				if g.Urgent != "" {
					t.Errorf("it went past the budget: %s", g.Urgent)
				}
				return
			}
			pending = slices.DeleteFunc(pending, func(p Item) bool { return p.Object == g.Object })
		}
	}
	t.Error("it never went")
}

// TestClockJumps: the clock of whoever asks jumps, as with another leader. In time as
// it really passes, no window has more than one budget for each jump in it, nothing
// is stalled for longer than a Period for each jump, and what waits
// after the last jump goes as it should.
func TestClockJumps(t *testing.T) {
	for seed := range uint64(30) {
		w := newWorld(t, seed)
		budget := randomBudget(w.random)
		w.budgets = Budgets{Else: budget}
		var offset time.Duration
		real, jumps := start, 0
		var when []time.Time // in real time
		n := 0
		for n < 60 || len(w.pending) > 0 {
			if n < 60 {
				w.pending = append(w.pending, deletion(n))
				n++
			}
			if jumps < 5 && w.random.IntN(20) == 0 {
				offset += time.Duration(w.random.IntN(7200)-3600) * time.Second
				jumps++
			}
			w.now = real.Add(offset)
			before := len(w.went)
			w.ask()
			for range len(w.went) - before {
				when = append(when, real)
			}
			if len(w.went)-before > budget.Largest*budget.Updates {
				t.Fatalf("seed %d: %d changes went at once, and the budget is %+v", seed, len(w.went)-before, budget)
			}
			real = real.Add(time.Duration(1+w.random.IntN(10)) * time.Second)
			apart := max(budget.Period/time.Duration(budget.Updates), budget.Gap) + 10*time.Second
			if longest := 61*apart + time.Duration(jumps+2)*(budget.Period+budget.Gap+10*time.Second)*2; real.Sub(start) > longest {
				t.Fatalf("seed %d: %d changes still wait after %s, budget %+v, %d jumps", seed, len(w.pending), longest, budget, jumps)
			}
		}
		w.at = when
		w.check(envoyA, jumps)
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

// TestBudgetChangesMeanwhile: a new budget holds from the next question on, for what
// went before, too.
func TestBudgetChangesMeanwhile(t *testing.T) {
	pending := []Item{deletion(1), deletion(2), deletion(3)}
	quick := Budgets{Else: Budget{Updates: 2, Period: time.Minute, Largest: 1}}
	going, _, state := Next(start, pending, State{}, quick)
	if len(going) != 2 {
		t.Fatalf("%d go", len(going))
	}
	slow := Budgets{Else: Budget{Updates: 1, Period: 30 * time.Minute, Gap: time.Minute, Largest: 1}}
	_, held, state := Next(at(time.Minute), pending[2:], state, slow)
	if len(held) != 1 || !held[0].Until.Equal(at(30*time.Minute)) {
		t.Fatalf("%+v", held)
	}
	if going, _, _ := Next(at(time.Minute), pending[2:], state, quick); len(going) != 1 {
		t.Errorf("%d go under the budget of before", len(going))
	}
}

// TestKilledInMidBatch: a leader that keeps the State and is killed before it has
// written anything leaves a budget that is spent, and the next one no burst.
func TestKilledInMidBatch(t *testing.T) {
	b := Budgets{Else: Budget{Updates: 4, Period: time.Minute, Gap: 0, Largest: 2}}
	var pending []Item
	for n := range 20 {
		pending = append(pending, deletion(n))
	}
	going, _, state := Next(start, pending, State{}, b)
	if len(going) != 8 {
		t.Fatalf("%d go", len(going))
	}
	going, held, _ := Next(at(time.Second), pending, state, b)
	if len(going) != 0 || len(held) != 20 {
		t.Errorf("after the kill %d go and %d are held", len(going), len(held))
	}
}

func BenchmarkNext(b *testing.B) {
	var pending []Item
	for n := range 10_000 {
		it := deletion(n)
		it.Object.Name = fmt.Sprint("s", n)
		pending = append(pending, it)
	}
	budgets := Budgets{Else: Defaults()}
	for b.Loop() {
		Next(start, pending, State{}, budgets)
	}
}
