"""The file that says where each stage runs on a cluster: `config/pods.yaml`, or the one that FLYWHEEL_PODS names.

Read whenever the DAG files are; a misspelt key, an unknown pool or image is an import error of the DAG, not a pod on the wrong node.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, model_validator

from flywheel.settings import settings


class Strict(BaseModel):
    """Knows every key."""

    model_config = ConfigDict(extra="forbid")


class NodePool(Strict):
    """Where a pod may run and what it asks for."""

    node_selector: dict[str, str] = {}
    tolerations: list[dict[str, Any]] = Field([], description="Of the pool's taints: a GPU's, a spot node's, how long a lost node is waited for")
    requests: dict[str, str]
    limits: dict[str, str]
    shared_memory: str = Field("", description="Size of /dev/shm, part of the memory limit; by default the runtime's 64 MiB")
    priority_class: str = Field("", description="A PriorityClass that exists: may displace pods of a lower one")
    queue: str = Field("", description="Kueue's LocalQueue, where Kueue is installed: pods wait in it for their share")
    runtime_class: str = Field("", description="A RuntimeClass that exists, e.g. nvidia")

    def sized(self, name: str) -> str | None:
        """What one of its resources is limited to, or else asked for."""
        return self.limits.get(name) or self.requests.get(name)


class StagePod(Strict):
    """One stage's image, pool and deadlines."""

    image: str = Field(description="One of `images`")
    pool: str
    service_account: str
    secret: str = Field("", description="A Secret whose keys are files for the stage, and count as variables where they have a variable's name")
    nodes: int = Field(1, ge=1, description="More than one: an Indexed Job of so many pods, for train.backend ddp, zero2, zero3 or fsdp2")
    deferrable: bool = Field(False, description="Wait in the triggerer and hold no worker: for hours of work; it costs a few seconds at the end")
    schedule_seconds: int = Field(600, ge=1, description="How long a node is waited for; the autoscaler needs minutes")
    startup_seconds: int = Field(600, ge=1, description="How long, on a node, the image and the volumes are waited for")
    grace_seconds: int = Field(60, ge=1, description="From SIGTERM to SIGKILL: time for a checkpoint")


class Pods(Strict):
    """The whole file."""

    namespace: str
    labels: dict[str, str] = Field({}, description="On every pod: who owns it and who pays")
    annotations: dict[str, str] = {}
    environment: dict[str, str] = Field({}, description="For every stage, beside and instead of what Airflow passes on, e.g. AWS_ENDPOINT_URL")
    database_secret: str = Field(description="A Secret with the key `url`")
    store_secret: str = Field("", description="A Secret with the key `credentials`, a file as AWS's; empty where service accounts have roles")
    pull_secret: str = ""
    headless_service: str = Field("flywheel-train", description="By which the pods of an Indexed Job find each other")
    images: dict[str, str] = Field(description="By digest wherever it matters: a tag may be another image tomorrow")
    pinned: bool = Field(False, description="Refuse images that are not named by digest")
    pools: dict[str, NodePool]
    stages: dict[str, StagePod]

    @model_validator(mode="after")
    def _names_exist(self) -> Pods:
        for name, image in self.images.items():
            if self.pinned and "@sha256:" not in image:
                raise ValueError(f"images.{name}: {image} is a tag, and pinned is set. Name it as REPOSITORY@sha256:…; `make push` prints that")
        for name, stage in self.stages.items():
            for kind, value, known in (("image", stage.image, self.images), ("pool", stage.pool, self.pools)):
                if value not in known:
                    raise ValueError(f"stages.{name}.{kind}: there is no {value}. Use one of {', '.join(known)}")
            if stage.nodes > 1 and name != "train":
                raise ValueError(f"stages.{name}.nodes: only train can be shared among nodes. Set it to 1")
        return self


@lru_cache(maxsize=1)
def pods() -> Pods:
    """The file, validated once a process. Raises ValueError naming file, key and mend."""
    path = Path(settings().pods)
    try:
        return Pods.model_validate(yaml.safe_load(path.read_text()))
    except (OSError, yaml.YAMLError) as error:
        raise ValueError(f"{path}: {error}. Set FLYWHEEL_PODS to a file like config/pods.yaml") from error
