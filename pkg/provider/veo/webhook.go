package veo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"reelway.dev/pkg/provider"
	"reelway.dev/pkg/webhooksig"
)

// ParseWebhook implements provider.WebhookParser. Both kinds sign in the header
// Webhook-Signature: a per-request one with an RS256 JWT, a static one as
// Standard Webhooks do.
func (a *Adapter) ParseWebhook(ctx context.Context, h http.Header, body []byte, now time.Time) (provider.Report, error) {
	if err := a.verify(ctx, h, body, now); err != nil {
		return provider.Report{}, err
	}
	return parse(body)
}

func (a *Adapter) verify(ctx context.Context, h http.Header, body []byte, now time.Time) error {
	sig := h.Get("Webhook-Signature")
	if strings.Contains(sig, ",") { // "v1,…", which no JWT contains
		if len(a.cfg.WebhookKeys) == 0 || webhooksig.Standard(a.cfg.WebhookKeys, h, body, now) != nil {
			return provider.ErrBadSignature
		}
		return nil
	}
	_, err := webhooksig.RS256(ctx, a.jwks, sig, a.cfg.Audience, now)
	switch {
	case errors.Is(err, webhooksig.ErrKeysUnavailable):
		return fmt.Errorf("%w: %w", provider.ErrKeysUnavailable, err)
	case err != nil:
		return provider.ErrBadSignature
	}
	return nil
}

// VerifiesWebhooks implements provider.Verifier.
func (a *Adapter) VerifiesWebhooks() bool { return true }

// parse reads a thin event. Whatever its type, the operation is asked next.
func parse(body []byte) (provider.Report, error) {
	var e struct {
		Type string
		Data struct{ ID string }
	}
	if err := json.Unmarshal(body, &e); err != nil {
		return provider.Report{}, fmt.Errorf("%w: %w", provider.ErrBadBody, err)
	}
	if e.Type == "" || e.Data.ID == "" {
		return provider.Report{}, fmt.Errorf("%w: no type or id", provider.ErrBadBody)
	}
	r := provider.Report{TaskID: e.Data.ID, State: provider.Running, Progress: -1, Hint: true}
	if e.Type != "video.generated" {
		r.UnknownWord = e.Type
	}
	return r, nil
}
