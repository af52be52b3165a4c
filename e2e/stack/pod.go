package stack

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/miekg/dns"
)

// A Pod is programs that share a network namespace of their own, as the containers
// of a pod do, so that several Envoys can serve the same ports. From there,
// the stack's names and what the parts of the stack serve can be reached.
type Pod struct {
	Name string
	// Containers are started in this order, and ended in the reverse one.
	Containers []Container
}

// A Container is one program of a Pod. One that ends is started again a second
// later. Its output goes to logs/<pod>-<container>.log.
type Container struct {
	Name string
	// Program is "envoy" for the stack's, or a path.
	Program string
	Args    []string
	// Env are further environment variables, as in NAME=value.
	Env []string
}

// RunPod starts a pod, in a stack of level Full. It does not wait until the
// programs are ready.
func (s *Stack) RunPod(ctx context.Context, pod Pod) error {
	_, err := s.command(ctx, command{Run: &pod})
	return err
}

// StopPod ends the programs of a pod by SIGTERM, kills those that are still there
// after 20 s, and returns when all have ended.
func (s *Stack) StopPod(ctx context.Context, pod string) error {
	_, err := s.command(ctx, command{Stop: pod})
	return err
}

// SignalPod sends a signal to a container of a pod, and waits for the end of one
// that it kills by SIGKILL.
func (s *Stack) SignalPod(ctx context.Context, pod, container string, signal syscall.Signal) error {
	_, err := s.command(ctx, command{Signal: pod, Container: container, Number: int(signal)})
	return err
}

// DialPod connects to a TCP port of a pod's 127.0.0.1.
func (s *Stack) DialPod(ctx context.Context, pod string, port int) (net.Conn, error) {
	return s.command(ctx, command{Dial: pod, Number: port})
}

// PodClient is an HTTP client that takes every host for a pod.
func (s *Stack) PodClient(pod string, port int) *http.Client {
	return &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return s.DialPod(ctx, pod, port) }}}
}

// commandSocket is where the supervisor takes commands, in the stack's folder: a
// Unix socket with a path can be reached from any network namespace.
const commandSocket = "commands"

// A command is one JSON document; one field of the first four says what to do. The
// answer is a line with an answer as JSON; after that of Dial, the connection is
// the one to the pod.
type command struct {
	Run                *Pod `json:",omitempty"`
	Stop, Signal, Dial string
	Container          string
	Number             int
}

type answer struct{ Error string }

// command returns the connection if it is one to a pod, and otherwise nil.
func (s *Stack) command(ctx context.Context, c command) (net.Conn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "unix", filepath.Join(s.Dir, commandSocket))
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	if err = json.NewEncoder(conn).Encode(c); err == nil {
		err = readAnswer(conn)
	}
	stop()
	if ctx.Err() != nil {
		err = ctx.Err()
	}
	if err != nil || c.Dial == "" {
		conn.Close()
		return nil, err
	}
	return conn, nil
}

// readAnswer reads no further than the answer's line.
func readAnswer(conn net.Conn) error {
	var line []byte
	for b := make([]byte, 1); ; {
		if _, err := io.ReadFull(conn, b); err != nil {
			return fmt.Errorf("no answer of the stack: %w", err)
		}
		if b[0] == '\n' {
			break
		}
		line = append(line, b[0])
	}
	var a answer
	if err := json.Unmarshal(line, &a); err != nil {
		return err
	}
	if a.Error != "" {
		return errors.New(a.Error)
	}
	return nil
}

// pods are those that run, in the supervisor.
type pods struct {
	mu  sync.Mutex
	all map[string]*pod
}

type pod struct {
	network    *network
	containers []*service
	cancel     []context.CancelFunc
	ended      []chan struct{}
	closers    []io.Closer
}

// takeCommands serves the command socket. names answers the pods' questions for
// names.
func (s *supervisor) takeCommands(ctx context.Context, names dns.Handler) error {
	listener, err := net.Listen("unix", filepath.Join(s.Dir, commandSocket))
	if err != nil {
		return fmt.Errorf("%w; does the stack's folder have a shorter path?", err)
	}
	s.pods.all = map[string]*pod{}
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				fmt.Fprintln(os.Stderr, "commands:", err)
				return
			}
			go s.obey(ctx, conn.(*net.UnixConn), names)
		}
	}()
	return nil
}

func (s *supervisor) obey(ctx context.Context, conn *net.UnixConn, names dns.Handler) {
	defer conn.Close()
	var c command
	// Whoever asks waits for the answer, so that nothing more is read with it.
	err := json.NewDecoder(conn).Decode(&c)
	var inner net.Conn
	switch {
	case err != nil:
	case c.Run != nil:
		err = s.runPod(ctx, *c.Run, names)
	case c.Stop != "":
		err = s.stopPod(c.Stop)
	case c.Signal != "":
		err = s.signalPod(c.Signal, c.Container, syscall.Signal(c.Number))
	case c.Dial != "":
		inner, err = s.dialPod(c.Dial, c.Number)
	default:
		err = errors.New("no command")
	}
	var a answer
	if err != nil {
		a.Error = err.Error()
	}
	if json.NewEncoder(conn).Encode(a) == nil && inner != nil {
		join(conn, inner.(*net.TCPConn))
	}
}

func (s *supervisor) pod(name string) (*pod, error) {
	s.pods.mu.Lock()
	defer s.pods.mu.Unlock()
	if p := s.pods.all[name]; p != nil {
		return p, nil
	}
	return nil, fmt.Errorf("there is no pod %s", name)
}

func (s *supervisor) runPod(ctx context.Context, spec Pod, names dns.Handler) error {
	s.pods.mu.Lock()
	defer s.pods.mu.Unlock()
	if s.pods.all[spec.Name] != nil {
		return fmt.Errorf("there is a pod %s already", spec.Name)
	}
	network, err := newNetwork()
	if err != nil {
		return err
	}
	p := &pod{network: network}
	// What a pod may reach: names, kube-apiserver, the ports for gateways, and what
	// stands in for other pods.
	if err := p.serveNames(names); err != nil {
		return errors.Join(err, p.close())
	}
	for _, address := range []string{private + ":6443", fmt.Sprintf("%s:%d", private, ControllerXDS), fmt.Sprintf("%s:%d", private, RelayXDS), ":8012", ":8013"} {
		if err := p.forwardOut(address); err != nil {
			return errors.Join(err, p.close())
		}
	}
	for _, c := range spec.Containers {
		svc := &service{name: spec.Name + "-" + c.Name, program: c.Program, args: c.Args, env: c.Env, network: network, grace: 20 * time.Second}
		if !filepath.IsAbs(c.Program) {
			svc.part = Envoy
		}
		running, cancel := context.WithCancel(ctx)
		ended, err := s.keep(running, svc)
		p.containers, p.cancel = append(p.containers, svc), append(p.cancel, cancel)
		if err != nil {
			return errors.Join(err, p.stop())
		}
		p.ended = append(p.ended, ended)
	}
	s.pods.all[spec.Name] = p
	return nil
}

// stop ends the containers, the last first.
func (p *pod) stop() error {
	for i := len(p.ended) - 1; i >= 0; i-- {
		p.cancel[i]()
		<-p.ended[i]
	}
	return p.close()
}

func (p *pod) close() error {
	var errs []error
	for _, c := range p.closers {
		errs = append(errs, c.Close())
	}
	p.network.close()
	return errors.Join(errs...)
}

func (s *supervisor) stopPod(name string) error {
	p, err := s.pod(name)
	if err != nil {
		return err
	}
	s.pods.mu.Lock()
	delete(s.pods.all, name)
	s.pods.mu.Unlock()
	return p.stop()
}

func (s *supervisor) signalPod(name, container string, signal syscall.Signal) error {
	p, err := s.pod(name)
	if err != nil {
		return err
	}
	for _, svc := range p.containers {
		if svc.name != name+"-"+container {
			continue
		}
		process := svc.process.Load()
		if process == nil {
			return fmt.Errorf("%s does not run at present", svc.name)
		}
		if err := process.Signal(signal); err != nil {
			return err
		}
		for signal == syscall.SIGKILL && svc.process.Load() == process {
			time.Sleep(time.Millisecond)
		}
		return nil
	}
	return fmt.Errorf("the pod %s has no container %s", name, container)
}

func (s *supervisor) dialPod(name string, port int) (conn net.Conn, err error) {
	p, err := s.pod(name)
	if err != nil {
		return nil, err
	}
	err = p.network.do(func() (err error) {
		conn, err = net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		return err
	})
	return conn, err
}

// serveNames answers DNS in the pod's network.
func (p *pod) serveNames(names dns.Handler) error {
	var packets net.PacketConn
	err := p.network.do(func() (err error) {
		packets, err = net.ListenPacket("udp", private+":53")
		return err
	})
	if err != nil {
		return err
	}
	p.closers = append(p.closers, packets)
	go func() { _ = (&dns.Server{PacketConn: packets, Handler: names}).ActivateAndServe() }() // ends with the pod
	return nil
}

// forwardOut leads an address in the pod's network to the same one in the stack's.
func (p *pod) forwardOut(address string) error {
	var listener net.Listener
	err := p.network.do(func() (err error) {
		listener, err = net.Listen("tcp", address)
		return err
	})
	if err != nil {
		return err
	}
	p.closers = append(p.closers, listener)
	inner := address
	if inner[0] == ':' {
		inner = private + inner
	}
	forward(listener, inner)
	return nil
}
