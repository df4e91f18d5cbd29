package callback

import (
	"io"
	"net/http"
)

// HealthPath answers whoever asks whether callbacks would arrive: the way in,
// not what lies behind it, for which there is /readyz.
const HealthPath = "/v1/callbacks/health"

// HealthAnswer is what a Reelway, and hardly anything else, answers there.
const HealthAnswer = `{"result":"callbacks arrive here"}`

func healthy(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	_, _ = io.WriteString(w, HealthAnswer+"\n")
}
