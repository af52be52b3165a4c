// Package alerts lets each alert of manifests/components/prometheus fire, by the
// engine of Prometheus itself. It is a module of its own, as nothing else here
// needs Prometheus.
package alerts

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/promqltest"
	"github.com/prometheus/prometheus/rules"
	"sigs.k8s.io/yaml"
)

// well is a certherd of two replicas that has nothing to complain of, as it is
// scraped for two days, once a minute.
var well = map[string]string{
	`certherd_build_info{pod="a"}`:                                          "1x2880",
	`certherd_leader{pod="a"}`:                                              "1x2880",
	`certherd_leader{pod="b"}`:                                              "0x2880",
	`certherd_config_valid{pod="a"}`:                                        "1x2880",
	`certherd_config_valid{pod="b"}`:                                        "1x2880",
	`certherd_round_total{pod="a",result="failed"}`:                         "0x2880",
	`certherd_round_total{pod="a",result="refused"}`:                        "0x2880",
	`certherd_last_round_timestamp_seconds{pod="a"}`:                        "0+60x2880",
	`certherd_gaps{pod="a"}`:                                                "0x2880",
	`certherd_stopped{pod="a"}`:                                             "0x2880",
	`certherd_stopped{pod="b"}`:                                             "0x2880",
	`certherd_gateways_unread{pod="a"}`:                                     "0x2880",
	`certherd_findings{pod="a",reason="MissingSecret",verdict=""}`:          "0x2880",
	`certherd_findings{pod="a",reason="OrphanedSecret",verdict="unused"}`:   "7x2880",
	`certherd_gateway_memory_bytes{pod="a",gateway="small",kind="churn"}`:   "100x2880",
	`certherd_gateway_memory_bytes{pod="a",gateway="small",kind="limit"}`:   "800x2880",
	`certherd_gateway_memory_bytes{pod="a",gateway="endless",kind="churn"}`: "100x2880",
	`certherd_gateway_memory_bytes{pod="a",gateway="endless",kind="limit"}`: "0x2880",
}

// ill are the series that differ from those that are well, by the alert that is to
// fire. What they are for the first minutes is well.
var ill = map[string]struct {
	series map[string]string
	// after is when it fires, and not a minute earlier; its summary begins so.
	after   time.Duration
	summary string
	until   time.Duration // when it fires no more; 0 for never
}{
	"CertherdAbsent": {
		map[string]string{`certherd_build_info{pod="a"}`: "1x59 _x60 1x2880"}, 79 * time.Minute, "No replica of certherd is scraped.", 120 * time.Minute},
	"CertherdNoLeader": {
		map[string]string{`certherd_leader{pod="a"}`: "1x59 0x60 1x2880"}, 70 * time.Minute, "certherd has 0 leaders instead of one.", 121 * time.Minute},
	"CertherdConfigRefused": {
		map[string]string{`certherd_config_valid{pod="b"}`: "1x59 0x2880"}, 65 * time.Minute, "certherd refused its newest configuration.", 0},
	"CertherdRoundsFail": {
		map[string]string{`certherd_round_total{pod="a",result="failed"}`: "0x59 0+1x10 10x2880"}, 79 * time.Minute, "certherd cannot finish its rounds.", 127 * time.Minute},
	"CertherdPlanRefused": {
		map[string]string{`certherd_round_total{pod="a",result="refused"}`: "0x59 1x2880"}, 60 * time.Minute, "certherd refused a plan of its own.", 1499 * time.Minute},
	"CertherdNotLooking": {
		map[string]string{`certherd_last_round_timestamp_seconds{pod="a"}`: "0+60x59 3600x2880"}, 1621 * time.Minute, "certherd has not looked at the cluster for 1d 2h ", 0},
	"CertherdGaps": {
		map[string]string{`certherd_gaps{pod="a"}`: "0x59 3x2880"}, 180 * time.Minute, "certherd cannot read 3 kinds of objects in full.", 0},
	"CertherdStopped": {
		map[string]string{`certherd_stopped{pod="a"}`: "0x59 1x2880"}, 60 * time.Minute, "certherd has stopped, because gateways became worse after what it did.", 0},
	"CertherdGatewayUnread": {
		map[string]string{`certherd_gateways_unread{pod="a"}`: "0x59 2x2880"}, 120 * time.Minute, "certherd cannot read what 2 gateways say about themselves.", 0},
	"CertherdCertificateAtRisk": {
		map[string]string{`certherd_findings{pod="a",reason="MissingSecret",verdict=""}`: "0x59 2x2880"}, 90 * time.Minute, "2 findings of MissingSecret: TLS breaks, or will.", 0},
	"CertherdGatewayMemory": {
		map[string]string{`certherd_gateway_memory_bytes{pod="a",gateway="small",kind="churn"}`: "100x59 900x2880"}, 75 * time.Minute, "When its certificates change, small is predicted to need more memory than its limit.", 0},
}

// load reads the rules, by Prometheus' own parser.
func load(t *testing.T, series map[string]string) []*rules.Group {
	t.Helper()
	text, err := os.ReadFile("../../manifests/components/prometheus/prometheusrule.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var object struct{ Spec any }
	if err := yaml.Unmarshal(text, &object); err != nil {
		t.Fatal(err)
	}
	if text, err = yaml.Marshal(object.Spec); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "rules.yaml")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	var input strings.Builder
	input.WriteString("load 1m\n")
	for name, values := range series {
		fmt.Fprintf(&input, "  %s %s\n", name, values)
	}
	storage := promqltest.LoadedStorage(t, input.String())
	t.Cleanup(func() { _ = storage.Close() })
	engine := promqltest.NewTestEngine(t, false, 0, promqltest.DefaultMaxSamplesPerQuery)
	m := rules.NewManager(&rules.ManagerOptions{
		QueryFunc: rules.EngineQueryFunc(engine, storage), AppendableV2: storage, Queryable: storage, Context: context.Background(),
		NotifyFunc: func(context.Context, string, ...*rules.Alert) {}, Logger: slog.New(slog.DiscardHandler),
	})
	groups, errs := m.LoadGroups(time.Minute, labels.EmptyLabels(), "", nil, false, file)
	if errs != nil {
		t.Fatal(errs)
	}
	return slices.Collect(maps.Values(groups))
}

// firing are the alerts that fire at a time, with their summaries.
func firing(t *testing.T, groups []*rules.Group, at time.Duration) map[string]string {
	t.Helper()
	out := map[string]string{}
	for _, g := range groups {
		g.Eval(t.Context(), time.Unix(0, 0).Add(at))
		for _, r := range g.AlertingRules() {
			if err := r.LastError(); err != nil {
				t.Fatalf("%s: %v", r.Name(), err)
			}
			for _, a := range r.ActiveAlerts() {
				if a.State == rules.StateFiring {
					out[r.Name()] = a.Annotations.Get("summary")
				}
			}
		}
	}
	return out
}

// TestAlerts: each alert fires when it is to, and not before; no other one does, and
// none when all is well.
func TestAlerts(t *testing.T) {
	groups := load(t, well)
	for at := time.Duration(0); at < 2*time.Hour; at += time.Minute {
		if got := firing(t, groups, at); len(got) > 0 {
			t.Fatalf("all is well, and after %s it warns: %v", at, got)
		}
	}
	for _, g := range groups {
		for _, r := range g.AlertingRules() {
			if _, ok := ill[r.Name()]; !ok {
				t.Errorf("%s is never seen to fire: say here when it is to", r.Name())
			}
		}
	}
	for name, x := range ill {
		t.Run(name, func(t *testing.T) {
			series := maps.Clone(well)
			for s, values := range x.series {
				if series[s] == "" {
					t.Fatalf("there is no %s when all is well", s)
				}
				series[s] = values
			}
			groups := load(t, series)
			for at := time.Duration(0); at <= max(x.after, x.until)+2*time.Minute; at += time.Minute {
				got, want := firing(t, groups, at), 0
				if at >= x.after && (x.until == 0 || at < x.until) {
					want = 1
				}
				if summary, fires := got[name]; len(got) != want || fires != (want == 1) || fires && !strings.HasPrefix(summary, x.summary) {
					t.Fatalf("after %s it warns: %q, want %d", at, got, want)
				}
			}
		})
	}
}
