package reelway_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
)

// Operators turn maintenance on and off, and pause and resume providers; what is
// not there cannot be paused, and callers cannot do any of it.
func TestSwitchesByCommand(t *testing.T) {
	t.Parallel()
	s, stop := start(t, dataDir(t))
	defer stop()
	sh := shell{t, []string{"--server", s.GRPCAddr, "--key", s.AdminKey}}
	sh.table([]string{"maintenance", "status"}, "maintenance off", "live jobs 0")
	sh.table([]string{"maintenance", "on", "--reason", "a new disk", "--retry-after", "90s"}, "maintenance on since", "reason a new disk", "retry after 1m30s")
	var st struct {
		Maintenance *struct {
			Reason string `json:"reason"`
			Retry  string `json:"retry_after"`
		}
	}
	if sh.json(&st, "maintenance", "status"); st.Maintenance == nil || st.Maintenance.Reason != "a new disk" || st.Maintenance.Retry != "90s" {
		t.Errorf("%+v", st)
	}
	soon(t, "a video is refused", func() bool {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.HTTPURL+"/v1/videos", strings.NewReader(`{"model":"kling-v2-6","prompt":"p"}`))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+s.APIKey)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		return resp.StatusCode == http.StatusServiceUnavailable && resp.Header.Get("Retry-After") == "90"
	})
	sh.table([]string{"maintenance", "off"}, "maintenance off")
	sh.table([]string{"maintenance", "off"}, "maintenance off") // it is off already
	sh.fails(1, "retry_after", "maintenance", "on", "--reason", "x", "--retry-after", "48h")
	sh.fails(1, "reason", "maintenance", "on", "--reason", "a\x07b")

	sh.table([]string{"providers", "pause", "kling", "--reason", "no balance there"}, "kling paused since", ": no balance there")
	sh.table([]string{"providers", "pause", "luma", "--model", "ray-2", "--reason", "blurred", "--for", "2h"}, "luma, model ray-2 paused since", " until ")
	sh.table([]string{"providers", "list"}, "paused since", ": no balance there", ": blurred")
	sh.fails(1, `"nobody" is none whose models are on offer here: `, "providers", "pause", "nobody", "--reason", "x")
	sh.fails(1, `"ray-99" is none of the models of luma: `, "providers", "pause", "luma", "--model", "ray-99", "--reason", "x")
	sh.fails(1, "until", "providers", "pause", "luma", "--reason", "x", "--for=-2h")
	sh.table([]string{"providers", "resume", "kling"}, "kling not paused")
	sh.table([]string{"providers", "resume", "luma", "--model", "ray-2"}, "luma, model ray-2 not paused")
	if out := sh.table([]string{"providers", "list"}); strings.Contains(out, "paused") {
		t.Errorf("%s", out)
	}

	var log struct {
		Entries []struct{ Action string }
	}
	sh.json(&log, "audit")
	var actions []string
	for _, e := range log.Entries {
		actions = append(actions, e.Action)
	}
	want := "provider.resume provider.resume provider.pause provider.pause maintenance.end maintenance.start"
	if got := strings.Join(actions, " "); !strings.HasPrefix(got, want) {
		t.Errorf("the audit log has %s; want %s", got, want)
	}
	raw, err := json.Marshal(log)
	if err != nil || strings.Contains(string(raw), s.AdminKey) {
		t.Errorf("%s %v", raw, err)
	}
	caller := shell{t, []string{"--server", s.GRPCAddr, "--key", s.APIKey}}
	caller.fails(1, "admin", "maintenance", "on", "--reason", "x")
	caller.fails(1, "admin", "providers", "pause", "kling", "--reason", "x")
}
