// Package service_test runs `certherd run` as it is run in production, as
// processes and more than one of them, on the real stack: what it takes away,
// what it leaves alone, and what becomes of its work when everything around it
// fails.
package service_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/rest"

	"github.com/certherd/certherd/config"
	"github.com/certherd/certherd/e2e/scenario"
	"github.com/certherd/certherd/e2e/stack"
	"github.com/certherd/certherd/e2e/suite"
)

var (
	services       = schema.GroupVersionResource{Group: "serving.knative.dev", Version: "v1", Resource: "services"}
	domainMappings = schema.GroupVersionResource{Group: "serving.knative.dev", Version: "v1beta1", Resource: "domainmappings"}
	kIngresses     = schema.GroupVersionResource{Group: "networking.internal.knative.dev", Version: "v1alpha1", Resource: "ingresses"}
	kCertificates  = schema.GroupVersionResource{Group: "networking.internal.knative.dev", Version: "v1alpha1", Resource: "certificates"}
	certificates   = schema.GroupVersionResource{Group: "cert-manager.io", Version: "v1", Resource: "certificates"}
)

// world is the stack that all tests of this package share.
type world struct {
	stack   *stack.Stack
	admin   *rest.Config
	cluster *scenario.Cluster
	program string // certherd
}

func TestMain(m *testing.M) { os.Exit(suite.Run(m)) }

var setUp = sync.OnceValues(func() (*world, error) {
	running, err := suite.Start(stack.Options{Level: stack.Full})
	if err != nil {
		return nil, err
	}
	return connect(running)
})

// connect is the world of a stack.
func connect(running *stack.Stack) (*world, error) {
	w := &world{stack: running}
	var err error
	if w.program, err = suite.Program("certherd"); err != nil {
		return nil, err
	}
	if w.admin, err = w.stack.RESTConfig(); err != nil {
		return nil, err
	}
	w.cluster, err = scenario.Connect(w.admin, os.Stderr)
	return w, err
}

// site is a certherd of its own in the world: a namespace with its
// configuration, its Lease and its journal.
type site struct {
	*testing.T
	*world
	home     string
	program  string
	args     []string // further ones of each replica
	replicas []*replica
}

func newSite(t *testing.T, home string) *site {
	t.Helper()
	if testing.Short() {
		t.Skip("starts the whole stack")
	}
	w, err := setUp()
	if err != nil {
		t.Fatal(err)
	}
	return w.site(t, home)
}

func (w *world) site(t *testing.T, home string) *site {
	t.Helper()
	s := &site{T: t, world: w, home: home, program: w.program}
	s.must(w.cluster.Namespaces(t.Context(), home))
	return s
}

func (s *site) must(err error) {
	s.Helper()
	if err != nil {
		s.Fatal(err)
	}
}

// patience ends a test that has failed. A test that succeeds never needs it.
const patience = 5 * time.Minute

func (s *site) await(what string, holds func() bool) {
	s.Helper()
	for end := time.Now().Add(patience); !holds(); time.Sleep(100 * time.Millisecond) {
		if time.Now().After(end) {
			s.Fatalf("after %s still not: %s", patience, what)
		}
	}
}

// configure replaces the configuration; the empty one is deleted.
func (s *site) configure(text string) {
	s.Helper()
	maps := s.cluster.Typed.CoreV1().ConfigMaps(s.home)
	if text == "" {
		if err := maps.Delete(s.Context(), config.ConfigMapName, metav1.DeleteOptions{}); !apierrors.IsNotFound(err) {
			s.must(err)
		}
		return
	}
	cm := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: config.ConfigMapName}, Data: map[string]string{config.ConfigMapKey: text}}
	var err error
	s.await("the configuration to be stored", func() bool { // the API server may be gone for a moment
		_, err = maps.Update(s.Context(), cm, metav1.UpdateOptions{})
		if apierrors.IsNotFound(err) {
			_, err = maps.Create(s.Context(), cm, metav1.CreateOptions{})
		}
		return err == nil
	})
}

// replica is a running `certherd run`.
type replica struct {
	s       *site
	name    string
	cmd     *exec.Cmd
	address string

	mu    sync.Mutex
	logs  []line
	ended chan struct{}
}

// line is one of a replica's log.
type line struct {
	Time, Message string
	fields        map[string]any
}

// patient are arguments for leaders that keep their term on a machine that is very
// busy, where a request may take seconds.
var patient = []string{"--lease-duration", "12s", "--renew-deadline", "10s", "--retry-period", "1s"}

// start runs a replica that finds the API server at a URL, or at its own
// address when that is empty. Its identity is also the user that the API server's
// audit log knows it by.
func (s *site) start(name, url string, env ...string) *replica {
	s.Helper()
	r := &replica{s: s, name: name, ended: make(chan struct{})}
	args := []string{"run", "--kubeconfig", s.stack.Kubeconfig, "--namespace", s.home, "--identity", name, "--as", name, "--as-group", "system:masters",
		"--listen", "127.0.0.1:0", "--lease-duration", "4s", "--renew-deadline", "2500ms", "--retry-period", "500ms", "--pprof"}
	if url != "" {
		args = append(args, "--server", url)
	}
	args = append(args, s.args...)
	r.cmd = exec.Command(s.program, args...)
	r.cmd.Env = append(os.Environ(), env...)
	// It ends with this process, however that ends.
	r.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := r.cmd.StderrPipe()
	s.must(err)
	s.must(r.cmd.Start())
	go r.read(out)
	s.replicas = append(s.replicas, r)
	s.Cleanup(func() {
		_ = r.cmd.Process.Kill()
		<-r.ended
		r.mu.Lock()
		defer r.mu.Unlock()
		logs := r.logs
		// What is not a line of the log is how a program crashed; the first lines say why.
		if i := slices.IndexFunc(logs, func(l line) bool { return l.fields["no JSON"] != nil }); i >= 0 {
			s.Errorf("%s has written what is no line of a log: %s", name, logs[i].fields["no JSON"])
			logs = logs[:min(len(logs), i+40)]
		}
		if s.Failed() {
			for _, l := range logs[max(0, len(logs)-60):] {
				s.Log(r.name, l.Time, l.Message, l.fields)
			}
		}
	})
	s.await(name+" has started", func() bool {
		for _, l := range r.said("started") {
			r.address, _ = l.fields["address"].(string)
		}
		return r.address != ""
	})
	return r
}

func (r *replica) read(out io.Reader) {
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		l := line{}
		if json.Unmarshal(lines.Bytes(), &l.fields) != nil {
			l.fields = map[string]any{"no JSON": lines.Text()}
		}
		l.Time, _ = l.fields["time"].(string)
		l.Message, _ = l.fields["msg"].(string)
		r.mu.Lock()
		r.logs = append(r.logs, l)
		r.mu.Unlock()
	}
	_ = r.cmd.Wait()
	close(r.ended)
}

// said are the lines of the log with one of the messages.
func (r *replica) said(messages ...string) []line {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []line
	for _, l := range r.logs {
		if slices.Contains(messages, l.Message) {
			out = append(out, l)
		}
	}
	return out
}

func (r *replica) signal(sig syscall.Signal) {
	r.s.Helper()
	r.s.must(r.cmd.Process.Signal(sig))
}

// kill ends the process as kill -9 does, whatever it is doing.
func (r *replica) kill() {
	r.signal(syscall.SIGKILL)
	<-r.ended
}

// client gives up soon: a stopped process answers nothing.
var client = &http.Client{Timeout: 3 * time.Second}

func (r *replica) get(path string) (int, string) {
	x, err := client.Get("http://" + r.address + path)
	if err != nil {
		return 0, ""
	}
	defer x.Body.Close()
	b, err := io.ReadAll(x.Body)
	if err != nil {
		return 0, ""
	}
	return x.StatusCode, string(b)
}

// metric is the value of one sample, -1 if there is none.
func (r *replica) metric(sample string) float64 {
	_, text := r.get("/metrics")
	for l := range strings.Lines(text) {
		if v, ok := strings.CutPrefix(l, sample+" "); ok {
			x, err := strconv.ParseFloat(strings.TrimSpace(v), 64)
			r.s.must(err)
			return x
		}
	}
	return -1
}

func (r *replica) leads() bool { return r.metric("certherd_leader") == 1 }
func (r *replica) ends() bool {
	select {
	case <-r.ended:
		return true
	default:
		return false
	}
}

// leader waits until one of some replicas leads, and returns it.
func (s *site) leader(of ...*replica) *replica {
	s.Helper()
	var found *replica
	s.await("somebody leads", func() bool {
		i := slices.IndexFunc(of, (*replica).leads)
		if i >= 0 {
			found = of[i]
		}
		return i >= 0
	})
	return found
}

// rounds waits for n more looks of a replica.
func (r *replica) rounds(n int) {
	r.s.Helper()
	for range n {
		last := len(r.said("round finished"))
		r.s.await("another round of "+r.name, func() bool { return len(r.said("round finished")) > last })
	}
}

// write is one that took effect, as the API server's audit log has it.
type write struct {
	at                        time.Time
	by, verb                  string
	resource, namespace, name string
}

func (w write) String() string {
	return fmt.Sprintf("%s %s %s %s/%s by %s", w.at.Format("15:04:05.000"), w.verb, w.resource, w.namespace, w.name, w.by)
}

// audit reads the requests of users from the audit log, in the order in which
// they came in: what was written, and the lists of Ingresses, one of which is in
// each look.
func (s *site) audit(users ...string) (writes []write, looks map[string][]time.Time) {
	s.Helper()
	f, err := os.Open(s.stack.AuditLog)
	s.must(err)
	defer f.Close()
	looks = map[string][]time.Time{}
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 4<<20)
	for lines.Scan() {
		var e struct {
			Stage, Verb              string
			ImpersonatedUser         struct{ Username string }
			ObjectRef                struct{ Namespace, Name, Resource, APIGroup string }
			ResponseStatus           struct{ Code int }
			RequestReceivedTimestamp time.Time
		}
		if json.Unmarshal(lines.Bytes(), &e) != nil || e.Stage != "ResponseComplete" || e.ResponseStatus.Code >= 300 || !slices.Contains(users, e.ImpersonatedUser.Username) {
			continue
		}
		resource := schema.GroupResource{Group: e.ObjectRef.APIGroup, Resource: e.ObjectRef.Resource}.String()
		switch {
		case e.Verb == "get", e.Verb == "watch", strings.HasSuffix(e.ObjectRef.Resource, "reviews"): // questions
		case e.Verb == "list":
			if resource == "ingresses.networking.k8s.io" {
				looks[e.ImpersonatedUser.Username] = append(looks[e.ImpersonatedUser.Username], e.RequestReceivedTimestamp)
			}
		default:
			writes = append(writes, write{e.RequestReceivedTimestamp, e.ImpersonatedUser.Username, e.Verb, resource, e.ObjectRef.Namespace, e.ObjectRef.Name})
		}
	}
	s.must(lines.Err())
	slices.SortStableFunc(writes, func(a, b write) int { return a.at.Compare(b.at) })
	for _, l := range looks {
		slices.SortFunc(l, time.Time.Compare)
	}
	return writes, looks
}

// own reports whether a write is to what belongs to certherd itself: its Lease, its
// report, its journal, and Events about anything.
func (s *site) own(w write) bool {
	return strings.HasPrefix(w.resource, "events") || w.namespace == s.home
}

// onlyTheHolderWrites checks that each write was made by the replica that had
// last written the Lease: nobody wrote after another one had taken over.
func (s *site) onlyTheHolderWrites(writes []write) {
	s.Helper()
	holder := ""
	for _, w := range writes {
		if strings.HasPrefix(w.resource, "leases") {
			holder = w.by
		} else if w.by != holder {
			s.Errorf("%s, and %s had the lease", w, holder)
		}
	}
}
