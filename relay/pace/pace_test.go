package pace

import (
	"math/rand/v2"
	"testing"
	"time"
)

var start = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func at(d time.Duration) time.Time { return start.Add(d) }

func TestDue(t *testing.T) {
	limits := Limits{Debounce: 100 * time.Millisecond, Patience: time.Second, Period: 15 * time.Second, Updates: 2}
	for name, tc := range map[string]struct {
		sent, changed []time.Duration
		want          time.Duration
	}{
		"after a quiet time, the debounce is all there is to wait for": {
			changed: []time.Duration{20 * time.Second}, want: 20*time.Second + 100*time.Millisecond},
		"changes that follow each other go together": {
			changed: []time.Duration{0, 50 * time.Millisecond, 90 * time.Millisecond}, want: 190 * time.Millisecond},
		"changes without an end do not wait for ever": {
			changed: []time.Duration{0, 90 * time.Millisecond, 950 * time.Millisecond}, want: time.Second},
		"the budget is not used up by one update": {
			sent: []time.Duration{0}, changed: []time.Duration{time.Second}, want: 1100 * time.Millisecond},
		"with the budget used up, the oldest update must leave the window": {
			sent: []time.Duration{0, 2 * time.Second}, changed: []time.Duration{3 * time.Second}, want: 15 * time.Second},
		"an update that has left the window counts no more": {
			sent: []time.Duration{0, 2 * time.Second, 15 * time.Second}, changed: []time.Duration{16 * time.Second}, want: 17 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			p := Pacer{Limits: limits}
			for _, s := range tc.sent {
				p.Changed(at(s))
				p.Sent(at(s))
			}
			for _, c := range tc.changed {
				p.Changed(at(c))
			}
			got, ok := p.Due(at(tc.changed[len(tc.changed)-1]))
			if !ok || !got.Equal(at(tc.want)) {
				t.Errorf("due at %s (%v), want %s", got.Sub(start), ok, tc.want)
			}
		})
	}
}

func TestNothingIsDueWithoutAChange(t *testing.T) {
	p := Pacer{Limits: Defaults()}
	if _, ok := p.Due(start); ok {
		t.Error("something is due at the beginning")
	}
	p.Changed(start)
	p.Settled()
	if _, ok := p.Due(start); ok {
		t.Error("something is due after all was settled")
	}
	p.Changed(start)
	p.Sent(start)
	if _, ok := p.Due(start); ok {
		t.Error("something is due after all was sent")
	}
}

// TestBudgetHolds lets random changes happen and sends whenever something is
// due: no window ever holds more than the budget, and no change is forgotten.
func TestBudgetHolds(t *testing.T) {
	for seed := range uint64(50) {
		random := rand.New(rand.NewPCG(seed, 1))
		limits := Limits{Debounce: time.Duration(random.IntN(300)) * time.Millisecond, Period: time.Duration(1+random.IntN(20)) * time.Second, Updates: 1 + random.IntN(4)}
		limits.Patience = limits.Debounce + time.Duration(random.IntN(2000))*time.Millisecond
		p := Pacer{Limits: limits}
		var sent []time.Time
		waiting := time.Time{}
		for now := start; now.Before(at(5 * time.Minute)); now = now.Add(10 * time.Millisecond) {
			if random.IntN(20) == 0 {
				p.Changed(now)
				if waiting.IsZero() {
					waiting = now
				}
			}
			if due, ok := p.Due(now); ok && !due.After(now) {
				p.Sent(now)
				sent = append(sent, now)
				waiting = time.Time{}
			}
			if !waiting.IsZero() && now.Sub(waiting) > limits.Period+limits.Patience {
				t.Fatalf("seed %d: a change of %s still waits at %s", seed, waiting.Sub(start), now.Sub(start))
			}
		}
		for i := limits.Updates; i < len(sent); i++ {
			if within := sent[i].Sub(sent[i-limits.Updates]); within < limits.Period {
				t.Fatalf("seed %d: %d updates within %s, and the budget is %d within %s", seed, limits.Updates+1, within, limits.Updates, limits.Period)
			}
		}
		if len(sent) == 0 {
			t.Fatalf("seed %d: nothing was sent", seed)
		}
	}
}

func TestLimitsThatCannotWork(t *testing.T) {
	if err := Defaults().Validate(); err != nil {
		t.Error(err)
	}
	for _, l := range []Limits{{}, {Updates: 1, Debounce: -1}, {Updates: 1, Debounce: 2, Patience: 1}} {
		if l.Validate() == nil {
			t.Errorf("%+v is let through", l)
		}
	}
}
