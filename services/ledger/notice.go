package ledger

import (
	"context"

	"google.golang.org/protobuf/types/known/timestamppb"

	"reelway.dev/pkg/bus"
	eventv1 "reelway.dev/proto/gen/reelway/event/v1"
)

// notify puts a notice into the outbox. Its id is made of what it is about: the
// same notice is published once.
func (u *unit) notify(ctx context.Context, id string, n *eventv1.AccountNotice) error {
	n.OccurredAt = timestamppb.New(u.now)
	m, err := bus.NewMessage(bus.NoticeSubject(n.GetAccountId()), id, n)
	if err != nil {
		return err
	}
	u.tell(ctx, m, 0)
	return nil
}
