package intake

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	jsonv2 "github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"reelway.dev/pkg/auth"
	"reelway.dev/pkg/fault"
	"reelway.dev/pkg/id"
	"reelway.dev/pkg/livetoken"
	"reelway.dev/pkg/videojson"
	ledgerv1 "reelway.dev/proto/gen/reelway/ledger/v1"
	videov1 "reelway.dev/proto/gen/reelway/video/v1"
)

const (
	tokenVideos  = 20 // a token has to fit into an address
	tokenMinLife = 10 * time.Second
)

// createToken makes a token for p's account. It writes nothing: the token is
// its own record.
func (s *Service) createToken(ctx context.Context, p auth.Principal, r *videov1.CreateRealtimeTokenRequest, bad ...fault.Field) (*videov1.CreateRealtimeTokenResponse, error) {
	wrong := func(name, format string, a ...any) {
		bad = append(bad, fault.Field{Name: name, Message: fmt.Sprintf(format, a...)})
	}
	if len(r.GetVideos()) == 0 && r.GetUser() == "" && len(bad) == 0 {
		wrong("videos", "name the videos, or the user, that the token may watch")
	}
	if len(r.GetVideos()) > tokenVideos {
		wrong("videos", "names %d videos, %d at the most; name the user instead", len(r.GetVideos()), tokenVideos)
	}
	if u := r.GetUser(); len(u) > 128 || !utf8.ValidString(u) || strings.ContainsFunc(u, unicode.IsControl) {
		wrong("user", "must be at most 128 bytes without control characters")
	}
	life := livetoken.DefaultLife
	if r.GetLifetime() != nil {
		life = r.GetLifetime().AsDuration()
	}
	if life < tokenMinLife || life > livetoken.MaxLife {
		wrong("expires_in", "must be %d to %d seconds", int(tokenMinLife.Seconds()), int(livetoken.MaxLife.Seconds()))
	}
	if len(bad) > 0 {
		return nil, invalid(bad)
	}
	for i, v := range r.GetVideos() {
		if _, err := s.get(ctx, p, v); err != nil {
			f := fault.From(err)
			if f.Code != fault.NotFound {
				return nil, err
			}
			wrong(fmt.Sprintf("videos.%d", i), "there is no such video")
		}
	}
	if len(bad) > 0 {
		return nil, invalid(bad)
	}
	g := livetoken.Grant{ID: id.New(id.Token), AccountID: p.AccountID, KeyID: p.KeyID, Videos: slices.Compact(slices.Sorted(slices.Values(r.GetVideos()))), User: r.GetUser(),
		ExpiresAt: time.Now().Add(life).Truncate(time.Second)}
	token, err := s.d.Tokens.Sign(g)
	if err != nil {
		return nil, err
	}
	return &videov1.CreateRealtimeTokenResponse{Id: g.ID, Token: token, ExpiresAt: timestamppb.New(g.ExpiresAt)}, nil
}

var tokenID = regexp.MustCompile(`^` + id.Token + `_[A-Za-z0-9-]{1,59}$`)

func (s *Service) revokeToken(ctx context.Context, p auth.Principal, token string) error {
	if !tokenID.MatchString(token) {
		return fault.New(fault.NotFound, "there is no such token; a token is revoked by its id, %s_…", id.Token)
	}
	_, err := s.d.Realtime.RevokeRealtimeToken(ctx, &ledgerv1.RevokeRealtimeTokenRequest{AccountId: p.AccountID, TokenId: token})
	if err != nil {
		return fault.FromStatus(err)
	}
	return nil
}

// tokenBody is a request for a token as callers write it.
type tokenBody struct {
	Videos    []string `json:"videos"`
	User      string   `json:"user"`
	ExpiresIn number   `json:"expires_in"`
}

// readToken reads one strictly, as decodeJSON reads a video's.
func readToken(w http.ResponseWriter, r *http.Request) (*videov1.CreateRealtimeTokenRequest, []fault.Field, error) {
	data, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 64<<10))
	if err != nil {
		return nil, nil, invalid([]fault.Field{{Name: "body", Message: "ended before it was complete, or is larger than 64 KiB"}})
	}
	var b tokenBody
	if err := jsonv2.Unmarshal(data, &b, jsonv2.RejectUnknownMembers(true)); err != nil {
		if syn := (*jsontext.SyntacticError)(nil); errors.As(err, &syn) || len(data) == 0 {
			return nil, nil, invalid([]fault.Field{syntax(err)})
		}
		f := member("", err)
		if f.Name = strings.TrimPrefix(f.Name, "."); f.Name == "" {
			f = fault.Field{Name: "body", Message: "must be a JSON object"}
		}
		return nil, nil, invalid([]fault.Field{f})
	}
	req := &videov1.CreateRealtimeTokenRequest{Videos: b.Videos, User: b.User}
	var bad []fault.Field
	if seconds, err := b.ExpiresIn.seconds(); err != nil {
		bad = append(bad, fault.Field{Name: "expires_in", Message: err.Error()})
	} else if seconds > 0 {
		req.Lifetime = durationpb.New(time.Duration(seconds) * time.Second)
	}
	return req, bad, nil
}

func (s *Service) postToken(w http.ResponseWriter, r *http.Request, p auth.Principal) error {
	req, bad, err := readToken(w, r)
	if err != nil {
		return err
	}
	t, err := s.createToken(r.Context(), p, req, bad...)
	if err != nil {
		return err
	}
	w.Header().Set("Cache-Control", "no-store")
	videojson.Write(w, http.StatusOK, tokenObject{Object: "realtime.token", ID: t.GetId(), Token: t.GetToken(), ExpiresAt: t.GetExpiresAt().GetSeconds()})
	return nil
}

func (s *Service) deleteToken(w http.ResponseWriter, r *http.Request, p auth.Principal) error {
	if err := s.revokeToken(r.Context(), p, r.PathValue("id")); err != nil {
		return err
	}
	videojson.Write(w, http.StatusOK, revokedObject{ID: r.PathValue("id"), Object: "realtime.token.revoked", Revoked: true})
	return nil
}

type realtimeServer struct {
	videov1.UnimplementedRealtimeServiceServer
	s *Service
}

// CreateRealtimeToken implements RealtimeService.
func (g *realtimeServer) CreateRealtimeToken(ctx context.Context, r *videov1.CreateRealtimeTokenRequest) (*videov1.CreateRealtimeTokenResponse, error) {
	p, err := g.s.who(ctx, auth.VideosRead)
	if err != nil {
		return nil, err
	}
	return g.s.createToken(ctx, p, r)
}

// RevokeRealtimeToken implements RealtimeService.
func (g *realtimeServer) RevokeRealtimeToken(ctx context.Context, r *videov1.RevokeRealtimeTokenRequest) (*videov1.RevokeRealtimeTokenResponse, error) {
	p, err := g.s.who(ctx, auth.VideosRead)
	if err != nil {
		return nil, err
	}
	return &videov1.RevokeRealtimeTokenResponse{}, g.s.revokeToken(ctx, p, r.GetId())
}
