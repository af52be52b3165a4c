package inventory

import (
	"hash/maphash"
	"math/bits"
)

// index finds where in a sorted list of a Snapshot the entries of a Ref begin.
// It is a hash table of positions alone, which takes 8 to 16 bytes for each Ref:
// a map of Refs would take as much memory as a third of the records.
type index struct {
	slots []int32 // 1 + a position, 0 where there is none; a power of two of them, at least half of them empty
}

// refAt tells the Ref of an entry of the list that an index is of.
type refAt func(s *Snapshot, i int) Ref

// seed is one for the whole program, so that the same list has the same index.
var seed = maphash.MakeSeed()

// newIndex makes an index of a list of n entries, in which equal Refs stand side
// by side.
func newIndex(s *Snapshot, n int, at refAt) index {
	x := index{slots: make([]int32, 1<<bits.Len(uint(2*n)))}
	for i := range n {
		ref := at(s, i)
		if i > 0 && ref == at(s, i-1) {
			continue
		}
		slot := x.slot(ref)
		for x.slots[slot] != 0 {
			slot = x.after(slot)
		}
		x.slots[slot] = int32(i + 1)
	}
	return x
}

// first returns the position of the first entry of a Ref; ok is false when
// there is none. at is that of newIndex.
func (x index) first(s *Snapshot, ref Ref, at refAt) (position int, ok bool) {
	if len(x.slots) == 0 {
		return 0, false
	}
	for slot := x.slot(ref); x.slots[slot] != 0; slot = x.after(slot) {
		if i := int(x.slots[slot] - 1); at(s, i) == ref {
			return i, true
		}
	}
	return 0, false
}

// slot is where to look first. Group and kind are nearly always those of the
// whole list.
func (x index) slot(ref Ref) int {
	h := maphash.String(seed, ref.Name) + 31*maphash.String(seed, ref.Namespace)
	return int(h) & (len(x.slots) - 1)
}

func (x index) after(slot int) int { return (slot + 1) & (len(x.slots) - 1) }
