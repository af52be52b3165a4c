package stack

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509/pkix"
	"net"
	"os"
	"path/filepath"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// auditPolicy records every request of every user, once, without bodies.
const auditPolicy = `apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: Metadata
`

// serviceRange is the range of cluster addresses, which lead nowhere: there is no
// kube-proxy.
const serviceRange = "10.96.0.0/16"

// controllers of kube-controller-manager that something here relies on.
const controllers = "garbage-collector-controller,namespace-controller,serviceaccount-controller,root-ca-certificate-publisher-controller," +
	"endpoints-controller,endpointslice-controller,endpointslice-mirroring-controller,deployment-controller,replicaset-controller"

// start brings the stack up and returns when it can be used.
func (s *supervisor) start(ctx context.Context) error {
	authority, err := s.writeState()
	if err != nil {
		return err
	}
	cluster, err := s.startControlPlane(ctx)
	if err != nil || s.Level == ControlPlane {
		return err
	}
	return s.startFull(ctx, authority, cluster)
}

func (s *supervisor) pki(name string) string { return filepath.Join(s.Dir, "pki", name) }

// kubeconfig is that of one part, for use inside.
func (s *supervisor) kubeconfig(name string) string { return filepath.Join(s.Dir, "kubeconfigs", name) }

// users gives each part the user name that it has in a real cluster.
var users = map[string]string{
	"stack":                   "certherd-stack",
	"kube-controller-manager": "system:kube-controller-manager",
	"cert-manager":            "system:serviceaccount:cert-manager:cert-manager",
	"cert-manager-webhook":    "system:serviceaccount:cert-manager:cert-manager-webhook",
	"knative":                 "system:serviceaccount:knative-serving:controller",
	"net-kourier":             "system:serviceaccount:knative-serving:net-kourier",
}

// writeState writes certificates, kubeconfigs and the audit policy.
func (s *supervisor) writeState() (*authority, error) {
	authority, err := newAuthority()
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(s.pki(""), 0o700); err != nil {
		return nil, err
	}
	if err := authority.writePair(s.pki("kube-apiserver"), pkix.Name{CommonName: "kube-apiserver"},
		[]string{"localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local"},
		net.ParseIP("127.0.0.1"), net.ParseIP(private), net.ParseIP("10.96.0.1")); err != nil {
		return nil, err
	}
	serviceAccounts, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	serviceAccountsPEM, err := encodeKey(serviceAccounts)
	if err != nil {
		return nil, err
	}
	for path, content := range map[string][]byte{
		s.pki("ca.crt"):                           authority.pem,
		s.pki("service-accounts.key"):             serviceAccountsPEM,
		filepath.Join(s.Dir, "audit-policy.yaml"): []byte(auditPolicy),
	} {
		if err := os.WriteFile(path, content, 0o600); err != nil {
			return nil, err
		}
	}
	for part, user := range users {
		if err := authority.writeKubeconfig(s.kubeconfig(part), "https://"+private+":6443", user); err != nil {
			return nil, err
		}
	}
	return authority, authority.writeKubeconfig(filepath.Join(s.Dir, "kubeconfig"), "https://"+s.APIServer, "certherd-admin")
}

func (s *supervisor) startControlPlane(ctx context.Context) (*cluster, error) {
	s.progress("starting etcd and kube-apiserver")
	if err := s.run(ctx, &service{name: "etcd", part: Etcd, args: append([]string{
		"--data-dir=" + filepath.Join(s.Dir, "etcd"),
		"--listen-client-urls=http://127.0.0.1:2379", "--advertise-client-urls=http://127.0.0.1:2379",
		"--listen-peer-urls=http://127.0.0.1:2380", "--initial-advertise-peer-urls=http://127.0.0.1:2380",
		"--initial-cluster=default=http://127.0.0.1:2380",
		// What a crash of the machine would lose is thrown away anyhow.
		"--unsafe-no-fsync",
		"--quota-backend-bytes=8589934592",
		"--log-level=warn",
	}, s.ExtraEtcdArgs...)}); err != nil {
		return nil, err
	}
	if err := s.await(ctx, "etcd", "etcd", listening("127.0.0.1:2379")); err != nil {
		return nil, err
	}
	if err := s.run(ctx, &service{name: "kube-apiserver", part: Kubernetes, args: append([]string{
		"--etcd-servers=http://127.0.0.1:2379",
		"--advertise-address=" + private, "--secure-port=6443",
		"--tls-cert-file=" + s.pki("kube-apiserver.crt"), "--tls-private-key-file=" + s.pki("kube-apiserver.key"),
		"--client-ca-file=" + s.pki("ca.crt"),
		"--service-account-issuer=https://kubernetes.default.svc",
		"--service-account-key-file=" + s.pki("service-accounts.key"), "--service-account-signing-key-file=" + s.pki("service-accounts.key"),
		"--service-cluster-ip-range=" + serviceRange,
		"--authorization-mode=RBAC",
		"--allow-privileged=true",
		// Webhooks are dialled by their Endpoints: there is no kube-proxy.
		"--enable-aggregator-routing=true",
		// One file, in MB: who reads it must not miss what was rotated away.
		"--audit-log-maxsize=10000",
		"--audit-policy-file=" + filepath.Join(s.Dir, "audit-policy.yaml"), "--audit-log-path=" + filepath.Join(s.Dir, "audit.log"),
	}, s.ExtraAPIServerArgs...)}); err != nil {
		return nil, err
	}
	config, err := clientcmd.BuildConfigFromFlags("", s.kubeconfig("stack"))
	if err != nil {
		return nil, err
	}
	config.QPS = -1
	client, err := rest.HTTPClientFor(config)
	if err != nil {
		return nil, err
	}
	if err := s.await(ctx, "kube-apiserver to be ready", "kube-apiserver", answers(client, config.Host+"/readyz")); err != nil {
		return nil, err
	}
	s.progress("starting kube-controller-manager")
	if err := s.run(ctx, &service{name: "kube-controller-manager", part: Kubernetes, args: []string{
		"--kubeconfig=" + s.kubeconfig("kube-controller-manager"),
		"--controllers=" + controllers,
		"--service-account-private-key-file=" + s.pki("service-accounts.key"), "--root-ca-file=" + s.pki("ca.crt"),
		"--leader-elect=false",
		"--kube-api-qps=200", "--kube-api-burst=400",
		"--bind-address=127.0.0.1",
	}}); err != nil {
		return nil, err
	}
	cluster, err := newCluster(config, client)
	if err != nil {
		return nil, err
	}
	return cluster, s.await(ctx, "kube-controller-manager to make the default ServiceAccount", "kube-controller-manager", func(ctx context.Context) error {
		_, err := cluster.typed.CoreV1().ServiceAccounts("default").Get(ctx, "default", metav1.GetOptions{})
		return err
	})
}
