package auth_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"

	"reelway.dev/pkg/auth"
	"reelway.dev/pkg/fault"
	ledgerv1 "reelway.dev/proto/gen/reelway/ledger/v1"
)

// ledger knows one key until it is revoked, and counts the questions.
type ledger struct {
	mu      sync.Mutex
	asked   int
	revoked bool
	during  func() // runs between the reading and the answer
}

const secret = "rw_key"

func (l *ledger) revoke() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.revoked = true
}

func (l *ledger) Authenticate(_ context.Context, r *ledgerv1.AuthenticateRequest, _ ...grpc.CallOption) (*ledgerv1.AuthenticateResponse, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.asked++
	hash := sha256.Sum256([]byte(secret))
	if l.revoked || string(r.GetKeyHash()) != string(hash[:]) {
		return nil, fault.ToStatus(fault.New(fault.Unauthenticated, "the API key is unknown, expired or revoked"))
	}
	if l.during != nil {
		l.during()
	}
	return &ledgerv1.AuthenticateResponse{AccountId: "acct_1", KeyId: "key_1", Scopes: []string{auth.VideosRead}, Tier: "staging", CapResolution: "1080p"}, nil
}

// A replica that hears no broadcast believes a key for 800 ms and no longer.
func TestAnAnswerIsRememberedForLessThanASecond(t *testing.T) {
	t.Parallel()
	l, now := &ledger{}, time.Unix(0, 0)
	a := auth.New(l, func() time.Time { return now })
	for range 3 {
		p, err := a.Authenticate(t.Context(), secret)
		if err != nil || p.AccountID != "acct_1" || p.KeyID != "key_1" || p.Tier != "staging" || p.CapResolution != "1080p" {
			t.Fatal(p, err)
		}
	}
	if l.asked != 1 {
		t.Errorf("asked %d times, want 1", l.asked)
	}
	l.revoke()
	now = now.Add(799 * time.Millisecond)
	if _, err := a.Authenticate(t.Context(), secret); err != nil {
		t.Error(err)
	}
	now = now.Add(time.Millisecond)
	if _, err := a.Authenticate(t.Context(), secret); fault.From(err).Code != fault.Unauthenticated {
		t.Errorf("800 ms later: %v", err)
	}
}

func TestForgetDropsOneAccount(t *testing.T) {
	t.Parallel()
	l := &ledger{}
	a := auth.New(l, func() time.Time { return time.Unix(0, 0) })
	if _, err := a.Authenticate(t.Context(), secret); err != nil {
		t.Fatal(err)
	}
	l.revoke()
	a.Forget("acct_other")
	if _, err := a.Authenticate(t.Context(), secret); err != nil {
		t.Errorf("another account's change: %v", err)
	}
	a.Forget("acct_1")
	if _, err := a.Authenticate(t.Context(), secret); err == nil {
		t.Error("still remembered")
	}
}

// The ledger has read the key, then it is revoked and broadcast, then the
// answer arrives: it must not be remembered past the broadcast.
func TestAnAnswerOvertakenByAChangeIsNotRemembered(t *testing.T) {
	t.Parallel()
	l := &ledger{}
	a := auth.New(l, func() time.Time { return time.Unix(0, 0) })
	l.during = func() { l.revoked = true; a.Forget("acct_1") }
	if _, err := a.Authenticate(t.Context(), secret); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Authenticate(t.Context(), secret); err == nil {
		t.Error("an answer older than the change was remembered")
	}
}

// held waits until what is held ends, and returns why.
func held(ctx context.Context, t *testing.T) error {
	t.Helper()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(time.Minute):
		t.Fatal("still held")
		return nil
	}
}

func TestHoldEndsWithTheKey(t *testing.T) {
	t.Parallel()
	for name, told := range map[string]bool{"told": true, "not told": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				l := &ledger{}
				a := auth.New(l, time.Now)
				p, err := a.Authenticate(t.Context(), secret)
				if err != nil {
					t.Fatal(err)
				}
				began := time.Now()
				ctx, free := a.Hold(t.Context(), p, secret)
				defer free()
				a.Forget("acct_1") // a change that leaves the key alive
				a.Forget("acct_2")
				synctest.Wait()
				if ctx.Err() != nil {
					t.Fatal(context.Cause(ctx))
				}
				l.revoke()
				if told {
					a.Forget("acct_1")
				}
				if err := held(ctx, t); fault.From(err).Code != fault.Unauthenticated {
					t.Error(err)
				}
				if took := time.Since(began); told && took != 0 || took > 10*time.Second {
					t.Errorf("it took %v", took)
				}
			})
		})
	}
}

func TestHoldIsFreed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) { // which fails when a goroutine stays
		a := auth.New(&ledger{}, time.Now)
		ctx, free := a.Hold(t.Context(), auth.Principal{AccountID: "acct_1"}, secret)
		free()
		if err := held(ctx, t); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
}

func TestPrincipal(t *testing.T) {
	t.Parallel()
	p := auth.Principal{Scopes: []string{auth.VideosRead}}
	if err := p.Require(auth.VideosRead); err != nil {
		t.Error(err)
	}
	if err := p.Require(auth.VideosWrite); fault.From(err).Message != "this API key lacks the scope videos:write" {
		t.Error(err)
	}
	if err := (auth.Principal{Scopes: []string{auth.Admin}}).Require(auth.BillingRead); err != nil {
		t.Errorf("admin includes every scope: %v", err)
	}
	if err := p.Active(); err != nil {
		t.Error(err)
	}
	p.SuspendedReason = "unpaid"
	if f := fault.From(p.Active()); f.Code != fault.PermissionDenied || f.Message != "the account is suspended: unpaid" || f.Retryable {
		t.Error(f)
	}
}
