"""The stage contract: what every `python -m tasks.<stage> --config URI --run-dir URI [--set key=value]` does alike.

Validate, look for the same work done before, run in a fresh attempt folder, write the manifest last, exit by the
contract (0 done, 2 contract, 3 data, 75 transient, 143 stopped after a checkpoint).
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import resource
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any

from flywheel import code, config, logs, manifest, spend, store
from flywheel.errors import ContractError, FlywheelError, Preempted, TransientError, from_os_error
from flywheel.manifest import Artifact, Cost, Manifest
from flywheel.settings import settings
from flywheel.watchdog import Watchdog

log = logging.getLogger("flywheel")
PROGRESS_SECONDS = 10.0


@dataclass(frozen=True)
class Stage:
    """What a stage module declares. `run` does the work; `extra` names inputs beyond the stages before, before any heavy import."""

    name: str
    run: Callable[[Context], None]
    needs: tuple[str, ...] = ()
    extra: Callable[[Context], dict[str, Artifact]] | None = None


@dataclass
class Context:
    """One attempt at one stage of one run."""

    stage: Stage
    config: config.Config
    run_dir: str
    inputs: dict[str, Artifact] = field(default_factory=dict)
    outputs: dict[str, Artifact] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    cache_key: str = ""
    attempt: int = 0
    skipped: str = ""
    stop_requested: bool = False
    finish_on_sigterm: bool = False
    started: float = field(default_factory=time.time)
    cpu_before: float = field(default_factory=lambda: _cpu_seconds())
    watchdog: Watchdog | None = None
    _folder: Path = Path()
    _last_progress: float = field(default_factory=time.monotonic)

    @property
    def cache(self) -> Path:
        """Local folder for downloaded inputs and converted models; safe to delete."""
        return settings().home / "cache"

    @property
    def stage_uri(self) -> str:
        """`<run-dir>/<stage>`."""
        return store.join(self.run_dir, self.stage.name)

    def say(self, text: str) -> None:
        """One line for the operator who reads the task log."""
        self._alive()
        log.info(text)

    def _alive(self) -> None:
        if self.watchdog:
            self.watchdog.alive()

    def progress(self, text: str, *, last: bool = False) -> None:
        """A progress line, at most one every ten seconds."""
        self._alive()
        now = time.monotonic()
        if last or now - self._last_progress >= PROGRESS_SECONDS:
            self._last_progress = now
            log.info(text)

    def upstream(self, stage: str) -> Manifest:
        """The manifest of a stage before, in this run."""
        return manifest.read_for(self.run_dir, stage)

    def fetch(self, name: str) -> Path:
        """A verified local path of an input, by its name `<stage>.<output>`."""
        return self.inputs[name].fetch(self.cache)

    def path(self, name: str) -> Path:
        """Where to write an output; pass it to `output` when it is complete."""
        return self._folder / name

    def output(self, name: str, path: Path, rows: int | None = None) -> Artifact:
        """Record a finished output, and upload it when the store is remote."""
        uri = store.join(self.stage_uri, f"attempt-{self.attempt}", path.name)
        store.upload(path, uri)
        self.outputs[name] = manifest.describe(path, store.relative(uri), rows)
        return self.outputs[name]

    def skip(self, reason: str) -> None:
        """End as skipped: nothing went wrong, and there was nothing to do."""
        self.skipped = reason


def upstream_inputs(run_dir: str, stages: tuple[str, ...]) -> dict[str, Artifact]:
    """Outputs of the stages before, named `<stage>.<output>`. Raises ContractError when one has not finished."""
    found: dict[str, Artifact] = {}
    for name in stages:
        for output, artifact in manifest.read_for(run_dir, name).outputs.items():
            found[f"{name}.{output}"] = artifact
    return found


def request(ctx: Context) -> dict[str, Artifact]:
    """`extra` of a stage that does what a person asked for: each run is a request of its own, and nothing is taken from the cache."""
    return {"request": Artifact(uri=ctx.run_dir, sha256=store.sha256_text(ctx.run_dir), bytes=0)}


def cache_key(stage: Stage, conf: config.Config, inputs: dict[str, Artifact]) -> str:
    """sha256(resolved stage config + input hashes + code digest)."""
    params = _params(stage, conf)
    params.pop("interval_end", None)  # what it selects is an input; the moment itself is not
    resolved = {"stage": stage.name, "seed": conf.seed, "model": conf.model.model_dump(), "config": params}
    hashes = {name: artifact.sha256 for name, artifact in sorted(inputs.items())}
    return store.sha256_text(json.dumps(resolved, sort_keys=True), json.dumps(hashes), code.digest(f"tasks.{stage.name}"))


def _params(stage: Stage, conf: config.Config) -> dict[str, Any]:
    return conf.section(stage.name).model_dump(mode="json")


def _index_uri(stage: str, key: str) -> str:
    return store.join(settings().store, "cache", stage, f"{key}.json")


def _cached(stage: Stage, key: str) -> tuple[str, Manifest] | None:
    """The finished manifest with this key, when its outputs are still there."""
    try:
        uri = store.resolve(json.loads(store.read_bytes(_index_uri(stage.name, key)))["manifest"])
        found = manifest.read(uri)
    except (FileNotFoundError, ContractError, json.JSONDecodeError, KeyError, TypeError):
        return None
    complete = found.cache_key == key and all(store.exists(a.location) for a in found.outputs.values())
    return (uri, found) if complete else None


def cost(ctx: Context) -> Cost:
    """What this attempt has used so far."""
    cpu = _cpu_seconds() - ctx.cpu_before
    wall = time.time() - ctx.started
    torch = sys.modules.get("torch")
    gpus = torch.cuda.device_count() if torch is not None and torch.cuda.is_initialized() else 0
    prices = settings()
    money = cpu / 3600 * prices.price_cpu_hour + gpus * wall / 3600 * prices.price_gpu_hour
    return Cost(cpu_seconds=round(cpu, 2), gpu_seconds=round(gpus * wall, 2), wall_seconds=round(wall, 2), money=round(money, 6), currency=prices.currency)


def _cpu_seconds() -> float:
    usages = (resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN))
    return sum(u.ru_utime + u.ru_stime for u in usages)


def _open_attempt(ctx: Context) -> None:
    """A folder of its own for this attempt, so that nothing half-written is ever taken for finished."""
    if not store.is_local(ctx.run_dir):
        taken = [int(n.removeprefix("attempt-")) for n in store.list_names(ctx.stage_uri) if n.startswith("attempt-")]
        ctx.attempt = max(taken, default=0) + 1
        ctx._folder = Path(tempfile.mkdtemp(prefix=f"{ctx.stage.name}-"))
        return
    parent = store.local_path(ctx.stage_uri)
    parent.mkdir(parents=True, exist_ok=True)
    ctx.attempt = 1
    while True:
        ctx._folder = parent / f"attempt-{ctx.attempt}"
        try:
            ctx._folder.mkdir()
            return
        except FileExistsError:
            ctx.attempt += 1


def execute(stage: Stage, conf: config.Config, run_dir: str) -> Manifest:
    """Run one stage of one run and return its manifest. Raises FlywheelError."""
    start_time = datetime.now(UTC)
    run_dir = str(store.local_path(run_dir)) if store.is_local(run_dir) else run_dir.rstrip("/")
    ctx = Context(stage, conf, run_dir)
    log.info("%s · run %s", stage.name, run_dir.rsplit("/", 1)[-1])
    ctx.inputs = upstream_inputs(run_dir, stage.needs)
    if stage.extra:
        ctx.inputs.update(stage.extra(ctx))
    ctx.cache_key = cache_key(stage, conf, ctx.inputs)
    hit = _cached(stage, ctx.cache_key)
    if hit:
        uri, found = hit
        ctx.attempt, ctx.outputs, ctx.metrics, ctx.skipped = found.attempt, found.outputs, found.metrics, found.reason
        cached_from = store.relative(found.cached_from or uri)
        log.info("nothing changed: the same work is done already (%s)", cached_from)
    else:
        cached_from = ""
        _open_attempt(ctx)
        try:
            with on_sigterm(ctx), Watchdog(stage.name, ctx.stage_uri, _report) as ctx.watchdog:
                stage.run(ctx)
        finally:
            spend.record(stage.name, cost(ctx))
    result = Manifest(
        stage=stage.name, run_dir=store.relative(run_dir), attempt=ctx.attempt, cache_key=ctx.cache_key,
        outcome="skipped" if ctx.skipped else "done", reason=ctx.skipped, inputs=ctx.inputs, outputs=ctx.outputs,
        params=_params(stage, conf), metrics=ctx.metrics, cost=cost(ctx), code_digest=code.digest(f"tasks.{stage.name}"),
        image=settings().image, started=start_time, ended=datetime.now(UTC), cached_from=cached_from,
    )  # fmt: skip
    written = manifest.write(result, run_dir)
    if not hit:
        store.write_bytes(_index_uri(stage.name, ctx.cache_key), json.dumps({"manifest": store.relative(written)}).encode())
    _close(result)
    return result


def _close(result: Manifest) -> None:
    if result.reason:
        log.info("skipped: %s", result.reason)
    for name, value in result.metrics.items():
        log.info("  %s = %s", name, f"{value:.4g}" if isinstance(value, float) else value)
    spent = result.cost
    log.info(
        "done in %.1f s (%.1f CPU-seconds, %.4f %s); manifest %s/%s",
        spent.wall_seconds,
        spent.cpu_seconds,
        spent.money,
        spent.currency,
        result.run_dir,
        result.stage,
    )


@contextmanager
def on_sigterm(ctx: Context) -> Iterator[None]:
    """SIGTERM ends a stage with 143; one that checkpoints sets `finish_on_sigterm` and watches `stop_requested`."""

    def stop(_signum: int, _frame: FrameType | None) -> None:
        ctx.stop_requested = True
        if ctx.watchdog and ctx.watchdog.error and not ctx.finish_on_sigterm:
            raise ctx.watchdog.error
        if not ctx.finish_on_sigterm:
            raise Preempted("stopped by SIGTERM", where=ctx.stage.name, mend="A retry goes on.")

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _report(stage: str, error: FlywheelError) -> None:
    """The failure as one JSON line where Kubernetes and the local launcher look for it."""
    line = json.dumps({"stage": stage, "exit_code": error.exit_code, "error": error.what, "where": error.where, "mend": error.mend})
    target = Path(os.environ.get("FLYWHEEL_TERMINATION_LOG", "/dev/termination-log"))
    if target.exists() and os.access(target, os.W_OK):
        target.write_text(line + "\n")


def quiet_libraries() -> None:
    """Warnings and progress bars of libraries are not for the operator."""
    warnings.simplefilter("ignore")
    for name, value in {
        "TRANSFORMERS_VERBOSITY": "error",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }.items():
        os.environ.setdefault(name, value)
    for name in ("bitsandbytes", "daft", "mlflow"):
        logging.getLogger(name).setLevel(logging.ERROR)


def main(stage: Stage, argv: list[str] | None = None) -> None:
    """The command line of a stage; exits by the contract."""
    parser = argparse.ArgumentParser(
        prog=f"python -m tasks.{stage.name}", description=(sys.modules["__main__"].__doc__ or "").strip(), formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", required=True, help="the turn's YAML: a path or URL")
    parser.add_argument("--run-dir", required=True, help="folder of this run, best below the store's root")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change one setting, e.g. train.epochs=2; may be repeated")
    arguments = parser.parse_args(argv)
    logs.setup("%(message)s", sys.stdout)
    logs.bind(stage=stage.name, run=arguments.run_dir.rstrip("/").rsplit("/", 1)[-1])
    quiet_libraries()
    try:
        execute(stage, config.load(arguments.config, arguments.set), arguments.run_dir)
    except FlywheelError as error:
        failure = error
    except OSError as error:
        failure = from_os_error(error)
    except MemoryError:
        failure = TransientError("out of memory", where=stage.name, mend="Give it more memory, or a smaller batch.")
    else:
        return
    log.error("failed: %s", failure.sentence)
    if failure.__cause__ and os.environ.get("FLYWHEEL_DEBUG"):
        traceback.print_exception(failure.__cause__)
    _report(stage.name, failure)
    sys.exit(failure.exit_code)
