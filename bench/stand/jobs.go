package stand

import (
	"context"
	"fmt"

	"google.golang.org/protobuf/proto"

	ledgerv1 "reelway.dev/proto/gen/reelway/ledger/v1"
	videov1 "reelway.dev/proto/gen/reelway/video/v1"
)

// Whose jobs are opened, and at what price.
const (
	Account = "acct_bench"
	Quote   = 210_000
)

// Fund opens the account that jobs are opened on.
func (b *Book) Fund(ctx context.Context) error {
	if _, err := b.accts.CreateAccount(ctx, &ledgerv1.CreateAccountRequest{Name: "bench", AccountId: Account}); err != nil {
		return fmt.Errorf("create account: %w", err)
	}
	_, err := b.money.TopUp(ctx, &ledgerv1.TopUpRequest{AccountId: Account, AmountMicros: 1 << 60, IdempotencyKey: "bench"})
	return err
}

// OpenRequest asks for a job on Account.
func OpenRequest() *ledgerv1.OpenJobRequest {
	return &ledgerv1.OpenJobRequest{AccountId: Account, ApiKeyId: "key_bench", Provider: "kling", QuoteMicros: Quote, RequestHash: make([]byte, 32),
		Params: &videov1.VideoParams{Model: "kling-v2-6", Prompt: "A paper boat sails down a rainy street at night", DurationSeconds: 5,
			Resolution: "720p", AspectRatio: "16:9", Width: 1280, Height: 720}}
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
			select job_id_at(clock_timestamp()) || lpad(g::text, 9, '0'), 'storing', $1, 'kling', $2, $3, 1, 'att_' || g, 'https://e.example/x.mp4', 4
			from generate_series(1, $4) g returning id, attempt_id),
		tried as (insert into attempt (id, job_id, number, provider, state, provider_task_id) select attempt_id, id, 1, 'kling', 'succeeded', 'task_' || id from made)
		insert into posting (key, kind, account_id, job_id, source, destination, amount_micros, available_micros, held_micros)
		select id || '/hold', 'hold', $1, id, 'available', 'held', $2, 0, 0 from made`, Account, int64(Quote), raw, n); err != nil {
		return fmt.Errorf("make jobs: %w", err)
	}
	_, err = b.Pool.Exec(ctx, `update balance set available_micros = available_micros - $2, held_micros = held_micros + $2 where account_id = $1`, Account, int64(n)*Quote)
	return err
}
