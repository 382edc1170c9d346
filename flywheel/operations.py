"""What operators do to a running flywheel, each with an entry in the audit log: promote by hand, retire, pause, resume.

From a terminal `flywheel promote 3 --reason …`; from Airflow the DAG `operate`. Rollback and retirement are `flywheel.registry`'s,
forgetting is `flywheel.forgetting`'s.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from flywheel import ledger, registry
from flywheel.airflow_api import AirflowApi
from flywheel.errors import ContractError, NotFound
from flywheel.settings import settings

DAGS = ("flywheel", "feedback")
"""What turns the wheel; the others only look after it."""


def promote(version: int, actor: str, reason: str) -> None:
    """Make a version the champion at once, without a trial; a rollout that goes on is ended.

    Raises ContractError for one that was refused or retired, or without a reason.
    """
    need(reason)
    registry.by_hand(version)
    registry.promote(version, actor, f"by hand: {reason}")


def retire(version: int, actor: str, reason: str) -> None:
    """Never serve a version again."""
    need(reason)
    registry.retire(version, actor, reason)


def pause(actor: str, reason: str, dags: Sequence[str] = DAGS, *, paused: bool = True) -> list[str]:
    """Let no run of these DAGs begin, or let them again; those whose state was changed. What runs goes on to its end.

    Raises NotFound for a DAG that Airflow does not have, before anything is changed.
    """
    need(reason)
    api = AirflowApi()
    found = {dag: api.dag(dag) for dag in dags}
    if missing := [dag for dag, known in found.items() if known is None]:
        raise NotFound("Airflow has no such DAG", where=", ".join(missing), mend=f"Look at {settings().airflow_url}/dags.")
    changed = [dag for dag, known in found.items() if known and known["is_paused"] is not paused]
    for dag in changed:
        api.pause(dag, paused=paused)
    action: Literal["pause", "resume"] = "pause" if paused else "resume"
    if changed:
        ledger.record_event(actor, action, dags=changed, reason=reason)
    return changed


def need(reason: str) -> None:
    """Raises ContractError when nobody says why."""
    if not reason.strip():
        raise ContractError("a reason is missing", where="reason", mend="Say why: it goes into the audit log.")
