package reelway

import (
	"cmp"
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

	"reelway.dev/pkg/id"
	"reelway.dev/pkg/videojson"
)

// wanted is a video as one asks for it. What is empty is left to the model.
type wanted struct {
	Prompt         string            `arg:"" optional:"" help:"What to show; - or nothing reads it from stdin."`
	Model          string            `short:"m" help:"The model; reelway models lists them. With --remix or --extend of a video of yours, its own when left out." placeholder:"ID"`
	Seconds        int32             `short:"s" help:"Length in seconds." placeholder:"N"`
	Resolution     string            `help:"Such as 720p." placeholder:"P"`
	AspectRatio    string            `help:"Such as 16:9." placeholder:"W:H"`
	Platform       string            `help:"Its shape and length by where it is shown, such as tiktok." placeholder:"NAME"`
	NegativePrompt string            `help:"What not to show." placeholder:"TEXT"`
	Image          string            `help:"The first frame: a file, which is uploaded, or an https URL." placeholder:"FILE"`
	EndImage       string            `help:"The last frame: a file or an https URL." placeholder:"FILE"`
	Remix          string            `help:"A video to make anew: the id of one of yours, a file, which is uploaded, or an https URL." placeholder:"VIDEO" xor:"source"`
	Extend         string            `help:"A video that is to go on: the id of one of yours, a file or an https URL." placeholder:"VIDEO" xor:"source"`
	Seed           *int64            `help:"The same seed makes the same video, where the model can." placeholder:"N"`
	Audio          *bool             `negatable:"" help:"With sound."`
	User           string            `help:"Your own user whom it is for." placeholder:"ID"`
	Metadata       map[string]string `help:"Kept with the video." placeholder:"KEY=VALUE"`
	MaxCost        string            `help:"Refuse when it costs more credits." placeholder:"DECIMAL"`
	Priority       string            `help:"Its class in the queue: low, normal or high." placeholder:"CLASS"`
	NotifyEmail    string            `help:"Who is written to when it is done or has failed." placeholder:"ADDRESS"`
}

// request is the body, with what was given alone. needed says that there must be
// a prompt.
func (w *wanted) request(in io.Reader, needed bool) (map[string]any, error) {
	if w.Prompt == "-" || w.Prompt == "" && !terminal(in) {
		// One more than the API takes, for it to say so.
		text, err := io.ReadAll(io.LimitReader(in, 1<<20))
		if err != nil {
			return nil, fmt.Errorf("read prompt: %w", err)
		}
		w.Prompt = strings.TrimSpace(string(text))
	}
	if w.Prompt == "" && w.Image == "" && needed {
		return nil, &exitError{exitUsage, errors.New("nothing to show: give a prompt, as an argument or on stdin, or --image")}
	}
	out := map[string]any{}
	source := cmp.Or(w.Remix, w.Extend)
	switch {
	case strings.ContainsAny(source, "./") || strings.HasPrefix(source, "upload_"):
		out["video_url"] = source
	case source != "":
		out["video"] = map[string]any{"id": source}
	}
	if w.Extend != "" {
		out["extend"] = true
	}
	if w.Model == "" && out["video"] == nil {
		return nil, &exitError{exitUsage, errors.New("missing flags: --model=ID")}
	}
	for name, v := range map[string]string{"model": w.Model, "prompt": w.Prompt, "resolution": w.Resolution, "aspect_ratio": w.AspectRatio, "platform": w.Platform,
		"negative_prompt": w.NegativePrompt, "image_url": w.Image, "end_image_url": w.EndImage, "user": w.User, "max_cost": w.MaxCost,
		"priority": w.Priority, "notify_email": w.NotifyEmail} {
		if v != "" {
			out[name] = v
		}
	}
	if w.Seconds != 0 {
		out["duration"] = w.Seconds
	}
	if w.Seed != nil {
		out["seed"] = *w.Seed
	}
	if w.Audio != nil {
		out["audio"] = *w.Audio
	}
	if len(w.Metadata) > 0 {
		out["metadata"] = w.Metadata
	}
	return out, nil
}

type submitCmd struct {
	caller
	wanted `embed:""`
	Once   string `help:"An Idempotency-Key: the same key and request give the same video, however often. Made when left out." placeholder:"KEY"`
	Watch  bool   `short:"w" help:"Watch it to its end and save the file."`
	Out    string `short:"o" default:"." help:"With --watch: where the file is saved, a folder or a name." type:"path" placeholder:"PATH"`
}

// Help implements kong.HelpProvider.
func (*submitCmd) Help() string {
	return `Prints the video's id; with --watch, once it is done, the name of the saved file.

Examples:

    reelway submit "A paper boat in the rain" --model kling-v2-6 --seconds 5 --watch
    reelway submit --model kling-v2-6 <prompt.txt
    reelway submit "It sails away" --model kling-v2-6 --image boat.png --watch
    ID=$(reelway submit "A paper boat" --model kling-v2-6 --max-cost 0.5)
    reelway submit "A paper boat" --model kling-v2-6 --watch --json | jq -r .file
    reelway submit "The boat sinks" --extend $ID --watch`
}

// Run submits, and watches when asked to.
func (s *submitCmd) Run(ctx context.Context, io *console) error {
	want, err := s.request(io.in, true)
	if err != nil {
		return err
	}
	if s.Once == "" {
		s.Once = id.New("cli")
	}
	limit := callTimeout
	if s.Watch {
		limit = 0
	}
	return s.do(ctx, limit, func(ctx context.Context, cl client) error {
		done, err := cl.sendFiles(ctx, want)
		if err != nil {
			return err
		}
		var v videojson.Video
		err = cl.call(ctx, http.MethodPost, "/v1/videos", want, &v, "Idempotency-Key", s.Once)
		done()
		if err != nil {
			if exitCode(err) == exitUnavailable {
				// It may have been taken: only by its key is it safe to ask again.
				return fmt.Errorf("%w\nrepeat the command with --once %s: should it have been taken, it is not taken twice", err, s.Once)
			}
			return err
		}
		say(io.err, "submitted %s to %s, %s credits are held", v.ID, v.Model, v.Cost.Held)
		if s.Watch {
			return s.finish(ctx, io, cl, v.ID, s.Out, nil)
		}
		if s.JSON {
			return s.answer(io.out, v)
		}
		say(io.err, "watch it by: reelway watch %s", v.ID)
		_, err = fmt.Fprintln(io.out, v.ID)
		return err
	})
}

// saved is a video and the file that it was saved to.
type saved struct {
	videojson.Video
	File string `json:"file,omitempty"`
}

// finish watches a video to its end, saves it to path unless that is empty, and
// prints what came of it. each is told every change, when it is not nil.
func (c *caller) finish(ctx context.Context, io *console, cl client, video, path string, each func(videojson.Video) error) error {
	bar := progressBar{out: io.err, live: terminal(io.err), now: time.Now}
	v, err := cl.follow(ctx, video, func(v videojson.Video) error {
		if each != nil {
			return each(v)
		}
		bar.draw(v)
		return nil
	})
	bar.end()
	if err != nil {
		if ctx.Err() != nil {
			say(io.err, "the video goes on; watch it again by: reelway watch %s", video)
		}
		return err
	}
	if v.State != "succeeded" {
		if c.JSON && each == nil {
			if err := c.answer(io.out, v); err != nil {
				return err
			}
		}
		return &exitError{exitNoVideo, fmt.Errorf("the video %s: %s", v.State, grounds(v))}
	}
	out := saved{Video: v}
	if path != "" {
		// What a watch is told of a video long done may lack its URL.
		if err := cl.call(ctx, http.MethodGet, "/v1/videos/"+video, nil, &out.Video); err != nil {
			return err
		}
		if out.URL == "" {
			return &exitError{exitNoVideo, errors.New("the video's file was removed after the time for which results are kept")}
		}
		out.File = fileName(path, video)
		n, err := download(ctx, out.URL, out.File)
		if err != nil {
			return err
		}
		say(io.err, "saved %d bytes, %d×%d, %.1f s; %s credits", n, out.Artifact.Width, out.Artifact.Height, float64(out.Artifact.DurationMS)/1000, out.Cost.Captured)
	}
	switch {
	case each != nil && out.File == "":
		return nil // the last line was the last change
	case c.JSON:
		return json.NewEncoder(io.out).Encode(out)
	}
	_, err = fmt.Fprintln(io.out, cmp.Or(out.File, v.State))
	return err
}

// grounds are why a video ended without a result, for people.
func grounds(v videojson.Video) string {
	if v.Error != nil {
		return v.Error.Message
	}
	return "nothing is charged for it"
}

// fileName is path, or a name of the video's own when path is a folder.
func fileName(path, video string) string {
	if st, err := os.Stat(path); err == nil && st.IsDir() || strings.HasSuffix(path, string(os.PathSeparator)) {
		return filepath.Join(path, video+".mp4")
	}
	return path
}

type quoteCmd struct {
	caller
	wanted `embed:""`
}

// Help implements kong.HelpProvider.
func (*quoteCmd) Help() string {
	return `Nothing is submitted and nothing held.

Examples:

    reelway quote --model kling-v2-6 --seconds 10 </dev/null
    reelway quote "A paper boat" --model seedance-2.0 --resolution 1080p
    reelway quote "A paper boat" --model kling-v2-6 --json | jq -r .total`
}

// Run prints what a video would cost.
func (q *quoteCmd) Run(ctx context.Context, io *console) error {
	want, err := q.request(io.in, false)
	if err != nil {
		return err
	}
	if want["prompt"] == nil {
		want["prompt"] = "-" // the price does not depend on it, and the API wants one
	}
	return q.do(ctx, callTimeout, func(ctx context.Context, cl client) error {
		done, err := cl.sendFiles(ctx, want)
		if err != nil {
			return err
		}
		defer done()
		var raw json.RawMessage
		if err := cl.call(ctx, http.MethodPost, "/v1/videos:quote", want, &raw); err != nil {
			return err
		}
		var a struct {
			Model, Resolution, Total string
			Duration                 int32
			AspectRatio              string `json:"aspect_ratio"`
			Lines                    []struct {
				Description, Unit, Amount string
				Quantity                  int64
			}
		}
		if err := json.Unmarshal(raw, &a); err != nil {
			return fmt.Errorf("read quote: %w", err)
		}
		rows := [][]string{{"ITEM", "UNIT", "QUANTITY", "CREDITS"}}
		for _, l := range a.Lines {
			rows = append(rows, []string{l.Description, l.Unit, fmt.Sprint(l.Quantity), l.Amount})
		}
		if !q.JSON {
			say(io.err, "%s, %d s, %s, %s", a.Model, a.Duration, a.Resolution, a.AspectRatio)
		}
		return q.answer(io.out, raw, append(rows, []string{"total", "", "", a.Total})...)
	})
}
