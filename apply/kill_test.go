package apply_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/certherd/certherd/apply"
	"github.com/certherd/certherd/plan"
)

// childEnv makes this test binary a leader that plans and applies once:
// KUBECONFIG|NAMESPACE|POINT|HIT. It kills itself when it comes by the point for the
// HIT-th time; with no point, it prints each point that it comes by.
const childEnv = "CERTHERD_APPLY_CHILD"

func child() int {
	f := strings.Split(os.Getenv(childEnv), "|")
	fail := func(err error) int {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	c, err := connect(f[0])
	if err != nil {
		return fail(err)
	}
	w := inWorld(c, f[1])
	cleared, err := w.decide()
	if err != nil {
		return fail(err)
	}
	a, err := apply.New(c.cfg, w.o)
	if err != nil {
		return fail(err)
	}
	hit, _ := strconv.Atoi(f[3])
	a.OnFault(func(point string) {
		fmt.Println("point " + point)
		if point != f[2] {
			return
		}
		if hit--; hit == 0 {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {} // it does not return from a signal that ends it
		}
	})
	for _, o := range a.Run(context.Background(), cleared) {
		fmt.Printf("outcome %s %s: %s %s\n", o.Action(), o.Object(), o.Status, o.Why)
	}
	return 0
}

// lead runs a leader, and returns what it printed and whether it was killed.
func (w *world) lead(point string, hit int) (out string, killed bool) {
	w.t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%s|%s|%s|%d", childEnv, w.c.stack.Kubeconfig, w.ns, point, hit))
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	if status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); ok && status.Signaled() && status.Signal() == syscall.SIGKILL {
		return stdout.String(), true
	}
	if err != nil {
		w.t.Fatalf("leader: %v\n%s%s", err, stdout.String(), stderr.String())
	}
	return stdout.String(), false
}

// mess makes one of everything that is collected or put right.
func (w *world) mess() {
	w.t.Helper()
	w.certificate("web-7f3")
	w.superseded("svc-7f3")
	w.secret("free-7f3", "gone", "free-7f3.example.com")
	w.due("left-7f3")
	w.due("back-7f3")
	w.create(pod("back-7f3"))
}

// clean is what is left of it in the end, however often a leader was killed.
func (w *world) clean() {
	w.t.Helper()
	w.is("gone", w.crtRef("web-7f3"), w.kcrtRef("svc-7f3"), w.crtRef("svc-7f3"), w.secretRef("left-7f3"))
	w.is("marked", w.secretRef("web-7f3"), w.secretRef("svc-7f3-tls"), w.secretRef("free-7f3"))
	w.is("unmarked", w.secretRef("back-7f3"), w.secretRef("wild"))
	w.is("there", w.crtRef("wild"))
	want := []string{
		"delete Certificate/" + w.ns + "/web-7f3", "retire Secret/" + w.ns + "/web-7f3", "delete KCertificate/" + w.ns + "/svc-7f3",
		"retire Secret/" + w.ns + "/svc-7f3-tls", "retire Secret/" + w.ns + "/free-7f3", "delete Secret/" + w.ns + "/left-7f3", "unretire Secret/" + w.ns + "/back-7f3",
	}
	var got []string
	for _, e := range w.entries() {
		what := fmt.Sprintf("%s %s", e.Action, e.Object.Ref())
		switch e.State {
		case apply.Carried:
			got = append(got, what)
		case apply.Intended:
			w.t.Errorf("still open: %+v", e)
		}
		if e.Action == plan.Delete && e.Object.Kind == "Certificate" && len(e.Manifest) == 0 {
			w.t.Errorf("no manifest: %+v", e)
		}
	}
	slices.Sort(want)
	slices.Sort(got)
	if !slices.Equal(got, want) {
		w.t.Errorf("the journal says\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// A leader that is killed anywhere: the next one ends in the same state, and every
// object was written to once.
func TestKilledAtEveryPoint(t *testing.T) {
	w := newWorld(t)
	w.mess()
	out, killed := w.lead("", 0)
	if killed {
		t.Fatal("killed by somebody else")
	}
	w.clean()
	hits := map[string]int{}
	for s := bufio.NewScanner(strings.NewReader(out)); s.Scan(); {
		if p, ok := strings.CutPrefix(s.Text(), "point "); ok {
			hits[p]++
		}
	}
	spaces := []*world{w}
	for _, point := range apply.Points() {
		if hits[point] == 0 {
			t.Errorf("a round does not come by %q", point)
		}
		for hit := 1; hit <= hits[point]; hit++ {
			t.Run(fmt.Sprintf("%s %d", point, hit), func(t *testing.T) {
				w := newWorld(t)
				spaces = append(spaces, w)
				w.mess()
				if _, killed := w.lead(point, hit); !killed {
					t.Fatal("it was not killed")
				}
				if out, killed := w.lead("", 0); killed || strings.Contains(out, ": "+string(apply.Dropped)) {
					t.Errorf("the next leader: killed %v\n%s", killed, out)
				}
				w.clean()
			})
		}
	}
	for name, n := range w.c.writes(t, spaces) {
		if n > 1 {
			t.Errorf("%s took place %d times", name, n)
		}
	}
}

// writes counts, by the API server's own audit log, what took effect on objects
// of some worlds.
func (c *cluster) writes(t *testing.T, spaces []*world) map[string]int {
	t.Helper()
	f, err := os.Open(c.stack.AuditLog)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	mine := map[string]bool{}
	for _, w := range spaces {
		mine[w.ns] = true
	}
	counts := map[string]int{}
	deletions := 0
	s := bufio.NewScanner(f)
	s.Buffer(nil, 4<<20)
	for s.Scan() {
		var e struct {
			Verb, UserAgent string
			ObjectRef       struct{ Resource, Namespace, Name, APIGroup, UID, Subresource string }
			ResponseStatus  struct{ Code int }
		}
		if err := json.Unmarshal(s.Bytes(), &e); err != nil {
			continue // the last line may be half written
		}
		r := e.ObjectRef
		// Of the test's own requests, only the marks that it sets are among these.
		if !mine[r.Namespace] || e.ResponseStatus.Code != 200 || e.Verb != "delete" || r.Name == "" || strings.Contains(e.UserAgent, "kube-controller-manager") {
			continue
		}
		deletions++
		counts[fmt.Sprintf("%s %s.%s %s/%s", e.Verb, r.Resource, r.APIGroup, r.Namespace, r.Name)]++
	}
	if err := s.Err(); err != nil {
		t.Fatal(err)
	}
	if deletions < 3*len(spaces) {
		t.Errorf("the audit log has only %d deletions in %d worlds", deletions, len(spaces))
	}
	return counts
}
