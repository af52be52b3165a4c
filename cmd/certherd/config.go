package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/certherd/certherd/config"
	"github.com/certherd/certherd/gate"
)

func configCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "config",
		Short: "Check and explain the configuration of `certherd run`",
		Long: `The configuration is the key config.yaml of the ConfigMap certherd. docs/configuration.md explains it.
These commands read files, and need no cluster.`,
		Args: cobra.NoArgs,
	}
	c.AddCommand(configCheckCommand(), configExplainCommand(), configDefaultCommand())
	return c
}

const filenameUsage = "config.yaml, or the manifest of the ConfigMap that holds it; - for standard input"

func configCheckCommand() *cobra.Command {
	var file string
	c := &cobra.Command{
		Use:   "check -f FILE",
		Short: "Say everything that is wrong with a configuration, with file and line",
		Long: `check reads a config.yaml, or the manifest of the ConfigMap that holds one, and says everything that is wrong with it.

Exit codes: 0 fine, 1 something is wrong.`,
		Example: `  certherd config check -f config.yaml
  kubectl get configmap certherd -n certherd -o yaml | certherd config check -f -`,
		Args: cobra.NoArgs,
	}
	c.Flags().StringVarP(&file, "filename", "f", "", filenameUsage)
	_ = c.MarkFlagRequired("filename")
	c.RunE = func(c *cobra.Command, _ []string) error {
		x, err := readConfig(file, c.InOrStdin(), c.ErrOrStderr())
		if err != nil {
			return err
		}
		fmt.Fprintf(c.OutOrStdout(), "%s is right:", shown(file))
		rules := x.Rules()
		for i, name := range gate.Rules() {
			if i > 0 {
				fmt.Fprint(c.OutOrStdout(), ",")
			}
			fmt.Fprintf(c.OutOrStdout(), " %s %s", name, rules[name].Mode)
		}
		fmt.Fprintln(c.OutOrStdout())
		return nil
	}
	return c
}

func configExplainCommand() *cobra.Command {
	var (
		file, at string
		rounds   int
	)
	c := &cobra.Command{
		Use:   "explain",
		Short: "Say in words when the next rounds are and what they may do",
		Long: `explain reads a config.yaml, or the manifest of the ConfigMap that holds one, and says in words when the next
rounds of each rule are, what they may do, and when its windows open and close. Without a file it explains what
holds when nothing is configured.`,
		Example: `  certherd config explain -f config.yaml
  certherd config explain -f config.yaml --at 2027-03-28T00:00:00+01:00 --rounds 10`,
		Args: cobra.NoArgs,
	}
	c.Flags().StringVarP(&file, "filename", "f", "", filenameUsage)
	c.Flags().StringVar(&at, "at", "", "explain from this time on (RFC 3339, for example 2027-03-28T00:00:00Z) and not from now on")
	c.Flags().IntVar(&rounds, "rounds", 5, "how many rounds of each rule to show, up to 1000")
	c.RunE = func(c *cobra.Command, _ []string) error {
		if rounds < 1 || rounds > 1000 {
			return fmt.Errorf("cannot show %d rounds: use --rounds with 1 to 1000", rounds)
		}
		from := time.Now()
		if at != "" {
			var err error
			if from, err = time.Parse(time.RFC3339, at); err != nil {
				return fmt.Errorf("--at %q is no time: write it like 2027-03-28T00:00:00Z or 2027-03-28T00:00:00+01:00", at)
			}
		}
		x := config.Default()
		if file != "" {
			var err error
			if x, err = readConfig(file, c.InOrStdin(), c.ErrOrStderr()); err != nil {
				return err
			}
		}
		_, err := fmt.Fprint(c.OutOrStdout(), x.Explain(from, rounds))
		return err
	}
	return c
}

func configDefaultCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "default",
		Short:   "Print every key with its default, as a file to begin with",
		Example: `  certherd config default > config.yaml`,
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			_, err := c.OutOrStdout().Write(config.DefaultFile())
			return err
		},
	}
}

// shown is how a file is called in messages.
func shown(file string) string {
	if file == "-" {
		return "standard input"
	}
	return file
}

// readConfig reads a file and writes everything that is wrong with it to
// stderr, a line each: file:line: what.
func readConfig(name string, stdin io.Reader, stderr io.Writer) (config.Config, error) {
	read := func() ([]byte, error) { return os.ReadFile(name) }
	if name == "-" {
		read = func() ([]byte, error) { return io.ReadAll(stdin) }
	}
	name = shown(name)
	file, err := read()
	if err != nil {
		return config.Config{}, fmt.Errorf("cannot read the configuration: %w", err)
	}
	x, err := config.ParseFile(file)
	var wrong config.Errors
	if !errors.As(err, &wrong) {
		return x, err
	}
	for _, e := range wrong {
		place := name
		if e.Line > 0 {
			place = fmt.Sprintf("%s:%d", name, e.Line)
		}
		e.Line = 0
		fmt.Fprintf(stderr, "%s: %s\n", place, e)
	}
	if len(wrong) == 1 {
		return config.Config{}, fmt.Errorf("there is 1 error in %s", name)
	}
	return config.Config{}, fmt.Errorf("there are %d errors in %s", len(wrong), name)
}
