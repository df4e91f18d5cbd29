package test

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"reflect"
	"testing"
	"time"
)

// OpenAI's own JavaScript SDK, unchanged but for base URL and key.
func TestOpenAISDKForJavaScript(t *testing.T) {
	t.Parallel()
	if _, err := os.Stat("sdk/node_modules/.package-lock.json"); err != nil {
		t.Fatal("the client libraries are not installed: run `make setup-test`")
	}
	image := httptest.NewServer(http.NotFoundHandler()) // judged by its address alone
	t.Cleanup(image.Close)
	s := setup(t, append([]string{"REELWAY_VARIANTS=auto", "REELWAY_VARIANTS_TIMEOUT=2m"}, everyProvider...)...)
	ctx, cancel := context.WithTimeout(context.Background(), 4*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "node", "reelway.mjs")
	cmd.Dir = "sdk"
	cmd.Env = append(os.Environ(), "BASE="+s.base, "KEY="+key, "IMAGE="+image.URL+"/a.png")
	out, err := cmd.Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			t.Fatalf("%v\n%s%s", err, out, exit.Stderr)
		}
		t.Fatal(err)
	}
	var got, want map[string]any
	if err := json.Unmarshal(out, &got); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	// A refusal that time heals is tried thrice, every other once.
	if err := json.Unmarshal([]byte(`{
		"created":["queued","4","720x1280",null],"ended":["completed",100],
		"variants":{"video":["video",true],"thumbnail":["image",true],"spritesheet":["image",true]},
		"made":[["completed","4","720x1280",true],["completed","4","720x1280",true],["completed","8","720x1280",true]],
		"listed":[5,5,true,true],"noRemix":["BadRequestError",400,"invalid_request","video"],"advice":true,
		"byFile":["completed","replicate-gen4-aleph","5",null],"file":["BadRequestError",400,"invalid_request","video"],"tooEarly":["ConflictError",409,"conflict","video",3],
		"invalid":["BadRequestError",400,"invalid_request","duration"],"unknown":["AuthenticationError",401,"unauthenticated"],
		"deleted":[true,"video.deleted"],"absent":["NotFoundError",404,"not_found"],"requestId":true}`), &want); err != nil {
		t.Fatal(err)
	}
	for field, v := range want {
		if !reflect.DeepEqual(got[field], v) {
			t.Errorf("%s: %v, want %v", field, got[field], v)
		}
	}
	if len(got) != len(want) {
		t.Errorf("%d fields, want %d: %s", len(got), len(want), out)
	}
}
