// Package registry opens the adapters that an operator has configured.
package registry

import (
	"net"
	"net/http"
	"slices"
	"time"

	"go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp"
	"go.opentelemetry.io/otel/propagation"

	"reelway.dev/pkg/provider"
)

// Config is the accounts at the providers. One without a key is off.
type Config struct {
	AtlasURL       string `env:"REELWAY_ATLASCLOUD_URL" url:"true" envDefault:"https://api.atlascloud.ai" desc:"Atlas Cloud's API"`
	AtlasKey       string `env:"REELWAY_ATLASCLOUD_KEY" desc:"API key at Atlas Cloud; the provider is off without one, and simulated in the all-in-one"`
	AtlasHMAC      string `env:"REELWAY_ATLASCLOUD_HMAC_SECRET" desc:"secret of the generic x-ai-signature, where one is agreed"`
	AtlasUnknown   bool   `env:"REELWAY_ATLASCLOUD_SERVER_ERROR_UNKNOWN" desc:"hold a 5xx of Atlas Cloud for an unknown outcome, not for the refusal that it documents"`
	KlingURL       string `env:"REELWAY_KLING_URL" url:"true" envDefault:"https://api-singapore.klingai.com" desc:"Kling's API"`
	KlingAccessKey string `env:"REELWAY_KLING_ACCESS_KEY" desc:"access key at Kling; the provider is off without one, and simulated in the all-in-one"`
	KlingSecretKey string `env:"REELWAY_KLING_SECRET_KEY" desc:"secret key at Kling"`
	KlingWebhook   string `env:"REELWAY_KLING_WEBHOOK_SECRET" desc:"whsec_ secret of Kling's console, two separated by a comma during a rotation; without it callbacks are hints that trigger a poll"`

	KlingKey            string `env:"REELWAY_KLING_KEY" desc:"plain API key at Kling, which its newer models need; used for all of them when set"`
	FalURL              string `env:"REELWAY_FAL_URL" url:"true" envDefault:"https://queue.fal.run" desc:"fal's queue"`
	FalKey              string `env:"REELWAY_FAL_KEY" desc:"API key at fal; the provider is off without one"`
	FalKeysURL          string `env:"REELWAY_FAL_JWKS_URL" url:"true" envDefault:"https://rest.fal.ai/.well-known/jwks.json" desc:"keys of fal's webhooks; the older address is asked when this one gives none"`
	ReplicateURL        string `env:"REELWAY_REPLICATE_URL" url:"true" envDefault:"https://api.replicate.com" desc:"Replicate's API"`
	ReplicateKey        string `env:"REELWAY_REPLICATE_KEY" desc:"API token at Replicate; the provider is off without one"`
	ReplicateWebhook    string `env:"REELWAY_REPLICATE_WEBHOOK_SECRET" desc:"whsec_ secret of Replicate's default webhooks, two separated by a comma during a rotation; without it callbacks are hints that trigger a poll"`
	RunwayURL           string `env:"REELWAY_RUNWAY_URL" url:"true" envDefault:"https://api.dev.runwayml.com" desc:"Runway's API"`
	RunwayKey           string `env:"REELWAY_RUNWAY_KEY" desc:"API key at Runway; the provider is off without one"`
	LumaURL             string `env:"REELWAY_LUMA_URL" url:"true" envDefault:"https://api.lumalabs.ai" desc:"Luma's Dream Machine API"`
	LumaKey             string `env:"REELWAY_LUMA_KEY" desc:"API key at Luma; the provider is off without one"`
	LumaAgentsURL       string `env:"REELWAY_LUMA_AGENTS_URL" url:"true" envDefault:"https://agents.lumalabs.ai" desc:"Luma's Agents API, for Ray 3 and later"`
	LumaAgentsKey       string `env:"REELWAY_LUMA_AGENTS_KEY" desc:"API key for Luma's Agents API; REELWAY_LUMA_KEY when empty"`
	LumaAgentsCallbacks bool   `env:"REELWAY_LUMA_AGENTS_CALLBACKS" desc:"send callback URLs to Luma's Agents API, which does not document them"`
	MiniMaxURL          string `env:"REELWAY_MINIMAX_URL" url:"true" envDefault:"https://api.minimax.io" desc:"MiniMax's API"`
	MiniMaxKey          string `env:"REELWAY_MINIMAX_KEY" desc:"API key at MiniMax; the provider is off without one"`
	MiniMaxNoCallbacks  bool   `env:"REELWAY_MINIMAX_NO_CALLBACKS" desc:"send MiniMax no callback URL, which it tests at each submit; tasks are then polled"`
	BytePlusURL         string `env:"REELWAY_BYTEPLUS_URL" url:"true" envDefault:"https://ark.ap-southeast.bytepluses.com" desc:"BytePlus ModelArk's API"`
	BytePlusKey         string `env:"REELWAY_BYTEPLUS_KEY" desc:"API key at BytePlus ModelArk; the provider is off without one"`
	BytePlusFlags       bool   `env:"REELWAY_BYTEPLUS_FLAGS_IN_TEXT" desc:"write ratio, duration and resolution into the prompt, as the first Seedance models read them"`
	VeoURL              string `env:"REELWAY_VEO_URL" url:"true" envDefault:"https://generativelanguage.googleapis.com" desc:"the Gemini API, for Veo"`
	VeoKey              string `env:"REELWAY_VEO_KEY" desc:"API key at the Gemini API; the provider is off without one"`
	VeoWebhook          string `env:"REELWAY_VEO_WEBHOOK_SECRET" desc:"whsec_ secret of a static Gemini webhook, two separated by a comma during a rotation"`
	VeoAudience         string `env:"REELWAY_VEO_WEBHOOK_AUDIENCE" desc:"audience that the tokens of Gemini's per-request webhooks must name; any when empty"`
	OpenAIURL           string `env:"REELWAY_OPENAI_URL" url:"true" desc:"a server that speaks the OpenAI Videos dialect, with its version: https://host/v1"`
	OpenAIKey           string `env:"REELWAY_OPENAI_KEY" desc:"API key at that server; the provider is off without one"`
	OpenAIWebhook       string `env:"REELWAY_OPENAI_WEBHOOK_SECRET" desc:"whsec_ secret of that server's webhooks, two separated by a comma during a rotation"`
	OpenAICallbackField string `env:"REELWAY_OPENAI_CALLBACK_FIELD" desc:"field in which that server takes a callback URL, such as callback_url; polled only when empty"`
	ProvidersFile       string `env:"REELWAY_PROVIDERS_FILE" desc:"a YAML file that describes further providers (docs/providers.md)"`

	AtlasKeys     string        `env:"REELWAY_ATLASCLOUD_KEYS_FILE" desc:"a YAML file of several keys at Atlas Cloud, with weights, limits and budgets (docs/dispatcher.md); beside the single key, if that is set"`
	KlingKeys     string        `env:"REELWAY_KLING_KEYS_FILE" desc:"a YAML file of several keys at Kling, with weights, limits and budgets (docs/dispatcher.md); beside the single key, if that is set"`
	FalKeys       string        `env:"REELWAY_FAL_KEYS_FILE" desc:"a YAML file of several keys at fal, with weights, limits and budgets (docs/dispatcher.md); beside the single key, if that is set"`
	ReplicateKeys string        `env:"REELWAY_REPLICATE_KEYS_FILE" desc:"a YAML file of several keys at Replicate, with weights, limits and budgets (docs/dispatcher.md); beside the single key, if that is set"`
	RunwayKeys    string        `env:"REELWAY_RUNWAY_KEYS_FILE" desc:"a YAML file of several keys at Runway, with weights, limits and budgets (docs/dispatcher.md); beside the single key, if that is set"`
	LumaKeys      string        `env:"REELWAY_LUMA_KEYS_FILE" desc:"a YAML file of several keys at Luma, with weights, limits and budgets (docs/dispatcher.md); beside the single key, if that is set"`
	MiniMaxKeys   string        `env:"REELWAY_MINIMAX_KEYS_FILE" desc:"a YAML file of several keys at MiniMax, with weights, limits and budgets (docs/dispatcher.md); beside the single key, if that is set"`
	BytePlusKeys  string        `env:"REELWAY_BYTEPLUS_KEYS_FILE" desc:"a YAML file of several keys at BytePlus ModelArk, with weights, limits and budgets (docs/dispatcher.md); beside the single key, if that is set"`
	VeoKeys       string        `env:"REELWAY_VEO_KEYS_FILE" desc:"a YAML file of several keys at the Gemini API, with weights, limits and budgets (docs/dispatcher.md); beside the single key, if that is set"`
	OpenAIKeys    string        `env:"REELWAY_OPENAI_KEYS_FILE" desc:"a YAML file of several keys at the server of the OpenAI Videos dialect, with weights, limits and budgets (docs/dispatcher.md); beside the single key, if that is set"`
	KeysEvery     time.Duration `env:"REELWAY_KEYS_RELOAD" min:"50ms" envDefault:"5s" desc:"how often the keys files are read again"`
}

// Providers are the open adapters, by name.
type Providers struct {
	// Adapters are those of each provider's first key: they tell what it can do.
	Adapters map[string]provider.Adapter
	Keys     map[string]*Keyring
	Parsers  map[string]provider.WebhookParser

	files []builtin
	every time.Duration
}

// ResultHeader is what to send with a GET of a provider's result: the key that
// has the task, where the result needs one and the URL is the provider's own,
// and nil otherwise.
func (p Providers) ResultHeader(name, keyID, rawURL string) http.Header {
	ring := p.Keys[name]
	if ring == nil {
		return nil
	}
	k := ring.Key(keyID)
	if k == nil {
		return nil
	}
	if d, ok := k.Adapter.(provider.Downloader); ok {
		return d.ResultHeader(rawURL)
	}
	return nil
}

// add opens a provider, with its parser if it has one.
func (p Providers) add(name string, keys *Keyring) {
	a := keys.Keys()[0].Adapter
	p.Adapters[name], p.Keys[name] = a, keys
	if _, ok := a.(provider.WebhookParser); !ok {
		return
	}
	p.Parsers[name] = parser{keys}
	if c, ok := a.(provider.Challenger); ok {
		p.Parsers[name] = challenged{parser{keys}, c}
	}
}

// HasKey reports whether any provider is on, by a key or a description.
func (c Config) HasKey() bool {
	return c.ProvidersFile != "" || slices.ContainsFunc(c.builtins(), builtin.on)
}

// client is one provider's own. Operators choose these addresses, so they are
// not guarded; our trace ids stay at home.
func client() *http.Client {
	t := &http.Transport{Proxy: http.ProxyFromEnvironment, ForceAttemptHTTP2: true, MaxIdleConnsPerHost: 64,
		IdleConnTimeout: 90 * time.Second, TLSHandshakeTimeout: 10 * time.Second,
		DialContext: (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second}).DialContext}
	return &http.Client{Transport: otelhttp.NewTransport(t, otelhttp.WithPropagators(propagation.NewCompositeTextMapPropagator()))}
}
