package bus

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
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

// Consume hands each message of c to handle, at most workers at a time, until
// ctx is done; then it finishes what it holds and returns nil. A message in
// hand is kept from redelivery by heartbeats for up to c.Timeout, and none is
// fetched before a worker is free: after a kill everything comes again within
// AckWait. The consumer, and its stream, are made again when they vanish: a
// wiped stream is an inconvenience, not an end.
func Consume[T any, P interface {
	*T
	proto.Message
}](ctx context.Context, b *Bus, c Consumer, workers int, handle func(ctx context.Context, m P) error) error {
	return b.keep(ctx, c, func(ctx context.Context, cons jetstream.Consumer) error {
		failed, fail := context.WithCancelCause(ctx)
		defer fail(nil)
		var wg sync.WaitGroup
		for range workers {
			wg.Go(func() {
				for failed.Err() == nil {
					if err := next[T, P](failed, b, c, cons, handle); err != nil {
						fail(err)
					}
				}
			})
		}
		wg.Wait()
		return context.Cause(failed)
	})
}

// fetchWait is how long a worker waits for a message before it asks again. It
// bounds how long a lost consumer goes unnoticed.
const fetchWait = 10 * time.Second

func next[T any, P interface {
	*T
	proto.Message
}](ctx context.Context, b *Bus, c Consumer, cons jetstream.Consumer, handle func(ctx context.Context, m P) error) error {
	wait, cancel := context.WithTimeout(ctx, fetchWait)
	defer cancel()
	batch, err := cons.Fetch(1, jetstream.FetchContext(wait), jetstream.FetchHeartbeat(fetchWait/4))
	if err != nil {
		return fmt.Errorf("fetch of %s: %w", c.Name, err)
	}
	for msg := range batch.Messages() {
		// Work in hand is finished, not cut, when the process drains.
		work, done := context.WithTimeout(context.WithoutCancel(ctx), c.Timeout)
		stop := heartbeat(work, c, msg)
		d := open[T, P](work, c, msg)
		err := d.err
		if err == nil {
			err = guard(func() error { return handle(d.ctx, d.m) })
		}
		stop()
		d.settle(b, c, err)
		done()
	}
	if err := batch.Error(); err != nil && wait.Err() == nil && !errors.Is(err, nats.ErrTimeout) {
		return fmt.Errorf("fetch of %s: %w", c.Name, err)
	}
	return nil
}

// heartbeat tells JetStream that msg is being worked on, until the returned
// function is called.
func heartbeat(ctx context.Context, c Consumer, msg jetstream.Msg) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() {
		t := time.NewTicker(c.AckWait / 3)
		defer t.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-t.C:
				_ = msg.InProgress() // a lost one means a redelivery, which is harmless
			}
		}
	})
	return func() { cancel(); wg.Wait() }
}

// ConsumeBatch hands the messages of c to handle in the batches in which they
// arrive, at most limit at a time, until ctx is done; it never waits to fill
// one. handle returns one error for each message, in order, and has to return
// within AckWait. Otherwise it behaves as Consume.
func ConsumeBatch[T any, P interface {
	*T
	proto.Message
}](ctx context.Context, b *Bus, c Consumer, limit int, handle func(ctx []context.Context, ms []P) []error) error {
	return b.keep(ctx, c, func(ctx context.Context, cons jetstream.Consumer) error {
		it, err := cons.Messages(jetstream.PullMaxMessages(2*limit), jetstream.PullHeartbeat(5*time.Second), jetstream.PullExpiry(15*time.Second))
		if err != nil {
			return fmt.Errorf("pull %s: %w", c.Name, err)
		}
		defer it.Stop()
		// With room: what comes while a batch is being handled is the next one.
		arrived := make(chan jetstream.Msg, limit)
		failed := make(chan error, 1)
		reading, stop := context.WithCancel(ctx)
		var reader sync.WaitGroup
		defer func() {
			stop()
			reader.Wait()
			for len(arrived) > 0 {
				_ = (<-arrived).Nak() // at once to another replica
			}
		}()
		reader.Go(func() {
			for {
				msg, err := it.Next(jetstream.NextContext(reading))
				if err != nil {
					failed <- fmt.Errorf("next of %s: %w", c.Name, err)
					return
				}
				select {
				case arrived <- msg:
				case <-reading.Done():
					_ = msg.Nak()
					return
				}
			}
		})
		for {
			var msgs []jetstream.Msg
			select {
			case <-ctx.Done():
				return nil
			case err := <-failed:
				return err
			case msg := <-arrived:
				msgs = append(msgs, msg)
			}
		more:
			for len(msgs) < limit {
				select {
				case msg := <-arrived:
					msgs = append(msgs, msg)
				default:
					break more
				}
			}
			work, done := context.WithTimeout(context.WithoutCancel(ctx), c.Timeout)
			settleBatch[T, P](work, b, c, msgs, handle)
			done()
		}
	})
}

func settleBatch[T any, P interface {
	*T
	proto.Message
}](ctx context.Context, b *Bus, c Consumer, msgs []jetstream.Msg, handle func(ctx []context.Context, ms []P) []error) {
	var good []*delivery[T, P]
	var ctxs []context.Context
	var ms []P
	for _, msg := range msgs {
		d := open[T, P](ctx, c, msg)
		if d.err != nil {
			d.settle(b, c, d.err)
			continue
		}
		good, ctxs, ms = append(good, d), append(ctxs, d.ctx), append(ms, d.m)
	}
	if len(good) == 0 {
		return
	}
	var errs []error
	if err := guard(func() error { errs = handle(ctxs, ms); return nil }); err != nil {
		errs = slices.Repeat([]error{err}, len(good))
	}
	for i, d := range good {
		d.settle(b, c, errs[i])
	}
}

// guard turns a handler's panic into the end of its message.
func guard(fn func() error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = Terminate(fmt.Errorf("handler panic: %v", r))
		}
	}()
	return fn()
}

// keep runs fn on the consumer of c until ctx is done, and again, on a consumer
// made anew, whenever fn fails.
func (b *Bus) keep(ctx context.Context, c Consumer, fn func(context.Context, jetstream.Consumer) error) error {
	for ctx.Err() == nil {
		setup, cancel := context.WithTimeout(ctx, 10*time.Second)
		cons, err := b.consumer(setup, c)
		cancel()
		if err == nil {
			err = fn(ctx, cons)
		}
		if err == nil || ctx.Err() != nil {
			continue
		}
		slog.WarnContext(ctx, "consumer restarts", "consumer", c.Name, "error", err.Error())
		select {
		case <-ctx.Done():
		case <-time.After(500 * time.Millisecond):
		}
		b.mend(ctx)
	}
	return nil
}

// mendEvery spares the server: a wiped one fails every consumer at once.
const mendEvery = 500 * time.Millisecond

// mend makes again whatever of the topology has vanished; what is there stays
// as it is. All of it: who lost one stream has lost the store, and the read
// model has no consumer that would notice. It is best effort: with the bus down
// it fails too, and its callers try again.
func (b *Bus) mend(ctx context.Context) {
	b.mu.Lock()
	due := time.Since(b.mended) >= mendEvery
	if due {
		b.mended = time.Now()
	}
	b.mu.Unlock()
	if b.finds || !due || !b.nc.IsConnected() {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	for _, cfg := range streams(b.replicas()) {
		if _, err := b.js.Stream(ctx, cfg.Name); errors.Is(err, jetstream.ErrStreamNotFound) {
			_, err = b.js.CreateStream(ctx, cfg)
			mention(ctx, cfg.Name, err)
		}
	}
	for _, cfg := range buckets(b.replicas()) {
		if _, err := b.js.KeyValue(ctx, cfg.Bucket); errors.Is(err, jetstream.ErrBucketNotFound) {
			_, err = b.js.CreateKeyValue(ctx, cfg)
			mention(ctx, cfg.Bucket, err)
		}
	}
}

func mention(ctx context.Context, name string, err error) {
	switch {
	case errors.Is(err, jetstream.ErrStreamNameAlreadyInUse), errors.Is(err, jetstream.ErrBucketExists):
		// Another was faster.
	case err != nil:
		slog.WarnContext(ctx, "vanished stream not made again", "stream", name, "error", err.Error())
	default:
		slog.WarnContext(ctx, "vanished stream made again", "stream", name)
	}
}

// replicas follows what the cluster is: 3 in one, 1 alone.
func (b *Bus) replicas() int {
	if b.nc.ConnectedClusterName() != "" {
		return 3
	}
	return 1
}

// delivery is one message in hand.
type delivery[T any, P interface {
	*T
	proto.Message
}] struct {
	msg   jetstream.Msg
	ctx   context.Context
	span  trace.Span
	count uint64
	began time.Time
	m     P
	err   error // the message cannot be read
}

func open[T any, P interface {
	*T
	proto.Message
}](ctx context.Context, c Consumer, msg jetstream.Msg) *delivery[T, P] {
	d := &delivery[T, P]{msg: msg, count: 1, m: P(new(T)), began: time.Now()}
	ctx = propagation.TraceContext{}.Extract(ctx, headerCarrier(msg.Headers()))
	d.ctx, d.span = tracer().Start(ctx, "process "+subjectRoot(msg.Subject()), trace.WithSpanKind(trace.SpanKindConsumer),
		trace.WithAttributes(attribute.String("messaging.system", "nats"), attribute.String("messaging.destination.name", subjectRoot(msg.Subject())),
			attribute.String("messaging.destination.subscription.name", c.Stream), attribute.String("messaging.consumer.group.name", c.Name),
			attribute.String("messaging.operation.name", "process"), attribute.String("messaging.operation.type", "process"),
			attribute.Int("messaging.message.body.size", len(msg.Data()))))
	if id := msg.Headers().Get(nats.MsgIdHdr); id != "" {
		d.span.SetAttributes(attribute.String("messaging.message.id", id))
	}
	if meta, err := msg.Metadata(); err == nil {
		d.count = meta.NumDelivered
		d.span.SetAttributes(attribute.Int64("messaging.nats.deliveries", int64(meta.NumDelivered)))
	}
	if err := proto.Unmarshal(msg.Data(), d.m); err != nil {
		d.err = Terminate(fmt.Errorf("unmarshal %s: %w", msg.Headers().Get(HeaderType), err))
	}
	return d
}

// settle acknowledges, delays, redelivers or buries the message.
func (d *delivery[T, P]) settle(b *Bus, c Consumer, err error) {
	defer d.span.End()
	var after *AfterError
	var dead *TerminateError
	result := "done"
	switch {
	case err == nil:
		err = d.msg.Ack()
	case errors.As(err, &after):
		result = "delayed"
		err = d.msg.NakWithDelay(after.Delay)
	case errors.As(err, &dead), d.count >= uint64(c.MaxDeliver):
		result = "dead"
		d.span.SetStatus(codes.Error, err.Error())
		slog.ErrorContext(d.ctx, "message is dead", "consumer", c.Name, "deliveries", d.count, "error", err.Error())
		if derr := b.bury(d.ctx, c, d.msg, d.count, err); derr != nil {
			err = d.msg.NakWithDelay(backoff(d.count))
		} else {
			err = d.msg.Term()
		}
	default:
		result = "redelivered"
		d.span.SetStatus(codes.Error, err.Error())
		slog.WarnContext(d.ctx, "message will be redelivered", "consumer", c.Name, "deliveries", d.count, "error", err.Error())
		err = d.msg.NakWithDelay(backoff(d.count))
	}
	if err != nil {
		// The message comes again after AckWait; handlers are idempotent.
		slog.WarnContext(d.ctx, "acknowledge failed", "consumer", c.Name, "error", err.Error())
	}
	labels := metric.WithAttributes(attribute.String("consumer", c.Name), attribute.String("result", result))
	count, took := instruments()
	count.Add(d.ctx, 1, labels)
	took.Record(d.ctx, time.Since(d.began).Seconds(), labels)
}

// instruments count messages, and measure the work on them.
func instruments() (count metric.Int64Counter, took metric.Float64Histogram) {
	// The names are valid, and the provider keeps one instrument for each.
	m := otel.Meter("reelway.dev/pkg/bus")
	count, _ = m.Int64Counter("reelway.bus.messages", metric.WithUnit("{message}"),
		metric.WithDescription("messages by consumer and result: done, delayed, redelivered, dead"))
	took, _ = m.Float64Histogram("reelway.bus.process.duration", metric.WithUnit("s"),
		metric.WithDescription("work on a message, by consumer and result; a submit waits for its provider in hand"),
		metric.WithExplicitBucketBoundaries(.001, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 15, 30, 60, 180))
	return count, took
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

// noStream tells that nobody answers for a stream: it is not there.
func noStream(err error) bool {
	return errors.Is(err, nats.ErrNoResponders) || errors.Is(err, jetstream.ErrNoStreamResponse) ||
		errors.Is(err, jetstream.ErrStreamNotFound) || errors.Is(err, jetstream.ErrBucketNotFound)
}
