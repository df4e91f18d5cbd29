// Package intake is the public door: it authenticates, validates, prices and
// submits, and reads what became of it. It owns no data; jobs and money are the
// ledger's.
package intake

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"reelway.dev/pkg/auth"
	"reelway.dev/pkg/bucket"
	"reelway.dev/pkg/catalog"
	"reelway.dev/pkg/fault"
	"reelway.dev/pkg/id"
	"reelway.dev/pkg/job"
	"reelway.dev/pkg/limit"
	"reelway.dev/pkg/livetoken"
	"reelway.dev/pkg/money"
	"reelway.dev/pkg/route"
	"reelway.dev/pkg/videojson"
	ledgerv1 "reelway.dev/proto/gen/reelway/ledger/v1"
	videov1 "reelway.dev/proto/gen/reelway/video/v1"
	webhookv1 "reelway.dev/proto/gen/reelway/webhook/v1"
)

// Config is what an operator may set.
type Config struct {
	CapDevelopment string `env:"REELWAY_CAP_DEVELOPMENT" oneof:"480p 720p 1080p 2160p" envDefault:"720p" desc:"highest resolution of accounts of the development tier"`
	CapStaging     string `env:"REELWAY_CAP_STAGING" oneof:"480p 720p 1080p 2160p" envDefault:"720p" desc:"highest resolution of accounts of the staging tier"`
	CapProduction  string `env:"REELWAY_CAP_PRODUCTION" oneof:"480p 720p 1080p 2160p" envDefault:"2160p" desc:"highest resolution of accounts of the production tier"`

	UploadMaxBytes      int64         `env:"REELWAY_UPLOAD_MAX_BYTES" min:"1024" max:"1073741824" envDefault:"20971520" desc:"largest image that is taken as a file, in bytes"`
	UploadMaxVideoBytes int64         `env:"REELWAY_UPLOAD_MAX_VIDEO_BYTES" min:"1024" max:"5368709120" envDefault:"536870912" desc:"largest video that is taken as a file, in bytes"`
	UploadTimeout       time.Duration `env:"REELWAY_UPLOAD_TIMEOUT" min:"1s" max:"1h" envDefault:"5m" desc:"longest time for receiving one file, or for looking at one that was sent to the bucket"`
	UploadsAtOnce       int           `env:"REELWAY_UPLOADS_AT_ONCE" min:"1" max:"1000" envDefault:"8" desc:"files that one replica stores at the same time, half of them one account's at the most, each in up to 25 MiB of memory on S3; more wait for 10 seconds and are refused with 503 then"`

	LatencyEvery time.Duration `env:"REELWAY_LATENCY_EVERY" min:"100ms" envDefault:"30s" desc:"how often the models' present latencies are read, for aliases with a ceiling of latency"`
}

// StatusReader is the read model; bus.Bus is one.
type StatusReader interface {
	Status(ctx context.Context, jobID string) (*videov1.Video, bool, error)
}

// Files signs stored results; bucket.Bucket is one.
type Files interface {
	SignedURL(ctx context.Context, key string) (string, time.Time, error)
	Sign(ctx context.Context, key string, r bucket.Response) (string, time.Time, error)
}

// Limiter counts the requests of keys; limit.Limiter is one.
type Limiter interface {
	Take(ctx context.Context, key string, perMinute int) limit.Verdict
}

// Deps are intake's neighbours.
type Deps struct {
	Jobs     ledgerv1.JobServiceClient
	Ledger   ledgerv1.LedgerServiceClient
	Usage    ledgerv1.UsageServiceClient
	Privacy  ledgerv1.PrivacyServiceClient
	Accounts ledgerv1.AccountServiceClient
	Budgets  ledgerv1.BudgetServiceClient
	// Providers tells operators how the providers stand.
	Providers ledgerv1.ProviderServiceClient
	// Maintenance refuses new videos, when an operator says so.
	Maintenance ledgerv1.MaintenanceServiceClient
	// Inspection shows operators one job.
	Inspection ledgerv1.InspectionServiceClient
	// DeadLetters is what consumers gave up on.
	DeadLetters ledgerv1.DeadLetterServiceClient
	Webhooks    webhookv1.WebhookServiceClient
	Auth        *auth.Authenticator
	Limits      Limiter
	Status      StatusReader
	Files       Files
	Store       Store // takes uploads
	Uploads     ledgerv1.UploadServiceClient
	Catalog     *catalog.Catalog
	Routes      *route.Routes
	CheckURL    func(raw string) error // judges URLs of images and videos, and those of webhooks
	Health      func(context.Context) error
	Tokens      *livetoken.Tokens // makes browser tokens
	Realtime    ledgerv1.RealtimeServiceClient
	Logger      *slog.Logger
}

// Service is intake. It is stateless and safe for concurrent use.
type Service struct {
	cfg  Config
	d    Deps
	took latencies
	// places are of those who store files.
	places *places
}

// New returns a Service; every field of d is required.
func New(cfg Config, d Deps) (*Service, error) {
	if d.Jobs == nil || d.Ledger == nil || d.Usage == nil || d.Privacy == nil || d.Accounts == nil || d.Budgets == nil || d.Providers == nil || d.Maintenance == nil || d.DeadLetters == nil || d.Inspection == nil || d.Webhooks == nil || d.Auth == nil || d.Limits == nil || d.Status == nil || d.Files == nil || d.Store == nil || d.Uploads == nil || d.Catalog == nil || d.Routes == nil || d.CheckURL == nil || d.Health == nil || d.Tokens == nil || d.Realtime == nil || d.Logger == nil {
		return nil, errors.New("intake: every dependency is required")
	}
	return &Service{cfg: cfg, d: d, places: newPlaces(cfg.UploadsAtOnce)}, nil
}

// cap is the highest resolution that p may ask for: the account's own, which an
// operator has set with a reason, before its tier's.
func (s *Service) cap(p auth.Principal) string {
	if p.CapResolution != "" {
		return p.CapResolution
	}
	switch p.Tier {
	case "production":
		return s.cfg.CapProduction
	case "staging":
		return s.cfg.CapStaging
	}
	return s.cfg.CapDevelopment
}

// invalid names every wrong field once: a value that could not be read is not
// said to be missing as well.
func invalid(fields []fault.Field) error {
	return fault.Invalid(fields...)
}

// plan resolves and prices a request without any side effect. bad is what was
// found wrong with it before; every fault is named at once.
func (s *Service) plan(ctx context.Context, p auth.Principal, r *videov1.VideoRequest, bad ...fault.Field) (*route.Plan, error) {
	made, err := s.source(ctx, p, r)
	if err != nil {
		return nil, err
	}
	r = s.meant(r, made)
	plan, worse := s.d.Routes.Table().Resolve(route.Ask{Request: r, Models: s.d.Catalog, Cap: s.cap(p), Tier: p.Tier, Region: s.d.Routes.Region(), Latency: s.took.of, Made: made})
	bad = append(append(bad, worse...), s.offering(p, r, made)...)
	for _, u := range []struct{ field, url string }{{"image_url", r.GetImageUrl()}, {"end_image_url", r.GetEndImageUrl()}, {"video_url", r.GetVideoUrl()}} {
		if _, ours := bucket.RefKey(u.url); ours || u.url == "" {
			continue
		}
		if strings.HasPrefix(u.url, "data:") || base64Like(u.url) {
			e := fault.New(fault.PayloadTooLarge, "%s holds the file itself; upload it and send its https URL", u.field)
			e.Fields = []fault.Field{{Name: u.field, Message: "must be an https URL"}}
			return nil, e
		}
		if err := s.d.CheckURL(u.url); err != nil {
			bad = append(bad, fault.Field{Name: u.field, Message: err.Error()})
		}
	}
	if u := r.GetCallbackUrl(); u != "" {
		if err := s.d.CheckURL(u); err != nil {
			bad = append(bad, fault.Field{Name: "callback_url", Message: err.Error()})
		}
	}
	for _, t := range []struct{ field, text string }{{"prompt", r.GetPrompt()}, {"negative_prompt", r.GetNegativePrompt()}, {"user", r.GetUser()}} {
		if strings.ContainsRune(t.text, 0) {
			bad = append(bad, fault.Field{Name: t.field, Message: "must not hold a NUL character"})
		}
	}
	if top := max(p.TopPriority, videov1.Priority_PRIORITY_NORMAL); r.GetPriority() > top {
		bad = append(bad, fault.Field{Name: "priority", Message: fmt.Sprintf("%s is not open to this account; it may ask for %s",
			videojson.Priority(r.GetPriority()), videojson.PrioritiesTo(top))})
	}
	for k, v := range r.GetMetadata() {
		if strings.ContainsRune(k+v, 0) {
			bad = append(bad, fault.Field{Name: "metadata", Message: "must not hold a NUL character"})
		}
	}
	bad = append(bad, checkNotify(r.GetNotifyEmail())...)
	if len(bad) > 0 {
		return nil, invalid(bad)
	}
	return plan, nil
}

// quote is a plan as callers see it.
func (s *Service) quote(ctx context.Context, p auth.Principal, r *videov1.VideoRequest, bad ...fault.Field) (*videov1.QuoteVideoResponse, error) {
	src, worse, err := s.fill(ctx, p, r, nil)
	if err != nil {
		return nil, err
	}
	plan, err := s.plan(ctx, p, src.request, slices.Concat(bad, worse, src.gone)...)
	if err != nil {
		return nil, err
	}
	dearest := plan.Dearest()
	q := &videov1.QuoteVideoResponse{Params: plan.Routes[0].Params, Lines: dearest.Lines, TotalMicros: dearest.Price, Route: plan.Alias}
	for _, c := range plan.Routes {
		q.Routes = append(q.Routes, &videov1.QuotedRoute{Model: c.Model.ID, Provider: c.Model.Provider, Params: c.Params, PriceMicros: c.Price, Lines: c.Lines, Dropped: c.Dropped})
	}
	return q, nil
}

// jobPlan is a plan as the ledger keeps it; nil where the job's own row says
// everything.
func jobPlan(p *route.Plan) *ledgerv1.Plan {
	if p.Alias == "" && len(p.Routes[0].Dropped) == 0 {
		return nil
	}
	out := &ledgerv1.Plan{Alias: p.Alias, FallbackOnPolicy: p.FallbackOnPolicy}
	for _, c := range p.Routes {
		out.Routes = append(out.Routes, &ledgerv1.Route{Params: c.Params, Provider: c.Model.Provider, PriceMicros: c.Price,
			CostMicros: c.Model.Cost(c.Params, c.Price), CostCurrency: catalog.CostCurrency, Dropped: c.Dropped})
	}
	return out
}

// base64Like reports whether a text that should be a URL is a file in base64.
func base64Like(s string) bool {
	return len(s) >= 64 && !strings.Contains(s, ":") && !strings.ContainsFunc(s, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("+/=-_\r\n", r)
	})
}

// mayCreate refuses what can be refused before the request itself is read.
func mayCreate(p auth.Principal, key string) error {
	if len(key) > 255 || strings.ContainsFunc(key, func(c rune) bool { return c < 0x20 || c > 0x7e }) {
		return invalid([]fault.Field{{Name: "Idempotency-Key", Message: "must be at most 255 printable ASCII characters"}})
	}
	return p.Active()
}

// create opens the job of a request. own are the uploads that came with it.
func (s *Service) create(ctx context.Context, p auth.Principal, r *videov1.VideoRequest, key string, own []string, bad ...fault.Field) (*videov1.Video, error) {
	if err := mayCreate(p, key); err != nil {
		return nil, err
	}
	src, worse, err := s.fill(ctx, p, r, own)
	if err != nil {
		return nil, err
	}
	hash, err := digest(src.identity)
	if err != nil {
		return nil, err
	}
	var named []byte
	if src.named != nil {
		if named, err = digest(src.named); err != nil {
			return nil, err
		}
	}
	bad = append(bad, worse...)
	plan, err := s.plan(ctx, p, src.request, slices.Concat(bad, src.gone)...)
	if err == nil {
		err = within(plan, r.GetMaxCostMicros())
	}
	if err != nil && key != "" && len(bad) == 0 {
		return s.replay(ctx, &ledgerv1.ReplayJobRequest{AccountId: p.AccountID, IdempotencyKey: key, RequestHash: hash, NamedHash: named}, err)
	}
	if err != nil {
		return nil, err
	}
	first, hold := plan.Routes[0], plan.Dearest().Price
	resp, err := s.d.Jobs.OpenJob(ctx, &ledgerv1.OpenJobRequest{
		AccountId: p.AccountID, ApiKeyId: p.KeyID, IdempotencyKey: key, RequestHash: hash, NamedHash: named, Params: first.Params,
		Provider: first.Model.Provider, QuoteMicros: first.Price, User: r.GetUser(), Metadata: r.GetMetadata(),
		CostMicros: first.Model.Cost(first.Params, first.Price), CostCurrency: catalog.CostCurrency, Plan: jobPlan(plan),
		Priority: r.GetPriority(), QueueWeight: p.QueueWeight, CallbackUrl: r.GetCallbackUrl(), NotifyEmail: r.GetNotifyEmail(), UploadIds: src.uploads,
		SourceId: sourceFile(plan),
	})
	if err != nil {
		return nil, fault.FromStatus(err)
	}
	s.d.Logger.InfoContext(ctx, "job opened", "job_id", resp.GetVideo().GetId(), "account_id", p.AccountID, "provider", first.Model.Provider,
		"model", first.Model.ID, "route", plan.Alias, "routes", len(plan.Routes), "quote_micros", hold, "replayed", resp.GetReplayed())
	return resp.GetVideo(), nil
}

// digest is what makes two requests the same.
func digest(r *videov1.VideoRequest) ([]byte, error) {
	raw, err := proto.MarshalOptions{Deterministic: true}.Marshal(r)
	if err != nil {
		return nil, fmt.Errorf("marshal request: %w", err)
	}
	sum := sha256.Sum256(raw)
	return sum[:], nil
}

// within refuses a plan that may cost more than limit; 0 is no limit.
func within(p *route.Plan, limit int64) error {
	hold := p.Dearest().Price
	if limit == 0 || hold <= limit {
		return nil
	}
	return invalid([]fault.Field{{Name: "max_cost", Message: fmt.Sprintf("this video costs %s credits, more than the %s allowed",
		money.Format(hold), money.Format(limit))}})
}

// replay answers a request that would be refused now with the video that the same
// key and request made before: its source, its uploads or its model may be gone
// since. Without one the refusal stands.
func (s *Service) replay(ctx context.Context, r *ledgerv1.ReplayJobRequest, refusal error) (*videov1.Video, error) {
	resp, err := s.d.Jobs.ReplayJob(ctx, r)
	switch status.Code(err) {
	case codes.OK:
		return resp.GetVideo(), nil
	case codes.NotFound, codes.Unimplemented: // the latter by a ledger that is older
		return nil, refusal
	}
	return nil, fault.FromStatus(err)
}

func missing() error { return fault.New(fault.NotFound, "no such video") }

// queuedAfter is from when on a queued video is read from Postgres, which knows
// how many are ahead of it.
const queuedAfter = time.Second

// get reads the read model first; Postgres when it is silent, when the job is
// final and may have been deleted, or when it waits in the queue.
func (s *Service) get(ctx context.Context, p auth.Principal, videoID string) (*videov1.Video, error) {
	if !id.Safe(videoID) {
		return nil, missing()
	}
	var known *videov1.Video
	if v, ok, err := s.d.Status.Status(ctx, videoID); err == nil && ok && !job.FromProto(v.GetState()).Terminal() {
		if v.GetAccountId() != p.AccountID {
			return nil, missing()
		}
		known = v
		if v.GetState() != videov1.VideoState_VIDEO_STATE_QUEUED || time.Since(v.GetCreatedAt().AsTime()) < queuedAfter {
			return v, nil
		}
	}
	r, err := s.d.Jobs.GetJob(ctx, &ledgerv1.GetJobRequest{JobId: videoID, AccountId: p.AccountID})
	if err != nil {
		if f := fault.FromStatus(err); f.Code != fault.Unavailable || known == nil {
			return nil, f
		}
		return known, nil // without its place in the queue
	}
	return r.GetVideo(), nil
}

func (s *Service) cancel(ctx context.Context, p auth.Principal, videoID string) (*videov1.Video, error) {
	if !id.Safe(videoID) {
		return nil, missing()
	}
	r, err := s.d.Jobs.CancelJob(ctx, &ledgerv1.CancelJobRequest{AccountId: p.AccountID, JobId: videoID})
	if err != nil {
		return nil, fault.FromStatus(err)
	}
	return r.GetVideo(), nil
}

// remove deletes a finished video: the ledger hides it and has its file deleted.
func (s *Service) remove(ctx context.Context, p auth.Principal, videoID string) error {
	if err := p.Active(); err != nil {
		return err
	}
	if !id.Safe(videoID) {
		return missing()
	}
	if _, err := s.d.Jobs.DeleteJob(ctx, &ledgerv1.DeleteJobRequest{AccountId: p.AccountID, JobId: videoID}); err != nil {
		return fault.FromStatus(err)
	}
	return nil
}

func (s *Service) list(ctx context.Context, p auth.Principal, r *videov1.ListVideosRequest) (*videov1.ListVideosResponse, error) {
	var bad []fault.Field
	if r.GetAfter() != "" && !id.Safe(r.GetAfter()) {
		bad = append(bad, fault.Field{Name: "after", Message: "must be the id of a video"})
	}
	if u := r.GetUser(); len(u) > 512 || !utf8.ValidString(u) || strings.ContainsRune(u, 0) {
		bad = append(bad, fault.Field{Name: "user", Message: "must be valid text of at most 512 bytes"})
	}
	if len(bad) > 0 {
		return nil, invalid(bad)
	}
	resp, err := s.d.Jobs.ListJobs(ctx, &ledgerv1.ListJobsRequest{AccountId: p.AccountID, After: r.GetAfter(), Limit: r.GetLimit(),
		Ascending: r.GetAscending(), User: r.GetUser(), State: r.GetState()})
	if err != nil {
		return nil, fault.FromStatus(err)
	}
	return &videov1.ListVideosResponse{Videos: resp.GetVideos(), HasMore: resp.GetHasMore()}, nil
}
