"""The chart and its objects. The three charts it depends on are not fetched: where one is turned on, a stub of its name stands in for it."""

from __future__ import annotations

import shutil
from functools import cache
from typing import Any

import pytest
import yaml

from tests.infra.chart.cases import CASES, CHART, render


@pytest.fixture(scope="session")
def chart(tmp_path_factory):
    """The chart, with stubs for the charts that it depends on, which come from other people's servers."""
    folder = tmp_path_factory.mktemp("chart") / "flywheel"
    shutil.copytree(CHART, folder)  # which follows the links to infra/monitoring
    for dependency in yaml.safe_load((CHART / "Chart.yaml").read_text())["dependencies"]:
        stub = folder / "charts" / dependency["name"]
        (stub / "templates").mkdir(parents=True)
        stub.joinpath("Chart.yaml").write_text(yaml.safe_dump({"apiVersion": "v2", "name": dependency["name"], "version": dependency["version"]}))
        stub.joinpath("templates", "values.yaml").write_text(
            'apiVersion: v1\nkind: ConfigMap\nmetadata: {name: "{{ .Chart.Name }}-stub"}\ndata: {values: {{ .Values | toJson | quote }}}\n'
        )
    return folder


@pytest.fixture(scope="session")
def rendered(chart):
    """The objects of a case, hooks too."""

    @cache
    def of(name: str, upgrade: bool = False) -> tuple[dict[str, Any], ...]:
        manifests = render(chart, CASES[name], is_install=not upgrade, is_upgrade=upgrade)
        return tuple(one for path, text in sorted(manifests.items()) if not path.endswith("NOTES.txt") for one in yaml.safe_load_all(text) if one)

    return of
