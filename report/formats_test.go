package report

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"github.com/joshdk/go-junit"
	"github.com/mattn/go-runewidth"
	"github.com/owenrumney/go-sarif/v3/pkg/report/v210/sarif"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/yuin/goldmark"
	"github.com/yuin/goldmark/extension"
	"github.com/yuin/goldmark/renderer/html"
	xhtml "golang.org/x/net/html"
	"sigs.k8s.io/yaml"
)

func compileSchema(t *testing.T, name string, text []byte) *jsonschema.Schema {
	t.Helper()
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	c.AssertFormat()
	if err := c.AddResource(name, doc); err != nil {
		t.Fatal(err)
	}
	s, err := c.Compile(name)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func reportSchema(t *testing.T) (*jsonschema.Schema, []byte) {
	t.Helper()
	text, err := os.ReadFile("../docs/report.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	return compileSchema(t, "report.schema.json", text), text
}

func validate(t *testing.T, s *jsonschema.Schema, document []byte) error {
	t.Helper()
	v, err := jsonschema.UnmarshalJSON(bytes.NewReader(document))
	if err != nil {
		t.Fatal(err)
	}
	return s.Validate(v)
}

func TestJSONMatchesSchema(t *testing.T) {
	schema, _ := reportSchema(t)
	for name, g := range goldens(t) {
		out := write(t, "json", g.report, Options{})
		if err := validate(t, schema, out); err != nil && name != "nasty" {
			t.Errorf("%s: %v", name, err)
		} else if err == nil && name == "nasty" {
			t.Error("nasty: the schema takes a reason that no check has")
		}
		if bytes.Contains(out, []byte("null,")) && g.report.Summary.GatewayMemoryMiB != nil {
			t.Errorf("%s: a list is null", name)
		}
		fromYAML, err := yaml.YAMLToJSON(write(t, "yaml", g.report, Options{}))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(anyJSON(t, out), anyJSON(t, fromYAML)); diff != "" {
			t.Errorf("%s: YAML and JSON differ:\n%s", name, diff)
		}
		var back Report
		if err := json.Unmarshal(out, &back); err != nil {
			t.Fatal(err)
		}
		want := g.report.clone()
		want.Normalize()
		if diff := cmp.Diff(want, &back); diff != "" {
			t.Errorf("%s does not come back from JSON as it was:\n%s", name, diff)
		}
	}
}

func anyJSON(t *testing.T, b []byte) any {
	t.Helper()
	var v any
	if err := json.Unmarshal(b, &v); err != nil {
		t.Fatal(err)
	}
	return v
}

// TestSchemaRefuses: the schema is no rubber stamp.
func TestSchemaRefuses(t *testing.T) {
	schema, _ := reportSchema(t)
	g := goldens(t)["typical"]
	good := string(write(t, "json", g.report, Options{}))
	for _, edit := range [][2]string{
		{`"verdict": "unused"`, `"verdict": "maybe"`},
		{`"how": "mention"`, `"how": "guess"`},
		{`"action": "issue"`, `"action": "burn"`},
		{`"reason": "MissingSecret"`, `"reason": "Missing"`},
		{`"takenAt": "2026-11-23T11:14:00Z"`, `"takenAt": "yesterdayZ"`},
		{`"takenAt": "2026-11-23T11:14:00Z"`, `"takenAt": "2026-11-23T12:14:00+01:00"`},
		{`"kind": "Report"`, `"kind": "List"`},
		{`"related": []`, `"related": null`},
		{`"drainSeconds": 15`, `"drainSeconds": -1`},
		{`"unused": 17`, `"nonsense": 17`},
		{`"certificates": 64,`, ``},
	} {
		bad := strings.Replace(good, edit[0], edit[1], 1)
		if bad == good {
			t.Errorf("the report holds no %s", edit[0])
		} else if err := validate(t, schema, []byte(bad)); err == nil {
			t.Errorf("the schema takes %s", edit[1])
		}
	}
}

// TestSchemaIsComplete compares the schema with the structs: each field is
// there, described, and required unless it may be left out.
func TestSchemaIsComplete(t *testing.T) {
	_, text := reportSchema(t)
	type object struct {
		Description string
		Required    []string
		Properties  map[string]struct {
			Ref         string `json:"$ref"`
			Description string
		}
		Ref string `json:"$ref"`
	}
	var schema struct {
		object
		Defs map[string]object `json:"$defs"`
	}
	if err := json.Unmarshal(text, &schema); err != nil {
		t.Fatal(err)
	}
	schema.Defs["Report"] = schema.object
	seen := map[string]bool{}
	var check func(reflect.Type)
	check = func(typ reflect.Type) {
		for typ.Kind() == reflect.Pointer || typ.Kind() == reflect.Slice {
			typ = typ.Elem()
		}
		if typ.Kind() != reflect.Struct || typ.PkgPath() == "time" || seen[typ.Name()] {
			return
		}
		seen[typ.Name()] = true
		def, ok := schema.Defs[typ.Name()]
		if !ok {
			t.Errorf("the schema has no $defs/%s", typ.Name())
			return
		}
		if def.Description == "" {
			t.Errorf("%s has no description", typ.Name())
		}
		var names, required []string
		for f := range typ.Fields() {
			name, option, _ := strings.Cut(f.Tag.Get("json"), ",")
			names = append(names, name)
			if option != "omitempty" {
				required = append(required, name)
			}
			p := def.Properties[name]
			if p.Description == "" && schema.Defs[strings.TrimPrefix(p.Ref, "#/$defs/")].Description == "" {
				t.Errorf("%s.%s has no description", typ.Name(), name)
			}
			check(f.Type)
		}
		var have []string
		for name := range def.Properties {
			have = append(have, name)
		}
		slices.Sort(names)
		slices.Sort(have)
		slices.Sort(required)
		slices.Sort(def.Required)
		if diff := cmp.Diff(names, have); diff != "" {
			t.Errorf("%s: properties differ from the struct:\n%s", typ.Name(), diff)
		}
		if diff := cmp.Diff(required, def.Required); diff != "" {
			t.Errorf("%s: required differs from the struct:\n%s", typ.Name(), diff)
		}
	}
	check(reflect.TypeFor[Report]())
}

// oasisSchema is the official JSON schema of SARIF 2.1.0, as go-sarif carries
// it in its source.
func oasisSchema(t *testing.T) *jsonschema.Schema {
	t.Helper()
	dir, err := exec.Command("go", "list", "-f", "{{.Dir}}", "github.com/owenrumney/go-sarif/v3/pkg/report/v210/sarif").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	file, err := parser.ParseFile(token.NewFileSet(), filepath.Join(strings.TrimSpace(string(dir)), "schema.go"), nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	text := ""
	ast.Inspect(file, func(n ast.Node) bool {
		if l, ok := n.(*ast.BasicLit); ok && l.Kind == token.STRING && len(l.Value) > len(text) {
			text, err = strconv.Unquote(l.Value)
		}
		return true
	})
	if err != nil || !strings.Contains(text, "sarif-schema-2.1.0.json") {
		t.Fatalf("no SARIF schema in go-sarif: %v", err)
	}
	return compileSchema(t, "sarif-schema-2.1.0.json", []byte(text))
}

func TestSARIF(t *testing.T) {
	schema := oasisSchema(t)
	if err := validate(t, schema, []byte(`{"version":"2.1.0","runs":[{"results":[]}]}`)); err == nil {
		t.Fatal("the schema takes a run without a tool: it checks nothing")
	}
	for name, g := range goldens(t) {
		for _, rules := range [][]Rule{nil, g.rules} {
			out := write(t, "sarif", g.report, Options{Rules: rules, Version: "v1.2.3"})
			if err := validate(t, schema, out); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			// Read by a parser of other people, and compared with what went in.
			log, err := sarif.FromBytes(out, sarif.WithStrictValidation())
			if err != nil {
				t.Fatal(err)
			}
			run := log.Runs[0]
			if len(run.Results) != len(g.report.Findings) || len(run.Invocations[0].ToolExecutionNotifications) != len(g.report.Gaps) {
				t.Errorf("%s: %d results and %d notifications for %d findings and %d gaps", name, len(run.Results),
					len(run.Invocations[0].ToolExecutionNotifications), len(g.report.Findings), len(g.report.Gaps))
			}
			for _, rule := range rules {
				if !slices.ContainsFunc(run.Tool.Driver.Rules, func(r *sarif.ReportingDescriptor) bool { return *r.ID == rule.Reason }) {
					t.Errorf("%s: the rule %s is missing", name, rule.Reason)
				}
			}
			var got, want []string
			prints := map[string]bool{}
			for _, r := range run.Results {
				place := r.Locations[0]
				got = append(got, *r.RuleID+" "+*place.LogicalLocations[0].FullyQualifiedName)
				uri := *place.PhysicalLocation.ArtifactLocation.URI
				if !regexp.MustCompile(`^kubernetes(/[A-Za-z0-9._~!$&'()*+,;=:@%-]+){3}\.yaml$`).MatchString(uri) || strings.Contains(uri, "..") {
					t.Errorf("%s: artifact %q", name, uri)
				}
				if *run.Tool.Driver.Rules[r.RuleIndex].ID != *r.RuleID {
					t.Errorf("%s: rule %d is not %s", name, r.RuleIndex, *r.RuleID)
				}
				print := r.PartialFingerprints["primaryLocationLineHash"]
				if print == "" || prints[print] {
					t.Errorf("%s: fingerprint %q is empty or not unique", name, print)
				}
				prints[print] = true
			}
			for _, f := range g.report.Findings {
				want = append(want, f.Reason+" "+f.Object.String())
			}
			slices.Sort(got)
			slices.Sort(want)
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("%s:\n%s", name, diff)
			}
		}
	}
}

func TestSARIFLevelsComeFromTheRules(t *testing.T) {
	r := &Report{Findings: []Finding{{Reason: "A", Object: Ref{Kind: "Secret", Namespace: "n", Name: "x"}, Verdict: "unused", Message: "m"}}}
	for _, level := range []string{LevelError, LevelWarning, LevelNote} {
		log, err := sarif.FromBytes(write(t, "sarif", r, Options{Rules: []Rule{{Reason: "A", Level: level}}}))
		if err != nil {
			t.Fatal(err)
		}
		if got := log.Runs[0].Results[0].Level; got != level {
			t.Errorf("level is %s, want %s", got, level)
		}
	}
}

func TestJUnit(t *testing.T) {
	for name, g := range goldens(t) {
		out := write(t, "junit", g.report, Options{Rules: g.rules})
		suites, err := junit.Ingest(out)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		failed, skipped, passed := 0, 0, 0
		var got, want []string
		for _, s := range suites {
			failed += s.Totals.Failed
			skipped += s.Totals.Skipped
			passed += s.Totals.Passed
			for _, c := range s.Tests {
				if c.Status == junit.StatusFailed {
					got = append(got, s.Name+" "+c.Name+" "+c.Message)
				}
			}
		}
		found := map[string]bool{}
		for _, f := range g.report.Findings {
			found[f.Reason] = true
			want = append(want, xmlText(f.Reason+" "+f.Object.String()+" "+f.Message))
		}
		fine := 0
		for _, r := range g.rules {
			if !found[r.Reason] {
				fine++
			}
		}
		if failed != len(g.report.Findings) || skipped != len(g.report.Gaps) || passed != fine {
			t.Errorf("%s: %d failed, %d skipped, %d passed; want %d, %d, %d", name, failed, skipped, passed,
				len(g.report.Findings), len(g.report.Gaps), fine)
		}
		slices.Sort(got)
		slices.Sort(want)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s:\n%s", name, diff)
		}
	}
	suites, err := junit.Ingest(write(t, "junit", &Report{}, Options{}))
	if err != nil || len(suites) != 1 || suites[0].Totals.Passed != 1 {
		t.Errorf("an empty report without rules: %v, %v", suites, err)
	}
}

func TestCSV(t *testing.T) {
	for name, g := range goldens(t) {
		checkCSV(t, name, g.report)
	}
}

func checkCSV(t testing.TB, name string, r *Report) {
	t.Helper()
	out := write(t, "csv", r, Options{})
	rows, err := csv.NewReader(bytes.NewReader(out)).ReadAll()
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	if len(rows) != 1+len(r.Findings) {
		t.Errorf("%s: %d rows for %d findings", name, len(rows), len(r.Findings))
	}
	for _, row := range rows {
		for _, cell := range row {
			if c := strings.TrimLeft(cell, " \t\r\n\u00a0"); c != "" && strings.ContainsAny(c[:1], "=+-@") {
				t.Errorf("%s: a spreadsheet takes %q for a formula", name, cell)
			}
		}
	}
}

// tableCells renders Markdown as GitHub does, with a renderer of other people,
// and gives the text of each cell of each table's body.
func tableCells(t testing.TB, md []byte) [][]string {
	t.Helper()
	var page bytes.Buffer
	// Raw HTML stays, because GitHub keeps the elements that a report uses.
	if err := goldmark.New(goldmark.WithExtensions(extension.GFM), goldmark.WithRendererOptions(html.WithUnsafe())).Convert(md, &page); err != nil {
		t.Fatal(err)
	}
	doc, err := xhtml.Parse(&page)
	if err != nil {
		t.Fatal(err)
	}
	allowed := []string{"html", "head", "body", "h2", "p", "table", "thead", "tbody", "tr", "th", "td", "details", "summary", "code", "br", "blockquote", "ul", "li", "strong", "a"}
	var rows [][]string
	for n := range doc.Descendants() {
		if n.Type != xhtml.ElementNode {
			continue
		}
		if !slices.Contains(allowed, n.Data) {
			t.Errorf("an element <%s> got into the page", n.Data)
		}
		for _, a := range n.Attr {
			if a.Key != "align" && a.Key != "style" && (a.Key != "href" || !regexp.MustCompile(`^(https?|ftp|mailto):`).MatchString(a.Val)) {
				t.Errorf("an attribute %s=%q got into the page", a.Key, a.Val)
			}
		}
		if n.Data == "tr" && n.Parent.Data == "tbody" {
			var cells []string
			for c := range n.ChildNodes() {
				if c.Type == xhtml.ElementNode {
					var text strings.Builder
					for d := range c.Descendants() {
						if d.Type == xhtml.TextNode {
							text.WriteString(d.Data)
						}
					}
					cells = append(cells, text.String())
				}
			}
			rows = append(rows, cells)
		}
	}
	return rows
}

func TestMarkdown(t *testing.T) {
	for name, g := range goldens(t) {
		checkMarkdown(t, name, g.report)
	}
}

func checkMarkdown(t testing.TB, name string, r *Report) {
	t.Helper()
	var got, want []string
	for _, row := range tableCells(t, write(t, "markdown", r, Options{})) {
		if len(row) == 4 {
			got = append(got, oneLine(row[1])+" "+oneLine(row[2]))
		}
	}
	for _, f := range r.Findings {
		want = append(want, oneLine(visible(f.Object.String()))+" "+oneLine(visible(f.Message)))
	}
	slices.Sort(got)
	slices.Sort(want)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s: Markdown does not show what was found:\n%s", name, diff)
	}
}

// checkTable: every line fits a terminal that is wide enough for the totals, and nothing in it can steer a terminal.
func checkTable(t testing.TB, name string, r *Report) {
	t.Helper()
	for _, width := range []int{72, 80, 120, 200} {
		for line := range strings.Lines(string(write(t, "table", r, Options{Width: width}))) {
			line = strings.TrimSuffix(line, "\n")
			if w := runewidth.StringWidth(line); w > width {
				t.Errorf("%s: a line of %d columns in a terminal of %d: %q", name, w, width, line)
			}
		}
	}
	for _, format := range []string{"table", "wide"} {
		for _, c := range string(write(t, format, r, Options{})) {
			if c != '\n' && (unicode.IsControl(c) || unicode.Is(unicode.Bidi_Control, c)) {
				t.Fatalf("%s: %U in the %s", name, c, format)
			}
		}
	}
}

func TestTable(t *testing.T) {
	for name, g := range goldens(t) {
		if name != "nasty" { // one gap there is a word longer than a line
			checkTable(t, name, g.report)
		}
	}
	color := regexp.MustCompile("\x1b\\[[0-9;]*m")
	g := goldens(t)["typical"]
	plain := write(t, "table", g.report, Options{Rules: g.rules, Width: 90})
	colored := write(t, "table", g.report, Options{Rules: g.rules, Width: 90, Color: true})
	if !bytes.Equal(plain, color.ReplaceAll(colored, nil)) || bytes.Equal(plain, colored) {
		t.Error("colours change more than colours, or nothing")
	}
}

func TestTableSaysWhatItLeavesOut(t *testing.T) {
	r := &Report{}
	for i := range 47 {
		r.Findings = append(r.Findings, Finding{Reason: "OrphanedSecret", Verdict: "unused", Object: Ref{Kind: "Secret", Namespace: "n", Name: fmt.Sprintf("s%02d", i)}})
	}
	table, wide := string(write(t, "table", r, Options{})), string(write(t, "wide", r, Options{}))
	if !strings.Contains(table, "… and 37 more (use -o wide or json)") || strings.Count(table, "Secret/n/") != 10 {
		t.Error(table)
	}
	if strings.Contains(wide, "more") || strings.Count(wide, "Secret/n/") != 47 {
		t.Error(wide)
	}
}

// FuzzEscaping puts any text where a cluster may put it.
func FuzzEscaping(f *testing.F) {
	for _, s := range []string{"plain", "a|b", "`x`", "<b>&amp;", "=1+1", "\x1b[2J", "\u202e", "[a](b)", "\\|", "a\nb", "\xff", "证", "- x", "1. x", "***", "http://x/|", "www.a.b|c", "&#124;", "<!--", "-->", "@me #1", "~~x~~", " x ", "]]>"} {
		f.Add(s, s)
	}
	f.Fuzz(func(t *testing.T, name, message string) {
		if len(name) > 300 || len(message) > 1000 || !utf8.ValidString(name) || !utf8.ValidString(message) {
			t.Skip()
		}
		r := &Report{Findings: []Finding{{Reason: "OrphanedSecret", Object: Ref{Kind: "Secret", Namespace: "n", Name: name}, Verdict: "unknown",
			Message: message, Evidence: []Evidence{{From: Ref{Kind: "ConfigMap", Namespace: "n", Name: name}, Field: message, How: "mention"}}}}}
		checkCSV(t, "fuzz", r)
		checkMarkdown(t, "fuzz", r)
		checkTable(t, "fuzz", r)
		if _, err := junit.Ingest(write(t, "junit", r, Options{})); err != nil {
			t.Error(err)
		}
		page, err := xhtml.Parse(bytes.NewReader(write(t, "html", r, Options{})))
		if err != nil {
			t.Fatal(err)
		}
		scripts := 0
		for n := range page.Descendants() {
			if n.Type == xhtml.ElementNode && n.Data == "script" {
				scripts++
			}
		}
		if scripts != 1 {
			t.Errorf("the page has %d scripts", scripts)
		}
	})
}
