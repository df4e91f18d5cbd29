package auth

import (
	"context"

	"google.golang.org/grpc/metadata"
)

// Operator is the actor of what no key asked for: the installation itself, or
// somebody at the ledger's internal door.
const Operator = "operator"

// Actor is who asks for an administrative action, as the audit log names them.
type Actor struct {
	KeyID     string // or Operator
	RequestID string // empty when there was no request
}

const (
	actorHeader   = "reelway-actor"
	requestHeader = "reelway-request-id"
)

// Outgoing returns ctx for calls of the ledger in the name of a. Whoever can
// reach the ledger's door is believed.
func (a Actor) Outgoing(ctx context.Context) context.Context {
	return metadata.AppendToOutgoingContext(ctx, actorHeader, a.KeyID, requestHeader, a.RequestID)
}

// IncomingActor is who asks for the call being served.
func IncomingActor(ctx context.Context) Actor {
	a := Actor{KeyID: Operator}
	if v := metadata.ValueFromIncomingContext(ctx, actorHeader); len(v) > 0 && v[0] != "" {
		a.KeyID = v[0]
	}
	if v := metadata.ValueFromIncomingContext(ctx, requestHeader); len(v) > 0 {
		a.RequestID = v[0]
	}
	return a
}
