package leader

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/certherd/certherd/e2e/stack"
	"github.com/certherd/certherd/e2e/suite"
)

// The durations of the tests. Nothing depends on how fast they pass.
func quick(identity, namespace string) Options {
	return Options{Namespace: namespace, Name: "lease", Identity: identity, LeaseDuration: 4 * time.Second, RenewDeadline: 2500 * time.Millisecond, RetryPeriod: 500 * time.Millisecond}
}

func TestMain(m *testing.M) {
	if identity := os.Getenv("CERTHERD_CANDIDATE"); identity != "" {
		if err := candidate(identity); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(suite.Run(m))
}

// candidate stands for election until SIGTERM. As leader it writes to a
// ConfigMap without pause; its requests do not end with the term, so that
// nothing but Guard keeps it from writing after its time. It says on standard
// output what happens to it.
func candidate(identity string) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	cfg, err := clientcmd.BuildConfigFromFlags("", os.Getenv("KUBECONFIG"))
	if err != nil {
		return err
	}
	namespace := os.Getenv("CERTHERD_NAMESPACE")
	writes := rest.CopyConfig(cfg)
	writes.UserAgent, writes.QPS = "writer-"+identity, -1
	writes.Wrap(Guard)
	client, err := kubernetes.NewForConfig(writes)
	if err != nil {
		return err
	}
	election := rest.CopyConfig(cfg)
	election.UserAgent = "election-" + identity
	if proxy := os.Getenv("CERTHERD_ELECTION"); proxy != "" {
		election.Host = "https://" + proxy
	}
	err = Run(ctx, election, quick(identity, namespace), func(term context.Context) {
		fmt.Println("leads")
		beyond := context.WithoutCancel(term)
		for n := 0; ; n++ {
			_, err := client.CoreV1().ConfigMaps(namespace).Patch(beyond, "ledger", types.MergePatchType, fmt.Appendf(nil, `{"data":{"by":"%s-%d"}}`, identity, n), metav1.PatchOptions{})
			switch {
			case errors.Is(err, ErrOver):
				fmt.Println("refused")
				return
			case err != nil:
				fmt.Println("failed", err)
			case n == 0:
				fmt.Println("wrote")
			}
			if ctx.Err() != nil { // SIGTERM: what is under way ends, and takes its time
				if _, err := client.CoreV1().ConfigMaps(namespace).Patch(context.WithValue(context.Background(), termKey{}, term.Value(termKey{})), "ledger", types.MergePatchType, []byte(`{"data":{"last":"yes"}}`), metav1.PatchOptions{}); err != nil {
					fmt.Println("failed", err)
				}
				fmt.Println("ends")
				return
			}
			time.Sleep(20 * time.Millisecond)
		}
	})
	fmt.Println("returned", err)
	return err
}

// process is a candidate in a process of its own.
type process struct {
	t     *testing.T
	cmd   *exec.Cmd
	lines chan string
}

func start(t *testing.T, w *world, identity, election string) *process {
	t.Helper()
	p := &process{t: t, lines: make(chan string, 1000)}
	p.cmd = exec.Command(os.Args[0])
	p.cmd.Env = append(os.Environ(), "CERTHERD_CANDIDATE="+identity, "CERTHERD_NAMESPACE="+w.namespace, "CERTHERD_ELECTION="+election, "KUBECONFIG="+running.Kubeconfig)
	p.cmd.Stderr = io.Discard
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(p.lines)
		for s := bufio.NewScanner(out); s.Scan(); {
			p.lines <- s.Text()
		}
	}()
	t.Cleanup(func() { _ = p.cmd.Process.Kill(); _, _ = p.cmd.Process.Wait() })
	return p
}

// await waits for a line.
func (p *process) await(line string) {
	p.t.Helper()
	late := time.After(2 * time.Minute)
	for {
		select {
		case got, ok := <-p.lines:
			if !ok {
				p.t.Fatalf("the process ended before it said %q", line)
			}
			if strings.HasPrefix(got, line) {
				return
			}
			p.t.Log("said:", got)
		case <-late:
			p.t.Fatalf("nobody said %q in two minutes", line)
		}
	}
}

func (p *process) signal(s os.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		p.t.Fatal(err)
	}
}

var running *stack.Stack

var setUp = sync.OnceValue(func() (err error) {
	running, err = suite.Start(stack.Options{Level: stack.ControlPlane})
	return err
})

// world is a namespace with a ledger.
type world struct {
	namespace string
	client    *kubernetes.Clientset
}

func newWorld(t *testing.T, namespace string) *world {
	t.Helper()
	if testing.Short() {
		t.Skip("starts a control plane")
	}
	if err := setUp(); err != nil {
		t.Fatal(err)
	}
	cfg, err := running.RESTConfig()
	if err != nil {
		t.Fatal(err)
	}
	w := &world{namespace: namespace, client: kubernetes.NewForConfigOrDie(cfg)}
	if _, err := w.client.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.client.CoreV1().ConfigMaps(namespace).Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "ledger"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	return w
}

type request struct {
	at       time.Time
	by, what string // candidate; "lease" or "ledger"
}

// requests are the successful writes of candidates to the Lease and the ledger,
// in the order in which the API server took them.
func (w *world) requests(t *testing.T) []request {
	t.Helper()
	f, err := os.Open(running.AuditLog)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var out []request
	s := bufio.NewScanner(f)
	s.Buffer(nil, 1<<20)
	for s.Scan() {
		var e struct {
			Stage, Verb, UserAgent   string
			ObjectRef                struct{ Namespace, Name, Resource string }
			ResponseStatus           struct{ Code int }
			RequestReceivedTimestamp time.Time
		}
		if json.Unmarshal(s.Bytes(), &e) != nil || e.Stage != "ResponseComplete" || e.ObjectRef.Namespace != w.namespace || e.ResponseStatus.Code >= 300 {
			continue
		}
		kind, by, ok := strings.Cut(e.UserAgent, "-")
		if !ok || e.Verb == "get" || e.Verb == "list" || e.Verb == "watch" {
			continue
		}
		switch {
		case kind == "election" && e.ObjectRef.Resource == "leases":
			out = append(out, request{e.RequestReceivedTimestamp, by, "lease"})
		case kind == "writer" && e.ObjectRef.Resource == "configmaps":
			out = append(out, request{e.RequestReceivedTimestamp, by, "ledger"})
		}
	}
	slices.SortStableFunc(out, func(a, b request) int { return a.at.Compare(b.at) })
	return out
}

// onlyTheHolderWrites checks that each write to the ledger is by the candidate
// that last wrote the Lease: nobody wrote after another took over.
func (w *world) onlyTheHolderWrites(t *testing.T, candidates ...string) {
	t.Helper()
	holder, writes := "", map[string]int{}
	for _, r := range w.requests(t) {
		if r.what == "lease" {
			holder = r.by
			continue
		}
		writes[r.by]++
		if r.by != holder {
			t.Errorf("%s wrote at %s, when the lease was %s's", r.by, r.at, holder)
		}
	}
	for _, c := range candidates {
		if writes[c] == 0 {
			t.Errorf("%s never wrote: %v", c, writes)
		}
	}
	t.Logf("writes: %v", writes)
}

func TestKilledLeaderIsReplaced(t *testing.T) {
	w := newWorld(t, "killed")
	a := start(t, w, "a", "")
	a.await("wrote")
	b := start(t, w, "b", "")
	a.signal(syscall.SIGKILL)
	b.await("wrote")
	w.onlyTheHolderWrites(t, "a", "b")
}

func TestStoppedLeaderWritesNothingMore(t *testing.T) {
	w := newWorld(t, "stopped")
	a := start(t, w, "a", "")
	a.await("wrote")
	b := start(t, w, "b", "")
	a.signal(syscall.SIGSTOP)
	b.await("wrote")
	a.signal(syscall.SIGCONT)
	a.await("refused")
	// It stands again, and leads when it is its turn.
	b.signal(syscall.SIGTERM)
	b.await("returned <nil>")
	a.await("wrote")
	w.onlyTheHolderWrites(t, "a", "b")
}

func TestEndReleasesTheLeaseAfterTheWork(t *testing.T) {
	w := newWorld(t, "ended")
	a := start(t, w, "a", "")
	a.await("wrote")
	a.signal(syscall.SIGTERM)
	a.await("ends")
	a.await("returned <nil>")
	lease, err := w.client.CoordinationV1().Leases(w.namespace).Get(t.Context(), "lease", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if h := lease.Spec.HolderIdentity; h != nil && *h != "" {
		t.Errorf("the lease is still %s's", *h)
	}
	r := w.requests(t)
	if n := len(r); n == 0 || r[n-1].what != "lease" {
		t.Errorf("the last write is not the one to the lease: %v", r[max(0, n-3):])
	}
}

// proxy passes bytes on, until it holds them back.
type proxy struct {
	net.Listener
	held atomic.Bool
}

func newProxy(t *testing.T, to string) *proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{Listener: l}
	t.Cleanup(func() { l.Close() })
	pass := func(to, from net.Conn) {
		defer to.Close()
		b := make([]byte, 16<<10)
		for {
			n, err := from.Read(b)
			for p.held.Load() && t.Context().Err() == nil {
				time.Sleep(10 * time.Millisecond)
			}
			if err != nil {
				return
			}
			if _, err := to.Write(b[:n]); err != nil {
				return
			}
		}
	}
	go func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", to)
			if err != nil {
				in.Close()
				continue
			}
			go pass(in, out)
			go pass(out, in)
		}
	}()
	return p
}

// The leader cannot renew, but could still write.
func TestLeaderThatCannotRenewWritesNothingMore(t *testing.T) {
	w := newWorld(t, "unreachable")
	p := newProxy(t, strings.TrimPrefix(running.APIServer, "https://"))
	a := start(t, w, "a", p.Addr().String())
	a.await("wrote")
	b := start(t, w, "b", "")
	p.held.Store(true)
	a.await("refused")
	b.await("wrote")
	p.held.Store(false)
	// What a's requests that were under way do now must not make it leader again,
	// nor take the lease from b.
	b.signal(syscall.SIGTERM)
	b.await("returned <nil>")
	a.await("wrote")
	w.onlyTheHolderWrites(t, "a", "b")
}

func TestTermEndsByEitherClock(t *testing.T) {
	begin := time.Now()
	for name, tc := range map[string]struct {
		now  time.Time
		over bool
	}{
		"at once":             {begin, false},
		"just before":         {begin.Add(10*time.Second - 1), false},
		"late":                {begin.Add(10 * time.Second), true},
		"slept":               {begin.Add(time.Hour).Round(0), true},
		"set back and late":   {begin.Add(11 * time.Second), true},
		"set back by an hour": {begin.Round(0).Add(-time.Hour), false},
	} {
		ended := error(nil)
		x := &term{lasts: 10 * time.Second, renewed: begin, now: func() time.Time { return tc.now }, cancel: func(err error) { ended = err }, timer: time.NewTimer(time.Hour)}
		ctx := context.WithValue(t.Context(), termKey{}, x)
		if err := Check(ctx); errors.Is(err, ErrOver) != tc.over {
			t.Errorf("%s: %v", name, err)
		}
		if (ended != nil) != tc.over {
			t.Errorf("%s: the term's context ended with %v", name, ended)
		}
		// A renewal that is answered late revives nothing.
		x.extend(tc.now)
		if err := Check(ctx); errors.Is(err, ErrOver) != tc.over {
			t.Errorf("%s, renewed: %v", name, err)
		}
	}
}

func TestGuard(t *testing.T) {
	sent := 0
	rt := Guard(trip(func(*http.Request) (*http.Response, error) {
		sent++
		return &http.Response{StatusCode: 200, Body: http.NoBody}, nil
	}))
	do := func(ctx context.Context, method string) error {
		r, _ := http.NewRequestWithContext(ctx, method, "https://127.0.0.1/api", strings.NewReader("{}"))
		_, err := rt.RoundTrip(r)
		return err
	}
	x := &term{lasts: time.Minute, renewed: time.Now(), now: time.Now, cancel: func(error) {}, timer: time.NewTimer(time.Hour)}
	leads := context.WithValue(t.Context(), termKey{}, x)
	for _, m := range []string{"POST", "PUT", "PATCH", "DELETE"} {
		if err := do(t.Context(), m); !errors.Is(err, ErrNoTerm) {
			t.Errorf("%s of nobody: %v", m, err)
		}
		if err := do(leads, m); err != nil {
			t.Errorf("%s of the leader: %v", m, err)
		}
	}
	x.end()
	for _, m := range []string{"POST", "PUT", "PATCH", "DELETE"} {
		if err := do(leads, m); !errors.Is(err, ErrOver) {
			t.Errorf("%s after the term: %v", m, err)
		}
	}
	if err := do(t.Context(), "GET"); err != nil || sent != 5 {
		t.Errorf("%d requests were sent, want 5; %v", sent, err)
	}
}

type trip func(*http.Request) (*http.Response, error)

func (f trip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func TestOptions(t *testing.T) {
	if err := quick("a", "b").Check(); err != nil {
		t.Error(err)
	}
	for name, change := range map[string]func(*Options){
		"no namespace":   func(o *Options) { o.Namespace = "" },
		"no identity":    func(o *Options) { o.Identity = "" },
		"half a second":  func(o *Options) { o.LeaseDuration = 4500 * time.Millisecond },
		"long deadline":  func(o *Options) { o.RenewDeadline = o.LeaseDuration },
		"long retries":   func(o *Options) { o.RetryPeriod = o.RenewDeadline },
		"no retry":       func(o *Options) { o.RetryPeriod = 0 },
		"nothing at all": func(o *Options) { *o = Options{} },
	} {
		o := quick("a", "b")
		change(&o)
		if o.Check() == nil {
			t.Errorf("%s is taken", name)
		}
	}
}
