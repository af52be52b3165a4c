package config

import (
	"bytes"
	"encoding"
	"errors"
	"fmt"
	"io"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Error is one thing that is wrong with a file.
type Error struct {
	// Line is where, counted from 1; 0 where no line can be named.
	Line int
	// Path is the key, for example gc.windows[0].duration; empty for the file.
	Path    string
	Message string
}

func (e Error) Error() string {
	s := e.Message
	if e.Path != "" {
		s = e.Path + ": " + s
	}
	if e.Line > 0 {
		s = fmt.Sprintf("line %d: %s", e.Line, s)
	}
	return s
}

// Errors are all that is wrong with a file, in its order.
type Errors []Error

func (e Errors) Error() string {
	lines := make([]string, len(e))
	for i, x := range e {
		lines[i] = x.Error()
	}
	return strings.Join(lines, "\n")
}

// Parse reads a config.yaml. What it does not say is as in Default, and an
// empty one is Default. Keys that do not exist are errors. An error is of type
// Errors and holds everything that is wrong; the Config is then the zero one.
func Parse(doc []byte) (Config, error) {
	c, errs := parse(doc)
	if len(errs) > 0 {
		return Config{}, errs
	}
	return c, nil
}

func parse(doc []byte) (Config, Errors) {
	root, err := document(doc)
	if err != nil {
		return Config{}, Errors{*err}
	}
	c := Default()
	d := decoder{lines: map[string]int{}}
	if root != nil {
		d.decode(root, reflect.ValueOf(&c).Elem(), "")
	}
	if _, said := d.lines["gc.expiredGracePeriod"]; !said {
		g := &c.GC
		g.ExpiredGracePeriod = max(g.MinAge, min(g.ExpiredGracePeriod, g.GracePeriod))
	}
	broken := map[string]bool{}
	for _, e := range d.errs {
		broken[e.Path] = true
	}
	// What could not be read has its default now, which is not at fault.
	for _, e := range c.check(broken) {
		e.Line = d.line(e.Path)
		d.errs = append(d.errs, e)
	}
	slices.SortStableFunc(d.errs, func(a, b Error) int { return a.Line - b.Line })
	return c, d.errs
}

// document is the one document of a file, nil when it says nothing.
func document(doc []byte) (*yaml.Node, *Error) {
	in := yaml.NewDecoder(bytes.NewReader(doc))
	var root, second yaml.Node
	switch err := in.Decode(&root); {
	case errors.Is(err, io.EOF):
		return nil, nil
	case err != nil:
		return nil, syntaxError(err)
	}
	switch err := in.Decode(&second); {
	case errors.Is(err, io.EOF):
	case err != nil:
		return nil, syntaxError(err)
	default:
		return nil, &Error{Line: second.Line, Message: "there is a second document (---): write everything in one"}
	}
	n := root.Content[0]
	if isNull(n) {
		return nil, nil
	}
	return n, nil
}

var yamlLine = regexp.MustCompile(`^(?:line (\d+): )?(.*)$`)

// syntaxError takes the line out of an error of package yaml.
func syntaxError(err error) *Error {
	m := yamlLine.FindStringSubmatch(strings.ReplaceAll(strings.TrimPrefix(err.Error(), "yaml: "), "\n", " "))
	line, _ := strconv.Atoi(m[1])
	return &Error{Line: line, Message: "this is no YAML: " + m[2]}
}

func isNull(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.Tag == "!!null" }

// decoder fills a Config and notes where everything was said. yaml.Decoder with
// KnownFields does not tell the path, and stops at the first value that a type
// of ours refuses.
type decoder struct {
	lines map[string]int // path -> line
	errs  Errors
}

// line is that of a path, or of the nearest thing around it that was said.
func (d *decoder) line(path string) int {
	for {
		if l, ok := d.lines[path]; ok {
			return l
		}
		i := strings.LastIndexAny(path, ".[")
		if i < 0 {
			return 0
		}
		path = path[:i]
	}
}

func (d *decoder) fail(n *yaml.Node, path, format string, a ...any) {
	d.errs = append(d.errs, Error{Line: n.Line, Path: path, Message: fmt.Sprintf(format, a...)})
}

const noAliases = "anchors and aliases (&, * and <<) are not read: write it out"

var textUnmarshaler = reflect.TypeFor[encoding.TextUnmarshaler]()

func (d *decoder) decode(n *yaml.Node, v reflect.Value, path string) {
	if _, ok := d.lines[path]; !ok && path != "" {
		d.lines[path] = n.Line
	}
	if n.Kind == yaml.AliasNode || n.Anchor != "" {
		d.fail(n, path, noAliases)
		return
	}
	switch {
	case v.Addr().Type().Implements(textUnmarshaler):
		if text, ok := d.scalar(n, path); ok {
			if err := v.Addr().Interface().(encoding.TextUnmarshaler).UnmarshalText([]byte(text)); err != nil {
				d.fail(n, path, "%v", err)
			}
		}
	case v.Kind() == reflect.Struct:
		d.mapping(n, v, path)
	case v.Kind() == reflect.Slice:
		if isNull(n) {
			v.SetZero()
			return
		}
		if n.Kind != yaml.SequenceNode {
			d.fail(n, path, "this must be a list")
			return
		}
		v.Set(reflect.MakeSlice(v.Type(), len(n.Content), len(n.Content)))
		for i, x := range n.Content {
			d.decode(x, v.Index(i), fmt.Sprintf("%s[%d]", path, i))
		}
	case v.Kind() == reflect.String:
		if text, ok := d.scalar(n, path); ok {
			if n.Tag != "!!str" {
				d.fail(n, path, "this must be a text: write it in quotes, %q", text)
				return
			}
			v.SetString(text)
		}
	case v.Kind() == reflect.Int:
		if text, ok := d.scalar(n, path); ok {
			x, err := strconv.ParseInt(text, 10, 32)
			if err != nil || n.Tag != "!!int" {
				d.fail(n, path, "%q is no whole number", text)
				return
			}
			v.SetInt(x)
		}
	case v.Kind() == reflect.Bool:
		if text, ok := d.scalar(n, path); ok {
			if n.Tag != "!!bool" {
				d.fail(n, path, "%q is neither true nor false", text)
				return
			}
			v.SetBool(strings.EqualFold(text, "true"))
		}
	default:
		panic("config: cannot read a " + v.Type().String())
	}
}

func (d *decoder) scalar(n *yaml.Node, path string) (string, bool) {
	switch {
	case isNull(n):
		d.fail(n, path, "there is no value: write one, or take the key out")
	case n.Kind != yaml.ScalarNode:
		d.fail(n, path, "this must be a single value")
	default:
		return n.Value, true
	}
	return "", false
}

func (d *decoder) mapping(n *yaml.Node, v reflect.Value, path string) {
	if isNull(n) {
		return
	}
	if n.Kind != yaml.MappingNode {
		d.fail(n, path, "this must be a section with keys: %s", strings.Join(keysOf(v.Type()), ", "))
		return
	}
	fields := fieldsOf(v.Type())
	said := map[string]int{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		at := join(path, key.Value)
		if key.Kind != yaml.ScalarNode || key.Anchor != "" {
			d.fail(key, path, "a key must be a plain word")
			continue
		}
		if line, ok := said[key.Value]; ok {
			d.fail(key, at, "it was said in line %d already", line)
			continue
		}
		said[key.Value] = key.Line
		f, ok := fields[key.Value]
		if key.Tag == "!!merge" {
			d.fail(key, path, noAliases)
			continue
		}
		if !ok {
			d.fail(key, at, "%s", unknownKey(key.Value, v.Type(), path))
			continue
		}
		d.lines[at] = key.Line
		d.decode(value, v.FieldByIndex(f.Index), at)
	}
}

func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

// keyOf is the key of a field in the file.
func keyOf(f reflect.StructField) string {
	key, _, _ := strings.Cut(f.Tag.Get("yaml"), ",")
	return key
}

// fieldsOf are the fields of a section by key, those of its inlined part among
// them.
func fieldsOf(t reflect.Type) map[string]reflect.StructField {
	out := map[string]reflect.StructField{}
	for _, f := range reflect.VisibleFields(t) {
		if key := keyOf(f); key != "" {
			out[key] = f
		}
	}
	return out
}

// keysOf are the keys of a section, in the order of the documentation.
func keysOf(t reflect.Type) []string {
	var out []string
	for _, f := range reflect.VisibleFields(t) {
		if key := keyOf(f); key != "" {
			out = append(out, key)
		}
	}
	return out
}

// unknownKey says what else might have been meant.
func unknownKey(key string, section reflect.Type, path string) string {
	keys := keysOf(section)
	best, least := "", 3
	for _, k := range keys {
		// Two letters may be wrong, and not half of a short word.
		if n := distance(strings.ToLower(key), strings.ToLower(k)); n < least && 2*n <= len(k) {
			best, least = k, n
		}
	}
	switch places := placesOf(key, reflect.TypeFor[Config](), ""); {
	case best != "":
		return fmt.Sprintf("there is no such key; did you mean %s?", best)
	case len(places) > 0:
		return fmt.Sprintf("there is no such key here; it belongs to %s", strings.Join(places, ", "))
	case path == "":
		return "there is no such key; there are " + strings.Join(keys, ", ")
	}
	return fmt.Sprintf("there is no such key; %s has %s", path, strings.Join(keys, ", "))
}

// placesOf are the sections that have a key.
func placesOf(key string, t reflect.Type, path string) []string {
	var out []string
	for _, f := range reflect.VisibleFields(t) {
		switch k := keyOf(f); {
		case k == "":
		case k == key && path == "":
			out = append(out, "the top of the file")
		case k == key:
			out = append(out, path)
		case f.Type.Kind() == reflect.Struct:
			out = append(out, placesOf(key, f.Type, join(path, k))...)
		}
	}
	return out
}

// distance is the number of letters to insert, delete or replace (Levenshtein).
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, diagonal+1)
		}
	}
	return row[len(b)]
}
