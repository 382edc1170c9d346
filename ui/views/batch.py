"""Batch: the prompts of a file, answered one after the other while the page shows how far it is; a reload finds the work where it is."""

from __future__ import annotations

import csv
import io
import json
import threading
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import streamlit as st

from flywheel.settings import settings
from ui import client, memory, prompts
from ui.client import ServingError
from ui.doors import Person
from ui.prompts import BadFile

KIND = "job"
AT_ONCE = 8  # the service decodes them together
TRIES, PAUSE = 3, 2.0
FIELDS = ("prompt", "answer", "version", "answer_id", "problem")


@dataclass
class Job:
    """Prompts and what became of each, in order."""

    name: str = ""
    prompts: list[str] = field(default_factory=list)
    rows: dict[int, dict[str, str]] = field(default_factory=dict)
    stop: threading.Event = field(default_factory=threading.Event)
    done: threading.Event = field(default_factory=threading.Event)

    def start(self, name: str, found: list[str], how: dict[str, Any], token: str) -> None:
        """Begin in the background."""
        self.name, self.prompts = name, found
        threading.Thread(target=self._run, args=(how, token), daemon=True, name="batch").start()

    def _run(self, how: dict[str, Any], token: str) -> None:
        try:
            with ThreadPoolExecutor(AT_ONCE) as workers:
                for _ in workers.map(lambda number: self._one(number, how, token), range(len(self.prompts))):
                    pass
        finally:
            self.done.set()

    def _one(self, number: int, how: dict[str, Any], token: str) -> None:
        row = dict.fromkeys(FIELDS, "") | {"prompt": self.prompts[number]}
        body = {**how, "messages": [{"role": "user", "content": self.prompts[number]}]}
        for attempt in range(TRIES):
            if self.stop.is_set():
                return
            try:
                reply = client.call("POST", "/v1/chat/completions", token, body)
            except ServingError as error:
                row["problem"] = str(error)
                if attempt + 1 < TRIES:
                    self.stop.wait(PAUSE * attempt)
                continue
            row |= {"answer": reply["choices"][0]["message"]["content"], "version": reply["model_version"], "answer_id": reply["id"], "problem": ""}
            break
        self.rows[number] = row

    def table(self) -> list[dict[str, str]]:
        """What there is so far, in the file's order."""
        return [self.rows[number] for number in sorted(self.rows)]


def page(who: Person) -> None:
    """Upload, progress, download."""
    job = memory.current(who.name, KIND, Job)
    st.title("Many questions at once")
    if not job.prompts:
        _begin(job, who)
    else:
        _progress(job)


def _begin(job: Job, who: Person) -> None:
    st.write('Upload a CSV with a column `prompt`, or JSONL with `{"prompt": "…"}` a line. At most 10,000 prompts.')
    upload = st.file_uploader("Prompts", type=["csv", "jsonl", "ndjson", "txt"], max_upload_size=50)
    longest = st.slider("Longest answer (tokens)", 1, 1024, 128, key="batch-longest")
    if upload is None:
        return
    try:
        found, note = prompts.read(upload.getvalue(), upload.name)
    except BadFile as error:
        st.error(str(error), icon=":material/error:")
        return
    if note:
        st.warning(note, icon=":material/translate:")
    st.write(f"{len(found):,} prompts. The first: “{found[0][:160]}”")
    how = {"model": settings().model_name, "user": who.name, "max_tokens": longest}
    st.button("Answer them", type="primary", on_click=job.start, args=(upload.name, found, how, who.token), icon=":material/play_arrow:")


def _progress(job: Job) -> None:
    bar, foot = st.empty(), st.container(horizontal=True)
    if not job.done.is_set():
        with foot:
            st.button("Stop", on_click=job.stop.set, icon=":material/stop_circle:")
            st.caption("You may leave this page, or reload it: the work goes on.")
        while not job.done.wait(0.3):
            bar.progress(len(job.rows) / len(job.prompts), f"{len(job.rows):,} of {len(job.prompts):,}")
        st.rerun()
    rows = job.table()
    failed = [row for row in rows if row["problem"]]
    said = f"{len(rows) - len(failed):,} of {len(job.prompts):,} prompts of {job.name} are answered."
    if failed:
        bar.warning(f"{said} {len(failed):,} could not be: {failed[0]['problem']}", icon=":material/error:")
    else:
        bar.success(said, icon=":material/check:")
    with foot:
        stem = job.name.rpartition(".")[0] or job.name
        st.download_button("Download CSV", as_csv(rows), f"{stem}-answers.csv", "text/csv", icon=":material/download:", on_click="ignore", type="primary")
        st.download_button("Download JSONL", as_jsonl(rows), f"{stem}-answers.jsonl", "application/jsonl", icon=":material/download:", on_click="ignore")
        st.button("Another file", on_click=memory.switch, args=(KIND,))
    for row in rows[:10]:
        with st.container(border=True):
            st.markdown(f"**{row['prompt'][:200]}**")
            st.markdown(row["answer"][:600] or f"_{row['problem']}_")
    if len(rows) > 10:
        st.caption(f"… and {len(rows) - 10:,} more in the file.")


def as_csv(rows: Iterable[dict[str, str]]) -> bytes:
    """For a spreadsheet: what would be taken for a formula there is made plain text."""
    out = io.StringIO()
    writer = csv.DictWriter(out, FIELDS)
    writer.writeheader()
    writer.writerows({name: f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text for name, text in row.items()} for row in rows)
    return out.getvalue().encode("utf-8-sig")


def as_jsonl(rows: Iterable[dict[str, str]]) -> bytes:
    """One object a line, unchanged."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
