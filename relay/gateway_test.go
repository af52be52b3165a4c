package relay

import (
	"testing"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	"go.uber.org/zap/zaptest"

	"github.com/certherd/certherd/relay/shape"
)

// contentsOf are clusters, and one route configuration that leads to others.
func contentsOf(clusters []string, leadsTo ...string) map[string]*content {
	var s shape.State
	for _, name := range clusters {
		s.Clusters = append(s.Clusters, &clusterv3.Cluster{Name: name})
	}
	routes := &routev3.RouteConfiguration{Name: "routes"}
	for _, name := range leadsTo {
		routes.VirtualHosts = append(routes.VirtualHosts, &routev3.VirtualHost{Name: name, Domains: []string{name}, Routes: []*routev3.Route{{
			Action: &routev3.Route_Route{Route: &routev3.RouteAction{ClusterSpecifier: &routev3.RouteAction_WeightedClusters{WeightedClusters: &routev3.WeightedCluster{
				Clusters: []*routev3.WeightedCluster_ClusterWeight{{Name: name}}}}}}}}})
	}
	s.Routes = append(s.Routes, routes)
	return map[string]*content{resource.ClusterType: newContent(s, resource.ClusterType), resource.RouteType: newContent(s, resource.RouteType)}
}

// TestRoutesToClustersThatNeverCome: routes wait for a cluster that the controller
// may still send, not for one that is in the gateway's bootstrap configuration.
func TestRoutesToClustersThatNeverCome(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	g := newGateway("x", false, zaptest.NewLogger(t), newCounters(), eager, func() time.Time { return now })
	defer g.close()
	sent := func(c map[string]*content) bool {
		return g.lanes[resource.RouteType].have.version() == c[resource.RouteType].version
	}
	first := contentsOf([]string{"a"}, "a", "service_stats")
	if g.aim(first, nil); !sent(first) {
		t.Error("the first routes wait")
	}
	second := contentsOf([]string{"a", "b"}, "a", "b", "service_stats")
	if g.aim(second, nil); !sent(second) {
		t.Error("routes wait for a cluster that the routes before led to, too")
	}
	third := contentsOf([]string{"a", "b"}, "a", "b", "c", "service_stats")
	if g.aim(third, nil); sent(third) {
		t.Error("routes do not wait for a new cluster that is missing")
	}
	fourth := contentsOf([]string{"a", "b", "c"}, "a", "b", "c", "service_stats")
	if g.aim(fourth, nil); !sent(fourth) {
		t.Error("routes wait although the cluster has come")
	}
	fifth := contentsOf([]string{"a", "b", "c"}, "a", "b", "c", "never", "service_stats")
	g.aim(fifth, nil)
	now = now.Add(patience)
	if g.aim(fifth, nil); !sent(fifth) {
		t.Error("routes wait for ever for a cluster that does not come")
	}
}

// TestClustersStayForTheirRoutes: a controller's clusters may be here before its routes,
// so that what is to go is still led to; not for ever, as a route may lead nowhere.
func TestClustersStayForTheirRoutes(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	g := newGateway("x", true, zaptest.NewLogger(t), newCounters(), eager, func() time.Time { return now })
	defer g.close()
	has := func(name string) bool {
		_, ok := g.lanes[resource.ClusterType].have.digests[name]
		return ok
	}
	g.aim(contentsOf([]string{"a"}, "a"), nil)
	g.aim(contentsOf([]string{"b"}, "a"), nil) // its routes are on their way
	if !has("a") || !has("b") {
		t.Error("a cluster is gone while routes lead to it")
	}
	g.aim(contentsOf([]string{"b"}, "b"), nil)
	if has("a") {
		t.Error("a cluster stays that no route leads to any more")
	}
	g.aim(contentsOf([]string{"c"}, "b"), nil)
	now = now.Add(patience)
	if g.aim(contentsOf([]string{"c"}, "b"), nil); has("b") {
		t.Error("a cluster stays for ever that the controller has taken away")
	}
}
