package relay

import (
	"errors"
	"fmt"
	"syscall"
	"testing"

	"github.com/certherd/certherd/e2e/stack"
)

const services = 30

func own(i int) string { return fmt.Sprintf("own-%02d", i) }

// TestEvents counts what reaches a real Envoy when services scale and
// certificates are renewed: with the relay, then without it.
func TestEvents(t *testing.T) {
	w := stackWithRelay(t)
	for i := range services {
		w.secret(t, own(i), host(own(i)))
		w.service(t, own(i), own(i))
	}
	for i := range services {
		until(t, own(i)+" to be served", func() error { _, err := w.answer(own(i)); return err })
	}
	const events = 10
	// Each event is waited for, so that none is merged with another.
	scaling := func(n int) {
		for i := range events {
			before := w.updates(t)
			w.scale(t, own(i), n)
			until(t, "the clusters to change", func() error {
				if w.updates(t).clusters == before.clusters {
					return errors.New("no update of clusters")
				}
				return nil
			})
		}
	}
	renewing := func() {
		for i := range events {
			serial := w.secret(t, own(i), host(own(i)))
			until(t, "the renewed certificate", func() error {
				got, err := w.answer(own(i))
				if err == nil && got != serial {
					err = fmt.Errorf("it is still %s, not %s", got, serial)
				}
				return err
			})
		}
	}

	before := w.settle(t)
	scaling(2)
	after := w.settle(t)
	t.Logf("relay, %d scaling events: %+v to %+v", events, before, after)
	if after.listeners != before.listeners || after.modified != before.modified {
		t.Errorf("scaling changed listeners: %+v, before %+v", after, before)
	}
	before = after
	renewing()
	after = w.settle(t)
	t.Logf("relay, %d renewals: %+v to %+v", events, before, after)
	if after.listeners != before.listeners || after.modified != before.modified {
		t.Errorf("renewals changed listeners: %+v, before %+v", after, before)
	}

	// The control: the same Envoy, the same services, without the relay.
	if err := w.stack.PointEnvoy(stack.ControllerXDS); err != nil {
		t.Fatal(err)
	}
	w.restart(t, "envoy", syscall.SIGTERM)
	for i := range services {
		until(t, own(i)+" to be served", func() error { _, err := w.answer(own(i)); return err })
	}
	before = w.settle(t)
	scaling(1)
	after = w.settle(t)
	t.Logf("stock, %d scaling events: %+v to %+v", events, before, after)
	if after.modified-before.modified < events {
		t.Errorf("without the relay, %d scaling events changed listeners %d times only: the test would not see a fault", events, after.modified-before.modified)
	}
}
