package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/certherd/certherd/controller"
	"github.com/certherd/certherd/inventory"
	"github.com/certherd/certherd/inventory/dump"
	"github.com/certherd/certherd/report"
)

func TestTheExamplesAreWhatTheGeneratorWrites(t *testing.T) {
	for name, want := range files() {
		got, err := os.ReadFile(filepath.Join("..", name))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("examples/%s is not what the generator writes: go run ./examples/generate", name)
		}
	}
}

func audit(t *testing.T, path string, o dump.Options) (*inventory.Snapshot, report.Report) {
	t.Helper()
	s, problems, err := dump.Read([]string{filepath.Join("..", path)}, o)
	if err != nil || len(problems) > 0 {
		t.Fatal(err, problems)
	}
	r, _, err := controller.RunOnce(s, controller.Defaults())
	if err != nil {
		t.Fatal(err)
	}
	return s, r
}

// The mess is there to show every kind of finding.
func TestTheMessIsFound(t *testing.T) {
	s, r := audit(t, "knative-mess", dump.Options{})
	if len(s.Gaps) > 0 {
		t.Errorf("gaps %v", s.Gaps)
	}
	got := map[string]int{}
	for _, f := range r.Findings {
		got[fmt.Sprintf("%s %s", f.Reason, f.Verdict)]++
		t.Log(f.Reason, f.Verdict, f.Object, f.Message)
	}
	for what, n := range map[string]int{
		"MissingSecret used":           1,
		"OrphanedSecret unused":        3, // of the services that were deleted in shop
		"OrphanedSecret unknown":       1, // the broker's
		"SupersededCertificate unused": 4, // in payments
		"DuplicateCertificate used":    1, // portal-tls
		"ExpiredUnused unused":         1, // legacy-tls
		"DrainHazard used":             1,
		"Consolidatable used":          3, // shop, team-blue and platform
	} {
		if got[what] != n {
			t.Errorf("%d findings %s, want %d", got[what], what, n)
		}
	}
	// Nothing that is in use is called unused.
	for _, name := range []string{"metrics-tls", "edge-tls", "portal-tls", "portal-tls-2"} {
		if j := s.Judge(inventory.SecretRef("platform", name)); j.Verdict != inventory.Used {
			t.Errorf("%s is %s", name, j.Verdict)
		}
	}
	if j := s.Judge(inventory.SecretRef("platform", "broker-mtls")); j.Verdict != inventory.Unknown {
		t.Errorf("broker-mtls is %s", j.Verdict)
	}
}

func TestTheShimExample(t *testing.T) {
	s, _ := audit(t, "ingress-shim.yaml", dump.Options{})
	if !slices.ContainsFunc(s.Gaps, func(g inventory.Gap) bool { return g.Kind == "*" }) {
		t.Errorf("gaps %v, want one for whatever was not asked for", s.Gaps)
	}
	s, r := audit(t, "ingress-shim.yaml", dump.Options{Complete: true})
	if len(s.Gaps) > 0 {
		t.Errorf("gaps %v, want none of a complete dump", s.Gaps)
	}
	got := map[string]int{}
	for _, f := range r.Findings {
		t.Log(f.Reason, f.Verdict, f.Object, f.Message)
		got[fmt.Sprintf("%s %s", f.Reason, f.Verdict)]++
	}
	if got["OrphanedCertificate unused"] != 1 || got["NotConsolidatable used"] != 4 {
		t.Errorf("findings %v, want newsletter-tls as orphan, and 4 certificates that HTTP-01 keeps from a wildcard", got)
	}
	if len(s.Certificates) != 5 || len(s.Secrets) != 5 || len(s.Consumers) != 4 {
		t.Errorf("%d Certificates, %d Secrets, %d Ingresses", len(s.Certificates), len(s.Secrets), len(s.Consumers))
	}
}
