package ledger

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/proto"

	"reelway.dev/pkg/bus"
	eventv1 "reelway.dev/proto/gen/reelway/event/v1"
	videov1 "reelway.dev/proto/gen/reelway/video/v1"
)

// removal is a file that shall leave the bucket. Its row is committed with the
// reason for it and stays until the archiver has said that the file is gone, so
// that no crash and no lost message leaves a file behind.
type removal struct {
	key, job, attempt, account, provider string
	held                                 bool // not asked for yet: a job works on the file
}

// remove takes the stored results off locked, finished jobs: the keys go from the
// rows, and the archiver is told to delete the files, of those that a live job
// works on once it is over. What was stored (hash, size, length) stays on record.
// It returns how many files there were.
func (u *unit) remove(ctx context.Context, jobs ...*record) (files int64, _ error) {
	var ids []string
	for _, j := range jobs {
		if len(j.Artifact) > 0 {
			ids = append(ids, j.ID)
		}
	}
	if len(ids) == 0 {
		return 0, nil
	}
	needed, err := u.workedOn(ctx, ids)
	if err != nil {
		return 0, err
	}
	for _, j := range jobs {
		had, err := u.removeOne(ctx, j, needed[j.ID])
		if err != nil {
			return 0, fmt.Errorf("remove result of %s: %w", j.ID, err)
		}
		if had {
			files++
		}
	}
	return files, nil
}

// removeOne reports whether there was a file.
func (u *unit) removeOne(ctx context.Context, j *record, held bool) (bool, error) {
	if len(j.Artifact) == 0 {
		return false, nil
	}
	var a videov1.Artifact
	if err := proto.Unmarshal(j.Artifact, &a); err != nil {
		return false, err
	}
	if a.GetKey() == "" {
		return false, nil
	}
	x := removal{key: a.GetKey(), job: j.ID, attempt: *j.AttemptID, account: j.Account, provider: j.Provider, held: held}
	a.Key = ""
	for _, v := range []*videov1.Variant{a.GetThumbnail(), a.GetSpritesheet()} {
		if v != nil {
			v.Key = "" // the archiver deletes it with the video
		}
	}
	var err error
	if j.Artifact, err = proto.Marshal(&a); err != nil {
		return false, err
	}
	u.change(j)
	if u.removed = append(u.removed, x); held {
		return true, nil
	}
	return true, u.askRemoval(ctx, x, "delete-"+x.key)
}

func (u *unit) askRemoval(ctx context.Context, x removal, id string) error {
	m, err := bus.NewMessage(bus.DeleteSubject, id,
		&eventv1.DeleteArtifact{Key: x.key, JobId: x.job, AttemptId: x.attempt, AccountId: x.account, Provider: x.provider})
	if err != nil {
		return err
	}
	u.tell(ctx, m, 0)
	return nil
}

func (u *unit) writeRemovals(b *pgx.Batch) {
	if len(u.removed) > 0 {
		var t table
		column(&t, u.removed, func(x removal) string { return x.key })
		column(&t, u.removed, func(x removal) string { return x.job })
		column(&t, u.removed, func(x removal) string { return x.attempt })
		column(&t, u.removed, func(x removal) string { return x.account })
		column(&t, u.removed, func(x removal) string { return x.provider })
		column(&t, u.removed, func(x removal) bool { return x.held })
		b.Queue(`insert into artifact_deletion (key, job_id, attempt_id, account_id, provider, asked_at)
			select key, job, attempt, account, provider, case when held then 'infinity' else now() end
			from unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::boolean[]) as x (key, job, attempt, account, provider, held)
			on conflict do nothing`, t.columns...)
		var over []string
		for _, x := range u.removed {
			if !x.held {
				over = append(over, x.job)
			}
		}
		b.Queue(forgetSourcesSQL, over)
	}
	if len(u.cleared) > 0 {
		b.Queue("delete from artifact_deletion where key = any($1)", u.cleared)
	}
}

const unremovedSQL = `update artifact_deletion set asked_at = now() where key in (
		select key from artifact_deletion where asked_at < now() - $1::interval order by asked_at limit $2 for update skip locked)
	returning key, job_id, attempt_id, account_id, provider`

func scanRemoval(r pgx.CollectableRow) (x removal, err error) {
	err = r.Scan(&x.key, &x.job, &x.attempt, &x.account, &x.provider)
	return x, err
}

// askAgain repeats the commands whose files the archiver has not reported gone.
func (s *Service) askAgain(ctx context.Context) error {
	return s.write(ctx, func(ctx context.Context, u *unit) error {
		rows, err := u.tx.Query(ctx, unremovedSQL, 10*s.cfg.SweepAfter, sweepBatch)
		if err != nil {
			return fmt.Errorf("read deletions: %w", err)
		}
		late, err := pgx.CollectRows(rows, scanRemoval)
		if err != nil {
			return fmt.Errorf("read deletions: %w", err)
		}
		for _, x := range late {
			if err := u.askRemoval(ctx, x, fmt.Sprintf("delete-%s-%d", x.key, time.Now().UnixMilli())); err != nil {
				return err
			}
			s.log.WarnContext(ctx, "file not reported deleted; asked again", "job_id", x.job)
		}
		return nil
	})
}
