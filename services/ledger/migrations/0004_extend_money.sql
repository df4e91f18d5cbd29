-- Grants that expire, refunds, what a provider's work cost, reviews of tasks
-- without a verdict, and the reconciler's memory. Why the postings are as they
-- are: docs/money.md. Every statement is instant on a table in use: defaults are
-- constants, checks are proven for new rows only (the old ones hold the
-- defaults), and no index is made on a table that grows.

alter table job
    add column if not exists model text not null default '',       -- what the caller asked for; '' on the oldest jobs
    add column granted_micros  bigint not null default 0,          -- the part of the hold that came from grants
    add column refunded_micros bigint not null default 0,          -- given back after the capture
    add column cost_micros     bigint not null default 0,          -- millionths of the provider's currency
    add column cost_currency   text not null default '',           -- ISO 4217
    -- 'expected' costs nothing yet: the provider has not rendered. 'catalogue' is
    -- the list price of what it rendered, 'reported' its own word.
    add column cost_source     text not null default '';
alter table job
    add constraint job_granted_within_hold check (granted_micros between 0 and quote_micros) not valid,
    add constraint job_refunded_within_capture check (refunded_micros between 0 and captured_micros) not valid,
    add constraint job_cost_has_a_source check (cost_micros >= 0 and cost_source in ('', 'expected', 'catalogue', 'reported')
        and (cost_source = '') = (cost_currency = '') and (cost_source <> '' or cost_micros = 0)) not valid;

-- A grant, and where its credits are: still to be had (within the account's
-- available book), held for open jobs, spent, or expired. Changed only under the
-- lock of the account's balance.
create table grant_lot (
    id               text collate "C" primary key,  -- sorts by time
    account_id       text not null references account,
    amount_micros    bigint not null check (amount_micros > 0),
    remaining_micros bigint not null check (remaining_micros >= 0),
    drawn_micros     bigint not null default 0 check (drawn_micros >= 0),
    spent_micros     bigint not null default 0 check (spent_micros >= 0),
    expired_micros   bigint not null default 0 check (expired_micros >= 0),
    -- For the indexes: it changes far less often than the amounts, so that nearly
    -- every draw is an update in place.
    live             boolean not null generated always as (remaining_micros > 0) stored,
    expires_at       timestamptz,                    -- null: never
    reason           text not null check (reason <> ''),
    actor            text not null,
    posting_key      text collate "C" not null unique, -- the posting that gave it
    created_at       timestamptz not null default now(),
    check (amount_micros = remaining_micros + drawn_micros + spent_micros + expired_micros)
) with (fillfactor = 50);
-- What a hold draws from, in its order; read with every group of submits.
create index grant_lot_to_draw on grant_lot (account_id, expires_at, id) where live;
create index grant_lot_to_expire on grant_lot (expires_at) where live and expires_at is not null;
create index grant_lot_by_account on grant_lot (account_id, id desc);

-- What a job, or an adjustment, took from a lot.
create table lot_draw (
    taker         text collate "C" not null,         -- the job's id, or the adjustment's key
    lot_id        text collate "C" not null,
    amount_micros bigint not null check (amount_micros > 0),
    spent_micros  bigint check (spent_micros between 0 and amount_micros), -- null while the hold is open; the rest went back
    primary key (taker, lot_id)
);

-- A task whose fate nobody knows: its possible cost is in suspense until
-- somebody learns it.
create table review (
    job_id        text collate "C" primary key,
    account_id    text not null,
    attempt_id    text not null,
    provider      text not null,
    amount_micros bigint not null check (amount_micros > 0),
    opened_at     timestamptz not null default now(),
    poll_after    timestamptz not null default now(),
    outcome       text check (outcome in ('billed', 'not_billed')),
    settled_at    timestamptz,
    actor         text not null default '',           -- who settled it; 'ledger' when the provider's word did
    reason        text not null default '',
    check ((outcome is null) = (settled_at is null))
);
create index review_open on review (poll_after) where outcome is null;
-- Suspense that was booked before there were reviews.
insert into review (job_id, account_id, attempt_id, provider, amount_micros, opened_at)
    select j.id, j.account_id, coalesce(j.attempt_id, ''), j.provider, p.amount_micros, p.created_at
    from job j join posting p on p.key >= j.id || '/suspense/' and p.key < j.id || '/suspense0'
    where j.state = 'needs_review'
    on conflict do nothing;

-- How far the reconciler has come, for all replicas.
create table reconciliation (
    one           boolean primary key default true check (one),
    ran_at        timestamptz,                        -- the last run, whatever it found
    clean_at      timestamptz,                        -- the last run that found nothing
    full_at       timestamptz,                        -- the last run over everything
    violations    int not null default 0,             -- of the last run
    -- Postings up to here are proven. The newer mark is a run behind: a
    -- transaction may commit an id below one that is already seen.
    posting_floor bigint not null default 0,
    posting_mark  bigint not null default 0
);
insert into reconciliation default values;
