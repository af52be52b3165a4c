// Package service_test runs `certherd run` as it is run in production, as
// processes and more than one of them, on the real stack: what it takes away,
// what it leaves alone, and what becomes of its work when everything around it
// fails.
package service_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"slices"
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
	"github.com/certherd/certherd/e2e/replica"
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

// own is the world of a stack that one test has for itself.
func own(t *testing.T, o stack.Options) *world {
	t.Helper()
	if testing.Short() {
		t.Skip("starts a stack")
	}
	o.Out = os.Stderr
	running, err := stack.Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := running.Stop(); err != nil {
			t.Error(err)
		}
	})
	w, err := connect(running)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

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
	replicas []*process
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

// process is a running `certherd run` of a site.
type process struct {
	*replica.Process
	s *site
}

// patient are arguments for leaders that keep their term on a machine that is very
// busy, where a request may take seconds.
var patient = []string{"--lease-duration", "12s", "--renew-deadline", "10s", "--retry-period", "1s"}

// start runs a replica that finds the API server at a URL, or at its own
// address when that is empty. Its identity is also the user that the API server's
// audit log knows it by.
func (s *site) start(name, url string, env ...string) *process {
	s.Helper()
	args := []string{"run", "--kubeconfig", s.stack.Kubeconfig, "--namespace", s.home, "--identity", name, "--as", name, "--as-group", "system:masters",
		"--listen", "127.0.0.1:0", "--lease-duration", "4s", "--renew-deadline", "2500ms", "--retry-period", "500ms", "--pprof"}
	if url != "" {
		args = append(args, "--server", url)
	}
	args = append(args, s.args...)
	cmd := exec.Command(s.program, args...)
	cmd.Env = append(os.Environ(), env...)
	ctx, cancel := context.WithTimeout(s.Context(), patience)
	defer cancel()
	p, err := replica.Run(ctx, name, cmd)
	s.Cleanup(func() {
		p.Kill()
		lines := p.Lines()
		lines = lines[max(0, len(lines)-60):]
		if crash := p.Crash(); crash != nil {
			s.Errorf("%s has written what is no line of a log: %s", name, crash[0].Message)
			lines = crash[:min(len(crash), 40)] // the first lines say why
		}
		if s.Failed() {
			for _, l := range lines {
				s.Log(name, l.Text("time"), l.Message, l.Fields)
			}
		}
	})
	s.must(err)
	p.Client.Timeout = client.Timeout
	s.replicas = append(s.replicas, &process{p, s})
	return s.replicas[len(s.replicas)-1]
}

// client gives up soon: a stopped process answers nothing.
var client = &http.Client{Timeout: 3 * time.Second}

func (p *process) signal(sig syscall.Signal) {
	p.s.Helper()
	p.s.must(p.Signal(sig))
}

// leader waits until one of some replicas leads, and returns it.
func (s *site) leader(of ...*process) *process {
	s.Helper()
	var found *process
	s.await("somebody leads", func() bool {
		i := slices.IndexFunc(of, func(p *process) bool { return p.Leads() })
		if i >= 0 {
			found = of[i]
		}
		return i >= 0
	})
	return found
}

// rounds waits for n more looks of a replica.
func (r *process) rounds(n int) {
	r.s.Helper()
	for range n {
		last := len(r.Said("round finished"))
		r.s.await("another round of "+r.Name, func() bool { return len(r.Said("round finished")) > last })
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
