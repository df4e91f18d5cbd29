package ledger_test

import (
	"testing"

	"reelway.dev/pkg/id"
	ledgerv1 "reelway.dev/proto/gen/reelway/ledger/v1"
	videov1 "reelway.dev/proto/gen/reelway/video/v1"
)

// A job that was queued in a database that was set back is looked for before it is
// submitted, and one of which its provider tells is not submitted at all.
func TestRestoredJobs(t *testing.T) {
	t.Parallel()
	x := setup(t, price, still)
	absent, told := x.opened(t, "m"), x.opened(t, "m")
	if _, err := x.pool.Exec(t.Context(), "update job set restored = true"); err != nil {
		t.Fatal(err)
	}
	lost := id.Nth(id.Attempt, absent, 1)
	for range 2 {
		if r := x.beginWith(t, &ledgerv1.BeginAttemptRequest{JobId: absent}); r.GetGranted() || r.GetOpenAttemptId() != lost {
			t.Fatalf("%v; want %s to be looked for", r, lost)
		}
	}
	x.observe(t, absent, lost, "retry")
	var r *ledgerv1.BeginAttemptResponse
	eventually(t, "it was nowhere", func() bool {
		r = x.beginWith(t, &ledgerv1.BeginAttemptRequest{JobId: absent})
		return r.GetGranted()
	})
	if r.GetAttemptId() != id.Nth(id.Attempt, absent, 2) || r.GetNumber() != 2 {
		t.Errorf("%v", r)
	}

	x.observe(t, told, id.Nth(id.Attempt, told, 1), "accepted")
	if v := x.await(t, told, videov1.VideoState_VIDEO_STATE_RUNNING); len(v.GetAttempts()) != 1 || v.GetAttempts()[0].GetProviderTaskId() == "" {
		t.Errorf("%v", v)
	}
	if r := x.beginWith(t, &ledgerv1.BeginAttemptRequest{JobId: told}); r.GetGranted() {
		t.Errorf("submitted although it runs: %v", r)
	}
}
