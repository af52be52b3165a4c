package inventory

import (
	"slices"
	"strings"
)

// scope says in which namespace a reference field looks for its Secret.
type scope int

const (
	// own: the namespace of the object itself.
	own scope = iota
	// beside: a field "namespace" beside the name, or ns/name or name.ns in the
	// value; otherwise the object's own namespace.
	beside
	// workload: the namespace of some program, which the object does not tell:
	// any namespace that has a Secret of that name.
	workload
	// certificate: the value is the ns/name of a cert-manager Certificate.
	certificate
)

// reference is one documented field that names a Secret or a Certificate.
type reference struct {
	group string // with a leading *, any group that ends so
	kind  string // "" for any kind
	name  string // "" for any object
	path  []string
	scope scope
	// tls is true where the field makes a gateway serve the Secret, so that a
	// missing one is worth telling.
	tls bool
	// loose is true where the field may hold anything, so that what it names in
	// vain was perhaps no name: then there is no edge.
	loose bool
}

// references is the table of known reference fields. A path is written with dots; [] is the
// element of a list, * any one key, and ** any number of them. The table
// makes verdicts precise, not safe: what it lacks, the conservative scan finds.
//
// Sources: the API types and CRD schemas of the projects named by the groups.
var references = parseReferences(`
# Pods, and whatever holds a pod template: the paths are the same below any prefix.
* * **.volumes[].secret.secretName own
* * **.volumes[].projected.sources[].secret.name own
* * **.volumes[].csi.nodePublishSecretRef.name own
* * **.volumes[].csi.volumeAttributes.* own
* * **.volumes[].rbd.secretRef.name own
* * **.volumes[].cephfs.secretRef.name own
* * **.volumes[].flexVolume.secretRef.name own
* * **.volumes[].iscsi.secretRef.name own
* * **.volumes[].scaleIO.secretRef.name own
* * **.volumes[].storageos.secretRef.name own
* * **.volumes[].azureFile.secretName own
* * **.containers[].env[].valueFrom.secretKeyRef.name own
* * **.containers[].envFrom[].secretRef.name own
* * **.initContainers[].env[].valueFrom.secretKeyRef.name own
* * **.initContainers[].envFrom[].secretRef.name own
* * **.ephemeralContainers[].env[].valueFrom.secretKeyRef.name own
* * **.ephemeralContainers[].envFrom[].secretRef.name own
* * **.imagePullSecrets[].name own
core ServiceAccount secrets[].name own
core PersistentVolume spec.csi.controllerPublishSecretRef.name beside
core PersistentVolume spec.csi.nodeStageSecretRef.name beside
core PersistentVolume spec.csi.nodePublishSecretRef.name beside
core PersistentVolume spec.csi.controllerExpandSecretRef.name beside
core PersistentVolume spec.csi.nodeExpandSecretRef.name beside
core PersistentVolume spec.*.secretRef.name beside
core PersistentVolume spec.azureFile.secretName beside
storage.k8s.io StorageClass parameters.* workload
snapshot.storage.k8s.io VolumeSnapshotClass parameters.* workload

# Ingress and its annotations.
networking.k8s.io Ingress spec.tls[].secretName beside tls
extensions Ingress spec.tls[].secretName beside tls
* Ingress metadata.annotations.nginx\.ingress\.kubernetes\.io/auth-tls-secret beside
* Ingress metadata.annotations.nginx\.ingress\.kubernetes\.io/proxy-ssl-secret beside
* Ingress metadata.annotations.nginx\.ingress\.kubernetes\.io/auth-secret beside
* Ingress metadata.annotations.haproxy\.org/server-crt beside
* Ingress metadata.annotations.haproxy\.org/server-ca beside
* Ingress metadata.annotations.haproxy\.org/client-ca beside
* Ingress metadata.annotations.haproxy-ingress\.github\.io/secure-crt-secret beside
* Ingress metadata.annotations.haproxy-ingress\.github\.io/secure-verify-ca-secret beside
* Ingress metadata.annotations.haproxy-ingress\.github\.io/auth-tls-secret beside
* Ingress metadata.annotations.nginx\.org/jwt-key beside
* * metadata.annotations.konghq\.com/client-cert beside
* * metadata.annotations.konghq\.com/ca-certificates-secrets beside

# Gateway API.
gateway.networking.k8s.io Gateway spec.listeners[].tls.certificateRefs[].name beside tls
gateway.networking.k8s.io Gateway spec.tls.backend.clientCertificateRef.name beside
gateway.networking.k8s.io Gateway spec.tls.frontend.default.validation.caCertificateRefs[].name beside
gateway.networking.k8s.io Gateway spec.tls.frontend.perPort[].tls.validation.caCertificateRefs[].name beside
gateway.networking.k8s.io Gateway spec.listeners[].tls.options.* beside
gateway.networking.k8s.io ListenerSet spec.listeners[].tls.certificateRefs[].name beside tls
gateway.networking.x-k8s.io XListenerSet spec.listeners[].tls.certificateRefs[].name beside tls
gateway.networking.k8s.io BackendTLSPolicy spec.validation.caCertificateRefs[].name own
gateway.networking.x-k8s.io XBackend spec.tls.clientCertificateRef.name beside
gateway.networking.x-k8s.io XBackend spec.tls.validation.caCertificateRefs[].name beside

# Knative.
networking.internal.knative.dev Ingress spec.tls[].secretName beside tls
networking.internal.knative.dev Certificate spec.secretName own
serving.knative.dev DomainMapping spec.tls.secretName own tls
core ConfigMap:config-kourier data.cluster-cert-secret workload
core ConfigMap:config-kourier data.certs-secret-name workload
operator.knative.dev KnativeServing spec.ingress.istio.*.servers[].tls.credentialName workload

# cert-manager and its companions.
cert-manager.io Issuer spec.ca.secretName own
cert-manager.io Issuer spec.acme.privateKeySecretRef.name own
cert-manager.io Issuer spec.acme.externalAccountBinding.keySecretRef.name own
cert-manager.io Issuer spec.acme.solvers[].dns01.*.*SecretRef.name own
cert-manager.io Issuer spec.acme.solvers[].dns01.**.name own
cert-manager.io Issuer spec.vault.caBundleSecretRef.name own
cert-manager.io Issuer spec.vault.clientCertSecretRef.name own
cert-manager.io Issuer spec.vault.clientKeySecretRef.name own
cert-manager.io Issuer spec.vault.auth.tokenSecretRef.name own
cert-manager.io Issuer spec.vault.auth.appRole.secretRef.name own
cert-manager.io Issuer spec.vault.auth.kubernetes.secretRef.name own
cert-manager.io Issuer spec.vault.auth.clientCertificate.secretName own
cert-manager.io Issuer spec.venafi.**.name own
cert-manager.io ClusterIssuer spec.ca.secretName workload
cert-manager.io ClusterIssuer spec.acme.privateKeySecretRef.name workload
cert-manager.io ClusterIssuer spec.acme.externalAccountBinding.keySecretRef.name workload
cert-manager.io ClusterIssuer spec.acme.solvers[].dns01.**.name workload
cert-manager.io ClusterIssuer spec.vault.caBundleSecretRef.name workload
cert-manager.io ClusterIssuer spec.vault.clientCertSecretRef.name workload
cert-manager.io ClusterIssuer spec.vault.clientKeySecretRef.name workload
cert-manager.io ClusterIssuer spec.vault.auth.tokenSecretRef.name workload
cert-manager.io ClusterIssuer spec.vault.auth.appRole.secretRef.name workload
cert-manager.io ClusterIssuer spec.vault.auth.kubernetes.secretRef.name workload
cert-manager.io ClusterIssuer spec.vault.auth.clientCertificate.secretName workload
cert-manager.io ClusterIssuer spec.venafi.**.name workload
cert-manager.io Certificate spec.secretName own
cert-manager.io Certificate spec.keystores.jks.passwordSecretRef.name own
cert-manager.io Certificate spec.keystores.pkcs12.passwordSecretRef.name own
cert-manager.io Certificate status.nextPrivateKeySecretName own
cert-manager.io CertificateRequest metadata.annotations.cert-manager\.io/private-key-secret-name own
* * metadata.annotations.cert-manager\.io/inject-ca-from certificate
* * metadata.annotations.cert-manager\.io/inject-ca-from-secret beside
trust.cert-manager.io Bundle spec.sources[].secret.name workload
trust.cert-manager.io ClusterBundle spec.sources[].secret.name workload
awspca.cert-manager.io * spec.secretRef.name beside
certmanager.step.sm * spec.provisioner.passwordRef.name own
*cas-issuer.jetstack.io * spec.provisioner.passwordRef.name own
cert-manager.k8s.cloudflare.com * spec.auth.*.name own

# Istio.
networking.istio.io Gateway spec.servers[].tls.credentialName workload tls
networking.istio.io Gateway spec.servers[].tls.credentialNames[] workload tls
networking.istio.io Gateway spec.servers[].tls.caCertCredentialName workload
networking.istio.io DestinationRule spec.**.tls.credentialName workload
networking.istio.io Sidecar spec.**.tls.credentialName workload

# Traefik.
traefik.io IngressRoute spec.tls.secretName own tls
traefik.io IngressRouteTCP spec.tls.secretName own tls
traefik.io TLSStore spec.defaultCertificate.secretName own tls
traefik.io TLSStore spec.certificates[].secretName own tls
traefik.io TLSOption spec.clientAuth.secretNames[] own
traefik.io ServersTransport spec.certificatesSecrets[] own
traefik.io ServersTransport spec.rootCAsSecrets[] own
traefik.io ServersTransport spec.rootCAs[].secret own
traefik.io ServersTransportTCP spec.tls.certificatesSecrets[] own
traefik.io ServersTransportTCP spec.tls.rootCAsSecrets[] own
traefik.io ServersTransportTCP spec.tls.rootCAs[].secret own
traefik.io Middleware spec.forwardAuth.tls.caSecret own
traefik.io Middleware spec.forwardAuth.tls.certSecret own
traefik.io Middleware spec.rateLimit.redis.tls.* own
traefik.containo.us * spec.tls.secretName own tls
traefik.containo.us TLSStore spec.defaultCertificate.secretName own tls
traefik.containo.us TLSStore spec.certificates[].secretName own tls
traefik.containo.us TLSOption spec.clientAuth.secretNames[] own
traefik.containo.us ServersTransport spec.certificatesSecrets[] own
traefik.containo.us ServersTransport spec.rootCAsSecrets[] own
traefik.containo.us Middleware spec.forwardAuth.tls.* own

# Contour.
projectcontour.io HTTPProxy spec.virtualhost.tls.secretName beside tls
projectcontour.io HTTPProxy spec.virtualhost.tls.clientValidation.caSecret beside
projectcontour.io HTTPProxy spec.virtualhost.tls.clientValidation.crlSecret beside
projectcontour.io HTTPProxy spec.virtualhost.jwtProviders[].remoteJWKS.validation.caSecret beside
projectcontour.io HTTPProxy spec.routes[].services[].validation.caSecret beside
projectcontour.io HTTPProxy spec.tcpproxy.services[].validation.caSecret beside
projectcontour.io TLSCertificateDelegation spec.delegations[].secretName own
projectcontour.io ContourConfiguration spec.**.clientCertificate.name beside
projectcontour.io ContourConfiguration spec.**.fallbackCertificate.name beside
projectcontour.io ContourDeployment spec.**.clientCertificate.name beside
projectcontour.io ContourDeployment spec.**.fallbackCertificate.name beside
projectcontour.io ExtensionService spec.validation.caSecret beside

# Emissary.
getambassador.io Host spec.tlsSecret.name beside tls
getambassador.io Host spec.tls.ca_secret beside
getambassador.io Host spec.tls.crl_secret beside
getambassador.io Host spec.acmeProvider.privateKeySecret.name beside
getambassador.io TLSContext spec.secret beside tls
getambassador.io TLSContext spec.ca_secret beside
getambassador.io TLSContext spec.crl_secret beside

# Gloo, kgateway, Envoy Gateway.
*solo.io * **.secretRef.name beside
gateway.kgateway.dev * spec.tls.secretRef.name beside
gateway.kgateway.dev * spec.**.caCertificateRefs[].name beside
gateway.envoyproxy.io * spec.**.caCertificateRefs[].name beside
gateway.envoyproxy.io * spec.**.crl.refs[].name beside
gateway.envoyproxy.io * spec.**.clientCertificateRef.name beside
gateway.envoyproxy.io * spec.**.caCertificateRef.name beside

# NGINX, APISIX, Kong, HAProxy.
k8s.nginx.org VirtualServer spec.tls.secret beside tls
k8s.nginx.org TransportServer spec.tls.secret beside tls
k8s.nginx.org Policy spec.ingressMTLS.clientCertSecret own
k8s.nginx.org Policy spec.egressMTLS.tlsSecret own
k8s.nginx.org Policy spec.egressMTLS.trustedCertSecret own
k8s.nginx.org Policy spec.oidc.* own
apisix.apache.org ApisixTls spec.secret.name beside tls
apisix.apache.org ApisixTls spec.client.caSecret.name beside
apisix.apache.org ApisixUpstream spec.tlsSecret.name beside
apisix.apache.org ApisixUpstream spec.portLevelSettings[].tlsSecret.name beside
configuration.konghq.com TCPIngress spec.tls[].secretName own tls
configuration.konghq.com * configFrom.secretKeyRef.name beside
ingress.v1.haproxy.org * **.ssl_certificate beside
core ConfigMap data.ssl-certificate beside

# Cilium.
cilium.io * **.terminatingTLS.secret.name beside
cilium.io * **.originatingTLS.secret.name beside

# OpenShift.
route.openshift.io Route spec.tls.externalCertificate.name own tls
route.openshift.io Route metadata.annotations.cert-utils-operator\.redhat-cop\.io/certs-from-secret own
operator.openshift.io IngressController spec.defaultCertificate.name workload tls
config.openshift.io Ingress spec.componentRoutes[].servingCertKeyPairSecret.name workload tls
config.openshift.io APIServer spec.servingCerts.namedCertificates[].servingCertificate.name workload tls
core Service metadata.annotations.service\.beta\.openshift\.io/serving-cert-secret-name own
core Service metadata.annotations.service\.alpha\.openshift\.io/serving-cert-secret-name own

# Data bases, queues and platforms.
kafka.strimzi.io * **.brokerCertChainAndKey.secretName own
kafka.strimzi.io * **.trustedCertificates[].secretName own
kafka.strimzi.io * **.tlsTrustedCertificates[].secretName own
kafka.strimzi.io * **.certificateAndKey.secretName own
*k8s.elastic.co * spec.http.tls.certificate.secretName own
*k8s.elastic.co * spec.transport.tls.certificate.secretName own
postgresql.cnpg.io Cluster spec.certificates.serverTLSSecret own
postgresql.cnpg.io Cluster spec.certificates.serverCASecret own
postgresql.cnpg.io Cluster spec.certificates.clientCASecret own
postgresql.cnpg.io Cluster spec.certificates.replicationTLSSecret own
postgresql.cnpg.io Pooler spec.pgbouncer.*.name own
acid.zalan.do postgresql spec.tls.secretName own
acid.zalan.do postgresql spec.tls.caSecretName own
*crunchydata.com * spec.customTLSSecret.name own
*crunchydata.com * spec.customReplicationTLSSecret.name own
k8s.mariadb.com * spec.tls.*.name own
mysql.oracle.com InnoDBCluster spec.tlsSecretName own
mysql.oracle.com InnoDBCluster spec.tlsCASecretName own
mongodbcommunity.mongodb.com * spec.security.tls.*.name own
psmdb.percona.com * spec.secrets.ssl own
psmdb.percona.com * spec.secrets.sslInternal own
pgv2.percona.com * spec.secrets.customTLSSecret.name own
pgv2.percona.com * spec.secrets.customReplicationTLSSecret.name own
pxc.percona.com * spec.sslSecretName own
pxc.percona.com * spec.sslInternalSecretName own
redis.redis.opstreelabs.in * spec.TLS.secret.secretName own
app.redislabs.com * spec.certificates.* own
dragonflydb.io Dragonfly spec.tlsSecretRef.name own
rabbitmq.com RabbitmqCluster spec.tls.secretName own
rabbitmq.com RabbitmqCluster spec.tls.caSecretName own
minio.min.io Tenant spec.externalCertSecret[].name own
minio.min.io Tenant spec.externalCaCertSecret[].name own
cluster.redpanda.com * **.tls.**.secretRef.name own
platform.confluent.io * **.tls.secretRef own
ceph.rook.io CephObjectStore spec.gateway.sslCertificateRef own
k8s.keycloak.org Keycloak spec.http.tlsSecret own
k8s.keycloak.org Keycloak spec.ingress.tlsSecret own
k8s.keycloak.org Keycloak spec.admin.tlsSecret own
awx.ansible.com AWX spec.ingress_tls_secret own
awx.ansible.com AWX spec.route_tls_secret own
grafana.integreatly.org * **.certSecretRef.name own
grafana.integreatly.org Grafana spec.ingress.spec.tls[].secretName own
monitoring.coreos.com * **.tlsConfig.cert.secret.name own
monitoring.coreos.com * **.tlsConfig.ca.secret.name own
monitoring.coreos.com * **.tlsConfig.keySecret.name own
operator.victoriametrics.com * **.tlsConfig.cert.secret.name own
operator.victoriametrics.com * **.tlsConfig.ca.secret.name own
operator.victoriametrics.com * **.tlsConfig.keySecret.name own
logging.banzaicloud.io * **.secretKeyRef.name own
opentelemetry.io OpenTelemetryCollector spec.ingress.tls[].secretName own
dynatrace.com * spec.activeGate.tlsSecretName own
config.supervisor.pinniped.dev FederationDomain spec.tls.secretName own
pkg.crossplane.io * spec.tlsServerSecretName workload
pkg.crossplane.io * spec.tlsClientSecretName workload
keda.sh TriggerAuthentication spec.secretTargetRef[].name own
keda.sh ClusterTriggerAuthentication spec.secretTargetRef[].name workload
*toolkit.fluxcd.io * **.certSecretRef.name own
external-secrets.io * **.*SecretRef.name beside
external-secrets.io PushSecret spec.selector.secret.name own
velero.io BackupStorageLocation spec.**.caCertRef.name own
jetstream.nats.io Account spec.tls.secret.name own

# Programs that copy Secrets, and programs that watch them.
core Secret metadata.annotations.reflector\.v1\.k8s\.emberstack\.com/reflects beside
core Secret metadata.annotations.replicator\.v1\.mittwald\.de/replicate-from beside
core Secret metadata.annotations.replicator\.v1\.mittwald\.de/replicated-from beside
kyverno.io * spec.rules[].generate.clone.name beside
clustersecret.io ClusterSecret data.valueFrom.secretKeyRef.name beside
* * metadata.annotations.secret\.reloader\.stakater\.com/reload own
`)

// flags are command-line flags that name a Secret, --flag=namespace/name or
// --flag=name, as an argument of any container; without their dashes.
var flags = map[string]bool{
	"default-ssl-certificate":        true, // ingress-nginx pkg/flags, HAProxy controllers
	"default-server-tls-secret":      true, // nginx.org
	"wildcard-tls-secret":            true, // nginx.org
	"dynamic-serving-ca-secret-name": true, // cert-manager webhook
	"tls-secret-name":                true, // webhooks and operators
	"secret-name":                    true,
	"cert-secret-name":               true,
	"webhook-secret-name":            true,
}

// fixedNames are Secrets that a program reads by a name that it has built in,
// where no object of the cluster says so.
var fixedNames = map[string]string{
	"argocd-server-tls":                 "Argo CD",
	"argocd-repo-server-tls":            "Argo CD",
	"argocd-dex-server-tls":             "Argo CD",
	"cacerts":                           "Istio",
	"istio-ca-secret":                   "Istio",
	"istiod-tls":                        "Istio",
	"istio-ingressgateway-certs":        "Istio",
	"istio-ingressgateway-ca-certs":     "Istio",
	"linkerd-identity-issuer":           "Linkerd",
	"linkerd-trust-anchor":              "Linkerd",
	"webhook-issuer-tls":                "Linkerd",
	"linkerd-policy-validator-k8s-tls":  "Linkerd",
	"linkerd-proxy-injector-k8s-tls":    "Linkerd",
	"linkerd-sp-validator-k8s-tls":      "Linkerd",
	"linkerd-tap-k8s-tls":               "Linkerd",
	"tap-k8s-tls":                       "Linkerd",
	"cilium-ca":                         "Cilium",
	"hubble-server-certs":               "Cilium",
	"hubble-relay-client-certs":         "Cilium",
	"hubble-relay-server-certs":         "Cilium",
	"hubble-ui-client-certs":            "Cilium",
	"hubble-metrics-server-certs":       "Cilium",
	"clustermesh-apiserver-ca-cert":     "Cilium",
	"clustermesh-apiserver-server-cert": "Cilium",
	"clustermesh-apiserver-admin-cert":  "Cilium",
	"clustermesh-apiserver-remote-cert": "Cilium",
	"clustermesh-apiserver-local-cert":  "Cilium",
	"tls-rancher-ingress":               "Rancher",
	"tls-rancher":                       "Rancher",
	"tls-ca":                            "Rancher",
	"harbor-ingress":                    "Harbor",
	"ambassador-certs":                  "Emissary",
	"fallback-self-signed-cert":         "Emissary",
	"webhook-server-cert":               "kubebuilder webhooks",
	"kubernetes-dashboard-certs":        "Kubernetes Dashboard",
	"cert-manager-webhook-ca":           "cert-manager",
	"routing-serving-certs":             "Knative",
	"serving-certs":                     "Knative",
	"knative-serving-certs":             "Knative",
	// knative.dev/eventing pkg/eventingtls and its data planes read these
	// through an informer: no Pod mounts them.
	"imc-dispatcher-server-tls":        "Knative Eventing",
	"job-sink-server-tls":              "Knative Eventing",
	"request-reply-server-tls":         "Knative Eventing",
	"mt-broker-filter-server-tls":      "Knative Eventing",
	"mt-broker-ingress-server-tls":     "Knative Eventing",
	"pingsource-mt-adapter-server-tls": "Knative Eventing",
	"kafka-broker-ingress-server-tls":  "Knative Eventing",
	"kafka-channel-ingress-server-tls": "Knative Eventing",
	"kafka-sink-ingress-server-tls":    "Knative Eventing",
	"envoy":                            "Envoy Gateway",
	"envoy-gateway":                    "Envoy Gateway",
	"envoy-rate-limit":                 "Envoy Gateway",
	"envoy-oidc-hmac":                  "Envoy Gateway",
	"contourcert":                      "Contour",
	"envoycert":                        "Contour",
	"default-ssl-certificate":          "ingress controllers",
	"metrics-server-cert":              "kubebuilder metrics servers",
}

// discoveryLabels are labels by which a program finds Secrets on its own.
var discoveryLabels = map[string]string{
	"konghq.com/ca-cert":                           "Kong",
	"konghq.com/credential":                        "Kong",
	"argocd.argoproj.io/secret-type":               "Argo CD",
	"sealedsecrets.bitnami.com/sealed-secrets-key": "Sealed Secrets",
	"istio/multiCluster":                           "Istio",
	"external-secrets.io/type":                     "External Secrets",
	"cloud.google.com/secret-sync":                 "a cloud controller",
}

// sharingAnnotations on a Secret say that copies of it may be made elsewhere,
// with the program that reads them.
var sharingAnnotations = map[string]string{
	"reflector.v1.k8s.emberstack.com/reflection-auto-enabled": "reflector",
	"reflector.v1.k8s.emberstack.com/reflection-allowed":      "reflector",
	"replicator.v1.mittwald.de/replicate-to":                  "replicator",
	"replicator.v1.mittwald.de/replicate-to-matching":         "replicator",
	"replicator.v1.mittwald.de/replication-allowed":           "replicator",
	"kubed.appscode.com/sync":                                 "config-syncer",
	"cert-manager.io/allow-direct-injection":                  "cert-manager's cainjector",
}

func parseReferences(table string) []reference {
	var out []reference
	for line := range strings.Lines(table) {
		f := strings.Fields(line)
		if len(f) == 0 || f[0] == "#" {
			continue
		}
		r := reference{group: f[0], kind: f[1], path: splitPath(f[2])}
		if r.group == "core" {
			r.group = ""
		}
		if r.kind == "*" {
			r.kind = ""
		}
		r.kind, r.name, _ = strings.Cut(r.kind, ":")
		switch f[3] {
		case "beside":
			r.scope = beside
		case "workload":
			r.scope = workload
		case "certificate":
			r.scope = certificate
		case "own":
		default:
			panic("references: no such scope: " + line)
		}
		r.tls = len(f) > 4 && f[4] == "tls"
		last := r.path[len(r.path)-1]
		r.loose = last == "*" || last == "**"
		out = append(out, r)
	}
	return out
}

func splitPath(s string) []string {
	var path []string
	var b strings.Builder
	flush := func() {
		if b.Len() > 0 {
			path = append(path, b.String())
			b.Reset()
		}
	}
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] == '\\' && i+1 < len(s):
			i++
			b.WriteByte(s[i])
		case s[i] == '.':
			flush()
		case strings.HasPrefix(s[i:], "[]"):
			flush()
			path = append(path, "[]")
			i++
		default:
			b.WriteByte(s[i])
		}
	}
	flush()
	return path
}

// referencesOf returns the rows that can apply to objects of one kind.
func referencesOf(group, kind string) []reference {
	var out []reference
	for _, r := range references {
		if (r.kind == "" || r.kind == kind) && groupMatches(r.group, group) {
			out = append(out, r)
		}
	}
	return out
}

func groupMatches(pattern, group string) bool {
	if rest, ok := strings.CutPrefix(pattern, "*"); ok {
		return strings.HasSuffix(group, rest)
	}
	return pattern == group
}

// pathMatches reports whether a path fits a pattern: * is any one key, a key
// that begins with * any key that ends so, ** any number of steps.
func pathMatches(pattern, path []string) bool {
	for len(pattern) > 0 {
		p := pattern[0]
		if p == "**" {
			for i := range len(path) + 1 {
				if pathMatches(pattern[1:], path[i:]) {
					return true
				}
			}
			return false
		}
		if len(path) == 0 {
			return false
		}
		k := path[0]
		switch {
		case p == k:
		case p == "*":
			if k == "[]" {
				return false
			}
		case strings.HasPrefix(p, "*") && strings.HasSuffix(k, p[1:]):
		default:
			return false
		}
		pattern, path = pattern[1:], path[1:]
	}
	return len(path) == 0
}

// knownSchema reports whether a kind is known well enough that an object's own
// name is never a hidden reference, and that only free text and the fields of
// the table name anything: no operator of theirs derives the name of a TLS Secret
// from it, beyond what the table lists.
func knownSchema(group, kind string) bool {
	if group == "argoproj.io" && kind == "ArgoCD" {
		return false // argocd-operator: Secrets are named after the object
	}
	return !strings.Contains(group, ".") || slices.ContainsFunc(knownGroups, func(g string) bool {
		if suffix, ok := strings.CutPrefix(g, "*."); ok {
			return group == suffix || strings.HasSuffix(group, g[1:])
		}
		return group == g
	})
}

// knownGroups are the groups with a dot whose schema is known; *. stands for the
// group and all below it.
var knownGroups = strings.Fields(`
admissionregistration.k8s.io apiextensions.k8s.io apiregistration.k8s.io authentication.k8s.io authorization.k8s.io
certificates.k8s.io coordination.k8s.io discovery.k8s.io events.k8s.io flowcontrol.apiserver.k8s.io internal.apiserver.k8s.io
metrics.k8s.io networking.k8s.io node.k8s.io policy.k8s.io rbac.authorization.k8s.io resource.k8s.io scheduling.k8s.io
storage.k8s.io storagemigration.k8s.io snapshot.storage.k8s.io gateway.networking.k8s.io policy.networking.k8s.io
*.knative.dev *.cert-manager.io networking.istio.io security.istio.io traefik.io projectcontour.io monitoring.coreos.com
apps.openshift.io authorization.openshift.io build.openshift.io config.openshift.io image.openshift.io
machineconfiguration.openshift.io oauth.openshift.io project.openshift.io quota.openshift.io route.openshift.io
security.openshift.io template.openshift.io user.openshift.io
*.fluxcd.io *.argoproj.io cilium.io certherd.dev *.crd.projectcalico.org
`)
