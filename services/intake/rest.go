package intake

import (
	"net/http"
	"strconv"
	"strings"
	"time"

	"reelway.dev/pkg/auth"
	"reelway.dev/pkg/fault"
	"reelway.dev/pkg/id"
	"reelway.dev/pkg/job"
	"reelway.dev/pkg/money"
	"reelway.dev/pkg/run"
	"reelway.dev/pkg/videojson"
	ledgerv1 "reelway.dev/proto/gen/reelway/ledger/v1"
	videov1 "reelway.dev/proto/gen/reelway/video/v1"
)

// Handler serves the REST API of DESIGN §7 that is intake's.
func (s *Service) Handler() http.Handler {
	mux := http.NewServeMux()
	route := func(pattern, scope string, h func(http.ResponseWriter, *http.Request, auth.Principal) error) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			p, err := s.d.Auth.Authenticate(r.Context(), auth.Bearer(r.Header.Get("Authorization")))
			if err == nil {
				err = s.throttle(r.Context(), p, w.Header().Set)
			}
			if err == nil {
				err = p.Require(scope)
			}
			if err == nil {
				err = h(w, r, p)
			}
			s.fail(w, r, err)
		})
	}
	route("POST /v1/videos", auth.VideosWrite, s.postVideo)
	route("GET /v1/videos", auth.VideosRead, s.listVideos)
	route("GET /v1/videos/{id}", auth.VideosRead, s.getVideo)
	route("DELETE /v1/videos/{id}", auth.VideosWrite, s.deleteVideo)
	route("POST /v1/videos/{id}/cancel", auth.VideosWrite, s.cancelVideo)
	route("POST /v1/videos/{id}/remix", auth.VideosWrite, s.postOfVideo(false))
	route("POST /v1/videos/edits", auth.VideosWrite, s.postOfVideo(false))
	route("POST /v1/videos/extensions", auth.VideosWrite, s.postOfVideo(true))
	route("GET /v1/videos/{id}/content", auth.VideosRead, s.content)
	route("POST /v1/videos:quote", auth.VideosRead, s.quoteVideo)
	route("GET /v1/models", auth.VideosRead, s.listModels)
	route("GET /v1/models/{id...}", auth.VideosRead, s.getModel)
	route("GET /v1/balance", auth.BillingRead, s.getBalance)
	route("GET /v1/usage", auth.BillingRead, s.getUsage)
	route("GET /v1/statement", auth.BillingRead, s.getStatement)
	s.routeWebhooks(route)
	s.routeUploads(route)
	s.routeDeadLetters(route)
	route("POST /v1/realtime/tokens", auth.VideosRead, s.postToken)
	route("DELETE /v1/realtime/tokens/{id}", auth.VideosRead, s.deleteToken)
	mux.HandleFunc("GET /v1/health", func(w http.ResponseWriter, r *http.Request) {
		if err := s.d.Health(r.Context()); err != nil {
			videojson.Write(w, http.StatusServiceUnavailable, map[string]string{"status": "unavailable"})
			return
		}
		videojson.Write(w, http.StatusOK, map[string]string{"status": "ok"})
	})
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		if allowed := methods(mux, r); len(allowed) > 0 {
			w.Header().Set("Allow", strings.Join(allowed, ", "))
			s.fail(w, r, fault.New(fault.MethodNotAllowed, "%s takes %s, not %s", r.URL.Path, strings.Join(allowed, " or "), r.Method))
			return
		}
		s.fail(w, r, fault.New(fault.NotFound, "there is no %s %s; docs/api.md describes the API", r.Method, r.URL.Path))
	})
	return run.Traced(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		rid := r.Header.Get("X-Request-Id")
		if !id.Safe(rid) {
			rid = id.New(id.Request)
			r.Header.Set("X-Request-Id", rid)
		}
		w.Header().Set("X-Request-Id", rid)
		// A body that trickles in must not hold a connection for ever.
		_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(15 * time.Second))
		mux.ServeHTTP(w, r)
	}))
}

// methods are those that a path takes.
func methods(mux *http.ServeMux, r *http.Request) (out []string) {
	for _, m := range []string{http.MethodGet, http.MethodPost, http.MethodDelete} {
		probe := r.Clone(r.Context())
		probe.Method = m
		if _, pattern := mux.Handler(probe); pattern != "/" {
			out = append(out, m)
		}
	}
	return out
}

func (s *Service) fail(w http.ResponseWriter, r *http.Request, err error) {
	if err == nil {
		return
	}
	f := fault.From(err)
	if f.Code == fault.Internal {
		s.d.Logger.ErrorContext(r.Context(), "request failed", "request_id", r.Header.Get("X-Request-Id"), "method", r.Method, "error", err.Error())
	}
	videojson.WriteFault(w, r.Header.Get("X-Request-Id"), f)
}

// object is v with a signed URL when there is a file.
func (s *Service) object(r *http.Request, v *videov1.Video) (videojson.Video, error) {
	o := videojson.Of(v)
	if k := v.GetArtifact().GetKey(); k != "" && job.FromProto(v.GetState()) == job.Succeeded {
		u, expires, err := s.d.Files.SignedURL(r.Context(), k)
		if err != nil {
			return o, err
		}
		o.URL, o.URLExpiresAt = u, expires.Unix()
	}
	return o, nil
}

func (s *Service) write(w http.ResponseWriter, r *http.Request, v *videov1.Video, err error) error {
	if err != nil {
		return err
	}
	o, err := s.object(r, v)
	if err != nil {
		return err
	}
	videojson.Write(w, http.StatusOK, o)
	return nil
}

func (s *Service) postVideo(w http.ResponseWriter, r *http.Request, p auth.Principal) error {
	if err := mayCreate(p, r.Header.Get("Idempotency-Key")); err != nil {
		return err
	}
	files := &parts{s: s, ctx: r.Context(), p: p}
	defer files.drop()
	req, bad, err := decode(w, r, files)
	if err != nil {
		return err
	}
	v, err := s.create(r.Context(), p, req, r.Header.Get("Idempotency-Key"), bad...)
	return s.write(w, r, v, err)
}

func (s *Service) getVideo(w http.ResponseWriter, r *http.Request, p auth.Principal) error {
	v, err := s.get(r.Context(), p, r.PathValue("id"))
	return s.write(w, r, v, err)
}

func (s *Service) cancelVideo(w http.ResponseWriter, r *http.Request, p auth.Principal) error {
	v, err := s.cancel(r.Context(), p, r.PathValue("id"))
	return s.write(w, r, v, err)
}

func (s *Service) deleteVideo(w http.ResponseWriter, r *http.Request, p auth.Principal) error {
	if err := s.remove(r.Context(), p, r.PathValue("id")); err != nil {
		return err
	}
	videojson.Write(w, http.StatusOK, map[string]any{"id": r.PathValue("id"), "object": "video.deleted", "deleted": true})
	return nil
}

func (s *Service) listVideos(w http.ResponseWriter, r *http.Request, p auth.Principal) error {
	q := r.URL.Query()
	req := &videov1.ListVideosRequest{After: q.Get("after"), User: q.Get("user")}
	var bad []fault.Field
	if v := q.Get("limit"); v != "" {
		n, err := strconv.ParseInt(v, 10, 32)
		if err != nil || n < 1 || n > 100 {
			bad = append(bad, fault.Field{Name: "limit", Message: "must be 1 to 100"})
		}
		req.Limit = int32(n)
	}
	switch q.Get("order") {
	case "", "desc":
	case "asc":
		req.Ascending = true
	default:
		bad = append(bad, fault.Field{Name: "order", Message: "must be asc or desc"})
	}
	if v := q.Get("state"); v != "" {
		if req.State = job.State(v).Proto(); req.GetState() == 0 {
			bad = append(bad, fault.Field{Name: "state", Message: "is not a state of a video"})
		}
	}
	if len(bad) > 0 {
		return invalid(bad)
	}
	resp, err := s.list(r.Context(), p, req)
	if err != nil {
		return err
	}
	data := []videojson.Video{}
	for _, v := range resp.GetVideos() {
		o, err := s.object(r, v)
		if err != nil {
			return err
		}
		data = append(data, o)
	}
	out := map[string]any{"object": "list", "data": data, "has_more": resp.GetHasMore(), "first_id": nil, "last_id": nil}
	if n := len(data); n > 0 {
		out["first_id"], out["last_id"] = data[0].ID, data[n-1].ID
	}
	videojson.Write(w, http.StatusOK, out)
	return nil
}

func (s *Service) quoteVideo(w http.ResponseWriter, r *http.Request, p auth.Principal) error {
	req, bad, err := decode(w, r, nil)
	if err != nil {
		return err
	}
	q, err := s.quote(r.Context(), p, req, bad...)
	if err != nil {
		return err
	}
	routes := []map[string]any{}
	for _, x := range q.GetRoutes() {
		routes = append(routes, priced(map[string]any{"provider": x.GetProvider(), "price": money.Format(x.GetPriceMicros()), "price_micros": x.GetPriceMicros(),
			"dropped": append([]string{}, x.GetDropped()...)}, x.GetParams(), x.GetLines()))
	}
	out := priced(map[string]any{"object": "quote", "total": money.Format(q.GetTotalMicros()), "total_micros": q.GetTotalMicros(), "routes": routes}, q.GetParams(), q.GetLines())
	if q.GetRoute() != "" {
		out["route"] = q.GetRoute()
	}
	videojson.Write(w, http.StatusOK, out)
	return nil
}

// priced adds to an object what is made and how its price comes about.
func priced(o map[string]any, p *videov1.VideoParams, ls []*videov1.PriceLine) map[string]any {
	lines := []map[string]any{}
	for _, l := range ls {
		lines = append(lines, map[string]any{"description": l.GetDescription(), "unit": money.Format(l.GetUnitMicros()), "quantity": l.GetQuantity(),
			"amount": money.Format(l.GetAmountMicros()), "amount_micros": l.GetAmountMicros()})
	}
	o["model"], o["duration"], o["resolution"], o["aspect_ratio"] = p.GetModel(), p.GetDurationSeconds(), p.GetResolution(), p.GetAspectRatio()
	o["width"], o["height"], o["lines"] = p.GetWidth(), p.GetHeight(), lines
	return o
}

func (s *Service) getBalance(w http.ResponseWriter, r *http.Request, p auth.Principal) error {
	b, err := s.d.Ledger.GetBalance(r.Context(), &ledgerv1.GetBalanceRequest{AccountId: p.AccountID})
	if err != nil {
		return fault.FromStatus(err)
	}
	videojson.Write(w, http.StatusOK, map[string]any{"object": "balance", "available": money.Format(b.GetAvailableMicros()), "held": money.Format(b.GetHeldMicros()),
		"available_micros": b.GetAvailableMicros(), "held_micros": b.GetHeldMicros(), "granted": money.Format(b.GetGrantedMicros())})
	return nil
}
