// Package chart_test proves by Helm itself that charts/certherd makes the objects of
// manifests/, and refuses values that are wrong.
package chart_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"helm.sh/helm/v4/pkg/chart/common"
	"helm.sh/helm/v4/pkg/chart/common/util"
	chart "helm.sh/helm/v4/pkg/chart/v2"
	"helm.sh/helm/v4/pkg/chart/v2/lint"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
	"helm.sh/helm/v4/pkg/engine"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
	"sigs.k8s.io/yaml"
)

const folder = "../../charts/certherd"

type objects map[string]map[string]any

// add reads objects from YAML.
func (o objects) add(t *testing.T, text string) {
	t.Helper()
	for doc := range strings.SplitSeq("\n"+text, "\n---\n") {
		var x map[string]any
		if err := yaml.Unmarshal([]byte(doc), &x); err != nil {
			t.Fatalf("%v in:\n%s", err, doc)
		}
		if len(x) == 0 {
			continue
		}
		m, _ := x["metadata"].(map[string]any)
		key := fmt.Sprint(x["apiVersion"], " ", x["kind"], " ", m["namespace"], "/", m["name"])
		if o[key] != nil {
			t.Errorf("%s is there twice", key)
		}
		o[key] = x
	}
}

// rendered is what Helm makes of the chart with values.
func rendered(t *testing.T, namespace, values string) (objects, error) {
	t.Helper()
	c, err := loader.Load(folder)
	if err != nil {
		t.Fatal(err)
	}
	return render(t, c, namespace, values)
}

func render(t *testing.T, c *chart.Chart, namespace, values string) (objects, error) {
	t.Helper()
	var v map[string]any
	if err := yaml.Unmarshal([]byte(values), &v); err != nil {
		t.Fatal(err)
	}
	all, err := util.ToRenderValues(c, v, common.ReleaseOptions{Name: "x", Namespace: namespace, IsInstall: true}, nil)
	if err != nil {
		return nil, err
	}
	files, err := engine.Render(c, all)
	if err != nil {
		return nil, err
	}
	out := objects{}
	for name, text := range files {
		if strings.HasSuffix(name, ".yaml") {
			out.add(t, text)
		}
	}
	return out, nil
}

// kustomized is what kustomize makes of folders and components of manifests/.
func kustomized(t *testing.T, folders, components []string) objects {
	t.Helper()
	dir := t.TempDir()
	from, err := filepath.EvalSymlinks(dir)
	if err != nil {
		t.Fatal(err)
	}
	manifests, err := filepath.Abs("../../manifests")
	if err != nil {
		t.Fatal(err)
	}
	relative, err := filepath.Rel(from, manifests)
	if err != nil {
		t.Fatal(err)
	}
	text := "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nresources:\n"
	for _, f := range folders {
		text += "- " + filepath.Join(relative, f) + "\n"
	}
	if len(components) > 0 {
		text += "components:\n"
	}
	for _, c := range components {
		text += "- " + filepath.Join(relative, "components", c) + "\n"
	}
	if err := os.WriteFile(filepath.Join(from, "kustomization.yaml"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	made, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), from)
	if err != nil {
		t.Fatalf("%v in:\n%s", err, text)
	}
	b, err := made.AsYaml()
	if err != nil {
		t.Fatal(err)
	}
	out := objects{}
	out.add(t, string(b))
	return out
}

// comparable takes out what is Helm's business, the namespace, and the order of keys
// in config.yaml.
func comparable(t *testing.T, o objects) objects {
	t.Helper()
	for key, x := range o {
		switch x["kind"] {
		case "Namespace":
			delete(o, key)
		case "ConfigMap":
			data := x["data"].(map[string]any)
			if text, ok := data["config.yaml"].(string); ok {
				var v any
				if err := yaml.Unmarshal([]byte(text), &v); err != nil {
					t.Fatal(err)
				}
				data["config.yaml"] = v
			}
		}
	}
	return o
}

func TestChartMakesTheManifests(t *testing.T) {
	const dropCRD = "crds: {keep: false}\n"
	for _, x := range []struct {
		values              string
		folders, components []string
	}{
		{values: "", folders: []string{"audit"}},
		{values: "mode: propose\n", folders: []string{"propose"}},
		{values: "mode: enforce\n", folders: []string{"enforce"}},
		{values: "mode: enforce\ncarry: true\n", folders: []string{"enforce", "carry"}},
		{values: "mode: propose\nrenew: true\n", folders: []string{"propose", "renew"}},
		{values: "approve: true\n", folders: []string{"audit", "approve"}},
		{values: "mode: enforce\ncarry: true\nrenew: true\napprove: true\noperator: true\n", folders: []string{"enforce", "carry", "renew", "approve", "operator"}},
		{values: "secrets: false\n", folders: []string{"audit"}, components: []string{"no-secrets"}},
		{values: "prometheus: {enabled: true}\ngrafana: {enabled: true}\n", folders: []string{"audit"}, components: []string{"prometheus", "grafana"}},
		{values: "mode: propose\npage: sign-in\n", folders: []string{"propose"}, components: []string{"web"}},
		{values: "namespaces: [team-a, team-b]\n", folders: []string{"namespaced"}},
	} {
		name := strings.TrimSpace(strings.ReplaceAll(x.values, "\n", " "))
		if name == "" {
			name = "no values"
		}
		t.Run(name, func(t *testing.T) {
			got, err := rendered(t, "certherd", x.values+dropCRD)
			if err != nil {
				t.Fatal(err)
			}
			want := comparable(t, kustomized(t, x.folders, x.components))
			if len(want) < 10 {
				t.Fatalf("kustomize makes %d objects only", len(want))
			}
			if d := cmp.Diff(want, comparable(t, got)); d != "" {
				t.Errorf("kustomize (-) and Helm (+) differ:\n%s", d)
			}
		})
	}
}

// TestComparisonSees: the test above would see a difference.
func TestComparisonSees(t *testing.T) {
	enforce := comparable(t, kustomized(t, []string{"enforce"}, nil))
	for _, values := range []string{"mode: propose\ncrds: {keep: false}", "mode: enforce\n", "mode: enforce\nreplicas: 3\ncrds: {keep: false}", "mode: enforce\nconfig: {maxShare: 20%}\ncrds: {keep: false}"} {
		got, err := rendered(t, "certherd", values)
		if err != nil {
			t.Fatal(err)
		}
		if cmp.Equal(enforce, comparable(t, got)) {
			t.Errorf("%q is the same as manifests/enforce", values)
		}
	}
}

// TestOtherNamespace: everything is in the namespace of the release, and all that is
// chosen arrives.
func TestOtherNamespace(t *testing.T) {
	const digest = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
	got, err := rendered(t, "elsewhere", `
mode: enforce
carry: true
prometheus: {enabled: true, namespace: watch}
image: {repository: registry.example.com/certherd, digest: "`+digest+`", pullPolicy: Always}
imagePullSecrets: [{name: pull}]
replicas: 3
resources: {limits: {memory: 1Gi}}
podLabels: {team: tls}
podAnnotations: {a: b}
nodeSelector: {disk: ssd}
tolerations: [{key: x, operator: Exists}]
affinity: {nodeAffinity: {}}
priorityClassName: high
env: [{name: OTEL_EXPORTER_OTLP_ENDPOINT, value: "http://collector:4318"}]
volumes: [{name: notify, secret: {secretName: notify}}]
volumeMounts: [{name: notify, mountPath: /etc/certherd/notify, readOnly: true}]
config:
  gc: {mode: enforce, schedule: "CRON_TZ=Europe/Berlin 0 3 * * 1-5", windows: [{schedule: "@daily", duration: 1h30m}], budget: {count: 20, share: 5%}}
  notify: {webhooks: [{format: slack, urlFile: /etc/certherd/notify/slack}]}
`)
	if err != nil {
		t.Fatal(err)
	}
	for key, x := range got {
		m := x["metadata"].(map[string]any)
		if ns, ok := m["namespace"]; ok && ns != "elsewhere" {
			t.Errorf("%s is in %v", key, ns)
		}
		subjects, _ := x["subjects"].([]any)
		for _, s := range subjects {
			if ns := s.(map[string]any)["namespace"]; ns != "elsewhere" {
				t.Errorf("%s binds an account of %v", key, ns)
			}
		}
	}
	b, err := yaml.Marshal(got)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"registry.example.com/certherd@" + digest, "imagePullPolicy: Always", "- name: pull", "replicas: 3", "memory: 1Gi", "team: tls", "a: b", "disk: ssd", "key: x",
		"nodeAffinity:", "priorityClassName: high", "http://collector:4318", "secretName: notify", "mountPath: /etc/certherd/notify", "kubernetes.io/metadata.name: watch",
		"schedule: CRON_TZ=Europe/Berlin 0 3 * * 1-5", "helm.sh/resource-policy: keep"} {
		if !strings.Contains(string(b), want) {
			t.Errorf("%q did not arrive", want)
		}
	}
}

func TestWrongValues(t *testing.T) {
	for values, why := range map[string]string{
		"mode: observe":                                      "/mode",
		"mode: Enforce":                                      "/mode",
		"mod: enforce":                                       "mod",
		"image: {name: x}":                                   "name",
		"image: {digest: latest}":                            "/image/digest",
		"replicas: two":                                      "/replicas",
		"replicas: -1":                                       "/replicas",
		"carry: 'yes'":                                       "/carry",
		"resources: {limits: {memory: much}}":                "/resources/limits/memory",
		"namespaces: [Team_A]":                               "/namespaces",
		"config: {gc: {mod: audit}}":                         "mod",
		"config: {gc: {mode: dry-run}}":                      "/config/gc/mode",
		"config: {gc: {schedule: 0 3 * *}}":                  "/config/gc/schedule",
		"config: {gc: {schedule: '@fortnightly'}}":           "/config/gc/schedule",
		"config: {gc: {windows: [{schedule: 0 3 * * * *}]}}": "/config/gc/windows",
		"config: {gc: {gracePeriod: 7d}}":                    "/config/gc/gracePeriod",
		"config: {maxShare: 0.3}":                            "/config/maxShare",
		"config: {consolidate: {maxHosts: -1}}":              "/config/consolidate/maxHosts",
		"config: {notify: {webhooks: [{format: mail}]}}":     "/config/notify/webhooks",
		"crds: {install: true, remove: true}":                "remove",
		"mode: propose\ncarry: true":                         "carry: true goes with mode: enforce",
		"page: closed":                                       "/page",
		"page: sign-in\nnamespaces: [a]":                     "page: sign-in and private go without namespaces",
		"renew: true":                                        "renew: true goes with",
		"mode: enforce\nnamespaces: [a]":                     "namespaces goes with",
		"config: {gc: {mode: enforce}}":                      "config.gc.mode: enforce needs",
	} {
		_, err := rendered(t, "certherd", values)
		if err == nil {
			t.Errorf("%q is taken", values)
			continue
		}
		if !strings.Contains(err.Error(), why) {
			t.Errorf("%q is refused, and not for %q: %v", values, why, err)
		}
	}
}

// TestConfigurationsOfTheDocs: what certherd takes, the schema takes.
func TestConfigurationsOfTheDocs(t *testing.T) {
	for name, cut := range map[string]func(string) string{
		"../../config/default.yaml": func(s string) string { return s },
		"../../manifests/example/config.yaml": func(s string) string {
			var o struct{ Data map[string]string }
			if err := yaml.Unmarshal([]byte(s), &o); err != nil {
				t.Fatal(err)
			}
			return o.Data["config.yaml"]
		},
	} {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		text := strings.ReplaceAll(cut(string(b)), "\n", "\n  ")
		if _, err := rendered(t, "certherd", "mode: enforce\nconfig:\n  "+text); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestLint is `helm lint`.
func TestLint(t *testing.T) {
	for _, m := range lint.RunAll(folder, map[string]any{"mode": "enforce"}, "certherd").Messages {
		if m.Severity > 1 || !strings.Contains(m.Err.Error(), "icon") {
			t.Error(m)
		}
	}
}
