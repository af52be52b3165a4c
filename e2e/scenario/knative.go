package scenario

import (
	"context"
	"fmt"
	"slices"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// A Service is a Knative Service to be made.
type Service struct {
	Namespace, Name string
	// Tag, if not empty, gives the newest revision a host of its own.
	Tag string
}

const serviceManifest = `
apiVersion: serving.knative.dev/v1
kind: Service
metadata: {name: {{.Name}}, namespace: {{.Namespace}} }
spec:
  template:
    spec:
      containers: [{image: dev.local/app}]
  traffic:
  - latestRevision: true
    percent: 100
    {{- if .Tag}}
    tag: {{.Tag}}
    {{- end}}
`

// Services makes Knative Services and waits until each is Ready and served
// with a certificate.
func (c *Cluster) Services(ctx context.Context, list []Service) error {
	perNamespace := map[string]int{}
	for _, s := range list {
		perNamespace[s.Namespace]++
	}
	c.progress("making %d services in %d namespaces", len(list), len(perNamespace))
	if err := each(list, func(s Service) error { return c.Apply(ctx, serviceManifest, s) }); err != nil {
		return err
	}
	for _, resource := range []schema.GroupVersionResource{services, kIngresses} {
		if err := c.await(ctx, "the "+resource.Resource+" of Knative", c.allReady(resource, perNamespace)); err != nil {
			return err
		}
	}
	return c.await(ctx, "their certificates", func(ctx context.Context) error {
		for namespace := range perNamespace {
			if _, err := c.served(ctx, namespace); err != nil {
				return err
			}
		}
		return nil
	})
}

// served returns the Secrets that the Knative Ingresses of a namespace serve
// their hosts with, by host. It is an error if one of them has none.
func (c *Cluster) served(ctx context.Context, namespace string) (map[string]string, error) {
	list, err := c.Dynamic.Resource(kIngresses).Namespace(namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	hosts := map[string]string{}
	for i := range list.Items {
		tls, _, err := unstructured.NestedSlice(list.Items[i].Object, "spec", "tls")
		if err != nil {
			return nil, err
		}
		if len(tls) == 0 {
			return nil, fmt.Errorf("the Knative Ingress %s/%s has no certificate yet", namespace, list.Items[i].GetName())
		}
		for _, entry := range tls {
			entry := entry.(map[string]any)
			secret, _ := entry["secretName"].(string)
			names, _, err := unstructured.NestedStringSlice(entry, "hosts")
			if err != nil {
				return nil, err
			}
			for _, host := range names {
				hosts[host] = secret
			}
		}
	}
	return hosts, nil
}

// DeleteServices deletes Knative Services and waits until their Certificates
// are gone. It returns the Secrets that are left, in the order of names.
// cert-manager leaves them unless it runs with --enable-certificate-owner-ref.
func (c *Cluster) DeleteServices(ctx context.Context, namespace string, names []string, domain string) ([]string, error) {
	c.progress("deleting %d services of %s", len(names), namespace)
	hosts, err := c.served(ctx, namespace)
	if err != nil {
		return nil, err
	}
	var left []string
	for _, name := range names {
		secret := hosts[name+"."+namespace+"."+domain]
		if secret == "" {
			return nil, fmt.Errorf("service %s/%s was not served with a certificate", namespace, name)
		}
		left = append(left, secret)
	}
	if err := each(names, func(name string) error { return c.remove(ctx, services, namespace, name) }); err != nil {
		return nil, err
	}
	return left, c.awaitOrphans(ctx, namespace, left)
}

// awaitOrphans waits until everything that was made for per-service Secrets
// is gone, and only the Secrets are left. Certificates of both kinds have the
// names of their Secrets.
func (c *Cluster) awaitOrphans(ctx context.Context, namespace string, names []string) error {
	for _, resource := range []schema.GroupVersionResource{kCertificates, certificates} {
		if err := c.awaitGone(ctx, resource, namespace, names...); err != nil {
			return err
		}
	}
	for _, name := range names {
		if _, err := c.Dynamic.Resource(secrets).Namespace(namespace).Get(ctx, name, metav1.GetOptions{}); err != nil {
			return fmt.Errorf("the Secret was not left: %w", err)
		}
	}
	return nil
}

const domainMappingManifest = `
apiVersion: networking.internal.knative.dev/v1alpha1
kind: ClusterDomainClaim
metadata: {name: {{.Host}} }
spec: {namespace: {{.Namespace}} }
---
apiVersion: serving.knative.dev/v1beta1
kind: DomainMapping
metadata: {name: {{.Host}}, namespace: {{.Namespace}} }
spec:
  ref: {apiVersion: serving.knative.dev/v1, kind: Service, name: {{.Service}}}
  {{- if .Secret}}
  tls: {secretName: {{.Secret}} }
  {{- end}}
`

// DomainMapping maps a host to a service. secret is a Secret that its owner
// made; when empty, Knative gets a certificate for the host.
func (c *Cluster) DomainMapping(ctx context.Context, namespace, service, host, secret string) error {
	c.progress("mapping %s to %s/%s", host, namespace, service)
	if err := c.Apply(ctx, domainMappingManifest, struct{ Namespace, Service, Host, Secret string }{namespace, service, host, secret}); err != nil {
		return err
	}
	if err := c.awaitReady(ctx, domainMappings, namespace, host); err != nil {
		return err
	}
	return c.await(ctx, "a certificate for "+host, func(ctx context.Context) error {
		hosts, err := c.served(ctx, namespace)
		if err == nil && hosts[host] == "" {
			err = fmt.Errorf("%s has no certificate yet", host)
		}
		return err
	})
}

const wildcardManifest = `
apiVersion: networking.internal.knative.dev/v1alpha1
kind: Certificate
metadata:
  name: {{.Name}}
  namespace: {{.Namespace}}
  annotations:
    networking.knative.dev/certificate.class: cert-manager.certificate.networking.knative.dev
spec:
  dnsNames: ["*.{{.Namespace}}.{{.Domain}}"]
  domain: {{.Domain}}
  secretName: {{.Name}}
`

// MoveToWildcard gives a namespace a wildcard and lets its Routes adopt it, in
// the order that keeps TLS up all the time: Routes take a labelled certificate
// whether it is Ready or not (knative/serving pkg/reconciler/route/route.go,
// externalDomainTLS), so it gets its label last; and none looks again by
// itself (knative/serving#12188), so each is touched.
func (c *Cluster) MoveToWildcard(ctx context.Context, namespace, name, domain string) error {
	c.progress("moving namespace %s to a wildcard", namespace)
	if err := c.Apply(ctx, wildcardManifest, struct{ Namespace, Name, Domain string }{namespace, name, domain}); err != nil {
		return err
	}
	if err := c.awaitReady(ctx, kCertificates, namespace, name); err != nil {
		return err
	}
	if err := c.patch(ctx, kCertificates, namespace, name, fmt.Sprintf(`{"metadata":{"labels":{"networking.knative.dev/wildcardDomain":%q}}}`, domain)); err != nil {
		return err
	}
	return c.Adopt(ctx, namespace, name)
}

// Adopt lets the Routes of a namespace take a wildcard that is Ready, named by its
// Secret, and waits until the gateway serves all their hosts with it.
func (c *Cluster) Adopt(ctx context.Context, namespace, secret string) error {
	var touched time.Time
	if err := c.await(ctx, "the Routes of "+namespace+" to adopt the wildcard", func(ctx context.Context) error {
		if time.Since(touched) > 5*time.Second {
			touched = time.Now()
			if err := c.annotateAll(ctx, routes, namespace, "example.com/touched", touched.Format(time.RFC3339Nano)); err != nil {
				return err
			}
		}
		hosts, err := c.served(ctx, namespace)
		if err != nil {
			return err
		}
		moved := 0
		for _, its := range hosts {
			if its == secret {
				moved++
			}
		}
		if moved < len(hosts) {
			return fmt.Errorf("%d of %d hosts have moved", moved, len(hosts))
		}
		return nil
	}); err != nil {
		return err
	}
	return c.await(ctx, "the ingresses of "+namespace, func(ctx context.Context) error {
		list, err := c.Dynamic.Resource(kIngresses).Namespace(namespace).List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		return c.allReady(kIngresses, map[string]int{namespace: len(list.Items)})(ctx)
	})
}

// KCertificateFor returns the name of the Knative Certificate for a host.
func (c *Cluster) KCertificateFor(ctx context.Context, namespace, host string) (string, error) {
	list, err := c.Dynamic.Resource(kCertificates).Namespace(namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return "", err
	}
	for i := range list.Items {
		names, _, err := unstructured.NestedStringSlice(list.Items[i].Object, "spec", "dnsNames")
		if err == nil && slices.Contains(names, host) {
			return list.Items[i].GetName(), nil
		}
	}
	return "", fmt.Errorf("namespace %s has no Knative Certificate for %s", namespace, host)
}
