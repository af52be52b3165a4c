package relay

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/envoyproxy/go-control-plane/pkg/resource/v3"

	"github.com/certherd/certherd/relay/shape"
)

// counters are what the relay counts as it goes. State is made when it is asked
// for.
type counters struct {
	received, receivedBytes, undecodable *prometheus.CounterVec
	pushes, sentBytes                    *prometheus.CounterVec
	coalesced, rejections                *prometheus.CounterVec
	fallbacks, refused                   prometheus.Counter
}

func newCounters() *counters {
	vec := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: "certherd_relay_" + name, Help: help}, labels)
	}
	c := &counters{
		received:      vec("received_total", "Answers of the controller, by type of resource.", "type"),
		receivedBytes: vec("received_bytes_total", "Bytes of the resources in answers of the controller, by type.", "type"),
		undecodable:   vec("undecodable_total", "Answers of the controller that could not be read, by type.", "type"),
		pushes:        vec("pushes_total", "Answers sent to gateways, by type.", "type"),
		sentBytes:     vec("sent_bytes_total", "Bytes of the answers sent to gateways, by type.", "type"),
		coalesced:     vec("coalesced_total", "Answers of the controller that led to no push, by type and reason: unchanged (the same content), superseded (a gateway got a newer one instead).", "type", "reason"),
		rejections:    vec("rejections_total", "Answers that a gateway rejected, by type and the resource that its message names.", "type", "resource"),
		fallbacks:     prometheus.NewCounter(prometheus.CounterOpts{Name: "certherd_relay_fallbacks_total", Help: "How often a gateway fell back to what the controller sends, after it had rejected the relay's form."}),
		refused:       prometheus.NewCounter(prometheus.CounterOpts{Name: "certherd_relay_gateways_refused_total", Help: "How often a gateway was refused because its node id is not the one that the relay serves."}),
	}
	for _, name := range shortNames {
		// A rate needs the 0 before the first.
		c.received.WithLabelValues(name)
		c.receivedBytes.WithLabelValues(name)
		c.undecodable.WithLabelValues(name)
		c.pushes.WithLabelValues(name)
		c.sentBytes.WithLabelValues(name)
		c.coalesced.WithLabelValues(name, "unchanged")
	}
	c.coalesced.WithLabelValues(shortNames[resource.ListenerType], "superseded")
	return c
}

func (c *counters) all() []prometheus.Collector {
	return []prometheus.Collector{c.received, c.receivedBytes, c.undecodable, c.pushes, c.sentBytes, c.coalesced, c.rejections, c.fallbacks, c.refused}
}

func describe(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("certherd_relay_"+name, help, labels, nil)
}

var (
	descInfo         = describe("build_info", "Always 1, with the version of certherd.", "version")
	descReady        = describe("ready", "1 when the relay has a complete state of the controller, else 0.")
	descConnected    = describe("upstream_connected", "1 while the controller's stream of a type is open, else 0.", "type")
	descReceived     = describe("upstream_last_received_timestamp_seconds", "When the controller last sent resources of a type, Unix time.", "type")
	descResources    = describe("resources", "Resources by type: in is what the controller has, out what gateways are to have.", "type", "side")
	descCertificates = describe("certificates", "Different certificates: in is what the controller has, out what gateways are to have.", "side")
	descChains       = describe("filter_chains", "Filter chains of all listeners.", "side")
	descInlined      = describe("inlined_certificates", "Certificates within listeners, each copy of them: what an Envoy keeps again with each listener that is drained.", "side")
	descGateways     = describe("gateways", "Streams of gateways that are open.")
	descBehind       = describe("gateway_behind_seconds", "For how long a gateway has been running something else than it should, by type; 0 while it runs that.", "gateway", "type")
	descAccepted     = describe("gateway_last_accepted_timestamp_seconds", "When a gateway last accepted an update of a type, Unix time.", "gateway", "type")
	descFallback     = describe("gateway_fallback", "1 while a gateway gets what the controller sends, because it rejected the relay's form, else 0.", "gateway")
	descProblems     = describe("problems", "What is wrong in the controller's state and was settled, by type.", "type")
)

func (r *Relay) registry() *prometheus.Registry {
	registry := prometheus.NewRegistry()
	registry.MustRegister(r.count.all()...)
	registry.MustRegister(state{r}, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return registry
}

// state collects what is true at this moment.
type state struct{ *Relay }

// Describe sends the descriptions of all that Collect may send.
func (s state) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{descInfo, descReady, descConnected, descReceived, descResources, descCertificates, descChains, descInlined, descGateways, descBehind, descAccepted, descFallback, descProblems} {
		ch <- d
	}
}

// Collect sends the state.
func (s state) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	gauge(descInfo, 1, s.o.Version)
	gauge(descReady, bit(s.ready()))
	src := s.source
	src.mu.Lock()
	for _, t := range relayed {
		name := shortNames[t]
		gauge(descConnected, bit(src.connected[t]), name)
		if at, ok := src.received[t]; ok {
			gauge(descReceived, float64(at.UnixMilli())/1000, name)
		}
		gauge(descResources, float64(len(src.given.Resources(t))), name, "in")
		gauge(descResources, float64(len(src.shaped.Resources(t))), name, "out")
		gauge(descProblems, float64(len(src.problems[t])), name)
	}
	src.mu.Unlock()
	in, out := src.counts()
	for side, c := range map[string]shape.Counts{"in": in, "out": out} {
		gauge(descCertificates, float64(c.Certificates), side)
		gauge(descChains, float64(c.Chains), side)
		gauge(descInlined, float64(c.Inlined), side)
	}
	gateways := s.list()
	gauge(descGateways, float64(len(gateways)))
	for _, g := range gateways {
		g.mu.Lock()
		gauge(descFallback, bit(!g.rawUntil.IsZero()), g.peer)
		for _, t := range relayed {
			l := g.lanes[t]
			if !l.subscribed {
				continue
			}
			behind := 0.0
			if !l.behindSince.IsZero() {
				behind = g.now().Sub(l.behindSince).Seconds()
			}
			gauge(descBehind, behind, g.peer, shortNames[t])
			if !l.goodAt.IsZero() {
				gauge(descAccepted, float64(l.goodAt.UnixMilli())/1000, g.peer, shortNames[t])
			}
		}
		g.mu.Unlock()
	}
}

func bit(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
