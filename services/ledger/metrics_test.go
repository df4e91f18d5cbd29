package ledger_test

import (
	"context"
	"strings"
	"testing"
	"time"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"reelway.dev/pkg/bus"
	eventv1 "reelway.dev/proto/gen/reelway/event/v1"
	videov1 "reelway.dev/proto/gen/reelway/video/v1"
)

// A webhook that comes in a trace of its own is linked to its job's, in which all
// that follows goes on; and its event tells when it came.
func TestWebhookLeadsBackIntoTheTraceOfItsJob(t *testing.T) {
	t.Parallel()
	x := setup(t, 5*price)
	v, err := x.open("")
	if err != nil {
		t.Fatal(err)
	}
	const own = "4bf92f3577b34da6a3ce929d0e0e4736"
	if _, err := x.pool.Exec(t.Context(), "update job set traceparent = $1 where id = $2", "00-"+own+"-00f067aa0ba902b7-01", v.GetId()); err != nil {
		t.Fatal(err)
	}
	a := x.begin(t, v.GetId())
	x.observe(t, v.GetId(), a, "accepted")
	x.await(t, v.GetId(), videov1.VideoState_VIDEO_STATE_RUNNING)
	rec := tracetest.NewSpanRecorder()
	ctx, span := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(rec)).Tracer("test").Start(t.Context(), "process observed")
	came := time.Now().Add(-time.Second).UTC().Truncate(time.Millisecond)
	for _, err := range x.svc.Observe([]context.Context{ctx}, []*eventv1.Observation{{Id: a + "-rendered", JobId: v.GetId(), AttemptId: a, Provider: "testprovider", Source: "webhook",
		ObservedAt: timestamppb.New(came), Fact: &eventv1.Observation_Rendered{Rendered: &eventv1.Rendered{Url: "https://result.example/x.mp4", ProviderTaskId: "task-" + a}}}}) {
		if err != nil {
			t.Error(err)
		}
	}
	span.End()
	x.await(t, v.GetId(), videov1.VideoState_VIDEO_STATE_STORING)
	if links := rec.Ended()[0].Links(); len(links) != 1 || links[0].SpanContext.TraceID().String() != own {
		t.Errorf("links: %+v", links)
	}
	stream, err := x.bus.JetStream().Stream(t.Context(), bus.StreamEvents)
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the event is in the job's trace", func() bool {
		m, err := stream.GetLastMsgForSubject(context.Background(), bus.EventSubject(x.acct, v.GetId(), "storing"))
		if err != nil {
			return false
		}
		var ev eventv1.JobEvent
		if err := proto.Unmarshal(m.Data, &ev); err != nil || !ev.GetHeardAt().AsTime().Equal(came) {
			t.Fatalf("%v %v", err, ev.GetHeardAt())
		}
		if got := m.Header.Get("traceparent"); !strings.Contains(got, own) {
			t.Fatalf("the event is in the trace %q", got)
		}
		return true
	})
}
