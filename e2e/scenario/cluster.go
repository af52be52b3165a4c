// Package scenario sets up in a real cluster what certherd is to find there:
// services, ingresses, gateways and hand-made Secrets, and the mess that is left
// when they are changed or deleted. It needs the full stack of package stack
// (cert-manager, Knative Serving and net-kourier), and waits until everything
// is as those programs leave it.
package scenario

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"text/template"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"
)

// A Cluster is a running cluster with what is needed to change it.
type Cluster struct {
	Typed   kubernetes.Interface
	Dynamic dynamic.Interface
	mapper  *restmapper.DeferredDiscoveryRESTMapper
	out     io.Writer
	begun   time.Time
}

// Connect makes clients of an administrator. Lines of progress go to out.
func Connect(config *rest.Config, out io.Writer) (*Cluster, error) {
	config = rest.CopyConfig(config)
	config.WarningHandler = rest.NoWarnings{}
	config.UserAgent = "certherd-scenario"
	typed, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	dynamicClient, err := dynamic.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	return &Cluster{
		Typed: typed, Dynamic: dynamicClient, out: out, begun: time.Now(),
		mapper: restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(typed.Discovery())),
	}, nil
}

func (c *Cluster) progress(format string, args ...any) {
	fmt.Fprintf(c.out, "mess:  %5.1f s  %s\n", time.Since(c.begun).Seconds(), fmt.Sprintf(format, args...))
}

// The resources that scenarios change or wait for.
var (
	services       = schema.GroupVersionResource{Group: "serving.knative.dev", Version: "v1", Resource: "services"}
	routes         = schema.GroupVersionResource{Group: "serving.knative.dev", Version: "v1", Resource: "routes"}
	domainMappings = schema.GroupVersionResource{Group: "serving.knative.dev", Version: "v1beta1", Resource: "domainmappings"}
	kIngresses     = schema.GroupVersionResource{Group: "networking.internal.knative.dev", Version: "v1alpha1", Resource: "ingresses"}
	kCertificates  = schema.GroupVersionResource{Group: "networking.internal.knative.dev", Version: "v1alpha1", Resource: "certificates"}
	certificates   = schema.GroupVersionResource{Group: "cert-manager.io", Version: "v1", Resource: "certificates"}
	requests       = schema.GroupVersionResource{Group: "cert-manager.io", Version: "v1", Resource: "certificaterequests"}
	ingresses      = schema.GroupVersionResource{Group: "networking.k8s.io", Version: "v1", Resource: "ingresses"}
	configMaps     = schema.GroupVersionResource{Version: "v1", Resource: "configmaps"}
	secrets        = schema.GroupVersionResource{Version: "v1", Resource: "secrets"}
)

// Apply applies the documents of a YAML text server-side, in their order. The
// text is a template (text/template) of data.
func (c *Cluster) Apply(ctx context.Context, text string, data any) error {
	t, err := template.New("manifest").Option("missingkey=zero").Parse(text)
	if err != nil {
		return err
	}
	var b bytes.Buffer
	if err := t.Execute(&b, data); err != nil {
		return err
	}
	decoder := yaml.NewYAMLOrJSONDecoder(&b, 4096)
	for {
		object := &unstructured.Unstructured{}
		if err := decoder.Decode(&object.Object); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("%w in:\n%s", err, text)
		}
		if len(object.Object) == 0 {
			continue
		}
		if err := c.apply(ctx, object); err != nil {
			return fmt.Errorf("apply %s %s/%s: %w", object.GetKind(), object.GetNamespace(), object.GetName(), err)
		}
	}
}

func (c *Cluster) apply(ctx context.Context, object *unstructured.Unstructured) error {
	gvk := object.GroupVersionKind()
	mapping, err := c.mapper.RESTMapping(gvk.GroupKind(), gvk.Version)
	if meta.IsNoMatchError(err) { // its CRD came after the last discovery
		err = c.await(ctx, "kind "+gvk.Kind+" to be served", func(context.Context) error {
			c.mapper.Reset()
			mapping, err = c.mapper.RESTMapping(gvk.GroupKind(), gvk.Version)
			return err
		})
	}
	if err != nil {
		return err
	}
	var resource dynamic.ResourceInterface = c.Dynamic.Resource(mapping.Resource)
	if mapping.Scope.Name() == meta.RESTScopeNameNamespace {
		resource = c.Dynamic.Resource(mapping.Resource).Namespace(object.GetNamespace())
	}
	_, err = resource.Apply(ctx, object.GetName(), object, metav1.ApplyOptions{FieldManager: "certherd-scenario", Force: true})
	return err
}

// patch merges a JSON document into an object.
func (c *Cluster) patch(ctx context.Context, resource schema.GroupVersionResource, namespace, name, merge string) error {
	_, err := c.Dynamic.Resource(resource).Namespace(namespace).Patch(ctx, name, types.MergePatchType, []byte(merge), metav1.PatchOptions{FieldManager: "certherd-scenario"})
	return err
}

// remove deletes an object and what its owner references hold.
func (c *Cluster) remove(ctx context.Context, resource schema.GroupVersionResource, namespace, name string) error {
	background := metav1.DeletePropagationBackground
	err := c.Dynamic.Resource(resource).Namespace(namespace).Delete(ctx, name, metav1.DeleteOptions{PropagationPolicy: &background})
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// patience is how long a cluster may stay as it is on the way to a state that
// is waited for. It does not bound the whole way: that depends on the machine.
const patience = 2 * time.Minute

// await repeats check until it succeeds, and tells what it waits for every few
// seconds.
func (c *Cluster) await(ctx context.Context, what string, check func(context.Context) error) error {
	tell := time.NewTicker(5 * time.Second)
	defer tell.Stop()
	last, changed := "", time.Now()
	for {
		err := check(ctx)
		if err == nil {
			return nil
		}
		if now := err.Error(); now != last {
			last, changed = now, time.Now()
		} else if time.Since(changed) > patience {
			return fmt.Errorf("waited for %s, and nothing has happened for %s: %w", what, patience, err)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for %s: %w", what, ctx.Err())
		case <-tell.C:
			c.progress("waiting for %s: %v", what, err)
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// allReady checks that namespaces have so many objects of a kind, all of them
// Ready and looked at by their controller.
func (c *Cluster) allReady(resource schema.GroupVersionResource, want map[string]int) func(context.Context) error {
	return func(ctx context.Context) error {
		n, all := 0, 0
		var last error
		for namespace, number := range want {
			list, err := c.Dynamic.Resource(resource).Namespace(namespace).List(ctx, metav1.ListOptions{})
			if err != nil {
				return err
			}
			all += number
			if len(list.Items) != number {
				last = fmt.Errorf("namespace %s has %d of them", namespace, len(list.Items))
			}
			for i := range list.Items {
				if err := ready(&list.Items[i]); err != nil {
					last = err
					continue
				}
				n++
			}
		}
		if last != nil {
			return fmt.Errorf("%d of %d are ready (%w)", n, all, last)
		}
		return nil
	}
}

// ready checks an object's condition Ready.
func ready(object *unstructured.Unstructured) error {
	status, message, err := condition(object, "Ready")
	switch {
	case err != nil:
		return err
	case status != "True":
		return fmt.Errorf("%s %s/%s is not ready: %s", object.GetKind(), object.GetNamespace(), object.GetName(), message)
	}
	// Objects without the field have controllers that do not tell.
	if seen, ok, _ := unstructured.NestedInt64(object.Object, "status", "observedGeneration"); ok && seen != object.GetGeneration() {
		return fmt.Errorf("%s %s/%s was changed and not looked at yet", object.GetKind(), object.GetNamespace(), object.GetName())
	}
	return nil
}

// condition returns the status and the message of a condition, empty if there is none.
func condition(object *unstructured.Unstructured, name string) (status, message string, err error) {
	conditions, _, err := unstructured.NestedSlice(object.Object, "status", "conditions")
	if err != nil {
		return "", "", err
	}
	for _, entry := range conditions {
		if condition, ok := entry.(map[string]any); ok && condition["type"] == name {
			status, _ = condition["status"].(string)
			message, _ = condition["message"].(string)
			return status, message, nil
		}
	}
	return "", "", nil
}

// awaitReady waits until one object is Ready.
func (c *Cluster) awaitReady(ctx context.Context, resource schema.GroupVersionResource, namespace string, names ...string) error {
	for _, name := range names {
		if err := c.await(ctx, resource.Resource+" "+namespace+"/"+name, func(ctx context.Context) error {
			object, err := c.Dynamic.Resource(resource).Namespace(namespace).Get(ctx, name, metav1.GetOptions{})
			if err != nil {
				return err
			}
			return ready(object)
		}); err != nil {
			return err
		}
	}
	return nil
}

// awaitGone waits until an object does not exist any more.
func (c *Cluster) awaitGone(ctx context.Context, resource schema.GroupVersionResource, namespace string, names ...string) error {
	for _, name := range names {
		if err := c.await(ctx, "the end of "+resource.Resource+" "+namespace+"/"+name, func(ctx context.Context) error {
			_, err := c.Dynamic.Resource(resource).Namespace(namespace).Get(ctx, name, metav1.GetOptions{})
			if apierrors.IsNotFound(err) {
				return nil
			}
			if err == nil {
				err = errors.New("it is still there")
			}
			return err
		}); err != nil {
			return err
		}
	}
	return nil
}

// each calls do for every item, a few at a time, and joins the errors.
func each[T any](items []T, do func(T) error) error {
	const atOnce = 8
	var wg sync.WaitGroup
	errs := make([]error, len(items))
	slots := make(chan struct{}, atOnce)
	for i, item := range items {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			errs[i] = do(item)
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// Namespaces makes namespaces, unless they are there.
func (c *Cluster) Namespaces(ctx context.Context, names ...string) error {
	return each(names, func(name string) error {
		return c.Apply(ctx, "apiVersion: v1\nkind: Namespace\nmetadata: {name: {{.}} }", name)
	})
}

// annotateAll sets an annotation on every object of a kind in a namespace.
func (c *Cluster) annotateAll(ctx context.Context, resource schema.GroupVersionResource, namespace, key, value string) error {
	list, err := c.Dynamic.Resource(resource).Namespace(namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	return each(list.Items, func(object unstructured.Unstructured) error {
		return c.patch(ctx, resource, namespace, object.GetName(), fmt.Sprintf(`{"metadata":{"annotations":{%q:%q}}}`, key, value))
	})
}

func field(object *unstructured.Unstructured, path string) string {
	value, _, _ := unstructured.NestedString(object.Object, strings.Split(path, ".")...)
	return value
}
