package inventory

import (
	"hash/maphash"
	"math/bits"
)

// index finds where in a sorted list the entries of a Ref begin. It is a hash
// table of positions alone, which takes 8 to 16 bytes for each Ref: a map of
// Refs would take as much memory as a third of the records.
type index struct {
	slots []int32 // 1 + a position, 0 where there is none; a power of two of them, at least half of them empty
}

// seed is one for the whole program, so that the same list has the same index.
var seed = maphash.MakeSeed()

// newIndex makes an index of a list of n entries in which equal Refs stand side
// by side. at tells the Ref of an entry.
func newIndex(n int, at func(int) Ref) index {
	x := index{slots: make([]int32, 1<<bits.Len(uint(2*n)))}
	for i := range n {
		if i > 0 && at(i) == at(i-1) {
			continue
		}
		slot := x.slot(at(i))
		for x.slots[slot] != 0 {
			slot = x.after(slot)
		}
		x.slots[slot] = int32(i + 1)
	}
	return x
}

// first returns the position of the first entry of a Ref; ok is false when
// there is none. at is that of newIndex.
func (x index) first(ref Ref, at func(int) Ref) (position int, ok bool) {
	if len(x.slots) == 0 {
		return 0, false
	}
	for slot := x.slot(ref); x.slots[slot] != 0; slot = x.after(slot) {
		if i := int(x.slots[slot] - 1); at(i) == ref {
			return i, true
		}
	}
	return 0, false
}

func (x index) slot(ref Ref) int {
	return int(maphash.Comparable(seed, ref)) & (len(x.slots) - 1)
}

func (x index) after(slot int) int { return (slot + 1) & (len(x.slots) - 1) }
