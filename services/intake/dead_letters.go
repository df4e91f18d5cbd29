package intake

import (
	"net/http"
	"strconv"
	"time"

	"reelway.dev/pkg/auth"
	"reelway.dev/pkg/fault"
	"reelway.dev/pkg/videojson"
	ledgerv1 "reelway.dev/proto/gen/reelway/ledger/v1"
)

// routeDeadLetters opens the dead letters to operators, who see every account's.
func (s *Service) routeDeadLetters(route func(pattern, scope string, h func(http.ResponseWriter, *http.Request, auth.Principal) error)) {
	route("GET /v1/dead_letters", auth.Admin, s.listDeadLetters)
	route("POST /v1/dead_letters/{id}/replay", auth.Admin, s.replayDeadLetter)
}

// deadLetter is one as JSON. Its id is a text as every other.
func deadLetter(l *ledgerv1.DeadLetter) map[string]any {
	return map[string]any{"object": "dead_letter", "id": strconv.FormatUint(l.GetId(), 10), "stream": l.GetStream(), "subject": l.GetSubject(), "consumer": l.GetConsumer(),
		"reason": l.GetReason(), "deliveries": l.GetDeliveries(), "type": l.GetType(), "died_at": l.GetDiedAt().AsTime().UTC().Format(time.RFC3339), "size_bytes": l.GetSizeBytes()}
}

func (s *Service) listDeadLetters(w http.ResponseWriter, r *http.Request, p auth.Principal) error {
	if err := p.Active(); err != nil {
		return err
	}
	q := r.URL.Query()
	req := &ledgerv1.ListDeadLettersRequest{Consumer: q.Get("consumer")}
	var bad []fault.Field
	if v := q.Get("limit"); v != "" {
		n, err := strconv.ParseInt(v, 10, 32)
		if err != nil || n < 1 || n > 100 {
			bad = append(bad, fault.Field{Name: "limit", Message: "must be 1 to 100"})
		}
		req.Limit = int32(n)
	}
	if v := q.Get("after"); v != "" {
		n, err := strconv.ParseUint(v, 10, 64)
		if err != nil {
			bad = append(bad, fault.Field{Name: "after", Message: "must be the id of a dead letter"})
		}
		req.After = n
	}
	if len(req.GetConsumer()) > 128 {
		bad = append(bad, fault.Field{Name: "consumer", Message: "must be at most 128 bytes"})
	}
	if len(bad) > 0 {
		return invalid(bad)
	}
	resp, err := s.d.DeadLetters.ListDeadLetters(r.Context(), req)
	if err != nil {
		return fault.FromStatus(err)
	}
	data := []map[string]any{}
	for _, l := range resp.GetDeadLetters() {
		data = append(data, deadLetter(l))
	}
	out := map[string]any{"object": "list", "data": data, "has_more": resp.GetHasMore(), "last_id": nil}
	if resp.GetLast() > 0 {
		out["last_id"] = strconv.FormatUint(resp.GetLast(), 10)
	}
	videojson.Write(w, http.StatusOK, out)
	return nil
}

func (s *Service) replayDeadLetter(w http.ResponseWriter, r *http.Request, p auth.Principal) error {
	if err := p.Active(); err != nil {
		return err
	}
	id, err := strconv.ParseUint(r.PathValue("id"), 10, 64)
	if err != nil || id == 0 {
		return fault.New(fault.NotFound, "no such dead letter; its id is a number")
	}
	actor := auth.Actor{KeyID: p.KeyID, RequestID: r.Header.Get("X-Request-Id")}
	resp, err := s.d.DeadLetters.ReplayDeadLetter(actor.Outgoing(r.Context()), &ledgerv1.ReplayDeadLetterRequest{Id: id})
	if err != nil {
		return fault.FromStatus(err)
	}
	out := deadLetter(resp.GetDeadLetter())
	out["replayed"] = true
	videojson.Write(w, http.StatusOK, out)
	return nil
}
