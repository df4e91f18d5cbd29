package callback

import (
	"context"
	"time"

	ledgerv1 "reelway.dev/proto/gen/reelway/ledger/v1"
)

// lookupTimeout bounds the question to the ledger: a provider waits for our
// answer, and calls again.
const lookupTimeout = 5 * time.Second

// Lookup asks the ledger whose a task is, for Deps.Find.
func Lookup(jobs ledgerv1.JobServiceClient) func(ctx context.Context, provider, taskID string) (Found, error) {
	return func(ctx context.Context, provider, taskID string) (Found, error) {
		ctx, cancel := context.WithTimeout(ctx, lookupTimeout)
		defer cancel()
		r, err := jobs.FindAttempt(ctx, &ledgerv1.FindAttemptRequest{Provider: provider, ProviderTaskId: taskID})
		if err != nil {
			return Found{}, err
		}
		return Found{JobID: r.GetJobId(), AttemptID: r.GetAttemptId(), SubmitOpen: r.GetSubmitOpen()}, nil
	}
}
