package gate

import (
	"fmt"
	"math"

	"github.com/certherd/certherd/inventory"
)

// Budget is how much one round of a rule may take away; both limits hold. The
// zero Budget allows nothing, and so does one that is broken.
type Budget struct {
	// Count is the number of objects: certificates, each with its Secret
	// counted once, and requests. NoLimit means any number.
	Count int
	// Share (0 to 1) is that of all certificates. It is rounded down, but a
	// share above 0 always allows one, so that a small cluster gets on. 1 means
	// any number.
	Share float64
}

// NoLimit is the Count of a Budget that has none.
const NoLimit = math.MaxInt

// Check tells what is wrong with a Budget, field by field.
func (b Budget) Check(bad func(field, why string)) {
	if b.Count < 0 {
		bad("count", fmt.Sprintf("%d is less than nothing: use 0 or more", b.Count))
	}
	if !isShare(b.Share) {
		bad("share", "it must be from 0% to 100%")
	}
}

// allowed is how many of total certificates may go.
func (b Budget) allowed(total int) int {
	if !isShare(b.Share) || b.Share == 0 {
		return 0
	}
	return max(1, int(math.Floor(b.Share*float64(total)+epsilon)))
}

// account is what a rule has spent in this round.
type account struct {
	budget       Budget
	total        int
	certificates map[inventory.Ref]bool
	others       int
}

// spend takes what a change removes from the budget, or says why it cannot.
func (a *account) spend(r removal) string {
	count, share := a.budget.Count, a.budget.allowed(a.total)
	if count <= 0 || share <= 0 {
		return "the budget allows nothing"
	}
	fresh := 0
	for ref := range r.certificates {
		if !a.certificates[ref] {
			fresh++
		}
	}
	spent := len(a.certificates)
	objects := fresh + len(r.others)
	switch {
	case objects > count:
		return fmt.Sprintf("it takes away %s, more than the %d of a whole round's budget: raise budget.count, or do it by hand", plural(objects, "object"), count)
	case fresh > share:
		return fmt.Sprintf("it takes away %d of %d certificates, more than the %d (%s) of a whole round's budget: raise budget.share, or do it by hand", fresh, a.total, share, Percent(a.budget.Share))
	case objects > count-spent-a.others:
		return fmt.Sprintf("this round's budget of %s is used up: a later round goes on", plural(count, "object"))
	case fresh > share-spent:
		return fmt.Sprintf("this round's budget of %s (%s of %d) is used up: a later round goes on", plural(share, "certificate"), Percent(a.budget.Share), a.total)
	}
	for ref := range r.certificates {
		a.certificates[ref] = true
	}
	a.others += len(r.others)
	return ""
}

func plural(n int, what string) string {
	if n != 1 {
		what += "s"
	}
	return fmt.Sprintf("%d %s", n, what)
}
