package ledger_test

import (
	"testing"
	"time"

	"reelway.dev/pkg/id"
	ledgerv1 "reelway.dev/proto/gen/reelway/ledger/v1"
	videov1 "reelway.dev/proto/gen/reelway/video/v1"
	"reelway.dev/services/ledger"
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
	restored := func(want bool) {
		t.Helper()
		a, err := x.jobs.GetAttempt(t.Context(), &ledgerv1.GetAttemptRequest{AttemptId: lost})
		if err != nil || a.GetRestored() != want {
			t.Errorf("%v, %v; restored should be %v", a, err, want)
		}
	}
	for range 2 {
		if r := x.beginWith(t, &ledgerv1.BeginAttemptRequest{JobId: absent}); r.GetGranted() || r.GetOpenAttemptId() != lost {
			t.Fatalf("%v; want %s to be looked for", r, lost)
		}
	}
	restored(true) // later attempts and other keys are looked at too
	x.observe(t, absent, lost, "retry")
	var r *ledgerv1.BeginAttemptResponse
	eventually(t, "it was nowhere", func() bool {
		r = x.beginWith(t, &ledgerv1.BeginAttemptRequest{JobId: absent})
		return r.GetGranted()
	})
	if r.GetAttemptId() != id.Nth(id.Attempt, absent, 2) || r.GetNumber() != 2 {
		t.Errorf("%v", r)
	}
	restored(false)

	x.observe(t, told, id.Nth(id.Attempt, told, 1), "accepted")
	if v := x.await(t, told, videov1.VideoState_VIDEO_STATE_RUNNING); len(v.GetAttempts()) != 1 || v.GetAttempts()[0].GetProviderTaskId() == "" {
		t.Errorf("%v", v)
	}
	if r := x.beginWith(t, &ledgerv1.BeginAttemptRequest{JobId: told}); r.GetGranted() {
		t.Errorf("submitted although it runs: %v", r)
	}
}

// No job is given up for the time in which nothing ran: not one that waited for a
// provider, and not one whose result was to be copied.
func TestRestoredLongAfter(t *testing.T) {
	t.Parallel()
	x := setup(t, 3*price, func(c *ledgerConfig) { c.QueueLife, c.SweepInterval = 24*time.Hour, time.Hour })
	waits, copied, sent := x.opened(t, "m"), x.opened(t, "m"), x.opened(t, "m")
	x.observe(t, copied, x.beginWith(t, &ledgerv1.BeginAttemptRequest{JobId: copied}).GetAttemptId(), "rendered")
	x.await(t, copied, videov1.VideoState_VIDEO_STATE_STORING)
	attempt := x.beginWith(t, &ledgerv1.BeginAttemptRequest{JobId: sent}).GetAttemptId()
	if _, err := x.pool.Exec(t.Context(), `update job set created_at = now() - interval '3 days', submit_after = now() - interval '3 days', swept_at = now() - interval '3 days',
		deadline_at = deadline_at - interval '3 days'`); err != nil {
		t.Fatal(err)
	}
	if n, err := ledger.Restored(t.Context(), x.pool.Config().ConnString()); err != nil || n != 1 {
		t.Fatalf("%d jobs, %v", n, err)
	}
	for range 3 {
		if err := ledger.SweepOnce(t.Context(), x.svc); err != nil {
			t.Fatal(err)
		}
	}
	x.await(t, copied, videov1.VideoState_VIDEO_STATE_STORING)
	if r := x.beginWith(t, &ledgerv1.BeginAttemptRequest{JobId: waits}); r.GetOpenAttemptId() == "" {
		t.Errorf("%v; it should be looked for", r)
	}
	if a, err := x.jobs.GetAttempt(t.Context(), &ledgerv1.GetAttemptRequest{AttemptId: attempt}); err != nil || !a.GetRestored() || a.GetSettled() {
		t.Errorf("%v, %v", a, err)
	}
}
