package rpc

import (
	"context"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"reelway.dev/pkg/id"
)

// Bound is how long a call may take that came without a deadline of its own.
const Bound = 60 * time.Second

// RequestHeader names a call, in its request and in its answer.
const RequestHeader = "x-request-id"

type requestKey struct{}

// RequestID is the id of the call that ctx serves; empty outside of one.
func RequestID(ctx context.Context) string {
	rid, _ := ctx.Value(requestKey{}).(string)
	return rid
}

// identify gives a call the id that its caller chose, or a new one, and tells it
// in the answer's header.
func identify(ctx context.Context, tell func(metadata.MD) error) context.Context {
	rid := ""
	if v := metadata.ValueFromIncomingContext(ctx, RequestHeader); len(v) > 0 {
		rid = v[0]
	}
	if !id.Safe(rid) {
		rid = id.New(id.Request)
	}
	_ = tell(metadata.Pairs(RequestHeader, rid)) // fails only after the header has been sent
	return context.WithValue(ctx, requestKey{}, rid)
}

// bound ends a unary call without a deadline: its caller may have gone long ago.
func bound(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, Bound)
}

// identified is a stream whose context knows the call's id.
type identified struct {
	grpc.ServerStream
	ctx context.Context
}

// Context implements grpc.ServerStream.
func (s *identified) Context() context.Context { return s.ctx }
