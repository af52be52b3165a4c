// Package shape turns what an xDS controller serves into the form that changes
// least for an Envoy: a stable order, certificates as secrets, filter chains
// merged.
package shape

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"google.golang.org/protobuf/types/known/anypb"
)

// Options say which of the changes are made beyond a stable order.
type Options struct {
	// SDS takes inlined certificates and keys out of the listeners and makes
	// secrets of them, which Envoy asks for over ADS.
	SDS bool
	// Merge makes one of filter chains that differ in nothing but their server
	// names, and matches the certificate's wildcard where it covers them.
	Merge bool
	// OnDemand is given for Envoys that load certificates when they are first asked
	// for; nil loads all of them. It needs SDS and Merge.
	OnDemand *OnDemand
}

// Problem is something in the state that was left out, settled or replaced. It
// has no key material in it.
type Problem struct {
	Type, Resource string // the type URL and the name of the resource
	Why            string
}

// Shape returns the state that gateways get for a complete state of the
// controller, and what was wrong with it, in a stable order. It is pure: the same
// input gives the same bytes, in whatever order its resources come. before is the
// last output, nil at first: what is broken in `in` keeps the form it has there.
// Nothing in `in` or before is changed; the output may share messages with both.
func Shape(in State, before *State, o Options) (State, []Problem) {
	return New().Shape(in, before, o)
}

// Shaper shapes one state after the other and keeps what it has parsed of the
// last two. Its results are those of Shape. It is not safe for concurrent use.
type Shaper struct {
	cache  cache
	parsed map[string]*parsed // by type URL: types come one after the other
}

// parsed is what was read of a type.
type parsed struct {
	cache cache
	last  sum
}

// New returns a Shaper that has seen nothing.
func New() *Shaper { return &Shaper{cache: newCache(), parsed: map[string]*parsed{}} }

// Set is as Set of State. What came with the same bytes the last time becomes the
// same messages again, which Shape then need not look at. changed is false when all
// of it came the last time: in whatever order, Shape gives the same again.
func (s *Shaper) Set(state *State, typeURL string, resources []*anypb.Any) (changed bool, err error) {
	p, known := s.parsed[typeURL]
	if !known {
		p = &parsed{cache: newCache()}
	}
	p.cache.turn()
	of, err := state.set(typeURL, resources, &p.cache)
	if err != nil {
		delete(s.parsed, typeURL) // with what could not be read
		return false, err
	}
	changed = !known || of != p.last
	s.parsed[typeURL], p.last = p, of
	return changed, nil
}

// Shape is as the function Shape.
func (s *Shaper) Shape(in State, before *State, o Options) (State, []Problem) {
	s.cache.turn()
	r := &round{Shaper: s, options: o, last: before, stated: in.Secrets}
	out := State{
		Listeners: r.listeners(in.Listeners),
		Routes:    r.routes(in.Routes),
		Clusters:  canonical(s, in.Clusters),
		Endpoints: canonical(s, in.Endpoints),
		Secrets:   r.secrets(in.Secrets),
		Others:    in.others(),
	}
	out.seal(&s.cache)
	slices.SortFunc(r.problems, func(a, b Problem) int {
		return cmp.Or(cmp.Compare(a.Type, b.Type), cmp.Compare(a.Resource, b.Resource), cmp.Compare(a.Why, b.Why))
	})
	return out, slices.Compact(r.problems)
}

// round is the work on one state.
type round struct {
	*Shaper
	options  Options
	stated   []*tlsv3.Secret // of the controller
	last     *State
	before   map[string]*listener     // of last; nil until something is broken
	kept     map[string]*tlsv3.Secret // of last, by name; nil until something is broken
	made     map[string]*certificate  // the secrets of this state, by name
	problems []Problem
}

func (r *round) tell(typeURL, resource, why string) {
	r.problems = append(r.problems, Problem{Type: typeURL, Resource: resource, Why: why})
}

// remember takes the last output apart, once.
func (r *round) remember() {
	if r.before != nil {
		return
	}
	r.before, r.kept = map[string]*listener{}, map[string]*tlsv3.Secret{}
	if r.last == nil {
		return
	}
	for _, m := range r.last.Secrets {
		r.kept[m.GetName()] = m
	}
	for _, m := range r.last.Listeners {
		r.before[m.GetName()] = r.listener(m, r.kept)
	}
}

func (r *round) listeners(in []*listenerv3.Listener) []*listenerv3.Listener {
	list := make([]*listener, 0, len(in))
	for _, m := range in {
		l := r.listener(m, nil)
		name := m.GetName()
		if slices.ContainsFunc(l.all(), func(c *chain) bool { return c.tls.broken() != nil }) {
			r.remember()
			l.repair(r.before[name], func(why string) { r.tell(ListenerType, name, why) })
		}
		if r.options.Merge && !l.fixed {
			l.chains = join(l.chains)
		}
		inOrder(l.chains)
		if !l.fixed {
			l.chains = part(l.chains, func(server string, winner *chain) {
				r.tell(ListenerType, name, contested(server, winner))
			})
		}
		list = append(list, l)
	}
	r.made = map[string]*certificate{}
	if r.options.OnDemand != nil && r.options.SDS && r.options.Merge {
		r.onDemand(list)
	}
	names := secretNames(list)
	secret := func(c *certificate) string { return names[c.content] }
	out := make([]*listenerv3.Listener, 0, len(list))
	for _, l := range list {
		if r.options.Merge && !l.fixed && len(l.chains) > 0 {
			generalize(l, secret)
		}
		out = append(out, r.write(l, secret))
	}
	byName(out)
	return out
}

// onDemand lets the listeners load certificates by server name, as far as a name
// means the same certificate in all of them.
func (r *round) onDemand(list []*listener) {
	taken := map[string]*certificate{} // nil for a secret of the controller's
	for _, m := range r.stated {
		taken[m.GetName()] = nil
	}
	order := slices.Clone(list)
	slices.SortStableFunc(order, func(a, b *listener) int {
		return cmp.Compare(a.message.GetName(), b.message.GetName())
	})
	for _, l := range order {
		made := l.onDemand(r.options.OnDemand, taken)
		maps.Copy(taken, made)
		maps.Copy(r.made, made)
	}
}

// contested tells of a name that was in two filter chains.
func contested(server string, winner *chain) string {
	with := "the first of them"
	if c := winner.best(server); c != nil {
		with = fmt.Sprintf("the certificate for %s of %s", list(c.names), c.notBefore.UTC().Format("2006-01-02 15:04"))
	}
	return fmt.Sprintf("the server name %s is in two filter chains, which Envoy refuses: %s has it. The controller holds a stale host: touch the Ingresses that share the other certificate's Secret, or restart the controller.", list([]string{server}), with)
}

// write puts a listener together and notes the secrets that it asks for.
func (r *round) write(l *listener, secret func(*certificate) string) *listenerv3.Listener {
	ask := secret
	if !r.options.SDS {
		ask = nil
	}
	inOrder(l.chains)
	m := shallow(l.message)
	for _, c := range l.chains {
		m.FilterChains = append(m.FilterChains, r.assemble(c, ask))
	}
	if l.other != nil {
		m.DefaultFilterChain = r.assemble(l.other, ask)
	}
	if r.options.SDS {
		for _, c := range l.all() {
			if c.tls != nil {
				for _, cert := range c.tls.certs {
					r.made[secret(cert)] = cert
				}
			}
		}
	}
	return m
}

// all are the chains of l with the default one.
func (l *listener) all() []*chain {
	if l.other == nil {
		return l.chains
	}
	return append(slices.Clone(l.chains), l.other)
}

// ours begins the names of the secrets that are made here.
const ours = "certherd/"

// secretNames gives each certificate the name of its secret, by its content. The
// name is the certificate's identity, so that a renewal keeps it. Where two
// certificates have one identity at the same time, as those of two Secrets issued
// for the same names, each name gets a digest of the first server name that the
// certificate is for, which renewals keep as well. That each certificate is sent
// under its own name is on purpose: nothing but the CA says that the owners of two
// Secrets are the same, and the relay does not ask it.
func secretNames(list []*listener) map[string]string {
	type use struct {
		cert  *certificate
		first string
	}
	uses := map[string]*use{} // by content
	for _, l := range list {
		for _, c := range l.all() {
			if c.tls == nil {
				continue
			}
			server := ""
			if len(c.names) > 0 {
				server = c.names[0]
			}
			first := server + " " + l.message.GetName() + " " + c.rest
			for _, cert := range c.tls.certs {
				if u := uses[cert.content]; u == nil {
					uses[cert.content] = &use{cert, first}
				} else {
					u.first = min(u.first, first)
				}
			}
		}
	}
	same := map[string][]*use{}
	for _, content := range slices.Sorted(maps.Keys(uses)) {
		u := uses[content]
		same[u.cert.identity] = append(same[u.cert.identity], u)
	}
	names := make(map[string]string, len(uses))
	for identity, all := range same {
		if len(all) == 1 {
			names[all[0].cert.content] = ours + identity
			continue
		}
		firsts := map[string]int{}
		for _, u := range all {
			firsts[u.first]++
		}
		for _, u := range all {
			of := u.first
			if firsts[of] > 1 { // two in one chain
				of += " " + u.cert.content
			}
			names[u.cert.content] = ours + identity + "-" + digest([]byte(of))[:12]
		}
	}
	return names
}

// routes brings route configurations into their stable form, a virtual host at a
// time: an event changes one of thousands.
func (r *round) routes(in []*routev3.RouteConfiguration) []*routev3.RouteConfiguration {
	out := make([]*routev3.RouteConfiguration, 0, len(in))
	for _, m := range in {
		frame := shallow(m)
		frame.VirtualHosts = nil
		hosts := make([]*routev3.VirtualHost, 0, len(m.GetVirtualHosts()))
		for _, h := range m.GetVirtualHosts() {
			hosts = append(hosts, stable(r.Shaper, h))
		}
		slices.SortStableFunc(hosts, compareHosts)
		m = shallow(stable(r.Shaper, frame))
		m.VirtualHosts = hosts
		out = append(out, m)
	}
	byName(out)
	return out
}

// secrets are those of the controller and those that were made of inlined
// certificates. A broken one of the controller's stays as it was.
func (r *round) secrets(in []*tlsv3.Secret) []*tlsv3.Secret {
	out := make([]*tlsv3.Secret, 0, len(in)+len(r.made))
	for _, m := range in {
		if t := m.GetTlsCertificate(); t != nil && movable(&tlsv3.CommonTlsContext{TlsCertificates: []*tlsv3.TlsCertificate{t}}) {
			if c := r.certificate(t); c.wrong != nil {
				r.remember()
				why := "sent as it is, because there is no earlier good one"
				if had := r.kept[m.GetName()]; had.GetTlsCertificate() != nil {
					m, why = had, "the last good one stays"
				}
				r.tell(SecretType, m.GetName(), fmt.Sprintf("%v: %s. Mend the Secret.", c.wrong, why))
			}
		}
		out = append(out, stable(r.Shaper, m))
	}
	for name, c := range r.made {
		out = append(out, cached(&r.cache, "secret", []byte(c.content+name), func() *tlsv3.Secret {
			return &tlsv3.Secret{Name: name, Type: &tlsv3.Secret_TlsCertificate{TlsCertificate: c.message}}
		}))
	}
	byName(out)
	return out
}

// others are the resources of s that pass, in a stable order.
func (s State) others() map[string][]*anypb.Any {
	if len(s.Others) == 0 {
		return nil
	}
	out := make(map[string][]*anypb.Any, len(s.Others))
	for t, list := range s.Others {
		list = slices.Clone(list)
		sortByBytes(list)
		out[t] = list
	}
	return out
}
