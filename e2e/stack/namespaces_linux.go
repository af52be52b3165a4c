package stack

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// namespaces asks for new PID, network and mount namespaces for a process, and for
// a user namespace when the caller is not root.
func namespaces() (*syscall.SysProcAttr, error) {
	attributes := &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWPID | syscall.CLONE_NEWNS,
		// A session of its own: Ctrl-C reaches it through the lifeline alone.
		Setsid: true,
	}
	if os.Geteuid() != 0 {
		attributes.Cloneflags |= syscall.CLONE_NEWUSER
		attributes.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}}
		attributes.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}
	}
	return attributes, nil
}

// isolate sets up the namespaces that the supervisor was started in.
func (s *supervisor) isolate() error {
	if err := Loopback(); err != nil {
		return needsNamespaces(err, s.Root)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return needsNamespaces(fmt.Errorf("make mounts private: %w", err), s.Root)
	}
	// All names are answered by the stack's own name server.
	resolver := filepath.Join(s.Dir, "resolv.conf")
	if err := os.WriteFile(resolver, []byte("nameserver "+private+"\noptions ndots:1\n"), 0o644); err != nil {
		return err
	}
	if err := unix.Mount(resolver, "/etc/resolv.conf", "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("bind %s over /etc/resolv.conf: %w", resolver, err)
	}
	return nil
}

// Loopback brings up lo in a new network namespace of the caller, with 127.0.0.1
// and the address that everything in a stack has; those around it lead there, too.
func Loopback() error {
	socket, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(socket)
	for _, step := range []struct {
		device  string
		request uint
		set     func(*unix.Ifreq) error
	}{
		{"lo", unix.SIOCSIFFLAGS, func(r *unix.Ifreq) error { r.SetUint16(unix.IFF_UP | unix.IFF_RUNNING); return nil }},
		{"lo:0", unix.SIOCSIFADDR, func(r *unix.Ifreq) error { return r.SetInet4Addr(net.ParseIP(private).To4()) }},
		{"lo:0", unix.SIOCSIFNETMASK, func(r *unix.Ifreq) error { return r.SetInet4Addr(net.IPv4(255, 255, 255, 0).To4()) }},
	} {
		request, err := unix.NewIfreq(step.device)
		if err == nil {
			err = step.set(request)
		}
		if err == nil {
			err = unix.IoctlIfreq(socket, step.request, request)
		}
		if err != nil {
			return fmt.Errorf("configure %s: %w", step.device, err)
		}
	}
	return nil
}

// network is a network namespace within the stack.
type network struct {
	work   chan func()
	closed chan struct{}
}

// newNetwork makes one, with 127.0.0.1 and the address that everything has.
func newNetwork() (*network, error) {
	n := &network{make(chan func()), make(chan struct{})}
	made := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			err = Loopback()
		}
		made <- err
		if err != nil {
			return
		}
		for {
			select {
			case f := <-n.work:
				f()
			case <-n.closed:
				return
			}
		}
	}()
	if err := <-made; err != nil {
		return nil, fmt.Errorf("make a network for a pod: %w", err)
	}
	return n, nil
}

// do calls f on the network's thread: sockets and processes that f makes are in
// the network, and stay there. The error is f's.
func (n *network) do(f func() error) error {
	done := make(chan error)
	select {
	case n.work <- func() { done <- f() }:
		return <-done
	case <-n.closed:
		return net.ErrClosed
	}
}

// close ends the network once nothing is in it any more.
func (n *network) close() { close(n.closed) }

// needsNamespaces explains why the namespaces could not be made or set up by the
// user who started the stack.
func needsNamespaces(err error, root bool) error {
	if !errors.Is(err, syscall.EPERM) && !errors.Is(err, syscall.ENOSPC) && !errors.Is(err, syscall.EINVAL) && !errors.Is(err, syscall.EACCES) {
		return err
	}
	if root {
		return fmt.Errorf("the stack runs in network, PID and mount namespaces of its own; root may not make them here, "+
			"so this is a container without CAP_SYS_ADMIN: give it that capability, or run outside of it (%w)", err)
	}
	return fmt.Errorf("the stack runs in network, PID and mount namespaces of its own. That needs either root, or unprivileged user namespaces, "+
		"which this system does not allow: set user.max_user_namespaces above 0, kernel.unprivileged_userns_clone to 1 and "+
		"kernel.apparmor_restrict_unprivileged_userns to 0 where these sysctls exist (%w)", err)
}
