package inventory

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// world is a small cluster in JSON, one object a line: group kind {json}.
func look(t testing.TB, lines ...string) *Snapshot {
	t.Helper()
	c := NewCollector()
	type object struct{ group, kind, doc string }
	var later []object
	for _, l := range lines {
		l = strings.TrimSpace(l)
		group, rest, _ := strings.Cut(l, " ")
		kind, doc, _ := strings.Cut(rest, " ")
		if group == "core" {
			group = ""
		}
		if kind == "Secret" && group == "" || kind == "Certificate" {
			if _, err := c.Add(group, kind, []byte(doc)); err != nil {
				t.Fatal(err)
			}
			continue
		}
		later = append(later, object{group, kind, doc})
	}
	c.Freeze()
	for _, o := range later {
		if _, err := c.Add(o.group, o.kind, []byte(o.doc)); err != nil {
			t.Fatal(err)
		}
		if err := c.Scan(o.group, o.kind, []byte(o.doc)); err != nil {
			t.Fatal(err)
		}
	}
	return c.Snapshot(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC))
}

func tlsSecret(ns, name string) string {
	return fmt.Sprintf(`core Secret {"metadata":{"namespace":%q,"name":%q},"type":"kubernetes.io/tls"}`, ns, name)
}

func TestVerdictOfASecret(t *testing.T) {
	for name, tc := range map[string]struct {
		other string
		want  Verdict
		how   Evidence
	}{
		"nobody names it":                       {``, Unused, ""},
		"an Ingress serves it":                  {`networking.k8s.io Ingress {"metadata":{"namespace":"a","name":"i"},"spec":{"tls":[{"secretName":"web-tls"}]}}`, Used, Field},
		"an Ingress elsewhere has the same":     {`networking.k8s.io Ingress {"metadata":{"namespace":"b","name":"i"},"spec":{"tls":[{"secretName":"web-tls"}]}}`, Unused, ""},
		"a Pod mounts it":                       {`core Pod {"metadata":{"namespace":"a","name":"p"},"spec":{"volumes":[{"secret":{"secretName":"web-tls"}}]}}`, Used, Field},
		"a pod template of a CRD mounts it":     {`example.com Thing {"metadata":{"namespace":"a","name":"p"},"spec":{"podTemplate":{"spec":{"volumes":[{"secret":{"secretName":"web-tls"}}]}}}}`, Used, Field},
		"an unknown field names it":             {`example.com Thing {"metadata":{"namespace":"a","name":"p"},"spec":{"x":"web-tls"}}`, Unknown, Mention},
		"a map key names it":                    {`example.com Thing {"metadata":{"namespace":"a","name":"p"},"spec":{"certs":{"web-tls":{"x":true}}}}`, Unknown, Mention},
		"ConfigMap text names it":               {`core ConfigMap {"metadata":{"namespace":"a","name":"p"},"data":{"c.yaml":"tls:\n  secret: web-tls\n"}}`, Unknown, Mention},
		"escaped text names it":                 {`core ConfigMap {"metadata":{"namespace":"a","name":"p"},"data":{"c.json":"{\"x\":\"a\\nweb-tls\"}"}}`, Unknown, Mention},
		"a longer name contains it":             {`core ConfigMap {"metadata":{"namespace":"a","name":"p"},"data":{"c":"myweb-tls1"}}`, Unused, ""},
		"text elsewhere gives namespace/name":   {`core ConfigMap {"metadata":{"namespace":"b","name":"p"},"data":{"c":"--cert=a/web-tls"}}`, Unknown, Mention},
		"text elsewhere gives name.namespace":   {`core ConfigMap {"metadata":{"namespace":"b","name":"p"},"data":{"c":"web-tls.a"}}`, Unknown, Mention},
		"text elsewhere does not say where":     {`core ConfigMap {"metadata":{"namespace":"b","name":"p"},"data":{"c":"web-tls"}}`, Unused, ""},
		"a CRD elsewhere has a secret field":    {`example.com Thing {"metadata":{"namespace":"b","name":"p"},"spec":{"tlsSecretName":"web-tls"}}`, Unknown, Mention},
		"a CRD elsewhere has a namespace field": {`example.com Thing {"metadata":{"namespace":"b","name":"p"},"spec":{"ref":{"name":"web-tls","namespace":"a"}}}`, Unknown, Mention},
		"a cluster-scoped object names it":      {`example.com Thing {"metadata":{"name":"p"},"spec":{"x":"web-tls"}}`, Unknown, Mention},
		"an operator's object of that name":     {`example.com Thing {"metadata":{"namespace":"a","name":"web"}}`, Unknown, Mention},
		"a webhook's CA comes from it":          {`admissionregistration.k8s.io ValidatingWebhookConfiguration {"metadata":{"name":"p","annotations":{"cert-manager.io/inject-ca-from-secret":"a/web-tls"}}}`, Used, Field},
		"prose of a CRD contains it":            {`apiextensions.k8s.io CustomResourceDefinition {"metadata":{"name":"things.example.com"},"spec":{"versions":[{"schema":{"openAPIV3Schema":{"properties":{"a":{"description":"such as web-tls"}}}}}]}}`, Unused, ""},
		"a CRD has it as a default":             {`apiextensions.k8s.io CustomResourceDefinition {"metadata":{"name":"things.example.com"},"spec":{"versions":[{"schema":{"openAPIV3Schema":{"properties":{"a":{"default":"web-tls"}}}}}]}}`, Unknown, Mention},
		"status alone names it":                 {`example.com Thing {"metadata":{"namespace":"a","name":"p"},"status":{"x":"web-tls"}}`, Unused, ""},
		"an Ingress flag names it":              {`apps Deployment {"metadata":{"namespace":"b","name":"p"},"spec":{"template":{"spec":{"containers":[{"args":["--default-ssl-certificate=a/web-tls"]}]}}}}`, Used, Field},
		"a Gateway in another namespace":        {`gateway.networking.k8s.io Gateway {"metadata":{"namespace":"b","name":"g"},"spec":{"listeners":[{"tls":{"certificateRefs":[{"name":"web-tls","namespace":"a"}]}}]}}`, Used, Field},
		"an Istio Gateway":                      {`networking.istio.io Gateway {"metadata":{"namespace":"b","name":"g"},"spec":{"servers":[{"tls":{"credentialName":"web-tls"}}]}}`, Used, Field},
		"a ReferenceGrant for every Secret":     {`gateway.networking.k8s.io ReferenceGrant {"metadata":{"namespace":"a","name":"g"},"spec":{"to":[{"group":"","kind":"Secret"}]}}`, Unknown, Mention},
	} {
		t.Run(name, func(t *testing.T) {
			lines := []string{tlsSecret("a", "web-tls")}
			if tc.other != "" {
				lines = append(lines, tc.other)
			}
			j := look(t, lines...).Judge(SecretRef("a", "web-tls"))
			if j.Verdict != tc.want {
				t.Fatalf("verdict %s, want %s; evidence %v", j.Verdict, tc.want, j.Evidence)
			}
			if tc.how != "" && j.Evidence[0].Via != tc.how {
				t.Errorf("evidence %v, want by %s", j.Evidence, tc.how)
			}
		})
	}
}
