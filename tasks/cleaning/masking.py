"""What `secrets` and `personal` share: a policy over masks. A mask is a function from a text to the same text with a placeholder where it found something."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from flywheel.config.steps import Policy
from tasks.cleaning.record import Judge, Texts, edited

Mask = Callable[[str], str]


def by_policy(step: str, policy: Policy, masks: Mapping[str, Mask], hint: Callable[[str], object]) -> Judge:
    """`mask`: apply the masks to every text until they find nothing more; `drop`: reject the record by the first that finds something.

    `masks` are named by what they find, as it reads in "… was found". Texts without a hint are
    ones in which no mask would find anything.
    """

    def edit(text: str) -> str:
        before = ""
        while before != text:
            before = text
            for mask in masks.values():
                text = mask(text)
        return text

    def found(texts: Texts) -> str:
        history, *others = texts
        return next((what for text in (*history, *others) for what, mask in masks.items() if mask(text) != text), "")

    def judge(texts: Texts) -> tuple[Texts, str]:
        history, instruction, input, output, rejected = texts
        if not hint("\n".join((instruction, input, output, rejected, *history))):
            return texts, ""
        if policy == "mask":
            return edited(texts, edit), ""
        what = found(texts)
        return texts, f"{what} was found ({step}: drop)" if what else ""

    return judge
