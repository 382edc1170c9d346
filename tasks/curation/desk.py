"""The desk: every record of a batch as a case, the training records that cases have become, and where each case went and why.

A case is open until a rule sends it somewhere. Rules move cases only through `learn`, `send` and `remove`, so that none is lost.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from flywheel.ledger.review import Decided, ReviewItem
from flywheel.records import Example, Feedback, Kind, fingerprint, question

Route = Literal["open", "supervised", "preference", "thumb", "review", "dropped"]
LEARNED: tuple[Kind, ...] = ("supervised", "preference", "thumb")


@dataclass(slots=True)
class Case:
    """One record on its way."""

    record: Feedback
    decided: Decided | None = None  # what a reviewer decided with it
    question: str = ""  # what was asked, as `records.question` has it
    item: str = ""  # the same answer to the same question, whoever got it
    vote: bool | None = None  # whether it says that the answer is good
    sure: float = 1.0  # the chance that what it says is right
    doubt: str = ""  # why it needs a person
    route: Route = "open"
    rule: str = ""
    why: str = ""

    @property
    def thumb(self) -> bool | None:
        """The verdict that was given as one, by thumb or rating."""
        return judged(self.record)


def judged(record: Feedback) -> bool | None:
    """A thumb, or a rating other than 3; None without."""
    if record.thumb:
        return record.thumb == "up"
    return None if record.rating in (None, 3) else record.rating > 3


def case_of(record: Feedback, decided: Decided | None = None) -> Case:
    """A record as a case. Who corrects an answer says that it is not good; so does who finds it as bad as another."""
    asked = question(record.prompt, record.input)
    vote = judged(record)
    if vote is None and (record.correction or (record.preference and record.preference.better == "both bad")):
        vote = False
    if decided and decided.of and not (record.thumb or record.correction):
        vote = None  # it is about a correction
    return Case(record, decided, asked, f"{asked}\x1f{fingerprint(record.response)}", vote)


@dataclass(slots=True)
class Vote:
    """One person's verdict on one item."""

    rater: str
    item: str
    up: bool
    at: datetime
    reviewed: bool = False


@dataclass
class Known:
    """What the ledger knows beside the batch."""

    earlier: list[Vote] = field(default_factory=list)
    verdicts: list[tuple[str, str, bool]] = field(default_factory=list)  # reviewed corrections: id, who wrote it, approved
    reviewed: Mapping[str, Feedback] = field(default_factory=dict)  # the records that this batch's decisions are about
    others: Mapping[str, Any] = field(default_factory=dict)  # answers that preferences name by id
    traffic: Callable[[Iterable[str]], Mapping[tuple[str, str], int]] = lambda _: {}


@dataclass
class Desk:
    """A batch while it is curated."""

    cases: list[Case]
    now: datetime
    known: Known = field(default_factory=Known)
    scratch: Path = Path()
    cache: Path = Path()
    examples: list[Example] = field(default_factory=list)
    asks: list[ReviewItem] = field(default_factory=list)
    counts: list[dict[str, Any]] = field(default_factory=list)
    together: dict[str, str] = field(default_factory=dict)  # people who act as one, by the name of the first
    trust: dict[str, float] = field(default_factory=dict)  # accuracy of each rater, where it was measured
    good: dict[str, float] = field(default_factory=dict)  # chance that an item's answer is good
    rule: str = ""  # the one that is at work
    _votes: list[Vote] | None = None

    def __post_init__(self) -> None:
        self.by_id = {case.record.id: case for case in self.cases}

    @property
    def open(self) -> list[Case]:
        """The cases that no rule has sent anywhere."""
        return [case for case in self.cases if case.route == "open"]

    @property
    def at_hand(self) -> list[Case]:
        """Those that may still be learned from: open, or learned from already in another way."""
        return [case for case in self.cases if case.route not in ("review", "dropped")]

    def send(self, case: Case, route: Route, why: str) -> None:
        """Where a case goes, and the sentence that says why."""
        case.route, case.rule, case.why = route, self.rule, why

    def learn(self, cases: list[Case], why: str, example: Example) -> None:
        """These cases are a training record."""
        self.examples.append(example)
        for case in cases:
            if case.route == "open":
                self.send(case, example.kind, why)

    def remove(self, gone: Mapping[int, str]) -> None:
        """Take out examples by their place, with the reason; a case that has no other is dropped with it."""
        left = [example for place, example in enumerate(self.examples) if place not in gone]
        still = {name for example in left for name in example.feedback_ids}
        for place, why in gone.items():
            for name in self.examples[place].feedback_ids:
                if name not in still and name in self.by_id:
                    self.send(self.by_id[name], "dropped", why)
        self.examples = left

    def routes(self) -> Counter[Route]:
        """How many cases are where."""
        return Counter(case.route for case in self.cases)

    def person(self, name: str) -> str:
        """A rater's name, or that of the people they act as one with."""
        return self.together.get(name, name)

    def act_as_one(self, group: set[str]) -> None:
        """From here on these people are one."""
        self.together |= dict.fromkeys(group, self.person(min(group)))
        self._votes = None

    def votes(self) -> list[Vote]:
        """What everybody said about answers, before and now: of one person about one item the latest. The nameless count as one person."""
        if self._votes is None:
            now = [
                Vote(c.record.user, c.item, c.vote, c.record.timestamp, c.decided is not None) for c in self.cases if c.vote is not None and c.rule != "rights"
            ]
            latest: dict[tuple[str, str], Vote] = {}
            for vote in sorted(self.known.earlier + now, key=lambda v: v.at):
                name = self.person(vote.rater)
                latest[name, vote.item] = vote if name == vote.rater else replace(vote, rater=name)
            self._votes = list(latest.values())
        return self._votes
