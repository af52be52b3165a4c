package inventory

import (
	"hash/maphash"
	"math/bits"
)

// index finds where in a sorted list of a Snapshot the entries of a Ref begin.
// It is a hash table of positions, which takes 16 to 32 bytes for each Ref: a map
// of Refs would take as much memory as a third of the records.
type index struct {
	slots []slot // a power of two of them, at least half of them empty
}

// slot is empty or has the position of an entry and a part of its hash, which
// spares looking at most of those that are not meant.
type slot struct {
	hash  uint32
	entry int32 // 1 + position, 0 where there is none
}

// refAt tells the Ref of an entry of the list that an index is of.
type refAt func(s *Snapshot, i int) Ref

// seed is one for the whole program, so that the same list has the same index.
var seed = maphash.MakeSeed()

// newIndex makes an index of a list of n entries, in which equal Refs stand side
// by side.
func newIndex(s *Snapshot, n int, at refAt) index {
	x := index{slots: make([]slot, 1<<bits.Len(uint(2*n)))}
	for i := range n {
		ref := at(s, i)
		if i > 0 && ref == at(s, i-1) {
			continue
		}
		h := hash(ref)
		n := x.begin(h)
		for x.slots[n].entry != 0 {
			n = x.after(n)
		}
		x.slots[n] = slot{uint32(h), int32(i + 1)}
	}
	return x
}

// first returns the position of the first entry of a Ref; ok is false when
// there is none. at is that of newIndex.
func (x index) first(s *Snapshot, ref Ref, at refAt) (position int, ok bool) {
	if len(x.slots) == 0 {
		return 0, false
	}
	h := hash(ref)
	for n := x.begin(h); x.slots[n].entry != 0; n = x.after(n) {
		if i := int(x.slots[n].entry - 1); x.slots[n].hash == uint32(h) && at(s, i) == ref {
			return i, true
		}
	}
	return 0, false
}

// hash leaves out group and kind, which are nearly always those of the whole
// list.
func hash(ref Ref) uint64 {
	return maphash.String(seed, ref.Name) + 31*maphash.String(seed, ref.Namespace)
}

// begin is the slot to look at first, after the one to look at next.
func (x index) begin(hash uint64) int { return int(hash>>32) & (len(x.slots) - 1) }
func (x index) after(n int) int       { return (n + 1) & (len(x.slots) - 1) }
