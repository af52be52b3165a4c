package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/certherd/certherd/inventory"
	"github.com/certherd/certherd/renew"
)

func renewCommand() *cobra.Command {
	var (
		s      source
		reason string
	)
	c := &cobra.Command{
		Use:   "renew NAMESPACE/NAME...",
		Short: "Have Certificates issued anew at once",
		Long: `renew asks the certherd that runs in the cluster to have Certificates of cert-manager issued anew at once, because
their key is known to others, they were revoked, or for any other reason. What gateways are given otherwise
does not delay it, and neither do schedules and windows; others wait for it.

It writes the time and the reason to the annotation ` + renew.Annotation + `, with your own rights: it needs to patch
Certificates in the namespace. certherd acts within seconds where batch.mode is propose or enforce. The annotation can
stay: it is about what was issued before that time.

A new key comes with it unless the Certificate's spec.privateKey.rotationPolicy is Never.`,
		Example: `  certherd renew shop/web-tls --reason 'key compromised'

  # The same without certherd's command line
  kubectl annotate certificate -n shop web-tls --overwrite ` + renew.Annotation + `="$(date -u +%FT%TZ) key compromised"`,
		Args: cobra.MinimumNArgs(1),
	}
	s.loading = clientcmd.NewDefaultClientConfigLoadingRules()
	f := c.Flags()
	f.StringVar(&s.loading.ExplicitPath, "kubeconfig", "", "path of the kubeconfig file to use")
	names := clientcmd.RecommendedConfigOverrideFlags("")
	names.ContextOverrideFlags.Namespace.LongName = "" // objects are named in full
	clientcmd.BindOverrideFlags(&s.overrides, f, names)
	f.StringVar(&reason, "reason", "", "why, in words")
	c.RunE = func(c *cobra.Command, args []string) error {
		var refs []inventory.Ref
		for _, arg := range args {
			namespace, name, ok := strings.Cut(strings.TrimPrefix(arg, "certificate/"), "/")
			if !ok || namespace == "" || name == "" || strings.Contains(name, "/") {
				return fmt.Errorf("%q names no Certificate: write NAMESPACE/NAME, as `kubectl get certificates -A` shows them", arg)
			}
			refs = append(refs, inventory.CertificateRef(namespace, name))
		}
		cfg, err := s.config()
		if err != nil {
			return err
		}
		client, err := metadata.NewForConfig(cfg)
		if err != nil {
			return err
		}
		certificates := client.Resource(schema.GroupVersionResource{Group: inventory.GroupCertManager, Version: "v1", Resource: "certificates"})
		w := renew.Say(time.Now(), reason)
		patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"annotations": map[string]string{renew.Annotation: w.String()}}})
		if err != nil {
			return err
		}
		var errs []error
		for _, ref := range refs {
			_, err := certificates.Namespace(ref.Namespace).Patch(c.Context(), ref.Name, types.MergePatchType, patch, metav1.PatchOptions{FieldManager: "certherd"})
			switch {
			case apierrors.IsNotFound(err):
				errs = append(errs, fmt.Errorf("there is no Certificate %s/%s of cert-manager", ref.Namespace, ref.Name))
			case err != nil:
				errs = append(errs, fmt.Errorf("cannot annotate Certificate %s/%s: %w", ref.Namespace, ref.Name, err))
			default:
				fmt.Fprintf(c.OutOrStdout(), "%s/%s: a new certificate was asked for; `kubectl describe certificate -n %s %s` shows what became of it\n", ref.Namespace, ref.Name, ref.Namespace, ref.Name)
			}
		}
		return errors.Join(errs...)
	}
	return c
}
