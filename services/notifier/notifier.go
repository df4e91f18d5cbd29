// Package notifier pushes what happens to a job to whoever watches it:
// WebSocket, SSE and gRPC over one hub, and webhooks. It owns no fact; a watcher
// that was cut off resumes from the EVENTS stream or, past that, from a snapshot,
// and what webhooks have to send is the ledger's.
package notifier

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"reelway.dev/pkg/auth"
	"reelway.dev/pkg/bus"
	"reelway.dev/pkg/job"
	"reelway.dev/pkg/livetoken"
	"reelway.dev/pkg/run"
	"reelway.dev/pkg/videojson"
	ledgerv1 "reelway.dev/proto/gen/reelway/ledger/v1"
	videov1 "reelway.dev/proto/gen/reelway/video/v1"
)

// Signer makes a result's URL; bucket.Bucket is one.
type Signer interface {
	SignedURL(ctx context.Context, key string) (string, time.Time, error)
}

// Config is what an operator may set.
type Config struct {
	Origins  []string `env:"REELWAY_REALTIME_ORIGINS" desc:"origins whose pages may watch, such as https://app.example.com, separated by commas; * for all; pages of the same host always may"`
	PerKey   int      `env:"REELWAY_REALTIME_PER_KEY" min:"1" envDefault:"10000" desc:"open streams of one API key, and of the tokens made with it, in one replica"`
	PerToken int      `env:"REELWAY_REALTIME_PER_TOKEN" min:"1" envDefault:"20" desc:"open streams of one browser token in one replica"`
}

// Deps are the notifier's neighbours.
type Deps struct {
	Bus      *bus.Bus
	Jobs     ledgerv1.JobServiceClient
	Auth     *auth.Authenticator
	Files    Signer
	Tokens   *livetoken.Tokens // reads browser tokens
	Realtime ledgerv1.RealtimeServiceClient
	Logger   *slog.Logger
}

// Service is the notifier. Any number of replicas may run, each with all
// events.
type Service struct {
	cfg         Config
	d           Deps
	hub         *hub
	tokens      *tokens
	connections *connections
	sockets     sockets
	meters      *meters
}

// New returns a notifier; every field of d is required.
func New(cfg Config, d Deps) (*Service, error) {
	if d.Bus == nil || d.Jobs == nil || d.Auth == nil || d.Files == nil || d.Tokens == nil || d.Realtime == nil || d.Logger == nil {
		return nil, errors.New("notifier: Bus, Jobs, Auth, Files, Tokens, Realtime and Logger are required")
	}
	open := &connections{perKey: cfg.PerKey, perToken: cfg.PerToken, open: map[string]int{}}
	m, err := newMeters(open.count)
	if err != nil {
		return nil, err
	}
	return &Service{cfg: cfg, d: d, meters: m, hub: newHub(d.Bus.JetStream(), d.Logger, m),
		tokens:      &tokens{ledger: d.Realtime, log: d.Logger, held: map[*heldToken]struct{}{}},
		connections: open}, nil
}

// Components are the hub's reader, what ends tokens, and what ends WebSockets:
// they outlive the requests that they began with.
func (s *Service) Components() []run.Component {
	return []run.Component{
		{Name: "notifier-hub", Run: s.hub.run},
		{Name: "notifier-tokens", Run: func(ctx context.Context) error { return s.tokens.run(ctx, s.d.Bus) }},
		{Name: "notifier-sockets", Run: s.sockets.run},
	}
}

// object is a video as watchers get it, with its URL once it is stored.
func (s *Service) object(ctx context.Context, v *videov1.Video) videojson.Video {
	return object(ctx, s.d.Files, s.d.Logger, v)
}

func object(ctx context.Context, files Signer, log *slog.Logger, v *videov1.Video) videojson.Video {
	o := videojson.Of(v)
	if u, expires := signed(ctx, files, log, v); u != "" {
		o.URL, o.URLExpiresAt = u, expires.Unix()
	}
	return o
}

// signed is the URL of a stored video; empty while there is none, and when it
// cannot be signed: how the video stands is worth telling without it.
func signed(ctx context.Context, files Signer, log *slog.Logger, v *videov1.Video) (u string, expires time.Time) {
	k := v.GetArtifact().GetKey()
	if k == "" || job.FromProto(v.GetState()) != job.Succeeded {
		return "", time.Time{}
	}
	u, expires, err := files.SignedURL(ctx, k)
	if err != nil {
		log.ErrorContext(ctx, "result not signed", "job_id", v.GetId(), "error", err.Error())
		return "", time.Time{}
	}
	return u, expires
}
