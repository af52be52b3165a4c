package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"k8s.io/client-go/rest"

	"github.com/certherd/certherd/controller"
	"github.com/certherd/certherd/e2e/scenario"
	"github.com/certherd/certherd/e2e/stack"
	"github.com/certherd/certherd/e2e/suite"
	"github.com/certherd/certherd/inventory"
	"github.com/certherd/certherd/inventory/live"
	"github.com/certherd/certherd/plan"
	"github.com/certherd/certherd/report"
)

// account is the ServiceAccount of manifests/cli.
const account = "system:serviceaccount:certherd:certherd-cli"

// A world is a cluster with a mess, and the means to audit it.
type world struct {
	stack    *stack.Stack
	admin    *rest.Config
	cluster  *scenario.Cluster
	truth    *scenario.Truth
	certherd string // the program
	// kubeconfig is that of account.
	kubeconfig string
}

func TestMain(m *testing.M) { os.Exit(suite.Run(m)) }

var setUp = sync.OnceValues(func() (*world, error) {
	w := &world{}
	var err error
	if w.certherd, err = suite.Program("certherd"); err != nil {
		return nil, err
	}
	w.kubeconfig = filepath.Join(filepath.Dir(w.certherd), "kubeconfig")
	ctx := context.Background()
	if w.stack, err = suite.Start(stack.Options{Level: stack.Full}); err != nil {
		return nil, err
	}
	if w.admin, err = w.stack.RESTConfig(); err != nil {
		return nil, err
	}
	if w.cluster, err = scenario.Connect(w.admin, os.Stderr); err != nil {
		return nil, err
	}
	if w.truth, err = scenario.Mess(ctx, w.admin, stack.Domain, os.Stderr); err != nil {
		return nil, err
	}
	if err := w.cluster.Install(ctx, "../manifests/cli"); err != nil {
		return nil, err
	}
	return w, w.cluster.ServiceAccount(ctx, w.admin, "certherd", "certherd-cli", w.kubeconfig)
})

// cluster returns the world that all tests share. None of them changes what
// another one looks at.
func cluster(t *testing.T) *world {
	t.Helper()
	if testing.Short() {
		t.Skip("starts the whole stack")
	}
	w, err := setUp()
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// now judges what is minutes old, as everything here is.
var now = []string{"--min-age", "0s", "--request-age", "0s"}

func options() controller.Options {
	o := controller.Defaults()
	o.GC.MinAge, o.GC.RequestAge = 0, 0
	return o
}

// run runs certherd as account and returns its standard output. What is on
// standard error is logged.
func (w *world) run(t *testing.T, args ...string) []byte {
	t.Helper()
	command := exec.CommandContext(t.Context(), w.certherd, append(args, "--kubeconfig", w.kubeconfig)...)
	var out, log bytes.Buffer
	command.Stdout, command.Stderr = &out, &log
	if err := command.Run(); err != nil {
		t.Fatalf("certherd %s: %v\n%s", strings.Join(args, " "), err, &log)
	}
	if log.Len() > 0 {
		t.Logf("certherd %s:\n%s", strings.Join(args, " "), &log)
	}
	return out.Bytes()
}

func (w *world) audit(t *testing.T, args ...string) report.Report {
	t.Helper()
	return decode(t, w.run(t, slices.Concat([]string{"audit", "-o", "json"}, now, args)...))
}

func decode(t *testing.T, content []byte) (r report.Report) {
	t.Helper()
	decoder := json.NewDecoder(bytes.NewReader(content))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&r); err != nil {
		t.Fatalf("%v in:\n%s", err, content)
	}
	return r
}

// look takes a Snapshot in this process, as a given user.
func look(ctx context.Context, config *rest.Config) (*inventory.Snapshot, error) {
	s, _, err := live.Look(ctx, config, live.Options{Proof: true, Now: time.Now})
	return s, err
}

func TestAuditFindsWhatWasPlanted(t *testing.T) {
	w := cluster(t)
	r := w.audit(t)
	type key struct {
		reason plan.Reason
		object inventory.Ref
	}
	found := map[key]report.Finding{}
	for _, f := range r.Findings {
		k := key{plan.Reason(f.Reason), inventory.Ref(f.Object)}
		if _, twice := found[k]; twice {
			t.Errorf("%s of %s is reported twice", f.Reason, f.Object)
		}
		found[k] = f
	}
	for _, p := range w.truth.Findings {
		k := key{p.Reason, p.Object}
		f, ok := found[k]
		delete(found, k)
		switch {
		case !ok:
			t.Errorf("not found: %s of %s (%s)", p.Reason, p.Object, p.Says)
		case f.Verdict != string(p.Verdict):
			t.Errorf("%s of %s has verdict %s, not %s: %s", p.Reason, p.Object, f.Verdict, p.Verdict, f.Message)
		case !strings.Contains(f.Message, p.Says):
			t.Errorf("%s of %s says %q, and not %q", p.Reason, p.Object, f.Message, p.Says)
		}
	}
	for k, f := range found {
		t.Errorf("nobody planted %s of %s (%s): %s", k.reason, k.object, f.Verdict, f.Message)
	}
	for _, g := range r.Gaps {
		t.Errorf("gap %s: %s", g.Kind, g.Reason)
	}
	if n := r.Summary.Verdicts[string(inventory.Unused)]; n != len(w.truth.Unused) {
		t.Errorf("%d Secrets and Certificates are called unused, and %d are", n, len(w.truth.Unused))
	}
}

// TestNothingInUseIsUnused asks for the verdict on every object, reported or not.
func TestNothingInUseIsUnused(t *testing.T) {
	w := cluster(t)
	s, err := look(t.Context(), w.admin)
	if err != nil {
		t.Fatal(err)
	}
	unused := map[inventory.Ref]bool{}
	for _, ref := range w.truth.Unused {
		unused[ref] = true
	}
	for _, ref := range judged(s) {
		j := s.Judge(ref)
		if ref.Group == inventory.GroupKnativeNet {
			continue // those have the verdicts of their Certificates, and no place in Truth
		}
		switch {
		case j.Verdict == inventory.Unused && !unused[ref]:
			t.Errorf("%s is called unused", ref)
		case j.Verdict != inventory.Unused && unused[ref]:
			t.Errorf("%s is called %s, and nothing uses it: %v", ref, j.Verdict, j.Evidence)
		}
		delete(unused, ref)
	}
	for ref := range unused {
		t.Errorf("%s has no verdict at all", ref)
	}
	if len(w.truth.Used) < 80 {
		t.Errorf("only %d Secrets are known to be in use", len(w.truth.Used))
	}
	for _, ref := range w.truth.Used {
		if s.Secret(ref) == nil {
			t.Errorf("%s is in use, and certherd does not know it", ref)
		}
		if j := s.Judge(ref); j.Verdict == inventory.Unused {
			t.Errorf("%s is in use, and is called unused", ref)
		}
	}
}

// judged are all objects that get a verdict.
func judged(s *inventory.Snapshot) (refs []inventory.Ref) {
	for i := range s.Secrets {
		refs = append(refs, s.Secrets[i].Ref)
	}
	for i := range s.Certificates {
		refs = append(refs, s.Certificates[i].Ref)
	}
	for i := range s.KnativeCertificates {
		refs = append(refs, s.KnativeCertificates[i].Ref)
	}
	return refs
}

func TestExplainShowsTheChain(t *testing.T) {
	w := cluster(t)
	i := slices.IndexFunc(w.truth.Findings, func(p scenario.Planted) bool { return p.Reason == plan.SupersededCertificate })
	superseded := w.truth.Findings[i].Object
	j := slices.IndexFunc(w.truth.Used, func(r inventory.Ref) bool { return r.Namespace == scenario.Shop })
	used := w.truth.Used[j]
	for _, test := range []struct {
		object string
		want   []string
	}{
		{"kcert/" + superseded.Namespace + "/" + superseded.Name, []string{
			"unused", "SupersededCertificate", "Route/news/app-", superseded.String(),
			"Certificate/news/" + superseded.Name, "Secret/news/" + superseded.Name, "Secret/news/news-wildcard",
		}},
		{"secret/" + used.Namespace + "/" + used.Name, []string{
			"used", "Route/shop/app-", "KCertificate/shop/" + used.Name, "Certificate/shop/" + used.Name, used.String(), "KIngress/shop/app-",
			"Deployment/kourier-system/3scale-kourier-gateway", "spec.tls[].secretName",
		}},
		{"kcert/" + used.Namespace + "/" + used.Name, []string{"used", "KIngress/shop/app-", "Consolidatable"}},
	} {
		got := string(w.run(t, append([]string{"explain", test.object}, now...)...))
		for _, want := range test.want {
			if !strings.Contains(got, want) {
				t.Errorf("explain %s does not say %q:\n%s", test.object, want, got)
			}
		}
	}
}

func TestDumpGivesTheSameReport(t *testing.T) {
	w := cluster(t)
	dump := filepath.Join(t.TempDir(), "dump.tar.gz")
	w.run(t, "dump", "--output", dump)
	got, want := w.audit(t, "-f", dump), w.audit(t)
	if got.TakenAt.IsZero() || got.TakenAt.After(want.TakenAt) {
		t.Errorf("the dump was taken at %s, before the audit at %s", got.TakenAt, want.TakenAt)
	}
	got.TakenAt = want.TakenAt
	if a, b := indent(t, got), indent(t, want); a != b {
		t.Errorf("the dump says something else than the cluster:\n%s", firstDifference(a, b))
	}
	if len(got.Findings) == 0 {
		t.Error("there are no findings to compare")
	}
}

func indent(t *testing.T, r report.Report) string {
	t.Helper()
	content, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

// firstDifference shows the lines around where two texts part.
func firstDifference(a, b string) string {
	x, y := strings.Split(a, "\n"), strings.Split(b, "\n")
	for i := range min(len(x), len(y)) {
		if x[i] != y[i] {
			around := func(s []string) string { return strings.Join(s[max(0, i-8):min(len(s), i+8)], "\n") }
			return fmt.Sprintf("line %d\n%s\n--- and\n%s", i+1, around(x), around(y))
		}
	}
	return "one goes on where the other ends"
}
