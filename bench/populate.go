package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	mathrand "math/rand"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	cm "github.com/cert-manager/cert-manager/pkg/apis/certmanager/v1"
	cmmeta "github.com/cert-manager/cert-manager/pkg/apis/meta/v1"
	certclient "github.com/cert-manager/cert-manager/pkg/client/clientset/versioned"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apiextensions "k8s.io/apiextensions-apiserver/pkg/client/clientset/clientset"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/yaml"
)

// recipe says what is in the cluster. Two runs with equal recipes have equal
// clusters.
type recipe struct {
	// Version changes whenever this file makes other objects.
	Version      int
	Namespaces   int
	Certificates int // each with its TLS Secret
	Ingresses    int // each names the Secret of the same number
	Helm         int // Secrets of type helm.sh/release.v1, 100 KB each
	ConfigMaps   int // 1 KB each
	Pods         int // every tenth mounts a TLS Secret
}

func scaled(f float64) recipe {
	n := func(full int) int { return max(1, int(float64(full)*f)) }
	return recipe{Version: 1, Namespaces: n(300), Certificates: n(30000), Ingresses: n(15000), Helm: n(5000), ConfigMaps: n(20000), Pods: n(10000)}
}

func (r recipe) key() string {
	b, _ := json.Marshal(r)
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:8])
}

// clients write to the cluster.
type clients struct {
	core *kubernetes.Clientset
	cert *certclient.Clientset
	crds *apiextensions.Clientset
}

func newClients(cfg *rest.Config) (c clients, err error) {
	cfg = rest.CopyConfig(cfg)
	cfg.QPS = -1
	cfg.DisableCompression = true
	cfg.WarningHandler = rest.NoWarnings{}
	if c.cert, err = certclient.NewForConfig(cfg); err != nil {
		return c, err
	}
	if c.crds, err = apiextensions.NewForConfig(cfg); err != nil {
		return c, err
	}
	cfg.ContentType = "application/vnd.kubernetes.protobuf"
	cfg.AcceptContentTypes = cfg.ContentType
	c.core, err = kubernetes.NewForConfig(cfg)
	return c, err
}

// populate makes the recipe's objects. It can be called again on what an earlier
// call left behind.
func populate(ctx context.Context, cfg *rest.Config, r recipe, out io.Writer) error {
	c, err := newClients(cfg)
	if err != nil {
		return err
	}
	// Status is a subresource of Certificates: a create drops it. Without the
	// subresource one write does.
	if err := c.applyCRDs(ctx, false); err != nil {
		return err
	}
	if err := each(ctx, out, "namespaces", r.Namespaces, func(i int) error {
		_, err := c.core.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace(i)}}, metav1.CreateOptions{})
		return err
	}); err != nil {
		return err
	}
	pairs, err := keyPairs(40)
	if err != nil {
		return err
	}
	for _, step := range []struct {
		name   string
		n      int
		create func(i int) error
	}{
		{"TLS Secrets", r.Certificates, func(i int) error {
			s := tlsSecret(r, i, pairs[i%len(pairs)])
			_, err := c.core.CoreV1().Secrets(s.Namespace).Create(ctx, s, metav1.CreateOptions{FieldManager: "cert-manager-certificates-issuing"})
			return err
		}},
		{"Certificates", r.Certificates, func(i int) error {
			x := certificate(r, i)
			_, err := c.cert.CertmanagerV1().Certificates(x.Namespace).Create(ctx, x, metav1.CreateOptions{FieldManager: "cert-manager-certificates-trigger"})
			return err
		}},
		{"Ingresses", r.Ingresses, func(i int) error {
			x := ingress(r, i)
			_, err := c.core.NetworkingV1().Ingresses(x.Namespace).Create(ctx, x, metav1.CreateOptions{})
			return err
		}},
		{"Helm Secrets", r.Helm, func(i int) error {
			x := helmSecret(r, i)
			_, err := c.core.CoreV1().Secrets(x.Namespace).Create(ctx, x, metav1.CreateOptions{FieldManager: "helm"})
			return err
		}},
		{"ConfigMaps", r.ConfigMaps, func(i int) error {
			x := configMap(r, i)
			_, err := c.core.CoreV1().ConfigMaps(x.Namespace).Create(ctx, x, metav1.CreateOptions{})
			return err
		}},
		{"Pods", r.Pods, func(i int) error {
			x := pod(r, i)
			_, err := c.core.CoreV1().Pods(x.Namespace).Create(ctx, x, metav1.CreateOptions{FieldManager: "kube-controller-manager"})
			return err
		}},
	} {
		if err := each(ctx, out, step.name, step.n, step.create); err != nil {
			return err
		}
	}
	return c.applyCRDs(ctx, true)
}

// each calls create for 0 to n-1, several at once. What exists already is fine,
// and a namespace may still wait for its ServiceAccount.
func each(ctx context.Context, out io.Writer, name string, n int, create func(int) error) error {
	begun := time.Now()
	var next, done atomic.Int64
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	for range 24 {
		wg.Go(func() {
			for ctx.Err() == nil {
				i := int(next.Add(1) - 1)
				if i >= n {
					return
				}
				err := create(i)
				for try := 0; try < 100 && err != nil && !apierrors.IsAlreadyExists(err) && ctx.Err() == nil; try++ {
					time.Sleep(100 * time.Millisecond)
					err = create(i)
				}
				if err != nil && !apierrors.IsAlreadyExists(err) {
					cancel(fmt.Errorf("create %s %d: %w", name, i, err))
					return
				}
				if d := done.Add(1); d%5000 == 0 {
					fmt.Fprintf(out, "bench: %d of %d %s, %.0f a second\n", d, n, name, float64(d)/time.Since(begun).Seconds())
				}
			}
		})
	}
	wg.Wait()
	if err := context.Cause(ctx); err != nil {
		return err
	}
	fmt.Fprintf(out, "bench: %d %s in %.0f s\n", n, name, time.Since(begun).Seconds())
	return nil
}

// applyCRDs makes cert-manager's CustomResourceDefinitions from the files of its
// module.
func (c clients) applyCRDs(ctx context.Context, status bool) error {
	dir, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}", "github.com/cert-manager/cert-manager").Output()
	if err != nil {
		return fmt.Errorf("find the module of cert-manager: %w", err)
	}
	files, err := filepath.Glob(filepath.Join(strings.TrimSpace(string(dir)), "deploy", "crds", "*.yaml"))
	if err == nil && len(files) == 0 {
		err = errors.New("cert-manager's module has no deploy/crds/*.yaml")
	}
	if err != nil {
		return err
	}
	for _, f := range files {
		content, err := os.ReadFile(f)
		if err != nil {
			return err
		}
		var crd apiextensionsv1.CustomResourceDefinition
		if err := yaml.Unmarshal(content, &crd); err != nil {
			return fmt.Errorf("%s: %w", f, err)
		}
		if !status {
			for i := range crd.Spec.Versions {
				crd.Spec.Versions[i].Subresources = nil
			}
		}
		api := c.crds.ApiextensionsV1().CustomResourceDefinitions()
		_, err = api.Create(ctx, &crd, metav1.CreateOptions{})
		if apierrors.IsAlreadyExists(err) {
			var old *apiextensionsv1.CustomResourceDefinition
			if old, err = api.Get(ctx, crd.Name, metav1.GetOptions{}); err == nil {
				crd.ResourceVersion = old.ResourceVersion
				_, err = api.Update(ctx, &crd, metav1.UpdateOptions{})
			}
		}
		if err != nil {
			return fmt.Errorf("apply %s: %w", crd.Name, err)
		}
	}
	// The API server serves them a moment later.
	for ctx.Err() == nil {
		if _, err = c.cert.CertmanagerV1().Certificates("default").List(ctx, metav1.ListOptions{Limit: 1}); err == nil {
			return nil
		}
		time.Sleep(100 * time.Millisecond)
	}
	return err
}

func namespace(i int) string { return fmt.Sprintf("team-%03d", i) }

func (r recipe) place(kind string, i int) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: namespace(i % r.Namespaces), Name: fmt.Sprintf("%s-%05d", kind, i)}
}

func host(r recipe, i int) string {
	return fmt.Sprintf("shop-%05d.%s.apps.example.com", i, namespace(i%r.Namespaces))
}

// pair is a PEM chain of a leaf and its CA, and the leaf's key.
type pair struct{ chain, ca, key []byte }

// keyPairs makes n real key pairs. Certificates share them: what a body holds
// makes no difference to who reads it, its size does.
func keyPairs(n int) ([]pair, error) {
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	ca := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "bench CA"}, NotBefore: time.Now(),
		NotAfter: time.Now().Add(24 * time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	caDER, err := x509.CreateCertificate(rand.Reader, ca, ca, &caKey.PublicKey, caKey)
	if err != nil {
		return nil, err
	}
	caPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: caDER})
	out := make([]pair, n)
	for i := range out {
		key, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			return nil, err
		}
		name := fmt.Sprintf("shop-%05d.apps.example.com", i)
		leaf := &x509.Certificate{SerialNumber: big.NewInt(int64(i + 2)), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
			NotBefore: time.Now(), NotAfter: time.Now().Add(24 * time.Hour), KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment}
		der, err := x509.CreateCertificate(rand.Reader, leaf, ca, &key.PublicKey, caKey)
		if err != nil {
			return nil, err
		}
		out[i] = pair{
			chain: append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), caPEM...),
			ca:    caPEM,
			key:   pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)}),
		}
	}
	return out, nil
}

// tlsSecret is as cert-manager writes it.
func tlsSecret(r recipe, i int, p pair) *corev1.Secret {
	m := r.place("shop-tls", i)
	m.Labels = map[string]string{cm.PartOfCertManagerControllerLabelKey: "true"}
	m.Annotations = map[string]string{
		cm.AltNamesAnnotationKey: host(r, i), cm.CertificateNameKey: m.Name, cm.CommonNameAnnotationKey: host(r, i),
		cm.IPSANAnnotationKey: "", cm.URISANAnnotationKey: "", cm.IssuerNameAnnotationKey: "letsencrypt",
		cm.IssuerKindAnnotationKey: "ClusterIssuer", cm.IssuerGroupAnnotationKey: "cert-manager.io",
	}
	return &corev1.Secret{ObjectMeta: m, Type: corev1.SecretTypeTLS, Data: map[string][]byte{"tls.crt": p.chain, "tls.key": p.key, "ca.crt": p.ca}}
}

func certificate(r recipe, i int) *cm.Certificate {
	m := r.place("shop-tls", i)
	now := metav1.Now()
	end, renewal, revision := metav1.NewTime(now.Add(90*24*time.Hour)), metav1.NewTime(now.Add(60*24*time.Hour)), 3
	return &cm.Certificate{ObjectMeta: m,
		Spec: cm.CertificateSpec{SecretName: m.Name, DNSNames: []string{host(r, i)}, CommonName: host(r, i),
			IssuerRef:  cmmeta.IssuerReference{Name: "letsencrypt", Kind: "ClusterIssuer", Group: "cert-manager.io"},
			PrivateKey: &cm.CertificatePrivateKey{Algorithm: cm.RSAKeyAlgorithm, Size: 2048, RotationPolicy: cm.RotationPolicyAlways},
			Usages:     []cm.KeyUsage{cm.UsageDigitalSignature, cm.UsageKeyEncipherment}},
		Status: cm.CertificateStatus{NotBefore: &now, NotAfter: &end, RenewalTime: &renewal, Revision: &revision,
			Conditions: []cm.CertificateCondition{{Type: cm.CertificateConditionReady, Status: cmmeta.ConditionTrue, LastTransitionTime: &now,
				Reason: "Ready", Message: "Certificate is up to date and has not expired", ObservedGeneration: 1}}},
	}
}

// ingress names the TLS Secret of its number: there are half as many.
func ingress(r recipe, i int) *networkingv1.Ingress {
	m := r.place("shop", i)
	m.Annotations = map[string]string{"nginx.ingress.kubernetes.io/proxy-body-size": "8m", "nginx.ingress.kubernetes.io/ssl-redirect": "true"}
	class, prefix := "nginx", networkingv1.PathTypePrefix
	return &networkingv1.Ingress{ObjectMeta: m, Spec: networkingv1.IngressSpec{IngressClassName: &class,
		TLS: []networkingv1.IngressTLS{{Hosts: []string{host(r, i)}, SecretName: fmt.Sprintf("shop-tls-%05d", i)}},
		Rules: []networkingv1.IngressRule{{Host: host(r, i), IngressRuleValue: networkingv1.IngressRuleValue{HTTP: &networkingv1.HTTPIngressRuleValue{
			Paths: []networkingv1.HTTPIngressPath{{Path: "/", PathType: &prefix, Backend: networkingv1.IngressBackend{
				Service: &networkingv1.IngressServiceBackend{Name: "shop", Port: networkingv1.ServiceBackendPort{Number: 80}}}}}}}}},
	}}
}

func helmSecret(r recipe, i int) *corev1.Secret {
	m := r.place("sh.helm.release.v1.shop", i)
	m.Labels = map[string]string{"name": "shop", "owner": "helm", "status": "deployed", "version": "1", "modifiedAt": "1700000000"}
	body := make([]byte, 50<<10)
	mathrand.New(mathrand.NewSource(int64(i))).Read(body) // compressed data does not compress again
	text := make([]byte, 0, 100<<10)
	text = fmt.Appendf(text, "%x", body)
	return &corev1.Secret{ObjectMeta: m, Type: "helm.sh/release.v1", Data: map[string][]byte{"release": text}}
}

func configMap(r recipe, i int) *corev1.ConfigMap {
	m := r.place("config", i)
	m.Labels = map[string]string{"app.kubernetes.io/name": "shop", "app.kubernetes.io/part-of": "shop"}
	var b strings.Builder
	for n := 0; b.Len() < 1024; n++ {
		fmt.Fprintf(&b, "feature.%d.enabled=%v\nfeature.%d.url=http://svc-%d.internal:8080/v1/%d\n", n, (i+n)%2 == 0, n, i%97, n)
	}
	return &corev1.ConfigMap{ObjectMeta: m, Data: map[string]string{"application.properties": b.String()}}
}

func pod(r recipe, i int) *corev1.Pod {
	m := r.place("shop-7c9d8b5f6d", i)
	m.Labels = map[string]string{"app.kubernetes.io/name": "shop", "app.kubernetes.io/instance": fmt.Sprintf("shop-%d", i%50), "pod-template-hash": "7c9d8b5f6d"}
	m.Annotations = map[string]string{"prometheus.io/scrape": "true", "prometheus.io/port": "9090", "checksum/config": strings.Repeat("0123456789abcdef", 4)}
	yes, no, user := true, false, int64(1000)
	probe := func(path, port string) *corev1.Probe {
		return &corev1.Probe{ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: path, Port: intstr.FromString(port)}}, PeriodSeconds: 10}
	}
	container := func(name string, port int32) corev1.Container {
		c := corev1.Container{Name: name, Image: "registry.example.com/shop/" + name + ":v1.42.0@sha256:" + strings.Repeat("0123456789abcdef", 4),
			Args:           []string{"--listen=:8080", "--log-level=info", "--config=/etc/shop/application.properties"},
			Ports:          []corev1.ContainerPort{{Name: name, ContainerPort: port}},
			ReadinessProbe: probe("/readyz", name), LivenessProbe: probe("/livez", name),
			Resources: corev1.ResourceRequirements{Requests: amounts("100m", "128Mi"), Limits: amounts("1", "512Mi")},
			SecurityContext: &corev1.SecurityContext{RunAsNonRoot: &yes, RunAsUser: &user, AllowPrivilegeEscalation: &no, ReadOnlyRootFilesystem: &yes,
				Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}}},
			VolumeMounts: []corev1.VolumeMount{{Name: "config", MountPath: "/etc/shop", ReadOnly: true}, {Name: "tmp", MountPath: "/tmp"}}}
		for n := range 12 {
			c.Env = append(c.Env, corev1.EnvVar{Name: fmt.Sprintf("SHOP_SETTING_%02d", n), Value: fmt.Sprintf("http://svc-%d.%s.svc:8080/v1", n, m.Namespace)})
		}
		return c
	}
	p := &corev1.Pod{ObjectMeta: m, Spec: corev1.PodSpec{
		Containers:                   []corev1.Container{container("app", 8080), container("sidecar", 9090)},
		AutomountServiceAccountToken: &no, ServiceAccountName: "default", NodeName: fmt.Sprintf("node-%03d", i%200),
		Volumes: []corev1.Volume{
			{Name: "config", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: fmt.Sprintf("config-%05d", i%r.ConfigMaps)}}}},
			{Name: "tmp", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}}}}
	if i%10 == 0 {
		p.Spec.Volumes = append(p.Spec.Volumes, corev1.Volume{Name: "tls", VolumeSource: corev1.VolumeSource{
			Secret: &corev1.SecretVolumeSource{SecretName: fmt.Sprintf("shop-tls-%05d", i%r.Certificates)}}})
	}
	return p
}

func amounts(cpu, memory string) corev1.ResourceList {
	return corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(cpu), corev1.ResourceMemory: resource.MustParse(memory)}
}
