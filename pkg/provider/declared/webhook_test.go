package declared_test

import (
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"reelway.dev/pkg/provider"
	"reelway.dev/pkg/provider/declared"
	"reelway.dev/pkg/webhooksig"
)

// described is a provider whose callbacks are proven as webhook says.
func described(webhook string) string {
	return `
- name: acme
  base_url: https://acme.example
  submit: {path: /v1/videos, body: {prompt: "{prompt}"}, task_id: id}
  poll: {path: "/v1/videos/{task_id}"}
  task: {id: id, status: status, result: [url], states: {succeeded: [done], failed: [failed]}}
  webhook: ` + webhook + "\n"
}

const publicKey = "03a107bff3ce10be1d70dd18e74bc09967e4d6309ba50d5f1ddc8664125531b8"

// A fault of a signature names its field and what is allowed.
func TestBadSignaturesAreNamed(t *testing.T) {
	t.Parallel()
	const hmac = `{signature: hmac-sha256, secret_file: f, header: X-Sig, `
	for webhook, want := range map[string]string{
		`{signature: md5}`:                                          `webhook.signature is "md5": use standard, hmac-sha256, hmac-sha512, ed25519 or none`,
		`{}`:                                                        `webhook.signature is ""`,
		`{signature: none, secret_file: f}`:                         "webhook.secret_file has no meaning with none",
		`{signature: standard, header: X-Sig}`:                      "webhook.signature standard takes no header",
		`{signature: standard, tolerance: 1m}`:                      "webhook.signature standard takes no header, encoding, prefix, timestamp_header, separator or tolerance",
		`{signature: none, separator: ""}`:                          "webhook.signature none takes no",
		`{signature: standard, public_keys: [x]}`:                   "webhook.public_keys are for ed25519, not for standard",
		`{signature: hmac-sha256, header: X-Sig}`:                   "webhook.secret_file is needed with hmac-sha256",
		`{signature: hmac-sha512, secret_file: f}`:                  `webhook.header is "": name the header`,
		`{signature: hmac-sha256, secret_file: f, header: "X Sig"}`: `webhook.header is "X Sig": name the header`,
		hmac + `encoding: base32}`:                                  `webhook.encoding is "base32": use hex or base64`,
		hmac + `prefix: "sha256, "}`:                                `webhook.prefix is "sha256, "`,
		hmac + `public_keys: [x]}`:                                  "webhook.public_keys are for ed25519, not for hmac-sha256",
		hmac + `tolerance: 1m}`:                                     "webhook.separator and webhook.tolerance need a timestamp_header",
		hmac + `separator: "."}`:                                    "webhook.separator and webhook.tolerance need a timestamp_header",
		hmac + `timestamp_header: x-sig}`:                           `webhook.timestamp_header is "x-sig": name a header other than the signature's`,
		hmac + `timestamp_header: X-Time, separator: "0"}`:          `webhook.separator is "0": up to 8 characters are allowed, and no digit`,
		hmac + `timestamp_header: X-Time, tolerance: 2h}`:           "webhook.tolerance is 2h0m0s: use 1s to 1h0m0s",
		hmac + `timestamp_header: X-Time, tolerance: -5m}`:          "webhook.tolerance is -5m0s",
		hmac + `timestamp_header: X-Time, tolerance: often}`:        "cannot unmarshal",
		hmac + `colour: red}`:                                       "colour",
		`{signature: ed25519, header: X-Sig}`:                       "webhook.public_keys are needed with ed25519",
		`{signature: ed25519, header: X-Sig, public_keys: [` + publicKey + `, c2hvcnQ=]}`:        `webhook.public_keys: "c2hvcnQ=" is not`,
		`{signature: ed25519, header: X-Sig, secret_file: f, public_keys: [` + publicKey + `]}`:  "webhook.secret_file has no meaning with ed25519",
		`{signature: ed25519, secret_file: f}`:                                                   "webhook.header",
		`{signature: hmac-sha256, header: X-Sig, secret_file: f, timestamp_header: X-Time}`:      "",
		`{signature: hmac-sha512, header: X-Sig, secret_file: f, encoding: base64, prefix: v1=}`: "",
		`{signature: ed25519, header: X-Sig, public_keys: [` + publicKey + `]}`:                  "",
		`{signature: ed25519, header: X-Sig, timestamp_header: X-Time, separator: "", public_keys: [` +
			base64.StdEncoding.EncodeToString(make([]byte, 32)) + `]}`: "",
		`{signature: none}`: "", `{signature: standard, secret_file: f}`: "", `{signature: standard}`: "",
	} {
		_, err := declared.Parse([]byte(described(webhook)))
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", webhook, err, want)
		}
	}
}

// A callback is proof when it is signed as the description says, lately and by the
// right key; with a field that says otherwise it is none.
func TestSignedCallbacks(t *testing.T) {
	t.Parallel()
	const secret = "a-secret-of-some-bytes"
	private := ed25519.NewKeyFromSeed(make([]byte, 32))
	public, _ := private.Public().(ed25519.PublicKey)
	now, body := time.Unix(1_800_000_000, 0), []byte(`{"id":"t1","status":"done","url":"https://x.example/v.mp4"}`)
	for webhook, want := range map[string]webhooksig.Scheme{
		`{signature: hmac-sha256, secret_file: f, header: X-Hub, prefix: "sha256="}`:                                           {Algorithm: "hmac-sha256", Header: "X-Hub", Prefix: "sha256="},
		`{signature: hmac-sha256, secret_file: f, header: X-Sig, timestamp_header: X-Time}`:                                    {Algorithm: "hmac-sha256", Header: "X-Sig", TimestampHeader: "X-Time", Separator: "."},
		`{signature: hmac-sha512, secret_file: f, header: X-Sig, encoding: base64, timestamp_header: X-Time, separator: "\n"}`: {Algorithm: "hmac-sha512", Header: "X-Sig", Base64: true, TimestampHeader: "X-Time", Separator: "\n"},
		`{signature: ed25519, header: X-Sig, encoding: hex, timestamp_header: X-Time, separator: "", tolerance: 1m, public_keys: ["` +
			base64.StdEncoding.EncodeToString(public) + `"]}`: {Algorithm: "ed25519", Header: "X-Sig", TimestampHeader: "X-Time"},
	} {
		specs, err := declared.Parse([]byte(described(webhook)))
		if err != nil {
			t.Fatal(webhook, err)
		}
		keys, err := specs[0].Webhook.Keys("an-older-secret-of-ours, " + secret)
		if err != nil {
			t.Fatal(webhook, err)
		}
		p, _ := declared.New(specs[0], provider.Account{Now: time.Now}, keys).(provider.WebhookParser)
		key := []byte(secret)
		if want.Algorithm == "ed25519" {
			key = private
		}
		tolerance := 5 * time.Minute
		if strings.Contains(webhook, "tolerance: 1m") {
			tolerance = time.Minute
		}
		h, dated := want.Sign(key, body, now), want.TimestampHeader != ""
		for name, c := range map[string]struct {
			h    http.Header
			body string
			at   time.Time
			ok   bool
		}{
			"true":      {h, string(body), now, true},
			"at last":   {h, string(body), now.Add(tolerance), true},
			"too old":   {h, string(body), now.Add(tolerance + time.Second), !dated},
			"altered":   {h, strings.Replace(string(body), "x.example", "y.example", 1), now, false},
			"no header": {http.Header{}, string(body), now, false},
			"wrong key": {want.Sign(ed25519.NewKeyFromSeed([]byte("another seed of thirty-two bytes")), body, now), string(body), now, false},
		} {
			r, err := p.ParseWebhook(t.Context(), c.h, []byte(c.body), c.at)
			if c.ok && (err != nil || r.Hint || r.State != provider.Succeeded || r.TaskID != "t1") || !c.ok && !errors.Is(err, provider.ErrBadSignature) {
				t.Errorf("%s, %s: %+v %v", webhook, name, r, err)
			}
		}
	}
}

// Secrets are read as their scheme has them, and never told.
func TestKeysOfWebhooks(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		signature, secrets string
		keys               int
		err                string
	}{
		{"none", "whatever", 0, ""}, {"standard", "", 0, ""}, {"standard", "whsec_c2ltdWxhdGVkLXdlYmhvb2stc2VjcmV0LWtleQ==", 1, ""},
		{"standard", "s3cret", 0, "whsec_"}, {"hmac-sha256", "", 0, "16 bytes"}, {"hmac-sha256", "s3cret", 0, "webhook.secret_file"},
		{"hmac-sha512", "a-secret-of-some-bytes,another-secret-of-bytes", 2, ""}, {"hmac-sha256", "a-secret-of-some-bytes,s3cret", 0, "16 bytes"},
	} {
		keys, err := declared.Webhook{Signature: c.signature}.Keys(c.secrets)
		if len(keys) != c.keys || (err == nil) != (c.err == "") || err != nil && (!strings.Contains(err.Error(), c.err) || strings.Contains(err.Error(), "s3cret")) {
			t.Errorf("%+v: %d keys, %v", c, len(keys), err)
		}
	}
}

// The manual's example is a description that holds.
func TestTheManualsExample(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../../../docs/providers.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(page), "```yaml\n")
	example, _, ok := strings.Cut(rest, "```")
	specs, err := declared.Parse([]byte(example))
	if err != nil || !ok || len(specs) != 1 {
		t.Fatalf("%d specs: %v", len(specs), err)
	}
	s, own := specs[0].Webhook.Scheme()
	if want := (webhooksig.Scheme{Algorithm: webhooksig.HMACSHA256, Header: "X-Acme-Signature", Prefix: "sha256=", TimestampHeader: "X-Acme-Timestamp", Separator: ".", Tolerance: 5 * time.Minute}); !own || s != want {
		t.Errorf("%+v", s)
	}
}
