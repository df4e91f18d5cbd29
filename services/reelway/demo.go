package reelway

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"time"

	"reelway.dev/pkg/videojson"
)

type balance struct{ Available, Held string }

// play is the main job, told as it happens.
func play(ctx context.Context, s *Stack, d *demoCmd, out io.Writer) error {
	c := client{base: s.HTTPURL, key: s.APIKey}
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
	v, err := c.draw(ctx, v.ID, out)
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
