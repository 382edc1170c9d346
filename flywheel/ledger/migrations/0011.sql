-- Legal holds, and segments whose file retention has deleted.
create table holds (
    kind text not null check (kind in ('user', 'record', 'run', 'dataset', 'version')),
    name text not null,
    at timestamptz not null default now(),
    actor text not null,
    reason text not null,
    primary key (kind, name)
);

alter table segments add column archived timestamptz;
