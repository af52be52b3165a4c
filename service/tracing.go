package service

import (
	"context"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"
)

// tracer makes the spans of rounds. They go nowhere unless somebody has set a
// provider.
var tracer = otel.Tracer("github.com/certherd/certherd/service")

// traced begins a span, which ended ends, with an error if there was one.
func traced(ctx context.Context, name string, about ...attribute.KeyValue) (_ context.Context, ended func(error)) {
	ctx, span := tracer.Start(ctx, name, trace.WithAttributes(about...))
	return ctx, func(err error) {
		if err != nil {
			span.RecordError(err)
			span.SetStatus(codes.Error, "")
		}
		span.End()
	}
}
