package main

import (
	"encoding/json"
	"io"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"github.com/certherd/certherd/api/v1alpha1"
)

// TestPlan: the proposals of the example as objects, and an error for what does
// not go together.
func TestPlan(t *testing.T) {
	plan := func(args ...string) (out, said string, err error) {
		return executed(t, append([]string{"plan"}, args...)...)
	}
	out, said, err := plan("-f", "../../examples/knative-mess")
	if err != nil {
		t.Fatal(err, said)
	}
	docs := strings.Split(strings.TrimPrefix(out, "---\n"), "\n---\n")
	for _, doc := range docs {
		var c v1alpha1.Consolidation
		if err := yaml.UnmarshalStrict([]byte(doc), &c); err != nil {
			t.Fatalf("%v\n%s", err, doc)
		}
		if c.Kind != v1alpha1.Kind || c.Namespace == "" || c.Status.Digest != c.Spec.Digest() || len(c.Spec.Members) == 0 || c.Status.Risks.HostsOnKey == 0 {
			t.Errorf("%+v", c)
		}
	}
	if len(docs) < 2 {
		t.Errorf("%d proposals", len(docs))
	}
	if out, _, err := plan("-f", "../../examples/knative-mess", "-n", "nowhere"); out != "" || err != nil {
		t.Error(out, err)
	}
	for _, wrong := range [][]string{{"-o", "xml"}, {"-o", "jsonpath={"}, {"--all"}, {"-l", "a=b"}, {"--watch"}} {
		if _, _, err := plan(append(wrong, "-f", "../../examples/knative-mess")...); err == nil {
			t.Error(wrong, "is taken")
		}
	}
}

// TestPlanOutputs: each format tells of the same Consolidations.
func TestPlanOutputs(t *testing.T) {
	plan := func(format string) string {
		t.Helper()
		out, said, err := executed(t, "plan", "-q", "-f", "../../examples/knative-mess", "-o", format)
		if err != nil || out == "" {
			t.Fatalf("-o %s: %q, %q, %v", format, out, said, err)
		}
		return out
	}
	var list struct {
		Kind  string
		Items []v1alpha1.Consolidation
	}
	if err := json.Unmarshal([]byte(plan("json")), &list); err != nil || list.Kind != "List" || len(list.Items) < 2 {
		t.Fatalf("%+v, %v", list, err)
	}
	names := strings.Fields(plan("name"))
	paths := strings.Fields(plan("jsonpath={.items[*].metadata.name}"))
	table, wide := strings.Split(strings.TrimSpace(plan("table")), "\n"), strings.Split(strings.TrimSpace(plan("wide")), "\n")
	if n := len(list.Items); len(names) != n || len(paths) != n || len(table) != n+1 || len(wide) != n+1 {
		t.Fatalf("%d objects: names %v, jsonpath %v, table\n%s\nwide\n%s", n, names, paths, strings.Join(table, "\n"), strings.Join(wide, "\n"))
	}
	for i, x := range list.Items {
		if names[i] != "consolidation.certherd.dev/"+x.Name || paths[i] != x.Name {
			t.Errorf("%s is %s and %s", x.Name, names[i], paths[i])
		}
		if !strings.Contains(table[i+1], x.Spec.Wildcards[0]) || !strings.Contains(wide[i+1], x.Spec.IssuerRef.Name) {
			t.Errorf("%s is\n%s\n%s", x.Name, table[i+1], wide[i+1])
		}
	}
}

// TestDecisionsNameAnObject: who decides says about what, namespace and name.
func TestDecisionsNameAnObject(t *testing.T) {
	for _, args := range [][]string{{"reject", "x"}, {"reject", "/x"}, {"reject", "--forget", "x/"}, {"undo", "consolidation/x"}} {
		root := rootCommand("certherd")
		root.SetArgs(append(args, "--server", "http://127.0.0.1:1"))
		root.SetOut(io.Discard)
		root.SetErr(io.Discard)
		if err := root.ExecuteContext(t.Context()); err == nil || !strings.Contains(err.Error(), "NAMESPACE/NAME") {
			t.Error(args, err)
		}
	}
}
