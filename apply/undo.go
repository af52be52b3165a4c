package apply

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"
	"k8s.io/utils/clock"

	"github.com/certherd/certherd/inventory"
	"github.com/certherd/certherd/plan"
)

// An Undoer takes back what an Applier has done, with the help of its journal.
type Undoer struct {
	// OptOut annotates what is brought back with certherd.dev/ignore: "true",
	// so that the next round, which finds it as unused as the last one did, leaves
	// it alone.
	OptOut bool
	// Clock is the real one when nil.
	Clock clock.PassiveClock

	cluster *cluster
	journal *Journal
	mapper  meta.RESTMapper
}

// NewUndoer returns an Undoer that acts as cfg's user. namespace is that of the
// journal.
func NewUndoer(cfg *rest.Config, namespace string) (*Undoer, error) {
	c, err := connect(cfg)
	if err != nil {
		return nil, err
	}
	j, err := OpenJournal(cfg, namespace)
	if err != nil {
		return nil, err
	}
	d, err := discovery.NewDiscoveryClientForConfig(cfg)
	if err != nil {
		return nil, err
	}
	return &Undoer{OptOut: true, Clock: clock.RealClock{}, cluster: c, journal: j, mapper: restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(d))}, nil
}

// Undone is one thing that was taken back.
type Undone struct {
	Object inventory.Ref
	What   string // in words, for a person
}

// errNothing says that there is nothing to take back.
type errNothing struct{ why string }

func (e errNothing) Error() string { return "there is nothing to undo: " + e.why }

// Object takes back what was done to one object: the mark of a retired Secret
// goes; a removed Certificate or Knative Certificate is made again, and the mark of its
// Secret goes, too. What was done before an error is returned with it.
func (u *Undoer) Object(ctx context.Context, ref inventory.Ref) ([]Undone, error) {
	if err := u.journal.load(ctx); err != nil && kindOf(ref) != secretKind {
		return nil, err // to unmark a Secret, the journal is not needed
	}
	done, err := u.object(ctx, ref)
	return done, u.note(ctx, done, err)
}

// Round takes back what a round did, last things first. What cannot be taken
// back does not keep the rest from it.
func (u *Undoer) Round(ctx context.Context, id string) ([]Undone, error) {
	if err := u.journal.load(ctx); err != nil {
		return nil, err
	}
	var refs []inventory.Ref
	var errs []error
	nothing := 0
	for _, e := range slices.Backward(u.journal.all()) {
		ref := e.Object.Ref()
		if e.Round != id || e.State == Left || slices.Contains(refs, ref) {
			continue
		}
		switch {
		case e.Action == plan.Delete && !restorable(ref):
			errs = append(errs, fmt.Errorf("%s was deleted for good", ref))
		case e.Action == plan.Unretire, e.Action == Undo, e.Action == Said:
			nothing++ // it took something back itself
		default:
			refs = append(refs, ref)
		}
	}
	if len(refs)+len(errs)+nothing == 0 {
		return nil, errNothing{fmt.Sprintf("the journal in namespace %s has nothing of a round %q; `certherd history` lists what it has", u.journal.namespace, id)}
	}
	// A Certificate takes the mark of its Secret with it, and then needs no opt-out
	// of the Secret.
	slices.SortStableFunc(refs, func(a, b inventory.Ref) int {
		switch {
		case restorable(a) == restorable(b):
			return 0
		case restorable(a):
			return -1
		}
		return 1
	})
	var done []Undone
	for _, ref := range refs {
		more, err := u.object(ctx, ref)
		done = append(done, more...)
		if errors.As(err, new(errNothing)) {
			continue // taken back before, or with its Certificate
		}
		if err != nil {
			errs = append(errs, err)
		}
	}
	if len(done) == 0 && len(errs) == 0 {
		errs = append(errs, errNothing{fmt.Sprintf("round %s took away nothing, or all of it was taken back before", id)})
	}
	return done, u.note(ctx, done, errors.Join(errs...))
}

// note tells the journal what was undone.
func (u *Undoer) note(ctx context.Context, done []Undone, err error) error {
	if len(done) == 0 {
		return err
	}
	now := u.Clock.Now().UTC().Truncate(time.Second)
	id := roundID(now)
	var entries []*Entry
	for i, d := range done {
		entries = append(entries, &Entry{ID: fmt.Sprintf("%s/%d", id, i+1), Round: id, Time: now, Action: Undo, Object: Object(d.Object), Message: d.What, State: Carried, Ended: &now})
	}
	if _, jerr := u.journal.add(ctx, entries); jerr != nil {
		err = errors.Join(err, fmt.Errorf("it was undone, but the journal does not say so: %w", jerr))
	}
	return err
}

func (u *Undoer) object(ctx context.Context, ref inventory.Ref) ([]Undone, error) {
	switch {
	case kindOf(ref) == secretKind:
		d, err := u.unmark(ctx, ref, u.OptOut)
		if apierrors.IsNotFound(err) {
			return nil, fmt.Errorf("%s does not exist: a Secret that was deleted, and its key with it, cannot be brought back", ref)
		}
		if err == nil && d == nil {
			return nil, errNothing{ref.String() + " is not marked for deletion"}
		}
		return d, err
	case restorable(ref):
		return u.restore(ctx, ref)
	}
	return nil, errNothing{fmt.Sprintf("certherd brings back Certificates, Knative Certificates, and Secrets that it has marked, and %s is none of them", ref)}
}

// unmark takes the mark of a Secret away; nil when there is none.
func (u *Undoer) unmark(ctx context.Context, ref inventory.Ref, optOut bool) ([]Undone, error) {
	for try := 0; ; try++ {
		o, err := u.cluster.get(ctx, ref)
		if err != nil {
			return nil, err
		}
		if !plan.Marked(metaOf(o.meta)) {
			return nil, nil
		}
		annotations := map[string]any{}
		for k, v := range noMark {
			annotations[k] = v
		}
		what := "no longer marked for deletion"
		if optOut {
			annotations[inventory.IgnoreAnnotation] = "true"
			what += ", and opted out by " + inventory.IgnoreAnnotation
		}
		switch err := u.cluster.annotate(ctx, o, annotations); {
		case err == nil:
			return []Undone{{ref, what}}, nil
		case !apierrors.IsConflict(err) || try == 5:
			return nil, err
		}
	}
}

// restore makes a removed object again.
func (u *Undoer) restore(ctx context.Context, ref inventory.Ref) ([]Undone, error) {
	var removal *Entry
	for _, e := range u.journal.all() {
		// Whether an intent was carried out is seen by the object's absence.
		if e.Object.Ref() == ref && e.Action == plan.Delete && len(e.Manifest) > 0 {
			removal = e
		}
	}
	if removal == nil {
		return nil, errNothing{fmt.Sprintf("the journal in namespace %s knows of no removal of %s; `certherd history` lists what it knows", u.journal.namespace, ref)}
	}
	switch o, err := u.cluster.get(ctx, ref); {
	case err == nil && o.deleting:
		return nil, fmt.Errorf("%s is still being deleted: try again when it is gone", ref)
	case err == nil:
		return nil, errNothing{ref.String() + " exists"}
	case !apierrors.IsNotFound(err):
		return nil, err
	}
	var object unstructured.Unstructured
	if err := json.Unmarshal(removal.Manifest, &object.Object); err != nil {
		return nil, fmt.Errorf("the manifest of %s in the journal cannot be read: %w", ref, err)
	}
	name, _, err := unstructured.NestedString(object.Object, "spec", "secretName")
	if err != nil || name == "" {
		return nil, fmt.Errorf("the manifest of %s in the journal names no Secret", ref)
	}
	secret := inventory.SecretRef(ref.Namespace, name)
	owners, err := u.living(ctx, ref.Namespace, object.GetOwnerReferences())
	if err != nil {
		return nil, err
	}
	object.SetOwnerReferences(owners)
	if u.OptOut {
		annotations := object.GetAnnotations()
		if annotations == nil {
			annotations = map[string]string{}
		}
		annotations[inventory.IgnoreAnnotation] = "true"
		object.SetAnnotations(annotations)
	}

	done, err := u.unmark(ctx, secret, false)
	if apierrors.IsNotFound(err) {
		return nil, fmt.Errorf("%s is gone already, so that %s would order a new certificate: if that is wanted, apply its manifest from `certherd history -o json`", secret, ref)
	}
	if err != nil {
		return nil, err
	}
	_, err = u.cluster.objects.Resource(kinds[kindOf(ref)]).Namespace(ref.Namespace).Create(ctx, &object, metav1.CreateOptions{FieldManager: fieldManager})
	if err != nil {
		return done, fmt.Errorf("cannot make %s again: %w", ref, err)
	}
	what := "made again, to use the certificate that is in " + secret.String()
	if u.OptOut {
		what += ", and opted out by " + inventory.IgnoreAnnotation
	}
	return append(done, Undone{ref, what}), nil
}

// living are the owners that still exist, as the same objects: with another
// one, the garbage collector would remove what was just made.
func (u *Undoer) living(ctx context.Context, namespace string, owners []metav1.OwnerReference) ([]metav1.OwnerReference, error) {
	var out []metav1.OwnerReference
	for _, o := range owners {
		gv, err := schema.ParseGroupVersion(o.APIVersion)
		if err != nil {
			continue
		}
		mapping, err := u.mapper.RESTMapping(gv.WithKind(o.Kind).GroupKind(), gv.Version)
		if meta.IsNoMatchError(err) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("cannot find out whether its owner %s %s exists: %w", o.Kind, o.Name, err)
		}
		in := ""
		if mapping.Scope.Name() == meta.RESTScopeNameNamespace {
			in = namespace
		}
		m, err := u.cluster.metadata.Resource(mapping.Resource).Namespace(in).Get(ctx, o.Name, metav1.GetOptions{})
		switch {
		case apierrors.IsNotFound(err):
		case err != nil:
			return nil, fmt.Errorf("cannot find out whether its owner %s %s exists: %w", o.Kind, o.Name, err)
		case m.UID == o.UID && m.DeletionTimestamp == nil:
			out = append(out, o)
		}
	}
	return out, nil
}
