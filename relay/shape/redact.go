package shape

import (
	"bytes"

	"github.com/cncf/xds/go/udpa/annotations"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/known/anypb"
)

// redacted stands where something secret was.
const redacted = "[redacted]"

// Redact returns a copy of s for people to read: what Envoy's API marks as
// sensitive is gone (udpa.annotations.sensitive: private keys, passwords, session
// ticket keys), whatever else has a private key in PEM in it, and the content of
// every Any whose type is not linked, because nothing is known of it. A redacted
// state is not for an Envoy.
func Redact(s State) State {
	return State{
		Listeners: redactAll(s.Listeners),
		Routes:    redactAll(s.Routes),
		Clusters:  redactAll(s.Clusters),
		Endpoints: redactAll(s.Endpoints),
		Secrets:   redactAll(s.Secrets),
		Others:    redactOthers(s.Others),
	}
}

func redactOthers(others map[string][]*anypb.Any) map[string][]*anypb.Any {
	if others == nil {
		return nil
	}
	out := make(map[string][]*anypb.Any, len(others))
	for t, list := range others {
		out[t] = redactAll(list)
	}
	return out
}

func redactAll[M proto.Message](list []M) []M {
	out := make([]M, 0, len(list))
	for _, m := range list {
		m := proto.Clone(m).(M)
		redact(m.ProtoReflect(), 0)
		out = append(out, m)
	}
	return out
}

// redact takes what is secret out of a message, in place.
func redact(m protoreflect.Message, depth int) {
	m.SetUnknown(nil)
	if a, ok := m.Interface().(*anypb.Any); ok {
		redactAny(a, depth)
		return
	}
	m.Range(func(fd protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		sensitive, _ := proto.GetExtension(fd.Options(), annotations.E_Sensitive).(bool)
		switch {
		case fd.IsMap():
			v.Map().Range(func(k protoreflect.MapKey, v protoreflect.Value) bool {
				if fd.MapValue().Message() != nil && !sensitive {
					redact(v.Message(), depth)
				} else if sensitive || secret(fd.MapValue(), v) {
					m.Mutable(fd).Map().Clear(k)
				}
				return true
			})
		case sensitive && (fd.IsList() || fd.Message() != nil && !blank(m, fd)):
			m.Clear(fd)
		case sensitive && fd.Message() == nil, !fd.IsList() && secret(fd, v):
			switch fd.Kind() {
			case protoreflect.StringKind:
				m.Set(fd, protoreflect.ValueOfString(redacted))
			case protoreflect.BytesKind:
				m.Set(fd, protoreflect.ValueOfBytes([]byte(redacted)))
			default:
				m.Clear(fd)
			}
		case sensitive: // blanked
		case fd.IsList():
			for i := range v.List().Len() {
				if fd.Message() != nil {
					redact(v.List().Get(i).Message(), depth)
				} else if secret(fd, v.List().Get(i)) {
					m.Clear(fd)
					break
				}
			}
		case fd.Message() != nil:
			redact(v.Message(), depth)
		}
		return true
	})
}

// blank puts a mark into a data source in place of what it holds, and reports
// whether the field is one.
func blank(m protoreflect.Message, fd protoreflect.FieldDescriptor) bool {
	if fd.Message().FullName() != "envoy.config.core.v3.DataSource" {
		return false
	}
	source := m.Mutable(fd).Message()
	for _, name := range []protoreflect.Name{"inline_bytes", "inline_string"} {
		if of := fd.Message().Fields().ByName(name); of != nil && source.Has(of) {
			source.Set(fd.Message().Fields().ByName("inline_string"), protoreflect.ValueOfString(redacted))
		}
	}
	source.SetUnknown(nil)
	return true
}

// secret reports whether a value is text with a private key in it.
func secret(fd protoreflect.FieldDescriptor, v protoreflect.Value) bool {
	switch fd.Kind() {
	case protoreflect.StringKind:
		return bytes.Contains([]byte(v.String()), []byte("PRIVATE KEY"))
	case protoreflect.BytesKind:
		return bytes.Contains(v.Bytes(), []byte("PRIVATE KEY"))
	}
	return false
}

func redactAny(a *anypb.Any, depth int) {
	mt, err := protoregistry.GlobalTypes.FindMessageByURL(a.GetTypeUrl())
	if err != nil || depth >= deepest {
		a.Value = nil
		return
	}
	inner := mt.New()
	if proto.Unmarshal(a.GetValue(), inner.Interface()) != nil {
		a.Value = nil
		return
	}
	redact(inner, depth+1)
	a.Value = marshal(inner.Interface())
}
