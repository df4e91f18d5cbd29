-- no transaction
-- Which of a provider's keys has the task, and what limits are counted by. An
-- attempt that began before this has neither, and counts for its provider alone.
-- Its cost is what it is expected to cost, in the provider's currency; 0 once
-- refused.
alter table attempt
    add column if not exists key_id      text not null default '',
    add column if not exists model       text not null default '',
    add column if not exists cost_micros bigint not null default 0;

-- What the tasks of a key cost in a UTC day: a key's daily budget is judged by
-- one row, not by a day's attempts.
create table if not exists key_spend (
    provider    text not null,
    key_id      text not null,
    day         date not null,
    cost_micros bigint not null,
    primary key (provider, key_id, day)
);

-- The tasks at a provider are counted before one more begins. What has ended,
-- which is nearly all, stays out.
drop index concurrently if exists attempt_running;

create index concurrently attempt_running on attempt (provider, model, key_id) where ended_at is null;
