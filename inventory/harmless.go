package inventory

import (
	"slices"
	"strings"

	"github.com/certherd/certherd/api/v1alpha1"
)

// ours reports certherd's own objects that name certificates and Secrets in plain
// text, so that people can read them. Were they scanned, a proposal would make
// unknown for ever what it is about.
func ours(group, kind string) bool { return group == v1alpha1.Group && kind == v1alpha1.Kind }

// ignoredPath reports whether a string is never a reference, in any kind: what
// identifies the object itself, what its controller reports, and what
// cert-manager writes to tell its own objects apart.
func ignoredPath(path []string) bool {
	switch path[0] {
	case "apiVersion", "kind", "status":
		return true
	case "metadata":
		if len(path) < 2 {
			return true
		}
		switch path[1] {
		case "name", "generateName", "namespace", "uid", "resourceVersion", "selfLink", "creationTimestamp",
			"managedFields", "ownerReferences", "finalizers", "deletionTimestamp":
			return true
		case "annotations":
			return len(path) > 2 && ignoredAnnotation(path[2])
		case "labels":
			return len(path) > 2 && plainLabel(path[2])
		}
	}
	return false
}

func ignoredAnnotation(key string) bool {
	switch key {
	case "kubectl.kubernetes.io/last-applied-configuration",
		// The manifest of the same object, again.
		"objectset.rio.cattle.io/applied",
		"cert-manager.io/certificate-name", "cert-manager.io/certificate-revision", "cert-manager.io/common-name",
		"cert-manager.io/alt-names", "cert-manager.io/ip-sans", "cert-manager.io/uri-sans",
		"cert-manager.io/issuer-name", "cert-manager.io/issuer-kind", "cert-manager.io/issuer-group",
		"cert-manager.io/issuer", "cert-manager.io/cluster-issuer",
		"serving.knative.dev/creator", "serving.knative.dev/lastModifier",
		"networking.knative.dev/certificate.class", "networking.knative.dev/ingress.class":
		return true
	}
	return false
}

// plainLabel reports labels whose values say what an object belongs to.
func plainLabel(key string) bool {
	switch key {
	case "app", "k8s-app", "component", "tier", "version", "release", "chart", "heritage", "pod-template-hash",
		"controller-uid", "job-name", "statefulset.kubernetes.io/pod-name", "controller-revision-hash":
		return true
	}
	prefix, _, ok := strings.Cut(key, "/")
	return ok && slices.Contains([]string{
		"app.kubernetes.io", "helm.sh", "serving.knative.dev", "networking.knative.dev", "networking.internal.knative.dev",
		"kubernetes.io", "batch.kubernetes.io", "topology.kubernetes.io", "controller.cert-manager.io",
		"acme.cert-manager.io", "cert-manager.io", "app.knative.dev",
	}, prefix)
}

// managerLabel reports labels that a Secret's manager put there for itself, and
// those that only say what it belongs to: that something selects by them says
// nothing about one Secret.
func managerLabel(key string) bool {
	prefix, _, _ := strings.Cut(key, "/")
	return prefix == "controller.cert-manager.io" || prefix == "networking.internal.knative.dev" || prefix == "certherd.dev"
}

// freeKeys reports whether the keys at path are data and not a schema's.
func freeKeys(path []string) bool {
	switch path[0] {
	case "data", "binaryData", "stringData", "parameters":
		return len(path) == 2
	case "metadata":
		return len(path) == 3 && (path[1] == "annotations" || path[1] == "labels")
	}
	if len(path) < 2 {
		return false
	}
	switch path[len(path)-2] {
	case "volumeAttributes", "options", "attributes", "parameters", "data":
		return true
	}
	// What a chart or a patch is given: values of somebody else's schema.
	return slices.ContainsFunc(path[:len(path)-1], func(k string) bool {
		return k == "values" || k == "valuesObject" || k == "valuesInline" || k == "config" || k == "patch"
	})
}

// harmlessPaths are fields of well-known kinds whose values are names of other things:
// hosts, Services, ports, containers. Without them a Secret that is named like
// a host, as Knative's wildcard and domain mapping Secrets are, would count as
// mentioned by every object that routes the host.
var harmlessPaths = func() map[[2]string][][]string {
	m := map[[2]string][][]string{}
	for line := range strings.Lines(`
networking.k8s.io Ingress spec.rules[].host
networking.k8s.io Ingress spec.tls[].hosts[]
networking.k8s.io Ingress spec.rules[].http.paths[].backend.service.name
networking.k8s.io Ingress spec.rules[].http.paths[].path
networking.k8s.io Ingress spec.ingressClassName
networking.internal.knative.dev Ingress spec.rules[].hosts[]
networking.internal.knative.dev Ingress spec.tls[].hosts[]
networking.internal.knative.dev Ingress spec.tls[].secretNamespace
networking.internal.knative.dev Ingress spec.rules[].http.paths[].splits[].**
networking.internal.knative.dev Ingress spec.rules[].http.paths[].rewriteHost
networking.internal.knative.dev Ingress spec.rules[].http.paths[].headers.**
networking.internal.knative.dev Ingress spec.rules[].http.paths[].appendHeaders.**
networking.internal.knative.dev ServerlessService spec.objectRef.name
networking.internal.knative.dev ClusterDomainClaim spec.namespace
autoscaling.internal.knative.dev PodAutoscaler spec.scaleTargetRef.name
autoscaling.internal.knative.dev Metric spec.scrapeTarget
serving.knative.dev DomainMapping spec.ref.name
serving.knative.dev DomainMapping spec.ref.namespace
serving.knative.dev Route spec.traffic[].**
serving.knative.dev Service spec.traffic[].**
gateway.networking.k8s.io Gateway spec.listeners[].hostname
gateway.networking.k8s.io Gateway spec.listeners[].name
gateway.networking.k8s.io HTTPRoute spec.hostnames[]
gateway.networking.k8s.io HTTPRoute spec.rules[].backendRefs[].name
gateway.networking.k8s.io HTTPRoute spec.parentRefs[].name
gateway.networking.k8s.io HTTPRoute spec.parentRefs[].sectionName
acme.cert-manager.io Order spec.dnsNames[]
acme.cert-manager.io Order spec.commonName
acme.cert-manager.io Order spec.issuerRef.name
acme.cert-manager.io Order spec.request
acme.cert-manager.io Challenge spec.dnsName
acme.cert-manager.io Challenge spec.issuerRef.name
acme.cert-manager.io Challenge spec.url
acme.cert-manager.io Challenge spec.authorizationURL
acme.cert-manager.io Challenge spec.key
acme.cert-manager.io Challenge spec.token
cert-manager.io CertificateRequest spec.issuerRef.name
cert-manager.io CertificateRequest metadata.annotations.cert-manager\.io/private-key-secret-name
acme.cert-manager.io Order metadata.annotations.cert-manager\.io/private-key-secret-name
cert-manager.io CertificateRequest spec.request
cert-manager.io CertificateRequest spec.username
cert-manager.io CertificateRequest spec.groups[]
core Service spec.externalName
core Service spec.ports[].name
core Service spec.selector.*
core Pod spec.containers[].name
core Pod spec.containers[].ports[].name
core Pod spec.hostname
core Pod spec.subdomain
core Pod spec.nodeName
core Pod spec.serviceAccountName
core Pod spec.serviceAccount
apps Deployment spec.selector.matchLabels.*
apps Deployment spec.template.metadata.labels.app
apps Deployment spec.template.spec.containers[].name
apps ReplicaSet spec.selector.matchLabels.*
apps ReplicaSet spec.template.metadata.labels.app
apps ReplicaSet spec.template.spec.containers[].name
apps StatefulSet spec.serviceName
apps StatefulSet spec.selector.matchLabels.*
apps StatefulSet spec.template.metadata.labels.app
apps StatefulSet spec.template.spec.containers[].name
apps DaemonSet spec.selector.matchLabels.*
apps DaemonSet spec.template.metadata.labels.app
apps DaemonSet spec.template.spec.containers[].name
autoscaling HorizontalPodAutoscaler spec.scaleTargetRef.name
policy PodDisruptionBudget spec.selector.matchLabels.*
networking.k8s.io NetworkPolicy spec.podSelector.matchLabels.*
apiextensions.k8s.io CustomResourceDefinition spec.group
apiextensions.k8s.io CustomResourceDefinition spec.names.**
apiextensions.k8s.io CustomResourceDefinition spec.versions[].schema.**.description
apiregistration.k8s.io APIService spec.group
apiregistration.k8s.io APIService spec.service.name
rbac.authorization.k8s.io ClusterRoleBinding roleRef.name
rbac.authorization.k8s.io ClusterRoleBinding subjects[].name
rbac.authorization.k8s.io RoleBinding roleRef.name
rbac.authorization.k8s.io RoleBinding subjects[].name
`) {
		f := strings.Fields(line)
		if len(f) == 0 {
			continue
		}
		if f[0] == "core" {
			f[0] = ""
		}
		key := [2]string{f[0], f[1]}
		m[key] = append(m[key], splitPath(f[2]))
	}
	return m
}()

func harmless(group, kind string, path []string) bool {
	return slices.ContainsFunc(harmlessPaths[[2]string{group, kind}], func(p []string) bool { return pathMatches(p, path) })
}

// secretSelectors are well-known kinds whose selectors select Secrets.
var secretSelectors = map[[2]string]bool{
	{"trust.cert-manager.io", "Bundle"}:        true,
	{"trust.cert-manager.io", "ClusterBundle"}: true,
}

// copies reports groups whose objects copy Secrets from namespace to namespace,
// mostly under the same name.
func copies(group string) bool {
	return slices.ContainsFunc([]string{
		"external-secrets.io", "kyverno.io", "clustersecret.io", "secretgen.carvel.dev", "secretgen.k14s.io", "mittwald.systems",
	}, func(g string) bool { return group == g || strings.HasSuffix(group, "."+g) })
}

// secretKey reports whether a field's name sounds like it holds a Secret's.
func secretKey(key string) bool {
	for _, w := range []string{"secret", "cert", "tls", "ssl", "credential", "keystore", "ca"} {
		if strings.Contains(key, w) {
			return true
		}
	}
	return false
}
