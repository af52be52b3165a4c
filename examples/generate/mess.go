package main

const cluster = `
# What says that this directory is the whole cluster.
apiVersion: certherd.dev/v1alpha1
kind: Dump
takenAt: "2026-11-23T10:00:00Z"
complete: true
---
apiVersion: v1
kind: List
items:
- {apiVersion: v1, kind: Namespace, metadata: {name: cert-manager, creationTimestamp: "2025-06-02T09:00:00Z"}}
- {apiVersion: v1, kind: Namespace, metadata: {name: knative-serving, creationTimestamp: "2025-06-02T09:00:00Z"}}
- {apiVersion: v1, kind: Namespace, metadata: {name: kourier-system, creationTimestamp: "2025-06-02T09:00:00Z"}}
- {apiVersion: v1, kind: Namespace, metadata: {name: payments, creationTimestamp: "2025-06-02T09:00:00Z"}}
- {apiVersion: v1, kind: Namespace, metadata: {name: platform, creationTimestamp: "2025-06-02T09:00:00Z"}}
- {apiVersion: v1, kind: Namespace, metadata: {name: shop, creationTimestamp: "2025-06-02T09:00:00Z"}}
- {apiVersion: v1, kind: Namespace, metadata: {name: team-blue, creationTimestamp: "2025-06-02T09:00:00Z"}}
---
apiVersion: cert-manager.io/v1
kind: ClusterIssuer
metadata:
  name: letsencrypt
  creationTimestamp: "2025-06-02T09:30:00Z"
spec:
  acme:
    server: https://acme-v02.api.letsencrypt.org/directory
    privateKeySecretRef: {name: letsencrypt-account}
    solvers:
    - dns01:
        route53: {region: eu-central-1}
status:
  acme: {uri: https://acme-v02.api.letsencrypt.org/acme/acct/1}
  conditions:
  - {type: Ready, status: "True"}
---
apiVersion: v1
kind: Secret
metadata: {name: letsencrypt-account, namespace: cert-manager, creationTimestamp: "2025-06-02T09:30:00Z"}
type: Opaque
`

const knative = `
apiVersion: v1
kind: ConfigMap
metadata: {name: config-network, namespace: knative-serving, creationTimestamp: "2025-06-02T10:00:00Z"}
data:
  external-domain-tls: Enabled
  ingress-class: kourier.ingress.networking.knative.dev
  certificate-class: cert-manager.certificate.networking.knative.dev
  namespace-wildcard-cert-selector: '{"matchLabels": {"networking.knative.dev/wildcard": "true"}}'
---
apiVersion: v1
kind: ConfigMap
metadata: {name: config-defaults, namespace: knative-serving, creationTimestamp: "2025-06-02T10:00:00Z"}
data:
  revision-timeout-seconds: "300"
  max-revision-timeout-seconds: "600"
---
apiVersion: apps/v1
kind: Deployment
metadata:
  name: 3scale-kourier-gateway
  namespace: kourier-system
  creationTimestamp: "2025-06-02T10:00:00Z"
  labels:
    networking.knative.dev/ingress-provider: kourier
spec:
  replicas: 2
  selector:
    matchLabels: {app: 3scale-kourier-gateway}
  template:
    metadata:
      labels: {app: 3scale-kourier-gateway}
    spec:
      containers:
      - name: kourier-gateway
        image: docker.io/envoyproxy/envoy:v1.36.4
        command: [/usr/local/bin/envoy]
        args:
        - --base-id
        - "1"
        - -c
        - /tmp/config/envoy-bootstrap.yaml
        - --log-level
        - info
        - --drain-time-s
        - "15"
        - --drain-strategy
        - immediate
        resources:
          limits: {cpu: "1", memory: 800Mi}
          requests: {cpu: 200m, memory: 200Mi}
`

// The Secret that this KIngress names is gone. Kourier's controller stops at
// its next start because of it.
const dangling = `
apiVersion: networking.internal.knative.dev/v1alpha1
kind: Ingress
metadata:
  name: beta
  namespace: team-blue
  generation: 1
  creationTimestamp: "2026-02-16T09:00:00Z"
  annotations:
    networking.knative.dev/ingress.class: kourier.ingress.networking.knative.dev
spec:
  rules:
  - hosts: [beta.team-blue.example.com]
    visibility: ExternalIP
  tls:
  - hosts: [beta.team-blue.example.com]
    secretName: beta-tls
    secretNamespace: team-blue
status:
  observedGeneration: 1
  conditions:
  - {type: Ready, status: "True"}
`

const wildcard = `
apiVersion: networking.internal.knative.dev/v1alpha1
kind: Certificate
metadata:
  name: payments.example.com
  namespace: payments
  uid: 0b7e2f64-6f0e-4a57-9f3e-5d1c7a9b4e10
  generation: 1
  creationTimestamp: "2026-09-14T09:00:00Z"
  labels:
    networking.knative.dev/wildcardDomain: example.com
  annotations:
    networking.knative.dev/certificate.class: cert-manager.certificate.networking.knative.dev
spec:
  dnsNames: ['*.payments.example.com']
  secretName: payments.example.com
status:
  observedGeneration: 1
  conditions:
  - {type: Ready, status: "True"}
---
apiVersion: cert-manager.io/v1
kind: Certificate
metadata:
  name: payments.example.com
  namespace: payments
  creationTimestamp: "2026-09-14T09:00:00Z"
  ownerReferences:
  - {apiVersion: networking.internal.knative.dev/v1alpha1, kind: Certificate, name: payments.example.com, uid: 0b7e2f64-6f0e-4a57-9f3e-5d1c7a9b4e10, controller: true}
spec:
  commonName: '*.payments.example.com'
  dnsNames: ['*.payments.example.com']
  issuerRef: {kind: ClusterIssuer, name: letsencrypt}
  privateKey: {rotationPolicy: Always}
  secretName: payments.example.com
status:
  conditions:
  - {type: Ready, status: "True"}
  notAfter: "2027-02-11T08:00:00Z"
  renewalTime: "2027-01-12T08:00:00Z"
---
apiVersion: v1
kind: Secret
metadata:
  name: payments.example.com
  namespace: payments
  creationTimestamp: "2026-09-14T09:00:00Z"
  labels:
    controller.cert-manager.io/fao: "true"
    networking.internal.knative.dev/certificate-uid: 0b7e2f64-6f0e-4a57-9f3e-5d1c7a9b4e10
  annotations:
    cert-manager.io/alt-names: '*.payments.example.com'
    cert-manager.io/certificate-name: payments.example.com
    cert-manager.io/common-name: '*.payments.example.com'
    cert-manager.io/issuer-kind: ClusterIssuer
    cert-manager.io/issuer-name: letsencrypt
type: kubernetes.io/tls
`

const platform = `
# A Gateway, whose certificate cert-manager's gateway-shim makes.
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata:
  name: edge
  namespace: platform
  uid: 5a0a1c0e-2f57-4d6a-8f42-21f7b3e5a001
  creationTimestamp: "2026-03-02T09:00:00Z"
  annotations:
    cert-manager.io/cluster-issuer: letsencrypt
spec:
  gatewayClassName: envoy
  listeners:
  - name: https
    hostname: edge.example.com
    port: 443
    protocol: HTTPS
    tls:
      certificateRefs:
      - {group: "", kind: Secret, name: edge-tls}
---
apiVersion: cert-manager.io/v1
kind: Certificate
metadata:
  name: edge-tls
  namespace: platform
  creationTimestamp: "2026-03-02T09:00:00Z"
  ownerReferences:
  - {apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, name: edge, uid: 5a0a1c0e-2f57-4d6a-8f42-21f7b3e5a001, controller: true}
spec:
  dnsNames: [edge.example.com]
  issuerRef: {kind: ClusterIssuer, name: letsencrypt}
  secretName: edge-tls
status:
  conditions:
  - {type: Ready, status: "True"}
  notAfter: "2027-01-20T08:00:00Z"
---
apiVersion: v1
kind: Secret
metadata:
  name: edge-tls
  namespace: platform
  creationTimestamp: "2026-03-02T09:00:00Z"
  labels: {controller.cert-manager.io/fao: "true"}
  annotations:
    cert-manager.io/alt-names: edge.example.com
    cert-manager.io/certificate-name: edge-tls
    cert-manager.io/issuer-kind: ClusterIssuer
    cert-manager.io/issuer-name: letsencrypt
type: kubernetes.io/tls
---
# The same certificate twice: a second one was made beside the first, and both
# are in use.
apiVersion: cert-manager.io/v1
kind: Certificate
metadata: {name: portal-tls, namespace: platform, creationTimestamp: "2025-09-01T09:00:00Z"}
spec:
  dnsNames: [portal.example.com]
  issuerRef: {kind: ClusterIssuer, name: letsencrypt}
  secretName: portal-tls
status:
  conditions:
  - {type: Ready, status: "True"}
  notAfter: "2027-01-20T08:00:00Z"
---
apiVersion: v1
kind: Secret
metadata:
  name: portal-tls
  namespace: platform
  creationTimestamp: "2025-09-01T09:00:00Z"
  labels: {controller.cert-manager.io/fao: "true"}
  annotations:
    cert-manager.io/alt-names: portal.example.com
    cert-manager.io/certificate-name: portal-tls
    cert-manager.io/issuer-kind: ClusterIssuer
    cert-manager.io/issuer-name: letsencrypt
type: kubernetes.io/tls
---
apiVersion: cert-manager.io/v1
kind: Certificate
metadata: {name: portal-tls-2, namespace: platform, creationTimestamp: "2026-04-01T09:00:00Z"}
spec:
  dnsNames: [portal.example.com]
  issuerRef: {group: cert-manager.io, kind: ClusterIssuer, name: letsencrypt}
  secretName: portal-tls-2
status:
  conditions:
  - {type: Ready, status: "True"}
  notAfter: "2027-01-22T08:00:00Z"
---
apiVersion: v1
kind: Secret
metadata:
  name: portal-tls-2
  namespace: platform
  creationTimestamp: "2026-04-01T09:00:00Z"
  labels: {controller.cert-manager.io/fao: "true"}
  annotations:
    cert-manager.io/alt-names: portal.example.com
    cert-manager.io/certificate-name: portal-tls-2
    cert-manager.io/issuer-kind: ClusterIssuer
    cert-manager.io/issuer-name: letsencrypt
type: kubernetes.io/tls
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: portal, namespace: platform, creationTimestamp: "2025-09-01T09:00:00Z"}
spec:
  ingressClassName: nginx
  rules:
  - host: portal.example.com
  tls:
  - {hosts: [portal.example.com], secretName: portal-tls}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: portal-admin, namespace: platform, creationTimestamp: "2026-04-01T09:00:00Z"}
spec:
  ingressClassName: nginx
  rules:
  - host: portal.example.com
  tls:
  - {hosts: [portal.example.com], secretName: portal-tls-2}
---
# The Certificate is gone, and no known field names the Secret. But this broker does, in
# a field that only its operator knows.
apiVersion: v1
kind: Secret
metadata:
  name: broker-mtls
  namespace: platform
  creationTimestamp: "2025-08-01T09:00:00Z"
  labels: {controller.cert-manager.io/fao: "true"}
  annotations:
    cert-manager.io/alt-names: broker.platform.svc
    cert-manager.io/certificate-name: broker-mtls
    cert-manager.io/issuer-kind: ClusterIssuer
    cert-manager.io/issuer-name: letsencrypt
type: kubernetes.io/tls
---
apiVersion: messaging.example.com/v1
kind: Broker
metadata: {name: orders, namespace: platform, creationTimestamp: "2025-08-01T09:00:00Z"}
spec:
  listeners:
  - port: 5671
    identity: "keystore:broker-mtls"
`

const legacy = `
# Made by hand, long expired, and named by nobody.
apiVersion: v1
kind: Secret
metadata: {name: legacy-tls, namespace: platform, creationTimestamp: "2025-03-01T09:00:00Z"}
type: kubernetes.io/tls
data:
  tls.crt: CERTIFICATE
---
# Made by hand, and a Deployment mounts it.
apiVersion: v1
kind: Secret
metadata: {name: metrics-tls, namespace: platform, creationTimestamp: "2026-01-05T09:00:00Z"}
type: kubernetes.io/tls
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: metrics, namespace: platform, creationTimestamp: "2026-01-05T09:00:00Z"}
spec:
  replicas: 1
  selector: {matchLabels: {app: metrics}}
  template:
    metadata: {labels: {app: metrics}}
    spec:
      containers:
      - {name: metrics, image: registry.example.com/metrics:v3}
      volumes:
      - name: tls
        secret: {secretName: metrics-tls}
`
