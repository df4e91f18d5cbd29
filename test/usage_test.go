package test

import (
	"context"
	"encoding/json"
	"io/fs"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/metadata"

	"reelway.dev/pkg/fault"
	"reelway.dev/pkg/rpc"
	videov1 "reelway.dev/proto/gen/reelway/video/v1"
)

// files lists the results in the bucket.
func (s *stack) files() (out []string) {
	s.t.Helper()
	err := filepath.WalkDir(s.dir+"/data/bucket", func(path string, d fs.DirEntry, err error) error {
		if err == nil && strings.HasSuffix(path, ".mp4") && !d.IsDir() {
			out = append(out, path)
		}
		return err
	})
	if err != nil {
		s.t.Fatal(err)
	}
	return out
}

// What was made is in usage over REST and gRPC, and a deleted video's file
// leaves the bucket, its usage and postings do not.
func TestUsageAndDeletion(t *testing.T) {
	t.Parallel()
	s := setup(t)
	var ids []string
	for _, user := range []string{"ann", "ann", "bob"} {
		body := request("seedance-2.0", "x")
		body["user"] = user
		ids = append(ids, s.call(http.MethodPost, "/v1/videos", body).video.ID)
	}
	for _, id := range ids {
		if v := s.await(90*time.Second, id); v.State != "succeeded" {
			t.Fatalf("%s is %s", id, v.State)
		}
	}
	if a := s.call(http.MethodDelete, "/v1/videos/"+ids[0], nil); a.status != http.StatusOK {
		t.Fatalf("delete: %d %s", a.status, a.raw)
	}
	s.eventually(time.Minute, "the deleted file is gone, the others are there", func() bool { return len(s.files()) == 2 })

	a := s.call(http.MethodGet, "/v1/usage?group_by=user,model", nil)
	var u struct {
		Data []struct {
			User, Model, Spend string
			Succeeded, Seconds int64
			SpendMicros        int64               `json:"spend_micros"`
			SuccessRate        float64             `json:"success_rate"`
			Latency            struct{ P50 int64 } `json:"latency_ms"`
		}
	}
	if err := json.Unmarshal(a.raw, &u); err != nil || len(u.Data) != 2 {
		t.Fatalf("%d %s", a.status, a.raw)
	}
	ann := u.Data[0]
	if ann.User != "ann" || ann.Model != "seedance-2.0" || ann.Succeeded != 2 || ann.Seconds != 10 || ann.SpendMicros != 2*atlas || ann.SuccessRate != 1 || ann.Latency.P50 < 300 {
		t.Errorf("usage of ann is %+v", ann)
	}
	if bad := s.call(http.MethodGet, "/v1/usage?from=2020-01-01&group_by=hour", nil); bad.status != http.StatusBadRequest || bad.fault.Param == nil || *bad.fault.Param != "group_by" {
		t.Errorf("a wrong question: %d %s", bad.status, bad.raw)
	}
	if bad := s.call(http.MethodGet, "/v1/usage?from=2020-01-01", nil); bad.status != http.StatusBadRequest || bad.fault.Param == nil || *bad.fault.Param != "from" {
		t.Errorf("too long a period: %d %s", bad.status, bad.raw)
	}

	conn, err := rpc.Dial(s.grpc)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	client := videov1.NewUsageServiceClient(conn)
	today := time.Now().UTC()
	q := &videov1.QueryUsageRequest{From: today.AddDate(0, 0, -1).Format(time.DateOnly), To: today.Format(time.DateOnly)}
	ctx := metadata.AppendToOutgoingContext(context.Background(), "authorization", "Bearer "+key)
	r, err := client.QueryUsage(ctx, q)
	if err != nil || len(r.GetRows()) != 1 || r.GetRows()[0].GetSpendMicros() != 3*atlas {
		t.Errorf("over gRPC: %v, %v", r, err)
	}
	if _, err := client.QueryUsage(context.Background(), q); fault.FromStatus(err).Code != fault.Unauthenticated {
		t.Errorf("without a key: %v", err)
	}
}

// Results go from the bucket at the age that the operator sets, and callers are
// told when.
func TestVideosExpire(t *testing.T) {
	t.Parallel()
	s := setup(t, "REELWAY_RETAIN_VIDEOS=1s", "REELWAY_RETAIN_PROMPTS=1s", "REELWAY_RETAIN_INTERVAL=100ms")
	id := s.call(http.MethodPost, "/v1/videos", request("kling-v2-6", "a secret prompt")).video.ID
	v := s.await(90*time.Second, id)
	if v.State != "succeeded" || v.ExpiresAt == nil || v.CompletedAt == nil || *v.ExpiresAt-*v.CompletedAt != 1 {
		t.Fatalf("%+v", v)
	}
	s.eventually(time.Minute, "the file and the prompt are gone", func() bool {
		return len(s.files()) == 0 && s.call(http.MethodGet, "/v1/videos/"+id, nil).video.Prompt == ""
	})
	if a := s.call(http.MethodGet, "/v1/videos/"+id+"/content", nil); a.status != http.StatusNotFound || !strings.Contains(a.fault.Message, "removed after") {
		t.Errorf("content of an expired video: %d %s", a.status, a.raw)
	}
}
