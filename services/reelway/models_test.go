package reelway_test

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/metadata"

	"reelway.dev/pkg/catalog"
	"reelway.dev/pkg/rpc"
	videov1 "reelway.dev/proto/gen/reelway/video/v1"
	"reelway.dev/services/reelway"
	"reelway.dev/services/simulator"
)

// atlas is a simulated Atlas Cloud, to import from.
func atlas(t *testing.T) string {
	t.Helper()
	sim, err := simulator.New(simulator.Config{TimeScale: 1, Render: time.Hour, AtlasKey: "k"}, simulator.Deps{Client: http.DefaultClient, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(sim.Handler())
	t.Cleanup(func() { srv.Close(); sim.Close() })
	return srv.URL + "/atlascloud"
}

// withModels runs a stack on operators' files.
func withModels(t *testing.T, files string) *reelway.Stack {
	t.Helper()
	return running(t, "REELWAY_SIMULATOR_RENDER=400ms", "REELWAY_MODELS_FILES="+files, "REELWAY_MODELS_EVERY=100ms")
}

// asks does one REST request with the development key.
func asks(t *testing.T, s *reelway.Stack, method, path, body string) (int, string) {
	t.Helper()
	a := rest(t, method, s.HTTPURL+path, s.APIKey, body)
	return a.status, a.body
}

func command(t *testing.T, args ...string) (int, string) {
	t.Helper()
	var out, errs strings.Builder
	code := reelway.Main(args, &out, &errs)
	return code, out.String() + errs.String()
}

// A provider's list is imported, checked and served beside the models that
// ship: more than three hundred, and an imported one makes a video.
func TestImportedModels(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, "atlas.yaml")
	if code, out := command(t, "models", "import", "--url", atlas(t), "--out", file); code != 0 || !strings.Contains(out, "written: "+file) {
		t.Fatalf("%d %s", code, out)
	}
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"# bytedance/seedance-1.0-lite/reference-to-video: its task cannot be asked for",
		"# bytedance/no-schema-1/text-to-video: it has no schema",
		"  prices: {480p: {second: 18000}, 720p: {second: 40500}, 1080p: {second: 91125}}",
	} {
		if !strings.Contains(string(data), want) {
			t.Errorf("the file has no %s", want)
		}
	}
	for _, no := range []string{"internal/preview", "flux", "deepseek"} {
		if strings.Contains(string(data), no) {
			t.Errorf("the file has %s", no)
		}
	}
	if code, out := command(t, "models", "check", file); code != 0 || !strings.Contains(out, "no fault: ") {
		t.Errorf("%d %s", code, out)
	}

	s := withModels(t, file)
	var list struct {
		Data []struct {
			ID, Provider string
			Priced       bool
		}
	}
	if code, body := asks(t, s, "GET", "/v1/models", ""); code != 200 || json.Unmarshal([]byte(body), &list) != nil || len(list.Data) <= 300 {
		t.Errorf("%d with %d models", code, len(list.Data))
	}
	const model = "bytedance/seedance-2.0-mini/text-to-video"
	code, body := asks(t, s, "GET", "/v1/models/"+model, "")
	for _, want := range []string{`"id":"` + model + `"`, `"audio_always":true`, `"prompt_characters":2500`, `"priced":true`, `"result_life_seconds":1209600`,
		`{"audio":true,"per_second":"0.035100","resolution":"480p"}`, `"tasks":["text-to-video"]`, `"url":""`} {
		if code != 200 || !strings.Contains(body, want) {
			t.Errorf("%d without %s: %s", code, want, body)
		}
	}
	id := submit(t, s, model)
	if v := watch(t, s, id); v.GetState() != videov1.VideoState_VIDEO_STATE_SUCCEEDED || v.GetParams().GetProviderModel() != model || v.GetCapturedMicros() == 0 {
		t.Errorf("%v", v)
	}
	if code, body := asks(t, s, "POST", "/v1/videos", `{"model":"alibaba/unpriced-1/text-to-video","prompt":"p"}`); code != 400 ||
		!strings.Contains(body, "alibaba/unpriced-1/text-to-video has no price yet and cannot be used") {
		t.Errorf("%d %s", code, body)
	}
}

// A running stack takes a changed file without a restart and keeps the last
// good one over a faulty one, and says so in its metrics. A job outlives its
// model.
//
//nolint:paralleltest // the meters are the process's
func TestModelsFilesReload(t *testing.T) {
	file := filepath.Join(t.TempDir(), "models.yaml")
	put := func(text string) {
		t.Helper()
		if err := os.WriteFile(file+".new", []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(file+".new", file); err != nil {
			t.Fatal(err)
		}
	}
	mine := func(price string) string {
		return `[{id: mine, provider: kling, provider_models: {text-to-video: kling-v9}, durations: [5], resolutions: [720p], ratios: ["16:9"], source: s, source_date: 2026-11, prices: {720p: {second: ` + price + `}}}]`
	}
	put(mine("10000"))
	s := withModels(t, file)
	total := func() string {
		_, body := asks(t, s, "POST", "/v1/videos:quote", `{"model":"mine","prompt":"p"}`)
		var q struct{ Total string }
		_ = json.Unmarshal([]byte(body), &q) // a refusal has no total
		return q.Total
	}
	until := func(what string, ok func() bool) {
		t.Helper()
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		for end := time.Now().Add(60 * time.Second); !ok(); <-tick.C {
			if time.Now().After(end) {
				t.Fatalf("never: %s", what)
			}
		}
	}
	metric := func(line string) bool {
		resp, err := http.Get(s.OpsURL + "/metrics")
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = resp.Body.Close() }()
		data, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range strings.Split(string(data), "\n") {
			if name, value, ok := strings.Cut(l, "{"); ok && name+value[strings.LastIndex(value, "}")+1:] == line {
				return true
			}
		}
		return false
	}
	if got := total(); got != "0.050000" {
		t.Errorf("it costs %s", got)
	}
	put(mine("20000"))
	until("the new price", func() bool { return total() == "0.100000" })
	put(mine("free"))
	until("the fault in the metrics", func() bool { return metric("reelway_catalog_stale 1") })
	if got := total(); got != "0.100000" {
		t.Errorf("with a faulty file it costs %s", got)
	}
	id := submit(t, s, "mine")
	put("[{id: mine, disabled: true}]")
	until("the model is gone", func() bool { return total() == "" })
	if v := watch(t, s, id); v.GetState() != videov1.VideoState_VIDEO_STATE_SUCCEEDED {
		t.Errorf("%v", v)
	}
	if !metric("reelway_catalog_stale 0") {
		t.Error("the metrics still say that the files are faulty")
	}
	if code, body := asks(t, s, "GET", "/v1/models/mine", ""); code != 404 || !strings.Contains(body, "GET /v1/models lists the models") {
		t.Errorf("%d %s", code, body)
	}
}

// The start is refused with everything that is wrong, and so is the check.
func TestFaultyModelsFiles(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "models.yaml")
	if err := os.WriteFile(file, []byte("- {id: a, colour: red}\n- {id: b, provider: p}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	set, err := reelway.Load([]string{"REELWAY_HTTP_ADDR=127.0.0.1:0", "REELWAY_GRPC_ADDR=127.0.0.1:0", "REELWAY_OPS_ADDR=127.0.0.1:0", "REELWAY_SIMULATOR_ADDR=127.0.0.1:0", "REELWAY_VARIANTS=off",
		"REELWAY_DATA_DIR=" + dataDir(t), "REELWAY_MODELS_FILES=" + file})
	if err != nil {
		t.Fatal(err)
	}
	err = reelway.Run(context.Background(), set, slog.New(slog.DiscardHandler), func(*reelway.Stack) { t.Error("it started") })
	code, out := command(t, "models", "check", file)
	if err == nil || code != 1 {
		t.Fatalf("%v %d", err, code)
	}
	for _, want := range []string{file + `:1: model "a": colour: is not a field here`, file + `:1: model "a": provider: is required`, file + `:2: model "b": durations: is required`} {
		if !strings.Contains(err.Error(), want) || !strings.Contains(out, want) {
			t.Errorf("no %s in %v or in %s", want, err, out)
		}
	}
	if code, out := command(t, "models", "import", "--url", "http://127.0.0.1:1"); code != 1 || !strings.Contains(out, "read the list of models") {
		t.Errorf("%d %s", code, out)
	}
}

// Capability and price are shown over REST, over gRPC and on the command line.
func TestModelsAreShown(t *testing.T) {
	t.Parallel()
	s := withModels(t, "")
	sh := shell{t, []string{"--server", s.GRPCAddr, "--key", s.AdminKey}}
	sh.table([]string{"models", "list"}, "MODEL", "kling-v2-6  ", "image-to-video start-end-frame-to-video text-to-video", "720p 1080p", "from 0.042000 a second", "none: refused")
	var shown struct{ Models []map[string]any }
	sh.json(&shown, "models", "list")
	if len(shown.Models) != len(catalog.Builtin().Models()) {
		t.Errorf("%d models", len(shown.Models))
	}
	conn, err := rpc.Dial(s.GRPCAddr)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	ctx, cancel := context.WithTimeout(metadata.AppendToOutgoingContext(context.Background(), "authorization", "Bearer "+s.APIKey), 60*time.Second)
	defer cancel()
	r, err := videov1.NewVideoServiceClient(conn).ListModels(ctx, &videov1.ListModelsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range r.GetModels() {
		if m.GetId() == "ray-3.2" {
			p := m.GetPrices()[1]
			if p.GetResolution() != "540p" || p.GetClipSeconds() != 10 || p.GetAmountMicros() != 450_000 || m.GetPricePerSecondMicros() != 30_000 {
				t.Errorf("%v", m)
			}
		}
	}
	for model, wants := range map[string][]string{
		"veo-3.1": {`"object":"model"`, `"owned_by":"veo"`, `"provenance":{"synthid":"always"}`, `"audio_always":true`, `"max_seconds":360`, `"typical_seconds":null`,
			`"durations_at":{"1080p":[8]}`, `"requests_per_minute":10`, `"price_per_second_from":"0.400000"`, `{"audio":true,"per_second":"0.400000","resolution":"1080p"}`, `"result_life_seconds":172800`},
		"kling-v2-6":        {`"task_resolutions":{"start-end-frame-to-video":["1080p"]}`, `{"audio":true,"per_second":"0.084000","resolution":"720p"}`, `"prompt_characters":2500`},
		"ray-3.2":           {`{"audio":false,"duration":10,"per_clip":"0.450000","resolution":"540p"}`},
		"seedance-2.0-fast": {`"priced":false`, `"prices":[]`, `"price_per_second_from":null`, `"typical_seconds":120`},
	} {
		code, body := asks(t, s, "GET", "/v1/models/"+model, "")
		for _, want := range wants {
			if code != 200 || !strings.Contains(body, want) {
				t.Errorf("%s: %d without %s: %s", model, code, want, body)
			}
		}
	}
	if code, body := asks(t, s, "GET", "/v1/models/none", ""); code != 404 || !strings.Contains(body, "no such model") {
		t.Errorf("%d %s", code, body)
	}
	code, body := asks(t, s, "POST", "/v1/videos", `{"model":"veo-3.1","prompt":"p","seconds":5,"seed":1,"resolution":"480p","aspect_ratio":"1:1","audio":false}`)
	for _, want := range []string{"seed: veo-3.1 takes none", "audio: veo-3.1 always makes sound", `resolution: veo-3.1 makes 720p, 1080p, not \"480p\"`, `aspect_ratio: veo-3.1 makes 16:9, 9:16, not \"1:1\"`, "duration: veo-3.1 makes 8, 6, 4 seconds, not 5"} {
		if code != 400 || !strings.Contains(body, strings.SplitN(want, ": ", 2)[1]) || !strings.Contains(body, `"name":"`+strings.SplitN(want, ":", 2)[0]+`"`) {
			t.Errorf("%d without %s: %s", code, want, body)
		}
	}
}
