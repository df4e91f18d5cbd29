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
	for _, row := range routes() {
		h, scope := row.serve(s), row.Scope
		mux.HandleFunc(row.Method+" "+row.Path, func(w http.ResponseWriter, r *http.Request) {
			if scope == "" {
				s.fail(w, r, h(w, r, auth.Principal{}))
				return
			}
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
	return s.submit(w, r, p, func(*videov1.VideoRequest, []fault.Field) ([]fault.Field, error) { return nil, nil })
}

// submit creates the video that a request asks for. judge may add to the request,
// and names what else is wrong with it beside what could not be read.
func (s *Service) submit(w http.ResponseWriter, r *http.Request, p auth.Principal, judge func(req *videov1.VideoRequest, bad []fault.Field) ([]fault.Field, error)) error {
	if err := mayCreate(p, r.Header.Get("Idempotency-Key")); err != nil {
		return err
	}
	files := &parts{s: s, ctx: r.Context(), p: p}
	defer files.drop()
	req, bad, err := decode(w, r, files)
	if err != nil {
		return err
	}
	worse, err := judge(req, bad)
	if err != nil {
		return err
	}
	v, err := s.create(r.Context(), p, req, r.Header.Get("Idempotency-Key"), files.ids, append(bad, worse...)...)
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
	videojson.Write(w, http.StatusOK, deletedObject{ID: r.PathValue("id"), Object: "video.deleted", Deleted: true})
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
	out := videosObject{Object: "list", Data: data, HasMore: resp.GetHasMore()}
	if n := len(data); n > 0 {
		out.FirstID, out.LastID = &data[0].ID, &data[n-1].ID
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
	made := q.GetParams()
	out := quoteObject{Object: "quote", Model: made.GetModel(), Duration: made.GetDurationSeconds(), Resolution: made.GetResolution(), AspectRatio: made.GetAspectRatio(),
		Width: made.GetWidth(), Height: made.GetHeight(), Lines: lines(q.GetLines()), Total: money.Format(q.GetTotalMicros()), TotalMicros: q.GetTotalMicros(),
		Route: q.GetRoute(), Routes: []quoteRouteObject{}}
	for _, x := range q.GetRoutes() {
		p := x.GetParams()
		out.Routes = append(out.Routes, quoteRouteObject{Provider: x.GetProvider(), Model: p.GetModel(), Duration: p.GetDurationSeconds(), Resolution: p.GetResolution(),
			AspectRatio: p.GetAspectRatio(), Width: p.GetWidth(), Height: p.GetHeight(), Lines: lines(x.GetLines()),
			Price: money.Format(x.GetPriceMicros()), PriceMicros: x.GetPriceMicros(), Dropped: append([]string{}, x.GetDropped()...)})
	}
	videojson.Write(w, http.StatusOK, out)
	return nil
}

// lines are how a price comes about.
func lines(ls []*videov1.PriceLine) []lineObject {
	out := []lineObject{}
	for _, l := range ls {
		out = append(out, lineObject{Description: l.GetDescription(), Unit: money.Format(l.GetUnitMicros()), Quantity: l.GetQuantity(),
			Amount: money.Format(l.GetAmountMicros()), AmountMicros: l.GetAmountMicros()})
	}
	return out
}

// health needs no key: who asks is a load balancer.
func (s *Service) health(w http.ResponseWriter, r *http.Request, _ auth.Principal) error {
	status, out := http.StatusOK, healthObject{"ok"}
	if err := s.d.Health(r.Context()); err != nil {
		status, out = http.StatusServiceUnavailable, healthObject{"unavailable"}
	}
	videojson.Write(w, status, out)
	return nil
}

func (s *Service) getBalance(w http.ResponseWriter, r *http.Request, p auth.Principal) error {
	b, err := s.d.Ledger.GetBalance(r.Context(), &ledgerv1.GetBalanceRequest{AccountId: p.AccountID})
	if err != nil {
		return fault.FromStatus(err)
	}
	videojson.Write(w, http.StatusOK, balanceObject{Object: "balance", Available: money.Format(b.GetAvailableMicros()), Held: money.Format(b.GetHeldMicros()),
		AvailableMicros: b.GetAvailableMicros(), HeldMicros: b.GetHeldMicros(), Granted: money.Format(b.GetGrantedMicros())})
	return nil
}
