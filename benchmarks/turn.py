"""What orchestration costs: a whole turn, one in which nothing changed, backfilled nights, parsing.  make bench NAME=turn

Starts a laptop stack of its own (its own home and ports) with a tiny model, so that the stages are short and Airflow's share is at its worst:

- overhead: the wall time of a turn's run in Airflow, less the time in which any of its stages ran (from their manifests);
- unchanged: the wall time of the same turn again;
- backfill: NIGHTS cached nights at AT_ONCE at a time, from the first one's start to the last one's end: a sample, told as nights an hour;
- parse: CPU-seconds to read every DAG file again once its imports are done.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

from flywheel import manifest
from flywheel.airflow_api import AirflowApi
from flywheel.laptop.services import airflow_python
from flywheel.settings import REPOSITORY, settings
from flywheel.turn import follow, start
from tests import tiny
from tests.e2e import stack

NIGHTS, AT_ONCE = int(os.environ.get("NIGHTS", "24")), 4
GOALS = {"overhead": "15 % of the turn or 30 s", "unchanged_seconds": 60.0, "nights_an_hour": 60.0, "parse_cpu_seconds": 1.0}
FIRST = datetime.now(UTC).date() - timedelta(days=NIGHTS + 1)
PARSE = """
import importlib, sys, time
from pathlib import Path
modules = [importlib.import_module(f"dags.{p.stem}") for p in sorted(Path("dags").glob("*_dag.py"))]
before = time.process_time()
for module in modules:
    importlib.reload(module)
print(time.process_time() - before)
"""


def wall(run: dict) -> float:
    """Seconds from a run's start to its end, as Airflow has them."""
    return (datetime.fromisoformat(run["end_date"]) - datetime.fromisoformat(run["start_date"])).total_seconds()


def busy(run_id: str) -> float:
    """Seconds of a turn in which at least one of its stages ran."""
    folder = Path(manifest.run_dir("flywheel", run_id, settings().store))
    spans = sorted((m.started, m.ended) for m in (manifest.read(str(path)) for path in folder.glob("*/manifest.json")))
    total, until = timedelta(), spans[0][0]
    for began, ended in spans:
        total += max(ended - max(began, until), timedelta())
        until = max(until, ended)
    return total.total_seconds()


def turn(api: AirflowApi) -> tuple[float, float]:
    """One turn: the wall time of its run, and of its stages."""
    run_id = start({})
    follow(run_id, 3000)
    return wall(api.run("flywheel", run_id)), busy(run_id)


def backfill(api: AirflowApi) -> float:
    """Nights an hour."""
    first, last = (datetime.combine(FIRST + timedelta(days=days), datetime.min.time(), UTC) for days in (0, NIGHTS))
    number = api.backfill("flywheel", first, last - timedelta(seconds=1), {}, AT_ONCE, "none")
    while not api.backfill_ended(number):
        time.sleep(5)
    runs = [run for run in api.runs("flywheel") if run["run_type"] == "backfill"]
    assert len(runs) == NIGHTS and all(run["state"] == "success" for run in runs), [(run["dag_run_id"], run["state"]) for run in runs]
    hours = (
        max(datetime.fromisoformat(run["end_date"]) for run in runs) - min(datetime.fromisoformat(run["start_date"]) for run in runs)
    ).total_seconds() / 3600
    return len(runs) / hours


def parsing() -> float:
    """CPU-seconds of reading the DAG files once more."""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    return float(
        subprocess.run([airflow_python(), "-c", PARSE], cwd=REPOSITORY, env=environment, check=True, capture_output=True, text=True).stdout.split()[-1]
    )


def main() -> int:
    """Measure; the last line is JSON. 1 when a goal is missed."""
    base = Path(tempfile.mkdtemp(prefix="flywheel-tiny-"))
    tiny.write(base)
    parse = parsing()
    print(f"parsing every DAG file again: {parse:.2f} CPU-seconds", flush=True)
    with stack.tiny(base, first_night=FIRST.isoformat()):
        api = AirflowApi()
        whole, stages = turn(api)
        print(f"a whole turn: {whole:.0f} s, its stages {stages:.0f} s", flush=True)
        again, _ = turn(api)
        print(f"nothing changed: {again:.0f} s", flush=True)
        nights = backfill(api)
        print(f"{NIGHTS} cached nights, {AT_ONCE} at once: {nights:.0f} nights an hour", flush=True)
    ours = {"overhead_seconds": round(whole - stages, 1), "overhead_share": round((whole - stages) / whole, 3), "unchanged_seconds": round(again, 1),
            "nights_an_hour": round(nights, 1), "parse_cpu_seconds": round(parse, 2)}  # fmt: skip
    met = (whole - stages <= max(30.0, 0.15 * whole)) and again <= 60 and nights >= 60 and parse <= 1
    peers = {"the stages alone, seconds": round(stages, 1)}
    print(
        json.dumps(
            {
                "name": "turn",
                "ours": ours,
                "peers": peers,
                "ratios": {"turn to its stages": round(whole / stages, 2)},
                "goal": GOALS,
                "sample": {"nights": NIGHTS, "of": 365},
                "met": met,
            }
        )
    )
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
