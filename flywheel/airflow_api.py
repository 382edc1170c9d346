"""A small client of Airflow's REST API, for the command line and the demo."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import httpx

from flywheel.errors import ContractError, TransientError
from flywheel.settings import settings


class AirflowApi:
    """Calls raise TransientError when Airflow does not answer and ContractError when it refuses."""

    def __init__(self) -> None:
        self.client = httpx.Client(base_url=settings().airflow_url, timeout=30)
        self.token = ""

    def _call(self, method: str, path: str, *, absent_ok: bool = False, **options: Any) -> dict[str, Any]:
        try:
            if not self.token:
                self.token = self.client.get("/auth/token").raise_for_status().json()["access_token"]
            reply = self.client.request(method, f"/api/v2{path}", headers={"Authorization": f"Bearer {self.token}"}, **options)
        except httpx.HTTPError as error:
            raise TransientError(f"Airflow does not answer ({type(error).__name__})", where=settings().airflow_url, mend="Start it with `make up`.") from error
        if absent_ok and reply.status_code == 404:
            return {}
        if reply.is_error:
            raise ContractError(
                f"Airflow refused with {reply.status_code}: {reply.text[:300]}", where=f"{method} {path}", mend="Look at `make logs S=airflow-api`."
            )
        return dict(reply.json()) if reply.content else {}

    def known(self, dag: str) -> bool:
        """Whether the DAG has been read."""
        return bool(self._call("GET", f"/dags/{dag}", absent_ok=True))

    def import_errors(self) -> list[str]:
        """What Airflow could not read."""
        return [f"{e['filename']}: {e['stack_trace'].splitlines()[-1]}" for e in self._call("GET", "/importErrors")["import_errors"]]

    def unpause(self, dag: str) -> None:
        """Let a DAG run."""
        self._call("PATCH", f"/dags/{dag}", params={"update_mask": "is_paused"}, json={"is_paused": False})

    def trigger(self, dag: str, conf: dict[str, Any]) -> str:
        """Start a run by hand; returns its id."""
        return str(
            self._call("POST", f"/dags/{dag}/dagRuns", json={"logical_date": None, "conf": conf, "run_after": datetime.now(UTC).isoformat()})["dag_run_id"]
        )

    def run(self, dag: str, run_id: str) -> dict[str, Any]:
        """One run."""
        return self._call("GET", f"/dags/{dag}/dagRuns/{run_id}")

    def runs(self, dag: str) -> list[dict[str, Any]]:
        """The latest runs, newest first."""
        return list(self._call("GET", f"/dags/{dag}/dagRuns", params={"order_by": "-run_after", "limit": 100})["dag_runs"])

    def tasks(self, dag: str, run_id: str) -> list[dict[str, Any]]:
        """The task instances of a run."""
        return list(self._call("GET", f"/dags/{dag}/dagRuns/{run_id}/taskInstances")["task_instances"])
