package test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"reelway.dev/pkg/fault"
	"reelway.dev/pkg/rpc"
	ledgerv1 "reelway.dev/proto/gen/reelway/ledger/v1"
	videov1 "reelway.dev/proto/gen/reelway/video/v1"
)

// One suite, run against all in one process and against separate processes: what
// one can do the other can.
var scenarios = map[string]func(t *testing.T, s *stack){
	"main job":                 mainJob,
	"failures release":         failuresRelease,
	"provider webhooks":        providerWebhooks,
	"unknown outcomes":         unknownOutcomes,
	"fallback":                 fallback,
	"pause":                    pausing,
	"retries of one request":   concurrentRetries,
	"events resume":            eventsResume,
	"web socket resumes":       webSocketResumes,
	"browser tokens":           browserTokens,
	"customer webhooks":        customerWebhooks,
	"usage and deletion":       usageAndDeletion,
	"OpenAI SDK":               openAISDK,
	"revoked key":              revokedKey,
	"nobody else's":            nobodyElses,
	"dead letters by operator": deadLettersByOperator,
}

const adminKey = "rw_admin_for_tests_0123456789012345678901234567890"

// paritySettings are the aliases of the suite, and a schedule that a test can wait for.
func paritySettings(t *testing.T) (ledger, dispatcher, intake []string) {
	return []string{"REELWAY_ADMIN_API_KEY=" + adminKey, "REELWAY_WATCH_AFTER=2s", "REELWAY_SWEEP_INTERVAL=500ms", "REELWAY_SWEEP_AFTER=3s", "REELWAY_PROGRESS_EVERY=50ms", "REELWAY_TYPICAL_RENDER=400ms", "REELWAY_ROUTE_ATTEMPTS=1"},
		[]string{"REELWAY_SUBMIT_TIMEOUT=2s", "REELWAY_POLL_INTERVAL=500ms", "REELWAY_BREAKER_FAILURES=50"},
		[]string{aliases(t, "- alias: two\n  routes: [{model: seedance-2.0}, {model: kling-v2-6}]\n- alias: spare\n  routes: [{model: seedance-1.5-pro}, {model: kling-v2-6}]\n")}
}

func TestAllInOne(t *testing.T) {
	t.Parallel()
	ledger, dispatcher, intake := paritySettings(t)
	s := setup(t, append(append(ledger, dispatcher...), intake...)...)
	everything(t, s)
	maintenance(t, s, func() {
		s.stop(syscall.SIGTERM)
		s.start()
	})
}

func TestDistributed(t *testing.T) {
	t.Parallel()
	ledger, dispatcher, intake := paritySettings(t)
	d := distribute(t, map[string][]string{"ledger": ledger, "dispatcher": dispatcher, "intake": intake,
		"archiver": {"REELWAY_VARIANTS=off", "REELWAY_ARCHIVE_PATIENCE=1s"}})
	everything(t, d.stack)
	maintenance(t, d.stack, func() {})
	loss(t, d)
}

// everything runs the scenarios side by side, each in an account of its own.
func everything(t *testing.T, s *stack) {
	t.Run("scenarios", func(t *testing.T) {
		for name, scenario := range scenarios {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				scenario(t, s.tenant(t))
			})
		}
	})
}

// operator is what administrators reach, in their name.
type operator struct {
	context.Context
	accounts    ledgerv1.AccountServiceClient
	credit      ledgerv1.LedgerServiceClient
	providers   ledgerv1.ProviderServiceClient
	maintenance ledgerv1.MaintenanceServiceClient
	video       videov1.VideoServiceClient // in the name of the stack's key
	asCaller    context.Context
}

func (s *stack) operator(t *testing.T) *operator {
	t.Helper()
	conn, err := rpc.Dial(s.grpc)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	as := func(key string) context.Context {
		return metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer "+key)
	}
	return &operator{as(adminKey), ledgerv1.NewAccountServiceClient(conn), ledgerv1.NewLedgerServiceClient(conn), ledgerv1.NewProviderServiceClient(conn),
		ledgerv1.NewMaintenanceServiceClient(conn), videov1.NewVideoServiceClient(conn), as(s.key)}
}

// tenant is the stack as a new account with its first credits sees it.
func (s *stack) tenant(t *testing.T) *stack {
	t.Helper()
	one := *s
	one.t = t
	op := s.operator(t)
	a, err := op.accounts.CreateAccount(op, &ledgerv1.CreateAccountRequest{Name: t.Name()})
	if err != nil {
		t.Fatal(err)
	}
	k, err := op.accounts.CreateAPIKey(op, &ledgerv1.CreateAPIKeyRequest{AccountId: a.GetAccountId(), Scopes: []string{"videos:read", "videos:write", "billing:read"}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := op.credit.TopUp(op, &ledgerv1.TopUpRequest{AccountId: a.GetAccountId(), AmountMicros: first, IdempotencyKey: "first"}); err != nil {
		t.Fatal(err)
	}
	one.key, one.keyID = k.GetApiKey(), k.GetKeyId()
	return &one
}

// made opens a video that has to be accepted.
func (s *stack) made(model, prompt string) string {
	s.t.Helper()
	a := s.call(http.MethodPost, "/v1/videos", request(model, prompt))
	if a.status != http.StatusOK {
		s.t.Fatalf("%s: %d %s", model, a.status, a.raw)
	}
	return a.video.ID
}

// ended are videos that have to end in a state, with one task each at the most.
func (s *stack) ended(state string, tasks int, ids ...string) {
	s.t.Helper()
	for _, id := range ids {
		v := s.await(90*time.Second, id)
		if n := len(s.tasks(id)); v.State != state || n != tasks {
			s.t.Errorf("%s is %s with %d tasks, want %s with %d: %+v", id, v.State, n, state, tasks, v)
		}
	}
}

// mainJob is submit, webhook, store and push.
func mainJob(t *testing.T, s *stack) {
	for model, price := range map[string]int64{"seedance-2.0": atlas, "kling-v2-6": kling} {
		id := s.made(model, "a paper boat")
		if events, _, final := sse(t, s, id, "", 1000); !final || !strings.HasPrefix(events[len(events)-1], "succeeded") {
			t.Errorf("told of %v", events)
		}
		s.ended("succeeded", 1, id)
		v := s.call(http.MethodGet, "/v1/videos/"+id, nil).video
		if v.Cost.CapturedMicros != price || v.Artifact.Width != 1280 || v.Artifact.DurationMS != 5000 {
			t.Errorf("%+v", v)
		}
		if a := s.call(http.MethodGet, "/v1/videos/"+id+"/content", nil); a.status != http.StatusOK || int64(len(a.raw)) != v.Artifact.Bytes {
			t.Errorf("content: %d, %d bytes", a.status, len(a.raw))
		}
	}
	if a := s.call(http.MethodPost, "/v1/videos", request("gen-4.5", "x")); a.status != http.StatusBadRequest || a.fault.Fields[0].Name != "model" {
		t.Errorf("a model that nobody dispatches: %d %s", a.status, a.raw)
	}
	s.books(first - atlas - kling)
}

func failuresRelease(_ *testing.T, s *stack) {
	policy, halfway, empty := s.made("kling-v2-6", "x [fault:policy]"), s.made("seedance-2.0", "x [fault:fail_halfway]"), s.made("kling-v2-6", "x [fault:empty_result]")
	s.ended("failed", 0, policy)
	s.ended("failed", 1, halfway, empty)
	s.books(first)
}

// providerWebhooks never come, come twice, too early, late, or are forged.
func providerWebhooks(t *testing.T, s *stack) {
	var ids []string
	left := int64(first)
	for _, fault := range []string{"webhook_never", "webhook_twice", "webhook_before_response", "webhook_out_of_order", "webhook_bad_signature"} {
		ids = append(ids, s.made("seedance-2.0", "x [fault:"+fault+"]"), s.made("kling-v2-6", "x [fault:"+fault+"]"))
		left -= atlas + kling
	}
	if a := s.call(http.MethodPost, "/v1/callbacks/kling/"+ids[1]+"?attempt=att_x&token=x", `{}`); a.status != http.StatusUnauthorized {
		t.Errorf("a forged callback: %d %s", a.status, a.raw)
	}
	s.ended("succeeded", 1, ids...)
	s.books(left)
}

// unknownOutcomes are of submits without an answer: never a second task.
func unknownOutcomes(_ *testing.T, s *stack) {
	s.ended("succeeded", 1, s.made("kling-v2-6", "x [fault:hang_after_accept]"), s.made("seedance-2.0", "x [fault:reset_after_accept]"))
	s.books(first - atlas - kling)
}

func fallback(t *testing.T, s *stack) {
	id := s.made("two", "x [fault:error500]")
	s.ended("succeeded", 1, id)
	if v := s.call(http.MethodGet, "/v1/videos/"+id, nil).video; v.Provider != "kling" || v.Attempts[0].Provider != "atlascloud" || v.Cost.CapturedMicros != kling {
		t.Errorf("%+v", v)
	}
	s.books(first - kling)
}

// pausing: nothing is submitted of a paused model. Its jobs wait, those of an
// alias go elsewhere, and with an end that is known requests are refused.
func pausing(t *testing.T, s *stack) {
	const model = "seedance-1.5-pro"
	op := s.operator(t)
	pause := &ledgerv1.PauseProviderRequest{Provider: "atlascloud", Model: model, Reason: "their bill is wrong"}
	if _, err := op.providers.PauseProvider(op, &ledgerv1.PauseProviderRequest{Provider: "atlascloud", Model: "kling-v2-6", Reason: "x"}); fault.FromStatus(err).Code != fault.InvalidRequest {
		t.Errorf("a model of another provider: %v", err)
	}
	if p, err := op.providers.PauseProvider(op, pause); err != nil || p.GetPause().GetReason() != pause.GetReason() {
		t.Fatalf("%v %v", p, err)
	}
	spent := int64(0)
	waits := ""
	s.eventually(patience, "every replica knows of the pause", func() bool {
		waits = s.made(model, "x")
		s.ended("succeeded", 1, s.made("kling-v2-6", "x"))
		spent += kling
		if v := s.call(http.MethodGet, "/v1/videos/"+waits, nil).video; v.State == "queued" && len(v.Attempts) == 0 {
			return true
		}
		s.ended("succeeded", 1, waits)
		spent += seedance1
		return false
	})
	spare := s.made("spare", "x")
	if v := s.call(http.MethodGet, "/v1/videos/"+spare, nil).video; v.Provider != "kling" {
		t.Errorf("opened as %+v", v)
	}
	s.ended("succeeded", 1, spare)
	spent += kling
	canceled := s.made(model, "x")
	if a := s.call(http.MethodPost, "/v1/videos/"+canceled+"/cancel", nil); a.status != http.StatusOK || a.video.State != "canceled" {
		t.Errorf("cancel: %d %s", a.status, a.raw)
	}
	shown := func() (p *ledgerv1.ProviderPause) {
		r, err := op.providers.ListProviders(op, &ledgerv1.ListProvidersRequest{})
		if err != nil {
			t.Fatal(err)
		}
		for _, x := range r.GetProviders() {
			for _, m := range x.GetModels() {
				if m.GetModel() == model {
					p = m.GetPause()
				}
			}
		}
		return p
	}
	if p := shown(); p.GetReason() != pause.GetReason() || p.GetUntil() != nil {
		t.Errorf("shown as %v", p)
	}

	pause.Until = timestamppb.New(time.Now().Add(time.Hour))
	if _, err := op.providers.PauseProvider(op, pause); err != nil {
		t.Fatal(err)
	}
	s.eventually(patience, "a request is refused until the pause ends", func() bool {
		a := s.call(http.MethodPost, "/v1/videos", request(model, "x"))
		if a.status == http.StatusOK {
			s.call(http.MethodPost, "/v1/videos/"+a.video.ID+"/cancel", nil)
			return false
		}
		after, err := strconv.Atoi(a.header.Get("Retry-After"))
		if a.status != http.StatusServiceUnavailable || a.fault.Code != "provider_unavailable" || !a.fault.Retryable || err != nil || after < 3000 || after > 3600 || !strings.Contains(a.fault.Message, pause.GetReason()) {
			t.Fatalf("%d %v %s", a.status, a.header, a.raw)
		}
		return true
	})
	if v := s.call(http.MethodGet, "/v1/videos/"+waits, nil).video; v.State != "queued" || len(s.tasks(waits)) != 0 {
		t.Errorf("while it is paused: %+v", v)
	}
	if _, err := op.providers.ResumeProvider(op, &ledgerv1.ResumeProviderRequest{Provider: "atlascloud", Model: model}); err != nil {
		t.Fatal(err)
	}
	s.ended("succeeded", 1, waits)
	spent += seedance1
	s.ended("canceled", 0, canceled)
	if p := shown(); p != nil {
		t.Errorf("after the pause: %v", p)
	}
	audited(t, op, "provider.pause", "provider.resume")
	s.books(first - spent)
}

// everyReplica reports whether requests that follow each other, and so go to one
// replica after the other, all have an answer.
func everyReplica(answer func() int, want int) bool {
	for range 4 {
		if answer() != want {
			return false
		}
	}
	return true
}

func audited(t *testing.T, op *operator, actions ...string) {
	t.Helper()
	r, err := op.accounts.ListAuditEntries(op, &ledgerv1.ListAuditEntriesRequest{Limit: 100})
	if err != nil {
		t.Fatal(err)
	}
	for _, action := range actions {
		found := false
		for _, e := range r.GetEntries() {
			found = found || e.GetAction() == action && e.GetActor() != ""
		}
		if !found {
			t.Errorf("%s is not in the audit log", action)
		}
	}
}

func browserTokens(t *testing.T, s *stack) {
	body := request("kling-v2-6", "x")
	body["user"] = "alice"
	id := s.call(http.MethodPost, "/v1/videos", body).video.ID
	token := s.token(map[string]any{"user": "alice"})
	answer := func() int {
		resp, err := http.Get(s.base + "/v1/videos/" + id + "/events?token=" + token.Token)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		return resp.StatusCode
	}
	if got := answer(); got != http.StatusOK {
		t.Errorf("with a token: %d", got)
	}
	if a := s.call(http.MethodDelete, "/v1/realtime/tokens/"+token.ID, nil); a.status != http.StatusOK {
		t.Errorf("%d %s", a.status, a.raw)
	}
	s.eventually(patience, "no replica takes the token", func() bool { return everyReplica(answer, http.StatusUnauthorized) })
	s.ended("succeeded", 1, id)
	s.books(first - kling)
}

func customerWebhooks(t *testing.T, s *stack) {
	own := receive(t)
	def := rest[endpoint](s, http.MethodPost, "/v1/webhook_endpoints/default/rotate_secret", map[string]any{"overlap_seconds": 0})
	var ids []string
	for range 4 {
		ids = append(ids, s.submit(own.url))
	}
	for _, id := range ids {
		s.eventually(patience, "the end of "+id+" is told", func() bool { return own.completed(id) > 0 })
		if mine := own.of(id); len(mine) != 1 || verify(t, mine[0], def.Secret) != nil || mine[0].event.Data.URL == "" {
			t.Errorf("%s: %+v", id, mine)
		}
	}
	s.books(first - 4*kling)
}

func usageAndDeletion(t *testing.T, s *stack) {
	kept, gone := s.made("seedance-2.0", "x"), s.made("seedance-2.0", "x")
	s.ended("succeeded", 1, kept, gone)
	link := s.call(http.MethodGet, "/v1/videos/"+gone, nil).video.URL
	fetched := func() int {
		resp, err := http.Get(link)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		return resp.StatusCode
	}
	if got := fetched(); got != http.StatusOK {
		t.Errorf("before it is deleted: %d", got)
	}
	if a := s.call(http.MethodDelete, "/v1/videos/"+gone, nil); a.status != http.StatusOK {
		t.Fatalf("delete: %d %s", a.status, a.raw)
	}
	if a := s.call(http.MethodGet, "/v1/videos/"+gone, nil); a.status != http.StatusNotFound {
		t.Errorf("a deleted video: %d %s", a.status, a.raw)
	}
	s.eventually(patience, "its file is gone", func() bool { return fetched() == http.StatusNotFound })
	var u struct {
		Data []struct {
			Succeeded   int64
			SpendMicros int64 `json:"spend_micros"`
		}
	}
	if a := s.call(http.MethodGet, "/v1/usage?group_by=model", nil); json.Unmarshal(a.raw, &u) != nil || len(u.Data) != 1 || u.Data[0].Succeeded != 2 || u.Data[0].SpendMicros != 2*atlas {
		t.Errorf("usage: %d %s", a.status, a.raw)
	}
	s.books(first - 2*atlas)
}

func revokedKey(t *testing.T, s *stack) {
	op := s.operator(t)
	id := s.made("kling-v2-6", "x")
	s.ended("succeeded", 1, id)
	s.books(first - kling)
	if _, err := op.accounts.RevokeAPIKey(op, &ledgerv1.RevokeAPIKeyRequest{KeyId: s.keyID}); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"/v1/videos", "/v1/videos/" + id + "/events"} {
		s.eventually(patience, "no replica takes the key for "+path, func() bool {
			return everyReplica(func() int { return s.call(http.MethodGet, path, nil).status }, http.StatusUnauthorized)
		})
	}
}

// nobodyElses is what an account cannot see of another.
func nobodyElses(t *testing.T, s *stack) {
	id := s.made("kling-v2-6", "x")
	other := s.tenant(t)
	for _, path := range []string{"/v1/videos/" + id, "/v1/videos/" + id + "/content", "/v1/videos/" + id + "/events"} {
		if a := other.call(http.MethodGet, path, nil); a.status != http.StatusNotFound {
			t.Errorf("%s: %d %s", path, a.status, a.raw)
		}
	}
	if a := other.call(http.MethodPost, "/v1/videos/"+id+"/cancel", nil); a.status != http.StatusNotFound {
		t.Errorf("cancel: %d %s", a.status, a.raw)
	}
	s.ended("succeeded", 1, id)
	other.books(first)
}

func deadLettersByOperator(t *testing.T, s *stack) {
	if a := s.call(http.MethodGet, "/v1/dead_letters", nil); a.status != http.StatusForbidden {
		t.Errorf("as a caller: %d %s", a.status, a.raw)
	}
	admin := []string{"Authorization", "Bearer " + adminKey}
	var list struct {
		Object string
		Data   []struct{ ID, Consumer, Reason string }
	}
	if a := s.call(http.MethodGet, "/v1/dead_letters?limit=5", nil, admin...); a.status != http.StatusOK || json.Unmarshal(a.raw, &list) != nil || list.Object != "list" {
		t.Errorf("%d %s", a.status, a.raw)
	}
	if a := s.call(http.MethodGet, "/v1/dead_letters?limit=0&after=x", nil, admin...); a.status != http.StatusBadRequest || len(a.fault.Fields) != 2 {
		t.Errorf("%d %s", a.status, a.raw)
	}
	for _, id := range []string{"999999999", "x"} {
		if a := s.call(http.MethodPost, "/v1/dead_letters/"+id+"/replay", nil, admin...); a.status != http.StatusNotFound {
			t.Errorf("%s: %d %s", id, a.status, a.raw)
		}
	}
}

// maintenance refuses what is new, answers for what was accepted, and outlives a
// restart.
func maintenance(t *testing.T, all *stack, restart func()) {
	s := all.tenant(t)
	op := s.operator(t)
	body := request("seedance-2.0", "x")
	before := s.call(http.MethodPost, "/v1/videos", body, "Idempotency-Key", "before")
	if before.status != http.StatusOK {
		t.Fatalf("%d %s", before.status, before.raw)
	}
	if m, err := op.maintenance.StartMaintenance(op, &ledgerv1.StartMaintenanceRequest{Reason: "the database moves", RetryAfter: durationpb.New(10 * time.Minute)}); err != nil || m.GetMaintenance().GetSince() == nil {
		t.Fatalf("%v %v", m, err)
	}
	accepted := []string{before.video.ID}
	refused := func() {
		t.Helper()
		s.eventually(patience, "every replica refuses", func() bool {
			for range 4 {
				a := s.call(http.MethodPost, "/v1/videos", body)
				if a.status == http.StatusOK {
					accepted = append(accepted, a.video.ID)
					return false
				}
				if a.status != http.StatusServiceUnavailable || a.fault.Code != "unavailable" || a.header.Get("Retry-After") != "600" || a.header.Get("X-Should-Retry") != "true" ||
					!strings.Contains(a.fault.Message, "maintenance: the database moves") {
					t.Fatalf("%d %v %s", a.status, a.header, a.raw)
				}
			}
			return true
		})
	}
	refused()
	_, err := op.video.CreateVideo(op.asCaller, &videov1.CreateVideoRequest{Video: &videov1.VideoRequest{Model: "seedance-2.0", Prompt: "x"}})
	if f := fault.FromStatus(err); status.Code(err) != codes.Unavailable || f.RetryAfter != 10*time.Minute || !f.Retryable {
		t.Errorf("over gRPC: %v", err)
	}
	if a := s.call(http.MethodPost, "/v1/videos", body, "Idempotency-Key", "before"); a.status != http.StatusOK || a.video.ID != accepted[0] {
		t.Errorf("a retry of what was accepted: %d %s", a.status, a.raw)
	}
	if a := s.call(http.MethodPost, "/v1/videos:quote", body); a.status != http.StatusOK {
		t.Errorf("a quote: %d %s", a.status, a.raw)
	}
	s.ended("succeeded", 1, accepted...)
	s.eventually(patience, "all is drained", func() bool {
		r, err := op.maintenance.GetMaintenance(op, &ledgerv1.GetMaintenanceRequest{})
		if err != nil {
			t.Fatal(err)
		}
		return r.GetMaintenance() != nil && r.GetLiveJobs() == 0
	})
	restart()
	refused()
	op = s.operator(t) // the restart has cut the connection
	if _, err := op.maintenance.EndMaintenance(op, &ledgerv1.EndMaintenanceRequest{}); err != nil {
		t.Fatal(err)
	}
	s.eventually(patience, "a video is accepted", func() bool {
		a := s.call(http.MethodPost, "/v1/videos", body)
		if a.status == http.StatusOK {
			accepted = append(accepted, a.video.ID)
		}
		return a.status == http.StatusOK
	})
	s.ended("succeeded", 1, accepted...)
	audited(t, op, "maintenance.start", "maintenance.end")
	s.books(first - int64(len(accepted))*atlas)
}

// loss kills a replica of each service, and the leading NATS server, under load.
func loss(t *testing.T, d *distributed) {
	s := d.tenant(t)
	const jobs = 24
	ids := make([]string, jobs)
	begun := make(chan struct{}, jobs)
	var wg sync.WaitGroup
	for i := range jobs {
		wg.Go(func() {
			pause := time.NewTicker(100 * time.Millisecond)
			defer pause.Stop()
			limit := time.After(2 * time.Minute)
			for {
				a, err := s.try(http.MethodPost, "/v1/videos", request([]string{"seedance-2.0", "kling-v2-6"}[i%2], "x"), "Idempotency-Key", fmt.Sprint("order-", i))
				select {
				case begun <- struct{}{}:
				default:
				}
				if err == nil && a.status == http.StatusOK {
					ids[i] = a.video.ID
					return
				}
				if err == nil && a.status < 500 {
					t.Errorf("%d %s", a.status, a.raw)
					return
				}
				select {
				case <-limit:
					t.Errorf("video %d was never accepted: %d %s, %v", i, a.status, a.raw, err)
					return
				case <-pause.C:
				}
			}
		})
	}
	for range jobs / 2 {
		<-begun
	}
	d.lose()
	wg.Wait()
	var left int64 = first
	for i, id := range ids {
		v := s.await(2*time.Minute, id)
		if n := len(s.tasks(id)); v.State != "succeeded" || n != 1 {
			t.Errorf("%s is %s with %d tasks: %+v", id, v.State, n, v)
		}
		left -= []int64{atlas, kling}[i%2]
	}
	d.ready(time.Minute)
	s.books(left)
}
