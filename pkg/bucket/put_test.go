package bucket_test

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"reelway.dev/pkg/bucket"
	"reelway.dev/pkg/storetest"
)

// put sends a body as a stranger does.
func put(t *testing.T, rawURL string, header map[string]string, body []byte) int {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPut, rawURL, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for k, v := range header {
		req.Header.Set(k, v)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = io.Copy(io.Discard, resp.Body)
	_ = resp.Body.Close()
	return resp.StatusCode
}

// takes is what every bucket does with files that are sent to it. at turns a
// signed URL into one that can be reached.
func takes(t *testing.T, b *bucket.Bucket, at func(string) string) {
	t.Helper()
	const key = "uploads/acct_1/upload_1.png"
	p, err := b.SignPut(t.Context(), key, "image/png", 8, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	if d := time.Until(p.ExpiresAt); d < 50*time.Second || d > time.Minute {
		t.Errorf("it works until %v", p.ExpiresAt)
	}
	if _, _, err := b.Reader(t.Context(), key); err != bucket.ErrAbsent { //nolint:errorlint // it is the value itself
		t.Errorf("an object before it came: %v", err)
	}
	other := map[string]string{}
	for k, v := range p.Header {
		other[k] = v
	}
	other["Content-Type"] = "text/html"
	for what, code := range map[string]int{
		"another size":   put(t, at(p.URL), p.Header, []byte("too many pictures")),
		"another type":   put(t, at(p.URL), other, []byte("pictures")),
		"another object": put(t, at(strings.Replace(p.URL, "upload_1", "upload_2", 1)), p.Header, []byte("pictures")),
	} {
		if code < 400 || code >= 500 {
			t.Errorf("%s under the same signature: %d", what, code)
		}
	}
	if code := put(t, at(p.URL), p.Header, []byte("pictures")); code != http.StatusOK {
		t.Fatalf("status %d", code)
	}
	if code := put(t, at(p.URL), p.Header, []byte("PICTURES")); code != http.StatusConflict && code != http.StatusPreconditionFailed {
		t.Errorf("a second file: %d", code)
	}
	r, size, err := b.Reader(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	data, err := io.ReadAll(r)
	if err != nil || size != 8 || string(data) != "pictures" {
		t.Errorf("%q of %d bytes: %v", data, size, err)
	}
	_ = r.Close()
	if err := b.Delete(t.Context(), key); err != nil {
		t.Error(err)
	}
}

func TestFolderTakesFiles(t *testing.T) {
	t.Parallel()
	b := open(t, "file://"+t.TempDir())
	srv := httptest.NewServer(b.Handler())
	t.Cleanup(srv.Close)
	at := func(raw string) string { return strings.Replace(raw, "http://files.example", srv.URL, 1) }
	takes(t, b, at)

	// Of many at the same time one is kept, and whole.
	p, err := b.SignPut(t.Context(), key, "image/png", 1<<20, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	codes := make([]int, 8)
	for i := range codes {
		wg.Go(func() { codes[i] = put(t, at(p.URL), p.Header, bytes.Repeat([]byte{byte('a' + i)}, 1<<20)) })
	}
	wg.Wait()
	taken := -1
	for i, code := range codes {
		switch {
		case code == http.StatusOK && taken < 0:
			taken = i
		case code != http.StatusConflict:
			t.Errorf("number %d: %d", i, code)
		}
	}
	r, _, err := b.Reader(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Close() }()
	if data, err := io.ReadAll(r); err != nil || taken < 0 || !bytes.Equal(data, bytes.Repeat([]byte{byte('a' + taken)}, 1<<20)) {
		t.Errorf("%d bytes, of number %d: %v", len(data), taken, err)
	}
	// What may write may not read, and the other way round.
	if resp := fetch(t, b, p.URL); resp.status != http.StatusForbidden {
		t.Errorf("a read by the link of an upload: %d", resp.status)
	}
	u, _, err := b.SignedURL(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	if code := put(t, at(u), nil, []byte("x")); code != http.StatusForbidden {
		t.Errorf("a write by the link of a file: %d", code)
	}
}

func TestS3TakesFiles(t *testing.T) {
	t.Parallel()
	takes(t, open(t, storetest.NewS3(t).URL), func(raw string) string { return raw })
}

// Google's signature is not to be had here: its parts are read.
func TestGCSTakesFiles(t *testing.T) {
	t.Parallel()
	b := open(t, "gs://reelway?access_id=signer@example.iam.gserviceaccount.com&private_key_path="+url.QueryEscape(keyFile(t)))
	p, err := b.SignPut(t.Context(), key, "image/png", 8, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse(p.URL)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"Content-Type": "image/png", "x-goog-content-length-range": "8,8", "x-goog-if-generation-match": "0"} {
		if p.Header[name] != want || !strings.Contains(";"+u.Query().Get("X-Goog-SignedHeaders")+";", ";"+strings.ToLower(name)+";") {
			t.Errorf("%s is %q; signed are %s", name, p.Header[name], u.Query().Get("X-Goog-SignedHeaders"))
		}
	}
}
