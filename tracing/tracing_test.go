package tracing

import (
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	"go.opentelemetry.io/otel"
	collectortrace "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"google.golang.org/protobuf/proto"
)

func TestWithoutACollectorNothingIsSet(t *testing.T) {
	for _, name := range endpoints {
		t.Setenv(name, "")
	}
	before := otel.GetTracerProvider()
	end, err := Start(t.Context(), "1.2.3", func(err error) { t.Error(err) })
	if err != nil {
		t.Fatal(err)
	}
	if err := end(t.Context()); err != nil {
		t.Error(err)
	}
	if otel.GetTracerProvider() != before {
		t.Error("spans are made for nobody")
	}
}

func TestStart(t *testing.T) {
	got := make(chan *collectortrace.ExportTraceServiceRequest, 10)
	collector := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		m := new(collectortrace.ExportTraceServiceRequest)
		if err := proto.Unmarshal(body, m); err != nil || r.URL.Path != "/v1/traces" {
			t.Errorf("%s: %v", r.URL.Path, err)
		}
		got <- m
	}))
	defer collector.Close()
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.URL)
	t.Setenv("OTEL_RESOURCE_ATTRIBUTES", "k8s.cluster.name=prod")
	end, err := Start(t.Context(), "1.2.3", func(err error) { t.Error(err) })
	if err != nil {
		t.Fatal(err)
	}
	_, span := otel.Tracer("test").Start(t.Context(), "round")
	span.End()
	if err := end(t.Context()); err != nil {
		t.Fatal(err)
	}
	m := <-got
	about := map[string]string{}
	for _, a := range m.ResourceSpans[0].Resource.Attributes {
		about[a.Key] = a.Value.GetStringValue()
	}
	if about["service.name"] != "certherd" || about["service.version"] != "1.2.3" || about["k8s.cluster.name"] != "prod" {
		t.Errorf("the traces are about %v", about)
	}
	if name := m.ResourceSpans[0].ScopeSpans[0].Spans[0].Name; name != "round" {
		t.Errorf("the span is called %q", name)
	}
}
