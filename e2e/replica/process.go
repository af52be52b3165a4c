package replica

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// A Line is one of a replica's log.
type Line struct {
	At      time.Time // when it came
	Replica string
	Message string
	Fields  map[string]any // nil if it is no line of a log, which is in Message
}

// Text is a field, empty if it is not text.
func (l Line) Text(field string) string {
	s, _ := l.Fields[field].(string)
	return s
}

// Number is a field, 0 if it is no number.
func (l Line) Number(field string) float64 {
	n, _ := l.Fields[field].(float64)
	return n
}

// A Process is a `certherd run`: its log, and what it serves.
type Process struct {
	Name    string
	Address string // of what it serves, by its log
	// Client asks for what it serves. A process that was stopped answers nothing.
	Client http.Client

	cmd   *exec.Cmd
	err   error // of its end
	ended chan struct{}

	mu    sync.Mutex
	lines []Line
}

// Run starts a `certherd run`, and returns when it says that it has started. The process
// ends with this one, however that ends. With an error it has ended, and its log may say
// why.
func Run(ctx context.Context, name string, cmd *exec.Cmd) (*Process, error) {
	p := &Process{Name: name, Client: http.Client{Timeout: 30 * time.Second}, cmd: cmd, ended: make(chan struct{})}
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	out, err := cmd.StderrPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		close(p.ended)
		return p, err
	}
	started := make(chan string, 1)
	go p.read(out, started)
	select {
	case p.Address = <-started:
		return p, nil
	case <-p.ended:
		return p, fmt.Errorf("%s has ended: %s", name, p.last())
	case <-ctx.Done():
		p.Kill()
		return p, ctx.Err()
	}
}

func (p *Process) read(out io.Reader, started chan<- string) {
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		l := Line{At: time.Now(), Replica: p.Name}
		if json.Unmarshal(lines.Bytes(), &l.Fields) == nil {
			l.Message = l.Text("msg")
		} else {
			l.Fields, l.Message = nil, lines.Text()
		}
		p.mu.Lock()
		p.lines = append(p.lines, l)
		p.mu.Unlock()
		if l.Message == "started" {
			select {
			case started <- l.Text("address"):
			default:
			}
		}
	}
	p.err = p.cmd.Wait()
	close(p.ended)
}

// Lines are what it has logged.
func (p *Process) Lines() []Line {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.lines)
}

// Said are the lines of its log with one of some messages.
func (p *Process) Said(messages ...string) []Line {
	return slices.DeleteFunc(p.Lines(), func(l Line) bool { return !slices.Contains(messages, l.Message) })
}

// Crash is what it has written that is no line of a log, as a Go program does when it
// crashes, with what came after; empty if there is nothing of the kind.
func (p *Process) Crash() []Line {
	lines := p.Lines()
	i := slices.IndexFunc(lines, func(l Line) bool { return l.Fields == nil })
	if i < 0 {
		return nil
	}
	return lines[i:]
}

func (p *Process) last() string {
	lines := p.Lines()
	if len(lines) == 0 {
		return "it wrote no log"
	}
	l := lines[len(lines)-1]
	return fmt.Sprint(l.Message, " ", l.Fields)
}

// Get asks for a page; the code is 0 where there is no answer.
func (p *Process) Get(path string) (code int, body []byte) {
	x, err := p.Client.Get("http://" + p.Address + path)
	if err != nil {
		return 0, nil
	}
	defer x.Body.Close()
	if body, err = io.ReadAll(x.Body); err != nil {
		return 0, nil
	}
	return x.StatusCode, body
}

// Metric is the value of one sample of its /metrics, named with its labels, -1 if there
// is none.
func (p *Process) Metric(sample string) float64 {
	_, text := p.Get("/metrics")
	for l := range strings.Lines(string(text)) {
		if v, ok := strings.CutPrefix(l, sample+" "); ok {
			if x, err := strconv.ParseFloat(strings.TrimSpace(v), 64); err == nil {
				return x
			}
		}
	}
	return -1
}

// Leads reports whether it leads.
func (p *Process) Leads() bool { return p.Metric("certherd_leader") == 1 }

// Ended reports whether it has ended.
func (p *Process) Ended() bool {
	select {
	case <-p.ended:
		return true
	default:
		return false
	}
}

// Signal sends it a signal.
func (p *Process) Signal(s syscall.Signal) error {
	if p.cmd.Process == nil {
		return fmt.Errorf("%s was not started", p.Name)
	}
	return p.cmd.Process.Signal(s)
}

// Kill ends it as kill -9 does, whatever it is doing.
func (p *Process) Kill() {
	_ = p.Signal(syscall.SIGKILL) // it may have ended
	<-p.ended
}

// End ends it as a kubelet does: SIGTERM, and SIGKILL after 30 s. It returns how it
// ended.
func (p *Process) End() error {
	_ = p.Signal(syscall.SIGTERM) // it may have ended
	select {
	case <-p.ended:
		return p.err
	case <-time.After(30 * time.Second):
		p.Kill()
		return fmt.Errorf("%s did not end in 30 s", p.Name)
	}
}
