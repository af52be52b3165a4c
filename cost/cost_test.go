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
