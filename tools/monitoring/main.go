package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"time"

	"github.com/prometheus/prometheus/tsdb"
)

const component = "../../deploy/k8s/components/monitoring/"

func main() {
	out := flag.String("out", component+"dashboards", "where the dashboards are written")
	pictures := flag.String("pictures", "", "draw the dashboards into this directory, instead of writing them")
	url := flag.String("scrape", "http://127.0.0.1:9100/metrics", "the running stack to draw them of; empty for what -data has")
	span := flag.Duration("for", 10*time.Minute, "how long to scrape it, and how much to draw")
	data := flag.String("data", "", "keep the recording here, as a data directory of Prometheus; empty throws it away")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	var err error
	if *pictures == "" {
		err = write(*out)
	} else {
		err = paint(ctx, *pictures, *url, *data, *span)
	}
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "monitoring:", err)
		os.Exit(1)
	}
}

func write(dir string) error {
	return files(dir, "%s.json", board.json)
}

// files writes one of each dashboard, whose name stands for the %s of name.
func files(dir, name string, text func(board) ([]byte, error)) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("make directory: %w", err)
	}
	for _, b := range boards() {
		data, err := text(b)
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, fmt.Sprintf(name, b.name)), data, 0o644) //nolint:gosec // a page for everybody
		}
		if err != nil {
			return fmt.Errorf("write %s: %w", b.name, err)
		}
	}
	return nil
}

// json is a dashboard as Grafana imports it.
func (b board) json() ([]byte, error) {
	d, err := b.build()
	if err != nil {
		return nil, err
	}
	data, err := json.MarshalIndent(d, "", "  ")
	return append(data, '\n'), err
}

// paint draws the dashboards of what url, or an earlier recording, shows.
func paint(ctx context.Context, dir, url, data string, span time.Duration) (err error) {
	if data == "" {
		if data, err = os.MkdirTemp("", "reelway-pictures-"); err != nil {
			return fmt.Errorf("make directory: %w", err)
		}
		defer func() { err = errors.Join(err, os.RemoveAll(data)) }()
	}
	db, err := tsdb.Open(data, nil, nil, tsdb.DefaultOptions(), nil)
	if err != nil {
		return fmt.Errorf("open recording: %w", err)
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	if url != "" {
		if err := record(ctx, db, url, span); err != nil {
			return err
		}
	}
	if db.Head().NumSeries() == 0 {
		return errors.New("nothing was recorded")
	}
	recorded, _, err := rules(component + "rules/slo.yaml")
	if err != nil {
		return err
	}
	to := time.UnixMilli(db.Head().MaxTime())
	r := newReader(db, recorded, to.Add(-span), to)
	return files(dir, "dashboard-%s.svg", func(b board) ([]byte, error) {
		text, err := draw(ctx, b, r)
		return []byte(text), err
	})
}
