package ledger

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/proto"

	"reelway.dev/pkg/fault"
	videov1 "reelway.dev/proto/gen/reelway/video/v1"
)

// source is a finished video that a job is to work on.
type source struct {
	account string
	stored  bool // its file was not removed
}

// A removal takes a stronger lock of the row first: one of the two comes second,
// and sees what the other did.
const lockSourcesSQL = `select id, account_id, artifact from job where id = any($1) and state = 'succeeded' and deleted_at is null
	order by id for key share`

// lockSources holds the videos that a group of jobs is to work on, so that the
// file of none is removed before the jobs are committed.
func (u *unit) lockSources(ctx context.Context, group []*openCall) (map[string]source, error) {
	var ids []string
	for _, c := range group {
		if s := c.req.GetSourceId(); s != "" {
			ids = append(ids, s)
		}
	}
	if len(ids) == 0 {
		return nil, nil
	}
	rows, err := u.tx.Query(ctx, lockSourcesSQL, ids)
	if err != nil {
		return nil, fmt.Errorf("lock sources: %w", err)
	}
	sources := map[string]source{}
	var id, account string
	var raw []byte
	if _, err := pgx.ForEachRow(rows, []any{&id, &account, &raw}, func() error {
		var a videov1.Artifact
		if err := proto.Unmarshal(raw, &a); err != nil {
			return fmt.Errorf("result of %s: %w", id, err)
		}
		sources[id] = source{account, a.GetKey() != ""}
		return nil
	}); err != nil {
		return nil, fmt.Errorf("lock sources: %w", err)
	}
	return sources, nil
}

// lacksSource is the refusal of a job whose source is gone; nil when it is there.
func lacksSource(account, id string, sources map[string]source) error {
	if id == "" {
		return nil
	}
	code, message := fault.NotFound, "there is no such video"
	switch s := sources[id]; {
	case s.account == account && s.stored:
		return nil
	case s.account == account:
		code, message = fault.Conflict, "was removed: its file is kept no more"
	}
	f := fault.New(code, "video: %s", message)
	f.Fields = []fault.Field{{Name: "video", Message: message}}
	return f
}

// jobSource says that a job works on another one's video.
type jobSource struct{ job, source string }

func (u *unit) writeSources(b *pgx.Batch) {
	if len(u.sources) == 0 {
		return
	}
	var t table
	column(&t, u.sources, func(x jobSource) string { return x.job })
	column(&t, u.sources, func(x jobSource) string { return x.source })
	b.Queue(`insert into job_source (job_id, source_id) select * from unnest($1::text[], $2::text[])`, t.columns...)
}

const (
	// The fence has each source looked up by itself, whatever the plan was made on.
	workedOnSQL = `exists (select from job_source x join job j on j.id = x.job_id where x.source_id = s.job_id and j.completed_at is null offset 0)`
	sourcesSQL  = `select s.job_id from unnest($1::text[]) as s (job_id) where ` + workedOnSQL
	// No job can begin to work on what was removed.
	releasedSQL = `update artifact_deletion set asked_at = now() where key in (
			select key from artifact_deletion s where asked_at = 'infinity' and not ` + workedOnSQL + ` limit $1 for update skip locked)
		returning key, job_id, attempt_id, account_id, provider`
	forgetSourcesSQL = "delete from job_source where source_id = any($1)"
)

// workedOn tells which of some locked, finished jobs have a video that a job is
// working on that is not over. One that was opened before the locks is seen.
func (u *unit) workedOn(ctx context.Context, ids []string) (map[string]bool, error) {
	rows, err := u.tx.Query(ctx, sourcesSQL, ids)
	if err != nil {
		return nil, fmt.Errorf("read sources: %w", err)
	}
	needed := map[string]bool{}
	var id string
	if _, err := pgx.ForEachRow(rows, []any{&id}, func() error { needed[id] = true; return nil }); err != nil {
		return nil, fmt.Errorf("read sources: %w", err)
	}
	return needed, nil
}

// releaseSources has the files deleted that were removed while a job worked on
// them, once no job does.
func (s *Service) releaseSources(ctx context.Context) error {
	return s.write(ctx, func(ctx context.Context, u *unit) error {
		rows, err := u.tx.Query(ctx, releasedSQL, sweepBatch)
		if err != nil {
			return fmt.Errorf("read held deletions: %w", err)
		}
		over, err := pgx.CollectRows(rows, scanRemoval)
		if err != nil {
			return fmt.Errorf("read held deletions: %w", err)
		}
		if len(over) == 0 {
			return nil
		}
		var ids []string
		for _, x := range over {
			ids = append(ids, x.job)
			if err := u.askRemoval(ctx, x, "delete-"+x.key); err != nil {
				return err
			}
		}
		if _, err := u.tx.Exec(ctx, forgetSourcesSQL, ids); err != nil {
			return fmt.Errorf("forget sources: %w", err)
		}
		return nil
	})
}
