-- A ledger as the release with migration 7 left it: every table has a row. Tests bring copies of it forward and back.
insert into answers (id, at, prompt, input, response, model_version, "user", forgotten) values
    ('a1', '2026-03-01T10:00Z', 'What is a heap?', '', 'A pile.', '1', 'Ada', null),
    ('a2', '2026-03-01T10:05Z', '', '', '', '1', '', '2026-04-01T00:00Z');
insert into batches (id, at, finished) values (1, '2026-03-02T00:00Z', true), (2, '2026-03-03T00:00Z', false);
insert into feedback (number, id, idempotency_key, answer_id, at, body, segment, batch, keep_until, withheld, unsettled, sha256, logged) values
    (1, 'f1', 'key-0001', 'a1', '2026-03-01T11:00Z', '{"answer_id": "a1", "idempotency_key": "key-0001", "thumb": "down", "correction": "A tree.", "user": "Ada", "consent": true}', '000000000001-000000000002.jsonl', 1, '2028-03-01T00:00Z', null, false, null, '2026-03-01T12:00Z'),
    (2, 'f2', 'key-0002', 'a2', '2026-03-01T11:05Z', '{}', '000000000001-000000000002.jsonl', 1, '2028-03-01T00:00Z', 'forgotten: asked for', false, 'c0ffee', null),
    (3, 'f3', 'key-0003', 'a1', '2026-03-04T11:00Z', '{"answer_id": "a1", "idempotency_key": "key-0003", "thumb": "up", "user": "Bea", "consent": false, "supersedes": "f1"}', null, null, '2028-03-01T00:00Z', null, false, null, null);
insert into segments (name, sealed, sha256) values ('000000000001-000000000002.jsonl', '2026-03-01T12:00Z', 'abc');
insert into events (number, at, actor, action, detail) values (1, '2026-03-02T00:00Z', 'run x', 'promote', '{"version": 1, "before": null}');
insert into lineage (kind, id, at, detail, feedback) values ('version', '1', '2026-03-02T00:00Z', '{"run_dir": "runs/flywheel/x"}', '{1}');
insert into review (number, id, at, answer_id, feedback_id, reason, priority, state) values (1, 'r1', '2026-03-02T00:00Z', 'a1', 'f1', 'doubt', 0.5, 'approve');
insert into decisions (item, reviewer, at, decision, feedback_id) values ('r1', 'Cleo', '2026-03-02T00:00Z', 'approve', 'f3');
insert into outcomes (number, at, rollout, arm, version, seconds, tokens, failed, refused) values (1, '2026-03-02T00:00Z', 2, 'challenger', '2', 1.5, 12, false, false);
insert into label_projects (url, project, pulled) values ('http://127.0.0.1:1', 4, '2026-03-02T00:00Z');
insert into label_tasks (url, project, task, item) values ('http://127.0.0.1:1', 4, 9, 'r1');
insert into judgements (tool, key, item, annotator, changed, decision, rating, better, problem, at) values ('prodigy', 'k', 'r1', 'Cleo', 'h', 'approve', 4, null, null, '2026-03-02T00:00Z');
insert into acceptances ("user", policy, at) values ('Ada', 'p1', '2026-03-01T00:00Z');
insert into feature_reads (number, at, reader, entity, key, views) values (1, '2026-03-01T00:00Z', 'serving', 'user', 'Ada', '{}');
