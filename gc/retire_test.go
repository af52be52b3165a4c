package gc_test

import (
	"strings"
	"testing"
	"time"

	"github.com/certherd/certherd/gc"
	"github.com/certherd/certherd/inventory"
	"github.com/certherd/certherd/plan"
)

var (
	made    = time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)
	retired = made.AddDate(0, 0, 1)
	due     = retired.AddDate(0, 0, 7)
)

// leftover is a Secret of cert-manager whose Certificate is gone.
func leftover(marked bool) inventory.Secret {
	x := inventory.Secret{
		Meta:    inventory.Meta{Ref: inventory.SecretRef("team", "web"), Created: made, Version: inventory.Version{UID: "u", ResourceVersion: "7"}},
		Managed: true, CertificateName: "web",
	}
	if marked {
		x.Annotations = []inventory.Pair{
			{Key: plan.DeleteAfter, Value: due.Format(time.RFC3339)},
			{Key: plan.RetiredAt, Value: retired.Format(time.RFC3339)},
			{Key: plan.RetiredReason, Value: string(plan.OrphanedSecret)},
		}
	}
	return x
}

func look(at time.Time, x inventory.Secret, edges []inventory.Edge, gaps ...inventory.Gap) map[plan.Reason]plan.Finding {
	return lookAt(at, inventory.Objects{Secrets: []inventory.Secret{x}}, edges, gaps...)
}

func lookAt(at time.Time, o inventory.Objects, edges []inventory.Edge, gaps ...inventory.Gap) map[plan.Reason]plan.Finding {
	found := map[plan.Reason]plan.Finding{}
	for _, f := range plan.New(inventory.New(at, o, edges, gaps), gc.Checks(gc.Options{MinAge: time.Minute})).Findings {
		found[f.Reason] = f
	}
	return found
}

func actions(f plan.Finding) string {
	var out []string
	for _, s := range f.Fix {
		out = append(out, string(s.Action))
	}
	return strings.Join(out, ",")
}

func TestARetiredSecretIsDeletedOnlyOnceItsGracePeriodHasEnded(t *testing.T) {
	for name, tc := range map[string]struct {
		at     time.Time
		marked bool
		steps  string
		says   string
	}{
		"not retired":      {due, false, "retire,delete", ""},
		"retired just now": {retired, true, "", "kept until 2026-11-09 12:00 UTC"},
		"a second early":   {due.Add(-time.Second), true, "", "kept until"},
		"when it is due":   {due, true, "delete", "not used since"},
		"long after":       {due.AddDate(1, 0, 0), true, "delete", "not used since"},
	} {
		f := look(tc.at, leftover(tc.marked), nil)[plan.OrphanedSecret]
		if actions(f) != tc.steps || !strings.Contains(f.Message, tc.says) {
			t.Errorf("%s: steps %q, want %q; %s", name, actions(f), tc.steps, f.Message)
		}
	}
}

func TestAMarkFromBeforeTheSecretCountsForNothing(t *testing.T) {
	x := leftover(true)
	x.Created = due // as from a backup
	if f := look(due.Add(time.Hour), x, nil)[plan.OrphanedSecret]; actions(f) != "retire,delete" {
		t.Errorf("steps %q: it is to be retired anew", actions(f))
	}
}

func TestARetiredSecretThatIsUsedAgainLosesItsMark(t *testing.T) {
	ref := inventory.SecretRef("team", "web")
	pod := inventory.Ref{Kind: "Pod", Namespace: "team", Name: "p"}
	for _, via := range []inventory.Evidence{inventory.Field, inventory.Mention, inventory.Label} {
		found := look(due, leftover(true), []inventory.Edge{{From: pod, To: ref, Field: "spec.x", Via: via}})
		if f := found[plan.RetiredInUse]; actions(f) != "unretire" || f.Fix[0].If.ResourceVersion != "7" {
			t.Errorf("%s: %+v", via, f)
		}
		for _, f := range found {
			if strings.Contains(actions(f), "delete") {
				t.Errorf("%s: %s would delete it", via, f.Reason)
			}
		}
	}
	// A Certificate that writes it again uses it, too.
	crt := inventory.Certificate{Meta: inventory.Meta{Ref: inventory.CertificateRef("team", "web"), Created: made}, Secret: ref}
	found := lookAt(due, inventory.Objects{Secrets: []inventory.Secret{leftover(true)}, Certificates: []inventory.Certificate{crt}}, nil)
	if f := found[plan.RetiredInUse]; actions(f) != "unretire" {
		t.Errorf("with a Certificate: %+v", f)
	}
	// That Certificate is unused itself. Its Secret begins anew, however old the mark.
	if f := found[plan.OrphanedCertificate]; actions(f) != "delete,retire,delete" {
		t.Errorf("the Certificate: %q", actions(f))
	}
}

func TestAGapNeitherDeletesNorUnretires(t *testing.T) {
	found := look(due, leftover(true), nil, inventory.Gap{Kind: "pod", Reason: "forbidden"})
	for _, f := range found {
		if len(f.Fix) > 0 {
			t.Errorf("%s: %q", f.Reason, actions(f))
		}
	}
}

func TestAnOptedOutSecretKeepsItsMarkAndIsLeftAlone(t *testing.T) {
	x := leftover(true)
	x.Ignore = true
	pod := inventory.Ref{Kind: "Pod", Namespace: "team", Name: "p"}
	for _, edges := range [][]inventory.Edge{nil, {{From: pod, To: x.Ref, Field: "f", Via: inventory.Field}}} {
		for _, f := range look(due, x, edges) {
			if len(f.Fix) > 0 {
				t.Errorf("%s: %q", f.Reason, actions(f))
			}
		}
	}
}
