package inventory

import (
	"fmt"
	"strings"
	"testing"
)

// objects reads a cluster of a few lines, each "group kind {json}" with core
// for the empty group.
func objects(t testing.TB, lines string) []thing {
	t.Helper()
	var w []thing
	for line := range strings.Lines(lines) {
		line = strings.TrimSpace(line)
		if line == "" {
			continue
		}
		group, rest, _ := strings.Cut(line, " ")
		kind, doc, ok := strings.Cut(rest, " ")
		if !ok {
			t.Fatalf("not group kind {json}: %s", line)
		}
		if group == "core" {
			group = ""
		}
		w = append(w, thing{group: group, kind: kind, doc: []byte(doc)})
	}
	return w
}

const (
	secret = `core Secret {"metadata":{"namespace":"a","name":"web-tls","uid":"s1"},"type":"kubernetes.io/tls"}
`
	certificateOf = `cert-manager.io Certificate {"metadata":{"namespace":"a","name":"web-tls","uid":"c1"%s},"spec":{"secretName":"web-tls","dnsNames":["web.example.test"]}}
`
	// A Knative Certificate of a Route, the Certificate made for it, and their
	// Secret.
	perRoute = `networking.internal.knative.dev Certificate {"metadata":{"namespace":"a","name":"route-1","uid":"k1","ownerReferences":[{"apiVersion":"serving.knative.dev/v1","kind":"Route","name":"app","uid":"r1","controller":true}]},"spec":{"secretName":"route-1","dnsNames":["app.a.example.test"]}}
cert-manager.io Certificate {"metadata":{"namespace":"a","name":"route-1","uid":"c1","ownerReferences":[{"apiVersion":"networking.internal.knative.dev/v1alpha1","kind":"Certificate","name":"route-1","uid":"k1","controller":%v}]},"spec":{"secretName":"route-1","dnsNames":["app.a.example.test"]}}
core Secret {"metadata":{"namespace":"a","name":"route-1","uid":"s1"},"type":"kubernetes.io/tls"}
serving.knative.dev Route {"metadata":{"namespace":"a","name":"app","uid":"r1"}}
`
	wildcardSecret = `core Secret {"metadata":{"namespace":"a","name":"wildcard","uid":"s2","annotations":{"cert-manager.io/alt-names":"*.a.example.test"},"labels":{"controller.cert-manager.io/fao":"true"}},"type":"kubernetes.io/tls"}
`
	kingress = `networking.internal.knative.dev Ingress {"metadata":{"namespace":"a","name":"app","uid":"i1"},"spec":{"rules":[{"hosts":["app.a.example.test"]}],"tls":[{"hosts":["app.a.example.test"],"secretName":"%s","secretNamespace":"a"}]},"status":{"conditions":[{"type":"Ready","status":"%s"}]}}
`
)

func ownedBy(api, kind, name, uid string, controller bool) string {
	return fmt.Sprintf(`,"ownerReferences":[{"apiVersion":%q,"kind":%q,"name":%q,"uid":%q,"controller":%v}]`, api, kind, name, uid, controller)
}

func TestVerdicts(t *testing.T) {
	certificate := fmt.Sprintf(certificateOf, "")
	webSecret, webCertificate := SecretRef("a", "web-tls"), CertificateRef("a", "web-tls")
	routeK, routeC := KnativeCertificateRef("a", "route-1"), CertificateRef("a", "route-1")
	shim := fmt.Sprintf(certificateOf, ownedBy("networking.k8s.io/v1", "Ingress", "web", "i1", true))
	byThing := fmt.Sprintf(certificateOf, ownedBy("example.com/v1", "Thing", "owner", "t1", true))
	perRouteC := fmt.Sprintf(perRoute, true)
	thing := func(namespace, spec string) string {
		return fmt.Sprintf("example.com Thing {\"metadata\":{\"namespace\":%q,\"name\":\"thing\",\"uid\":\"t9\"},\"spec\":%s}\n", namespace, spec)
	}
	labelled := func(label string) string {
		return `core Secret {"metadata":{"namespace":"a","name":"web-tls","uid":"s1","labels":{` + label + `}},"type":"kubernetes.io/tls"}` + "\n"
	}
	annotated := func(annotation string) string {
		return `core Secret {"metadata":{"namespace":"a","name":"web-tls","uid":"s1","annotations":{` + annotation + `}},"type":"kubernetes.io/tls"}` + "\n"
	}
	named := func(name string) (string, Ref) {
		return fmt.Sprintf("core Secret {\"metadata\":{\"namespace\":\"a\",\"name\":%q,\"uid\":\"s1\"},\"type\":\"kubernetes.io/tls\"}\n", name), SecretRef("a", name)
	}
	usage := labelled(`"usage":"gateway"`)
	cacert, cacertRef := named("web-cacert")
	cacerts, cacertsRef := named("cacerts")
	imc, imcRef := named("imc-dispatcher-server-tls")
	wc1, wc1Ref := named("wc1.example.test")
	for _, tc := range []struct {
		sentence string
		objects  string
		of       Ref
		want     Verdict
		how      Evidence
	}{
		// Certificates and their Secrets.
		{"a Certificate whose Secret an Ingress serves is used", secret + certificate + `networking.k8s.io Ingress {"metadata":{"namespace":"a","name":"i","uid":"i"},"spec":{"tls":[{"secretName":"web-tls"}]}}`, webCertificate, Used, Field},
		{"a Certificate whose Secret nobody uses is unused", secret + certificate, webCertificate, Unused, ""},
		{"its Secret is used, by it", secret + certificate, webSecret, Used, Field},
		{"a Certificate without its Secret yet, which a Pod mounts, is used", certificate + `core Pod {"metadata":{"namespace":"a","name":"p","uid":"p"},"spec":{"volumes":[{"secret":{"secretName":"web-tls"}}]}}`, webCertificate, Used, Field},
		{"a Certificate without its Secret yet, which a ConfigMap mentions, is unknown", certificate + `core ConfigMap {"metadata":{"namespace":"a","name":"p","uid":"p"},"data":{"x":"use web-tls"}}`, webCertificate, Unknown, Mention},
		{"a Certificate whose Secret to be has a selected label is unknown", `cert-manager.io Certificate {"metadata":{"namespace":"a","name":"web-tls","uid":"c1"},"spec":{"secretName":"web-tls","secretTemplate":{"labels":{"usage":"gateway"}}}}
` + thing("b", `{"selector":{"matchLabels":{"usage":"gateway"}}}`), webCertificate, Unknown, Label},
		{"a Certificate that a webhook takes its CA from is used", secret + certificate + `admissionregistration.k8s.io MutatingWebhookConfiguration {"metadata":{"name":"w","uid":"w","annotations":{"cert-manager.io/inject-ca-from":"a/web-tls"}}}`, webCertificate, Used, Field},
		{"a Certificate that a CertificateRequest is named after is still unused", secret + certificate + `cert-manager.io CertificateRequest {"metadata":{"namespace":"a","name":"web-tls-1","uid":"q","annotations":{"cert-manager.io/certificate-name":"web-tls"},"ownerReferences":[{"apiVersion":"cert-manager.io/v1","kind":"Certificate","name":"web-tls","uid":"c1"}]},"spec":{"request":"","issuerRef":{"name":"web-tls"}}}`, webCertificate, Unused, ""},
		{"the temporary key of a request, which is named after its Certificate, is no use of that", secret + certificate + `cert-manager.io CertificateRequest {"metadata":{"namespace":"a","name":"web-tls-1","uid":"q","annotations":{"cert-manager.io/private-key-secret-name":"web-tls-x7k2p","cert-manager.io/certificate-name":"web-tls"},"ownerReferences":[{"apiVersion":"cert-manager.io/v1","kind":"Certificate","name":"web-tls","uid":"c1"}]},"spec":{"request":"","issuerRef":{"name":"web-tls"}}}`, webCertificate, Unused, ""},
		{"nor is it when an Order has it from its request", secret + certificate + `acme.cert-manager.io Order {"metadata":{"namespace":"a","name":"web-tls-1-1","uid":"o","annotations":{"cert-manager.io/private-key-secret-name":"web-tls-x7k2p","cert-manager.io/certificate-name":"web-tls"},"ownerReferences":[{"apiVersion":"cert-manager.io/v1","kind":"CertificateRequest","name":"web-tls-1","uid":"q"}]},"spec":{"request":"","issuerRef":{"name":"web-tls"}}}`, webCertificate, Unused, ""},
		{"a Secret with a Certificate of its name but another Secret is unused", secret + `cert-manager.io Certificate {"metadata":{"namespace":"a","name":"web-tls","uid":"c1","annotations":{"x":"y"}},"spec":{"secretName":"other"}}`, webSecret, Unused, ""},
		{"a Secret that holds a Certificate's keystore password is used", secret + `cert-manager.io Certificate {"metadata":{"namespace":"a","name":"web-tls","uid":"c1"},"spec":{"secretName":"other","keystores":{"jks":{"create":true,"passwordSecretRef":{"name":"web-tls","key":"p"}}}}}`, webSecret, Used, Field},
		{"a next private key is never unused", `core Secret {"metadata":{"namespace":"a","name":"web-tls","uid":"s1","labels":{"cert-manager.io/next-private-key":"true","controller.cert-manager.io/fao":"true"}},"type":"Opaque"}`, webSecret, Unknown, ""},

		// Shims.
		{"a Certificate of an Ingress that lists its Secret is used", secret + shim + `networking.k8s.io Ingress {"metadata":{"namespace":"a","name":"web","uid":"i1","annotations":{"cert-manager.io/cluster-issuer":"x"}},"spec":{"tls":[{"secretName":"web-tls"}]}}`, webCertificate, Used, Field},
		{"a Certificate of an Ingress that let go is unused", secret + shim + `networking.k8s.io Ingress {"metadata":{"namespace":"a","name":"web","uid":"i1"},"spec":{"tls":[{"secretName":"another"}]}}`, webCertificate, Unused, ""},
		{"a Certificate of an Ingress that is gone is unused", secret + shim, webCertificate, Unused, ""},
		{"a Certificate that something else made for an Ingress is unknown", secret + fmt.Sprintf(certificateOf, ownedBy("networking.k8s.io/v1", "Ingress", "web", "i1", false)) + `networking.k8s.io Ingress {"metadata":{"namespace":"a","name":"web","uid":"i1"},"spec":{}}`, webCertificate, Unknown, Owner},

		// Owners.
		{"a Certificate whose owner of an unknown kind lives is unknown", secret + byThing + `example.com Thing {"metadata":{"namespace":"a","name":"owner","uid":"t1"}}`, webCertificate, Unknown, Owner},
		{"a Certificate whose owner is another object of the name is unused", secret + byThing + `example.com Thing {"metadata":{"namespace":"a","name":"owner","uid":"t2"}}`, webCertificate, Unused, ""},
		{"a Certificate whose owner is a Deployment that lives is unknown", secret + fmt.Sprintf(certificateOf, ownedBy("apps/v1", "Deployment", "web", "d1", true)) + `apps Deployment {"metadata":{"namespace":"a","name":"web","uid":"d1"}}`, webCertificate, Unknown, Owner},
		{"a Certificate whose owner has no UID, as in a manifest, is unknown", secret + byThing + `example.com Thing {"metadata":{"namespace":"a","name":"owner"}}`, webCertificate, Unknown, Owner},
		{"a Secret that another Secret owns is unknown", `core Secret {"metadata":{"namespace":"a","name":"web-tls","uid":"s1","ownerReferences":[{"apiVersion":"v1","kind":"Secret","name":"master","uid":"m1"}]},"type":"kubernetes.io/tls"}
core Secret {"metadata":{"namespace":"a","name":"master","uid":"m1"},"type":"kubernetes.io/tls"}`, webSecret, Unknown, Owner},
		{"a Secret that an opaque Secret owns is unknown", `core Secret {"metadata":{"namespace":"a","name":"web-tls","uid":"s1","ownerReferences":[{"apiVersion":"v1","kind":"Secret","name":"master","uid":"m1"}]},"type":"kubernetes.io/tls"}
core Secret {"metadata":{"namespace":"a","name":"master","uid":"m1"},"type":"Opaque"}`, webSecret, Unknown, ""},
		{"a Secret and a Certificate that own each other are judged by others", `core Secret {"metadata":{"namespace":"a","name":"web-tls","uid":"s1","ownerReferences":[{"apiVersion":"cert-manager.io/v1","kind":"Certificate","name":"web-tls","uid":"c1"}]},"type":"kubernetes.io/tls"}
` + certificate, webCertificate, Unused, ""},
		{"a Certificate that owns itself is unknown and no endless loop", fmt.Sprintf(certificateOf, ownedBy("cert-manager.io/v1", "Certificate", "web-tls", "c1", true)), webCertificate, Unknown, Owner},

		{"a Secret that a Consolidation names is unused", secret + consolidation("web-tls", "c1"), webSecret, Unused, ""},
		{"so is a Certificate", secret + certificate + consolidation("web", "c1"), webCertificate, Unused, ""},
		{"and a Secret that is named like it", secret + consolidation("web", "c1"), webSecret, Unused, ""},
		{"a wildcard that nobody uses yet is used while it is issued", secret + certificate + executing("Issuing", "web-tls", "old"), webSecret, Used, Field},
		{"and so is its Certificate", secret + certificate + executing("Soaking", "web-tls", "old"), webCertificate, Used, Field},
		{"what can be gone back to is used during the soak", secret + certificate + executing("Soaking", "new", "web-tls"), webCertificate, Used, Field},
		{"and not when it is swept", secret + certificate + executing("Sweeping", "new", "web-tls"), webCertificate, Unused, ""},
		{"nor when all is done", secret + certificate + executing("Done", "web-tls", "web-tls"), webCertificate, Unused, ""},
		{"another kind of its group mentions it", secret + strings.Replace(consolidation("web-tls", "c1"), "Consolidation", "Other", 1), webSecret, Unknown, Mention},
		{"a Secret that a Consolidation owns is unknown", `core Secret {"metadata":{"namespace":"a","name":"web-tls","uid":"s1","ownerReferences":[{"apiVersion":"certherd.dev/v1alpha1","kind":"Consolidation","name":"x","uid":"c1"}]},"type":"kubernetes.io/tls"}
` + consolidation("x", "c1"), webSecret, Unknown, Owner},

		// Knative.
		{"a Knative Certificate of a Route that serves with it is used", perRouteC + fmt.Sprintf(kingress, "route-1", "True"), routeK, Used, Field},
		{"so is the Certificate made for it", perRouteC + fmt.Sprintf(kingress, "route-1", "True"), routeC, Used, Field},
		{"a Knative Certificate of a Route that has no Ingress yet is unknown", perRouteC, routeK, Unknown, Owner},
		{"so is the Certificate made for it, controlled", perRouteC, routeC, Unknown, Owner},
		{"and not controlled", fmt.Sprintf(perRoute, false), routeC, Unknown, Owner},
		{"a Knative Certificate superseded by a wildcard is unused", perRouteC + wildcardSecret + fmt.Sprintf(kingress, "wildcard", "True"), routeK, Unused, ""},
		{"so is the Certificate made for it, superseded", perRouteC + wildcardSecret + fmt.Sprintf(kingress, "wildcard", "True"), routeC, Unused, ""},
		{"it is unknown while the Ingress is not Ready", perRouteC + wildcardSecret + fmt.Sprintf(kingress, "wildcard", "False"), routeK, Unknown, Owner},
		{"it is unknown while the wildcard's Secret does not exist", perRouteC + fmt.Sprintf(kingress, "wildcard", "True"), routeK, Unknown, Owner},
		{"it is unknown while the other Secret does not cover the host", perRouteC + strings.Replace(wildcardSecret, "*.a.", "*.b.", 1) + fmt.Sprintf(kingress, "wildcard", "True"), routeK, Unknown, Owner},
		{"it is unknown where a Route of the name, but another one, is not its owner", strings.Replace(perRouteC, `"name":"app","uid":"r1"}}`, `"name":"app","uid":"r2"}}`, 1), routeK, Unused, ""},
		{"a wildcard that is named like a host is not mentioned by what routes the host", wc1 + `networking.internal.knative.dev Ingress {"metadata":{"namespace":"a","name":"x","uid":"x"},"spec":{"rules":[{"hosts":["wc1.example.test"],"http":{"paths":[{"rewriteHost":"wc1.example.test","splits":[{"serviceName":"wc1.example.test"}]}]}}],"tls":[{"hosts":["wc1.example.test"],"secretName":"y"}]}}
networking.k8s.io Ingress {"metadata":{"namespace":"a","name":"x","uid":"y"},"spec":{"rules":[{"host":"wc1.example.test"}],"tls":[{"hosts":["wc1.example.test"],"secretName":"y"}]}}
core Service {"metadata":{"namespace":"a","name":"x","uid":"z"},"spec":{"externalName":"wc1.example.test"}}
gateway.networking.k8s.io HTTPRoute {"metadata":{"namespace":"a","name":"x","uid":"z"},"spec":{"hostnames":["wc1.example.test"]}}
acme.cert-manager.io Order {"metadata":{"namespace":"a","name":"x","uid":"z"},"spec":{"request":"","issuerRef":{"name":"x"},"dnsNames":["wc1.example.test"]}}`, wc1Ref, Unused, ""},
		{"it is by a ConfigMap", wc1 + `core ConfigMap {"metadata":{"namespace":"a","name":"x","uid":"x"},"data":{"x":"serve wc1.example.test"}}`, wc1Ref, Unknown, Mention},
		{"a Secret that only an eventing data plane knows by name is unknown", imc, imcRef, Unknown, Mention},
		{"the Secret of net-kourier's environment is used", secret + `apps Deployment {"metadata":{"namespace":"knative-serving","name":"net-kourier-controller","uid":"d"},"spec":{"template":{"spec":{"containers":[{"env":[{"name":"CERTS_SECRET_NAMESPACE","value":"a"},{"name":"CERTS_SECRET_NAME","value":"web-tls"}]}]}}}}`, webSecret, Used, Field},
		{"the Secret of config-kourier is used", secret + `core ConfigMap {"metadata":{"namespace":"knative-serving","name":"config-kourier","uid":"d"},"data":{"certs-secret-name":"web-tls","certs-secret-namespace":"a"}}`, webSecret, Used, Field},

		// Flags and text.
		{"a flag with a namespace uses the Secret", secret + deployment("b", `"args":["--default-ssl-certificate=a/web-tls"]`), webSecret, Used, Field},
		{"a flag with one dash does", secret + deployment("b", `"command":["/nginx-ingress","-default-server-tls-secret=a/web-tls"]`), webSecret, Used, Field},
		{"a flag with the Pod's namespace does", secret + deployment("a", `"args":["--default-ssl-certificate=$(POD_NAMESPACE)/web-tls"]`), webSecret, Used, Field},
		{"a flag in a shell line does", secret + deployment("b", `"command":["sh","-c","exec /controller --v=2 --default-ssl-certificate=a/web-tls"]`), webSecret, Used, Field},
		{"a flag and its value as two arguments mention it", secret + deployment("b", `"args":["--default-ssl-certificate","a/web-tls"]`), webSecret, Unknown, Mention},
		{"an unknown flag mentions it", secret + deployment("b", `"args":["--webhook.tls=a/web-tls"]`), webSecret, Unknown, Mention},
		{"a flag that is called a Secret, without a namespace, mentions it from anywhere", secret + deployment("b", `"args":["--serving-cert=web-tls"]`), webSecret, Unknown, Mention},
		{"a variable that is called a Secret does", secret + deployment("b", `"env":[{"name":"SERVING_CERT_SECRET","value":"web-tls"}]`), webSecret, Unknown, Mention},
		{"a ConfigMap's key that is called a Secret does", secret + `core ConfigMap {"metadata":{"namespace":"b","name":"x","uid":"x"},"data":{"tls-secret":"web-tls"}}`, webSecret, Unknown, Mention},
		{"a line that begins with the namespace mentions it", secret + `core ConfigMap {"metadata":{"namespace":"b","name":"x","uid":"x"},"data":{"x":"certs:\na/web-tls\n"}}`, webSecret, Unknown, Mention},
		{"bytes of a ConfigMap mention it", secret + `core ConfigMap {"metadata":{"namespace":"a","name":"x","uid":"x"},"binaryData":{"x":"/3dlYi10bHP/"}}`, webSecret, Unknown, Mention},
		{"a number may be a name", func() string { s, _ := named("7"); return s }() + thing("a", `{"secretName":7}`), SecretRef("a", "7"), Unknown, Mention},
		{"values of a Helm release mention it as a key", secret + `helm.toolkit.fluxcd.io HelmRelease {"metadata":{"namespace":"a","name":"x","uid":"x"},"spec":{"values":{"certs":{"web-tls":{}}}}}`, webSecret, Unknown, Mention},
		{"volume attributes that hold more than a name mention it", secret + `core Pod {"metadata":{"namespace":"a","name":"x","uid":"x"},"spec":{"volumes":[{"csi":{"driver":"d","volumeAttributes":{"secrets":"kube://a/web-tls"}}}]}}`, webSecret, Unknown, Mention},
		{"a Role that may get it mentions it", secret + `rbac.authorization.k8s.io Role {"metadata":{"namespace":"a","name":"x","uid":"x"},"rules":[{"apiGroups":[""],"resources":["secrets"],"resourceNames":["web-tls"],"verbs":["get"]}]}`, webSecret, Unknown, Mention},
		{"a ClusterRole that may get it does", secret + `rbac.authorization.k8s.io ClusterRole {"metadata":{"name":"x","uid":"x"},"rules":[{"apiGroups":[""],"resources":["secrets"],"resourceNames":["web-tls"],"verbs":["get"]}]}`, webSecret, Unknown, Mention},
		{"a StorageClass's parameter uses it", secret + `storage.k8s.io StorageClass {"metadata":{"name":"x","uid":"x"},"parameters":{"csi.storage.k8s.io/node-stage-secret-name":"web-tls","csi.storage.k8s.io/node-stage-secret-namespace":"a"}}`, webSecret, Used, Field},
		{"a ClusterIssuer's CA is used", secret + `cert-manager.io ClusterIssuer {"metadata":{"name":"x","uid":"x"},"spec":{"ca":{"secretName":"web-tls"}}}`, webSecret, Used, Field},
		{"a Vault address names no Secret", secret + `cert-manager.io Issuer {"metadata":{"namespace":"a","name":"x","uid":"x"},"spec":{"vault":{"server":"https://vault","path":"pki","auth":{"tokenSecretRef":{"name":"web-tls","key":"t"}}}}}`, webSecret, Used, Field},

		// Names in other clothes.
		{"Emissary's name.namespace uses it", secret + `getambassador.io TLSContext {"metadata":{"namespace":"b","name":"x","uid":"x"},"spec":{"secret":"web-tls.a"}}`, webSecret, Used, Field},
		{"a kubernetes-gateway URL uses it", secret + `networking.istio.io Gateway {"metadata":{"namespace":"b","name":"x","uid":"x"},"spec":{"servers":[{"tls":{"credentialName":"kubernetes-gateway://a/web-tls"}}]}}`, webSecret, Used, Field},
		{"Istio's -cacert goes with its credential", cacert + `networking.istio.io Gateway {"metadata":{"namespace":"b","name":"x","uid":"x"},"spec":{"servers":[{"tls":{"credentialName":"web"}}]}}`, cacertRef, Used, Field},
		{"and with a kubernetes-gateway URL of its own", cacert + `networking.istio.io Gateway {"metadata":{"namespace":"b","name":"x","uid":"x"},"spec":{"servers":[{"tls":{"credentialName":"kubernetes-gateway://a/web-cacert"}}]}}`, cacertRef, Used, Field},
		{"a name that Istio has built in is unknown", cacerts, cacertsRef, Unknown, Mention},
		{"Contour's annotation moves the namespace", secret + `core Secret {"metadata":{"namespace":"b","name":"web-tls","uid":"s2"},"type":"kubernetes.io/tls"}
networking.k8s.io Ingress {"metadata":{"namespace":"b","name":"x","uid":"x","annotations":{"projectcontour.io/tls-cert-namespace":"a"}},"spec":{"tls":[{"secretName":"web-tls"}]}}`, webSecret, Used, Field},
		{"an operator's object that its name begins with is unknown", secret + `example.com Thing {"metadata":{"namespace":"a","name":"web","uid":"x"}}`, webSecret, Unknown, Mention},
		{"or ends with", secret + `example.com Thing {"metadata":{"namespace":"a","name":"tls","uid":"x"}}`, webSecret, Unknown, Mention},
		{"or of the whole cluster", secret + `example.com Global {"metadata":{"name":"web","uid":"x"}}`, webSecret, Unknown, Mention},
		{"a key of an unknown kind elsewhere mentions it", secret + `external-secrets.io ExternalSecret {"metadata":{"namespace":"b","name":"x","uid":"x"},"spec":{"data":[{"remoteRef":{"key":"web-tls"}}]}}`, webSecret, Unknown, Mention},
		{"even where its copy has the same name", secret + `core Secret {"metadata":{"namespace":"b","name":"web-tls","uid":"s2"},"type":"kubernetes.io/tls"}
external-secrets.io ExternalSecret {"metadata":{"namespace":"b","name":"x","uid":"x"},"spec":{"target":{"name":"web-tls"},"data":[{"remoteRef":{"key":"web-tls"}}]}}`, webSecret, Unknown, Mention},

		// Copies.
		{"a reflected Secret is used by its copy", secret + `core Secret {"metadata":{"namespace":"b","name":"web-tls","uid":"s2","annotations":{"reflector.v1.k8s.emberstack.com/reflects":"a/web-tls"}},"type":"kubernetes.io/tls"}`, webSecret, Used, Field},
		{"also by a copy of another type", secret + `core Secret {"metadata":{"namespace":"b","name":"web-tls","uid":"s2","annotations":{"replicator.v1.mittwald.de/replicate-from":"a/web-tls"}},"type":"Opaque"}`, webSecret, Used, Field},
		{"also by net-istio's copy", secret + `core Secret {"metadata":{"namespace":"istio-system","name":"x-y","uid":"s2","labels":{"networking.internal.knative.dev/originSecretName":"web-tls","networking.internal.knative.dev/originSecretNamespace":"a"}},"type":"kubernetes.io/tls"}`, webSecret, Used, Field},
		{"a Secret that may be copied is unknown", annotated(`"reflector.v1.k8s.emberstack.com/reflection-allowed":"true"`), webSecret, Unknown, Mention},
		{"a Secret that may not be copied is unused", annotated(`"reflector.v1.k8s.emberstack.com/reflection-allowed":"false"`), webSecret, Unused, ""},

		// Selectors.
		{"matchLabels select it", usage + thing("b", `{"certificateSelector":{"matchLabels":{"usage":"gateway"}}}`), webSecret, Unknown, Label},
		{"matchLabels of another value do not", usage + thing("b", `{"certificateSelector":{"matchLabels":{"usage":"database"}}}`), webSecret, Unused, ""},
		{"matchExpressions select it", usage + thing("b", `{"selector":{"matchExpressions":[{"key":"usage","operator":"In","values":["gateway"]}]}}`), webSecret, Unknown, Label},
		{"a bare map selects it", usage + thing("b", `{"selector":{"usage":"gateway"}}`), webSecret, Unknown, Label},
		{"a map of any name selects it", usage + thing("b", `{"secretsWith":{"usage":"gateway"}}`), webSecret, Unknown, Label},
		{"labels of an object itself select nothing", usage + `example.com Thing {"metadata":{"namespace":"a","name":"x","uid":"x","labels":{"usage":"gateway"}}}`, webSecret, Unused, ""},
		{"a Deployment's selector selects Pods", usage + `apps Deployment {"metadata":{"namespace":"a","name":"x","uid":"x"},"spec":{"selector":{"matchLabels":{"usage":"gateway"}},"template":{"metadata":{"labels":{"usage":"gateway"}}}}}`, webSecret, Unused, ""},
		{"an empty selector of Secrets selects it", secret + thing("a", `{"secretSelector":{}}`), webSecret, Unknown, Label},
		{"an empty selector in an empty list does", secret + thing("a", `{"secretSelector":{"matchLabels":null,"matchExpressions":[]}}`), webSecret, Unknown, Label},
		{"an empty selector of Secrets in another namespace does not", secret + thing("b", `{"secretSelector":{}}`), webSecret, Unused, ""},
		{"unless it looks into others", secret + thing("b", `{"secretSelector":{},"namespaceSelector":{}}`), webSecret, Unknown, Label},
		{"a trust Bundle selects it", usage + `trust.cert-manager.io Bundle {"metadata":{"name":"x","uid":"x"},"spec":{"sources":[{"secret":{"selector":{"matchLabels":{"usage":"gateway"}},"key":"ca.crt"}}]}}`, webSecret, Unknown, Label},
		{"key=value in an argument selects it", usage + deployment("b", `"args":["--secret-selector=usage=gateway"]`), webSecret, Unknown, Label},
		{"key in (values) does", usage + deployment("b", `"args":["--secret-selector","usage in (web, gateway)"]`), webSecret, Unknown, Label},
		{"the key alone does", usage + deployment("b", `"args":["usage"]`), webSecret, Unknown, Label},
		{"a selector in YAML text does", usage + `core ConfigMap {"metadata":{"namespace":"b","name":"x","uid":"x"},"data":{"x":"selector:\n  matchLabels:\n    usage: gateway\n"}}`, webSecret, Unknown, Label},
		{"a selector in JSON text does", usage + `core ConfigMap {"metadata":{"namespace":"b","name":"x","uid":"x"},"data":{"x":"{\"matchLabels\":{\"usage\":\"gateway\"}}"}}`, webSecret, Unknown, Label},
		{"the word alone in a sentence does not", usage + `core ConfigMap {"metadata":{"namespace":"b","name":"x","uid":"x"},"data":{"x":"see usage below"}}`, webSecret, Unused, ""},
		{"a label by which Kong finds Secrets makes it unknown", labelled(`"konghq.com/ca-cert":"true"`), webSecret, Unknown, Label},
		{"a label that is somebody's domain, in text, selects it", labelled(`"example.com/cert":"x"`) + `core ConfigMap {"metadata":{"namespace":"b","name":"x","uid":"x"},"data":{"x":"watches secrets with example.com/cert"}}`, webSecret, Unknown, Label},
	} {
		t.Run(tc.sentence, func(t *testing.T) {
			w := objects(t, tc.objects)
			for how, read := range map[string]reader{"everything": everything, "whole": whole, "piecewise": piecewise} {
				if strings.Contains(tc.sentence, "no UID") && how != "everything" {
					continue // live objects have one
				}
				if strings.Contains(tc.sentence, "bytes of") && how != "everything" {
					continue // protobuf has the bytes, and JSON of ConfigMaps is always scanned
				}
				j := snapshotOf(t, w, read).Judge(tc.of)
				if j.Verdict != tc.want || tc.how != "" && (len(j.Evidence) == 0 || j.Evidence[0].Via != tc.how) {
					t.Errorf("scanning %s: %s %v %s, want %s %s", how, j.Verdict, j.Evidence, j.Why, tc.want, tc.how)
				}
			}
		})
	}
}

func deployment(namespace, container string) string {
	return fmt.Sprintf("apps Deployment {\"metadata\":{\"namespace\":%q,\"name\":\"d\",\"uid\":\"d9\"},\"spec\":{\"template\":{\"spec\":{\"containers\":[{%s}]}}}}\n", namespace, container)
}

// consolidation names the Secret web-tls in every place where it may.
func consolidation(name, uid string) string {
	return fmt.Sprintf("certherd.dev Consolidation {\"metadata\":{\"namespace\":\"a\",\"name\":%q,\"uid\":%q,\"annotations\":{\"x\":\"web-tls\"}},"+
		"\"spec\":{\"secretName\":\"web-tls\",\"members\":[{\"kind\":\"Certificate\",\"name\":\"web-tls\",\"secretName\":\"web-tls\"}]},\"status\":{\"message\":\"a/web-tls\"}}\n", name, uid)
}

// executing is a Consolidation of a phase, with the Secrets of its wildcard and of
// its member.
func executing(phase, wildcard, member string) string {
	return fmt.Sprintf("certherd.dev Consolidation {\"metadata\":{\"namespace\":\"a\",\"name\":\"x\",\"uid\":\"c1\"},"+
		"\"spec\":{\"secretName\":%q,\"members\":[{\"kind\":\"Certificate\",\"name\":\"x\",\"secretName\":%q}]},\"status\":{\"phase\":%q}}\n", wildcard, member, phase)
}
