package apply_test

import (
	"context"
	"encoding/base64"
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
	for end := time.Now().Add(3 * time.Minute); ; time.Sleep(200 * time.Millisecond) {
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
