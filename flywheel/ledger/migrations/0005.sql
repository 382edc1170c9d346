-- What annotation tools were given, and who said what of it. No texts: those are in the tool, and what is decided is in the ledger.
create table label_projects (
    url text not null,
    project bigint not null,
    pulled timestamptz not null default 'epoch',  -- what changed before is here
    primary key (url, project)
);

create table label_tasks (
    url text not null,
    project bigint not null,
    task bigint not null,
    item text not null references review (id),
    primary key (url, project, task),
    unique (url, project, item)
);

create table judgements (
    tool text not null,       -- a Label Studio project, or prodigy
    key text not null,        -- the tool's own name of it
    item text not null references review (id),
    annotator text not null,
    changed text not null,    -- by the tool's clock, or its hash
    decision text check (decision in ('approve', 'edit', 'reject', 'skip')),
    rating integer,
    better text,
    problem text,             -- why it does not count
    at timestamptz not null default now(),
    primary key (tool, key)
);
create index judgements_item on judgements (item);
