"""The Kubernetes launcher: a stage as a pod on the node pool that `config/pods.yaml` names for it."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import yaml
from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator
from kubernetes.client import models as k8s
from pydantic import BaseModel, ConfigDict

from dags.launch import base
from flywheel.settings import REPOSITORY, settings

PASSED_ON = ("store", "model_name", "mlflow_url", "serving_url", "features_url", "price_cpu_hour", "price_gpu_hour", "currency", "log_format")


class Strict(BaseModel):
    """A misspelt key is an import error of the DAG, not a pod on the wrong node."""

    model_config = ConfigDict(extra="forbid")


class NodePool(Strict):
    """Where a pod may run and what it asks for."""

    node_selector: dict[str, str] = {}
    tolerations: list[dict[str, Any]] = []
    requests: dict[str, str]
    limits: dict[str, str]


class StagePod(Strict):
    """One stage's image, pool and deadlines."""

    image: str
    pool: str
    service_account: str
    secret: str = ""  # a Secret whose keys become the stage's environment
    startup_seconds: int = 600
    grace_seconds: int = 60


class Pods(Strict):
    """The whole of config/pods.yaml."""

    namespace: str
    database_secret: str
    pools: dict[str, NodePool]
    stages: dict[str, StagePod]


@lru_cache(maxsize=1)
def pods() -> Pods:
    """The file, validated once a process."""
    return Pods.model_validate(yaml.safe_load((REPOSITORY / "config" / "pods.yaml").read_text()))


class KubernetesStage(KubernetesPodOperator):
    """Runs `python -m tasks.<stage>` in a pod."""

    def __init__(self, *, stage: str, **options: Any) -> None:
        pod = pods().stages[stage]
        pool = pods().pools[pod.pool]
        environment = [k8s.V1EnvVar(name=f"FLYWHEEL_{name.upper()}", value=str(getattr(settings(), name))) for name in PASSED_ON]
        secret = k8s.V1SecretKeySelector(name=pods().database_secret, key="url")
        environment += [
            k8s.V1EnvVar(name="FLYWHEEL_DATABASE_URL", value_from=k8s.V1EnvVarSource(secret_key_ref=secret)),
            k8s.V1EnvVar(name="FLYWHEEL_HOME", value="/scratch"),
            k8s.V1EnvVar(name="FLYWHEEL_IMAGE", value=pod.image),
            k8s.V1EnvVar(name="FLYWHEEL_TERMINATION_LOG", value="/dev/termination-log"),
        ]
        super().__init__(
            namespace=pods().namespace,
            name=f"flywheel-{stage}",
            image=pod.image,
            cmds=["python", "-m", f"tasks.{stage}"],
            env_vars=environment,
            env_from=[k8s.V1EnvFromSource(secret_ref=k8s.V1SecretEnvSource(name=pod.secret))] if pod.secret else [],
            labels={"app.kubernetes.io/name": "flywheel", "app.kubernetes.io/component": stage},
            service_account_name=pod.service_account,
            node_selector=pool.node_selector,
            tolerations=[k8s.V1Toleration(**t) for t in pool.tolerations],
            container_resources=k8s.V1ResourceRequirements(requests=pool.requests, limits=pool.limits),
            security_context=k8s.V1PodSecurityContext(
                run_as_non_root=True, run_as_user=1000, fs_group=1000, seccomp_profile=k8s.V1SeccompProfile(type="RuntimeDefault")
            ),
            container_security_context=k8s.V1SecurityContext(
                allow_privilege_escalation=False, read_only_root_filesystem=True, capabilities=k8s.V1Capabilities(drop=["ALL"])
            ),
            volumes=[k8s.V1Volume(name="scratch", empty_dir=k8s.V1EmptyDirVolumeSource()), k8s.V1Volume(name="tmp", empty_dir=k8s.V1EmptyDirVolumeSource())],
            volume_mounts=[k8s.V1VolumeMount(name="scratch", mount_path="/scratch"), k8s.V1VolumeMount(name="tmp", mount_path="/tmp")],
            startup_timeout_seconds=pod.startup_seconds,
            termination_grace_period=pod.grace_seconds,
            termination_message_policy="FallbackToLogsOnError",
            log_events_on_failure=True,
            random_name_suffix=True,
            reattach_on_restart=True,
            on_finish_action="delete_succeeded_pod",
            do_xcom_push=False,
            **options,
        )
        self.stage = stage

    def render_template_fields(self, context: Any, jinja_env: Any = None) -> None:
        """The arguments are known when the run is."""
        super().render_template_fields(context, jinja_env)
        self.arguments = base.arguments(self.stage, context)

    def execute(self, context: Any) -> dict[str, Any]:
        """Run the pod; the manifest, not the pod's phase, says whether it did its work."""
        super().execute(context)
        return base.finished(self.stage, context)

    def cleanup(self, pod: k8s.V1Pod, remote_pod: k8s.V1Pod, *arguments: Any, **options: Any) -> None:
        """Turn the container's exit code into what Airflow should do about it."""
        try:
            super().cleanup(pod, remote_pod, *arguments, **options)
        except Exception as error:
            code = exit_code(remote_pod)
            if code is None:
                raise
            raise base.failed(self.stage, code) from error


def exit_code(pod: k8s.V1Pod | None) -> int | None:
    """The exit code of the pod's container, when it has one other than 0."""
    statuses = (pod.status.container_statuses if pod and pod.status else None) or []
    ended = [s.state.terminated for s in statuses if s.name == "base" and s.state and s.state.terminated]
    return (ended[0].exit_code or None) if ended else None
