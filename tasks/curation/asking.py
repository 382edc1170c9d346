"""Asking: which of the doubtful records, and which failures that nobody corrected, a reviewer sees. Active learning within a budget.

What is learned most from comes first: where chances are even (uncertainty), where people are divided (disagreement), what is asked often
(traffic), and what is far from all that is learned or asked already (novelty, k-center greedy, with an embedder).
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flywheel.config import curation as options
from flywheel.ledger.review import ReviewItem
from tasks.curation.desk import Case, Desk
from tasks.curation.rule import Rule

if TYPE_CHECKING:
    import numpy as np

COMPARED = 2000  # learned questions that a new one is compared with, at most
SEVERAL = 2  # people who found an answer wrong


@dataclass
class Question:
    """A case that a reviewer could be asked about, once for each answer."""

    case: Case
    reason: str
    score: float = 0.0


class Ask(Rule[options.Ask]):
    """Sends what is asked to review; the rest of the doubtful stays open."""

    def apply(self, desk: Desk) -> None:
        """Score, choose, offer."""
        found = self._candidates(desk)
        self._score(desk, found)
        for question in self._chosen(desk, found):
            record = question.case.record
            desk.asks.append(ReviewItem(feedback_id=record.id, answer_id=record.answer_id, reason=question.reason, priority=round(question.score, 4)))
            if question.case.route == "open":
                desk.send(question.case, "review", question.reason)
            else:
                question.case.why += "; a reviewer is asked what is right"

    def _candidates(self, desk: Desk) -> list[Question]:
        """Of each answer the most doubtful open case; of each failure without a correction its first."""
        found: dict[str, Question] = {}
        for case in sorted(desk.open, key=lambda c: (not c.doubt, not c.record.correction, abs(c.sure - 0.5), c.record.id)):
            if case.decided is None and (case.vote is not None or case.record.preference) and case.item not in found and case.record.response.strip():
                found[case.item] = Question(case, case.doubt or f"it is right with a chance of {case.sure:.2f}")
        corrected = {example.group for example in desk.examples if example.kind == "supervised"}
        down: dict[str, int] = defaultdict(int)
        for vote in desk.votes():
            down[vote.item] += not vote.up
        for case in desk.cases:
            failed = case.route == "thumb" and case.vote is False and down[case.item] >= SEVERAL and desk.good.get(case.item, 1.0) < 0.5
            if failed and case.item not in found and case.question not in corrected and case.decided is None:
                found[case.item] = Question(case, f"{down[case.item]} people found the answer wrong, and nobody said what is right")
        return list(found.values())

    def _score(self, desk: Desk, found: list[Question]) -> None:
        sides: dict[str, list[int]] = defaultdict(lambda: [0, 0])
        for vote in desk.votes():
            sides[vote.item][vote.up] += 1
        asked = desk.known.traffic({q.case.record.prompt for q in found}) if found and self.options.traffic else {}
        most = math.log1p(max(asked.values(), default=1))
        for question in found:
            case = question.case
            no, yes = sides[case.item]
            share = yes / (yes + no) if yes + no else 0.0
            times = asked.get((case.record.prompt, case.record.input), 0)
            question.score = (
                self.options.uncertainty * (1 - abs(2 * case.sure - 1))
                + self.options.disagreement * 4 * share * (1 - share)
                + self.options.traffic * math.log1p(times) / most
            )

    def _chosen(self, desk: Desk, found: list[Question]) -> list[Question]:
        """The best ones, as many as the budget has; with an embedder one by one, each as far from the others as it is worth."""
        found = sorted(found, key=lambda q: (-q.score, q.case.record.id))
        if not (self.options.embedder and self.options.novelty and found):
            return found[: self.options.budget]
        ours, learned = self._vectors(desk, found)
        near = (ours @ learned.T).max(axis=1, initial=-1.0) if len(learned) else -1 + 0 * ours[:, 0]
        left = set(range(len(found)))
        chosen: list[Question] = []
        while left and len(chosen) < self.options.budget:
            worth = {k: found[k].score + self.options.novelty * (1 - float(near[k])) / 2 for k in sorted(left)}
            best = max(worth, key=lambda k: worth[k])
            left.remove(best)
            found[best].score = worth[best]
            chosen.append(found[best])
            near = (ours @ ours[best]).clip(min=near)
        return chosen

    def _vectors(self, desk: Desk, found: list[Question]) -> tuple[np.ndarray, np.ndarray]:
        from flywheel import embedding

        learned = sorted({e.group for e in desk.examples if e.kind == "supervised"})[:COMPARED]
        texts = [q.case.question for q in found]
        vectors = embedding.embed([*texts, *learned], self.options.embedder)
        return vectors[: len(texts)], vectors[len(texts) :]
