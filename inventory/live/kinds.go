package live

import (
	"context"
	"errors"
	"net/url"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"

	"github.com/certherd/certherd/inventory"
)

// resource is a kind with the way to list it.
type resource struct {
	Group, Version, Name, Kind string
	Namespaced                 bool
}

func (r resource) path(namespace string) string {
	p := "/apis/" + url.PathEscape(r.Group) + "/" + url.PathEscape(r.Version)
	if r.Group == "" {
		p = "/api/" + url.PathEscape(r.Version)
	}
	if namespace != "" {
		p += "/namespaces/" + url.PathEscape(namespace)
	}
	return p + "/" + url.PathEscape(r.Name)
}

// gapKind names the kind in a Gap: "secret", "certificate.cert-manager.io".
func (r resource) gapKind() string {
	if r.Group == "" {
		return strings.ToLower(r.Kind)
	}
	return strings.ToLower(r.Kind) + "." + r.Group
}

func (r resource) in(list []inventory.KindName) bool {
	return slices.Contains(list, inventory.KindName{Group: r.Group, Resource: r.Name, Kind: r.Kind})
}

func (r resource) judged() bool { return r.in(inventory.JudgedKinds) }

func (r resource) record() bool { return r.in(inventory.RecordKinds) }

func (r resource) gvk() schema.GroupVersionKind {
	return schema.GroupVersionKind{Group: r.Group, Version: r.Version, Kind: r.Kind}
}

// builtIn reports whether the kind is one of Kubernetes' own, whose protobuf
// form this program can decode. Records are made of version v1 only; another
// version of such a kind is read as JSON.
func (r resource) builtIn() bool {
	return scheme.Scheme.Recognizes(r.gvk()) && (!r.record() || r.Version == "v1")
}

// irrelevant are kinds that refer to no Secret, by what their API defines, and
// that are many or change all the time.
func irrelevant(r resource) bool {
	switch (schema.GroupResource{Group: r.Group, Resource: r.Name}) {
	case schema.GroupResource{Resource: "events"}, schema.GroupResource{Group: "events.k8s.io", Resource: "events"}:
		return true // reports of what happened, gone after an hour
	case schema.GroupResource{Group: "coordination.k8s.io", Resource: "leases"}, schema.GroupResource{Group: "coordination.k8s.io", Resource: "leasecandidates"}:
		return true // who leads, and since when
	case schema.GroupResource{Resource: "endpoints"}, schema.GroupResource{Group: "discovery.k8s.io", Resource: "endpointslices"}:
		return true // addresses and ports
	case schema.GroupResource{Resource: "componentstatuses"}:
		return true // health of the control plane, made up when asked for
	}
	return measurements(r.Group)
}

// measurements are the groups of the resource, custom and external metrics
// APIs (k8s.io/metrics). Their objects are figures; their server is often down.
func measurements(group string) bool {
	return group == "metrics.k8s.io" || group == "custom.metrics.k8s.io" || group == "external.metrics.k8s.io"
}

// discover returns every kind that can be listed, in the version that the API
// server prefers, sorted. A group that cannot be asked is a Gap.
func (l *look) discover(ctx context.Context, cfg *rest.Config) ([]resource, error) {
	// The discovery client takes no context: the transport gives it one.
	ctx, cancel := context.WithTimeout(ctx, l.o.Timeout)
	defer cancel()
	cfg = rest.CopyConfig(cfg)
	cfg.WarningHandler = rest.NoWarnings{}
	cfg.Wrap(l.traffic.count)
	cfg.Wrap(within(ctx))
	client, err := discovery.NewDiscoveryClientForConfig(cfg)
	if err != nil {
		return nil, err
	}
	lists, err := client.ServerPreferredResources()
	if failed, ok := discovery.GroupDiscoveryFailedErrorGroups(err); ok {
		for gv, err := range failed {
			if !measurements(gv.Group) {
				l.c.Gap(inventory.Gap{Kind: "*." + gv.Group, Reason: "its kinds are not known: " + reason(err)})
			}
		}
	} else if err != nil {
		return nil, err
	}
	var out []resource
	for _, list := range lists {
		gv, err := schema.ParseGroupVersion(list.GroupVersion)
		if err != nil {
			return nil, err
		}
		for _, r := range list.APIResources {
			if slices.Contains(r.Verbs, "list") && !strings.Contains(r.Name, "/") {
				out = append(out, resource{gv.Group, gv.Version, r.Name, r.Kind, r.Namespaced})
			}
		}
	}
	if !slices.ContainsFunc(out, func(r resource) bool { return r.Group == "" && r.Name == "secrets" }) {
		// client-go takes a missing /api for an API server without core kinds.
		return nil, errors.New("it does not serve the core API group; check the address")
	}
	// Old API servers serve what was in extensions under its new group, too.
	out = slices.DeleteFunc(out, func(r resource) bool {
		return r.Group == "extensions" && slices.ContainsFunc(out, func(o resource) bool {
			return o.Group != "extensions" && o.Name == r.Name && o.Kind == r.Kind && scheme.Scheme.Recognizes(o.gvk())
		})
	})
	slices.SortFunc(out, func(a, b resource) int {
		return strings.Compare(a.Group+"/"+a.Name, b.Group+"/"+b.Name)
	})
	return out, nil
}
