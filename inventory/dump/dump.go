// Package dump reads a cluster from files instead of from its API server, and
// writes what certherd knows of a cluster into a file that holds no keys.
//
// docs/dump.md says what a dump is, for people.
package dump

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/certherd/certherd/inventory"
)

// Options say how to read a dump.
type Options struct {
	// Complete is the word of the dump's owner that it holds every object of
	// every kind of the cluster. Documents that cannot be read are Gaps all the
	// same, and so are the Gaps that a dump of ours lists itself.
	Complete bool
	// Stdin is what the path "-" reads.
	Stdin io.Reader
	// Namespaces limits what gets a verdict to these namespaces; all if empty.
	// References from elsewhere still count.
	Namespaces []string
	// Object, when set, is called with the JSON of each object that became a
	// record, without the keys of Secrets; doc is valid during the call. It is
	// what a Writer wants, so that any dump can be made into one of ours.
	Object func(group, version, kind string, doc []byte)
}

// A Problem is a document, or a whole file, that could not be read, or was
// passed over. Line is where the document begins, 0 when it is about the whole
// file. File is the path as it was given or found; members of archives are
// archive.tar.gz!member.
type Problem struct {
	File    string
	Line    int
	Message string
}

func (p Problem) String() string {
	if p.Line == 0 {
		return p.File + ": " + p.Message
	}
	return fmt.Sprintf("%s:%d: %s", p.File, p.Line, p.Message)
}

// Read reads files, directories, archives and, as "-", o.Stdin into one
// Snapshot. What could not be read is listed as Problems and, since it may hold
// a reference, as Gaps of the Snapshot. The error is for a path that does not
// exist, or when nothing at all could be read.
//
// Snapshot.Taken is the time in a header of ours, else the newest time that
// the objects themselves tell; it is never the time of the reading.
func Read(paths []string, o Options) (*inventory.Snapshot, []Problem, error) {
	r := newReader(o)
	defer r.spool.close()
	for _, p := range paths {
		if err := r.path(p); err != nil {
			return nil, r.problems, err
		}
	}
	if r.objects == 0 && r.lists == 0 && len(r.headers) == 0 {
		err := fmt.Errorf("found no Kubernetes objects in %s", strings.Join(paths, ", "))
		if len(r.problems) > 0 {
			err = fmt.Errorf("%w: %s", err, r.problems[0])
		}
		return nil, r.problems, err
	}
	s, err := r.snapshot()
	return s, r.problems, err
}

// A reader collects the documents of all paths, and then makes a Snapshot of
// them. It needs two passes, because what to look for in an object is known only when
// all Secrets and Certificates are: the first puts what matters of
// every document into the spool.
type reader struct {
	o        Options
	spool    *spool
	entries  []entry
	intern   map[string]string
	problems []Problem
	more     int // problems beyond maxProblems
	gaps     map[string]*brokenKind
	headers  []header
	edges    []inventory.Edge
	seen     map[[2]string]bool // kinds of which there is an object or an empty list
	newest   time.Time
	objects  int   // documents that were objects, with duplicates
	lists    int   // lists, with empty ones
	archived int64 // bytes that came out of compression so far
	members  int   // members of archives so far
}

// entry is an object in the spool.
type entry struct {
	ref     inventory.Ref
	version string // metadata.resourceVersion
	served  string // the API version without its group
	file    string
	line    int
	list    *list // what the object inherits its kind or version from, nil if it has its own
	noGroup bool  // the group comes from the list, too
	at      place
}

// list is what the items of a list inherit from it. It may stand after the
// items.
type list struct{ apiVersion, kind string }

type brokenKind struct {
	first string
	count int
}

func newReader(o Options) *reader {
	return &reader{o: o, spool: new(spool), intern: map[string]string{}, gaps: map[string]*brokenKind{}, seen: map[[2]string]bool{}}
}

// str makes equal strings one.
func (r *reader) str(s string) string {
	if v, ok := r.intern[s]; ok {
		return v
	}
	s = strings.Clone(s)
	r.intern[s] = s
	return s
}

// note adds a problem that hides nothing.
func (r *reader) note(file string, line int, message string) {
	if len(r.problems) >= maxProblems {
		r.more++
		return
	}
	r.problems = append(r.problems, Problem{File: file, Line: line, Message: message})
}

// broken adds a problem that may hide a reference. kind is the kind of the
// document as gapKind writes it, "*" if nobody knows.
func (r *reader) broken(file string, line int, kind, message string) {
	r.note(file, line, message)
	if kind == "event" || kind == "event.events.k8s.io" {
		return // see notReferring
	}
	b := r.gaps[kind]
	if b == nil {
		b = &brokenKind{first: Problem{file, line, message}.String()}
		r.gaps[kind] = b
	}
	b.count++
}

// anyKind in a Gap stands for kinds that nobody can name.
const anyKind = "*"

// gapKind writes a kind the way Gaps do.
func gapKind(group, kind string) string {
	if group == "" {
		return strings.ToLower(kind)
	}
	return strings.ToLower(kind) + "." + group
}

// snapshot is the second pass.
func (r *reader) snapshot() (*inventory.Snapshot, error) {
	r.resolve()
	order, older, err := r.newestFirst()
	if err != nil {
		return nil, err
	}
	c := inventory.NewCollector()
	scan := map[int]bool{} // objects of judged kinds that get no record, and are scanned instead
	var buf []byte
	load := func(e *entry) (doc []byte, err error) {
		buf, err = r.spool.get(e.at, buf)
		return withoutMarkers(buf), err
	}

	known := map[inventory.Ref]bool{}
	for _, i := range order {
		e := &r.entries[i]
		if !judged(e.ref) {
			continue
		}
		if e.ref.Kind == "Secret" {
			known[e.ref] = true
			if !r.wanted(e.ref.Namespace) {
				c.AddSecret(&metav1.ObjectMeta{Namespace: e.ref.Namespace, Name: e.ref.Name}, "", nil, time.Time{})
				continue
			}
		} else if !r.wanted(e.ref.Namespace) {
			scan[i] = true
			continue
		}
		doc, err := load(e)
		if err != nil {
			return nil, err
		}
		if !r.add(c, e, doc) {
			scan[i] = true
		}
	}
	for _, h := range r.headers {
		for ns, names := range h.OtherSecrets {
			for _, n := range names {
				if ref := inventory.SecretRef(ns, n); !known[ref] {
					known[ref] = true
					c.AddSecret(&metav1.ObjectMeta{Namespace: ns, Name: n}, "", nil, time.Time{})
				}
			}
		}
	}
	c.Freeze()

	for _, i := range order {
		e := &r.entries[i]
		if judged(e.ref) && !scan[i] {
			continue
		}
		doc, err := load(e)
		if err != nil {
			return nil, err
		}
		if !judged(e.ref) && (r.wanted(e.ref.Namespace) || everywhere(e.ref)) {
			r.add(c, e, doc)
		}
		if err := c.Scan(e.ref.Group, e.ref.Kind, doc); err != nil {
			r.broken(e.file, e.line, gapKind(e.ref.Group, e.ref.Kind), err.Error())
		}
	}
	for _, i := range older {
		e := &r.entries[i]
		doc, err := load(e)
		if err != nil {
			return nil, err
		}
		if err := c.Scan(e.ref.Group, e.ref.Kind, doc); err != nil {
			r.broken(e.file, e.line, gapKind(e.ref.Group, e.ref.Kind), err.Error())
		}
	}
	for _, e := range r.edges {
		c.AddEdge(e)
	}
	taken := r.newest
	if len(r.headers) > 0 {
		taken = time.Time{}
		for _, h := range r.headers {
			if h.TakenAt.After(taken) {
				taken = h.TakenAt
			}
		}
	}
	for _, g := range r.allGaps() {
		c.Gap(g)
	}
	if r.more > 0 {
		r.problems = append(r.problems, Problem{Message: fmt.Sprintf("and %d more problems", r.more)})
		r.more = 0
	}
	return c.Snapshot(taken), nil
}

// add makes a record of an object; ok is false if it cannot be read.
func (r *reader) add(c *inventory.Collector, e *entry, doc []byte) (ok bool) {
	kept, err := c.Add(e.ref.Group, e.ref.Kind, doc)
	if err != nil {
		r.broken(e.file, e.line, gapKind(e.ref.Group, e.ref.Kind), err.Error())
		return false
	}
	if kept && r.o.Object != nil {
		r.o.Object(e.ref.Group, e.served, e.ref.Kind, doc)
	}
	return true
}

// everywhere are records that matter whichever namespaces are asked for: the
// gateways, Knative's settings, and what has no namespace.
func everywhere(ref inventory.Ref) bool {
	switch ref.Kind {
	case "Deployment", "DaemonSet", "ConfigMap":
		return true
	}
	return ref.Namespace == ""
}

func (r *reader) wanted(namespace string) bool {
	return len(r.o.Namespaces) == 0 || slices.Contains(r.o.Namespaces, namespace)
}

func judged(ref inventory.Ref) bool { return inventory.Judged(ref.Group, ref.Kind) }

// resolve gives items of lists the kind that they inherit, and takes out those
// that have none.
func (r *reader) resolve() {
	kept := r.entries[:0]
	for _, e := range r.entries {
		if e.list != nil {
			kind, ok := strings.CutSuffix(e.list.kind, "List")
			if !ok || kind == "" || e.list.apiVersion == "" {
				r.broken(e.file, e.line, anyKind, "a list's item has no kind, and the list does not tell it")
				continue
			}
			if e.ref.Kind == "" {
				e.ref.Kind = r.str(kind)
			}
			if e.noGroup {
				e.ref.Group = r.str(groupOf(e.list.apiVersion))
				e.served = r.str(versionOf(e.list.apiVersion))
			}
			e.list = nil
			if e.ref.Group == headerGroup && e.ref.Kind == "Reference" {
				r.objects--
				r.spooledReference(e)
				continue
			}
		}
		r.seen[[2]string{e.ref.Group, e.ref.Kind}] = true
		kept = append(kept, e)
	}
	r.entries = kept
}

// spooledReference reads a reference of a list that said only at its end what
// it lists.
func (r *reader) spooledReference(e entry) {
	doc, err := r.spool.get(e.at, nil)
	var o object
	if err == nil {
		o, err = parseObject(doc)
	}
	if err != nil {
		r.broken(e.file, e.line, anyKind, plain(err))
		return
	}
	r.reference(e.file, e.line, o)
}

// newestFirst tells duplicates from originals: order holds one entry of every
// object, in the order of reading, and older the other copies that say
// something else. Of two copies the one with the higher resourceVersion
// counts, or the later one where that does not tell.
func (r *reader) newestFirst() (order, older []int, err error) {
	copies := make(map[inventory.Ref]int, len(r.entries))
	rest := map[int][]int{}
	for i := range r.entries {
		e := &r.entries[i]
		j, ok := copies[e.ref]
		if !ok || e.ref.Name == "" {
			copies[e.ref] = i
			order = append(order, i)
			continue
		}
		rest[j] = append(rest[j], i)
	}
	for n, i := range order {
		best := i
		for _, j := range rest[i] {
			if compareVersions(r.entries[j].version, r.entries[best].version) >= 0 {
				best = j
			}
		}
		if len(rest[i]) == 0 {
			continue
		}
		order[n] = best
		want, err := r.canonical(best)
		if err != nil {
			return nil, nil, err
		}
		for _, j := range append([]int{i}, rest[i]...) {
			if j == best {
				continue
			}
			got, err := r.canonical(j)
			if err != nil {
				return nil, nil, err
			}
			if got != want {
				older = append(older, j)
			}
		}
	}
	return order, older, nil
}

// compareVersions compares resource versions as numbers, which API servers
// promise since Kubernetes 1.35 (KEP-5504); others are equal.
func compareVersions(a, b string) int {
	if !number(a) || !number(b) {
		return 0
	}
	a, b = strings.TrimLeft(a, "0"), strings.TrimLeft(b, "0")
	return cmp.Or(cmp.Compare(len(a), len(b)), strings.Compare(a, b))
}

func number(s string) bool {
	return s != "" && strings.Trim(s, "0123456789") == ""
}

// allGaps are the kinds that the dump does not show in full.
func (r *reader) allGaps() []inventory.Gap {
	var out []inventory.Gap
	lost := func(kind, reason string) {
		out = append(out, inventory.Gap{Kind: kind, Reason: reason})
		if kind != anyKind {
			return
		}
		// It may have been a Secret that otherwise seems to be missing.
		for _, k := range inventory.JudgedKinds {
			out = append(out, inventory.Gap{Kind: gapKind(k.Group, k.Kind), Reason: reason})
		}
	}
	for kind, b := range r.gaps {
		reason := "a document could not be read: " + b.first
		if b.count > 1 {
			reason = fmt.Sprintf("%d documents could not be read, the first is %s", b.count, b.first)
		}
		lost(kind, reason)
	}
	complete := r.o.Complete || len(r.headers) > 0
	objects, references := 0, 0
	for _, h := range r.headers {
		for _, g := range h.Gaps {
			out = append(out, inventory.Gap{Kind: g.Kind, Reason: g.Reason})
		}
		complete = complete && (r.o.Complete || h.Complete || len(h.Gaps) > 0)
		objects += h.Objects
		references += h.References
	}
	if r.objects < objects || len(r.edges) < references {
		lost(anyKind, fmt.Sprintf("the dump says that it has %d objects and %d references, but only %d and %d were found: a part of it is missing", objects, references, r.objects, len(r.edges)))
	}
	if complete {
		return out
	}
	out = append(out, inventory.Gap{Kind: anyKind, Reason: "a dump shows only the kinds that were put into it; use --complete if it holds all"})
	for _, k := range slices.Concat(inventory.JudgedKinds, inventory.RecordKinds) {
		if !r.seen[[2]string{k.Group, k.Kind}] {
			out = append(out, inventory.Gap{Kind: gapKind(k.Group, k.Kind), Reason: "not in the dump"})
		}
	}
	return out
}

// errLimit ends the reading of a file that is larger than we are willing to
// read.
var errLimit = errors.New("too large")
