package live

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"flag"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	authv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apiextensions "k8s.io/apiextensions-apiserver/pkg/client/clientset/clientset"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/yaml"

	"github.com/certherd/certherd/e2e/stack"
	"github.com/certherd/certherd/inventory"
)

// The tests of this file share one real kube-apiserver.
var shared *cluster

type cluster struct {
	stack   *stack.Stack
	cfg     *rest.Config
	core    *kubernetes.Clientset
	crds    *apiextensions.Clientset
	dynamic *dynamic.DynamicClient
	keys    [][]byte // of the private keys that were stored
}

func TestMain(m *testing.M) {
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
	c := &cluster{stack: s}
	if c.cfg, err = s.RESTConfig(); err != nil {
		return 1, err
	}
	c.cfg.WarningHandler = rest.NoWarnings{}
	if c.core, err = kubernetes.NewForConfig(c.cfg); err != nil {
		return 1, err
	}
	if c.crds, err = apiextensions.NewForConfig(c.cfg); err != nil {
		return 1, err
	}
	if c.dynamic, err = dynamic.NewForConfig(c.cfg); err != nil {
		return 1, err
	}
	shared = c
	return m.Run(), nil
}

func needCluster(t *testing.T) *cluster {
	t.Helper()
	if shared == nil {
		t.Skip("needs a kube-apiserver; run without -short")
	}
	return shared
}

// look reads the cluster with everything allowed and everything scanned.
func (c *cluster) look(t *testing.T, cfg *rest.Config, o Options) *inventory.Snapshot {
	t.Helper()
	o.Proof = true
	o.Now = func() time.Time { return time.Unix(0, 0) }
	s, _, err := Look(context.Background(), cfg, o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// as is a user's configuration.
func (c *cluster) as(user string) *rest.Config {
	cfg := rest.CopyConfig(c.cfg)
	cfg.Impersonate = rest.ImpersonationConfig{UserName: user}
	return cfg
}

// create makes objects, and has the test remove them.
func (c *cluster) create(t *testing.T, objects ...any) {
	t.Helper()
	ctx := context.Background()
	for _, o := range objects {
		var err error
		var remove func() error
		switch o := o.(type) {
		case *corev1.Namespace:
			_, err = c.core.CoreV1().Namespaces().Create(ctx, o, metav1.CreateOptions{})
			remove = func() error {
				// Until it is gone, it changes, and Snapshots with it.
				err := c.core.CoreV1().Namespaces().Delete(ctx, o.Name, metav1.DeleteOptions{})
				for err == nil {
					time.Sleep(50 * time.Millisecond)
					_, err = c.core.CoreV1().Namespaces().Get(ctx, o.Name, metav1.GetOptions{})
				}
				return err
			}
		case *corev1.Secret:
			_, err = c.core.CoreV1().Secrets(o.Namespace).Create(ctx, o, metav1.CreateOptions{})
			remove = func() error {
				return c.core.CoreV1().Secrets(o.Namespace).Delete(ctx, o.Name, metav1.DeleteOptions{})
			}
		case *corev1.ConfigMap:
			_, err = c.core.CoreV1().ConfigMaps(o.Namespace).Create(ctx, o, metav1.CreateOptions{})
			remove = func() error {
				return c.core.CoreV1().ConfigMaps(o.Namespace).Delete(ctx, o.Name, metav1.DeleteOptions{})
			}
		case *corev1.Service:
			_, err = c.core.CoreV1().Services(o.Namespace).Create(ctx, o, metav1.CreateOptions{})
			remove = func() error {
				return c.core.CoreV1().Services(o.Namespace).Delete(ctx, o.Name, metav1.DeleteOptions{})
			}
		case *networkingv1.Ingress:
			_, err = c.core.NetworkingV1().Ingresses(o.Namespace).Create(ctx, o, metav1.CreateOptions{})
			remove = func() error {
				return c.core.NetworkingV1().Ingresses(o.Namespace).Delete(ctx, o.Name, metav1.DeleteOptions{})
			}
		case *rbacv1.ClusterRole:
			_, err = c.core.RbacV1().ClusterRoles().Create(ctx, o, metav1.CreateOptions{})
			remove = func() error { return c.core.RbacV1().ClusterRoles().Delete(ctx, o.Name, metav1.DeleteOptions{}) }
		case *rbacv1.ClusterRoleBinding:
			_, err = c.core.RbacV1().ClusterRoleBindings().Create(ctx, o, metav1.CreateOptions{})
			remove = func() error {
				return c.core.RbacV1().ClusterRoleBindings().Delete(ctx, o.Name, metav1.DeleteOptions{})
			}
		case *rbacv1.RoleBinding:
			_, err = c.core.RbacV1().RoleBindings(o.Namespace).Create(ctx, o, metav1.CreateOptions{})
			remove = func() error {
				return c.core.RbacV1().RoleBindings(o.Namespace).Delete(ctx, o.Name, metav1.DeleteOptions{})
			}
		default:
			t.Fatalf("no way to create %T", o)
		}
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := remove(); err != nil && !apierrors.IsNotFound(err) {
				t.Error(err)
			}
		})
	}
}

func (c *cluster) custom(t *testing.T, gvr schema.GroupVersionResource, doc string) {
	t.Helper()
	var o unstructured.Unstructured
	if err := o.UnmarshalJSON([]byte(doc)); err != nil {
		t.Fatal(err)
	}
	api := c.dynamic.Resource(gvr).Namespace(o.GetNamespace())
	if _, err := api.Create(context.Background(), &o, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := api.Delete(context.Background(), o.GetName(), metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
			t.Error(err)
		}
	})
}

func ns(name string) *corev1.Namespace {
	return &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}
}

// tls is a Secret with a real key pair.
func (c *cluster) tls(t *testing.T, namespace, name string) *corev1.Secret {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	crt := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name + ".example.com"}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, crt, crt, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	keyPEM := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})
	c.keys = append(c.keys, keyPEM)
	return &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Type:       corev1.SecretTypeTLS,
		Data:       map[string][]byte{"tls.crt": pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), "tls.key": keyPEM},
	}
}

// lenient is a CRD without a schema.
func lenient(group, kind, plural string, versions ...string) *apiextensionsv1.CustomResourceDefinition {
	yes := true
	crd := &apiextensionsv1.CustomResourceDefinition{ObjectMeta: metav1.ObjectMeta{Name: plural + "." + group},
		Spec: apiextensionsv1.CustomResourceDefinitionSpec{Group: group, Scope: apiextensionsv1.NamespaceScoped,
			Names: apiextensionsv1.CustomResourceDefinitionNames{Kind: kind, ListKind: kind + "List", Plural: plural, Singular: strings.ToLower(kind)}}}
	for i, v := range versions {
		crd.Spec.Versions = append(crd.Spec.Versions, apiextensionsv1.CustomResourceDefinitionVersion{Name: v, Served: true, Storage: i == 0,
			Schema: &apiextensionsv1.CustomResourceValidation{OpenAPIV3Schema: &apiextensionsv1.JSONSchemaProps{Type: "object", XPreserveUnknownFields: &yes}}})
	}
	return crd
}

// define makes CRDs, waits until they are served, and has the test remove them.
func (c *cluster) define(t *testing.T, crds ...*apiextensionsv1.CustomResourceDefinition) {
	t.Helper()
	ctx := context.Background()
	for _, crd := range crds {
		if _, err := c.crds.ApiextensionsV1().CustomResourceDefinitions().Create(ctx, crd, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		served := func(want bool) {
			for {
				lists, err := c.core.Discovery().ServerPreferredResources()
				found := err == nil && slices.ContainsFunc(lists, func(l *metav1.APIResourceList) bool {
					return strings.HasPrefix(l.GroupVersion, crd.Spec.Group+"/") && slices.ContainsFunc(l.APIResources, func(r metav1.APIResource) bool { return r.Name == crd.Spec.Names.Plural })
				})
				if err == nil && found == want {
					return
				}
				time.Sleep(50 * time.Millisecond)
			}
		}
		served(true)
		t.Cleanup(func() {
			if err := c.crds.ApiextensionsV1().CustomResourceDefinitions().Delete(ctx, crd.Name, metav1.DeleteOptions{}); err != nil {
				t.Error(err)
				return
			}
			served(false)
		})
	}
}

// certManagerCRDs are cert-manager's own, from its module.
func certManagerCRDs(t *testing.T) (out []*apiextensionsv1.CustomResourceDefinition) {
	t.Helper()
	dir, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/cert-manager/cert-manager").Output()
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(strings.TrimSpace(string(dir)), "deploy", "crds", "*.yaml"))
	if err != nil || len(files) == 0 {
		t.Fatal("no CRDs: ", err)
	}
	for _, f := range files {
		content, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		crd := new(apiextensionsv1.CustomResourceDefinition)
		if err := yaml.Unmarshal(content, crd); err != nil {
			t.Fatal(err)
		}
		out = append(out, crd)
	}
	return out
}

var certificates = schema.GroupVersionResource{Group: "cert-manager.io", Version: "v1", Resource: "certificates"}

func certificateDoc(namespace, name, secret string) string {
	return fmt.Sprintf(`{"apiVersion":"cert-manager.io/v1","kind":"Certificate","metadata":{"namespace":%q,"name":%q},"spec":{"secretName":%q,"dnsNames":["x.example.com"],"issuerRef":{"name":"i"}}}`, namespace, name, secret)
}

func want(t *testing.T, s *inventory.Snapshot, ref inventory.Ref, v inventory.Verdict) {
	t.Helper()
	if j := s.Judge(ref); j.Verdict != v {
		t.Errorf("%s is %s, want %s: %s %v; gaps %v", ref, j.Verdict, v, j.Why, j.Evidence, s.Gaps)
	}
}

func TestWithoutCRDs(t *testing.T) {
	c := needCluster(t)
	c.create(t, ns("no-crds"), c.tls(t, "no-crds", "idle-tls"))
	s := c.look(t, c.cfg, Options{})
	if len(s.Gaps) > 0 {
		t.Errorf("gaps %v", s.Gaps)
	}
	want(t, s, inventory.SecretRef("no-crds", "idle-tls"), inventory.Unused)
}

// The objects of most tests: one Secret of each verdict, and a Certificate.
func (c *cluster) furnish(t *testing.T, namespace string) {
	t.Helper()
	labelled := c.tls(t, namespace, "labelled-tls")
	labelled.Type = corev1.SecretTypeOpaque
	labelled.Labels = map[string]string{"controller.cert-manager.io/fao": "true"}
	helm := c.tls(t, namespace, "sh.helm.release.v1.x.v1")
	helm.Type = "helm.sh/release.v1"
	c.create(t, ns(namespace),
		c.tls(t, namespace, "idle-tls"), c.tls(t, namespace, "served-tls"), c.tls(t, namespace, "told-tls"), c.tls(t, namespace, "of-certificate-tls"), c.tls(t, namespace, "in-thing-tls"), labelled, helm,
		&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "password"}, Data: map[string][]byte{"x": []byte("y")}},
		&networkingv1.Ingress{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "i"}, Spec: networkingv1.IngressSpec{
			TLS:   []networkingv1.IngressTLS{{Hosts: []string{"a.example.com"}, SecretName: "served-tls"}},
			Rules: []networkingv1.IngressRule{{Host: "a.example.com"}}}},
		&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "c"}, Data: map[string]string{"x": "tls:\n  secret: told-tls\n"}},
	)
	c.custom(t, certificates, certificateDoc(namespace, "shop-cert", "of-certificate-tls"))
	c.custom(t, thingsGVR, fmt.Sprintf(`{"apiVersion":"example.com/v1","kind":"Thing","metadata":{"namespace":%q,"name":"some"},"spec":{"anything":{"tlsSecret":"in-thing-tls"}}}`, namespace))
}

var thingsGVR = schema.GroupVersionResource{Group: "example.com", Version: "v1", Resource: "things"}

func furnished(t *testing.T, s *inventory.Snapshot, namespace string) {
	t.Helper()
	want(t, s, inventory.SecretRef(namespace, "idle-tls"), inventory.Unused)
	want(t, s, inventory.SecretRef(namespace, "served-tls"), inventory.Used)
	want(t, s, inventory.SecretRef(namespace, "told-tls"), inventory.Unknown)
	want(t, s, inventory.SecretRef(namespace, "in-thing-tls"), inventory.Unknown)
	want(t, s, inventory.SecretRef(namespace, "of-certificate-tls"), inventory.Used)
	want(t, s, inventory.SecretRef(namespace, "labelled-tls"), inventory.Unused)
	want(t, s, inventory.CertificateRef(namespace, "shop-cert"), inventory.Unused)
	if !s.Exists(inventory.SecretRef(namespace, "password")) {
		t.Error("a Secret without a certificate is not known")
	}
	if len(s.Gaps) > 0 {
		t.Errorf("gaps %v", s.Gaps)
	}
}

func TestLook(t *testing.T) {
	c := needCluster(t)
	c.define(t, append(certManagerCRDs(t), lenient("example.com", "Thing", "things", "v1"))...)
	c.furnish(t, "look")
	everything := c.look(t, c.cfg, Options{})
	furnished(t, everything, "look")

	t.Run("pages of any size and lists in any order give the same", func(t *testing.T) {
		for _, size := range []int64{1, 2, 7} {
			var o Options
			o.PageSize = size
			cfg := rest.CopyConfig(c.cfg)
			if size == 7 {
				// Answers come in another order.
				cfg.Wrap(func(next http.RoundTripper) http.RoundTripper {
					return roundTripper(func(r *http.Request) (*http.Response, error) {
						time.Sleep(time.Duration(len(r.URL.Path)*7%13) * time.Millisecond)
						return next.RoundTrip(r)
					})
				})
			}
			if s := c.look(t, cfg, o); !reflect.DeepEqual(s, everything) {
				t.Errorf("pages of %d: another Snapshot: %d Secrets and %d edges, want %d and %d", size, len(s.Secrets), len(s.Edges()), len(everything.Secrets), len(everything.Edges()))
			}
		}
	})
	t.Run("compressed", func(t *testing.T) {
		if s := c.look(t, c.cfg, Options{Compress: true}); !reflect.DeepEqual(s, everything) {
			t.Error("another Snapshot")
		}
	})
	t.Run("no Secret's body is asked for", func(t *testing.T) { c.noBodies(t) })
	t.Run("objects for a dump", func(t *testing.T) { c.dumps(t, everything) })
	t.Run("a stored object that does not fit its kind", func(t *testing.T) {
		c.define(t, lenient("networking.internal.knative.dev", "Ingress", "ingresses", "v1alpha1"))
		furnished(t, c.look(t, c.cfg, Options{}), "look")
		c.custom(t, schema.GroupVersionResource{Group: "networking.internal.knative.dev", Version: "v1alpha1", Resource: "ingresses"},
			`{"apiVersion":"networking.internal.knative.dev/v1alpha1","kind":"Ingress","metadata":{"namespace":"look","name":"odd"},"spec":{"tls":"text"}}`)
		c.gap(t, "ingress.networking.internal.knative.dev", "look")
	})
	t.Run("a stored object that cannot be converted", func(t *testing.T) {
		crd := lenient("convert.example.com", "Odd", "odds", "v1alpha1", "v1")
		path := "/convert"
		crd.Spec.Conversion = &apiextensionsv1.CustomResourceConversion{Strategy: apiextensionsv1.WebhookConverter, Webhook: &apiextensionsv1.WebhookConversion{
			ConversionReviewVersions: []string{"v1"},
			ClientConfig:             &apiextensionsv1.WebhookClientConfig{Service: &apiextensionsv1.ServiceReference{Namespace: "look", Name: "nobody", Path: &path}}}}
		c.define(t, crd)
		furnished(t, c.look(t, c.cfg, Options{}), "look")
		c.custom(t, schema.GroupVersionResource{Group: "convert.example.com", Version: "v1alpha1", Resource: "odds"},
			`{"apiVersion":"convert.example.com/v1alpha1","kind":"Odd","metadata":{"namespace":"look","name":"odd"}}`)
		c.gap(t, "odd.convert.example.com", "look")
		// It could not be deleted either while conversion fails.
		stored, err := c.crds.ApiextensionsV1().CustomResourceDefinitions().Get(context.Background(), crd.Name, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		stored.Spec.Conversion = &apiextensionsv1.CustomResourceConversion{Strategy: apiextensionsv1.NoneConverter}
		if _, err := c.crds.ApiextensionsV1().CustomResourceDefinitions().Update(context.Background(), stored, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
	})
	t.Run("without one permission", func(t *testing.T) { c.withoutEach(t) })
	t.Run("one namespace only", func(t *testing.T) { c.oneNamespace(t) })
}

// gap expects a Gap of a kind, and that nothing is unused.
func (c *cluster) gap(t *testing.T, kind, namespace string) {
	t.Helper()
	s := c.look(t, c.cfg, Options{})
	if !s.HasGap(kind) {
		t.Errorf("gaps %v, want one of %s", s.Gaps, kind)
	}
	want(t, s, inventory.SecretRef(namespace, "idle-tls"), inventory.Unknown)
	want(t, s, inventory.SecretRef(namespace, "served-tls"), inventory.Used)
}

// recorder keeps what goes over the wire about Secrets.
type recorder struct {
	mu      sync.Mutex
	methods map[string]int
	accepts []string
	bodies  bytes.Buffer
}

func (r *recorder) wrap(next http.RoundTripper) http.RoundTripper {
	return roundTripper(func(req *http.Request) (*http.Response, error) {
		resp, err := next.RoundTrip(req)
		r.mu.Lock()
		defer r.mu.Unlock()
		r.methods[req.Method]++
		if err == nil && strings.HasSuffix(req.URL.Path, "/secrets") {
			r.accepts = append(r.accepts, req.Header.Get("Accept"))
			body, err := io.ReadAll(resp.Body)
			if err != nil {
				return nil, err
			}
			r.bodies.Write(body)
			resp.Body = io.NopCloser(bytes.NewReader(body))
		}
		return resp, err
	})
}

func (c *cluster) noBodies(t *testing.T) {
	c.grant(t, "reader", rbacv1.PolicyRule{APIGroups: []string{"*"}, Resources: []string{"*"}, Verbs: []string{"list"}})
	r := &recorder{methods: map[string]int{}}
	cfg := c.as("reader")
	cfg.Wrap(r.wrap)
	furnished(t, c.look(t, cfg, Options{}), "look")
	if len(r.accepts) != 2 {
		t.Errorf("%d requests for Secrets, want 2", len(r.accepts))
	}
	for _, a := range r.accepts {
		if a != asMetadata {
			t.Errorf("Secrets were asked for as %q", a)
		}
	}
	for _, key := range c.keys {
		block, _ := pem.Decode(key)
		for _, text := range [][]byte{key, block.Bytes, []byte(base64.StdEncoding.EncodeToString(key)), []byte(base64.StdEncoding.EncodeToString(block.Bytes))} {
			if bytes.Contains(r.bodies.Bytes(), text) {
				t.Fatal("a private key came over the wire")
			}
		}
	}
	if len(r.methods) != 1 || r.methods[http.MethodGet] == 0 {
		t.Errorf("methods %v", r.methods)
	}
	// The same from the API server's side.
	events := c.audit(t, "reader")
	lists, secrets := 0, 0
	for _, e := range events {
		switch e.Verb {
		case "list":
			lists++
			if e.ObjectRef.Resource == "secrets" {
				secrets++
			}
		case "get":
			if !strings.HasPrefix(e.RequestURI, "/api?") && !strings.HasPrefix(e.RequestURI, "/apis?") && e.RequestURI != "/api" && e.RequestURI != "/apis" {
				t.Errorf("get of %s", e.RequestURI)
			}
		default:
			t.Errorf("%s of %s", e.Verb, e.RequestURI)
		}
	}
	if lists < 20 || secrets != 2 {
		t.Errorf("the audit log has %d lists, %d of them of Secrets", lists, secrets)
	}
}

type auditEvent struct {
	Verb, RequestURI string
	ImpersonatedUser struct{ Username string }
	ObjectRef        struct{ Resource string }
}

// audit reads what the API server's audit log has about a user.
func (c *cluster) audit(t *testing.T, user string) (out []auditEvent) {
	t.Helper()
	content, err := os.ReadFile(c.stack.AuditLog)
	if err != nil {
		t.Fatal(err)
	}
	for line := range bytes.Lines(content) {
		var e auditEvent
		if json.Unmarshal(line, &e) == nil && e.ImpersonatedUser.Username == user && e.RequestURI != "" && !strings.Contains(e.RequestURI, "selfsubjectaccessreviews") {
			out = append(out, e)
		}
	}
	return out
}

func (c *cluster) grant(t *testing.T, user string, rules ...rbacv1.PolicyRule) {
	t.Helper()
	rules = append(rules, rbacv1.PolicyRule{NonResourceURLs: []string{"/api", "/api/*", "/apis", "/apis/*"}, Verbs: []string{"get"}})
	c.create(t,
		&rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: user}, Rules: rules},
		&rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: user}, RoleRef: rbacv1.RoleRef{APIGroup: "rbac.authorization.k8s.io", Kind: "ClusterRole", Name: user},
			Subjects: []rbacv1.Subject{{Kind: "User", APIGroup: "rbac.authorization.k8s.io", Name: user}}})
	// The authorizer hears of it a moment later.
	c.await(t, user, "", rules[0].APIGroups[0], rules[0].Resources[0])
}

func (c *cluster) await(t *testing.T, user, namespace, group, resource string) {
	t.Helper()
	client, err := kubernetes.NewForConfig(c.as(user))
	if err != nil {
		t.Fatal(err)
	}
	if group == "*" {
		group, resource = "", "configmaps"
	}
	for {
		r, err := client.AuthorizationV1().SelfSubjectAccessReviews().Create(context.Background(), &authv1.SelfSubjectAccessReview{Spec: authv1.SelfSubjectAccessReviewSpec{
			ResourceAttributes: &authv1.ResourceAttributes{Verb: "list", Namespace: namespace, Group: group, Resource: resource}}}, metav1.CreateOptions{})
		if err == nil && r.Status.Allowed {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// withoutEach takes list permission on one kind away, for every kind in turn.
func (c *cluster) withoutEach(t *testing.T) {
	l := &look{o: Options{Timeout: time.Minute}, c: inventory.NewCollector()}
	all, err := l.discover(context.Background(), c.cfg)
	if err != nil {
		t.Fatal(err)
	}
	byGroup := map[string][]string{}
	for _, r := range all {
		byGroup[r.Group] = append(byGroup[r.Group], r.Name)
	}
	n := 0
	for i, r := range all {
		if irrelevant(r) {
			continue
		}
		n++
		user := fmt.Sprintf("without-%d", i)
		var rules []rbacv1.PolicyRule
		for g, names := range byGroup {
			names = slices.DeleteFunc(slices.Clone(names), func(name string) bool { return g == r.Group && name == r.Name })
			if len(names) > 0 {
				rules = append(rules, rbacv1.PolicyRule{APIGroups: []string{g}, Resources: names, Verbs: []string{"list"}})
			}
		}
		c.grant(t, user, rules...)
		s := c.look(t, c.as(user), Options{})
		if len(s.Gaps) != 1 || s.Gaps[0].Kind != r.gapKind() || !strings.Contains(s.Gaps[0].Reason, "forbidden") {
			t.Errorf("without %s: gaps %v", r.gapKind(), s.Gaps)
		}
		for i := range s.Secrets {
			if j := s.Judge(s.Secrets[i].Ref); j.Verdict == inventory.Unused {
				t.Errorf("without %s: %s is unused", r.gapKind(), s.Secrets[i].Ref)
			}
		}
		for i := range s.Certificates {
			if j := s.Judge(s.Certificates[i].Ref); j.Verdict == inventory.Unused {
				t.Errorf("without %s: %s is unused", r.gapKind(), s.Certificates[i].Ref)
			}
		}
		switch r.gapKind() {
		case "secret":
			want(t, s, inventory.CertificateRef("look", "shop-cert"), inventory.Unknown)
		case "certificate.cert-manager.io":
			want(t, s, inventory.SecretRef("look", "of-certificate-tls"), inventory.Unknown)
		case "ingress.networking.k8s.io":
			want(t, s, inventory.SecretRef("look", "served-tls"), inventory.Unknown)
		default:
			want(t, s, inventory.SecretRef("look", "served-tls"), inventory.Used)
			want(t, s, inventory.SecretRef("look", "idle-tls"), inventory.Unknown)
		}
	}
	if n < 40 {
		t.Errorf("only %d kinds", n)
	}
}

// oneNamespace may list in one namespace only: what is there is reported, and
// nothing is unused.
func (c *cluster) oneNamespace(t *testing.T) {
	const user = "of-one-namespace"
	c.create(t,
		&rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: user}, Rules: []rbacv1.PolicyRule{{APIGroups: []string{"*"}, Resources: []string{"*"}, Verbs: []string{"list"}}}},
		&rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: user + "-discovery"}, Rules: []rbacv1.PolicyRule{{NonResourceURLs: []string{"/api", "/api/*", "/apis", "/apis/*"}, Verbs: []string{"get"}}}},
		&rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: user}, RoleRef: rbacv1.RoleRef{APIGroup: "rbac.authorization.k8s.io", Kind: "ClusterRole", Name: user + "-discovery"},
			Subjects: []rbacv1.Subject{{Kind: "User", APIGroup: "rbac.authorization.k8s.io", Name: user}}},
		&rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Namespace: "look", Name: user}, RoleRef: rbacv1.RoleRef{APIGroup: "rbac.authorization.k8s.io", Kind: "ClusterRole", Name: user},
			Subjects: []rbacv1.Subject{{Kind: "User", APIGroup: "rbac.authorization.k8s.io", Name: user}}})
	c.await(t, user, "look", "", "secrets")
	s := c.look(t, c.as(user), Options{Namespaces: []string{"look"}})
	want(t, s, inventory.SecretRef("look", "idle-tls"), inventory.Unknown)
	want(t, s, inventory.SecretRef("look", "served-tls"), inventory.Used)
	want(t, s, inventory.CertificateRef("look", "shop-cert"), inventory.Unknown)
	for _, kind := range []string{"secret", "configmap", "node", "thing.example.com"} {
		if !s.HasGap(kind) {
			t.Errorf("no gap of %s", kind)
		}
	}
	for i := range s.Gaps {
		if s.Gaps[i].Kind == "secret" && !strings.HasPrefix(s.Gaps[i].Reason, "read in look only: secrets is forbidden") {
			t.Errorf("gap %v", s.Gaps[i])
		}
	}
}

// dumps checks what Object hands out: enough to make the same Snapshot, and no
// data of a Secret.
func (c *cluster) dumps(t *testing.T, everything *inventory.Snapshot) {
	again := inventory.NewCollector()
	type object struct {
		group, kind string
		doc         []byte
	}
	var later []object
	c.look(t, c.cfg, Options{Object: func(group, version, kind string, doc []byte) {
		var o struct {
			APIVersion, Kind string
			Metadata         metav1.ObjectMeta
			Data             map[string]any
		}
		if err := json.Unmarshal(doc, &o); err != nil {
			t.Error(err)
		}
		if want := strings.TrimPrefix(group+"/"+version, "/"); o.APIVersion != want || o.Kind != kind {
			t.Errorf("%s %s is a %s %s", want, kind, o.APIVersion, o.Kind)
		}
		if kind == "Secret" && (len(o.Data) > 0 || o.Metadata.Annotations[lastApplied] != "") {
			t.Errorf("data of %s", o.Metadata.Name)
		}
		switch kind {
		case "Secret", "Certificate":
			if _, err := again.Add(group, kind, doc); err != nil {
				t.Error(err)
			}
		default:
			later = append(later, object{group, kind, bytes.Clone(doc)})
		}
	}})
	again.Freeze()
	for _, o := range later {
		if _, err := again.Add(o.group, o.kind, o.doc); err != nil {
			t.Error(err)
		}
	}
	s := again.Snapshot(time.Unix(0, 0))
	if !reflect.DeepEqual(s.Objects, everything.Objects) {
		t.Errorf("other objects: %d Secrets, %d Consumers, want %d, %d", len(s.Secrets), len(s.Consumers), len(everything.Secrets), len(everything.Consumers))
	}
}
