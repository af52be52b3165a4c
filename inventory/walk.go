package inventory

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
)

// walk calls visit for every string of a JSON document, for every key of its
// objects, and with the value "{}" for every empty object, with the path that
// leads there: the keys, and "[]" for the element of an array. parent numbers
// the object that a key or value stands in, so that siblings can be told. The path is
// valid during the call only. It is how an object is read without knowing its schema.
func walk(doc []byte, visit func(path []string, parent int, value string, isKey bool)) error {
	dec := jsontext.NewDecoder(bytes.NewReader(doc), jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true))
	w := walker{dec: dec, visit: visit, path: make([]string, 0, 32)}
	if dec.PeekKind() != '{' {
		return errors.New("read JSON: not an object")
	}
	if err := w.value(0); err != nil {
		return fmt.Errorf("read JSON: %w", err)
	}
	if _, err := dec.ReadToken(); !errors.Is(err, io.EOF) {
		return errors.New("read JSON: more than one value")
	}
	return nil
}

type walker struct {
	dec     *jsontext.Decoder
	visit   func([]string, int, string, bool)
	path    []string
	objects int
}

func (w *walker) value(parent int) error {
	tok, err := w.dec.ReadToken()
	if err != nil {
		return err
	}
	switch tok.Kind() {
	case '"':
		w.visit(w.path, parent, tok.String(), false)
	case '[':
		w.path = append(w.path, "[]")
		for w.dec.PeekKind() != ']' {
			if err := w.value(parent); err != nil {
				return err
			}
		}
		w.path = w.path[:len(w.path)-1]
		_, err = w.dec.ReadToken()
		return err
	case '{':
		w.objects++
		self, empty := w.objects, true
		for w.dec.PeekKind() != '}' {
			key, err := w.dec.ReadToken()
			if err != nil {
				return err
			}
			empty = false
			w.path = append(w.path, key.String())
			w.visit(w.path, self, w.path[len(w.path)-1], true)
			if err := w.value(self); err != nil {
				return err
			}
			w.path = w.path[:len(w.path)-1]
		}
		if empty && len(w.path) > 0 {
			w.visit(w.path, parent, "{}", false)
		}
		_, err = w.dec.ReadToken()
		return err
	}
	return nil
}

// fieldPath writes a path the way kubectl's users write it: .spec.tls[].secretName,
// with keys that hold dots or slashes in brackets.
func fieldPath(path []string) string {
	var b strings.Builder
	for _, p := range path {
		switch {
		case p == "[]":
			b.WriteString("[]")
		case strings.ContainsAny(p, "./ []"):
			b.WriteString(`["` + p + `"]`)
		default:
			b.WriteByte('.')
			b.WriteString(p)
		}
	}
	return strings.TrimPrefix(b.String(), ".")
}
