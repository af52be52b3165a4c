package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"

	"github.com/spf13/cobra"
)

const relayProgram = "certherd-relay"

// relayCommand becomes the program certherd-relay, which has what an audit must
// not carry: the xDS libraries.
func relayCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "relay",
		Short: "Relay xDS between Kourier's controller and its gateways (runs certherd-relay)",
		Long: `relay runs the program certherd-relay, which must be in the same folder as certherd, or in PATH,
with all that follows. See 'certherd relay --help' for its own help, and docs/relay.md.`,
		Example: `  # Beside Kourier in a cluster
  certherd relay --upstream net-kourier-controller.knative-serving:18000

  # What it has and what it hands out, without keys
  certherd relay dump`,
		DisableFlagParsing: true,
		RunE: func(_ *cobra.Command, args []string) error {
			program, err := findRelay()
			if err != nil {
				return err
			}
			return fmt.Errorf("cannot run %s: %w", program, syscall.Exec(program, append([]string{relayProgram}, args...), os.Environ()))
		},
	}
}

// findRelay looks beside this program, then in PATH.
func findRelay() (string, error) {
	if self, err := os.Executable(); err == nil {
		if self, err = filepath.EvalSymlinks(self); err == nil {
			beside := filepath.Join(filepath.Dir(self), relayProgram)
			if _, err := os.Stat(beside); err == nil {
				return beside, nil
			}
		}
	}
	program, err := exec.LookPath(relayProgram)
	if errors.Is(err, exec.ErrNotFound) {
		return "", fmt.Errorf("%s is not installed: put it beside certherd, or into PATH", relayProgram)
	}
	return program, err
}
