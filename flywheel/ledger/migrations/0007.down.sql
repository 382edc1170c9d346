drop table feature_reads;
