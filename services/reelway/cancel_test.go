package reelway_test

import (
	"bytes"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"reelway.dev/pkg/fault"
	ledgerv1 "reelway.dev/proto/gen/reelway/ledger/v1"
	videov1 "reelway.dev/proto/gen/reelway/video/v1"
	"reelway.dev/services/reelway"
)

// text is a log that is written and read at the same time.
type text struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (x *text) Write(p []byte) (int, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.b.Write(p)
}

func (x *text) String() string {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.b.String()
}

// watched is a stack whose renders end when a test says so, and its log.
type watched struct {
	*reelway.Stack
	doors
	t   *testing.T
	log *text
}

func watchedStack(t *testing.T, more ...string) *watched {
	t.Helper()
	w := &watched{t: t, log: &text{}}
	s, stop := launch(t, append([]string{"REELWAY_DATA_DIR=" + dataDir(t), "REELWAY_SIMULATOR_RENDER=100h", "REELWAY_POLL_INTERVAL=200ms", "REELWAY_SWEEP_INTERVAL=200ms", "REELWAY_DEV_CREDITS=1000"}, more...),
		slog.New(slog.NewTextHandler(w.log, nil)))
	t.Cleanup(stop)
	w.Stack = s
	w.doors = dial(t, w.Stack)
	return w
}

// submit opens a job and waits until a provider has it.
func (w *watched) submit(model, prompt string) *videov1.Video {
	w.t.Helper()
	return w.ends(w.submitted(model, prompt), videov1.VideoState_VIDEO_STATE_RUNNING)
}

// submitted opens a job.
func (w *watched) submitted(model, prompt string) (id string) {
	w.t.Helper()
	r, err := w.video.CreateVideo(as(w.t, w.APIKey), &videov1.CreateVideoRequest{Video: &videov1.VideoRequest{Model: model, Prompt: prompt}})
	if err != nil {
		w.t.Fatalf("%s: %v", model, err)
	}
	return r.GetVideo().GetId()
}

func (w *watched) read(id string) *videov1.Video {
	w.t.Helper()
	r, err := w.video.GetVideo(as(w.t, w.APIKey), &videov1.GetVideoRequest{Id: id})
	if err != nil {
		w.t.Fatal(err)
	}
	return r.GetVideo()
}

func (w *watched) await(id string, ok func(*videov1.Video) bool) (v *videov1.Video) {
	w.t.Helper()
	eventually(w.t, func() string { return v.String() }, func() bool { v = w.read(id); return ok(v) })
	return v
}

func (w *watched) ends(id string, state videov1.VideoState) *videov1.Video {
	w.t.Helper()
	return w.await(id, func(v *videov1.Video) bool { return v.GetState() == state })
}

func (w *watched) cancel(id string) *videov1.Video {
	w.t.Helper()
	r, err := w.video.CancelVideo(as(w.t, w.APIKey), &videov1.CancelVideoRequest{Id: id})
	if err != nil {
		w.t.Fatal(err)
	}
	return r.GetVideo()
}

// task is a task as the simulator, the independent witness, knows it.
type task struct {
	ID, State string
	Charged   bool
}

func (w *watched) tasks(prompt string) []task {
	w.t.Helper()
	var out struct{ Tasks []task }
	w.admin(http.MethodGet, "/admin/tasks?prompt="+url.QueryEscape(prompt), nil, &out)
	return out.Tasks
}

// task is the one with a prompt.
func (w *watched) task(prompt string) task {
	w.t.Helper()
	all := w.tasks(prompt)
	if len(all) != 1 {
		w.t.Fatalf("%q: %d tasks", prompt, len(all))
	}
	return all[0]
}

func (w *watched) move(prompt, state string) {
	w.t.Helper()
	w.admin(http.MethodPost, "/admin/tasks/"+w.task(prompt).ID, map[string]string{"state": state}, nil)
}

func (w *watched) fault(provider, word string, count int) {
	w.t.Helper()
	w.admin(http.MethodPost, "/admin/faults", map[string]any{"provider": provider, "fault": word, "count": count}, nil)
}

func (w *watched) admin(method, path string, in, out any) {
	w.t.Helper()
	body, err := json.Marshal(in)
	if err != nil {
		w.t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(w.t.Context(), method, w.SimURL+path, bytes.NewReader(body))
	if err != nil {
		w.t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		w.t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		w.t.Fatalf("%s %s: %d", method, path, resp.StatusCode)
	}
	if out != nil {
		if err := json.NewDecoder(resp.Body).Decode(out); err != nil {
			w.t.Fatal(err)
		}
	}
}

// metrics reads what is exported.
func (w *watched) metrics() string {
	w.t.Helper()
	req, err := http.NewRequestWithContext(w.t.Context(), http.MethodGet, w.OpsURL+"/metrics", nil)
	if err != nil {
		w.t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		w.t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	return string(data)
}

// balance checks what the account has, and that the books are right.
func (w *watched) balance(available, held int64) {
	w.t.Helper()
	b, err := w.credit.GetBalance(as(w.t, w.AdminKey), &ledgerv1.GetBalanceRequest{AccountId: w.AccountID})
	if err != nil || b.GetAvailableMicros() != available || b.GetHeldMicros() != held {
		w.t.Errorf("%v, %v; want %d available, %d held", b, err, available, held)
	}
	r, err := w.credit.Verify(as(w.t, w.AdminKey), &ledgerv1.VerifyRequest{})
	if err != nil || len(r.GetViolations()) > 0 {
		w.t.Errorf("%v, %v", r.GetViolations(), err)
	}
}

// eventually waits for a condition; was tells what there is instead.
func eventually(t *testing.T, was func() string, ok func() bool) {
	t.Helper()
	deadline := time.After(60 * time.Second)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline:
			t.Fatalf("not in time: %s", was())
		case <-tick.C:
		}
	}
}

const developed = 1000 * 1_000_000

// A cancel reaches the provider: its own word ends the job and releases the hold.
func TestCancelAtTheProvider(t *testing.T) {
	t.Parallel()
	w := watchedStack(t, "REELWAY_WATCH_AFTER=1h")
	for model, running := range map[string]bool{"replicate-veo-3.1-fast": true, "fal-veo-3.1-fast": true, "gen-4.5": true, "hailuo-3": true, "byteplus-seedance-1.5-pro": false} {
		v := w.submit(model, model)
		if running {
			w.move(model, "running")
		}
		if got := w.cancel(v.GetId()); !got.GetCancelRequested() && got.GetState() != videov1.VideoState_VIDEO_STATE_CANCELED {
			t.Errorf("%s: %v", model, got)
		}
		got := w.ends(v.GetId(), videov1.VideoState_VIDEO_STATE_CANCELED)
		if got.GetCancelRequested() || got.GetCapturedMicros() != 0 || got.GetHeldMicros() != 0 || got.GetAttempts()[0].GetState() != "canceled" {
			t.Errorf("%s: %v", model, got)
		}
		if s := w.task(model); s.State != "canceled" || s.Charged {
			t.Errorf("%s: the provider has it as %+v", model, s)
		}
		if again := w.cancel(v.GetId()); again.GetState() != videov1.VideoState_VIDEO_STATE_CANCELED || again.GetVersion() != got.GetVersion() {
			t.Errorf("%s: a second cancel makes %v", model, again)
		}
	}
	w.balance(developed, 0)
}

// A provider that cannot cancel, or not any more, makes the video and is paid.
func TestCancelWithoutEffect(t *testing.T) {
	t.Parallel()
	w := watchedStack(t, "REELWAY_WATCH_AFTER=1h")
	left := int64(developed)
	for _, c := range []struct {
		model, words string
		refused      string
		before       bool // it finishes before the cancel
	}{
		{"kling-v2-6", "", "unsupported", false},
		{"seedance-2.0", "", "unsupported", false},
		{"byteplus-seedance-1.5-pro", "", "too_late", false},
		{"replicate-veo-3.1-fast", "[fault:webhook_never]", "", true},
		{"gen-4.5", "[fault:webhook_never]", "", true},
	} {
		prompt := strings.TrimSpace(c.model + " " + c.words)
		v := w.submit(c.model, prompt)
		w.move(prompt, "running")
		if c.before {
			w.move(prompt, "succeeded")
		}
		w.cancel(v.GetId())
		if c.refused != "" {
			got := w.await(v.GetId(), func(v *videov1.Video) bool { return v.GetCancelRefused() != "" })
			if got.GetCancelRefused() != c.refused || !got.GetCancelRequested() || got.GetState() != videov1.VideoState_VIDEO_STATE_RUNNING {
				t.Errorf("%s: %v", c.model, got)
			}
			version := got.GetVersion()
			if again := w.cancel(v.GetId()); again.GetVersion() != version {
				t.Errorf("%s: asking again changes it: %v", c.model, again)
			}
			w.move(prompt, "succeeded")
		}
		got := w.ends(v.GetId(), videov1.VideoState_VIDEO_STATE_SUCCEEDED)
		if got.GetCapturedMicros() != got.GetQuoteMicros() {
			t.Errorf("%s: %v", c.model, got)
		}
		left -= got.GetQuoteMicros()
		if _, err := w.video.CancelVideo(as(t, w.APIKey), &videov1.CancelVideoRequest{Id: v.GetId()}); fault.FromStatus(err).Code != fault.Conflict {
			t.Errorf("%s: cancel of a finished video: %v", c.model, err)
		}
	}
	w.balance(left, 0)
}

// A provider in trouble is asked to cancel again until it answers.
func TestCancelIsRepeatedUntilItArrives(t *testing.T) {
	t.Parallel()
	w := watchedStack(t, "REELWAY_WATCH_AFTER=1h")
	v := w.submit("replicate-veo-3.1-fast", "stubborn")
	w.fault("replicate", "error500_poll", 3)
	w.cancel(v.GetId())
	w.ends(v.GetId(), videov1.VideoState_VIDEO_STATE_CANCELED)
	if s := w.task("stubborn"); s.State != "canceled" {
		t.Errorf("%+v", s)
	}
	w.balance(developed, 0)
}

// A task that was canceled at the provider without our wish has failed.
func TestCanceledByOthers(t *testing.T) {
	t.Parallel()
	w := watchedStack(t, "REELWAY_WATCH_AFTER=300ms")
	v := w.submit("replicate-veo-3.1-fast", "foreign hand")
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, w.SimURL+"/replicate/v1/predictions/"+w.task("foreign hand").ID+"/cancel", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer simulated-key")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if got := w.ends(v.GetId(), videov1.VideoState_VIDEO_STATE_FAILED); got.GetError().GetProviderCode() != "canceled" {
		t.Errorf("%v", got.GetError())
	}
	w.balance(developed, 0)
}
