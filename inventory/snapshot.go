package inventory

import (
	"cmp"
	"slices"
	"sort"
	"strings"
	"time"
)

// Snapshot is a cluster at one moment, sorted and not to be changed.
type Snapshot struct {
	Objects
	// Taken is when the cluster was looked at.
	Taken time.Time
	// Gaps are the kinds that were not read in full. While there is one,
	// nothing is unused: the missing kind may hold the reference.
	Gaps []Gap

	edges []Edge // sorted by To

	// writers are the Certificates and Knative Certificates, sorted by the Secret
	// that they name as theirs: n is Certificates[n], and -1-n is
	// KnativeCertificates[n].
	writers    []int32
	living     map[Ref]string
	issuers    map[IssuerRef]int32
	namespaces map[string]int32
	served     map[hostKey][]ServedHost
}

type hostKey struct{ namespace, host string }

// ServedHost is a host that a Knative Ingress serves with a Secret.
type ServedHost struct {
	Consumer Ref
	Secret   Ref
	Ready    bool
}

// New sorts and indexes what a look has brought. The same objects, edges and
// gaps in any order give an equal Snapshot.
func New(taken time.Time, o Objects, edges []Edge, gaps []Gap) *Snapshot {
	s := &Snapshot{Objects: o, Taken: taken}
	sortBy(s.Secrets, func(x *Secret) *Meta { return &x.Meta })
	sortBy(s.Certificates, func(x *Certificate) *Meta { return &x.Meta })
	sortBy(s.KnativeCertificates, func(x *KnativeCertificate) *Meta { return &x.Meta })
	sortBy(s.Requests, func(x *Request) *Meta { return &x.Meta })
	sortBy(s.Issuers, func(x *Issuer) *Meta { return &x.Meta })
	sortBy(s.Consumers, func(x *Consumer) *Meta { return &x.Meta })
	sortBy(s.Routes, func(x *Route) *Meta { return &x.Meta })
	sortBy(s.Namespaces, func(x *Namespace) *Meta { return &x.Meta })
	sortBy(s.Workloads, func(x *Workload) *Meta { return &x.Meta })
	slices.SortFunc(s.OtherSecrets, Ref.Compare)
	s.Gaps = slices.Compact(slices.SortedFunc(slices.Values(gaps), Gap.Compare))

	s.writers = make([]int32, 0, len(s.Certificates)+len(s.KnativeCertificates))
	for i := range s.Certificates {
		s.writers = append(s.writers, int32(i))
	}
	for i := range s.KnativeCertificates {
		s.writers = append(s.writers, int32(-1-i))
	}
	slices.SortStableFunc(s.writers, func(a, b int32) int {
		_, x := s.writer(a)
		_, y := s.writer(b)
		return x.Compare(y)
	})
	s.issuers = make(map[IssuerRef]int32, len(s.Issuers))
	for i := range s.Issuers {
		s.issuers[IssuerRef(s.Issuers[i].Ref)] = int32(i)
	}
	s.namespaces = make(map[string]int32, len(s.Namespaces))
	for i := range s.Namespaces {
		s.namespaces[s.Namespaces[i].Ref.Name] = int32(i)
	}
	s.served = map[hostKey][]ServedHost{}
	for i := range s.Consumers {
		x := &s.Consumers[i]
		if x.Ref.Group != GroupKnativeNet {
			continue
		}
		for _, t := range x.TLS {
			for _, h := range t.Hosts {
				k := hostKey{x.Ref.Namespace, CanonicalName(h)}
				s.served[k] = append(s.served[k], ServedHost{Consumer: x.Ref, Secret: t.Secret, Ready: x.Ready})
			}
		}
	}
	s.indexOwners()
	for i := range s.Secrets {
		edges = append(edges, builtIn(&s.Secrets[i])...)
	}
	slices.SortFunc(edges, Edge.Compare)
	s.edges = slices.Clip(slices.Compact(edges))
	return s
}

// sortBy sorts by name. The same name twice, as two dumps of one cluster may
// have it, is sorted by version.
func sortBy[T any](list []T, meta func(*T) *Meta) {
	sort.Slice(list, func(i, j int) bool {
		a, b := meta(&list[i]), meta(&list[j])
		return cmp.Or(a.Ref.Compare(b.Ref), strings.Compare(a.Version.UID, b.Version.UID), strings.Compare(a.Version.ResourceVersion, b.Version.ResourceVersion)) < 0
	})
}

// indexOwners notes which of the owners that records name exist.
func (s *Snapshot) indexOwners() {
	wanted := map[Ref]bool{}
	want := func(m *Meta) {
		for _, o := range m.Owners {
			wanted[o.Ref] = true
		}
	}
	s.EachMeta(want)
	s.living = map[Ref]string{}
	s.EachMeta(func(m *Meta) {
		if wanted[m.Ref] {
			s.living[m.Ref] = m.Version.UID
		}
	})
}

// EachMeta visits the metadata of every record.
func (s *Snapshot) EachMeta(visit func(*Meta)) {
	for i := range s.Secrets {
		visit(&s.Secrets[i].Meta)
	}
	for i := range s.Certificates {
		visit(&s.Certificates[i].Meta)
	}
	for i := range s.KnativeCertificates {
		visit(&s.KnativeCertificates[i].Meta)
	}
	for i := range s.Requests {
		visit(&s.Requests[i].Meta)
	}
	for i := range s.Issuers {
		visit(&s.Issuers[i].Meta)
	}
	for i := range s.Consumers {
		visit(&s.Consumers[i].Meta)
	}
	for i := range s.Routes {
		visit(&s.Routes[i].Meta)
	}
	for i := range s.Namespaces {
		visit(&s.Namespaces[i].Meta)
	}
	for i := range s.Workloads {
		visit(&s.Workloads[i].Meta)
	}
}

// builtIn are the edges that no object of the cluster shows.
func builtIn(x *Secret) []Edge {
	var out []Edge
	if p, ok := fixedNames[x.Ref.Name]; ok {
		out = append(out, Edge{To: x.Ref, Field: "a name that " + p + " has built in", Via: Mention})
	}
	for _, l := range x.Labels {
		if p, ok := discoveryLabels[l.Key]; ok {
			out = append(out, Edge{To: x.Ref, Field: "label " + l.Key + ", by which " + p + " finds Secrets", Via: Label})
		}
	}
	for _, a := range x.Annotations {
		if p, ok := sharingAnnotations[a.Key]; ok && a.Value != "false" {
			out = append(out, Edge{To: x.Ref, Field: "annotation " + a.Key + ", which lets " + p + " copy it", Via: Mention})
		}
	}
	return out
}

// To returns the edges that point at an object, sorted. The slice is the
// Snapshot's own.
func (s *Snapshot) To(ref Ref) []Edge {
	i, _ := slices.BinarySearchFunc(s.edges, ref, func(e Edge, r Ref) int { return e.To.Compare(r) })
	j := i
	for j < len(s.edges) && s.edges[j].To == ref {
		j++
	}
	return s.edges[i:j:j]
}

// Edges returns all edges, sorted by what they point at. The slice is the
// Snapshot's own.
func (s *Snapshot) Edges() []Edge { return s.edges }

// find returns the record of an object, the last of several, nil if there is none.
// The records are sorted; an index of them would take as much memory as a
// third of them.
func find[T any](list []T, ref Ref, of func(*T) Ref) *T {
	i := sort.Search(len(list), func(i int) bool { return of(&list[i]).Compare(ref) > 0 })
	if i == 0 || of(&list[i-1]) != ref {
		return nil
	}
	return &list[i-1]
}

// Secret returns the record of a Secret with a certificate, nil if there is none.
func (s *Snapshot) Secret(ref Ref) *Secret {
	return find(s.Secrets, ref, func(x *Secret) Ref { return x.Ref })
}

// Certificate returns the record of a cert-manager Certificate, nil if there is none.
func (s *Snapshot) Certificate(ref Ref) *Certificate {
	return find(s.Certificates, ref, func(x *Certificate) Ref { return x.Ref })
}

// KnativeCertificate returns the record of a Knative Certificate, nil if there is none.
func (s *Snapshot) KnativeCertificate(ref Ref) *KnativeCertificate {
	return find(s.KnativeCertificates, ref, func(x *KnativeCertificate) Ref { return x.Ref })
}

// Issuer returns the record of an issuer, nil if there is none.
func (s *Snapshot) Issuer(ref IssuerRef) *Issuer {
	if i, ok := s.issuers[ref]; ok {
		return &s.Issuers[i]
	}
	return nil
}

// Judged returns the metadata of an object that gets a verdict: a Secret with a
// certificate, a Certificate or a Knative Certificate; nil if there is none.
func (s *Snapshot) Judged(ref Ref) *Meta {
	if x := s.Secret(ref); x != nil {
		return &x.Meta
	}
	if x := s.Certificate(ref); x != nil {
		return &x.Meta
	}
	if x := s.KnativeCertificate(ref); x != nil {
		return &x.Meta
	}
	return nil
}

// Consumer returns the record of a consumer, nil if there is none.
func (s *Snapshot) Consumer(ref Ref) *Consumer {
	return find(s.Consumers, ref, func(x *Consumer) Ref { return x.Ref })
}

// Ignored reports whether an object, or its namespace, is opted out.
func (s *Snapshot) Ignored(m *Meta) bool {
	if m.Ignore {
		return true
	}
	i, ok := s.namespaces[m.Ref.Namespace]
	return ok && s.Namespaces[i].Ignore
}

// Writers returns the Certificates and Knative Certificates whose Secret this
// is, sorted: the machinery that renews it.
func (s *Snapshot) Writers(secret Ref) []Ref {
	i := sort.Search(len(s.writers), func(i int) bool {
		_, of := s.writer(s.writers[i])
		return of.Compare(secret) >= 0
	})
	var out []Ref
	for ; i < len(s.writers); i++ {
		by, of := s.writer(s.writers[i])
		if of != secret {
			break
		}
		out = append(out, by)
	}
	return out
}

// writer returns a Certificate, by its number in writers, and its Secret.
func (s *Snapshot) writer(n int32) (by, secret Ref) {
	if n >= 0 {
		return s.Certificates[n].Ref, s.Certificates[n].Secret
	}
	return s.KnativeCertificates[-1-n].Ref, s.KnativeCertificates[-1-n].Secret
}

// Exists reports whether a Secret of any type exists. It is meaningful only
// while Secrets were read in full.
func (s *Snapshot) Exists(secret Ref) bool {
	if s.Secret(secret) != nil {
		return true
	}
	_, ok := slices.BinarySearchFunc(s.OtherSecrets, secret, Ref.Compare)
	return ok
}

// HasGap reports whether a kind ("secret", "certificate.cert-manager.io") was
// not read in full.
func (s *Snapshot) HasGap(kind string) bool {
	return slices.ContainsFunc(s.Gaps, func(g Gap) bool { return g.Kind == kind })
}

// Lives reports whether an owner exists, as the same object and not as
// another one of its name.
func (s *Snapshot) Lives(o OwnerRef) bool {
	uid, ok := s.living[o.Ref]
	return ok && (o.UID == "" || uid == "" || uid == o.UID)
}

// Served returns by which Secrets the Knative Ingresses of a namespace serve a
// host.
func (s *Snapshot) Served(namespace, host string) []ServedHost {
	return s.served[hostKey{namespace, CanonicalName(host)}]
}
