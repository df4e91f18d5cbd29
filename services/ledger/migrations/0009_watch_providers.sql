-- no transaction
-- What is needed to cancel at providers, to judge their webhooks, to give an
-- attempt up knowingly, and to match their invoices. It may be run again.

-- The caller's wish to cancel a job that a provider has, and why it has no effect
-- (unsupported, too_late).
alter table job
    add column if not exists cancel_requested_at timestamptz,
    add column if not exists cancel_refused text not null default '';

-- An attempt that another followed although its outcome is unknown; who told its
-- end (webhook, hint, poll, …); when the provider called after a poll had told it.
alter table attempt
    add column if not exists given_up boolean not null default false,
    add column if not exists verdict_source text not null default '',
    add column if not exists webhook_at timestamptz;

-- The last verdicts of each provider.
drop index concurrently if exists attempt_verdict;

create index concurrently attempt_verdict on attempt (provider, ended_at desc) where verdict_source <> '';

-- A provider's tasks of a time, for its invoice: ids sort by time.
drop index concurrently if exists attempt_of_provider;

create index concurrently attempt_of_provider on attempt (provider, id);

-- Where a task's id is a path, webhooks name its last part only.
drop index concurrently if exists attempt_by_task_end;

create index concurrently attempt_by_task_end on attempt (provider, (substring(provider_task_id from '[^/]*$'))) where provider_task_id like '%/%';
