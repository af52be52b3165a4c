package consolidate

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/net/publicsuffix"

	"github.com/certherd/certherd/inventory"
)

// Quota is what a certificate authority issues. Zero is no limit.
type Quota struct {
	// Issuer is Kind/namespace/name or Kind/name.
	Issuer string
	// PerDomain is how many certificates for names of one registered domain it
	// issues in 7 days, to all of its customers' accounts together.
	PerDomain int
	// Orders is how many orders it takes in 3 hours from one account.
	Orders int
	// Identical is how many certificates for the same set of names it issues in 7
	// days.
	Identical int
}

// LetsEncrypt is the quota of Let's Encrypt
// (letsencrypt.org/docs/rate-limits). It holds for issuers with its production
// server for which Options have none.
var LetsEncrypt = Quota{PerDomain: 50, Orders: 300, Identical: 5}

const (
	week      = 7 * 24 * time.Hour
	threeHour = 3 * time.Hour
)

// quota is that of an issuer; ok is false when it has none.
func (o Options) quota(x *inventory.Issuer) (q Quota, ok bool) {
	for _, q := range o.Quotas {
		if q.Issuer == x.Ref.String() || q.Issuer == x.Ref.Kind+"/"+x.Ref.Name {
			return q, true
		}
	}
	return LetsEncrypt, strings.HasPrefix(x.Server, "https://acme-v02.api.letsencrypt.org/")
}

// issued is one certificate that was ordered.
type issued struct {
	server, account string
	names           []string
	at              time.Time
	renewal         bool // of the same names: exempt from PerDomain and Orders
}

// ledger is what was ordered in the last week, as far as the cluster still shows
// it: Orders go with their Certificates, and all but the newest of each are
// deleted by default (cert-manager's revisionHistoryLimit).
type ledger []issued

func (l *look) ledger() ledger {
	var out ledger
	ordered := map[inventory.Ref]bool{}
	add := func(issuer inventory.IssuerRef, names []string, at time.Time, renewal bool) {
		x := l.s.Issuer(issuer)
		if x == nil || len(names) == 0 || l.s.Taken.Sub(at) >= week {
			return
		}
		account := x.Authority
		if account == "" {
			account = x.Ref.String()
		}
		out = append(out, issued{x.Server, account, names, at, renewal})
	}
	for i := range l.s.Requests {
		r := &l.s.Requests[i]
		if r.Order == nil || r.State == "invalid" || r.State == "errored" {
			continue
		}
		if r.Order.Certificate != "" && !r.Order.Renewal {
			ordered[inventory.CertificateRef(r.Ref.Namespace, r.Order.Certificate)] = true
		}
		add(r.Order.Issuer, r.Order.DNS, r.Created, r.Order.Renewal)
	}
	for i := range l.s.Certificates {
		x := &l.s.Certificates[i]
		if y := l.s.Issuer(x.Issuer); y != nil && y.Type == inventory.ACME && x.Ready && !ordered[x.Ref] {
			add(x.Issuer, x.Names.DNS, x.Created, false)
		}
	}
	return out
}

// until is when one more certificate may be ordered, and which limit has it wait;
// zero when it may be now. A limit counts what matches.
func (b ledger) until(limit int, window time.Duration, now time.Time, matches func(*issued) bool) time.Time {
	if limit <= 0 {
		return time.Time{}
	}
	var times []time.Time
	for i := range b {
		if now.Sub(b[i].at) < window && matches(&b[i]) {
			times = append(times, b[i].at)
		}
	}
	if len(times) < limit {
		return time.Time{}
	}
	slices.SortFunc(times, time.Time.Compare)
	return times[len(times)-limit].Add(window)
}

// registered are the registered domains of names.
func registered(names []string) []string {
	var out []string
	for _, n := range names {
		if d, err := publicsuffix.EffectiveTLDPlusOne(strings.TrimPrefix(n, "*.")); err == nil {
			out = append(out, d)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// wait says why an order for names has to wait; no blockers when it need not.
func (b ledger) wait(x *inventory.Issuer, q Quota, names []string, now time.Time) []blocker {
	var out []blocker
	add := func(until time.Time, format string, a ...any) {
		if !until.IsZero() {
			out = append(out, blocker{until: until, why: fmt.Sprintf(format, a...) + ", and one more would be allowed from " + until.UTC().Format("2006-01-02 15:04 MST") + " on"})
		}
	}
	account := x.Authority
	if account == "" {
		account = x.Ref.String()
	}
	add(b.until(q.Orders, threeHour, now, func(i *issued) bool { return i.account == account && !i.renewal }),
		"%s has taken %d orders in 3 hours", x.Ref, q.Orders)
	for _, d := range registered(names) {
		add(b.until(q.PerDomain, week, now, func(i *issued) bool {
			return i.server == x.Server && !i.renewal && slices.Contains(registered(i.names), d)
		}), "%d certificates for %s were issued in 7 days", q.PerDomain, d)
	}
	add(b.until(q.Identical, week, now, func(i *issued) bool { return i.server == x.Server && slices.Equal(i.names, names) }),
		"%d certificates for just %s were issued in 7 days", q.Identical, strings.Join(names, ", "))
	return out
}

// Renewals gives for a Snapshot what says why a certificate must not be ordered
// again before its time; empty when it may be, which is then counted. The same names
// are ordered from an ACME server once in 7 days at most, unless its Quota has no
// limit at all. Other issuers are not held to anything.
func (o Options) Renewals(s *inventory.Snapshot) func(*inventory.Certificate) string {
	l := &look{o: o, s: s}
	var b ledger
	return func(c *inventory.Certificate) string {
		x := s.Issuer(c.Issuer)
		if x == nil || x.Type != inventory.ACME {
			return ""
		}
		q, ok := o.quota(x)
		if ok && q.Identical == 0 && q.Orders == 0 && q.PerDomain == 0 {
			return ""
		}
		if b == nil {
			b = append(l.ledger(), issued{}) // not nil
		}
		account := x.Authority
		if account == "" {
			account = x.Ref.String()
		}
		if until := c.NotBefore.Add(week); until.After(s.Taken) {
			return fmt.Sprintf("it was issued at %s, and the same names are ordered once in 7 days at most", c.NotBefore.UTC().Format("2006-01-02 15:04 MST"))
		}
		if until := b.until(1, week, s.Taken, func(i *issued) bool { return i.server == x.Server && slices.Equal(i.names, c.Names.DNS) }); !until.IsZero() {
			return "its names were ordered less than 7 days ago"
		}
		if until := b.until(q.Orders, threeHour, s.Taken, func(i *issued) bool { return i.account == account }); !until.IsZero() {
			return fmt.Sprintf("%s takes %d orders in 3 hours", x.Ref, q.Orders)
		}
		b = append(b, issued{x.Server, account, c.Names.DNS, s.Taken, true})
		return ""
	}
}

// count has groups wait that would burst a quota. Those that need not wait are
// counted for the ones after them.
func (l *look) count() {
	var b ledger
	for _, g := range l.groups {
		x := l.s.Issuer(g.issuer)
		if x == nil || x.Type != inventory.ACME || !g.heir.object.IsZero() {
			continue
		}
		q, ok := l.o.quota(x)
		if !ok {
			continue
		}
		if b == nil {
			b = append(l.ledger(), issued{}) // not nil
		}
		if wait := b.wait(x, q, g.wildcards, l.s.Taken); len(wait) > 0 {
			g.blockers = append(g.blockers, wait...)
			continue
		}
		account := x.Authority
		if account == "" {
			account = x.Ref.String()
		}
		b = append(b, issued{x.Server, account, g.wildcards, l.s.Taken, false})
	}
}
