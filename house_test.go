package certherd_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// These tests hold the rules of the house: which package may import which, what
// the pure ones keep out, and how things are called.

const module = "github.com/certherd/certherd"

// layers are the packages in the order of a round. A package imports packages of
// its own layer only where it is below them, and of earlier layers; never of a
// later one.
var layers = [][]string{
	{"api"},
	{"inventory"},
	{"plan"},
	{"cost"},
	{"gc", "consolidate", "gate", "batch", "renew", "explain", "carry"},
	{"apply", "report", "simulate"},
	{"controller"},
	{"cmd"},
}

// beside are packages that hang off cmd or are used by tests alone, outside of the
// layers: nothing in the layers but controller and cmd may import them.
var beside = []string{"caa", "config", "gateway", "leader", "notify", "proposal", "service", "relay", "steady", "tracing", "web", "e2e", "bench", "examples", "manifests", "charts"}

// pure packages decide from what they are given: same input, same bytes.
var pure = []string{"api/v1alpha1", "inventory", "plan", "cost", "gc", "consolidate", "gate", "batch", "renew", "explain", "carry", "simulate", "relay/pace", "relay/shape"}

// impure is what a pure package must not import, itself or what is below it.
var impure = []string{"k8s.io/client-go", "go.uber.org/zap", "net/http", "os", "log", "log/slog"}

// goPackage is what go list tells of a package.
type goPackage struct {
	ImportPath, Dir, Doc      string
	GoFiles                   []string
	Imports                   []string
	TestGoFiles, XTestGoFiles []string
	TestImports, XTestImports []string
	Error                     *struct{ Err string }
}

// path is the package's folder within the module.
func (p goPackage) path() string {
	return strings.TrimPrefix(strings.TrimPrefix(p.ImportPath, module), "/")
}

// top is the first element of a path.
func top(path string) string {
	first, _, _ := strings.Cut(path, "/")
	return first
}

func packages(t *testing.T) []goPackage {
	t.Helper()
	cmd := exec.Command("go", "list", "-e", "-json=ImportPath,Dir,Doc,GoFiles,Imports,TestGoFiles,XTestGoFiles,TestImports,XTestImports,Error", "./...")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, stderr.Bytes())
	}
	var list []goPackage
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p goPackage
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		list = append(list, p)
	}
	return list
}

// layerOf returns the layer of a package's folder, -1 for none.
func layerOf(path string) int {
	return slices.IndexFunc(layers, func(l []string) bool { return slices.Contains(l, top(path)) })
}

// isPure reports whether a folder is of a pure package. Below a pure package
// there may be impure ones, as inventory/live is, which the pure one does not
// import.
func isPure(path string) bool { return slices.Contains(pure, path) }

// TestEveryPackageHasAPlace: a package in a new or renamed folder has to be
// given its place in the lists above, and so cannot escape the other tests.
func TestEveryPackageHasAPlace(t *testing.T) {
	seen := map[string]bool{}
	for _, p := range packages(t) {
		path := p.path()
		if path == "" {
			continue
		}
		seen[top(path)] = true
		if layerOf(path) < 0 && !slices.Contains(beside, top(path)) && !slices.Contains(pure, top(path)) && top(path) != "internal" && top(path) != "docs" && top(path) != "tools" {
			t.Errorf("%s has no place: add it to layers, beside or pure in house_test.go", path)
		}
	}
	var there, missing []string
	for _, name := range slices.Sorted(slices.Values(slices.Concat(slices.Concat(layers...), beside))) {
		if seen[name] {
			there = append(there, name)
		} else {
			missing = append(missing, name)
		}
	}
	t.Logf("checked: %s", strings.Join(there, " "))
	t.Logf("not there: %s", strings.Join(missing, " "))
	for _, name := range []string{"inventory", "report"} {
		if !seen[name] {
			t.Errorf("there is no package %s: if it was renamed, rename it here", name)
		}
	}
}

// importFault says what is wrong with one package of the module importing
// another, empty if nothing is. Both are folders.
func importFault(from, to string) string {
	l, m := layerOf(from), layerOf(to)
	switch {
	case l < 0:
		return ""
	case top(from) == top(to):
		if isPure(from) && !isPure(to) && !strings.HasPrefix(to, from+"/internal/") {
			return "a pure package imports one that may not be"
		}
	case slices.Contains(beside, top(to)):
		if top(from) != "controller" && top(from) != "cmd" {
			return "it hangs off cmd"
		}
	case m > l:
		return "it comes later in a round"
	case m == l:
		return "it stands beside"
	}
	return ""
}

func TestImportsRunOneWay(t *testing.T) {
	for _, tc := range []struct {
		from, to string
		fault    bool
	}{
		{"gc", "inventory", false}, {"gc", "plan", false}, {"gc", "consolidate", true}, {"consolidate", "gc", true},
		{"inventory", "plan", true}, {"inventory", "inventory/live", true}, {"inventory/live", "inventory", false},
		{"plan", "gate", true}, {"gate", "config", true}, {"cmd/certherd", "config", false}, {"report", "controller", true},
		{"controller", "apply", false}, {"e2e/stack", "cmd", false}, {"plan", "e2e/stack", true},
	} {
		if fault := importFault(tc.from, tc.to); (fault != "") != tc.fault {
			t.Errorf("%s importing %s: %q", tc.from, tc.to, fault)
		}
	}
	for _, p := range packages(t) {
		for _, imported := range p.Imports {
			if to, ok := strings.CutPrefix(imported, module+"/"); ok {
				if fault := importFault(p.path(), to); fault != "" {
					t.Errorf("%s imports %s: %s", p.path(), to, fault)
				}
			}
		}
	}
}

func TestPurePackagesStayPure(t *testing.T) {
	checked := 0
	for _, p := range packages(t) {
		if !isPure(p.path()) {
			continue
		}
		checked++
		for _, imported := range p.Imports {
			for _, bad := range impure {
				if imported == bad || strings.HasPrefix(imported, bad+"/") {
					t.Errorf("%s imports %s", p.path(), imported)
				}
			}
		}
		fset := token.NewFileSet()
		for _, name := range p.GoFiles {
			f, err := parser.ParseFile(fset, filepath.Join(p.Dir, name), nil, parser.SkipObjectResolution)
			if err != nil {
				t.Fatal(err)
			}
			for _, use := range clockUses(f) {
				t.Errorf("%s: reads the clock with time.%s", fset.Position(use.Pos()), use.Name)
			}
		}
	}
	if checked == 0 {
		t.Error("no pure package was found")
	}
}

// TestAuditLinksNoRelay: the protocol buffers of xDS and gRPC are megabytes that an
// audit has no use for. The relay is a binary of its own, which certherd starts.
func TestAuditLinksNoRelay(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", "./cmd/certherd").Output()
	if err != nil {
		t.Fatal(err)
	}
	deps := strings.Fields(string(out))
	if !slices.Contains(deps, module+"/inventory") {
		t.Fatal("the packages of cmd/certherd were not listed")
	}
	for _, dep := range deps {
		if strings.HasPrefix(dep, "github.com/envoyproxy/") || strings.HasPrefix(dep, module+"/relay") {
			t.Errorf("cmd/certherd links %s: it belongs into cmd/certherd-relay", dep)
		}
	}
}

// clockUses are the functions of package time in a file that depend on when they
// are called.
func clockUses(f *ast.File) []*ast.Ident {
	name := ""
	for _, i := range f.Imports {
		if path, _ := strconv.Unquote(i.Path.Value); path == "time" {
			if name = "time"; i.Name != nil {
				name = i.Name.Name
			}
		}
	}
	var uses []*ast.Ident
	ast.Inspect(f, func(n ast.Node) bool {
		sel, ok := n.(*ast.SelectorExpr)
		if !ok {
			return true
		}
		if x, ok := sel.X.(*ast.Ident); ok && name != "" && x.Name == name {
			switch sel.Sel.Name {
			case "Now", "Since", "Until", "Sleep", "After", "AfterFunc", "Tick", "NewTicker", "NewTimer":
				uses = append(uses, sel.Sel)
			}
		}
		return true
	})
	return uses
}

func TestClockUsesAreSeen(t *testing.T) {
	f, err := parser.ParseFile(token.NewFileSet(), "x.go", `package x
import clock "time"
var a, b = clock.Now(), clock.Since
var c = clock.Second
`, 0)
	if err != nil {
		t.Fatal(err)
	}
	if n := len(clockUses(f)); n != 2 {
		t.Errorf("%d uses of the clock, want 2", n)
	}
}

func TestEveryPackageIsDocumented(t *testing.T) {
	for _, p := range packages(t) {
		if len(p.GoFiles) > 0 && p.Doc == "" {
			t.Errorf("%s has no package comment", p.ImportPath)
		}
	}
}

func TestPackagesAreNamedForWhatTheyDo(t *testing.T) {
	for _, p := range packages(t) {
		for part := range strings.SplitSeq(p.path(), "/") {
			switch strings.TrimSuffix(part, "s") {
			case "manager", "helper", "util", "common", "misc":
				t.Errorf("%s: %s says nothing", p.ImportPath, part)
			}
		}
	}
}

// privatePaths are folders of some machine, which mean nothing to a reader.
var privatePaths = regexp.MustCompile(`(^|[\s"'` + "`" + `(=:])/(work|root|home/[a-z]+|Users/[A-Za-z]+|tmp/brief)/`)

func TestFilesNameNoPrivatePaths(t *testing.T) {
	for text, want := range map[string]bool{"cd /wor" + "k/main": true, "at /roo" + "t/x": true, "/workspace/x": false, "a/work/b": false, "https://x/root/y": false} {
		if privatePaths.MatchString(text) != want {
			t.Fatalf("a private path in %q: %v, want %v", text, !want, want)
		}
	}
	files := 0
	for _, name := range tracked(t) {
		b, err := os.ReadFile(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue // removed, and not yet committed
		}
		if err != nil {
			t.Error(err)
			continue
		}
		if bytes.IndexByte(b[:min(len(b), 8000)], 0) >= 0 || len(b) > 4<<20 {
			continue
		}
		files++
		for i, line := range bytes.Split(b, []byte("\n")) {
			if m := privatePaths.Find(line); m != nil && !bytes.Contains(m, []byte("/somebody/")) {
				t.Errorf("%s:%d: %s", name, i+1, m)
			}
		}
	}
	if files < 20 {
		t.Errorf("only %d files were looked at", files)
	}
}

// tracked are the files of the repository, or of its folder where there is no
// git.
func tracked(t *testing.T) []string {
	t.Helper()
	if out, err := exec.Command("git", "ls-files", "-z").Output(); err == nil && len(out) > 0 {
		return strings.FieldsFunc(string(out), func(r rune) bool { return r == 0 })
	}
	var names []string
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			names = append(names, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// TestModulesReplaceNothing: go install refuses a module with replacements. Those
// of the test stack may pin versions, as Kubernetes itself does with its parts,
// but take nothing from a folder or a fork.
func TestModulesReplaceNothing(t *testing.T) {
	found := 0
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.Name() != "go.mod" {
			return err
		}
		found++
		out, err := exec.Command("go", "mod", "edit", "-json", path).Output()
		if err != nil {
			return err
		}
		var mod struct {
			Replace []struct {
				Old, New struct{ Path, Version string }
			}
		}
		if err := json.Unmarshal(out, &mod); err != nil {
			return err
		}
		for _, r := range mod.Replace {
			if !strings.HasPrefix(filepath.ToSlash(path), "e2e/") || r.Old.Path != r.New.Path || r.New.Version == "" {
				t.Errorf("%s replaces %s by %s", path, r.Old.Path, r.New.Path)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if found == 0 {
		t.Error("no go.mod was found")
	}
}

// TestPromisesHaveTheirTests: docs/safety.md names the tests of each promise, after
// their package.
func TestPromisesHaveTheirTests(t *testing.T) {
	text, err := os.ReadFile("docs/safety.md")
	if err != nil {
		t.Fatal(err)
	}
	row := regexp.MustCompile("`([a-z0-9/]+)`: |\\b(Test[A-Z]\\w+)(\\.\\.\\.)?")
	found := 0
	for _, line := range strings.Split(string(text), "\n") {
		folder := ""
		for _, m := range row.FindAllStringSubmatch(line, -1) {
			if m[1] != "" {
				folder = m[1]
				continue
			}
			found++
			end := "("
			if m[3] != "" {
				end = ""
			}
			if !declares(t, folder, "func "+m[2]+end) {
				t.Errorf("docs/safety.md names %s of %q, which has no such test", m[2], folder)
			}
		}
	}
	if found == 0 {
		t.Error("docs/safety.md names no test")
	}
}

// declares says whether a test file of a package has a text.
func declares(t *testing.T, folder, text string) bool {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(folder, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	return slices.ContainsFunc(files, func(file string) bool {
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		return bytes.Contains(content, []byte("\n"+text))
	})
}
