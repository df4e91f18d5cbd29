package reelway

import (
	"reelway.dev/pkg/provider/registry"
	"reelway.dev/services/simulator"
)

// simulated points the accounts at every provider to a simulator.
func simulated(p *registry.Config, url string, sims simulator.Config) {
	for name, address := range addresses(p) {
		*address = url + "/" + name
	}
	p.OpenAIURL += "/v1"
	p.AtlasKey, p.KlingKey = sims.AtlasKey, sims.KlingAccess
	for _, key := range []*string{&p.FalKey, &p.ReplicateKey, &p.RunwayKey, &p.LumaKey, &p.MiniMaxKey, &p.BytePlusKey, &p.VeoKey, &p.OpenAIKey} {
		*key = sims.Key
	}
	p.FalKeysURL, p.LumaAgentsURL, p.LumaAgentsCallbacks = p.FalURL+"/.well-known/jwks.json", p.LumaURL, true
	p.KlingWebhook, p.ReplicateWebhook, p.OpenAIWebhook, p.OpenAICallbackField = sims.WebhookSecret, sims.WebhookSecret, sims.WebhookSecret, "callback_url"
}

// addresses are where the base URL of each built-in provider is set.
func addresses(p *registry.Config) map[string]*string {
	return map[string]*string{"atlascloud": &p.AtlasURL, "kling": &p.KlingURL, "fal": &p.FalURL, "replicate": &p.ReplicateURL, "runway": &p.RunwayURL,
		"luma": &p.LumaURL, "minimax": &p.MiniMaxURL, "byteplus": &p.BytePlusURL, "veo": &p.VeoURL, "openai": &p.OpenAIURL}
}
