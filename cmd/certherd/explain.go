package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/certherd/certherd/controller"
	"github.com/certherd/certherd/explain"
	"github.com/certherd/certherd/gateway"
)

func explainCommand() *cobra.Command {
	var (
		s source
		e envoys
		o controller.Options
	)
	c := &cobra.Command{
		Use:   "explain KIND/NAMESPACE/NAME",
		Short: "Show why one object got its verdict",
		Long: `explain shows the chain from the service to the gateway as a tree, every piece of evidence for
the verdict, and every finding that has to do with the object.

Kinds: secret, certificate (of cert-manager), kcertificate or kcert (of Knative), ingress, kingress,
gateway, listenerset, domainmapping, route.

With --gateway, --gateway-pods or --gateway-certs it also says whether, and how often, the gateway has each
certificate loaded.`,
		Example: `  certherd explain secret/team-a/web-tls
  certherd explain kcert/team-a/route-3f7e -f examples/knative-mess
  certherd explain secret/team-a/web-tls --gateway-pods ` + gateway.Kourier().String(),
		Args: cobra.ExactArgs(1),
	}
	s.flags(c)
	deciding(c, &o)
	e.lookFlags(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		ref, err := explain.ParseRef(args[0])
		if err != nil {
			return err
		}
		if _, err := e.options(); err != nil {
			return err
		}
		snapshot, err := s.look(c.Context(), c.ErrOrStderr(), e.each())
		if err != nil {
			return err
		}
		if snapshot, err = e.ask(c.Context(), &s, snapshot, &o, c.ErrOrStderr()); err != nil {
			return err
		}
		_, p, err := controller.RunOnce(snapshot, o)
		if err != nil {
			return err
		}
		explanation, ok := explain.Object(snapshot, p, ref)
		if !ok {
			for _, g := range snapshot.Gaps {
				fmt.Fprintf(c.ErrOrStderr(), "certherd: not read in full: %s: %s\n", g.Kind, g.Reason)
			}
			return fmt.Errorf("there is no %s, or it has nothing to do with certificates", ref)
		}
		explanation.Add(o.Loads)
		_, err = fmt.Fprint(c.OutOrStdout(), explanation.Text())
		return err
	}
	return c
}
