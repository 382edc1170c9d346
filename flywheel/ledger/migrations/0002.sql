-- Supersede, withdraw, forget; retention; the outbox to MLflow; what data sets and versions learned from.
alter table answers add column forgotten timestamptz;
create index answers_at on answers (at);
create index answers_user on answers ("user");

alter table feedback
    add column "user" text generated always as (body ->> 'user') stored,
    add column supersedes text generated always as (body ->> 'supersedes') stored,
    add column keep_until timestamptz not null default now() + interval '730 days',
    add column withheld text,              -- why it may not be learned from
    add column unsettled boolean not null default false,  -- its batch does not show that yet
    add column sha256 text,                -- of the body, once that is forgotten
    add column logged timestamptz;         -- when MLflow was told; null: has to be told
update feedback set keep_until = at + interval '730 days';
create index feedback_at on feedback (at);
create index feedback_user on feedback ("user");
create index feedback_keep_until on feedback (keep_until) where sha256 is null;
create index feedback_supersedes on feedback (supersedes) where supersedes is not null;
create index feedback_unsealed on feedback (number) where segment is null;
create index feedback_unclaimed on feedback (number) where batch is null;
create index feedback_unsettled on feedback (number) where unsettled;
create index feedback_unlogged on feedback (number) where logged is null;

alter table segments add column sha256 text;

create table lineage (
    kind text not null check (kind in ('dataset', 'version')),
    id text not null,
    at timestamptz not null,
    detail jsonb not null,
    feedback bigint[] not null,
    primary key (kind, id)
);
create index lineage_feedback on lineage using gin (feedback);
