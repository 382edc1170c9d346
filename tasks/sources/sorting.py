"""An external merge sort of lines: in any order in, sorted out, in the memory of one run whatever their number."""

from __future__ import annotations

import heapq
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

RUN_BYTES = 48 << 20
MOST_RUNS = 128  # each is an open file


class Sorter:
    """Add lines, each with its line feed, then iterate: byte order, equal ones kept. What it writes has no name, so a killed process leaves nothing."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lines: list[bytes] = []
        self._size = 0
        self._runs: list[IO[bytes]] = []

    def add(self, line: bytes) -> None:
        """One more line."""
        self._lines.append(line)
        self._size += len(line) + 64  # and what Python needs to hold it
        if self._size >= RUN_BYTES:
            self._spill()

    def __iter__(self) -> Iterator[bytes]:
        self._lines.sort()
        for run in self._runs:
            run.seek(0)
        return heapq.merge(*self._runs, self._lines) if self._runs else iter(self._lines)

    def _spill(self) -> None:
        self._lines.sort()
        self._runs.append(self._written(iter(self._lines)))
        self._lines, self._size = [], 0
        if len(self._runs) == MOST_RUNS:
            merged = self._written(iter(self))
            for run in self._runs:
                run.close()
            self._runs = [merged]

    def _written(self, lines: Iterator[bytes]) -> IO[bytes]:
        self.folder.mkdir(parents=True, exist_ok=True)
        run = tempfile.TemporaryFile(dir=self.folder)  # noqa: SIM115
        run.writelines(lines)
        return run
