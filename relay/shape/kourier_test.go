package shape_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/anypb"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes/fake"
	"knative.dev/net-kourier/pkg/generator"
	kourierconfig "knative.dev/net-kourier/pkg/reconciler/ingress/config"
	"knative.dev/networking/pkg/apis/networking/v1alpha1"
	netconfig "knative.dev/networking/pkg/config"
	"knative.dev/pkg/tracker"

	"github.com/certherd/certherd/relay/shape"
)

// These tests take their states from net-kourier's own generator, so that what is
// shaped is what a gateway of Kourier really gets, random order included.

// pair is a certificate with its key, as a Secret holds it.
type pair struct {
	chain, key []byte
	leaf       *x509.Certificate
}

// authority is a CA that the tests make.
type authority struct {
	cert   *x509.Certificate
	key    *ecdsa.PrivateKey
	serial int64
}

var (
	epoch     = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	leafKey   = must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	leafKeyDo = pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: must(x509.MarshalPKCS8PrivateKey(leafKey))})
)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func newAuthority(name string, organization ...string) *authority {
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	cert := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name, Organization: organization},
		NotBefore: epoch, NotAfter: epoch.AddDate(10, 0, 0),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der := must(x509.CreateCertificate(rand.Reader, cert, cert, key.Public(), key))
	return &authority{cert: must(x509.ParseCertificate(der)), key: key, serial: 1}
}

// issue makes a certificate for names, valid from some days after the epoch. All
// share one key, which nothing here depends on and which saves making them.
func (a *authority) issue(day int, names ...string) pair {
	a.serial++
	cert := &x509.Certificate{
		SerialNumber: big.NewInt(a.serial), DNSNames: names,
		NotBefore: epoch.AddDate(0, 0, day), NotAfter: epoch.AddDate(0, 0, day+90),
	}
	der := must(x509.CreateCertificate(rand.Reader, cert, a.cert, leafKey.Public(), a.key))
	return pair{
		chain: slices.Concat(
			pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
			pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw})),
		key:  leafKeyDo,
		leaf: must(x509.ParseCertificate(der)),
	}
}

// kourier is net-kourier's generator with a cluster that is made of maps.
type kourier struct {
	ctx        context.Context
	caches     *generator.Caches
	translator generator.IngressTranslator
	ingresses  map[string]*v1alpha1.Ingress
	secrets    map[string]pair
	addresses  map[string][]string
}

// untracked is a tracker that tracks nothing: the tests reconcile by themselves.
type untracked struct{ tracker.Interface }

func (untracked) TrackReference(tracker.Reference, any) error { return nil }

func newKourier(t testing.TB, o ...func(*kourierconfig.Config)) *kourier {
	t.Helper()
	cfg := &kourierconfig.Config{Network: &netconfig.Config{SystemInternalTLS: netconfig.EncryptionDisabled}}
	var err error
	if cfg.Kourier, err = kourierconfig.NewKourierConfigFromMap(nil); err != nil {
		t.Fatal(err)
	}
	for _, f := range o {
		f(cfg)
	}
	k := &kourier{ingresses: map[string]*v1alpha1.Ingress{}, secrets: map[string]pair{}, addresses: map[string][]string{}}
	k.ctx = kourierconfig.ToContext(t.Context(), cfg)
	if k.caches, err = generator.NewCaches(k.ctx, fake.NewClientset()); err != nil {
		t.Fatal(err)
	}
	k.translator = generator.NewIngressTranslator(
		func(ns, name string) (*corev1.Secret, error) {
			p, ok := k.secrets[ns+"/"+name]
			if !ok {
				return nil, fmt.Errorf("no secret %s/%s", ns, name)
			}
			return &corev1.Secret{Data: map[string][]byte{"tls.crt": p.chain, "tls.key": p.key}}, nil
		},
		func(string) ([]*corev1.ConfigMap, error) { return nil, nil },
		func(ns, name string) ([]*discoveryv1.EndpointSlice, error) {
			slice := &discoveryv1.EndpointSlice{AddressType: discoveryv1.AddressTypeIPv4}
			for _, a := range k.addresses[ns+"/"+name] {
				slice.Endpoints = append(slice.Endpoints, discoveryv1.Endpoint{Addresses: []string{a}})
			}
			return []*discoveryv1.EndpointSlice{slice}, nil
		},
		func(ns, name string) (*corev1.Service, error) {
			return &corev1.Service{Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Name: "http", Port: 80, TargetPort: intstr.FromInt32(8012)}}}}, nil
		},
		untracked{},
	)
	return k
}

// put makes or changes the ingress of a Knative Service: its external host, its
// cluster-local names, its Secret ("" for none) and the address it has now.
func (k *kourier) put(t testing.TB, ns, name, host, secret, address string) {
	t.Helper()
	k.addresses[ns+"/"+name] = []string{address, "10.0.0.1"}
	path := []v1alpha1.HTTPIngressPath{{
		Headers:       map[string]v1alpha1.HeaderMatch{"K-Network-Hash": {Exact: "override"}, "X-Tag": {Exact: "blue"}},
		AppendHeaders: map[string]string{"K-Tag": "blue", "X-Other": "1"},
		Splits: []v1alpha1.IngressBackendSplit{{
			IngressBackend: v1alpha1.IngressBackend{ServiceNamespace: ns, ServiceName: name, ServicePort: intstr.FromInt32(80)}, Percent: 100,
			AppendHeaders: map[string]string{"Knative-Serving-Namespace": ns, "Knative-Serving-Revision": name},
		}},
	}, {
		Splits: []v1alpha1.IngressBackendSplit{{
			IngressBackend: v1alpha1.IngressBackend{ServiceNamespace: ns, ServiceName: name, ServicePort: intstr.FromInt32(80)}, Percent: 100,
			AppendHeaders: map[string]string{"Knative-Serving-Namespace": ns, "Knative-Serving-Revision": name},
		}},
	}}
	local := []string{name + "." + ns, name + "." + ns + ".svc", name + "." + ns + ".svc.cluster.local"}
	ing := &v1alpha1.Ingress{
		ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name},
		Spec: v1alpha1.IngressSpec{Rules: []v1alpha1.IngressRule{
			{Hosts: []string{host}, Visibility: v1alpha1.IngressVisibilityExternalIP, HTTP: &v1alpha1.HTTPIngressRuleValue{Paths: path}},
			{Hosts: local, Visibility: v1alpha1.IngressVisibilityClusterLocal, HTTP: &v1alpha1.HTTPIngressRuleValue{Paths: path}},
		}},
	}
	if secret != "" {
		ing.Spec.TLS = []v1alpha1.IngressTLS{{Hosts: []string{host}, SecretNamespace: ns, SecretName: secret}}
	}
	k.ingresses[ns+"/"+name] = ing
	k.reconcile(t, ns, name)
}

func (k *kourier) reconcile(t testing.TB, ns, name string) {
	t.Helper()
	if err := generator.UpdateInfoForIngress(k.ctx, k.caches, k.ingresses[ns+"/"+name].DeepCopy(), &k.translator); err != nil {
		t.Fatal(err)
	}
}

func (k *kourier) remove(t testing.TB, ns, name string) {
	t.Helper()
	delete(k.ingresses, ns+"/"+name)
	if err := k.caches.DeleteIngressInfo(k.ctx, name, ns); err != nil {
		t.Fatal(err)
	}
}

// state is what Kourier would push now. It has the order that Go's maps gave it.
func (k *kourier) state(t testing.TB) shape.State {
	t.Helper()
	snapshot, err := k.caches.ToEnvoySnapshot(k.ctx)
	if err != nil {
		t.Fatal(err)
	}
	var s shape.State
	for _, typ := range []string{shape.ListenerType, shape.RouteType, shape.ClusterType} {
		var list []*anypb.Any
		for _, r := range snapshot.GetResources(typ) {
			list = append(list, must(anypb.New(r)))
		}
		if err := s.Set(typ, list); err != nil {
			t.Fatal(err)
		}
	}
	return s
}
