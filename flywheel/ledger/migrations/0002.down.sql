drop table lineage;
alter table segments drop column sha256;
alter table feedback
    drop column "user", drop column supersedes, drop column keep_until, drop column withheld, drop column unsettled, drop column sha256,
    drop column logged;
drop index feedback_at, feedback_unsealed, feedback_unclaimed;
drop index answers_at, answers_user;
alter table answers drop column forgotten;
