package consolidate

import (
	"fmt"
	"slices"
	"strings"

	"github.com/certherd/certherd/inventory"
)

// CAA is what the DNS says of who may issue for a domain (RFC 8659): the
// relevant record set, found at the domain or above it.
type CAA struct {
	// Issue and IssueWild are the issuers' domain names of the records of these
	// tags; an empty one is "nobody". Found is false where there is no record set.
	Found            bool
	Issue, IssueWild []string
	// Critical are tags with the critical flag that are not known here.
	Critical []string
	// Error says why it could not be looked up; empty when it could.
	Error string
}

// caaNames are the domain names by which ACME authorities are known in CAA
// records, by the host of their directory (what its meta.caaIdentities says).
var caaNames = map[string][]string{
	"acme-v02.api.letsencrypt.org":         {"letsencrypt.org"},
	"acme-staging-v02.api.letsencrypt.org": {"letsencrypt.org"},
	"dv.acme-v02.api.pki.goog":             {"pki.goog"},
	"acme.zerossl.com":                     {"sectigo.com", "trust-provider.com", "usertrust.com", "comodoca.com", "comodo.com"},
	"acme.ssl.com":                         {"ssl.com"},
}

// Domains are the domains for which CAA records matter: those of the wildcards
// that could be proposed with an ACME issuer. The answers go into
// Options.CAA.
func Domains(s *inventory.Snapshot, o Options) []string {
	o.CAA = nil
	var out []string
	for _, g := range o.look(s).groups {
		if x := s.Issuer(g.issuer); x == nil || x.Type != inventory.ACME || !g.heir.object.IsZero() {
			continue
		}
		for _, w := range g.wildcards {
			if domain, ok := strings.CutPrefix(w, "*."); ok {
				out = append(out, domain)
			}
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// caaCause says why CAA records keep a group's issuer from issuing a wildcard.
func (l *look) caaCause(g *group, wildcard string) string {
	x := l.s.Issuer(g.issuer)
	if l.o.CAA == nil || x == nil || x.Type != inventory.ACME {
		return ""
	}
	domain := strings.TrimPrefix(wildcard, "*.")
	c, ok := l.o.CAA[domain]
	switch {
	case !ok:
		return ""
	case c.Error != "":
		return fmt.Sprintf("the CAA records for %s could not be looked up (%s), and an authority that cannot either issues nothing", domain, c.Error)
	case !c.Found:
		return ""
	case len(c.Critical) > 0:
		return fmt.Sprintf("a CAA record for %s is critical and not known here (%s)", domain, strings.Join(c.Critical, ", "))
	}
	// RFC 8659, 4.3: where there are issuewild records, issue records do not count.
	tag, who := "issuewild", c.IssueWild
	if len(who) == 0 {
		tag, who = "issue", c.Issue
	}
	if len(who) == 0 {
		return ""
	}
	host, _, _ := strings.Cut(strings.TrimPrefix(x.Server, "https://"), "/")
	names, known := caaNames[host]
	switch {
	case slices.ContainsFunc(who, func(w string) bool { return slices.Contains(names, w) }):
		return ""
	case !known && slices.ContainsFunc(who, func(w string) bool { return w != "" }):
		return "" // which name the authority has is not known
	}
	return fmt.Sprintf("the CAA records for %s (%s %s) do not let %s issue wildcards", domain, tag, list(who), g.issuer)
}

func list(who []string) string {
	var out []string
	for _, w := range who {
		if w == "" {
			w = `";"`
		}
		out = append(out, w)
	}
	return strings.Join(out, ", ")
}
