"""No secret in the working tree, nor in any line that was ever committed, and no default password anywhere.

What detect-secrets takes for one and is none stands in `.secrets.baseline`: a test that fails prints the entry; add it with
`"is_secret": false` only after looking at it. A line may say so itself with detect-secrets' own pragma.
"""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BASELINE = ROOT / ".secrets.baseline"
scan = pytest.importorskip("detect_secrets.core.scan", reason="detect-secrets is not installed: make test")
settings = pytest.importorskip("detect_secrets.settings")

# A value beside one of these words is a password that everybody knows; a reference to a variable, a file or a secret is none.
WORD = r"(?:password|passwd|pwd|secret|token|api_?key|access_?key)"
DEFAULT = re.compile(rf"""(?ix) \b[\w.-]*{WORD}[\w.-]*(?<!_ref)["']? \s* (?: [:=] \s* | ["']?\s*,?\s*value["']?\s*[:=]\s* ) ["']? (?:
    admin | airflow | changeme | change-me | default | example | flywheel | grafana | guest | letmein | minio(?:admin)? | mlflow | password | passw0rd
  | postgres | prom-operator | root | secret | test | welcome | 1234\d* ) ["']? \s* (?: [,;}}\])] | \# | $ )""")
URL = re.compile(r"[a-z+]+://[\w.-]+:(?!\$|\{|<|\*)[^\s/@:\"']+@")
SHIPPED = (
    ".github", "config", "dags", "docs", "flywheel", "images", "infra", "serving", "tasks", "ui", ".env.example", "docker-compose.yaml", "Makefile", "README.md"
)  # fmt: skip


def git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, errors="replace")
    if done.returncode:
        pytest.skip(f"git {arguments[0]}: {done.stderr.strip()}")
    return done.stdout


def findings(diff: str) -> dict[str, list[dict[str, str]]]:
    """Everything in a diff's added lines that looks like a secret and was not looked at, as the baseline writes it."""
    results = json.loads(BASELINE.read_text())["results"]
    known = {(name, one["type"], one["hashed_secret"]) for name, each in results.items() for one in each}
    with settings.transient_settings(json.loads(BASELINE.read_text())) as now:
        now.disable_filters("detect_secrets.filters.common.is_invalid_file")  # it would pass over every file that has been deleted since
        found = {(s.filename, s.type, s.secret_hash) for s in scan.scan_diff(diff)} - known
    return {name: [{"type": kind, "hashed_secret": sha} for file, kind, sha in sorted(found) if file == name] for name in sorted({f for f, *_ in found})}


def test_every_entry_of_the_baseline_was_looked_at():
    results = json.loads(BASELINE.read_text())["results"]
    assert [one for each in results.values() for one in each if one.get("is_secret") is not False] == []


def test_nothing_in_the_history():
    if git("rev-parse", "--is-shallow-repository").strip() == "true":
        pytest.skip("this clone has no history: git fetch --unshallow")
    history = git("log", "-p", "-U0", "--format=", "--no-renames", "--no-ext-diff", "HEAD")
    assert history.count("\n+") > 10_000
    assert findings(history) == {}


def test_nothing_in_the_working_tree():
    diff = git("diff", "-U0", "--no-renames", "--no-ext-diff", "HEAD")
    for name in git("ls-files", "--others", "--exclude-standard").splitlines():
        done = subprocess.run(["git", "diff", "-U0", "--no-index", "/dev/null", name], cwd=ROOT, capture_output=True, text=True, errors="replace")
        diff += done.stdout
    assert findings(diff) == {}


def test_a_planted_secret_is_found():
    key = "AKIA" + "Z7VR3KQ9XTBW2M5N"
    diff = f"diff --git a/x.py b/x.py\n--- a/x.py\n+++ b/x.py\n@@ -0,0 +1,2 @@\n+import os\n+key = '{key}'\n"
    assert [one["type"] for one in findings(diff)["x.py"]] == ["AWS Access Key"]


def shipped() -> list[Path]:
    names = git("ls-files", "--cached", "--others", "--exclude-standard", "--", *SHIPPED).splitlines()
    return [ROOT / name for name in names if (ROOT / name).is_file() and not name.endswith((".png", ".txt"))]


def test_no_workflow_chart_module_or_doc_holds_a_default_password():
    bad = []
    for path in shipped():
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
            if DEFAULT.search(line) or URL.search(line):
                bad.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()}")
    assert bad == []


PASSWORDS = (
    'password: airflow|POSTGRES_PASSWORD=postgres|  master_password = "changeme"|"secret_key": "test",|u: pg://me:hunter2@db/x'  # pragma: allowlist secret
)
NONE = ["password: ${{ secrets.AIRFLOW }}", "password = random_password.database.result", "database_secret: flywheel-database   # a Secret with the key",
        "postgresql+psycopg://flywheel@127.0.0.1:15432/flywheel", "postgresql://user:$PASSWORD@db/x", 'token = secret("TOKEN")']  # fmt: skip


@pytest.mark.parametrize(("line", "bad"), [*((line, True) for line in PASSWORDS.split("|")), *((line, False) for line in NONE)])
def test_what_a_default_password_looks_like(line, bad):
    assert bool(DEFAULT.search(line) or URL.search(line)) is bad
