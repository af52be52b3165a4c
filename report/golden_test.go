package report

import (
	"bytes"
	"flag"
	"math/rand"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"
	"sigs.k8s.io/yaml"
)

var update = flag.Bool("update", false, "write what the formats give now into testdata/*.txtar")

// A golden case holds report.yaml, perhaps rules.yaml, and the output of each
// format; the table comes uncut, in 120 columns, and in 80 with colours.
var goldenOutputs = []struct {
	file, format string
	o            Options
}{
	{"table", "table", Options{}},
	{"table-120", "table", Options{Width: 120}},
	{"table-80-color", "table", Options{Width: 80, Color: true}},
	{"wide", "wide", Options{}},
	{"json", "json", Options{}},
	{"yaml", "yaml", Options{}},
	{"csv", "csv", Options{}},
	{"markdown", "markdown", Options{}},
	{"sarif", "sarif", Options{Version: "v0.0.0-test"}},
	{"junit", "junit", Options{}},
	{"html", "html", Options{Version: "v0.0.0-test"}},
}

type golden struct {
	path    string
	archive *txtar.Archive
	report  *Report
	rules   []Rule
}

func goldens(t testing.TB) map[string]golden {
	t.Helper()
	paths, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(paths) == 0 {
		t.Fatalf("no golden cases: %v", err)
	}
	all := map[string]golden{}
	for _, path := range paths {
		a, err := txtar.ParseFile(path)
		if err != nil {
			t.Fatal(err)
		}
		g := golden{path: path, archive: a}
		for _, f := range a.Files {
			switch f.Name {
			case "report.yaml":
				err = yaml.UnmarshalStrict(f.Data, &g.report)
			case "rules.yaml":
				err = yaml.UnmarshalStrict(f.Data, &g.rules)
			}
			if err != nil {
				t.Fatalf("%s: %s: %v", path, f.Name, err)
			}
		}
		if g.report == nil {
			t.Fatalf("%s: no report.yaml", path)
		}
		all[strings.TrimSuffix(filepath.Base(path), ".txtar")] = g
	}
	return all
}

func write(t testing.TB, format string, r *Report, o Options) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := Write(&b, format, r, o); err != nil {
		t.Fatalf("%s: %v", format, err)
	}
	return b.Bytes()
}

func forGolden(file string, b []byte) []byte {
	if file == "html" {
		b = bytes.Replace(b, []byte(pageJS), nil, 1)
		b = bytes.Replace(b, []byte(pageCSS), nil, 1)
		b = regexp.MustCompile(`sha256-[^']*?(?:&#39;)`).ReplaceAll(b, []byte("sha256-HASH&#39;"))
	}
	return b
}

func TestGolden(t *testing.T) {
	for name, g := range goldens(t) {
		t.Run(name, func(t *testing.T) {
			want := map[string][]byte{}
			var kept []txtar.File
			for _, f := range g.archive.Files {
				if strings.HasSuffix(f.Name, ".yaml") {
					kept = append(kept, f)
				}
				want[f.Name] = f.Data
			}
			for _, out := range goldenOutputs {
				out.o.Rules = g.rules
				got := forGolden(out.file, write(t, out.format, g.report, out.o))
				kept = append(kept, txtar.File{Name: out.file, Data: got})
				if *update {
					continue
				}
				if diff := cmp.Diff(string(want[out.file]), string(got)); diff != "" {
					t.Errorf("%s differs from %s (look at it, then run the test with -update):\n%s", out.file, g.path, diff)
				}
			}
			if *update {
				g.archive.Files = kept
				if err := os.WriteFile(g.path, txtar.Format(g.archive), 0o644); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

// TestSameBytes: order of the input has no meaning, the input is left as it
// was, and each output ends in one newline.
func TestSameBytes(t *testing.T) {
	for name, g := range goldens(t) {
		for _, format := range Formats {
			first := write(t, format, g.report, Options{Rules: g.rules, Width: 90})
			if !bytes.HasSuffix(first, []byte("\n")) || bytes.HasSuffix(first, []byte("\n\n")) {
				t.Errorf("%s as %s does not end in one newline", name, format)
			}
			r := rand.New(rand.NewSource(7))
			for range 5 {
				s := g.report.clone()
				shuffle(r, s.Findings)
				for _, f := range s.Findings {
					shuffle(r, f.Evidence)
					shuffle(r, f.Related)
				}
				shuffle(r, s.Changes)
				shuffle(r, s.Gaps)
				shuffle(r, s.Namespaces)
				shuffle(r, s.Gateways)
				before := s.clone()
				if again := write(t, format, s, Options{Rules: g.rules, Width: 90}); !bytes.Equal(first, again) {
					t.Errorf("%s as %s: shuffled input gives other bytes", name, format)
				}
				if diff := cmp.Diff(before, s); diff != "" {
					t.Errorf("%s as %s: Write changed its input:\n%s", name, format, diff)
				}
			}
		}
	}
}

func shuffle[T any](r *rand.Rand, list []T) {
	r.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
}

func TestUnknownFormat(t *testing.T) {
	var b bytes.Buffer
	err := Write(&b, "xlsx", &Report{}, Options{})
	if err == nil || b.Len() > 0 {
		t.Fatalf("got %v and %d bytes", err, b.Len())
	}
	for _, f := range Formats {
		if !strings.Contains(err.Error(), f) {
			t.Errorf("%q does not name %s", err, f)
		}
	}
}

func TestNothingIsWrittenOnFailure(t *testing.T) {
	zero := 0.0
	r := &Report{Summary: Summary{GatewayMemoryMiB: &Memory{Now: 1 / zero}}}
	for _, format := range []string{"json", "yaml"} {
		var b bytes.Buffer
		if err := Write(&b, format, r, Options{}); err == nil || b.Len() > 0 {
			t.Errorf("%s: got %v and %d bytes for an infinite number", format, err, b.Len())
		}
	}
}
