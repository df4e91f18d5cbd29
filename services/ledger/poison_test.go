package ledger_test

import (
	"context"
	"strings"
	"testing"

	"google.golang.org/protobuf/types/known/timestamppb"

	"reelway.dev/pkg/bus"
	eventv1 "reelway.dev/proto/gen/reelway/event/v1"
	videov1 "reelway.dev/proto/gen/reelway/video/v1"
)

// publish sends an observation as an observer does.
func (x *bundle) publish(t *testing.T, o *eventv1.Observation) {
	t.Helper()
	o.Provider, o.ObservedAt = "testprovider", timestamppb.Now()
	if o.GetSource() == "" {
		o.Source = "test"
	}
	if err := x.bus.PublishObservation(context.Background(), o); err != nil {
		t.Fatal(err)
	}
}

// A message that the bus never takes is put aside: what comes after it goes on.
func TestOversizedMessageHoldsUpNobody(t *testing.T) {
	t.Parallel()
	x := setup(t, 5*price)
	v, err := x.open("")
	if err != nil {
		t.Fatal(err)
	}
	a := x.begin(t, v.GetId())
	x.publish(t, &eventv1.Observation{Id: a + "-refused", JobId: v.GetId(), AttemptId: a, Fact: &eventv1.Observation_Refused{Refused: &eventv1.Refused{
		Error: &videov1.VideoError{Code: "provider_rejected", Message: strings.Repeat("x", 700_000)}}}})
	x.await(t, v.GetId(), videov1.VideoState_VIDEO_STATE_FAILED)
	next, err := x.open("")
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the next job's event went out", func() bool {
		s, ok, err := x.bus.Status(context.Background(), next.GetId())
		return err == nil && ok && s.GetState() == videov1.VideoState_VIDEO_STATE_QUEUED
	})
	var parked int
	if err := x.pool.QueryRow(context.Background(), "select count(*) from outbox_parked").Scan(&parked); err != nil || parked != 1 {
		t.Errorf("%d messages are parked: %v", parked, err)
	}
}

// A verdict on another task is an alarm; it must not pass for the true one.
func TestContradictingVerdictDoesNotUseUpTheTrueOne(t *testing.T) {
	t.Parallel()
	x := setup(t, 5*price)
	v, err := x.open("")
	if err != nil {
		t.Fatal(err)
	}
	a := x.begin(t, v.GetId())
	x.observe(t, v.GetId(), a, "accepted")
	x.await(t, v.GetId(), videov1.VideoState_VIDEO_STATE_RUNNING)
	rendered := func(source, task string) *eventv1.Observation {
		return &eventv1.Observation{Id: a + "-rendered", JobId: v.GetId(), AttemptId: a, Source: source,
			Fact: &eventv1.Observation_Rendered{Rendered: &eventv1.Rendered{Url: "https://result.example/x.mp4", ProviderTaskId: task}}}
	}
	for _, err := range x.svc.Observe([]context.Context{t.Context(), t.Context()}, []*eventv1.Observation{rendered("webhook", "task-of-another"), rendered("poll", "task-"+a)}) {
		if err != nil {
			t.Error(err)
		}
	}
	x.await(t, v.GetId(), videov1.VideoState_VIDEO_STATE_STORING)
}

// What Postgres does not take ends in the dead letters at once, and its
// neighbours in the group are applied.
func TestUnstorableObservationIsDead(t *testing.T) {
	t.Parallel()
	x := setup(t, 5*price)
	v, err := x.open("")
	if err != nil {
		t.Fatal(err)
	}
	a := x.begin(t, v.GetId())
	x.publish(t, &eventv1.Observation{Id: a + "-nul", JobId: v.GetId(), AttemptId: a, Fact: &eventv1.Observation_Accepted{Accepted: &eventv1.Accepted{ProviderTaskId: "a\x00b"}}})
	x.observe(t, v.GetId(), a, "accepted")
	x.await(t, v.GetId(), videov1.VideoState_VIDEO_STATE_RUNNING)
	eventually(t, "a dead letter", func() bool {
		s, err := x.bus.JetStream().Stream(context.Background(), bus.StreamDead)
		return err == nil && s.CachedInfo().State.Msgs == 1
	})
}
