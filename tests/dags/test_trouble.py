"""Every failure of a pod, and of the API server, is a sentence."""

import pytest
from urllib3.exceptions import MaxRetryError

from tests.dags.server import api_error, deleted, event, remote


@pytest.mark.parametrize(
    ("pod", "events", "said"),
    [
        (remote(ended={"exit_code": 137, "reason": "OOMKilled"}), [], "OOMKilled): its limit is 64Mi. Raise limits.memory of pool gpu"),
        (remote(reason="Evicted", message="The node was low on resource: ephemeral-storage"), [], "ended the pod (Evicted): The node was low"),
        (remote("Pending", waiting={"reason": "ErrImagePull", "message": "not found"}), [], "image registry/x:1 cannot be pulled (ErrImagePull): not found."),
        (remote("Pending", waiting={"reason": "CreateContainerConfigError", "message": 'secret "a" not found'}), [], 'secret "a" not found'),
        (remote("Pending", condition="0/2 nodes are available: 2 Insufficient nvidia.com/gpu."), [], "2 Insufficient nvidia.com/gpu. It asked pool gpu for 64Mi memory, 1 nvidia.com/gpu, on nodes with flywheel/pool=gpu."),
        (remote("Pending"), [event("FailedMount", 'references non-existent secret key: secret "flywheel-database" not found')], 'secret "flywheel-database" not found. Does the Secret exist in namespace flywheel'),
        (remote(ended={"exit_code": 75, "reason": "Error"}), [], ""),
        (deleted(ended={"exit_code": 143, "reason": "Error"}), [], ""),
        (deleted(), [], "its pod was deleted while it ran"),
    ],
)  # fmt: skip
def test_trouble_with_a_pod_is_a_sentence(pod, events, said):
    from dags.launch import trouble

    found = trouble.of_pod(pod, events, "gpu")
    assert said in found and bool(said) == bool(found)


@pytest.mark.parametrize(
    ("error", "said", "retried"),
    [
        (MaxRetryError(None, "https://10.0.0.1", "refused"), "API server does not answer", True),
        (api_error(403, 'pods is forbidden: User "system:serviceaccount:a:b" cannot create resource "pods"'), "no right to that in namespace n (403)", False),
        (api_error(403, "pods is forbidden: exceeded quota: gpus"), "quota is used up", True),
        (api_error(404, 'namespaces "n" not found'), 'refused (404): namespaces "n" not found.', False),
        (api_error(500, "etcd"), "refused (500): etcd.", True),
    ],
)
def test_trouble_with_the_api_server_is_a_sentence(error, said, retried):
    from dags.launch import trouble

    sentence, again = trouble.of_api(error, "n")
    assert said in sentence and again is retried
