"""Signed links with which the receiver of a message can approve or hold a version without an account in Airflow.

A link says for which run it is and whom it was sent to, and holds as long as the question does. Opening it decides nothing: the page it
leads to (dags/pages/approve.py) has two buttons.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flywheel.errors import ContractError
from flywheel.settings import settings


@dataclass(frozen=True)
class Question:
    """What a link asks, and of whom."""

    dag: str
    run: str
    task: str
    who: str


def _signer() -> Any:
    from itsdangerous import URLSafeTimedSerializer

    if not settings().link_key:
        raise ContractError("no key to sign links with", where="FLYWHEEL_LINK_KEY", mend="Set it to a long random text, the same for every part of Airflow.")
    return URLSafeTimedSerializer(settings().link_key, salt="flywheel approval")


def link(ask: Mapping[str, str], who: str) -> str:
    """The address for one receiver."""
    token = _signer().dumps([ask["dag"], ask["run"], ask["task"], who])
    return f"{settings().airflow_url}/flywheel/approve?token={token}"


def read(token: str) -> Question:
    """What a link asks. Raises ContractError for one that is forged, cut off, or too old."""
    from itsdangerous import BadSignature, SignatureExpired

    try:
        return Question(*map(str, _signer().loads(token, max_age=int(settings().approval_hours * 3600))))
    except SignatureExpired as error:
        raise ContractError("this link is too old", where="the link", mend="The question is no longer open; Airflow says what became of it.") from error
    except (BadSignature, TypeError, ValueError) as error:
        raise ContractError("this link was not made by this installation, or was cut off", where="the link", mend="Copy it whole from the message.") from error


RECEIPT_SECONDS = 600


def _receipts() -> Any:
    from itsdangerous import URLSafeTimedSerializer

    return URLSafeTimedSerializer(settings().link_key, salt="flywheel answer")


def receipt(question: Question, option: str) -> str:
    """What the page hands to the task with an answer, so that the task knows whose it is."""
    return str(_receipts().dumps([question.run, question.who, option]))


def person(receipt: str, run: str, option: str) -> str:
    """Who gave this answer by a link; empty for anything else that was written there."""
    from itsdangerous import BadSignature

    try:
        of_run, who, chosen = _receipts().loads(receipt, max_age=RECEIPT_SECONDS)
    except (BadSignature, TypeError, ValueError):
        return ""
    return str(who) if (of_run, chosen) == (run, option) else ""
