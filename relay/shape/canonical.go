package shape

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"hash/maphash"
	"slices"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/known/anypb"

	// What Kourier puts into Any: a type that is not linked keeps its bytes.
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/file/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_authz/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/proxy_protocol/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/tls_inspector/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
)

// deepest is how far Any within Any is followed. Envoy's own configuration needs
// three or four.
const deepest = 16

// cache holds what was made of messages, for what was used in this state or in
// the one before it. Messages are known by their address, because nobody changes
// one that is in a State, and by their bytes. What is found is what would be made.
type cache struct {
	now, last    map[content]any
	seen, before map[known]any
	seeds        [2]maphash.Seed
}

// content tells apart what the bytes were and what was made of them.
type content struct {
	what string
	of   sum
}

// sum tells bytes apart, within one cache.
type sum [2]uint64

// of is the sum of some bytes.
func (c *cache) of(b []byte) sum {
	if c == nil {
		return sum{}
	}
	return sum{maphash.Bytes(c.seeds[0], b), maphash.Bytes(c.seeds[1], b)}
}

// add makes s the sum of more. The order in which sums are added does not matter.
func (s *sum) add(more sum) { s[0], s[1] = s[0]+more[0], s[1]+more[1] }

// with is the sum of some bytes and of all that belongs to them.
func (c *cache) with(b []byte, all sum) sum {
	of := c.of(b)
	b = binary.NativeEndian.AppendUint64(binary.NativeEndian.AppendUint64(nil, of[0]), of[1])
	return c.of(binary.NativeEndian.AppendUint64(binary.NativeEndian.AppendUint64(b, all[0]), all[1]))
}

// known tells apart messages by address, and what was made of them.
type known struct {
	what string
	m    proto.Message
}

func newCache() cache {
	return cache{
		now: map[content]any{}, last: map[content]any{}, seen: map[known]any{}, before: map[known]any{},
		seeds: [2]maphash.Seed{maphash.MakeSeed(), maphash.MakeSeed()},
	}
}

// turn forgets what the last state did not use.
func (c *cache) turn() {
	c.last, c.now = c.now, c.last
	c.before, c.seen = c.seen, c.before
	clear(c.now)
	clear(c.seen)
}

// cached returns what was made of key, and makes it if that is not there. what
// names the kind of thing that is made.
func cached[T any](c *cache, what string, key []byte, make func() T) T {
	at := content{what, c.of(key)}
	v, ok := look[T](c, at)
	if !ok {
		v = make()
	}
	c.now[at] = v
	return v
}

// look returns what was made of some bytes, if that is there.
func look[T any](c *cache, at content) (T, bool) {
	if v, ok := c.now[at].(T); ok {
		return v, true
	}
	v, ok := c.last[at].(T)
	return v, ok
}

// recalled is cached for what is made of one message.
func recalled[T any](c *cache, what string, m proto.Message, make func() T) T {
	at := known{what, m}
	if v, ok := c.seen[at].(T); ok {
		return v
	}
	v, ok := c.before[at].(T)
	if !ok {
		v = make()
	}
	c.seen[at] = v
	return v
}

// canonical returns resources in their stable form, sorted by name.
func canonical[M interface {
	proto.Message
	comparable
}](s *Shaper, list []M) []M {
	if len(list) == 0 {
		return nil
	}
	out := make([]M, 0, len(list))
	for _, m := range list {
		out = append(out, stable(s, m))
	}
	byName(out)
	return out
}

// stable returns the stable form of one message.
func stable[M proto.Message](s *Shaper, m M) M {
	return recalled(&s.cache, "stable", m, func() M {
		for _, p := range s.parsed {
			if had, ok := p.cache.seen[known{"stable", m}].(M); ok {
				return had
			}
		}
		b := marshal(m)
		return cached(&s.cache, string(m.ProtoReflect().Descriptor().FullName()), b, func() M {
			settled := settled(m)
			if bytes.Equal(marshal(settled), b) {
				return m
			}
			return settled
		})
	})
}

// settled returns a copy of m in its stable form.
func settled[M proto.Message](m M) M {
	m = proto.Clone(m).(M)
	settle(m.ProtoReflect(), 0)
	return m
}

// digest returns the digest of a message.
func (c *cache) digest(m proto.Message) string {
	return recalled(c, "digest", m, func() string { return digestOf(m, c.digest) })
}

// settle brings a message and all below it into their stable form, in place.
func settle(m protoreflect.Message, depth int) {
	m.Range(func(fd protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case fd.IsMap():
			if fd.MapValue().Message() != nil {
				v.Map().Range(func(_ protoreflect.MapKey, v protoreflect.Value) bool {
					settle(v.Message(), depth)
					return true
				})
			}
		case fd.Message() == nil:
		case fd.IsList():
			for i := range v.List().Len() {
				settle(v.List().Get(i).Message(), depth)
			}
		default:
			settle(v.Message(), depth)
		}
		return true
	})
	switch m := m.Interface().(type) {
	case *anypb.Any:
		settleAny(m, depth)
	case *routev3.RouteConfiguration:
		sortHeaders(m.RequestHeadersToAdd)
		sortHeaders(m.ResponseHeadersToAdd)
		slices.SortStableFunc(m.VirtualHosts, compareHosts)
	case *routev3.VirtualHost:
		// Envoy refuses a domain that is there twice, so the order decides nothing.
		slices.Sort(m.Domains)
		sortHeaders(m.RequestHeadersToAdd)
		sortHeaders(m.ResponseHeadersToAdd)
	case *routev3.Route:
		sortHeaders(m.RequestHeadersToAdd)
		sortHeaders(m.ResponseHeadersToAdd)
	case *routev3.RouteMatch:
		// All of them must match.
		sortByBytes(m.Headers)
		sortByBytes(m.QueryParameters)
	case *routev3.WeightedCluster_ClusterWeight:
		sortHeaders(m.RequestHeadersToAdd)
		sortHeaders(m.ResponseHeadersToAdd)
	case *listenerv3.FilterChainMatch:
		slices.Sort(m.ServerNames)
		slices.Sort(m.ApplicationProtocols)
		slices.Sort(m.SourcePorts)
		sortByBytes(m.PrefixRanges)
		sortByBytes(m.SourcePrefixRanges)
		sortByBytes(m.DirectSourcePrefixRanges)
	case *listenerv3.Listener:
		sortByBytes(m.FilterChains)
	case *endpointv3.LocalityLbEndpoints:
		sortByBytes(m.LbEndpoints)
	}
}

// compareHosts orders virtual hosts by name, domains and content.
func compareHosts(a, b *routev3.VirtualHost) int {
	if c := cmp.Or(cmp.Compare(a.GetName(), b.GetName()), slices.Compare(a.GetDomains(), b.GetDomains())); c != 0 {
		return c
	}
	return slices.Compare(marshal(a), marshal(b))
}

// settleAny brings the message within an Any into its stable form, if its type is
// linked and its bytes are of that type.
func settleAny(a *anypb.Any, depth int) {
	if depth >= deepest || len(a.GetValue()) == 0 {
		return
	}
	mt, err := protoregistry.GlobalTypes.FindMessageByURL(a.GetTypeUrl())
	if err != nil {
		return
	}
	inner := mt.New()
	if proto.Unmarshal(a.GetValue(), inner.Interface()) != nil {
		return
	}
	settle(inner, depth+1)
	if b := marshal(inner.Interface()); b != nil {
		a.Value = b
	}
}

// sortHeaders sorts headers that are added by their names. Those of one name keep
// their order, which is the order of the values.
func sortHeaders(list []*corev3.HeaderValueOption) {
	slices.SortStableFunc(list, func(a, b *corev3.HeaderValueOption) int {
		return cmp.Compare(strings.ToLower(a.GetHeader().GetKey()), strings.ToLower(b.GetHeader().GetKey()))
	})
}

func sortByBytes[M proto.Message](list []M) {
	if len(list) < 2 {
		return
	}
	type keyed struct {
		m   M
		key []byte
	}
	sorted := make([]keyed, len(list))
	for i, m := range list {
		sorted[i] = keyed{m, marshal(m)}
	}
	slices.SortStableFunc(sorted, func(a, b keyed) int { return slices.Compare(a.key, b.key) })
	for i := range sorted {
		list[i] = sorted[i].m
	}
}
