package service

import (
	"context"
	"errors"
	"time"

	"go.uber.org/zap"
	corev1 "k8s.io/api/core/v1"

	"github.com/certherd/certherd/renew"
	renewlive "github.com/certherd/certherd/renew/live"
)

// approve begins to approve CertificateRequests in batches where the configuration
// says so, beside the rounds of a term, and returns what ends that.
func (k *keeper) approve(ctx context.Context) (end func()) {
	if k.o.Collector == nil {
		return func() {} // this certherd only reports
	}
	stop := beside(ctx, func(ctx context.Context) { k.approveUnder(ctx, k.config.Load()) })
	return func() {
		stop()
		k.held.Store(0)
	}
}

// beside does something again and again in the background until ctx ends, and returns
// what ends it, and waits for that.
func beside(ctx context.Context, do func(context.Context)) (end func()) {
	ctx, stop := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for ctx.Err() == nil {
			do(ctx)
		}
	}()
	return func() { stop(); <-ended }
}

// retryApproving is how long after it could not approve, or was not to, it looks
// whether that has changed.
const retryApproving = 5 * time.Second

// approveUnder approves under one configuration, until that is another one.
func (k *keeper) approveUnder(ctx context.Context, c *configuration) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if c.Batch.Requests.Approve {
		go func() {
			for k.config.Load().taken == c.taken && wait(ctx, time.Second) {
			}
			cancel()
		}()
		if err := k.approveUntil(ctx, c); err != nil && ctx.Err() == nil {
			k.log.Error("no request is approved", zap.Error(err))
			if errors.Is(err, renewlive.ErrPolicies) {
				k.events.Event(k.ownConfigMap(c), corev1.EventTypeWarning, "NothingApproved", cut(err.Error(), 1000))
				// Until the configuration is another one: a person has to decide.
				<-ctx.Done()
				return
			}
		}
		k.held.Store(0)
	}
	wait(ctx, retryApproving)
}

// wait waits, and reports whether ctx goes on.
func wait(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

func (k *keeper) approveUntil(ctx context.Context, c *configuration) error {
	a, err := renewlive.NewApprover(k.writer, c.PacingOptions())
	if err != nil {
		return err
	}
	k.log.Info("approving requests in batches", zap.Duration("hold", time.Duration(c.Batch.Requests.Hold)))
	a.Held = func(n int, _ time.Time) { k.held.Store(int64(n)) }
	a.Pace = func(ctx context.Context, due []renew.Approved) ([]renew.Approved, time.Time) {
		return k.paceApprovals(ctx, c.PacingOptions(), due)
	}
	a.Tell = func(x renew.Approved, err error) {
		result := "approved"
		if err != nil {
			result = "failed"
			k.log.Warn("request not approved", zap.Stringer("object", x.Ref), zap.Error(err))
		} else {
			k.log.Info("request approved", zap.Stringer("object", x.Ref), zap.String("why", string(x.Why)), zap.Duration("held", time.Since(x.Created)))
		}
		k.metrics.actions.WithLabelValues("approve", result).Inc()
	}
	return a.Run(ctx)
}
