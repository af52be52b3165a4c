package controller

import (
	"bytes"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/tools/txtar"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/certherd/certherd/inventory"
	"github.com/certherd/certherd/report"
)

// An Audit writes what RunOnce and report.Write do, byte for byte, for each
// scenario as a whole and narrowed, and for a cluster of many reasons.
func TestAuditWritesTheSame(t *testing.T) {
	snapshots := map[string]*inventory.Snapshot{"large": large(900)}
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatal("no scenarios", err)
	}
	for _, file := range files {
		a, err := txtar.ParseFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range a.Files {
			if f.Name == "cluster.yaml" {
				snapshots[strings.TrimSuffix(filepath.Base(file), ".txtar")] = snapshotOf(t, f.Data)
			}
		}
	}
	plain := Defaults()
	plain.GC.MinAge, plain.GC.RequestAge = 0, time.Hour
	narrow, selected := Defaults(), Defaults()
	narrow.Namespaces = []string{"team-001", "team-a", "shop", "default"}
	var errSelector error
	if selected.Selector, errSelector = labels.Parse("!nobody-has-this"); errSelector != nil {
		t.Fatal(errSelector)
	}
	found := 0
	for name, s := range snapshots {
		for what, o := range map[string]Options{"defaults": Defaults(), "of any age": plain, "one namespace": narrow, "selected": selected} {
			r, _, err := RunOnce(s, o)
			if err != nil {
				t.Fatal(err)
			}
			var want, got bytes.Buffer
			if err := report.Write(&want, "json", &r, report.Options{}); err != nil {
				t.Fatal(err)
			}
			a, err := NewAudit(s, o)
			if err != nil {
				t.Fatal(err)
			}
			if err := report.WriteJSON(&got, &a.Report, a.Findings(), a.Changes()); err != nil {
				t.Fatal(err)
			}
			found += len(r.Findings) + len(r.Changes)
			if !bytes.Equal(got.Bytes(), want.Bytes()) {
				t.Errorf("%s, %s: the two differ:\n%s", name, what, firstDifference(got.String(), want.String()))
			}
		}
	}
	if found == 0 {
		t.Error("nothing was found anywhere, so that nothing was compared")
	}
}

func firstDifference(got, want string) string {
	g, w := strings.Split(got, "\n"), strings.Split(want, "\n")
	for i := range min(len(g), len(w)) {
		if g[i] != w[i] {
			return "got  " + g[i] + "\nwant " + w[i]
		}
	}
	return "one is longer"
}
