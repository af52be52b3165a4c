package apply

import (
	"bufio"
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"crypto/rand"
	"encoding/base32"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/rest"

	"github.com/certherd/certherd/inventory"
	"github.com/certherd/certherd/plan"
)

// JournalLabel is on the ConfigMaps of the journal.
const JournalLabel = "certherd.dev/journal"

// maxJournalBytes is below what the API server allows in one ConfigMap (1 MiB,
// k8s.io/api core/v1 MaxSecretSize), so that metadata has room.
const maxJournalBytes = 1 << 20 * 3 / 4

const (
	journalPrefix = "certherd-journal-"
	journalKey    = "entries.jsonl.gz.base32"
	// unpackedLimit is the most that one part may unpack to.
	unpackedLimit = 256 << 20
)

// Undo is the Action of an entry about something that a person has taken back.
const Undo plan.Action = "undo"

// Said is the Action of an entry about something that a person, or certherd's
// circuit breaker, has said about changes, and that concerns no single object.
const Said plan.Action = "said"

// State says how far an entry has come.
type State string

const (
	// Intended: it is about to be done, or the program ended before it could note
	// what came of it.
	Intended State = "intended"
	// Carried: it was done.
	Carried State = "done"
	// Left: it was not done.
	Left State = "not done"
)

// Object names what an entry is about.
type Object struct {
	Group     string `json:"group,omitempty"`
	Kind      string `json:"kind"`
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name"`
}

// Ref is the object's name as the rest of certherd has it.
func (o Object) Ref() inventory.Ref { return inventory.Ref(o) }

// Entry is one line of the journal.
type Entry struct {
	// ID is ROUND/NUMBER.
	ID     string      `json:"id"`
	Round  string      `json:"round"`
	Time   time.Time   `json:"time"`
	Action plan.Action `json:"action"`
	Object Object      `json:"object"`
	UID    string      `json:"uid,omitempty"`
	// Reason and Message are those of the finding that led to it.
	Reason  plan.Reason `json:"reason,omitempty"`
	Message string      `json:"message,omitempty"`
	// DeleteAfter is the time on the mark of a retired Secret.
	DeleteAfter *time.Time `json:"deleteAfter,omitempty"`
	State       State      `json:"state"`
	Ended       *time.Time `json:"ended,omitempty"`
	// Manifest is what a removed Certificate or Knative Certificate is made again
	// from. It holds no key.
	Manifest json.RawMessage `json:"manifest,omitempty"`

	in *part
}

// close notes what came of an intent. What nobody knows stays open.
func (e *Entry) close(s Status, now time.Time) {
	switch {
	case s.done():
		e.end(Carried, now)
	case s == Dropped:
		e.end(Left, now)
	}
}

func (e *Entry) end(s State, now time.Time) {
	now = now.UTC().Truncate(time.Second)
	e.State, e.Ended = s, &now
	if e.in != nil {
		e.in.dirty = true
	}
}

// Journal is kept in ConfigMaps of certherd's namespace: JSON, one entry a line,
// compressed (gzip), in base32 (RFC 4648; `base32 -d | zcat` reads it). That is more
// than thrift: the conservative scan takes every name in a ConfigMap for a
// reference, and a journal in plain text would keep alive for ever what it
// tells the removal of. In base32 it is one single word, in which no name
// stands by itself, not even by chance as in binary data.
//
// Entries are added to the last part, with its resourceVersion as the
// precondition. So of two programs that both believe to lead, one cannot store
// its intents, and does nothing.
type Journal struct {
	api          typedcorev1.ConfigMapInterface
	namespace    string
	bytes, parts int
	loaded       []*part // in order, nil when not loaded
}

// part is one ConfigMap.
type part struct {
	object  *corev1.ConfigMap
	entries []*Entry
	dirty   bool
}

// OpenJournal returns the journal in a namespace. Nothing is read yet.
func OpenJournal(cfg *rest.Config, namespace string) (*Journal, error) {
	if namespace == "" {
		return nil, errors.New("the journal needs the namespace that certherd runs in")
	}
	cfg = rest.CopyConfig(cfg)
	if cfg.Timeout == 0 {
		cfg.Timeout = 30 * time.Second
	}
	client, err := typedcorev1.NewForConfig(cfg)
	if err != nil {
		return nil, err
	}
	d := Defaults()
	return &Journal{api: client.ConfigMaps(namespace), namespace: namespace, bytes: d.JournalBytes, parts: d.JournalParts}, nil
}

// Entries returns all entries, oldest first.
func (j *Journal) Entries(ctx context.Context) ([]Entry, error) {
	if err := j.load(ctx); err != nil {
		return nil, err
	}
	var out []Entry
	for _, e := range j.all() {
		x := *e
		x.in = nil
		out = append(out, x)
	}
	slices.SortStableFunc(out, func(a, b Entry) int { return cmp.Or(a.Time.Compare(b.Time), strings.Compare(a.Round, b.Round)) })
	return out, nil
}

// Note adds entries about what was not carried out by an Applier, but is part of
// the story: what a person has said. Those whose ID is there already are left
// out.
func (j *Journal) Note(ctx context.Context, entries []Entry) error {
	if err := j.load(ctx); err != nil {
		return err
	}
	known := map[string]bool{}
	for _, e := range j.all() {
		known[e.ID] = true
	}
	var fresh []*Entry
	for _, e := range entries {
		if !known[e.ID] {
			fresh = append(fresh, &e)
		}
	}
	if len(fresh) == 0 {
		return nil
	}
	_, err := j.add(ctx, fresh)
	return err
}

func (j *Journal) all() []*Entry {
	var out []*Entry
	for _, p := range j.loaded {
		out = append(out, p.entries...)
	}
	return out
}

// load reads the journal as it is now.
func (j *Journal) load(ctx context.Context) error {
	j.loaded = nil
	list, err := j.api.List(ctx, metav1.ListOptions{LabelSelector: JournalLabel})
	if err != nil {
		return fmt.Errorf("cannot read the journal in namespace %s: %w", j.namespace, err)
	}
	loaded := []*part{}
	for i := range list.Items {
		o := &list.Items[i]
		entries, err := unpack([]byte(o.Data[journalKey]))
		if err != nil {
			return fmt.Errorf("cannot read ConfigMap %s/%s of the journal: %w; move it away (remove its label %s) to go on without it", o.Namespace, o.Name, err, JournalLabel)
		}
		o.ManagedFields = nil
		p := &part{object: o, entries: entries}
		for _, e := range entries {
			e.in = p
		}
		loaded = append(loaded, p)
	}
	slices.SortFunc(loaded, func(a, b *part) int {
		return cmp.Or(cmp.Compare(number(a), number(b)), strings.Compare(a.object.Name, b.object.Name))
	})
	j.loaded = loaded
	return nil
}

// number is the place of a part among the others.
func number(p *part) int {
	n, _ := strconv.Atoi(strings.TrimPrefix(p.object.Name, journalPrefix))
	return n
}

// add stores entries, and returns the API server's clock. Once it returns without
// an error, all of them are stored; after an error, some may be.
func (j *Journal) add(ctx context.Context, entries []*Entry) (time.Time, error) {
	if j.loaded == nil {
		if err := j.load(ctx); err != nil {
			return time.Time{}, err
		}
	}
	err := j.place(entries)
	var at time.Time
	if err == nil {
		at, err = j.store(ctx)
	}
	if err != nil {
		j.loaded = nil // what is in memory is not what is stored
		return time.Time{}, fmt.Errorf("nothing is done that is not in the journal: %w", err)
	}
	return at, nil
}

// place puts entries into the last part, or into new ones.
func (j *Journal) place(entries []*Entry) error {
	if n := len(j.loaded); n > 0 {
		last := j.loaded[n-1]
		if b, err := pack(slices.Concat(last.entries, entries)); err != nil {
			return err
		} else if len(b) <= j.bytes {
			last.append(entries)
			return nil
		}
	}
	if len(j.loaded) >= j.parts {
		return fmt.Errorf("the journal is full: %d ConfigMaps of %d bytes in namespace %s; it empties as entries become older than it keeps them, or allow it more parts", len(j.loaded), j.bytes, j.namespace)
	}
	b, err := pack(entries)
	if err != nil {
		return err
	}
	if len(b) > j.bytes {
		if len(entries) == 1 {
			return fmt.Errorf("the manifest of %s takes %d bytes, and a ConfigMap of the journal %d at most", entries[0].Object.Ref(), len(b), j.bytes)
		}
		half := len(entries) / 2
		if err := j.place(entries[:half]); err != nil {
			return err
		}
		return j.place(entries[half:])
	}
	next := 1
	if n := len(j.loaded); n > 0 {
		next = number(j.loaded[n-1]) + 1
	}
	p := &part{object: &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{
		Name:   fmt.Sprintf("%s%06d", journalPrefix, next),
		Labels: map[string]string{JournalLabel: "true", "app.kubernetes.io/name": "certherd", "app.kubernetes.io/component": "journal"},
	}}}
	p.append(entries)
	j.loaded = append(j.loaded, p)
	return nil
}

func (p *part) append(entries []*Entry) {
	for _, e := range entries {
		e.in = p
	}
	p.entries, p.dirty = append(p.entries, entries...), true
}

// save stores what has changed since it was loaded.
func (j *Journal) save(ctx context.Context) error {
	_, err := j.store(ctx)
	if err != nil {
		j.loaded = nil
	}
	return err
}

func (j *Journal) store(ctx context.Context) (at time.Time, err error) {
	for _, p := range j.loaded {
		if !p.dirty {
			continue
		}
		b, err := pack(p.entries)
		if err != nil {
			return at, err
		}
		p.object.Data = map[string]string{journalKey: string(b)}
		var stored *corev1.ConfigMap
		if p.object.ResourceVersion == "" {
			stored, err = j.api.Create(ctx, p.object, metav1.CreateOptions{FieldManager: fieldManager})
		} else {
			stored, err = j.api.Update(ctx, p.object, metav1.UpdateOptions{FieldManager: fieldManager})
		}
		switch {
		case apierrors.IsConflict(err), apierrors.IsAlreadyExists(err):
			return at, fmt.Errorf("somebody else has written to the journal (ConfigMap %s/%s) meanwhile: %w", j.namespace, p.object.Name, err)
		case err != nil:
			return at, fmt.Errorf("cannot write ConfigMap %s/%s of the journal: %w", j.namespace, p.object.Name, err)
		}
		for _, f := range stored.ManagedFields {
			if f.Manager == fieldManager && f.Time != nil && f.Time.After(at) {
				at = f.Time.Time
			}
		}
		stored.ManagedFields = nil
		p.object, p.dirty = stored, false
	}
	return at, nil
}

// prune forgets entries from before a time. It is called with the journal
// loaded.
func (j *Journal) prune(ctx context.Context, before time.Time) error {
	kept := j.loaded[:0:0]
	for i, p := range j.loaded {
		n := len(p.entries)
		p.entries = slices.DeleteFunc(p.entries, func(e *Entry) bool { return e.Time.Before(before) })
		p.dirty = p.dirty || len(p.entries) < n
		// The last part stays, so that no number is used twice.
		if len(p.entries) > 0 || i == len(j.loaded)-1 {
			kept = append(kept, p)
			continue
		}
		uid := p.object.UID
		err := j.api.Delete(ctx, p.object.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: (*types.UID)(&uid), ResourceVersion: &p.object.ResourceVersion}})
		if err != nil && !apierrors.IsNotFound(err) {
			j.loaded = nil
			return fmt.Errorf("cannot remove ConfigMap %s/%s of the journal: %w", j.namespace, p.object.Name, err)
		}
	}
	j.loaded = kept
	return j.save(ctx)
}

func pack(entries []*Entry) ([]byte, error) {
	var b bytes.Buffer
	text := base32.NewEncoder(base32.StdEncoding, &b)
	z := gzip.NewWriter(text)
	enc := json.NewEncoder(z)
	enc.SetEscapeHTML(false)
	for _, e := range entries {
		if err := enc.Encode(e); err != nil {
			return nil, err
		}
	}
	if err := z.Close(); err != nil {
		return nil, err
	}
	if err := text.Close(); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

func unpack(b []byte) ([]*Entry, error) {
	if len(b) == 0 {
		return nil, errors.New("it has no " + journalKey)
	}
	z, err := gzip.NewReader(base32.NewDecoder(base32.StdEncoding, bytes.NewReader(b)))
	if err != nil {
		return nil, err
	}
	limited := &io.LimitedReader{R: z, N: unpackedLimit}
	dec := json.NewDecoder(bufio.NewReader(limited))
	var out []*Entry
	for {
		e := new(Entry)
		switch err := dec.Decode(e); {
		case err == io.EOF && limited.N > 0:
			return out, nil
		case err != nil:
			return nil, err
		}
		out = append(out, e)
	}
}

// roundID names a round by when it began, and a few random digits.
func roundID(now time.Time) string {
	var b [3]byte
	_, _ = rand.Read(b[:]) // never fails: see crypto/rand
	return now.UTC().Format("20060102-150405-") + hex.EncodeToString(b[:])
}

// entry is the intent of one step.
func (r *round) entry(it *item, now time.Time) *Entry {
	r.entries++
	why := it.change.Why
	e := &Entry{
		ID: fmt.Sprintf("%s/%d", r.id, r.entries), Round: r.id, Time: now.UTC().Truncate(time.Second),
		Action: it.step.Action, Object: Object(it.step.Object), UID: it.live.version.UID,
		Reason: why.Reason, Message: why.Message, State: Intended, Manifest: it.manifest,
	}
	if it.step.Action == plan.Retire {
		until := it.mark.DeleteAfter
		e.Time, e.DeleteAfter = it.mark.RetiredAt, &until
	}
	return e
}

// Recover closes the intents that nobody has closed, by asking the API server
// what has become of their objects, and forgets what is older than Options.Keep.
func (a *Applier) Recover(ctx context.Context) error {
	j := a.journal
	if err := j.load(ctx); err != nil {
		return err
	}
	for _, e := range j.all() {
		if e.State != Intended {
			continue
		}
		o, err := a.cluster.get(ctx, e.Object.Ref())
		if err != nil && !apierrors.IsNotFound(err) {
			continue // stays open
		}
		state := Left
		if happened(e, o) {
			state = Carried
		}
		e.end(state, a.o.Clock.Now())
	}
	if err := j.save(ctx); err != nil {
		return err
	}
	a.fault("02 recovered")
	if err := j.prune(ctx, a.o.Clock.Now().Add(-a.o.Keep)); err != nil {
		return err
	}
	a.fault("03 pruned")
	return nil
}

// happened reports whether the object, nil when there is none, shows that an
// intent was carried out.
func happened(e *Entry, o *object) bool {
	same := o != nil && o.version.UID == e.UID
	switch e.Action {
	case plan.Delete:
		return !same || o.deleting
	case plan.Retire:
		if !same || e.DeleteAfter == nil {
			return false
		}
		mark, ok := plan.MarkOf(metaOf(o.meta))
		return ok && mark.RetiredAt.Equal(e.Time) && mark.DeleteAfter.Equal(*e.DeleteAfter)
	case plan.Unretire:
		return same && !plan.Marked(metaOf(o.meta))
	}
	return false
}

func notFoundIsNil(err error) error {
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}
