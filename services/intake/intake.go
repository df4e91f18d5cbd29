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
	"strings"
	"time"
	"unicode/utf8"

	"google.golang.org/protobuf/proto"

	"reelway.dev/pkg/auth"
	"reelway.dev/pkg/catalog"
	"reelway.dev/pkg/fault"
	"reelway.dev/pkg/id"
	"reelway.dev/pkg/job"
	"reelway.dev/pkg/limit"
	"reelway.dev/pkg/livetoken"
	"reelway.dev/pkg/money"
	"reelway.dev/pkg/videojson"
	ledgerv1 "reelway.dev/proto/gen/reelway/ledger/v1"
	videov1 "reelway.dev/proto/gen/reelway/video/v1"
)

// Config is what an operator may set.
type Config struct {
	CapDevelopment string `env:"REELWAY_CAP_DEVELOPMENT" oneof:"480p 720p 1080p 2160p" envDefault:"720p" desc:"highest resolution of accounts of the development tier"`
	CapStaging     string `env:"REELWAY_CAP_STAGING" oneof:"480p 720p 1080p 2160p" envDefault:"720p" desc:"highest resolution of accounts of the staging tier"`
	CapProduction  string `env:"REELWAY_CAP_PRODUCTION" oneof:"480p 720p 1080p 2160p" envDefault:"2160p" desc:"highest resolution of accounts of the production tier"`
}

// StatusReader is the read model; bus.Bus is one.
type StatusReader interface {
	Status(ctx context.Context, jobID string) (*videov1.Video, bool, error)
}

// Files signs stored results; bucket.Bucket is one.
type Files interface {
	SignedURL(ctx context.Context, key string) (string, time.Time, error)
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
	Auth      *auth.Authenticator
	Limits    Limiter
	Status    StatusReader
	Files     Files
	Catalog   *catalog.Catalog
	CheckURL  func(raw string) error // judges image URLs
	Health    func(context.Context) error
	Tokens    *livetoken.Tokens // makes browser tokens
	Realtime  ledgerv1.RealtimeServiceClient
	Logger    *slog.Logger
}

// Service is intake. It is stateless and safe for concurrent use.
type Service struct {
	cfg Config
	d   Deps
}

// New returns a Service; every field of d is required.
func New(cfg Config, d Deps) (*Service, error) {
	if d.Jobs == nil || d.Ledger == nil || d.Usage == nil || d.Privacy == nil || d.Accounts == nil || d.Budgets == nil || d.Providers == nil || d.Auth == nil || d.Limits == nil || d.Status == nil || d.Files == nil || d.Catalog == nil || d.CheckURL == nil || d.Health == nil || d.Tokens == nil || d.Realtime == nil || d.Logger == nil {
		return nil, errors.New("intake: every dependency is required")
	}
	return &Service{cfg: cfg, d: d}, nil
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

// quote resolves and prices a request without any side effect. bad is what was
// found wrong with it before; every fault is named at once.
func (s *Service) quote(p auth.Principal, r *videov1.VideoRequest, bad ...fault.Field) (catalog.Model, *videov1.QuoteVideoResponse, error) {
	m, ok := s.d.Catalog.Model(r.GetModel())
	var params *videov1.VideoParams
	if !ok {
		bad = append(bad, fault.Field{Name: "model", Message: fmt.Sprintf("%q is not known; GET /v1/models lists the models", r.GetModel())})
	} else {
		var worse []fault.Field
		params, worse = m.Resolve(r, s.cap(p))
		bad = append(bad, worse...)
	}
	for _, u := range []struct{ field, url string }{{"image_url", r.GetImageUrl()}, {"end_image_url", r.GetEndImageUrl()}} {
		if u.url == "" {
			continue
		}
		if strings.HasPrefix(u.url, "data:") || base64Like(u.url) {
			e := fault.New(fault.PayloadTooLarge, "%s holds the file itself; upload it and send its https URL", u.field)
			e.Fields = []fault.Field{{Name: u.field, Message: "must be an https URL"}}
			return m, nil, e
		}
		if err := s.d.CheckURL(u.url); err != nil {
			bad = append(bad, fault.Field{Name: u.field, Message: err.Error()})
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
	if len(bad) > 0 {
		return m, nil, invalid(bad)
	}
	lines, total, err := m.Quote(params)
	if err != nil {
		return m, nil, err
	}
	return m, &videov1.QuoteVideoResponse{Params: params, Lines: lines, TotalMicros: total}, nil
}

// base64Like reports whether a text that should be a URL is a file in base64.
func base64Like(s string) bool {
	return len(s) >= 64 && !strings.Contains(s, ":") && !strings.ContainsFunc(s, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("+/=-_\r\n", r)
	})
}

func (s *Service) create(ctx context.Context, p auth.Principal, r *videov1.VideoRequest, key string, bad ...fault.Field) (*videov1.Video, error) {
	if len(key) > 255 || strings.ContainsFunc(key, func(c rune) bool { return c < 0x20 || c > 0x7e }) {
		return nil, invalid([]fault.Field{{Name: "Idempotency-Key", Message: "must be at most 255 printable ASCII characters"}})
	}
	if err := p.Active(); err != nil {
		return nil, err
	}
	m, q, err := s.quote(p, r, bad...)
	if err != nil {
		return nil, err
	}
	if limit := r.GetMaxCostMicros(); limit > 0 && q.GetTotalMicros() > limit {
		return nil, invalid([]fault.Field{{Name: "max_cost", Message: fmt.Sprintf("this video costs %s credits, more than the %s allowed",
			money.Format(q.GetTotalMicros()), money.Format(limit))}})
	}
	raw, err := proto.MarshalOptions{Deterministic: true}.Marshal(r)
	if err != nil {
		return nil, fmt.Errorf("marshal request: %w", err)
	}
	hash := sha256.Sum256(raw)
	resp, err := s.d.Jobs.OpenJob(ctx, &ledgerv1.OpenJobRequest{
		AccountId: p.AccountID, ApiKeyId: p.KeyID, IdempotencyKey: key, RequestHash: hash[:], Params: q.GetParams(),
		Provider: m.Provider, QuoteMicros: q.GetTotalMicros(), User: r.GetUser(), Metadata: r.GetMetadata(),
		CostMicros: m.Cost(q.GetParams(), q.GetTotalMicros()), CostCurrency: catalog.CostCurrency,
		Priority: r.GetPriority(), QueueWeight: p.QueueWeight,
	})
	if err != nil {
		return nil, fault.FromStatus(err)
	}
	s.d.Logger.InfoContext(ctx, "job opened", "job_id", resp.GetVideo().GetId(), "account_id", p.AccountID, "provider", m.Provider,
		"model", m.ID, "quote_micros", q.GetTotalMicros(), "replayed", resp.GetReplayed())
	return resp.GetVideo(), nil
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

func (s *Service) models() *videov1.ListModelsResponse {
	resp := &videov1.ListModelsResponse{}
	for _, m := range s.d.Catalog.Models() {
		resp.Models = append(resp.Models, m.Proto())
	}
	return resp
}
