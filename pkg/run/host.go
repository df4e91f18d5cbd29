package run

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"slices"
	"sync/atomic"
	"syscall"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/metric"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
)

// Stage says when a component is stopped; an earlier one stops first.
type Stage int

// The order of draining: nothing new comes in, work in hand is finished, what
// it committed is published, then the neighbours' doors close.
const (
	Doors Stage = iota
	Consumers
	Relays
	Last
	stages
)

// Config is what every service has.
type Config struct {
	OpsAddr  string        `env:"REELWAY_OPS_ADDR" envDefault:"127.0.0.1:9100" desc:"address of /livez, /readyz and /metrics"`
	LogLevel string        `env:"REELWAY_LOG_LEVEL" oneof:"debug info warn error" envDefault:"info" desc:"debug, info, warn or error"`
	DrainFor time.Duration `env:"REELWAY_DRAIN_FOR" min:"0s" envDefault:"0s" desc:"how long to be not ready before doors close, for load balancers to notice"`
}

// Host is what a service is built into.
type Host struct {
	Log *slog.Logger
	// OpsURL is where health and metrics are.
	OpsURL string

	stages  [stages][]Component
	ready   []func(context.Context) error
	closers []func()
}

// Add puts components into a stage.
func (h *Host) Add(s Stage, c ...Component) { h.stages[s] = append(h.stages[s], c...) }

// OnClose runs f after every component has stopped; the last added runs first.
func (h *Host) OnClose(f func()) { h.closers = append(h.closers, f) }

// Ready adds a condition of readiness. Liveness has none: a sick neighbour is
// no reason to restart a healthy process.
func (h *Host) Ready(f func(context.Context) error) { h.ready = append(h.ready, f) }

// Listen opens a door that closes with the host.
func (h *Host) Listen(setting, addr string) (net.Listener, error) {
	l, err := Listen(setting, addr)
	if err == nil {
		h.OnClose(func() { _ = l.Close() })
	}
	return l, err
}

// Healthy is the first condition of readiness that does not hold, or nil.
func (h *Host) Healthy(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	for _, f := range h.ready {
		if err := f(ctx); err != nil {
			return err
		}
	}
	return nil
}

// Serve builds a service, runs it until ctx is done, and drains it. started is
// called when everything has been built and begins to run.
func Serve(ctx context.Context, cfg Config, service string, log *slog.Logger, build func(context.Context, *Host) error, started func(), processors ...sdktrace.SpanProcessor) error {
	h := &Host{Log: log}
	defer func() {
		for _, f := range slices.Backward(h.closers) {
			f()
		}
	}()
	metrics, flush, err := Telemetry(ctx, service, processors...)
	if err != nil {
		return err
	}
	h.OnClose(func() {
		fctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		if err := flush(fctx); err != nil {
			log.Warn("telemetry not flushed", "error", err.Error())
		}
	})
	ops, err := h.Listen("REELWAY_OPS_ADDR", cfg.OpsAddr)
	if err != nil {
		return err
	}
	h.OpsURL = "http://" + ops.Addr().String()
	if err := build(ctx, h); err != nil {
		return err
	}
	if err := h.measure(); err != nil {
		return err
	}
	var draining atomic.Bool
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", metrics)
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok\n") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		err := h.Healthy(r.Context())
		if draining.Load() {
			err = errors.New("draining")
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		_, _ = io.WriteString(w, "ok\n")
	})
	h.Add(Last, HTTP("ops", ops, mux))
	unready := Component{Name: "readiness", Run: func(ctx context.Context) error {
		<-ctx.Done()
		draining.Store(true)
		wait := time.NewTimer(cfg.DrainFor)
		defer wait.Stop()
		<-wait.C
		return nil
	}}
	if started != nil {
		go started()
	}
	return Stages(ctx, log, append([][]Component{{unready}}, h.stages[:]...)...)
}

// measure shows readiness as a metric: whoever watches a fleet reads no /readyz.
func (h *Host) measure() error {
	_, err := otel.Meter("reelway.dev/pkg/run").Int64ObservableGauge("reelway.ready",
		metric.WithDescription("1 while every condition of readiness holds: the database and the bus can be reached"),
		metric.WithInt64Callback(func(ctx context.Context, o metric.Int64Observer) error {
			ready := int64(1)
			if h.Healthy(ctx) != nil {
				ready = 0
			}
			o.Observe(ready)
			return nil
		}))
	if err != nil {
		return fmt.Errorf("measure readiness: %w", err)
	}
	return nil
}

func help(out io.Writer, service, about string, configs ...any) int {
	_, err := fmt.Fprintf(out, "%s: %s\n\nSettings (environment; NAME_FILE reads a value from a file):\n", service, about)
	for _, s := range Settings(configs...) {
		if err == nil {
			_, err = fmt.Fprintf(out, "  %-40s %-26s %s\n", s.Name, s.Default, s.Description)
		}
	}
	if err != nil {
		return 1
	}
	return 0
}

// Main is a service's whole main: --help, settings, logs, signals, Serve. It
// returns the exit code: 0 stopped, 1 failed, 2 wrong usage. configs are
// pointers to the structs that build reads.
func Main(service, about string, args []string, build func(context.Context, *Host) error, configs ...any) int {
	cfg := &Config{}
	configs = append(configs, cfg)
	if len(args) > 0 {
		if args[0] != "--help" && args[0] != "-h" {
			fmt.Fprintf(os.Stderr, "%s takes no arguments, only settings; --help lists them\n", service)
			return 2
		}
		return help(os.Stdout, service, about, configs...)
	}
	if err := Load(os.Environ(), nil, configs...); err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", service, err)
		return 2
	}
	log, err := NewLogger(os.Stderr, cfg.LogLevel)
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", service, err)
		return 2
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := Serve(ctx, *cfg, service, log, build, func() { log.Info("started", "service", service) }); err != nil {
		log.Error("stopped", "service", service, "error", err.Error())
		return 1
	}
	return 0
}
