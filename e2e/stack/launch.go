package stack

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// settings is what the supervisor gets to know, as JSON in its folder.
type settings struct {
	Options
	Dir string
	// Temporary says that Dir goes when the stack ends; Root, that root started it.
	Temporary, Root bool
	Parts           map[Part]string
	// Inner has one address for each listener that the supervisor inherits.
	Inner []string
	// APIServer is kube-apiserver's address outside.
	APIServer string
}

// stateEntries are what a stack writes into its folder; they are removed before
// another one starts there.
var stateEntries = []string{stateFile, settingsFile, "etcd", "pki", "kubeconfigs", "kubeconfig", "audit.log", "audit-policy.yaml", "resolv.conf", "envoy.yaml", "pebble.json", commandSocket, "logs"}

const settingsFile = "supervisor.json"

// Start builds what the cache lacks, starts a stack and returns when it is ready
// to be used. ctx bounds the start, not the life of the stack. When Start fails,
// nothing is left running; the log files stay if Dir was given.
func Start(ctx context.Context, options Options) (*Stack, error) {
	if options.Out == nil {
		options.Out = io.Discard
	}
	if options.Level == "" {
		options.Level = ControlPlane
	}
	if options.Relay != "" {
		// The supervisor has a working folder of its own.
		path, err := filepath.Abs(options.Relay)
		if err != nil {
			return nil, err
		}
		options.Relay = path
	}
	parts, err := build(ctx, options.Out, options.Level.Parts()...)
	if err != nil {
		return nil, err
	}
	s := &Stack{Level: options.Level, Dir: options.Dir, detached: options.Detached}
	if err := s.prepareDir(); err != nil {
		return nil, err
	}
	if err := s.start(ctx, options, parts); err != nil {
		if s.temporary {
			os.RemoveAll(s.Dir)
		}
		return nil, err
	}
	return s, nil
}

func (s *Stack) start(ctx context.Context, options Options, parts map[Part]string) error {
	begun := time.Now()
	conf := settings{Options: options, Dir: s.Dir, Temporary: s.temporary, Root: os.Geteuid() == 0, Parts: parts}
	var listeners []*os.File
	defer func() {
		for _, file := range listeners {
			file.Close()
		}
	}()
	for _, endpoint := range endpoints(s, options.Relay != "") {
		file, address, err := listen()
		if err != nil {
			return err
		}
		listeners = append(listeners, file)
		*endpoint.outer = address
		conf.Inner = append(conf.Inner, endpoint.inner)
	}
	conf.APIServer = s.APIServer
	content, err := json.Marshal(conf)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(s.Dir, settingsFile), content, 0o600); err != nil {
		return err
	}
	if err := s.launch(ctx, listeners, options.Out); err != nil {
		return err
	}
	content, err = json.MarshalIndent(s, "", "  ")
	if err == nil {
		err = os.WriteFile(filepath.Join(s.Dir, stateFile), content, 0o600)
	}
	if err != nil {
		return errors.Join(err, s.end())
	}
	fmt.Fprintf(options.Out, "stack: ready after %.1f s, KUBECONFIG=%s\n", time.Since(begun).Seconds(), s.Kubeconfig)
	return nil
}

// listen opens a port of 127.0.0.1 in the namespace of the caller. A socket stays
// in the network namespace that it was made in, wherever its descriptor goes.
func listen() (file *os.File, address string, err error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, "", err
	}
	defer listener.Close()
	file, err = listener.(*net.TCPListener).File()
	return file, listener.Addr().String(), err
}

func (s *Stack) prepareDir() (err error) {
	if s.Dir == "" {
		s.temporary = true
		s.Dir, err = os.MkdirTemp("", "certherd-stack-")
	} else if s.Dir, err = filepath.Abs(s.Dir); err == nil {
		err = os.MkdirAll(s.Dir, 0o755)
	}
	if err != nil {
		return err
	}
	if running, err := Load(s.Dir); err == nil {
		return fmt.Errorf("a stack is already running in %s (process %d); end it first, or use another folder", s.Dir, running.Supervisor.PID)
	}
	if err := removeState(s.Dir); err != nil {
		return err
	}
	s.LogDir = filepath.Join(s.Dir, "logs")
	s.AuditLog = filepath.Join(s.Dir, "audit.log")
	s.Kubeconfig = filepath.Join(s.Dir, "kubeconfig")
	return os.Mkdir(s.LogDir, 0o755)
}

// removeState empties a folder that a stack has used. It refuses a folder that
// holds anything else.
func removeState(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	known := map[string]bool{}
	for _, name := range stateEntries {
		known[name] = true
	}
	for _, entry := range entries {
		if !known[entry.Name()] {
			return fmt.Errorf("%s holds %s, which no stack has put there; choose an empty folder", dir, entry.Name())
		}
	}
	for _, entry := range entries {
		if err := os.RemoveAll(filepath.Join(dir, entry.Name())); err != nil {
			return err
		}
	}
	return nil
}

// Remove ends the stack in dir, if one is running there, and removes the folder.
// It refuses a folder that holds anything that no stack has put there.
func Remove(dir string) error {
	if s, err := Load(dir); err == nil {
		if err := s.Stop(); err != nil {
			return err
		}
	} else if !errors.Is(err, ErrNotRunning) {
		return err
	}
	if err := removeState(dir); errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	return os.Remove(dir)
}

// report is a message from the supervisor, one JSON document each.
type report struct {
	Progress, Error string
	Ready           bool
}

// launch runs this program again as supervisor in namespaces of its own, and
// waits until it reports that the stack is ready.
func (s *Stack) launch(ctx context.Context, listeners []*os.File, out io.Writer) error {
	reports, reportsEnd, err := os.Pipe()
	if err != nil {
		return err
	}
	defer reports.Close()
	defer reportsEnd.Close()
	// The supervisor reads the lifeline: its end closes when this process ends.
	lifeline, lifelineEnd, err := os.Pipe()
	if err != nil {
		return err
	}
	defer lifeline.Close()
	log, err := os.Create(filepath.Join(s.LogDir, "supervisor.log"))
	if err != nil {
		return err
	}
	defer log.Close()

	cmd := exec.Command("/proc/self/exe")
	cmd.Args = []string{supervisorName, s.Dir}
	cmd.Env = os.Environ()
	cmd.Dir = s.Dir
	cmd.Stdout, cmd.Stderr = log, log
	cmd.ExtraFiles = append([]*os.File{reportsEnd, lifeline}, listeners...)
	if cmd.SysProcAttr, err = namespaces(); err != nil {
		return err
	}
	err = cmd.Start()
	reportsEnd.Close()
	lifeline.Close()
	if err != nil {
		lifelineEnd.Close()
		return needsNamespaces(err, os.Geteuid() == 0)
	}
	exited := make(chan struct{})
	go func() {
		cmd.Wait()
		close(exited)
	}()
	s.end = func() error {
		lifelineEnd.Close()
		if s.detached {
			return s.Supervisor.terminate()
		}
		select {
		case <-exited:
			return nil
		case <-time.After(20 * time.Second):
			cmd.Process.Kill()
			<-exited
			return nil
		}
	}

	ready := make(chan error, 1)
	go func() { ready <- follow(reports, out) }()
	select {
	case err = <-ready:
	case <-ctx.Done():
		err = ctx.Err()
	}
	if err == nil {
		s.Supervisor, err = identify(cmd.Process.Pid)
	}
	if err != nil {
		cmd.Process.Kill()
		lifelineEnd.Close()
		<-exited
		return fmt.Errorf("%w%s", err, s.lastWords())
	}
	return nil
}

// follow passes progress on until the supervisor is ready or has failed.
func follow(reports io.Reader, out io.Writer) error {
	decoder := json.NewDecoder(reports)
	for {
		var message report
		if err := decoder.Decode(&message); err != nil {
			return errors.New("the stack's supervisor ended before the stack was ready")
		}
		switch {
		case message.Error != "":
			return errors.New(message.Error)
		case message.Ready:
			return nil
		default:
			fmt.Fprintln(out, "stack: "+message.Progress)
		}
	}
}

// lastWords is the end of the supervisor's log, for an error message.
func (s *Stack) lastWords() string {
	content, err := os.ReadFile(filepath.Join(s.LogDir, "supervisor.log"))
	if err != nil || len(content) == 0 {
		return ""
	}
	return "\n" + tail(string(content), 10)
}

// identify finds the start time of a running process.
func identify(pid int) (Process, error) {
	content, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return Process{}, err
	}
	// The command's name, in parentheses, may hold spaces.
	text := string(content)
	fields := strings.Fields(text[strings.LastIndex(text, ")")+1:])
	if len(fields) < 20 {
		return Process{}, fmt.Errorf("/proc/%d/stat is too short", pid)
	}
	if fields[0] == "Z" {
		return Process{}, fmt.Errorf("process %d has ended", pid)
	}
	start, err := strconv.ParseUint(fields[19], 10, 64)
	return Process{PID: pid, StartTime: start}, err
}

// alive reports whether the process still runs and is not another of the same id.
func (p Process) alive() bool {
	now, err := identify(p.PID)
	return err == nil && now == p
}

// terminate ends the process and waits for its end.
func (p Process) terminate() error {
	for attempt := 0; p.alive(); attempt++ {
		signal := syscall.SIGTERM
		if attempt >= 100 {
			signal = syscall.SIGKILL
		}
		if attempt%100 == 0 {
			if err := syscall.Kill(p.PID, signal); err != nil && !errors.Is(err, syscall.ESRCH) {
				return fmt.Errorf("end the stack's process %d: %w", p.PID, err)
			}
		}
		if attempt == 300 {
			return fmt.Errorf("the stack's process %d does not end", p.PID)
		}
		time.Sleep(100 * time.Millisecond)
	}
	// It may be a zombie until its parent, which need not be this process, has noticed;
	// some containers have none that would.
	for range 20 {
		if _, err := os.Stat(fmt.Sprintf("/proc/%d", p.PID)); err != nil {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	return nil
}
