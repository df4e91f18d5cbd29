package notifier

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"reelway.dev/pkg/safehttp"
	"reelway.dev/pkg/webhooksig"
	webhookv1 "reelway.dev/proto/gen/reelway/webhook/v1"
)

// message is the body of a webhook, as Standard Webhooks advises and with the
// fields of OpenAI's events beside.
type message struct {
	ID        string `json:"id"` // the webhook-id
	Object    string `json:"object"`
	Type      string `json:"type"`
	Timestamp string `json:"timestamp"` // of the event
	CreatedAt int64  `json:"created_at"`
	Data      any    `json:"data"`
}

// body makes what is sent, and the signature of the video's link in it, which is
// not logged.
func (w *Webhooks) body(ctx context.Context, c *webhookv1.Claim) (body []byte, signature string, _ error) {
	at := c.GetOccurredAt().AsTime().UTC()
	m := message{ID: c.GetId(), Object: "event", Type: c.GetType(), Timestamp: at.Format(time.RFC3339Nano), CreatedAt: at.Unix(),
		Data: map[string]string{"object": "test", "endpoint_id": c.GetEndpointId()}}
	if v := c.GetVideo(); v != nil {
		o := object(ctx, w.d.Files, w.d.Logger, v)
		_, signature, _ = strings.Cut(o.URL, "?")
		m.Data = o
	}
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(m); err != nil {
		return nil, "", fmt.Errorf("marshal webhook: %w", err)
	}
	return bytes.TrimSuffix(buf.Bytes(), []byte("\n")), signature, nil
}

// opened is the secrets of a claim.
type opened struct {
	keys    [][]byte // that sign, the newest first
	headers map[string]string
	hidden  []string // what must not be logged
}

func (w *Webhooks) unseal(c *webhookv1.Claim) (l opened, err error) {
	for _, sealed := range c.GetSecrets() {
		secret, err := w.d.Seal.Open(sealed, c.GetEndpointId())
		if err != nil {
			return l, fmt.Errorf("open secret: %w", err)
		}
		key, err := webhooksig.StandardKey(string(secret))
		if err != nil {
			return l, fmt.Errorf("read secret: %w", err)
		}
		l.keys, l.hidden = append(l.keys, key), append(l.hidden, string(secret), strings.TrimPrefix(string(secret), "whsec_"))
	}
	if len(c.GetHeaders()) == 0 {
		return l, nil
	}
	raw, err := w.d.Seal.Open(c.GetHeaders(), c.GetEndpointId())
	if err == nil {
		err = json.Unmarshal(raw, &l.headers)
	}
	if err != nil {
		return l, fmt.Errorf("open headers: %w", err)
	}
	for _, v := range l.headers {
		// Of "Bearer x" the x alone may come back.
		for _, part := range append(strings.Fields(v), v) {
			if len(part) >= 4 {
				l.hidden = append(l.hidden, part)
			}
		}
	}
	return l, nil
}

// deliver makes one attempt and reports it. One whose secret cannot be opened, or
// that was cut by the end of the process, is not reported: it comes again.
func (w *Webhooks) deliver(ctx context.Context, c *webhookv1.Claim) {
	if c.GetTraceparent() != "" {
		ctx = propagation.TraceContext{}.Extract(ctx, propagation.MapCarrier{"traceparent": c.GetTraceparent()})
	}
	ctx, span := otel.Tracer("reelway.dev/services/notifier").Start(ctx, "deliver webhook", trace.WithSpanKind(trace.SpanKindClient),
		trace.WithAttributes(attribute.String("reelway.webhook.id", c.GetId()), attribute.String("reelway.webhook.type", c.GetType()),
			attribute.String("reelway.webhook.endpoint", c.GetEndpointId()), attribute.Int("reelway.webhook.attempt", int(c.GetAttempt()))))
	defer span.End()
	log := w.d.Logger.With("delivery_id", c.GetId(), "endpoint_id", c.GetEndpointId(), "attempt", c.GetAttempt())
	l, err := w.unseal(c)
	var body []byte
	var signature string
	if err == nil {
		body, signature, err = w.body(ctx, c)
	}
	if err != nil {
		span.SetStatus(codes.Error, err.Error())
		log.ErrorContext(ctx, "webhook not sent", "error", err.Error())
		w.attempts.Add(ctx, 1, metric.WithAttributes(attribute.String("outcome", "unsent"), attribute.String("answer", "none")))
		return
	}
	l.hidden = append(l.hidden, signature)
	o, after := w.post(ctx, c, l, body)
	o.RequestBody = text(hide(string(body), []string{signature}), excerpt)
	if ctx.Err() != nil {
		return
	}
	span.SetAttributes(attribute.Int("http.response.status_code", int(o.GetStatus())))
	verdict, err := w.report(ctx, &webhookv1.ReportDeliveryRequest{Id: c.GetId(), Attempt: c.GetAttempt(), Outcome: o, RetryAfter: durationpb.New(after)})
	if err != nil {
		span.SetStatus(codes.Error, err.Error())
		log.WarnContext(ctx, "webhook attempt not reported; it will be sent again", "error", err.Error())
		return
	}
	if verdict != "delivered" {
		span.SetStatus(codes.Error, verdict)
	}
	w.count(ctx, c, o, verdict)
	log.DebugContext(ctx, "webhook attempted", "verdict", verdict, "status", o.GetStatus())
}

const (
	excerpt    = 1 << 10 // of a body, in the log
	readMost   = 4 << 10 // of an answer
	errorMost  = 512
	userAgent  = "Reelway-Webhooks/1"
	bodyFormat = "application/json"
)

// post sends the request, and returns what is logged of it and how long the
// endpoint asks to wait.
func (w *Webhooks) post(ctx context.Context, c *webhookv1.Claim, l opened, body []byte) (*webhookv1.Attempt, time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, w.cfg.Timeout)
	defer cancel()
	now := time.Now()
	o := &webhookv1.Attempt{Number: c.GetAttempt(), At: timestamppb.New(now), Url: safehttp.Bare(c.GetUrl()), RequestHeaders: map[string]string{}}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.GetUrl(), bytes.NewReader(body))
	if err != nil {
		o.Error = "the URL cannot be called"
		return o, 0
	}
	for name, value := range l.headers {
		req.Header.Set(name, value)
		o.RequestHeaders[name] = "[hidden]"
	}
	stamp := strconv.FormatInt(now.Unix(), 10)
	for name, value := range map[string]string{"content-type": bodyFormat, "user-agent": userAgent, "webhook-id": c.GetId(), "webhook-timestamp": stamp} {
		req.Header.Set(name, value)
		o.RequestHeaders[name] = value
	}
	signatures := make([]string, len(l.keys))
	for i, key := range l.keys {
		signatures[i] = "v1," + base64.StdEncoding.EncodeToString(webhooksig.StandardMAC(key, c.GetId(), stamp, body))
	}
	req.Header.Set("webhook-signature", strings.Join(signatures, " "))
	o.RequestHeaders["webhook-signature"] = "[hidden]"
	hidden := append(append([]string{}, l.hidden...), signatures...)
	hidden = append(hidden, req.URL.RawQuery)
	resp, err := w.client.Do(req)
	if err != nil {
		o.DurationMs = time.Since(now).Milliseconds()
		o.Error = text(hide(reason(err), hidden), errorMost)
		return o, 0
	}
	defer func() { _ = resp.Body.Close() }()
	// What it says is for the log alone: a body that ends early changes nothing.
	answer, _ := io.ReadAll(io.LimitReader(resp.Body, readMost))
	o.DurationMs, o.Status = time.Since(now).Milliseconds(), int32(resp.StatusCode)
	o.ResponseBody = text(hide(string(answer), hidden), excerpt)
	return o, retryAfter(resp.Header.Get("Retry-After"), now)
}

// reason is an error without the URL that http.Client puts before it.
func reason(err error) string {
	var u *url.Error
	var n net.Error
	switch {
	case errors.As(err, &n) && n.Timeout(), errors.Is(err, context.DeadlineExceeded):
		return "no answer in time"
	case errors.As(err, &u):
		return u.Err.Error()
	}
	return err.Error()
}

func hide(s string, hidden []string) string {
	for _, h := range hidden {
		if h != "" {
			s = strings.ReplaceAll(s, h, "[hidden]")
		}
	}
	return s
}

// text is what a database takes of s, at most so many bytes.
func text(s string, most int) string {
	s = strings.ReplaceAll(strings.ToValidUTF8(s, "\uFFFD"), "\x00", "\uFFFD")
	if len(s) <= most {
		return s
	}
	for most > 0 && !utf8.RuneStart(s[most]) {
		most--
	}
	return s[:most]
}

// retryAfter reads seconds or an HTTP date; 0 for neither, and for the past.
func retryAfter(v string, now time.Time) time.Duration {
	if n, err := strconv.Atoi(v); err == nil {
		return time.Duration(min(max(n, 0), 7*86400)) * time.Second
	}
	if t, err := http.ParseTime(v); err == nil {
		return max(t.Sub(now), 0)
	}
	return 0
}
