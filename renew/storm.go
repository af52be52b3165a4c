package renew

import (
	"fmt"
	"strings"
	"time"

	"github.com/certherd/certherd/inventory"
	"github.com/certherd/certherd/plan"
)

// What is too often. Below these counts, somebody is trying something out.
const (
	fewIssues   = 5
	fewRequests = 4 // within an hour
	fewWrites   = 20
)

// writer is the field manager of the only part of cert-manager that writes
// certificates (the user agent of its controller certificates-issuing).
const writer = "cert-manager-certificates-issuing"

func renewalStorm(s *inventory.Snapshot) []plan.Finding {
	requests := map[inventory.Ref]int{} // within the last hour
	for i := range s.Requests {
		r := &s.Requests[i]
		if r.Ref.Kind != "CertificateRequest" || s.Taken.Sub(r.Created) >= time.Hour {
			continue
		}
		if by, ok := r.ControlledBy(); ok {
			requests[by.Ref]++
		}
	}
	var out []plan.Finding
	for i := range s.Certificates {
		x := &s.Certificates[i]
		why := storm(x, s.Taken, requests[x.Ref])
		if why == "" {
			continue
		}
		f := plan.Finding{Reason: plan.RenewalStorm, Object: x.Ref, Verdict: s.Verdict(x.Ref), Message: why, Related: []inventory.Ref{x.Secret}}
		others := 0
		for w := range s.EachWriter(x.Secret) {
			if other := s.Certificate(w); other != nil && other != x {
				others++
				f.Related = append(f.Related, w)
			}
		}
		secret := s.Secret(x.Secret)
		switch {
		case others > 0:
			f.Message += fmt.Sprintf("; %s writes the same Secret, and each issues again what the other has issued", f.Related[1])
		case secret != nil && secret.Writer != "" && secret.Writer != writer:
			f.Message += fmt.Sprintf("; %s was last written by %q, and cert-manager issues again what others change", x.Secret, secret.Writer)
		case x.Writer != "" && !strings.HasPrefix(x.Writer, "cert-manager-"):
			f.Message += fmt.Sprintf("; its spec was last written by %q", x.Writer)
		}
		out = append(out, f)
	}
	return out
}

// storm says how often a certificate is issued, asked for or changed, empty where
// that is as it should be.
func storm(x *inventory.Certificate, now time.Time, requests int) string {
	age := now.Sub(x.Created)
	if x.Created.IsZero() || age <= 0 {
		return ""
	}
	due := time.Duration(0) // between two renewals
	if !x.Renewal.IsZero() && !x.NotBefore.IsZero() {
		due = max(0, x.Renewal.Sub(x.NotBefore))
	}
	// It has to be going on: what was tried out at the beginning is over. Public CAs
	// date certificates back by an hour.
	if n := int(x.Revision); n >= fewIssues && due > 0 {
		every := age / time.Duration(n)
		if every < due/2 && now.Sub(x.NotBefore) <= 2*every+time.Hour {
			return fmt.Sprintf("it was issued %d times in %s, which is every %s, and every %s would do", n, round(age), round(every), round(due))
		}
	}
	if requests >= fewRequests && (due == 0 || time.Duration(requests)*due > 2*time.Hour) {
		return fmt.Sprintf("it was asked for %d times in the last hour", requests)
	}
	if n := int(x.Generation); n >= fewWrites && age/time.Duration(n) < time.Hour {
		return fmt.Sprintf("its spec was changed %d times in %s, which is every %s", n, round(age), round(age/time.Duration(n)))
	}
	return ""
}

// round leaves of a duration what a person wants to know.
func round(d time.Duration) string {
	switch {
	case d >= 48*time.Hour:
		return fmt.Sprintf("%d days", (d+12*time.Hour)/(24*time.Hour))
	case d >= 2*time.Hour:
		return fmt.Sprintf("%d hours", (d+30*time.Minute)/time.Hour)
	case d >= 2*time.Minute:
		return fmt.Sprintf("%d minutes", (d+30*time.Second)/time.Minute)
	}
	return d.Round(time.Second).String()
}
