package service

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"go.uber.org/zap"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/certherd/certherd/batch"
	batchlive "github.com/certherd/certherd/batch/live"
	"github.com/certherd/certherd/gate"
	"github.com/certherd/certherd/inventory"
	"github.com/certherd/certherd/plan"
	"github.com/certherd/certherd/renew"
	renewlive "github.com/certherd/certherd/renew/live"
)

// listen has Certificates issued anew of which a person says so by an annotation, beside
// the rounds of a term: what a round waits for must not keep that. It returns what
// ends it.
func (k *keeper) listen(ctx context.Context) (end func()) {
	if k.o.Collector == nil {
		return func() {} // this certherd only reports
	}
	return beside(ctx, func(ctx context.Context) {
		k.listenUnder(ctx)
		wait(ctx, retryApproving)
	})
}

// listenUnder listens as long as the configuration lets certificates be renewed.
func (k *keeper) listenUnder(ctx context.Context) {
	if k.config.Load().Batch.Mode == gate.Audit {
		return
	}
	l, err := renewlive.NewListener(k.writer, time.Now)
	if err != nil {
		k.log.Error("nobody listens for "+renew.Annotation, zap.Error(err))
		return
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		for k.config.Load().Batch.Mode != gate.Audit && wait(ctx, time.Second) {
		}
		cancel()
	}()
	l.Before = func(ctx context.Context, object inventory.Ref, _ renew.Word) error {
		switch {
		case k.stopped.Load():
			return errors.New("everything is stopped: `certherd approve --resume`, or `cmctl renew`")
		case len(k.o.Namespaces) > 0 && !slices.Contains(k.o.Namespaces, object.Namespace):
			return errors.New("this certherd is for other namespaces (--namespaces)")
		}
		k.spend(ctx, "renew at once", batch.Item{Object: object, Action: plan.Renew, Urgent: batch.Revoked})
		return nil
	}
	l.Tell = func(object inventory.Ref, uid string, w renew.Word, result renewlive.Result, why string) {
		k.metrics.actions.WithLabelValues(string(plan.Renew), string(result)).Inc()
		k.log.Info("renewal asked for", zap.Stringer("object", object), zap.String("reason", w.Why), zap.Time("since", w.Since), zap.String("result", string(result)), zap.String("why", why))
		kind, reason, message := corev1.EventTypeNormal, "RenewedAtOnce", "It is issued anew, as "+renew.Annotation+" asks for."
		if result != renewlive.Triggered {
			kind, reason, message = corev1.EventTypeWarning, "NotCarriedOut", "It is not issued anew, as "+renew.Annotation+" asks for."
		}
		if why != "" {
			message += " But: " + why + "."
		}
		k.events.Event(&corev1.ObjectReference{APIVersion: inventory.GroupCertManager + "/v1", Kind: "Certificate", Namespace: object.Namespace, Name: object.Name, UID: types.UID(uid)}, kind, reason, cut(message, 1000))
	}
	l.Run(ctx)
}

// spend counts what is urgent, which goes in any case.
func (k *keeper) spend(ctx context.Context, caller string, items ...batch.Item) {
	if _, _, err := k.ledger.Load().For(caller).Ask(ctx, items); err != nil {
		k.log.Warn("what goes past the gateways' budget is not counted", zap.String("caller", caller), zap.Error(err))
	}
}

// atOnce are the changes that a person wants now, past the gateways' budget.
type atOnce struct {
	wanted  map[string]bool          // changes, by ID
	objects map[inventory.Ref]string // the change that writes each one
}

// of takes over which changes are about to be carried out.
func (a *atOnce) of(cleared gate.Cleared) {
	a.objects = map[inventory.Ref]string{}
	for _, c := range cleared.Changes() {
		for _, st := range c.Steps {
			a.objects[st.Object] = c.ID
		}
	}
}

func (a *atOnce) mark(items []batch.Item) []batch.Item {
	items = slices.Clone(items)
	for i := range items {
		if a.wanted[a.objects[items[i].Object]] {
			items[i].Urgent = batch.Asked
		}
	}
	return items
}

// hearUrgent takes over what persons want now, also in the middle of a round.
func (k *keeper) hearUrgent(ctx context.Context) {
	if consent, err := k.approvals(k.client).Read(ctx); err == nil {
		k.urgent.wanted = consent.urgent(time.Now(), time.Duration(k.config.Load().ApprovalLifetime))
	}
}

// pacer asks for the Collector, whose changes a person may want now.
type pacer struct {
	k      *keeper
	caller *batchlive.Caller
}

func (p pacer) Forecast(ctx context.Context, items []batch.Item) ([]batch.Held, error) {
	p.k.hearUrgent(ctx)
	return p.caller.Forecast(ctx, p.k.urgent.mark(items))
}

func (p pacer) Ask(ctx context.Context, items []batch.Item) ([]batch.Item, []batch.Held, error) {
	return p.caller.Ask(ctx, p.k.urgent.mark(items))
}

// paceApprovals counts the requests that are approved, and holds those of a batch until
// the gateways' budgets have room for what will be issued, or one of them comes into
// its margin.
func (k *keeper) paceApprovals(ctx context.Context, pacing renew.Pacing, due []renew.Approved) (now []renew.Approved, next time.Time) {
	var urgent []batch.Item
	var held []renew.Approved
	for _, x := range due {
		if x.Why == renew.HeldEnough {
			held = append(held, x)
			continue
		}
		now = append(now, x)
		it := batch.Item{Object: x.Ref, Action: plan.Issue, Urgent: batch.Revoked}
		switch x.Why {
		case renew.FirstIssue:
			it.Urgent = batch.FirstIssue
		case renew.Expiring:
			it.Urgent = batch.Expiring
		}
		if x.Certificate {
			urgent = append(urgent, it)
		}
	}
	if len(urgent) > 0 {
		k.spend(ctx, "approve at once", urgent...)
	}
	if len(held) == 0 {
		return now, time.Time{}
	}
	it := batch.Item{Object: held[0].Ref, Action: plan.Renew, Weight: len(held)}
	for _, x := range held {
		if end := pacing.End(x.Request); it.Deadline.IsZero() || end.Before(it.Deadline) {
			it.Deadline = end
		}
	}
	going, waits, err := k.ledger.Load().For("approve").Ask(ctx, []batch.Item{it})
	switch {
	case err != nil:
		// A request that is not approved is a certificate that is not renewed: that weighs more.
		k.log.Warn("what is approved is not counted", zap.Error(err))
	case len(going) == 0 && len(waits) > 0:
		k.log.Info("requests held", zap.Int("requests", len(held)), zap.String("why", heldUntil(waits[0])))
		return now, waits[0].Until
	case len(going) == 0:
		k.log.Warn("something else is about to be done", zap.String("object", fmt.Sprint(it.Object)))
	}
	return append(now, held...), time.Time{}
}
