// Package shape turns what an xDS controller serves into the form that changes
// least for an Envoy: a stable order, certificates as secrets, filter chains
// merged.
package shape

import (
	"time"
)

// Options say which of the changes are made beyond a stable order.
type Options struct {
	// SDS takes inlined certificates and keys out of the listeners and makes
	// secrets of them, which Envoy asks for over ADS.
	SDS bool
	// Merge makes one of filter chains that differ in nothing but their server
	// names, and matches the certificate's wildcard where it covers them.
	Merge bool
	// OnDemand is given for an Envoy that loads certificates when they are first
	// asked for; nil leaves them in the listeners' chains.
	OnDemand *OnDemand
	// Now is the time that certificates are judged by.
	Now time.Time
}

// OnDemand are the settings of loading certificates when they are first asked
// for.
type OnDemand struct {
	// Prefetch are server names whose certificates are loaded at once.
	Prefetch []string
}

// Problem is something in the state that was left out, settled or replaced. It
// has no key material in it.
type Problem struct {
	Type, Resource string // the type URL and the name of the resource
	Why            string
}

// Shape returns the state that gateways get for a complete state of the
// controller, and what was wrong with it, in a stable order. It is pure: the same
// input gives the same bytes, in whatever order its resources come. before is the
// last output, nil at first: what is broken in `in` keeps the form it has there.
// Nothing in `in` or before is changed; the output may share messages with both.
func Shape(in State, before *State, o Options) (State, []Problem) {
	return New().Shape(in, before, o)
}

// Shaper shapes one state after the other and keeps what it has parsed of the
// last two. Its results are those of Shape. It is not safe for concurrent use.
type Shaper struct {
	cache cache
}

// New returns a Shaper that has seen nothing.
func New() *Shaper { return &Shaper{} }

// Shape is as the function Shape.
func (s *Shaper) Shape(in State, before *State, o Options) (State, []Problem) {
	s.cache.turn()
	out := State{
		Listeners: canonical(&s.cache, in.Listeners),
		Routes:    canonical(&s.cache, in.Routes),
		Clusters:  canonical(&s.cache, in.Clusters),
		Endpoints: canonical(&s.cache, in.Endpoints),
		Secrets:   canonical(&s.cache, in.Secrets),
		Others:    in.Others,
	}
	out.seal()
	return out, nil
}
