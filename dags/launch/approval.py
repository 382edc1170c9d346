"""A person's yes before a rollout, when the gate's policy asks for one: Airflow's approval operator, with the verdict beside it."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

from airflow.providers.standard.operators.hitl import ApprovalOperator

from dags.launch import base, explain, links
from flywheel import manifest, store
from flywheel.settings import settings


class PromotionApproval(ApprovalOperator):
    """Waits in Airflow's list of required actions; passes at once when nobody needs to be asked. No answer in time holds."""

    ui_color = "#f7f0dc"

    operator_extra_links = tuple(links.of("approve"))

    def __init__(self, **options: Any) -> None:
        options = {"doc_md": explain.of("approve"), **options}
        super().__init__(
            subject="Roll out the new model version?", defaults=[self.REJECT], response_timeout=timedelta(hours=settings().approval_hours), **options
        )

    def execute(self, context: Any) -> Any:
        """Ask, or pass."""
        gate = manifest.read_for(base.run_dir(context), "gate")
        if gate.metrics.get("approval") != "needed" or not base.rolls_out(context):
            self.log.info("nobody needs to be asked")
            return None
        registered = manifest.read_for(base.run_dir(context), "register").metrics
        verdict = json.loads(store.read_bytes(gate.outputs["verdict"].location))
        self.subject = f"Roll out version {registered['version']}?"
        self.body = f"{verdict['paragraph']}\n\n[The evaluation report]({registered['page']})\n\nWithout an answer it is held."
        return super().execute(context)

    def execute_complete(self, context: Any, event: dict[str, Any]) -> Any:
        """Who said yes, for the rollout's audit entry; a no, or no answer, skips the rollout."""
        found = super().execute_complete(context, event)
        person = found["responded_by_user"] or {}
        name = person.get("name") or person.get("id") or "nobody"
        self.log.info("%s: %s", "approved" if found["chosen_options"] == [self.APPROVE] else "held", name if person else "no answer in time")
        return name if found["chosen_options"] == [self.APPROVE] else None
