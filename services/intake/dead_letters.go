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

// deadLetterObject is one as JSON. Its id is a text as every other.
type deadLetterObject struct {
	ID         string `json:"id"`
	Object     string `json:"object"`
	Stream     string `json:"stream"`
	Subject    string `json:"subject"`
	Consumer   string `json:"consumer"`
	Reason     string `json:"reason"`
	Deliveries int64  `json:"deliveries"`
	Type       string `json:"type"`
	DiedAt     string `json:"died_at"`
	SizeBytes  int64  `json:"size_bytes"`
	Replayed   bool   `json:"replayed,omitempty"`
}

type deadLettersObject struct {
	Object  string             `json:"object"`
	Data    []deadLetterObject `json:"data"`
	HasMore bool               `json:"has_more"`
	LastID  *string            `json:"last_id"`
}

func deadLetter(l *ledgerv1.DeadLetter) deadLetterObject {
	return deadLetterObject{Object: "dead_letter", ID: strconv.FormatUint(l.GetId(), 10), Stream: l.GetStream(), Subject: l.GetSubject(), Consumer: l.GetConsumer(),
		Reason: l.GetReason(), Deliveries: int64(l.GetDeliveries()), Type: l.GetType(), DiedAt: l.GetDiedAt().AsTime().UTC().Format(time.RFC3339), SizeBytes: l.GetSizeBytes()}
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
	out := deadLettersObject{Object: "list", Data: []deadLetterObject{}, HasMore: resp.GetHasMore()}
	for _, l := range resp.GetDeadLetters() {
		out.Data = append(out.Data, deadLetter(l))
	}
	if resp.GetLast() > 0 {
		last := strconv.FormatUint(resp.GetLast(), 10)
		out.LastID = &last
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
	out.Replayed = true
	videojson.Write(w, http.StatusOK, out)
	return nil
}
