"""Another source's records, each with its passage among distractors: what retrieval-aware training learns from.

A record whose answer no passage holds is left out: it would teach the model to invent.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

from flywheel.config import sources as config
from flywheel.records import question
from rag import raft, search
from tasks.sources.base import Raw, Reader, Rejected, rejected


class GroundedReader(Reader[config.Grounded]):
    """Groups stay those of the plain questions, so a question with passages never changes sides."""

    def raw(self) -> Iterator[Raw | Rejected]:
        """Every record of the other source that the index has something for."""
        from tasks.sources import reader

        conf = self.conf
        inner = reader(conf.source, self.until, self.scratch)
        for found in inner.read():
            if isinstance(found, Rejected):
                yield found
                continue
            where, line, row = found
            asked = f"{row.instruction}\n\n{row.input}" if row.input else row.instruction
            # Nobody's tenants: what only some may see is not learned by a model that answers all.
            hits = search.search(asked, conf.distractors + 3, alias=conf.index)
            made = raft.record(row.output, hits, random.Random(asked), conf.distractors, conf.without_answer, conf.characters)
            if made is None:
                yield rejected(where, line, f"no passage of the index {conf.index} holds its answer", asked)
            else:
                group = row.group or question(row.instruction, row.input)
                yield where, line, {"instruction": asked, "input": made[0], "output": made[1], "group": group, "slice": row.slice}
        self.later += inner.later
