package simulator

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"

	"github.com/golang-jwt/jwt/v5"
)

// A setting may hold several keys, separated by commas. Each is an account of
// its own: a task is shown to the key that submitted it, and to no other.

// takes reports whether a request has one of the keys, behind a prefix.
func takes(keys string, r *http.Request, prefix string) bool {
	given, ok := strings.CutPrefix(r.Header.Get("Authorization"), prefix)
	return ok && isKey(keys, given)
}

func isKey(keys, given string) bool {
	return given != "" && slices.Contains(strings.Split(keys, ","), given)
}

// credential names the account of an authorized request: its key, or the access
// key that a token speaks for.
func credential(r *http.Request) string {
	if k := r.Header.Get("X-Goog-Api-Key"); k != "" {
		return k
	}
	_, k, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	var claims jwt.RegisteredClaims
	if _, _, err := jwt.NewParser().ParseUnverified(k, &claims); err == nil {
		return claims.Issuer
	}
	return k
}

// off reports whether a request's key was switched off.
func (s *Service) off(r *http.Request) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.refused[credential(r)]
}

// adminKeys switches a key off, or on again.
func (s *Service) adminKeys(w http.ResponseWriter, r *http.Request) {
	var in struct {
		Key string
		Off bool
	}
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 4096)).Decode(&in); err != nil || in.Key == "" {
		answer(w, http.StatusBadRequest, map[string]any{"error": "key, and off (true or false), are needed"})
		return
	}
	s.mu.Lock()
	s.refused[in.Key] = in.Off
	s.mu.Unlock()
	answer(w, http.StatusOK, in)
}
