package renew_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/certherd/certherd/inventory"
	"github.com/certherd/certherd/renew"
)

var noon = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

// world is a cluster in virtual time: certificates that gateways serve, a
// cert-manager that can be down, and a certherd that can be killed.
type world struct {
	t            *testing.T
	now          time.Time
	certs        []inventory.Certificate
	consumers    []inventory.Consumer
	lifetime     time.Duration
	renewBefore  time.Duration
	down         bool // cert-manager is
	triggered    []map[time.Time]int
	updates      []time.Time // when a certificate was issued
	least        time.Duration
	triggerCount int
}

func newWorld(t *testing.T, n int, lifetime, renewBefore time.Duration, seed uint64) *world {
	w := &world{t: t, now: noon, lifetime: lifetime, renewBefore: renewBefore, least: lifetime}
	random := rand.New(rand.NewPCG(seed, 1))
	for i := range n {
		name := fmt.Sprintf("svc-%03d", i)
		secret := inventory.SecretRef("team", name)
		x := inventory.Certificate{
			Meta: inventory.Meta{Ref: inventory.CertificateRef("team", name), Created: noon.Add(-1000 * time.Hour)}, Secret: secret, Ready: true,
			Names: inventory.NewNames("", []string{name + ".example.test"}, nil, nil, nil),
		}
		w.certs = append(w.certs, x)
		w.consumers = append(w.consumers, inventory.Consumer{
			Meta: inventory.Meta{Ref: inventory.Ref{Group: inventory.GroupNetworking, Kind: "Ingress", Namespace: "team", Name: name}},
			TLS:  []inventory.TLS{{Hosts: x.Names.DNS, Secret: secret}},
		})
		w.issue(i, noon.Add(-time.Duration(random.Int64N(int64(lifetime-renewBefore)))))
		w.triggered = append(w.triggered, map[time.Time]int{})
	}
	w.updates = nil
	return w
}

func (w *world) issue(i int, at time.Time) {
	x := &w.certs[i]
	x.NotBefore, x.NotAfter, x.Renewal = at, at.Add(w.lifetime), at.Add(w.lifetime-w.renewBefore)
	x.Issuing = false
	x.Revision++
	w.updates = append(w.updates, at)
}

// step lets time pass, and cert-manager do its work.
func (w *world) step(d time.Duration) {
	w.now = w.now.Add(d)
	for i := range w.certs {
		x := &w.certs[i]
		w.least = min(w.least, x.NotAfter.Sub(w.now))
		if !w.down && (x.Issuing || !w.now.Before(x.Renewal)) {
			w.issue(i, w.now)
		}
	}
}

func (w *world) snapshot(skew time.Duration) *inventory.Snapshot {
	o := inventory.Objects{Certificates: slices.Clone(w.certs), Consumers: slices.Clone(w.consumers)}
	return inventory.New(w.now.Add(skew), o, nil, nil)
}

// round is one of certherd, which is killed after some of its triggers; -1 is never.
func (w *world) round(o renew.Options, skew time.Duration, killed int) (triggered int) {
	b := o.Batch(w.snapshot(skew))
	if !b.Until.IsZero() {
		return 0
	}
	for _, c := range b.Certificates {
		if triggered == killed {
			break
		}
		i := slices.IndexFunc(w.certs, func(x inventory.Certificate) bool { return x.Ref == c.Ref })
		x := &w.certs[i]
		if x.Issuing {
			w.t.Errorf("%s was triggered while it was being issued", x.Ref)
		}
		if w.triggered[i][x.NotBefore]++; w.triggered[i][x.NotBefore] > 1 {
			w.t.Errorf("%s was triggered twice", x.Ref)
		}
		x.Issuing = true
		triggered++
		w.triggerCount++
	}
	return triggered
}

// instants are the different times at which anything was issued, as a gateway that
// takes together what comes within a minute would see them.
func (w *world) instants() int {
	times := slices.Clone(w.updates)
	slices.SortFunc(times, time.Time.Compare)
	n := 0
	var last time.Time
	for _, t := range times {
		if n == 0 || t.Sub(last) > time.Minute {
			n++
			last = t
		}
	}
	return n
}

// TestAYearOfRenewals: 60 certificates of 90 days are renewed in a year in fewer
// than a tenth of the batches, and none of them comes near its end.
func TestAYearOfRenewals(t *testing.T) {
	for _, with := range []bool{false, true} {
		w := newWorld(t, 60, 90*24*time.Hour, 30*24*time.Hour, 1)
		o := renew.Defaults()
		o.Horizon = 14 * 24 * time.Hour
		o.Early = 0.5
		for end := noon.Add(365 * 24 * time.Hour); w.now.Before(end); {
			w.step(time.Hour)
			if o.Next = w.now.Add(time.Hour); with {
				w.round(o, 0, -1)
			}
		}
		t.Logf("with certherd %v: %d issued at %d times, least remaining %s", with, len(w.updates), w.instants(), w.least)
		switch n := w.instants(); {
		case !with && n < 250:
			t.Errorf("only %d times without certherd: there is nothing to compare with", n)
		case with && n > 30:
			t.Errorf("%d times with certherd", n)
		}
		if w.least < 29*24*time.Hour {
			t.Errorf("a certificate had %s left", w.least)
		}
		if issued := len(w.updates); with && issued > 60*9 {
			t.Errorf("%d certificates issued: each one was to live for 46 days at least", issued)
		}
	}
}

// TestFaults: whatever happens to certherd, its clock and cert-manager, nothing expires
// and nothing is triggered twice for one certificate that was issued.
func TestFaults(t *testing.T) {
	for seed := range uint64(4) {
		random := rand.New(rand.NewPCG(seed, 2))
		w := newWorld(t, 40, 4*time.Hour, 2*time.Hour, seed)
		o := renew.Defaults()
		o.Early, o.Horizon = 0.5, time.Hour
		skew, downUntil := time.Duration(0), noon
		for end := noon.Add(48 * time.Hour); w.now.Before(end); {
			w.down = w.now.Before(downUntil)
			w.step(time.Minute)
			killed := -1
			switch random.IntN(40) {
			case 0: // the leader is killed in the middle of a batch, and the next one begins at once
				killed = random.IntN(20)
			case 1: // the configuration changes
				o.Horizon, o.Size = time.Duration(1+random.IntN(120))*time.Minute, 2+random.IntN(60)
			case 2: // a clock jumps, forward or back
				skew = time.Duration(random.IntN(96)-48) * time.Hour
			case 3:
				skew = 0
			case 4: // cert-manager is away for an hour
				if w.now.Sub(downUntil) > 2*time.Hour { // and works off what waited before the next time
					downUntil = w.now.Add(time.Hour)
				}
			}
			o.Next = w.now.Add(skew + time.Duration(random.IntN(10))*time.Minute)
			w.round(o, skew, killed)
			if killed >= 0 {
				w.round(o, skew, -1)
			}
		}
		if w.triggerCount == 0 {
			t.Errorf("seed %d: nothing was ever triggered", seed)
		}
		if w.least <= 30*time.Minute {
			t.Errorf("seed %d: a certificate had %s left", seed, w.least)
		}
	}
}

// TestABatchWaits: as long as nothing becomes due before the next round, there may
// be more to renew then.
func TestABatchWaits(t *testing.T) {
	w := newWorld(t, 10, 4*time.Hour, 2*time.Hour, 1)
	o := renew.Defaults()
	o.Early = 1
	o.Horizon = 2 * time.Hour
	first := slices.MinFunc(w.certs, func(a, b inventory.Certificate) int { return a.Renewal.Compare(b.Renewal) }).Renewal
	w.step(0)
	for _, tc := range []struct {
		next  time.Time
		waits bool
	}{{time.Time{}, false}, {first.Add(-time.Second), true}, {first, false}, {first.Add(time.Hour), false}} {
		o.Next = tc.next
		b := o.Batch(w.snapshot(0))
		if len(b.Certificates) != 10 || b.Until.IsZero() == tc.waits {
			t.Errorf("next %s: %d certificates, until %s", tc.next, len(b.Certificates), b.Until)
		}
	}
}

// TestNothingIsRenewedThatIsNotWhole: what was not read may share a Secret.
func TestNothingIsRenewedThatIsNotWhole(t *testing.T) {
	w := newWorld(t, 10, 4*time.Hour, 2*time.Hour, 1)
	o := renew.Defaults()
	o.Early, o.Horizon = 1, 2*time.Hour
	for _, gaps := range [][]inventory.Gap{nil, {{Kind: "pod", Reason: "x"}}, {{Kind: "certificate.cert-manager.io", Reason: "x"}}} {
		s := inventory.New(w.now, inventory.Objects{Certificates: slices.Clone(w.certs), Consumers: slices.Clone(w.consumers)}, nil, gaps)
		want := 10
		if len(gaps) > 0 && gaps[0].Kind != "pod" {
			want = 0
		}
		if n := len(o.Batch(s).Certificates); n != want {
			t.Errorf("%v: %d certificates, want %d", gaps, n, want)
		}
	}
}

// TestConcurrency: certificates that ACME servers are asked about already take their
// part of what cert-manager does at one time.
// TestAStatusThatIsLate: cert-manager says that a certificate was issued before it
// says when the new one is due.
func TestAStatusThatIsLate(t *testing.T) {
	w := newWorld(t, 3, 90*24*time.Hour, 30*24*time.Hour, 1)
	for i := range w.certs {
		w.issue(i, noon.Add(-60*24*time.Hour+time.Hour)) // due in an hour
	}
	late := func(asked, since time.Duration) int {
		o := inventory.Objects{Certificates: slices.Clone(w.certs), Consumers: slices.Clone(w.consumers)}
		o.Requests = []inventory.Request{{
			Meta: inventory.Meta{Ref: inventory.Ref{Group: inventory.GroupCertManager, Kind: "CertificateRequest", Namespace: "team", Name: "svc-000-7"}, Created: noon.Add(-asked),
				Owners: []inventory.OwnerRef{{Ref: w.certs[0].Ref, Controller: true}}},
			Final: true, State: "Ready", Since: noon.Add(-since),
		}}
		return len(renew.Defaults().Batch(inventory.New(noon, o, nil, nil)).Certificates)
	}
	for _, c := range []struct {
		asked, issued time.Duration
		want          int
		why           string
	}{
		{time.Hour, 30 * time.Second, 2, "issued half a minute ago"},
		{30 * time.Second, 30 * time.Second, 2, "asked for and issued half a minute ago"},
		{time.Hour, 10 * time.Minute, 3, "issued ten minutes ago"},
		{60*24*time.Hour - time.Hour, 30 * time.Second, 3, "whose status is of what was asked for"},
	} {
		if n := late(c.asked, c.issued); n != c.want {
			t.Errorf("%d of 3 are renewed, of which one is %s", n, c.why)
		}
	}
}

func TestConcurrency(t *testing.T) {
	w := newWorld(t, 10, 90*24*time.Hour, 30*24*time.Hour, 1)
	ref := inventory.IssuerRef{Group: inventory.GroupCertManager, Kind: "ClusterIssuer", Name: "acme"}
	for i := range w.certs {
		w.certs[i].Issuer, w.certs[i].Issuing = ref, i < 3
	}
	o := inventory.Objects{Certificates: w.certs, Consumers: w.consumers, Issuers: []inventory.Issuer{{Meta: inventory.Meta{Ref: ref.Ref()}, Type: inventory.ACME}}}
	s := inventory.New(w.now, o, nil, nil)
	for challenges, want := range map[int]int{0: 0, 5: 2, 7: 4, 60: 7} {
		b := renew.Options{Horizon: 60 * 24 * time.Hour, Early: 1, Size: 100, Challenges: challenges}.Batch(s)
		if len(b.Certificates) != want || len(b.Certificates)+len(b.Kept) != 7 {
			t.Errorf("%d challenges: %d renewed, %d kept, want %d renewed", challenges, len(b.Certificates), len(b.Kept), want)
		}
	}
}
