package main

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/certherd/certherd/api/v1alpha1"
	"github.com/certherd/certherd/apply"
	"github.com/certherd/certherd/explain"
	"github.com/certherd/certherd/inventory"
)

func historyCommand() *cobra.Command {
	var (
		s         source
		namespace string
		format    string
	)
	c := &cobra.Command{
		Use:   "history [KIND/NAMESPACE/NAME | ROUND]",
		Short: "Show what certherd has done",
		Long: `history shows certherd's journal: what was retired, deleted and taken back, when, why, and in which
round; and who has approved, rejected or taken back what, when, and for which reason. With -o json it also has the manifests by which certherd undo makes things again. There is no
key in it.

The journal is kept in ConfigMaps of certherd's namespace (label certherd.dev/journal), for the time that
the configuration says.`,
		Example: `  certherd history
  certherd history certificate/team-a/web
  certherd history consolidation/shop/wildcard-shop-example-com-6e331a74
  certherd history 20261123-124640-3fa9c2 -o json`,
		Args: cobra.MaximumNArgs(1),
	}
	s.clusterFlags(c, &namespace)
	c.Flags().StringVarP(&format, "output", "o", "", "format: json, or none for a table")
	_ = c.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{"json"}, cobra.ShellCompDirectiveNoFileComp))
	c.RunE = func(c *cobra.Command, args []string) error {
		if format != "" && format != "json" {
			return fmt.Errorf("there is no format %q; use json, or none", format)
		}
		var ref inventory.Ref
		round := ""
		if len(args) == 1 {
			if round = args[0]; strings.Contains(round, "/") {
				var err error
				if name, ok := strings.CutPrefix(round, "consolidation/"); ok {
					namespace, name, _ := strings.Cut(name, "/")
					ref = inventory.Ref{Group: v1alpha1.Group, Kind: v1alpha1.Kind, Namespace: namespace, Name: name}
				} else if ref, err = explain.ParseRef(round); err != nil {
					return err
				}
				round = ""
			}
		}
		cfg, err := s.config()
		if err != nil {
			return err
		}
		j, err := apply.OpenJournal(cfg, namespace)
		if err != nil {
			return err
		}
		entries, err := j.Entries(c.Context())
		if err != nil {
			return err
		}
		entries = slices.DeleteFunc(entries, func(e apply.Entry) bool {
			return round != "" && e.Round != round || !ref.IsZero() && e.Object.Ref() != ref
		})
		if format == "json" {
			if entries == nil {
				entries = []apply.Entry{}
			}
			e := json.NewEncoder(c.OutOrStdout())
			e.SetIndent("", "  ")
			return e.Encode(entries)
		}
		if len(entries) == 0 {
			_, err := fmt.Fprintf(c.ErrOrStderr(), "certherd: the journal in namespace %s has nothing about that; perhaps certherd runs in another --certherd-namespace\n", namespace)
			return err
		}
		return historyTable(c.OutOrStdout(), entries)
	}
	return c
}

func historyTable(w io.Writer, entries []apply.Entry) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "TIME\tROUND\tACTION\tOBJECT\tSTATE\tWHY")
	for _, e := range entries {
		why := e.Message
		if e.Reason != "" {
			why = string(e.Reason) + ": " + why
		}
		if e.DeleteAfter != nil {
			why += "; kept until " + e.DeleteAfter.Local().Format(time.DateTime)
		}
		object := "-"
		if ref := e.Object.Ref(); !ref.IsZero() {
			object = ref.String()
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\n", e.Time.Local().Format(time.DateTime), e.Round, e.Action, object, e.State, why)
	}
	return t.Flush()
}
