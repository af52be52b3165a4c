package stack

import (
	"context"
	"encoding/base64"
	"fmt"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
)

// The ClusterIssuers of a full stack. IssuerCA is the one that Knative uses; its
// CA is in Secret stack-ca of namespace cert-manager. The last two use Pebble and
// really solve challenges of every name: HTTP-01 (no wildcards), and DNS-01 by
// dynamic updates (RFC 2136).
const (
	IssuerSelfSigned = "selfsigned"
	IssuerCA         = "ca"
	IssuerHTTP01     = "acme-http01"
	IssuerDNS01      = "acme-dns01"
)

const webhookService = `
apiVersion: v1
kind: Service
metadata: {name: cert-manager-webhook, namespace: cert-manager}
spec:
  ports: [{name: https, port: 443, targetPort: 10250}]
`

// webhookConfiguration registers the webhook for what cert-manager's chart
// registers it for; %s is the CA.
const webhookConfiguration = `
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingWebhookConfiguration
metadata: {name: cert-manager-webhook}
webhooks:
- name: webhook.cert-manager.io
  admissionReviewVersions: [v1]
  sideEffects: None
  failurePolicy: Fail
  timeoutSeconds: 30
  rules:
  - {apiGroups: [cert-manager.io, acme.cert-manager.io], apiVersions: [v1], operations: [CREATE, UPDATE], resources: ["*/*"]}
  clientConfig:
    service: {name: cert-manager-webhook, namespace: cert-manager, path: /validate}
    caBundle: %[1]s
---
apiVersion: admissionregistration.k8s.io/v1
kind: MutatingWebhookConfiguration
metadata: {name: cert-manager-webhook}
webhooks:
- name: webhook.cert-manager.io
  admissionReviewVersions: [v1]
  sideEffects: None
  failurePolicy: Fail
  timeoutSeconds: 30
  rules:
  - {apiGroups: [cert-manager.io], apiVersions: [v1], operations: [CREATE], resources: [certificaterequests]}
  clientConfig:
    service: {name: cert-manager-webhook, namespace: cert-manager, path: /mutate}
    caBundle: %[1]s
`

func (s *supervisor) startCertManager(ctx context.Context, cluster *cluster) error {
	s.progress("starting cert-manager")
	if err := cluster.namespace(ctx, "cert-manager"); err != nil {
		return err
	}
	if err := s.run(ctx, &service{name: "cert-manager-webhook", part: CertManager, args: []string{
		"--kubeconfig=" + s.kubeconfig("cert-manager-webhook"),
		"--secure-port=10250", "--healthz-port=6080", "--metrics-listen-address=0",
		"--dynamic-serving-ca-secret-namespace=cert-manager", "--dynamic-serving-ca-secret-name=cert-manager-webhook-ca",
		"--dynamic-serving-dns-names=cert-manager-webhook,cert-manager-webhook.cert-manager,cert-manager-webhook.cert-manager.svc",
	}}); err != nil {
		return err
	}
	if err := s.run(ctx, &service{name: "cert-manager", part: CertManager, program: "cert-manager-controller", args: append([]string{
		"--kubeconfig=" + s.kubeconfig("cert-manager"),
		"--cluster-resource-namespace=cert-manager",
		"--dns01-recursive-nameservers=" + private + ":53", "--acme-http01-solver-nameservers=" + private + ":53",
	}, s.ExtraCertManagerArgs...)}); err != nil {
		return err
	}
	if err := cluster.applyYAML(ctx, webhookService); err != nil {
		return err
	}
	return cluster.backend(ctx, "cert-manager", "cert-manager-webhook", map[string]int32{"https": 10250})
}

// registerWebhook has kube-apiserver ask cert-manager's webhook, once the webhook
// has made the CA of its serving certificate.
func (s *supervisor) registerWebhook(ctx context.Context, cluster *cluster) error {
	var ca []byte
	if err := s.await(ctx, "cert-manager's webhook", "cert-manager-webhook", func(ctx context.Context) error {
		secret, err := cluster.typed.CoreV1().Secrets("cert-manager").Get(ctx, "cert-manager-webhook-ca", metav1.GetOptions{})
		if err != nil {
			return err
		}
		ca = secret.Data["ca.crt"]
		return listening(private + ":10250")(ctx)
	}); err != nil {
		return err
	}
	return cluster.applyYAML(ctx, fmt.Sprintf(webhookConfiguration, base64.StdEncoding.EncodeToString(ca)))
}

const issuers = `
apiVersion: cert-manager.io/v1
kind: ClusterIssuer
metadata: {name: selfsigned}
spec: {selfSigned: {}}
---
apiVersion: cert-manager.io/v1
kind: Certificate
metadata: {name: stack-ca, namespace: cert-manager}
spec:
  isCA: true
  commonName: certherd stack CA
  secretName: stack-ca
  duration: 87600h
  privateKey: {algorithm: ECDSA, size: 256}
  issuerRef: {name: selfsigned, kind: ClusterIssuer}
---
apiVersion: cert-manager.io/v1
kind: ClusterIssuer
metadata: {name: ca}
spec: {ca: {secretName: stack-ca}}
---
apiVersion: cert-manager.io/v1
kind: ClusterIssuer
metadata: {name: acme-http01}
spec:
  acme:
    server: https://%[1]s/dir
    caBundle: %[2]s
    privateKeySecretRef: {name: acme-http01-account}
    solvers:
    - http01: {ingress: {ingressClassName: kourier, serviceType: ClusterIP}}
---
apiVersion: cert-manager.io/v1
kind: ClusterIssuer
metadata: {name: acme-dns01}
spec:
  acme:
    server: https://%[1]s/dir
    caBundle: %[2]s
    privateKeySecretRef: {name: acme-dns01-account}
    solvers:
    - dns01: {rfc2136: {nameserver: "%[3]s:53"}}
`

func (s *supervisor) makeIssuers(ctx context.Context, authority *authority, cluster *cluster) error {
	if err := s.registerWebhook(ctx, cluster); err != nil {
		return err
	}
	text := fmt.Sprintf(issuers, pebbleACME, base64.StdEncoding.EncodeToString(authority.pem), private)
	// kube-apiserver may take a moment to see the webhook's endpoints.
	return s.await(ctx, "cert-manager's webhook to admit issuers", "kube-apiserver", func(ctx context.Context) error {
		return cluster.applyYAML(ctx, text)
	})
}

// withoutApprover reports whether cert-manager leaves it to others to approve requests.
func (s *supervisor) withoutApprover() bool {
	return slices.ContainsFunc(s.ExtraCertManagerArgs, func(arg string) bool { return strings.Contains(arg, "-certificaterequests-approver") })
}

// approveOwn approves the request for the certificate of the stack's own authority.
func (c *cluster) approveOwn(ctx context.Context) error {
	requests := c.dynamic.Resource(schema.GroupVersionResource{Group: "cert-manager.io", Version: "v1", Resource: "certificaterequests"}).Namespace("cert-manager")
	list, err := requests.List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	for i := range list.Items {
		if conditions, _, _ := unstructured.NestedSlice(list.Items[i].Object, "status", "conditions"); len(conditions) > 0 {
			continue
		}
		const approved = `{"status":{"conditions":[{"type":"Approved","status":"True","reason":"Stack","message":"the stack's own authority"}]}}`
		if _, err := requests.Patch(ctx, list.Items[i].GetName(), types.MergePatchType, []byte(approved), metav1.PatchOptions{}, "status"); err != nil {
			return err
		}
	}
	return nil
}

func (c *cluster) issuerReady(ctx context.Context, name string) error {
	issuer, err := c.dynamic.Resource(schema.GroupVersionResource{Group: "cert-manager.io", Version: "v1", Resource: "clusterissuers"}).
		Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return err
	}
	return ready(issuer)
}

// ready checks an object's condition Ready.
func ready(object *unstructured.Unstructured) error {
	conditions, _, err := unstructured.NestedSlice(object.Object, "status", "conditions")
	if err != nil {
		return err
	}
	for _, entry := range conditions {
		condition, _ := entry.(map[string]any)
		if condition["type"] == "Ready" {
			if condition["status"] == "True" {
				return nil
			}
			return fmt.Errorf("%s %s/%s is not ready: %v: %v", object.GetKind(), object.GetNamespace(), object.GetName(), condition["reason"], condition["message"])
		}
	}
	return fmt.Errorf("%s %s/%s says nothing of being ready yet", object.GetKind(), object.GetNamespace(), object.GetName())
}
