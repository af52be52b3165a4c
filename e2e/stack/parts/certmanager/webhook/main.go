// Command webhook runs cert-manager's admission webhook server with the flags of
// cert-manager's own cmd/webhook, a module that cannot be fetched by itself.
package main

import (
	"os"

	"github.com/cert-manager/cert-manager/internal/webhook"
	logf "github.com/cert-manager/cert-manager/pkg/logs"
	"github.com/cert-manager/cert-manager/pkg/webhook/options"
	"github.com/spf13/pflag"
	"k8s.io/klog/v2"
	ctrl "sigs.k8s.io/controller-runtime"
)

func main() {
	conf, err := options.NewWebhookConfiguration()
	if err != nil {
		klog.ErrorS(err, "cannot make the default configuration")
		os.Exit(1)
	}
	options.AddConfigFlags(pflag.CommandLine, conf)
	pflag.Parse()

	log := klog.Background()
	ctx := logf.NewContext(ctrl.SetupSignalHandler(), log)
	server, err := webhook.NewCertManagerWebhookServer(log, *conf)
	if err == nil {
		err = server.Run(ctx)
	}
	if err != nil {
		klog.ErrorS(err, "webhook server ended")
		os.Exit(1)
	}
}
