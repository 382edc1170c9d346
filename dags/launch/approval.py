"""A person's yes before a rollout, when the gate's policy asks for one: Airflow's approval operator, with the verdict beside it.

The answer comes from Airflow's pages, or from the signed link in the message that was sent (flywheel/notices/approving.py).
"""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

from airflow.providers.standard.operators.hitl import ApprovalOperator
from airflow.sdk import Param
from airflow.sdk.exceptions import TaskAwaitingInput

from dags.launch import base, explain, links, tell_failure, telling
from flywheel import manifest, store
from flywheel.notices import approving
from flywheel.settings import settings


class PromotionApproval(ApprovalOperator):
    """Waits in Airflow's list of required actions; passes at once when nobody needs to be asked. FLYWHEEL_APPROVAL_TIMEOUT says what no answer means."""

    ui_color = "#f7f0dc"
    operator_extra_links = tuple(links.of("approve"))

    def __init__(self, **options: Any) -> None:
        comment = Param("", source="task", type=["null", "string"], maxLength=1000, title="Comment", description="For the audit log")
        options = {
            "doc_md": explain.of("approve"),
            "on_failure_callback": tell_failure,
            **options,
            "params": {"comment": comment},  # and not the DAG's, which Airflow passes on: its form would ask for them again
        }
        unanswered = self.APPROVE if settings().approval_timeout == "approve" else self.REJECT
        super().__init__(
            subject="Roll out the new model version?", defaults=[unanswered], response_timeout=timedelta(hours=settings().approval_hours), **options
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
        then = "rolled out" if settings().approval_timeout == "approve" else "held"
        self.body = f"{verdict['paragraph']}\n\n[The evaluation report]({registered['page']})\n\nWithout an answer it is {then}."
        try:
            return super().execute(context)
        except TaskAwaitingInput:
            telling.asked(context, registered["version"], verdict["paragraph"])
            raise

    def execute_complete(self, context: Any, event: dict[str, Any]) -> Any:
        """Who said yes, for the rollout's audit entry; a no skips the rollout."""
        found = super().execute_complete(context, event)
        option, user = found["chosen_options"][0], found["responded_by_user"] or {}
        said = str((found["params_input"] or {}).get("comment") or "")
        by_link = approving.person(said, context["dag_run"].run_id, option) if said and settings().link_key else ""
        name = by_link or user.get("name") or user.get("id") or "nobody, as FLYWHEEL_APPROVAL_TIMEOUT says"
        self.log.info("%s: %s%s", "approved" if option == self.APPROVE else "held", name, f" ({said})" if said and not by_link else "")
        return name if option == self.APPROVE else None
