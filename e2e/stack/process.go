package stack

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"time"
)

// supervisorName is the zeroth argument that makes this program a supervisor.
const supervisorName = "certherd-stack-supervisor"

// Any program that imports this package can be run again as the supervisor.
func init() {
	if len(os.Args) == 2 && os.Args[0] == supervisorName {
		os.Exit(supervise(os.Args[1]))
	}
}

// A supervisor is the first process of a stack's PID namespace: when it ends, the
// kernel kills all others. It starts and restarts them and forwards connections.
type supervisor struct {
	settings
	reports *json.Encoder
	begun   time.Time
	pods    pods
}

// supervise runs a stack in dir until it is told to end: by a signal or, unless
// detached, by the end of the process that started it. It returns the exit code.
func supervise(dir string) int {
	const firstFile = 3
	s := &supervisor{reports: json.NewEncoder(os.NewFile(firstFile, "reports")), begun: time.Now()}
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	// A report to a process that has gone, or lost output, must not end the stack.
	signal.Ignore(syscall.SIGPIPE, syscall.SIGHUP)

	content, err := os.ReadFile(filepath.Join(dir, settingsFile))
	if err == nil {
		err = json.Unmarshal(content, &s.settings)
	}
	if err == nil {
		err = s.isolate()
	}
	for i := 0; err == nil && i < len(s.Inner); i++ {
		file := os.NewFile(uintptr(firstFile+2+i), s.Inner[i])
		var listener net.Listener
		if listener, err = net.FileListener(file); err == nil {
			forward(listener, s.Inner[i])
		}
		file.Close()
	}
	if err != nil {
		return s.fail(err)
	}
	abandoned := make(chan struct{})
	lifeline := os.NewFile(firstFile+1, "lifeline")
	go func() {
		lifeline.Read(make([]byte, 1)) // returns when the other end is closed
		if !s.Detached {
			close(abandoned)
		}
	}()

	ctx, cancel := context.WithCancel(context.Background())
	defer s.cleanUp()
	defer cancel()
	started := make(chan error, 1)
	go func() { started <- s.start(ctx) }()
	for {
		select {
		case <-signals:
			return 0
		case <-abandoned:
			return 0
		case err := <-started:
			if err != nil {
				return s.fail(err)
			}
			s.reports.Encode(report{Ready: true})
		}
	}
}

// cleanUp ends all processes of the namespace and, when the folder is a temporary
// one, removes it: whoever would have done that may have been killed.
func (s *supervisor) cleanUp() {
	syscall.Kill(-1, syscall.SIGKILL) // does not strike the caller; see kill(2)
	if !s.Temporary {
		return
	}
	for range 50 { // processes may still write for a moment
		if os.RemoveAll(s.Dir) == nil {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func (s *supervisor) fail(err error) int {
	fmt.Fprintln(os.Stderr, err)
	s.reports.Encode(report{Error: err.Error()})
	return 1
}

func (s *supervisor) progress(format string, args ...any) {
	line := fmt.Sprintf("%5.1f s  %s", time.Since(s.begun).Seconds(), fmt.Sprintf(format, args...))
	fmt.Fprintln(os.Stderr, line)
	s.reports.Encode(report{Progress: line})
}

// A service is one program of the stack.
type service struct {
	name string
	part Part
	// program is the file's name in the part's bin folder, name when empty; or a
	// path.
	program string
	args    []string
	env     []string
	// network is the one to run in, nil for the stack's; grace how long it may take
	// to end by SIGTERM, 0 to kill it at once.
	network *network
	grace   time.Duration
	// process is the one that runs, nil between two.
	process atomic.Pointer[os.Process]
}

// run starts a service and, as a kubelet would, starts it again a second after
// it has ended. Its output goes to logs/<name>.log.
func (s *supervisor) run(ctx context.Context, svc *service) error {
	_, err := s.keep(ctx, svc)
	return err
}

// keep is run; ended is closed when ctx has ended and the service, too.
func (s *supervisor) keep(ctx context.Context, svc *service) (ended chan struct{}, err error) {
	if svc.program == "" {
		svc.program = svc.name
	}
	log, err := os.OpenFile(s.log(svc.name), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return nil, err
	}
	ended = make(chan struct{})
	go func() {
		defer close(ended)
		defer log.Close()
		for {
			program := svc.program
			if !filepath.IsAbs(program) {
				program = filepath.Join(s.Parts[svc.part], "bin", program)
			}
			cmd := exec.CommandContext(ctx, program, svc.args...)
			cmd.Dir = s.Dir
			cmd.Env = append(os.Environ(), svc.env...)
			cmd.Stdout, cmd.Stderr = log, log
			if svc.grace > 0 {
				cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
				cmd.WaitDelay = svc.grace
			}
			err := svc.start(cmd)
			if err == nil {
				svc.process.Store(cmd.Process)
				err = cmd.Wait()
				svc.process.Store(nil)
			}
			if ctx.Err() == nil {
				fmt.Fprintf(os.Stderr, "%s ended (%v); starting it again\n", svc.name, err)
			}
			select {
			case <-ctx.Done():
				return
			case <-time.After(time.Second):
			}
		}
	}()
	return ended, nil
}

func (svc *service) start(cmd *exec.Cmd) error {
	if svc.network == nil {
		return cmd.Start()
	}
	return svc.network.do(cmd.Start)
}

func (s *supervisor) log(name string) string { return filepath.Join(s.Dir, "logs", name+".log") }

// startTimeout bounds how long any one part may take to become ready.
const startTimeout = 3 * time.Minute

// await calls check until it succeeds; an error names what it waited for and
// shows the end of the service's log.
func (s *supervisor) await(ctx context.Context, what, name string, check func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	var last error
	for {
		attempt, done := context.WithTimeout(ctx, 5*time.Second)
		err := check(attempt)
		done()
		if err == nil {
			return nil
		}
		if ctx.Err() == nil || last == nil {
			last = err
		}
		select {
		case <-ctx.Done():
			content, _ := os.ReadFile(s.log(name))
			return fmt.Errorf("waited %s for %s: %w\nend of %s:\n%s", startTimeout, what, last, s.log(name), tail(string(content), 15))
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// listening checks that something accepts connections on a TCP address.
func listening(address string) func(context.Context) error {
	return func(ctx context.Context) error {
		conn, err := new(net.Dialer).DialContext(ctx, "tcp", address)
		if err == nil {
			conn.Close()
		}
		return err
	}
}

// answers checks that a GET is answered with status 200.
func answers(client *http.Client, url string) func(context.Context) error {
	return func(ctx context.Context) error {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return err
		}
		response, err := client.Do(request)
		if err != nil {
			return err
		}
		response.Body.Close()
		if response.StatusCode != http.StatusOK {
			return fmt.Errorf("GET %s: %s", url, response.Status)
		}
		return nil
	}
}
