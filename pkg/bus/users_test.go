package bus_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"reelway.dev/pkg/bus"
)

// A password at NATS is changed without a pause, by the steps of docs/rotation.md: a
// second user stands beside the first until nobody uses that one.
func TestUsersTakeTurns(t *testing.T) {
	t.Parallel()
	opts := func(port int, users ...string) *server.Options {
		o := &server.Options{Host: "127.0.0.1", Port: port, JetStream: true, JetStreamMaxStore: bus.Reserved(), StoreDir: t.TempDir(), NoSigs: true, NoLog: true}
		for _, name := range users {
			o.Users = append(o.Users, &server.User{Username: name, Password: "of " + name})
		}
		return o
	}
	first := opts(server.RANDOM_PORT, "ledger")
	ns, err := server.NewServer(first)
	if err != nil {
		t.Fatal(err)
	}
	go ns.Start()
	t.Cleanup(func() { ns.Shutdown(); ns.WaitForShutdown() })
	if !ns.ReadyForConnections(30 * time.Second) {
		t.Fatal("NATS is not ready")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	connect := func(user string) (*bus.Bus, error) {
		b, shut, err := bus.Connect(ctx, bus.Config{URL: strings.Replace(ns.ClientURL(), "nats://", "nats://"+user+":of%20"+user+"@", 1), Replicas: 1}, "ledger")
		if err == nil {
			t.Cleanup(shut)
		}
		return b, err
	}
	change := func(users ...string) {
		t.Helper()
		o := opts(portOf(t, ns), users...)
		o.StoreDir = first.StoreDir
		if err := ns.ReloadOptions(o); err != nil {
			t.Fatal(err)
		}
	}
	works := func(b *bus.Bus) bool {
		return b.Publish(ctx, bus.Message{Subject: bus.DeleteSubject, Data: []byte("x")}) == nil
	}
	old, err := connect("ledger")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := connect("ledger-2"); err == nil || strings.Contains(err.Error(), "of ledger-2") || strings.Contains(err.Error(), "of%20") {
		t.Errorf("a user that is not there yet: %v", err)
	}
	change("ledger", "ledger-2")
	fresh, err := connect("ledger-2")
	if err != nil || !works(fresh) || !works(old) {
		t.Fatalf("both users do not work beside each other: %v", err)
	}
	change("ledger-2")
	if !works(fresh) {
		t.Error("the new user was hurt when the old one went")
	}
	if _, err := connect("ledger"); err == nil {
		t.Error("the old password still works")
	}
}
