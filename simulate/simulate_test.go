package simulate

import (
	"bytes"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/certherd/certherd/batch"
)

var start = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// relayed are options for a gateway that makes one update of what comes together.
func relayed() Options {
	o := Defaults()
	o.Budget.Largest = 100
	return o
}

func TestAFleetForAYear(t *testing.T) {
	f := Synthetic(1000, 0, 1, start)
	r := Simulate(f, relayed(), start)
	// 60 days between two renewals: five or six, and the phase decides which.
	if n := r.Without.Renewals; n < 5000 || n > 7000 {
		t.Errorf("%d renewals without certherd", n)
	}
	if r.Without.Reloads != r.Without.Renewals || r.Without.PeakBatch != 1 || r.Without.Together != 0 {
		t.Errorf("without certherd: %+v", r.Without)
	}
	if r.With.Reloads*10 > r.Without.Reloads {
		t.Errorf("%d reloads with certherd, and %d without", r.With.Reloads, r.Without.Reloads)
	}
	// A day ahead of 60 costs a sixtieth more orders.
	if n := float64(r.With.Renewals) / float64(r.Without.Renewals); n < 1 || n > 1.05 {
		t.Errorf("%.3f times the orders", n)
	}
	if r.With.SmallestShare < r.Without.SmallestShare-1e-9 {
		t.Errorf("the smallest remaining share is %g, and %g without certherd", r.With.SmallestShare, r.Without.SmallestShare)
	}
	for _, run := range []Run{r.Without, r.With} {
		sum := 0
		for _, n := range run.Daily {
			sum += n
		}
		if sum != run.Reloads || len(run.Daily) != 365 {
			t.Errorf("%d reloads in %d days, and %d in all", sum, len(run.Daily), run.Reloads)
		}
	}
}

func TestTheSameSeedIsTheSameYear(t *testing.T) {
	o := relayed()
	a, b := Simulate(Synthetic(300, 0, 7, start), o, start), Simulate(Synthetic(300, 0, 7, start), o, start)
	if !reflect.DeepEqual(a, b) {
		t.Error("two replays differ")
	}
	if c := Simulate(Synthetic(300, 0, 8, start), o, start); reflect.DeepEqual(a.Without.Daily, c.Without.Daily) {
		t.Error("another seed is the same year")
	}
	for name, write := range map[string]func(*bytes.Buffer, Result) error{
		"table": func(b *bytes.Buffer, r Result) error { return WriteTable(b, r) },
		"json":  func(b *bytes.Buffer, r Result) error { return WriteJSON(b, r) },
		"html":  func(b *bytes.Buffer, r Result) error { return WriteHTML(b, r) },
	} {
		var x, y bytes.Buffer
		if err := write(&x, a); err != nil {
			t.Fatal(err)
		}
		if err := write(&y, b); err != nil {
			t.Fatal(err)
		}
		if x.String() != y.String() || x.Len() == 0 {
			t.Errorf("%s differs", name)
		}
	}
}

// TestStockKourier: where each change is an update of its own, batching saves none, and
// a batch is a burst. That has to be seen.
func TestStockKourier(t *testing.T) {
	o := Defaults()
	o.Size = 10
	r := Simulate(Synthetic(500, 0, 1, start), o, start)
	if r.With.PeakDrain != 10 || r.With.PeakBatch != 1 || r.With.Reloads != r.With.Renewals {
		t.Errorf("%+v", r.With)
	}
}

// TestShortLivedCertificates: one hour, renewed every two minutes, as in a test of
// real gateways. Batches as long as a share of that are all that can be.
func TestShortLivedCertificates(t *testing.T) {
	f := Fleet{}
	for i, c := range Synthetic(60, time.Hour, 3, start).Certificates {
		c.ACME, c.Before = false, 58*time.Minute
		c.NotAfter = start.Add(c.Before + time.Duration(i*2)*time.Second)
		f.Certificates = append(f.Certificates, c)
	}
	o := relayed()
	o.Days, o.Rounds, o.Early, o.Budget = 1, 10*time.Second, 0.9, batch.Budget{Updates: 4, Period: time.Minute, Gap: 15 * time.Second, Largest: 60}
	r := Simulate(f, o, start)
	if r.With.Reloads*10 > r.Without.Reloads {
		t.Errorf("%d reloads with certherd, and %d without", r.With.Reloads, r.Without.Reloads)
	}
	if r.With.SmallestShare < 0.9 {
		t.Errorf("the smallest remaining share is %g", r.With.SmallestShare)
	}
}

// TestWhatIsNotServedReloadsNothing, and is renewed all the same.
func TestWhatIsNotServedReloadsNothing(t *testing.T) {
	f := Synthetic(50, 0, 1, start)
	for i := range f.Certificates {
		f.Certificates[i].Served = false
	}
	r := Simulate(f, relayed(), start)
	if r.Without.Reloads+r.With.Reloads != 0 || r.Without.Renewals == 0 || r.With.Renewals == 0 {
		t.Errorf("%+v", r)
	}
}

// TestTheSameNamesOnceAWeek: a certificate of ten days is not renewed ahead within a
// week of its last order.
func TestTheSameNamesOnceAWeek(t *testing.T) {
	o := relayed()
	o.Early, o.Horizon = 0.9, 30*24*time.Hour
	f := Synthetic(200, 240*time.Hour, 1, start) // renewed after 160 h, less than a week
	r := Simulate(f, o, start)
	if r.With.Renewals > r.Without.Renewals+200 {
		t.Errorf("%d orders with certherd, and %d without", r.With.Renewals, r.Without.Renewals)
	}
}

func TestQuotasAreShown(t *testing.T) {
	f := Synthetic(400, 0, 1, start)
	for i := range f.Certificates {
		f.Certificates[i].NotAfter = start.Add(30*24*time.Hour + time.Hour) // all at one time
	}
	r := Simulate(f, relayed(), start)
	var b bytes.Buffer
	if err := WriteTable(&b, r); err != nil {
		t.Fatal(err)
	}
	if a := r.Without.Accounts; len(a) != 1 || a[0].Peak != 400 || a[0].Quota != 300 || !strings.Contains(b.String(), "400 of 300") {
		t.Errorf("%+v\n%s", a, b.String())
	}
}

func TestNothingToRenew(t *testing.T) {
	r := Simulate(Fleet{}, Defaults(), start)
	var b bytes.Buffer
	if err := WriteHTML(&b, r); err != nil || r.With.Reloads != 0 {
		t.Errorf("%v %+v", err, r)
	}
}

func TestOptionsThatCannotWork(t *testing.T) {
	if err := Defaults().Check(); err != nil {
		t.Error(err)
	}
	for _, change := range []func(*Options){
		func(o *Options) { o.Days = 0 }, func(o *Options) { o.Early = 1 }, func(o *Options) { o.Horizon = -1 },
		func(o *Options) { o.Size = 0 }, func(o *Options) { o.Budget.Largest = 0 },
	} {
		o := Defaults()
		if change(&o); o.Check() == nil {
			t.Errorf("%+v is let through", o)
		}
	}
}

func BenchmarkSimulate(b *testing.B) {
	f := Synthetic(10_000, 0, 1, start)
	for b.Loop() {
		Simulate(f, relayed(), start)
	}
}
