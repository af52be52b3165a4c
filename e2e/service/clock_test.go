package service_test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const orphan = `
apiVersion: cert-manager.io/v1
kind: Certificate
metadata: {name: {{.Name}}, namespace: {{.Namespace}} }
spec: {secretName: {{.Name}}, dnsNames: [{{.Name}}.test], issuerRef: {name: ca, kind: ClusterIssuer}}
`

// jumping is what is added to package time of the program under test: the seconds
// that stand in a file are added to the clock of the wall, and not to the
// monotonic one, as when somebody sets a machine's clock.
const jumping = `package time

import (
	"sync/atomic"
	"syscall"
)

var jumped atomic.Int64

func init() {
	name, ok := syscall.Getenv("CERTHERD_TEST_CLOCK")
	if !ok {
		return
	}
	look := func() {
		fd, err := open(name)
		if err != nil {
			return
		}
		defer closefd(fd)
		text := make([]byte, 20)
		n, _ := read(fd, text)
		seconds := int64(0)
		for _, c := range text[:max(n, 0)] {
			seconds = seconds*10 + int64(c-'0')
		}
		jumped.Store(seconds)
	}
	look()
	go func() {
		for {
			Sleep(10 * Millisecond)
			look()
		}
	}()
}
`

// buildWithClock builds certherd with a package time whose clock can be set: the
// standard library's, with one line more in Now (see -overlay in `go help
// build`). Nothing else differs from the program that people run.
func (s *site) buildWithClock() {
	s.Helper()
	dir := s.TempDir()
	root, err := exec.Command("go", "env", "GOROOT").Output()
	s.must(err)
	src := filepath.Join(strings.TrimSpace(string(root)), "src", "time")
	text, err := os.ReadFile(filepath.Join(src, "time.go"))
	s.must(err)
	const now = "func Now() Time {\n\tsec, nsec, mono := runtimeNow()\n"
	if strings.Count(string(text), now) != 1 {
		s.Fatalf("time.Now of %s does not begin as it did in Go 1.26", runtime.Version())
	}
	overlay := map[string]map[string]string{"Replace": {}}
	for name, content := range map[string]string{
		"time.go": strings.Replace(string(text), now, now+"\tsec += jumped.Load()\n", 1), "jumping.go": jumping,
	} {
		file := filepath.Join(dir, name)
		s.must(os.WriteFile(file, []byte(content), 0o644))
		overlay["Replace"][filepath.Join(src, name)] = file
	}
	b, err := json.Marshal(overlay)
	s.must(err)
	file := filepath.Join(dir, "overlay.json")
	s.must(os.WriteFile(file, b, 0o644))
	s.program = filepath.Join(dir, "certherd")
	if out, err := exec.Command("go", "build", "-overlay", file, "-o", s.program, "../../cmd/certherd").CombinedOutput(); err != nil {
		s.Fatalf("build certherd with a clock of its own: %v\n%s", err, out)
	}
}

// watchOf is a clock that a replica has of its own.
type watchOf struct {
	s    *site
	file string
}

func (s *site) clock(name string) watchOf {
	w := watchOf{s, filepath.Join(s.TempDir(), name)}
	w.set(0)
	return w
}

// set sets the clock so much ahead of the true time.
func (w watchOf) set(ahead time.Duration) {
	w.s.Helper()
	next := w.file + ".next"
	w.s.must(os.WriteFile(next, fmt.Appendf(nil, "%d", int64(ahead/time.Second)), 0o644))
	w.s.must(os.Rename(next, w.file))
}

func (w watchOf) env() string { return "CERTHERD_TEST_CLOCK=" + w.file }

// TestClockJumps sets the clocks of running replicas forward and back. A round that
// was missed is caught up or skipped, as its deadline says; a leader whose clock
// alone has jumped leads no more; and no clock that is wrong ends a grace period.
func TestClockJumps(t *testing.T) {
	if !*long {
		t.Skip("builds the standard library anew; run with -long")
	}
	const home, team = "clock-certherd", "clock-team"
	s := newSite(t, home)
	s.buildWithClock()
	ctx := t.Context()
	s.must(s.cluster.Namespaces(ctx, team))
	const grace = 100 * time.Hour
	s.configure("maxShare: 100%\ngc: {mode: enforce, schedule: '@every 1h', startingDeadline: 30m, minAge: 0s, gracePeriod: 100h, budget: {count: disabled, share: 100%}}\nbatch: {schedule: '@every 10s', reloads: {updates: 600, gap: 0s}}\n")

	// A name that is a word is mentioned somewhere, and thus perhaps used.
	orphaned := func(name string) {
		t.Helper()
		s.must(s.cluster.Apply(ctx, orphan, object{team, name}))
		s.await("the Secret of "+name, func() bool {
			_, err := s.cluster.Typed.CoreV1().Secrets(team).Get(ctx, name, metav1.GetOptions{})
			return err == nil
		})
	}
	certificateGone := func(name string) bool {
		_, err := s.cluster.Dynamic.Resource(certificates).Namespace(team).Get(ctx, name, metav1.GetOptions{})
		return apierrors.IsNotFound(err)
	}
	secretThere := func(name string) {
		t.Helper()
		if _, err := s.cluster.Typed.CoreV1().Secrets(team).Get(ctx, name, metav1.GetOptions{}); err != nil {
			t.Errorf("the Secret %s: %v", name, err)
		}
	}
	orphaned("first-7f3")
	clockA, clockB := s.clock("a"), s.clock("b")
	set := func(ahead time.Duration) {
		clockA.set(ahead)
		clockB.set(ahead)
	}
	a, b := s.start("clock-0", "", clockA.env()), s.start("clock-1", "", clockB.env())
	s.await("the first round", func() bool { return certificateGone("first-7f3") })

	// An hour forward: the round that was missed is begun.
	orphaned("second-7f3")
	s.leader(a, b).rounds(2) // not due yet
	if certificateGone("second-7f3") {
		t.Error("a round was begun before its time")
	}
	ahead := 61 * time.Minute
	set(ahead)
	s.await("the missed round to be caught up", func() bool { return certificateGone("second-7f3") })

	// So late that it is skipped.
	orphaned("third-7f3")
	ahead += 105 * time.Minute
	skipped := func() int { return len(a.Said("round skipped")) + len(b.Said("round skipped")) }
	set(ahead)
	s.await("the missed round to be skipped", func() bool { return skipped() > 0 })
	s.leader(a, b).rounds(2)
	if certificateGone("third-7f3") {
		t.Error("a round was begun that was to be skipped")
	}

	// Beyond the grace period, by a clock that is wrong.
	ahead += grace
	set(ahead)
	s.leader(a, b).rounds(1) // skipped again
	ahead += 61 * time.Minute
	set(ahead)
	s.await("a round that would delete", func() bool {
		for _, r := range []*process{a, b} {
			for _, l := range r.Said("step") {
				why, _ := l.Fields["why"].(string)
				if l.Fields["action"] == "delete" && strings.Contains(why, "apart") {
					return true
				}
			}
		}
		return false
	})
	secretThere("first-7f3")
	secretThere("second-7f3")

	// Back to the true time: what was noted is in the future, and rounds go on.
	orphaned("fourth-7f3")
	set(0)
	s.await("a round by the true time", func() bool { return certificateGone("fourth-7f3") })
	for _, name := range []string{"first-7f3", "second-7f3", "third-7f3", "fourth-7f3"} {
		secretThere(name)
	}

	// The leader's clock alone.
	for i := range 3 {
		leader := s.leader(a, b)
		mine := map[*process]watchOf{a: clockA, b: clockB}[leader]
		terms := len(leader.Said("leading no more"))
		by := []time.Duration{time.Hour, 24 * time.Hour, 10 * time.Minute}[i]
		mine.set(by)
		s.await("the end of a term after a jump of "+by.String(), func() bool { return len(leader.Said("leading no more")) > terms })
		s.leader(a, b).rounds(1)
		mine.set(0)
		s.leader(a, b).rounds(1)
	}
	for _, name := range []string{"first-7f3", "second-7f3", "third-7f3", "fourth-7f3"} {
		secretThere(name)
	}
	writes, _ := s.audit(a.Name, b.Name)
	s.onlyTheHolderWrites(writes)
	for _, w := range writes {
		if w.resource == "secrets" && w.verb == "delete" {
			t.Errorf("%s, and its grace period had not ended", w)
		}
	}
	s.drop(team)
}
