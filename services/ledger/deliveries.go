package ledger

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/types/known/timestamppb"

	"reelway.dev/pkg/fault"
	"reelway.dev/pkg/safehttp"
	webhookv1 "reelway.dev/proto/gen/reelway/webhook/v1"
)

// deliveryStates are the words of the table.
var deliveryStates = map[webhookv1.DeliveryState]string{
	webhookv1.DeliveryState_DELIVERY_STATE_PENDING: "pending", webhookv1.DeliveryState_DELIVERY_STATE_DELIVERED: "delivered",
	webhookv1.DeliveryState_DELIVERY_STATE_FAILED: "failed",
}

const deliveryColumns = "id, account_id, endpoint_id, job_id, type, state, attempts, next_attempt_at, occurred_at, ended_at, url"

func noDelivery() error { return fault.New(fault.NotFound, "no such webhook delivery") }

func scanDelivery(row pgx.CollectableRow) (*webhookv1.Delivery, error) {
	d := &webhookv1.Delivery{}
	var state string
	var next, occurred time.Time
	var ended *time.Time
	if err := row.Scan(&d.Id, &d.AccountId, &d.EndpointId, &d.VideoId, &d.Type, &state, &d.Attempts, &next, &occurred, &ended, &d.CallbackUrl); err != nil {
		return nil, err
	}
	d.State, d.OccurredAt, d.EndedAt = keyOf(deliveryStates, state), timestamppb.New(occurred), stamp(ended)
	if ended == nil {
		d.NextAttemptAt = timestamppb.New(next)
	}
	if u := d.GetCallbackUrl(); u != "" && u != erasedURL {
		d.CallbackUrl = safehttp.Bare(d.GetCallbackUrl())
	}
	return d, nil
}

func oneDelivery(ctx context.Context, q querier, account, delivery string) (*webhookv1.Delivery, error) {
	rows, err := q.Query(ctx, "select "+deliveryColumns+" from webhook_delivery where id = $1 and account_id = $2", delivery, account)
	if err != nil {
		return nil, fmt.Errorf("read delivery: %w", err)
	}
	d, err := pgx.CollectExactlyOneRow(rows, scanDelivery)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, noDelivery()
	}
	if err != nil {
		return nil, fmt.Errorf("read delivery: %w", err)
	}
	return d, nil
}

// ListDeliveries pages through an account's deliveries, by the index of what it
// asks for.
func (g *webhookServer) ListDeliveries(ctx context.Context, r *webhookv1.ListDeliveriesRequest) (*webhookv1.ListDeliveriesResponse, error) {
	endpoint := r.GetEndpointId()
	if endpoint == defaultAlias {
		e, err := g.s.endpoint(ctx, g.s.pool, r.GetAccountId(), endpoint, false)
		if err != nil {
			return nil, err
		}
		endpoint = e.GetId()
	}
	where := ""
	if endpoint != "" {
		where = " and endpoint_id = $4"
	}
	if r.GetVideoId() != "" {
		where += " and job_id = $5 and job_id <> ''"
	}
	resp := &webhookv1.ListDeliveriesResponse{}
	var err error
	resp.Deliveries, resp.HasMore, err = page(ctx, g.s.pool, r.GetLimit(), scanDelivery, "select "+deliveryColumns+` from webhook_delivery
		where account_id = $1 and ($2 = '' or id < $2) and ($3 = '' or state = $3)`+where+` and $4::text is not null and $5::text is not null order by id desc`,
		r.GetAccountId(), r.GetAfter(), deliveryStates[r.GetState()], endpoint, r.GetVideoId())
	return resp, err
}

// loggedAttempts is how many of a delivery's attempts are shown.
const loggedAttempts = 50

// GetDelivery reads a delivery and its last attempts.
func (g *webhookServer) GetDelivery(ctx context.Context, r *webhookv1.GetDeliveryRequest) (*webhookv1.GetDeliveryResponse, error) {
	d, err := oneDelivery(ctx, g.s.pool, r.GetAccountId(), r.GetId())
	if err != nil {
		return nil, err
	}
	rows, err := g.s.pool.Query(ctx, `select number, at, duration_ms, url, request_headers, request_body, status, response_body, error
		from webhook_attempt where delivery_id = $1 order by number desc limit $2`, d.GetId(), loggedAttempts)
	if err != nil {
		return nil, fmt.Errorf("read attempts: %w", err)
	}
	resp := &webhookv1.GetDeliveryResponse{Delivery: d}
	resp.Attempts, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (*webhookv1.Attempt, error) {
		a := &webhookv1.Attempt{}
		var at time.Time
		var headers []byte
		if err := row.Scan(&a.Number, &at, &a.DurationMs, &a.Url, &headers, &a.RequestBody, &a.Status, &a.ResponseBody, &a.Error); err != nil {
			return nil, err
		}
		a.At = timestamppb.New(at)
		return a, json.Unmarshal(headers, &a.RequestHeaders)
	})
	if err != nil {
		return nil, fmt.Errorf("read attempts: %w", err)
	}
	slices.Reverse(resp.Attempts)
	return resp, nil
}

// TestEndpoint has a test sent.
func (g *webhookServer) TestEndpoint(ctx context.Context, r *webhookv1.TestEndpointRequest) (*webhookv1.TestEndpointResponse, error) {
	e, err := g.s.endpoint(ctx, g.s.pool, r.GetAccountId(), r.GetId(), false)
	if err != nil {
		return nil, err
	}
	if e.GetUrl() == "" {
		return nil, fault.Invalid(fault.Field{Name: "id", Message: "the default endpoint has no URL to send a test to"})
	}
	rows, err := g.s.pool.Query(ctx, `insert into webhook_delivery (id, endpoint_id, account_id, lane, job_id, version, job_state, type, traceparent, occurred_at)
		values (webhook_delivery_id(), $1, $2, $1, '', 0, '', $3, $4, now()) returning `+deliveryColumns, e.GetId(), e.GetAccountId(), testEvent, traceparent(ctx))
	if err != nil {
		return nil, fmt.Errorf("insert test: %w", err)
	}
	d, err := pgx.CollectExactlyOneRow(rows, scanDelivery)
	if err != nil {
		return nil, fmt.Errorf("insert test: %w", err)
	}
	return &webhookv1.TestEndpointResponse{Delivery: d}, nil
}

// replaySQL begins deliveries anew. One that is in a notifier's hands is left
// there.
const replaySQL = `update webhook_delivery d set state = 'pending', ended_at = null, failures = 0, next_attempt_at = now()
	from webhook_endpoint e where e.id = d.endpoint_id and e.deleted_at is null and d.claimed_until is null and d.url <> '` + erasedURL + `' and d.account_id = $1 and `

// ReplayDelivery has a delivery made again. Its id stays the same.
func (g *webhookServer) ReplayDelivery(ctx context.Context, r *webhookv1.ReplayDeliveryRequest) (*webhookv1.ReplayDeliveryResponse, error) {
	resp := &webhookv1.ReplayDeliveryResponse{}
	err := pgx.BeginFunc(ctx, g.s.pool, func(tx pgx.Tx) error {
		if err := settleHooks(ctx, tx); err != nil {
			return err
		}
		tag, err := tx.Exec(ctx, replaySQL+"d.id = $2", r.GetAccountId(), r.GetId())
		if err != nil {
			return fmt.Errorf("replay delivery: %w", err)
		}
		if resp.Delivery, err = oneDelivery(ctx, tx, r.GetAccountId(), r.GetId()); err != nil {
			return err
		}
		if tag.RowsAffected() == 0 && resp.GetDelivery().GetState() != webhookv1.DeliveryState_DELIVERY_STATE_PENDING {
			return fault.New(fault.Conflict, "the endpoint was deleted, or the callback_url erased: there is nowhere to send it")
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return resp, nil
}

// ReplayEndpoint has an endpoint's deliveries of a time made again, each job's in
// their order.
func (g *webhookServer) ReplayEndpoint(ctx context.Context, r *webhookv1.ReplayEndpointRequest) (*webhookv1.ReplayEndpointResponse, error) {
	to := time.Now().Add(time.Hour) // later than any replica's clock
	if r.GetTo() != nil {
		to = r.GetTo().AsTime()
	}
	if !r.GetFrom().AsTime().Before(to) {
		return nil, fault.Invalid(fault.Field{Name: "from", Message: "must be before to"})
	}
	resp := &webhookv1.ReplayEndpointResponse{}
	err := pgx.BeginFunc(ctx, g.s.pool, func(tx pgx.Tx) error {
		if err := settleHooks(ctx, tx); err != nil {
			return err
		}
		e, err := g.s.endpoint(ctx, tx, r.GetAccountId(), r.GetId(), false)
		if err != nil {
			return err
		}
		states := []string{"failed", "delivered"}
		if r.GetOnlyFailed() {
			states = states[:1]
		}
		tag, err := tx.Exec(ctx, replaySQL+"d.endpoint_id = $2 and d.occurred_at >= $3 and d.occurred_at < $4 and d.state = any($5) and d.job_id <> ''",
			r.GetAccountId(), e.GetId(), r.GetFrom().AsTime(), to, states)
		if err != nil {
			return fmt.Errorf("replay deliveries: %w", err)
		}
		resp.Deliveries = tag.RowsAffected()
		return nil
	})
	if err != nil {
		return nil, err
	}
	return resp, nil
}
