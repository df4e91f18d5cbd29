// Package simulator stands in for the providers: their true paths, bodies,
// status words, errors and signed webhooks, with faults on demand and a real
// video at the end. It counts every task it accepts, and so is the independent
// witness of every test of money. It is never a part of production.
package simulator

import (
	"context"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"time"

	"reelway.dev/pkg/id"
	"reelway.dev/pkg/run"
	"reelway.dev/pkg/webhooksig"
)

// Config is what a developer may set. The keys are no secrets: they open
// nothing but this simulator.
type Config struct {
	Addr          string        `env:"REELWAY_SIMULATOR_ADDR" envDefault:"127.0.0.1:8090" desc:"address of the simulated providers"`
	TimeScale     float64       `env:"REELWAY_SIMULATOR_TIME_SCALE" min:"0.001" envDefault:"1" desc:"how many times faster than life a render is"`
	Render        time.Duration `env:"REELWAY_SIMULATOR_RENDER" min:"1ms" envDefault:"3s" desc:"time of a render at scale 1"`
	AtlasKey      string        `env:"REELWAY_SIMULATOR_ATLASCLOUD_KEY" envDefault:"simulated-atlas-key" desc:"API key that the simulated Atlas Cloud takes; several, each an account of its own, are separated by commas"`
	KlingAccess   string        `env:"REELWAY_SIMULATOR_KLING_ACCESS_KEY" envDefault:"simulated-kling-access" desc:"access key that the simulated Kling takes; several, each an account of its own, are separated by commas"`
	KlingSecret   string        `env:"REELWAY_SIMULATOR_KLING_SECRET_KEY" envDefault:"simulated-kling-secret-of-32-bytes" desc:"secret key that the simulated Kling takes"`
	WebhookSecret string        `env:"REELWAY_SIMULATOR_KLING_WEBHOOK_SECRET" envDefault:"whsec_c2ltdWxhdGVkLWtsaW5nLXdlYmhvb2sta2V5" desc:"secret with which the simulated Kling, Replicate and OpenAI sign their callbacks; empty for none"`
	Dir           string        `env:"REELWAY_SIMULATOR_DIR" desc:"where accepted tasks are kept over a restart; in memory alone when empty, in the data directory in the all-in-one"`
	Key           string        `env:"REELWAY_SIMULATOR_KEY" envDefault:"simulated-key" desc:"API key that every other simulated provider takes; several, each an account of its own, are separated by commas"`
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
	Prompt     string    `json:"prompt"`
	Created    time.Time `json:"created"`
	State      string    `json:"state"` // queued, running, succeeded, failed, canceled
	Charged    bool      `json:"charged"`
	Key        string    `json:"key"` // fingerprint of the key that submitted it
	// Source is what it works on: another task, or the address of a video.
	Source string  `json:"source,omitempty"`
	Inputs []Input `json:"inputs,omitempty"`

	d             *dialect
	sourceTask    string // Source, where it is a task
	whole         bool   // the result holds its source as well
	kind          string // which of a provider's APIs it was submitted to
	model         string
	width, height int
	seconds       int
	size          int64
	faults        map[string]int
	callback      string
	events        []string // that the callback is wanted for; all when empty
	policy        bool
	metadata      map[string]any // travels back in the callback
}

// Service is the simulator. It is safe for concurrent use.
type Service struct {
	cfg     Config
	client  *http.Client
	log     *slog.Logger
	key     ed25519.PrivateKey
	hookKey []byte
	rsaKey  func() *rsa.PrivateKey // made when it is first needed
	ctx     context.Context
	cancel  context.CancelFunc
	wg      sync.WaitGroup

	mu     sync.Mutex
	tasks  map[string]*Task
	order  []*Task
	byExt  map[string]*Task
	faults map[string]map[string]fault // by provider and name
	left   map[string]int              // calls left of a prompt's fault, by job
	keys   map[string]keyring          // by provider; one without takes its own key
	media  map[string][]byte           // by size and length

	journal *journal // nil: in memory alone
}

// New returns a simulator with a signing key of its own.
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
		byExt: map[string]*Task{}, faults: map[string]map[string]fault{}, left: map[string]int{}, keys: map[string]keyring{}, media: map[string][]byte{}, rsaKey: sync.OnceValue(makeRSAKey)}
	if cfg.WebhookSecret != "" {
		var err error
		if s.hookKey, err = webhooksig.StandardKey(cfg.WebhookSecret); err != nil {
			return nil, fmt.Errorf("REELWAY_SIMULATOR_KLING_WEBHOOK_SECRET: %w", err)
		}
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	if cfg.Dir != "" {
		if err := s.openJournal(cfg.Dir); err != nil {
			return nil, fmt.Errorf("REELWAY_SIMULATOR_DIR: %w", err)
		}
	}
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
	s.journal.close()
}

// dialects are the simulated providers.
func dialects() []*dialect {
	return []*dialect{atlasCloud(), kling(), replicate(), fal(), runway(), luma(), byteplus(), minimax(), veo(), openAI()}
}

// Handler serves every simulated provider below its name, the media and /admin.
func (s *Service) Handler() http.Handler {
	mux := http.NewServeMux()
	for _, d := range dialects() {
		for _, r := range d.routes {
			mux.HandleFunc(r.method+" /"+d.name+r.path, r.handle(s, d))
		}
	}
	mux.HandleFunc("GET /media/{file}", func(w http.ResponseWriter, r *http.Request) {
		s.serveMedia(w, strings.TrimSuffix(r.PathValue("file"), ".mp4"))
	})
	mux.HandleFunc("GET /admin/tasks", s.adminTasks)
	mux.HandleFunc("POST /admin/tasks/{id}", s.adminMove)
	mux.HandleFunc("POST /admin/faults", s.adminFaults)
	mux.HandleFunc("POST /admin/keys", s.adminKeys)
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("ok\n")) })
	return mux
}

func answer(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v)
}

// taskID is of lower-case letters and digits alone: Google's SDKs read no other
// names of files.
func taskID(prefix string) string {
	return prefix + strings.NewReplacer("_", "", "-", "").Replace(id.New("t"))
}

func host(r *http.Request) string {
	if r.TLS != nil {
		return "https://" + r.Host
	}
	return "http://" + r.Host
}
