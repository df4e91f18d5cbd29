package simulator_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"reelway.dev/pkg/fault"
	"reelway.dev/pkg/provider"
	"reelway.dev/pkg/provider/providertest"
	"reelway.dev/pkg/provider/registry"
	"reelway.dev/services/simulator"
)

// providers are the ten adapters against one simulator, all with one key.
func providers(t *testing.T, root, key string) map[string]provider.Adapter {
	t.Helper()
	p, err := registry.Open(registry.Config{
		AtlasURL: root + "/atlascloud", AtlasKey: key, KlingURL: root + "/kling", KlingAccessKey: key, KlingSecretKey: "a-secret-key-for-kling-of-32-bytes",
		FalURL: root + "/fal", FalKey: key, ReplicateURL: root + "/replicate", ReplicateKey: key, RunwayURL: root + "/runway", RunwayKey: key,
		LumaURL: root + "/luma", LumaAgentsURL: root + "/luma", LumaKey: key, MiniMaxURL: root + "/minimax", MiniMaxKey: key,
		BytePlusURL: root + "/byteplus", BytePlusKey: key, VeoURL: root + "/veo", VeoKey: key, OpenAIURL: root + "/openai/v1", OpenAIKey: key,
	})
	if err != nil || len(p.Adapters) != 10 {
		t.Fatalf("%d adapters, %v", len(p.Adapters), err)
	}
	return p.Adapters
}

var models = map[string]string{"atlascloud": "bytedance/seedance-2.0/text-to-video", "kling": "kling-v2-6", "fal": "fal-ai/veo3.1/fast",
	"replicate": "bytedance/seedance-1-pro", "runway": "gen4.5", "luma": "ray-3.2", "minimax": "MiniMax-Hailuo-2.3",
	"byteplus": "seedance-1-5-pro-251215", "veo": "veo-3.1-generate-preview", "openai": "sora-2"}

func task(name, prompt string) provider.Task {
	return provider.Task{JobID: "video_1", AttemptID: "attempt_" + prompt, Model: models[name], Prompt: prompt, Duration: 6, Resolution: "720p", AspectRatio: "16:9", Width: 1280, Height: 720}
}

func admin(t *testing.T, root, path string, body any) {
	t.Helper()
	raw, err := json.Marshal(body)
	if err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(context.Background(), http.MethodPost, root+"/admin/"+path, bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := client(t).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	if err := resp.Body.Close(); err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%s: status %d, %v", path, resp.StatusCode, err)
	}
}

// A provider takes the keys that it is told of, and shows a task to the account
// that submitted it, whichever of the account's keys asks.
func TestKeysAreToldApart(t *testing.T) {
	t.Parallel()
	h := simulate(t, "")
	sim, _ := h.Simulator.(providertest.Admin)
	first, second := providers(t, sim.URL, key), providers(t, sim.URL, "another-key")
	for name, a := range first {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx, b := context.Background(), second[name]
			mine, others := simulator.Fingerprint(key), simulator.Fingerprint("another-key")
			id, err := a.Submit(ctx, task(name, name))
			if err != nil {
				t.Fatal(err)
			}
			var no *provider.RefusedError
			if _, err := b.Submit(ctx, task(name, name+" refused")); !errors.As(err, &no) || no.Fault.Code != fault.ProviderUnavailable || no.Fault.Retryable || no.Cause != provider.BadKey {
				t.Errorf("a key that is not known: %v", err)
			}
			ring := map[string]any{"provider": name, "accept": []string{mine, others}}
			admin(t, sim.URL, "keys", ring)
			if _, err := b.Submit(ctx, task(name, name+" second")); err != nil {
				t.Error(err)
			}
			if got := fingerprints(t, sim.URL, name); !slices.Equal(got, []string{mine, others}) {
				t.Errorf("the tasks are of %v", got)
			}
			if _, err := b.Poll(ctx, id, task(name, name)); err == nil {
				t.Error("one account sees another's task")
			}
			if c, ok := b.(provider.Canceler); ok {
				if err := c.Cancel(ctx, id, task(name, name)); err == nil || errors.Is(err, provider.ErrTooLate) {
					t.Errorf("one account cancels another's task: %v", err)
				}
			}
			ring["accept"], ring["one_account"] = []string{others}, true // the key was rotated
			admin(t, sim.URL, "keys", ring)
			if _, err := b.Poll(ctx, id, task(name, name)); err != nil {
				t.Errorf("the account's new key: %v", err)
			}
			if _, err := a.Poll(ctx, id, task(name, name)); err == nil {
				t.Error("the old key is good")
			}
			admin(t, sim.URL, "keys", map[string]any{"provider": name})
			if _, err := a.Poll(ctx, id, task(name, name)); err != nil {
				t.Errorf("the key of the settings: %v", err)
			}
		})
	}
}

// fingerprints are the keys that submitted a provider's tasks, the first first.
func fingerprints(t *testing.T, root, name string) (keys []string) {
	t.Helper()
	req, err := http.NewRequestWithContext(context.Background(), http.MethodGet, root+"/admin/tasks", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := client(t).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	var out struct{ Tasks []simulator.Task }
	if err := json.NewDecoder(resp.Body).Decode(&out); err != nil {
		t.Fatal(err)
	}
	for _, task := range out.Tasks {
		if task.Provider == name {
			keys = append(keys, task.Key)
		}
	}
	return keys
}

// The faults of a whole provider strike every call, for a number of calls or a
// time, and end when they are told to.
func TestFaultsOfAWholeProvider(t *testing.T) {
	t.Parallel()
	h := simulate(t, "")
	sim, _ := h.Simulator.(providertest.Admin)
	for name, a := range providers(t, sim.URL, key) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx := context.Background()
			id, err := a.Submit(ctx, task(name, name))
			if err != nil {
				t.Fatal(err)
			}
			set := func(fault string, more map[string]any) {
				body := map[string]any{"provider": name, "fault": fault}
				for k, v := range more {
					body[k] = v
				}
				admin(t, sim.URL, "faults", body)
			}
			var no *provider.RefusedError
			for _, f := range []string{"outage", "throttled", "bad_key"} {
				set(f, map[string]any{"for": "1h", "retry_after": 7})
				_, err := a.Submit(ctx, task(name, name+f))
				switch refused := errors.As(err, &no); {
				case f == "outage" && (err == nil || refused && !no.Fault.Retryable),
					f == "throttled" && (!refused || no.Fault.Code != fault.RateLimited || no.Fault.RetryAfter != 7*time.Second),
					f == "bad_key" && (!refused || no.Fault.Code != fault.ProviderUnavailable || no.Fault.Retryable || no.Cause != provider.BadKey):
					t.Errorf("%s: submit: %v", f, err)
				}
				if _, err := a.Poll(ctx, id, task(name, name)); err == nil {
					t.Errorf("%s: a poll is answered", f)
				}
				set(f, nil)
				if _, err := a.Poll(ctx, id, task(name, name)); err != nil {
					t.Errorf("after %s: %v", f, err)
				}
			}
			cause := provider.NoBalance
			if name == "veo" { // whose answer is the same for a region
				cause = provider.NoAccess
			}
			set("no_balance", map[string]any{"for": "1h"})
			if _, err := a.Submit(ctx, task(name, name+"no_balance")); !errors.As(err, &no) || no.Fault.Code != fault.ProviderUnavailable || no.Fault.Retryable || no.Cause != cause {
				t.Errorf("no balance: %v", err)
			}
			if _, err := a.Poll(ctx, id, task(name, name)); err != nil {
				t.Errorf("without a balance a poll is refused: %v", err)
			}
			set("outage", map[string]any{"count": 1})
			if _, err := a.Poll(ctx, id, task(name, name)); err == nil {
				t.Error("the next call is answered")
			}
			if _, err := a.Poll(ctx, id, task(name, name)); err != nil {
				t.Errorf("the call after the next: %v", err)
			}
		})
	}
}

// Every fault of a prompt can be set for a provider as well; one that nobody
// knows cannot.
func TestFaultsWithoutAPrompt(t *testing.T) {
	t.Parallel()
	h := simulate(t, "")
	sim, _ := h.Simulator.(providertest.Admin)
	a, ctx := providers(t, sim.URL, key)["kling"], context.Background()
	ends := func(prompt string) provider.Report {
		id, err := a.Submit(ctx, task("kling", prompt))
		if err != nil {
			t.Fatal(err)
		}
		admin(t, sim.URL, "tasks/"+id, map[string]any{"state": "succeeded"})
		r, err := a.Poll(ctx, id, task("kling", prompt))
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	for fault, want := range map[string]func(r provider.Report) bool{
		"fail_halfway": func(r provider.Report) bool { return r.State == provider.Failed },
		"unknown_word": func(r provider.Report) bool { return r.UnknownWord != "" },
		"empty_result": func(r provider.Report) bool {
			return r.State == provider.Failed && r.Err.ProviderCode == "empty_result"
		},
		"expired_result": func(r provider.Report) bool { return strings.HasSuffix(r.ResultURL, "/expired.mp4") },
	} {
		admin(t, sim.URL, "faults", map[string]any{"provider": "kling", "fault": fault, "count": 1})
		if r := ends(fault); !want(r) {
			t.Errorf("%s: %+v", fault, r)
		}
		if r := ends("after " + fault); r.State != provider.Succeeded {
			t.Errorf("after %s: %+v", fault, r)
		}
	}
	resp, err := client(t).Post(sim.URL+"/admin/faults", "application/json", strings.NewReader(`{"provider":"kling","fault":"error5000","count":1}`))
	if err != nil {
		t.Fatal(err)
	}
	if err := resp.Body.Close(); err != nil || resp.StatusCode != http.StatusBadRequest {
		t.Errorf("an unknown fault: status %d, %v", resp.StatusCode, err)
	}
}

// Several keys of the settings are several accounts.
func TestSeveralKeysAreSeveralAccounts(t *testing.T) {
	t.Parallel()
	h := simulate(t, "", func(c *simulator.Config) { c.Key, c.KlingAccess = "one,two", "one,two" })
	sim, _ := h.Simulator.(providertest.Admin)
	ctx, one, two, none := context.Background(), providers(t, sim.URL, "one"), providers(t, sim.URL, "two"), providers(t, sim.URL, "one,two")
	for _, name := range []string{"kling", "veo"} {
		id, err := one[name].Submit(ctx, task(name, name))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := one[name].Poll(ctx, id, task(name, name)); err != nil {
			t.Error(err)
		}
		if _, err := two[name].Poll(ctx, id, task(name, name)); err == nil {
			t.Errorf("%s: one account sees another's task", name)
		}
		if _, err := two[name].Submit(ctx, task(name, name+"2")); err != nil {
			t.Error(err)
		}
		if _, err := none[name].Submit(ctx, task(name, name+"3")); err == nil {
			t.Errorf("%s: a list passes for a key", name)
		}
	}
}
