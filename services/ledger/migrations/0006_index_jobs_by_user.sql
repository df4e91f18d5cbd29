-- no transaction
-- An end user's jobs: for lists of them and for their erasure. Jobs that name
-- nobody, where callers name nobody, stay out of it.
create index if not exists job_by_user on only job (account_id, end_user, id desc) where end_user <> '';

-- each partition of job without job_by_user
drop index concurrently if exists {partition}_by_user;

-- each partition of job without job_by_user
create index concurrently {partition}_by_user on {partition} (account_id, end_user, id desc) where end_user <> '';

-- each partition of job without job_by_user
alter index job_by_user attach partition {partition}_by_user;

-- Keys go with the age of their jobs, whose ids sort by time.
drop index concurrently if exists idempotency_by_job;

create index concurrently idempotency_by_job on idempotency (job_id collate "C");
