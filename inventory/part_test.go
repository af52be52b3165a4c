package inventory

import (
	"reflect"
	"slices"
	"testing"
	"time"
)

// watchable are things of the kinds whose changes a source can follow.
func (x thing) watchable() bool {
	return x.judged() || x.kind == "Gateway" || x.kind == "Ingress"
}

// TestTouches: a change concerns the namespaces of what an object names, too.
func TestTouches(t *testing.T) {
	from := Ref{Group: GroupGateway, Kind: "Gateway", Namespace: "infra", Name: "web"}
	s := New(time.Time{}, Objects{}, []Edge{{From: from, To: SecretRef("b", "x")}, {From: from, To: SecretRef("a", "x")}, {From: SecretRef("c", "y"), To: SecretRef("d", "x")}}, nil)
	if got := s.Touches(map[Ref]bool{from: true}); !slices.Equal(got, []string{"a", "b", "infra"}) {
		t.Errorf("a Gateway touches %v", got)
	}
	if got := s.Touches(map[Ref]bool{SecretRef("e", "x"): true}); !slices.Equal(got, []string{"e"}) {
		t.Errorf("a Secret touches %v", got)
	}
}

// TestNothingHasChanged: without changes, a namespace after them is as it was, and a
// Part has the verdicts of the whole.
func TestNothingHasChanged(t *testing.T) {
	eachWorld(t, func(_ generator, w []thing) {
		s := snapshotOf(t, w, everything)
		whole := judgements(s, w)
		for _, ns := range []string{"a", "b", "team-c"} {
			part := s.Part(ns)
			after, err := s.After(ns, nil)
			if err != nil || !reflect.DeepEqual(part, after) {
				t.Errorf("%s is not what it was: %v\n%s", ns, err, print(w))
			}
			for ref, j := range judgements(part, slices.DeleteFunc(slices.Clone(w), func(x thing) bool { return x.ref.Namespace != ns })) {
				if !reflect.DeepEqual(j, whole[ref]) {
					t.Errorf("%s is %v in its part, and %v in the whole\n%s", ref, j, whole[ref], print(w))
				}
			}
		}
	})
}

// TestChangesAreFollowed: what a namespace is after some objects of it have changed
// agrees with a look at the changed cluster, but for what only a look can know.
func TestChangesAreFollowed(t *testing.T) {
	gap := Gap{"*", "not looked at since"}
	compared, freed, used := 0, 0, 0
	eachWorld(t, func(g generator, w []thing) {
		s := snapshotOf(t, w, everything)
		now := slices.Clone(w)
		changes := map[Ref]Change{}
		for range 1 + g.IntN(6) {
			if i := g.IntN(len(now)); g.maybe(5) && now[i].watchable() {
				changes[now[i].ref] = Change{Ref: now[i].ref}
				now = slices.Delete(now, i, i+1)
				if len(now) == 0 {
					return
				}
				continue
			}
			x := g.thing()
			if !x.watchable() {
				continue
			}
			changes[x.ref] = Change{x.ref, x.doc}
			if i := slices.IndexFunc(now, func(y thing) bool { return y.ref == x.ref }); i >= 0 {
				now[i] = x
			} else {
				now = append(now, x)
			}
		}
		fresh := judgements(snapshotOf(t, now, everything, gap), now)
		for _, ns := range []string{"a", "b", "team-c"} {
			after, err := s.After(ns, changes, gap)
			if err != nil {
				t.Fatalf("%v\n%s", err, print(now))
			}
			for ref, want := range fresh {
				if ref.Namespace != ns {
					continue
				}
				if after.Judged(ref) == nil && (ref.Kind != "Secret" || !after.Exists(ref)) {
					t.Errorf("%s is missing\n%s", ref, print(now))
					continue
				}
				got := after.Judge(ref)
				compared++
				if got.Verdict == Unused {
					t.Errorf("%s is unused, although nobody has looked", ref)
				}
				before := s.Judge(ref)
				if _, changed := changes[ref]; changed || s.Judged(ref) == nil {
					continue // who names what is new, a look has to find out
				}
				if got.Verdict == Used {
					used++
				}
				if before.Verdict == Used && got.Verdict != Used {
					freed++
				}
				elsewhere := slices.ContainsFunc(want.Evidence, func(e Edge) bool { _, changed := changes[e.From]; return changed && e.From.Namespace != ns })
				if want.Verdict == Used && got.Verdict != Used && !elsewhere {
					t.Errorf("%s is %v after the changes, and a look says %v\n%s", ref, got, want, print(now))
				}
			}
			for ref := range judgements(s, w) {
				if _, there := fresh[ref]; !there && ref.Namespace == ns && after.Judged(ref) != nil {
					t.Errorf("%s is still there\n%s", ref, print(now))
				}
			}
		}
	})
	if !testing.Short() && (compared < 1000 || freed < 10 || used < 100) {
		t.Errorf("%d compared, of which %d were used and %d not any more: the test proves little", compared, used, freed)
	}
	t.Log(compared, used, freed)
}
