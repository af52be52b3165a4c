package dump

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/certherd/certherd/inventory"
)

// A thing is an object of a test's cluster.
type thing struct {
	group, version, kind string
	doc                  string
}

// look reads things the way a live look does, and gives w what became records.
func look(t testing.TB, things []thing, gaps []inventory.Gap, w *Writer) *inventory.Snapshot {
	t.Helper()
	c := inventory.NewCollector()
	add := func(x thing) {
		kept, err := c.Add(x.group, x.kind, []byte(x.doc))
		if err != nil {
			t.Fatalf("%v: %s", err, x.doc)
		}
		if kept && w != nil {
			w.Object(x.group, x.version, x.kind, []byte(x.doc))
		}
	}
	for _, x := range things {
		if judged(inventory.Ref{Group: x.group, Kind: x.kind}) {
			add(x)
		}
	}
	c.Freeze()
	for _, x := range things {
		if judged(inventory.Ref{Group: x.group, Kind: x.kind}) {
			continue
		}
		add(x)
		if err := c.Scan(x.group, x.kind, []byte(x.doc)); err != nil {
			t.Fatal(err)
		}
	}
	for _, g := range gaps {
		c.Gap(g)
	}
	return c.Snapshot(time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC))
}

// same fails the test where two Snapshots differ.
func same(t testing.TB, got, want *inventory.Snapshot) {
	t.Helper()
	if !got.Taken.Equal(want.Taken) {
		t.Errorf("taken at %v, want %v", got.Taken, want.Taken)
	}
	g, w := reflect.ValueOf(got.Objects), reflect.ValueOf(want.Objects)
	for i := range g.NumField() {
		if !reflect.DeepEqual(g.Field(i).Interface(), w.Field(i).Interface()) {
			t.Errorf("%s:\n got %s\nwant %s", g.Type().Field(i).Name, asJSON(g.Field(i).Interface()), asJSON(w.Field(i).Interface()))
		}
	}
	if !reflect.DeepEqual(got.Edges(), want.Edges()) {
		t.Errorf("edges: too many %v, missing %v", without(got.Edges(), want.Edges()), without(want.Edges(), got.Edges()))
	}
	if !reflect.DeepEqual(got.Gaps, want.Gaps) {
		t.Errorf("gaps: got %v, want %v", got.Gaps, want.Gaps)
	}
	for ref := range judgements(want) {
		if a, b := got.Judge(ref), want.Judge(ref); !reflect.DeepEqual(a, b) {
			t.Errorf("verdict on %v: got %v, want %v", ref, a, b)
		}
	}
}

func without(list, other []inventory.Edge) []inventory.Edge {
	return slices.DeleteFunc(slices.Clone(list), func(e inventory.Edge) bool { return slices.Contains(other, e) })
}

func asJSON(v any) string {
	b, err := json.MarshalIndent(v, "", " ")
	if err != nil {
		return err.Error()
	}
	return string(b)
}

func judgements(s *inventory.Snapshot) map[inventory.Ref]inventory.Judgement {
	m := map[inventory.Ref]inventory.Judgement{}
	for i := range s.Secrets {
		m[s.Secrets[i].Ref] = s.Judge(s.Secrets[i].Ref)
	}
	for i := range s.Certificates {
		m[s.Certificates[i].Ref] = s.Judge(s.Certificates[i].Ref)
	}
	for i := range s.KnativeCertificates {
		m[s.KnativeCertificates[i].Ref] = s.Judge(s.KnativeCertificates[i].Ref)
	}
	return m
}

// roundTrip writes a cluster and reads it again.
func roundTrip(t testing.TB, things []thing, gaps []inventory.Gap) (before, after *inventory.Snapshot, archive []byte) {
	t.Helper()
	var out bytes.Buffer
	w := NewWriter(&out)
	before = look(t, things, gaps, w)
	if err := w.Close(before); err != nil {
		t.Fatal(err)
	}
	archive = bytes.Clone(out.Bytes())
	after, problems, err := Read([]string{"-"}, Options{Stdin: &out})
	if err != nil || len(problems) > 0 {
		t.Fatal(err, problems)
	}
	return before, after, archive
}

// cluster is a random cluster in which everything that inventory reads occurs,
// and names clash often.
func cluster(r *rand.Rand) []thing {
	pick := func(of ...string) string { return of[r.IntN(len(of))] }
	ns := func() string { return pick("a", "b", "knative-serving") }
	name := func() string {
		return pick("web", "web-tls", "api.example.com", "route-1", "route-2", "x-cacert", "x", "private", "key")
	}
	uid := func() string { return pick("u1", "u2", "u3") }
	var things []thing
	seen := map[string]bool{}
	add := func(group, version, kind, ns, name, meta, rest string) {
		id := group + kind + "/" + ns + "/" + name
		if seen[id] {
			return
		}
		seen[id] = true
		if ns != "" {
			meta += fmt.Sprintf(`,"namespace":%q`, ns)
		}
		labels := fmt.Sprintf(`"app":%q,"team/x":%q`, name, pick("1", "2"))
		if strings.Contains(meta, `"labels":{`) {
			meta = strings.Replace(meta, `"labels":{`, `"labels":{`+labels+`,`, 1)
		} else {
			meta += `,"labels":{` + labels + `}`
		}
		owner := pick("", fmt.Sprintf(`,"ownerReferences":[{"apiVersion":"networking.internal.knative.dev/v1alpha1","kind":"Certificate","name":%q,"uid":%q,"controller":true}]`, pick("route-1", "route-2"), uid()),
			fmt.Sprintf(`,"ownerReferences":[{"apiVersion":"example.com/v1","kind":"Thing","name":%q,"uid":%q}]`, pick("web", "z"), uid()))
		things = append(things, thing{group, version, kind, fmt.Sprintf(`{"apiVersion":%q,"kind":%q,"metadata":{"name":%q,"uid":%q,"generation":2,"resourceVersion":"%d","creationTimestamp":"2025-0%d-01T00:00:00Z"%s%s}%s}`,
			strings.TrimPrefix(group+"/"+version, "/"), kind, name, uid(), r.IntN(1000), 1+r.IntN(9), meta, owner, rest)})
	}
	conditions := func() string {
		return fmt.Sprintf(`"status":{"observedGeneration":%d,"notAfter":"2027-01-01T00:00:00Z","conditions":[{"type":"Ready","status":%q,"reason":"Because","message":"web-tls","lastTransitionTime":"2025-10-01T00:00:00Z"}]}`, 1+r.IntN(2), pick("True", "False"))
	}
	for range 40 {
		switch r.IntN(20) {
		case 0, 1, 2:
			add("", "v1", "Secret", ns(), name(), pick(
				``,
				`,"labels":{"controller.cert-manager.io/fao":"true","konghq.com/credential":"x"},"annotations":{"cert-manager.io/certificate-name":"web","cert-manager.io/alt-names":"a.example.com,b.example.com","cert-manager.io/issuer-name":"le","cert-manager.io/issuer-kind":"ClusterIssuer"}`,
				`,"annotations":{"reflector.v1.k8s.emberstack.com/reflects":"b/web-tls","certherd.dev/x":"y","notes":"see route-1","kubed.appscode.com/sync":"true"}`,
				`,"annotations":{"kubectl.kubernetes.io/last-applied-configuration":"{\"data\":{\"tls.key\":\"c2VjcmV0\"}}"}`,
			), fmt.Sprintf(`,"type":%q,"data":{"tls.crt":%q,"tls.key":"c2VjcmV0"}`, pick("kubernetes.io/tls", "Opaque"), pick("", testCertificate)))
		case 3, 4:
			add(inventory.GroupCertManager, "v1", "Certificate", ns(), name(), ``, fmt.Sprintf(`,"spec":{"secretName":%q,"commonName":"c.example.com","dnsNames":["a.example.com",%q],"issuerRef":{"name":"le","kind":%q},"duration":"24h0m0s","usages":["server auth"],"privateKey":{"algorithm":"ECDSA","size":256}%s},%s`,
				name(), pick("*.example.com", "x.example.com"), pick("", "ClusterIssuer"), pick(``, `,"keystores":{"jks":{"create":true,"password":"hunter2"}}`, `,"keystores":{"pkcs12":{"create":true,"passwordSecretRef":{"name":"x","key":"p"}}}`), conditions()))
		case 5, 6:
			add(inventory.GroupKnativeNet, "v1alpha1", "Certificate", ns(), name(), `,"annotations":{"networking.knative.dev/certificate.class":"cm"},"labels":{"networking.knative.dev/wildcardDomain":"example.com"}`,
				fmt.Sprintf(`,"spec":{"secretName":%q,"dnsNames":["a.example.com"]},%s`, name(), conditions()))
		case 7:
			add(inventory.GroupKnativeNet, "v1alpha1", "Ingress", ns(), name(), ``, fmt.Sprintf(`,"spec":{"rules":[{"hosts":["a.example.com"],"visibility":%q,"http":{"paths":[{"appendHeaders":{"x":"route-1"},"splits":[{"serviceName":"web"}]}]}}],"tls":[{"hosts":["a.example.com"],"secretName":%q,"secretNamespace":%q}]},%s`,
				pick("ExternalIP", "ClusterLocal"), name(), pick("", "a", "b"), conditions()))
		case 8:
			add(inventory.GroupServing, "v1", "Route", ns(), name(), ``, `,"spec":{"traffic":[{"tag":"web-tls"}]},`+conditions())
		case 9:
			add(inventory.GroupServing, "v1beta1", "DomainMapping", ns(), name(), ``, fmt.Sprintf(`,"spec":{"ref":{"name":"web"}%s},%s`, pick(``, `,"tls":{"secretName":"web-tls"}`), conditions()))
		case 10:
			add(inventory.GroupNetworking, "v1", "Ingress", ns(), name(), `,"annotations":{"cert-manager.io/cluster-issuer":"le","nginx.ingress.kubernetes.io/auth-tls-secret":"a/x"}`,
				fmt.Sprintf(`,"spec":{"ingressClassName":"nginx","rules":[{"host":"a.example.com"}],"tls":[{"hosts":["a.example.com"],"secretName":%q}]}%s`, name(), pick(``, `,"status":{"loadBalancer":{"ingress":[{"ip":"192.0.2.1"}]}}`)))
		case 11:
			add(inventory.GroupGateway, "v1", "Gateway", ns(), name(), ``, fmt.Sprintf(`,"spec":{"gatewayClassName":"c","listeners":[{"name":"l","port":443,"protocol":"HTTPS","hostname":"*.example.com","tls":{"certificateRefs":[{"name":%q},{"kind":"Secret","group":"","name":"x","namespace":"b"}],"options":{"o":"web"}}}]},"status":{"conditions":[{"type":"Programmed","status":"True"}]}`, name()))
		case 12:
			kind, n := "ClusterIssuer", ""
			if r.IntN(2) == 0 {
				kind, n = "Issuer", ns()
			}
			add(inventory.GroupCertManager, "v1", kind, n, pick("le", "ca"), ``, `,"spec":{`+pick(
				`"ca":{"secretName":"x"}`, `"selfSigned":{}`, `"vault":{"server":"https://v","path":"p","auth":{"tokenSecretRef":{"name":"web"}}}`,
				`"acme":{"email":"me@example.com","server":"https://acme","profile":"p","privateKeySecretRef":{"name":"key"},"solvers":[{"http01":{"ingress":{"ingressClassName":"x"}}},{"selector":{"dnsZones":["example.com"]},"dns01":{"cloudflare":{"apiTokenSecretRef":{"name":"x","key":"k"}}}}]}`,
			)+`},"status":{"acme":{"uri":"https://acme/1"},"conditions":[{"type":"Ready","status":"True","message":"key"}]}`)
		case 13:
			add(inventory.GroupCertManager, "v1", "CertificateRequest", ns(), name()+"-1", `,"annotations":{"cert-manager.io/private-key-secret-name":"x"}`, `,"spec":{"request":"d2ViLXRscw==","issuerRef":{"name":"le"}},`+conditions())
		case 14:
			add(inventory.GroupACME, "v1", pick("Order", "Challenge"), ns(), name()+"-2", ``, `,"spec":{"issuerRef":{"name":"le"},"dnsNames":["a"],"dnsName":"a","key":"web-tls","token":"x","solver":{},"url":"u","type":"HTTP-01","authorizationURL":"u","request":"eA=="},"status":{"state":"valid"}`)
		case 15:
			add("", "v1", "Namespace", "", ns(), `,"annotations":{"certherd.dev/ignore":"true"}`, ``)
		case 16:
			add("apps", "v1", pick("Deployment", "DaemonSet"), ns(), pick("3scale-kourier-gateway", "proxy"), pick(``, `,"labels":{"networking.knative.dev/ingress-provider":"kourier"}`), fmt.Sprintf(`,"spec":{"replicas":3,"selector":{},"template":{"metadata":{"labels":{"app":"x"}},"spec":{"volumes":[{"name":"v","secret":{"secretName":%q}}],"containers":[{"name":"s","image":"x","args":["--private","web-tls"]},{"name":"k","image":%q,"env":[{"name":"TOKEN","value":"hunter2"}],"command":["sh","-c","exec envoy --drain-time-s 7 --x api.example.com"],"args":%s,"resources":{"limits":{"memory":"800Mi"}}}]}}}`,
				name(), pick("envoyproxy/envoy:v1", "example.com/x"), pick(`["--drain-time-s","15","--concurrency=2","--config","web"]`, `["--drain-time-s=x"]`, `["--drain-time-seconds","3"]`, `[]`)))
		case 17:
			add("", "v1", "ConfigMap", pick("knative-serving", "a"), pick("config-network", "config-defaults", "web"), ``, `,"data":{"_example":"route-1","domain-template":"{{.Name}}.web-tls","max-revision-timeout-seconds":"900","external-domain-tls":"Enabled"}`)
		case 18:
			add("example.com", "v1", "Thing", pick(ns(), ""), name(), ``, fmt.Sprintf(`,"spec":{"tlsSecretName":%q,"selector":{"matchLabels":{"team/x":"1"}},"text":"a/web-tls b/x"}`, name()))
		case 19:
			add("networking.istio.io", "v1", "Gateway", ns(), fmt.Sprint("g", r.IntN(100)), ``, fmt.Sprintf(`,"spec":{"servers":[{"tls":{"credentialName":%q}}]}`, name()))
		}
	}
	return things
}

func TestReadingWhatWasWrittenGivesTheSameSnapshot(t *testing.T) {
	for seed := range uint64(100) {
		r := rand.New(rand.NewPCG(seed, 1))
		var gaps []inventory.Gap
		if seed%3 == 0 {
			gaps = append(gaps, inventory.Gap{Kind: "widget.example.com", Reason: "forbidden"})
		}
		things := cluster(r)
		before, after, _ := roundTrip(t, things, gaps)
		if same(t, after, before); t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

// The same for dumps that others have made: reading one and writing it makes
// one of ours.
func TestAnyDumpBecomesOneOfOurs(t *testing.T) {
	for _, path := range []string{"knative-mess", "ingress-shim.yaml"} {
		for _, complete := range []bool{false, true} {
			var out bytes.Buffer
			w := NewWriter(&out)
			before, _, err := Read([]string{"../../examples/" + path}, Options{Complete: complete, Object: w.Object})
			if err != nil {
				t.Fatal(err)
			}
			if err := w.Close(before); err != nil {
				t.Fatal(err)
			}
			after, problems, err := Read([]string{"-"}, Options{Stdin: &out})
			if err != nil || len(problems) > 0 {
				t.Fatal(err, problems)
			}
			same(t, after, before)
		}
	}
}

// More users than a Collector keeps of weaker evidence: those that make a
// gateway serve the Secret are all kept.
func TestReadingKeepsEveryGatewayOfASecret(t *testing.T) {
	things := []thing{{"", "v1", "Secret", `{"metadata":{"namespace":"a","name":"t"},"type":"kubernetes.io/tls"}`}}
	for i := range 40 {
		things = append(things,
			thing{"networking.istio.io", "v1", "Gateway", fmt.Sprintf(`{"metadata":{"namespace":"a","name":"g%d"},"spec":{"servers":[{"tls":{"credentialName":"t"}}]}}`, i)},
			thing{"", "v1", "Pod", fmt.Sprintf(`{"metadata":{"namespace":"a","name":"p%d"},"spec":{"volumes":[{"secret":{"secretName":"t"}}]}}`, i)},
			thing{"networking.k8s.io", "v1", "Ingress", fmt.Sprintf(`{"metadata":{"namespace":"a","name":"i%d"},"spec":{"tls":[{"secretName":"t"}]}}`, i)})
	}
	before, after, _ := roundTrip(t, things, nil)
	same(t, after, before)
	if n := len(after.To(inventory.SecretRef("a", "t"))); n < 80 {
		t.Errorf("%d edges, want those of 40 Istio Gateways, 40 Ingresses and some Pods", n)
	}
}

func TestAWriterThatMissedAnObjectSaysSo(t *testing.T) {
	var out bytes.Buffer
	w := NewWriter(&out)
	s := look(t, []thing{{"", "v1", "Secret", `{"metadata":{"namespace":"a","name":"t"},"type":"kubernetes.io/tls"}`}}, nil, nil)
	if err := w.Close(s); err != nil {
		t.Fatal(err)
	}
	after, _, err := Read([]string{"-"}, Options{Stdin: &out, Complete: true})
	if err != nil {
		t.Fatal(err)
	}
	if !after.HasGap("secret") {
		t.Errorf("gaps %v, want one for secret", after.Gaps)
	}
}

// testCertificate is a certificate for legacy.example.com that ended on
// 2026-03-01, as it stands in a Secret. Its key is nowhere.
const testCertificate = "LS0tLS1CRUdJTiBDRVJUSUZJQ0FURS0tLS0tCk1JSUJTVENCOEtBREFnRUNBZ0VCTUFvR0NDcUdTTTQ5QkFNQ01CMHhHekFaQmdOVkJBTVRFbXhsWjJGamVTNWwKZUdGdGNHeGxMbU52YlRBZUZ3MHlOVEF6TURFd01EQXdNREJhRncweU5qQXpNREV3TURBd01EQmFNQjB4R3pBWgpCZ05WQkFNVEVteGxaMkZqZVM1bGVHRnRjR3hsTG1OdmJUQlpNQk1HQnlxR1NNNDlBZ0VHQ0NxR1NNNDlBd0VICkEwSUFCRHo0RzMwRU1IdDV5aDdvbGhkNDNiNlU4WFUrUThpL0tkaStqN2d1STNLWkZnTXQ2SFRHZ2NSaTJmQmwKRy9NR2ZxQW1Vank0ZVV5L2pvdTd3S1dxMlFLaklUQWZNQjBHQTFVZEVRUVdNQlNDRW14bFoyRmplUzVsZUdGdApjR3hsTG1OdmJUQUtCZ2dxaGtqT1BRUURBZ05JQURCRkFpRUFwbU9PV055T0lYME4wT3FnR0tVZ2VzeE9aRzZkClhaVGd4aCtQbWRhRmdWOENJRXdQdzRTVjRMQ3lSTWY2bm55emprak13Tm5HaURZT1BOMUhzTElaQnZ3MAotLS0tLUVORCBDRVJUSUZJQ0FURS0tLS0tCg=="

func BenchmarkWriteASecret(b *testing.B) {
	doc := []byte(`{"metadata":{"name":"route-2d378634-127e-4e4c-992b-e873e5c8fc49","namespace":"shop","uid":"2d378634-127e-4e4c-992b-e873e5c8fc49","resourceVersion":"1","creationTimestamp":"2026-01-01T00:00:00Z","labels":{"controller.cert-manager.io/fao":"true","networking.internal.knative.dev/certificate-uid":"2d378634-127e-4e4c-992b-e873e5c8fc49"},"annotations":{"cert-manager.io/alt-names":"tracking.shop.example.com","cert-manager.io/certificate-name":"route-2d378634-127e-4e4c-992b-e873e5c8fc49","cert-manager.io/common-name":"tracking.shop.example.com","cert-manager.io/issuer-kind":"ClusterIssuer","cert-manager.io/issuer-name":"letsencrypt"}},"type":"kubernetes.io/tls"}`)
	w := NewWriter(io.Discard)
	for b.Loop() {
		w.Object("", "v1", "Secret", doc)
	}
}
