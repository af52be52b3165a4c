package service_test

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/http"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"

	"github.com/certherd/certherd/e2e/scenario"
	"github.com/certherd/certherd/plan"
)

// leftOver makes a Secret as cert-manager leaves it for a Certificate; that with the
// name wild is for a wildcard.
func (w *world) leftOver(t *testing.T, namespace, name, certificate string) {
	t.Helper()
	host := strings.Replace(name, "wild", "*", 1) + ".example.com"
	if err := w.cluster.Secret(t.Context(), metav1.ObjectMeta{
		Namespace: namespace, Name: name, Labels: map[string]string{"controller.cert-manager.io/fao": "true"},
		Annotations: map[string]string{
			"cert-manager.io/certificate-name": certificate, "cert-manager.io/alt-names": host,
			"cert-manager.io/issuer-name": "ca", "cert-manager.io/issuer-kind": "ClusterIssuer", "cert-manager.io/issuer-group": "cert-manager.io",
		},
	}, time.Now().Add(time.Hour), host); err != nil {
		t.Fatal(err)
	}
}

// retireLongAgo marks a Secret as certherd does, and as if its grace period had ended.
func (w *world) retireLongAgo(ctx context.Context, namespace, name string) error {
	secrets := w.cluster.Typed.CoreV1().Secrets(namespace)
	x, err := secrets.Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return err
	}
	at := x.CreationTimestamp.UTC().Format(time.RFC3339)
	_, err = secrets.Patch(ctx, name, types.MergePatchType,
		fmt.Appendf(nil, `{"metadata":{"annotations":{%q:%q,%q:%q,%q:%q}}}`, plan.RetiredReason, plan.OrphanedSecret, plan.RetiredAt, at, plan.DeleteAfter, at), metav1.PatchOptions{})
	return err
}

// retired is how many Secrets of a namespace are marked.
func (s *site) retired(namespace string) (n int) {
	s.Helper()
	for _, x := range s.secretsOf(namespace) {
		if x.Annotations[plan.RetiredAt] != "" {
			n++
		}
	}
	return n
}

// event reports whether an Event of a reason is on the configuration.
func (s *site) event(reason string) bool {
	s.Helper()
	list, err := s.cluster.Typed.CoreV1().Events(s.home).List(s.Context(), metav1.ListOptions{})
	s.must(err)
	for i := range list.Items {
		if e := &list.Items[i]; e.Reason == reason && e.Source.Component == "certherd" && e.InvolvedObject.Kind == "ConfigMap" {
			return true
		}
	}
	return false
}

// approve runs `certherd approve`, and returns what it prints.
func (s *site) approve(args ...string) string {
	s.Helper()
	out, err := exec.Command(s.program, append([]string{"approve", "--kubeconfig", s.stack.Kubeconfig, "--certherd-namespace", s.home}, args...)...).CombinedOutput()
	if err != nil {
		s.Fatalf("approve %q: %v\n%s", args, err, out)
	}
	return string(out)
}

// rejected is how many updates the stack's Envoy has rejected.
func (s *site) rejected() string {
	x, err := client.Get("http://" + s.stack.EnvoyAdmin + "/stats?filter=^listener_manager.lds.update_rejected$")
	if err != nil {
		return ""
	}
	defer x.Body.Close()
	text := make([]byte, 200)
	n, _ := x.Body.Read(text)
	return string(text[:n])
}

// weak is a certificate with an RSA key of 1024 bits, as PEM: net-kourier takes it, and
// Envoy does not (source/common/tls/context_impl.cc there: 2048 bits or more).
func weak(t *testing.T, host string) (certificate, key []byte) {
	t.Helper()
	private, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	x := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{host}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, x, x, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(private)})
}

const breakerConfig = `
maxShare: 100%
breaker: {pods: [], gateways: ["http://ENVOY/stats/prometheus"], settle: 1s}
gc: {mode: enforce, schedule: "@every 10s", minAge: 0s, budget: {count: 1, share: 100%}}
batch: {reloads: {updates: 600, gap: 0s}}
`

// TestGatewaysThatBecomeWorse: what net-kourier and Envoy themselves say after a
// batch stops everything, under the next leader, too, until a person resumes; and
// a leader that has been killed before it could look is replaced by one that does.
// The harm is done while certherd's own write is on its way.
func TestGatewaysThatBecomeWorse(t *testing.T) {
	const home, team, host, served = "worse-certherd", "worse-team", "www.worse.test", "www-worse"
	s := newSite(t, home)
	ctx := t.Context()
	s.must(s.cluster.Namespaces(ctx, team))
	s.must(s.cluster.Services(ctx, []scenario.Service{{Namespace: team, Name: "svc-00"}}))
	s.must(s.cluster.Secret(ctx, metav1.ObjectMeta{Namespace: team, Name: served, Labels: map[string]string{"networking.internal.knative.dev/certificate-uid": served}}, time.Now().Add(time.Hour), host))
	s.must(s.cluster.DomainMapping(ctx, team, "svc-00", host, served))
	secrets := s.cluster.Typed.CoreV1().Secrets(team)
	good, err := secrets.Get(ctx, served, metav1.GetOptions{})
	s.must(err)
	ready := func() bool {
		o, err := s.cluster.Dynamic.Resource(kIngresses).Namespace(team).Get(ctx, host, metav1.GetOptions{})
		s.must(err)
		list, _, _ := unstructured.NestedSlice(o.Object, "status", "conditions")
		for _, x := range list {
			if c, _ := x.(map[string]any); c["type"] == "Ready" {
				return c["status"] == "True"
			}
		}
		return false
	}
	s.leftOver(t, team, "first-7f3", "first")
	s.leftOver(t, team, "second-7f3", "second")
	s.args = append([]string{"--namespaces", team, "--pause", "1s"}, patient...)
	s.configure(strings.Replace(breakerConfig, "ENVOY", s.stack.EnvoyAdmin, 1))
	// atFirst has a fault meet the first mark.
	atFirst := func(f fault) func(*http.Request) fault {
		var met atomic.Bool
		return func(r *http.Request) fault {
			if r.Method == http.MethodPatch && strings.Contains(r.URL.Path, "/namespaces/"+team+"/secrets/") && met.CompareAndSwap(false, true) {
				return f
			}
			return none
		}
	}
	stopped := func(r *process, why ...string) {
		t.Helper()
		s.await(r.Name+" to stop", func() bool { return r.Metric("certherd_stopped") == 1 })
		list := s.approve("--list")
		for _, part := range why {
			if !strings.Contains(list, part) {
				t.Errorf("%q is not among what it lists:\n%s", part, list)
			}
		}
	}

	// A Secret that is served goes, and net-kourier says so.
	a, behindA := s.startBehind("worse-0", nil)
	behindA.happen = func() {
		if err := secrets.Delete(ctx, served, metav1.DeleteOptions{}); err != nil {
			t.Error(err)
		}
		s.await("net-kourier to call the Ingress not Ready", func() bool { return !ready() })
	}
	behindA.fail(atFirst(meanwhile))
	stopped(a, "1 object no longer Ready", host)
	s.await("an Event says so", func() bool { return s.event("Stopped") })
	if n := s.retired(team); n != 1 {
		t.Fatalf("%d Secrets are retired", n)
	}

	// The next leader keeps to it.
	b, behindB := s.startBehind("worse-1", nil)
	a.Kill()
	s.leader(b)
	stopped(b)
	b.rounds(2)
	if n := s.retired(team); n != 1 {
		t.Fatalf("%d Secrets are retired while everything is stopped", n)
	}

	// A person mends it, and resumes. Then net-kourier sends Envoy a certificate that
	// it rejects, and the leader is killed before it could look.
	good.ObjectMeta = metav1.ObjectMeta{Namespace: team, Name: served, Labels: good.Labels}
	_, err = secrets.Create(ctx, good, metav1.CreateOptions{})
	s.must(err)
	s.await("the Ingress to be Ready again", ready)
	merge := func(certificate, key []byte) {
		patch := fmt.Appendf(nil, `{"data":{%q:%q,%q:%q}}`, corev1.TLSCertKey, base64.StdEncoding.EncodeToString(certificate), corev1.TLSPrivateKeyKey, base64.StdEncoding.EncodeToString(key))
		if _, err := secrets.Patch(ctx, served, types.MergePatchType, patch, metav1.PatchOptions{}); err != nil {
			t.Error(err)
		}
	}
	certificate, key := weak(t, host)
	behindB.happen = func() {
		before := s.rejected()
		merge(certificate, key)
		s.await("Envoy to reject an update", func() bool { return s.rejected() != before && s.rejected() != "" })
	}
	behindB.fail(atFirst(killedAfter))
	c, _ := s.startBehind("worse-2", nil)
	s.approve("--resume", "--reason", "the Secret is back")
	s.await("the end of "+b.Name, b.Ended)
	s.leader(c)
	stopped(c, "envoy_listener_manager_lds_update_rejected")
	if n := s.retired(team); n != 2 {
		t.Errorf("%d Secrets are retired", n)
	}

	// It goes on when that is mended, too.
	merge(good.Data[corev1.TLSCertKey], good.Data[corev1.TLSPrivateKeyKey])
	s.approve("--resume", "--reason", "the certificate is good again")
	s.await("it not to be stopped", func() bool { return c.Metric("certherd_stopped") == 0 })
	s.leftOver(t, team, "third-7f3", "third")
	s.await("what is left to be retired", func() bool { return s.retired(team) == 3 })
	history, err := exec.Command(s.program, "history", "--kubeconfig", s.stack.Kubeconfig, "--certherd-namespace", s.home).CombinedOutput()
	s.must(err)
	for _, part := range []string{"stop by certherd worse-0", "stop by certherd worse-2", "the Secret is back", "the certificate is good again"} {
		if !strings.Contains(string(history), part) {
			t.Errorf("%q is not in the history:\n%s", part, history)
		}
	}
	c.Kill()
	s.drop(team)
}
