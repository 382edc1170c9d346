"""What features change about a request, while FLYWHEEL_FEATURES_URL names their server: its rate tier, who answers it, and what the prompt says.

Without that one setting nothing is read, and nothing waits. With it, a person whose token came with the request has the tier of their
profile; FLYWHEEL_SERVING_TIER_VERSIONS sends tiers to versions, and FLYWHEEL_SERVING_PROMPT_FEATURES names what the model is told, in the
question's `input`, which the ledger keeps: training sees it as the model did. Every read is in the access log.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from prometheus_client import Histogram

from flywheel import features, prompt
from flywheel.errors import FlywheelError
from flywheel.feature_rows import prompt_key
from flywheel.records import Message
from flywheel.settings import settings
from serving import outcomes
from serving.answering import Question
from serving.auth import Principal
from serving.group_commit import GroupCommit
from serving.pool import Pool
from serving.settings import serving

log = logging.getLogger("flywheel.serving")
READER = "serving"
TIER_SECONDS, PEOPLE = 30.0, 10_000  # how long a tier holds, so that not every request waits for a read; and of how many people
SECONDS = Histogram("flywheel_feature_read_seconds", "Time to read an entity's features", buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25))


def told(turns: Sequence[Message], known: str) -> list[Message]:
    """A conversation whose last question comes with what is known, after its input."""
    if not known:
        return list(turns)
    text, input = prompt.parts(turns[-1])
    return prompt.messages(text, f"{input}\n\n{known}" if input else known, turns[:-1])


class Features:
    """The reads of one service. Lives on one event loop."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self._tiers: dict[str, tuple[float, str]] = {}
        self.log: GroupCommit[features.Read, None] = GroupCommit(_record)

    async def _read(self, entity: str, key: str) -> dict[str, Any]:
        if key == "anonymous":
            return features.defaults(entity)
        with SECONDS.time():
            found = await asyncio.to_thread(features.fetch, entity, key)
        if found is None:
            return features.defaults(entity)
        outcomes.keep(asyncio.create_task(self._log(found)))  # the answer takes longer
        return found.values

    async def _log(self, found: features.Read) -> None:
        try:
            await self.log.add(found)
        except FlywheelError as error:
            log.error("a read of features is not in the access log: %s", error.sentence)

    async def tiered(self, caller: Principal) -> Principal:
        """A caller with the tier of their profile: of a person whose token came. A key speaks for many, and has its own."""
        if not settings().features_url or not caller.person:
            return caller
        until, tier = self._tiers.get(caller.person, (0.0, ""))
        if time.monotonic() > until:
            tier = (await self._read("user", caller.person))["tier"]
            if len(self._tiers) >= PEOPLE:
                self._tiers.clear()
            self._tiers[caller.person] = (time.monotonic() + TIER_SECONDS, tier)
        return caller.model_copy(update={"tier": tier})

    async def asked(self, question: Question) -> Question:
        """A question with what the settings tell the model, sent to whom they send its user's tier."""
        if not settings().features_url:
            return question
        shown, versions = serving().prompt_features, serving().tier_versions
        wanted = {entity for entity in ("user", "prompt") if set(shown) & set(features.defaults(entity))} | ({"user"} if versions else set())
        if not wanted:
            return question
        keys = {"user": question.user, "prompt": prompt_key(question.text, question.input)}
        found = await asyncio.gather(*(self._read(entity, keys[entity]) for entity in sorted(wanted)))
        values = {name: value for one in found for name, value in one.items()}
        if shown and not isinstance(question.turns, str):
            known = f"{prompt.KNOWN} {', '.join(f'{name} {_written(values[name])}' for name in shown)}."
            question = replace(question, known=known)
        version = self._version(versions.get(values.get("tier", ""), ""))
        return replace(question, version=version, compared=False) if version and not question.version else question

    def _version(self, wanted: str) -> str:
        """The version that a setting's word means now; empty: whoever the rollout gives this person."""
        if wanted == "champion":
            return self.pool.champion or ""
        if wanted == "challenger":
            desired = self.pool.desired
            return desired.challenger_name if desired.live and desired.share > 0 and desired.challenger_name in self.pool.versions() else ""
        return wanted


def _written(value: Any) -> str:
    return f"{value:.2g}" if isinstance(value, float) else str(value)


def _record(found: list[features.Read]) -> list[None]:
    features.record(READER, found)
    return [None] * len(found)
