package reelway

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	webhookv1 "reelway.dev/proto/gen/reelway/webhook/v1"
)

type webhooksCmd struct {
	List       webhookListCmd       `cmd:"" help:"List an account's endpoints."`
	Create     webhookCreateCmd     `cmd:"" help:"Make an endpoint and show its secret once."`
	Update     webhookUpdateCmd     `cmd:"" help:"Change an endpoint, enable or disable it."`
	Delete     webhookDeleteCmd     `cmd:"" help:"End an endpoint and what waits for it."`
	Rotate     webhookRotateCmd     `cmd:"" help:"Give an endpoint a new secret, shown once."`
	Test       webhookTestCmd       `cmd:"" help:"Send a test to an endpoint and show what it answered."`
	Deliveries webhookDeliveriesCmd `cmd:"" help:"The log of deliveries, or one delivery with its attempts."`
	Replay     webhookReplayCmd     `cmd:"" help:"Send a delivery again, or an endpoint's deliveries of a time."`
}

// ofAccount is which account a verb is about.
type ofAccount struct {
	Account string `help:"The account's id; the key's own when left out." placeholder:"ID"`
}

// headerFlags are headers as "Name: value".
func headerFlags(flags []string) (map[string]string, error) {
	out := map[string]string{}
	for _, f := range flags {
		name, value, ok := strings.Cut(f, ":")
		if !ok {
			return nil, errors.New(`--header: write "Name: value"`)
		}
		out[strings.TrimSpace(name)] = strings.TrimSpace(value)
	}
	return out, nil
}

func endpointState(e *webhookv1.Endpoint) string {
	switch {
	case !e.GetEnabled():
		return "disabled: " + e.GetDisabledReason()
	case e.GetFailingSince() != nil:
		return "failing since " + when(e.GetFailingSince())
	}
	return "enabled"
}

func endpointRows(e *webhookv1.Endpoint, secret string) [][]string {
	rows := [][]string{{"endpoint", e.GetId()}, {"account", e.GetAccountId()}, {"url", first(e.GetUrl(), "none: signs callback_url")}, {"events", strings.Join(e.GetEvents(), ", ")},
		{"headers", first(strings.Join(e.GetHeaderNames(), ", "), "none")}, {"state", endpointState(e)}, {"pending", fmt.Sprint(e.GetPending())}}
	if e.GetDescription() != "" {
		rows = append(rows, []string{"description", e.GetDescription()})
	}
	if e.GetPreviousSecretExpiresAt() != nil {
		rows = append(rows, []string{"old secret until", when(e.GetPreviousSecretExpiresAt())})
	}
	if secret != "" {
		rows = append(rows, []string{"secret", secret})
	}
	return rows
}

type webhookListCmd struct {
	admin
	paging    `embed:""`
	ofAccount `embed:""`
}

// Run lists one page.
func (c *webhookListCmd) Run(ctx context.Context, out io.Writer) error {
	return c.do(ctx, func(ctx context.Context, d doors) error {
		r, err := d.webhooks.ListEndpoints(ctx, &webhookv1.ListEndpointsRequest{AccountId: c.Account, After: c.After, Limit: c.Limit})
		if err != nil {
			return err
		}
		rows, last := [][]string{{"ENDPOINT", "URL", "STATE", "PENDING", "EVENTS"}}, ""
		for _, e := range r.GetEndpoints() {
			last = e.GetId()
			rows = append(rows, []string{e.GetId(), first(e.GetUrl(), "(callback_url)"), endpointState(e), fmt.Sprint(e.GetPending()), strings.Join(e.GetEvents(), ",")})
		}
		return c.answer(out, r, append(rows, more(r.GetHasMore(), last)...)...)
	})
}

type webhookCreateCmd struct {
	admin
	ofAccount   `embed:""`
	URL         string   `arg:"" help:"Where events are sent, https."`
	Description string   `help:"For people."`
	Event       []string `help:"An event that it takes, such as video.completed; repeat it for more. Every final one when left out." placeholder:"TYPE"`
	Header      []string `sep:"none" help:"A header that is sent with each request; repeat it for more." placeholder:"NAME: VALUE"`
}

// Run makes the endpoint.
func (c *webhookCreateCmd) Run(ctx context.Context, out io.Writer) error {
	headers, err := headerFlags(c.Header)
	if err != nil {
		return err
	}
	return c.do(ctx, func(ctx context.Context, d doors) error {
		r, err := d.webhooks.CreateEndpoint(ctx, &webhookv1.CreateEndpointRequest{AccountId: c.Account, Url: c.URL, Description: c.Description, Events: c.Event, Headers: headers})
		if err != nil {
			return err
		}
		return c.answer(out, r, endpointRows(r.GetEndpoint(), r.GetSecret())...)
	})
}

type webhookUpdateCmd struct {
	admin
	ofAccount     `embed:""`
	ID            string   `arg:"" help:"The endpoint's id, or default."`
	URL           *string  `help:"Where events are sent, https." placeholder:"URL"`
	Description   *string  `help:"For people." placeholder:"TEXT"`
	Event         []string `help:"All events that it takes; repeat it for more." placeholder:"TYPE"`
	Header        []string `sep:"none" help:"All headers that are sent with each request; repeat it for more." placeholder:"NAME: VALUE"`
	RemoveHeaders bool     `help:"Send no headers but Reelway's."`
	Enable        bool     `xor:"enabled" help:"Send events again, and those that waited."`
	Disable       bool     `xor:"enabled" help:"Let events wait."`
}

// Run changes what is given.
func (c *webhookUpdateCmd) Run(ctx context.Context, out io.Writer) error {
	headers, err := headerFlags(c.Header)
	if err != nil {
		return err
	}
	q := &webhookv1.UpdateEndpointRequest{AccountId: c.Account, Id: c.ID, Url: c.URL, Description: c.Description, Events: c.Event, Headers: headers, RemoveHeaders: c.RemoveHeaders}
	if c.Enable || c.Disable {
		q.Enabled = &c.Enable
	}
	return c.do(ctx, func(ctx context.Context, d doors) error {
		r, err := d.webhooks.UpdateEndpoint(ctx, q)
		if err != nil {
			return err
		}
		return c.answer(out, r.GetEndpoint(), endpointRows(r.GetEndpoint(), "")...)
	})
}

type webhookDeleteCmd struct {
	admin
	ofAccount `embed:""`
	ID        string `arg:"" help:"The endpoint's id."`
}

// Run deletes the endpoint.
func (c *webhookDeleteCmd) Run(ctx context.Context, out io.Writer) error {
	return c.do(ctx, func(ctx context.Context, d doors) error {
		r, err := d.webhooks.DeleteEndpoint(ctx, &webhookv1.DeleteEndpointRequest{AccountId: c.Account, Id: c.ID})
		if err != nil {
			return err
		}
		return c.answer(out, r.GetEndpoint(), []string{"deleted", r.GetEndpoint().GetId()})
	})
}

type webhookRotateCmd struct {
	admin
	ofAccount `embed:""`
	ID        string        `arg:"" help:"The endpoint's id, or default."`
	Overlap   time.Duration `default:"24h" help:"How long the old secret signs beside the new one; 0 ends it at once."`
}

// Run rotates the secret.
func (c *webhookRotateCmd) Run(ctx context.Context, out io.Writer) error {
	return c.do(ctx, func(ctx context.Context, d doors) error {
		r, err := d.webhooks.RotateSecret(ctx, &webhookv1.RotateSecretRequest{AccountId: c.Account, Id: c.ID, Overlap: durationpb.New(c.Overlap)})
		if err != nil {
			return err
		}
		return c.answer(out, r, endpointRows(r.GetEndpoint(), r.GetSecret())...)
	})
}

type webhookTestCmd struct {
	admin
	ofAccount `embed:""`
	ID        string `arg:"" help:"The endpoint's id."`
}

// Run sends a test and waits for its end.
func (c *webhookTestCmd) Run(ctx context.Context, out io.Writer) error {
	return c.within(ctx, 2*time.Minute, func(ctx context.Context, d doors) error {
		t, err := d.webhooks.TestEndpoint(ctx, &webhookv1.TestEndpointRequest{AccountId: c.Account, Id: c.ID})
		if err != nil {
			return err
		}
		look := time.NewTicker(200 * time.Millisecond)
		defer look.Stop()
		for {
			r, err := d.webhooks.GetDelivery(ctx, &webhookv1.GetDeliveryRequest{AccountId: c.Account, Id: t.GetDelivery().GetId()})
			if err != nil {
				return err
			}
			if r.GetDelivery().GetState() != webhookv1.DeliveryState_DELIVERY_STATE_PENDING {
				return c.answer(out, r, deliveryRows(r)...)
			}
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-look.C:
			}
		}
	})
}

// webhookStates are the states of a delivery for people.
var webhookStates = map[string]webhookv1.DeliveryState{"": webhookv1.DeliveryState_DELIVERY_STATE_UNSPECIFIED, "pending": webhookv1.DeliveryState_DELIVERY_STATE_PENDING,
	"delivered": webhookv1.DeliveryState_DELIVERY_STATE_DELIVERED, "failed": webhookv1.DeliveryState_DELIVERY_STATE_FAILED}

func webhookState(d *webhookv1.Delivery) string {
	for word, s := range webhookStates {
		if s == d.GetState() {
			return word
		}
	}
	return ""
}

func deliveryRows(r *webhookv1.GetDeliveryResponse) [][]string {
	d := r.GetDelivery()
	rows := [][]string{{"delivery", d.GetId()}, {"endpoint", d.GetEndpointId()}, {"event", d.GetType()}, {"video", d.GetVideoId()}, {"occurred", when(d.GetOccurredAt())},
		{"state", webhookState(d)}, {"next attempt", when(d.GetNextAttemptAt())}}
	for _, a := range r.GetAttempts() {
		rows = append(rows, []string{fmt.Sprintf("attempt %d", a.GetNumber()), when(a.GetAt()), fmt.Sprintf("%d ms", a.GetDurationMs()), first(brief(a.GetError()), fmt.Sprint(a.GetStatus())), brief(a.GetResponseBody())})
	}
	return rows
}

// brief is the beginning of a text that others wrote, for a table.
func brief(s string) string {
	s = strings.Join(strings.Fields(oneLine(s)), " ")
	if r := []rune(s); len(r) > 60 {
		return string(r[:60]) + "…"
	}
	return s
}

type webhookDeliveriesCmd struct {
	admin
	paging    `embed:""`
	ofAccount `embed:""`
	ID        string `arg:"" optional:"" help:"A delivery, to show its attempts."`
	Endpoint  string `help:"Only of this endpoint." placeholder:"ID"`
	Video     string `help:"Only of this video." placeholder:"ID"`
	State     string `enum:",pending,delivered,failed" default:"" help:"Only pending, delivered or failed ones."`
}

// Run shows one delivery, or lists one page.
func (c *webhookDeliveriesCmd) Run(ctx context.Context, out io.Writer) error {
	return c.do(ctx, func(ctx context.Context, d doors) error {
		if c.ID != "" {
			r, err := d.webhooks.GetDelivery(ctx, &webhookv1.GetDeliveryRequest{AccountId: c.Account, Id: c.ID})
			if err != nil {
				return err
			}
			return c.answer(out, r, deliveryRows(r)...)
		}
		r, err := d.webhooks.ListDeliveries(ctx, &webhookv1.ListDeliveriesRequest{AccountId: c.Account, EndpointId: c.Endpoint, VideoId: c.Video,
			State: webhookStates[c.State], After: c.After, Limit: c.Limit})
		if err != nil {
			return err
		}
		rows, last := [][]string{{"DELIVERY", "EVENT", "VIDEO", "STATE", "ATTEMPTS", "OCCURRED", "NEXT"}}, ""
		for _, x := range r.GetDeliveries() {
			last = x.GetId()
			rows = append(rows, []string{x.GetId(), x.GetType(), x.GetVideoId(), webhookState(x), fmt.Sprint(x.GetAttempts()), when(x.GetOccurredAt()), when(x.GetNextAttemptAt())})
		}
		return c.answer(out, r, append(rows, more(r.GetHasMore(), last)...)...)
	})
}

type webhookReplayCmd struct {
	admin
	ofAccount  `embed:""`
	ID         string    `arg:"" optional:"" help:"The delivery to send again."`
	Endpoint   string    `help:"The endpoint whose deliveries are sent again." placeholder:"ID"`
	From       time.Time `help:"Events that occurred from then on." placeholder:"RFC3339"`
	To         time.Time `help:"Events that occurred before then; now when left out." placeholder:"RFC3339"`
	OnlyFailed bool      `help:"Only what was given up."`
}

// Validate wants one delivery, or an endpoint and a time.
func (c *webhookReplayCmd) Validate() error {
	if (c.ID == "") == (c.Endpoint == "") || (c.Endpoint == "") != c.From.IsZero() {
		return errors.New("give the id of a delivery, or --endpoint and --from")
	}
	return c.admin.Validate()
}

// Run replays.
func (c *webhookReplayCmd) Run(ctx context.Context, out io.Writer) error {
	return c.do(ctx, func(ctx context.Context, d doors) error {
		if c.ID != "" {
			r, err := d.webhooks.ReplayDelivery(ctx, &webhookv1.ReplayDeliveryRequest{AccountId: c.Account, Id: c.ID})
			if err != nil {
				return err
			}
			return c.answer(out, r.GetDelivery(), []string{"replayed", r.GetDelivery().GetId()})
		}
		q := &webhookv1.ReplayEndpointRequest{AccountId: c.Account, Id: c.Endpoint, From: timestamppb.New(c.From), OnlyFailed: c.OnlyFailed}
		if !c.To.IsZero() {
			q.To = timestamppb.New(c.To)
		}
		r, err := d.webhooks.ReplayEndpoint(ctx, q)
		if err != nil {
			return err
		}
		return c.answer(out, r, []string{"replayed", fmt.Sprint(r.GetDeliveries())})
	})
}
