-- Who accepted which version of the usage policy, and when.
create table acceptances (
    "user" text not null,
    policy text not null,  -- the version: the beginning of the text's SHA-256
    at timestamptz not null default now(),
    primary key ("user", policy)
);
