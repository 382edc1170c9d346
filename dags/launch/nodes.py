"""Training on several nodes: an Indexed Job, one pod a node, that find the first of them by a headless service.

`stages.train.nodes` of the pods file turns it on; each pod runs the same `python -m tasks.train`, and the first one alone writes the
manifest. When one pod ends, the Job ends, and the retry begins a new one from the last checkpoint.
"""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Any

from airflow.providers.cncf.kubernetes.operators.job import KubernetesJobOperator
from airflow.sdk.exceptions import AirflowException, AirflowFailException
from kubernetes.client import models as k8s
from kubernetes.client.exceptions import ApiException
from urllib3.exceptions import HTTPError

from dags.launch import base, leftovers, trouble
from dags.launch.kubernetes import command, elsewhere, exit_code, failed_nodes, labels_of, note_nodes, pod_options
from dags.launch.pods import pods

INDEX = "batch.kubernetes.io/job-completion-index"
PORT = 29500
ENDED_BY_THE_JOB = (None, 143, 137)  # what its other pods end with, once one has failed


class NodesStage(KubernetesJobOperator):
    """Runs `python -m tasks.train` in as many pods as the stage has nodes."""

    def __init__(self, *, stage: str, **options: Any) -> None:
        pod = pods().stages[stage]
        pool = pods().pools[pod.pool]
        job = {"completion_mode": "Indexed", "completions": pod.nodes, "parallelism": pod.nodes, "backoff_limit": 0, "ttl_seconds_after_finished": 600}
        found = pod_options(stage) | {"subdomain": pods().headless_service, "suspend": True if pool.queue else None}
        super().__init__(**{**found, **job, "wait_until_job_complete": True, "deferrable": False, **options})
        self.stage = stage
        if self.execution_timeout:
            self.active_deadline_seconds = int((self.execution_timeout + timedelta(seconds=pod.grace_seconds)).total_seconds())

    def render_template_fields(self, context: Any, jinja_env: Any = None) -> None:
        """The arguments are known when the run is."""
        super().render_template_fields(context, jinja_env)
        self.arguments = command(self.stage, context)
        self.annotations = {**pods().annotations, **leftovers.owner(context)}

    def build_job_request_obj(self, context: Any = None) -> k8s.V1Job:
        """Each pod knows how many there are and where the first is; which one it is, Kubernetes tells it."""
        self.affinity = elsewhere(failed_nodes(context)) if context else None
        job = super().build_job_request_obj(context)
        job.metadata.labels = {**job.metadata.labels, **job.spec.template.metadata.labels}  # by which a later try finds it
        job.spec.template.spec.enable_service_links = False
        first = f"{job.metadata.name}-0.{self.subdomain}:{PORT}"
        job.spec.template.spec.containers[0].env += [
            k8s.V1EnvVar(name="FLYWHEEL_NODES", value=str(self.completions)),
            k8s.V1EnvVar(name="FLYWHEEL_FIRST_NODE", value=first),
        ]
        return job

    def execute(self, context: Any) -> dict[str, Any]:
        """Run the Job, with the first pod's lines in the log as they come; leave nothing of it behind."""
        self.name = self._set_name(self.name)
        try:
            leftovers.sweep(self.client, self.namespace, context, self.log)
            self._end_earlier(context)
            self.job_request_obj = self.build_job_request_obj(context)
            self.job = self.create_job(self.job_request_obj)  # what on_kill deletes
            try:
                self._follow(context)
            finally:
                self._delete(self.job.metadata.name)
        except (ApiException, HTTPError) as error:
            sentence, retried = trouble.of_api(error, self.namespace or "")
            raise (AirflowException if retried else AirflowFailException)(f"{self.stage}: {sentence}") from error
        return base.finished(self.stage, context)

    def _end_earlier(self, context: Any) -> None:
        """An earlier try's Job, if its worker died: two of them would write the same checkpoints."""
        found = self.job_client.list_namespaced_job(self.namespace, label_selector=labels_of(context)).items
        for job in found:
            self.log.info("ending the Job %s of an earlier try", job.metadata.name)
            self._delete(job.metadata.name)
        self._until(lambda: not self._pods_of(context), (self.termination_grace_period or 30) + 60, "the pods of an earlier try do not end")

    def _follow(self, context: Any) -> None:
        self._until(
            lambda: len(self._pods_of(context)) >= (self.completions or 1), self.schedule_timeout_seconds, "the Job's pods are not made; its queue may be full"
        )
        self.pods = sorted(self._pods_of(context), key=lambda pod: int((pod.metadata.annotations or {}).get(INDEX, 0)))
        try:
            for pod in self.pods:
                self.await_pod_start(pod)
            self.await_pod_completion(self.pods[0])
            job = self.hook.wait_until_job_complete(self.job.metadata.name, self.namespace, job_poll_interval=2)
        except AirflowException as error:
            raise self._failure(context) from error
        if self.hook.is_job_failed(job):
            raise self._failure(context)

    def _failure(self, context: Any) -> AirflowException:
        """Of the pod that failed first; the Job ended the others."""
        found = self._pods_of(context)
        note_nodes(context, [pod.spec.node_name for pod in found if exit_code(pod)])
        for pod in sorted(found, key=lambda pod: exit_code(pod) in ENDED_BY_THE_JOB):
            told = trouble.of_pod(pod, self.pod_manager.read_pod_events(pod).items, pods().stages[self.stage].pool)
            if told or exit_code(pod):
                self.log.error("pod %s on node %s ended with %s", pod.metadata.name, pod.spec.node_name, exit_code(pod))
                return base.pod_failed(self.stage, exit_code(pod), told)
        return base.pod_failed(self.stage, None, "")

    def _pods_of(self, context: Any) -> list[Any]:
        return list(self.client.list_namespaced_pod(self.namespace, label_selector=labels_of(context)).items)

    def _delete(self, name: str) -> None:
        try:
            self.job_client.delete_namespaced_job(name, self.namespace, propagation_policy="Foreground")
        except ApiException as error:
            if error.status != 404:
                raise

    def _until(self, true: Any, seconds: float, otherwise: str) -> None:
        end = time.monotonic() + seconds
        while not true():
            if time.monotonic() > end:
                raise AirflowException(f"{self.stage}: {otherwise} (after {seconds:.0f} s)")
            time.sleep(1)
