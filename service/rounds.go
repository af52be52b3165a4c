package service

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.uber.org/zap"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/certherd/certherd/apply"
	"github.com/certherd/certherd/config"
	"github.com/certherd/certherd/consolidate"
	"github.com/certherd/certherd/controller"
	"github.com/certherd/certherd/gate"
	"github.com/certherd/certherd/gateway"
	"github.com/certherd/certherd/inventory"
	"github.com/certherd/certherd/leader"
	"github.com/certherd/certherd/plan"
	"github.com/certherd/certherd/proposal"
	"github.com/certherd/certherd/report"
	"github.com/certherd/certherd/web"
)

// keep keeps rounds until ctx ends: those that are due, one at the beginning,
// and one when the configuration has changed, which carries nothing out unless
// it is due, too.
func (s *Service) keep(ctx context.Context, leads bool) {
	k := keeper{Service: s, leads: leads, wanted: true}
	if leads {
		k.events = s.newEvents(ctx)
		defer k.events.stop()
		k.begin(ctx)
		k.ledger.Store(k.newLedger())
		defer k.ledger.Store(nil)
		k.carrying = k.carry(ctx)
		defer k.carrying.end()
		defer k.approve(ctx)()
		defer k.listen(ctx)()
	}
	defer k.unfollow()
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
	waited    int              // changes that waited for a person in the round before
	collector Collector
	carrying  *carrying // nil unless it leads
	breaker   *breaker
	collects  *configuration // that these two were made for
	proposer  *proposal.Proposer
	unready   string // why the collector could do nothing, as an Event has told
	again     bool   // what was approved was put off, because the configuration has changed
	journal   *apply.Journal
	decisions map[string]bool // about Consolidations that the journal has
	stop      *Stop           // that could not be kept in the cluster yet
	outcomes  outcomes
	urgent    atOnce // what persons want now
	follows   *following
}

// outcomes are those of the steps of one round.
type outcomes struct {
	snapshot    *inventory.Snapshot
	open        int // steps that were not done
	planned     int // steps that are for a later round
	told, quiet int // Events, and those that would have been too many
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
				k.seen.ended(web.Round{Began: now, Took: time.Since(now).Round(time.Millisecond), Rules: rulesOf(due), Failure: err.Error()}, k.last)
				k.metrics.rounds.WithLabelValues("failed").Inc()
			} else if err == nil {
				k.failures = 0
			}
			// What a round has read and decided is not needed until the next one.
			k.outcomes = outcomes{}
			if k.o.Idle != nil {
				k.o.Idle()
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
func (k *keeper) round(ctx context.Context, c *configuration, due []config.Round, now time.Time) (err error) {
	k.began.Store(now.UnixNano())
	defer k.began.Store(0)
	k.unfollow()
	ctx, ended := traced(ctx, "round", attribute.Bool("leads", k.leads), attribute.Int("due", len(due)))
	defer func() { ended(err) }()
	looking, cancel := context.WithTimeoutCause(ctx, k.o.RoundTimeout, fmt.Errorf("the look took longer than %s", k.o.RoundTimeout))
	looking, looked := traced(looking, "look")
	snapshot, err := k.o.Look(looking)
	if err != nil && looking.Err() != nil {
		err = errors.Join(context.Cause(looking), err)
	}
	cancel()
	looked(err)
	if err != nil {
		return fmt.Errorf("cannot look at the cluster: %w", err)
	}
	o := controller.Options{Namespaces: k.o.Namespaces, GC: c.GCOptions(), Consolidate: c.ConsolidateOptions(), Renew: c.RenewOptions(), Gate: c.PolicyFor(due, c.Next(k.last, now))}
	o.Renew.Next, o.Renew.Slack = nextBatch(c.Config, k.last, now)
	o.Measured = k.measure(ctx, c, snapshot)
	k.askCAA(ctx, c, snapshot, &o.Consolidate)
	consent := k.consent(ctx, c, &o.Gate)
	_, decided := traced(ctx, "decide", attribute.Int("certificates", len(snapshot.Certificates)), attribute.Int("secrets", len(snapshot.Secrets)))
	r, p, err := controller.RunOnce(snapshot, o)
	decided(err)
	result := "success"
	if err != nil {
		// A defect of ours: it is told, and nothing is proposed.
		k.log.Error("plan refused", zap.Error(err))
		result, p.Changes = "refused", nil
	}
	// The same question gets the same answer as in RunOnce.
	cleared, held := o.Gate.Decide(p, snapshot, snapshot.Taken)
	k.urgent.of(cleared)
	renewals, cleared := cleared.Part()
	waiting := 0
	for i := range held {
		if held[i].Digest != "" {
			waiting++
		}
	}
	k.waiting.Store(int64(waiting))
	drains := gateways(snapshot)
	k.drains.Store(&drains)
	if k.leads {
		k.showHeld(ctx, &r, snapshot, cleared, renewals)
	}
	k.sample(&r)
	shown, e := publish(&r, report.Options{Rules: k.o.Rules, Version: k.o.Version})
	if e != nil {
		return fmt.Errorf("cannot show the report: %w", e)
	}
	k.newest.Store(shown)
	k.follow(ctx, snapshot, o)
	last := maps.Clone(k.last)
	for _, d := range due {
		last[d.Rule] = now
	}
	if k.leads {
		// What is not noted is not begun: another leader would begin it again.
		heard := k.note(ctx, consent)
		if err := k.store(ctx, &r, shown.packed, last, heard); err != nil {
			return fmt.Errorf("cannot keep the report: %w", err)
		}
		k.last, k.heard = last, heard
		k.tellFindings(&r, snapshot)
		k.tellWaiting(waiting)
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
		if len(cleared.Changes()) > 0 || len(due) > 0 && acts(c.Config) {
			switch done := k.collect(ctx, c, consent, snapshot, cleared); {
			case !done:
				result = "incomplete"
			case k.outcomes.planned > 0 && result == "success":
				result = "waiting"
			}
		}
		if !k.renew(ctx, c, consent, snapshot, renewals) {
			result = "incomplete"
		}
		k.carrying.sees(snapshot.Taken, consolidate.Drains(snapshot, o.Consolidate))
		k.sweep(ctx, c, consent, snapshot, o)
		k.carrying.look()
		k.tidy(ctx, c, consent, snapshot, p, waiting)
		if o.Gate.Prompt && len(cleared.Changes())+len(renewals.Changes()) > 0 {
			k.wanted = true // whoever has approved wants to see what came of it
		}
	}
	k.last = last
	k.seen.ended(web.Round{Began: now, Took: time.Since(now).Round(time.Millisecond), Rules: rulesOf(due), Result: result}, last)
	k.metrics.rounds.WithLabelValues(result).Inc()
	k.metrics.duration.Observe(time.Since(now).Seconds())
	k.log.Info("round finished", zap.String("result", result), zap.Duration("duration", time.Since(now)), zap.Int("due", len(due)),
		zap.Int("findings", len(r.Findings)), zap.Int("cleared", len(cleared.Changes())+len(renewals.Changes())), zap.Int("held", len(held)),
		zap.Int("certificates", r.Summary.Certificates), zap.Int("secrets", r.Summary.Secrets), zap.Int("gaps", len(r.Gaps)))
	return nil
}

func rulesOf(due []config.Round) []string {
	var out []string
	for _, d := range due {
		out = append(out, string(d.Rule))
	}
	return out
}

// acts reports whether any rule that takes something away does more than to report.
func acts(c config.Config) bool {
	for name, r := range c.Rules() {
		if name != gate.Batch && r.Mode != gate.Audit {
			return true
		}
	}
	return false
}

// enforces reports whether any such rule acts without being asked.
func enforces(c config.Config) bool {
	for name, r := range c.Rules() {
		if name != gate.Batch && r.Mode == gate.Enforce {
			return true
		}
	}
	return false
}

// consent reads what persons have said, and puts it into the gate's policy. What
// cannot be read stops everything, and is nil.
func (k *keeper) consent(ctx context.Context, c *configuration, policy *gate.Policy) *Consent {
	if err := k.keepStop(ctx); err != nil {
		k.log.Error("stop not kept", zap.Error(err))
	}
	consent, err := k.approvals(k.client).Read(ctx)
	switch {
	case err != nil:
		k.log.Error("approvals not read", zap.Error(err))
		policy.Stopped = err.Error()
		return nil
	case k.stop != nil:
		policy.Stopped = k.stop.String()
	case consent.Stopped != nil:
		policy.Stopped = consent.Stopped.String()
	}
	k.stopped.Store(policy.Stopped != "")
	k.seen.stops(policy.Stopped)
	policy.Approvals = consent.holding(time.Now(), time.Duration(c.ApprovalLifetime))
	k.urgent.wanted = consent.urgent(time.Now(), time.Duration(c.ApprovalLifetime))
	policy.Prompt = k.leads && (consent.Serial != k.heard || k.again)
	k.again = false
	return consent
}

// approvals are those of certherd itself.
func (k *keeper) approvals(client kubernetes.Interface) *Approvals {
	return OpenApprovals(client.CoreV1(), k.o.Namespace)
}

// note tells the journal what persons have said since, and returns up to where it
// has.
func (k *keeper) note(ctx context.Context, consent *Consent) int64 {
	if consent == nil || consent.Serial == k.heard {
		return k.heard
	}
	var entries []apply.Entry
	for _, w := range consent.Words {
		round := fmt.Sprintf("%s-%s-%d", w.What, w.Time.UTC().Format("20060102-150405"), w.Serial)
		entries = append(entries, apply.Entry{ID: round + "/1", Round: round, Time: w.Time.UTC(), Action: apply.Said, State: apply.Carried, Message: w.String()})
		k.log.Info("a person has said", zap.String("what", w.What), zap.String("by", w.By), zap.String("reason", w.Reason), zap.Strings("changes", w.Changes), zap.Int("count", w.Count))
	}
	if !k.journalize(ctx, entries) {
		return k.heard
	}
	return consent.Serial
}

// journalize adds entries to the journal, and reports whether they are there.
func (k *keeper) journalize(ctx context.Context, entries []apply.Entry) bool {
	var err error
	if k.journal == nil {
		k.journal, err = apply.OpenJournal(k.writer, k.o.Namespace)
	}
	if err == nil {
		err = k.journal.Note(ctx, entries)
	}
	if err != nil {
		k.log.Error("not in the journal", zap.Error(err))
	}
	return err == nil
}

// tidy forgets what was said and holds no more, and makes the ConfigMap that a
// person approves in where there is something to approve.
func (k *keeper) tidy(ctx context.Context, c *configuration, consent *Consent, s *inventory.Snapshot, p plan.Plan, waiting int) {
	if consent == nil || len(consent.Approvals)+len(consent.Words) == 0 && (waiting == 0 || consent.kept) {
		return
	}
	var proposed map[string]bool
	if len(s.Gaps) == 0 {
		proposed = map[string]bool{}
		for i := range p.Changes {
			proposed[p.Changes[i].ID] = true
		}
	}
	heard := k.heard
	err := k.approvals(k.guarded).Change(ctx, func(c2 *Consent) (bool, error) {
		n := len(c2.Words)
		c2.Words = slices.DeleteFunc(c2.Words, func(w Word) bool { return w.Serial <= heard })
		return c2.prune(time.Now(), time.Duration(c.ApprovalLifetime), proposed) || len(c2.Words) < n || !c2.kept, nil
	})
	if err != nil && ctx.Err() == nil {
		k.log.Warn("approvals not tidied", zap.Error(err))
	}
}

// collect has done what is cleared, and reports whether all of it was. Where
// nothing is, the Collector ends what a leader before has left half done.
func (k *keeper) collect(ctx context.Context, c *configuration, consent *Consent, s *inventory.Snapshot, cleared gate.Cleared) bool {
	k.outcomes = outcomes{snapshot: s}
	ctx, ended := traced(ctx, "collect", attribute.Int("changes", len(cleared.Changes())))
	defer ended(nil)
	if k.o.Collector == nil {
		k.log.Warn("nothing carried out, because this certherd only reports", zap.Int("changes", len(cleared.Changes())))
		return false
	}
	if err := leader.Check(ctx); err != nil {
		k.log.Warn("nothing carried out", zap.Error(err))
		return false
	}
	if k.collects == nil || k.collects.taken != c.taken {
		if err := k.prepare(c); err != nil {
			k.log.Error("nothing carried out", zap.Error(err))
			return false
		}
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
	k.breaker.acted, k.breaker.failed = false, nil
	if len(cleared.Changes()) == 0 {
		k.collector.Collect(ctx, cleared)
		if consent == nil || consent.Watched == nil {
			return true
		}
		// What a leader before has done to gateways is looked at, even if nothing
		// is left to do.
	}
	if err := k.breaker.begin(ctx, consent); err != nil {
		k.log.Error("nothing carried out", zap.Error(err))
		return false
	}
	k.collector.Collect(ctx, cleared)
	if n := k.outcomes.quiet; n > 0 {
		k.events.Event(k.ownConfigMap(k.config.Load()), corev1.EventTypeNormal, "MoreSteps", fmt.Sprintf("This round had %d more steps: see `certherd history`.", n))
	}
	if err := k.breaker.end(ctx); err != nil {
		k.log.Error("gateways not found well after all was done", zap.Error(err))
		return false
	}
	return k.outcomes.open == 0
}

// prepare makes what carries out changes under a configuration.
func (k *keeper) prepare(c *configuration) error {
	reader, err := gateway.New(k.o.Cluster, c.GatewayOptions())
	if err != nil {
		return err
	}
	b := &breaker{k: k, c: c.Config, collects: c, reader: reader}
	collector, err := k.o.Collector(k.writer, c.Config, Hooks{Before: b.check, Pace: pacer{k, k.ledger.Load().For(string(gate.GC))}, Tell: k.tell})
	if err != nil {
		return err
	}
	k.collector, k.breaker, k.collects = collector, b, c
	return nil
}

// tell tells of one step as it ends.
func (k *keeper) tell(x Outcome) {
	result := strings.ReplaceAll(x.Result, " ", "_")
	if x.Planned {
		result = "waiting"
	}
	k.metrics.actions.WithLabelValues(string(x.Action), result).Inc()
	k.log.Info("step", zap.String("round", x.Round), zap.String("change", x.Change), zap.String("action", string(x.Action)), zap.Stringer("object", x.Object), zap.String("result", result), zap.String("why", x.Why))
	switch {
	case x.Planned:
		k.outcomes.planned++
		return
	case x.Why != "":
		k.outcomes.open++
	default:
		k.breaker.acted = true
	}
	k.tellStep(x)
}
