-- Whose call began an attempt: a dispatcher that lost the answer asks again, and is
-- granted the same attempt. A constant default is instant on a table in use.

alter table attempt add column nonce bigint not null default 0;
