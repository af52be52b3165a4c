package inventory

import (
	"cmp"
	"maps"
	"slices"
	"strings"
)

// Change is an object as it has become since a Snapshot: Doc is its JSON, nil when the
// object is gone. Of a Secret it is metadata and type.
type Change struct {
	Ref Ref
	Doc []byte
}

// Part is the share of one namespace in a Snapshot: its records, those of the whole
// cluster that say how they are to be taken, and what names the objects that get
// a verdict. It has the Snapshot's Gaps, and more of them as the caller says why.
func (s *Snapshot) Part(namespace string, more ...Gap) *Snapshot {
	o, edges := s.part(namespace)
	return New(s.Taken, o, edges, slices.Concat(s.Gaps, more))
}

func (s *Snapshot) part(namespace string) (Objects, []Edge) {
	o := Objects{
		Secrets:             within(s.Secrets, namespace, func(x *Secret) *Meta { return &x.Meta }),
		Certificates:        within(s.Certificates, namespace, func(x *Certificate) *Meta { return &x.Meta }),
		KnativeCertificates: within(s.KnativeCertificates, namespace, func(x *KnativeCertificate) *Meta { return &x.Meta }),
		Requests:            within(s.Requests, namespace, func(x *Request) *Meta { return &x.Meta }),
		Consumers:           within(s.Consumers, namespace, func(x *Consumer) *Meta { return &x.Meta }),
		Routes:              within(s.Routes, namespace, func(x *Route) *Meta { return &x.Meta }),
		// Those of other namespaces tell nothing of this one, and are few.
		Issuers: slices.Clone(s.Issuers), Authorities: slices.Clone(s.Authorities), Chains: slices.Clone(s.Chains),
		Policies: slices.Clone(s.Policies), Namespaces: slices.Clone(s.Namespaces), Settings: s.Settings,
	}
	i, _ := slices.BinarySearchFunc(s.OtherSecrets, namespace, func(r Ref, ns string) int { return strings.Compare(r.Namespace, ns) })
	for ; i < len(s.OtherSecrets) && s.OtherSecrets[i].Namespace == namespace; i++ {
		o.OtherSecrets = append(o.OtherSecrets, s.OtherSecrets[i])
	}
	// What serves a Secret of another namespace names one that is there, if it is.
	for i := range o.Consumers {
		for _, t := range o.Consumers[i].TLS {
			if t.Secret.Namespace != namespace && s.Exists(t.Secret) {
				o.OtherSecrets = append(o.OtherSecrets, t.Secret)
			}
		}
	}
	i, _ = slices.BinarySearchFunc(s.edges, namespace, func(e Edge, ns string) int { return strings.Compare(e.To.Namespace, ns) })
	j := i
	for j < len(s.edges) && s.edges[j].To.Namespace == namespace {
		j++
	}
	return o, slices.Clone(s.edges[i:j])
}

// within is a copy of the records of a namespace in a sorted list.
func within[T any](list []T, namespace string, meta func(*T) *Meta) []T {
	at := func(ns string, after int) int {
		i, _ := slices.BinarySearchFunc(list, ns, func(x T, ns string) int {
			return cmp.Or(strings.Compare(meta(&x).Ref.Namespace, ns), -after)
		})
		return i
	}
	return slices.Clone(list[at(namespace, 0):at(namespace, 1)])
}

// Touches are the namespaces, sorted, in which changes of objects may change a verdict:
// their own, and those of the objects that they named in the Snapshot.
func (s *Snapshot) Touches(objects map[Ref]bool) []string {
	spaces := map[string]bool{}
	for ref := range objects {
		spaces[ref.Namespace] = true
	}
	for i := range s.edges {
		if e := &s.edges[i]; e.From.Namespace != e.To.Namespace && objects[e.From] {
			spaces[e.To.Namespace] = true
		}
	}
	return slices.Sorted(maps.Keys(spaces))
}

// After is Part as it has become by changes, of which those of other namespaces
// count as far as an object that is gone names nothing any more. What an object
// names in another namespace than its own is taken to be as it was. An error
// says that a Doc could not be read: its object is then as it was.
//
// It knows nothing of objects that changes does not have: give it a Gap that says so.
func (s *Snapshot) After(namespace string, changes map[Ref]Change, more ...Gap) (*Snapshot, error) {
	o, edges := s.part(namespace)
	var first error
	failed := map[Ref]bool{}
	docs := map[Ref][]byte{}
	for ref, c := range changes {
		if ref.Namespace != namespace || c.Doc == nil {
			continue
		}
		// Tried on its own: a Collector that has failed is of no use.
		if _, err := NewCollector().Add(ref.Group, ref.Kind, c.Doc); err != nil {
			first, failed[ref] = cmp.Or(first, err), true
			continue
		}
		docs[ref] = c.Doc
	}
	changed := func(ref Ref) bool { _, ok := changes[ref]; return ok && ref.Namespace == namespace && !failed[ref] }
	o.Secrets = without(o.Secrets, func(x *Secret) Ref { return x.Ref }, changed)
	o.Certificates = without(o.Certificates, func(x *Certificate) Ref { return x.Ref }, changed)
	o.KnativeCertificates = without(o.KnativeCertificates, func(x *KnativeCertificate) Ref { return x.Ref }, changed)
	o.Consumers = without(o.Consumers, func(x *Consumer) Ref { return x.Ref }, changed)
	o.OtherSecrets = without(o.OtherSecrets, func(x *Ref) Ref { return *x }, changed)

	c := NewCollector()
	c.o = o
	order := slices.SortedFunc(maps.Keys(docs), Ref.Compare)
	for _, ref := range order {
		if Judged(ref.Group, ref.Kind) {
			_, err := c.Add(ref.Group, ref.Kind, docs[ref])
			first = cmp.Or(first, err)
		}
	}
	c.Freeze()
	for _, ref := range order {
		if Judged(ref.Group, ref.Kind) {
			continue
		}
		_, err := c.Add(ref.Group, ref.Kind, docs[ref])
		first = cmp.Or(first, err, c.Scan(ref.Group, ref.Kind, docs[ref]))
	}
	for _, e := range edges {
		ch, ok := changes[e.From]
		switch {
		case e.From.IsZero(): // built in: see New
		case !ok, failed[e.From], ch.Doc != nil && e.From.Namespace != namespace:
			c.AddEdge(e)
		case len(s.To(e.To)) >= keptEdges:
			c.AddEdge(e) // others may have been cut off
		}
	}
	for i := range c.o.Consumers {
		x := &c.o.Consumers[i]
		if !changed(x.Ref) {
			continue
		}
		for _, t := range x.TLS {
			if t.Secret.Namespace != namespace {
				c.o.OtherSecrets = append(c.o.OtherSecrets, t.Secret) // nobody has looked whether it is there
			}
		}
	}
	for _, g := range slices.Concat(s.Gaps, more) {
		c.Gap(g)
	}
	return c.Snapshot(s.Taken), first
}

func without[T any](list []T, ref func(*T) Ref, gone func(Ref) bool) []T {
	return slices.DeleteFunc(list, func(x T) bool { return gone(ref(&x)) })
}
