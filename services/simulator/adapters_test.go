package simulator_test

import (
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"testing"
	"time"

	"reelway.dev/pkg/provider"
	"reelway.dev/pkg/provider/atlascloud"
	"reelway.dev/pkg/provider/byteplus"
	"reelway.dev/pkg/provider/declared"
	"reelway.dev/pkg/provider/fal"
	"reelway.dev/pkg/provider/kling"
	"reelway.dev/pkg/provider/luma"
	"reelway.dev/pkg/provider/minimax"
	"reelway.dev/pkg/provider/openai"
	"reelway.dev/pkg/provider/providertest"
	"reelway.dev/pkg/provider/replicate"
	"reelway.dev/pkg/provider/runway"
	"reelway.dev/pkg/provider/veo"
	"reelway.dev/pkg/webhooksig"
	"reelway.dev/services/simulator"
)

const (
	key           = "simulated-key"
	webhookSecret = "whsec_c2ltdWxhdGVkLXdlYmhvb2stc2VjcmV0LWtleQ=="
)

// simulate starts a simulator whose renders go on only when a test says so.
func simulate(t *testing.T, name string, change ...func(*simulator.Config)) providertest.Harness {
	t.Helper()
	cfg := simulator.Config{TimeScale: 1, Render: 100 * time.Hour, AtlasKey: key, KlingAccess: key, KlingSecret: "a-secret-key-for-kling-of-32-bytes", WebhookSecret: webhookSecret, Key: key}
	for _, c := range change {
		c(&cfg)
	}
	sim, err := simulator.New(cfg, simulator.Deps{Client: &http.Client{Timeout: 5 * time.Second}, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(sim.Handler())
	srv.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	t.Cleanup(func() { srv.CloseClientConnections(); sim.Close(); srv.Close() })
	h, ok := providertest.Builtin(name)
	if !ok && name != "" {
		t.Fatalf("%s is not built in", name)
	}
	h.BaseURL, h.Simulator = srv.URL+"/"+name, providertest.Admin{URL: srv.URL}
	return h
}

// client is one adapter's own, so that its connections are.
func client(t *testing.T) *http.Client {
	t.Helper()
	tr := &http.Transport{}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr}
}

func account(t *testing.T, url string) provider.Account {
	t.Helper()
	return provider.Account{BaseURL: url, APIKey: key, Client: client(t), Now: time.Now}
}

func hookKeys(t *testing.T) [][]byte {
	t.Helper()
	k, err := webhooksig.StandardKey(webhookSecret)
	if err != nil {
		t.Fatal(err)
	}
	return [][]byte{k}
}

func TestAtlasCloud(t *testing.T) {
	t.Parallel()
	h := simulate(t, atlascloud.Name)
	h.New = func(url string) provider.Adapter {
		return atlascloud.New(atlascloud.Config{BaseURL: url, APIKey: key, Client: client(t), Now: time.Now})
	}
	providertest.Run(t, h)
}

func TestKling(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, model, apiKey string
		webhooks            providertest.Webhooks
	}{
		{"old generation", "kling-v2-6", "", providertest.Signed},
		{"new generation", "kling-3.0-turbo", key, providertest.Signed},
		{"unsigned", "kling-3.0", key, providertest.Hints},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			cfg := kling.Config{AccessKey: key, SecretKey: "a-secret-key-for-kling-of-32-bytes", APIKey: c.apiKey, Now: time.Now}
			h := simulate(t, kling.Name, func(s *simulator.Config) {
				if c.webhooks == providertest.Hints {
					s.WebhookSecret = ""
				} else {
					cfg.WebhookKeys = hookKeys(t)
				}
			})
			h.Task.Model, h.Webhooks = c.model, c.webhooks
			if c.apiKey != "" {
				h.Sources = nil
			}
			h.New = func(url string) provider.Adapter {
				mine := cfg
				mine.BaseURL, mine.Client = url, client(t)
				return kling.New(mine)
			}
			providertest.Run(t, h)
		})
	}
}

func TestReplicate(t *testing.T) {
	t.Parallel()
	h := simulate(t, replicate.Name)
	h.New = func(url string) provider.Adapter {
		return replicate.New(replicate.Config{Account: account(t, url), WebhookKeys: hookKeys(t)})
	}
	providertest.Run(t, h)
}

func TestFal(t *testing.T) {
	t.Parallel()
	h := simulate(t, fal.Name)
	h.New = func(url string) provider.Adapter {
		return fal.New(fal.Config{Account: account(t, url), KeysURL: url + "/nowhere", KeysFallback: url + "/.well-known/jwks.json"})
	}
	providertest.Run(t, h)
}

func TestRunway(t *testing.T) {
	t.Parallel()
	h := simulate(t, runway.Name)
	h.New = func(url string) provider.Adapter { return runway.New(runway.Config{Account: account(t, url)}) }
	providertest.Run(t, h)
}

func TestLuma(t *testing.T) {
	t.Parallel()
	for _, model := range []string{"ray-2", "ray-3.2"} { // Dream Machine, and the Agents API
		t.Run(model, func(t *testing.T) {
			t.Parallel()
			h := simulate(t, luma.Name)
			h.Task.Model = model
			h.New = func(url string) provider.Adapter {
				return luma.New(luma.Config{Account: account(t, url), AgentsURL: url, AgentsCallbacks: true})
			}
			providertest.Run(t, h)
		})
	}
}

func TestBytePlus(t *testing.T) {
	t.Parallel()
	h := simulate(t, byteplus.Name)
	h.New = func(url string) provider.Adapter { return byteplus.New(byteplus.Config{Account: account(t, url)}) }
	providertest.Run(t, h)
}

func TestMiniMax(t *testing.T) {
	t.Parallel()
	for _, model := range []string{"MiniMax-Hailuo-2.3", "MiniMax-H3"} { // v1 and v2
		t.Run(model, func(t *testing.T) {
			t.Parallel()
			h := simulate(t, minimax.Name)
			h.Task.Model = model
			h.NoCancel = model == "MiniMax-Hailuo-2.3"
			h.New = func(url string) provider.Adapter { return minimax.New(minimax.Config{Account: account(t, url)}) }
			providertest.Run(t, h)
		})
	}
}

// An address that MiniMax cannot test costs the callbacks, and not the tasks.
func TestMiniMaxWithoutAWayToUs(t *testing.T) {
	t.Parallel()
	dead := httptest.NewServer(http.NotFoundHandler())
	dead.Close()
	for _, model := range []string{"MiniMax-Hailuo-2.3", "MiniMax-H3"} { // v1 and v2
		for door, prompt := range map[string]string{dead.URL: "a closed door, for " + model, "http://door.example": "[fault:challenge_fails] for " + model} {
			h := simulate(t, minimax.Name)
			a := minimax.New(minimax.Config{Account: account(t, h.BaseURL), Logger: slog.New(slog.DiscardHandler)})
			task := provider.Task{JobID: "video_1", AttemptID: "attempt_1", Model: model, Prompt: prompt, Duration: 6, Resolution: "768p", CallbackURL: door + "/v1/callbacks/minimax/video_1?attempt=attempt_1"}
			taskID, err := a.Submit(t.Context(), task)
			if err != nil {
				t.Fatalf("%s: %v", prompt, err)
			}
			if tasks := h.Simulator.Tasks(t, prompt); len(tasks) != 1 || tasks[0].ID != taskID {
				t.Errorf("%s: the tasks %v were accepted", prompt, tasks)
			}
			h.Simulator.Move(t, taskID, "succeeded")
			if r, err := a.Poll(t.Context(), taskID, task); err != nil || r.State != provider.Succeeded {
				t.Errorf("%s: %+v %v", prompt, r, err)
			}
		}
	}
}

func TestVeo(t *testing.T) {
	t.Parallel()
	h := simulate(t, veo.Name)
	h.New = func(url string) provider.Adapter { return veo.New(veo.Config{Account: account(t, url)}) }
	providertest.Run(t, h)
}

func TestOpenAI(t *testing.T) {
	t.Parallel()
	h := simulate(t, openai.Name)
	h.BaseURL += "/v1"
	h.New = func(url string) provider.Adapter {
		return openai.New(openai.Config{Account: account(t, url), WebhookKeys: hookKeys(t), CallbackField: "callback_url"})
	}
	providertest.Run(t, h)
}

// A described signature is proof, of each kind, and nothing else is.
func TestDeclaredSignatures(t *testing.T) {
	t.Parallel()
	data, err := os.ReadFile("../../pkg/provider/declared/testdata/providers.yaml")
	if err != nil {
		t.Fatal(err)
	}
	specs, err := declared.Parse(data)
	if err != nil {
		t.Fatal(err)
	}
	none := ""
	for name, w := range map[string]declared.Webhook{
		"body":       {Signature: "hmac-sha256", Header: "X-Hub", Prefix: "sha256="},
		"dated":      {Signature: "hmac-sha512", Header: "X-Acme-Signature", Encoding: "base64", TimestampHeader: "X-Acme-Time"},
		"asymmetric": {Signature: "ed25519", Header: "X-Signature-Ed25519", TimestampHeader: "X-Signature-Timestamp", Separator: &none, Tolerance: time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h, s := simulate(t, "replicate"), specs[0]
			s.Webhook = &w
			scheme, _ := w.Scheme()
			keys := h.SignAs(scheme)
			h.New = func(url string) provider.Adapter { return declared.New(s, account(t, url), keys) }
			providertest.Run(t, h)
		})
	}
}

// Providers that are described and not programmed pass the same suite.
func TestDeclared(t *testing.T) {
	t.Parallel()
	data, err := os.ReadFile("../../pkg/provider/declared/testdata/providers.yaml")
	if err != nil {
		t.Fatal(err)
	}
	specs, err := declared.Parse(data)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range specs {
		t.Run(s.Name, func(t *testing.T) {
			t.Parallel()
			h := simulate(t, s.Name)
			h.Webhooks = providertest.None
			if s.Submit.Video == "" {
				h.Sources = nil
			}
			h.Task.Model = map[string]string{"replicate": "wan-video/wan-2.6-t2v", "runway": "gen4.5"}[s.Name]
			if s.Webhook != nil {
				h.Webhooks = providertest.Signed
			}
			h.New = func(url string) provider.Adapter { return declared.New(s, account(t, url), hookKeys(t)) }
			providertest.Run(t, h)
		})
	}
}
