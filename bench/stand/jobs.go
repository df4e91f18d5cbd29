package stand

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"

	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	eventv1 "reelway.dev/proto/gen/reelway/event/v1"
	ledgerv1 "reelway.dev/proto/gen/reelway/ledger/v1"
	videov1 "reelway.dev/proto/gen/reelway/video/v1"
)

// Whose jobs are opened, and at what price.
const (
	Account = "acct_bench"
	Quote   = 210_000
)

// Fund opens the account that jobs are opened on.
func (b *Book) Fund(ctx context.Context) error { return b.FundAccount(ctx, Account) }

// FundAccount opens an account with more credit than any measurement spends.
func (b *Book) FundAccount(ctx context.Context, account string) error {
	if _, err := b.accts.CreateAccount(ctx, &ledgerv1.CreateAccountRequest{Name: "bench", AccountId: account}); err != nil {
		return fmt.Errorf("create account: %w", err)
	}
	_, err := b.money.TopUp(ctx, &ledgerv1.TopUpRequest{AccountId: account, AmountMicros: 1 << 59, IdempotencyKey: "bench-" + account})
	return err
}

// OpenRequest asks for a job on Account.
func OpenRequest() *ledgerv1.OpenJobRequest {
	return &ledgerv1.OpenJobRequest{AccountId: Account, ApiKeyId: "key_bench", Provider: "kling", QuoteMicros: Quote, RequestHash: make([]byte, 32),
		Params: &videov1.VideoParams{Model: "kling-v2-6", Prompt: "A paper boat sails down a rainy street at night", DurationSeconds: 5,
			Resolution: "720p", AspectRatio: "16:9", Width: 1280, Height: 720}}
}

// Finisher makes jobs whose renders are being stored, and returns what observes
// the last fact of n of them, each once.
func (b *Book) Finisher(ctx context.Context, jobs int) (func(n int) func(context.Context, int) (int, error), error) {
	if err := b.Store(ctx, jobs); err != nil {
		return nil, err
	}
	rows, err := b.Pool.Query(ctx, "select id, attempt_id from job where completed_at is null and state = 'storing'")
	if err != nil {
		return nil, fmt.Errorf("read jobs: %w", err)
	}
	type pair struct{ Job, Attempt string }
	all, err := pgx.CollectRows(rows, pgx.RowToStructByPos[pair])
	if err != nil {
		return nil, fmt.Errorf("read jobs: %w", err)
	}
	if _, err := b.Pool.Exec(ctx, "vacuum analyze"); err != nil {
		return nil, fmt.Errorf("vacuum: %w", err)
	}
	var next atomic.Int64
	return func(n int) func(context.Context, int) (int, error) {
		return func(ctx context.Context, _ int) (int, error) {
			ctxs := make([]context.Context, n)
			os := make([]*eventv1.Observation, n)
			for i := range n {
				k := int(next.Add(1) - 1)
				if k >= len(all) {
					return 0, fmt.Errorf("more than %d observations: make more jobs", len(all))
				}
				p := all[k]
				ctxs[i] = ctx
				os[i] = &eventv1.Observation{Id: p.Attempt + "-archived", JobId: p.Job, AttemptId: p.Attempt, Provider: "kling", Source: "archiver", ObservedAt: timestamppb.Now(),
					Fact: &eventv1.Observation_Archived{Archived: &eventv1.Archived{Artifact: &videov1.Artifact{Key: "videos/" + p.Job, ContentType: "video/mp4",
						SizeBytes: 1 << 20, Sha256: strings.Repeat("0", 64), Width: 1280, Height: 720, DurationMs: 5000}}}}
			}
			for _, err := range b.Svc.Observe(ctxs, os) {
				if err != nil {
					return 0, err
				}
			}
			return n, nil
		}
	}, nil
}

// Store fills the ledger with n jobs whose renders are being stored, so that
// the next observation of each is its last and moves its money.
func (b *Book) Store(ctx context.Context, n int) error {
	params := OpenRequest().GetParams()
	raw, err := proto.Marshal(params)
	if err != nil {
		return err
	}
	if _, err := b.Pool.Exec(ctx, `with made as (
			insert into job (id, state, account_id, provider, quote_micros, params, attempt_count, attempt_id, result_url, version)
			select job_id_at(clock_timestamp()) || lpad(g::text, 9, '0'), 'storing', $1, 'kling', $2, $3, 1, 'att_' || g || '_' || txid_current(), 'https://e.example/x.mp4', 4
			from generate_series(1, $4) g returning id, attempt_id),
		tried as (insert into attempt (id, job_id, number, provider, state, provider_task_id) select attempt_id, id, 1, 'kling', 'succeeded', 'task_' || id from made)
		insert into posting (key, kind, account_id, job_id, source, destination, amount_micros, available_micros, held_micros)
		select id || '/hold', 'hold', $1, id, 'available', 'held', $2, 0, 0 from made`, Account, int64(Quote), raw, n); err != nil {
		return fmt.Errorf("make jobs: %w", err)
	}
	_, err = b.Pool.Exec(ctx, `update balance set available_micros = available_micros - $2, held_micros = held_micros + $2 where account_id = $1`, Account, int64(n)*Quote)
	return err
}
