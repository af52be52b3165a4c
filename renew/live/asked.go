package live

import (
	"context"
	"errors"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"

	"github.com/certherd/certherd/inventory"
	"github.com/certherd/certherd/renew"
)

// Listener has Certificates issued anew of which a person says so by renew.Annotation.
type Listener struct {
	renewer  *Renewer
	metadata metadata.Interface
	// Before is asked before each one; an error puts it off, for ten seconds at least.
	Before func(ctx context.Context, object inventory.Ref, w renew.Word) error
	// Tell is told what became of each one, once for each result.
	Tell func(object inventory.Ref, uid string, w renew.Word, result Result, why string)
}

// NewListener returns a Listener that acts as cfg's user. now is the clock of this
// machine.
func NewListener(cfg *rest.Config, now func() time.Time) (*Listener, error) {
	r, err := New(cfg, now)
	if err != nil {
		return nil, err
	}
	cfg = rest.CopyConfig(cfg)
	cfg.WarningHandler = rest.NoWarnings{}
	cfg.QPS, cfg.RateLimiter = -1, nil
	m, err := metadata.NewForConfig(cfg)
	return &Listener{
		renewer: r, metadata: m,
		Before: func(context.Context, inventory.Ref, renew.Word) error { return nil },
		Tell:   func(inventory.Ref, string, renew.Word, Result, string) {},
	}, err
}

// Run listens until ctx ends.
func (l *Listener) Run(ctx context.Context) {
	changed := make(chan struct{}, 1)
	wake := func(x any) {
		if m, ok := x.(*metav1.PartialObjectMetadata); ok && m.Annotations[renew.Annotation] == "" {
			return
		}
		select {
		case changed <- struct{}{}:
		default:
		}
	}
	resource := l.metadata.Resource(certificates)
	store, informer := cache.NewInformerWithOptions(cache.InformerOptions{
		ListerWatcher: &cache.ListWatch{
			ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
				return resource.List(ctx, o)
			},
			WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
				return resource.Watch(ctx, o)
			},
		},
		ObjectType: &metav1.PartialObjectMetadata{},
		Transform:  annotated,
		Handler:    cache.ResourceEventHandlerFuncs{AddFunc: wake, UpdateFunc: func(_, x any) { wake(x) }},
	})
	done := make(chan struct{})
	go func() { defer close(done); informer.RunWithContext(ctx) }()
	defer func() { <-done }()
	if !cache.WaitForCacheSync(ctx.Done(), informer.HasSynced) {
		return
	}
	heard := map[types.UID]hearing{}
	for ctx.Err() == nil {
		pause := 10 * time.Minute
		if l.pass(ctx, store.List(), heard) {
			pause = again
		}
		t := time.NewTimer(pause)
		select {
		case <-ctx.Done():
		case <-t.C:
		case <-changed:
		}
		t.Stop()
	}
}

// annotated leaves of a Certificate what tells it from others, and what was said of it.
func annotated(x any) (any, error) {
	m, ok := x.(*metav1.PartialObjectMetadata)
	if !ok {
		return x, nil
	}
	slim := &metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{Namespace: m.Namespace, Name: m.Name, UID: m.UID, ResourceVersion: m.ResourceVersion}}
	if text := m.Annotations[renew.Annotation]; text != "" {
		slim.Annotations = map[string]string{renew.Annotation: text}
	}
	return slim, nil
}

// hearing is what became of what was said of an object.
type hearing struct {
	text string
	over bool
	told string // what was told last, so that it is told once
}

// pass acts upon what was said, and reports whether something of it is left.
func (l *Listener) pass(ctx context.Context, objects []any, heard map[types.UID]hearing) (left bool) {
	seen := map[types.UID]bool{}
	for _, x := range objects {
		m := x.(*metav1.PartialObjectMetadata)
		text := m.Annotations[renew.Annotation]
		if text == "" {
			continue
		}
		seen[m.UID] = true
		h := heard[m.UID]
		if h.text != text {
			h = hearing{text: text}
		}
		if !h.over {
			ref := inventory.CertificateRef(m.Namespace, m.Name)
			w, err := renew.ParseWord(text)
			result, why := Dropped, ""
			if err != nil {
				h.over, why = true, err.Error()
			} else {
				h.over, result, why = l.act(ctx, ref, m.UID, w)
			}
			if said := string(result) + why; result != "" && said != h.told && ctx.Err() == nil {
				h.told = said
				l.Tell(ref, string(m.UID), w, result, why)
			}
		}
		heard[m.UID] = h
		left = left || !h.over
	}
	for uid := range heard {
		if !seen[uid] {
			delete(heard, uid)
		}
	}
	return left
}

// act has one Certificate issued anew if that is due. over is true when nothing is
// left to be done for the word; the result is empty when there is nothing to tell.
func (l *Listener) act(ctx context.Context, ref inventory.Ref, uid types.UID, w renew.Word) (over bool, result Result, why string) {
	r := l.renewer
	u, err := r.objects.Resource(certificates).Namespace(ref.Namespace).Get(ctx, ref.Name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err), err == nil && (u.GetUID() != uid || u.GetDeletionTimestamp() != nil):
		return true, "", ""
	case err != nil:
		result, why = judge(ctx, err)
		return false, result, why
	}
	asked, err := l.requests(ctx, u)
	if err != nil {
		result, why = judge(ctx, err)
		return false, result, why
	}
	now := time.Now().Add(-time.Duration(r.skew.Load()))
	if d := w.Since.Sub(now); d > 0 && d < 3*time.Second { // it was said a moment ago
		t := time.NewTimer(d)
		defer t.Stop()
		select {
		case <-ctx.Done():
			return false, "", ""
		case <-t.C:
			now = now.Add(d)
		}
	}
	err = w.Due(renew.Standing{
		Ignored: u.GetAnnotations()[inventory.IgnoreAnnotation] == "true", Issuing: hasCondition(u, "Issuing"), Requests: asked,
	}, now)
	switch {
	case errors.Is(err, renew.ErrKept):
		return true, "", ""
	case errors.Is(err, renew.ErrIgnored):
		return true, Dropped, err.Error() + " by the annotation " + inventory.IgnoreAnnotation
	case errors.Is(err, renew.ErrFuture):
		return false, Later, err.Error()
	case err != nil:
		return false, "", ""
	}
	if err := l.Before(ctx, ref, w); err != nil {
		return false, Later, err.Error()
	}
	message := "certherd has it issued anew because a person said so"
	if w.Why != "" {
		message += ": " + w.Why
	}
	patch, err := issuing(u, message, time.Now())
	if err != nil {
		return false, Failed, err.Error()
	}
	_, err = r.objects.Resource(certificates).Namespace(ref.Namespace).Patch(ctx, ref.Name, types.MergePatchType, patch, metav1.PatchOptions{FieldManager: fieldManager}, "status")
	if result, why = judge(ctx, err); result != Triggered {
		return false, result, why
	}
	if policy, _, _ := unstructured.NestedString(u.Object, "spec", "privateKey", "rotationPolicy"); policy == "Never" {
		why = "its key stays the same, because its spec.privateKey.rotationPolicy is Never"
	}
	return false, Triggered, why // over when there is a request for it
}

// requests are when a Certificate was asked for.
func (l *Listener) requests(ctx context.Context, u *unstructured.Unstructured) ([]time.Time, error) {
	list, err := l.metadata.Resource(requests).Namespace(u.GetNamespace()).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("its CertificateRequests cannot be listed: %w", err)
	}
	var out []time.Time
	for i := range list.Items {
		if by := metav1.GetControllerOf(&list.Items[i]); by != nil && by.UID == u.GetUID() {
			out = append(out, list.Items[i].CreationTimestamp.Time)
		}
	}
	return out, nil
}
