package ledger_test

import (
	"log/slog"
	"strings"
	"testing"

	"google.golang.org/protobuf/types/known/durationpb"

	"reelway.dev/pkg/seal"
	webhookv1 "reelway.dev/proto/gen/reelway/webhook/v1"
	"reelway.dev/services/ledger"
)

// The key that seals is changed, by the steps of docs/rotation.md: after the second
// the old one opens nothing any more, and customers' secrets are as they were.
func TestSealingKeyIsRotated(t *testing.T) {
	t.Parallel()
	x := hook(t)
	e := x.endpoint(everyEvent...)
	rotated, err := x.hooks.RotateSecret(t.Context(), &webhookv1.RotateSecretRequest{AccountId: x.acct, Id: e.GetEndpoint().GetId(), Overlap: durationpb.New(3600e9)})
	if err != nil {
		t.Fatal(err)
	}
	const old = "reelway-development-key-that-protects-nothing" // the tests' ledger has none of its own
	fresh := strings.Repeat("n", 40)
	reseal := func(texts ...string) {
		t.Helper()
		keys, err := seal.New(texts...)
		if err != nil {
			t.Fatal(err)
		}
		s, err := ledger.New(ledger.Config{}, ledger.Deps{Pool: x.pool, Bus: x.bus, Logger: slog.New(slog.DiscardHandler), Seal: keys})
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Reseal(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	id := e.GetEndpoint().GetId()
	opened := func(text string) (out [3]string) {
		t.Helper()
		keys, err := seal.New(text)
		if err != nil {
			t.Fatal(err)
		}
		var sealed [3][]byte
		if err := x.pool.QueryRow(t.Context(), "select secret, secret_before, headers from webhook_endpoint where id = $1", id).Scan(&sealed[0], &sealed[1], &sealed[2]); err != nil {
			t.Fatal(err)
		}
		for i := range sealed {
			if plain, err := keys.Open(sealed[i], id); err == nil {
				out[i] = string(plain)
			}
		}
		return out
	}
	want := opened(old)
	if want[0] != rotated.GetSecret() || want[1] != e.GetSecret() || !strings.Contains(want[2], "of-the-customer") {
		t.Fatalf("%q", want)
	}
	reseal(old, fresh) // all learn the new one
	if got := opened(old); got != want {
		t.Errorf("after the first step the old key opens %q", got)
	}
	reseal(fresh) // who forgets the old one loses nothing
	if got := opened(old); got != want {
		t.Errorf("without the old key it opens %q", got)
	}
	reseal(fresh, old)
	reseal(fresh, old)
	if got := opened(fresh); got != want {
		t.Errorf("after the second step the new key opens %q", got)
	}
	if got := opened(old); got != [3]string{} {
		t.Errorf("after the second step the old key opens %q", got)
	}
}
