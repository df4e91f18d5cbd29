package run

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp"
	semconv "go.opentelemetry.io/otel/semconv/v1.37.0"
	"go.opentelemetry.io/otel/trace"
)

// Stages runs components and drains them in order: all of the first stage
// stop before any of the second is told to. It returns nil after ctx is done
// and everything has stopped, or the first component's failure, after the same
// drain.
func Stages(ctx context.Context, log *slog.Logger, stages ...[]Component) error {
	failed, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	type stage struct {
		stop context.CancelFunc
		wg   sync.WaitGroup
	}
	var started []*stage
	for _, components := range stages {
		// Detached: a stage ends when its turn comes, not when the signal does.
		sctx, stop := context.WithCancel(context.WithoutCancel(ctx))
		st := &stage{stop: stop}
		started = append(started, st)
		for _, c := range components {
			st.wg.Go(func() {
				err := c.Run(sctx)
				if err == nil && sctx.Err() == nil {
					err = errors.New("ended by itself")
				}
				if err != nil && sctx.Err() == nil {
					fail(fmt.Errorf("%s: %w", c.Name, err))
				} else if err != nil {
					log.WarnContext(ctx, "component did not stop cleanly", "component", c.Name, "error", err.Error())
				}
			})
		}
	}
	<-failed.Done()
	for _, st := range started {
		st.stop()
		st.wg.Wait()
	}
	if ctx.Err() != nil {
		return nil
	}
	return context.Cause(failed)
}

// Every calls fn at once and then every d, until ctx is done; never twice at the
// same time.
func Every(ctx context.Context, d time.Duration, fn func()) {
	tick := time.NewTicker(d)
	defer tick.Stop()
	for ctx.Err() == nil {
		fn()
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
	}
}

// Listen opens a TCP listener; a port in use is named, with the setting that
// changes it.
func Listen(setting, addr string) (net.Listener, error) {
	l, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("listen on %s (change it by %s): %w", addr, setting, err)
	}
	return l, nil
}

// Traced gives each request of a public door a span named after its route.
func Traced(h http.Handler) http.Handler {
	routed := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.ServeHTTP(w, r)
		if _, path, ok := strings.Cut(r.Pattern, " "); ok { // the innermost mux's
			trace.SpanFromContext(r.Context()).SetAttributes(semconv.HTTPRoute(path))
		}
	})
	return otelhttp.NewHandler(routed, "http", otelhttp.WithSpanNameFormatter(func(_ string, r *http.Request) string {
		if r.Pattern != "" {
			return r.Pattern
		}
		return r.Method
	}))
}

// HTTP serves h on l until its stage ends: then it stops accepting, tells long
// requests by their context, and waits up to 10 s for the rest.
func HTTP(name string, l net.Listener, h http.Handler) Component {
	return Component{Name: name, Run: func(ctx context.Context) error {
		base, cut := context.WithCancel(context.WithoutCancel(ctx))
		defer cut()
		srv := &http.Server{Handler: h, ReadHeaderTimeout: 5 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 64 << 10,
			BaseContext: func(net.Listener) context.Context { return base }, ErrorLog: slog.NewLogLogger(slog.Default().Handler(), slog.LevelDebug)}
		errs := make(chan error, 1)
		go func() { errs <- srv.Serve(l) }()
		select {
		case err := <-errs:
			return err
		case <-ctx.Done():
		}
		cut() // streams end here; short requests do not look
		deadline, done := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
		defer done()
		err := srv.Shutdown(deadline)
		if served := <-errs; !errors.Is(served, http.ErrServerClosed) {
			err = errors.Join(err, served)
		}
		return err
	}}
}
