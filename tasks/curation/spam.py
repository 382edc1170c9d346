"""Spam in corrections: nothing changed, or a phrase that its author puts everywhere.

A phrase counts that stands neither in the question nor in the answer, in corrections of several questions and in most of what this person
wrote. Where trusted others write it as well it is the manner of the place ("Returns True if …"), and no spam.
"""

from __future__ import annotations

from collections import Counter, defaultdict

from flywheel.config import curation as options
from flywheel.records import fingerprint
from tasks.curation.desk import Case, Desk
from tasks.curation.rule import Rule

Phrase = tuple[str, ...]
TRUSTED = 0.7  # accuracy from which somebody's way of writing counts


class Spam(Rule[options.Spam]):
    """Drops both."""

    def apply(self, desk: Desk) -> None:
        """First the empty ones, then person by person."""
        by_person: dict[str, list[Case]] = defaultdict(list)
        for case in desk.open:
            if case.record.correction and case.decided is None:
                if fingerprint(case.record.correction) == fingerprint(case.record.response):
                    self._drop(desk, case, "the correction says what the answer says")
                else:
                    by_person[desk.person(case.record.user)].append(case)
        phrases = {id(case): self._phrases(case) for cases in by_person.values() for case in cases}
        suspects = {who: found for who, cases in by_person.items() if (found := self._repeated(cases, phrases))}
        trusted = {who for who in by_person if desk.trust.get(who, 1.0) >= TRUSTED}
        looked_for = set().union(*suspects.values())
        held = {who: Counter(p for case in by_person[who] for p in phrases[id(case)] & looked_for) for who in trusted} if suspects else {}
        written, total = sum(held.values(), Counter[Phrase]()), sum(len(by_person[who]) for who in trusted)
        for who, found in suspects.items():
            others = total - len(by_person[who]) * (who in trusted)
            own = held.get(who, Counter[Phrase]())
            if others < self.options.questions:
                continue  # nobody to compare with
            spam = {p for p in found if written[p] - own[p] <= self.options.common * others}
            for case in by_person[who]:
                if spam & phrases[id(case)]:
                    self._drop(desk, case, f"the same phrase stands in corrections of {self.options.questions} or more other questions by this person")

    def _drop(self, desk: Desk, case: Case, why: str) -> None:
        case.sure = 0.0
        desk.send(case, "dropped", why)

    def _phrases(self, case: Case) -> set[Phrase]:
        """The runs of words that the correction brings in."""
        given = self._runs(case.record.prompt, case.record.input) | self._runs(case.record.response)
        return self._runs(case.record.correction or "") - given

    def _runs(self, *texts: str) -> set[Phrase]:
        words = fingerprint(" ".join(texts)).split()
        return set(zip(*(words[k:] for k in range(self.options.words)), strict=False))

    def _repeated(self, cases: list[Case], phrases: dict[int, set[Phrase]]) -> set[Phrase]:
        """What stands in enough of a person's corrections, of enough questions."""
        if len(cases) < self.options.questions:
            return set()
        least = max(self.options.questions, self.options.share * len(cases))
        often = _at_least(Counter(p for case in cases for p in phrases[id(case)]), least)
        asked: dict[Phrase, set[str]] = defaultdict(set)
        for case in cases:
            for phrase in phrases[id(case)] & often:
                asked[phrase].add(case.question)
        return {phrase for phrase, questions in asked.items() if len(questions) >= self.options.questions}


def _at_least(counted: Counter[Phrase], least: float) -> set[Phrase]:
    return {phrase for phrase, count in counted.items() if count >= least}
