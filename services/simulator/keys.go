package simulator

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"net/http"
	"slices"
	"strings"
)

// Fingerprint is how the simulator speaks of an API key: the first 12 hex
// digits of its SHA-256. Of Kling's pair of keys it is the access key's.
func Fingerprint(key string) string {
	sum := sha256.Sum256([]byte(key))
	return hex.EncodeToString(sum[:6])
}

// keyring is which keys a provider takes, set by POST /admin/keys.
type keyring struct {
	accept []string // fingerprints
	// one says that all keys are one account's, as after a rotation, and see
	// each other's tasks.
	one bool
}

// enter lets a call in, and returns its key's fingerprint: it plays the faults
// that strike every call of a provider and judges the key. ok is false when it
// has answered already.
func (s *Service) enter(d *dialect, w http.ResponseWriter, r *http.Request) (fingerprint string, ok bool) {
	if s.take(d.name, nil, "outage") { // a load balancer's answer: no provider speaks
		http.Error(w, "upstream connect error", http.StatusServiceUnavailable)
		return "", false
	}
	if s.take(d.name, nil, "throttled") {
		s.askToWait(w, d.name)
		d.deny(w, rateLimited, "simulated")
		return "", false
	}
	key := d.key(s, r)
	fingerprint = Fingerprint(key)
	if s.take(d.name, nil, "bad_key") || key == "" || !s.accepts(d, key, fingerprint) {
		d.deny(w, unauthorized, "the key is not valid")
		return "", false
	}
	return fingerprint, true
}

// accepts tells whether a provider takes a key: one of the settings', which
// commas separate, or one of those that POST /admin/keys has named.
func (s *Service) accepts(d *dialect, key, fingerprint string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if ring, set := s.keys[d.name]; set {
		return slices.Contains(ring.accept, fingerprint)
	}
	return slices.Contains(strings.Split(d.own(s.cfg), ","), key)
}

// owns tells whether a key sees a task: it submitted it, or is of one account
// with the key that did.
func (s *Service) owns(fingerprint string, t *Task) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return t.Key == fingerprint || t.Key == "" || s.keys[t.Provider].one
}

// bearer is a plain key in the Authorization header.
func bearer(_ *Service, r *http.Request) string {
	key, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	return key
}

func simulatedKey(c Config) string { return c.Key }

// adminKeys sets the keys that a provider takes, by fingerprint. Each is an
// account of its own unless one_account says otherwise. Without a list the
// provider takes those of the settings again.
func (s *Service) adminKeys(w http.ResponseWriter, r *http.Request) {
	var in struct {
		Provider   string    `json:"provider"`
		Accept     *[]string `json:"accept"`
		OneAccount bool      `json:"one_account"`
	}
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 64<<10)).Decode(&in); err != nil || !known(in.Provider) {
		answer(w, http.StatusBadRequest, map[string]any{"error": "provider must be a simulated one, accept a list of key fingerprints"})
		return
	}
	s.mu.Lock()
	if in.Accept == nil {
		delete(s.keys, in.Provider)
	} else {
		s.keys[in.Provider] = keyring{accept: *in.Accept, one: in.OneAccount}
	}
	s.mu.Unlock()
	answer(w, http.StatusOK, in)
}

func known(provider string) bool {
	return slices.ContainsFunc(dialects(), func(d *dialect) bool { return d.name == provider })
}
