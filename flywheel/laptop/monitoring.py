"""`make monitoring`: a real Prometheus and Alertmanager beside the stack, on infra/monitoring's files, until Ctrl-C.

The files are used as they are, but for this installation's ports, and without the receivers that have no secret here. What
Prometheus keeps lies in FLYWHEEL_HOME/prometheus.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from types import FrameType
from typing import Any
from urllib.parse import urlsplit

import httpx
import yaml
from rich.console import Console

from flywheel import store
from flywheel.errors import ContractError, TransientError
from flywheel.laptop import processes
from flywheel.settings import REPOSITORY, Settings, settings

FILES = REPOSITORY / "infra" / "monitoring"
START_SECONDS = 60
console = Console(highlight=False)
INSTALL = "Install it: `apt-get install prometheus prometheus-alertmanager`, or the releases of prometheus.io on your PATH."
SECRET_FILES = {"api_url_file", "routing_key_file", "credentials_file"}


def program(*names: str) -> str:
    """The first of these programs that is on PATH. Raises ContractError that says how to install it."""
    found = next((path for name in names if (path := shutil.which(name))), None)
    if found is None:
        raise ContractError(f"{names[0]} is not on this machine's PATH", where="make monitoring", mend=INSTALL)
    return found


def prometheus_config(conf: Settings) -> dict[str, Any]:
    """infra/monitoring/prometheus.yaml with this installation's addresses."""
    found: dict[str, Any] = yaml.safe_load((FILES / "prometheus.yaml").read_text())
    urls = {"serving": conf.serving_url, "exporter": conf.exporter_url, "prometheus": conf.prometheus_url, "alertmanager": conf.alertmanager_url}
    for job in found["scrape_configs"]:
        job["static_configs"] = [{"targets": [urlsplit(urls[job["job_name"]]).netloc]}]
    found["alerting"]["alertmanagers"] = [{"static_configs": [{"targets": [urlsplit(conf.alertmanager_url).netloc]}]}]
    found["rule_files"] = [str(FILES / pattern) for pattern in found["rule_files"]]
    found["global"]["external_labels"]["runbook"] = str(REPOSITORY / found["global"]["external_labels"]["runbook"])
    return found


def alertmanager_config(conf: Settings) -> dict[str, Any]:
    """infra/monitoring/alertmanager.yaml with the receivers that can work here: those whose secret is in `secrets/alertmanager`."""
    found: dict[str, Any] = yaml.safe_load((FILES / "alertmanager.yaml").read_text())
    secrets = conf.home / "secrets"
    password = secrets / "alertmanager" / Path(found["global"]["smtp_auth_password_file"]).name
    found["global"]["smtp_auth_password_file"] = str(password)
    for receiver in found["receivers"]:
        for kind in [key for key in receiver if key.endswith("_configs")]:
            receiver[kind] = [c for c in receiver[kind] if (password.exists() if kind == "email_configs" else _can_work(c, secrets / "alertmanager"))]
            if kind == "webhook_configs" and conf.alert_webhook:
                receiver[kind] = [{"url": conf.alert_webhook, "send_resolved": True}]
    return found


def _can_work(part: dict[str, Any], secrets: Path) -> bool:
    """Points every secret file of a receiver's config into `secrets`; whether all of them are there."""
    good = True
    for key, value in part.items():
        if key in SECRET_FILES:
            part[key] = str(secrets / Path(value).name)
            good &= (secrets / Path(value).name).exists()
        elif isinstance(value, dict):
            good &= _can_work(value, secrets)
    return good


def commands(conf: Settings) -> dict[str, list[str]]:
    """What is started, after writing the files that it reads."""
    folder = conf.home / "prometheus"
    for name, content in {"prometheus": prometheus_config(conf), "alertmanager": alertmanager_config(conf)}.items():
        store.write_bytes(str(folder / f"{name}.yaml"), yaml.safe_dump(content, sort_keys=False).encode())
    return {
        "prometheus": [
            program("prometheus"), f"--config.file={folder / 'prometheus.yaml'}", f"--storage.tsdb.path={folder / 'data'}", "--storage.tsdb.retention.time=30d",
            f"--web.listen-address={urlsplit(conf.prometheus_url).netloc}", f"--web.external-url={conf.prometheus_url}", "--log.level=warn",
        ],
        "alertmanager": [
            program("alertmanager", "prometheus-alertmanager"), f"--config.file={folder / 'alertmanager.yaml'}", f"--storage.path={folder / 'alerts'}",
            f"--web.listen-address={urlsplit(conf.alertmanager_url).netloc}", f"--web.external-url={conf.alertmanager_url}", "--cluster.listen-address=",
            "--log.level=warn",
        ],
    }  # fmt: skip


def start(conf: Settings) -> dict[str, subprocess.Popen[bytes]]:
    """Start both and wait until they are ready. Raises TransientError with the end of its log when one is not."""
    (conf.home / "logs").mkdir(parents=True, exist_ok=True)
    running: dict[str, subprocess.Popen[bytes]] = {}
    for name, command in commands(conf).items():
        processes.end(str(conf.home), name)  # what a killed one left behind
        environment = {**os.environ, processes.HOME: str(conf.home), processes.MARK: name}  # so that `make down` knows it
        with open(conf.home / "logs" / f"{name}.log", "ab") as log:
            running[name] = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, cwd=conf.home)
    until = time.monotonic() + START_SECONDS
    for name, url in {"prometheus": conf.prometheus_url, "alertmanager": conf.alertmanager_url}.items():
        while not _ready(url):
            if running[name].poll() is not None or time.monotonic() > until:
                stop(running)
                path = conf.home / "logs" / f"{name}.log"
                last = next(iter(path.read_text(errors="replace").splitlines()[-1:]), "it says nothing")
                raise TransientError(f"{name} does not become ready: {last}", where=str(path), mend="Mend what it says and run `make monitoring` again.")
            time.sleep(0.1)
    return running


def _ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/-/ready", timeout=2).is_success
    except httpx.HTTPError:
        return False


def stop(running: dict[str, subprocess.Popen[bytes]]) -> None:
    """End both."""
    for process in running.values():
        process.terminate()
    for process in running.values():
        process.wait()


def run() -> None:
    """Run until Ctrl-C, SIGTERM, or the end of one of them."""

    def interrupt(_signum: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
    conf = settings()
    running = start(conf)
    receivers = [r["name"] for r in alertmanager_config(conf)["receivers"] if any(r[key] for key in r if key.endswith("_configs"))]
    console.print(f"prometheus    {conf.prometheus_url}/alerts\nalertmanager  {conf.alertmanager_url}", soft_wrap=True)
    console.print(f"receivers     {', '.join(receivers) or 'none: docs/monitoring.md says how to add one'}\nCtrl-C ends both", soft_wrap=True)
    try:
        while all(process.poll() is None for process in running.values()):
            time.sleep(0.5)
    except KeyboardInterrupt:
        return
    finally:
        stop(running)
    raise TransientError("one of them has ended", where=str(conf.home / "logs"), mend="Read prometheus.log and alertmanager.log there.")
