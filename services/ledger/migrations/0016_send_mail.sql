-- E-mail: addresses, what was sent to them, and who asked not to be written to.
-- The new columns have constant defaults and the tables are new: every statement
-- is instant on an installation in use.

alter table account add column email text not null default '';   -- where its owner is told of budgets and pauses

alter table end_user
    add column email  text not null default '',
    add column notify boolean not null default false,             -- the user has opted in
    add constraint end_user_notified_somewhere check (not notify or email <> '');

-- Whom the caller wants told of one job. Apart from the job, which stays: the
-- address goes as soon as the letter is sent, or is not to be sent any more.
create table job_mail (
    job_id     text collate "C" primary key,
    account_id text not null,
    email      text not null check (email <> ''),
    created_at timestamptz not null default now()
);

-- One row for each letter: what is there is not sent again. An address is named
-- by its SHA-256 alone.
create table mail (
    account_id   text not null,
    event_id     text collate "C" not null,
    recipient    bytea not null check (length(recipient) = 32),
    state        text not null default 'sending' check (state in ('sending', 'sent', 'refused')),
    leased_until timestamptz not null,             -- until then it is its claimer's to send
    begun_at     timestamptz not null default now(),
    ended_at     timestamptz,
    primary key (account_id, event_id, recipient),
    check ((state = 'sending') = (ended_at is null))
);
-- How many letters an address was sent in the last hour, by whichever account.
create index mail_by_recipient on mail (recipient, begun_at);
-- What is old enough to be forgotten.
create index mail_by_time on mail (begun_at);

-- Who unsubscribed from an account's e-mail. It outlives the address, which may
-- come again.
create table mail_unsubscribed (
    account_id text not null,
    recipient  bytea not null check (length(recipient) = 32),
    at         timestamptz not null default now(),
    primary key (account_id, recipient)
);
