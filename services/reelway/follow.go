package reelway

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/coder/websocket"

	"reelway.dev/pkg/videojson"
)

const (
	// alive is how often a quiet connection is asked whether it is one still.
	alive = 15 * time.Second
	// reconnects is how often in a row a connection may fail before the watch is
	// given up. The video goes on in any case.
	reconnects = 8
)

// follow tells each change of a video until it is final. A connection that breaks
// is made again where it was.
func (c client) follow(ctx context.Context, id string, each func(videojson.Video) error) (videojson.Video, error) {
	var v videojson.Video
	cursor := ""
	for failures := 0; ; failures++ {
		before := cursor
		err := c.listen(ctx, id, &cursor, func(next videojson.Video) error {
			v = next
			return each(v)
		})
		var broken *absence
		if err == nil && final(v) {
			return v, nil
		}
		if err != nil && !errors.As(err, &broken) || ctx.Err() != nil {
			return v, err
		}
		if cursor != before {
			failures = 0
		}
		if failures == reconnects {
			return v, fmt.Errorf("the connection breaks again and again; watch it again by `reelway watch %s`: %w", id, err)
		}
		wait := time.NewTimer(min(250*time.Millisecond<<failures, 5*time.Second))
		select {
		case <-ctx.Done():
			wait.Stop()
			return v, ctx.Err()
		case <-wait.C:
		}
	}
}

func final(v videojson.Video) bool { return v.Status == "completed" || v.Status == "failed" }

// listen is one connection of a watch. It returns nil when the video is final or
// the server has no more to tell, and an absence when the connection broke.
func (c client) listen(ctx context.Context, id string, cursor *string, each func(videojson.Video) error) error {
	conn, resp, err := websocket.Dial(ctx, strings.Replace(c.base, "http", "ws", 1)+"/v1/stream",
		&websocket.DialOptions{HTTPHeader: http.Header{"Authorization": {"Bearer " + c.key}, "User-Agent": {"reelway"}}})
	if resp != nil && resp.Body != nil {
		defer func() { _ = resp.Body.Close() }()
	}
	if err != nil {
		if resp != nil && resp.StatusCode != http.StatusSwitchingProtocols {
			var r *refusal
			if err := refused(resp); errors.As(err, &r) && r.final() {
				return r
			}
		}
		return &absence{fmt.Errorf("open stream: %w", err)}
	}
	defer func() { _ = conn.CloseNow() }()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go keepAlive(ctx, conn)
	sub, err := json.Marshal(map[string]any{"type": "subscribe", "videos": []string{id}, "after": *cursor})
	if err != nil {
		return fmt.Errorf("marshal subscription: %w", err)
	}
	if err := conn.Write(ctx, websocket.MessageText, sub); err != nil {
		return &absence{fmt.Errorf("subscribe: %w", err)}
	}
	for {
		_, data, err := conn.Read(ctx)
		if err != nil {
			return &absence{fmt.Errorf("read stream: %w", err)}
		}
		var f struct {
			Type   string
			Cursor string
			Video  *videojson.Video
			Error  *videojson.Error
		}
		if err := json.Unmarshal(data, &f); err != nil {
			return fmt.Errorf("read stream: %w", err)
		}
		switch {
		case f.Error != nil && f.Error.Retryable:
			return &absence{errors.New(f.Error.Message)}
		case f.Error != nil:
			return &refusal{fault: videojson.Fault{Code: f.Error.Code, Message: f.Error.Message}}
		case f.Type == "end":
			return nil
		case f.Video == nil:
			continue
		}
		if err := each(*f.Video); err != nil {
			return err
		}
		*cursor = f.Cursor
		if final(*f.Video) {
			return nil
		}
	}
}

// keepAlive ends a connection that does not answer any more. It ends with ctx.
func keepAlive(ctx context.Context, conn *websocket.Conn) {
	t := time.NewTicker(alive)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			wait, done := context.WithTimeout(ctx, alive)
			if conn.Ping(wait) != nil {
				_ = conn.CloseNow()
			}
			done()
		}
	}
}

// draw follows a video and shows its progress.
func (c client) draw(ctx context.Context, id string, out io.Writer) (videojson.Video, error) {
	bar := progressBar{out: out, live: terminal(out), now: time.Now}
	defer bar.end()
	return c.follow(ctx, id, func(v videojson.Video) error { bar.draw(v); return nil })
}

// progressBar is one line that is drawn again on a terminal; elsewhere a line
// for each state and each tenth, without the bar.
type progressBar struct {
	out   io.Writer
	live  bool
	now   func() time.Time
	shown string // off a terminal: what was printed last
	width int    // on one: of the line that is there
}

const barWidth = 24

func (b *progressBar) draw(v videojson.Video) {
	line := fmt.Sprintf("%3d %%  %s", v.Progress, doing(v, b.now()))
	if !b.live {
		if step := fmt.Sprint(v.State, v.Progress/10); step != b.shown {
			b.shown = step
			say(b.out, "%s", strings.TrimLeft(line, " "))
		}
		return
	}
	full := min(max(int(v.Progress), 0), 100) * barWidth / 100
	line = "[" + strings.Repeat("█", full) + strings.Repeat("░", barWidth-full) + "] " + line
	width := len([]rune(line))
	_, _ = fmt.Fprint(b.out, "\r"+line+strings.Repeat(" ", max(b.width-width, 0)))
	b.width = width
}

// end leaves the bar's line.
func (b *progressBar) end() {
	if b.width > 0 {
		b.width = 0
		_, _ = fmt.Fprintln(b.out)
	}
}

// doing is a state and how long it still takes, for people.
func doing(v videojson.Video, now time.Time) string {
	text := v.State
	if v.QueuePosition != nil {
		text += fmt.Sprintf(", %d ahead", *v.QueuePosition)
	}
	if final(v) || v.EstimatedAt == nil {
		return text
	}
	left := time.Unix(*v.EstimatedAt, 0).Sub(now).Round(time.Second)
	if left < time.Second {
		return text + ", any moment"
	}
	return text + ", about " + lasting(left) + " left"
}

// lasting is a length of time in at most two units: 45s, 2m 5s, 1h 3m.
func lasting(d time.Duration) string {
	switch d = d.Round(time.Second); {
	case d < time.Minute:
		return fmt.Sprintf("%ds", d/time.Second)
	case d < time.Hour:
		return fmt.Sprintf("%dm %ds", d/time.Minute, d%time.Minute/time.Second)
	}
	return fmt.Sprintf("%dh %dm", d/time.Hour, d%time.Hour/time.Minute)
}
