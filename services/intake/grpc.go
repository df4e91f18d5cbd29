package intake

import (
	"context"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/timestamppb"

	"reelway.dev/pkg/auth"
	"reelway.dev/pkg/bucket"
	"reelway.dev/pkg/fault"
	ledgerv1 "reelway.dev/proto/gen/reelway/ledger/v1"
	videov1 "reelway.dev/proto/gen/reelway/video/v1"
)

type videoServer struct {
	videov1.UnimplementedVideoServiceServer
	s *Service
}

type usageServer struct {
	videov1.UnimplementedUsageServiceServer
	s *Service
}

type billingServer struct {
	videov1.UnimplementedBillingServiceServer
	s *Service
}

// Register puts VideoService, UsageService, BillingService, WebhookService,
// RealtimeService and UploadService, and for admin keys the ledger's services, on a
// server built by pkg/rpc, which validates requests and maps faults.
func (s *Service) Register(r grpc.ServiceRegistrar) {
	videov1.RegisterVideoServiceServer(r, &videoServer{s: s})
	videov1.RegisterUsageServiceServer(r, &usageServer{s: s})
	videov1.RegisterBillingServiceServer(r, &billingServer{s: s})
	s.registerWebhooks(r)
	videov1.RegisterRealtimeServiceServer(r, &realtimeServer{s: s})
	videov1.RegisterUploadServiceServer(r, &uploadServer{s: s})
	s.registerAdmin(r)
}

// who authenticates a gRPC call, counts it, and requires a scope of it.
func (s *Service) who(ctx context.Context, scope string) (auth.Principal, error) {
	key := ""
	if v := metadata.ValueFromIncomingContext(ctx, "authorization"); len(v) > 0 {
		key = auth.Bearer(v[0])
	}
	p, err := s.d.Auth.Authenticate(ctx, key)
	if err != nil {
		return p, err
	}
	if err := s.throttle(ctx, p, func(name, value string) {
		_ = grpc.SetHeader(ctx, metadata.Pairs(name, value)) // fails only after the header has been sent
	}); err != nil {
		return p, err
	}
	return p, p.Require(scope)
}

// CreateVideo implements VideoService.
func (g *videoServer) CreateVideo(ctx context.Context, r *videov1.CreateVideoRequest) (*videov1.CreateVideoResponse, error) {
	p, err := g.s.who(ctx, auth.VideosWrite)
	if err != nil {
		return nil, err
	}
	v, err := g.s.create(ctx, p, r.GetVideo(), r.GetIdempotencyKey(), nil)
	return &videov1.CreateVideoResponse{Video: v}, err
}

// GetVideo implements VideoService.
func (g *videoServer) GetVideo(ctx context.Context, r *videov1.GetVideoRequest) (*videov1.GetVideoResponse, error) {
	p, err := g.s.who(ctx, auth.VideosRead)
	if err != nil {
		return nil, err
	}
	v, err := g.s.get(ctx, p, r.GetId())
	return &videov1.GetVideoResponse{Video: v}, err
}

// ListVideos implements VideoService.
func (g *videoServer) ListVideos(ctx context.Context, r *videov1.ListVideosRequest) (*videov1.ListVideosResponse, error) {
	p, err := g.s.who(ctx, auth.VideosRead)
	if err != nil {
		return nil, err
	}
	return g.s.list(ctx, p, r)
}

// CancelVideo implements VideoService.
func (g *videoServer) CancelVideo(ctx context.Context, r *videov1.CancelVideoRequest) (*videov1.CancelVideoResponse, error) {
	p, err := g.s.who(ctx, auth.VideosWrite)
	if err != nil {
		return nil, err
	}
	v, err := g.s.cancel(ctx, p, r.GetId())
	return &videov1.CancelVideoResponse{Video: v}, err
}

// DeleteVideo implements VideoService.
func (g *videoServer) DeleteVideo(ctx context.Context, r *videov1.DeleteVideoRequest) (*videov1.DeleteVideoResponse, error) {
	p, err := g.s.who(ctx, auth.VideosWrite)
	if err != nil {
		return nil, err
	}
	return &videov1.DeleteVideoResponse{Id: r.GetId()}, g.s.remove(ctx, p, r.GetId())
}

// QuoteVideo implements VideoService.
func (g *videoServer) QuoteVideo(ctx context.Context, r *videov1.QuoteVideoRequest) (*videov1.QuoteVideoResponse, error) {
	p, err := g.s.who(ctx, auth.VideosRead)
	if err != nil {
		return nil, err
	}
	return g.s.quote(ctx, p, r.GetVideo())
}

// ListModels implements VideoService.
func (g *videoServer) ListModels(ctx context.Context, _ *videov1.ListModelsRequest) (*videov1.ListModelsResponse, error) {
	if _, err := g.s.who(ctx, auth.VideosRead); err != nil {
		return nil, err
	}
	return g.s.models(), nil
}

// QueryUsage implements UsageService.
func (g *usageServer) QueryUsage(ctx context.Context, r *videov1.QueryUsageRequest) (*videov1.QueryUsageResponse, error) {
	p, err := g.s.who(ctx, auth.BillingRead)
	if err != nil {
		return nil, err
	}
	return g.s.usage(ctx, p, r)
}

// variants are the words of the REST API for the files of a video.
var variants = map[videov1.ContentVariant]string{
	videov1.ContentVariant_CONTENT_VARIANT_THUMBNAIL:   "thumbnail",
	videov1.ContentVariant_CONTENT_VARIANT_SPRITESHEET: "spritesheet",
}

// GetVideoContent implements VideoService.
func (g *videoServer) GetVideoContent(ctx context.Context, r *videov1.GetVideoContentRequest) (*videov1.GetVideoContentResponse, error) {
	p, err := g.s.who(ctx, auth.VideosRead)
	if err != nil {
		return nil, err
	}
	v, err := g.s.get(ctx, p, r.GetId())
	if err != nil {
		return nil, err
	}
	key, err := contentKey(v, variants[r.GetVariant()])
	if err != nil {
		return nil, err
	}
	u, expires, err := g.s.d.Files.Sign(ctx, key, bucket.Response{Download: r.GetDownload()})
	if err != nil {
		return nil, err
	}
	return &videov1.GetVideoContentResponse{Url: u, ExpiresAt: timestamppb.New(expires)}, nil
}

// GetBalance implements BillingService.
func (g *billingServer) GetBalance(ctx context.Context, _ *videov1.GetBalanceRequest) (*videov1.GetBalanceResponse, error) {
	p, err := g.s.who(ctx, auth.BillingRead)
	if err != nil {
		return nil, err
	}
	b, err := g.s.d.Ledger.GetBalance(ctx, &ledgerv1.GetBalanceRequest{AccountId: p.AccountID})
	if err != nil {
		return nil, fault.FromStatus(err)
	}
	return &videov1.GetBalanceResponse{AvailableMicros: b.GetAvailableMicros(), HeldMicros: b.GetHeldMicros(), GrantedMicros: b.GetGrantedMicros(),
		NextExpiryAt: b.GetNextExpiryAt(), NextExpiryMicros: b.GetNextExpiryMicros()}, nil
}

// GetStatement implements BillingService. Who of the operator's moved something,
// the customer is not told.
func (g *billingServer) GetStatement(ctx context.Context, r *videov1.GetStatementRequest) (*videov1.GetStatementResponse, error) {
	p, err := g.s.who(ctx, auth.BillingRead)
	if err != nil {
		return nil, err
	}
	st, err := g.s.d.Ledger.GetStatement(ctx, &ledgerv1.GetStatementRequest{AccountId: p.AccountID, Month: r.GetMonth(), Page: r.GetPage(), Limit: r.GetLimit()})
	if err != nil {
		return nil, fault.FromStatus(err)
	}
	out := &videov1.GetStatementResponse{Month: st.GetMonth(), TimeZone: st.GetTimeZone(), StartsAt: st.GetStartsAt(), EndsAt: st.GetEndsAt(),
		OpeningAvailableMicros: st.GetOpeningAvailableMicros(), OpeningHeldMicros: st.GetOpeningHeldMicros(),
		ClosingAvailableMicros: st.GetClosingAvailableMicros(), ClosingHeldMicros: st.GetClosingHeldMicros(), NextPage: st.GetNextPage()}
	for _, m := range st.GetMovements() {
		out.Movements = append(out.Movements, &videov1.StatementMovement{Id: m.GetId(), At: m.GetAt(), Kind: m.GetKind(), VideoId: m.GetJobId(), Reason: m.GetReason(),
			AvailableChangeMicros: m.GetAvailableChangeMicros(), HeldChangeMicros: m.GetHeldChangeMicros(), AvailableMicros: m.GetAvailableMicros(), HeldMicros: m.GetHeldMicros()})
	}
	return out, nil
}
