package inventory

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/net/idna"
	"golang.org/x/net/publicsuffix"
)

// CanonicalName returns a DNS name in the form in which names are compared:
// lower case, without a trailing dot, IDN labels in their ASCII form (RFC 5891).
// A name that idna refuses keeps its spelling, so that it is equal only to
// itself.
func CanonicalName(name string) string {
	name = strings.ToLower(name)
	if !isASCII(name) {
		prefix, rest := "", name
		if r, ok := strings.CutPrefix(name, "*."); ok {
			prefix, rest = "*.", r
		}
		if a, err := idna.Lookup.ToASCII(rest); err == nil {
			name = prefix + a
		}
	}
	return strings.TrimSuffix(name, ".")
}

func isASCII(s string) bool {
	for i := range len(s) {
		if s[i] >= 0x80 {
			return false
		}
	}
	return true
}

// Covers reports whether a certificate's DNS name serves host. A wildcard
// stands for exactly one label, and only the whole leftmost one (RFC 9525,
// section 6.3): *.example.com covers a.example.com, but neither example.com,
// a.b.example.com nor *.a.example.com. A wildcard covers itself. A host that is
// an IP address is covered by no DNS name (RFC 9525, section 6.5).
func Covers(name, host string) bool {
	name, host = CanonicalName(name), CanonicalName(host)
	if name == "" || host == "" || isIP(host) {
		return false
	}
	if name == host {
		return true
	}
	rest, ok := strings.CutPrefix(name, "*.")
	if !ok || rest == "" || strings.Contains(rest, "*") {
		return false
	}
	label, parent, ok := strings.Cut(host, ".")
	return ok && label != "" && label != "*" && parent == rest
}

// CoversAll reports whether each of hosts is covered by one of names. It is
// false for no hosts: nothing is not covered by anything.
func CoversAll(names, hosts []string) bool {
	if len(hosts) == 0 {
		return false
	}
	for _, h := range hosts {
		if !slices.ContainsFunc(names, func(n string) bool { return Covers(n, h) }) {
			return false
		}
	}
	return true
}

// IsWildcard reports whether a DNS name is a wildcard.
func IsWildcard(name string) bool { return strings.HasPrefix(name, "*.") }

// WildcardFor returns the wildcard that covers host, or why there must be none:
// a certificate for everything below a public suffix (publicsuffix.org) would
// cover other people's names, and no public CA issues it.
func WildcardFor(host string) (wildcard, refusal string) {
	host = CanonicalName(host)
	if isIP(host) {
		return "", "an IP address has no wildcard"
	}
	label, parent, ok := strings.Cut(host, ".")
	if !ok {
		return "", "a name of one label has no parent domain"
	}
	if label != "*" && !isHostname(label) || !isHostname(parent) {
		return "", strconv.Quote(host) + " is no host name"
	}
	suffix, _ := publicsuffix.PublicSuffix(parent)
	if suffix == parent {
		return "", parent + " is a public suffix"
	}
	return "*." + parent, ""
}

func isIP(s string) bool {
	// Most are none, and an error takes memory: an IPv6 address has a colon, an
	// IPv4 address a digit at its end.
	if s == "" || !strings.Contains(s, ":") && (s[len(s)-1] < '0' || s[len(s)-1] > '9') {
		return false
	}
	_, err := netip.ParseAddr(s)
	return err == nil
}

// isHostname reports whether a canonical name is made of labels of letters,
// digits, dashes and underscores, none of them empty or longer than 63 (RFC
// 1035; the underscore for names that are no hosts strictly, and serve as such).
func isHostname(s string) bool {
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || len(label) > 63 {
			return false
		}
		for i := range len(label) {
			if c := label[i]; !alnum[c] && c != '-' && c != '_' {
				return false
			}
		}
	}
	return len(s) <= 253
}

// Names are the identities of a certificate: what its subject alternative
// names say, and its common name where that is a DNS name that they lack. Each
// list is canonical, sorted and without duplicates.
type Names struct {
	DNS    []string
	Others *OtherNames // nil where there are none, as in nearly all certificates
}

// OtherNames are identities that are no DNS names.
type OtherNames struct{ IPs, URIs, Emails []string }

// others are Others, never nil.
func (n Names) others() OtherNames {
	if n.Others == nil {
		return OtherNames{}
	}
	return *n.Others
}

// NewNames brings identities into canonical form.
func NewNames(commonName string, dns, ips, uris, emails []string) Names {
	all := make([]string, 0, len(dns)+1)
	for _, n := range dns {
		all = append(all, CanonicalName(n))
	}
	addresses := make([]string, 0, len(ips))
	for _, ip := range ips {
		if a, err := netip.ParseAddr(ip); err == nil {
			ip = a.Unmap().String()
		}
		addresses = append(addresses, ip)
	}
	if a, err := netip.ParseAddr(commonName); err == nil {
		addresses = append(addresses, a.Unmap().String())
	} else if commonName != "" && (strings.Contains(commonName, ".") || len(all) == 0) && !strings.ContainsAny(commonName, " /:@") {
		all = append(all, CanonicalName(commonName))
	}
	n := Names{DNS: sorted(all)}
	if o := (OtherNames{sorted(addresses), sorted(uris), sorted(emails)}); len(o.IPs)+len(o.URIs)+len(o.Emails) > 0 {
		n.Others = &o
	}
	return n
}

func sorted(list []string) []string {
	if len(list) == 0 {
		return nil
	}
	list = slices.Clone(list)
	slices.Sort(list)
	list = slices.Compact(list)
	if list[0] == "" {
		list = list[1:]
	}
	return slices.Clip(list)
}

// Compare orders sets of identities. It is 0 for equal ones.
func (n Names) Compare(o Names) int {
	if c := slices.Compare(n.DNS, o.DNS); c != 0 {
		return c
	}
	a, b := n.others(), o.others()
	if c := slices.Compare(a.IPs, b.IPs); c != 0 {
		return c
	}
	if c := slices.Compare(a.URIs, b.URIs); c != 0 {
		return c
	}
	return slices.Compare(a.Emails, b.Emails)
}

// OnlyDNS reports whether the identities are DNS names and nothing else.
func (n Names) OnlyDNS() bool {
	return len(n.DNS) > 0 && n.Others == nil
}

// Empty reports whether no identity is known.
func (n Names) Empty() bool {
	return len(n.DNS) == 0 && n.Others == nil
}
