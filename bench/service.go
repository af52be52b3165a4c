package main

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"text/tabwriter"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/certherd/certherd/config"
	"github.com/certherd/certherd/e2e/stack"
	"github.com/certherd/certherd/web"
)

// serviceResult is what `certherd run` costs as the only replica, and so the
// leader, with every rule in mode audit.
type serviceResult struct {
	Recipe     recipe
	ColdStartS float64 // from the start of the process until /readyz says that there is a report
	Rounds     []serviceRound
	// IdleMiB is VmRSS 5 s after the end of a round, the median.
	IdleMiB float64
	// AskedPeakMiB is VmHWM while /report.json, /report and / are asked for, one after
	// the other, and AskedMiB VmRSS 5 s later.
	AskedPeakMiB, AskedMiB float64
	Changes                []change
	Budgets                []budget
}

// serviceRound is one round in steady state, and the time up to it.
type serviceRound struct {
	Seconds float64 // as the service says
	PeakMiB float64 // VmHWM, from the end of the round before
	IdleMiB float64
	WireMB  float64 // received, with TLS
	// Calls are the API server's, from its audit log: of the round by verb, and what
	// goes on beside rounds (the lease, and what the service watches of its own).
	Calls  map[string]int
	Beside int
}

func (r serviceRound) calls() (n int) {
	for _, c := range r.Calls {
		n += c
	}
	return n
}

// change is how long it took from the API server's answer until a changed cluster was a
// changed finding.
type change struct {
	What         string
	SinceSeconds float64 // until /since.json has it
	LookSeconds  float64 // until the next look has it, in /metrics
}

const (
	serviceNamespace = "certherd"
	serviceSchedule  = "@every 30s" // short, so that a run ends
	settled          = 5 * time.Second
)

// benchService runs the service on the filled cluster.
func benchService(ctx context.Context, s *stack.Stack, r recipe, certherd string, rounds int) (res serviceResult, err error) {
	res.Recipe = r
	cfg, err := s.RESTConfig()
	if err != nil {
		return res, err
	}
	c, err := newClients(cfg)
	if err != nil {
		return res, err
	}
	if err := c.prepare(ctx, r); err != nil {
		return res, err
	}
	defer func() { err = errors.Join(err, c.restore(context.WithoutCancel(ctx), r)) }()
	// The first lists make the API server build its caches.
	if _, err := measure(ctx, s, "look-proof", ""); err != nil {
		return res, err
	}
	p, err := startService(ctx, s, certherd)
	if err != nil {
		return res, err
	}
	defer func() { err = errors.Join(err, p.stop()) }()
	if err := p.await(ctx, func() bool { return p.get("/readyz", io.Discard) == nil }); err != nil {
		return res, fmt.Errorf("no first report: %w", err)
	}
	res.ColdStartS = time.Since(p.begun).Seconds()
	fmt.Fprintf(os.Stderr, "bench: first report after %.1f s\n", res.ColdStartS)

	// The first round as a follower, or its beginning, and the first one as leader
	// are no steady state.
	if _, err := p.round(ctx); err != nil {
		return res, err
	}
	for range rounds {
		m, err := p.round(ctx)
		if err != nil {
			return res, err
		}
		fmt.Fprintf(os.Stderr, "bench: round of %.1f s, peak %.0f MiB, then %.0f MiB, %d calls, %.0f MB\n", m.Seconds, m.PeakMiB, m.IdleMiB, m.calls(), m.WireMB)
		res.Rounds = append(res.Rounds, m)
	}
	if err := p.forgetPeak(); err != nil {
		return res, err
	}
	for _, path := range []string{"/report.json", "/report", "/"} {
		if err := p.get(path, io.Discard); err != nil {
			return res, err
		}
	}
	if err := sleep(ctx, settled); err != nil {
		return res, err
	}
	res.AskedPeakMiB, res.AskedMiB = p.memory("VmHWM"), p.memory("VmRSS")
	// The round before has just ended, so that it is a wait for the next one unless
	// the service learns of the change itself.
	if res.Changes, err = p.changes(ctx, c, r); err != nil {
		return res, err
	}
	idle := make([]float64, 0, rounds)
	for _, m := range res.Rounds {
		idle = append(idle, m.IdleMiB)
	}
	slices.Sort(idle)
	res.IdleMiB = idle[len(idle)/2]
	add := func(text string, value, limit float64) {
		res.Budgets = append(res.Budgets, budget{text, value, limit, value <= limit})
	}
	add("RSS between rounds in MiB", res.IdleMiB, 120)
	for _, x := range res.Changes {
		add(x.What+": s until a finding has changed", x.SinceSeconds, 1)
	}
	for i, m := range res.Rounds {
		add(fmt.Sprintf("round %d: calls against pages of %d", i+1, pageSize), float64(m.calls()), float64(r.pages()+callsOfARound))
	}
	return res, nil
}

// callsOfARound bounds what a round calls beside the pages of the recipe's kinds: the
// kinds there are, a page of each other one, and the service's own ConfigMaps.
const callsOfARound = 120

// pages is how many pages the recipe's objects fill, the last of a list included.
func (r recipe) pages() int {
	n := 0
	for _, objects := range []int{r.Namespaces, r.Certificates, r.Certificates, r.Ingresses, r.ConfigMaps + r.Namespaces, r.Pods, r.Namespaces} {
		n += objects/pageSize + 1
	}
	return n
}

// prepare makes what the service finds of its own, and mends what an interrupted
// run has left.
func (c clients) prepare(ctx context.Context, r recipe) error {
	if err := c.restore(ctx, r); err != nil {
		return err
	}
	_, err := c.core.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: serviceNamespace}}, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return err
	}
	cm := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: config.ConfigMapName},
		Data: map[string]string{config.ConfigMapKey: "gc:\n  minAge: 0s\n  schedule: \"" + serviceSchedule + "\"\n"}}
	_, err = c.core.CoreV1().ConfigMaps(serviceNamespace).Create(ctx, cm, metav1.CreateOptions{})
	return err
}

// restore leaves the cluster as populate has made it, but for the namespace.
func (c clients) restore(ctx context.Context, r recipe) error {
	all := metav1.ListOptions{LabelSelector: "app.kubernetes.io/name=certherd"}
	err := c.core.CoreV1().ConfigMaps(serviceNamespace).DeleteCollection(ctx, metav1.DeleteOptions{}, all)
	if e := c.core.CoreV1().ConfigMaps(serviceNamespace).Delete(ctx, config.ConfigMapName, metav1.DeleteOptions{}); !apierrors.IsNotFound(e) {
		err = errors.Join(err, e)
	}
	if e := c.core.CoordinationV1().Leases(serviceNamespace).Delete(ctx, "certherd", metav1.DeleteOptions{}); !apierrors.IsNotFound(e) {
		err = errors.Join(err, e)
	}
	x := ingress(r, changed)
	if _, e := c.core.NetworkingV1().Ingresses(x.Namespace).Create(ctx, x, metav1.CreateOptions{}); !apierrors.IsAlreadyExists(e) {
		err = errors.Join(err, e)
	}
	return err
}

// changed is the number of the Ingress that is deleted and made again. Nothing else
// names its Secret: the Pods of every tenth mount one.
const changed = 1

// serviceProcess is a running `certherd run`.
type serviceProcess struct {
	cmd     *exec.Cmd
	begun   time.Time
	address string
	wire    *wireTap
	audit   *os.File
	ended   chan error
	rounds  chan float64 // seconds of each round as it ends
}

func startService(ctx context.Context, s *stack.Stack, certherd string) (*serviceProcess, error) {
	p := &serviceProcess{ended: make(chan error, 1), rounds: make(chan float64, 1000)}
	var err error
	if p.wire, err = tap(strings.TrimPrefix(s.APIServer, "https://")); err != nil {
		return nil, err
	}
	kubeconfig, err := p.wire.kubeconfig(s)
	if err != nil {
		return nil, err
	}
	if p.audit, err = os.Open(s.AuditLog); err != nil {
		return nil, err
	}
	if _, err := p.audit.Seek(0, io.SeekEnd); err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	p.address = l.Addr().String()
	if err := l.Close(); err != nil {
		return nil, err
	}
	p.cmd = exec.CommandContext(ctx, certherd, "run", "--kubeconfig", kubeconfig, "--namespace", serviceNamespace, "--identity", "bench", "--listen", p.address)
	p.cmd.Cancel = func() error { return p.cmd.Process.Signal(syscall.SIGTERM) }
	p.cmd.WaitDelay = time.Minute
	out, err := p.cmd.StderrPipe()
	if err != nil {
		return nil, err
	}
	p.begun = time.Now()
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		lines := bufio.NewScanner(out)
		lines.Buffer(nil, 1<<20)
		for lines.Scan() {
			var x struct {
				Msg      string
				Level    string
				Duration float64
				Result   string
				Gaps     int
			}
			if json.Unmarshal(lines.Bytes(), &x) != nil || x.Level == "error" {
				fmt.Fprintf(os.Stderr, "certherd: %s\n", lines.Text())
			}
			if x.Msg == "round finished" {
				if x.Gaps > 0 {
					fmt.Fprintf(os.Stderr, "certherd: %s\n", lines.Text())
				}
				p.rounds <- x.Duration
			}
		}
		p.ended <- p.cmd.Wait()
	}()
	return p, nil
}

func (p *serviceProcess) stop() error {
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // it may have ended
	err := <-p.ended
	p.wire.listener.Close()
	p.audit.Close()
	return err
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// await asks until ok, for as long as a round may take.
func (p *serviceProcess) await(ctx context.Context, ok func() bool) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Minute)
	defer cancel()
	for !ok() {
		select {
		case err := <-p.ended:
			p.ended <- err
			return fmt.Errorf("certherd run has ended: %w", err)
		default:
		}
		if err := sleep(ctx, 20*time.Millisecond); err != nil {
			return err
		}
	}
	return nil
}

func (p *serviceProcess) get(path string, w io.Writer) error {
	resp, err := http.Get("http://" + p.address + path)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", path, resp.Status)
	}
	_, err = io.Copy(w, resp.Body)
	return err
}

// memory is a field of proc_pid_status(5) in MiB.
func (p *serviceProcess) memory(field string) float64 {
	return float64(status(p.cmd.Process.Pid, field)) / (1 << 20)
}

// forgetPeak sets VmHWM back (proc_pid_clear_refs(5)).
func (p *serviceProcess) forgetPeak() error {
	return os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", p.cmd.Process.Pid), []byte("5"), 0)
}

// round measures up to the end of the next round.
func (p *serviceProcess) round(ctx context.Context) (m serviceRound, err error) {
	for len(p.rounds) > 0 {
		<-p.rounds
	}
	if err := p.forgetPeak(); err != nil {
		return m, err
	}
	wire := p.wire.received.Load()
	if _, _, err := p.calls(); err != nil {
		return m, err
	}
	select {
	case <-ctx.Done():
		return m, ctx.Err()
	case err := <-p.ended:
		p.ended <- err
		return m, fmt.Errorf("certherd run has ended: %w", err)
	case m.Seconds = <-p.rounds:
	}
	m.PeakMiB = p.memory("VmHWM")
	if err := sleep(ctx, settled); err != nil {
		return m, err
	}
	m.WireMB = float64(p.wire.received.Load()-wire) / 1e6
	m.IdleMiB = p.memory("VmRSS")
	m.Calls, m.Beside, err = p.calls()
	return m, err
}

// calls counts what the service has called since it was last asked.
func (p *serviceProcess) calls() (verbs map[string]int, beside int, err error) {
	verbs = map[string]int{}
	content, err := io.ReadAll(p.audit)
	if err != nil {
		return nil, 0, err
	}
	// The last line may be half written.
	end := bytes.LastIndexByte(content, '\n') + 1
	if _, err := p.audit.Seek(int64(end-len(content)), io.SeekCurrent); err != nil {
		return nil, 0, err
	}
	for line := range bytes.Lines(content[:end]) {
		var e struct {
			UserAgent, Verb, RequestURI string
			ObjectRef                   struct{ Resource string }
		}
		if err := json.Unmarshal(line, &e); err != nil {
			return nil, 0, err
		}
		switch {
		case !strings.HasPrefix(e.UserAgent, "certherd/"):
		case e.ObjectRef.Resource == "leases" && e.Verb != "list", e.Verb == "watch":
			beside++
		case e.ObjectRef.Resource == "":
			verbs["discovery"]++
		default:
			verbs[e.Verb]++
		}
	}
	return verbs, beside, nil
}

var unusedFindings = regexp.MustCompile(`(?m)^certherd_findings\{.*verdict="unused".*\} (\S+)$`)

// unused is how many findings of the newest report are about what nothing uses.
func (p *serviceProcess) unused() (float64, error) {
	var b bytes.Buffer
	if err := p.get("/metrics", &b); err != nil {
		return 0, err
	}
	n := 0.0
	for _, m := range unusedFindings.FindAllStringSubmatch(b.String(), -1) {
		x, err := strconv.ParseFloat(m[1], 64)
		if err != nil {
			return 0, err
		}
		n += x
	}
	return n, nil
}

// since is how many findings have come and gone since the newest look.
func (p *serviceProcess) since() (came, went int, err error) {
	var b bytes.Buffer
	if err := p.get("/since.json", &b); err != nil {
		return 0, 0, err
	}
	var x web.Since
	err = json.Unmarshal(b.Bytes(), &x)
	if err == nil && !x.Follows && x.Why != "the next look is under way" {
		err = fmt.Errorf("changes are not followed: %s", x.Why)
	}
	return len(x.Came), len(x.Went), err
}

// changes takes an Ingress away that is the only user of a Secret, and brings it
// back.
func (p *serviceProcess) changes(ctx context.Context, c clients, r recipe) ([]change, error) {
	x := ingress(r, changed)
	var out []change
	for _, step := range []struct {
		what string
		do   func() error
	}{
		{"Ingress deleted", func() error {
			return c.core.NetworkingV1().Ingresses(x.Namespace).Delete(ctx, x.Name, metav1.DeleteOptions{})
		}},
		{"Ingress made", func() error {
			_, err := c.core.NetworkingV1().Ingresses(x.Namespace).Create(ctx, x, metav1.CreateOptions{})
			return err
		}},
	} {
		if _, err := p.round(ctx); err != nil {
			return nil, err
		}
		before, err := p.unused()
		if err != nil {
			return nil, err
		}
		if err := step.do(); err != nil {
			return nil, err
		}
		begun := time.Now()
		y := change{What: step.what}
		if err := p.await(ctx, func() bool {
			came, went, e := p.since()
			err = e
			return e != nil || came+went > 0
		}); err != nil {
			return nil, fmt.Errorf("%s: no changed finding: %w", step.what, err)
		}
		if err != nil {
			return nil, err
		}
		y.SinceSeconds = time.Since(begun).Seconds()
		if err := p.await(ctx, func() bool {
			now, e := p.unused()
			err = e
			return e != nil || now != before
		}); err != nil {
			return nil, fmt.Errorf("%s: not in the next look: %w", step.what, err)
		}
		if err != nil {
			return nil, err
		}
		y.LookSeconds = time.Since(begun).Seconds()
		out = append(out, y)
		fmt.Fprintf(os.Stderr, "bench: %s: a changed finding after %.2f s, a look that has it after %.2f s\n", y.What, y.SinceSeconds, y.LookSeconds)
	}
	return out, nil
}

// wireTap passes connections on to the API server, and counts what comes back.
type wireTap struct {
	listener net.Listener
	received atomic.Int64
}

func tap(to string) (*wireTap, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	w := &wireTap{listener: l}
	go func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			go w.pass(in, to)
		}
	}()
	return w, nil
}

func (w *wireTap) pass(in net.Conn, to string) {
	defer in.Close()
	out, err := net.Dial("tcp", to)
	if err != nil {
		return
	}
	defer out.Close()
	go func() {
		_, _ = io.Copy(out, in) // its end is that of the connection
		out.Close()
	}()
	buf := make([]byte, 64<<10)
	for {
		n, err := out.Read(buf)
		w.received.Add(int64(n))
		if _, e := in.Write(buf[:n]); err != nil || e != nil {
			return
		}
	}
}

// kubeconfig writes one that leads through the tap.
func (w *wireTap) kubeconfig(s *stack.Stack) (string, error) {
	k, err := clientcmd.LoadFromFile(s.Kubeconfig)
	if err != nil {
		return "", err
	}
	for _, c := range k.Clusters {
		u, err := url.Parse(c.Server)
		if err != nil {
			return "", err
		}
		c.TLSServerName = cmp.Or(c.TLSServerName, u.Hostname())
		u.Host = w.listener.Addr().String()
		c.Server = u.String()
	}
	path := filepath.Join(s.Dir, "service-kubeconfig")
	return path, clientcmd.WriteToFile(*k, path)
}

func printService(res serviceResult) {
	fmt.Printf("%d certificates, %d namespaces, %d Ingresses; certherd run, one replica, every rule in mode audit\n\n", res.Recipe.Certificates, res.Recipe.Namespaces, res.Recipe.Ingresses)
	fmt.Printf("first report after %.1f s; RSS between rounds %.0f MiB, %.0f MiB at most while the report is asked for in every form, then %.0f MiB\n", res.ColdStartS, res.IdleMiB, res.AskedPeakMiB, res.AskedMiB)
	for _, c := range res.Changes {
		fmt.Printf("%s: changed finding after %.2f s, in a look after %.2f s\n", c.What, c.SinceSeconds, c.LookSeconds)
	}
	fmt.Println()
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "round\ts\tpeak RSS MiB\tRSS after it MiB\tcalls\tof these\tbeside it\twire MB\t")
	for i, m := range res.Rounds {
		var by []string
		for _, verb := range slices.Sorted(maps.Keys(m.Calls)) {
			by = append(by, fmt.Sprintf("%s %d", verb, m.Calls[verb]))
		}
		fmt.Fprintf(w, "%d\t%.1f\t%.0f\t%.0f\t%d\t%s\t%d\t%.0f\t\n", i+1, m.Seconds, m.PeakMiB, m.IdleMiB, m.calls(), strings.Join(by, ", "), m.Beside, m.WireMB)
	}
	w.Flush()
	fmt.Println()
	printBudgets(res.Budgets)
}
