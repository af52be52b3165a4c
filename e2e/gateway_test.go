package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/certherd/certherd/report"
)

// admin asks Envoy's admin interface.
func (w *world) envoy(path string) ([]byte, error) {
	response, err := http.Get("http://" + w.stack.EnvoyAdmin + path)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	return io.ReadAll(response.Body)
}

// loaded counts the certificates that Envoy has, by their serial numbers: each of
// Kourier's listeners has a copy of its own.
func (w *world) loaded() (int, error) {
	content, err := w.envoy("/certs")
	if err != nil {
		return 0, err
	}
	var answer struct {
		Certificates []struct {
			CertChain []struct {
				SerialNumber string `json:"serial_number"`
			} `json:"cert_chain"`
		}
	}
	if err := json.Unmarshal(content, &answer); err != nil {
		return 0, fmt.Errorf("%w in %.200s", err, content)
	}
	serials := map[string]bool{}
	for _, c := range answer.Certificates {
		if len(c.CertChain) > 0 {
			serials[c.CertChain[0].SerialNumber] = true
		}
	}
	return len(serials), nil
}

func TestEnvoyHasLoadedWhatTheReportSays(t *testing.T) {
	w := cluster(t)
	r := w.audit(t)
	if len(r.Gateways) != 1 {
		t.Fatalf("%d gateways, not one", len(r.Gateways))
	}
	g := r.Gateways[0]
	if g.DrainSeconds != 15 {
		t.Errorf("drain time of %d s, and Kourier's Deployment says 15", g.DrainSeconds)
	}
	if g.MemoryMiB.Limit != 800 {
		t.Errorf("memory limit of %g MiB, and Kourier's Deployment says 800", g.MemoryMiB.Limit)
	}
	n := 0
	until(t, "Envoy to drain what was replaced", func() bool {
		var err error
		n, err = w.loaded()
		if err != nil {
			t.Fatal(err)
		}
		return n == g.Certificates.Now
	})
	t.Logf("Envoy has %d certificates, and would have %d after consolidation", n, g.Certificates.After)
	if g.Certificates.After >= n/2 {
		t.Errorf("three namespaces could become three certificates, and %d of %d would stay", g.Certificates.After, n)
	}
}

// tolerance is how far the model of the gateway's memory may be off. docs/cost.md
// has 20 % for a gateway that holds hundreds of certificates; with few, what
// every Envoy needs makes up half of it, and that differs with its build and
// its number of worker threads.
const tolerance = 0.25

// TestGatewayMemory compares the model with the memory of the Envoy that runs,
// after it has been started anew: what it holds then is what it needs, and not
// what it has not given back.
func TestGatewayMemory(t *testing.T) {
	w := cluster(t)
	g := w.audit(t).Gateways[0]
	before := w.envoyProcess(t)
	if err := w.stack.Signal("envoy", syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	until(t, "Envoy to load everything again", func() bool {
		// The old one goes on answering for a moment.
		if _, err := os.Stat(before); !errors.Is(err, fs.ErrNotExist) {
			return false
		}
		n, err := w.loaded()
		return err == nil && n == g.Certificates.Now
	})
	process := w.envoyProcess(t)
	if process == before {
		t.Fatal("Envoy was not started again")
	}
	// At rest: no listener is warming or draining, and no update came for a while.
	last, quiet := "", 0
	until(t, "Envoy to rest", func() bool {
		stats, err := w.envoy("/stats?filter=^listener_manager.(lds.update_success|total_listeners_(warming|draining))")
		if err != nil {
			return false
		}
		if string(stats) != last {
			last, quiet = string(stats), 0
		} else if strings.Contains(last, "total_listeners_draining: 0") && strings.Contains(last, "total_listeners_warming: 0") {
			quiet++
		}
		time.Sleep(400 * time.Millisecond)
		return quiet > 5
	})
	measured := anonymousMiB(t, process)
	t.Logf("%d certificates: Envoy has %.1f MiB, the model says %.1f MiB (%+.0f %%)", g.Certificates.Now, measured, g.MemoryMiB.Now, 100*(g.MemoryMiB.Now/measured-1))
	if off := math.Abs(g.MemoryMiB.Now/measured - 1); off > tolerance {
		t.Errorf("the model is off by %.0f %%: it says %.1f MiB, and Envoy has %.1f MiB", 100*off, g.MemoryMiB.Now, measured)
	}
}

// TestGatewayIsAsked: with what Envoy says of itself the prediction is better, and
// every Secret that is served is known to be loaded, from a saved answer, too.
func TestGatewayIsAsked(t *testing.T) {
	w := cluster(t)
	n := w.audit(t).Gateways[0].Certificates.Now
	// Whoever changes anything makes net-kourier push, and Envoy drain what was before.
	var r report.Report
	until(t, "an audit while Envoy is at rest", func() bool {
		r = w.audit(t, "--gateway", "http://"+w.stack.EnvoyAdmin)
		return r.Gateways[0].Basis == report.BasisMeasured && r.Loaded != nil && r.Loaded.Copies == 2*n
	})
	g := r.Gateways[0]
	if g.Basis != report.BasisMeasured || g.Measured == nil || !g.Measured.AtRest || g.Measured.Certificates != n || g.Holds == nil || g.Holds.InChurn >= g.Holds.AtRest || g.NeedsLimitMiB <= 0 {
		t.Fatalf("it was not measured: %+v, %+v", g, g.Measured)
	}
	t.Logf("%s; resident %.1f MiB", g.BasisNote, g.Measured.ResidentMiB)
	served := map[string]bool{}
	for _, ref := range w.truth.Used {
		served[ref.String()] = true
	}
	matched := 0
	for _, l := range r.Loaded.Secrets {
		switch {
		case l.Copies > 0 && l.Match == "serial":
			matched++
			// One in each of Kourier's two listeners.
			if l.Copies != 2 {
				t.Errorf("%s is loaded %d times", l.Object, l.Copies)
			}
		case l.Copies > 0 && !served[l.Object.String()]:
			t.Errorf("nobody uses %s, and it is loaded: %+v", l.Object, l)
		}
	}
	// What was made by hand, or is orphaned, shows no serial number.
	if r.Loaded.Certificates != n || matched < n-5 || len(r.Loaded.Strays) > 0 {
		t.Errorf("%d of %d certificates are known by their serial numbers; strays: %+v", matched, n, r.Loaded.Strays)
	}
	if got, want := r.Summary.Verdicts["unused"], w.audit(t).Summary.Verdicts["unused"]; got != want {
		t.Errorf("%d are unused, and %d without asking the gateway", got, want)
	}

	saved, dump := filepath.Join(t.TempDir(), "certs.json"), filepath.Join(t.TempDir(), "dump.tar.gz")
	w.run(t, "dump", "--output", dump)
	until(t, "a saved answer to say what the gateway says", func() bool {
		content, err := w.envoy("/certs")
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(saved, content, 0o600); err != nil {
			t.Fatal(err)
		}
		offline := w.audit(t, "-f", dump, "--gateway-certs", saved)
		return offline.Gateways[0].Basis == report.BasisModel && reflect.DeepEqual(offline.Loaded, r.Loaded)
	})
	i := slices.IndexFunc(r.Loaded.Secrets, func(l report.LoadedSecret) bool { return l.Match == "serial" })
	l := r.Loaded.Secrets[i]
	if got := string(w.run(t, "explain", "secret/"+l.Object.Namespace+"/"+l.Object.Name, "-f", dump, "--gateway-certs", saved)); !strings.Contains(got, "loaded 2 times by the gateway, serial number "+l.Serial) {
		t.Errorf("explain says:\n%s", got)
	}
}

// envoyProcess is the folder in /proc of the stack's Envoy.
func (w *world) envoyProcess(t *testing.T) string {
	t.Helper()
	link := func(process, name string) string {
		// Processes end at any time, and then have no links.
		target, _ := os.Readlink(filepath.Join(process, name))
		return target
	}
	namespace := link("/proc/"+strconv.Itoa(w.stack.Supervisor.PID), "ns/pid")
	if namespace == "" {
		t.Fatal("the stack's supervisor has no PID namespace")
	}
	processes, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	for _, process := range processes {
		if link(process, "ns/pid") == namespace && filepath.Base(link(process, "exe")) == "envoy" {
			return process
		}
	}
	t.Fatal("the stack has no Envoy")
	return ""
}

// anonymousMiB reads RssAnon of a process (proc_pid_status(5)), in MiB.
func anonymousMiB(t *testing.T, process string) float64 {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(process, "status"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(content)) {
		if value, ok := strings.CutPrefix(line, "RssAnon:"); ok {
			kib, err := strconv.ParseFloat(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 64)
			if err != nil {
				t.Fatal(err)
			}
			return kib / 1024
		}
	}
	t.Fatalf("%s/status has no RssAnon", process)
	return 0
}
