package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/textparse"
	"github.com/prometheus/prometheus/model/timestamp"
	"github.com/prometheus/prometheus/storage"
)

// scrapeEvery is the time between two scrapes, and between two points of a picture.
const scrapeEvery = 5 * time.Second

// record scrapes url, as Prometheus does, for a while into db.
func record(ctx context.Context, db storage.AppendableV2, url string, span time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, span)
	defer cancel()
	tick := time.NewTicker(scrapeEvery)
	defer tick.Stop()
	for {
		if err := scrape(ctx, db, url); err != nil {
			if ctx.Err() != nil {
				return nil //nolint:nilerr // the span is over
			}
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

func scrape(ctx context.Context, db storage.AppendableV2, url string) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return fmt.Errorf("scrape: %w", err)
	}
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		return fmt.Errorf("scrape: %w", err)
	}
	defer func() { _ = answer.Body.Close() }()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		return fmt.Errorf("scrape: %w", err)
	}
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("scrape %s: %s", url, answer.Status)
	}
	return store(ctx, db, text, answer.Header.Get("Content-Type"), r.URL.Host, time.Now())
}

// store appends what a scrape of an instance has shown.
func store(ctx context.Context, db storage.AppendableV2, text []byte, kind, instance string, at time.Time) error {
	p, err := textparse.New(text, kind, labels.NewSymbolTable(), textparse.ParserOptions{FallbackContentType: "text/plain"})
	if err != nil {
		return fmt.Errorf("read metrics: %w", err)
	}
	app := db.AppenderV2(ctx)
	for {
		entry, err := p.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return errors.Join(fmt.Errorf("read metrics: %w", err), app.Rollback())
		}
		if entry != textparse.EntrySeries {
			continue
		}
		_, _, value := p.Series()
		var series labels.Labels
		p.Labels(&series)
		b := labels.NewBuilder(series)
		b.Set("job", "reelway")
		b.Set("instance", instance)
		if _, err := app.Append(0, b.Labels(), 0, timestamp.FromTime(at), value, nil, nil, storage.AOptions{}); err != nil {
			return errors.Join(fmt.Errorf("keep metrics: %w", err), app.Rollback())
		}
	}
	if err := app.Commit(); err != nil {
		return fmt.Errorf("keep metrics: %w", err)
	}
	return nil
}
