-- Where accounts take their events, and what was delivered to them. All tables
-- are new. Why deliveries wait here: docs/decisions/0025-webhook-deliveries.md.

create table webhook_endpoint (
    id              text collate "C" primary key,
    account_id      text not null references account,
    url             text not null,                       -- empty: the account's default, which signs callback_url
    description     text not null default '',
    events          text[] not null,
    secret          bytea not null,                      -- sealed, as what follows
    secret_before   bytea,
    overlap_until   timestamptz,                         -- until then secret_before signs as well
    headers         bytea,                               -- JSON of names to values
    header_names    text[] not null default '{}',
    disabled_reason text not null default '' check (disabled_reason in ('', 'gone', 'failing', 'owner')),
    disabled_at     timestamptz,
    failing_since   timestamptz,                         -- the first failure since the last success
    created_at      timestamptz not null default now(),
    deleted_at      timestamptz,
    check ((secret_before is null) = (overlap_until is null)),
    check ((disabled_reason = '') = (disabled_at is null))
);
create index webhook_endpoint_by_account on webhook_endpoint (account_id, id desc) where deleted_at is null;
create unique index webhook_endpoint_default on webhook_endpoint (account_id) where url = '' and deleted_at is null;

-- A live job's own address. It moves into the delivery when the job ends.
create table webhook_callback (
    job_id text collate "C" primary key,
    host   text not null,
    url    text not null
);

-- An event on its way to an endpoint. It holds no copy of the video: what is sent
-- is made of the job's row, so that nothing has to be erased twice.
create table webhook_delivery (
    id              text collate "C" primary key,        -- the webhook-id
    endpoint_id     text collate "C" not null,
    account_id      text not null,
    -- What waits for each other: an endpoint's deliveries, or those of the default
    -- endpoint to one host.
    lane            text collate "C" not null,
    job_id          text collate "C" not null,           -- empty: a test
    version         bigint not null,                     -- the job's, at the event
    job_state       text not null,
    type            text not null,
    url             text not null default '',            -- empty: the endpoint's
    state           text not null default 'pending' check (state in ('pending', 'delivered', 'failed')),
    attempts        int not null default 0,              -- in all; the last one is the one that is claimed
    failures        int not null default 0,              -- since it began, or was replayed
    next_attempt_at timestamptz not null default clock_timestamp(),
    claimed_until   timestamptz,                         -- in a notifier's hands
    occurred_at     timestamptz not null,
    ended_at        timestamptz,
    traceparent     text not null default '',
    check ((state = 'pending') = (ended_at is null)),
    check (state = 'pending' or claimed_until is null)
) with (fillfactor = 80);
-- An event reaches an endpoint once; and a job's pending ones are found in order.
create unique index webhook_delivery_of_event on webhook_delivery (endpoint_id, job_id, version) where job_id <> '';
create index webhook_delivery_due on webhook_delivery (lane, next_attempt_at) where state = 'pending';
create index webhook_delivery_claimed on webhook_delivery (lane) where claimed_until is not null;
create index webhook_delivery_by_endpoint on webhook_delivery (endpoint_id, id desc);
create index webhook_delivery_by_account on webhook_delivery (account_id, id desc);
create index webhook_delivery_by_job on webhook_delivery (job_id) where job_id <> '';

create table webhook_attempt (
    delivery_id     text collate "C" not null references webhook_delivery on delete cascade,
    number          int not null,
    at              timestamptz not null,
    duration_ms     bigint not null,
    url             text not null,
    request_headers jsonb not null,
    request_body    text not null,
    status          int not null,
    response_body   text not null,
    error           text not null,
    primary key (delivery_id, number)
);

-- A UUIDv7 (RFC 9562) of this moment, as pkg/id makes them.
create function webhook_delivery_id() returns text language sql volatile as $$
    select 'msg_' || encode(set_bit(set_bit(overlay(uuid_send(gen_random_uuid())
        placing substring(int8send(floor(extract(epoch from clock_timestamp()) * 1000)::bigint) from 3) from 1 for 6), 52, 1), 53, 1), 'hex')::uuid
$$;
