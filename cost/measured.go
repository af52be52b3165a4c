package cost

import (
	"fmt"
	"math"
)

// Measured is what the Envoys of one gateway say of their memory.
type Measured struct {
	// Envoys is how many could be read.
	Envoys int
	// AtRest: an Envoy was read whose listeners neither warmed up nor drained.
	// AllocatedMiB is the most that such a one has allocated, or any one if there is
	// none such (server.memory_allocated).
	AtRest       bool
	AllocatedMiB float64
	// ResidentMiB is the most that one of them holds of the machine, also of what it
	// does not use any more (server.memory_physical_size).
	ResidentMiB float64
	// Certificates is the number of different certificates that it has loaded, as its
	// page /certs says, 0 if that was not read.
	Certificates int
}

// Model is what a gateway's memory is made of. Mean is that of the gateways that
// were measured for this package; Fitted is about one of them alone.
type Model struct {
	// Measured: the gateway's own memory is part of it. If not, Why says why not,
	// unless nothing is known of it.
	Measured bool
	Why      string
	// CertificateKiB is what one certificate, in a chain of its own, adds to the
	// allocated memory; 0 in Mean. Factor is how much that is of what the constants
	// say, 1 in Mean.
	CertificateKiB, Factor float64
	// OtherMiB is what the gateway has allocated that neither services nor
	// certificates explain.
	OtherMiB float64
}

// The same in allocated memory, which is what an Envoy tells of itself without what
// earlier peaks have left: MiB, from the runs in which resident memory was measured,
// too.
const (
	emptyAllocated   = 6.6
	serviceAllocated = 0.0934
	chainAllocated   = 64.9 / 1024
	pemAllocated     = 15.43 / 1024
	sharedAllocated  = 0.0127
	// residentShare is what becomes resident of each MiB that is allocated.
	residentShare = 1.145
)

const (
	// leastChains is the number of certificates from which on what one of them needs
	// can be told from what differs between Envoys anyway.
	leastChains = 20
	// leastFactor and mostFactor bound what a certificate may need, compared with the
	// constants. What is beyond that is something else.
	leastFactor, mostFactor = 0.4, 2.5
)

// Mean is the model without a measurement.
func Mean() Model { return Model{Factor: 1} }

// Fitted is the model of a gateway that holds now what it was measured with.
func Fitted(now Shape, m Measured) Model {
	out := Mean()
	switch {
	case m.Envoys == 0:
		return out
	case !m.AtRest || m.AllocatedMiB <= 0:
		out.Why = "its listeners were warming up or draining when it was read"
		return out
	}
	out.Measured = true
	chains := float64(now.Chains)
	if m.Certificates > 0 {
		chains = float64(m.Certificates)
	}
	each := now.chain(chainAllocated, pemAllocated*now.pem()/pemMiB)
	rest := m.AllocatedMiB - emptyAllocated - serviceAllocated*float64(now.Services) - sharedAllocated*float64(now.Shared)
	if chains >= leastChains {
		out.Factor = min(max(rest/(each*chains), leastFactor), mostFactor)
	}
	// A gateway that has allocated less than all that can be so is predicted on the
	// safe side.
	out.OtherMiB = round(max(0, rest-out.Factor*each*chains))
	out.CertificateKiB = round(out.Factor * each * 1024)
	return out
}

// AtRest is Shape.AtRest by this model.
func (m Model) AtRest(s Shape) float64 {
	return round(emptyMiB + residentShare*m.OtherMiB + serviceMiB*float64(s.Services) + m.Factor*s.chain(chainMiB, s.pem())*float64(s.Chains) + sharedMiB*float64(s.Shared))
}

// UnderChurn is Shape.UnderChurn by this model.
func (m Model) UnderChurn(s Shape, eventsPerSecond float64) float64 {
	return round(m.AtRest(s) + s.Copies(eventsPerSecond)*m.UpdateMiB(s))
}

// UpdateMiB is Shape.UpdateMiB by this model. What an update keeps is a copy of the
// configuration: it is no smaller where Envoy makes less of that.
func (m Model) UpdateMiB(s Shape) float64 {
	if s.Relay {
		return 0
	}
	plain := max(0, s.Services-s.Chains-s.Shared)
	return max(1, m.Factor)*s.chain(copyMiB, copyPEM)*float64(s.Chains) + copyShared*float64(s.Shared) + copyNone*float64(plain)
}

// pem is what each KiB of PEM comes to.
func (s Shape) pem() float64 {
	if s.Relay {
		return relayPEM
	}
	return pemMiB
}

// Fit is the largest number of services with a certificate each, of the size of
// those in like and with its drain time, that limitMiB holds: at rest, and under churn
// at the given rate.
func (m Model) Fit(limitMiB float64, like Shape, eventsPerSecond float64) (atRest, underChurn int) {
	return most(limitMiB, like, m.AtRest), most(limitMiB, like, func(s Shape) float64 { return m.UnderChurn(s, eventsPerSecond) })
}

func most(limitMiB float64, like Shape, load func(Shape) float64) int {
	lo, hi := 0, 1<<20
	for lo < hi {
		mid := (lo + hi + 1) / 2
		if load(Shape{Services: mid, Chains: mid, ChainKiB: like.ChainKiB, DrainSeconds: like.DrainSeconds, Relay: like.Relay}) <= limitMiB {
			lo = mid
		} else {
			hi = mid - 1
		}
	}
	return lo
}

// Basis says in words where a gateway's numbers come from.
func (g *Gateway) Basis() string {
	m := g.Model
	switch {
	case m.Measured:
		text := fmt.Sprintf("by its own memory: %.0f MiB allocated at rest, %.0f KiB a certificate", g.Measured.AllocatedMiB, m.CertificateKiB)
		if m.OtherMiB >= 1 {
			text += fmt.Sprintf(", %.0f MiB that services and certificates do not explain", m.OtherMiB)
		}
		return text + fmt.Sprintf("; it holds %.0f MiB now", g.Measured.ResidentMiB)
	case m.Why != "":
		return fmt.Sprintf("by the model alone, because %s; it holds %.0f MiB now", m.Why, g.Measured.ResidentMiB)
	}
	return "by the model alone: nothing was measured"
}

// NeedsLimit is the memory limit in MiB that the gateway needs as it is.
func (g *Gateway) NeedsLimit() int {
	return max(Limit(g.Model.UnderChurn(g.Now, EventsPerSecond)), int(math.Ceil(g.Measured.ResidentMiB/50))*50)
}
