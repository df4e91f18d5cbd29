package notifier_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/timestamppb"

	"reelway.dev/pkg/safehttp"
	"reelway.dev/pkg/seal"
	webhookv1 "reelway.dev/proto/gen/reelway/webhook/v1"
	"reelway.dev/services/notifier"
)

const hookSecret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"

// desk stands for the ledger: it hands out each claim once and keeps the reports.
type desk struct {
	mu      sync.Mutex
	claims  []*webhookv1.Claim
	reports chan *webhookv1.ReportDeliveryRequest
}

func (d *desk) ClaimDeliveries(context.Context, *webhookv1.ClaimDeliveriesRequest, ...grpc.CallOption) (*webhookv1.ClaimDeliveriesResponse, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	r := &webhookv1.ClaimDeliveriesResponse{Claims: d.claims}
	d.claims = nil
	return r, nil
}

func (d *desk) ReportDelivery(_ context.Context, r *webhookv1.ReportDeliveryRequest, _ ...grpc.CallOption) (*webhookv1.ReportDeliveryResponse, error) {
	d.reports <- r
	return &webhookv1.ReportDeliveryResponse{Verdict: "retried"}, nil
}

// signed makes links that hold a signature.
type signed struct{}

func (signed) SignedURL(_ context.Context, key string) (string, time.Time, error) {
	return "http://files/" + key + "?expires=1&signature=of-the-file", time.Now(), nil
}

// send has each URL called once, and returns what was reported, by URL.
func send(t *testing.T, guard safehttp.Config, timeout time.Duration, headers map[string]string, urls ...string) map[string]*webhookv1.ReportDeliveryRequest {
	t.Helper()
	keys, err := seal.Open(seal.Config{})
	if err != nil {
		t.Fatal(err)
	}
	raw, err := json.Marshal(headers)
	if err != nil {
		t.Fatal(err)
	}
	d := &desk{reports: make(chan *webhookv1.ReportDeliveryRequest, len(urls))}
	for i, u := range urls {
		d.claims = append(d.claims, &webhookv1.Claim{Id: fmt.Sprint("msg_", i), Attempt: 1, EndpointId: "whe_1", Url: u, Type: "video.completed", OccurredAt: timestamppb.Now(),
			Video: video("video_1", last), Secrets: [][]byte{keys.Seal([]byte(hookSecret), "whe_1")}, Headers: keys.Seal(raw, "whe_1")})
	}
	w, err := notifier.NewWebhooks(notifier.WebhookConfig{Concurrency: 64, PerEndpoint: 4, Timeout: timeout, Poll: 10 * time.Millisecond},
		notifier.WebhookDeps{Deliveries: d, Seal: keys, Guard: guard, Files: signed{}, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for _, c := range w.Components() {
		wg.Go(func() {
			if err := c.Run(ctx); err != nil {
				t.Error(err)
			}
		})
	}
	defer func() { cancel(); wg.Wait() }()
	out := map[string]*webhookv1.ReportDeliveryRequest{}
	for range urls {
		select {
		case r := <-d.reports:
			var i int
			if _, err := fmt.Sscanf(r.GetId(), "msg_%d", &i); err != nil {
				t.Fatal(err)
			}
			out[urls[i]] = r
		case <-time.After(time.Minute):
			t.Fatal("not all was reported in a minute")
		}
	}
	return out
}

// No delivery reaches an address that is not public, however it is spelt, and the
// listener is the witness.
func TestWebhooksReachPublicAddressesOnly(t *testing.T) {
	t.Parallel()
	var lc net.ListenConfig
	l, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var connects atomic.Int64
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			connects.Add(1)
			_ = c.Close()
		}
	})
	t.Cleanup(func() { _ = l.Close(); wg.Wait() })
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	var urls []string
	for _, host := range []string{"127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "127.1", "2130706433", "0x7f.0.0.1", "0.0.0.0", "10.0.0.1", "169.254.169.254", "metadata.internal"} {
		urls = append(urls, "https://"+host+":"+port+"/hook", "http://"+host+":"+port+"/hook", "https://"+host+"/hook")
	}
	for u, r := range send(t, safehttp.Config{}, 5*time.Second, nil, urls...) {
		if r.GetOutcome().GetStatus() != 0 || r.GetOutcome().GetError() == "" {
			t.Errorf("%s: %v", u, r)
		}
	}
	// What gets past the spelling is judged when it is dialled.
	for u, r := range send(t, safehttp.Config{AllowHTTP: true}, 5*time.Second, nil, "http://127.0.0.1:"+port, "http://localtest.localhost.:"+port) {
		if r.GetOutcome().GetStatus() != 0 || !strings.Contains(r.GetOutcome().GetError(), "not allowed") {
			t.Errorf("%s: %v", u, r)
		}
	}
	if n := connects.Load(); n != 0 {
		t.Errorf("%d connections", n)
	}
}

// What is logged of an attempt: the answer without what must not be kept, of
// bounded length, and the reason where nothing answered.
func TestWebhookAttemptIsLogged(t *testing.T) {
	t.Parallel()
	stall := make(chan struct{})
	var followed atomic.Int64
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/echo":
			w.Header().Set("Retry-After", "90")
			w.WriteHeader(http.StatusServiceUnavailable)
			_, _ = fmt.Fprintf(w, "\x00\xff%v %s %s", r.Header, r.URL.RawQuery, strings.TrimPrefix(hookSecret, "whsec_"))
		case "/long":
			_, _ = io.WriteString(w, strings.Repeat("€", 5000))
		case "/redirect":
			http.Redirect(w, r, "/followed", http.StatusTemporaryRedirect)
		case "/followed":
			followed.Add(1)
		case "/stall":
			select {
			case <-stall:
			case <-r.Context().Done():
			}
		}
	}))
	t.Cleanup(func() { close(stall); srv.Close() })
	dev := safehttp.Config{AllowHTTP: true, AllowPrivate: true, Redirects: 3}
	got := send(t, dev, 2*time.Second, map[string]string{"Authorization": "Bearer the-customers-token", "X-Team": "film"},
		srv.URL+"/echo?key=in-the-query", srv.URL+"/long", srv.URL+"/redirect", srv.URL+"/stall", "http://127.0.0.1:1/refused")
	echo := got[srv.URL+"/echo?key=in-the-query"]
	o := echo.GetOutcome()
	if o.GetStatus() != 503 || echo.GetRetryAfter().AsDuration() != 90*time.Second || o.GetUrl() != srv.URL+"/echo" || !strings.Contains(o.GetResponseBody(), "[hidden]") ||
		!strings.Contains(o.GetResponseBody(), "Webhook-Id:[msg_0]") || o.GetRequestHeaders()["webhook-id"] != "msg_0" || !strings.Contains(o.GetRequestBody(), `"id":"video_1"`) || !strings.Contains(o.GetRequestBody(), "http://files/video_1.mp4?[hidden]") {
		t.Errorf("%v", echo)
	}
	for _, secret := range []string{"the-customers-token", "in-the-query", "v1,", strings.TrimPrefix(hookSecret, "whsec_"), "\x00", "film", "of-the-file"} {
		if strings.Contains(fmt.Sprint(o.GetResponseBody(), o.GetRequestBody(), o.GetRequestHeaders(), o.GetUrl(), o.GetError()), secret) {
			t.Errorf("%q is logged: %v", secret, o)
		}
	}
	if body := got[srv.URL+"/long"].GetOutcome().GetResponseBody(); len(body) > 1024 || len(body) < 1000 || strings.Trim(body, "€") != "" {
		t.Errorf("an excerpt of %d bytes", len(body))
	}
	if o := got[srv.URL+"/redirect"].GetOutcome(); o.GetStatus() != 307 || followed.Load() != 0 {
		t.Errorf("%v, followed %d", o, followed.Load())
	}
	if o := got[srv.URL+"/stall"].GetOutcome(); o.GetStatus() != 0 || o.GetError() != "no answer in time" {
		t.Errorf("%v", o)
	}
	if o := got["http://127.0.0.1:1/refused"].GetOutcome(); o.GetStatus() != 0 || !strings.Contains(o.GetError(), "refused") {
		t.Errorf("%v", o)
	}
}
