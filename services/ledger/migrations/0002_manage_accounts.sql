-- What operators decide about accounts and keys, and the record of it. Every
-- statement is instant on a table in use: defaults are constants, and the
-- tables are small.

alter table account
    add column status           text not null default 'active' check (status in ('active', 'suspended')),
    add column suspended_reason text not null default '',     -- shown to the account's callers
    add column suspended_at     timestamptz,
    add column time_zone        text not null default 'UTC',  -- IANA; budgets reset by it
    add column cap_resolution   text check (cap_resolution in ('480p', '720p', '1080p', '2160p')), -- null: the tier's
    add column cap_reason       text not null default '',
    -- Whoever is refused is told why, and an exception to the tier has a reason.
    add constraint account_suspended_with_reason check ((status = 'suspended') = (suspended_reason <> '' and suspended_at is not null)),
    add constraint account_capped_with_reason check ((cap_resolution is null) = (cap_reason = ''));

alter table api_key
    add column last_used_at timestamptz,                   -- to the minute, written behind the answer
    add column successor_id text unique references api_key; -- a key is rotated once
create index api_key_by_account on api_key (account_id, id desc);

-- An account's own users, by the id that it sends as `user`.
create table end_user (
    account_id text not null references account,
    id         text not null check (id <> ''),
    name       text not null default '',
    created_at timestamptz not null default now(),
    primary key (account_id, id)
);

-- Each administrative action, in the transaction that does it.
create table audit_entry (
    id          text primary key,                 -- sorts by time
    at          timestamptz not null default now(),
    actor       text not null check (actor <> ''), -- the id of an admin key, or 'operator'
    action      text not null check (action <> ''),
    account_id  text not null,
    target      text not null,
    details     jsonb not null default '{}',
    request_id  text not null default ''
);
create index audit_entry_by_account on audit_entry (account_id, id desc);
create index audit_entry_by_actor on audit_entry (actor, id desc);
create trigger audit_entry_is_append_only before update or delete on audit_entry
    for each row execute function refuse_change();
create trigger audit_entry_is_never_emptied before truncate on audit_entry
    for each statement execute function refuse_change();
