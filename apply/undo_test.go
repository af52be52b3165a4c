package apply_test

import (
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/certherd/certherd/apply"
	"github.com/certherd/certherd/inventory"
	"github.com/certherd/certherd/plan"
)

func (w *world) undoer() *apply.Undoer {
	w.t.Helper()
	u, err := apply.NewUndoer(w.c.cfg, w.journal)
	if err != nil {
		w.t.Fatal(err)
	}
	return u
}

func (w *world) undo(ref inventory.Ref) []apply.Undone {
	w.t.Helper()
	done, err := w.undoer().Object(w.ctx, ref)
	if err != nil {
		w.t.Fatal(err)
	}
	return done
}

// undoFails demands an error with these words.
func (w *world) undoFails(ref inventory.Ref, words string) {
	w.t.Helper()
	if done, err := w.undoer().Object(w.ctx, ref); err == nil || !strings.Contains(err.Error(), words) || len(done) > 0 {
		w.t.Errorf("undo %s: %v, %v; want an error with %q", ref, done, err, words)
	}
}

func TestUndoACertificate(t *testing.T) {
	w := newWorld(t)
	w.certificate("web-7f3")
	before := w.get(w.crtRef("web-7f3"))
	w.run()
	w.is("gone", w.crtRef("web-7f3"))
	w.is("marked", w.secretRef("web-7f3"))
	if done := w.undo(w.crtRef("web-7f3")); len(done) != 2 {
		t.Errorf("undone %+v", done)
	}
	w.is("unmarked", w.secretRef("web-7f3"))
	after := w.get(w.crtRef("web-7f3"))
	if after == nil {
		t.Fatal("it is not back")
	}
	if !reflect.DeepEqual(before.Object["spec"], after.Object["spec"]) || !reflect.DeepEqual(before.GetLabels(), after.GetLabels()) {
		t.Errorf("before %v\nafter %v", before, after)
	}
	if a := after.GetAnnotations(); a["note"] != "hello" || a[inventory.IgnoreAnnotation] != "true" {
		t.Errorf("annotations %v", a)
	}
	// The next round leaves it alone.
	if changes := w.plan().Changes(); len(changes) > 0 {
		t.Errorf("the next round would do %+v", changes)
	}
	w.undoFails(w.crtRef("web-7f3"), "nothing to undo")
	undone := 0
	for _, e := range w.entries() {
		if e.Action == apply.Undo {
			undone++
		}
	}
	if undone != 2 {
		t.Errorf("%d undone in the journal", undone)
	}
}

func TestUndoWithoutOptOutIsCollectedAgain(t *testing.T) {
	w := newWorld(t)
	w.certificate("web-7f3")
	w.run()
	u := w.undoer()
	u.OptOut = false
	if _, err := u.Object(w.ctx, w.crtRef("web-7f3")); err != nil {
		t.Fatal(err)
	}
	w.expect(w.run(), "delete Certificate/web-7f3: done", "retire Secret/web-7f3: done")
	w.undo(w.crtRef("web-7f3")) // of the newer of two removals
	w.is("there", w.crtRef("web-7f3"))
}

func TestUndoAKnativeCertificate(t *testing.T) {
	w := newWorld(t)
	w.superseded("svc-7f3")
	before := w.get(w.kcrtRef("svc-7f3"))
	w.run()
	w.is("gone", w.kcrtRef("svc-7f3"), w.crtRef("svc-7f3"))
	w.undo(w.kcrtRef("svc-7f3"))
	w.is("unmarked", w.secretRef("svc-7f3-tls"))
	after := w.get(w.kcrtRef("svc-7f3"))
	if after == nil {
		t.Fatal("it is not back")
	}
	if !reflect.DeepEqual(before.Object["spec"], after.Object["spec"]) || !reflect.DeepEqual(before.GetOwnerReferences(), after.GetOwnerReferences()) {
		t.Errorf("before %v\nafter %v", before, after)
	}
	if changes := w.plan().Changes(); len(changes) > 0 {
		t.Errorf("the next round would do %+v", changes)
	}
}

// With an owner that is gone, or another one of its name, the garbage collector
// would take away what was just made.
func TestUndoLeavesOutOwnersThatAreGone(t *testing.T) {
	for _, again := range []bool{false, true} {
		w := newWorld(t)
		w.superseded("svc-7f3")
		w.run()
		route := inventory.Ref{Group: inventory.GroupServing, Kind: "Route", Namespace: w.ns, Name: "svc-7f3"}
		if err := w.remove(route); err != nil {
			t.Fatal(err)
		}
		if again {
			w.create("{apiVersion: serving.knative.dev/v1, kind: Route, metadata: {name: svc-7f3}, spec: {}}")
		}
		w.undo(w.kcrtRef("svc-7f3"))
		if o := w.get(w.kcrtRef("svc-7f3")); o == nil || len(o.GetOwnerReferences()) > 0 {
			t.Errorf("%v", o)
		}
		time.Sleep(time.Second) // of the garbage collector
		w.is("there", w.kcrtRef("svc-7f3"))
	}
}

func TestUndoARetiredSecret(t *testing.T) {
	w := newWorld(t)
	w.secret("left-7f3", "gone", "left-7f3.example.com")
	w.run()
	w.is("marked", w.secretRef("left-7f3"))
	w.undo(w.secretRef("left-7f3"))
	if o := w.get(w.secretRef("left-7f3")); plan.Marked(meta(o)) || o.GetAnnotations()[inventory.IgnoreAnnotation] != "true" {
		t.Errorf("annotations %v", o.GetAnnotations())
	}
	if changes := w.plan().Changes(); len(changes) > 0 {
		t.Errorf("the next round would do %+v", changes)
	}
	w.undoFails(w.secretRef("left-7f3"), "not marked for deletion")
}

func TestUndoARound(t *testing.T) {
	w := newWorld(t)
	w.certificate("web-7f3")
	w.superseded("svc-7f3")
	w.secret("left-7f3", "gone", "left-7f3.example.com")
	w.due("dead-7f3")
	var id string
	for _, o := range w.run() {
		id = o.Round
	}
	done, err := w.undoer().Round(w.ctx, id)
	if err == nil || !strings.Contains(err.Error(), "Secret/"+w.ns+"/dead-7f3 was deleted for good") {
		t.Errorf("error %v", err)
	}
	if len(done) != 5 {
		t.Errorf("undone %+v", done)
	}
	w.is("there", w.crtRef("web-7f3"), w.kcrtRef("svc-7f3"))
	w.is("unmarked", w.secretRef("web-7f3"), w.secretRef("svc-7f3-tls"), w.secretRef("left-7f3"))
	if o := w.get(w.secretRef("web-7f3")); o.GetAnnotations()[inventory.IgnoreAnnotation] != "" {
		t.Error("the Secret of a Certificate that is back is opted out itself")
	}
	if changes := w.plan().Changes(); len(changes) > 0 {
		t.Errorf("the next round would do %+v", changes)
	}
	if done, err := w.undoer().Round(w.ctx, id); err == nil || len(done) > 0 {
		t.Errorf("a second time: %v, %v", done, err)
	}
	if _, err := w.undoer().Round(w.ctx, "20200101-000000-abcdef"); err == nil || !strings.Contains(err.Error(), "nothing of a round") {
		t.Errorf("an unknown round: %v", err)
	}
}

func TestUndoSaysWhatItCannotDo(t *testing.T) {
	w := newWorld(t)
	w.certificate("web-7f3")
	w.due("dead-7f3")
	w.run()
	w.undoFails(w.secretRef("dead-7f3"), "cannot be brought back")
	w.undoFails(w.crtRef("never"), "knows of no removal")
	w.undoFails(inventory.Ref{Group: inventory.GroupNetworking, Kind: "Ingress", Namespace: w.ns, Name: "i"}, "none of them")
	if err := w.remove(w.secretRef("web-7f3")); err != nil {
		t.Fatal(err)
	}
	w.undoFails(w.crtRef("web-7f3"), "would order a new certificate")
	w.is("gone", w.crtRef("web-7f3"))
}

// What was removed by a leader that was killed at once can be undone before
// another one has closed its intent.
func TestUndoWhatIsStillOpen(t *testing.T) {
	w := newWorld(t)
	w.certificate("web-7f3")
	if _, killed := w.lead("09 written", 1); !killed {
		t.Fatal("it was not killed")
	}
	w.is("gone", w.crtRef("web-7f3"))
	if list := w.entries(); len(list) != 1 || list[0].State != apply.Intended {
		t.Fatalf("journal %+v", list)
	}
	w.undo(w.crtRef("web-7f3"))
	w.is("there", w.crtRef("web-7f3"))
}
