package simulator

import (
	"cmp"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"math/big"
	"net/http"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// veo is the Gemini API's video calls, with webhooks per request. Source of the
// shapes: ai.google.dev and the types of @google/genai.
func veo() *dialect {
	return &dialect{
		name: "veo", calls: []string{"succeeded"}, policyLate: true, // no event tells of a failure
		key: googleKey, own: simulatedKey,
		refuse: func(k refusal, detail string) (int, any) {
			type row struct {
				status int
				word   string
			}
			r := map[refusal]row{unauthorized: {400, "INVALID_ARGUMENT"}, noBalance: {400, "FAILED_PRECONDITION"}, invalid: {400, "INVALID_ARGUMENT"}, notFound: {404, "NOT_FOUND"},
				rateLimited: {429, "RESOURCE_EXHAUSTED"}, broken: {503, "UNAVAILABLE"}}[k]
			e := map[string]any{"code": r.status, "message": detail, "status": r.word}
			if k == unauthorized { // a 400, as for a bad parameter
				e["message"] = "API key not valid. Please pass a valid API key."
				e["details"] = []any{map[string]any{"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "API_KEY_INVALID", "domain": "googleapis.com"}}
			}
			return r.status, map[string]any{"error": e}
		},
		routes: []route{
			{"POST", "/v1beta/models/{call}", submits(http.StatusOK, veoRead, func(t Task, _ string) any {
				return map[string]any{"name": t.operation()}
			})},
			{"GET", "/v1beta/models/{model}/operations/{id}", shows(func(t Task, host string) any { return t.veoOperation(host) }, nil)},
			{"GET", "/v1beta/files/{file}", veoDownload},
			{"GET", "/.well-known/jwks.json", rsaKeys},
		},
		webhook: veoWebhook,
	}
}

func googleKey(_ *Service, r *http.Request) string { return r.Header.Get("X-Goog-Api-Key") }

func veoRead(r *http.Request) (*Task, *refused) {
	model, ok := strings.CutSuffix(r.PathValue("call"), ":predictLongRunning")
	var in struct {
		Instances []struct {
			Prompt string
			Video  struct{ URI string }
		}
		Parameters struct {
			DurationSeconds         int
			AspectRatio, Resolution string
		}
		WebhookConfig struct {
			URIs         []string
			UserMetadata map[string]any
		}
	}
	if err := json.NewDecoder(r.Body).Decode(&in); err != nil || !ok || len(in.Instances) != 1 {
		return nil, &refused{invalid, "one instance is needed"}
	}
	video := in.Instances[0].Video.URI
	if video != "" && (in.Parameters.DurationSeconds%8 != 0 || in.Parameters.Resolution != "720p") {
		return nil, &refused{invalid, "an extension has 720p, and no duration of its own"}
	}
	in.Parameters.DurationSeconds = cmp.Or(in.Parameters.DurationSeconds, 8)
	if d := in.Parameters.DurationSeconds; d != 4 && d != 6 && d != 8 {
		return nil, &refused{invalid, "durationSeconds is out of bound"}
	}
	t := &Task{Prompt: in.Instances[0].Prompt, model: model, seconds: in.Parameters.DurationSeconds}
	if len(in.WebhookConfig.URIs) > 0 {
		t.callback, t.metadata = in.WebhookConfig.URIs[0], in.WebhookConfig.UserMetadata
	}
	t.width, t.height = pixels(in.Parameters.Resolution, in.Parameters.AspectRatio)
	if video != "" { // a file of ours; the result holds it and 7 s more
		_, file, _ := strings.Cut(video, "/v1beta/files/")
		file, _, _ = strings.Cut(file, ":")
		t.width, t.height, t.seconds, t.whole = 0, 0, 7, true
		t.of(file, "")
	}
	return t, nil
}

func (t *Task) operation() string { return "models/" + t.model + "/operations/" + t.ID }

func (t *Task) fileURI(host string) string {
	return host + "/veo/v1beta/files/" + t.ID + ":download?alt=media"
}

func (t *Task) veoOperation(host string) map[string]any {
	m := map[string]any{"name": t.operation()}
	switch t.State {
	case "succeeded":
		out := map[string]any{}
		if t.faults["empty_result"] == 0 {
			out["generatedSamples"] = []any{map[string]any{"video": map[string]any{"uri": t.fileURI(host)}}}
		}
		m["done"], m["response"] = true, map[string]any{"generateVideoResponse": out}
	case "failed":
		m["done"] = true
		if t.policy {
			m["response"] = map[string]any{"generateVideoResponse": map[string]any{"raiMediaFilteredCount": 1,
				"raiMediaFilteredReasons": []string{"Your prompt could not be submitted. Support codes: 58061214"}}}
		} else {
			m["error"] = map[string]any{"code": 13, "message": "the render stopped half-way"}
		}
	}
	return m
}

// veoDownload redirects a caller with the key to the file itself.
func veoDownload(s *Service, d *dialect) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		t, ok := s.asked(d, w, r, func(r *http.Request) string { return strings.TrimSuffix(r.PathValue("file"), ":download") })
		if !ok {
			return
		}
		w.Header().Set("Location", t.result(host(r)))
		w.WriteHeader(http.StatusFound)
	}
}

// makeRSAKey makes the key of the simulator's tokens. It is random: unlike an
// Ed25519 key it cannot be derived, and a key set is fetched anew after a
// restart.
func makeRSAKey() *rsa.PrivateKey {
	k, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err) // the system has no randomness
	}
	return k
}

// keyID names a key by its number, so that a restarted simulator's is another.
func keyID(k *rsa.PrivateKey) string {
	return base64.RawURLEncoding.EncodeToString(k.N.Bytes()[:12])
}

func rsaKeys(s *Service, _ *dialect) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		k := s.rsaKey()
		answer(w, http.StatusOK, map[string]any{"keys": []any{map[string]any{"kty": "RSA", "alg": "RS256", "use": "sig", "kid": keyID(k),
			"n": base64.RawURLEncoding.EncodeToString(k.N.Bytes()), "e": base64.RawURLEncoding.EncodeToString(big.NewInt(int64(k.E)).Bytes())}}})
	}
}

// veoWebhook signs a token and not the body, as Gemini does.
func veoWebhook(s *Service, t Task, host string) ([]byte, http.Header) {
	now := time.Now()
	event := map[string]any{"type": "video.generated", "version": "v1", "timestamp": now.UTC().Format(time.RFC3339),
		"data": map[string]any{"id": t.ID, "output_file_uri": t.fileURI(host), "file_name": "files/" + t.ID}}
	if len(t.metadata) > 0 {
		event["user_metadata"] = t.metadata
	}
	body := t.payload(event)
	k := s.rsaKey()
	token := jwt.NewWithClaims(jwt.SigningMethodRS256, jwt.MapClaims{"iss": "https://generativelanguage.googleapis.com", "aud": t.callback,
		"iat": now.Unix(), "exp": now.Add(5 * time.Minute).Unix()})
	token.Header["kid"] = keyID(k)
	signed, _ := token.SignedString(k) // a good key signs
	if t.faults["webhook_bad_signature"] > 0 {
		signed += "AAAA"
	}
	h := http.Header{}
	h.Set("Webhook-Signature", signed)
	return body, h
}
