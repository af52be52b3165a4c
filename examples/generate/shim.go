package main

import (
	"bytes"
	"fmt"
)

// shim writes what kubectl get ingress,certificate,secret,clusterissuer -A -o yaml gives in a
// cluster where cert-manager's ingress-shim makes a Certificate for every
// Ingress.
func shim(out map[string][]byte) {
	var b bytes.Buffer
	b.WriteString("apiVersion: v1\nitems:\n")
	for _, name := range []string{"blog", "docs", "forum", "wiki"} {
		id := uid("ingress", "web", name)
		fmt.Fprintf(&b, `- apiVersion: networking.k8s.io/v1
  kind: Ingress
  metadata:
    annotations:
      cert-manager.io/cluster-issuer: letsencrypt
    creationTimestamp: "2026-06-01T09:00:00Z"
    name: %[1]s
    namespace: web
    resourceVersion: "1001"
    uid: %[2]s
  spec:
    ingressClassName: nginx
    rules:
    - host: %[1]s.example.org
      http:
        paths:
        - backend:
            service:
              name: %[1]s
              port:
                number: 80
          path: /
          pathType: Prefix
    tls:
    - hosts:
      - %[1]s.example.org
      secretName: %[1]s-tls
  status:
    loadBalancer:
      ingress:
      - ip: 192.0.2.10
`, name, id)
		shimmed(&b, name, fmt.Sprintf(`
    ownerReferences:
    - apiVersion: networking.k8s.io/v1
      blockOwnerDeletion: true
      controller: true
      kind: Ingress
      name: %s
      uid: %s`, name, id))
	}
	// Its Ingress is gone, and was deleted without what it owned
	// (kubectl delete --cascade=orphan).
	shimmed(&b, "newsletter", "")
	b.WriteString(`- apiVersion: cert-manager.io/v1
  kind: ClusterIssuer
  metadata:
    creationTimestamp: "2026-05-01T09:00:00Z"
    name: letsencrypt
    resourceVersion: "900"
  spec:
    acme:
      privateKeySecretRef:
        name: letsencrypt-account
      server: https://acme-v02.api.letsencrypt.org/directory
      solvers:
      - http01:
          ingress:
            ingressClassName: nginx
  status:
    acme:
      uri: https://acme-v02.api.letsencrypt.org/acme/acct/2
    conditions:
    - status: "True"
      type: Ready
`)
	b.WriteString("kind: List\nmetadata:\n  resourceVersion: \"\"\n")
	out["ingress-shim.yaml"] = b.Bytes()
}

func shimmed(b *bytes.Buffer, name, owners string) {
	fmt.Fprintf(b, `- apiVersion: cert-manager.io/v1
  kind: Certificate
  metadata:
    creationTimestamp: "2026-06-01T09:00:01Z"
    name: %[1]s-tls
    namespace: web%[2]s
    resourceVersion: "1002"
    uid: %[3]s
  spec:
    dnsNames:
    - %[1]s.example.org
    issuerRef:
      group: cert-manager.io
      kind: ClusterIssuer
      name: letsencrypt
    secretName: %[1]s-tls
    usages:
    - digital signature
    - key encipherment
  status:
    conditions:
    - lastTransitionTime: "2026-11-20T09:00:00Z"
      message: Certificate is up to date and has not expired
      reason: Ready
      status: "True"
      type: Ready
    notAfter: "2027-02-18T08:00:00Z"
    renewalTime: "2027-01-19T08:00:00Z"
- apiVersion: v1
  kind: Secret
  metadata:
    annotations:
      cert-manager.io/alt-names: %[1]s.example.org
      cert-manager.io/certificate-name: %[1]s-tls
      cert-manager.io/issuer-group: cert-manager.io
      cert-manager.io/issuer-kind: ClusterIssuer
      cert-manager.io/issuer-name: letsencrypt
    creationTimestamp: "2026-06-01T09:00:30Z"
    labels:
      controller.cert-manager.io/fao: "true"
    name: %[1]s-tls
    namespace: web
    resourceVersion: "1003"
    uid: %[4]s
  type: kubernetes.io/tls
`, name, owners, uid("certificate", "web", name), uid("secret", "web", name))
}
