package service

import (
	"context"
	"time"

	"go.uber.org/zap"

	"github.com/certherd/certherd/cost"
	"github.com/certherd/certherd/gateway"
	"github.com/certherd/certherd/inventory"
)

// measureTime is how long the Envoys of a gateway may take to say what they hold.
const measureTime = 10 * time.Second

// measure has the Envoys that the configuration names say what memory they hold, so that
// what is predicted of their gateway starts from that. It returns nil where none of them
// answers, or where nobody can tell whose they are: then the model has to do.
func (k *keeper) measure(ctx context.Context, c *configuration, s *inventory.Snapshot) map[inventory.Ref]cost.Measured {
	o := c.GatewayOptions()
	known := cost.Gateways(s, nil, nil)
	if len(known) != 1 || len(o.Pages)+len(o.Pods) == 0 {
		return nil
	}
	o.EnvoysOnly = true
	r, err := gateway.New(k.o.Cluster, o)
	if err != nil {
		k.log.Warn("gateway not measured", zap.Error(err))
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, measureTime)
	defer cancel()
	now := r.Read(ctx)
	if len(now.Unread) > 0 {
		k.log.Warn("gateway not measured in full", zap.Int("read", len(now.Envoys)), zap.Strings("unread", now.Unread))
	}
	m := now.Measured()
	if m.Envoys == 0 {
		return nil
	}
	return map[inventory.Ref]cost.Measured{known[0].Workload.Ref: m}
}
