package reelway_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"reelway.dev/pkg/bus"
	eventv1 "reelway.dev/proto/gen/reelway/event/v1"
	ledgerv1 "reelway.dev/proto/gen/reelway/ledger/v1"
	videov1 "reelway.dev/proto/gen/reelway/video/v1"
)

// A cancel that is asked for while no dispatcher lives is done by the next one,
// with the key that has the task, by its command or, where the bus lost that, by
// the next poll. It makes room for another task.
func TestCancelOutlivesTheDispatcher(t *testing.T) {
	t.Parallel()
	for name, lost := range map[string]bool{"the command waits": false, "the command is lost": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSending(t, 100*time.Hour, "max_running: 1\nkeys: [{name: a, key: one}, {name: b, key: two}]\n")
			open := func() string {
				r, err := s.jobs.OpenJob(s.live, &ledgerv1.OpenJobRequest{AccountId: s.acct, Provider: "replicate", QuoteMicros: 1000, CostMicros: 1_000_000, CostCurrency: "USD",
					RequestHash: make([]byte, 32), Params: &videov1.VideoParams{Model: "replicate-veo-3.1-fast", Prompt: "a harbour", DurationSeconds: 8, Resolution: "720p", AspectRatio: "16:9"}})
				if err != nil {
					t.Fatal(err)
				}
				return r.GetVideo().GetId()
			}
			read := func(id string) *videov1.Video {
				r, err := s.jobs.GetJob(s.live, &ledgerv1.GetJobRequest{JobId: id})
				if err != nil {
					t.Fatal(err)
				}
				return r.GetVideo()
			}
			first := open()
			b, err := s.jobs.BeginAttempt(s.live, &ledgerv1.BeginAttemptRequest{JobId: first, Provider: "replicate", MaxRunning: 1, Keys: []*ledgerv1.KeyOffer{{KeyId: "b"}}})
			if err != nil || !b.GetGranted() {
				t.Fatalf("%v, %v", b, err)
			}
			seen := &eventv1.Observation{JobId: first, AttemptId: b.GetAttemptId(), Provider: "replicate", Id: b.GetAttemptId() + "-accepted", Source: "submit", ObservedAt: timestamppb.Now(),
				Fact: &eventv1.Observation_Accepted{Accepted: &eventv1.Accepted{ProviderTaskId: s.render("two")}}}
			if err := s.bus.PublishObservation(s.live, seen); err != nil {
				t.Fatal(err)
			}
			s.until("it runs", func() bool { return read(first).GetState() == videov1.VideoState_VIDEO_STATE_RUNNING })
			if _, err := s.jobs.CancelJob(s.live, &ledgerv1.CancelJobRequest{AccountId: s.acct, JobId: first}); err != nil {
				t.Fatal(err)
			}
			jobs, err := s.bus.JetStream().Stream(s.live, bus.StreamJobs)
			if err != nil {
				t.Fatal(err)
			}
			s.until("the command is on the bus", func() bool {
				_, err := jobs.GetLastMsgForSubject(s.live, bus.CancelSubject("replicate"))
				return err == nil
			})
			if lost {
				if err := jobs.Purge(s.live); err != nil {
					t.Fatal(err)
				}
			}
			second := open()
			s.dispatcher("REELWAY_REPLICATE_URL="+s.sim.URL+"/replicate", "REELWAY_REPLICATE_KEYS_FILE="+s.keysFile)
			s.until("it is canceled", func() bool { return read(first).GetState() == videov1.VideoState_VIDEO_STATE_CANCELED })
			s.until("another has its room", func() bool { return read(second).GetState() == videov1.VideoState_VIDEO_STATE_RUNNING })
			states := map[string]int{}
			for _, x := range s.tasks() {
				states[x.State]++
			}
			if len(s.tasks()) != 2 || states["canceled"] != 1 {
				t.Errorf("the provider has %v", states)
			}
			if n := s.number("select count(*) from attempt where state = 'canceled' and ended_at is not null"); n != 1 {
				t.Errorf("%d attempts are canceled and ended", n)
			}
			if held := s.number(fmt.Sprintf("select held_micros::int from balance where account_id = '%s'", s.acct)); held != 1000 {
				t.Errorf("%d held, want the second one's alone", held)
			}
			if left := s.number(fmt.Sprintf("select (available_micros - (1::bigint << 50))::int from balance where account_id = '%s'", s.acct)); left != -1000 {
				t.Errorf("%d changed hands, want the second one's hold alone", left)
			}
		})
	}
}

// render has the simulated Replicate accept a task of one key, and returns its id.
func (s *sending) render(key string) string {
	s.t.Helper()
	req, err := http.NewRequest(http.MethodPost, s.sim.URL+"/replicate/v1/predictions", strings.NewReader(`{"version":"google/veo-3.1-fast","input":{"prompt":"a harbour"}}`))
	if err != nil {
		s.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+key)
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		s.t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	var out struct{ ID string }
	if err := json.NewDecoder(resp.Body).Decode(&out); err != nil || out.ID == "" {
		s.t.Fatalf("%d, %v", resp.StatusCode, err)
	}
	return out.ID
}
