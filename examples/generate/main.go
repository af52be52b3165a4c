// Command generate writes the examples: the objects of clusters that do not
// exist. They hold no keys, because none were ever made; where a Secret has a
// certificate, its key was thrown away.
//
//	go run ./examples/generate
package main

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"text/template"
)

func main() {
	for name, content := range files() {
		name = filepath.Join("examples", name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			fail(err)
		}
		if err := os.WriteFile(name, content, 0o644); err != nil {
			fail(err)
		}
	}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, "generate:", err)
	os.Exit(1)
}

// files are all generated files by their names below examples.
func files() map[string][]byte {
	out := map[string][]byte{}
	mess(out)
	shim(out)
	return out
}

// uid is the same for the same object every time, and looks like one of the
// API server's.
func uid(parts ...string) string {
	h := sha256.Sum256([]byte(strings.Join(parts, "/")))
	return fmt.Sprintf("%x-%x-4%03x-9%03x-%x", h[0:4], h[4:6], uint16(h[6])<<4|uint16(h[7])>>4, uint16(h[8])<<4|uint16(h[9])>>4, h[10:16])
}

// certificate is for legacy.example.com and ended on 2026-03-01.
const certificate = "LS0tLS1CRUdJTiBDRVJUSUZJQ0FURS0tLS0tCk1JSUJTVENCOEtBREFnRUNBZ0VCTUFvR0NDcUdTTTQ5QkFNQ01CMHhHekFaQmdOVkJBTVRFbXhsWjJGamVTNWwKZUdGdGNHeGxMbU52YlRBZUZ3MHlOVEF6TURFd01EQXdNREJhRncweU5qQXpNREV3TURBd01EQmFNQjB4R3pBWgpCZ05WQkFNVEVteGxaMkZqZVM1bGVHRnRjR3hsTG1OdmJUQlpNQk1HQnlxR1NNNDlBZ0VHQ0NxR1NNNDlBd0VICkEwSUFCRHo0RzMwRU1IdDV5aDdvbGhkNDNiNlU4WFUrUThpL0tkaStqN2d1STNLWkZnTXQ2SFRHZ2NSaTJmQmwKRy9NR2ZxQW1Vank0ZVV5L2pvdTd3S1dxMlFLaklUQWZNQjBHQTFVZEVRUVdNQlNDRW14bFoyRmplUzVsZUdGdApjR3hsTG1OdmJUQUtCZ2dxaGtqT1BRUURBZ05JQURCRkFpRUFwbU9PV055T0lYME4wT3FnR0tVZ2VzeE9aRzZkClhaVGd4aCtQbWRhRmdWOENJRXdQdzRTVjRMQ3lSTWY2bm55emprak13Tm5HaURZT1BOMUhzTElaQnZ3MAotLS0tLUVORCBDRVJUSUZJQ0FURS0tLS0tCg=="

// A service is a Knative Service with the objects that Knative and cert-manager
// make for it.
type service struct {
	Namespace, Name, Issuer string
	Created                 string
	Served                  string // the Secret that its KIngress names, its own if empty
	Deleted                 bool   // only the Secret is left
	Pending                 bool   // the certificate was never issued: no Secret
}

func (s service) UID() string          { return uid("route", s.Namespace, s.Name) }
func (s service) KCert() string        { return "route-" + s.UID() }
func (s service) KCertUID() string     { return uid("kcert", s.Namespace, s.Name) }
func (s service) ServiceUID() string   { return uid("service", s.Namespace, s.Name) }
func (s service) Host() string         { return s.Name + "." + s.Namespace + ".example.com" }
func (s service) U(kind string) string { return uid(kind, s.Namespace, s.Name) }
func (s service) Secret() string {
	if s.Served != "" {
		return s.Served
	}
	return s.KCert()
}

var texts = template.Must(template.New("").Parse(`
{{define "service"}}---
apiVersion: serving.knative.dev/v1
kind: Service
metadata:
  name: {{.Name}}
  namespace: {{.Namespace}}
  uid: {{.ServiceUID}}
  creationTimestamp: "{{.Created}}"
spec:
  template:
    spec:
      containers:
      - image: registry.example.com/{{.Namespace}}/{{.Name}}:v1
---
apiVersion: serving.knative.dev/v1
kind: Route
metadata:
  name: {{.Name}}
  namespace: {{.Namespace}}
  uid: {{.UID}}
  creationTimestamp: "{{.Created}}"
  ownerReferences:
  - {apiVersion: serving.knative.dev/v1, kind: Service, name: {{.Name}}, uid: {{.ServiceUID}}, controller: true}
spec:
  traffic:
  - {configurationName: {{.Name}}, latestRevision: true, percent: 100}
status:
  url: https://{{.Host}}
---
apiVersion: networking.internal.knative.dev/v1alpha1
kind: Ingress
metadata:
  name: {{.Name}}
  namespace: {{.Namespace}}
  uid: {{.U "kingress"}}
  generation: 1
  creationTimestamp: "{{.Created}}"
  annotations:
    networking.knative.dev/ingress.class: kourier.ingress.networking.knative.dev
  ownerReferences:
  - {apiVersion: serving.knative.dev/v1, kind: Route, name: {{.Name}}, uid: {{.UID}}, controller: true}
spec:
  httpOption: Redirected
  rules:
  - hosts:
    - {{.Name}}.{{.Namespace}}.svc.cluster.local
    visibility: ClusterLocal
  - hosts:
    - {{.Host}}
    visibility: ExternalIP
  tls:
  - hosts:
    - {{.Host}}
    secretName: {{.Secret}}
    secretNamespace: {{.Namespace}}
status:
  observedGeneration: 1
  conditions:
  - {type: Ready, status: "True"}
{{end}}

{{define "certificate"}}---
apiVersion: networking.internal.knative.dev/v1alpha1
kind: Certificate
metadata:
  name: {{.KCert}}
  namespace: {{.Namespace}}
  uid: {{.KCertUID}}
  generation: 1
  creationTimestamp: "{{.Created}}"
  labels:
    networking.knative.dev/certificate-type: external-domain
    serving.knative.dev/route: {{.Name}}
  annotations:
    networking.knative.dev/certificate.class: cert-manager.certificate.networking.knative.dev
  ownerReferences:
  - {apiVersion: serving.knative.dev/v1, kind: Route, name: {{.Name}}, uid: {{.UID}}, controller: true}
spec:
  dnsNames:
  - {{.Host}}
  domain: example.com
  secretName: {{.KCert}}
status:
  observedGeneration: 1
  conditions:
  - {type: Ready, status: "{{if .Pending}}False{{else}}True{{end}}"}
---
apiVersion: cert-manager.io/v1
kind: Certificate
metadata:
  name: {{.KCert}}
  namespace: {{.Namespace}}
  uid: {{.U "certificate"}}
  creationTimestamp: "{{.Created}}"
  ownerReferences:
  - {apiVersion: networking.internal.knative.dev/v1alpha1, kind: Certificate, name: {{.KCert}}, uid: {{.KCertUID}}, controller: true}
spec:
  commonName: {{.Host}}
  dnsNames:
  - {{.Host}}
  issuerRef: {kind: ClusterIssuer, name: {{.Issuer}}}
  privateKey: {rotationPolicy: Always}
  secretName: {{.KCert}}
status:
  conditions:
  - {type: Ready, status: "{{if .Pending}}False{{else}}True{{end}}"}
{{- if not .Pending}}
  notAfter: "2027-01-20T08:00:00Z"
  renewalTime: "2026-12-21T08:00:00Z"
{{- end}}
{{end}}

{{define "secret"}}---
apiVersion: v1
kind: Secret
metadata:
  name: {{.KCert}}
  namespace: {{.Namespace}}
  uid: {{.U "secret"}}
  creationTimestamp: "{{.Created}}"
  labels:
    controller.cert-manager.io/fao: "true"
    networking.internal.knative.dev/certificate-uid: {{.KCertUID}}
  annotations:
    cert-manager.io/alt-names: {{.Host}}
    cert-manager.io/certificate-name: {{.KCert}}
    cert-manager.io/common-name: {{.Host}}
    cert-manager.io/issuer-kind: ClusterIssuer
    cert-manager.io/issuer-name: {{.Issuer}}
type: kubernetes.io/tls
{{end}}
`))

func render(name string, services []service) []byte {
	var b bytes.Buffer
	for _, s := range services {
		if err := texts.ExecuteTemplate(&b, name, s); err != nil {
			fail(err)
		}
	}
	// Blank lines of the templates.
	return []byte(strings.ReplaceAll(strings.TrimSpace(b.String())+"\n", "\n\n", "\n"))
}

const created = "2026-05-04T09:00:00Z"

func mess(out map[string][]byte) {
	named := func(namespace string, names ...string) (list []service) {
		for _, n := range names {
			list = append(list, service{Namespace: namespace, Name: n, Issuer: "letsencrypt", Created: created})
		}
		return list
	}
	const dir = "knative-mess/"
	write := func(namespace string, services []service, more map[string]string) {
		var serving, certificates, secrets []service
		for _, s := range services {
			if !s.Deleted {
				serving = append(serving, s)
				certificates = append(certificates, s)
			}
			if !s.Pending {
				secrets = append(secrets, s)
			}
		}
		content := map[string][]byte{
			"services.yaml":     render("service", serving),
			"certificates.yaml": render("certificate", certificates),
			"secrets.yaml":      render("secret", secrets),
		}
		for name, text := range more {
			content[name] = append(content[name], strings.TrimPrefix(text, "\n")...)
		}
		for name, text := range content {
			if len(bytes.TrimSpace(text)) > 0 {
				out[dir+namespace+"/"+name] = text
			}
		}
	}

	// shop: one certificate per service, and what deleted services left.
	shop := named("shop", "cart", "catalog", "checkout", "images", "reviews", "search")
	for _, n := range []string{"black-friday", "recommend-v1", "tracking"} {
		s := service{Namespace: "shop", Name: n, Issuer: "letsencrypt", Created: "2025-11-10T09:00:00Z", Deleted: true}
		shop = append(shop, s)
	}
	write("shop", shop, nil)

	// team-blue: per-service certificates too, and a KIngress that names a
	// Secret which somebody deleted.
	blue := named("team-blue", "api", "web", "worker")
	write("team-blue", blue, map[string]string{"dangling.yaml": dangling})

	// payments: moved to a wildcard; the old certificates renew for ever.
	payments := named("payments", "card", "invoice", "ledger", "refund")
	for i := range payments {
		payments[i].Served = "payments.example.com"
	}
	write("payments", payments, map[string]string{"wildcard.yaml": wildcard})

	write("platform", nil, map[string]string{"platform.yaml": platform, "legacy.yaml": strings.ReplaceAll(legacy, "CERTIFICATE", certificate)})
	out[dir+"cluster.yaml"] = []byte(strings.TrimPrefix(cluster, "\n"))
	out[dir+"knative.yaml"] = []byte(strings.TrimPrefix(knative, "\n"))
}
