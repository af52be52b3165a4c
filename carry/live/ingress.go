package live

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"

	"github.com/certherd/certherd/api/v1alpha1"
	"github.com/certherd/certherd/carry"
	"github.com/certherd/certherd/inventory"
)

type ingress struct {
	object
	Spec struct {
		TLS []struct {
			Hosts      []string `json:"hosts"`
			SecretName string   `json:"secretName"`
		} `json:"tls"`
	} `json:"spec"`
	Status struct {
		LoadBalancer struct {
			Ingress []struct{ IP, Hostname string } `json:"ingress"`
		} `json:"loadBalancer"`
	} `json:"status"`
}

func ingressRef(ns, name string) inventory.Ref {
	return inventory.Ref{Group: "networking.k8s.io", Kind: "Ingress", Namespace: ns, Name: name}
}

// observeIngresses looks at a cert-manager Certificate and the Ingresses that are to
// name its Secret.
func (l *look) observeIngresses(ctx context.Context) error {
	ns := l.c.Namespace
	u, err := l.objects.Resource(certificates).Namespace(ns).Get(ctx, l.c.Spec.Source.Name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
	case err != nil:
		return fmt.Errorf("cannot read the Certificate: %w", err)
	default:
		crt, err := into[certificate](u)
		if err != nil {
			return err
		}
		l.source = u
		s := carry.Source{Exists: true, UID: string(crt.UID), Since: crt.CreationTimestamp.Time, Ours: crt.Annotations[madeFor] == string(l.c.UID)}
		s.Ready, s.Waits = crt.ready()
		s.Foreign = l.foreign("Certificate", crt.ObjectMeta, s.Ours, crt.Spec.SecretName, crt.Spec.DNSNames)
		l.Source = s
	}
	all, raw, err := list[ingress](ctx, l.Carrier, ingresses, ns)
	if err != nil {
		return err
	}
	there := map[string]bool{} // Secrets, as far as they were asked for
	l.ingresses = map[string]*unstructured.Unstructured{}
	for i, x := range all {
		if x.DeletionTimestamp != nil {
			continue
		}
		ref := ingressRef(ns, x.Name)
		// The kind has no condition: handshakes tell.
		c := carry.Consumer{Ref: ref, UID: string(x.UID), Created: x.CreationTimestamp.Time, Ready: true, Ignored: x.Annotations[inventory.IgnoreAnnotation] == "true"}
		for _, t := range x.Spec.TLS {
			e := carry.Entry{Hosts: t.Hosts, Secret: t.SecretName, Wildcard: t.SecretName == l.c.Spec.SecretName}
			if e.Wildcard {
				l.Source.Users = append(l.Source.Users, ref)
				if e.Own = l.before(string(x.UID), t.Hosts); e.Own == "" && l.c.Spec.Source.UID != "" {
					continue // it used the wildcard before
				}
			} else if !slices.ContainsFunc(l.c.Spec.Members, func(m v1alpha1.Member) bool { return m.SecretName == t.SecretName }) {
				continue
			} else {
				e.Own = t.SecretName
			}
			if e.Own == "" {
				e.OwnWaits = "nobody knows what it named before"
			} else {
				if _, ok := there[e.Own]; !ok {
					_, err := l.metadata.Resource(secrets).Namespace(ns).Get(ctx, e.Own, metav1.GetOptions{})
					if err != nil && !apierrors.IsNotFound(err) {
						return fmt.Errorf("cannot read a Secret's metadata: %w", err)
					}
					there[e.Own] = err == nil
				}
				// As soon as it is named again, ingress-shim makes its Certificate again,
				// which takes the Secret over without an order.
				if e.OwnReady = there[e.Own]; !e.OwnReady {
					e.OwnWaits = "Secret " + e.Own + " is gone"
				}
			}
			c.Entries = append(c.Entries, e)
			for _, h := range t.Hosts {
				for _, b := range x.Status.LoadBalancer.Ingress {
					if a := b.IP + b.Hostname; a != "" && l.addresses[h] == "" {
						l.addresses[h] = a + ":443"
					}
				}
			}
		}
		if len(c.Entries) > 0 {
			c.ManagedBy = l.managedBy(c.UID)
			l.Consumers = append(l.Consumers, c)
			l.ingresses[x.Name] = raw[i]
		}
	}
	return nil
}

// before is the Secret that a consumer named for hosts when it was proposed.
func (l *look) before(uid string, hosts []string) string {
	for _, m := range l.c.Spec.Members {
		for _, c := range m.Consumers {
			if c.UID != uid {
				continue
			}
			for _, h := range hosts {
				if slices.Contains(c.Hosts, h) {
					return m.SecretName
				}
			}
		}
	}
	return ""
}

func (l *look) managedBy(uid string) string {
	for _, m := range l.c.Spec.Members {
		for _, c := range m.Consumers {
			if c.UID == uid {
				return c.ManagedBy
			}
		}
	}
	return ""
}

// point makes Ingresses name the wildcard's Secret, or their own again. It is a
// JSON patch (RFC 6902) that tests what it replaces, and not an apply: spec.tls is
// an atomic list, so that an apply would take the whole of it over, entries and
// all that are nobody's business here, and the next apply of its owner would
// be a conflict, or undo entries that somebody added meanwhile.
func (l *look) point(ctx context.Context, objects []inventory.Ref, back bool) error {
	var errs []error
	for _, o := range objects {
		u := l.ingresses[o.Name]
		i := slices.IndexFunc(l.Consumers, func(c carry.Consumer) bool { return c.Ref == o })
		if u == nil || i < 0 {
			continue
		}
		x, err := into[ingress](u)
		if err != nil {
			return err
		}
		type op struct {
			Op    string `json:"op"`
			Path  string `json:"path"`
			Value any    `json:"value"`
		}
		ops := []op{{"test", "/metadata/uid", string(x.UID)}, {"test", "/metadata/resourceVersion", x.ResourceVersion}}
		for n, t := range x.Spec.TLS {
			for _, e := range l.Consumers[i].Entries {
				to := l.c.Spec.SecretName
				if back {
					to = e.Own
				}
				if e.Wildcard != back || e.Secret != t.SecretName || !slices.Equal(e.Hosts, t.Hosts) || to == "" || to == t.SecretName {
					continue
				}
				path := fmt.Sprintf("/spec/tls/%d/secretName", n)
				ops = append(ops, op{"test", path, t.SecretName}, op{"replace", path, to})
				break
			}
		}
		if len(ops) == 2 {
			continue
		}
		b, err := json.Marshal(ops)
		if err != nil {
			return err
		}
		_, err = l.objects.Resource(ingresses).Namespace(o.Namespace).Patch(ctx, o.Name, types.JSONPatchType, b, metav1.PatchOptions{FieldManager: fieldManager})
		if err != nil && !apierrors.IsNotFound(err) {
			errs = append(errs, fmt.Errorf("%s: %w", o, err))
		}
		l.trace("in the midst of pointing")
	}
	return errors.Join(errs...)
}
