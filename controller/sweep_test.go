package controller

import (
	"testing"

	"golang.org/x/tools/txtar"

	"github.com/certherd/certherd/gate"
	"github.com/certherd/certherd/inventory"
)

// TestSweepKeepsToTheBudget: what a consolidation has replaced goes in rounds, each
// within gc's budget and maxShare, and needs neither its mode nor an approval.
func TestSweepKeepsToTheBudget(t *testing.T) {
	a, err := txtar.ParseFile("testdata/superseded.txtar")
	if err != nil {
		t.Fatal(err)
	}
	old := []inventory.Ref{inventory.KnativeCertificateRef("team", "route-hello"), inventory.KnativeCertificateRef("team", "route-world"), inventory.KnativeCertificateRef("team", "route-late")}
	for _, f := range a.Files {
		if f.Name != "cluster.yaml" {
			continue
		}
		s := snapshotOf(t, f.Data)
		for _, tc := range []struct {
			what     string
			budget   gate.Budget
			maxShare float64
			stopped  string
			cleared  int
		}{
			{"what is still used stays", gate.Budget{Count: 100, Share: 1}, 1, "", 2},
			{"a budget of one", gate.Budget{Count: 1, Share: 1}, 1, "", 1},
			{"a small share", gate.Budget{Count: 100, Share: .1}, 1, "", 1},
			{"maxShare, which needs no person", gate.Budget{Count: 100, Share: 1}, .3, "", 1},
			{"a maxShare that lets nothing go", gate.Budget{Count: 100, Share: 1}, 0, "", 0},
			{"no budget", gate.Budget{}, 1, "", 0},
			{"all is stopped", gate.Budget{Count: 100, Share: 1}, 1, "look", 0},
		} {
			o := Defaults()
			o.Gate = gate.Policy{Terms: map[gate.Rule]gate.Terms{gate.GC: {Mode: gate.Audit, Budget: tc.budget}}, MaxShare: tc.maxShare, Stopped: tc.stopped}
			cleared, held, err := Sweep(s, o, old)
			if err != nil {
				t.Fatal(err)
			}
			if n := len(cleared.Changes()); n != tc.cleared || n+len(held) != 2 {
				t.Errorf("%s: %d cleared, want %d; held: %v", tc.what, n, tc.cleared, held)
			}
		}
	}
}
