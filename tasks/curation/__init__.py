"""Curation: what becomes of a batch of feedback, rule by rule. Every record ends in one place, with the rule and a sentence that say why.

    desk.py        the cases, and what is known beside them          rule.py     the one interface
    brigading.py   people who act as one        raters.py   how reliable each is (EM)      spam.py    phrases
    routes.py      corrections, choices, thumbs     texts.py    personal data, near-duplicates     asking.py  what people are asked

A new rule is an option class in `flywheel/config/curation.py`, one class in a module here, and its line in RULES.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from flywheel.config import cleaning, curation, steps
from flywheel.config.steps import Step
from flywheel.errors import ContractError
from tasks.curation.asking import Ask
from tasks.curation.brigading import Brigading
from tasks.curation.desk import LEARNED, Case, Desk
from tasks.curation.raters import Raters
from tasks.curation.routes import Corrections, Preferences, Thumbs
from tasks.curation.rule import Rule
from tasks.curation.spam import Spam
from tasks.curation.texts import NearDuplicates, Personal

RULES: dict[type[Step], type[Rule[Any]]] = {
    curation.Brigading: Brigading,
    curation.Raters: Raters,
    curation.Spam: Spam,
    curation.Corrections: Corrections,
    curation.Preferences: Preferences,
    curation.Thumbs: Thumbs,
    steps.Personal: Personal,
    cleaning.NearDuplicates: NearDuplicates,
    curation.Ask: Ask,
}


def curate(desk: Desk, rules: Iterable[Step]) -> None:
    """Apply what a person has a right to, every rule in its order, and drop what is left open; each is counted, in = out."""
    _counted(desk, "rights", lambda: _rights(desk))
    for options in rules:
        rule = RULES[type(options)](options)
        _counted(desk, options.step, lambda rule=rule: rule.apply(desk))  # type: ignore[misc]
    _counted(desk, "rest", lambda: _rest(desk))


def _counted(desk: Desk, name: str, work: Any) -> None:
    """Run a rule; count what it moved. Raises ContractError when the sums do not come out."""
    before, desk.rule = {id(case): case.route for case in desk.cases}, name
    work()
    moved = [case for case in desk.cases if case.route != before[id(case)]]
    into = {route: sum(case.route == route for case in moved) for route in (*LEARNED, "review", "dropped")}
    at_hand = sum(route not in ("review", "dropped") for route in before.values())
    left = len(desk.at_hand)
    if at_hand != left + into["review"] + into["dropped"] or any(case.rule != name or not case.why for case in moved):
        raise ContractError(
            f"{at_hand} records went in, {into} and {left} came out", where=f"curate.rules: {name}", mend="This is a fault of the program: report it."
        )
    desk.counts.append({"rule": name, "in": at_hand, **into, "out": left})


def _rights(desk: Desk) -> None:
    for case in desk.cases:
        if case.record.withheld:
            desk.send(case, "dropped", "withheld: " + ("superseded" if case.record.withheld.startswith("superseded") else "taken back"))
        elif case.record.keep_until <= desk.now:
            desk.send(case, "dropped", "kept long enough")
        elif not case.record.consent:
            desk.send(case, "dropped", "no consent to learn from it")


def _rest(desk: Desk) -> None:
    for case in desk.open:
        desk.send(case, "dropped", _why_not(case))


def _why_not(case: Case) -> str:
    record = case.record
    if case.doubt:
        return f"{case.doubt}, and nobody was asked"
    if case.vote is not None or (record.preference and record.preference.won is not None):
        return f"in doubt (right with a chance of {case.sure:.2f}), and nobody was asked" if case.sure < 1 else "no rule took it"
    if record.preference:
        return "neither answer was better"
    return "a signal alone" if record.signal else "it says nothing to learn from"
