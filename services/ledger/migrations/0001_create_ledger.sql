-- The ledger's schema. Money is micro-credits in bigint; time is UTC. Why the
-- tables look as they do: docs/decisions/0016-ledger-schema.md.

create table account (
    id         text primary key,
    name       text not null,
    tier       text not null check (tier in ('development', 'staging', 'production')),
    created_at timestamptz not null default now()
);

create table api_key (
    id         text primary key,
    account_id text not null references account,
    name       text not null default '',
    hash       bytea not null unique check (length(hash) = 32), -- SHA-256; the key itself is nowhere
    scopes     text[] not null,
    created_at timestamptz not null default now(),
    expires_at timestamptz,
    revoked_at timestamptz
);

-- The books of one account in one row: locking it orders everything that is
-- done with the account's money. A customer's two books never go below zero,
-- and what is in all books together is always nothing: the database refuses
-- anything else.
create table balance (
    account_id           text primary key references account,
    available_micros     bigint not null default 0 check (available_micros >= 0),
    held_micros          bigint not null default 0 check (held_micros >= 0),
    revenue_micros       bigint not null default 0, -- captured from the account
    funding_micros       bigint not null default 0, -- below zero: paid in from outside
    promotional_micros   bigint not null default 0, -- below zero: given away
    write_off_micros     bigint not null default 0,
    provider_cost_micros bigint not null default 0, -- below zero: possibly owed to providers
    suspense_micros      bigint not null default 0, -- possible cost of unproven tasks
    check (available_micros + held_micros + revenue_micros + funding_micros + promotional_micros
         + write_off_micros + provider_cost_micros + suspense_micros = 0)
) with (fillfactor = 20); -- always updated in place, however hot

-- A movement from one book of an account to another: balanced by its form. Its
-- key is made of what caused it, so that it happens once.
create table posting (
    id               bigint generated always as identity,
    -- A job's movements begin with its id, and so lie together: 'video_…/hold'.
    key              text collate "C" not null unique,
    kind             text not null check (kind in ('top_up', 'grant', 'grant_expiry', 'hold', 'capture', 'release',
                         'refund', 'adjustment', 'write_off', 'suspense', 'suspense_settled')),
    account_id       text not null,
    job_id           text,
    source           text not null,
    destination      text not null check (destination <> source),
    amount_micros    bigint not null check (amount_micros > 0),
    -- The customer's books after this posting: the running balance of a statement.
    available_micros bigint not null check (available_micros >= 0),
    held_micros      bigint not null check (held_micros >= 0),
    actor            text not null default '',
    reason           text not null default '',
    request_hash     bytea,
    created_at       timestamptz not null default clock_timestamp(),
    primary key (account_id, id)                     -- a statement reads one account in order
);

create function refuse_change() returns trigger language plpgsql as $$
begin
    raise exception '% is append-only: correct it with a new row', tg_table_name;
end $$;
create trigger posting_is_append_only before update or delete on posting for each row execute function refuse_change();

-- A month of jobs is a partition: ids are UUIDv7 and so sort by time. The
-- partitions are made by the ledger, months ahead.
create table job (
    id              text collate "C" primary key,
    state           text not null check (state in ('queued', 'submitting', 'running', 'storing',
                        'succeeded', 'failed', 'canceled', 'expired', 'needs_review')),
    account_id      text not null,
    provider        text not null,
    version         bigint not null default 1,       -- grows by one with each change of state
    hold_state      text not null default 'held' check (hold_state in ('held', 'captured', 'released')),
    quote_micros    bigint not null check (quote_micros > 0), -- the hold
    captured_micros bigint not null default 0 check (captured_micros between 0 and quote_micros),
    attempt_count   int not null default 0,
    attempt_id      text,                            -- the current attempt
    created_at      timestamptz not null default now(),
    updated_at      timestamptz not null default now(), -- the last change of state
    swept_at        timestamptz not null default now(), -- the last time a sweep re-published it
    submit_after    timestamptz not null default now(), -- a refused submit waits until then
    deadline_at     timestamptz,                     -- no verdict by then: needs_review
    completed_at    timestamptz,
    deleted_at      timestamptz,
    late_result     boolean not null default false,
    request_hash    bytea,
    api_key_id      text not null default '',
    end_user        text not null default '',
    params          bytea not null,                  -- reelway.video.v1.VideoParams
    metadata        jsonb not null default '{}',
    error           bytea,                           -- reelway.video.v1.VideoError
    artifact        bytea,                           -- reelway.video.v1.Artifact
    result_url      text,
    traceparent     text not null default '',
    -- A job is completed exactly when it is final, and its hold is open exactly
    -- until then: no job can end without its money being settled.
    check ((completed_at is not null) = (state in ('succeeded', 'failed', 'canceled', 'expired', 'needs_review'))),
    check ((hold_state = 'held') = (completed_at is null)),
    check ((hold_state = 'captured') = (captured_micros > 0)),
    check ((state = 'succeeded') = (hold_state = 'captured')),
    check (state <> 'succeeded' or artifact is not null)
) partition by range (id);
create index job_by_account on job (account_id, id desc) where deleted_at is null;
-- The sweep reads live jobs only; finished ones, which are nearly all, stay out.
-- It holds nothing that a step of a job changes but its end: the steps between
-- are updates in place (HOT), without a touch of any index.
create index job_live on job (id) where completed_at is null;
-- Rows are changed some five times and then hardly ever again: room for the
-- changes beside them, and a vacuum that follows the month's growth.
create table job_other partition of job default with (fillfactor = 60, autovacuum_vacuum_scale_factor = 0.02);

-- The smallest id of a moment: a UUIDv7 begins with its milliseconds.
create function job_id_at(moment timestamptz) returns text language sql immutable as $$
    select 'video_' || substr(h, 1, 8) || '-' || substr(h, 9, 4)
    from lpad(to_hex((extract(epoch from moment) * 1000)::bigint), 12, '0') h
$$;

-- Makes the partition of a month, if there is none. Jobs of that month which lie
-- in job_other are taken along.
create function make_job_partition(month date) returns void language plpgsql as $$
declare
    name text := 'job_' || to_char(month, 'YYYY_MM');
    lo text := job_id_at(date_trunc('month', month)::timestamp at time zone 'UTC');
    hi text := job_id_at((date_trunc('month', month) + interval '1 month')::timestamp at time zone 'UTC');
begin
    if to_regclass(name) is not null then
        return;
    end if;
    execute format('create table %I (like job including all) with (fillfactor = 60, autovacuum_vacuum_scale_factor = 0.02)', name);
    execute format('with moved as (delete from job_other where id >= %L and id < %L returning *) insert into %I select * from moved', lo, hi, name);
    execute format('alter table job attach partition %I for values from (%L) to (%L)', name, lo, hi);
end $$;
select make_job_partition((now() at time zone 'UTC' + m * interval '1 month')::date) from generate_series(0, 2) m;

-- Kept apart from job, whose partitions cannot be unique by it.
create table idempotency (
    account_id   text not null,
    key          text not null,
    job_id       text not null,
    request_hash bytea not null,
    created_at   timestamptz not null default now(),
    primary key (account_id, key)
);

create table attempt (
    id               text collate "C" primary key,
    job_id           text collate "C" not null,
    number           int not null,
    provider         text not null,
    state            text not null check (state in ('intended', 'accepted', 'refused', 'uncertain', 'succeeded', 'failed', 'canceled')),
    provider_task_id text,
    error            bytea,
    created_at       timestamptz not null default now(),
    ended_at         timestamptz,
    unique (job_id, number)
) with (fillfactor = 80);
-- A provider's task belongs to one attempt.
create unique index attempt_by_task on attempt (provider, provider_task_id) where provider_task_id is not null;
-- How long the last renders of a provider took, for estimates.
create index attempt_recent on attempt (provider, created_at desc) where state = 'succeeded';

-- What observers said, each fact once, and what became of it.
create table observation (
    job_id      text collate "C" not null,
    id          text collate "C" not null,
    attempt_id  text not null,
    source      text not null,
    fact        text not null,
    verdict     text not null check (verdict in ('applied', 'ignored', 'late', 'conflict')),
    observed_at timestamptz not null,
    created_at  timestamptz not null default now(),
    primary key (job_id, id)
);

-- Messages to publish after their transaction's commit, in the order in which
-- they were written: a job's are written under its lock.
create table outbox (
    publish_after timestamptz not null default clock_timestamp(),
    id            bigint generated always as identity,
    message_id    text not null,
    subject       text not null,
    type          text not null,
    data          bytea not null,
    traceparent   text not null default '',
    primary key (publish_after, id)
) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000, autovacuum_vacuum_cost_delay = 0);

-- Messages that the bus will never take: kept for an operator, out of the way of
-- the others.
create table outbox_parked (
    id         bigint primary key,
    message_id text not null,
    subject    text not null,
    type       text not null,
    data       bytea not null,
    reason     text not null,
    created_at timestamptz not null default now()
);
