package report_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/certherd/certherd/report"
)

// TestMerge: nothing gets lost between clusters, each thing says where it is, and a cluster
// that was not read is never one in which nothing was found.
func TestMerge(t *testing.T) {
	one := func(hour, n int) report.Report {
		r := report.Report{TakenAt: time.Date(2026, 11, 23, hour, 0, 0, 0, time.UTC)}
		r.Summary = report.Summary{Certificates: n, Secrets: 2 * n, Verdicts: map[string]int{"used": n}, Findings: map[string]int{"OrphanedSecret": 1}}
		r.Findings = []report.Finding{{Reason: "OrphanedSecret", Object: report.Ref{Kind: "Secret", Namespace: "team", Name: "same"}, Verdict: "unused", Message: "nobody needs it"}}
		r.Gaps = []report.Gap{{Kind: "secrets", Reason: "forbidden"}}
		return r
	}
	east, west := one(10, 3), one(9, 4)
	m := report.Merge(map[string]report.Report{"west": west, "east": east}, map[string]error{"gone": errors.New("connection refused")})
	if !slices.Equal(m.Clusters, []string{"east", "gone", "west"}) {
		t.Errorf("clusters %v", m.Clusters)
	}
	if !m.TakenAt.Equal(west.TakenAt) {
		t.Errorf("taken at %s, and the first look was at %s", m.TakenAt, west.TakenAt)
	}
	if s := m.Summary; s.Certificates != 7 || s.Secrets != 14 || s.Verdicts["used"] != 7 || s.Findings["OrphanedSecret"] != 2 {
		t.Errorf("summary %+v", s)
	}
	gaps := map[string]string{}
	for _, g := range m.Gaps {
		gaps[g.Cluster] = g.Kind + " " + g.Reason
	}
	if len(m.Gaps) != 3 || gaps["gone"] != report.EveryKind+" connection refused" || gaps["east"] != "secrets forbidden" {
		t.Errorf("gaps %v", gaps)
	}
	if len(east.Findings) != 1 || east.Findings[0].Cluster != "" {
		t.Error("what was merged has been changed")
	}
	for _, format := range report.Formats {
		var b bytes.Buffer
		if err := report.Write(&b, format, &m, report.Options{}); err != nil {
			t.Errorf("%s: %v", format, err)
			continue
		}
		text := b.String()
		for _, name := range []string{"east", "west"} {
			if format != "junit" && !strings.Contains(text, name) {
				t.Errorf("%s does not name the cluster %s:\n%s", format, name, text)
			}
		}
	}
	m.Normalize()
	b, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(b), `"cluster":"`); n != 5 {
		t.Errorf("%d things say in which cluster they are, want 2 findings and 3 gaps: %s", n, b)
	}
}
