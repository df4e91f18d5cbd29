// Package rpc builds gRPC servers and clients the one way Reelway uses them:
// traced, validated, bounded, with faults as statuses.
package rpc

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"runtime/debug"
	"time"

	"buf.build/go/protovalidate"
	"go.opentelemetry.io/contrib/instrumentation/google.golang.org/grpc/otelgrpc"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/reflection"
	"google.golang.org/protobuf/proto"

	"reelway.dev/pkg/fault"
	"reelway.dev/pkg/run"
)

// MaxMessage bounds a message in bytes, both ways.
const MaxMessage = 4 << 20

// NewServer returns a server whose handlers return any error: faults travel as
// statuses with details, anything else as an internal fault whose cause is
// logged here, once, and not shown. Each call has an id, which its answer's header
// tells, and a deadline: streams alone have none but their caller's.
func NewServer(opts ...grpc.ServerOption) *grpc.Server {
	return grpc.NewServer(append([]grpc.ServerOption{
		grpc.StatsHandler(otelgrpc.NewServerHandler()),
		grpc.MaxRecvMsgSize(MaxMessage),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 10 * time.Second, PermitWithoutStream: true}),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 30 * time.Second, Timeout: 10 * time.Second}),
		grpc.ChainUnaryInterceptor(unary),
		grpc.ChainStreamInterceptor(stream),
	}, opts...)...)
}

// Dial returns a client connection to a target, in plain text unless the options
// say otherwise. It retries nothing: an unavailable server is the caller's to judge.
func Dial(target string, opts ...grpc.DialOption) (*grpc.ClientConn, error) {
	conn, err := grpc.NewClient(target, append([]grpc.DialOption{
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithStatsHandler(otelgrpc.NewClientHandler()),
		grpc.WithDisableRetry(),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 20 * time.Second, Timeout: 10 * time.Second}),
	}, opts...)...)
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w", target, err)
	}
	return conn, nil
}

// Component serves srv on l, with health, of the whole and of each service, and
// reflection, until its stage ends:
// then health says NOT_SERVING and calls have up to 5 s to finish.
func Component(name string, srv *grpc.Server, l net.Listener) run.Component {
	hs := health.NewServer()
	for name := range srv.GetServiceInfo() {
		hs.SetServingStatus(name, healthpb.HealthCheckResponse_SERVING)
	}
	healthpb.RegisterHealthServer(srv, hs)
	reflection.Register(srv)
	return run.Component{Name: name, Run: func(ctx context.Context) error {
		errs := make(chan error, 1)
		go func() { errs <- srv.Serve(l) }()
		select {
		case err := <-errs:
			return err
		case <-ctx.Done():
		}
		hs.Shutdown()
		stop := time.AfterFunc(5*time.Second, srv.Stop)
		defer stop.Stop()
		srv.GracefulStop()
		return <-errs // nil after a graceful stop
	}}
}

func unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (resp any, err error) {
	ctx, cancel := bound(identify(ctx, func(md metadata.MD) error { return grpc.SetHeader(ctx, md) }))
	defer cancel()
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("panic: %v\n%s", r, debug.Stack())
		}
		err = finish(ctx, info.FullMethod, err)
	}()
	if err := validate(req); err != nil {
		return nil, err
	}
	return next(ctx, req)
}

func stream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) (err error) {
	ctx := identify(ss.Context(), ss.SetHeader)
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("panic: %v\n%s", r, debug.Stack())
		}
		err = finish(ctx, info.FullMethod, err)
	}()
	return next(srv, &validated{&identified{ss, ctx}})
}

type validated struct{ grpc.ServerStream }

func (v *validated) RecvMsg(m any) error {
	if err := v.ServerStream.RecvMsg(m); err != nil {
		return err
	}
	return validate(m)
}

func validate(req any) error {
	m, ok := req.(proto.Message)
	if !ok {
		return nil
	}
	err := protovalidate.Validate(m)
	if err == nil {
		return nil
	}
	var v *protovalidate.ValidationError
	if !errors.As(err, &v) {
		return fault.Wrap(err, fault.Internal, "the request could not be checked")
	}
	var bad []fault.Field
	for _, x := range v.Violations {
		bad = append(bad, fault.Field{Name: protovalidate.FieldPathString(x.Proto.GetField()), Message: x.Proto.GetMessage()})
	}
	return fault.Invalid(bad...)
}

func finish(ctx context.Context, method string, err error) error {
	if err == nil {
		return nil
	}
	if errors.Is(err, context.DeadlineExceeded) && errors.Is(ctx.Err(), context.DeadlineExceeded) {
		err = fault.Wrap(err, fault.Timeout, "the call took longer than its deadline, or than %s without one; retry with the same idempotency key", Bound)
	}
	s := fault.ToStatus(err)
	// A caller that went away is no failure of ours, nor is what we refuse for a
	// time, such as maintenance.
	own := fault.From(err)
	meant := own.Code == fault.Unavailable && own.RetryAfter > 0 && errors.Unwrap(own) == nil
	if f := fault.FromStatus(s); (f.Code == fault.Internal || f.Code == fault.Unavailable && !meant) && !errors.Is(ctx.Err(), context.Canceled) {
		slog.ErrorContext(ctx, "call failed", "method", method, "request_id", RequestID(ctx), "error", err.Error())
	}
	return s
}
