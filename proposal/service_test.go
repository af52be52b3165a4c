package proposal_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap/zaptest"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/yaml"

	"github.com/certherd/certherd/api/v1alpha1"
	"github.com/certherd/certherd/config"
	"github.com/certherd/certherd/gate"
	"github.com/certherd/certherd/inventory"
	"github.com/certherd/certherd/inventory/live"
	"github.com/certherd/certherd/proposal"
	"github.com/certherd/certherd/service"
)

// site is a cluster with objects of cert-manager, and nobody who acts on them.
type site struct {
	*testing.T
	core    *kubernetes.Clientset
	objects dynamic.Interface
}

func (s *site) must(err error) {
	s.Helper()
	if err != nil {
		s.Fatal(err)
	}
}

func (s *site) await(what string, holds func() bool) {
	s.Helper()
	for end := time.Now().Add(2 * time.Minute); !holds(); time.Sleep(100 * time.Millisecond) {
		if time.Now().After(end) {
			s.Fatalf("after two minutes still not: %s", what)
		}
	}
}

var (
	certificates = schema.GroupVersionResource{Group: "cert-manager.io", Version: "v1", Resource: "certificates"}
	issuers      = schema.GroupVersionResource{Group: "cert-manager.io", Version: "v1", Resource: "clusterissuers"}
)

// define applies the CRDs of cert-manager as its module has them.
func (s *site) define() {
	s.Helper()
	dir, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/cert-manager/cert-manager").Output()
	s.must(err)
	files, err := filepath.Glob(filepath.Join(strings.TrimSpace(string(dir)), "deploy/crds/cert-manager.io_*.yaml"))
	s.must(err)
	crds := s.objects.Resource(schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"})
	for _, f := range files {
		b, err := os.ReadFile(f)
		s.must(err)
		var o unstructured.Unstructured
		s.must(yaml.Unmarshal(b, &o.Object))
		_, err = crds.Create(s.Context(), &o, metav1.CreateOptions{})
		s.must(err)
		s.await(o.GetName(), func() bool {
			x, err := crds.Get(s.Context(), o.GetName(), metav1.GetOptions{})
			s.must(err)
			status, _ := json.Marshal(x.Object["status"])
			return bytes.Contains(status, []byte(`"Established"`))
		})
	}
}

func (s *site) ready(r dynamic.ResourceInterface, text string) {
	s.Helper()
	var o unstructured.Unstructured
	s.must(yaml.Unmarshal([]byte(text), &o.Object))
	x, err := r.Create(s.Context(), &o, metav1.CreateOptions{})
	s.must(err)
	s.must(unstructured.SetNestedSlice(x.Object, []any{map[string]any{"type": "Ready", "status": "True", "lastTransitionTime": "2026-11-01T00:00:00Z"}}, "status", "conditions"))
	_, err = r.UpdateStatus(s.Context(), x, metav1.UpdateOptions{})
	s.must(err)
}

// idle collects nothing.
type idle struct{}

func (idle) Ready(context.Context) error           { return nil }
func (idle) Collect(context.Context, gate.Cleared) {}

// TestService: a service that proposes keeps Consolidations, and one that only
// reports writes none. What is approved is not begun while everything is stopped.
func TestService(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a control plane")
	}
	cfg, err := proposal.SharedCluster()
	s := &site{T: t}
	s.must(err)
	s.core, s.objects = kubernetes.NewForConfigOrDie(cfg), dynamic.NewForConfigOrDie(cfg)
	s.define()
	const ns = "shop"
	for _, n := range []string{ns, "certherd"} {
		_, err := s.core.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: n}}, metav1.CreateOptions{})
		s.must(err)
	}
	s.ready(s.objects.Resource(issuers), `{apiVersion: cert-manager.io/v1, kind: ClusterIssuer, metadata: {name: ca}, spec: {ca: {secretName: ca-key}}}`)
	serve := func(n string) {
		t.Helper()
		_, err := s.core.NetworkingV1().Ingresses(ns).Create(t.Context(), &networkingv1.Ingress{ObjectMeta: metav1.ObjectMeta{Name: n}, Spec: networkingv1.IngressSpec{
			DefaultBackend: &networkingv1.IngressBackend{Service: &networkingv1.IngressServiceBackend{Name: n, Port: networkingv1.ServiceBackendPort{Number: 80}}},
			TLS:            []networkingv1.IngressTLS{{Hosts: []string{n + ".example.test"}, SecretName: n + "-tls"}},
		}}, metav1.CreateOptions{})
		s.must(err)
	}
	for _, n := range []string{"a", "b"} {
		s.ready(s.objects.Resource(certificates).Namespace(ns), fmt.Sprintf(`{apiVersion: cert-manager.io/v1, kind: Certificate, metadata: {name: %[1]s-tls}, spec: {secretName: %[1]s-tls, dnsNames: [%[1]s.example.test], issuerRef: {name: ca, kind: ClusterIssuer}}}`, n))
		serve(n)
	}
	configure := func(mode, more string) {
		t.Helper()
		cm := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "certherd"}, Data: map[string]string{"config.yaml": "gc: {schedule: '@every 10s'}\nconsolidate: {mode: " + mode + ", schedule: '@every 10s'}\n" + more}}
		_ = s.core.CoreV1().ConfigMaps("certherd").Delete(t.Context(), "certherd", metav1.DeleteOptions{})
		_, err := s.core.CoreV1().ConfigMaps("certherd").Create(t.Context(), cm, metav1.CreateOptions{})
		s.must(err)
	}
	configure("audit", "")

	o := service.Defaults()
	o.Cluster, o.Namespace, o.Listen, o.Log, o.Pause = cfg, "certherd", "127.0.0.1:0", zaptest.NewLogger(t), 100*time.Millisecond
	o.Leader.Name, o.Leader.Identity = "certherd", "a"
	o.Look = func(ctx context.Context) (*inventory.Snapshot, error) {
		snapshot, _, err := live.Look(ctx, cfg, live.Options{Proof: true})
		return snapshot, err
	}
	o.Collector = func(*rest.Config, config.Config, service.Hooks) (service.Collector, error) { return idle{}, nil }
	stop := func(x *service.Stop) {
		t.Helper()
		s.must(service.OpenApprovals(s.core.CoreV1(), "certherd").Change(t.Context(), func(c *service.Consent) (bool, error) { c.Stopped = x; return true, nil }))
	}
	stop(&service.Stop{Since: time.Now(), Why: []string{"a gateway rejected an update"}})
	x, err := service.New(o)
	s.must(err)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- x.Run(ctx, nil) }()
	defer func() { cancel(); s.must(<-ended) }()

	p, err := proposal.New(cfg, proposal.Options{})
	s.must(err)
	get := func() *v1alpha1.Consolidation {
		t.Helper()
		all, err := p.List(t.Context())
		s.must(err)
		for _, c := range all {
			if c.Namespace == ns {
				return c
			}
		}
		return nil
	}
	is := func(phase v1alpha1.Phase) func() bool {
		return func() bool { c := get(); return c != nil && c.Status.Phase == phase }
	}
	// The report of a round is there before anything is proposed, and the next one
	// after that.
	version := func() string {
		cm, err := s.core.CoreV1().ConfigMaps("certherd").Get(t.Context(), o.Report, metav1.GetOptions{})
		if err != nil {
			return ""
		}
		return cm.ResourceVersion
	}
	s.await("a report", func() bool { return version() != "" })
	first := version()
	configure("audit", "maxShare: 29%\n")
	s.await("another report", func() bool { return version() != first })
	if get() != nil {
		t.Error("proposed in mode audit")
	}
	configure("propose", "")
	s.await("proposed", is(v1alpha1.Proposed))
	c := get()
	if len(c.Spec.Members) != 2 || c.Spec.Wildcards[0] != "*.example.test" || c.Spec.Members[0].Consumers[0].UID == "" {
		t.Errorf("%+v", c.Spec)
	}
	_, err = p.Approve(t.Context(), c, proposal.Author{By: "alice"})
	s.must(err)
	s.await("approved", is(v1alpha1.Approved))
	// What the configuration opts out is not carried out, approved or not.
	configure("propose", "ignore: {names: [shop/b]}\n")
	s.await("held", is(v1alpha1.Held))
	if why := get().Status.Message; !strings.Contains(why, "shop/b") {
		t.Errorf("message %q", why)
	}
	configure("propose", "")
	s.await("approved again", is(v1alpha1.Approved))
	s.must(s.core.NetworkingV1().Ingresses(ns).Delete(t.Context(), "b", metav1.DeleteOptions{}))
	s.await("withdrawn", is(v1alpha1.Withdrawn))

	// Once a person lets it go on, what is approved begins.
	serve("b")
	s.await("proposed anew", is(v1alpha1.Proposed))
	_, err = p.Approve(t.Context(), get(), proposal.Author{By: "alice"})
	s.must(err)
	s.await("approved while all is stopped", is(v1alpha1.Approved))
	stop(nil)
	s.await("begun", is(v1alpha1.Issuing))
}
