package main

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	"github.com/santhosh-tekuri/jsonschema/v6"
	collectortrace "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/certherd/certherd/e2e/replica"
	"github.com/certherd/certherd/e2e/stack"
	"github.com/certherd/certherd/notify"
	"github.com/certherd/certherd/plan"
	"github.com/certherd/certherd/report"
)

// A replica is this program in a process of its own.
func init() {
	if os.Getenv("CERTHERD_TEST_REPLICA") != "" {
		main()
	}
}

// site is a cluster with replicas.
type site struct {
	*testing.T
	stack  *stack.Stack
	client *kubernetes.Clientset
	schema *jsonschema.Schema
}

const patience = 2 * time.Minute

// await tries until a condition holds. The time is only there to end a test that
// has failed.
func (s *site) await(what string, holds func() bool) {
	s.Helper()
	for end := time.Now().Add(patience); !holds(); time.Sleep(100 * time.Millisecond) {
		if time.Now().After(end) {
			s.Fatalf("after %s still not: %s", patience, what)
		}
	}
}

func (s *site) must(err error) {
	s.Helper()
	if err != nil {
		s.Fatal(err)
	}
}

// process is a running `certherd run` of a site.
type process struct {
	*replica.Process
	s *site
}

func (s *site) args(name string) []string {
	return []string{"run", "--kubeconfig", s.stack.Kubeconfig, "--namespace", "certherd", "--identity", name, "--as", name, "--as-group", "system:masters",
		"--listen", "127.0.0.1:0", "--pause", "1s", "--lease-duration", "4s", "--renew-deadline", "2500ms", "--retry-period", "500ms"}
}

func (s *site) start(name string) *process {
	s.Helper()
	cmd := exec.Command(os.Args[0], s.args(name)...)
	cmd.Env = append(os.Environ(), "CERTHERD_TEST_REPLICA=1")
	ctx, cancel := context.WithTimeout(s.Context(), patience)
	defer cancel()
	p, err := replica.Run(ctx, name, cmd)
	s.Cleanup(func() {
		p.Kill()
		if crash := p.Crash(); crash != nil {
			s.Errorf("%s has written what is no line of a log: %s", name, crash[0].Message)
		}
		if s.Failed() {
			for _, l := range p.Lines() {
				s.Log(name, l.Message, l.Fields)
			}
		}
	})
	s.must(err)
	s.await(name+" is ready", func() bool { code, _ := p.Get("/readyz"); return code == 200 })
	return &process{p, s}
}

// ended waits for the end of a replica that was told to, and fails if that was not a
// good one.
func (s *site) ended(p *process) {
	s.Helper()
	if err := p.End(); err != nil {
		s.Errorf("%s ended with %v", p.Name, err)
	}
}

// report is what /report.json says, checked against the schema.
func (r *process) report() report.Report {
	r.s.Helper()
	code, b := r.Get("/report.json")
	if code != 200 {
		r.s.Fatalf("/report.json of %s: %d %s", r.Name, code, b)
	}
	return r.s.parse(b)
}

func (s *site) parse(b []byte) (x report.Report) {
	s.Helper()
	v, err := jsonschema.UnmarshalJSON(bytes.NewReader(b))
	s.must(err)
	s.must(s.schema.Validate(v))
	s.must(json.Unmarshal(b, &x))
	return x
}

// rounds waits for n more looks.
func (r *process) rounds(n int) {
	r.s.Helper()
	for range n {
		last := r.Metric("certherd_last_round_timestamp_seconds")
		r.s.await("another round of "+r.Name, func() bool { return r.Metric("certherd_last_round_timestamp_seconds") > last })
	}
}

// configure replaces the configuration; nil deletes it.
func (s *site) configure(data map[string]string) {
	s.Helper()
	maps := s.client.CoreV1().ConfigMaps("certherd")
	cm := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "certherd"}, Data: data}
	if data == nil {
		s.must(maps.Delete(s.Context(), "certherd", metav1.DeleteOptions{}))
		return
	}
	_, err := maps.Update(s.Context(), cm, metav1.UpdateOptions{})
	if apierrors.IsNotFound(err) {
		_, err = maps.Create(s.Context(), cm, metav1.CreateOptions{})
	}
	s.must(err)
}

// writes are what a replica has written, as resource/namespace/name.
func (s *site) writes(name string) map[string]int {
	s.Helper()
	f, err := os.Open(s.stack.AuditLog)
	s.must(err)
	defer f.Close()
	out := map[string]int{}
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var e struct {
			Stage, Verb      string
			ImpersonatedUser struct{ Username string }
			ObjectRef        struct{ Namespace, Name, Resource string }
		}
		if json.Unmarshal(lines.Bytes(), &e) != nil || e.Stage != "ResponseComplete" || e.ImpersonatedUser.Username != name || slices.Contains([]string{"get", "list", "watch"}, e.Verb) {
			continue
		}
		if e.ObjectRef.Resource == "events" {
			e.ObjectRef.Namespace, e.ObjectRef.Name = "", ""
		}
		out[strings.TrimRight(e.ObjectRef.Resource+"/"+e.ObjectRef.Namespace+"/"+e.ObjectRef.Name, "/")]++
	}
	return out
}

// wroteOnly fails for every write that is not to one of those named.
func (s *site) wroteOnly(name string, allowed ...string) {
	s.Helper()
	for what, n := range s.writes(name) {
		if !slices.Contains(allowed, what) && !(what == "leases/certherd" && slices.Contains(allowed, "leases/certherd/certherd")) {
			s.Errorf("%s wrote %d times to %s", name, n, what)
		}
	}
}

func (s *site) event(namespace, reason, kind string) bool {
	list, err := s.client.CoreV1().Events(namespace).List(s.Context(), metav1.ListOptions{})
	s.must(err)
	return slices.ContainsFunc(list.Items, func(e corev1.Event) bool {
		return e.Reason == reason && e.InvolvedObject.Kind == kind && e.Source.Component == "certherd"
	})
}

// orphan is a Secret that cert-manager made for a Certificate that is gone.
func orphan() (*corev1.Secret, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"left.example.test"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		return nil, err
	}
	raw, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: "team-a", Name: "left-over-tls", Labels: map[string]string{"controller.cert-manager.io/fao": "true"}, Annotations: map[string]string{
			"cert-manager.io/certificate-name": "left-over", "cert-manager.io/issuer-name": "ca", "cert-manager.io/issuer-kind": "ClusterIssuer",
			"cert-manager.io/issuer-group": "cert-manager.io", "cert-manager.io/alt-names": "left.example.test", "cert-manager.io/common-name": "", "cert-manager.io/ip-sans": "", "cert-manager.io/uri-sans": "",
		}},
		Type: corev1.SecretTypeTLS,
		Data: map[string][]byte{
			"tls.crt": pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
			"tls.key": pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw}),
		},
	}, nil
}

// verdict of left-over-tls in a report, empty if there is no finding about it.
func verdict(r report.Report) string {
	for _, f := range r.Findings {
		if f.Reason == string(plan.OrphanedSecret) && f.Object.Name == "left-over-tls" {
			return f.Verdict
		}
	}
	return ""
}

func newSite(t *testing.T) *site {
	if testing.Short() {
		t.Skip("starts a control plane")
	}
	s := &site{T: t}
	schema, err := jsonschema.NewCompiler().Compile("../../docs/report.schema.json")
	s.must(err)
	s.schema = schema
	s.stack, err = stack.Start(t.Context(), stack.Options{Level: stack.ControlPlane, Out: os.Stderr})
	s.must(err)
	t.Cleanup(func() {
		if err := s.stack.Stop(); err != nil {
			t.Error(err)
		}
	})
	cfg, err := s.stack.RESTConfig()
	s.must(err)
	s.client = kubernetes.NewForConfigOrDie(cfg)
	for _, ns := range []string{"certherd", "team-a"} {
		_, err := s.client.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: ns}}, metav1.CreateOptions{})
		s.must(err)
	}
	secret, err := orphan()
	s.must(err)
	_, err = s.client.CoreV1().Secrets("team-a").Create(t.Context(), secret, metav1.CreateOptions{})
	s.must(err)
	prefix := networkingv1.PathTypePrefix
	_, err = s.client.NetworkingV1().Ingresses("team-a").Create(t.Context(), &networkingv1.Ingress{
		ObjectMeta: metav1.ObjectMeta{Name: "web"},
		Spec: networkingv1.IngressSpec{
			TLS: []networkingv1.IngressTLS{{Hosts: []string{"web.example.test"}, SecretName: "not-there-tls"}},
			Rules: []networkingv1.IngressRule{{Host: "web.example.test", IngressRuleValue: networkingv1.IngressRuleValue{HTTP: &networkingv1.HTTPIngressRuleValue{Paths: []networkingv1.HTTPIngressPath{
				{Path: "/", PathType: &prefix, Backend: networkingv1.IngressBackend{Service: &networkingv1.IngressServiceBackend{Name: "web", Port: networkingv1.ServiceBackendPort{Number: 80}}}},
			}}}}},
		},
	}, metav1.CreateOptions{})
	s.must(err)
	return s
}

// What a replica writes while it only reports.
var reporting = []string{"leases/certherd/certherd", "events", "configmaps/certherd/certherd-report"}

func TestRun(t *testing.T) {
	s := newSite(t)
	s.audits()
	var spans sync.Map // their names, as an OpenTelemetry collector gets them
	collector := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		m := new(collectortrace.ExportTraceServiceRequest)
		if err := proto.Unmarshal(body, m); err != nil {
			t.Error(err)
		}
		for _, x := range m.ResourceSpans {
			for _, scope := range x.ScopeSpans {
				for _, span := range scope.Spans {
					spans.Store(span.Name, true)
				}
			}
		}
	}))
	defer collector.Close()
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.URL)
	a := s.start("a")
	s.await("a leads", a.Leads)
	b := s.start("b")
	if b.Leads() {
		t.Error("two replicas lead")
	}

	// A round in audit mode, which is what holds without a ConfigMap.
	for _, r := range []*process{a, b} {
		if x := r.report(); x.Summary.Findings[string(plan.MissingSecret)] != 1 || len(x.Gaps) > 0 {
			t.Errorf("%s reports %v, gaps %v", r.Name, x.Summary.Findings, x.Gaps)
		}
		if _, page := r.Get("/report"); !bytes.Contains(page, []byte("not-there-tls")) {
			t.Errorf("the page of %s does not tell of not-there-tls", r.Name)
		}
		_, text := r.Get("/metrics")
		problems, err := promlint.New(bytes.NewReader(text)).Lint()
		s.must(err)
		for _, p := range problems {
			t.Errorf("%s: %s", p.Metric, p.Text)
		}
	}
	s.await("an Event on the Ingress", func() bool { return s.event("team-a", string(plan.MissingSecret), "Ingress") })

	// The configuration changes.
	var told sync.Map // the reasons of notes that a webhook got
	webhook := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		var m notify.Message
		if err := json.NewDecoder(r.Body).Decode(&m); err != nil {
			t.Error(err)
		}
		for _, n := range m.Notes {
			told.Store(n.Reason, n.Object)
		}
	}))
	defer webhook.Close()
	address := filepath.Join(t.TempDir(), "url")
	s.must(os.WriteFile(address, []byte(webhook.URL), 0o600))
	often := "gc: {schedule: '@every 10s', minAge: 0s}\nbatch: {schedule: '@every 10s'}\nnotify: {delay: 1s, webhooks: [{format: generic, urlFile: '" + address + "'}]}\n"
	valid := func(want float64) {
		t.Helper()
		for _, r := range []*process{a, b} {
			s.await(fmt.Sprintf("certherd_config_valid %v of %s", want, r.Name), func() bool { return r.Metric("certherd_config_valid") == want })
		}
	}
	taken := func(r *process) float64 { return r.Metric("certherd_config_last_success_timestamp_seconds") }
	change := func(data map[string]string) {
		t.Helper()
		beforeA, beforeB := taken(a), taken(b)
		s.configure(data)
		s.await("taken over", func() bool { return taken(a) > beforeA && taken(b) > beforeB })
		valid(1)
	}
	change(map[string]string{"config.yaml": often})
	s.await("left-over-tls is seen", func() bool { return verdict(a.report()) != "" })
	// The report that is kept in the cluster is no evidence of use.
	a.rounds(2)
	if v := verdict(a.report()); v != "unused" {
		t.Errorf("left-over-tls is %q", v)
	}
	before := taken(a)
	s.configure(map[string]string{"config.yaml": "gc: {mode: enforce, schedul: '* * * * *'}\n"})
	valid(0)
	s.await("an Event on the ConfigMap", func() bool { return s.event("certherd", "ConfigurationRefused", "ConfigMap") })
	s.await("a message to the webhook", func() bool { _, ok := told.Load("ConfigurationRefused"); return ok })
	s.await("the message is counted", func() bool { return a.Metric(`certherd_notifications_total{format="generic",result="success"}`) > 0 })
	a.rounds(2) // by the last good one
	if taken(a) != before {
		t.Error("a bad configuration was taken over")
	}
	change(map[string]string{})                     // emptied
	change(map[string]string{"config.yaml": often}) // back
	change(nil)                                     // deleted
	change(map[string]string{"config.yaml": often}) // back

	// The report in the cluster. The first round that ends now may have begun under a
	// configuration before.
	a.rounds(2)
	cm, err := s.client.CoreV1().ConfigMaps("certherd").Get(t.Context(), "certherd-report", metav1.GetOptions{})
	s.must(err)
	z, err := gzip.NewReader(bytes.NewReader(cm.BinaryData["report.json.gz"]))
	s.must(err)
	text, err := io.ReadAll(z)
	s.must(err)
	if kept := s.parse(text); verdict(kept) != "unused" {
		t.Errorf("the report in the cluster has %v", kept.Summary)
	}
	if !strings.Contains(cm.Data["summary.yaml"], "MissingSecret: 1") {
		t.Errorf("the summary in the cluster is\n%s", cm.Data["summary.yaml"])
	}
	s.wroteOnly("a", reporting...)
	s.wroteOnly("b") // a follower writes nothing at all
	if n := s.writes("a"); n["configmaps/certherd/certherd-report"] == 0 || n["events"] == 0 {
		t.Errorf("the audit log shows %v", n)
	}

	// The leader is killed.
	a.Kill()
	s.await("b leads", b.Leads)
	b.rounds(1)
	s.wroteOnly("b", reporting...)

	// What is allowed is carried out, by the leader.
	c := s.start("c")
	s.configure(map[string]string{"config.yaml": "maxShare: 100%\ngc: {mode: enforce, schedule: '@every 10s', minAge: 0s, budget: {count: 1, share: 100%}}\n"})
	s.await("left-over-tls is retired", func() bool {
		x, err := s.client.CoreV1().Secrets("team-a").Get(t.Context(), "left-over-tls", metav1.GetOptions{})
		s.must(err)
		return x.Annotations[plan.RetiredAt] != ""
	})
	s.await("the step is counted", func() bool { return b.Metric(`certherd_actions_total{action="retire",result="done"}`) == 1 })
	s.wroteOnly("c")

	// The end.
	begin := time.Now()
	s.ended(b)
	if d := time.Since(begin); d > 10*time.Second {
		t.Errorf("the end took %s", d)
	}
	lease, err := s.client.CoordinationV1().Leases("certherd").Get(t.Context(), "certherd", metav1.GetOptions{})
	s.must(err)
	if h := lease.Spec.HolderIdentity; h != nil && *h == "b" {
		t.Error("b has kept the lease")
	}
	s.await("c leads", c.Leads)
	for _, name := range []string{"round", "look", "decide", "collect"} {
		if _, ok := spans.Load(name); !ok {
			t.Errorf("no span is called %q", name)
		}
	}

	t.Run("LeavesNothingBehind", func(t *testing.T) {
		t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "") // the collector's connections end with the test
		defer goleak.VerifyNone(t, goleak.IgnoreCurrent(),
			// client-go keeps its connections for the next client.
			goleak.IgnoreAnyFunction("net/http.(*persistConn).readLoop"), goleak.IgnoreAnyFunction("net/http.(*persistConn).writeLoop"),
			goleak.IgnoreAnyFunction("golang.org/x/net/http2.(*ClientConn).readLoop"), goleak.IgnoreAnyFunction("net/http.(*http2ClientConn).readLoop"),
			goleak.IgnoreAnyFunction("net/http/internal/http2.(*ClientConn).readLoop"))
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan int, 1)
		go func() { ended <- run(ctx, append([]string{"certherd"}, s.args("d")...)) }()
		s.must(c.Signal(syscall.SIGTERM))
		s.await("d has kept a report", func() bool { return s.writes("d")["configmaps/certherd/certherd-report"] > 0 })
		stop()
		if code := <-ended; code != 0 {
			t.Errorf("it ended with %d", code)
		}
	})
}

func TestOwnNamespace(t *testing.T) {
	t.Setenv("POD_NAMESPACE", "of-the-pod")
	if ns, err := ownNamespace("flag"); ns != "flag" || err != nil {
		t.Error(ns, err)
	}
	if ns, err := ownNamespace(""); ns != "of-the-pod" || err != nil {
		t.Error(ns, err)
	}
	t.Setenv("POD_NAMESPACE", "")
	if _, err := os.Stat(serviceAccountNamespace); err == nil {
		t.Skip("this is a Pod")
	}
	if ns, err := ownNamespace(""); err == nil || !strings.Contains(err.Error(), "POD_NAMESPACE") {
		t.Error(ns, err)
	}
}
