// Package relay proves certherd-relay between a real net-kourier and a real Envoy,
// with what happens without it as the control.
package relay

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"

	"github.com/certherd/certherd/e2e/stack"
	"github.com/certherd/certherd/e2e/suite"
)

const (
	namespace = "relayed"
	domain    = "relayed.example.test"
	// address is that of everything in the stack; on its interface lo, the addresses
	// after it lead to the same place.
	address = "10.99.0."
)

var kIngresses = schema.GroupVersionResource{Group: "networking.internal.knative.dev", Version: "v1alpha1", Resource: "ingresses"}

func TestMain(m *testing.M) { os.Exit(suite.Run(m)) }

// A world is a stack with a relay, and clients of it.
type world struct {
	stack   *stack.Stack
	typed   kubernetes.Interface
	dynamic dynamic.Interface
	ca      *authority
	program string // certherd-relay
}

var setUp = sync.OnceValues(func() (*world, error) {
	w := &world{}
	var err error
	if w.program, err = suite.Program("certherd-relay"); err != nil {
		return nil, err
	}
	if w.stack, err = suite.Start(stack.Options{Level: stack.Full, Relay: w.program, RelayArgs: []string{"--on-demand"}}); err != nil {
		return nil, err
	}
	config, err := w.stack.RESTConfig()
	if err != nil {
		return nil, err
	}
	if w.typed, err = kubernetes.NewForConfig(config); err != nil {
		return nil, err
	}
	if w.dynamic, err = dynamic.NewForConfig(config); err != nil {
		return nil, err
	}
	if w.ca, err = newAuthority(); err != nil {
		return nil, err
	}
	_, err = w.typed.CoreV1().Namespaces().Create(context.Background(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}, metav1.CreateOptions{})
	return w, err
})

func stackWithRelay(t *testing.T) *world {
	t.Helper()
	if testing.Short() {
		t.Skip("starts the whole stack")
	}
	w, err := setUp()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if !t.Failed() {
			return
		}
		for _, name := range []string{"certherd-relay", "envoy"} {
			text, err := os.ReadFile(filepath.Join(w.stack.LogDir, name+".log"))
			if err != nil {
				t.Log(err)
				continue
			}
			lines := strings.Split(strings.TrimSpace(string(text)), "\n")
			t.Logf("end of %s.log:\n%s", name, strings.Join(lines[max(0, len(lines)-25):], "\n"))
		}
	})
	return w
}

// authority signs certificates.
type authority struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
	serial      int64
	pool        *x509.CertPool
}

func newAuthority() (*authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "relay test"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	pool.AddCert(c)
	return &authority{certificate: c, key: key, serial: 1, pool: pool}, nil
}

// issue makes a certificate and its key, in PEM, and says its serial number.
func (a *authority) issue(t *testing.T, names ...string) (chain, key []byte, serial string) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	a.serial++
	template := &x509.Certificate{SerialNumber: big.NewInt(a.serial), Subject: pkix.Name{CommonName: names[0]}, DNSNames: names,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24*time.Hour + time.Duration(a.serial)*time.Second), KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	der, err := x509.CreateCertificate(rand.Reader, template, a.certificate, k.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}), template.SerialNumber.String()
}

// host of a service: the services of a test, which share a prefix, have a domain of
// their own, so that no wildcard covers those of another.
func host(name string) string { return name + "." + domainOf(name) }

func domainOf(name string) string {
	prefix, _, _ := strings.Cut(name, "-")
	return prefix + "." + domain
}

// secret puts a certificate for names into a Secret, new or not, and says its
// serial number.
func (w *world) secret(t *testing.T, name string, names ...string) string {
	t.Helper()
	chain, key, serial := w.ca.issue(t, names...)
	s := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: namespace, Labels: map[string]string{"networking.internal.knative.dev/certificate-uid": name}},
		Type: corev1.SecretTypeTLS, Data: map[string][]byte{corev1.TLSCertKey: chain, corev1.TLSPrivateKeyKey: key}}
	_, err := w.typed.CoreV1().Secrets(namespace).Create(t.Context(), s, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		_, err = w.typed.CoreV1().Secrets(namespace).Update(t.Context(), s, metav1.UpdateOptions{})
	}
	if err != nil {
		t.Fatal(err)
	}
	return serial
}

// service makes a service with an ingress whose certificate is in a Secret.
func (w *world) service(t *testing.T, name, secret string) {
	t.Helper()
	_, err := w.typed.CoreV1().Services(namespace).Create(t.Context(), &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: namespace},
		Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Name: "http", Port: 80, TargetPort: intstr.FromInt32(8012)}}}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	port := int32(8012)
	_, err = w.typed.DiscoveryV1().EndpointSlices(namespace).Create(t.Context(), &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Name: name, Namespace: namespace, Labels: map[string]string{discoveryv1.LabelServiceName: name, discoveryv1.LabelManagedBy: "test"}},
		AddressType: discoveryv1.AddressTypeIPv4, Endpoints: endpoints(1),
		Ports: []discoveryv1.EndpointPort{{Name: new("http"), Port: &port, Protocol: new(corev1.ProtocolTCP)}}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	w.ingress(t, name, secret)
}

// ingress makes or changes the ingress of a service.
func (w *world) ingress(t *testing.T, name, secret string) {
	t.Helper()
	object := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "networking.internal.knative.dev/v1alpha1", "kind": "Ingress",
		"metadata": map[string]any{"name": name, "namespace": namespace, "annotations": map[string]any{"networking.knative.dev/ingress.class": "kourier.ingress.networking.knative.dev"}},
		"spec": map[string]any{"httpOption": "Enabled",
			"rules": []any{map[string]any{"hosts": []any{host(name)}, "visibility": "ExternalIP", "http": map[string]any{"paths": []any{map[string]any{"splits": []any{map[string]any{
				"serviceName": name, "serviceNamespace": namespace, "servicePort": int64(80), "percent": int64(100)}}}}}}},
			"tls": []any{map[string]any{"hosts": []any{host(name)}, "secretName": secret, "secretNamespace": namespace}}}}}
	if _, err := w.dynamic.Resource(kIngresses).Namespace(namespace).Apply(t.Context(), name, object, metav1.ApplyOptions{FieldManager: "test", Force: true}); err != nil {
		t.Fatal(err)
	}
}

// endpoints are n ready ones of the server that stands in for pods.
func endpoints(n int) []discoveryv1.Endpoint {
	var list []discoveryv1.Endpoint
	for i := range n {
		list = append(list, discoveryv1.Endpoint{Addresses: []string{address + strconv.Itoa(i+1)}, Conditions: discoveryv1.EndpointConditions{Ready: new(true)}})
	}
	return list
}

// scale gives a service another number of endpoints.
func (w *world) scale(t *testing.T, name string, n int) {
	t.Helper()
	patch, err := json.Marshal(map[string]any{"endpoints": endpoints(n)})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.typed.DiscoveryV1().EndpointSlices(namespace).Patch(t.Context(), name, types.MergePatchType, patch, metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
}

// client speaks TLS to the gateway, for any host.
func (w *world) client() *http.Client {
	return &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{DisableKeepAlives: true,
		TLSClientConfig: &tls.Config{RootCAs: w.ca.pool},
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, w.stack.GatewayTLS)
		}}}
}

// answer asks a service, and says the serial number of the certificate it got.
func (w *world) answer(name string) (serial string, err error) {
	response, err := w.client().Get("https://" + host(name) + "/")
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return "", err
	}
	if response.StatusCode != http.StatusOK {
		return "", fmt.Errorf("%s: %s", response.Status, body)
	}
	return response.TLS.PeerCertificates[0].SerialNumber.String(), nil
}

// until waits for something that must come about.
func until(t *testing.T, what string, done func() error) {
	t.Helper()
	deadline := time.Now().Add(90 * time.Second)
	for {
		err := done()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s: %v", what, err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// updates are how often Envoy was given each type.
type updates struct{ clusters, listeners, modified, rejected int }

// updatesOf a gateway in a pod; nil for the stack's own.
func (w *world) updatesOf(t *testing.T, g *gateway) updates {
	t.Helper()
	const pattern = "(cluster_manager.cds|listener_manager)"
	s, err := map[string]int(nil), error(nil)
	if g == nil {
		s, err = stack.EnvoyStats(t.Context(), w.stack.EnvoyAdmin, pattern)
	} else {
		s, err = w.stack.PodStats(t.Context(), g.name, pattern)
	}
	if err != nil {
		t.Fatal(err)
	}
	return updates{clusters: s["cluster_manager.cds.update_success"], listeners: s["listener_manager.lds.update_success"],
		modified: s["listener_manager.listener_modified"], rejected: s["listener_manager.lds.update_rejected"]}
}

// settle waits until the stack's Envoy has been given nothing for a while.
func (w *world) settle(t *testing.T) updates {
	t.Helper()
	return w.settled(t, nil)
}

// settled is settle for a gateway.
func (w *world) settled(t *testing.T, g *gateway) updates {
	t.Helper()
	last, quiet := w.updatesOf(t, g), 0
	until(t, "Envoy to be given nothing more", func() error {
		if behind, err := w.listenersHeld(); err != nil || behind {
			quiet = 0
			return fmt.Errorf("the relay holds listeners: %v %w", behind, err)
		}
		now := w.updatesOf(t, g)
		if now != last {
			last, quiet = now, 0
			return errors.New("it still is")
		}
		if quiet++; quiet < 30 {
			return errors.New("not yet")
		}
		return nil
	})
	return last
}

// listenersHeld reports whether the relay has listeners that a gateway is still to
// get.
func (w *world) listenersHeld() (bool, error) {
	answer, err := http.Get("http://" + w.stack.RelayLocal + "/metrics")
	if err != nil {
		return false, err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		return false, err
	}
	for line := range strings.Lines(string(text)) {
		if strings.HasPrefix(line, "certherd_relay_gateway_behind_seconds{") && strings.Contains(line, `type="listeners"`) && !strings.HasSuffix(strings.TrimSpace(line), " 0") {
			return true, nil
		}
	}
	return false, nil
}

// process is the folder of a program of the stack in /proc.
func (w *world) process(t *testing.T, program string) string {
	t.Helper()
	link := func(process, name string) string {
		target, _ := os.Readlink(filepath.Join(process, name)) // processes end at any time
		return target
	}
	own := link("/proc/"+strconv.Itoa(w.stack.Supervisor.PID), "ns/pid")
	processes, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range processes {
		if own != "" && link(p, "ns/pid") == own && filepath.Base(link(p, "exe")) == program {
			return p
		}
	}
	t.Fatalf("the stack runs no %s", program)
	return ""
}

// restart ends a program by a signal, and waits until the stack has started it
// again.
func (w *world) restart(t *testing.T, program string, signal syscall.Signal) {
	t.Helper()
	before := w.process(t, program)
	if err := w.stack.Signal(program, signal); err != nil {
		t.Fatal(err)
	}
	until(t, program+" to end", func() error {
		if _, err := os.Stat(before); !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%s is still there", before)
		}
		return nil
	})
}
