package relay

import (
	"testing"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

// FuzzLender: whatever a controller sends is read as protobuf's own reader does,
// whatever was read before it.
func FuzzLender(f *testing.F) {
	answer := &discovery.DiscoveryResponse{VersionInfo: "v", TypeUrl: "t", Nonce: "n", Canary: true, Resources: []*anypb.Any{
		{TypeUrl: "t", Value: []byte("one")}, {}, {Value: []byte("two")},
	}}
	b, err := proto.Marshal(answer)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b, 7)
	f.Add([]byte{0x12, 0x80}, 1)
	f.Add([]byte{0xff}, 0)
	f.Add([]byte{0x12, 0x04, 0x12, 0x00, 0x0a, 0x00, 0x12, 0x02, 0x10, 0x01}, 3) // a field of the wrong type
	f.Add([]byte{0x12, 0x05, 0x12, 0x01, 'a', 0x12, 0x00}, 3)                    // a value twice
	f.Fuzz(func(t *testing.T, sent []byte, at int) {
		l := &lender{}
		at = max(0, min(at, len(sent)))
		for _, data := range []mem.BufferSlice{{mem.SliceBuffer(b)}, {mem.SliceBuffer(sent[:at]), mem.SliceBuffer(sent[at:])}} {
			var got, want discovery.DiscoveryResponse
			err, wanted := l.Unmarshal(data, &got), proto.Unmarshal(data.Materialize(), &want)
			if (err == nil) != (wanted == nil) {
				t.Fatalf("%v, want %v", err, wanted)
			}
			if err == nil && !proto.Equal(&got, &want) {
				t.Fatalf("%v, want %v", &got, &want)
			}
		}
	})
}
