package ledger

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/types/known/timestamppb"

	"reelway.dev/pkg/fault"
	"reelway.dev/pkg/id"
	webhookv1 "reelway.dev/proto/gen/reelway/webhook/v1"
)

type webhookServer struct {
	webhookv1.UnimplementedWebhookServiceServer
	s *Service
}

const (
	// maxEndpoints bounds what one event of an account is multiplied by.
	maxEndpoints    = 50
	defaultAlias    = "default"
	endpointColumns = `e.id, e.account_id, e.url, e.description, e.events, e.header_names, e.disabled_reason, e.disabled_at, e.failing_since,
		case when e.overlap_until > now() then e.overlap_until end, e.created_at`
)

func noEndpoint() error { return fault.New(fault.NotFound, "no such webhook endpoint") }

func scanEndpoint(row pgx.CollectableRow) (*webhookv1.Endpoint, error) {
	e := &webhookv1.Endpoint{}
	var disabled, failing, overlap *time.Time
	var created time.Time
	if err := row.Scan(&e.Id, &e.AccountId, &e.Url, &e.Description, &e.Events, &e.HeaderNames, &e.DisabledReason, &disabled, &failing, &overlap, &created); err != nil {
		return nil, err
	}
	e.Enabled = e.GetDisabledReason() == ""
	e.DisabledAt, e.FailingSince, e.PreviousSecretExpiresAt, e.CreatedAt = stamp(disabled), stamp(failing), stamp(overlap), timestamppb.New(created)
	return e, nil
}

// endpoint reads one of an account's endpoints. lock keeps it until the end of the
// transaction.
func (s *Service) endpoint(ctx context.Context, q executor, account, endpoint string, lock bool) (*webhookv1.Endpoint, error) {
	if endpoint == defaultAlias {
		var err error
		if endpoint, err = s.defaultEndpoint(ctx, q, account); err != nil {
			return nil, err
		}
	}
	sql := "select " + endpointColumns + " from webhook_endpoint e where id = $1 and account_id = $2 and deleted_at is null"
	if lock {
		sql += " for update"
	}
	rows, err := q.Query(ctx, sql, endpoint, account)
	if err != nil {
		return nil, fmt.Errorf("read endpoint: %w", err)
	}
	e, err := pgx.CollectExactlyOneRow(rows, scanEndpoint)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, noEndpoint()
	}
	if err != nil {
		return nil, fmt.Errorf("read endpoint: %w", err)
	}
	return e, nil
}

// ours are the headers that a custom one must not override, or that belong to the
// connection.
var ours = map[string]bool{"Content-Type": true, "Content-Length": true, "Content-Encoding": true, "Host": true, "User-Agent": true, "Connection": true,
	"Keep-Alive": true, "Transfer-Encoding": true, "Te": true, "Trailer": true, "Upgrade": true, "Accept-Encoding": true, "Expect": true,
	"Proxy-Connection": true, "Proxy-Authorization": true, "Proxy-Authenticate": true, "Traceparent": true, "Tracestate": true}

const maxHeader = 1024

var headerName = regexp.MustCompile(`^[A-Za-z0-9_-]{1,128}$`)

// checkHeaders returns custom headers by their canonical names, or names what is
// wrong.
func checkHeaders(given map[string]string) (map[string]string, error) {
	out := map[string]string{}
	var bad []fault.Field
	for _, name := range slices.Sorted(maps.Keys(given)) {
		field := "headers." + name
		key, value := http.CanonicalHeaderKey(name), given[name]
		_, twice := out[key]
		switch {
		case !headerName.MatchString(name):
			bad = append(bad, fault.Field{Name: "headers", Message: fmt.Sprintf("%q is no name of a header: letters, digits, - and _, at most 128", name)})
		case ours[key] || strings.HasPrefix(key, "Webhook-"):
			bad = append(bad, fault.Field{Name: field, Message: "is set by Reelway"})
		case twice:
			bad = append(bad, fault.Field{Name: field, Message: "is there twice"})
		case len(value) > maxHeader || strings.ContainsFunc(value, func(r rune) bool { return r < ' ' || r > '~' }):
			bad = append(bad, fault.Field{Name: field, Message: "must have at most 1024 printable ASCII characters"})
		}
		out[key] = value
	}
	if len(bad) > 0 {
		return nil, fault.Invalid(bad...)
	}
	return out, nil
}

// sealHeaders are custom headers for the database; nil without any.
func (s *Service) sealHeaders(headers map[string]string, endpoint string) (sealed []byte, names []string, _ error) {
	names = []string{} // null would not be stored
	if len(headers) == 0 {
		return nil, names, nil
	}
	raw, err := json.Marshal(headers)
	if err != nil {
		return nil, nil, fmt.Errorf("marshal headers: %w", err)
	}
	return s.seal.Seal(raw, endpoint), slices.Sorted(maps.Keys(headers)), nil
}

// CreateEndpoint makes an endpoint and shows its secret once.
func (g *webhookServer) CreateEndpoint(ctx context.Context, r *webhookv1.CreateEndpointRequest) (*webhookv1.CreateEndpointResponse, error) {
	headers, err := checkHeaders(r.GetHeaders())
	if err != nil {
		return nil, err
	}
	fresh := id.New(id.Endpoint)
	sealed, names, err := g.s.sealHeaders(headers, fresh)
	if err != nil {
		return nil, err
	}
	events := r.GetEvents()
	if len(events) == 0 {
		events = finalEvents
	}
	resp := &webhookv1.CreateEndpointResponse{Secret: newHookSecret()}
	err = g.s.administer(ctx, func(ctx context.Context, tx pgx.Tx) (deed, error) {
		var n int
		if err := tx.QueryRow(ctx, "select count(*) from webhook_endpoint where account_id = $1 and deleted_at is null", r.GetAccountId()).Scan(&n); err != nil {
			return nothing, fmt.Errorf("count endpoints: %w", err)
		}
		if n >= maxEndpoints {
			return nothing, fault.New(fault.Conflict, "the account has %d webhook endpoints, which is the most; delete one first", n)
		}
		if _, err := tx.Exec(ctx, `insert into webhook_endpoint (id, account_id, url, description, events, secret, headers, header_names)
			values ($1, $2, $3, $4, $5, $6, $7, $8)`, fresh, r.GetAccountId(), r.GetUrl(), r.GetDescription(), events,
			g.s.seal.Seal([]byte(resp.GetSecret()), fresh), sealed, names); err != nil {
			return nothing, ofAccount(fmt.Errorf("insert endpoint: %w", err))
		}
		var err error
		if resp.Endpoint, err = g.s.endpoint(ctx, tx, r.GetAccountId(), fresh, false); err != nil {
			return nothing, err
		}
		return deed{action: "webhook_endpoint.create", account: r.GetAccountId(), target: fresh, details: map[string]any{"host": hostOf(r.GetUrl()), "events": events}}, nil
	})
	if err != nil {
		return nil, err
	}
	return resp, nil
}

// ListEndpoints pages through an account's endpoints.
func (g *webhookServer) ListEndpoints(ctx context.Context, r *webhookv1.ListEndpointsRequest) (*webhookv1.ListEndpointsResponse, error) {
	resp := &webhookv1.ListEndpointsResponse{}
	var err error
	resp.Endpoints, resp.HasMore, err = page(ctx, g.s.pool, r.GetLimit(), scanEndpoint, "select "+endpointColumns+
		" from webhook_endpoint e where account_id = $1 and ($2 = '' or id < $2) and deleted_at is null order by id desc", r.GetAccountId(), r.GetAfter())
	if err != nil {
		return nil, err
	}
	return resp, g.s.countPending(ctx, resp.GetEndpoints()...)
}

// countedPending bounds how many waiting deliveries of an endpoint are counted.
const countedPending = 10_000

func (s *Service) countPending(ctx context.Context, es ...*webhookv1.Endpoint) error {
	byID := map[string]*webhookv1.Endpoint{}
	for _, e := range es {
		byID[e.GetId()] = e
	}
	// The lanes of a default endpoint follow its id.
	rows, err := s.pool.Query(ctx, `select x.id, (select count(*) from (select from webhook_delivery d
			where d.state = 'pending' and d.lane >= x.id and d.lane < x.id || '0' limit $2) p)
		from unnest($1::text[]) as x (id)`, slices.Collect(maps.Keys(byID)), countedPending)
	if err != nil {
		return fmt.Errorf("count deliveries: %w", err)
	}
	var endpoint string
	var n int64
	if _, err := pgx.ForEachRow(rows, []any{&endpoint, &n}, func() error { byID[endpoint].Pending = n; return nil }); err != nil {
		return fmt.Errorf("count deliveries: %w", err)
	}
	return nil
}

// GetEndpoint reads one endpoint.
func (g *webhookServer) GetEndpoint(ctx context.Context, r *webhookv1.GetEndpointRequest) (*webhookv1.GetEndpointResponse, error) {
	e, err := g.s.endpoint(ctx, g.s.pool, r.GetAccountId(), r.GetId(), false)
	if err != nil {
		return nil, err
	}
	return &webhookv1.GetEndpointResponse{Endpoint: e}, g.s.countPending(ctx, e)
}

// change runs one change of an endpoint and reads it again; apply returns what the
// audit log says, nothing for no change.
func (g *webhookServer) change(ctx context.Context, account, endpoint string, apply func(ctx context.Context, tx pgx.Tx, e *webhookv1.Endpoint) (deed, error)) (*webhookv1.Endpoint, error) {
	var changed *webhookv1.Endpoint
	err := g.s.administer(ctx, func(ctx context.Context, tx pgx.Tx) (deed, error) {
		// Before any row: whoever reports takes it first, too.
		if err := settleHooks(ctx, tx); err != nil {
			return nothing, err
		}
		e, err := g.s.endpoint(ctx, tx, account, endpoint, true)
		if err != nil {
			return nothing, err
		}
		d, err := apply(ctx, tx, e)
		if err != nil {
			return nothing, err
		}
		d.account, d.target = account, e.GetId()
		changed, err = g.s.endpoint(ctx, tx, account, e.GetId(), false)
		if f := fault.From(err); f != nil && f.Code == fault.NotFound {
			changed, err = e, nil // deleted
		}
		return d, err
	})
	if err != nil {
		return nil, err
	}
	return changed, g.s.countPending(ctx, changed)
}

// UpdateEndpoint changes what is given.
func (g *webhookServer) UpdateEndpoint(ctx context.Context, r *webhookv1.UpdateEndpointRequest) (*webhookv1.UpdateEndpointResponse, error) {
	headers, err := checkHeaders(r.GetHeaders())
	if err != nil {
		return nil, err
	}
	e, err := g.change(ctx, r.GetAccountId(), r.GetId(), func(ctx context.Context, tx pgx.Tx, e *webhookv1.Endpoint) (deed, error) {
		if e.GetUrl() == "" && (r.Url != nil || len(r.GetEvents()) > 0) {
			return nothing, fault.Invalid(fault.Field{Name: "url", Message: "the default endpoint has none, and no events of its own: it signs what goes to a video's callback_url"})
		}
		details := map[string]any{}
		set := func(field, sql string, value any, shown any) error {
			if shown != nil {
				details[field] = shown
			}
			if _, err := tx.Exec(ctx, "update webhook_endpoint set "+sql+" where id = $1", e.GetId(), value); err != nil {
				return fmt.Errorf("update endpoint: %w", err)
			}
			return nil
		}
		var errs []error
		if r.Url != nil && r.GetUrl() != e.GetUrl() {
			errs = append(errs, set("host", "url = $2", r.GetUrl(), hostOf(r.GetUrl())))
		}
		if r.Description != nil {
			errs = append(errs, set("description", "description = $2", r.GetDescription(), r.GetDescription()))
		}
		if len(r.GetEvents()) > 0 {
			errs = append(errs, set("events", "events = $2", r.GetEvents(), r.GetEvents()))
		}
		if len(headers) > 0 || r.GetRemoveHeaders() {
			sealed, names, err := g.s.sealHeaders(headers, e.GetId())
			if err != nil {
				return nothing, err
			}
			errs = append(errs, set("headers", "headers = $2", sealed, names), set("headers", "header_names = $2", names, names))
		}
		switch {
		case r.Enabled == nil || r.GetEnabled() == e.GetEnabled():
		case r.GetEnabled():
			// What waited is due again, and the days of failure count anew.
			errs = append(errs, set("enabled", "disabled_reason = '', disabled_at = null, failing_since = case when $2 then null else failing_since end", true, true),
				g.s.wakeLane(ctx, tx, e.GetId()))
		default:
			errs = append(errs, set("enabled", "disabled_reason = 'owner', disabled_at = case when $2 then disabled_at else now() end", false, false))
		}
		if err := errors.Join(errs...); err != nil || len(details) == 0 {
			return nothing, err
		}
		return deed{action: "webhook_endpoint.update", details: details}, nil
	})
	return &webhookv1.UpdateEndpointResponse{Endpoint: e}, err
}

// wakeLane has what waits of an endpoint be due now, in its order, from the
// beginning of the schedule.
func (s *Service) wakeLane(ctx context.Context, tx pgx.Tx, endpoint string) error {
	if _, err := tx.Exec(ctx, `update webhook_delivery set next_attempt_at = least(next_attempt_at, now()), failures = 0
		where state = 'pending' and lane >= $1 and lane < $1 || '0'`, endpoint); err != nil {
		return fmt.Errorf("wake deliveries: %w", err)
	}
	return nil
}

// DeleteEndpoint ends an endpoint. What waits for it is given up; its log stays.
func (g *webhookServer) DeleteEndpoint(ctx context.Context, r *webhookv1.DeleteEndpointRequest) (*webhookv1.DeleteEndpointResponse, error) {
	e, err := g.change(ctx, r.GetAccountId(), r.GetId(), func(ctx context.Context, tx pgx.Tx, e *webhookv1.Endpoint) (deed, error) {
		if e.GetUrl() == "" {
			return nothing, fault.New(fault.Conflict, "the default endpoint signs every callback_url and cannot be deleted; disable it, or rotate its secret")
		}
		b := &pgx.Batch{}
		b.Queue("update webhook_endpoint set deleted_at = now(), secret = '', secret_before = null, overlap_until = null, headers = null where id = $1", e.GetId())
		b.Queue("update webhook_delivery set state = 'failed', ended_at = now(), claimed_until = null where state = 'pending' and lane = $1", e.GetId())
		if err := tx.SendBatch(ctx, b).Close(); err != nil {
			return nothing, fmt.Errorf("delete endpoint: %w", err)
		}
		return deed{action: "webhook_endpoint.delete"}, nil
	})
	return &webhookv1.DeleteEndpointResponse{Endpoint: e}, err
}

// RotateSecret gives an endpoint a new secret, shown once.
func (g *webhookServer) RotateSecret(ctx context.Context, r *webhookv1.RotateSecretRequest) (*webhookv1.RotateSecretResponse, error) {
	overlap := defaultOverlap
	if r.GetOverlap() != nil {
		overlap = r.GetOverlap().AsDuration()
	}
	secret := newHookSecret()
	e, err := g.change(ctx, r.GetAccountId(), r.GetId(), func(ctx context.Context, tx pgx.Tx, e *webhookv1.Endpoint) (deed, error) {
		sql := "update webhook_endpoint set secret_before = secret, overlap_until = now() + $3::interval, secret = $2 where id = $1"
		if overlap == 0 {
			sql = "update webhook_endpoint set secret_before = null, overlap_until = null, secret = $2 where id = $1 and $3::interval is not null"
		}
		if _, err := tx.Exec(ctx, sql, e.GetId(), g.s.seal.Seal([]byte(secret), e.GetId()), overlap); err != nil {
			return nothing, fmt.Errorf("rotate secret: %w", err)
		}
		return deed{action: "webhook_endpoint.rotate", details: map[string]any{"overlap_seconds": int64(overlap.Seconds())}}, nil
	})
	if err != nil {
		return nil, err
	}
	return &webhookv1.RotateSecretResponse{Endpoint: e, Secret: secret}, nil
}
