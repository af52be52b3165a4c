// Package charts_test makes those templates of the Helm chart that have nothing to
// choose from what is in manifests/.
package charts_test

//go:generate go test -run ^TestGenerated$ -update .

import (
	"bytes"
	"flag"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"github.com/certherd/certherd/e2e/scenario"
)

var update = flag.Bool("update", false, "write what came out; look at the diff")

// by are the folders of manifests/ with the template that has what each of them adds, and
// those of which each is made.
var by = map[string]struct {
	template string
	of       []string
}{
	"base":           {"base", nil},
	"list":           {"", nil},
	"audit":          {"audit", []string{"base"}},
	"crd":            {"crd", nil},
	"propose":        {"propose", []string{"audit", "crd"}},
	"enforce":        {"enforce", []string{"propose"}},
	"carry":          {"carry", nil},
	"renew":          {"renew", nil},
	"approve":        {"approve", nil},
	"operator":       {"operator", nil},
	"namespaced":     {"namespaced", []string{"base"}},
	"example":        {"prometheus", []string{"enforce"}},
	"components/web": {"web", nil},
	"cli":            {"", nil}, // nothing of it runs in the cluster
	"cli-no-secrets": {"", nil},
}

// when is the condition of each template.
var when = map[string]string{
	"audit":      "not .Values.namespaces",
	"crd":        `and .Values.crds.install (ne .Values.mode "audit")`,
	"propose":    `ne .Values.mode "audit"`,
	"enforce":    `eq .Values.mode "enforce"`,
	"carry":      ".Values.carry",
	"renew":      ".Values.renew",
	"approve":    ".Values.approve",
	"operator":   ".Values.operator",
	"prometheus": ".Values.prometheus.enabled",
	"web":        `ne .Values.page "open"`,
}

// byHand are the kinds of objects that have templates written by hand, or none:
// the namespace is Helm's business.
var byHand = []string{"Deployment", "ConfigMap", "Namespace"}

// objects are those of a folder by kind, namespace and name, as YAML.
func objects(t *testing.T, folder string) map[string]string {
	t.Helper()
	text, err := scenario.Kustomize("../manifests/" + folder)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for _, doc := range strings.Split(text, "\n---\n") {
		var o struct {
			Kind     string
			Metadata struct{ Namespace, Name string }
		}
		if err := yaml.Unmarshal([]byte(doc), &o); err != nil {
			t.Fatal(err)
		}
		out[o.Kind+"/"+o.Metadata.Namespace+"/"+o.Metadata.Name] = strings.TrimSpace(doc) + "\n"
	}
	return out
}

// adds are the objects of a folder that it does not have from others, by key.
func adds(t *testing.T, folder string) map[string]string {
	t.Helper()
	out := objects(t, folder)
	for _, of := range by[folder].of {
		for key := range objects(t, of) {
			delete(out, key)
		}
	}
	maps.DeleteFunc(out, func(key, _ string) bool {
		kind, _, _ := strings.Cut(key, "/")
		return slices.Contains(byHand, kind)
	})
	return out
}

// template makes an object of a manifest one of a chart.
func template(doc string) string {
	doc = strings.ReplaceAll(doc, "{{", "{{ `{{` }}")
	doc = strings.ReplaceAll(doc, "namespace: certherd\n", "namespace: {{ .Release.Namespace }}\n")
	return strings.ReplaceAll(doc, "kubernetes.io/metadata.name: monitoring\n", "kubernetes.io/metadata.name: {{ .Values.prometheus.namespace }}\n")
}

func TestGenerated(t *testing.T) {
	dirs, err := os.ReadDir("../manifests")
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"dashboard.json": ""}
	folders := []string{"components/web"} // what the others do is in values
	for _, d := range dirs {
		if d.Name() != "components" {
			folders = append(folders, d.Name())
		}
	}
	for _, folder := range folders {
		x, ok := by[folder]
		if !ok {
			t.Errorf("manifests/%s: say in this test what becomes of it in the chart", folder)
		}
		if x.template == "" {
			continue
		}
		added := adds(t, folder)
		var b strings.Builder
		b.WriteString("{{- /* Generated from manifests/" + folder + " by `go generate ./charts`. */}}\n")
		if when[x.template] != "" {
			b.WriteString("{{- if " + when[x.template] + " }}\n")
		}
		for i, key := range slices.Sorted(maps.Keys(added)) {
			doc := template(added[key])
			switch {
			case key == "ClusterRole//certherd-list":
				without := objects(t, "cli-no-secrets")[key]
				doc = "{{- if .Values.secrets }}\n" + doc + "{{- else }}\n" +
					strings.Replace(template(without), "    app.kubernetes.io/component: cli\n", "", 1) + "{{- end }}\n"
			case strings.HasSuffix(key, "//certherd-follow-secrets"):
				doc = "{{- if .Values.secrets }}\n" + doc + "{{- end }}\n"
			case folder == "crd":
				before, after, ok := strings.Cut(doc, "metadata:\n")
				if !ok || strings.HasPrefix(after, "  annotations:") {
					t.Fatal("the CRD is not as this test knows it: say where its annotation is to stand")
				}
				doc = before + "metadata:\n  {{- if .Values.crds.keep }}\n  annotations:\n    helm.sh/resource-policy: keep\n  {{- end }}\n" + after
			case folder == "namespaced":
				if !strings.Contains(key, "/team-a/") {
					continue
				}
				doc = strings.ReplaceAll(doc, "namespace: team-a\n", "namespace: {{ . }}\n")
				doc = "{{- range .Values.namespaces }}\n---\n" + strings.ReplaceAll(doc, ".Release", "$.Release") + "{{- end }}\n"
				b.WriteString(doc)
				continue
			}
			if i > 0 {
				b.WriteString("---\n")
			}
			b.WriteString(doc)
		}
		if when[x.template] != "" {
			b.WriteString("{{- end }}\n")
		}
		want["templates/"+x.template+".yaml"] = b.String()
	}
	dashboard, err := os.ReadFile("../manifests/components/grafana/dashboard.json")
	if err != nil {
		t.Fatal(err)
	}
	want["dashboard.json"] = string(dashboard)
	for name, text := range want {
		name = filepath.Join("certherd", name)
		if *update {
			if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		} else if got, err := os.ReadFile(name); err != nil || !bytes.Equal(got, []byte(text)) {
			t.Errorf("%s is out of date: run `go generate ./charts` (%v)", name, err)
		}
	}
}
