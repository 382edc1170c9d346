"""infra/monitoring: every alert is tested and explained, the files are what the tools accept, and the real ones deliver."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest
import yaml

from flywheel.laptop import monitoring
from flywheel.settings import REPOSITORY, settings
from infra.monitoring import check, dashboards
from tests.conftest import free_port

FOLDER = REPOSITORY / "infra" / "monitoring"
RULES = [rule for path in sorted((FOLDER / "rules").glob("*.yaml")) for group in yaml.safe_load(path.read_text())["groups"] for rule in group["rules"]]
ALERTS = {rule["alert"]: rule for rule in RULES if "alert" in rule}


def tool(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is not installed: apt-get install prometheus prometheus-alertmanager")
    return path


def test_the_tools_accept_every_file_and_each_alert_fires_and_stays_silent_as_it_should():
    for command in (
        [tool("promtool"), "check", "config", str(FOLDER / "prometheus.yaml")],
        [tool("promtool"), "test", "rules", *map(str, sorted((FOLDER / "tests").glob("*.yaml")))],
        [tool("amtool"), "check-config", str(FOLDER / "alertmanager.yaml")],
    ):
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", ALERTS)
def test_each_alert_has_a_case_in_which_it_fires_and_one_in_which_it_does_not(name):
    cases = [
        bool(case["exp_alerts"])
        for path in (FOLDER / "tests").glob("*.yaml")
        for test in yaml.safe_load(path.read_text())["tests"]
        for case in test["alert_rule_test"]
        if case["alertname"] == name
    ]
    assert True in cases and False in cases


def test_each_alert_says_what_where_and_what_to_do_and_each_section_of_the_runbook_is_an_alert():
    runbook = (REPOSITORY / "docs" / "runbook.md").read_text()
    assert set(re.findall(r"^## (\S+)$", runbook, re.MULTILINE)) == set(ALERTS)
    for name, rule in ALERTS.items():
        assert rule["labels"]["severity"] in ("critical", "warning"), name
        assert rule["annotations"]["summary"] and "{{ $" in rule["annotations"]["description"], name
        assert rule["annotations"]["runbook_url"] == f"{{{{ $externalLabels.runbook }}}}#{name.lower()}"


def test_the_runbook_names_commands_that_exist():
    runbook = (REPOSITORY / "docs" / "runbook.md").read_text()
    shown = subprocess.run([sys.executable, "-m", "flywheel", "--help"], capture_output=True, text=True, cwd=REPOSITORY).stdout
    targets = set(re.findall(r"^([a-z -]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE))
    known = {name for line in targets for name in line.split()}
    assert (found := set(re.findall(r"make ([a-z-]+)", runbook))) and found <= known
    assert (found := set(re.findall(r"-m flywheel ([a-z-]+)", runbook))) and all(f" {name} " in shown for name in found)


def test_no_file_of_ours_holds_a_secret_and_no_rule_asks_for_a_figure_that_nobody_gives():
    text = "".join(path.read_text() for path in FOLDER.rglob("*.yaml"))
    assert not re.search(r"(password|routing_key|api_url|credentials|token):", text)
    exported = "".join(
        path.read_text() for path in (*(REPOSITORY / name for name in ("flywheel/figures.py", "flywheel/exporter.py")), *(REPOSITORY / "serving").rglob("*.py"))
    )
    queries = [rule["expr"] for rule in RULES] + [query for rows in dashboards.DASHBOARDS.values() for *_, queries, _ in rows for query, _ in queries]
    names = {name for query in queries for name in re.findall(r"\bflywheel_[a-z_]+", query)}
    for name in names:
        plain = re.sub(r"_(bucket|sum|count)$", "", name) if re.search(r"_(bucket|sum|count)$", name) else name
        assert f'"{plain}"' in exported or f'"{plain.removeprefix("flywheel_")}"' in exported, name


@pytest.mark.parametrize("name", dashboards.DASHBOARDS)
def test_the_dashboards_that_grafana_imports_are_up_to_date(name):
    committed = (FOLDER / "grafana" / f"{name}.json").read_text()
    assert committed == dashboards.build(name, dashboards.DASHBOARDS[name]), "run python -m infra.monitoring.dashboards"
    assert len(json.loads(committed)["panels"]) == len(dashboards.DASHBOARDS[name])
    assert {path.stem for path in (FOLDER / "grafana").glob("*.json")} == set(dashboards.DASHBOARDS)


def test_the_laptop_uses_its_own_ports_and_only_receivers_whose_secret_is_there(home, monkeypatch):
    monkeypatch.setenv("FLYWHEEL_SERVING_URL", "http://127.0.0.1:28123")
    settings.cache_clear()
    jobs = {job["job_name"]: job["static_configs"][0]["targets"] for job in monitoring.prometheus_config(settings())["scrape_configs"]}
    assert jobs["serving"] == ["127.0.0.1:28123"]

    def working() -> set[str]:
        found = monitoring.alertmanager_config(settings())["receivers"]
        return {key for receiver in found for key, parts in receiver.items() if key.endswith("_configs") and parts}

    assert working() == set()
    secrets = home / "secrets" / "alertmanager"
    secrets.mkdir(parents=True)
    (secrets / "slack-url").write_text("https://example.org/hook")
    (secrets / "smtp-password").write_text("x")
    assert working() == {"slack_configs", "email_configs"}


def test_a_missing_prometheus_is_one_sentence_that_says_how_to_install_it(home):
    environment = {**os.environ, "PATH": "/nowhere", "FLYWHEEL_HOME": str(home)}
    done = subprocess.run([sys.executable, "-m", "flywheel", "monitoring"], capture_output=True, text=True, env=environment, cwd=REPOSITORY)
    assert done.returncode == 2
    assert "apt-get install prometheus" in done.stderr and "Traceback" not in done.stderr


class Webhook(ThreadingHTTPServer):
    """Keeps what Alertmanager posts."""

    def __init__(self) -> None:
        self.alerts: list[dict] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                outer.alerts += body["alerts"]
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None: ...

        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def wait_for(self, name: str, status: str, seconds: float) -> dict:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            found = next((a for a in self.alerts if a["labels"]["alertname"] == name and a["status"] == status), None)
            if found:
                return found
            time.sleep(0.5)
        raise AssertionError(f"{name} {status} did not arrive: {[(a['labels'], a['status']) for a in self.alerts]}")


@pytest.mark.slow
def test_a_live_alert_reaches_the_webhook_when_it_fires_and_when_it_is_over(home, monkeypatch):
    """The files as they are; the exporter stands still until the end of the alert. A few minutes."""
    tool("prometheus")
    webhook = Webhook()
    for name in ("SERVING", "EXPORTER", "PROMETHEUS", "ALERTMANAGER"):
        monkeypatch.setenv(f"FLYWHEEL_{name}_URL", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("FLYWHEEL_ALERT_WEBHOOK", f"http://127.0.0.1:{webhook.server_port}/alerts")
    settings.cache_clear()
    running = monitoring.start(settings())
    exporter = None
    try:
        fired = webhook.wait_for("TargetDown", "firing", 400)
        assert fired["annotations"]["runbook_url"].endswith("docs/runbook.md#targetdown") and "runbook" not in fired["labels"]
        environment = {**os.environ, "FLYWHEEL_DATABASE_URL": f"postgresql+psycopg://flywheel@127.0.0.1:{free_port()}/flywheel"}
        exporter = subprocess.Popen([sys.executable, "-m", "flywheel.exporter"], env=environment, cwd=REPOSITORY)
        until = time.monotonic() + 400
        while not any(a["status"] == "resolved" and a["labels"]["job"] == "exporter" for a in webhook.alerts):
            assert time.monotonic() < until, webhook.alerts
            time.sleep(0.5)
    finally:
        if exporter:
            exporter.terminate()
            exporter.wait()
        monitoring.stop(running)
        webhook.shutdown()


@pytest.mark.slow
def test_every_panel_has_data_on_a_live_stack():
    """Beside `make demo` and `make monitoring`; skipped where no Prometheus answers."""
    try:
        httpx.get(f"{settings().prometheus_url}/-/ready", timeout=3).raise_for_status()
    except httpx.HTTPError:
        pytest.skip(f"no Prometheus at {settings().prometheus_url}: `make demo`, then `make monitoring`")
    assert list(check.without_data(settings().prometheus_url)) == []
