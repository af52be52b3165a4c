package service

import (
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/certherd/certherd/api/v1alpha1"
	"github.com/certherd/certherd/config"
	"github.com/certherd/certherd/gate"
)

// TestDrainsAreLookedAtAgain: before the switch, how gateways drain has to be known
// from a look that is newer than the wildcard, and accepted.
func TestDrainsAreLookedAtAgain(t *testing.T) {
	k := &keeper{Service: idle(t)}
	c := &configuration{Config: config.Default()}
	c.Consolidate.Mode = gate.Propose
	x := &carrying{ask: make(chan struct{}, 1)}
	since := metav1.NewTime(time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC))
	y := &v1alpha1.Consolidation{}
	y.Spec.Source.Kind = v1alpha1.SourceKCertificate
	y.Status.Phase, y.Status.Execution = v1alpha1.Verifying, &v1alpha1.Execution{Started: since, PhaseSince: &since}
	expect := func(what, why string) {
		t.Helper()
		if got := k.holdsConsolidation(c, x, y); why == "" && got != "" || !strings.Contains(got, why) {
			t.Errorf("%s: %q, want %q", what, got, why)
		}
	}
	expect("never looked at", "being looked at again")
	select {
	case <-x.asked():
	default:
		t.Error("no look is asked for")
	}
	x.sees(since.Add(-time.Second), nil)
	expect("looked at before", "being looked at again")
	x.sees(since.Add(time.Second), []string{"a gateway drains for 15 s"})
	expect("too short", "a gateway drains for 15 s")
	y.Spec.Source.Kind = v1alpha1.SourceCertificate
	expect("no chain of Kourier's", "")
	y.Spec.Source.Kind, y.Status.Phase = v1alpha1.SourceKCertificate, v1alpha1.Soaking
	expect("has switched", "")
	y.Status.Phase = v1alpha1.Verifying
	x.sees(since.Add(2*time.Second), nil)
	expect("long enough", "")
	var none *carrying
	none.sees(since.Time, nil) // a follower
}
