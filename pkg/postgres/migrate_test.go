package postgres_test

import (
	"context"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"reelway.dev/pkg/pgtest"
	"reelway.dev/pkg/postgres"
)

func TestMain(m *testing.M) { os.Exit(pgtest.Main(m)) }

func files(pairs ...string) fstest.MapFS {
	dir := fstest.MapFS{}
	for i := 0; i < len(pairs); i += 2 {
		dir[pairs[i]] = &fstest.MapFile{Data: []byte(pairs[i+1])}
	}
	return dir
}

func count(t *testing.T, pool *pgxpool.Pool, sql string) (n int) {
	t.Helper()
	if err := pool.QueryRow(context.Background(), sql).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

func TestReplicasMigrateTogether(t *testing.T) {
	t.Parallel()
	pool := pgtest.New(t, files())
	dir := files("0001_a.sql", "create table a (n int)", "0002_b.sql", "-- no transaction\ncreate index concurrently a_n on a (n);\n")
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if err := postgres.Migrate(context.Background(), pool, dir); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := count(t, pool, "select count(*) from migration where checksum is not null"); n != 2 {
		t.Errorf("%d migrations recorded with a checksum, want 2", n)
	}
}

func TestEditedMigrationIsRefused(t *testing.T) {
	t.Parallel()
	pool := pgtest.New(t, files("0001_a.sql", "create table a (n int)"))
	err := postgres.Migrate(context.Background(), pool, files("0001_a.sql", "create table a (n bigint)"))
	if err == nil || !strings.Contains(err.Error(), "0001_a.sql: the file was changed after it was applied") {
		t.Errorf("an edited file: %v", err)
	}
}

func TestOlderProgramOnNewerDatabase(t *testing.T) {
	t.Parallel()
	old := files("0001_a.sql", "create table a (n int)")
	pool := pgtest.New(t, files("0001_a.sql", "create table a (n int)", "0002_b.sql", "alter table a add column m int"))
	if err := postgres.Migrate(context.Background(), pool, old); err != nil {
		t.Error(err)
	}
	// What a version without checksums has applied is taken as it is.
	if _, err := pool.Exec(context.Background(), "update migration set checksum = null"); err != nil {
		t.Fatal(err)
	}
	if err := postgres.Migrate(context.Background(), pool, old); err != nil {
		t.Error(err)
	}
	if n := count(t, pool, "select count(*) from migration where checksum is not null"); n != 1 {
		t.Errorf("%d checksums filled in, want 1", n)
	}
}

func TestBusyTableIsWaitedForWithoutBlockingIt(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	first := files("0001_a.sql", "create table a (n int); insert into a values (1)")
	pool := pgtest.New(t, first)
	tx, err := pool.Begin(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback(ctx) }()
	if _, err := tx.Exec(ctx, "select * from a"); err != nil { // a reader that does not end
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		first["0002_b.sql"] = &fstest.MapFile{Data: []byte("alter table a add column m int")}
		done <- postgres.Migrate(ctx, pool, first)
	}()
	waiting := "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock' and query like '%add column m%'"
	for count(t, pool, waiting) == 0 {
		select {
		case err := <-done:
			t.Fatalf("did not wait: %v", err)
		case <-time.After(5 * time.Millisecond):
		}
	}
	// Others do not wait for that reader's end, which is yet to come.
	if n := count(t, pool, "select count(*) from a"); n != 1 {
		t.Errorf("%d rows", n)
	}
	if err := tx.Commit(ctx); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestStatementsForEachPartition(t *testing.T) {
	t.Parallel()
	parts := "create table a (n int, m int) partition by range (n); create table a_1 partition of a for values from (0) to (5); create table a_2 partition of a default"
	index := `-- no transaction
-- Kept after a failure half-way.
create index if not exists a_m on only a (m);
-- each partition of a without a_m
drop index concurrently if exists {partition}_m;
-- each partition of a without a_m
create index concurrently {partition}_m on {partition} (m);
-- each partition of a without a_m
alter index a_m attach partition {partition}_m;
`
	pool := pgtest.New(t, files("0001_a.sql", parts, "0002_m.sql", index))
	if n := count(t, pool, "select count(*) from pg_index where indisvalid and indexrelid::regclass::text in ('a_m', 'a_1_m', 'a_2_m')"); n != 3 {
		t.Errorf("%d valid indexes, want 3: the parent's and each partition's", n)
	}
	// As after a failure at the very end.
	if _, err := pool.Exec(context.Background(), "delete from migration where name = '0002_m.sql'"); err != nil {
		t.Fatal(err)
	}
	if err := postgres.Migrate(context.Background(), pool, files("0001_a.sql", parts, "0002_m.sql", index)); err != nil {
		t.Errorf("a repetition: %v", err)
	}
}
