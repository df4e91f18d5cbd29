-- How long the files of accounts with an age of their own are kept. An account
-- that had one once keeps its row: the chore that goes by the common age passes
-- it over, and this one goes through its jobs by itself.
create table video_retention (
    account_id   text primary key references account,
    keep_seconds bigint check (keep_seconds >= 0),       -- 0: for ever; null: the common age
    after        text collate "C" not null default ''    -- the last job whose file was removed, or that had none
);
