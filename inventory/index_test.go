package inventory

import (
	"fmt"
	"math/rand"
	"slices"
	"testing"
)

// An index finds what a search from the beginning does, in lists of any length
// and with the same Ref several times.
func TestIndexFindsTheFirst(t *testing.T) {
	r := rand.New(rand.NewSource(1))
	for n := range 70 {
		list := make([]Ref, n)
		for i := range list {
			list[i] = SecretRef("a", fmt.Sprint(r.Intn(2*n)))
		}
		s := &Snapshot{Objects: Objects{OtherSecrets: list}}
		slices.SortFunc(list, Ref.Compare)
		x := newIndex(s, n, (*Snapshot).otherAt)
		for i := range 2 * n {
			ref := SecretRef("a", fmt.Sprint(i))
			want := slices.Index(list, ref)
			if got, ok := x.first(s, ref, (*Snapshot).otherAt); ok != (want >= 0) || ok && got != want {
				t.Fatalf("%s of %v: %d, %t, want %d", ref, list, got, ok, want)
			}
		}
		if _, ok := x.first(s, SecretRef("b", "0"), (*Snapshot).otherAt); ok {
			t.Fatal("found what is not there")
		}
	}
	if _, ok := (index{}).first(&Snapshot{}, SecretRef("a", "0"), nil); ok {
		t.Error("found something in an index of nothing")
	}
}
