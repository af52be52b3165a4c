package dump

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
)

// input is a text that is read by lines or by bytes, and that can take back
// what was read too far.
type input struct {
	r    io.Reader
	buf  []byte // what is read and not used
	err  error  // what r ended with
	line int    // number of the line that buf begins in, from 1
}

// Read gives the bytes without counting lines; that is up to the caller.
func (in *input) Read(p []byte) (int, error) {
	if len(in.buf) == 0 {
		if in.err != nil {
			return 0, in.err
		}
		return in.r.Read(p)
	}
	n := copy(p, in.buf)
	in.buf = in.buf[n:]
	return n, nil
}

// next returns the next line with its end. A line longer than limit is cut,
// and the rest of it skipped; cut tells. The error comes when no line is left.
func (in *input) next(limit int) (line []byte, cut bool, err error) {
	for from := 0; ; {
		if i := bytes.IndexByte(in.buf[from:], '\n'); i >= 0 {
			line, in.buf = in.buf[:from+i+1], in.buf[from+i+1:]
			in.line++
			return line, false, nil
		}
		if in.err != nil {
			if len(in.buf) == 0 {
				return nil, false, in.err
			}
			line, in.buf = in.buf, nil
			in.line++
			return line, false, nil
		}
		if len(in.buf) > limit {
			line, in.buf = in.buf[:limit:limit], nil
			in.skipLine()
			return line, true, nil
		}
		from = len(in.buf)
		in.fill()
	}
}

// skipLine drops what is left of a line.
func (in *input) skipLine() {
	for {
		if i := bytes.IndexByte(in.buf, '\n'); i >= 0 {
			in.buf = in.buf[i+1:]
			in.line++
			return
		}
		in.buf = in.buf[:0]
		if in.err != nil {
			in.line++
			return
		}
		in.fill()
	}
}

// peekLine returns the beginning of the next line, at most some kilobytes, and
// leaves it there.
func (in *input) peekLine() ([]byte, error) {
	for {
		if i := bytes.IndexByte(in.buf, '\n'); i >= 0 {
			return in.buf[:i+1], nil
		}
		if len(in.buf) >= 4096 || in.err != nil && len(in.buf) > 0 {
			return in.buf, nil
		}
		if in.err != nil {
			return nil, in.err
		}
		in.fill()
	}
}

// second returns the second character of what follows that is no white space, 0 if
// there is none nearby.
func (in *input) second() byte {
	for {
		rest := bytes.TrimLeft(in.buf, space)
		if len(rest) > 0 {
			rest = bytes.TrimLeft(rest[1:], space)
		}
		if len(rest) > 0 {
			return rest[0]
		}
		if in.err != nil || len(in.buf) > 1<<20 {
			return 0
		}
		in.fill()
	}
}

// fill reads more behind what is there.
func (in *input) fill() {
	const step = 32 << 10
	if cap(in.buf)-len(in.buf) < step {
		grown := make([]byte, len(in.buf), step+2*len(in.buf))
		copy(grown, in.buf)
		in.buf = grown
	}
	n, err := in.r.Read(in.buf[len(in.buf) : len(in.buf)+step])
	in.buf, in.err = in.buf[:len(in.buf)+n], err
}

// back takes a line back that next returned.
func (in *input) back(line []byte) { in.unread(line, in.line-1) }

// A splitter finds the documents of one text: YAML documents, JSON values one
// after the other, and the container logs that kubectl cluster-info dump puts
// between them, which it skips. Lists are given item by item, so that no list
// has to be in memory.
type splitter struct {
	r    *reader
	file string
	in   *input
}

// space is white space in JSON and YAML, and nothing of Unicode's.
const space = " \t\r\n"

var (
	logStart = []byte("==== START logs for container ")
	logEnd   = []byte("==== END logs for container ")
)

func (s *splitter) run() {
	for {
		line, err := s.in.peekLine()
		if err != nil {
			s.end(s.in.line, err)
			return
		}
		text := bytes.Trim(line, space)
		switch {
		case len(text) == 0, text[0] == '#', text[0] == '%', isEnd(line):
			s.in.next(64 << 10)
		case bytes.HasPrefix(line, logStart):
			if err := s.logs(s.in.line); err != nil {
				s.end(s.in.line, err)
				return
			}
		case isSeparator(line):
			// A document may begin behind it, in the same line.
			s.in.buf = s.in.buf[3:]
		case text[0] == '{' || text[0] == '[':
			if s.isJSON(text[0]) {
				s.json()
			} else {
				s.yaml()
			}
		default:
			s.yaml()
		}
	}
}

// end tells when a file did not end well.
func (s *splitter) end(line int, err error) {
	if !errors.Is(err, io.EOF) {
		s.r.broken(s.file, line, anyKind, fmt.Sprintf("%v; the rest of the file is missing", err))
	}
}

// logs skips a log section.
func (s *splitter) logs(start int) error {
	for {
		line, _, err := s.in.next(64 << 10)
		if err != nil {
			if errors.Is(err, io.EOF) {
				// No object can follow an end that is missing.
				s.r.broken(s.file, start, anyKind, "a log section has no end; the rest of the file is missing")
				return io.EOF
			}
			return err
		}
		if bytes.HasPrefix(line, logEnd) {
			return nil
		}
	}
}

func isSeparator(line []byte) bool {
	return bytes.HasPrefix(line, []byte("---")) && (len(line) == 3 || strings.IndexByte(" \t\r\n", line[3]) >= 0)
}

func isEnd(line []byte) bool {
	return bytes.HasPrefix(line, []byte("...")) && len(bytes.Trim(line, space)) == 3
}

// isJSON tells a JSON value from YAML's flow style, which looks much the same:
// {"a": and [{ against {a: and [a.
func (s *splitter) isJSON(first byte) bool {
	next := s.in.second()
	if first == '[' {
		return next == '{' || next == ']' || next == 0
	}
	return next == '"' || next == '}' || next == 0
}

// json reads JSON values until something else follows.
func (s *splitter) json() {
	j := &jsonInput{in: s.in, line: s.in.line}
	dec := jsontext.NewDecoder(j, jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true))
	for {
		j.allow(dec.InputOffset())
		if kind := dec.PeekKind(); kind != '{' && kind != '[' {
			// Logs, a separator, YAML, or the end: not ours.
			s.in.unread(dec.UnreadBuffer(), j.at(dec.InputOffset()))
			return
		}
		if err := s.jsonValue(dec, j); err != nil {
			line := j.at(dec.InputOffset())
			s.in.unread(dec.UnreadBuffer(), line)
			s.r.broken(s.file, line, anyKind, "read JSON: "+plain(err))
			s.resync()
			return
		}
	}
}

// jsonValue reads one document. The items of a list are documents of their
// own.
func (s *splitter) jsonValue(dec *jsontext.Decoder, j *jsonInput) error {
	start := s.jsonLine(dec, j)
	if dec.PeekKind() == '[' {
		return s.jsonItems(dec, j, nil)
	}
	if _, err := dec.ReadToken(); err != nil {
		return err
	}
	o := object{}
	l := new(list)
	isList := false
	for dec.PeekKind() != '}' {
		j.allow(dec.InputOffset())
		key, err := dec.ReadToken()
		if err != nil {
			return err
		}
		name := key.String()
		if name == "items" && dec.PeekKind() == '[' {
			isList = true
			*l = list{apiVersion: o.text("apiVersion"), kind: o.text("kind")}
			if err := s.jsonItems(dec, j, l); err != nil {
				return err
			}
			continue
		}
		j.allow(dec.InputOffset())
		v, err := dec.ReadValue()
		if err != nil {
			return err
		}
		o[name] = v.Clone()
	}
	if _, err := dec.ReadToken(); err != nil {
		return err
	}
	if isList {
		*l = list{apiVersion: o.text("apiVersion"), kind: o.text("kind")}
		s.r.list(l)
	} else {
		s.r.document(s.file, start, o, nil)
	}
	return nil
}

func (s *splitter) jsonItems(dec *jsontext.Decoder, j *jsonInput, l *list) error {
	if _, err := dec.ReadToken(); err != nil {
		return err
	}
	for dec.PeekKind() != ']' {
		j.allow(dec.InputOffset())
		line := s.jsonLine(dec, j)
		v, err := dec.ReadValue()
		if err != nil {
			return err
		}
		s.value(line, v, l)
	}
	_, err := dec.ReadToken()
	return err
}

// jsonLine is the line in which the next value begins. The decoder must have
// peeked at it.
func (s *splitter) jsonLine(dec *jsontext.Decoder, j *jsonInput) int {
	rest := dec.UnreadBuffer()
	return j.at(dec.InputOffset() + int64(len(rest)-len(bytes.TrimLeft(rest, " \t\r\n,:"))))
}

// value takes one document that is in memory as a whole.
func (s *splitter) value(line int, v jsontext.Value, l *list) {
	if v.Kind() == 'n' {
		return
	}
	o, err := parseObject(v)
	if err != nil {
		s.r.broken(s.file, line, anyKind, "not a Kubernetes object: "+plain(err))
		return
	}
	if items, ok := o["items"]; ok && items.Kind() == '[' {
		inner := &list{apiVersion: o.text("apiVersion"), kind: o.text("kind")}
		for _, item := range elements(items) {
			s.value(line, item, inner)
		}
		s.r.list(inner)
		return
	}
	s.r.document(s.file, line, o, l)
}

// resync goes to where a document can begin, after one that is broken in a way
// that hides its end.
func (s *splitter) resync() {
	// The rest of the line belongs to what is broken.
	for first := true; ; first = false {
		at := s.in.line
		line, cut, err := s.in.next(64 << 10)
		if err != nil {
			if !errors.Is(err, io.EOF) {
				s.end(at, err)
			}
			return
		}
		if !first && !cut && (isSeparator(line) || line[0] == '{' || bytes.HasPrefix(line, logStart)) {
			s.in.back(line)
			return
		}
	}
}

// plain is an error's text without what only a programmer can use.
func plain(err error) string {
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return "it ends too early"
	}
	return strings.TrimPrefix(strings.TrimPrefix(err.Error(), "jsontext: "), "error converting YAML to JSON: ")
}

// unread puts back bytes that a decoder has read and not used. line is the
// number of the line that they begin in.
func (in *input) unread(b []byte, line int) {
	in.buf = append(bytes.Clone(b), in.buf...)
	in.line = line
}

// jsonInput feeds a JSON decoder, counts lines, and stops a value that is too
// long.
type jsonInput struct {
	in       *input
	given    int64   // bytes given to the decoder
	most     int64   // bytes that may be given
	line     int     // number of the line that ends before newlines[0]
	newlines []int64 // offsets of newlines that were given and not yet passed
}

func (j *jsonInput) allow(offset int64) { j.most = offset + int64(maxDocument) }

func (j *jsonInput) Read(p []byte) (int, error) {
	if j.given >= j.most {
		return 0, fmt.Errorf("%w: a value has more than %d MiB", errLimit, maxDocument>>20)
	}
	n, err := j.in.Read(p)
	for i, c := range p[:n] {
		if c == '\n' {
			j.newlines = append(j.newlines, j.given+int64(i))
		}
	}
	j.given += int64(n)
	return n, err
}

// at returns the number of the line at an offset, which must not be before one
// that was asked for earlier.
func (j *jsonInput) at(offset int64) int {
	for len(j.newlines) > 0 && j.newlines[0] < offset {
		j.line++
		j.newlines = j.newlines[1:]
	}
	return j.line
}

// yaml reads one YAML document, up to a separator or a log section.
func (s *splitter) yaml() {
	d := yamlDocument{s: s, start: s.in.line, list: new(list)}
	for {
		at := s.in.line
		line, cut, err := s.in.next(maxDocument)
		if err != nil {
			d.finish()
			return
		}
		if isSeparator(line) || bytes.HasPrefix(line, logStart) || line[0] == '{' && at > d.start {
			s.in.back(line)
			d.finish()
			return
		}
		if isEnd(line) {
			d.finish()
			return
		}
		if cut {
			d.cut(at, line)
			continue
		}
		d.add(at, line)
	}
}

// yamlDocument collects the lines of a document. Where it has a block list
// named items at its top, each item is parsed by itself as soon as it ends.
type yamlDocument struct {
	s     *splitter
	start int
	list  *list

	head  []byte // all lines but those of items
	whole []byte // all lines, while they are few
	isList,
	inItems bool
	dash     int // indentation of the items
	item     []byte
	itemLine int
	items    int
	failed   []failedItem
	tooLong  bool // the item has more than is kept
	headLong bool // and so has the head
	long     bool // and the document more than whole keeps
}

type failedItem struct {
	index, line int
	err         error
	kind        string
}

// maxAnchored is the longest list that is parsed as a whole when its items use
// each other's anchors.
const maxAnchored = 4 << 20

var itemsKey = regexp.MustCompile(`^(items|"items"|'items'):[ \t]*(#.*)?\r?\n?$`)

func (d *yamlDocument) add(at int, line []byte) {
	if len(d.whole)+len(line) > maxAnchored {
		d.long = true
	}
	if !d.long {
		d.whole = append(d.whole, line...)
	}
	if !d.inItems {
		if !d.isList && itemsKey.Match(line) {
			d.isList, d.inItems, d.dash = true, true, -1
			return
		}
		d.keepHead(line)
		return
	}
	text := bytes.Trim(line, space)
	if len(text) == 0 || text[0] == '#' && d.item == nil {
		if d.item != nil {
			d.keepItem(line)
		}
		return
	}
	indent := len(line) - len(bytes.TrimLeft(line, " "))
	dashed := text[0] == '-' && (len(text) == 1 || text[1] == ' ' || text[1] == '\t')
	switch {
	case dashed && (d.dash < 0 || indent == d.dash):
		d.flush()
		d.dash, d.itemLine = indent, at
		d.item = append([]byte(nil), line...)
	case indent == 0 && !(text[0] == '#'):
		d.flush()
		d.inItems = false
		d.keepHead(line)
	case d.item == nil:
		// No list: items has fields of its own.
		d.isList, d.inItems = false, false
		d.keepHead([]byte("items:\n"))
		d.keepHead(line)
	default:
		d.keepItem(line)
	}
}

func (d *yamlDocument) keepHead(line []byte) {
	if d.headLong = d.headLong || len(d.head)+len(line) > maxDocument; !d.headLong {
		d.head = append(d.head, line...)
	}
}

func (d *yamlDocument) keepItem(line []byte) {
	if d.tooLong = d.tooLong || len(d.item)+len(line) > maxDocument; !d.tooLong {
		d.item = append(d.item, line...)
	}
}

// cut takes note of a line that is too long to be kept.
func (d *yamlDocument) cut(at int, line []byte) {
	d.long = true
	if d.inItems {
		d.tooLong = true
		if d.item == nil {
			d.item, d.itemLine = line[:1024], at
		}
	} else {
		d.headLong = true
	}
}

// flush parses the item that has ended.
func (d *yamlDocument) flush() {
	if d.item == nil {
		return
	}
	text, index, line := d.item, d.items, d.itemLine
	d.item = nil
	d.items++
	if d.tooLong {
		d.tooLong = false
		d.failed = append(d.failed, failedItem{index, line, tooLong(), sniffKind(text)})
		return
	}
	v, err := yamlToJSON(text)
	if err != nil {
		d.failed = append(d.failed, failedItem{index, line, err, sniffKind(text)})
		return
	}
	for _, e := range elements(v) {
		d.s.value(line, e, d.list)
	}
}

func tooLong() error {
	return fmt.Errorf("%w: a document has more than %d MiB", errLimit, maxDocument>>20)
}

func (d *yamlDocument) finish() {
	s := d.s
	d.flush()
	if !d.isList {
		if d.headLong {
			s.r.broken(s.file, d.start, sniffKind(d.head), tooLong().Error())
			return
		}
		v, err := yamlToJSON(d.head)
		if err != nil {
			s.r.broken(s.file, d.start, sniffKind(d.head), "read YAML: "+plain(err))
			return
		}
		if v.Kind() == '[' {
			for _, e := range elements(v) {
				s.value(d.start, e, nil)
			}
			return
		}
		s.value(d.start, v, nil)
		return
	}
	head, err := yamlToJSON(d.head)
	if d.headLong {
		err = tooLong()
	}
	if err == nil && head.Kind() != 'n' {
		var o object
		if o, err = parseObject(head); err == nil {
			*d.list = list{apiVersion: o.text("apiVersion"), kind: o.text("kind")}
		}
	}
	if err != nil {
		s.r.broken(s.file, d.start, anyKind, "read YAML: "+plain(err))
	}
	if len(d.failed) > 0 && !d.long {
		// An item may need an anchor of another one.
		if v, err := yamlToJSON(d.whole); err == nil {
			if o, err := parseObject(v); err == nil {
				if all := elements(o["items"]); len(all) == d.items {
					for _, f := range d.failed {
						s.value(f.line, all[f.index], d.list)
					}
					d.failed = nil
				}
			}
		}
	}
	for _, f := range d.failed {
		kind := f.kind
		if k, ok := strings.CutSuffix(d.list.kind, "List"); ok && k != "" && kind == anyKind {
			kind = gapKind(groupOf(d.list.apiVersion), k)
		}
		s.r.broken(s.file, f.line, kind, "read YAML: "+plain(f.err))
	}
	s.r.list(d.list)
}
