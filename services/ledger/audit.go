package ledger

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"reelway.dev/pkg/auth"
	"reelway.dev/pkg/bus"
	"reelway.dev/pkg/id"
	"reelway.dev/pkg/postgres"
	eventv1 "reelway.dev/proto/gen/reelway/event/v1"
	ledgerv1 "reelway.dev/proto/gen/reelway/ledger/v1"
)

// deed is what an administrative action did. Its details hold no secret and
// nothing of an end user that may have to be erased one day: an entry stays.
type deed struct {
	action  string // such as "account.suspend"
	account string
	target  string // the id of what was changed
	details map[string]any
}

// nothing is the deed of an action that found everything as asked.
var nothing = deed{}

// administer runs one administrative action. What act changes and the entry in
// the audit log commit together; act may run more than once. After the commit of
// a change every authenticator forgets the account's keys. An action that did nothing
// leaves no entry.
func (s *Service) administer(ctx context.Context, act func(ctx context.Context, tx pgx.Tx) (deed, error)) error {
	ctx, cancel := detached(ctx)
	defer cancel()
	var d deed
	err := postgres.InTx(ctx, s.pool, func(tx pgx.Tx) (err error) {
		if d, err = act(ctx, tx); err != nil || d.action == "" {
			return err
		}
		return enter(ctx, tx, d)
	})
	// What is new is remembered by nobody.
	if err != nil || d.action == "" || strings.HasSuffix(d.action, ".create") {
		return err
	}
	if err := s.bus.Broadcast(ctx, bus.AccessChangedSubject, &eventv1.AccessChanged{AccountId: d.account}); err != nil {
		s.log.WarnContext(ctx, "change of access not broadcast", "account_id", d.account, "error", err.Error())
	}
	return nil
}

// enter writes a deed into the audit log, under the name of who asks for it.
func enter(ctx context.Context, tx pgx.Tx, d deed) error {
	who := auth.IncomingActor(ctx)
	if d.details == nil {
		d.details = map[string]any{}
	}
	if _, err := tx.Exec(ctx, `insert into audit_entry (id, actor, action, account_id, target, details, request_id)
		values ($1, $2, $3, $4, $5, $6, $7)`,
		id.New(id.Audit), who.KeyID, d.action, d.account, d.target, d.details, who.RequestID); err != nil {
		return fmt.Errorf("insert audit entry: %w", err)
	}
	return nil
}

// ListAuditEntries reads the audit log from its end.
func (g *accountServer) ListAuditEntries(ctx context.Context, r *ledgerv1.ListAuditEntriesRequest) (*ledgerv1.ListAuditEntriesResponse, error) {
	resp := &ledgerv1.ListAuditEntriesResponse{}
	var err error
	resp.Entries, resp.HasMore, err = page(ctx, g.s.pool, r.GetLimit(), func(row pgx.CollectableRow) (*ledgerv1.AuditEntry, error) {
		e := &ledgerv1.AuditEntry{Details: &structpb.Struct{}}
		var at time.Time
		var details []byte
		if err := row.Scan(&e.Id, &at, &e.Actor, &e.Action, &e.AccountId, &e.Target, &details, &e.RequestId); err != nil {
			return nil, err
		}
		e.At = timestamppb.New(at)
		return e, e.GetDetails().UnmarshalJSON(details)
	}, `select id, at, actor, action, account_id, target, details, request_id from audit_entry
		where ($1 = '' or id < $1) and ($2 = '' or account_id = $2) and ($3 = '' or actor = $3)
		order by id desc`, r.GetAfter(), r.GetAccountId(), r.GetActor())
	return resp, err
}
