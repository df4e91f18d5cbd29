// Package safehttp is the guarded HTTP client for every URL that a user or a
// provider supplies: https only, public addresses only, checked when dialling,
// after DNS, so that a name cannot change its mind between check and use.
package safehttp

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"regexp"
	"strings"
	"syscall"
	"time"
)

// Config loosens the guard for development. The zero value is the strict one.
type Config struct {
	AllowHTTP    bool `env:"REELWAY_ALLOW_HTTP_URLS" desc:"development: let image and result URLs be plain http on any port"`
	AllowPrivate bool `env:"REELWAY_ALLOW_PRIVATE_URLS" desc:"development: let image and result URLs be private addresses"`
	// Redirects is how many are followed, each checked again; a POST follows none.
	Redirects int
	// HeaderTimeout bounds the wait for the head of an answer; 0 means 30 s.
	HeaderTimeout time.Duration
}

// ErrForbidden is in the chain of every refusal by the guard.
var ErrForbidden = errors.New("address is not allowed")

// blocked is the IANA special-purpose registries (RFC 6890 and successors) and
// every IPv6 form that embeds an IPv4 address; net/netip's predicates alone let
// most of these through.
var blocked = prefixes(
	"0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24",
	"192.0.2.0/24", "192.31.196.0/24", "192.52.193.0/24", "192.88.99.0/24", "192.168.0.0/16", "192.175.48.0/24",
	"198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4",
	"168.63.129.16/32", // Azure's host endpoint
	"::/96", "::ffff:0:0/96", "64:ff9b::/96", "64:ff9b:1::/48", "100::/64", "2001::/23", "2001:db8::/32", "2002::/16",
	"3fff::/20", "5f00::/16", "fc00::/7", "fe80::/10", "fec0::/10", "ff00::/8",
)

func prefixes(ss ...string) []netip.Prefix {
	var out []netip.Prefix
	for _, s := range ss {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

// Public reports whether an address is on the public internet.
func Public(a netip.Addr) bool {
	a = a.WithZone("")
	if a.Is4In6() {
		a = a.Unmap()
	}
	for _, p := range blocked {
		if p.Contains(a) {
			return false
		}
	}
	return a.IsValid()
}

// CheckURL judges a URL without resolving it, for a clear refusal at submit.
// The client's check at dial time is the guard.
func (c Config) CheckURL(raw string) error {
	u, err := url.Parse(raw)
	if err != nil || u.Host == "" {
		return fmt.Errorf("%w: it is no absolute URL", ErrForbidden)
	}
	return c.check(u)
}

func (c Config) check(u *url.URL) error {
	switch {
	case u.Scheme != "https" && (u.Scheme != "http" || !c.AllowHTTP):
		return fmt.Errorf("%w: only https URLs are", ErrForbidden)
	case u.User != nil:
		return fmt.Errorf("%w: a URL with a user name is not", ErrForbidden)
	case !c.AllowHTTP && u.Port() != "" && u.Port() != "443":
		return fmt.Errorf("%w: only port 443 is", ErrForbidden)
	}
	if c.AllowPrivate {
		return nil
	}
	host := strings.TrimSuffix(strings.ToLower(u.Hostname()), ".")
	if a, err := netip.ParseAddr(host); err == nil {
		if !Public(a) {
			return fmt.Errorf("%w: the address is not public", ErrForbidden)
		}
		return nil
	}
	if !strings.Contains(host, ".") || strings.HasSuffix(host, ".internal") || strings.HasSuffix(host, ".local") ||
		strings.HasSuffix(host, ".svc") || strings.HasSuffix(host, ".localhost") {
		return fmt.Errorf("%w: the host is not a public name", ErrForbidden)
	}
	return nil
}

// Client makes guarded requests. Its errors name scheme, host and path of a URL
// only: what follows is often a signature, and an error ends in a log.
type Client struct{ c *http.Client }

// Do makes one request, as http.Client.Do.
func (c *Client) Do(r *http.Request) (*http.Response, error) {
	resp, err := c.c.Do(r) //nolint:bodyclose,gosec // the body is the caller's; the guard is what the taint analysis asks for
	var u *url.Error
	if errors.As(err, &u) {
		return resp, &url.Error{Op: u.Op, URL: Bare(u.URL), Err: &bareError{u.Err}}
	}
	return resp, err
}

// bareError is what net/http says without what it quotes of headers: a broken
// Location comes back in its words, signature and all.
type bareError struct{ err error }

var quoted = regexp.MustCompile(`[?#][^"]*`)

func (e *bareError) Error() string { return quoted.ReplaceAllString(e.err.Error(), "") }
func (e *bareError) Unwrap() error { return e.err }

// CloseIdleConnections closes connections that no request uses.
func (c *Client) CloseIdleConnections() { c.c.CloseIdleConnections() }

// Bare is scheme, host and path of a URL, fit for a log.
func Bare(raw string) string {
	u, err := url.Parse(raw)
	if err != nil {
		return "(no URL)"
	}
	return (&url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path}).String()
}

// Client returns a guarded client with a transport of its own. It uses no
// proxy: behind one the guard would judge the proxy's address.
func (c Config) Client() *Client {
	dialer := &net.Dialer{Timeout: 10 * time.Second, Control: func(_, address string, _ syscall.RawConn) error {
		if c.AllowPrivate {
			return nil
		}
		ap, err := netip.ParseAddrPort(address)
		if err != nil || !Public(ap.Addr()) {
			return fmt.Errorf("dial %s: %w", address, ErrForbidden)
		}
		return nil
	}}
	header := c.HeaderTimeout
	if header == 0 {
		header = 30 * time.Second
	}
	return &Client{&http.Client{
		Transport: &guard{cfg: c, next: &http.Transport{
			DialContext: dialer.DialContext, Proxy: nil, ForceAttemptHTTP2: true, MaxIdleConnsPerHost: 64,
			IdleConnTimeout: 60 * time.Second, TLSHandshakeTimeout: 10 * time.Second, ResponseHeaderTimeout: header,
			MaxResponseHeaderBytes: 64 << 10,
		}},
		CheckRedirect: func(req *http.Request, via []*http.Request) error {
			if len(via) > c.Redirects || via[0].Method != http.MethodGet && via[0].Method != http.MethodHead {
				return http.ErrUseLastResponse
			}
			req.Header.Del("Authorization")
			req.Header.Del("X-Goog-Api-Key")
			req.Header.Del("Referer") // the last hop's URL, with its signature
			return nil
		},
	}}
}

// guard checks each hop's URL before it is dialled.
type guard struct {
	cfg  Config
	next *http.Transport
}

// RoundTrip implements http.RoundTripper.
func (g *guard) RoundTrip(r *http.Request) (*http.Response, error) {
	if err := g.cfg.check(r.URL); err != nil {
		return nil, err
	}
	return g.next.RoundTrip(r)
}

// CloseIdleConnections lets http.Client.CloseIdleConnections through.
func (g *guard) CloseIdleConnections() { g.next.CloseIdleConnections() }
