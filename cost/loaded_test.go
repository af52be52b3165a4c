package cost

import (
	"strings"
	"testing"
	"time"

	"github.com/certherd/certherd/inventory"
)

func TestFind(t *testing.T) {
	secret := func(name string, dns ...string) inventory.Secret {
		return inventory.Secret{Meta: inventory.Meta{Ref: inventory.SecretRef("a", name)}, Names: inventory.Names{DNS: dns}}
	}
	certificate := inventory.Certificate{Meta: inventory.Meta{Ref: inventory.CertificateRef("a", "renewed")}, Secret: inventory.SecretRef("a", "renewed"), Names: inventory.Names{DNS: []string{"renewed.test"}}}
	next := secret("next", "web.test")
	next.NextPrivateKey = true
	s := inventory.New(time.Unix(0, 0), inventory.Objects{
		Secrets: []inventory.Secret{
			secret("web", "web.test"), secret("copy", "web.test"), secret("left", "web.test"),
			secret("renewed"), secret("idle", "idle.test"), secret("by-hand", "hand.test", "www.hand.test"), secret("nameless"), next, secret("own"),
		},
		Certificates: []inventory.Certificate{certificate},
		Consumers: []inventory.Consumer{{Meta: inventory.Meta{Ref: inventory.Ref{Group: inventory.GroupKnativeNet, Kind: "Ingress", Namespace: "a", Name: "own"}},
			TLS: []inventory.TLS{{Hosts: []string{"own.test", "www.own.test"}, Secret: inventory.SecretRef("a", "own")}}}},
	}, nil, nil)
	serials := map[inventory.Ref]string{}
	for name, serial := range map[string]string{"web": "1", "copy": "1", "renewed": "22", "idle": "33"} {
		serials[inventory.SecretRef("a", name)] = serial
	}
	loads := Find(s, []Loaded{
		{Serial: "1", DNS: []string{"web.test"}, Copies: 2},
		{Serial: "21", DNS: []string{"renewed.test"}, Copies: 4}, // before its renewal
		{Serial: "44", DNS: []string{"hand.test", "www.hand.test"}, Copies: 1},
		{Serial: "88", DNS: []string{"*.own.test", "own.test"}, Copies: 2}, // by hand, without a word about its names
		{Serial: "55", DNS: []string{"gone.test"}, Copies: 2},
		{Serial: "66", Copies: 2}, // without a name it is nobody's
	}, serials)
	want := map[string]string{
		"web":     "loaded 2 times by the gateway, serial number 1",
		"copy":    "loaded 2 times by the gateway, serial number 1",
		"left":    "not loaded by the gateway", // what is loaded is known to be another one
		"renewed": "loaded 4 times by the gateway, but not its newest certificate: one for the same names",
		"idle":    "not loaded by the gateway",
		"own":     "loaded 2 times by the gateway, going by its names",
		"by-hand": "loaded once by the gateway, going by its names", "nameless": "not loaded by the gateway",
	}
	if len(loads.Secrets) != len(want) {
		t.Errorf("%d Secrets, want %d", len(loads.Secrets), len(want))
	}
	for name, says := range want {
		l, ok := loads.Of(inventory.SecretRef("a", name))
		if !ok || l.String() != says {
			t.Errorf("%s is %s, want %s", name, l, says)
		}
	}
	if loads.Certificates != 6 || loads.Copies != 13 {
		t.Errorf("%d certificates, %d copies", loads.Certificates, loads.Copies)
	}
	var strays []string
	for _, x := range loads.Strays {
		strays = append(strays, x.Serial)
	}
	if strings.Join(strays, " ") != "66 55" {
		t.Errorf("of no Secret are %v", strays)
	}
	if _, ok := loads.Of(inventory.SecretRef("b", "web")); ok {
		t.Error("a Secret that does not exist has an entry")
	}
	if _, ok := (*Loads)(nil).Of(inventory.SecretRef("a", "web")); ok {
		t.Error("there is an entry although nobody asked")
	}

	// What is loaded is never unused.
	web := inventory.SecretRef("a", "web")
	if v := s.Verdict(web); v != inventory.Unused {
		t.Fatalf("nothing names %s, and it is %s", web, v)
	}
	evident := s.With(loads.Evidence(s)...)
	for name, v := range map[string]inventory.Verdict{"web": inventory.Unknown, "copy": inventory.Unknown, "by-hand": inventory.Unknown, "left": inventory.Unused, "idle": inventory.Unused} {
		if got := evident.Verdict(inventory.SecretRef("a", name)); got != v {
			t.Errorf("%s is %s, want %s", name, got, v)
		}
	}
}
