package consolidate

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	cmacme "github.com/cert-manager/cert-manager/pkg/apis/acme/v1"

	"github.com/certherd/certherd/inventory"
	"github.com/certherd/certherd/plan"
)

var taken = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

type generator struct{ *rand.Rand }

func pick[T any](g generator, list ...T) T { return list[g.IntN(len(list))] }

// maybe says yes n times out of ten.
func (g generator) maybe(n int) bool { return g.IntN(10) < n }

func (g generator) meta(group, kind, ns, name string) inventory.Meta {
	ref := inventory.Ref{Group: group, Kind: kind, Namespace: ns, Name: name}
	return inventory.Meta{Ref: ref, Version: inventory.Version{UID: "uid " + ref.String(), ResourceVersion: fmt.Sprint(g.IntN(1000))}, Created: taken.Add(-time.Duration(g.IntN(300)) * time.Hour)}
}

// world is a random cluster: services of Knative and Ingresses with certificates
// of several issuers, wildcards that are there, and what gets in the way.
func (g generator) world() *inventory.Snapshot {
	var o inventory.Objects
	var edges []inventory.Edge
	issuer := func(name string, x inventory.Issuer) {
		x.Meta, x.Ready = g.meta(inventory.GroupCertManager, "ClusterIssuer", "", name), g.maybe(9)
		o.Issuers = append(o.Issuers, x)
	}
	dns := []cmacme.ACMEChallengeSolver{{DNS01: &cmacme.ACMEChallengeSolverDNS01{}}}
	issuer("ca", inventory.Issuer{Type: inventory.CA, Authority: "ca"})
	issuer("twin", inventory.Issuer{Type: inventory.CA, Authority: "ca"})
	issuer("le", inventory.Issuer{Type: inventory.ACME, Solvers: dns, Server: "https://acme-v02.api.letsencrypt.org/directory"})
	issuer("http", inventory.Issuer{Type: inventory.ACME})
	issuer("self", inventory.Issuer{Type: inventory.SelfSigned})
	serve := func(x inventory.Consumer, field string) {
		for _, t := range x.TLS {
			edges = append(edges, inventory.Edge{From: x.Ref, To: t.Secret, Field: field, Via: inventory.Field})
		}
		o.Consumers = append(o.Consumers, x)
	}
	certificate := func(ns, name, secret string, hosts []string) *inventory.Certificate {
		x := inventory.Certificate{
			Meta: g.meta(inventory.GroupCertManager, "Certificate", ns, name), Secret: inventory.SecretRef(ns, secret), Names: inventory.NewNames("", hosts, nil, nil, nil),
			Issuer: inventory.NormalIssuer("", "ClusterIssuer", "", pick(g, "ca", "ca", "ca", "twin", "le", "http", "self")), Profile: pick(g, "", "", "", "ECDSA/256/"), Ready: g.maybe(9),
		}
		if g.maybe(1) {
			x.ManagedBy = "Argo CD"
		}
		o.Certificates = append(o.Certificates, x)
		if !slices.ContainsFunc(o.Secrets, func(s inventory.Secret) bool { return s.Ref == x.Secret }) {
			o.Secrets = append(o.Secrets, inventory.Secret{Meta: g.meta("", "Secret", ns, secret), Managed: g.maybe(9), CertificateName: name, Names: x.Names})
		}
		return &o.Certificates[len(o.Certificates)-1]
	}
	for _, ns := range []string{"a", "b"} {
		o.Namespaces = append(o.Namespaces, inventory.Namespace{Meta: g.meta("", "Namespace", "", ns)})
		parents := []string{ns + ".example.test", "shop.test", "x.shop.test"}
		for i := range g.IntN(7) {
			name := fmt.Sprintf("svc%d", i)
			host := name + "." + pick(g, parents...)
			if g.maybe(1) {
				host = "v1." + host
			}
			route := g.meta(inventory.GroupServing, "Route", ns, name)
			o.Routes = append(o.Routes, inventory.Route{Meta: route})
			k := inventory.KnativeCertificate{Meta: g.meta(inventory.GroupKnativeNet, "Certificate", ns, "route-"+name), Secret: inventory.SecretRef(ns, "route-"+name), Names: inventory.NewNames("", []string{host}, nil, nil, nil), Type: "external-domain", Domain: "example.test", Ready: g.maybe(9)}
			k.Owners = []inventory.OwnerRef{{Ref: route.Ref, UID: route.Version.UID, Controller: true}}
			o.KnativeCertificates = append(o.KnativeCertificates, k)
			c := certificate(ns, "route-"+name, "route-"+name, []string{host})
			c.Owners, c.ManagedBy = []inventory.OwnerRef{{Ref: k.Ref, UID: k.Version.UID, Controller: true}}, ""
			serve(inventory.Consumer{Meta: g.meta(inventory.GroupKnativeNet, "Ingress", ns, name), Class: "kourier.ingress", Ready: true, TLS: []inventory.TLS{{Hosts: []string{host}, Secret: k.Secret}}}, "spec.tls[].secretName")
		}
		webs := g.IntN(7)
		if g.maybe(2) {
			webs, parents = webs+8, parents[:1] // more than one key may carry
		}
		for i := range webs {
			name := fmt.Sprintf("web%d", i)
			var hosts []string
			for range 1 + g.IntN(2) {
				hosts = append(hosts, fmt.Sprintf("%s%d.%s", pick(g, "w", "w", "v"), g.IntN(9), pick(g, parents...)))
			}
			if g.maybe(1) {
				hosts = append(hosts, "shop.test")
			}
			secret := name
			if g.maybe(1) {
				secret = "web0" // two Certificates for one Secret
			}
			c := certificate(ns, name, secret, hosts)
			for range g.IntN(3) {
				x := inventory.Consumer{Meta: g.meta(pick(g, inventory.GroupNetworking, inventory.GroupGateway), "Ingress", ns, fmt.Sprintf("i%d", len(o.Consumers))), Shim: g.maybe(3)}
				if x.Ref.Group == inventory.GroupGateway {
					x.Ref.Kind = "Gateway"
				}
				if g.maybe(1) {
					x.ManagedBy = "Flux"
				}
				x.TLS = []inventory.TLS{{Hosts: c.Names.DNS[:1+g.IntN(len(c.Names.DNS))], Secret: c.Secret}}
				serve(x, "spec.tls[].secretName")
			}
			if g.maybe(1) {
				edges = append(edges, inventory.Edge{From: inventory.Ref{Kind: "Pod", Namespace: ns, Name: "p"}, To: c.Secret, Field: "spec.volumes[].secret.secretName", Via: pick(g, inventory.Field, inventory.Mention)})
			}
		}
		for i := range g.IntN(4) {
			host := fmt.Sprintf("m%d.%s", i, pick(g, parents...))
			dm := inventory.Consumer{Meta: g.meta(inventory.GroupServing, "DomainMapping", ns, host), Hosts: []string{host}, Ready: true}
			secret := host
			if g.maybe(5) {
				k := inventory.KnativeCertificate{Meta: g.meta(inventory.GroupKnativeNet, "Certificate", ns, host), Secret: inventory.SecretRef(ns, host), Names: inventory.NewNames("", []string{host}, nil, nil, nil), Type: "external-domain", Domain: host, Ready: g.maybe(9)}
				k.Owners = []inventory.OwnerRef{{Ref: dm.Ref, UID: dm.Version.UID, Controller: true}}
				o.KnativeCertificates = append(o.KnativeCertificates, k)
				c := certificate(ns, host, host, []string{host})
				c.Owners, c.ManagedBy = []inventory.OwnerRef{{Ref: k.Ref, UID: k.Version.UID, Controller: true}}, ""
			} else {
				secret = fmt.Sprintf("own%d", i)
				certificate(ns, secret, secret, []string{host})
				dm.TLS = []inventory.TLS{{Hosts: []string{host}, Secret: inventory.SecretRef(ns, secret)}}
			}
			if g.maybe(1) {
				dm.ManagedBy = "Argo CD"
			}
			serve(dm, "spec.tls.secretName")
			ki := inventory.Consumer{Meta: g.meta(inventory.GroupKnativeNet, "Ingress", ns, host), Class: "kourier.ingress", Ready: true, TLS: []inventory.TLS{{Hosts: []string{host}, Secret: inventory.SecretRef(ns, secret)}}}
			ki.Owners = []inventory.OwnerRef{{Ref: dm.Ref, UID: dm.Version.UID, Controller: true}}
			serve(ki, "spec.tls[].secretName")
		}
		for i := range g.IntN(3) { // duplicates, which no wildcard is for
			name := fmt.Sprintf("twin%d", i)
			c := certificate(ns, name, name, []string{"shop.test"})
			if g.maybe(5) {
				c.Issuer = inventory.NormalIssuer("", "ClusterIssuer", "", "ca")
			}
			serve(inventory.Consumer{Meta: g.meta(inventory.GroupNetworking, "Ingress", ns, name), Shim: g.maybe(3), TLS: []inventory.TLS{{Hosts: c.Names.DNS, Secret: c.Secret}}}, "spec.tls[].secretName")
		}
		if g.maybe(4) {
			c := certificate(ns, "wild", pick(g, "wild", "wild-tls"), []string{"*." + pick(g, parents...)})
			if g.maybe(5) {
				k := inventory.KnativeCertificate{Meta: g.meta(inventory.GroupKnativeNet, "Certificate", ns, "wild"), Secret: c.Secret, Names: c.Names, Type: "external-domain", Ready: c.Ready, WildcardDomain: pick(g, "example.test", "")}
				o.KnativeCertificates = append(o.KnativeCertificates, k)
				c.Owners = []inventory.OwnerRef{{Ref: k.Ref, UID: k.Version.UID, Controller: true}}
			}
		}
	}
	return inventory.New(taken, o, edges, nil)
}

// state is what a cluster serves, as simply as it can be told: it knows
// nothing of plan.Verify.
type state struct {
	names   map[inventory.Ref][]string        // of each Secret with a certificate in it
	renews  map[inventory.Ref]inventory.Ref   // Certificate or Knative Certificate -> its Secret
	goes    map[inventory.Ref]inventory.Ref   // Certificate -> the Knative Certificate that it goes with
	serves  map[inventory.Ref][]inventory.TLS // consumer -> its entries
	pending map[inventory.Ref]plan.Step       // what was issued, and not awaited
}

func stateOf(s *inventory.Snapshot) *state {
	x := &state{map[inventory.Ref][]string{}, map[inventory.Ref]inventory.Ref{}, map[inventory.Ref]inventory.Ref{}, map[inventory.Ref][]inventory.TLS{}, map[inventory.Ref]plan.Step{}}
	for i := range s.Secrets {
		x.names[s.Secrets[i].Ref] = s.Secrets[i].Names.DNS
	}
	for i := range s.Certificates {
		c := &s.Certificates[i]
		x.renews[c.Ref] = c.Secret
		if o, ok := c.ControlledBy(); ok {
			x.goes[c.Ref] = o.Ref
		}
	}
	for i := range s.Consumers {
		x.serves[s.Consumers[i].Ref] = slices.Clone(s.Consumers[i].TLS)
	}
	return x
}

// do is what a step comes to.
func (x *state) do(step plan.Step) {
	switch step.Action {
	case plan.Issue:
		x.pending[step.Object] = step
	case plan.Await:
		if st, ok := x.pending[step.Object]; ok {
			x.names[st.To()], x.renews[st.Object] = st.Hosts(), st.To()
		}
	case plan.Switch:
		for i := range x.serves[step.Object] {
			if t := &x.serves[step.Object][i]; t.Secret == step.From() {
				t.Secret = step.To()
			}
		}
	case plan.Delete:
		delete(x.names, step.Object)
		delete(x.renews, step.Object)
		for c, k := range x.goes {
			if k == step.Object {
				delete(x.renews, c)
			}
		}
	}
}

// bad are the hosts that have no certificate of theirs, or one that nobody renews.
func (x *state) bad() map[string]bool {
	renewed := map[inventory.Ref]bool{}
	for _, s := range x.renews {
		renewed[s] = true
	}
	out := map[string]bool{}
	for c, entries := range x.serves {
		for _, t := range entries {
			for _, h := range t.Hosts {
				if !inventory.CoversAll(x.names[t.Secret], []string{h}) {
					out[fmt.Sprint(c, " serves ", h, " without a certificate")] = true
				}
				if !renewed[t.Secret] {
					out[fmt.Sprint(c, " serves ", h, " with what nobody renews")] = true
				}
			}
		}
	}
	return out
}

// walk carries out changes one after the other, and tells the first state in
// between in which something is bad that was not before.
func walk(s *inventory.Snapshot, changes []plan.Change) string {
	x := stateOf(s)
	before := x.bad()
	for _, c := range changes {
		for i, step := range c.Steps {
			x.do(step)
			for what := range x.bad() {
				if !before[what] {
					return fmt.Sprintf("%s, after step %d (%s %s) of %s", what, i+1, step.Action, step.Object, c.Why.Wildcard)
				}
			}
		}
	}
	return ""
}

const worlds = 800

// TestNobodyLosesACertificate: in every state in between, whatever the cluster,
// every host has a certificate that is its own and renewed.
func TestNobodyLosesACertificate(t *testing.T) {
	proposals, reused, several, parts := 0, 0, 0, 0
	for seed := range uint64(worlds) {
		g := generator{rand.New(rand.NewPCG(seed, 1))}
		s := g.world()
		o := Options{MinCertificates: 2, MaxHosts: 2 + g.IntN(6), AcceptDrains: true, DomainMappings: g.maybe(5)}
		p := plan.New(s, Checks(o))
		if err := p.Verify(s); err != nil {
			t.Fatalf("world %d: %v", seed, err)
		}
		if what := walk(s, p.Changes); what != "" {
			t.Fatalf("world %d: %s", seed, what)
		}
		names := map[string]bool{}
		for _, x := range Proposals(s, o) {
			proposals++
			if n := x.Consolidation.Namespace + "/" + x.Consolidation.Name; names[n] {
				t.Errorf("world %d: two proposals are called %s", seed, n)
			} else {
				names[n] = true
			}
			if n := x.Consolidation.Status.Risks.HostsOnKey; n > int64(o.MaxHosts) {
				t.Errorf("world %d: %d hosts on one key, and %d are allowed", seed, n, o.MaxHosts)
			}
			spec := x.Consolidation.Spec
			if spec.Source.UID != "" {
				reused++
			}
			if len(spec.Wildcards) > 1 {
				several++
			}
			if k := x.Consolidation.Namespace + " " + fmt.Sprint(spec.Wildcards, spec.IssuerRef, spec.Source.Kind); names[k] {
				parts++
			} else {
				names[k] = true
			}
			if !inventory.CoversAll(spec.Wildcards, spec.Hosts) || len(spec.Hosts) > o.MaxHosts {
				t.Errorf("world %d: %v for %v", seed, spec.Wildcards, spec.Hosts)
			}
			if i := slices.IndexFunc(p.Changes, func(c plan.Change) bool { return c.ID == x.Change.ID }); i < 0 {
				t.Errorf("world %d: no change %s", seed, x.Change.ID)
			}
		}
	}
	if proposals < worlds/2 || reused < 50 || several < 50 || parts < 20 {
		t.Errorf("%d proposals, %d of them with a wildcard that was there, %d with several names and %d beside another one of the same names, are too few to prove anything", proposals, reused, several, parts)
	}
}

// TestVerifyFindsWhatGoesWrong: where a step is left out or comes at another
// place and somebody loses a certificate, plan.Verify says so.
func TestVerifyFindsWhatGoesWrong(t *testing.T) {
	broken := 0
	for seed := range uint64(worlds) {
		g := generator{rand.New(rand.NewPCG(seed, 2))}
		s := g.world()
		p := plan.New(s, Checks(Options{MinCertificates: 2, MaxHosts: 100, AcceptDrains: true, DomainMappings: true}))
		for _, c := range p.Changes {
			steps := slices.Clone(c.Steps)
			i := g.IntN(len(steps))
			step := steps[i]
			steps = slices.Delete(steps, i, i+1)
			if g.maybe(5) {
				steps = slices.Insert(steps, g.IntN(len(steps)+1), step)
			}
			wrong := plan.Change{ID: c.ID, Why: c.Why, Steps: steps}
			what := walk(s, []plan.Change{wrong})
			if what == "" {
				continue
			}
			broken++
			if err := (plan.Plan{Changes: []plan.Change{wrong}}).Verify(s); err == nil {
				t.Fatalf("world %d: Verify has nothing against it: %s", seed, what)
			}
		}
	}
	if broken < 100 {
		t.Errorf("%d broken plans are too few to prove anything", broken)
	}
}
