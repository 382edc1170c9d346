"""Sets of values, and what the chart makes of them. Helm runs in this process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[3]
CHART, MONITORING = ROOT / "infra" / "helm" / "flywheel", ROOT / "infra" / "monitoring"
DIGEST = "sha256:" + "ab" * 32
BASE = {"store": "s3://bucket"}
INGRESS = {"enabled": True, "className": "haproxy", "servingHost": "api.example.org", "uiHost": "flywheel.example.org", "tlsSecret": "flywheel-tls"}
# What `terraform output -raw helm_values` gives: modules/platform/outputs.tf
TERRAFORM = {
    "aws": {"region": "eu-west-1", "account": "123456789012", "cluster": "flywheel-dev"},
    "image": {"registry": "123456789012.dkr.ecr.eu-west-1.amazonaws.com"},
    "store": "s3://flywheel-dev-store-123456789012",
    "database": {
        "host": "flywheel-dev.example.eu-west-1.rds.amazonaws.com",
        "port": 5432,
        "secretArn": "arn:aws:secretsmanager:eu-west-1:123456789012:secret:a",
    },
    "cache": {"enabled": False, "secretArn": None},
    "secrets": {"flywheel-database": "arn:aws:secretsmanager:eu-west-1:123456789012:secret:a"},
    "serviceAccounts": {
        "flywheel-serving": {"annotations": {"eks.amazonaws.com/role-arn": "arn:aws:iam::123456789012:role/flywheel-serving"}},
        "external-secrets": {"annotations": {"eks.amazonaws.com/role-arn": "arn:aws:iam::123456789012:role/external-secrets"}},
    },
    "clusterAutoscaler": {"roleArn": "arn:aws:iam::123456789012:role/autoscaler"},
}


def preset(name: str) -> dict[str, Any]:
    return {**yaml.safe_load((CHART / "values" / f"{name}.yaml").read_text()), **BASE}


def scaled(**autoscaling: Any) -> dict[str, Any]:
    return {**BASE, "serving": {"autoscaling": autoscaling}}


CASES: dict[str, dict[str, Any]] = {
    "default": BASE,
    "dev": preset("dev"),
    "staging": preset("staging"),
    "prod": preset("prod"),
    "terraform": TERRAFORM,
    "hpa": scaled(kind="hpa"),
    "keda": scaled(kind="keda", tokensPerSecondPerReplica=400),
    "to-zero": scaled(kind="keda", tokensPerSecondPerReplica=400, toZero={"enabled": True, "backend": "flywheel-serving"}),
    "alone": {**BASE, "ui": {"enabled": False}, "exporter": {"enabled": False}, "mlflow": {"enabled": False, "url": "https://mlflow.example.org"},
              "feedbackWorker": {"enabled": False}, "migrations": {"enabled": False}, "networkPolicy": {"enabled": False}},
    "everything": {
        **BASE, "config": "s3://bucket/configs/flywheel.yaml", "ingress": {**INGRESS, "annotations": {"haproxy.org/cookie-persistence": "page"}},
        "environment": {"RETENTION_DAYS": "90"}, "storeSecret": "store", "aws": {"region": "x", "endpoint": "http://minio:9000"},
        "stages": {"pods": {"namespace": "team", "images": {"data": "registry/flywheel/data:1"}}}, "image": {"digests": {"serving": DIGEST, "ui": DIGEST}, "pullSecrets": ["registry"]},
        "monitoring": {"enabled": True, "labels": {"release": "monitoring"}, "metricsKeySecret": "metrics-key", "runbook": "https://example.org/runbook"},
        "serving": {"engine": "upstream", "keysSecret": "keys", "settings": {"UPSTREAM_URL": "http://vllm:8000/v1", "MAX_BATCH": "64"}, "priorityClassName": "serving",
                    "nodeSelector": {"flywheel/pool": "cpu"}, "tolerations": [{"key": "x", "operator": "Exists", "effect": "NoSchedule"}], "podAnnotations": {"a": "b"}},
        "ui": {"keySecret": "ui-key", "loginSecret": "ui-login"}, "airflow": {"enabled": True}, "postgresql": {"enabled": True}, "redis": {"enabled": True},
    },
}  # fmt: skip


def render(chart: Path, values: dict[str, Any], **options: Any) -> dict[str, str]:
    """The text of each template. Loaded anew each time: rendering drops from a loaded chart what it was not asked for."""
    import helm_python

    with helm_python.Chart.load(chart) as loaded:
        return loaded.render(values, name="flywheel", namespace="team", **options)


def of_kind(objects, *kinds: str) -> list[dict[str, Any]]:
    return [one for one in objects if one["kind"] in kinds]


def named(objects, kind: str, name: str) -> dict[str, Any]:
    return next(one for one in of_kind(objects, kind) if one["metadata"]["name"] == name)
