//go:build !linux

package stack

import (
	"errors"
	"syscall"
)

var errLinux = errors.New("the stack needs the namespaces of Linux; on other systems run it in a virtual machine")

func namespaces() (*syscall.SysProcAttr, error) { return nil, errLinux }

func (s *supervisor) isolate() error { return errLinux }

func needsNamespaces(err error, _ bool) error { return err }

// Loopback needs Linux.
func Loopback() error { return errLinux }

type network struct{}

func newNetwork() (*network, error)    { return nil, errLinux }
func (*network) do(func() error) error { return errLinux }
func (*network) close()                {}
