-- The ledger's schema. Money is micro-credits in bigint; time is UTC.

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

-- One book per account and kind, and the system's own. A customer's books
-- never go below zero; the system's may (funding is where credits come from).
create table book (
    id         text primary key,                     -- 'acct_…:available', 'system:revenue'
    account_id text references account,              -- null for the system's
    kind       text not null,
    balance_micros bigint not null default 0,
    check (account_id is null or balance_micros >= 0)
);

insert into book (id, kind) values
    ('system:funding', 'funding'), ('system:revenue', 'revenue'), ('system:provider_cost', 'provider_cost'),
    ('system:promotional', 'promotional'), ('system:write_off', 'write_off'), ('system:suspense', 'suspense');

-- A movement of money. The id is made of what caused it, so that it happens once.
create table transfer (
    id         text primary key,                     -- 'hold:video_…', 'topup:acct_…:key'
    kind       text not null check (kind in ('top_up', 'hold', 'capture', 'release', 'suspense')),
    job_id     text,
    request_hash bytea,
    created_at timestamptz not null default now()
);

create table posting (
    id          bigint generated always as identity primary key,
    transfer_id text not null references transfer,
    book_id     text not null references book,
    amount_micros bigint not null check (amount_micros <> 0),
    created_at  timestamptz not null default now()
);
create index posting_by_book on posting (book_id, id);
create index posting_by_transfer on posting (transfer_id);

create function refuse_change() returns trigger language plpgsql as $$
begin
    raise exception '% is append-only: correct it with a new row', tg_table_name;
end $$;
create trigger posting_is_append_only before update or delete on posting for each row execute function refuse_change();
create trigger transfer_is_append_only before update or delete on transfer for each row execute function refuse_change();

-- The database itself refuses an unbalanced movement at commit.
create function refuse_unbalanced() returns trigger language plpgsql as $$
begin
    if (select coalesce(sum(amount_micros), 0) from posting where transfer_id = new.transfer_id) <> 0 then
        raise exception 'transfer % does not balance', new.transfer_id;
    end if;
    return null;
end $$;
create constraint trigger posting_balances after insert on posting
    deferrable initially deferred for each row execute function refuse_unbalanced();

create table job (
    id              text primary key,
    state           text not null check (state in ('queued', 'submitting', 'running', 'storing',
                        'succeeded', 'failed', 'canceled', 'expired', 'needs_review')),
    account_id      text not null references account,
    provider        text not null,
    version         bigint not null default 1,       -- grows by one with each change of state
    quote_micros    bigint not null check (quote_micros > 0),
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
    idempotency_key text,
    request_hash    bytea,
    api_key_id      text,
    end_user        text not null default '',
    params          bytea not null,                  -- reelway.video.v1.VideoParams
    metadata        jsonb not null default '{}',
    error           bytea,                           -- reelway.video.v1.VideoError
    artifact        bytea,                           -- reelway.video.v1.Artifact
    result_url      text,
    traceparent     text not null default '',
    -- A job is completed exactly when it is final.
    check ((completed_at is not null) = (state in ('succeeded', 'failed', 'canceled', 'expired', 'needs_review'))),
    check (state = 'succeeded' or captured_micros = 0),
    check (state <> 'succeeded' or artifact is not null)
);
create unique index job_idempotency on job (account_id, idempotency_key) where idempotency_key is not null;
create index job_by_account on job (account_id, id desc) where deleted_at is null;
-- The sweep reads live jobs only; finished ones, which are nearly all, stay out.
create index job_live on job (state, swept_at) where completed_at is null;

create table attempt (
    id               text primary key,
    job_id           text not null references job,
    number           int not null,
    provider         text not null,
    state            text not null check (state in ('intended', 'accepted', 'refused', 'uncertain', 'succeeded', 'failed', 'canceled')),
    provider_task_id text,
    error            bytea,
    created_at       timestamptz not null default now(),
    ended_at         timestamptz,
    unique (job_id, number)
);
-- A provider's task belongs to one attempt.
-- How long the last renders of a provider took, for estimates.
create index attempt_recent on attempt (provider, created_at desc) where state = 'succeeded';
create unique index attempt_by_task on attempt (provider, provider_task_id) where provider_task_id is not null;

create table hold (
    job_id          text primary key references job,
    account_id      text not null references account,
    amount_micros   bigint not null check (amount_micros > 0),
    captured_micros bigint not null default 0 check (captured_micros between 0 and amount_micros),
    state           text not null default 'held' check (state in ('held', 'captured', 'released')),
    created_at      timestamptz not null default now(),
    settled_at      timestamptz,
    check ((settled_at is null) = (state = 'held'))
);

-- What observers said, each fact once, and what became of it.
create table observation (
    id         text primary key,
    job_id     text not null,
    attempt_id text not null,
    source     text not null,
    fact       text not null,
    verdict    text not null check (verdict in ('applied', 'ignored', 'late', 'conflict')),
    observed_at timestamptz not null,
    created_at timestamptz not null default now()
);
create index observation_by_job on observation (job_id);

create table outbox (
    id            bigint generated always as identity primary key,
    message_id    text not null,
    subject       text not null,
    type          text not null,
    data          bytea not null,
    traceparent   text not null default '',
    publish_after timestamptz not null default now(),
    created_at    timestamptz not null default now()
);
create index outbox_due on outbox (publish_after, id);
