package archiver_test

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"reelway.dev/pkg/bus"
	"reelway.dev/pkg/safehttp"
	"reelway.dev/pkg/storetest"
	eventv1 "reelway.dev/proto/gen/reelway/event/v1"
	videov1 "reelway.dev/proto/gen/reelway/video/v1"
	"reelway.dev/services/archiver"
)

var open = safehttp.Config{AllowHTTP: true, AllowPrivate: true}

// making is a configuration that makes variants, with time for a loaded machine.
var making = archiver.Config{MaxBytes: 64 << 20, Timeout: 5 * time.Minute, Patience: time.Minute, GiveUp: time.Hour,
	Variants: "auto", FFmpeg: "ffmpeg", VariantsTimeout: 2 * time.Minute}

// film is a real video with sound, 3 s of 320×180 at 24 pictures a second.
func film(t *testing.T) []byte {
	t.Helper()
	name := filepath.Join(t.TempDir(), "film.mp4")
	if out, err := exec.Command("ffmpeg", "-v", "error", "-f", "lavfi", "-i", "testsrc=size=320x180:rate=24:duration=3", "-f", "lavfi", "-i", "sine=duration=3",
		"-pix_fmt", "yuv420p", name).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func serve(t *testing.T, data []byte) string {
	t.Helper()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(data) }))
	t.Cleanup(srv.Close)
	return srv.URL
}

// fetch gets an object by its signed URL; false when there is none.
func (x *bundle) fetch(key string) ([]byte, bool) {
	x.t.Helper()
	u, _, err := x.files.SignedURL(x.t.Context(), key)
	if err != nil {
		x.t.Fatal(err)
	}
	if h := x.files.Handler(); h != nil {
		rec := httptest.NewRecorder()
		h.ServeHTTP(rec, httptest.NewRequest(http.MethodGet, u, nil))
		return rec.Body.Bytes(), rec.Code == http.StatusOK
	}
	resp, err := http.Get(u)
	if err != nil {
		x.t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		x.t.Fatal(err)
	}
	return data, resp.StatusCode == http.StatusOK
}

// image is what a decoder that is not ours finds in an object.
func (x *bundle) image(v *videov1.Variant) (codec string, width, height int32) {
	x.t.Helper()
	data, ok := x.fetch(v.GetKey())
	if !ok || int64(len(data)) != v.GetSizeBytes() {
		x.t.Fatalf("%v has %d bytes", v, len(data))
	}
	name := filepath.Join(x.t.TempDir(), "image")
	if err := os.WriteFile(name, data, 0o600); err != nil {
		x.t.Fatal(err)
	}
	out, err := exec.Command("ffprobe", "-v", "error", "-of", "json", "-show_streams", name).Output()
	var r struct {
		Streams []struct {
			Codec         string `json:"codec_name"`
			Width, Height int32
		}
	}
	if err != nil || json.Unmarshal(out, &r) != nil || len(r.Streams) != 1 {
		x.t.Fatalf("%v: %v %s", v, err, out)
	}
	return r.Streams[0].Codec, r.Streams[0].Width, r.Streams[0].Height
}

// Thumbnail and sprite sheet lie beside the video, say truly what they are, and
// go with it.
func TestVariants(t *testing.T) {
	t.Parallel()
	data := film(t)
	for name, where := range map[string]func(t *testing.T) string{
		"folder": func(t *testing.T) string { t.Helper(); return "file://" + t.TempDir() },
		"s3":     func(t *testing.T) string { t.Helper(); return storetest.NewS3(t).URL },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			x := setupOn(t, where(t), making, open)
			x.store("att_1", serve(t, data), time.Now(), false)
			a := x.outcome().GetArchived().GetArtifact()
			if a.GetVariantsMissing() != "" || a.GetSizeBytes() != int64(len(data)) {
				t.Fatalf("%v; log:\n%s", a, x.log)
			}
			if m := a.GetMedia(); m.GetVideoCodec() != "h264" || m.GetAudioCodec() != "aac" || m.GetFrameRate() != 24 || m.GetBitRate() == 0 {
				t.Errorf("%v", m)
			}
			th, sheet := a.GetThumbnail(), a.GetSpritesheet()
			codec, w, h := x.image(th)
			if want := map[string]string{"image/webp": "webp", "image/jpeg": "mjpeg"}[th.GetContentType()]; codec != want || w != 320 || h != 180 || th.GetWidth() != w || th.GetHeight() != h {
				t.Errorf("%v is %s %d×%d", th, codec, w, h)
			}
			codec, w, h = x.image(sheet)
			if codec != "mjpeg" || w != 800 || h != 450 || sheet.GetWidth() != w || sheet.GetHeight() != h || sheet.GetColumns() != 5 || sheet.GetRows() != 5 || sheet.GetIntervalMs() != 120 {
				t.Errorf("%v is %s %d×%d", sheet, codec, w, h)
			}
			m, err := bus.NewMessage(bus.DeleteSubject, "delete", &eventv1.DeleteArtifact{Key: a.GetKey(), JobId: "video_att_1", AttemptId: "att_1", AccountId: "acct_1", Provider: "kling"})
			if err != nil {
				t.Fatal(err)
			}
			if err := x.bus.Publish(t.Context(), m); err != nil {
				t.Fatal(err)
			}
			if o := x.outcome(); o.GetArtifactDeleted().GetKey() != a.GetKey() {
				t.Errorf("%v", o)
			}
			for _, key := range []string{a.GetKey(), th.GetKey(), sheet.GetKey()} {
				if _, there := x.fetch(key); there {
					t.Errorf("%s is still there", key)
				}
			}
		})
	}
}

// A video without variants is a video: its artifact says why they are missing.
func TestVideosWithoutVariants(t *testing.T) {
	t.Parallel()
	data := film(t)
	broken := filepath.Join(t.TempDir(), "ffmpeg")
	for _, name := range []string{broken, filepath.Join(filepath.Dir(broken), "ffprobe")} {
		// It answers for its encoders, and fails at everything else.
		if err := os.WriteFile(name, []byte("#!/bin/sh\n[ \"$2\" = -encoders ]\n"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct{ variants, ffmpeg, missing string }{
		{"off", "ffmpeg", "off"},
		{"auto", "/nowhere/ffmpeg", "no_ffmpeg"},
		{"auto", broken, "failed"},
	} {
		t.Run(c.missing, func(t *testing.T) {
			t.Parallel()
			cfg := making
			cfg.Variants, cfg.FFmpeg = c.variants, c.ffmpeg
			x := setup(t, cfg, open)
			x.store("att_1", serve(t, data), time.Now(), false)
			a := x.outcome().GetArchived().GetArtifact()
			if a.GetSizeBytes() != int64(len(data)) || a.GetVariantsMissing() != c.missing || a.GetThumbnail() != nil || a.GetSpritesheet() != nil || a.GetMedia() != nil {
				t.Errorf("%v", a)
			}
			x.quiet(1)
		})
	}
}

// What a killed process left on the disk is removed at the next start; what
// another one works on stays.
func TestOldSpoolsAreRemoved(t *testing.T) {
	t.Parallel()
	var dirs [2]string
	for i := range dirs {
		dir, err := os.MkdirTemp("", "reelway-archive-")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = os.RemoveAll(dir) })
		if err := os.WriteFile(filepath.Join(dir, "video.mp4"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		dirs[i] = dir
	}
	long := time.Now().Add(-24 * time.Hour)
	if err := os.Chtimes(dirs[0], long, long); err != nil {
		t.Fatal(err)
	}
	setup(t, making, open)
	if _, err := os.Stat(dirs[0]); !os.IsNotExist(err) {
		t.Errorf("the old copy is still there: %v", err)
	}
	if _, err := os.Stat(dirs[1]); err != nil {
		t.Errorf("the new copy is gone: %v", err)
	}
}

// A job that is given up leaves no parts in the bucket, not even those of a
// replica that was killed amid its copy.
func TestAGivenUpJobLeavesNoParts(t *testing.T) {
	t.Parallel()
	files := storetest.NewS3(t)
	files.Begin(t, "videos/acct_1/video_att_1/att_1.mp4")
	x := setupOn(t, files.URL, archiver.Config{MaxBytes: length, Timeout: time.Minute, GiveUp: time.Hour}, open)
	srv := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(srv.Close)
	x.store("att_1", srv.URL, time.Now(), false)
	if o := x.outcome(); o.GetArchiveFailed() == nil {
		t.Errorf("%v", o)
	}
	if n := files.Unfinished(t); n != 0 {
		t.Errorf("%d unfinished uploads", n)
	}
}
