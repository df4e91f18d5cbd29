// Package test proves the promises end to end, through the public doors of the
// whole stack: real Postgres, real JetStream, real HTTP. The simulator's own
// count of accepted tasks is the independent witness.
package test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"reelway.dev/pkg/videojson"
	"reelway.dev/services/simulator"
)

// binary is the reelway command, built once: a stack is a process that can be
// killed.
var binary string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "reelway-test-")
	if err != nil {
		panic(err)
	}
	binary = filepath.Join(dir, "reelway")
	build := exec.Command("go", "build", "-race", "-o", binary, "./cmd/reelway")
	build.Dir = "../services/reelway"
	build.Stderr = os.Stderr
	if err := build.Run(); err != nil {
		panic(err)
	}
	code := m.Run()
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

// stack is a Reelway process beside a simulator that outlives it.
type stack struct {
	t      *testing.T
	key    string // of the account that calls
	keyID  string // its id, where a test made it
	dir    string
	env    []string
	base   string
	grpc   string
	sim    *httptest.Server
	log    *lockedBuffer
	cmd    *exec.Cmd
	exited chan struct{}
	ops    string

	database string // its URL, when it is not the stack's own
}

const key = "rw_dev_for_tests_0123456789"

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

var nextPort atomic.Int64

func init() { nextPort.Store(10000 + rand.Int64N(15000)) }

// freePort gives each port once, and none from the range that the system hands
// out by itself: a process that is killed must find its port free again.
func freePort(t *testing.T) string {
	t.Helper()
	for range 1000 {
		addr := fmt.Sprint("127.0.0.1:", 10000+nextPort.Add(1)%20000)
		if l, err := net.Listen("tcp", addr); err == nil {
			_ = l.Close()
			return addr
		}
	}
	t.Fatal("no port is free")
	return ""
}

// setup starts a stack whose renders take 400 ms; more settings may be given, in
// which SIM stands for the simulator's address.
func setup(t *testing.T, settings ...string) *stack {
	t.Helper()
	srv, shut := simulate(t, 400*time.Millisecond)
	return setupWith(t, srv, shut, settings...)
}

// setupWith starts a stack beside providers, which end after it.
func setupWith(t *testing.T, srv *httptest.Server, shut func(), settings ...string) *stack {
	t.Helper()
	dir, err := os.MkdirTemp("", "reelway-stack-")
	if err != nil {
		t.Fatal(err)
	}
	// PostgreSQL may run as another user, who must be able to enter.
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	s := &stack{t: t, key: key, dir: dir, sim: srv, log: &lockedBuffer{}}
	http1, grpc1, ops := freePort(t), freePort(t), freePort(t)
	s.base, s.grpc, s.ops = "http://"+http1, grpc1, "http://"+ops
	settings = slices.Clone(settings) // tests share lists
	for i := range settings {
		settings[i] = strings.ReplaceAll(settings[i], "SIM", srv.URL)
	}
	s.env = append(append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + os.Getenv("HOME"), "TMPDIR=" + os.TempDir(),
		"REELWAY_HTTP_ADDR=" + http1, "REELWAY_GRPC_ADDR=" + grpc1, "REELWAY_OPS_ADDR=" + ops, "REELWAY_DATA_DIR=" + dir + "/data",
		"REELWAY_DEV_API_KEY=" + key, "REELWAY_ALLOW_PRIVATE_URLS=true",
		"REELWAY_SUBMIT_TIMEOUT=15s", "REELWAY_WATCH_AFTER=2s", "REELWAY_POLL_INTERVAL=500ms", "REELWAY_SWEEP_INTERVAL=500ms", "REELWAY_SWEEP_AFTER=3s",
		"REELWAY_ARCHIVE_PATIENCE=1s", "REELWAY_PROGRESS_EVERY=50ms", "REELWAY_TYPICAL_RENDER=400ms",
		"REELWAY_VARIANTS=off"}, providers(srv.URL)...), settings...)
	s.start()
	t.Cleanup(func() {
		s.stop(syscall.SIGTERM)
		shut()
		if t.Failed() {
			t.Logf("log of the stack:\n%s", tail(s.log.String(), 6000))
		}
		_ = os.RemoveAll(dir)
	})
	return s
}

const (
	klingSecret = "a-secret-key-for-kling-of-32-bytes"
	klingHook   = "whsec_c2ltdWxhdGVkLWtsaW5nLXdlYmhvb2sta2V5"
)

// simulate starts the providers. They outlive whatever uses them, which has to
// shut them.
func simulate(t *testing.T, render time.Duration) (srv *httptest.Server, shut func()) {
	t.Helper()
	cfg := simulator.Config{TimeScale: 1, Render: render, AtlasKey: "atlas", Key: "simulated", KlingAccess: "access", KlingSecret: klingSecret, WebhookSecret: klingHook}
	sim, err := simulator.New(cfg, simulator.Deps{Client: &http.Client{Timeout: 5 * time.Second}, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	srv = httptest.NewServer(sim.Handler())
	srv.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	return srv, func() { srv.CloseClientConnections(); sim.Close(); srv.Close() }
}

// providers are the settings by which simulated providers are reached.
func providers(url string) []string {
	return []string{"REELWAY_ATLASCLOUD_URL=" + url + "/atlascloud", "REELWAY_ATLASCLOUD_KEY=atlas", "REELWAY_KLING_URL=" + url + "/kling",
		"REELWAY_KLING_ACCESS_KEY=access", "REELWAY_KLING_SECRET_KEY=" + klingSecret, "REELWAY_KLING_WEBHOOK_SECRET=" + klingHook}
}

func tail(s string, n int) string { return s[max(len(s)-n, 0):] }

func (s *stack) start() {
	s.t.Helper()
	s.cmd = exec.Command(binary, "up")
	s.cmd.Env, s.cmd.Stderr, s.cmd.Stdout = s.env, s.log, s.log
	if err := s.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	exited := make(chan struct{})
	s.exited = exited
	go func(cmd *exec.Cmd) { _ = cmd.Wait(); close(exited) }(s.cmd)
	s.eventually(60*time.Second, "the stack is ready", func() bool {
		select {
		case <-exited:
			s.t.Fatalf("the stack ended: %s", tail(s.log.String(), 4000))
		default:
		}
		resp, err := http.Get(s.ops + "/readyz")
		if err != nil {
			return false
		}
		_ = resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	})
}

func (s *stack) stop(sig syscall.Signal) {
	s.t.Helper()
	_ = s.cmd.Process.Signal(sig)
	select {
	case <-s.exited:
	case <-time.After(40 * time.Second):
		_ = s.cmd.Process.Kill()
		<-s.exited
		s.t.Errorf("the stack did not stop on %v", sig)
	}
}

func (s *stack) eventually(limit time.Duration, what string, ok func() bool) {
	s.t.Helper()
	deadline := time.After(limit)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline:
			s.t.Fatalf("not in time: %s", what)
		case <-tick.C:
		}
	}
}

type answer struct {
	status int
	header http.Header
	video  videojson.Video
	fault  videojson.Fault
	raw    []byte
}

func (s *stack) call(method, path string, body any, header ...string) answer {
	a, err := s.try(method, path, body, header...)
	if err != nil {
		s.t.Errorf("%s %s: %v", method, path, err)
	}
	return a
}

func (s *stack) try(method, path string, body any, header ...string) (answer, error) {
	var rd io.Reader
	switch b := body.(type) {
	case nil:
	case string:
		rd = strings.NewReader(b)
	default:
		raw, err := json.Marshal(b)
		if err != nil {
			return answer{}, err
		}
		rd = bytes.NewReader(raw)
	}
	req, err := http.NewRequest(method, s.base+path, rd)
	if err != nil {
		return answer{}, err
	}
	req.Header.Set("Authorization", "Bearer "+s.key)
	req.Header.Set("Content-Type", "application/json")
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer func() { _ = resp.Body.Close() }()
	a := answer{status: resp.StatusCode, header: resp.Header}
	if a.raw, err = io.ReadAll(resp.Body); err != nil {
		return a, err
	}
	var e struct{ Error videojson.Fault }
	if resp.StatusCode >= 400 && json.Unmarshal(a.raw, &e) == nil {
		a.fault = e.Error
	} else {
		_ = json.Unmarshal(a.raw, &a.video) // lists and quotes are read from raw
	}
	return a, nil
}

func request(model, prompt string) map[string]any {
	return map[string]any{"model": model, "prompt": prompt, "duration": 5, "resolution": "720p", "aspect_ratio": "16:9"}
}

// await waits until a job is final.
func (s *stack) await(limit time.Duration, id string) videojson.Video {
	s.t.Helper()
	var v videojson.Video
	s.eventually(limit, id+" is final", func() bool {
		a, err := s.try(http.MethodGet, "/v1/videos/"+id, nil)
		v = a.video
		return err == nil && (v.Status == "completed" || v.Status == "failed")
	})
	return v
}

// tasks is what the provider accepted for a job, by its own count.
func (s *stack) tasks(job string) (out []simulator.Task) {
	s.t.Helper()
	resp, err := http.Get(s.sim.URL + "/admin/tasks")
	if err != nil {
		s.t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	var all struct{ Tasks []simulator.Task }
	if err := json.NewDecoder(resp.Body).Decode(&all); err != nil {
		s.t.Fatal(err)
	}
	for _, t := range all.Tasks {
		if job == "" || t.JobID == job {
			out = append(out, t)
		}
	}
	return out
}

// connect opens a connection to the live one.
func (s *stack) connect() *pgx.Conn {
	s.t.Helper()
	address := s.database
	if address == "" {
		pid, err := os.ReadFile(filepath.Join(s.dir, "data/postgres/data/postmaster.pid"))
		if err != nil {
			s.t.Fatal(err)
		}
		address = "postgres://reelway@/reelway?host=" + strings.Split(string(pid), "\n")[4]
	}
	conn, err := pgx.Connect(context.Background(), address)
	if err != nil {
		s.t.Fatal(err)
	}
	return conn
}

// sql asks the live database one question.
func (s *stack) sql(query string, into ...any) {
	s.t.Helper()
	ctx, conn := context.Background(), s.connect()
	defer func() { _ = conn.Close(ctx) }()
	if err := conn.QueryRow(ctx, query).Scan(into...); err != nil {
		s.t.Fatal(err)
	}
}

// books checks the balance and every invariant, by SQL on the live database.
func (s *stack) books(available int64) {
	s.t.Helper()
	a := s.call(http.MethodGet, "/v1/balance", nil)
	var b struct {
		Available int64 `json:"available_micros"`
		Held      int64 `json:"held_micros"`
	}
	if err := json.Unmarshal(a.raw, &b); err != nil {
		s.t.Fatal(err)
	}
	if available >= 0 && (b.Available != available || b.Held != 0) {
		s.t.Errorf("balance is %d available, %d held; want %d and 0", b.Available, b.Held, available)
	}
	for name, sql := range map[string]string{
		"books that together hold something": `select count(*) from balance where available_micros + held_micros + revenue_micros + funding_micros
			+ promotional_micros + write_off_micros + provider_cost_micros + suspense_micros <> 0`,
		"balances unlike their postings": `select count(*) from balance b where
			available_micros <> (select coalesce(sum(case 'available' when destination then amount_micros when source then -amount_micros end), 0) from posting p where p.account_id = b.account_id)
			or held_micros <> (select coalesce(sum(case 'held' when destination then amount_micros when source then -amount_micros end), 0) from posting p where p.account_id = b.account_id)`,
		"holds open on final jobs": `select count(*) from job where hold_state = 'held' and completed_at is not null`,
		"final jobs not settled once": `select count(*) from job j where completed_at is not null and (select count(*) from posting p where p.key >= j.id || '/' and p.key < j.id || '0' and kind in ('capture', 'release'))
			<> case when captured_micros between 1 and quote_micros - 1 then 2 else 1 end`,
		"charges without a video":           `select count(*) from job where captured_micros > 0 and (state <> 'succeeded' or artifact is null)`,
		"provider tasks of two attempts":    `select count(*) from (select provider_task_id from attempt where provider_task_id is not null group by 1 having count(*) > 1) x`,
		"deadlocks":                         `select deadlocks::int from pg_stat_database where datname = current_database()`,
		"live jobs with nothing to wait on": `select count(*) from job where completed_at is null and swept_at < now() - interval '5 minutes'`,
	} {
		var n int
		s.sql(sql, &n)
		if n > 0 {
			s.t.Errorf("%d %s", n, name)
		}
	}
}
