package dump

import (
	"strings"

	"github.com/certherd/certherd/inventory"
)

// A written dump holds of each object only what inventory makes its record of:
// the fields below, one kind a paragraph. {} keeps that a field or an element is
// there, and nothing of it. What else an object refers to is in the
// References of the dump. docs/dump.md says the same for people.
var keep = parseKeep(`
Secret type data.tls\.crt metadata.managedFields.manager metadata.managedFields.time metadata.managedFields.subresource

Namespace

ConfigMap data

Deployment.apps spec.replicas
	spec.template.spec.volumes.configMap.name
	spec.template.spec.initContainers.name spec.template.spec.initContainers.command spec.template.spec.initContainers.args
	spec.template.spec.containers.name spec.template.spec.containers.image
	spec.template.spec.containers.command spec.template.spec.containers.args
	spec.template.spec.containers.resources.limits
DaemonSet.apps
	spec.template.spec.volumes.configMap.name
	spec.template.spec.initContainers.name spec.template.spec.initContainers.command spec.template.spec.initContainers.args
	spec.template.spec.containers.name spec.template.spec.containers.image
	spec.template.spec.containers.command spec.template.spec.containers.args
	spec.template.spec.containers.resources.limits

Ingress.networking.k8s.io spec.ingressClassName spec.rules.host spec.tls status.loadBalancer.ingress{}

Certificate.cert-manager.io
	spec.secretName spec.issuerRef spec.commonName spec.dnsNames spec.ipAddresses spec.uris spec.emailAddresses
	spec.duration spec.renewBefore spec.renewBeforePercentage spec.isCA spec.usages spec.privateKey spec.literalSubject
	spec.additionalOutputFormats spec.keystores.jks{} spec.keystores.pkcs12{}
	spec.keystores.jks.passwordSecretRef spec.keystores.pkcs12.passwordSecretRef
	status.conditions.type status.conditions.status status.conditions.reason status.conditions.lastTransitionTime
	spec.renewal metadata.managedFields.manager metadata.managedFields.time metadata.managedFields.subresource
	status.notBefore status.notAfter status.renewalTime status.lastFailureTime status.revision status.nextPrivateKeySecretName
CertificateRequest.cert-manager.io spec.issuerRef status.ca status.certificate
	status.conditions.type status.conditions.status status.conditions.reason status.conditions.lastTransitionTime
Order.acme.cert-manager.io spec.issuerRef spec.dnsNames status.state
Challenge.acme.cert-manager.io spec.issuerRef spec.dnsName spec.type status.state

Issuer.cert-manager.io spec.acme.server spec.acme.preferredChain spec.acme.profile spec.acme.solvers
	spec.ca.secretName spec.selfSigned{} spec.vault{} spec.venafi{} status.acme.uri
	status.conditions.type status.conditions.status status.conditions.reason status.conditions.lastTransitionTime
ClusterIssuer.cert-manager.io spec.acme.server spec.acme.preferredChain spec.acme.profile spec.acme.solvers
	spec.ca.secretName spec.selfSigned{} spec.vault{} spec.venafi{} status.acme.uri
	status.conditions.type status.conditions.status status.conditions.reason status.conditions.lastTransitionTime

CertificateRequestPolicy.policy.cert-manager.io
	spec.allowed.dnsNames.values spec.selector.issuerRef spec.selector.namespace

Certificate.networking.internal.knative.dev spec.dnsNames spec.domain spec.secretName status.observedGeneration status.notAfter
	status.conditions.type status.conditions.status status.conditions.reason status.conditions.lastTransitionTime
Ingress.networking.internal.knative.dev spec.httpOption spec.rules.hosts spec.rules.visibility spec.tls status.observedGeneration
	status.conditions.type status.conditions.status status.conditions.reason status.conditions.lastTransitionTime
Route.serving.knative.dev
DomainMapping.serving.knative.dev spec.ref spec.tls status.observedGeneration
	status.conditions.type status.conditions.status status.conditions.reason status.conditions.lastTransitionTime

Gateway.gateway.networking.k8s.io spec.gatewayClassName spec.listeners.name spec.listeners.hostname spec.listeners.port
	spec.listeners.protocol spec.listeners.tls.mode spec.listeners.tls.certificateRefs
	status.conditions.type status.conditions.status status.conditions.reason status.conditions.lastTransitionTime
ListenerSet.gateway.networking.k8s.io spec.parentRef spec.listeners.name spec.listeners.hostname spec.listeners.port
	spec.listeners.protocol spec.listeners.tls.mode spec.listeners.tls.certificateRefs
	status.conditions.type status.conditions.status status.conditions.reason status.conditions.lastTransitionTime
`)

const keptMetadata = `metadata.name metadata.namespace metadata.uid metadata.resourceVersion metadata.generation
	metadata.creationTimestamp metadata.deletionTimestamp metadata.labels metadata.annotations metadata.ownerReferences`

// kept is a tree of fields: below a leaf everything is kept, unless empty.
type kept struct {
	fields map[string]*kept
	empty  bool // the field is kept even where nothing of it is
}

// parseKeep reads the table: a line that begins with no space begins a kind, written
// Kind.group. Lists have no step of their own in a path.
func parseKeep(table string) map[string]*kept {
	m := map[string]*kept{}
	var root *kept
	for line := range strings.Lines(table) {
		f := strings.Fields(line)
		if len(f) == 0 {
			continue
		}
		if line[0] != '\t' {
			root = new(kept)
			m[f[0]] = root
			f = append(f[1:], strings.Fields(keptMetadata)...)
		}
		for _, p := range f {
			root.add(p)
		}
	}
	return m
}

func (k *kept) add(path string) {
	path, empty := strings.CutSuffix(path, "{}")
	path = strings.ReplaceAll(path, `\.`, "\x00")
	for step := range strings.SplitSeq(path, ".") {
		step = strings.ReplaceAll(step, "\x00", ".")
		if k.fields == nil {
			k.fields = map[string]*kept{}
		}
		if k.fields[step] == nil {
			k.fields[step] = new(kept)
		}
		k = k.fields[step]
	}
	k.empty = k.empty || empty
}

// prune returns what is kept of a value; ok is false for nothing.
func (k *kept) prune(v any) (out any, ok bool) {
	if len(k.fields) == 0 && !k.empty {
		return v, true
	}
	switch v := v.(type) {
	case map[string]any:
		m := map[string]any{}
		for name, f := range k.fields {
			if x, ok := v[name]; ok && x != nil {
				if x, ok := f.prune(x); ok {
					m[name] = x
				}
			}
		}
		return m, true
	case []any:
		list := make([]any, 0, len(v))
		for _, x := range v {
			if x, ok := k.prune(x); ok {
				list = append(list, x)
			}
		}
		return list, true
	}
	return nil, false
}

// keptAnnotation reports whether an annotation is written: those of
// cert-manager, Knative and certherd, and those by which inventory knows who
// manages or copies an object. Others may hold anything: a snippet of
// configuration with a password, for example.
func keptAnnotation(key string) bool {
	prefix, _, _ := strings.Cut(key, "/")
	switch prefix {
	case "argocd.argoproj.io", "meta.helm.sh", "reflector.v1.k8s.emberstack.com", "replicator.v1.mittwald.de", "kubed.appscode.com":
		return true
	}
	if key == "kubernetes.io/ingress.class" || key == "kubernetes.io/tls-acme" {
		return true
	}
	for _, domain := range []string{"cert-manager.io", "knative.dev", "certherd.dev"} {
		if prefix == domain || strings.HasSuffix(prefix, "."+domain) {
			return true
		}
	}
	return false
}

// keptFlags are the flags of Envoy that inventory reads.
var keptFlags = []string{"--drain-time-s", "--concurrency"}

// cutArgs leaves of a container's command line the flags of keptFlags with
// their numbers and what inventory knows the relay by, and three dots where
// something else stood.
func cutArgs(args []any) []any {
	out := []any{}
	value := false // the next word is a kept flag's
	dots := func() {
		if len(out) == 0 || out[len(out)-1] != "..." {
			out = append(out, "...")
		}
	}
	for _, a := range args {
		s, _ := a.(string)
		var words []string
		for _, w := range strings.Fields(s) {
			flag, number, assigned := strings.Cut(w, "=")
			relay, ofRelay := inventory.RelayWord(w)
			switch known := contains(keptFlags, flag); {
			case ofRelay:
				words = append(words, relay)
			case value && digits(w), known && assigned && digits(number), known && !assigned:
				words = append(words, w)
			case known:
				words = append(words, flag+"=...")
			case strings.HasPrefix(w, "--drain-time-s"):
				// By this much inventory knows an Envoy.
				words = append(words, "--drain-time-s=...")
			default:
				if n := len(words); n == 0 || words[n-1] != "..." {
					words = append(words, "...")
				}
			}
			value = contains(keptFlags, w)
		}
		if line := strings.Join(words, " "); line == "..." || line == "" {
			dots()
		} else {
			out = append(out, line)
		}
	}
	return out
}

func contains(list []string, s string) bool {
	for _, x := range list {
		if x == s {
			return true
		}
	}
	return false
}

func digits(s string) bool { return len(s) < 12 && number(s) }
