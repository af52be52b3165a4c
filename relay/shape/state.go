package shape

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/anypb"
)

// Type URLs of the resources that State has a field for, as the xDS protocol
// writes them.
const (
	ListenerType = "type.googleapis.com/envoy.config.listener.v3.Listener"
	RouteType    = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration"
	ClusterType  = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
	EndpointType = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"
	SecretType   = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"
)

// State is one complete set of resources, as an xDS server serves them. Nobody
// changes a message once it is in a State: states share them.
type State struct {
	Listeners []*listenerv3.Listener
	Routes    []*routev3.RouteConfiguration
	Clusters  []*clusterv3.Cluster
	Endpoints []*endpointv3.ClusterLoadAssignment
	Secrets   []*tlsv3.Secret

	// Others are resources of types without a field, by type URL; they pass.
	Others map[string][]*anypb.Any

	digests map[string]map[string]string
}

// Set puts all resources of a type in place of those that were there. An error
// names the resource that is not what typeURL says; nothing is changed then.
func (s *State) Set(typeURL string, resources []*anypb.Any) error {
	var err error
	switch typeURL {
	case ListenerType:
		err = decode(&s.Listeners, resources, func() *listenerv3.Listener { return new(listenerv3.Listener) })
	case RouteType:
		err = decode(&s.Routes, resources, func() *routev3.RouteConfiguration { return new(routev3.RouteConfiguration) })
	case ClusterType:
		err = decode(&s.Clusters, resources, func() *clusterv3.Cluster { return new(clusterv3.Cluster) })
	case EndpointType:
		err = decode(&s.Endpoints, resources, func() *endpointv3.ClusterLoadAssignment { return new(endpointv3.ClusterLoadAssignment) })
	case SecretType:
		err = decode(&s.Secrets, resources, func() *tlsv3.Secret { return new(tlsv3.Secret) })
	default:
		others := maps.Clone(s.Others)
		if others == nil {
			others = map[string][]*anypb.Any{}
		}
		if others[typeURL] = resources; len(resources) == 0 {
			delete(others, typeURL)
		}
		s.Others = others
	}
	if err == nil {
		s.digests = nil
	}
	return err
}

func decode[M proto.Message](into *[]M, resources []*anypb.Any, empty func() M) error {
	list := make([]M, 0, len(resources))
	for i, r := range resources {
		m := empty()
		if err := r.UnmarshalTo(m); err != nil {
			return fmt.Errorf("resource %d of %d: %w", i+1, len(resources), err)
		}
		list = append(list, m)
	}
	*into = list
	return nil
}

// Types returns the type URLs that s has resources of, sorted.
func (s State) Types() []string {
	types := slices.Collect(maps.Keys(s.Others))
	for _, t := range []string{ListenerType, RouteType, ClusterType, EndpointType, SecretType} {
		if len(s.Resources(t)) > 0 {
			types = append(types, t)
		}
	}
	slices.Sort(types)
	return types
}

// Resources returns the resources of a type, nil for none. Those of Others are
// *anypb.Any.
func (s State) Resources(typeURL string) []proto.Message {
	switch typeURL {
	case ListenerType:
		return messages(s.Listeners)
	case RouteType:
		return messages(s.Routes)
	case ClusterType:
		return messages(s.Clusters)
	case EndpointType:
		return messages(s.Endpoints)
	case SecretType:
		return messages(s.Secrets)
	}
	return messages(s.Others[typeURL])
}

func messages[M proto.Message](list []M) []proto.Message {
	if len(list) == 0 {
		return nil
	}
	out := make([]proto.Message, len(list))
	for i, m := range list {
		out[i] = m
	}
	return out
}

// Name returns the name that the xDS protocol knows a resource by: field
// cluster_name of a ClusterLoadAssignment, field name of all others, within an
// Any as well. It is a digest for what has neither.
func Name(m proto.Message) string {
	if a, ok := m.(*anypb.Any); ok {
		inner, err := a.UnmarshalNew()
		if err != nil {
			return digest(marshal(a))
		}
		m = inner
	}
	if m == nil {
		return ""
	}
	r := m.ProtoReflect()
	for _, field := range []protoreflect.Name{"cluster_name", "name"} {
		if fd := r.Descriptor().Fields().ByName(field); fd != nil && fd.Kind() == protoreflect.StringKind && !fd.IsList() {
			return r.Get(fd).String()
		}
	}
	return digest(marshal(m))
}

// Digests returns a digest of each resource of a type, by name. The same content
// has the same digest in every process of the same build.
func (s State) Digests(typeURL string) map[string]string {
	if d, ok := s.digests[typeURL]; ok {
		return d
	}
	resources := s.Resources(typeURL)
	digests := make(map[string]string, len(resources))
	for _, r := range resources {
		digests[Name(r)] = digest(marshal(r))
	}
	return digests
}

// Version returns a digest of all resources of a type: it changes when one of
// them does, and only then.
func (s State) Version(typeURL string) string {
	digests := s.Digests(typeURL)
	h := sha256.New()
	for _, name := range slices.Sorted(maps.Keys(digests)) {
		fmt.Fprintf(h, "%d %s %s ", len(name), name, digests[name])
	}
	return hex.EncodeToString(h.Sum(nil)[:16])
}

// seal computes the digests of s once.
func (s *State) seal() {
	digests := map[string]map[string]string{}
	for _, t := range s.Types() {
		digests[t] = s.Digests(t)
	}
	s.digests = digests
}

// marshal returns the deterministic bytes of a message, nil for one that cannot
// be written, as a string that is not UTF-8 makes it.
func marshal(m proto.Message) []byte {
	b, err := proto.MarshalOptions{Deterministic: true, AllowPartial: true}.Marshal(m)
	if err != nil {
		return nil
	}
	return b
}

func digest(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:16])
}

// byName sorts resources by their names, and where two have the same by their
// bytes.
func byName[M interface {
	proto.Message
	comparable
}](list []M) {
	slices.SortFunc(list, func(a, b M) int {
		if c := cmp.Compare(Name(a), Name(b)); c != 0 {
			return c
		}
		return slices.Compare(marshal(a), marshal(b))
	})
}
