package scenario

import (
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"slices"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/certherd/certherd/inventory"
	"github.com/certherd/certherd/plan"
)

// A Planted finding is one that certherd must report.
type Planted struct {
	Reason  plan.Reason
	Object  inventory.Ref
	Verdict inventory.Verdict
	// Says is a part of the message, empty where it does not matter.
	Says string
}

// A Truth is what is known of a cluster, since it was made so.
type Truth struct {
	// Findings are all that certherd must find, and there must be no others.
	Findings []Planted
	// Used are Secrets that something uses, whether or not that can be seen in
	// a known field: none of them may ever be called unused.
	Used []inventory.Ref
	// Unused are all Secrets and cert-manager Certificates that nothing uses.
	Unused []inventory.Ref
}

func (t *Truth) find(reason plan.Reason, verdict inventory.Verdict, object inventory.Ref, says string) {
	t.Findings = append(t.Findings, Planted{reason, object, verdict, says})
}

func (t *Truth) used(namespace string, names ...string) {
	for _, name := range names {
		t.Used = append(t.Used, inventory.SecretRef(namespace, name))
	}
}

func (t *Truth) unused(refs ...inventory.Ref) { t.Unused = append(t.Unused, refs...) }

// What a mess is made of. The first four namespaces hold the services.
const (
	Shop   = "shop"   // nothing wrong: one wildcard could do
	News   = "news"   // was moved to a wildcard
	Blog   = "blog"   // services were deleted; some have tags
	Bank   = "bank"   // has domains of its own
	Web    = "web"    // Ingresses, and Certificates made by hand
	Legacy = "legacy" // Gateways, own resources, and Secrets made by hand

	// PerNamespace is how many services stay in each of the first four.
	PerNamespace = 15
)

// messSettings are Knative's settings for a mess: the host of the tag beta is
// one label deeper than that of its service, and thus out of a wildcard's
// reach. (The tag template cannot do that: its result also names a Kubernetes
// Service, whose name may not have dots.)
const messSettings = `{"data":{"domain-template":"{{if eq (printf \"%.5s\" .Name) \"beta-\"}}beta.{{slice .Name 5}}{{else}}{{.Name}}{{end}}.{{.Namespace}}.{{.Domain}}"}}`

// Mess makes what a cluster looks like that has been used for a while: 60
// services in four namespaces, and everything that can go wrong with their
// certificates. domain is that of Knative's services; there must be
// ClusterIssuers ca, selfsigned and acme-http01. A cluster takes one Mess.
func Mess(ctx context.Context, config *rest.Config, domain string, out io.Writer) (*Truth, error) {
	c, err := Connect(config, out)
	if err != nil {
		return nil, err
	}
	t := new(Truth)
	if err := c.Namespaces(ctx, Shop, News, Blog, Bank, Web, Legacy); err != nil {
		return nil, err
	}
	if err := c.patch(ctx, configMaps, "knative-serving", "config-network", messSettings); err != nil {
		return nil, err
	}
	// What takes its time is begun first.
	if err := c.begin(ctx, web, webObjects); err != nil {
		return nil, err
	}
	for _, step := range []func(context.Context, *Truth, string) error{c.services, c.movedNamespace, c.domains, c.ingresses, c.byHand, c.leftBehind} {
		if err := step(ctx, t, domain); err != nil {
			return nil, err
		}
	}
	// What they serve at the end is in use.
	for _, namespace := range []string{Shop, News, Blog, Bank} {
		hosts, err := c.served(ctx, namespace)
		if err != nil {
			return nil, err
		}
		for _, secret := range hosts {
			if ref := inventory.SecretRef(namespace, secret); !slices.Contains(t.Used, ref) {
				t.Used = append(t.Used, ref)
			}
		}
	}
	// Kourier replaces shared chains, and Envoy drains for 15 s.
	t.find(plan.DrainHazard, inventory.Used, inventory.Ref{Group: "apps", Kind: "Deployment", Namespace: "kourier-system", Name: "3scale-kourier-gateway"}, "drain time of 15 s")
	c.progress("done: %d findings to be found, %d Secrets in use, %d objects unused", len(t.Findings), len(t.Used), len(t.Unused))
	return t, nil
}

// begin applies manifests without waiting for what they bring about.
func (c *Cluster) begin(ctx context.Context, text string, data any) error {
	c.progress("making ingresses and certificates")
	return c.Apply(ctx, text, data)
}

// doomed is how many services of the namespace Blog are deleted.
const doomed = 10

func (c *Cluster) services(ctx context.Context, t *Truth, domain string) error {
	var list []Service
	for i := range PerNamespace {
		for _, namespace := range []string{Shop, News, Blog, Bank} {
			s := Service{Namespace: namespace, Name: fmt.Sprintf("app-%02d", i)}
			if namespace == Blog && i < 2 {
				s.Tag = "beta"
			}
			list = append(list, s)
		}
	}
	var gone []string
	for i := range doomed {
		name := fmt.Sprintf("old-%02d", i)
		gone = append(gone, name)
		list = append(list, Service{Namespace: Blog, Name: name})
	}
	if err := c.Services(ctx, list); err != nil {
		return err
	}
	for _, namespace := range []string{Shop, Blog, Bank} {
		t.find(plan.Consolidatable, inventory.Used, inventory.Ref{Kind: "Namespace", Name: namespace}, fmt.Sprintf("%d certificates of ClusterIssuer/ca could become one, *.%s.%s", PerNamespace, namespace, domain))
	}
	for i := range 2 {
		name, err := c.KCertificateFor(ctx, Blog, fmt.Sprintf("beta.app-%02d.%s.%s", i, Blog, domain))
		if err != nil {
			return err
		}
		t.find(plan.NotConsolidatable, inventory.Used, inventory.KnativeCertificateRef(Blog, name), "two labels deep")
	}
	left, err := c.DeleteServices(ctx, Blog, gone, domain)
	if err != nil {
		return err
	}
	return c.orphans(ctx, t, left)
}

// orphans makes use of some of the Secrets of deleted services, each in
// another way, and of some not at all.
func (c *Cluster) orphans(ctx context.Context, t *Truth, left []string) error {
	secret := func(i int) inventory.Ref { return inventory.SecretRef(Blog, left[i]) }
	for i := range 3 {
		t.find(plan.OrphanedSecret, inventory.Unused, secret(i), "is gone")
		t.unused(secret(i))
	}
	c.progress("referring to Secrets in unusual places")
	if err := c.Apply(ctx, unusual, map[string]string{"Plain": left[3], "Text": left[4], "Mounted": left[5], "Listener": left[9]}); err != nil {
		return err
	}
	t.find(plan.OrphanedSecret, inventory.Unknown, secret(3), "EdgeProxy/legacy/front could name it in spec.edge.material.ref")
	t.find(plan.OrphanedSecret, inventory.Unknown, secret(4), "ConfigMap/blog/proxy could name it in data")
	t.find(plan.UnrenewedSecret, inventory.Used, secret(5), "Deployment/blog/proxy uses it")
	t.find(plan.UnrenewedSecret, inventory.Used, secret(9), "Gateway/legacy/edge uses it")
	for i, metadata := range map[int]string{
		6: `{"annotations":{"certherd.dev/ignore":"true"}}`,
		7: `{"labels":{"edge.example.com/serve":"yes"}}`,
		8: `{"annotations":{"reflector.v1.k8s.emberstack.com/reflection-allowed":"true"}}`,
	} {
		if err := c.patch(ctx, secrets, Blog, left[i], `{"metadata":`+metadata+`}`); err != nil {
			return err
		}
	}
	t.find(plan.OrphanedSecret, inventory.Unknown, secret(6), "opted out")
	t.find(plan.OrphanedSecret, inventory.Unknown, secret(7), "EdgeProxy/legacy/front may select it")
	t.find(plan.OrphanedSecret, inventory.Unknown, secret(8), "reflector")
	for _, i := range []int{3, 4, 5, 7, 8, 9} {
		t.used(Blog, left[i])
	}
	return nil
}

func (c *Cluster) movedNamespace(ctx context.Context, t *Truth, domain string) error {
	const wildcard = "news-wildcard"
	before, err := c.served(ctx, News)
	if err != nil {
		return err
	}
	if err := c.MoveToWildcard(ctx, News, wildcard, domain); err != nil {
		return err
	}
	for _, name := range before {
		t.find(plan.SupersededCertificate, inventory.Unused, inventory.KnativeCertificateRef(News, name), "Secret/news/"+wildcard)
		t.unused(inventory.CertificateRef(News, name))
		// Its Certificate keeps renewing it.
		t.used(News, name)
	}
	return nil
}

func (c *Cluster) domains(ctx context.Context, t *Truth, _ string) error {
	if err := c.Secret(ctx, metav1.ObjectMeta{Namespace: Bank, Name: "own-tls"}, time.Now().AddDate(1, 0, 0), "own.bank.example"); err != nil {
		return err
	}
	if err := c.DomainMapping(ctx, Bank, "app-00", "pay.bank.example", ""); err != nil {
		return err
	}
	t.find(plan.NotConsolidatable, inventory.Used, inventory.KnativeCertificateRef(Bank, "pay.bank.example"), "DomainMapping")
	if err := c.DomainMapping(ctx, Bank, "app-01", "own.bank.example", "own-tls"); err != nil {
		return err
	}
	const gone = "former.bank.example"
	if err := c.DomainMapping(ctx, Bank, "app-02", gone, ""); err != nil {
		return err
	}
	if err := c.remove(ctx, domainMappings, Bank, gone); err != nil {
		return err
	}
	if err := c.awaitOrphans(ctx, Bank, []string{gone}); err != nil {
		return err
	}
	if err := c.awaitGone(ctx, kIngresses, Bank, gone); err != nil {
		return err
	}
	t.find(plan.OrphanedSecret, inventory.Unused, inventory.SecretRef(Bank, gone), "is gone")
	t.unused(inventory.SecretRef(Bank, gone))
	return nil
}

// ingresses waits for what web has begun, and lets some of it rot.
func (c *Cluster) ingresses(ctx context.Context, t *Truth, _ string) error {
	names := []string{
		"www-tls", "alpha-tls", "beta-tls", "one-tls", "two-tls", "left-tls", "right-tls", "argo-tls", "suffix-tls",
		"api-cert", "promo-star", "promo-spring", "web-ca",
		"campaign-tls", "season-tls", "fair-tls", "api-cert-copy", "kept-for-later",
	}
	if err := c.awaitReady(ctx, certificates, Web, names...); err != nil {
		return err
	}
	t.used(Web, "www-tls", "alpha-tls", "beta-tls", "one-tls", "two-tls", "left-tls", "right-tls", "argo-tls", "suffix-tls",
		"api-tls", "promo-star-tls", "promo-spring-tls", "web-ca", "shared-tls", "campaign-tls", "api-tls-copy", "kept-for-later")
	crt := func(name string) inventory.Ref { return inventory.CertificateRef(Web, name) }
	for _, x := range []struct{ name, says string }{
		{"alpha-tls", "ClusterIssuer/acme-http01 has HTTP-01 solvers only"},
		{"beta-tls", "ClusterIssuer/acme-http01 has HTTP-01 solvers only"},
		{"one-tls", "ClusterIssuer/selfsigned is self-signed"},
		{"two-tls", "ClusterIssuer/selfsigned is self-signed"},
		{"left-tls", "a different issuer"},
		{"right-tls", "a different issuer"},
		{"suffix-tls", "co.uk is a public suffix"},
		{"shared-a", "Certificate/web/shared-b writes the same Secret"},
		{"shared-b", "Certificate/web/shared-a writes the same Secret"},
	} {
		t.find(plan.NotConsolidatable, inventory.Used, crt(x.name), x.says)
	}
	t.find(plan.DuplicateCertificate, inventory.Unused, crt("api-cert-copy"), "same names, issuer and key as api-cert")
	t.find(plan.OrphanedCertificate, inventory.Unused, crt("api-cert-copy"), "nobody uses its Secret api-tls-copy")
	t.unused(crt("api-cert-copy"))
	t.find(plan.OrphanedCertificate, inventory.Unknown, crt("kept-for-later"), "opted out")
	t.find(plan.CoveredCertificate, inventory.Used, crt("promo-spring"), "wildcard Certificate promo-star covers spring.promo.example")
	t.find(plan.Consolidatable, inventory.Used, inventory.Ref{Kind: "Namespace", Name: Web}, "could give way to Certificate/web/promo-star")
	t.find(plan.SharedSecretName, inventory.Used, inventory.SecretRef(Web, "shared-tls"), "shared-a and shared-b")
	t.find(plan.MissingSecret, inventory.Used, inventory.SecretRef(Web, "lost-tls"), "Ingress/web/lost names it")

	c.progress("removing ingresses, their annotations and their entries")
	// With its annotation, an Ingress has let go of its Certificate for good.
	if err := c.patch(ctx, ingresses, Web, "campaign", `{"metadata":{"annotations":{"cert-manager.io/cluster-issuer":null}},"spec":{"tls":null}}`); err != nil {
		return err
	}
	t.find(plan.OrphanedCertificate, inventory.Unused, crt("campaign-tls"), "Ingress/web/campaign, for which it was made, has let go of it")
	t.unused(crt("campaign-tls"))
	// ingress-shim removes the Certificate of an entry that is gone, and the
	// garbage collector that of an Ingress that is gone.
	if err := c.patch(ctx, ingresses, Web, "season", `{"spec":{"tls":null}}`); err != nil {
		return err
	}
	if err := c.remove(ctx, ingresses, Web, "fair"); err != nil {
		return err
	}
	if err := c.awaitGone(ctx, certificates, Web, "season-tls", "fair-tls"); err != nil {
		return err
	}
	for _, name := range []string{"season-tls", "fair-tls"} {
		t.find(plan.OrphanedSecret, inventory.Unused, inventory.SecretRef(Web, name), "is gone")
		t.unused(inventory.SecretRef(Web, name))
	}
	return c.await(ctx, "one of two Certificates to write Secret shared-tls", func(ctx context.Context) error {
		_, err := c.Typed.CoreV1().Secrets(Web).Get(ctx, "shared-tls", metav1.GetOptions{})
		return err
	})
}

// byHand makes Secrets by hand, and objects that use them.
func (c *Cluster) byHand(ctx context.Context, t *Truth, _ string) error {
	c.progress("making Secrets by hand, and Gateways")
	later, past := time.Now().AddDate(1, 0, 0), time.Now().AddDate(0, -2, 0)
	for _, s := range []struct {
		object   metav1.ObjectMeta
		notAfter time.Time
		host     string
	}{
		{metav1.ObjectMeta{Namespace: Legacy, Name: "hand-tls"}, later, "hand.legacy.example"},
		{metav1.ObjectMeta{Namespace: Legacy, Name: "hand-forgotten"}, later, "forgotten.legacy.example"},
		{metav1.ObjectMeta{Namespace: Legacy, Name: "hand-expired"}, past, "expired.legacy.example"},
		// What cert-manager has written for a Certificate whose issuer is gone by now.
		{metav1.ObjectMeta{Namespace: Legacy, Name: "relic-tls", Labels: map[string]string{"controller.cert-manager.io/fao": "true"}, Annotations: map[string]string{
			"cert-manager.io/certificate-name": "relic", "cert-manager.io/issuer-name": "corp-2024", "cert-manager.io/issuer-kind": "ClusterIssuer", "cert-manager.io/issuer-group": "cert-manager.io",
		}}, past, "relic.legacy.example"},
		// What an issuer of another program has signed.
		{metav1.ObjectMeta{Namespace: Legacy, Name: "corp-tls", Labels: map[string]string{"controller.cert-manager.io/fao": "true"}, Annotations: map[string]string{
			"cert-manager.io/certificate-name": "corp", "cert-manager.io/issuer-name": "corp", "cert-manager.io/issuer-kind": "CorpIssuer", "cert-manager.io/issuer-group": "issuer.example.com",
		}}, later, "corp.legacy.example"},
	} {
		if err := c.Secret(ctx, s.object, s.notAfter, s.host); err != nil {
			return err
		}
	}
	if err := c.Apply(ctx, legacy, nil); err != nil {
		return err
	}
	if err := c.awaitReady(ctx, certificates, Legacy, "shim-tls", "corp"); err != nil {
		return err
	}
	if err := c.await(ctx, "cert-manager to see that a certificate has expired", func(ctx context.Context) error {
		object, err := c.Dynamic.Resource(certificates).Namespace(Legacy).Get(ctx, "relic", metav1.GetOptions{})
		if err == nil && field(object, "status.notAfter") == "" {
			err = fmt.Errorf("the Certificate relic has no status.notAfter")
		}
		return err
	}); err != nil {
		return err
	}
	t.used(Legacy, "hand-tls", "relic-tls", "corp-tls", "shim-tls")
	t.unused(inventory.SecretRef(Legacy, "hand-forgotten"), inventory.SecretRef(Legacy, "hand-expired"))
	relic := inventory.CertificateRef(Legacy, "relic")
	t.unused(relic)
	t.find(plan.OrphanedCertificate, inventory.Unused, relic, "nobody uses its Secret relic-tls")
	t.find(plan.ExpiredUnused, inventory.Unused, relic, "it expired on")
	t.find(plan.NotConsolidatable, inventory.Used, inventory.CertificateRef(Legacy, "corp"), "nothing tells whether CorpIssuer/legacy/corp signs wildcards")
	t.find(plan.MissingSecret, inventory.Used, inventory.SecretRef(Legacy, "nowhere-tls"), "Gateway/legacy/edge names it")
	t.find(plan.MissingSecret, inventory.Used, inventory.SecretRef(Legacy, "vanished-tls"), "KIngress/legacy/dangling names it")
	return nil
}

const requestManifest = `
apiVersion: cert-manager.io/v1
kind: CertificateRequest
metadata: {name: by-hand, namespace: legacy}
spec:
  request: {{.}}
  issuerRef: {name: ca, kind: ClusterIssuer}
`

// leftBehind makes a request that nobody owns, and waits until it is final.
// cert-manager approves and signs it.
func (c *Cluster) leftBehind(ctx context.Context, t *Truth, _ string) error {
	c.progress("leaving a request behind")
	ref := inventory.Ref{Group: inventory.GroupCertManager, Kind: "CertificateRequest", Namespace: Legacy, Name: "by-hand"}
	csr, err := signingRequest("request.legacy.example")
	if err != nil {
		return err
	}
	if err := c.Apply(ctx, requestManifest, base64.StdEncoding.EncodeToString(csr)); err != nil {
		return err
	}
	t.find(plan.RequestResidue, inventory.Unused, ref, "nobody owns it")
	return c.awaitReady(ctx, requests, Legacy, ref.Name)
}
