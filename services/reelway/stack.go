// Package reelway is the whole of Reelway in one process, with NATS embedded
// and a private Postgres, and the client verbs of the command line.
package reelway

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/test/bufconn"

	"reelway.dev/pkg/auth"
	"reelway.dev/pkg/bucket"
	"reelway.dev/pkg/bus"
	"reelway.dev/pkg/callbacktoken"
	"reelway.dev/pkg/catalog"
	"reelway.dev/pkg/limit"
	"reelway.dev/pkg/livetoken"
	"reelway.dev/pkg/money"
	"reelway.dev/pkg/postgres"
	"reelway.dev/pkg/provider/registry"
	"reelway.dev/pkg/route"
	"reelway.dev/pkg/rpc"
	"reelway.dev/pkg/run"
	"reelway.dev/pkg/safehttp"
	"reelway.dev/pkg/seal"
	ledgerv1 "reelway.dev/proto/gen/reelway/ledger/v1"
	webhookv1 "reelway.dev/proto/gen/reelway/webhook/v1"
	"reelway.dev/services/archiver"
	"reelway.dev/services/callback"
	"reelway.dev/services/dispatcher"
	"reelway.dev/services/intake"
	"reelway.dev/services/ledger"
	"reelway.dev/services/notifier"
	"reelway.dev/services/notifier/mail"
	"reelway.dev/services/simulator"
)

// Config is what the all-in-one adds to its services' settings.
type Config struct {
	HTTPAddr     string `env:"REELWAY_HTTP_ADDR" envDefault:"127.0.0.1:8080" desc:"REST, SSE, WebSocket and callbacks"`
	GRPCAddr     string `env:"REELWAY_GRPC_ADDR" envDefault:"127.0.0.1:9090" desc:"gRPC"`
	DataDir      string `env:"REELWAY_DATA_DIR" envDefault:".data" desc:"where streams, database, videos and secrets lie"`
	DatabaseURL  string `env:"REELWAY_DATABASE_URL" desc:"a PostgreSQL to use instead of a private one"`
	NATSURL      string `env:"REELWAY_NATS_URL" desc:"a NATS with JetStream to use instead of the embedded one"`
	DevAPIKey    string `env:"REELWAY_DEV_API_KEY" desc:"the development API key; made and kept in the data directory when empty"`
	PublicURL    string `env:"REELWAY_PUBLIC_URL" url:"true" desc:"how callers reach the HTTP address; http://ADDR when empty"`
	CallbackURL  string `env:"REELWAY_CALLBACK_URL" url:"true" desc:"how providers reach the HTTP address; as REELWAY_PUBLIC_URL when empty"`
	DevCredits   int64  `env:"REELWAY_DEV_CREDITS" min:"0" max:"1000000000" envDefault:"100" desc:"credits that the development account is given once"`
	AllowPrivate bool   `env:"REELWAY_ALLOW_PRIVATE_URLS" desc:"let image and result URLs be http and private; on by itself with the simulator"`
}

// Settings is every part's configuration.
type Settings struct {
	Config
	Process    run.Config
	Mail       mail.Config
	Providers  registry.Config
	Ledger     ledger.Config
	Dispatcher dispatcher.Config
	Archiver   archiver.Config
	Intake     intake.Config
	Simulator  simulator.Config
	Notifier   notifier.Config
	Live       livetoken.Config
	Bucket     bucket.Config
	Models     catalog.Config
	Routes     route.Config
	Webhooks   notifier.WebhookConfig
	Seal       seal.Config
	Door       rpc.DoorConfig
}

func (s *Settings) parts() []any {
	return []any{&s.Config, &s.Process, &s.Mail, &s.Providers, &s.Ledger, &s.Dispatcher, &s.Archiver, &s.Intake, &s.Simulator, &s.Notifier, &s.Live, &s.Bucket, &s.Models, &s.Routes, &s.Webhooks, &s.Seal, &s.Door}
}

// Load reads the settings from the environment.
func Load(environ []string) (*Settings, error) {
	s := &Settings{}
	return s, run.Load(environ, []string{"REELWAY_POSTGRES_BIN", serverVariable, urlVariable, keyVariable, profileVariable}, s.parts()...)
}

// Describe lists every setting, for --help.
func Describe() []run.Setting { return run.Settings((&Settings{}).parts()...) }

// Stack is a running Reelway.
type Stack struct {
	APIKey    string
	AdminKey  string
	AccountID string
	HTTPURL   string
	GRPCAddr  string
	OpsURL    string
	SimURL    string // empty without the simulator
}

// Run lives until ctx is done, then drains. ready is called when every door is
// open.
func Run(ctx context.Context, set *Settings, log *slog.Logger, ready func(*Stack), processors ...sdktrace.SpanProcessor) error {
	s := &Stack{}
	build := func(ctx context.Context, h *run.Host) error { return s.build(ctx, h, set) }
	return run.Serve(ctx, set.Process, "reelway", log, build, func() { ready(s) }, processors...)
}

// build wires every service as its own main does, with memory between intake
// and ledger where they have a network.
func (s *Stack) build(ctx context.Context, h *run.Host, set *Settings) error {
	// Every door is opened first: a port in use must not cost a database start.
	httpL, err := h.Listen("REELWAY_HTTP_ADDR", set.HTTPAddr)
	if err != nil {
		return err
	}
	grpcL, err := h.Listen("REELWAY_GRPC_ADDR", set.GRPCAddr)
	if err != nil {
		return err
	}
	s.HTTPURL, s.GRPCAddr, s.OpsURL = "http://"+httpL.Addr().String(), grpcL.Addr().String(), h.OpsURL
	guard := safehttp.Config{AllowHTTP: set.AllowPrivate, AllowPrivate: set.AllowPrivate, Redirects: 3}
	dir, err := filepath.Abs(set.DataDir)
	if err != nil {
		return fmt.Errorf("resolve data directory: %w", err)
	}
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return fmt.Errorf("make data directory: %w", err)
	}
	unlock, err := lock(dir)
	if err != nil {
		return err
	}
	h.OnClose(unlock)
	if !set.Providers.HasKey() {
		if err := s.simulate(h, set); err != nil {
			return err
		}
		guard.AllowHTTP, guard.AllowPrivate = true, true // its results are on this machine
	}
	secret, err := keptSecret(filepath.Join(dir, "signing.key"))
	if err != nil {
		return err
	}
	pool, err := database(ctx, h, set.DatabaseURL, dir)
	if err != nil {
		return err
	}
	b, err := broker(ctx, h, set.NATSURL, dir)
	if err != nil {
		return err
	}
	h.Ready(pool.Ping)
	h.Ready(b.Ready)

	// Last: it opens what was sealed before a key was set.
	set.Seal.Keys = append(set.Seal.Keys, "webhooks "+secret)
	secrets, err := seal.Open(set.Seal)
	if err != nil {
		return err
	}
	led, err := ledger.New(set.Ledger, ledger.Deps{Pool: pool, Bus: b, Logger: h.Log, Seal: secrets})
	if err != nil {
		return err
	}
	if err := led.Reseal(ctx); err != nil {
		return err
	}
	inner, mem := rpc.NewServer(), bufconn.Listen(1<<20)
	led.Register(inner)
	conn, err := rpc.Dial("passthrough:ledger", grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return mem.DialContext(ctx) }))
	if err != nil {
		return err
	}
	h.OnClose(func() { _ = conn.Close() })
	accounts, jobs, credit := ledgerv1.NewAccountServiceClient(conn), ledgerv1.NewJobServiceClient(conn), ledgerv1.NewLedgerServiceClient(conn)

	public := first(set.PublicURL, s.HTTPURL)
	tokens, err := callbacktoken.New(first(set.CallbackURL, public), []byte("callback "+secret))
	if err != nil {
		return err
	}
	bcfg := set.Bucket
	bcfg.PublicURL, bcfg.Secret = public, "files "+secret
	if bcfg.URL == "" {
		bcfg.URL = "file://" + filepath.ToSlash(filepath.Join(dir, "bucket"))
	}
	files, err := bucket.Open(ctx, bcfg)
	if err != nil {
		return err
	}
	h.OnClose(func() { _ = files.Close() })
	providers, err := registry.Open(set.Providers)
	if err != nil {
		return err
	}
	cat, err := catalog.Open(set.Models, func(name string) bool { return providers.Adapters[name] != nil }, h.Log)
	if err != nil {
		return err
	}
	routes, err := route.Open(set.Routes, cat, h.Log)
	if err != nil {
		return err
	}
	authn := auth.New(accounts, time.Now)
	disp, err := dispatcher.New(set.Dispatcher, dispatcher.Deps{Bus: b, Jobs: jobs, Providers: providers.Adapters, Keys: providers.Keys, Model: cat.ProviderModel, OnUncertain: cat.OnUncertain, MaxRuntime: cat.MaxRuntime, Tokens: tokens, Files: files, Logger: h.Log, Now: time.Now})
	if err != nil {
		return err
	}
	calls, err := callback.New(callback.Deps{Bus: b, Parsers: providers.Parsers, Tokens: tokens, Logger: h.Log, Now: time.Now, Find: callback.Lookup(jobs)})
	if err != nil {
		return err
	}
	arch, err := archiver.New(set.Archiver, archiver.Deps{Bus: b, Bucket: files, Client: guard.Client(), Logger: h.Log, ResultHeader: providers.ResultHeader})
	if err != nil {
		return err
	}
	if set.Live.Secret == "" {
		set.Live.Secret = "realtime " + secret
	}
	live, err := livetoken.Open(set.Live)
	if err != nil {
		return err
	}
	note, err := notifier.New(set.Notifier, notifier.Deps{Bus: b, Jobs: jobs, Auth: authn, Files: files, Tokens: live, Realtime: ledgerv1.NewRealtimeServiceClient(conn), Logger: h.Log})
	if err != nil {
		return err
	}
	hooks, err := notifier.NewWebhooks(set.Webhooks, notifier.WebhookDeps{Deliveries: webhookv1.NewDeliveryServiceClient(conn), Seal: secrets, Guard: guard, Files: files, Logger: h.Log})
	if err != nil {
		return err
	}
	letters, err := mail.New(set.Mail.Or(public, "mail "+secret), mail.Deps{Bus: b, Ledger: ledgerv1.NewMailServiceClient(conn), Jobs: jobs, Files: files, Logger: h.Log, Now: time.Now})
	if err != nil {
		return err
	}
	counters, err := b.Counters(ctx)
	if err != nil {
		return err
	}
	in, err := intake.New(set.Intake, intake.Deps{Jobs: jobs, Ledger: credit, Usage: ledgerv1.NewUsageServiceClient(conn), Privacy: ledgerv1.NewPrivacyServiceClient(conn), Accounts: accounts, Budgets: ledgerv1.NewBudgetServiceClient(conn), Providers: ledgerv1.NewProviderServiceClient(conn),
		Maintenance: ledgerv1.NewMaintenanceServiceClient(conn),
		DeadLetters: ledgerv1.NewDeadLetterServiceClient(conn), Inspection: ledgerv1.NewInspectionServiceClient(conn), Webhooks: webhookv1.NewWebhookServiceClient(conn),
		Auth: authn, Limits: limit.New(counters, time.Now, h.Log), Status: b, Files: files, Store: files, Uploads: ledgerv1.NewUploadServiceClient(conn), Catalog: cat, Routes: routes, CheckURL: guard.CheckURL, Health: h.Healthy, Tokens: live, Realtime: ledgerv1.NewRealtimeServiceClient(conn), Logger: h.Log})
	if err != nil {
		return err
	}

	mux := http.NewServeMux()
	mux.Handle("/", in.Handler())
	mux.Handle("/v1/callbacks/", calls.Handler())
	mux.Handle(mail.Path, letters.Handler())
	watching := note.Handler()
	for _, path := range []string{"/v1/stream", "/v1/videos/{id}/events", "/v1/events", "/v1/reelway.js", "/v1/reelway.d.ts", "/v1/demo"} {
		mux.Handle("GET "+path, watching)
	}
	if f := files.Handler(); f != nil {
		mux.Handle(bucket.FilesPath, f)
	}
	outer, err := rpc.NewDoor(set.Door)
	if err != nil {
		return err
	}
	in.Register(outer)
	note.Register(outer)
	h.Add(run.Doors, run.HTTP("http", httpL, mux), rpc.Component("grpc", outer, grpcL))
	h.Add(run.Consumers, providers.Component(h.Log))
	h.Add(run.Consumers, disp.Components()...)
	h.Add(run.Consumers, arch.Components()...)
	h.Add(run.Consumers, note.Components()...)
	h.Add(run.Consumers, letters.Components()...)
	h.Add(run.Consumers, hooks.Components()...)
	h.Add(run.Consumers, authn.Components(b)...)
	h.Add(run.Consumers, cat.Components()...)
	h.Add(run.Consumers, routes.Components()...)
	h.Add(run.Consumers, in.Components()...)
	h.Add(run.Relays, led.Components()...)
	h.Add(run.Last, rpc.Component("ledger-grpc", inner, mem))
	return s.account(ctx, led, set, dir)
}

// simulate opens the simulator in the place of every provider. It is for a
// stack without any key: beside a real provider a simulated one would be
// charged for what nobody rendered.
func (s *Stack) simulate(h *run.Host, set *Settings) error {
	l, err := h.Listen("REELWAY_SIMULATOR_ADDR", set.Simulator.Addr)
	if err != nil {
		return err
	}
	s.SimURL = "http://" + l.Addr().String()
	if set.Simulator.Dir == "" {
		set.Simulator.Dir = filepath.Join(set.DataDir, "simulator")
	}
	sim, err := simulator.New(set.Simulator, simulator.Deps{Client: &http.Client{Timeout: 15 * time.Second}, Logger: h.Log})
	if err != nil {
		return err
	}
	// Its renders are short and of known length: so are the estimates.
	set.Ledger.TypicalRender = time.Duration(float64(set.Simulator.Render) / set.Simulator.TimeScale)
	set.Ledger.ProgressEvery = min(set.Ledger.ProgressEvery, max(set.Ledger.TypicalRender/20, 50*time.Millisecond))
	h.Add(run.Last, run.HTTP("simulator", l, sim.Handler()))
	h.Add(run.Last, sim.Components()...)
	simulated(&set.Providers, s.SimURL, set.Simulator)
	return nil
}

func database(ctx context.Context, h *run.Host, url, dir string) (*pgxpool.Pool, error) {
	if url == "" {
		p, err := postgres.StartPrivate(ctx, filepath.Join(dir, "postgres"), false)
		if err != nil {
			return nil, fmt.Errorf("start private PostgreSQL: %w", err)
		}
		h.Add(run.Last, run.Component{Name: "private-postgres", Run: p.Watch})
		h.OnClose(func() {
			if err := p.Stop(context.WithoutCancel(ctx)); err != nil {
				h.Log.Error("private PostgreSQL did not stop", "error", err.Error())
			}
		})
		url = p.URL
	}
	pool, err := postgres.Open(ctx, url, 0)
	if err != nil {
		return nil, err
	}
	h.OnClose(pool.Close)
	return pool, postgres.Migrate(ctx, pool, ledger.Migrations())
}

func broker(ctx context.Context, h *run.Host, url, dir string) (*bus.Bus, error) {
	if url != "" {
		b, shut, err := bus.Connect(ctx, bus.Config{URL: url, Replicas: 1}, "reelway")
		if err == nil {
			h.OnClose(shut)
		}
		return b, err
	}
	// By itself it would allow for three quarters of what is free on the disk, and
	// refuse to start on a small one.
	srv, err := server.NewServer(&server.Options{DontListen: true, JetStream: true, JetStreamMaxStore: bus.Reserved(), StoreDir: filepath.Join(dir, "nats"), NoSigs: true, NoLog: true, SyncAlways: true})
	if err != nil {
		return nil, fmt.Errorf("embed NATS: %w", err)
	}
	srv.Start()
	h.OnClose(func() { srv.Shutdown(); srv.WaitForShutdown() })
	if !srv.ReadyForConnections(20 * time.Second) {
		return nil, errors.New("embedded NATS is not ready")
	}
	nc, err := nats.Connect("", nats.InProcessServer(srv), nats.Name("reelway"))
	if err != nil {
		return nil, fmt.Errorf("connect to NATS: %w", err)
	}
	h.OnClose(nc.Close)
	b, err := bus.New(nc)
	if err != nil {
		return nil, err
	}
	return b, b.Ensure(ctx, 1)
}

const devAccount = "acct_development"

// account makes the development account, its key and its first credits, and the
// operator's account and key; each once.
func (s *Stack) account(ctx context.Context, led *ledger.Service, set *Settings, dir string) error {
	key := set.DevAPIKey
	if key == "" {
		kept, err := keptSecret(filepath.Join(dir, "development.key"))
		if err != nil {
			return err
		}
		key = "rw_dev_" + kept[:40]
	}
	s.APIKey, s.AccountID = key, devAccount
	if err := led.Provision(ctx, devAccount, key, set.DevCredits*money.Micros); err != nil {
		return err
	}
	var err error
	if s.AdminKey, err = adminKey(set.Ledger.AdminAPIKey, dir); err != nil {
		return err
	}
	return led.ProvisionOperator(ctx, s.AdminKey)
}

// adminKey is the key that was set, or one that is made at the first start and
// kept as a whole in a file, for REELWAY_ADMIN_API_KEY_FILE to name.
func adminKey(set, dir string) (string, error) {
	if set != "" {
		return set, nil
	}
	path := filepath.Join(dir, "admin.key")
	data, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		raw := make([]byte, 32)
		_, _ = rand.Read(raw) // never fails (crypto/rand since Go 1.24)
		data = []byte("rw_admin_" + hex.EncodeToString(raw) + "\n")
		err = os.WriteFile(path, data, 0o600)
	}
	if err != nil {
		return "", fmt.Errorf("keep admin key: %w", err)
	}
	key := strings.TrimSpace(string(data))
	if len(key) != len("rw_admin_")+64 {
		return "", fmt.Errorf("keep admin key: %s is damaged; remove it to have one made", path)
	}
	return key, nil
}

// keptSecret reads a secret from a file, made at the first start.
func keptSecret(path string) (string, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		raw := make([]byte, 32)
		_, _ = rand.Read(raw) // never fails (crypto/rand since Go 1.24)
		data = []byte(hex.EncodeToString(raw))
		err = os.WriteFile(path, data, 0o600)
	}
	if err != nil {
		return "", fmt.Errorf("keep secret: %w", err)
	}
	if s := strings.TrimSpace(string(data)); len(s) == 64 {
		return s, nil
	}
	return "", fmt.Errorf("keep secret: %s is damaged", path)
}

// lock refuses a second stack on the same data directory; the lock ends with
// the process, however it ends.
func lock(dir string) (unlock func(), err error) {
	fd, err := syscall.Open(filepath.Join(dir, "lock"), syscall.O_CREAT|syscall.O_RDWR|syscall.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock data directory: %w", err)
	}
	if err := syscall.Flock(fd, syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = syscall.Close(fd)
		return nil, fmt.Errorf("the data directory %s is in use by another Reelway (change it by --data-dir or REELWAY_DATA_DIR)", dir)
	}
	return func() { _ = syscall.Close(fd) }, nil
}

func first(ss ...string) string {
	for _, s := range ss {
		if s != "" {
			return s
		}
	}
	return ""
}
