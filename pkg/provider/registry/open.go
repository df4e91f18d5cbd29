package registry

import (
	"cmp"
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

// builtin is a provider that is part of Reelway.
type builtin struct {
	name   string
	prefix string  // of its variables
	file   string  // of its keys
	single secrets // from its variables
	open   func(s secrets, hooks [][]byte) provider.Adapter
}

// builtins are all of them, on or off.
func (c Config) builtins() []builtin {
	return []builtin{
		{atlascloud.Name, "REELWAY_ATLASCLOUD", c.AtlasKeys, secrets{key: c.AtlasKey}, func(s secrets, _ [][]byte) provider.Adapter {
			return atlascloud.New(atlascloud.Config{BaseURL: c.AtlasURL, APIKey: s.key, Client: client(), Now: time.Now, HMACSecret: []byte(c.AtlasHMAC), ServerErrorUnknown: c.AtlasUnknown})
		}},
		{kling.Name, "REELWAY_KLING", c.KlingKeys, secrets{key: c.KlingKey, access: c.KlingAccessKey, secret: c.KlingSecretKey, webhook: c.KlingWebhook}, func(s secrets, hooks [][]byte) provider.Adapter {
			return kling.New(kling.Config{BaseURL: c.KlingURL, AccessKey: s.access, SecretKey: s.secret, APIKey: s.key, WebhookKeys: hooks, Client: client(), Now: time.Now})
		}},
		{fal.Name, "REELWAY_FAL", c.FalKeys, secrets{key: c.FalKey}, func(s secrets, _ [][]byte) provider.Adapter {
			return fal.New(fal.Config{Account: account(c.FalURL, s.key), KeysURL: c.FalKeysURL, KeysFallback: falOldKeys})
		}},
		{replicate.Name, "REELWAY_REPLICATE", c.ReplicateKeys, secrets{key: c.ReplicateKey, webhook: c.ReplicateWebhook}, func(s secrets, hooks [][]byte) provider.Adapter {
			return replicate.New(replicate.Config{Account: account(c.ReplicateURL, s.key), WebhookKeys: hooks})
		}},
		{runway.Name, "REELWAY_RUNWAY", c.RunwayKeys, secrets{key: c.RunwayKey}, func(s secrets, _ [][]byte) provider.Adapter {
			return runway.New(runway.Config{Account: account(c.RunwayURL, s.key)})
		}},
		{luma.Name, "REELWAY_LUMA", c.LumaKeys, secrets{key: c.LumaKey, agents: c.LumaAgentsKey}, func(s secrets, _ [][]byte) provider.Adapter {
			return luma.New(luma.Config{Account: account(c.LumaURL, s.key), AgentsURL: c.LumaAgentsURL, AgentsKey: s.agents, AgentsCallbacks: c.LumaAgentsCallbacks})
		}},
		{minimax.Name, "REELWAY_MINIMAX", c.MiniMaxKeys, secrets{key: c.MiniMaxKey}, func(s secrets, _ [][]byte) provider.Adapter {
			return minimax.New(minimax.Config{Account: account(c.MiniMaxURL, s.key), NoCallbacks: c.MiniMaxNoCallbacks})
		}},
		{byteplus.Name, "REELWAY_BYTEPLUS", c.BytePlusKeys, secrets{key: c.BytePlusKey}, func(s secrets, _ [][]byte) provider.Adapter {
			return byteplus.New(byteplus.Config{Account: account(c.BytePlusURL, s.key), FlagsInText: c.BytePlusFlags})
		}},
		{veo.Name, "REELWAY_VEO", c.VeoKeys, secrets{key: c.VeoKey, webhook: c.VeoWebhook}, func(s secrets, hooks [][]byte) provider.Adapter {
			// Images are callers' URLs: unlike the API they are fetched under guard.
			return veo.New(veo.Config{Account: account(c.VeoURL, s.key), Images: safehttp.Config{Redirects: 3}.Client(), WebhookKeys: hooks, Audience: c.VeoAudience})
		}},
		{openai.Name, "REELWAY_OPENAI", c.OpenAIKeys, secrets{key: c.OpenAIKey, webhook: c.OpenAIWebhook}, func(s secrets, hooks [][]byte) provider.Adapter {
			return openai.New(openai.Config{Account: account(c.OpenAIURL, s.key), WebhookKeys: hooks, CallbackField: c.OpenAICallbackField})
		}},
	}
}

func (b builtin) on() bool { return b.file != "" || b.single.key != "" || b.single.access != "" }

// Open makes an adapter for each key of each provider that has one. Every fault
// of the settings is named at once.
func Open(c Config) (Providers, error) {
	p := Providers{Adapters: map[string]provider.Adapter{}, Keys: map[string]*Keyring{}, Parsers: map[string]provider.WebhookParser{}, every: cmp.Or(c.KeysEvery, 5*time.Second)}
	var errs []error
	for _, b := range c.builtins() {
		if !b.on() {
			continue
		}
		r, err := b.ring()
		if b.name == openai.Name && c.OpenAIURL == "" {
			err = errors.Join(err, errors.New("REELWAY_OPENAI_URL: is needed with REELWAY_OPENAI_KEY: no server is the default"))
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		p.add(b.name, newKeyring(r))
		if b.file != "" {
			p.files = append(p.files, b)
		}
	}
	if c.ProvidersFile != "" {
		if err := p.describe(c); err != nil {
			errs = append(errs, fmt.Errorf("REELWAY_PROVIDERS_FILE: %w", err))
		}
	}
	return p, errors.Join(errs...)
}

// describe opens the providers that a file describes. Their names may not be
// those of built-in ones, on or off.
func (p Providers) describe(c Config) error {
	data, err := os.ReadFile(c.ProvidersFile)
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
		if err == nil && slices.ContainsFunc(c.builtins(), func(b builtin) bool { return b.name == s.Name }) {
			err = errors.New("the name is that of a built-in provider")
		}
		var keys [][]byte
		if err == nil && s.Webhook != nil {
			var secrets string
			if secrets, err = secretFile(s.Webhook.SecretFile); err == nil {
				keys, err = s.Webhook.Keys(secrets)
			}
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("provider %q: %w", s.Name, err))
			continue
		}
		p.add(s.Name, Single(declared.New(s, account("", key), keys)))
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
