"""Brigading: a burst of the same verdict about one question and version, by people who otherwise say the same things, too, or nothing.

A burst alone is no sin: a bad answer makes many angry at once. It is one when those in it are related, that is, when all that they ever said
is nearly the same. They then count as one person everywhere, and instead of learning from it, one of their records goes to a reviewer.
"""

from __future__ import annotations

from collections import defaultdict
from datetime import timedelta

from flywheel.config import curation as options
from tasks.curation.desk import Case, Desk
from tasks.curation.rule import Rule

Said = frozenset[tuple[str, bool]]


class Brigading(Rule[options.Brigading]):
    """Finds such groups."""

    def apply(self, desk: Desk) -> None:
        """Each burst apart; those of one group are one person from here on."""
        bursts: dict[tuple[str, str, bool], list[Case]] = defaultdict(list)
        for case in desk.open:
            if case.vote is not None and case.decided is None:
                bursts[case.record.model_version, case.question, case.vote].append(case)
        said: dict[str, set[tuple[str, bool]]] = defaultdict(set)
        for vote in desk.votes():
            said[vote.rater].add((vote.item, vote.up))
        for cases in bursts.values():
            for group in related({c.record.user: frozenset(said[c.record.user]) for c in self._crowd(cases)}, self.options.similarity):
                if len(group) >= self.options.raters:
                    self._together(desk, group, [c for c in cases if c.record.user in group])

    def _crowd(self, cases: list[Case]) -> list[Case]:
        """The cases within the window that has the most people, if it has enough."""
        if len(cases) < self.options.raters:
            return []
        cases = sorted(cases, key=lambda c: c.record.timestamp)
        span, first, best = timedelta(minutes=self.options.window_minutes), 0, cases[:0]
        for last, case in enumerate(cases):
            while case.record.timestamp - cases[first].record.timestamp > span:
                first += 1
            if last + 1 - first > len(best):
                best = cases[first : last + 1]
        return best if len({c.record.user for c in best}) >= self.options.raters else []

    def _together(self, desk: Desk, group: set[str], cases: list[Case]) -> None:
        desk.act_as_one(group)
        one, *others = sorted(cases, key=lambda c: (not c.record.correction, c.record.timestamp, c.record.id))
        one.doubt = f"{len(group)} people who act as one said the same within {self.options.window_minutes:g} minutes"
        for case in others:
            desk.send(case, "dropped", f"one of {len(group)} people who act as one: they count once")


def related(said: dict[str, Said], similarity: float) -> list[set[str]]:
    """People in groups that hang together by how much of all that two of them said is the same."""
    alike: dict[Said, set[str]] = defaultdict(set)
    for who, what in said.items():
        alike[what].add(who)
    kinds = list(alike)
    group = list(range(len(kinds)))

    def head(k: int) -> int:
        while group[k] != k:
            k = group[k]
        return k

    for i, a in enumerate(kinds):
        for j in range(i):
            common = len(a & kinds[j])
            if common and common >= similarity * (len(a) + len(kinds[j]) - common):
                group[head(i)] = head(j)
    found: dict[int, set[str]] = defaultdict(set)
    for k, kind in enumerate(kinds):
        found[head(k)] |= alike[kind]
    return list(found.values())
