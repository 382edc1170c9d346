"""A small client of Airflow's REST API, for the command line, the demo and CI.

Who it is comes from the environment and never from an argument, which every process list shows:

    FLYWHEEL_AIRFLOW_TOKEN                            a bearer token
    FLYWHEEL_AIRFLOW_USER, FLYWHEEL_AIRFLOW_PASSWORD  exchanged for one
    (neither)                                         the laptop's Airflow, which gives one to anybody on this machine

Each may be given as a file instead, by a variable that ends in _FILE. A token that has expired is fetched again.
"""

from __future__ import annotations

import os
import time
import uuid
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx

from flywheel.errors import ContractError, FlywheelError, NotFound, TransientError
from flywheel.settings import settings

PATIENCE = 120.0  # seconds that an Airflow which has answered before may be away
PAUSE = 2.0


def secret(name: str) -> str:
    """FLYWHEEL_AIRFLOW_<NAME>, or the content of the file that FLYWHEEL_AIRFLOW_<NAME>_FILE names; empty when neither is set."""
    variable = f"FLYWHEEL_AIRFLOW_{name}"
    file = os.environ.get(f"{variable}_FILE", "")
    try:
        return Path(file).read_text().strip() if file else os.environ.get(variable, "")
    except OSError as error:
        raise ContractError(f"{file} cannot be read ({error.strerror})", where=f"{variable}_FILE", mend="Name a file that this user may read.") from error


class AirflowApi:
    """Calls raise TransientError when Airflow does not answer, NotFound for what it does not know, ContractError when it refuses."""

    def __init__(self) -> None:
        self.client = httpx.Client(base_url=settings().airflow_url, timeout=30)
        self.token = ""
        self.met = False

    def _call(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        """One request. An Airflow that has answered before may be away for a while, as when it is upgraded."""
        until = time.monotonic() + (PATIENCE if self.met else 0)
        while True:
            try:
                reply = self._authorized(method, f"/api/v2{path}", **options)
                self.met = True
                return dict(reply.json()) if reply.content else {}
            except TransientError:
                if time.monotonic() >= until:
                    raise
                time.sleep(PAUSE)

    def _authorized(self, method: str, path: str, **options: Any) -> httpx.Response:
        """With a token, which is fetched again once when Airflow no longer takes it."""
        for _ in range(2):
            earlier = self.token
            self.token = self.token or self._new_token()
            reply = self._send(method, path, headers={"Authorization": f"Bearer {self.token}"}, **options)
            if not _unknown_token(reply):
                break
            self.token = ""
            if not earlier:  # it was new
                break
        if reply.is_error:
            raise _refusal(reply, f"{method} {path}")
        return reply

    def _new_token(self) -> str:
        if token := secret("TOKEN"):
            return token
        if user := secret("USER"):
            reply = self._send("POST", "/auth/token", json={"username": user, "password": secret("PASSWORD")})
        else:
            reply = self._send("GET", "/auth/token")
        if reply.is_error:
            raise _refusal(reply, "/auth/token")
        return str(reply.json()["access_token"])

    def _send(self, method: str, path: str, **options: Any) -> httpx.Response:
        url = settings().airflow_url
        mend = "Is it up (`make up` on a laptop), and is FLYWHEEL_AIRFLOW_URL right?"
        try:
            reply = self.client.request(method, path, **options)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise TransientError(f"Airflow does not answer ({type(error).__name__})", where=url, mend=mend) from error
        if reply.status_code >= 500 or reply.status_code == 429:
            raise TransientError(f"Airflow answers with {reply.status_code}", where=f"{method} {url}{path}", mend="Look at its API server's log.")
        return reply

    def dag(self, dag: str) -> dict[str, Any] | None:
        """A DAG as Airflow knows it; None when it has not read one of that name."""
        try:
            return self._call("GET", f"/dags/{dag}")
        except NotFound:
            return None

    def import_errors(self) -> list[str]:
        """What Airflow could not read."""
        return [f"{e['filename']}: {e['stack_trace'].splitlines()[-1]}" for e in self._call("GET", "/importErrors")["import_errors"]]

    def pause(self, dag: str, *, paused: bool) -> None:
        """Let no run of a DAG begin, or let them again."""
        self._call("PATCH", f"/dags/{dag}", params={"update_mask": "is_paused"}, json={"is_paused": paused})

    def unpause(self, dag: str) -> None:
        """Let a DAG run."""
        self.pause(dag, paused=False)

    def trigger(self, dag: str, conf: dict[str, Any], run_id: str = "") -> str:
        """Start a run by hand; returns its id. The id is made here, so that a lost answer does not start a second one; nor does one that is there."""
        now = datetime.now(UTC).isoformat()
        run_id = run_id or f"manual__{now}_{uuid.uuid4().hex[:8]}"
        body = {"dag_run_id": run_id, "logical_date": None, "conf": conf, "run_after": now}
        with suppress(Conflict):  # an earlier request of ours came through after all
            self._call("POST", f"/dags/{dag}/dagRuns", json=body)
        return run_id

    def run(self, dag: str, run_id: str) -> dict[str, Any]:
        """One run."""
        return self._call("GET", f"/dags/{dag}/dagRuns/{quote(run_id)}")

    def runs(self, dag: str) -> list[dict[str, Any]]:
        """The latest runs, newest first."""
        return list(self._call("GET", f"/dags/{dag}/dagRuns", params={"order_by": "-run_after", "limit": 100})["dag_runs"])

    def tasks(self, dag: str, run_id: str) -> list[dict[str, Any]]:
        """The task instances of a run."""
        return list(self._call("GET", f"/dags/{dag}/dagRuns/{quote(run_id)}/taskInstances")["task_instances"])

    def nights(self, dag: str, first: datetime, last: datetime, again: str = "none") -> list[str]:
        """The logical dates between these that a backfill would run: those without a run; with `again`, failed or completed ones, too."""
        body = {"dag_id": dag, "from_date": first.isoformat(), "to_date": last.isoformat(), "reprocess_behavior": again}
        return [str(night["logical_date"]) for night in self._call("POST", "/backfills/dry_run", json=body)["backfills"]]

    def backfill(self, dag: str, first: datetime, last: datetime, conf: dict[str, Any], at_once: int, again: str) -> int:
        """Start a backfill; its number. Raises Conflict while another one of this DAG goes on."""
        body = {"dag_id": dag, "from_date": first.isoformat(), "to_date": last.isoformat(), "dag_run_conf": conf}
        return int(self._call("POST", "/backfills", json={**body, "max_active_runs": at_once, "reprocess_behavior": again})["id"])

    def backfill_ended(self, number: int) -> bool:
        """Whether each of its runs has ended."""
        return self._call("GET", f"/backfills/{number}")["completed_at"] is not None

    def note(self, dag: str, run_id: str, text: str) -> None:
        """Write a run's note, which Airflow shows beside it."""
        self._call("PATCH", f"/dags/{dag}/dagRuns/{quote(run_id)}", params={"update_mask": "note"}, json={"note": text[:1000]})

    def questions(self, dag: str) -> list[dict[str, Any]]:
        """What waits for a person."""
        found = self._call("GET", f"/dags/{dag}/dagRuns/~/hitlDetails", params={"response_received": "false", "limit": 100})
        return [q for q in found["hitl_details"] if q["task_instance"]["state"] in ("awaiting_input", "deferred")]

    def answer(self, dag: str, run_id: str, task: str, option: str, said: dict[str, str]) -> None:
        """Answer for a person, with what the form asks beside. Raises Conflict when somebody has."""
        self._call("PATCH", f"/dags/{dag}/dagRuns/{quote(run_id)}/taskInstances/{task}/-1/hitlDetails", json={"chosen_options": [option], "params_input": said})


class Conflict(ContractError):
    """Airflow has it already."""


def _unknown_token(reply: httpx.Response) -> bool:
    """Airflow says 401 of an expired token and 403 of a wrong one."""
    return reply.status_code == 401 or (reply.status_code == 403 and "JWT" in reply.text)


def _refusal(reply: httpx.Response, where: str) -> FlywheelError:
    """What an answer of 4xx means to whoever asked."""
    url = settings().airflow_url
    if _unknown_token(reply):
        mend = "Set FLYWHEEL_AIRFLOW_TOKEN to a valid token, or FLYWHEEL_AIRFLOW_USER and FLYWHEEL_AIRFLOW_PASSWORD."
        return ContractError(f"Airflow does not accept these credentials ({reply.status_code})", where=url, mend=mend)
    if reply.status_code == 403:
        return ContractError("these credentials may not do this (403)", where=where, mend="Give their user a role that may trigger and read this DAG.")
    kind = {404: NotFound, 409: Conflict}.get(reply.status_code, ContractError)
    mend = "Mend what it names." if reply.status_code in (400, 422) else "Look at its API server's log."
    return kind(f"Airflow refused with {reply.status_code}: {reply.text[:300]}", where=where, mend=mend)
