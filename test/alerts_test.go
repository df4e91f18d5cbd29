package test

import (
	"context"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"reelway.dev/pkg/bus"
	"reelway.dev/pkg/natstest"
)

// metric is the sum of the series of a metric that have all of the labels, given
// as name and value; of a histogram, what it counted.
func (s *stack) metric(name string, labels ...string) (sum float64) {
	s.t.Helper()
	f := s.scrape()[name]
series:
	for _, m := range f.GetMetric() {
		has := map[string]string{}
		for _, l := range m.GetLabel() {
			has[l.GetName()] = l.GetValue()
		}
		for i := 0; i < len(labels); i += 2 {
			if has[labels[i]] != labels[i+1] {
				continue series
			}
		}
		sum += m.GetGauge().GetValue() + m.GetCounter().GetValue() + float64(m.GetHistogram().GetSampleCount())
	}
	return sum
}

// moves waits until what an alert reads is on its firing side.
func (s *stack) moves(alert string, firing func() bool) {
	s.t.Helper()
	s.eventually(90*time.Second, alert+" would fire", firing)
}

// exec changes the live database behind the back of all.
func (s *stack) exec(statement string) {
	s.t.Helper()
	conn := s.connect()
	defer func() { _ = conn.Close(context.Background()) }()
	if _, err := conn.Exec(context.Background(), statement); err != nil {
		s.t.Fatal(err)
	}
}

// harm injects a fault into the simulated provider, for many calls; none ends it.
func (s *stack) harm(provider, fault, rest string) {
	s.t.Helper()
	resp, err := http.Post(s.sim.URL+"/admin/faults", "application/json", strings.NewReader(`{"provider":"`+provider+`","fault":"`+fault+`"`+rest+`}`))
	if err != nil {
		s.t.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode >= 300 {
		s.t.Fatalf("fault %s: %d", fault, resp.StatusCode)
	}
}

func (s *stack) order(model, prompt string) string {
	s.t.Helper()
	a := s.call(http.MethodPost, "/v1/videos", request(model, prompt))
	if a.status != http.StatusOK {
		s.t.Fatalf("%d %s", a.status, a.raw)
	}
	return a.video.ID
}

// The runbooks of faults at a provider were tried: each fault moves what its
// alert reads.
func TestAlertsOfProviders(t *testing.T) {
	t.Parallel()
	models := filepath.Join(t.TempDir(), "models.yaml")
	if err := os.WriteFile(models, []byte("[]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := setup(t, "REELWAY_BREAKER_FAILURES=2", "REELWAY_BREAKER_COOLDOWN=1h", "REELWAY_MODELS_FILES="+models, "REELWAY_MODELS_EVERY=100ms", "REELWAY_MAX_ATTEMPTS=2",
		"REELWAY_RUNWAY_URL=SIM/runway", "REELWAY_RUNWAY_KEY=simulated", "REELWAY_LUMA_URL=SIM/luma", "REELWAY_LUMA_AGENTS_URL=SIM/luma", "REELWAY_LUMA_KEY=simulated")

	// Lost webhooks: the watchdog's polls tell the verdicts.
	for range 4 {
		s.order("kling-v2-6", "x [fault:webhook_never]")
	}
	s.order("seedance-2.0", "x [fault:fail_halfway]")
	s.moves("ReelwayProviderFailing", func() bool {
		return s.metric("reelway_job_ended_total", "provider", "atlascloud", "state", "failed") > 0
	})
	stuck := s.order("kling-v2-6", "x [fault:unknown_word] [fault:webhook_never]")
	s.moves("ReelwayProviderApiChanged", func() bool { return s.metric("reelway_dispatcher_unknown_words_total", "provider", "kling") > 0 })

	// A job that nothing ends: its sweep looks away.
	var n int
	s.sql("with lost as (update job set deadline_at = now() - interval '1 day', swept_at = now() + interval '1 day' where id = '"+stuck+"' returning 1) select count(*) from lost", &n)
	s.moves("ReelwayJobsLost", func() bool { return s.metric("reelway_ledger_jobs_overdue") > 0 })
	s.sql("with old as (update job set created_at = now() - interval '31 hours' where id = '"+stuck+"' returning 1) select count(*) from old", &n)
	s.moves("ReelwayHoldsOld", func() bool { return s.metric("reelway_ledger_holds_age_seconds") > 108000 })

	if err := os.WriteFile(models, []byte("- colour: green\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s.moves("ReelwayModelsStale", func() bool { return s.metric("reelway_catalog_stale") == 1 })

	s.harm("atlascloud", "outage", `,"for":"10m"`)
	s.order("seedance-2.0", "x")
	s.order("seedance-2.0", "x")
	s.moves("ReelwayCircuitOpen", func() bool { return s.metric("reelway_dispatcher_circuit", "provider", "atlascloud") == 2 })
	s.moves("ReelwayProviderWebhooksMissing", func() bool {
		trust := s.metric("reelway_ledger_webhook_trust_percent", "provider", "kling")
		return trust > 0 && trust < 50
	})
	s.harm("kling", "bad_key", `,"for":"10m"`)
	s.order("kling-v2-6", "x")
	s.moves("ReelwayProviderKeyRefused", func() bool { return s.metric("reelway_dispatcher_key_benched", "provider", "kling") == 1 })
	s.order("gen-4.5", "x [fault:daily_limit]")
	s.moves("ReelwayProviderKeyRefused, at the limit of a day", func() bool { return s.metric("reelway_dispatcher_key_benched", "provider", "runway") == 1 })
	s.order("ray-3.2", "x [fault:budget_exhausted]")
	s.moves("ReelwayProviderKeyRefused, by a render's end", func() bool { return s.metric("reelway_dispatcher_key_benched", "provider", "luma") == 1 })
}

// The runbooks of the bus, the books and the doors were tried: each fault moves
// what its alert reads, and what is mended moves it back.
func TestAlertsOfServices(t *testing.T) {
	t.Parallel()
	nats := natstest.NewServer(t)
	s := setup(t, "REELWAY_NATS_URL="+nats.URL(), "REELWAY_RECONCILE_EVERY=1s", "REELWAY_MAX_RUNTIME=2s", "REELWAY_WEBHOOK_DISABLE_AFTER=1s")
	js := nats.Bus().JetStream()

	// A message that nobody can read, and a reader that does not read.
	if _, err := js.Publish(t.Context(), bus.ObservedSubject("kling", "video_x"), []byte("poison")); err != nil {
		t.Fatal(err)
	}
	s.moves("ReelwayDeadLetters", func() bool { return s.metric("reelway_bus_stream_messages", "stream", bus.StreamDead) > 0 })
	if _, err := js.CreateConsumer(t.Context(), bus.StreamEvents, jetstream.ConsumerConfig{Durable: "nobody", FilterSubject: "job.>", AckPolicy: jetstream.AckExplicitPolicy}); err != nil {
		t.Fatal(err)
	}
	s.await(60*time.Second, s.order("kling-v2-6", "x"))
	s.moves("ReelwayConsumerLag", func() bool { return s.metric("reelway_bus_consumer_pending", "consumer", "nobody") > 2 })
	size, limit := s.metric("reelway_bus_stream_size_bytes", "stream", bus.StreamEvents), s.metric("reelway_bus_stream_limit_bytes", "stream", bus.StreamEvents)
	if size <= 0 || size > limit {
		t.Errorf("the events take %v of %v bytes", size, limit)
	}

	// A provider that neither answers nor calls.
	s.order("kling-v2-6", "x [fault:unknown_word] [fault:webhook_never]")
	s.moves("ReelwayNeedsReview", func() bool { return s.metric("reelway_ledger_reviews") > 0 })

	// An endpoint that is gone.
	gone := receive(t)
	gone.answers(http.StatusGone, "")
	if a := s.call(http.MethodPost, "/v1/webhook_endpoints", map[string]any{"url": gone.url}); a.status >= 300 {
		t.Fatalf("%d %s", a.status, a.raw)
	}
	s.await(60*time.Second, s.order("kling-v2-6", "x"))
	s.moves("ReelwayWebhookEndpointDisabled", func() bool { return s.metric("reelway_webhook_disabled_endpoints") == 1 })

	// A balance that its postings do not make.
	s.moves("ReelwayBooksNotProven, when it is not", func() bool { return s.metric("reelway_ledger_reconcile_last_success_seconds") > 0 })
	var n int
	move := func(micros string) {
		s.sql("with moved as (update balance set available_micros = available_micros - "+micros+", held_micros = held_micros + "+micros+
			" where account_id = 'acct_development' returning 1) select count(*) from moved", &n)
	}
	move("1")
	s.moves("ReelwayBooksUnequal", func() bool { return s.metric("reelway_ledger_reconcile_violations") > 0 })
	move("-1")
	s.moves("ReelwayBooksUnequal, when they are mended", func() bool { return s.metric("reelway_ledger_reconcile_violations") == 0 })

	// A database that takes no writes of the books: requests fail, and so does what
	// providers say.
	id := s.order("kling-v2-6", "x")
	s.exec("alter table balance rename to balance_away")
	failed := func() float64 {
		return s.metric("http_server_request_duration_seconds", "http_route", "/v1/videos", "http_request_method", "POST", "http_response_status_code", "500")
	}
	s.moves("ReelwayAcceptBudgetBurn", func() bool {
		_, _ = s.try(http.MethodPost, "/v1/videos", request("kling-v2-6", "x"))
		return failed() > 0
	})
	s.moves("ReelwayRedeliveries", func() bool {
		return s.metric("reelway_bus_messages_total", "consumer", "ledger", "result", "redelivered") > 0
	})
	s.exec("alter table balance_away rename to balance")
	s.await(60*time.Second, id)

	// NATS goes away: nobody is ready, and what is committed waits.
	s.moves("ReelwayNotReady, when all is well", func() bool { return s.metric("reelway_ready") == 1 })
	nats.Stop()
	s.moves("ReelwayNotReady", func() bool { return s.metric("reelway_ready") == 0 })
	s.moves("a video is accepted without NATS", func() bool {
		a, err := s.try(http.MethodPost, "/v1/videos", request("kling-v2-6", "x"))
		return err == nil && a.status == http.StatusOK
	})
	s.moves("ReelwayOutboxLag", func() bool { return s.metric("reelway_ledger_outbox_age_seconds") > 1 })
	nats.Start()
	s.moves("ReelwayNotReady, when NATS is back", func() bool { return s.metric("reelway_ready") == 1 })
	s.moves("ReelwayOutboxLag, when NATS is back", func() bool { return s.metric("reelway_ledger_outbox_size", "state", "due") == 0 })
}

// Whoever watches makes the metric of the push's promise, webhook to watcher.
func TestPushIsMeasured(t *testing.T) {
	t.Parallel()
	s := setup(t)
	id := s.order("kling-v2-6", "x")
	if _, _, final := sse(t, s, id, "", 1000); !final {
		t.Fatal("no end was told")
	}
	s.moves("the promise of the push is measured", func() bool {
		return s.metric("reelway_push_webhook_latency_seconds", "transport", "sse") > 0 && s.metric("reelway_push_latency_seconds", "transport", "sse") > 1
	})
}
