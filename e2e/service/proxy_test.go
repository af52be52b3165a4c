package service_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log"
	"math/rand"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
)

// proxy is an API server that can be made to fail. It passes requests on to the
// real one, where it is an administrator, so that what a replica writes takes
// effect, and the replica may not learn of it.
type proxy struct {
	*httptest.Server
	mu     sync.Mutex
	decide func(*http.Request) fault
	faults map[fault]int // that took place
	victim chan *process // whom a killing fault ends; has one element
	happen func()        // set before a fault can have it take place
}

// fault is what becomes of a request.
type fault string

const (
	none      fault = ""
	refused   fault = "the connection is closed"
	internal  fault = "500"
	expired   fault = "410"
	forbidden fault = "403"
	slow      fault = "no answer for a while, and then none at all"
	lost      fault = "the answer is lost"
	half      fault = "the connection is closed in the middle of the answer"

	// These end the replica, as kill -9 does, in the midst of the request.
	killedBefore fault = "killed before the API server has the request"
	killedAfter  fault = "killed when it has taken effect"

	// Something happens while the request is on its way.
	meanwhile fault = "later than something else"
)

// every is all faults that a request can meet by chance.
var every = []fault{refused, internal, expired, forbidden, slow, lost, half}

func (s *site) proxy() *proxy {
	s.Helper()
	transport, err := rest.TransportFor(s.admin)
	s.must(err)
	target, err := url.Parse(s.admin.Host)
	s.must(err)
	p := &proxy{faults: map[fault]int{}, victim: make(chan *process, 1)}
	pass := &httputil.ReverseProxy{
		Rewrite:       func(r *httputil.ProxyRequest) { r.SetURL(target) },
		Transport:     transport,
		FlushInterval: -1, // for watches
		ErrorHandler:  func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) },
		ErrorLog:      log.New(io.Discard, "", 0),
		ModifyResponse: func(resp *http.Response) error {
			if resp.Request.Context().Value(halfKey{}) != nil && resp.StatusCode == http.StatusOK {
				return cutInHalf(resp)
			}
			return nil
		},
	}
	p.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.mu.Lock()
		f := none
		if p.decide != nil {
			f = p.decide(r)
		}
		p.faults[f]++
		p.mu.Unlock()
		if (f == meanwhile || f == killedAfter) && p.happen != nil {
			p.happen()
		}
		switch f {
		case none, meanwhile:
			pass.ServeHTTP(w, r)
		case refused:
			panic(http.ErrAbortHandler)
		case internal:
			answer(w, 500, metav1.StatusReasonInternalError)
		case expired:
			answer(w, 410, metav1.StatusReasonExpired)
		case forbidden:
			answer(w, 403, metav1.StatusReasonForbidden)
		case slow:
			select {
			case <-r.Context().Done():
			case <-time.After(3 * time.Second):
			}
			panic(http.ErrAbortHandler)
		case lost:
			// It takes place even if the client has gone.
			pass.ServeHTTP(discard{http.Header{}}, r.WithContext(context.WithoutCancel(r.Context())))
			panic(http.ErrAbortHandler)
		case killedBefore, killedAfter:
			if f == killedAfter {
				pass.ServeHTTP(discard{http.Header{}}, r.WithContext(context.WithoutCancel(r.Context())))
			}
			(<-p.victim).Kill()
			panic(http.ErrAbortHandler)
		case half:
			pass.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), halfKey{}, true)))
		}
	}))
	p.Config.ErrorLog = log.New(io.Discard, "", 0)
	p.Start()
	s.Cleanup(func() {
		p.CloseClientConnections()
		p.Close()
	})
	return p
}

// startBehind runs a replica that finds the API server at a proxy of its own, which
// fails from the beginning.
func (s *site) startBehind(name string, decide func(*http.Request) fault) (*process, *proxy) {
	s.Helper()
	p := s.proxy()
	p.fail(decide)
	r := s.start(name, p.URL)
	p.victim <- r
	return r, p
}

// writes reports whether a request changes anything but what goes on beside the work:
// the Lease, and Events.
func writes(r *http.Request) bool {
	for _, beside := range []string{"/leases", "/events", "/apis/authorization.k8s.io/"} {
		if strings.Contains(r.URL.Path, beside) {
			return false
		}
	}
	return r.Method != http.MethodGet
}

type halfKey struct{}

// cutInHalf lets the connection break after half of the answer.
func cutInHalf(resp *http.Response) error {
	if resp.Request.URL.Query().Get("watch") != "" {
		return nil // whose answer has no end: see close
	}
	b, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	if err != nil {
		return err
	}
	resp.Body = io.NopCloser(io.MultiReader(strings.NewReader(string(b[:len(b)/2])), broken{}))
	return nil
}

type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, errors.New("broken") }

// discard is the place for an answer that gets lost.
type discard struct{ header http.Header }

func (d discard) Header() http.Header         { return d.header }
func (d discard) Write(b []byte) (int, error) { return len(b), nil }
func (d discard) WriteHeader(int)             {}

func answer(w http.ResponseWriter, code int, reason metav1.StatusReason) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(metav1.Status{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}, Status: metav1.StatusFailure, Code: int32(code), Reason: reason, Message: "a fault of the test"})
}

// fail has decide asked about each request from now on; nil heals the proxy.
func (p *proxy) fail(decide func(*http.Request) fault) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.decide = decide
}

// cut closes every connection, and lets no new one through until fail is called.
func (p *proxy) cut() {
	p.fail(func(*http.Request) fault { return refused })
	p.CloseClientConnections()
}

// storm lets requests fail by chance: one of a hundred that read, so that a look
// sometimes succeeds, and one of five that write.
func storm(seed int64) func(*http.Request) fault {
	rnd := rand.New(rand.NewSource(seed)) // used under the proxy's lock
	return func(r *http.Request) fault {
		rare := 100
		if r.Method != http.MethodGet {
			rare = 5
		}
		if rnd.Intn(rare) > 0 {
			return none
		}
		return every[rnd.Intn(len(every))]
	}
}
