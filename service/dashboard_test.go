package service

import (
	"bytes"
	"encoding/json"
	"regexp"
	"slices"
	"testing"

	"github.com/VictoriaMetrics/metricsql"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/api/types"
	"sigs.k8s.io/kustomize/kyaml/filesys"
	"sigs.k8s.io/yaml"
)

// dashboard is what is looked at of Grafana's JSON model
// (https://grafana.com/docs/grafana/latest/dashboards/build-dashboards/view-dashboard-json-model/).
type dashboard struct {
	UID, Title    string
	SchemaVersion int
	Templating    struct {
		List []struct{ Name, Type, Query string }
	}
	Panels []struct {
		ID          int
		Type, Title string
		Datasource  struct{ Type, UID string }
		GridPos     struct{ X, Y, W, H int }
		Targets     []struct {
			RefID, Expr, LegendFormat string
			Datasource                struct{ Type, UID string }
		}
	}
}

// TestDashboard: the component gives a ConfigMap that Grafana's sidecar finds, with a
// dashboard whose panels have room and ask for metrics and labels that are there.
func TestDashboard(t *testing.T) {
	fs := filesys.MakeFsOnDisk()
	o := krusty.MakeDefaultOptions()
	o.PluginConfig = types.DisabledPluginConfig()
	made, err := krusty.MakeKustomizer(o).Run(fs, "../manifests/components/grafana")
	if err != nil {
		t.Fatal(err)
	}
	if made.Size() != 1 {
		t.Fatalf("%d objects", made.Size())
	}
	text, err := made.Resources()[0].AsYAML()
	if err != nil {
		t.Fatal(err)
	}
	var cm struct {
		Kind     string
		Metadata struct {
			Name, Namespace string
			Labels          map[string]string
		}
		Data map[string]string
	}
	if err := yaml.Unmarshal(text, &cm); err != nil {
		t.Fatal(err)
	}
	doc := cm.Data["certherd.json"]
	if cm.Kind != "ConfigMap" || cm.Metadata.Namespace != "certherd" || cm.Metadata.Labels["grafana_dashboard"] != "1" || len(cm.Data) != 1 || len(doc) > 256<<10 {
		t.Errorf("%s %+v with %d bytes", cm.Kind, cm.Metadata, len(doc))
	}
	var d dashboard
	if err := json.NewDecoder(bytes.NewReader([]byte(doc))).Decode(&d); err != nil {
		t.Fatal(err)
	}
	if d.UID == "" || d.Title == "" || d.SchemaVersion < 30 || len(d.Panels) < 10 {
		t.Errorf("%+v", d)
	}
	if len(d.Templating.List) != 1 || d.Templating.List[0].Name != "datasource" || d.Templating.List[0].Type != "datasource" || d.Templating.List[0].Query != "prometheus" {
		t.Errorf("the data source cannot be chosen: %+v", d.Templating)
	}
	metrics := described(t)
	for name, labels := range metrics {
		if name == "certherd_round_duration_seconds" { // a histogram
			metrics[name+"_bucket"] = append(labels, "le")
		}
	}
	ids := map[int]bool{}
	shown := map[string]bool{}
	label := regexp.MustCompile(`{{([a-z_]+)}}`)
	for i, p := range d.Panels {
		if ids[p.ID] {
			t.Errorf("%s has the ID of another panel", p.Title)
		}
		ids[p.ID] = true
		if g := p.GridPos; g.W < 1 || g.H < 1 || g.X < 0 || g.X+g.W > 24 {
			t.Errorf("%s stands at %+v", p.Title, g)
		}
		for _, q := range d.Panels[:i] {
			a, b := p.GridPos, q.GridPos
			if a.X < b.X+b.W && b.X < a.X+a.W && a.Y < b.Y+b.H && b.Y < a.Y+a.H {
				t.Errorf("%s stands on %s", p.Title, q.Title)
			}
		}
		if p.Type == "row" {
			continue
		}
		if p.Datasource.UID != "${datasource}" || len(p.Targets) == 0 || p.Title == "" {
			t.Errorf("%s asks %+v for %+v", p.Title, p.Datasource, p.Targets)
		}
		for _, x := range p.Targets {
			// A variable of Grafana's, which stands for a duration.
			expression := regexp.MustCompile(`\$__rate_interval`).ReplaceAllString(x.Expr, "5m")
			asks(t, metrics, p.Title, expression)
			if x.Datasource.UID != "${datasource}" || x.RefID == "" {
				t.Errorf("%s asks %+v", p.Title, x)
			}
			e, err := metricsql.Parse(expression)
			if err != nil {
				continue // said already
			}
			labels := []string{"instance", "job"} // the scrape adds them
			metricsql.VisitAll(e, func(e metricsql.Expr) {
				if m, ok := e.(*metricsql.MetricExpr); ok {
					for _, f := range m.LabelFilterss {
						shown[f[0].Value] = true
						labels = append(labels, metrics[f[0].Value]...)
					}
				}
			})
			for _, m := range label.FindAllStringSubmatch(x.LegendFormat, -1) {
				if !slices.Contains(labels, m[1]) {
					t.Errorf("%s names its lines by %s, and there are %v", p.Title, m[1], labels)
				}
			}
		}
	}
	// What is worth a metric is worth a look.
	for name := range metrics {
		if regexp.MustCompile(`^certherd_`).MatchString(name) && !shown[name] && !slices.Contains([]string{
			"certherd_round_duration_seconds", "certherd_config_valid", "certherd_config_last_success_timestamp_seconds"}, name) {
			t.Errorf("%s is on no panel", name)
		}
	}
}
