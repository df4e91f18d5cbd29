package sdk

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/replicate/replicate-go"
)

func TestReplicate(t *testing.T) {
	t.Parallel()
	srv := simulate(t)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	open := func(token string) *replicate.Client {
		c, err := replicate.NewClient(replicate.WithToken(token), replicate.WithBaseURL(srv.URL+"/replicate/v1"), replicate.WithHTTPClient(srv.Client()))
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	c := open(key)
	callbacks, came := receive(t)
	submit := func(c *replicate.Client, prompt string) (*replicate.Prediction, error) {
		hook := &replicate.Webhook{URL: callbacks, Events: []replicate.WebhookEventType{replicate.WebhookEventCompleted}}
		return c.CreatePredictionWithModel(ctx, "bytedance", "seedance-1-pro", replicate.PredictionInput{"prompt": prompt, "duration": 5}, hook, false)
	}
	p, err := submit(c, "A paper boat")
	if err != nil || p.Status != replicate.Starting {
		t.Fatalf("%+v %v", p, err)
	}
	if err := c.Wait(ctx, p, replicate.WithPollingInterval(100*time.Millisecond)); err != nil || p.Status != replicate.Succeeded {
		t.Fatalf("%+v %v", p, err)
	}
	address, _ := p.Output.(string)
	resp, err := srv.Client().Get(address)
	if err != nil {
		t.Fatal(err)
	}
	data, err := io.ReadAll(resp.Body)
	if err := errors.Join(err, resp.Body.Close()); err != nil || !isVideo(data) {
		t.Errorf("%s: %d bytes, %v", address, len(data), err)
	}

	// A callback that is wanted for the end alone is the first and the last.
	told := next(t, came)
	secret, err := c.GetDefaultWebhookSecret(ctx)
	if err != nil {
		t.Fatal(err)
	}
	verify := func(body []byte) (bool, error) {
		return replicate.ValidateWebhookRequest(&http.Request{Header: told.header, Body: io.NopCloser(bytes.NewReader(body))}, *secret)
	}
	if ok, err := verify(told.body); !ok || err != nil || !bytes.Contains(told.body, []byte(`"status":"succeeded"`)) {
		t.Errorf("%v %v: %s", ok, err, told.body)
	}
	if ok, _ := verify(append(told.body, ' ')); ok {
		t.Error("a changed body is verified")
	}

	failed, err := submit(c, "[fault:policy]")
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Wait(ctx, failed, replicate.WithPollingInterval(100*time.Millisecond)); err != nil || failed.Status != replicate.Failed || failed.Error == nil {
		t.Errorf("%+v %v", failed, err)
	}
	long, err := submit(c, "A train")
	if err != nil {
		t.Fatal(err)
	}
	if long, err = c.CancelPrediction(ctx, long.ID); err != nil || long.Status != replicate.Canceled {
		t.Errorf("%+v %v", long, err)
	}
	var e *replicate.APIError
	if _, err := submit(c, ""); !errors.As(err, &e) || e.Status != http.StatusUnprocessableEntity || e.Detail != "- input: prompt is required" {
		t.Error(err)
	}
	if _, err := submit(open("wrong"), "p"); !errors.As(err, &e) || e.Status != http.StatusUnauthorized {
		t.Error(err)
	}
}
