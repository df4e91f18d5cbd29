-- The queue knows the models that its jobs are for, so that one whose commands
-- lie on the bus for long leaves room for its provider's others. Rows of an older
-- version have none and are read like those of a model more. The table holds what
-- waits at the moment, and is short.

alter table queue add column model text not null default '';

create index queue_by_model on queue (provider, model, turn, job_id);
