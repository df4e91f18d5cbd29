package route

import (
	"context"
	"crypto/sha256"
	"fmt"
	"log/slog"
	"os"
	"sync/atomic"
	"time"

	"reelway.dev/pkg/run"
)

// Config is what an operator may set.
type Config struct {
	File   string        `env:"REELWAY_ROUTES_FILE" desc:"a YAML file of aliases that add to those that ship or replace them (docs/routes.md); it is read again when it changes"`
	Every  time.Duration `env:"REELWAY_ROUTES_EVERY" min:"100ms" envDefault:"5s" desc:"how often the file of aliases is looked at for a change"`
	Region string        `env:"REELWAY_REGION" desc:"where this deployment runs, in the words of the aliases' conditions of region"`
}

// maxFile bounds the file, in bytes.
const maxFile = 1 << 20

// Routes is the current table: the aliases that ship, and an operator's file on
// top. It is safe for concurrent use.
type Routes struct {
	cfg    Config
	models Models
	log    *slog.Logger
	table  atomic.Pointer[Table]
	tried  [sha256.Size]byte // content that was last read, good or bad
}

// Open reads the table; the error names every fault of the file. Components
// keeps it current.
func Open(cfg Config, models Models, log *slog.Logger) (*Routes, error) {
	r := &Routes{cfg: cfg, models: models, log: log}
	t, tried, err := r.read()
	if err != nil {
		return nil, fmt.Errorf("REELWAY_ROUTES_FILE: %w", err)
	}
	r.tried = tried
	r.table.Store(t)
	return r, nil
}

// Table is the one that holds now.
func (r *Routes) Table() *Table { return r.table.Load() }

// Region is where this deployment runs.
func (r *Routes) Region() string { return r.cfg.Region }

// Components look at the file from time to time; none without a file.
func (r *Routes) Components() []run.Component {
	if r.cfg.File == "" {
		return nil
	}
	return []run.Component{{Name: "routes-file", Run: func(ctx context.Context) error {
		run.Every(ctx, r.cfg.Every, func() { r.reload(ctx) })
		return nil
	}}}
}

// reload puts a changed, faultless file in the place of the present table. A
// faulty one changes nothing and is told once.
func (r *Routes) reload(ctx context.Context) {
	t, tried, err := r.read()
	if tried == r.tried {
		return
	}
	r.tried = tried
	if err != nil {
		r.log.ErrorContext(ctx, "the file of aliases is faulty; the last good one stays", "error", err.Error())
		return
	}
	r.table.Store(t)
	r.log.InfoContext(ctx, "file of aliases read", "aliases", len(t.aliases))
}

// read returns the table of the present file, and a sum of what was read and of
// what was wrong with it: a model that the file names may come to the catalogue
// after it, or leave it.
func (r *Routes) read() (*Table, [sha256.Size]byte, error) {
	var data []byte
	if r.cfg.File != "" {
		info, err := os.Stat(r.cfg.File)
		if err == nil && info.Size() > maxFile {
			err = fmt.Errorf("%s is larger than 1 MiB", r.cfg.File)
		}
		if err == nil {
			data, err = os.ReadFile(r.cfg.File)
		}
		if err != nil {
			return nil, sha256.Sum256([]byte(err.Error())), err
		}
	}
	t, err := Parse(data, r.models)
	if err != nil {
		return nil, sha256.Sum256(fmt.Append(data, err)), err
	}
	return t, sha256.Sum256(data), nil
}
