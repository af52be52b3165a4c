package service

import (
	"context"
	"fmt"
	"reflect"
	"time"

	"go.uber.org/zap"

	"github.com/certherd/certherd/api/v1alpha1"
	"github.com/certherd/certherd/apply"
	"github.com/certherd/certherd/batch"
	batchlive "github.com/certherd/certherd/batch/live"
	"github.com/certherd/certherd/gate"
	"github.com/certherd/certherd/inventory"
	"github.com/certherd/certherd/plan"
	"github.com/certherd/certherd/report"
)

// gateways are those that are given what certherd writes: Kourier's, as each of
// them gets everything (net-kourier pkg/reconciler/ingress/controller.go). Where there is
// none, it is one that is not known.
func gateways(s *inventory.Snapshot) map[inventory.Ref]time.Duration {
	out := map[inventory.Ref]time.Duration{}
	for i := range s.Workloads {
		if w := &s.Workloads[i]; w.Controller == "kourier" {
			out[w.Ref] = time.Duration(w.DrainSeconds) * time.Second
		}
	}
	return out
}

// newLedger makes the Ledger of a term, which knows what gateways were given.
func (k *keeper) newLedger() *batchlive.Ledger {
	return batchlive.New(batchlive.Options{
		Client: k.guarded.CoreV1(), Namespace: k.o.Namespace,
		Budgets: func() ([]inventory.Ref, batch.Budgets) {
			drains := map[inventory.Ref]time.Duration{}
			if p := k.drains.Load(); p != nil {
				drains = *p
			}
			refs := make([]inventory.Ref, 0, len(drains))
			for r := range drains {
				refs = append(refs, r)
			}
			if len(refs) == 0 {
				refs = []inventory.Ref{{}}
			}
			return refs, k.config.Load().Budgets(drains)
		},
		Sent: func(s batch.Sent) {
			k.given.Add(int64(s.Updates))
			lane := "budget"
			if s.Urgent {
				lane = "urgent"
			}
			k.metrics.updates.WithLabelValues(gatewayName(s.Gateway), lane).Add(float64(s.Updates))
			k.log.Info("update", zap.String("gateway", gatewayName(s.Gateway)), zap.Time("at", s.At), zap.Int("updates", s.Updates), zap.String("lane", lane))
		},
	})
}

func gatewayName(r inventory.Ref) string {
	if r.IsZero() {
		return "unknown"
	}
	return r.String()
}

// paceConsolidation asks for the switch of a consolidation, all consumers of which
// gateways see.
func (k *keeper) paceConsolidation(ctx context.Context, c *v1alpha1.Consolidation, consumers int, back bool) string {
	it := batch.Item{
		Object: inventory.Ref{Group: v1alpha1.Group, Kind: "Consolidation", Namespace: c.Namespace, Name: c.Name},
		Action: plan.Switch, Weight: consumers,
	}
	if back {
		it.Urgent = batch.Repair
	}
	// Each one asks for itself, again and again, until it goes.
	going, held, err := k.ledger.Load().For("consolidate "+c.Namespace+"/"+c.Name).Ask(ctx, []batch.Item{it})
	switch {
	case len(going) > 0:
		return ""
	case err != nil:
		return err.Error()
	case len(held) > 0:
		return heldUntil(held[0])
	}
	return ""
}

func heldUntil(h batch.Held) string {
	return fmt.Sprintf("held until %s: %s", h.Until.UTC().Format(time.RFC3339), h.Why)
}

// showHeld says of changes that are cleared, and of all else that waits for gateways'
// budgets, until when it does.
func (k *keeper) showHeld(ctx context.Context, r *report.Report, s *inventory.Snapshot, cleared, renewals gate.Cleared) {
	ledger := k.ledger.Load()
	if ledger == nil {
		return
	}
	var items []batch.Item
	changes := map[inventory.Ref]string{}
	for _, c := range cleared.Changes() {
		for _, st := range c.Steps {
			if it, ok := apply.Item(st); ok {
				items = append(items, it)
				changes[st.Object] = c.ID
				break // the first that a gateway sees
			}
		}
	}
	if len(items) > 0 {
		if _, err := ledger.For(string(gate.GC)).Forecast(ctx, k.urgent.mark(items)); err != nil {
			k.log.Warn("what gateways were given is not known", zap.Error(err))
			return
		}
	}
	all := ledger.Held()
	items = nil
	for _, c := range renewals.Changes() {
		it := renewalItem(s, c)
		items = append(items, it)
		changes[it.Object] = c.ID
	}
	if len(items) > 0 {
		// These are asked for when the others are done, and keep no place until then.
		later, err := ledger.For(string(gate.Batch)).Preview(ctx, k.urgent.mark(items))
		if err != nil {
			k.log.Warn("what gateways were given is not known", zap.Error(err))
			return
		}
		all[string(gate.Batch)] = later
	}
	until := map[string]batch.Held{}
	for _, held := range all {
		for _, h := range held {
			if h.Why == "" {
				continue // it may go now
			}
			r.Held = append(r.Held, report.Held{Action: string(h.Action), Object: report.Ref(h.Object), Count: max(h.Weight, 1), Until: h.Until, Why: h.Why})
			if id := changes[h.Object]; id != "" {
				until[id] = h
			}
		}
	}
	for i := range r.Changes {
		x := &r.Changes[i]
		if h, ok := until[x.ID]; ok && x.Held == "" {
			x.Held, x.HeldUntil = heldUntil(h), &h.Until
		}
	}
}

// sameOrders reports whether what is being carried out under one configuration may go
// on under another one: only the pace is a matter of each moment.
func sameOrders(a, b *configuration) bool {
	if a.taken.Equal(b.taken) {
		return true
	}
	x, y := a.Config, b.Config
	x.Batch.Reloads = y.Batch.Reloads
	return reflect.DeepEqual(x, y)
}
