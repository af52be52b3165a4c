package cost

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/certherd/certherd/inventory"
)

// Loaded is a certificate that an Envoy has loaded, as its page /certs tells
// (docs/root/operations/admin.rst there, GET /certs).
type Loaded struct {
	// Serial is its serial number in lower-case hexadecimal digits without leading
	// zeros.
	Serial string
	// DNS are its subject alternative names, canonical and sorted.
	DNS      []string
	NotAfter time.Time
	// Copies is how often it is loaded. Kourier has each in two listeners, and those
	// that drain count, too.
	Copies int
}

// Match is how a loaded certificate was found to be that of a Secret.
type Match string

// The Matches.
const (
	// BySerial: it is the newest certificate that was issued for the Secret.
	BySerial Match = "serial"
	// ByNames: it is for the same names, or where these are not known for the hosts that
	// the Secret is served for, and no other Secret's newest certificate. An older
	// certificate of the Secret is such a one, and so is every other for these names.
	ByNames Match = "names"
)

// Load is how often the certificate of a Secret is loaded, 0 for never.
type Load struct {
	Secret inventory.Ref
	Copies int
	By     Match // empty if it is not loaded
	// Serial is the serial number that the Secret should have, empty where nothing
	// tells it.
	Serial string
}

// Loads is what gateways have loaded, Secret by Secret.
type Loads struct {
	// Secrets has an entry for each Secret with a certificate, sorted.
	Secrets []Load
	// Strays are loaded, and of no Secret that is known; sorted by their names.
	Strays []Loaded
	// Certificates and Copies count everything that is loaded.
	Certificates, Copies int
}

// Find tells which Secrets the loaded certificates come from. serials are the serial
// numbers of the certificates that were issued last, by Secret.
func Find(s *inventory.Snapshot, loaded []Loaded, serials map[inventory.Ref]string) *Loads {
	out := &Loads{}
	bySerial := map[string]int{}
	for _, l := range loaded {
		bySerial[l.Serial] += l.Copies
		out.Copies += l.Copies
	}
	out.Certificates = len(bySerial)
	explained := map[string]bool{}
	for i := range s.Secrets {
		x := &s.Secrets[i]
		if x.NextPrivateKey {
			continue
		}
		l := Load{Secret: x.Ref, Serial: serials[x.Ref]}
		if n := bySerial[l.Serial]; l.Serial != "" && n > 0 {
			l.Copies, l.By = n, BySerial
			explained[l.Serial] = true
		}
		out.Secrets = append(out.Secrets, l)
	}
	// Of what is left, those that are for what a Secret is for.
	byNames := map[string][]int{}
	var rest []Loaded
	at := map[string]int{}
	for _, l := range loaded {
		if explained[l.Serial] {
			continue
		}
		if i, ok := at[l.Serial]; ok {
			rest[i].Copies += l.Copies
			continue
		}
		at[l.Serial] = len(rest)
		names := strings.Join(l.DNS, " ")
		byNames[names] = append(byNames[names], len(rest))
		rest = append(rest, l)
	}
	for i := range out.Secrets {
		l := &out.Secrets[i]
		if l.By != "" {
			continue
		}
		var like []int
		if names := namesOf(s, l.Secret); len(names) > 0 {
			like = byNames[strings.Join(names, " ")]
		} else if hosts := hostsOf(s, l.Secret); len(hosts) > 0 {
			for j := range rest {
				if inventory.CoversAll(rest[j].DNS, hosts) {
					like = append(like, j)
				}
			}
		}
		for _, j := range like {
			l.Copies, l.By = l.Copies+rest[j].Copies, ByNames
			explained[rest[j].Serial] = true
		}
	}
	for _, l := range rest {
		if !explained[l.Serial] {
			out.Strays = append(out.Strays, l)
		}
	}
	slices.SortFunc(out.Strays, func(a, b Loaded) int {
		if c := slices.Compare(a.DNS, b.DNS); c != 0 {
			return c
		}
		return strings.Compare(a.Serial, b.Serial)
	})
	return out
}

// namesOf are the DNS names of a Secret's certificate, as its own metadata has
// them, or else what renews it; none where nothing does.
func namesOf(s *inventory.Snapshot, secret inventory.Ref) []string {
	names := s.Secret(secret).Names.DNS
	for w := range s.EachWriter(secret) {
		if x := s.Certificate(w); len(names) == 0 && x != nil {
			names = x.Names.DNS
		}
	}
	return names
}

// hostsOf are the hosts that a Secret is served for, for which its certificate ought to
// be good.
func hostsOf(s *inventory.Snapshot, secret inventory.Ref) (hosts []string) {
	for _, x := range s.Servers(secret) {
		for _, t := range x.TLS {
			if t.Secret == secret {
				hosts = append(hosts, t.Hosts...)
			}
		}
	}
	return hosts
}

// Of is the entry of a Secret; ok is false if there is none.
func (l *Loads) Of(secret inventory.Ref) (load Load, ok bool) {
	if l == nil {
		return Load{}, false
	}
	i, ok := slices.BinarySearchFunc(l.Secrets, secret, func(x Load, ref inventory.Ref) int { return x.Secret.Compare(ref) })
	if !ok {
		return Load{}, false
	}
	return l.Secrets[i], true
}

// String says it in words.
func (l Load) String() string {
	times := fmt.Sprintf("loaded %d times by the gateway", l.Copies)
	switch {
	case l.Copies == 0:
		return "not loaded by the gateway"
	case l.Copies == 1:
		times = "loaded once by the gateway"
	}
	switch {
	case l.By == BySerial:
		return times + ", serial number " + l.Serial
	case l.Serial != "":
		return times + ", but not its newest certificate: one for the same names"
	}
	return times + ", going by its names"
}

// Evidence are edges from gateways to what they have loaded and nothing else is known
// to use: with them, none of it is unused.
func (l *Loads) Evidence(s *inventory.Snapshot) []inventory.Edge {
	from := inventory.Ref{Kind: "Envoy", Name: "gateway"}
	for i := range s.Workloads {
		if w := &s.Workloads[i]; w.Controller != "" {
			from = w.Ref
		}
	}
	var out []inventory.Edge
	for _, x := range l.Secrets {
		if x.Copies > 0 && s.Verdict(x.Secret) == inventory.Unused {
			out = append(out, inventory.Edge{From: from, To: x.Secret, Field: "/certs", Via: inventory.Mention})
		}
	}
	return out
}
