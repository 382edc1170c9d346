"""Documents into the index that retrieval searches: what is new is embedded, what is gone is deleted, all shown at once.

    python -m tasks.index --config config/flywheel.yaml --run-dir .flywheel/store/runs/hand/index

Skipped while the config names no documents. Killed at any point, searches go on as before and a retry goes on from the last embedding.
Outputs: `index` (JSON of what was built) and `refused` (JSONL of uri and reason: what could not be read).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict

from flywheel import stage, store
from flywheel.config import Config
from flywheel.config.context import Documents, FileDocuments
from flywheel.errors import DataError
from flywheel.manifest import Artifact
from rag import documents
from rag.documents import Document, Refused
from rag.index import Wanted, build
from rag.splitting import Passage, split
from tasks import sources


def extra(ctx: stage.Context) -> dict[str, Artifact]:
    """Each run looks anew: whether a document changed is known by its passages, and the index may have been altered since."""
    return {"documents": Artifact(uri=ctx.run_dir, sha256=store.sha256_text(ctx.run_dir), bytes=0)}


def read(wanted: Documents) -> Iterator[Document | Refused]:
    """The documents of one entry of the config."""
    if isinstance(wanted, FileDocuments):
        yield from documents.load(wanted.path, tenants=wanted.tenants, metadata=wanted.metadata)
        return
    for found in sources.reader(wanted.source).read():
        if isinstance(found, sources.Rejected):
            yield Refused(f"{found.source}:{found.line}", found.reason)
        else:
            where, line, row = found
            text = f"{row.input}\n\n{row.output}" if row.input else row.output
            yield Document(f"{where}:{line}", text, "text", row.instruction, wanted.tenants, wanted.metadata)


def wanted_of(conf: Config) -> Wanted:
    """The index that the config describes."""
    index = conf.index
    return Wanted(index.alias, index.embedder, index.embedder_url, index.language, index.min_similarity, index.reranker, index.keep)


def run(ctx: stage.Context) -> None:
    """Read, split, build."""
    conf, counts = ctx.config.index, Counter[str]()
    if not conf.documents:
        return ctx.skip("the config names no documents under `index`")

    with open(ctx.path("refused.jsonl"), "w") as refused:

        def passages() -> Iterator[Passage]:
            for entry in conf.documents:
                for found in read(entry):
                    if isinstance(found, Refused):
                        counts["refused"] += 1
                        refused.write(json.dumps(asdict(found)) + "\n")
                        if counts["refused"] <= 3:
                            ctx.say(f"  refused {found.uri}: {found.reason}")
                        continue
                    counts["documents"] += 1
                    yield from split(found, conf.characters, conf.overlap)
            if not counts["documents"]:  # an empty index in the place of a full one is no update, it is an accident
                raise DataError(
                    "not one document could be read", where="index.documents", mend="See refused.jsonl beside the outputs; the index stays as it was."
                )

        built = build(passages(), wanted_of(ctx.config), store.relative(ctx.run_dir), ctx.progress)
    ctx.path("index.json").write_text(json.dumps({"alias": conf.alias, **asdict(built)}))
    ctx.say(f"index {conf.alias}, version {built.version}: {built.passages} passages, {built.added} added, {built.removed} removed, {built.embedded} embedded")
    ctx.output("index", ctx.path("index.json"), built.passages)
    ctx.output("refused", ctx.path("refused.jsonl"), counts["refused"])
    ctx.metrics |= {**asdict(built), "documents": counts["documents"], "refused": counts["refused"]}
    return None


STAGE = stage.Stage("index", run, extra=extra)
if __name__ == "__main__":
    stage.main(STAGE)
