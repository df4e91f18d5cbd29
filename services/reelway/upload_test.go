package reelway_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"image"
	"image/png"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"reelway.dev/services/simulator"
)

// A file of this machine is uploaded, comes to the provider, and leaves nothing
// behind.
func TestSubmitWithAFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	st, stop := start(t, dir)
	defer stop()
	var picture bytes.Buffer
	if err := png.Encode(&picture, image.NewGray(image.Rect(0, 0, 320, 180))); err != nil {
		t.Fatal(err)
	}
	p := newPerson(t, "REELWAY_URL="+st.HTTPURL, "REELWAY_API_KEY="+st.APIKey)
	if err := os.WriteFile(filepath.Join(p.dir, "boat.png"), picture.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	if q := p.run("", "quote", "p", "--model", "kling-v2-6", "--image", "boat.png"); q.code != 0 || !strings.Contains(q.out, "total") {
		t.Errorf("%+v", q)
	}
	v := p.run("", "submit", "A boat [fetch]", "--model", "kling-v2-6", "--image", "boat.png", "--watch", "--json")
	var saved struct{ ID, File string }
	if v.code != 0 || json.Unmarshal([]byte(v.out), &saved) != nil || saved.File == "" {
		t.Fatalf("%+v", v)
	}
	// What was saved is edited.
	if err := os.Rename(saved.File, filepath.Join(p.dir, "boat.mp4")); err != nil {
		t.Fatal(err)
	}
	film, err := os.ReadFile(filepath.Join(p.dir, "boat.mp4"))
	if err != nil {
		t.Fatal(err)
	}
	if v := p.run("", "submit", "At night [fetch]", "--model", "replicate-gen4-aleph", "--remix", "boat.mp4", "--watch"); v.code != 0 {
		t.Errorf("%+v", v)
	}
	resp, err := http.Get(st.SimURL + "/admin/tasks")
	if err != nil {
		t.Fatal(err)
	}
	var all struct{ Tasks []simulator.Task }
	err = json.NewDecoder(resp.Body).Decode(&all)
	_ = resp.Body.Close()
	got := map[string]string{}
	for _, task := range all.Tasks {
		for _, in := range task.Inputs {
			got[task.Prompt] += in.SHA256
		}
	}
	sum, filmSum := sha256.Sum256(picture.Bytes()), sha256.Sum256(film)
	if err != nil || len(all.Tasks) != 2 || got["A boat [fetch]"] != hex.EncodeToString(sum[:]) || got["At night [fetch]"] != hex.EncodeToString(filmSum[:]) {
		t.Errorf("%+v %v", all, err)
	}
	for name, want := range map[string]string{"absent.png": "absent.png", ".": "is no file"} {
		if v := p.run("", "submit", "p", "--model", "kling-v2-6", "--image", name); v.code != 2 || !strings.Contains(v.err, want) {
			t.Errorf("%s: %+v", name, v)
		}
	}
	deadline := time.After(time.Minute)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		left, err := filepath.Glob(filepath.Join(dir, "bucket", "uploads", "*", "*"))
		if err != nil {
			t.Fatal(err)
		}
		if len(left) == 0 {
			return
		}
		select {
		case <-deadline:
			t.Fatalf("left are %v", left)
		case <-tick.C:
		}
	}
}
