// Package cost predicts what certificates cost an Envoy gateway. It is a model
// with few constants, each measured on a real Envoy that real net-kourier
// configuration drove; docs/cost.md says how. It is pure.
package cost

import "math"

// Shape is what a gateway has loaded.
type Shape struct {
	// Services is the number of routes with their clusters: Knative Ingresses.
	Services int
	// Chains is the number of filter chains for TLS: with Kourier, one for each
	// Secret that is named (net-kourier pkg/generator/sni.go).
	Chains int
	// Shared is the number of services that sit in a chain with others.
	Shared int
	// ChainKiB is how much certificate chain and private key of one filter chain
	// have in PEM, on average; 0 for a chain of three with a key of RSA-2048, as
	// Let's Encrypt issues it.
	ChainKiB float64
	// DrainSeconds is how long Envoy keeps what an update has replaced
	// (--drain-time-s).
	DrainSeconds int
	// Relay says that certherd-relay stands before the gateway: each certificate is
	// loaded once, as a secret, and neither scaling nor a renewal replaces a listener.
	Relay bool
}

// The constants, measured with Envoy 1.40.0 (1.36.2 differs by 2 %), net-kourier
// 0.48, two workers. MiB of anonymous
// resident memory, which is what a container's memory limit cannot reclaim.
const (
	emptyMiB   = 15.3        // a gateway without services
	serviceMiB = 0.1222      // routes, virtual hosts and cluster of one service
	chainMiB   = 69.3 / 1024 // a filter chain with its own certificate, in both of Kourier's TLS listeners
	pemMiB     = 16.7 / 1024 // and for each KiB of its PEM, which both have inlined
	relayPEM   = 10.2 / 1024 // the same behind the relay, where one secret serves both
	usualKiB   = 6.75        // an RSA-2048 leaf, two intermediates and the key
	sharedMiB  = 0.0183      // a further host in a shared chain
	copyMiB    = 6.75 / 1024 // what one update keeps of a chain until it has drained
	copyPEM    = 5.0 / 1024  // and for each KiB of its PEM
	copyShared = 3.7 / 1024  // the same of a host in a shared chain
	copyNone   = 0.5 / 1024  // the same of a service without TLS
	maxRate    = 10.0 / 3    // updates per second that Kourier's rate_limit_settings let through
	cpuSeconds = 0.65 / 1000 // CPU time to take in one update, per chain
	cpuShared  = 0.27 / 1000 // the same per service in a shared chain
)

// AtRest is the anonymous resident memory in MiB after everything has settled.
func (s Shape) AtRest() float64 { return Mean().AtRest(s) }

// UnderChurn is the peak in MiB when events arrive at a steady rate (events per
// second, 1 is a busy cluster: each scaling of any service is one), each of
// which makes Kourier push everything. Envoy gives the peak back to the kernel
// late or never, so it is this number that a limit has to hold.
func (s Shape) UnderChurn(eventsPerSecond float64) float64 {
	return Mean().UnderChurn(s, eventsPerSecond)
}

// UpdateMiB is what one update keeps alive until the drain time is over: nothing
// behind the relay.
func (s Shape) UpdateMiB() float64 { return Mean().UpdateMiB(s) }

// chain is what one filter chain comes to.
func (s Shape) chain(each, perKiB float64) float64 {
	kib := s.ChainKiB
	if kib == 0 {
		kib = usualKiB
	}
	return each + perKiB*kib
}

// Copies is the number of old listener generations that are alive at once.
func (s Shape) Copies(eventsPerSecond float64) float64 {
	rate := min(eventsPerSecond, maxRate)
	if cpu := cpuSeconds*float64(s.Chains) + cpuShared*float64(s.Shared); cpu > 0 {
		rate = min(rate, 1/cpu)
	}
	return rate * float64(s.DrainSeconds)
}

// Fit is Model.Fit by the model without a measurement.
func (s Shape) Fit(limitMiB, eventsPerSecond float64) (atRest, underChurn int) {
	return Mean().Fit(limitMiB, s, eventsPerSecond)
}

func round(x float64) float64 { return math.Round(x*10) / 10 }
