package run

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	otelprom "go.opentelemetry.io/otel/exporters/prometheus"
	"go.opentelemetry.io/otel/propagation"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/exemplar"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	semconv "go.opentelemetry.io/otel/semconv/v1.37.0"
	"go.opentelemetry.io/otel/trace"
)

// Telemetry sets up traces and metrics for a service. Traces go to the OTLP
// endpoint of OTEL_EXPORTER_OTLP_ENDPOINT when it is set; without it spans are
// made, for their ids in logs and on the bus, and kept nowhere.
// OTEL_TRACES_SAMPLER and OTEL_TRACES_SAMPLER_ARG choose which traces are kept
// from their beginning (all, by default, and as the caller's trace says), and
// OTEL_RESOURCE_ATTRIBUTES says where the service runs. The handler serves
// /metrics, with exemplars to those who ask for OpenMetrics. flush sends what is
// left; call it last, with a fresh context.
func Telemetry(ctx context.Context, service string, processors ...sdktrace.SpanProcessor) (metrics http.Handler, flush func(context.Context) error, err error) {
	host, err := os.Hostname()
	if err != nil {
		return nil, nil, fmt.Errorf("read host name: %w", err)
	}
	res, err := resource.New(ctx, resource.WithAttributes(semconv.ServiceName(service), semconv.ServiceNamespace("reelway"), semconv.ServiceInstanceID(host)), resource.WithFromEnv())
	if err != nil {
		return nil, nil, fmt.Errorf("read OTEL_RESOURCE_ATTRIBUTES: %w", err)
	}
	opts := []sdktrace.TracerProviderOption{sdktrace.WithResource(res)}
	for _, p := range processors {
		opts = append(opts, sdktrace.WithSpanProcessor(p))
	}
	if os.Getenv("OTEL_EXPORTER_OTLP_ENDPOINT") != "" || os.Getenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") != "" {
		exp, err := otlptracehttp.New(ctx)
		if err != nil {
			return nil, nil, fmt.Errorf("open trace exporter: %w", err)
		}
		opts = append(opts, sdktrace.WithBatcher(exp))
	}
	tp := sdktrace.NewTracerProvider(opts...)
	otel.SetTracerProvider(tp)
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) {
		slog.WarnContext(context.WithoutCancel(ctx), "telemetry is incomplete", "error", err.Error())
	}))
	otel.SetTextMapPropagator(propagation.TraceContext{})
	reg := prometheus.NewRegistry()
	reg.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	reader, err := otelprom.New(otelprom.WithRegisterer(reg))
	if err != nil {
		return nil, nil, fmt.Errorf("open metrics: %w", err)
	}
	mp := sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader), sdkmetric.WithResource(res), sdkmetric.WithView(bounded, unread))
	otel.SetMeterProvider(mp)
	return promhttp.HandlerFor(reg, promhttp.HandlerOpts{EnableOpenMetrics: true}), func(ctx context.Context) error {
		return errors.Join(tp.Shutdown(ctx), mp.Shutdown(ctx))
	}, nil
}

// bounded leaves out of the metrics of our doors what a stranger may write into a
// request: each Host header would be a time series of its own.
func bounded(i sdkmetric.Instrument) (sdkmetric.Stream, bool) {
	if i.Name != "http.server.request.duration" {
		return sdkmetric.Stream{}, false
	}
	return sdkmetric.Stream{Name: i.Name, Description: i.Description, Unit: i.Unit, ExemplarReservoirProviderSelector: traceOnly,
		AttributeFilter: attribute.NewDenyKeysFilter("server.address", "server.port", "network.protocol.name", "network.protocol.version", "url.scheme")}, true
}

// traceOnly makes exemplars of a trace's ids alone: what bounded leaves out would
// come back in them, and make them longer than OpenMetrics allows.
func traceOnly(agg sdkmetric.Aggregation) exemplar.ReservoirProvider {
	of := sdkmetric.DefaultExemplarReservoirProviderSelector(agg)
	return func(kept attribute.Set) exemplar.Reservoir { return bare{of(kept)} }
}

type bare struct{ exemplar.Reservoir }

// Offer implements exemplar.Reservoir.
func (b bare) Offer(ctx context.Context, at time.Time, v exemplar.Value, _ []attribute.KeyValue) {
	b.Reservoir.Offer(ctx, at, v, nil)
}

// unread drops the sizes of bodies, which nobody asks for.
func unread(i sdkmetric.Instrument) (sdkmetric.Stream, bool) {
	return sdkmetric.Stream{Aggregation: sdkmetric.AggregationDrop{}}, strings.HasPrefix(i.Name, "http.") && strings.HasSuffix(i.Name, ".body.size")
}

// NewLogger writes JSON lines with the ids of the trace at hand, and becomes
// the process's default. level is the setting's word.
func NewLogger(w io.Writer, level string) (*slog.Logger, error) {
	var l slog.Level
	if err := l.UnmarshalText([]byte(level)); err != nil {
		return nil, fmt.Errorf("REELWAY_LOG_LEVEL: %q is not debug, info, warn or error", level)
	}
	log := slog.New(&traced{slog.NewJSONHandler(w, &slog.HandlerOptions{Level: l})})
	slog.SetDefault(log)
	return log, nil
}

type traced struct{ slog.Handler }

// Handle implements slog.Handler.
func (h *traced) Handle(ctx context.Context, r slog.Record) error {
	if sc := trace.SpanContextFromContext(ctx); sc.IsValid() {
		r.AddAttrs(slog.String("trace_id", sc.TraceID().String()), slog.String("span_id", sc.SpanID().String()))
	}
	return h.Handler.Handle(ctx, r)
}

// WithAttrs implements slog.Handler.
func (h *traced) WithAttrs(a []slog.Attr) slog.Handler { return &traced{h.Handler.WithAttrs(a)} }

// WithGroup implements slog.Handler.
func (h *traced) WithGroup(name string) slog.Handler { return &traced{h.Handler.WithGroup(name)} }
