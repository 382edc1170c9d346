"""Who calls: API keys and JWTs. Without a valid one nothing but health answers, and each path wants its scope.

A key for a file of keys (docs/serving.md):  python -m serving.auth NAME generate feedback

Keys are kept as their SHA-256 and compared in constant time; they are random, so that no salt is needed. JWTs come from an OIDC issuer
that the settings name: its discovery document and its keys are read over HTTP and kept.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import secrets
import sys
import time
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import httpx
import yaml
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from starlette.requests import Request

from flywheel.errors import ContractError, TransientError
from flywheel.labelling.project import HOOK
from serving.settings import serving

SCOPES = ("generate", "feedback", "review", "metrics", "admin")
Scope = Literal["generate", "feedback", "review", "metrics", "admin"]
OPEN = frozenset({"/healthz", "/readyz", HOOK})  # the webhook has a secret of its own
ANY = ("/docs", "/redoc", "/openapi.json")  # whoever may do anything may read how
BY_PATH: tuple[tuple[str, Scope], ...] = (
    ("/v1/feedback", "feedback"), ("/v1/stats", "feedback"), ("/v1/review", "review"), ("/v1/quality", "feedback"), ("/v1/policy", "generate"), ("/metrics", "metrics"), ("/v1/generate", "generate"),
    ("/v1/chat/completions", "generate"), ("/v1/completions", "generate"), ("/v1/embeddings", "generate"), ("/v1/models", "generate"),
)  # fmt: skip
ALGORITHMS = ["RS256", "RS384", "RS512", "PS256", "ES256", "ES384", "EdDSA"]  # of key pairs only: neither `none` nor a shared secret


class Denied(ContractError):
    """`status` 401: no valid credential; 403: a valid one without the scope."""

    def __init__(self, what: str, status: int, mend: str) -> None:
        self.status = status
        super().__init__(what, where="authorization", mend=mend)


class Key(BaseModel):
    """An entry of the file of keys."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(min_length=1, max_length=64)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    scopes: frozenset[Scope]
    tier: str = "standard"
    tenants: frozenset[str] = frozenset()  # whose documents retrieval may show
    expires: AwareDatetime | None = None


class Principal(BaseModel):
    """Who calls, and what they may."""

    model_config = ConfigDict(frozen=True)

    name: str
    scopes: frozenset[str]
    tier: str = "standard"
    tenants: frozenset[str] = frozenset()
    person: str = ""  # whose token it is; a key's holder speaks for many


ANYBODY = Principal(name="anonymous", scopes=frozenset(SCOPES))


def speaker(request: Request, said: str) -> str:
    """Who gives feedback, decides or accepts: the person whose token came with the request, whatever the request says; with a key whom it names."""
    caller: Principal = getattr(request.state, "caller", ANYBODY)
    return caller.person or said


def scope_of(path: str) -> str:
    """What a path wants: a scope, "" for any valid credential, "open" for none. A path that nobody thought of is the admins'."""
    if path in OPEN:
        return "open"
    if path.startswith(ANY):
        return ""
    return next((scope for prefix, scope in BY_PATH if path == prefix or path.startswith(f"{prefix}/")), "admin")


async def authorise(path: str, authorization: str) -> Principal:
    """Who sends this `Authorization` header, when they may call this path. Raises Denied, or TransientError when the issuer is away."""
    wanted = scope_of(path)
    if wanted == "open" or serving().auth == "off":
        return ANYBODY
    scheme, _, credential = authorization.partition(" ")
    if scheme.lower() != "bearer" or not credential:
        raise Denied("no credential came with the request", 401, "Send `Authorization: Bearer KEY`.")
    caller = _by_key(credential) or await _by_token(credential)
    if wanted and not caller.scopes & {wanted, "admin"}:
        raise Denied(f"{caller.name} lacks the scope `{wanted}`", 403, "Ask whoever gave you the credential.")
    return caller


def _by_key(credential: str) -> Principal | None:
    given = hashlib.sha256(credential.encode()).hexdigest()
    found = None
    for key in keys():
        if hmac.compare_digest(given, key.sha256):
            found = key
    if found is None:
        return None
    if found.expires and found.expires <= datetime.now(UTC):
        raise Denied(f"the key {found.name} expired on {found.expires:%Y-%m-%d}", 401, "Ask for a new one.")
    return Principal(name=found.name, scopes=found.scopes, tier=found.tier, tenants=found.tenants)


def keys() -> tuple[Key, ...]:
    """The keys of the settings' file and text. The file is read again when it changes. Raises ContractError for one that cannot be read."""
    path = serving().keys_file
    try:
        return (_file(path, path.stat().st_mtime_ns) if path else ()) + _parsed(serving().keys)
    except OSError as error:
        raise ContractError(f"it cannot be read ({error.strerror})", where=str(path), mend="Name a YAML file of keys.") from error


@lru_cache(maxsize=1)
def _file(path: Path, _changed: int) -> tuple[Key, ...]:
    return _parsed(path.read_text())


@lru_cache(maxsize=4)
def _parsed(text: str) -> tuple[Key, ...]:
    try:
        return tuple(TypeAdapter(list[Key]).validate_python(yaml.safe_load(text) or []))
    except (yaml.YAMLError, ValidationError) as error:
        raise ContractError(
            "it is no list of API keys", where="FLYWHEEL_SERVING_KEYS_FILE", mend="See docs/serving.md; `python -m serving.auth` makes an entry."
        ) from error


class Issuer:
    """An OIDC issuer's keys: found through its discovery document, kept for an hour, asked for again when a token names a new one."""

    def __init__(self, url: str) -> None:
        from jwt import PyJWKClient

        self.url = url.rstrip("/")
        try:
            found = httpx.get(f"{self.url}/.well-known/openid-configuration", timeout=5).raise_for_status().json()
            if str(found["issuer"]).rstrip("/") != self.url:
                raise ContractError(f"its discovery document is {found['issuer']}'s", where=url, mend="Set FLYWHEEL_SERVING_OIDC_ISSUER to that.")
            self.keys = PyJWKClient(found["jwks_uri"], lifespan=3600, timeout=5)
        except (httpx.HTTPError, ValueError, KeyError) as error:
            raise TransientError(f"the issuer does not answer ({type(error).__name__})", where=url, mend="Try again in a moment.") from error

    def claims(self, token: str) -> dict[str, Any]:
        """What a token says, when its issuer said it, to us, and it is valid now. Raises Denied."""
        import jwt

        try:
            key = self.keys.get_signing_key_from_jwt(token)
            return dict(
                jwt.decode(
                    token, key, algorithms=ALGORITHMS, audience=serving().oidc_audience, issuer=[self.url, f"{self.url}/"],
                    leeway=serving().clock_skew_seconds, options={"require": ["exp", "iss", "aud", "sub"]},
                )
            )  # fmt: skip
        except jwt.PyJWKClientConnectionError as error:
            raise TransientError("the issuer's keys cannot be read", where=self.url, mend="Try again in a moment.") from error
        except jwt.PyJWTError as error:
            raise Denied(f"the token is not valid ({error})", 401, "Get a new one from the issuer.") from error


@lru_cache(maxsize=2)
def _issuer(url: str, _minute: int) -> Issuer:
    return Issuer(url)


async def _by_token(credential: str) -> Principal:
    if not serving().oidc_issuer or credential.count(".") != 2:
        raise Denied("the credential is not known", 401, "Send a valid API key or token.")
    if not serving().oidc_audience:
        raise TransientError("no audience is set for tokens", where="FLYWHEEL_SERVING_OIDC_AUDIENCE", mend="Whoever runs this service must set it.")
    claims = await asyncio.to_thread(lambda: _issuer(serving().oidc_issuer, int(time.time() // 3600)).claims(credential))
    granted = claims.get(serving().oidc_scope_claim) or ()
    scopes, tenants = (found.split() if isinstance(found, str) else [str(one) for one in found] for found in (granted, claims.get("tenants") or ()))
    return Principal(
        name=f"{claims['sub']}"[:64], scopes=frozenset(scopes) & frozenset(SCOPES), tier=str(claims.get("tier", "standard")), tenants=frozenset(tenants),
        person=str(claims.get("email") or claims["sub"])[:128],  # as the page calls them
    )  # fmt: skip


def new_key(name: str, scopes: list[str]) -> tuple[str, dict[str, Any]]:
    """A random key, and its entry for the file of keys. Raises ContractError for a scope that is none."""
    unknown = set(scopes) - set(SCOPES)
    if unknown or not scopes:
        raise ContractError(f"{', '.join(sorted(unknown)) or 'nothing'} is no scope", where="scopes", mend=f"Choose from {', '.join(SCOPES)}.")
    key = f"fw-{secrets.token_urlsafe(32)}"
    return key, {"name": name, "sha256": hashlib.sha256(key.encode()).hexdigest(), "scopes": sorted(scopes)}


def main(arguments: list[str]) -> int:
    """Print a new key, which is nowhere else, and its entry."""
    try:
        key, entry = new_key(arguments[0] if arguments else "", arguments[1:])
        Key.model_validate(entry)
    except (ContractError, ValidationError) as error:
        print(f"python -m serving.auth NAME SCOPE ...: {getattr(error, 'sentence', 'name it with 1 to 64 characters')}", file=sys.stderr)
        return 2
    print(f"# Give this to {entry['name']}; it is kept nowhere: {key}")
    print(yaml.safe_dump([entry], sort_keys=False), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
