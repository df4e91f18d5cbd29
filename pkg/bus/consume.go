package bus

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	eventv1 "reelway.dev/proto/gen/reelway/event/v1"
)

// TerminateError ends a message in the dead letters.
type TerminateError struct{ Err error }

// Error implements error.
func (e *TerminateError) Error() string { return e.Err.Error() }

// Unwrap returns the reason.
func (e *TerminateError) Unwrap() error { return e.Err }

// Terminate tells Consume that no redelivery will help.
func Terminate(err error) error { return &TerminateError{Err: err} }

// AfterError delays a redelivery.
type AfterError struct {
	Delay time.Duration
	Err   error
}

// Error implements error.
func (e *AfterError) Error() string { return e.Err.Error() }

// Unwrap returns the reason.
func (e *AfterError) Unwrap() error { return e.Err }

// After tells Consume to redeliver in d; it never ends in the dead letters.
func After(d time.Duration, err error) error { return &AfterError{Delay: d, Err: err} }

// backoff is the redelivery schedule of plain errors: 0.2 s doubling to 30 s.
func backoff(deliveries uint64) time.Duration {
	d := 200 * time.Millisecond << min(deliveries, 8)
	return min(d, 30*time.Second)
}

// Consume hands each message of c to handle, at most concurrency at a time,
// until ctx is done; then it finishes what it holds and returns nil. It makes
// the consumer, and the whole topology, again when they vanish: a wiped stream
// is an inconvenience, not an end.
func Consume[T any, P interface {
	*T
	proto.Message
}](ctx context.Context, b *Bus, c Consumer, concurrency int, handle func(ctx context.Context, m P) error) error {
	for ctx.Err() == nil {
		err := consumeOnce(ctx, b, c, concurrency, handle)
		if err == nil || ctx.Err() != nil {
			return nil
		}
		slog.WarnContext(ctx, "consumer restarts", "consumer", c.Name, "error", err.Error())
		select {
		case <-ctx.Done():
		case <-time.After(500 * time.Millisecond):
		}
		// Best effort: with the bus down this fails too, and the loop goes on.
		_ = b.ensureStream(ctx, c.Stream)
	}
	return nil
}

func (b *Bus) ensureStream(ctx context.Context, name string) error {
	if _, err := b.js.Stream(ctx, name); !errors.Is(err, jetstream.ErrStreamNotFound) {
		return err
	}
	for _, cfg := range streams(b.replicas()) {
		if cfg.Name == name {
			_, err := b.js.CreateOrUpdateStream(ctx, cfg)
			return err
		}
	}
	return nil
}

// replicas follows what the cluster is: 3 in one, 1 alone.
func (b *Bus) replicas() int {
	if b.nc.ConnectedClusterName() != "" {
		return 3
	}
	return 1
}

func consumeOnce[T any, P interface {
	*T
	proto.Message
}](ctx context.Context, b *Bus, c Consumer, concurrency int, handle func(ctx context.Context, m P) error) error {
	setup, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	cons, err := b.consumer(setup, c)
	if err != nil {
		return err
	}
	it, err := cons.Messages(jetstream.PullMaxMessages(max(concurrency*2, 2)), jetstream.PullHeartbeat(5*time.Second), jetstream.PullExpiry(15*time.Second))
	if err != nil {
		return fmt.Errorf("pull %s: %w", c.Name, err)
	}
	stop := context.AfterFunc(ctx, it.Stop)
	defer stop()
	defer it.Stop()
	slots := make(chan struct{}, concurrency)
	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		msg, err := it.Next()
		if err != nil {
			if ctx.Err() != nil || errors.Is(err, jetstream.ErrMsgIteratorClosed) && ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("next of %s: %w", c.Name, err)
		}
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			// Work in hand is finished, not cut, when the process drains.
			work, cancel := context.WithTimeout(context.WithoutCancel(ctx), c.AckWait)
			defer cancel()
			deliver[T, P](work, b, c, msg, handle)
		})
	}
}

func deliver[T any, P interface {
	*T
	proto.Message
}](ctx context.Context, b *Bus, c Consumer, msg jetstream.Msg, handle func(ctx context.Context, m P) error) {
	ctx = propagation.TraceContext{}.Extract(ctx, headerCarrier(msg.Headers()))
	ctx, span := tracer().Start(ctx, "process "+subjectRoot(msg.Subject()), trace.WithSpanKind(trace.SpanKindConsumer),
		trace.WithAttributes(attribute.String("messaging.system", "nats"), attribute.String("messaging.consumer.group.name", c.Name),
			attribute.String("messaging.operation.name", "process")))
	defer span.End()
	deliveries := uint64(1)
	if meta, err := msg.Metadata(); err == nil {
		deliveries = meta.NumDelivered
	}
	m := P(new(T))
	err := func() (err error) {
		defer func() {
			if r := recover(); r != nil {
				err = Terminate(fmt.Errorf("handler panic: %v", r))
			}
		}()
		if err := proto.Unmarshal(msg.Data(), m); err != nil {
			return Terminate(fmt.Errorf("unmarshal %s: %w", msg.Headers().Get(HeaderType), err))
		}
		return handle(ctx, m)
	}()
	var after *AfterError
	var dead *TerminateError
	result := "done"
	defer func() {
		processed().Add(ctx, 1, metric.WithAttributes(attribute.String("consumer", c.Name), attribute.String("result", result)))
	}()
	switch {
	case err == nil:
		err = msg.Ack()
	case errors.As(err, &after):
		result = "delayed"
		err = msg.NakWithDelay(after.Delay)
	case errors.As(err, &dead), deliveries >= uint64(c.MaxDeliver):
		result = "dead"
		span.SetStatus(codes.Error, err.Error())
		slog.ErrorContext(ctx, "message is dead", "consumer", c.Name, "deliveries", deliveries, "error", err.Error())
		if derr := b.bury(ctx, c, msg, deliveries, err); derr != nil {
			err = msg.NakWithDelay(backoff(deliveries))
		} else {
			err = msg.Term()
		}
	default:
		result = "redelivered"
		span.SetStatus(codes.Error, err.Error())
		slog.WarnContext(ctx, "message will be redelivered", "consumer", c.Name, "deliveries", deliveries, "error", err.Error())
		err = msg.NakWithDelay(backoff(deliveries))
	}
	if err != nil {
		// The message comes again after AckWait; handlers are idempotent.
		slog.WarnContext(ctx, "acknowledge failed", "consumer", c.Name, "error", err.Error())
	}
}

// processed counts messages by consumer and result.
func processed() metric.Int64Counter {
	// The name is valid, and the provider keeps one instrument for it.
	c, _ := otel.Meter("reelway.dev/pkg/bus").Int64Counter("reelway.bus.messages", metric.WithUnit("{message}"),
		metric.WithDescription("messages by consumer and result: done, delayed, redelivered, dead"))
	return c
}

// bury copies a message to the dead letters before it is terminated.
func (b *Bus) bury(ctx context.Context, c Consumer, msg jetstream.Msg, deliveries uint64, reason error) error {
	headers := map[string]string{}
	for k := range msg.Headers() {
		headers[k] = msg.Headers().Get(k)
	}
	letter, err := NewMessage("dead."+c.Stream, "dead-"+msg.Headers().Get(nats.MsgIdHdr), &eventv1.DeadLetter{
		Stream: c.Stream, Subject: msg.Subject(), Consumer: c.Name, Reason: reason.Error(), Deliveries: deliveries,
		Data: msg.Data(), Headers: headers, DiedAt: timestamppb.Now(),
	})
	if err != nil {
		return err
	}
	if msg.Headers().Get(nats.MsgIdHdr) == "" {
		letter.ID = ""
	}
	return b.Publish(ctx, letter)
}

// isConflict tells a lost compare-and-set from a real failure.
func isConflict(err error) bool {
	if errors.Is(err, jetstream.ErrKeyExists) {
		return true
	}
	var api *jetstream.APIError
	return errors.As(err, &api) && api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence
}
