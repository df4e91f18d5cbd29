-- Browser tokens are signed, not stored: only those that were revoked are kept,
-- until the longest life of a token has passed.
create table realtime_revocation (
    account_id text not null references account (id),
    token_id   text collate "C" not null,
    ends_at    timestamptz not null,
    primary key (account_id, token_id)
);

create index realtime_revocation_ends on realtime_revocation (ends_at);
