package inventory

import (
	"bytes"
	"cmp"
	"encoding/base64"
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/certherd/certherd/api/v1alpha1"
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

	matcher  *Matcher
	spaces   *Matcher         // the namespaces of the judged objects
	sought   []Ref            // what the names may stand for, sorted by name
	targets  []target         // by index of the Matcher's names
	also     map[int][]Ref    // the same where a name stands for others than its namesakes
	labels   map[Pair][]Ref   // Secrets by the labels that are not their manager's
	ownerOf  map[string][]Ref // judged objects by the UIDs of owners of other kinds
	ownerRef map[Ref][]owned  // the same by the owner's name
	ownKind  map[[2]string]bool
	byNS     map[string][]int32 // the Secrets among sought by namespace, sorted by name
	awaited  []Meta             // Secrets as Certificates label them, with nothing but a name and labels
	other    map[Ref]bool       // Secrets that are never judged
	rows     map[[2]string][]reference
	edges    map[Ref]*edgeSet
	scan     scanState

	authorities map[IssuerRef]*authority
	chains      map[IssuerRef]chain
	parents     map[Ref]Ref // the Gateways of ListenerSets
	relays      relays
}

// target is what one of the Matcher's names stands for.
type target struct {
	from, to int32 // the range of sought
	label    bool  // the name is a label's key
	owner    bool  // the name is an owner's UID
}

// refs are the objects that one of the Matcher's names may stand for, sorted.
func (c *Collector) refs(name int) []Ref {
	if list, ok := c.also[name]; ok {
		return list
	}
	t := &c.targets[name]
	return c.sought[t.from:t.to]
}

// owned is a judged object and the UID by which it names its owner.
type owned struct {
	uid string
	ref Ref
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

		authorities: map[IssuerRef]*authority{},
		chains:      map[IssuerRef]chain{},
	}
}

// Gap records a kind that could not be read in full.
func (c *Collector) Gap(g Gap) { c.gaps = append(c.gaps, g) }

// AddEdge adds a reference that was found before: by the look that wrote a
// dump. It belongs to step 3.
func (c *Collector) AddEdge(e Edge) { c.edge(e, c.serves(e)) }

// serves reports whether an edge is one of those that say how a gateway serves
// a Secret, by the field that it comes from.
func (c *Collector) serves(e Edge) bool {
	if e.Via != Field {
		return false
	}
	path := splitPath(e.Field)
	return slices.ContainsFunc(c.rowsOf(e.From.Group, e.From.Kind), func(r reference) bool { return r.tls && pathMatches(r.path, path) })
}

// str returns an equal string that is shared by all records, so that what
// repeats in every object is held once and no record keeps a whole page alive.
func (c *Collector) str(s string) string {
	if s == "" {
		return ""
	}
	if v, ok := c.intern[s]; ok {
		return v
	}
	if len(c.intern) == interned {
		clear(c.intern)
	}
	s = strings.Clone(s)
	c.intern[s] = s
	return s
}

// interned bounds the strings that str remembers. Objects come sorted by
// namespace and name, so what repeats does so soon.
const interned = 1 << 14

// Freeze ends step 1: it builds the set of names that Scan looks for.
func (c *Collector) Freeze() {
	c.intern = map[string]string{}
	c.labels = map[Pair][]Ref{}
	c.ownerOf = map[string][]Ref{}
	c.ownerRef = map[Ref][]owned{}
	c.ownKind = map[[2]string]bool{}
	c.byNS = map[string][]int32{}
	for _, r := range c.o.OtherSecrets {
		c.other[r] = true
	}
	// A Secret is looked for whether it exists or a Certificate is about to make
	// it: whoever wants that Certificate names the Secret.
	c.sought = make([]Ref, 0, len(c.o.Secrets)+2*len(c.o.Certificates)+2*len(c.o.KnativeCertificates)+len(c.awaited))
	for i := range c.o.Secrets {
		c.sought = append(c.sought, c.o.Secrets[i].Ref)
	}
	for i := range c.o.Certificates {
		c.sought = append(c.sought, c.o.Certificates[i].Ref, c.o.Certificates[i].Secret)
	}
	for i := range c.o.KnativeCertificates {
		c.sought = append(c.sought, c.o.KnativeCertificates[i].Ref, c.o.KnativeCertificates[i].Secret)
	}
	for i := range c.awaited {
		c.sought = append(c.sought, c.awaited[i].Ref)
	}
	c.sought = slices.DeleteFunc(c.sought, func(r Ref) bool { return r.Name == "" })
	slices.SortFunc(c.sought, func(a, b Ref) int { return cmp.Or(strings.Compare(a.Name, b.Name), a.Compare(b)) })
	c.sought = slices.Clone(slices.Compact(c.sought))

	index := make(map[string]int32, len(c.sought))
	var names []string
	at := func(name string) *target {
		i, ok := index[name]
		if !ok {
			i = int32(len(names))
			index[name] = i
			names = append(names, name)
			c.targets = append(c.targets, target{})
		}
		return &c.targets[i]
	}
	spaces := map[string]bool{}
	for i, r := range c.sought {
		t := at(r.Name)
		if t.to == 0 {
			t.from = int32(i)
		}
		t.to = int32(i + 1)
		spaces[r.Namespace] = true
		if r.Kind == "Secret" {
			c.byNS[r.Namespace] = append(c.byNS[r.Namespace], int32(i))
		}
	}
	c.also = map[int][]Ref{}
	for _, r := range c.sought {
		if base, ok := strings.CutSuffix(r.Name, "-cacert"); ok && base != "" && r.Kind == "Secret" {
			// Istio reads <credentialName>-cacert beside <credentialName>.
			at(base)
			i := int(index[base])
			c.also[i] = append(slices.Clone(c.refs(i)), r)
			slices.SortFunc(c.also[i], Ref.Compare)
		}
	}
	labels := func(ref Ref, list []Pair) {
		for _, l := range list {
			if !managerLabel(l.Key) {
				c.labels[l] = append(c.labels[l], ref)
				at(l.Key).label = true
			}
		}
	}
	owners := func(m *Meta) {
		for _, o := range m.Owners {
			c.ownKind[[2]string{o.Ref.Group, o.Ref.Kind}] = true
			if readKinds[[2]string{o.Ref.Group, o.Ref.Kind}] {
				continue // judged by the records: see Snapshot.Lives
			}
			if o.UID != "" {
				c.ownerOf[o.UID] = append(c.ownerOf[o.UID], m.Ref)
				at(o.UID).owner = true
			} else {
				at(o.Ref.Name).owner = true
			}
			for _, ns := range []string{m.Ref.Namespace, ""} {
				r := o.Ref
				r.Namespace = ns
				c.ownerRef[r] = append(c.ownerRef[r], owned{o.UID, m.Ref})
			}
		}
	}
	for i := range c.o.Secrets {
		s := &c.o.Secrets[i]
		labels(s.Ref, s.Labels)
		owners(&s.Meta)
	}
	for i := range c.o.Certificates {
		owners(&c.o.Certificates[i].Meta)
	}
	for i := range c.o.KnativeCertificates {
		owners(&c.o.KnativeCertificates[i].Meta)
	}
	for i := range c.awaited {
		labels(c.awaited[i].Ref, c.awaited[i].Labels)
	}
	c.awaited = nil
	c.matcher = NewMatcher(names)
	c.spaces = NewMatcher(slices.Sorted(maps.Keys(spaces)))
	c.scan.names = names
	c.scan.spaces = slices.Sorted(maps.Keys(spaces))
	for _, t := range c.texts {
		c.scanText(t)
	}
	c.texts = nil
	// Secrets are not scanned, but a Secret may own another one.
	for i := range c.o.Secrets {
		c.owner(c.o.Secrets[i].Ref, c.o.Secrets[i].Version.UID)
	}
}

// NamedAsOwner reports, after Freeze, whether an object that gets a verdict names
// an owner of a kind. Such a kind is to be scanned, whatever it otherwise
// holds: as long as the owner exists, the object may be wanted.
func (c *Collector) NamedAsOwner(group, kind string) bool { return c.ownKind[[2]string{group, kind}] }

// AlwaysScanned reports whether objects of a kind need a Scan even where Mentions
// finds nothing in them: the kind may refer to Secrets by a selector or through its own
// name, or allow references to every one; or it makes a gateway serve them, so
// that a reference to none at all counts, too.
func AlwaysScanned(group, kind string) bool {
	if slices.ContainsFunc(referencesOf(group, kind), func(r reference) bool { return r.tls }) {
		return true
	}
	return !knownSchema(group, kind) || secretSelectors[[2]string{group, kind}] || group == GroupGateway && kind == "ReferenceGrant"
}

// Frozen reports whether step 1 has ended.
func (c *Collector) Frozen() bool { return c.matcher != nil }

// Mentions reports whether Scan could find evidence in an object, given its JSON
// or one string of it at a time. It is the cheap question that spares most
// objects from being decoded; it may say yes where Scan then finds nothing. It
// says no only where Scan would find nothing, provided that the object has a
// UID, that its kind is not AlwaysScanned, and that text holds every string of it
// either as it is or in JSON that escapes no letter, digit, dash, dot or slash.
// (A known field that names what does not exist is no evidence for anything, and
// not looked for.)
func (c *Collector) Mentions(text []byte) bool {
	found := false
	c.matcher.Find(text, func(i, start int) bool {
		t := &c.targets[i]
		if len(c.refs(i)) > 0 || t.owner {
			found = true
		} else {
			key := c.scan.names[i]
			end := start + len(key)
			switch {
			case jsonKey(text, start, end):
				// Perhaps a label or selector of some other kind's objects, perhaps
				// a selector in a text that is JSON.
				found = len(c.inText(string(text[start-1:min(len(text), end+textWindow)]), 1, key)) > 0
			case len(key) == len(text) && plainLabel(key):
				found = len(c.labels[Pair{key, ""}]) > 0
			default:
				found = true
			}
		}
		return !found
	})
	return found
}

// jsonKey reports whether text[start:end] is a whole key of a JSON object.
func jsonKey(text []byte, start, end int) bool {
	if start == 0 || text[start-1] != '"' || start > 1 && text[start-2] == '\\' {
		return false
	}
	rest, ok := bytes.CutPrefix(text[end:], []byte{'"'})
	return ok && bytes.HasPrefix(bytes.TrimLeft(rest, " \t\r\n"), []byte{':'})
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
		if !slices.Contains(s.tls, e) {
			s.tls = append(s.tls, e)
		}
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

// manages reports whether from is part of the machinery that makes the
// Certificate to, so that naming it is no use of it: its CertificateRequests,
// Orders and Challenges, and the Knative Certificate that it was made for, which
// has its name.
func (c *Collector) manages(from, to Ref) bool {
	if to.Kind != "Certificate" || to.Namespace != from.Namespace {
		return false
	}
	switch {
	case from.Group == GroupACME, from.Group == GroupCertManager && from.Kind == "CertificateRequest":
		return true
	case from.Kind == "Certificate" && (from.Group == GroupCertManager || from.Group == GroupKnativeNet):
		return to.Name == from.Name
	}
	return false
}

// scanState is what one Scan needs, kept from object to object so as to
// allocate once.
type scanState struct {
	names   []string
	spaces  []string
	hits    []hit
	fields  []fieldHit
	besides map[int]string
	env     map[int]*envVar
	labels  []labelHit
	lookup  string // the namespace that an annotation moves an Ingress's Secrets to
}

// hit is a name in a string of the object.
type hit struct {
	field string
	name  int
	exact bool   // the string, or the value of its flag, is the name and nothing else
	key   string // what the string is called, lower case
	free  bool   // the string is data, not a field of a schema
	env   int    // the object of an environment variable's value, 0 for none
	known int    // index of the known field whose value it stands in, -1 for none
}

type fieldHit struct {
	row      reference
	field    string
	value    string
	parent   int
	resolved bool // the field names something that exists
}

type envVar struct{ name, value string }

type labelHit struct {
	field string
	to    []Ref
}

// Scan reads one object of a kind that has no verdict: doc is its JSON. It
// finds what its known fields refer to, and what its other strings could name.
func (c *Collector) Scan(group, kind string, doc []byte) error {
	if ours(group, kind) {
		return c.scanOurs(group, kind, doc)
	}
	s := &c.scan
	s.hits, s.fields, s.labels, s.lookup = s.hits[:0], s.fields[:0], s.labels[:0], ""
	s.besides, s.env = map[int]string{}, map[int]*envVar{}
	rows := c.rowsOf(group, kind)
	schema := knownSchema(group, kind)
	selects := !schema || secretSelectors[[2]string{group, kind}]
	var namespace, name, uid string
	allSecrets, anyNamespace := false, false
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
			anyNamespace = anyNamespace || path[0] != "metadata" && strings.Contains(strings.ToLower(last), "namespace")
			if schema && !freeKeys(path) {
				return
			}
			c.find(path, last, -1, 0, true)
			return
		}
		if last == "namespace" || last == "secretNamespace" || last == "certs-secret-namespace" {
			s.besides[parent] = value
		}
		if last == "projectcontour.io/tls-cert-namespace" && kind == "Ingress" {
			s.lookup = value
		}
		if selects {
			if value == emptyObject {
				allSecrets = allSecrets || selectsAll(path)
			} else if to := c.selected(path, value); len(to) > 0 {
				s.labels = append(s.labels, labelHit{"selector " + last + "=" + value, to})
			}
		}
		if value == emptyObject {
			return
		}
		known := -1
		for i := range rows {
			if r := &rows[i]; pathMatches(r.path, path) {
				known = len(s.fields)
				s.fields = append(s.fields, fieldHit{row: *r, field: fieldPath(path), value: value, parent: parent})
				break
			}
		}
		if argument(path) {
			known = c.flag(path, value, known)
		}
		env := environment(path)
		if env {
			v := s.env[parent]
			if v == nil {
				v = new(envVar)
				s.env[parent] = v
			}
			if last == "name" {
				v.name = value
			} else {
				v.value = value
			}
		}
		if schema && harmless(group, kind, path) {
			return
		}
		if path[0] == "binaryData" && group == "" {
			if b, err := base64.StdEncoding.DecodeString(value); err == nil {
				value = string(b)
			}
		}
		if !env {
			parent = 0
		}
		c.find(path, value, known, parent, false)
	})
	if err != nil {
		return err
	}
	from := Ref{Group: c.str(group), Kind: c.str(kind), Namespace: c.str(namespace), Name: c.str(name)}
	for i := range s.fields {
		s.fields[i].resolved = c.field(from, s.fields[i])
	}
	c.environment(from)
	if len(s.hits) > 0 {
		c.mentions(from, schema, doc)
	}
	for _, l := range s.labels {
		for _, to := range l.to {
			c.edge(Edge{From: from, To: to, Field: l.field, Via: Label}, false)
		}
	}
	if allSecrets {
		for ns, list := range c.byNS {
			if namespace == "" || ns == namespace || anyNamespace {
				for _, n := range list {
					c.edge(Edge{From: from, To: c.sought[n], Field: "selector of all Secrets", Via: Label}, false)
				}
			}
		}
	}
	c.owner(from, uid)
	if !schema && name != "" {
		c.implicit(from)
	}
	if group == GroupGateway && kind == "ReferenceGrant" {
		c.grant(from, doc)
	}
	return nil
}

// scanOurs reads a Consolidation. That it names what it proposes to replace is no
// use of that. But while it is being carried out, it needs the wildcard, which
// nobody may use yet, and the certificates to go back to, which nobody may use
// any more, until it sweeps them. As an owner it counts like any other.
func (c *Collector) scanOurs(group, kind string, doc []byte) error {
	var o v1alpha1.Consolidation
	if err := json.Unmarshal(doc, &o); err != nil {
		return err
	}
	from := Ref{Group: c.str(group), Kind: c.str(kind), Namespace: c.str(o.Namespace), Name: c.str(o.Name)}
	c.owner(from, string(o.UID))
	if !o.Status.Phase.Executing() {
		return nil
	}
	c.edge(Edge{From: from, To: SecretRef(from.Namespace, c.str(o.Spec.SecretName)), Field: "spec.secretName", Via: Field}, false)
	if o.Status.Phase == v1alpha1.Sweeping {
		return nil
	}
	for _, m := range o.Spec.Members {
		c.edge(Edge{From: from, To: SecretRef(from.Namespace, c.str(m.SecretName)), Field: "spec.members[].secretName", Via: Field}, false)
	}
	return nil
}

// find notes the names in one string of an object.
func (c *Collector) find(path []string, value string, known, env int, isKey bool) {
	s := &c.scan
	var field string
	c.matcher.Find([]byte(value), func(i, start int) bool {
		if field == "" {
			field = fieldPath(path)
		}
		t := &c.targets[i]
		if t.label && !isKey {
			if to := c.inText(value, start, s.names[i]); len(to) > 0 {
				s.labels = append(s.labels, labelHit{field, to})
			}
		}
		if len(c.refs(i)) == 0 && !t.owner {
			return true
		}
		h := hit{field: field, name: i, key: strings.ToLower(path[len(path)-1]), env: env, known: known, free: freeKeys(path) || env != 0}
		h.exact = len(value) == len(s.names[i])
		if argument(path) {
			h.free = true
			if flag, v, ok := strings.Cut(value, "="); ok {
				h.exact, h.key = v == s.names[i], strings.ToLower(flag)
			}
		}
		s.hits = append(s.hits, h)
		return true
	})
}

// argument reports whether path leads to an argument of a container.
func argument(path []string) bool {
	n := len(path)
	return n > 3 && path[n-1] == "[]" && (path[n-2] == "args" || path[n-2] == "command")
}

// environment reports whether path leads to the name or the value of an
// environment variable.
func environment(path []string) bool {
	n := len(path)
	return n > 3 && path[n-2] == "[]" && path[n-3] == "env" && (path[n-1] == "name" || path[n-1] == "value")
}

// flag reads --flag=value from an argument, which may be a shell line, and
// returns the index of the known field that it makes, or known.
func (c *Collector) flag(path []string, value string, known int) int {
	for word := range strings.FieldsSeq(value) {
		name, v, ok := strings.Cut(word, "=")
		if !ok || name == "" || name[0] != '-' || !flags[strings.TrimLeft(name, "-")] {
			continue
		}
		known = len(c.scan.fields)
		c.scan.fields = append(c.scan.fields, fieldHit{row: reference{scope: beside, loose: true}, field: fieldPath(path), value: strings.Trim(v, `"'`)})
	}
	return known
}

// environment makes the edges of environment variables that name a Secret:
// net-kourier's, whose namespace is another variable's (its pkg/config).
func (c *Collector) environment(from Ref) {
	for _, v := range c.scan.env {
		if v.name != "CERTS_SECRET_NAME" {
			continue
		}
		ns := ""
		for _, w := range c.scan.env {
			if w.name == "CERTS_SECRET_NAMESPACE" && w.value != "" {
				ns = w.value + "/"
				c.field(from, fieldHit{row: reference{scope: beside, loose: true}, field: "env CERTS_SECRET_NAME", value: ns + v.value})
			}
		}
		if ns == "" {
			c.field(from, fieldHit{row: reference{scope: beside, loose: true}, field: "env CERTS_SECRET_NAME", value: v.value})
		}
	}
}

// owner makes the edges to what an existing object owns.
func (c *Collector) owner(from Ref, uid string) {
	own := func(to Ref) {
		c.edge(Edge{From: from, To: to, Field: "metadata.ownerReferences", Via: Owner}, false)
	}
	if uid != "" {
		for _, to := range c.ownerOf[uid] {
			own(to)
		}
	}
	// Without UIDs, as in a manifest, the name has to tell.
	for _, o := range c.ownerRef[from] {
		if uid == "" || o.uid == "" {
			own(o.ref)
		}
	}
}

// selected are the Secrets that a selector with this leaf selects: a label's
// key and value, as in matchLabels, whatever the map is called. Labels that the
// object carries itself, or gives to another one, select nothing.
func (c *Collector) selected(path []string, value string) []Ref {
	n := len(path)
	if n >= 3 && path[n-2] == "labels" && path[n-3] == "metadata" || n >= 2 && path[0] == "metadata" {
		return nil
	}
	if n >= 3 && path[n-1] == "key" && path[n-2] == "[]" && path[n-3] == "matchExpressions" {
		return c.withLabel(value)
	}
	return c.labels[Pair{path[n-1], value}]
}

// selectsAll reports whether an empty object at path is a selector of Secrets
// with certificates, which then selects all of them.
func selectsAll(path []string) bool {
	n := len(path)
	last := strings.ToLower(path[n-1])
	if !strings.HasSuffix(last, "selector") && last != "matchlabels" && last != "matchexpressions" {
		return false
	}
	for _, p := range path {
		if secretKey(strings.ToLower(p)) {
			return true
		}
	}
	return false
}

// textWindow is how far behind a label's key its values are looked for, in bytes.
const textWindow = 200

// inText are the Secrets that a text selects which holds a label's key at
// start: "key=value", "key in (a, b)", "key: value", `"key":"value"`, and the
// key alone. What stands after the key within a line or so is taken for its
// values, whatever the syntax.
func (c *Collector) inText(value string, start int, key string) []Ref {
	end := start + len(key)
	if !plainLabel(key) && (strings.Contains(key, "/") || alone(value, start, end)) {
		return c.withLabel(key)
	}
	var out []Ref
	rest := value[end:min(len(value), end+textWindow)]
	for w := range strings.FieldsFuncSeq(rest, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '_' || r == '.')
	}) {
		out = append(out, c.labels[Pair{key, w}]...)
		out = append(out, c.labels[Pair{key, strings.TrimRight(w, "-_.")}]...)
	}
	return append(out, c.labels[Pair{key, ""}]...)
}

// alone reports whether value[start:end] is one whole term of a selector
// without a value: the text, or what stands between two commas.
func alone(value string, start, end int) bool {
	before := strings.TrimRight(value[:start], " !")
	after := strings.TrimLeft(value[end:], " ")
	return (before == "" || before[len(before)-1] == ',') && (after == "" || after[0] == ',')
}

// withLabel are the Secrets with a label of any value.
func (c *Collector) withLabel(key string) []Ref {
	var out []Ref
	for l, list := range c.labels {
		if l.Key == key {
			out = append(out, list...)
		}
	}
	return out
}

// implicit finds Secrets whose name an operator may derive from its object's
// name: the name itself, or with something before or after it. Of a
// cluster-scoped object only what comes after it is looked for.
func (c *Collector) implicit(from Ref) {
	name := from.Name
	named := func(to Ref) {
		c.edge(Edge{From: from, To: to, Field: "metadata.name", Via: Mention}, false)
	}
	if from.Namespace != "" {
		for _, n := range c.byNS[from.Namespace] {
			to := c.sought[n]
			if i := strings.Index(to.Name, name); i >= 0 && containsWord(to.Name, name) {
				named(to)
			}
		}
		return
	}
	i, _ := slices.BinarySearchFunc(c.sought, name, func(r Ref, n string) int { return strings.Compare(r.Name, n) })
	for ; i < len(c.sought) && strings.HasPrefix(c.sought[i].Name, name); i++ {
		if rest := c.sought[i].Name[len(name):]; c.sought[i].Kind == "Secret" && (rest == "" || rest[0] == '-' || rest[0] == '.') {
			named(c.sought[i])
		}
	}
}

// containsWord reports whether word stands in s between separators or ends.
func containsWord(s, word string) bool {
	for i := 0; i+len(word) <= len(s); i++ {
		j := strings.Index(s[i:], word)
		if j < 0 {
			return false
		}
		i += j
		end := i + len(word)
		if (i == 0 || !alnum[s[i-1]]) && (end == len(s) || !alnum[s[end]]) {
			return true
		}
	}
	return false
}

// field makes the edges of a known reference field, and reports whether what it
// names exists. Where it does not, the value may be written in a way that we
// do not know, and is looked at like any other string.
func (c *Collector) field(from Ref, f fieldHit) (resolved bool) {
	if f.row.name != "" && f.row.name != from.Name {
		return false
	}
	value := f.value
	for _, scheme := range []string{"kubernetes://", "kubernetes-gateway://"} {
		value = strings.TrimPrefix(value, scheme)
	}
	if value == "" {
		return false
	}
	if strings.ContainsAny(value, ", ") {
		resolved = true
		for _, part := range strings.FieldsFunc(value, func(r rune) bool { return r == ',' || r == ' ' }) {
			f.value = part
			resolved = c.field(from, f) && resolved
		}
		return resolved
	}
	ns, name := from.Namespace, value
	if a, b, ok := strings.Cut(value, "/"); ok {
		ns, name = a, b
		if strings.HasPrefix(ns, "$(") {
			ns = from.Namespace // $(POD_NAMESPACE), as the kubelet expands it
		}
	} else if f.row.scope == beside {
		if n := c.scan.besides[f.parent]; n != "" {
			ns = n
		}
	}
	if f.row.scope == certificate {
		to := CertificateRef(c.str(ns), c.str(name))
		c.edge(Edge{From: from, To: to, Field: f.field, Via: Field}, false)
		return c.judged(to)
	}
	to := func(namespace, name string) bool {
		ref := SecretRef(namespace, name)
		exists := c.judged(ref) || c.other[ref]
		if exists || !f.row.loose && plausible(namespace) && plausible(name) {
			c.edge(Edge{From: from, To: SecretRef(c.str(namespace), c.str(name)), Field: f.field, Via: Field}, f.row.tls)
		}
		return exists
	}
	if f.row.scope != workload || strings.Contains(value, "/") {
		if n := strings.Index(name, "."); n > 0 && f.row.group == "getambassador.io" {
			// Emissary also takes name.namespace.
			if to(name[n+1:], name[:n]) {
				return true
			}
		}
		if c.scan.lookup != "" && f.row.tls {
			to(c.scan.lookup, name)
		}
		exists := to(ns, name)
		if n := c.scan.besides[f.parent]; f.row.scope == own && n != "" && n != ns {
			// The field is said to be local, and yet has a namespace beside it.
			return to(n, name)
		}
		return exists
	}
	// The namespace is some program's. Every Secret of the name may be meant;
	// where there is none at all, nobody can say which one is missing.
	c.matcher.Find([]byte(name), func(i, _ int) bool {
		if c.scan.names[i] == name {
			for _, r := range c.refs(i) {
				if r.Kind == "Secret" {
					c.edge(Edge{From: from, To: r, Field: f.field, Via: Field}, f.row.tls)
					resolved = true
				}
			}
		}
		return true
	})
	return resolved
}

// plausible reports whether s could be the name of a Secret or a namespace.
func plausible(s string) bool {
	for i := range len(s) {
		if c := s[i]; !(c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-' || c == '.') {
			return false
		}
	}
	return s != "" && len(s) <= 253
}

// judged reports whether an object of step 1 exists.
func (c *Collector) judged(ref Ref) bool {
	if i, ok := c.matcher.names[ref.Name]; ok {
		return slices.Contains(c.refs(int(i)), ref)
	}
	return false
}

// mentions makes the edges of strings that are no known reference field.
func (c *Collector) mentions(from Ref, schema bool, doc []byte) {
	s := &c.scan
	var words map[string]bool
	for _, h := range s.hits {
		name := s.names[h.name]
		t, refs := &c.targets[h.name], c.refs(h.name)
		if t.owner {
			for _, to := range c.ownerOf[name] {
				c.edge(Edge{From: from, To: to, Field: h.field, Via: Mention}, false)
			}
		}
		if h.known >= 0 && s.fields[h.known].resolved {
			continue
		}
		if h.env != 0 {
			if v := s.env[h.env]; v != nil {
				h.key = strings.ToLower(v.name)
			}
		}
		for _, to := range refs {
			if from.Namespace != "" && to.Namespace != from.Namespace && !c.abroad(from, to, schema, h) {
				if words == nil {
					words = map[string]bool{}
					c.spaces.Find(doc, func(i, _ int) bool { words[s.spaces[i]] = true; return true })
				}
				if !words[to.Namespace] {
					continue
				}
			}
			c.edge(Edge{From: from, To: to, Field: h.field, Via: Mention}, false)
		}
	}
}

// abroad reports whether a name without a namespace may mean an object of
// another one: a program may look where its object does not tell. Where the
// schema is known, only what is called a Secret and is free text may be such a
// name. An object of that kind and name in from's own namespace is nearer, but
// for kinds that copy, and for fields that sound like a Secret's.
func (c *Collector) abroad(from, to Ref, schema bool, h hit) bool {
	if !h.exact || schema && !(h.free && secretKey(h.key)) {
		return false
	}
	if !schema && (secretKey(h.key) || copies(from.Group)) {
		return true
	}
	near := to
	near.Namespace = from.Namespace
	return !c.judged(near) && !c.other[near]
}

// scanText looks at a string of an object of step 1.
func (c *Collector) scanText(t text) {
	s := &c.scan
	s.besides, s.lookup = map[int]string{}, ""
	s.hits, s.fields, s.labels = s.hits[:0], s.fields[:0], s.labels[:0]
	if t.known && c.field(t.from, fieldHit{row: t.row, field: t.field, value: t.value}) {
		return
	}
	c.find([]string{t.field}, t.value, -1, 0, false)
	if len(s.hits) > 0 {
		c.mentions(t.from, true, []byte(t.value))
	}
	for _, l := range s.labels {
		for _, to := range l.to {
			c.edge(Edge{From: t.from, To: to, Field: l.field, Via: Label}, false)
		}
	}
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

// Snapshot ends the collection: the Collector must not be used afterwards.
// taken is when the cluster was looked at.
func (c *Collector) Snapshot(taken time.Time) *Snapshot {
	if c.matcher == nil {
		c.Freeze()
	}
	n := 0
	for _, s := range c.edges {
		n += len(s.tls) + len(s.other)
	}
	edges := make([]Edge, 0, n)
	for _, s := range c.edges {
		edges = append(edges, s.tls...)
		edges = append(edges, s.other...)
	}
	for _, a := range c.authorities {
		c.o.Authorities = append(c.o.Authorities, a.a)
	}
	for ref, x := range c.chains {
		issuer := IssuerRef{c.str(ref.Group), c.str(ref.Kind), c.str(ref.Namespace), c.str(ref.Name)}
		c.o.Chains = append(c.o.Chains, Chain{issuer, x.bytes})
	}
	c.inherit()
	c.relays.settle(c.o.Workloads)
	o, gaps := c.o, c.gaps
	*c = Collector{} // what it holds besides is as much again
	return New(taken, o, edges, gaps)
}
