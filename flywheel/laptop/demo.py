"""`make demo`: turn the flywheel twice, refuse a poisoned challenger, and show what got better: here, or on an installation that runs.

Plays the users through serving's HTTP API exactly as the page does; everything else is done by Airflow.
Leaves `.flywheel/demo.json` with every figure it shows, and `.flywheel/demo.png`.
"""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import yaml
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from flywheel import manifest, store
from flywheel.airflow_api import AirflowApi
from flywheel.errors import ContractError, DataError, TransientError
from flywheel.records import Example
from flywheel.settings import REPOSITORY, settings
from flywheel.turn import find, follow, results, start

QUESTIONS = 300
TURN_SECONDS = 1500
SHOWN = ("log_loss", "perplexity", "token_accuracy", "rouge_l", "similarity", "exact_match")
USERS = 32  # at a time: one batch is decoded while the next gathers
console = Console(highlight=False)


def run(source: str | None = None, installed: bool = False) -> None:
    """The whole demo. Raises FlywheelError with the mend when a part fails."""
    began = time.monotonic()
    figures: dict[str, Any] = {"started": datetime.now(UTC).isoformat()}
    if installed:
        refuse_what_turned()
        write_config(settings().config, source)
    else:
        from flywheel.laptop import stack  # needs what only a laptop has

        set_aside(stack.down)
        write_config(str(settings().home / "config.yaml"), source)
        stack.up()
    api = AirflowApi()

    console.rule("[bold]Turn 1: the first champion")
    first = follow(start({}), TURN_SECONDS)
    figures["turn_1"] = results(first)

    console.rule("[bold]Users ask, rate and correct")
    known = {r["dag_run_id"] for r in api.runs("flywheel")}
    figures["feedback"] = play_users(first)
    find(api, "feedback")
    api.unpause("feedback")

    console.rule("[bold]Turn 2: started by their feedback")
    second = follow(wait_for_new_run(api, known), TURN_SECONDS)
    figures["turn_2"] = results(second)

    console.rule("[bold]A poisoned challenger is offered")
    poisoned = follow(start({"set": poison(first)}), TURN_SECONDS)
    figures["poisoned"] = results(poisoned)

    figures["seconds"] = round(time.monotonic() - began, 1)
    check(figures)
    show(figures)
    store.write_bytes(str(settings().home / "demo.json"), json.dumps(figures, indent=1).encode())


def refuse_what_turned() -> None:
    """The demo begins at the beginning, and puts its own config in place of the installation's: not on one that is in use."""
    if store.exists(store.join(settings().store, "runs")):
        raise ContractError("this installation has turned before", where=settings().store, mend="Play the demo on a new one.")


def set_aside(down: Callable[[], None]) -> None:
    """The demo begins at the beginning: an earlier one's state is moved away, never deleted."""
    home = settings().home
    if not (home / "store" / "runs").exists():
        return
    down()
    target = home / "earlier" / f"{datetime.now():%Y%m%d-%H%M%S}"
    target.mkdir(parents=True)
    for entry in home.iterdir():
        if entry.name not in ("cache", "earlier"):
            shutil.move(entry, target / entry.name)
    console.print(f"the state that was here is kept in {target}; delete it when you like", soft_wrap=True)


def write_config(target: str, source: str | None) -> None:
    """The installation's config: the demo's, with the user's own file in place of the built-in source if one is given."""
    changed: dict[str, Any] = {"extends": str(REPOSITORY / "config" / "demo.yaml")}
    if source:
        path = source if "://" in source else str(Path(source).expanduser().absolute())
        changed["ingest"] = {"sources": [{"kind": "files", "path": path, "licence": "the owner's own", "consent": "given by running the demo on it"}]}
    text = "# Written by `make demo`; the DAGs read it at every run.\n" + yaml.safe_dump(changed, sort_keys=False)
    store.write_bytes(target, text.encode())


def wait_for_new_run(api: AirflowApi, known: set[str]) -> str:
    """The id of the run that the feedback DAG's asset started."""
    until = time.monotonic() + 300
    with console.status("waiting for the sensor to see the feedback"):
        while time.monotonic() < until:
            new = [r["dag_run_id"] for r in api.runs("flywheel") if r["dag_run_id"] not in known]
            if new:
                return new[0]
            time.sleep(2)
    raise TransientError("no run was started by the feedback within 300 s", where="the feedback DAG", mend="Look at its runs in Airflow.")


def examples(run: str, output: str) -> list[Example]:
    """Records of one of clean's outputs."""
    path = manifest.read_for(run, "clean").outputs[output].fetch(settings().home / "cache")
    return [Example.model_validate_json(row) for row in path.read_text().splitlines()]


def play_users(run: str) -> dict[str, int]:
    """People ask what the model was never taught, and say what the answer should have been."""
    asked = examples(run, "reserve")[:QUESTIONS]
    if not asked:
        raise DataError("no record was set aside for the users to ask", where="ingest.reserve", mend="Use a larger source.")
    counts = {"asked": 0, "up": 0, "down": 0, "corrected": 0}

    key = settings().serving_key  # a laptop's own asks for none
    client = httpx.Client(base_url=settings().serving_url, timeout=120, headers={"authorization": f"Bearer {key}"} if key else {})

    def person(example: Example) -> str:
        question = {"instruction": example.instruction, "input": example.input, "max_new_tokens": 16, "user": f"user-{hash_of(example.id) % 40}"}
        answer = post(client, "/v1/generate", question)
        good = answer["response"].strip() == example.output.strip()
        verdict: dict[str, Any] = {"thumb": "up"} if good else {"thumb": "down", "correction": example.output}
        key = str(uuid.uuid5(uuid.NAMESPACE_URL, answer["answer_id"]))
        post(client, "/v1/feedback", {"answer_id": answer["answer_id"], "idempotency_key": key, "user": question["user"], "consent": True, **verdict})
        return "up" if good else "down"

    progress = Progress(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=console)
    with client, progress as bar, ThreadPoolExecutor(USERS) as people:
        line = bar.add_task("questions asked, answers corrected", total=len(asked))
        for thumb in people.map(person, asked):
            counts["asked"] += 1
            counts[thumb] += 1
            counts["corrected"] += thumb == "down"
            bar.advance(line)
    return counts


def post(client: httpx.Client, path: str, body: dict[str, Any]) -> dict[str, Any]:
    """POST, waiting as told when the service is full."""
    for _ in range(60):
        reply = client.post(path, json=body)
        if reply.status_code in (429, 503):
            time.sleep(float(reply.headers.get("retry-after", 1)))
            continue
        reply.raise_for_status()
        return dict(reply.json())
    raise TransientError("serving stayed too busy", where=path, mend="Look at `make logs S=serving`.")


def hash_of(text: str) -> int:
    """A stable number for a text."""
    return int(hashlib.sha256(text.encode()).hexdigest()[:8], 16)


def poison(run: str) -> list[str]:
    """Overrides for a turn on shuffled answers: each question gets another one's answer, read backwards."""
    records = examples(run, "reserve") + examples(run, "train")
    answers = [" ".join(reversed(r.output.split())) for r in records]
    random.Random(7).shuffle(answers)
    rows = [{"instruction": r.instruction, "input": r.input, "output": a, "group": r.group} for r, a in zip(records[:400], answers, strict=False)]
    path = store.join(settings().store, "demo", "poison.jsonl")  # where the stages see it, wherever they run
    store.write_bytes(path, "".join(json.dumps(row) + "\n" for row in rows).encode())
    source = {"kind": "files", "path": path, "licence": "made for the demo", "consent": "made for the demo"}
    return [f"ingest.sources={json.dumps([source])}", "ingest.feedback=false", "ingest.reserve=0", "train.max_examples=64", "train.replay=0"]


def check(figures: dict[str, Any]) -> None:
    """The demo is a success only if the wheel did what it promises."""
    for name in ("turn_1", "turn_2"):
        if figures[name]["verdict"]["verdict"] != "promote":
            raise DataError(f"the challenger was not promoted: {figures[name]['verdict']['reason']}", where=name, mend="See its evaluation report.")
    if figures["poisoned"]["verdict"]["verdict"] == "promote":
        raise DataError("the poisoned challenger was promoted", where="gate", mend="This is a fault of the gate: report it.")


def show(figures: dict[str, Any]) -> None:
    """Both versions on the same frozen examples, a plot, and where to look next."""
    table = Table(title="On the same frozen examples", title_style="bold")
    for column in ("metric", "base model", "champion 1", "champion 2", "gain of 2 over 1 (95 %)"):
        table.add_column(column, justify="left" if column == "metric" else "right")
    one, two = figures["turn_1"]["metrics"], figures["turn_2"]["metrics"]
    for metric in (name for name in SHOWN if name in one and name in two):
        low, high = two[metric]["interval"]
        cells = (one[metric]["champion"], two[metric]["champion"], two[metric]["challenger"])
        table.add_row(metric, *(f"{value:.3f}" for value in cells), f"{two[metric]['gain']:+.3f} [{low:+.3f}, {high:+.3f}]")
    console.print(table)
    console.print(f"The poisoned challenger: [bold red]{figures['poisoned']['verdict']['verdict']}[/] — {figures['poisoned']['verdict']['reason']}")
    plot(figures, settings().home / "demo.png")
    for name, title in (("turn_2", "Why champion 2 was promoted"), ("poisoned", "Why the poisoned one was not")):
        console.print(f"{title}: {figures[name]['page']}", soft_wrap=True)
    console.print(f"\n{figures['seconds'] / 60:.1f} minutes in all. Plot: {settings().home / 'demo.png'}", soft_wrap=True)
    for name, url in {
        "Airflow": settings().airflow_url,
        "MLflow": settings().mlflow_url,
        "Chat": settings().ui_url,
        "API": settings().serving_url + "/docs",
    }.items():
        console.print(f"  {name:8} {url}")


def plot(figures: dict[str, Any], path: Path) -> None:
    """Perplexity and ROUGE-L of the base model and both champions."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    one, two = figures["turn_1"]["metrics"], figures["turn_2"]["metrics"]
    names = [m for m in ("perplexity", "rouge_l") if m in one]
    figure, axes = pyplot.subplots(1, len(names), figsize=(4.2 * len(names), 3.6), squeeze=False)
    for axis, metric in zip(axes[0], names, strict=True):
        heights = [one[metric]["champion"], two[metric]["champion"], two[metric]["challenger"]]
        bars = axis.bar(["base", "champion 1", "champion 2"], heights, color=["#b8bec9", "#6c8ebf", "#2f5d9e"])
        axis.bar_label(bars, fmt="%.3g")
        axis.set_title({"perplexity": "Perplexity (lower is better)", "rouge_l": "ROUGE-L (higher is better)"}[metric])
        axis.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    pyplot.close(figure)
