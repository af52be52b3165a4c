package shape

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
)

// chain is a filter chain taken apart: what it matches, what it does, and with
// which certificates.
type chain struct {
	names  []string                     // server names, sorted; none for a chain that matches all
	match  *listenerv3.FilterChainMatch // the rest of the match, nil for none
	rest   string                       // digest of match
	body   *listenerv3.FilterChain      // stable, without match and transport socket
	socket *corev3.TransportSocket      // stable; without its settings where tls has them
	tls    *tlsContext                  // nil for what is passed as it is
	key    string                       // what two chains have in common that differ in their names alone
}

// listener is a listener taken apart.
type listener struct {
	message *listenerv3.Listener // stable, without its filter chains
	chains  []*chain
	other   *chain // the default filter chain
	// fixed is set where a matcher refers to chains by name: they are left as they are.
	fixed bool
}

// inOrder sorts chains by what they match, then by what they do.
func inOrder(chains []*chain) {
	slices.SortFunc(chains, func(a, b *chain) int {
		return cmp.Or(slices.Compare(a.names, b.names), cmp.Compare(a.rest, b.rest), cmp.Compare(a.key, b.key))
	})
}

// shallow returns a copy of m that shares what it is made of.
func shallow[M proto.Message](m M) M {
	src := m.ProtoReflect()
	dst := src.New()
	for i := range src.Descriptor().Fields().Len() {
		if fd := src.Descriptor().Fields().Get(i); src.Has(fd) {
			dst.Set(fd, src.Get(fd))
		}
	}
	dst.SetUnknown(src.GetUnknown())
	return dst.Interface().(M)
}

// listener takes m apart. Where secrets is given, the certificates that its
// chains ask for are looked up there.
func (s *Shaper) listener(m *listenerv3.Listener, secrets map[string]*tlsv3.Secret) *listener {
	frame := shallow(m)
	frame.FilterChains, frame.DefaultFilterChain = nil, nil
	l := &listener{message: stable(s, frame), fixed: m.GetFilterChainMatcher() != nil}
	for _, fc := range m.GetFilterChains() {
		if secrets != nil {
			l.chains = append(l.chains, s.chain(fc, secrets))
			continue
		}
		l.chains = append(l.chains, recalled(&s.cache, "chain", fc, func() *chain { return s.chain(fc, nil) }))
	}
	if m.DefaultFilterChain != nil {
		l.other = s.chain(m.DefaultFilterChain, secrets)
	}
	return l
}

func (s *Shaper) chain(fc *listenerv3.FilterChain, secrets map[string]*tlsv3.Secret) *chain {
	c := &chain{}
	if m := fc.GetFilterChainMatch(); m != nil {
		c.names = slices.Compact(slices.Sorted(slices.Values(m.GetServerNames())))
		m = shallow(m)
		m.ServerNames = nil
		if b := marshal(m); len(b) > 0 {
			c.match = stable(s, m)
			c.rest = digest(marshal(c.match))
		}
	}
	body := shallow(fc)
	body.FilterChainMatch, body.TransportSocket = nil, nil
	c.body = stable(s, body)
	if c.tls = s.downstream(fc.GetTransportSocket(), secrets); c.tls != nil {
		c.socket = shallow(fc.GetTransportSocket())
		c.socket.ConfigType = nil
	} else if fc.GetTransportSocket() != nil {
		c.socket = stable(s, fc.GetTransportSocket())
	}
	c.rekey()
	return c
}

// rekey computes the key of c from what it is made of now.
func (c *chain) rekey() {
	var b []byte
	b = append(b, c.rest...)
	b = append(b, digest(marshal(c.body))...)
	b = append(b, digest(marshal(c.socket))...)
	if c.tls != nil {
		b = append(b, c.tls.key...)
		for _, cert := range c.tls.certs {
			b = append(b, cert.content...)
		}
	}
	if len(c.names) == 0 {
		b = append(b, "all"...)
	}
	c.key = digest(b)
}

// with returns c for other names.
func (c *chain) with(names ...string) *chain {
	d := *c
	d.names = names
	return &d
}

// join makes one of chains that differ in nothing but their server names. Those
// that match by all else and have no names are left: Envoy tells them apart.
func join(chains []*chain) []*chain {
	var out []*chain
	at := map[string]int{}
	for _, c := range chains {
		i, ok := at[c.key]
		if !ok {
			at[c.key] = len(out)
			out = append(out, c)
			continue
		}
		names := slices.Concat(out[i].names, c.names)
		slices.Sort(names)
		out[i] = out[i].with(slices.Compact(names)...)
	}
	return out
}

// better reports whether c is to have a server name that d has as well: the one
// with the certificate that fits better, then the newer one.
func (c *chain) better(d *chain, name string) bool {
	a, b := c.best(name), d.best(name)
	switch {
	case a == nil || b == nil:
		if (a == nil) != (b == nil) {
			return a != nil
		}
		return c.key < d.key
	case a.fit(name) != b.fit(name):
		return a.fit(name) > b.fit(name)
	case a.newer(b) != 0:
		return a.newer(b) > 0
	}
	return c.key < d.key
}

// best is the certificate that c would show for a name.
func (c *chain) best(name string) *certificate {
	if c.tls == nil || len(c.tls.certs) == 0 {
		return nil
	}
	return slices.MaxFunc(c.tls.certs, func(a, b *certificate) int {
		return cmp.Or(cmp.Compare(a.fit(name), b.fit(name)), a.newer(b))
	})
}

// part settles names that are in two chains: Envoy refuses a listener with such
// names. It returns what is left of the chains, and tells of the names.
func part(chains []*chain, tell func(name string, winner *chain)) []*chain {
	type place struct{ rest, name string }
	owner := map[place]*chain{}
	var twice []place
	names := func(c *chain) []string {
		if len(c.names) == 0 {
			return []string{""}
		}
		return c.names
	}
	for _, c := range chains {
		for _, name := range names(c) {
			p := place{c.rest, name}
			had := owner[p]
			if had == nil {
				owner[p] = c
				continue
			}
			twice = append(twice, p)
			if c.key != had.key && c.better(had, name) {
				owner[p] = c
			}
		}
	}
	if len(twice) == 0 {
		return chains
	}
	slices.SortFunc(twice, func(a, b place) int {
		return cmp.Or(cmp.Compare(a.name, b.name), cmp.Compare(a.rest, b.rest))
	})
	for _, p := range slices.Compact(twice) {
		tell(p.name, owner[p])
	}
	var out []*chain
	for _, c := range chains {
		var kept []string
		for _, name := range names(c) {
			if owner[place{c.rest, name}] == c {
				kept = append(kept, name)
			}
		}
		switch len(kept) {
		case 0:
		case len(names(c)):
			out = append(out, c)
		default:
			out = append(out, c.with(kept...))
		}
	}
	return out
}

// generalize lets chains match the wildcard of their certificate in place of the
// names below it, where that takes no name from another chain. secret gives the
// stable order in which chains take a wildcard that two of them could have.
func generalize(l *listener, secret func(*certificate) string) {
	// Envoy decides by the server name before it looks at the application
	// protocol and others, and does not come back: where chains differ in those,
	// a name that moves to another step would change what is found.
	for _, c := range l.chains {
		if c.rest != l.chains[0].rest {
			return
		}
	}
	// A chain that takes what no other takes would lose the names.
	if l.other != nil || slices.ContainsFunc(l.chains, func(c *chain) bool { return len(c.names) == 0 }) {
		return
	}
	owner := map[string]*chain{}
	for _, c := range l.chains {
		for _, name := range c.names {
			if strings.HasPrefix(name, "*.") {
				owner[name] = c
			}
		}
	}
	stated := maps.Clone(owner)
	order := make([]int, 0, len(l.chains))
	for i, c := range l.chains {
		if c.tls != nil && len(c.tls.certs) > 0 {
			order = append(order, i)
		}
	}
	slices.SortFunc(order, func(i, j int) int {
		a, b := l.chains[i], l.chains[j]
		return cmp.Or(cmp.Compare(secret(a.tls.certs[0]), secret(b.tls.certs[0])), cmp.Compare(a.key, b.key))
	})
	for _, i := range order {
		c := l.chains[i]
		var taken []string
		for _, wild := range c.tls.certs[0].wildcards() {
			if !slices.ContainsFunc(c.tls.certs, func(o *certificate) bool { return o.fit(wild) < 2 }) && c.mayTake(wild, owner, stated) &&
				slices.ContainsFunc(c.names, func(name string) bool { return under(name, wild) }) {
				taken = append(taken, wild)
			}
		}
		if len(taken) == 0 {
			continue
		}
		names := slices.DeleteFunc(slices.Clone(c.names), func(name string) bool {
			return slices.ContainsFunc(taken, func(wild string) bool { return under(name, wild) })
		})
		names = append(names, taken...)
		slices.Sort(names)
		l.chains[i] = c.with(slices.Compact(names)...)
		for _, wild := range taken {
			owner[wild] = c
		}
	}
}

// mayTake reports whether c may match a wildcard: nobody else does, and no wider
// one that the controller stated, whose names it would take.
func (c *chain) mayTake(wild string, owner, stated map[string]*chain) bool {
	if o := owner[wild]; o != nil && o != c {
		return false
	}
	for rest := wild[2:]; ; {
		if o := stated["*."+rest]; o != nil && o != c {
			return false
		}
		var ok bool
		if _, rest, ok = strings.Cut(rest, "."); !ok {
			return true
		}
	}
}

// under reports whether name is wild with one label in place of the star.
func under(name, wild string) bool {
	label, rest, ok := strings.Cut(name, ".")
	return ok && label != "*" && label != "" && rest == wild[2:]
}

// restore gives back a broken chain with the certificates that its names had
// before. Names that had none are returned as lost.
func (c *chain) restore(before *listener) (chains []*chain, lost []string) {
	if before == nil {
		return nil, c.names
	}
	names := c.names
	if len(names) == 0 {
		names = []string{""}
	}
	for _, name := range names {
		had := before.find(c.rest, name)
		if had == nil {
			lost = append(lost, name)
			continue
		}
		d := had.with(name)
		if name == "" {
			d.names = nil
		}
		if c.tls.wrong == nil {
			d = c.with(d.names...)
			d.tls = &tlsContext{context: c.tls.context, key: c.tls.key, certs: had.tls.certs}
		}
		d.rekey()
		chains = append(chains, d)
	}
	return join(chains), lost
}

// find returns the chain with certificates that matched a server name: the name
// itself, or the certificate's wildcard where the chain had taken that.
func (l *listener) find(rest, name string) *chain {
	for _, want := range []string{name, wildcardOf(name)} {
		for _, c := range l.chains {
			if c.rest != rest || c.tls == nil || len(c.tls.certs) == 0 || c.tls.broken() != nil {
				continue
			}
			if len(c.names) == 0 && name == "" || want != "" && slices.Contains(c.names, want) {
				return c
			}
		}
	}
	return nil
}

func wildcardOf(name string) string {
	if _, rest, ok := strings.Cut(name, "."); ok && !strings.HasPrefix(name, "*.") {
		return "*." + rest
	}
	return ""
}

// repair replaces the broken chains of l by what they were before, and leaves out
// those that were not there.
func (l *listener) repair(before *listener, tell func(why string)) {
	var out []*chain
	for _, c := range l.chains {
		err := c.tls.broken()
		if err == nil {
			out = append(out, c)
			continue
		}
		restored, lost := c.restore(before)
		out = append(out, restored...)
		who := list(c.names)
		if len(restored) > 0 && len(lost) == 0 {
			tell(fmt.Sprintf("the filter chain for %s: %v. The last good certificate stays. Mend the Secret.", who, err))
		} else {
			tell(fmt.Sprintf("the filter chain for %s: %v, and there is no earlier good certificate for %s: left out. Mend the Secret.", who, err, list(lost)))
		}
	}
	l.chains = out
	if l.other != nil && l.other.tls.broken() != nil {
		err := l.other.tls.broken()
		if before != nil && before.other != nil && before.other.tls != nil && before.other.tls.broken() == nil {
			l.other = before.other
			tell(fmt.Sprintf("the default filter chain: %v. The last good one stays. Mend the Secret.", err))
		} else {
			l.other = nil
			tell(fmt.Sprintf("the default filter chain: %v, and there is no earlier good one: left out. Mend the Secret.", err))
		}
	}
}

// list names server names, the first three of them.
func list(names []string) string {
	switch {
	case len(names) == 0 || len(names) == 1 && names[0] == "":
		return "all server names"
	case len(names) > 3:
		return fmt.Sprintf("%s and %d more", strings.Join(names[:3], ", "), len(names)-3)
	}
	return strings.Join(names, ", ")
}

// assemble puts a chain together again. Where secret is given, its certificates
// are asked for by the names that it returns; else they are inlined.
func (s *Shaper) assemble(c *chain, secret func(*certificate) string) *listenerv3.FilterChain {
	key := []byte(c.key)
	for _, name := range c.names {
		key = append(append(key, 0), name...)
	}
	if c.tls != nil && secret != nil {
		for _, cert := range c.tls.certs {
			key = append(append(key, 1), secret(cert)...)
		}
	}
	return cached(&s.cache, "assembled", key, func() *listenerv3.FilterChain { return s.build(c, secret) })
}

func (s *Shaper) build(c *chain, secret func(*certificate) string) *listenerv3.FilterChain {
	fc := shallow(c.body)
	if c.match != nil || len(c.names) > 0 {
		fc.FilterChainMatch = &listenerv3.FilterChainMatch{}
		if c.match != nil {
			fc.FilterChainMatch = shallow(c.match)
		}
		fc.FilterChainMatch.ServerNames = c.names
	}
	if c.socket == nil {
		return fc
	}
	fc.TransportSocket = c.socket
	if c.tls == nil {
		return fc
	}
	m := shallow(c.tls.context)
	if m.CommonTlsContext == nil {
		m.CommonTlsContext = &tlsv3.CommonTlsContext{}
	}
	m.CommonTlsContext = shallow(m.CommonTlsContext)
	for _, cert := range c.tls.certs {
		if secret == nil {
			m.CommonTlsContext.TlsCertificates = append(m.CommonTlsContext.TlsCertificates, cert.message)
			continue
		}
		m.CommonTlsContext.TlsCertificateSdsSecretConfigs = append(m.CommonTlsContext.TlsCertificateSdsSecretConfigs, &tlsv3.SdsSecretConfig{
			Name: secret(cert), SdsConfig: overADS(),
		})
	}
	fc.TransportSocket = shallow(c.socket)
	fc.TransportSocket.ConfigType = &corev3.TransportSocket_TypedConfig{TypedConfig: &anypb.Any{
		TypeUrl: "type.googleapis.com/" + string(m.ProtoReflect().Descriptor().FullName()), Value: marshal(m),
	}}
	return fc
}

// overADS is where Envoy asks for a secret. It waits for it without end: a
// listener that went live without a certificate would reset the connections that
// the one before it served.
func overADS() *corev3.ConfigSource {
	return &corev3.ConfigSource{
		ConfigSourceSpecifier: &corev3.ConfigSource_Ads{Ads: &corev3.AggregatedConfigSource{}},
		ResourceApiVersion:    corev3.ApiVersion_V3,
		InitialFetchTimeout:   durationpb.New(0),
	}
}
