drop table judgements, label_tasks, label_projects;
