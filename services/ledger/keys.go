package ledger

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/types/known/timestamppb"

	"reelway.dev/pkg/fault"
	"reelway.dev/pkg/id"
	ledgerv1 "reelway.dev/proto/gen/reelway/ledger/v1"
)

// defaultOverlap is how long a rotated key works beside its successor.
const defaultOverlap = 24 * time.Hour

const keyColumns = `id, account_id, name, scopes, created_at, expires_at, revoked_at, last_used_at, coalesce(successor_id, '')`

func scanKey(row pgx.CollectableRow) (*ledgerv1.APIKey, error) {
	k := &ledgerv1.APIKey{}
	var created time.Time
	var expires, revoked, used *time.Time
	if err := row.Scan(&k.Id, &k.AccountId, &k.Name, &k.Scopes, &created, &expires, &revoked, &used, &k.SuccessorId); err != nil {
		return nil, err
	}
	k.CreatedAt, k.ExpiresAt, k.RevokedAt, k.LastUsedAt = timestamppb.New(created), stamp(expires), stamp(revoked), stamp(used)
	return k, nil
}

// oneKey reads and locks a key; when account is set, another account's is not
// found.
func oneKey(ctx context.Context, tx pgx.Tx, key, account string) (*ledgerv1.APIKey, error) {
	rows, err := tx.Query(ctx, "select "+keyColumns+" from api_key where id = $1 and ($2 = '' or account_id = $2) for no key update", key, account)
	if err != nil {
		return nil, fmt.Errorf("read api key: %w", err)
	}
	k, err := pgx.CollectExactlyOneRow(rows, scanKey)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, fault.New(fault.NotFound, "no such API key")
	}
	if err != nil {
		return nil, fmt.Errorf("read api key: %w", err)
	}
	return k, nil
}

// newSecret is 256 random bits, readable as a key of Reelway's.
func newSecret() string {
	secret := make([]byte, 32)
	_, _ = rand.Read(secret) // never fails (crypto/rand since Go 1.24)
	return "rw_" + base64.RawURLEncoding.EncodeToString(secret)
}

// insertKey makes k a key with this secret, unless the secret is one already.
func insertKey(ctx context.Context, tx pgx.Tx, k *ledgerv1.APIKey, secret string) (made bool, _ error) {
	hash := sha256.Sum256([]byte(secret))
	var expires *time.Time
	if k.GetExpiresAt() != nil {
		t := k.GetExpiresAt().AsTime()
		expires = &t
	}
	tag, err := tx.Exec(ctx, `insert into api_key (id, account_id, name, hash, scopes, expires_at) values ($1, $2, $3, $4, $5, $6)
		on conflict (hash) do nothing`, k.GetId(), k.GetAccountId(), k.GetName(), hash[:], k.GetScopes(), expires)
	if err != nil {
		return false, ofAccount(fmt.Errorf("insert api key: %w", err))
	}
	return tag.RowsAffected() == 1, nil
}

func keyMade(k *ledgerv1.APIKey) deed {
	details := map[string]any{"name": k.GetName(), "scopes": k.GetScopes()}
	if k.GetExpiresAt() != nil {
		details["expires_at"] = k.GetExpiresAt().AsTime()
	}
	return deed{action: "api_key.create", account: k.GetAccountId(), target: k.GetId(), details: details}
}

// CreateAPIKey makes a key and shows it once. A given secret that is this
// account's already, live and with these scopes, is a success.
func (g *accountServer) CreateAPIKey(ctx context.Context, r *ledgerv1.CreateAPIKeyRequest) (*ledgerv1.CreateAPIKeyResponse, error) {
	secret := r.GetApiKey()
	if secret == "" {
		secret = newSecret()
	}
	k := &ledgerv1.APIKey{Id: id.New(id.Key), AccountId: r.GetAccountId(), Name: r.GetName(), Scopes: r.GetScopes(), ExpiresAt: r.GetExpiresAt()}
	err := g.s.administer(ctx, func(ctx context.Context, tx pgx.Tx) (deed, error) {
		made, err := insertKey(ctx, tx, k, secret)
		if err != nil {
			return nothing, err
		}
		if made {
			return keyMade(k), nil
		}
		hash := sha256.Sum256([]byte(secret))
		var old struct {
			id, account string
			scopes      []string
			live        bool
		}
		if err := tx.QueryRow(ctx, `select id, account_id, scopes, revoked_at is null and (expires_at is null or expires_at > now())
			from api_key where hash = $1`, hash[:]).Scan(&old.id, &old.account, &old.scopes, &old.live); err != nil {
			return nothing, fmt.Errorf("read api key: %w", err)
		}
		slices.Sort(old.scopes)
		if old.account != k.GetAccountId() || !old.live || !slices.Equal(old.scopes, slices.Sorted(slices.Values(k.GetScopes()))) {
			return nothing, fault.New(fault.Conflict, "api_key: this secret is in use by another key, or was; leave api_key out to have one made")
		}
		k.Id = old.id
		return nothing, nil
	})
	if err != nil {
		return nil, err
	}
	return &ledgerv1.CreateAPIKeyResponse{KeyId: k.GetId(), ApiKey: secret}, nil
}

// ListAPIKeys pages through one account's keys, the latest first.
func (g *accountServer) ListAPIKeys(ctx context.Context, r *ledgerv1.ListAPIKeysRequest) (*ledgerv1.ListAPIKeysResponse, error) {
	resp := &ledgerv1.ListAPIKeysResponse{}
	var err error
	resp.ApiKeys, resp.HasMore, err = page(ctx, g.s.pool, r.GetLimit(), scanKey,
		"select "+keyColumns+" from api_key where account_id = $1 and ($2 = '' or id < $2) order by id desc", r.GetAccountId(), r.GetAfter())
	return resp, err
}

// RotateAPIKey makes a key's successor, shown once, and sets the key's end. The
// successor lives as long as the key was made to live.
func (g *accountServer) RotateAPIKey(ctx context.Context, r *ledgerv1.RotateAPIKeyRequest) (*ledgerv1.RotateAPIKeyResponse, error) {
	overlap := defaultOverlap
	if r.GetOverlap() != nil {
		overlap = r.GetOverlap().AsDuration()
	}
	secret := newSecret()
	resp := &ledgerv1.RotateAPIKeyResponse{KeyId: id.New(id.Key), ApiKey: secret}
	err := g.s.administer(ctx, func(ctx context.Context, tx pgx.Tx) (deed, error) {
		k, err := oneKey(ctx, tx, r.GetKeyId(), r.GetAccountId())
		if err != nil {
			return nothing, err
		}
		// The database's clock, as everywhere: replicas' clocks may differ.
		var now time.Time
		if err := tx.QueryRow(ctx, "select now()").Scan(&now); err != nil {
			return nothing, fmt.Errorf("read clock: %w", err)
		}
		next := &ledgerv1.APIKey{Id: resp.GetKeyId(), AccountId: k.GetAccountId(), Name: k.GetName(), Scopes: k.GetScopes()}
		ends := now.Add(overlap)
		if k.GetExpiresAt() != nil {
			life := k.GetExpiresAt().AsTime().Sub(k.GetCreatedAt().AsTime())
			next.ExpiresAt = timestamppb.New(now.Add(life))
			if k.GetExpiresAt().AsTime().Before(ends) {
				ends = k.GetExpiresAt().AsTime()
			}
		}
		switch {
		case k.GetSuccessorId() != "":
			return nothing, fault.New(fault.Conflict, "the key was rotated before; rotate its successor %s", k.GetSuccessorId())
		case k.GetRevokedAt() != nil, ends.Before(now):
			return nothing, fault.New(fault.Conflict, "the key has ended and cannot be rotated; create a new one")
		}
		if _, err := insertKey(ctx, tx, next, secret); err != nil {
			return nothing, err
		}
		if _, err := tx.Exec(ctx, `update api_key set successor_id = $2, expires_at = $3 where id = $1`, k.GetId(), next.GetId(), ends); err != nil {
			return nothing, fmt.Errorf("update api key: %w", err)
		}
		if err := inheritLimits(ctx, tx, k.GetId(), next.GetId()); err != nil {
			return nothing, err
		}
		k.SuccessorId, k.ExpiresAt = next.GetId(), timestamppb.New(ends)
		resp.Rotated = k
		return deed{action: "api_key.rotate", account: k.GetAccountId(), target: k.GetId(),
			details: map[string]any{"successor": next.GetId(), "expires_at": ends}}, nil
	})
	if err != nil {
		return nil, err
	}
	return resp, nil
}

// RevokeAPIKey ends a key at once, on every replica. A revoked key is a
// success.
func (g *accountServer) RevokeAPIKey(ctx context.Context, r *ledgerv1.RevokeAPIKeyRequest) (*ledgerv1.RevokeAPIKeyResponse, error) {
	resp := &ledgerv1.RevokeAPIKeyResponse{}
	err := g.s.administer(ctx, func(ctx context.Context, tx pgx.Tx) (_ deed, err error) {
		if resp.ApiKey, err = oneKey(ctx, tx, r.GetKeyId(), r.GetAccountId()); err != nil || resp.GetApiKey().GetRevokedAt() != nil {
			return nothing, err
		}
		var revoked time.Time
		if err := tx.QueryRow(ctx, "update api_key set revoked_at = now() where id = $1 returning revoked_at", r.GetKeyId()).Scan(&revoked); err != nil {
			return nothing, fmt.Errorf("update api key: %w", err)
		}
		resp.ApiKey.RevokedAt = timestamppb.New(revoked)
		return deed{action: "api_key.revoke", account: resp.GetApiKey().GetAccountId(), target: r.GetKeyId()}, nil
	})
	if err != nil {
		return nil, err
	}
	return resp, nil
}

// Authenticate finds the account of a key by its hash. That the key was used is
// noted behind the answer.
func (g *accountServer) Authenticate(ctx context.Context, r *ledgerv1.AuthenticateRequest) (*ledgerv1.AuthenticateResponse, error) {
	resp := &ledgerv1.AuthenticateResponse{}
	var note bool
	err := g.s.pool.QueryRow(ctx, `select k.id, k.account_id, k.scopes, a.tier, a.suspended_reason, coalesce(a.cap_resolution, ''), coalesce(l.per_minute, 0), a.queue_weight, a.top_priority,
			k.last_used_at is null or k.last_used_at < now() - interval '1 minute'
		from api_key k join account a on a.id = k.account_id left join key_limit l on l.api_key_id = k.id
		where k.hash = $1 and k.revoked_at is null and (k.expires_at is null or k.expires_at > now())`, r.GetKeyHash()).
		Scan(&resp.KeyId, &resp.AccountId, &resp.Scopes, &resp.Tier, &resp.SuspendedReason, &resp.CapResolution, &resp.RequestsPerMinute, &resp.QueueWeight, &resp.TopPriority, &note)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, fault.New(fault.Unauthenticated, "the API key is unknown, expired or revoked")
	}
	if err != nil {
		return nil, fmt.Errorf("read api key: %w", err)
	}
	if note {
		g.s.used.add(resp.GetKeyId())
	}
	return resp, nil
}
