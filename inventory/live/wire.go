package live

import (
	"errors"
	"strconv"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"
)

// This file reads protobuf messages without their schema, as far as the wire
// format tells (protobuf.dev/programming-guides/encoding).

// errNotMessage says that bytes are no protobuf message.
var errNotMessage = errors.New("the object is not a message in protobuf")

// field returns the first length-delimited field of a message with a number,
// nil if there is none.
func field(msg []byte, want protowire.Number) []byte {
	for len(msg) > 0 {
		num, typ, n := protowire.ConsumeTag(msg)
		if n < 0 {
			return nil
		}
		msg = msg[n:]
		if num == want && typ == protowire.BytesType {
			v, n := protowire.ConsumeBytes(msg)
			if n < 0 {
				return nil
			}
			return v
		}
		if n = protowire.ConsumeFieldValue(num, typ, msg); n < 0 {
			return nil
		}
		msg = msg[n:]
	}
	return nil
}

// Fields of metav1.ObjectMeta (k8s.io/apimachinery pkg/apis/meta/v1/generated.proto).
const (
	metaName            = 1
	metaGenerateName    = 2
	metaNamespace       = 3
	metaSelfLink        = 4
	metaUID             = 5
	metaResourceVersion = 6
	metaAnnotations     = 12
	metaOwners          = 13
	metaFinalizers      = 14
	metaManagedFields   = 17
)

// leaves calls visit with every string of an object that could name another
// one, and with every whole number in decimal, until visit returns false. The
// object's metadata is its field 1, as in
// every kind of Kubernetes; of that, fields are left out that inventory.Scan
// leaves out, too.
//
// What is a string and what a message only the schema tells. What can be read as a
// message is taken apart, and what is text is looked at as a whole: what is both is
// treated as both. A string of the API server is always text, for
// it came as JSON or will go as JSON; so no string is missed, and some that are
// none are looked at.
func leaves(object []byte, visit func([]byte) bool) error {
	w := walk{visit: visit}
	for len(object) > 0 {
		num, typ, n := protowire.ConsumeTag(object)
		if n < 0 {
			return errNotMessage
		}
		object = object[n:]
		if typ != protowire.BytesType {
			if n = protowire.ConsumeFieldValue(num, typ, object); n < 0 {
				return errNotMessage
			}
			object = object[n:]
			continue
		}
		v, n := protowire.ConsumeBytes(object)
		if n < 0 {
			return errNotMessage
		}
		object = object[n:]
		if num != 1 {
			if !w.value(v) {
				return nil
			}
			continue
		}
		for len(v) > 0 {
			num, typ, n := protowire.ConsumeTag(v)
			if n < 0 {
				return errNotMessage
			}
			size := protowire.ConsumeFieldValue(num, typ, v[n:])
			if size < 0 {
				return errNotMessage
			}
			f := v[n : n+size]
			v = v[n+size:]
			switch num {
			case metaName, metaGenerateName, metaNamespace, metaSelfLink, metaResourceVersion, metaOwners, metaFinalizers, metaManagedFields:
				continue
			}
			if typ == protowire.BytesType {
				b, _ := protowire.ConsumeBytes(f)
				if !w.value(b) {
					return nil
				}
			}
		}
	}
	return nil
}

type walk struct {
	visit  func([]byte) bool
	number []byte
}

// value visits a length-delimited value and what is in it.
func (w *walk) value(v []byte) bool {
	if len(v) == 0 {
		return true
	}
	if isMessage(v) {
		for m := v; len(m) > 0; {
			num, typ, n := protowire.ConsumeTag(m)
			m = m[n:]
			n = protowire.ConsumeFieldValue(num, typ, m)
			f := m[:n]
			m = m[n:]
			switch typ {
			case protowire.VarintType:
				x, _ := protowire.ConsumeVarint(f)
				w.number = strconv.AppendInt(w.number[:0], int64(x), 10)
				if !w.visit(w.number) {
					return false
				}
			case protowire.BytesType:
				b, _ := protowire.ConsumeBytes(f)
				if !w.value(b) {
					return false
				}
			}
		}
		if !utf8.Valid(v) {
			return true
		}
	}
	return w.visit(v)
}

// isMessage reports whether bytes can be read as a message. Groups do not
// occur in Kubernetes.
func isMessage(v []byte) bool {
	for len(v) > 0 {
		num, typ, n := protowire.ConsumeTag(v)
		if n < 0 || typ == protowire.StartGroupType || typ == protowire.EndGroupType {
			return false
		}
		v = v[n:]
		if n = protowire.ConsumeFieldValue(num, typ, v); n < 0 {
			return false
		}
		v = v[n:]
	}
	return true
}

// lastApplied is where kubectl apply keeps the whole manifest: of a Secret,
// with its data.
const lastApplied = "kubectl.kubernetes.io/last-applied-configuration"

// Fields of metav1.ManagedFieldsEntry that say who wrote, and when (the same file).
const (
	managedManager     = 1
	managedTime        = 4
	managedSubresource = 8
)

// trimMeta appends to dst an ObjectMeta message without the annotation lastApplied,
// and with no more of its managed fields than who wrote, and when.
func trimMeta(dst, meta []byte) ([]byte, error) {
	var trimmed []byte
	for len(meta) > 0 {
		num, typ, n := protowire.ConsumeTag(meta)
		if n < 0 {
			return nil, errNotMessage
		}
		size := protowire.ConsumeFieldValue(num, typ, meta[n:])
		if size < 0 {
			return nil, errNotMessage
		}
		whole := meta[:n+size]
		if typ == protowire.BytesType {
			entry, _ := protowire.ConsumeBytes(meta[n:])
			switch {
			case num == metaAnnotations && string(field(entry, 1)) == lastApplied:
				whole = nil
			case num == metaManagedFields:
				whole = nil
				trimmed = trimmed[:0]
				for _, f := range []protowire.Number{managedManager, managedTime, managedSubresource} {
					if v := field(entry, f); v != nil {
						trimmed = protowire.AppendBytes(protowire.AppendTag(trimmed, f, protowire.BytesType), v)
					}
				}
				dst = protowire.AppendBytes(protowire.AppendTag(dst, num, protowire.BytesType), trimmed)
			}
		}
		dst = append(dst, whole...)
		meta = meta[n+size:]
	}
	return dst, nil
}
