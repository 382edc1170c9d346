"""Personal data and near-duplicates among what is to be learned, found as `clean` finds them: its own steps are at work here.

`clean` does both again on the whole data set. Here they keep what people send out of the files that curation itself writes.
"""

from __future__ import annotations

import shutil

from flywheel.config import cleaning, steps
from flywheel.config.cleaning import Engine
from tasks.cleaning.personal import personal
from tasks.cleaning.record import Texts
from tasks.curation.desk import Desk
from tasks.curation.rule import Rule


class Personal(Rule[steps.Personal]):
    """Masks it, or drops the record, as the policy says."""

    def apply(self, desk: Desk) -> None:
        """Every text of every training record."""
        judge, gone = personal(self.options), {}
        for place, example in enumerate(desk.examples):
            texts = Texts((), example.instruction, example.input, example.output, example.rejected)
            edited, reason = judge(texts)
            if reason:
                gone[place] = reason
            elif edited is not texts:
                desk.examples[place] = example.edited(**{name: text for name, text in edited._asdict().items() if name != "history"})
        desk.remove(gone)


class NearDuplicates(Rule[cleaning.NearDuplicates]):
    """Of training records that are nearly the same keeps one."""

    def apply(self, desk: Desk) -> None:
        """On this machine, with one thread: a batch is small beside a data set."""
        if len(desk.examples) < 2:
            return
        from tasks.cleaning import duplicates
        from tasks.cleaning.frame import Frame, start

        engine = Engine(threads=1)
        start(engine)
        source = desk.scratch / "examples.jsonl"
        # The place in the list is the id: the same text may stand twice.
        source.write_text("".join(e.model_copy(update={"id": f"{place:032d}"}).model_dump_json() + "\n" for place, e in enumerate(desk.examples)))
        frame = Frame(str(source), str(desk.scratch / "scratch"), len(desk.examples), engine)
        try:
            frame.judge(())
            frame.reject(self.options.step, duplicates.near(frame, self.options))
            rejected = {int(id) for part in frame.ordered() for id, step in zip(part["id"].to_pylist(), part["step"].to_pylist(), strict=True) if step}
        finally:
            frame.close()
            source.unlink()
            shutil.rmtree(desk.scratch / "scratch", ignore_errors=True)
        desk.remove(dict.fromkeys(rejected, "nearly the same as another record of the batch"))
