package reelway

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"

	"reelway.dev/pkg/videojson"
)

type jobsCmd struct {
	caller
	State  string `help:"Only in this state: queued, submitting, running, storing, succeeded, failed, canceled, expired, needs_review." enum:",queued,submitting,running,storing,succeeded,failed,canceled,expired,needs_review" default:"" placeholder:"STATE"`
	User   string `help:"Only of this user of yours." placeholder:"ID"`
	Oldest bool   `help:"The oldest first."`
	After  string `help:"Go on after this id, the last one of the page before." placeholder:"ID"`
	Limit  int    `short:"n" default:"20" help:"How many at the most, 1 to 100."`
	IDs    bool   `name:"ids" help:"Print ids alone, one a line."`
}

// Help implements kong.HelpProvider.
func (*jobsCmd) Help() string {
	return `Examples:

    reelway jobs
    reelway jobs --state running --user ada
    reelway jobs --state queued --ids | xargs -n1 reelway cancel
    reelway jobs --json | jq -r '.data[].cost.captured'`
}

// page is a list of videos.
type page struct {
	Object  string            `json:"object"`
	Data    []videojson.Video `json:"data"`
	HasMore bool              `json:"has_more"`
	LastID  *string           `json:"last_id"`
}

// Run lists one page.
func (j *jobsCmd) Run(ctx context.Context, io *console) error {
	q := url.Values{"limit": {strconv.Itoa(j.Limit)}}
	for name, v := range map[string]string{"state": j.State, "user": j.User, "after": j.After} {
		if v != "" {
			q.Set(name, v)
		}
	}
	if j.Oldest {
		q.Set("order", "asc")
	}
	return j.do(ctx, callTimeout, func(ctx context.Context, cl client) error {
		var p page
		if err := cl.call(ctx, http.MethodGet, "/v1/videos?"+q.Encode(), nil, &p); err != nil {
			return err
		}
		rows := [][]string{{"VIDEO", io.tint("STATE"), "%", "MODEL", "SECONDS", "CREDITS", "CREATED", "USER"}}
		for _, v := range p.Data {
			rows = append(rows, []string{v.ID, io.tint(v.State), strconv.Itoa(int(v.Progress)), v.Model, v.Seconds, worth(v), at(v.CreatedAt), v.User})
		}
		if j.IDs && !j.JSON {
			rows = nil
			for _, v := range p.Data {
				rows = append(rows, []string{v.ID})
			}
		}
		if err := j.answer(io.out, p, rows...); err != nil {
			return err
		}
		if p.HasMore && p.LastID != nil && !j.JSON {
			say(io.err, "more: --after %s", *p.LastID)
		}
		return nil
	})
}

// worth is what a video has cost, or may.
func worth(v videojson.Video) string {
	if final(v) {
		return v.Cost.Captured
	}
	return v.Cost.Held + " held"
}

type showCmd struct {
	caller
	ID string `arg:"" help:"The video's id."`
}

// Help implements kong.HelpProvider.
func (*showCmd) Help() string {
	return `What was asked for, and what became of it, of its money and of its webhooks, in
order.

Examples:

    reelway show video_0198…
    reelway show video_0198… --json | jq .attempts`
}

// Run shows one video.
func (s *showCmd) Run(ctx context.Context, io *console) error {
	return s.do(ctx, callTimeout, func(ctx context.Context, cl client) error {
		var v videojson.Video
		if err := cl.call(ctx, http.MethodGet, "/v1/videos/"+url.PathEscape(s.ID), nil, &v); err != nil {
			return err
		}
		webhooks, err := cl.deliveries(ctx, v.ID)
		if err != nil {
			return err
		}
		if s.JSON {
			return s.answer(io.out, shown{v, webhooks})
		}
		rows := [][]string{{"video", v.ID}, {"state", io.tint(v.State) + doing(v, time.Now())[len(v.State):]}, {"progress", fmt.Sprintf("%d %%", v.Progress)}, {"model", v.Model}, {"provider", v.Provider},
			{"format", fmt.Sprintf("%s s, %s, %s, %s", v.Seconds, v.Resolution, v.AspectRatio, v.Size)}}
		for _, x := range [][]string{{"user", v.User}, {"prompt", oneLine(v.Prompt)}, {"negative", oneLine(v.NegativePrompt)}} {
			if x[1] != "" {
				rows = append(rows, x)
			}
		}
		rows = append(rows, []string{"credits", fmt.Sprintf("quoted %s, held %s, captured %s", v.Cost.Quote, v.Cost.Held, v.Cost.Captured) + refunds(v)})
		if a := v.Artifact; a != nil {
			rows = append(rows, []string{"file", fmt.Sprintf("%s, %d bytes, %d×%d, %.1f s", a.ContentType, a.Bytes, a.Width, a.Height, float64(a.DurationMS)/1000)}, []string{"sha256", a.SHA256})
		}
		if v.URL != "" {
			rows = append(rows, []string{"link", v.URL}, []string{"", "works until " + at(v.URLExpiresAt)})
		}
		if err := printTable(io.out, rows); err != nil {
			return err
		}
		if _, err := fmt.Fprintln(io.out); err != nil {
			return err
		}
		return printTable(io.out, timeline(v, webhooks))
	})
}

// shown is a video with what became of its webhooks.
type shown struct {
	videojson.Video
	Webhooks []delivery `json:"webhook_deliveries,omitempty"`
}

// delivery is one event on its way to one endpoint of the account's.
type delivery struct {
	ID            string `json:"id"`
	Endpoint      string `json:"endpoint"`
	Type          string `json:"type"`
	State         string `json:"state"`
	Attempts      int32  `json:"attempts"`
	OccurredAt    int64  `json:"occurred_at"`
	NextAttemptAt *int64 `json:"next_attempt_at"`
	EndedAt       *int64 `json:"ended_at"`
}

// deliveries are a video's webhooks; none from a server that knows of none.
func (c client) deliveries(ctx context.Context, video string) ([]delivery, error) {
	var list struct{ Data []delivery }
	err := c.call(ctx, http.MethodGet, "/v1/webhook_deliveries?"+url.Values{"video": {video}, "limit": {"100"}}.Encode(), nil, &list)
	var r *refusal
	if errors.As(err, &r) && r.status == http.StatusNotFound {
		return nil, nil
	}
	return list.Data, err
}

func refunds(v videojson.Video) string {
	if v.Cost.RefundedMicros == 0 {
		return ""
	}
	return ", refunded " + v.Cost.Refunded
}

// timeline is what happened to a video, in order.
func timeline(v videojson.Video, webhooks []delivery) [][]string {
	type moment struct {
		at   int64
		what []string
	}
	quote := v.Cost.Quote + " credits held"
	all := []moment{{v.CreatedAt, []string{"submitted", quote}}}
	for i, a := range v.Attempts {
		name := fmt.Sprintf("attempt %d", i+1)
		all = append(all, moment{a.CreatedAt, []string{name, "begun at " + a.Provider}})
		if a.EndedAt != nil {
			all = append(all, moment{*a.EndedAt, []string{name, joined(a.State, a.ErrorCode, a.Error)}})
		} else if a.State != "intended" {
			all[len(all)-1].what[1] += ", " + a.State
		}
	}
	if v.CompletedAt != nil {
		money := "the hold was released"
		if v.Cost.CapturedMicros > 0 {
			money = v.Cost.Captured + " credits captured"
		}
		if v.Error != nil {
			money = joined(v.Error.Code, v.Error.Message) + "; " + money
		}
		all = append(all, moment{*v.CompletedAt, []string{v.State, money}})
	}
	if v.ExpiresAt != nil {
		all = append(all, moment{*v.ExpiresAt, []string{"removal", "the file is kept until here"}})
	}
	for _, d := range webhooks {
		m := moment{d.OccurredAt, []string{"webhook", fmt.Sprintf("%s to %s: %s, %d attempts", d.Type, d.Endpoint, d.State, d.Attempts)}}
		switch {
		case d.EndedAt != nil:
			m.at = *d.EndedAt
		case d.NextAttemptAt != nil:
			m.what[1] += ", the next at " + at(*d.NextAttemptAt)
		}
		all = append(all, m)
	}
	slices.SortStableFunc(all, func(a, b moment) int { return cmp.Compare(a.at, b.at) })
	var rows [][]string
	for _, m := range all {
		rows = append(rows, append([]string{at(m.at)}, m.what...))
	}
	return rows
}

// joined joins what is not empty by colons.
func joined(parts ...string) string {
	out := ""
	for _, p := range parts {
		if p = oneLine(p); p != "" && out != "" {
			out += ": "
		}
		out += p
	}
	return out
}

type cancelCmd struct {
	caller
	IDs []string `arg:"" name:"id" help:"The videos' ids."`
}

// Help implements kong.HelpProvider.
func (*cancelCmd) Help() string {
	return `The hold is released. One that cannot be canceled any more goes on, and is named.

Examples:

    reelway cancel video_0198…
    reelway jobs --state queued --ids | xargs reelway cancel`
}

// Run cancels each, and fails when one could not be.
func (c *cancelCmd) Run(ctx context.Context, io *console) error {
	return c.do(ctx, callTimeout, func(ctx context.Context, cl client) error {
		var errs []error
		for _, id := range c.IDs {
			var v videojson.Video
			err := cl.call(ctx, http.MethodPost, "/v1/videos/"+url.PathEscape(id)+"/cancel", nil, &v)
			if err == nil {
				err = c.answer(io.out, v, []string{v.ID, v.State})
			} else {
				err = fmt.Errorf("%s: %w", id, err)
			}
			errs = append(errs, err)
		}
		return errors.Join(errs...)
	})
}

type watchCmd struct {
	caller
	ID  string `arg:"" help:"The video's id."`
	Out string `short:"o" help:"Save the file, into a folder or by a name." type:"path" placeholder:"PATH"`
}

// Help implements kong.HelpProvider.
func (*watchCmd) Help() string {
	return `A connection that breaks is made again. With --json each change is a line.

Examples:

    reelway watch video_0198…
    reelway watch video_0198… --out .
    reelway watch video_0198… --json | jq -c '[.state, .progress]'`
}

// Run watches to the end.
func (w *watchCmd) Run(ctx context.Context, io *console) error {
	var each func(videojson.Video) error
	if w.JSON {
		lines := json.NewEncoder(io.out)
		lines.SetEscapeHTML(false)
		each = func(v videojson.Video) error { return lines.Encode(v) }
	}
	return w.do(ctx, 0, func(ctx context.Context, cl client) error { return w.finish(ctx, io, cl, w.ID, w.Out, each) })
}
