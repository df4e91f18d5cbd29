package ledger_test

import (
	"context"
	"crypto/sha256"
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"reelway.dev/pkg/fault"
	"reelway.dev/pkg/postgres"
	ledgerv1 "reelway.dev/proto/gen/reelway/ledger/v1"
	videov1 "reelway.dev/proto/gen/reelway/video/v1"
	"reelway.dev/services/ledger"
)

// openFor opens a job of one end user with everything that a caller can write.
func (x *bundle) openFor(t *testing.T, user, model string) string {
	t.Helper()
	hash := sha256.Sum256([]byte("body"))
	r, err := x.jobs.OpenJob(context.Background(), &ledgerv1.OpenJobRequest{AccountId: x.acct, Provider: "testprovider", RequestHash: hash[:], QuoteMicros: price,
		User: user, ApiKeyId: "key_1", IdempotencyKey: fmt.Sprintf("%s-%d", user, time.Now().UnixNano()), Metadata: map[string]string{"order": "secret order"},
		Params: &videov1.VideoParams{Model: model, Prompt: "secret prompt", NegativePrompt: "secret negative", ImageUrl: "https://secret.example/a.png",
			DurationSeconds: 5, Resolution: "720p"}})
	if err != nil {
		t.Fatal(err)
	}
	return r.GetVideo().GetId()
}

// finish takes a job to its end.
func (x *bundle) finish(t *testing.T, jobID, last string) {
	t.Helper()
	attempt := x.begin(t, jobID)
	if last != "archived" {
		x.observe(t, jobID, attempt, last)
		x.await(t, jobID, videov1.VideoState_VIDEO_STATE_FAILED)
		return
	}
	x.observe(t, jobID, attempt, "rendered")
	x.await(t, jobID, videov1.VideoState_VIDEO_STATE_STORING)
	x.observe(t, jobID, attempt, "archived")
	x.await(t, jobID, videov1.VideoState_VIDEO_STATE_SUCCEEDED)
}

func (x *bundle) query(t *testing.T, q *videov1.QueryUsageRequest) *videov1.QueryUsageResponse {
	t.Helper()
	today := time.Now().UTC()
	if q.GetFrom() == "" {
		q.From, q.To = today.AddDate(0, 0, -1).Format(time.DateOnly), today.Format(time.DateOnly)
	}
	r, err := x.usage.QueryUsage(context.Background(), &ledgerv1.QueryUsageRequest{AccountId: x.acct, Query: q})
	if err != nil {
		t.Fatal(err)
	}
	return r.GetUsage()
}

func TestUsageAddsUp(t *testing.T) {
	t.Parallel()
	x := setup(t, 10*price)
	x.finish(t, x.openFor(t, "ann", "a"), "archived")
	x.finish(t, x.openFor(t, "ann", "b"), "failed")
	x.finish(t, x.openFor(t, "bob", "a"), "archived")
	canceled := x.openFor(t, "", "a")
	if _, err := x.jobs.CancelJob(context.Background(), &ledgerv1.CancelJobRequest{AccountId: x.acct, JobId: canceled}); err != nil {
		t.Fatal(err)
	}
	x.openFor(t, "bob", "a") // is not over, and so in no usage
	x.balance(t, 7*price, price)

	all := x.query(t, &videov1.QueryUsageRequest{}).GetRows()
	if len(all) != 1 {
		t.Fatalf("%d rows without groups, want 1", len(all))
	}
	got := all[0]
	if got.GetJobs() != 4 || got.GetSucceeded() != 2 || got.GetFailed() != 1 || got.GetCanceled() != 1 || got.GetSeconds() != 10 || got.GetSpendMicros() != 2*price {
		t.Errorf("usage is %v", got)
	}
	if got.GetSuccessRate() < .66 || got.GetSuccessRate() > .67 {
		t.Errorf("success rate is %v: two of three that were not canceled", got.GetSuccessRate())
	}
	if got.GetLatencyP50Ms() <= 0 || got.GetLatencyP99Ms() < got.GetLatencyP50Ms() || got.GetLatencyP99Ms() > 60_000 {
		t.Errorf("latency is %d and %d ms", got.GetLatencyP50Ms(), got.GetLatencyP99Ms())
	}
	groups := func(q *videov1.QueryUsageRequest) string {
		var out []string
		for _, r := range x.query(t, q).GetRows() {
			out = append(out, fmt.Sprintf("%s/%s/%s/%s=%d", r.GetUser(), r.GetModel(), r.GetProvider(), r.GetApiKeyId(), r.GetJobs()))
		}
		return strings.Join(out, " ")
	}
	ann, nobody := "ann", ""
	for want, q := range map[string]*videov1.QueryUsageRequest{
		"/a//=3 /b//=1":                        {GroupBy: []videov1.UsageGroup{videov1.UsageGroup_USAGE_GROUP_MODEL}},
		"//testprovider/key_1=4":               {GroupBy: []videov1.UsageGroup{videov1.UsageGroup_USAGE_GROUP_API_KEY, videov1.UsageGroup_USAGE_GROUP_PROVIDER}},
		"/a//=1 ann/a//=1 ann/b//=1 bob/a//=1": {GroupBy: []videov1.UsageGroup{videov1.UsageGroup_USAGE_GROUP_MODEL, videov1.UsageGroup_USAGE_GROUP_USER}},
		"///=2":                                {User: &ann},
		"/a//=1":                               {User: &nobody, GroupBy: []videov1.UsageGroup{videov1.UsageGroup_USAGE_GROUP_MODEL}},
		"bob///=1":                             {Model: "a", User: proto.String("bob"), GroupBy: []videov1.UsageGroup{videov1.UsageGroup_USAGE_GROUP_USER}},
		"///=0":                                {Provider: "other"},
		"":                                     {Provider: "other", GroupBy: []videov1.UsageGroup{videov1.UsageGroup_USAGE_GROUP_DAY}},
	} {
		if s := groups(q); s != want {
			t.Errorf("%v: %q, want %q", q, s, want)
		}
	}
}

func TestUsagePages(t *testing.T) {
	t.Parallel()
	x := setup(t, 0)
	if _, err := x.pool.Exec(context.Background(), `insert into usage_user_day select $1, 'user' || u, date '2026-01-01' + d, 'm', 'p', 'k', 1, 1, 0, 0, 0, 0, 5, 100, 0
		from generate_series(1, 10) u, generate_series(0, 9) d`, x.acct); err != nil {
		t.Fatal(err)
	}
	q := &videov1.QueryUsageRequest{From: "2026-01-02", To: "2026-01-08", Limit: 9, GroupBy: []videov1.UsageGroup{videov1.UsageGroup_USAGE_GROUP_DAY, videov1.UsageGroup_USAGE_GROUP_USER}}
	seen := map[string]bool{}
	for pages := 0; ; pages++ {
		r := x.query(t, q)
		for _, row := range r.GetRows() {
			k := row.GetUser() + row.GetDay()
			if seen[k] {
				t.Fatalf("%s comes twice", k)
			}
			seen[k] = true
		}
		if q.After = r.GetNext(); q.GetAfter() == "" {
			break
		}
		if pages > 10 {
			t.Fatal("no end")
		}
	}
	if len(seen) != 70 {
		t.Errorf("%d rows, want 70", len(seen))
	}
}

func TestUsageNamesWhatIsWrong(t *testing.T) {
	t.Parallel()
	x := setup(t, 0)
	for want, q := range map[string]*videov1.QueryUsageRequest{
		"from,to":    {From: "yesterday", To: "2026-02-30"},
		"to":         {From: "2026-02-02", To: "2026-02-01"},
		"from":       {From: "2025-01-01", To: "2026-01-02"},
		"after":      {From: "2026-01-01", To: "2026-01-01", After: "x"},
		"to,model":   {From: "2026-02-02", To: "2026-02-01", Model: "a\x00"},
		"from,after": {From: "2025-01-01", To: "2026-01-02", After: "eyJnIjpbMV0sInYiOlsiMjAyNi0wMS0wMSJdfQ"}, // of a page by day
	} {
		_, err := x.usage.QueryUsage(context.Background(), &ledgerv1.QueryUsageRequest{AccountId: x.acct, Query: q})
		f := fault.FromStatus(err)
		var names []string
		for _, field := range f.Fields {
			names = append(names, field.Name)
		}
		if f.Code != fault.InvalidRequest || strings.Join(names, ",") != want {
			t.Errorf("%v: %s names %v, want %s", q, f.Code, names, want)
		}
	}
}

// What a ledger without usage has finished, before or during an upgrade, is
// counted later, once.
func TestMissedJobsAreCounted(t *testing.T) {
	t.Parallel()
	x := setup(t, 0)
	params, err := proto.Marshal(&videov1.VideoParams{Model: "m", DurationSeconds: 4})
	if err != nil {
		t.Fatal(err)
	}
	artifact, err := proto.Marshal(&videov1.Artifact{Key: "k"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := x.pool.Exec(context.Background(), `insert into job (id, state, account_id, provider, hold_state, quote_micros, captured_micros, created_at, completed_at, params, artifact)
		select job_id_at(now() - interval '2 days') || lpad(g::text, 8, '0'), 'succeeded', $1, 'p', 'captured', 10, 7, now() - interval '25 hours', now() - interval '1 day', $2, $3
		from generate_series(1, 1200) g`, x.acct, params, artifact); err != nil {
		t.Fatal(err)
	}
	eventually(t, "jobs are counted", func() bool {
		r := x.query(t, &videov1.QueryUsageRequest{GroupBy: []videov1.UsageGroup{videov1.UsageGroup_USAGE_GROUP_MODEL}}).GetRows()
		return len(r) == 1 && r[0].GetModel() == "m" && r[0].GetSucceeded() == 1200 && r[0].GetSeconds() == 4800 && r[0].GetSpendMicros() == 8400
	})
	r := x.query(t, &videov1.QueryUsageRequest{}).GetRows()[0]
	if p := r.GetLatencyP50Ms(); p < 3_600_000*955/1000 || p > 3_600_000*1045/1000 {
		t.Errorf("p50 is %d ms, want an hour within 4.5 %%", p)
	}
}

// A ledger works on while, and after, a newer version has migrated its database
// by the rules for migrations.
func TestOlderLedgerOnNewerSchema(t *testing.T) {
	t.Parallel()
	x := setup(t, 10*price)
	before := x.openFor(t, "ann", "a")
	first := x.begin(t, before)
	if err := postgres.Migrate(context.Background(), x.pool, newerSchema); err != nil {
		t.Fatal(err)
	}
	x.observe(t, before, first, "failed")
	x.await(t, before, videov1.VideoState_VIDEO_STATE_FAILED)
	x.finish(t, x.openFor(t, "ann", "b"), "archived")
	id := x.openFor(t, "", "a")
	if _, err := x.jobs.CancelJob(context.Background(), &ledgerv1.CancelJobRequest{AccountId: x.acct, JobId: id}); err != nil {
		t.Fatal(err)
	}
	if _, err := x.jobs.DeleteJob(context.Background(), &ledgerv1.DeleteJobRequest{AccountId: x.acct, JobId: id}); err != nil {
		t.Fatal(err)
	}
	if r, err := x.jobs.ListJobs(context.Background(), &ledgerv1.ListJobsRequest{AccountId: x.acct, User: "ann"}); err != nil || len(r.GetVideos()) != 2 {
		t.Errorf("list: %v, %v", r, err)
	}
	x.balance(t, 9*price, 0)
	// The older program starts again.
	if err := postgres.Migrate(context.Background(), x.pool, ledger.Migrations()); err != nil {
		t.Error(err)
	}
}
