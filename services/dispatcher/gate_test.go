package dispatcher

import (
	"log/slog"
	"testing"
	"time"

	"reelway.dev/pkg/natstest"
	"reelway.dev/pkg/provider/registry"
	"reelway.dev/pkg/traffic"
)

// A job whose model is closed to every key is not waited for in hand: it would keep
// the workers from the provider's other models. One that no key at all can take is.
func TestAModelWithoutAKeyHoldsNobodyUp(t *testing.T) {
	t.Parallel()
	x := traffic.New(traffic.Config{Bench: time.Hour, Probe: time.Minute}, natstest.Bus(t).Shared(), time.Now, slog.New(slog.DiscardHandler))
	ring := registry.Single(nil)
	d := &desk{name: "acme", ring: ring, limits: registry.Limits{Rate: 1000}, traffic: x}
	pass := func(model string) *busy {
		t.Helper()
		_, no, err := d.pass(t.Context(), model, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		return no
	}
	key := ring.Keys()[0].ID
	x.Bench(t.Context(), "acme", key, "closed", "not for this account", 0)
	if no := pass("closed"); no == nil || no.why != "no_key" || no.all || !no.away {
		t.Errorf("a model that is closed to the key: %+v", no)
	}
	if no := pass("open"); no != nil {
		t.Errorf("another model: %+v", no)
	}
	x.Bench(t.Context(), "acme", key, "", "no balance", 0)
	if no := pass("closed"); no == nil || !no.all {
		t.Errorf("a key that rests: %+v", no)
	}
}
