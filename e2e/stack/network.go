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

// forward accepts on an inherited listener of the outer network namespace and
// passes each connection on to an address inside.
func forward(file *os.File, inner string) error {
	listener, err := net.FileListener(file)
	file.Close()
	if err != nil {
		return err
	}
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
	return nil
}

func relay(outer *net.TCPConn, address string) {
	defer outer.Close()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		// A reset, as from a closed port, rather than an orderly end.
		outer.SetLinger(0)
		return
	}
	inner := conn.(*net.TCPConn)
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
func copyHalf(to, from *net.TCPConn) {
	if _, err := io.Copy(to, from); err != nil {
		to.SetLinger(0)
		to.Close()
		from.SetLinger(0)
		from.Close()
		return
	}
	to.CloseWrite()
}
