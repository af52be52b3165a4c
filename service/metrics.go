package service

import (
	"maps"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/certherd/certherd/batch"
	"github.com/certherd/certherd/plan"
)

// metrics are those of a replica. What comes from the newest report is made when
// it is asked for, so that no scrape meets half a report.
type metrics struct {
	registry *prometheus.Registry
	rounds   *prometheus.CounterVec
	duration prometheus.Histogram
	actions  *prometheus.CounterVec
	messages *prometheus.CounterVec
	updates  *prometheus.CounterVec
}

func newMetrics(s *Service) *metrics {
	m := &metrics{
		registry: prometheus.NewRegistry(),
		rounds: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "certherd_round_total",
			Help: "Rounds by result: success, waiting (all that could be done was, and Secrets wait for the end of their grace period), incomplete (not all of what was cleared was done), failed (no look, or no record of it), refused (no plan was safe), skipped (missed for too long).",
		}, []string{"result"}),
		duration: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "certherd_round_duration_seconds", Help: "How long a round took that did not fail.",
			Buckets: []float64{0.5, 1, 2.5, 5, 10, 30, 60, 150, 300, 900, 1800},
		}),
		actions: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "certherd_actions_total", Help: "Steps of changes that this replica was to carry out, by action and result.",
		}, []string{"action", "result"}),
		messages: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "certherd_notifications_total", Help: "Messages to webhooks, by format and result: success, or failed after several tries.",
		}, []string{"format", "result"}),
		updates: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "certherd_batch_updates_total", Help: "Updates of gateways that this replica let go, by gateway and lane: budget, or urgent for those past it.",
		}, []string{"gateway", "lane"}),
	}
	for _, r := range []string{"success", "waiting", "incomplete", "failed", "refused", "skipped"} {
		m.rounds.WithLabelValues(r) // a rate needs the 0 before the first
	}
	m.registry.MustRegister(m.rounds, m.duration, m.actions, m.messages, m.updates, state{s},
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

func describe(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("certherd_"+name, help, labels, nil)
}

var (
	descInfo         = describe("build_info", "Always 1, with the version of certherd.", "version")
	descWaiting      = describe("changes_waiting", "Changes that wait for a person's approval.")
	descHeld         = describe("requests_held", "CertificateRequests that this replica holds for their batch.")
	descStopped      = describe("stopped", "1 when the circuit breaker has stopped everything until a person resumes, else 0.")
	descUnread       = describe("gateways_unread", "What of the gateways could not be read when it was last tried, on the leader.")
	descBatchHeld    = describe("batch_held", "Changes that the leader holds because a gateway's budget has no room for them, by action.", "action")
	descHeldUntil    = describe("batch_next_timestamp_seconds", "When the next of the held changes may go, Unix time; 0 when none is held.")
	descHeldLast     = describe("batch_last_timestamp_seconds", "When the last of the held changes may go if nothing else comes up, Unix time; 0 when none is held.")
	descLeader       = describe("leader", "1 while this replica leads, else 0.")
	descConfigValid  = describe("config_valid", "1 when the newest ConfigMap is in force, 0 when it was refused.")
	descConfigTaken  = describe("config_last_success_timestamp_seconds", "When the configuration in force was taken over, Unix time.")
	descLastRound    = describe("last_round_timestamp_seconds", "When the cluster was last looked at successfully, Unix time.")
	descFindings     = describe("findings", "Findings of the newest round by reason and verdict (empty for objects that have none).", "reason", "verdict")
	descCertificates = describe("certificates", "cert-manager Certificates.")
	descSecrets      = describe("secrets", "Secrets that hold or held a certificate.")
	descGaps         = describe("gaps", "Kinds of objects that could not be read in full; while there are any, nothing is unused.")
	descLoaded       = describe("gateway_certificates", "Distinct Secrets that ingress gateways load, now and after all proposed changes.", "when")
	descFollows      = describe("follows", "1 while changes since the newest look are followed, else 0.")
	descFollowed     = describe("findings_since_look", "Findings that have come or gone since the newest look, as far as changes are followed.", "change")
	descMemory       = describe("gateway_memory_bytes", "A gateway's predicted memory: at_rest and churn now, at_rest_after and churn_after all proposed changes, and its limit (0 for none).", "gateway", "kind")
)

// state collects what is true at this moment.
type state struct{ *Service }

func (s state) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		descInfo, descLeader, descConfigValid, descConfigTaken, descLastRound, descFindings, descCertificates, descSecrets, descGaps, descLoaded, descMemory, descWaiting, descHeld, descStopped, descUnread, descBatchHeld, descHeldUntil, descHeldLast, descFollows, descFollowed,
	} {
		ch <- d
	}
}

func (s state) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	gauge(descInfo, 1, s.o.Version)
	gauge(descLeader, bit(s.leading.Load()))
	if c := s.config.Load(); c != nil {
		gauge(descConfigValid, bit(c.problem == nil))
		gauge(descConfigTaken, float64(c.taken.UnixMilli())/1000)
	}
	gauge(descStopped, bit(s.stopped.Load()))
	gauge(descUnread, float64(s.unread.Load()))
	if l := s.ledger.Load(); l != nil {
		collectHeld(gauge, l.Held())
	}
	if x := s.since.Load(); x != nil {
		gauge(descFollows, bit(x.Follows))
		gauge(descFollowed, float64(len(x.Came)), "came")
		gauge(descFollowed, float64(len(x.Went)), "went")
	}
	p := s.newest.Load()
	if p == nil {
		return
	}
	gauge(descWaiting, float64(s.waiting.Load()))
	gauge(descHeld, float64(s.held.Load()))
	r := &p.outline
	gauge(descLastRound, float64(r.TakenAt.UnixMilli())/1000)
	gauge(descCertificates, float64(r.Summary.Certificates))
	gauge(descSecrets, float64(r.Summary.Secrets))
	gauge(descGaps, float64(len(r.Gaps)))
	gauge(descLoaded, float64(r.Summary.GatewayCertificates.Now), "now")
	gauge(descLoaded, float64(r.Summary.GatewayCertificates.After), "after")
	counts := map[[2]string]int{}
	for _, rule := range s.o.Rules {
		counts[[2]string{rule.Reason, ""}] = 0
	}
	maps.Copy(counts, p.findings)
	for k, n := range counts {
		gauge(descFindings, float64(n), k[0], k[1])
	}
	const mib = 1 << 20
	for _, g := range r.Gateways {
		name := g.Object.String()
		gauge(descMemory, g.MemoryMiB.Now*mib, name, "at_rest")
		gauge(descMemory, g.MemoryMiB.After*mib, name, "at_rest_after")
		gauge(descMemory, g.MemoryMiB.ChurnNow*mib, name, "churn")
		gauge(descMemory, g.MemoryMiB.ChurnAfter*mib, name, "churn_after")
		gauge(descMemory, g.MemoryMiB.Limit*mib, name, "limit")
	}
}

// collectHeld tells what gateways' budgets hold, and until when.
func collectHeld(gauge func(*prometheus.Desc, float64, ...string), all map[string][]batch.Held) {
	counts := map[plan.Action]int{plan.Delete: 0, plan.Retire: 0, plan.Switch: 0, plan.Renew: 0}
	var next, last time.Time
	for _, held := range all {
		for _, h := range held {
			counts[h.Action]++
			if next.IsZero() || h.Until.Before(next) {
				next = h.Until
			}
			if h.Until.After(last) {
				last = h.Until
			}
		}
	}
	for action, n := range counts {
		gauge(descBatchHeld, float64(n), string(action))
	}
	seconds := func(t time.Time) float64 {
		if t.IsZero() {
			return 0
		}
		return float64(t.UnixMilli()) / 1000
	}
	gauge(descHeldUntil, seconds(next))
	gauge(descHeldLast, seconds(last))
}

func bit(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
