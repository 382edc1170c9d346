"""The routes: corrections to supervised records and pairs, choices to pairs, thumbs to thumb records. Each is one record for all who agree."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from flywheel.config import curation as options
from flywheel.records import FAILURE, Example, Feedback, example_id, fingerprint
from tasks.curation.desk import Case, Desk
from tasks.curation.raters import sides
from tasks.curation.rule import Rule


def example_of(record: Feedback, ids: Sequence[str], output: str, slice: str = "feedback", **more: Any) -> Example:
    """A training record about what was asked there, resting on these records."""
    instruction, input = record.prompt.strip(), record.input.strip()
    return Example(
        id=example_id(instruction, input, output, **more), instruction=instruction, input=input, output=output, group=fingerprint(f"{instruction} {input}"),
        slice=slice, source="feedback", licence="given by the user", consent="given with the feedback", feedback_ids=tuple(ids), **more,
    )  # fmt: skip


class Corrections(Rule[options.Corrections]):
    """One answer to learn for each question that was corrected."""

    def apply(self, desk: Desk) -> None:
        """The surest, to a tenth, and of those the latest; what a reviewer approved counts as the reviewer's."""
        by_question: dict[str, list[tuple[Case, Feedback]]] = defaultdict(list)
        for case in desk.open:
            about = self._about(case, desk)
            if about is not None and not case.doubt and case.sure >= self.options.min_sure:
                if not (about.correction or "").strip() or not about.prompt.strip():
                    desk.send(case, "dropped", "there is no question, or no text to learn")
                else:
                    by_question[case.question].append((case, about))
        down: dict[str, set[str]] = defaultdict(set)
        for vote in desk.votes():
            if not vote.up:
                down[vote.item].add(vote.rater)
        for found in by_question.values():
            best, about = max(found, key=lambda one: (round(one[0].sure, 1), one[0].record.timestamp, one[0].record.id))
            text = (about.correction or "").strip()
            same = [case for case, other in found if fingerprint(other.correction or "") == fingerprint(text)]
            ids = [*dict.fromkeys([best.record.id, *(c.record.id for c in same), *([about.id] if about is not best.record else [])])]
            failed = len(down[best.item]) >= self.options.failure_raters and desk.good.get(best.item, 0.0) < 0.5
            desk.learn(same, "a correction, the surest and latest of its question", example_of(about, ids, text, FAILURE if failed else "feedback"))
            response = about.response.strip()
            if self.options.pairs and response and fingerprint(response) != fingerprint(text):
                desk.learn(same, "", example_of(about, ids, text, rejected=response))
            for case, _ in found:
                if case not in same:
                    desk.send(case, "dropped", "another correction of this question is surer, or as sure and later")

    def _about(self, case: Case, desk: Desk) -> Feedback | None:
        """The record whose correction is learned: its own, or the one that a reviewer's decision is about."""
        if case.decided is None or not case.decided.of or case.record.correction:
            return case.record if case.record.correction else None
        about = desk.known.reviewed.get(case.decided.of)
        if about is not None and about.correction:
            if case.decided.decision == "approve" and about.id not in desk.by_id:
                return about
            desk.send(case, "dropped", "a reviewer's verdict on a correction: it counts where that correction is judged")
        return None


class Preferences(Rule[options.Preferences]):
    """One pair for each two answers that people agree about."""

    def apply(self, desk: Desk) -> None:
        """Those who chose the same are one record; whose choice is not sure enough stays in doubt."""
        pairs: dict[tuple[str, str, str], list[Case]] = defaultdict(list)
        texts: dict[tuple[str, str, str], tuple[str, str]] = {}
        for case in desk.at_hand:
            chosen = case.record.preference
            found = sides(case, desk) if chosen and chosen.won is not None else None
            if chosen is None or found is None or case.doubt or case.sure < self.options.min_sure:
                continue
            better, worse = found if chosen.won else found[::-1]
            if better.strip() and worse.strip() and fingerprint(better) != fingerprint(worse) and case.record.prompt.strip():
                key = (case.question, fingerprint(better), fingerprint(worse))
                pairs[key].append(case)
                texts.setdefault(key, (better.strip(), worse.strip()))
        for key, cases in pairs.items():
            (better, worse), ids = texts[key], [case.record.id for case in cases]
            desk.learn(cases, "a choice between two answers", example_of(cases[0].record, ids, better, rejected=worse))


class Thumbs(Rule[options.Thumbs]):
    """One record for each answer that people agree about."""

    def apply(self, desk: Desk) -> None:
        """Of each answer, those whose verdict is sure enough."""
        by_item: dict[tuple[str, bool], list[Case]] = defaultdict(list)
        for case in desk.at_hand:
            whole = case.record.response.strip() and case.record.prompt.strip()
            if case.thumb is not None and whole and not case.doubt and self._sure(case, desk) >= self.options.min_sure:
                by_item[case.item, case.thumb].append(case)
        for (_, liked), cases in by_item.items():
            record, ids = cases[0].record, [case.record.id for case in cases]
            desk.learn(cases, f"a thumb {'up' if liked else 'down'} that is sure enough", example_of(record, ids, record.response.strip(), liked=liked))

    def _sure(self, case: Case, desk: Desk) -> float:
        """Of the verdict on the answer, whatever else the record says."""
        good = desk.good.get(case.item)
        return case.sure if good is None else good if case.thumb else 1 - good
