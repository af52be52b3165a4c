package shape

import (
	"bytes"
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
	"google.golang.org/protobuf/encoding/protowire"
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
	_, err := s.set(typeURL, resources, nil)
	return err
}

// set is Set. With a cache, messages and their parts that had the same bytes the
// last time are the same messages, and what is returned is the same for resources
// that are the same in another order.
func (s *State) set(typeURL string, resources []*anypb.Any, c *cache) (sum, error) {
	var of sum
	var err error
	switch typeURL {
	case ListenerType:
		of, err = decode(&s.Listeners, resources, c, func() *listenerv3.Listener { return new(listenerv3.Listener) })
	case RouteType:
		of, err = decode(&s.Routes, resources, c, func() *routev3.RouteConfiguration { return new(routev3.RouteConfiguration) })
	case ClusterType:
		of, err = decode(&s.Clusters, resources, c, func() *clusterv3.Cluster { return new(clusterv3.Cluster) })
	case EndpointType:
		of, err = decode(&s.Endpoints, resources, c, func() *endpointv3.ClusterLoadAssignment { return new(endpointv3.ClusterLoadAssignment) })
	case SecretType:
		of, err = decode(&s.Secrets, resources, c, func() *tlsv3.Secret { return new(tlsv3.Secret) })
	default:
		for _, r := range resources {
			of.add(c.of(slices.Concat([]byte(r.GetTypeUrl()), r.GetValue())))
		}
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
	return of, err
}

func decode[M proto.Message](into *[]M, resources []*anypb.Any, c *cache, empty func() M) (all sum, err error) {
	list := make([]M, 0, len(resources))
	name := empty().ProtoReflect().Descriptor().FullName()
	for i, r := range resources {
		var m M
		var of sum
		err := fmt.Errorf("it is of type %s", r.GetTypeUrl())
		if r.MessageName() == name {
			m, of, err = parse(c, r.GetValue(), string(name), empty)
		}
		if err != nil {
			return sum{}, fmt.Errorf("resource %d of %d: %w", i+1, len(resources), err)
		}
		list = append(list, m)
		all.add(of)
	}
	*into = list
	return all, nil
}

// parse reads a message, and shares what has been read before. Its sum does not
// depend on the order of what the message is made of, where that decides nothing.
func parse[M proto.Message](c *cache, b []byte, name string, empty func() M) (M, sum, error) {
	if c == nil {
		m := empty()
		return m, sum{}, proto.Unmarshal(b, m)
	}
	// Of what has thousands of parts, an event changes one.
	switch any(*new(M)).(type) {
	case *listenerv3.Listener:
		m := empty()
		frame, chains, all, err := parts[listenerv3.FilterChain](c, b, 3)
		if err == nil {
			err = proto.UnmarshalOptions{Merge: true}.Unmarshal(frame, m)
		}
		any(m).(*listenerv3.Listener).FilterChains = chains
		return m, c.with(frame, all), err
	case *routev3.RouteConfiguration:
		m := empty()
		frame, hosts, all, err := parts[routev3.VirtualHost](c, b, 2)
		if err == nil {
			err = proto.UnmarshalOptions{Merge: true}.Unmarshal(frame, m)
		}
		any(m).(*routev3.RouteConfiguration).VirtualHosts = hosts
		return m, c.with(frame, all), err
	}
	of := c.of(b)
	at := content{name, of}
	r, ok := look[*read[M]](c, at)
	if !ok {
		r = &read[M]{m: empty(), of: of}
		if err := proto.Unmarshal(b, r.m); err != nil {
			return r.m, of, err
		}
		r.stable = r.m
		switch m := any(r.m).(type) {
		case *tlsv3.Secret: // Shape takes it apart
		case *listenerv3.FilterChain: // so does it with this one
			if a := m.GetTransportSocket().GetTypedConfig(); a != nil {
				// Most of a chain are its keys, and other listeners have the same.
				a.Value = cached(c, "bytes", a.Value, func() []byte { return a.Value })
			}
		default:
			settled := settled(r.m)
			if s := marshal(settled); len(s) > 0 && !bytes.Equal(s, b) {
				r.stable, r.of = settled, c.of(s)
			}
		}
	}
	c.now[at] = r
	c.seen[known{"stable", r.m}] = r.stable
	return r.m, r.of, nil
}

// read is a message as it came, with its stable form and what tells that apart.
type read[M proto.Message] struct {
	m, stable M
	of        sum
}

// parts reads the messages of one repeated field, and returns the rest as bytes.
func parts[T any, M interface {
	*T
	proto.Message
}](c *cache, b []byte, field protowire.Number) (frame []byte, list []M, all sum, err error) {
	name := string(M(nil).ProtoReflect().Descriptor().FullName())
	for len(b) > 0 {
		number, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return nil, nil, sum{}, protowire.ParseError(n)
		}
		size := protowire.ConsumeFieldValue(number, typ, b[n:])
		if size < 0 {
			return nil, nil, sum{}, protowire.ParseError(size)
		}
		if number == field && typ == protowire.BytesType {
			value, _ := protowire.ConsumeBytes(b[n:])
			m, of, err := parse(c, value, name, func() M { return new(T) })
			if err != nil {
				return nil, nil, sum{}, err
			}
			list = append(list, m)
			all.add(of)
		} else {
			frame = append(frame, b[:n+size]...)
		}
		b = b[n+size:]
	}
	return frame, list, all, nil
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
	switch m := m.(type) {
	case interface{ GetClusterName() string }:
		return m.GetClusterName()
	case interface{ GetName() string }:
		return m.GetName()
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
	var plain func(proto.Message) string
	plain = func(m proto.Message) string { return digestOf(m, plain) }
	return s.digestsBy(typeURL, plain)
}

func (s State) digestsBy(typeURL string, of func(proto.Message) string) map[string]string {
	resources := s.Resources(typeURL)
	digests := make(map[string]string, len(resources))
	for _, r := range resources {
		digests[Name(r)] = of(r)
	}
	return digests
}

// digestOf is the digest of a message's bytes. Those that are made of thousands
// of parts, of which an event changes one, have the digest of their parts' digests.
func digestOf(m proto.Message, part func(proto.Message) string) string {
	h := sha256.New()
	switch m := m.(type) {
	case *listenerv3.Listener:
		frame := shallow(m)
		frame.FilterChains = nil
		h.Write(marshal(frame))
		for _, fc := range m.GetFilterChains() {
			h.Write([]byte(part(fc)))
		}
	case *routev3.RouteConfiguration:
		frame := shallow(m)
		frame.VirtualHosts = nil
		h.Write(marshal(frame))
		for _, vh := range m.GetVirtualHosts() {
			h.Write([]byte(part(vh)))
		}
	default:
		h.Write(marshal(m))
	}
	return hex.EncodeToString(h.Sum(nil)[:16])
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
func (s *State) seal(c *cache) {
	digests := map[string]map[string]string{}
	for _, t := range s.Types() {
		digests[t] = s.digestsBy(t, c.digest)
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
