"""Where things are on this machine or cluster: read from the environment, prefix FLYWHEEL_.

What a turn *does* is in `flywheel.config`; this is only where it does it. `.env.example` lists every variable.
"""

from __future__ import annotations

import os
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

REPOSITORY = Path(__file__).resolve().parent.parent


class Settings(BaseSettings):
    """Every field is an environment variable FLYWHEEL_<NAME>."""

    model_config = SettingsConfigDict(env_prefix="FLYWHEEL_", extra="ignore")

    home: Path = Field(REPOSITORY / ".flywheel", description="State of the laptop stack: database, logs, caches")
    store: str = Field("", description="Object store: a folder or s3://bucket/prefix. Default: <home>/store")
    config: str = Field("", description="The turn's YAML. Default: <home>/config.yaml when it exists, else config/flywheel.yaml")
    launcher: Literal["local", "kubernetes"] = Field("local", description="Who runs the stages")
    pods: str = Field("", description="Node pools, images and pods of the stages on a cluster. Default: config/pods.yaml")
    stage_python: str = Field("", description="Interpreter of the stages' environment, for the local launcher. Default: .venv/ml/bin/python")
    model_name: str = Field("flywheel", description="Registered model in MLflow")

    database_url: str = Field("postgresql+psycopg://flywheel@127.0.0.1:15432/flywheel", description="The one PostgreSQL")
    mlflow_url: str = "http://127.0.0.1:15000"
    mlflow_database_url: str = Field("", description="Its database. Default: `mlflow` beside database_url", repr=False)
    mlflow_artifacts: str = Field("", description="Where it keeps its artifacts: a folder or s3://…. Default: <home>/mlflow")
    airflow_database_url: str = Field("", description="Airflow's database. Default: `airflow` beside database_url", repr=False)
    airflow_url: str = "http://127.0.0.1:18080"
    pod_url: str = Field("", description="Where a stage's pod is shown, e.g. https://headlamp.example.org/c/main/pods/{namespace}/{pod}; empty: no link")
    serving_url: str = "http://127.0.0.1:18000"
    ui_url: str = "http://127.0.0.1:18501"
    features_url: str = Field("", description="Feast's feature server, e.g. http://127.0.0.1:16566; empty: no features, at no cost")
    features_python: str = Field("", description="Interpreter of the feature store's environment. Default: .venv/features/bin/python")
    exporter_url: str = Field("http://127.0.0.1:19100", description="The flywheel's own figures, for Prometheus")
    prometheus_url: str = "http://127.0.0.1:19090"
    alertmanager_url: str = "http://127.0.0.1:19093"
    alert_webhook: str = Field("", description="Where the laptop's Alertmanager also posts every alert. Default: nowhere")
    label_studio_url: str = Field("", description="The Label Studio server that people review in. Default: none; on a laptop the one that `make review` set up")
    label_studio_token: str = Field("", description="Its access token", repr=False)
    label_studio_secret: str = Field("", description="What its webhook has to bring; empty: no webhook", repr=False)
    log_format: Literal["text", "json"] = Field("text", description="Log lines of stages and services: text for people, json for a log shipper")

    serving_key: str = Field("", description="API key that the page sends to serving for people who have no token of their own")
    policy: str = Field("", description="Markdown that everyone accepts before they use the page. Default: config/policy.md")
    roles_claim: str = Field("roles", description="Claim of a login's token that holds the roles, e.g. realm_access.roles")

    nightly: str = Field("0 2 * * *", description="Cron of the nightly turn, UTC")
    changes: str = Field(
        "", description="Cron, UTC: when to look whether sources or config are what no recent turn was made of, and to start one. Default: never"
    )
    feedback_queue: str = Field("", description="URL of an SQS queue that the store's bucket tells of new objects; empty: the store is looked at")
    late_hours: float = Field(
        6, gt=0, description="A turn that has not ended so long after it began is late: people are told. Waiting for a person does not count"
    )
    stop_hours: float = Field(12, gt=0, description="A turn is stopped after so long; the wait for a person is allowed on top")
    queue_hours: float = Field(36, gt=0, description="A usable correction that waits for so long is told of; curate.max_wait_hours is a day by default")
    silent_minutes: float = Field(30, gt=0, description="A stage that says nothing for so long hangs")
    silent: Literal["tell", "stop"] = Field("tell", description="What becomes of it: people are told; or it is stopped as well, and tried again")
    approval_hours: float = Field(48, gt=0, description="How long a promotion waits for a person")
    approval_timeout: Literal["hold", "approve"] = Field("hold", description="What becomes of a promotion that nobody answers in time")
    link_key: str = Field("", description="Signs the links with which people answer from a message. Default: on a laptop one of its own", repr=False)
    notices: str = Field("", description="YAML that says who is told of what; docs/operating.md. Default: <home>/notices.yaml; without a file nobody is")
    first_night: str = Field("", description="Earliest night that can be backfilled (ISO date). Default: on a laptop the day it was set up, else 2026-01-01")

    retention_days: int = Field(730, ge=1, description="Feedback is forgotten after this, or sooner when its giver said so")

    price_cpu_hour: float = Field(0.04, ge=0, description="Money for one CPU hour")
    price_gpu_hour: float = Field(2.50, ge=0, description="Money for one GPU hour")
    currency: str = "USD"
    signing_key: str = Field("", description="PEM file of an Ed25519 private key: registered versions are signed with it")
    verify_key: str = Field("", description="PEM file of its public key: a version without a valid signature is then not loaded")
    image: str = Field("", description="Digest of the image a stage runs in, written into its manifest")

    def model_post_init(self, _: object) -> None:
        """Resolve the defaults that hang on other fields."""
        self.home = self.home.expanduser().absolute()
        self.store = self.store or str(self.home / "store")
        self.mlflow_artifacts = self.mlflow_artifacts or str(self.home / "mlflow")
        first = self.home / "first_night"
        self.first_night = self.first_night or (first.read_text().strip() if first.exists() else "2026-01-01")
        own = self.home / "config.yaml"
        self.pods = self.pods or str(REPOSITORY / "config" / "pods.yaml")
        self.config = self.config or str(own if own.exists() else REPOSITORY / "config" / "flywheel.yaml")
        secret = self.home / "secrets" / "label-studio"
        if not self.label_studio_url and secret.exists():
            self.label_studio_url, text = "http://127.0.0.1:18082", secret.read_text().strip()
            self.label_studio_token = self.label_studio_token or sha256(f"token {text}".encode()).hexdigest()[:40]  # as long as it takes
            self.label_studio_secret = self.label_studio_secret or sha256(f"webhook {text}".encode()).hexdigest()
        links = self.home / "secrets" / "links"
        self.link_key = self.link_key or (links.read_text().strip() if links.exists() else "")
        self.notices = self.notices or str(self.home / "notices.yaml")
        self.policy = self.policy or str(REPOSITORY / "config" / "policy.md")
        self.stage_python = self.stage_python or str(REPOSITORY / ".venv" / "ml" / "bin" / "python")
        self.features_python = self.features_python or str(REPOSITORY / ".venv" / "features" / "bin" / "python")


@lru_cache(maxsize=1)
def settings() -> Settings:
    """The process's settings, read once. Tests call `settings.cache_clear()` after changing the environment.

    A pod's secrets are files, which nobody reads who may only look at pods: each file of FLYWHEEL_SECRETS_DIR with a variable's name
    (capitals) counts as that variable, unless it is set.
    """
    folder = os.environ.get("FLYWHEEL_SECRETS_DIR")
    for file in Path(folder).iterdir() if folder else ():
        if file.name.isidentifier() and file.name.isupper() and file.is_file():
            os.environ.setdefault(file.name, file.read_text().strip())
    return Settings()


def port(url: str) -> int:
    """The port of a service URL, e.g. 15000 for http://127.0.0.1:15000."""
    found = urlsplit(url).port
    if found is None:
        raise ValueError(f"{url} names no port; write it as http://127.0.0.1:PORT")
    return found
