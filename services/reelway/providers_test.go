package reelway_test

import (
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"

	"reelway.dev/pkg/catalog"
	videov1 "reelway.dev/proto/gen/reelway/video/v1"
	"reelway.dev/services/reelway"
)

// Every provider's models, from the request to the stored video: by webhook,
// by hint, by challenge, by poll, and with results that need a key.
func TestEveryProvider(t *testing.T) {
	t.Parallel()
	s := running(t, "REELWAY_SIMULATOR_RENDER=400ms", "REELWAY_WATCH_AFTER=20s", "REELWAY_POLL_INTERVAL=500ms", "REELWAY_DEV_CREDITS=1000")
	jobs, providers := map[string]string{}, map[string]bool{}
	for _, m := range catalog.Builtin().Models() {
		_, bad := m.Resolve(&videov1.VideoRequest{Prompt: "a lighthouse"}, "720p", nil)
		if m.ProviderModels[catalog.TextToVideo] == "" || bad != nil {
			continue // from images only, or above the tier of the development account
		}
		jobs[m.ID] = submit(t, s, m.ID)
		providers[m.Provider] = true
	}
	if len(providers) != 10 {
		t.Errorf("%d providers have a model", len(providers))
	}
	for model, id := range jobs {
		m, _ := catalog.Builtin().Model(model)
		want, _ := m.Resolve(&videov1.VideoRequest{Prompt: "a lighthouse"}, "720p", nil)
		v := watch(t, s, id)
		if a := v.GetArtifact(); v.GetState() != videov1.VideoState_VIDEO_STATE_SUCCEEDED || a.GetWidth() != want.GetWidth() || a.GetHeight() != want.GetHeight() ||
			a.GetDurationMs() != int64(want.GetDurationSeconds())*1000 {
			t.Errorf("%s: %v %v %v, want %dx%d", model, v.GetState(), v.GetError(), a, want.GetWidth(), want.GetHeight())
		}
	}
	// How they stand is told over the admin door, by the names of keys alone.
	sh := shell{t, []string{"--server", s.GRPCAddr, "--key", s.AdminKey}}
	out := sh.table([]string{"providers", "list"}, "kling", "veo", "key default ", " active ", "running 0", "weight 1")
	if strings.Contains(out, "simulated-key") {
		t.Errorf("a secret is shown:\n%s", out)
	}
	var answer struct {
		Providers []struct {
			Name string
			Keys []struct{ ID, State string }
		}
	}
	sh.json(&answer, "providers", "list")
	if len(answer.Providers) != 10 || answer.Providers[0].Name != "atlascloud" || len(answer.Providers[0].Keys) != 1 {
		t.Errorf("%+v", answer)
	}
	sh.args[3] = s.APIKey
	sh.fails(1, "scope", "providers", "list")
}

func submit(t *testing.T, s *reelway.Stack, model string) string {
	t.Helper()
	req, err := http.NewRequest(http.MethodPost, s.HTTPURL+"/v1/videos", strings.NewReader(`{"model":"`+model+`","prompt":"a lighthouse"}`))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+s.APIKey)
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	data, err := io.ReadAll(resp.Body)
	var v struct{ ID string }
	if err != nil || resp.StatusCode != http.StatusOK || json.Unmarshal(data, &v) != nil {
		t.Fatalf("%s: %d %s %v", model, resp.StatusCode, data, err)
	}
	return v.ID
}
