package main

import (
	"bytes"
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
		var stdout, stderr bytes.Buffer
		root := rootCommand("certherd")
		root.SetArgs(append([]string{"plan"}, args...))
		root.SetOut(&stdout)
		root.SetErr(&stderr)
		err = root.ExecuteContext(t.Context())
		return stdout.String(), stderr.String(), err
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
	for _, wrong := range [][]string{{"-o", "json"}, {"--all"}, {"-l", "a=b"}} {
		if _, _, err := plan(append(wrong, "-f", "../../examples/knative-mess")...); err == nil {
			t.Error(wrong, "is taken")
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
