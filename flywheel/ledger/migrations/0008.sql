-- What people are told: one row a message, written before it is sent; `pending` names the channels that it has not reached.
create table notices (
    key text primary key,
    at timestamptz not null default now(),
    kind text not null,
    message jsonb not null,
    pending text[] not null,
    due timestamptz not null default now(),
    tries integer not null default 0,
    problem text not null default ''
);
create index notices_due on notices (due) where pending <> '{}';
