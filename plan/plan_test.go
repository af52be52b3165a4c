package plan_test

import (
	"strings"
	"testing"
	"time"

	"github.com/certherd/certherd/inventory"
	"github.com/certherd/certherd/plan"
)

// world: Ingress team/web serves web.example.test with Secret web, which
// Certificate web renews; Secret wild holds *.example.test, and Secret other
// something else. Certificate spare writes a Secret that is not there.
func world() *inventory.Snapshot {
	secret := func(name string, dns ...string) inventory.Secret {
		return inventory.Secret{Meta: inventory.Meta{Ref: inventory.SecretRef("team", name)}, Names: inventory.Names{DNS: dns}, Managed: true}
	}
	ingress := inventory.Ref{Group: inventory.GroupNetworking, Kind: "Ingress", Namespace: "team", Name: "web"}
	return inventory.New(time.Unix(0, 0), inventory.Objects{
		Secrets: []inventory.Secret{secret("web", "web.example.test"), secret("wild", "*.example.test"), secret("other", "other.test"), secret("free", "free.test")},
		Certificates: []inventory.Certificate{
			{Meta: inventory.Meta{Ref: inventory.CertificateRef("team", "web")}, Secret: inventory.SecretRef("team", "web"), Names: inventory.Names{DNS: []string{"web.example.test"}}},
			{Meta: inventory.Meta{Ref: inventory.CertificateRef("team", "spare")}, Secret: inventory.SecretRef("team", "spare"), Names: inventory.Names{DNS: []string{"*.example.test"}}},
		},
		Consumers: []inventory.Consumer{{Meta: inventory.Meta{Ref: ingress}, TLS: []inventory.TLS{{Hosts: []string{"web.example.test"}, Secret: inventory.SecretRef("team", "web"), Field: "spec.tls[].secretName"}}}},
	}, []inventory.Edge{{From: ingress, To: inventory.SecretRef("team", "web"), Field: "spec.tls[].secretName", Via: inventory.Field}}, nil)
}

func TestVerify(t *testing.T) {
	ingress := inventory.Ref{Group: inventory.GroupNetworking, Kind: "Ingress", Namespace: "team", Name: "web"}
	web, wild, other := inventory.SecretRef("team", "web"), inventory.SecretRef("team", "wild"), inventory.SecretRef("team", "other")
	crt, heir := inventory.CertificateRef("team", "web"), inventory.CertificateRef("team", "heir")
	heirSecret := inventory.SecretRef("team", "heir")
	spare, spareSecret := inventory.CertificateRef("team", "spare"), inventory.SecretRef("team", "spare")
	toWild := plan.Step{Action: plan.Switch, Object: ingress, Move: &plan.Move{From: web, To: wild}}
	for name, tc := range map[string]struct {
		steps []plan.Step
		want  string // part of the error, empty for none
	}{
		"switch to a wildcard, then take the old one away": {[]plan.Step{
			toWild, {Action: plan.Delete, Object: crt}, {Action: plan.Retire, Object: web}, {Action: plan.Delete, Object: web}}, ""},
		"delete a Secret that is named":           {[]plan.Step{{Action: plan.Delete, Object: crt}, {Action: plan.Delete, Object: web}}, "which nobody would renew"},
		"retire a Secret that is named":           {[]plan.Step{{Action: plan.Retire, Object: web}}, "would write it again"},
		"delete the Certificate of what is named": {[]plan.Step{{Action: plan.Delete, Object: crt}}, "which nobody would renew"},
		"delete first, switch later":              {[]plan.Step{{Action: plan.Delete, Object: crt}, toWild}, "which nobody would renew"},
		"switch to what does not cover the host":  {[]plan.Step{{Action: plan.Switch, Object: ingress, Move: &plan.Move{From: web, To: other}}}, "does not cover web.example.test"},
		"switch to what is not there":             {[]plan.Step{{Action: plan.Switch, Object: ingress, Move: &plan.Move{From: web, To: heirSecret}}}, "is not there yet"},
		"switch before the heir is awaited": {[]plan.Step{
			{Action: plan.Issue, Object: heir, Move: &plan.Move{To: heirSecret, Hosts: []string{"*.example.test"}}},
			{Action: plan.Switch, Object: ingress, Move: &plan.Move{From: web, To: heirSecret}}}, "is not there yet"},
		"issue, await, switch": {[]plan.Step{
			{Action: plan.Issue, Object: heir, Move: &plan.Move{To: heirSecret, Hosts: []string{"*.example.test"}}},
			{Action: plan.Await, Object: heir, Move: &plan.Move{To: heirSecret}},
			{Action: plan.Switch, Object: ingress, Move: &plan.Move{From: web, To: heirSecret}}}, ""},
		"switch to what a Certificate that is there writes, while Secrets could not be read": {[]plan.Step{
			{Action: plan.Await, Object: spare, Move: &plan.Move{To: spareSecret}},
			{Action: plan.Switch, Object: ingress, Move: &plan.Move{From: web, To: spareSecret}}}, ""},
		"await one Certificate, switch to the Secret of another": {[]plan.Step{
			{Action: plan.Await, Object: crt, Move: &plan.Move{To: spareSecret}},
			{Action: plan.Switch, Object: ingress, Move: &plan.Move{From: web, To: spareSecret}}}, "is not there yet"},
		"issue into a Secret that somebody renews": {[]plan.Step{{Action: plan.Issue, Object: heir, Move: &plan.Move{To: web}}}, "written by somebody else"},
		"delete a Secret that nobody names":        {[]plan.Step{{Action: plan.Delete, Object: inventory.SecretRef("team", "free")}}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			err := plan.Plan{Changes: []plan.Change{{Why: &plan.Finding{}, ID: "x", Steps: tc.steps}}}.Verify(world())
			switch {
			case tc.want == "" && err != nil:
				t.Errorf("refused: %v", err)
			case tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)):
				t.Errorf("got %v, want an error with %q", err, tc.want)
			}
		})
	}
}

func TestDigestNamesTheState(t *testing.T) {
	make := func(v string) plan.Plan {
		return plan.Plan{Changes: []plan.Change{{ID: "x", Steps: []plan.Step{{Action: plan.Delete, Object: inventory.SecretRef("a", "b"), If: inventory.Version{UID: "u", ResourceVersion: v}}}}}}
	}
	one, again := make("1"), make("1")
	if one.Digest() != again.Digest() {
		t.Error("the same plan has two digests")
	}
	if make("1").Digest() == make("2").Digest() {
		t.Error("another state has the same digest")
	}
}

func TestUndocumentedChecksAreRefused(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("a check without Doc was run")
		}
	}()
	plan.New(world(), []plan.Check{{Reason: "X", Run: func(*inventory.Snapshot) []plan.Finding { return nil }}})
}
