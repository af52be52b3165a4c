package service

import (
	"context"
	"errors"
	"time"

	"go.uber.org/zap"
	corev1 "k8s.io/api/core/v1"

	"github.com/certherd/certherd/apply"
	"github.com/certherd/certherd/batch"
	"github.com/certherd/certherd/config"
	"github.com/certherd/certherd/gate"
	"github.com/certherd/certherd/inventory"
	"github.com/certherd/certherd/leader"
	"github.com/certherd/certherd/plan"
	renewlive "github.com/certherd/certherd/renew/live"
)

// renew has certificates renewed together, as far as the gate has cleared it, and
// reports whether all of them were triggered.
func (k *keeper) renew(ctx context.Context, c *configuration, consent *Consent, s *inventory.Snapshot, cleared gate.Cleared) bool {
	changes := cleared.Changes()
	if len(changes) == 0 {
		return true
	}
	if k.o.Collector == nil {
		k.log.Warn("nothing renewed, because this certherd only reports", zap.Int("changes", len(changes)))
		return false
	}
	err := leader.Check(ctx)
	if err == nil && (k.collects == nil || k.collects.taken != c.taken) {
		err = k.prepare(c)
	}
	var renewer *renewlive.Renewer
	if err == nil {
		renewer, err = renewlive.New(k.writer, time.Now)
	}
	k.outcomes = outcomes{snapshot: s}
	if err == nil {
		k.breaker.acted, k.breaker.failed = false, nil
		err = k.breaker.begin(ctx, consent)
	}
	if err != nil {
		k.log.Error("nothing renewed", zap.Error(err))
		return false
	}
	for _, change := range changes {
		// Another configuration ends the batch between two changes, and its end within one.
		if k.config.Load().taken != c.taken {
			k.log.Info("nothing more renewed, because the configuration has changed")
			return false
		}
		if err := k.breaker.check(ctx); err != nil {
			k.log.Error("nothing more renewed", zap.Error(err))
			return false
		}
		if err := k.paceRenewals(ctx, c, s, change); err != nil {
			k.log.Warn("nothing more renewed", zap.String("change", change.ID), zap.Error(err))
			return false
		}
		round := "renew-" + s.Taken.UTC().Format("20060102-150405")
		began := time.Now()
		renewer.Renew(ctx, change.Steps, func(st plan.Step, result renewlive.Result, why string) {
			k.tell(Outcome{Action: st.Action, Object: st.Object, Result: string(result), Why: why, Planned: result == renewlive.Dropped,
				Change: change.ID, Reason: string(change.Why.Reason), Message: "certherd renews it together with others before it is due", Round: round})
		})
		k.log.Info("certificates renewed together", zap.String("change", change.ID), zap.Int("certificates", len(change.Steps)), zap.Int("not", k.outcomes.open), zap.Duration("duration", time.Since(began)))
	}
	if n := k.outcomes.quiet; n > 0 {
		k.events.Event(k.ownConfigMap(k.config.Load()), corev1.EventTypeNormal, "MoreSteps", "This round renewed more certificates than are told one by one.")
	}
	if err := k.breaker.end(ctx); err != nil {
		k.log.Error("gateways not found well after certificates were renewed", zap.Error(err))
		return false
	}
	return k.outcomes.open == 0
}

// maxSlack is how late a round is taken to begin at most.
const maxSlack = 10 * time.Minute

// paceRenewals waits until the gateways' budgets have room for a batch of
// certificates, which go together; at the latest until the first of them is due, when
// cert-manager renews it anyway.
func (k *keeper) paceRenewals(ctx context.Context, c *configuration, s *inventory.Snapshot, change plan.Change) error {
	it := renewalItem(s, change)
	caller := k.ledger.Load().For(string(gate.Batch))
	var told time.Time
	for {
		if k.hearUrgent(ctx); k.urgent.wanted[change.ID] {
			it.Urgent = batch.Asked
		}
		going, held, err := caller.Ask(ctx, []batch.Item{it})
		if len(going) > 0 || err != nil {
			return err
		}
		if len(held) == 0 {
			return errors.New("something else is about to be done with " + it.Object.String())
		}
		if until := held[0].Until; !until.Equal(told) {
			told = until
			k.log.Info("renewals held", zap.String("change", change.ID), zap.Time("until", until), zap.String("why", held[0].Why))
		}
		t := time.NewTimer(min(time.Until(held[0].Until), apply.Recheck)) // a person may want it now
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return context.Cause(ctx)
		}
		if k.config.Load().taken != c.taken {
			return errors.New("the configuration has changed")
		}
	}
}

// renewalItem is a batch of certificates, which go together, when the first of them is due at
// the latest.
func renewalItem(s *inventory.Snapshot, change plan.Change) batch.Item {
	it := batch.Item{Object: change.Steps[0].Object, Action: plan.Renew, Weight: len(change.Steps)}
	for _, st := range change.Steps {
		if x := s.Certificate(st.Object); x != nil && !x.Renewal.IsZero() && (it.Deadline.IsZero() || x.Renewal.Before(it.Deadline)) {
			it.Deadline = x.Renewal
		}
	}
	return it
}

// nextBatch is when certificates can be renewed together again after a round at now:
// in the next round of the rule that begins inside of a window, or the one after that
// if that one is late. Zero where nobody can tell.
func nextBatch(c config.Config, last map[gate.Rule]time.Time, now time.Time) (next time.Time, slack time.Duration) {
	if c.Batch.Mode != gate.Enforce {
		return time.Time{}, 0 // a person who is asked wants time to answer
	}
	if next = c.NextInWindow(gate.Batch, last, now); next.IsZero() {
		return next, 0
	}
	second := c.NextInWindow(gate.Batch, map[gate.Rule]time.Time{gate.Batch: next}, next)
	return next, max(0, min(second.Sub(next), maxSlack))
}
