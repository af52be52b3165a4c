package carry_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/certherd/certherd/api/v1alpha1"
	"github.com/certherd/certherd/carry"
	"github.com/certherd/certherd/inventory"
)

var start = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

const wildcard = "wildcard-team"

func consolidation(kind v1alpha1.SourceKind, phase v1alpha1.Phase) *v1alpha1.Consolidation {
	c := &v1alpha1.Consolidation{ObjectMeta: metav1.ObjectMeta{Namespace: "team", Name: wildcard, UID: "c"}}
	c.Spec.Wildcards, c.Spec.SecretName, c.Spec.Hosts = []string{"*.team.example.com"}, wildcard, []string{"a.team.example.com"}
	c.Spec.Source = v1alpha1.Source{Kind: kind, Name: wildcard, WildcardDomain: "example.com"}
	c.Status.Phase = phase
	if phase != v1alpha1.Approved {
		at := metav1.NewTime(start)
		c.Status.Execution = &v1alpha1.Execution{Started: at, PhaseSince: &at}
	}
	return c
}

func route(name string) inventory.Ref {
	return inventory.Ref{Group: "serving.knative.dev", Kind: "Route", Namespace: "team", Name: name}
}

// sound is a world in which one service is served, and the wildcard is verified.
func sound(on bool) carry.Observation {
	e := carry.Entry{Hosts: []string{"a.team.example.com"}, Secret: "route-a", Own: "route-a", OwnReady: true}
	if on {
		e.Secret, e.Wildcard = wildcard, true
	}
	return carry.Observation{
		Source: carry.Source{Exists: true, Ours: true, UID: "s", Ready: true, Labelled: on, LabelOurs: on},
		Consumers: []carry.Consumer{{
			Ref: inventory.Ref{Group: inventory.GroupKnativeNet, Kind: "Ingress", Namespace: "team", Name: "a"}, UID: "a",
			Created: start.Add(-time.Hour), Ready: true, Touch: route("a"), Entries: []carry.Entry{e},
		}},
		Probes: []carry.Probe{{Host: "a.team.example.com", OK: true, Wildcard: on}},
	}
}

func TestNext(t *testing.T) {
	const (
		approved, issuing, verifying, switching = v1alpha1.Approved, v1alpha1.Issuing, v1alpha1.Verifying, v1alpha1.Switching
		soaking, sweeping, done                 = v1alpha1.Soaking, v1alpha1.Sweeping, v1alpha1.Done
		back, rolledBack                        = v1alpha1.RollingBack, v1alpha1.RolledBack
	)
	unready := func(d time.Duration) func(*carry.Observation) {
		return func(o *carry.Observation) {
			o.Consumers[0].Ready, o.Consumers[0].Unready, o.Consumers[0].Why = false, start.Add(-d), "no reason"
		}
	}
	for _, tc := range []struct {
		name  string
		phase v1alpha1.Phase
		on    bool // the wildcard is in use
		then  func(*carry.Observation)
		also  func(*v1alpha1.Consolidation)
		after time.Duration // since the phase began
		want  v1alpha1.Phase
		says  string
		does  string
	}{
		{name: "begins", phase: approved, then: func(o *carry.Observation) { o.Source = carry.Source{} }, want: issuing},
		{name: "held", phase: approved, then: func(o *carry.Observation) { o.Hold = "the window is closed" }, want: approved, says: "the window is closed"},
		{name: "a rival at first", phase: approved, then: func(o *carry.Observation) { o.Rivals = []inventory.Ref{route("x")} }, want: approved, says: "choose at random"},
		{name: "a kind that Routes do not choose for", phase: approved, also: func(c *v1alpha1.Consolidation) {
			c.Spec.Members = []v1alpha1.Member{{Name: "m", Consumers: []v1alpha1.Consumer{{Kind: v1alpha1.ConsumerGateway, Name: "edge"}}}}
		}, want: approved, says: "does not switch"},
		{name: "opted out", phase: approved, then: func(o *carry.Observation) { o.Consumers[0].Ignored = true }, want: approved, says: "opted out"},
		{name: "opted out meanwhile", phase: verifying, then: func(o *carry.Observation) { o.Consumers[0].Ignored = true }, want: verifying, says: "opted out"},
		{name: "issues", phase: issuing, then: func(o *carry.Observation) { o.Source = carry.Source{} }, want: issuing, does: "create"},
		{name: "somebody deletes it while it is issued", phase: issuing, then: func(o *carry.Observation) { o.Source = carry.Source{} },
			also: func(c *v1alpha1.Consolidation) { c.Status.Execution.SourceUID = "s" }, want: back, says: "was deleted"},
		{name: "somebody else's has its name", phase: issuing, then: func(o *carry.Observation) { o.Source.Foreign = "made by somebody else" }, want: back, says: "somebody else"},
		{name: "awaits", phase: issuing, then: func(o *carry.Observation) { o.Source.Ready, o.Source.Waits = false, "an Order" }, after: 9 * time.Minute, want: issuing, says: "an Order"},
		{name: "issues for ever", phase: issuing, then: func(o *carry.Observation) { o.Source.Ready, o.Source.Waits = false, "an Order" }, after: 11 * time.Minute, want: back, says: "an Order"},
		{name: "issued", phase: issuing, want: verifying},
		{name: "the wrong thing", phase: verifying, then: func(o *carry.Observation) { o.Source.Problem = "it lacks a name" }, want: back, says: "lacks a name"},
		{name: "not found out", phase: verifying, then: func(o *carry.Observation) { o.Source.Unverified = "no request" }, want: verifying, says: "no request"},
		{name: "never found out", phase: verifying, then: func(o *carry.Observation) { o.Source.Unverified = "no request" }, after: time.Hour, want: back, says: "no request"},
		{name: "another one's turn", phase: verifying, then: func(o *carry.Observation) { o.Hold = "one at a time" }, after: time.Hour, want: verifying, says: "one at a time"},
		{name: "in a bad state before", phase: verifying, then: unready(time.Hour), want: verifying, says: "before anything has moved"},
		{name: "not served before", phase: verifying, then: func(o *carry.Observation) { o.Probes[0] = carry.Probe{Host: "a", Why: "refused"} }, want: verifying, says: "refused"},
		{name: "no gateway", phase: verifying, then: func(o *carry.Observation) { o.UnprobedReason = "unknown" }, want: verifying, says: "no handshakes"},
		{name: "verified", phase: verifying, want: switching},
		{name: "labels", phase: switching, want: switching, does: "label"},
		{name: "touches", phase: switching, then: func(o *carry.Observation) { o.Source.Labelled, o.Source.LabelOurs = true, true }, want: switching, does: "touch"},
		{name: "does not touch twice", phase: switching, then: func(o *carry.Observation) {
			o.Source.Labelled, o.Consumers[0].Touched = true, start
		}, want: switching, says: "does not name the wildcard"},
		{name: "the wildcard breaks", phase: switching, on: true, then: func(o *carry.Observation) { o.Source.Ready, o.Source.Waits = false, "renewal failed" }, want: back, says: "renewal failed"},
		{name: "does not settle", phase: switching, on: true, then: func(o *carry.Observation) { o.Probes[0].Wildcard = false }, after: 11 * time.Minute, want: back, says: "not all had switched"},
		{name: "unready for a moment", phase: switching, on: true, then: unready(10 * time.Second), want: switching, says: "no reason"},
		{name: "unready", phase: switching, on: true, then: unready(2 * time.Minute), want: back, says: "has not been Ready"},
		{name: "switched", phase: switching, on: true, want: soaking},
		{name: "a handshake fails", phase: soaking, on: true, then: func(o *carry.Observation) {
			o.Probes[0] = carry.Probe{Host: "a.team.example.com", Bad: start.Add(-2 * time.Minute), Why: "reset"}
		}, want: back, says: "reset"},
		{name: "rejected", phase: soaking, on: true, then: func(o *carry.Observation) {
			o.Rejecting, o.RejectingWhat = start.Add(-2*time.Minute), "overlapping"
		}, want: back, says: "overlapping"},
		{name: "a rival comes up", phase: soaking, on: true, then: func(o *carry.Observation) { o.Rivals = []inventory.Ref{route("x")} }, want: back},
		{name: "the label is taken off", phase: soaking, on: true, then: func(o *carry.Observation) { o.Source.Labelled = false }, want: back, says: "took the label off"},
		{name: "soaks", phase: soaking, on: true, after: 59 * time.Minute, want: soaking, says: "stay until"},
		{name: "soaked", phase: soaking, on: true, after: 61 * time.Minute, want: sweeping},
		{name: "sweeps", phase: sweeping, on: true, then: func(o *carry.Observation) { o.Old = []carry.Old{{Object: route("old")}} }, want: sweeping, does: "sweep"},
		{name: "swept", phase: sweeping, on: true, then: func(o *carry.Observation) { o.Old = []carry.Old{{Object: route("old"), Swept: true}} }, want: done},
		{name: "undo", phase: sweeping, on: true, also: func(c *v1alpha1.Consolidation) { c.Spec.Undo = true }, want: back},
		{name: "undo of what is done", phase: done, on: true, also: func(c *v1alpha1.Consolidation) { c.Spec.Undo = true }, want: back},
		{name: "back: restores", phase: back, on: true, then: func(o *carry.Observation) {
			o.Consumers[0].Entries[0].OwnReady, o.Consumers[0].Entries[0].OwnMissing = false, true
		}, want: back, does: "restore"},
		{name: "back: awaits what was restored", phase: back, on: true, then: func(o *carry.Observation) { o.Consumers[0].Entries[0].OwnReady = false }, after: time.Hour, want: back, says: "of its own"},
		{name: "back: a broken wildcard is worse than none", phase: back, on: true, then: func(o *carry.Observation) {
			o.Consumers[0].Entries[0].OwnReady, o.Source.Ready = false, false
		}, want: back, does: "unlabel"},
		{name: "back: unlabels", phase: back, on: true, want: back, does: "unlabel"},
		{name: "back: touches", phase: back, on: true, then: func(o *carry.Observation) { o.Source.Labelled, o.Source.LabelOurs = false, false }, want: back, does: "touch"},
		{name: "back: what serves nothing is touched", phase: back, then: func(o *carry.Observation) { o.Consumers[0].Entries[0].Secret = "" }, want: back, does: "touch"},
		{name: "back: the gateway is late", phase: back, then: func(o *carry.Observation) { o.Probes[0].Wildcard = true }, want: back, says: "served with the wildcard"},
		{name: "back: stuck in Kourier", phase: back, then: unready(time.Minute), after: time.Minute, want: back, does: "touch"},
		{name: "back: somebody uses it", phase: back, then: func(o *carry.Observation) { o.Source.Users = []inventory.Ref{route("x")} }, want: back, says: "uses it"},
		{name: "back: removes", phase: back, want: back, does: "remove"},
		{name: "back: theirs stays", phase: back, then: func(o *carry.Observation) { o.Source.Ours = false }, want: rolledBack},
		{name: "back: Knative's own wildcard", phase: back, on: true, then: func(o *carry.Observation) { o.Source.Ours, o.Source.LabelOurs = false, false }, want: rolledBack, says: "not ours"},
		{name: "back", phase: back, then: func(o *carry.Observation) { o.Source = carry.Source{} }, want: rolledBack},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c, o := consolidation(v1alpha1.SourceKCertificate, tc.phase), sound(tc.on)
			if tc.then != nil {
				tc.then(&o)
			}
			if tc.also != nil {
				tc.also(c)
			}
			opt := carry.Defaults()
			if x := c.Status.Execution; x != nil {
				at := metav1.NewTime(start.Add(-tc.after))
				x.PhaseSince = &at
			}
			d := carry.Next(c, o, opt, start)
			does := ""
			for _, w := range d.Writes {
				does += string(w.Verb)
			}
			if len(d.Sweep) > 0 {
				does += "sweep"
			}
			if d.Phase != tc.want || does != tc.does || !strings.Contains(d.Message, tc.says) {
				t.Errorf("%s, %q, does %q; want %s, %q, %q", d.Phase, d.Message, does, tc.want, tc.says, tc.does)
			}
			if (d.Phase == back) != (d.Failure != "") && tc.phase != back {
				t.Errorf("failure %q in phase %s", d.Failure, d.Phase)
			}
			if d.Phase != tc.phase && len(d.Writes) > 0 {
				t.Error("it writes before the phase is stored")
			}
		})
	}
}

// An Ingress names its Secret itself.
func TestNextOfIngresses(t *testing.T) {
	world := func(on bool) carry.Observation {
		o := sound(on)
		o.Consumers[0].Touch, o.Source.Labelled, o.Source.LabelOurs = inventory.Ref{}, false, false
		return o
	}
	for _, tc := range []struct {
		name   string
		phase  v1alpha1.Phase
		on     bool
		manual string
		then   func(*carry.Observation)
		want   v1alpha1.Phase
		does   string
	}{
		{"points", v1alpha1.Switching, false, "", nil, v1alpha1.Switching, "point"},
		{"somebody else points", v1alpha1.Switching, false, "Argo CD", nil, v1alpha1.Switching, ""},
		{"somebody else has pointed", v1alpha1.Switching, true, "Argo CD", nil, v1alpha1.Soaking, ""},
		{"managed", v1alpha1.Verifying, false, "", func(o *carry.Observation) { o.Consumers[0].ManagedBy = "Argo CD" }, v1alpha1.Verifying, ""},
		{"managed, and somebody knows", v1alpha1.Verifying, false, "Argo CD", func(o *carry.Observation) { o.Consumers[0].ManagedBy = "Argo CD" }, v1alpha1.Switching, ""},
		{"opted out", v1alpha1.Verifying, false, "", func(o *carry.Observation) { o.Consumers[0].Ignored = true }, v1alpha1.Verifying, ""},
		{"opted out, and somebody knows", v1alpha1.Verifying, false, "opted out", func(o *carry.Observation) { o.Consumers[0].Ignored = true }, v1alpha1.Switching, ""},
		{"a Gateway's references are not resolved", v1alpha1.Soaking, true, "", func(o *carry.Observation) {
			o.Consumers[0].Ready, o.Consumers[0].Unready = false, start.Add(-2*time.Minute)
		}, v1alpha1.RollingBack, ""},
		{"restores what was swept", v1alpha1.RollingBack, true, "", func(o *carry.Observation) {
			o.Consumers[0].Entries[0].OwnReady, o.Consumers[0].Entries[0].OwnMissing = false, true
		}, v1alpha1.RollingBack, "restore"},
		{"somebody else returns", v1alpha1.RollingBack, true, "Argo CD", func(o *carry.Observation) { o.Consumers[0].ManagedBy = "Argo CD" }, v1alpha1.RollingBack, ""},
		{"changed back", v1alpha1.Soaking, false, "", nil, v1alpha1.RollingBack, ""},
		{"returns", v1alpha1.RollingBack, true, "", nil, v1alpha1.RollingBack, "return"},
		{"nothing to return to", v1alpha1.RollingBack, true, "", func(o *carry.Observation) { o.Consumers[0].Entries[0].OwnReady = false }, v1alpha1.RollingBack, ""},
		{"removes", v1alpha1.RollingBack, false, "", nil, v1alpha1.RollingBack, "remove"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c, o := consolidation(v1alpha1.SourceCertificate, tc.phase), world(tc.on)
			c.Spec.Manual = tc.manual
			if tc.then != nil {
				tc.then(&o)
			}
			d := carry.Next(c, o, carry.Defaults(), start)
			does := ""
			for _, w := range d.Writes {
				does += string(w.Verb)
			}
			if d.Phase != tc.want || does != tc.does {
				t.Errorf("%s, %q, does %q; want %s, %q", d.Phase, d.Message, does, tc.want, tc.does)
			}
		})
	}
}

func ExampleNext() {
	d := carry.Next(consolidation(v1alpha1.SourceKCertificate, v1alpha1.Switching), sound(false), carry.Defaults(), start)
	fmt.Println(d.Phase, d.Writes[0].Verb, d.Message)
	// Output: Switching label Routes are being led to the wildcard
}
