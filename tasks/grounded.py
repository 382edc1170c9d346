"""What retrieval is worth: held-out questions that the index can answer, asked of both models with passages and without.

A part of `evaluate`, while the config names documents under `index` and they are indexed; without, nothing is asked and nothing is loaded.
A passage is right when it holds the words of the reference answer. Only what everybody may see is searched. The gate shows it and judges
nothing by it: the index is not the challenger's.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flywheel import prompt, stage, store
from flywheel.config import Config
from flywheel.errors import NotFound
from flywheel.manifest import Artifact
from tasks.paired import pairs
from tasks.scoring import Candidate, scored
from tasks.suites import Item, to_jsonl

if TYPE_CHECKING:
    from rag.search import Hit

SUITE, K = "grounded", 4
POOL = 20  # passages in which the right ones are looked for, by the words of the answer


@dataclass(frozen=True)
class Grounded:
    """A question as serving would ask it, the passages shown with it, all that were found, and those that hold the answer."""

    item: Item
    shown: list[Hit]
    ranked: list[str]
    right: set[str]


def inputs(conf: Config) -> dict[str, Artifact]:
    """What the index holds, when retrieval is to be measured. Raises TransientError when the database is away."""
    if not conf.index.documents or not conf.evaluate.retrieval:
        return {}
    from rag import search

    try:
        index = search.current(conf.index.alias)
    except NotFound:
        return {}
    return {"index": Artifact(uri=f"index:{conf.index.alias}", sha256=store.sha256_text(search.content(index), str(index.min_similarity)), bytes=0)}


def ask(ctx: stage.Context, items: Sequence[Item], tokenizer: Any) -> list[Grounded]:
    """The questions whose answer some passage holds, at most `evaluate.retrieval` of them, each with the passages that fit beside it."""
    from rag import grounding
    from rag.citing import faithful
    from rag.raft import HOLDS
    from rag.search import search

    conf, found = ctx.config, list[Grounded]()
    for item in (item for item in items if item.output):
        asked = prompt.messages(item.instruction, item.input, item.history)
        ranked = search(asked[-1].content, K, alias=conf.index.alias)
        pool = {hit.id: hit for hit in (*search(item.output, POOL, alias=conf.index.alias, mode="words"), *ranked)}
        right = {id for id, hit in pool.items() if faithful(item.output, [hit]) >= HOLDS}
        shown = grounding.kept(ranked)
        room = conf.model.max_length - max(len(prompt.encode_answer(tokenizer, item.output)), conf.evaluate.max_new_tokens)
        while shown and len(prompt.encode(tokenizer, grounding.grounded(asked, shown), conf.model.prompt)) > room:
            shown = shown[:-1]
        if right and shown:
            text, context = prompt.parts(grounding.grounded(asked, shown)[-1])
            found.append(Grounded(item.model_copy(update={"instruction": text, "input": context}), shown, [hit.id for hit in ranked], right))
        if len(found) == conf.evaluate.retrieval:
            break
    return found


def score(ctx: stage.Context, side: Candidate, questions: Sequence[Grounded]) -> list[dict[str, Any]]:
    """A row a question, with passages, as of any suite; remembered as those are."""
    items = [question.item for question in questions]
    return scored(ctx, side, SUITE, items, store.sha256_text(to_jsonl(items)), len(items))


def report(questions: Sequence[Grounded], alone: dict[str, list[dict[str, Any]]], grounded: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """The retriever's figures, and each model's without (`alone`) and with passages: rows by model, as `score` gives them.

    Gains are of passages over none, with their 95 % intervals: of the reference's log loss (nats a token) and of the answers' ROUGE-L.
    """
    from rag.citing import cite, faithful
    from rag.ranking import ndcg, recall, reciprocal_rank

    def mean(values: Sequence[float]) -> float:
        return round(statistics.mean(values), 4)

    found: dict[str, Any] = {
        "questions": len(questions), "k": K,
        "retriever": {
            "recall": mean([recall(q.ranked, q.right, K) for q in questions]), "mrr": mean([reciprocal_rank(q.ranked, q.right) for q in questions]),
            "ndcg": mean([ndcg(q.ranked, q.right, K) for q in questions]),
        },
        "models": {},
    }  # fmt: skip
    for name, with_passages in grounded.items():
        without = {row["id"]: row for row in alone[name]}
        rows = {"alone": [without[row["id"]] for row in with_passages], "with passages": with_passages}
        model: dict[str, Any] = {}
        for way, of_way in rows.items():
            cited = [(q, c) for q, row in zip(questions, of_way, strict=True) for c in cite(str(row["answer"]), q.shown)]
            model[way] = {
                "log_loss": round(sum(row["loss"] for row in of_way) / sum(row["tokens"] for row in of_way), 4),
                "rouge_l": mean([row["rouge_l"] for row in of_way]),
                "faithful": mean([faithful(str(row["answer"]), q.shown) for q, row in zip(questions, of_way, strict=True)]),
                "citations": len(cited),
                "citations_right": mean([q.shown[c.source - 1].id in q.right for q, c in cited]) if cited else None,
            }
        model["gain"] = {metric: _gain(rows, metric) for metric in ("log_loss", "rouge_l")}
        found["models"][name] = model
    return found


def _gain(rows: dict[str, list[dict[str, Any]]], metric: str) -> list[float] | None:
    """(gain, low, high) of passages over none; None on fewer than two questions."""
    import pandas as pd

    sides = zip(("champion", "challenger"), rows.values(), strict=True)
    found = pairs(pd.DataFrame([{**row, "model": side} for side, of_side in sides for row in of_side]), metric).compare()
    return [round(value, 4) for value in (found.gain, *found.interval())] if found and found.examples > 1 else None
