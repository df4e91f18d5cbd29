package notifier

import (
	"bufio"
	"net"
	"net/http"
	"strings"

	"reelway.dev/pkg/fault"
	"reelway.dev/pkg/id"
	"reelway.dev/pkg/videojson"
)

// enveloped turns the plain-text errors of routers and of the WebSocket's
// handshake into the envelope of every other error.
func enveloped(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		e := &envelope{ResponseWriter: w}
		h.ServeHTTP(e, r)
		e.finish("")
	})
}

type envelope struct {
	http.ResponseWriter
	held int // the status of a plain-text error whose text is awaited; -1 once it is written
}

// WriteHeader holds a plain-text error back.
func (e *envelope) WriteHeader(code int) {
	if code >= 400 && e.held == 0 && strings.HasPrefix(e.Header().Get("Content-Type"), "text/plain") {
		e.held = code
		return
	}
	e.ResponseWriter.WriteHeader(code)
}

// Write implements io.Writer.
func (e *envelope) Write(b []byte) (int, error) {
	if e.held == 0 {
		return e.ResponseWriter.Write(b)
	}
	e.finish(strings.TrimSpace(string(b)))
	return len(b), nil
}

// Unwrap lets http.ResponseController through.
func (e *envelope) Unwrap() http.ResponseWriter { return e.ResponseWriter }

// Hijack lets the WebSocket through.
func (e *envelope) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return http.NewResponseController(e.ResponseWriter).Hijack()
}

func (e *envelope) finish(text string) {
	if e.held <= 0 {
		return
	}
	code := fault.InvalidRequest
	switch {
	case e.held == http.StatusNotFound:
		code = fault.NotFound
	case e.held == http.StatusForbidden:
		code = fault.PermissionDenied
	case e.held >= 500:
		code, text = fault.Internal, "an internal error occurred; the request can be retried"
	}
	rid := id.New(id.Request)
	e.Header().Set("X-Request-Id", rid)
	e.Header().Del("Content-Length")
	videojson.WriteFault(&exactly{e.ResponseWriter, e.held}, rid, fault.New(code, "%s", text))
	e.held = -1
}

// exactly keeps the status that was meant, for which there may be no fault.
type exactly struct {
	http.ResponseWriter
	status int
}

// WriteHeader implements http.ResponseWriter.
func (x *exactly) WriteHeader(int) { x.ResponseWriter.WriteHeader(x.status) }
