"""Personal data and secrets, drawn by a seed and planted in real text: how much of it is masked, and how much else is touched.

PYTHONPATH=. .venv/ml/bin/python tests/tasks/cleaning/test_planted.py    # CPU-seconds of each default step for 100,000 records
"""

from __future__ import annotations

import random
import string
import time
from itertools import cycle, islice

import pytest
from phonenumbers import PhoneNumberFormat, example_number_for_type, format_number
from phonenumbers.phonenumberutil import PhoneNumberType
from stdnum import luhn
from stdnum.iso7064 import mod_97_10

from flywheel.config.steps import DEFAULT_RECORD_STEPS, Personal
from tasks.cleaning import RECORD_STEPS
from tasks.cleaning.record import Texts
from tasks.sources import Row, docs

SIZE = 370
OPENINGS = ("In short:", "As the manual says,", "Note that", "To put it plainly:", "For the record,", "Since version 3.11,", "As of 2024-01-15,", "On Linux,")
CLOSINGS = (
    "See also the chapter on files.", "This is item 12 of 345.", "Released on 01.02.2024 as version 2.10.0.1.", "Cf. ISBN 978-0-13-110362-7 and RFC 5321.",
    "The digest is 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08.", "Listens on 127.0.0.1:8000 or 192.168.1.20.",
    "Use `@functools.wraps` or `ssh admin@host`.", "It takes 1.5e-05 seconds, at most 2147483647 times.", "Its id is 550e8400-e29b-41d4-a716-446655440000.",
    "The documentation uses 203.0.113.7 and 2001:db8::1.", "Timestamps such as 1700000000 count from 1970-01-01 00:00:00.", "Costs 1,000,000.00 or 12 345 678 units.",
)  # fmt: skip


def prose(count: int, size: int = 0, traps: float = 1) -> list[Texts]:
    """So many different records of the standard library's own documentation; with a size, answers of about so many characters.

    `traps` is the share that ends with what looks like personal data or a secret and is none.
    """
    dice = random.Random(7)
    rows = [found[2] for found in docs() if isinstance(found, tuple) and isinstance(found[2], Row)]
    records = []
    for row in islice(cycle(rows), count):
        output = row.output
        while len(output) < size - 60:
            output += " " + dice.choice(rows).output[: size - len(output)]
        if dice.random() < traps:
            output = f"{dice.choice(OPENINGS)} {output} {dice.choice(CLOSINGS)}"
        records.append(Texts((), row.instruction, "", output))
    return records


def _draw(dice: random.Random, alphabet: str, size: int) -> str:
    return "".join(dice.choice(alphabet) for _ in range(size))


def email(dice: random.Random) -> str:
    name, surname = dice.choice(("jane", "Li", "o.brien", "müller", "ana-maria")), dice.choice(("doe", "smith77", "x", "de.souza"))
    return f"{name}{dice.choice('._+-')}{surname}@{dice.choice(('gmail.com', 'mail.example.co.uk', 'uni-bonn.de', 'company.io', 'bücher.example'))}"


def phone(dice: random.Random) -> str:
    region = dice.choice(Personal().regions)
    number = example_number_for_type(region, dice.choice((PhoneNumberType.MOBILE, PhoneNumberType.FIXED_LINE)))
    national = format_number(number, PhoneNumberFormat.NATIONAL)
    international = format_number(number, PhoneNumberFormat.INTERNATIONAL)
    return dice.choice(
        (international, international, format_number(number, PhoneNumberFormat.E164), f"00{international[1:]}", f"phone: {national}", national)
        if national.startswith(("0", "(")) else (international, f"tel. {national}")
    )  # fmt: skip


def card(dice: random.Random) -> str:
    prefix, size = dice.choice((("4", 16), ("51", 16), ("2221", 16), ("34", 15), ("6011", 16), ("36", 14)))
    digits = prefix + _draw(dice, string.digits, size - len(prefix) - 1)
    digits += luhn.calc_check_digit(digits)
    gap = dice.choice(("", " ", "-"))
    groups = (digits[:4], digits[4:8], digits[8:12], digits[12:]) if size == 16 else (digits[:4], digits[4:10], digits[10:])
    return gap.join(groups)


def iban(dice: random.Random) -> str:
    country, bank = dice.choice((("DE", ""), ("GB", "NWBK"), ("FR", ""), ("NL", "ABNA")))
    size = {"DE": 18, "GB": 14, "FR": 23, "NL": 10}[country]
    account = bank + _draw(dice, string.digits, size)
    if country == "FR":  # it has a key of its own
        account = "20041010050500013M02606"
    whole = country + mod_97_10.calc_check_digits(account + country) + account
    return dice.choice((whole, " ".join(whole[i : i + 4] for i in range(0, len(whole), 4))))


def address(dice: random.Random) -> str:
    if dice.random() < 0.25:
        return f"2a02:8108:{dice.randrange(0x1000, 0xFFFF):x}:{dice.randrange(0x10, 0xFFFF):x}::{dice.randrange(1, 0xFFFF):x}"
    return f"{dice.choice((31, 85, 93, 151, 188))}.{dice.randrange(16, 255)}.{dice.randrange(256)}.{dice.randrange(1, 255)}"


def key(dice: random.Random) -> str:
    word = string.ascii_letters + string.digits
    return dice.choice((
        "AKIA" + _draw(dice, "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567", 16), "ghp_" + _draw(dice, word, 36), "AIza" + _draw(dice, word, 35),
        "xoxb-" + _draw(dice, string.digits, 12) + "-" + _draw(dice, word, 24), "sk_live_" + _draw(dice, word, 24), "sk-proj-" + _draw(dice, word, 48),
        f"eyJhbGciOiJIUzI1NiJ9.eyJ{_draw(dice, word, 40)}.{_draw(dice, word, 43)}", f"api_key = '{_draw(dice, word, 32)}'",
        f"postgresql://app:{_draw(dice, word, 12)}@db.internal:5432/app", f"AWS_SECRET_ACCESS_KEY={_draw(dice, word + '+/', 40)}",
        "-----BEGIN RSA PRIVATE KEY-----\n" + _draw(dice, word + "+/", 128) + "\n-----END RSA PRIVATE KEY-----",
    ))  # fmt: skip


JUDGES = {options.step: RECORD_STEPS[type(options)](options) for options in DEFAULT_RECORD_STEPS}
KINDS = {"<email>": email, "<phone>": phone, "<card>": card, "<iban>": iban, "<ip>": address, "<secret>": key}


def plant(record: Texts, placeholder: str, dice: random.Random) -> tuple[Texts, str]:
    """The record with one thing of a kind between two of its words, no numbers, or as its input; and that thing."""
    thing = KINDS[placeholder](dice)
    words = record.output.split(" ")
    at = dice.choice([i for i in range(1, len(words)) if words[i - 1].isalpha() and words[i].isalpha()] or [0])
    field = dice.choice(("output", "output", "input"))
    text = " ".join((*words[:at], thing, *words[at:])) if field == "output" else dice.choice((f"From {thing}.", f"({thing})", f"My contact: {thing}, thanks"))
    return record._replace(**{field: text}), thing


def cleaned(record: Texts) -> tuple[Texts, str]:
    """The record after every default step, and why it is rejected."""
    for judge in JUDGES.values():
        record, reason = judge(record)
        if reason:
            return record, reason
    return record, ""


@pytest.fixture(scope="module")
def real():
    return prose(20_000)


def test_clean_text_stays_as_it_is(real):
    changed = [record for record in real if cleaned(record) != (record, "")]
    assert len(changed) <= 0.005 * len(real), changed[:5]


def test_planted_things_are_masked(real):
    dice = random.Random(11)
    missed = []
    for placeholder in KINDS:
        for _ in range(200):
            record, thing = plant(dice.choice(real), placeholder, dice)
            texts, _ = cleaned(record)
            if placeholder not in texts.input + texts.output or thing in texts.input + texts.output:
                missed.append((placeholder, thing))
    assert all(sum(found == placeholder for found, _ in missed) <= 2 for placeholder in KINDS), missed


def measure() -> None:
    """Print what each default step costs."""
    dice = random.Random(1)
    records = prose(100_000, SIZE, traps=0.05)
    for i in range(0, len(records), 100):
        records[i], _ = plant(records[i], dice.choice(list(KINDS)), dice)
    print(f"{len(records):,} records, answers of {sum(len(r.output) for r in records) / len(records):.0f} characters on average")
    cleaned(records[0])  # what is imported or built at first use
    started = time.process_time()
    for record in records:
        cleaned(record)
    print(f"{'together':14}{time.process_time() - started:6.2f} CPU-s, record by record: a text is split into words once")
    for step, judge in JUDGES.items():
        started = time.process_time()
        judged = [judge(record) for record in records]
        spent = time.process_time() - started
        changed = sum(new is not old for old, (new, _) in zip(records, judged, strict=True))
        records = [new for new, reason in judged if not reason]
        print(f"{step:14}{spent:6.2f} CPU-s alone{changed:8,} changed{len(judged) - len(records):8,} rejected")


if __name__ == "__main__":
    measure()
