package bucket

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/feature/s3/transfermanager"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"gocloud.dev/blob"
)

const (
	partBytes = 8 << 20
	// partsAtOnce bounds the memory of one upload: so many parts are under way.
	partsAtOnce = 3
	// partTries is how often a part, or the order to put the parts together, is
	// sent before the upload is given up; with S3's backoff that is about a minute.
	partTries = 8
	// abortTimeout is how long the removal of an upload's parts may take after it
	// was given up, when its own context may have ended.
	abortTimeout = 30 * time.Second
)

// uploads are the multipart uploads of an S3 bucket.
type uploads struct {
	client *s3.Client
	bucket string
}

// newUploads is nil for a bucket that is not S3.
func newUploads(b *blob.Bucket, name string) *uploads {
	var c *s3.Client
	if !b.As(&c) {
		return nil
	}
	return &uploads{s3.New(c.Options(), func(o *s3.Options) { o.RetryMaxAttempts = partTries }), name}
}

// before sets how an object is uploaded. The driver's own manager removes no
// parts once the upload's context has ended.
func (u *uploads) before(as func(any) bool) error {
	var m *transfermanager.Client
	if u == nil || !as(&m) {
		return nil
	}
	*m = *transfermanager.New(u.client, func(o *transfermanager.Options) {
		o.PartSizeBytes, o.Concurrency, o.FailTimeout = partBytes, partsAtOnce, abortTimeout
		o.RequestChecksumCalculation = u.client.Options().RequestChecksumCalculation
	})
	return nil
}

// Discard removes what unfinished uploads have left of an object: parts of a
// process that was killed. It does nothing but on S3, where they are kept, and
// billed, until somebody does. Uploads under way are ended as well.
func (b *Bucket) Discard(ctx context.Context, key string) error {
	if b.s3 == nil {
		return nil
	}
	list := s3.NewListMultipartUploadsPaginator(b.s3.client, &s3.ListMultipartUploadsInput{Bucket: &b.s3.bucket, Prefix: &key})
	var errs []error
	for list.HasMorePages() {
		page, err := list.NextPage(ctx)
		if err != nil {
			return fmt.Errorf("list unfinished uploads: %w", errors.Join(append(errs, err)...))
		}
		for _, up := range page.Uploads {
			if aws.ToString(up.Key) != key {
				continue // a longer key with this beginning
			}
			if _, err := b.s3.client.AbortMultipartUpload(ctx, &s3.AbortMultipartUploadInput{Bucket: &b.s3.bucket, Key: &key, UploadId: up.UploadId}); err != nil {
				errs = append(errs, fmt.Errorf("remove unfinished upload: %w", err))
			}
		}
	}
	return errors.Join(errs...)
}
