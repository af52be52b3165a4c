package plan_test

import (
	"testing"
	"time"

	"github.com/certherd/certherd/inventory"
	"github.com/certherd/certherd/plan"
)

func TestMarkOf(t *testing.T) {
	made := time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)
	const at, until = "2026-11-02T12:00:00Z", "2026-11-09T12:00:00Z"
	for name, tc := range map[string]struct {
		at, until string
		created   time.Time
		valid     bool
	}{
		"a mark":                          {at, until, made, true},
		"in the second it was made in":    {"2026-11-01T12:00:00Z", until, made.Add(300 * time.Millisecond), true},
		"none":                            {"", "", made, false},
		"no date of deletion":             {at, "", made, false},
		"no date of retirement":           {"", until, made, false},
		"no time":                         {"yesterday", until, made, false},
		"another format":                  {at, "2026-11-09", made, false},
		"deleted before it retires":       {at, "2026-11-02T11:59:59Z", made, false},
		"a Secret from a backup":          {at, until, made.AddDate(0, 1, 0), false},
		"another zone":                    {"2026-11-02T14:00:00+02:00", until, made, true},
		"a backup, seen in another zone":  {"2026-11-01T13:00:00+02:00", until, made, false},
		"no grace at all, but consistent": {at, at, made, true},
	} {
		m := inventory.Meta{Created: tc.created}
		for k, v := range map[string]string{plan.RetiredReason: "OrphanedSecret", plan.RetiredAt: tc.at, plan.DeleteAfter: tc.until} {
			if v != "" {
				m.Annotations = append(m.Annotations, inventory.Pair{Key: k, Value: v})
			}
		}
		mark, ok := plan.MarkOf(&m)
		if ok != tc.valid {
			t.Errorf("%s: valid %v, want %v", name, ok, tc.valid)
		}
		if ok && (mark.Reason != plan.OrphanedSecret || mark.DeleteAfter.Before(mark.RetiredAt)) {
			t.Errorf("%s: %+v", name, mark)
		}
		if !plan.Marked(&m) {
			t.Errorf("%s: its annotations are not seen", name)
		}
	}
	if plan.Marked(&inventory.Meta{}) {
		t.Error("a Secret without annotations is marked")
	}
}
