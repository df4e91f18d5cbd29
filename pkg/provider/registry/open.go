package registry

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"reelway.dev/pkg/provider"
	"reelway.dev/pkg/provider/atlascloud"
	"reelway.dev/pkg/provider/byteplus"
	"reelway.dev/pkg/provider/declared"
	"reelway.dev/pkg/provider/fal"
	"reelway.dev/pkg/provider/kling"
	"reelway.dev/pkg/provider/luma"
	"reelway.dev/pkg/provider/minimax"
	"reelway.dev/pkg/provider/openai"
	"reelway.dev/pkg/provider/replicate"
	"reelway.dev/pkg/provider/runway"
	"reelway.dev/pkg/provider/veo"
	"reelway.dev/pkg/safehttp"
	"reelway.dev/pkg/webhooksig"
)

// falOldKeys is where fal's keys were, and may still be.
const falOldKeys = "https://rest.alpha.fal.ai/.well-known/jwks.json"

// Open makes an adapter for each provider with a key. Every fault of the
// settings is named at once.
func Open(c Config) (Providers, error) {
	p := Providers{Adapters: map[string]provider.Adapter{}, Parsers: map[string]provider.WebhookParser{}}
	var errs []error
	secrets := func(name, list string) [][]byte {
		keys, err := decode(list)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", name, err))
		}
		return keys
	}
	if c.AtlasKey != "" {
		p.add(atlascloud.Name, atlascloud.New(atlascloud.Config{BaseURL: c.AtlasURL, APIKey: c.AtlasKey, Client: client(), Now: time.Now, HMACSecret: []byte(c.AtlasHMAC), ServerErrorUnknown: c.AtlasUnknown}))
	}
	if c.KlingAccessKey != "" || c.KlingKey != "" {
		p.add(kling.Name, kling.New(kling.Config{BaseURL: c.KlingURL, AccessKey: c.KlingAccessKey, SecretKey: c.KlingSecretKey, APIKey: c.KlingKey,
			WebhookKeys: secrets("REELWAY_KLING_WEBHOOK_SECRET", c.KlingWebhook), Client: client(), Now: time.Now}))
	}
	if c.FalKey != "" {
		p.add(fal.Name, fal.New(fal.Config{Account: account(c.FalURL, c.FalKey), KeysURL: c.FalKeysURL, KeysFallback: falOldKeys}))
	}
	if c.ReplicateKey != "" {
		p.add(replicate.Name, replicate.New(replicate.Config{Account: account(c.ReplicateURL, c.ReplicateKey),
			WebhookKeys: secrets("REELWAY_REPLICATE_WEBHOOK_SECRET", c.ReplicateWebhook)}))
	}
	if c.RunwayKey != "" {
		p.add(runway.Name, runway.New(runway.Config{Account: account(c.RunwayURL, c.RunwayKey)}))
	}
	if c.LumaKey != "" {
		p.add(luma.Name, luma.New(luma.Config{Account: account(c.LumaURL, c.LumaKey), AgentsURL: c.LumaAgentsURL, AgentsKey: c.LumaAgentsKey, AgentsCallbacks: c.LumaAgentsCallbacks}))
	}
	if c.MiniMaxKey != "" {
		p.add(minimax.Name, minimax.New(minimax.Config{Account: account(c.MiniMaxURL, c.MiniMaxKey), NoCallbacks: c.MiniMaxNoCallbacks}))
	}
	if c.BytePlusKey != "" {
		p.add(byteplus.Name, byteplus.New(byteplus.Config{Account: account(c.BytePlusURL, c.BytePlusKey), FlagsInText: c.BytePlusFlags}))
	}
	if c.VeoKey != "" {
		// Images are callers' URLs: unlike the API they are fetched under guard.
		p.add(veo.Name, veo.New(veo.Config{Account: account(c.VeoURL, c.VeoKey), Images: safehttp.Config{Redirects: 3}.Client(),
			WebhookKeys: secrets("REELWAY_VEO_WEBHOOK_SECRET", c.VeoWebhook), Audience: c.VeoAudience}))
	}
	if c.OpenAIKey != "" {
		if c.OpenAIURL == "" {
			errs = append(errs, errors.New("REELWAY_OPENAI_URL: is needed with REELWAY_OPENAI_KEY: no server is the default"))
		}
		p.add(openai.Name, openai.New(openai.Config{Account: account(c.OpenAIURL, c.OpenAIKey),
			WebhookKeys: secrets("REELWAY_OPENAI_WEBHOOK_SECRET", c.OpenAIWebhook), CallbackField: c.OpenAICallbackField}))
	}
	if c.ProvidersFile != "" {
		if err := p.describe(c.ProvidersFile); err != nil {
			errs = append(errs, fmt.Errorf("REELWAY_PROVIDERS_FILE: %w", err))
		}
	}
	return p, errors.Join(errs...)
}

// builtin are the names that no description may take, on or off.
var builtin = []string{atlascloud.Name, byteplus.Name, fal.Name, kling.Name, luma.Name, minimax.Name, openai.Name, replicate.Name, runway.Name, veo.Name}

// describe opens the providers that a file describes.
func (p Providers) describe(file string) error {
	data, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	specs, err := declared.Parse(data)
	if err != nil {
		return err
	}
	var errs []error
	for _, s := range specs {
		key, err := secretFile(s.KeyFile)
		if err == nil && slices.Contains(builtin, s.Name) {
			err = errors.New("the name is that of a built-in provider")
		}
		var keys [][]byte
		if err == nil && s.Webhook != nil {
			var secrets string
			if secrets, err = secretFile(s.Webhook.SecretFile); err == nil {
				keys, err = decode(secrets)
			}
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("provider %q: %w", s.Name, err))
			continue
		}
		p.add(s.Name, declared.New(s, account("", key), keys))
	}
	return errors.Join(errs...)
}

// secretFile reads a secret from its file; no file is no secret.
func secretFile(name string) (string, error) {
	if name == "" {
		return "", nil
	}
	data, err := os.ReadFile(name)
	return strings.TrimSpace(string(data)), err
}

func account(url, key string) provider.Account {
	return provider.Account{BaseURL: url, APIKey: key, Client: client(), Now: time.Now}
}

// decode reads secrets that commas separate; none is no error.
func decode(list string) (keys [][]byte, err error) {
	if list == "" {
		return nil, nil
	}
	for secret := range strings.SplitSeq(list, ",") {
		key, err := webhooksig.StandardKey(strings.TrimSpace(secret))
		if err != nil {
			return nil, err
		}
		keys = append(keys, key)
	}
	return keys, nil
}
