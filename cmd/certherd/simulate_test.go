package main

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"github.com/certherd/certherd/simulate"
)

// TestSimulate: the certificates of a dump, or made-up ones, in all formats, and an
// error for what does not go together.
func TestSimulate(t *testing.T) {
	run := func(args ...string) (string, error) {
		var stdout, stderr bytes.Buffer
		root := rootCommand("certherd")
		root.SetArgs(append([]string{"simulate"}, args...))
		root.SetOut(&stdout)
		root.SetErr(&stderr)
		err := root.ExecuteContext(t.Context())
		if err == nil && stderr.Len() > 0 {
			t.Errorf("%v says %q", args, stderr.String())
		}
		return stdout.String(), err
	}
	out, err := run("--fleet", "200", "--largest", "100", "-o", "json")
	if err != nil {
		t.Fatal(err)
	}
	var r simulate.Result
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		t.Fatal(err)
	}
	if r.Certificates != 200 || r.With.Reloads == 0 || r.With.Reloads >= r.Without.Reloads {
		t.Errorf("%+v", r)
	}
	if again, _ := run("--fleet", "200", "--largest", "100", "-o", "json"); again != out {
		t.Error("the same seed has another result")
	}
	if out, err := run("-f", "../../examples/knative-mess", "--start", "2026-11-23"); err != nil || !strings.Contains(out, "gateway reloads") {
		t.Errorf("%v\n%s", err, out)
	}
	if out, err := run("--fleet", "50", "-o", "html"); err != nil || !strings.Contains(out, "<svg ") || strings.Contains(out, "http") && strings.Contains(out, "src=") {
		t.Errorf("%v\n%s", err, out)
	}
	for _, wrong := range [][]string{
		{"--fleet", "10", "-f", "../../examples/knative-mess"}, {"--seed", "3", "-f", "../../examples/knative-mess"}, {"--fleet", "10", "-o", "xml"},
		{"--fleet", "10", "--days", "0"}, {"--fleet", "10", "--largest", "0"}, {"--fleet", "10", "--start", "soon"}, {"--fleet", "10", "-l", "a=b"}, {"--fleet", "-1"},
	} {
		if _, err := run(wrong...); err == nil {
			t.Error(wrong, "is taken")
		}
	}
}
