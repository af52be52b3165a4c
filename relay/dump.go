package relay

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"

	"google.golang.org/protobuf/encoding/protojson"

	"github.com/certherd/certherd/relay/shape"
)

// The dump: what the relay has of the controller, what it made of it, and what
// each gateway runs. No key is in it.
type (
	dumped struct {
		Version  string          `json:"version"`
		Ready    bool            `json:"ready"`
		Upstream dumpedUpstream  `json:"upstream"`
		In       dumpedState     `json:"in"`
		Out      dumpedState     `json:"out"`
		Problems []shape.Problem `json:"problems,omitempty"`
		Gateways []dumpedGateway `json:"gateways"`
	}
	dumpedUpstream struct {
		Address   string               `json:"address"`
		Node      string               `json:"node"`
		Connected map[string]bool      `json:"connected"`
		Received  map[string]time.Time `json:"received"`
	}
	dumpedState struct {
		Counts    shape.Counts                 `json:"counts"`
		Versions  map[string]string            `json:"versions"`
		Resources map[string][]json.RawMessage `json:"resources"`
	}
	dumpedGateway struct {
		Address  string       `json:"address"`
		Node     string       `json:"node"`
		Envoy    string       `json:"envoy,omitempty"`
		Delta    bool         `json:"delta"`
		OnDemand bool         `json:"onDemand"`
		Fallback bool         `json:"fallback"`
		Types    []dumpedLane `json:"types"`
	}
	dumpedLane struct {
		Type          string     `json:"type"`
		Resources     int        `json:"resources"`
		Asked         int        `json:"asked"` // names that it subscribes to; 0 for all
		Wanted        string     `json:"wanted,omitempty"`
		Sent          string     `json:"sent,omitempty"`
		Accepted      string     `json:"accepted,omitempty"`
		AcceptedAt    *time.Time `json:"acceptedAt,omitempty"`
		BehindSeconds float64    `json:"behindSeconds"`
		Rejections    int        `json:"rejections,omitempty"`
		Message       string     `json:"message,omitempty"`
		Removable     []string   `json:"removedLater,omitempty"`
	}
)

func (r *Relay) dump() (dumped, error) {
	s := r.source
	s.mu.Lock()
	d := dumped{Version: r.o.Version, Ready: s.ready, Upstream: dumpedUpstream{Address: r.o.Upstream, Node: r.o.NodeID, Connected: map[string]bool{}, Received: map[string]time.Time{}}, Gateways: []dumpedGateway{}}
	for _, t := range relayed {
		name := shortNames[t]
		d.Upstream.Connected[name] = s.connected[t]
		if at, ok := s.received[t]; ok {
			d.Upstream.Received[name] = at
		}
		d.Problems = append(d.Problems, s.problems[t]...)
	}
	given, shaped := s.given, s.shaped
	s.mu.Unlock()
	var err error
	if d.In, err = dumpState(given); err != nil {
		return d, err
	}
	if d.Out, err = dumpState(shaped); err != nil {
		return d, err
	}
	for _, g := range r.list() {
		d.Gateways = append(d.Gateways, g.dump())
	}
	return d, nil
}

func dumpState(s shape.State) (dumpedState, error) {
	d := dumpedState{Counts: shape.Count(s), Versions: map[string]string{}, Resources: map[string][]json.RawMessage{}}
	for _, t := range relayed {
		if digests := s.Digests(t); len(digests) > 0 {
			d.Versions[shortNames[t]] = versionOf(digests)
		}
	}
	s = shape.Redact(s)
	for _, t := range relayed {
		for _, m := range s.Resources(t) {
			b, err := protojson.Marshal(m)
			if err != nil {
				return d, fmt.Errorf("cannot write %s %s: %w", shortNames[t], shape.Name(m), err)
			}
			d.Resources[shortNames[t]] = append(d.Resources[shortNames[t]], b)
		}
	}
	return d, nil
}

func (g *gateway) dump() dumpedGateway {
	g.mu.Lock()
	defer g.mu.Unlock()
	d := dumpedGateway{Address: g.peer, Node: g.node.GetId(), Envoy: envoyVersion(g.node), Delta: g.delta, OnDemand: g.onDemand, Fallback: !g.rawUntil.IsZero()}
	target := g.target()
	for _, t := range relayed {
		l := g.lanes[t]
		if !l.subscribed {
			continue
		}
		x := dumpedLane{Type: shortNames[t], Resources: len(l.have.digests), Asked: len(l.names), Sent: l.editions[l.sentSeq].version, Accepted: l.editions[l.good].version,
			Rejections: l.rejections, Message: l.words, Removable: slices.Sorted(maps.Keys(l.gone))}
		if c := target[t]; c != nil {
			x.Wanted = c.version
		}
		if !l.goodAt.IsZero() {
			x.AcceptedAt = &l.goodAt
		}
		if !l.behindSince.IsZero() {
			x.BehindSeconds = g.now().Sub(l.behindSince).Seconds()
		}
		d.Types = append(d.Types, x)
	}
	return d
}
