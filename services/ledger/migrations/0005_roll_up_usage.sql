-- Usage, retention and erasure. Every statement is instant on a ledger in use:
-- what is added to job are constants, everything else is new. Why the tables
-- look as they do: docs/decisions/0016-ledger-schema.md.

alter table job
    add column if not exists model       text not null default '', -- of params; empty when an older version opened the job
    add column counted     boolean not null default false, -- the finished job is in usage
    add column redacted_at timestamptz;              -- prompt, addresses and metadata are gone

-- What ended on a UTC day, kept in the transaction that ends a job and changed
-- under the lock of the account's balance. A row is changed with every group of
-- jobs that end: room for it beside it, and a vacuum that follows.
create table usage_day (
    account_id      text collate "C" not null,
    day             date not null,
    model           text collate "C" not null,
    provider        text collate "C" not null,
    api_key_id      text collate "C" not null,
    jobs            int not null,
    succeeded       int not null,
    failed          int not null,
    canceled        int not null,
    expired         int not null,
    needs_review    int not null,
    seconds         int not null,                    -- of finished video
    captured_micros bigint not null,
    -- How long succeeded jobs took, as a histogram in one number: twelve decimal
    -- digits for each bucket, so that adding numbers adds histograms.
    latency         numeric not null,
    primary key (account_id, day, model, provider, api_key_id)
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000);

-- The same with the caller's end users, who are many: apart, so that questions
-- about the account do not read them, and by user first, so that questions about
-- one read nothing else.
create table usage_user_day (
    account_id      text collate "C" not null,
    end_user        text collate "C" not null,
    day             date not null,
    model           text collate "C" not null,
    provider        text collate "C" not null,
    api_key_id      text collate "C" not null,
    jobs            int not null,
    succeeded       int not null,
    failed          int not null,
    canceled        int not null,
    expired         int not null,
    needs_review    int not null,
    seconds         int not null,
    captured_micros bigint not null,
    latency         numeric not null,
    primary key (account_id, end_user, day, model, provider, api_key_id)
) with (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000);

-- How far what is done to all jobs in turn has come: the id of the last one.
create table progress_mark (
    task  text primary key,
    after text collate "C" not null
);

-- Files to delete from the bucket, until the archiver says that one is gone.
create table artifact_deletion (
    key        text collate "C" primary key,
    job_id     text collate "C" not null,
    attempt_id text not null,
    account_id text not null,
    provider   text not null,
    created_at timestamptz not null default now(),
    asked_at   timestamptz not null default now()    -- the last time the command was published
);
create index artifact_deletion_by_asked on artifact_deletion (asked_at);
