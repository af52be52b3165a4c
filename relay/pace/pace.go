// Package pace decides when a gateway may be given new listeners.
//
// Envoy keeps the replaced listener, and all connections of the filter chains
// that changed, until its drain time is over
// (https://www.envoyproxy.io/docs/envoy/latest/intro/arch_overview/operations/draining).
// What listener updates cost is therefore bounded by how many are sent within one
// drain time. The package holds no timer and reads no clock: callers say what
// time it is.
package pace

import (
	"errors"
	"time"
)

// Limits say how often listeners may be replaced.
type Limits struct {
	// Debounce is how long listeners must have stayed the same before they are
	// sent, so that changes that belong together are sent as one.
	Debounce time.Duration
	// Patience bounds the debounce: listeners that go on changing are sent this
	// long after the first change.
	Patience time.Duration
	// In any Period there are at most Updates updates, as in a batch.Budget. Period is
	// meant to be the gateway's drain time.
	Period  time.Duration
	Updates int
}

// Defaults go with Kourier's drain time of 15 s (net-kourier,
// config/300-gateway.yaml, DRAIN_TIME_SECONDS).
func Defaults() Limits {
	return Limits{Debounce: 100 * time.Millisecond, Patience: time.Second, Period: 15 * time.Second, Updates: 3}
}

// Validate says what is wrong with the limits.
func (l Limits) Validate() error {
	switch {
	case l.Debounce < 0 || l.Patience < 0 || l.Period < 0:
		return errors.New("debounce, patience and period must not be negative")
	case l.Updates < 1:
		return errors.New("updates must be at least 1, or no listener would ever change")
	case l.Patience < l.Debounce:
		return errors.New("patience must not be shorter than the debounce")
	}
	return nil
}

// A Pacer keeps the pace of one gateway. Its zero value with Limits set is ready
// to be used. It is not safe for use by several goroutines.
type Pacer struct {
	Limits Limits
	// first and last change that has not been sent; zero when there is none.
	first, last time.Time
	// sent are the times of the updates of the newest period, oldest first.
	sent []time.Time
}

// Changed notes that the listeners to be sent changed.
func (p *Pacer) Changed(now time.Time) {
	if p.first.IsZero() {
		p.first = now
	}
	p.last = now
}

// Settled notes that there is nothing to be sent any more: the gateway has, or is
// about to get, what it should have.
func (p *Pacer) Settled() { p.first, p.last = time.Time{}, time.Time{} }

// Sent notes that listeners were sent.
func (p *Pacer) Sent(now time.Time) {
	p.Settled()
	p.sent = append(p.expired(now), now)
}

// expired are the sent updates without those that are older than a period.
func (p *Pacer) expired(now time.Time) []time.Time {
	for len(p.sent) > 0 && now.Sub(p.sent[0]) >= p.Limits.Period {
		p.sent = p.sent[1:]
	}
	return p.sent
}

// Due is when the pending change may be sent: at once when that is not after
// now. ok is false while nothing is pending.
func (p *Pacer) Due(now time.Time) (at time.Time, ok bool) {
	if p.first.IsZero() {
		return time.Time{}, false
	}
	at = p.last.Add(p.Limits.Debounce)
	if latest := p.first.Add(p.Limits.Patience); latest.Before(at) {
		at = latest
	}
	if sent := p.expired(now); len(sent) >= p.Limits.Updates {
		if free := sent[len(sent)-p.Limits.Updates].Add(p.Limits.Period); free.After(at) {
			at = free
		}
	}
	return at, true
}
