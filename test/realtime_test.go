package test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/durationpb"

	"reelway.dev/pkg/fault"
	"reelway.dev/pkg/rpc"
	videov1 "reelway.dev/proto/gen/reelway/video/v1"
)

// snippets are the code blocks of a page whose fence is this.
func snippets(t *testing.T, page, fence string) (out []string) {
	t.Helper()
	raw, err := os.ReadFile("../docs/" + page)
	if err != nil {
		t.Fatal(err)
	}
	for _, part := range strings.Split(string(raw), "\n```"+fence+"\n")[1:] {
		code, _, ok := strings.Cut(part, "\n```")
		if !ok {
			t.Fatalf("%s: a block without an end", page)
		}
		out = append(out, code)
	}
	return out
}

type realtimeToken struct {
	Object, ID, Token string
	ExpiresAt         int64 `json:"expires_at"`
}

func (s *stack) token(body map[string]any) realtimeToken {
	s.t.Helper()
	a := s.call(http.MethodPost, "/v1/realtime/tokens", body)
	var made realtimeToken
	if err := json.Unmarshal(a.raw, &made); err != nil || a.status != http.StatusOK {
		s.t.Fatalf("%d %s", a.status, a.raw)
	}
	return made
}

// The snippets of docs/realtime.md do what the page says.
func TestRealtimePage(t *testing.T) {
	t.Parallel()
	s := setup(t)
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	body := request("seedance-2.0", "x")
	body["user"] = "alice"
	id := s.call(http.MethodPost, "/v1/videos", body).video.ID
	s.await(90*time.Second, id)
	token := s.token(map[string]any{"user": "alice"})
	env := append(os.Environ(), "REELWAY_URL="+s.base, "REELWAY_API_KEY="+key, "VIDEO="+id, "TOKEN="+token.Token, "TOKEN_ID="+token.ID)
	run := func(name string, args ...string) string {
		t.Helper()
		var complaints bytes.Buffer
		cmd := exec.CommandContext(ctx, name, args...)
		cmd.Env, cmd.Stderr = env, &complaints
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("%s %v: %v\n%s%s", name, args, err, out, complaints.String())
		}
		return string(out)
	}
	server := snippets(t, "realtime.md", "js server")
	if len(server) != 1 {
		t.Fatal(server)
	}
	made := strings.TrimSpace(run("node", "--input-type=module", "-e", server[0]+"\nconsole.log(token)"))
	page := snippets(t, "realtime.md", "js browser")
	if len(page) != 1 {
		t.Fatal(page)
	}
	var got struct {
		Plays bool
		Note  string
	}
	if raw := browse(ctx, t, "page.mjs", page[0], "BASE="+s.base, "TOKEN="+made, "VIDEO="+id); json.Unmarshal(raw, &got) != nil || !got.Plays || got.Note != "" {
		t.Errorf("%s", raw)
	}
	// In the page's order, but that the token is revoked last.
	sh := snippets(t, "realtime.md", "sh")
	if len(sh) != 3 {
		t.Fatal(sh)
	}
	for _, c := range []struct{ code, want string }{
		{sh[0], `"object":"realtime.token"`}, {sh[2], "event: snapshot"}, {sh[1], `"revoked":true`},
	} {
		if out := run("bash", "-euc", c.code); !strings.Contains(out, c.want) {
			t.Errorf("%s\n%s", c.code, out)
		}
	}
	s.eventually(time.Minute, "the token is out", func() bool {
		resp, err := http.Get(s.base + "/v1/videos/" + id + "/events?token=" + token.Token)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		return resp.StatusCode == http.StatusUnauthorized
	})
	// A user's stream, by key, tells that nothing is unfinished.
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.base+"/v1/events?user=alice", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+key)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	first := make([]byte, 4096)
	for text := ""; !strings.Contains(text, "event: subscribed"); {
		n, err := resp.Body.Read(first)
		if text += string(first[:n]); err != nil || strings.Contains(text, "snapshot") {
			t.Fatalf("%s %v", text, err)
		}
	}
}

// What is wrong with a request for a token is named, over REST and gRPC alike.
func TestRealtimeTokensAreRefused(t *testing.T) {
	t.Parallel()
	s := setup(t)
	for body, want := range map[string]string{
		`{}`:                              "videos",
		``:                                "body",
		`[1]`:                             "body",
		`{"user":"a"`:                     "body",
		`{"user":"a","user":"b"}`:         "user",
		`{"user":7}`:                      "user",
		`{"users":["a"]}`:                 "users",
		`{"user":"a\u0007"}`:              "user",
		`{"videos":["video_nowhere"]}`:    "videos.0",
		`{"user":"a","expires_in":9}`:     "expires_in",
		`{"user":"a","expires_in":86401}`: "expires_in",
		`{"user":"a","expires_in":"x"}`:   "expires_in",
		`{"videos":["` + strings.Repeat(`v","`, 20) + `v"]}`: "videos",
		`{"user":"` + strings.Repeat("a", 129) + `"}`:        "user",
	} {
		a := s.call(http.MethodPost, "/v1/realtime/tokens", body)
		if a.status != http.StatusBadRequest || len(a.fault.Fields) == 0 || a.fault.Fields[0].Name != want || a.fault.Retryable {
			t.Errorf("%s: %d %s", body, a.status, a.raw)
		}
	}
	if a := s.call(http.MethodDelete, "/v1/realtime/tokens/key_1", nil); a.status != http.StatusNotFound {
		t.Errorf("%d %s", a.status, a.raw)
	}
	if a := s.call(http.MethodPost, "/v1/realtime/tokens", `{"user":"a"}`, "Authorization", "Bearer "+s.token(map[string]any{"user": "a"}).Token); a.status != http.StatusUnauthorized {
		t.Errorf("a token makes tokens: %d %s", a.status, a.raw)
	}
	conn, err := rpc.Dial(s.grpc)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	ctx, cancel := context.WithTimeout(metadata.AppendToOutgoingContext(context.Background(), "authorization", "Bearer "+key), time.Minute)
	defer cancel()
	c := videov1.NewRealtimeServiceClient(conn)
	for name, r := range map[string]*videov1.CreateRealtimeTokenRequest{
		"nothing":  {},
		"lifetime": {User: "a", Lifetime: durationpb.New(25 * time.Hour)},
		"videos":   {Videos: []string{"video_x y"}},
	} {
		if _, err := c.CreateRealtimeToken(ctx, r); fault.FromStatus(err).Code != fault.InvalidRequest {
			t.Errorf("%s: %v", name, err)
		}
	}
	before := time.Now()
	made, err := c.CreateRealtimeToken(ctx, &videov1.CreateRealtimeTokenRequest{User: "a"})
	if err != nil {
		t.Fatal(err)
	}
	if life := made.GetExpiresAt().AsTime().Sub(before); life < 14*time.Minute || life > 16*time.Minute {
		t.Errorf("it lives %v", life)
	}
	status := func() int {
		resp, err := http.Get(fmt.Sprint(s.base, "/v1/events?user=a&token=", made.GetToken()))
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		return resp.StatusCode
	}
	if got := status(); got != http.StatusOK {
		t.Errorf("status %d", got)
	}
	if _, err := c.RevokeRealtimeToken(ctx, &videov1.RevokeRealtimeTokenRequest{Id: made.GetId()}); err != nil {
		t.Fatal(err)
	}
	if got := status(); got != http.StatusUnauthorized {
		t.Errorf("once it is revoked: status %d", got)
	}
	if _, err := c.CreateRealtimeToken(context.Background(), &videov1.CreateRealtimeTokenRequest{User: "a"}); fault.FromStatus(err).Code != fault.Unauthenticated {
		t.Error(err)
	}
}
