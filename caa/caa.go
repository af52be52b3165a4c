// Package caa asks a DNS server which certificate authorities may issue for a
// domain (RFC 8659).
package caa

import (
	"context"
	"fmt"
	"strings"

	"github.com/miekg/dns"

	"github.com/certherd/certherd/consolidate"
)

// Lookup asks the server at address (host:port) for the CAA records of domains:
// for each domain the first record set at it or above it (section 3 of the RFC).
// An answer that is no answer is the Error of the domain's CAA.
func Lookup(ctx context.Context, address string, domains []string) map[string]consolidate.CAA {
	l := lookup{address: address, known: map[string]consolidate.CAA{}}
	out := make(map[string]consolidate.CAA, len(domains))
	for _, d := range domains {
		out[d] = l.relevant(ctx, d)
	}
	return out
}

type lookup struct {
	address string
	known   map[string]consolidate.CAA // by domain, also of parents
}

// relevant climbs from a domain to its parents, up to the top-level one.
func (l *lookup) relevant(ctx context.Context, domain string) consolidate.CAA {
	for d := strings.TrimSuffix(domain, "."); d != ""; {
		c, ok := l.known[d]
		if !ok {
			c = l.ask(ctx, d)
			l.known[d] = c
		}
		if c.Found || c.Error != "" {
			return c
		}
		_, d, _ = strings.Cut(d, ".")
	}
	return consolidate.CAA{}
}

// ask asks for one domain's own records. The server follows aliases.
func (l *lookup) ask(ctx context.Context, domain string) consolidate.CAA {
	q := new(dns.Msg)
	q.SetQuestion(dns.Fqdn(domain), dns.TypeCAA)
	q.SetEdns0(1232, false)
	client := &dns.Client{}
	a, _, err := client.ExchangeContext(ctx, q, l.address)
	if err == nil && a.Truncated {
		client.Net = "tcp"
		a, _, err = client.ExchangeContext(ctx, q, l.address)
	}
	if err != nil {
		return consolidate.CAA{Error: err.Error()}
	}
	if a.Rcode != dns.RcodeSuccess && a.Rcode != dns.RcodeNameError {
		return consolidate.CAA{Error: fmt.Sprintf("%s answers %s", l.address, dns.RcodeToString[a.Rcode])}
	}
	var c consolidate.CAA
	for _, rr := range a.Answer {
		r, ok := rr.(*dns.CAA)
		if !ok {
			continue
		}
		c.Found = true
		// The issuer's name ends where its parameters begin (section 4.2).
		who, _, _ := strings.Cut(r.Value, ";")
		who = strings.ToLower(strings.TrimSpace(who))
		switch tag := strings.ToLower(r.Tag); tag {
		case "issue":
			c.Issue = append(c.Issue, who)
		case "issuewild":
			c.IssueWild = append(c.IssueWild, who)
		case "iodef", "issuemail", "issuevmc", "contactemail", "contactphone":
		default:
			if r.Flag&0x80 != 0 {
				c.Critical = append(c.Critical, tag)
			}
		}
	}
	return c
}
