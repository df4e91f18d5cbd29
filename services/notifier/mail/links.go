package mail

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// links makes and checks the addresses in letters. Each is bound to its purpose,
// so that none opens another's door.
type links struct {
	base   string
	secret []byte
}

func (l links) sign(parts ...string) string {
	m := hmac.New(sha256.New, l.secret)
	// None of the parts ever holds a line feed, so they cannot be shifted.
	m.Write([]byte(strings.Join(parts, "\n")))
	return base64.RawURLEncoding.EncodeToString(m.Sum(nil))
}

func (l links) verify(token string, parts ...string) bool {
	return len(l.secret) > 0 && hmac.Equal([]byte(token), []byte(l.sign(parts...)))
}

// The files of a video that a letter leads to.
const (
	videoFile = "video"
	thumbnail = "thumbnail"
)

// file leads to a file of a finished video until a time.
func (l links) file(kind, account, id string, until time.Time) string {
	at := strconv.FormatInt(until.Unix(), 10)
	q := url.Values{"account": {account}, "until": {at}, "token": {l.sign(kind, account, id, at)}}
	return strings.TrimRight(l.base, "/") + "/v1/mail/videos/" + url.PathEscape(id) + "/" + kind + "?" + q.Encode()
}

// unsubscribe ends an account's e-mail to an address, which it does not tell.
func (l links) unsubscribe(account string, recipient []byte) string {
	who := hex.EncodeToString(recipient)
	q := url.Values{"account": {account}, "recipient": {who}, "token": {l.sign("unsubscribe", account, who)}}
	return strings.TrimRight(l.base, "/") + "/v1/mail/unsubscribe?" + q.Encode()
}
