package apply_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/certherd/certherd/apply"
	"github.com/certherd/certherd/e2e/stack"
	"github.com/certherd/certherd/gate"
	"github.com/certherd/certherd/gc"
	"github.com/certherd/certherd/inventory"
	"github.com/certherd/certherd/inventory/live"
	"github.com/certherd/certherd/plan"
)

// The tests of this package share one real kube-apiserver with the real custom
// resource definitions. Each works in namespaces of its own.
var shared *cluster

type cluster struct {
	stack   *stack.Stack
	cfg     *rest.Config
	core    *kubernetes.Clientset
	dynamic *dynamic.DynamicClient
	mapper  *restmapper.DeferredDiscoveryRESTMapper
}

func TestMain(m *testing.M) {
	if os.Getenv(childEnv) != "" {
		os.Exit(child())
	}
	flag.Parse()
	code, err := withCluster(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func withCluster(m *testing.M) (int, error) {
	if testing.Short() || flag.Lookup("test.fuzz").Value.String() != "" || flag.Lookup("test.list").Value.String() != "" {
		return m.Run(), nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Minute)
	defer cancel()
	s, err := stack.Start(ctx, stack.Options{Level: stack.ControlPlane, Out: os.Stderr})
	if err != nil {
		return 1, err
	}
	defer s.Stop()
	if shared, err = connect(s.Kubeconfig); err != nil {
		return 1, err
	}
	shared.stack = s
	if err := shared.define(ctx); err != nil {
		return 1, err
	}
	return m.Run(), nil
}

func connect(kubeconfig string) (*cluster, error) {
	cfg, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return nil, err
	}
	cfg.QPS = -1
	cfg.WarningHandler = rest.NoWarnings{}
	c := &cluster{cfg: cfg}
	if c.core, err = kubernetes.NewForConfig(cfg); err != nil {
		return nil, err
	}
	if c.dynamic, err = dynamic.NewForConfig(cfg); err != nil {
		return nil, err
	}
	c.mapper = restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(c.core.Discovery()))
	return c, nil
}

// define applies the CRDs as their projects publish them.
func (c *cluster) define(ctx context.Context) error {
	var names []string
	for module, files := range map[string][]string{
		"github.com/cert-manager/cert-manager": {"deploy/crds/*.yaml"},
		"knative.dev/networking":               {"config/certificate.yaml", "config/ingress.yaml"},
		"knative.dev/serving":                  {"config/core/300-resources/route.yaml", "config/core/300-resources/domain-mapping.yaml"},
		"sigs.k8s.io/gateway-api":              {"config/crd/standard/gateway.networking.k8s.io_gateways.yaml"},
	} {
		dir, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", module).Output()
		if err != nil {
			return fmt.Errorf("where is module %s: %w", module, err)
		}
		for _, pattern := range files {
			found, err := filepath.Glob(filepath.Join(strings.TrimSpace(string(dir)), pattern))
			if err != nil || len(found) == 0 {
				return fmt.Errorf("module %s has no %s", module, pattern)
			}
			for _, file := range found {
				b, err := os.ReadFile(file)
				if err != nil {
					return err
				}
				objects, err := parse(string(b))
				if err != nil {
					return fmt.Errorf("%s: %w", file, err)
				}
				for _, o := range objects {
					if o.GetKind() != "CustomResourceDefinition" {
						continue
					}
					if _, err := c.createObject(ctx, o); err != nil {
						return err
					}
					names = append(names, o.GetName())
				}
			}
		}
	}
	crds := c.dynamic.Resource(schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"})
	for _, name := range names {
		for {
			o, err := crds.Get(ctx, name, metav1.GetOptions{})
			if err != nil {
				return err
			}
			if b, _ := json.Marshal(o.Object["status"]); bytes.Contains(b, []byte(`"Established"`)) {
				break
			}
			time.Sleep(50 * time.Millisecond)
		}
	}
	c.mapper.Reset()
	return nil
}

func parse(text string) (objects []*unstructured.Unstructured, err error) {
	d := yaml.NewYAMLOrJSONDecoder(strings.NewReader(text), 4096)
	for {
		o := &unstructured.Unstructured{}
		if err := d.Decode(&o.Object); errors.Is(err, io.EOF) {
			return objects, nil
		} else if err != nil {
			return nil, err
		}
		if len(o.Object) > 0 {
			objects = append(objects, o)
		}
	}
}

func (c *cluster) resource(gk schema.GroupKind, version, namespace string) (dynamic.ResourceInterface, error) {
	m, err := c.mapper.RESTMapping(gk, version)
	if err != nil {
		c.mapper.Reset()
		if m, err = c.mapper.RESTMapping(gk, version); err != nil {
			return nil, err
		}
	}
	if m.Scope.Name() == "root" {
		return c.dynamic.Resource(m.Resource), nil
	}
	return c.dynamic.Resource(m.Resource).Namespace(namespace), nil
}

func (c *cluster) createObject(ctx context.Context, o *unstructured.Unstructured) (*unstructured.Unstructured, error) {
	gvk := o.GroupVersionKind()
	api, err := c.resource(gvk.GroupKind(), gvk.Version, o.GetNamespace())
	if err != nil {
		return nil, err
	}
	made, err := api.Create(ctx, o, metav1.CreateOptions{})
	if err != nil {
		return nil, fmt.Errorf("create %s %s/%s: %w", o.GetKind(), o.GetNamespace(), o.GetName(), err)
	}
	if status, ok := o.Object["status"]; ok {
		made.Object["status"] = status
		if made, err = api.UpdateStatus(ctx, made, metav1.UpdateOptions{}); err != nil {
			return nil, fmt.Errorf("status of %s %s/%s: %w", o.GetKind(), o.GetNamespace(), o.GetName(), err)
		}
	}
	return made, nil
}

// world is a pair of namespaces: one for the objects of a test, and one for the
// journal.
type world struct {
	t           *testing.T
	c           *cluster
	ctx         context.Context
	ns, journal string
	o           apply.Options
	// quiet is how long a look waits for an answer, as in production when 0.
	quiet time.Duration
}

var worlds atomic.Int32

func newWorld(t *testing.T) *world {
	t.Helper()
	if shared == nil {
		t.Skip("needs a kube-apiserver; run without -short")
	}
	w := inWorld(shared, fmt.Sprintf("team-%d", worlds.Add(1)))
	w.t = t
	for _, ns := range []string{w.ns, w.journal} {
		if _, err := shared.core.CoreV1().Namespaces().Create(w.ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: ns}}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := shared.core.CoreV1().Namespaces().Delete(context.Background(), ns, metav1.DeleteOptions{}); err != nil {
				t.Error(err)
			}
		})
	}
	return w
}

func inWorld(c *cluster, ns string) *world {
	w := &world{c: c, ctx: context.Background(), ns: ns, journal: ns + "-certherd", o: apply.Defaults()}
	w.o.Namespace = w.journal
	w.o.Look = func(ctx context.Context) (*inventory.Snapshot, error) { return w.look(ctx, c.cfg) }
	return w
}

// look is what production does. MinAge of the checks is for others.
func (w *world) look(ctx context.Context, cfg *rest.Config) (*inventory.Snapshot, error) {
	s, _, err := live.Look(ctx, cfg, live.Options{Proof: true, Timeout: w.quiet, Now: w.now})
	return s, err
}

func (w *world) now() time.Time {
	if w.o.Clock != nil {
		return w.o.Clock.Now()
	}
	return time.Now()
}

// plan looks and plans for the world's namespace, and clears everything.
func (w *world) plan() gate.Cleared {
	w.t.Helper()
	cleared, err := w.decide()
	if err != nil {
		w.t.Fatal(err)
	}
	return cleared
}

func (w *world) decide() (gate.Cleared, error) {
	s, err := w.look(w.ctx, w.c.cfg)
	if err != nil {
		return gate.Cleared{}, err
	}
	if len(s.Gaps) > 0 {
		return gate.Cleared{}, fmt.Errorf("gaps: %v", s.Gaps)
	}
	return w.clear(s)
}

// clear plans for the world's namespace with a look, and clears everything.
func (w *world) clear(s *inventory.Snapshot) (gate.Cleared, error) {
	p := plan.New(s, gc.Checks(gc.Options{}))
	if err := p.Verify(s); err != nil {
		return gate.Cleared{}, err
	}
	var mine []plan.Change
	for _, c := range p.Changes {
		if c.Why.Object.Namespace == w.ns {
			mine = append(mine, c)
		}
	}
	p.Changes = mine
	cleared, held := enforce.Decide(p, s, s.Taken)
	for _, h := range held {
		if h.Change.Why.Hold == "" {
			return gate.Cleared{}, fmt.Errorf("%s %s was held: %s", h.Change.Why.Reason, h.Change.Why.Object, h.Why)
		}
	}
	return cleared, nil
}

// enforce clears whatever can be cleared at all.
var enforce = gate.Policy{MaxShare: 1, Terms: map[gate.Rule]gate.Terms{
	gate.GC:          {Mode: gate.Enforce, Budget: gate.Budget{Count: 10000, Share: 1}},
	gate.Consolidate: {Mode: gate.Enforce, Budget: gate.Budget{Count: 10000, Share: 1}},
}}

func (w *world) applier() *apply.Applier {
	w.t.Helper()
	a, err := apply.New(w.c.cfg, w.o)
	if err != nil {
		w.t.Fatal(err)
	}
	return a
}

// run plans and applies, and returns the outcomes by action and object.
func (w *world) run() map[string]apply.Outcome {
	w.t.Helper()
	return w.apply(w.applier(), w.plan())
}

func (w *world) apply(a *apply.Applier, cleared gate.Cleared) map[string]apply.Outcome {
	w.t.Helper()
	out := map[string]apply.Outcome{}
	steps := 0
	for _, c := range cleared.Changes() {
		steps += len(c.Steps)
	}
	outcomes := a.Run(w.ctx, cleared)
	if len(outcomes) != steps {
		w.t.Errorf("%d outcomes of %d steps", len(outcomes), steps)
	}
	for _, o := range outcomes {
		w.t.Logf("%s %s: %s %s", o.Action(), o.Object(), o.Status, o.Why)
		out[string(o.Action())+" "+o.Object().String()] = o
	}
	return out
}

// expect compares outcomes with lines "action Kind/name: status[: part of why]".
func (w *world) expect(got map[string]apply.Outcome, want ...string) {
	w.t.Helper()
	for _, line := range want {
		parts := strings.SplitN(line, ": ", 3)
		action, object, _ := strings.Cut(parts[0], " ")
		kind, name, _ := strings.Cut(object, "/")
		o, ok := got[action+" "+kind+"/"+w.ns+"/"+name]
		switch {
		case !ok:
			w.t.Errorf("no outcome of %s", parts[0])
		case string(o.Status) != parts[1]:
			w.t.Errorf("%s: %s (%s), want %s", parts[0], o.Status, o.Why, parts[1])
		case len(parts) > 2 && !strings.Contains(o.Why, parts[2]):
			w.t.Errorf("%s: %q, want %q in it", parts[0], o.Why, parts[2])
		case o.Status == apply.Done && o.Why != "":
			w.t.Errorf("%s: done, and yet %q", parts[0], o.Why)
		}
	}
}

// create makes the objects of a YAML text in the world's namespace.
func (w *world) create(text string) []*unstructured.Unstructured {
	w.t.Helper()
	made, err := w.tryCreate(text)
	if err != nil {
		w.t.Fatal(err)
	}
	return made
}

func (w *world) tryCreate(text string) (made []*unstructured.Unstructured, err error) {
	objects, err := parse(strings.ReplaceAll(text, "NS", w.ns))
	if err != nil {
		return nil, err
	}
	for _, o := range objects {
		if o.GetNamespace() == "" {
			o.SetNamespace(w.ns)
		}
		m, err := w.c.createObject(w.ctx, o)
		if err != nil {
			return made, err
		}
		made = append(made, m)
	}
	return made, nil
}

// keys are the private keys that tests have stored.
var keys struct {
	sync.Mutex
	pem [][]byte
}

// secret makes a Secret as cert-manager leaves it, with a real key.
func (w *world) secret(name, certificate string, hosts ...string) *corev1.Secret {
	w.t.Helper()
	s, err := w.trySecret(name, certificate, hosts...)
	if err != nil {
		w.t.Fatal(err)
	}
	return s
}

func (w *world) trySecret(name, certificate string, hosts ...string) (*corev1.Secret, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	crt := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: hosts, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, crt, crt, &key.PublicKey, key)
	if err != nil {
		return nil, err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	keyPEM := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})
	keys.Lock()
	keys.pem = append(keys.pem, keyPEM)
	keys.Unlock()
	return w.c.core.CoreV1().Secrets(w.ns).Create(w.ctx, &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{
			Name: name, Labels: map[string]string{"controller.cert-manager.io/fao": "true"},
			Annotations: map[string]string{
				"cert-manager.io/certificate-name": certificate, "cert-manager.io/alt-names": strings.Join(hosts, ","),
				"cert-manager.io/issuer-name": "ca", "cert-manager.io/issuer-kind": "ClusterIssuer", "cert-manager.io/issuer-group": "cert-manager.io",
			},
		},
		Type: corev1.SecretTypeTLS,
		Data: map[string][]byte{"tls.crt": pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), "tls.key": keyPEM},
	}, metav1.CreateOptions{})
}

// certificate makes a Certificate and its Secret, both without any user.
func (w *world) certificate(name string) {
	w.t.Helper()
	w.secret(name, name, name+".example.com")
	w.create(certificateYAML(name))
}

func certificateYAML(name string) string {
	return fmt.Sprintf(`
apiVersion: cert-manager.io/v1
kind: Certificate
metadata: {name: %[1]s, labels: {team: blue}, annotations: {note: hello}}
spec: {secretName: %[1]s, dnsNames: [%[1]s.example.com], issuerRef: {name: ca, kind: ClusterIssuer}}
`, name)
}

// due makes a Secret whose grace period has ended: it is marked for the second
// in which it was made.
func (w *world) due(name string) *corev1.Secret {
	w.t.Helper()
	s, err := w.tryDue(name)
	if err != nil {
		w.t.Fatal(err)
	}
	return s
}

func (w *world) tryDue(name string) (*corev1.Secret, error) {
	s, err := w.trySecret(name, name, name+".example.com")
	if err != nil {
		return nil, err
	}
	at := s.CreationTimestamp.UTC().Format(time.RFC3339)
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"annotations": map[string]string{
		plan.RetiredReason: string(plan.OrphanedSecret), plan.RetiredAt: at, plan.DeleteAfter: at,
	}}})
	if err != nil {
		return nil, err
	}
	return w.c.core.CoreV1().Secrets(w.ns).Patch(w.ctx, name, types.MergePatchType, patch, metav1.PatchOptions{})
}

// superseded makes what a Knative Route leaves that has moved to a wildcard: its
// own KCertificate, the Certificate that follows it, and their Secret.
func (w *world) superseded(name string) {
	w.t.Helper()
	if err := w.trySuperseded(name); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) trySuperseded(name string) error {
	route, err := w.tryCreate(fmt.Sprintf(`
apiVersion: serving.knative.dev/v1
kind: Route
metadata: {name: %s}
spec: {}
`, name))
	if err != nil {
		return err
	}
	if _, err := w.c.core.CoreV1().Secrets(w.ns).Get(w.ctx, "wild", metav1.GetOptions{}); apierrors.IsNotFound(err) {
		if _, err := w.trySecret("wild", "wild", "*.example.com"); err != nil {
			return err
		}
		if _, err := w.tryCreate(strings.ReplaceAll(certificateYAML("wild"), "wild.example.com", `"*.example.com"`)); err != nil {
			return err
		}
	}
	if _, err := w.trySecret(name+"-tls", name, name+".example.com"); err != nil {
		return err
	}
	kcert, err := w.tryCreate(fmt.Sprintf(`
apiVersion: networking.internal.knative.dev/v1alpha1
kind: Ingress
metadata: {name: %[1]s}
spec:
  rules: [{hosts: [%[1]s.example.com], visibility: ExternalIP}]
  tls: [{hosts: [%[1]s.example.com], secretName: wild, secretNamespace: NS}]
status: {observedGeneration: 1, conditions: [{type: Ready, status: "True"}]}
---
apiVersion: networking.internal.knative.dev/v1alpha1
kind: Certificate
metadata:
  name: %[1]s
  annotations: {networking.knative.dev/certificate.class: cert-manager.certificate.networking.knative.dev}
  labels: {networking.knative.dev/certificate-type: external-domain}
  ownerReferences: [{apiVersion: serving.knative.dev/v1, kind: Route, name: %[1]s, uid: %[2]s, controller: true, blockOwnerDeletion: true}]
spec: {dnsNames: [%[1]s.example.com], domain: example.com, secretName: %[1]s-tls}
`, name, route[0].GetUID()))
	if err != nil {
		return err
	}
	_, err = w.tryCreate(fmt.Sprintf(`
apiVersion: cert-manager.io/v1
kind: Certificate
metadata:
  name: %[1]s
  ownerReferences: [{apiVersion: networking.internal.knative.dev/v1alpha1, kind: Certificate, name: %[1]s, uid: %[2]s, controller: true, blockOwnerDeletion: true}]
spec: {secretName: %[1]s-tls, dnsNames: [%[1]s.example.com], issuerRef: {name: ca, kind: ClusterIssuer}}
`, name, kcert[1].GetUID()))
	return err
}

// get returns an object of the world, nil when there is none.
func (w *world) get(ref inventory.Ref) *unstructured.Unstructured {
	w.t.Helper()
	version := map[string]string{"": "v1", inventory.GroupCertManager: "v1", inventory.GroupKnativeNet: "v1alpha1"}[ref.Group]
	api, err := w.c.resource(schema.GroupKind{Group: ref.Group, Kind: ref.Kind}, version, ref.Namespace)
	if err != nil {
		w.t.Fatal(err)
	}
	o, err := api.Get(w.ctx, ref.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		w.t.Fatal(err)
	}
	return o
}

func (w *world) secretRef(name string) inventory.Ref { return inventory.SecretRef(w.ns, name) }
func (w *world) crtRef(name string) inventory.Ref    { return inventory.CertificateRef(w.ns, name) }
func (w *world) kcrtRef(name string) inventory.Ref {
	return inventory.KnativeCertificateRef(w.ns, name)
}

// is demands of objects "there", "gone", "marked" or "unmarked".
func (w *world) is(what string, refs ...inventory.Ref) {
	w.t.Helper()
	for _, ref := range refs {
		o := w.get(ref)
		is := "gone"
		if o != nil {
			is = "there"
			if what == "marked" || what == "unmarked" {
				is = "unmarked"
				if _, ok := plan.MarkOf(meta(o)); ok {
					is = "marked"
				}
			}
		}
		if is != what {
			w.t.Errorf("%s is %s, want %s", ref, is, what)
		}
	}
}

func meta(o *unstructured.Unstructured) *inventory.Meta {
	m := &inventory.Meta{Created: o.GetCreationTimestamp().Time}
	for k, v := range o.GetAnnotations() {
		m.Annotations = append(m.Annotations, inventory.Pair{Key: k, Value: v})
	}
	return m
}

func (w *world) entries() []apply.Entry {
	w.t.Helper()
	j, err := apply.OpenJournal(w.c.cfg, w.journal)
	if err != nil {
		w.t.Fatal(err)
	}
	list, err := j.Entries(w.ctx)
	if err != nil {
		w.t.Fatal(err)
	}
	return list
}

// label changes an object without changing what it means.
func (w *world) label(ref inventory.Ref, value string) error {
	version := map[string]string{"": "v1", inventory.GroupCertManager: "v1", inventory.GroupKnativeNet: "v1alpha1"}[ref.Group]
	api, err := w.c.resource(schema.GroupKind{Group: ref.Group, Kind: ref.Kind}, version, ref.Namespace)
	if err != nil {
		return err
	}
	_, err = api.Patch(w.ctx, ref.Name, types.MergePatchType, fmt.Appendf(nil, `{"metadata":{"labels":{"touched":%q}}}`, value), metav1.PatchOptions{})
	return err
}

// remove deletes an object.
func (w *world) remove(ref inventory.Ref) error {
	version := map[string]string{"": "v1", inventory.GroupCertManager: "v1", inventory.GroupKnativeNet: "v1alpha1"}[ref.Group]
	api, err := w.c.resource(schema.GroupKind{Group: ref.Group, Kind: ref.Kind}, version, ref.Namespace)
	if err != nil {
		return err
	}
	return api.Delete(w.ctx, ref.Name, metav1.DeleteOptions{})
}

// faulty returns a configuration whose requests may be answered by somebody else: the
// faults that a real API server cannot be made to show on demand.
func (w *world) faulty(answer func(*http.Request, http.RoundTripper) (*http.Response, error)) *rest.Config {
	cfg := rest.CopyConfig(w.c.cfg)
	cfg.Wrap(func(next http.RoundTripper) http.RoundTripper {
		return roundTripper(func(r *http.Request) (*http.Response, error) { return answer(r, next) })
	})
	return cfg
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// refusal is an answer of the API server that says no.
func refusal(r *http.Request, code int, reason metav1.StatusReason) *http.Response {
	body, _ := json.Marshal(metav1.Status{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}, Status: metav1.StatusFailure, Code: int32(code), Reason: reason, Message: "no: " + string(reason)})
	return &http.Response{StatusCode: code, Status: fmt.Sprint(code), Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Request: r,
		Header: http.Header{"Content-Type": {"application/json"}}, Body: io.NopCloser(bytes.NewReader(body)), ContentLength: int64(len(body))}
}
