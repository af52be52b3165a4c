package relay

import (
	"encoding/json"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	"github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/certherd/certherd/relay/shape"
)

// FuzzUpdate: whatever a controller sends, and in whatever order of types, the relay
// takes it over or refuses it, aims a gateway at it, falls back to the controller's
// form, and can be asked what it has.
func FuzzUpdate(f *testing.F) {
	c := &corev3.Node{Id: nodeID}
	some := contentsOf([]string{"a"}, "a", "b")
	for _, m := range []proto.Message{some[resource.ClusterType].resources["a"], some[resource.RouteType].resources["routes"], &listenerv3.Listener{Name: "a"}} {
		b, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b, []byte{}, uint8(31))
	}
	f.Add([]byte("\n\x01a"), []byte("\n\x01a"), uint8(31)) // the same name in every type, and twice
	f.Add([]byte{}, []byte("x"), uint8(7))
	f.Fuzz(func(t *testing.T, a, b []byte, which uint8) {
		s := newSource(c, nil, zap.NewNop(), newCounters(), ShapeOptions{SDS: true, Merge: true, OnDemand: true})
		g := newGateway("x", true, zap.NewNop(), newCounters(), eager, time.Now)
		defer g.close()
		g.node = c
		s.join(g)
		for round := range 2 {
			for i, typ := range relayed {
				if which>>i&1 == 0 {
					continue
				}
				values := [][]byte{a, b}
				all := []*anypb.Any{{TypeUrl: typ, Value: values[round]}, {TypeUrl: typ, Value: values[1-round]}}
				changed, err := s.shapers[typ].set(typ, all)
				if err != nil {
					changed, err = s.shapers[typ].set(typ, all[:1])
				}
				if err == nil {
					s.update(typ, changed)
				}
			}
			s.needRaw()
			s.counts()
		}
		for _, state := range []shape.State{s.given, s.shaped} {
			d, err := dumpState(state)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := json.Marshal(d); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := json.Marshal(g.dump()); err != nil {
			t.Fatal(err)
		}
	})
}
