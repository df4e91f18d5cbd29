package safehttp_test

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"

	"reelway.dev/pkg/safehttp"
)

func TestPublic(t *testing.T) {
	t.Parallel()
	for _, a := range strings.Fields(`0.0.0.0 10.0.0.1 100.64.0.1 100.127.255.255 127.0.0.1 127.1.2.3 169.254.169.254 172.16.0.1 172.31.255.255
		192.0.0.1 192.0.2.1 192.88.99.1 192.168.0.1 198.18.0.1 198.19.255.255 198.51.100.7 203.0.113.9 224.0.0.1 240.0.0.1 255.255.255.255
		168.63.129.16 :: ::1 ::127.0.0.1 ::ffff:127.0.0.1 ::ffff:10.0.0.1 ::ffff:169.254.169.254 64:ff9b::a9fe:a9fe 64:ff9b:1::1 100::1
		2001::1 2001:db8::1 2002:7f00:1:: 2002:a00:1:: fc00::1 fd00:ec2::254 fe80::1 fec0::1 ff02::1 3fff::1 5f00::1`) {
		if safehttp.Public(netip.MustParseAddr(a)) {
			t.Errorf("%s passes", a)
		}
	}
	for _, a := range strings.Fields("1.1.1.1 8.8.8.8 93.184.216.34 172.32.0.1 100.128.0.1 2606:4700::1111 2a00:1450:4001::1") {
		if !safehttp.Public(netip.MustParseAddr(a)) {
			t.Errorf("%s is refused", a)
		}
	}
}

func TestCheckURL(t *testing.T) {
	t.Parallel()
	for _, u := range []string{"http://example.com/x", "ftp://example.com", "https://u:p@example.com", "https://example.com:8443", "https://localhost/x",
		"https://metadata.google.internal/", "https://api.svc.cluster.local", "https://127.0.0.1", "https://[::1]/", "https://[::ffff:10.0.0.1]/", "file:///etc/passwd", "nonsense", "https://", "javascript:alert(1)", "https://db.svc"} {
		if err := (safehttp.Config{}).CheckURL(u); !errors.Is(err, safehttp.ErrForbidden) {
			t.Errorf("%s: %v", u, err)
		}
	}
	if err := (safehttp.Config{}).CheckURL("https://cdn.example.com/a.png?x=1"); err != nil {
		t.Error(err)
	}
}

// The witness is the listener, not our own error.
func TestNothingPrivateIsReached(t *testing.T) {
	t.Parallel()
	hits := 0
	srv := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { hits++ }))
	defer srv.Close()
	port := srv.URL[strings.LastIndex(srv.URL, ":"):]
	for _, h := range []string{"127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "0.0.0.0", "localtest.example.invalid"} {
		resp, err := do(t, safehttp.Config{AllowHTTP: true}, http.MethodGet, "http://"+h+port)
		if err == nil {
			_ = resp.Body.Close()
			t.Errorf("%s answered", h)
		}
	}
	if hits > 0 {
		t.Errorf("%d connections reached the listener", hits)
	}
}

func TestRedirectsArePostedNowhere(t *testing.T) {
	t.Parallel()
	hits := 0
	inner := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { hits++ }))
	defer inner.Close()
	for _, code := range []int{301, 302, 303, 307, 308} {
		outer := httptest.NewServer(http.RedirectHandler(inner.URL, code))
		resp, err := do(t, safehttp.Config{AllowHTTP: true, AllowPrivate: true, Redirects: 3}, http.MethodPost, outer.URL)
		if err != nil || resp.StatusCode != code {
			t.Errorf("%d: %v", code, err)
		}
		_ = resp.Body.Close()
		outer.Close()
	}
	if hits > 0 {
		t.Errorf("%d redirects were followed", hits)
	}
}

func do(t *testing.T, cfg safehttp.Config, method, url string) (*http.Response, error) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader("x"))
	if err != nil {
		t.Fatal(err)
	}
	return cfg.Client().Do(req)
}

// Whatever goes wrong, and at whatever hop, the signature is not in the error.
func TestErrorsCarryNoQuery(t *testing.T) {
	t.Parallel()
	const secret = "X-Amz-Signature=s3cr3t"
	gone := httptest.NewServer(nil)
	gone.Close()
	redirect := func(to string) string {
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Location", to)
			w.WriteHeader(http.StatusFound)
		}))
		t.Cleanup(srv.Close)
		return srv.URL
	}
	cut := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }))
	t.Cleanup(cut.Close)
	for name, u := range map[string]string{
		"refused":           gone.URL + "/a.mp4?" + secret,
		"cut":               cut.URL + "/a.mp4?" + secret,
		"user name":         "http://user:s3cr3t@127.0.0.1/a.mp4?" + secret,
		"not allowed":       "ftp://127.0.0.1/a.mp4?" + secret,
		"redirect":          redirect(gone.URL+"/a.mp4?"+secret) + "/?" + secret,
		"redirect to bytes": redirect("http://127.0.0.1:x\x7f/a.mp4?"+secret) + "/?" + secret,
		"fragment":          gone.URL + "/a.mp4#" + secret,
	} {
		resp, err := do(t, safehttp.Config{AllowHTTP: true, AllowPrivate: true, Redirects: 3}, http.MethodGet, u)
		if err == nil {
			_ = resp.Body.Close()
			t.Errorf("%s: status %d", name, resp.StatusCode)
			continue
		}
		if strings.Contains(err.Error(), "s3cr3t") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestRedirectsGetNoReferer(t *testing.T) {
	t.Parallel()
	referer := make(chan string, 1)
	inner := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { referer <- r.Referer() }))
	defer inner.Close()
	outer := httptest.NewServer(http.RedirectHandler(inner.URL, http.StatusFound))
	defer outer.Close()
	resp, err := do(t, safehttp.Config{AllowHTTP: true, AllowPrivate: true, Redirects: 3}, http.MethodGet, outer.URL+"/?X-Amz-Signature=s3cr3t")
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if r := <-referer; r != "" {
		t.Errorf("the next host is told %q", r)
	}
}

// A provider's key is for its own address, not for what that redirects to.
func TestKeysAreNotRedirected(t *testing.T) {
	t.Parallel()
	var seen http.Header
	inner := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { seen = r.Header }))
	defer inner.Close()
	outer := httptest.NewServer(http.RedirectHandler(inner.URL, http.StatusFound))
	defer outer.Close()
	req, err := http.NewRequest(http.MethodGet, outer.URL, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer k")
	req.Header.Set("X-Goog-Api-Key", "k")
	resp, err := safehttp.Config{AllowHTTP: true, AllowPrivate: true, Redirects: 3}.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if seen == nil || seen.Get("Authorization")+seen.Get("X-Goog-Api-Key") != "" {
		t.Errorf("redirected with %v", seen)
	}
}
