package main

import (
	"errors"
	"fmt"
	"slices"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"

	"github.com/certherd/certherd/consolidate"
	"github.com/certherd/certherd/controller"
)

func planCommand() *cobra.Command {
	var (
		s      source
		o      controller.Options
		format string
		all    bool
	)
	c := &cobra.Command{
		Use:   "plan",
		Short: "Show what would be consolidated, as objects or as patches",
		Long: `plan shows the wildcards that would be proposed, and writes nothing to the cluster.

  -o yaml   the Consolidations, as certherd run would make them
  -o patch  the switches of what Argo CD, Flux, Helm or an applyset manages and would change back: a
            Component of kustomize, with the same for kubectl in its comments; with --all the switches of
            everything that names a Secret itself. Apply it once the wildcard's Secret is there.`,
		Example: `  # What would certherd propose?
  certherd plan

  # What has to be committed?
  certherd plan -o patch > components/wildcards/kustomization.yaml`,
		Args: cobra.NoArgs,
	}
	s.flags(c)
	deciding(c, &o)
	f := c.Flags()
	f.StringVarP(&format, "output", "o", "yaml", "format: yaml or patch")
	f.BoolVar(&all, "all", false, "with -o patch: also what nobody but certherd would change")
	_ = c.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{"yaml", "patch"}, cobra.ShellCompDirectiveNoFileComp))
	c.RunE = func(c *cobra.Command, _ []string) error {
		switch {
		case format != "yaml" && format != "patch":
			return fmt.Errorf("there is no format %q; use yaml or patch", format)
		case all && format != "patch":
			return errors.New("--all goes with -o patch")
		case s.selector != "":
			return errors.New("--selector does not go with plan: a proposal is about all certificates of a group")
		}
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
		if format == "patch" {
			out, err := consolidate.Patches(snapshot, proposals, all)
			if err != nil {
				return err
			}
			if len(out) == 0 {
				fmt.Fprintln(c.ErrOrStderr(), "certherd: there is nothing to patch")
			}
			_, err = c.OutOrStdout().Write(out)
			return err
		}
		if len(proposals) == 0 {
			fmt.Fprintln(c.ErrOrStderr(), "certherd: there is nothing to consolidate; certherd audit says why")
		}
		for _, p := range proposals {
			p.Consolidation.Spec.Revision = 1
			p.Consolidation.Status.Digest = p.Consolidation.Spec.Digest()
			u, err := p.Consolidation.ToUnstructured()
			if err != nil {
				return err
			}
			text, err := yaml.Marshal(u.Object)
			if err != nil {
				return err
			}
			if _, err := fmt.Fprintf(c.OutOrStdout(), "---\n%s", text); err != nil {
				return err
			}
		}
		return nil
	}
	return c
}
