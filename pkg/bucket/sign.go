package bucket

import (
	"cmp"
	"context"
	"fmt"
	"mime"
	"net/http"
	"net/url"
	"path"
	"strings"
	"time"

	"cloud.google.com/go/storage"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"gocloud.dev/blob"
	"gocloud.dev/blob/driver"

	"reelway.dev/pkg/fault"
	"reelway.dev/pkg/id"
	"reelway.dev/pkg/videojson"
)

// Response is how a signed URL answers. The zero value is right for players.
type Response struct {
	// ContentType replaces the one that the object was stored with.
	ContentType string
	// FileName is what a browser calls the file that it saves; empty is made of
	// the key: video_….mp4.
	FileName string
	// Download lets a browser save the file; otherwise it shows it.
	Download bool
	// Life is how long the URL works; 0 is what the bucket was opened with. A
	// store bounds it: S3 and GCS at seven days.
	Life time.Duration
}

// disposition is the Content-Disposition (RFC 6266) of a response.
func (r Response) disposition(key string) string {
	how, name := "inline", r.FileName
	if r.Download {
		how = "attachment"
	}
	if name == "" {
		name = fileName(key)
	}
	return mime.FormatMediaType(how, map[string]string{"filename": name})
}

// fileName is an object's name for people: the video's, with what follows the
// attempt's in the key: videos/ACCOUNT/VIDEO/ATTEMPT.thumbnail.webp.
func fileName(key string) string {
	dir, base := path.Split(key)
	_, ext, _ := strings.Cut(base, ".")
	return path.Base(dir) + "." + ext
}

// SignedURL is Sign with the zero Response.
func (b *Bucket) SignedURL(ctx context.Context, key string) (string, time.Time, error) {
	return b.Sign(ctx, key, Response{})
}

// Sign returns a URL that gives the object to whoever has it, until the time
// returned. Whether the object exists is not looked at.
func (b *Bucket) Sign(ctx context.Context, key string, r Response) (string, time.Time, error) {
	r.Life = cmp.Or(r.Life, b.life)
	expires := time.Now().Add(r.Life).UTC()
	u, err := b.sign(ctx, key, r)
	if err != nil {
		return "", time.Time{}, fmt.Errorf("sign URL: %w", err)
	}
	return u, expires, nil
}

func (b *Bucket) sign(ctx context.Context, key string, r Response) (string, error) {
	if b.signer != nil {
		u, err := b.signer.URLFromKey(ctx, key, &driver.SignedURLOptions{Expiry: r.Life, Method: http.MethodGet, ContentType: r.signed()})
		if err != nil {
			return "", err
		}
		return u.String(), nil
	}
	return b.b.SignedURL(ctx, key, &blob.SignedURLOptions{Expiry: r.Life, Method: http.MethodGet, BeforeSign: func(as func(any) bool) error {
		disposition := r.disposition(key)
		var s *s3.GetObjectInput
		var g *storage.SignedURLOptions
		switch {
		case as(&s):
			s.ResponseContentDisposition = &disposition
			if r.ContentType != "" {
				s.ResponseContentType = &r.ContentType
			}
		case as(&g):
			g.Scheme = storage.SigningSchemeV4 // the older one signs no parameters
			g.QueryParameters = url.Values{"response-content-disposition": {disposition}}
			if r.ContentType != "" {
				g.QueryParameters.Set("response-content-type", r.ContentType)
			}
		}
		return nil
	}})
}

// anyType stands for the type that the object was stored with.
const anyType = "application/x-stored"

// signed is a response in the one place that a folder's signature covers beside
// the key: a media type whose parameters are the rest of it.
func (r Response) signed() string {
	if r == (Response{}) {
		return ""
	}
	params := map[string]string{}
	if r.FileName != "" {
		params["filename"] = r.FileName
	}
	if r.Download {
		params["download"] = "true"
	}
	if r.ContentType == "" {
		return mime.FormatMediaType(anyType, params)
	}
	return mime.FormatMediaType(r.ContentType, params)
}

// parseSigned is signed's inverse.
func parseSigned(s string) Response {
	if s == "" {
		return Response{}
	}
	kind, params, err := mime.ParseMediaType(s)
	if err != nil || kind == anyType {
		kind = ""
	}
	return Response{ContentType: kind, FileName: params["filename"], Download: params["download"] != ""}
}

// Handler serves a folder's signed URLs, and takes what is sent to those of
// SignPut; nil for S3 and GCS, which do so themselves. An altered or expired URL gets 403.
func (b *Bucket) Handler() http.Handler {
	if b.signer == nil {
		return nil
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		key, err := b.signer.KeyFromURL(r.Context(), r.URL)
		signed := r.URL.Query().Get("method")
		if err == nil && signed == http.MethodPut && r.Method == http.MethodPut {
			b.take(w, r, key)
			return
		}
		if err != nil || signed != http.MethodGet || r.Method != http.MethodGet && r.Method != http.MethodHead {
			videojson.WriteFault(w, id.New(id.Request), fault.New(fault.PermissionDenied, "this link was altered or has expired; fetch the video's content again for a new one"))
			return
		}
		rd, err := b.b.NewReader(r.Context(), key, nil)
		if err != nil {
			videojson.WriteFault(w, id.New(id.Request), fault.New(fault.NotFound, "the file is gone"))
			return
		}
		defer func() { _ = rd.Close() }()
		as := parseSigned(r.URL.Query().Get("contentType"))
		if as.ContentType == "" {
			as.ContentType = rd.ContentType()
		}
		w.Header().Set("Content-Type", as.ContentType)
		w.Header().Set("Cache-Control", "private, max-age=60")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		w.Header().Set("Content-Disposition", as.disposition(key))
		http.ServeContent(w, r, "", rd.ModTime(), rd)
	})
}
