package service

import (
	"bytes"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/VictoriaMetrics/metricsql"
	"github.com/prometheus/client_golang/prometheus"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
	"sigs.k8s.io/yaml"

	"github.com/certherd/certherd/controller"
)

// described are the metrics of a replica with their labels.
func described(t *testing.T) map[string][]string {
	t.Helper()
	s := &Service{}
	ch := make(chan *prometheus.Desc, 1000)
	newMetrics(s).registry.Describe(ch)
	close(ch)
	text := regexp.MustCompile(`^Desc{fqName: "([^"]+)".* variableLabels: {(.*)}}$`)
	out := map[string][]string{}
	for d := range ch {
		m := text.FindStringSubmatch(d.String())
		if m == nil {
			t.Fatalf("what is %s?", d)
		}
		out[m[1]] = strings.FieldsFunc(m[2], func(r rune) bool { return r == ',' })
	}
	return out
}

// values are those that a label can have, where something asks for one.
func values() map[string][]string {
	return map[string][]string{
		"certherd_round_total/result":        {"success", "waiting", "incomplete", "failed", "refused", "skipped"},
		"certherd_findings/reason":           controller.Reasons(),
		"certherd_gateway_memory_bytes/kind": {"at_rest", "at_rest_after", "churn", "churn_after", "limit"},
	}
}

// asks holds an expression of PromQL against the metrics that a replica has. who asks
// is for messages.
func asks(t *testing.T, metrics map[string][]string, who, expression string) {
	t.Helper()
	e, err := metricsql.Parse(expression)
	if err != nil {
		t.Errorf("%s: %v", who, err)
		return
	}
	asked, values := 0, values()
	metricsql.VisitAll(e, func(e metricsql.Expr) {
		m, ok := e.(*metricsql.MetricExpr)
		if !ok {
			return
		}
		for _, filters := range m.LabelFilterss {
			asked++
			name := filters[0].Value
			labels, ok := metrics[name]
			if filters[0].Label != "__name__" || !ok {
				t.Errorf("%s asks for %s, which nobody has", who, m.AppendString(nil))
				continue
			}
			for _, f := range filters[1:] {
				known := values[name+"/"+f.Label]
				switch {
				case !slices.Contains(labels, f.Label):
					t.Errorf("%s asks for the label %s of %s, which has %v", who, f.Label, name, labels)
				case known == nil:
					t.Errorf("%s asks for values of the label %s of %s: list them in this test", who, f.Label, name)
				}
				for v := range strings.SplitSeq(f.Value, "|") {
					if !slices.Contains(known, v) {
						t.Errorf("%s asks for %s of %s, which is never %q", who, f.Label, name, v)
					}
				}
			}
		}
	})
	if asked == 0 {
		t.Errorf("%s asks for nothing", who)
	}
}

// TestRulesAskForMetricsThatAreThere: an alert on a metric that nobody has never
// fires, and nobody notices.
func TestRulesAskForMetricsThatAreThere(t *testing.T) {
	made, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), "../manifests/example")
	if err != nil {
		t.Fatal(err)
	}
	runbook, err := os.ReadFile("../docs/runbook.md")
	if err != nil {
		t.Fatal(err)
	}
	metrics, rules := described(t), 0
	for _, x := range made.Resources() {
		if x.GetKind() != "PrometheusRule" {
			continue
		}
		text, err := x.AsYAML()
		if err != nil {
			t.Fatal(err)
		}
		var file struct {
			Spec struct {
				Groups []struct {
					Rules []struct {
						Alert, Expr string
						Annotations map[string]string
					}
				}
			}
		}
		if err := yaml.Unmarshal(text, &file); err != nil {
			t.Fatal(err)
		}
		for _, g := range file.Spec.Groups {
			for _, r := range g.Rules {
				rules++
				if !bytes.Contains(runbook, []byte("\n## "+r.Alert+"\n")) {
					t.Errorf("docs/runbook.md has no section on %s", r.Alert)
				}
				if r.Annotations["summary"] == "" {
					t.Errorf("%s has no summary", r.Alert)
				}
				asks(t, metrics, r.Alert, r.Expr)
			}
		}
	}
	if rules < 5 {
		t.Errorf("there are %d rules", rules)
	}
}
