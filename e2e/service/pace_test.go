package service_test

import (
	"crypto/tls"
	"encoding/json"
	"flag"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	cmapi "github.com/cert-manager/cert-manager/pkg/apis/certmanager/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"knative.dev/networking/pkg/apis/networking"

	"github.com/certherd/certherd/e2e/replica"
	"github.com/certherd/certherd/e2e/stack"
	"github.com/certherd/certherd/report"
)

// manyServed is an Ingress of Knative's that Kourier serves with the certificates of
// Serving. Each host has a rule of its own, as what tls names counts for rules of which it
// has all hosts (knative.dev/networking, GetIngressTLSForVisibility).
const manyServed = `
apiVersion: v1
kind: Service
metadata: {name: app, namespace: {{.Namespace}} }
spec: {ports: [{name: http, port: 80, targetPort: 8012}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: app, namespace: {{.Namespace}}, labels: {kubernetes.io/service-name: app, endpointslice.kubernetes.io/managed-by: test} }
addressType: IPv4
endpoints: [{addresses: [10.99.0.1], conditions: {ready: true}}]
ports: [{name: http, port: 8012, protocol: TCP}]
---
apiVersion: networking.internal.knative.dev/v1alpha1
kind: Ingress
metadata: {name: app, namespace: {{.Namespace}}, annotations: {networking.knative.dev/ingress.class: kourier.ingress.networking.knative.dev} }
spec:
  httpOption: Enabled
  rules:{{range .Serving}}
  - hosts: [{{.Host}}]
    visibility: ExternalIP
    http: {paths: [{splits: [{serviceName: app, serviceNamespace: {{$.Namespace}}, servicePort: 80, percent: 100}]}]}{{end}}
  tls:{{range .Serving}}
  - {hosts: [{{.Host}}], secretName: {{.Secret}}, secretNamespace: {{$.Namespace}} }{{end}}
`

var retired = flag.Int("retired", 30, "how many Secrets TestDeletionsKeepTheGatewaysPace has deleted")

// serving is a host of manyServed, and the Secret of its certificate.
type serving struct{ Host, Secret string }

// TestDeletionsKeepTheGatewaysPace: Secrets that Kourier has served, and that are
// retired, are deleted under the budget of the gateway, to which each of them is an update.
func TestDeletionsKeepTheGatewaysPace(t *testing.T) {
	const (
		home, ns = "paced-certherd", "paced"
		updates  = 20
		period   = 5 * time.Second
		gap      = 200 * time.Millisecond
	)
	secrets := *retired
	s := newSite(t, home)
	ctx := t.Context()
	s.must(s.cluster.Namespaces(ctx, ns))
	later := time.Now().Add(24 * time.Hour)
	// A name that is a word is mentioned somewhere, and thus perhaps used.
	name := func(i int) string { return fmt.Sprintf("left-7d1-%03d", i) }
	host := func(i int) string { return fmt.Sprintf("h%03d.%s.test", i, ns) }
	// As Serving and cert-manager label them: Kourier follows the one, and only what has
	// the other is ever collected.
	meta := func(name string) metav1.ObjectMeta {
		return metav1.ObjectMeta{Namespace: ns, Name: name, Labels: map[string]string{networking.CertificateUIDLabelKey: name, cmapi.PartOfCertManagerControllerLabelKey: "true"}}
	}
	var own, wild []serving
	for i := range secrets {
		own = append(own, serving{host(i), name(i)})
		wild = append(wild, serving{host(i), "wild"})
	}
	s.must(s.cluster.Secret(ctx, meta("wild"), later, "*."+ns+".test"))
	s.all(secrets, func(i int) error {
		m := meta(name(i))
		m.Annotations = map[string]string{cmapi.CertificateNameKey: name(i)}
		return s.cluster.Secret(ctx, m, later, host(i))
	})

	// Kourier serves them, and after that the wildcard. It follows them all the same.
	ingress := func(serve []serving, presented func(i int) string) {
		t.Helper()
		s.must(s.cluster.Apply(ctx, manyServed, struct {
			Namespace string
			Serving   []serving
		}{ns, serve}))
		s.await("the gateway to serve "+presented(0), func() bool {
			return s.presents(host(0)) == presented(0) && s.presents(host(secrets-1)) == presented(secrets-1)
		})
	}
	ingress(own, host)
	ingress(wild, func(int) string { return "*." + ns + ".test" })
	client := s.cluster.Typed.CoreV1().Secrets(ns)
	s.all(secrets, func(i int) error { return s.retireLongAgo(ctx, ns, name(i)) })
	s.quiet()

	s.configure(fmt.Sprintf("ignore: {namespaces: [%s]}\n", s.everybodyElse(ns)) + strings.Replace(enforcing("10s", "0s"),
		"reloads: {updates: 600, gap: 0s}", fmt.Sprintf("reloads: {updates: %d, period: %s, gap: %s}", updates, period, gap), 1))
	before, begun := s.listenerUpdates(), time.Now()
	s.args = patient
	a := s.start("paced-0", "")
	s.await("all to be gone", func() bool {
		list, err := client.List(ctx, metav1.ListOptions{})
		return err == nil && len(list.Items) == 1
	})
	took := time.Since(begun)
	s.quiet()
	pushed := s.listenerUpdates() - before

	var let []time.Time
	for _, l := range a.Said("update") {
		text, _ := l.Fields["at"].(string)
		at, err := time.Parse("2006-01-02T15:04:05.000Z0700", text)
		s.must(err)
		if n, _ := l.Fields["updates"].(float64); n != 1 || l.Fields["lane"] != "budget" {
			t.Errorf("not one update of the budget: %v", l.Fields)
		}
		let = append(let, at)
	}
	slices.SortFunc(let, time.Time.Compare)
	most := 0
	for i, at := range let {
		inPeriod := 0
		for j := i; j < len(let) && let[j].Sub(at) < period-time.Millisecond; j++ {
			inPeriod++
		}
		most = max(most, inPeriod)
		if i > 0 && at.Sub(let[i-1]) < gap-time.Millisecond {
			t.Errorf("an update comes %s after the one before", at.Sub(let[i-1]))
		}
	}
	t.Logf("%d Secrets were deleted in %s; %d updates were let go, %d in %s at most; the gateway's listeners were updated %d times",
		secrets, took.Round(time.Second), len(let), most, period, pushed)
	if most > updates {
		t.Errorf("%d updates in %s, and the budget is %d", most, period, updates)
	}
	if len(let) != secrets {
		t.Errorf("%d updates were let go for %d Secrets", len(let), secrets)
	}
	// A deletion is one push of Kourier at most. Others may add some.
	if pushed > 2*len(let)+20 {
		t.Errorf("the gateway's listeners were updated %d times, and %d were let go", pushed, len(let))
	}
	deleted := map[string]int{}
	writes, _ := s.audit(a.Name)
	for _, w := range writes {
		if w.resource == "secrets" && w.namespace == ns {
			deleted[w.verb+" "+w.name]++
		}
	}
	for i := range secrets {
		if n := deleted["delete "+name(i)]; n != 1 {
			t.Errorf("%s was deleted %d times", name(i), n)
		}
	}
	if len(deleted) != secrets {
		t.Errorf("%d writes to Secrets for %d that were left over", len(deleted), secrets)
	}
}

// TestAWordGoesPastTheBudget: in the midst of a round that waits for the gateway, what a
// person wants now goes, and nothing else does.
func TestAWordGoesPastTheBudget(t *testing.T) {
	const home, ns = "hurried-certherd", "hurried-7d2"
	s := newSite(t, home)
	ctx := t.Context()
	s.must(s.cluster.Namespaces(ctx, ns))
	left := func() []string {
		list, err := s.cluster.Typed.CoreV1().Secrets(ns).List(ctx, metav1.ListOptions{})
		s.must(err)
		var names []string
		for _, x := range list.Items {
			names = append(names, x.Name)
		}
		return names
	}
	for i := range 4 {
		name := fmt.Sprintf("left-7d2-%d", i)
		s.leftOver(t, ns, name, name)
		s.must(s.retireLongAgo(ctx, ns, name))
	}
	s.configure(fmt.Sprintf("ignore: {namespaces: [%s]}\n", s.everybodyElse(ns)) + strings.Replace(enforcing("10s", "0s"),
		"reloads: {updates: 600, gap: 0s}", "reloads: {updates: 1, period: 20m, gap: 0s}", 1))
	s.args = patient
	a := s.start("hurried-0", "")
	s.await("the one that the budget has room for", func() bool { return len(left()) == 3 })
	s.await("the others to be held", func() bool { return a.Metric(`certherd_batch_held{action="delete"}`) == 3 })

	var r report.Report
	s.await("the report to say so", func() bool {
		code, text := a.Get("/report.json")
		r = report.Report{}
		return code == http.StatusOK && json.Unmarshal([]byte(text), &r) == nil && len(r.Held) >= 3
	})
	id, secret := "", ""
	for _, x := range r.Changes {
		if x.HeldUntil != nil && slices.Contains(left(), x.Steps[0].Object.Name) {
			id, secret = x.ID, x.Steps[0].Object.Name
		}
	}
	if id == "" {
		t.Fatalf("no change says until when it is held: %+v", r.Changes)
	}
	began := time.Now()
	s.approve("--now", "--reason", "in a hurry", id)
	s.await(secret+" to be gone", func() bool { return !slices.Contains(left(), secret) })
	t.Logf("what was wanted now was gone after %s", time.Since(began).Round(100*time.Millisecond))
	s.await("it to be counted", func() bool {
		return slices.ContainsFunc(a.Said("update"), func(l replica.Line) bool { return l.Fields["lane"] == "urgent" })
	})
	if names := left(); len(names) != 2 {
		t.Errorf("left are %v, and of 4 one was in the budget and one in a hurry", names)
	}
	if n := len(a.Said("update")); n != 2 {
		t.Errorf("%d updates were let go", n)
	}
	a.Kill()
	s.drop(ns)
}

// all does something n times, some at a time.
func (s *site) all(n int, do func(int) error) {
	s.Helper()
	slots, errs := make(chan struct{}, 8), make([]error, n)
	var parts sync.WaitGroup
	for i := range n {
		slots <- struct{}{}
		parts.Go(func() {
			defer func() { <-slots }()
			errs[i] = do(i)
		})
	}
	parts.Wait()
	for _, err := range errs {
		s.must(err)
	}
}

// presents is the first name in the certificate that the gateway shows for a host,
// empty if there is none.
func (s *site) presents(host string) string {
	d := tls.Dialer{NetDialer: &net.Dialer{Timeout: 10 * time.Second}, Config: &tls.Config{ServerName: host, InsecureSkipVerify: true}}
	c, err := d.DialContext(s.Context(), "tcp", s.stack.GatewayTLS)
	if err != nil {
		return ""
	}
	defer c.Close()
	if names := c.(*tls.Conn).ConnectionState().PeerCertificates[0].DNSNames; len(names) > 0 {
		return names[0]
	}
	return ""
}

// listenerUpdates is how often the gateway has taken new listeners.
func (s *site) listenerUpdates() (n int) {
	s.Helper()
	const name = "listener_manager.lds.update_success"
	s.await("the gateway's counters", func() bool {
		stats, err := stack.EnvoyStats(s.Context(), s.stack.EnvoyAdmin, `^listener_manager\.lds\.update_success$`)
		found := false
		n, found = stats[name]
		return err == nil && found
	})
	return n
}

// quiet waits until the gateway has taken nothing new for a while.
func (s *site) quiet() {
	s.Helper()
	last, since := s.listenerUpdates(), time.Now()
	s.await("the gateway to be quiet", func() bool {
		if n := s.listenerUpdates(); n != last {
			last, since = n, time.Now()
		}
		return time.Since(since) > 3*time.Second
	})
}
