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

// proof is what a run found.
type proof struct {
	violations, proven []string
	mark               int64 // the newest posting it saw
}

// prove asks every invariant in one snapshot of the live database. It takes no
// lock that a writer waits for, and its memory is the database's work_mem.
func (s *Service) prove(ctx context.Context, part span) (p proof, err error) {
	err = pgx.BeginTxFunc(ctx, s.pool, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		p, err = s.ask(ctx, tx, part)
		return err
	})
	return p, err
}

func (s *Service) ask(ctx context.Context, tx pgx.Tx, part span) (p proof, err error) {
	// Everything is read here, which is what the pool's plans avoid.
	if _, err := tx.Exec(ctx, "set local enable_seqscan = on"); err != nil {
		return p, fmt.Errorf("set planner: %w", err)
	}
	if err := tx.QueryRow(ctx, `select coalesce(max(m.id), 0), job_id_at($1) from balance b
		cross join lateral (select id from posting where account_id = b.account_id order by id desc limit 1) m`, part.jobsFrom).Scan(&p.mark, &part.firstJob); err != nil {
		return p, fmt.Errorf("read marks: %w", err)
	}
	if part.whole() {
		part.firstJob = ""
	}
	for _, inv := range invariants {
		if inv.whole && !part.whole() {
			continue
		}
		if err := p.check(ctx, tx, inv.name, inv.sql, part.firstJob, part.above); err != nil {
			return p, err
		}
	}
	return p, p.check(ctx, tx, "every live job is looked at again", waiting, s.patience(), s.cfg.QueueLife+s.patience())
}

// check asks one invariant. Its plan is made for these tables and not kept.
func (p *proof) check(ctx context.Context, tx pgx.Tx, name, sql string, args ...any) error {
	rows, err := tx.Query(ctx, fmt.Sprintf("select * from (%s) q limit %d", sql, breaches), append([]any{pgx.QueryExecModeExec}, args...)...)
	if err != nil {
		return fmt.Errorf("check that %s: %w", name, err)
	}
	broken, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return fmt.Errorf("check that %s: %w", name, err)
	}
	for _, b := range broken {
		p.violations = append(p.violations, "not so: "+name+": "+b)
	}
	if len(broken) == 0 {
		p.proven = append(p.proven, name)
	}
	return nil
}

// patience is how long a live job may be without a sweep: what the sweep waits
// for, and some turns of its own.
func (s *Service) patience() time.Duration {
	return s.cfg.WatchAfter + 2*s.cfg.SweepAfter + 10*s.cfg.SweepInterval + time.Minute
}

// Verify proves the books on the live database, all of them, in one snapshot.
func (g *moneyServer) Verify(ctx context.Context, _ *ledgerv1.VerifyRequest) (*ledgerv1.VerifyResponse, error) {
	p, err := g.s.prove(ctx, span{})
	return &ledgerv1.VerifyResponse{Violations: p.violations, Proven: p.proven}, err
}
