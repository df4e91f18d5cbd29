// Package live holds no code but tests: the adapters against the true
// providers, for money. A provider is asked when REELWAY_LIVE_<PROVIDER> holds
// a key to it, and all together may not cost more than REELWAY_LIVE_MAX_USD (1
// when not set):
//
//	REELWAY_LIVE_FAL=… make live
//
// Keys that lie in the environment under their providers' own names are never
// used. Kling's is its plain API key, or access and secret key with a colon
// between. REELWAY_LIVE_<PROVIDER>_URL is another address of a provider, which
// the OpenAI dialect needs.
package live

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"reelway.dev/pkg/id"
	"reelway.dev/pkg/provider"
	"reelway.dev/pkg/provider/registry"
	"reelway.dev/pkg/run"
	"reelway.dev/services/simulator"
)

// clip is the cheapest that a provider makes: its cheapest model at its
// smallest, for its shortest time.
type clip struct {
	provider string
	task     provider.Task
	cost     int64 // micro-USD, as listed in pkg/catalog in 2026-11
}

var clips = []clip{
	{"fal", shape("fal-ai/bytedance/seedance/v1/pro/fast/text-to-video", 5, "480p", 854, 480), 50_000},
	{"byteplus", shape("seedance-1-5-pro-251215", 5, "480p", 854, 480), 60_000},
	{"atlascloud", shape("bytedance/seedance-v1.5-pro/text-to-video", 5, "480p", 854, 480), 150_000},
	{"luma", shape("ray-3.2", 5, "540p", 960, 540), 150_000},
	{"kling", shape("kling-v2-5-turbo", 5, "720p", 1280, 720), 210_000},
	{"runway", shape("gen4.5", 2, "720p", 1280, 720), 240_000},
	{"minimax", shape("MiniMax-Hailuo-2.3", 6, "768p", 1366, 768), 280_000},
	{"veo", shape("veo-3.1-fast-generate-preview", 4, "720p", 1280, 720), 400_000},
	{"replicate", shape("google/veo-3.1-fast", 4, "720p", 1280, 720), 400_000},
	{"openai", shape("sora-2", 4, "720p", 1280, 720), 400_000},
}

func shape(model string, seconds int, resolution string, width, height int) provider.Task {
	return provider.Task{Model: model, Prompt: "A paper boat drifts over a calm pond, in the morning light", Duration: seconds, Resolution: resolution, AspectRatio: "16:9", Width: width, Height: height}
}

// name is the provider's in settings.
func (c clip) name() string { return strings.ToUpper(c.provider) }

// open is the provider's adapter; an empty url is the provider's own address.
func (c clip) open(t *testing.T, key, url string) provider.Adapter {
	t.Helper()
	environ := []string{"REELWAY_" + c.name() + "_KEY=" + key}
	if access, secret, pair := strings.Cut(key, ":"); pair && c.provider == "kling" {
		environ = []string{"REELWAY_KLING_ACCESS_KEY=" + access, "REELWAY_KLING_SECRET_KEY=" + secret}
	}
	if url != "" {
		environ = append(environ, "REELWAY_"+c.name()+"_URL="+url)
	}
	if url != "" && c.provider == "luma" {
		environ = append(environ, "REELWAY_LUMA_AGENTS_URL="+url)
	}
	var cfg registry.Config
	if err := run.Load(environ, nil, &cfg); err != nil {
		t.Fatal(err)
	}
	p, err := registry.Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return p.Adapters[c.provider]
}

// affordable splits clips into those that a budget pays for together, the
// cheapest first, and the others.
func affordable(clips []clip, budget int64) (within, beyond []clip) {
	sorted := slices.SortedStableFunc(slices.Values(clips), func(a, b clip) int { return cmp.Compare(a.cost, b.cost) })
	for _, c := range sorted {
		if c.cost > budget {
			beyond = append(beyond, c)
			continue
		}
		budget -= c.cost
		within = append(within, c)
	}
	return within, beyond
}

// dollars reads an amount in USD into micro-USD.
func dollars(s string) (int64, error) {
	amount, err := strconv.ParseFloat(s, 64)
	if err != nil || !(amount >= 0 && amount <= 1000) { // NaN is neither
		return 0, fmt.Errorf("%q is no amount of 0 to 1000 USD", s)
	}
	return int64(math.Round(amount * 1e6)), nil
}

func usd(micros int64) string { return fmt.Sprintf("$%.2f", float64(micros)/1e6) }

func TestLive(t *testing.T) {
	t.Parallel()
	budget, err := dollars(cmp.Or(os.Getenv("REELWAY_LIVE_MAX_USD"), "1"))
	if err != nil {
		t.Fatalf("REELWAY_LIVE_MAX_USD: %v", err)
	}
	var on []clip
	for _, c := range clips {
		if os.Getenv("REELWAY_LIVE_"+c.name()) != "" {
			on = append(on, c)
			continue
		}
		t.Run(c.provider, func(t *testing.T) {
			t.Parallel()
			t.Skipf("REELWAY_LIVE_%s is not set", c.name())
		})
	}
	within, beyond := affordable(on, budget)
	for _, c := range beyond {
		t.Run(c.provider, func(t *testing.T) {
			t.Parallel()
			t.Skipf("its clip costs about %s, which is more than REELWAY_LIVE_MAX_USD leaves", usd(c.cost))
		})
	}
	for _, c := range within {
		t.Run(c.provider, func(t *testing.T) {
			t.Parallel()
			a := c.open(t, os.Getenv("REELWAY_LIVE_"+c.name()), os.Getenv("REELWAY_LIVE_"+c.name()+"_URL"))
			c.render(t, a, 6*time.Second) // Runway asks for 5 s at least
		})
	}
}

// render submits a clip once, polls it to its end and fetches the beginning of
// the video.
func (c clip) render(t *testing.T, a provider.Adapter, every time.Duration) {
	t.Helper()
	ctx, cancel := t.Context(), func() {}
	if limit, ok := t.Deadline(); ok {
		ctx, cancel = context.WithDeadline(ctx, limit.Add(-10*time.Second))
	}
	defer cancel()
	task := c.task
	task.JobID, task.AttemptID = id.New("video"), id.New("attempt")
	started := time.Now()
	taskID, err := a.Submit(ctx, task)
	if err != nil {
		t.Fatalf("submit: %v", err) // unknown or refused: it is not sent again
	}
	t.Logf("%s took the task %s: %s, %d s, %s, about %s", c.provider, taskID, task.Model, task.Duration, task.Resolution, usd(c.cost))
	r := c.watch(ctx, t, a, taskID, task, every)
	if r.State != provider.Succeeded {
		t.Fatalf("task %s ended as %+v", taskID, r)
	}
	t.Logf("task %s succeeded after %s", taskID, time.Since(started).Round(time.Second))
	fetch(ctx, t, a, r.ResultURL)
}

// watch polls a task to its end. A poll that fails says nothing of the task.
func (c clip) watch(ctx context.Context, t *testing.T, a provider.Adapter, taskID string, task provider.Task, every time.Duration) provider.Report {
	t.Helper()
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			t.Fatalf("task %s of %s has not ended in time, and may cost about %s", taskID, c.provider, usd(c.cost))
		case <-tick.C:
		}
		r, err := a.Poll(ctx, taskID, task)
		if err != nil {
			t.Logf("poll: %v", err)
			continue
		}
		if r.UnknownWord != "" {
			t.Errorf("%s has a status word that the adapter does not know: %q", c.provider, r.UnknownWord)
		}
		if r.State == provider.Succeeded || r.State == provider.Failed {
			return r
		}
	}
}

// fetch reads the beginning of a result, with the key where it needs one.
func fetch(ctx context.Context, t *testing.T, a provider.Adapter, url string) {
	t.Helper()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	if d, ok := a.(provider.Downloader); ok {
		req.Header = d.ResultHeader(url)
	}
	origin := req.URL.Host
	client := http.Client{CheckRedirect: func(next *http.Request, _ []*http.Request) error {
		if next.URL.Host != origin { // a key stays at home
			next.Header = http.Header{}
		}
		return nil
	}}
	defer client.CloseIdleConnections()
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal("the result cannot be reached: ", err)
	}
	defer func() { _ = resp.Body.Close() }()
	head := make([]byte, 12)
	if _, err := io.ReadFull(resp.Body, head); err != nil || resp.StatusCode != http.StatusOK || string(head[4:8]) != "ftyp" {
		t.Fatalf("the result is no MP4: status %d, %q, %v", resp.StatusCode, head, err)
	}
}

// What TestLive does for money is tried out against the simulator first.
func TestTheSameAgainstTheSimulator(t *testing.T) {
	t.Parallel()
	const key = "simulated-key"
	sim, err := simulator.New(simulator.Config{TimeScale: 1, Render: 200 * time.Millisecond, AtlasKey: key, KlingAccess: key, KlingSecret: "a-secret-key-for-kling-of-32-bytes", Key: key},
		simulator.Deps{Client: &http.Client{Timeout: 5 * time.Second}, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(sim.Handler())
	t.Cleanup(func() { srv.CloseClientConnections(); sim.Close(); srv.Close() })
	for _, c := range clips {
		url := srv.URL + "/" + c.provider
		if c.provider == "openai" {
			url += "/v1"
		}
		t.Run(c.provider, func(t *testing.T) {
			t.Parallel()
			c.render(t, c.open(t, key, url), 100*time.Millisecond)
		})
	}
	t.Run("kling, by a pair of keys", func(t *testing.T) {
		t.Parallel()
		i := slices.IndexFunc(clips, func(c clip) bool { return c.provider == "kling" })
		clips[i].render(t, clips[i].open(t, key+":a-secret-key-for-kling-of-32-bytes", srv.URL+"/kling"), 100*time.Millisecond)
	})
}

// The budget is for all clips together.
func TestTheBudgetHolds(t *testing.T) {
	t.Parallel()
	for amount, want := range map[string]int{"0": 0, "0.04": 0, "0.05": 1, "1": 6, "1000": len(clips)} {
		budget, err := dollars(amount)
		if err != nil {
			t.Fatal(err)
		}
		within, beyond := affordable(clips, budget)
		var sum int64
		for _, c := range within {
			sum += c.cost
		}
		if sum > budget || len(within) != want || len(within)+len(beyond) != len(clips) {
			t.Errorf("%s USD: %d clips for %s", amount, len(within), usd(sum))
		}
	}
	for _, wrong := range []string{"much", "-1", "1001", "NaN"} {
		if got, err := dollars(wrong); err == nil {
			t.Errorf("%s is %d", wrong, got)
		}
	}
}
