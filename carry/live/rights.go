package live

import rbacv1 "k8s.io/api/rbac/v1"

// Rights are what a Carrier has to be allowed, and nothing else; manifests/carry
// grants them. Of Secrets it reads metadata alone, which RBAC cannot say.
func Rights() []rbacv1.PolicyRule {
	rule := func(group, resource string, verbs ...string) rbacv1.PolicyRule {
		return rbacv1.PolicyRule{APIGroups: []string{group}, Resources: []string{resource}, Verbs: verbs}
	}
	return []rbacv1.PolicyRule{
		rule("", "namespaces", "get"),
		rule("", "secrets", "get", "list"),
		rule("cert-manager.io", "certificaterequests", "list"),
		rule("cert-manager.io", "certificates", "get", "create", "delete"),
		rule("certherd.dev", "consolidations", "list"),
		rule("certherd.dev", "consolidations/status", "patch"),
		rule("gateway.networking.k8s.io", "gateways", "list", "patch"),
		rule("gateway.networking.k8s.io", "listenersets", "list", "patch"),
		rule("networking.internal.knative.dev", "certificates", "list", "create", "patch", "delete"),
		rule("networking.internal.knative.dev", "ingresses", "list"),
		rule("networking.k8s.io", "ingresses", "list", "patch"),
		rule("serving.knative.dev", "domainmappings", "list", "patch"),
		rule("serving.knative.dev", "routes", "list", "patch"),
	}
}
