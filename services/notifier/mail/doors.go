package mail

import (
	"bytes"
	"encoding/hex"
	"net/http"
	"strconv"

	"reelway.dev/pkg/fault"
	"reelway.dev/pkg/job"
	"reelway.dev/pkg/run"
	ledgerv1 "reelway.dev/proto/gen/reelway/ledger/v1"
)

// Path is under which Handler serves.
const Path = "/v1/mail/"

// Handler serves the links in letters, to people: without a key, by signature.
func (s *Service) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+Path+"videos/{id}/{kind}", s.file)
	mux.HandleFunc("GET "+Path+"unsubscribe", s.ask)
	mux.HandleFunc("POST "+Path+"unsubscribe", s.unsubscribe)
	return run.Traced(mux)
}

// answer is a page for people.
type answer struct{ Heading, Text, Button string }

func (s *Service) write(w http.ResponseWriter, r *http.Request, status int, a answer) {
	var b bytes.Buffer
	if err := page.Execute(&b, a); err != nil {
		s.d.Logger.ErrorContext(r.Context(), "page not written", "error", err.Error())
		status = http.StatusInternalServerError
	}
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Cache-Control", "no-store")
	h.Set("Referrer-Policy", "no-referrer") // the address of this page is a secret
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; frame-ancestors 'none'")
	w.WriteHeader(status)
	_, _ = b.WriteTo(w) // the reader has gone; there is nobody to tell
}

var (
	altered = answer{Heading: "This link is not valid", Text: "It was altered or cut off on its way. Please open it from the e-mail again."}
	busy    = answer{Heading: "Not now", Text: "This does not work at the moment. Please try again in a minute."}
)

// file leads on to a video or its thumbnail, by a URL that is signed now: the letter's link lives
// longer than the bucket's URLs do.
func (s *Service) file(w http.ResponseWriter, r *http.Request) {
	id, kind, q := r.PathValue("id"), r.PathValue("kind"), r.URL.Query()
	account, until := q.Get("account"), q.Get("until")
	at, err := strconv.ParseInt(until, 10, 64)
	if err != nil || !s.links.verify(q.Get("token"), kind, account, id, until) {
		s.write(w, r, http.StatusForbidden, altered)
		return
	}
	if s.d.Now().Unix() >= at {
		s.write(w, r, http.StatusGone, answer{Heading: "This link has expired", Text: "Please open the video where you asked for it."})
		return
	}
	gone := answer{Heading: "The video is gone", Text: "It was deleted, or removed after the time for which videos are kept."}
	got, err := s.d.Jobs.GetJob(r.Context(), &ledgerv1.GetJobRequest{JobId: id, AccountId: account})
	if f := fault.FromStatus(err); err != nil && f.Code == fault.NotFound {
		s.write(w, r, http.StatusNotFound, gone)
		return
	}
	v := got.GetVideo()
	key := v.GetArtifact().GetKey()
	if kind == thumbnail {
		key = v.GetArtifact().GetThumbnail().GetKey()
	}
	switch {
	case err != nil:
	case key == "" || job.FromProto(v.GetState()) != job.Succeeded:
		s.write(w, r, http.StatusNotFound, gone)
		return
	default:
		var file string
		if file, _, err = s.d.Files.SignedURL(r.Context(), key); err == nil {
			w.Header().Set("Cache-Control", "no-store")
			w.Header().Set("Referrer-Policy", "no-referrer")
			http.Redirect(w, r, file, http.StatusFound)
			return
		}
	}
	s.d.Logger.ErrorContext(r.Context(), "video of a letter not opened", "job_id", id, "error", err.Error())
	s.write(w, r, http.StatusServiceUnavailable, busy)
}

// recipient reads an unsubscribe link; ok is false when it is not ours.
func (s *Service) recipient(r *http.Request) (account string, who []byte, ok bool) {
	q := r.URL.Query()
	account = q.Get("account")
	who, err := hex.DecodeString(q.Get("recipient"))
	return account, who, err == nil && s.links.verify(q.Get("token"), "unsubscribe", account, q.Get("recipient"))
}

// ask does nothing yet: mail programs and scanners open links by themselves.
func (s *Service) ask(w http.ResponseWriter, r *http.Request) {
	if _, _, ok := s.recipient(r); !ok {
		s.write(w, r, http.StatusForbidden, altered)
		return
	}
	s.write(w, r, http.StatusOK, answer{Heading: "No more e-mail?", Text: "You will not be written to again, neither about videos nor about budgets.", Button: "Unsubscribe"})
}

// unsubscribe is the button, and the one click of RFC 8058: a POST without a
// cookie or a redirect.
func (s *Service) unsubscribe(w http.ResponseWriter, r *http.Request) {
	account, who, ok := s.recipient(r)
	if !ok {
		s.write(w, r, http.StatusForbidden, altered)
		return
	}
	if _, err := s.d.Ledger.Unsubscribe(r.Context(), &ledgerv1.UnsubscribeRequest{AccountId: account, Recipient: who}); err != nil {
		s.d.Logger.ErrorContext(r.Context(), "not unsubscribed", "account_id", account, "error", err.Error())
		s.write(w, r, http.StatusServiceUnavailable, busy)
		return
	}
	s.write(w, r, http.StatusOK, answer{Heading: "You are unsubscribed", Text: "Nothing more is sent to your address."})
}
