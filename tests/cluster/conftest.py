"""One cluster for all, a namespace for each test that asks; `make test-cluster` says how to name one."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest

from tests.cluster.cluster import Cluster


@pytest.fixture(scope="session")
def cluster() -> Cluster:
    found = Cluster.at_hand()
    if found is None:
        pytest.exit("no cluster: set KUBECONFIG to one, or K8S_CLUSTER to a program that starts one (tests/cluster/cluster.py)", returncode=2)
    return found


@pytest.fixture
def namespace(cluster: Cluster) -> Iterator[str]:
    with cluster.namespace(f"test-{uuid.uuid4().hex[:8]}", {"pod-security.kubernetes.io/enforce": "restricted"}) as name:
        yield name
