package notifier

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"google.golang.org/protobuf/types/known/durationpb"

	"reelway.dev/pkg/run"
	"reelway.dev/pkg/safehttp"
	"reelway.dev/pkg/seal"
	webhookv1 "reelway.dev/proto/gen/reelway/webhook/v1"
)

// WebhookConfig is what an operator may set of webhooks.
type WebhookConfig struct {
	Concurrency int           `env:"REELWAY_WEBHOOK_CONCURRENCY" min:"1" max:"4096" envDefault:"512" desc:"webhook requests under way in one replica"`
	PerEndpoint int           `env:"REELWAY_WEBHOOK_PER_ENDPOINT" min:"1" max:"100" envDefault:"4" desc:"webhook requests under way to one endpoint, over all replicas; one at a time to an endpoint that fails"`
	Timeout     time.Duration `env:"REELWAY_WEBHOOK_TIMEOUT" min:"100ms" max:"1m" envDefault:"15s" desc:"how long an endpoint may take to answer"`
	Poll        time.Duration `env:"REELWAY_WEBHOOK_POLL" min:"10ms" max:"1m" envDefault:"250ms" desc:"how often deliveries that are due are asked for"`
}

// WebhookDeps are the neighbours of Webhooks.
type WebhookDeps struct {
	Deliveries webhookv1.DeliveryServiceClient
	Seal       *seal.Keys
	Guard      safehttp.Config // which URLs may be called
	Files      Signer
	Logger     *slog.Logger
}

// Webhooks sends what is due to the endpoints of accounts. It keeps nothing: what
// waits is the ledger's, and what was in hand when it died is due again when its
// lease ends. Any number of replicas may run.
type Webhooks struct {
	cfg    WebhookConfig
	d      WebhookDeps
	client *safehttp.Client

	attempts metric.Int64Counter
	duration metric.Float64Histogram
	latency  metric.Float64Histogram
}

// NewWebhooks returns Webhooks; every field of d but Guard is required.
func NewWebhooks(cfg WebhookConfig, d WebhookDeps) (*Webhooks, error) {
	if d.Deliveries == nil || d.Seal == nil || d.Files == nil || d.Logger == nil {
		return nil, errors.New("webhooks: Deliveries, Seal, Files and Logger are required")
	}
	d.Guard.Redirects = 0                             // a redirection is a failure: Standard Webhooks
	d.Guard.HeaderTimeout = cfg.Timeout + time.Second // the request's own is shorter
	m := otel.Meter("reelway.dev/services/notifier")
	attempts, err1 := m.Int64Counter("reelway.webhook.attempts", metric.WithUnit("{attempt}"),
		metric.WithDescription("webhook requests by outcome (delivered, retried, failed, stale; unsent: the secret cannot be opened) and answer (2xx to 5xx, none)"))
	duration, err2 := m.Float64Histogram("reelway.webhook.duration", metric.WithUnit("s"), metric.WithDescription("how long endpoints take to answer"),
		metric.WithExplicitBucketBoundaries(.01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 15, 30, 60))
	latency, err3 := m.Float64Histogram("reelway.webhook.latency", metric.WithUnit("s"), metric.WithDescription("from an event to its delivery"),
		metric.WithExplicitBucketBoundaries(.1, .25, .5, 1, 2, 5, 15, 60, 300, 1800, 7200, 36000, 86400, 259200))
	return &Webhooks{cfg, d, d.Guard.Client(), attempts, duration, latency}, errors.Join(err1, err2, err3)
}

// Components are the sender.
func (w *Webhooks) Components() []run.Component {
	return []run.Component{{Name: "notifier-webhooks", Run: w.run}}
}

const (
	// claimMost bounds one claim: an answer has to fit a gRPC message.
	claimMost = 100
	// margin is how much longer than a request a delivery is in our hands: to report.
	margin = 20 * time.Second
	// farewell is how long requests may go on while the process drains.
	farewell = 5 * time.Second
)

// run claims and sends until ctx is done, and then waits for what is under way.
func (w *Webhooks) run(ctx context.Context) error {
	sending, cut := context.WithCancel(context.WithoutCancel(ctx))
	defer cut()
	stop := context.AfterFunc(ctx, func() { time.AfterFunc(farewell, cut) })
	defer stop()
	slots := make(chan struct{}, w.cfg.Concurrency)
	ended := make(chan struct{}, 1) // what ends may make the next one due
	var wg sync.WaitGroup
	defer func() { wg.Wait(); w.client.CloseIdleConnections() }()
	idle := time.NewTimer(0)
	defer idle.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-idle.C:
		case <-ended:
		}
		wait := w.cfg.Poll
		for ctx.Err() == nil {
			free := min(cap(slots)-len(slots), claimMost)
			if free == 0 {
				break
			}
			claims, err := w.claim(ctx, free)
			if err != nil && ctx.Err() == nil {
				wait = max(wait, time.Second)
				w.d.Logger.WarnContext(ctx, "webhook deliveries not claimed", "error", err.Error())
			}
			if len(claims) == 0 {
				break
			}
			for _, c := range claims {
				slots <- struct{}{}
				wg.Go(func() {
					w.deliver(sending, c)
					<-slots
					select {
					case ended <- struct{}{}:
					default:
					}
				})
			}
		}
		idle.Reset(wait)
	}
}

func (w *Webhooks) claim(ctx context.Context, limit int) ([]*webhookv1.Claim, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	r, err := w.d.Deliveries.ClaimDeliveries(ctx, &webhookv1.ClaimDeliveriesRequest{Limit: int32(limit), PerEndpoint: int32(w.cfg.PerEndpoint),
		Lease: durationpb.New(w.cfg.Timeout + margin)})
	if err != nil {
		return nil, fmt.Errorf("claim deliveries: %w", err)
	}
	return r.GetClaims(), nil
}

// report tells the ledger what became of an attempt, for as long as the delivery
// is in our hands. Not heard, it is sent again: at least once.
func (w *Webhooks) report(ctx context.Context, r *webhookv1.ReportDeliveryRequest) (string, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), margin/2)
	defer cancel()
	for {
		resp, err := w.d.Deliveries.ReportDelivery(ctx, r)
		if err == nil {
			return resp.GetVerdict(), nil
		}
		select {
		case <-ctx.Done():
			return "", fmt.Errorf("report delivery: %w", err)
		case <-time.After(500 * time.Millisecond):
		}
	}
}

// count measures an attempt that was reported.
func (w *Webhooks) count(ctx context.Context, c *webhookv1.Claim, o *webhookv1.Attempt, verdict string) {
	answer := "none"
	if o.GetStatus() > 0 {
		answer = fmt.Sprintf("%dxx", o.GetStatus()/100)
	}
	w.attempts.Add(ctx, 1, metric.WithAttributes(attribute.String("outcome", verdict), attribute.String("answer", answer)))
	w.duration.Record(ctx, float64(o.GetDurationMs())/1000)
	if verdict == "delivered" {
		w.latency.Record(ctx, time.Since(c.GetOccurredAt().AsTime()).Seconds())
	}
}
