"""The feature store, brought up to date: offline rows from the ledger, definitions applied, online values materialized, skew looked for.

    .venv/features/bin/python -m tasks.features --config config/flywheel.yaml --run-dir .flywheel/store/runs/hand/features

Runs in the feature store's own environment; skipped while features are off. Outputs: the offline rows by view (Parquet), and `training`: each
judged answer with what was known of its asker and its question when it was given.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

from flywheel import feature_rows, features, stage, store
from flywheel.errors import ContractError, DataError
from flywheel.feature_rows import Verdict
from flywheel.manifest import Artifact
from flywheel.settings import settings

READS = timedelta(days=1)


def extra(ctx: stage.Context) -> dict[str, Artifact]:
    """Each run looks anew: its input is the moment's ledger."""
    return {"ledger": Artifact(uri=ctx.run_dir, sha256=store.sha256_text(ctx.run_dir), bytes=0)}


def profiles(path: str) -> list[dict[str, Any]]:
    """The owner's JSONL of user, tier, locale and since (ISO). Raises ContractError that names the line."""
    rows = []
    for number, line in enumerate(store.read_bytes(path).decode().splitlines() if path else (), 1):
        try:
            given = json.loads(line)
            since = datetime.fromisoformat(given["since"])
            rows.append({"user": str(given["user"]), "event_timestamp": since if since.tzinfo else since.replace(tzinfo=UTC),
                         "tier": str(given["tier"]), "locale": str(given["locale"])})  # fmt: skip
        except (ValueError, KeyError, TypeError) as error:
            mend = "Write {user, tier, locale, since} as JSON, one a line; since is an ISO time."
            raise ContractError(f"line {number} is no profile ({error})", where=f"features.profiles: {path}", mend=mend) from error
    return rows


def run(ctx: stage.Context) -> None:
    """Write, apply, materialize, compare."""
    if not settings().features_url:
        return ctx.skip("features are off: FLYWHEEL_FEATURES_URL is empty")
    import pandas

    from features import definitions, skew

    found = feature_rows.verdicts(ctx.config.features.topics)
    rows = {
        "user_profile": profiles(ctx.config.features.profiles),
        "rater_stats": feature_rows.rater_stats(found),
        "prompt_stats": feature_rows.prompt_stats(found),
    }
    for view, of_view in rows.items():
        frame = definitions.frame(view, of_view)
        frame.to_parquet(ctx.path(f"{view}.parquet"), index=False)
        ctx.output(view, ctx.path(f"{view}.parquet"), len(frame))
        store.write_bytes(definitions.path(view), ctx.path(f"{view}.parquet").read_bytes())
    feast = definitions.feature_store()
    feast.apply([definitions.USER, definitions.PROMPT, *definitions.views()])
    now = datetime.now(UTC)
    feast.materialize(now - max(definitions.FRESH.values()), now)
    pandas.DataFrame(training(feast, found)).to_parquet(ctx.path("training.parquet"), index=False)
    ctx.output("training", ctx.path("training.parquet"), len(found))
    reads = features.reads(now - READS)
    apart = skew.differences(feast, reads)
    for sentence in apart[:10]:
        ctx.say(sentence)
    ctx.metrics |= {**{view: len(of_view) for view, of_view in rows.items()}, "reads": len(reads), "skew": len(apart)}
    if apart:
        mend = "See the lines above: a feature is computed in two ways, or values do not reach the online store."
        raise DataError(f"serving saw other features than training would, {len(apart)} times", where="features", mend=mend)
    return None


def training(feast: Any, found: list[Verdict]) -> list[dict[str, Any]]:
    """Each judged answer with the features at the moment it was given: what came later is not in them."""
    from features import skew

    users = skew.join(feast, "user", [(v.asker, v.asked_at) for v in found])
    prompts = skew.join(feast, "prompt", [(v.prompt, v.asked_at) for v in found])
    kept = lambda row: {name: value for name, value in row.items() if "__" in name}  # noqa: E731
    return [{"feedback": v.id, "answer": v.answer_id, "at": v.asked_at, **kept(u), **kept(p)} for v, u, p in zip(found, users, prompts, strict=True)]


STAGE = stage.Stage("features", run, extra=extra)
if __name__ == "__main__":
    stage.main(STAGE)
