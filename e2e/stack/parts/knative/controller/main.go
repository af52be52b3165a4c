// Command controller runs the reconcilers of Knative Serving's own controller,
// its built-in cert-manager integration included. Knative's main binds its
// health probes to :8080, which belongs to Envoy when all parts share one
// network namespace; this one leaves the probes out and is otherwise the same.
// Source: cmd/controller of knative.dev/serving.
package main

import (
	"knative.dev/pkg/injection/sharedmain"
	"knative.dev/pkg/signals"
	"knative.dev/serving/pkg/reconciler/certificate"
	"knative.dev/serving/pkg/reconciler/configuration"
	"knative.dev/serving/pkg/reconciler/domainmapping"
	"knative.dev/serving/pkg/reconciler/gc"
	"knative.dev/serving/pkg/reconciler/labeler"
	"knative.dev/serving/pkg/reconciler/nscert"
	"knative.dev/serving/pkg/reconciler/revision"
	"knative.dev/serving/pkg/reconciler/route"
	"knative.dev/serving/pkg/reconciler/serverlessservice"
	"knative.dev/serving/pkg/reconciler/service"

	"knative.dev/pkg/injection"
	"knative.dev/serving/pkg/client/certmanager/injection/informers/acme/v1/challenge"
	v1certificate "knative.dev/serving/pkg/client/certmanager/injection/informers/certmanager/v1/certificate"
	"knative.dev/serving/pkg/client/certmanager/injection/informers/certmanager/v1/certificaterequest"
	"knative.dev/serving/pkg/client/certmanager/injection/informers/certmanager/v1/clusterissuer"
	"knative.dev/serving/pkg/client/certmanager/injection/informers/certmanager/v1/issuer"
)

func main() {
	for _, informer := range []injection.InformerInjector{
		challenge.WithInformer, v1certificate.WithInformer, certificaterequest.WithInformer,
		clusterissuer.WithInformer, issuer.WithInformer,
	} {
		injection.Default.RegisterInformer(informer)
	}
	sharedmain.MainWithContext(sharedmain.WithHealthProbesDisabled(signals.NewContext()), "controller",
		configuration.NewController,
		labeler.NewController,
		revision.NewController,
		route.NewController,
		serverlessservice.NewController,
		service.NewController,
		gc.NewController,
		nscert.NewController,
		domainmapping.NewController,
		certificate.NewController,
	)
}
