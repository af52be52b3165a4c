package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/certherd/certherd/api/v1alpha1"
	"github.com/certherd/certherd/consolidate"
	"github.com/certherd/certherd/controller"
	"github.com/certherd/certherd/report"
)

func planCommand() *cobra.Command {
	var (
		s     source
		o     controller.Options
		out   output
		again watch
		all   bool
	)
	c := &cobra.Command{
		Use:   "plan",
		Short: "Show what would be consolidated, as objects or as patches",
		Long: `plan shows the wildcards that would be proposed, and writes nothing to the cluster.

  -o yaml   the Consolidations, as certherd run would make them; -o json and -o jsonpath= have the
            same in a List, as kubectl writes several objects
  -o table  one line for each; -o wide with its issuer, what it saves, and who has to switch what
  -o name   their names as kubectl writes them, without their namespaces
  -o patch  the switches of what Argo CD, Flux, Helm or an applyset manages and would change back: a
            Component of kustomize, with the same for kubectl in its comments; with --all the switches of
            everything that names a Secret itself. Apply it once the wildcard's Secret is there.`,
		Example: `  # What would certherd propose?
  certherd plan -o wide
  certherd plan -o yaml -n shop

  # What would be the hosts of each?
  certherd plan -o jsonpath='{range .items[*]}{.metadata.namespace}/{.metadata.name}{"\t"}{.spec.hosts}{"\n"}{end}'

  # Does what I change in the cluster change it?
  certherd plan --watch -o table

  # What has to be committed?
  certherd plan -o patch > components/wildcards/kustomization.yaml`,
		Args: cobra.NoArgs,
	}
	s.flags(c)
	deciding(c, &o)
	out.flag(c, "yaml", "yaml", "json", "table", "wide", "name", "patch", jsonPathOutput)
	again.flags(c, time.Minute, "the plan each time that it has changed")
	c.Flags().BoolVar(&all, "all", false, "with -o patch: also what nobody but certherd would change")
	c.RunE = func(c *cobra.Command, _ []string) error {
		if err := errors.Join(out.check(), again.check()); err != nil {
			return err
		}
		switch {
		case all && out.format != "patch":
			return errors.New("--all goes with -o patch")
		case s.selector != "":
			return errors.New("--selector does not go with plan: a proposal is about all certificates of a group")
		case again.on && (len(s.files) > 0 || out.format == "patch"):
			return errors.New("--watch does not go with -f and -o patch")
		}
		return again.run(c, func() error {
			snapshot, err := s.look(c.Context(), c.ErrOrStderr(), nil)
			if err != nil {
				return err
			}
			if _, _, err := controller.RunOnce(snapshot, o); err != nil {
				return fmt.Errorf("nothing is proposed, because it would not have been safe; please report this: %w", err)
			}
			proposals := consolidate.Proposals(snapshot, o.Consolidate)
			if spaces := s.namespaces(); len(spaces) > 0 {
				proposals = slices.DeleteFunc(proposals, func(p consolidate.Proposal) bool { return !slices.Contains(spaces, p.Consolidation.Namespace) })
			}
			if out.format == "patch" {
				text, err := consolidate.Patches(snapshot, proposals, all)
				if err != nil {
					return err
				}
				if len(text) == 0 {
					fmt.Fprintln(c.ErrOrStderr(), "certherd: there is nothing to patch")
				}
				_, err = c.OutOrStdout().Write(text)
				return err
			}
			planned := []*v1alpha1.Consolidation{}
			for _, p := range proposals {
				p.Consolidation.Spec.Revision = 1
				p.Consolidation.Status.Digest = p.Consolidation.Spec.Digest()
				planned = append(planned, p.Consolidation)
			}
			if again.on {
				if changed, err := again.changed(planned); !changed || err != nil {
					return err
				}
			}
			if len(planned) == 0 {
				fmt.Fprintln(c.ErrOrStderr(), "certherd: there is nothing to consolidate; certherd audit says why")
			}
			return writePlan(c.OutOrStdout(), &out, planned)
		})
	}
	return c
}

// writePlan writes Consolidations in a format of plan.
func writePlan(w io.Writer, out *output, planned []*v1alpha1.Consolidation) error {
	items := []any{}
	for _, x := range planned {
		u, err := x.ToUnstructured()
		if err != nil {
			return err
		}
		items = append(items, u.Object)
	}
	switch out.format {
	case "yaml":
		for _, x := range items {
			if _, err := out.document(w, x); err != nil {
				return err
			}
		}
		return nil
	case "name":
		var refs []report.Ref
		for _, x := range planned {
			refs = append(refs, report.Ref{Group: v1alpha1.Group, Kind: v1alpha1.Kind, Namespace: x.Namespace, Name: x.Name})
		}
		return writeNames(w, refs)
	case "table", "wide":
		return planTable(w, planned, out.format == "wide")
	}
	_, err := out.document(w, map[string]any{"apiVersion": "v1", "kind": "List", "metadata": map[string]any{}, "items": items})
	return err
}

func planTable(w io.Writer, planned []*v1alpha1.Consolidation, wide bool) error {
	if len(planned) == 0 {
		return nil
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprint(t, "NAMESPACE\tNAME\tWILDCARDS\tHOSTS\tCERTS\tPHASE")
	if wide {
		fmt.Fprint(t, "\tISSUER\tLOADED\tAFTER\tMIB\tMANUAL\tMESSAGE")
	}
	fmt.Fprintln(t)
	for _, x := range planned {
		fmt.Fprintf(t, "%s\t%s\t%s\t%d\t%d\t%s", x.Namespace, x.Name, strings.Join(x.Spec.Wildcards, ","), len(x.Spec.Hosts), len(x.Spec.Members), cmp.Or(x.Status.Phase, "-"))
		if wide {
			saved := cmp.Or(x.Status.Savings, &v1alpha1.Savings{})
			fmt.Fprintf(t, "\t%s/%s\t%d\t%d\t%s\t%s\t%s", x.Spec.IssuerRef.Kind, x.Spec.IssuerRef.Name, saved.CertificatesNow, saved.CertificatesAfter, cmp.Or(saved.MemoryMiB, "-"), cmp.Or(x.Spec.Manual, "-"), cmp.Or(x.Status.Message, "-"))
		}
		fmt.Fprintln(t)
	}
	return t.Flush()
}
