"""What importing every DAG file costs beyond `import airflow`, in CPU-seconds.  make bench NAME=dag_import

The two run in fresh processes, interleaved; the figures are medians.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys

from flywheel.laptop.services import airflow_python
from flywheel.settings import REPOSITORY

ROUNDS = 5
GOAL = 2.0  # CPU-seconds beyond `import airflow`
DAGS = "import airflow, " + ", ".join(f"dags.{p.stem}" for p in sorted((REPOSITORY / "dags").glob("*_dag.py")))


def cpu_seconds(statement: str) -> float:
    """CPU time of a fresh interpreter of Airflow's environment that runs a statement."""

    def spent() -> float:
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return used.ru_utime + used.ru_stime

    before = spent()
    subprocess.run([airflow_python(), "-c", statement], cwd=REPOSITORY, env={**os.environ, "PYTHONPATH": str(REPOSITORY)}, check=True)
    return spent() - before


def main() -> int:
    """Print a line a round, then the JSON; 1 when the goal is missed."""
    measured: dict[str, list[float]] = {"import airflow": [], "every DAG file": []}
    cpu_seconds(DAGS)  # compiles, and fills the file cache
    for number in range(ROUNDS):
        for name, statement in (("import airflow", "import airflow"), ("every DAG file", DAGS)):
            measured[name].append(cpu_seconds(statement))
        print(f"round {number + 1} of {ROUNDS}: " + ", ".join(f"{name} {values[-1]:.2f}" for name, values in measured.items()), flush=True)
    peer, ours = (statistics.median(values) for values in measured.values())
    met = ours - peer < GOAL
    print(
        json.dumps(
            {
                "name": "dag_import",
                "ours": round(ours, 3),
                "peers": {"import airflow": round(peer, 3)},
                "ratios": {"import airflow": round(ours / peer, 2)},
                "goal": f"under {GOAL:g} CPU-seconds beyond the peer",
                "met": met,
            }
        )
    )
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
