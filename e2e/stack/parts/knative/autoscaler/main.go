// Command autoscaler runs the two reconcilers of Knative Serving's autoscaler.
// Knative's main also serves pod statistics on :8080, which belongs to Envoy
// when all parts share one network namespace. Without pods there is nothing to
// scrape, so this one has no statistics server and no scraper.
// Source: cmd/autoscaler of knative.dev/serving.
package main

import (
	"context"
	"fmt"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.uber.org/zap"
	filteredpodinformer "knative.dev/pkg/client/injection/kube/informers/core/v1/pod/filtered"
	filteredinformerfactory "knative.dev/pkg/client/injection/kube/informers/factory/filtered"
	"knative.dev/pkg/configmap"
	"knative.dev/pkg/controller"
	"knative.dev/pkg/injection/sharedmain"
	"knative.dev/pkg/logging"
	"knative.dev/pkg/signals"
	autoscalingv1alpha1 "knative.dev/serving/pkg/apis/autoscaling/v1alpha1"
	"knative.dev/serving/pkg/apis/serving"
	"knative.dev/serving/pkg/autoscaler/metrics"
	"knative.dev/serving/pkg/autoscaler/scaling"
	"knative.dev/serving/pkg/reconciler/autoscaling/kpa"
	"knative.dev/serving/pkg/reconciler/metric"
	"knative.dev/serving/pkg/resources"
)

func main() {
	ctx := filteredinformerfactory.WithSelectors(signals.NewContext(), serving.RevisionUID)
	sharedmain.MainWithContext(sharedmain.WithHealthProbesDisabled(ctx), "autoscaler", newPodAutoscalers, newMetrics)
}

func newCollector(logger *zap.SugaredLogger) *metrics.MetricCollector {
	return metrics.NewMetricCollector(
		func(*autoscalingv1alpha1.Metric, *zap.SugaredLogger) (metrics.StatsScraper, error) { return nil, nil }, logger)
}

func newMetrics(ctx context.Context, watcher configmap.Watcher) *controller.Impl {
	return metric.NewController(ctx, watcher, newCollector(logging.FromContext(ctx)))
}

func newPodAutoscalers(ctx context.Context, watcher configmap.Watcher) *controller.Impl {
	logger := logging.FromContext(ctx)
	pods := filteredpodinformer.Get(ctx, serving.RevisionUID).Lister()
	collector := newCollector(logger)
	newScaler := func(decider *scaling.Decider) (scaling.UniScaler, error) {
		revision := decider.Labels[serving.RevisionLabelKey]
		if revision == "" {
			return nil, fmt.Errorf("decider %s/%s has no label %s", decider.Namespace, decider.Name, serving.RevisionLabelKey)
		}
		return scaling.New(*attribute.EmptySet(), otel.GetMeterProvider(), decider.Namespace, decider.Name, collector,
			resources.NewPodAccessor(pods, decider.Namespace, revision), &decider.Spec), nil
	}
	return kpa.NewController(ctx, watcher, scaling.NewMultiScaler(ctx.Done(), newScaler, logger))
}
