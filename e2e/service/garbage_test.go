package service_test

import (
	"flag"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"

	"github.com/certherd/certherd/e2e/scenario"
	"github.com/certherd/certherd/e2e/stack"
	"github.com/certherd/certherd/plan"
)

var size = flag.Int("services", 200, "how many services TestExactlyTheGarbageGoes makes")

// The namespaces of TestExactlyTheGarbageGoes. In the first three most services
// are deleted, and two are moved to a wildcard: half of all.
var (
	doomed   = []string{"fleet-a", "fleet-b", "fleet-c"}
	labelled = "fleet-d" // by a labelled Knative Certificate
	selected = "fleet-e" // by Knative's own namespace-wildcard-cert-selector
	stayed   = []string{"fleet-f", "fleet-g", "fleet-h"}
)

// enforce is the configuration of somebody who wants everything gone at once.
// Services come and go meanwhile, and with them readiness and what Kourier pushes:
// the breaker has tests of its own.
const enforce = `
maxShare: 100%
breaker: {settle: 0s, unready: 1000000, rejected: 1000000}
gc:
  mode: enforce
  schedule: "@every EVERY"
  minAge: 0s
  gracePeriod: GRACE
  expiredGracePeriod: 0s
  budget: {count: disabled, share: 100%}
batch: {reloads: {updates: 600, gap: 0s}}
`

func enforcing(every, grace string) string {
	return strings.NewReplacer("EVERY", every, "GRACE", grace).Replace(enforce)
}

func TestExactlyTheGarbageGoes(t *testing.T) {
	s := newSite(t, "fleet-certherd")
	ctx := t.Context()
	all := slices.Concat(doomed, []string{labelled, selected}, stayed)
	// A quarter of all is moved with its namespace, and a quarter deleted.
	each := *size / len(all)
	goes := func(x scenario.Service) bool {
		n := slices.Index(doomed, x.Namespace)
		return n >= 0 && number(t, x.Name)*len(doomed)+n < 2*each
	}
	s.must(s.cluster.Namespaces(ctx, all...))
	s.selector()
	begun := time.Now()
	var list []scenario.Service
	for _, ns := range all {
		for i := range each {
			list = append(list, scenario.Service{Namespace: ns, Name: fmt.Sprintf("svc-%02d", i)})
		}
	}
	s.must(s.cluster.Services(ctx, list))
	t.Logf("%d services were Ready and served after %s", len(list), time.Since(begun).Round(time.Second))
	for i, host := range []string{"www.stays.test", "www.goes.test"} {
		s.must(s.cluster.DomainMapping(ctx, "fleet-f", fmt.Sprintf("svc-%02d", i), host, ""))
	}
	s.configure("") // no configuration
	a, b := s.start("fleet-0", ""), s.start("fleet-1", "")

	hosts := []string{"www.stays.test"}
	for _, x := range list {
		if !goes(x) {
			hosts = append(hosts, x.Name+"."+x.Namespace+"."+stack.Domain)
		}
	}
	polled := s.poll(20*time.Millisecond, hosts...)

	// Half of it becomes garbage.
	garbage := map[string]bool{} // namespace/name of Secrets
	superseded := map[string]bool{}
	for _, ns := range doomed {
		var names []string
		for _, x := range list {
			if x.Namespace == ns && goes(x) {
				names = append(names, x.Name)
			}
		}
		left, err := s.cluster.DeleteServices(ctx, ns, names, stack.Domain)
		s.must(err)
		for _, secret := range left {
			garbage[ns+"/"+secret] = true
		}
	}
	for _, ns := range []string{labelled, selected} {
		for secret := range s.routeSecrets(ns) {
			garbage[secret], superseded[secret] = true, true
		}
	}
	s.must(s.cluster.MoveToWildcard(ctx, labelled, "wild", stack.Domain))
	s.selectWildcard(selected)
	mapped := s.dropMapping("fleet-f", "www.goes.test")
	garbage["fleet-f/"+mapped] = true
	if len(garbage) != 4*each+1 || len(superseded) != 2*each {
		t.Fatalf("%d Secrets are garbage, %d of them superseded, of %d services", len(garbage), len(superseded), len(list))
	}
	t.Logf("%d Secrets had become garbage after %s", len(garbage), time.Since(begun).Round(time.Second))

	// Everything else is to be as it was, to the last field.
	before := s.everything()
	s.await("everything to be at rest", func() bool {
		time.Sleep(5 * time.Second)
		was := before
		before = s.everything()
		return maps.Equal(was, before)
	})

	s.configure(enforcing("30s", "5s"))
	leader := s.leader(a, b)
	var marked map[string]bool
	s.await("the garbage to be gone", func() bool {
		marked = map[string]bool{}
		n := 0
		for name, x := range s.secretsOf(all...) {
			if garbage[name] {
				n++
			}
			if x.Annotations[plan.RetiredAt] != "" {
				marked[name] = true
			}
		}
		return n == 0
	})
	if len(marked) > 0 {
		t.Errorf("%d Secrets that are not garbage are marked: %v", len(marked), marked)
	}
	s.configure(enforcing("10s", "5s"))
	leader.rounds(2) // in which nothing more is to happen
	polled.everywhere(2)
	polled.end()
	t.Logf("the garbage was gone, and two more rounds had passed, after %s", time.Since(begun).Round(time.Second))

	// What is gone, and what has changed.
	after := s.everything()
	for id, was := range before {
		now, there := after[id]
		name := id.namespace + "/" + id.name
		gone := garbage[name] && (id.resource.Resource == "secrets" || id.resource.Resource == "certificates") ||
			id.resource.Resource == "certificaterequests" && superseded[strings.TrimSuffix(name, "-1")]
		switch {
		case gone && there:
			t.Errorf("%v is garbage, and still there", id)
		case gone:
		case !there:
			t.Errorf("%v is gone", id)
		case was != now:
			t.Errorf("%v was changed:\n%v\n%v", id, was, now)
		}
	}
	for id := range after {
		if _, ok := before[id]; !ok && id.namespace != s.home {
			t.Errorf("%v is new", id)
		}
	}

	// What certherd did, by its own log and by the API server's.
	want := map[string]int{}
	for name := range garbage {
		want["patch secrets "+name], want["delete secrets "+name] = 1, 1
		if superseded[name] {
			want["delete certificates.networking.internal.knative.dev "+name] = 1
		}
	}
	writes, _ := s.audit(a.Name, b.Name)
	s.onlyTheHolderWrites(writes)
	got := map[string]int{}
	for _, w := range writes {
		if !s.own(w) {
			got[fmt.Sprintf("%s %s %s/%s", w.verb, w.resource, w.namespace, w.name)]++
		}
	}
	for what, n := range got {
		if want[what] != n {
			t.Errorf("%s: %d times, and not %d times", what, n, want[what])
		}
	}
	for what := range want {
		if got[what] == 0 {
			t.Errorf("%s: not by certherd", what)
		}
	}
	acting := s.acting(leader)
	for i, r := range acting {
		t.Logf("round %d: %v", i+1, r)
	}
	// Two rounds: the first leaves nothing to the second but the deletion of
	// Secrets. On a machine so slow that a look is too old before all of its batch
	// is done, or that the second round begins within the grace period, there are
	// more.
	switch slow := s.putOff(leader); {
	case slow != "":
		t.Logf("%d rounds: %s", len(acting), slow)
	case len(acting) != 2, acting[0]["retire"] != len(garbage), acting[0]["delete"] != len(superseded), acting[0]["delete Secret"] != 0, acting[1]["delete Secret"] != len(garbage):
		t.Errorf("not two rounds: %v", acting)
	}
	for _, r := range []*process{a, b} {
		if n := r.Metric(`certherd_round_total{result="failed"}`); n > 0 {
			t.Errorf("%v rounds of %s have failed", n, r.Name)
		}
	}
	s.drop(all...)
}

// number is that at the end of a service's name.
func number(t *testing.T, name string) (n int) {
	t.Helper()
	if _, err := fmt.Sscanf(name, "svc-%d", &n); err != nil {
		t.Fatal(err)
	}
	return n
}

// routeSecrets are the Secrets of the per-service certificates of a namespace,
// as namespace/name.
func (s *site) routeSecrets(namespace string) map[string]bool {
	s.Helper()
	list, err := s.cluster.Dynamic.Resource(kCertificates).Namespace(namespace).List(s.Context(), metav1.ListOptions{LabelSelector: "networking.knative.dev/certificate-type=external-domain"})
	s.must(err)
	out := map[string]bool{}
	for i := range list.Items {
		name, _, err := unstructured.NestedString(list.Items[i].Object, "spec", "secretName")
		s.must(err)
		out[namespace+"/"+name] = true
	}
	return out
}

// selector has Knative itself make a wildcard for each namespace with a label. No
// namespace has it yet: a change of this ConfigMap lets every Route be looked at again,
// and none is to see a wildcard that is not Ready.
func (s *site) selector() {
	s.Helper()
	_, err := s.cluster.Typed.CoreV1().ConfigMaps("knative-serving").Patch(s.Context(), "config-network", types.MergePatchType,
		[]byte(`{"data":{"namespace-wildcard-cert-selector":"matchLabels: {wildcard: \"yes\"}"}}`), metav1.PatchOptions{})
	s.must(err)
}

// selectWildcard gives a namespace the label, and moves its Routes to the wildcard once
// it is Ready.
func (s *site) selectWildcard(namespace string) {
	s.Helper()
	ctx := s.Context()
	core := s.cluster.Typed.CoreV1()
	_, err := core.Namespaces().Patch(ctx, namespace, types.MergePatchType, []byte(`{"metadata":{"labels":{"wildcard":"yes"}}}`), metav1.PatchOptions{})
	s.must(err)
	wildcard := namespace + "." + stack.Domain
	s.await("Knative's wildcard for "+namespace, func() bool {
		_, err := core.Secrets(namespace).Get(ctx, wildcard, metav1.GetOptions{})
		return err == nil
	})
	s.must(s.cluster.Adopt(ctx, namespace, wildcard))
}

// dropMapping deletes a DomainMapping, and returns the Secret that is left.
func (s *site) dropMapping(namespace, host string) string {
	s.Helper()
	ctx := s.Context()
	name, err := s.cluster.KCertificateFor(ctx, namespace, host)
	s.must(err)
	kcert, err := s.cluster.Dynamic.Resource(kCertificates).Namespace(namespace).Get(ctx, name, metav1.GetOptions{})
	s.must(err)
	secret, _, err := unstructured.NestedString(kcert.Object, "spec", "secretName")
	s.must(err)
	s.must(s.cluster.Dynamic.Resource(domainMappings).Namespace(namespace).Delete(ctx, host, metav1.DeleteOptions{}))
	s.await("the certificate of "+host+" to go", func() bool {
		_, err := s.cluster.Dynamic.Resource(certificates).Namespace(namespace).Get(ctx, name, metav1.GetOptions{})
		return apierrors.IsNotFound(err)
	})
	return secret
}

// id names an object.
type id struct {
	resource        schema.GroupResource
	namespace, name string
}

// everything is the state of every object in the cluster, but of those that
// change by themselves.
func (s *site) everything() map[id]string {
	s.Helper()
	lists, err := s.cluster.Typed.Discovery().ServerPreferredResources()
	s.must(err)
	quiet := rest.CopyConfig(s.admin)
	quiet.WarningHandler = rest.NoWarnings{}
	client, err := metadata.NewForConfig(quiet)
	s.must(err)
	out := map[id]string{}
	for _, l := range lists {
		gv, err := schema.ParseGroupVersion(l.GroupVersion)
		s.must(err)
		for _, r := range l.APIResources {
			if !slices.Contains(r.Verbs, "list") || r.Name == "events" || r.Name == "leases" || r.Name == "componentstatuses" {
				continue
			}
			gvr := gv.WithResource(r.Name)
			objects, err := client.Resource(gvr).List(s.Context(), metav1.ListOptions{})
			s.must(err)
			for i := range objects.Items {
				o := &objects.Items[i]
				state := string(o.UID) + ", version " + o.ResourceVersion
				if gv.Group == "serving.knative.dev" {
					// Knative says in their status what has become of their certificates.
					state = fmt.Sprintf("%s, generation %d", o.UID, o.Generation)
				}
				if o.Namespace != s.home {
					out[id{gvr.GroupResource(), o.Namespace, o.Name}] = state
				}
			}
		}
	}
	return out
}

// secretsOf are the Secrets of namespaces, by namespace/name.
func (s *site) secretsOf(namespaces ...string) map[string]*corev1.Secret {
	s.Helper()
	out := map[string]*corev1.Secret{}
	for _, ns := range namespaces {
		list, err := s.cluster.Typed.CoreV1().Secrets(ns).List(s.Context(), metav1.ListOptions{})
		s.must(err)
		for i := range list.Items {
			out[ns+"/"+list.Items[i].Name] = &list.Items[i]
		}
	}
	return out
}

// acting are the rounds of a replica that carried something out, with the number
// of steps that were done: by action, where Secrets are told from others.
func (s *site) acting(r *process) []map[string]int {
	var out []map[string]int
	round := map[string]int{}
	for _, l := range r.Said("step", "round finished") {
		if l.Message == "step" {
			what := l.Fields["action"].(string)
			if what == "delete" && strings.HasPrefix(l.Fields["object"].(string), "Secret/") {
				what = "delete Secret"
			}
			if l.Fields["result"] == "done" {
				round[what]++
			}
			continue
		}
		if len(round) > 0 {
			out = append(out, round)
			round = map[string]int{}
		}
	}
	return out
}

// putOff says why a round of a replica has left something to a later one, or has
// not taken up what another one had left; empty when none has.
func (s *site) putOff(r *process) string {
	for _, l := range r.Said("step", "round finished") {
		if why, _ := l.Fields["why"].(string); l.Fields["result"] == "later" && !strings.Contains(why, "a later round deletes it") {
			return why
		}
		if d, _ := l.Fields["duration"].(float64); d > 24 {
			return fmt.Sprintf("one took %.0f s", d)
		}
	}
	return ""
}

// drop deletes namespaces with all that is in them, and waits for their end.
func (s *site) drop(namespaces ...string) {
	s.Helper()
	for _, ns := range namespaces {
		s.must(s.cluster.Typed.CoreV1().Namespaces().Delete(s.Context(), ns, metav1.DeleteOptions{}))
	}
	for _, ns := range namespaces {
		s.await("the end of namespace "+ns, func() bool {
			_, err := s.cluster.Typed.CoreV1().Namespaces().Get(s.Context(), ns, metav1.GetOptions{})
			return apierrors.IsNotFound(err)
		})
	}
}
