package service

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	"go.uber.org/zap"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/certherd/certherd/config"
	"github.com/certherd/certherd/gate"
	"github.com/certherd/certherd/inventory"
	"github.com/certherd/certherd/report"
	"github.com/certherd/certherd/web"
)

// idle is a Service that nobody runs.
func idle(t *testing.T) *Service {
	t.Helper()
	o := Defaults()
	o.Namespace, o.Cluster, o.Version = "certherd", &rest.Config{Host: "http://127.0.0.1:1"}, "v0.0.0"
	o.Leader.Name, o.Leader.Identity = "certherd", "a"
	o.Look = func(context.Context) (*inventory.Snapshot, error) { return nil, errors.New("there is no cluster") }
	o.Rules = []report.Rule{{Reason: "MissingSecret", Level: report.LevelError}, {Reason: "OrphanedSecret", Level: report.LevelWarning}}
	o.Pprof = true
	s, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func example() report.Report {
	return report.Report{
		TakenAt:  time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC),
		Summary:  report.Summary{Certificates: 3, Secrets: 4, Verdicts: map[string]int{"unused": 2}, Findings: map[string]int{"OrphanedSecret": 1, "MissingSecret": 1}},
		Gateways: []report.Gateway{{Object: report.Ref{Group: "apps", Kind: "Deployment", Namespace: "kourier-system", Name: "3scale-kourier-gateway"}, MemoryMiB: report.Memory{Now: 100, Limit: 800}}},
		Findings: []report.Finding{
			{Reason: "OrphanedSecret", Verdict: "unused", Object: report.Ref{Kind: "Secret", Namespace: "team-a", Name: "web-tls"}},
			{Reason: "MissingSecret", Object: report.Ref{Group: "networking.k8s.io", Kind: "Ingress", Namespace: "team-a", Name: "web"}},
		},
		Gaps: []report.Gap{{Kind: "thing.example.com", Reason: "forbidden"}},
	}
}

func get(t *testing.T, h http.Handler, method, path, from, body string) *httptest.ResponseRecorder {
	t.Helper()
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	r.RemoteAddr = from
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func TestHTTP(t *testing.T) {
	s := idle(t)
	h := s.handler()
	const within, outside = "127.0.0.1:4711", "10.0.0.7:4711"
	expect := func(method, path, from, body string, code int, holds string) {
		t.Helper()
		if w := get(t, h, method, path, from, body); w.Code != code || !strings.Contains(w.Body.String(), holds) {
			t.Errorf("%s %s from %s: %d %q, want %d with %q", method, path, from, w.Code, w.Body, code, holds)
		}
	}
	expect("GET", "/healthz", outside, "", 200, "ok")
	expect("GET", "/readyz", outside, "", 503, "ConfigMap")
	expect("GET", "/report", outside, "", 503, "first look")
	expect("GET", "/", outside, "", 200, "Starting")
	expect("GET", "/metrics", outside, "", 200, "certherd_leader 0")
	s.take(nil)
	expect("GET", "/readyz", outside, "", 503, "first look")
	show(t, s, example())
	expect("GET", "/readyz", outside, "", 200, "ok")
	expect("GET", "/report", outside, "", 200, "<html")
	expect("GET", "/report.json", outside, "", 200, `"web-tls"`)
	expect("GET", "/", outside, "", 200, "All quiet")
	expect("GET", "/", outside, "", 200, "MissingSecret")
	expect("POST", "/decide", outside, "do=approve", 404, "")
	expect("POST", "/report.json", outside, "", 405, "")
	expect("GET", "/nothing", outside, "", 404, "")
	expect("GET", "/loglevel", outside, "", 200, "info")
	expect("PUT", "/loglevel", outside, `{"level":"debug"}`, 403, "port-forward")
	expect("PUT", "/loglevel", within, `{"level":"debug"}`, 200, "debug")
	expect("PUT", "/loglevel", within, `{"level":"loud"}`, 400, "")
	if l := s.o.Level.Level(); l != zap.DebugLevel {
		t.Errorf("the level is %s", l)
	}
	expect("GET", "/debug/pprof/", outside, "", 403, "")
	expect("GET", "/debug/pprof/", within, "", 200, "goroutine")
	s.o.Pprof = false
	h = s.handler()
	expect("GET", "/debug/pprof/", within, "", 404, "")
	s.began.Store(time.Now().Add(-3 * s.o.RoundTimeout).UnixNano())
	expect("GET", "/healthz", outside, "", 500, "under way")
	s.o.Page = web.Private
	h = s.handler()
	expect("GET", "/", outside, "", 303, "")
	expect("GET", "/report", outside, "", 401, "sign in")
	expect("GET", "/report.json", within, "", 401, "sign in")
	expect("GET", "/sign-in", within, "", 200, "Token of a Kubernetes account")
	expect("GET", "/readyz", outside, "", 200, "ok")
	s.ending.Store(true)
	expect("GET", "/readyz", outside, "", 503, "ending")
}

func TestMetricsFollowConventions(t *testing.T) {
	s := idle(t)
	s.take(nil)
	show(t, s, example())
	s.metrics.actions.WithLabelValues("delete", "done").Inc()
	text := get(t, s.handler(), "GET", "/metrics", "127.0.0.1:1", "").Body.String()
	problems, err := promlint.New(strings.NewReader(text)).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
	for _, line := range []string{
		`certherd_findings{reason="OrphanedSecret",verdict="unused"} 1`, `certherd_findings{reason="MissingSecret",verdict=""} 1`,
		`certherd_certificates 3`, `certherd_secrets 4`, `certherd_gaps 1`, `certherd_config_valid 1`, `certherd_round_total{result="failed"} 0`,
		`certherd_gateway_memory_bytes{gateway="Deployment/kourier-system/3scale-kourier-gateway",kind="limit"} 8.388608e+08`,
		`certherd_gateway_certificates{when="after"} 0`, `certherd_actions_total{action="delete",result="done"} 1`,
	} {
		if !strings.Contains(text, line+"\n") {
			t.Errorf("there is no %s in\n%s", line, text)
		}
	}
	if strings.Contains(text, "web-tls") || strings.Contains(text, "team-a") {
		t.Error("a metric names an object")
	}
}

func TestConfiguration(t *testing.T) {
	version := 0
	cm := func(data map[string]string) *corev1.ConfigMap {
		version++
		return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{UID: "u", ResourceVersion: fmt.Sprint(version)}, Data: data}
	}
	file := func(text string) *corev1.ConfigMap { return cm(map[string]string{config.ConfigMapKey: text}) }
	s := idle(t)
	for _, step := range []struct {
		what    string
		cm      *corev1.ConfigMap
		mode    gate.Mode
		problem string
	}{
		{"bad from the start", file("gc: {mode: often}"), gate.Audit, "gc.mode"},
		{"good", file("gc: {mode: propose}"), gate.Propose, ""},
		{"unknown key", file("gc: {mode: audit}\ngrabage: 1"), gate.Propose, "grabage"},
		{"another file name", cm(map[string]string{"config.yml": "gc: {mode: audit}"}), gate.Propose, "config.yml"},
		{"two files", cm(map[string]string{config.ConfigMapKey: "", "extra": ""}), gate.Propose, "extra"},
		{"emptied", cm(nil), gate.Audit, ""},
		{"good again", file("gc: {mode: enforce}"), gate.Enforce, ""},
		{"binary", &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{UID: "b"}, BinaryData: map[string][]byte{"x": {1}}}, gate.Enforce, "binaryData"},
		{"deleted", nil, gate.Audit, ""},
	} {
		s.take(step.cm)
		c := s.config.Load()
		if c.GC.Mode != step.mode {
			t.Errorf("%s: mode %s, want %s", step.what, c.GC.Mode, step.mode)
		}
		if (c.problem == nil) != (step.problem == "") || c.problem != nil && !strings.Contains(c.problem.Error(), step.problem) {
			t.Errorf("%s: problem %v, want one with %q", step.what, c.problem, step.problem)
		}
	}
}

// show publishes a report as a round does.
func show(t *testing.T, s *Service, r report.Report) {
	t.Helper()
	p, err := publish(&r, report.Options{})
	if err != nil {
		t.Fatal(err)
	}
	s.newest.Store(p)
}

func packedWhole(t *testing.T, r *report.Report) []byte {
	t.Helper()
	b, err := pack(r)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestPublished: what is kept of a report says the same as the report, in every form
// and again when it is asked for again.
func TestPublished(t *testing.T) {
	r := example()
	o := report.Options{Version: "v1"}
	p, err := publish(&r, o)
	if err != nil {
		t.Fatal(err)
	}
	for _, format := range []string{"json", "html", "json", "html"} {
		var want bytes.Buffer
		if err := report.Write(&want, format, &r, o); err != nil {
			t.Fatal(err)
		}
		if got, err := p.as(format); err != nil || !bytes.Equal(got, want.Bytes()) {
			t.Errorf("%s differs from what was reported (%v):\n%s\nwant\n%s", format, err, got, want.Bytes())
		}
	}
	if len(p.outline.Findings)+len(p.outline.Changes) > 0 {
		t.Error("findings and changes are kept twice")
	}
	n := 0
	for _, x := range p.findings {
		n += x
	}
	if n != len(r.Findings) {
		t.Errorf("%d findings are counted, want %d", n, len(r.Findings))
	}
	if _, err := (&published{packed: p.packed[:len(p.packed)/2]}).whole(); err == nil {
		t.Error("half a report is a report")
	}
}

func TestStoredReportFits(t *testing.T) {
	r := example()
	packed, cut, err := fit(&r, packedWhole(t, &r), storedBytes)
	if err != nil || cut != "" {
		t.Fatalf("a small report is cut: %q, %v", cut, err)
	}
	var back report.Report
	if err := unpack(packed, storedLimit, &back); err != nil || len(back.Findings) != 2 {
		t.Fatalf("%d findings came back: %v", len(back.Findings), err)
	}
	// Random names do not compress, so that this is far too large.
	rnd := rand.New(rand.NewSource(1))
	for range 30000 {
		ref := report.Ref{Kind: "Secret", Namespace: fmt.Sprintf("%016x", rnd.Uint64()), Name: fmt.Sprintf("%016x%016x", rnd.Uint64(), rnd.Uint64())}
		r.Findings = append(r.Findings, report.Finding{Reason: "OrphanedSecret", Object: ref})
		r.Changes = append(r.Changes, report.Change{ID: fmt.Sprintf("%016x", rnd.Uint64()), Reason: "OrphanedSecret"})
		r.Namespaces = append(r.Namespaces, report.Namespace{Name: ref.Namespace})
	}
	packed, cut, err = fit(&r, packedWhole(t, &r), storedBytes)
	if err != nil || len(packed) > storedBytes || len(packed) < storedBytes/10 {
		t.Fatalf("%d bytes of at most %d: %v", len(packed), storedBytes, err)
	}
	back = report.Report{}
	if err := unpack(packed, storedLimit, &back); err != nil {
		t.Fatal(err)
	}
	if want := fmt.Sprintf("there are %d of 30002 findings, %d of 30000 changes", len(back.Findings), len(back.Changes)); !strings.HasPrefix(cut, want) {
		t.Errorf("it says %q, and %s", cut, want)
	}
	if len(r.Findings) != 30002 {
		t.Error("the report itself was cut")
	}
	if err := unpack([]byte("nonsense"), storedLimit, &back); err == nil {
		t.Error("nonsense is a report")
	}
}

func TestReportJSONKeepsItsForm(t *testing.T) {
	s := idle(t)
	show(t, s, example())
	var x map[string]any
	if err := json.Unmarshal(get(t, s.handler(), "GET", "/report.json", "127.0.0.1:1", "").Body.Bytes(), &x); err != nil {
		t.Fatal(err)
	}
	if x["kind"] != report.Kind {
		t.Errorf("kind is %v", x["kind"])
	}
}
