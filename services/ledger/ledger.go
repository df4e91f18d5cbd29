// Package ledger owns Postgres: accounts, keys, jobs, attempts, holds and
// postings. It alone moves a job from state to state, in the transaction that
// also moves the money, and speaks of it through an outbox. It never calls a
// provider.
package ledger

import (
	"context"
	"embed"
	"errors"
	"io/fs"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/metric"
	"google.golang.org/grpc"

	"reelway.dev/pkg/bus"
	"reelway.dev/pkg/run"
	"reelway.dev/pkg/seal"
	ledgerv1 "reelway.dev/proto/gen/reelway/ledger/v1"
	webhookv1 "reelway.dev/proto/gen/reelway/webhook/v1"
)

//go:embed migrations/*.sql
var migrations embed.FS

// Migrations are the ledger's schema, for postgres.Migrate.
func Migrations() fs.FS {
	dir, err := fs.Sub(migrations, "migrations")
	if err != nil {
		panic(err) // the directory is embedded above
	}
	return dir
}

// Config is what an operator may set.
type Config struct {
	MaxAttempts   int             `env:"REELWAY_MAX_ATTEMPTS" min:"1" max:"100" envDefault:"5" desc:"submissions of one job on one route, refused ones included, before the next route is tried or the job fails; ten times as many where the provider is out of time and there is no other route"`
	RouteAttempts int             `env:"REELWAY_ROUTE_ATTEMPTS" min:"1" max:"100" envDefault:"2" desc:"submissions of one job to a provider that is unavailable before the next route is tried, where there is one"`
	RouteWait     time.Duration   `env:"REELWAY_ROUTE_WAIT" min:"0s" envDefault:"5m" desc:"how long a job may wait for the provider of its route to begin with it before the next route is tried, where there is one; 0: as long as any job"`
	MaxRuntime    time.Duration   `env:"REELWAY_MAX_RUNTIME" min:"1s" envDefault:"2h" desc:"longest time without a verdict from a provider before a job needs review, where its model has no longer one; the hold is kept until then"`
	StoreLife     time.Duration   `env:"REELWAY_STORE_LIFE" min:"1s" envDefault:"25h" desc:"longest time for copying a finished result before the job fails and the hold is released"`
	QueueLife     time.Duration   `env:"REELWAY_QUEUE_LIFE" min:"1s" envDefault:"24h" desc:"longest time a job may wait for a provider before it expires"`
	SweepInterval time.Duration   `env:"REELWAY_SWEEP_INTERVAL" min:"10ms" envDefault:"5s" desc:"how often the ledger looks for jobs without progress"`
	SweepAfter    time.Duration   `env:"REELWAY_SWEEP_AFTER" min:"100ms" envDefault:"1m" desc:"how long a live job may be silent before its message is published again"`
	WatchAfter    time.Duration   `env:"REELWAY_WATCH_AFTER" min:"100ms" envDefault:"5m" desc:"longest time after acceptance without news from the provider before it is polled"`
	ProgressEvery time.Duration   `env:"REELWAY_PROGRESS_EVERY" min:"10ms" envDefault:"1s" desc:"how often the progress of running jobs is estimated"`
	TypicalRender time.Duration   `env:"REELWAY_TYPICAL_RENDER" min:"1ms" envDefault:"90s" desc:"length of a render where none has been measured yet, for estimates"`
	Workers       int             `env:"REELWAY_LEDGER_WORKERS" min:"1" max:"64" envDefault:"2" desc:"transactions of grouped submits, and of grouped observations, under way at the same time in one replica"`
	Group         int             `env:"REELWAY_LEDGER_GROUP" min:"1" max:"4096" envDefault:"256" desc:"submits, or observations, in one transaction at the most"`
	Waiting       int             `env:"REELWAY_LEDGER_WAITING" min:"1" max:"1000000" envDefault:"8192" desc:"submits that may wait in one replica; more are refused with 503 and Retry-After"`
	SpikeFactor   int             `env:"REELWAY_SPIKE_FACTOR" min:"0" envDefault:"10" desc:"an account that is about to spend more than this many times its usual hour is paused until an operator resumes it; 0: never"`
	SpikeFloor    int64           `env:"REELWAY_SPIKE_FLOOR" min:"0" envDefault:"0" desc:"credits in an hour up to which no account is paused for spending too fast, and the limit of those with less than 24 hours of spending in 7 days; 0: those are not paused"`
	RetainPrompts time.Duration   `env:"REELWAY_RETAIN_PROMPTS" min:"0s" envDefault:"0" desc:"how long after its end a job keeps prompt, addresses, metadata and error texts, such as 720h; 0 keeps them for ever"`
	RetainVideos  time.Duration   `env:"REELWAY_RETAIN_VIDEOS" min:"0s" envDefault:"0" desc:"how long after its end a job keeps its video in the bucket; 0 keeps it for ever"`
	RetainFacts   time.Duration   `env:"REELWAY_RETAIN_OBSERVATIONS" min:"0s" envDefault:"0" desc:"how long after its end a job keeps what was observed of it and its Idempotency-Key, which may be used anew then; 0 keeps them for ever"`
	RetainEvery   time.Duration   `env:"REELWAY_RETAIN_INTERVAL" min:"10ms" envDefault:"1m" desc:"how often the ledger looks for jobs past these ages"`
	RetainHooks   time.Duration   `env:"REELWAY_RETAIN_WEBHOOKS" min:"0s" envDefault:"720h" desc:"how long deliveries of webhooks and what was answered to them are kept, those that wait for a disabled endpoint included; 0 keeps them for ever"`
	HookSchedule  []time.Duration `env:"REELWAY_WEBHOOK_SCHEDULE" envDefault:"5s,5m,30m,2h,5h,10h,14h,20h,24h" desc:"waits between the attempts of a webhook delivery, separated by commas; after the last one fails it is given up"`
	HookPatience  time.Duration   `env:"REELWAY_WEBHOOK_DISABLE_AFTER" min:"0s" envDefault:"120h" desc:"how long a webhook endpoint may take nothing before it is disabled; 0: for ever"`
	UploadLife    time.Duration   `env:"REELWAY_UPLOAD_LIFE" min:"1m" envDefault:"48h" desc:"how long an upload may be used; its file is deleted then, or as soon as the last job that needs it is over"`
	UploadsUnused int             `env:"REELWAY_UPLOADS_UNUSED" min:"1" envDefault:"100" desc:"uploads of one account that no video was made from, pending ones included; more are refused"`
	ReviewEvery   time.Duration   `env:"REELWAY_REVIEW_EVERY" min:"1s" envDefault:"1h" desc:"how often a provider is asked for the fate of a task that had no verdict in time"`
	ReviewFor     time.Duration   `env:"REELWAY_REVIEW_FOR" min:"0s" envDefault:"168h" desc:"for how long it is asked; after that an operator settles the suspense"`
	Reconcile     time.Duration   `env:"REELWAY_RECONCILE_EVERY" min:"0s" envDefault:"10m" desc:"how often the books are proven in the background, by one replica at a time; once a day from the first posting on"`
	AdminAPIKey   string          `env:"REELWAY_ADMIN_API_KEY" desc:"a key of scope admin for the operator's account, made at the start; one made before stays until it is revoked"`
}

// Deps are the ledger's neighbours.
type Deps struct {
	Pool   *pgxpool.Pool
	Bus    *bus.Bus
	Logger *slog.Logger
	// Seal encrypts secrets of webhook endpoints; nil means the fixed key.
	Seal *seal.Keys
}

// Service is the ledger. It is safe for concurrent use, and any number of
// replicas may run on one database.
type Service struct {
	cfg  Config
	pool *pgxpool.Pool
	bus  *bus.Bus
	log  *slog.Logger
	kick chan struct{} // wakes the relay after a commit of ours
	// arrived wakes the queue after a commit of ours.
	arrived chan struct{}
	opens   *batcher[opening, opened]
	begins  *batcher[*ledgerv1.BeginAttemptRequest, *ledgerv1.BeginAttemptResponse]
	ample   ample
	turns   turns
	times   renderTimes
	used    usedKeys
	seal    *seal.Keys
	seen    metric.Int64Counter
	fell    metric.Int64Counter
	meters  meters
	trust   trusted
	known   knownSwitches
}

// New returns a ledger on a migrated database.
func New(cfg Config, d Deps) (*Service, error) {
	if d.Pool == nil || d.Bus == nil || d.Logger == nil {
		return nil, errors.New("ledger: Pool, Bus and Logger are required")
	}
	s := &Service{cfg: cfg, pool: d.Pool, bus: d.Bus, log: d.Logger, kick: make(chan struct{}, 1), arrived: make(chan struct{}, 1), seal: d.Seal}
	if err := s.prepareHooks(); err != nil {
		return nil, err
	}
	s.opens = newBatcher(cfg.Waiting, cfg.Group, s.open)
	s.begins = newBatcher(cfg.Waiting, cfg.Group, s.begin)
	meter := otel.Meter("reelway.dev/services/ledger")
	var err1, err2, err3 error
	s.seen, err1 = meter.Int64Counter("reelway.ledger.observations", metric.WithUnit("{observation}"),
		metric.WithDescription("observations by fact, source and verdict; late and conflict want an operator"))
	s.meters, err2 = newMeters(meter)
	s.fell, err3 = meter.Int64Counter("reelway.ledger.fallbacks", metric.WithUnit("{job}"),
		metric.WithDescription("jobs that went on to their next route, by the provider left and the next one"))
	return s, errors.Join(err1, err2, err3, s.watchOutbox(meter), s.measureJobs(meter), s.bus.Measure(), s.measureBooks(meter), s.measureTrust(meter), s.measureHooks(meter), s.measureSwitches(meter))
}

// Register puts the ledger's gRPC services on a server.
func (s *Service) Register(r grpc.ServiceRegistrar) {
	ledgerv1.RegisterJobServiceServer(r, &jobServer{s: s})
	ledgerv1.RegisterAccountServiceServer(r, &accountServer{s: s})
	ledgerv1.RegisterLedgerServiceServer(r, &moneyServer{s: s})
	ledgerv1.RegisterBudgetServiceServer(r, &budgetServer{s: s})
	ledgerv1.RegisterUsageServiceServer(r, &usageServer{s: s})
	ledgerv1.RegisterPrivacyServiceServer(r, &privacyServer{s: s})
	ledgerv1.RegisterProviderServiceServer(r, &providerServer{s: s})
	ledgerv1.RegisterMaintenanceServiceServer(r, &maintenanceServer{s: s})
	ledgerv1.RegisterMailServiceServer(r, &mailServer{s: s})
	ledgerv1.RegisterDeadLetterServiceServer(r, &deadLetterServer{s: s})
	ledgerv1.RegisterInspectionServiceServer(r, &inspectionServer{s: s})
	webhookv1.RegisterWebhookServiceServer(r, &webhookServer{s: s})
	webhookv1.RegisterDeliveryServiceServer(r, &deliveryServer{s: s})
	ledgerv1.RegisterRealtimeServiceServer(r, &realtimeServer{s: s})
	ledgerv1.RegisterUploadServiceServer(r, &uploadServer{s: s})
}

// Components are the ledger's background parts.
func (s *Service) Components() []run.Component {
	out := []run.Component{
		{Name: "ledger-outbox", Run: s.relay},
		{Name: "ledger-queue", Run: s.admitTurns},
		{Name: "ledger-projection", Run: func(ctx context.Context) error {
			return bus.ConsumeBatch(ctx, s.bus, bus.ProjectionConsumer, s.cfg.Group, s.Project)
		}},
		{Name: "ledger-progress", Run: s.estimate},
		{Name: "ledger-sweep", Run: s.sweep},
		{Name: "ledger-partitions", Run: s.partition},
		{Name: "ledger-retention", Run: s.retain},
		{Name: "ledger-reconcile", Run: s.reconcile},
		{Name: "ledger-key-use", Run: s.noteUse},
		{Name: "ledger-mail", Run: s.forgetMail},
		{Name: "ledger-webhooks", Run: s.tidyHooks},
	}
	for range s.cfg.Workers {
		out = append(out, run.Component{Name: "ledger-opens", Run: s.opens.work}, run.Component{Name: "ledger-begins", Run: s.begins.work},
			run.Component{Name: "ledger-observations", Run: func(ctx context.Context) error {
				return bus.ConsumeBatch(ctx, s.bus, bus.ObservationConsumer, s.cfg.Group, s.Observe)
			}})
	}
	return out
}

// wakeOpened wakes those who pass on what was opened.
func (s *Service) wakeOpened() {
	s.wake()
	select {
	case s.arrived <- struct{}{}:
	default:
	}
}

func (s *Service) wake() {
	select {
	case s.kick <- struct{}{}:
	default:
	}
}
