package bucket

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strconv"
	"time"

	"cloud.google.com/go/storage"
	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"gocloud.dev/blob"
	"gocloud.dev/blob/driver"
	"gocloud.dev/gcerrors"

	"reelway.dev/pkg/fault"
	"reelway.dev/pkg/id"
	"reelway.dev/pkg/videojson"
)

// ErrAbsent says that the bucket has no such object.
var ErrAbsent = errors.New("the bucket has no such object")

// Reader opens an object and tells its size in bytes. One that is not there is
// ErrAbsent.
func (b *Bucket) Reader(ctx context.Context, key string) (io.ReadCloser, int64, error) {
	r, err := b.b.NewReader(ctx, key, nil)
	if gcerrors.Code(err) == gcerrors.NotFound {
		return nil, 0, ErrAbsent
	}
	if err != nil {
		return nil, 0, fmt.Errorf("read object: %w", err)
	}
	return r, r.Size(), nil
}

// Put is how a stranger sends an object: one PUT to the URL, with the headers,
// of exactly the bytes agreed on.
type Put struct {
	URL       string
	Header    map[string]string
	ExpiresAt time.Time
}

// SignPut returns a Put of one object, which works for life and once: what is
// there is not written over. The size and the type are under the signature.
// Content-Length is the client's to send and not among the headers.
func (b *Bucket) SignPut(ctx context.Context, key, contentType string, size int64, life time.Duration) (Put, error) {
	p := Put{ExpiresAt: time.Now().Add(life).UTC(), Header: map[string]string{"Content-Type": contentType}}
	var err error
	switch {
	case b.signer != nil:
		err = b.signFolderPut(ctx, &p, key, contentType, size, life)
	case b.s3 != nil:
		err = b.s3.signPut(ctx, &p, key, contentType, size, life)
	default:
		err = b.signGCSPut(ctx, &p, key, contentType, size, life)
	}
	if err != nil {
		return Put{}, fmt.Errorf("sign upload: %w", err)
	}
	return p, nil
}

func (b *Bucket) signFolderPut(ctx context.Context, p *Put, key, contentType string, size int64, life time.Duration) error {
	kind := mime.FormatMediaType(contentType, map[string]string{"bytes": strconv.FormatInt(size, 10)})
	u, err := b.signer.URLFromKey(ctx, key, &driver.SignedURLOptions{Expiry: life, Method: http.MethodPut, ContentType: kind})
	if err != nil {
		return err
	}
	p.URL = u.String()
	return nil
}

func (u *uploads) signPut(ctx context.Context, p *Put, key, contentType string, size int64, life time.Duration) error {
	signer := s3.NewPresignClient(u.client, s3.WithPresignExpires(life), s3.WithPresignClientFromClientOptions(func(o *s3.Options) {
		o.RequestChecksumCalculation = aws.RequestChecksumCalculationWhenRequired // nobody here has the bytes
	}))
	signed, err := signer.PresignPutObject(ctx, &s3.PutObjectInput{Bucket: &u.bucket, Key: &key, ContentType: &contentType, ContentLength: &size, IfNoneMatch: aws.String("*")})
	if err != nil {
		return err
	}
	p.URL = signed.URL
	for name := range signed.SignedHeader {
		if name != "Host" && name != "Content-Length" {
			p.Header[name] = signed.SignedHeader.Get(name)
		}
	}
	return nil
}

func (b *Bucket) signGCSPut(ctx context.Context, p *Put, key, contentType string, size int64, life time.Duration) error {
	p.Header["x-goog-content-length-range"] = fmt.Sprintf("%d,%d", size, size)
	p.Header["x-goog-if-generation-match"] = "0"
	var err error
	p.URL, err = b.b.SignedURL(ctx, key, &blob.SignedURLOptions{Expiry: life, Method: http.MethodPut, ContentType: contentType, BeforeSign: func(as func(any) bool) error {
		var g *storage.SignedURLOptions
		if as(&g) {
			g.Scheme = storage.SigningSchemeV4
			for _, name := range []string{"x-goog-content-length-range", "x-goog-if-generation-match"} {
				g.Headers = append(g.Headers, name+":"+p.Header[name])
			}
		}
		return nil
	}})
	return err
}

// putTimeout is how long a folder waits for a file that is sent to it.
const putTimeout = 15 * time.Minute

// take is the folder's end of a Put.
func (b *Bucket) take(w http.ResponseWriter, r *http.Request, key string) {
	fail := func(code fault.Code, format string, args ...any) {
		videojson.WriteFault(w, id.New(id.Request), fault.New(code, format, args...))
	}
	kind, params, err := mime.ParseMediaType(r.URL.Query().Get("contentType"))
	size, serr := strconv.ParseInt(params["bytes"], 10, 64)
	switch {
	case err != nil || serr != nil:
		fail(fault.PermissionDenied, "this link was altered; begin the upload anew")
		return
	case r.Header.Get("Content-Type") != kind:
		fail(fault.InvalidRequest, "Content-Type: must be %s, as was said when the upload was begun", kind)
		return
	case r.ContentLength != size:
		fail(fault.InvalidRequest, "Content-Length: must be %d, as was said when the upload was begun", size)
		return
	}
	if there, err := b.b.Exists(r.Context(), key); err == nil && there {
		fail(fault.Conflict, "this file has come already; complete the upload")
		return
	}
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(putTimeout))
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	// IfNotExist judges two that come at the same time.
	out, err := b.b.NewWriter(ctx, key, &blob.WriterOptions{ContentType: kind, IfNotExist: true})
	if err != nil {
		fail(fault.Unavailable, "the file could not be stored; try again")
		return
	}
	sum := sha256.New()
	if n, err := io.Copy(io.MultiWriter(out, sum), io.LimitReader(r.Body, size)); err != nil || n != size {
		cancel() // Close after a cancel discards what was written
		_ = out.Close()
		fail(fault.InvalidRequest, "body: ended before it was complete")
		return
	}
	switch err := out.Close(); {
	case gcerrors.Code(err) == gcerrors.FailedPrecondition:
		fail(fault.Conflict, "this file has come already; complete the upload")
	case err != nil:
		fail(fault.Unavailable, "the file could not be stored; try again")
	default:
		w.Header().Set("ETag", fmt.Sprintf("%q", fmt.Sprintf("%x", sum.Sum(nil))))
		w.WriteHeader(http.StatusOK)
	}
}
