package providertest

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"time"

	"reelway.dev/pkg/fault"
	"reelway.dev/pkg/provider"
	"reelway.dev/pkg/webhooksig"
)

// delivery is a callback as it came.
type delivery struct {
	header http.Header
	body   []byte
}

// door receives the callbacks of b.task.
func (b *bundle) door(t T) <-chan delivery {
	t.Helper()
	in := make(chan delivery, 16)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(io.LimitReader(r.Body, 1<<20))
		if err != nil {
			return
		}
		if c, ok := b.adapter.(provider.Challenger); ok {
			if answer, ok := c.Challenge(body); ok {
				w.Header().Set("Content-Type", "application/json")
				_, _ = w.Write(answer)
				return
			}
		}
		if b.Sign != nil {
			r.Header = b.Sign(body, time.Now())
		}
		in <- delivery{r.Header, body}
	}))
	t.Cleanup(srv.Close)
	b.task.CallbackURL = srv.URL + "/v1/callbacks/" + b.Name + "/" + b.task.JobID + "?attempt=" + b.task.AttemptID + "&token=a%2Bb"
	return in
}

func (b *bundle) receive(t T, in <-chan delivery) delivery {
	t.Helper()
	select {
	case d := <-in:
		return d
	case <-b.ctx.Done():
		t.Fatal("no webhook came")
	}
	return delivery{}
}

// parser is the adapter's, when its provider sends webhooks.
func (b *bundle) parser(t T) provider.WebhookParser {
	t.Helper()
	p, ok := b.adapter.(provider.WebhookParser)
	if ok != (b.Webhooks != None) {
		t.Fatalf("webhooks parsed: %v", ok)
	}
	if !ok {
		t.Skip("the provider sends no webhooks")
	}
	return p
}

func (b *bundle) hint() bool { return b.Webhooks != Signed }

func webhooks(t T, b *bundle) {
	p := b.parser(t)
	in := b.door(t)
	taskID, sim := b.submit(t)
	b.Simulator.Move(t, sim.ID, "succeeded")
	d := b.receive(t, in)
	r, err := p.ParseWebhook(b.ctx, d.header, d.body, time.Now())
	if err != nil {
		t.Fatalf("%v: %s", err, d.body)
	}
	if r.Hint != b.hint() {
		t.Errorf("hint is %v", r.Hint)
	}
	switch {
	case r.Hint && r.TaskID != sim.ID && r.TaskID != taskID, !r.Hint && r.TaskID != taskID:
		t.Errorf("the webhook is about %q, the task is %q", r.TaskID, taskID)
	case !r.Hint && (r.State != provider.Succeeded || string(b.fetch(t, r.ResultURL)[4:8]) != "ftyp"):
		t.Errorf("report is %+v", r)
	}
}

func failureWebhook(t T, b *bundle) {
	p := b.parser(t)
	if b.SilentFailure {
		t.Skip("the provider tells of successes only")
	}
	in := b.door(t)
	_, sim := b.submit(t)
	b.Simulator.Move(t, sim.ID, "failed")
	d := b.receive(t, in)
	r, err := p.ParseWebhook(b.ctx, d.header, d.body, time.Now())
	if err != nil {
		t.Fatalf("%v: %s", err, d.body)
	}
	if !b.hint() {
		b.failed(t, r, fault.ProviderRejected)
	}
}

// Nothing that the provider did not sign, as it signed it and lately, is more
// than a hint; where it signs, it is refused.
func forgedWebhooks(t T, b *bundle) {
	p := b.parser(t)
	in := b.door(t)
	_, sim := b.submit(t)
	b.Simulator.Move(t, sim.ID, "succeeded")
	good := b.receive(t, in)
	now := time.Now()
	type callback struct {
		h    http.Header
		body []byte
		at   time.Time
		hold bool // a signature that does not bind this is for hints only
	}
	altered := bytes.Replace(good.body, []byte(sim.ID), []byte(strings.ToUpper(sim.ID)), 1)
	cases := map[string]callback{
		"unsigned":     {http.Header{}, good.body, now, false},
		"altered":      {good.header, altered, now, b.Webhooks == TokenHints},
		"forged":       {b.tampered(good.header), good.body, now, false},
		"empty":        {good.header, nil, now, false},
		"empty object": {good.header, []byte("{}"), now, false},
	}
	if !b.Undated {
		cases["stale"] = callback{good.header, good.body, now.Add(2 * time.Hour), false}
		cases["from ahead"] = callback{good.header, good.body, now.Add(-2 * time.Hour), false}
	}
	if b.Sign != nil {
		for k := range good.header {
			h := good.header.Clone()
			h.Del(k)
			cases["without "+k] = callback{h, good.body, now, false}
		}
	}
	for name, c := range cases {
		r, err := p.ParseWebhook(b.ctx, c.h, c.body, c.at)
		switch {
		case err == nil && !r.Hint, err == nil && b.Webhooks != Hints && !c.hold:
			t.Errorf("%s: %+v passes", name, r)
		case err != nil && !errors.Is(err, provider.ErrBadSignature) && !errors.Is(err, provider.ErrBadBody):
			t.Errorf("%s: %v", name, err)
		}
	}
	b.garbage(t, p)
}

// garbage is a body that is none of the provider's, signed all the same.
func (b *bundle) garbage(t T, p provider.WebhookParser) {
	t.Helper()
	b.task = b.fresh("[fault:webhook_garbage]")
	in := b.door(t)
	_, sim := b.submit(t)
	b.Simulator.Move(t, sim.ID, "succeeded")
	d := b.receive(t, in)
	if r, err := p.ParseWebhook(b.ctx, d.header, d.body, time.Now()); !errors.Is(err, provider.ErrBadBody) {
		t.Errorf("garbage: %+v %v", r, err)
	}
}

// tampered changes every signature in a header, and nothing else.
func (b *bundle) tampered(h http.Header) http.Header {
	out := h.Clone()
	for k, vs := range out {
		if !strings.Contains(strings.ToLower(k), "signature") && !strings.EqualFold(k, b.SignatureHeader) {
			continue
		}
		for i, v := range vs {
			text := []byte(v)
			text[len(text)/2]++
			vs[i] = string(text)
		}
	}
	return out
}

// SignAs has callbacks signed by a scheme, with a new key in the simulator's place,
// and returns what verifies them.
func (h *Harness) SignAs(s webhooksig.Scheme) (keys [][]byte) {
	key := make([]byte, 32)
	_, _ = rand.Read(key) // never fails (crypto/rand since Go 1.24)
	keys = [][]byte{key}
	if s.Algorithm == webhooksig.EdDSA {
		private := ed25519.NewKeyFromSeed(key)
		public, _ := private.Public().(ed25519.PublicKey)
		key, keys = private, [][]byte{public}
	}
	h.Describe(s)
	h.Sign = func(body []byte, at time.Time) http.Header { return s.Sign(key, body, at) }
	return keys
}

// Describe says what callbacks that a scheme signs are worth.
func (h *Harness) Describe(s webhooksig.Scheme) {
	h.Webhooks, h.SignatureHeader, h.Undated = Signed, s.Header, s.TimestampHeader == ""
}
