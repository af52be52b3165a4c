// Package leader elects one of several replicas, and tells it in time when it is
// none any more.
//
// The election itself is client-go's (tools/leaderelection) on a Lease of
// coordination.k8s.io. It alone does not keep a leader from writing after its
// time: one that was stopped and goes on does not know yet that there is
// another one. So work is given a term, a context that ends no later than
// RenewDeadline after the last renewal was sent, by this process's own clocks,
// while others wait for LeaseDuration after they saw it. Guard looks at the
// clocks again before each request that writes.
package leader

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	coordinationv1 "k8s.io/client-go/kubernetes/typed/coordination/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
)

// Options say which Lease, as whom, and how fast.
type Options struct {
	// Namespace and Name are those of the Lease, which is made when it is not
	// there.
	Namespace, Name string
	// Identity tells this candidate from all others: the Pod's name.
	Identity string
	// LeaseDuration is how long others wait after the last renewal that they
	// saw; whole seconds. RenewDeadline is how long a leader leads after the last
	// renewal that it sent. RetryPeriod is the time between two attempts.
	LeaseDuration, RenewDeadline, RetryPeriod time.Duration
	// Seen, if set, is called with the identity of each new leader.
	Seen func(identity string)
}

// Defaults are the durations of Kubernetes' own components.
func Defaults() Options {
	return Options{LeaseDuration: 15 * time.Second, RenewDeadline: 10 * time.Second, RetryPeriod: 2 * time.Second}
}

// Check says what is wrong with the options, nil if nothing is.
func (o Options) Check() error {
	switch {
	case o.Namespace == "" || o.Name == "":
		return errors.New("the lease needs a namespace and a name")
	case o.Identity == "":
		return errors.New("the candidate needs an identity: its Pod's name")
	case o.LeaseDuration%time.Second != 0 || o.LeaseDuration < time.Second:
		return fmt.Errorf("the lease duration is %s: a Lease takes whole seconds, one at least", o.LeaseDuration)
	case o.RenewDeadline >= o.LeaseDuration:
		return fmt.Errorf("the renew deadline (%s) must be shorter than the lease duration (%s)", o.RenewDeadline, o.LeaseDuration)
	case o.RetryPeriod <= 0 || float64(o.RenewDeadline) <= leaderelection.JitterFactor*float64(o.RetryPeriod):
		return fmt.Errorf("the retry period (%s) must be above 0, and %g times it shorter than the renew deadline (%s)", o.RetryPeriod, leaderelection.JitterFactor, o.RenewDeadline)
	}
	return nil
}

// Why a term is over, or was none.
var (
	ErrNoTerm = errors.New("this is not done by a leader")
	ErrOver   = errors.New("the time as leader is over: the lease was not renewed in time")
)

// Run stands for election until ctx ends, and calls work for each term, one at a
// time. The term has ended before the lease can be another's. When ctx ends, so
// does the term, and the lease is given up once work has returned, so that
// another takes over at once; until then it is renewed. When work returns by
// itself, the lease is given up, too, and Run returns.
func Run(ctx context.Context, cfg *rest.Config, o Options, work func(term context.Context)) error {
	if err := o.Check(); err != nil {
		return err
	}
	// A renewal that hangs must leave time for another attempt.
	cfg = rest.CopyConfig(cfg)
	cfg.Timeout = max(o.RenewDeadline/2, time.Second)
	client, err := coordinationv1.NewForConfig(cfg)
	if err != nil {
		return fmt.Errorf("cannot stand for election: %w", err)
	}
	for ctx.Err() == nil {
		resigned, err := stand(ctx, client, o, work)
		if err != nil || resigned {
			return err
		}
	}
	return nil
}

// stand is one candidacy: it ends with the first term, or with ctx.
func stand(ctx context.Context, client coordinationv1.LeasesGetter, o Options, work func(context.Context)) (resigned bool, err error) {
	l := &lock{
		Interface: &resourcelock.LeaseLock{
			LeaseMeta:  metav1.ObjectMeta{Namespace: o.Namespace, Name: o.Name},
			Client:     client,
			LockConfig: resourcelock.ResourceLockConfig{Identity: o.Identity},
		},
		lasts: o.RenewDeadline,
	}
	// The election goes on while work ends, so it must not end with ctx.
	election, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	started := make(chan struct{})
	elector, err := leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
		Lock: l, Name: o.Name,
		LeaseDuration: o.LeaseDuration, RenewDeadline: o.RenewDeadline, RetryPeriod: o.RetryPeriod,
		ReleaseOnCancel: true,
		Callbacks: leaderelection.LeaderCallbacks{
			OnStartedLeading: func(context.Context) { close(started) },
			OnStoppedLeading: func() {},
			OnNewLeader:      o.Seen,
		},
	})
	if err != nil {
		return false, fmt.Errorf("cannot stand for election: %w", err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		elector.Run(election)
	}()
	select {
	case <-started:
	case <-ended:
		return false, nil
	case <-ctx.Done():
		l.finish() // it may be elected at this moment, and has nothing to end
		end()
		<-ended
		return false, nil
	}
	term, over := context.WithCancelCause(ctx)
	defer over(nil)
	t := l.begin(over)
	done := make(chan struct{})
	go func() {
		defer close(done)
		if t.over() == nil {
			work(context.WithValue(term, termKey{}, t))
		}
	}()
	select {
	case <-done:
		resigned = term.Err() == nil
	case <-ended:
		over(ErrOver)
		<-done
	}
	l.finish()
	end()
	<-ended
	return resigned, nil
}

// lock is a lock that knows when it was last renewed, and that is given up only
// when it is this candidate's and its work is done.
type lock struct {
	resourcelock.Interface
	lasts time.Duration

	mu       sync.Mutex
	holder   string // as last read
	renewed  time.Time
	term     *term
	finished bool
}

func (l *lock) Get(ctx context.Context) (*resourcelock.LeaderElectionRecord, []byte, error) {
	r, raw, err := l.Interface.Get(ctx)
	if err == nil {
		l.mu.Lock()
		l.holder = r.HolderIdentity
		l.mu.Unlock()
	}
	return r, raw, err
}

func (l *lock) Create(ctx context.Context, r resourcelock.LeaderElectionRecord) error {
	sent := time.Now()
	err := l.Interface.Create(ctx, r)
	l.held(r, sent, err)
	return err
}

func (l *lock) Update(ctx context.Context, r resourcelock.LeaderElectionRecord) error {
	if r.HolderIdentity == "" {
		// leaderelection gives up what it believes to hold. It may be another's by
		// now, and the work may not have ended.
		l.mu.Lock()
		mine, finished := l.holder == l.Identity(), l.finished
		l.mu.Unlock()
		if !finished {
			return errors.New("the work as leader has not ended yet: the lease is left to run out")
		}
		if !mine {
			return errors.New("the lease is another's by now")
		}
	}
	sent := time.Now()
	err := l.Interface.Update(ctx, r)
	l.held(r, sent, err)
	return err
}

// held notes a renewal by the time at which it was sent, not answered.
func (l *lock) held(r resourcelock.LeaderElectionRecord, sent time.Time, err error) {
	if err != nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.holder = r.HolderIdentity
	if r.HolderIdentity == "" {
		return
	}
	l.renewed = sent
	if l.term != nil {
		l.term.extend(sent)
	}
}

func (l *lock) begin(over context.CancelCauseFunc) *term {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.term = &term{lasts: l.lasts, cancel: over, now: time.Now}
	l.term.timer = time.AfterFunc(time.Until(l.renewed.Add(l.lasts)), func() { _ = l.term.over() })
	l.term.extend(l.renewed)
	return l.term
}

func (l *lock) finish() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.finished = true
	if l.term != nil {
		l.term.end()
	}
}

type termKey struct{}

// term is the time for which one renewal after the other lets a leader lead.
type term struct {
	lasts  time.Duration
	cancel context.CancelCauseFunc
	now    func() time.Time

	mu      sync.Mutex
	renewed time.Time
	timer   *time.Timer
	ended   bool
}

// extend notes a renewal. A term that is over stays so.
func (t *term) extend(renewed time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ended || t.late() {
		return
	}
	t.renewed = renewed
	t.timer.Reset(renewed.Add(t.lasts).Sub(t.now()))
}

// late reports whether the last renewal is too old, by the monotonic clock or by
// that of the wall: the one stands still while a machine sleeps, and the other
// can be set back.
func (t *term) late() bool {
	if t.renewed.IsZero() {
		return false // it is just beginning
	}
	now := t.now()
	return now.Sub(t.renewed) >= t.lasts || now.Round(0).Sub(t.renewed.Round(0)) >= t.lasts
}

// over ends a term whose time is over, and says whether it is.
func (t *term) over() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.ended && t.late() {
		t.ended = true
		t.timer.Stop()
		t.cancel(ErrOver)
	}
	if t.ended {
		return ErrOver
	}
	return nil
}

func (t *term) end() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.ended = true
	t.timer.Stop()
}

// Check says whether ctx belongs to a term that lasts at this moment, by the
// clocks and not by whether a timer has run: nil, ErrNoTerm, ErrOver, or why ctx
// ended.
func Check(ctx context.Context) error {
	t, ok := ctx.Value(termKey{}).(*term)
	if !ok {
		return ErrNoTerm
	}
	if err := t.over(); err != nil {
		return err
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return nil
}

// Guard lets a request that writes pass only during a term: one whose context is
// that of the term, or comes from it, checked when it is sent. It is for
// rest.Config.Wrap.
func Guard(next http.RoundTripper) http.RoundTripper { return guard{next} }

type guard struct{ next http.RoundTripper }

func (g guard) RoundTrip(r *http.Request) (*http.Response, error) {
	switch r.Method {
	case http.MethodGet, http.MethodHead, http.MethodOptions:
	default:
		if err := Check(r.Context()); err != nil {
			if r.Body != nil {
				_ = r.Body.Close()
			}
			return nil, fmt.Errorf("%s %s was not sent: %w", r.Method, r.URL.Path, err)
		}
	}
	return g.next.RoundTrip(r)
}

// WrappedRoundTripper lets client-go see what is below.
func (g guard) WrappedRoundTripper() http.RoundTripper { return g.next }
