// Package stack runs the real thing on one machine, without Docker or a kubelet:
// etcd, kube-apiserver, kube-controller-manager and, on request, cert-manager,
// Knative Serving, net-kourier, Envoy and the ACME server Pebble. Each is built
// from its published module at a pinned version (see parts/) and kept in a cache.
//
// A stack lives in PID, network and mount namespaces of its own, so several can
// run side by side with the same ports inside, and nothing can outlive it. What
// callers need is forwarded from ports of 127.0.0.1 that the system picks.
//
// No pods run. A Knative Service becomes Ready with a revision of zero replicas.
package stack

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"syscall"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// Level says how much of the stack is started.
type Level string

const (
	// ControlPlane is etcd, kube-apiserver and kube-controller-manager.
	ControlPlane Level = "control-plane"
	// Full is everything.
	Full Level = "full"
)

// Options says what to start.
type Options struct {
	// Level is ControlPlane or Full; empty means ControlPlane.
	Level Level
	// Dir is the folder for state and logs; it must be empty, absent, or left
	// behind by a stack that has ended. Empty means a temporary folder that Stop
	// removes.
	Dir string
	// Detached leaves the stack running when this process ends. Otherwise it
	// ends with this process, however that ends.
	Detached bool
	// ExtraAPIServerArgs are appended to the arguments of kube-apiserver.
	ExtraAPIServerArgs []string
	// ExtraEtcdArgs are appended to the arguments of etcd.
	ExtraEtcdArgs []string
	// ExtraCertManagerArgs are appended to the arguments of cert-manager's
	// controller (--enable-certificate-owner-ref, for one).
	ExtraCertManagerArgs []string
	// Relay is a built certherd-relay to run between net-kourier and Envoy, by its
	// path; RelayArgs are appended to its arguments. Without it there is no relay.
	Relay     string
	RelayArgs []string
	// Out gets lines of progress; nil discards them.
	Out io.Writer `json:"-"`
}

// A Stack is a running stack. Its addresses are host:port on 127.0.0.1; those of
// parts that the level does not have are empty.
type Stack struct {
	Level Level
	// Dir holds state; LogDir in it one log file per process; AuditLog is
	// kube-apiserver's audit log (one JSON event a line, level Metadata, all
	// requests); Kubeconfig gives a client of group system:masters.
	Dir, LogDir, AuditLog, Kubeconfig string
	// APIServer is kube-apiserver's address (https).
	APIServer string
	// GatewayTLS and GatewayHTTP are Kourier's external listeners (ports 8443
	// and 8080 of Envoy); EnvoyAdmin is Envoy's admin interface (http).
	GatewayTLS, GatewayHTTP, EnvoyAdmin string
	// RelayLocal is where the relay has its metrics, health and dump (http).
	RelayLocal string
	// PebbleACME and PebbleManagement are the ACME server's directory endpoint
	// (https://…/dir) and management interface (https://…/roots/0). Their
	// certificates come from the stack's CA, which Kubeconfig holds.
	PebbleACME, PebbleManagement string
	// Supervisor is the process, seen from outside, whose end ends the stack.
	Supervisor Process

	detached, temporary bool
	end                 func() error
}

// A Process is identified by its id and its start time in clock ticks since boot
// (field 22 of /proc/<pid>/stat), as ids are used again.
type Process struct {
	PID       int
	StartTime uint64
}

// endpoints names the ports inside the stack that are forwarded, with the field
// of a Stack that gets the outer address.
func endpoints(s *Stack, relay bool) []endpoint {
	list := []endpoint{{&s.APIServer, private + ":6443"}}
	if s.Level == Full {
		list = append(list,
			endpoint{&s.GatewayTLS, private + ":8443"},
			endpoint{&s.GatewayHTTP, private + ":8080"},
			endpoint{&s.EnvoyAdmin, "127.0.0.1:9901"},
			endpoint{&s.PebbleACME, pebbleACME},
			endpoint{&s.PebbleManagement, pebbleManagement},
		)
	}
	if relay {
		list = append(list, endpoint{&s.RelayLocal, relayLocal})
	}
	return list
}

type endpoint struct {
	outer *string
	inner string
}

// RESTConfig returns a client configuration of group system:masters without a
// client-side rate limit.
func (s *Stack) RESTConfig() (*rest.Config, error) {
	config, err := clientcmd.BuildConfigFromFlags("", s.Kubeconfig)
	if err != nil {
		return nil, err
	}
	config.QPS = -1
	return config, nil
}

// Signal sends a signal to every process of a program of the stack, named as its
// file: etcd, kube-apiserver, kube-controller-manager, cert-manager-controller,
// cert-manager-webhook, knative-controller, knative-webhook, knative-autoscaler,
// kourier, envoy, pebble or certherd-relay. A program that ends is started again a second later;
// SIGSTOP and SIGCONT make one pause.
func (s *Stack) Signal(program string, signal syscall.Signal) error {
	pids, err := s.Processes(program)
	if err != nil {
		return err
	}
	for _, pid := range pids {
		if err := syscall.Kill(pid, signal); err != nil {
			return fmt.Errorf("signal %s: %w", program, err)
		}
	}
	if len(pids) == 0 {
		return fmt.Errorf("the stack runs no %s", program)
	}
	return nil
}

// Processes are the ids, as seen from outside, of a program of the stack, named as for
// Signal.
func (s *Stack) Processes(program string) ([]int, error) {
	namespace, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", s.Supervisor.PID))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNotRunning, err)
	}
	var pids []int
	links, err := filepath.Glob("/proc/[0-9]*/ns/pid")
	if err != nil {
		return nil, err
	}
	for _, link := range links {
		// Processes of other users, and those that have just ended, cannot be read.
		if target, err := os.Readlink(link); err != nil || target != namespace {
			continue
		}
		process := filepath.Dir(filepath.Dir(link))
		if file, err := os.Readlink(filepath.Join(process, "exe")); err != nil || filepath.Base(file) != program {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(process))
		if err != nil {
			return nil, err
		}
		pids = append(pids, pid)
	}
	return pids, nil
}

// Environ returns the environment by which `stack run` and `stack up` tell other
// programs where things are: KUBECONFIG and CERTHERD_STACK_* variables.
func (s *Stack) Environ() []string {
	environ := []string{"KUBECONFIG=" + s.Kubeconfig}
	for _, variable := range []struct{ name, value string }{
		{"DIR", s.Dir}, {"LOG_DIR", s.LogDir}, {"AUDIT_LOG", s.AuditLog},
		{"GATEWAY_TLS", s.GatewayTLS}, {"GATEWAY_HTTP", s.GatewayHTTP}, {"ENVOY_ADMIN", s.EnvoyAdmin},
		{"RELAY_LOCAL", s.RelayLocal}, {"PEBBLE_ACME", s.PebbleACME}, {"PEBBLE_MANAGEMENT", s.PebbleManagement},
	} {
		if variable.value != "" {
			environ = append(environ, "CERTHERD_STACK_"+variable.name+"="+variable.value)
		}
	}
	return environ
}

// stateFile is written once a stack is ready.
const stateFile = "stack.json"

// ErrNotRunning is what Load returns for a folder without a running stack.
var ErrNotRunning = errors.New("no stack is running")

// Load finds the stack that another process started in dir.
func Load(dir string) (*Stack, error) {
	content, err := os.ReadFile(filepath.Join(dir, stateFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w in %s", ErrNotRunning, dir)
	}
	if err != nil {
		return nil, err
	}
	s := &Stack{detached: true}
	if err := json.Unmarshal(content, s); err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Join(dir, stateFile), err)
	}
	if !s.Supervisor.alive() {
		return nil, fmt.Errorf("%w in %s any more (process %d has ended)", ErrNotRunning, dir, s.Supervisor.PID)
	}
	s.end = s.Supervisor.terminate
	return s, nil
}

// Stop ends every process of the stack and, when Start made Dir itself, removes
// it. Once it returns, the stack's processes, namespaces and ports are gone.
func (s *Stack) Stop() error {
	if err := s.end(); err != nil {
		return err
	}
	if s.temporary {
		return os.RemoveAll(s.Dir)
	}
	return os.Remove(filepath.Join(s.Dir, stateFile))
}
