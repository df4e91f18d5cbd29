// Package natstest gives a test its own NATS server with JetStream, embedded,
// on a random port, with its files in the test's directory.
package natstest

import (
	"context"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"reelway.dev/pkg/bus"
)

// Start returns a connection to a fresh server; both end with the test.
func Start(t testing.TB) *nats.Conn {
	t.Helper()
	s, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: server.RANDOM_PORT, JetStream: true, StoreDir: t.TempDir(), NoSigs: true, NoLog: true})
	if err != nil {
		t.Fatal(err)
	}
	go s.Start()
	if !s.ReadyForConnections(10 * time.Second) {
		t.Fatal("NATS is not ready")
	}
	nc, err := nats.Connect(s.ClientURL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close(); s.Shutdown(); s.WaitForShutdown() })
	return nc
}

// Bus returns a Bus with its streams on a fresh server.
func Bus(t testing.TB) *bus.Bus {
	t.Helper()
	b, err := bus.New(Start(t))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if err := b.Ensure(ctx, 1); err != nil {
		t.Fatal(err)
	}
	return b
}
