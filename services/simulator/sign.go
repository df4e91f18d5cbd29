package simulator

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"strconv"
	"time"

	"reelway.dev/pkg/id"
	"reelway.dev/pkg/webhooksig"
)

// payload is a webhook's body; the fault webhook_garbage makes it none of the
// provider's, so that it can be signed all the same.
func (t *Task) payload(v any) []byte {
	if t.faults["webhook_garbage"] > 0 {
		return []byte(`{"garbage":`)
	}
	body, _ := json.Marshal(v) // maps of strings and numbers
	return body
}

// signed is a signature, or what looks like one with webhook_bad_signature.
func (t *Task) signed(sig []byte) []byte {
	if t.faults["webhook_bad_signature"] == 0 {
		return sig
	}
	out := bytes.Clone(sig)
	_, _ = rand.Read(out)
	return out
}

// standard is the headers of Standard Webhooks, none without a secret.
func (s *Service) standard(t Task, body []byte) http.Header {
	h := http.Header{}
	if s.hookKey == nil {
		return h
	}
	msg, stamp := id.New("msg"), strconv.FormatInt(time.Now().Unix(), 10)
	h.Set("webhook-id", msg)
	h.Set("webhook-timestamp", stamp)
	h.Set("webhook-signature", "v1,"+base64.StdEncoding.EncodeToString(t.signed(webhooksig.StandardMAC(s.hookKey, msg, stamp, body))))
	return h
}
