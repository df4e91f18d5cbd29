package ledger

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	ledgerv1 "reelway.dev/proto/gen/reelway/ledger/v1"
)

// span is which part of the books a run looks at; nothing set is all of them.
type span struct {
	firstJob string
	above    int64 // the posting
	jobsFrom time.Time
}

func (s span) whole() bool { return s.jobsFrom.IsZero() }

// breaches is how many rows of a broken invariant are named.
const breaches = 20

// prove asks every invariant in one snapshot of the live database. It takes no
// lock that a writer waits for, and its memory is the database's work_mem. first
// stops at the first breach.
func (s *Service) prove(ctx context.Context, part span, first bool) (violations, proven []string, mark int64, err error) {
	err = pgx.BeginTxFunc(ctx, s.pool, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		// Everything is read here, which is what the pool's plans avoid. A plan for
		// ever is not to be kept.
		if _, err := tx.Exec(ctx, "set local enable_seqscan = on"); err != nil {
			return fmt.Errorf("set planner: %w", err)
		}
		if err := tx.QueryRow(ctx, "select coalesce(max(m.id), 0), job_id_at($1) from balance b cross join lateral (select id from posting where account_id = b.account_id order by id desc limit 1) m",
			part.jobsFrom).Scan(&mark, &part.firstJob); err != nil {
			return fmt.Errorf("read marks: %w", err)
		}
		if part.whole() {
			part.firstJob = ""
		}
		ask := func(name, sql string, args ...any) error {
			args = append([]any{pgx.QueryExecModeExec}, args...)
			rows, err := tx.Query(ctx, fmt.Sprintf("select * from (%s) q limit %d", sql, breaches), args...)
			if err != nil {
				return fmt.Errorf("check that %s: %w", name, err)
			}
			broken, err := pgx.CollectRows(rows, pgx.RowTo[string])
			if err != nil {
				return fmt.Errorf("check that %s: %w", name, err)
			}
			for _, b := range broken {
				violations = append(violations, "not so: "+name+": "+b)
			}
			if len(broken) == 0 {
				proven = append(proven, name)
			}
			return nil
		}
		for _, inv := range invariants {
			if inv.whole && !part.whole() {
				continue
			}
			if err := ask(inv.name, inv.sql, part.firstJob, part.above); err != nil {
				return err
			}
			if first && len(violations) > 0 {
				return nil
			}
		}
		return ask("every live job is looked at again", waiting, s.patience())
	})
	return violations, proven, mark, err
}

// patience is how long a live job may be without a sweep: what the sweep waits
// for, and some turns of its own.
func (s *Service) patience() time.Duration {
	return s.cfg.WatchAfter + 2*s.cfg.SweepAfter + 10*s.cfg.SweepInterval + time.Minute
}

// Verify proves the books on the live database, all of them, in one snapshot.
func (g *moneyServer) Verify(ctx context.Context, _ *ledgerv1.VerifyRequest) (*ledgerv1.VerifyResponse, error) {
	resp := &ledgerv1.VerifyResponse{}
	var err error
	resp.Violations, resp.Proven, _, err = g.s.prove(ctx, span{}, false)
	return resp, err
}
