package ledger_test

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"reelway.dev/pkg/bus"
	"reelway.dev/pkg/fault"
	"reelway.dev/pkg/rpc"
	eventv1 "reelway.dev/proto/gen/reelway/event/v1"
	ledgerv1 "reelway.dev/proto/gen/reelway/ledger/v1"
	videov1 "reelway.dev/proto/gen/reelway/video/v1"
	webhookv1 "reelway.dev/proto/gen/reelway/webhook/v1"
)

// hooked is a ledger with the doors of webhooks.
type hooked struct {
	*bundle
	t     *testing.T
	hooks webhookv1.WebhookServiceClient
	due   webhookv1.DeliveryServiceClient
}

func hook(t *testing.T, change ...func(*ledgerConfig)) *hooked {
	t.Helper()
	x := setup(t, 100*price, change...)
	lis := bufconn.Listen(1 << 20)
	srv := rpc.NewServer()
	x.svc.Register(srv)
	done := make(chan struct{})
	go func() { defer close(done); _ = srv.Serve(lis) }()
	conn, err := grpc.NewClient("passthrough:hooks", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) { return lis.Dial() }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(); srv.Stop(); <-done })
	return &hooked{x, t, webhookv1.NewWebhookServiceClient(conn), webhookv1.NewDeliveryServiceClient(conn)}
}

var everyEvent = []string{"video.progressed", "video.completed", "video.failed", "video.canceled", "video.expired", "video.needs_review"}

func (x *hooked) endpoint(events ...string) *webhookv1.CreateEndpointResponse {
	x.t.Helper()
	r, err := x.hooks.CreateEndpoint(x.t.Context(), &webhookv1.CreateEndpointRequest{AccountId: x.acct, Url: "https://hooks.example/x", Events: events,
		Headers: map[string]string{"authorization": "Bearer of-the-customer"}})
	if err != nil {
		x.t.Fatal(err)
	}
	return r
}

// succeed takes a job to its end.
func (x *hooked) succeed(callback string) string {
	x.t.Helper()
	r, err := x.jobs.OpenJob(x.t.Context(), &ledgerv1.OpenJobRequest{AccountId: x.acct, Provider: "testprovider", QuoteMicros: price, User: "ann", CallbackUrl: callback,
		Params: &videov1.VideoParams{Model: "m", Prompt: "a prompt to be forgotten"}})
	if err != nil {
		x.t.Fatal(err)
	}
	video := r.GetVideo().GetId()
	attempt := x.begin(x.t, video)
	for _, f := range []struct {
		fact string
		want videov1.VideoState
	}{{"accepted", videov1.VideoState_VIDEO_STATE_RUNNING}, {"rendered", videov1.VideoState_VIDEO_STATE_STORING}, {"archived", videov1.VideoState_VIDEO_STATE_SUCCEEDED}} {
		x.observe(x.t, video, attempt, f.fact)
		x.await(x.t, video, f.want)
	}
	return video
}

func (x *hooked) claim(perEndpoint int32, lease time.Duration) []*webhookv1.Claim {
	x.t.Helper()
	r, err := x.due.ClaimDeliveries(x.t.Context(), &webhookv1.ClaimDeliveriesRequest{Limit: 100, PerEndpoint: perEndpoint, Lease: durationpb.New(lease)})
	if err != nil {
		x.t.Fatal(err)
	}
	return r.GetClaims()
}

func (x *hooked) report(c *webhookv1.Claim, status int32, retryAfter time.Duration) string {
	x.t.Helper()
	r, err := x.due.ReportDelivery(x.t.Context(), &webhookv1.ReportDeliveryRequest{Id: c.GetId(), Attempt: c.GetAttempt(), RetryAfter: durationpb.New(retryAfter),
		Outcome: &webhookv1.Attempt{Number: c.GetAttempt(), At: timestamppb.Now(), Url: "https://hooks.example/x", RequestBody: "a prompt to be forgotten", ResponseBody: "ok", Status: status}})
	if err != nil {
		x.t.Fatal(err)
	}
	return r.GetVerdict()
}

// due makes what waits for its next attempt due.
func (x *hooked) hasten() {
	x.t.Helper()
	if _, err := x.pool.Exec(x.t.Context(), "update webhook_delivery set next_attempt_at = now() where state = 'pending' and claimed_until is null"); err != nil {
		x.t.Fatal(err)
	}
}

func (x *hooked) delivery(id string) *webhookv1.GetDeliveryResponse {
	x.t.Helper()
	r, err := x.hooks.GetDelivery(x.t.Context(), &webhookv1.GetDeliveryRequest{AccountId: x.acct, Id: id})
	if err != nil {
		x.t.Fatal(err)
	}
	return r
}

func (x *hooked) get(endpoint string) *webhookv1.Endpoint {
	x.t.Helper()
	r, err := x.hooks.GetEndpoint(x.t.Context(), &webhookv1.GetEndpointRequest{AccountId: x.acct, Id: endpoint})
	if err != nil {
		x.t.Fatal(err)
	}
	return r.GetEndpoint()
}

func (x *hooked) count(sql string, args ...any) (n int) {
	x.t.Helper()
	if err := x.pool.QueryRow(x.t.Context(), sql, args...).Scan(&n); err != nil {
		x.t.Fatal(err)
	}
	return n
}

// A job's events are handed out one after the other, each as it was; an attempt
// that is not reported comes again; what somebody reports of an attempt that is not
// in their hands changes nothing, unless it was delivered.
func TestDeliveriesKeepTheirOrder(t *testing.T) {
	t.Parallel()
	x := hook(t, func(c *ledgerConfig) { c.HookSchedule = []time.Duration{time.Hour, time.Hour} })
	e := x.endpoint(everyEvent...)
	video := x.succeed("")
	first := x.claim(10, time.Hour)
	if len(first) != 1 || first[0].GetVideo().GetState() != videov1.VideoState_VIDEO_STATE_SUBMITTING || first[0].GetType() != "video.progressed" || first[0].GetVideo().GetArtifact() != nil {
		t.Fatalf("%v", first)
	}
	if again := x.claim(10, time.Hour); len(again) != 0 {
		t.Fatalf("claimed twice, or out of order: %v", again)
	}
	if v := x.report(first[0], 500, 2*time.Hour); v != "retried" {
		t.Error(v)
	}
	if d := x.delivery(first[0].GetId()).GetDelivery(); d.GetNextAttemptAt().AsTime().Before(time.Now().Add(2*time.Hour - time.Minute)) {
		t.Errorf("the endpoint asked for two hours: %v", d)
	}
	if again := x.claim(10, time.Hour); len(again) != 0 {
		t.Fatalf("%v came before its predecessor was taken", again)
	}
	x.hasten()
	second := x.claim(10, time.Microsecond) // which ends at once, as when its notifier dies
	if len(second) != 1 || second[0].GetId() != first[0].GetId() || second[0].GetAttempt() != 2 {
		t.Fatalf("%v", second)
	}
	var third []*webhookv1.Claim
	eventually(t, "the lease has ended", func() bool { third = x.claim(10, time.Hour); return len(third) > 0 })
	if len(third) != 1 || third[0].GetId() != first[0].GetId() || third[0].GetAttempt() != 3 {
		t.Fatalf("%v", third)
	}
	if v := x.report(second[0], 500, 0); v != "stale" {
		t.Error(v)
	}
	if v := x.report(second[0], 200, 0); v != "delivered" {
		t.Error(v)
	}
	if v := x.report(third[0], 500, 0); v != "stale" {
		t.Error(v)
	}
	for _, want := range []videov1.VideoState{videov1.VideoState_VIDEO_STATE_RUNNING, videov1.VideoState_VIDEO_STATE_STORING, videov1.VideoState_VIDEO_STATE_SUCCEEDED} {
		c := x.claim(10, time.Hour)
		if len(c) != 1 || c[0].GetVideo().GetState() != want || c[0].GetVideo().GetId() != video {
			t.Fatalf("%v, want %v", c, want)
		}
		if v := x.report(c[0], 204, 0); v != "delivered" {
			t.Error(v)
		}
	}
	if c := x.claim(10, time.Hour); len(c) != 0 || x.get(e.GetEndpoint().GetId()).GetPending() != 0 {
		t.Errorf("%v", c)
	}
	if r := x.delivery(first[0].GetId()); len(r.GetAttempts()) != 3 || r.GetDelivery().GetState() != webhookv1.DeliveryState_DELIVERY_STATE_DELIVERED {
		t.Errorf("%v", r)
	}
}

// A delivery is given up after its schedule, and replayed from its beginning.
func TestDeliveryGivenUpAndReplayed(t *testing.T) {
	t.Parallel()
	x := hook(t, func(c *ledgerConfig) { c.HookSchedule = []time.Duration{time.Hour} })
	e := x.endpoint()
	x.succeed("")
	for i, want := range []string{"retried", "failed"} {
		c := x.claim(1, time.Hour)
		if len(c) != 1 {
			t.Fatalf("attempt %d: %v", i+1, c)
		}
		if v := x.report(c[0], 302, 0); v != want {
			t.Errorf("attempt %d: %s", i+1, v)
		}
		x.hasten()
	}
	if c := x.claim(1, time.Hour); len(c) != 0 {
		t.Errorf("%v", c)
	}
	for _, q := range []struct {
		from, to time.Time
		want     int64
	}{{time.Now().Add(-2 * time.Hour), time.Now().Add(-time.Hour), 0}, {time.Now().Add(-time.Hour), time.Now().Add(time.Hour), 1}} {
		r, err := x.hooks.ReplayEndpoint(t.Context(), &webhookv1.ReplayEndpointRequest{AccountId: x.acct, Id: e.GetEndpoint().GetId(), OnlyFailed: true,
			From: timestamppb.New(q.from), To: timestamppb.New(q.to)})
		if err != nil || r.GetDeliveries() != q.want {
			t.Errorf("%v, %v; want %d", r, err, q.want)
		}
	}
	c := x.claim(1, time.Hour)
	if len(c) != 1 || c[0].GetAttempt() != 3 || x.report(c[0], 500, 0) != "retried" {
		t.Errorf("%v", c)
	}
}

// Each end is told by an event of its own, once, to who asked for it.
func TestEndsAreTold(t *testing.T) {
	t.Parallel()
	x := hook(t)
	x.endpoint() // every final event
	failures := x.endpoint("video.failed").GetEndpoint().GetId()
	want := map[string]string{}
	for event, end := range map[string]func(video string){
		"video.canceled": func(video string) {
			if _, err := x.jobs.CancelJob(t.Context(), &ledgerv1.CancelJobRequest{AccountId: x.acct, JobId: video}); err != nil {
				t.Fatal(err)
			}
		},
		"video.failed": func(video string) { x.observe(t, video, x.begin(t, video), "refused") },
		"video.needs_review": func(video string) {
			attempt := x.begin(t, video)
			x.observe(t, video, attempt, "timed_out")
			x.await(t, video, videov1.VideoState_VIDEO_STATE_NEEDS_REVIEW)
			x.observe(t, video, attempt, "timed_out") // again: nothing new
		},
	} {
		v, err := x.open(event)
		if err != nil {
			t.Fatal(err)
		}
		end(v.GetId())
		eventually(t, event, func() bool {
			r, err := x.jobs.GetJob(t.Context(), &ledgerv1.GetJobRequest{JobId: v.GetId()})
			return err == nil && r.GetVideo().GetCompletedAt() != nil
		})
		want[v.GetId()] = event
	}
	claims := x.claim(10, time.Hour)
	if len(claims) != 4 {
		t.Errorf("%d deliveries, want 3 to one endpoint and 1 to the other", len(claims))
	}
	for _, c := range claims {
		if c.GetType() != want[c.GetVideo().GetId()] || c.GetEndpointId() == failures && c.GetType() != "video.failed" {
			t.Errorf("%s of %s to %s", c.GetType(), c.GetVideo().GetId(), c.GetEndpointId())
		}
	}
}

// One that takes nothing for too long is disabled, with notice; its events wait for
// its owner.
func TestFailingEndpointIsDisabled(t *testing.T) {
	t.Parallel()
	x := hook(t, func(c *ledgerConfig) { c.HookPatience = time.Nanosecond })
	e := x.endpoint().GetEndpoint()
	videos := []string{x.succeed(""), x.succeed("")}
	first := x.claim(10, time.Hour)
	if len(first) != 2 {
		t.Fatalf("%v", first)
	}
	x.report(first[0], 500, 0)
	if got := x.get(e.GetId()); !got.GetEnabled() || got.GetFailingSince() == nil {
		t.Errorf("%v", got)
	}
	x.report(first[1], 0, 0)
	if got := x.get(e.GetId()); got.GetEnabled() || got.GetDisabledReason() != "failing" || got.GetPending() != 2 {
		t.Errorf("%v", got)
	}
	x.hasten()
	if c := x.claim(10, time.Hour); len(c) != 0 {
		t.Errorf("%v for a disabled endpoint", c)
	}
	stream, err := x.bus.JetStream().Stream(t.Context(), bus.StreamEvents)
	if err != nil {
		t.Fatal(err)
	}
	var notice eventv1.AccountNotice
	eventually(t, "the account is told", func() bool {
		m, err := stream.GetLastMsgForSubject(t.Context(), bus.NoticeSubject(x.acct))
		return err == nil && proto.Unmarshal(m.Data, &notice) == nil
	})
	if w := notice.GetWebhook(); w.GetEndpointId() != e.GetId() || w.GetReason() != "failing" || w.GetFailingSince() == nil {
		t.Errorf("%v", &notice)
	}
	test, err := x.hooks.TestEndpoint(t.Context(), &webhookv1.TestEndpointRequest{AccountId: x.acct, Id: e.GetId()})
	if err != nil {
		t.Fatal(err)
	}
	if c := x.claim(10, time.Hour); len(c) != 1 || c[0].GetId() != test.GetDelivery().GetId() || c[0].GetVideo() != nil || x.report(c[0], 200, 0) != "delivered" {
		t.Errorf("%v", c)
	}
	yes := true
	if _, err := x.hooks.UpdateEndpoint(t.Context(), &webhookv1.UpdateEndpointRequest{AccountId: x.acct, Id: e.GetId(), Enabled: &yes}); err != nil {
		t.Fatal(err)
	}
	var told []string
	for _, c := range x.claim(10, time.Hour) {
		told = append(told, c.GetVideo().GetId())
		if v := x.report(c, 200, 0); v != "delivered" {
			t.Error(v)
		}
	}
	slices.Sort(told)
	if !slices.Equal(told, videos) {
		t.Errorf("told of %v, want %v", told, videos)
	}
}

// So many at once to an endpoint, one to an endpoint that fails, and neither keeps
// another from its own.
func TestEndpointsHaveRoomOfTheirOwn(t *testing.T) {
	t.Parallel()
	x := hook(t)
	a, b := x.endpoint().GetEndpoint().GetId(), x.endpoint().GetEndpoint().GetId()
	for i := range 5 {
		x.succeed(fmt.Sprintf("https://host-%d.example/%d?token=x", i%2, i))
	}
	of := func(cs []*webhookv1.Claim) map[string]int {
		n := map[string]int{}
		for _, c := range cs {
			n[c.GetEndpointId()]++
		}
		return n
	}
	def := x.get("default").GetId()
	cs := x.claim(2, time.Hour)
	if n := of(cs); n[a] != 2 || n[b] != 2 || n[def] != 4 { // two of each host
		t.Fatalf("%v", n)
	}
	if more := x.claim(2, time.Hour); len(more) != 0 {
		t.Errorf("%v", of(more))
	}
	for _, c := range cs {
		switch {
		case c.GetEndpointId() == a:
			x.report(c, 503, time.Hour)
		case c.GetEndpointId() == def:
			if !strings.HasPrefix(c.GetUrl(), "https://host-") || !strings.HasSuffix(c.GetUrl(), "?token=x") {
				t.Error(c.GetUrl())
			}
			if v := x.report(c, 410, 0); v != "failed" {
				t.Error(v)
			}
		}
	}
	if n := of(x.claim(2, time.Hour)); n[a] != 1 || n[b] != 0 || n[def] != 1 {
		t.Errorf("%v", n)
	}
	if got := x.get(def); !got.GetEnabled() {
		t.Errorf("one callback's 410 disabled %v", got)
	}
	if n := x.count("select count(*) from webhook_callback"); n != 0 {
		t.Errorf("%d callbacks of finished jobs are kept", n)
	}
}

// Nothing of a secret, a header or a prompt lies open in the tables, what an
// erasure reaches is gone from the log, and the log has its age.
func TestWebhookTablesKeepSecrets(t *testing.T) {
	t.Parallel()
	x := hook(t, func(c *ledgerConfig) { c.RetainHooks = 24 * time.Hour })
	e := x.endpoint(everyEvent...)
	x.succeed("https://own.example/x")
	for range 5 {
		for _, c := range x.claim(10, time.Hour) {
			x.report(c, 200, 0)
		}
	}
	open := func(what string) int {
		return x.count(`select (select count(*) from webhook_endpoint r where r::text like $1 or encode(secret, 'escape') like $1 or encode(headers, 'escape') like $1)
			+ (select count(*) from webhook_delivery r where r::text like $1) + (select count(*) from webhook_attempt r where r::text like $1)`, "%"+what+"%")
	}
	if open("whsec_") != 0 || open("of-the-customer") != 0 || open(strings.TrimPrefix(e.GetSecret(), "whsec_")) != 0 {
		t.Error("a secret lies open")
	}
	if n := x.count("select count(*) from webhook_attempt where request_body <> ''"); n != 5 || open("to be forgotten") != 5 || open("own.example/x") != 1 {
		t.Fatalf("%d attempts are logged", n)
	}
	if _, err := x.erase.EraseUser(t.Context(), &ledgerv1.EraseUserRequest{AccountId: x.acct, User: "ann", Reason: "asked"}); err != nil {
		t.Fatal(err)
	}
	if open("to be forgotten") != 0 || open("own.example/x") != 0 || x.count("select count(*) from webhook_delivery") != 5 {
		t.Error("the erased prompt, or the video's own address, is in the log of deliveries")
	}
	if _, err := x.pool.Exec(t.Context(), `update webhook_delivery set id = 'msg_00000000' || substr(id, 13)`); err == nil {
		t.Fatal("attempts lost their delivery")
	}
	kept := x.succeed("")
	if _, err := x.pool.Exec(t.Context(), `delete from webhook_attempt; update webhook_delivery set id = 'msg_00000000' || substr(id, 13)`); err != nil {
		t.Fatal(err)
	}
	eventually(t, "what is old and over is removed", func() bool {
		return x.count("select count(*) from webhook_delivery where job_id <> $1", kept) == 0
	})
	if n := x.count("select count(*) from webhook_delivery where state = 'pending' and job_id = $1", kept); n != 4 {
		t.Errorf("%d of 4 that are still to be sent", n)
	}
}

// What belongs to another account is not found.
func TestWebhooksOfAnotherAccount(t *testing.T) {
	t.Parallel()
	x := hook(t)
	e := x.endpoint().GetEndpoint().GetId()
	x.succeed("")
	c := x.claim(1, time.Hour)
	if len(c) != 1 {
		t.Fatalf("%v", c)
	}
	made, err := x.accts.CreateAccount(t.Context(), &ledgerv1.CreateAccountRequest{Name: "another"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, other := t.Context(), made.GetAccountId()
	for name, call := range map[string]func() error{
		"get": func() error {
			_, err := x.hooks.GetEndpoint(ctx, &webhookv1.GetEndpointRequest{AccountId: other, Id: e})
			return err
		},
		"update": func() error {
			_, err := x.hooks.UpdateEndpoint(ctx, &webhookv1.UpdateEndpointRequest{AccountId: other, Id: e})
			return err
		},
		"delete": func() error {
			_, err := x.hooks.DeleteEndpoint(ctx, &webhookv1.DeleteEndpointRequest{AccountId: other, Id: e})
			return err
		},
		"rotate": func() error {
			_, err := x.hooks.RotateSecret(ctx, &webhookv1.RotateSecretRequest{AccountId: other, Id: e})
			return err
		},
		"test": func() error {
			_, err := x.hooks.TestEndpoint(ctx, &webhookv1.TestEndpointRequest{AccountId: other, Id: e})
			return err
		},
		"delivery": func() error {
			_, err := x.hooks.GetDelivery(ctx, &webhookv1.GetDeliveryRequest{AccountId: other, Id: c[0].GetId()})
			return err
		},
		"replay": func() error {
			_, err := x.hooks.ReplayDelivery(ctx, &webhookv1.ReplayDeliveryRequest{AccountId: other, Id: c[0].GetId()})
			return err
		},
		"replay all": func() error {
			_, err := x.hooks.ReplayEndpoint(ctx, &webhookv1.ReplayEndpointRequest{AccountId: other, Id: e, From: timestamppb.New(time.Unix(0, 0))})
			return err
		},
	} {
		if f := fault.FromStatus(call()); f == nil || f.Code != fault.NotFound {
			t.Errorf("%s: %v", name, f)
		}
	}
	l, err := x.hooks.ListDeliveries(ctx, &webhookv1.ListDeliveriesRequest{AccountId: other, EndpointId: e})
	if err != nil || len(l.GetDeliveries()) != 0 {
		t.Errorf("%v %v", l, err)
	}
	if d := x.get("default"); d.GetId() == "" || d.GetAccountId() != x.acct {
		t.Errorf("%v", d)
	}
}
