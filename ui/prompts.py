"""Read the prompts of an uploaded file: CSV with a column for them, or JSONL. Whatever is wrong with it is said in words, with the line."""

from __future__ import annotations

import codecs
import csv
import io
import json

COLUMNS = ("prompt", "question", "instruction")
ROWS, LONGEST = 10_000, 100_000  # prompts a file, characters a prompt
MARKS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))


class BadFile(Exception):
    """Why the file cannot be used, and how to mend it."""


def read(data: bytes, name: str) -> tuple[list[str], str]:
    """The prompts in their order, and a note about the encoding, if it had to be guessed. Raises BadFile."""
    text, note = _text(data)
    found = _jsonl(text) if name.lower().endswith((".jsonl", ".ndjson", ".json")) else _csv(text)
    if not found:
        raise BadFile("There is no prompt in this file. Put one on each line, below a heading `prompt`.")
    return found, note


def _text(data: bytes) -> tuple[str, str]:
    for mark, encoding in MARKS:
        if data.startswith(mark):
            try:
                return data.decode(encoding), ""
            except UnicodeDecodeError:
                raise BadFile(f"The file says that it is {encoding}, and is not. Save it as UTF-8.") from None
    if b"\x00" in data[:100_000]:
        raise BadFile("This is not a text file. Save your table as CSV (UTF-8), or write JSONL.")
    try:
        return data.decode("utf-8"), ""
    except UnicodeDecodeError:
        return data.decode("cp1252", errors="replace"), "The file is not UTF-8. It was read as Windows-1252: look whether accents and quotes are right."


def _checked(found: list[str], prompt: object, line: int) -> None:
    if not isinstance(prompt, str):
        raise BadFile(f"Line {line} has no prompt. Each needs a text under one of: {', '.join(COLUMNS)}.")
    if len(prompt) > LONGEST:
        raise BadFile(f"Line {line} has {len(prompt):,} characters; the most is {LONGEST:,}. Shorten it.")
    if len(found) == ROWS:
        raise BadFile(f"This file has more than {ROWS:,} prompts. Split it into smaller ones.")
    if prompt.strip():
        found.append(prompt.strip())


def _jsonl(text: str) -> list[str]:
    found: list[str] = []
    for number, line in enumerate(io.StringIO(text), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise BadFile(f'Line {number} is not JSON ({error}). Write one object a line, e.g. {{"prompt": "…"}}.') from None
        except RecursionError:
            raise BadFile(f"Line {number} is nested too deeply. Write one flat object a line.") from None
        prompt = row if isinstance(row, str) else next((row[c] for c in COLUMNS if c in row), None) if isinstance(row, dict) else None
        _checked(found, prompt, number)
    return found


def _csv(text: str) -> list[str]:
    head = text.partition("\n")[0]
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=head.count))
    found: list[str] = []
    try:
        titles = [title.strip().lower() for title in next(rows, [])]
        column = next((titles.index(c) for c in COLUMNS if c in titles), None)
        if column is None:
            named = ", ".join(titles)[:120]
            raise BadFile(f"The first line names no column `{'`, `'.join(COLUMNS)}`; it is: {named or 'empty'}. Give the column with the prompts that name.")
        for row in rows:
            if row:
                _checked(found, row[column] if column < len(row) else None, rows.line_num)
    except csv.Error as error:
        raise BadFile(f"Line {rows.line_num} is not CSV ({error}). Save the table again as CSV (UTF-8).") from None
    return found
