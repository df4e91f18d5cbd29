package fault

import (
	"errors"
	"strconv"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"
)

// Domain is the ErrorInfo domain of every fault on gRPC.
const Domain = "reelway.dev"

func (c Code) grpc() codes.Code {
	switch c {
	case InvalidRequest, MethodNotAllowed, PayloadTooLarge, ContentPolicy:
		return codes.InvalidArgument
	case Unauthenticated:
		return codes.Unauthenticated
	case InsufficientCredits, RateLimited:
		return codes.ResourceExhausted
	case PermissionDenied:
		return codes.PermissionDenied
	case NotFound:
		return codes.NotFound
	case Conflict, ProviderRejected:
		return codes.FailedPrecondition
	case Unavailable, ProviderUnavailable:
		return codes.Unavailable
	case ProviderOutcomeUnknown, Timeout:
		return codes.DeadlineExceeded
	}
	return codes.Internal
}

// retryUnknown is what a retry waits at first when nothing says how long.
const retryUnknown = time.Second

// ToStatus turns any error into a gRPC status error with ErrorInfo, BadRequest
// and, where a retry may help, RetryInfo details. A cause stays behind: it is for our logs. nil is nil,
// and an error that is a gRPC status already passes unchanged.
func ToStatus(err error) error {
	if err == nil {
		return nil
	}
	var e *Error
	if !errors.As(err, &e) {
		if s, ok := status.FromError(err); ok && s.Code() != codes.Unknown {
			return err
		}
		e = From(err)
	}
	s := status.New(e.Code.grpc(), e.Message)
	info := &errdetails.ErrorInfo{Reason: string(e.Code), Domain: Domain, Metadata: map[string]string{
		"retryable": strconv.FormatBool(e.Retryable),
	}}
	if e.Provider != "" {
		info.Metadata["provider"] = e.Provider
		info.Metadata["provider_code"] = e.ProviderCode
	}
	if d, derr := s.WithDetails(info); derr == nil {
		s = d
	}
	if len(e.Fields) > 0 {
		bad := &errdetails.BadRequest{}
		for _, f := range e.Fields {
			bad.FieldViolations = append(bad.FieldViolations, &errdetails.BadRequest_FieldViolation{Field: f.Name, Description: f.Message})
		}
		if d, derr := s.WithDetails(bad); derr == nil {
			s = d
		}
	}
	if after := e.RetryAfter; after > 0 || e.Retryable {
		if after == 0 {
			after = retryUnknown
		}
		if d, derr := s.WithDetails(&errdetails.RetryInfo{RetryDelay: durationpb.New(after)}); derr == nil {
			s = d
		}
	}
	return s.Err()
}

// FromStatus turns an error of a gRPC client into a fault. A status without
// our details is classed by its code; nil is nil.
func FromStatus(err error) *Error {
	if err == nil {
		return nil
	}
	var e *Error
	if errors.As(err, &e) {
		return e
	}
	s, ok := status.FromError(err)
	if !ok {
		return From(err)
	}
	e = &Error{Message: s.Message(), cause: err}
	for _, d := range s.Details() {
		switch d := d.(type) {
		case *errdetails.ErrorInfo:
			e.Code = Code(d.GetReason())
			e.Retryable = d.GetMetadata()["retryable"] == "true"
			e.Provider = d.GetMetadata()["provider"]
			e.ProviderCode = d.GetMetadata()["provider_code"]
		case *errdetails.BadRequest:
			for _, v := range d.GetFieldViolations() {
				e.Fields = append(e.Fields, Field{Name: v.GetField(), Message: v.GetDescription()})
			}
		case *errdetails.RetryInfo:
			e.RetryAfter = d.GetRetryDelay().AsDuration()
		}
	}
	if e.Code != "" {
		return e
	}
	switch s.Code() {
	case codes.InvalidArgument, codes.OutOfRange:
		e.Code = InvalidRequest
	case codes.Unauthenticated:
		e.Code = Unauthenticated
	case codes.PermissionDenied:
		e.Code = PermissionDenied
	case codes.NotFound, codes.Unimplemented:
		e.Code = NotFound
	case codes.FailedPrecondition, codes.AlreadyExists, codes.Aborted:
		e.Code = Conflict
	case codes.ResourceExhausted:
		e.Code, e.Retryable = RateLimited, true
	case codes.Unavailable:
		// A message about sockets is no message for a caller.
		e.Code, e.Retryable, e.RetryAfter = Unavailable, true, time.Second
		e.Message = "a part of the service is unavailable; retry with the same Idempotency-Key"
	case codes.DeadlineExceeded, codes.Canceled:
		e.Code, e.Retryable = Timeout, true
		e.Message = "the request took too long; retry with the same Idempotency-Key"
	default:
		e.Code, e.Retryable = Internal, true
		e.Message = "an internal error occurred; the request can be retried with the same Idempotency-Key"
	}
	return e
}
