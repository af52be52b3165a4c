// Command demo is what `make demo` runs: it starts a real cluster, makes the
// mess that years of use leave behind, audits it with certherd under an account
// that may list and nothing else, and then has certherd clear it up, as two replicas
// with the rights of their manifests. Ctrl-C ends it and takes everything away.
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/certherd/certherd/e2e/scenario"
	"github.com/certherd/certherd/e2e/stack"
)

func main() {
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer cancel()
	d := demo{out: os.Stdout, progress: os.Stderr}
	flag.StringVar(&d.certherd, "certherd", "bin/certherd", "the program to show")
	flag.StringVar(&d.dir, "out", "out/demo", "folder for the reports and the cluster's state")
	flag.StringVar(&d.manifests, "manifests", "manifests", "folder of the kustomize folders")
	flag.BoolVar(&d.auditOnly, "audit-only", false, "change nothing: end after the audit")
	flag.BoolVar(&d.keep, "keep", false, "leave the cluster running, and use it again next time")
	flag.BoolVar(&d.end, "end", false, "end a cluster that was left running")
	flag.Parse()
	if err := d.run(ctx); err != nil {
		if ctx.Err() != nil {
			err = errors.New("interrupted; everything that was started has ended")
		}
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

type demo struct {
	certherd, dir, manifests string
	keep, end, auditOnly     bool
	out, progress            io.Writer
}

func (d *demo) path(name string) string { return filepath.Join(d.dir, name) }

func (d *demo) run(ctx context.Context) (err error) {
	begun := time.Now()
	running, err := stack.Load(d.path("cluster"))
	if err != nil && !errors.Is(err, stack.ErrNotRunning) {
		return err
	}
	if d.end {
		if running == nil {
			return errors.New("no cluster was left running")
		}
		return stack.Remove(running.Dir)
	}
	if _, err := os.Stat(d.certherd); err != nil {
		return fmt.Errorf("%w; build it with `make build`, or name it with -certherd", err)
	}
	if err := os.MkdirAll(d.dir, 0o755); err != nil {
		return err
	}
	if running == nil {
		if running, err = d.start(ctx); err != nil {
			return err
		}
	} else {
		fmt.Fprintln(d.progress, "demo: using the cluster that was left running")
		d.keep = true
	}
	audited := false
	defer func() {
		// A cluster that was not made in full is of no use to anybody.
		if !d.keep || !audited {
			os.Remove(d.path("kubeconfig"))
			err = errors.Join(err, end(running))
		}
	}()
	account, err := d.account(ctx, running)
	if err != nil {
		return err
	}
	if err := d.audit(ctx, account); err != nil {
		return err
	}
	audited = true
	if !d.auditOnly {
		if err := d.clear(ctx, running, account); err != nil {
			return err
		}
	}
	d.farewell(running, account, time.Since(begun))
	return nil
}

// start starts a cluster and makes the mess.
func (d *demo) start(ctx context.Context) (*stack.Stack, error) {
	s, err := stack.Start(ctx, stack.Options{Level: stack.Full, Dir: d.path("cluster"), Detached: d.keep, Out: d.progress})
	if err != nil {
		if ctx.Err() != nil { // otherwise its logs say why it did not start
			err = errors.Join(err, stack.Remove(d.path("cluster")))
		}
		return nil, err
	}
	config, err := s.RESTConfig()
	if err == nil {
		_, err = scenario.Mess(ctx, config, stack.Domain, d.progress)
	}
	if err != nil {
		return nil, errors.Join(err, end(s))
	}
	return s, nil
}

// end ends a cluster and removes its state.
func end(s *stack.Stack) error { return errors.Join(s.Stop(), stack.Remove(s.Dir)) }

// account installs the account that the audit runs as, and returns the path of
// its kubeconfig.
func (d *demo) account(ctx context.Context, s *stack.Stack) (string, error) {
	config, err := s.RESTConfig()
	if err != nil {
		return "", err
	}
	cluster, err := scenario.Connect(config, d.progress)
	if err != nil {
		return "", err
	}
	if err := cluster.Install(ctx, filepath.Join(d.manifests, "cli")); err != nil {
		return "", err
	}
	path := d.path("kubeconfig")
	return path, cluster.ServiceAccount(ctx, config, "certherd", "certherd-cli", path)
}

// audit runs certherd in each form that is worth showing. What is minutes old
// is not judged unless it is asked for, and here everything is.
func (d *demo) audit(ctx context.Context, kubeconfig string) error {
	now := []string{"--min-age", "0s", "--request-age", "0s"}
	for _, form := range []struct {
		file string
		args []string
	}{
		{"", append([]string{"audit", "--kubeconfig", kubeconfig}, now...)},
		{"report.html", append([]string{"audit", "--kubeconfig", kubeconfig, "-o", "html"}, now...)},
		{"report.json", append([]string{"audit", "--kubeconfig", kubeconfig, "-o", "json"}, now...)},
		{"dump.tar.gz", []string{"dump", "--kubeconfig", kubeconfig, "--output", d.path("dump.tar.gz")}},
	} {
		fmt.Fprintf(d.progress, "demo: certherd %s\n", strings.Join(form.args, " "))
		begun := time.Now()
		command := exec.CommandContext(ctx, d.certherd, form.args...)
		var written bytes.Buffer
		command.Stdout, command.Stderr = &written, d.progress
		if form.file == "" {
			command.Stdout = d.out // a terminal gets colours and its width
		}
		if err := command.Run(); err != nil {
			return fmt.Errorf("certherd %s: %w", form.args[0], err)
		}
		fmt.Fprintf(d.progress, "demo: that took %.1f s\n", time.Since(begun).Seconds())
		if strings.HasPrefix(form.file, "report.") {
			if err := os.WriteFile(d.path(form.file), written.Bytes(), 0o644); err != nil {
				return err
			}
		}
	}
	return nil
}

func (d *demo) farewell(s *stack.Stack, kubeconfig string, took time.Duration) {
	fmt.Fprintf(d.out, `
%s       the same as a page: open it in a browser
%s       the same for programs
%s       all of it without keys: look again, without a cluster, with

  %s audit --min-age 0s --request-age 0s -f %[3]s
`, d.path("report.html"), d.path("report.json"), d.path("dump.tar.gz"), d.certherd)
	if !d.auditOnly {
		fmt.Fprintf(d.out, "\n%s what certherd did about it: the gateway before and after\n", d.path(clearedPage))
	}
	if d.keep {
		fmt.Fprintf(d.out, `
The cluster is still there. Look around, break something, and audit it again:

  export KUBECONFIG=%s
  %s audit --min-age 0s --request-age 0s --kubeconfig %s
  go run ./e2e/demo -end
`, s.Kubeconfig, d.certherd, kubeconfig)
	}
	fmt.Fprintf(d.progress, "demo: done after %.0f s\n", took.Seconds())
}
