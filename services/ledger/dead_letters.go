package ledger

import (
	"context"
	"errors"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"reelway.dev/pkg/bus"
	"reelway.dev/pkg/fault"
	eventv1 "reelway.dev/proto/gen/reelway/event/v1"
	ledgerv1 "reelway.dev/proto/gen/reelway/ledger/v1"
	videov1 "reelway.dev/proto/gen/reelway/video/v1"
)

type deadLetterServer struct {
	ledgerv1.UnimplementedDeadLetterServiceServer
	s *Service
}

func letter(d bus.Dead) *ledgerv1.DeadLetter {
	l := d.Letter
	return &ledgerv1.DeadLetter{Id: d.Seq, Stream: l.GetStream(), Subject: l.GetSubject(), Consumer: l.GetConsumer(), Reason: l.GetReason(),
		Deliveries: l.GetDeliveries(), Type: l.GetHeaders()[bus.HeaderType], DiedAt: l.GetDiedAt(), SizeBytes: int64(len(l.GetData()))}
}

func letterFault(err error) error {
	if errors.Is(err, bus.ErrNoLetter) {
		return fault.Wrap(err, fault.NotFound, "no such dead letter; it may have been replayed or dropped")
	}
	return err
}

// ListDeadLetters pages through what consumers gave up on.
func (g *deadLetterServer) ListDeadLetters(ctx context.Context, r *ledgerv1.ListDeadLettersRequest) (*ledgerv1.ListDeadLettersResponse, error) {
	limit := int(r.GetLimit())
	if limit == 0 {
		limit = defaultPage
	}
	resp := &ledgerv1.ListDeadLettersResponse{}
	err := g.s.bus.DeadLetters(ctx, r.GetAfter(), func(d bus.Dead) bool {
		if r.GetConsumer() != "" && d.Letter.GetConsumer() != r.GetConsumer() {
			return true
		}
		if len(resp.GetDeadLetters()) == limit {
			resp.HasMore = true
			return false
		}
		resp.DeadLetters, resp.Last = append(resp.DeadLetters, letter(d)), d.Seq
		return true
	})
	if err != nil {
		return nil, err
	}
	return resp, nil
}

// GetDeadLetter reads one with its message.
func (g *deadLetterServer) GetDeadLetter(ctx context.Context, r *ledgerv1.GetDeadLetterRequest) (*ledgerv1.GetDeadLetterResponse, error) {
	d, err := g.s.bus.DeadLetter(ctx, r.GetId())
	if err != nil {
		return nil, letterFault(err)
	}
	return &ledgerv1.GetDeadLetterResponse{DeadLetter: letter(d), MessageJson: readable(d.Letter)}, nil
}

// readable is a message as JSON without what a caller wrote; empty when it cannot
// be read.
func readable(l *eventv1.DeadLetter) string {
	t, err := protoregistry.GlobalTypes.FindMessageByName(protoreflect.FullName(l.GetHeaders()[bus.HeaderType]))
	if err != nil {
		return ""
	}
	m := t.New().Interface()
	if proto.Unmarshal(l.GetData(), m) != nil {
		return ""
	}
	switch m := m.(type) {
	case *eventv1.JobEvent:
		m.ResultUrl = ""
		if v := m.GetVideo(); v != nil {
			v.Metadata, v.User = nil, ""
			if v.GetParams() != nil {
				p := v.GetParams()
				v.Params = &videov1.VideoParams{Model: p.GetModel(), DurationSeconds: p.GetDurationSeconds(), Resolution: p.GetResolution(), AspectRatio: p.GetAspectRatio()}
			}
		}
	case *eventv1.Observation:
		if f := m.GetRendered(); f != nil {
			f.Url = ""
		}
	}
	data, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(m)
	if err != nil {
		return ""
	}
	return string(data)
}

// ReplayDeadLetter publishes a message again.
func (g *deadLetterServer) ReplayDeadLetter(ctx context.Context, r *ledgerv1.ReplayDeadLetterRequest) (*ledgerv1.ReplayDeadLetterResponse, error) {
	d, err := g.s.bus.Revive(ctx, r.GetId())
	if err != nil {
		return nil, letterFault(err)
	}
	g.s.log.InfoContext(ctx, "dead letter replayed", "dead_letter", d.Seq, "consumer", d.Letter.GetConsumer())
	return &ledgerv1.ReplayDeadLetterResponse{DeadLetter: letter(d)}, nil
}

// DropDeadLetter removes a message for good.
func (g *deadLetterServer) DropDeadLetter(ctx context.Context, r *ledgerv1.DropDeadLetterRequest) (*ledgerv1.DropDeadLetterResponse, error) {
	d, err := g.s.bus.DeadLetter(ctx, r.GetId())
	if err == nil {
		err = g.s.bus.Drop(ctx, r.GetId())
	}
	if err != nil {
		return nil, letterFault(err)
	}
	g.s.log.InfoContext(ctx, "dead letter dropped", "dead_letter", d.Seq, "consumer", d.Letter.GetConsumer())
	return &ledgerv1.DropDeadLetterResponse{DeadLetter: letter(d)}, nil
}
