package cost

import (
	"math"
	"testing"
)

// The figures of docs/cost.md: RssAnon in MiB of a real Envoy.
func TestModelAgainstMeasurements(t *testing.T) {
	for _, m := range []struct {
		what      string
		shape     Shape
		want      float64
		churn     bool
		tolerance float64
	}{
		{"50, a Secret each", Shape{Services: 50, Chains: 50}, 31.7, false, .1},
		{"200, a Secret each", Shape{Services: 200, Chains: 200}, 76.7, false, .1},
		{"500, a Secret each", Shape{Services: 500, Chains: 500}, 165.4, false, .1},
		{"1000, a Secret each", Shape{Services: 1000, Chains: 1000}, 315.2, false, .1},
		{"2000, a Secret each", Shape{Services: 2000, Chains: 2000}, 608, false, .1},
		{"5000, a Secret each", Shape{Services: 5000, Chains: 5000}, 1485.8, false, .1},
		{"50, one Secret", Shape{Services: 50, Chains: 1, Shared: 49}, 22.4, false, .1},
		{"200, one Secret", Shape{Services: 200, Chains: 1, Shared: 199}, 44.4, false, .1},
		{"500, one Secret", Shape{Services: 500, Chains: 1, Shared: 499}, 87.1, false, .1},
		{"1000, one Secret", Shape{Services: 1000, Chains: 1, Shared: 999}, 155.7, false, .1},
		{"2000, one Secret", Shape{Services: 2000, Chains: 1, Shared: 1999}, 293, false, .1},
		{"5000, one Secret", Shape{Services: 5000, Chains: 1, Shared: 4999}, 642.8, false, .15},
		{"1000, a Secret each, RSA-2048 without intermediates", Shape{Services: 1000, Chains: 1000, ChainKiB: 3.72}, 260.4, false, .1},
		{"1000, a Secret each, P-256", Shape{Services: 1000, Chains: 1000, ChainKiB: 4.02}, 274.4, false, .1},
		{"1000, a Secret each, P-256 without intermediates", Shape{Services: 1000, Chains: 1000, ChainKiB: 1.78}, 237.3, false, .1},
		{"5000, a Secret each, P-256 without intermediates", Shape{Services: 5000, Chains: 5000, ChainKiB: 1.78}, 1040.5, false, .1},
		{"50, behind the relay", Shape{Services: 50, Chains: 50, DrainSeconds: 15, Relay: true}, 30, true, .1},
		{"200, behind the relay", Shape{Services: 200, Chains: 200, DrainSeconds: 15, Relay: true}, 69, true, .1},
		{"500, behind the relay", Shape{Services: 500, Chains: 500, DrainSeconds: 15, Relay: true}, 146, true, .1},
		{"1000, behind the relay", Shape{Services: 1000, Chains: 1000, DrainSeconds: 15, Relay: true}, 271, true, .1},
		{"1000, no TLS", Shape{Services: 1000}, 137.4, false, .1},
		{"500, a Secret each, an event a second", Shape{Services: 500, Chains: 500, DrainSeconds: 15}, 522, true, .25},
		{"1000, a Secret each, an event a second", Shape{Services: 1000, Chains: 1000, DrainSeconds: 15}, 801.7, true, .25},
	} {
		t.Run(m.what, func(t *testing.T) {
			got := m.shape.AtRest()
			if m.churn {
				got = m.shape.UnderChurn(1)
			}
			if off := math.Abs(got-m.want) / m.want; off > m.tolerance {
				t.Errorf("predicted %.1f MiB, measured %.1f: %.0f %% off", got, m.want, off*100)
			}
		})
	}
}

func TestFitIsWhatTheLimitHolds(t *testing.T) {
	rest, churn := Shape{DrainSeconds: 15}.Fit(800, 1)
	for n, load := range map[int]func(Shape) float64{rest: Shape.AtRest, churn: func(s Shape) float64 { return s.UnderChurn(1) }} {
		at := func(n int) float64 { return load(Shape{Services: n, Chains: n, DrainSeconds: 15}) }
		if at(n) > 800 || at(n+1) <= 800 {
			t.Errorf("%d services fit 800 MiB: %.1f MiB with them, %.1f with one more", n, at(n), at(n+1))
		}
	}
	if rest <= churn {
		t.Errorf("%d fit at rest and %d under churn", rest, churn)
	}
}

func TestMoreOfAnythingCostsMore(t *testing.T) {
	base := Shape{Services: 100, Chains: 10, Shared: 90, DrainSeconds: 15}
	for _, more := range []Shape{
		{Services: 101, Chains: 10, Shared: 90, DrainSeconds: 15},
		{Services: 100, Chains: 11, Shared: 90, DrainSeconds: 15},
		{Services: 100, Chains: 10, Shared: 90, DrainSeconds: 45},
	} {
		if more.UnderChurn(1) <= base.UnderChurn(1) {
			t.Errorf("%+v costs %.1f MiB, no more than %+v", more, more.UnderChurn(1), base)
		}
	}
}

// The allocated memory in MiB of real Envoys with 500 services, and what they held:
// a model that is fitted to the former has to say the latter.
func TestFittedToOneGateway(t *testing.T) {
	for _, m := range []struct {
		what                string
		shape               Shape
		allocated, resident float64
		update              float64 // MiB, 0 where it was not measured
	}{
		{"RSA-2048, two intermediates", Shape{Services: 500, Chains: 500}, 135.9, 165.4, 19.79},
		{"RSA-2048, leaf alone", Shape{Services: 500, Chains: 500, ChainKiB: 3.72}, 109.4, 141.1, 10.78},
		{"P-256, two intermediates", Shape{Services: 500, Chains: 500, ChainKiB: 4.02}, 116, 145.4, 12.01},
		{"P-256, leaf alone", Shape{Services: 500, Chains: 500, ChainKiB: 1.78}, 98.5, 128.1, 7.6},
		{"RSA-2048, 2000", Shape{Services: 2000, Chains: 2000}, 523.7, 608, 0},
		{"P-256, 5000", Shape{Services: 5000, Chains: 5000, ChainKiB: 1.78}, 923.1, 1040.5, 0},
		{"one Secret for 1000", Shape{Services: 1000, Chains: 1, Shared: 999}, 112.7, 155.7, 3.55},
	} {
		model := Fitted(m.shape, Measured{Envoys: 1, AtRest: true, AllocatedMiB: m.allocated, ResidentMiB: m.resident})
		if !model.Measured || model.Why != "" {
			t.Errorf("%s: it is not measured: %q", m.what, model.Why)
		}
		if got := model.AtRest(m.shape); math.Abs(got-m.resident)/m.resident > .1 {
			t.Errorf("%s: predicted %.1f MiB, and it held %.1f", m.what, got, m.resident)
		}
		if got := model.UpdateMiB(m.shape); m.update > 0 && math.Abs(got-m.update)/m.update > .25 {
			t.Errorf("%s: an update keeps %.2f MiB, and it was %.2f", m.what, got, m.update)
		}
	}
}

func TestNotFitted(t *testing.T) {
	shape := Shape{Services: 500, Chains: 500}
	if m := Fitted(shape, Measured{}); m != Mean() {
		t.Errorf("of nothing becomes %+v", m)
	}
	m := Fitted(shape, Measured{Envoys: 1, AllocatedMiB: 900})
	if m.Measured || m.Why == "" || m.AtRest(shape) != Mean().AtRest(shape) {
		t.Errorf("of one that drains becomes %+v", m)
	}
	// What no certificate can need is something else, and stays however many there are.
	m = Fitted(shape, Measured{Envoys: 1, AtRest: true, AllocatedMiB: 6.6 + 500*.0934 + 500*(64.9+15.43*6.75)/1024*2.5 + 100})
	if math.Abs(m.OtherMiB-100) > 1 || math.Abs(m.AtRest(Shape{})-15.3-114.5) > 2 {
		t.Errorf("100 MiB of something else are %+v", m)
	}
	// Of few certificates nobody can tell what one needs.
	few := Shape{Services: 3, Chains: 3}
	m = Fitted(few, Measured{Envoys: 1, AtRest: true, AllocatedMiB: 12})
	if m.Factor != 1 || m.OtherMiB < 4 {
		t.Errorf("of three certificates becomes %+v", m)
	}
	// A gateway with less than all that can be so is predicted on the safe side.
	if m = Fitted(shape, Measured{Envoys: 1, AtRest: true, AllocatedMiB: 20}); m.OtherMiB != 0 || m.AtRest(shape) < 80 {
		t.Errorf("of too little becomes %+v", m)
	}
}
