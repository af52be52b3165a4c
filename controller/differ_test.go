package controller

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/certherd/certherd/inventory"
	"github.com/certherd/certherd/report"
)

// TestDiffer: what came, what went, what reads otherwise, and what is too young.
func TestDiffer(t *testing.T) {
	at := time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)
	secret := func(name string, age time.Duration) string {
		return fmt.Sprintf(`{"metadata":{"namespace":"a","name":%q,"uid":"uid-of-%s","creationTimestamp":%q,"labels":{"controller.cert-manager.io/fao":"true"},
			"annotations":{"cert-manager.io/certificate-name":%q,"cert-manager.io/alt-names":"%s.example.com"}},"type":"kubernetes.io/tls"}`,
			name, name, at.Add(-age).Format(time.RFC3339), name, name)
	}
	ingress := func(name, secret string) string {
		return fmt.Sprintf(`{"metadata":{"namespace":"a","name":%q,"uid":"uid-of-%s","creationTimestamp":"2026-01-01T00:00:00Z"},"spec":{"tls":[{"hosts":["x.example.com"],"secretName":%q}]}}`, name, name, secret)
	}
	c := inventory.NewCollector()
	for _, name := range []string{"left", "used"} {
		if _, err := c.Add("", "Secret", []byte(secret(name, 240*time.Hour))); err != nil {
			t.Fatal(err)
		}
	}
	c.Freeze()
	for _, name := range []string{"used", "missing"} {
		doc := []byte(ingress(name, name))
		if _, err := c.Add(inventory.GroupNetworking, "Ingress", doc); err != nil {
			t.Fatal(err)
		}
		if err := c.Scan(inventory.GroupNetworking, "Ingress", doc); err != nil {
			t.Fatal(err)
		}
	}
	s := c.Snapshot(at)
	gap := inventory.Gap{Kind: "*", Reason: "not looked at since"}
	ing := func(name string) inventory.Ref {
		return inventory.Ref{Group: inventory.GroupNetworking, Kind: "Ingress", Namespace: "a", Name: name}
	}
	o := Defaults()
	for _, tc := range []struct {
		name       string
		changes    []inventory.Change
		came, went []string
	}{
		{name: "nothing"},
		{"its user is gone", []inventory.Change{{Ref: ing("used")}}, []string{"OrphanedSecret used"}, []string{"UnrenewedSecret used"}},
		{"somebody uses it again", []inventory.Change{{Ref: ing("new"), Doc: []byte(ingress("new", "left"))}}, []string{"UnrenewedSecret left"}, []string{"OrphanedSecret left"}},
		{"it is gone", []inventory.Change{{Ref: inventory.SecretRef("a", "left")}}, nil, []string{"OrphanedSecret left"}},
		{"one more misses it", []inventory.Change{{Ref: ing("new"), Doc: []byte(ingress("new", "missing"))}}, []string{"MissingSecret missing"}, nil},
		{"a new one is left", []inventory.Change{{Ref: inventory.SecretRef("a", "new"), Doc: []byte(secret("new", time.Hour))}}, []string{"OrphanedSecret new"}, nil},
		{"a young one is left", []inventory.Change{{Ref: inventory.SecretRef("a", "new"), Doc: []byte(secret("new", time.Minute))}}, nil, nil},
	} {
		changes := map[inventory.Ref]inventory.Change{}
		for _, x := range tc.changes {
			changes[x.Ref] = x
		}
		after, err := s.After("a", changes, gap)
		if err != nil {
			t.Fatalf("%s: %v", tc.name, err)
		}
		d := Differ(s.Part("a", gap), after, o, at)
		names := func(list []report.Finding) (out []string) {
			for _, f := range list {
				out = append(out, f.Reason+" "+f.Object.Name)
				if f.Verdict == string(inventory.Unused) {
					t.Errorf("%s: %s is unused", tc.name, f.Object)
				}
			}
			return out
		}
		if came, went := names(d.Came), names(d.Went); !slices.Equal(came, tc.came) || !slices.Equal(went, tc.went) {
			t.Errorf("%s: came %q, want %q; went %q, want %q", tc.name, came, tc.came, went, tc.went)
		}
	}
}
