package test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"

	"reelway.dev/pkg/videojson"
)

const (
	first = 100_000_000 // credits of a new development account, in micro-credits
	atlas = 650_000     // seedance-2.0, 5 s, 720p
	kling = 210_000     // kling-v2-6, 5 s, 720p
)

func TestMainJob(t *testing.T) {
	t.Parallel()
	s := setup(t)
	for model, price := range map[string]int64{"seedance-2.0": atlas, "kling-v2-6": kling} {
		a := s.call(http.MethodPost, "/v1/videos", request(model, "a secret prompt of a paper boat"))
		if a.status != http.StatusOK || a.video.Status != "queued" || a.video.Cost.HeldMicros != price {
			t.Fatalf("%s: %d %s", model, a.status, a.raw)
		}
		v := s.await(90*time.Second, a.video.ID)
		if v.State != "succeeded" || v.Cost.CapturedMicros != price || v.Progress != 100 || v.Artifact.Width != 1280 || v.Artifact.Height != 720 || v.Artifact.DurationMS != 5000 {
			t.Fatalf("%s: %+v", model, v)
		}
		file := filepath.Join(t.TempDir(), "x.mp4")
		save(t, v.URL, file)
		out, err := exec.Command("ffprobe", "-v", "error", "-select_streams", "v", "-of", "csv=p=0", "-show_entries", "stream=codec_name,width,height", file).CombinedOutput()
		if err != nil || strings.TrimSpace(string(out)) != "h264,1280,720" {
			t.Errorf("ffprobe: %s %v", out, err)
		}
		// Altered: another key, another expiry.
		for _, u := range []string{strings.Replace(v.URL, "expiry=", "expiry=9", 1), strings.Replace(v.URL, "signature=", "signature=A", 1)} {
			resp, err := http.Get(u)
			if err != nil {
				t.Fatal(err)
			}
			_ = resp.Body.Close()
			if resp.StatusCode != http.StatusForbidden {
				t.Errorf("altered URL answers %d", resp.StatusCode)
			}
		}
		if n := len(s.tasks(v.ID)); n != 1 {
			t.Errorf("the provider has %d tasks", n)
		}
	}
	s.books(first - atlas - kling)
	for _, secret := range []string{"secret prompt", key, "a-secret-key-for-kling", "token=", "signature="} {
		if strings.Contains(strings.ReplaceAll(s.log.String(), "API key               "+key, ""), secret) {
			t.Errorf("the log holds %q", secret)
		}
	}
}

func save(t *testing.T, url, file string) {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	f, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(f, resp.Body); err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("download: %d %v", resp.StatusCode, err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

// Each fault has its promised outcome, exact money, and at most one task that
// the provider accepted and we pay for.
func TestFaults(t *testing.T) {
	t.Parallel()
	s := setup(t, "REELWAY_MAX_RUNTIME=20s", "REELWAY_SUBMIT_TIMEOUT=2s")
	spent := make(chan int64, 64)
	var wg sync.WaitGroup
	for _, c := range []struct {
		model, fault string
		state, code  string
		tasks        int
	}{
		{"seedance-2.0", "policy", "failed", "content_policy", 1},
		{"kling-v2-6", "policy", "failed", "content_policy", 0},
		{"seedance-2.0", "rate_limit:2", "succeeded", "", 1},
		{"kling-v2-6", "rate_limit:2", "succeeded", "", 1},
		{"seedance-2.0", "error500:2", "succeeded", "", 1},
		{"kling-v2-6", "error500:1", "succeeded", "", 1},
		{"seedance-2.0", "hang", "needs_review", "provider_outcome_unknown", 0},
		{"kling-v2-6", "hang_after_accept", "succeeded", "", 1},
		{"seedance-2.0", "hang_after_accept", "succeeded", "", 1},
		{"seedance-2.0", "reset_after_accept", "succeeded", "", 1},
		{"kling-v2-6", "reset_after_accept", "succeeded", "", 1},
		{"seedance-2.0", "garbage", "succeeded", "", 1},
		{"kling-v2-6", "garbage", "succeeded", "", 1},
		{"seedance-2.0", "webhook_twice", "succeeded", "", 1},
		{"seedance-2.0", "webhook_never", "succeeded", "", 1},
		{"kling-v2-6", "webhook_never", "succeeded", "", 1},
		{"seedance-2.0", "webhook_before_response", "succeeded", "", 1},
		{"kling-v2-6", "webhook_before_response", "succeeded", "", 1},
		{"kling-v2-6", "webhook_out_of_order", "succeeded", "", 1},
		{"seedance-2.0", "webhook_out_of_order", "succeeded", "", 1},
		{"seedance-2.0", "webhook_bad_signature", "succeeded", "", 1},
		{"kling-v2-6", "webhook_bad_signature", "succeeded", "", 1},
		{"seedance-2.0", "fail_halfway", "failed", "provider_rejected", 1},
		{"seedance-2.0", "expired_result", "failed", "provider_rejected", 1},
		{"kling-v2-6", "empty_result", "failed", "provider_rejected", 1},
	} {
		wg.Go(func() {
			name := c.model + " " + c.fault
			a := s.call(http.MethodPost, "/v1/videos", request(c.model, "x [fault:"+c.fault+"]"))
			if a.status != http.StatusOK {
				t.Errorf("%s: %s", name, a.raw)
				return
			}
			v := s.await(60*time.Second, a.video.ID)
			code := ""
			if v.Error != nil {
				code = v.Error.Code
			}
			if v.State != c.state || code != c.code {
				t.Errorf("%s: %s %s, want %s %s", name, v.State, code, c.state, c.code)
			}
			if n := len(s.tasks(v.ID)); n != c.tasks {
				t.Errorf("%s: the provider accepted %d tasks, want %d", name, n, c.tasks)
			}
			if want := map[bool]int64{true: v.Cost.QuoteMicros}[c.state == "succeeded"]; v.Cost.CapturedMicros != want {
				t.Errorf("%s: captured %d, want %d", name, v.Cost.CapturedMicros, want)
			}
			spent <- v.Cost.CapturedMicros
		})
	}
	wg.Wait()
	close(spent)
	left := int64(first)
	for n := range spent {
		left -= n
	}
	s.books(left)
}

// A result of 120 MB passes through a process that grows by less than that.
func TestLargeResultIsStreamed(t *testing.T) {
	t.Parallel()
	s := setup(t)
	s.await(90*time.Second, s.call(http.MethodPost, "/v1/videos", request("seedance-2.0", "x")).video.ID)
	before := s.peakMemory()
	a := s.call(http.MethodPost, "/v1/videos", request("seedance-2.0", "x [size:120MB]"))
	v := s.await(60*time.Second, a.video.ID)
	if v.State != "succeeded" || v.Artifact.Bytes != 120<<20 {
		t.Fatalf("%+v", v)
	}
	if grown := s.peakMemory() - before; grown >= 100<<20 {
		t.Errorf("the process grew by %d MB", grown>>20)
	}
}

// peakMemory is the most that the process ever held resident, in bytes.
func (s *stack) peakMemory() int64 {
	s.t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.cmd.Process.Pid))
	if err != nil {
		s.t.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		var kB int64
		if n, _ := fmt.Sscanf(line, "VmHWM: %d kB", &kB); n == 1 {
			return kB << 10
		}
	}
	s.t.Fatalf("no VmHWM in %s", status)
	return 0
}

// A provider signs its result URLs; whatever fails, the log shows none of it.
func TestSignaturesStayOutOfTheLog(t *testing.T) {
	t.Parallel()
	const signature = "X-Amz-Signature=s3cr3t"
	var sim atomic.Value
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/media/") {
			panic(http.ErrAbortHandler) // a storage that cuts every connection
		}
		target, _ := sim.Load().(*url.URL)
		p := httputil.NewSingleHostReverseProxy(target)
		p.ModifyResponse = func(resp *http.Response) error {
			body, err := io.ReadAll(resp.Body)
			body = bytes.ReplaceAll(body, []byte(`.mp4"`), []byte(`.mp4?`+signature+`"`))
			resp.Body = io.NopCloser(bytes.NewReader(body))
			resp.ContentLength = int64(len(body))
			resp.Header.Set("Content-Length", fmt.Sprint(len(body)))
			return err
		}
		p.ServeHTTP(w, r)
	}))
	proxy.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	t.Cleanup(proxy.Close)
	s := setup(t, "REELWAY_KLING_URL="+proxy.URL+"/kling", "REELWAY_ARCHIVE_GIVE_UP=4s")
	target, err := url.Parse(s.sim.URL)
	if err != nil {
		t.Fatal(err)
	}
	sim.Store(target)
	// Without a webhook the result's address comes by the proxy.
	v := s.await(60*time.Second, s.call(http.MethodPost, "/v1/videos", request("kling-v2-6", "x [fault:webhook_never]")).video.ID)
	if v.State != "failed" || v.Error == nil || v.Error.ProviderCode != "result_lost" {
		t.Errorf("%+v", v)
	}
	if log := s.log.String(); strings.Contains(log, "s3cr3t") || !strings.Contains(log, "fetch result") {
		t.Errorf("the log holds the signature, or no failure:\n%s", tail(log, 3000))
	}
	s.books(first)
}

func TestRefusalsSayWhatIsWrong(t *testing.T) {
	t.Parallel()
	s := setup(t, "REELWAY_DEV_CREDITS=1")
	for name, c := range map[string]struct {
		method, path string
		body         any
		header       []string
		status       int
		code         string
		fields       string
	}{
		"wrong key":       {"GET", "/v1/models", nil, []string{"Authorization", "Bearer nope"}, 401, "unauthenticated", ""},
		"no key":          {"GET", "/v1/models", nil, []string{"Authorization", ""}, 401, "unauthenticated", ""},
		"wrong fields":    {"POST", "/v1/videos", `{"model":"kling-v2-6","duration":7,"aspect_ratio":"2:1"}`, nil, 400, "invalid_request", "prompt aspect_ratio duration"},
		"unknown field":   {"POST", "/v1/videos", `{"prompt":"p","durations":7}`, nil, 400, "invalid_request", "durations"},
		"unknown model":   {"POST", "/v1/videos", `{"prompt":"p","model":"m"}`, nil, 400, "invalid_request", "model"},
		"tier":            {"POST", "/v1/videos", `{"prompt":"p","model":"kling-v2-6","resolution":"1080p"}`, nil, 400, "invalid_request", "resolution"},
		"NUL":             {"POST", "/v1/videos", `{"prompt":"p\u0000"}`, nil, 400, "invalid_request", "prompt"},
		"base64":          {"POST", "/v1/videos", `{"prompt":"p","image_url":"data:image/png;base64,AAAA"}`, nil, 413, "payload_too_large", "image_url"},
		"large":           {"POST", "/v1/videos", `{"prompt":"` + strings.Repeat("x", 1<<20) + `"}`, nil, 413, "payload_too_large", ""},
		"max cost":        {"POST", "/v1/videos", `{"prompt":"p","model":"seedance-2.0","max_cost":"0.1"}`, nil, 400, "invalid_request", "max_cost"},
		"little credit":   {"POST", "/v1/videos", `{"prompt":"p","model":"seedance-2.0","duration":12}`, nil, 402, "insufficient_credits", ""},
		"missing video":   {"GET", "/v1/videos/video_x", nil, nil, 404, "not_found", ""},
		"strange id":      {"GET", "/v1/videos/a.b*c", nil, nil, 404, "not_found", ""},
		"unknown route":   {"GET", "/v1/nothing", nil, nil, 404, "not_found", ""},
		"bad limit":       {"GET", "/v1/videos?limit=0", nil, nil, 400, "invalid_request", "limit"},
		"missing events":  {"GET", "/v1/videos/video_x/events", nil, nil, 404, "not_found", ""},
		"no upgrade":      {"GET", "/v1/stream", nil, nil, 426, "invalid_request", ""},
		"forged link":     {"GET", "/v1/files?obj=videos%2Fx&expiry=9999999999&signature=x", nil, nil, 403, "permission_denied", ""},
		"forged callback": {"POST", "/v1/callbacks/kling/video_x?attempt=att_x&token=x", `{}`, nil, 401, "", ""},
		"no provider":     {"POST", "/v1/callbacks/nobody/video_x?attempt=att_x&token=x", `{}`, nil, 404, "", ""},
	} {
		a := s.call(c.method, c.path, c.body, c.header...)
		var fields []string
		for _, f := range a.fault.Fields {
			fields = append(fields, f.Name)
		}
		if a.status != c.status || c.code != "" && (a.fault.Code != c.code || a.fault.Message == "" || a.fault.RequestID == "") || strings.Join(fields, " ") != c.fields {
			t.Errorf("%s: %d %s", name, a.status, a.raw)
		}
	}
	s.books(1_000_000)
}

// Retries of one request at the same time are one video.
func concurrentRetries(t *testing.T, s *stack) {
	ids := make([]string, 100)
	var wg sync.WaitGroup
	for i := range ids {
		wg.Go(func() {
			a := s.call(http.MethodPost, "/v1/videos", request("kling-v2-6", "same"), "Idempotency-Key", "order-1")
			ids[i] = a.video.ID
		})
	}
	wg.Wait()
	for _, id := range ids {
		if id != ids[0] || id == "" {
			t.Fatalf("two jobs: %q and %q", id, ids[0])
		}
	}
	if a := s.call(http.MethodPost, "/v1/videos", request("kling-v2-6", "another"), "Idempotency-Key", "order-1"); a.status != http.StatusConflict {
		t.Errorf("another body: %d %s", a.status, a.raw)
	}
	s.await(90*time.Second, ids[0])
	if n := len(s.tasks(ids[0])); n != 1 {
		t.Errorf("the provider has %d tasks", n)
	}
	s.books(first - kling)
}

func TestCreditRace(t *testing.T) {
	t.Parallel()
	s := setup(t, "REELWAY_DEV_CREDITS=7") // for exactly 10 at 0.65, and half of another
	var mu sync.Mutex
	count := map[int]int{}
	var ids []string
	var wg sync.WaitGroup
	for range 1000 {
		wg.Go(func() {
			a := s.call(http.MethodPost, "/v1/videos", request("seedance-2.0", "x"))
			mu.Lock()
			defer mu.Unlock()
			if count[a.status]++; a.status == http.StatusOK {
				ids = append(ids, a.video.ID)
			}
		})
	}
	wg.Wait()
	if count[200] != 10 || count[402] != 990 {
		t.Fatalf("answers by status: %v; want 10 accepted and 990 refused", count)
	}
	for _, id := range ids {
		s.await(90*time.Second, id)
	}
	s.books(500_000)
}

// story is how the states of a job that succeeds at once follow each other.
var story = []string{"queued", "submitting", "running", "storing", "succeeded"}

// coherent checks that what was told of one job ("state progress") has no gap,
// no repetition and no step back, from wherever it began to the end.
func coherent(t *testing.T, told []string) {
	t.Helper()
	at, progress := -1, -1
	for _, x := range told {
		var state string
		var p int
		if _, err := fmt.Sscan(x, &state, &p); err != nil {
			t.Fatal(err)
		}
		i := slices.Index(story, state)
		switch {
		case at < 0 || i == at+1, state == "storing" && story[at] == "submitting": // the verdict overtook the answer
			at, progress = i, p
		case i == at && p > progress:
			progress = p
		default:
			t.Errorf("%q comes after %q in %v", x, fmt.Sprint(story[at], progress), told)
			return
		}
	}
	if at != len(story)-1 {
		t.Errorf("the end is missing in %v", told)
	}
}

// A stream cut at any place and resumed tells the same story, once; and who
// knows its end is told that there is no more.
func eventsResume(t *testing.T, s *stack) {
	var wg sync.WaitGroup
	for every := range 3 {
		for _, model := range []string{"seedance-2.0", "kling-v2-6"} {
			id := s.call(http.MethodPost, "/v1/videos", request(model, "x")).video.ID
			wg.Go(func() {
				var told []string
				after, final := "", false
				for cuts := 0; !final; cuts++ {
					if cuts > 60 {
						t.Errorf("the stream never ended: %v", told)
						return
					}
					var events []string
					var last string
					events, last, final = sse(t, s, id, after, every+1)
					told = append(told, events...)
					if last != "" {
						after = last
					}
				}
				coherent(t, told)
				a := s.call(http.MethodGet, "/v1/videos/"+id+"/events", nil, "Last-Event-ID", after)
				if a.status != http.StatusNoContent || len(a.raw) > 0 {
					t.Errorf("after the end: %d %s", a.status, a.raw)
				}
			})
		}
	}
	wg.Wait()
}

// sse reads at most n events and cuts the connection.
func sse(t *testing.T, s *stack, id, after string, n int) (events []string, last string, final bool) {
	t.Helper()
	req, err := http.NewRequest(http.MethodGet, s.base+"/v1/videos/"+id+"/events", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+s.key)
	if after != "" {
		req.Header.Set("Last-Event-ID", after)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	sc := bufio.NewScanner(resp.Body)
	sc.Buffer(nil, 1<<20)
	for len(events) < n && sc.Scan() {
		if v, ok := strings.CutPrefix(sc.Text(), "id: "); ok {
			last = v
		}
		data, ok := strings.CutPrefix(sc.Text(), "data: ")
		if !ok {
			continue
		}
		var f struct{ Video videojson.Video }
		if err := json.Unmarshal([]byte(data), &f); err != nil {
			t.Fatal(err)
		}
		events = append(events, fmt.Sprintf("%s %d", f.Video.State, f.Video.Progress))
		final = final || f.Video.Status == "completed" || f.Video.Status == "failed"
	}
	return events, last, final
}

func TestSignedURLExpires(t *testing.T) {
	t.Parallel()
	s := setup(t, "REELWAY_URL_LIFE=1s")
	a := s.call(http.MethodPost, "/v1/videos", request("seedance-2.0", "x"))
	v := s.await(90*time.Second, a.video.ID)
	s.eventually(time.Minute, "the URL has expired", func() bool {
		resp, err := http.Get(v.URL)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		return resp.StatusCode == http.StatusForbidden
	})
	if again := s.call(http.MethodGet, "/v1/videos/"+v.ID+"/content", nil); again.status != http.StatusOK || int64(len(again.raw)) != v.Artifact.Bytes {
		t.Errorf("a fresh link gives %d", again.status)
	}
}

// A socket that watches all of an account is cut in the middle and resumes at
// its cursor: each change of every job comes once.
func webSocketResumes(t *testing.T, s *stack) {
	ctx, cancel := context.WithTimeout(context.Background(), 4*time.Minute)
	defer cancel()
	type told struct {
		Type, Cursor string
		VideoID      string `json:"video_id"`
		Video        *videojson.Video
		Error        *videojson.Error
	}
	open := func(after string) (*websocket.Conn, func() (told, bool)) {
		// As a browser does it: the key is in the subprotocol.
		c, resp, err := websocket.Dial(ctx, strings.Replace(s.base, "http", "ws", 1)+"/v1/stream", &websocket.DialOptions{Subprotocols: []string{"reelway.bearer." + s.key}})
		if err != nil {
			t.Fatal(err)
		}
		if resp.Body != nil {
			_ = resp.Body.Close()
		}
		if err := c.Write(ctx, websocket.MessageText, fmt.Appendf(nil, `{"type":"subscribe","all":true,"after":%q}`, after)); err != nil {
			t.Fatal(err)
		}
		return c, func() (told, bool) {
			_, data, err := c.Read(ctx)
			if websocket.CloseStatus(err) == websocket.StatusServiceRestart {
				return told{}, false // the stream of a busy cluster moved: resume, it says
			}
			if err != nil {
				t.Fatal(err)
			}
			var f told
			if err := json.Unmarshal(data, &f); err != nil {
				t.Fatal(err)
			}
			return f, true
		}
	}
	// A first job gives a cursor from before the others began.
	first := s.call(http.MethodPost, "/v1/videos", request("kling-v2-6", "x")).video
	_, cursor, _ := sse(t, s, first.ID, "", 1)
	s.await(90*time.Second, first.ID)
	ids := map[string]bool{}
	for range 4 {
		ids[s.call(http.MethodPost, "/v1/videos", request("seedance-2.0", "x")).video.ID] = true
	}
	seen, done := map[string][]string{}, 0
	c, next := open(cursor)
	for n := 0; done < len(ids); n++ {
		if n%5 == 4 {
			_ = c.CloseNow()
			c, next = open(cursor)
		}
		f, ok := next()
		if !ok {
			c, next = open(cursor)
			continue
		}
		if f.Error != nil {
			t.Fatal(f.Error.Message)
		}
		cursor = f.Cursor
		if !ids[f.Video.ID] {
			continue
		}
		seen[f.Video.ID] = append(seen[f.Video.ID], fmt.Sprint(f.Video.State, " ", f.Video.Progress))
		if f.Video.Status == "completed" {
			done++
		}
	}
	_ = c.CloseNow()
	for id := range ids {
		coherent(t, seen[id])
		if len(seen[id]) == 0 || seen[id][0] != "queued 0" {
			t.Errorf("the beginning of %s is missing in %v", id, seen[id])
		}
	}
	c, next = open("")
	defer func() { _ = c.CloseNow() }()
	if f, _ := next(); f.Type != "subscribed" || f.Cursor == "" {
		t.Errorf("%+v", f)
	}
	if err := c.Write(ctx, websocket.MessageText, []byte(`{"type":"subscribe","videos":["video_of_another"]}`)); err != nil {
		t.Fatal(err)
	}
	if f, _ := next(); f.Error == nil || f.Error.Code != "not_found" || f.VideoID != "video_of_another" {
		t.Errorf("%+v", f)
	}
	// One video, to its end; then there is no more of it.
	after := ""
	for _, want := range [][]string{{"snapshot", "end"}, {"end"}} {
		if err := c.Write(ctx, websocket.MessageText, fmt.Appendf(nil, `{"type":"subscribe","videos":[%q],"after":%q}`, first.ID, after)); err != nil {
			t.Fatal(err)
		}
		for _, kind := range want {
			f, _ := next()
			if f.Type != kind || kind == "end" && f.VideoID != first.ID {
				t.Errorf("%+v, want %s", f, kind)
			}
			if f.Cursor != "" {
				after = f.Cursor
			}
		}
	}
}

// Faults set for the next calls of a provider, as an operator rehearses them.
func TestFaultsByAdmin(t *testing.T) {
	t.Parallel()
	s := setup(t)
	resp, err := http.Post(s.sim.URL+"/admin/faults", "application/json", strings.NewReader(`{"provider":"kling","fault":"rate_limit","count":1}`))
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	v := s.await(90*time.Second, s.call(http.MethodPost, "/v1/videos", request("kling-v2-6", "x")).video.ID)
	if v.State != "succeeded" || len(v.Attempts) != 2 || v.Attempts[0].ErrorCode != "rate_limited" {
		t.Errorf("%+v", v)
	}
}
