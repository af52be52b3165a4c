package cost

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/certherd/certherd/inventory"
	"github.com/certherd/certherd/plan"
)

// EventsPerSecond is the churn that reports assume: one service scales, or one
// certificate is renewed, each second.
const EventsPerSecond = 1

// Gateway is a workload with what it has loaded, now and after the changes.
type Gateway struct {
	Workload *inventory.Workload
	Hosts    int
	// Certificates are the distinct Secrets that it loads.
	Now, After                         Shape
	CertificatesNow, CertificatesAfter int
	// Measured is what its Envoys say, zero where none was asked, and Model what its
	// memory is predicted by.
	Measured Measured
	Model    Model
}

// Gateways are the gateways that the model knows: Kourier's. moves are taken to
// be carried out in full for After. measured are those whose Envoys were read, by
// their workload; it may be nil.
func Gateways(s *inventory.Snapshot, moves Moves, measured map[inventory.Ref]Measured) []Gateway {
	var out []Gateway
	for i := range s.Workloads {
		w := &s.Workloads[i]
		if w.Controller != "kourier" {
			continue
		}
		g := Gateway{Workload: w}
		services, entries := 0, 0
		for j := range s.Consumers {
			if x := &s.Consumers[j]; kouriers(s, x) {
				services++
				g.Hosts += len(x.Hosts)
				entries += len(x.TLS)
			}
		}
		var last inventory.Ref
		after := map[inventory.Ref]bool{}
		kib := 0.0
		for x, t := range s.EachServed() {
			if !kouriers(s, x) {
				continue
			}
			if g.CertificatesNow == 0 || t.Secret != last {
				g.CertificatesNow++
				last = t.Secret
				kib += pemKiB(s, last)
			}
			if len(moves) > 0 {
				after[moves.Moved(x, t.Secret)] = true
			}
		}
		g.CertificatesAfter = g.CertificatesNow
		if len(moves) > 0 {
			g.CertificatesAfter = len(after)
		}
		shape := func(chains int) Shape {
			return Shape{Services: services, Chains: chains, Shared: entries - chains, ChainKiB: kib / float64(max(1, g.CertificatesNow)), DrainSeconds: w.DrainSeconds, Relay: !w.Relay.IsZero()}
		}
		g.Now, g.After = shape(g.CertificatesNow), shape(g.CertificatesAfter)
		g.Measured = measured[w.Ref]
		g.Model = Fitted(g.Now, g.Measured)
		out = append(out, g)
	}
	return out
}

// pemKiB is how much is in a Secret, as far as the Certificate that writes it and its
// issuer tell. Secrets themselves are not read.
func pemKiB(s *inventory.Snapshot, secret inventory.Ref) float64 {
	for w := range s.EachWriter(secret) {
		x := s.Certificate(w)
		if x == nil {
			continue
		}
		if n := s.ChainBytes(x.Issuer); n > 0 {
			return float64(n+keyBytes(x.Profile)) / 1024
		}
	}
	return usualKiB
}

// keyBytes is how many bytes of PEM a private key has, in cert-manager's default
// encoding, by the profile of a Certificate, which begins with the algorithm and
// the size.
func keyBytes(profile string) int {
	for _, k := range []struct {
		prefix string
		bytes  int
	}{{"ECDSA/384", 288}, {"ECDSA/521", 365}, {"ECDSA", 227}, {"Ed25519", 119}, {"RSA/4096", 3243}, {"RSA/3072", 2455}, {"RSA/8192", 6363}} {
		if strings.HasPrefix(profile, k.prefix) {
			return k.bytes
		}
	}
	return 1675 // RSA-2048
}

// kouriers reports whether Kourier serves a Consumer.
func kouriers(s *inventory.Snapshot, x *inventory.Consumer) bool {
	if x.Ref.Group != inventory.GroupKnativeNet {
		return false
	}
	class := x.Class
	if class == "" {
		class = s.Settings.IngressClass
	}
	return strings.HasPrefix(class, "kourier.")
}

// Moves are what consumers are to do with the Secrets that they name. The zero
// Moves leave everything where it is.
type Moves map[*inventory.Consumer][]*plan.Move

// MovesOf are the switches of all changes.
func MovesOf(s *inventory.Snapshot, changes []plan.Change) Moves {
	out := Moves{}
	for i := range changes {
		for j := range changes[i].Steps {
			st := &changes[i].Steps[j]
			if st.Action != plan.Switch || st.Move == nil {
				continue
			}
			if x := s.Consumer(st.Object); x != nil {
				out[x] = append(out[x], st.Move)
			}
		}
	}
	return out
}

// Moved is the Secret that a consumer names after the moves.
func (m Moves) Moved(x *inventory.Consumer, secret inventory.Ref) inventory.Ref {
	for _, move := range m[x] {
		if move.From == secret {
			return move.To
		}
	}
	return secret
}

// Checks are the checks of this package. moves are those that are proposed, measured
// is what Gateways takes.
func Checks(moves Moves, measured map[inventory.Ref]Measured) []plan.Check {
	return []plan.Check{
		{Reason: plan.GatewayMemory, Serious: true, Run: func(s *inventory.Snapshot) []plan.Finding { return gatewayMemory(s, moves, measured) },
			Doc: "A gateway's certificates need more memory under churn than its limit gives."},
		{Reason: plan.DrainHazard, Serious: true, Run: func(s *inventory.Snapshot) []plan.Finding { return drainHazard(s, moves) },
			Doc: "Hosts share a filter chain on a gateway that replaces it at every event, with a drain time shorter than the longest allowed request."},
	}
}

func gatewayMemory(s *inventory.Snapshot, moves Moves, measured map[inventory.Ref]Measured) []plan.Finding {
	var out []plan.Finding
	for _, g := range Gateways(s, moves, measured) {
		limit := MiB(g.Workload.MemoryLimit)
		churn := g.Model.UnderChurn(g.Now, EventsPerSecond)
		if limit == 0 || churn <= limit && g.Measured.ResidentMiB <= nearlyFull*limit {
			continue
		}
		rest, underChurn := g.Model.Fit(limit, g.Now, EventsPerSecond)
		if g.Now.Relay {
			out = append(out, plan.Finding{Reason: plan.GatewayMemory, Object: g.Workload.Ref, Verdict: inventory.Used,
				Message: fmt.Sprintf("%d certificates for %d services: %.0f MiB through %s, and the limit is %.0f MiB, which holds %d such services; it would take a limit of %d MiB",
					g.CertificatesNow, g.Now.Services, churn, g.Workload.Relay, limit, underChurn, g.NeedsLimit()) + " (" + g.Basis() + ")"})
			continue
		}
		message := fmt.Sprintf("%d certificates for %d services: %.0f MiB at rest, %.0f MiB with one event per second and a drain time of %d s, and the limit is %.0f MiB; "+
			"the limit holds %d such services at rest and %d under churn; it would take a limit of %d MiB",
			g.CertificatesNow, g.Now.Services, g.Model.AtRest(g.Now), churn, g.Workload.DrainSeconds, limit, rest, underChurn, g.NeedsLimit())
		if g.CertificatesAfter < g.CertificatesNow {
			message += fmt.Sprintf(", or the proposed consolidation, after which %d certificates need %.0f MiB at rest and %.0f MiB under churn",
				g.CertificatesAfter, g.Model.AtRest(g.After), g.Model.UnderChurn(g.After, EventsPerSecond))
		}
		message += " (" + g.Basis() + ")"
		out = append(out, plan.Finding{Reason: plan.GatewayMemory, Object: g.Workload.Ref, Verdict: inventory.Used, Message: message})
	}
	return out
}

// nearlyFull is the share of its limit that a gateway may hold before that is said.
const nearlyFull = 0.9

// Limit is the memory limit in MiB that holds a predicted peak with a fifth to
// spare (the model's error, see docs/cost.md), rounded up to 50.
func Limit(peak float64) int { return int(math.Ceil(peak*1.2/50)) * 50 }

// MiB is bytes in MiB.
func MiB(bytes int64) float64 { return float64(bytes) / (1 << 20) }

// drainHazard: Kourier puts the hosts of a shared chain in another order in
// each push (net-kourier pkg/generator/sni.go ranges over a map), so that Envoy replaces
// the chain at every event of any service, and ends what is still open on it when the
// drain time is over. Behind the relay the order stays, and so does the chain.
func drainHazard(s *inventory.Snapshot, moves Moves) []plan.Finding {
	longest := s.Settings.MaxRevisionTimeoutSeconds
	if longest == 0 {
		longest = 600 // config-defaults' default
	}
	var out []plan.Finding
	now, later := sharedHosts(s, nil), sharedHosts(s, moves)
	for _, g := range Gateways(s, moves, nil) {
		drain := g.Workload.DrainSeconds
		if drain >= longest || g.Now.Relay {
			continue
		}
		var related []inventory.Ref
		for ref := range later {
			related = append(related, ref)
		}
		slices.SortFunc(related, inventory.Ref.Compare)
		n := total(now)
		message := fmt.Sprintf("%d hosts share a filter chain with others", n)
		switch m := total(later); {
		case n == 0 && m == 0:
			continue
		case n == 0:
			message = fmt.Sprintf("after the proposed consolidation %d hosts would share a filter chain with others", m)
		case m > n:
			message += fmt.Sprintf(", and after the proposed consolidation %d would", m)
		}
		message += fmt.Sprintf("; Kourier replaces a shared chain at every event of any service, and Envoy then cuts what lasts longer than its drain time of %d s, while Knative allows requests of %d s; set DRAIN_TIME_SECONDS of the gateway to %d or more first", drain, longest, longest)
		out = append(out, plan.Finding{Reason: plan.DrainHazard, Object: g.Workload.Ref, Verdict: inventory.Used, Message: message, Related: related})
	}
	return out
}

// sharedHosts counts, for each Secret that several Knative Ingresses name, the
// hosts that they serve with it.
func sharedHosts(s *inventory.Snapshot, moves Moves) map[inventory.Ref]int {
	type count struct{ sharers, hosts int32 }
	all := map[inventory.Ref]count{}
	for i := range s.Consumers {
		x := &s.Consumers[i]
		if x.Ref.Group != inventory.GroupKnativeNet {
			continue
		}
		for _, t := range x.TLS {
			to := moves.Moved(x, t.Secret)
			n := all[to]
			all[to] = count{n.sharers + 1, n.hosts + int32(len(t.Hosts))}
		}
	}
	hosts := map[inventory.Ref]int{}
	for ref, n := range all {
		if n.sharers > 1 {
			hosts[ref] = int(n.hosts)
		}
	}
	return hosts
}

func total(m map[inventory.Ref]int) int {
	n := 0
	for _, v := range m {
		n += v
	}
	return n
}
