-- Jobs that may be made in several ways. Every statement is instant on a ledger
-- in use: what is added are constants. Why the plan lies with the job:
-- docs/decisions/0019-routes.md.

alter table job
    add column plan  bytea,                          -- reelway.ledger.v1.Plan; null: one model, as the row says
    add column route int not null default 0,         -- which of the plan's routes provider, model and params are of
    add column routes int not null default 0;        -- how many the plan has, for SQL

alter table attempt
    add column route int not null default 0;         -- of the job's plan
