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
		slices.SortFunc(list, Ref.Compare)
		at := func(i int) Ref { return list[i] }
		x := newIndex(n, at)
		for i := range 2 * n {
			ref := SecretRef("a", fmt.Sprint(i))
			want := slices.Index(list, ref)
			if got, ok := x.first(ref, at); ok != (want >= 0) || ok && got != want {
				t.Fatalf("%s of %v: %d, %t, want %d", ref, list, got, ok, want)
			}
		}
		if _, ok := x.first(SecretRef("b", "0"), at); ok {
			t.Fatal("found what is not there")
		}
	}
	if _, ok := (index{}).first(SecretRef("a", "0"), nil); ok {
		t.Error("found something in an index of nothing")
	}
}
