package carry_test

import (
	"flag"
	"fmt"
	"math/rand"
	"slices"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/certherd/certherd/api/v1alpha1"
	"github.com/certherd/certherd/carry"
	"github.com/certherd/certherd/inventory"
)

// world is a model of what Knative and a gateway do, as they were seen to do it: a
// Route takes a labelled wildcard whether it is Ready or not, and looks only when it
// is touched, or by chance; a certificate that is missing is made when a Route
// looks, and gets Ready later; the gateway follows late.
type world struct {
	r        *rand.Rand
	now      time.Time
	c        *v1alpha1.Consolidation
	source   bool
	ready    bool
	labelled bool
	services []*service
	made     int
	log      []string
}

type service struct {
	name    string
	created time.Time
	own     bool // its own certificate exists
	ready   bool // and is Ready
	secret  string
	queued  bool
	served  string // by the gateway
	touched time.Time
	was     bool // ever served
}

func (w *world) note(format string, a ...any) {
	w.log = append(w.log, fmt.Sprintf("%s %s", w.now.Sub(start), fmt.Sprintf(format, a...)))
}

func (w *world) service() {
	w.made++
	w.services = append(w.services, &service{name: fmt.Sprintf("s%d", w.made), created: w.now, queued: true})
}

// look is what the Route controller does.
func (w *world) look(s *service) {
	s.queued = false
	was := s.secret
	if w.labelled {
		s.secret = ""
		if w.ready && w.source {
			s.secret = wildcard
		}
	} else {
		if !s.own {
			s.own, s.ready = true, false
		}
		s.secret = ""
		if s.ready {
			s.secret = s.name
		}
	}
	if was != s.secret {
		w.note("%s: %q -> %q", s.name, was, s.secret)
	}
}

// passes is what happens by itself.
func (w *world) passes() {
	w.now = w.now.Add(time.Duration(w.r.Intn(5)) * time.Second)
	if w.source && !w.ready && w.r.Intn(3) == 0 {
		w.ready = true
		w.note("the wildcard is Ready")
	}
	for _, s := range w.services {
		if s.own && !s.ready && w.r.Intn(3) == 0 {
			s.ready, s.queued = true, true // its own certificate makes a Route look
		}
		if s.queued && w.r.Intn(2) == 0 || w.r.Intn(20) == 0 {
			w.look(s)
		}
		if w.r.Intn(2) == 0 {
			s.served = s.secret
			s.was = s.was || s.served != ""
		}
	}
}

func (w *world) observe() carry.Observation {
	o := carry.Observation{Source: carry.Source{Exists: w.source, Ours: true, UID: "s", Ready: w.source && w.ready, Labelled: w.labelled, LabelOurs: w.labelled, Waits: "an Order"}}
	for _, s := range w.services {
		ref := inventory.Ref{Group: inventory.GroupKnativeNet, Kind: "Ingress", Namespace: "team", Name: s.name}
		host := s.name + ".team.example.com"
		e := carry.Entry{Hosts: []string{host}, Secret: s.secret, Wildcard: s.secret == wildcard, Own: s.name, OwnReady: s.own && s.ready, OwnMissing: !s.own}
		ready := s.served == s.secret && s.secret != ""
		o.Consumers = append(o.Consumers, carry.Consumer{Ref: ref, UID: s.name, Created: s.created, Entries: []carry.Entry{e}, Ready: ready, Unready: w.now, Touch: route(s.name), Touched: s.touched})
		o.Probes = append(o.Probes, carry.Probe{Host: host, OK: s.served != "", Wildcard: s.served == wildcard, Bad: w.now})
		if s.secret == wildcard {
			o.Source.Users = append(o.Source.Users, ref)
		}
		if s.own && w.c.Status.Phase == v1alpha1.Sweeping && s.secret == wildcard {
			o.Old = append(o.Old, carry.Old{Object: route(s.name)})
		}
	}
	return o
}

// killed says that the leader is killed at this instruction.
func (w *world) killed() bool { return w.r.Intn(15) == 0 }

// decide is what carry/live does with what was decided, but for what writes do to
// objects, which is for each to say.
func (w *world) decide(o carry.Observation, opts carry.Options) (writes []carry.Write, sweep []inventory.Ref) {
	if w.killed() {
		return nil, nil
	}
	d := carry.Next(w.c, o, opts, w.now)
	if d.Phase != w.c.Status.Phase {
		w.note("%s: %s", d.Phase, d.Message)
		at := metav1.NewTime(w.now)
		if w.c.Status.Execution == nil {
			w.c.Status.Execution = &v1alpha1.Execution{Started: at}
		}
		w.c.Status.Execution.PhaseSince, w.c.Status.Phase = &at, d.Phase
		return nil, nil
	}
	if o.Source.Exists && w.c.Status.Execution != nil {
		w.c.Status.Execution.SourceUID = "s"
	}
	return d.Writes, d.Sweep
}

// writes is what a write does to the wildcard.
func (w *world) writes(x carry.Write) {
	w.note("%s %d", x.Verb, len(x.Objects))
	switch x.Verb {
	case carry.Create:
		w.source, w.ready = true, false
	case carry.Label:
		w.labelled = true
	case carry.Unlabel:
		w.labelled = false
	case carry.Remove:
		w.source, w.ready = false, false
	}
}

// step is what carry/live does. A leader may be killed at any instruction.
func (w *world) step() {
	writes, sweep := w.decide(w.observe(), carry.Options{Issue: time.Minute, Switch: 10 * time.Minute, Patience: time.Minute, Again: 15 * time.Second, Soak: 20 * time.Second})
	for _, x := range writes {
		if w.killed() {
			return
		}
		w.writes(x)
		for _, s := range w.services {
			switch {
			case x.Verb == carry.Touch && slices.Contains(x.Objects, route(s.name)):
				if w.killed() {
					return
				}
				s.queued, s.touched = true, w.now
			case x.Verb == carry.Restore && !s.own && s.secret != s.name:
				s.own, s.ready = true, false
			}
		}
	}
	for _, old := range sweep {
		for _, s := range w.services {
			if route(s.name) == old && w.r.Intn(2) == 0 {
				s.own, s.ready = false, false // deleting it makes the Route look
				s.queued = true
			}
		}
	}
}

var walks = flag.Int("walks", 400, "how many random walks TestNobodyLosesTLS makes")

// Whatever comes when, and wherever leaders are killed, who has been served with a
// certificate always is; and in the end all are on the wildcard, or on their own.
func TestNobodyLosesTLS(t *testing.T) {
	ended := map[v1alpha1.Phase]int{}
	for seed := range int64(*walks) {
		w := &world{r: rand.New(rand.NewSource(seed)), now: start, c: consolidation(v1alpha1.SourceKCertificate, v1alpha1.Approved)}
		for range 1 + w.r.Intn(5) {
			w.service()
		}
		for range 40 {
			w.passes()
		}
		undo, end := w.r.Intn(200), false
		for n := range 600 {
			w.passes()
			w.step()
			if n == undo && w.r.Intn(2) == 0 {
				w.c.Spec.Undo = true
				w.note("undo")
			}
			if n < 300 && w.r.Intn(30) == 0 {
				w.service()
			}
			if n < 300 && len(w.services) > 1 && w.r.Intn(40) == 0 {
				i := w.r.Intn(len(w.services))
				w.services = slices.Delete(w.services, i, i+1)
			}
			for _, s := range w.services {
				if s.was && (s.served == "" || s.secret == "" || s.served == wildcard && !w.source || s.served == s.name && !s.own && !slices.Contains([]v1alpha1.Phase{v1alpha1.Sweeping, v1alpha1.Done, v1alpha1.RollingBack}, w.c.Status.Phase)) {
					t.Fatalf("seed %d: %s is served with %q and names %q\n%s", seed, s.name, s.served, s.secret, join(w.log))
				}
			}
			if p := w.c.Status.Phase; p == v1alpha1.RolledBack || p == v1alpha1.Done && n > 400 {
				end = true
				break
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

func join(lines []string) (s string) {
	for _, l := range lines[max(0, len(lines)-60):] {
		s += l + "\n"
	}
	return s
}
