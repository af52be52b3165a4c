// Package live reads a cluster through its API server into an
// inventory.Snapshot. It only ever lists: it needs the verb list on what it is to
// see, and nothing else.
//
// What it reads is streamed object by object through an inventory.Collector;
// memory grows with the number of certificates, not with the cluster. Of
// Secrets, only metadata and type are asked for, so no key leaves the API
// server.
package live

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/rest"

	"github.com/certherd/certherd/inventory"
)

// Options say what to look at and how.
type Options struct {
	// Namespaces is where lists are tried when the whole cluster may not be
	// listed. What could not be listed cluster-wide stays a Gap, for a reference
	// may come from any namespace. Where the whole cluster may be listed, it is
	// looked at all the same: to report on some namespaces or labels only is the
	// caller's choice among what was judged.
	Namespaces []string
	// Proof asks for the conservative scan of every kind that the API server
	// can list. Without it, each kind that was passed over is a Gap, and so
	// nothing is unused.
	Proof bool
	// PageSize is the number of objects of a page, 500 when 0.
	PageSize int64
	// Timeout is how long to wait for the next byte of an answer, one minute
	// when 0.
	Timeout time.Duration
	// Compress asks the API server for gzip. It spares nine tenths of the
	// traffic and costs more time than a fast link needs for it
	// (docs/performance.md).
	Compress bool
	// Progress, when set, is called from time to time, by one goroutine at a time.
	Progress func(Progress)
	// Object, when set, is called with the JSON of each object that became a
	// record, by one goroutine at a time. Secrets come without data: apiVersion,
	// kind, metadata and type, and without the annotation
	// kubectl.kubernetes.io/last-applied-configuration. doc is valid during the
	// call only.
	Object func(group, version, kind string, doc []byte)
	// Now is the clock, time.Now when nil.
	Now func() time.Time
}

// Progress says how far a look has come.
type Progress struct {
	Kind      string // what is being read, as "kind.group" in lower case
	Kinds, Of int    // how many kinds have been read, of how many
	Objects   int    // how many objects have been read, of all kinds
}

// Stats are what a look cost.
type Stats struct {
	Requests int64
	Bytes    int64          // of all answers' bodies, after decompression
	Objects  map[string]int // objects read, by "kind.group" in lower case
	Duration time.Duration
	// Versions are how far what it has read reached, for Watch; of kinds that could not
	// be listed in the whole cluster there is none.
	Versions Versions
}

// Look reads the cluster that cfg leads to. Whatever could not be read is a Gap
// of the Snapshot. It fails only when nothing could be read, or when ctx ends.
func Look(ctx context.Context, cfg *rest.Config, o Options) (*inventory.Snapshot, Stats, error) {
	if o.PageSize <= 0 {
		o.PageSize = 500
	}
	if o.Timeout <= 0 {
		o.Timeout = time.Minute
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	l := &look{o: o, c: inventory.NewCollector(), stats: Stats{Objects: map[string]int{}, Versions: Versions{}}}
	taken := o.Now()
	err := l.run(ctx, cfg)
	l.stats.Requests, l.stats.Bytes = l.traffic.requests.Load(), l.traffic.bytes.Load()
	l.stats.Duration = o.Now().Sub(taken)
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		return nil, l.stats, err
	}
	return l.c.Snapshot(taken), l.stats, nil
}

// look is one Look under way.
type look struct {
	o       Options
	client  rest.Interface
	traffic traffic

	mu     sync.Mutex // guards what follows
	c      *inventory.Collector
	stats  Stats
	done   int // kinds
	kinds  int
	read   int // objects
	lists  int // that were read in full
	failed error
}

func (l *look) run(ctx context.Context, cfg *rest.Config) error {
	if err := l.connect(cfg); err != nil {
		return err
	}
	all, err := l.discover(ctx, cfg)
	if err != nil {
		return fmt.Errorf("ask the API server for its kinds: %w", err)
	}
	var judged, other []resource
	for _, r := range all {
		if r.judged() {
			judged = append(judged, r)
		} else {
			other = append(other, r)
		}
	}
	l.kinds = len(all)

	var tasks []func(*reader)
	for _, r := range judged {
		if r.Group == "" {
			tasks = append(tasks,
				func(w *reader) { l.secrets(ctx, w, r, "kubernetes.io/tls", tlsSecrets) },
				// Helm keeps every revision of a release in a Secret of its own type,
				// up to 1 MiB each. They hold no certificate that anybody serves.
				func(w *reader) { l.secrets(ctx, w, r, "", otherSecrets) })
			continue
		}
		tasks = append(tasks, func(w *reader) { l.certificates(ctx, w, r) })
	}
	l.inParallel(tasks)
	l.c.Freeze()

	// The kinds with records first: of those most objects are looked at.
	var records, rest []func(*reader)
	for _, r := range other {
		switch {
		case r.record():
			records = append(records, func(w *reader) { l.others(ctx, w, r) })
		case irrelevant(r) && !l.c.NamedAsOwner(r.Group, r.Kind):
			l.finish(r)
		case !l.o.Proof:
			l.gap(r, "not scanned: --proof=false")
			l.finish(r)
		default:
			rest = append(rest, func(w *reader) { l.others(ctx, w, r) })
		}
	}
	l.inParallel(append(records, rest...))
	if l.lists == 0 && l.failed != nil {
		return fmt.Errorf("nothing could be listed: %w", l.failed)
	}
	return nil
}

// The field selectors of the two lists of Secrets.
const (
	tlsSecrets   = "type=kubernetes.io/tls"
	otherSecrets = "type!=kubernetes.io/tls,type!=helm.sh/release.v1"
)

// listsAtOnce is how many kinds are read at the same time. While one waits for
// the API server to collect a page, another's page is taken apart.
const listsAtOnce = 2

func (l *look) inParallel(tasks []func(*reader)) {
	queue := make(chan func(*reader), len(tasks))
	for _, t := range tasks {
		queue <- t
	}
	close(queue)
	var wg sync.WaitGroup
	for range min(listsAtOnce, len(tasks)) {
		wg.Go(func() {
			w := newReader()
			for t := range queue {
				t(w)
			}
		})
	}
	wg.Wait()
}

// list reads all objects of a kind, in all namespaces or, where that is
// forbidden, in those that were asked for. What fails becomes a Gap.
func (l *look) list(ctx context.Context, w *reader, r resource, q query, item func([]byte) error) {
	q.path = r.path("")
	n, err := l.pages(ctx, w, q, l.counted(r, item))
	if n == 0 && apierrors.IsNotAcceptable(err) && q.otherwise != nil {
		q.accept, item = asJSON, q.otherwise
		n, err = l.pages(ctx, w, q, l.counted(r, item))
	}
	if n == 0 && apierrors.IsForbidden(err) && r.Namespaced && len(l.o.Namespaces) > 0 {
		l.gap(r, fmt.Sprintf("read in %s only: %s", strings.Join(l.o.Namespaces, ", "), reason(err)))
		for _, ns := range l.o.Namespaces {
			q.path = r.path(ns)
			_, err = l.pages(ctx, w, q, l.counted(r, item))
			l.ended(r, err)
		}
		return
	}
	if err == nil {
		l.reached(r, q, w.version)
	}
	l.ended(r, err)
}

func (l *look) ended(r resource, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err == nil {
		l.lists++
		return
	}
	l.failed = errors.Join(l.failed, err)
	if l.lists > 0 {
		l.failed = err // one is enough
	}
	l.c.Gap(inventory.Gap{Kind: r.gapKind(), Reason: reason(err)})
}

// counted reports progress.
func (l *look) counted(r resource, item func([]byte) error) func([]byte) error {
	key := r.gapKind()
	return func(raw []byte) error {
		l.mu.Lock()
		l.stats.Objects[key]++
		l.read++
		l.tell(r, l.read%100 == 0)
		l.mu.Unlock()
		return item(raw)
	}
}

// tell calls Progress. The caller holds mu.
func (l *look) tell(r resource, now bool) {
	if now && l.o.Progress != nil {
		l.o.Progress(Progress{Kind: r.gapKind(), Kinds: l.done, Of: l.kinds, Objects: l.read})
	}
}

func (l *look) finish(r resource) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.done++
	l.tell(r, true)
}

func (l *look) gap(r resource, why string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.c.Gap(inventory.Gap{Kind: r.gapKind(), Reason: why})
}

// reason is what went wrong; of the API server's answers, its message.
func reason(err error) string {
	if text := err.Error(); text != "" {
		return text
	}
	return "the API server refused, and did not say why"
}

// GCPercent is the garbage collector's setting (runtime/debug.SetGCPercent)
// with which a look's memory was measured. A program that does nothing else at
// the time should set it: what a look throws away it throws away soon, so
// collecting more often costs little time.
const GCPercent = 15
