// Command certherd shows which TLS certificates of a cluster nobody needs, what
// they cost the gateway, and which could become one wildcard.
//
// This package is flags and wiring; it decides nothing.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	_ "golang.org/x/crypto/x509roots/fallback" // an image from scratch has no roots of its own
)

// The exit codes, as docs/report.md lists them.
const (
	exitFailed   = 1 // it could not be done
	exitFindings = 2 // --fail-on matched
	exitUnsteady = 3 // wait has waited in vain
)

// foundError ends the program with exitFindings: the audit worked, and found
// what --fail-on asks for.
type foundError struct{ n int }

func (e foundError) Error() string { return fmt.Sprintf("%d findings match --fail-on", e.n) }

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args))
}

func run(ctx context.Context, args []string) int {
	root := rootCommand(filepath.Base(args[0]))
	root.SetArgs(args[1:])
	err := root.ExecuteContext(ctx)
	var found foundError
	var unsteady unsteadyError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &found):
		fmt.Fprintln(os.Stderr, "certherd: "+err.Error())
		return exitFindings
	case errors.As(err, &unsteady):
		fmt.Fprintln(os.Stderr, "certherd: "+err.Error())
		return exitUnsteady
	case ctx.Err() != nil:
		fmt.Fprintln(os.Stderr, "certherd: interrupted")
		return exitFailed
	}
	fmt.Fprintln(os.Stderr, "certherd: "+err.Error())
	return exitFailed
}

func rootCommand(binary string) *cobra.Command {
	name := "certherd"
	root := &cobra.Command{
		Use:   name,
		Short: "Keeps a cluster's TLS certificates few and its gateway calm",
		Long: `certherd finds orphaned, duplicate and superseded TLS certificates, says what they
cost the gateway, and which of them one wildcard could replace.

All but 'run', 'approve', 'reject', 'renew' and 'undo' change nothing in the cluster, and 'run' changes nothing unless its
configuration says so.`,
		Example: `  # What is there to clean up?
  certherd audit

  # The same from a dump, without a cluster
  certherd audit -f examples/knative-mess

  # Why does it say so?
  certherd explain secret/team-a/web-tls`,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	if strings.HasPrefix(binary, "kubectl-") {
		// kubectl runs a plugin as kubectl-certherd and wants to be named itself.
		root.Annotations = map[string]string{cobra.CommandDisplayNameAnnotation: "kubectl certherd"}
		root.Example = strings.ReplaceAll(root.Example, "  certherd ", "  kubectl certherd ")
	}
	root.AddCommand(auditCommand(), explainCommand(), dumpCommand(), configCommand(), runCommand(), approveCommand(), historyCommand(), undoCommand(), planCommand(), rejectCommand(), renewCommand(), relayCommand(), simulateCommand(), waitCommand(), versionCommand())
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return fmt.Errorf("%w\nSee '%s --help'", err, c.CommandPath())
	})
	return root
}
