-- Jobs that wait for their turn at a provider, in a fair order. Both new columns
-- of job and account are instant on a table in use; an older version leaves
-- turn empty and submits at once.

create table queue (
    provider text not null,
    turn     bigint not null,             -- virtual time: see queue.go
    job_id   text collate "C" not null,
    primary key (provider, turn, job_id)
) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000, autovacuum_vacuum_cost_delay = 0);

-- How far each provider's queue has come: the turn of the last job that left it.
create table queue_clock (
    provider text primary key,
    turn     bigint not null
) with (fillfactor = 20);

alter table job add column turn bigint;   -- where it stands, or stood, in the queue

alter table account
    add column queue_weight int not null default 1 check (queue_weight between 1 and 100),
    add column top_priority smallint not null default 2 check (top_priority between 1 and 3); -- reelway.video.v1.Priority
