package service

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"time"

	"go.uber.org/zap"
	corev1 "k8s.io/api/core/v1"

	"github.com/certherd/certherd/config"
	"github.com/certherd/certherd/gateway"
	"github.com/certherd/certherd/leader"
)

// watchedFor is how long a Reading of a leader that did not come to an end is
// compared with: later, too much else has happened.
const watchedFor = time.Hour

// breaker stops what is being carried out when gateways become worse.
type breaker struct {
	k        *keeper
	c        config.Config
	collects *configuration
	reader   *gateway.Reader
	before   gateway.Reading
	acted    bool  // since gateways were last looked at
	failed   error // why nothing more is to be begun in this round
}

// errUnreadable says that gateways cannot be read, which ends a round.
var errUnreadable = errors.New("gateways cannot be read")

// begin reads how gateways are, and keeps that in the cluster, so that the next
// leader can tell what this one has done to them. An error says why nothing may be
// begun.
func (b *breaker) begin(ctx context.Context, consent *Consent) error {
	b.acted, b.failed = false, nil
	if consent == nil {
		return errors.New("what was approved, and whether all is stopped, could not be read")
	}
	b.before = b.reader.Read(ctx)
	if err := b.readable(ctx, b.before); err != nil {
		return err
	}
	if old := consent.Watched; old != nil && time.Since(old.Time) < watchedFor {
		// Objects are given the time to become Ready that they would have had.
		now, worse, err := b.await(ctx, *old)
		if err != nil {
			return err
		}
		if len(worse) > 0 {
			return b.open(ctx, worse)
		}
		b.before = now
	}
	if b.before.Blind() {
		return nil
	}
	return b.k.approvals(b.k.guarded).Change(ctx, func(c *Consent) (bool, error) {
		c.Watched = &b.before
		return true, nil
	})
}

// await waits for what was done to show, and says what is worse than before. What
// gateways reject while the consumers of a consolidation are on their way is for carry
// to judge, which leads them back where it lasts: stock Kourier keeps a host in the
// chain that it has left until the whole chain was translated anew (net-kourier
// pkg/generator/sni.go, consume), and Envoy rejects two chains for one host. It
// counts here only if it goes on, as objects do that are not Ready.
func (b *breaker) await(ctx context.Context, before gateway.Reading) (now gateway.Reading, worse []string, err error) {
	limits, settle, patience := b.c.GatewayLimits(), time.Duration(b.c.Breaker.Settle), time.Duration(b.c.Consolidate.Patience)
	certain := limits
	certain.Rejected, certain.Unready = math.MaxInt, math.MaxInt
	since := before.Time.Add(-patience) // what was written before shows later
	now, worse, err = b.reader.Await(ctx, before, limits, settle)
	for end := time.Now().Add(patience); err == nil && len(worse) > 0 && b.k.carrying.movedSince(since) && time.Now().Before(end); {
		if len(now.Worse(before, certain)) > 0 {
			break
		}
		b.k.log.Info("gateways looked at again, because a consolidation was on its way", zap.Strings("worse", worse))
		before.Envoys = now.LastOf(before)
		now, worse, err = b.reader.Await(ctx, before, limits, settle)
	}
	return now, worse, err
}

// check is asked before each batch.
func (b *breaker) check(ctx context.Context) error {
	if err := leader.Check(ctx); err != nil {
		return err
	}
	if !sameOrders(b.collects, b.k.config.Load()) {
		b.k.again = true
		return errors.New("the configuration was changed: what is left is for a round by the new one")
	}
	if b.failed == nil && b.acted {
		b.failed = b.look(ctx)
	}
	return b.failed
}

// look waits for what was done to show, and says whether it does.
func (b *breaker) look(ctx context.Context) error {
	b.acted = false
	if b.before.Blind() {
		return nil
	}
	now, worse, err := b.await(ctx, b.before)
	switch {
	case err != nil:
		return err
	case len(worse) > 0:
		return b.open(ctx, worse)
	}
	return b.readable(ctx, now)
}

// end looks once more when all is done, and forgets how gateways were when they
// still are so.
func (b *breaker) end(ctx context.Context) error {
	if b.failed == nil && b.acted {
		b.failed = b.look(ctx)
	}
	if b.failed != nil {
		return b.failed // what was not seen is for the next round, or leader, to see
	}
	return b.k.approvals(b.k.guarded).Change(ctx, func(c *Consent) (bool, error) {
		was := c.Watched != nil
		c.Watched = nil
		return was, nil
	})
}

// readable says what cannot be read, and whether that keeps anything from being
// done.
func (b *breaker) readable(ctx context.Context, r gateway.Reading) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	b.k.unread.Store(int64(len(r.Unread)))
	if len(r.Unread) == 0 {
		return nil
	}
	what := strings.Join(r.Unread, "; ")
	b.k.log.Warn("gateways not read", zap.Strings("unread", r.Unread), zap.String("then", string(b.c.Breaker.Unreadable)))
	b.k.events.Event(b.k.ownConfigMap(b.k.config.Load()), corev1.EventTypeWarning, "GatewayUnreadable", cut("What gateways say about themselves could not be read: "+what, 1000))
	if b.c.Breaker.Unreadable == config.IgnoreUnreadable {
		return nil
	}
	return fmt.Errorf("%w, and what is done to them would not be seen: %s", errUnreadable, what)
}

// open stops everything, until a person says so.
func (b *breaker) open(ctx context.Context, worse []string) error {
	stop := &Stop{Since: time.Now().UTC().Truncate(time.Second), Why: worse}
	b.k.stop = stop // until it is kept
	b.k.stopped.Store(true)
	b.k.seen.stops(stop.String())
	b.k.wanted = true // for a report that says so
	b.k.log.Error("stopped", zap.Strings("worse", worse))
	b.k.events.Event(b.k.ownConfigMap(b.k.config.Load()), corev1.EventTypeWarning, "Stopped", cut("Nothing more is carried out: "+stop.String(), 1000))
	if err := b.k.keepStop(ctx); err != nil {
		b.k.log.Error("stop not kept", zap.Error(err))
	}
	return errors.New(stop.String())
}

// keepStop keeps in the cluster that everything is stopped. As long as it cannot,
// this leader keeps to it nevertheless.
func (k *keeper) keepStop(ctx context.Context) error {
	if k.stop == nil {
		return nil
	}
	err := k.approvals(k.guarded).Change(ctx, func(c *Consent) (bool, error) {
		if c.Stopped == nil {
			c.Stopped = k.stop
			c.Say(Word{Time: k.stop.Since, What: SaidStop, By: "certherd " + k.o.Leader.Identity, Reason: strings.Join(k.stop.Why, "; ")})
		}
		c.Watched = nil
		return true, nil
	})
	if err == nil {
		k.stop = nil
	}
	return err
}
