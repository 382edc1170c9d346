"""Turn feedback into training records: claim what waits as one batch, judge every record by `curate.rules`, publish the batch.

    python -m tasks.curate --config config/flywheel.yaml --run-dir .flywheel/store/runs/hand/curate

Skipped while people still write, or while there is too little for a turn. A batch that a killed curation left unfinished is taken
up first, so that no record is lost or used twice. The rules are in `tasks.curation`.

Outputs: `examples` (JSONL of Example: what the next turn learns from); `pairs` and `thumbs` (JSONL in the forms that TRL's DPO and KTO
trainers read), `regressions` (JSONL of questions: failures with the right answer); `records` (CSV: where each record went, by which rule and
why) and `report` (HTML). The last two hold no text that anybody wrote.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from flywheel import formats, ledger, stage, store
from flywheel.config import Curate
from flywheel.config.curation import Raters
from flywheel.ledger import CLAIMED, SEGMENTS, WAITING, Batch, review, votes
from flywheel.manifest import Artifact
from flywheel.records import FAILURE, Example, Feedback
from flywheel.settings import settings
from tasks import suites
from tasks.curation import curate, report
from tasks.curation.desk import LEARNED, Desk, Known, Vote, case_of

COLUMNS = ("id", "route", "rule", "why", "sure")


def extra(ctx: stage.Context) -> dict[str, Artifact]:
    """Each run looks anew: its input is the moment's ledger, which no other run shares."""
    return {"ledger": Artifact(uri=ctx.run_dir, sha256=store.sha256_text(ctx.run_dir), bytes=0)}


def promising(records: Sequence[Feedback], now: datetime) -> tuple[int, int]:
    """How many may be learned from, and how many of them bring a text: a correction, or a choice between two answers."""
    usable = [r for r in records if r.consent and not r.withheld and r.keep_until > now and r.prompt.strip()]
    texts = sum(bool((r.correction or "").strip() or (r.preference and r.preference.won is not None)) for r in usable)
    return texts + sum(bool(not r.correction and not r.preference and (r.thumb or r.rating)) for r in usable), texts


def not_yet(waiting: Sequence[Feedback], conf: Curate, now: datetime) -> tuple[str, datetime | None]:
    """Why what waits is no batch yet, and when to look again though nothing new comes; no reason when it is one."""
    usable, count = promising(waiting, now)
    if usable == 0:
        return f"{len(waiting)} waiting records, none of them usable", None
    due = min(r.timestamp for r in waiting) + timedelta(hours=conf.max_wait_hours)
    calm = max(r.timestamp for r in waiting) + timedelta(seconds=conf.debounce_seconds)
    if now >= due:
        return "", None
    if count < conf.min_batch:
        return f"{count} usable of {len(waiting)} waiting records; a batch needs {conf.min_batch}, or {conf.max_wait_hours:g} hours of waiting", due
    if now < calm:
        return f"{count} usable records, and people are still writing: a batch needs {conf.debounce_seconds:g} quiet seconds", min(calm, due)
    return "", None


def desk_of(batch: Batch, conf: Curate, scratch: Path, cache: Path) -> Desk:
    """A batch's records as cases, and what the ledger knows beside them."""
    history = next((rule.history for rule in conf.rules if isinstance(rule, Raters)), 0)
    with ledger.transaction() as db:
        decided = review.decided(db, [r.id for r in batch.records])
        before = [(case_of(one.record), one.reviewed) for one in votes.earlier(db, batch.id, history)]
        verdicts = votes.verdicts(db, max(history, len(batch.records)))
        reviewed = votes.records(db, {one.of for one in decided.values() if one.of})
        others = votes.responses(db, {r.preference.other_id for r in batch.records if r.preference and r.preference.other_id})
    said = [Vote(c.record.user, c.item, c.vote, c.record.timestamp, by_reviewer) for c, by_reviewer in before if c.vote is not None]

    def traffic(prompts: Any) -> Any:
        with ledger.transaction() as db:
            return votes.traffic(db, prompts)

    cases = [case_of(record, decided.get(record.id)) for record in batch.records]
    return Desk(cases, datetime.now(UTC), Known(said, verdicts, reviewed, others, traffic), scratch, cache)


def run(ctx: stage.Context) -> None:
    """Wait for more, or claim, curate and publish."""
    conf = ctx.config.curate
    seen = store.list_names(store.join(settings().store, SEGMENTS))
    claimed = set(store.list_names(store.join(settings().store, CLAIMED)))
    for sentence in ledger.check_segments(name for name in seen if name not in claimed):
        ctx.say(sentence)
    if ledger.unfinished_batch() is None:
        reason, until = not_yet(ledger.waiting(), conf, datetime.now(UTC))
        if reason:
            note = {"segments": seen, "until": until.isoformat() if until else None}
            store.write_bytes(store.join(settings().store, WAITING), json.dumps(note).encode())
            return ctx.skip(reason)
    batch = ledger.claim()
    desk = desk_of(batch, conf, ctx.path("."), ctx.cache)
    curate(desk, conf.rules)
    with ledger.publishing(batch) as withheld:
        take_back(desk, withheld)
        with ledger.transaction() as db:  # a death before the end of the batch offers the same again, and it is there once
            review.offer(db, [ask for ask in desk.asks if ask.feedback_id not in withheld])
        ledger.publish(batch, *write(ctx, desk))
    for count in desk.counts:
        into = ", ".join(f"{count[route]} {route}" for route in (*LEARNED, "review", "dropped") if count[route])
        ctx.say(f"  {count['rule'].replace('_', ' ')}: {count['in']} in, {into or 'none moved'}")
    routes = desk.routes()
    used = sum(routes[route] for route in LEARNED)
    ctx.say(f"batch {batch.name}: {len(batch.records)} records, {used} learned from as {len(desk.examples)} examples, {len(desk.asks)} questions to reviewers")
    ctx.metrics |= {"batch": batch.name, "records": len(batch.records), "used": used, "examples": len(desk.examples), "asked": len(desk.asks)}
    ctx.metrics |= {str(route): n for route, n in routes.items()}
    ctx.metrics |= {f"dropped.{count['rule']}": count["dropped"] for count in desk.counts if count["dropped"]}
    return None


def take_back(desk: Desk, withheld: set[str]) -> None:
    """Take out what was withdrawn while the batch was curated."""
    desk.rule = "rights"
    desk.remove({place: "it rested on a record that was taken back" for place, e in enumerate(desk.examples) if withheld & set(e.feedback_ids)})
    for case in desk.cases:
        if case.record.id in withheld:
            desk.send(case, "dropped", "withheld: taken back")


def write(ctx: stage.Context, desk: Desk) -> tuple[Artifact, dict[str, Artifact]]:
    """Every output; the examples, and the files that hold the same texts."""

    def lines(name: str, rows: Sequence[dict[str, Any]]) -> Artifact:
        path = ctx.path(f"{name}.jsonl")
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
        return ctx.output(name, path, len(rows))

    def chats(kind: str) -> list[dict[str, Any]]:
        return [{**formats.to_chat(e), "feedback_ids": e.feedback_ids} for e in desk.examples if e.kind == kind]

    failures = [e for e in desk.examples if e.slice == FAILURE and e.kind == "supervised"]
    with open(ctx.path("records.csv"), "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(COLUMNS)
        table.writerows((c.record.id, c.route, c.rule, c.why, f"{c.sure:.3f}") for c in desk.cases)
    ctx.output("records", ctx.path("records.csv"), len(desk.cases))
    ctx.path("report.html").write_text(report.page(desk, ctx.run_dir))
    ctx.output("report", ctx.path("report.html"))
    return _examples(ctx, desk.examples), {
        "pairs": lines("pairs", chats("preference")),
        "thumbs": lines("thumbs", chats("thumb")),
        "regressions": lines("regressions", [{**suites.of_example(e).model_dump(exclude_defaults=True), "feedback_ids": e.feedback_ids} for e in failures]),
    }


def _examples(ctx: stage.Context, examples: Sequence[Example]) -> Artifact:
    path = ctx.path("examples.jsonl")
    path.write_text("".join(e.model_dump_json() + "\n" for e in examples))
    return ctx.output("examples", path, len(examples))


STAGE = stage.Stage("curate", run, extra=extra)
if __name__ == "__main__":
    stage.main(STAGE)
