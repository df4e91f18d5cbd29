package registry

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"os"
	"regexp"

	"gopkg.in/yaml.v3"

	"reelway.dev/pkg/run"
)

// keysFile is a provider's file of keys (docs/dispatcher.md).
type keysFile struct {
	Limits `yaml:",inline"`
	Models map[string]Limits `yaml:"models"`
	Keys   []keySpec         `yaml:"keys"`
}

// keySpec is one key as it is written down. A file's secret is read when the
// keys file is.
type keySpec struct {
	Name          string  `yaml:"name"`
	Version       int     `yaml:"version"`
	Key           string  `yaml:"key"`
	KeyFile       string  `yaml:"key_file"`
	AccessKey     string  `yaml:"access_key"`
	SecretKey     string  `yaml:"secret_key"`
	AgentsKey     string  `yaml:"agents_key"`
	WebhookSecret string  `yaml:"webhook_secret"`
	Weight        *int    `yaml:"weight"`
	Retiring      bool    `yaml:"retiring"`
	DailyBudget   float64 `yaml:"daily_budget"`
	Limits        `yaml:",inline"`
	Models        map[string]Limits `yaml:"models"`
}

// secrets are what an adapter is opened with.
type secrets struct{ key, access, secret, agents, webhook string }

func (s keySpec) secrets() secrets {
	return secrets{s.Key, s.AccessKey, s.SecretKey, s.AgentsKey, s.WebhookSecret}
}

func (s keySpec) id() string {
	if s.Version == 0 {
		return s.Name
	}
	return fmt.Sprintf("%s-v%d", s.Name, s.Version)
}

// maxRate bounds a rate, in submits a second: it is as good as none.
const maxRate = 1_000_000

// keyName keeps names to what subjects and labels take. With an underscore begins
// what stands for all keys.
var keyName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_-]{0,59}$`)

func (l Limits) check(where string) error {
	// The rate bounded: the replicas share it as JSON, which knows no .inf or .nan.
	if l.MaxRunning < 0 || l.MaxRunning > math.MaxInt32 || !(l.Rate >= 0 && l.Rate <= maxRate) {
		return fmt.Errorf("%smax_running and rate must be 0 or more, rate %d at most", where, maxRate)
	}
	return nil
}

func checkModels(models map[string]Limits) error {
	var errs []error
	for m, l := range models {
		errs = append(errs, l.check("model "+m+": "))
	}
	return errors.Join(errs...)
}

func (s keySpec) check() error {
	errs := []error{s.Limits.check(""), checkModels(s.Models)}
	if s.Key == "" && (s.AccessKey == "" || s.SecretKey == "") {
		errs = append(errs, errors.New("key, key_file, or access_key with secret_key is needed"))
	}
	if !keyName.MatchString(s.Name) {
		errs = append(errs, errors.New("a name of 1 to 60 of A-Z a-z 0-9 _ - is needed, a letter or digit first"))
	}
	if s.Version < 0 || s.Weight != nil && (*s.Weight < 1 || *s.Weight > 1000) {
		errs = append(errs, errors.New("version must be 0 or more, weight 1 to 1000"))
	}
	if !(s.DailyBudget >= 0 && s.DailyBudget <= 1e9) { // .nan is neither
		errs = append(errs, errors.New("daily_budget must be 0 to 1000000000"))
	}
	return errors.Join(errs...)
}

// readKeys reads a file of keys and all that it names. Every fault is told, and
// no secret.
func readKeys(name string) (keysFile, error) {
	var f keysFile
	data, err := os.ReadFile(name)
	if err != nil {
		return f, err
	}
	d := yaml.NewDecoder(bytes.NewReader(data))
	d.KnownFields(true)
	if err := d.Decode(&f); err != nil && !errors.Is(err, io.EOF) {
		return f, errors.New("is not a YAML file of keys; see docs/dispatcher.md") // yaml's own words may quote a secret
	}
	if err := d.Decode(&yaml.Node{}); !errors.Is(err, io.EOF) {
		return f, errors.New("goes on after a line of three dashes, and what is there would not be read")
	}
	errs := []error{f.check(""), checkModels(f.Models)}
	seen := map[string]bool{}
	for i := range f.Keys {
		s := &f.Keys[i]
		if s.KeyFile != "" {
			if s.Key, err = secretFile(s.KeyFile); err != nil {
				errs = append(errs, fmt.Errorf("key %q: %w", s.Name, err))
				continue
			}
		}
		if err := s.check(); err != nil {
			errs = append(errs, fmt.Errorf("key %q: %w", s.Name, err))
		}
		if seen[s.id()] {
			errs = append(errs, fmt.Errorf("key %q: its name and version are there twice", s.Name))
		}
		seen[s.id()] = true
	}
	return f, errors.Join(errs...)
}

// ring opens the keys of a provider: the file's, and the single key of its
// variables if there is one.
func (b builtin) ring() (*ring, error) {
	var f keysFile
	var errs []error
	if b.file != "" {
		var err error
		if f, err = readKeys(b.file); err != nil {
			errs = append(errs, fmt.Errorf("%s_KEYS_FILE: %w", b.prefix, err))
		}
	}
	r := &ring{Limits: f.Limits, models: f.Models}
	if b.single.key != "" || b.single.access != "" {
		f.Keys = append([]keySpec{{Name: DefaultKey, Key: b.single.key, AccessKey: b.single.access, SecretKey: b.single.secret,
			AgentsKey: b.single.agents, WebhookSecret: b.single.webhook}}, f.Keys...)
	}
	for i, s := range f.Keys {
		if i > 0 && s.id() == f.Keys[0].id() && s.id() == DefaultKey {
			errs = append(errs, fmt.Errorf("%s_KEYS_FILE: key %q: the name is that of the key in %s_KEY", b.prefix, s.Name, b.prefix))
		}
		hooks, err := decode(s.WebhookSecret)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s_WEBHOOK_SECRET, of key %q: %w", b.prefix, s.Name, err))
			continue
		}
		weight := 1
		if s.Weight != nil {
			weight = *s.Weight
		}
		r.keys = append(r.keys, &Key{ID: s.id(), Weight: weight, Retiring: s.Retiring, DailyBudget: int64(math.Round(s.DailyBudget * 1e6)),
			Limits: s.Limits, Models: s.Models, Adapter: b.open(s.secrets(), hooks), spec: s})
	}
	if len(r.keys) == 0 && len(errs) == 0 {
		errs = append(errs, fmt.Errorf("%s_KEYS_FILE: holds no key", b.prefix))
	}
	return r, errors.Join(errs...)
}

// Component reads the keys files again and again, so that keys come, retire and
// go without a restart. A file with a fault changes nothing.
func (p Providers) Component(log *slog.Logger) run.Component {
	return run.Component{Name: "provider-keys", Run: func(ctx context.Context) error {
		faults := map[string]string{} // told already
		run.Every(ctx, p.every, func() {
			for _, b := range p.files {
				next, err := b.ring()
				switch {
				case err != nil && faults[b.name] != err.Error():
					faults[b.name] = err.Error()
					log.ErrorContext(ctx, "keys file has a fault, its last good state stays", "provider", b.name, "error", err.Error())
				case err == nil:
					delete(faults, b.name)
					if p.Keys[b.name].differs(next) {
						p.Keys[b.name].replace(next)
						log.InfoContext(ctx, "keys read anew", "provider", b.name, "keys", len(next.keys))
					}
				}
			}
		})
		return nil
	}}
}
