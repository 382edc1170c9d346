"""Ask a running Prometheus every query of every dashboard, as the dashboards do: over the last six hours.

    python -m infra.monitoring.check [http://127.0.0.1:19090]          after `make demo` with `make monitoring` beside it

Prints each query that has no data; exit code 1 when there is one.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator

import httpx

from flywheel.settings import settings
from infra.monitoring.dashboards import DASHBOARDS

HOURS, STEP_SECONDS = 6, 60


def without_data(url: str) -> Iterator[str]:
    """`dashboard / panel: query` of each query that gave nothing but NaN. Raises httpx.HTTPError when Prometheus does not answer."""
    now = time.time()
    with httpx.Client(base_url=url, timeout=30) as client:
        for board, rows in DASHBOARDS.items():
            for title, _, queries, _ in rows:
                for query, _ in queries:
                    asked: dict[str, str | float] = {"query": query, "start": now - HOURS * 3600, "end": now, "step": STEP_SECONDS}
                    reply = client.get("/api/v1/query_range", params=asked).json()
                    series = reply.get("data", {}).get("result", [])
                    if all(math.isnan(float(value)) for one in series for _, value in one["values"]):
                        yield f"{board} / {title}: {query} {reply.get('error', '')}".strip()


def main() -> None:
    """Print what has no data."""
    url = sys.argv[1] if len(sys.argv) > 1 else settings().prometheus_url
    found = 0
    try:
        for line in without_data(url):
            found += 1
            print(f"no data: {line}")
    except httpx.HTTPError as error:
        sys.exit(f"{url} does not answer ({type(error).__name__}). Start it with `make monitoring`.")
    total = sum(len(queries) for rows in DASHBOARDS.values() for _, _, queries, _ in rows)
    print(f"{total - found} of {total} queries have data")
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
