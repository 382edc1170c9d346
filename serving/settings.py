"""How the service behaves: read from the environment, prefix FLYWHEEL_SERVING_. What each means for users: docs/serving.md."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from flywheel.features import VIEWS


class Serving(BaseSettings):
    """Every field is an environment variable FLYWHEEL_SERVING_<NAME>."""

    model_config = SettingsConfigDict(env_prefix="FLYWHEEL_SERVING_", extra="ignore")

    engine: Literal["embedded", "upstream"] = Field("embedded", description="embedded: OpenVINO GenAI in this process; upstream: an OpenAI-compatible server")
    threads: int = Field(0, ge=0, description="Threads of the embedded engine; 0: one a core")
    max_batch: int = Field(16, ge=1, description="Requests that are decoded at the same time; more wait")
    kv_tokens: int = Field(32_768, ge=512, description="Tokens that one version's key-value cache holds")
    max_versions: int = Field(4, ge=2, description="Versions loaded side by side; beyond it the one used longest ago leaves")
    upstream_url: str = Field("http://127.0.0.1:8000/v1", description="The upstream's address, with its /v1")
    upstream_model: str = Field("", description="What the upstream calls the base model. Default: model.base")
    upstream_key_file: Path | None = Field(None, description="File with the upstream's API key")
    upstream_prompt: Literal["tokens", "messages"] = Field("tokens", description="tokens: we render the prompt, as training did; messages: the upstream does")

    max_queue: int = Field(256, ge=1, description="Requests that may wait; more are refused")
    queue_seconds: float = Field(10, gt=0, description="Longest wait that is to be expected; who would wait longer is refused")
    request_seconds: float = Field(120, gt=0, description="Longest time for a whole answer, the wait included")
    body_seconds: float = Field(10, gt=0, description="Longest time for a request's head, and again for its body, to arrive")
    max_body_bytes: int = Field(2_000_000, ge=1024, description="Largest request")
    max_answer_tokens: int = Field(1024, ge=1, description="Most tokens of one answer")
    drain_seconds: float = Field(5, ge=0, description="After SIGTERM: so long requests are still taken while /readyz says no")
    feedback_steps: bool = Field(True, description="Seal feedback and tell MLflow beside the answers; false where serving.worker does it for all replicas")
    cache_answers: int = Field(1000, ge=0, description="Greedy answers kept for the same question to the same version; 0: none")

    auth: Literal["required", "off"] = Field("required", description="off: anybody may do everything; only for a service bound to this machine")
    keys_file: Path | None = Field(None, description="YAML file of API keys: docs/serving.md")
    keys: str = Field("", description="The same list as text, beside the file or instead of it")
    oidc_issuer: str = Field("", description="Issuer of JWTs; its discovery document names the keys. Default: no JWT is taken")
    oidc_audience: str = Field("", description="What a token's `aud` must name")
    oidc_scope_claim: str = Field("scope", description="The claim that lists scopes, as a string with blanks or a list")
    clock_skew_seconds: float = Field(30, ge=0, description="How far an issuer's clock may be off")
    rate_limits: dict[str, str] = Field(
        {"standard": "600/minute"}, description='JSON: the limit of each tier, e.g. {"standard": "600/minute", "gold": "100/second"}'
    )
    quotas: dict[str, str] = Field({}, description='JSON: tokens a tier may use, e.g. {"standard": "1000000/day"}')
    limits_url: str = Field("memory://", description="Where counts are kept: memory://, or redis://host:6379 for several replicas")
    tier_versions: dict[str, str] = Field(
        {}, description='JSON: who answers a tier of the profiles: champion, challenger or a version, e.g. {"gold": "champion"}'
    )
    prompt_features: list[str] = Field([], description='JSON: features that the model is told, e.g. ["tier", "locale"]')
    cors_origins: list[str] = Field([], description="JSON: origins whose pages may call this service. Default: none")
    log_prompts: Literal["never", "masked"] = Field("never", description="Whether log lines hold prompts and answers, with personal data masked")
    embedding_model: str = Field("all-minilm-l6-v2", description="Model of /v1/embeddings: the built-in one, or a folder")

    @field_validator("prompt_features")
    @classmethod
    def _features(cls, names: list[str]) -> list[str]:
        there = {name for _, features in VIEWS.values() for name in features}
        if unknown := set(names) - there:
            raise ValueError(f"there is no feature {', '.join(sorted(unknown))}; there are {', '.join(sorted(there))}")
        return names


@lru_cache(maxsize=1)
def serving() -> Serving:
    """The process's settings, read once. Tests call `serving.cache_clear()` after changing the environment."""
    return Serving()
