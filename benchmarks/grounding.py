"""What retrieval and retrieval-aware training are worth, on real text.  make bench NAME=grounding

The standard library's modules are the documents, indexed as code; questions ask what their functions do, the answer is the docstring's first
paragraph. Modules are held out: their questions are never trained on, their documents are in the index. Four ways to answer the same
questions: the base model, one fine-tuned on plain pairs (without and with retrieval), and one fine-tuned with passages and distractors.
Measured, each gain paired by question with a 95 % bootstrap interval: nats a token of the right answer, over all questions; and of greedy answers
to the first ANSWERED, ROUGE-L and the likeness of their embeddings. Beside them faithfulness, citations, and the retriever.
"""

from __future__ import annotations

import json
import os
import random
import statistics
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy
import torch
from peft import LoraConfig, get_peft_model
from rouge_score.rouge_scorer import RougeScorer
from transformers import AutoModelForCausalLM

from benchmarks.context import serve
from flywheel import base_model, embedding, prompt
from flywheel.config import Train
from flywheel.model import Decoding, Loaded, answer_loss, generate, score_answers
from flywheel.settings import settings
from rag import documents, grounding
from rag.citing import cite, faithful
from rag.index import Wanted, build
from rag.raft import record
from rag.ranking import ndcg, recall, reciprocal_rank
from rag.search import Hit, search
from rag.splitting import split
from tasks import sources
from tasks.training.machine import Machine

TRAIN, TEST, ANSWERED = int(os.environ.get("TRAIN", "160")), int(os.environ.get("TEST", "160")), int(os.environ.get("ANSWERED", "64"))
MODULES = ("argparse", "ast", "asyncio", "bz2", "calendar", "cgi", "cmd", "code", "codecs", "collections", "concurrent", "configparser", "contextlib", "copy",
           "csv", "dataclasses", "datetime", "difflib", "dis", "doctest", "email", "enum", "fileinput", "fractions", "ftplib", "functools", "getpass", "gettext",
           "glob", "gzip", "heapq", "hmac", "html", "imaplib", "inspect", "ipaddress", "json", "linecache", "locale", "mailbox", "mimetypes", "netrc", "numbers",
           "pathlib", "pickle", "platform", "plistlib", "pprint", "queue", "random", "sched", "secrets", "selectors", "shelve", "shlex", "shutil", "socketserver",
           "statistics", "string", "tarfile", "tempfile", "textwrap", "threading", "timeit", "traceback", "typing", "uuid", "weakref", "wave", "zipfile")  # fmt: skip
PIECE, K, CHARACTERS, BATCH, RATE, LONGEST = 400, 3, 1100, 8, 4e-4, 32  # of an answer: tokens


def held_out(module: str) -> bool:
    """Every third module, by a hash."""
    return sum(map(ord, module)) % 3 == 0


def interval(differences: Sequence[float]) -> list[float]:
    """Mean and its 95 % bootstrap interval."""
    dice = numpy.random.default_rng(1)
    means = dice.choice(differences, (4000, len(differences))).mean(axis=1)
    return [round(float(x), 4) for x in (numpy.mean(differences), *numpy.quantile(means, [0.025, 0.975]))]


def tuned(base: Path, tokenizer: Any, examples: Sequence[tuple[str, str, str]]) -> Loaded:
    """The base with a LoRA trained once over (question, input, answer)."""
    torch.manual_seed(0)
    model: Any = AutoModelForCausalLM.from_pretrained(str(base), dtype=getattr(torch, Machine.here().precision(Train())))
    model = get_peft_model(model, LoraConfig(r=16, lora_alpha=32, target_modules="all-linear"), autocast_adapter_dtype=True)
    encoded = [encode(tokenizer, *example) for example in examples]
    batches = [encoded[i : i + BATCH] for i in range(0, len(encoded), BATCH)]
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], RATE)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1, (step + 1) / 3) * (1 - step / len(batches)))
    for number, batch in enumerate(batches):
        loss = answer_loss(model.base_model.model, batch, tokenizer.pad_token_id, "cpu").sum() / sum(len(ids) - start for ids, start in batch)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        print(f"  step {number + 1} of {len(batches)}: {float(loss):.3f}", flush=True)
    return Loaded(model.merge_and_unload().float().eval(), tokenizer, torch.device("cpu"))


def encode(tokenizer: Any, question: str, shown: str, answer: str) -> tuple[list[int], int]:
    """Ids of prompt and answer, and the prompt's length."""
    ids = prompt.encode(tokenizer, prompt.messages(question, shown))
    return ids + prompt.encode_answer(tokenizer, answer), len(ids)


def main() -> int:
    """Print a line a step, then the JSON; 1 when a goal is missed."""
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
    server = serve("grounding")
    try:
        return compare()
    finally:
        server.terminate()


def compare() -> int:
    """Everything, on a server that runs."""
    root = Path(sysconfig.get_path("stdlib"))
    found = [d for name in MODULES for path in (f"{root}/{name}.py", f"{root}/{name}/*.py") if list(root.glob(path[len(str(root)) + 1 :]))
             for d in documents.load(path) if isinstance(d, documents.Document)]  # fmt: skip
    passages = [p for d in found for p in split(d, PIECE) if '"""' in p.text]
    print(f"{len(passages)} passages", flush=True)
    build(passages, Wanted(), say=lambda text: print(text, flush=True))
    titles: dict[str, list[Any]] = {}
    for p in passages:
        titles.setdefault(p.title, []).append(p)

    rows = [f[2] for f in sources.docs() if not isinstance(f, sources.Rejected)]
    asked = [(r, titles[name]) for r in rows if (name := r.instruction.split("`")[1]) in titles and r.group in MODULES]
    random.Random(3).shuffle(asked)
    test = [(r, own) for r, own in asked if held_out(r.group)][:TEST]
    train = [r for r, _ in asked if not held_out(r.group)]
    hits: dict[str, list[Hit]] = {}
    for row in (*(r for r, _ in test), *train[: 2 * TRAIN]):
        hits[row.instruction] = search(row.instruction, 5)
    ranked = [([h.id for h in hits[r.instruction]], {p.id for p in own if faithful(r.output, [_hit(p)]) >= 0.7} or {p.id for p in own}) for r, own in test]
    retriever = {
        "recall@3": round(statistics.mean(recall(a, b, 3) for a, b in ranked), 3), "mrr": round(statistics.mean(reciprocal_rank(a, b) for a, b in ranked), 3),
        "ndcg@3": round(statistics.mean(ndcg(a, b, 3) for a, b in ranked), 3),
    }  # fmt: skip
    print(f"retriever: {retriever}", flush=True)

    grounded = [(r, made) for r in train[: 2 * TRAIN] if (made := record(r.output, hits[r.instruction], random.Random(r.instruction), K - 1, 0.1, CHARACTERS))]
    grounded = grounded[:TRAIN]
    base = base_model.local_folder(base_model.BUILT_IN, settings().home / "cache")
    tokenizer = prompt.load_tokenizer(base)
    with_passages = {r.instruction: grounding.context([(h.title, h.text) for h in hits[r.instruction][:K]], CHARACTERS) for r, _ in test}

    losses: dict[str, list[float]] = {}
    answers: dict[str, dict[str, list[float]]] = {}
    plain: Any = AutoModelForCausalLM.from_pretrained(str(base), dtype=torch.float32)
    models = {
        "base": lambda: Loaded(plain.eval(), tokenizer, torch.device("cpu")),
        "plain pairs": lambda: tuned(base, tokenizer, [(r.instruction, "", r.output) for r, _ in grounded]),
        "with passages": lambda: tuned(base, tokenizer, [(r.instruction, *made) for r, made in grounded]),
    }
    for name, make in models.items():
        loaded = make()
        for way in ("alone", "with retrieval"):
            if (name, way) == ("with passages", "alone"):
                continue
            inputs = [with_passages[r.instruction] if way == "with retrieval" else "" for r, _ in test]
            examples = [encode(tokenizer, r.instruction, shown, r.output) for (r, _), shown in zip(test, inputs, strict=True)]
            losses[f"{name}, {way}"] = [s.loss / s.tokens for s in score_answers(loaded, examples, 4)]
            answers[f"{name}, {way}"] = answered(loaded, test[:ANSWERED], inputs, hits)
            print(f"{name}, {way}: {statistics.mean(losses[f'{name}, {way}']):.3f} nats a token, {means(answers[f'{name}, {way}'])}", flush=True)

    def gain(worse: str, better: str) -> dict[str, list[float]]:
        return {
            "nats": interval([a - b for a, b in zip(losses[worse], losses[better], strict=True)]),
            **{m: interval([b - a for a, b in zip(answers[worse][m], answers[better][m], strict=True)]) for m in ("rouge_l", "similarity")},
        }

    gains = {
        "retrieval, base": gain("base, alone", "base, with retrieval"),
        "retrieval, plain pairs": gain("plain pairs, alone", "plain pairs, with retrieval"),
        "passages over pairs, with retrieval": gain("plain pairs, with retrieval", "with passages, with retrieval"),
        "passages over pairs alone": gain("plain pairs, alone", "with passages, with retrieval"),
    }
    result = {
        "name": "grounding", "questions": len(test), "answered": min(ANSWERED, len(test)), "trained_on": len(grounded), "retriever": retriever, "ours": gains,
        "peers": {name: {"nats": round(statistics.mean(values), 4), **means(answers[name])} for name, values in losses.items()},
        "goal": "retrieval helps and training with passages helps more: each 95 % interval of the gain, in nats a token, above zero",
        "met": all(each["nats"][1] > 0 for each in gains.values()),
    }  # fmt: skip
    print(json.dumps(result))
    return 0 if result["met"] else 1


def _hit(p: Any) -> Hit:
    return Hit(p.id, p.document.uri, p.title, p.text, p.start, p.end, {}, 0, 0)


def means(measures: dict[str, list[float]]) -> dict[str, float]:
    """Of each measure."""
    return {name: round(statistics.mean(values), 3) if values else 0.0 for name, values in measures.items()}


def answered(loaded: Loaded, test: Sequence[Any], inputs: Sequence[str], hits: dict[str, list[Hit]]) -> dict[str, list[float]]:
    """ROUGE-L, likeness and faithfulness of each greedy answer, and for each citation whether it names the passage of what was asked."""
    prompts = [prompt.encode(loaded.tokenizer, prompt.messages(r.instruction, shown)) for (r, _), shown in zip(test, inputs, strict=False)]
    texts = [
        loaded.tokenizer.decode(one.ids, skip_special_tokens=True).strip()
        for i in range(0, len(prompts), 8)
        for one in generate(loaded, prompts[i : i + 8], Decoding(LONGEST))
    ]
    rouge = RougeScorer(["rougeL"])
    shown = [hits[r.instruction][:K] for r, _ in test]
    vectors = embedding.embed([*(r.output for r, _ in test), *texts], embedding.BUILT_IN)
    return {
        "rouge_l": [rouge.score(r.output, text)["rougeL"].fmeasure for (r, _), text in zip(test, texts, strict=True)],
        "similarity": [float(x) for x in (vectors[: len(test)] * vectors[len(test) :]).sum(axis=1)],
        "faithful": [faithful(text, of) for text, of in zip(texts, shown, strict=True)],
        "citations_right": [
            float(of[c.source - 1].id in {p.id for p in own}) for (_, own), text, of in zip(test, texts, shown, strict=True) for c in cite(text, of)
        ],
    }


if __name__ == "__main__":
    sys.exit(main())
