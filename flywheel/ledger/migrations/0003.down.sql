drop table decisions, review;
