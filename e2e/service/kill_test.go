package service_test

import (
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const orphan = `
apiVersion: cert-manager.io/v1
kind: Certificate
metadata: {name: {{.Name}}, namespace: {{.Namespace}} }
spec: {secretName: {{.Name}}, dnsNames: [{{.Name}}.test], issuerRef: {name: ca, kind: ClusterIssuer}}
`

// TestLeaderKilledAtEveryWrite has the leader killed (kill -9) at each of its
// writes that is about removal, one after the other: by turns just before the API
// server gets it, and just after that has done it. The other replica finishes the
// work, and nothing is done twice. (Package apply does the same at each of its
// numbered steps.)
func TestLeaderKilledAtEveryWrite(t *testing.T) {
	if !*long {
		t.Skip("takes several minutes; run with -long")
	}
	const home, team = "kill-certherd", "kill-team"
	s := newSite(t, home)
	ctx := t.Context()
	s.must(s.cluster.Namespaces(ctx, team))
	s.configure("maxShare: 100%\ngc: {schedule: '@every 10s', minAge: 0s}\n")
	proxies := map[*replica]*proxy{}
	names := []string{}
	begin := func() *replica {
		p := s.proxy()
		r := s.start(fmt.Sprintf("kill-%d", len(names)), p.URL)
		names = append(names, r.name)
		proxies[r] = p
		return r
	}
	a, b := begin(), begin()
	exists := func(name string) bool {
		_, err := s.cluster.Typed.CoreV1().Secrets(team).Get(ctx, name, metav1.GetOptions{})
		if err != nil && !apierrors.IsNotFound(err) {
			t.Fatal(err)
		}
		return err == nil
	}
	// A Certificate that nobody uses needs five writes and more: its intent, its
	// deletion, what came of it, the same for the mark of its Secret, and in the next
	// round for the deletion of that.
	rounds := 0
	for nth, reached := int32(1), true; reached; nth++ {
		name := fmt.Sprintf("orphan-7f3-%d", nth)
		s.must(s.cluster.Apply(ctx, orphan, object{team, name}))
		s.await("the Secret of "+name, func() bool { return exists(name) })
		old := s.leader(a, b)
		var count atomic.Int32
		reached = false
		killed := make(chan struct{})
		proxies[old].fail(func(r *http.Request) fault {
			about := strings.Contains(r.URL.Path, "/certificates/") || strings.Contains(r.URL.Path, "/secrets/") || strings.Contains(r.URL.Path, "certherd-journal") || strings.HasSuffix(r.URL.Path, "/configmaps")
			if r.Method == http.MethodGet || !about {
				return none
			}
			switch n := count.Add(1); {
			case n < nth:
				return none
			case n == nth:
				go func() {
					// It waits for an answer that it does not get.
					_ = old.cmd.Process.Kill()
					close(killed)
				}()
				if nth%2 == 0 {
					return lost
				}
			}
			return refused
		})
		s.configure(enforcing("10s", "0s"))
		s.await("the end of "+name, func() bool {
			select {
			case <-killed:
				reached = true
			default:
			}
			return !exists(name)
		})
		if _, err := s.cluster.Dynamic.Resource(certificates).Namespace(team).Get(ctx, name, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			t.Errorf("the Certificate %s is still there: %v", name, err)
		}
		if reached {
			rounds++
			<-old.ended
			if a == old {
				a = begin()
			} else {
				b = begin()
			}
			t.Logf("write %d: killed, and finished by another", nth)
		}
		proxies[old].fail(nil)
	}
	if rounds < 6 {
		t.Errorf("the leader was killed %d times only", rounds)
	}
	writes, _ := s.audit(names...)
	s.onlyTheHolderWrites(writes)
	done := map[string]int{}
	for _, w := range writes {
		if !s.own(w) {
			done[w.verb+" "+w.resource+" "+w.name]++
		}
	}
	for what, n := range done {
		if n > 1 {
			t.Errorf("%s took place %d times", what, n)
		}
	}
	if len(done) != 3*(rounds+1) {
		t.Errorf("%d writes in %d rounds: %v", len(done), rounds+1, done)
	}
	s.drop(team)
}
