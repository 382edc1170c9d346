drop table holds;
alter table segments drop column archived;
