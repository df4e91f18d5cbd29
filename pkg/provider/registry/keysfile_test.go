package registry_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"reelway.dev/pkg/provider"
	"reelway.dev/pkg/provider/registry"
	"reelway.dev/pkg/webhooksig"
)

// keysFile is one that can be written anew.
func keysFile(t *testing.T, text string) (name string, write func(text string)) {
	t.Helper()
	name = filepath.Join(t.TempDir(), "keys.yaml")
	write = func(text string) {
		if err := errors.Join(os.WriteFile(name+".new", []byte(text), 0o600), os.Rename(name+".new", name)); err != nil {
			t.Fatal(err)
		}
	}
	write(text)
	return name, write
}

func TestAKeysFileIsReadWhole(t *testing.T) {
	t.Parallel()
	secret, _ := keysFile(t, "of a file\n")
	name, _ := keysFile(t, `
max_running: 9
rate: 2.5
models: {kling-3.0: {max_running: 2, rate: 1}}
keys:
- {name: main, version: 2, key_file: `+secret+`, weight: 3, daily_budget: 12.34, max_running: 4, models: {kling-3.0: {rate: 0.5}}}
- {name: main, version: 1, access_key: a, secret_key: s, retiring: true}
`)
	p, err := registry.Open(load(t, "REELWAY_KLING_KEY=k", "REELWAY_KLING_KEYS_FILE="+name))
	if err != nil {
		t.Fatal(err)
	}
	ring := p.Keys["kling"]
	if l := ring.Limits(); l != (registry.Limits{MaxRunning: 9, Rate: 2.5}) || ring.Models()["kling-3.0"].MaxRunning != 2 {
		t.Errorf("%+v %+v", l, ring.Models())
	}
	k := ring.Key("main-v2")
	if k == nil || k.Weight != 3 || k.DailyBudget != 12_340_000 || k.MaxRunning != 4 || k.Models["kling-3.0"].Rate != 0.5 || k.Retiring {
		t.Errorf("%+v", k)
	}
	if old := ring.Key("main-v1"); old == nil || !old.Retiring || old.Weight != 1 {
		t.Errorf("%+v", old)
	}
	// The single key goes on as ever, and is that of attempts of before.
	if d := ring.Key(registry.DefaultKey); d == nil || ring.Key("") != d || len(ring.Keys()) != 3 || ring.Key("main") != nil {
		t.Errorf("%+v", d)
	}
}

// Every fault of a keys file is told, and no secret.
func TestFaultsOfAKeysFile(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"keys: []": "holds no key", "keys: [{name: a}]": "key, key_file, or access_key", "keys: [{name: a b, key: s3cret}]": "a name of", "keys: [{name: _all, key: s3cret}]": "a name of",
		"keys: [{name: a, key: s3cret}, {name: a, key: s3cret}]": "there twice", "keys: [{name: a, key: s3cret, weight: 0}]": "weight",
		"keys: [{name: a, key: s3cret, rate: -1}]": "max_running and rate", "keys: [{name: a, key: s3cret, daily_budget: -1}]": "daily_budget",
		"keys: [{name: a, key: s3cret, rate: .inf}]": "rate 1000000 at most", "rate: .nan\nkeys: [{name: a, key: s3cret}]": "rate 1000000 at most",
		"keys: [{name: a, key: s3cret, daily_budget: .nan}]": "daily_budget", "keys: [{name: a, key: s3cret}]\n---\nkeys: [{name: b, key: s3cret}]": "three dashes",
		"keys: [{name: a, kee: s3cret}]": "not a YAML file of keys", "s3cret": "not a YAML file of keys", "keys: [{name: a, key_file: /nowhere/at/all}]": "/nowhere/at/all",
		"keys: [{name: a, key: s3cret, webhook_secret: s3cret}]": "WEBHOOK_SECRET",
	} {
		name, _ := keysFile(t, text)
		_, err := registry.Open(load(t, "REELWAY_KLING_KEYS_FILE="+name))
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "REELWAY_KLING") || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%s: %v", text, err)
		}
	}
	name, _ := keysFile(t, "keys: [{name: default, key: k}]")
	if _, err := registry.Open(load(t, "REELWAY_KLING_KEY=k", "REELWAY_KLING_KEYS_FILE="+name)); err == nil {
		t.Error("two keys have one name")
	}
}

const (
	oldSecret = "whsec_b2xkLXdlYmhvb2stc2VjcmV0LW9mLWtsaW5n"
	newSecret = "whsec_bmV3LXdlYmhvb2stc2VjcmV0LW9mLWtsaW5n"
)

// Keys come, retire and go without a restart: what was taken out still serves
// its tasks and verifies its callbacks, and a key that stays keeps its adapter.
func TestKeysAreReadAgain(t *testing.T) {
	t.Parallel()
	name, write := keysFile(t, "keys: [{name: a, key: one, webhook_secret: "+oldSecret+"}, {name: s, key: stays}]")
	p, err := registry.Open(load(t, "REELWAY_KLING_KEYS_FILE="+name, "REELWAY_KEYS_RELOAD=50ms"))
	if err != nil {
		t.Fatal(err)
	}
	ring := p.Keys["kling"]
	first, stays := ring.Key("a").Adapter, ring.Key("s").Adapter
	ctx, stop := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	t.Cleanup(func() { stop(); wg.Wait() })
	wg.Go(func() { _ = p.Component(slog.New(slog.DiscardHandler)).Run(ctx) })
	until := func(what string, ok func() bool) {
		t.Helper()
		for deadline := time.Now().Add(30 * time.Second); !ok(); {
			if time.Now().After(deadline) {
				t.Fatalf("not within half a minute: %s", what)
			}
			<-time.After(5 * time.Millisecond)
		}
	}
	write("keys: [{name: b, key: two, webhook_secret: " + newSecret + "}, {name: s, key: stays}]")
	until("the new key is there", func() bool { return ring.Key("b") != nil })
	if len(ring.Keys()) != 2 || ring.Key("a") == nil || ring.Key("a").Adapter != first || ring.Key("s").Adapter != stays {
		t.Error("the key that was taken out is lost, or one that stayed is another")
	}
	body := []byte(`{"task_id":"t","task_status":"succeed","task_result":{"videos":[{"id":"v","url":"https://r.example/v.mp4"}]}}`)
	verdict := func(secret string) error {
		key, err := webhooksig.StandardKey(secret)
		if err != nil {
			t.Fatal(err)
		}
		now := time.Now()
		stamp := strconv.FormatInt(now.Unix(), 10)
		h := http.Header{}
		h.Set("webhook-id", "msg_1")
		h.Set("webhook-timestamp", stamp)
		h.Set("webhook-signature", "v1,"+base64.StdEncoding.EncodeToString(webhooksig.StandardMAC(key, "msg_1", stamp, body)))
		_, err = p.Parsers["kling"].ParseWebhook(t.Context(), h, bytes.Clone(body), now)
		return err
	}
	for _, s := range []string{oldSecret, newSecret} {
		if err := verdict(s); errors.Is(err, provider.ErrBadSignature) {
			t.Errorf("a callback of one of the keys is refused: %v", err)
		}
	}
	write("keys: [{name: s, key: stays, webhook_secret: " + newSecret + "}]")
	until("the key with a secret has another adapter", func() bool { return ring.Key("s").Adapter != stays })
	if err := verdict("whsec_YW55Ym9keS1lbHNlcy1zZWNyZXQtaGVyZQ=="); !errors.Is(err, provider.ErrBadSignature) {
		t.Errorf("a callback of nobody's: %v", err)
	}
}

// Callbacks for a whole project are taken only where every key verifies: one
// without a secret would take anybody's word for a hint.
func TestEveryKeyMustVerify(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]bool{
		"keys: [{name: a, key: one, webhook_secret: " + oldSecret + "}]":                                                         true,
		"keys: [{name: a, key: one, webhook_secret: " + oldSecret + "}, {name: b, key: two, webhook_secret: " + newSecret + "}]": true,
		"keys: [{name: a, key: one, webhook_secret: " + oldSecret + "}, {name: b, key: two}]":                                    false,
		"keys: [{name: b, key: two}]": false,
	} {
		name, _ := keysFile(t, text)
		p, err := registry.Open(load(t, "REELWAY_OPENAI_URL=https://openai.example/v1", "REELWAY_OPENAI_KEYS_FILE="+name))
		if err != nil {
			t.Fatal(err)
		}
		if v, ok := p.Parsers["openai"].(provider.Verifier); !ok || v.VerifiesWebhooks() != want {
			t.Errorf("%s: %t", text, !want)
		}
	}
}
