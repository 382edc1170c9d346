"""What the laptop stack consists of: each service's command, environment, port and health check."""

from __future__ import annotations

import os
import secrets
import sys
from base64 import urlsafe_b64encode
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import sqlalchemy as sa

from flywheel import store
from flywheel.laptop import postgres
from flywheel.laptop.postgres import HOST
from flywheel.settings import REPOSITORY, Settings, port

DATABASES = ("flywheel", "airflow", "mlflow")
REVIEWER = "reviewer@localhost.localdomain"


@dataclass(frozen=True)
class Service:
    """One process of the stack."""

    name: str
    command: list[str]
    healthy: Callable[[], bool]
    url: str = ""
    setting: str = ""
    environment: dict[str, str] = field(default_factory=dict)
    user: str = ""
    stop_signal: str = "TERM"
    after_migration: bool = False


def database_url(settings: Settings, name: str, driver: str) -> str:
    """The address of one of the databases: on the one server, unless a setting of its own says otherwise."""
    own = getattr(settings, f"{name}_database_url", "")
    url = sa.make_url(own) if own else sa.make_url(settings.database_url).set(database=name)
    return url.set(drivername=f"postgresql+{driver}").render_as_string(hide_password=False)


@cache
def _http() -> httpx.Client:
    return httpx.Client(timeout=3)  # one for all: each new client reads every CA certificate, 50 ms


def _answers(url: str, healthy: Callable[[httpx.Response], bool] = lambda reply: reply.is_success) -> Callable[[], bool]:
    def ask() -> bool:
        try:
            return healthy(_http().get(url))
        except (httpx.HTTPError, ValueError):
            return False

    return ask


def _component(settings: Settings, name: str) -> Callable[[], bool]:
    return _answers(f"{settings.airflow_url}/api/v2/monitor/health", lambda reply: reply.json()[name]["status"] == "healthy")


def secret(home: Path, name: str) -> str:
    """A secret of this installation, made on first use and readable by its owner alone."""
    return secret_at(home / "secrets" / name)


def secret_at(path: Path) -> str:
    """The same, wherever it lies."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.parent.chmod(0o700)
        store.write_bytes(str(path), urlsafe_b64encode(secrets.token_bytes(32)))
    return path.read_text()


def shared_environment(settings: Settings) -> dict[str, str]:
    """Every setting, spelled out, so that all processes see the same ones."""
    found = {f"FLYWHEEL_{name.upper()}": str(getattr(settings, name)) for name in type(settings).model_fields}
    own_config = settings.home / "config.yaml"
    return found | {
        "FLYWHEEL_CONFIG": str(own_config) if own_config.exists() else settings.config,
        "PYTHONPATH": str(REPOSITORY),
        "PYTHONUNBUFFERED": "1",
        "OMP_WAIT_POLICY": "PASSIVE",  # on a busy machine threads that spin while they wait cost training half its processor time
    }


def airflow_environment(settings: Settings) -> dict[str, str]:
    """Airflow's own settings; the reasons are in its documentation, the choices ours."""
    options = {
        "CORE__DAGS_FOLDER": str(REPOSITORY / "dags"),
        "CORE__PLUGINS_FOLDER": str(REPOSITORY / "dags" / "plugins"),
        "CORE__LOAD_EXAMPLES": "False",
        "CORE__EXECUTOR": "LocalExecutor",
        "CORE__PARALLELISM": "4",
        "CORE__MAX_ACTIVE_TASKS_PER_DAG": "4",
        "CORE__FERNET_KEY": secret(settings.home, "airflow-fernet"),
        "CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",  # this machine's user is the only one; never on a cluster
        "CORE__EXECUTION_API_SERVER_URL": f"{settings.airflow_url}/execution/",
        "CORE__DEFAULT_TASK_RETRIES": "0",
        "DATABASE__SQL_ALCHEMY_CONN": database_url(settings, "airflow", "psycopg2"),
        "API__BASE_URL": settings.airflow_url,
        "API__HOST": HOST,
        "API__PORT": str(port(settings.airflow_url)),
        "API__WORKERS": "1",
        "API__SECRET_KEY": secret(settings.home, "airflow-api"),
        "API_AUTH__JWT_SECRET": secret(settings.home, "airflow-jwt"),
        "DAG_PROCESSOR__REFRESH_INTERVAL": "30",
        "DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "120",  # a changed file is read at the next look all the same; 30 costs a tenth of a core
        "DAG_PROCESSOR__DAG_FILE_PROCESSOR_TIMEOUT": "120",
        "SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "60",
        "SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": "30",  # a killed scheduler's tasks are retried within a minute or so, not five
        "SCHEDULER__ENABLE_HEALTH_CHECK": "False",
        "LOGGING__BASE_LOG_FOLDER": str(settings.home / "logs" / "tasks"),
        "LOGGING__JSON_LOGS": str(settings.log_format == "json"),
        "METRICS__OTEL_ON": "True",
        "METRICS__LEGACY_NAMES_ON": "False",
        "METRICS__METRICS_ALLOW_LIST": "^scheduler,^dag_processing,^dag_processor,^trigger,^executor,^pool,^ti[._],^dagrun",
        "USAGE_DATA_COLLECTION__ENABLED": "False",
    }
    telemetry = {
        "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": f"{settings.exporter_url}/v1/metrics",
        "OTEL_EXPORTER_OTLP_METRICS_PROTOCOL": "http/protobuf",
        "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE": "delta",  # a task's process is gone before anyone could ask for its totals
        "OTEL_METRIC_EXPORT_INTERVAL": "10000",
    }
    # setproctitle writes over the environment, by which the stack knows its processes, unless SPT_NOENV is set
    own = {"AIRFLOW_HOME": str(settings.home / "airflow"), "SPT_NOENV": "1"}
    return {**own, **telemetry, **{f"AIRFLOW__{key}": value for key, value in options.items()}}


def airflow_python() -> str:
    """The interpreter of Airflow's own environment."""
    return str(REPOSITORY / ".venv" / "airflow" / "bin" / "python")


def label_studio(settings: Settings) -> Service:
    """The Label Studio server, in an environment and with a database of its own; its one user's password is the token."""
    address = urlsplit(settings.label_studio_url)
    environment = {
        "LABEL_STUDIO_BASE_DATA_DIR": str(settings.home / "label-studio"),
        "LABEL_STUDIO_HOST": settings.label_studio_url,
        "LABEL_STUDIO_USERNAME": REVIEWER,
        "LABEL_STUDIO_PASSWORD": settings.label_studio_token,
        "LABEL_STUDIO_USER_TOKEN": settings.label_studio_token,
        "LABEL_STUDIO_ENABLE_LEGACY_API_TOKEN": "true",
        "LABEL_STUDIO_DISABLE_SIGNUP_WITHOUT_LINK": "true",
        "DJANGO_DB": "sqlite",
        "SSRF_PROTECTION_ENABLED": "false",  # or its webhook could not reach a service on this machine
        "COLLECT_ANALYTICS": "false",
        "LATEST_VERSION_CHECK": "false",
        "SENTRY_DSN": "",
        "FRONTEND_SENTRY_DSN": "",
    }
    command = [str(REPOSITORY / ".venv" / "label" / "bin" / "label-studio"), "start", "--no-browser", "--internal-host", HOST, "--port", str(address.port)]
    return Service(
        "label-studio", command, _answers(f"{settings.label_studio_url}/health"), settings.label_studio_url, "FLYWHEEL_LABEL_STUDIO_URL", environment
    )


def services(settings: Settings) -> list[Service]:
    """In the order in which they start."""
    ml, airflow_env = sys.executable, airflow_environment(settings)
    url = sa.make_url(settings.database_url)
    mlflow_store = ["--backend-store-uri", database_url(settings, "mlflow", "psycopg"), "--artifacts-destination", settings.mlflow_artifacts]
    # bound to this machine: no credentials, unless somebody wants them
    serving_env = {"FLYWHEEL_SERVING_AUTH": os.environ.get("FLYWHEEL_SERVING_AUTH", "off"), "FLYWHEEL_SERVING_DRAIN_SECONDS": "0"}
    mlflow_env = {
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }

    def airflow(name: str, *command: str, component: str) -> Service:
        address = settings.airflow_url if name == "airflow-api" else ""
        setting = "FLYWHEEL_AIRFLOW_URL" if address else ""
        return Service(
            name, [airflow_python(), "-m", "airflow", *command], _component(settings, component), address, setting, airflow_env, after_migration=True
        )

    return [
        Service(
            "postgres",
            postgres.command(settings.home / "postgres", url.port or 5432),
            lambda: postgres.answers(url), f"http://{HOST}:{url.port}", "FLYWHEEL_DATABASE_URL", user=postgres.user(), stop_signal="INT",
        ),
        Service(
            "mlflow",
            [ml, "-m", "mlflow", "server", "--host", HOST, "--port", str(port(settings.mlflow_url)), "--workers", "1", *mlflow_store],
            _answers(f"{settings.mlflow_url}/health"), settings.mlflow_url, "FLYWHEEL_MLFLOW_URL", mlflow_env,
        ),
        Service(
            "serving",
            [ml, "-m", "serving", "--host", HOST, "--port", str(port(settings.serving_url))],
            _answers(f"{settings.serving_url}/readyz"), settings.serving_url, "FLYWHEEL_SERVING_URL", serving_env,
        ),
        Service(
            "exporter", [ml, "-m", "flywheel.exporter"], _answers(f"{settings.exporter_url}/healthz"), settings.exporter_url, "FLYWHEEL_EXPORTER_URL"
        ),
        airflow("airflow-api", "api-server", component="metadatabase"),
        airflow("airflow-scheduler", "scheduler", component="scheduler"),
        airflow("airflow-dags", "dag-processor", component="dag_processor"),
        airflow("airflow-triggerer", "triggerer", component="triggerer"),
        Service(
            "ui",
            [ml, "-m", "streamlit", "run", str(REPOSITORY / "ui" / "app.py"), "--server.address", HOST, "--server.port", str(port(settings.ui_url)),
             "--server.headless", "true", "--client.toolbarMode", "viewer", "--browser.gatherUsageStats", "false"],
            _answers(f"{settings.ui_url}/_stcore/health"), settings.ui_url, "FLYWHEEL_UI_URL",
        ),
        *([label_studio(settings)] if (settings.home / "secrets" / "label-studio").exists() else []),
    ]  # fmt: skip
