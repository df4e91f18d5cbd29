package ledger_test

import (
	"bytes"
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"reelway.dev/pkg/bus"
	"reelway.dev/pkg/fault"
	eventv1 "reelway.dev/proto/gen/reelway/event/v1"
	ledgerv1 "reelway.dev/proto/gen/reelway/ledger/v1"
	videov1 "reelway.dev/proto/gen/reelway/video/v1"
	"reelway.dev/services/ledger"
)

// archiver deletes files, or says so, and counts the commands for each.
type archiver struct {
	mu    sync.Mutex
	asked map[string]int
}

func (x *bundle) archiver(t *testing.T) *archiver {
	t.Helper()
	a := &archiver{asked: map[string]int{}}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		_ = bus.Consume(ctx, x.bus, bus.DeleteConsumer, 1, func(ctx context.Context, c *eventv1.DeleteArtifact) error {
			a.mu.Lock()
			a.asked[c.GetKey()]++
			a.mu.Unlock()
			return x.bus.PublishObservation(ctx, &eventv1.Observation{JobId: c.GetJobId(), AttemptId: c.GetAttemptId(), Provider: c.GetProvider(), Id: c.GetAttemptId() + "-deleted",
				Source: "archiver", ObservedAt: timestamppb.Now(), Fact: &eventv1.Observation_ArtifactDeleted{ArtifactDeleted: &eventv1.ArtifactDeleted{Key: c.GetKey()}}})
		})
	})
	t.Cleanup(func() { cancel(); wg.Wait() })
	return a
}

func (x *bundle) number(t *testing.T, sql string, args ...any) (n int) {
	t.Helper()
	if err := x.pool.QueryRow(context.Background(), sql, args...).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

// secrets fails when what callers wrote is still in a job's rows.
func (x *bundle) secrets(t *testing.T, jobID string) {
	t.Helper()
	var all []byte
	if err := x.pool.QueryRow(context.Background(), `select convert_to(metadata::text || coalesce(result_url, ''), 'UTF8') || params || coalesce(error, '') || coalesce(artifact, '')
		|| coalesce((select string_agg(error, '') from attempt where job_id = job.id), '') from job where id = $1`, jobID).Scan(&all); err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(all, []byte("secret")) || bytes.Contains(all, []byte("https://")) {
		t.Errorf("%s still holds what its caller wrote: %q", jobID, all)
	}
}

func TestOldJobsLoseTheirTextsAndVideos(t *testing.T) {
	t.Parallel()
	x := setup(t, 5*price, func(c *ledger.Config) {
		c.RetainPrompts, c.RetainVideos, c.RetainFacts = time.Millisecond, time.Millisecond, time.Millisecond
	})
	a := x.archiver(t)
	done := x.openAs(t, "ann", "m")
	x.finish(t, done, "archived")
	failed := x.openAs(t, "ann", "m")
	x.finish(t, failed, "failed")
	live := x.openAs(t, "ann", "m")
	eventually(t, "old jobs are redacted, their file and observations gone", func() bool {
		return x.number(t, "select count(*) from job where redacted_at is not null") == 2 &&
			x.number(t, "select count(*) from idempotency where job_id <> $1", live) == 0 &&
			x.number(t, "select count(*) from artifact_deletion") == 0
	})
	x.secrets(t, done)
	x.secrets(t, failed)
	v := x.await(t, done, videov1.VideoState_VIDEO_STATE_SUCCEEDED)
	if v.GetArtifact().GetKey() != "" || v.GetArtifact().GetSha256() == "" || v.GetParams().GetDurationSeconds() != 5 || v.GetExpiresAt() == nil {
		t.Errorf("the record of what was made is not right: %v", v)
	}
	if v := x.await(t, live, videov1.VideoState_VIDEO_STATE_QUEUED); v.GetParams().GetPrompt() != "secret prompt" {
		t.Errorf("a live job lost its prompt: %v", v)
	}
	a.mu.Lock()
	if a.asked["k"] != 1 {
		t.Errorf("the file was to be deleted %d times, want once", a.asked["k"])
	}
	a.mu.Unlock()
	x.balance(t, 3*price, price) // and every posting is there
}

func TestDeletionIsAskedForUntilReported(t *testing.T) {
	t.Parallel()
	x := setup(t, price, func(c *ledger.Config) { c.SweepAfter = 50 * time.Millisecond })
	id := x.openAs(t, "", "m")
	x.finish(t, id, "archived")
	if _, err := x.jobs.DeleteJob(context.Background(), &ledgerv1.DeleteJobRequest{AccountId: x.acct, JobId: id}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "command published", func() bool {
		s, err := x.bus.JetStream().Stream(context.Background(), bus.StreamArtifacts)
		return err == nil && s.CachedInfo().State.Msgs > 0
	})
	if err := x.bus.JetStream().DeleteStream(context.Background(), bus.StreamArtifacts); err != nil {
		t.Fatal(err)
	}
	if err := x.bus.Ensure(context.Background(), 1); err != nil {
		t.Fatal(err)
	}
	x.archiver(t)
	eventually(t, "file reported deleted", func() bool { return x.number(t, "select count(*) from artifact_deletion") == 0 })
	if _, err := x.jobs.DeleteJob(context.Background(), &ledgerv1.DeleteJobRequest{AccountId: x.acct, JobId: id}); fault.FromStatus(err).Code != fault.NotFound {
		t.Errorf("a second deletion: %v", err)
	}
}

func TestEraseUser(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	x := setup(t, 300*price)
	x.archiver(t)
	done, failed, others := x.openAs(t, "ann", "m"), x.openAs(t, "ann", "m"), x.openAs(t, "bob", "m")
	x.finish(t, done, "archived")
	x.finish(t, others, "archived")
	for range 120 { // more than one batch
		id := x.openAs(t, "ann", "m")
		if _, err := x.jobs.CancelJob(ctx, &ledgerv1.CancelJobRequest{AccountId: x.acct, JobId: id}); err != nil {
			t.Fatal(err)
		}
	}
	ask := &ledgerv1.EraseUserRequest{AccountId: x.acct, User: "ann", Reason: "asked for"}
	_, err := x.erase.EraseUser(ctx, ask)
	if f := fault.FromStatus(err); f.Code != fault.Conflict || !strings.Contains(f.Message, failed) {
		t.Fatalf("with a live job: %v", err)
	}
	x.finish(t, failed, "failed")
	for _, sql := range []string{
		"insert into budget (id, account_id, subject, subject_id, period, limit_micros, hard) values ('b1', $1, 'end_user', 'ann', 'day', 1000, true), ('b2', $1, 'end_user', '*', 'day', 1000, true)",
		"insert into budget_use (budget_id, subject_id, period_start, spent_micros) select id, 'ann', now(), 5 from budget where account_id = $1",
		`update job set counted_in = '[{"budget": "b2", "of": "ann", "from": "2026-01-01T00:00:00Z"}]' where account_id = $1 and end_user = 'ann'`,
	} {
		if _, err := x.pool.Exec(ctx, sql, x.acct); err != nil {
			t.Fatal(err)
		}
	}
	before := x.query(t, &videov1.QueryUsageRequest{}).GetRows()[0]
	r, err := x.erase.EraseUser(ctx, ask)
	if err != nil || r.GetJobs() != 122 || r.GetVideos() != 1 {
		t.Fatalf("erase: %v, %v; want 122 jobs and one video", r, err)
	}
	x.secrets(t, done)
	x.secrets(t, failed)
	if n := x.number(t, "select (select count(*) from job where end_user = 'ann') + (select count(*) from usage_user_day where end_user = 'ann') + (select count(*) from idempotency where job_id = $1)"+
		"+ (select count(*) from budget_use where subject_id = 'ann') + (select count(*) from budget where subject_id = 'ann') + (select count(*) from job where counted_in::text like '%ann%')", done); n != 0 {
		t.Errorf("%d rows still name the user", n)
	}
	if _, ok, err := x.bus.Status(ctx, done); ok || err != nil {
		t.Errorf("the read model still has the job: %v", err)
	}
	if v := x.await(t, others, videov1.VideoState_VIDEO_STATE_SUCCEEDED); v.GetUser() != "bob" || v.GetParams().GetPrompt() != "secret prompt" || v.GetArtifact().GetKey() == "" {
		t.Errorf("another user's job was touched: %v", v)
	}
	if after := x.query(t, &videov1.QueryUsageRequest{}).GetRows()[0]; after.String() != before.String() {
		t.Errorf("the account's usage is %v, was %v", after, before)
	}
	nobody := ""
	if rows := x.query(t, &videov1.QueryUsageRequest{User: &nobody}).GetRows(); rows[0].GetJobs() != 122 {
		t.Errorf("usage of nobody is %v, want the 122 jobs", rows[0])
	}
	entries, err := x.accts.ListAuditEntries(ctx, &ledgerv1.ListAuditEntriesRequest{AccountId: x.acct, Limit: 1})
	if err != nil || len(entries.GetEntries()) != 1 || entries.GetEntries()[0].GetAction() != "user.erase" || entries.GetEntries()[0].GetTarget() != r.GetToken() ||
		strings.Contains(entries.String(), "ann") {
		t.Errorf("the audit log says %v, %v", entries, err)
	}
	if r, err := x.erase.EraseUser(ctx, ask); err != nil || r.GetJobs() != 0 || r.GetToken() != "" {
		t.Errorf("a repetition: %v, %v", r, err)
	}
	eventually(t, "file deleted", func() bool { return x.number(t, "select count(*) from artifact_deletion") == 0 })
	x.balance(t, 298*price, 0)
}
