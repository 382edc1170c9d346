"""Where a signed link from a message leads: the question, the report beside it, and two buttons.

    GET  /flywheel/approve?token=…     the page: it decides nothing, since mail scanners open links
    POST /flywheel/approve             the answer, by whom the link was sent to
    GET  /flywheel/approve/report      the evaluation report, for those who have no account here

The token is the right to do all three; it is for one run and one receiver, and ends with the question.
"""

from __future__ import annotations

import html
import json
from urllib.parse import parse_qs

from fastapi import APIRouter, HTTPException, Request
from fastapi.responses import HTMLResponse, Response

from flywheel import ledger, manifest, store
from flywheel.airflow_api import AirflowApi, Conflict
from flywheel.errors import ContractError, FlywheelError
from flywheel.notices import approving
from flywheel.settings import settings

OPTIONS = {"approve": "Approve", "hold": "Reject"}  # the button: Airflow's option
HEADERS = {"content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; frame-src 'self'; frame-ancestors 'none'",
           "referrer-policy": "no-referrer", "cache-control": "no-store"}  # fmt: skip
STYLE = (
    "body{margin:2rem auto;max-width:62rem;padding:0 1rem;font:16px/1.5 system-ui,sans-serif;color-scheme:light dark}"
    "button{font:inherit;padding:.5rem 1.4rem;margin:0 1rem 1rem 0}iframe{width:100%;height:70vh;border:1px solid #8888}"
)
router = APIRouter()


def page(title: str, body: str, status: int = 200) -> HTMLResponse:
    """A page; `body` is HTML."""
    head = f'<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{html.escape(title)}</title>'
    return HTMLResponse(f"{head}<style>{STYLE}</style><h1>{html.escape(title)}</h1>{body}</html>", status, HEADERS)


def question(token: str) -> approving.Question:
    """What a link asks. Raises 403 for one that is not ours, or too old."""
    try:
        return approving.read(token)
    except ContractError as error:
        raise HTTPException(403, error.sentence) from error


def _run(asked: approving.Question) -> str:
    return manifest.run_dir(asked.dag, asked.run, settings().store)


@router.get("/approve")
def show(token: str) -> HTMLResponse:
    """The question."""
    asked = question(token)
    gate, registered = manifest.read_for(_run(asked), "gate"), manifest.read_for(_run(asked), "register")
    verdict = json.loads(store.read_bytes(gate.outputs["verdict"].location))
    safe = html.escape(token)
    buttons = "".join(f'<button name="answer" value="{value}">{text}</button>' for value, text in (("approve", "Roll it out"), ("hold", "Hold it")))
    form = f'<form method="post" action="approve"><input type="hidden" name="token" value="{safe}">{buttons}</form>'
    who = f"<p>You answer as <b>{html.escape(asked.who)}</b>; the audit log will say so.</p>"
    frame = f'<iframe src="approve/report?token={safe}" title="The evaluation report"></iframe>'
    return page(f"Roll out version {registered.metrics['version']}?", f"<p>{html.escape(verdict['paragraph'])}</p>{who}{form}{frame}")


@router.get("/approve/report")
def report(token: str) -> Response:
    """The evaluation report."""
    artifact = manifest.read_for(_run(question(token)), "gate").outputs["page"]
    alone = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; sandbox; frame-ancestors 'self'"
    return HTMLResponse(store.read_bytes(artifact.location), headers={**HEADERS, "content-security-policy": alone})


@router.post("/approve")
async def answer(request: Request) -> HTMLResponse:
    """Take the answer to Airflow, with a receipt that says whose it is."""
    from starlette.concurrency import run_in_threadpool

    form = {name: values[0] for name, values in parse_qs((await request.body()).decode()).items()}
    asked, option = question(form.get("token", "")), OPTIONS.get(form.get("answer", ""))
    if option is None:
        raise HTTPException(400, f"the answer is one of {', '.join(OPTIONS)}")
    return await run_in_threadpool(_tell_airflow, asked, option)


def _tell_airflow(asked: approving.Question, option: str) -> HTMLResponse:
    try:
        AirflowApi().answer(asked.dag, asked.run, asked.task, option, {"comment": approving.receipt(asked, option)})
    except Conflict:
        return page("Somebody has answered already", "<p>Nothing was changed.</p>", 409)
    except FlywheelError as error:
        return page("The answer did not get through", f"<p>{html.escape(error.sentence)} Try again.</p>", 502)
    ledger.record_event(asked.who, "answer", run=asked.run, answer=option)
    return page("Thank you", "<p>It is rolled out now.</p>" if option == "Approve" else "<p>It is held: the version stays registered.</p>")
