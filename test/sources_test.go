package test

import (
	"context"
	"errors"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	videov1 "reelway.dev/proto/gen/reelway/video/v1"
	"reelway.dev/services/simulator"
)

// everyProvider turns on those that the other tests do without.
var everyProvider = []string{"REELWAY_OPENAI_URL=SIM/openai/v1", "REELWAY_OPENAI_KEY=simulated", "REELWAY_RUNWAY_URL=SIM/runway", "REELWAY_RUNWAY_KEY=simulated",
	"REELWAY_FAL_URL=SIM/fal", "REELWAY_FAL_KEY=simulated", "REELWAY_FAL_JWKS_URL=SIM/fal/.well-known/jwks.json", "REELWAY_LUMA_URL=SIM/luma", "REELWAY_LUMA_KEY=simulated",
	"REELWAY_VEO_URL=SIM/veo", "REELWAY_VEO_KEY=simulated", "REELWAY_REPLICATE_URL=SIM/replicate", "REELWAY_REPLICATE_KEY=simulated"}

// task is the one that the provider accepted with a prompt.
func (s *stack) task(prompt string) simulator.Task {
	s.t.Helper()
	var found []simulator.Task
	for _, t := range s.tasks("") {
		if t.Prompt == prompt {
			found = append(found, t)
		}
	}
	if len(found) != 1 {
		s.t.Fatalf("%d tasks of %q", len(found), prompt)
	}
	return found[0]
}

// A finished video is made anew or goes on: by its task at the provider that made
// it, or by a signed address at any other, which the provider can truly fetch.
func TestVideosOfVideos(t *testing.T) {
	t.Parallel()
	s := setup(t, everyProvider...)
	make1 := func(path string, body map[string]any) string {
		t.Helper()
		a := s.call(http.MethodPost, path, body)
		if a.status != http.StatusOK {
			t.Fatalf("%s %v: %d %s", path, body, a.status, a.raw)
		}
		return a.video.ID
	}
	made := map[string]string{}
	for _, model := range []string{"kling-v1-6", "veo-3.1", "ray-2", "sora-2"} {
		made[model] = make1("/v1/videos", map[string]any{"model": model, "prompt": "a boat by " + model, "resolution": "720p", "aspect_ratio": "9:16"})
	}
	for model, id := range made {
		if v := s.await(90*time.Second, id); v.Status != "completed" || v.RemixedFrom != nil {
			t.Fatalf("%s: %+v", model, v.Error)
		}
	}
	for name, c := range map[string]struct {
		path   string
		body   map[string]any
		source string // model of the source
		task   bool   // its task is told, not its address
		made   string // model, seconds, size
		cost   string
	}{
		"kling goes on": {"/v1/videos/extensions", map[string]any{"video": map[string]any{"id": made["kling-v1-6"]}}, "kling-v1-6", true, "kling-v1-6 5 720x1280", "0.280000"},
		// Kling cannot be asked for it: its webhook tells, and it is not made twice.
		"a lost answer [fault:reset_after_accept]": {"/v1/videos/extensions", map[string]any{"video": map[string]any{"id": made["kling-v1-6"]}}, "kling-v1-6", true, "kling-v1-6 5 720x1280", "0.280000"},
		"veo goes on":       {"/v1/videos/extensions", map[string]any{"video": map[string]any{"id": made["veo-3.1"]}, "seconds": "7"}, "veo-3.1", true, "veo-3.1 7 720x1280", "2.800000"},
		"luma goes on":      {"/v1/videos", map[string]any{"video": map[string]any{"id": made["ray-2"]}, "extend": true, "duration": 9}, "ray-2", true, "ray-2 9 720x1280", "1.278000"},
		"sora goes on":      {"/v1/videos/extensions", map[string]any{"video": map[string]any{"id": made["sora-2"]}, "seconds": "16"}, "sora-2", true, "sora-2 16 720x1280", "1.600000"},
		"sora is remixed":   {"/v1/videos/" + made["sora-2"] + "/remix", map[string]any{}, "sora-2", true, "sora-2 8 720x1280", "0.800000"},
		"sora is edited":    {"/v1/videos/edits", map[string]any{"video": map[string]any{"id": made["sora-2"]}}, "sora-2", true, "sora-2 8 720x1280", "0.800000"},
		"kling's at runway": {"/v1/videos/edits", map[string]any{"video": map[string]any{"id": made["kling-v1-6"]}, "model": "runway-seedance-2.0", "seconds": "4"}, "kling-v1-6", false, "runway-seedance-2.0 4 720x1280", "1.440000"},
		"aleph":             {"/v1/videos", map[string]any{"video": map[string]any{"id": made["veo-3.1"]}, "model": "replicate-gen4-aleph", "size": "1280x720"}, "veo-3.1", false, "replicate-gen4-aleph 5 1280x720", "0.900000"},
		"by who can":        {"/v1/videos/extensions", map[string]any{"video": map[string]any{"id": made["ray-2"]}, "route": "veo-3"}, "ray-2", false, "fal-veo-3.1 7 720x1280", "1.400000"},
	} {
		c.body["prompt"] = "it snows: " + name
		quote := s.call(http.MethodPost, "/v1/videos:quote", map[string]any{"prompt": "p", "model": c.body["model"], "video": map[string]any{"id": made[c.source]}})
		id := make1(c.path, c.body)
		v := s.await(90*time.Second, id)
		if got := v.Model + " " + v.Seconds + " " + v.Size; v.Status != "completed" || got != c.made || v.Cost.Captured != c.cost || v.RemixedFrom == nil || *v.RemixedFrom != made[c.source] {
			t.Errorf("%s: %s, %s for %s, of %v: %+v (quote %s)", name, v.Status, got, v.Cost.Captured, v.RemixedFrom, v.Error, quote.raw)
		}
		task, source := s.task("it snows: "+name), s.task("a boat by "+c.source)
		if c.task != (task.Source == source.ID) || c.task == strings.HasPrefix(task.Source, s.base) {
			t.Errorf("%s: the provider was given %q", name, task.Source)
		}
	}
	// gRPC takes the same.
	conn, err := grpc.NewClient(s.grpc, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	ctx, cancel := context.WithTimeout(metadata.AppendToOutgoingContext(context.Background(), "authorization", "Bearer "+key), time.Minute)
	defer cancel()
	client := videov1.NewVideoServiceClient(conn)
	ask := &videov1.VideoRequest{Prompt: "over gRPC", SourceVideo: made["kling-v1-6"], Extend: true}
	quote, err1 := client.QuoteVideo(ctx, &videov1.QuoteVideoRequest{Video: ask})
	created, err2 := client.CreateVideo(ctx, &videov1.CreateVideoRequest{Video: ask})
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	if v := s.await(90*time.Second, created.GetVideo().GetId()); v.Cost.CapturedMicros != quote.GetTotalMicros() || v.RemixedFrom == nil || s.task("over gRPC").Source != s.task("a boat by kling-v1-6").ID {
		t.Errorf("%+v, quoted %v", v, quote)
	}
	ask.SourceVideo = "video_absent"
	if _, err := client.CreateVideo(ctx, &videov1.CreateVideoRequest{Video: ask}); status.Code(err) != codes.NotFound {
		t.Error(err)
	}
	s.books(-1)
}

// What cannot be worked on is refused with the field, the reason and a way on,
// and without a job.
func TestSourcesAreRefused(t *testing.T) {
	t.Parallel()
	s := setup(t, everyProvider...)
	done := s.call(http.MethodPost, "/v1/videos", request("kling-v1-6", "a boat")).video.ID
	failed := s.call(http.MethodPost, "/v1/videos", request("kling-v1-6", "a boat [fault:fail_halfway]")).video.ID
	s.await(90*time.Second, done)
	s.await(90*time.Second, failed)
	deleted := s.call(http.MethodPost, "/v1/videos", request("kling-v1-6", "a ship")).video.ID
	s.await(90*time.Second, deleted)
	s.call(http.MethodDelete, "/v1/videos/"+deleted, nil)
	waiting := s.call(http.MethodPost, "/v1/videos", request("seedance-2.0", "a raft [fault:unknown_word]")).video.ID
	jobs := func() (n int) { s.sql("select count(*) from job", &n); return n }
	before := jobs()
	video := func(id string) map[string]any { return map[string]any{"id": id} }
	for name, c := range map[string]struct {
		path, body string
		status     int
		fields     string
		says       string
	}{
		"not finished":         {"/v1/videos/" + waiting + "/remix", `{"prompt":"p"}`, 409, "video", "send the request again when it is completed"},
		"failed":               {"/v1/videos/" + failed + "/remix", `{"prompt":"p"}`, 409, "video", "is failed"},
		"deleted":              {"/v1/videos/" + deleted + "/remix", `{"prompt":"p"}`, 404, "video", "there is no such video"},
		"unknown":              {"/v1/videos/extensions", `{"prompt":"p","video":{"id":"video_absent"}}`, 404, "video", "there is no such video"},
		"another's model":      {"/v1/videos/" + done + "/remix", `{"prompt":"p"}`, 400, "video,model", "for video-to-video choose one of"},
		"not its own":          {"/v1/videos/extensions", `{"prompt":"p","model":"veo-3.1","video":{"id":"` + done + `"}}`, 400, "video", "veo-3.1 works only on videos that it made itself"},
		"no source":            {"/v1/videos/edits", `{"prompt":"p"}`, 400, "video", "is required"},
		"no source to extend":  {"/v1/videos/extensions", `{"prompt":"p"}`, 400, "video", "is required"},
		"two sources":          {"/v1/videos/" + done + "/remix", `{"prompt":"p","video":{"id":"video_2"}}`, 400, "video", "contradicts the path"},
		"a URL, and a video":   {"/v1/videos/edits", `{"prompt":"p","model":"runway-seedance-2.0","video":{"id":"` + done + `"},"video_url":"https://v.example/a.mp4"}`, 400, "video_url", "contradicts video"},
		"no URL":               {"/v1/videos/edits", `{"prompt":"p","model":"runway-seedance-2.0","video_url":"bucket:other/key.mp4"}`, 400, "video_url", "must be an https URL or the id of an upload"},
		"a URL where own":      {"/v1/videos/edits", `{"prompt":"p","model":"sora-2","video_url":"https://v.example/a.mp4"}`, 400, "video_url", "works only on videos that it made"},
		"a length of no model": {"/v1/videos/extensions", `{"prompt":"p","seconds":"8","video":{"id":"` + done + `"}}`, 400, "duration", "kling-v1-6 makes 5 seconds, not 8"},
		"too dear":             {"/v1/videos/extensions", `{"prompt":"p","max_cost":0.1,"video":{"id":"` + done + `"}}`, 400, "max_cost", "costs 0.28"},
		"an alias of no one":   {"/v1/videos/extensions", `{"prompt":"p","route":"kling-3","video":{"id":"` + done + `"}}`, 400, "route", "offers no extend"},
		"no price":             {"/v1/videos/edits", `{"prompt":"p","model":"aleph-2","video":{"id":"` + done + `"}}`, 400, "model", "has no price"},
		"not an id":            {"/v1/videos/edits", `{"prompt":"p","video":{"id":"../x"}}`, 400, "video", "must hold the id of a video"},
		"extend in a remix":    {"/v1/videos/" + done + "/remix", `{"prompt":"p","extend":true,"model":"runway-seedance-2.0"}`, 400, "extend", "/v1/videos/extensions"},
	} {
		a := s.call(http.MethodPost, c.path, c.body)
		var fields []string
		for _, f := range a.fault.Fields {
			fields = append(fields, f.Name)
		}
		if a.status != c.status || !strings.HasPrefix(strings.Join(fields, ","), c.fields) || !strings.Contains(a.fault.Message, c.says) || a.fault.Param == nil {
			t.Errorf("%s: %d %v %s", name, a.status, fields, a.fault.Message)
		}
		if a.fault.Retryable != (name == "not finished") {
			t.Errorf("%s: retry is %v", name, a.fault.Retryable)
		}
	}
	if n := jobs(); n != before {
		t.Errorf("%d jobs were made", n-before)
	}
	// The same key and request are the same video; a quote is what is held.
	body := map[string]any{"prompt": "p", "model": "runway-seedance-2.0", "video": video(done), "seconds": "4"}
	first, second := s.call(http.MethodPost, "/v1/videos/edits", body, "Idempotency-Key", "k"), s.call(http.MethodPost, "/v1/videos/edits", body, "Idempotency-Key", "k")
	if first.status != http.StatusOK || first.video.ID != second.video.ID || first.video.Cost.Held != "1.440000" {
		t.Errorf("%s\n%s", first.raw, second.raw)
	}
	body["seconds"] = "5"
	if a := s.call(http.MethodPost, "/v1/videos/edits", body, "Idempotency-Key", "k"); a.status != http.StatusConflict {
		t.Errorf("another request: %d %s", a.status, a.raw)
	}
	s.await(90*time.Second, first.video.ID)
}

// A request that is sent again is answered with its video, also when it would be
// refused by now: what was accepted once is not refused afterwards.
func TestAReplayOutlivesItsSource(t *testing.T) {
	t.Parallel()
	s := setup(t, everyProvider...)
	source := s.call(http.MethodPost, "/v1/videos", request("kling-v1-6", "a boat")).video.ID
	s.await(90*time.Second, source)
	remix := map[string]any{"prompt": "p", "model": "runway-seedance-2.0", "seconds": "4"}
	edit := map[string]any{"prompt": "p", "model": "runway-seedance-2.0", "seconds": "4", "video": map[string]any{"id": source}, "max_cost": "2"}
	send := func(path string, body map[string]any, key string) answer {
		return s.call(http.MethodPost, path, body, "Idempotency-Key", key)
	}
	first, second := send("/v1/videos/"+source+"/remix", remix, "remix 1"), send("/v1/videos/edits", edit, "edit 1")
	for _, a := range []answer{first, second} {
		if a.status != http.StatusOK {
			t.Fatalf("%d %s", a.status, a.raw)
		}
		s.await(90*time.Second, a.video.ID)
	}
	if a := s.call(http.MethodDelete, "/v1/videos/"+source, nil); a.status != http.StatusOK {
		t.Fatalf("%d %s", a.status, a.raw)
	}
	for range 2 {
		again, twin := send("/v1/videos/"+source+"/remix", remix, "remix 1"), send("/v1/videos/edits", edit, "edit 1")
		if again.video.ID != first.video.ID || again.video.Status != "completed" || twin.video.ID != second.video.ID {
			t.Errorf("%d %s, %d %s", again.status, again.raw, twin.status, twin.raw)
		}
	}
	// Nobody else's, and nothing else, is answered by it.
	stranger := s.in(t)
	stranger.key = s.newKey(s.reelway("accounts", "create", "Other", "--credits", "10").AccountID, "videos:read,videos:write")
	other := map[string]any{"prompt": "q", "model": "runway-seedance-2.0", "seconds": "4"}
	wrong := map[string]any{"prompt": "p", "model": "runway-seedance-2.0", "seconds": "x"}
	for name, a := range map[string]answer{
		"another key": send("/v1/videos/"+source+"/remix", remix, "remix 2"), "no key": send("/v1/videos/"+source+"/remix", remix, ""),
		"another request": send("/v1/videos/"+source+"/remix", other, "remix 1"),
		"another account": stranger.call(http.MethodPost, "/v1/videos/"+source+"/remix", remix, "Idempotency-Key", "remix 1"),
	} {
		if a.status != http.StatusNotFound || a.fault.Param == nil || *a.fault.Param != "video" {
			t.Errorf("%s: %d %s", name, a.status, a.raw)
		}
	}
	if a := send("/v1/videos/"+source+"/remix", wrong, "remix 1"); a.status == http.StatusOK {
		t.Errorf("a request that cannot be read: %s", a.raw)
	}
	s.books(-1)
}

// A video that is deleted while a job on it waits is gone for its owner, but not for
// the provider, who is asked later; then its file goes as well.
func TestASourceIsDeletedWhileItsJobWaits(t *testing.T) {
	t.Parallel()
	s := setup(t, everyProvider...)
	source := s.call(http.MethodPost, "/v1/videos", request("kling-v1-6", "a boat")).video.ID
	s.await(90*time.Second, source)
	s.reelway("providers", "pause", "runway", "--reason", "to be late")
	edit := map[string]any{"prompt": "it snows", "model": "runway-seedance-2.0", "seconds": "4", "video": map[string]any{"id": source}}
	a := s.call(http.MethodPost, "/v1/videos/edits", edit)
	if a.status != http.StatusOK {
		t.Fatalf("%d %s", a.status, a.raw)
	}
	if d := s.call(http.MethodDelete, "/v1/videos/"+source, nil); d.status != http.StatusOK {
		t.Fatalf("%d %s", d.status, d.raw)
	}
	for what, got := range map[string]answer{"read": s.call(http.MethodGet, "/v1/videos/"+source, nil), "content": s.call(http.MethodGet, "/v1/videos/"+source+"/content", nil),
		"deleted again": s.call(http.MethodDelete, "/v1/videos/"+source, nil), "edited again": s.call(http.MethodPost, "/v1/videos/edits", edit)} {
		if got.status != http.StatusNotFound {
			t.Errorf("a deleted video is %s: %d %s", what, got.status, got.raw)
		}
	}
	var file string
	s.sql("select key from artifact_deletion where job_id = '"+source+"' and asked_at = 'infinity'", &file)
	file = filepath.Join(s.dir, "data/bucket", file)
	if _, err := os.Stat(file); err != nil {
		t.Fatal(err)
	}
	s.reelway("providers", "resume", "runway")
	if v := s.await(90*time.Second, a.video.ID); v.Status != "completed" {
		t.Errorf("%s: %+v", v.Status, v.Error) // the simulator fetches the source before it takes the task
	}
	s.eventually(60*time.Second, "the file is gone", func() bool {
		_, err := os.Stat(file)
		return errors.Is(err, fs.ErrNotExist)
	})
	s.books(-1)
}
