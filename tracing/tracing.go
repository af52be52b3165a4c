// Package tracing sends traces of rounds to an OpenTelemetry collector, if the
// environment names one.
package tracing

import (
	"context"
	"fmt"
	"os"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	semconv "go.opentelemetry.io/otel/semconv/v1.40.0"
)

// endpoints are the variables that name a collector
// (https://opentelemetry.io/docs/specs/otel/protocol/exporter).
var endpoints = []string{"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"}

// Start has all spans of this process sent over OTLP, by HTTP with protobuf, to
// the collector that the environment names; the other variables of the
// specification (headers, certificates, OTEL_RESOURCE_ATTRIBUTES, sampling) hold,
// too. Without a collector, spans are not even made. failed is told what could not be
// sent. end sends what is left, until ctx ends.
func Start(ctx context.Context, version string, failed func(error)) (end func(ctx context.Context) error, err error) {
	named := os.Getenv("OTEL_SDK_DISABLED") != "true"
	if named {
		named = false
		for _, name := range endpoints {
			named = named || os.Getenv(name) != ""
		}
	}
	if !named {
		return func(context.Context) error { return nil }, nil
	}
	exporter, err := otlptracehttp.New(ctx)
	if err != nil {
		return nil, fmt.Errorf("cannot send traces: %w; look at the variables that begin with OTEL_EXPORTER_OTLP_", err)
	}
	about, err := resource.New(ctx, resource.WithAttributes(semconv.ServiceName("certherd"), semconv.ServiceVersion(version)), resource.WithFromEnv(), resource.WithTelemetrySDK())
	if err != nil {
		return nil, fmt.Errorf("cannot send traces: %w; look at OTEL_RESOURCE_ATTRIBUTES", err)
	}
	provider := sdktrace.NewTracerProvider(sdktrace.WithBatcher(exporter), sdktrace.WithResource(about))
	otel.SetErrorHandler(otel.ErrorHandlerFunc(failed))
	otel.SetTracerProvider(provider)
	return provider.Shutdown, nil
}
