package client

import (
	"context"
	"errors"
	"fmt"
	"path"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"reelway.dev/pkg/fault"
	videov1 "reelway.dev/proto/gen/reelway/video/v1"
)

// Is reports whether err is a fault of this code.
func Is(err error, code fault.Code) bool {
	var f *fault.Error
	return errors.As(err, &f) && f.Code == code
}

// Retryable reports whether the same call may succeed later. A call of this
// package that returns such an error has been tried for as long as it may.
func Retryable(err error) bool {
	var f *fault.Error
	return errors.As(err, &f) && f.Retryable
}

// RequestID names the call that failed, for a question to whoever runs Reelway;
// empty when nothing was answered.
func RequestID(err error) string {
	var e *callError
	if errors.As(err, &e) {
		return e.requestID
	}
	return ""
}

func retryAfter(err error) time.Duration {
	var f *fault.Error
	if errors.As(err, &f) {
		return f.RetryAfter
	}
	return 0
}

// EndedError says that a job ended without a video; nothing was charged for it. A
// *fault.Error is in it where there is a reason with a code.
type EndedError struct {
	Video *videov1.Video
}

// Error implements error.
func (e *EndedError) Error() string {
	s := fmt.Sprintf("%s ended without a video: %s", e.Video.GetId(), stateOf(e.Video))
	if m := e.Video.GetError().GetMessage(); m != "" {
		s += ": " + m
	}
	return s
}

// Unwrap returns the reason, if there is one.
func (e *EndedError) Unwrap() error {
	v := e.Video.GetError()
	if v.GetCode() == "" {
		return nil
	}
	return &fault.Error{Code: fault.Code(v.GetCode()), Message: v.GetMessage(), Retryable: v.GetRetryable(), Provider: v.GetProvider(), ProviderCode: v.GetProviderCode()}
}

// callError is a fault with the call that it is of.
type callError struct {
	method, requestID string
	fault             *fault.Error
}

// Error implements error. What is below the fault says the same in gRPC's words.
func (e *callError) Error() string {
	s := fmt.Sprintf("%s: %s: %s", e.method, e.fault.Code, e.fault.Message)
	if e.requestID != "" {
		s += " (" + e.requestID + ")"
	}
	return s
}

// Unwrap returns the fault.
func (e *callError) Unwrap() error { return e.fault }

func failed(method string, header metadata.MD, err error) error {
	e := &callError{method: path.Base(method), fault: fault.FromStatus(err)}
	if rid := header.Get("x-request-id"); len(rid) > 0 {
		e.requestID = rid[0]
	}
	return e
}

// typed makes faults of statuses.
func typed(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	var header metadata.MD
	if err := invoke(ctx, method, req, reply, cc, append(opts, grpc.Header(&header))...); err != nil {
		return failed(method, header, err)
	}
	return nil
}

// ended adds why ctx is over, if it is, to what the last try came to.
func ended(ctx context.Context, err error) error {
	if err == nil || ctx.Err() == nil {
		return err
	}
	return fmt.Errorf("%w: %w", context.Cause(ctx), err)
}
