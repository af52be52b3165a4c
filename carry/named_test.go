package carry_test

import (
	"fmt"
	"math/rand"
	"slices"
	"testing"
	"time"

	"github.com/certherd/certherd/api/v1alpha1"
	"github.com/certherd/certherd/carry"
	"github.com/certherd/certherd/inventory"
)

// naming is a model of objects that name Secrets themselves: Ingresses, Gateways and
// ListenerSets with cert-manager's annotation or certificates made by hand, and
// DomainMappings. What cert-manager has made for an object goes as soon as that does
// not name it, and comes back when it does; what a person or Knative has made stays
// until it is swept.
type naming struct {
	world
	objects []*namer
}

type namer struct {
	name    string
	kind    v1alpha1.ConsumerKind
	shim    bool
	theirs  bool // somebody else's to change
	own     bool // its own certificate exists
	ready   bool // and is Ready
	secret  string
	served  string
	healthy bool
	since   time.Time // not healthy
}

func (n *namer) ref() inventory.Ref {
	return inventory.Ref{Kind: string(n.kind), Namespace: "team", Name: n.name}
}

func (w *naming) passes() {
	w.now = w.now.Add(time.Duration(w.r.Intn(5)) * time.Second)
	if w.source && !w.ready && w.r.Intn(3) == 0 {
		w.ready = true
	}
	for _, n := range w.objects {
		if n.shim && w.r.Intn(3) == 0 {
			n.own, n.ready = n.secret == n.name, n.secret == n.name
		}
		if n.own && !n.ready && w.r.Intn(3) == 0 {
			n.ready = true
		}
		if w.r.Intn(2) == 0 {
			n.served = n.secret
		}
		if was := n.healthy; w.r.Intn(200) == 0 || !was && w.r.Intn(8) > 0 {
			if n.healthy = false; was {
				n.since = w.now
				w.note("%s is not Ready", n.name)
			}
		} else {
			n.healthy = true
		}
		// A person does by hand what certherd leaves to them.
		if n.theirs && w.r.Intn(10) == 0 {
			switch w.c.Status.Phase {
			case v1alpha1.Switching:
				if !w.c.Spec.Undo {
					n.secret = wildcard
				}
			case v1alpha1.RollingBack:
				if n.own && n.ready || n.shim {
					n.secret = n.name
				}
			}
		}
		if w.c.Spec.Manual != "" && !n.theirs && w.c.Status.Phase == v1alpha1.Switching && w.r.Intn(10) == 0 {
			n.secret = wildcard
		}
	}
}

func (w *naming) observe() carry.Observation {
	o := carry.Observation{Source: carry.Source{Exists: w.source, Ours: true, UID: "s", Ready: w.source && w.ready, Waits: "an Order"}}
	for _, n := range w.objects {
		host := n.name + ".team.example.com"
		e := carry.Entry{Hosts: []string{host}, Secret: n.secret, Wildcard: n.secret == wildcard, Own: n.name, OwnReady: n.shim || n.own && n.ready, OwnMissing: !n.shim && !n.own, OwnWaits: "an Order"}
		c := carry.Consumer{Ref: n.ref(), UID: n.name, Created: start.Add(-time.Hour), Entries: []carry.Entry{e}, Ready: n.healthy && n.served == n.secret, Unready: n.since}
		if c.Unready.IsZero() || n.healthy {
			c.Unready = w.now
		}
		if n.theirs {
			c.ManagedBy = "Helm"
		}
		o.Consumers = append(o.Consumers, c)
		o.Probes = append(o.Probes, carry.Probe{Host: host, OK: true, Wildcard: n.served == wildcard, Bad: w.now})
		if n.secret == wildcard {
			o.Source.Users = append(o.Source.Users, n.ref())
		}
		if n.own && w.c.Status.Phase == v1alpha1.Sweeping && n.secret == wildcard {
			o.Old = append(o.Old, carry.Old{Object: n.ref()})
		}
	}
	return o
}

// step is what carry/live does. A leader may be killed at any instruction.
func (w *naming) step(t *testing.T) {
	writes, sweep := w.decide(w.observe(), carry.Options{Issue: time.Minute, Switch: 20 * time.Minute, Patience: 30 * time.Second, Again: 15 * time.Second, Soak: 20 * time.Second})
	for _, x := range writes {
		if w.killed() {
			return
		}
		w.writes(x)
		for _, n := range w.objects {
			if !slices.Contains(x.Objects, n.ref()) {
				continue
			}
			if w.killed() {
				return
			}
			if (x.Verb == carry.Point || x.Verb == carry.Return) && n.theirs {
				t.Fatalf("it changes %s, which is somebody else's", n.name)
			}
			switch x.Verb {
			case carry.Point:
				n.secret = wildcard
			case carry.Return:
				n.secret = n.name
			case carry.Restore:
				if !n.own {
					n.own, n.ready = true, false
				}
			}
		}
	}
	for _, old := range sweep {
		for _, n := range w.objects {
			if n.ref() == old && n.secret == wildcard && w.r.Intn(2) == 0 {
				n.own, n.ready = false, false
			}
		}
	}
}

// Whatever comes when, and wherever leaders are killed, what an object names is renewed
// by somebody; and in the end all name the wildcard, or their own.
func TestNobodyNamesWhatNobodyRenews(t *testing.T) {
	ended := map[v1alpha1.Phase]int{}
	kinds := []v1alpha1.ConsumerKind{v1alpha1.ConsumerIngress, v1alpha1.ConsumerGateway, v1alpha1.ConsumerListenerSet, v1alpha1.ConsumerDomainMapping}
	for seed := range int64(*walks) {
		w := &naming{world: world{r: rand.New(rand.NewSource(seed)), now: start, c: consolidation(v1alpha1.SourceCertificate, v1alpha1.Approved)}}
		manual := w.r.Intn(3) == 0
		for i := range 1 + w.r.Intn(5) {
			n := &namer{name: fmt.Sprintf("o%d", i), kind: kinds[w.r.Intn(len(kinds))], own: true, ready: true, healthy: true}
			n.shim = n.kind != v1alpha1.ConsumerDomainMapping && w.r.Intn(2) == 0
			n.secret, n.served, n.theirs = n.name, n.name, manual && w.r.Intn(2) == 0
			w.objects = append(w.objects, n)
			w.c.Spec.Members = append(w.c.Spec.Members, v1alpha1.Member{Name: n.name, SecretName: n.name, Consumers: []v1alpha1.Consumer{{Kind: n.kind, Name: n.name, UID: n.name}}})
		}
		if manual {
			w.c.Spec.Manual = "Helm would undo a change"
		}
		undo, end := w.r.Intn(200), false
		for n := range 1500 {
			w.passes()
			w.step(t)
			if n == undo && w.r.Intn(2) == 0 {
				w.c.Spec.Undo = true
				w.note("undo")
			}
			for _, o := range w.objects {
				if o.secret == wildcard && !w.source || o.secret == o.name && !o.own && !o.shim {
					t.Fatalf("seed %d: %s names %q, which nobody renews\n%s", seed, o.name, o.secret, join(w.log))
				}
			}
			if p := w.c.Status.Phase; p == v1alpha1.RolledBack || p == v1alpha1.Done && n > 300 {
				end = true
				break
			}
		}
		for _, o := range w.objects {
			if done := w.c.Status.Phase == v1alpha1.Done; end && (o.secret == wildcard) != done || done && o.own && !o.shim {
				t.Fatalf("seed %d: it is %s, and %s names %q\n%s", seed, w.c.Status.Phase, o.name, o.secret, join(w.log))
			}
		}
		ended[w.c.Status.Phase]++
		if !end {
			t.Fatalf("seed %d: it is still %s\n%s", seed, w.c.Status.Phase, join(w.log))
		}
	}
	t.Log(ended)
	if ended[v1alpha1.Done] < *walks/10 || ended[v1alpha1.RolledBack] < *walks/10 {
		t.Error("the walks do not end in both ways")
	}
}
