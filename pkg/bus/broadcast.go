package bus

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/nats-io/nats.go"
	"go.opentelemetry.io/otel/propagation"
	"google.golang.org/protobuf/proto"
)

// Broadcast sends m to whoever listens on subject at this moment. Nothing keeps
// it and nobody acknowledges it: it may only hasten what would come anyway. It
// does not block.
func (b *Bus) Broadcast(ctx context.Context, subject string, m proto.Message) error {
	out, err := NewMessage(subject, "", m)
	if err != nil {
		return err
	}
	msg := nats.NewMsg(subject)
	msg.Data = out.Data
	msg.Header.Set(HeaderType, out.Type)
	propagation.TraceContext{}.Inject(ctx, headerCarrier(msg.Header))
	if err := b.nc.PublishMsg(msg); err != nil {
		return fmt.Errorf("broadcast %s: %w", subject, err)
	}
	return nil
}

// Listen calls handle with every message that is broadcast on subject, one at a
// time and in order, until ctx is done; then it returns nil. A message that
// cannot be read is logged and passed over.
func Listen[T any, P interface {
	*T
	proto.Message
}](ctx context.Context, b *Bus, subject string, handle func(m P)) error {
	sub, err := b.nc.Subscribe(subject, func(msg *nats.Msg) {
		m := P(new(T))
		if err := proto.Unmarshal(msg.Data, m); err != nil {
			slog.WarnContext(ctx, "broadcast not read", "subject", subject, "type", msg.Header.Get(HeaderType), "error", err.Error())
			return
		}
		handle(m)
	})
	if err != nil {
		return fmt.Errorf("listen on %s: %w", subject, err)
	}
	<-ctx.Done()
	_ = sub.Unsubscribe() // the connection may have gone first
	return nil
}
