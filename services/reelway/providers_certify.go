package reelway

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"reelway.dev/pkg/provider"
	"reelway.dev/pkg/provider/declared"
	"reelway.dev/pkg/provider/providertest"
	"reelway.dev/pkg/provider/registry"
	"reelway.dev/pkg/run"
	"reelway.dev/services/simulator"
)

type certifyCmd struct {
	Target   string `arg:"" name:"target" help:"A built-in provider's name, or a YAML file that describes providers (as REELWAY_PROVIDERS_FILE)." placeholder:"NAME|FILE"`
	Only     string `help:"Of a file with several descriptions, this one alone." placeholder:"NAME"`
	BaseURL  string `help:"The API to certify against: a stand-in of the provider, never its paid one. A simulator of our own when left out." placeholder:"URL"`
	AdminURL string `help:"Where that stand-in has the simulator's /admin doors; the host of --base-url when left out. Without such doors most checks are skipped." placeholder:"URL"`
	Dialect  string `help:"Which of the simulated providers a description speaks to; the one of its own name when left out." placeholder:"NAME"`
	Model    string `help:"The provider's name of a model to submit; a usual one when left out." placeholder:"NAME"`
	JSON     bool   `name:"json" help:"Print JSON and nothing else."`
}

// certificate is what a suite made of one adapter.
type certificate struct {
	Provider string                `json:"provider"`
	BaseURL  string                `json:"base_url"`
	Passed   int                   `json:"passed"`
	Failed   int                   `json:"failed"`
	Skipped  int                   `json:"skipped"`
	Checks   []providertest.Result `json:"checks"`
}

// Run certifies.
func (c *certifyCmd) Run(ctx context.Context, out io.Writer) error {
	var sims simulator.Config
	if err := run.Load(nil, nil, &sims); err != nil {
		return err
	}
	sims.Render = 1000 * time.Hour // renders end when a check says so
	home := strings.TrimRight(c.BaseURL, "/")
	if home == "" {
		sim, stop, err := serveSimulator(ctx, sims)
		if err != nil {
			return err
		}
		defer stop()
		home = sim
	}
	harnesses, err := c.harnesses(home, sims)
	if err != nil {
		return err
	}
	certificates, failed := []*certificate{}, 0
	for _, h := range harnesses {
		if h.Simulator, err = c.doors(ctx, home); err != nil {
			return err
		}
		cert := &certificate{Provider: h.Name, BaseURL: h.BaseURL, Checks: []providertest.Result{}}
		certificates = append(certificates, cert)
		if !c.JSON {
			_, _ = fmt.Fprintf(out, "%s at %s\n", cert.Provider, cert.BaseURL)
		}
		providertest.Certify(ctx, h, func(r providertest.Result) {
			cert.add(r)
			if !c.JSON {
				_, _ = fmt.Fprintf(out, "  %-8s %s\n", r.Outcome, r.Check)
				for _, why := range r.Reasons {
					_, _ = fmt.Fprintf(out, "           %s\n", strings.ReplaceAll(why, "\n", "\n           "))
				}
			}
		})
		failed += cert.Failed
		if !c.JSON {
			_, _ = fmt.Fprintf(out, "  %d passed, %d failed, %d skipped\n", cert.Passed, cert.Failed, cert.Skipped)
		}
	}
	if c.JSON {
		if err := (&admin{JSON: true}).answer(out, certificates); err != nil {
			return err
		}
	}
	if failed > 0 {
		return fmt.Errorf("%d checks failed", failed)
	}
	return nil
}

func (c *certificate) add(r providertest.Result) {
	c.Checks = append(c.Checks, r)
	switch r.Outcome {
	case providertest.Passed:
		c.Passed++
	case providertest.Failed:
		c.Failed++
	default:
		c.Skipped++
	}
}

// harnesses are the adapters of the target.
func (c *certifyCmd) harnesses(home string, sims simulator.Config) ([]providertest.Harness, error) {
	if h, ok := providertest.Builtin(c.Target); ok {
		h, err := c.builtin(h, home, sims)
		return []providertest.Harness{h}, err
	}
	data, err := os.ReadFile(c.Target)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%q is neither a file nor a built-in provider, which are %s", c.Target, strings.Join(slices.Sorted(maps.Keys(addresses(&registry.Config{}))), ", "))
	}
	if err != nil {
		return nil, err
	}
	specs, err := declared.Parse(data)
	if err != nil {
		return nil, err
	}
	var out []providertest.Harness
	for _, s := range specs {
		if c.Only != "" && c.Only != s.Name {
			continue
		}
		h, err := c.described(s, home, sims)
		if err != nil {
			return nil, fmt.Errorf("provider %q: %w", s.Name, err)
		}
		out = append(out, h)
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("--only: %s describes no provider %q", c.Target, c.Only)
	}
	return out, nil
}

// builtin opens a built-in adapter as the registry does: with the simulator's
// keys, or with those of the environment for a stand-in of the operator's.
func (c *certifyCmd) builtin(h providertest.Harness, home string, sims simulator.Config) (providertest.Harness, error) {
	var accounts registry.Config
	var environ []string
	if c.BaseURL != "" {
		environ = os.Environ()
		for i, name := range slices.Backward(environ) { // what is not the registry's is not ours to judge
			if key, _, _ := strings.Cut(name, "="); !slices.ContainsFunc(run.Settings(&registry.Config{}), func(s run.Setting) bool { return s.Name == strings.TrimSuffix(key, "_FILE") }) {
				environ = slices.Delete(environ, i, i+1)
			}
		}
	}
	if err := run.Load(environ, nil, &accounts); err != nil {
		return h, err
	}
	h.BaseURL = home
	if c.BaseURL == "" {
		simulated(&accounts, home, sims)
		h.BaseURL = *addresses(&accounts)[h.Name]
	}
	h.Task.Model = first(c.Model, h.Task.Model)
	open := func(baseURL string) (provider.Adapter, error) {
		mine := accounts
		*addresses(&mine)[h.Name] = baseURL
		mine.ProvidersFile = ""
		if h.Name == "luma" {
			mine.LumaAgentsURL = baseURL
		}
		all, err := registry.Open(mine)
		if err == nil && all.Adapters[h.Name] == nil {
			err = fmt.Errorf("no key of %s is set (see `reelway settings`)", h.Name)
		}
		return all.Adapters[h.Name], err
	}
	if _, err := open(h.BaseURL); err != nil {
		return h, err
	}
	h.New = func(baseURL string) provider.Adapter {
		a, _ := open(baseURL) // only the address is another than before
		return a
	}
	return h, nil
}

// described opens a described adapter; against our simulator with its key and
// secret, else with the description's own.
func (c *certifyCmd) described(s declared.Spec, home string, sims simulator.Config) (providertest.Harness, error) {
	dialect := first(c.Dialect, s.Name)
	h, known := providertest.Builtin(dialect)
	h.Name, h.BaseURL, h.Webhooks = s.Name, home, providertest.None
	h.Sources = slices.DeleteFunc(h.Sources, func(x providertest.Source) bool { return !declared.Takes(s, x.Own, x.Extend) })
	var key, secret string
	if c.BaseURL == "" {
		if !known {
			return h, fmt.Errorf("no simulated provider is called %q: name the one it is like by --dialect, or a stand-in of your own by --base-url", dialect)
		}
		h.BaseURL, key, secret = home+"/"+dialect, sims.Key, sims.WebhookSecret
	} else {
		var err1, err2 error
		key, err1 = keyFile(s.KeyFile)
		if s.Webhook != nil {
			secret, err2 = keyFile(s.Webhook.SecretFile)
		}
		if err := errors.Join(err1, err2); err != nil {
			return h, err
		}
	}
	h.Task.Model = first(c.Model, h.Task.Model, "model")
	keys, err := c.signed(&h, s.Webhook, secret)
	if err != nil {
		return h, err
	}
	h.New = func(baseURL string) provider.Adapter {
		return declared.New(s, provider.Account{BaseURL: baseURL, APIKey: key, Client: &http.Client{Transport: &http.Transport{}}, Now: time.Now}, keys)
	}
	return h, nil
}

// signed says what the callbacks of a description are worth, and what they are
// verified with. Our simulator signs by Standard Webhooks alone: what it sends is
// signed anew where the description says otherwise.
func (c *certifyCmd) signed(h *providertest.Harness, w *declared.Webhook, secret string) (keys [][]byte, err error) {
	if w == nil {
		return nil, nil
	}
	h.Webhooks = providertest.Hints
	scheme, own := w.Scheme()
	if own && c.BaseURL == "" {
		return h.SignAs(scheme), nil
	}
	if keys, err = w.Keys(secret); err != nil || len(keys) == 0 {
		return nil, err
	}
	h.Webhooks = providertest.Signed
	if own {
		h.Describe(scheme)
	}
	return keys, nil
}

// keyFile reads a secret from its file; no file is no secret.
func keyFile(name string) (string, error) {
	if name == "" {
		return "", nil
	}
	data, err := os.ReadFile(name)
	return strings.TrimSpace(string(data)), err
}

// doors are the stand-in's back doors; nil when it has none and none were named.
func (c *certifyCmd) doors(ctx context.Context, home string) (providertest.Simulator, error) {
	at := strings.TrimRight(c.AdminURL, "/")
	if at == "" {
		u, err := url.Parse(home)
		if err != nil || u.Host == "" {
			return nil, fmt.Errorf("--base-url: %q is no URL", home)
		}
		at = u.Scheme + "://" + u.Host
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, at+"/admin/tasks?prompt=none", nil)
	if err != nil {
		return nil, fmt.Errorf("--admin-url: %w", err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err == nil {
		_ = resp.Body.Close()
		if resp.StatusCode == http.StatusOK {
			return providertest.Admin{URL: at}, nil
		}
		err = fmt.Errorf("status %d", resp.StatusCode)
	}
	if c.AdminURL != "" {
		return nil, fmt.Errorf("--admin-url: %s/admin/tasks: %w", at, err)
	}
	return nil, nil //nolint:nilnil // no doors is an answer
}

// serveSimulator serves a simulator on a port of its own.
func serveSimulator(ctx context.Context, cfg simulator.Config) (at string, stop func(), err error) {
	sim, err := simulator.New(cfg, simulator.Deps{Client: &http.Client{Timeout: 5 * time.Second}, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return "", nil, err
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		sim.Close()
		return "", nil, fmt.Errorf("open the simulator: %w", err)
	}
	srv := &http.Server{Handler: sim.Handler(), ReadHeaderTimeout: 5 * time.Second, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = srv.Serve(l) // until it is closed
	}()
	return "http://" + l.Addr().String(), func() { _ = srv.Close(); sim.Close(); <-done }, nil
}
