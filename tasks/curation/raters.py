"""Raters: how sure each record is, by how reliable its author was measured to be.

After A. P. Dawid and A. M. Skene, "Maximum Likelihood Estimation of Observer Error-Rates Using the EM Algorithm", Applied Statistics 28
(1979), with Beta priors (as V. C. Raykar et al., "Learning From Crowds", JMLR 11 (2010)): each rater has a chance to call a good answer
good and one to call a bad answer bad, each answer a chance to be good, and either is estimated from the other until both hold still.
Who calls everything good, or everything bad, or tosses a coin, ends up with votes that weigh nothing. Only answers that several people
or a reviewer judged say something of those who judged them: nobody is suspect for having been alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flywheel.config import curation as options
from flywheel.records import fingerprint
from tasks.curation.desk import Case, Desk
from tasks.curation.rule import Rule

if TYPE_CHECKING:
    import numpy as np

ROUNDS, STILL = 100, 1e-4


@dataclass(frozen=True)
class Measured:
    """Chance of each item to be true, and of each rater to be right, by name."""

    true: dict[str, float]
    accuracy: dict[str, float]


def measure(votes: Sequence[tuple[str, str, bool]], known: dict[str, bool], conf: options.Raters) -> Measured:
    """From votes (rater, item, yes), each pair once, and items that a reviewer has decided."""
    import numpy as np

    raters, rater = _numbered([v[0] for v in votes])
    items, item = _numbered([v[1] for v in votes])
    yes = np.array([v[2] for v in votes], float)
    truth = np.array([{None: np.nan, True: conf.reviewer, False: 1 - conf.reviewer}[known.get(name)] for name in items], float)
    told = (np.bincount(item, minlength=len(items)) > 1) | ~np.isnan(truth)  # these say something of their raters
    right, seen = conf.accuracy * conf.strength, conf.strength

    def total(of: np.ndarray) -> np.ndarray:
        return np.bincount(rater, of * told[item], minlength=len(raters))

    true = (np.bincount(item, yes, minlength=len(items)) + 1) / (np.bincount(item, minlength=len(items)) + 2)
    yes_of_true = yes_of_false = np.zeros(len(raters))
    for _ in range(ROUNDS):
        before = true = np.where(np.isnan(truth), true, truth)
        t = true[item]
        yes_of_true = (right + total(t * yes)) / (seen + total(t))
        yes_of_false = 1 - (right + total((1 - t) * (1 - yes))) / (seen + total(1 - t))
        share = (1 + true.sum()) / (2 + len(true))
        weight = np.where(yes > 0, np.log(yes_of_true / yes_of_false)[rater], np.log((1 - yes_of_true) / (1 - yes_of_false))[rater])
        odds = np.log(share / (1 - share)) + np.bincount(item, weight, minlength=len(items))
        true = 1 / (1 + np.exp(-odds))
        if np.abs(np.where(np.isnan(truth), true, truth) - before).max(initial=0) < STILL:
            break
    # Of an answer that one person judged the share of good ones says nothing: with it, few would be believed where most answers are good.
    true = np.where(told, true, 1 / (1 + np.exp(-np.bincount(item, weight, minlength=len(items))))) if votes else true
    true = np.where(np.isnan(truth), true, truth)
    accuracy = (yes_of_true + 1 - yes_of_false) / 2
    return Measured(dict(zip(items, true.tolist(), strict=True)), dict(zip(raters, accuracy.tolist(), strict=True)))


def _numbered(names: list[str]) -> tuple[list[str], np.ndarray]:
    import numpy as np

    numbers: dict[str, int] = {}
    places = [numbers.setdefault(name, len(numbers)) for name in names]
    return list(numbers), np.array(places, int)


def sides(case: Case, desk: Desk) -> tuple[str, str] | None:
    """The texts of the two answers that were compared, the rated one first; None when the other is not known or was to another question."""
    chosen = case.record.preference
    if chosen is None or chosen.other_id is None:
        return (case.record.response, chosen.other or "") if chosen else None
    other = desk.known.others.get(chosen.other_id)
    same = other is not None and (other.prompt, other.input) == (case.record.prompt, case.record.input)
    return (case.record.response, other.response) if other is not None and same else None


class Raters(Rule[options.Raters]):
    """Sets `sure` of every case."""

    def apply(self, desk: Desk) -> None:
        """Measure verdicts on answers and corrections together, and choices between answers apart: they are other skills."""
        votes = desk.votes()
        known = {vote.item: vote.up for vote in votes if vote.reviewed}
        known |= {f"correction {name}": approved for name, _, approved in desk.known.verdicts}
        said = [(vote.rater, vote.item, vote.up) for vote in votes if not vote.reviewed]
        said += [(desk.person(who), f"correction {name}", True) for name, who, _ in desk.known.verdicts]
        found = measure(said, known, self.options)
        desk.good = found.true | {item: self._reviewed(up) for item, up in known.items()}
        desk.trust = found.accuracy
        chosen = self._choices(desk)
        for case in desk.at_hand:
            case.sure = self._sure(case, desk, found, chosen)

    def _reviewed(self, yes: bool) -> float:
        return self.options.reviewer if yes else 1 - self.options.reviewer

    def _sure(self, case: Case, desk: Desk, found: Measured, chosen: dict[str, float]) -> float:
        verdict = desk.good.get(f"correction {case.record.id}")
        if case.decided:
            return self.options.reviewer
        if verdict is not None:
            return verdict
        if case.record.id in chosen and not case.record.correction:
            return chosen[case.record.id]
        if case.vote is None:
            return 1.0
        right = desk.good[case.item] if case.vote else 1 - desk.good[case.item]
        if not case.record.correction:
            return right
        accuracy = found.accuracy.get(desk.person(case.record.user), self.options.accuracy)
        return accuracy if case.vote else accuracy * right

    def _choices(self, desk: Desk) -> dict[str, float]:
        """How sure each choice between two answers is, by record. Who always takes the left one agrees with the others by chance alone."""
        votes: dict[tuple[str, str], bool] = {}
        of: dict[str, tuple[str, bool]] = {}
        for case in desk.at_hand:
            pair = sides(case, desk) if case.record.preference else None
            won = case.record.preference.won if case.record.preference else None
            if pair and won is not None:
                ours, theirs = map(fingerprint, pair)
                item, yes = f"{case.question}\x1f{min(ours, theirs)}\x1f{max(ours, theirs)}", won == (ours <= theirs)
                votes[desk.person(case.record.user), item] = yes
                of[case.record.id] = item, yes
        found = measure([(rater, item, yes) for (rater, item), yes in votes.items()], {}, self.options)
        return {name: found.true[item] if yes else 1 - found.true[item] for name, (item, yes) in of.items()}
