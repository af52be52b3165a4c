package controller

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/tools/txtar"
	"sigs.k8s.io/yaml"

	"github.com/certherd/certherd/consolidate"
	"github.com/certherd/certherd/explain"
	"github.com/certherd/certherd/gate"
	"github.com/certherd/certherd/inventory"
	"github.com/certherd/certherd/plan"
)

var update = flag.Bool("update", false, "write what came out into testdata; look at the diff")

// taken is the time of every scenario.
var taken = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

// snapshotOf reads a cluster written as YAML documents.
func snapshotOf(t testing.TB, cluster []byte) *inventory.Snapshot {
	t.Helper()
	type object struct {
		group, kind string
		doc         []byte
	}
	var judged, others []object
	c := inventory.NewCollector()
	for doc := range bytes.SplitSeq(cluster, []byte("\n---\n")) {
		var head struct{ APIVersion, Kind, Reason string }
		if err := yaml.Unmarshal(doc, &head); err != nil {
			t.Fatal(err)
		}
		if head.Kind == "" {
			continue
		}
		group, _, ok := strings.Cut(head.APIVersion, "/")
		if !ok {
			group = ""
		}
		if head.APIVersion == "gap" {
			c.Gap(inventory.Gap{Kind: head.Kind, Reason: head.Reason})
			continue
		}
		js, err := yaml.YAMLToJSON(doc)
		if err != nil {
			t.Fatal(err)
		}
		o := object{group, head.Kind, js}
		if head.Kind == "Certificate" || head.Kind == "Secret" && group == "" {
			judged = append(judged, o)
		} else {
			others = append(others, o)
		}
	}
	for _, o := range judged {
		if _, err := c.Add(o.group, o.kind, o.doc); err != nil {
			t.Fatal(err)
		}
	}
	c.Freeze()
	for _, o := range others {
		if _, err := c.Add(o.group, o.kind, o.doc); err != nil {
			t.Fatal(err)
		}
		if err := c.Scan(o.group, o.kind, o.doc); err != nil {
			t.Fatal(err)
		}
	}
	return c.Snapshot(taken)
}

// TestScenarios: each file of testdata holds a cluster and what must be said of
// it: findings, the steps of the changes, and explanations.
func TestScenarios(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatal("no scenarios", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			a, err := txtar.ParseFile(file)
			if err != nil {
				t.Fatal(err)
			}
			var s *inventory.Snapshot
			var p plan.Plan
			o := Defaults()
			for i, f := range a.Files {
				var got string
				switch {
				case f.Name == "consolidate.yaml":
					if err := yaml.UnmarshalStrict(f.Data, &o.Consolidate); err != nil {
						t.Fatal(err)
					}
					continue
				case f.Name == "cluster.yaml":
					s = snapshotOf(t, f.Data)
					if _, p, err = RunOnce(s, o); err != nil {
						t.Error(err)
					}
					continue
				case f.Name == "proposals":
					got = proposals(t, s, p, o)
				case f.Name == "patches":
					b, err := consolidate.Patches(s, consolidate.Proposals(s, o.Consolidate), false)
					if err != nil {
						t.Fatal(err)
					}
					got = string(b)
				case f.Name == "findings":
					got = findings(p)
				case f.Name == "changes":
					got = changes(p)
				case strings.HasPrefix(f.Name, "explain "):
					ref, err := explain.ParseRef(strings.TrimPrefix(f.Name, "explain "))
					if err != nil {
						t.Fatal(err)
					}
					e, ok := explain.Object(s, p, ref)
					if !ok {
						t.Fatalf("no %s", ref)
					}
					got = e.Text()
				default:
					t.Fatalf("what is %q?", f.Name)
				}
				if *update {
					a.Files[i].Data = []byte(got)
				} else if got != string(f.Data) {
					t.Errorf("%s: got\n%swant\n%s", f.Name, got, f.Data)
				}
			}
			if *update {
				if err := os.WriteFile(file, txtar.Format(a), 0o644); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

func findings(p plan.Plan) string {
	var b strings.Builder
	for _, f := range p.Findings {
		fmt.Fprintf(&b, "%s %s %s\n  %s\n", f.Reason, f.Object, f.Verdict, f.Message)
		for _, e := range f.Evidence {
			fmt.Fprintf(&b, "  by %s: %s %s\n", e.Via, e.From, e.Field)
		}
	}
	return b.String()
}

func changes(p plan.Plan) string {
	var b strings.Builder
	for _, c := range p.Changes {
		fmt.Fprintf(&b, "%s %s", c.Why.Reason, c.Why.Object)
		if c.Why.Wildcard != "" {
			b.WriteString(" " + c.Why.Wildcard)
		}
		if c.Why.Hold != "" {
			b.WriteString(" held: " + c.Why.Hold)
		}
		b.WriteString("\n")
		for _, s := range c.Steps {
			fmt.Fprintf(&b, "  %s %s", s.Action, s.Object)
			if !s.To().IsZero() {
				fmt.Fprintf(&b, " -> %s", s.To())
			}
			b.WriteString("\n")
		}
	}
	return b.String()
}

// proposals are the custom resources that would be written, but for their
// members, which the changes have.
func proposals(t *testing.T, s *inventory.Snapshot, p plan.Plan, o Options) string {
	t.Helper()
	var b strings.Builder
	for _, x := range consolidate.Proposals(s, o.Consolidate) {
		i := slices.IndexFunc(p.Changes, func(c plan.Change) bool { return c.ID == x.Change.ID })
		if i < 0 || gate.Digest(p.Changes[i]) != gate.Digest(x.Change) {
			t.Errorf("the plan has no change %s", x.Change.ID)
		}
		c := x.Consolidation
		for _, m := range c.Spec.Members {
			c.Spec.Hosts = slices.DeleteFunc(c.Spec.Hosts, func(h string) bool { return slices.Contains(m.Hosts, h) })
		}
		if len(c.Spec.Hosts) > 0 {
			t.Errorf("no member has %s", c.Spec.Hosts)
		}
		fmt.Fprintf(&b, "%s/%s of %d members\n", c.Namespace, c.Name, len(c.Spec.Members))
		c.Spec.Members = nil
		u, err := c.ToUnstructured()
		if err != nil {
			t.Fatal(err)
		}
		spec := u.Object["spec"].(map[string]any)
		delete(spec, "members")
		delete(spec, "hosts")
		text, err := yaml.Marshal(map[string]any{"spec": spec, "status": u.Object["status"]})
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			b.WriteString("  " + line)
		}
	}
	return b.String()
}
