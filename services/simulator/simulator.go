// Package simulator stands in for the providers: their true paths, bodies,
// status words, errors and signed webhooks, with faults on demand and a real
// video at the end. It counts every task it accepts, and so is the independent
// witness of every test of money. It is never a part of production.
package simulator

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"path"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"

	"reelway.dev/pkg/id"
	"reelway.dev/pkg/run"
	"reelway.dev/pkg/webhooksig"
	"reelway.dev/services/simulator/internal/testcard"
)

// Config is what a developer may set. The keys are no secrets: they open
// nothing but this simulator.
type Config struct {
	Addr          string        `env:"REELWAY_SIMULATOR_ADDR" envDefault:"127.0.0.1:8090" desc:"address of the simulated providers"`
	TimeScale     float64       `env:"REELWAY_SIMULATOR_TIME_SCALE" min:"0.001" envDefault:"1" desc:"how many times faster than life a render is"`
	Render        time.Duration `env:"REELWAY_SIMULATOR_RENDER" min:"1ms" envDefault:"3s" desc:"time of a render at scale 1"`
	AtlasKey      string        `env:"REELWAY_SIMULATOR_ATLASCLOUD_KEY" envDefault:"simulated-atlas-key" desc:"API key that the simulated Atlas Cloud takes"`
	KlingAccess   string        `env:"REELWAY_SIMULATOR_KLING_ACCESS_KEY" envDefault:"simulated-kling-access" desc:"access key that the simulated Kling takes"`
	KlingSecret   string        `env:"REELWAY_SIMULATOR_KLING_SECRET_KEY" envDefault:"simulated-kling-secret-of-32-bytes" desc:"secret key that the simulated Kling takes"`
	WebhookSecret string        `env:"REELWAY_SIMULATOR_KLING_WEBHOOK_SECRET" envDefault:"whsec_c2ltdWxhdGVkLWtsaW5nLXdlYmhvb2sta2V5" desc:"secret with which the simulated Kling signs its callbacks; empty for none"`
}

// Deps are the simulator's neighbours.
type Deps struct {
	Client *http.Client // posts the webhooks
	Logger *slog.Logger
}

// Task is one accepted task, as GET /admin/tasks shows it.
type Task struct {
	ID         string    `json:"id"`
	Provider   string    `json:"provider"`
	ExternalID string    `json:"external_id"`
	JobID      string    `json:"job_id"`
	Attempt    string    `json:"attempt"`
	Created    time.Time `json:"created"`
	State      string    `json:"state"` // queued, running, succeeded, failed
	Charged    bool      `json:"charged"`

	model         string
	width, height int
	seconds       int
	size          int64
	faults        map[string]int
	callback      string
	policy        bool
}

// Service is the simulator. It is safe for concurrent use.
type Service struct {
	cfg    Config
	client *http.Client
	log    *slog.Logger
	key    ed25519.PrivateKey
	hookKy []byte
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu     sync.Mutex
	tasks  map[string]*Task
	order  []*Task
	byExt  map[string]*Task
	faults map[string]map[string]int // provider → fault → calls left
	media  map[string][]byte         // by size and length
}

// New returns a simulator with a fresh signing key.
func New(cfg Config, d Deps) (*Service, error) {
	if d.Client == nil || d.Logger == nil {
		return nil, errors.New("simulator: Client and Logger are required")
	}
	if cfg.TimeScale <= 0 {
		return nil, errors.New("REELWAY_SIMULATOR_TIME_SCALE: must be above 0")
	}
	// Derived, not random: webhooks outlive a restart of the simulator.
	seed := sha256.Sum256([]byte("reelway simulator " + cfg.AtlasKey))
	s := &Service{cfg: cfg, client: d.Client, log: d.Logger, key: ed25519.NewKeyFromSeed(seed[:]), tasks: map[string]*Task{},
		byExt: map[string]*Task{}, faults: map[string]map[string]int{}, media: map[string][]byte{}}
	if cfg.WebhookSecret != "" {
		var err error
		if s.hookKy, err = webhooksig.StandardKey(cfg.WebhookSecret); err != nil {
			return nil, fmt.Errorf("REELWAY_SIMULATOR_KLING_WEBHOOK_SECRET: %w", err)
		}
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	return s, nil
}

// Components keeps the renders alive until the process drains.
func (s *Service) Components() []run.Component {
	return []run.Component{{Name: "simulator-renders", Run: func(ctx context.Context) error {
		<-ctx.Done()
		s.Close()
		return nil
	}}}
}

// Close ends every render under way and waits for it.
func (s *Service) Close() {
	s.cancel()
	s.wg.Wait()
}

// Handler serves every simulated provider, the media and /admin.
func (s *Service) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /atlascloud/api/v1/model/generateVideo", s.atlasSubmit)
	mux.HandleFunc("GET /atlascloud/api/v1/model/prediction/{id}", s.atlasPoll)
	mux.HandleFunc("GET /atlascloud/api/v1/webhooks/jwks.json", s.atlasKeys)
	mux.HandleFunc("POST /kling/v1/videos/{kind}", s.klingSubmit)
	mux.HandleFunc("GET /kling/v1/videos/{kind}/{id}", s.klingPoll)
	mux.HandleFunc("GET /media/{file}", s.serveMedia)
	mux.HandleFunc("GET /admin/tasks", s.adminTasks)
	mux.HandleFunc("POST /admin/faults", s.adminFaults)
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("ok\n")) })
	return mux
}

var faultWord = regexp.MustCompile(`\[fault:([a-z0-9_]+)(?::(\d+))?\]`)
var sizeWord = regexp.MustCompile(`\[size:(\d+)MB\]`)

// take reports whether a fault is due: one of the prompt's words, or one set by
// /admin/faults, which counts down.
func (s *Service) take(provider string, words map[string]int, name string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := s.faults[provider][name]; n > 0 {
		s.faults[provider][name]--
		return true
	}
	return words[name] > 0
}

func words(prompt string) map[string]int {
	m := map[string]int{}
	for _, f := range faultWord.FindAllStringSubmatch(prompt, -1) {
		n, _ := strconv.Atoi(f[2])
		m[f[1]] = max(n, 1)
	}
	return m
}

// callsLeft counts down a fault of n calls for one job, across its attempts.
func (s *Service) callsLeft(provider, job string, words map[string]int, name string) bool {
	if words[name] == 0 {
		return s.take(provider, nil, name)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	key := job + "/" + name
	if s.faults[key] == nil {
		s.faults[key] = map[string]int{"left": words[name]}
	}
	if s.faults[key]["left"] == 0 {
		return false
	}
	s.faults[key]["left"]--
	return true
}

// before plays the faults that strike before a task exists.
func (s *Service) before(r *http.Request, provider string, f map[string]int) {
	switch {
	case s.take(provider, f, "hang"):
		select {
		case <-r.Context().Done():
		case <-s.ctx.Done():
		}
		panic(http.ErrAbortHandler)
	case s.take(provider, f, "reset_before_accept"):
		panic(http.ErrAbortHandler)
	}
}

// after plays the faults that strike when the task exists but the answer has
// not been sent.
func (s *Service) after(w http.ResponseWriter, r *http.Request, t *Task) bool {
	switch {
	case s.take(t.Provider, t.faults, "reset_after_accept"):
		panic(http.ErrAbortHandler)
	case s.take(t.Provider, t.faults, "hang_after_accept"):
		select {
		case <-r.Context().Done():
		case <-s.ctx.Done():
		}
		panic(http.ErrAbortHandler)
	case s.take(t.Provider, t.faults, "garbage"):
		_, _ = w.Write([]byte(`{"code":0,"data":{"id":`))
		return true
	case t.faults["webhook_before_response"] > 0:
		s.wait(4 * s.step())
	}
	return false
}

func (s *Service) step() time.Duration {
	return time.Duration(float64(s.cfg.Render) / s.cfg.TimeScale / 4)
}

func (s *Service) wait(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-s.ctx.Done():
		return false
	}
}

// accept records a task and starts its render.
func (s *Service) accept(t *Task, prompt, host string) {
	t.Created, t.State, t.faults = time.Now().UTC(), "queued", words(prompt)
	if m := sizeWord.FindStringSubmatch(prompt); m != nil {
		n, _ := strconv.ParseInt(m[1], 10, 64)
		t.size = n << 20
	}
	if u, err := url.Parse(t.callback); err == nil {
		t.JobID, t.Attempt = path.Base(u.Path), u.Query().Get("attempt")
	}
	s.mu.Lock()
	s.tasks[t.ID] = t
	s.order = append(s.order, t)
	if t.ExternalID != "" {
		s.byExt[t.ExternalID] = t
	}
	s.mu.Unlock()
	s.wg.Go(func() { s.render(t, host) })
}

func (s *Service) set(t *Task, state string) {
	s.mu.Lock()
	t.State = state
	t.Charged = state == "succeeded"
	s.mu.Unlock()
}

func (s *Service) render(t *Task, host string) {
	if t.faults["webhook_before_response"] > 0 && !s.wait(s.step()/4) || !s.wait(s.step()) {
		return
	}
	s.set(t, "running")
	s.notify(t, host, "running")
	if !s.wait(3 * s.step()) {
		return
	}
	final := "succeeded"
	if t.policy || t.faults["fail_halfway"] > 0 {
		final = "failed"
	}
	s.set(t, final)
	if t.faults["webhook_never"] > 0 {
		return
	}
	s.notify(t, host, final)
	if t.faults["webhook_twice"] > 0 {
		s.notify(t, host, final)
	}
	if t.faults["webhook_out_of_order"] > 0 {
		s.notify(t, host, "running")
	}
}

// notify posts a webhook, repeating it on a 5xx or a failure to connect.
func (s *Service) notify(t *Task, host, state string) {
	if t.callback == "" || t.faults["webhook_never"] > 0 || t.Provider == "atlascloud" && state == "running" && t.faults["webhook_out_of_order"] == 0 {
		return // Atlas Cloud calls at the end only
	}
	body, header := s.atlasWebhook(t, host, state)
	if t.Provider == "kling" {
		body, header = s.klingWebhook(t, host, state)
	}
	for try := range 8 {
		req, err := http.NewRequestWithContext(s.ctx, http.MethodPost, t.callback, bytes.NewReader(body))
		if err != nil {
			return
		}
		req.Header = header.Clone()
		resp, err := s.client.Do(req)
		if err == nil {
			_ = resp.Body.Close()
			if resp.StatusCode < 500 {
				s.log.Info("webhook sent", "provider", t.Provider, "job_id", t.JobID, "task_state", state, "status", resp.StatusCode)
				return
			}
		}
		if !s.wait(min(100*time.Millisecond<<try, 5*time.Second)) {
			return
		}
	}
}

func (s *Service) find(key string) (Task, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.tasks[key]
	if t == nil {
		t = s.byExt[key]
	}
	if t == nil {
		return Task{}, false
	}
	return *t, true
}

func (t *Task) result(host string) string {
	switch {
	case t.faults["expired_result"] > 0:
		return host + "/media/expired.mp4"
	case t.faults["empty_result"] > 0:
		return ""
	}
	return host + "/media/" + t.ID + ".mp4"
}

// serveMedia draws the video of a task, padded with a free box on demand.
func (s *Service) serveMedia(w http.ResponseWriter, r *http.Request) {
	t, ok := s.find(strings.TrimSuffix(r.PathValue("file"), ".mp4"))
	if !ok || t.State != "succeeded" {
		http.Error(w, "this result has expired", http.StatusNotFound)
		return
	}
	key := fmt.Sprintf("%dx%d/%d", t.width, t.height, t.seconds)
	s.mu.Lock()
	data := s.media[key]
	s.mu.Unlock()
	if data == nil {
		var err error
		if data, err = testcard.Render(t.width, t.height, t.seconds); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		s.mu.Lock()
		s.media[key] = data
		s.mu.Unlock()
	}
	pad := max(t.size-int64(len(data)), 0)
	if pad > 0 {
		pad = max(pad, 8)
	}
	w.Header().Set("Content-Type", "video/mp4")
	w.Header().Set("Content-Length", strconv.FormatInt(int64(len(data))+pad, 10))
	if _, err := w.Write(data); err != nil || pad == 0 {
		return
	}
	if _, err := w.Write([]byte{byte(pad >> 24), byte(pad >> 16), byte(pad >> 8), byte(pad), 'f', 'r', 'e', 'e'}); err != nil {
		return
	}
	chunk := make([]byte, 64<<10)
	for left := pad - 8; left > 0; left -= int64(len(chunk)) {
		if _, err := w.Write(chunk[:min(left, int64(len(chunk)))]); err != nil {
			return
		}
	}
}

func (s *Service) adminTasks(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	out := []Task{}
	for _, t := range s.order {
		if e := r.URL.Query().Get("external_id"); e == "" || e == t.ExternalID {
			out = append(out, *t)
		}
	}
	s.mu.Unlock()
	answer(w, http.StatusOK, map[string]any{"tasks": out})
}

func (s *Service) adminFaults(w http.ResponseWriter, r *http.Request) {
	var f struct {
		Provider, Fault string
		Count           int
	}
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 4096)).Decode(&f); err != nil || f.Provider == "" || f.Fault == "" || f.Count < 0 {
		answer(w, http.StatusBadRequest, map[string]any{"error": "provider, fault and count (0 or more) are needed"})
		return
	}
	s.mu.Lock()
	if s.faults[f.Provider] == nil {
		s.faults[f.Provider] = map[string]int{}
	}
	s.faults[f.Provider][f.Fault] = f.Count
	s.mu.Unlock()
	answer(w, http.StatusOK, f)
}

func answer(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v)
}

func taskID(prefix string) string { return prefix + strings.ReplaceAll(id.New("t"), "_", "-") }

func host(r *http.Request) string { return "http://" + r.Host }

func badSignature(b []byte) []byte {
	out := bytes.Clone(b)
	_, _ = rand.Read(out)
	return out
}

func b64(b []byte) string { return base64.StdEncoding.EncodeToString(b) }

// pixels follows the providers: a resolution's short side at a ratio.
func pixels(resolution, ratio string) (w, h int) {
	short := 720
	switch strings.ToLower(resolution) {
	case "480p":
		short = 480
	case "1080p":
		short = 1080
	case "2160p", "4k":
		short = 2160
	}
	if ratio == "1:1" {
		side := map[int]int{480: 640, 720: 960, 1080: 1440}[short]
		return side, side
	}
	a, b, _ := strings.Cut(ratio, ":")
	x, _ := strconv.Atoi(a)
	y, _ := strconv.Atoi(b)
	if x <= 0 || y <= 0 {
		x, y = 16, 9
	}
	long := (short*max(x, y)/min(x, y) + 1) / 2 * 2
	if x > y {
		return long, short
	}
	return short, long
}
