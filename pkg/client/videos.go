package client

import (
	"context"
	"iter"

	"google.golang.org/protobuf/proto"

	"reelway.dev/pkg/fault"
	"reelway.dev/pkg/id"
	videov1 "reelway.dev/proto/gen/reelway/video/v1"
)

// Create submits a video. Without an idempotency key one is made, which serves
// for the tries of this call; give your own, of what you want the video for, where
// your process may die and ask again.
func (c *Client) Create(ctx context.Context, r *videov1.CreateVideoRequest) (*videov1.Video, error) {
	if r.GetIdempotencyKey() == "" {
		r = proto.CloneOf(r)
		r.IdempotencyKey = id.New("client")
	}
	a, _, err := call(ctx, c, c.videos.CreateVideo, r)
	return a.GetVideo(), err
}

// Get reads a video.
func (c *Client) Get(ctx context.Context, videoID string) (*videov1.Video, error) {
	a, _, err := call(ctx, c, c.videos.GetVideo, &videov1.GetVideoRequest{Id: videoID})
	return a.GetVideo(), err
}

// List reads the account's videos from r.After on, page by page of r.Limit, for as
// long as it is ranged over. An error is the last thing that it yields.
func (c *Client) List(ctx context.Context, r *videov1.ListVideosRequest) iter.Seq2[*videov1.Video, error] {
	return func(yield func(*videov1.Video, error) bool) {
		q := proto.CloneOf(r)
		for {
			page, _, err := call(ctx, c, c.videos.ListVideos, q)
			if err != nil {
				yield(nil, err)
				return
			}
			for _, v := range page.GetVideos() {
				if !yield(v, nil) {
					return
				}
				q.After = v.GetId()
			}
			if !page.GetHasMore() || len(page.GetVideos()) == 0 {
				return
			}
		}
	}
}

// Cancel asks for the end of a video; asking twice is once. The answer says how it
// stands: canceled, or with its wish noted until the provider has answered.
func (c *Client) Cancel(ctx context.Context, videoID string) (*videov1.Video, error) {
	a, _, err := call(ctx, c, c.videos.CancelVideo, &videov1.CancelVideoRequest{Id: videoID})
	return a.GetVideo(), err
}

// Delete deletes a finished video and its file. A later try that does not find it
// has found the work of an earlier one, whose answer was lost.
func (c *Client) Delete(ctx context.Context, videoID string) error {
	_, tries, err := call(ctx, c, c.videos.DeleteVideo, &videov1.DeleteVideoRequest{Id: videoID})
	if tries > 1 && Is(err, fault.NotFound) {
		return nil
	}
	return err
}

// Quote prices a video without any side effect.
func (c *Client) Quote(ctx context.Context, r *videov1.VideoRequest) (*videov1.QuoteVideoResponse, error) {
	a, _, err := call(ctx, c, c.videos.QuoteVideo, &videov1.QuoteVideoRequest{Video: r})
	return a, err
}

// Models reads what can be asked for: models and aliases.
func (c *Client) Models(ctx context.Context) (*videov1.ListModelsResponse, error) {
	a, _, err := call(ctx, c, c.videos.ListModels, &videov1.ListModelsRequest{})
	return a, err
}

// Content signs a fresh URL of a finished video's file, or of an image of it.
func (c *Client) Content(ctx context.Context, r *videov1.GetVideoContentRequest) (*videov1.GetVideoContentResponse, error) {
	a, _, err := call(ctx, c, c.videos.GetVideoContent, r)
	return a, err
}

// Balance reads what the account has, in micro-credits.
func (c *Client) Balance(ctx context.Context) (*videov1.GetBalanceResponse, error) {
	a, _, err := call(ctx, c, c.billing.GetBalance, &videov1.GetBalanceRequest{})
	return a, err
}

// Statement reads a month's pages, for as long as it is ranged over: every one
// repeats what concerns the month. An error is the last thing that it yields.
func (c *Client) Statement(ctx context.Context, month string) iter.Seq2[*videov1.GetStatementResponse, error] {
	return func(yield func(*videov1.GetStatementResponse, error) bool) {
		q := &videov1.GetStatementRequest{Month: month}
		for {
			page, _, err := call(ctx, c, c.billing.GetStatement, q)
			if !yield(page, err) || err != nil {
				return
			}
			if q.Page = page.GetNextPage(); q.GetPage() == "" {
				return
			}
		}
	}
}

// Usage reads the rows of usage from r.After on, page by page of r.Limit, for as
// long as it is ranged over. An error is the last thing that it yields.
func (c *Client) Usage(ctx context.Context, r *videov1.QueryUsageRequest) iter.Seq2[*videov1.UsageRow, error] {
	return func(yield func(*videov1.UsageRow, error) bool) {
		q := proto.CloneOf(r)
		for {
			page, _, err := call(ctx, c, c.usage.QueryUsage, q)
			if err != nil {
				yield(nil, err)
				return
			}
			for _, row := range page.GetRows() {
				if !yield(row, nil) {
					return
				}
			}
			if q.After = page.GetNext(); q.GetAfter() == "" {
				return
			}
		}
	}
}
