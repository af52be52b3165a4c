package live

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
	clocktesting "k8s.io/utils/clock/testing"

	"github.com/certherd/certherd/batch"
	"github.com/certherd/certherd/inventory"
	"github.com/certherd/certherd/plan"
)

var (
	start = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	envoy = inventory.Ref{Group: "apps", Kind: "Deployment", Namespace: "kourier-system", Name: "envoy"}
)

// site is a cluster with ledgers of leaders that follow each other.
type site struct {
	*testing.T
	client *fake.Clientset
	clock  *clocktesting.FakeClock
	budget batch.Budget
	sent   int
}

func newSite(t *testing.T) *site {
	return &site{T: t, client: fake.NewClientset(), clock: clocktesting.NewFakeClock(start), budget: batch.Budget{Updates: 2, Period: time.Minute, Gap: 0, Largest: 1}}
}

func (s *site) leader() *Ledger {
	return New(Options{
		Client: s.client.CoreV1(), Namespace: "certherd", Clock: s.clock, Sent: func(x batch.Sent) { s.sent += x.Updates },
		Budgets: func() ([]inventory.Ref, batch.Budgets) { return []inventory.Ref{envoy}, batch.Budgets{Else: s.budget} },
	})
}

func deletions(names ...string) []batch.Item {
	var out []batch.Item
	for _, n := range names {
		out = append(out, batch.Item{Object: inventory.SecretRef("ns", n), Action: plan.Delete})
	}
	return out
}

func (s *site) ask(c *Caller, items []batch.Item, going, held int) []batch.Item {
	s.Helper()
	g, h, err := c.Ask(s.Context(), items)
	if err != nil {
		s.Fatal(err)
	}
	if len(g) != going || len(h) != held {
		s.Fatalf("%d go and %d are held, want %d and %d", len(g), len(h), going, held)
	}
	return g
}

func TestTheNextLeaderKnowsWhatWasSpent(t *testing.T) {
	s := newSite(t)
	s.ask(s.leader().For("gc"), deletions("a", "b", "c"), 2, 1)
	// The leader is killed before it has written anything.
	next := s.leader()
	s.ask(next.For("gc"), deletions("a", "b", "c"), 0, 3)
	if h := next.Held()["gc"]; len(h) != 3 || !h[0].Until.Equal(start.Add(time.Minute)) {
		t.Errorf("%+v", h)
	}
	s.clock.Step(time.Minute)
	s.ask(next.For("gc"), deletions("a", "b", "c"), 2, 1)
	if s.sent != 4 {
		t.Errorf("%d updates were told", s.sent)
	}
	cm, err := s.client.CoreV1().ConfigMaps("certherd").Get(t.Context(), ConfigMapName, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if text := fmt.Sprint(cm.Data, string(cm.BinaryData[keyState])); strings.Contains(text, "Secret") {
		t.Errorf("names in plain text: %q", text)
	}
}

func TestWhatComesFirstKeepsItsPlaceAmongCallers(t *testing.T) {
	s := newSite(t)
	l := s.leader()
	s.ask(l.For("gc"), deletions("a", "b"), 2, 0)
	s.clock.Step(time.Second)
	s.ask(l.For("consolidate x"), deletions("first"), 0, 1)
	s.clock.Step(time.Second)
	s.ask(l.For("gc"), deletions("c", "d"), 0, 2)
	s.clock.Step(time.Minute)
	// There is room for two, and one of them is for whoever waits for longer.
	s.ask(l.For("gc"), deletions("c", "d"), 1, 1)
	s.ask(l.For("consolidate x"), deletions("first"), 1, 0)
	s.ask(l.For("gc"), deletions("d"), 0, 1)
	// Somebody who does not ask again in time holds up nobody.
	s.ask(l.For("consolidate y"), deletions("never"), 0, 1)
	s.clock.Step(2 * time.Minute)
	s.ask(l.For("gc"), deletions("d", "e"), 2, 0)
	if n := len(l.Held()); n != 0 {
		t.Errorf("%d callers are held", n)
	}
}

func TestADeletionComesBeforeARenewal(t *testing.T) {
	s := newSite(t)
	s.budget.Updates = 1
	l := s.leader()
	s.ask(l.For("gc"), deletions("z"), 1, 0)
	s.ask(l.For("gc"), deletions("a"), 0, 1)
	renewal := deletions("a")
	renewal[0].Action, renewal[0].Urgent = plan.Renew, batch.Expiring
	s.ask(l.For("renew"), renewal, 0, 0)
}

func TestForecastCountsNothing(t *testing.T) {
	s := newSite(t)
	c := s.leader().For("gc")
	for range 3 {
		h, err := c.Forecast(t.Context(), deletions("a", "b", "c"))
		if err != nil || len(h) != 3 || !h[0].Until.Equal(start) || !h[2].Until.Equal(start.Add(time.Minute)) {
			t.Fatalf("%v %+v", err, h)
		}
	}
	if s.sent != 0 {
		t.Error("updates were spent")
	}
}

func TestWhatCannotBeKeptIsNotSpent(t *testing.T) {
	s := newSite(t)
	refused := true
	s.client.PrependReactor("patch", "configmaps", func(clienttesting.Action) (bool, runtime.Object, error) {
		return refused, nil, errors.New("no")
	})
	l := s.leader()
	items := deletions("a", "b")
	items[1].Urgent = batch.Revoked
	going, _, err := l.For("gc").Ask(context.Background(), items)
	if err == nil || len(going) != 1 || going[0].Object.Name != "b" {
		t.Fatalf("%v %+v", err, going)
	}
	refused = false
	s.ask(l.For("gc"), deletions("a"), 1, 0)
}

func TestWithoutALedgerEverythingGoes(t *testing.T) {
	going, held, err := (*Ledger)(nil).For("gc").Ask(context.Background(), deletions("a", "b"))
	if err != nil || len(going) != 2 || len(held) != 0 {
		t.Errorf("%v %v %v", going, held, err)
	}
}

// TestWaitingIsReadByOthers: what a leader keeps tells others what it holds.
func TestWaitingIsReadByOthers(t *testing.T) {
	want := batch.Waiting{Object: inventory.SecretRef("a", "b"), Since: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)}
	packed, err := pack(batch.State{Waiting: []batch.Waiting{want}})
	if err != nil {
		t.Fatal(err)
	}
	got, err := Waiting(&corev1.ConfigMap{BinaryData: map[string][]byte{keyState: packed}})
	if err != nil || len(got) != 1 || got[0].Object != want.Object || !got[0].Since.Equal(want.Since) {
		t.Errorf("%+v, %v", got, err)
	}
	if _, err := Waiting(&corev1.ConfigMap{BinaryData: map[string][]byte{keyState: []byte("x")}}); err == nil {
		t.Error("what is no State is understood")
	}
}
