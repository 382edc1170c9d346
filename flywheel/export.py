"""A registered version in the form that another registry takes: the Hugging Face Hub's layout, or SageMaker's."""

from __future__ import annotations

import json
import shutil
import tarfile
from pathlib import Path
from typing import Literal

from flywheel import registry
from flywheel.errors import ContractError
from flywheel.registry import Version
from flywheel.settings import settings

Target = Literal["hub", "sagemaker"]
APPROVAL = {"promote": "Approved", "hold": "PendingManualApproval", "refuse": "Rejected"}


def export(version: Version, target: Target, folder: Path) -> Path:
    """Write a verified version into a new folder, and return it. Raises ContractError when something is there already.

    hub: the folder that `huggingface-cli upload` takes. sagemaker: `model.tar.gz`, and `model_package.json`, which holds the request
    for `aws sagemaker create-model-package` but for the image and the address that the archive is uploaded to.
    """
    if folder.exists() and any(folder.iterdir()):
        raise ContractError("the folder is not empty", where=str(folder), mend="Name a new one.")
    adapter = registry.fetch(version, settings().home / "cache")
    folder.mkdir(parents=True, exist_ok=True)
    model = folder if target == "hub" else folder / "model"
    shutil.copytree(adapter, model, dirs_exist_ok=True)
    shutil.copyfile(adapter.parent / "README.md", model / "README.md")
    if target == "sagemaker":
        with tarfile.open(folder / "model.tar.gz", "w:gz") as archive:
            for file in sorted(model.iterdir()):
                archive.add(file, file.name)
        shutil.rmtree(model)
        (folder / "model_package.json").write_text(json.dumps(model_package(version), indent=1))
    return folder


def model_package(version: Version) -> dict[str, object]:
    """SageMaker's CreateModelPackage request, with the verdict as approval status."""
    facts = {"version": str(version.version), "dataset": version.dataset, "adapter_sha256": version.adapter.sha256, "run": version.run_dir}
    return {
        "ModelPackageGroupName": settings().model_name,
        "ModelPackageDescription": version.reason[:1024],
        "ModelApprovalStatus": APPROVAL[version.verdict],
        "InferenceSpecification": {
            "Containers": [{"Image": "<the serving image's address>", "ModelDataUrl": "<s3:// address of model.tar.gz>"}],
            "SupportedContentTypes": ["application/json"],
            "SupportedResponseMIMETypes": ["application/json"],
        },
        "CustomerMetadataProperties": {**facts, **{name: f"{value:.6g}" for name, value in version.metrics.items()}},
    }
