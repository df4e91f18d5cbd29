package notifier

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"sync"

	"reelway.dev/pkg/fault"
	"reelway.dev/pkg/videojson"
)

// frame is what a WebSocket sends, and an SSE message's data. A cursor resumes
// the subscription whose frame it came with: one video's, or that of many.
type frame struct {
	Type     string           `json:"type"` // subscribed, snapshot, event, notice, reset, end, error, pong
	Cursor   string           `json:"cursor,omitempty"`
	Sequence int64            `json:"sequence,omitempty"` // of the video: each is higher than all before
	VideoID  string           `json:"video_id,omitempty"` // whose watch it is of: one video's,
	User     string           `json:"user,omitempty"`     // a user's, or neither: the account's
	More     bool             `json:"more,omitempty"`     // with subscribed: not every unfinished video was told
	Video    any              `json:"video,omitempty"`
	Notice   *notice          `json:"notice,omitempty"`
	Error    *videojson.Error `json:"error,omitempty"`
}

// shown is a video as the holder of a browser token sees it: without what it
// cost, and without who tried to render it.
type shown struct {
	videojson.Video

	Cost     *struct{} `json:"cost,omitempty"`
	Attempts *struct{} `json:"attempts,omitempty"`
}

// frames are an event as it was written for whoever came first. An event has
// many watchers, but only three kinds of watches, and two of what they may see.
type frames struct {
	origin

	mu   sync.Mutex
	made [6][]byte
}

// encode is an item as c gets it in a watch of sc.
func (s *Service) encode(ctx context.Context, c caller, sc scope, it item) ([]byte, error) {
	if it.frames == nil {
		return s.write(ctx, c, sc, it)
	}
	i := 0
	switch {
	case sc.job != "":
		i = 1
	case sc.user != "":
		i = 2
	}
	if c.grant != nil {
		i += 3
	}
	it.frames.mu.Lock()
	defer it.frames.mu.Unlock()
	if it.frames.made[i] == nil {
		// For all: not cut short by the going of one.
		data, err := s.write(context.WithoutCancel(ctx), c, sc, it)
		if err != nil {
			return nil, err
		}
		it.frames.made[i] = data
	}
	return it.frames.made[i], nil
}

func (s *Service) write(ctx context.Context, c caller, sc scope, it item) ([]byte, error) {
	f := frame{Type: string(it.kind), Cursor: it.cursor, VideoID: sc.job, User: sc.user, More: it.more}
	if it.video != nil {
		o := s.object(ctx, it.video)
		f.Video, f.Sequence = o, markOf(it.video).sequence()
		if c.grant != nil {
			f.Video = shown{Video: o}
		}
	}
	if it.notice != nil {
		f.Notice = noticeOf(it.notice)
	}
	return marshal(f)
}

func marshal(f frame) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false) // a URL should read as one
	if err := enc.Encode(f); err != nil {
		return nil, fmt.Errorf("encode frame: %w", err)
	}
	return bytes.TrimRight(b.Bytes(), "\n"), nil
}

// refusal is a frame that says what was refused, of which watch.
func refusal(sc scope, err error) frame {
	e := fault.From(err)
	return frame{Type: "error", VideoID: sc.job, User: sc.user, Error: &videojson.Error{Code: string(e.Code), Message: e.Message, Retryable: e.Retryable}}
}
