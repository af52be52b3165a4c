package service

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/certherd/certherd/controller"
	"github.com/certherd/certherd/inventory"
	"github.com/certherd/certherd/report"
	"github.com/certherd/certherd/web"
)

const (
	// gathered is how long changes are gathered before they are looked at together.
	gathered = 50 * time.Millisecond
	// restShare is how many times as long as the last look at changes the wait for the
	// next one is at least, so that a busy cluster costs a share of one processor.
	restShare = 4
	// keptChanges is how many bytes of objects that have changed are kept. What is
	// beyond that is for the next round.
	keptChanges = 8 << 20
)

// following follows what has changed since a look, so that findings are shown that have
// come or gone. Nothing is decided by it.
type following struct {
	k        *keeper
	snapshot *inventory.Snapshot
	o        controller.Options
	gap      inventory.Gap
	stop     context.CancelFunc
	ended    chan struct{}
	saying   sync.Mutex

	mutex   sync.Mutex
	changes map[inventory.Ref]inventory.Change
	bytes   int
	dirty   map[inventory.Ref]bool // those that have changed since they were looked at
	wake    chan struct{}
}

// follow begins to follow the cluster from a look on, until unfollow or the end of ctx.
func (k *keeper) follow(ctx context.Context, s *inventory.Snapshot, o controller.Options) {
	k.since.Store(nil)
	if k.o.Follow == nil {
		return
	}
	ctx, stop := context.WithCancel(ctx)
	f := &following{
		k: k, snapshot: s, o: o, stop: stop, ended: make(chan struct{}),
		gap:     inventory.Gap{Kind: "*", Reason: "of other kinds nothing is known since the look at " + s.Taken.UTC().Format(time.TimeOnly) + " UTC; the next round reads them"},
		changes: map[inventory.Ref]inventory.Change{}, dirty: map[inventory.Ref]bool{}, wake: make(chan struct{}, 1),
	}
	k.since.Store(&web.Since{Looked: s.Taken.UTC(), Came: []report.Finding{}, Went: []report.Finding{}, Follows: true})
	k.follows = f
	go func() {
		defer close(f.ended)
		var parts sync.WaitGroup
		parts.Go(func() { f.compare(ctx) })
		err := k.o.Follow(ctx, s, f.take)
		if ctx.Err() == nil {
			k.log.Info("changes are not followed", zap.NamedError("why", err))
			f.say(func(x *web.Since) { x.Follows, x.Why = false, fmt.Sprint(err) })
		}
		parts.Wait()
	}()
}

// unfollow ends it, and lets go of what it has kept.
func (k *keeper) unfollow() {
	f := k.follows
	if f == nil {
		return
	}
	f.stop()
	<-f.ended
	f.say(func(x *web.Since) {
		if x.Follows {
			x.Follows, x.Why = false, "the next look is under way"
		}
	})
	k.follows = nil
}

// say changes what is shown.
func (f *following) say(change func(*web.Since)) {
	f.saying.Lock()
	defer f.saying.Unlock()
	x := *f.k.since.Load()
	change(&x)
	f.k.since.Store(&x)
}

// take notes that an object has changed.
func (f *following) take(c inventory.Change) {
	f.mutex.Lock()
	defer f.mutex.Unlock()
	f.bytes += len(c.Doc) - len(f.changes[c.Ref].Doc)
	f.changes[c.Ref] = c
	f.dirty[c.Ref] = true
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

// compare looks at what has changed, namespace by namespace, until ctx ends.
func (f *following) compare(ctx context.Context) {
	found := map[string]controller.Difference{}
	wait := gathered
	for {
		select {
		case <-ctx.Done():
			return
		case <-f.wake:
		}
		t := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			t.Stop()
			return
		case <-t.C:
		}
		began := time.Now()
		f.mutex.Lock()
		dirty, changes, bytes := f.dirty, maps.Clone(f.changes), f.bytes
		f.dirty = map[inventory.Ref]bool{}
		f.mutex.Unlock()
		if bytes > keptChanges {
			f.say(func(x *web.Since) {
				x.Follows, x.Why = false, fmt.Sprintf("%d objects have changed since, which is for the next round", len(changes))
			})
			f.stop()
			return
		}
		for _, ns := range f.snapshot.Touches(dirty) {
			if ctx.Err() != nil {
				return
			}
			found[ns] = f.differ(ns, changes)
		}
		f.say(func(x *web.Since) {
			x.At, x.Objects, x.Came, x.Went = time.Now().UTC(), len(changes), []report.Finding{}, []report.Finding{}
			for _, ns := range slices.Sorted(maps.Keys(found)) {
				x.Came, x.Went = append(x.Came, found[ns].Came...), append(x.Went, found[ns].Went...)
			}
		})
		wait = max(gathered, restShare*time.Since(began))
	}
}

// differ is what is found in a namespace, and was not at the look, or the other way
// round.
func (f *following) differ(namespace string, changes map[inventory.Ref]inventory.Change) controller.Difference {
	after, err := f.snapshot.After(namespace, changes, f.gap)
	if err != nil {
		f.k.log.Warn("a change was not understood", zap.String("namespace", namespace), zap.Error(err))
	}
	return controller.Differ(f.snapshot.Part(namespace, f.gap), after, f.o, time.Now())
}

// sinceJSON serves what has changed since the newest look.
func (s *Service) sinceJSON(w http.ResponseWriter, _ *http.Request) {
	x := s.since.Load()
	if x == nil {
		w.Header().Set("Retry-After", "10")
		http.Error(w, "nothing is followed: the first look has not ended yet, or --follow=false", http.StatusServiceUnavailable)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("Cache-Control", "no-store")
	_ = json.NewEncoder(w).Encode(x) // who does not listen any more is told nothing
}
