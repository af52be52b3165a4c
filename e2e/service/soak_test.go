package service_test

import (
	"context"
	"flag"
	"fmt"
	"math/rand"
	"net/http"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"github.com/certherd/certherd/e2e/stack"
	"github.com/certherd/certherd/plan"
)

var (
	soak   = flag.Duration("soak", 45*time.Second, "how long TestSoak goes on")
	change = flag.Duration("change", 9*time.Second, "how often another replica is made the leader in TestSoak")
	pace   = flag.Duration("pace", time.Second, "how often TestSoak makes or deletes something")
	long   = flag.Bool("long", false, "also run what takes many minutes, and demand of TestSoak what only a long one is sure to see")
	seed   = flag.Int64("seed", 1, "of what TestSoak does by chance")
)

// What a soak is made of.
var (
	soakSpaces = []string{"soak-a", "soak-b"}
	ingresses  = schema.GroupVersionResource{Group: "networking.k8s.io", Version: "v1", Resource: "ingresses"}

	routes         = schema.GroupVersionResource{Group: "serving.knative.dev", Version: "v1", Resource: "routes"}
	configurations = schema.GroupVersionResource{Group: "serving.knative.dev", Version: "v1", Resource: "configurations"}
	revisions      = schema.GroupVersionResource{Group: "serving.knative.dev", Version: "v1", Resource: "revisions"}

	podAutoscalers     = schema.GroupVersionResource{Group: "autoscaling.internal.knative.dev", Version: "v1alpha1", Resource: "podautoscalers"}
	serverlessServices = schema.GroupVersionResource{Group: "networking.internal.knative.dev", Version: "v1alpha1", Resource: "serverlessservices"}
	deployments        = schema.GroupVersionResource{Group: "apps", Version: "v1", Resource: "deployments"}
)

const (
	soakHome  = "soak-certherd"
	anchors   = 3 // services that stay, and are polled
	atRest    = 6 // services beside them while something is measured
	mostAlive = 12
	pairs     = 4 // Ingresses with a Certificate each
)

const soakService = `
apiVersion: serving.knative.dev/v1
kind: Service
metadata: {name: {{.Name}}, namespace: {{.Namespace}} }
spec: {template: {spec: {containers: [{image: dev.local/app}]}}}
`

const soakPair = `
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: {{.Name}}, namespace: {{.Namespace}} }
spec: {tls: [{hosts: [{{.Name}}.{{.Namespace}}.test], secretName: {{.Name}}-tls}], defaultBackend: {service: {name: x, port: {number: 80}}}}
---
apiVersion: cert-manager.io/v1
kind: Certificate
metadata: {name: {{.Name}}-tls, namespace: {{.Namespace}} }
spec: {secretName: {{.Name}}-tls, dnsNames: [{{.Name}}.{{.Namespace}}.test], issuerRef: {name: ca, kind: ClusterIssuer}}
`

type object struct{ Namespace, Name string }

func (o object) String() string { return o.Namespace + "/" + o.Name }

// span is a time for which something needs a Secret. A zero until is not over.
type span struct{ from, until time.Time }

// books are an account of which Secret is needed, and why, kept from what the
// test itself does, and not from what certherd sees.
type books struct {
	s   *site
	rnd *rand.Rand

	mu sync.Mutex
	// services that live, with their Secrets once these are known. A service
	// that was deleted is in there no more.
	services map[object]string
	fixed    map[object]bool // services that are never deleted
	// secrets are all that a service has ever had, with the time when that was
	// deleted; zero while it lives.
	secrets map[object]time.Time
	// pairs are the Ingresses, with the times for which they were there.
	pairs                          map[object][]span
	made, deleted, toggled, serial int
	revived                        int // times that other people's controllers were started anew
}

// keep does something with the cluster until it succeeds, or the context ends:
// the API server may be gone for a moment.
func keep(ctx context.Context, do func() error) {
	for do() != nil && ctx.Err() == nil {
		time.Sleep(200 * time.Millisecond)
	}
}

// create makes a service, of which nothing may be taken from now on.
func (b *books) create(ctx context.Context, fixed bool) {
	b.mu.Lock()
	b.serial++
	// Names come again, as those of people's services do.
	x := object{soakSpaces[b.rnd.Intn(len(soakSpaces))], fmt.Sprintf("svc-%02d", b.serial%30)}
	_, lives := b.services[x]
	if !lives {
		b.services[x] = ""
		b.fixed[x] = fixed
		b.made++
	}
	b.mu.Unlock()
	if !lives {
		keep(ctx, func() error { return b.s.cluster.Apply(ctx, soakService, x) })
	}
}

// learn notes the Secrets of services, once they are served with them.
func (b *books) learn(ctx context.Context) error {
	for _, ns := range soakSpaces {
		list, err := b.s.cluster.Dynamic.Resource(kIngresses).Namespace(ns).List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		b.mu.Lock()
		for i := range list.Items {
			x := object{ns, list.Items[i].GetName()}
			tls, _, _ := unstructured.NestedSlice(list.Items[i].Object, "spec", "tls")
			if len(tls) == 0 {
				continue
			}
			name, _ := tls[0].(map[string]any)["secretName"].(string)
			secret := object{ns, name}
			// That of an earlier service of the same name is in there already.
			if _, known := b.secrets[secret]; !known {
				if has, lives := b.services[x]; lives && has == "" {
					b.services[x], b.secrets[secret] = name, time.Time{}
				}
			}
		}
		b.mu.Unlock()
	}
	return nil
}

// doom deletes a service that is served, and reports whether there was one.
func (b *books) doom(ctx context.Context) bool {
	b.mu.Lock()
	var served []object
	for x, secret := range b.services {
		if secret != "" && !b.fixed[x] {
			served = append(served, x)
		}
	}
	if len(served) == 0 {
		b.mu.Unlock()
		return false
	}
	slices.SortFunc(served, func(x, y object) int { return strings.Compare(x.String(), y.String()) })
	x := served[b.rnd.Intn(len(served))]
	b.secrets[object{x.Namespace, b.services[x]}] = time.Now()
	b.deleted++
	b.mu.Unlock()
	background := metav1.DeletePropagationBackground
	keep(ctx, func() error {
		err := b.s.cluster.Dynamic.Resource(services).Namespace(x.Namespace).Delete(ctx, x.Name, metav1.DeleteOptions{PropagationPolicy: &background})
		if err == nil || apierrors.IsNotFound(err) {
			return nil
		}
		return err
	})
	// Its name is free once all that it had is gone: a Revision that finds the
	// Deployment of an earlier one of its name fails for good.
	since := time.Now()
	keep(ctx, func() error {
		there, err := b.s.remains(ctx, x)
		if err == nil && there == "" {
			return nil
		}
		if time.Since(since) > 45*time.Second {
			since = time.Now()
			b.mu.Lock()
			b.revived++
			b.mu.Unlock()
			b.s.collectAnew()
		}
		return fmt.Errorf("%s is still there: %v", there, err)
	})
	b.mu.Lock()
	delete(b.services, x)
	b.mu.Unlock()
	return true
}

// remains names a kind of which a deleted service still has an object.
func (s *site) remains(ctx context.Context, x object) (string, error) {
	for _, resource := range []schema.GroupVersionResource{kIngresses, routes, configurations, revisions, podAutoscalers, serverlessServices, deployments} {
		list, err := s.cluster.Dynamic.Resource(resource).Namespace(x.Namespace).List(ctx, metav1.ListOptions{LabelSelector: "serving.knative.dev/service=" + x.Name})
		if err != nil || len(list.Items) > 0 {
			return resource.Resource, err
		}
	}
	return "", nil
}

// collectAnew has kube-controller-manager begin anew. Its garbage collector now and
// then misses that an owner was deleted while the API server was started again, and
// what that owned would stay for ever: an API server that has just been started does
// not list its custom resources yet, and kinds that are not listed are not watched
// (k8s.io/kubernetes pkg/controller/garbagecollector, Sync). Elsewhere it ends by
// itself then, because it loses its lease.
func (s *site) collectAnew() {
	s.Helper()
	s.Log("kube-controller-manager is started anew, for something stays whose owner is gone")
	s.restart("kube-controller-manager")
}

// restart ends programs of the stack, which starts each again.
func (s *site) restart(programs ...string) {
	for _, x := range programs {
		// One that has just ended is not there for a moment.
		keep(s.Context(), func() error { return s.stack.Signal(x, syscall.SIGKILL) })
	}
}

// stuck is how long the other controllers have to serve a service or to clear away
// what it owned; one that is well takes seconds.
const stuck = 2 * time.Minute

// others are the controllers that serve a service.
var others = []string{"kube-controller-manager", "knative-webhook", "knative-controller", "knative-autoscaler", "kourier", "cert-manager-webhook", "cert-manager-controller"}

// reviver starts other people's controllers anew, once, when something has not come
// about for so long that they must have missed it: each of them does after an API
// server that was killed, now and then. What certherd must do is not waited for
// with it.
func (b *books) reviver(what string, programs ...string) func() {
	s, since, done := b.s, time.Now(), false
	return func() {
		s.Helper()
		if done || time.Since(since) < stuck {
			return
		}
		done = true
		b.revived++
		s.Logf("%s: after %s not yet %s; started anew: %v; what is not well:\n%s", time.Now().UTC().Format(time.TimeOnly), stuck, what, programs, b.ailing())
		b.orderAnew()
		s.restart(programs...)
	}
}

// orderAnew has Knative make Certificates anew whose request has failed: cert-manager
// would ask again an hour later.
func (b *books) orderAnew() {
	ctx := b.s.Context()
	for _, ns := range soakSpaces {
		keep(ctx, func() error {
			list, err := b.s.cluster.Dynamic.Resource(certificates).Namespace(ns).List(ctx, metav1.ListOptions{})
			if err != nil {
				return err
			}
			for _, x := range list.Items {
				failed, _, _ := unstructured.NestedString(x.Object, "status", "lastFailureTime")
				if failed == "" || !strings.HasPrefix(x.GetName(), "route-") {
					continue
				}
				if err := b.s.cluster.Dynamic.Resource(certificates).Namespace(ns).Delete(ctx, x.GetName(), metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
					return err
				}
			}
			return nil
		})
	}
}

// ailing are the objects of the soak that are not Ready, end, or have an owner that
// is gone, one a line, and the services that are not served.
func (b *books) ailing() string {
	ctx := b.s.Context()
	var out strings.Builder
	uids := map[types.UID]bool{}
	var all []unstructured.Unstructured
	for _, ns := range soakSpaces {
		for _, resource := range []schema.GroupVersionResource{services, routes, configurations, revisions, kIngresses, kCertificates, certificates, certificateRequests} {
			list, err := b.s.cluster.Dynamic.Resource(resource).Namespace(ns).List(ctx, metav1.ListOptions{})
			if err != nil {
				fmt.Fprintf(&out, "%s: %v\n", resource.Resource, err)
				continue
			}
			all = append(all, list.Items...)
		}
	}
	for i := range all {
		uids[all[i].GetUID()] = true
	}
	for i := range all {
		x := &all[i]
		var why []string
		if x.GetDeletionTimestamp() != nil {
			why = append(why, "ends, finalizers "+strings.Join(x.GetFinalizers(), ","))
		}
		for _, owner := range x.GetOwnerReferences() {
			if !uids[owner.UID] {
				why = append(why, fmt.Sprintf("its owner %s/%s is gone", owner.Kind, owner.Name))
			}
		}
		conditions, _, _ := unstructured.NestedSlice(x.Object, "status", "conditions")
		if len(conditions) == 0 {
			why = append(why, "has no conditions")
		}
		for _, c := range conditions {
			if c, ok := c.(map[string]any); ok && c["type"] == "Ready" && c["status"] != "True" {
				why = append(why, fmt.Sprintf("Ready is %v: %v: %v", c["status"], c["reason"], c["message"]))
			}
		}
		if failed, _, _ := unstructured.NestedString(x.Object, "status", "lastFailureTime"); failed != "" {
			why = append(why, "failed at "+failed)
		}
		if len(why) > 0 {
			fmt.Fprintf(&out, "%s %s/%s, made %s: %s\n", x.GetKind(), x.GetNamespace(), x.GetName(), x.GetCreationTimestamp().UTC().Format(time.TimeOnly), strings.Join(why, "; "))
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for x, secret := range b.services {
		if secret == "" {
			fmt.Fprintf(&out, "service %s is not served by TLS\n", x)
		}
	}
	return out.String()
}

// toggle makes an Ingress that uses a Certificate's Secret, or deletes it, so that
// the Certificate is an orphan.
func (b *books) toggle(ctx context.Context, x object, on bool) {
	b.mu.Lock()
	spans := b.pairs[x]
	is := len(spans) > 0 && spans[len(spans)-1].until.IsZero()
	if on == is {
		b.mu.Unlock()
		if on { // what was taken in the moment in which it came to be is made again
			keep(ctx, func() error { return b.s.cluster.Apply(ctx, soakPair, x) })
		}
		return
	}
	b.toggled++
	if !on {
		spans[len(spans)-1].until = time.Now()
	}
	b.mu.Unlock()
	if on {
		keep(ctx, func() error { return b.s.cluster.Apply(ctx, soakPair, x) })
		b.mu.Lock()
		b.pairs[x] = append(b.pairs[x], span{from: time.Now()})
		b.mu.Unlock()
		return
	}
	keep(ctx, func() error {
		err := b.s.cluster.Dynamic.Resource(ingresses).Namespace(x.Namespace).Delete(ctx, x.Name, metav1.DeleteOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return err
	})
}

func pair(i int) object { return object{soakSpaces[i%len(soakSpaces)], fmt.Sprintf("pair-%d", i)} }

// churn changes something at random, again and again. What it has begun when it
// is to end, it finishes: the books must be right.
func (b *books) churn(ctx context.Context, end <-chan struct{}) {
	for tick := time.NewTicker(*pace); ; {
		select {
		case <-end:
			return
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if b.learn(ctx) != nil {
			continue
		}
		b.mu.Lock()
		alive, dice, which, on := len(b.services)-anchors, b.rnd.Intn(10), b.rnd.Intn(pairs), b.rnd.Intn(2) == 0
		b.mu.Unlock()
		switch {
		case dice < 2:
			b.toggle(ctx, pair(which), on)
		case alive < 2 || dice < 6 && alive < mostAlive:
			b.create(ctx, false)
		default:
			b.doom(ctx)
		}
	}
}

// rest brings about the state in which things are measured: so many services, all
// Ingresses, no garbage.
func (b *books) rest() {
	s := b.s
	s.Helper()
	ctx := s.Context()
	alive := func() (n, served int) {
		b.mu.Lock()
		defer b.mu.Unlock()
		for _, secret := range b.services {
			if secret != "" {
				served++
			}
		}
		return len(b.services), served
	}
	for i := range pairs {
		b.toggle(ctx, pair(i), true)
	}
	for n, _ := alive(); n < anchors+atRest; n, _ = alive() {
		b.create(ctx, false)
	}
	defer func() {
		if s.Failed() {
			s.Logf("services and their Secrets: %v", b.services)
		}
	}()
	revive := b.reviver("served", others...)
	s.await("the services to be served", func() bool {
		revive()
		keep(ctx, func() error { return b.learn(ctx) })
		n, served := alive()
		if served > anchors+atRest {
			b.doom(ctx)
		}
		return n == served && n == anchors+atRest
	})
	left, missing := map[string]bool{}, map[string]bool{}
	defer func() {
		if s.Failed() {
			s.Logf("left %v, missing %v", left, missing)
		}
	}()
	// What stays because its owner's end was missed is used by it, for certherd.
	revive = b.reviver("at rest", "kube-controller-manager")
	s.await("exactly what is needed to be left", func() bool {
		revive()
		for i := range pairs {
			b.toggle(ctx, pair(i), true)
		}
		clear(left)
		clear(missing)
		for _, ns := range soakSpaces {
			list, err := s.cluster.Typed.CoreV1().Secrets(ns).List(ctx, metav1.ListOptions{})
			if err != nil {
				return false
			}
			for i := range list.Items {
				left[ns+"/"+list.Items[i].Name] = true
				if list.Items[i].Annotations[plan.RetiredAt] != "" {
					return false // a round will take the mark back, or it is garbage
				}
			}
		}
		for name := range b.needed() {
			if !left[name] {
				missing[name] = true
			}
			delete(left, name)
		}
		return len(left)+len(missing) == 0
	})
}

// needed are the Secrets that are needed now, as namespace/name.
func (b *books) needed() map[string]bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	out := map[string]bool{}
	for x, secret := range b.services {
		if secret != "" {
			out[x.Namespace+"/"+secret] = true
		}
	}
	for x, spans := range b.pairs {
		if spans[len(spans)-1].until.IsZero() {
			out[x.String()+"-tls"] = true
		}
	}
	return out
}

// check holds what certherd wrote against the books.
func (b *books) check(writes []write, looks map[string][]time.Time) {
	s := b.s
	s.Helper()
	taken := map[string]int{}
	for _, w := range writes {
		if s.own(w) {
			continue
		}
		secret := object{w.namespace, w.name}
		taken[w.verb+" "+w.resource]++
		if until, ok := b.secrets[secret]; ok {
			if until.IsZero() || w.at.Before(until) {
				s.Errorf("%s, and the service that needs it was deleted at %v", w, until)
			}
			continue
		}
		spans, ok := b.pairs[object{w.namespace, strings.TrimSuffix(w.name, "-tls")}]
		if !ok {
			s.Errorf("%s, which is nothing of ours", w)
			continue
		}
		if w.verb == "patch" {
			continue // of a mark, or of the end of one
		}
		// What it had to know is what was there when its last look began.
		i, _ := slices.BinarySearchFunc(looks[w.by], w.at, time.Time.Compare)
		if i == 0 {
			s.Errorf("%s, without any look", w)
			continue
		}
		look := looks[w.by][i-1]
		for _, x := range spans {
			if x.from.Before(look) && (x.until.IsZero() || x.until.After(w.at)) {
				s.Errorf("%s after a look at %s, and the Ingress was there since %s", w, look.Format("15:04:05.000"), x.from.UTC().Format("15:04:05.000"))
			}
		}
	}
	s.Logf("certherd has done: %v", taken)
	for _, what := range []string{"patch secrets", "delete secrets", "delete certificates.cert-manager.io"} {
		if taken[what] == 0 && (*long || what != "delete certificates.cert-manager.io") { // which takes a round in the right moment
			s.Errorf("nothing of this kind was done: %s", what)
		}
	}
}

// usage is what a process needs at rest.
type usage struct {
	heapMiB, residentMiB float64
	goroutines           float64
}

func (u usage) String() string {
	return fmt.Sprintf("heap %.1f MiB, resident %.1f MiB, %g goroutines", u.heapMiB, u.residentMiB, u.goroutines)
}

func (r *process) usage() usage {
	r.s.Helper()
	for range 2 { // the second collects what the first has freed
		r.s.await("a heap profile of "+r.Name, func() bool { code, _ := r.Get("/debug/pprof/heap?gc=1"); return code == 200 })
	}
	value := func(sample string) (v float64) {
		r.s.Helper()
		r.s.await(sample+" of "+r.Name, func() bool { v = r.Metric(sample); return v >= 0 })
		return v
	}
	return usage{value("go_memstats_heap_inuse_bytes") / (1 << 20), value("process_resident_memory_bytes") / (1 << 20), value("go_goroutines")}
}

// killAtWrite kills a replica as soon as it writes anything but its Lease: before
// the API server has it, or after. One that writes nothing is killed after a
// while.
func (b *books) killAtWrite(r *process, p *proxy, after bool) {
	writes := make(chan struct{})
	var once sync.Once
	p.fail(func(q *http.Request) fault {
		if q.Method == http.MethodGet || strings.Contains(q.URL.Path, "/leases") {
			return none
		}
		once.Do(func() { close(writes) })
		if after {
			return lost
		}
		return refused
	})
	select {
	case <-writes:
	case <-time.After(15 * time.Second):
	}
	r.Kill()
}

// TestSoak makes and deletes things at random, and has the leader change all the
// time, in every way in which it can: killed, ended, stopped and gone on, cut off;
// and in between the API server fails.
func TestSoak(t *testing.T) {
	s := newSite(t, soakHome)
	ctx := t.Context()
	s.must(s.cluster.Namespaces(ctx, soakSpaces...))
	b := &books{s: s, rnd: rand.New(rand.NewSource(*seed)), services: map[object]string{}, fixed: map[object]bool{}, secrets: map[object]time.Time{}, pairs: map[object][]span{}}
	for range anchors {
		b.create(ctx, true)
	}
	s.configure(enforcing("10s", "5s"))

	// Two replicas last, so that what they need can be compared. The third is ended
	// whenever it leads.
	proxies := map[*process]*proxy{}
	begin := func(name string) *process {
		p := s.proxy()
		r := s.start(name, p.URL)
		proxies[r] = p
		return r
	}
	defer func() { // also when something else has failed
		users := []string{}
		for _, r := range s.replicas {
			users = append(users, r.Name)
		}
		writes, looks := s.audit(users...)
		b.check(writes, looks)
		s.onlyTheHolderWrites(writes)
	}()
	lasting := []*process{begin("soak-0"), begin("soak-1")}
	mortal, serial := begin("soak-2"), 2
	b.rest()
	var hosts []string
	for x := range b.fixed {
		if b.fixed[x] {
			hosts = append(hosts, x.Name+"."+x.Namespace+"."+stack.Domain)
		}
	}
	polled := s.poll(100*time.Millisecond, hosts...)

	measure := func() []usage {
		t.Helper()
		for _, p := range proxies {
			p.fail(nil)
		}
		s.configure(enforcing("10s", "5s"))
		b.rest()
		var out []usage
		for _, r := range lasting {
			r.rounds(2)
			// How many idle connections are kept is chance, and each has two goroutines.
			proxies[r].CloseClientConnections()
			time.Sleep(time.Second)
			out = append(out, r.usage())
			t.Logf("%s (leads: %v): %v", r.Name, r.Leads(), out[len(out)-1])
		}
		return out
	}
	first := measure()

	changes := 0
	turns := map[bool]int{} // of the mortal, and of the others
	anew := func() {
		serial++
		mortal = begin(fmt.Sprintf("soak-%d", serial))
	}
	changeLeader := func() {
		t.Helper()
		changes++
		all := append(slices.Clone(lasting), mortal)
		old := s.leader(all...)
		rest := slices.DeleteFunc(all, func(r *process) bool { return r == old })
		turns[old == mortal]++
		odd, how := turns[old == mortal]%2 == 1, ""
		switch {
		case old == mortal && odd:
			how = "killed in the middle of a write"
			b.killAtWrite(old, proxies[old], turns[true]%4 == 1)
			s.leader(rest...)
			anew()
		case old == mortal:
			how = "ended"
			old.signal(syscall.SIGTERM)
			s.leader(rest...)
			s.await("its end", old.Ended)
			anew()
		case odd:
			how = "stopped"
			old.signal(syscall.SIGSTOP)
			s.leader(rest...)
			old.signal(syscall.SIGCONT)
		default:
			how = "cut off"
			proxies[old].cut()
			s.leader(rest...)
			proxies[old].fail(nil)
		}
		t.Logf("%s: %s was %s", time.Now().UTC().Format(time.TimeOnly), old.Name, how)
	}

	parts := 1 // after each of which things are measured
	if *soak > 5*time.Minute {
		parts = int(*soak/(5*time.Minute)) + 1
	}
	var last []usage
	for part := range parts {
		end, done := make(chan struct{}), make(chan struct{})
		go func() { defer close(done); b.churn(ctx, end) }()
		for until := time.Now().Add(*soak / time.Duration(parts)); time.Now().Before(until); {
			next := time.Now().Add(*change)
			changeLeader()
			switch changes % 4 {
			case 0:
				s.configure("gc: {mode: audit, gracePeriod: for ever}") // the last good one stays
			case 1:
				for r, p := range proxies {
					p.fail(storm(*seed + int64(changes) + int64(len(r.Name))))
				}
			case 2:
				for _, p := range proxies {
					p.fail(nil)
				}
				s.configure(enforcing("10s", "5s"))
			case 3:
				s.must(s.stack.Signal("kube-apiserver", syscall.SIGKILL))
			}
			time.Sleep(time.Until(next))
		}
		close(end)
		<-done
		last = measure()
		if part == 0 && parts > 1 {
			first = last // caches are full, and pools have their size
		}
	}
	polled.end()
	t.Logf("%d services made, %d deleted, %d Ingresses made or deleted; %d changes of the leader; %d times other controllers were started anew", b.made, b.deleted, b.toggled, changes, b.revived)

	faults := map[fault]int{}
	for _, p := range proxies {
		for f, n := range p.faults {
			faults[f] += n
		}
	}
	t.Logf("requests and faults: %v", faults)
	for i, r := range lasting {
		if last[i].heapMiB > 1.3*first[i].heapMiB+8 {
			t.Errorf("%s: the heap has grown from %v to %v", r.Name, first[i], last[i])
		}
		if last[i].goroutines > first[i].goroutines+20 {
			t.Errorf("%s: goroutines have grown from %v to %v", r.Name, first[i], last[i])
		}
	}
	for _, r := range s.replicas { // for whom a namespace that ends is full of garbage
		if !r.Ended() {
			r.Kill()
		}
	}
	s.drop(soakSpaces...)
}
