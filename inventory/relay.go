package inventory

import (
	"encoding/json"
	"net"
	"path"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"
)

// BootstrapKey is what Kourier's ConfigMaps have an Envoy's bootstrap configuration
// at (net-kourier config/200-bootstrap.yaml).
const BootstrapKey = "envoy-bootstrap.yaml"

// HoldsBootstrap reports whether the inventory looks for a bootstrap configuration in
// a ConfigMap: those whose names begin with config- are Knative's settings.
func HoldsBootstrap(configMap string) bool { return !strings.HasPrefix(configMap, "config-") }

// relays is what tells whether a gateway gets its configuration through
// certherd-relay.
type relays struct {
	// servers are the hosts of the xDS servers that bootstrap configurations name,
	// by namespace and name of their ConfigMap; runs the Deployments and DaemonSets
	// that run the relay, by namespace and name.
	servers map[[2]string][]string
	runs    map[[2]string]Ref
	mounted []mounted
}

// mounted are the ConfigMaps that a gateway's pods mount.
type mounted struct {
	workload   int
	configMaps []string
	sidecar    bool
}

// settle gives each gateway the relay that all its bootstrap configurations lead
// to: in its own pods, or behind a Service that is named as its Deployment is. In
// doubt there is none, which is what is told as the worse.
func (r *relays) settle(workloads []Workload) {
	for _, m := range r.mounted {
		w := &workloads[m.workload]
		ns := w.Ref.Namespace
		var found []Ref
		for _, name := range m.configMaps {
			for _, host := range r.servers[[2]string{ns, name}] {
				found = append(found, r.at(host, ns, w.Ref, m.sidecar))
			}
		}
		if len(found) > 0 && !slices.ContainsFunc(found, func(x Ref) bool { return x != found[0] }) {
			w.Relay = found[0]
		}
	}
}

// at is what runs the relay at a host that is named in a namespace.
func (r *relays) at(host, namespace string, own Ref, sidecar bool) Ref {
	if ip := net.ParseIP(host); host == "localhost" || ip != nil && ip.IsLoopback() {
		if sidecar {
			return own
		}
		return Ref{}
	}
	name, rest, _ := strings.Cut(strings.TrimSuffix(host, "."), ".")
	if rest != "" {
		var service string
		namespace, service, _ = strings.Cut(rest, ".")
		if service != "" && service != "svc" && !strings.HasPrefix(service, "svc.") {
			return Ref{}
		}
	}
	return r.runs[[2]string{namespace, name}]
}

// XDSServers are the hosts of the servers that an Envoy gets its configuration from,
// by its bootstrap configuration (YAML; envoy.config.bootstrap.v3.Bootstrap): those
// of the static cluster that dynamic_resources.ads_config names. None for what cannot
// be read.
func XDSServers(bootstrap string) []string {
	var b any
	if yaml.Unmarshal([]byte(bootstrap), &b) != nil {
		return nil
	}
	var clusters []string
	for _, v := range values(b, "dynamic_resources", "ads_config", "grpc_services", "envoy_grpc", "cluster_name") {
		if name, ok := v.(string); ok {
			clusters = append(clusters, name)
		}
	}
	var hosts []string
	for _, c := range values(b, "static_resources", "clusters") {
		m, _ := c.(map[string]any)
		if name, ok := m["name"].(string); !ok || !slices.Contains(clusters, name) {
			continue
		}
		// Kourier writes a list of one as the one.
		for _, v := range values(c, "load_assignment", "endpoints", "lb_endpoints", "endpoint", "address", "socket_address", "address") {
			if host, ok := v.(string); ok {
				hosts = append(hosts, host)
			}
		}
	}
	slices.Sort(hosts)
	return slices.Compact(hosts)
}

// values are those at a path of fields, with all elements of the lists on it.
func values(v any, fields ...string) []any {
	if list, ok := v.([]any); ok {
		var out []any
		for _, x := range list {
			out = append(out, values(x, fields...)...)
		}
		return out
	}
	if len(fields) == 0 {
		return []any{v}
	}
	m, _ := v.(map[string]any)
	if x, ok := m[fields[0]]; ok {
		return values(x, fields[1:]...)
	}
	return nil
}

// Bootstrap is a bootstrap configuration of which XDSServers gives these hosts, and
// that says nothing else.
func Bootstrap(servers []string) string {
	type object map[string]any
	const cluster = "xds_cluster"
	var endpoints []object
	for _, host := range servers {
		endpoints = append(endpoints, object{"endpoint": object{"address": object{"socket_address": object{"address": host}}}})
	}
	text, err := json.Marshal(object{
		"dynamic_resources": object{"ads_config": object{"grpc_services": []object{{"envoy_grpc": object{"cluster_name": cluster}}}}},
		"static_resources":  object{"clusters": []object{{"name": cluster, "load_assignment": object{"endpoints": []object{{"lb_endpoints": endpoints}}}}}},
	})
	if err != nil {
		panic(err) // of strings, there is none
	}
	return string(text)
}

// relayProgram is the relay's file; relayFlags are those without which it is as
// good as none.
const relayProgram = "certherd-relay"

var relayFlags = []string{"--sds", "--merge"}

// RelayWord returns a word of a container's command line as it matters to the
// inventory where it is one of certherd-relay's: the program without its folder, or a
// flag that switches off what the gateway's cost depends on.
func RelayWord(word string) (string, bool) {
	if path.Base(word) == relayProgram {
		return relayProgram, true
	}
	flag, value, _ := strings.Cut(word, "=")
	if _, err := strconv.ParseBool(value); err == nil && slices.Contains(relayFlags, flag) {
		return word, true
	}
	return "", false
}

// runsRelay reports whether a pod runs the relay, with certificates as secrets and
// merged chains.
func runsRelay(spec *corev1.PodSpec) bool {
	for _, container := range slices.Concat(spec.InitContainers, spec.Containers) {
		words := slices.Concat(container.Command, container.Args)
		if len(words) == 0 || path.Base(words[0]) != relayProgram {
			continue
		}
		return !slices.ContainsFunc(words, func(w string) bool {
			flag, value, _ := strings.Cut(w, "=")
			on, err := strconv.ParseBool(value)
			return slices.Contains(relayFlags, flag) && (err != nil || !on)
		})
	}
	return false
}

// seeBootstrap keeps the xDS servers of a ConfigMap with a bootstrap
// configuration.
func (c *Collector) seeBootstrap(o *corev1.ConfigMap) {
	hosts := XDSServers(o.Data[BootstrapKey])
	if len(hosts) == 0 {
		return
	}
	c.kept++
	if c.relays.servers == nil {
		c.relays.servers = map[[2]string][]string{}
	}
	c.relays.servers[[2]string{o.Namespace, o.Name}] = hosts
}

// seeRelay keeps a Deployment or DaemonSet that runs the relay and is no gateway.
func (c *Collector) seeRelay(kind string, m *metav1.ObjectMeta, spec *corev1.PodSpec) {
	if !runsRelay(spec) {
		return
	}
	c.kept++
	if c.relays.runs == nil {
		c.relays.runs = map[[2]string]Ref{}
	}
	c.relays.runs[[2]string{m.Namespace, m.Name}] = Ref{Group: "apps", Kind: kind, Namespace: m.Namespace, Name: m.Name}
}

// seeMounted keeps what a gateway's pods mount.
func (c *Collector) seeMounted(spec *corev1.PodSpec) {
	m := mounted{workload: len(c.o.Workloads) - 1, sidecar: runsRelay(spec)}
	for _, v := range spec.Volumes {
		if v.ConfigMap != nil {
			m.configMaps = append(m.configMaps, v.ConfigMap.Name)
		}
	}
	c.relays.mounted = append(c.relays.mounted, m)
}
