package catalog

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"reelway.dev/pkg/run"
)

// Config is what an operator may set.
type Config struct {
	Files []string      `env:"REELWAY_MODELS_FILES" desc:"YAML files, or directories of them, that add to the models or override them, separated by commas (docs/models.md); a later one goes before"`
	Every time.Duration `env:"REELWAY_MODELS_EVERY" min:"100ms" envDefault:"5s" desc:"how often the files of models are looked at for a change"`
}

// maxFile bounds a file of models, in bytes.
const maxFile = 8 << 20

// files are an operator's files on top of the models that ship.
type files struct {
	cfg    Config
	offers func(provider string) bool
	log    *slog.Logger
	tried  [sha256.Size]byte // content that was last read, good or bad

	models  metric.Int64Gauge
	stale   metric.Int64Gauge
	reloads metric.Int64Counter
}

// Open is the models that ship, overridden by the operator's files, of the
// providers that offers says are on. Its error names every fault of every file.
// Components keeps it current.
func Open(cfg Config, offers func(provider string) bool, log *slog.Logger) (*Catalog, error) {
	m := otel.Meter("reelway.dev/pkg/catalog")
	models, err1 := m.Int64Gauge("reelway.catalog.models", metric.WithUnit("{model}"), metric.WithDescription("models on offer"))
	stale, err2 := m.Int64Gauge("reelway.catalog.stale", metric.WithDescription("1 while the files of models are faulty and the last good ones are used"))
	reloads, err3 := m.Int64Counter("reelway.catalog.reloads", metric.WithUnit("{reload}"), metric.WithDescription("changed files of models that were read, by result: ok, failed"))
	if err := errors.Join(err1, err2, err3); err != nil {
		return nil, fmt.Errorf("make metrics: %w", err)
	}
	f := &files{cfg: cfg, offers: offers, log: log, models: models, stale: stale, reloads: reloads}
	all, tried, err := overridden(cfg.Files)
	if err != nil {
		return nil, fmt.Errorf("REELWAY_MODELS_FILES: %w", err)
	}
	f.tried = tried
	c := &Catalog{files: f}
	c.serve(context.Background(), all)
	return c, nil
}

// Components look at the files from time to time; none without files.
func (c *Catalog) Components() []run.Component {
	if c.files == nil || len(c.files.cfg.Files) == 0 {
		return nil
	}
	return []run.Component{{Name: "models-files", Run: func(ctx context.Context) error {
		run.Every(ctx, c.files.cfg.Every, func() { c.reload(ctx) })
		return nil
	}}}
}

// reload puts a changed, faultless version in the place of the present one. A
// faulty one changes nothing and is told once.
func (c *Catalog) reload(ctx context.Context) {
	f := c.files
	all, tried, err := overridden(f.cfg.Files)
	if tried == f.tried {
		return
	}
	f.tried = tried
	if err != nil {
		f.reloads.Add(ctx, 1, metric.WithAttributes(attribute.String("result", "failed")))
		f.stale.Record(ctx, 1)
		f.log.ErrorContext(ctx, "files of models are faulty; the last good ones stay", "error", err.Error())
		return
	}
	f.reloads.Add(ctx, 1, metric.WithAttributes(attribute.String("result", "ok")))
	c.serve(ctx, all)
	f.log.InfoContext(ctx, "files of models read", "models", len(c.set.Load().models))
}

// serve offers those of all whose providers are on, and tells of an operator's
// own that are not: a provider's name may be mistyped.
func (c *Catalog) serve(ctx context.Context, all []Model) {
	for _, m := range all {
		if !c.files.offers(m.Provider) && !slices.ContainsFunc(shipped(), func(s Model) bool { return s.Provider == m.Provider }) {
			c.files.log.WarnContext(ctx, "a model's provider is not on, so it is not offered", "model", m.ID, "provider", m.Provider)
		}
	}
	on := newSet(only(slices.Clone(all), c.files.offers))
	c.set.Store(on)
	c.files.stale.Record(ctx, 0)
	c.files.models.Record(ctx, int64(len(on.models)))
}

// Check reads operators' files as Open does, whether their providers are on or
// not, and returns the models that there would be.
func Check(paths ...string) ([]Model, error) {
	all, _, err := overridden(paths)
	return all, err
}

// overridden is the models that ship with the files on top, and a sum of what
// was read or went wrong.
func overridden(paths []string) ([]Model, [sha256.Size]byte, error) {
	sum := sha256.New()
	all := slices.Clone(shipped())
	at := map[string]int{}
	for i, m := range all {
		at[m.ID] = i
	}
	var errs []error
	for _, name := range expand(paths, &errs) {
		data, err := read(name)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		_, _ = fmt.Fprintf(sum, "%q %d ", name, len(data)) // a hash never fails
		_, _ = sum.Write(data)
		models, err := parse(name, data)
		errs = append(errs, err)
		for _, m := range models {
			if i, ok := at[m.ID]; ok {
				all[i] = m
			} else {
				at[m.ID] = len(all)
				all = append(all, m)
			}
		}
	}
	err := errors.Join(errs...)
	if err != nil {
		_, _ = io.WriteString(sum, err.Error())
	}
	return slices.DeleteFunc(all, func(m Model) bool { return m.Disabled }), [sha256.Size]byte(sum.Sum(nil)), err
}

// expand turns directories into their YAML files, by name. Names that begin
// with a dot are left out: a mounted ConfigMap keeps its versions in them.
func expand(paths []string, errs *[]error) (out []string) {
	for _, p := range paths {
		p = strings.TrimSpace(p)
		if p == "" {
			continue
		}
		info, err := os.Stat(p)
		if err != nil || !info.IsDir() {
			out = append(out, p) // reading it tells what is wrong
			continue
		}
		list, err := os.ReadDir(p)
		if err != nil {
			*errs = append(*errs, err)
		}
		for _, e := range list {
			if ext := filepath.Ext(e.Name()); !strings.HasPrefix(e.Name(), ".") && (ext == ".yaml" || ext == ".yml") {
				out = append(out, filepath.Join(p, e.Name()))
			}
		}
	}
	return out
}

func read(name string) ([]byte, error) {
	f, err := os.Open(name) //nolint:gosec // the operator names the file
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, err
	}
	if len(data) > maxFile {
		return nil, fmt.Errorf("%s: is larger than %d bytes", name, maxFile)
	}
	return data, nil
}
