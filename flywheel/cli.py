"""`python -m flywheel`: what operators type."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated

import httpx
import typer
from rich.table import Table

from flywheel import cli_care, cli_nights, cli_operate, store
from flywheel.command import AS_JSON, app, command, console, data_command, review_command
from flywheel.errors import ContractError, DataError, FlywheelError, TransientError
from flywheel.settings import settings

__all__ = ["app", "cli_care", "cli_nights", "cli_operate"]


@command
def up() -> None:
    """Start the laptop stack, in order, and wait until it is healthy."""
    from flywheel.laptop import stack

    stack.up()


@command
def down() -> None:
    """Stop the laptop stack. Its data stays."""
    from flywheel.laptop import stack

    stack.down()


@command
def status() -> None:
    """What runs, how it feels, and which version is served. Exit code 1 when something is not healthy."""
    from flywheel.laptop import stack

    if not stack.status():
        raise typer.Exit(1)
    version = httpx.get(f"{settings().serving_url}/readyz", timeout=5).json()["model_version"]
    console.print("serving the base model: there is no champion yet" if version == "base" else f"serving version {version}")


@command
def logs(service: Annotated[str | None, typer.Argument(help="e.g. serving; all of them by default")] = None) -> None:
    """Follow a service's log."""
    from flywheel.laptop import stack

    files = [str(p) for p in stack.log_files(service) if p.exists()]
    if files:
        os.execvp("tail", ["tail", "-n", "40", "-F", *files])
    console.print("no logs yet: start the stack with `make up`")


@command
def monitoring() -> None:
    """A real Prometheus and Alertmanager beside the stack, until Ctrl-C."""
    from flywheel.laptop import monitoring as beside

    beside.run()


@command
def demo(
    source: Annotated[str | None, typer.Option(help="your own .jsonl, .csv or .parquet with instruction, input, output")] = None,
    installed: Annotated[bool, typer.Option(help="on the new installation that the settings name, which runs already")] = False,
) -> None:
    """Turn the wheel twice, refuse a poisoned model, show what got better."""
    from flywheel.laptop import demo as play

    play.run(source, installed)
    if not installed:
        console.print("`make down` stops everything.")


@command
def turn(
    set: Annotated[list[str] | None, typer.Option(metavar="KEY=VALUE", help="change one setting for this turn, e.g. train.epochs=2")] = None,
    config: Annotated[str, typer.Option(help="a YAML file; by default the installation's own")] = "",
    rollout: Annotated[str, typer.Option(help="auto, yes or no")] = "auto",
    unpause: Annotated[bool, typer.Option(help="let the DAG run if it is paused")] = True,
    wait: Annotated[bool, typer.Option(help="follow the run to its end")] = True,
    deadline: Annotated[float, typer.Option(help="minutes after which it is no longer followed; it goes on")] = 720,
    comment: Annotated[Path | None, typer.Option(help="write what came of it here, as Markdown for a pull request")] = None,
    refusal_fails: Annotated[bool, typer.Option(help="exit code 3 when the gate refuses the new version")] = False,
) -> None:
    """One turn of the flywheel now, through Airflow. Exit codes: 0 done, 2 config or credentials, 3 the run failed, 75 no answer or the deadline."""
    from flywheel import comment as comments
    from flywheel import turn as turns

    run_id = ""
    try:
        if wait:
            store.exists(settings().store)  # the results will be there: better known now than after the run
        run_id = turns.start({"set": set or [], "config": turns.freeze(config, set) if config else "", "rollout": rollout}, unpause=unpause)
        console.print(f"started {turns.address(run_id)}", soft_wrap=True)
        if not wait:
            return
        folder = turns.follow(run_id, deadline * 60)
        reason = turns.skipped(folder)
        found = None if reason else turns.results(folder)
    except FlywheelError as error:
        if comment:
            told = ("The turn did not succeed", error.what) if run_id else ("No turn was started", error.sentence)
            comment.write_text(comments.without_results(*told, run_id))
        raise
    if comment:
        comment.write_text(comments.of(found, run_id) if found else comments.without_results("The turn was skipped", reason, run_id))
    if found is None:
        console.print(f"skipped: {reason}", markup=False)
        return
    verdict = found["verdict"]
    console.print(f"{verdict['verdict']}: {verdict['reason']}", markup=False)
    if refusal_fails and verdict["verdict"] == "refuse":
        raise DataError("the gate refused the new version", where=run_id, mend="Its rules are in the report: mend the config or the data.")


@command
def versions() -> None:
    """Every registered version, with the gate's verdict and reason."""
    from flywheel import registry

    table = Table(box=None, pad_edge=False)
    for column in ("version", "alias", "verdict", "parent", "registered", "reason"):
        table.add_column(column)
    aliases = {registry.alias(name): name for name in ("challenger", "previous", "champion")}
    for v in registry.versions():
        table.add_row(
            str(v.version), "retired" if v.retired else aliases.get(v.version, ""), v.verdict, str(v.parent or "base"), v.created, v.retired or v.reason
        )
    console.print(table)


@command
def export(
    version: Annotated[int, typer.Argument(help="as `flywheel versions` lists it")],
    folder: Annotated[Path, typer.Argument(help="a new folder")],
    to: Annotated[str, typer.Option(help="hub: the Hugging Face Hub's layout; sagemaker: an archive and a model package request")] = "hub",
) -> None:
    """Write a version in another registry's form."""
    from flywheel import export as exports
    from flywheel import registry

    if to not in ("hub", "sagemaker"):
        raise ContractError(f"--to {to} is not known", mend="Use hub or sagemaker.")
    exports.export(registry.get(version), "hub" if to == "hub" else "sagemaker", folder)
    console.print(f"version {version} is in {folder}", soft_wrap=True)


@command
def trace(
    id: Annotated[str, typer.Argument(help="of feedback (or its key), an answer, a batch (000003), a data set, or a version (3)")],
    everything: Annotated[bool, typer.Option("--json", help="as JSON, with every id of long lists")] = False,
) -> None:
    """What came of it and what it came from: feedback, batch, data sets, versions, deployments."""
    from flywheel import lineage

    found = lineage.trace(id)
    if everything:
        print(json.dumps(found, default=str, indent=1))
        return
    for key, value in found.items():
        text = f"{len(value)}: {', '.join(map(str, value[:10]))}{' …' if len(value) > 10 else ''}" if isinstance(value, list) else value
        console.print(f"{key:15} {text}", markup=False, soft_wrap=True)


@command
def forget(
    user: Annotated[str, typer.Option(help="everything a person asked, and all that was said about it")] = "",
    feedback: Annotated[str, typer.Option(help="one record, by its id or key")] = "",
    expired: Annotated[bool, typer.Option(help="every record that was kept as long as it may be")] = False,
    again: Annotated[bool, typer.Option(help="what the proofs in the store name and a restored backup brought back")] = False,
    reason: Annotated[str, typer.Option(help="goes into the audit log and the proof")] = "asked for",
) -> None:
    """Forget a person or a record: out of every later data set; what came before is listed, and a proof is written."""
    from flywheel import forgetting

    if sum(map(bool, (user, feedback, expired, again))) != 1:
        raise ContractError("name what is to be forgotten", where="forget", mend="Pass one of --user, --feedback, --expired and --again.")
    if again:
        done = forgetting.again(os.environ.get("USER", "operator"))
        console.print(f"{len(done)} forgettings were done again{': proofs ' + ', '.join(done) if done else ''}", soft_wrap=True)
        return
    proof = forgetting.forget(os.environ.get("USER", "operator"), reason, user=user, record=feedback, expired=expired)
    where = store.join(settings().store, forgetting.PROOFS, f"{proof['id']}.json")
    for key in ("records", "answers", "segments", "batches", "datasets", "versions", "runs_with_copies", "pending"):
        value = proof[key]
        names = [entry["id"] for entry in value] if key == "records" else value
        console.print(f"{key:17} {len(names)}: {', '.join(names)}" if isinstance(names, list) else f"{key:17} {names}", markup=False, soft_wrap=True)
    console.print(f"proof: {where}", soft_wrap=True)


@command
def events() -> None:
    """The audit log, newest first."""
    from flywheel import ledger

    found = ledger.list_events()
    if not found:
        raise DataError("nothing has been promoted yet", where="the audit log", mend="Turn the wheel with `make turn`.")
    for event in found:
        console.print(f"{event['at']:%Y-%m-%d %H:%M:%S}  {event['actor']:12} {event['action']:10} {event['detail']}", markup=False, soft_wrap=True)


@command
def notices(test: Annotated[bool, typer.Option(help="send a message to every channel of notices.yaml")] = False) -> None:
    """The last messages that people were sent, and what kept one from its channel; sends what is due."""
    import uuid

    from flywheel import notices as messages

    if test and not messages.load().channels:
        raise ContractError("it names no channel", where=settings().notices, mend="Start from config/notices.yaml.")
    if test:
        messages.tell("test", f"test {uuid.uuid4().hex}", {})
    messages.deliver()
    for row in messages.recent():
        why = row["problem"] or f"until {row['due']:%H:%M}"
        state = f"waits for {', '.join(row['pending'])}: {why}" if row["pending"] else "sent"
        console.print(f"{row['at']:%Y-%m-%d %H:%M}  {row['kind']:9} {row['message']['title']}  ({state})", markup=False, soft_wrap=True)
    if test and messages.recent(1)[0]["pending"]:
        raise TransientError("not every channel took it", where=settings().notices, mend="Mend what is said above, then try again.")


@data_command
def data_versions(as_json: AS_JSON = False) -> None:
    """Every data set version, newest first."""
    from flywheel import datasets

    found = datasets.versions()
    if as_json:
        return console.print_json(json.dumps([v.model_dump() for v in found]))
    table = Table(box=None, pad_edge=False)
    for column in ("version", "of", "train", "heldout", "reserve", "sources", "run"):
        table.add_column(column, no_wrap=column in ("version", "of"))
    for v in found:
        counts = (str(v.records.get(split, 0)) for split in datasets.SPLITS)
        table.add_row(v.id[:12], f"{v.moment:%Y-%m-%d %H:%M}", *counts, ", ".join(s.name for s in v.sources), v.run_dir)
    return console.print(table)


@data_command
def data_show(version: Annotated[str, typer.Argument(help="the first characters of its id")], as_json: AS_JSON = False) -> None:
    """A version's card, and where its files are."""
    from flywheel import datasets

    found = datasets.get(version)
    if as_json:
        return console.print_json(found.model_dump_json())
    print(found.card.fetch(settings().home / "cache").read_text())
    places = {"report": found.report, "raw": found.raw, **found.content}
    for name, uri in {**{name: artifact.location for name, artifact in places.items()}, "dvc": store.resolve(found.tracked)}.items():
        console.print(f"{name:8} {uri}", markup=False, soft_wrap=True)
    return None


@data_command
def data_export(
    version: Annotated[str, typer.Argument(help="the first characters of its id")],
    file: Annotated[Path, typer.Argument(help="a new .jsonl file")],
    form: Annotated[str, typer.Option(help="chat: messages, preferences and thumbs as TRL reads them; instruction: instruction, input, output")] = "chat",
    split: Annotated[str, typer.Option(help="train, heldout or reserve")] = "train",
) -> None:
    """Write a version's records in a form that other tools read."""
    from flywheel import datasets, formats

    if form not in formats.FORMS:
        raise ContractError(f"--form {form} is not known", mend=f"Use one of {', '.join(formats.FORMS)}.")
    if split not in datasets.SPLITS:
        raise ContractError(f"--split {split} is not known", mend=f"Use one of {', '.join(datasets.SPLITS)}.")
    rows = [formats.FORMS[form](example) for example in datasets.get(version).examples(split)]
    written = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows if row]
    store.write_bytes(str(file), "".join(written).encode())
    left = f"; {len(rows) - len(written)} have earlier turns, a preference or a thumb, which that form cannot hold" if len(written) < len(rows) else ""
    console.print(f"{len(written)} records are in {file}{left}", soft_wrap=True)


@data_command
def data_diff(
    a: Annotated[str, typer.Argument(help="the first characters of a version's id")],
    b: Annotated[str, typer.Argument(help="and of another's")],
    samples: Annotated[int, typer.Option(min=0, help="records shown of each kind of change")] = 3,
    as_json: AS_JSON = False,
) -> None:
    """What changed from version A to version B: added, removed, answered otherwise, by source and slice."""
    from flywheel import data_diff, datasets

    found = data_diff.compare(datasets.get(a), datasets.get(b), samples)
    return console.print_json(found.model_dump_json()) if as_json else console.print(data_diff.text(found), markup=False, soft_wrap=True, end="")


@review_command
def review_start() -> None:
    """Set up a Label Studio on this machine, if there is none, and start the stack with it."""
    from flywheel.laptop import services, stack

    services.secret(settings().home, "label-studio")
    settings.cache_clear()
    stack.up()
    console.print(f"{settings().label_studio_url}  as {services.REVIEWER}, password {settings().label_studio_token}", soft_wrap=True)
    console.print("the DAG `review` pushes and pulls every 10 minutes once it is unpaused in Airflow", soft_wrap=True)


@review_command
def review_export(
    file: Annotated[Path, typer.Argument(help="a new .jsonl file for Prodigy")],
    limit: Annotated[int, typer.Option(min=1, help="the most important first")] = 200,
) -> None:
    """Write what waits for a person as Prodigy's JSONL."""
    from flywheel import ledger
    from flywheel.labelling import prodigy
    from flywheel.ledger import review as reviews

    with ledger.transaction() as db:
        items = reviews.waiting(db, limit)
    store.write_bytes(str(file), prodigy.tasks(items))
    console.print(f"{len(items)} tasks are in {file}", soft_wrap=True)


@review_command
def review_import(
    file: Annotated[Path, typer.Argument(help="the output of `prodigy db-out`")],
    annotators: Annotated[int, typer.Option(min=1, help="how many must have looked at an item; most of them decide")] = 1,
) -> None:
    """Take up what people decided in Prodigy; the same file again changes nothing."""
    from flywheel.labelling import prodigy

    taken = prodigy.take_in(file.read_bytes(), str(file), annotators)
    for sentence in taken.said:
        console.print(sentence, markup=False, soft_wrap=True)
    console.print(f"{taken.new} new annotations: {taken.decided} decided, {taken.skipped} skipped, {taken.waiting} need another annotator")
