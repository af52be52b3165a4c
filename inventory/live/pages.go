package live

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"google.golang.org/protobuf/encoding/protowire"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
)

// Media types of lists (k8s.io/apimachinery pkg/runtime/types.go and the API
// conventions on receiving resources as partial metadata).
const (
	asJSON     = "application/json"
	asProtobuf = "application/vnd.kubernetes.protobuf"
	asMetadata = asProtobuf + ";as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
)

// query is one list to read.
type query struct {
	path          string
	accept        string
	fieldSelector string
	// otherwise takes the objects as JSON where the API server, an aggregated
	// one, does not have them in protobuf. nil when that is no way out.
	otherwise func([]byte) error
}

// connect prepares the client for lists. There is no limit to the rate of
// requests: they are few and one after the other, and the API server has its
// own ways to slow callers down, which the client obeys.
func (l *look) connect(cfg *rest.Config) error {
	cfg = rest.CopyConfig(cfg)
	cfg.QPS = -1
	cfg.RateLimiter = nil
	cfg.Timeout = 0 // it would end long answers however well they come in
	cfg.DisableCompression = !l.o.Compress
	cfg.WarningHandler = rest.NoWarnings{}
	// With HTTP/2, the transport would buffer up to 4 MiB of each list, whether
	// anybody reads them or not. Two lists at once need two connections, no more.
	cfg.TLSClientConfig.NextProtos = []string{"http/1.1"}
	cfg.NegotiatedSerializer = scheme.Codecs.WithoutConversion()
	cfg.Wrap(l.traffic.count)
	client, err := rest.UnversionedRESTClientFor(cfg)
	l.client = client
	return err
}

// reader holds what reading lists needs, to be used for one list after the
// other.
type reader struct {
	in  *bufio.Reader
	dec *jsontext.Decoder
	buf []byte // one object
	// version is the resource version of the list that was read last: of its first page,
	// for later ones may be of a later moment.
	version string
}

func newReader() *reader {
	return &reader{in: bufio.NewReaderSize(nil, 32<<10), dec: jsontext.NewDecoder(bytes.NewReader(nil))}
}

// pages reads a list page by page and calls item with each object, which is
// valid during the call only. It returns how many objects it read.
//
// A list that expires between two pages (410, after five minutes by default)
// goes on where it was with a token that the API server gives for that: later
// objects are then of a later moment, and none comes twice.
func (l *look) pages(ctx context.Context, w *reader, q query, item func([]byte) error) (n int, err error) {
	counted := func(raw []byte) error { n++; return item(raw) }
	token, expired := "", false
	w.version = ""
	for {
		next, err := l.page(ctx, w, q, token, counted)
		if apierrors.IsResourceExpired(err) && token != "" && !expired {
			if again := continuation(err); again != "" {
				token, expired = again, true
				continue
			}
		}
		if err != nil {
			if n > 0 {
				err = fmt.Errorf("after %d objects: %w", n, err)
			}
			return n, err
		}
		if next == "" {
			return n, nil
		}
		if next == token {
			return n, errors.New("the API server gave the same page twice")
		}
		token, expired = next, false
	}
}

func continuation(err error) string {
	var status apierrors.APIStatus
	if errors.As(err, &status) {
		return status.Status().Continue
	}
	return ""
}

// page reads one page and returns the token of the next one.
func (l *look) page(ctx context.Context, w *reader, q query, token string, item func([]byte) error) (next string, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	quiet := fmt.Errorf("no answer within %s", l.o.Timeout)
	idle := time.AfterFunc(l.o.Timeout, func() { cancel(quiet) })
	defer idle.Stop()
	defer func() {
		if err != nil && errors.Is(context.Cause(ctx), quiet) {
			err = quiet
		}
	}()

	req := l.client.Get().AbsPath(q.path).SetHeader("Accept", q.accept).Param("limit", strconv.FormatInt(l.o.PageSize, 10))
	if q.fieldSelector != "" {
		req.Param("fieldSelector", q.fieldSelector)
	}
	if token != "" {
		req.Param("continue", token)
	}
	body, err := req.Stream(ctx)
	if err != nil {
		return "", err
	}
	defer body.Close()
	in := &watched{body, idle, l.o.Timeout}
	if strings.HasPrefix(q.accept, asProtobuf) {
		w.in.Reset(in)
		return w.protobuf(item)
	}
	w.dec.Reset(in, jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true))
	return w.json(item)
}

// watched puts off the end of a wait whenever something comes in. The time
// that the caller takes between two reads does not count.
type watched struct {
	in      io.Reader
	idle    *time.Timer
	timeout time.Duration
}

func (w *watched) Read(p []byte) (int, error) {
	w.idle.Reset(w.timeout)
	n, err := w.in.Read(p)
	w.idle.Stop()
	return n, err
}

// of notes the resource version of a list, if it is that of its first page.
func (w *reader) of(version string) {
	if w.version == "" {
		w.version = version
	}
}

// json reads a list in JSON.
func (w *reader) json(item func([]byte) error) (next string, err error) {
	dec := w.dec
	defer func() {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
	}()
	if tok, err := dec.ReadToken(); err != nil {
		return "", err
	} else if tok.Kind() != '{' {
		return "", errNoList
	}
	found := false
	for dec.PeekKind() != '}' {
		key, err := dec.ReadToken()
		if err != nil {
			return "", err
		}
		switch key.String() {
		case "metadata":
			raw, err := dec.ReadValue()
			if err != nil {
				return "", err
			}
			var m struct {
				Continue        string `json:"continue"`
				ResourceVersion string `json:"resourceVersion"`
			}
			if err := json.Unmarshal(raw, &m); err != nil {
				return "", err
			}
			next = m.Continue
			w.of(m.ResourceVersion)
		case "items":
			found = true
			if dec.PeekKind() != '[' { // null, which some servers write for none
				if raw, err := dec.ReadValue(); err != nil {
					return "", err
				} else if string(raw) != "null" {
					return "", errNoList
				}
				continue
			}
			if _, err := dec.ReadToken(); err != nil {
				return "", err
			}
			for dec.PeekKind() != ']' {
				raw, err := dec.ReadValue()
				if err != nil {
					return "", err
				}
				if raw.Kind() != '{' {
					return "", errNoList
				}
				if err := item(raw); err != nil {
					return "", err
				}
			}
			if _, err := dec.ReadToken(); err != nil {
				return "", err
			}
		default:
			if err := dec.SkipValue(); err != nil {
				return "", err
			}
		}
	}
	if _, err := dec.ReadToken(); err != nil {
		return "", err
	}
	if !found {
		return "", errNoList
	}
	if _, err := dec.ReadToken(); err == nil {
		return "", errNoList
	} else if !errors.Is(err, io.EOF) {
		return "", err
	}
	return next, nil
}

var errNoList = errors.New("the answer is not a list")

// magic begins every protobuf body of Kubernetes; a message runtime.Unknown
// follows (k8s.io/apimachinery pkg/runtime/serializer/protobuf and
// pkg/runtime/generated.proto).
const magic = "k8s\x00"

// protobuf reads a list in protobuf: an Unknown whose field raw (2) is the list.
func (w *reader) protobuf(item func([]byte) error) (next string, err error) {
	head := make([]byte, len(magic))
	if _, err := io.ReadFull(w.in, head); err != nil {
		return "", noEOF(err)
	}
	if string(head) != magic {
		return "", errNoList
	}
	found := false
	for {
		num, length, err := w.field()
		if err == io.EOF {
			break
		}
		if err != nil {
			return "", err
		}
		switch num {
		case 2:
			found = true
			if next, err = w.protobufList(length, item); err != nil {
				return "", err
			}
		case 1: // typeMeta: apiVersion (1), kind (2)
			meta, err := w.bytes(length)
			if err != nil {
				return "", err
			}
			if kind := field(meta, 2); !bytes.HasSuffix(kind, []byte("List")) {
				return "", errNoList
			}
		case 3: // contentEncoding
			if length > 0 {
				return "", errNoList
			}
		default:
			if _, err := w.in.Discard(length); err != nil {
				return "", noEOF(err)
			}
		}
	}
	if !found {
		return "", errNoList
	}
	return next, nil
}

// protobufList reads a list message of a known length: metadata (1), whose
// field 2 is the resource version and field 3 the token of the next page, and items (2). All lists of Kubernetes'
// API are laid out so.
func (w *reader) protobufList(length int, item func([]byte) error) (next string, err error) {
	for length > 0 {
		num, n, err := w.field()
		if err != nil {
			return "", noEOF(err)
		}
		length -= protowire.SizeTag(num) + protowire.SizeVarint(uint64(n)) + n
		if length < 0 {
			return "", errors.New("the answer's lengths do not fit")
		}
		b, err := w.bytes(n)
		if err != nil {
			return "", err
		}
		switch num {
		case 1:
			next = string(field(b, 3))
			w.of(string(field(b, 2)))
		case 2:
			if err := item(b); err != nil {
				return "", err
			}
		}
	}
	return next, nil
}

// field reads the tag and the length of a length-delimited field; what reads
// lists meets no other. io.EOF is the end before a field.
func (w *reader) field() (protowire.Number, int, error) {
	tag, err := binary.ReadUvarint(w.in)
	if err != nil {
		return 0, 0, err // io.EOF only before the first byte
	}
	num, typ := protowire.DecodeTag(tag)
	if typ != protowire.BytesType || num < 1 {
		return 0, 0, errors.New("the answer is not a list in protobuf")
	}
	n, err := binary.ReadUvarint(w.in)
	if err != nil {
		return 0, 0, noEOF(err)
	}
	if n > 1<<31 {
		return 0, 0, errors.New("the answer has a field of more than 2 GiB")
	}
	return num, int(n), nil
}

// bytes reads n bytes into the reader's buffer.
func (w *reader) bytes(n int) ([]byte, error) {
	if cap(w.buf) < n {
		w.buf = make([]byte, n+n/4)
	}
	b := w.buf[:n]
	_, err := io.ReadFull(w.in, b)
	return b, noEOF(err)
}

func noEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// traffic counts what goes over the wire.
type traffic struct{ requests, bytes atomic.Int64 }

func (t *traffic) count(next http.RoundTripper) http.RoundTripper {
	return roundTripper(func(req *http.Request) (*http.Response, error) {
		t.requests.Add(1)
		resp, err := next.RoundTrip(req)
		if err == nil {
			resp.Body = &countedBody{resp.Body, &t.bytes}
		}
		return resp, err
	})
}

type countedBody struct {
	io.ReadCloser
	n *atomic.Int64
}

func (b *countedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.n.Add(int64(n))
	return n, err
}

// within makes requests end with ctx.
func within(ctx context.Context) func(http.RoundTripper) http.RoundTripper {
	return func(next http.RoundTripper) http.RoundTripper {
		return roundTripper(func(req *http.Request) (*http.Response, error) {
			return next.RoundTrip(req.WithContext(ctx))
		})
	}
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }
