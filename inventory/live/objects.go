package live

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/scheme"

	"github.com/certherd/certherd/inventory"
)

// secrets reads the metadata of the Secrets that a field selector selects. The
// type is no part of metadata: it is known where the selector says it, and
// empty otherwise.
func (l *look) secrets(ctx context.Context, w *reader, r resource, typ, selector string) {
	var trimmed []byte
	q := query{accept: asMetadata, fieldSelector: selector}
	broken := l.once(r)
	l.list(ctx, w, r, q, func(raw []byte) error {
		var m metav1.ObjectMeta
		var err error
		if trimmed, err = trimMeta(trimmed[:0], field(raw, 1)); err == nil {
			err = m.Unmarshal(trimmed)
		}
		if err == nil && m.Name == "" {
			err = errors.New("a Secret without a name")
		}
		if err != nil {
			broken(err)
			return nil
		}
		l.mu.Lock()
		defer l.mu.Unlock()
		l.c.AddSecret(&m, typ, nil, time.Time{})
		if l.o.Object != nil {
			doc, err := json.Marshal(secret{metav1.TypeMeta{APIVersion: "v1", Kind: "Secret"}, m, typ})
			if err != nil {
				return err
			}
			l.o.Object("", r.Version, r.Kind, doc)
		}
		return nil
	})
	// An annotation that kubectl put there may have brought key material.
	clear(w.buf[:cap(w.buf)])
	if typ != "" { // the first of the two lists does not end the kind
		return
	}
	l.finish(r)
}

// secret is what is known of a Secret.
type secret struct {
	metav1.TypeMeta
	metav1.ObjectMeta `json:"metadata"`
	Type              string `json:"type,omitempty"`
}

// once returns a function that records a Gap for the first object that could not
// be understood.
func (l *look) once(r resource) func(error) {
	done := false
	return func(err error) {
		if !done {
			done = true
			l.gap(r, reason(err))
		}
	}
}

// certificates reads a judged kind that comes as JSON.
func (l *look) certificates(ctx context.Context, w *reader, r resource) {
	broken := l.once(r)
	l.list(ctx, w, r, query{accept: asJSON}, func(raw []byte) error {
		if _, err := l.add(r, raw); err != nil {
			broken(err)
		}
		return nil
	})
	l.finish(r)
}

// add makes a record of a JSON object.
func (l *look) add(r resource, raw []byte) (bool, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	kept, err := l.c.Add(r.Group, r.Kind, raw)
	if kept && l.o.Object != nil {
		l.o.Object(r.Group, r.Version, r.Kind, raw)
	}
	return kept, err
}

// others reads a kind that has no verdict.
func (l *look) others(ctx context.Context, w *reader, r resource) {
	broken := l.once(r)
	fromJSON := l.fromJSON(r, broken)
	if r.builtIn() {
		l.list(ctx, w, r, query{accept: asProtobuf, otherwise: fromJSON}, l.fromProtobuf(r, broken))
	} else {
		l.list(ctx, w, r, query{accept: asJSON}, fromJSON)
	}
	l.finish(r)
}

// fromJSON takes an object as the API server sent it.
func (l *look) fromJSON(r resource, broken func(error)) func([]byte) error {
	always := inventory.AlwaysScanned(r.Group, r.Kind)
	record := r.record()
	return func(raw []byte) error {
		if record {
			if _, err := l.add(r, raw); err != nil {
				broken(err)
			}
		}
		if !always && !escapes(raw) && !l.c.Mentions(raw) {
			return nil
		}
		l.mu.Lock()
		defer l.mu.Unlock()
		l.scan(r, raw)
		return nil
	}
}

// escapes reports whether JSON may spell a character of a name in another way:
// \u0061 for a, \/ for /. The API server does so only for characters that no name
// has, other servers may do as they like.
func escapes(raw []byte) bool {
	for {
		i := bytes.IndexByte(raw, '\\')
		if i < 0 || i+1 >= len(raw) {
			return false
		}
		switch raw[i+1] {
		case '/':
			return true
		case 'u':
			// \u003c, \u003e and \u0026 are Go's way to write <, > and &.
			if len(raw) < i+6 {
				return true
			}
			switch strings.ToLower(string(raw[i+2 : i+6])) {
			case "003c", "003e", "0026", "2028", "2029":
			default:
				return true
			}
		}
		raw = raw[i+2:]
	}
}

// message is what objects of built-in kinds can do.
type message interface {
	runtime.Object
	metav1.Object
	Unmarshal([]byte) error
	Size() int
}

// fromProtobuf takes an object of a built-in kind. Most objects name nothing
// that is looked for, and are never decoded.
func (l *look) fromProtobuf(r resource, broken func(error)) func([]byte) error {
	record := r.record()
	return func(raw []byte) error {
		hit := false
		err := leaves(raw, func(text []byte) bool {
			hit = l.c.Mentions(text)
			return !hit
		})
		if err != nil {
			broken(err)
			return nil
		}
		if !hit && !record {
			return nil
		}
		m, err := decode(r, raw)
		if err != nil {
			broken(err)
			return nil
		}
		complete := m.Size() == len(raw)
		m.SetManagedFields(nil)
		var doc []byte
		if hit {
			if doc, err = json.Marshal(m); err != nil {
				broken(err)
				return nil
			}
		}
		l.mu.Lock()
		defer l.mu.Unlock()
		if record && l.c.AddObject(m) && l.o.Object != nil {
			if doc == nil {
				if doc, err = json.Marshal(m); err != nil {
					return err
				}
			}
			l.o.Object(r.Group, r.Version, r.Kind, doc)
		}
		if !hit {
			return nil
		}
		l.scan(r, doc)
		if !complete {
			if extra := l.undecoded(raw, m, doc); extra != nil {
				l.scan(r, extra)
			}
		}
		return nil
	}
}

func decode(r resource, raw []byte) (message, error) {
	o, err := scheme.Scheme.New(r.gvk())
	if err != nil {
		return nil, err
	}
	m, ok := o.(message)
	if !ok {
		return nil, fmt.Errorf("%T has no protobuf form", o)
	}
	if err := m.Unmarshal(raw); err != nil {
		return nil, fmt.Errorf("decode %s: %w", r.Kind, err)
	}
	m.GetObjectKind().SetGroupVersionKind(r.gvk())
	return m, nil
}

// undecoded returns, as a JSON object of its own, the strings of an object that
// could name another one and are not in doc: those of fields that a newer API
// server has and this program's types have not. nil is none.
func (l *look) undecoded(raw []byte, m message, doc []byte) []byte {
	var lost []string
	// What raw is was seen before.
	_ = leaves(raw, func(text []byte) bool {
		if l.c.Mentions(text) && !(isMessage(text) && bytes.ContainsFunc(text, control)) {
			if quoted, err := json.Marshal(string(text)); err == nil && !bytes.Contains(doc, quoted[1:len(quoted)-1]) {
				lost = append(lost, string(text))
			}
		}
		return true
	})
	if lost == nil {
		return nil
	}
	extra, err := json.Marshal(map[string]any{
		"metadata":      map[string]any{"namespace": m.GetNamespace(), "name": m.GetName(), "uid": m.GetUID()},
		"unknownFields": lost,
		// What stands in status is no evidence, but may name a namespace.
		"status": json.RawMessage(doc),
	})
	if err != nil {
		return nil // strings always have a JSON form
	}
	return extra
}

func control(r rune) bool { return r < ' ' && r != '\n' && r != '\r' && r != '\t' }

// scan looks at an object's JSON. The caller holds mu.
func (l *look) scan(r resource, doc []byte) {
	if err := l.c.Scan(r.Group, r.Kind, doc); err != nil {
		l.c.Gap(inventory.Gap{Kind: r.gapKind(), Reason: reason(err)})
	}
}
