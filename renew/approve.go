package renew

import (
	"cmp"
	"slices"
	"time"

	"github.com/certherd/certherd/inventory"
)

// Pacing says how long requests for certificates are held so that more of them are
// issued together.
type Pacing struct {
	// Hold is how long a request that is not urgent waits for others at most.
	Hold time.Duration
	// Margin is the share (0 to 1) of a certificate's lifetime that it is to have left
	// at least: nothing waits any more within it.
	Margin float64
}

// Request is a CertificateRequest that nobody has approved or denied.
type Request struct {
	Ref     inventory.Ref
	Created time.Time
	// NotBefore and NotAfter are the validity of the certificate that it is to replace.
	// Zero where there is none, or where nothing is known: such a request is urgent.
	NotBefore, NotAfter time.Time
	// Certificate is true if it is for a Certificate, which a gateway may serve.
	Certificate bool
	// Urgent says why it must not wait whatever the times are, such as a key that is
	// known to others; empty when nothing does.
	Urgent string
}

// Why is why a request is approved now.
type Why string

// The reasons.
const (
	FirstIssue Why = "there is no certificate yet"
	Expiring   Why = "the certificate has expired, or will within the safety margin"
	HeldEnough Why = "it was held long enough, or another one of its batch was"
)

// Approved is a request that is to be approved now.
type Approved struct {
	Request
	Why Why
}

// Due parts requests into those that are approved now and those that wait, and says
// when to ask again; zero where nothing waits. What is urgent goes alone, at once; as
// soon as one that is not urgent has waited for Hold, all go.
func (p Pacing) Due(requests []Request, now time.Time) (approved []Approved, next time.Time) {
	var waiting []Request
	until := time.Time{}
	for _, r := range requests {
		why := p.urgent(r, now)
		if why != "" {
			approved = append(approved, Approved{r, why})
			continue
		}
		waiting = append(waiting, r)
		for _, t := range []time.Time{r.Created.Add(p.Hold), p.End(r)} {
			if until.IsZero() || t.Before(until) {
				until = t
			}
		}
		// A request that was made in the future comes from a clock that was wrong: nobody
		// knows how long it has waited.
		if r.Created.After(now.Add(p.Hold)) {
			until = now
		}
	}
	if len(waiting) > 0 && !until.After(now) {
		for _, r := range waiting {
			approved = append(approved, Approved{r, HeldEnough})
		}
		until = time.Time{}
	}
	slices.SortStableFunc(approved, func(a, b Approved) int { return cmp.Or(a.Created.Compare(b.Created), a.Ref.Compare(b.Ref)) })
	return approved, until
}

// End is when a request comes within its margin, and must not wait any more.
func (p Pacing) End(r Request) time.Time { return r.NotAfter.Add(-p.margin(r)) }

func (p Pacing) margin(r Request) time.Duration {
	return time.Duration(p.Margin * float64(r.NotAfter.Sub(r.NotBefore)))
}

// urgent says why a request must not wait.
func (p Pacing) urgent(r Request, now time.Time) Why {
	switch {
	case r.Urgent != "":
		return Why(r.Urgent)
	case r.NotAfter.IsZero() || r.NotBefore.IsZero():
		return FirstIssue
	case !p.End(r).After(now):
		return Expiring
	}
	return ""
}
