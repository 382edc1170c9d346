"""The chart, rendered by the Helm of the infrastructure's environment (`make test-infra` makes it), for tests that run elsewhere."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import pytest
import yaml

from flywheel.settings import REPOSITORY

PYTHON = REPOSITORY / ".venv" / "infra" / "bin" / "python"
CHART = REPOSITORY / "infra" / "helm" / "flywheel"
CODE = """
import json, sys, helm_python
asked = json.load(sys.stdin)
with helm_python.Chart.load(asked.pop("chart")) as chart:
    json.dump(chart.render(asked.pop("values"), **asked), sys.stdout)
"""


def rendered(values: dict[str, Any], namespace: str, **options: Any) -> list[dict[str, Any]]:
    """Every object of the release `flywheel`, hooks too. The charts that it depends on are left out."""
    if not PYTHON.exists():
        pytest.skip("no Helm: make .venv/infra/.installed")
    asked = {"chart": str(CHART), "values": values, "name": "flywheel", "namespace": namespace, **options}
    done = subprocess.run([str(PYTHON), "-c", CODE], input=json.dumps(asked), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    texts = [text for path, text in sorted(json.loads(done.stdout).items()) if not path.endswith("NOTES.txt")]
    return [one for text in texts for one in yaml.safe_load_all(text) if one]
