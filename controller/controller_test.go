package controller

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/certherd/certherd/inventory"
	"github.com/certherd/certherd/report"
)

// docs/reasons.md has an entry for each check, and for nothing else.
func TestEveryReasonIsDocumented(t *testing.T) {
	doc, err := os.ReadFile("../docs/reasons.md")
	if err != nil {
		t.Fatal(err)
	}
	var want, got []string
	for _, c := range Checks(Defaults()) {
		want = append(want, string(c.Reason))
	}
	for _, m := range regexp.MustCompile(`(?m)^## (\w+)$`).FindAllStringSubmatch(string(doc), -1) {
		got = append(got, m[1])
	}
	if !slices.Equal(got, want) {
		t.Errorf("docs/reasons.md has\n%v\nthe checks are\n%v", got, want)
	}
	for _, section := range strings.Split(string(doc), "\n## ")[1:] {
		for _, part := range []string{"**Means**", "**How sure**", "**Do**"} {
			if name, _, _ := strings.Cut(section, "\n"); !strings.Contains(section, part) && !(name == "NotConsolidatable" && part != "**Means**") {
				t.Errorf("%s lacks %s", name, part)
			}
		}
	}
}

func TestFailOn(t *testing.T) {
	r := report.Report{Findings: make([]report.Finding, 3), Summary: report.Summary{Findings: map[string]int{"MissingSecret": 2, "DrainHazard": 1}}}
	for _, tc := range []struct {
		failOn []string
		want   int
		bad    bool
	}{
		{nil, 0, false},
		{[]string{"any"}, 3, false},
		{[]string{"MissingSecret"}, 2, false},
		{[]string{"MissingSecret", "DrainHazard"}, 3, false},
		{[]string{"OrphanedSecret"}, 0, false},
		{[]string{"missingsecret"}, 0, true},
	} {
		n, err := Failed(r, tc.failOn)
		if n != tc.want || (err != nil) != tc.bad {
			t.Errorf("--fail-on %v: %d, %v", tc.failOn, n, err)
		}
	}
}

// large is a fleet of n Knative services, half of whose namespaces have moved
// to a wildcard.
func large(n int) *inventory.Snapshot {
	var o inventory.Objects
	var edges []inventory.Edge
	issuer := inventory.NormalIssuer("", "ClusterIssuer", "", "ca")
	o.Issuers = []inventory.Issuer{{Meta: inventory.Meta{Ref: issuer.Ref()}, Type: inventory.CA}}
	created := taken.Add(-24 * time.Hour)
	for i := range n {
		ns := fmt.Sprintf("team-%03d", i%300)
		name, host := fmt.Sprintf("route-%08d", i), fmt.Sprintf("svc-%d.%s.example.test", i, ns)
		route := inventory.Ref{Group: inventory.GroupServing, Kind: "Route", Namespace: ns, Name: fmt.Sprintf("svc-%d", i)}
		k := inventory.KnativeCertificateRef(ns, name)
		names := inventory.NewNames("", []string{host}, nil, nil, nil)
		secret := inventory.SecretRef(ns, name)
		o.Routes = append(o.Routes, inventory.Route{Meta: inventory.Meta{Ref: route}})
		o.KnativeCertificates = append(o.KnativeCertificates, inventory.KnativeCertificate{Meta: inventory.Meta{Ref: k, Created: created, Owners: []inventory.OwnerRef{{Ref: route, Controller: true}}}, Secret: secret, Names: names, Type: "external-domain", Ready: true})
		o.Certificates = append(o.Certificates, inventory.Certificate{Meta: inventory.Meta{Ref: inventory.CertificateRef(ns, name), Created: created, Owners: []inventory.OwnerRef{{Ref: k, Controller: true}}}, Secret: secret, Names: names, Issuer: issuer, Ready: true})
		o.Secrets = append(o.Secrets, inventory.Secret{Meta: inventory.Meta{Ref: secret, Created: created}, Managed: true, CertificateName: name, Names: names})
		served := secret
		if i%300 < 150 {
			served = inventory.SecretRef(ns, "wildcard")
		}
		c := inventory.Consumer{Meta: inventory.Meta{Ref: inventory.Ref{Group: inventory.GroupKnativeNet, Kind: "Ingress", Namespace: ns, Name: route.Name}}, Class: "kourier.ingress.networking.knative.dev", Hosts: []string{host}, Ready: true,
			TLS: []inventory.TLS{{Hosts: []string{host}, Secret: served, Field: "spec.tls[].secretName"}}}
		o.Consumers = append(o.Consumers, c)
		edges = append(edges, inventory.Edge{From: c.Ref, To: served, Field: c.TLS[0].Field, Via: inventory.Field})
	}
	o.Workloads = []inventory.Workload{{Meta: inventory.Meta{Ref: inventory.Ref{Group: "apps", Kind: "Deployment", Namespace: "kourier-system", Name: "3scale-kourier-gateway"}}, Controller: "kourier", MemoryLimit: 800 << 20, DrainSeconds: 15, Replicas: 1}}
	for i := range 150 {
		ns := fmt.Sprintf("team-%03d", i)
		o.Secrets = append(o.Secrets, inventory.Secret{Meta: inventory.Meta{Ref: inventory.SecretRef(ns, "wildcard"), Created: created}, Managed: true, CertificateName: "wildcard"})
		o.Certificates = append(o.Certificates, inventory.Certificate{Meta: inventory.Meta{Ref: inventory.CertificateRef(ns, "wildcard"), Created: created}, Secret: inventory.SecretRef(ns, "wildcard"), Names: inventory.NewNames("", []string{"*." + ns + ".example.test"}, nil, nil, nil), Issuer: issuer, Ready: true})
	}
	return inventory.New(taken, o, edges, nil)
}

func TestLargeFleet(t *testing.T) {
	s := large(3000)
	r, p, err := RunOnce(s, Defaults())
	if err != nil {
		t.Fatal(err)
	}
	if got := r.Summary.Findings["SupersededCertificate"]; got != 1500 {
		t.Errorf("%d superseded, want 1500", got)
	}
	if got := r.Summary.Findings["Consolidatable"]; got != 150 {
		t.Errorf("%d consolidatable groups, want 150", got)
	}
	if n := r.Summary.GatewayCertificates; n.Now != 1650 || n.After != 300 {
		t.Errorf("gateway certificates %+v, want 1650 now and 300 after", n)
	}
	for _, x := range s.Secrets {
		if quick, full := s.Verdict(x.Ref), s.Judge(x.Ref).Verdict; quick != full {
			t.Fatalf("%s is %s for counting and %s with its evidence", x.Ref, quick, full)
		}
	}
	for _, x := range s.Certificates {
		if quick, full := s.Verdict(x.Ref), s.Judge(x.Ref).Verdict; quick != full {
			t.Fatalf("%s is %s for counting and %s with its evidence", x.Ref, quick, full)
		}
	}
	for _, c := range r.Changes {
		if c.Held == "" {
			t.Fatalf("audit cleared change %s", c.ID)
		}
	}
	if again, q, _ := RunOnce(s, Defaults()); p.Digest() != q.Digest() || len(again.Findings) != len(r.Findings) {
		t.Error("the same snapshot gave another plan")
	}
}

// BenchmarkPlan: planning for 50,000 certificates (docs/performance.md).
func BenchmarkPlan(b *testing.B) {
	s := large(50_000)
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := RunOnce(s, Defaults()); err != nil {
			b.Fatal(err)
		}
	}
}
