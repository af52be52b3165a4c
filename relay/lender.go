package relay

import (
	"errors"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc/encoding"
	encodingproto "google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

// lender is the gRPC codec of one stream of the controller. It reads an answer into
// a buffer that it uses again for the next, and lends its resources' bytes from
// there: the controller sends megabytes with each event of a service, nearly all of
// them known. They are good until the next answer is read.
type lender struct{ buffer []byte }

// Name implements encoding.CodecV2.
func (*lender) Name() string { return encodingproto.Name }

// Marshal implements encoding.CodecV2.
func (*lender) Marshal(v any) (mem.BufferSlice, error) {
	return encoding.GetCodecV2(encodingproto.Name).Marshal(v)
}

// Unmarshal implements encoding.CodecV2.
func (l *lender) Unmarshal(data mem.BufferSlice, v any) error {
	answer, ok := v.(*discovery.DiscoveryResponse)
	if !ok {
		return encoding.GetCodecV2(encodingproto.Name).Unmarshal(data, v)
	}
	if n := data.Len(); n > cap(l.buffer) {
		l.buffer = make([]byte, n+n/8) // it grows with each service
	}
	b := l.buffer[:data.CopyTo(l.buffer[:cap(l.buffer)])]
	// Field numbers of envoy/service/discovery/v3/discovery.proto and
	// google/protobuf/any.proto.
	return fields(b, 2, func(b []byte) error {
		a := &anypb.Any{}
		answer.Resources = append(answer.Resources, a)
		return fields(b, 2, func(b []byte) error {
			a.Value = b
			return nil
		}, a)
	}, answer)
}

// fields reads a message without a field of bytes, which is handed to found.
func fields(b []byte, field protowire.Number, found func([]byte) error, m proto.Message) error {
	var rest []byte
	for len(b) > 0 {
		number, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return errors.Join(errNoAnswer, protowire.ParseError(n))
		}
		size := protowire.ConsumeFieldValue(number, typ, b[n:])
		if size < 0 {
			return errors.Join(errNoAnswer, protowire.ParseError(size))
		}
		if number == field && typ == protowire.BytesType {
			value, _ := protowire.ConsumeBytes(b[n:])
			if err := found(value); err != nil {
				return err
			}
		} else {
			rest = append(rest, b[:n+size]...)
		}
		b = b[n+size:]
	}
	return proto.UnmarshalOptions{Merge: true}.Unmarshal(rest, m)
}

var errNoAnswer = errors.New("what the controller sent is no xDS answer")
