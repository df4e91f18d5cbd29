-- Uploads: files of accounts in the bucket that videos are made from. The tables
-- are new: every statement is instant on an installation in use.

create table upload (
    id           text collate "C" primary key,
    account_id   text not null references account,
    key          text collate "C" not null unique check (key like 'uploads/%'),
    state        text not null default 'pending' check (state in ('pending', 'ready')),
    content_type text not null,
    size_bytes   bigint not null default 0 check (size_bytes >= 0),  -- 0: not known yet
    sha256       bytea check (length(sha256) = 32),
    width        int not null default 0 check (width >= 0),
    height       int not null default 0 check (height >= 0),
    created_at   timestamptz not null default now(),
    expires_at   timestamptz not null,
    open_until   timestamptz not null default now(),  -- until then a stranger may write the object
    dropped_at   timestamptz,                         -- its owner has none any more
    check ((state = 'ready') = (sha256 is not null)),
    check (state = 'pending' or size_bytes > 0)
);
create index upload_by_account on upload (account_id, id desc);
-- What the sweep looks for.
create index upload_over on upload (coalesce(dropped_at, expires_at));

-- Which jobs need which uploads. A job is no foreign key: its table has parts.
create table job_upload (
    job_id    text collate "C" not null,
    upload_id text collate "C" not null references upload on delete cascade,
    primary key (upload_id, job_id)
);
create index job_upload_by_job on job_upload (job_id);
