package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
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
	"github.com/certherd/certherd/report"
)

func historyCommand() *cobra.Command {
	var (
		s         source
		namespace string
		out       output
		again     watch
	)
	c := &cobra.Command{
		Use:   "history [KIND/NAMESPACE/NAME | ROUND]",
		Short: "Show what certherd has done",
		Long: `history shows certherd's journal: what was retired, deleted and taken back, when, why, and in which
round; and who has approved, rejected or taken back what, when, and for which reason. There is no key in it.

-o json and -o yaml write a list of entries, each with the manifest by which certherd undo makes a thing again, and
-o jsonpath= takes kubectl's templates of that list. -o name writes the objects as kubectl does, without their
namespaces; -o wide adds their UIDs and when each entry ended. With --watch what is new or has changed is
written as it comes, in a list of its own.

The journal is kept in ConfigMaps of certherd's namespace (label certherd.dev/journal), for the time that
the configuration says.`,
		Example: `  # All of it, one object, one Consolidation, one round
  certherd history
  certherd history certificate/team-a/web
  certherd history consolidation/shop/wildcard-shop-example-com-6e331a74
  certherd history 20261123-124640-3fa9c2 -o json

  # As it comes
  certherd history --watch

  # The rounds in which something was taken away, newest last
  certherd history -o jsonpath='{range [?(@.action=="delete")]}{.time}{"\t"}{.round}{"\t"}{.object.namespace}/{.object.name}{"\n"}{end}'`,
		Args: cobra.MaximumNArgs(1),
	}
	s.clusterFlags(c, &namespace)
	out.flag(c, "table", "table", "wide", "json", "yaml", "name", jsonPathOutput)
	again.flags(c, 5*time.Second, "what is new or has changed")
	c.ValidArgsFunction = completeJournal(&s, &namespace)
	c.RunE = func(c *cobra.Command, args []string) error {
		if err := errors.Join(out.check(), again.check()); err != nil {
			return err
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
		told, empty, header := map[string][]byte{}, false, true
		return again.run(c, func() error {
			entries, err := j.Entries(c.Context())
			if err != nil {
				return err
			}
			entries = slices.DeleteFunc(entries, func(e apply.Entry) bool {
				return round != "" && e.Round != round || !ref.IsZero() && e.Object.Ref() != ref
			})
			if len(entries) == 0 && header && !empty {
				empty = true
				fmt.Fprintf(c.ErrOrStderr(), "certherd: the journal in namespace %s has nothing about that; perhaps certherd runs in another --certherd-namespace\n", namespace)
			}
			if again.on {
				if entries, err = untold(told, entries); err != nil || len(entries) == 0 {
					return err
				}
			}
			withHeader := header && len(entries) > 0
			header = header && len(entries) == 0
			return writeHistory(c.OutOrStdout(), &out, entries, withHeader)
		})
	}
	return c
}

// untold are the entries that are new, or not as they were told before.
func untold(told map[string][]byte, entries []apply.Entry) ([]apply.Entry, error) {
	var fresh []apply.Entry
	for _, e := range entries {
		now, err := json.Marshal(e)
		if err != nil {
			return nil, err
		}
		if !bytes.Equal(told[e.ID], now) {
			told[e.ID] = now
			fresh = append(fresh, e)
		}
	}
	return fresh, nil
}

// completeJournal offers the objects and the rounds of the journal, the newest first.
func completeJournal(s *source, namespace *string) cobra.CompletionFunc {
	return func(c *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		ctx, cancel := context.WithTimeout(c.Context(), completionTime)
		defer cancel()
		cfg, err := s.config()
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		j, err := apply.OpenJournal(cfg, *namespace)
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		entries, err := j.Entries(ctx)
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		var names []string
		offered := map[string]bool{"": true}
		offer := func(name, what string) {
			if !offered[name] {
				offered[name] = true
				names = append(names, cobra.CompletionWithDesc(name, what))
			}
		}
		slices.Reverse(entries)
		for _, e := range entries {
			at := e.Time.Local().Format(time.DateTime)
			if ref := e.Object.Ref(); !ref.IsZero() {
				kind, rest, _ := strings.Cut(ref.String(), "/")
				offer(strings.ToLower(kind)+"/"+rest, string(e.Action)+" "+at)
			}
			offer(e.Round, at)
		}
		return names, cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveKeepOrder
	}
}

// writeHistory writes entries in a format of history; header is for a table.
func writeHistory(w io.Writer, out *output, entries []apply.Entry, header bool) error {
	if entries == nil {
		entries = []apply.Entry{}
	}
	if written, err := out.document(w, entries); written || err != nil {
		return err
	}
	if out.format == "name" {
		var refs []report.Ref
		for _, e := range entries {
			if ref := e.Object.Ref(); !ref.IsZero() {
				refs = append(refs, report.Ref(ref))
			}
		}
		return writeNames(w, refs)
	}
	wide := out.format == "wide"
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	if header {
		fmt.Fprint(t, "TIME\tROUND\tACTION\tOBJECT\tSTATE\t")
		if wide {
			fmt.Fprint(t, "ENDED\tUID\t")
		}
		fmt.Fprintln(t, "WHY")
	}
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
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t", e.Time.Local().Format(time.DateTime), e.Round, e.Action, object, e.State)
		if wide {
			ended := "-"
			if e.Ended != nil {
				ended = e.Ended.Local().Format(time.DateTime)
			}
			fmt.Fprintf(t, "%s\t%s\t", ended, cmp.Or(e.UID, "-"))
		}
		fmt.Fprintln(t, why)
	}
	return t.Flush()
}
