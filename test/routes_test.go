package test

import (
	"context"
	"encoding/json"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/metadata"

	"reelway.dev/pkg/rpc"
	"reelway.dev/pkg/videojson"
	videov1 "reelway.dev/proto/gen/reelway/video/v1"
)

const (
	klingSound = 420_000 // kling-v2-6, 5 s, 720p, with sound
	seedance1  = 300_000 // seedance-1.5-pro, 5 s, 720p
)

// aliases writes a file of aliases.
func aliases(t *testing.T, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "routes.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return "REELWAY_ROUTES_FILE=" + file
}

// fault sets a fault of the next calls to Atlas Cloud.
func (s *stack) fault(name string, count int) {
	s.t.Helper()
	raw, err := json.Marshal(map[string]any{"provider": "atlascloud", "fault": name, "count": count})
	if err != nil {
		s.t.Fatal(err)
	}
	resp, err := http.Post(s.sim.URL+"/admin/faults", "application/json", strings.NewReader(string(raw)))
	if err != nil {
		s.t.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		s.t.Fatalf("set fault: %d", resp.StatusCode)
	}
}

// Nobody answers at the first provider: the second makes every video, and its
// price is what the customer pays, though the dearer one's was held. Once the
// first one's circuit is open, jobs do not even wait for it.
func TestProviderThatIsDownIsFallenBackFrom(t *testing.T) {
	t.Parallel()
	s := setup(t, "REELWAY_KLING_URL=http://"+freePort(t), "REELWAY_BREAKER_COOLDOWN=1h", aliases(t, `
- alias: resilient
  routes: [{model: kling-v2-6}, {model: seedance-1.5-pro}]
`))
	// The first model takes no seed, the second makes no sound.
	body := request("resilient", "a boat")
	body["seed"], body["audio"], body["optional"] = 7, true, []string{"seed", "audio"}
	var q struct {
		Route  string
		Total  int64 `json:"total_micros"`
		Routes []struct {
			Model, Provider string
			Price           int64 `json:"price_micros"`
			Dropped         []string
		}
	}
	a := s.call(http.MethodPost, "/v1/videos:quote", body)
	if err := json.Unmarshal(a.raw, &q); err != nil || q.Route != "resilient" || q.Total != klingSound || len(q.Routes) != 2 || q.Routes[0].Price != klingSound ||
		len(q.Routes[0].Dropped) != 1 || q.Routes[0].Dropped[0] != "seed" || q.Routes[1].Price != seedance1 || len(q.Routes[1].Dropped) != 1 || q.Routes[1].Dropped[0] != "audio" {
		t.Fatalf("quote: %d %s", a.status, a.raw)
	}
	const videos = 8
	var ids []string
	for i := range videos {
		if i == 1 {
			s.await(60*time.Second, ids[0]) // the circuit is closed still
		}
		a := s.call(http.MethodPost, "/v1/videos", body)
		if a.status != http.StatusOK || a.video.Route != "resilient" || a.video.Provider != "kling" || a.video.Cost.HeldMicros != klingSound || len(a.video.Dropped) != 1 {
			t.Fatalf("opened as %d %s", a.status, a.raw)
		}
		ids = append(ids, a.video.ID)
	}
	asked := 0
	for _, id := range ids {
		v := s.await(60*time.Second, id)
		if v.State != "succeeded" || v.Provider != "atlascloud" || v.Model != "seedance-1.5-pro" || v.Cost.CapturedMicros != seedance1 || len(v.Dropped) != 1 || v.Dropped[0] != "audio" {
			t.Errorf("%s ended as %+v", id, v)
		}
		n := len(v.Attempts)
		if n < 1 || n > 3 || v.Attempts[n-1].Provider != "atlascloud" || v.Attempts[n-1].CostMicros != seedance1 || id == ids[0] && n != 3 {
			t.Fatalf("%s was attempted as %+v", id, v.Attempts)
		}
		for _, a := range v.Attempts[:n-1] {
			if a.Model != "kling-v2-6" || a.State != "refused" || a.CostMicros != 0 || a.PriceMicros != klingSound || len(a.Dropped) != 1 {
				t.Errorf("%s was attempted as %+v", id, a)
			}
			asked++
		}
		if n := len(s.tasks(id)); n != 1 {
			t.Errorf("the providers have %d tasks of %s", n, id)
		}
	}
	if asked >= 2*videos {
		t.Errorf("a provider whose circuit is open was asked %d times", asked)
	}
	s.books(first - videos*seedance1)

	conn, err := rpc.Dial(s.grpc)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	client, ctx := videov1.NewVideoServiceClient(conn), metadata.AppendToOutgoingContext(context.Background(), "authorization", "Bearer "+key)
	g, err := client.GetVideo(ctx, &videov1.GetVideoRequest{Id: ids[0]})
	if as := g.GetVideo().GetAttempts(); err != nil || len(as) != 3 || as[2].GetModel() != "seedance-1.5-pro" || as[2].GetCapturedMicros() != seedance1 || as[0].GetPriceMicros() != klingSound || as[0].GetDropped()[0] != "seed" {
		t.Errorf("over gRPC: %v, %v", g, err)
	}
	quote, err := client.QuoteVideo(ctx, &videov1.QuoteVideoRequest{Video: &videov1.VideoRequest{Route: "resilient", Prompt: "a boat"}})
	if err != nil || len(quote.GetRoutes()) != 2 || quote.GetTotalMicros() != seedance1 || quote.GetRoutes()[0].GetPriceMicros() != kling {
		t.Errorf("quote over gRPC: %v, %v", quote, err)
	}
}

// A provider that refuses is fallen back from; one of which nobody knows whether
// it has the task, or whose content policy refused it, is not.
func TestOnlyADefiniteRefusalFallsBack(t *testing.T) {
	t.Parallel()
	s := setup(t, "REELWAY_SUBMIT_TIMEOUT=2s", "REELWAY_MAX_RUNTIME=20s", aliases(t, `
- alias: two
  routes: [{model: seedance-2.0}, {model: kling-v2-6}]
`))
	open := func() string {
		a := s.call(http.MethodPost, "/v1/videos", request("two", "a boat"))
		if a.status != http.StatusOK {
			t.Fatalf("%d %s", a.status, a.raw)
		}
		return a.video.ID
	}
	s.fault("hang", 1)
	unknown := open()
	s.eventually(30*time.Second, "the outcome is unknown", func() bool {
		v := s.call(http.MethodGet, "/v1/videos/"+unknown, nil).video
		return len(v.Attempts) == 1 && v.Attempts[0].State == "uncertain"
	})
	s.fault("policy", 1)
	policy := open()
	// Seedance judges a prompt when the task exists already.
	if v := s.await(60*time.Second, policy); v.State != "failed" || v.Error.Code != "content_policy" || len(v.Attempts) != 1 {
		t.Errorf("a policy refusal ended as %+v", v)
	}
	s.fault("error500", 1000)
	down := open()
	if v := s.await(60*time.Second, down); v.State != "succeeded" || v.Provider != "kling" || v.Cost.CapturedMicros != kling || v.Cost.QuoteMicros != atlas {
		t.Errorf("with one provider down: %+v", v)
	}
	if ts := s.tasks(down); len(ts) != 1 || ts[0].Provider != "kling" {
		t.Errorf("the providers have %+v", ts)
	}
	// A render that fails costs nothing: each provider is asked once.
	s.fault("error500", 0)
	a := s.call(http.MethodPost, "/v1/videos", request("two", "a boat [fault:fail_halfway]"))
	if v := s.await(60*time.Second, a.video.ID); v.State != "failed" || v.Error.Provider != "kling" || len(v.Attempts) != 2 || v.Attempts[0].State != "failed" || v.Attempts[1].State != "failed" {
		t.Errorf("renders that fail ended as %+v", v)
	}
	if ts := s.tasks(a.video.ID); len(ts) != 2 || ts[0].Provider == ts[1].Provider {
		t.Errorf("the providers have %+v", ts)
	}
	if v := s.await(60*time.Second, unknown); v.State != "needs_review" || len(v.Attempts) != 1 || len(s.tasks(unknown)) != 0 {
		t.Errorf("an unknown outcome ended as %+v, with %d tasks", v, len(s.tasks(unknown)))
	}
	s.books(first - kling)
}

// An alias that fits no request says of each of its models what it lacks, and an
// alias that names no model keeps the service from starting.
func TestAliasesAreRefusedWithReasons(t *testing.T) {
	t.Parallel()
	s := setup(t, "REELWAY_LATENCY_EVERY=100ms", aliases(t, `
- alias: swift
  routes: [{model: kling-v2-6, when: {max_latency: 1ms}}]
- alias: narrow
  routes:
    - {model: kling-v2-6}
    - {model: seedance-2.0, when: {tiers: [production]}}
    - {model: gen-4.5}
`))
	body := request("narrow", "a boat")
	body["seed"] = 7
	a := s.call(http.MethodPost, "/v1/videos", body)
	want := "no route of narrow fits: kling-v2-6 (seed: kling-v2-6 takes none); seedance-2.0 (is for accounts of tier production); gen-4.5 (is not on offer here)"
	if a.status != http.StatusBadRequest || a.fault.Code != "invalid_request" || len(a.fault.Fields) != 1 || a.fault.Fields[0] != (videojson.Field{Name: "model", Message: want}) {
		t.Errorf("refused as %d %s", a.status, a.raw)
	}
	// Nothing is known of the model's latency until it has made a few videos.
	made := int64(0)
	s.eventually(2*time.Minute, "the model is known to be slow", func() bool {
		a := s.call(http.MethodPost, "/v1/videos", request("swift", "a boat"))
		if a.status == http.StatusBadRequest && strings.Contains(a.fault.Message, "no route of swift fits: kling-v2-6 (takes ") {
			return true
		}
		made++
		if v := s.await(60*time.Second, a.video.ID); v.State != "succeeded" {
			t.Fatalf("%s ended as %+v", a.video.ID, v)
		}
		return false
	})
	s.books(first - made*kling)

	up := exec.Command(binary, "up")
	up.Env = append(append([]string{}, s.env...), "REELWAY_HTTP_ADDR="+freePort(t), "REELWAY_GRPC_ADDR="+freePort(t), "REELWAY_OPS_ADDR="+freePort(t),
		"REELWAY_DATA_DIR="+s.dir+"/other", aliases(t, "- alias: broken\n  routes: [{model: kling-99}]\n"))
	out, err := up.CombinedOutput()
	if err == nil || !strings.Contains(string(out), `REELWAY_ROUTES_FILE: alias "broken": routes[0].model is "kling-99", which is no model of the catalogue`) {
		t.Errorf("started with a faulty file: %v %s", err, tail(string(out), 2000))
	}
}
