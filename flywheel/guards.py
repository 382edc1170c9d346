"""Is the challenger worse? Asked every few seconds while people already get its answers, and still wrong at most once in a hundred rollouts a guard.

A fixed count would have to be waited for, and a usual test that is looked at again and again finds a difference in the end where there is
none. This is a confidence sequence (normal mixture: Robbins; asymptotic: Waudby-Smith et al.): it holds at all looks together. A guard
trips when the whole interval lies beyond its margin.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from flywheel.config import Guards
from flywheel.ledger.outcomes import Arm, Sums

ALPHA = 0.01  # a guard, over all looks
TUNED = 0.16  # the mixture's variance: the interval is tightest near fifty answers
SHARES = ("errors", "refusals", "thumbs_down")
FEWEST = {True: 5, False: 20}  # answers of each arm before a share, or a mean, is judged


def radius(t: float, sigma: float) -> float:
    """Half the width of the interval after `t` observations of standard deviation `sigma`."""
    scaled = t * TUNED + 1
    return sigma * math.sqrt(2 * scaled / (t * t * TUNED) * math.log(math.sqrt(scaled) / ALPHA))


def lowest(challenger: Sums, champion: Sums, share: bool) -> float:
    """The least by which the challenger's figure is above the champion's, as far as can be said by now; minus infinity with too few answers."""
    if min(challenger.n, champion.n) < FEWEST[share]:
        return -math.inf
    ours, theirs = (_variance(arm, share) for arm in (challenger, champion))
    total = challenger.n + champion.n
    t = challenger.n * champion.n / total
    sigma = math.sqrt((champion.n * ours + challenger.n * theirs) / total)
    return challenger.mean - champion.mean - radius(t, sigma)


def _variance(arm: Sums, share: bool) -> float:
    if not share:
        return max(arm.variance, 0.01)  # of logarithms: nobody answers more evenly than to a tenth
    smoothed = (arm.mean * arm.n + 1) / (arm.n + 2)  # none of ten is not never
    return smoothed * (1 - smoothed)


def _mirrored(arm: Sums) -> Sums:
    return Sums(arm.n, -arm.mean, arm.variance)


def breach(figures: Mapping[str, Mapping[Arm, Sums]], guards: Guards) -> str:
    """The first guard that trips, as a sentence; empty while none does."""
    for name, arms in figures.items():
        ours, theirs = arms["challenger"], arms["champion"]
        margin = getattr(guards, name)
        if name in SHARES:
            if lowest(ours, theirs, True) > margin:
                return f"{name.replace('_', ' ')}: {ours.mean:.1%} of {ours.n}, the champion's {theirs.mean:.1%} of {theirs.n}"
        else:
            beyond = math.log(margin)
            if lowest(ours, theirs, False) > beyond or (name == "length" and lowest(_mirrored(ours), _mirrored(theirs), False) > beyond):
                return f"{name}: {math.exp(ours.mean - theirs.mean):.2f} times the champion's, over {ours.n} answers"
    return ""
