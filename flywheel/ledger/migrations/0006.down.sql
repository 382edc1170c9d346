drop table acceptances;
