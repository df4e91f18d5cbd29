-- Budgets, ceilings and the spend-rate breaker. What they count is written in
-- the transaction that opens or ends a job, under the lock of its account's
-- balance, which comes first: no counter here is ever waited for. The new
-- columns have constant defaults and the tables are new, so that every
-- statement is instant on an installation in use.

create table budget (
    id           text collate "C" primary key,
    account_id   text not null references account,
    subject      text not null check (subject in ('account', 'api_key', 'end_user', 'model')),
    subject_id   text not null check ((subject = 'account') = (subject_id = '')), -- *: each for itself
    period       text not null check (period in ('day', 'week', 'month', 'total')),
    limit_micros bigint not null check (limit_micros > 0),
    hard         boolean not null,
    created_at   timestamptz not null default now(),
    deleted_at   timestamptz
);
-- How OpenJob finds the budgets of a video, and why there is one for each
-- subject and period.
create unique index budget_in_force on budget (account_id, subject, subject_id, period) where deleted_at is null;
create index budget_by_account on budget (account_id, id desc) where deleted_at is null;

-- What a budget counts in one period. A video counts in the period in which it
-- is opened, until its end and afterwards, whenever that comes.
create table budget_use (
    budget_id    text collate "C" not null references budget,
    subject_id   text not null,                        -- whose, where the budget's is *
    period_start timestamptz not null,                 -- the epoch where the period is total
    held_micros  bigint not null default 0 check (held_micros >= 0),
    spent_micros bigint not null default 0 check (spent_micros >= 0),
    alerted      smallint not null default 0 check (alerted in (0, 50, 80, 100)), -- percent that notice was given of
    primary key (budget_id, subject_id, period_start)  -- read from its end
) with (fillfactor = 50);

-- Which periods a job was counted in: [{"budget", "of", "from"}]. Null for none.
alter table job add column counted_in jsonb;

create table key_limit (
    api_key_id     text collate "C" primary key references api_key,
    account_id     text not null references account,
    max_concurrent int not null default 0 check (max_concurrent >= 0), -- 0: no ceiling
    per_minute     int not null default 0 check (per_minute >= 0),
    live           int not null default 0 check (live >= 0)            -- its jobs under way, since there is this row
) with (fillfactor = 50);
create index key_limit_by_account on key_limit (account_id);

-- What is read with the balance's lock, and written with the hold, costs
-- nothing: an account that was never guarded reads nothing else, and the hour
-- that the breaker watches is counted here.
alter table balance
    add column guarded           boolean not null default false, -- has, or had, a budget, a ceiling, a suspension or a pause
    add column hour_start        timestamptz not null default 'epoch',
    add column hour_micros       bigint not null default 0 check (hour_micros >= 0), -- held for new videos since hour_start
    add column hour_usual_micros bigint;                         -- the mean of the hours before, fixed for the hour; null: too few
update balance b set guarded = true from account a where a.id = b.account_id and a.status = 'suspended';

-- The hours before, of the last 7 days, in which an account spent at all.
create table spend_hour (
    account_id text not null references account,
    hour       timestamptz not null,
    micros     bigint not null check (micros > 0),
    primary key (account_id, hour)
);

alter table account
    add column paused_reason      text not null default '',
    add column paused_at          timestamptz,
    add column spike_exempt_until timestamptz,         -- after a resumption
    add constraint account_paused_with_reason check ((paused_reason = '') = (paused_at is null));
