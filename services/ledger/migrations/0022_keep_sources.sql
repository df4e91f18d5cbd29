-- Sources: which jobs work on the file of another job's video. Every statement is
-- instant on an installation in use.

-- A job is no foreign key: its table has parts. The rows of a source go when its
-- file does. Until then a deletion of the file was asked for at infinity
-- (artifact_deletion.asked_at).
create table job_source (
    job_id    text collate "C" primary key,
    source_id text collate "C" not null
);
create index job_source_by_source on job_source (source_id);

-- The hash of a request with its uploads by their ids; null where it names none.
alter table idempotency add column named_hash bytea;
