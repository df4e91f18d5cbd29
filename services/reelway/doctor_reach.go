package reelway

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"reelway.dev/pkg/catalog"
	"reelway.dev/pkg/provider"
	"reelway.dev/pkg/provider/registry"
	"reelway.dev/services/callback"
)

// providers asks each provider, with each key, for a task that does not exist:
// a question that costs nothing, and that a wrong key is refused.
func (c *checkup) providers(ctx context.Context) []Check {
	const all = "providers"
	if !c.Providers.HasKey() {
		return []Check{warn(all, "set REELWAY_<PROVIDER>_KEY of at least one provider", "none has a key: `reelway up` simulates them all")}
	}
	if c.faults != nil {
		return []Check{fail(all, "correct what is named", "%s", strings.ReplaceAll(c.faults.Error(), "\n", "; "))}
	}
	names := slices.Sorted(maps.Keys(c.open.Keys))
	found := make([][]Check, len(names))
	var wg sync.WaitGroup
	for i, name := range names {
		wg.Go(func() {
			for _, k := range c.open.Keys[name].Keys() {
				found[i] = append(found[i], ask(ctx, name, k))
			}
		})
	}
	wg.Wait()
	return slices.Concat(found...)
}

// nobody is a task that no provider has. Where ids have a form, it has it.
func nobody(name string) string {
	if name == "veo" {
		return "models/veo/operations/reelway-doctor"
	}
	return "00000000-0000-7000-8000-000000000000"
}

// ask is the verdict of one provider on one key.
func ask(ctx context.Context, name string, k *registry.Key) Check {
	check := "provider." + name + "." + k.ID
	t := provider.Task{JobID: "video_doctor", AttemptID: "att_00000000-0000-7000-8000-000000000000"}
	for _, m := range catalog.Builtin().Models() {
		if m.Provider == name && m.ProviderModels[catalog.TextToVideo] != "" {
			t.Model = m.ProviderModels[catalog.TextToVideo]
			break
		}
	}
	var err error
	if f, can := k.Adapter.(provider.Finder); can {
		if _, _, err = f.Find(ctx, t); err == nil {
			return ok(check, "the key is taken")
		}
	} else {
		_, err = k.Adapter.Poll(ctx, nobody(name), t)
	}
	var said *provider.StatusError
	var notSent *provider.NotSentError
	switch {
	case err == nil:
		return ok(check, "the key is taken")
	case errors.As(err, &notSent):
		return fail(check, "let this machine reach the provider's API: DNS, firewall, proxy, REELWAY_<PROVIDER>_URL", "the provider cannot be reached: %v", reason(notSent.Err))
	case !errors.As(err, &said):
		return skip(check, "the key is set; the provider's answer does not tell whether it is right")
	case said.Status == http.StatusUnauthorized || said.Status == http.StatusForbidden:
		return fail(check, "set a key that is valid, or take this one out of the keys file", "the key is refused with status %d", said.Status)
	case said.Status == http.StatusTooManyRequests || said.Status >= 500:
		return warn(check, "ask again later; look at the provider's status page", "the provider answers with status %d", said.Status)
	}
	return ok(check, "the key is taken (status %d for a task that does not exist)", said.Status)
}

// reason is a network error without the URL, which may hold a key.
func reason(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		return u.Err
	}
	return err
}

// callbacks asks for the callback service as a provider would reach it.
func (c *checkup) callbacks(ctx context.Context) []Check {
	const name = "callbacks"
	base := c.publicURL()
	if base == "" {
		return []Check{warn(name, "set REELWAY_PUBLIC_URL, or REELWAY_CALLBACK_URL, to the https address that leads to this Reelway", "no public address is set: providers that call back reach nobody, and their tasks are polled")}
	}
	client := &http.Client{Timeout: 15 * time.Second, Transport: &dated{tell: func(ahead time.Duration) { c.clocks.tell("public address", ahead) }}}
	answer, status, err := read(ctx, client, strings.TrimRight(base, "/")+callback.HealthPath)
	switch {
	case err != nil:
		return []Check{fail(name, "start Reelway, and check DNS, certificate, proxy and firewall of the address", "%s does not answer: %v", bare(base), reason(err))}
	case status != http.StatusOK || strings.TrimSpace(answer) != callback.HealthAnswer:
		return []Check{fail(name, "lead /v1/callbacks/ of this address to the callback service, without changing the path", "%s answers %d, and not as a Reelway does", bare(base), status)}
	}
	if u, err := url.Parse(base); err == nil && inner(ctx, u.Hostname()) {
		return []Check{warn(name, "use an address that the internet reaches", "%s answers, but its address is a private one: no provider reaches it", bare(base))}
	}
	if !strings.HasPrefix(base, "https://") {
		return []Check{warn(name, "serve it by https: several providers call nothing else", "%s answers, unencrypted", bare(base))}
	}
	return []Check{ok(name, "%s answers as a Reelway does", bare(base))}
}

func read(ctx context.Context, client *http.Client, rawURL string) (body string, status int, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, rawURL, nil)
	if err != nil {
		return "", 0, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return "", 0, err
	}
	defer func() { _ = resp.Body.Close() }()
	data, err := io.ReadAll(io.LimitReader(resp.Body, 4096))
	if err != nil {
		return "", 0, fmt.Errorf("read answer: %w", err)
	}
	return string(data), resp.StatusCode, nil
}

// inner reports whether a host is on this machine or in a private network. An
// installation may well see its own public name so, by a name server of its own.
func inner(ctx context.Context, host string) bool {
	ips, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return false
	}
	return slices.ContainsFunc(ips, func(ip netip.Addr) bool { return ip.IsLoopback() || ip.IsPrivate() || ip.IsLinkLocalUnicast() })
}
