package controller

import (
	"slices"
	"time"

	"github.com/certherd/certherd/consolidate"
	"github.com/certherd/certherd/gc"
	"github.com/certherd/certherd/inventory"
	"github.com/certherd/certherd/plan"
	"github.com/certherd/certherd/report"
)

// Difference is what is found in a part of a cluster that was not before, or not so, and
// what is not any more.
type Difference struct{ Came, Went []report.Finding }

// Differ compares what is found in the same part of a cluster before and after some of
// its objects have changed (inventory's Part and After). What costs a gateway, or when
// things are renewed, is no business of a part, and left out; so is what comes and is
// younger at now than GC.MinAge, as others may be about to name it.
func Differ(before, after *inventory.Snapshot, o Options, now time.Time) Difference {
	type key struct {
		reason plan.Reason
		object inventory.Ref
	}
	type wording struct {
		key
		message string
	}
	find := func(s *inventory.Snapshot) []plan.Finding {
		p := plan.New(s, slices.Concat(gc.Checks(o.GC), consolidate.Checks(o.Consolidate)))
		o.narrow(s, &p)
		return p.Findings
	}
	of := func(f *plan.Finding) wording { return wording{key{f.Reason, f.Object}, f.Message} }
	young := func(ref inventory.Ref) bool {
		m := after.Judged(ref)
		if m == nil {
			x := after.Consumer(ref)
			if x == nil {
				return false
			}
			m = &x.Meta
		}
		return now.Sub(m.Created) < o.GC.MinAge
	}
	old, found := find(before), find(after)
	left, had, came := map[wording]int{}, map[key]bool{}, map[key]bool{}
	for i := range old {
		w := of(&old[i])
		left[w]++
		had[w.key] = true
	}
	var d Difference
	for i := range found {
		w := of(&found[i])
		if left[w] > 0 {
			left[w]--
			continue
		}
		if had[w.key] || !young(w.object) {
			came[w.key] = true
			d.Came = append(d.Came, reportFinding(&found[i], after, nil))
		}
	}
	for i := range old {
		w := of(&old[i])
		if left[w] > 0 && !came[w.key] {
			d.Went = append(d.Went, reportFinding(&old[i], before, nil))
		}
	}
	return d
}
