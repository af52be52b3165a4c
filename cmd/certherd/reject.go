package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/certherd/certherd/api/v1alpha1"
	"github.com/certherd/certherd/proposal"
)

func rejectCommand() *cobra.Command {
	var (
		s      source
		forget bool
		reason string
	)
	c := &cobra.Command{
		Use:   "reject NAMESPACE/NAME",
		Short: "Reject a Consolidation for good, or take a decision back",
		Long: `reject sets spec.rejected of a Consolidation: it is not carried out, and what is being carried out goes
back to the state before. It stays rejected, whatever changes.

--forget takes approval, rejection and undo back: it is then proposed again, and waits for a new decision.

reject acts with your own rights: it needs to get and patch consolidations.certherd.dev in the namespace.`,
		Example: `  # What is proposed?
  kubectl get consolidations -A

  certherd reject shop/wildcard-shop-example-com-6e331a74 --reason 'one key for all of it is too much'
  certherd reject --forget shop/wildcard-shop-example-com-6e331a74`,
		Args: cobra.ExactArgs(1),
	}
	s.loading = clientcmd.NewDefaultClientConfigLoadingRules()
	f := c.Flags()
	f.StringVar(&s.loading.ExplicitPath, "kubeconfig", "", "path of the kubeconfig file to use")
	names := clientcmd.RecommendedConfigOverrideFlags("")
	names.ContextOverrideFlags.Namespace.LongName = "" // objects are named in full
	clientcmd.BindOverrideFlags(&s.overrides, f, names)
	f.StringVar(&reason, "reason", "", "why, for the journal")
	f.BoolVar(&forget, "forget", false, "take approval, rejection and undo back")
	c.RunE = func(c *cobra.Command, args []string) error {
		cfg, err := s.config()
		if err != nil {
			return err
		}
		if forget {
			return decide(c, cfg, args[0], reason, (*proposal.Proposer).Forget, "undecided")
		}
		return decide(c, cfg, args[0], reason, (*proposal.Proposer).Reject, "rejected")
	}
	return c
}

// decide writes a person's decision about a Consolidation, named NAMESPACE/NAME,
// and says what comes of it.
func decide(c *cobra.Command, cfg *rest.Config, object, reason string, how func(*proposal.Proposer, context.Context, *v1alpha1.Consolidation, proposal.Author) (*v1alpha1.Consolidation, error), what string) error {
	p, err := proposal.New(cfg, proposal.Options{})
	if err != nil {
		return err
	}
	x, err := consolidationNamed(c.Context(), p, object)
	if err != nil {
		return err
	}
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return err
	}
	if _, err := how(p, c.Context(), x, proposal.Author{By: whoami(c.Context(), client), Reason: reason}); err != nil {
		return fmt.Errorf("cannot write Consolidation %s: %w", object, err)
	}
	_, err = fmt.Fprintf(c.OutOrStdout(), "%s: %s\n", object, what)
	return err
}

// consolidationNamed reads the Consolidation that an argument names, with or
// without its kind.
func consolidationNamed(ctx context.Context, p *proposal.Proposer, object string) (*v1alpha1.Consolidation, error) {
	namespace, name, ok := strings.Cut(strings.TrimPrefix(object, "consolidation/"), "/")
	if !ok || namespace == "" || name == "" || strings.Contains(name, "/") {
		return nil, fmt.Errorf("%q names no Consolidation: write NAMESPACE/NAME, as `kubectl get consolidations -A` shows them", object)
	}
	return p.Get(ctx, namespace, name)
}
