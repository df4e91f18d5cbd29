package archiver_test

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"reelway.dev/pkg/bucket"
	"reelway.dev/pkg/bus"
	"reelway.dev/pkg/natstest"
	"reelway.dev/pkg/safehttp"
	eventv1 "reelway.dev/proto/gen/reelway/event/v1"
	videov1 "reelway.dev/proto/gen/reelway/video/v1"
	"reelway.dev/services/archiver"
)

// bundle is an archiver on a real JetStream and a folder, and the ledger's ear.
type bundle struct {
	t     *testing.T
	bus   *bus.Bus
	files *bucket.Bucket
	dir   string
	log   *buffer
	told  chan *eventv1.Observation
}

type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func setup(t *testing.T, cfg archiver.Config, guard safehttp.Config) *bundle {
	t.Helper()
	dir := t.TempDir()
	x := setupOn(t, "file://"+dir, cfg, guard)
	x.dir = dir
	return x
}

func setupOn(t *testing.T, bucketURL string, cfg archiver.Config, guard safehttp.Config) *bundle {
	t.Helper()
	x := &bundle{t: t, bus: natstest.Bus(t), log: &buffer{}, told: make(chan *eventv1.Observation, 64)}
	files, err := bucket.Open(t.Context(), bucket.Config{URL: bucketURL, URLLife: 10 * time.Minute, Secret: strings.Repeat("s", 32)})
	x.files = files
	if err != nil {
		t.Fatal(err)
	}
	cfg.Workers = 4
	cfg.Stall = cmp.Or(cfg.Stall, time.Minute)
	s, err := archiver.New(cfg, archiver.Deps{Bus: x.bus, Bucket: files, Client: guard.Client(), Logger: slog.New(slog.NewJSONHandler(x.log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	for _, c := range s.Components() {
		wg.Go(func() { _ = c.Run(ctx) })
	}
	wg.Go(func() {
		_ = bus.Consume(ctx, x.bus, bus.ObservationConsumer, 1, func(_ context.Context, o *eventv1.Observation) error { x.told <- o; return nil })
	})
	t.Cleanup(func() { stop(); wg.Wait(); _ = files.Close() })
	return x
}

const signature = "X-Amz-Signature=s3cr3t"

// store publishes the event that an attempt's result lies at url, as the
// ledger's outbox or, later, its sweep.
func (x *bundle) store(attempt, url string, rendered time.Time, sweep bool) {
	x.t.Helper()
	v := &videov1.Video{Id: "video_" + attempt, AccountId: "acct_1", Provider: "kling", State: videov1.VideoState_VIDEO_STATE_STORING, Version: 4,
		Attempts: []*videov1.Attempt{{Id: attempt, EndedAt: timestamppb.New(rendered)}}}
	ev := &eventv1.JobEvent{Video: v, AttemptId: attempt, ResultUrl: url, OccurredAt: timestamppb.New(rendered), Transient: sweep}
	if sweep {
		ev.OccurredAt = timestamppb.Now()
	}
	m, err := bus.NewMessage(bus.EventSubject("acct_1", v.GetId(), "storing"), fmt.Sprint(attempt, time.Now().UnixNano()), ev)
	if err != nil {
		x.t.Fatal(err)
	}
	if err := x.bus.Publish(x.t.Context(), m); err != nil {
		x.t.Fatal(err)
	}
}

// outcome waits for what the ledger is told.
func (x *bundle) outcome() *eventv1.Observation {
	x.t.Helper()
	select {
	case o := <-x.told:
		return o
	case <-time.After(time.Minute):
		x.t.Fatalf("the ledger was told nothing; log:\n%s", x.log)
		return nil
	}
}

// quiet checks what holds whatever happened: no dead letter, no half-written
// object, no signature in a log.
func (x *bundle) quiet(objects int) {
	x.t.Helper()
	st, err := x.bus.JetStream().Stream(x.t.Context(), bus.StreamDead)
	if err != nil {
		x.t.Fatal(err)
	}
	if n := st.CachedInfo().State.Msgs; n > 0 {
		x.t.Errorf("%d dead letters", n)
	}
	var found []string
	_ = filepath.WalkDir(x.dir, func(path string, d fs.DirEntry, _ error) error {
		if !d.IsDir() && !strings.HasSuffix(path, ".attrs") {
			found = append(found, path)
		}
		return nil
	})
	if len(found) != objects {
		x.t.Errorf("the bucket holds %v, want %d objects", found, objects)
	}
	if strings.Contains(x.log.String(), "s3cr3t") {
		x.t.Errorf("a signature is in the log:\n%s", x.log)
	}
}

func box(kind string, bodies ...[]byte) []byte {
	body := bytes.Join(bodies, nil)
	return append(append(binary.BigEndian.AppendUint32(nil, uint32(8+len(body))), kind...), body...)
}

// video is an MP4 of 2 s and 16×16 pixels with the index first, n bytes long.
func video(n int) []byte {
	mvhd, tkhd := make([]byte, 100), make([]byte, 84)
	binary.BigEndian.PutUint32(mvhd[12:], 1000)
	binary.BigEndian.PutUint32(mvhd[16:], 2000)
	tkhd[77], tkhd[81] = 16, 16
	head := append(box("ftyp", []byte("isomisom")), box("moov", box("mvhd", mvhd), box("trak", box("tkhd", tkhd)))...)
	return append(head, box("mdat", make([]byte, n-len(head)-8))...)
}

// raw answers bytes as they are and closes: HTTP before it had lengths.
func raw(w http.ResponseWriter, answer string, body []byte) {
	conn, _, err := w.(http.Hijacker).Hijack() //nolint:errcheck // net/http's own can
	if err != nil {
		return
	}
	_, _ = conn.Write(append([]byte(answer+"\r\n\r\n"), body...))
	_ = conn.Close()
}

const (
	bare   = "HTTP/1.1 200 OK\r\nContent-Type: video/mp4\r\nConnection: close"
	length = 4000
)

// Every way in which a provider may serve a result has one end, in time.
func TestEveryResultHasAnEnd(t *testing.T) {
	t.Parallel()
	whole := video(length)
	gone := httptest.NewServer(nil)
	gone.Close()
	for name, c := range map[string]struct {
		serve    func(w http.ResponseWriter, n int64) // n: the how many-th request
		url      string
		age      time.Duration
		archived bool
		reason   string
	}{
		"whole":            {serve: func(w http.ResponseWriter, _ int64) { _, _ = w.Write(whole) }, archived: true},
		"whole, no length": {serve: func(w http.ResponseWriter, _ int64) { raw(w, bare, whole) }, archived: true},
		"cut, no length":   {serve: func(w http.ResponseWriter, _ int64) { raw(w, bare, whole[:length-100]) }, reason: "cut short"},
		"cut, then whole":  {serve: func(w http.ResponseWriter, n int64) { raw(w, bare, whole[:length-100*int(max(2-n, 0))]) }, archived: true},
		"cut before its length": {serve: func(w http.ResponseWriter, n int64) {
			raw(w, bare+"\r\nContent-Length: 4000", whole[:length-100*int(max(2-n, 0))])
		}, archived: true},
		"always cut by its length": {serve: func(w http.ResponseWriter, _ int64) { raw(w, bare+"\r\nContent-Length: 4000", whole[:3000]) }, reason: "in time"},
		"five bytes":               {serve: func(w http.ResponseWriter, _ int64) { _, _ = w.Write([]byte("sorry")) }, reason: "not an MP4"},
		"nothing":                  {serve: func(http.ResponseWriter, int64) {}, reason: "not an MP4"},
		"a page":                   {serve: func(w http.ResponseWriter, _ int64) { _, _ = w.Write([]byte("<html><body>please wait</body></html>")) }, reason: "not an MP4"},
		"too large":                {serve: func(w http.ResponseWriter, _ int64) { raw(w, bare, video(length+1)) }, reason: "larger"},
		"too large, and says so":   {serve: func(w http.ResponseWriter, _ int64) { _, _ = w.Write(video(length + 1)) }, reason: "larger"},
		// Cut by our own limit exactly where a box ends.
		"too large behind a box": {serve: func(w http.ResponseWriter, _ int64) { raw(w, bare, append(video(length), box("free")...)) }, reason: "larger"},
		"500 for ever":           {serve: func(w http.ResponseWriter, _ int64) { w.WriteHeader(http.StatusBadGateway) }, reason: "in time"},
		"500 twice": {serve: func(w http.ResponseWriter, n int64) {
			w.WriteHeader(map[bool]int{true: 500, false: 200}[n <= 2])
			_, _ = w.Write(whole)
		}, archived: true},
		"refused":      {url: gone.URL, reason: "in time"},
		"forbidden":    {url: "http://user@127.0.0.1", reason: "not allowed"},
		"no URL":       {url: "http://[", reason: "not a URL"},
		"404 for ever": {serve: func(w http.ResponseWriter, _ int64) { w.WriteHeader(http.StatusNotFound) }, reason: "status 404"},
		// The event is older than any patience: what counts is the first denial.
		"late, 403 once": {serve: func(w http.ResponseWriter, n int64) {
			w.WriteHeader(map[bool]int{true: 403, false: 200}[n == 1])
			_, _ = w.Write(whole)
		}, archived: true, age: time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			x := setup(t, archiver.Config{MaxBytes: length, Timeout: 5 * time.Second, Patience: 500 * time.Millisecond, GiveUp: 2500 * time.Millisecond},
				safehttp.Config{AllowHTTP: true, AllowPrivate: true, Redirects: 3})
			url := c.url
			if url == "" {
				var n atomic.Int64
				srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { c.serve(w, n.Add(1)) }))
				t.Cleanup(srv.Close)
				url = srv.URL
			}
			x.store("att_1", url+"/a.mp4?"+signature, time.Now().Add(-c.age), false)
			o := x.outcome()
			objects := 0
			if c.archived {
				objects = 1
				if a := o.GetArchived().GetArtifact(); a.GetSizeBytes() != length || a.GetWidth() != 16 || a.GetDurationMs() != 2000 || len(a.GetSha256()) != 64 {
					t.Errorf("%v", o)
				}
			} else if m := o.GetArchiveFailed().GetError().GetMessage(); !strings.Contains(m, c.reason) || m == "" {
				t.Errorf("%v", o)
			}
			x.quiet(objects)
		})
	}
}

// As many results as there are workers trickle, for as long as they are read; one
// more, of another provider, is copied all the same.
func TestResultsThatTrickleAreInNobodysWay(t *testing.T) {
	t.Parallel()
	whole := video(length)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/good" {
			_, _ = w.Write(whole)
			return
		}
		if r.URL.Path != "/silent" {
			_, _ = w.Write(whole[:100])
		}
		for flush := http.NewResponseController(w); r.Context().Err() == nil; {
			select {
			case <-r.Context().Done():
			case <-time.After(10 * time.Millisecond):
				if r.URL.Path != "/silent" {
					_, _ = w.Write([]byte{0})
					_ = flush.Flush()
				}
			}
		}
	}))
	defer srv.Close()
	x := setup(t, archiver.Config{MaxBytes: 1 << 40, Timeout: time.Hour, Stall: 200 * time.Millisecond, Patience: time.Second, GiveUp: time.Hour}, safehttp.Config{AllowHTTP: true, AllowPrivate: true})
	for i, path := range []string{"/a", "/b", "/silent", "/silent"} {
		x.store(fmt.Sprint("slow", i), srv.URL+path, time.Now(), false)
	}
	x.store("good", srv.URL+"/good", time.Now(), false)
	if o := x.outcome(); o.GetArchived() == nil || o.GetAttemptId() != "good" {
		t.Errorf("%v", o)
	}
}

// What the guard refuses when it dials is lost, not tried for ever.
func TestPrivateResultsAreLost(t *testing.T) {
	t.Parallel()
	x := setup(t, archiver.Config{MaxBytes: length, Timeout: 5 * time.Second, Patience: time.Second, GiveUp: time.Hour}, safehttp.Config{AllowHTTP: true})
	x.store("att_1", "http://127.0.0.1:9/a.mp4?"+signature, time.Now(), false)
	if o := x.outcome(); !strings.Contains(o.GetArchiveFailed().GetError().GetMessage(), "not allowed") {
		t.Errorf("%v", o)
	}
	x.quiet(0)
}

// The sweep reminds of a job that stores for long: its reminders do not add up,
// and one alone ends the job when the first message was lost.
func TestReminders(t *testing.T) {
	t.Parallel()
	x := setup(t, archiver.Config{MaxBytes: length, Timeout: 5 * time.Second, Patience: time.Second, GiveUp: time.Hour}, safehttp.Config{AllowHTTP: true, AllowPrivate: true})
	var calls atomic.Int64
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { calls.Add(1); w.WriteHeader(http.StatusBadGateway) }))
	t.Cleanup(srv.Close)
	for range 5 {
		x.store("att_1", srv.URL, time.Now(), true)
	}
	x.store("att_2", srv.URL, time.Now().Add(-2*time.Hour), true)
	if o := x.outcome(); o.GetAttemptId() != "att_2" || o.GetArchiveFailed() == nil {
		t.Errorf("%v", o)
	}
	cons, err := x.bus.JetStream().Consumer(t.Context(), bus.StreamEvents, bus.ArchiveConsumer.Name)
	if err != nil {
		t.Fatal(err)
	}
	deadline, tick := time.After(time.Minute), time.NewTicker(10*time.Millisecond)
	defer tick.Stop()
	for {
		info, err := cons.Info(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if info.NumPending == 0 && info.NumAckPending == 0 {
			break
		}
		select {
		case <-deadline:
			t.Fatalf("%d reminders are still held", info.NumAckPending)
		case <-tick.C:
		}
	}
	if n := calls.Load(); n != 6 {
		t.Errorf("%d calls for 6 messages", n)
	}
	x.quiet(0)
}
