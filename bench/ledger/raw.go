package main

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/proto"

	"reelway.dev/bench/stand"
	"reelway.dev/pkg/id"
	eventv1 "reelway.dev/proto/gen/reelway/event/v1"
	videov1 "reelway.dev/proto/gen/reelway/video/v1"
)

// rawRows is the bare work of opening n jobs, prepared as a caller of SQL would:
// the rows are marshalled, nothing is judged.
func rawRows(n int) (jobs, keys []string, params, events [][]byte, err error) {
	req := stand.OpenRequest()
	p, err := proto.Marshal(req.GetParams())
	if err != nil {
		return nil, nil, nil, nil, fmt.Errorf("marshal params: %w", err)
	}
	for range n {
		j := id.New(id.Video)
		ev, err := proto.Marshal(&eventv1.JobEvent{Video: &videov1.Video{Id: j, AccountId: stand.Account, Params: req.GetParams(), QuoteMicros: stand.Quote}})
		if err != nil {
			return nil, nil, nil, nil, fmt.Errorf("marshal event: %w", err)
		}
		jobs, keys, params, events = append(jobs, j), append(keys, j+"/hold"), append(params, p), append(events, ev)
	}
	return jobs, keys, params, events, nil
}

func (b book) rawOpen(ctx context.Context, _ int) (int, error) { return 256, b.rawTx(ctx, 256) }

func (b book) rawOpenOne(ctx context.Context, _ int) (int, error) { return 1, b.rawTx(ctx, 1) }

// rawTx writes the same tables as OpenJob in one transaction: job, posting,
// balance, event and command.
func (b book) rawTx(ctx context.Context, n int) error {
	jobs, keys, params, events, err := rawRows(n)
	if err != nil {
		return err
	}
	return pgx.BeginFunc(ctx, b.Pool, func(tx pgx.Tx) error {
		batch := &pgx.Batch{}
		batch.Queue(`update balance set available_micros = available_micros - $2, held_micros = held_micros + $2 where account_id = $1`, stand.Account, int64(n)*stand.Quote)
		batch.Queue(`insert into job (id, state, account_id, provider, quote_micros, params)
			select id, 'queued', $3, 'kling', $4, params from unnest($1::text[], $2::bytea[]) as x (id, params)`, jobs, params, stand.Account, int64(stand.Quote))
		batch.Queue(`insert into posting (key, kind, account_id, job_id, source, destination, amount_micros, available_micros, held_micros)
			select key, 'hold', $3, job, 'available', 'held', $4, 0, 0 from unnest($1::text[], $2::text[]) as x (key, job)`, keys, jobs, stand.Account, int64(stand.Quote))
		batch.Queue(`insert into outbox (message_id, subject, type, data) select id, 'job.' || id, 'reelway.event.v1.JobEvent', data
			from unnest($1::text[], $2::bytea[]) as x (id, data)`, jobs, events)
		batch.Queue(`insert into outbox (message_id, subject, type, data) select id, 'jobs.submit.kling.kling-v2-6', 'reelway.event.v1.SubmitJob', id::bytea
			from unnest($1::text[]) as x (id)`, jobs)
		return tx.SendBatch(ctx, batch).Close()
	})
}
