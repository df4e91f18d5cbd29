package intake

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"reelway.dev/pkg/auth"
	"reelway.dev/pkg/fault"
	"reelway.dev/pkg/rpc"
	"reelway.dev/pkg/videojson"
	webhookv1 "reelway.dev/proto/gen/reelway/webhook/v1"
)

// registerWebhooks opens the ledger's WebhookService to accounts.
func (s *Service) registerWebhooks(r grpc.ServiceRegistrar) {
	h := s.d.Webhooks
	s.open(r, webhookv1.WebhookService_ServiceDesc,
		ofOwn(s, webhookv1.WebhookService_CreateEndpoint_FullMethodName, auth.VideosWrite, h.CreateEndpoint),
		ofOwn(s, webhookv1.WebhookService_ListEndpoints_FullMethodName, auth.VideosRead, h.ListEndpoints),
		ofOwn(s, webhookv1.WebhookService_GetEndpoint_FullMethodName, auth.VideosRead, h.GetEndpoint),
		ofOwn(s, webhookv1.WebhookService_UpdateEndpoint_FullMethodName, auth.VideosWrite, h.UpdateEndpoint),
		ofOwn(s, webhookv1.WebhookService_DeleteEndpoint_FullMethodName, auth.VideosWrite, h.DeleteEndpoint),
		ofOwn(s, webhookv1.WebhookService_RotateSecret_FullMethodName, auth.VideosWrite, h.RotateSecret),
		ofOwn(s, webhookv1.WebhookService_TestEndpoint_FullMethodName, auth.VideosWrite, h.TestEndpoint),
		ofOwn(s, webhookv1.WebhookService_ListDeliveries_FullMethodName, auth.VideosRead, h.ListDeliveries),
		ofOwn(s, webhookv1.WebhookService_GetDelivery_FullMethodName, auth.VideosRead, h.GetDelivery),
		ofOwn(s, webhookv1.WebhookService_ReplayDelivery_FullMethodName, auth.VideosWrite, h.ReplayDelivery),
		ofOwn(s, webhookv1.WebhookService_ReplayEndpoint_FullMethodName, auth.VideosWrite, h.ReplayEndpoint),
	)
}

// ofOwn is a method about the caller's own account, whose requests name the
// account in account_id.
func ofOwn[Q, A any](s *Service, method, scope string, call func(context.Context, *Q, ...grpc.CallOption) (*A, error)) grpc.MethodDesc {
	return served(method, func(ctx context.Context, q *Q) (*A, error) {
		p, err := s.who(ctx, scope)
		if err != nil {
			return nil, err
		}
		return own(ctx, s, p, rpc.RequestID(ctx), scope, call, q)
	})
}

// own calls the ledger about p's account. A key of scope admin may name another
// one. What writes needs an active account.
func own[Q, A any](ctx context.Context, s *Service, p auth.Principal, rid, scope string, call func(context.Context, *Q, ...grpc.CallOption) (*A, error), q *Q) (*A, error) {
	m, ok := any(q).(proto.Message)
	if !ok {
		return nil, fmt.Errorf("own: %T is no message", q)
	}
	if scope != auth.VideosRead {
		if err := p.Active(); err != nil {
			return nil, err
		}
	}
	field := m.ProtoReflect().Descriptor().Fields().ByName("account_id")
	named := m.ProtoReflect().Get(field).String()
	switch {
	case named == "":
		m.ProtoReflect().Set(field, protoreflect.ValueOfString(p.AccountID))
	case named != p.AccountID:
		if err := p.Require(auth.Admin); err != nil {
			return nil, fault.New(fault.NotFound, "no such account")
		}
	}
	if u, ok := any(q).(interface{ GetUrl() string }); ok && u.GetUrl() != "" {
		if err := s.d.CheckURL(u.GetUrl()); err != nil {
			return nil, invalid([]fault.Field{{Name: "url", Message: err.Error()}})
		}
	}
	a, err := call(auth.Actor{KeyID: p.KeyID, RequestID: rid}.Outgoing(ctx), q)
	if err != nil {
		return nil, fault.FromStatus(err)
	}
	return a, nil
}

// answer is a route that reads a request, asks the ledger, and shows the answer.
func answer[Q, A any](s *Service, scope string, call func(context.Context, *Q, ...grpc.CallOption) (*A, error), read func(*http.Request) (*Q, error), show func(*A) any) handler {
	return func(w http.ResponseWriter, r *http.Request, p auth.Principal) error {
		r.Body = http.MaxBytesReader(w, r.Body, MaxBody)
		q, err := read(r)
		if err != nil {
			return err
		}
		a, err := own(r.Context(), s, p, r.Header.Get("X-Request-Id"), scope, call, q)
		if err != nil {
			return err
		}
		videojson.Write(w, http.StatusOK, show(a))
		return nil
	}
}

// bodyInto reads a JSON body; one that is empty leaves b as it is.
func bodyInto(r *http.Request, b any) error {
	if r.ContentLength == 0 {
		return nil
	}
	bad, err := decodeJSON(r.Body, b)
	var large *http.MaxBytesError
	var read *readError
	switch {
	case errors.As(err, &large):
		return fault.New(fault.PayloadTooLarge, "the body is larger than 1 MiB")
	case errors.As(err, &read):
		return invalid([]fault.Field{{Name: "body", Message: "ended before it was complete"}})
	case err != nil:
		return err
	case len(bad) > 0:
		return invalid(bad)
	}
	return nil
}

// endpointBody is a request for an endpoint as callers write it.
type endpointBody struct {
	URL         string            `json:"url"`
	Description string            `json:"description"`
	Events      []string          `json:"events"`
	Headers     map[string]string `json:"headers"`
}

func createEndpoint(r *http.Request) (*webhookv1.CreateEndpointRequest, error) {
	var b endpointBody
	err := bodyInto(r, &b)
	return &webhookv1.CreateEndpointRequest{Url: b.URL, Description: b.Description, Events: b.Events, Headers: b.Headers}, err
}

// endpointChanges are what is to change; what is left out stays.
type endpointChanges struct {
	URL         *string            `json:"url"`
	Description *string            `json:"description"`
	Events      []string           `json:"events"`
	Headers     *map[string]string `json:"headers"`
	Enabled     *bool              `json:"enabled"`
}

func updateEndpoint(r *http.Request) (*webhookv1.UpdateEndpointRequest, error) {
	var b endpointChanges
	err := bodyInto(r, &b)
	q := &webhookv1.UpdateEndpointRequest{Id: r.PathValue("id"), Url: b.URL, Description: b.Description, Events: b.Events, Enabled: b.Enabled}
	if b.Headers != nil {
		q.Headers, q.RemoveHeaders = *b.Headers, len(*b.Headers) == 0
	}
	return q, err
}

// rotateBody is a request for a new secret.
type rotateBody struct {
	Overlap *int64 `json:"overlap_seconds"`
}

func rotateSecret(r *http.Request) (*webhookv1.RotateSecretRequest, error) {
	var b rotateBody
	q := &webhookv1.RotateSecretRequest{Id: r.PathValue("id")}
	if err := bodyInto(r, &b); err != nil {
		return nil, err
	}
	if b.Overlap != nil {
		if *b.Overlap < 0 || *b.Overlap > 7*86400 {
			return nil, invalid([]fault.Field{{Name: "overlap_seconds", Message: "must be 0 to 604800"}})
		}
		q.Overlap = durationpb.New(time.Duration(*b.Overlap) * time.Second)
	}
	return q, nil
}

// replayBody says what is sent again.
type replayBody struct {
	From       string `json:"from"`
	To         string `json:"to"`
	OnlyFailed *bool  `json:"only_failed"`
}

func replayEndpoint(r *http.Request) (*webhookv1.ReplayEndpointRequest, error) {
	var b replayBody
	if err := bodyInto(r, &b); err != nil {
		return nil, err
	}
	q := &webhookv1.ReplayEndpointRequest{Id: r.PathValue("id"), OnlyFailed: b.OnlyFailed != nil && *b.OnlyFailed}
	var bad []fault.Field
	for _, t := range []struct {
		name, text string
		into       **timestamppb.Timestamp
	}{{"from", b.From, &q.From}, {"to", b.To, &q.To}} {
		at, err := time.Parse(time.RFC3339, t.text)
		switch {
		case err == nil:
			*t.into = timestamppb.New(at)
		case t.text != "" || t.name == "from":
			bad = append(bad, fault.Field{Name: t.name, Message: "must be a time such as 2026-11-25T09:00:00Z"})
		}
	}
	if len(bad) > 0 {
		return nil, invalid(bad)
	}
	return q, nil
}

// paged reads a query string that may hold after, limit and some more.
func paged(q url.Values, more ...string) (after string, limit int32, _ error) {
	known := append([]string{"after", "limit"}, more...)
	var bad []fault.Field
	for _, name := range slices.Sorted(maps.Keys(q)) {
		if !slices.Contains(known, name) {
			bad = append(bad, fault.Field{Name: name, Message: "is no parameter of this list: " + strings.Join(known, ", ")})
		}
	}
	if v := q.Get("limit"); v != "" {
		n, err := strconv.ParseInt(v, 10, 32)
		if err != nil || n < 1 || n > 100 {
			bad = append(bad, fault.Field{Name: "limit", Message: "must be 1 to 100"})
		}
		limit = int32(n)
	}
	if len(bad) > 0 {
		return "", 0, invalid(bad)
	}
	return q.Get("after"), limit, nil
}

func listEndpoints(r *http.Request) (*webhookv1.ListEndpointsRequest, error) {
	after, limit, err := paged(r.URL.Query())
	return &webhookv1.ListEndpointsRequest{After: after, Limit: limit}, err
}

// deliveryStates are the words of the API.
var deliveryStates = map[string]webhookv1.DeliveryState{
	"": webhookv1.DeliveryState_DELIVERY_STATE_UNSPECIFIED, "pending": webhookv1.DeliveryState_DELIVERY_STATE_PENDING,
	"delivered": webhookv1.DeliveryState_DELIVERY_STATE_DELIVERED, "failed": webhookv1.DeliveryState_DELIVERY_STATE_FAILED,
}

func listDeliveries(r *http.Request) (*webhookv1.ListDeliveriesRequest, error) {
	q := r.URL.Query()
	after, limit, err := paged(q, "endpoint", "video", "state")
	if err != nil {
		return nil, err
	}
	state, ok := deliveryStates[q.Get("state")]
	if !ok {
		return nil, invalid([]fault.Field{{Name: "state", Message: "must be pending, delivered or failed"}})
	}
	return &webhookv1.ListDeliveriesRequest{EndpointId: q.Get("endpoint"), VideoId: q.Get("video"), State: state, After: after, Limit: limit}, nil
}

// endpointObject is an endpoint as JSON.
type endpointObject struct {
	ID                      string   `json:"id"`
	Object                  string   `json:"object"`
	URL                     *string  `json:"url"` // null for the default endpoint
	Default                 bool     `json:"default"`
	Description             string   `json:"description"`
	Events                  []string `json:"events"`
	Headers                 []string `json:"headers"` // the names
	Enabled                 bool     `json:"enabled"`
	DisabledReason          string   `json:"disabled_reason,omitempty"`
	DisabledAt              *int64   `json:"disabled_at,omitempty"`
	FailingSince            *int64   `json:"failing_since"`
	Pending                 int64    `json:"pending"`
	Secret                  string   `json:"secret,omitempty"`
	PreviousSecretExpiresAt *int64   `json:"previous_secret_expires_at,omitempty"`
	CreatedAt               int64    `json:"created_at"`
}

func endpointJSON(e *webhookv1.Endpoint, secret string) endpointObject {
	o := endpointObject{ID: e.GetId(), Object: "webhook_endpoint", Default: e.GetUrl() == "", Description: e.GetDescription(), Events: e.GetEvents(),
		Headers: append([]string{}, e.GetHeaderNames()...), Enabled: e.GetEnabled(), DisabledReason: e.GetDisabledReason(), DisabledAt: seconds(e.GetDisabledAt()),
		FailingSince: seconds(e.GetFailingSince()), Pending: e.GetPending(), Secret: secret, PreviousSecretExpiresAt: seconds(e.GetPreviousSecretExpiresAt()),
		CreatedAt: e.GetCreatedAt().GetSeconds()}
	if !o.Default {
		u := e.GetUrl()
		o.URL = &u
	}
	return o
}

// deliveryObject is a delivery as JSON.
type deliveryObject struct {
	ID            string          `json:"id"`
	Object        string          `json:"object"`
	Endpoint      string          `json:"endpoint"`
	Video         string          `json:"video,omitempty"`
	Type          string          `json:"type"`
	State         string          `json:"state"`
	Attempts      int32           `json:"attempts"`
	NextAttemptAt *int64          `json:"next_attempt_at"`
	OccurredAt    int64           `json:"occurred_at"`
	EndedAt       *int64          `json:"ended_at"`
	CallbackURL   string          `json:"callback_url,omitempty"`
	Log           []attemptObject `json:"log,omitempty"`
}

type attemptObject struct {
	Number     int32           `json:"number"`
	At         string          `json:"at"`
	DurationMS int64           `json:"duration_ms"`
	Request    requestObject   `json:"request"`
	Response   *responseObject `json:"response"` // null when nothing answered
	Error      string          `json:"error,omitempty"`
}

type requestObject struct {
	URL     string            `json:"url"`
	Headers map[string]string `json:"headers"`
	Body    string            `json:"body"`
}

type responseObject struct {
	Status int32  `json:"status"`
	Body   string `json:"body"`
}

func deliveryJSON(d *webhookv1.Delivery, log []*webhookv1.Attempt) deliveryObject {
	o := deliveryObject{ID: d.GetId(), Object: "webhook_delivery", Endpoint: d.GetEndpointId(), Video: d.GetVideoId(), Type: d.GetType(), Attempts: d.GetAttempts(),
		NextAttemptAt: seconds(d.GetNextAttemptAt()), OccurredAt: d.GetOccurredAt().GetSeconds(), EndedAt: seconds(d.GetEndedAt()), CallbackURL: d.GetCallbackUrl()}
	for word, state := range deliveryStates {
		if state == d.GetState() {
			o.State = word
		}
	}
	for _, a := range log {
		x := attemptObject{Number: a.GetNumber(), At: a.GetAt().AsTime().UTC().Format(time.RFC3339Nano), DurationMS: a.GetDurationMs(),
			Request: requestObject{a.GetUrl(), a.GetRequestHeaders(), a.GetRequestBody()}, Error: a.GetError()}
		if a.GetStatus() > 0 {
			x.Response = &responseObject{a.GetStatus(), a.GetResponseBody()}
		}
		o.Log = append(o.Log, x)
	}
	return o
}

func seconds(t *timestamppb.Timestamp) *int64 {
	if t == nil {
		return nil
	}
	n := t.GetSeconds()
	return &n
}
