"""Try one combination of `search.grid`: learn from a part of the examples, score others whose groups were set aside.

    python -m tasks.trial --config config/search.yaml --run-dir .flywheel/store/runs/hand/1/trials/0 --set search.trial=0

Its data are those of the run two folders above. A combination that makes training go wrong is a result, not a failure.
Output: `result` (JSON: settings, loss in nats a token, why there is none).
"""

from __future__ import annotations

import json

from flywheel import base_model, manifest, spend, stage, store
from flywheel.errors import ContractError, DataError
from flywheel.manifest import Artifact
from flywheel.model import load, score_answers
from flywheel.records import Example
from tasks import train, worth
from tasks.training import rows

DATA = (("clean", "train"), ("tokenize", "train"))
BATCH = 16


def extra(ctx: stage.Context) -> dict[str, Artifact]:
    """The base model, and the examples of the run that this is a trial of."""
    run = ctx.run_dir.rsplit("/", 2)[0]
    found = {f"{name}.{output}": manifest.read_for(run, name).outputs[output] for name, output in DATA}
    return {"base": base_model.identity(ctx.config.model.base)} | found


def divided(every: list[rows.Row], groups: dict[str, str], share: float, seed: int) -> tuple[list[rows.Row], list[rows.Row]]:
    """What may be learned and what is judged, in an order drawn by seed; no group is in both."""
    order = sorted(every, key=lambda row: store.sha256_text(str(seed), row.id))

    def aside(row: rows.Row) -> bool:
        return int(store.sha256_text("search", str(seed), groups[row.id])[:8], 16) / 16**8 < share

    return [row for row in order if not aside(row)], [row for row in order if aside(row)]


def run(ctx: stage.Context) -> None:
    """Learn, and judge."""
    trial, changes = ctx.config.trial, ctx.config.search.combinations(ctx.config.seed)[ctx.config.search.trial]
    if trial.train.objective != "sft":
        raise ContractError("trials are judged by the loss of answers", where="train.objective", mend="Set it to sft.")
    if reason := worth.budget_spent(spend.this_week(), trial.train):
        return ctx.skip(reason)
    source = ctx.fetch("tokenize.train")
    groups = {e.id: e.group for e in map(Example.model_validate_json, ctx.fetch("clean.train").read_bytes().splitlines())}
    learned, judged = divided(rows.read(source), groups, trial.set_aside, ctx.config.seed)
    learned, judged = learned[: trial.examples], judged[: trial.judged]
    if min(len(learned), len(judged)) < 2:
        what = f"{len(learned)} examples to learn and {len(judged)} to judge on are too few"
        raise DataError(what, where="search.set_aside", mend="Collect more, or change the share.")
    said = ", ".join(f"{name} {value}" for name, value in changes.items())
    ctx.say(f"trial {ctx.config.search.trial}: {said}; {len(learned)} examples, judged on {len(judged)}")
    loss: float | None = None
    why = ""
    job = train.plan(ctx, trial.train, learned, None)
    try:
        train.teach(job, ctx, source)
    except DataError as error:
        why = error.what
    else:
        scores = score_answers(load(job.base, ctx.path("adapter"), "float32"), [(row.ids, row.prompt) for row in judged], BATCH)
        loss = sum(score.loss for score in scores) / sum(score.tokens for score in scores)
    ctx.say(f"  {why or f'{loss:.4f} nats a token on what was set aside'}")
    ctx.path("result.json").write_text(json.dumps({"settings": changes, "loss": loss, "why": why, "judged": len(judged)}))
    ctx.output("result", ctx.path("result.json"))
    ctx.metrics |= {"loss": loss, **{name: json.dumps(value) for name, value in changes.items()}}
    return None


STAGE = stage.Stage("trial", run, extra=extra)
if __name__ == "__main__":
    stage.main(STAGE)
