package ledger

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/types/known/timestamppb"

	"reelway.dev/pkg/fault"
	"reelway.dev/pkg/job"
	"reelway.dev/pkg/traffic"
	ledgerv1 "reelway.dev/proto/gen/reelway/ledger/v1"
)

type inspectionServer struct {
	ledgerv1.UnimplementedInspectionServiceServer
	s *Service
}

// inspected bounds the observations, postings and deliveries of an answer.
const inspected = 1000

const (
	inspectJobSQL          = "select " + columns + ", updated_at, swept_at, deleted_at, redacted_at, hold_state from job where id = $1"
	inspectObservationsSQL = `select id, attempt_id, source, fact, verdict, observed_at, created_at from observation
		where job_id = $1 order by created_at, observed_at, id limit $2`
	// A job's postings have keys that begin with its id: '0' follows '/'.
	inspectPostingsSQL = `select key, kind, source, destination, amount_micros, available_micros, held_micros, actor, reason, created_at from posting
		where key >= $1 || '/' and key < $1 || '0' order by created_at, id limit $2`
	inspectReviewSQL     = "select " + reviewColumns + " from review where job_id = $1"
	inspectDeliveriesSQL = "select d.*, coalesce(e.disabled_reason, ''), a.at, coalesce(a.status, 0), coalesce(a.error, ''), coalesce(a.duration_ms, 0) from (select " + deliveryColumns + `
			from webhook_delivery where job_id = $1 and job_id <> '' order by id limit $2) d
		left join webhook_endpoint e on e.id = d.endpoint_id
		left join lateral (select at, status, error, duration_ms from webhook_attempt where delivery_id = d.id order by number desc limit 1) a on true
		order by d.id`
	// Letters of a job have its id and a state as the event's, as the notifier names
	// them.
	inspectMailsSQL = `select split_part(event_id, '/', 2), state, begun_at, ended_at from mail
		where account_id = $2 and event_id >= $1 || '/' and event_id < $1 || '0' order by begun_at`
	inspectAddressesSQL = "select exists (select from job_mail where job_id = $1), coalesce((select host from webhook_callback where job_id = $1), '')"
	// A job's files lie together, as the archiver names them.
	inspectRemovalsSQL = `select key, created_at, nullif(asked_at, 'infinity') from artifact_deletion
		where key >= 'videos/' || $2 || '/' || $1 || '/' and key < 'videos/' || $2 || '/' || $1 || '0' order by key`
	attemptJobSQL = "select job_id from attempt where id = $1"
)

// InspectJob reads all that is stored of one job, in one snapshot. What its caller
// wrote is left out.
func (g *inspectionServer) InspectJob(ctx context.Context, r *ledgerv1.InspectJobRequest) (*ledgerv1.InspectJobResponse, error) {
	var resp *ledgerv1.InspectJobResponse
	var j *record
	err := pgx.BeginTxFunc(ctx, g.s.pool, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		id, err := jobOf(ctx, tx, r)
		if err != nil {
			return err
		}
		if resp, j, err = inspect(ctx, tx, id); err != nil {
			return err
		}
		sw, err := readSwitches(ctx, tx)
		if err != nil {
			return err
		}
		resp.Maintenance = sw.maintenance
		if j.State == job.Queued {
			resp.Waiting = &ledgerv1.Waiting{Pause: sw.pauses[paused{j.Provider, ""}]}
			if resp.GetWaiting().GetPause() == nil {
				resp.Waiting.Pause = sw.pauses[paused{j.Provider, j.Model}]
				resp.Waiting.PauseOfModel = resp.GetWaiting().GetPause() != nil
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if err := g.s.tellWaiting(ctx, j, resp.GetWaiting()); err != nil {
		return nil, err
	}
	if j.State == job.Running {
		if st, ok, err := g.s.bus.Status(ctx, j.ID); err == nil && ok && st.GetVersion() == j.Version {
			resp.Job.Progress, resp.Job.ProgressEstimated = st.GetProgress(), st.GetProgressEstimated()
		}
	}
	return resp, nil
}

// jobOf finds the job that an operator means.
func jobOf(ctx context.Context, tx pgx.Tx, r *ledgerv1.InspectJobRequest) (id string, err error) {
	var missing *fault.Error
	switch by := r.GetBy().(type) {
	case *ledgerv1.InspectJobRequest_AttemptId:
		missing = fault.New(fault.NotFound, "no attempt has the id %s: it is mistyped, of another installation, or was lost with a database that was set back", by.AttemptId)
		err = tx.QueryRow(ctx, attemptJobSQL, by.AttemptId).Scan(&id)
	case *ledgerv1.InspectJobRequest_Task:
		missing = fault.New(fault.NotFound, "no attempt at %s is known to have the task %q: it is another's, of another provider, or of a submit whose answer was lost and which has no task id", by.Task.GetProvider(), by.Task.GetProviderTaskId())
		var attempt string
		err = tx.QueryRow(ctx, findAttemptSQL, by.Task.GetProvider(), by.Task.GetProviderTaskId()).Scan(&id, &attempt)
	default:
		return r.GetJobId(), nil
	}
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return "", missing
	case err != nil:
		return "", fmt.Errorf("find job: %w", err)
	}
	return id, nil
}

// inspect reads a job and what belongs to it.
func inspect(ctx context.Context, tx pgx.Tx, id string) (*ledgerv1.InspectJobResponse, *record, error) {
	j := &record{}
	var updated, swept time.Time
	var deleted, redacted *time.Time
	var hold string
	err := tx.QueryRow(ctx, inspectJobSQL, id).Scan(append(j.fields(), &updated, &swept, &deleted, &redacted, &hold)...)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, nil, fault.New(fault.NotFound, "no job has the id %s: jobs are kept when their videos and texts are removed, so it is mistyped, of another installation, or was lost with a database that was set back", id)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("read job: %w", err)
	}
	resp := &ledgerv1.InspectJobResponse{}
	b := &pgx.Batch{}
	b.Queue(attemptsSQL, []string{j.ID}).Query(func(rows pgx.Rows) error { return collectAttempts(rows, map[string]*record{j.ID: j}) })
	b.Queue(inspectObservationsSQL, j.ID, inspected+1).Query(into(&resp.Observations, scanObservation))
	b.Queue(inspectPostingsSQL, j.ID, inspected+1).Query(into(&resp.Postings, scanPosting))
	b.Queue(inspectDeliveriesSQL, j.ID, inspected+1).Query(into(&resp.Deliveries, scanInspectedDelivery))
	b.Queue(inspectMailsSQL, j.ID, j.Account).Query(into(&resp.Mails, scanInspectedMail))
	b.Queue(inspectRemovalsSQL, j.ID, j.Account).Query(into(&resp.Removals, scanFileRemoval))
	b.Queue(inspectAddressesSQL, j.ID).QueryRow(func(row pgx.Row) error { return row.Scan(&resp.MailWaits, &resp.CallbackHost) })
	var reviews []*review
	b.Queue(inspectReviewSQL, j.ID).Query(into(&reviews, scanReview))
	if err := tx.SendBatch(ctx, b).Close(); err != nil {
		return nil, nil, fmt.Errorf("read what belongs to %s: %w", j.ID, err)
	}
	resp.Observations, resp.Postings, resp.Deliveries = atMost(resp, resp.Observations), atMost(resp, resp.Postings), atMost(resp, resp.Deliveries)
	for _, v := range reviews {
		resp.Review = v.proto()
	}
	if resp.Job, resp.Attempts, err = j.inspected(); err != nil {
		return nil, nil, fmt.Errorf("decode job %s: %w", j.ID, err)
	}
	resp.Job.UpdatedAt, resp.Job.SweptAt, resp.Job.HoldState = timestamppb.New(updated), timestamppb.New(swept), hold
	resp.Job.DeletedAt, resp.Job.RedactedAt = stamp(deleted), stamp(redacted)
	return resp, j, nil
}

// into collects the rows of a batch's query.
func into[T any](out *[]T, scan pgx.RowToFunc[T]) func(pgx.Rows) error {
	return func(rows pgx.Rows) (err error) {
		*out, err = pgx.CollectRows(rows, scan)
		return err
	}
}

// atMost cuts a list that is too long, and says so.
func atMost[T any](resp *ledgerv1.InspectJobResponse, all []T) []T {
	if len(all) <= inspected {
		return all
	}
	resp.Cut = true
	return all[:inspected]
}

// tellWaiting adds where a queued job stands, and what its model's circuit is:
// that is the dispatchers' to know, and left out when they cannot be asked.
func (s *Service) tellWaiting(ctx context.Context, j *record, w *ledgerv1.Waiting) (err error) {
	if w == nil {
		return nil
	}
	if w.Ahead, w.InQueue, err = s.position(ctx, j); err != nil {
		return err
	}
	if !w.GetInQueue() {
		w.Ahead = 0
	}
	values, err := s.bus.Shared().All(ctx)
	if err != nil {
		return nil //nolint:nilerr // what is stored is told nevertheless
	}
	w.Circuit = traffic.Closed
	for _, b := range traffic.Read(values).Breakers() {
		if b.Provider != j.Provider || b.Model != j.Model {
			continue
		}
		w.Circuit, w.CircuitReason = b.At(time.Now()), b.Reason
		if w.GetCircuit() == traffic.Open {
			w.CircuitOpenUntil = timestamppb.New(b.Until)
		}
	}
	return nil
}

func scanObservation(row pgx.CollectableRow) (*ledgerv1.RecordedObservation, error) {
	o := &ledgerv1.RecordedObservation{}
	var observed, recorded time.Time
	err := row.Scan(&o.Id, &o.AttemptId, &o.Source, &o.Fact, &o.Verdict, &observed, &recorded)
	o.ObservedAt, o.RecordedAt = timestamppb.New(observed), timestamppb.New(recorded)
	return o, err
}

func scanPosting(row pgx.CollectableRow) (*ledgerv1.Posting, error) {
	p := &ledgerv1.Posting{}
	var created time.Time
	err := row.Scan(&p.Key, &p.Kind, &p.Source, &p.Destination, &p.AmountMicros, &p.AvailableMicros, &p.HeldMicros, &p.Actor, &p.Reason, &created)
	p.CreatedAt = timestamppb.New(created)
	return p, err
}

// wider is a row of which more columns are read than its scanner knows of.
type wider struct {
	pgx.CollectableRow
	more []any
}

// Scan implements pgx.CollectableRow.
func (w wider) Scan(dest ...any) error { return w.CollectableRow.Scan(append(dest, w.more...)...) }

func scanInspectedDelivery(row pgx.CollectableRow) (_ *ledgerv1.InspectedDelivery, err error) {
	d := &ledgerv1.InspectedDelivery{}
	var at *time.Time
	d.Delivery, err = scanDelivery(wider{row, []any{&d.EndpointDisabledReason, &at, &d.LastStatus, &d.LastError, &d.LastDurationMs}})
	d.LastAttemptAt, d.LastError = stamp(at), bareURLs(d.GetLastError())
	return d, err
}

func scanInspectedMail(row pgx.CollectableRow) (*ledgerv1.InspectedMail, error) {
	m := &ledgerv1.InspectedMail{}
	var begun time.Time
	var ended *time.Time
	err := row.Scan(&m.About, &m.State, &begun, &ended)
	m.BegunAt, m.EndedAt = timestamppb.New(begun), stamp(ended)
	return m, err
}

func scanFileRemoval(row pgx.CollectableRow) (*ledgerv1.FileRemoval, error) {
	f := &ledgerv1.FileRemoval{}
	var created time.Time
	var asked *time.Time
	err := row.Scan(&f.Key, &created, &asked)
	f.CreatedAt, f.AskedAt = timestamppb.New(created), stamp(asked)
	return f, err
}

// traceID is the trace of a W3C traceparent; empty without one.
func traceID(traceparent string) string {
	parts := strings.Split(traceparent, "-")
	if len(parts) < 4 {
		return ""
	}
	return parts[1]
}

// costCurrency is that of an attempt's expected cost.
func (j *record) costCurrency(a *attempt) string {
	return cmp.Or(j.routeAt(a.Route).GetCostCurrency(), j.CostCurrency)
}
