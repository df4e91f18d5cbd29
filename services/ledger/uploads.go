package ledger

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/types/known/timestamppb"

	"reelway.dev/pkg/fault"
	"reelway.dev/pkg/postgres"
	ledgerv1 "reelway.dev/proto/gen/reelway/ledger/v1"
	videov1 "reelway.dev/proto/gen/reelway/video/v1"
)

const (
	// pendingLife is how long a file that was announced is waited for.
	pendingLife = time.Hour
	// openGrace is for what a stranger began to send in the last moment.
	openGrace = 15 * time.Minute
	// uploadKeys is where the files of uploads lie in the bucket.
	uploadKeys = "uploads/"
	// uploadProvider stands where a deletion names a provider.
	uploadProvider = "uploads"
)

type uploadServer struct {
	ledgerv1.UnimplementedUploadServiceServer
	s *Service
}

const (
	uploadColumns = `id, state, content_type, size_bytes, coalesce(encode(sha256, 'hex'), ''), width, height, created_at, expires_at`
	// One that was dropped counts until its file is gone.
	unusedUploadsSQL = `select count(*) from upload u where account_id = $1 and not exists (select from job_upload x where x.upload_id = u.id)`
	beginUploadSQL   = `insert into upload (id, account_id, key, content_type, size_bytes, expires_at, open_until)
		values ($1, $2, $3, $4, $5, now() + $6, now() + $7) on conflict (id) do nothing`
	finishUploadSQL = `update upload set state = 'ready', size_bytes = $3, sha256 = $4, width = $5, height = $6, expires_at = now() + $7
		where id = $2 and account_id = $1 and dropped_at is null and expires_at > now() and state = 'pending'`
	findUploadSQL = `select ` + uploadColumns + `, key from upload where id = $2 and account_id = $1 and dropped_at is null and expires_at > now()`
	dropUploadSQL = `update upload set dropped_at = now() where id = $2 and account_id = $1 and dropped_at is null`
)

func noUpload() error { return fault.New(fault.NotFound, "no such upload") }

func scanUpload(r pgx.CollectableRow) (*videov1.Upload, error) { return readUpload(r) }

func readUpload(r pgx.CollectableRow, also ...any) (*videov1.Upload, error) {
	u := &videov1.Upload{}
	var state string
	var created, expires time.Time
	err := r.Scan(append([]any{&u.Id, &state, &u.ContentType, &u.SizeBytes, &u.Sha256, &u.Width, &u.Height, &created, &expires}, also...)...)
	u.State = videov1.UploadState_UPLOAD_STATE_PENDING
	if state == "ready" {
		u.State = videov1.UploadState_UPLOAD_STATE_READY
	}
	u.CreatedAt, u.ExpiresAt = timestamppb.New(created), timestamppb.New(expires)
	return u, err
}

// findUpload reads one that its account still has.
func findUpload(ctx context.Context, q querier, account, id string) (u *videov1.Upload, key string, err error) {
	rows, err := q.Query(ctx, findUploadSQL, account, id)
	if err != nil {
		return nil, "", fmt.Errorf("read upload: %w", err)
	}
	u, err = pgx.CollectExactlyOneRow(rows, func(r pgx.CollectableRow) (*videov1.Upload, error) { return readUpload(r, &key) })
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, "", noUpload()
	}
	if err != nil {
		return nil, "", fmt.Errorf("read upload: %w", err)
	}
	return u, key, nil
}

// BeginUpload announces a file, if the account may have one more.
func (g *uploadServer) BeginUpload(ctx context.Context, r *ledgerv1.BeginUploadRequest) (*ledgerv1.BeginUploadResponse, error) {
	ctx, cancel := detached(ctx)
	defer cancel()
	resp := &ledgerv1.BeginUploadResponse{}
	err := postgres.InTx(ctx, g.s.pool, func(tx pgx.Tx) error {
		// One at a time of each account: what is counted must stay so.
		if _, err := tx.Exec(ctx, "select pg_advisory_xact_lock(hashtextextended('upload/' || $1, 0))", r.GetAccountId()); err != nil {
			return fmt.Errorf("lock uploads: %w", err)
		}
		var unused int64
		if err := tx.QueryRow(ctx, unusedUploadsSQL, r.GetAccountId()).Scan(&unused); err != nil {
			return fmt.Errorf("count uploads: %w", err)
		}
		open := r.GetOpenFor().AsDuration()
		if open > 0 {
			open += openGrace
		}
		if unused >= int64(g.s.cfg.UploadsUnused) {
			e := fault.New(fault.RateLimited, "the account has %d uploads that no video was made from, as many as it may have; use or delete some, or wait until they expire", unused)
			e.RetryAfter = time.Minute
			return e
		}
		if _, err := tx.Exec(ctx, beginUploadSQL, r.GetId(), r.GetAccountId(), r.GetKey(), r.GetContentType(), r.GetSizeBytes(), max(pendingLife, open), open); err != nil {
			return ofAccount(fmt.Errorf("begin upload: %w", err))
		}
		var err error
		resp.Upload, _, err = findUpload(ctx, tx, r.GetAccountId(), r.GetId())
		return err
	})
	if err != nil {
		return nil, err
	}
	return resp, nil
}

// FinishUpload makes an upload usable. What has been said of one that is ready
// already stays.
func (g *uploadServer) FinishUpload(ctx context.Context, r *ledgerv1.FinishUploadRequest) (*ledgerv1.FinishUploadResponse, error) {
	ctx, cancel := detached(ctx)
	defer cancel()
	if _, err := g.s.pool.Exec(ctx, finishUploadSQL, r.GetAccountId(), r.GetId(), r.GetSizeBytes(), r.GetSha256(), r.GetWidth(), r.GetHeight(), g.s.cfg.UploadLife); err != nil {
		return nil, fmt.Errorf("finish upload: %w", err)
	}
	u, _, err := findUpload(ctx, g.s.pool, r.GetAccountId(), r.GetId())
	if err != nil {
		return nil, err
	}
	return &ledgerv1.FinishUploadResponse{Upload: u}, nil
}

// FindUpload reads one; another account's is not found.
func (g *uploadServer) FindUpload(ctx context.Context, r *ledgerv1.FindUploadRequest) (*ledgerv1.FindUploadResponse, error) {
	u, key, err := findUpload(ctx, g.s.pool, r.GetAccountId(), r.GetId())
	if err != nil {
		return nil, err
	}
	return &ledgerv1.FindUploadResponse{Upload: u, Key: key}, nil
}

// ListUploads pages through those that an account still has.
func (g *uploadServer) ListUploads(ctx context.Context, r *ledgerv1.ListUploadsRequest) (*ledgerv1.ListUploadsResponse, error) {
	us, more, err := page(ctx, g.s.pool, r.GetLimit(), scanUpload, `select `+uploadColumns+` from upload
		where account_id = $1 and dropped_at is null and expires_at > now() and ($2 = '' or id < $2) order by id desc`, r.GetAccountId(), r.GetAfter())
	if err != nil {
		return nil, err
	}
	return &ledgerv1.ListUploadsResponse{Uploads: us, HasMore: more}, nil
}

// DropUpload takes an upload from its account; the sweep has the file deleted.
func (g *uploadServer) DropUpload(ctx context.Context, r *ledgerv1.DropUploadRequest) (*ledgerv1.DropUploadResponse, error) {
	ctx, cancel := detached(ctx)
	defer cancel()
	tag, err := g.s.pool.Exec(ctx, dropUploadSQL, r.GetAccountId(), r.GetId())
	if err != nil {
		return nil, fmt.Errorf("drop upload: %w", err)
	}
	if tag.RowsAffected() == 0 {
		return nil, noUpload()
	}
	return &ledgerv1.DropUploadResponse{}, nil
}

// files are those that a group of jobs refers to and that can be used.
type files struct {
	uploads map[string]string // their accounts, by id
	sources map[string]source
}

// lockFiles holds the files that a group of jobs refers to, so that none is
// deleted before the jobs are committed.
func (u *unit) lockFiles(ctx context.Context, group []*openCall) (f files, err error) {
	if f.uploads, err = u.lockUploads(ctx, group); err != nil {
		return f, err
	}
	f.sources, err = u.lockSources(ctx, group)
	return f, err
}

func (u *unit) lockUploads(ctx context.Context, group []*openCall) (map[string]string, error) {
	var ids []string
	for _, c := range group {
		ids = append(ids, c.req.GetUploadIds()...)
	}
	if len(ids) == 0 {
		return nil, nil
	}
	rows, err := u.tx.Query(ctx, `select id, account_id from upload where id = any($1) and state = 'ready' and dropped_at is null and expires_at > now()
		order by id for key share`, ids)
	if err != nil {
		return nil, fmt.Errorf("lock uploads: %w", err)
	}
	owners := map[string]string{}
	var id, account string
	if _, err := pgx.ForEachRow(rows, []any{&id, &account}, func() error { owners[id] = account; return nil }); err != nil {
		return nil, fmt.Errorf("lock uploads: %w", err)
	}
	return owners, nil
}

// lacks is the refusal of a job of which a file is gone; nil when all are there.
func (f files) lacks(r *ledgerv1.OpenJobRequest) error {
	for _, id := range r.GetUploadIds() {
		if f.uploads[id] != r.GetAccountId() {
			return fault.Invalid(fault.Field{Name: "file_id", Message: "there is no upload " + id + " any more"})
		}
	}
	return lacksSource(r.GetAccountId(), r.GetSourceId(), f.sources)
}

// jobUpload says that a job needs an upload.
type jobUpload struct{ job, upload string }

// need has the files that a job refers to kept while it lives.
func (u *unit) need(job string, r *ledgerv1.OpenJobRequest) {
	for _, id := range r.GetUploadIds() {
		u.needed = append(u.needed, jobUpload{job, id})
	}
	if id := r.GetSourceId(); id != "" {
		u.sources = append(u.sources, jobSource{job, id})
	}
}

func (u *unit) writeNeeded(b *pgx.Batch) {
	if len(u.needed) == 0 {
		return
	}
	var t table
	column(&t, u.needed, func(x jobUpload) string { return x.job })
	column(&t, u.needed, func(x jobUpload) string { return x.upload })
	b.Queue(`insert into job_upload (job_id, upload_id) select * from unnest($1::text[], $2::text[]) on conflict do nothing`, t.columns...)
}

const (
	neededSQL      = `exists (select from job_upload x join job j on j.id = x.job_id where x.upload_id = u.id and j.completed_at is null)`
	overUploadsSQL = `select id from upload u where coalesce(dropped_at, expires_at) < now() and open_until < now() and not ` + neededSQL + `
		order by coalesce(dropped_at, expires_at) limit $1 for update skip locked`
	// A job that was opened before the locks is seen by a statement after them.
	deleteUploadsSQL = `delete from upload u where id = any($1) and not ` + neededSQL + ` returning id, key, account_id`
)

// deleteUploads has the files deleted of uploads that are over and that no job
// needs.
func (s *Service) deleteUploads(ctx context.Context) error {
	return s.write(ctx, func(ctx context.Context, u *unit) error {
		rows, err := u.tx.Query(ctx, overUploadsSQL, sweepBatch)
		if err != nil {
			return fmt.Errorf("read uploads: %w", err)
		}
		ids, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			return fmt.Errorf("read uploads: %w", err)
		}
		if len(ids) == 0 {
			return nil
		}
		if rows, err = u.tx.Query(ctx, deleteUploadsSQL, ids); err != nil {
			return fmt.Errorf("delete uploads: %w", err)
		}
		gone, err := pgx.CollectRows(rows, func(r pgx.CollectableRow) (removal, error) {
			x := removal{provider: uploadProvider}
			err := r.Scan(&x.job, &x.key, &x.account)
			x.attempt = x.job
			return x, err
		})
		if err != nil {
			return fmt.Errorf("delete uploads: %w", err)
		}
		for _, x := range gone {
			u.removed = append(u.removed, x)
			if err := u.askRemoval(ctx, x, "delete-"+x.key); err != nil {
				return err
			}
		}
		return nil
	})
}

// dropUploadsOf takes from their account the uploads that jobs were made from.
func dropUploadsOf(ctx context.Context, tx pgx.Tx, jobs []string) error {
	_, err := tx.Exec(ctx, `update upload set dropped_at = now() where dropped_at is null and id in (select upload_id from job_upload where job_id = any($1))`, jobs)
	if err != nil {
		return fmt.Errorf("drop uploads: %w", err)
	}
	return nil
}
