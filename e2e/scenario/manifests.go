package scenario

// unusual refers to Secrets of the namespace blog in places that a table of known
// fields does not have, and in some that it has.
const unusual = `
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: edgeproxies.edge.example.com}
spec:
  group: edge.example.com
  scope: Namespaced
  names: {kind: EdgeProxy, plural: edgeproxies, singular: edgeproxy}
  versions:
  - name: v1
    served: true
    storage: true
    schema:
      openAPIV3Schema:
        type: object
        properties:
          spec: {type: object, x-kubernetes-preserve-unknown-fields: true}
---
apiVersion: edge.example.com/v1
kind: EdgeProxy
metadata: {name: front, namespace: legacy}
spec:
  edge:
    material: {ref: "blog/{{.Plain}}" }
  serve:
    selector:
      matchLabels: {edge.example.com/serve: "yes"}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: proxy, namespace: blog}
data:
  proxy.cfg: |
    frontend https
      bind :443 ssl crt /etc/certs/{{.Text}}/tls.pem alpn h2
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: proxy, namespace: blog}
spec:
  replicas: 0
  selector: {matchLabels: {app: proxy}}
  template:
    metadata: {labels: {app: proxy}}
    spec:
      containers:
      - name: proxy
        image: dev.local/proxy
        volumeMounts: [{name: certificate, mountPath: /etc/certs}]
      volumes:
      - name: certificate
        secret: {secretName: {{.Mounted}} }
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: edge, namespace: legacy}
spec:
  gatewayClassName: none
  listeners:
  - name: other-namespace
    hostname: blog.legacy.example
    port: 443
    protocol: HTTPS
    allowedRoutes: {namespaces: {from: All}}
    tls:
      certificateRefs: [{name: {{.Listener}}, namespace: blog}]
  - name: by-hand
    hostname: hand.legacy.example
    port: 443
    protocol: HTTPS
    tls:
      certificateRefs: [{name: hand-tls}]
  - name: missing
    hostname: nowhere.legacy.example
    port: 443
    protocol: HTTPS
    tls:
      certificateRefs: [{name: nowhere-tls}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: ReferenceGrant
metadata: {name: edge, namespace: blog}
spec:
  from: [{group: gateway.networking.k8s.io, kind: Gateway, namespace: legacy}]
  to: [{group: "", kind: Secret, name: {{.Listener}} }]
`

// web is Ingresses, for most of which ingress-shim makes a Certificate of the
// name of their Secret, and Certificates that somebody wrote.
const web = `
{{- define "ingress"}}
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata:
  name: {{.name}}
  namespace: web
  {{- with .issuer}}
  annotations: {{"{"}}cert-manager.io/{{.}}{{"}"}}
  {{- end}}
  {{- with .label}}
  labels: {{"{"}}{{.}}{{"}"}}
  {{- end}}
spec:
  ingressClassName: nginx
  rules:
  - host: {{.host}}
    http:
      paths: [{path: /, pathType: Prefix, backend: {service: {name: app, port: {number: 80}}}}]
  tls: [{hosts: [{{.host}}], secretName: {{.secret}} }]
---
{{- end}}
{{- define "certificate"}}
apiVersion: cert-manager.io/v1
kind: Certificate
metadata:
  name: {{.name}}
  namespace: web
  {{- with .annotation}}
  annotations: {{"{"}}{{.}}{{"}"}}
  {{- end}}
spec:
  secretName: {{.secret}}
  dnsNames: ["{{.host}}"]
  issuerRef: {name: ca, kind: ClusterIssuer}
---
{{- end}}
apiVersion: cert-manager.io/v1
kind: Certificate
metadata: {name: web-ca, namespace: web}
spec:
  isCA: true
  commonName: CA of web
  secretName: web-ca
  privateKey: {algorithm: ECDSA, size: 256}
  issuerRef: {name: selfsigned, kind: ClusterIssuer}
---
apiVersion: cert-manager.io/v1
kind: Issuer
metadata: {name: web-ca, namespace: web}
spec: {ca: {secretName: web-ca}}
---
{{- range .}}
{{- if eq .kind "ingress"}}{{template "ingress" .}}{{else}}{{template "certificate" .}}{{end}}
{{- end}}
`

// webObjects fill web. Hosts below one domain would make a group, so each has
// a domain of its own unless that is meant.
var webObjects = []map[string]string{
	{"kind": "ingress", "name": "alpha", "issuer": "cluster-issuer: acme-http01", "host": "alpha.http.example", "secret": "alpha-tls"},
	{"kind": "ingress", "name": "beta", "issuer": "cluster-issuer: acme-http01", "host": "beta.http.example", "secret": "beta-tls"},
	{"kind": "ingress", "name": "www", "issuer": "cluster-issuer: ca", "host": "www.main.example", "secret": "www-tls"},
	{"kind": "ingress", "name": "one", "issuer": "cluster-issuer: selfsigned", "host": "one.pinned.example", "secret": "one-tls"},
	{"kind": "ingress", "name": "two", "issuer": "cluster-issuer: selfsigned", "host": "two.pinned.example", "secret": "two-tls"},
	{"kind": "ingress", "name": "left", "issuer": "cluster-issuer: ca", "host": "left.split.example", "secret": "left-tls"},
	{"kind": "ingress", "name": "right", "issuer": "issuer: web-ca", "host": "right.split.example", "secret": "right-tls"},
	{"kind": "ingress", "name": "argo", "issuer": "cluster-issuer: ca", "host": "argo.managed.example", "secret": "argo-tls", "label": "argocd.argoproj.io/instance: site"},
	{"kind": "ingress", "name": "suffix", "issuer": "cluster-issuer: ca", "host": "example.co.uk", "secret": "suffix-tls"},
	{"kind": "ingress", "name": "campaign", "issuer": "cluster-issuer: ca", "host": "www.campaign.example", "secret": "campaign-tls"},
	{"kind": "ingress", "name": "season", "issuer": "cluster-issuer: ca", "host": "www.season.example", "secret": "season-tls"},
	{"kind": "ingress", "name": "fair", "issuer": "cluster-issuer: ca", "host": "www.fair.example", "secret": "fair-tls"},
	{"kind": "ingress", "name": "lost", "host": "www.lost.example", "secret": "lost-tls"},

	{"kind": "certificate", "name": "api-cert", "host": "api.twice.example", "secret": "api-tls"},
	{"kind": "certificate", "name": "api-cert-copy", "host": "api.twice.example", "secret": "api-tls-copy"},
	{"kind": "ingress", "name": "api", "host": "api.twice.example", "secret": "api-tls"},

	{"kind": "certificate", "name": "promo-star", "host": "*.promo.example", "secret": "promo-star-tls"},
	{"kind": "certificate", "name": "promo-spring", "host": "spring.promo.example", "secret": "promo-spring-tls"},
	{"kind": "ingress", "name": "winter", "host": "winter.promo.example", "secret": "promo-star-tls"},
	{"kind": "ingress", "name": "spring", "host": "spring.promo.example", "secret": "promo-spring-tls"},

	{"kind": "certificate", "name": "shared-a", "host": "a.shared.example", "secret": "shared-tls"},
	{"kind": "certificate", "name": "shared-b", "host": "b.both.example", "secret": "shared-tls"},
	{"kind": "ingress", "name": "shared", "host": "a.shared.example", "secret": "shared-tls"},

	{"kind": "certificate", "name": "kept-for-later", "host": "kept.later.example", "secret": "kept-for-later", "annotation": `certherd.dev/ignore: "true"`},
}

// legacy is what uses Secrets that were made by hand, or that do not exist.
const legacy = `
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata:
  name: shimmed
  namespace: legacy
  annotations: {cert-manager.io/cluster-issuer: ca}
spec:
  gatewayClassName: none
  listeners:
  - name: https
    hostname: shim.gateway.example
    port: 443
    protocol: HTTPS
    tls:
      mode: Terminate
      certificateRefs: [{name: shim-tls}]
---
apiVersion: cert-manager.io/v1
kind: Certificate
metadata: {name: relic, namespace: legacy}
spec:
  secretName: relic-tls
  dnsNames: [relic.legacy.example]
  privateKey: {algorithm: ECDSA, size: 256, encoding: PKCS8, rotationPolicy: Never}
  issuerRef: {name: corp-2024, kind: ClusterIssuer}
---
apiVersion: cert-manager.io/v1
kind: Certificate
metadata: {name: corp, namespace: legacy}
spec:
  secretName: corp-tls
  dnsNames: [corp.legacy.example]
  privateKey: {algorithm: ECDSA, size: 256, encoding: PKCS8, rotationPolicy: Never}
  issuerRef: {name: corp, kind: CorpIssuer, group: issuer.example.com}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: corp, namespace: legacy}
spec:
  rules: [{host: corp.legacy.example, http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: app, port: {number: 80}}}}]}}]
  tls: [{hosts: [corp.legacy.example], secretName: corp-tls}]
---
# Nobody reconciles this class: Kourier would stop at its next start.
apiVersion: networking.internal.knative.dev/v1alpha1
kind: Ingress
metadata:
  name: dangling
  namespace: legacy
  annotations: {networking.knative.dev/ingress.class: nobody.ingress.example.com}
spec:
  httpOption: Enabled
  rules:
  - hosts: [dangling.legacy.example]
    visibility: ExternalIP
    http:
      paths:
      - splits: [{serviceName: app, serviceNamespace: legacy, servicePort: 80, percent: 100}]
  tls: [{hosts: [dangling.legacy.example], secretName: vanished-tls, secretNamespace: legacy}]
`
