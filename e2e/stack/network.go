package stack

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
)

// private is the address of everything in a stack. kube-apiserver refuses
// loopback addresses in Endpoints, so lo gets this one, too; it exists in the
// stack's own network namespace alone.
const private = "10.99.0.1"

// forward accepts on a listener of another network namespace and passes each
// connection on to an address of the stack's, until the listener is closed.
func forward(listener net.Listener, inner string) {
	go func() {
		for {
			outer, err := listener.Accept()
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err != nil {
				fmt.Fprintln(os.Stderr, "accept for", inner+":", err)
				continue
			}
			go relay(outer.(*net.TCPConn), inner)
		}
	}()
}

func relay(outer *net.TCPConn, address string) {
	conn, err := net.Dial("tcp", address)
	if err != nil {
		// A reset, as from a closed port, rather than an orderly end.
		breakOff(outer)
		return
	}
	join(outer, conn.(*net.TCPConn))
}

// stream is a connection of which one direction can end before the other.
type stream interface {
	net.Conn
	CloseWrite() error
}

// join copies between two connections until both directions have ended, and
// closes them.
func join(outer, inner stream) {
	defer outer.Close()
	defer inner.Close()
	back := make(chan struct{})
	go func() {
		defer close(back)
		copyHalf(outer, inner)
	}()
	copyHalf(inner, outer)
	<-back
}

// copyHalf copies one direction and passes its end on, so that half-closed
// connections work. A broken direction breaks both.
func copyHalf(to, from stream) {
	if _, err := io.Copy(to, from); err != nil {
		breakOff(to)
		breakOff(from)
		return
	}
	to.CloseWrite()
}

// breakOff closes a connection, by a reset where there is one.
func breakOff(c stream) {
	if tcp, ok := c.(*net.TCPConn); ok {
		tcp.SetLinger(0)
	}
	c.Close()
}
