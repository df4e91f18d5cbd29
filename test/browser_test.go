package test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"

	"reelway.dev/pkg/videojson"
)

// cable lies between a browser and the stack, and can be cut.
type cable struct {
	l  net.Listener
	to string

	mu           sync.Mutex
	conns        map[net.Conn]struct{}
	cut          bool
	noWebSockets bool
	wg           sync.WaitGroup
}

func newCable(t *testing.T, to string) *cable {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &cable{l: l, to: to, conns: map[net.Conn]struct{}{}}
	c.wg.Go(func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			c.wg.Go(func() { c.carry(in) })
		}
	})
	t.Cleanup(func() { _ = l.Close(); c.set(true); c.wg.Wait() })
	return c
}

// hold keeps a connection to be cut; false when it is already.
func (c *cable) hold(conn net.Conn) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.conns[conn] = struct{}{}
	return !c.cut
}

func (c *cable) carry(in net.Conn) {
	drop := func(conn net.Conn) {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.conns, conn)
		_ = conn.Close()
	}
	defer drop(in)
	if !c.hold(in) {
		return
	}
	head := make([]byte, 16<<10)
	n, err := in.Read(head)
	if err != nil {
		return
	}
	c.mu.Lock()
	refused := c.noWebSockets && bytes.Contains(bytes.ToLower(head[:n]), []byte("upgrade: websocket"))
	c.mu.Unlock()
	if refused {
		return
	}
	out, err := net.Dial("tcp", c.to)
	if err != nil {
		return
	}
	defer drop(out)
	if !c.hold(out) {
		return
	}
	if _, err := out.Write(head[:n]); err != nil {
		return
	}
	var wg sync.WaitGroup
	wg.Go(func() { _, _ = io.Copy(out, in); drop(in); drop(out) })
	_, _ = io.Copy(in, out)
	drop(in)
	drop(out)
	wg.Wait()
}

// set cuts everything, or lets new connections through.
func (c *cable) set(cut bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cut = cut
	if cut {
		for conn := range c.conns {
			_ = conn.Close()
		}
	}
}

// witness is told of one video by a connection of its own.
type witness struct {
	mu    sync.Mutex
	told  []videojson.Video
	ended bool
}

func (w *witness) seen() ([]videojson.Video, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.told), w.ended
}

func (s *stack) witness(ctx context.Context, id string) *witness {
	s.t.Helper()
	c, resp, err := websocket.Dial(ctx, strings.Replace(s.base, "http", "ws", 1)+"/v1/stream", &websocket.DialOptions{HTTPHeader: http.Header{"Authorization": {"Bearer " + key}}})
	if err != nil {
		s.t.Fatal(err)
	}
	if resp.Body != nil {
		_ = resp.Body.Close()
	}
	if err := c.Write(ctx, websocket.MessageText, []byte(`{"type":"subscribe","videos":["`+id+`"]}`)); err != nil {
		s.t.Fatal(err)
	}
	w := &witness{}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			_, data, err := c.Read(ctx)
			var f struct {
				Type  string
				Video videojson.Video
			}
			if err != nil || json.Unmarshal(data, &f) != nil {
				return
			}
			w.mu.Lock()
			if w.ended = f.Type == "end"; !w.ended {
				w.told = append(w.told, f.Video)
			}
			w.mu.Unlock()
		}
	})
	s.t.Cleanup(func() { _ = c.CloseNow(); wg.Wait() })
	return w
}

// browse runs a script that drives a browser, and returns what it printed.
func browse(ctx context.Context, t *testing.T, script, input string, env ...string) []byte {
	t.Helper()
	if _, err := os.Stat("browser/node_modules/.package-lock.json"); err != nil {
		t.Fatal("the browser's driver is not installed: run `make setup-test`")
	}
	chromium := ""
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if path, err := exec.LookPath(name); err == nil {
			chromium = path
			break
		}
	}
	if chromium == "" {
		t.Fatal("there is no Chromium: run `make setup-test`, or install the package chromium by hand")
	}
	cmd := exec.CommandContext(ctx, "node", script)
	cmd.Dir, cmd.Stdin = "browser", strings.NewReader(input)
	cmd.Env = append(append(os.Environ(), "CHROMIUM="+chromium), env...)
	out, err := cmd.Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			t.Fatalf("%v\n%s%s", err, out, exit.Stderr)
		}
		t.Fatal(err)
	}
	return out
}

// A browser watches by reelway.js: it is told everything once, through a cut,
// plays the result, is shown out when its token is revoked, does without
// WebSockets, and nothing of its tokens is in the log.
func TestBrowserWatches(t *testing.T) {
	t.Parallel()
	// A slow render has no webhook and is polled late: until then there is nothing
	// but estimates.
	s := setup(t, "REELWAY_LOG_LEVEL=debug", "REELWAY_WATCH_AFTER=15s", "REELWAY_TYPICAL_RENDER=20s", "REELWAY_PROGRESS_EVERY=100ms", "REELWAY_SWEEP_AFTER=30s")
	ctx, cancel := context.WithTimeout(context.Background(), 4*time.Minute)
	defer cancel()
	net := newCable(t, strings.TrimPrefix(s.base, "http://"))
	var mu sync.Mutex
	var watched *witness
	var tokens []string
	control := http.NewServeMux()
	handle := func(path string, f func(r *http.Request) (any, error)) {
		control.HandleFunc("POST "+path, func(w http.ResponseWriter, r *http.Request) {
			mu.Lock()
			defer mu.Unlock()
			v, err := f(r)
			if err != nil {
				http.Error(w, err.Error(), http.StatusInternalServerError)
				return
			}
			_ = json.NewEncoder(w).Encode(v)
		})
	}
	handle("/submit", func(r *http.Request) (any, error) {
		prompt := "x"
		if r.FormValue("slow") != "" {
			prompt = "[fault:webhook_never]"
		}
		body := request("seedance-2.0", prompt)
		body["user"] = "alice"
		a, err := s.try(http.MethodPost, "/v1/videos", body)
		if err != nil || a.status != http.StatusOK {
			return nil, fmt.Errorf("%d %s %w", a.status, a.raw, err)
		}
		if watched == nil {
			watched = s.witness(ctx, a.video.ID)
		}
		return map[string]string{"id": a.video.ID}, nil
	})
	handle("/token", func(r *http.Request) (any, error) {
		body := map[string]any{"expires_in": 60}
		if v := r.FormValue("video"); v != "" {
			body["videos"] = []string{v}
		}
		if u := r.FormValue("user"); u != "" {
			body["user"] = u
		}
		a, err := s.try(http.MethodPost, "/v1/realtime/tokens", body)
		if err != nil || a.status != http.StatusOK {
			return nil, fmt.Errorf("%d %s %w", a.status, a.raw, err)
		}
		var made struct{ ID, Token string }
		err = json.Unmarshal(a.raw, &made)
		tokens = append(tokens, made.Token)
		return map[string]string{"id": made.ID, "token": made.Token}, err
	})
	handle("/revoke", func(r *http.Request) (any, error) {
		a, err := s.try(http.MethodDelete, "/v1/realtime/tokens/"+r.FormValue("id"), nil)
		if err == nil && a.status != http.StatusOK {
			err = errors.New(string(a.raw))
		}
		return struct{}{}, err
	})
	handle("/cut", func(*http.Request) (any, error) { net.set(true); return struct{}{}, nil })
	handle("/restore", func(*http.Request) (any, error) { net.set(false); return struct{}{}, nil })
	handle("/websockets", func(r *http.Request) (any, error) {
		net.mu.Lock()
		net.noWebSockets = r.FormValue("allowed") == "0"
		net.mu.Unlock()
		net.set(true)
		net.set(false)
		return struct{}{}, nil
	})
	handle("/pass", func(*http.Request) (any, error) {
		before, _ := watched.seen()
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for {
			if now, ended := watched.seen(); ended || len(now) >= len(before)+3 {
				return struct{}{}, nil
			}
			select {
			case <-ctx.Done():
				return nil, ctx.Err()
			case <-tick.C:
			}
		}
	})
	srv := httptest.NewServer(control)
	t.Cleanup(srv.Close)

	raw := browse(ctx, t, "live.mjs", "", "BASE=http://"+net.l.Addr().String(), "CONTROL="+srv.URL)
	var got struct {
		BeforeTheCut int
		Told         []string
		Failed       any
		Closed       int
		Asked        int
		Cost         bool
		Plays        []int
		Revoked      []any
		Fallback     []any
		Demo         string
	}
	if err := json.Unmarshal(raw, &got); err != nil {
		t.Fatalf("%v: %s", err, raw)
	}
	s.eventually(time.Minute, "the witness knows the end", func() bool { _, ended := watched.seen(); return ended })
	told, _ := watched.seen()
	var truth []string
	for i, v := range told {
		truth = append(truth, fmt.Sprint(v.State, " ", v.Progress))
		if v.State == "running" && v.Progress > 0 && !v.ProgressEstimated || i > 0 && v.Progress < told[i-1].Progress {
			t.Errorf("progress %d, estimated %v, after %+v", v.Progress, v.ProgressEstimated, told[max(i-1, 0)].Progress)
		}
	}
	if i := slices.Index(truth, got.Told[0]); i < 0 || !slices.Equal(truth[i:], got.Told) || got.BeforeTheCut < 2 || got.BeforeTheCut+3 > len(got.Told) {
		t.Errorf("the browser was told\n%v, %d before the cut; it was\n%v", got.Told, got.BeforeTheCut, truth)
	}
	if got.Failed != nil || got.Closed != 1006 || got.Asked != 1 || got.Cost {
		t.Errorf("%+v", got)
	}
	if !reflect.DeepEqual(got.Plays, []int{1280, 720}) || !reflect.DeepEqual(got.Revoked, []any{1008.0, "unauthenticated"}) ||
		!reflect.DeepEqual(got.Fallback, []any{"sse", true}) || got.Demo != "done" {
		t.Errorf("%+v", got)
	}
	for _, token := range tokens {
		if log := s.log.String(); strings.Contains(log, token) || strings.Contains(log, strings.Split(token, ".")[2]) {
			t.Error("a token is in the log")
		}
	}
}
