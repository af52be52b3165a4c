package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/certherd/certherd/inventory/dump"
)

func dumpCommand() *cobra.Command {
	var (
		s   source
		out string
	)
	c := &cobra.Command{
		Use:   "dump",
		Short: "Write everything that the audit looks at, without keys, into one archive",
		Long: `dump writes a .tar.gz from which 'certherd audit -f' gives the same report as from the cluster. It
holds no private key and no other content of Secrets, and of objects that only
mention a certificate nothing but that they do, so that it can be sent with a bug report. See docs/dump.md.`,
		Example: `  certherd dump --output cluster.tar.gz
  certherd audit -f cluster.tar.gz

  # Make one of ours, without keys, from what somebody else has dumped
  certherd dump -f must-gather/ --output small.tar.gz`,
		Args: cobra.NoArgs,
	}
	s.flags(c)
	c.Flags().StringVarP(&out, "output", "o", "", "file to write; standard output if none is given")
	c.RunE = func(c *cobra.Command, _ []string) (err error) {
		w := c.OutOrStdout()
		if out == "" {
			if f, ok := w.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
				return errors.New("this is an archive, not for a terminal: use --output FILE")
			}
		} else {
			// Nothing that is there is lost when the look fails: the archive gets
			// its name when it is whole.
			f, err := os.CreateTemp(".", ".certherd-dump-*")
			if err != nil {
				return fmt.Errorf("cannot write the dump: %w", err)
			}
			defer os.Remove(f.Name())
			defer func() {
				if e := f.Close(); err == nil {
					err = e
				}
				if err == nil {
					err = os.Rename(f.Name(), out)
				}
			}()
			w = f
		}
		d := dump.NewWriter(w)
		snapshot, err := s.look(c.Context(), c.ErrOrStderr(), d.Object)
		if err != nil {
			return err
		}
		return d.Close(snapshot)
	}
	return c
}
