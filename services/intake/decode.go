package intake

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"math/big"
	"mime"
	"mime/multipart"
	"net/http"
	"reflect"
	"slices"
	"strings"

	jsonv2 "github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"reelway.dev/pkg/fault"
	"reelway.dev/pkg/id"
	"reelway.dev/pkg/money"
	"reelway.dev/pkg/videojson"
	videov1 "reelway.dev/proto/gen/reelway/video/v1"
)

// MaxBody bounds a request, in bytes. Files, which have limits of their own, do
// not count.
const MaxBody = 1 << 20

const (
	maxDepth = 32 // bounds the nesting of a request
	maxParts = 100
)

// body is a request as callers write it: OpenAI's fields and the field's usual
// ones. Numbers that OpenAI writes as strings are taken as both.
type body struct {
	Model          string            `json:"model"`
	Prompt         string            `json:"prompt"`
	NegativePrompt string            `json:"negative_prompt"`
	Seconds        number            `json:"seconds"`
	Duration       number            `json:"duration"`
	Size           string            `json:"size"`
	AspectRatio    string            `json:"aspect_ratio"`
	Resolution     string            `json:"resolution"`
	Platform       string            `json:"platform"`
	InputReference *reference        `json:"input_reference"`
	ImageURL       string            `json:"image_url"`
	EndImageURL    string            `json:"end_image_url"`
	VideoURL       string            `json:"video_url"`
	Video          *videoReference   `json:"video"` // one of the caller's own
	Extend         bool              `json:"extend"`
	Seed           *int64            `json:"seed"`
	Audio          *bool             `json:"audio"`
	Watermark      *bool             `json:"watermark"`
	User           string            `json:"user"`
	NotifyEmail    string            `json:"notify_email"`
	Metadata       map[string]string `json:"metadata"`
	MaxCost        number            `json:"max_cost"`
	Priority       string            `json:"priority"`
	Route          string            `json:"route"`
	Optional       []string          `json:"optional"`
	CallbackURL    string            `json:"callback_url"`
}

type reference struct {
	ImageURL string `json:"image_url"`
	FileID   string `json:"file_id"`
}

type videoReference struct {
	ID string `json:"id"`
}

// number is a JSON number or a string that holds one, kept as its digits: money
// and seconds never pass through a float.
type number string

// UnmarshalJSON implements json.Unmarshaler.
func (n *number) UnmarshalJSON(b []byte) error {
	s := strings.Trim(string(b), `"`)
	if s == "null" {
		return nil
	}
	if !json.Valid([]byte(s)) || s == "" || strings.ContainsAny(s, `{[tf"`) || len(s) > 20 || strings.ContainsAny(s, "eE") {
		return errors.New("must be a number")
	}
	*n = number(s)
	return nil
}

func (n number) seconds() (int32, error) {
	if n == "" {
		return 0, nil
	}
	r, ok := new(big.Rat).SetString(string(n)) // 5.0 is 5
	if !ok || !r.IsInt() || r.Sign() <= 0 || !r.Num().IsInt64() || r.Num().Int64() > math.MaxInt32 {
		return 0, errors.New("must be a whole number of seconds above 0")
	}
	return int32(r.Num().Int64()), nil
}

// micros turns decimal credits into micro-credits, exactly.
func (n number) micros() (int64, error) {
	if n == "" {
		return 0, nil
	}
	micros, err := money.Parse(string(n))
	if err != nil || micros <= 0 {
		return 0, errors.New("must be credits above 0 with at most 6 decimals")
	}
	return micros, nil
}

// readError says that the body could not be read to its end.
type readError struct{ err error }

func (e *readError) Error() string { return e.err.Error() }

func (e *readError) Unwrap() error { return e.err }

func tooLarge() error {
	return fault.New(fault.PayloadTooLarge, "the body is larger than 1 MiB; send images as https URLs (image_url), as files of a multipart form or as uploads (docs/uploads.md), not as base64")
}

// unfit is the fault of a body that is larger than its limit.
func unfit(limit int64) error {
	if limit == MaxBody {
		return tooLarge()
	}
	return fault.New(fault.PayloadTooLarge, "the body is larger than %d bytes", limit)
}

// decode reads a create or quote request, JSON or multipart. The fields that it
// names are wrong; the request holds what could be read of the others, so that
// every fault can be named at once. files takes those of a form; nil refuses them.
func decode(w http.ResponseWriter, r *http.Request, files *parts) (*videov1.VideoRequest, []fault.Field, error) {
	kind, params, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	limit := int64(MaxBody)
	if kind == "multipart/form-data" {
		limit = files.bytes()
	}
	if r.ContentLength > limit {
		return nil, nil, unfit(limit)
	}
	r.Body = http.MaxBytesReader(w, r.Body, limit)
	if err != nil && r.Header.Get("Content-Type") != "" {
		return nil, nil, invalid([]fault.Field{{Name: "Content-Type", Message: "cannot be read"}})
	}
	var b body
	var bad []fault.Field
	switch kind {
	case "application/json", "":
		bad, err = decodeJSON(r.Body, &b)
	case "multipart/form-data":
		if files != nil {
			files.s.extend(w)
		}
		bad, err = decodeMultipart(multipart.NewReader(r.Body, params["boundary"]), &b, files)
	default:
		return nil, nil, invalid([]fault.Field{{Name: "Content-Type", Message: "must be application/json or multipart/form-data"}})
	}
	var large *http.MaxBytesError
	var read *readError
	switch {
	case errors.As(err, &large):
		return nil, nil, unfit(limit)
	case errors.As(err, &read):
		return nil, nil, invalid([]fault.Field{{Name: "body", Message: "ended before it was complete"}})
	case err != nil:
		return nil, nil, err
	}
	req, worse := b.request()
	return req, append(bad, worse...), nil
}

// decodeJSON is strict: unknown, repeated and differently cased names, invalid
// UTF-8 and deep nesting are refused. A body that is no JSON object is an
// error; members that are wrong are all named. b points to a struct whose fields
// have JSON names.
func decodeJSON(r io.Reader, b any) (bad []fault.Field, err error) {
	data, err := io.ReadAll(r)
	if err != nil {
		return nil, &readError{err}
	}
	if err := depth(data); err != nil {
		return nil, err
	}
	var members map[string]jsontext.Value
	if err := jsonv2.Unmarshal(data, &members); err != nil || members == nil {
		return nil, invalid([]fault.Field{syntax(err)})
	}
	v := reflect.ValueOf(b).Elem()
	for i := range v.NumField() {
		name := v.Type().Field(i).Tag.Get("json")
		raw, ok := members[name]
		delete(members, name)
		if !ok {
			continue
		}
		if err := jsonv2.Unmarshal(raw, v.Field(i).Addr().Interface(), jsonv2.RejectUnknownMembers(true)); err != nil {
			v.Field(i).SetZero()
			bad = append(bad, member(name, err))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(members)) {
		message := "is not a field of this request"
		if near := known(v.Type(), name); near != "" {
			message += "; did you mean " + near + "?"
		}
		bad = append(bad, fault.Field{Name: name, Message: message})
	}
	return bad, nil
}

// syntax says why a body is no JSON object.
func syntax(err error) fault.Field {
	var syn *jsontext.SyntacticError
	switch {
	case !errors.As(err, &syn):
		return fault.Field{Name: "body", Message: "must be a JSON object"}
	case errors.Is(err, jsontext.ErrDuplicateName):
		return fault.Field{Name: pointer(syn.JSONPointer), Message: "is there twice"}
	}
	return fault.Field{Name: "body", Message: fmt.Sprintf("is not valid JSON at byte %d", syn.ByteOffset)}
}

// member says what is wrong with one field's value.
func member(name string, err error) fault.Field {
	f := fault.Field{Name: name, Message: "is not valid"}
	var sem *jsonv2.SemanticError
	if !errors.As(err, &sem) {
		return f
	}
	if p := pointer(sem.JSONPointer); p != "" {
		f.Name += "." + p
	}
	switch {
	case errors.Is(err, jsonv2.ErrUnknownName):
		f.Message = "is not a field of this request"
	case sem.Err != nil && sem.GoType == reflect.TypeFor[number]():
		f.Message = sem.Err.Error()
	case sem.GoType != nil:
		f.Message = "must be " + describe(sem.GoType)
	}
	return f
}

func pointer(p jsontext.Pointer) string {
	return strings.ReplaceAll(strings.TrimPrefix(string(p), "/"), "/", ".")
}

func describe(t reflect.Type) string {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch t.Kind() {
	case reflect.String:
		return "a string"
	case reflect.Bool:
		return "true or false"
	case reflect.Int64:
		return "a whole number"
	case reflect.Slice:
		return "a list of strings"
	}
	return "an object"
}

func known(t reflect.Type, name string) string {
	for i := range t.NumField() {
		if tag := t.Field(i).Tag.Get("json"); strings.EqualFold(strings.ReplaceAll(name, "-", "_"), tag) {
			return tag
		}
	}
	return ""
}

func depth(data []byte) error {
	d, quoted, escaped := 0, false, false
	for _, c := range data {
		switch {
		case escaped:
			escaped = false
		case quoted:
			escaped, quoted = c == '\\', c != '"'
		case c == '"':
			quoted = true
		case c == '{' || c == '[':
			if d++; d > maxDepth {
				return invalid([]fault.Field{{Name: "body", Message: "is nested too deeply"}})
			}
		case c == '}' || c == ']':
			d--
		}
	}
	return nil
}

// decodeMultipart reads the form that OpenAI's SDKs send, by way of the same
// strict JSON: one set of rules.
func decodeMultipart(mr *multipart.Reader, b *body, files *parts) ([]fault.Field, error) {
	fields := map[string]any{}
	var bad []fault.Field
	left := int64(MaxBody) // for all that is no file
	for n := 0; ; n++ {
		if n == maxParts {
			return nil, invalid([]fault.Field{{Name: "body", Message: fmt.Sprintf("has more than %d parts", maxParts)}})
		}
		part, err := mr.NextPart()
		if errors.Is(err, io.EOF) {
			break
		}
		var large *http.MaxBytesError
		if errors.As(err, &large) {
			return nil, &readError{err}
		}
		if err != nil {
			return nil, invalid([]fault.Field{{Name: "body", Message: "is not valid multipart"}})
		}
		name := part.FormName()
		if part.FileName() != "" {
			wrong, err := files.add(part, fields)
			if err != nil {
				return nil, err
			}
			if wrong != nil {
				return nil, invalid(append(bad, *wrong)) // what else there is may be large
			}
			continue
		}
		data, err := io.ReadAll(io.LimitReader(part, left+1))
		if err != nil {
			return nil, &readError{err}
		}
		if left -= int64(len(data)); left < 0 {
			return nil, tooLarge()
		}
		value := string(data)
		group, key, nested := strings.Cut(strings.TrimSuffix(name, "]"), "[")
		if _, twice := fields[name]; twice || name == "" {
			bad = append(bad, fault.Field{Name: name, Message: "is there twice or has no name"})
			continue
		}
		switch {
		case nested && (group == "metadata" || group == "input_reference" || group == "video"):
			m, _ := fields[group].(map[string]any)
			if m == nil {
				m = map[string]any{}
				fields[group] = m
			}
			m[key] = value
		case name == "optional" && !json.Valid(data): // seed,negative_prompt
			fields[name] = strings.Split(value, ",")
		case name == "optional" && json.Valid(data):
			fields[name] = json.RawMessage(data)
		case slices.Contains([]string{"audio", "watermark", "seed", "extend"}, name):
			var v any
			if json.Unmarshal(data, &v) != nil {
				v = value
			}
			fields[name] = v
		case (name == "metadata" || name == "input_reference" || name == "video") && json.Valid(data):
			fields[name] = json.RawMessage(data)
		default:
			fields[name] = value
		}
	}
	raw, err := json.Marshal(fields)
	if err != nil {
		return nil, invalid([]fault.Field{{Name: "body", Message: "cannot be read"}})
	}
	worse, err := decodeJSON(bytes.NewReader(raw), b)
	return append(bad, worse...), err
}

// request joins the two ways of saying the same, and names what is wrong.
func (b *body) request() (_ *videov1.VideoRequest, bad []fault.Field) {
	wrong := func(name, message string) { bad = append(bad, fault.Field{Name: name, Message: message}) }
	seconds, err := b.Seconds.seconds()
	if err != nil {
		wrong("seconds", err.Error())
	}
	duration, err := b.Duration.seconds()
	if err != nil {
		wrong("duration", err.Error())
	}
	if seconds != 0 && duration != 0 && seconds != duration {
		wrong("duration", fmt.Sprintf("%d contradicts seconds, which says %d", duration, seconds))
	}
	micros, err := b.MaxCost.micros()
	if err != nil {
		wrong("max_cost", err.Error())
	}
	priority, ok := videojson.ParsePriority(b.Priority)
	if !ok {
		wrong("priority", fmt.Sprintf("%q is no class of the queue; use %s", b.Priority, videojson.PrioritiesTo(videov1.Priority_PRIORITY_HIGH)))
	}
	image := b.ImageURL
	if ref := b.InputReference; ref != nil && cmp.Or(ref.ImageURL, ref.FileID) != "" {
		named := cmp.Or(ref.ImageURL, ref.FileID)
		if image != "" && image != named {
			wrong("image_url", "contradicts input_reference")
		}
		if ref.FileID != "" && (ref.ImageURL != "" || !strings.HasPrefix(ref.FileID, id.Upload+"_")) {
			wrong("input_reference.file_id", "must be the id of an upload, without an image_url beside it")
		}
		image = named
	}
	source := ""
	if b.Video != nil {
		if source = b.Video.ID; !id.Safe(source) {
			wrong("video", "must hold the id of a video")
			source = ""
		}
	}
	if len(b.Optional) > 16 {
		wrong("optional", "holds more than 16 names")
	}
	if len(b.Metadata) > 16 {
		wrong("metadata", "holds more than 16 pairs")
	}
	for k, v := range b.Metadata {
		if k == "" || len(k) > 64 || len(v) > 512 {
			wrong("metadata", "keys have 1 to 64 characters, values at most 512")
		}
	}
	for _, t := range []struct {
		name, text string
		limit      int
	}{{"prompt", b.Prompt, 10000}, {"negative_prompt", b.NegativePrompt, 5000}, {"user", b.User, 128}, {"model", b.Model, 128}, {"route", b.Route, 64}} {
		if len([]rune(t.text)) > t.limit {
			wrong(t.name, fmt.Sprintf("has more than %d characters", t.limit))
		}
	}
	for _, u := range []struct{ name, url string }{{"image_url", image}, {"end_image_url", b.EndImageURL}, {"video_url", b.VideoURL}} {
		if len(u.url) > 4096 && !strings.HasPrefix(u.url, "data:") && !base64Like(u.url) {
			wrong(u.name, "has more than 4096 characters")
		}
	}
	if len(b.CallbackURL) > 2048 {
		wrong("callback_url", "has more than 2048 characters")
	}
	return &videov1.VideoRequest{NotifyEmail: b.NotifyEmail,
		Model: b.Model, Prompt: b.Prompt, NegativePrompt: b.NegativePrompt, DurationSeconds: max(seconds, duration), Resolution: b.Resolution,
		AspectRatio: b.AspectRatio, Size: b.Size, Platform: b.Platform, ImageUrl: image, EndImageUrl: b.EndImageURL, Seed: b.Seed,
		Audio: b.Audio, Watermark: b.Watermark, User: b.User, Metadata: b.Metadata, MaxCostMicros: micros, Priority: priority,
		Route: b.Route, Optional: b.Optional,
		CallbackUrl: b.CallbackURL, VideoUrl: b.VideoURL, SourceVideo: source, Extend: b.Extend,
	}, bad
}
