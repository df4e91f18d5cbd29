// Package fault is the one taxonomy of errors: every refusal and failure of
// Reelway, on REST, gRPC and the bus, is a *fault.Error with one of its codes.
// It never retries and never logs; it names what went wrong and whether trying
// again helps.
package fault

import (
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"time"
)

// Code is the coarse class of a fault. The strings are part of the API.
type Code string

// The codes, with the HTTP status that REST answers.
const (
	InvalidRequest         Code = "invalid_request"          // 400, names the fields
	Unauthenticated        Code = "unauthenticated"          // 401
	InsufficientCredits    Code = "insufficient_credits"     // 402
	PermissionDenied       Code = "permission_denied"        // 403
	NotFound               Code = "not_found"                // 404
	MethodNotAllowed       Code = "method_not_allowed"       // 405
	Conflict               Code = "conflict"                 // 409
	PayloadTooLarge        Code = "payload_too_large"        // 413
	ContentPolicy          Code = "content_policy"           // 422, final
	RateLimited            Code = "rate_limited"             // 429
	Unavailable            Code = "unavailable"              // 503, a part of Reelway itself
	Internal               Code = "internal"                 // 500
	ProviderRejected       Code = "provider_rejected"        // 502, final
	ProviderUnavailable    Code = "provider_unavailable"     // 503
	ProviderOutcomeUnknown Code = "provider_outcome_unknown" // 504, never resubmitted
	Timeout                Code = "timeout"                  // 504
)

// Codes lists all codes.
func Codes() []Code {
	return []Code{InvalidRequest, Unauthenticated, InsufficientCredits, PermissionDenied, NotFound, MethodNotAllowed, Conflict, PayloadTooLarge,
		ContentPolicy, RateLimited, Unavailable, Internal, ProviderRejected, ProviderUnavailable, ProviderOutcomeUnknown, Timeout}
}

// Field is one wrong field of a request.
type Field struct {
	// Name is the field as the caller wrote it.
	Name string
	// Message says what is wrong and what would be right.
	Message string
}

// Error is a fault as callers see it. It is immutable once returned.
type Error struct {
	Code         Code
	Message      string        // for people, safe to show
	Fields       []Field       // with InvalidRequest: every wrong field
	Retryable    bool          // whether the same request may succeed later
	RetryAfter   time.Duration // 0 when unknown
	Provider     string        // the provider that said so, if one did
	ProviderCode string        // the provider's own code
	cause        error
}

// New returns a fault; retryable is set for the codes that time alone heals.
func New(code Code, format string, args ...any) *Error {
	e := &Error{Code: code, Message: fmt.Sprintf(format, args...)}
	switch code {
	case RateLimited, Unavailable, ProviderUnavailable, Timeout, Internal:
		e.Retryable = true
	}
	return e
}

// Invalid returns an invalid_request that names every wrong field once: of two
// faults of one field the first is kept.
func Invalid(fields ...Field) *Error {
	seen := map[string]bool{}
	fields = slices.DeleteFunc(slices.Clone(fields), func(f Field) bool {
		again := seen[f.Name]
		seen[f.Name] = true
		return again
	})
	var parts []string
	for _, f := range fields {
		parts = append(parts, f.Name+": "+f.Message)
	}
	e := New(InvalidRequest, "%s", strings.Join(parts, "; "))
	e.Fields = fields
	return e
}

// Wrap returns a fault that keeps cause for logs; the cause's text is not shown
// to callers.
func Wrap(cause error, code Code, format string, args ...any) *Error {
	e := New(code, format, args...)
	e.cause = cause
	return e
}

// Error implements error.
func (e *Error) Error() string {
	s := string(e.Code) + ": " + e.Message
	if e.cause != nil {
		s += ": " + e.cause.Error()
	}
	return s
}

// Unwrap returns the cause, if any.
func (e *Error) Unwrap() error { return e.cause }

// From returns the fault in err's chain; any other error becomes Internal with
// a message that gives nothing away, or Unavailable where a neighbour is away.
// From(nil) is nil.
func From(err error) *Error {
	if err == nil {
		return nil
	}
	var e *Error
	if errors.As(err, &e) {
		return e
	}
	if unreachable(err) {
		e := Wrap(err, Unavailable, "a part of the service is unavailable; retry with the same Idempotency-Key")
		e.RetryAfter = time.Second
		return e
	}
	return Wrap(err, Internal, "an internal error occurred; the request can be retried with the same Idempotency-Key")
}

// unreachable reports whether err says that a neighbour, a database or a socket,
// is away: time heals it. SQLSTATE classes 08 (connection), 53 (resources), 57P
// (shutdown) and 25006 (a demoted primary); PostgreSQL, appendix A.
func unreachable(err error) bool {
	var n net.Error
	var sql interface{ SQLState() string }
	if errors.As(err, &sql) {
		s := sql.SQLState()
		return strings.HasPrefix(s, "08") || strings.HasPrefix(s, "53") || strings.HasPrefix(s, "57P") || s == "25006"
	}
	return errors.As(err, &n) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF)
}

// HTTPStatus is the REST status of a code.
func (c Code) HTTPStatus() int {
	switch c {
	case InvalidRequest:
		return 400
	case Unauthenticated:
		return 401
	case InsufficientCredits:
		return 402
	case PermissionDenied:
		return 403
	case NotFound:
		return 404
	case MethodNotAllowed:
		return 405
	case Conflict:
		return 409
	case PayloadTooLarge:
		return 413
	case ContentPolicy:
		return 422
	case RateLimited:
		return 429
	case ProviderRejected:
		return 502
	case Unavailable, ProviderUnavailable:
		return 503
	case ProviderOutcomeUnknown, Timeout:
		return 504
	}
	return 500
}
