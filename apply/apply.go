// Package apply carries out what the gate has cleared, and can undo it. It is
// the only part of certherd that changes or removes objects which are not its
// own.
//
// # What holds
//
// At every instruction, with the program killed there, the API server failing
// there, or another program changing the cluster there:
//
//  1. Nothing is removed that is not in the journal. The intent, with the
//     manifest of what can be made again, is stored before the first request of
//     a batch that changes anything. If it cannot be stored, the batch does not
//     take place.
//  2. Nothing is removed that was not looked at just before. Each batch has a
//     look of its own at the whole cluster, which ended at most Options.Fresh
//     ago; a look that could not read everything in full (a Gap) removes nothing.
//  3. A write meets the object that was planned for, in the state that was
//     planned for, or does nothing: the plan's, the look's and the live object's UID and
//     resourceVersion are the same, and the API server is given both as the
//     precondition. So a decision can be late, but never wrong about which object
//     it concerns, and never takes effect twice.
//  4. A Certificate or Knative Certificate goes first, and its Secret stays. A Secret
//     is marked (see plan.Mark) and deleted by another, later plan, once the time
//     on the mark has come. No single plan both marks and deletes.
//  5. An intent that was never closed is closed by the next Run, which asks the
//     API server what has become of the object. The journal keeps the manifest in
//     any case, so a removal that happens at the very moment of that question
//     can still be undone.
//  6. Private keys never get here: of Secrets, only metadata is asked for, and
//     that is changed by a patch of annotations.
//
// What cannot hold: Kubernetes has no way to delete an object on the condition
// that no other one names it. A reference that is made after the look and
// before the deletion is seen only if it was made to a Certificate or a marked
// Secret early enough: that is what the grace period is for.
package apply

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/rest"
	"k8s.io/utils/clock"

	"github.com/certherd/certherd/batch"
	"github.com/certherd/certherd/gate"
	"github.com/certherd/certherd/inventory"
	"github.com/certherd/certherd/plan"
)

// Options say where the journal is, how careful to be, and what to ask.
type Options struct {
	// Namespace is certherd's own, where the journal is kept.
	Namespace string
	// Look takes a fresh Snapshot of the whole cluster with the conservative scan
	// of every kind (live.Look with Proof).
	Look func(context.Context) (*inventory.Snapshot, error)

	// Grace is how long a retired Secret is kept, ExpiredGrace how long one whose
	// certificate has expired. The largest Duration is for ever.
	Grace, ExpiredGrace time.Duration
	// Keep is how long the journal remembers what was done. It should be Grace at
	// least: as long as a Secret is kept, its Certificate can be brought back.
	Keep time.Duration
	// JournalBytes is the most that one ConfigMap of the journal holds, and
	// JournalParts how many there are at most. A full journal stops removal
	// until entries are older than Keep.
	JournalBytes, JournalParts int
	// Pace, if set, is asked before each write that a gateway may see: net-kourier
	// takes each event of a Secret that it served lately for a reason to send all
	// listeners to Envoy again (pkg/reconciler/ingress/controller.go there, the Secret
	// informer's handler), and Knative looks at a Route again when a Certificate of
	// its own goes. Nil lets all go at once.
	Pace Pacer
	// Patience is how long after its begin a round still waits for Pace to let one
	// more change go. What has to wait longer is for a later round, so that no
	// round hides for ever what has changed meanwhile.
	Patience time.Duration
	// BatchSize is the most objects that one look is for.
	BatchSize int
	// Fresh is how old a look may be when the last object of its batch is
	// written to. A paced batch is as long as its pace allows in that time.
	Fresh time.Duration
	// Settle is how long to wait until what belonged to a removed object is gone, too,
	// before its Secret is looked at.
	Settle time.Duration
	// MaxSkew is how far this machine's clock may be from the API server's when a
	// Secret is deleted because its time has come. 0 does not compare.
	MaxSkew time.Duration

	// Before, if set, is asked before each batch. An error puts off all that is
	// left.
	Before func(context.Context) error
	// Tell, if set, is called with each outcome as soon as it is known.
	Tell func(Outcome)
	// Clock is the real one when nil.
	Clock clock.Clock
}

// Defaults are the options of a certherd that is told nothing but where it is.
func Defaults() Options {
	return Options{
		Grace: 168 * time.Hour, ExpiredGrace: 24 * time.Hour, Keep: 168 * time.Hour,
		JournalBytes: 512 << 10, JournalParts: 16,
		Patience: 30 * time.Minute, BatchSize: 100,
		Fresh: 30 * time.Second, Settle: 30 * time.Second, MaxSkew: 5 * time.Minute,
	}
}

// Check tells what is wrong with the options, field by field, in the words of
// the configuration.
func (o Options) Check(bad func(field, why string)) {
	for _, d := range []struct {
		field string
		value time.Duration
		least time.Duration
	}{
		{"grace", o.Grace, 0}, {"expiredGrace", o.ExpiredGrace, 0}, {"keep", o.Keep, time.Minute},
		{"fresh", o.Fresh, time.Second}, {"settle", o.Settle, 0}, {"patience", o.Patience, 0}, {"maxSkew", o.MaxSkew, 0},
	} {
		if d.value < d.least {
			bad(d.field, fmt.Sprintf("%s is too short: it has to be %s at least", d.value, d.least))
		}
	}
	if o.BatchSize < 1 {
		bad("batchSize", "it has to be 1 at least")
	}
	if o.JournalBytes < 4<<10 || o.JournalBytes > maxJournalBytes {
		bad("journalBytes", fmt.Sprintf("it has to be between %d and %d", 4<<10, maxJournalBytes))
	}
	if o.JournalParts < 2 {
		bad("journalParts", "it has to be 2 at least")
	}
}

// Status is how a step ended.
type Status string

const (
	// Done: it was carried out.
	Done Status = "done"
	// AlreadyDone: there was nothing left to do.
	AlreadyDone Status = "already done"
	// Dropped: the object, or who uses it, is not as it was when the step was
	// planned. The next round decides anew.
	Dropped Status = "dropped"
	// Later: it could not be done now, or not be found out whether it may be.
	Later Status = "later"
	// NotCarriedOut: certherd does not carry out such steps yet.
	NotCarriedOut Status = "not carried out yet"
)

func (s Status) done() bool { return s == Done || s == AlreadyDone }

// Outcome is what became of one step.
type Outcome struct {
	Round  string
	Change plan.Change
	// Step is the index in Change.Steps.
	Step   int
	Status Status
	// Why says in words what kept the step from being done; empty when it was.
	Why string
}

// Object is what the step is about.
func (o Outcome) Object() inventory.Ref { return o.Change.Steps[o.Step].Object }

// Action is what the step does.
func (o Outcome) Action() plan.Action { return o.Change.Steps[o.Step].Action }

// Recheck is for how long a change that is held is not asked for again at most: a
// person may want it at once.
const Recheck = 10 * time.Second

// Pacer decides when what gateways may see may be written.
type Pacer interface {
	// Forecast tells when each item would go, and counts nothing.
	Forecast(context.Context, []batch.Item) ([]batch.Held, error)
	// Ask returns what is to be written now, which is counted, and what is held.
	Ask(context.Context, []batch.Item) (going []batch.Item, held []batch.Held, err error)
}

// Applier carries out cleared changes, for one leader, by one goroutine at a time.
type Applier struct {
	o       Options
	cluster *cluster
	journal *Journal
	faults  func(point string) // nil but in tests
}

// New returns an Applier that acts as cfg's user.
func New(cfg *rest.Config, o Options) (*Applier, error) {
	var problems []error
	o.Check(func(field, why string) { problems = append(problems, fmt.Errorf("%s: %s", field, why)) })
	if o.Look == nil {
		problems = append(problems, errors.New("there is no way to look at the cluster"))
	}
	if len(problems) > 0 {
		return nil, fmt.Errorf("cannot carry out changes: %w", errors.Join(problems...))
	}
	if o.Clock == nil {
		o.Clock = clock.RealClock{}
	}
	c, err := connect(cfg)
	if err != nil {
		return nil, err
	}
	j, err := OpenJournal(cfg, o.Namespace)
	if err != nil {
		return nil, err
	}
	j.bytes, j.parts = o.JournalBytes, o.JournalParts
	return &Applier{o: o, cluster: c, journal: j}, nil
}

// points are the places where tests end the program, in the order in which a
// round comes by them.
var points = []string{
	"01 begun", "02 recovered", "03 pruned", "04 settled", "05 looked", "06 checked", "07 intent stored",
	"08 about to write", "09 written", "10 batch written", "11 batch closed", "12 ended",
}

func (a *Applier) fault(point string) {
	if a.faults != nil {
		a.faults(point)
	}
}

// Run carries out changes and returns one outcome for each of their steps, in
// order. A change stops at its first step that is not done; its later steps
// share that step's status. It ends early, with Later, when ctx does.
//
// Run first closes the intents that a killed predecessor has left.
func (a *Applier) Run(ctx context.Context, cleared gate.Cleared) []Outcome {
	a.fault("01 begun")
	r := &round{Applier: a, id: roundID(a.o.Clock.Now()), patient: a.o.Clock.Now().Add(a.o.Patience)}
	for _, c := range cleared.Changes() {
		r.changes = append(r.changes, &progress{change: c, outcomes: make([]Outcome, 0, len(c.Steps))})
	}
	if err := a.Recover(ctx); err != nil {
		r.stop(Later, err.Error())
		return r.outcomes()
	}
	r.refuse()
	for {
		r.postpone()
		batch, paced := r.next()
		if len(batch) == 0 {
			break
		}
		if paced {
			// The look is to come after the wait, not before it.
			if batch = r.paced(ctx, batch); len(batch) == 0 {
				continue
			}
		}
		r.batch(ctx, batch)
	}
	a.fault("12 ended")
	return r.outcomes()
}

// seen reports whether a gateway may see what becomes of an object.
func seen(object inventory.Ref) bool {
	return kindOf(object) == secretKind || kindOf(object) == kCertificateKind
}

// Item is a step as package batch takes it; ok is false if no gateway sees it.
func Item(st plan.Step) (it batch.Item, ok bool) {
	return batch.Item{Object: st.Object, Action: st.Action}, seen(st.Object)
}

func itemsOf(changes []*progress) []batch.Item {
	var out []batch.Item
	for _, p := range changes {
		it, _ := Item(p.step())
		out = append(out, it)
	}
	return out
}

// paced waits until the first of some changes may go, and returns those that may
// while a look is fresh, with a quarter of that time to spare. What cannot go in
// this round has its outcome.
func (r *round) paced(ctx context.Context, changes []*progress) []*progress {
	if r.o.Pace == nil {
		return changes
	}
	all := func(why string) []*progress {
		for _, p := range changes {
			r.note(p, Later, why)
		}
		return nil
	}
	var until map[inventory.Ref]batch.Held
	var first time.Time
	late := false
	for {
		forecast, err := r.o.Pace.Forecast(ctx, itemsOf(changes))
		if err != nil {
			return all(err.Error())
		}
		until, first = make(map[inventory.Ref]batch.Held, len(forecast)), time.Time{}
		for _, h := range forecast {
			until[h.Object] = h
			if first.IsZero() || h.Until.Before(first) {
				first = h.Until
			}
		}
		now := r.o.Clock.Now()
		if late = first.After(r.patient); late || !first.After(now) {
			if !late {
				first = now
			}
			break
		}
		if err := r.sleep(ctx, min(first.Sub(now), Recheck)); err != nil {
			return all(fmt.Sprintf("the round ended before a gateway had room for it: %v", err))
		}
	}
	var out []*progress
	for _, p := range changes {
		h, ok := until[p.step().Object]
		switch {
		case !ok:
			r.note(p, Later, "something else is about to be done with it")
		case late:
			r.note(p, Later, heldWords(h))
		case h.Until.Sub(first) <= r.o.Fresh*3/4:
			out = append(out, p)
		}
	}
	return out
}

func heldWords(h batch.Held) string {
	return fmt.Sprintf("held until %s: %s", h.Until.UTC().Format(time.RFC3339), h.Why)
}

func (a *Applier) sleep(ctx context.Context, d time.Duration) error {
	t := a.o.Clock.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-t.C():
		return nil
	}
}

// round is one Run.
type round struct {
	*Applier
	id      string
	patient time.Time // until when it waits
	changes []*progress
	entries int // of the journal, so far
	// removed are objects whose followers the next look has to wait for.
	removed []follower
}

// progress is a change under way. Its next step is that after its outcomes.
type progress struct {
	change   plan.Change
	outcomes []Outcome
	ended    bool
}

func (p *progress) step() plan.Step { return p.change.Steps[len(p.outcomes)] }

// note records the outcome of the next step of a change, and of those that will
// not be tried any more.
func (r *round) note(p *progress, s Status, why string) {
	tell := func(why string) {
		o := Outcome{Round: r.id, Change: p.change, Step: len(p.outcomes), Status: s, Why: why}
		p.outcomes = append(p.outcomes, o)
		if r.o.Tell != nil {
			r.o.Tell(o)
		}
	}
	tell(why)
	if !s.done() {
		for len(p.outcomes) < len(p.change.Steps) {
			tell(fmt.Sprintf("step %d was not done: %s", len(p.outcomes), why))
		}
	}
	p.ended = len(p.outcomes) == len(p.change.Steps)
}

// stop gives all that is left one outcome.
func (r *round) stop(s Status, why string) {
	for _, p := range r.changes {
		if !p.ended && len(p.outcomes) < len(p.change.Steps) {
			r.note(p, s, why)
		}
	}
}

func (r *round) outcomes() []Outcome {
	var out []Outcome
	for _, p := range r.changes {
		out = append(out, p.outcomes...)
	}
	return out
}

// refuse ends the changes that cannot be carried out as a whole: none of their
// steps is begun.
//
// What an earlier round has intended and nobody could find out about by now is
// one of them: two intents for the same thing would both be taken for carried out.
func (r *round) refuse() {
	open := map[inventory.Ref]bool{}
	for _, e := range r.journal.all() {
		if e.State == Intended {
			open[e.Object.Ref()] = true
		}
	}
	for _, p := range r.changes {
		if len(p.change.Steps) == 0 {
			p.ended = true
			continue
		}
		for _, st := range p.change.Steps {
			if open[st.Object] {
				r.note(p, Later, fmt.Sprintf("what an earlier round has done with %s is not known yet, as it could not be read", st.Object))
				break
			}
			if why := unsupported(st); why != "" {
				r.note(p, NotCarriedOut, why)
				break
			}
		}
	}
}

// unsupported says why a step is none that this package carries out.
func unsupported(st plan.Step) string {
	_, known := kinds[kindOf(st.Object)]
	secret := kindOf(st.Object) == secretKind
	switch {
	case st.Action == plan.Delete && known, (st.Action == plan.Retire || st.Action == plan.Unretire) && secret:
		if st.If.UID == "" || st.If.ResourceVersion == "" {
			return fmt.Sprintf("%s %s: the plan does not say which state of it was looked at", st.Action, st.Object)
		}
		return ""
	}
	return fmt.Sprintf("%s %s: that is a step of a consolidation, which goes its own way once it is approved: see `kubectl get consolidations -A`", st.Action, st.Object)
}

// postpone ends the changes that have come to the deletion of a Secret after
// other steps: that is for a later plan, which finds the Secret marked.
func (r *round) postpone() {
	for _, p := range r.changes {
		if p.ended || len(p.outcomes) == 0 {
			continue
		}
		if st := p.step(); st.Action == plan.Delete && kindOf(st.Object) == secretKind {
			r.note(p, Later, "a later round deletes it, once it has been marked for the grace period")
		}
	}
}

// next are the changes whose next steps make up a batch: first what no gateway
// sees, then Knative Certificates, then marks, then deletions of Secrets. paced
// tells whether gateways may see it.
func (r *round) next() (batch []*progress, paced bool) {
	class := func(st plan.Step) int {
		switch {
		case !seen(st.Object):
			return 0
		case kindOf(st.Object) != secretKind:
			return 1
		case st.Action != plan.Delete:
			return 2
		}
		return 3
	}
	best := 4
	seen := map[inventory.Ref]bool{}
	for _, p := range r.changes {
		if p.ended {
			continue
		}
		c := class(p.step())
		if c < best {
			best, batch = c, nil
			clear(seen)
		}
		// The same object twice is for two batches: the second will find it changed.
		if c == best && len(batch) < r.o.BatchSize && !seen[p.step().Object] {
			seen[p.step().Object] = true
			batch = append(batch, p)
		}
	}
	return batch, best > 0
}

// item is one step of a batch on its way.
type item struct {
	*progress
	step     plan.Step
	live     *object
	mark     plan.Mark       // of a Retire
	manifest json.RawMessage // of what can be made again
	entry    *Entry
}

// batch carries out the next step of several changes: one look for all of them,
// then each object as it is now, then the journal, then the writes.
func (r *round) batch(ctx context.Context, changes []*progress) {
	all := func(s Status, format string, args ...any) {
		for _, p := range changes {
			r.note(p, s, fmt.Sprintf(format, args...))
		}
	}
	var items []*item
	for _, p := range changes {
		items = append(items, &item{progress: p, step: p.step()})
	}
	if err := ctx.Err(); err != nil {
		all(Later, "the round has ended: %v", context.Cause(ctx))
		return
	}
	if r.o.Before != nil {
		if err := r.o.Before(ctx); err != nil {
			all(Later, "%v", err)
			return
		}
	}
	if err := r.settle(ctx); err != nil {
		all(Later, "%v", err)
		return
	}

	s, err := r.o.Look(ctx)
	looked := r.o.Clock.Now()
	r.fault("05 looked")
	switch {
	case err != nil:
		all(Later, "the look just before failed: %v", err)
		return
	case len(s.Gaps) > 0:
		why := fmt.Sprintf("%s was not read in full (%s)", s.Gaps[0].Kind, s.Gaps[0].Reason)
		if n := len(s.Gaps) - 1; n > 0 {
			why += fmt.Sprintf(", nor %d more", n)
		}
		all(Later, "in the look just before, %s: nothing is touched before everything can be read", why)
		return
	}

	items = slices.DeleteFunc(items, func(it *item) bool {
		status, why := r.check(ctx, s, it)
		if status != "" {
			r.note(it.progress, status, why)
		}
		return status != ""
	})
	r.fault("06 checked")
	if len(items) == 0 {
		return
	}
	var entries []*Entry
	for _, it := range items {
		it.entry = r.entry(it, looked)
		entries = append(entries, it.entry)
	}
	server, err := r.journal.add(ctx, entries)
	if err != nil {
		for _, it := range items {
			r.note(it.progress, Later, err.Error())
		}
		return
	}
	r.fault("07 intent stored")

	skew := ""
	if d := r.o.Clock.Now().Sub(server).Abs(); r.o.MaxSkew > 0 && !server.IsZero() && d > r.o.MaxSkew {
		skew = fmt.Sprintf("the clocks of this machine and of the API server are %s apart, so that nobody knows whether its time has come", d.Round(time.Second))
	}
	write := func(it *item) {
		status, why := r.write(ctx, it, looked, skew)
		it.entry.close(status, r.o.Clock.Now())
		r.note(it.progress, status, why)
	}
	if r.o.Pace == nil || !seen(items[0].step.Object) {
		for _, it := range items {
			write(it)
		}
	} else {
		r.writePaced(ctx, items, looked, write)
	}
	r.fault("10 batch written")
	// What stays open because this fails is closed by the next Run.
	if err := r.journal.save(ctx); err == nil {
		r.fault("11 batch closed")
	}
}

// writePaced writes to items as their pace allows, while the look is fresh.
func (r *round) writePaced(ctx context.Context, items []*item, looked time.Time, write func(*item)) {
	stop := func(it *item, why string) {
		it.entry.close(Later, r.o.Clock.Now())
		r.note(it.progress, Later, why)
	}
	left := make(map[inventory.Ref]*item, len(items))
	for _, it := range items {
		left[it.step.Object] = it
	}
	for len(left) > 0 {
		var ask []batch.Item
		for _, it := range items {
			if left[it.step.Object] == it {
				x, _ := Item(it.step)
				ask = append(ask, x)
			}
		}
		going, held, err := r.o.Pace.Ask(ctx, ask)
		for _, g := range going {
			write(left[g.Object])
			delete(left, g.Object)
		}
		if len(going) > 0 && err == nil {
			continue
		}
		var first time.Time
		for _, h := range held {
			if first.IsZero() || h.Until.Before(first) {
				first = h.Until
			}
		}
		if err == nil && len(held) > 0 && first.Sub(looked) < r.o.Fresh {
			if err = r.sleep(ctx, first.Sub(r.o.Clock.Now())); err == nil {
				continue
			}
			err = fmt.Errorf("the round ended before a gateway had room for it: %w", err)
		}
		for _, it := range items {
			if left[it.step.Object] != it {
				continue
			}
			why := "something else is about to be done with it"
			if err != nil {
				why = err.Error()
			} else if i := slices.IndexFunc(held, func(h batch.Held) bool { return h.Object == it.step.Object }); i >= 0 {
				why = heldWords(held[i])
			}
			stop(it, why)
		}
		return
	}
}

// check looks at one object, in the look and as it is now. An empty status is
// leave to go on.
func (r *round) check(ctx context.Context, s *inventory.Snapshot, it *item) (Status, string) {
	st := it.step
	live, err := r.cluster.get(ctx, st.Object)
	switch {
	case apierrors.IsNotFound(err):
		if st.Action == plan.Delete {
			return AlreadyDone, ""
		}
		return Dropped, "it is gone"
	case err != nil:
		return Later, fmt.Sprintf("it could not be read: %v", err)
	case live.deleting:
		if st.Action == plan.Delete {
			return AlreadyDone, ""
		}
		return Dropped, "it is being deleted"
	case live.version.UID != st.If.UID:
		return Dropped, "another object has its name by now"
	case live.version.ResourceVersion != st.If.ResourceVersion:
		return Dropped, "it was changed after the plan was made"
	}
	it.live = live
	if st.Action == plan.Unretire {
		return "", ""
	}
	m, why := unused(s, st.Object)
	switch {
	case why != "":
		return Dropped, why
	case m.Version != live.version:
		return Dropped, "it was changed during the look"
	case s.Ignored(m):
		return Dropped, "it is opted out by " + inventory.IgnoreAnnotation
	case m.ManagedBy != "":
		return Dropped, "it is managed by " + m.ManagedBy
	}
	switch {
	case restorable(st.Object):
		if it.manifest, err = manifest(live.full); errors.Is(err, errSecretive) {
			return Dropped, err.Error()
		} else if err != nil {
			return Later, err.Error()
		}
	case st.Action == plan.Retire:
		now := r.o.Clock.Now().UTC().Truncate(time.Second)
		grace := r.o.Grace
		if it.change.Why.Reason == plan.ExpiredUnused {
			grace = min(grace, r.o.ExpiredGrace)
		}
		it.mark = plan.Mark{Reason: it.change.Why.Reason, RetiredAt: now, DeleteAfter: now.Add(grace)}
	case kindOf(st.Object) == secretKind:
		mark, ok := plan.MarkOf(m)
		if !ok {
			return Dropped, "it is not marked, or not validly"
		}
		if now := r.o.Clock.Now(); now.Before(mark.DeleteAfter) {
			return Later, "it is kept until " + mark.DeleteAfter.UTC().Format(time.RFC3339)
		}
	}
	return "", ""
}

// write makes the one request that changes something.
func (r *round) write(ctx context.Context, it *item, looked time.Time, skew string) (Status, string) {
	if err := ctx.Err(); err != nil {
		return Later, fmt.Sprintf("the round has ended: %v", context.Cause(ctx))
	}
	st := it.step
	if r.stale(looked) {
		return Later, fmt.Sprintf("the look is more than %s old by now", r.o.Fresh)
	}
	r.fault("08 about to write")
	var err error
	switch {
	case st.Action == plan.Retire:
		err = r.cluster.annotate(ctx, it.live, annotationsOf(it.mark))
	case st.Action == plan.Unretire:
		err = r.cluster.annotate(ctx, it.live, noMark)
	case skew != "" && kindOf(st.Object) == secretKind:
		return Later, skew
	default:
		err = r.cluster.delete(ctx, it.live)
	}
	r.fault("09 written")
	switch {
	case err == nil:
		if f, ok := followerOf(it.live); ok {
			r.removed = append(r.removed, f)
		}
		return Done, ""
	case apierrors.IsNotFound(err) && st.Action == plan.Delete:
		return AlreadyDone, ""
	case apierrors.IsNotFound(err):
		return Dropped, "it is gone"
	case apierrors.IsConflict(err):
		return Dropped, "it was changed just now"
	}
	return Later, fmt.Sprintf("the API server did not do it: %v", err)
}

// stale reports whether a look is too old to act on. A process that was stopped
// and goes on, and a machine that slept, find out here: the monotonic clock does not
// count sleep, the other one can be set.
func (r *round) stale(looked time.Time) bool {
	now := r.o.Clock.Now()
	wall := now.Round(0).Sub(looked.Round(0))
	return now.Sub(looked) > r.o.Fresh || wall > r.o.Fresh || wall < -r.o.Fresh
}

// settle waits until what belonged to removed objects is gone: as long as a
// Certificate writes a Secret, the Secret is in use.
func (r *round) settle(ctx context.Context) error {
	if len(r.removed) == 0 {
		return nil
	}
	// Whatever is still there at the end is seen by the look.
	end := r.o.Clock.Now().Add(r.o.Settle)
	for _, f := range r.removed {
		for {
			there, err := r.cluster.there(ctx, f)
			if err == nil && !there || !r.o.Clock.Now().Before(end) {
				break
			}
			if err := r.sleep(ctx, 200*time.Millisecond); err != nil {
				return fmt.Errorf("the round has ended: %w", err)
			}
		}
	}
	r.removed = nil
	r.fault("04 settled")
	return nil
}

// unused returns the record of an object that a complete look found nobody to
// use, or else why it must stay.
func unused(s *inventory.Snapshot, ref inventory.Ref) (*inventory.Meta, string) {
	var m *inventory.Meta
	if x := s.Secret(ref); x != nil {
		m = &x.Meta
	} else if x := s.Certificate(ref); x != nil {
		m = &x.Meta
	} else if x := s.KnativeCertificate(ref); x != nil {
		m = &x.Meta
	}
	if m != nil {
		j := s.Judge(ref)
		switch {
		case j.Verdict == inventory.Unused:
			return m, ""
		case len(j.Evidence) == 0:
			return nil, "whether anybody uses it is unknown: " + j.Why
		}
		e := j.Evidence[0]
		if e.From.IsZero() {
			return nil, "somebody may use it by now: " + e.Field
		}
		return nil, fmt.Sprintf("%s names it by now, or could, in %s", e.From, e.Field)
	}
	for i := range s.Requests {
		x := &s.Requests[i]
		if x.Ref != ref {
			continue
		}
		if owner := slices.IndexFunc(x.Owners, s.Lives); owner >= 0 {
			return nil, x.Owners[owner].Ref.String() + " owns it"
		}
		// An owner of a kind without records may exist unseen.
		if owner := slices.IndexFunc(x.Owners, func(o inventory.OwnerRef) bool { return !inventory.Recorded(o.Ref) }); owner >= 0 {
			return nil, x.Owners[owner].Ref.String() + ", which is of a kind that is not read, owns it"
		}
		if edges := s.To(ref); len(edges) > 0 {
			return nil, fmt.Sprintf("%s names it in %s", edges[0].From, edges[0].Field)
		}
		if !x.Final {
			return nil, "it is not finished"
		}
		return &x.Meta, ""
	}
	return nil, "the look did not find it"
}
