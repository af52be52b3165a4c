package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"slices"
	"sync"
	"time"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	xds "github.com/envoyproxy/go-control-plane/pkg/server/v3"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes/fake"
	kourierserver "knative.dev/net-kourier/pkg/envoy/server"
	"knative.dev/net-kourier/pkg/generator"
	kourierconfig "knative.dev/net-kourier/pkg/reconciler/ingress/config"
	"knative.dev/networking/pkg/apis/networking/v1alpha1"
	netconfig "knative.dev/networking/pkg/config"
	"knative.dev/pkg/tracker"
)

const (
	nodeID         = "3scale-kourier-gateway"
	controllerPort = 18000
	namespace      = "default"
	domain         = "default.example.com"
)

// kourier is net-kourier's generator and xDS server, with services that are kept
// in maps instead of an API server.
type kourier struct {
	server *kourierserver.XdsServer

	ctx        context.Context
	caches     *generator.Caches
	translator generator.IngressTranslator
	issuer     *issuer
	secrets    map[string]*corev1.Secret
	addresses  map[string]int
	headers    map[string]int
	shared     string // the Secret of all services, empty for one each
	n          int

	mu    sync.Mutex
	acks  map[string]map[string]time.Time // version, type
	acked chan struct{}
}

type untracked struct{ tracker.Interface }

func (untracked) TrackReference(tracker.Reference, any) error { return nil }

// newKourier starts the xDS server, which nothing can stop but the end of the
// process.
func newKourier(failed chan<- error) (*kourier, error) {
	k := &kourier{acks: map[string]map[string]time.Time{}, acked: make(chan struct{}, 1)}
	var err error
	if k.issuer, err = newIssuer(); err != nil {
		return nil, err
	}
	k.server = kourierserver.NewXdsServer(controllerPort, xds.CallbackFuncs{StreamRequestFunc: func(_ int64, r *discovery.DiscoveryRequest) error {
		if r.GetErrorDetail() != nil || r.GetVersionInfo() == "" {
			return nil
		}
		k.mu.Lock()
		defer k.mu.Unlock()
		of := k.acks[r.GetVersionInfo()]
		if of == nil {
			of = map[string]time.Time{}
			k.acks[r.GetVersionInfo()] = of
		}
		if of[r.GetTypeUrl()].IsZero() {
			of[r.GetTypeUrl()] = time.Now()
		}
		select {
		case k.acked <- struct{}{}:
		default:
		}
		return nil
	}})
	go func() { failed <- fmt.Errorf("the controller's xDS server: %w", k.server.RunManagementServer()) }()
	return k, nil
}

// fill makes n services the whole of what the controller knows.
func (k *kourier) fill(n int, shared bool) error {
	cfg := &kourierconfig.Config{Network: &netconfig.Config{SystemInternalTLS: netconfig.EncryptionDisabled}}
	var err error
	if cfg.Kourier, err = kourierconfig.NewKourierConfigFromMap(nil); err != nil {
		return err
	}
	k.ctx = kourierconfig.ToContext(context.Background(), cfg)
	if k.caches, err = generator.NewCaches(k.ctx, fake.NewClientset()); err != nil {
		return err
	}
	k.secrets, k.addresses, k.headers, k.shared, k.n = map[string]*corev1.Secret{}, map[string]int{}, map[string]int{}, "", n
	k.translator = generator.NewIngressTranslator(
		func(_, name string) (*corev1.Secret, error) {
			if s := k.secrets[name]; s != nil {
				return s, nil
			}
			return nil, fmt.Errorf("no secret %s", name)
		},
		func(string) ([]*corev1.ConfigMap, error) { return nil, nil },
		func(_, name string) ([]*discoveryv1.EndpointSlice, error) {
			slice := &discoveryv1.EndpointSlice{AddressType: discoveryv1.AddressTypeIPv4}
			for i := range 1 + k.addresses[name]%2 {
				slice.Endpoints = append(slice.Endpoints, discoveryv1.Endpoint{Addresses: []string{fmt.Sprintf("127.0.0.%d", i+1)}})
			}
			return []*discoveryv1.EndpointSlice{slice}, nil
		},
		func(string, string) (*corev1.Service, error) {
			return &corev1.Service{Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Name: "http", Port: 80, TargetPort: intstr.FromInt32(backendPort)}}}}, nil
		},
		untracked{})
	if shared {
		k.shared = "wildcard"
		if err := k.renew(0); err != nil {
			return err
		}
	}
	for i := range n {
		if !shared {
			if err := k.renew(i); err != nil {
				return err
			}
		}
		if err := k.reconcile(i); err != nil {
			return err
		}
	}
	return nil
}

func service(i int) string { return fmt.Sprintf("svc-%05d", i) }

func host(i int) string { return service(i) + "." + domain }

// renew gives a service a new certificate.
func (k *kourier) renew(i int) error {
	name, names := service(i), []string{host(i)}
	if k.shared != "" {
		name, names = k.shared, []string{"*." + domain}
	}
	chain, key, err := k.issuer.issue(i, names...)
	if err != nil {
		return err
	}
	k.secrets[name] = &corev1.Secret{Data: map[string][]byte{"tls.crt": chain, "tls.key": key}}
	return nil
}

// reconcile is what net-kourier's controller does for an event of a service.
func (k *kourier) reconcile(i int) error {
	name := service(i)
	path := []v1alpha1.HTTPIngressPath{{
		AppendHeaders: map[string]string{"X-Revision": fmt.Sprint(k.headers[name])},
		Splits: []v1alpha1.IngressBackendSplit{{
			IngressBackend: v1alpha1.IngressBackend{ServiceNamespace: namespace, ServiceName: name, ServicePort: intstr.FromInt32(80)}, Percent: 100,
			AppendHeaders: map[string]string{"Knative-Serving-Namespace": namespace, "Knative-Serving-Revision": name + "-00001"}}}}}
	local := []string{name + "." + namespace, name + "." + namespace + ".svc", name + "." + namespace + ".svc.cluster.local"}
	secret := name
	if k.shared != "" {
		secret = k.shared
	}
	return generator.UpdateInfoForIngress(k.ctx, k.caches, &v1alpha1.Ingress{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}, Spec: v1alpha1.IngressSpec{
		Rules: []v1alpha1.IngressRule{
			{Hosts: []string{host(i)}, Visibility: v1alpha1.IngressVisibilityExternalIP, HTTP: &v1alpha1.HTTPIngressRuleValue{Paths: path}},
			{Hosts: local, Visibility: v1alpha1.IngressVisibilityClusterLocal, HTTP: &v1alpha1.HTTPIngressRuleValue{Paths: path}}},
		TLS: []v1alpha1.IngressTLS{{Hosts: []string{host(i)}, SecretNamespace: namespace, SecretName: secret}}}}, &k.translator)
}

// An event is what happens to a service.
type event string

const (
	scales   event = "scaling"
	renewal  event = "renewal"
	reroutes event = "route"
)

// push makes an event happen and hands the snapshot out.
func (k *kourier) push(e event, i int) (version string, at time.Time, err error) {
	i %= k.n
	switch e {
	case scales:
		k.addresses[service(i)]++
	case renewal:
		if err := k.renew(i); err != nil {
			return "", at, err
		}
	case reroutes:
		k.headers[service(i)]++
	}
	if err := k.reconcile(i); err != nil {
		return "", at, err
	}
	return k.send()
}

// send hands out what the controller has.
func (k *kourier) send() (version string, at time.Time, err error) {
	snapshot, err := k.caches.ToEnvoySnapshot(k.ctx)
	if err != nil {
		return "", at, err
	}
	k.mu.Lock()
	k.acks = map[string]map[string]time.Time{}
	k.mu.Unlock()
	at = time.Now()
	return snapshot.GetVersion(resource.ClusterType), at, k.server.SetSnapshot(nodeID, snapshot)
}

// ackedAt is when each type of a version was acknowledged.
func (k *kourier) ackedAt(version string) map[string]time.Time {
	k.mu.Lock()
	defer k.mu.Unlock()
	times := map[string]time.Time{}
	for t, at := range k.acks[version] {
		times[t] = at
	}
	return times
}

// issuer makes certificates of the size of Let's Encrypt's: an RSA key of 2048
// bits, and a chain of three.
type issuer struct {
	keys   []*rsa.PrivateKey
	above  []*x509.Certificate
	signer *ecdsa.PrivateKey
	chain  []byte
	serial int64
	pool   *x509.CertPool
}

func newIssuer() (*issuer, error) {
	a := &issuer{serial: 10, pool: x509.NewCertPool()}
	// What a key is does not matter to Envoy, and making a thousand takes minutes.
	for range 4 {
		key, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			return nil, err
		}
		a.keys = append(a.keys, key)
	}
	var parent *x509.Certificate
	var parentKey *ecdsa.PrivateKey
	for level := range 3 {
		key, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
		if err != nil {
			return nil, err
		}
		template := &x509.Certificate{SerialNumber: big.NewInt(int64(level + 1)), Subject: pkix.Name{Organization: []string{"Bench"}, CommonName: fmt.Sprintf("Bench level %d", level)},
			NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(1, 0, 0), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
			// Fills it up to what a real intermediate has.
			CRLDistributionPoints: []string{"http://crl.example.com/" + string(slices.Repeat([]byte("x"), 700))}}
		signedBy, signedWith := parent, parentKey
		if parent == nil {
			signedBy, signedWith = template, key
		}
		der, err := x509.CreateCertificate(rand.Reader, template, signedBy, key.Public(), signedWith)
		if err != nil {
			return nil, err
		}
		if parent, err = x509.ParseCertificate(der); err != nil {
			return nil, err
		}
		parentKey = key
		if level == 0 {
			a.pool.AddCert(parent)
		} else {
			a.chain = append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), a.chain...)
		}
	}
	a.above, a.signer = []*x509.Certificate{parent}, parentKey
	return a, nil
}

func (a *issuer) issue(i int, names ...string) (chain, key []byte, err error) {
	a.serial++
	own := a.keys[i%len(a.keys)]
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{SerialNumber: big.NewInt(a.serial), Subject: pkix.Name{CommonName: names[0]}, DNSNames: names,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(90*24*time.Hour + time.Duration(a.serial)*time.Second),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}, a.above[0], own.Public(), a.signer)
	if err != nil {
		return nil, nil, err
	}
	return append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), a.chain...),
		pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(own)}), nil
}
