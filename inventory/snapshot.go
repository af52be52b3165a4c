package inventory

import (
	"cmp"
	"iter"
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
	writers []int32
	// entries are the TLS entries of all Consumers, sorted by their Secret, then
	// as they stand.
	entries []entry

	secrets, certificates, knative, consumers, others, pointed, written, served index

	living     map[Ref]string
	issuers    map[IssuerRef]int32
	namespaces map[string]int32
	hosts      map[hostKey][]ServedHost
}

// entry is Consumers[consumer].TLS[tls].
type entry struct{ consumer, tls int32 }

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
	sortBy(s.Policies, func(x *Policy) *Meta { return &x.Meta })
	slices.SortFunc(s.Authorities, func(a, b Authority) int { return a.Issuer.Ref().Compare(b.Issuer.Ref()) })
	slices.SortFunc(s.Chains, func(a, b Chain) int { return a.Issuer.Ref().Compare(b.Issuer.Ref()) })
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
	s.secrets = newIndex(s, len(s.Secrets), (*Snapshot).secretAt)
	s.certificates = newIndex(s, len(s.Certificates), (*Snapshot).certificateAt)
	s.knative = newIndex(s, len(s.KnativeCertificates), (*Snapshot).knativeAt)
	s.consumers = newIndex(s, len(s.Consumers), (*Snapshot).consumerAt)
	s.others = newIndex(s, len(s.OtherSecrets), (*Snapshot).otherAt)
	s.written = newIndex(s, len(s.writers), (*Snapshot).writtenAt)
	for i := range s.Consumers {
		for j := range s.Consumers[i].TLS {
			s.entries = append(s.entries, entry{int32(i), int32(j)})
		}
	}
	slices.SortFunc(s.entries, func(a, b entry) int {
		return cmp.Or(s.tls(a).Secret.Compare(s.tls(b).Secret), cmp.Compare(a.consumer, b.consumer), cmp.Compare(a.tls, b.tls))
	})
	s.served = newIndex(s, len(s.entries), (*Snapshot).servedAt)
	s.issuers = make(map[IssuerRef]int32, len(s.Issuers))
	for i := range s.Issuers {
		s.issuers[IssuerRef(s.Issuers[i].Ref)] = int32(i)
	}
	s.namespaces = make(map[string]int32, len(s.Namespaces))
	for i := range s.Namespaces {
		s.namespaces[s.Namespaces[i].Ref.Name] = int32(i)
	}
	s.hosts = map[hostKey][]ServedHost{}
	for i := range s.Consumers {
		x := &s.Consumers[i]
		if x.Ref.Group != GroupKnativeNet {
			continue
		}
		for _, t := range x.TLS {
			for _, h := range t.Hosts {
				k := hostKey{x.Ref.Namespace, CanonicalName(h)}
				s.hosts[k] = append(s.hosts[k], ServedHost{Consumer: x.Ref, Secret: t.Secret, Ready: x.Ready})
			}
		}
	}
	s.indexOwners()
	for i := range s.Secrets {
		edges = append(edges, builtIn(&s.Secrets[i])...)
	}
	slices.SortFunc(edges, Edge.Compare)
	s.edges = slices.Clip(slices.Compact(edges))
	s.pointed = newIndex(s, len(s.edges), (*Snapshot).pointedAt)
	return s
}

// With is the Snapshot with more edges: what was learned of the same objects
// elsewhere than from the cluster.
func (s *Snapshot) With(edges ...Edge) *Snapshot {
	if len(edges) == 0 {
		return s
	}
	return New(s.Taken, s.Objects, slices.Concat(s.edges, edges), s.Gaps)
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

// What the indexes are of.
func (s *Snapshot) secretAt(i int) Ref      { return s.Secrets[i].Ref }
func (s *Snapshot) certificateAt(i int) Ref { return s.Certificates[i].Ref }
func (s *Snapshot) knativeAt(i int) Ref     { return s.KnativeCertificates[i].Ref }
func (s *Snapshot) consumerAt(i int) Ref    { return s.Consumers[i].Ref }
func (s *Snapshot) otherAt(i int) Ref       { return s.OtherSecrets[i] }
func (s *Snapshot) pointedAt(i int) Ref     { return s.edges[i].To }
func (s *Snapshot) writtenAt(i int) Ref     { _, secret := s.writer(s.writers[i]); return secret }
func (s *Snapshot) servedAt(i int) Ref      { return s.tls(s.entries[i]).Secret }

// To returns the edges that point at an object, sorted. The slice is the
// Snapshot's own.
func (s *Snapshot) To(ref Ref) []Edge {
	i, ok := s.pointed.first(s, ref, (*Snapshot).pointedAt)
	if !ok {
		return nil
	}
	j := i + 1
	for j < len(s.edges) && s.edges[j].To == ref {
		j++
	}
	return s.edges[i:j:j]
}

// Edges returns all edges, sorted by what they point at. The slice is the
// Snapshot's own.
func (s *Snapshot) Edges() []Edge { return s.edges }

// last returns the record of an object, the last of several, nil if there is
// none.
func last[T any](s *Snapshot, list []T, x index, ref Ref, at refAt) *T {
	i, ok := x.first(s, ref, at)
	if !ok {
		return nil
	}
	for i+1 < len(list) && at(s, i+1) == ref {
		i++
	}
	return &list[i]
}

// Secret returns the record of a Secret with a certificate, nil if there is none.
func (s *Snapshot) Secret(ref Ref) *Secret {
	if ref.Kind != "Secret" || ref.Group != "" {
		return nil
	}
	return last(s, s.Secrets, s.secrets, ref, (*Snapshot).secretAt)
}

// Certificate returns the record of a cert-manager Certificate, nil if there is none.
func (s *Snapshot) Certificate(ref Ref) *Certificate {
	if ref.Kind != "Certificate" || ref.Group != GroupCertManager {
		return nil
	}
	return last(s, s.Certificates, s.certificates, ref, (*Snapshot).certificateAt)
}

// KnativeCertificate returns the record of a Knative Certificate, nil if there is none.
func (s *Snapshot) KnativeCertificate(ref Ref) *KnativeCertificate {
	if ref.Kind != "Certificate" || ref.Group != GroupKnativeNet {
		return nil
	}
	return last(s, s.KnativeCertificates, s.knative, ref, (*Snapshot).knativeAt)
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
	return last(s, s.Consumers, s.consumers, ref, (*Snapshot).consumerAt)
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
func (s *Snapshot) Writers(secret Ref) []Ref { return slices.Collect(s.EachWriter(secret)) }

// EachWriter is Writers, one by one.
func (s *Snapshot) EachWriter(secret Ref) iter.Seq[Ref] {
	return func(yield func(Ref) bool) {
		i, ok := s.written.first(s, secret, (*Snapshot).writtenAt)
		for ; ok && i < len(s.writers); i++ {
			by, of := s.writer(s.writers[i])
			if of != secret || !yield(by) {
				return
			}
		}
	}
}

// HasWriter reports whether there are Writers of a Secret.
func (s *Snapshot) HasWriter(secret Ref) bool {
	_, ok := s.written.first(s, secret, (*Snapshot).writtenAt)
	return ok
}

// Writes reports whether by is among the Writers of a Secret.
func (s *Snapshot) Writes(by, secret Ref) bool {
	for w := range s.EachWriter(secret) {
		if w == by {
			return true
		}
	}
	return false
}

// writer returns a Certificate, by its number in writers, and its Secret.
func (s *Snapshot) writer(n int32) (by, secret Ref) {
	if n >= 0 {
		return s.Certificates[n].Ref, s.Certificates[n].Secret
	}
	return s.KnativeCertificates[-1-n].Ref, s.KnativeCertificates[-1-n].Secret
}

// Servers returns the Consumers that serve hosts with a Secret, sorted.
func (s *Snapshot) Servers(secret Ref) []*Consumer {
	var out []*Consumer
	i, ok := s.served.first(s, secret, (*Snapshot).servedAt)
	for ; ok && i < len(s.entries) && s.servedAt(i) == secret; i++ {
		if x := &s.Consumers[s.entries[i].consumer]; len(out) == 0 || out[len(out)-1] != x {
			out = append(out, x)
		}
	}
	return out
}

// EachServed visits the TLS entries of all Consumers, those of one Secret one
// after the other.
func (s *Snapshot) EachServed() iter.Seq2[*Consumer, *TLS] {
	return func(yield func(*Consumer, *TLS) bool) {
		for _, e := range s.entries {
			if !yield(&s.Consumers[e.consumer], s.tls(e)) {
				return
			}
		}
	}
}

func (s *Snapshot) tls(e entry) *TLS { return &s.Consumers[e.consumer].TLS[e.tls] }

// Exists reports whether a Secret of any type exists. It is meaningful only
// while Secrets were read in full.
func (s *Snapshot) Exists(secret Ref) bool {
	if s.Secret(secret) != nil {
		return true
	}
	_, ok := s.others.first(s, secret, (*Snapshot).otherAt)
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
	return s.hosts[hostKey{namespace, CanonicalName(host)}]
}
