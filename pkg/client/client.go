package client

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/cenkalti/backoff/v5"
	"go.opentelemetry.io/contrib/instrumentation/google.golang.org/grpc/otelgrpc"
	"google.golang.org/grpc"
	grpcbackoff "google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"

	videov1 "reelway.dev/proto/gen/reelway/video/v1"
	webhookv1 "reelway.dev/proto/gen/reelway/webhook/v1"
)

// Config says where Reelway is and who calls.
type Config struct {
	// Addr is the gRPC door of intake: host:port in plain text, for a network that
	// is trusted with the key, or https://host:port for TLS.
	Addr string
	// NotifierAddr is the gRPC door of notifier, where it has one of its own; Addr
	// when empty. Where notifier is not reached, Watch asks intake from time to
	// time.
	NotifierAddr string
	// Key is an API key.
	Key string
	// Token is a browser's token, in the place of a key: it watches and does
	// nothing else.
	Token string
	// TLS is for addresses with https://; the system's certificates when nil.
	TLS *tls.Config
	// Patience is how long a call goes on trying, where its context does not end
	// it before; 1 minute when 0.
	Patience time.Duration
}

// tryFor bounds one try of a call: a connection may be dead and not know it.
const tryFor = 20 * time.Second

// Client calls Reelway. It is safe for concurrent use; one serves a process.
type Client struct {
	patience  time.Duration
	watchOnly bool // it has a token, which intake does not take
	conns     []*grpc.ClientConn

	videos   videov1.VideoServiceClient
	usage    videov1.UsageServiceClient
	billing  videov1.BillingServiceClient
	watching videov1.WatchServiceClient
	webhooks webhookv1.WebhookServiceClient
	tokens   videov1.RealtimeServiceClient
	uploads  videov1.UploadServiceClient
}

// Open returns a client. It does not wait for a connection: that is made by the
// first call, and made again whenever it breaks. Close it.
func Open(cfg Config) (*Client, error) {
	if (cfg.Key == "") == (cfg.Token == "") {
		return nil, errors.New("client: set Key or Token, and not both")
	}
	c := &Client{patience: cfg.Patience, watchOnly: cfg.Key == ""}
	if c.patience <= 0 {
		c.patience = time.Minute
	}
	intake, err := c.dial(cfg, cfg.Addr)
	if err != nil {
		return nil, err
	}
	notifier := intake
	if cfg.NotifierAddr != "" && cfg.NotifierAddr != cfg.Addr {
		if notifier, err = c.dial(cfg, cfg.NotifierAddr); err != nil {
			_ = c.Close()
			return nil, err
		}
	}
	c.videos, c.usage, c.billing = videov1.NewVideoServiceClient(intake), videov1.NewUsageServiceClient(intake), videov1.NewBillingServiceClient(intake)
	c.webhooks, c.tokens = webhookv1.NewWebhookServiceClient(intake), videov1.NewRealtimeServiceClient(intake)
	c.uploads = videov1.NewUploadServiceClient(intake)
	c.watching = videov1.NewWatchServiceClient(notifier)
	return c, nil
}

// Close ends the connections, and with them the calls that are under way.
func (c *Client) Close() error {
	var errs []error
	for _, conn := range c.conns {
		errs = append(errs, conn.Close())
	}
	return errors.Join(errs...)
}

// Webhooks are the account's endpoints and deliveries. Errors are as everywhere
// here, but nothing is tried again.
func (c *Client) Webhooks() webhookv1.WebhookServiceClient { return c.webhooks }

// Tokens makes and revokes what browsers watch with. Errors are as everywhere
// here, but nothing is tried again.
func (c *Client) Tokens() videov1.RealtimeServiceClient { return c.tokens }

// Uploads takes the files that videos are made of: each is sent by PUT to where
// CreateUpload says. Errors are as everywhere here, but nothing is tried again.
func (c *Client) Uploads() videov1.UploadServiceClient { return c.uploads }

// dial opens a door. Where its name has several addresses, all are used, and one
// that does not answer costs the others nothing.
func (c *Client) dial(cfg Config, addr string) (*grpc.ClientConn, error) {
	host, secure := strings.CutPrefix(addr, "https://")
	if host == "" || strings.Contains(host, "//") {
		return nil, fmt.Errorf("client: %q is no address; write host:port or https://host:port", addr)
	}
	transport := insecure.NewCredentials()
	if secure {
		own := &tls.Config{MinVersion: tls.VersionTLS12}
		if cfg.TLS != nil {
			own = cfg.TLS.Clone()
		}
		transport = credentials.NewTLS(own)
	}
	conn, err := grpc.NewClient(host,
		grpc.WithTransportCredentials(transport),
		grpc.WithPerRPCCredentials(secret{key: cfg.Key, token: cfg.Token}),
		grpc.WithStatsHandler(otelgrpc.NewClientHandler()),
		grpc.WithUnaryInterceptor(typed),
		grpc.WithDisableRetry(), // it knows nothing of faults
		grpc.WithDefaultServiceConfig(`{"loadBalancingConfig":[{"round_robin":{}}]}`),
		grpc.WithConnectParams(grpc.ConnectParams{MinConnectTimeout: 5 * time.Second,
			Backoff: grpcbackoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: .2, MaxDelay: 3 * time.Second}}),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 20 * time.Second, Timeout: 10 * time.Second}),
	)
	if err != nil {
		return nil, fmt.Errorf("client: dial %s: %w", addr, err)
	}
	c.conns = append(c.conns, conn)
	return conn, nil
}

// secret is what goes with every call.
type secret struct{ key, token string }

// GetRequestMetadata implements credentials.PerRPCCredentials.
func (s secret) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	if s.key != "" {
		return map[string]string{"authorization": "Bearer " + s.key}, nil
	}
	return map[string]string{"reelway-token": s.token}, nil
}

// RequireTransportSecurity implements credentials.PerRPCCredentials. Whether a
// network is trusted is said by the address.
func (s secret) RequireTransportSecurity() bool { return false }

// waits are the pauses between tries where Reelway names none.
func waits() *backoff.ExponentialBackOff {
	b := &backoff.ExponentialBackOff{InitialInterval: 200 * time.Millisecond, RandomizationFactor: .5, Multiplier: 2, MaxInterval: 5 * time.Second}
	b.Reset()
	return b
}

// pause waits, and reports false when ctx ends before: then without having waited,
// where that can be known.
func pause(ctx context.Context, d time.Duration) bool {
	if end, ok := ctx.Deadline(); ok && time.Until(end) < d {
		return false
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// call makes a call that may be made again, until it is answered, refused for
// good, or out of time. tries counts how often it was made.
func call[Q, A any](ctx context.Context, c *Client, fn func(context.Context, *Q, ...grpc.CallOption) (*A, error), q *Q) (a *A, tries int, err error) {
	bounded, cancel := context.WithTimeout(ctx, c.patience)
	defer cancel()
	for b := waits(); ; {
		tries++
		try, done := context.WithTimeout(bounded, tryFor)
		a, err = fn(try, q)
		done()
		if err == nil || ctx.Err() != nil || !Retryable(err) || !pause(bounded, max(retryAfter(err), b.NextBackOff())) {
			return a, tries, ended(ctx, err)
		}
	}
}
