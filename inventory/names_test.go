package inventory

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"golang.org/x/net/publicsuffix"
)

func TestCanonicalName(t *testing.T) {
	for in, want := range map[string]string{
		"":                                   "",
		"Web.Example.COM":                    "web.example.com",
		"web.example.com.":                   "web.example.com",
		"*.Example.com.":                     "*.example.com",
		"bücher.example":                     "xn--bcher-kva.example",
		"BÜCHER.example.":                    "xn--bcher-kva.example",
		"*.bücher.example":                   "*.xn--bcher-kva.example",
		"bücher。example。":                    "xn--bcher-kva.example",
		"xn--bcher-kva.example":              "xn--bcher-kva.example",
		"straße.example":                     "xn--strae-oqa.example",
		"not a name":                         "not a name",
		"über not a name":                    "über not a name",
		"svc.ns.svc.cluster.local":           "svc.ns.svc.cluster.local",
		"_acme-challenge.example.":           "_acme-challenge.example",
		strings.Repeat("A", 70) + ".example": strings.Repeat("a", 70) + ".example",
	} {
		if got := CanonicalName(in); got != want {
			t.Errorf("CanonicalName(%q) = %q, want %q", in, got, want)
		}
	}
}

func TestCovers(t *testing.T) {
	for _, tc := range []struct {
		name, host string
		want       bool
	}{
		{"a.example.com", "a.example.com", true},
		{"A.example.com", "a.EXAMPLE.com.", true},
		{"*.example.com", "a.example.com", true},
		{"*.example.com.", "A.example.com.", true},
		{"*.example.com", "example.com", false},
		{"*.example.com", "a.b.example.com", false},
		{"*.example.com", "*.example.com", true},
		{"*.example.com", "*.a.example.com", false},
		{"*.*.example.com", "a.b.example.com", false},
		{"*.*.example.com", "*.b.example.com", false},
		{"a.example.com", "*.example.com", false},
		{"*", "example", false},
		{"*", "*", true},
		{"*.", "a", false},
		{"w*.example.com", "web.example.com", false},
		{"*.bücher.example", "a.xn--bcher-kva.example", true},
		{"*.0.0.1", "10.0.0.1", false},
		{"10.0.0.1", "10.0.0.1", false},
		{"*.example.com", ".example.com", false},
		{"", "", false},
	} {
		if got := Covers(tc.name, tc.host); got != tc.want {
			t.Errorf("Covers(%q, %q) = %v, want %v", tc.name, tc.host, got, tc.want)
		}
	}
	if CoversAll([]string{"*.a"}, nil) {
		t.Error("no hosts are covered")
	}
	if !CoversAll([]string{"a.x.io", "*.x.io"}, []string{"a.x.io", "b.x.io"}) || CoversAll([]string{"*.x.io"}, []string{"b.x.io", "x.io"}) {
		t.Error("CoversAll is not all of Covers")
	}
}

func TestWildcardFor(t *testing.T) {
	for host, want := range map[string]string{
		"app.ns.example.com":                     "*.ns.example.com",
		"App.ns.example.com.":                    "*.ns.example.com",
		"*.ns.example.com":                       "*.ns.example.com",
		"app.bücher.example.com":                 "*.xn--bcher-kva.example.com",
		"app.ns.svc.cluster.local":               "*.ns.svc.cluster.local",
		"_sip.example.com":                       "*.example.com",
		"example.com":                            "",
		"*.com":                                  "",
		"app.github.io":                          "",
		"*.github.io":                            "",
		"example.co.uk":                          "",
		"a.b.ck":                                 "",
		"host":                                   "",
		"*":                                      "",
		"":                                       "",
		"10.0.0.1":                               "",
		"::1":                                    "",
		"a.*.example.com":                        "",
		"*.*.example.com":                        "",
		"a..example.com":                         "",
		".example.com":                           "",
		"a b.example.com":                        "",
		strings.Repeat("a", 64) + ".example.com": "",
	} {
		got, refusal := WildcardFor(host)
		if got != want || (want == "") == (refusal == "") {
			t.Errorf("WildcardFor(%q) = %q, %q; want %q", host, got, refusal, want)
		}
	}
}

// leafWith is a certificate as crypto/x509 knows one that has a name.
func leafWith(name string) *x509.Certificate {
	return &x509.Certificate{DNSNames: []string{name}}
}

// FuzzCovers compares with crypto/x509, which is stricter about what a host or a
// name is: it never takes "a wildcard" for a host, nor a host with a trailing
// dot for one without. So whatever it accepts, Covers accepts; and whatever Covers
// accepts, it accepts if both are plain hostnames.
func FuzzCovers(f *testing.F) {
	f.Add("*.example.com", "a.example.com")
	f.Add("*.example.com", "a.b.example.com")
	f.Add("A.example.com", "a.EXAMPLE.com")
	f.Add("*.example.com", "*.example.com")
	f.Add("*.0.0.1", "10.0.0.1")
	f.Add("*.bücher.example", "a.bücher.example")
	f.Add("a_b.example", "a_b.example")
	f.Add("example.com.", "example.com")
	f.Fuzz(func(t *testing.T, name, host string) {
		covers := Covers(name, host)
		if n, h := CanonicalName(name), CanonicalName(host); !strings.HasSuffix(n, ".") && !strings.HasSuffix(h, ".") && covers != Covers(n, h) {
			t.Errorf("Covers(%q, %q) = %v, and not so in canonical form", name, host, covers)
		}
		theirs := leafWith(name).VerifyHostname(host) == nil
		plain := isASCII(name) && isASCII(host)
		// x509 compares what is no hostname as it stands, but for letters' case:
		// "..", for example, or a name with a blank in it.
		if theirs && plain && !covers && isHostname(strings.TrimPrefix(CanonicalName(name), "*.")) {
			t.Errorf("x509 says that %q covers %q", name, host)
		}
		if covers && plain && isHostname(host) && !strings.Contains(host, "*") &&
			isHostname(strings.TrimPrefix(name, "*.")) && !strings.HasSuffix(name, ".") && !theirs {
			t.Errorf("x509 says that %q does not cover %q: %v", name, host, leafWith(name).VerifyHostname(host))
		}
	})
}

// FuzzWildcardFor: a wildcard covers its host, and is never right below a
// public suffix.
func FuzzWildcardFor(f *testing.F) {
	for _, h := range []string{"app.ns.example.com", "*.com", "a.co.uk", "a.b.ck", "www.ck", "x.github.io", "10.0.0.1", "a.*.com", "bücher.example", "a.。com", "::1"} {
		f.Add(h)
	}
	f.Fuzz(func(t *testing.T, host string) {
		w, refusal := WildcardFor(host)
		if (w == "") == (refusal == "") {
			t.Fatalf("WildcardFor(%q) = %q, %q", host, w, refusal)
		}
		if w == "" {
			return
		}
		parent, ok := strings.CutPrefix(w, "*.")
		if !ok || strings.Contains(parent, "*") {
			t.Errorf("WildcardFor(%q) = %q is no wildcard", host, w)
		}
		if suffix, _ := publicsuffix.PublicSuffix(parent); suffix == parent {
			t.Errorf("WildcardFor(%q) = %q: %s is a public suffix", host, w, parent)
		}
		if !Covers(w, host) {
			t.Errorf("%q does not cover %q, from which it is", w, host)
		}
		if w != CanonicalName(w) {
			t.Errorf("WildcardFor(%q) = %q is not canonical", host, w)
		}
	})
}

func FuzzCanonicalName(f *testing.F) {
	for _, n := range []string{"Web.Example.", "bücher.example。", "*.ß.example", "İ.example", "a..", "\xff.example"} {
		f.Add(n)
	}
	f.Fuzz(func(t *testing.T, name string) {
		once := CanonicalName(name)
		// One trailing dot stands for the root; more are no name.
		if twice := CanonicalName(once); twice != once && !strings.HasSuffix(once, ".") {
			t.Errorf("CanonicalName(%q) = %q, and of that %q", name, once, twice)
		}
	})
}

func TestNewNames(t *testing.T) {
	for what, tc := range map[string]struct {
		cn   string
		dns  []string
		ips  []string
		want Names
	}{
		"the common name is among the names": {"Web.example.com", []string{"b.example.com", "web.example.com."}, nil, Names{DNS: []string{"b.example.com", "web.example.com"}}},
		"the common name is one more":        {"web.example.com", []string{"b.example.com"}, nil, Names{DNS: []string{"b.example.com", "web.example.com"}}},
		"a common name alone":                {"web.example.com", nil, nil, Names{DNS: []string{"web.example.com"}}},
		"a common name of one label alone":   {"localhost", nil, nil, Names{DNS: []string{"localhost"}}},
		"a common name that is a title":      {"Example Root CA", []string{"a.b"}, nil, Names{DNS: []string{"a.b"}}},
		"a common name beside names":         {"internal-ca", []string{"a.b"}, nil, Names{DNS: []string{"a.b"}}},
		"a long common name":                 {strings.Repeat("a", 60) + ".example.com", nil, nil, Names{DNS: []string{strings.Repeat("a", 60) + ".example.com"}}},
		"an address as common name":          {"10.0.0.1", nil, nil, Names{Others: &OtherNames{IPs: []string{"10.0.0.1"}}}},
		"addresses in several spellings":     {"", nil, []string{"::ffff:10.0.0.1", "10.0.0.1", "0:0:0:0:0:0:0:1", "::1"}, Names{Others: &OtherNames{IPs: []string{"10.0.0.1", "::1"}}}},
		"nothing":                            {"", nil, nil, Names{}},
		"empty names":                        {"", []string{"", "."}, []string{""}, Names{}},
	} {
		got := NewNames(tc.cn, tc.dns, tc.ips, nil, nil)
		if !slices.Equal(got.DNS, tc.want.DNS) || got.Compare(tc.want) != 0 {
			t.Errorf("%s: %+v, want %+v", what, got, tc.want)
		}
	}
	one := NewNames("", nil, nil, []string{"spiffe://a,b"}, nil)
	two := NewNames("", nil, nil, []string{"b", "spiffe://a"}, nil)
	if one.Compare(two) == 0 {
		t.Error("a URI with a comma has the key of two URIs")
	}
	if !NewNames("a.b", nil, nil, nil, nil).OnlyDNS() || NewNames("a.b", nil, []string{"::1"}, nil, nil).OnlyDNS() || !(Names{}).Empty() {
		t.Error("OnlyDNS or Empty is wrong")
	}
}

// TestSecretOfEveryKindOfCertificate: the names come from the certificate
// itself where it was read, and from cert-manager's annotations otherwise.
func TestSecretOfEveryKindOfCertificate(t *testing.T) {
	tmpl := &x509.Certificate{
		Subject:     pkix.Name{CommonName: "Web.example.com"},
		DNSNames:    []string{"a.example.com", "*.B.example.com"},
		IPAddresses: []net.IP{netip.MustParseAddr("10.0.0.1").AsSlice()},
	}
	chain := selfSigned(t, tmpl)
	if crt := leaf(append([]byte("text before\n"), chain...)); crt == nil {
		t.Fatal("a certificate behind text is not found")
	} else if crt.Subject.CommonName != "Web.example.com" {
		t.Errorf("common name %q", crt.Subject.CommonName)
	}
	for what, b := range map[string][]byte{
		"nothing": nil,
		"no PEM":  []byte("x"),
		"a key":   pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: []byte{1}}),
		"garbage": pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte{1}}),
		"cut PEM": chain[:len(chain)/2],
	} {
		if leaf(b) != nil {
			t.Errorf("%s is taken for a certificate", what)
		}
	}
}
