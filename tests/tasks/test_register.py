"""Registering on a real MLflow: once, whatever is killed and however many try at the same time."""

import json
import os
import signal
import subprocess
import sys
import tarfile
import time

import pytest

from flywheel import datasets, export, ledger, manifest, registry
from flywheel.errors import ContractError
from flywheel.settings import REPOSITORY, settings
from tasks import register, rollout


def start(home, run):
    command = [sys.executable, "-m", "tasks.register", "--config", f"{home}/c.yaml", "--run-dir", run]
    return subprocess.Popen(command, cwd=REPOSITORY, env=dict(os.environ), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@pytest.fixture
def environment(wheel, home, monkeypatch):
    """The settings of this test for subprocesses, too."""
    monkeypatch.setenv("FLYWHEEL_HOME", str(home))
    return wheel


def aliases():
    return {name: registry.alias(name) for name in ("champion", "challenger", "previous")}


def test_two_at_once_and_kill_9_in_between_make_one_version_each(environment, home):
    runs = [environment("one"), environment("two", "train.epochs=1")]
    for delay in (1.0, 2.0, 2.5, 3.0):  # whatever it is doing then
        killed = start(home, runs[0])
        time.sleep(delay)
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        assert len(registry.versions()) <= 1
    together = [start(home, run) for run in (*runs, *runs)]
    outputs = [process.communicate()[0] for process in together]
    assert [process.returncode for process in together] == [0] * 4, outputs
    found = registry.versions()
    assert sorted(v.run_dir for v in found) == ["runs/t/one", "runs/t/two"]
    assert {manifest.read_for(run, "register").metrics["version"] for run in runs} == {1, 2}
    assert aliases()["challenger"] == 2 and aliases()["champion"] is None
    for version in found:
        assert (registry.fetch(version, home / "fetched") / "adapter_model.safetensors").exists()


def test_what_is_registered_says_where_it_comes_from(environment, home):
    run = environment("one")
    environment("one", stages=(register, rollout))
    version = registry.champion()
    assert version.metrics["perplexity"] > 1 and version.cost.cpu_seconds > 0 and version.code_digest
    assert set(version.package.files) >= {"README.md", "SHA256SUMS", "adapter/adapter_config.json", "adapter/adapter_model.safetensors"}
    card = (registry.fetch(version, home / "fetched").parent / "README.md").read_text()
    for text in ("CC0-1.0", "made here", "95 % interval", "slice.heldout/even", "CPU-seconds", version.dataset[:16]):
        assert text in card
    client = registry.client()
    registered = client.get_model_version(settings().model_name, str(version.version))
    logged = client.get_run(registered.run_id)
    (used,) = (given.dataset for given in logged.inputs.dataset_inputs)
    known = datasets.get(used.digest)
    assert used.digest == known.id[:36] and json.loads(used.source)["uri"].endswith(f"datasets/{known.id}.json")
    assert logged.data.tags["flywheel.dataset"] == known.id == manifest.read_for(run, "dataset").metrics["version"]
    assert {f.path for f in client.list_artifacts(registered.run_id, "dataset")} == {"dataset/README.md", "dataset/report.html"}
    assert {f.path for f in client.list_artifacts(registered.run_id, "report")} >= {"report/report.html", "report/answers.csv", "report/verdict.json"}
    assert manifest.read_for(run, "register").metrics["page"].endswith("report/report.html")
    assert ledger.list_events(1)[0]["detail"]["version"] == version.version


def test_exports_are_what_others_load(environment, home, tmp_path, tiny_model):
    import boto3
    from botocore.validate import ParamValidator
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    environment("one")
    environment("one", stages=(register,))
    version = registry.get(1)
    hub = export.export(version, "hub", tmp_path / "hub")
    assert (hub / "README.md").read_text().startswith("---\nbase_model:")
    PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(str(tiny_model)), str(hub))
    bag = export.export(version, "sagemaker", tmp_path / "sagemaker")
    with tarfile.open(bag / "model.tar.gz") as archive:
        assert {"README.md", "adapter_config.json", "adapter_model.safetensors"} <= set(archive.getnames())
    request = json.loads((bag / "model_package.json").read_text())
    shape = boto3.client("sagemaker", region_name="eu-west-1").meta.service_model.operation_model("CreateModelPackage").input_shape
    assert not ParamValidator().validate(request, shape).has_errors() and request["ModelApprovalStatus"] == "Approved"
    with pytest.raises(ContractError, match="not empty"):
        export.export(version, "hub", tmp_path / "hub")


def test_a_promotion_that_needs_a_person_waits_for_one(environment):
    run = environment("one", "gate.approval=always")
    environment("one", "gate.approval=always", stages=(register, rollout))
    assert manifest.read_for(run, "rollout").outcome == "skipped" and registry.champion() is None
    environment("one", "gate.approval=always", "rollout.approved_by=Ada", stages=(rollout,))
    assert registry.champion().version == 1 and ledger.list_events(1)[0]["detail"]["approved_by"] == "Ada"


def test_a_changed_package_is_not_registered_as_something_else(environment, home):
    run = environment("one")
    adapter = manifest.read_for(run, "train").outputs["adapter"].fetch(home)
    with open(adapter / "adapter_model.safetensors", "r+b") as file:
        file.seek(200)
        file.write(b"\xff")
    with pytest.raises(ContractError, match=r"adapter_model\.safetensors"):
        environment("one", stages=(register,))
    assert not registry.versions() and set(aliases().values()) == {None}
