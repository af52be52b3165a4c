package gate

import (
	"fmt"
	"path"
	"strings"

	"k8s.io/apimachinery/pkg/labels"

	"github.com/certherd/certherd/inventory"
	"github.com/certherd/certherd/plan"
)

// Ignore names what is never touched. Patterns are those of path.Match; one
// that is broken matches everything, so that it protects too much and not too
// little.
type Ignore struct {
	// Namespaces are patterns of namespace names.
	Namespaces []string
	// Names are patterns of namespace/name, or of a name in any namespace. They
	// stand for objects of every kind.
	Names []string
	// Selectors match the labels of an object of any kind.
	Selectors []labels.Selector
}

// optedOut says by what something that a change would touch is opted out.
func (d *decision) optedOut(c plan.Change) string {
	for _, ref := range d.touched(c) {
		if why := d.ignored(ref); why != "" {
			return ref.String() + " is opted out by " + why
		}
	}
	// Without its labels nobody can say that an object is not opted out.
	if len(d.Ignore.Selectors) > 0 {
		for _, st := range c.Steps {
			if (st.Action == plan.Retire || st.Action == plan.Delete || st.Action == plan.Switch) && d.meta(st.Object) == nil {
				return st.Object.String() + " is not in the snapshot, so that its labels cannot be looked at for opt-outs"
			}
		}
	}
	return ""
}

// touched are the objects that a change changes, and those that go with them
// or are no longer renewed.
func (d *decision) touched(c plan.Change) []inventory.Ref {
	out := []inventory.Ref{c.Why.Object}
	done := map[inventory.Ref]bool{{}: true, c.Why.Object: true}
	add := func(ref inventory.Ref) {
		if !done[ref] {
			done[ref] = true
			out = append(out, ref)
		}
	}
	for _, st := range c.Steps {
		add(st.Object)
		add(st.From())
		add(st.To())
		if st.Action == plan.Retire || st.Action == plan.Delete {
			secret := d.secretOf(st.Object)
			add(secret)
			for _, w := range d.s.Writers(secret) {
				add(w)
			}
		}
	}
	return out
}

// ignored says by what one object is opted out; empty when it is not.
func (d *decision) ignored(ref inventory.Ref) string {
	m := d.meta(ref)
	bare := inventory.Meta{Ref: ref}
	if ref.Group == "" && ref.Kind == "Namespace" {
		bare.Ref = inventory.Ref{Namespace: ref.Name}
	}
	switch {
	case m != nil && m.Ignore:
		return "its annotation " + inventory.IgnoreAnnotation
	case d.s.Ignored(&bare):
		return "the annotation " + inventory.IgnoreAnnotation + " of its namespace"
	}
	for _, p := range d.Ignore.Namespaces {
		if matches(p, bare.Ref.Namespace) {
			return fmt.Sprintf("the namespace pattern %q", p)
		}
	}
	if bare.Ref.Name != "" {
		for _, p := range d.Ignore.Names {
			name := bare.Ref.Name
			if strings.Contains(p, "/") {
				name = bare.Ref.Namespace + "/" + name
			}
			if matches(p, name) {
				return fmt.Sprintf("the name pattern %q", p)
			}
		}
	}
	if m == nil {
		return ""
	}
	set := labels.Set{}
	for _, l := range m.Labels {
		set[l.Key] = l.Value
	}
	for _, sel := range d.Ignore.Selectors {
		if sel == nil || sel.Matches(set) {
			return fmt.Sprintf("the label selector %q", text(sel))
		}
	}
	return ""
}

func text(sel labels.Selector) string {
	if sel == nil {
		return ""
	}
	return sel.String()
}

func matches(pattern, s string) bool {
	ok, err := path.Match(pattern, s)
	return ok || err != nil
}
