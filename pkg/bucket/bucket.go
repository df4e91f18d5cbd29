// Package bucket is where results are kept: a folder, S3 or Google Cloud
// Storage, chosen by URL, with signed URLs that expire.
package bucket

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"gocloud.dev/blob"
	"gocloud.dev/blob/fileblob"
	_ "gocloud.dev/blob/gcsblob" // gs://
	_ "gocloud.dev/blob/s3blob"  // s3://
	"gocloud.dev/gcerrors"

	"reelway.dev/pkg/fault"
	"reelway.dev/pkg/id"
	"reelway.dev/pkg/videojson"
)

// Config says where the bucket is.
type Config struct {
	URL       string        `env:"REELWAY_BUCKET_URL" desc:"file:///dir, s3://bucket?region=…, gs://bucket; empty is a folder in the data directory"`
	URLLife   time.Duration `env:"REELWAY_URL_LIFE" min:"1s" max:"168h" envDefault:"15m" desc:"how long a signed URL works"`
	PublicURL string        `env:"REELWAY_FILES_URL" url:"true" desc:"for folders: how callers reach the service that serves it"`
	Secret    string        `env:"REELWAY_FILES_SECRET" desc:"for folders: signs URLs, 32 characters or more"`
}

// FilesPath is where a folder's signed URLs are served.
const FilesPath = "/v1/files"

// Bucket is safe for concurrent use.
type Bucket struct {
	b      *blob.Bucket
	life   time.Duration
	signer fileblob.URLSigner // folders alone
}

// Open opens the bucket; a folder is made when it does not exist.
func Open(ctx context.Context, cfg Config) (*Bucket, error) {
	u, err := url.Parse(cfg.URL)
	if err != nil {
		return nil, fmt.Errorf("parse bucket URL: %w", err)
	}
	if u.Scheme != "file" {
		b, err := blob.OpenBucket(ctx, cfg.URL)
		if err != nil {
			return nil, fmt.Errorf("open bucket: %w", err)
		}
		return &Bucket{b: b, life: cfg.URLLife}, nil
	}
	base, err := url.Parse(strings.TrimRight(cfg.PublicURL, "/") + FilesPath)
	if err != nil || len(cfg.Secret) < 32 {
		return nil, errors.New("a bucket folder needs a public URL and a secret of 32 bytes")
	}
	dir := filepath.FromSlash(u.Path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make bucket folder: %w", err)
	}
	signer := fileblob.NewURLSignerHMAC(base, []byte(cfg.Secret))
	b, err := fileblob.OpenBucket(dir, &fileblob.Options{
		URLSigner: signer,
		NoTempDir: true, // written beside and renamed: a half-written file is never seen
	})
	if err != nil {
		return nil, fmt.Errorf("open bucket folder: %w", err)
	}
	return &Bucket{b: b, life: cfg.URLLife, signer: signer}, nil
}

// Close releases the bucket's connections.
func (b *Bucket) Close() error { return b.b.Close() }

// SignedURL is a URL that gives the object to whoever has it, until the time
// returned.
func (b *Bucket) SignedURL(ctx context.Context, key string) (string, time.Time, error) {
	expires := time.Now().Add(b.life).UTC()
	u, err := b.b.SignedURL(ctx, key, &blob.SignedURLOptions{Expiry: b.life, Method: http.MethodGet})
	if err != nil {
		return "", time.Time{}, fmt.Errorf("sign URL: %w", err)
	}
	return u, expires, nil
}

// Writer opens an object for writing. It appears whole at Close, and not at
// all when ctx was canceled before.
func (b *Bucket) Writer(ctx context.Context, key, contentType string) (io.WriteCloser, error) {
	w, err := b.b.NewWriter(ctx, key, &blob.WriterOptions{ContentType: contentType})
	if err != nil {
		return nil, fmt.Errorf("open object: %w", err)
	}
	return w, nil
}

// Delete removes an object; one that is gone already is a success.
func (b *Bucket) Delete(ctx context.Context, key string) error {
	if err := b.b.Delete(ctx, key); err != nil && gcerrors.Code(err) != gcerrors.NotFound {
		return fmt.Errorf("delete object: %w", err)
	}
	return nil
}

// Handler serves a folder's signed URLs; nil for S3 and GCS, which serve their
// own. An altered or expired URL gets 403.
func (b *Bucket) Handler() http.Handler {
	if b.signer == nil {
		return nil
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		key, err := b.signer.KeyFromURL(r.Context(), r.URL)
		if err != nil || r.Method != http.MethodGet && r.Method != http.MethodHead {
			videojson.WriteFault(w, id.New(id.Request), fault.New(fault.PermissionDenied, "this link was altered or has expired; fetch the video's content again for a new one"))
			return
		}
		rd, err := b.b.NewReader(r.Context(), key, nil)
		if err != nil {
			videojson.WriteFault(w, id.New(id.Request), fault.New(fault.NotFound, "the file is gone"))
			return
		}
		defer func() { _ = rd.Close() }()
		w.Header().Set("Content-Type", rd.ContentType())
		w.Header().Set("Cache-Control", "private, max-age=60")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		w.Header().Set("Content-Disposition", `inline; filename="`+filepath.Base(filepath.Dir(key))+`.mp4"`)
		http.ServeContent(w, r, "", rd.ModTime(), rd)
	})
}
