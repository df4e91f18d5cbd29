package bucket

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"

	"github.com/aws/aws-sdk-go-v2/service/s3"
	"gocloud.dev/blob"

	"reelway.dev/pkg/id"
)

// Step is one thing that Reelway does to the bucket.
type Step struct {
	Name   string // write, signed_read, unsigned_read, delete, encryption
	Err    error  // nil when it went as it must
	Detail string // what was seen
	Fix    string // what to mend when Err is not nil
}

// Check does to the bucket what Reelway will: it writes a small object, reads
// it by a signed URL without credentials, sees that the URL without its
// signature is refused, and deletes it and sees it gone. It stops at the first
// step that the others need, and leaves nothing behind when it may delete.
// client fetches the URLs; a folder is asked without network.
func (b *Bucket) Check(ctx context.Context, client *http.Client) []Step {
	key := "doctor/" + id.New("check") + ".txt"
	raw := make([]byte, 32)
	_, _ = rand.Read(raw) // never fails (crypto/rand since Go 1.24)
	text := hex.EncodeToString(raw)
	if h := b.Handler(); h != nil {
		client = &http.Client{Transport: inside{h}}
	}
	steps := []Step{b.tryWrite(ctx, key, text)}
	if steps[0].Err != nil {
		return steps
	}
	return append(steps, b.tryRead(ctx, client, key, text), b.tryUnsigned(ctx, client, key), b.tryEncryption(ctx, key), b.tryDelete(ctx, key))
}

func (b *Bucket) tryWrite(ctx context.Context, key, text string) Step {
	s := Step{Name: "write", Fix: "check REELWAY_BUCKET_URL (name, region, endpoint) and the credentials, and allow s3:PutObject or storage.objects.create on the bucket"}
	wctx, cancel := context.WithCancel(ctx)
	defer cancel()
	// Not Writer: its many tries would outlast the reason why they fail.
	w, err := b.b.NewWriter(wctx, key, &blob.WriterOptions{ContentType: "text/plain"})
	if err == nil {
		if _, err = io.WriteString(w, text); err != nil {
			cancel()
		}
		if cerr := w.Close(); err == nil {
			err = cerr
		}
	}
	s.Err = err
	return s
}

func (b *Bucket) tryRead(ctx context.Context, client *http.Client, key, text string) Step {
	s := Step{Name: "signed_read", Fix: "allow s3:GetObject or storage.objects.get to the credentials that sign; on GCS they also need a key of their own or iam.serviceAccounts.signBlob; clocks must agree"}
	u, _, err := b.SignedURL(ctx, key)
	if err != nil {
		s.Err = err
		return s
	}
	status, body, err := get(ctx, client, u)
	switch {
	case err != nil:
		s.Err = fmt.Errorf("fetch signed URL: %w", err)
	case status != http.StatusOK || body != text:
		s.Err = fmt.Errorf("a signed URL answers %d", status)
	}
	return s
}

func (b *Bucket) tryUnsigned(ctx context.Context, client *http.Client, key string) Step {
	s := Step{Name: "unsigned_read", Fix: "make the bucket private: block public access, and remove grants to allUsers or *"}
	raw, _, err := b.SignedURL(ctx, key)
	if err != nil {
		s.Err = err
		return s
	}
	u, err := url.Parse(raw)
	if err != nil {
		s.Err = fmt.Errorf("parse signed URL: %w", err)
		return s
	}
	if b.signer != nil {
		u.RawQuery = url.Values{"obj": {key}}.Encode()
	} else {
		u.RawQuery = ""
	}
	status, _, err := get(ctx, client, u.String())
	switch {
	case err != nil:
		s.Err = fmt.Errorf("fetch unsigned URL: %w", err)
	case status < 400:
		s.Err = fmt.Errorf("anybody can read the bucket: an unsigned URL answers %d", status)
	default:
		s.Detail = fmt.Sprintf("refused with %d", status)
	}
	return s
}

func (b *Bucket) tryEncryption(ctx context.Context, key string) Step {
	s := Step{Name: "encryption", Detail: "as the bucket's own default says", Fix: "allow reading an object's attributes: s3:GetObject or storage.objects.get"}
	attrs, err := b.b.Attributes(ctx, key)
	if err != nil {
		s.Err = fmt.Errorf("read attributes: %w", err)
		return s
	}
	var head s3.HeadObjectOutput
	if attrs.As(&head) && head.ServerSideEncryption != "" {
		s.Detail = string(head.ServerSideEncryption)
	}
	return s
}

func (b *Bucket) tryDelete(ctx context.Context, key string) Step {
	return Step{Name: "delete", Err: b.Delete(ctx, key), Detail: "gone after it",
		Fix: "allow s3:DeleteObject and s3:ListBucket (without which S3 does not tell an absent object from a forbidden one), or storage.objects.delete; remove what is left under doctor/"}
}

func get(ctx context.Context, client *http.Client, rawURL string) (status int, body string, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, rawURL, nil)
	if err != nil {
		return 0, "", err
	}
	resp, err := client.Do(req)
	var withURL *url.Error
	if errors.As(err, &withURL) {
		err = withURL.Err // the signature is nobody's to read
	}
	if err != nil {
		return 0, "", err
	}
	defer func() { _ = resp.Body.Close() }()
	data, err := io.ReadAll(io.LimitReader(resp.Body, 4096))
	return resp.StatusCode, string(data), err
}

// inside asks a handler without network.
type inside struct{ h http.Handler }

// RoundTrip implements http.RoundTripper.
func (i inside) RoundTrip(r *http.Request) (*http.Response, error) {
	a := &answer{header: http.Header{}, status: http.StatusOK}
	i.h.ServeHTTP(a, r)
	return &http.Response{StatusCode: a.status, Header: a.header, Body: io.NopCloser(&a.body), Request: r}, nil
}

// answer is an http.ResponseWriter in memory.
type answer struct {
	header http.Header
	status int
	body   bytes.Buffer
}

// Header implements http.ResponseWriter.
func (a *answer) Header() http.Header { return a.header }

// WriteHeader implements http.ResponseWriter.
func (a *answer) WriteHeader(status int) { a.status = status }

// Write implements http.ResponseWriter.
func (a *answer) Write(b []byte) (int, error) { return a.body.Write(b) }
