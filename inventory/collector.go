package inventory

import (
	"bytes"
	"cmp"
	"encoding/base64"
	"slices"
	"strings"
	"time"
)

// A Collector turns API objects into a Snapshot. A source uses it in this order:
//
//  1. Add every Secret, Certificate and Knative Certificate: the objects that
//     get a verdict.
//  2. Freeze: their names are now what the scan looks for.
//  3. Add and Scan every other object, in any order.
//  4. Gap for every kind that it could not read in full.
//  5. Snapshot.
//
// The order of objects within a step changes nothing. A Collector is not safe
// for use by several goroutines at once, but for Mentions after Freeze.
type Collector struct {
	o     Objects
	gaps  []Gap
	texts []text // strings of the objects of step 1, looked at after Freeze

	intern map[string]string
	kept   int // how many objects became records

	matcher *Matcher
	targets [][]Ref          // by index of the Matcher's names
	labels  map[Pair][]Ref   // Secrets by the labels that are not their manager's
	ownerOf map[string][]Ref // judged objects by the UIDs of owners of other kinds
	ownKind map[[2]string]bool
	byNS    map[string][]Ref // judged Secrets by namespace, sorted by name
	other   map[Ref]bool     // Secrets that are never judged
	rows    map[[2]string][]reference
	edges   map[Ref]*edgeSet
	scan    scanState
}

// text is a string of an object whose scan has to wait for Freeze.
type text struct {
	from  Ref
	field string
	value string
	row   reference
	known bool
}

// NewCollector returns an empty Collector.
func NewCollector() *Collector {
	return &Collector{
		intern: map[string]string{},
		edges:  map[Ref]*edgeSet{},
		rows:   map[[2]string][]reference{},
		other:  map[Ref]bool{},
	}
}

// Gap records a kind that could not be read in full.
func (c *Collector) Gap(g Gap) { c.gaps = append(c.gaps, g) }

// AddEdge adds a reference that was found before: by the look that wrote a
// dump. It belongs to step 3.
func (c *Collector) AddEdge(e Edge) { c.edge(e, false) }

// str returns an equal string that is shared by all records, so that what
// repeats in every object is held once and no record keeps a whole page alive.
func (c *Collector) str(s string) string {
	if s == "" {
		return ""
	}
	if v, ok := c.intern[s]; ok {
		return v
	}
	s = strings.Clone(s)
	c.intern[s] = s
	return s
}

// Freeze ends step 1: it builds the set of names that Scan looks for.
func (c *Collector) Freeze() {
	c.intern = map[string]string{}
	index := map[string]int32{}
	var names []string
	add := func(name string, ref Ref) {
		i, ok := index[name]
		if !ok {
			i = int32(len(names))
			index[name] = i
			names = append(names, name)
			c.targets = append(c.targets, nil)
		}
		c.targets[i] = append(c.targets[i], ref)
	}
	c.labels = map[Pair][]Ref{}
	c.ownerOf = map[string][]Ref{}
	c.ownKind = map[[2]string]bool{}
	c.byNS = map[string][]Ref{}
	owners := func(m *Meta) {
		for _, o := range m.Owners {
			c.ownKind[[2]string{o.Ref.Group, o.Ref.Kind}] = true
			if _, ok := readKinds[[2]string{o.Ref.Group, o.Ref.Kind}]; !ok && o.UID != "" {
				c.ownerOf[o.UID] = append(c.ownerOf[o.UID], m.Ref)
				if _, ok := index[o.UID]; !ok {
					index[o.UID] = int32(len(names))
					names = append(names, o.UID)
					c.targets = append(c.targets, nil)
				}
			}
		}
	}
	for i := range c.o.Secrets {
		s := &c.o.Secrets[i]
		add(s.Ref.Name, s.Ref)
		if base, ok := strings.CutSuffix(s.Ref.Name, "-cacert"); ok {
			// Istio reads <credentialName>-cacert beside <credentialName>.
			add(base, s.Ref)
		}
		c.byNS[s.Ref.Namespace] = append(c.byNS[s.Ref.Namespace], s.Ref)
		for _, l := range s.Labels {
			if managerLabel(l.Key) {
				continue
			}
			c.labels[l] = append(c.labels[l], s.Ref)
			for _, pattern := range []string{l.Key + "=" + l.Value, l.Key} {
				if pattern == l.Key && !strings.Contains(l.Key, "/") {
					continue // a bare word says nothing
				}
				if _, ok := index[pattern]; !ok {
					index[pattern] = int32(len(names))
					names = append(names, pattern)
					c.targets = append(c.targets, nil)
				}
			}
		}
		owners(&s.Meta)
	}
	for i := range c.o.Certificates {
		add(c.o.Certificates[i].Ref.Name, c.o.Certificates[i].Ref)
		owners(&c.o.Certificates[i].Meta)
	}
	for i := range c.o.KnativeCertificates {
		add(c.o.KnativeCertificates[i].Ref.Name, c.o.KnativeCertificates[i].Ref)
		owners(&c.o.KnativeCertificates[i].Meta)
	}
	for _, list := range c.byNS {
		slices.SortFunc(list, Ref.Compare)
	}
	for _, list := range c.targets {
		slices.SortFunc(list, Ref.Compare)
	}
	for _, r := range c.o.OtherSecrets {
		c.other[r] = true
	}
	c.matcher = NewMatcher(names)
	c.scan.names = names
	for _, t := range c.texts {
		c.scanText(t)
	}
	c.texts = nil
}

// NamedAsOwner reports, after Freeze, whether an object that gets a verdict names
// an owner of a kind. Such a kind is to be scanned, whatever it otherwise
// holds: as long as the owner exists, the object may be wanted.
func (c *Collector) NamedAsOwner(group, kind string) bool { return c.ownKind[[2]string{group, kind}] }

// AlwaysScanned reports whether objects of a kind need a Scan even where Mentions
// finds nothing in them: the kind may refer to Secrets by a selector or through its own
// name, or allow references to every one.
func AlwaysScanned(group, kind string) bool {
	return !knownSchema(group) || secretSelectors[[2]string{group, kind}] || group == GroupGateway && kind == "ReferenceGrant"
}

// Frozen reports whether step 1 has ended.
func (c *Collector) Frozen() bool { return c.matcher != nil }

// Mentions reports whether a text holds any name that the scan looks for. It is the cheap
// question that spares most objects from being decoded; it may say yes where
// Scan then finds nothing, never the other way round, as long as text holds every
// string of the object as it is or in JSON.
func (c *Collector) Mentions(text []byte) bool {
	found := false
	c.matcher.Find(text, func(int) bool { found = true; return false })
	return found
}

// edgeSet keeps the edges to one object: all of those that say how a gateway
// serves it, and of the others the first few in order, whatever order they come
// in.
type edgeSet struct {
	tls   []Edge
	other []Edge
}

const keptEdges = 16

func (c *Collector) edge(e Edge, tls bool) {
	if e.From == e.To || c.manages(e.From, e.To) {
		return
	}
	e.Field = c.str(e.Field)
	s := c.edges[e.To]
	if s == nil {
		s = new(edgeSet)
		c.edges[e.To] = s
	}
	if tls {
		s.tls = append(s.tls, e)
		return
	}
	// Field evidence decides a verdict: it must never be pushed out by weaker
	// evidence, so it sorts first (see Edge.strength).
	i, dup := slices.BinarySearchFunc(s.other, e, compareStrength)
	if dup {
		return
	}
	if i == keptEdges {
		return
	}
	s.other = slices.Insert(s.other, i, e)
	if len(s.other) > keptEdges {
		s.other = s.other[:keptEdges]
	}
}

func compareStrength(a, b Edge) int {
	return cmp.Or(cmp.Compare(a.Via.strength(), b.Via.strength()), a.Compare(b))
}

func (v Evidence) strength() int {
	return slices.Index([]Evidence{Field, Owner, Label, Mention}, v)
}

// manages reports whether from is part of the machinery that makes to, so that
// naming it is no use of it: the Certificate of a Secret, the
// CertificateRequests and Orders of a Certificate, and so on.
func (c *Collector) manages(from, to Ref) bool {
	switch {
	case from.Group == GroupACME, from.Group == GroupCertManager && from.Kind == "CertificateRequest":
		return to.Kind == "Certificate" && to.Namespace == from.Namespace
	case from.Kind == "Certificate" && (from.Group == GroupCertManager || from.Group == GroupKnativeNet):
		return to.Name == from.Name && to.Namespace == from.Namespace
	}
	return false
}

// scanState is what one Scan needs, kept from object to object so as to
// allocate once.
type scanState struct {
	names     []string
	hits      []hit
	fields    []fieldHit
	besides   map[int]string
	selectors []Pair
}

type hit struct {
	field string
	name  int
	exact bool
	key   string // the last key of the path, lower case
}

type fieldHit struct {
	row    reference
	field  string
	value  string
	parent int
}

// Scan reads one object of a kind that has no verdict: doc is its JSON. It
// finds what its known fields refer to, and what its other strings could name.
func (c *Collector) Scan(group, kind string, doc []byte) error {
	s := &c.scan
	s.hits, s.fields, s.selectors = s.hits[:0], s.fields[:0], s.selectors[:0]
	s.besides = map[int]string{}
	rows := c.rowsOf(group, kind)
	schema := knownSchema(group)
	var namespace, name, uid string
	allSecrets := false
	err := walk(doc, func(path []string, parent int, value string, isKey bool) {
		last := path[len(path)-1]
		if len(path) == 2 && path[0] == "metadata" && !isKey {
			switch last {
			case "namespace":
				namespace = value
			case "name":
				name = value
			case "uid":
				uid = value
			}
		}
		if ignoredPath(path) {
			return
		}
		if isKey {
			if schema && !freeKeys(path) {
				return
			}
		} else {
			if last == "namespace" || last == "secretNamespace" || last == "certs-secret-namespace" {
				s.besides[parent] = value
			}
			if sel, ok := selectorPair(path, value); ok {
				if value == "{}" {
					allSecrets = allSecrets || strings.Contains(strings.ToLower(strings.Join(path, ".")), "secret")
				} else {
					s.selectors = append(s.selectors, sel)
				}
			}
			for i := range rows {
				r := &rows[i]
				if !pathMatches(r.path, path) {
					continue
				}
				s.fields = append(s.fields, fieldHit{row: *r, field: fieldPath(path), value: value, parent: parent})
				if r.group != "*" && r.group != "" || schema {
					return // the field is known: its value names nothing else
				}
				break
			}
			if schema && harmless(group, kind, path) {
				return
			}
			if path[0] == "binaryData" && group == "" {
				if b, err := base64.StdEncoding.DecodeString(value); err == nil {
					value = string(b)
				}
			}
		}
		c.matcher.Find([]byte(value), func(i int) bool {
			s.hits = append(s.hits, hit{field: fieldPath(path), name: i, exact: len(value) == len(s.names[i]), key: strings.ToLower(last)})
			return true
		})
	})
	if err != nil {
		return err
	}
	from := Ref{Group: c.str(group), Kind: c.str(kind), Namespace: c.str(namespace), Name: c.str(name)}
	for _, f := range s.fields {
		c.field(from, f)
	}
	if len(s.hits) > 0 {
		c.mentions(from, schema, doc)
	}
	for _, p := range s.selectors {
		if schema && !secretSelectors[[2]string{group, kind}] {
			continue
		}
		for _, to := range c.labelled(p) {
			c.edge(Edge{From: from, To: to, Field: "selector " + p.Key + "=" + p.Value, Via: Label}, false)
		}
	}
	if allSecrets && (!schema || secretSelectors[[2]string{group, kind}]) {
		for ns, list := range c.byNS {
			if namespace == "" || ns == namespace {
				for _, to := range list {
					c.edge(Edge{From: from, To: to, Field: "selector of all Secrets", Via: Label}, false)
				}
			}
		}
	}
	for _, to := range c.ownerOf[uid] {
		c.edge(Edge{From: from, To: to, Field: "metadata.ownerReferences", Via: Owner}, false)
	}
	if !schema && name != "" {
		c.implicit(from)
	}
	if group == GroupGateway && kind == "ReferenceGrant" {
		c.grant(from, doc)
	}
	return nil
}

// labelled are the Secrets with a label, sorted by nothing in particular.
func (c *Collector) labelled(p Pair) []Ref {
	if p.Value != anyValue {
		return c.labels[p]
	}
	var out []Ref
	for l, list := range c.labels {
		if l.Key == p.Key {
			out = append(out, list...)
		}
	}
	return out
}

// implicit finds Secrets whose name an operator may derive from its object's
// name: the same, or with something added behind a dash.
func (c *Collector) implicit(from Ref) {
	list := c.byNS[from.Namespace]
	i, _ := slices.BinarySearchFunc(list, from.Name, func(r Ref, n string) int { return strings.Compare(r.Name, n) })
	for ; i < len(list) && strings.HasPrefix(list[i].Name, from.Name); i++ {
		if rest := list[i].Name[len(from.Name):]; rest == "" || rest[0] == '-' || rest[0] == '.' {
			c.edge(Edge{From: from, To: list[i], Field: "metadata.name", Via: Mention}, false)
		}
	}
}

// field makes the edges of a known reference field.
func (c *Collector) field(from Ref, f fieldHit) {
	value := f.value
	for _, scheme := range []string{"kubernetes://", "kubernetes-gateway://"} {
		value = strings.TrimPrefix(value, scheme)
	}
	value = strings.TrimSuffix(value, "-cacert")
	if value != f.value && strings.HasSuffix(f.value, "-cacert") {
		value = f.value
	}
	if value == "" {
		return
	}
	ns, name := from.Namespace, value
	if a, b, ok := strings.Cut(value, "/"); ok {
		ns, name = a, b
	} else if f.row.scope == beside {
		if n := c.scan.besides[f.parent]; n != "" {
			ns = n
		}
	}
	to := func(namespace string) {
		c.edge(Edge{From: from, To: SecretRef(c.str(namespace), c.str(name)), Field: f.field, Via: Field}, f.row.tls)
	}
	if f.row.scope == certificate {
		c.edge(Edge{From: from, To: CertificateRef(c.str(ns), c.str(name)), Field: f.field, Via: Field}, false)
		return
	}
	if n := strings.Index(name, "."); n > 0 && f.row.group == "getambassador.io" {
		// Emissary also takes name.namespace.
		c.edge(Edge{From: from, To: SecretRef(c.str(name[n+1:]), c.str(name[:n])), Field: f.field, Via: Field}, false)
	}
	if strings.ContainsAny(name, ", ") {
		for _, part := range strings.FieldsFunc(name, func(r rune) bool { return r == ',' || r == ' ' }) {
			c.edge(Edge{From: from, To: SecretRef(c.str(ns), c.str(part)), Field: f.field, Via: Field}, false)
		}
		return
	}
	if f.row.scope != workload || strings.Contains(value, "/") {
		to(ns)
		return
	}
	// The namespace is some program's. Every Secret of the name may be meant;
	// where there is none at all, nobody can say which one is missing.
	found := map[string]bool{}
	c.matcher.Find([]byte(name), func(i int) bool {
		if c.scan.names[i] == name {
			for _, r := range c.targets[i] {
				if r.Kind == "Secret" {
					found[r.Namespace] = true
				}
			}
		}
		return true
	})
	for n := range found {
		to(n)
	}
}

// mentions makes the edges of strings that are no known reference field.
func (c *Collector) mentions(from Ref, schema bool, doc []byte) {
	var words map[string]bool
	for _, h := range c.scan.hits {
		name := c.scan.names[h.name]
		targets := c.targets[h.name]
		if len(targets) == 0 { // a label, or an owner's UID
			key, value, ok := strings.Cut(name, "=")
			if !ok && strings.Contains(name, "/") {
				value, ok = anyValue, true
			}
			if ok {
				for _, to := range c.labelled(Pair{key, value}) {
					c.edge(Edge{From: from, To: to, Field: h.field, Via: Label}, false)
				}
			} else {
				for _, to := range c.ownerOf[name] {
					c.edge(Edge{From: from, To: to, Field: h.field, Via: Mention}, false)
				}
			}
			continue
		}
		local := false
		for _, to := range targets {
			local = local || to.Namespace == from.Namespace
		}
		local = local || c.other[SecretRef(from.Namespace, name)]
		for _, to := range targets {
			switch {
			case from.Namespace == "" || to.Namespace == from.Namespace:
			case h.exact && !schema && !local && secretKey(h.key):
				// An operator may look in a namespace of its own.
			default:
				if words == nil {
					words = tokens(doc)
				}
				if !words[to.Namespace] {
					continue
				}
			}
			c.edge(Edge{From: from, To: to, Field: h.field, Via: Mention}, false)
		}
	}
}

// scanText looks at a string of an object of step 1.
func (c *Collector) scanText(t text) {
	if t.known {
		c.scan.besides = map[int]string{}
		c.field(t.from, fieldHit{row: t.row, field: t.field, value: t.value})
		return
	}
	c.scan.hits = c.scan.hits[:0]
	value := []byte(t.value)
	c.matcher.Find(value, func(i int) bool {
		c.scan.hits = append(c.scan.hits, hit{field: t.field, name: i, exact: len(value) == len(c.scan.names[i])})
		return true
	})
	if len(c.scan.hits) > 0 {
		c.mentions(t.from, true, value)
	}
}

// tokens are the words of a document that could be a namespace's name.
func tokens(doc []byte) map[string]bool {
	words := map[string]bool{}
	for w := range bytes.FieldsFuncSeq(doc, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '-')
	}) {
		words[string(w)] = true
	}
	return words
}

func (c *Collector) rowsOf(group, kind string) []reference {
	key := [2]string{group, kind}
	rows, ok := c.rows[key]
	if !ok {
		rows = referencesOf(group, kind)
		c.rows[key] = rows
	}
	return rows
}

// Snapshot ends the collection. taken is when the cluster was looked at.
func (c *Collector) Snapshot(taken time.Time) *Snapshot {
	if c.matcher == nil {
		c.Freeze()
	}
	var edges []Edge
	for _, s := range c.edges {
		edges = append(edges, s.tls...)
		edges = append(edges, s.other...)
	}
	return New(taken, c.o, edges, c.gaps)
}
