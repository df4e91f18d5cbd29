package ledger_test

import (
	"fmt"
	"io/fs"
	"regexp"
	"strings"
	"testing"
	"testing/fstest"

	"reelway.dev/services/ledger"
)

// grown are the tables that may be large when a migration comes.
const grown = `(job|attempt|observation|posting|outbox|idempotency|usage_day|usage_user_day|api_key|account|balance)`

const noDefault = "an older program does not write it: give it a default"

var defaulted = regexp.MustCompile(`\badd\s+column\b[^,;]*\bdefault\b[^,;]*`)

// forbidden is what would stop older programs, or everybody while it lasts.
var forbidden = []struct {
	sql *regexp.Regexp
	why string
}{
	{regexp.MustCompile(`\badd\s+column\b[^,;]*\bnot\s+null\b`), noDefault},
	{regexp.MustCompile(`\bdrop\s+(table|column|constraint|function|type|schema|not\s+null)\b`), "an older program may still use it"},
	{regexp.MustCompile(`\brename\b`), "an older program knows the old name"},
	{regexp.MustCompile(`\balter\s+(column\s+)?\w+\s+(set\s+data\s+)?type\b`), "it rewrites the table under an exclusive lock"},
	{regexp.MustCompile(`\bset\s+not\s+null\b`), "it reads the whole table under an exclusive lock, and an older program may write null"},
	{regexp.MustCompile(`\bdefault\s+(gen_random_uuid|random|clock_timestamp|nextval)\b`), "a default that differs by row rewrites the table"},
	{regexp.MustCompile(`\btruncate\b|\bdelete\s+from\b|\bupdate\s+\w+\s+set\b`), "data is changed by the ledger, in batches"},
	{regexp.MustCompile(`\bcreate\s+(unique\s+)?index\b[^;]*\bon\s+` + grown + `\b`), "it keeps writers out while it is built: create it concurrently"},
	{regexp.MustCompile(`\balter\s+table\s+` + grown + `\b[^;]*\badd\s+(constraint\s+\w+\s+)?(check|foreign\s+key|primary\s+key|unique|exclude)\b`), "it reads the whole table under a lock: add it not valid, validate it later"},
	{regexp.MustCompile(`\block\s+table\b|\bcluster\b|\bvacuum\s+full\b`), "it keeps everybody out"},
}

var comments = regexp.MustCompile(`--[^\n]*`)

// faults lists what is wrong with a migration.
func faults(text string) (out []string) {
	alone := strings.HasPrefix(text, "-- no transaction\n")
	text = strings.ToLower(comments.ReplaceAllString(text, ""))
	for s := range strings.SplitSeq(text, ";") {
		s = strings.Join(strings.Fields(s), " ")
		switch {
		case strings.HasPrefix(s, "create table "), strings.HasPrefix(s, "create function "), strings.HasPrefix(s, "drop index concurrently if exists "):
			continue // new things are free; an index that failed half-way is made again
		case strings.Contains(s, " concurrently ") && !alone:
			out = append(out, s+": what is done concurrently needs a file that begins with -- no transaction")
			continue
		case strings.Contains(s, " concurrently "), strings.Contains(s, " on only "), strings.Contains(s, "not valid"):
			continue
		}
		for _, f := range forbidden {
			look := s
			if f.why == noDefault {
				look = defaulted.ReplaceAllString(s, "")
			}
			if f.sql.MatchString(look) {
				out = append(out, fmt.Sprintf("%s: %s", s, f.why))
			}
		}
	}
	return out
}

// Every migration after the first release of the schema is one that older
// programs do not notice.
func TestMigrationsOnlyAdd(t *testing.T) {
	t.Parallel()
	names, err := fs.Glob(ledger.Migrations(), "*.sql")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		text, err := fs.ReadFile(ledger.Migrations(), name)
		if err != nil {
			t.Fatal(err)
		}
		if name < "0005" {
			continue
		}
		for _, f := range faults(string(text)) {
			t.Errorf("%s: %s", name, f)
		}
	}
	for name, file := range newerSchema {
		for _, f := range faults(string(file.Data)) {
			t.Errorf("%s: %s", name, f)
		}
	}
	for _, bad := range []string{
		"drop table outbox", "alter table job rename column model to name", "alter table job alter column version type int",
		"alter table job add column x int not null", "alter table job alter column end_user set not null", "create index x on job (model)",
		"create index concurrently x on attempt (state)", "alter table job add constraint x check (version > 0)", "update job set model = ''",
		"alter table job add column x uuid default gen_random_uuid()", "alter table job drop column model",
	} {
		if len(faults(bad)) == 0 {
			t.Errorf("%s: is let pass", bad)
		}
	}
}

// newerSchema is what a coming version may do to the database.
var newerSchema = fstest.MapFS{
	"9001_add_things.sql": {Data: []byte(`alter table job add column mood text not null default 'fine', add column note text;
alter table attempt add column region text not null default '';
alter table observation add column weight int;
alter table balance add column reserve_micros bigint not null default 0;
alter table idempotency add column seen_at timestamptz;
create table novelty (id text primary key, job_id text not null);
create index novelty_by_job on novelty (job_id);
`)},
	"9002_index_things.sql": {Data: []byte(`-- no transaction
drop index concurrently if exists attempt_by_state;
create index concurrently attempt_by_state on attempt (state);
create index if not exists job_by_model on only job (model);
-- each partition of job without job_by_model
create index concurrently {partition}_by_model on {partition} (model);
-- each partition of job without job_by_model
alter index job_by_model attach partition {partition}_by_model;
`)},
}
