package relay

import (
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"github.com/envoyproxy/go-control-plane/pkg/cache/types"
	cachev3 "github.com/envoyproxy/go-control-plane/pkg/cache/v3"
	"github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	"go.uber.org/zap"

	"github.com/certherd/certherd/relay/pace"
)

const (
	// rejectionsBeforeFallback is how often a gateway may refuse a type, without
	// having accepted it in between, before it gets what the controller sent.
	rejectionsBeforeFallback = 3
	// firstRetry is when what was refused is sent again; the time doubles.
	firstRetry = time.Second
	// fallbackFor is how long a gateway gets what the controller sent before the
	// relay's own form is tried again.
	fallbackFor = 10 * time.Minute
	// patience is how long routes wait for clusters that they name, and clusters that
	// are to go for the routes that still name them. Some clusters are in the gateway's
	// bootstrap configuration, and never come.
	patience = time.Second
)

// The reasons of Events.
const (
	reasonRejected = "Rejected"
	reasonFellBack = "FellBack"
	reasonSettled  = "Settled"
	reasonRefused  = "Refused"
)

// gateway is one stream of one Envoy: what it has, what it has acknowledged, and
// what it should have. Each has caches of its own, so that none waits for
// another.
type gateway struct {
	// peer is the address that the stream comes from; node what the first request
	// says of the Envoy, and also what leads from a request to this gateway.
	peer  string
	node  *corev3.Node
	delta bool
	// onDemand says that it loads certificates when they are first asked for.
	onDemand bool
	log      *zap.Logger
	count    *counters
	// tell is what Events are made of.
	tell  func(reason, format string, a ...any)
	now   func() time.Time
	drain time.Duration

	mu     sync.Mutex
	closed bool
	lanes  map[string]*lane
	// shaped and raw are what it should run, in the relay's form and in the
	// controller's; nil until there is a complete state.
	shaped, raw map[string]*content
	// rawUntil is set while the gateway gets the controller's form.
	rawUntil time.Time
	needRaw  func()

	pacer pace.Pacer
	// wanted is the version of the listeners that the pacer knows of.
	wanted string
	// listenersSent is when listeners were last sent; listenersCurrent when it was
	// last seen that the gateway runs those that it should.
	listenersSent, listenersCurrent time.Time
	timer                           *time.Timer
}

// lane is one type of resources of a gateway.
type lane struct {
	typeURL string
	cache   *cachev3.LinearCache
	// open says that the cache has its first content. Until then watches are
	// parked: an empty answer would take from Envoy what it has.
	open   bool
	parked *parked

	have published
	// seq counts the cache's updates, as it does itself; editions are those that
	// have not been acknowledged, and the last that was.
	seq      uint64
	editions map[uint64]edition

	subscribed, wildcard bool
	names                map[string]bool
	// told are names that there is nothing of, and that the gateway was told so.
	told map[string]bool

	// awaited is the newest update that an answer is due for, about awaitedNames.
	awaited      uint64
	awaitedNames []string
	// answered is the newest update that the gateway answered, good the newest that
	// it accepted.
	answered, good uint64
	goodAt         time.Time

	sentNonce string
	sentSeq   uint64

	// behindSince is when the gateway was first known to run something else than
	// it should; zero while it runs that.
	behindSince time.Time

	// refused is the version that was rejected last; not sent again before retry.
	refused    string
	refusedSeq uint64
	rejections int
	retry      time.Time
	words      string

	// gone are resources that have left the target, and when; waiting is since
	// when routes have been waiting for clusters.
	gone    map[string]time.Time
	waiting time.Time
	// leads are the clusters that the routes which were sent lead to.
	leads map[string]bool
}

type edition struct {
	published
	version string
}

// parked is a watch that came before the lane was open.
type parked struct {
	create func() (func(), error)
	cancel func()
	over   bool
}

func newGateway(peer string, delta bool, log *zap.Logger, count *counters, limits pace.Limits, now func() time.Time) *gateway {
	g := &gateway{peer: peer, delta: delta, log: log, count: count, tell: func(string, string, ...any) {}, now: now, drain: limits.Period,
		lanes: map[string]*lane{}, pacer: pace.Pacer{Limits: limits}}
	for _, t := range relayed {
		g.lanes[t] = &lane{typeURL: t, cache: cachev3.NewLinearCache(t), editions: map[uint64]edition{}, gone: map[string]time.Time{}, names: map[string]bool{}, told: map[string]bool{}}
	}
	return g
}

// close ends all that the gateway would still do by itself.
func (g *gateway) close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.closed = true
	if g.timer != nil {
		g.timer.Stop()
	}
}

// aim says what the gateway should run from now on. raw may be nil.
func (g *gateway) aim(shaped, raw map[string]*content) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.shaped, g.raw = shaped, raw
	g.advance()
}

// target is what the gateway should run.
func (g *gateway) target() map[string]*content {
	if !g.rawUntil.IsZero() && g.raw != nil {
		return g.raw
	}
	return g.shaped
}

// requested notes a request of the gateway: what it subscribes to, and whether it
// has accepted the last answer. A nil refusal means that it has.
func (g *gateway) requested(typeURL, nonce string, subscribe func(*lane), refusal *string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	l := g.lanes[typeURL]
	if l == nil {
		return
	}
	l.subscribed = true
	subscribe(l)
	// Envoy repeats the nonce of what it refused when its subscription changes.
	if nonce == "" || nonce != l.sentNonce || l.sentSeq == l.refusedSeq {
		return
	}
	if refusal != nil {
		g.rejected(l, *refusal)
		return
	}
	g.accepted(l)
}

func (g *gateway) accepted(l *lane) {
	l.answered = max(l.answered, l.sentSeq)
	if l.good == l.sentSeq {
		return
	}
	g.log.Debug("accepted", zap.String("type", shortNames[l.typeURL]), zap.String("version", l.editions[l.sentSeq].version))
	l.good, l.goodAt = l.sentSeq, g.now()
	for seq := range l.editions {
		if seq < l.good {
			delete(l.editions, seq)
		}
	}
	if c := g.target()[l.typeURL]; c != nil && l.editions[l.good].additions(c).empty() {
		l.rejections, l.refused, l.words = 0, "", ""
	}
}

// rejected brings back what the gateway has accepted. What it refused is sent
// again later, or when it has changed.
func (g *gateway) rejected(l *lane, words string) {
	now, name := g.now(), shortNames[l.typeURL]
	l.words = cleanWords(words)
	l.rejections++
	refused := l.editions[l.sentSeq]
	l.refused, l.refusedSeq = refused.version, l.sentSeq
	l.retry = now.Add(firstRetry << min(l.rejections-1, 6))
	culprit := named(l.words, refused.resources)
	g.count.rejections.WithLabelValues(name, culprit).Inc()
	g.log.Warn("the gateway rejected an update", zap.String("type", name), zap.String("resource", culprit), zap.String("message", l.words),
		zap.String("version", refused.version), zap.Int("rejections", l.rejections))
	about := culprit
	if about == "" {
		about = "(none is named)"
	}
	g.tell(reasonRejected, "The gateway at %s rejected an update of %s, and keeps what it had. Resource: %s. Envoy says: %s", g.peer, name, about, l.words)
	l.answered = max(l.answered, l.sentSeq)
	before, known := l.editions[l.good]
	switch {
	case !g.rawUntil.IsZero():
		// The controller's own form was refused: what Envoy makes of it stays, as
		// it would without a relay.
	case l.rejections >= rejectionsBeforeFallback || !known:
		g.rawUntil = now.Add(fallbackFor)
		g.count.fallbacks.Inc()
		g.log.Error("the gateway falls back to what the controller sends", zap.String("type", name), zap.Duration("for", fallbackFor))
		g.tell(reasonFellBack, "The gateway at %s gets for %.0f minutes what the controller sends, as it rejects what the relay makes of it: %s", g.peer, fallbackFor.Minutes(), l.words)
		for _, l := range g.lanes {
			l.refused, l.rejections = "", 0
		}
		if g.needRaw != nil {
			go g.needRaw()
		}
	default:
		e := edit{set: map[string]types.Resource{}}
		for n, d := range before.digests {
			if l.have.digests[n] != d {
				e.set[n] = before.resources[n]
			}
		}
		for n := range l.have.digests {
			if _, ok := before.digests[n]; !ok {
				e.remove = append(e.remove, n)
			}
		}
		if len(e.set) == 0 && len(e.remove) == 0 {
			return
		}
		if l.typeURL == resource.ListenerType {
			g.pacer.Sent(now)
			g.listenersSent = now
		}
		g.publish(l, e, before.digests)
	}
}

// watch opens a watch of the lane's cache, or parks it until there is something
// to watch. create is called with the gateway locked.
func (g *gateway) watch(typeURL string, subscription cachev3.Subscription, create func(cachev3.Cache) (func(), error)) (func(), error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	l := g.lanes[typeURL]
	if l == nil {
		return func() {}, nil // a type that the relay has nothing of: as a controller without any, it never answers
	}
	var cancel func()
	var err error
	tell := func() (func(), error) {
		if g.delta && typeURL == resource.SecretType {
			l.denyMissing(subscription)
		}
		return create(l.cache)
	}
	if l.open {
		cancel, err = tell()
	} else {
		p := &parked{create: tell}
		l.parked = p
		cancel = func() {
			g.mu.Lock()
			defer g.mu.Unlock()
			p.over = true
			if p.cancel != nil {
				p.cancel()
			}
		}
	}
	g.advance()
	return cancel, err
}

// denyMissing makes the cache say of names that it has nothing of that they are
// gone, once for each: an Envoy that asks for a certificate on demand waits for
// that, and go-control-plane's cache says nothing of what it never had. A known
// resource without a version is what it takes for one to be taken away.
func (l *lane) denyMissing(subscription cachev3.Subscription) {
	for name := range l.told {
		if _, ok := subscription.SubscribedResources()[name]; !ok || l.have.digests[name] != "" {
			delete(l.told, name)
		}
	}
	for name := range subscription.SubscribedResources() {
		if l.have.digests[name] == "" && !l.told[name] && name != wildcard {
			l.told[name] = true
			subscription.ReturnedResources()[name] = ""
		}
	}
}

// advance sends whatever may be sent now, and sets a timer for the rest. The
// order is that of the xDS protocol ("Eventual consistency considerations"):
// clusters, then routes and listeners, and removals last.
func (g *gateway) advance() {
	if g.closed {
		return
	}
	now := g.now()
	if !g.rawUntil.IsZero() && now.After(g.rawUntil) {
		g.rawUntil = time.Time{}
		g.log.Info("the gateway gets the relay's form again")
	}
	target := g.target()
	if target == nil {
		return
	}
	var next time.Time
	later := func(at time.Time) {
		if next.IsZero() || at.Before(next) {
			next = at
		}
	}
	for _, t := range []string{resource.ClusterType, resource.EndpointType, resource.SecretType} {
		g.add(g.lanes[t], target[t], later)
	}
	routes, listeners := g.lanes[resource.RouteType], g.lanes[resource.ListenerType]
	if !g.awaits(g.lanes[resource.ClusterType]) {
		if c := target[resource.RouteType]; c != nil && g.mayAdd(c, later) {
			g.add(routes, c, later)
			routes.leads = c.clusters
		}
		g.addListeners(listeners, target[resource.ListenerType], later)
	}
	g.remove(target, later)
	for _, t := range relayed {
		g.lanes[t].note(target[t], now, g.awaits(g.lanes[t]))
	}
	if !g.rawUntil.IsZero() {
		later(g.rawUntil)
	}
	if g.timer != nil {
		g.timer.Stop()
	}
	if !next.IsZero() {
		// A little later, so that it is due when the timer fires.
		g.timer = time.AfterFunc(max(0, next.Sub(now))+time.Millisecond, func() {
			g.mu.Lock()
			defer g.mu.Unlock()
			g.advance()
		})
	}
}

// note keeps since when the gateway has been running something else than it
// should.
func (l *lane) note(c *content, now time.Time, awaits bool) {
	switch {
	case c == nil || !l.subscribed || (maps.Equal(l.have.digests, c.digests) && !awaits):
		l.behindSince = time.Time{}
	case l.behindSince.IsZero():
		l.behindSince = now
	}
}

// awaits reports whether an answer of the gateway is due.
func (g *gateway) awaits(l *lane) bool {
	return l.subscribed && l.awaited > l.answered && l.concerns(l.awaitedNames)
}

// concerns reports whether the gateway is subscribed to any of the names.
func (l *lane) concerns(names []string) bool {
	return l.wildcard || slices.ContainsFunc(names, func(n string) bool { return l.names[n] })
}

// mayAdd reports whether the clusters that routes lead to are there.
func (g *gateway) mayAdd(routes *content, later func(time.Time)) bool {
	l, clusters := g.lanes[resource.RouteType], g.lanes[resource.ClusterType]
	if maps.Equal(l.have.digests, routes.digests) {
		l.waiting = time.Time{}
		return true
	}
	for name := range routes.clusters {
		// What the gateway already leads to is there, or it is in its bootstrap
		// configuration, as Kourier's service_stats is.
		if _, ok := clusters.have.digests[name]; ok || l.leads[name] || !l.open {
			continue
		}
		now := g.now()
		if l.waiting.IsZero() {
			l.waiting = now
		}
		if until := l.waiting.Add(patience); now.Before(until) {
			later(until)
			return false
		}
		break
	}
	l.waiting = time.Time{}
	return true
}

// add sends what is new or changed.
func (g *gateway) add(l *lane, c *content, later func(time.Time)) {
	if c == nil {
		return
	}
	if e := l.have.additions(c); !l.open || !e.empty() {
		g.attempt(l, e, c, later)
	}
}

// attempt publishes an edit unless the gateway has just refused its outcome.
func (g *gateway) attempt(l *lane, e edit, c *content, later func(time.Time)) bool {
	if l.refused != "" && g.now().Before(l.retry) && l.have.apply(e, c.digests).version() == l.refused {
		later(l.retry)
		return false
	}
	g.publish(l, e, c.digests)
	return true
}

// addListeners replaces the listeners when their turn has come.
func (g *gateway) addListeners(l *lane, c *content, later func(time.Time)) {
	if c == nil {
		return
	}
	now := g.now()
	e := l.have.additions(c)
	e.remove = l.have.gone(c)
	if l.open && e.empty() {
		g.pacer.Settled()
		g.wanted = c.version
		if !g.awaits(l) {
			g.listenersCurrent = now
		}
		return
	}
	if g.wanted != c.version {
		if due, ok := g.pacer.Due(now); ok && due.After(now) {
			g.count.coalesced.WithLabelValues(shortNames[l.typeURL], "superseded").Inc()
		}
		g.wanted = c.version
		g.pacer.Changed(now)
	} else if _, ok := g.pacer.Due(now); !ok {
		g.pacer.Changed(now) // what was refused is tried again
	}
	if l.open {
		if due, _ := g.pacer.Due(now); due.After(now) {
			later(due)
			return
		}
	}
	if g.attempt(l, e, c, later) {
		g.pacer.Sent(now)
		g.listenersSent = now
	}
}

// remove takes away what nothing uses any more: once the gateway has the routes
// and listeners that no longer name it, and the listeners before those have been
// drained.
func (g *gateway) remove(target map[string]*content, later func(time.Time)) {
	now := g.now()
	routes, listeners := g.lanes[resource.RouteType], g.lanes[resource.ListenerType]
	routesCurrent := !g.awaits(routes) && (target[resource.RouteType] == nil || routes.have.additions(target[resource.RouteType]).empty())
	for _, t := range []string{resource.RouteType, resource.ClusterType, resource.EndpointType, resource.SecretType} {
		l, c := g.lanes[t], target[t]
		if c == nil || !l.open {
			continue
		}
		gone := l.have.gone(c)
		for name := range l.gone {
			if !slices.Contains(gone, name) {
				delete(l.gone, name)
			}
		}
		var e edit
		for _, name := range gone {
			since, ok := l.gone[name]
			if !ok {
				since = now
				l.gone[name] = now
			}
			if !routesCurrent {
				continue
			}
			// A controller's clusters may be here before the routes that lead elsewhere.
			if until := since.Add(patience); t == resource.ClusterType && routes.leads[name] && now.Before(until) {
				later(until)
				continue
			}
			if listeners.subscribed {
				if g.listenersCurrent.Before(since) {
					continue
				}
				if drained := g.listenersSent.Add(g.drain); now.Before(drained) {
					later(drained)
					continue
				}
			}
			e.remove = append(e.remove, name)
		}
		if !e.empty() {
			for _, name := range e.remove {
				delete(l.gone, name)
			}
			g.publish(l, e, c.digests)
		}
	}
}

// publish puts an edit into the lane's cache, which answers the watches that it
// concerns.
func (g *gateway) publish(l *lane, e edit, digests map[string]string) {
	l.have = l.have.apply(e, digests)
	if err := l.cache.UpdateResources(e.set, e.remove); err != nil {
		// Only a resource that cannot be marshalled makes it fail.
		g.log.Error("cannot update the cache", zap.String("type", shortNames[l.typeURL]), zap.Error(err))
	}
	l.seq++
	l.editions[l.seq] = edition{l.have, l.have.version()}
	if names := e.names(); l.awaited <= l.answered {
		l.awaitedNames = names
	} else {
		l.awaitedNames = append(l.awaitedNames, names...)
	}
	// Endpoints, routes and secrets cannot be taken away by the state of the
	// world: such an update has no answer.
	if len(e.set) > 0 || g.delta || l.typeURL == resource.ClusterType || l.typeURL == resource.ListenerType {
		l.awaited = l.seq
	}
	if l.open {
		return
	}
	l.open = true
	if p := l.parked; p != nil && !p.over {
		l.parked = nil
		cancel, err := p.create()
		if err != nil {
			g.log.Error("cannot answer a watch", zap.String("type", shortNames[l.typeURL]), zap.Error(err))
		}
		p.cancel = cancel
	}
}

// sent notes an answer that is about to be sent, and returns the version to send
// with it: that of the content, which is the same in every replica.
func (g *gateway) sent(typeURL, nonce, cacheVersion string, bytes int) string {
	g.mu.Lock()
	defer g.mu.Unlock()
	l := g.lanes[typeURL]
	if l == nil {
		return cacheVersion
	}
	seq, err := strconv.ParseUint(cacheVersion, 10, 64)
	if err != nil {
		return cacheVersion
	}
	l.sentNonce, l.sentSeq = nonce, seq
	name := shortNames[typeURL]
	g.count.pushes.WithLabelValues(name).Inc()
	g.count.sentBytes.WithLabelValues(name).Add(float64(bytes))
	if v := l.editions[seq].version; v != "" {
		return v
	}
	return cacheVersion
}

// cleanWords takes out of Envoy's message what may hold a key: a validation error
// prints the whole message that it refuses.
func cleanWords(s string) string {
	for _, mark := range []string{"-----BEGIN", "inline_", "inlineBytes", "inlineString", "private_key", "privateKey"} {
		if before, _, found := strings.Cut(s, mark); found {
			s = before + "(left out)"
		}
	}
	const longest = 600
	if len(s) > longest {
		s = s[:longest] + "…"
	}
	return strings.ToValidUTF8(s, "")
}

// named finds the resource that a message is about, empty if it names none.
func named(words string, resources map[string]types.Resource) string {
	found := ""
	for _, name := range slices.Sorted(maps.Keys(resources)) {
		if len(name) > len(found) && strings.Contains(words, name) {
			found = name
		}
	}
	return found
}
