package reelway_test

import (
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"reelway.dev/pkg/fault"
	"reelway.dev/pkg/rpc"
	ledgerv1 "reelway.dev/proto/gen/reelway/ledger/v1"
	videov1 "reelway.dev/proto/gen/reelway/video/v1"
	webhookv1 "reelway.dev/proto/gen/reelway/webhook/v1"
	"reelway.dev/services/reelway"
)

// An operator looks at jobs of an account by every id that there is of them, with
// no key of the account's, and reads nothing that its callers wrote.
func TestInspect(t *testing.T) {
	t.Parallel()
	w := watchedStack(t, "REELWAY_SIMULATOR_RENDER=200ms")
	sh := shell{t, []string{"--server", w.GRPCAddr, "--key", w.AdminKey}}
	const secret = "a purple zebra"
	// look inspects a job, in words and as JSON.
	look := func(args []string, want ...string) string {
		t.Helper()
		args = append([]string{"inspect"}, args...)
		var whole map[string]any
		raw := sh.json(&whole, args...)
		out := sh.table(args, want...)
		if strings.Contains(out+raw, "zebra") {
			t.Errorf("%v tells the prompt:\n%s\n%s", args, out, raw)
		}
		return out
	}

	hook := "https://127.0.0.1:9/nobody?token=zebra"
	header := http.Header{"Traceparent": {"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"}}
	traced := post(t, w.Stack, header)
	w.ends(traced, videov1.VideoState_VIDEO_STATE_SUCCEEDED)
	look([]string{traced}, "trace 4bf92f3577b34da6a3ce929d0e0e4736", "prompt of 1 characters")

	var made struct{ Endpoint struct{ ID string } }
	sh.json(&made, "webhooks", "create", hook, "--account", w.AccountID)
	done := w.submitted("replicate-veo-3.1-fast", secret)
	v := w.ends(done, videov1.VideoState_VIDEO_STATE_SUCCEEDED)
	a := v.GetAttempts()[0]
	if want := "videos/" + w.AccountID + "/" + done + "/" + a.GetId() + "."; !strings.HasPrefix(v.GetArtifact().GetKey(), want) {
		t.Errorf("removals are looked for by a name that files do not have: %s, want %s…", v.GetArtifact().GetKey(), want)
	}
	out := look([]string{done}, "job "+done, "state succeeded, version", "account "+w.AccountID, "model replicate-veo-3.1-fast at replicate", "prompt of 14 characters", "captured",
		"file "+v.GetArtifact().GetKey(), "job opened", "money hold ", "available → held", "attempt 1 "+a.GetId()+" begun at replicate", "task "+a.GetProviderTaskId(),
		"rendered observed by ", "archived observed by archiver, applied", "money capture ", "held → revenue", "webhook video.completed is to reach "+made.Endpoint.ID,
		"next to give back what it cost", "reelway ledger refund --job "+done)
	last := -1
	for _, step := range []string{"opened", "begun at replicate", "rendered observed by", "over, succeeded", "archived observed by archiver", "held → revenue"} {
		at := strings.Index(out, step)
		if at < last || at < 0 {
			t.Errorf("%q is not in its place:\n%s", step, out)
		}
		last = at
	}
	soon(t, "the webhook's attempt is told", func() bool {
		_, out, _ := sh.run("inspect", done)
		return strings.Contains(out, " tries, pending, no answer: ") && strings.Contains(out, ", the next at ")
	})
	for _, by := range [][]string{{a.GetId()}, {a.GetProviderTaskId(), "--provider", "replicate"}} {
		look(by, "job "+done)
	}

	lost := w.submitted("replicate-veo-3.1-fast", secret+" [fault:rate_limit:1][fault:fail_halfway]")
	if got := w.ends(lost, videov1.VideoState_VIDEO_STATE_FAILED); len(got.GetAttempts()) != 2 {
		t.Fatalf("%v", got)
	}
	look([]string{lost}, "state failed", "0.800000 quoted, released", "attempt 1 over, refused: rate_limited", "attempt 2 over, failed, told by ", "job failed: ", "held → available")

	sh.table([]string{"providers", "pause", "kling", "--reason", "no balance"}, "paused")
	waits := w.submitted("kling-v2-6", secret)
	look([]string{waits}, "state queued", "quoted, held", "in the queue, 0 ahead; provider paused since", "no balance", "next an operator has paused its provider", "reelway providers resume kling")
	sh.table([]string{"maintenance", "on", "--reason", "a new disk"}, "on since")
	look([]string{waits}, "new videos are refused: a new disk; this job goes on")
	sh.table([]string{"maintenance", "off"}, "off")

	if _, err := w.video.DeleteVideo(as(t, w.APIKey), &videov1.DeleteVideoRequest{Id: done}); err != nil {
		t.Fatal(err)
	}
	look([]string{done}, "removed by its owner, at ", "file removed, ", "deleted by its owner")

	sh.fails(1, "no job has the id video_none", "inspect", "video_none")
	sh.fails(1, "no attempt has the id att_none", "inspect", "att_none")
	sh.fails(1, `to have the task "none"`, "inspect", "none", "--provider", "replicate")
	sh.fails(2, "a provider's task needs --provider", "inspect", "none")
	shell{t, []string{"--server", w.GRPCAddr, "--key", w.APIKey}}.fails(1, "admin", "inspect", done)
	conn, err := rpc.Dial(w.GRPCAddr)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	for key, want := range map[string]fault.Code{w.APIKey: fault.PermissionDenied, "rw_wrong_key_of_nobody": fault.Unauthenticated} {
		_, err := ledgerv1.NewInspectionServiceClient(conn).InspectJob(as(t, key), &ledgerv1.InspectJobRequest{By: &ledgerv1.InspectJobRequest_JobId{JobId: done}})
		if code(err) != want {
			t.Errorf("%v, want %s", err, want)
		}
	}
}

// What an operator is told to type about a job is there, in every state.
func TestNextCommandsExist(t *testing.T) {
	t.Parallel()
	now := time.Now()
	past, later := timestamppb.New(now.Add(-time.Hour)), timestamppb.New(now.Add(time.Hour))
	const q, s, r = videov1.VideoState_VIDEO_STATE_QUEUED, videov1.VideoState_VIDEO_STATE_SUBMITTING, videov1.VideoState_VIDEO_STATE_RUNNING
	live := func(state videov1.VideoState) *ledgerv1.InspectedJob {
		return &ledgerv1.InspectedJob{Id: "video_1", State: state, Provider: "kling", Model: "m", DeadlineAt: later, QuoteMicros: 5}
	}
	over := func(state videov1.VideoState) *ledgerv1.InspectedJob {
		j := live(state)
		j.CompletedAt, j.DeadlineAt = past, past
		return j
	}
	overdue, late, paid := live(r), over(videov1.VideoState_VIDEO_STATE_FAILED), over(videov1.VideoState_VIDEO_STATE_SUCCEEDED)
	overdue.DeadlineAt, late.LateResult, paid.CapturedMicros = past, true, 5
	pause := &ledgerv1.ProviderPause{Reason: "x", Since: past}
	delivery := func(state webhookv1.DeliveryState, disabled string) *ledgerv1.InspectedDelivery {
		return &ledgerv1.InspectedDelivery{EndpointDisabledReason: disabled, Delivery: &webhookv1.Delivery{Id: "msg_1", EndpointId: "whe_1", AccountId: "acct_1", State: state}}
	}
	refund := "reelway ledger refund --job video_1 --reason REASON"
	for name, c := range map[string]struct {
		r    *ledgerv1.InspectJobResponse
		want []string
	}{
		"provider paused":     {&ledgerv1.InspectJobResponse{Job: live(q), Waiting: &ledgerv1.Waiting{InQueue: true, Pause: pause}}, []string{"reelway providers resume kling"}},
		"model paused":        {&ledgerv1.InspectJobResponse{Job: live(q), Waiting: &ledgerv1.Waiting{Pause: pause, PauseOfModel: true}}, []string{"reelway providers resume kling --model m"}},
		"circuit open":        {&ledgerv1.InspectJobResponse{Job: live(q), Waiting: &ledgerv1.Waiting{Circuit: "open", CircuitOpenUntil: later}}, []string{"reelway providers list"}},
		"in the queue":        {&ledgerv1.InspectJobResponse{Job: live(q), Waiting: &ledgerv1.Waiting{InQueue: true}}, []string{"reelway providers list"}},
		"its turn has come":   {&ledgerv1.InspectJobResponse{Job: live(q), Waiting: &ledgerv1.Waiting{}}, []string{"reelway providers list"}},
		"submitting":          {&ledgerv1.InspectJobResponse{Job: live(s)}, []string{"reelway providers list"}},
		"uncertain":           {&ledgerv1.InspectJobResponse{Job: live(s), Attempts: []*ledgerv1.InspectedAttempt{{State: "uncertain", Current: true}}}, []string{"reelway providers list"}},
		"running":             {&ledgerv1.InspectJobResponse{Job: live(r)}, []string{"reelway providers list"}},
		"overdue":             {&ledgerv1.InspectJobResponse{Job: overdue}, []string{"reelway providers list", "reelway dead-letters list"}},
		"storing":             {&ledgerv1.InspectJobResponse{Job: live(videov1.VideoState_VIDEO_STATE_STORING)}, []string{"reelway doctor"}},
		"succeeded":           {&ledgerv1.InspectJobResponse{Job: paid}, []string{refund}},
		"succeeded, untold":   {&ledgerv1.InspectJobResponse{Job: paid, Deliveries: []*ledgerv1.InspectedDelivery{delivery(webhookv1.DeliveryState_DELIVERY_STATE_FAILED, "")}}, []string{refund, "reelway webhooks replay msg_1 --account acct_1"}},
		"succeeded, told":     {&ledgerv1.InspectJobResponse{Job: paid, Deliveries: []*ledgerv1.InspectedDelivery{delivery(webhookv1.DeliveryState_DELIVERY_STATE_DELIVERED, "gone")}}, []string{refund}},
		"endpoint disabled":   {&ledgerv1.InspectJobResponse{Job: paid, Deliveries: []*ledgerv1.InspectedDelivery{delivery(webhookv1.DeliveryState_DELIVERY_STATE_PENDING, "gone")}}, []string{refund, "reelway webhooks update whe_1 --account acct_1 --enable"}},
		"failed":              {&ledgerv1.InspectJobResponse{Job: over(videov1.VideoState_VIDEO_STATE_FAILED)}, nil},
		"failed, task late":   {&ledgerv1.InspectJobResponse{Job: late}, []string{"reelway ledger write-off --job video_1 --credits 0.000005 --reason INVOICE"}},
		"failed, written off": {&ledgerv1.InspectJobResponse{Job: late, Postings: []*ledgerv1.Posting{{Kind: "write_off"}}}, nil},
		"canceled":            {&ledgerv1.InspectJobResponse{Job: over(videov1.VideoState_VIDEO_STATE_CANCELED)}, nil},
		"expired":             {&ledgerv1.InspectJobResponse{Job: over(videov1.VideoState_VIDEO_STATE_EXPIRED)}, nil},
		"in review": {&ledgerv1.InspectJobResponse{Job: over(videov1.VideoState_VIDEO_STATE_NEEDS_REVIEW), Review: &ledgerv1.Review{OpenedAt: past}},
			[]string{"reelway ledger settle-suspense --job video_1 --as billed --reason INVOICE", "reelway ledger settle-suspense --job video_1 --as not-billed --reason INVOICE"}},
		"settled": {&ledgerv1.InspectJobResponse{Job: over(videov1.VideoState_VIDEO_STATE_NEEDS_REVIEW), Review: &ledgerv1.Review{OpenedAt: past, SettledAt: past}}, nil},
	} {
		got := reelway.NextCommands(c.r, now)
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
		for _, command := range got {
			if err := reelway.Understood(strings.Fields(command)[1:]); err != nil {
				t.Errorf("%s: %s: %v", name, command, err)
			}
		}
	}
}
