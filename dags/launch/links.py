"""Links from a task to what it made: its MLflow run, report, model version, data card, the run's page, its pod.

They lead to `dags/pages`, inside Airflow's own web server, which looks up at a click where the thing lies by now: a link is a pure function
of run and kind, so that it can be written when the task ends and holds however the store or MLflow moves.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from airflow.sdk import BaseOperatorLink

from flywheel.settings import settings

PREFIX = "/flywheel"


def address(dag_id: str, run_id: str, page: str) -> str:
    """The URL of a run's page, e.g. `report`, or `manifest/train`."""
    return f"{settings().airflow_url}{PREFIX}/{quote(dag_id, safe='')}/{quote(run_id, safe='')}/{page}"


class RunPage(BaseOperatorLink):
    """A page of the run that a task belongs to."""

    def __init__(self, name: str, page: str) -> None:
        self._name, self._page = name, page

    @property
    def name(self) -> str:
        """What the button says."""
        return self._name

    @property
    def xcom_key(self) -> str:
        """One key a page: the class has many."""
        return f"_link_{self._page.replace('/', '_')}"

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        """The address; `ti_key` is the task instance that has just ended."""
        return address(ti_key.dag_id, ti_key.run_id, self._page)


class PodLink(BaseOperatorLink):
    """The pod in the cluster's own pages: FLYWHEEL_POD_URL with {namespace} and {pod}; nothing when that is not set."""

    name = "Pod"
    xcom_key = "_link_pod"

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        """The address, from what the pod operator noted when the pod began."""
        pod, namespace = (ti_key.xcom_pull(task_ids=ti_key.task_id, key=key) for key in ("pod_name", "pod_namespace"))
        return settings().pod_url.format(namespace=quote(namespace), pod=quote(pod)) if settings().pod_url and pod and namespace else ""


MLFLOW, VERSION, REPORT = RunPage("MLflow run", "mlflow"), RunPage("Model version", "version"), RunPage("Evaluation report", "report")
CARD, DATA, TURN, FEEDBACK = (
    RunPage("Data card", "card"),
    RunPage("Data report", "data"),
    RunPage("The whole turn", "turn"),
    RunPage("Curation report", "feedback"),
)
OF_STAGE = {
    "dataset": [CARD, DATA],
    "train": [MLFLOW, CARD],
    "evaluate": [REPORT, MLFLOW],
    "gate": [REPORT],
    "register": [VERSION, MLFLOW, CARD],
    "approve": [REPORT, VERSION, CARD],
    "rollout": [VERSION, REPORT],
    "summary": [TURN],
    "curate": [FEEDBACK],
}


def of(stage: str) -> list[BaseOperatorLink]:
    """What a stage's task links to: its manifest, and what there is beside."""
    found: list[BaseOperatorLink] = list(OF_STAGE.get(stage, ()))
    return [*found, RunPage("Manifest", f"manifest/{stage}")] if stage != "approve" else found
