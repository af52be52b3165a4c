package main

import (
	"bytes"
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"

	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/certherd/certherd/report"
)

// kubeconfig has a context for each server, and two for the cluster of the file from, if
// that is not empty.
func kubeconfig(t *testing.T, from string, servers map[string]string) string {
	t.Helper()
	c := clientcmdapi.NewConfig()
	if from != "" {
		had, err := clientcmd.LoadFromFile(from)
		if err != nil {
			t.Fatal(err)
		}
		context := had.Contexts[had.CurrentContext]
		c.Clusters["here"], c.AuthInfos["user"] = had.Clusters[context.Cluster], had.AuthInfos[context.AuthInfo]
		c.Contexts["here"] = &clientcmdapi.Context{Cluster: "here", AuthInfo: "user"}
		c.Contexts["same"] = &clientcmdapi.Context{Cluster: "here", AuthInfo: "user"}
	}
	for name, server := range servers {
		c.Clusters[name] = &clientcmdapi.Cluster{Server: server}
		c.Contexts[name] = &clientcmdapi.Context{Cluster: name}
	}
	file := filepath.Join(t.TempDir(), "kubeconfig")
	if err := clientcmd.WriteToFile(*c, file); err != nil {
		t.Fatal(err)
	}
	return file
}

func executed(t *testing.T, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	root := rootCommand("certherd")
	var out, failed bytes.Buffer
	root.SetOut(&out)
	root.SetErr(&failed)
	root.SetArgs(args)
	err = root.ExecuteContext(t.Context())
	return out.String(), failed.String(), err
}

// audits looks at clusters of which some are away.
func (s *site) audits() {
	s.Helper()
	file := kubeconfig(s.T, s.stack.Kubeconfig, map[string]string{"away": "https://127.0.0.1:1"})
	out, failed, err := executed(s.T, "audit", "-q", "--kubeconfig", file, "--contexts", "here,away", "-o", "json")
	s.must(err)
	var r report.Report
	s.must(json.Unmarshal([]byte(out), &r))
	found, gap := false, false
	for _, f := range r.Findings {
		found = found || f.Cluster == "here" && f.Object.Namespace == "team-a"
		if f.Cluster != "here" {
			s.Errorf("a finding in the cluster %q: %v", f.Cluster, f.Object)
		}
	}
	for _, g := range r.Gaps {
		gap = gap || g.Cluster == "away" && g.Kind == report.EveryKind
	}
	if !found || !gap || !strings.Contains(failed, "away") {
		s.Errorf("found %t, gap %t:\n%s\n%s", found, gap, out, failed)
	}
	var document any
	s.must(json.Unmarshal([]byte(out), &document))
	s.must(s.schema.Validate(document))

	// One server is one cluster, by whatever contexts.
	out, failed, err = executed(s.T, "audit", "-q", "--kubeconfig", file, "--all-contexts", "-o", "jsonpath={.clusters[*]}")
	s.must(err)
	if out != "away here" || !strings.Contains(failed, "same") {
		s.Errorf("the clusters are %q:\n%s", out, failed)
	}
	// A look at one has no cluster in it.
	out, _, err = executed(s.T, "audit", "-q", "--kubeconfig", file, "--context", "here", "-o", "json")
	s.must(err)
	if strings.Contains(out, `"cluster"`) {
		s.Errorf("a report on one cluster names it:\n%s", out)
	}
	out, _, err = executed(s.T, "audit", "-q", "--kubeconfig", file, "--context", "here", "-n", "team-a", "-o", "name")
	s.must(err)
	if !strings.Contains("\n"+out, "\nsecret/") {
		s.Errorf("-o name writes %q", out)
	}
}

// TestNoClusterAtAll: where none can be read there is no report, and where what is asked
// for cannot be, it is said before anything is read.
func TestNoClusterAtAll(t *testing.T) {
	file := kubeconfig(t, "", map[string]string{"a": "https://127.0.0.1:1", "b": "https://127.0.0.1:2"})
	out, failed, err := executed(t, "audit", "-q", "--kubeconfig", file, "--all-contexts", "-o", "json")
	if err == nil || out != "" || !strings.Contains(failed, "a: ") || !strings.Contains(failed, "b: ") {
		t.Errorf("error %v, output %q, said %q", err, out, failed)
	}
	for want, args := range map[string][]string{
		`no context "c"`:         {"--contexts", "a,c"},
		"does not go with --all": {"--contexts", "a", "--all-contexts"},
		"do not go with -f":      {"--contexts", "a", "-f", "../../examples"},
		"do not go with --conte": {"--all-contexts", "--context", "a"},
		"needs a template":       {"-o", "jsonpath="},
		"cannot use the templat": {"-o", "jsonpath={.x"},
		`no format "xml"`:        {"-o", "xml"},
		"--every must be":        {"-w", "--every", "1ms"},
		"--watch does not go":    {"-w", "-f", "../../examples"},
	} {
		out, _, err := executed(t, append([]string{"audit", "-q", "--kubeconfig", file}, args...)...)
		if err == nil || out != "" || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: error %v, output %q, want %q", args, err, out, want)
		}
	}
}

// TestOutputs: what scripts take of a report.
func TestOutputs(t *testing.T) {
	count, _, err := executed(t, "audit", "-q", "-f", "../../examples/knative-mess", "-o", "jsonpath={.summary.secrets}")
	if err != nil || count == "" || count == "0" {
		t.Errorf("%q, %v", count, err)
	}
	names, _, err := executed(t, "audit", "-q", "-f", "../../examples/knative-mess", "-o", "name")
	if err != nil || !strings.Contains("\n"+names, "\nsecret/") || !strings.Contains(names, ".cert-manager.io/") {
		t.Errorf("%q, %v", names, err)
	}
	for line := range strings.Lines(names) {
		if kind, name, ok := strings.Cut(strings.TrimSpace(line), "/"); !ok || kind != strings.ToLower(kind) || name == "" {
			t.Errorf("not a name: %q", line)
		}
	}
}
