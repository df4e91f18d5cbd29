package notifier

import (
	"context"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"reelway.dev/pkg/auth"
	"reelway.dev/pkg/fault"
	"reelway.dev/pkg/livetoken"
	videov1 "reelway.dev/proto/gen/reelway/video/v1"
)

// caller is who watches: the holder of an API key, or of a browser token.
type caller struct {
	account string
	keyID   string // for a token, the key that it was made with
	billing bool
	grant   *livetoken.Grant // nil with an API key
}

// allows reports whether a video of the account may be watched.
func (c caller) allows(v *videov1.Video) bool {
	return c.grant == nil || c.grant.Allows(v.GetId(), v.GetUser())
}

// mayWatch judges a watch of all videos of user, or of the account.
func (c caller) mayWatch(user string) error {
	if c.grant == nil || user != "" && c.grant.User == user {
		return nil
	}
	if user == "" {
		return fault.New(fault.PermissionDenied, "a token does not watch all videos of an account; name the videos or the user that it was made for")
	}
	return fault.New(fault.PermissionDenied, "this token was not made for that user")
}

// The subprotocols by which a browser, which cannot set headers, gives its key
// or token.
const (
	keyProtocol   = "reelway.bearer."
	tokenProtocol = "reelway.token."
)

// credentials are what came with a request. One of key and token is set, or
// neither.
type credentials struct {
	key, token string
	protocol   string // by which they came, if they did
}

// credentialsOf reads what a request came with. A token may come in the address,
// as an EventSource can set nothing else: it is short of life and reads little.
// A key may not.
func credentialsOf(r *http.Request) credentials {
	if key := auth.Bearer(r.Header.Get("Authorization")); key != "" {
		return credentials{key: key}
	}
	for v := range strings.SplitSeq(r.Header.Get("Sec-WebSocket-Protocol"), ",") {
		v = strings.TrimSpace(v)
		if key, ok := strings.CutPrefix(v, keyProtocol); ok {
			return credentials{key: key, protocol: v}
		}
		if token, ok := strings.CutPrefix(v, tokenProtocol); ok {
			return credentials{token: token, protocol: v}
		}
	}
	return credentials{token: r.URL.Query().Get("token")}
}

// admitted is a connection that may be: who has it, and its life.
type admitted struct {
	caller

	ctx   context.Context    // ends with the request's, and when key or token end: then a fault is its cause
	end   context.CancelFunc // ends it
	leave func()             // makes room for another
}

// free lets the connection go; call it once.
func (a *admitted) free() {
	a.end()
	a.leave()
}

// admit finds out who calls and counts the connection, whose life is within
// ctx.
func (s *Service) admit(ctx context.Context, have credentials) (*admitted, error) {
	a := &admitted{}
	if have.token != "" {
		g, err := s.d.Tokens.Verify(have.token)
		if err != nil {
			return nil, err
		}
		a.caller = caller{account: g.AccountID, keyID: g.KeyID, grant: &g}
		if a.ctx, a.end, err = s.tokens.hold(ctx, g); err != nil {
			return nil, err
		}
	} else {
		p, err := s.d.Auth.Authenticate(ctx, have.key)
		if err == nil {
			err = p.Require(auth.VideosRead)
		}
		if err != nil {
			return nil, err
		}
		a.caller = caller{account: p.AccountID, keyID: p.KeyID, billing: p.Require(auth.BillingRead) == nil}
		a.ctx, a.end = s.d.Auth.Hold(ctx, p, have.key)
	}
	var err error
	if a.leave, err = s.connections.enter(a.caller); err != nil {
		a.end()
		return nil, err
	}
	return a, nil
}

// fromElsewhere is a fault when a page of an origin that is not on the list
// makes the request. Who is no browser names none.
func (s *Service) fromElsewhere(r *http.Request) error {
	origin := r.Header.Get("Origin")
	if origin == "" || slices.Contains(s.cfg.Origins, "*") || slices.Contains(s.cfg.Origins, origin) {
		return nil
	}
	if u, err := url.Parse(origin); err == nil && strings.EqualFold(u.Host, r.Host) {
		return nil // a page of our own host
	}
	return fault.New(fault.PermissionDenied, "pages of this origin may not watch; an operator lists it in REELWAY_REALTIME_ORIGINS")
}
