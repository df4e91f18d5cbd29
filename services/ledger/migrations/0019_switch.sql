-- An operator's switches, and what a restored database is not sure of. New tables
-- and a column with a constant default: every statement is instant on an
-- installation in use.

-- The one row is there while new videos are refused.
create table maintenance (
    only_one            boolean primary key default true check (only_one),
    reason              text not null check (reason <> ''),
    retry_after_seconds integer not null check (retry_after_seconds > 0),
    since               timestamptz not null default now()
);

-- What nothing new is submitted to. An empty model is all of the provider's.
create table provider_pause (
    provider text not null check (provider <> ''),
    model    text not null default '',
    reason   text not null check (reason <> ''),
    since    timestamptz not null default now(),
    until    timestamptz,                         -- ends by itself; null: when an operator says so
    primary key (provider, model)
);

-- The job was queued in a database that was set back to an earlier time: it may
-- have been submitted since. Its next attempt is looked for before one is made.
alter table job add column restored boolean not null default false;
