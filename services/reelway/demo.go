package reelway

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/coder/websocket"

	"reelway.dev/pkg/videojson"
)

// client speaks to a Reelway through its public doors only.
type client struct{ base, key string }

func (c client) call(ctx context.Context, method, path string, in, out any) error {
	var body io.Reader
	if in != nil {
		raw, err := json.Marshal(in)
		if err != nil {
			return fmt.Errorf("marshal request: %w", err)
		}
		body = bytes.NewReader(raw)
	}
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, body)
	if err != nil {
		return fmt.Errorf("make request: %w", err)
	}
	req.Header.Set("Authorization", "Bearer "+c.key)
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return fmt.Errorf("%s %s: %w", method, path, err)
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode/100 != 2 {
		var e struct{ Error videojson.Fault }
		if json.NewDecoder(resp.Body).Decode(&e) != nil {
			return fmt.Errorf("%s %s: status %d", method, path, resp.StatusCode)
		}
		return fmt.Errorf("%s: %s", e.Error.Code, e.Error.Message)
	}
	return json.NewDecoder(resp.Body).Decode(out)
}

type balance struct{ Available, Held string }

// play is the main job, told as it happens.
func play(ctx context.Context, s *Stack, d *demoCmd, out io.Writer) error {
	c := client{s.HTTPURL, s.APIKey}
	var before, after balance
	if err := c.call(ctx, http.MethodGet, "/v1/balance", nil, &before); err != nil {
		return err
	}
	want := map[string]any{"model": d.Model, "prompt": d.Prompt, "duration": 5, "aspect_ratio": "16:9", "resolution": "720p"}
	var quote struct {
		Total         string
		Width, Height int32
	}
	if err := c.call(ctx, http.MethodPost, "/v1/videos:quote", want, &quote); err != nil {
		return err
	}
	say(out, "balance   %s credits available, %s held\nquote     %s credits for %d×%d, 5 s", before.Available, before.Held, quote.Total, quote.Width, quote.Height)
	var v videojson.Video
	if err := c.call(ctx, http.MethodPost, "/v1/videos", want, &v); err != nil {
		return err
	}
	say(out, "submitted %s to %s by way of %s\nhold      %s credits", v.ID, v.Model, v.Provider, v.Cost.Held)
	v, err := c.follow(ctx, v.ID, out)
	if err != nil {
		return err
	}
	if v.State != "succeeded" {
		return fmt.Errorf("the video %s: %s", v.State, v.Error.Message)
	}
	name := filepath.Join(d.Out, "demo-"+v.ID+".mp4")
	n, err := download(ctx, v.URL, name)
	if err != nil {
		return err
	}
	if err := c.call(ctx, http.MethodGet, "/v1/balance", nil, &after); err != nil {
		return err
	}
	say(out, "saved     %s (%d bytes, %d×%d, %.1f s)\nsha256    %s\nlink      works until %s\ncapture   %s credits\nbalance   %s credits available, %s held",
		name, n, v.Artifact.Width, v.Artifact.Height, float64(v.Artifact.DurationMS)/1000, v.Artifact.SHA256,
		time.Unix(v.URLExpiresAt, 0).UTC().Format(time.TimeOnly+" UTC"), v.Cost.Captured, after.Available, after.Held)
	return nil
}

func say(out io.Writer, format string, args ...any) { _, _ = fmt.Fprintf(out, format+"\n", args...) }

// follow draws the progress that the WebSocket tells until the job is final.
func (c client) follow(ctx context.Context, id string, out io.Writer) (videojson.Video, error) {
	var v videojson.Video
	conn, resp, err := websocket.Dial(ctx, strings.Replace(c.base, "http", "ws", 1)+"/v1/stream",
		&websocket.DialOptions{HTTPHeader: http.Header{"Authorization": {"Bearer " + c.key}}})
	if err != nil {
		return v, fmt.Errorf("open stream: %w", err)
	}
	if resp != nil && resp.Body != nil {
		_ = resp.Body.Close()
	}
	defer func() { _ = conn.CloseNow() }()
	sub, err := json.Marshal(map[string]any{"type": "subscribe", "videos": []string{id}})
	if err != nil {
		return v, fmt.Errorf("marshal subscription: %w", err)
	}
	if err := conn.Write(ctx, websocket.MessageText, sub); err != nil {
		return v, fmt.Errorf("subscribe: %w", err)
	}
	bar := progressBar{out: out, live: terminal(out), last: -10}
	for {
		_, data, err := conn.Read(ctx)
		if err != nil {
			bar.end()
			return v, fmt.Errorf("read stream: %w", err)
		}
		var f struct {
			Type  string
			Video *videojson.Video
			Error *videojson.Error
		}
		if err := json.Unmarshal(data, &f); err != nil {
			return v, fmt.Errorf("read stream: %w", err)
		}
		if f.Error != nil {
			return v, errors.New(f.Error.Message)
		}
		v = *f.Video
		bar.draw(v)
		if v.Status == "completed" || v.Status == "failed" {
			bar.end()
			return v, nil
		}
	}
}

// progressBar is one line that is drawn again on a terminal; elsewhere a line
// for each tenth.
type progressBar struct {
	out  io.Writer
	live bool
	last int32 // percent that was printed, off a terminal
	open bool  // the line has not ended
}

func terminal(out io.Writer) bool {
	f, ok := out.(*os.File)
	if !ok {
		return false
	}
	st, err := f.Stat()
	return err == nil && st.Mode()&os.ModeCharDevice != 0
}

func (b *progressBar) draw(v videojson.Video) {
	line := fmt.Sprintf("  [%-20s] %3d %%  %-10s", strings.Repeat("#", int(v.Progress)/5), v.Progress, v.State)
	switch {
	case b.live:
		_, _ = fmt.Fprint(b.out, "\r"+line)
		b.open = true
	case v.Progress/10 > b.last/10 || v.Progress == 100 || b.last < 0:
		b.last = v.Progress
		say(b.out, "%s", strings.TrimRight(line, " "))
	}
}

func (b *progressBar) end() {
	if b.open {
		b.open = false
		_, _ = fmt.Fprintln(b.out)
	}
}

// download saves a URL whole or not at all.
func download(ctx context.Context, url, name string) (int64, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, fmt.Errorf("make request: %w", err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, fmt.Errorf("download: %w", err)
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		return 0, fmt.Errorf("download: status %d", resp.StatusCode)
	}
	f, err := os.CreateTemp(filepath.Dir(name), ".demo-*")
	if err != nil {
		return 0, fmt.Errorf("save video: %w", err)
	}
	n, err := io.Copy(f, resp.Body)
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), name)
	}
	if err != nil {
		_ = os.Remove(f.Name())
		return 0, fmt.Errorf("save video: %w", err)
	}
	return n, nil
}
