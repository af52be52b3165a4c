package service

import (
	"context"
	"net/http"
	"testing"
	"time"

	"github.com/certherd/certherd/api/v1alpha1"
	"github.com/certherd/certherd/carry"
	"github.com/certherd/certherd/config"
	"github.com/certherd/certherd/e2e/envoy"
	"github.com/certherd/certherd/gateway"
)

// TestRejectionsOnTheWay: what a real Envoy rejects for a moment while a consolidation
// goes back stops nothing, and what it goes on rejecting does, as do answers with 5xx.
func TestRejectionsOnTheWay(t *testing.T) {
	e := envoy.Start(t)
	c := config.Default()
	c.Breaker.Pods, c.Breaker.Gateways = nil, []string{e.Page}
	c.Breaker.Settle, c.Consolidate.Patience = config.Duration(300*time.Millisecond), config.Duration(3*time.Second)
	k := &keeper{Service: idle(t)}
	reader, err := gateway.New(nil, c.GatewayOptions())
	if err != nil {
		t.Fatal(err)
	}
	b := &breaker{k: k, c: c, reader: reader}
	goesBack := func(phase v1alpha1.Phase) *carrying {
		x := &carrying{}
		y := &v1alpha1.Consolidation{}
		y.Status.Phase = phase
		x.moves(y, carry.Decision{Phase: phase})
		return x
	}
	reject := func() { e.Reject(t) }
	// A Reading that found no Envoy, as the cluster keeps it, has nothing to go by.
	k.carrying = goesBack(v1alpha1.RollingBack)
	reject()
	if _, worse, err := b.await(t.Context(), gateway.Reading{Time: time.Now()}); err != nil || len(worse) > 0 {
		t.Errorf("after a Reading without Envoys: %q (%v)", worse, err)
	}
	for _, tc := range []struct {
		name     string
		carrying *carrying
		happens  func()
		worse    bool
	}{
		{"nothing", nil, func() {}, false},
		{"rejects, and follows", nil, reject, true},
		{"rejects, and nothing moves", goesBack(v1alpha1.Soaking), reject, true},
		{"rejects once while one goes back", goesBack(v1alpha1.RollingBack), reject, false},
		{"rejects once after one went back", goesBack(v1alpha1.RolledBack), reject, false},
		{"rejects once while one is switched", goesBack(v1alpha1.Switching), reject, false},
		{"goes on rejecting", goesBack(v1alpha1.RollingBack), nil, true},
		{"answers with 5xx", goesBack(v1alpha1.RollingBack), func() {
			e.Accept(t)
			e.Reject(t)
			for range 30 {
				r, err := http.Get("http://" + e.Web + "/failing")
				if err != nil {
					t.Fatal(err)
				}
				r.Body.Close()
			}
		}, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			k.carrying = tc.carrying
			before := reader.Read(t.Context())
			if tc.happens != nil {
				tc.happens()
			} else {
				ctx, stop := context.WithCancel(t.Context())
				ended := make(chan struct{})
				go func() {
					defer close(ended)
					for ctx.Err() == nil {
						e.Reject(t)
					}
				}()
				defer func() { stop(); <-ended }()
			}
			_, worse, err := b.await(t.Context(), before)
			if err != nil || len(worse) > 0 != tc.worse {
				t.Errorf("worse: %q, want any: %t (%v)", worse, tc.worse, err)
			}
		})
	}
}
