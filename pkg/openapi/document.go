package openapi

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"reelway.dev/pkg/fault"
)

// Info is what a document says of the whole API.
type Info struct {
	Title, Text, Version string
	// Server is where examples are sent to.
	Server string
	// Tags are the chapters, in order.
	Tags []Tag
	// Refusal is the body by which a fault is told.
	Refusal func(*fault.Error) any
}

// Tag is a chapter.
type Tag struct{ Name, Text string }

// always are the refusals that an operation may answer whatever it does; keyed,
// those of operations that need a key.
var (
	always = []fault.Code{fault.Internal, fault.Unavailable}
	keyed  = []fault.Code{fault.Unauthenticated, fault.PermissionDenied, fault.RateLimited, fault.Timeout}
)

var placeholder = regexp.MustCompile(`\{([a-z_]+)(\.\.\.)?\}`)

// Document is the OpenAPI 3.1 document of operations, as indented JSON. It fails,
// naming everything at once, when one of them is told incompletely.
func Document(info Info, ops []Operation) ([]byte, error) {
	s := &schemas{made: object{}, of: map[string]reflect.Type{}}
	paths, seen := object{}, map[string]bool{}
	for _, op := range ops {
		if op.ID == "" || op.Summary == "" || op.Tag == "" || len(op.Answers) == 0 || seen[op.ID] {
			s.fail("%s %s: ID (a new one), Summary, Tag and Answers are required", op.Method, op.Path)
		}
		seen[op.ID] = true
		path := placeholder.ReplaceAllString(op.Path, "{$1}")
		item, _ := paths[path].(object)
		if item == nil {
			item = object{}
			paths[path] = item
		}
		item[strings.ToLower(op.Method)] = s.operation(op)
	}
	refused := s.refusals(info.Refusal)
	var tags []object
	for _, t := range info.Tags {
		tags = append(tags, object{"name": t.Name, "description": t.Text})
	}
	doc := object{
		"openapi": "3.1.0", "jsonSchemaDialect": "https://json-schema.org/draft/2020-12/schema",
		"info":    object{"title": info.Title, "description": info.Text, "version": info.Version},
		"servers": []object{{"url": info.Server, "description": "`make up`; put your own in its place"}},
		"tags":    tags, "paths": paths,
		"components": object{
			"schemas": s.made, "responses": refused, "headers": headers(),
			"securitySchemes": object{
				"key":   object{"type": "http", "scheme": "bearer", "description": "An API key. What it may do are its scopes, which each operation names."},
				"token": object{"type": "apiKey", "in": "query", "name": "token", "description": "A token for browsers, which watches and does nothing else."},
			},
		},
	}
	if err := errors.Join(s.errs...); err != nil {
		return nil, err
	}
	return indented(doc)
}

func indented(v any) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(v); err != nil {
		return nil, fmt.Errorf("encode: %w", err)
	}
	return b.Bytes(), nil
}

func (s *schemas) operation(op Operation) object {
	out := object{"operationId": op.ID, "summary": op.Summary, "tags": []string{op.Tag}, "security": []object{}}
	if op.Text != "" {
		out["description"] = op.Text
	}
	if op.Scope != "" {
		out["security"] = []object{{"key": []string{op.Scope}}}
		if op.Token {
			out["security"] = []object{{"key": []string{op.Scope}}, {"token": []string{}}}
		}
	}
	if params := s.params(op); len(params) > 0 {
		out["parameters"] = params
	}
	if op.Body != nil {
		out["requestBody"] = s.body(op)
	}
	for _, v := range op.Also {
		s.value(v, false)
	}
	responses := object{}
	for _, a := range op.Answers {
		s.answer(op, a, responses)
	}
	codes := slices.Concat(always, op.Faults)
	if op.Scope != "" {
		codes = append(codes, keyed...)
	}
	for _, c := range codes {
		status := strconv.Itoa(c.HTTPStatus())
		if responses[status] == nil {
			responses[status] = object{"$ref": "#/components/responses/" + status}
		}
	}
	out["responses"] = responses
	return out
}

// params are those of an operation; what is said of each is complete.
func (s *schemas) params(op Operation) (out []object) {
	var missing []string
	for _, m := range placeholder.FindAllStringSubmatch(op.Path, -1) {
		missing = append(missing, m[1])
	}
	for _, p := range op.Params {
		schema := object{"type": "string"}
		if p.Schema != "" {
			schema = s.parse(p.Schema)
		}
		o := object{"in": p.In, "name": p.Name, "description": p.Text, "schema": schema}
		if p.Example != nil {
			o["example"] = p.Example
		}
		if p.Text == "" {
			s.fail("%s: parameter %s needs a text", op.ID, p.Name)
		}
		if p.Needed || p.In == "path" {
			o["required"] = true
		}
		if p.In == "path" {
			if p.Example == nil {
				s.fail("%s: parameter %s of the path needs an example", op.ID, p.Name)
			}
			missing = slices.DeleteFunc(missing, func(n string) bool { return n == p.Name })
		}
		out = append(out, o)
	}
	if len(missing) > 0 {
		s.fail("%s: nothing is said of %v in its path", op.ID, missing)
	}
	return out
}

func (s *schemas) body(op Operation) object {
	examples := object{}
	for _, e := range op.Examples {
		var v any
		if err := json.Unmarshal([]byte(e.JSON), &v); err != nil {
			s.fail("%s: example %s: %w", op.ID, e.Name, err)
		}
		examples[e.Name] = object{"summary": e.Text, "value": v}
	}
	if len(examples) == 0 {
		s.fail("%s: a body needs an example", op.ID)
	}
	schema := s.value(op.Body, true)
	content := object{"application/json": object{"schema": schema, "examples": examples}}
	binary := object{"type": "string", "format": "binary"}
	switch {
	case len(op.Files) > 0:
		parts := object{}
		for _, name := range op.Files {
			parts[name] = binary
		}
		content["multipart/form-data"] = object{"schema": object{"type": "object", "description": "The fields as parts, and files.", "properties": parts}}
	case op.Form:
		content["multipart/form-data"] = object{"schema": schema}
	}
	for _, kind := range op.Raw {
		content[kind] = object{"schema": binary}
	}
	needed := false
	if d, ok := op.Body.(Described); ok {
		needed = len(d.OpenAPI().Needed) > 0
	}
	return object{"content": content, "required": needed}
}

func (s *schemas) answer(op Operation, a Answer, responses object) {
	status := strconv.Itoa(a.Status)
	out, _ := responses[status].(object)
	if out == nil {
		hs := object{"X-Request-Id": object{"$ref": "#/components/headers/X-Request-Id"}}
		if op.Scope != "" && !op.Token {
			for _, h := range limits {
				hs[h.name] = object{"$ref": "#/components/headers/" + h.name}
			}
		}
		out = object{"description": a.Text, "headers": hs}
		responses[status] = out
	}
	for _, name := range slices.Sorted(maps.Keys(a.Headers)) {
		hs, _ := out["headers"].(object)
		hs[name] = object{"description": a.Headers[name], "schema": object{"type": "string"}}
	}
	if a.Text == "" {
		s.fail("%s: answer %s needs a text", op.ID, status)
	}
	if a.Body == nil {
		return
	}
	content, _ := out["content"].(object)
	if content == nil {
		content = object{}
		out["content"] = content
	}
	kind := a.Type
	if kind == "" {
		kind = "application/json"
	}
	content[kind] = object{"schema": s.either(append([]any{a.Body}, a.Or...), false), "example": a.Body}
}

var limits = []struct{ name, text string }{
	{"x-ratelimit-limit-requests", "Requests that the key may make in a minute. This and the next two are there when the key has a limit."},
	{"x-ratelimit-remaining-requests", "How many of them are left."},
	{"x-ratelimit-reset-requests", "When all of them will be there again, such as `1m15s`."},
}

func headers() object {
	text := func(description string) object {
		return object{"description": description, "schema": object{"type": "string"}}
	}
	out := object{
		"X-Request-Id":   text("The request's id, for logs and support; your own when you sent one."),
		"X-Should-Retry": text("`true` or `false`: whether the same request may succeed later."),
		"Retry-After":    text("Seconds to wait before the next try."),
		"Retry-After-Ms": text("The same in milliseconds."),
	}
	for _, h := range limits {
		out[h.name] = text(h.text)
	}
	return out
}

// refusals are the answers that refuse, by their status.
func (s *schemas) refusals(body func(*fault.Error) any) object {
	of := map[int][]fault.Code{}
	for _, c := range fault.Codes() {
		of[c.HTTPStatus()] = append(of[c.HTTPStatus()], c)
	}
	out := object{}
	for status, codes := range of {
		var words []string
		for _, c := range codes {
			words = append(words, "`"+string(c)+"`")
		}
		e := fault.New(codes[0], "what was wrong, for people")
		if codes[0] == fault.InvalidRequest {
			e = fault.Invalid(fault.Field{Name: "duration", Message: "kling-v2-6 makes 5, 10 seconds, not 7"})
		}
		hs := object{}
		for _, name := range []string{"X-Request-Id", "X-Should-Retry"} {
			hs[name] = object{"$ref": "#/components/headers/" + name}
		}
		if e.Retryable {
			e.RetryAfter = time.Second
			for _, name := range []string{"Retry-After", "Retry-After-Ms"} {
				hs[name] = object{"$ref": "#/components/headers/" + name}
			}
		}
		out[strconv.Itoa(status)] = object{"description": http.StatusText(status) + ": " + strings.Join(words, ", "), "headers": hs,
			"content": object{"application/json": object{"schema": s.value(body(e), false), "example": body(e)}}}
	}
	return out
}
