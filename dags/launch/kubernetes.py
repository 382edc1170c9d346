"""The Kubernetes launcher: a stage as a pod on the node pool that the pods file names for it.

Everything that is known of a failure is in the task's log before the pod is deleted; no pod is left behind, and none runs twice.
docs/kubernetes.md shows what each failure looks like.
"""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Any

from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator
from airflow.providers.cncf.kubernetes.utils.pod_manager import PodNotFoundException, PodPhase
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException
from kubernetes.client import models as k8s
from kubernetes.client.exceptions import ApiException
from urllib3.exceptions import HTTPError

from dags.launch import base, leftovers, trouble
from dags.launch.pods import NodePool, Pods, StagePod, pods
from flywheel.settings import settings

PASSED_ON = (
    "store",
    "model_name",
    "mlflow_url",
    "serving_url",
    "features_url",
    "price_cpu_hour",
    "price_gpu_hour",
    "currency",
    "log_format",
    "silent_minutes",
    "silent",
)
SECRETS = "/run/secrets/flywheel"
FAILED_NODES = "failed_nodes"  # in Airflow's state of the task, which outlives a try


def environment(conf: Pods, pod: StagePod) -> list[k8s.V1EnvVar]:
    """What a stage is told of where things are. Nothing secret: that is in files."""
    values = {f"FLYWHEEL_{name.upper()}": str(getattr(settings(), name)) for name in PASSED_ON}
    values |= {"FLYWHEEL_HOME": "/scratch", "HOME": "/scratch", "FLYWHEEL_IMAGE": conf.images[pod.image]}
    values |= {"FLYWHEEL_TERMINATION_LOG": "/dev/termination-log", "FLYWHEEL_SECRETS_DIR": SECRETS, "PYTHONUNBUFFERED": "1"}
    if conf.store_secret:
        values["AWS_SHARED_CREDENTIALS_FILE"] = f"{SECRETS}/credentials"
    return [k8s.V1EnvVar(name=name, value=value) for name, value in {**values, **conf.environment}.items()]


def volumes(conf: Pods, pod: StagePod, pool: NodePool) -> tuple[list[k8s.V1Volume], list[k8s.V1VolumeMount]]:
    """Room to write, shared memory, and the secrets as files."""
    size = pool.sized("ephemeral-storage")
    sources = [k8s.V1SecretProjection(name=conf.database_secret, items=[k8s.V1KeyToPath(key="url", path="FLYWHEEL_DATABASE_URL")])]
    if conf.store_secret:
        sources.append(k8s.V1SecretProjection(name=conf.store_secret, items=[k8s.V1KeyToPath(key="credentials", path="credentials")]))
    if pod.secret:
        sources.append(k8s.V1SecretProjection(name=pod.secret))
    projected = k8s.V1ProjectedVolumeSource(default_mode=0o440, sources=[k8s.V1VolumeProjection(secret=source) for source in sources])
    found = [
        ("/scratch", k8s.V1Volume(name="scratch", empty_dir=k8s.V1EmptyDirVolumeSource(size_limit=size))),
        ("/tmp", k8s.V1Volume(name="tmp", empty_dir=k8s.V1EmptyDirVolumeSource(size_limit=size))),
        (SECRETS, k8s.V1Volume(name="secrets", projected=projected)),
    ]
    if pool.shared_memory:
        found.append(("/dev/shm", k8s.V1Volume(name="shm", empty_dir=k8s.V1EmptyDirVolumeSource(medium="Memory", size_limit=pool.shared_memory))))
    return [v for _, v in found], [k8s.V1VolumeMount(name=v.name, mount_path=path, read_only=v.name == "secrets" or None) for path, v in found]


def pod_options(stage: str) -> dict[str, Any]:
    """The arguments of the provider's operators for a stage: the same for a pod and for the pods of a Job."""
    conf = pods()
    pod = conf.stages[stage]
    pool = conf.pools[pod.pool]
    found, mounts = volumes(conf, pod, pool)
    labels = {"app.kubernetes.io/name": "flywheel", "app.kubernetes.io/component": stage, "app.kubernetes.io/managed-by": "airflow", **conf.labels}
    return {
        "namespace": conf.namespace,
        "name": f"flywheel-{stage}",
        "image": conf.images[pod.image],
        "image_pull_secrets": [k8s.V1LocalObjectReference(name=conf.pull_secret)] if conf.pull_secret else None,
        "env_vars": environment(conf, pod),
        "labels": labels | ({"kueue.x-k8s.io/queue-name": pool.queue} if pool.queue else {}),
        "service_account_name": pod.service_account,
        "automount_service_account_token": False,  # no stage asks anything of Kubernetes
        "node_selector": pool.node_selector,
        "tolerations": [k8s.V1Toleration(**{_snake(key): value for key, value in t.items()}) for t in pool.tolerations],
        "priority_class_name": pool.priority_class or None,
        "runtime_class_name": pool.runtime_class or None,
        "container_resources": k8s.V1ResourceRequirements(requests=pool.requests, limits=pool.limits),
        "security_context": k8s.V1PodSecurityContext(
            run_as_non_root=True, run_as_user=1000, run_as_group=1000, fs_group=1000, seccomp_profile=k8s.V1SeccompProfile(type="RuntimeDefault")
        ),
        "container_security_context": k8s.V1SecurityContext(
            allow_privilege_escalation=False, read_only_root_filesystem=True, capabilities=k8s.V1Capabilities(drop=["ALL"])
        ),
        "volumes": found,
        "volume_mounts": mounts,
        "termination_grace_period": pod.grace_seconds,
        "termination_message_policy": "FallbackToLogsOnError",
        "schedule_timeout_seconds": pod.schedule_seconds,
        "startup_timeout_seconds": pod.startup_seconds,
        "startup_check_interval_seconds": 1,
        "log_events_on_failure": True,
        "log_pod_spec_on_failure": False,
        "container_name_log_prefix_enabled": False,
        "on_finish_action": "delete_pod",
        "do_xcom_push": False,
    }


def command(stage: str, context: Any) -> list[str]:
    """The container's arguments: the image's entrypoint is an init process that runs them."""
    return ["python", "-m", f"tasks.{stage}", *base.arguments(stage, context)]


def _snake(name: str) -> str:
    return "".join(f"_{c.lower()}" if c.isupper() else c for c in name)


def labels_of(context: Any) -> str:
    """A selector of every pod or Job of this task in this run, whatever the try."""
    labels = {**KubernetesPodOperator._get_ti_pod_labels(context, include_try_number=False), "app.kubernetes.io/name": "flywheel"}
    return ",".join(f"{key}={value}" for key, value in sorted(labels.items()))


def elsewhere(nodes: list[str]) -> k8s.V1Affinity | None:
    """Rather not where an earlier try failed; there all the same when the pool has no other node."""
    if not nodes:
        return None
    term = k8s.V1NodeSelectorTerm(match_expressions=[k8s.V1NodeSelectorRequirement(key="kubernetes.io/hostname", operator="NotIn", values=nodes)])
    return k8s.V1Affinity(
        node_affinity=k8s.V1NodeAffinity(preferred_during_scheduling_ignored_during_execution=[k8s.V1PreferredSchedulingTerm(weight=100, preference=term)])
    )


def failed_nodes(context: Any) -> list[str]:
    """Where earlier tries failed."""
    state = context.get("task_state_store")
    return list(state.get(FAILED_NODES) or []) if state is not None else []


def note_nodes(context: Any, nodes: list[str]) -> None:
    """Remember where a try failed."""
    state = context.get("task_state_store") if context else None
    if state is not None and nodes:
        state.set(FAILED_NODES, sorted({*failed_nodes(context), *nodes}))


class KubernetesStage(KubernetesPodOperator):
    """Runs `python -m tasks.<stage>` in a pod."""

    def __init__(self, *, stage: str, **options: Any) -> None:
        pod = pods().stages[stage]
        waiting = {"deferrable": pod.deferrable, "logging_interval": 5, "poll_interval": 1} if pod.deferrable else {"deferrable": False}
        super().__init__(**{**pod_options(stage), **waiting, "durable": True, **options})
        self.stage = stage
        if self.execution_timeout:  # when Airflow is gone, Kubernetes ends it
            self.active_deadline_seconds = int((self.execution_timeout + timedelta(seconds=pod.grace_seconds)).total_seconds())

    def render_template_fields(self, context: Any, jinja_env: Any = None) -> None:
        """The arguments are known when the run is; so is whose pod it is, in full."""
        super().render_template_fields(context, jinja_env)
        self.arguments = command(self.stage, context)
        self.annotations = {**pods().annotations, **leftovers.owner(context)}

    def build_pod_request_obj(self, context: Any = None, **options: Any) -> k8s.V1Pod:
        """On another node than the tries before, if there is one."""
        self.affinity = elsewhere(failed_nodes(context)) if context else None
        pod = super().build_pod_request_obj(context, **options)
        pod.spec.enable_service_links = False  # or each Service there is a variable, some of them called FLYWHEEL_…
        return pod

    def execute(self, context: Any) -> dict[str, Any]:
        """Run the pod; the manifest, not the pod's phase, says whether it did its work."""
        try:
            leftovers.sweep(self.client, self.namespace, context, self.log)
            super().execute(context)
        except (ApiException, HTTPError) as error:
            raise self._refused(error) from error
        return base.finished(self.stage, context)

    def trigger_reentry(self, context: Any, event: dict[str, Any]) -> dict[str, Any]:
        """The same, after the triggerer has waited."""
        if event["status"] == "error" and self._never_started(event):
            event = {**event, "status": "timeout"}  # or the provider would wait for the end of what never begins
        try:
            super().trigger_reentry(context, event)
        except PodNotFoundException as error:
            raise AirflowException(f"{self.stage}: {trouble.DELETED}") from error
        except (ApiException, HTTPError) as error:
            raise self._refused(error) from error
        return base.finished(self.stage, context)

    def get_or_create_pod(self, pod_request_obj: k8s.V1Pod, context: Any) -> k8s.V1Pod:
        """A pod of an earlier try that still runs is taken up again; one that is being ended is waited for: never two at a time."""
        end = time.monotonic() + (self.termination_grace_period or 30) + 60
        while time.monotonic() < end:
            found = self.client.list_namespaced_pod(self.namespace, label_selector=labels_of(context)).items
            ending = [pod.metadata.name for pod in found if pod.metadata.deletion_timestamp]
            if not ending:
                break
            self.log.info("waiting for %s, which is being ended", ", ".join(ending))
            time.sleep(2)
        return super().get_or_create_pod(pod_request_obj, context)

    def cleanup(self, pod: k8s.V1Pod, remote_pod: k8s.V1Pod, xcom_result: Any = None, context: Any = None) -> None:
        """Say what is known of a failure before the pod is deleted, and turn it into what Airflow should do about it."""
        told = "" if self._killed or not remote_pod else self._trouble(remote_pod)
        try:
            super().cleanup(pod, remote_pod, xcom_result, context)
        except AirflowSkipException:
            raise
        except Exception as error:
            note_nodes(context, [remote_pod.spec.node_name] if remote_pod.spec and remote_pod.spec.node_name else [])
            raise base.pod_failed(self.stage, exit_code(remote_pod), told) from error

    def _trouble(self, pod: k8s.V1Pod) -> str:
        try:
            now = self.client.read_namespaced_pod(pod.metadata.name, pod.metadata.namespace)
            events = self.pod_manager.read_pod_events(now).items if now.status.phase == PodPhase.PENDING else []
        except (ApiException, HTTPError) as error:
            return trouble.DELETED if getattr(error, "status", None) == 404 else ""
        return trouble.of_pod(now, events, pods().stages[self.stage].pool)

    def _never_started(self, event: dict[str, Any]) -> bool:
        try:
            pod = self.client.read_namespaced_pod(event["name"], event["namespace"])
        except ApiException:
            return False
        return bool(pod.status.phase == PodPhase.PENDING)

    def _refused(self, error: Exception) -> AirflowException:
        if self._killed:
            return AirflowException(f"{self.stage}: ended by Airflow, and its pod with it")
        sentence, retried = trouble.of_api(error, self.namespace or "")
        return (AirflowException if retried else AirflowFailException)(f"{self.stage}: {sentence}")


def exit_code(pod: k8s.V1Pod | None) -> int | None:
    """The exit code of the pod's container, when it has one other than 0."""
    statuses = (pod.status.container_statuses if pod and pod.status else None) or []
    ended = [s.state.terminated for s in statuses if s.name == "base" and s.state and s.state.terminated]
    return (ended[0].exit_code or None) if ended else None
