package inventory

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

// thing is an object of a random world.
type thing struct {
	group, kind string
	ref         Ref
	doc         []byte
}

func (x thing) String() string { return fmt.Sprintf("%s %s %s", x.group, x.kind, x.doc) }

func (x thing) judged() bool { return Judged(x.group, x.kind) }

type generator struct{ *rand.Rand }

func pick[T any](g generator, list ...T) T { return list[g.IntN(len(list))] }

// maybe says yes n times out of ten.
func (g generator) maybe(n int) bool { return g.IntN(10) < n }

type m = map[string]any

func (g generator) ns() string { return pick(g, "a", "b", "team-c") }

// name is a name of a few, so that things meet.
func (g generator) name() string {
	return pick(g, "web", "web-tls", "api", "api-tls", "tls", "wc.example.test", "web-cacert", "x-1", "a", "7")
}

func (g generator) host() string {
	return pick(g, "web.a.example.test", "api.a.example.test", "web.b.example.test", "wc.example.test")
}

// uid is what an API server would give to an object, one for each.
func uid(group, kind, ns, name string) string {
	return strings.NewReplacer(".", "0", "-", "1").Replace(fmt.Sprintf("uid%s%s%s%s", group, kind, ns, name))
}

func (g generator) labels() m {
	l := m{}
	if g.maybe(3) {
		l[pick(g, "usage", "team", "example.com/usage", "app", "app.kubernetes.io/name", "konghq.com/ca-cert")] = pick(g, "gateway", "web", "true", "")
	}
	return l
}

func (g generator) owners(ns string) []any {
	if g.maybe(6) {
		return nil
	}
	o := pick(g, [3]string{"example.com", "Thing"}, [3]string{GroupNetworking, "Ingress"}, [3]string{GroupServing, "Route"},
		[3]string{GroupKnativeNet, "Certificate"}, [3]string{"apps", "Deployment"}, [3]string{"", "Secret"}, [3]string{"", "Namespace"}, [3]string{GroupGateway, "Gateway"})
	name := g.name()
	if o[1] == "Namespace" {
		name = ns
	}
	id := uid(o[0], o[1], ns, name)
	if o[1] == "Namespace" {
		id = uid(o[0], o[1], "", name)
	}
	if g.maybe(2) {
		id = "another-" + id
	}
	api := o[0] + "/v1"
	if o[0] == "" {
		api = "v1"
	}
	return []any{m{"apiVersion": api, "kind": o[1], "name": name, "uid": id, "controller": g.maybe(7)}}
}

func (g generator) text() string {
	n := g.name()
	return pick(g, n, "a/"+n, n+".a", "x\n"+n+": y", `{"s":"`+n+`"}`, "--flag="+n, "usage=gateway", "team", "usage: gateway\n",
		"nothing", "example.com/usage in (gateway)", "kubernetes://b/"+n, "ns: team-c\nname: "+n, "prefix-"+n+"-suffix", "x"+n)
}

// thing makes one random object.
func (g generator) thing() thing {
	ns, name := g.ns(), g.name()
	meta := m{"labels": g.labels(), "annotations": m{}}
	o := m{"metadata": meta}
	var group, kind string
	ready := m{"conditions": []any{m{"type": "Ready", "status": pick(g, "True", "False")}}}
	switch g.IntN(20) {
	case 0, 1, 2:
		kind = "Secret"
		o["type"] = pick(g, "kubernetes.io/tls", "kubernetes.io/tls", "Opaque")
		meta["ownerReferences"] = g.owners(ns)
		if g.maybe(1) {
			meta["annotations"] = m{"reflector.v1.k8s.emberstack.com/reflects": g.ns() + "/" + g.name()}
		}
	case 3, 4:
		group, kind = GroupCertManager, "Certificate"
		o["spec"] = m{"secretName": g.name(), "dnsNames": []string{g.host()}}
		meta["ownerReferences"] = g.owners(ns)
	case 5, 6:
		group, kind = GroupKnativeNet, "Certificate"
		o["spec"] = m{"secretName": g.name(), "dnsNames": []string{g.host()}}
		meta["ownerReferences"] = g.owners(ns)
	case 7, 8:
		group, kind = GroupKnativeNet, "Ingress"
		o["spec"] = m{"tls": []any{m{"hosts": []string{g.host()}, "secretName": g.name(), "secretNamespace": ns}}}
		o["status"] = ready
	case 9:
		group, kind = GroupServing, "Route"
	case 10:
		group, kind = GroupNetworking, "Ingress"
		o["spec"] = m{"tls": []any{m{"hosts": []string{g.host()}, "secretName": g.name()}}, "rules": []any{m{"host": g.host()}}}
		if g.maybe(5) {
			meta["annotations"] = m{"cert-manager.io/cluster-issuer": "x", "nginx.ingress.kubernetes.io/auth-tls-secret": g.text()}
		}
	case 11:
		group, kind = GroupGateway, "Gateway"
		ref := m{"name": g.name()}
		if g.maybe(5) {
			ref["namespace"] = g.ns()
		}
		o["spec"] = m{"gatewayClassName": "x", "listeners": []any{m{"name": "l", "port": 443, "protocol": "HTTPS", "tls": m{"certificateRefs": []any{ref}}}}}
	case 12:
		group, kind = "apps", "Deployment"
		meta["ownerReferences"] = g.owners(ns)
		o["spec"] = m{"template": m{"metadata": m{"labels": g.labels()}, "spec": m{
			"volumes":    []any{m{"name": "v", "secret": m{"secretName": g.name()}}},
			"containers": []any{m{"name": g.name(), "args": []string{g.text()}, "env": []any{m{"name": pick(g, "X", "TLS_SECRET", "CERTS_SECRET_NAME"), "value": g.text()}}}},
		}}}
	case 13, 14:
		kind = "ConfigMap"
		o["data"] = m{pick(g, "config.yaml", "tls-secret", "web-tls"): g.text()}
	case 15, 16, 17:
		group, kind = "example.com", "Thing"
		o["spec"] = pick(g,
			m{"x": g.text()},
			m{"ref": m{"name": g.name(), "namespace": g.ns()}},
			m{"secretName": g.name()},
			m{"secretSelector": m{"matchLabels": m{"usage": "gateway"}}},
			m{"secretSelector": m{}},
			m{"secretSelector": m{}, "namespaceSelector": m{}},
			m{"selector": m{"matchExpressions": []any{m{"key": "team", "operator": "Exists"}}}},
			m{"certs": m{g.name(): m{"x": 7}}},
			m{})
	case 18:
		if g.maybe(5) {
			group, kind, ns = "", "Namespace", ""
			name = g.ns()
			break
		}
		group, kind, ns = "cluster.example.com", "Global", ""
		o["spec"] = m{"x": g.text()}
	case 19:
		group, kind = GroupGateway, "ReferenceGrant"
		o["spec"] = m{"from": []any{m{"group": GroupGateway, "kind": "Gateway", "namespace": g.ns()}}, "to": []any{pick(g, m{"group": "", "kind": "Secret"}, m{"group": "", "kind": "Secret", "name": g.name()}, m{"group": "", "kind": "Service"})}}
	}
	meta["name"], meta["uid"] = name, uid(group, kind, ns, name)
	if ns != "" {
		meta["namespace"] = ns
	}
	doc, err := json.Marshal(o)
	if err != nil {
		panic(err)
	}
	return thing{group, kind, Ref{group, kind, ns, name}, doc}
}

// world is a set of objects, no two of one name.
func (g generator) world(n int) []thing {
	var w []thing
	for range n {
		w = g.more(w)
	}
	return w
}

func (g generator) more(w []thing) []thing {
	for {
		x := g.thing()
		if !slices.ContainsFunc(w, func(y thing) bool { return y.ref == x.ref }) {
			return append(slices.Clip(w), x)
		}
	}
}

// reader says how a source looks at an object before it scans it.
type reader func(c *Collector, x thing) bool

func everything(*Collector, thing) bool { return true }

// whole asks for the object's JSON, as a source does that gets JSON.
func whole(c *Collector, x thing) bool {
	return AlwaysScanned(x.group, x.kind) || c.Mentions(x.doc)
}

// piecewise asks string by string, as a source does that gets protobuf.
func piecewise(c *Collector, x thing) bool {
	hit := AlwaysScanned(x.group, x.kind)
	if err := walk(x.doc, func(_ []string, _ int, value string, _ bool) {
		hit = hit || c.Mentions([]byte(value))
	}); err != nil {
		panic(err)
	}
	return hit
}

func snapshotOf(t testing.TB, w []thing, scans reader, gaps ...Gap) *Snapshot {
	t.Helper()
	c := NewCollector()
	for _, x := range w {
		if x.judged() {
			if _, err := c.Add(x.group, x.kind, x.doc); err != nil {
				t.Fatalf("%s: %v", x, err)
			}
		}
	}
	c.Freeze()
	for _, x := range w {
		if x.judged() {
			continue
		}
		if _, err := c.Add(x.group, x.kind, x.doc); err != nil {
			t.Fatalf("%s: %v", x, err)
		}
		if !scans(c, x) {
			continue
		}
		if err := c.Scan(x.group, x.kind, x.doc); err != nil {
			t.Fatalf("%s: %v", x, err)
		}
	}
	for _, gap := range gaps {
		c.Gap(gap)
	}
	return c.Snapshot(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC))
}

func judgements(s *Snapshot, w []thing) map[Ref]Judgement {
	out := map[Ref]Judgement{}
	for _, x := range w {
		if x.judged() {
			out[x.ref] = s.Judge(x.ref)
		}
	}
	return out
}

func print(w []thing) string {
	var b strings.Builder
	for _, x := range w {
		b.WriteString(x.String() + "\n")
	}
	return b.String()
}

// eachWorld runs a check on many random worlds.
func eachWorld(t *testing.T, check func(g generator, w []thing)) {
	t.Helper()
	worlds := 500
	if testing.Short() {
		worlds = 100
	}
	for i := range worlds {
		g := generator{rand.New(rand.NewPCG(uint64(i), 7))}
		check(g, g.world(1+g.IntN(25)))
		if t.Failed() {
			t.Fatalf("in world %d", i)
		}
	}
}

func TestOrderChangesNothing(t *testing.T) {
	verdicts := map[Verdict]int{}
	eachWorld(t, func(g generator, w []thing) {
		s := snapshotOf(t, w, everything, Gap{"x", "y"}, Gap{"b", "c"}, Gap{"x", "y"})
		shuffled := slices.Clone(w)
		g.Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
		if o := snapshotOf(t, shuffled, everything, Gap{"b", "c"}, Gap{"x", "y"}); !reflect.DeepEqual(s, o) {
			t.Errorf("the order of the objects changes the Snapshot\n%s", print(w))
		}
		s.Gaps = nil
		once := judgements(s, w)
		if !reflect.DeepEqual(once, judgements(s, w)) {
			t.Errorf("a second judgement differs from the first\n%s", print(w))
		}
		for _, j := range once {
			verdicts[j.Verdict]++
		}
	})
	// Worlds in which all is one prove little.
	for _, v := range []Verdict{Used, Unused, Unknown} {
		if verdicts[v] < 20 {
			t.Errorf("%d objects are %s in all worlds: too few", verdicts[v], v)
		}
	}
	t.Log(verdicts)
}

// TestMoreObjectsNeverFreeOne: another object never turns used into unused, and
// unknown into unused in two documented ways only:
//
//   - A Knative Certificate (and the Certificate made for it) whose Route still
//     lives is let go when Knative Ingresses that are Ready serve all its hosts
//     with another Secret that exists: a Knative Ingress, or that Secret, was
//     added.
//   - A name without a namespace was found somewhere, and now that an object of
//     that kind and name is at hand there (or will be, as a Certificate's Secret),
//     it is that one which was meant. The same goes for a part of a longer name
//     in a known field, once the longer name is one.
func TestMoreObjectsNeverFreeOne(t *testing.T) {
	freed := map[string]int{}
	eachWorld(t, func(g generator, w []thing) {
		before := judgements(snapshotOf(t, w, everything), w)
		more := g.more(w)
		added := more[len(w)]
		after := judgements(snapshotOf(t, more, everything), w)
		for ref, b := range before {
			a := after[ref]
			if a.Verdict != Unused || b.Verdict == Unused {
				continue
			}
			moved := ref.Kind == "Certificate" && (added.kind == "Ingress" && added.group == GroupKnativeNet || added.kind == "Secret")
			nearer := added.judged() && slices.ContainsFunc(b.Evidence, func(e Edge) bool {
				return e.From.Namespace == added.ref.Namespace && e.Via == Mention && (e.To.Kind == "Secret" || e.To.Group == added.group)
			})
			switch {
			case b.Verdict == Used:
				t.Errorf("%s was used (%v), and is not with one more %s", ref, b.Evidence, added)
			case moved:
				freed["moved away"]++
			case nearer:
				freed["a nearer Secret"]++
			default:
				t.Errorf("%s was unknown (%v), and is unused with one more %s", ref, b.Evidence, added)
			}
		}
		if t.Failed() {
			t.Log(print(w))
		}
	})
	t.Log(freed)
}

func TestGapsLeaveNothingUnused(t *testing.T) {
	eachWorld(t, func(g generator, w []thing) {
		full := judgements(snapshotOf(t, w, everything), w)
		// One kind cannot be listed.
		lost := w[g.IntN(len(w))]
		rest := slices.DeleteFunc(slices.Clone(w), func(x thing) bool { return x.group == lost.group && x.kind == lost.kind })
		for ref, j := range judgements(snapshotOf(t, rest, everything, Gap{strings.ToLower(lost.kind) + "." + lost.group, "forbidden"}), rest) {
			if j.Verdict == Unused {
				t.Errorf("%s is unused without %s\n%s", ref, lost.kind, print(w))
			}
			if j.Verdict == Unknown && len(j.Evidence) == 0 && j.Why == "" {
				t.Errorf("%s is unknown, and nothing says why", ref)
			}
		}
		for ref, j := range judgements(snapshotOf(t, w, everything, Gap{"pod", "forbidden"}), w) {
			if j.Verdict == Unused || full[ref].Verdict != Unused && !reflect.DeepEqual(full[ref], j) {
				t.Errorf("%s is %v with a gap, and was %v\n%s", ref, j, full[ref], print(w))
			}
		}
	})
}

// TestMentionsSparesOnlyWhatScanIgnores: a source that scans only what Mentions
// says comes to the same verdicts, with the same evidence.
func TestMentionsSparesOnlyWhatScanIgnores(t *testing.T) {
	spared := 0
	eachWorld(t, func(g generator, w []thing) {
		want := judgements(snapshotOf(t, w, everything), w)
		for how, read := range map[string]reader{"whole": whole, "piecewise": piecewise} {
			count := func(c *Collector, x thing) bool {
				yes := read(c, x)
				if !yes {
					spared++
				}
				return yes
			}
			if got := judgements(snapshotOf(t, w, count), w); !reflect.DeepEqual(got, want) {
				for ref := range want {
					if !reflect.DeepEqual(got[ref], want[ref]) {
						t.Errorf("%s, %s: %v, want %v", how, ref, got[ref], want[ref])
					}
				}
				t.Log(print(w))
			}
		}
	})
	if spared < 100 {
		t.Errorf("only %d objects were spared: the test proves nothing", spared)
	}
}
