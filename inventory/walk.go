package inventory

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
)

// walk calls visit for every string and number of a JSON document, for every key
// of its objects, and with the value emptyObject for every object that is empty or holds
// nothing but empty things, with the path that leads there: the keys, and "[]"
// for the element of an array. parent numbers the object that a key or value stands in, so
// that siblings can be told. The path is valid during the call only. It is how an
// object is read without knowing its schema.
func walk(doc []byte, visit func(path []string, parent int, value string, isKey bool)) error {
	dec := jsontext.NewDecoder(bytes.NewReader(doc), jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true))
	w := walker{dec: dec, visit: visit, path: make([]string, 0, 32)}
	if dec.PeekKind() != '{' {
		return errors.New("read JSON: not an object")
	}
	if _, err := w.value(0); err != nil {
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

// emptyObject is what walk gives as the value of an empty object. No string of
// an API object is like it: they have no control characters.
const emptyObject = "\x00{}"

// value reads one value, and reports whether it is empty: null, or an array or
// object that holds nothing but such.
func (w *walker) value(parent int) (empty bool, err error) {
	tok, err := w.dec.ReadToken()
	if err != nil {
		return false, err
	}
	switch tok.Kind() {
	case 'n':
		return true, nil
	case '"', '0':
		// A number may be a name where a template made a field of it.
		w.visit(w.path, parent, tok.String(), false)
	case '[':
		empty = true
		w.path = append(w.path, "[]")
		for w.dec.PeekKind() != ']' {
			e, err := w.value(parent)
			if err != nil {
				return false, err
			}
			empty = empty && e
		}
		w.path = w.path[:len(w.path)-1]
		_, err = w.dec.ReadToken()
		return empty, err
	case '{':
		w.objects++
		self := w.objects
		empty = true
		for w.dec.PeekKind() != '}' {
			key, err := w.dec.ReadToken()
			if err != nil {
				return false, err
			}
			w.path = append(w.path, key.String())
			w.visit(w.path, self, w.path[len(w.path)-1], true)
			e, err := w.value(self)
			if err != nil {
				return false, err
			}
			empty = empty && e
			w.path = w.path[:len(w.path)-1]
		}
		if empty && len(w.path) > 0 {
			w.visit(w.path, parent, emptyObject, false)
		}
		_, err = w.dec.ReadToken()
		return empty, err
	}
	return false, nil
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
