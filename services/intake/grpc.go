package intake

import (
	"context"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"reelway.dev/pkg/auth"
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

// Register puts VideoService, UsageService, WebhookService, RealtimeService and UploadService, and for admin keys
// the ledger's services, on a server built by pkg/rpc, which validates requests and maps
// faults.
func (s *Service) Register(r grpc.ServiceRegistrar) {
	videov1.RegisterVideoServiceServer(r, &videoServer{s: s})
	videov1.RegisterUsageServiceServer(r, &usageServer{s: s})
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
	v, err := g.s.create(ctx, p, r.GetVideo(), r.GetIdempotencyKey())
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
