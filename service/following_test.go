package service

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/certherd/certherd/controller"
	"github.com/certherd/certherd/inventory"
	"github.com/certherd/certherd/report"
	"github.com/certherd/certherd/web"
)

const (
	leftSecret = `{"metadata":{"namespace":"team-a","name":"web-tls","uid":"u1","creationTimestamp":"2026-01-01T00:00:00Z","labels":{"controller.cert-manager.io/fao":"true"},
		"annotations":{"cert-manager.io/certificate-name":"web-tls","cert-manager.io/alt-names":"web.example.com"}},"type":"kubernetes.io/tls"}`
	usingIngress = `{"metadata":{"namespace":"team-a","name":"web","uid":"u2","creationTimestamp":"2026-01-01T00:00:00Z"},
		"spec":{"tls":[{"hosts":["web.example.com"],"secretName":"web-tls"}]}}`
)

// looked is a Snapshot of a Secret that an Ingress uses, and nobody renews.
func looked(t *testing.T) *inventory.Snapshot {
	t.Helper()
	c := inventory.NewCollector()
	if _, err := c.Add("", "Secret", []byte(leftSecret)); err != nil {
		t.Fatal(err)
	}
	c.Freeze()
	if _, err := c.Add(inventory.GroupNetworking, "Ingress", []byte(usingIngress)); err != nil {
		t.Fatal(err)
	}
	if err := c.Scan(inventory.GroupNetworking, "Ingress", []byte(usingIngress)); err != nil {
		t.Fatal(err)
	}
	return c.Snapshot(time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC))
}

// TestChangesAreFollowed: what comes and goes between two looks is shown, never as
// unused; a source that ends is said.
func TestChangesAreFollowed(t *testing.T) {
	s := idle(t)
	events := make(chan inventory.Change)
	broken := make(chan error)
	s.o.Follow = func(ctx context.Context, _ *inventory.Snapshot, changed func(inventory.Change)) error {
		for {
			select {
			case <-ctx.Done():
				return nil
			case err := <-broken:
				return err
			case x := <-events:
				changed(x)
			}
		}
	}
	h := s.handler()
	since := func() (x web.Since) {
		t.Helper()
		r := get(t, h, http.MethodGet, "/since.json", "127.0.0.1:1", "")
		if err := json.Unmarshal(r.Body.Bytes(), &x); err != nil || r.Code != http.StatusOK {
			t.Fatalf("%d %s: %v", r.Code, r.Body, err)
		}
		return x
	}
	if r := get(t, h, http.MethodGet, "/since.json", "127.0.0.1:1", ""); r.Code != http.StatusServiceUnavailable {
		t.Errorf("before the first look: %d", r.Code)
	}
	k := &keeper{Service: s}
	k.follow(t.Context(), looked(t), controller.Defaults())
	defer k.unfollow()
	if x := since(); !x.Follows || len(x.Came)+len(x.Went) > 0 || x.Came == nil {
		t.Errorf("at first: %+v", x)
	}
	is := func(what string, came, went []string) web.Since {
		t.Helper()
		names := func(list []report.Finding) (out []string) {
			for _, f := range list {
				out = append(out, f.Reason+" "+f.Object.Name)
			}
			return out
		}
		for end := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
			x := since()
			if slices.Equal(names(x.Came), came) && slices.Equal(names(x.Went), went) {
				return x
			}
			if time.Now().After(end) {
				t.Fatalf("%s: %+v", what, x)
			}
		}
	}
	ingress := inventory.Ref{Group: inventory.GroupNetworking, Kind: "Ingress", Namespace: "team-a", Name: "web"}
	events <- inventory.Change{Ref: ingress}
	x := is("the Ingress is gone", []string{"OrphanedSecret web-tls"}, []string{"UnrenewedSecret web-tls"})
	if f := x.Came[0]; f.Verdict != string(inventory.Unknown) || x.Objects != 1 || x.At.IsZero() {
		t.Errorf("it is %+v", x)
	}
	events <- inventory.Change{Ref: ingress, Doc: []byte(usingIngress)}
	is("it is back", nil, nil)
	events <- inventory.Change{Ref: inventory.SecretRef("team-a", "web-tls")}
	is("the Secret is gone", []string{"MissingSecret web-tls"}, []string{"UnrenewedSecret web-tls"})
	events <- inventory.Change{Ref: inventory.SecretRef("team-a", "web-tls"), Doc: []byte(leftSecret)}
	events <- inventory.Change{Ref: ingress, Doc: []byte(`{"metadata":{}}`)} // not understood: as it was
	is("all as before", nil, nil)
	broken <- errors.New("too old")
	for end := time.Now().Add(10 * time.Second); since().Follows; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it still follows")
		}
	}
	if x := since(); x.Why != "too old" {
		t.Errorf("why: %q", x.Why)
	}
	k.unfollow()
	if x := since(); x.Why != "too old" {
		t.Errorf("why, after its end: %q", x.Why)
	}

	// More than it keeps.
	k.follow(t.Context(), looked(t), controller.Defaults())
	big := make([]byte, keptChanges+1)
	events <- inventory.Change{Ref: ingress, Doc: big}
	for end := time.Now().Add(10 * time.Second); since().Follows; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it keeps everything")
		}
	}
}
