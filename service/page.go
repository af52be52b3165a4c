package service

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/certherd/certherd/api/v1alpha1"
	"github.com/certherd/certherd/apply"
	"github.com/certherd/certherd/batch"
	"github.com/certherd/certherd/config"
	"github.com/certherd/certherd/gate"
	"github.com/certherd/certherd/proposal"
	"github.com/certherd/certherd/report"
	"github.com/certherd/certherd/web"
)

// approvedFor is how long an approval by the page holds, as one by `certherd approve`.
const approvedFor = 7 * 24 * time.Hour

// seen is what the page needs to know beyond the newest report.
type seen struct {
	mu     sync.Mutex
	leader string
	round  *web.Round
	last   map[gate.Rule]time.Time
	reason string // why everything is stopped
}

func (x *seen) leads(identity string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.leader = identity
}

func (x *seen) ended(r web.Round, last map[gate.Rule]time.Time) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.round, x.last = &r, maps.Clone(last)
}

func (x *seen) stops(why string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.reason = why
}

// sample notes for the page how gateways are by a report.
func (s *Service) sample(r *report.Report) {
	mib := 0.0
	for _, g := range r.Gateways {
		if g.Measured != nil && g.Measured.AllocatedMiB > 0 {
			mib += g.Measured.AllocatedMiB
		} else {
			mib += g.MemoryMiB.Now
		}
	}
	s.samples.Add(web.Sample{Time: r.TakenAt, Certificates: float64(r.Summary.GatewayCertificates.Now), MiB: mib, Updates: float64(s.given.Load())})
}

// backend is the Service as its page sees it. It writes as `certherd approve` does,
// whoever leads.
type backend struct {
	*Service
	mu      sync.Mutex
	asked   time.Time
	entries []apply.Entry
	objects []*v1alpha1.Consolidation
}

func (s *Service) newPage() *web.Page {
	return web.New(web.Options{Mode: s.o.Page, Namespace: s.o.Namespace, Report: s.o.Report, Client: s.client, Backend: &backend{Service: s}, Log: s.log})
}

// shownRounds is how many coming rounds of each rule are shown.
const shownRounds = 3

// State tells what is in memory.
func (b *backend) State(now time.Time) web.State {
	s := b.Service
	x := web.State{Namespace: s.o.Namespace, Identity: s.o.Leader.Identity, Version: s.o.Version, Leads: s.leading.Load(),
		Unread: int(s.unread.Load()), Reasons: s.o.Rules, Samples: s.samples.All(), Followed: s.since.Load()}
	s.seen.mu.Lock()
	x.Leader, x.Round = s.seen.leader, s.seen.round
	last := s.seen.last
	if s.stopped.Load() {
		x.Stopped = s.seen.reason
		if x.Stopped == "" {
			x.Stopped = "gateways have become worse: `certherd approve --list` says how"
		}
	}
	s.seen.mu.Unlock()
	if c := s.config.Load(); c != nil {
		x.Rules, x.Refused = c.Outlooks(last, now, shownRounds), c.problem
	}
	if t := s.began.Load(); t != 0 {
		x.UnderWay = time.Unix(0, t)
	}
	if p := s.newest.Load(); p != nil {
		if r, err := p.whole(); err != nil {
			s.log.Error("report not shown", zap.Error(err))
		} else {
			x.Report, x.Waiting = r, Waiting(r)
			x.TooMuch, x.Whole = TooMuch(x.Waiting), WholeDigest(x.Waiting)
		}
	}
	held := s.ledger.Load().Held()
	for _, caller := range slices.Sorted(maps.Keys(held)) {
		x.Held = append(x.Held, held[caller]...)
	}
	slices.SortStableFunc(x.Held, func(a, b batch.Held) int { return a.Until.Compare(b.Until) })
	return x
}

// Said reads what persons have said.
func (b *backend) Said(ctx context.Context) (web.Said, error) {
	c, err := OpenApprovals(b.client.CoreV1(), b.o.Namespace).Read(ctx)
	if err != nil {
		return web.Said{}, err
	}
	var out web.Said
	if c.Stopped != nil {
		out.Stopped = c.Stopped.Since
	}
	lifetime := time.Duration(config.Default().ApprovalLifetime)
	if x := b.config.Load(); x != nil {
		lifetime = time.Duration(x.ApprovalLifetime)
	}
	for _, a := range c.Approvals {
		if a.Holds(time.Now(), lifetime) {
			out.Given = append(out.Given, web.Given{Token: gate.Token(a.ID, a.Digest), By: a.By, Reason: a.Reason, Until: a.Until})
		}
	}
	return out, nil
}

// shownFor is how long what was read for the page is shown: reading the journal is
// dear, and pages are reloaded.
const shownFor = 3 * time.Second

func (b *backend) read(ctx context.Context) error {
	if time.Since(b.asked) < shownFor {
		return nil
	}
	j, err := apply.OpenJournal(b.o.Cluster, b.o.Namespace)
	if err != nil {
		return err
	}
	if b.entries, err = j.Entries(ctx); err != nil {
		return err
	}
	p, err := proposal.New(b.o.Cluster, proposal.Options{})
	if err != nil {
		return err
	}
	if b.objects, err = p.List(ctx); err != nil && !errors.Is(err, proposal.ErrNotInstalled) {
		return err
	}
	b.asked = time.Now()
	return nil
}

// History reads the journal.
func (b *backend) History(ctx context.Context) ([]apply.Entry, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	err := b.read(ctx)
	return slices.Clone(b.entries), err
}

// Consolidations lists them; none where there is no such kind.
func (b *backend) Consolidations(ctx context.Context) ([]*v1alpha1.Consolidation, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	err := b.read(ctx)
	return slices.Clone(b.objects), err
}

func (b *backend) decided() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.asked = time.Time{}
}

// approve stores an approval of what choose chooses in the newest report that the
// leader has kept.
func (b *backend) approve(ctx context.Context, whole bool, who proposal.Author, choose func(*report.Report, string) ([]report.Change, error)) error {
	r, missing, err := StoredReport(ctx, b.client.CoreV1(), b.o.Namespace, b.o.Report)
	if err != nil {
		return fmt.Errorf("cannot read the newest report: %w", err)
	}
	chosen, err := choose(&r, missing)
	if err != nil {
		return err
	}
	defer b.decided()
	now := time.Now().UTC().Truncate(time.Second)
	return OpenApprovals(b.client.CoreV1(), b.o.Namespace).Change(ctx, func(c *Consent) (bool, error) {
		c.Approve(chosen, Approval{Whole: whole, By: who.By, Reason: who.Reason, Given: now, Until: now.Add(approvedFor)})
		return true, nil
	})
}

// Approve approves one change in one state.
func (b *backend) Approve(ctx context.Context, token string, who proposal.Author) error {
	return b.approve(ctx, false, who, func(r *report.Report, _ string) ([]report.Change, error) { return Choose(r, []string{token}) })
}

// ApproveAll approves all that waits.
func (b *backend) ApproveAll(ctx context.Context, digest string, who proposal.Author) error {
	return b.approve(ctx, true, who, func(r *report.Report, missing string) ([]report.Change, error) {
		waiting := Waiting(r)
		switch now := WholeDigest(waiting); {
		case len(waiting) == 0:
			return nil, errors.New("nothing waits for approval any more")
		case digest != now && missing != "":
			return nil, fmt.Errorf("the report in the cluster is cut (%s): approve its changes with certherd approve --all=%s", missing, now)
		case digest != now:
			return nil, fmt.Errorf("what waits is not what you looked at: its digest is %s now; look again", now)
		}
		return waiting, nil
	})
}

func (b *backend) consolidation(ctx context.Context, namespace, name string) (*proposal.Proposer, *v1alpha1.Consolidation, error) {
	p, err := proposal.New(b.o.Cluster, proposal.Options{})
	if err != nil {
		return nil, nil, err
	}
	c, err := p.Get(ctx, namespace, name)
	return p, c, err
}

// ApproveConsolidation approves one in one state.
func (b *backend) ApproveConsolidation(ctx context.Context, namespace, name, digest string, who proposal.Author) error {
	p, c, err := b.consolidation(ctx, namespace, name)
	if err != nil {
		return err
	}
	if err := proposal.Approvable(c, digest, true); err != nil {
		return err
	}
	defer b.decided()
	_, err = p.Approve(ctx, c, who) // refused if c has changed since it was read
	return err
}

// RejectConsolidation rejects one, if it is what was looked at.
func (b *backend) RejectConsolidation(ctx context.Context, namespace, name, digest string, who proposal.Author) error {
	p, c, err := b.consolidation(ctx, namespace, name)
	if err != nil {
		return err
	}
	if c.Status.Digest != digest {
		return fmt.Errorf("%s/%s is not in the state that you looked at: it is %s now; look again", namespace, name, proposal.Token(c))
	}
	defer b.decided()
	_, err = p.Reject(ctx, c, who)
	return err
}

// Resume ends a stop.
func (b *backend) Resume(ctx context.Context, since time.Time, who proposal.Author) error {
	defer b.decided()
	err := OpenApprovals(b.client.CoreV1(), b.o.Namespace).Change(ctx, func(c *Consent) (bool, error) { return true, c.Resume(since, who.By, who.Reason, time.Now()) })
	if err == nil {
		b.log.Info("resumed", zap.String("by", who.By))
	}
	return err
}
