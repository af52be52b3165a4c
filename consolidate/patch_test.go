package consolidate

import (
	"strings"
	"testing"

	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
	"sigs.k8s.io/yaml"

	"github.com/certherd/certherd/inventory"
)

const patched = `
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: web, namespace: shop, uid: i1, labels: {app.kubernetes.io/managed-by: Helm}}
spec:
  tls:
  - hosts: [plain.example.test]
  - {hosts: [x.other.test], secretName: other-tls}
  - {hosts: [a.example.test], secretName: a-tls}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: edge, namespace: shop, uid: g1, annotations: {argocd.argoproj.io/tracking-id: x}}
spec:
  gatewayClassName: x
  listeners:
  - {name: http, port: 80, protocol: HTTP}
  - {name: b, hostname: b.example.test, port: 443, protocol: HTTPS, tls: {certificateRefs: [{name: b-tls}]}}
  - {name: several, hostname: d.example.test, port: 443, protocol: HTTPS, tls: {certificateRefs: [{name: other-tls}, {name: d-tls}]}}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: free, namespace: shop, uid: i2}
spec:
  tls:
  - {hosts: [c.example.test], secretName: c-tls}
`

// TestPatches: kustomize takes the patches, and they change what they should and
// nothing else.
func TestPatches(t *testing.T) {
	c := inventory.NewCollector()
	add := func(group, kind, text string) {
		t.Helper()
		js, err := yaml.YAMLToJSON([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Add(group, kind, js); err != nil {
			t.Fatal(err)
		}
	}
	for _, n := range []string{"a", "b", "c", "d"} {
		managed := ""
		if n == "b" {
			managed = ", labels: {app.kubernetes.io/managed-by: Helm}"
		}
		add("", "Secret", "{apiVersion: v1, kind: Secret, metadata: {name: "+n+"-tls, namespace: shop, labels: {controller.cert-manager.io/fao: 'true'}, annotations: {cert-manager.io/certificate-name: "+n+"-tls}}, type: kubernetes.io/tls}")
		add(inventory.GroupCertManager, "Certificate", "{metadata: {name: "+n+"-tls, namespace: shop, uid: c-"+n+managed+"}, spec: {secretName: "+n+"-tls, dnsNames: ["+n+".example.test], issuerRef: {name: ca, kind: ClusterIssuer}}}")
	}
	c.Freeze()
	add(inventory.GroupCertManager, "ClusterIssuer", "{metadata: {name: ca}, spec: {ca: {secretName: k}}, status: {conditions: [{type: Ready, status: 'True'}]}}")
	for doc := range strings.SplitSeq(patched, "---\n") {
		group := inventory.GroupNetworking
		kind := "Ingress"
		if strings.Contains(doc, "kind: Gateway") {
			group, kind = inventory.GroupGateway, "Gateway"
		}
		add(group, kind, doc)
	}
	s := c.Snapshot(taken)
	proposals := Proposals(s, Options{MinCertificates: 2, MaxHosts: 10})
	if len(proposals) != 1 || len(proposals[0].Consolidation.Spec.Members) != 3 {
		t.Fatalf("%+v", proposals)
	}
	secret := proposals[0].Consolidation.Spec.SecretName
	for _, all := range []bool{false, true} {
		out, err := Patches(s, proposals, all)
		if err != nil {
			t.Fatal(err)
		}
		fs := filesys.MakeFsInMemory()
		for name, text := range map[string]string{
			"/base/all.yaml": patched, "/patch/kustomization.yaml": string(out),
			"/base/kustomization.yaml": "resources: [all.yaml]\ncomponents: [../patch]\n",
		} {
			if err := fs.WriteFile(name, []byte(text)); err != nil {
				t.Fatal(err)
			}
		}
		m, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(fs, "/base")
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		got, err := m.AsYaml()
		if err != nil {
			t.Fatal(err)
		}
		from := []string{"a-tls", secret, "b-tls", secret}
		if all {
			from = append(from, "c-tls", secret)
		}
		fs = filesys.MakeFsInMemory()
		_ = fs.WriteFile("/all.yaml", []byte(strings.NewReplacer(from...).Replace(patched)))
		_ = fs.WriteFile("/kustomization.yaml", []byte("resources: [all.yaml]\n"))
		m, err = krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(fs, "/")
		if err != nil {
			t.Fatal(err)
		}
		want, err := m.AsYaml()
		if err != nil {
			t.Fatal(err)
		}
		if string(got) != string(want) {
			t.Errorf("all %v: got\n%s\nwant\n%s\nby\n%s", all, got, want, out)
		}
		for _, says := range []string{
			"kubectl patch ingresses.networking.k8s.io web -n shop --type json -p '[{\"op\":\"test\",\"path\":\"/spec/tls/2/secretName\",\"value\":\"a-tls\"},{\"op\":\"replace\",\"path\":\"/spec/tls/2/secretName\",\"value\":\"" + secret + "\"}]'",
			"/spec/listeners/1/tls/certificateRefs/0/name", "managed by Argo CD", "Afterwards take Certificate b-tls out of what Helm applies",
		} {
			if !strings.Contains(string(out), says) {
				t.Errorf("no %q in\n%s", says, out)
			}
		}
	}
}
