// Package renew finds which certificates are renewed too often, and which of
// those that become due soon are renewed together, so that a gateway is updated
// once and not for each of them. It is pure.
//
// cert-manager renews each certificate when it is due, whether or not anything of
// this is carried out: what is decided here is only ever to renew sooner.
package renew

import (
	"fmt"
	"slices"
	"time"

	"github.com/certherd/certherd/inventory"
	"github.com/certherd/certherd/plan"
)

// Options are what a batch of renewals can be told.
type Options struct {
	// Horizon is how far ahead of their time certificates are renewed at most, and
	// Early what share (0 to 1) of the time between two renewals that may be: what
	// lives for an hour is not renewed a day ahead.
	Horizon time.Duration
	Early   float64
	// Size is how many certificates are renewed together at most, and Challenges how
	// many names ACME servers may be asked about at one time
	// (cert-manager's --max-concurrent-challenges). 0 lets nothing be renewed.
	Size, Challenges int
	// Next, if not zero, is when the next batch may be renewed: this one waits for
	// that if nothing becomes due before, because there will be more in it then. Slack
	// is how late that may be, as rounds take their time.
	Next  time.Time
	Slack time.Duration
	// Limits, if set, gives for a Snapshot what says why a certificate must not be
	// issued again yet, because its authority would refuse it, or soon could; empty
	// when it may be, and is then taken to be.
	Limits func(*inventory.Snapshot) func(*inventory.Certificate) string
	// Skip, if set, says by what an object is opted out; empty when it is not.
	Skip func(*inventory.Snapshot, inventory.Ref) string
}

// Defaults are the options of a certherd that is told nothing.
func Defaults() Options {
	return Options{Horizon: 24 * time.Hour, Early: 0.25, Size: 100, Challenges: 60}
}

// Batch is what is renewed together.
type Batch struct {
	// Certificates are in the order in which they become due.
	Certificates []*inventory.Certificate
	// Until, if not zero, is the time that the batch can wait for.
	Until time.Time
	// Kept are those that become due within the horizon, too, and are left to
	// cert-manager.
	Kept []Kept
}

// Kept is a certificate that is left to cert-manager, and why.
type Kept struct {
	Certificate *inventory.Certificate
	Why         string
}

// fewest is what a batch has at least: cert-manager renews one as well.
const fewest = 2

// Batch decides what is renewed together. What is due already, has failed or is
// being issued is cert-manager's own, and so is what no gateway serves.
func (o Options) Batch(s *inventory.Snapshot) Batch {
	var b Batch
	for _, gap := range s.Gaps {
		if gap.Kind == certificateKind || gap.Kind == "" {
			return b // one that was not read may share a Secret with one that was
		}
	}
	asked := map[inventory.Ref]time.Time{} // for, a moment ago
	for i := range s.Requests {
		if r := &s.Requests[i]; r.Ref.Kind == "CertificateRequest" && s.Taken.Sub(r.Since) < settling {
			if by, ok := r.ControlledBy(); ok && r.Created.After(asked[by.Ref]) {
				asked[by.Ref] = r.Created
			}
		}
	}
	limit := func(*inventory.Certificate) string { return "" }
	if o.Limits != nil {
		limit = o.Limits(s)
	}
	var due []*inventory.Certificate
	names := 0 // that ACME servers are being asked about
	for i := range s.Certificates {
		x := &s.Certificates[i]
		if x.Issuing {
			names += challenges(s, x)
		} else if o.soon(x, s.Taken) && len(s.Servers(x.Secret)) > 0 {
			due = append(due, x)
		}
	}
	slices.SortStableFunc(due, func(a, b *inventory.Certificate) int { return a.Renewal.Compare(b.Renewal) })
	for _, x := range due {
		why := o.keeps(s, x)
		n := challenges(s, x)
		switch {
		case why != "":
		case x.NotBefore.Before(asked[x.Ref]):
			why = fmt.Sprintf("it was asked for less than %s ago, and its status may still be that of the one before", settling)
		case len(b.Certificates) >= o.Size:
			why = fmt.Sprintf("%d certificates are renewed together at most", o.Size)
		case names+n > o.Challenges && n > 0:
			why = fmt.Sprintf("an ACME server is asked about %d names at one time at most", o.Challenges)
		default:
			why = limit(x) // asked last: it counts those that it lets through
		}
		if why != "" {
			b.Kept = append(b.Kept, Kept{x, why})
			continue
		}
		names += n
		b.Certificates = append(b.Certificates, x)
	}
	if len(b.Certificates) < fewest {
		for _, x := range b.Certificates {
			b.Kept = append(b.Kept, Kept{x, "no other certificate could be renewed with it"})
		}
		b.Certificates = nil
		return b
	}
	if first := b.Certificates[0].Renewal; !o.Next.IsZero() && o.Next.After(s.Taken) && first.After(o.Next.Add(o.Slack)) {
		b.Until = o.Next
	}
	return b
}

// settling is for how long the times in the status of a Certificate may still be those
// of the one before: cert-manager's controller certificates-issuing ends Issuing, and
// certificates-readiness writes the times later. What is valid from after its request
// has them already; many authorities issue what is valid from an hour before.
const settling = time.Minute

const certificateKind = "certificate." + inventory.GroupCertManager

// soon reports whether a certificate becomes due within the horizon.
func (o Options) soon(x *inventory.Certificate, now time.Time) bool {
	if x.Renewal.IsZero() || x.NotBefore.IsZero() || !x.Renewal.After(x.NotBefore) {
		return false
	}
	// What is valid only from now on was issued by another clock.
	if now.Before(x.NotBefore) || !x.Renewal.After(now) {
		return false
	}
	early := min(o.Horizon, time.Duration(o.Early*float64(x.Renewal.Sub(x.NotBefore))))
	return x.Renewal.Sub(now) <= early
}

// keeps says why a certificate is left to cert-manager whatever the size of the
// batch.
func (o Options) keeps(s *inventory.Snapshot, x *inventory.Certificate) string {
	switch {
	case s.Ignored(&x.Meta):
		return "it is opted out by the annotation " + inventory.IgnoreAnnotation
	case !x.Failed.IsZero():
		return "its last attempt failed, and cert-manager waits before the next one"
	case !x.Ready:
		return "it is not Ready"
	case x.Windowed:
		return "its owner decides when it is renewed (spec.renewal)"
	}
	touched := []inventory.Ref{x.Ref, x.Secret}
	for w := range s.EachWriter(x.Secret) {
		if other := s.Certificate(w); other != nil && other != x {
			return fmt.Sprintf("%s writes the same Secret", w)
		}
		if k := s.KnativeCertificate(w); k != nil {
			if k.Ignore {
				return fmt.Sprintf("%s is opted out by the annotation %s", w, inventory.IgnoreAnnotation)
			}
			touched = append(touched, w)
		}
	}
	if o.Skip != nil {
		for _, ref := range touched {
			if by := o.Skip(s, ref); by != "" {
				return ref.String() + " is opted out by " + by
			}
		}
	}
	return ""
}

// challenges are how many names an ACME server is asked about for a certificate.
func challenges(s *inventory.Snapshot, x *inventory.Certificate) int {
	if i := s.Issuer(x.Issuer); i == nil || i.Type != inventory.ACME {
		return 0
	}
	return len(x.Names.DNS)
}

// Checks are the checks of this package, in the order of a report.
func Checks(o Options) []plan.Check {
	return []plan.Check{
		{Reason: plan.RenewalStorm, Serious: true, Run: renewalStorm,
			Doc: "A certificate is issued, asked for or changed again and again, far more often than it becomes due."},
		{Reason: plan.ScatteredRenewals, Run: o.scatteredRenewals,
			Doc: "Certificates that gateways serve become due one by one, and each renewal is an update of its own."},
	}
}

func (o Options) scatteredRenewals(s *inventory.Snapshot) []plan.Finding {
	b := o.Batch(s)
	n := len(b.Certificates)
	if n == 0 {
		return nil
	}
	first, last := b.Certificates[0], b.Certificates[n-1]
	f := plan.Finding{
		Reason: plan.ScatteredRenewals, Object: first.Ref, Verdict: inventory.Used,
		Message: fmt.Sprintf("%d certificates that gateways serve become due one by one from %s to %s; renewed together they are one batch of updates", n, at(first.Renewal), at(last.Renewal)),
		Related: make([]inventory.Ref, 0, n), Fix: make([]plan.Step, 0, n),
	}
	for _, x := range b.Certificates {
		f.Related = append(f.Related, x.Ref)
		f.Fix = append(f.Fix, plan.Step{Action: plan.Renew, Object: x.Ref, If: x.Version})
	}
	if k := len(b.Kept); k > 0 {
		f.Message += fmt.Sprintf("; %d more are left to cert-manager, such as %s: %s", k, b.Kept[0].Certificate.Ref, b.Kept[0].Why)
	}
	if !b.Until.IsZero() {
		f.Hold = fmt.Sprintf("nothing of it becomes due before the next round that may renew, at %s, and there may be more by then", at(b.Until))
	}
	return []plan.Finding{f}
}

func at(t time.Time) string { return t.UTC().Format("2006-01-02 15:04 MST") }
