package apply_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/certherd/certherd/apply"
	"github.com/certherd/certherd/inventory"
	"github.com/certherd/certherd/inventory/live"
	"github.com/certherd/certherd/plan"
)

// faults are what can become of a request. Those that send it first lose the
// answer, or a part of it.
var faults = map[string]func(*http.Request, http.RoundTripper) (*http.Response, error){
	"500": status(500, metav1.StatusReasonInternalError),
	"429": status(429, metav1.StatusReasonTooManyRequests),
	"410": status(410, metav1.StatusReasonExpired),
	"403": status(403, metav1.StatusReasonForbidden),
	"time-out": func(*http.Request, http.RoundTripper) (*http.Response, error) {
		return nil, os.ErrDeadlineExceeded
	},
	"connection refused": func(*http.Request, http.RoundTripper) (*http.Response, error) {
		return nil, syscall.ECONNREFUSED
	},
	"answer lost": func(r *http.Request, next http.RoundTripper) (*http.Response, error) {
		resp, err := next.RoundTrip(r)
		if err != nil {
			return nil, err
		}
		resp.Body.Close()
		return nil, syscall.ECONNRESET
	},
	"connection closed in the middle of the answer": func(r *http.Request, next http.RoundTripper) (*http.Response, error) {
		return truncated(r, next, io.ErrUnexpectedEOF)
	},
	// Nothing says that more was to come.
	"half an answer": func(r *http.Request, next http.RoundTripper) (*http.Response, error) {
		return truncated(r, next, io.EOF)
	},
}

func status(code int, reason metav1.StatusReason) func(*http.Request, http.RoundTripper) (*http.Response, error) {
	return func(r *http.Request, _ http.RoundTripper) (*http.Response, error) {
		return refusal(r, code, reason), nil
	}
}

// truncated is the first half of an answer, and then an error.
func truncated(r *http.Request, next http.RoundTripper, end error) (*http.Response, error) {
	resp, err := next.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	b, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	if err != nil {
		return nil, err
	}
	resp.Body = struct {
		io.Reader
		io.Closer
	}{io.MultiReader(strings.NewReader(string(b[:len(b)/2])), ending{end}), io.NopCloser(nil)}
	resp.ContentLength = -1
	resp.Header.Del("Content-Length")
	return resp, nil
}

type ending struct{ err error }

func (e ending) Read([]byte) (int, error) { return 0, e.err }

// Whatever a round asks the API server, of its look or of its own, fails at the
// n-th time: nothing is taken that is used, and rounds that come later end in the
// state that one without a fault ends in, with everything done once.
func TestEveryRequestFailsOnce(t *testing.T) {
	for name, fault := range faults {
		for _, nth := range []int{1, 2} {
			if nth == 2 && !slices.Contains([]string{"500", "answer lost", "half an answer", "connection closed in the middle of the answer"}, name) {
				continue // a refusal is a refusal
			}
			t.Run(fmt.Sprintf("%s, time %d", name, nth), func(t *testing.T) {
				w := newWorld(t)
				w.mess()
				var mu sync.Mutex
				times, failed := map[string]int{}, 0
				cfg := w.faulty(func(r *http.Request, next http.RoundTripper) (*http.Response, error) {
					mu.Lock()
					request := r.Method + " " + r.URL.Path
					times[request]++
					fails := times[request] == nth
					if fails {
						failed++
					}
					mu.Unlock()
					if fails {
						return fault(r, next)
					}
					return next.RoundTrip(r)
				})
				rounds, quiet := 0, false
				for ; rounds < 100 && !quiet; rounds++ {
					before := failed
					s, err := w.look(w.ctx, cfg)
					if err == nil && len(s.Gaps) == 0 {
						w.o.Look = func(ctx context.Context) (*inventory.Snapshot, error) { return w.look(ctx, cfg) }
						a, err := apply.New(cfg, w.o)
						if err != nil {
							t.Fatal(err)
						}
						cleared, err := w.clear(s)
						if err != nil {
							t.Fatal(err)
						}
						a.Run(w.ctx, cleared)
						quiet = failed == before && len(cleared.Changes()) == 0
					}
					w.is("there", w.secretRef("back-7f3"), w.secretRef("wild"), w.crtRef("wild"), w.secretRef("web-7f3"), w.secretRef("svc-7f3-tls"), w.secretRef("free-7f3"))
				}
				t.Logf("%d different requests, %d of them failed; %d rounds", len(times), failed, rounds)
				if !quiet {
					t.Errorf("the work was not finished after %d rounds", rounds)
				}
				for _, kind := range []string{"GET /api/v1/pods", "DELETE /apis/cert-manager.io/v1/namespaces/" + w.ns + "/certificates/web-7f3", "PATCH /api/v1/namespaces/" + w.ns + "/secrets/free-7f3", "POST /api/v1/namespaces/" + w.journal + "/configmaps"} {
					if nth == 1 && times[kind] == 0 {
						t.Errorf("no round has asked for %s", kind)
					}
				}
				w.clean()
			})
		}
	}
}

// Long lists come in pages. One that breaks off after the first page, in whatever
// way, holds everything; one that has expired meanwhile, and that the API server can
// continue, does not.
func TestPagesThatBreak(t *testing.T) {
	expired := func(token string) func(*http.Request, http.RoundTripper) (*http.Response, error) {
		return func(r *http.Request, _ http.RoundTripper) (*http.Response, error) {
			resp := refusal(r, 410, metav1.StatusReasonExpired)
			b, err := json.Marshal(metav1.Status{
				TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}, ListMeta: metav1.ListMeta{Continue: token},
				Status: metav1.StatusFailure, Code: 410, Reason: metav1.StatusReasonExpired, Message: "the continue parameter is too old",
			})
			resp.Body, resp.ContentLength = io.NopCloser(bytes.NewReader(b)), int64(len(b))
			return resp, err
		}
	}
	for name, tc := range map[string]struct {
		fault func(*http.Request, http.RoundTripper) (*http.Response, error)
		goes  bool
	}{
		"410 on continue": {fault: expired("")},
		"410 on continue, which goes on with another token": {fault: func(r *http.Request, next http.RoundTripper) (*http.Response, error) {
			return expired(r.URL.Query().Get("continue"))(r, next)
		}, goes: true},
		"500 on continue":                       {fault: faults["500"]},
		"half a page":                           {fault: faults["half an answer"]},
		"half a page, then a broken connection": {fault: faults["connection closed in the middle of the answer"]},
		"the answer to continue is lost":        {fault: faults["answer lost"]},
	} {
		for _, path := range []string{"/api/v1/pods", "/api/v1/secrets"} {
			t.Run(name+" "+path, func(t *testing.T) {
				w := newWorld(t)
				w.mess()
				for _, other := range []string{"a", "z"} {
					w.create(strings.Replace(pod("other-7f3"), "name: p}", "name: p-"+other+"}", 1))
				}
				cleared := w.plan()
				// Every continuation of a list fails, but the second try of one that may go on.
				var mu sync.Mutex
				failed := map[string]int{}
				cfg := w.faulty(func(r *http.Request, next http.RoundTripper) (*http.Response, error) {
					token := r.URL.Query().Get("continue")
					if r.URL.Path != path || token == "" {
						return next.RoundTrip(r)
					}
					mu.Lock()
					failed[token]++
					again := failed[token] > 1
					mu.Unlock()
					if tc.goes && again {
						return next.RoundTrip(r)
					}
					return tc.fault(r, next)
				})
				w.o.Look = func(ctx context.Context) (*inventory.Snapshot, error) {
					s, _, err := live.Look(ctx, cfg, live.Options{Proof: true, PageSize: 2, Now: w.now})
					return s, err
				}
				got := w.apply(w.applier(), cleared)
				if len(failed) == 0 {
					t.Fatal("no list had a second page")
				}
				if tc.goes {
					w.clean()
					return
				}
				w.expect(got, "delete Certificate/web-7f3: later", "delete Secret/left-7f3: later", "retire Secret/free-7f3: later", "unretire Secret/back-7f3: later")
				w.is("there", w.crtRef("web-7f3"), w.kcrtRef("svc-7f3"), w.crtRef("svc-7f3"))
				w.is("marked", w.secretRef("left-7f3"), w.secretRef("back-7f3"))
				w.is("unmarked", w.secretRef("web-7f3"), w.secretRef("svc-7f3-tls"), w.secretRef("free-7f3"))
				w.o.Look = func(ctx context.Context) (*inventory.Snapshot, error) { return w.look(ctx, w.c.cfg) }
				w.run()
				w.clean()
			})
		}
	}
}

// An API server that is killed in the middle of a round and comes back: what was
// on its way is done or not done, and later rounds finish it.
func TestAPIServerRestartsInARound(t *testing.T) {
	w := newWorld(t)
	w.mess()
	cleared, a := w.plan(), w.applier()
	killed := false
	a.OnFault(func(p string) {
		if p == "08 about to write" && !killed {
			killed = true
			if err := w.c.stack.Signal("kube-apiserver", syscall.SIGKILL); err != nil {
				t.Error(err)
			}
		}
	})
	w.apply(a, cleared)
	if !killed {
		t.Fatal("the round did not come by")
	}
	// kube-controller-manager comes back, too, and then takes away what belongs to
	// the Knative Certificate.
	// It may have missed that this was deleted, as it does not watch kinds that an API
	// server does not list yet.
	begun, anew := time.Now(), false
	for end := begun.Add(3 * time.Minute); ; time.Sleep(200 * time.Millisecond) {
		if !anew && time.Since(begun) > time.Minute {
			anew = true
			if err := w.c.stack.Signal("kube-controller-manager", syscall.SIGKILL); err != nil {
				t.Error(err)
			}
		}
		cleared, err := w.decide()
		if err == nil {
			w.apply(w.applier(), cleared)
			o, err := w.c.core.CoreV1().Secrets(w.ns).Get(w.ctx, "svc-7f3-tls", metav1.GetOptions{})
			if err == nil && o.Annotations[plan.RetiredAt] != "" {
				break
			}
		}
		if time.Now().After(end) {
			t.Fatal("the work was not finished after three minutes")
		}
	}
	w.clean()
}

// Between the rounds that mark a Secret and that delete it, somebody begins to name
// it, in each way that there is: the mark is taken back, and the Secret stays.
func TestWhatIsNamedWhileItIsRetiredStays(t *testing.T) {
	w := newWorld(t)
	defineThings(t, w)
	w.o.Grace = 0 // the next round would delete them
	var names []string
	for name := range referrers {
		if name == "an owner reference to a Certificate that is back" {
			continue // target-zz is for that
		}
		names = append(names, name)
	}
	slices.Sort(names)
	target := func(i int) string { return fmt.Sprintf("target-%c%c", 'a'+i/26, 'a'+i%26) }
	for i := range names {
		w.secret(target(i), "gone", target(i)+".example.com")
	}
	w.secret("target-zz", "target-zz", "target-zz.example.com")
	w.secret("control-7f3", "gone", "control-7f3.example.com")
	got := w.run()
	for i := range names {
		w.expect(got, "retire Secret/"+target(i)+": done")
	}
	w.expect(got, "retire Secret/target-zz: done", "retire Secret/control-7f3: done")

	var made []*unstructured.Unstructured
	defer func() { w.removeAll(made) }()
	for i, name := range names {
		text := strings.NewReplacer("target-7f3", target(i), "eDogdGFyZ2V0LTdmMwo=", base64.StdEncoding.EncodeToString([]byte("x: "+target(i)+"\n")), "NS", w.ns).Replace(referrers[name])
		objects, err := parse(text)
		if err != nil {
			t.Fatal(err)
		}
		for _, o := range objects {
			if o.GetNamespace() == "" {
				o.SetNamespace(w.ns)
			}
			o.SetName(o.GetName() + "-" + target(i)[7:])
			m, err := w.c.createObject(w.ctx, o)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			made = append(made, m)
		}
	}
	made = append(made, w.create(certificateYAML("target-zz"))...)
	got = w.run()
	for i, name := range names {
		o, ok := got["unretire Secret/"+w.ns+"/"+target(i)]
		if !ok || o.Status != apply.Done {
			t.Errorf("%s: %v %s", name, o.Status, o.Why)
		}
		w.is("unmarked", w.secretRef(target(i)))
	}
	w.expect(got, "delete Secret/control-7f3: done")
	w.is("there", w.secretRef("target-zz"))

	// When nobody names it any more, its time begins anew.
	w.removeAll(made)
	made = nil
	got = w.run()
	for i := range names {
		w.expect(got, "retire Secret/"+target(i)+": done")
	}
	got = w.run()
	for i := range names {
		w.expect(got, "delete Secret/"+target(i)+": done")
	}
}
