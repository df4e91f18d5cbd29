// Package openapi tells of a REST API as an OpenAPI 3.1 document and as a Postman
// collection. Services describe their routes as Operations, in the table from
// which they serve them, with the Go types that they read and write: what is told
// cannot differ from what is done. It serves nothing.
package openapi

import "reelway.dev/pkg/fault"

// Operation is one request of the API.
type Operation struct {
	// Method and Path are those of the route; a placeholder of the path is written
	// as net/http has it.
	Method, Path string
	ID           string // in camel case; names methods of generated clients
	Tag          string // the chapter that it belongs to
	Summary      string // one line
	Text         string // more, in Markdown; may be empty
	// Scope is what a key needs; without one no key is needed.
	Scope string
	// Token says that a browser token will do in the place of a key.
	Token bool
	// Params are all placeholders of the path, and what may be in the query and
	// the headers.
	Params []Param
	// Body is a value of the type that is read; nil when there is no body.
	Body any
	// Form says that the body may be multipart/form-data as well.
	Form bool
	// Files are the parts of a form that are files.
	Files []string
	// Raw are the media types of a file that may be the whole body instead.
	Raw []string
	// Examples are bodies that the service takes, or paths and queries when it
	// takes no body.
	Examples []Example
	Answers  []Answer
	// Faults are the refusals besides those that every operation may answer.
	Faults []fault.Code
	// Also are values of further types to describe, such as frames of a stream.
	Also []any
}

// Param is a parameter of a path, a query or a header.
type Param struct {
	In      string // path, query, header
	Name    string
	Text    string
	Schema  string // JSON Schema; a string when empty
	Example any
	Needed  bool // of a query or a header; a path's always is
}

// Example is a body that is taken as it stands.
type Example struct {
	Name string
	Text string
	JSON string
}

// Answer is how a request that succeeds is answered.
type Answer struct {
	Status int
	Text   string
	// Type is application/json when empty.
	Type string
	// Body is an example of the answer; its Go type is the schema. With another
	// Type it is a string. nil means that there is no body.
	Body any
	// Or are values of the other types that the body may have.
	Or []any
	// Headers are those of this answer alone, by name.
	Headers map[string]string
}

// Schema is what Go does not tell of a type.
type Schema struct {
	Name   string // the Go name when empty
	Text   string
	Fields map[string]Note
	Needed []string // fields of a request that must be there
	JSON   string   // the whole schema, in the place of what is reflected
}

// Note is what Go does not tell of a field.
type Note struct {
	Text string
	Enum []string
	// Of are values of the types that a field of an interface type may hold.
	Of []any
}

// Described is a type with something to add to its schema. Each field of a
// request has to have a note.
type Described interface{ OpenAPI() Schema }
