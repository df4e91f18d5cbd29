// Package client is Reelway for Go programs, over gRPC: it submits videos and
// watches them to their end.
//
//	c, err := client.Open(client.Config{Addr: "reelway:9090", Key: key})
//	if err != nil {
//		return err
//	}
//	defer c.Close()
//	v, err := c.CreateAndWait(ctx, &videov1.CreateVideoRequest{
//		Video:          &videov1.VideoRequest{Model: "kling-v2-6", Prompt: "a lighthouse in fog"},
//		IdempotencyKey: order.ID,
//	}, nil)
//
// # Errors
//
// Whatever Reelway refuses is a *fault.Error, found by errors.As: its code, every
// wrong field, and whether and when a retry helps. Is asks for a code:
//
//	if client.Is(err, fault.InsufficientCredits) { … }
//
// Of a context that ended, errors.Is finds context.DeadlineExceeded or
// context.Canceled besides. RequestID names the call for whoever runs Reelway.
//
// # Retries
//
// What may be asked again is asked again, while the fault says that it helps: after
// the time that it names or, where it names none, after 0.2 s, doubling to 5 s, for
// Config.Patience at most and never past the context's deadline. Create may because
// of its idempotency key: the same key is the same job. What Webhooks, Tokens
// and Uploads return makes each call once.
package client
