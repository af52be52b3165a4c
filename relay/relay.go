// Package relay stands between an xDS controller and its Envoys: it follows the
// controller, and gives each gateway only what changed, once, in a stable form.
package relay

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	serverv3 "github.com/envoyproxy/go-control-plane/pkg/server/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"

	"github.com/certherd/certherd/relay/pace"
	"github.com/certherd/certherd/relay/shape"
)

// ShapeOptions say what the relay makes of the controller's state beyond a stable
// order.
type ShapeOptions struct {
	// SDS hands certificates out as secrets of their own, Merge makes one filter
	// chain of those that differ in server names alone.
	SDS, Merge bool
	// OnDemand lets gateways that can (Envoy 1.37 and newer, over delta xDS) load
	// certificates when they are first asked for; Prefetch are server names whose
	// certificates they load at once.
	OnDemand bool
	Prefetch []string
}

// plain are the options for all gateways; onDemand those for gateways that can load
// certificates when they are first asked for.
func (o ShapeOptions) plain() shape.Options { return shape.Options{SDS: o.SDS, Merge: o.Merge} }

func (o ShapeOptions) onDemand() shape.Options {
	s := o.plain()
	s.OnDemand = &shape.OnDemand{Prefetch: o.Prefetch}
	return s
}

// Options of a Relay.
type Options struct {
	// Upstream is the controller's xDS address, host:port. NodeID and NodeCluster
	// are what the relay calls itself there: what the gateways' bootstrap
	// configuration has, as the controller keeps its state by that id.
	Upstream            string
	NodeID, NodeCluster string
	UpstreamTLS         ClientTLS
	// Listen is where gateways are served, Local where metrics, health and the
	// dump are.
	Listen, Local string
	ListenTLS     ServerTLS
	Pace          pace.Limits
	Shape         ShapeOptions
	Version       string
	Log           *zap.Logger
	// Tell is told what somebody should look at, a reason in one word and a message of
	// at most a thousand bytes; nil for nobody. It must not wait.
	Tell func(reason, message string)
}

// tell tells of something under Tell's limits.
func (o *Options) tell(reason, format string, a ...any) {
	if o.Tell == nil {
		return
	}
	message := fmt.Sprintf(format, a...)
	if len(message) > 1000 {
		message = strings.ToValidUTF8(message[:997], "") + "…"
	}
	o.Tell(reason, message)
}

// GCPercent is the garbage collector's setting (runtime/debug.SetGCPercent) that
// the relay is made for: what it holds hardly changes, and an event leaves little
// behind, so collecting early costs little time.
const GCPercent = 30

// Defaults go with net-kourier's manifests (config/200-bootstrap.yaml).
func Defaults() Options {
	return Options{
		Upstream: "net-kourier-controller.knative-serving:18000",
		NodeID:   "3scale-kourier-gateway", NodeCluster: "kourier-knative",
		Listen: ":18000", Local: ":9105",
		Pace:  pace.Defaults(),
		Shape: ShapeOptions{SDS: true, Merge: true},
	}
}

// Relay is one relay.
type Relay struct {
	o      Options
	count  *counters
	source *source
	conn   *grpc.ClientConn
	server *grpc.Server

	mu       sync.Mutex
	gateways map[stream]*gateway
	nodes    map[*corev3.Node]*gateway
}

// stream is the number that go-control-plane gives a stream; those of the two
// protocols are counted apart.
type stream struct {
	id    int64
	delta bool
}

// New makes a relay. It connects to nothing yet.
func New(o Options) (*Relay, error) {
	if err := o.Pace.Validate(); err != nil {
		return nil, fmt.Errorf("pace of listeners: %w", err)
	}
	if o.Shape.OnDemand && !(o.Shape.SDS && o.Shape.Merge) {
		return nil, errors.New("certificates on demand need --sds and --merge")
	}
	r := &Relay{o: o, count: newCounters(), gateways: map[stream]*gateway{}, nodes: map[*corev3.Node]*gateway{}}
	client, err := o.UpstreamTLS.credentials()
	if err != nil {
		return nil, err
	}
	if client == nil {
		client = insecure.NewCredentials()
	}
	r.conn, err = grpc.NewClient(o.Upstream, grpc.WithTransportCredentials(client),
		// A listener of a thousand services has 7 MiB, and there are more.
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(math.MaxInt32)),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 5 * time.Second}, MinConnectTimeout: 2 * time.Second}),
		// net-kourier refuses pings that are less than 20 s apart.
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 30 * time.Second, Timeout: 5 * time.Second}))
	if err != nil {
		return nil, fmt.Errorf("cannot use --upstream: %w", err)
	}
	r.source = newSource(&corev3.Node{Id: o.NodeID, Cluster: o.NodeCluster}, r.conn, o.Log.Named("upstream"), r.count, o.Shape)
	r.source.tell = r.o.tell
	options := []grpc.ServerOption{
		grpc.MaxConcurrentStreams(math.MaxInt32),
		// When Run returns, nothing of it is running any more.
		grpc.WaitForHandlers(true),
		// Kourier's gateways ping every 30 s.
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second, PermitWithoutStream: true}),
		// A gateway that is gone without a word must not be counted for ever.
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 30 * time.Second, Timeout: 10 * time.Second}),
	}
	var server credentials.TransportCredentials
	if server, err = o.ListenTLS.credentials(); err != nil {
		return nil, errors.Join(err, r.conn.Close())
	}
	if server != nil {
		options = append(options, grpc.Creds(server))
	}
	r.server = grpc.NewServer(options...)
	return r, nil
}

// Run serves until ctx ends; listening is told the addresses of the two servers
// once both accept connections.
func (r *Relay) Run(ctx context.Context, listening func(gateways, local net.Addr)) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	defer r.conn.Close()
	var config net.ListenConfig
	gateways, err := config.Listen(ctx, "tcp", r.o.Listen)
	if err != nil {
		return fmt.Errorf("cannot use --listen: %w", err)
	}
	defer gateways.Close()
	local, err := config.Listen(ctx, "tcp", r.o.Local)
	if err != nil {
		return fmt.Errorf("cannot use --local: %w", err)
	}
	web := &http.Server{Handler: r.handler(), ReadHeaderTimeout: 10 * time.Second}
	defer web.Close()
	xds := serverv3.NewServer(ctx, watcher{r}, r.callbacks())
	discovery.RegisterAggregatedDiscoveryServiceServer(r.server, xds)
	failed := make(chan error, 2)
	var running sync.WaitGroup
	running.Go(func() { r.source.run(ctx) })
	running.Go(func() { failed <- web.Serve(local) })
	running.Go(func() { failed <- r.server.Serve(gateways) })
	listening(gateways.Addr(), local.Addr())
	r.o.Log.Info("relaying", zap.String("upstream", r.o.Upstream), zap.Stringer("gateways", gateways.Addr()), zap.Stringer("local", local.Addr()))
	select {
	case <-ctx.Done():
		err = nil
	case err = <-failed:
	}
	stop()
	r.server.Stop() // gateways keep what they have, and look for another relay
	web.Close()
	running.Wait()
	return err
}

// ready reports whether gateways can be served.
func (r *Relay) ready() bool { return r.source.isReady() }

// list are the gateways, sorted by their addresses.
func (r *Relay) list() []*gateway {
	r.mu.Lock()
	defer r.mu.Unlock()
	var list []*gateway
	for _, g := range r.gateways {
		list = append(list, g)
	}
	slices.SortFunc(list, func(a, b *gateway) int { return strings.Compare(a.peer, b.peer) })
	return list
}
