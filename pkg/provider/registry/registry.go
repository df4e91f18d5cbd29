// Package registry opens the adapters that an operator has configured.
package registry

import (
	"fmt"
	"net"
	"net/http"
	"strings"
	"time"

	"go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp"
	"go.opentelemetry.io/otel/propagation"

	"reelway.dev/pkg/provider"
	"reelway.dev/pkg/provider/atlascloud"
	"reelway.dev/pkg/provider/kling"
	"reelway.dev/pkg/webhooksig"
)

// Config is the accounts at the providers. One without a key is off.
type Config struct {
	AtlasURL       string `env:"REELWAY_ATLASCLOUD_URL" url:"true" envDefault:"https://api.atlascloud.ai" desc:"Atlas Cloud's API"`
	AtlasKey       string `env:"REELWAY_ATLASCLOUD_KEY" desc:"API key at Atlas Cloud; the provider is off without one, and simulated in the all-in-one"`
	AtlasHMAC      string `env:"REELWAY_ATLASCLOUD_HMAC_SECRET" desc:"secret of the generic x-ai-signature, where one is agreed"`
	KlingURL       string `env:"REELWAY_KLING_URL" url:"true" envDefault:"https://api-singapore.klingai.com" desc:"Kling's API"`
	KlingAccessKey string `env:"REELWAY_KLING_ACCESS_KEY" desc:"access key at Kling; the provider is off without one, and simulated in the all-in-one"`
	KlingSecretKey string `env:"REELWAY_KLING_SECRET_KEY" desc:"secret key at Kling"`
	KlingWebhook   string `env:"REELWAY_KLING_WEBHOOK_SECRET" desc:"whsec_ secret of Kling's console, two separated by a comma during a rotation; without it callbacks are hints that trigger a poll"`
}

// Providers are the open adapters, by name.
type Providers struct {
	Adapters map[string]provider.Adapter
	Parsers  map[string]provider.WebhookParser
}

// Open makes an adapter for each provider with a key.
func Open(cfg Config) (Providers, error) {
	p := Providers{Adapters: map[string]provider.Adapter{}, Parsers: map[string]provider.WebhookParser{}}
	if cfg.AtlasKey != "" {
		a := atlascloud.New(atlascloud.Config{BaseURL: cfg.AtlasURL, APIKey: cfg.AtlasKey, Client: client(), Now: time.Now, HMACSecret: []byte(cfg.AtlasHMAC)})
		p.Adapters[atlascloud.Name], p.Parsers[atlascloud.Name] = a, a
	}
	if cfg.KlingAccessKey != "" {
		k := kling.Config{BaseURL: cfg.KlingURL, AccessKey: cfg.KlingAccessKey, SecretKey: cfg.KlingSecretKey, Client: client(), Now: time.Now}
		if cfg.KlingWebhook != "" {
			for secret := range strings.SplitSeq(cfg.KlingWebhook, ",") {
				key, err := webhooksig.StandardKey(strings.TrimSpace(secret))
				if err != nil {
					return p, fmt.Errorf("REELWAY_KLING_WEBHOOK_SECRET: %w", err)
				}
				k.WebhookKeys = append(k.WebhookKeys, key)
			}
		}
		a := kling.New(k)
		p.Adapters[kling.Name], p.Parsers[kling.Name] = a, a
	}
	return p, nil
}

// client is one provider's own. Operators choose these addresses, so they are
// not guarded; our trace ids stay at home.
func client() *http.Client {
	t := &http.Transport{Proxy: http.ProxyFromEnvironment, ForceAttemptHTTP2: true, MaxIdleConnsPerHost: 64,
		IdleConnTimeout: 90 * time.Second, TLSHandshakeTimeout: 10 * time.Second,
		DialContext: (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second}).DialContext}
	return &http.Client{Transport: otelhttp.NewTransport(t, otelhttp.WithPropagators(propagation.NewCompositeTextMapPropagator()))}
}
