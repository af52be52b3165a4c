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
	find := func(s *inventory.Snapshot) []plan.Finding {
		p := plan.New(s, slices.Concat(gc.Checks(o.GC), consolidate.Checks(o.Consolidate)))
		o.narrow(s, &p)
		return p.Findings
	}
	old, left := find(before), map[key][]int{}
	for i := range old {
		k := key{old[i].Reason, old[i].Object}
		left[k] = append(left[k], i)
	}
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
	var d Difference
	found := find(after)
	for i := range found {
		f := &found[i]
		k := key{f.Reason, f.Object}
		list := left[k]
		same := slices.IndexFunc(list, func(n int) bool { return old[n].Message == f.Message })
		switch {
		case same >= 0:
			left[k] = slices.Delete(slices.Clone(list), same, same+1)
		case len(list) > 0: // it is another now, and did not go
			left[k] = list[1:]
			d.Came = append(d.Came, reportFinding(f, after, nil))
		case !young(f.Object):
			d.Came = append(d.Came, reportFinding(f, after, nil))
		}
	}
	for i := range old {
		if k := (key{old[i].Reason, old[i].Object}); slices.Contains(left[k], i) {
			d.Went = append(d.Went, reportFinding(&old[i], before, nil))
		}
	}
	return d
}
