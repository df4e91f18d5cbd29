package bus

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/protobuf/proto"

	eventv1 "reelway.dev/proto/gen/reelway/event/v1"
)

// Dead is a dead letter by its number in the stream of dead letters.
type Dead struct {
	Seq    uint64
	Letter *eventv1.DeadLetter
}

// ErrNoLetter says that there is no dead letter of a number: it was never there,
// was replayed or dropped, or is older than 30 days.
var ErrNoLetter = errors.New("no such dead letter")

// DeadLetters calls fn with the dead letters after a number, the oldest first,
// until fn returns false.
func (b *Bus) DeadLetters(ctx context.Context, after uint64, fn func(Dead) bool) error {
	s, err := b.js.Stream(ctx, StreamDead)
	if err != nil {
		return fmt.Errorf("open stream %s: %w", StreamDead, err)
	}
	for {
		msg, err := s.GetMsg(ctx, after+1, jetstream.WithGetMsgSubject("dead.>"))
		if notFound(err) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read dead letter: %w", err)
		}
		d, err := parseDead(msg)
		if err != nil {
			return err
		}
		if !fn(d) {
			return nil
		}
		after = msg.Sequence
	}
}

// DeadLetter reads one, or returns ErrNoLetter.
func (b *Bus) DeadLetter(ctx context.Context, seq uint64) (Dead, error) {
	s, err := b.js.Stream(ctx, StreamDead)
	if err != nil {
		return Dead{}, fmt.Errorf("open stream %s: %w", StreamDead, err)
	}
	msg, err := s.GetMsg(ctx, seq)
	if notFound(err) {
		return Dead{}, ErrNoLetter
	}
	if err != nil {
		return Dead{}, fmt.Errorf("read dead letter: %w", err)
	}
	return parseDead(msg)
}

func parseDead(msg *jetstream.RawStreamMsg) (Dead, error) {
	d := Dead{Seq: msg.Sequence, Letter: &eventv1.DeadLetter{}}
	if err := proto.Unmarshal(msg.Data, d.Letter); err != nil {
		return d, fmt.Errorf("unmarshal dead letter %d: %w", msg.Sequence, err)
	}
	return d, nil
}

// Revive publishes a dead letter's message again where it was, in its trace, and
// drops the letter. A message on EVENTS reaches every reader of it once more.
// Consumers are idempotent; asked twice, it is published once.
func (b *Bus) Revive(ctx context.Context, seq uint64) (Dead, error) {
	d, err := b.DeadLetter(ctx, seq)
	if err != nil {
		return d, err
	}
	extra := nats.Header{}
	for k, v := range d.Letter.GetHeaders() {
		// What NATS said of the message was said of the old one.
		if !strings.HasPrefix(k, "Nats-") && !strings.EqualFold(k, "traceparent") {
			extra.Set(k, v)
		}
	}
	m := Message{Subject: d.Letter.GetSubject(), ID: fmt.Sprintf("revived-%d-%d", seq, d.Letter.GetDiedAt().AsTime().UnixNano()),
		Type: d.Letter.GetHeaders()[HeaderType], Data: d.Letter.GetData(), TraceParent: headerOf(d.Letter, "traceparent")}
	if err := b.publish(ctx, m, extra); err != nil {
		return d, err
	}
	return d, b.Drop(ctx, seq)
}

func headerOf(l *eventv1.DeadLetter, name string) string {
	for k, v := range l.GetHeaders() {
		if strings.EqualFold(k, name) {
			return v
		}
	}
	return ""
}

// Drop removes a dead letter, or returns ErrNoLetter.
func (b *Bus) Drop(ctx context.Context, seq uint64) error {
	s, err := b.js.Stream(ctx, StreamDead)
	if err != nil {
		return fmt.Errorf("open stream %s: %w", StreamDead, err)
	}
	// Asked first: the answer to the deletion does not tell a missing message from a
	// failure by its code.
	if _, err := s.GetMsg(ctx, seq); notFound(err) {
		return ErrNoLetter
	}
	if err := s.DeleteMsg(ctx, seq); err != nil {
		return fmt.Errorf("drop dead letter: %w", err)
	}
	return nil
}
