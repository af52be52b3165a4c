package relay

import (
	"context"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"github.com/envoyproxy/go-control-plane/pkg/client/sotw/v3"
	"github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/certherd/certherd/relay/shape"
)

// source is what the controller has for one node: it follows the controller,
// shapes what it gets, and aims the gateways at it.
type source struct {
	node  *corev3.Node
	conn  grpc.ClientConnInterface
	log   *zap.Logger
	count *counters
	shape ShapeOptions
	// tell is what Events are made of.
	tell func(reason, format string, a ...any)

	mu sync.Mutex
	// given is the controller's state, and shaped what became of it.
	given  shape.State
	shaped shape.State
	// contents and raw are those states in the form that gateways are aimed at;
	// raw only has what a gateway needs that has fallen back.
	contents, raw map[string]*content
	wantRaw       bool
	ready         bool
	gateways      map[*gateway]bool
	connected     map[string]bool
	received      map[string]time.Time
	problems      map[string][]shape.Problem

	// edition counts how often the states changed; counted is what both were counted
	// to have at countedAt.
	edition, countedAt int
	counted            [2]shape.Counts

	// shapers are one for what listeners and secrets make up together, and one for
	// each other type, so that clusters do not wait for listeners.
	shapers map[string]*part
	// demand is the group of listeners and secrets for gateways that load
	// certificates on demand, nil where none may; onDemand what they are to have.
	demand   *part
	onDemand map[string]*content
}

// part is a group of types that are shaped together.
type part struct {
	mu     sync.Mutex
	types  []string
	shaper *shape.Shaper
	given  shape.State
	before *shape.State
}

func newSource(node *corev3.Node, conn grpc.ClientConnInterface, log *zap.Logger, count *counters, o ShapeOptions) *source {
	s := &source{node: node, conn: conn, log: log, count: count, shape: o, tell: func(string, string, ...any) {},
		contents: map[string]*content{}, raw: map[string]*content{}, gateways: map[*gateway]bool{}, connected: map[string]bool{},
		received: map[string]time.Time{}, problems: map[string][]shape.Problem{}, shapers: map[string]*part{}}
	for _, group := range [][]string{{resource.ClusterType}, {resource.EndpointType}, {resource.RouteType}, {resource.ListenerType, resource.SecretType}} {
		p := &part{types: group, shaper: shape.New()}
		for _, t := range group {
			s.shapers[t] = p
		}
	}
	if o.OnDemand {
		s.demand = &part{types: []string{resource.ListenerType, resource.SecretType}, shaper: shape.New()}
	}
	return s
}

// run follows the controller until ctx ends.
func (s *source) run(ctx context.Context) {
	var streams sync.WaitGroup
	for _, t := range relayed {
		streams.Go(func() { s.follow(ctx, t) })
	}
	streams.Wait()
}

// shortest and longest bound the time between two attempts to open a stream.
const shortest, longest = 100 * time.Millisecond, 5 * time.Second

// follow keeps a stream of one type open. go-control-plane's client has a stream
// for each type, all on one connection.
func (s *source) follow(ctx context.Context, typeURL string) {
	wait := shortest
	for ctx.Err() == nil {
		begun := time.Now()
		err := s.stream(ctx, typeURL)
		s.setConnected(typeURL, false)
		if ctx.Err() != nil {
			return
		}
		if time.Since(begun) > longest {
			wait = shortest
		}
		// The streams share a connection: one of them says it for all.
		level := zap.DebugLevel
		if typeURL == resource.ClusterType {
			level = zap.WarnLevel
		}
		s.log.Log(level, "the controller's stream ended; what it sent stays in force", zap.String("type", shortNames[typeURL]), zap.Error(err), zap.Duration("again_in", wait))
		select {
		case <-ctx.Done():
		case <-time.After(wait/2 + rand.N(wait/2)):
		}
		wait = min(2*wait, longest)
	}
}

func (s *source) stream(ctx context.Context, typeURL string) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	client := sotw.NewADSClient(ctx, s.node, typeURL)
	if err := client.InitConnect(s.conn, grpc.ForceCodecV2(&lender{})); err != nil {
		return err
	}
	s.setConnected(typeURL, true)
	for {
		response, err := client.Fetch()
		if err != nil {
			return err
		}
		n := 0
		for _, r := range response.Resources {
			n += proto.Size(r)
		}
		name := shortNames[typeURL]
		s.count.received.WithLabelValues(name).Inc()
		s.count.receivedBytes.WithLabelValues(name).Add(float64(n))
		changed, err := s.shapers[typeURL].set(typeURL, response.Resources)
		if err != nil {
			s.count.undecodable.WithLabelValues(name).Inc()
			s.log.Error("cannot read what the controller sent; what it sent before stays in force", zap.String("type", name), zap.Error(err))
			if err := client.Nack(err.Error()); err != nil {
				return err
			}
			continue
		}
		// The next may come while this one is worked on.
		if err := client.Ack(); err != nil {
			return err
		}
		s.update(typeURL, changed)
	}
}

// update shapes what the controller has of a type, unless it is what it was.
func (s *source) update(typeURL string, changed bool) {
	p := s.shapers[typeURL]
	p.mu.Lock()
	defer p.mu.Unlock()
	if !changed {
		s.unchanged(typeURL)
		return
	}
	if typeURL == resource.SecretType && len(p.given.Listeners) == 0 {
		return // nothing can name them yet
	}
	shaped, fresh, problems := p.make(p.given, s.shape.plain())
	var onDemand map[string]*content
	if s.demand != nil && slices.Contains(s.demand.types, typeURL) {
		_, onDemand, _ = s.demand.make(p.given, s.shape.onDemand())
	}
	s.publish(typeURL, p.given, shaped, fresh, onDemand, problems)
}

// unchanged notes an answer with nothing new in it.
func (s *source) unchanged(typeURL string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.received[typeURL] = time.Now()
	s.count.coalesced.WithLabelValues(shortNames[typeURL], "unchanged").Inc()
}

// set takes over all resources of one type.
func (p *part) set(typeURL string, resources []*anypb.Any) (changed bool, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.shaper.Set(&p.given, typeURL, resources)
}

// make shapes a state, and keeps the outcome for the next.
func (p *part) make(given shape.State, o shape.Options) (shape.State, map[string]*content, []shape.Problem) {
	shaped, problems := p.shaper.Shape(given, p.before, o)
	p.before = &shaped
	contents := map[string]*content{}
	for _, t := range p.types {
		contents[t] = newContent(shaped, t)
	}
	return shaped, contents, problems
}

// publish makes shaped contents what the gateways should run.
func (s *source) publish(typeURL string, given, shaped shape.State, fresh, onDemand map[string]*content, problems []shape.Problem) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.received[typeURL] = time.Now()
	s.edition++
	set(&s.given, typeURL, given)
	changed := false
	contents := maps.Clone(s.contents)
	for t, c := range fresh {
		set(&s.shaped, t, shaped)
		if old := contents[t]; old == nil || old.version != c.version {
			contents[t] = c
			changed = true
		}
	}
	s.contents = contents
	if onDemand != nil {
		s.onDemand = onDemand
	}
	s.report(typeURL, problems)
	if !changed {
		s.count.coalesced.WithLabelValues(shortNames[typeURL], "unchanged").Inc()
	}
	if s.wantRaw {
		s.raw = maps.Clone(s.raw)
		s.raw[typeURL] = newContent(s.given, typeURL)
	}
	if !s.ready {
		if !complete(s.contents) {
			return
		}
		s.ready = true
		s.log.Info("the controller's state is complete", zap.Int("clusters", len(s.contents[resource.ClusterType].digests)), zap.Int("listeners", len(s.contents[resource.ListenerType].digests)))
	} else if !changed && !s.wantRaw {
		return
	}
	for g := range s.gateways {
		s.aim(g)
	}
}

// report logs problems that were not there before, and keeps them for the dump.
func (s *source) report(typeURL string, problems []shape.Problem) {
	for _, p := range problems {
		if !slices.Contains(s.problems[typeURL], p) {
			s.log.Warn("settled a problem in what the controller sent", zap.String("type", shortNames[p.Type]), zap.String("resource", p.Resource), zap.String("why", p.Why))
			s.tell(reasonSettled, "%s: %s", p.Resource, p.Why)
		}
	}
	s.problems[typeURL] = problems
}

// aim points a gateway at what there is, once that is complete.
func (s *source) aim(g *gateway) {
	if !s.ready {
		return
	}
	var raw map[string]*content
	if s.wantRaw {
		raw = s.raw
	}
	shaped := s.contents
	if g.onDemand {
		shaped = maps.Clone(shaped)
		maps.Copy(shaped, s.onDemand)
	}
	g.aim(shaped, raw)
}

// needRaw begins to keep the controller's own form, for a gateway that has fallen
// back.
func (s *source) needRaw() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.wantRaw {
		s.wantRaw = true
		s.raw = map[string]*content{}
		for _, t := range relayed {
			s.raw[t] = newContent(s.given, t)
		}
	}
	for g := range s.gateways {
		s.aim(g)
	}
}

func (s *source) join(g *gateway) {
	s.mu.Lock()
	defer s.mu.Unlock()
	g.needRaw = s.needRaw
	g.onDemand = s.demand != nil && g.delta && loadsOnDemand(g.node)
	s.gateways[g] = true
	s.aim(g)
}

func (s *source) leave(g *gateway) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.gateways, g)
}

func (s *source) setConnected(typeURL string, is bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.connected[typeURL] = is
}

// isReady reports whether there is a complete state.
func (s *source) isReady() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ready
}

// set puts the resources of one type of a state into another.
func set(into *shape.State, typeURL string, from shape.State) {
	switch typeURL {
	case resource.ListenerType:
		into.Listeners = from.Listeners
	case resource.RouteType:
		into.Routes = from.Routes
	case resource.ClusterType:
		into.Clusters = from.Clusters
	case resource.EndpointType:
		into.Endpoints = from.Endpoints
	case resource.SecretType:
		into.Secrets = from.Secrets
	}
}

// counts counts what the controller has, and what gateways are to have. Counting
// parses every certificate, so it is done when it is asked for.
func (s *source) counts() (in, out shape.Counts) {
	s.mu.Lock()
	edition := s.edition
	fresh := edition == s.countedAt
	in, out = s.counted[0], s.counted[1]
	given, shaped := s.given, s.shaped
	s.mu.Unlock()
	if fresh {
		return in, out
	}
	in, out = shape.Count(given), shape.Count(shaped)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.countedAt, s.counted = edition, [2]shape.Counts{in, out}
	return in, out
}

// onDemandExtension is the Envoy extension that loads certificates when they are
// first asked for (envoy.extensions.transport_sockets.tls.cert_selectors.on_demand_secret).
const onDemandExtension = "envoy.tls.certificate_selectors.on_demand_secret"

// loadsOnDemand reports whether an Envoy says that it has that extension.
func loadsOnDemand(n *corev3.Node) bool {
	v := n.GetUserAgentBuildVersion().GetVersion()
	if v.GetMajorNumber() < 1 || (v.GetMajorNumber() == 1 && v.GetMinorNumber() < 37) {
		return false
	}
	return slices.ContainsFunc(n.GetExtensions(), func(e *corev3.Extension) bool { return e.GetName() == onDemandExtension && !e.GetDisabled() })
}
