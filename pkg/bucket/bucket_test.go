package bucket_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io"
	"mime"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"reelway.dev/pkg/bucket"
	"reelway.dev/pkg/storetest"
)

func open(t *testing.T, rawURL string) *bucket.Bucket {
	t.Helper()
	b, err := bucket.Open(t.Context(), bucket.Config{URL: rawURL, URLLife: 10 * time.Minute, Secret: strings.Repeat("s", 32), PublicURL: "http://files.example"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close() })
	return b
}

const key = "videos/acct_1/video_1/att_1.mp4"

func write(ctx context.Context, b *bucket.Bucket, r io.Reader) error {
	w, err := b.Writer(ctx, key, "video/mp4")
	if err != nil {
		return err
	}
	_, err = io.Copy(w, r)
	return errors.Join(err, w.Close())
}

// got is what a URL answers.
type got struct {
	status int
	header http.Header
	body   []byte
}

// fetch gets a URL as a stranger does, over the network or at a folder's door.
func fetch(t *testing.T, b *bucket.Bucket, rawURL string) got {
	t.Helper()
	if h := b.Handler(); h != nil {
		rec := httptest.NewRecorder()
		h.ServeHTTP(rec, httptest.NewRequest(http.MethodGet, rawURL, nil))
		return got{rec.Code, rec.Header(), rec.Body.Bytes()}
	}
	resp, err := http.Get(rawURL)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return got{resp.StatusCode, resp.Header, data}
}

// conform is what every bucket does.
func conform(t *testing.T, b *bucket.Bucket, signs bool) {
	t.Helper()
	if err := write(t.Context(), b, strings.NewReader("pictures")); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		as                bucket.Response
		kind, how, called string
	}{
		{bucket.Response{}, "video/mp4", "inline", "video_1.mp4"},
		{bucket.Response{Download: true}, "video/mp4", "attachment", "video_1.mp4"},
		{bucket.Response{FileName: "mein Film \"ü\".mp4", Download: true}, "video/mp4", "attachment", "mein Film \"ü\".mp4"},
		{bucket.Response{ContentType: "application/octet-stream"}, "application/octet-stream", "inline", "video_1.mp4"},
	} {
		u, expires, err := b.Sign(t.Context(), key, c.as)
		if err != nil {
			t.Fatal(err)
		}
		if d := time.Until(expires); d < 9*time.Minute || d > 10*time.Minute {
			t.Errorf("the URL works until %v", expires)
		}
		if !signs {
			q, err := url.Parse(u)
			if err != nil || q.Query().Get("X-Goog-Expires") == "" || q.Query().Get("X-Goog-Signature") == "" {
				t.Fatalf("%s: %v", u, err)
			}
			how, params, err := mime.ParseMediaType(q.Query().Get("response-content-disposition"))
			if err != nil || how != c.how || params["filename"] != c.called || q.Query().Get("response-content-type") != c.as.ContentType {
				t.Errorf("%+v asks for %s", c.as, q.RawQuery)
			}
			continue
		}
		resp := fetch(t, b, u)
		how, params, err := mime.ParseMediaType(resp.header.Get("Content-Disposition"))
		if resp.status != http.StatusOK || string(resp.body) != "pictures" || resp.header.Get("Content-Type") != c.kind || err != nil || how != c.how || params["filename"] != c.called {
			t.Errorf("%+v answers %d %q %v", c.as, resp.status, resp.body, resp.header)
		}
		if resp := fetch(t, b, strings.Replace(u, "att_1", "att_2", 1)); resp.status != http.StatusForbidden {
			t.Errorf("another object under the same signature: %d", resp.status)
		}
	}
	for range 2 { // what is gone is gone
		if err := b.Delete(t.Context(), key); err != nil {
			t.Fatal(err)
		}
	}
	if signs {
		u, _, err := b.SignedURL(t.Context(), key)
		if err != nil {
			t.Fatal(err)
		}
		if resp := fetch(t, b, u); resp.status != http.StatusNotFound {
			t.Errorf("a deleted object answers %d", resp.status)
		}
	}
	canceled, cancel := context.WithCancel(t.Context())
	w, err := b.Writer(canceled, key, "video/mp4")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(w, "pict"); err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := w.Close(); err == nil {
		t.Error("an abandoned object was closed without an error")
	}
	if err := b.Delete(t.Context(), key); err != nil {
		t.Error(err)
	}
}

func TestFolder(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	b := open(t, "file://"+dir)
	conform(t, b, true)
	if steps := faults(b.Check(t.Context(), http.DefaultClient)); len(steps) > 0 {
		t.Errorf("%v", steps)
	}
	left, err := filepath.Glob(filepath.Join(dir, "doctor", "*"))
	if err != nil || len(left) > 0 {
		t.Errorf("the check left %v", left)
	}
	u, _, err := b.Sign(t.Context(), key, bucket.Response{Download: true})
	if err != nil {
		t.Fatal(err)
	}
	// The type and the name are under the signature.
	if resp := fetch(t, b, strings.Replace(u, "x-stored", "html", 1)); resp.status != http.StatusForbidden {
		t.Errorf("another type under the same signature: %d", resp.status)
	}
}

func faults(steps []bucket.Step) (out []bucket.Step) {
	for _, s := range steps {
		if s.Err != nil {
			out = append(out, s)
		}
	}
	return out
}

func TestS3(t *testing.T) {
	t.Parallel()
	x := storetest.NewS3(t)
	b := open(t, x.URL)
	conform(t, b, true)
	steps := b.Check(t.Context(), http.DefaultClient)
	if len(steps) != 5 || len(faults(steps)) > 0 {
		t.Errorf("%+v", steps)
	}
}

// door is an S3 server behind a proxy that can be told to fail.
func door(t *testing.T, x *storetest.S3, status int, refuse func(r *http.Request) bool) string {
	t.Helper()
	to, err := url.Parse(x.Endpoint)
	if err != nil {
		t.Fatal(err)
	}
	proxy := httputil.NewSingleHostReverseProxy(to) // the signed Host goes through
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if refuse(r) {
			_, _ = io.Copy(io.Discard, r.Body)
			http.Error(w, "", status)
			return
		}
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(srv.Close)
	return storetest.URL(srv.URL)
}

// large needs several parts.
func large(t *testing.T) ([]byte, [32]byte) {
	t.Helper()
	data := make([]byte, 20<<20)
	if _, err := rand.Read(data); err != nil {
		t.Fatal(err)
	}
	return data, sha256.Sum256(data)
}

func isPart(r *http.Request, n string) bool {
	return r.Method == http.MethodPut && r.URL.Query().Get("partNumber") == n
}

func TestAPartThatFailsIsSentAgain(t *testing.T) {
	t.Parallel()
	x := storetest.NewS3(t)
	var failed atomic.Int64
	b := open(t, door(t, x, http.StatusServiceUnavailable, func(r *http.Request) bool { return isPart(r, "2") && failed.Add(1) <= 2 }))
	data, want := large(t)
	if err := write(t.Context(), b, bytes.NewReader(data)); err != nil {
		t.Fatal(err)
	}
	u, _, err := open(t, x.URL).SignedURL(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	if resp := fetch(t, b, u); sha256.Sum256(resp.body) != want {
		t.Errorf("%d bytes came back of %d", len(resp.body), len(data))
	}
	if n := failed.Load(); n != 3 {
		t.Errorf("part 2 was sent %d times, want 3", n)
	}
	if n := x.Unfinished(t); n != 0 {
		t.Errorf("%d unfinished uploads", n)
	}
}

// An upload that is given up, by whoever reads or by the store's refusal, leaves
// no object and no parts.
func TestAnAbandonedUploadLeavesNothing(t *testing.T) {
	t.Parallel()
	x := storetest.NewS3(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	// Not at the first refusal: the other parts have arrived by the third. One that is
	// under way while the upload is removed may stay, until Discard or the store's rule.
	var tries atomic.Int64
	refused := make(chan struct{})
	b := open(t, door(t, x, http.StatusServiceUnavailable, func(r *http.Request) bool {
		if isPart(r, "2") {
			if tries.Add(1) == 3 {
				close(refused)
			}
		}
		return isPart(r, "2")
	}))
	go func() { <-refused; cancel() }()
	data, _ := large(t)
	if err := write(ctx, b, bytes.NewReader(data)); err == nil {
		t.Error("an upload without its second part succeeded")
	}
	if n := x.Unfinished(t); n != 0 {
		t.Errorf("%d unfinished uploads", n)
	}
	u, _, err := open(t, x.URL).SignedURL(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	if resp := fetch(t, b, u); resp.status != http.StatusNotFound {
		t.Errorf("the object answers %d", resp.status)
	}
}

// A process that was killed amid an upload leaves parts, which Discard removes;
// another object's stay.
func TestPartsOfAKilledProcessAreDiscarded(t *testing.T) {
	t.Parallel()
	x := storetest.NewS3(t)
	for _, k := range []string{key, key, key + ".other"} {
		x.Begin(t, k)
	}
	if n := x.Unfinished(t); n != 3 {
		t.Fatalf("%d unfinished uploads, want 3", n)
	}
	if err := open(t, x.URL).Discard(t.Context(), key); err != nil {
		t.Fatal(err)
	}
	if n := x.Unfinished(t); n != 1 {
		t.Errorf("%d unfinished uploads, want the other object's", n)
	}
}

// What the URL says of encryption is asked for with every object, whole or in
// parts. The server of these tests encrypts nothing, so the requests are read.
func TestEncryptionIsAskedFor(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ query, kind, keyID string }{
		{"&ssetype=AES256", "AES256", ""},
		{"&ssetype=aws:kms&kmskeyid=key-1", "aws:kms", "key-1"},
	} {
		var mu sync.Mutex
		var seen []string
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case r.Method == http.MethodPost && r.URL.Query().Has("uploads"):
				seen = append(seen, "parts "+r.Header.Get("X-Amz-Server-Side-Encryption")+" "+r.Header.Get("X-Amz-Server-Side-Encryption-Aws-Kms-Key-Id"))
				w.WriteHeader(http.StatusForbidden)
			case r.Method == http.MethodPut:
				seen = append(seen, "whole "+r.Header.Get("X-Amz-Server-Side-Encryption")+" "+r.Header.Get("X-Amz-Server-Side-Encryption-Aws-Kms-Key-Id"))
			}
		}))
		t.Cleanup(srv.Close)
		storetest.Credentials(t)
		b := open(t, storetest.URL(srv.URL)+c.query)
		if err := write(t.Context(), b, strings.NewReader("small")); err != nil {
			t.Fatal(err)
		}
		data, _ := large(t)
		if err := write(t.Context(), b, bytes.NewReader(data)); err == nil {
			t.Error("a refused upload succeeded")
		}
		want := []string{"whole " + c.kind + " " + c.keyID, "parts " + c.kind + " " + c.keyID}
		if len(seen) != 2 || seen[0] != want[0] || seen[1] != want[1] {
			t.Errorf("%s: the store saw %q, want %q", c.query, seen, want)
		}
	}
	if _, err := bucket.Open(t.Context(), bucket.Config{URL: "s3://b?region=us-east-1&ssetype=rot13"}); err == nil || !strings.Contains(err.Error(), "rot13") {
		t.Errorf("an unknown encryption: %v", err)
	}
}

// Deletion is believed only when the store says that the object is gone.
func TestADeletionIsVerified(t *testing.T) {
	t.Parallel()
	x := storetest.NewS3(t)
	if err := write(t.Context(), open(t, x.URL), strings.NewReader("pictures")); err != nil {
		t.Fatal(err)
	}
	to, err := url.Parse(x.Endpoint)
	if err != nil {
		t.Fatal(err)
	}
	proxy := httputil.NewSingleHostReverseProxy(to)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodDelete {
			w.WriteHeader(http.StatusNoContent) // and does nothing
			return
		}
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(srv.Close)
	b := open(t, storetest.URL(srv.URL))
	if err := b.Delete(t.Context(), key); !errors.Is(err, bucket.ErrStillThere) {
		t.Errorf("a deletion that did nothing: %v", err)
	}
	if steps := faults(b.Check(t.Context(), http.DefaultClient)); len(steps) != 1 || steps[0].Name != "delete" {
		t.Errorf("%+v", steps)
	}
}

// The check names what the credentials may not do, and sees a public bucket.
func TestCheckFindsFaults(t *testing.T) {
	t.Parallel()
	x := storetest.NewS3(t)
	steps := open(t, door(t, x, http.StatusForbidden, func(r *http.Request) bool { return r.Method == http.MethodPut })).Check(t.Context(), http.DefaultClient)
	if len(steps) != 1 || steps[0].Name != "write" || steps[0].Err == nil || steps[0].Fix == "" {
		t.Errorf("%+v", steps)
	}
	gone := httptest.NewServer(nil)
	gone.Close()
	steps = open(t, storetest.URL(gone.URL)).Check(t.Context(), http.DefaultClient)
	if len(steps) != 1 || steps[0].Err == nil || !strings.Contains(steps[0].Err.Error(), "refused") {
		t.Errorf("%+v", steps)
	}
	x.Publish(t)
	if steps := faults(open(t, x.URL).Check(t.Context(), http.DefaultClient)); len(steps) != 1 || steps[0].Name != "unsigned_read" || !strings.Contains(steps[0].Err.Error(), "anybody") {
		t.Errorf("%+v", steps)
	}
}

// A private key that the driver signs with.
func keyFile(t *testing.T) string {
	t.Helper()
	k, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(t.TempDir(), "key.pem")
	if err := os.WriteFile(name, pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(k)}), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

func TestGCS(t *testing.T) {
	t.Parallel()
	b := open(t, storetest.NewGCS(t)+"?access_id=signer@example.iam.gserviceaccount.com&private_key_path="+url.QueryEscape(keyFile(t)))
	conform(t, b, false)
}
