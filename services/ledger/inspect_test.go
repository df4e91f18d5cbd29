package ledger_test

import (
	"context"
	"net"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/encoding/protojson"

	"reelway.dev/pkg/fault"
	"reelway.dev/pkg/rpc"
	eventv1 "reelway.dev/proto/gen/reelway/event/v1"
	ledgerv1 "reelway.dev/proto/gen/reelway/ledger/v1"
	videov1 "reelway.dev/proto/gen/reelway/video/v1"
	webhookv1 "reelway.dev/proto/gen/reelway/webhook/v1"
)

// inspector is a ledger with the operators' door to one job.
type inspector struct {
	*bundle
	door      ledgerv1.InspectionServiceClient
	providers ledgerv1.ProviderServiceClient
	upkeep    ledgerv1.MaintenanceServiceClient
	hooks     webhookv1.WebhookServiceClient
}

func setupInspector(t *testing.T, credits int64) *inspector {
	t.Helper()
	x := setup(t, credits)
	lis := bufconn.Listen(1 << 20)
	srv := rpc.NewServer()
	x.svc.Register(srv)
	done := make(chan struct{})
	go func() { defer close(done); _ = srv.Serve(lis) }()
	conn, err := grpc.NewClient("passthrough:inspection", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) { return lis.Dial() }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(); srv.Stop(); <-done })
	return &inspector{x, ledgerv1.NewInspectionServiceClient(conn), ledgerv1.NewProviderServiceClient(conn), ledgerv1.NewMaintenanceServiceClient(conn), webhookv1.NewWebhookServiceClient(conn)}
}

// What a caller wrote, none of which may be told.
const (
	hiddenPrompt = `a "hidden" heron over the lake`
	hiddenOther  = "no hidden geese"
	hiddenImage  = "https://img.example/hidden.png?sig=hidden"
	hiddenNote   = "hidden-order-17"
)

// written opens a job of which much was written.
func (x *inspector) written(t *testing.T) string {
	t.Helper()
	r, err := x.jobs.OpenJob(t.Context(), &ledgerv1.OpenJobRequest{AccountId: x.acct, ApiKeyId: "key_1", User: "ann", Provider: "testprovider", QuoteMicros: price,
		CostMicros: 300, CostCurrency: "USD", Metadata: map[string]string{"order": hiddenNote, "n": "1"}, CallbackUrl: "https://app.example/done?token=hidden", NotifyEmail: "hidden@user.example",
		Params: &videov1.VideoParams{Model: "m", Prompt: hiddenPrompt, NegativePrompt: hiddenOther, ImageUrl: hiddenImage, DurationSeconds: 10, Resolution: "720p"}})
	if err != nil {
		t.Fatal(err)
	}
	return r.GetVideo().GetId()
}

func (x *inspector) inspect(t *testing.T, r *ledgerv1.InspectJobRequest) *ledgerv1.InspectJobResponse {
	t.Helper()
	resp, err := x.door.InspectJob(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := protojson.Marshal(resp)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(raw), "hidden") {
		t.Errorf("it tells what the caller wrote: %s", raw)
	}
	return resp
}

func (x *inspector) job(t *testing.T, id string) *ledgerv1.InspectJobResponse {
	t.Helper()
	return x.inspect(t, &ledgerv1.InspectJobRequest{By: &ledgerv1.InspectJobRequest_JobId{JobId: id}})
}

// A succeeded job tells of each step once, by each of its names; and when it is
// deleted, of what remains.
func TestInspectASucceededJob(t *testing.T) {
	t.Parallel()
	x := setupInspector(t, 5*price)
	if _, err := x.hooks.CreateEndpoint(t.Context(), &webhookv1.CreateEndpointRequest{AccountId: x.acct, Url: "https://hooks.example/x?key=hidden"}); err != nil {
		t.Fatal(err)
	}
	id := x.written(t)
	if r := x.job(t, id); r.GetCallbackHost() != "app.example" || !r.GetMailWaits() {
		t.Errorf("%v", r)
	}
	attempt := x.begin(t, id)
	x.see(t, id, attempt, "accepted", accepted("project/tasks/4711"))
	x.see(t, id, attempt, "rendered", rendered(250, "USD"))
	key := "videos/" + x.acct + "/" + id + "/" + attempt + ".mp4"
	x.see(t, id, attempt, "archived", &eventv1.Observation{Fact: &eventv1.Observation_Archived{Archived: &eventv1.Archived{Artifact: &videov1.Artifact{Key: key, SizeBytes: 99, DurationMs: 10_000}}}})

	r := x.job(t, id)
	for name, by := range map[string]*ledgerv1.InspectJobRequest{
		"attempt":        {By: &ledgerv1.InspectJobRequest_AttemptId{AttemptId: attempt}},
		"task":           {By: &ledgerv1.InspectJobRequest_Task{Task: &ledgerv1.TaskName{Provider: "testprovider", ProviderTaskId: "project/tasks/4711"}}},
		"end of a task":  {By: &ledgerv1.InspectJobRequest_Task{Task: &ledgerv1.TaskName{Provider: "testprovider", ProviderTaskId: "4711"}}},
		"another answer": {By: &ledgerv1.InspectJobRequest_JobId{JobId: id}},
	} {
		if got := x.inspect(t, by); got.GetJob().GetId() != id || len(got.GetPostings()) != len(r.GetPostings()) {
			t.Errorf("by its %s: %v", name, got)
		}
	}
	j := r.GetJob()
	if j.GetState() != videov1.VideoState_VIDEO_STATE_SUCCEEDED || j.GetAccountId() != x.acct || j.GetApiKeyId() != "key_1" || j.GetUser() != "ann" || j.GetModel() != "m" ||
		j.GetProvider() != "testprovider" || j.GetHoldState() != "captured" || j.GetQuoteMicros() != price || j.GetCapturedMicros() != price ||
		j.GetCostMicros() != 250 || j.GetCostSource() != "reported" || j.GetCompletedAt() == nil || j.GetArtifact().GetKey() != key || j.GetArtifact().GetSizeBytes() != 99 {
		t.Errorf("%v", j)
	}
	if q := j.GetRequest(); q.GetPromptCharacters() != 30 || q.GetNegativePromptCharacters() != 15 || !q.GetImage() || q.GetEndImage() || q.GetMetadataEntries() != 2 || q.GetDurationSeconds() != 10 {
		t.Errorf("%v", q)
	}
	if len(r.GetAttempts()) != 1 {
		t.Fatalf("%v", r.GetAttempts())
	}
	if a := r.GetAttempts()[0]; a.GetId() != attempt || a.GetNumber() != 1 || a.GetState() != "succeeded" || a.GetProviderTaskId() != "project/tasks/4711" || a.GetVerdictSource() != "test" || !a.GetCurrent() || a.GetEndedAt() == nil {
		t.Errorf("%v", a)
	}
	var facts, kinds []string
	for _, o := range r.GetObservations() {
		facts = append(facts, o.GetFact()+" "+o.GetVerdict())
	}
	for _, p := range r.GetPostings() {
		kinds = append(kinds, p.GetKind()+" "+p.GetSource()+" "+p.GetDestination())
		if p.GetAmountMicros() != price || p.GetCreatedAt() == nil {
			t.Errorf("%v", p)
		}
	}
	if got := strings.Join(facts, ", "); got != "accepted applied, rendered applied, archived applied" {
		t.Errorf("observed: %s", got)
	}
	if got := strings.Join(kinds, ", "); got != "hold available held, capture held revenue" {
		t.Errorf("posted: %s", got)
	}
	// To the endpoint, and to its own address.
	if len(r.GetDeliveries()) != 2 || r.GetCallbackHost() != "" || r.GetReview() != nil || r.GetWaiting() != nil || r.GetMaintenance() != nil || r.GetCut() {
		t.Errorf("%v", r)
	}
	d := r.GetDeliveries()[0].GetDelivery()
	x.exec(t, `insert into webhook_attempt (delivery_id, number, at, duration_ms, url, request_headers, request_body, status, response_body, error)
		values ($1, 1, now(), 9, 'u', '{}', 'hidden', 503, 'hidden', ''), ($1, 2, now(), 12, 'u', '{}', 'hidden', 0, 'hidden', 'Post "https://hooks.example/x?key=hidden": no route')`, d.GetId())
	x.exec(t, "insert into mail (account_id, event_id, recipient, leased_until, state, ended_at) values ($1, $2, sha256('a'), now(), 'sent', now())", x.acct, id+"/succeeded")
	r = x.job(t, id)
	if got := r.GetDeliveries()[0]; got.GetLastError() != `Post "https://hooks.example/x": no route` || got.GetLastDurationMs() != 12 || got.GetLastStatus() != 0 || got.GetLastAttemptAt() == nil {
		t.Errorf("%v", got)
	}
	if m := r.GetMails(); len(m) != 1 || m[0].GetAbout() != "succeeded" || m[0].GetState() != "sent" || m[0].GetEndedAt() == nil {
		t.Errorf("%v", m)
	}

	if _, err := x.jobs.DeleteJob(t.Context(), &ledgerv1.DeleteJobRequest{AccountId: x.acct, JobId: id}); err != nil {
		t.Fatal(err)
	}
	r = x.job(t, id)
	if j := r.GetJob(); j.GetDeletedAt() == nil || j.GetArtifact().GetKey() != "" || j.GetArtifact().GetSizeBytes() != 99 || len(r.GetPostings()) != 2 || len(r.GetObservations()) != 3 ||
		len(r.GetRemovals()) != 1 || r.GetRemovals()[0].GetKey() != key || r.GetRemovals()[0].GetAskedAt() == nil {
		t.Errorf("%v", r)
	}
	// As where a job that is made of it keeps the file.
	x.exec(t, "update artifact_deletion set asked_at = 'infinity' where job_id = $1", id)
	if r = x.job(t, id); len(r.GetRemovals()) != 1 || r.GetRemovals()[0].GetAskedAt() != nil {
		t.Errorf("%v", r)
	}
}

// A job that failed after a retry tells of both attempts, in words that quote
// nobody.
func TestInspectAFailedJob(t *testing.T) {
	t.Parallel()
	x := setupInspector(t, 5*price)
	id := x.written(t)
	first := x.begin(t, id)
	x.see(t, id, first, "refused", &eventv1.Observation{Fact: &eventv1.Observation_Refused{Refused: &eventv1.Refused{Retry: true,
		Error: &videov1.VideoError{Code: "provider_unavailable", Message: `overloaded, while at {"prompt":"a \"hidden\" heron over the lake"} of ` + hiddenImage + ", " + hiddenNote}}}})
	x.exec(t, "update job set submit_after = now()")
	second := x.begin(t, id)
	x.see(t, id, second, "accepted", accepted("t2"))
	x.see(t, id, second, "failed", &eventv1.Observation{Fact: &eventv1.Observation_Failed{Failed: &eventv1.Failed{
		Error: &videov1.VideoError{Code: "content_policy", ProviderCode: "1301", Message: "the words 'hidden heron' are not allowed"}}}})
	r := x.job(t, id)
	j := r.GetJob()
	if j.GetState() != videov1.VideoState_VIDEO_STATE_FAILED || j.GetHoldState() != "released" || j.GetError().GetCode() != "content_policy" || j.GetError().GetProviderCode() != "1301" || j.GetError().GetMessage() != "" {
		t.Errorf("%v", j)
	}
	if len(r.GetAttempts()) != 2 {
		t.Fatalf("%v", r.GetAttempts())
	}
	if a := r.GetAttempts()[0]; a.GetState() != "refused" || a.GetCurrent() || a.GetError().GetMessage() != `overloaded, while at {"prompt":"(prompt)"} of (image), (metadata)` {
		t.Errorf("%v", a)
	}
	if a := r.GetAttempts()[1]; a.GetState() != "failed" || !a.GetCurrent() || a.GetProviderTaskId() != "t2" || a.GetError().GetCode() != "content_policy" {
		t.Errorf("%v", a)
	}
	if n := len(r.GetPostings()); n != 2 || r.GetPostings()[1].GetKind() != "release" {
		t.Errorf("%v", r.GetPostings())
	}
	if r.GetCut() {
		t.Error("nothing of it is left out")
	}
	x.exec(t, "insert into observation (job_id, id, attempt_id, source, fact, verdict, observed_at) select $1, 'o' || g, $2, 's', 'failed', 'ignored', now() from generate_series(1, 1000) g", id, second)
	if r = x.job(t, id); !r.GetCut() || len(r.GetObservations()) != 1000 || r.GetObservations()[0].GetFact() != "refused" {
		t.Errorf("%d observations, cut is %v", len(r.GetObservations()), r.GetCut())
	}
}

// One that waits tells what for, and one in review what is in suspense.
func TestInspectAJobThatWaits(t *testing.T) {
	t.Parallel()
	x := setupInspector(t, 5*price)
	if _, err := x.providers.PauseProvider(t.Context(), &ledgerv1.PauseProviderRequest{Provider: "testprovider", Model: "m", Reason: "blurred"}); err != nil {
		t.Fatal(err)
	}
	x.written(t)
	id := x.written(t)
	if _, err := x.upkeep.StartMaintenance(t.Context(), &ledgerv1.StartMaintenanceRequest{Reason: "a new disk"}); err != nil {
		t.Fatal(err)
	}
	r := x.job(t, id)
	if w := r.GetWaiting(); !w.GetInQueue() || w.GetAhead() != 1 || w.GetPause().GetReason() != "blurred" || !w.GetPauseOfModel() || w.GetCircuit() != "closed" || r.GetMaintenance().GetReason() != "a new disk" {
		t.Errorf("%v, %v", w, r.GetMaintenance())
	}
	if _, err := x.providers.PauseProvider(t.Context(), &ledgerv1.PauseProviderRequest{Provider: "testprovider", Reason: "no balance"}); err != nil {
		t.Fatal(err)
	}
	if w := x.job(t, id).GetWaiting(); w.GetPause().GetReason() != "no balance" || w.GetPauseOfModel() {
		t.Errorf("%v", w)
	}
	for _, model := range []string{"", "m"} {
		if _, err := x.providers.ResumeProvider(t.Context(), &ledgerv1.ResumeProviderRequest{Provider: "testprovider", Model: model}); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "its turn has come", func() bool { w := x.job(t, id).GetWaiting(); return w != nil && !w.GetInQueue() && w.GetPause() == nil })
	attempt := x.begin(t, id)
	x.see(t, id, attempt, "accepted", accepted("t"))
	x.see(t, id, attempt, "timed_out", timedOut())
	r = x.job(t, id)
	if r.GetWaiting() != nil || r.GetJob().GetState() != videov1.VideoState_VIDEO_STATE_NEEDS_REVIEW || r.GetReview().GetAmountMicros() != price || r.GetReview().GetSettledAt() != nil {
		t.Errorf("%v", r)
	}
	if n := len(r.GetPostings()); n != 3 {
		t.Errorf("hold, release and suspense are %v", r.GetPostings())
	}
}

func TestInspectWhatThereIsNot(t *testing.T) {
	t.Parallel()
	x := setupInspector(t, 0)
	for want, r := range map[string]*ledgerv1.InspectJobRequest{
		"no job has the id video_none":    {By: &ledgerv1.InspectJobRequest_JobId{JobId: "video_none"}},
		"no attempt has the id att_none":  {By: &ledgerv1.InspectJobRequest_AttemptId{AttemptId: "att_none"}},
		"no attempt at kling is known to": {By: &ledgerv1.InspectJobRequest_Task{Task: &ledgerv1.TaskName{Provider: "kling", ProviderTaskId: "none"}}},
	} {
		_, err := x.door.InspectJob(t.Context(), r)
		if f := fault.FromStatus(err); f.Code != fault.NotFound || f.Retryable || !strings.HasPrefix(f.Message, want) {
			t.Errorf("%v; want %s…", err, want)
		}
	}
	for _, r := range []*ledgerv1.InspectJobRequest{{}, {By: &ledgerv1.InspectJobRequest_JobId{JobId: "a b"}}, {By: &ledgerv1.InspectJobRequest_Task{Task: &ledgerv1.TaskName{Provider: "kling"}}}} {
		_, err := x.door.InspectJob(t.Context(), r)
		if f := fault.FromStatus(err); f.Code != fault.InvalidRequest || len(f.Fields) != 1 || f.Fields[0].Name == "" {
			t.Errorf("%v: %v", r, err)
		}
	}
}
