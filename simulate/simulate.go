// Package simulate replays the renewals of a fleet of certificates in virtual time,
// as cert-manager makes them by itself and as certherd paces them, and counts what
// a gateway and the certificate authorities are put through. It is pure: the same
// fleet, options and seed give the same result.
//
// # What is assumed
//
// cert-manager renews a certificate at its renewal time, without jitter
// (cert-manager pkg/util/pki/renewaltime.go), and writes its Secret once
// (pkg/controller/certificates/issuing), Options.Latency later and about Options.Apart from the
// one before. It never fails. Each write of a Secret that the gateway loads is sent to it; of
// the writes of one batch, Budget.Largest are one. Envoy takes what comes together as
// fewer updates: see Gateway. A batch that the budget holds goes when its first certificate
// is due, as cert-manager renews that anyway.
package simulate

import (
	"cmp"
	"container/heap"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/certherd/certherd/batch"
	"github.com/certherd/certherd/consolidate"
	"github.com/certherd/certherd/inventory"
	"github.com/certherd/certherd/plan"
)

// Certificate is what a simulation has to know of one.
type Certificate struct {
	Ref inventory.Ref
	// Account is where it is ordered: one CA, with one account.
	Account string
	// ACME is true if the same names are ordered once in 7 days at most.
	ACME bool
	// Served is true if the gateway loads it.
	Served bool
	// NotAfter is when it ends, Lifetime how long one lasts, Before how long before
	// its end it is renewed.
	NotAfter         time.Time
	Lifetime, Before time.Duration
}

// Fleet is what is simulated.
type Fleet struct {
	Certificates []Certificate
	// Quotas are how many orders an account may make in 3 hours; accounts without
	// one may make any number.
	Quotas map[string]int
}

// Served is how many certificates of the fleet the gateway loads.
func (f Fleet) Served() (n int) {
	for i := range f.Certificates {
		if f.Certificates[i].Served {
			n++
		}
	}
	return n
}

// Options are how certherd paces renewals, and for how long that is replayed.
type Options struct {
	Seed uint64
	Days int
	// For, if not 0, is for how long instead of Days.
	For time.Duration
	// Rounds is the time between two looks of certherd: a batch goes in the last but one
	// round before its first certificate is due.
	Rounds time.Duration
	// Latency is how long cert-manager takes for one certificate, and Apart how long
	// after another it writes its Secret on average while many wait: at random, as many
	// workers in a row of controllers share its requests to the API server.
	Latency, Apart time.Duration
	// Gateway is how Envoy takes in what it is sent.
	Gateway Gateway
	// Budget is that of the gateway.
	Budget batch.Budget
	// Horizon and Early: a certificate is renewed at most Horizon ahead of its time, and
	// at most the share Early (0 to 1) of the time between two renewals.
	Horizon time.Duration
	Early   float64
	// Size is the most certificates of one batch.
	Size int
	// Progress, if set, is told now and then how much is done, from 0 to 1.
	Progress func(done float64)
}

// Defaults are the options of somebody who says nothing.
func Defaults() Options {
	return Options{Seed: 1, Days: 365, Rounds: 10 * time.Minute, Budget: batch.Defaults(), Horizon: 24 * time.Hour, Early: 0.25, Size: 100}
}

// Check tells what is wrong with the options, by the names of the flags.
func (o Options) Check() error {
	switch {
	case o.Days < 1 || o.Days > 3650:
		return fmt.Errorf("--days must be from 1 to 3650")
	case o.For < 0 || o.For > 3650*24*time.Hour:
		return fmt.Errorf("--for must not be negative, nor longer than ten years")
	case o.Rounds < time.Second:
		return fmt.Errorf("--rounds must be 1s at least")
	case o.Latency < 0 || o.Apart < 0 || o.Gateway.Taking < 0:
		return fmt.Errorf("--latency, --apart and --taking must not be negative")
	case o.Horizon < 0:
		return fmt.Errorf("--horizon must not be negative")
	case !(o.Early >= 0 && o.Early < 1):
		return fmt.Errorf("--early must be from 0 to less than 1")
	case o.Size < 1:
		return fmt.Errorf("--size must be 1 at least")
	}
	var err error
	o.Budget.Check(func(field, why string) {
		if err == nil {
			err = fmt.Errorf("--%s: %s", field, why)
		}
	})
	return err
}

// The lifetime and renewal of a certificate of which nothing else is said:
// cert-manager's (pkg/apis/certmanager/v1/const.go).
const (
	lifetime = 90 * 24 * time.Hour
	before   = lifetime / 3
)

// Synthetic is a fleet of n certificates of a lifetime at random phases, ordered from
// Let's Encrypt with one account. lifetime 0 is 90 days.
func Synthetic(n int, life time.Duration, seed uint64, now time.Time) Fleet {
	if life == 0 {
		life = lifetime
	}
	random := rand.New(rand.NewPCG(seed, 0x5eed))
	const account = "https://acme-v02.api.letsencrypt.org/directory"
	f := Fleet{Quotas: map[string]int{account: consolidate.LetsEncrypt.Orders}}
	cycle := life - life/3
	for i := range n {
		renewal := now.Add(time.Duration(random.Int64N(int64(cycle)))).Truncate(time.Second)
		f.Certificates = append(f.Certificates, Certificate{
			Ref:     inventory.CertificateRef("synthetic", fmt.Sprintf("certificate-%05d", i+1)),
			Account: account, ACME: true, Served: true, NotAfter: renewal.Add(life / 3), Lifetime: life, Before: life / 3,
		})
	}
	return f
}

// Of is the fleet of a Snapshot: its issued Certificates, with their own phases.
func Of(s *inventory.Snapshot) Fleet {
	f := Fleet{Quotas: map[string]int{}}
	served := map[inventory.Ref]bool{}
	for _, t := range s.EachServed() {
		served[t.Secret] = true
	}
	for i := range s.Certificates {
		c := &s.Certificates[i]
		if c.NotAfter.IsZero() {
			continue
		}
		x := Certificate{Ref: c.Ref, Account: c.Issuer.Kind + "/" + c.Issuer.Name, Served: served[c.Secret], NotAfter: c.NotAfter, Lifetime: cmp.Or(c.Lifetime, lifetime)}
		x.Before = x.Lifetime / 3
		if b := c.NotAfter.Sub(c.Renewal); !c.Renewal.IsZero() && b > 0 && b < x.Lifetime {
			x.Before = b
		}
		if issuer := s.Issuer(c.Issuer); issuer != nil && issuer.Type == inventory.ACME {
			x.ACME = true
			x.Account = cmp.Or(issuer.Authority, issuer.Ref.String())
			if strings.HasPrefix(issuer.Server, "https://acme-v02.api.letsencrypt.org/") {
				f.Quotas[x.Account] = consolidate.LetsEncrypt.Orders
			}
		}
		f.Certificates = append(f.Certificates, x)
	}
	return f
}

// Result is what came out.
type Result struct {
	Seed uint64    `json:"seed"`
	From time.Time `json:"from"`
	Days int       `json:"days"`
	// Seconds is how long it is, if that is no number of days.
	Seconds      float64 `json:"seconds,omitempty"`
	Certificates int     `json:"certificates"`
	// Served is how many of them the gateway loads.
	Served  int `json:"served"`
	Without Run `json:"without"`
	With    Run `json:"with"`
}

// Run is one replay.
type Run struct {
	// Renewals are all orders; Together are those in batches of certherd, all others
	// cert-manager made at their time.
	Renewals int `json:"renewals"`
	Together int `json:"together"`
	// Reloads are the updates of the gateway, and Daily those of each day.
	Reloads int   `json:"reloads"`
	Daily   []int `json:"daily"`
	// Listeners are the updates of listeners that Envoy takes in, as it counts them
	// (listener_manager.lds.update_success).
	Listeners int `json:"listenerUpdates"`
	// PeakBatch is how many certificates came with one update at most, PeakDrain how
	// many updates within one gap (the drain time): of each, Envoy holds a copy.
	PeakBatch int `json:"peakBatch"`
	PeakDrain int `json:"peakDrain"`
	// SmallestRemaining is the shortest time that any certificate had left when it was
	// renewed, in seconds; SmallestShare, as a share of its lifetime.
	SmallestRemaining float64 `json:"smallestRemainingSeconds"`
	SmallestShare     float64 `json:"smallestRemainingShare"`
	// Accounts are the CAs' accounts, by name.
	Accounts []Account `json:"accounts"`
}

// Account is what one account ordered.
type Account struct {
	Name   string `json:"name"`
	Orders int    `json:"orders"`
	// Peak is the most orders in 3 hours, and Quota how many are allowed; 0 is any
	// number. Renewals of the same names are exempt from Let's Encrypt's
	// (letsencrypt.org/docs/rate-limits), so that reaching it is a warning.
	Peak  int `json:"peak3h"`
	Quota int `json:"quota3h,omitempty"`
}

// Simulate replays a fleet twice from a time on: without certherd and with it.
func Simulate(f Fleet, o Options, from time.Time) Result {
	from = from.UTC().Truncate(time.Second)
	if o.For > 0 {
		o.Days = int((o.For + 24*time.Hour - 1) / (24 * time.Hour))
	}
	r := Result{Seed: o.Seed, From: from, Days: o.Days, Seconds: o.For.Seconds(), Certificates: len(f.Certificates)}
	r.Served = f.Served()
	report := func(part float64) func(float64) {
		return func(done float64) {
			if o.Progress != nil {
				o.Progress((part + done) / 2)
			}
		}
	}
	r.Without = newReplay(f, o, from, report(0)).alone()
	r.With = newReplay(f, o, from, report(1)).together()
	return r
}

// running is a certificate on its way.
type running struct {
	*Certificate
	notBefore, renewal, notAfter time.Time
	index                        int32
}

// queue is a heap by renewal time, and by index where that is equal.
type queue []*running

func (q queue) Len() int { return len(q) }
func (q queue) Less(i, j int) bool {
	if c := q[i].renewal.Compare(q[j].renewal); c != 0 {
		return c < 0
	}
	return q[i].index < q[j].index
}
func (q queue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *queue) Push(x any)   { *q = append(*q, x.(*running)) }
func (q *queue) Pop() any {
	old := *q
	x := old[len(old)-1]
	*q = old[:len(old)-1]
	return x
}

// replay is one run.
type replay struct {
	o         Options
	from, end time.Time
	queue     queue
	run       Run
	quotas    map[string]int
	orders    map[string][]time.Time // of the last 3 hours, by account
	accounts  map[string]*Account
	drains    []time.Time // updates of the last gap
	gap       time.Duration
	written   time.Time // the last Secret
	random    *rand.Rand
	envoy     envoy
	progress  func(float64)
	told      int
}

func newReplay(f Fleet, o Options, from time.Time, progress func(float64)) *replay {
	r := &replay{
		o: o, from: from, end: from.AddDate(0, 0, o.Days), quotas: f.Quotas, orders: map[string][]time.Time{}, accounts: map[string]*Account{},
		gap: max(o.Budget.Gap, time.Second), envoy: envoy{Gateway: o.Gateway}, random: rand.New(rand.NewPCG(o.Seed, 0xce47)), progress: progress,
	}
	if o.For > 0 {
		r.end = from.Add(o.For)
	}
	r.run.Daily = make([]int, o.Days)
	r.run.SmallestShare = 1
	for i := range f.Certificates {
		c := &f.Certificates[i]
		x := &running{Certificate: c, notAfter: c.NotAfter, renewal: c.NotAfter.Add(-c.Before), notBefore: c.NotAfter.Add(-c.Lifetime), index: int32(i)}
		if x.renewal.Before(from) {
			x.renewal = from // it is overdue: cert-manager renews it at once
		}
		r.queue = append(r.queue, x)
	}
	heap.Init(&r.queue)
	return r
}

func (r *replay) tell(now time.Time) {
	if day := int(now.Sub(r.from) / (24 * time.Hour)); day != r.told {
		r.told = day
		r.progress(float64(day) / float64(r.o.Days))
	}
}

// renew has one certificate issued again.
func (r *replay) renew(x *running, now time.Time) {
	left := x.notAfter.Sub(now)
	if r.run.Renewals == 0 || left.Seconds() < r.run.SmallestRemaining {
		r.run.SmallestRemaining = left.Seconds()
	}
	r.run.SmallestShare = min(r.run.SmallestShare, float64(left)/float64(x.Lifetime))
	r.run.Renewals++
	a := r.accounts[x.Account]
	if a == nil {
		a = &Account{Name: x.Account, Quota: r.quotas[x.Account]}
		r.accounts[x.Account] = a
	}
	a.Orders++
	recent := r.orders[x.Account]
	for len(recent) > 0 && now.Sub(recent[0]) >= 3*time.Hour {
		recent = recent[1:]
	}
	recent = append(recent, now)
	r.orders[x.Account] = recent
	a.Peak = max(a.Peak, len(recent))
	written := now.Add(r.o.Latency)
	if next := r.written.Add(time.Duration(r.random.ExpFloat64() * float64(r.o.Apart))); written.Before(next) {
		written = next
	}
	r.written = written
	if x.Served && written.Before(r.end) {
		r.envoy.send(written)
	}
	// Times in certificates are whole seconds (RFC 5280 section 4.1.2.5).
	x.notBefore = written.Truncate(time.Second)
	x.notAfter = x.notBefore.Add(x.Lifetime)
	x.renewal = x.notAfter.Add(-x.Before)
}

// update counts updates of the gateway that carry a number of certificates.
func (r *replay) update(now time.Time, updates, certificates int) {
	if updates == 0 {
		return
	}
	r.run.Reloads += updates
	r.run.Daily[min(int(now.Sub(r.from)/(24*time.Hour)), r.o.Days-1)] += updates
	r.run.PeakBatch = max(r.run.PeakBatch, (certificates+updates-1)/updates)
	for len(r.drains) > 0 && now.Sub(r.drains[0]) >= r.gap {
		r.drains = r.drains[1:]
	}
	for range updates {
		r.drains = append(r.drains, now)
	}
	r.run.PeakDrain = max(r.run.PeakDrain, len(r.drains))
}

func served(x *running) int {
	if x.Served {
		return 1
	}
	return 0
}

// alone is what cert-manager does by itself.
func (r *replay) alone() Run {
	for len(r.queue) > 0 {
		x := r.queue[0]
		now := x.renewal
		if !now.Before(r.end) {
			break
		}
		r.tell(now)
		r.renew(x, now)
		r.update(now, served(x), 1)
		heap.Fix(&r.queue, 0)
	}
	return r.done()
}

// week is within which the same names are not ordered again.
const week = 7 * 24 * time.Hour

// together is what certherd makes of it: when the first one becomes due, those that
// would become due within the horizon are renewed with it, in one batch, as soon as the
// gateway's budget has room for it.
func (r *replay) together() Run {
	var (
		state   batch.State
		budgets = batch.Budgets{Else: r.o.Budget}
		pending []*running // the batch, in the order in which they are due
		again   time.Time  // when to ask for it again
		last    = r.from
	)
	for {
		var now time.Time
		switch {
		case len(pending) > 0:
			now = again
		case len(r.queue) > 0:
			now = later(r.round(r.queue[0].renewal), last)
		}
		if now.IsZero() || !now.Before(r.end) {
			return r.done()
		}
		last = now
		r.tell(now)
		if len(pending) == 0 {
			pending = r.gather(now)
		}
		came := 0
		for _, x := range pending {
			came += served(x)
		}
		it := batch.Item{Object: pending[0].Ref, Action: plan.Renew, Deadline: later(pending[0].renewal, now), Weight: came}
		if came > 0 {
			it.Gateways = []inventory.Ref{{}}
		}
		var going []batch.Item
		going, again, state = batch.Step(now, []batch.Item{it}, state, budgets)
		if len(going) == 0 {
			continue
		}
		if came > 0 {
			r.update(now, state.Sent[len(state.Sent)-1].Updates, came)
		}
		for _, x := range pending {
			r.renew(x, now)
			heap.Push(&r.queue, x)
		}
		if len(pending) > 1 {
			r.run.Together += len(pending)
		}
		pending = nil
	}
}

// lead is how long before the first certificate of a batch is due the batch begins at
// most: a round that is late must not be too late (package service).
func (r *replay) lead() time.Duration { return 2 * r.o.Rounds }

// round is the first one that begins within the lead of a time.
func (r *replay) round(due time.Time) time.Time {
	n := (due.Add(-r.lead()).Sub(r.from) + r.o.Rounds - 1) / r.o.Rounds
	return r.from.Add(n * r.o.Rounds)
}

// gather takes what is renewed with the first that is due.
func (r *replay) gather(now time.Time) []*running {
	var taken, kept []*running
	lead := r.lead()
	for len(r.queue) > 0 && len(taken) < r.o.Size {
		x := r.queue[0]
		early := min(r.o.Horizon, time.Duration(r.o.Early*float64(x.Lifetime-x.Before)))
		ahead := x.renewal.Sub(now)
		if ahead > max(r.o.Horizon, lead) {
			break
		}
		heap.Pop(&r.queue)
		if ahead > lead && (!x.Served || ahead > early || x.ACME && now.Sub(x.notBefore) < week) {
			kept = append(kept, x)
			continue
		}
		taken = append(taken, x)
	}
	for _, x := range kept {
		heap.Push(&r.queue, x)
	}
	return taken
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func (r *replay) done() Run {
	r.run.Accounts = []Account{}
	for _, a := range r.accounts {
		r.run.Accounts = append(r.run.Accounts, *a)
	}
	r.run.Listeners = r.envoy.updates
	slices.SortFunc(r.run.Accounts, func(a, b Account) int { return strings.Compare(a.Name, b.Name) })
	r.progress(1)
	return r.run
}
