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
	"sync/atomic"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp"
	"go.opentelemetry.io/otel/propagation"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/reflection"
	"google.golang.org/grpc/test/bufconn"

	"reelway.dev/pkg/auth"
	"reelway.dev/pkg/bucket"
	"reelway.dev/pkg/bus"
	"reelway.dev/pkg/callbacktoken"
	"reelway.dev/pkg/catalog"
	"reelway.dev/pkg/postgres"
	"reelway.dev/pkg/provider"
	"reelway.dev/pkg/provider/atlascloud"
	"reelway.dev/pkg/provider/kling"
	"reelway.dev/pkg/rpc"
	"reelway.dev/pkg/run"
	"reelway.dev/pkg/safehttp"
	"reelway.dev/pkg/webhooksig"
	ledgerv1 "reelway.dev/proto/gen/reelway/ledger/v1"
	"reelway.dev/services/archiver"
	"reelway.dev/services/callback"
	"reelway.dev/services/dispatcher"
	"reelway.dev/services/intake"
	"reelway.dev/services/ledger"
	"reelway.dev/services/notifier"
	"reelway.dev/services/simulator"
)

// Config is what the all-in-one adds to its services' settings.
type Config struct {
	HTTPAddr     string `env:"REELWAY_HTTP_ADDR" envDefault:"127.0.0.1:8080" desc:"REST, SSE, WebSocket and callbacks"`
	GRPCAddr     string `env:"REELWAY_GRPC_ADDR" envDefault:"127.0.0.1:9090" desc:"gRPC"`
	OpsAddr      string `env:"REELWAY_OPS_ADDR" envDefault:"127.0.0.1:9100" desc:"/livez, /readyz and /metrics"`
	DataDir      string `env:"REELWAY_DATA_DIR" envDefault:".data" desc:"where streams, database, videos and secrets lie"`
	DatabaseURL  string `env:"REELWAY_DATABASE_URL" desc:"a PostgreSQL to use instead of a private one"`
	NATSURL      string `env:"REELWAY_NATS_URL" desc:"a NATS with JetStream to use instead of the embedded one"`
	DevAPIKey    string `env:"REELWAY_DEV_API_KEY" desc:"the development API key; made and kept in the data directory when empty"`
	PublicURL    string `env:"REELWAY_PUBLIC_URL" desc:"how callers reach the HTTP address; http://ADDR when empty"`
	CallbackURL  string `env:"REELWAY_CALLBACK_URL" desc:"how providers reach the HTTP address; as REELWAY_PUBLIC_URL when empty"`
	LogLevel     string `env:"REELWAY_LOG_LEVEL" envDefault:"info" desc:"debug, info, warn or error"`
	DevCredits   int64  `env:"REELWAY_DEV_CREDITS" envDefault:"100" desc:"credits that the development account is given once"`
	AllowPrivate bool   `env:"REELWAY_ALLOW_PRIVATE_URLS" desc:"let image and result URLs be http and private; on by itself with the simulator"`

	AtlasURL       string `env:"REELWAY_ATLASCLOUD_URL" envDefault:"https://api.atlascloud.ai" desc:"Atlas Cloud's API"`
	AtlasKey       string `env:"REELWAY_ATLASCLOUD_KEY" desc:"API key at Atlas Cloud; the simulator stands in when empty"`
	AtlasHMAC      string `env:"REELWAY_ATLASCLOUD_HMAC_SECRET" desc:"secret of the generic x-ai-signature, where one is agreed"`
	KlingURL       string `env:"REELWAY_KLING_URL" envDefault:"https://api-singapore.klingai.com" desc:"Kling's API"`
	KlingAccessKey string `env:"REELWAY_KLING_ACCESS_KEY" desc:"access key at Kling; the simulator stands in when empty"`
	KlingSecretKey string `env:"REELWAY_KLING_SECRET_KEY" desc:"secret key at Kling"`
	KlingWebhook   string `env:"REELWAY_KLING_WEBHOOK_SECRET" desc:"whsec_ secret of Kling's console; without it callbacks are hints"`
}

// Settings is every part's configuration.
type Settings struct {
	Config
	Ledger     ledger.Config
	Dispatcher dispatcher.Config
	Archiver   archiver.Config
	Intake     intake.Config
	Simulator  simulator.Config
	Bucket     bucket.Config
}

func (s *Settings) parts() []any {
	return []any{&s.Config, &s.Ledger, &s.Dispatcher, &s.Archiver, &s.Intake, &s.Simulator, &s.Bucket}
}

// Load reads the settings from the environment.
func Load(environ []string) (*Settings, error) {
	s := &Settings{}
	return s, run.Load(environ, []string{"REELWAY_POSTGRES_BIN"}, s.parts()...)
}

// Describe lists every setting, for --help.
func Describe() []run.Setting { return run.Settings((&Settings{}).parts()...) }

// Stack is a running Reelway.
type Stack struct {
	APIKey    string
	AccountID string
	HTTPURL   string
	GRPCAddr  string
	OpsURL    string
	SimURL    string // empty without the simulator

	log     *slog.Logger
	stages  [][]run.Component
	closers []func() // in reverse
}

func (s *Stack) onClose(f func()) { s.closers = append(s.closers, f) }

func (s *Stack) close() {
	for i := len(s.closers) - 1; i >= 0; i-- {
		s.closers[i]()
	}
	s.closers = nil
}

// Run lives until ctx is done, then drains. ready is called when every door is
// open.
func Run(ctx context.Context, set *Settings, log *slog.Logger, ready func(*Stack), processors ...sdktrace.SpanProcessor) error {
	st := &Stack{log: log}
	defer st.close()
	if err := st.build(ctx, set, processors); err != nil {
		return err
	}
	go ready(st)
	return run.Stages(ctx, log, st.stages...)
}

func (s *Stack) build(ctx context.Context, set *Settings, processors []sdktrace.SpanProcessor) error {
	metrics, flush, err := run.Telemetry(ctx, "reelway", processors...)
	if err != nil {
		return err
	}
	s.onClose(func() {
		fctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		if err := flush(fctx); err != nil {
			s.log.Warn("telemetry not flushed", "error", err.Error())
		}
	})
	// Every door is opened first: a port in use must not cost a database start.
	listen := func(setting, addr string) (net.Listener, error) {
		l, err := run.Listen(setting, addr)
		if err == nil {
			s.onClose(func() { _ = l.Close() })
		}
		return l, err
	}
	httpL, err := listen("REELWAY_HTTP_ADDR", set.HTTPAddr)
	if err != nil {
		return err
	}
	grpcL, err := listen("REELWAY_GRPC_ADDR", set.GRPCAddr)
	if err != nil {
		return err
	}
	opsL, err := listen("REELWAY_OPS_ADDR", set.OpsAddr)
	if err != nil {
		return err
	}
	s.HTTPURL, s.GRPCAddr, s.OpsURL = "http://"+httpL.Addr().String(), grpcL.Addr().String(), "http://"+opsL.Addr().String()
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
	s.onClose(unlock)
	pool, err := s.database(ctx, set.DatabaseURL, dir)
	if err != nil {
		return err
	}
	b, err := s.broker(ctx, set.NATSURL, dir)
	if err != nil {
		return err
	}
	led, err := ledger.New(set.Ledger, ledger.Deps{Pool: pool, Bus: b, Logger: s.log})
	if err != nil {
		return err
	}
	// The ledger's door is gRPC here too, over memory.
	inner := rpc.NewServer()
	led.Register(inner)
	mem := bufconn.Listen(1 << 20)
	conn, err := rpc.Dial("passthrough:ledger", grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return mem.DialContext(ctx) }))
	if err != nil {
		return err
	}
	s.onClose(func() { _ = conn.Close() })
	innerDoor := run.Component{Name: "ledger-grpc", Run: func(ctx context.Context) error { return serveGRPC(ctx, inner, mem) }}

	secret, err := keptSecret(filepath.Join(dir, "signing.key"))
	if err != nil {
		return err
	}
	public := first(set.PublicURL, s.HTTPURL)
	tokens, err := callbacktoken.New(first(set.CallbackURL, public), []byte("callback "+secret))
	if err != nil {
		return err
	}
	bcfg := set.Bucket
	bcfg.PublicURL, bcfg.Secret = public, []byte("files "+secret)
	if bcfg.URL == "" {
		bcfg.URL = "file://" + filepath.ToSlash(filepath.Join(dir, "bucket"))
	}
	buck, err := bucket.Open(ctx, bcfg)
	if err != nil {
		return err
	}
	s.onClose(func() { _ = buck.Close() })

	var first0, consumers, last []run.Component
	guard := safehttp.Config{AllowHTTP: set.AllowPrivate, AllowPrivate: set.AllowPrivate, Redirects: 3}
	if set.AtlasKey == "" || set.KlingAccessKey == "" {
		simL, err := listen("REELWAY_SIMULATOR_ADDR", set.Simulator.Addr)
		if err != nil {
			return err
		}
		s.SimURL = "http://" + simL.Addr().String()
		guard.AllowHTTP, guard.AllowPrivate = true, true // its results are on this machine
		sim, err := simulator.New(set.Simulator, simulator.Deps{Client: &http.Client{Timeout: 15 * time.Second}, Logger: s.log})
		if err != nil {
			return err
		}
		last = append(last, run.HTTP("simulator", simL, sim.Handler()))
		last = append(last, sim.Components()...)
	}
	adapters, parsers, err := s.providers(set)
	if err != nil {
		return err
	}
	accounts, jobs, money := ledgerv1.NewAccountServiceClient(conn), ledgerv1.NewJobServiceClient(conn), ledgerv1.NewLedgerServiceClient(conn)
	cat := catalog.Builtin()
	authn := auth.New(accounts, time.Now)
	disp, err := dispatcher.New(set.Dispatcher, dispatcher.Deps{Bus: b, Jobs: jobs, Providers: adapters, Model: cat.ProviderModel, Tokens: tokens, Logger: s.log, Now: time.Now})
	if err != nil {
		return err
	}
	calls, err := callback.New(callback.Deps{Bus: b, Parsers: parsers, Tokens: tokens, Logger: s.log, Now: time.Now})
	if err != nil {
		return err
	}
	arch, err := archiver.New(set.Archiver, archiver.Deps{Bus: b, Bucket: buck, Client: guard.Client(), Logger: s.log})
	if err != nil {
		return err
	}
	note, err := notifier.New(notifier.Deps{Bus: b, Jobs: jobs, Auth: authn, Files: buck, Logger: s.log})
	if err != nil {
		return err
	}
	healthy := func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
		defer cancel()
		if !b.Connected() {
			return errors.New("NATS is not connected")
		}
		return pool.Ping(ctx)
	}
	in, err := intake.New(set.Intake, intake.Deps{Jobs: jobs, Ledger: money, Auth: authn, Status: b, Files: buck, Catalog: cat, CheckURL: guard.CheckURL, Health: healthy, Logger: s.log})
	if err != nil {
		return err
	}

	mux := http.NewServeMux()
	mux.Handle("/", otelhttp.NewHandler(in.Handler(), "intake", otelhttp.WithSpanNameFormatter(spanName)))
	mux.Handle("/v1/callbacks/", callback.ContinueTrace(otelhttp.NewHandler(calls.Handler(), "callback", otelhttp.WithSpanNameFormatter(spanName))))
	mux.Handle("GET /v1/stream", note.Handler())
	mux.Handle("GET /v1/videos/{id}/events", note.Handler())
	if h := buck.Handler(s.log); h != nil {
		mux.Handle(bucket.FilesPath, h)
	}
	outer := rpc.NewServer()
	in.Register(outer)
	note.Register(outer)
	healthpb.RegisterHealthServer(outer, health.NewServer())
	reflection.Register(outer)

	var draining atomic.Bool
	ops := http.NewServeMux()
	ops.Handle("GET /metrics", metrics)
	ops.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("ok\n")) })
	ops.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		if err := healthy(r.Context()); err != nil || draining.Load() {
			http.Error(w, "not ready", http.StatusServiceUnavailable)
			return
		}
		_, _ = w.Write([]byte("ok\n"))
	})
	first0 = append(first0, run.HTTP("http", httpL, mux),
		run.Component{Name: "grpc", Run: func(ctx context.Context) error { return serveGRPC(ctx, outer, grpcL) }},
		run.Component{Name: "readiness", Run: func(ctx context.Context) error { <-ctx.Done(); draining.Store(true); return nil }})
	consumers = append(append(append(consumers, disp.Components()...), arch.Components()...), note.Components()...)
	s.stages = [][]run.Component{first0, consumers, led.Components(), {innerDoor}, append(last, run.HTTP("ops", opsL, ops))}
	return s.account(ctx, led, set, dir)
}

func spanName(_ string, r *http.Request) string {
	if r.Pattern != "" {
		return r.Pattern
	}
	return r.Method
}

func serveGRPC(ctx context.Context, srv *grpc.Server, l net.Listener) error {
	errs := make(chan error, 1)
	go func() { errs <- srv.Serve(l) }()
	select {
	case err := <-errs:
		return err
	case <-ctx.Done():
	}
	stop := time.AfterFunc(5*time.Second, srv.Stop)
	defer stop.Stop()
	srv.GracefulStop()
	<-errs
	return nil
}

func (s *Stack) database(ctx context.Context, url, dir string) (*pgxpool.Pool, error) {
	if url == "" {
		p, err := postgres.StartPrivate(ctx, filepath.Join(dir, "postgres"), false)
		if err != nil {
			return nil, fmt.Errorf("start private PostgreSQL: %w", err)
		}
		s.onClose(func() {
			if err := p.Stop(context.WithoutCancel(ctx)); err != nil {
				s.log.Error("private PostgreSQL did not stop", "error", err.Error())
			}
		})
		url = p.URL
	}
	pool, err := postgres.Open(ctx, url, 0)
	if err != nil {
		return nil, err
	}
	s.onClose(pool.Close)
	return pool, postgres.Migrate(ctx, pool, ledger.Migrations())
}

func (s *Stack) broker(ctx context.Context, url, dir string) (*bus.Bus, error) {
	var opts []nats.Option
	if url == "" {
		srv, err := server.NewServer(&server.Options{DontListen: true, JetStream: true, StoreDir: filepath.Join(dir, "nats"), NoSigs: true, NoLog: true, SyncAlways: true})
		if err != nil {
			return nil, fmt.Errorf("embed NATS: %w", err)
		}
		srv.Start()
		s.onClose(func() { srv.Shutdown(); srv.WaitForShutdown() })
		if !srv.ReadyForConnections(20 * time.Second) {
			return nil, errors.New("embedded NATS is not ready")
		}
		opts = append(opts, nats.InProcessServer(srv))
	}
	nc, err := nats.Connect(url, append(opts, nats.Name("reelway"), nats.MaxReconnects(-1), nats.RetryOnFailedConnect(false))...)
	if err != nil {
		return nil, fmt.Errorf("connect to NATS: %w", err)
	}
	s.onClose(nc.Close)
	b, err := bus.New(nc)
	if err != nil {
		return nil, err
	}
	return b, b.Ensure(ctx, 1)
}

func (s *Stack) providers(set *Settings) (map[string]provider.Adapter, map[string]provider.WebhookParser, error) {
	// Operators choose these addresses, so they are not guarded; the keys go
	// nowhere else, and neither do our trace ids.
	client := &http.Client{Transport: otelhttp.NewTransport(http.DefaultTransport.(*http.Transport).Clone(), otelhttp.WithPropagators(propagation.NewCompositeTextMapPropagator()))}
	a := atlascloud.Config{BaseURL: set.AtlasURL, APIKey: set.AtlasKey, Client: client, Now: time.Now, HMACSecret: []byte(set.AtlasHMAC)}
	if set.AtlasKey == "" {
		a.BaseURL, a.APIKey = s.SimURL+"/atlascloud", set.Simulator.AtlasKey
	}
	k := kling.Config{BaseURL: set.KlingURL, AccessKey: set.KlingAccessKey, SecretKey: set.KlingSecretKey, Client: client, Now: time.Now}
	hook := set.KlingWebhook
	if set.KlingAccessKey == "" {
		k.BaseURL, k.AccessKey, k.SecretKey, hook = s.SimURL+"/kling", set.Simulator.KlingAccess, set.Simulator.KlingSecret, set.Simulator.WebhookSecret
	}
	if hook != "" {
		key, err := webhooksig.StandardKey(hook)
		if err != nil {
			return nil, nil, fmt.Errorf("REELWAY_KLING_WEBHOOK_SECRET: %w", err)
		}
		k.WebhookKeys = [][]byte{key}
	}
	at, kl := atlascloud.New(a), kling.New(k)
	return map[string]provider.Adapter{atlascloud.Name: at, kling.Name: kl},
		map[string]provider.WebhookParser{atlascloud.Name: at, kling.Name: kl}, nil
}

const devAccount = "acct_development"

// account makes the development account, its key and its first credits, once.
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
	return led.Provision(ctx, devAccount, key, set.DevCredits*1_000_000)
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
