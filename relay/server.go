package relay

import (
	"context"
	"errors"
	"fmt"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	cachev3 "github.com/envoyproxy/go-control-plane/pkg/cache/v3"
	"github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	serverv3 "github.com/envoyproxy/go-control-plane/pkg/server/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// callbacks tell the relay what goes over the streams of gateways. They are
// called from the stream's own goroutine.
func (r *Relay) callbacks() serverv3.Callbacks {
	return serverv3.CallbackFuncs{
		StreamOpenFunc: func(ctx context.Context, id int64, _ string) error { r.open(ctx, stream{id, false}); return nil },
		DeltaStreamOpenFunc: func(ctx context.Context, id int64, _ string) error {
			r.open(ctx, stream{id, true})
			return nil
		},
		StreamClosedFunc:      func(id int64, _ *corev3.Node) { r.close(stream{id, false}) },
		DeltaStreamClosedFunc: func(id int64, _ *corev3.Node) { r.close(stream{id, true}) },
		StreamRequestFunc: func(id int64, request *discovery.DiscoveryRequest) error {
			g, err := r.asks(stream{id, false}, &request.Node)
			if err != nil {
				return err
			}
			// The cache answers a request without a version at once, and in full: right
			// for the first of a stream, whatever an earlier stream said, and wrong for
			// one that rejects the first answer, which would go round in circles.
			if request.GetResponseNonce() == "" {
				request.VersionInfo = ""
			} else if request.GetVersionInfo() == "" {
				request.VersionInfo = "none"
			}
			g.requested(request.GetTypeUrl(), request.GetResponseNonce(), func(l *lane) {
				l.subscribeTo(request.GetResourceNames())
			}, refusal(request.GetErrorDetail()))
			return nil
		},
		StreamDeltaRequestFunc: func(id int64, request *discovery.DeltaDiscoveryRequest) error {
			g, err := r.asks(stream{id, true}, &request.Node)
			if err != nil {
				return err
			}
			g.requested(request.GetTypeUrl(), request.GetResponseNonce(), func(l *lane) {
				l.subscribeMore(request.GetResourceNamesSubscribe(), request.GetResourceNamesUnsubscribe())
			}, refusal(request.GetErrorDetail()))
			return nil
		},
		StreamResponseFunc: func(_ context.Context, id int64, _ *discovery.DiscoveryRequest, answer *discovery.DiscoveryResponse) {
			if g := r.gateway(stream{id, false}, nil); g != nil {
				answer.VersionInfo = g.sent(answer.GetTypeUrl(), answer.GetNonce(), answer.GetVersionInfo(), proto.Size(answer))
			}
		},
		StreamDeltaResponseFunc: func(id int64, _ *discovery.DeltaDiscoveryRequest, answer *discovery.DeltaDiscoveryResponse) {
			if g := r.gateway(stream{id, true}, nil); g != nil {
				answer.SystemVersionInfo = g.sent(answer.GetTypeUrl(), answer.GetNonce(), answer.GetSystemVersionInfo(), proto.Size(answer))
			}
		},
	}
}

// refusal is what Envoy says of an answer that it rejects, nil when it does not.
func refusal(detail interface{ GetMessage() string }) *string {
	if message := detail.GetMessage(); message != "" {
		return &message
	}
	return nil
}

// wildcard is the name by which a gateway asks for all resources of a type; none
// at all means the same for clusters and listeners
// (https://www.envoyproxy.io/docs/envoy/latest/api-docs/xds_protocol#how-the-client-specifies-what-resources-to-return).
const wildcard = "*"

// subscribeTo replaces the lane's subscription, as the state of the world does.
func (l *lane) subscribeTo(names []string) {
	l.names = make(map[string]bool, len(names))
	for _, n := range names {
		l.names[n] = true
	}
	l.wildcard = l.names[wildcard] || (len(names) == 0 && l.takesAll())
}

// subscribeMore changes the lane's subscription, as delta does.
func (l *lane) subscribeMore(add, remove []string) {
	for _, n := range add {
		l.names[n] = true
	}
	for _, n := range remove {
		delete(l.names, n)
	}
	l.wildcard = l.names[wildcard] || (len(l.names) == 0 && l.takesAll())
}

func (l *lane) takesAll() bool {
	return l.typeURL == resource.ClusterType || l.typeURL == resource.ListenerType
}

func (r *Relay) open(ctx context.Context, id stream) {
	address := "unknown"
	if p, ok := peer.FromContext(ctx); ok {
		address = p.Addr.String()
	}
	g := newGateway(address, id.delta, r.o.Log.Named("gateway").With(zap.String("gateway", address)), r.count, r.o.Pace, time.Now)
	g.tell = r.o.tell
	r.mu.Lock()
	defer r.mu.Unlock()
	r.gateways[id] = g
}

// asks finds the gateway that makes a request. One whose node the controller has
// another state for is refused: what the relay has is not for it.
func (r *Relay) asks(id stream, node **corev3.Node) (*gateway, error) {
	if asker := (*node).GetId(); asker != "" && asker != r.o.NodeID {
		r.count.refused.Inc()
		r.o.Log.Warn("refused a gateway of another node id", zap.String("node", asker), zap.String("served", r.o.NodeID))
		r.o.tell(reasonRefused, "A gateway with the node id %q was refused: this relay has the state of %q (--node-id). Run a relay for it, or give its bootstrap configuration that id.", asker, r.o.NodeID)
		return nil, status.Errorf(codes.FailedPrecondition, "the relay has the state of node id %q, and not of %q", r.o.NodeID, asker)
	}
	g := r.gateway(id, node)
	if g == nil {
		return nil, errors.New("the stream is closed")
	}
	return g, nil
}

// gateway finds the gateway of a stream. node is that of a request, which only
// the first has; it is made the one that leads back to the gateway.
func (r *Relay) gateway(id stream, node **corev3.Node) *gateway {
	r.mu.Lock()
	g := r.gateways[id]
	joins := false
	if g != nil && node != nil {
		if g.node == nil {
			g.node = *node
			if g.node == nil {
				g.node = &corev3.Node{}
			}
			r.nodes[g.node] = g
			joins = true
		}
		*node = g.node
	}
	r.mu.Unlock()
	if joins {
		g.log.Info("a gateway came", zap.String("node", g.node.GetId()), zap.String("cluster", g.node.GetCluster()),
			zap.String("version", envoyVersion(g.node)), zap.Bool("delta", id.delta))
		r.source.join(g)
	}
	return g
}

func (r *Relay) close(id stream) {
	r.mu.Lock()
	g := r.gateways[id]
	delete(r.gateways, id)
	if g != nil {
		delete(r.nodes, g.node)
	}
	r.mu.Unlock()
	if g == nil {
		return
	}
	r.source.leave(g)
	g.close()
	g.log.Info("a gateway's stream ended")
}

// watcher leads the watches of a stream to the caches of its gateway.
type watcher struct{ *Relay }

func (w watcher) of(node *corev3.Node) (*gateway, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if g := w.nodes[node]; g != nil {
		return g, nil
	}
	return nil, errors.New("the stream is closed")
}

// CreateWatch implements cache.Cache.
func (w watcher) CreateWatch(request *cachev3.Request, subscription cachev3.Subscription, answers chan cachev3.Response) (func(), error) {
	g, err := w.of(request.GetNode())
	if err != nil {
		return nil, err
	}
	return g.watch(request.GetTypeUrl(), subscription, func(c cachev3.Cache) (func(), error) {
		return c.CreateWatch(request, subscription, answers)
	})
}

// CreateDeltaWatch implements cache.Cache.
func (w watcher) CreateDeltaWatch(request *cachev3.DeltaRequest, subscription cachev3.Subscription, answers chan cachev3.DeltaResponse) (func(), error) {
	g, err := w.of(request.GetNode())
	if err != nil {
		return nil, err
	}
	return g.watch(request.GetTypeUrl(), subscription, func(c cachev3.Cache) (func(), error) {
		return c.CreateDeltaWatch(request, subscription, answers)
	})
}

// Fetch implements cache.Cache; polling is not offered.
func (w watcher) Fetch(context.Context, *cachev3.Request) (cachev3.Response, error) {
	return nil, errors.New("the relay serves streams only")
}

// envoyVersion is the version that a node says it has, empty if it says none.
func envoyVersion(n *corev3.Node) string {
	v := n.GetUserAgentBuildVersion().GetVersion()
	if v == nil {
		return n.GetUserAgentVersion()
	}
	return versionString(v.GetMajorNumber(), v.GetMinorNumber(), v.GetPatch())
}

func versionString(major, minor, patch uint32) string {
	return fmt.Sprintf("%d.%d.%d", major, minor, patch)
}
