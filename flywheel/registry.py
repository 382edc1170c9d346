"""The model registry: MLflow model versions, and the aliases that are the desired state serving reconciles to.

`champion` is what is served, `previous` what was served before; a tag of the registered model names the challenger of a rollout and its
share. Everything the flywheel needs to know of a version is one JSON tag; its adapter, model card and checksums are the artifacts of
its MLflow run.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import httpx
from pydantic import BaseModel, Field, ValidationError

from flywheel import ledger, signing
from flywheel.errors import ContractError, DataError, TransientError
from flywheel.manifest import Artifact, Cost
from flywheel.settings import settings

if TYPE_CHECKING:
    from mlflow import MlflowClient

TAG = "flywheel"
TRAFFIC_TAG = "flywheel.traffic"
RETIRED_TAG = "flywheel.retired"
Verdict = Literal["promote", "hold", "refuse"]


class Version(BaseModel):
    """One registered model version."""

    version: int = 0
    base: str
    prompt: Literal["auto", "chat", "instruction"]
    adapter: Artifact
    package: Artifact = Field(description="What serving loads: adapter, model card, checksums, each file by its SHA-256")
    dataset: str = Field(description="SHA-256 of the training data set")
    trained_ids: Artifact = Field(description="Ids of every example this version or one of its ancestors learned from")
    suites: Artifact = Field(description="The frozen suites the next challenger is judged on: held-out, and what must never come back")
    reference: int | None = Field(description="The champion it was compared with; None: the base model")
    parent: int | None = Field(description="The version whose adapter training went on from")
    verdict: Verdict
    reason: str
    metrics: dict[str, float] = Field({}, description="This version's figures on the held-out suite")
    cost: Cost = Field(Cost(), description="Of the whole turn")
    code_digest: str = Field("", description="Of the code that trained it")
    image: str = Field("", description="Digest of the image it was trained in")
    run_dir: str
    created: str = ""
    signature: str = Field("", description="Ed25519, base64, over `signed_text`; empty when no key was set")
    retired: str = Field("", description="Why it is never served again; a tag of its own")

    def signed_text(self) -> str:
        """What a signature vouches for: everything but the number, which MLflow gives later, what came afterwards, and the signature itself."""
        return self.model_dump_json(exclude={"version", "signature", "retired"})


class Desired(BaseModel):
    """What servers should do. A challenger is served only while its rollout renews the lease: one that dies returns by itself."""

    champion: int | None = Field(None, description="None: the base model")
    challenger: int | None = None
    stage: Literal["none", "shadow", "canary"] = "none"
    share: float = Field(0.0, ge=0, le=1, description="Of people, whose answers come from the challenger")
    lease_until: float = Field(0.0, description="Unix seconds")

    @property
    def live(self) -> bool:
        """Whether the challenger may be used now."""
        return self.stage != "none" and self.challenger is not None and time.time() < self.lease_until

    @property
    def challenger_name(self) -> str:
        """The challenger as servers name it; empty without one."""
        return str(self.challenger) if self.challenger else ""


def use_mlflow() -> None:
    """Point the MLflow client at our server; one that is down is found out in seconds, not minutes."""
    patience = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_TIMEOUT": "30"}
    silence = {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_LOGGING_LEVEL": "ERROR",
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    }
    for name, value in {**patience, **silence}.items():
        os.environ.setdefault(name, value)
    os.environ["MLFLOW_TRACKING_URI"] = settings().mlflow_url


def client() -> MlflowClient:
    """MLflow's client on the settings' server."""
    use_mlflow()
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=settings().mlflow_url)


def unreachable(error: Exception) -> TransientError:
    """The sentence for a registry that does not answer."""
    return TransientError(
        f"the model registry does not answer ({type(error).__name__})", where=settings().mlflow_url, mend="Look at `make status` and `make logs S=mlflow`."
    )


@cache
def _http() -> httpx.Client:
    # one for all: serving asks every two seconds, and a new client costs 50 ms; an idle connection is let go before MLflow's server closes it, after 5 s
    return httpx.Client(timeout=30, limits=httpx.Limits(keepalive_expiry=3))


def _read(path: str, **params: str | int) -> dict[str, Any]:
    """A GET of MLflow's REST API; empty when there is no such thing.

    The client does the same, but importing it costs seconds, in every stage that asks who the champion is.
    """
    try:
        reply = _http().get(f"{settings().mlflow_url}/api/2.0/mlflow/{path}", params=params)
        if reply.status_code == 404:
            return {}
        return dict(reply.raise_for_status().json())
    except httpx.HTTPError as error:
        raise unreachable(error) from error


def versions() -> list[Version]:
    """Every registered version, newest first. Raises TransientError when the registry cannot be reached."""
    found: list[dict[str, Any]] = []
    token = ""
    while True:
        page = _read("model-versions/search", filter=f"name='{settings().model_name}'", max_results=1000, page_token=token)
        found += page.get("model_versions", [])
        token = page.get("next_page_token", "")
        if not token:
            break
    tagged = {int(v["version"]): {tag["key"]: tag["value"] for tag in v.get("tags", [])} for v in found}
    return [_parsed(number, tags[TAG], tags.get(RETIRED_TAG, "")) for number, tags in sorted(tagged.items(), reverse=True) if TAG in tags]


def _parsed(number: int, value: str, retired: str) -> Version:
    try:
        return Version.model_validate_json(value).model_copy(update={"version": number, "retired": retired})
    except ValidationError as error:
        field = ".".join(map(str, error.errors()[0]["loc"]))
        raise ContractError(
            f"its tag `{TAG}` cannot be read (`{field}`): another version of the code wrote it, or it was changed by hand",
            where=f"{settings().model_name} version {number}",
            mend="Delete that version in MLflow, or restore its tag.",
        ) from error


def get(version: int) -> Version:
    """One version. Raises ContractError when there is none."""
    found = next((v for v in versions() if v.version == version), None)
    if found is None:
        raise ContractError("there is no such version", where=f"{settings().model_name} version {version}", mend="`flywheel versions` lists them.")
    return found


def alias(name: str) -> int | None:
    """The version number an alias points at, or None."""
    page = _read("registered-models/get", name=settings().model_name)
    aliases = page.get("registered_model", {}).get("aliases", [])
    return next((int(a["version"]) for a in aliases if a["alias"] == name), None)


def desired() -> Desired:
    """The champion, and the rollout that goes on, read in one call. A tag that cannot be read is no rollout."""
    page = _read("registered-models/get", name=settings().model_name).get("registered_model", {})
    number = next((int(a["version"]) for a in page.get("aliases", []) if a["alias"] == "champion"), None)
    tag = next((t["value"] for t in page.get("tags", []) if t["key"] == TRAFFIC_TAG), "{}")
    try:
        return Desired.model_validate_json(tag).model_copy(update={"champion": number})
    except ValidationError:
        return Desired(champion=number)


def set_traffic(traffic: Desired) -> None:
    """Let servers try a challenger; the champion is what its alias says. Raises TransientError when the registry is away."""
    from mlflow.exceptions import MlflowException

    try:
        client().set_registered_model_tag(settings().model_name, TRAFFIC_TAG, traffic.model_dump_json(exclude={"champion"}))
    except MlflowException as error:
        raise unreachable(error) from error


def renew(trial: Desired, seconds: float) -> None:
    """Let servers go on trying a challenger for so long. Raises DataError when its rollout was ended: what a person ended is not taken up again."""
    with ledger.registry_lock():
        _refuse_ended(trial.challenger)
        set_traffic(trial.model_copy(update={"lease_until": time.time() + seconds}))


def _refuse_ended(challenger: int | None) -> None:
    if desired().challenger != challenger:
        raise DataError(
            "somebody ended the rollout", where=f"version {challenger}", mend="`flywheel events` says who, and why; to try it after all, turn once more."
        )


def champion() -> Version | None:
    """The version that should be served, or None before the first promotion."""
    number = alias("champion")
    return get(number) if number else None


def parent_for(dataset: str) -> Version | None:
    """What training on a data set starts from: the champion.

    A data set that was learned before starts from where it did then: to learn it twice would be no improvement, and the
    same work gives the same result.
    """
    before = [v for v in versions() if v.dataset == dataset]
    if before:
        return get(before[-1].parent) if before[-1].parent else None
    return champion()


def reference_for(adapter: str) -> Version | None:
    """What a challenger is compared with: the champion, or what it was compared with when it was registered before."""
    before = next((v for v in versions() if v.adapter.sha256 == adapter), None)
    if before:
        return get(before.reference) if before.reference else None
    return champion()


def fetch(version: Version, cache: Path) -> Path:
    """A local folder with the version's adapter, every file of its package verified, and its signature when one is asked for.

    Raises ContractError naming the file that differs, is missing, or belongs to another version.
    """
    from mlflow.artifacts import download_artifacts
    from mlflow.exceptions import MlflowException

    signing.check(version.signed_text(), version.signature, f"{settings().model_name} version {version.version}")
    folder = cache / "packages" / version.package.sha256[:16]
    if not folder.is_dir():
        use_mlflow()
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
        try:
            download_artifacts(artifact_uri=f"models:/{settings().model_name}/{version.version}", dst_path=str(partial))
            (partial / "registered_model_meta").unlink(missing_ok=True)  # MLflow's own note about where it came from
            version.package.verify(partial)
            with suppress(OSError):  # another process was quicker
                os.replace(partial, folder)
        except MlflowException as error:
            raise unreachable(error) from error
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    version.package.verify(folder)
    return folder / "adapter"


def promote(version: int, actor: str, reason: str, *, tried: bool = False, **detail: Any) -> None:
    """Make a version the champion, remember the one before, and say so in the audit log; a rollout that goes on is ended by it.

    May be killed anywhere and called again: the aliases always name a version, and the event is written once.
    Raises ContractError for a version that is none or that was retired; DataError when it was `tried` and somebody ended that.
    """
    mlflow, name = client(), settings().model_name
    with ledger.registry_lock() as db:
        if retired := get(version).retired:
            raise ContractError(f"it was retired ({retired})", where=f"{name} version {version}", mend="Choose one that was not: `flywheel versions`.")
        if tried:
            _refuse_ended(version)
        told = next((event["detail"]["version"] for event in ledger.list_events(1, "promote")), None)
        before = alias("champion")
        if before != version:
            if before:
                mlflow.set_registered_model_alias(name, "previous", str(before))
            mlflow.set_registered_model_alias(name, "champion", str(version))
        set_traffic(Desired())  # after the alias: who has answers of a challenger that wins keeps them
        if before == told == version:
            return
        if before == version:
            before = told  # an attempt before this one died between the alias and its event
        ledger.record_event(actor, "promote", within=db, version=version, before=before, reason=reason, **detail)


def rollback(actor: str, reason: str, version: int | None = None) -> int:
    """End the rollout that goes on, else return to an earlier version, by default the one served before; returns the number that is served.

    Raises ContractError when there is nothing to return to, or the version never was good enough.
    """
    with ledger.registry_lock() as db:
        going = desired()
        if going.live:
            set_traffic(Desired())
            detail = {"version": going.challenger, "stage": going.stage, "share": going.share, "reason": f"rollback: {reason}"}
            ledger.record_event(actor, "return", within=db, **detail)
    if going.live and version is None and going.champion:
        return going.champion
    target = version or alias("previous")
    if target is None:
        raise ContractError(
            "no version was served before this one", where=settings().model_name, mend="Name one: `flywheel rollback --to N`; `flywheel versions` lists them."
        )
    promote(by_hand(target).version, actor, f"rollback: {reason}")
    return target


def by_hand(number: int) -> Version:
    """A version that a person may make the champion. Raises ContractError for one that the gate refused."""
    chosen = get(number)
    if chosen.verdict == "refuse":
        raise ContractError(f"version {number} was refused by the gate ({chosen.reason})", where=settings().model_name, mend="Choose one that was promoted.")
    return chosen


def retire(version: int, actor: str, reason: str) -> None:
    """Never serve a version again; housekeeping may then delete its files, unless a living version descends from it.

    Raises ContractError for the champion and for one that is being rolled out. Twice is as good as once.
    """
    chosen, mlflow, name = get(version), client(), settings().model_name
    with ledger.registry_lock() as db:
        now = desired()
        if version == now.champion or (now.live and version == now.challenger):
            mend = "Make another the champion first: `flywheel rollback --to N`."
            raise ContractError("this version is served", where=f"{name} version {version}", mend=mend)
        if chosen.retired:
            return
        mlflow.set_model_version_tag(name, str(version), RETIRED_TAG, reason)
        if alias("previous") == version:
            mlflow.delete_registered_model_alias(name, "previous")
        ledger.record_event(actor, "retire", within=db, version=version, reason=reason)
