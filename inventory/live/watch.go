package live

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"
	watchtools "k8s.io/client-go/tools/watch"
	"k8s.io/klog/v2"

	"github.com/certherd/certherd/inventory"
)

// Versions are how far the lists of a look reached that Watch can go on from.
type Versions map[followed]string

// followed is a list of the whole cluster.
type followed struct {
	resource
	selector string // of fields
}

// Watched are the kinds whose changes Watch tells: the objects that get a verdict, and
// those that make a gateway serve a Secret. A role that lets it needs the verb watch
// on them.
func Watched() []schema.GroupResource {
	var out []schema.GroupResource
	for _, k := range slices.Concat(inventory.JudgedKinds, inventory.RecordKinds) {
		if tells(k) {
			out = append(out, schema.GroupResource{Group: k.Group, Resource: k.Resource})
		}
	}
	return out
}

func tells(k inventory.KindName) bool {
	switch k.Kind {
	case "Secret", "Certificate", "Ingress", "DomainMapping", "Gateway", "ListenerSet":
		return true
	}
	return false
}

// reached notes from where a list can be followed.
func (l *look) reached(r resource, q query, version string) {
	if version == "" || !tells(inventory.KindName{Group: r.Group, Resource: r.Name, Kind: r.Kind}) {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.stats.Versions[followed{r, q.fieldSelector}] = version
}

// Watch tells what has changed since a look, as it changes, until ctx ends, which is no
// error. changed is called by one goroutine at a time, and may be told of a change that
// the look has seen already. Of Secrets it asks for metadata alone, as the look does.
//
// An error says why it could not go on: the API server refused, or does not know any
// more what has changed since (410). What was told until then holds.
func Watch(ctx context.Context, cfg *rest.Config, since Versions, changed func(inventory.Change)) error {
	if len(since) == 0 {
		return errors.New("there is nothing to go on from")
	}
	cfg = rest.CopyConfig(cfg)
	cfg.QPS, cfg.RateLimiter, cfg.Timeout = -1, nil, 0
	cfg.WarningHandler = rest.NoWarnings{}
	objects, err := dynamic.NewForConfig(cfg)
	if err != nil {
		return err
	}
	meta, err := metadata.NewForConfig(metadata.ConfigFor(cfg))
	if err != nil {
		return err
	}
	// What goes wrong is an error, or tried again: nothing to be logged.
	ctx, stop := context.WithCancelCause(klog.NewContext(ctx, logr.Discard()))
	defer stop(nil)
	var one sync.Mutex
	var parts sync.WaitGroup
	for f, version := range since {
		parts.Go(func() {
			err := f.watch(ctx, version, objects, meta, func(c inventory.Change) {
				one.Lock()
				defer one.Unlock()
				changed(c)
			})
			if err != nil {
				stop(fmt.Errorf("watch %s: %w", f.gapKind(), err))
			}
		})
	}
	parts.Wait()
	if err := context.Cause(ctx); err != nil && !errors.Is(err, context.Canceled) && !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return nil
}

// opener makes it one of what a RetryWatcher starts its watches with.
type opener func(context.Context, metav1.ListOptions) (watch.Interface, error)

func (o opener) WatchWithContext(ctx context.Context, lo metav1.ListOptions) (watch.Interface, error) {
	return o(ctx, lo)
}

func (f followed) watch(ctx context.Context, version string, objects dynamic.Interface, meta metadata.Interface, changed func(inventory.Change)) error {
	gvr := schema.GroupVersionResource{Group: f.Group, Version: f.Version, Resource: f.Name}
	w, err := watchtools.NewRetryWatcherWithContext(ctx, version, opener(func(ctx context.Context, lo metav1.ListOptions) (watch.Interface, error) {
		lo.FieldSelector = f.selector
		if f.Kind == "Secret" {
			return meta.Resource(gvr).Watch(ctx, lo)
		}
		return objects.Resource(gvr).Watch(ctx, lo)
	}))
	if err != nil {
		return err
	}
	defer w.Stop()
	for e := range w.ResultChan() {
		if e.Type == watch.Error {
			return apierrors.FromObject(e.Object)
		}
		c, err := f.change(e)
		if err != nil {
			return err
		}
		changed(c)
	}
	if ctx.Err() != nil {
		return nil
	}
	return errors.New("the API server ended it")
}

// change is what an event says.
func (f followed) change(e watch.Event) (inventory.Change, error) {
	o, ok := e.Object.(metav1.Object)
	if !ok {
		return inventory.Change{}, fmt.Errorf("%T is no object", e.Object)
	}
	c := inventory.Change{Ref: inventory.Ref{Group: f.Group, Kind: f.Kind, Namespace: o.GetNamespace(), Name: o.GetName()}}
	if e.Type == watch.Deleted {
		return c, nil
	}
	var err error
	switch x := e.Object.(type) {
	case *metav1.PartialObjectMetadata:
		// kubectl may have put key material there.
		delete(x.Annotations, corev1.LastAppliedConfigAnnotation)
		for i := range x.ManagedFields {
			x.ManagedFields[i].FieldsV1 = nil
		}
		typ := ""
		if f.selector == tlsSecrets {
			typ = string(corev1.SecretTypeTLS)
		}
		c.Doc, err = json.Marshal(secret{metav1.TypeMeta{APIVersion: "v1", Kind: "Secret"}, x.ObjectMeta, typ})
	case *unstructured.Unstructured:
		x.SetManagedFields(nil)
		c.Doc, err = x.MarshalJSON()
	default:
		err = fmt.Errorf("%T was not asked for", e.Object)
	}
	return c, err
}
