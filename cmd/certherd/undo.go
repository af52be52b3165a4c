package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/certherd/certherd/apply"
	"github.com/certherd/certherd/explain"
	"github.com/certherd/certherd/proposal"
)

// home is the namespace that certherd runs in unless it is told otherwise.
const home = "certherd"

// clusterFlags adds the flags by which kubectl finds a cluster, and the one that
// says where certherd runs in it.
func (s *source) clusterFlags(c *cobra.Command, namespace *string) {
	s.loading = clientcmd.NewDefaultClientConfigLoadingRules()
	f := c.Flags()
	f.StringVar(&s.loading.ExplicitPath, "kubeconfig", "", "path of the kubeconfig file to use")
	names := clientcmd.RecommendedConfigOverrideFlags("")
	names.ContextOverrideFlags.Namespace.LongName = "" // objects are named in full
	clientcmd.BindOverrideFlags(&s.overrides, f, names)
	f.StringVar(namespace, "certherd-namespace", home, "the namespace that certherd runs in, where its journal is")
}

func undoCommand() *cobra.Command {
	var (
		s         source
		namespace string
		optOut    bool
		reason    string
	)
	c := &cobra.Command{
		Use:   "undo KIND/NAMESPACE/NAME | ROUND",
		Short: "Take back what certherd has done to an object, or in a round",
		Long: `undo brings back what certherd has taken away:

  secret        the mark of a retired Secret goes; it will not be deleted
  certificate   a removed Certificate is made again as it was, and cert-manager goes on with the
                certificate that is still in its Secret, without ordering a new one
  kcertificate  the same for a Certificate of Knative
  consolidation what it has switched goes back to the certificates before; what was not begun is not

A ROUND is named as certherd history shows it, and is taken back as far as possible. A Secret that
was deleted after its grace period is gone for good.

What comes back is opted out with the annotation certherd.dev/ignore: "true", because the next round
would find it as unused as the last one did. Remove the annotation to let certherd decide again.

undo acts with your own rights: it needs to get and patch Secrets, to create Certificates, and to
write ConfigMaps in certherd's namespace.`,
		Example: `  certherd undo certificate/team-a/web
  certherd undo secret/team-a/web-tls
  certherd undo consolidation/shop/wildcard-shop-example-com-6e331a74
  certherd undo 20261123-124640-3fa9c2`,
		Args: cobra.ExactArgs(1),
	}
	s.clusterFlags(c, &namespace)
	c.Flags().BoolVar(&optOut, "opt-out", true, "annotate what comes back, so that certherd leaves it alone from now on")
	c.Flags().StringVar(&reason, "reason", "", "why a consolidation is taken back, for the journal")
	c.RunE = func(c *cobra.Command, args []string) error {
		cfg, err := s.config()
		if err != nil {
			return err
		}
		if name, ok := strings.CutPrefix(args[0], "consolidation/"); ok {
			return decide(c, cfg, name, reason, (*proposal.Proposer).Undo, "goes back to the state before")
		}
		u, err := apply.NewUndoer(cfg, namespace)
		if err != nil {
			return err
		}
		u.OptOut = optOut
		var done []apply.Undone
		if strings.Contains(args[0], "/") {
			ref, perr := explain.ParseRef(args[0])
			if perr != nil {
				return perr
			}
			done, err = u.Object(c.Context(), ref)
		} else {
			done, err = u.Round(c.Context(), args[0])
		}
		for _, d := range done {
			fmt.Fprintf(c.OutOrStdout(), "%s: %s\n", d.Object, d.What)
		}
		return err
	}
	return c
}
