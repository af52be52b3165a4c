package service_test

import (
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/certherd/certherd/config"
	"github.com/certherd/certherd/plan"
)

const oneByOne = `
maxShare: 100%
breaker: {settle: 0s, unready: 1000000, rejected: 1000000}
gc: {mode: enforce, schedule: "@every 10s", minAge: 0s, budget: {count: 1, share: 100%}}
batch: {reloads: {updates: 600, gap: 0s}}
`

// TestConfigurationGoesAway: while a Certificate is being deleted, which is the first
// of two batches, the configuration is emptied, deleted, or made nonsense. Without
// one certherd reports and does no more; nonsense changes nothing but what is said
// about it. Before each, the connections of certherd's watches are closed, and the next
// watches are told that their version is too old.
func TestConfigurationGoesAway(t *testing.T) {
	const home, team = "config-certherd", "config-team"
	s := newSite(t, home)
	ctx := t.Context()
	s.must(s.cluster.Namespaces(ctx, team))
	s.args = append([]string{"--namespaces", team, "--pause", "1s"}, patient...)
	maps := s.cluster.Typed.CoreV1().ConfigMaps(home)
	names := []string{"first-7f3", "second-7f3", "third-7f3"}
	for _, name := range names {
		s.must(s.cluster.Apply(ctx, orphan, object{team, name}))
	}
	for _, name := range names {
		s.await("the Secret of "+name, func() bool {
			_, err := s.cluster.Typed.CoreV1().Secrets(team).Get(ctx, name, metav1.GetOptions{})
			return err == nil
		})
	}
	r, p := s.startBehind("config-0", nil)
	s.leader(r)

	var tooOld atomic.Int32 // watches that are told so from now on
	armed, acted := atomic.Bool{}, make(chan string, 1)
	decide := func(q *http.Request) fault {
		switch {
		case q.URL.Query().Get("watch") != "" && tooOld.Add(-1) >= 0:
			return expired
		case q.Method == http.MethodDelete && strings.Contains(q.URL.Path, "/namespaces/"+team+"/certificates/") && armed.CompareAndSwap(true, false):
			acted <- q.URL.Path[strings.LastIndex(q.URL.Path, "/")+1:]
			return meanwhile
		}
		return none
	}
	p.fail(decide)
	marked := func(name string) bool {
		x, err := s.cluster.Typed.CoreV1().Secrets(team).Get(ctx, name, metav1.GetOptions{})
		s.must(err)
		return x.Annotations[plan.RetiredAt] != ""
	}
	gone := func(name string) bool {
		list, err := s.cluster.Dynamic.Resource(certificates).Namespace(team).List(ctx, metav1.ListOptions{FieldSelector: "metadata.name=" + name})
		s.must(err)
		return len(list.Items) == 0
	}
	for _, c := range []struct {
		what string
		do   func() error
		// A configuration that is taken over ends what the one before had begun.
		stays bool
	}{
		{"emptied", func() error {
			_, err := maps.Update(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: config.ConfigMapName}}, metav1.UpdateOptions{})
			return err
		}, false},
		{"deleted", func() error { return maps.Delete(ctx, config.ConfigMapName, metav1.DeleteOptions{}) }, false},
		{"nonsense", func() error {
			_, err := maps.Patch(ctx, config.ConfigMapName, types.MergePatchType, []byte(`{"data":{"config.yaml":"gc: {mode: audit, gracePeriod: for ever}"}}`), metav1.PatchOptions{})
			return err
		}, true},
	} {
		said := func() int { return len(r.Said("configuration refused", "configuration taken over")) }
		rounds := func() int { return len(r.Said("round finished")) }
		before, finished := 0, 0
		p.happen = func() {
			before, finished = said(), rounds()
			if err := c.do(); err != nil {
				t.Error(err)
			}
			s.await(fmt.Sprintf("%s to hear that the configuration is %s", r.Name, c.what), func() bool { return said() > before })
		}
		tooOld.Store(2)
		p.CloseClientConnections()
		s.await("the watches to be refused", func() bool { return tooOld.Load() < 0 })
		armed.Store(true)
		s.configure(oneByOne)
		name := <-acted
		s.await("a round after "+c.what, func() bool { return gone(name) })
		if c.stays {
			s.await("what was begun to be finished", func() bool { return marked(name) })
			s.await("an Event", func() bool { return s.event("ConfigurationRefused") })
			s.await("certherd_config_valid 0", func() bool { return r.Metric("certherd_config_valid") == 0 })
			continue
		}
		s.await("the look that the configuration asks for", func() bool { return rounds() >= finished+2 })
		if marked(name) {
			t.Errorf("%s: %s was retired nevertheless", c.what, name)
		}
		s.await("the put-off step to be said", func() bool {
			for _, l := range r.Said("step") {
				why, _ := l.Fields["why"].(string)
				if l.Fields["result"] == "later" && strings.Contains(why, "configuration was changed") && strings.HasSuffix(l.Fields["object"].(string), "/"+name) {
					return true
				}
			}
			return false
		})
		s.await("certherd_config_valid 1", func() bool { return r.Metric("certherd_config_valid") == 1 })
	}
	// The last good one is still in force.
	for _, name := range names {
		s.await("everything to be done in the end", func() bool { return gone(name) && marked(name) })
	}
	r.Kill()
	s.drop(team)
}
