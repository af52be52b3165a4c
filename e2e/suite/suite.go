// Package suite has what all tests of one package share: a stack, a folder, and
// programs of this module. It takes all of it away when they have ended.
package suite

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"github.com/certherd/certherd/e2e/stack"
)

var (
	mu       sync.Mutex
	folder   string
	programs = map[string]func() error{}
	ends     []func() error
)

// Run runs the tests of a package, and ends what they have shared. It belongs into
// TestMain, and returns what that exits with.
func Run(m *testing.M) (code int) {
	code = m.Run()
	mu.Lock()
	defer mu.Unlock()
	var errs []error
	for _, end := range ends {
		errs = append(errs, end())
	}
	if folder != "" {
		errs = append(errs, os.RemoveAll(folder))
	}
	if err := errors.Join(errs...); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return code
}

// Start starts a stack that lasts until the tests have ended, and tells its progress
// on standard error.
func Start(o stack.Options) (*stack.Stack, error) {
	o.Out = os.Stderr
	s, err := stack.Start(context.Background(), o)
	if err != nil {
		return nil, err
	}
	mu.Lock()
	defer mu.Unlock()
	ends = append(ends, s.Stop)
	return s, nil
}

// Folder returns the path of a folder that lasts as long.
func Folder() (string, error) {
	mu.Lock()
	defer mu.Unlock()
	if folder != "" {
		return folder, nil
	}
	var err error
	folder, err = os.MkdirTemp("", "certherd-e2e-")
	return folder, err
}

// Program builds a program of this module's cmd, once, and returns its path.
func Program(name string) (string, error) {
	dir, err := Folder()
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, name)
	mu.Lock()
	build := programs[name]
	if build == nil {
		build = sync.OnceValue(func() error {
			if out, err := exec.Command("go", "build", "-o", path, "github.com/certherd/certherd/cmd/"+name).CombinedOutput(); err != nil {
				return fmt.Errorf("build %s: %w\n%s", name, err, out)
			}
			return nil
		})
		programs[name] = build
	}
	mu.Unlock()
	return path, build()
}
