// Package natstest gives a test its own NATS server with JetStream, embedded,
// on a random port, with its files in the test's directory.
package natstest

import (
	"context"
	"net"
	"os"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"reelway.dev/pkg/bus"
)

// Server can be stopped and started again on the same port, as it was or with
// nothing left of its files.
type Server struct {
	t    testing.TB
	s    *server.Server
	opts server.Options
}

// NewServer starts a server that ends with the test.
func NewServer(t testing.TB) *Server {
	t.Helper()
	s := &Server{t: t, opts: server.Options{Host: "127.0.0.1", Port: server.RANDOM_PORT, JetStream: true, JetStreamMaxStore: 1 << 40, StoreDir: t.TempDir(), NoSigs: true, NoLog: true}}
	s.Start()
	t.Cleanup(s.Stop)
	return s
}

// Start starts a stopped server.
func (s *Server) Start() {
	s.t.Helper()
	opts := s.opts // the server keeps and changes what it is given
	srv, err := server.NewServer(&opts)
	if err != nil {
		s.t.Fatal(err)
	}
	go srv.Start()
	if !srv.ReadyForConnections(10 * time.Second) {
		s.t.Fatal("NATS is not ready")
	}
	s.s = srv
	if a, ok := srv.Addr().(*net.TCPAddr); ok {
		s.opts.Port = a.Port
	}
}

// Stop stops the server; its files stay.
func (s *Server) Stop() { s.s.Shutdown(); s.s.WaitForShutdown() }

// Wipe stops the server, removes its files and starts it again.
func (s *Server) Wipe() {
	s.t.Helper()
	s.Stop()
	if err := os.RemoveAll(s.opts.StoreDir); err != nil {
		s.t.Fatal(err)
	}
	s.Start()
}

// URL is where clients connect; it survives a restart.
func (s *Server) URL() string { return s.s.ClientURL() }

// Connect returns a connection that is made again for ever, and ends with the
// test.
func (s *Server) Connect() *nats.Conn {
	s.t.Helper()
	nc, err := nats.Connect(s.URL(), nats.MaxReconnects(-1), nats.ReconnectWait(20*time.Millisecond), nats.ReconnectJitter(0, 0))
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(nc.Close)
	return nc
}

// Bus returns a Bus with its streams, on a connection of its own.
func (s *Server) Bus() *bus.Bus {
	s.t.Helper()
	b, err := bus.New(s.Connect())
	if err != nil {
		s.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if err := b.Ensure(ctx, 1); err != nil {
		s.t.Fatal(err)
	}
	return b
}

// Start returns a connection to a fresh server; both end with the test.
func Start(t testing.TB) *nats.Conn {
	t.Helper()
	return NewServer(t).Connect()
}

// Bus returns a Bus with its streams on a fresh server.
func Bus(t testing.TB) *bus.Bus {
	t.Helper()
	return NewServer(t).Bus()
}
