// Package consolidate_test carries consolidations out on the real stack, with
// handshakes and requests at Envoy going on all the time.
package consolidate_test

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"

	"github.com/certherd/certherd/api/v1alpha1"
	"github.com/certherd/certherd/apply"
	"github.com/certherd/certherd/carry"
	carrylive "github.com/certherd/certherd/carry/live"
	"github.com/certherd/certherd/consolidate"
	"github.com/certherd/certherd/controller"
	"github.com/certherd/certherd/e2e/scenario"
	"github.com/certherd/certherd/e2e/stack"
	"github.com/certherd/certherd/e2e/suite"
	"github.com/certherd/certherd/gate"
	"github.com/certherd/certherd/inventory"
	"github.com/certherd/certherd/inventory/live"
	"github.com/certherd/certherd/proposal"
)

const (
	home = "certherd-7f3"
	// carrier is who carries out, with the rights of that and no others.
	carrier = "carrier-7f3"
)

var (
	certificates    = schema.GroupVersionResource{Group: "cert-manager.io", Version: "v1", Resource: "certificates"}
	kCertificates   = schema.GroupVersionResource{Group: "networking.internal.knative.dev", Version: "v1alpha1", Resource: "certificates"}
	knativeServices = schema.GroupVersionResource{Group: "serving.knative.dev", Version: "v1", Resource: "services"}
	domainMappings  = schema.GroupVersionResource{Group: "serving.knative.dev", Version: "v1beta1", Resource: "domainmappings"}
	kIngresses      = schema.GroupVersionResource{Group: "networking.internal.knative.dev", Version: "v1alpha1", Resource: "ingresses"}
)

// world is the stack that all tests share.
type world struct {
	stack *stack.Stack
	cfg   *rest.Config
	c     *scenario.Cluster
	roots *x509.CertPool
}

var shared *world

func TestMain(m *testing.M) {
	if os.Getenv(childEnv) != "" {
		os.Exit(child())
	}
	os.Exit(suite.Run(m))
}

func setUp(t *testing.T) *world {
	t.Helper()
	if testing.Short() {
		t.Skip("starts the whole stack")
	}
	if shared != nil {
		return shared
	}
	ctx := context.Background()
	s, err := suite.Start(stack.Options{Level: stack.Full})
	must(t, err)
	cfg, err := s.RESTConfig()
	must(t, err)
	w, err := connect(s, cfg)
	must(t, err)
	shared = w
	must(t, w.c.Namespaces(ctx, home))
	crd, err := os.ReadFile("../../manifests/crd/consolidations.yaml")
	must(t, err)
	must(t, w.c.Apply(ctx, strings.ReplaceAll(string(crd), "{{", "{ {"), nil))
	w.until(t, "the custom resource to be served", nil, nil, func() bool {
		_, err := w.c.Dynamic.Resource(v1alpha1.GroupVersionResource).List(ctx, metav1.ListOptions{})
		return err == nil
	})
	role := &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: carrier}, Rules: carrylive.Rights()}
	_, err = w.c.Typed.RbacV1().ClusterRoles().Create(ctx, role, metav1.CreateOptions{})
	must(t, err)
	binding := &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: carrier}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: carrier},
		Subjects: []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: "User", Name: carrier}},
	}
	_, err = w.c.Typed.RbacV1().ClusterRoleBindings().Create(ctx, binding, metav1.CreateOptions{})
	must(t, err)
	// The authority of the ClusterIssuer ca: clients trust it and nothing else.
	pem, err := w.authority(ctx)
	must(t, err)
	w.roots = x509.NewCertPool()
	if !w.roots.AppendCertsFromPEM(pem) {
		t.Fatal("the issuer has no certificate")
	}
	return w
}

func connect(s *stack.Stack, cfg *rest.Config) (*world, error) {
	c, err := scenario.Connect(cfg, os.Stderr)
	return &world{stack: s, cfg: cfg, c: c}, err
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (w *world) authority(ctx context.Context) ([]byte, error) {
	o, err := w.c.Dynamic.Resource(schema.GroupVersionResource{Group: "cert-manager.io", Version: "v1", Resource: "clusterissuers"}).Get(ctx, stack.IssuerCA, metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	name, _, _ := unstructured.NestedString(o.Object, "spec", "ca", "secretName")
	secret, err := w.c.Typed.CoreV1().Secrets("cert-manager").Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	return secret.Data["tls.crt"], nil
}

// services makes n services in a namespace and returns their hosts.
func services(ns string, n int) (list []scenario.Service, hosts []string) {
	for i := range n {
		name := fmt.Sprintf("svc-%03d", i)
		list = append(list, scenario.Service{Namespace: ns, Name: name})
		hosts = append(hosts, name+"."+ns+"."+stack.Domain)
	}
	return list, hosts
}

// propose makes the Consolidation of a namespace's services.
func (w *world) propose(t *testing.T, ns string) *v1alpha1.Consolidation {
	t.Helper()
	ctx := context.Background()
	domain := ns + "." + stack.Domain
	name := "wildcard-" + strings.ReplaceAll(domain, ".", "-")
	c := &v1alpha1.Consolidation{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name}}
	c.Spec.Proposal = v1alpha1.Proposal{
		Revision: 1, Wildcards: []string{"*." + domain},
		IssuerRef:  v1alpha1.IssuerRef{Group: "cert-manager.io", Kind: "ClusterIssuer", Name: stack.IssuerCA},
		Source:     v1alpha1.Source{Kind: v1alpha1.SourceKCertificate, Name: name, WildcardDomain: stack.Domain},
		SecretName: name,
	}
	ingresses, err := w.c.Dynamic.Resource(kIngresses).Namespace(ns).List(ctx, metav1.ListOptions{})
	must(t, err)
	kcerts, err := w.c.Dynamic.Resource(kCertificates).Namespace(ns).List(ctx, metav1.ListOptions{})
	must(t, err)
	for _, k := range kcerts.Items {
		hosts, _, _ := unstructured.NestedStringSlice(k.Object, "spec", "dnsNames")
		secret, _, _ := unstructured.NestedString(k.Object, "spec", "secretName")
		if len(k.GetOwnerReferences()) == 0 || k.GetOwnerReferences()[0].Kind != "Route" || !inventory.CoversAll(c.Spec.Wildcards, hosts) {
			continue
		}
		s, err := w.c.Typed.CoreV1().Secrets(ns).Get(ctx, secret, metav1.GetOptions{})
		must(t, err)
		m := v1alpha1.Member{Kind: v1alpha1.SourceKCertificate, Name: k.GetName(), UID: string(k.GetUID()), SecretName: secret, SecretUID: string(s.UID), Hosts: hosts}
		for _, i := range ingresses.Items {
			if b, _ := i.MarshalJSON(); bytes.Contains(b, []byte(`"secretName":"`+secret+`"`)) {
				m.Consumers = append(m.Consumers, v1alpha1.Consumer{Kind: v1alpha1.ConsumerKIngress, Name: i.GetName(), UID: string(i.GetUID()), Hosts: hosts})
			}
		}
		c.Spec.Members = append(c.Spec.Members, m)
		c.Spec.Hosts = append(c.Spec.Hosts, hosts...)
	}
	slices.Sort(c.Spec.Hosts)
	return c
}

// approve stores a Consolidation as one that a person has approved.
func (w *world) approve(t *testing.T, c *v1alpha1.Consolidation) {
	t.Helper()
	ctx := context.Background()
	c.Spec.ApprovedDigest = c.Spec.Digest()
	u, err := c.ToUnstructured()
	must(t, err)
	r := w.c.Dynamic.Resource(v1alpha1.GroupVersionResource).Namespace(c.Namespace)
	u, err = r.Create(ctx, u, metav1.CreateOptions{})
	must(t, err)
	must(t, unstructured.SetNestedField(u.Object, string(v1alpha1.Approved), "status", "phase"))
	must(t, unstructured.SetNestedField(u.Object, c.Spec.Digest(), "status", "digest"))
	_, err = r.UpdateStatus(ctx, u, metav1.UpdateOptions{})
	must(t, err)
}

// proposeAll has certherd propose what it finds in the whole cluster, and approves
// what it proposes in some namespaces.
func (w *world) proposeAll(t *testing.T, teams ...string) {
	t.Helper()
	ctx := context.Background()
	p, err := proposal.New(w.cfg, proposal.Options{Keep: time.Hour})
	must(t, err)
	sync := func() {
		t.Helper()
		snapshot, _, err := live.Look(ctx, w.cfg, live.Options{Proof: true, Now: time.Now})
		must(t, err)
		o := controller.Defaults().Consolidate
		o.AcceptDrains, o.DomainMappings = true, true
		out, err := p.Sync(ctx, consolidate.Proposals(snapshot, o), nil)
		must(t, err)
		for _, x := range out {
			must(t, x.Err)
		}
	}
	sync()
	for _, ns := range teams {
		c := w.get(t, ns)
		if c.Status.Phase != v1alpha1.Proposed {
			t.Fatalf("%s is %s: %s %v", ns, c.Status.Phase, c.Status.Message, c.Status.Blockers)
		}
		_, err := p.Approve(ctx, c, proposal.Author{By: "alice"})
		must(t, err)
	}
	sync()
	for _, ns := range teams {
		if c := w.get(t, ns); c.Status.Phase != v1alpha1.Approved {
			t.Fatalf("%s is %s: %s %v", ns, c.Status.Phase, c.Status.Message, c.Status.Blockers)
		}
	}
}

// find is the Consolidation of a namespace, nil if there is none.
func (w *world) find(t *testing.T, ns string) *v1alpha1.Consolidation {
	t.Helper()
	list, err := w.c.Dynamic.Resource(v1alpha1.GroupVersionResource).Namespace(ns).List(context.Background(), metav1.ListOptions{})
	must(t, err)
	if len(list.Items) == 0 {
		return nil
	}
	if len(list.Items) != 1 {
		t.Fatalf("%d consolidations in %s", len(list.Items), ns)
	}
	c, err := v1alpha1.FromUnstructured(&list.Items[0])
	must(t, err)
	return c
}

func (w *world) get(t *testing.T, ns string) *v1alpha1.Consolidation {
	t.Helper()
	c := w.find(t, ns)
	if c == nil {
		t.Fatalf("no consolidation in %s", ns)
	}
	return c
}

// options are those of a Carrier that takes its time to soak and no more.
func (w *world) options(logf func(string, ...any)) carrylive.Options {
	o := carrylive.Defaults()
	o.Soak, o.Gateway = 3*time.Second, w.stack.GatewayTLS
	o.Undelete = func(ctx context.Context, ref inventory.Ref) error {
		u, err := apply.NewUndoer(w.cfg, home)
		if err != nil {
			return err
		}
		u.OptOut = false
		_, err = u.Object(ctx, ref)
		return err
	}
	o.Tell = func(c *v1alpha1.Consolidation, d carry.Decision, err error) {
		verbs := ""
		for _, x := range d.Writes {
			verbs += fmt.Sprintf(" [%s %d]", x.Verb, len(x.Objects))
		}
		logf("%s %s: %s: %s%s %v", time.Now().Format("05.0"), c.Namespace, d.Phase, d.Message, verbs, err)
	}
	return o
}

// carrier is a Carrier, together with what sweeps in rounds.
func (w *world) carrier(logf func(string, ...any)) (*carrylive.Carrier, *sweeper, error) {
	s := &sweeper{w: w, logf: logf}
	o := w.options(logf)
	o.Sweep = s.want
	r, err := w.carry(o)
	return r, s, err
}

// carry is a Carrier with its own rights.
func (w *world) carry(o carrylive.Options) (*carrylive.Carrier, error) {
	cfg := rest.CopyConfig(w.cfg)
	cfg.Impersonate.UserName = carrier
	return carrylive.New(cfg, o)
}

// sweeper keeps the rounds that take away what was replaced.
type sweeper struct {
	w    *world
	logf func(string, ...any)
	old  []inventory.Ref
}

func (s *sweeper) want(_ *v1alpha1.Consolidation, old []inventory.Ref) { s.old = append(s.old, old...) }

func (s *sweeper) round(ctx context.Context) error {
	if len(s.old) == 0 {
		return nil
	}
	old := s.old
	s.old = nil
	look := func(ctx context.Context) (*inventory.Snapshot, error) {
		x, _, err := live.Look(ctx, s.w.cfg, live.Options{Proof: true, Now: time.Now})
		return x, err
	}
	snapshot, err := look(ctx)
	if err != nil {
		return err
	}
	co := controller.Defaults()
	co.GC.MinAge = 0
	co.Gate = gate.Policy{Terms: map[gate.Rule]gate.Terms{gate.GC: {Budget: gate.Budget{Count: gate.NoLimit, Share: 1}}}, MaxShare: 1}
	cleared, held, err := controller.Sweep(snapshot, co, old)
	if err != nil {
		return err
	}
	for _, h := range held {
		s.logf("held: %s %s: %s", h.Change.Why.Reason, h.Change.Why.Object, h.Why)
	}
	o := apply.Defaults()
	o.Namespace, o.Look = home, look
	a, err := apply.New(s.w.cfg, o)
	if err != nil {
		return err
	}
	for _, x := range a.Run(ctx, cleared) {
		if x.Status != apply.Done && x.Status != apply.AlreadyDone && !strings.Contains(x.Why, "grace period") {
			s.logf("%s %s: %s %s", x.Action(), x.Object(), x.Status, x.Why)
		}
	}
	return nil
}

// until carries on until a condition holds.
func (w *world) until(t *testing.T, what string, r *carrylive.Carrier, s *sweeper, done func() bool) {
	t.Helper()
	ctx := context.Background()
	for end := time.Now().Add(10 * time.Minute); !done(); {
		if time.Now().After(end) {
			t.Fatalf("waited in vain for %s", what)
		}
		if r != nil {
			if _, err := r.Pass(ctx); err != nil {
				t.Log(err)
			}
			if err := s.round(ctx); err != nil {
				t.Log(err)
			}
		}
		time.Sleep(200 * time.Millisecond)
	}
}

// client asks for hosts in a loop, as strict clients do.
type client struct {
	w        *world
	address  string
	text     string
	end      context.CancelFunc
	done     sync.WaitGroup
	requests atomic.Int64
	mutex    sync.Mutex
	failed   []string
}

// watch begins to ask.
func (w *world) watch(hosts []string) *client { return w.watchAt(w.stack.GatewayTLS, hosts) }

func (w *world) watchAt(address string, hosts []string) *client {
	return w.watchFor(address, hosts, "")
}

// watchFor begins to ask for hosts whose answers all have some text in them; empty: each
// its own name.
func (w *world) watchFor(address string, hosts []string, text string) *client {
	ctx, end := context.WithCancel(context.Background())
	c := &client{w: w, address: address, text: text, end: end}
	const atOnce = 4
	for i := range atOnce {
		c.done.Go(func() {
			for n := i; ctx.Err() == nil; n += atOnce {
				if err := c.ask(ctx, hosts[n%len(hosts)]); err != nil && ctx.Err() == nil {
					c.mutex.Lock()
					c.failed = append(c.failed, fmt.Sprintf("%s %s: %v", time.Now().Format("15:04:05.000"), hosts[n%len(hosts)], err))
					c.mutex.Unlock()
				}
				time.Sleep(25 * time.Millisecond)
			}
		})
	}
	return c
}

func (c *client) ask(ctx context.Context, host string) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	transport := &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, c.address)
		},
		TLSClientConfig: &tls.Config{RootCAs: c.w.roots, ServerName: host, MinVersion: tls.VersionTLS12},
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+host+"/", nil)
	if err != nil {
		return err
	}
	response, err := (&http.Client{Transport: transport}).Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	b, err := io.ReadAll(response.Body)
	if err != nil {
		return err
	}
	c.requests.Add(1)
	if response.StatusCode != http.StatusOK || !strings.Contains(string(b), cmp.Or(c.text, host)) {
		return fmt.Errorf("%s: %.100s", response.Status, b)
	}
	return nil
}

// stop ends it, and fails the test if anything failed.
func (c *client) stop(t *testing.T) {
	t.Helper()
	c.end()
	c.done.Wait()
	t.Logf("%d requests with handshakes, %d failed", c.requests.Load(), len(c.failed))
	if c.requests.Load() == 0 {
		t.Error("the client asked nothing")
	}
	for i, f := range c.failed {
		if i == 10 {
			break
		}
		t.Error(f)
	}
}

// served are the Secrets that the ingresses of a namespace name, by host.
func (w *world) served(t *testing.T, ns string) map[string]string {
	t.Helper()
	out := map[string]string{}
	list, err := w.c.Dynamic.Resource(kIngresses).Namespace(ns).List(context.Background(), metav1.ListOptions{})
	must(t, err)
	for _, i := range list.Items {
		entries, _, _ := unstructured.NestedSlice(i.Object, "spec", "tls")
		for _, e := range entries {
			hosts, _, _ := unstructured.NestedStringSlice(e.(map[string]any), "hosts")
			for _, h := range hosts {
				out[h], _ = e.(map[string]any)["secretName"].(string)
			}
		}
	}
	return out
}

// routesRest waits until nothing has changed Routes and their Ingresses for a while.
func (w *world) routesRest(t *testing.T, ns string) {
	t.Helper()
	const rest = 3 * time.Second
	versions := func() string {
		var out strings.Builder
		for _, r := range []schema.GroupVersionResource{{Group: "serving.knative.dev", Version: "v1", Resource: "routes"}, kIngresses} {
			list, err := w.c.Dynamic.Resource(r).Namespace(ns).List(t.Context(), metav1.ListOptions{})
			must(t, err)
			for _, o := range list.Items {
				fmt.Fprintf(&out, "%s=%s ", o.GetName(), o.GetResourceVersion())
			}
		}
		return out.String()
	}
	last, since := versions(), time.Now()
	for end := since.Add(5 * time.Minute); time.Since(since) < rest; time.Sleep(100 * time.Millisecond) {
		if now := versions(); now != last {
			last, since = now, time.Now()
		}
		if time.Now().After(end) {
			t.Fatalf("Routes of %s do not come to rest", ns)
		}
	}
}

// names are those of all objects of a resource in a namespace.
func (w *world) names(t *testing.T, r schema.GroupVersionResource, ns string) []string {
	t.Helper()
	list, err := w.c.Dynamic.Resource(r).Namespace(ns).List(context.Background(), metav1.ListOptions{})
	must(t, err)
	var out []string
	for _, o := range list.Items {
		out = append(out, o.GetName())
	}
	return out
}

// loaded are the serial numbers of the certificates that Envoy has, of some hosts.
func (w *world) loaded(t *testing.T, parents ...string) int {
	t.Helper()
	r, err := http.Get("http://" + w.stack.EnvoyAdmin + "/certs")
	must(t, err)
	defer r.Body.Close()
	var answer struct {
		Certificates []struct {
			CertChain []struct {
				SerialNumber    string `json:"serial_number"`
				SubjectAltNames []struct {
					DNS string `json:"dns"`
				} `json:"subject_alt_names"`
			} `json:"cert_chain"`
		}
	}
	must(t, json.NewDecoder(r.Body).Decode(&answer))
	serials := map[string]bool{}
	for _, c := range answer.Certificates {
		for _, x := range c.CertChain {
			for _, n := range x.SubjectAltNames {
				if _, p, _ := strings.Cut(n.DNS, "."); slices.Contains(parents, p) {
					serials[x.SerialNumber] = true
				}
			}
		}
	}
	return len(serials)
}

// envoy reads numbers from Envoy's statistics.
func (w *world) envoy(t *testing.T, names ...string) (out []float64) {
	t.Helper()
	for _, n := range names {
		r, err := http.Get("http://" + w.stack.EnvoyAdmin + "/stats?filter=^" + n + "$")
		must(t, err)
		b, err := io.ReadAll(r.Body)
		r.Body.Close()
		must(t, err)
		_, v, _ := strings.Cut(strings.TrimSpace(string(b)), ": ")
		x, err := strconv.ParseFloat(v, 64)
		must(t, err)
		out = append(out, x)
	}
	return out
}

// settled is what Envoy has allocated, in MiB, once it has been started anew and has
// served every host (its documentation: operations/admin, GET /memory). One that was
// given many listeners before has more, long after they have drained.
func (w *world) settled(t *testing.T, hosts []string) float64 {
	t.Helper()
	must(t, w.stack.Signal("envoy", syscall.SIGKILL))
	c := &client{w: w, address: w.stack.GatewayTLS}
	for _, h := range hosts {
		w.until(t, h+" to answer", nil, nil, func() bool { return c.ask(context.Background(), h) == nil })
	}
	allocated := func() float64 {
		r, err := http.Get("http://" + w.stack.EnvoyAdmin + "/memory")
		must(t, err)
		defer r.Body.Close()
		var x struct {
			Allocated uint64 `json:",string"`
		}
		must(t, json.NewDecoder(r.Body).Decode(&x))
		return float64(x.Allocated) / (1 << 20)
	}
	least, same := math.Inf(1), 0
	w.until(t, "Envoy to settle", nil, nil, func() bool {
		time.Sleep(time.Second)
		for _, n := range w.envoy(t, "listener_manager.total_filter_chains_draining", "listener_manager.total_listeners_draining") {
			if n > 0 {
				least, same = math.Inf(1), 0
				return false
			}
		}
		if m := allocated(); m < least-.1 {
			least, same = m, 0
		} else {
			same++
		}
		return same == 5
	})
	return least
}

// chains counts the filter chains of Envoy's TLS listener that have a server name
// below one of some domains.
func (w *world) chains(t *testing.T, parents ...string) int {
	t.Helper()
	r, err := http.Get("http://" + w.stack.EnvoyAdmin + "/config_dump?resource=dynamic_listeners")
	must(t, err)
	defer r.Body.Close()
	var dump struct {
		Configs []struct {
			Name        string
			ActiveState struct {
				Listener struct {
					Chains []struct {
						Match struct {
							Names []string `json:"server_names"`
						} `json:"filter_chain_match"`
					} `json:"filter_chains"`
				}
			} `json:"active_state"`
		}
	}
	must(t, json.NewDecoder(r.Body).Decode(&dump))
	n := 0
	for _, l := range dump.Configs {
		if !strings.HasSuffix(l.Name, "8443") {
			continue
		}
		for _, c := range l.ActiveState.Listener.Chains {
			if slices.ContainsFunc(c.Match.Names, func(h string) bool {
				_, p, _ := strings.Cut(h, ".")
				return slices.Contains(parents, p)
			}) {
				n++
			}
		}
	}
	return n
}

func (w *world) patch(t *testing.T, r schema.GroupVersionResource, ns, name, merge string) {
	t.Helper()
	_, err := w.c.Dynamic.Resource(r).Namespace(ns).Patch(context.Background(), name, types.MergePatchType, []byte(merge), metav1.PatchOptions{FieldManager: "somebody"})
	must(t, err)
}
