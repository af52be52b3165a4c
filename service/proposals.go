package service

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/certherd/certherd/api/v1alpha1"
	"github.com/certherd/certherd/apply"
	"github.com/certherd/certherd/caa"
	"github.com/certherd/certherd/consolidate"
	"github.com/certherd/certherd/gate"
	"github.com/certherd/certherd/inventory"
	"github.com/certherd/certherd/leader"
	"github.com/certherd/certherd/proposal"
)

// keptWithdrawn is how long a Consolidation that is not proposed any more stays to
// be read.
const keptWithdrawn = 7 * 24 * time.Hour

// lookups is how long all questions to the resolver of CAA records may take.
const lookups = time.Minute

// askCAA asks the resolver, if one is configured, who may issue for the domains of
// what could be proposed.
func (k *keeper) askCAA(ctx context.Context, c *configuration, s *inventory.Snapshot, o *consolidate.Options) {
	if c.Consolidate.CAAResolver == "" {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, lookups)
	defer cancel()
	o.CAA = caa.Lookup(ctx, c.Consolidate.CAAResolver, consolidate.Domains(s, *o))
}

// proposes reports whether Consolidations are kept.
func (k *keeper) proposes(c *configuration) bool {
	return k.leads && c.Consolidate.Mode != gate.Audit
}

func (k *keeper) getProposer() (*proposal.Proposer, error) {
	var err error
	if k.proposer == nil {
		k.proposer, err = proposal.New(k.writer, proposal.Options{Keep: keptWithdrawn})
	}
	return k.proposer, err
}

// undecided reports whether a person has decided something about a Consolidation
// that no round has seen, and notes all that was decided.
func (k *keeper) undecided(ctx context.Context, c *configuration) bool {
	if !k.leads {
		return false
	}
	p, err := k.getProposer()
	if err != nil {
		return false
	}
	all, err := p.List(ctx)
	if err != nil && !errors.Is(err, proposal.ErrNotInstalled) && ctx.Err() == nil {
		k.log.Warn("consolidations not read", zap.Error(err))
	}
	k.noteDecisions(ctx, all)
	return k.proposes(c) && slices.ContainsFunc(all, proposal.Undecided)
}

// noteDecisions tells the journal what was decided about Consolidations since.
func (k *keeper) noteDecisions(ctx context.Context, all []*v1alpha1.Consolidation) {
	var entries []apply.Entry
	for _, c := range all {
		d, ok := proposal.DecisionOf(c)
		if !ok {
			continue
		}
		round := fmt.Sprintf("%s-%s-%.8s", d.What, d.Time.UTC().Format("20060102-150405"), c.UID)
		if k.decisions[round] {
			continue
		}
		w := Word{What: d.What, By: d.By, Reason: d.Reason}
		if d.Digest != "" {
			w.Changes, w.Count = []string{gate.Token(c.Namespace+"/"+c.Name, d.Digest)}, 1
		}
		entries = append(entries, apply.Entry{
			ID: round + "/1", Round: round, Time: d.Time.UTC(), Action: apply.Said, State: apply.Carried, Message: w.String(), UID: string(c.UID),
			Object: apply.Object{Group: v1alpha1.Group, Kind: v1alpha1.Kind, Namespace: c.Namespace, Name: c.Name},
		})
	}
	if len(entries) == 0 || !k.journalize(ctx, entries) {
		return
	}
	if k.decisions == nil {
		k.decisions = map[string]bool{}
	}
	for _, e := range entries {
		k.decisions[e.Round] = true
		k.log.Info("decided", zap.Stringer("object", e.Object.Ref()), zap.String("what", e.Message))
	}
}

// propose keeps the Consolidations in step with what is proposed, and reports
// whether it could. held are the changes that the gate holds.
func (k *keeper) propose(ctx context.Context, c *configuration, s *inventory.Snapshot, o consolidate.Options, policy gate.Policy, held []gate.Held) bool {
	if !k.proposes(c) {
		return true
	}
	if err := leader.Check(ctx); err != nil {
		k.log.Warn("nothing proposed", zap.Error(err))
		return false
	}
	p, err := k.getProposer()
	if err != nil {
		k.log.Error("nothing proposed", zap.Error(err))
		return false
	}
	proposals := consolidate.Proposals(s, o)
	block(proposals, held)
	approve := func(x *consolidate.Proposal) string {
		if slices.ContainsFunc(policy.Approvals, func(a gate.Approval) bool {
			return a.ID == x.Change.ID && a.Digest == gate.Digest(x.Change)
		}) {
			return "approved as change " + x.Change.ID
		}
		if c.Consolidate.Mode == gate.Enforce {
			return "nothing stops it, in mode enforce"
		}
		return ""
	}
	outcomes, err := p.Sync(ctx, proposals, approve)
	if errors.Is(err, proposal.ErrNotInstalled) {
		k.log.Warn("nothing proposed", zap.Int("proposals", len(proposals)), zap.Error(err))
		return true
	}
	if err != nil {
		k.log.Error("nothing proposed", zap.Error(err))
		return false
	}
	all := true
	for _, x := range outcomes {
		fields := []zap.Field{zap.String("namespace", x.Namespace), zap.String("name", x.Name), zap.String("phase", string(x.Phase)), zap.String("what", x.What)}
		if x.Err != nil {
			all = false
			k.log.Error("consolidation not written", append(fields, zap.Error(x.Err))...)
			continue
		}
		k.log.Info("consolidation", fields...)
	}
	return all
}

// block has proposals held for what the gate has against them that neither time
// nor an approval changes.
func block(proposals []consolidate.Proposal, held []gate.Held) {
	why := map[string]string{}
	for i := range held {
		switch h := &held[i]; h.Cause {
		case gate.OptedOut, gate.Managed, gate.Unread, gate.NotUnused, gate.Malformed:
			why[h.Change.ID] = h.Why
		}
	}
	for i := range proposals {
		if w := why[proposals[i].Change.ID]; w != "" {
			s := &proposals[i].Consolidation.Status
			s.Phase, s.WaitUntil, s.Blockers = v1alpha1.Held, nil, append(s.Blockers, w)
		}
	}
}
