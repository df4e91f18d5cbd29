// Package kling speaks Kling's official API in both of its generations: the
// older one names the model in the body of /v1/videos calls, the newer one in
// the path. The model's own name tells which: "kling-v2-6" is old,
// "kling-3.0-turbo" new. Source: klingai.com document-api (task calls,
// callbacks, error table), read 2026-11.
//
// The old generation takes a JWT made of access and secret key, or a plain API
// key; the new one the plain key only.
//
// Only videos of V1 to V1.6 of the old generation can be extended, within the 30
// days for which Kling keeps them; such a task has no external id, so that one of
// unknown outcome cannot be looked for.
//
// Unconfirmed: whether callbacks of the old generation are signed. Callbacks
// are verified when a webhook secret is configured, and hints otherwise: if old
// ones are not signed, those are refused then and polls tell the end. The new
// generation's settings.audio is taken for a boolean. An id that is asked for at
// the path of another kind of task is taken to answer 1203, as an unknown one does.
package kling

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"reelway.dev/pkg/fault"
	"reelway.dev/pkg/provider"
)

// Name is the provider's name in jobs, subjects and URLs.
const Name = "kling"

// Config is one account at Kling.
type Config struct {
	BaseURL string // "https://api-singapore.klingai.com"
	// AccessKey and SecretKey make the tokens of the old generation.
	AccessKey, SecretKey string
	// APIKey is the plain key; when set it is used for both generations.
	APIKey string
	// WebhookKeys are the decoded webhook secrets, two during a rotation;
	// without any a callback is only a hint.
	WebhookKeys [][]byte
	Client      *http.Client
	Now         func() time.Time
}

// Adapter is safe for concurrent use.
type Adapter struct{ cfg Config }

var (
	_ provider.Adapter       = (*Adapter)(nil)
	_ provider.Finder        = (*Adapter)(nil)
	_ provider.WebhookParser = (*Adapter)(nil)
)

// New returns an adapter; Client and Now have to be set.
func New(cfg Config) *Adapter {
	cfg.BaseURL = strings.TrimRight(cfg.BaseURL, "/")
	return &Adapter{cfg: cfg}
}

type envelope struct {
	Code    *int            `json:"code"`
	Message string          `json:"message"`
	Data    json.RawMessage `json:"data"`
}

// errNoKey says that a model of the new generation cannot be called with
// access and secret key.
var errNoKey = errors.New("this model needs Kling's plain API key")

// noKey refuses such a task alone: the models of the old generation go on with
// the keys that there are.
var noKey = provider.Rule{Code: fault.ProviderRejected, Cause: provider.NoAccess, Meaning: "our account at Kling may not do this"}

// modelInPath tells whether a model is of the new generation.
func modelInPath(model string) bool { return !strings.HasPrefix(model, "kling-v") }

// Submit implements provider.Adapter.
func (a *Adapter) Submit(ctx context.Context, t provider.Task) (string, error) {
	path, body := oldSubmit(t)
	switch {
	case t.OfVideo() && (!t.Extend || t.SourceTask == "" || modelInPath(t.Model)):
		return "", provider.CannotUse(Name)
	case t.OfVideo():
		video, err := a.sourceVideo(ctx, t)
		if err != nil {
			return "", provider.LostSource(Name, err)
		}
		path, body = extendSubmit(t, video)
	case modelInPath(t.Model):
		path, body = newSubmit(t)
	}
	raw, err := json.Marshal(body)
	if err != nil {
		return "", provider.Refused(Name, &provider.NotSentError{Err: err})
	}
	ans, env, err := a.call(ctx, http.MethodPost, path, t.Model, raw)
	if errors.Is(err, errNoKey) {
		return "", noKey.Refuse(Name, "", err.Error(), 0)
	}
	if err != nil {
		return "", provider.Refused(Name, err)
	}
	if *env.Code == 0 && ans.Status/100 == 2 {
		d, ok := decode(env.Data)
		if !ok {
			return "", errors.New("answer to submit has no task id")
		}
		return d.id(), nil
	}
	r, known := errorTable[*env.Code]
	if !known {
		return "", fmt.Errorf("submit answered %d with code %d", ans.Status, *env.Code)
	}
	after := ans.RetryAfter(a.cfg.Now())
	if r.Code == fault.RateLimited {
		after = max(after, time.Second) // what Kling asks for without saying so
	}
	return "", r.Refuse(Name, strconv.Itoa(*env.Code), env.Message, after)
}

// Poll implements provider.Adapter.
func (a *Adapter) Poll(ctx context.Context, taskID string, t provider.Task) (provider.Report, error) {
	path := oldTask(t, taskID)
	if modelInPath(t.Model) {
		path = newTask("task_ids", taskID)
	}
	d, found, err := a.readTask(ctx, path, t.Model)
	switch {
	case err == nil && !found:
		err = errors.New("kling does not know the task")
	case err == nil && d.id() != taskID:
		err = errAnother
	}
	if err != nil {
		return provider.Report{}, err
	}
	return report(d), nil
}

// Find implements provider.Finder by the external task id, which is the
// attempt's id and unique in the account. An extension has none.
func (a *Adapter) Find(ctx context.Context, t provider.Task) (provider.Report, bool, error) {
	if t.Extend {
		return provider.Report{}, false, fmt.Errorf("look for extension: %w", provider.ErrNotSearchable)
	}
	path := oldTask(t, t.AttemptID)
	if modelInPath(t.Model) {
		path = newTask("external_task_ids", t.AttemptID)
	}
	d, found, err := a.readTask(ctx, path, t.Model)
	switch external := d.Info.External + d.External; { // one of the two
	case err != nil || !found:
		return provider.Report{}, false, err
	case external != "" && external != t.AttemptID:
		return provider.Report{}, false, errAnother // nobody else's task may become this job's
	}
	return report(d), true, nil
}

var errAnother = errors.New("answer is about another task")

func (a *Adapter) readTask(ctx context.Context, path, model string) (d task, found bool, _ error) {
	ans, env, err := a.call(ctx, http.MethodGet, path, model, nil)
	if err != nil {
		return d, false, fmt.Errorf("read task: %w", err)
	}
	if *env.Code == 1203 {
		return d, false, nil
	}
	if *env.Code != 0 || ans.Status != http.StatusOK {
		return d, false, fmt.Errorf("code %d: %w", *env.Code, &provider.StatusError{Doing: "read task", Status: ans.Status})
	}
	if strings.TrimSpace(string(env.Data)) == "[]" {
		return d, false, nil
	}
	d, ok := decode(env.Data)
	if !ok {
		return d, false, errors.New("answer has no task")
	}
	return d, true, nil
}

// sourceVideo is the id of the video that a source's task made: an extension
// names a video, not a task. Each kind of task is asked for at a path of its own.
func (a *Adapter) sourceVideo(ctx context.Context, t provider.Task) (string, error) {
	for _, kind := range []string{"text2video", "image2video", "video-extend"} {
		d, found, err := a.readTask(ctx, kindTask(kind, t.SourceTask), t.Model)
		if err != nil {
			return "", err
		}
		for _, v := range d.Result.Videos {
			if found && d.TaskID == t.SourceTask && v.ID != "" {
				return v.ID, nil
			}
		}
	}
	return "", fmt.Errorf("read source: %w", provider.ErrNoTask)
}

// token is what goes into the Authorization header for a model.
func (a *Adapter) token(model string) (string, error) {
	if a.cfg.APIKey != "" {
		return a.cfg.APIKey, nil
	}
	if modelInPath(model) {
		return "", errNoKey
	}
	now := a.cfg.Now()
	return jwt.NewWithClaims(jwt.SigningMethodHS256, jwt.MapClaims{
		"iss": a.cfg.AccessKey, "exp": now.Add(30 * time.Minute).Unix(), "nbf": now.Add(-5 * time.Second).Unix(),
	}).SignedString([]byte(a.cfg.SecretKey))
}

func (a *Adapter) call(ctx context.Context, method, path, model string, body []byte) (*provider.Answer, *envelope, error) {
	token, err := a.token(model)
	if err != nil {
		return nil, nil, &provider.NotSentError{Err: err}
	}
	h := http.Header{"Authorization": {"Bearer " + token}, "Content-Type": {"application/json"}}
	ans, err := provider.Call(ctx, a.cfg.Client, method, a.cfg.BaseURL+path, h, body)
	if err != nil {
		return nil, nil, err
	}
	var env envelope
	if err := json.Unmarshal(ans.Body, &env); err != nil || env.Code == nil {
		return nil, nil, fmt.Errorf("answer of status %d is not Kling's", ans.Status)
	}
	return ans, &env, nil
}
