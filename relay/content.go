package relay

import (
	"crypto/sha256"
	"encoding/hex"
	"maps"
	"slices"
	"strconv"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"github.com/envoyproxy/go-control-plane/pkg/cache/types"
	cachev3 "github.com/envoyproxy/go-control-plane/pkg/cache/v3"
	"github.com/envoyproxy/go-control-plane/pkg/resource/v3"

	"github.com/certherd/certherd/relay/shape"
)

// The types that are relayed, in the order in which what depends on another comes
// after it.
var relayed = []string{resource.ClusterType, resource.EndpointType, resource.SecretType, resource.RouteType, resource.ListenerType}

// shortNames are what logs and metrics call the types.
var shortNames = map[string]string{
	resource.ClusterType: "clusters", resource.EndpointType: "endpoints", resource.SecretType: "secrets",
	resource.RouteType: "routes", resource.ListenerType: "listeners",
}

// content is all resources of one type at one time. Nobody changes it.
type content struct {
	// version is a digest of the resources: the same in every replica.
	version   string
	resources map[string]types.Resource
	// digests has one for each resource.
	digests map[string]string
	// clusters are those that routes lead to, for contents of that type.
	clusters map[string]bool
}

// newContent takes the resources of one type out of a state.
func newContent(s shape.State, typeURL string) *content {
	digests := s.Digests(typeURL)
	c := &content{version: versionOf(digests), resources: map[string]types.Resource{}, digests: digests, clusters: map[string]bool{}}
	for _, r := range s.Resources(typeURL) {
		c.resources[shape.Name(r)] = r
		if routes, ok := r.(*routev3.RouteConfiguration); ok {
			clustersOf(routes, c.clusters)
		}
	}
	return c
}

// clustersOf adds the clusters that a route configuration names. Envoy refuses
// one that names a cluster that it does not have.
func clustersOf(routes *routev3.RouteConfiguration, into map[string]bool) {
	for _, host := range routes.GetVirtualHosts() {
		for _, route := range host.GetRoutes() {
			action := route.GetRoute()
			if name := action.GetCluster(); name != "" {
				into[name] = true
			}
			for _, weighted := range action.GetWeightedClusters().GetClusters() {
				if name := weighted.GetName(); name != "" {
					into[name] = true
				}
			}
		}
	}
}

// references are the names that resources of one type refer to, by type.
func (c *content) references() map[string]map[string]bool {
	all := make(map[string]types.ResourceWithTTL, len(c.resources))
	for name, r := range c.resources {
		all[name] = types.ResourceWithTTL{Resource: r}
	}
	return cachev3.GetResourceReferences(all)
}

// has reports whether c holds all names.
func (c *content) has(names map[string]bool) bool {
	for name := range names {
		if c == nil || c.resources[name] == nil {
			return false
		}
	}
	return true
}

// complete reports whether contents are a first state that can be served: an
// Envoy that is given clusters without listeners, or listeners whose routes are
// missing, would give up what it has.
func complete(contents map[string]*content) bool {
	clusters, listeners := contents[resource.ClusterType], contents[resource.ListenerType]
	if clusters == nil || listeners == nil {
		return false
	}
	for _, c := range []*content{clusters, listeners} {
		for typeURL, names := range c.references() {
			if !contents[typeURL].has(names) {
				return false
			}
		}
	}
	return true
}

// edit is what turns one set of resources into another.
type edit struct {
	set    map[string]types.Resource
	remove []string
}

func (e edit) empty() bool { return len(e.set) == 0 && len(e.remove) == 0 }

// names of all resources that the edit touches.
func (e edit) names() []string {
	return append(slices.Collect(maps.Keys(e.set)), e.remove...)
}

// published is what a gateway's cache holds for a type.
type published struct {
	resources map[string]types.Resource
	digests   map[string]string
}

// additions are what c has that p has not, or has otherwise.
func (p published) additions(c *content) edit {
	e := edit{set: map[string]types.Resource{}}
	for name, d := range c.digests {
		if p.digests[name] != d {
			e.set[name] = c.resources[name]
		}
	}
	return e
}

// gone are the names that p has and c has not.
func (p published) gone(c *content) []string {
	var names []string
	for name := range p.digests {
		if _, ok := c.digests[name]; !ok {
			names = append(names, name)
		}
	}
	return names
}

// apply returns p after an edit; digests has those of what is set.
func (p published) apply(e edit, digests map[string]string) published {
	next := published{resources: maps.Clone(p.resources), digests: maps.Clone(p.digests)}
	if next.resources == nil {
		next = published{resources: map[string]types.Resource{}, digests: map[string]string{}}
	}
	for name, r := range e.set {
		next.resources[name], next.digests[name] = r, digests[name]
	}
	for _, name := range e.remove {
		delete(next.resources, name)
		delete(next.digests, name)
	}
	return next
}

// version is the digest of what is published, equal to that of a content with
// the same resources.
func (p published) version() string { return versionOf(p.digests) }

// versionOf is a digest of resources by their names and digests.
func versionOf(digests map[string]string) string {
	var b []byte
	for _, name := range slices.Sorted(maps.Keys(digests)) {
		b = append(append(strconv.AppendQuote(b, name), ' '), digests[name]...)
		b = append(b, '\n')
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:12])
}
