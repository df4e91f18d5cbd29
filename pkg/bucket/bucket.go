// Package bucket is where results are kept: a folder, S3 or Google Cloud
// Storage, chosen by URL, with signed URLs that expire.
package bucket

import (
	"context"
	"errors"
	"fmt"
	"io"
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
)

// Config says where the bucket is.
type Config struct {
	URL       string        `env:"REELWAY_BUCKET_URL" desc:"file:///dir, s3://bucket?region=…, gs://bucket; empty is a folder in the data directory; docs/storage.md has the parameters"`
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
	s3     *uploads           // S3 alone
}

// Open opens the bucket; a folder is made when it does not exist. No request is
// sent: whether the bucket can be used is Check's to say.
func Open(ctx context.Context, cfg Config) (*Bucket, error) {
	u, err := url.Parse(cfg.URL)
	if bad := (*url.Error)(nil); errors.As(err, &bad) {
		err = bad.Err // without the URL, which may hold a key
	}
	if err != nil {
		return nil, fmt.Errorf("parse bucket URL: %w", err)
	}
	if u.Scheme != "file" {
		b, err := blob.OpenBucket(ctx, cfg.URL)
		if err != nil {
			return nil, fmt.Errorf("open bucket: %w", err)
		}
		return &Bucket{b: b, life: cfg.URLLife, s3: newUploads(b, u.Host)}, nil
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

// Writer opens an object for writing. It appears whole at Close, and not at
// all when ctx was canceled before. On S3 a large object goes in parts; a part
// that fails is sent again, and when it cannot be sent, or ctx ends, what was
// sent of the object is removed. The bucket encrypts as its URL says.
func (b *Bucket) Writer(ctx context.Context, key, contentType string) (io.WriteCloser, error) {
	w, err := b.b.NewWriter(ctx, key, &blob.WriterOptions{ContentType: contentType, BeforeWrite: b.s3.before})
	if err != nil {
		return nil, fmt.Errorf("open object: %w", err)
	}
	return w, nil
}

// ErrStillThere says that an object was found after its deletion.
var ErrStillThere = errors.New("the bucket still has the object after its deletion")

// Delete removes an object; one that is gone already is a success. It returns
// nil only when the bucket has said that the object is not there.
func (b *Bucket) Delete(ctx context.Context, key string) error {
	if err := b.b.Delete(ctx, key); gcerrors.Code(err) == gcerrors.NotFound {
		return nil
	} else if err != nil {
		return fmt.Errorf("delete object: %w", err)
	}
	there, err := b.b.Exists(ctx, key)
	if err != nil {
		return fmt.Errorf("look for deleted object: %w", err)
	}
	if there {
		return ErrStillThere
	}
	return nil
}
