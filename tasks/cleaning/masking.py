"""What `secrets` and `personal` share: a policy over masks. A mask is a function from a text to the same text with a placeholder where it found something."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from flywheel.config.steps import Policy
from tasks.cleaning.record import Judge, Texts, edited

Mask = Callable[[str], str]


def by_policy(step: str, policy: Policy, masks: Mapping[str, Mask]) -> Judge:
    """`mask`: apply the masks to every text until they find nothing more; `drop`: reject the record by the first that finds something.

    `masks` are named by what they find, as it reads in "… was found".
    """

    def edit(text: str) -> str:
        before = ""
        while before != text:
            before = text
            for mask in masks.values():
                text = mask(text)
        return text

    def judge_mask(texts: Texts) -> tuple[Texts, str]:
        return edited(texts, edit), ""

    def judge_drop(texts: Texts) -> tuple[Texts, str]:
        history, *others = texts
        for text in (*history, *others):
            for what, mask in masks.items():
                if mask(text) != text:
                    return texts, f"{what} was found ({step}: drop)"
        return texts, ""

    return judge_mask if policy == "mask" else judge_drop
