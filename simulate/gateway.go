package simulate

import "time"

// Gateway is how an Envoy takes in what it is sent. The zero Gateway takes in each
// change as an update of its own.
type Gateway struct {
	// Relay is true behind certherd's relay, which has certificates sent as secrets of
	// their own: renewing one changes no listener.
	Relay bool
	// Taking is how long Envoy is at one update until it has acknowledged the new
	// listeners. What is sent meanwhile is one update after that: an xDS server
	// answers the acknowledgement with its newest state and keeps none in between
	// (go-control-plane pkg/cache/v3/simple.go).
	Taking time.Duration
	// Requests is how many requests Envoy makes of the xDS server without waiting, and
	// PerSecond how many a second after that, with Each for an update
	// (rate_limit_settings of its bootstrap configuration). 0 Requests is any number.
	Requests, PerSecond, Each int
}

// Kourier is the gateway of a Kourier with a number of certificates. Its bootstrap
// configuration has rate_limit_settings without values (config/200-bootstrap.yaml),
// for which Envoy takes 100 requests and 10 a second (envoy.config.core.v3.RateLimitSettings);
// each update is one of clusters, listeners and routes. Taking is measured: docs/cost.md.
func Kourier(certificates int) Gateway {
	return Gateway{Taking: time.Duration(certificates) * 650 * time.Microsecond, Requests: 100, PerSecond: 10, Each: 3}
}

// Updates is how many updates of listeners the gateway takes in when a changed listener
// is sent at each of some times, the earliest first.
func (g Gateway) Updates(sent []time.Time) int {
	e := envoy{Gateway: g}
	for _, t := range sent {
		e.send(t)
	}
	return e.updates
}

// envoy is a Gateway on its way.
type envoy struct {
	Gateway
	updates int
	begun   time.Time // the last update, which may be to come
	free    time.Time // when it has been acknowledged
	debt    float64   // requests above those that the time up to begun has allowed
}

// send has a change sent at a time that is not before the last one.
func (e *envoy) send(at time.Time) {
	if e.Relay {
		return
	}
	if e.updates > 0 && at.Before(e.begun) {
		return // it is part of an update that waits
	}
	begin := at
	if begin.Before(e.free) {
		begin = e.free
	}
	if e.Requests > 0 && e.PerSecond > 0 {
		e.debt = max(0, e.debt-begin.Sub(e.begun).Seconds()*float64(e.PerSecond)) + float64(e.Each)
	}
	e.updates, e.begun, e.free = e.updates+1, begin, begin.Add(e.Taking)
	if wait := e.debt - float64(e.Requests); e.Requests > 0 && e.PerSecond > 0 && wait > 0 {
		e.free = later(e.free, begin.Add(time.Duration(wait/float64(e.PerSecond)*float64(time.Second))))
	}
}
