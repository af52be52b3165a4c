package service

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"
	corev1 "k8s.io/api/core/v1"

	"github.com/certherd/certherd/config"
	"github.com/certherd/certherd/consolidate"
	"github.com/certherd/certherd/controller"
	"github.com/certherd/certherd/gate"
	"github.com/certherd/certherd/leader"
	"github.com/certherd/certherd/proposal"
	"github.com/certherd/certherd/report"
)

// keep keeps rounds until ctx ends: those that are due, one at the beginning,
// and one when the configuration has changed, which carries nothing out unless
// it is due, too.
func (s *Service) keep(ctx context.Context, leads bool) {
	k := keeper{Service: s, leads: leads, wanted: true}
	if leads {
		k.events = newEvents(ctx, s.guarded)
		defer k.events.stop()
		k.begin(ctx)
		k.carrying = k.carry(ctx)
		defer k.carrying.end()
	}
	for ctx.Err() == nil {
		k.step(ctx)
	}
}

// keeper keeps the rounds of one term, or of a time as follower.
type keeper struct {
	*Service
	leads     bool
	events    *events   // nil unless it leads
	wanted    bool      // a round that no schedule asks for
	notBefore time.Time // when the next such round may begin
	failures  int
	told      *configuration   // whose problem an Event has told of
	known     map[finding]bool // serious findings of the round before
	collector Collector
	carrying  *carrying      // nil unless it leads
	collects  *configuration // that the collector was made for
	proposer  *proposal.Proposer
	unready   string // why the collector could do nothing, as an Event has told
}

// longest is the longest wait: clocks are set, and machines sleep.
const longest = time.Minute

// step does what is due, and waits for what comes next.
func (k *keeper) step(ctx context.Context) {
	c := k.config.Load()
	k.tellProblem(c)
	now := time.Now()
	due, skipped := c.Due(k.last, now)
	for _, r := range skipped {
		k.log.Warn("round skipped", zap.String("rule", string(r.Rule)), zap.Time("due", r.At), zap.Stringer("what", r))
		k.metrics.rounds.WithLabelValues("skipped").Inc()
		k.last[r.Rule] = now
	}
	k.wanted = k.wanted || k.undecided(ctx, c)
	wait := longest
	for _, r := range c.Next(k.last, now) {
		wait = min(wait, r.At.Sub(now))
	}
	if len(due) > 0 || k.wanted {
		early := k.notBefore.Sub(now)
		if early <= 0 || len(due) > 0 && k.failures == 0 {
			k.wanted = false
			if err := k.round(ctx, c, due, now); err != nil && ctx.Err() == nil {
				k.wanted = true
				k.failures++
				k.log.Error("round failed", zap.Error(err))
				k.metrics.rounds.WithLabelValues("failed").Inc()
			} else if err == nil {
				k.failures = 0
			}
			pause := k.o.Pause << min(k.failures, 5)
			k.notBefore = time.Now().Add(pause)
			return
		}
		wait = min(wait, early)
	}
	t := time.NewTimer(max(wait, time.Millisecond))
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	case <-k.changed:
		k.wanted = true
		k.carrying.look()
	case <-k.carrying.asked():
		k.wanted = true
	}
}

// round looks, decides, tells, and has done what is cleared. An error says that
// it did not come so far that it counts.
func (k *keeper) round(ctx context.Context, c *configuration, due []config.Round, now time.Time) error {
	k.began.Store(now.UnixNano())
	defer k.began.Store(0)
	looking, cancel := context.WithTimeoutCause(ctx, k.o.RoundTimeout, fmt.Errorf("the look took longer than %s", k.o.RoundTimeout))
	snapshot, err := k.o.Look(looking)
	if err != nil && looking.Err() != nil {
		err = errors.Join(context.Cause(looking), err)
	}
	cancel()
	if err != nil {
		return fmt.Errorf("cannot look at the cluster: %w", err)
	}
	o := controller.Options{Namespaces: k.o.Namespaces, GC: c.GCOptions(), Consolidate: c.ConsolidateOptions(), Gate: c.PolicyFor(due, c.Next(k.last, now))}
	k.askCAA(ctx, c, snapshot, &o.Consolidate)
	r, p, err := controller.RunOnce(snapshot, o)
	result := "success"
	if err != nil {
		// A defect of ours: it is told, and nothing is proposed.
		k.log.Error("plan refused", zap.Error(err))
		result, p.Changes = "refused", nil
	}
	// The same question gets the same answer as in RunOnce.
	cleared, held := o.Gate.Decide(p, snapshot, snapshot.Taken)
	k.newest.Store(&published{report: r, options: report.Options{Rules: k.o.Rules, Version: k.o.Version}})
	last := maps.Clone(k.last)
	for _, d := range due {
		last[d.Rule] = now
	}
	if k.leads {
		// What is not noted is not begun: another leader would begin it again.
		if err := k.store(ctx, &r, last); err != nil {
			return fmt.Errorf("cannot keep the report: %w", err)
		}
		k.last = last
		k.tellFindings(&r, snapshot)
		if len(due) > 0 && acts(c.Config) && len(r.Gaps) > 0 {
			k.log.Warn("nothing is unused, because not everything could be read", zap.Int("gaps", len(r.Gaps)), zap.String("kind", r.Gaps[0].Kind), zap.String("why", r.Gaps[0].Reason))
		}
		// What was refused as a whole withdraws nothing: the cluster has not changed.
		if err == nil && !k.propose(ctx, c, snapshot, o.Consolidate, o.Gate, held) {
			result = "incomplete"
		}
		if k.carrying != nil && c.Consolidate.Mode == gate.Enforce && slices.ContainsFunc(due, func(d config.Round) bool { return d.Rule == gate.Consolidate }) {
			k.carrying.clears(consolidate.Proposals(snapshot, o.Consolidate), cleared)
		}
		if (len(cleared.Changes()) > 0 || len(due) > 0 && acts(c.Config)) && !k.collect(ctx, c, cleared) {
			result = "incomplete"
		}
		k.sweep(ctx, c, snapshot, o)
		k.carrying.look()
	}
	k.last = last
	k.metrics.rounds.WithLabelValues(result).Inc()
	k.metrics.duration.Observe(time.Since(now).Seconds())
	k.log.Info("round finished", zap.String("result", result), zap.Duration("duration", time.Since(now)), zap.Int("due", len(due)),
		zap.Int("findings", len(r.Findings)), zap.Int("cleared", len(cleared.Changes())), zap.Int("held", len(held)),
		zap.Int("certificates", r.Summary.Certificates), zap.Int("secrets", r.Summary.Secrets), zap.Int("gaps", len(r.Gaps)))
	return nil
}

// acts reports whether any rule does more than to report.
func acts(c config.Config) bool {
	for _, r := range c.Rules() {
		if r.Mode != gate.Audit {
			return true
		}
	}
	return false
}

// enforces reports whether any rule acts without being asked.
func enforces(c config.Config) bool {
	for _, r := range c.Rules() {
		if r.Mode == gate.Enforce {
			return true
		}
	}
	return false
}

// collect has done what is cleared, and reports whether all of it was. Where
// nothing is, the Collector ends what a leader before has left half done.
func (k *keeper) collect(ctx context.Context, c *configuration, cleared gate.Cleared) bool {
	if k.o.Collector == nil {
		k.log.Warn("nothing carried out, because this certherd only reports", zap.Int("changes", len(cleared.Changes())))
		return false
	}
	if err := leader.Check(ctx); err != nil {
		k.log.Warn("nothing carried out", zap.Error(err))
		return false
	}
	if k.collects == nil || k.collects.taken != c.taken {
		collector, err := k.o.Collector(k.writer, c.Config)
		if err != nil {
			k.log.Error("nothing carried out", zap.Error(err))
			return false
		}
		k.collector, k.collects = collector, c
	}
	if err := k.collector.Ready(ctx); err != nil && (len(cleared.Changes()) > 0 || enforces(c.Config)) {
		k.log.Error("nothing carried out", zap.Error(err))
		if text := err.Error(); text != k.unready {
			k.unready = text
			k.events.Event(k.ownConfigMap(c), corev1.EventTypeWarning, "NothingCarriedOut", cut("The configuration allows changes, and none is made: "+text, 1000))
		}
		return false
	}
	k.unready = ""
	all := true
	for _, x := range k.collector.Collect(ctx, cleared) {
		result := strings.ReplaceAll(x.Result, " ", "_")
		k.metrics.actions.WithLabelValues(string(x.Action), result).Inc()
		k.log.Info("step", zap.String("action", string(x.Action)), zap.Stringer("object", x.Object), zap.String("result", result), zap.String("why", x.Why))
		all = all && x.Why == ""
	}
	return all
}
