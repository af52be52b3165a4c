// Package live keeps the State of package batch in the cluster, and answers all of
// those who want to write something that a gateway sees.
package live

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	applycorev1 "k8s.io/client-go/applyconfigurations/core/v1"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/utils/clock"

	"github.com/certherd/certherd/batch"
	"github.com/certherd/certherd/inventory"
	"github.com/certherd/certherd/plan"
)

// ConfigMapName is where the State is kept, compressed: a name in plain text
// would be a mention of the object, which nobody could then call unused.
const (
	ConfigMapName = "certherd-batch"
	keyState      = "state.json.gz"
)

// fieldManager owns what is applied.
const fieldManager = "certherd"

// interest is how long after the time that was told a caller is taken to want still
// what it asked for. Until then, nobody takes its place.
const interest = 30 * time.Second

// Ledger is the one place that knows what gateways were given. It is made for one
// term of a leader, and safe for use by several goroutines.
type Ledger struct {
	client    typedcorev1.ConfigMapsGetter
	namespace string
	budgets   func() ([]inventory.Ref, batch.Budgets)
	clock     clock.PassiveClock

	mutex  sync.Mutex
	loaded bool
	state  batch.State
	wants  map[string]*want // by caller
	told   func(batch.Sent)
}

// want is what a caller asked for last, and was not given.
type want struct {
	items []batch.Item
	held  []batch.Held
	until time.Time
}

// Options are what a Ledger works with.
type Options struct {
	// Client reads and applies the ConfigMap in Namespace.
	Client    typedcorev1.ConfigMapsGetter
	Namespace string
	// Budgets are the gateways that see every change, and the budgets that hold at
	// this moment.
	Budgets func() ([]inventory.Ref, batch.Budgets)
	// Sent, if set, is told of each update that is spent.
	Sent func(batch.Sent)
	// Clock is the real one when nil.
	Clock clock.PassiveClock
}

// New returns a Ledger that reads the State when it is asked first.
func New(o Options) *Ledger {
	if o.Clock == nil {
		o.Clock = clock.RealClock{}
	}
	return &Ledger{client: o.Client, namespace: o.Namespace, budgets: o.Budgets, clock: o.Clock, told: o.Sent, wants: map[string]*want{}}
}

// Caller is somebody who asks a Ledger.
type Caller struct {
	ledger *Ledger
	name   string
}

// For returns the Caller of a name, which is one rule, or part of the program. It may
// be nil, as a nil Ledger's is: then everything goes at once.
func (l *Ledger) For(name string) *Caller {
	if l == nil {
		return nil
	}
	return &Caller{l, name}
}

// Ask lets go what may go now of all that the caller wants: that is counted, and the
// count is in the cluster, when Ask returns. The caller writes it at once, and asks
// again for what was held at the earliest Until. Items without Gateways are given all
// that are known; use Unseen for what none sees. Where the count cannot be kept, only what is
// urgent goes, and the error says why.
func (c *Caller) Ask(ctx context.Context, items []batch.Item) (going []batch.Item, held []batch.Held, err error) {
	if c == nil {
		return items, nil, nil
	}
	l := c.ledger
	l.mutex.Lock()
	defer l.mutex.Unlock()
	if err := l.load(ctx); err != nil {
		return urgent(items), nil, err
	}
	gateways, budgets := l.budgets()
	now := l.clock.Now()
	mine := l.seen(items, gateways)
	all, before := l.queue(c.name, mine, now), l.state
	together, waits, next := batch.Next(now, all, before, budgets)
	own := actions(mine)
	for _, it := range together {
		if own[it.Object] == it.Action {
			going = append(going, it)
			continue
		}
		// It is for its own caller to ask for; until then it keeps its place.
		since := before.Waits(it.Object)
		if since.IsZero() {
			since = now
		}
		next.Waiting = append(next.Waiting, batch.Waiting{Object: it.Object, Since: since})
	}
	for _, h := range waits {
		if own[h.Object] == h.Action {
			held = append(held, h)
		}
	}
	// Only what the caller is given counts.
	_, _, counted := batch.Next(now, going, batch.State{Sent: before.Sent}, budgets)
	next.Sent = counted.Sent
	if len(going) > 0 && len(gateways) > 0 {
		if err := l.store(ctx, next); err != nil {
			return urgent(going), held, err
		}
	}
	l.tell(before.Sent, next.Sent, now)
	l.state = next
	l.note(c.name, held)
	return going, held, nil
}

// tell tells of the updates that are new.
func (l *Ledger) tell(before, after []batch.Sent, now time.Time) {
	if l.told == nil {
		return
	}
	known := map[batch.Sent]int{}
	for _, s := range before {
		if s.At.After(now) {
			s.At = now // as Next takes it
		}
		known[s]++
	}
	for _, s := range after {
		if known[s]--; known[s] < 0 {
			l.told(s)
		}
	}
}

// Forecast tells when items would go if the caller asked for them, in the order in
// which they would; those that could go now have the present time. Nothing is
// counted, but what is held keeps its place for the caller.
func (c *Caller) Forecast(ctx context.Context, items []batch.Item) ([]batch.Held, error) {
	return c.forecast(ctx, items, true)
}

// Preview is Forecast for what the caller does not ask for yet: it keeps no place.
func (c *Caller) Preview(ctx context.Context, items []batch.Item) ([]batch.Held, error) {
	return c.forecast(ctx, items, false)
}

func (c *Caller) forecast(ctx context.Context, items []batch.Item, keep bool) ([]batch.Held, error) {
	if c == nil {
		return nil, nil
	}
	l := c.ledger
	l.mutex.Lock()
	defer l.mutex.Unlock()
	if err := l.load(ctx); err != nil {
		return nil, err
	}
	gateways, budgets := l.budgets()
	now := l.clock.Now()
	mine := l.seen(items, gateways)
	going, held, _ := batch.Next(now, l.queue(c.name, mine, now), l.state, budgets)
	out := make([]batch.Held, 0, len(mine))
	own := actions(mine)
	for _, it := range going {
		if own[it.Object] == it.Action {
			out = append(out, batch.Held{Item: it, Until: now})
		}
	}
	var mineHeld []batch.Held
	for _, h := range held {
		if own[h.Object] == h.Action {
			mineHeld = append(mineHeld, h)
		}
	}
	if keep {
		l.note(c.name, mineHeld)
	}
	return append(out, mineHeld...), nil
}

// Withdraw says that the caller wants nothing any more.
func (c *Caller) Withdraw() {
	if c == nil {
		return
	}
	c.ledger.mutex.Lock()
	defer c.ledger.mutex.Unlock()
	delete(c.ledger.wants, c.name)
}

// Held is what all callers were held from last, by caller; what nobody has asked for
// again in time is not wanted any more.
func (l *Ledger) Held() map[string][]batch.Held {
	if l == nil {
		return nil
	}
	l.mutex.Lock()
	defer l.mutex.Unlock()
	out := map[string][]batch.Held{}
	for name, w := range l.wants {
		if l.clock.Now().Before(w.until) {
			out[name] = w.held
		}
	}
	return out
}

// seen gives items the gateways that see them.
func (l *Ledger) seen(items []batch.Item, gateways []inventory.Ref) []batch.Item {
	out := slices.Clone(items)
	for i := range out {
		if out[i].Gateways == nil {
			out[i].Gateways = gateways
		}
	}
	return out
}

// Unseen is the Gateways of an Item that no gateway sees.
func Unseen() []inventory.Ref { return []inventory.Ref{} }

// queue is what a caller wants, and what others still do.
func (l *Ledger) queue(caller string, mine []batch.Item, now time.Time) []batch.Item {
	all := slices.Clone(mine)
	for name, w := range l.wants {
		switch {
		case name == caller:
		case !now.Before(w.until):
			delete(l.wants, name)
		default:
			all = append(all, w.items...)
		}
	}
	return all
}

// note keeps what a caller was not given.
func (l *Ledger) note(caller string, held []batch.Held) {
	if len(held) == 0 {
		delete(l.wants, caller)
		return
	}
	w := &want{held: held}
	for _, h := range held {
		if w.until.IsZero() || h.Until.Before(w.until) {
			w.until = h.Until
		}
		w.items = append(w.items, h.Item)
	}
	w.until = w.until.Add(interest)
	l.wants[caller] = w
}

// actions are what is wanted of each object. Where another caller wants something
// else of it that goes before, such as its deletion, there is nothing left to ask for.
func actions(items []batch.Item) map[inventory.Ref]plan.Action {
	out := make(map[inventory.Ref]plan.Action, len(items))
	for _, it := range items {
		out[it.Object] = it.Action
	}
	return out
}

func urgent(items []batch.Item) []batch.Item {
	var out []batch.Item
	for _, it := range items {
		if it.Urgent != "" {
			out = append(out, it)
		}
	}
	return out
}

// load reads what the leader before has kept. What is not understood was written by
// somebody else, and is as if there were nothing.
func (l *Ledger) load(ctx context.Context) error {
	if l.loaded {
		return nil
	}
	cm, err := l.client.ConfigMaps(l.namespace).Get(ctx, ConfigMapName, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
	case err != nil:
		return fmt.Errorf("what gateways were given lately cannot be read: %w", err)
	default:
		if state, err := unpack(cm.BinaryData[keyState]); err == nil {
			l.state = state
		}
	}
	l.loaded = true
	return nil
}

// Waiting are the changes that the leader holds, by what it has kept in its
// ConfigMap.
func Waiting(kept *corev1.ConfigMap) ([]batch.Waiting, error) {
	state, err := unpack(kept.BinaryData[keyState])
	return state.Waiting, err
}

func (l *Ledger) store(ctx context.Context, state batch.State) error {
	packed, err := pack(state)
	if err != nil {
		return err
	}
	cm := applycorev1.ConfigMap(ConfigMapName, l.namespace).
		WithLabels(map[string]string{"app.kubernetes.io/name": "certherd", "app.kubernetes.io/component": "batch"}).
		WithBinaryData(map[string][]byte{keyState: packed})
	if _, err := l.client.ConfigMaps(l.namespace).Apply(ctx, cm, metav1.ApplyOptions{FieldManager: fieldManager, Force: true}); err != nil {
		return fmt.Errorf("what gateways are given cannot be kept, and a budget that is not kept is none: %w", err)
	}
	return nil
}

func pack(state batch.State) ([]byte, error) {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	if err := json.NewEncoder(z).Encode(state); err != nil {
		return nil, err
	}
	if err := z.Close(); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// unpack reads what pack wrote, and no more than a State can be.
func unpack(packed []byte) (batch.State, error) {
	var state batch.State
	z, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		return state, err
	}
	err = json.NewDecoder(io.LimitReader(z, 64<<20)).Decode(&state)
	return state, err
}
