package simulator

import (
	"net/http"
	"net/url"
	"path"
)

// dialect is one provider: its words and shapes as data, and the few functions
// that read and show its bodies. Accepting, rendering, faults and the delivery
// of webhooks are the same for all.
type dialect struct {
	// name is the provider's name and the first element of its paths.
	name string
	// calls are the states at which it sends a webhook.
	calls []string
	// policyLate says that a policy refusal comes as the failure of an accepted
	// task, not as the refusal of a submit.
	policyLate bool
	// key is the API key that a call shows; "" when it shows none that could be
	// true. own is those that the settings have for it.
	key func(s *Service, r *http.Request) string
	own func(Config) string
	// refuse is a refusal in the provider's envelope.
	refuse func(k refusal, detail string) (status int, body any)
	// routes are its paths, below /name.
	routes []route
	// webhook is a signed callback that shows t as it is.
	webhook func(s *Service, t Task, host string) (body []byte, h http.Header)
	// admit, when set, may refuse a task at the last moment before it exists.
	admit func(s *Service, t *Task) *refused
}

// route is one path of a provider: "POST /v1/things/{id}".
type route struct {
	method, path string
	handle       func(s *Service, d *dialect) http.HandlerFunc
}

// refusal is why a call is refused; every dialect has words for each.
type refusal string

const (
	unauthorized refusal = "unauthorized"
	invalid      refusal = "invalid"
	notFound     refusal = "not_found"
	policy       refusal = "policy"
	noBalance    refusal = "no_balance"
	rateLimited  refusal = "rate_limited"
	broken       refusal = "broken"
	tooLate      refusal = "too_late"
)

type refused struct {
	kind   refusal
	detail string
}

// view shows a task as a provider's own API does.
type view func(t Task, host string) any

func (d *dialect) deny(w http.ResponseWriter, k refusal, detail string) {
	status, body := d.refuse(k, detail)
	answer(w, status, body)
}

// submits is the handler of a submit: read makes a task of the request's body,
// show is the answer to it.
func submits(status int, read func(r *http.Request) (*Task, *refused), show view) func(*Service, *dialect) http.HandlerFunc {
	return func(s *Service, d *dialect) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			key, ok := s.enter(d, w, r)
			if !ok {
				return
			}
			r.Body = http.MaxBytesReader(w, r.Body, 50<<20)
			t, no := read(r)
			if no != nil {
				d.deny(w, no.kind, no.detail)
				return
			}
			t.ID, t.Provider, t.Key, t.d = taskID(d.name), d.name, key, d
			t.faults = words(t.Prompt)
			if u, err := url.Parse(t.callback); err == nil && t.callback != "" {
				t.JobID, t.Attempt = path.Base(u.Path), u.Query().Get("attempt")
			}
			if k := s.before(w, r, t); k != "" {
				d.deny(w, k, "simulated")
				return
			}
			if no := s.admitSource(r.Context(), t); no != nil {
				d.deny(w, no.kind, no.detail)
				return
			}
			if d.admit != nil {
				if no := d.admit(s, t); no != nil {
					d.deny(w, no.kind, no.detail)
					return
				}
			}
			s.mark(t)
			s.fetch(r.Context(), t)
			first, ok := s.accept(t, host(r))
			if !ok {
				d.deny(w, invalid, "the external id is taken")
				return
			}
			if s.after(w, r, t) {
				return
			}
			answer(w, status, show(first, host(r)))
		}
	}
}

// shows is the handler of a read: of the task named in the path, or by find.
func shows(show view, find func(r *http.Request) string) func(*Service, *dialect) http.HandlerFunc {
	return func(s *Service, d *dialect) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			t, ok := s.asked(d, w, r, find)
			if !ok {
				return
			}
			answer(w, http.StatusOK, show(t, host(r)))
		}
	}
}

// cancels is the handler of a cancel. A task that is final is told so by late.
func cancels(status int, show view, late func(s *Service, d *dialect, w http.ResponseWriter, r *http.Request, t Task)) func(*Service, *dialect) http.HandlerFunc {
	return func(s *Service, d *dialect) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			t, ok := s.asked(d, w, r, nil)
			if !ok {
				return
			}
			if !s.set(t.ID, "canceled") {
				late(s, d, w, r, t)
				return
			}
			t.State = "canceled"
			if show == nil {
				w.WriteHeader(status)
				return
			}
			answer(w, status, show(t, host(r)))
		}
	}
}

// asked finds the task that a read is about and plays the faults of reads; ok
// is false when it has answered already.
func (s *Service) asked(d *dialect, w http.ResponseWriter, r *http.Request, find func(r *http.Request) string) (Task, bool) {
	mine, ok := s.enter(d, w, r)
	if !ok {
		return Task{}, false
	}
	key := r.PathValue("id")
	if find != nil {
		key = find(r)
	}
	t, ok := s.find(key)
	if !ok || t.Provider != d.name || !s.owns(mine, &t) {
		d.deny(w, notFound, "no such task")
		return Task{}, false
	}
	switch {
	case s.take(t.Provider, t.faults, "garbage_poll"):
		_, _ = w.Write([]byte("<html>bad gateway</html>"))
		return t, false
	case s.take(t.Provider, t.faults, "rate_limit_poll"):
		s.askToWait(w, t.Provider)
		d.deny(w, rateLimited, "simulated")
		return t, false
	case s.take(t.Provider, t.faults, "error500_poll"):
		d.deny(w, broken, "simulated")
		return t, false
	}
	return t, true
}

// word is a state in the provider's words; the fault unknown_word makes it one
// that no adapter knows.
func (t *Task) word(words map[string]string) string {
	if t.faults["unknown_word"] > 0 {
		return "transmogrifying"
	}
	return words[t.State]
}
